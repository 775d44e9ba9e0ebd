"""Who may report, whom a report leaves out, and how long and where its rows count."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
import pytest

from srwan.gossip.reporter import RANKS, epoch_of, rank
from srwan.gossip.row import SignedRow
from srwan.identity import Identity
from srwan.ledger_client.memory import MemoryStore
from srwan.ledger_client.read import EPOCHS_AHEAD_MAX, GroupContents, read_matrix
from srwan.ledger_client.record import Record
from srwan.ledger_client.report import NS_PER_S, GroupReport
from srwan.types import GeoAsn, NodeId

Make = Callable[..., Record]
MakeReport = Callable[..., GroupReport]
MANY = tuple(sorted((Identity(bytes([number]) * 32) for number in range(1, 13)), key=lambda identity: identity.node_id))


async def read(records: Sequence[Record], wall_ns: int) -> GroupContents:
    store = MemoryStore()
    outcome = await store.put_many(records, wall_ns)
    assert () == outcome.refused
    (group,) = (await read_matrix(store, wall_ns=wall_ns)).groups
    return group


def report_by(template: GroupReport, reporter: NodeId, epoch: int) -> Record:
    """What `reporter` says of a roster of twelve of which it holds no row."""
    roster = tuple(identity.node_id for identity in MANY)
    report = attrs.evolve(template, reporter=reporter, roster=roster, epoch=epoch, rows=())
    return Record.of_report(report, next(identity for identity in MANY if identity.node_id == reporter))


@pytest.fixture
def order(make_group_report: MakeReport) -> tuple[NodeId, ...]:
    """The twelve by rank in epoch 5."""
    return rank([identity.node_id for identity in MANY], make_group_report().group, 5)


async def test_only_the_first_of_the_order_may_report(make_group_report: MakeReport, order: tuple[NodeId, ...], wall_ns: int) -> None:
    for place, reporter in enumerate(order):
        group = await read([report_by(make_group_report(), reporter, 5)], wall_ns)
        assert (place, place < RANKS) == (group.reporter_rank, group.is_entitled)


async def test_a_report_of_one_who_may_not_gives_way(make_group_report: MakeReport, order: tuple[NodeId, ...], wall_ns: int) -> None:
    roster = [identity.node_id for identity in MANY]
    good = report_by(make_group_report(), order[0], 5)
    epoch = next(epoch for epoch in range(6, 100) if rank(roster, good.group, epoch).index(order[-1]) >= RANKS)
    intruder = report_by(make_group_report(), order[-1], epoch)
    for records in ([good, intruder], [intruder, good]):
        assert order[0] == (await read(records, wall_ns)).report.reporter
    late_ns = good.expires_ns
    store = MemoryStore()
    await store.put_many([good, intruder], wall_ns)
    (group,) = (await read_matrix(store, wall_ns=late_ns)).groups
    assert (order[-1], False, True) == (group.report.reporter, group.is_entitled, group.is_expired)


async def test_an_epoch_in_the_future_is_refused(make_report: Make, wall_ns: int) -> None:
    limit = epoch_of(wall_ns) + EPOCHS_AHEAD_MAX
    store = MemoryStore()
    await store.put_many([make_report(epoch=limit + 1)], wall_ns)
    contents = await read_matrix(store, wall_ns=wall_ns)
    assert ({"epoch": 1}, ()) == (contents.refused, contents.groups)
    assert limit == (await read([make_report(epoch=limit)], wall_ns)).report.epoch


async def test_members_whom_a_shortened_roster_leaves_out_are_told(
    make_group_report: MakeReport, make_node: Make, identities: tuple[Identity, ...], wall_ns: int
) -> None:
    shortened = attrs.evolve(make_group_report(), roster=(identities[0].node_id,))
    nodes = [make_node(index) for index in range(4)]
    group = await read([*nodes, Record.of_report(shortened, identities[0])], wall_ns)

    assert (0, tuple(identity.node_id for identity in identities[1:])) == (group.reporter_rank, group.unlisted)


async def test_whoever_files_a_row_again_cannot_make_it_count_longer_nor_elsewhere(
    make_signed_row: Callable[..., SignedRow], make_report: Make, make_node: Make, make_row: Make, wall_ns: int
) -> None:
    row = attrs.evolve(make_row(1, expires_s=80_000), country="US", asn=7)
    report = make_report(make_signed_row(1), lifetime_s=300)
    group = await read([make_node(1), row, report], wall_ns)
    (published,) = group.rows.values()

    assert (report.expires_ns, GeoAsn("DE", asn=3320)) == (published.expires_ns, published.place)
    unknown = await read([row, report], wall_ns)
    assert [GeoAsn()] == [each.place for each in unknown.rows.values()]
    brief = await read([make_row(1, expires_s=100), report], wall_ns)
    assert [wall_ns + 100 * NS_PER_S] == [each.expires_ns for each in brief.rows.values()]
