"""The service: following a store, answering others within their budgets, asking peers, and going on after failures."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from srwan.clock import Clock
from srwan.errors import LimitExceeded, OverlayError, StoreUnavailable
from srwan.identity import Identity
from srwan.ledger_client.exchange.answers import WorkBudgets, WorkRates, answers_to, fitting
from srwan.ledger_client.exchange.digest_tree import DigestTree
from srwan.ledger_client.exchange.messages import ANSWER_BYTES, PROTOCOL, Compare, Fetch, Push, decode_taken, encode_ranges
from srwan.ledger_client.exchange.open_store import open_store_at
from srwan.ledger_client.exchange.service import ExchangeConfig, ExchangeService, PeerSynced, RecordsReceived, SyncFailed
from srwan.ledger_client.memory import MemoryStore
from srwan.ledger_client.record import Kind, Record, Version
from srwan.ledger_client.report import NS_PER_S
from srwan.ledger_client.sqlite import SqliteStore
from srwan.ledger_client.store import EquivocationProof, Query, RecordStore
from srwan.overlay.libp2p_host import open_libp2p
from srwan.overlay.memory import MemoryNetwork
from srwan.types import NodeId

Make = Callable[..., Record]


# --- what the exchange needs of every store ---


@pytest.fixture(params=["memory", "sqlite", pytest.param("etcd", marks=pytest.mark.needs("etcd"))])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RecordStore]:
    where = str(tmp_path / "ditex.db")
    if request.param == "etcd":
        where = f"etcd:{request.getfixturevalue('etcd_cluster').endpoints[0]}?prefix={tmp_path.name}/"
    if request.param == "memory":
        yield MemoryStore()
    else:
        async with open_store_at(where) as opened:
            yield opened


async def test_many_keys_are_looked_up_at_once_in_their_order(store: RecordStore, make_offer: Make, wall_ns: int) -> None:
    first, newer, other = make_offer(0, 1), make_offer(0, 1, sequence=1), make_offer(1, 1)
    await store.put_many([first, newer, other], wall_ns)
    found = await store.get_many([other.key, make_offer(2).key, first.key])

    assert [other, None, newer] == [None if each is None else each.record for each in found]
    assert [] == await store.get_many([])
    with pytest.raises(ValueError, match="1001"):
        await store.get_many([first.key] * 1001)


async def test_a_proof_of_another_store_is_verified_and_kept_once(store: RecordStore, make_offer: Make, wall_ns: int) -> None:
    first, second = make_offer(content=1), make_offer(content=2)
    await store.put(make_offer(sequence=1), wall_ns)  # newer than the contradiction, and none of it is held
    proof = EquivocationProof.of(first, second)

    for false in (attrs.evolve(proof, other=first), attrs.evolve(proof, other=make_offer(sequence=2))):
        with pytest.raises(Exception, match="no proof") as refused:
            await store.put_proof(false)
        assert "unproven" == refused.value.reason  # type: ignore[attr-defined]
    assert [] == await store.equivocations()
    assert await store.put_proof(EquivocationProof(first, second))
    assert not await store.put_proof(EquivocationProof(second, first))
    assert [proof] == await store.equivocations()


async def test_the_digest_is_the_same_over_every_kind_of_store(serving: Any, tmp_path: Path, make_offer: Make, wall_ns: int) -> None:
    records = [make_offer(subject, topic, sequence) for sequence in (0, 1) for subject in range(4) for topic in range(20)]
    stores = [MemoryStore(), await SqliteStore.open(tmp_path / "ditex.db")]
    async with serving(stores=stores) as servers:
        await servers[0].store.put_many(records, wall_ns)
        await servers[1].store.put_many(records[::-1], wall_ns)
        await eventually(lambda: 1 == len({server.exchange.root for server in servers}))
        assert [80, 80] == [server.exchange.status()["records"] for server in servers]
        outcome = await servers[0].exchange.sync(servers[1].address)
        assert 1 == outcome.questions


@pytest.mark.needs("etcd")
async def test_a_cluster_and_a_file_exchange_all_they_hold(
    serving: Any, tmp_path: Path, make_offer: Make, wall_ns: int, etcd_cluster: Any
) -> None:
    """The cluster's store held some before; more come by another process, that is, another store object."""
    where = f"etcd:{etcd_cluster.endpoints[0]}?prefix={tmp_path.name}/"
    with trio.fail_after(60):
        async with open_store_at(where) as writer, open_store_at(where) as cluster, open_store_at(str(tmp_path / "ditex.db")) as file:
            await writer.put_many([make_offer(0, topic) for topic in range(150)], wall_ns)
            await writer.put_many([make_offer(1, 1, content=1), make_offer(1, 1, content=2)], wall_ns)
            await file.put_many([make_offer(2, topic) for topic in range(70)], wall_ns)
            async with serving(stores=[cluster, file]) as (here, there):
                first = await here.exchange.sync(there.address)
                assert (70, 151) == (first.stored, first.taken - 1)
                assert here.exchange.root == there.exchange.root
                await writer.put_many([make_offer(0, 3, sequence=1), make_offer(3, 3)], wall_ns)
                await eventually(lambda: here.exchange.root != there.exchange.root and 222 == here.exchange.status()["records"])
                second = await there.exchange.sync(here.address)
                assert 2 == second.stored
                assert here.exchange.root == there.exchange.root
                assert 1 == len(await there.store.equivocations())


async def test_what_a_store_held_before_is_followed_too(serving: Any, tmp_path: Path, make_offer: Make, wall_ns: int) -> None:
    async with await SqliteStore.open(tmp_path / "ditex.db") as store:
        await store.put_many([make_offer(0, 1), make_offer(0, 1, content=5), make_offer(0, 2)], wall_ns)
    stores = [await SqliteStore.open(tmp_path / "ditex.db"), MemoryStore()]
    async with serving(stores=stores) as (here, there):
        await there.exchange.sync(here.address)

        assert 2 == len(await there.store.range(Query()))
        assert 1 == len(await there.store.equivocations())
        assert here.exchange.root == there.exchange.root


# --- answering ---


async def test_garbage_is_refused_counted_and_changes_nothing(serving: Any, make_offer: Make) -> None:
    async with serving() as (here, there):
        for body in (b"", b"\xff" * 100, bytes(1 << 20)):
            with pytest.raises(OverlayError):
                await here.channel.request(there.address, PROTOCOL, body, timeout_s=5)

        assert 3 == sum(there.exchange.drops.values())
        assert (await here.exchange.sync(there.address)).is_complete


async def test_pushed_records_are_verified_one_by_one(serving: Any, make_offer: Make) -> None:
    bad = attrs.evolve(make_offer(0, 1), version=Version(7, 7))
    async with serving() as (here, there):
        events: list[object] = []
        there.exchange.on_event(events.append)
        body = Push((make_offer(0, 0), bad, make_offer(0, 2))).encode()
        taken = decode_taken(await here.channel.request(there.address, PROTOCOL, body, timeout_s=5), 3)

        assert (2, 0, ((1, "filed-wrong"),)) == (taken.stored, taken.unchanged, taken.refused)
        assert [RecordsReceived(here.address.node_id, 2)] == events
        assert {"filed-wrong": 1} == dict(there.exchange.drops)


async def test_strangers_share_one_budget_and_a_known_peer_has_its_own() -> None:
    budgets = WorkBudgets([NodeId(bytes(32))], WorkRates(peer_us=1000, strangers_us=1000, burst_s=1.0), 0.0)
    strangers = [NodeId(bytes([number]) * 32) for number in range(1, 5)]
    question = Fetch((bytes(16),) * 30)  # 2,000 us: the budget goes below zero by one question

    assert 0.0 == budgets.charge(strangers[0], question, 0.0)
    assert 1.0 == budgets.charge(strangers[1], question, 0.0)
    assert 0.0 == budgets.charge(NodeId(bytes(32)), question, 0.0)
    assert 1.0 == budgets.charge(strangers[2], question, 0.9)
    assert 0.0 == budgets.charge(strangers[3], question, 1.1)
    assert 600.0 == WorkBudgets([], WorkRates(strangers_us=0), 0.0).charge(strangers[0], question, 0.0)


async def test_who_has_used_up_its_budget_is_told_so_and_costs_no_more(serving: Any, make_offer: Make, wall_ns: int) -> None:
    rates = WorkRates(strangers_us=1, burst_s=100.0)
    async with serving(config=ExchangeConfig(rates=rates, is_pruning=False)) as (here, there):
        assert (await here.exchange.sync(there.address)).is_complete
        await here.store.put(make_offer(), wall_ns)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(LimitExceeded) as refused:
            await here.exchange.sync(there.address)
        assert "busy" == refused.value.reason
        assert {"busy": 1} == dict(there.exchange.drops)
        assert 0 == await there.store.revision()


def test_long_answers_stop_early_and_never_empty(make_offer: Make) -> None:
    tree = DigestTree()
    record = make_offer()
    for number in range(3000):
        tree.put(attrs.evolve(record, topic=number.to_bytes(4, "big")))
    prefixes = [f"{number:02x}" for number in range(256)] * 2
    question = Compare(tuple((prefix, bytes(16)) for prefix in prefixes))
    claim = attrs.evolve(record, kind=Kind.CLAIM, envelope=bytes(33_000))

    assert len(encode_ranges(answers_to(tree, question))) < ANSWER_BYTES + 4096
    assert 15 == len(fitting([claim] * 40))
    assert 1 == len(fitting([attrs.evolve(claim, envelope=bytes(600_000))] * 2))
    assert 40 == len(fitting([None] * 40))


async def test_before_the_store_is_read_and_after_the_end_everybody_is_told_to_wait(make_offer: Make) -> None:
    network, clock = MemoryNetwork(), Clock()
    channels = [network.control_channel(Identity(bytes([number]) * 32).node_id) for number in (1, 2)]
    ExchangeService(MemoryStore(), channels[0], clock, random.Random(1))
    asking = ExchangeService(MemoryStore(), channels[1], clock, random.Random(1))
    async with trio.open_nursery() as nursery:
        await nursery.start(asking.run)
        with pytest.raises(LimitExceeded) as refused:
            await asking.sync(channels[0].local_address)
        nursery.cancel_scope.cancel()
    assert "busy" == refused.value.reason


# --- asking ---


class FailingStore(MemoryStore):
    """Fails while told to."""

    is_down = False

    async def put_many(self, records: Any, wall_ns: int) -> Any:
        if self.is_down:
            raise StoreUnavailable("here", "the disk is full", "free some space")
        return await super().put_many(records, wall_ns)


async def test_peers_are_asked_again_and_again_and_failures_make_it_rarer(
    autojump_clock: trio.testing.MockClock, make_offer: Make, wall_ns: int
) -> None:
    network, clock = MemoryNetwork(), Clock(read_realtime_ns=lambda: wall_ns)
    here, there = (network.control_channel(Identity(bytes([number]) * 32).node_id) for number in (1, 2))
    failing, healthy = FailingStore(), MemoryStore()
    answering = ExchangeService(healthy, there, clock, random.Random(1), config=ExchangeConfig(is_pruning=False))
    asking = ExchangeService(failing, here, clock, random.Random(2), peers=[there.local_address])
    events: list[tuple[float, object]] = []
    asking.on_event(lambda event: events.append((trio.current_time(), event)))
    await healthy.put(make_offer(0, 1), wall_ns)
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        await nursery.start(asking.run)
        await trio.sleep(100)  # nobody answers yet: about 10, 20, 40 s
        failures = [event for _, event in events]
        assert all(isinstance(event, SyncFailed) and "busy" == event.reason for event in failures)
        assert 3 <= len(failures) <= 5
        await nursery.start(answering.run)
        await trio.sleep(100)
        first = next((at, event) for at, event in events if isinstance(event, PeerSynced))
        assert 1 == first[1].outcome.stored
        assert 100 < first[0] - start < 200
        failing.is_down = True
        await healthy.put(make_offer(0, 2), wall_ns)
        await trio.sleep(15)
        assert isinstance(events[-1][1], SyncFailed)
        assert "store" == events[-1][1].reason
        failing.is_down = False
        await trio.sleep(60)
        assert 2 == len(await failing.range(Query()))
        assert "complete" == asking.status()["peers"][0]["last"]
        nursery.cancel_scope.cancel()


async def test_what_expires_leaves_digest_and_store(autojump_clock: trio.testing.MockClock, make_offer: Make, wall_ns: int) -> None:
    network = MemoryNetwork()
    start_ns = round(trio.current_time() * NS_PER_S)
    clock = Clock(read_realtime_ns=lambda: wall_ns + round(trio.current_time() * NS_PER_S) - start_ns)
    store = MemoryStore()
    exchange = ExchangeService(store, network.control_channel(Identity(bytes(32)).node_id), clock, random.Random(1))
    await store.put_many([make_offer(0, 1, lifetime_s=50), make_offer(0, 2)], wall_ns)
    async with trio.open_nursery() as nursery:
        await nursery.start(exchange.run)
        await exchange.wait_filled()
        before = exchange.root
        await trio.sleep(200)
        assert before != exchange.root
        assert 1 == exchange.status()["records"]
        assert 1 == len(await store.range(Query()))
        nursery.cancel_scope.cancel()


# --- over libp2p ---


async def eventually(is_so: Callable[[], bool], timeout_s: float = 30.0) -> None:
    with trio.fail_after(timeout_s):
        while not is_so():  # noqa: ASYNC110 -- a store's worker thread and libp2p give no event to wait for
            await trio.sleep(0.02)


@asynccontextmanager
async def open_host(seed: int) -> AsyncIterator[Any]:
    async with open_libp2p(
        Identity(bytes([seed]) * 32),
        ("127.0.0.1", 0),
        is_valid_value=lambda _key, _value: True,
        best_value=lambda _key, _values: 0,
    ) as host:
        yield host


async def test_records_put_at_one_of_three_servers_arrive_at_the_others_over_libp2p(tmp_path: Path, make_offer: Make, wall_ns: int) -> None:
    """A chain: the first and the last know the middle one only."""
    clock = Clock(read_realtime_ns=lambda: wall_ns)
    config = ExchangeConfig(period_s=0.2)
    async with AsyncExitStack() as stack:
        stack.enter_context(trio.fail_after(60))
        hosts = [await stack.enter_async_context(open_host(seed)) for seed in (31, 32, 33)]
        stores = [await SqliteStore.open(tmp_path / f"{number}.db") for number in range(3)]
        middle = hosts[1].local_address
        services = [
            ExchangeService(store, host, clock, random.Random(1), peers=[middle], config=config)
            for store, host in zip(stores, hosts, strict=True)
        ]
        async with trio.open_nursery() as nursery:
            for service in services:
                await nursery.start(service.run)
            await stores[0].put_many([make_offer(0, topic) for topic in range(300)], wall_ns)
            await stores[2].put(make_offer(1, 1), wall_ns)
            await eventually(lambda: {301} == {service.status()["records"] for service in services})
            await stores[0].put(make_offer(0, 7, sequence=1), wall_ns)
            await eventually(lambda: 1 == len({service.root for service in services}) and services[2]._revision >= 302)
            held = await stores[2].get(make_offer(0, 7).key)
            assert held is not None
            assert Version(1, 1) == held.record.version
            nursery.cancel_scope.cancel()
        for store in stores:
            await store.aclose()
