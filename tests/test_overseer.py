"""Nodes look after their reporters: an omission leads to a complaint, a contradiction to one piece of evidence, honesty to nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import attrs
import pytest
import trio
from trio.testing import MockClock

from srwan.errors import Equivocation
from srwan.gossip.report import Report
from srwan.identity import Identity
from srwan.ledger_client.evidence import proof_in
from srwan.ledger_client.memory import MemoryStore
from srwan.ledger_client.oversight import ComplaintFiled, EvidenceFiled
from srwan.ledger_client.read import read_matrix
from srwan.ledger_client.record import Key, Kind, Version, report_of
from srwan.ledger_client.report import NS_PER_S
from srwan.ledger_client.statement import MARKET_GROUP, Statement
from srwan.ledger_client.store import Query
from srwan.node import Node
from srwan.overlay.memory import MemoryNetwork
from srwan.overseer import LOOK_S
from srwan.publisher import Publisher
from srwan.swarm.clocks import TrioClock
from srwan.swarm.in_memory import open_memory_node
from srwan.types import UdpAddress

REPORTERS = (Identity(bytes([1]) * 32), Identity(bytes([2]) * 32))


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    """The one store of all nodes here."""
    shared = MemoryStore()

    @asynccontextmanager
    async def open_shared(_where: str | None) -> AsyncIterator[MemoryStore]:
        await trio.lowlevel.checkpoint()
        yield shared

    monkeypatch.setattr("srwan.node.open_store", open_shared)
    return shared


@asynccontextmanager
async def open_group(names: str, clock: TrioClock, network: MemoryNetwork | None = None) -> AsyncIterator[list[Node]]:
    network = network or MemoryNetwork()
    async with AsyncExitStack() as stack:
        nodes: list[Node] = []
        for index, name in enumerate(names):
            identity = REPORTERS[index] if index < len(REPORTERS) else None
            ip = f"10.0.0.{index + 1}"
            nodes.append(await stack.enter_async_context(open_memory_node(network, ip, name=name, identity=identity, clock=clock)))
        yield nodes


def leaving_out(node: Node, identity: Identity, store: MemoryStore, clock: TrioClock, victim: Node) -> Callable[[Report], Awaitable[bool]]:
    publisher = Publisher(store, identity, node.overlay.view, clock)

    async def publish(report: Report) -> bool:
        return await publisher.publish(attrs.evolve(report, rows=tuple(row for row in report.rows if row.node_id != victim.id)))

    return publish


async def next_complaint(node: Node) -> ComplaintFiled:
    async for event in node.events():
        if isinstance(event, ComplaintFiled):
            return event
    raise AssertionError


async def test_a_member_that_reporters_leave_out_complains_and_readers_see_it(autojump_clock: MockClock, store: MemoryStore) -> None:
    clock = TrioClock()
    async with open_group("abc", clock) as (a, b, c):
        for node, identity in zip((a, b), REPORTERS, strict=True):
            node.gossip.on_report(leaving_out(node, identity, store, clock, c))
        with trio.fail_after(3600):
            filed = await next_complaint(c)
        (complaint,) = await store.range(Query(kind=Kind.COMPLAINT))
        assert (c.id, filed.epoch) == (complaint.record.subject, complaint.record.version.era)
        about = await store.get(Key(Kind.REPORT, complaint.record.group, filed.reporter), complaint.record.version)
        assert about is not None
    copy = MemoryStore()  # where that report is the newest, as it was when it was read
    await copy.put_many([about.record, complaint.record], clock.wall_ns())
    (group,) = (await read_matrix(copy, wall_ns=clock.wall_ns())).groups
    assert [c.id] == [omission.complainant for omission in group.omissions]
    assert (True, filed.reporter) == (group.omissions[0].is_in_roster, group.omissions[0].reporter)


async def test_a_complaint_takes_two_reports_and_three_looks(
    autojump_clock: MockClock, store: MemoryStore, record_property: Callable[[str, object], None]
) -> None:
    """What docs/attacks.md says of how long readers are misled who heed complaints."""
    clock = TrioClock()
    omitted_at: list[float] = []
    async with open_group("abc", clock) as (a, b, c):
        await trio.sleep(200)  # nothing counts in the epoch in which a member came, nor in the next one
        for node, identity in zip((a, b), REPORTERS, strict=True):
            leave_out = leaving_out(node, identity, store, clock, c)

            async def publish(report: Report, leave_out: Callable[[Report], Awaitable[bool]] = leave_out) -> bool:
                omitted_at.append(trio.current_time())
                return await leave_out(report)

            node.gossip.on_report(publish)
        with trio.fail_after(3600):
            await next_complaint(c)
        waited_s = trio.current_time() - omitted_at[0]
    record_property("complaint_after_s", round(waited_s, 1))
    assert len(omitted_at) >= 2
    assert waited_s >= 2 * LOOK_S[0]


def deaf(source: UdpAddress, destination: UdpAddress, _data: bytes) -> float | None:
    """The first node hears nothing of the third, but for 20 s in two minutes; too few to bury it."""
    is_deaf = (source[0], destination[0]) == ("10.0.0.3", "10.0.0.1") and trio.current_time() % 120 < 100
    return None if is_deaf else 0.01


async def test_honest_reporters_are_not_complained_of(autojump_clock: MockClock, store: MemoryStore) -> None:
    clock = TrioClock()
    async with open_group("abc", clock):
        await trio.sleep(400)
        contents = await read_matrix(store, wall_ns=clock.wall_ns())
    assert 3 == len(contents.groups[0].report.rows)
    assert [] == await store.range(Query(kind=Kind.COMPLAINT)) + await store.range(Query(kind=Kind.EVIDENCE))


async def test_honest_reporters_that_did_not_hear_a_member_are_not_complained_of(autojump_clock: MockClock, store: MemoryStore) -> None:
    clock, network = TrioClock(), MemoryNetwork()
    async with open_group("abcd", clock, network) as (_, _, c, _):
        await trio.sleep(150)
        network.link = deaf
        omissions = set[tuple[bytes, int, int]]()
        while len(omissions) < 6 and trio.current_time() < 7200:
            await trio.sleep(60)
            for newest in await store.range(Query(kind=Kind.REPORT)):
                told = [report_of(each.record) for each in await store.history(newest.record.key)]
                omissions |= {(each.reporter, each.epoch, each.sequence) for each in told if c.id in each.roster and len(each.rows) < 4}
        await trio.sleep(60)
    assert len(omissions) >= 6
    assert [] == await store.range(Query(kind=Kind.COMPLAINT))


async def test_two_nodes_on_one_store_publish_a_contradiction_once(autojump_clock: MockClock, store: MemoryStore) -> None:
    clock = TrioClock()
    culprit = Identity(bytes([9]) * 32)
    times = (clock.wall_ns(), clock.wall_ns() + 3600 * NS_PER_S)
    said = [Statement(Kind.OFFER, MARKET_GROUP, culprit.node_id, b"", Version(1, 1), *times, content) for content in (b"\x01", b"\x02")]
    async with open_group("ab", clock) as nodes:
        streams = [node.events() for node in nodes]
        await store.put(said[0].record(culprit), clock.wall_ns())
        with pytest.raises(Equivocation):
            await store.put(said[1].record(culprit), clock.wall_ns())
        await trio.sleep(600)
        (evidence,) = await store.range(Query(kind=Kind.EVIDENCE))
        told = [event for stream in streams for event in stream._events if isinstance(event, EvidenceFiled)]
    assert culprit.node_id == proof_in(evidence.record).key.subject
    assert [EvidenceFiled(culprit.node_id, Kind.OFFER)] == told
