"""Attacks on what is published: a row that another member never signed, a reporter that changes a row or leaves one out.

Rows are not paid for, so what they could bring is traffic: a consumer that reads the DITEX takes the relay with the least sum of latencies,
and pays it by the GB. The attacker's income under this rule, with the attack less without it, is her profit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import attrs
import numpy as np
import pytest

from srwan.gossip.report import Report
from srwan.gossip.reporter import epoch_of
from srwan.gossip.row import Row, SignedRow, encode_owl, open_row, seal_row
from srwan.identity import Identity
from srwan.ledger_client.complaint import complaint_of, omission_of
from srwan.ledger_client.memory import MemoryStore
from srwan.ledger_client.publish import Publication, records_of_report
from srwan.ledger_client.read import read_matrix
from srwan.ledger_client.record import Kind, Record
from srwan.ledger_client.report import GroupReport, RowReference, row_digest
from srwan.ledger_client.store import Query
from srwan.testing.market import NS_PER_S, START_S, router
from srwan.types import NodeId

PRICE = 3_000_000
EPOCH = epoch_of(START_S * NS_PER_S)
WALL_NS = START_S * NS_PER_S
GROUP = bytes(range(32))
ROSTER_DIGEST = b"roster-1"
NAMES = ("consumer", "relay-1", "mallory-1", "egress")
MEMBERS = sorted((router(name) for name in NAMES), key=lambda identity: identity.node_id)
ROSTER = tuple(identity.node_id for identity in MEMBERS)
OWL_MS = {
    ("consumer", "relay-1"): 20.0,
    ("relay-1", "egress"): 20.0,
    ("consumer", "mallory-1"): 60.0,
    ("mallory-1", "egress"): 60.0,
    ("consumer", "egress"): 100.0,
}
"""What is so; all else is 80 ms."""
LIE_MS = {("mallory-1", "egress"): 1.0, ("relay-1", "egress"): 500.0}
"""What would bring her the traffic."""

Enter = Callable[[str, str, int], None]


def place_of(name: str) -> int:
    return ROSTER.index(router(name).node_id)


def row_of(receiver: str, *, seq: int = 1, lies: dict[tuple[str, str], float] | None = None, signer: Identity | None = None) -> SignedRow:
    """What a member measured, or what somebody would have it say; signed by itself, or by somebody."""
    told = OWL_MS | (lies or {})
    by_place = {place_of(name): told.get((name, receiver), 80.0) for name in NAMES}
    base_us, owl = encode_owl(np.array([by_place[place] for place in range(len(NAMES))]))
    zeros = np.zeros(len(NAMES), np.uint8)
    identity = signer or router(receiver)
    row = Row(
        node_id=identity.node_id,
        boot=7,
        seq=seq,
        stamp_ns=WALL_NS,
        roster_digest=ROSTER_DIGEST,
        clock_epoch=0,
        health=0,
        octets_in=0,
        octets_out=0,
        octets_relayed=0,
        base_us=base_us,
        count=len(NAMES),
        is_described=False,
        entries=Row.pack_entries(None, owl, zeros, zeros),
    )
    return seal_row(row, identity, GROUP)


def publication_of(rows: list[SignedRow], *, reporter: str = "mallory-1", epoch: int = EPOCH) -> Publication:
    """What a reporter makes of these rows by the rules."""
    report = Report(GROUP, epoch, 0, router(reporter).node_id, ROSTER, ROSTER_DIGEST, tuple(rows))
    return records_of_report(report, router(reporter), certificates={}, wall_ns=WALL_NS)


async def income_microtoken(store: MemoryStore, distrusted: Collection[NodeId] = ()) -> int:
    """What mallory's relay earns with the next GB of a consumer that reads this store, but for reports of whom it distrusts."""
    contents = await read_matrix(store, wall_ns=WALL_NS, is_trusted=lambda report: report.reporter not in distrusted)
    (group,) = contents.groups
    owl = group.matrix().owl_ms
    consumer, egress = place_of("consumer"), place_of("egress")
    sums = {name: owl[consumer, place_of(name)] + owl[place_of(name), egress] for name in ("relay-1", "mallory-1")}
    known = {name: total for name, total in sums.items() if not np.isnan(total)}
    best = min(known, key=lambda name: known[name], default=None)
    return PRICE if best == "mallory-1" else 0


async def honest_store() -> tuple[MemoryStore, int]:
    """A store with an honest report, and mallory's income by it."""
    store = MemoryStore()
    await store.put_many(publication_of([row_of(name) for name in NAMES], reporter="relay-1").records, WALL_NS)
    before = await income_microtoken(store)
    assert 0 == before
    return store, before


async def test_the_measure_sees_a_lie_that_its_member_signed() -> None:
    store, _ = await honest_store()
    rows = [row_of(name, seq=2, lies=LIE_MS) for name in NAMES]
    await store.put_many(publication_of(rows, epoch=EPOCH + 1).records, WALL_NS)
    assert PRICE == await income_microtoken(store)  # signed by all four themselves: that is what witnesses are for


# ---- forged row


async def test_a_row_that_its_member_did_not_sign_gets_nowhere(enter: Enter) -> None:
    store, before = await honest_store()
    forged = row_of("egress", seq=9, lies=LIE_MS, signer=router("mallory-1"))
    for content in (forged.content, bytes(64) + forged.content[64:], row_of("egress").content[:64] + forged.content[64:]):
        record = Record.of_row(router("egress").node_id, content, group=GROUP, expires_ns=WALL_NS + 900 * NS_PER_S)
        outcome = await store.put_many([record], WALL_NS)
        assert ["signature"] == [refusal.error.reason for refusal in outcome.refused]
    enter("forged row", "put into the store", await income_microtoken(store) - before)

    publication = publication_of([row_of("consumer", seq=2), open_row(router("egress").node_id, forged.content)], epoch=EPOCH + 1)
    assert [("row", "signature")] == [(left.what, left.reason) for left in publication.left_out]
    await store.put_many(publication.records, WALL_NS)
    enter("forged row", "through an honest reporter", await income_microtoken(store) - before)


async def test_a_row_of_another_group_or_an_older_one_gets_nowhere(enter: Enter) -> None:
    store, before = await honest_store()
    elsewhere = row_of("egress", seq=9, lies=LIE_MS)
    record = Record.of_row(elsewhere.node_id, elsewhere.content, group=bytes(32), expires_ns=WALL_NS + 900 * NS_PER_S)
    outcome = await store.put_many([record, attrs.evolve(record, group=GROUP)], WALL_NS)
    assert 2 == len(outcome.refused)
    old = row_of("egress", seq=0, lies=LIE_MS)
    outcome = await store.put_many([Record.of_row(old.node_id, old.content, group=GROUP, expires_ns=WALL_NS + NS_PER_S)], WALL_NS)
    assert ["stale"] == [refusal.error.reason for refusal in outcome.refused]
    enter("forged row", "replayed from another group or time", await income_microtoken(store) - before)


# ---- editing reporter


async def test_a_reporter_that_edits_a_row_publishes_a_hole(enter: Enter) -> None:
    """She reports, so she makes the report herself: with the digest of the row as she edited it, and the edited row beside it."""
    store, before = await honest_store()
    edited = {name: row_of(name, seq=2, lies=LIE_MS, signer=router("mallory-1")) for name in NAMES}
    honest = publication_of([row_of(name, seq=2) for name in NAMES], epoch=EPOCH + 1)
    references = tuple(
        RowReference(reference.node_id, reference.boot, reference.seq, row_digest(edited["egress"].content))
        if reference.node_id == router("egress").node_id
        else reference
        for reference in honest.report.rows
    )
    report: GroupReport = attrs.evolve(honest.report, rows=references)
    rows = [record for record in honest.records[:-1] if record.subject != router("egress").node_id]
    lie = Record.of_row(router("egress").node_id, edited["egress"].content, group=GROUP, expires_ns=report.expires_ns)
    outcome = await store.put_many([*rows, lie, Record.of_report(report, router("mallory-1"))], WALL_NS)
    assert ["signature"] == [refusal.error.reason for refusal in outcome.refused]
    enter("editing reporter", "row edited, digest to match", await income_microtoken(store) - before)

    true_row = honest.records[[record.subject for record in honest.records].index(router("egress").node_id)]
    await store.put_many([true_row], WALL_NS)
    contents = await read_matrix(store, wall_ns=WALL_NS)
    assert (router("egress").node_id,) == contents.groups[0].missing  # the true row is not the one she named: she stands exposed
    enter("editing reporter", "with the true row beside it", await income_microtoken(store) - before)


# ---- omitted row


async def test_a_row_left_out_brings_nothing_to_readers_of_complaints_and_nothing_in_the_group(enter: Enter) -> None:
    """She leaves out the row of the relay she competes with: to who reads only her report, the better path is unknown.

    What is entered is her profit once a complaint is filed. How long that takes is measured by tests/test_overseer.py
    (`test_a_complaint_takes_two_reports_and_three_looks`); until then, and with who heeds no complaints, the omission works.
    """
    store, before = await honest_store()
    lie = publication_of([row_of(name, seq=2) for name in NAMES if name != "relay-1"], epoch=EPOCH + 1)
    await store.put_many(lie.records, WALL_NS)
    assert PRICE == await income_microtoken(store)  # it works on who asks nobody else, and on all readers before the complaint

    own = row_of("relay-1", seq=2)  # the omitted member publishes its row itself, and says who left it out
    row = Record.of_row(own.node_id, own.content, group=GROUP, expires_ns=lie.report.expires_ns)
    complaint = complaint_of(lie.records[-1], row, wall_ns=WALL_NS).record(router("relay-1"))
    outcome = await store.put_many([row, complaint], WALL_NS)
    assert () == outcome.refused
    accused = {omission_of(stored.record).reporter for stored in await store.range(Query(kind=Kind.COMPLAINT))}
    assert {router("mallory-1").node_id} == accused
    enter("omitted row", "readers who heed complaints, from when one is filed", await income_microtoken(store, distrusted=accused) - before)

    held = {name: row_of(name, seq=2) for name in NAMES}  # members hold all rows from each other, whoever reports
    told = Report(GROUP, EPOCH + 1, 0, router("relay-1").node_id, ROSTER, ROSTER_DIGEST, tuple(held.values()))
    fresh = MemoryStore()
    await fresh.put_many(records_of_report(told, router("relay-1"), certificates={}, wall_ns=WALL_NS).records, WALL_NS)
    enter("omitted row", "members of the group", await income_microtoken(fresh) - before)


async def test_a_complaint_about_nothing_accuses_nobody(enter: Enter) -> None:
    """The other way round: she accuses the honest reporter, to be rid of its report."""
    store, before = await honest_store()
    (report,) = [stored.record for stored in await store.range(Query(kind=Kind.REPORT))]
    mine = row_of("mallory-1")
    row = Record.of_row(mine.node_id, mine.content, group=GROUP, expires_ns=WALL_NS + 900 * NS_PER_S)
    with pytest.raises(ValueError, match="no omission"):
        complaint_of(report, row, wall_ns=WALL_NS)
    enter("omitted row", "false complaint", await income_microtoken(store) - before)
