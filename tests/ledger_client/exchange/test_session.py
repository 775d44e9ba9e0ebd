"""Sessions between stores in memory: what converges, what it costs, and what a hostile peer gets out of it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from srwan.clock import Clock
from srwan.errors import DecodeError, OverlayError, RemoteProtocolError
from srwan.identity import Identity
from srwan.ledger_client.exchange.digest_tree import DigestTree, Entry, position_of
from srwan.ledger_client.exchange.messages import (
    PROTOCOL,
    Compare,
    Fetch,
    Push,
    RangeAnswer,
    decode_question,
    encode_busy,
    encode_items,
    encode_ranges,
)
from srwan.ledger_client.exchange.service import ExchangeConfig, ExchangeService
from srwan.ledger_client.exchange.session import Ask, Done, Load, Memory, SyncLimits, SyncSession
from srwan.ledger_client.memory import MemoryStore
from srwan.ledger_client.record import Record, Version
from srwan.ledger_client.report import NS_PER_S
from srwan.ledger_client.store import Query, RecordStore
from srwan.overlay.memory import MemoryNetwork
from srwan.types import NodeId
from srwan.wire import pack

Make = Callable[..., Record]
History = list[tuple[int, tuple[int, int, int, int]]]


async def held_by(store: RecordStore) -> set[tuple[Any, ...]]:
    """Newest versions, without what no signature covers; of contradicted keys without the signed bytes, for there each keeps its first."""
    contradicted = {proof.key for proof in await store.equivocations()}
    newest = [stored.record for stored in await store.range(Query())]
    return {(record.key, record.version, b"" if record.key in contradicted else record.envelope) for record in newest}


# --- what converges ---


async def test_each_side_gets_what_only_the_other_has(serving: Any, make_offer: Make, wall_ns: int) -> None:
    async with serving() as (here, there):
        await here.store.put_many([make_offer(0, topic) for topic in range(30)], wall_ns)
        await there.store.put_many([make_offer(1, topic) for topic in range(40)], wall_ns)
        await trio.testing.wait_all_tasks_blocked()
        outcome = await here.exchange.sync(there.address)

        assert (True, 40, 40, 30, 30) == (outcome.is_complete, outcome.fetched, outcome.stored, outcome.pushed, outcome.taken)
        assert await held_by(here.store) == await held_by(there.store)
        assert here.exchange.root == there.exchange.root
        again = await here.exchange.sync(there.address)
        assert (1, 1, 0, 0) == (again.questions, again.ranges, again.fetched, again.pushed)
        assert again.sent_bytes + again.received_bytes < 100


async def test_the_newer_version_wins_on_both_sides(serving: Any, make_offer: Make, wall_ns: int) -> None:
    async with serving() as (here, there):
        await here.store.put_many([make_offer(0, 1, 5), make_offer(0, 2, 1)], wall_ns)
        await there.store.put_many([make_offer(0, 1, 4), make_offer(0, 2, 3)], wall_ns)
        await trio.testing.wait_all_tasks_blocked()
        outcome = await here.exchange.sync(there.address)

        assert (1, 1) == (outcome.stored, outcome.taken)
        for server in (here, there):
            assert [5, 3] == [(await server.store.get(make_offer(0, topic).key)).record.version.sequence for topic in (1, 2)]


async def test_contradicting_records_become_a_proof_on_both_sides_and_then_rest(serving: Any, make_offer: Make, wall_ns: int) -> None:
    async with serving() as (here, there):
        await here.store.put(make_offer(content=1), wall_ns)
        await there.store.put(make_offer(content=2), wall_ns)
        await trio.testing.wait_all_tasks_blocked()
        await here.exchange.sync(there.address)

        for server in (here, there):
            (proof,) = await server.store.equivocations()
            assert proof.is_proven()
        assert here.exchange.root == there.exchange.root
        assert 1 == (await here.exchange.sync(there.address)).questions


async def test_a_proof_travels_to_those_who_saw_neither_record(serving: Any, make_offer: Make, wall_ns: int) -> None:
    async with serving(3) as (here, there, third):
        await here.store.put_many([make_offer(content=1), make_offer(content=2), make_offer(sequence=1)], wall_ns)
        await here.exchange._read_proofs()
        await trio.testing.wait_all_tasks_blocked()
        await there.exchange.sync(here.address)
        await there.exchange.sync(third.address)

        (proof,) = await third.store.equivocations()
        assert proof.is_proven()
        assert {here.exchange.root} == {there.exchange.root, third.exchange.root}


@st.composite
def histories(draw: st.DrawFn) -> History:
    """Writes: which server, and subject, topic, sequence, content of the offer. Contents differ seldom, or all would contradict."""
    write = st.tuples(st.integers(0, 7), st.integers(0, 5), st.integers(0, 4), st.sampled_from([0] * 9 + [1]))
    return draw(st.lists(st.tuples(st.integers(0, 2), write), max_size=60))


@settings(max_examples=25)
@given(histories(), histories(), st.integers(0, 2**32))
def test_after_a_partition_with_writes_everywhere_all_stores_converge(
    serving: Any, make_offer: Make, wall_ns: int, before: History, after: History, seed: int
) -> None:
    """Whoever asks whom in whatever order, with writes between the questions of a session."""

    async def scenario() -> None:
        rng = random.Random(seed)
        async with serving(3) as servers:

            async def write(history: History) -> None:
                for server, (subject, topic, sequence, content) in history:
                    record = make_offer(subject, topic, sequence, content=content)
                    await servers[server].store.put_many([record], wall_ns)

            async def sync_some() -> None:
                for _ in range(4):
                    asking, asked = rng.sample(servers, 2)
                    await asking.exchange.sync(asked.address)

            await write(before)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(write, after)
                nursery.start_soon(sync_some)
            for _ in range(2):
                for server in servers:
                    await server.exchange._read_proofs()
                await trio.testing.wait_all_tasks_blocked()
                for asking, asked in ((0, 1), (2, 0), (1, 2)):
                    await servers[asking].exchange.sync(servers[asked].address)
            held = [await held_by(server.store) for server in servers]
            assert held[0] == held[1] == held[2]
            assert 1 == len({server.exchange.root for server in servers})
            assert 1 == (await servers[0].exchange.sync(servers[2].address)).questions

    trio.run(scenario)


# --- what a hostile peer gets out of it ---


Answer = Callable[[Compare | Fetch | Push], bytes]


async def sync_with(answer: Answer, *records: Record, limits: SyncLimits | None = None, memory: Memory | None = None) -> Any:
    """A session of a store with `records` with a peer that answers as it likes; the outcome or the error, and the store."""
    network, clock = MemoryNetwork(), Clock(read_realtime_ns=lambda: WALL_NS)
    store = MemoryStore()
    await store.put_many(records, WALL_NS)
    hostile = network.control_channel(Identity(bytes([9]) * 32).node_id)

    async def handler(_caller: NodeId, body: bytes) -> bytes:
        return answer(decode_question(body))

    hostile.serve(PROTOCOL, handler)
    config = ExchangeConfig(limits=limits or SyncLimits(questions_max=200))
    exchange = ExchangeService(store, network.control_channel(Identity(bytes([8]) * 32).node_id), clock, random.Random(1), config=config)
    async with trio.open_nursery() as nursery:
        await nursery.start(exchange.run)
        try:
            return await exchange.sync(hostile.local_address, memory=memory), store
        except (RemoteProtocolError, OverlayError) as error:
            return error, store
        finally:
            nursery.cancel_scope.cancel()


WALL_NS = 1_780_000_000 * NS_PER_S


def always(body: bytes) -> Answer:
    return lambda _question: body


@pytest.mark.parametrize("body", [b"", b"garbage", pack(["ranges", [b"short"]]), pack(["items", []]), bytes(1 << 20)])
async def test_garbage_ends_the_session_with_a_remote_error_and_changes_nothing(body: bytes, make_offer: Make) -> None:
    result, store = await sync_with(always(body), make_offer())

    assert isinstance(result, RemoteProtocolError)
    assert 1 == await store.revision()


async def test_a_busy_peer_is_left_alone(make_offer: Make) -> None:
    result, _ = await sync_with(always(encode_busy(3)), make_offer())

    assert "busy" == result.reason


async def test_ranges_that_differ_without_end_are_refused_below_the_last_digit() -> None:
    """One branch of noise: it comes to its end at the 33rd digit."""

    def split_first(question: Compare | Fetch | Push) -> bytes:
        assert isinstance(question, Compare)
        return encode_ranges([RangeAnswer(parts=(b"\x01" * 16, *[bytes(16)] * 15)) for _ in question.ranges])

    result, _ = await sync_with(split_first)

    assert isinstance(result, DecodeError)
    assert "depth" == result.reason


async def test_ranges_that_all_differ_are_bounded_by_the_questions_of_a_session() -> None:
    asked = 0

    def split_all(question: Compare | Fetch | Push) -> bytes:
        nonlocal asked
        asked += 1
        assert isinstance(question, Compare)
        longest = max(len(prefix) for prefix, _ in question.ranges)
        parts = RangeAnswer() if longest == 32 else RangeAnswer(parts=(b"\x01" * 16,) * 16)
        return encode_ranges([parts] * len(question.ranges))

    result, _ = await sync_with(split_all, limits=SyncLimits(questions_max=40))

    assert (False, 40, 40) == (result.is_complete, result.questions, asked)


def listing_of(*entries: Entry) -> bytes:
    return encode_ranges([RangeAnswer(entries=tuple(sorted(entries)))])


def entry_of(record: Record, *, version: Version | None = None) -> Entry:
    return Entry(position_of(record.key), version or record.version, b"\x07" * 16)


async def test_what_is_listed_and_not_given_is_not_asked_again_for_a_while(make_offer: Make) -> None:
    """A peer that claims a version of the far future for everything and gives nothing: one question a session, then none."""
    wanted = entry_of(make_offer(), version=Version(2**63, 2**63))
    fetches = 0

    def answer(question: Compare | Fetch | Push) -> bytes:
        nonlocal fetches
        if isinstance(question, Compare):
            return listing_of(wanted)
        fetches += 1
        return encode_items([None])

    memory = Memory()
    for refused in ((("gone", 1),), (), ()):
        result, store = await sync_with(answer, make_offer(), memory=memory)
        assert (True, 0, refused) == (result.is_complete, result.fetched, result.refused)
        assert make_offer() == (await store.get(make_offer().key)).record
    assert 1 == fetches
    assert not memory.has(wanted, 1e9, is_ours=False)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        pytest.param({"envelope": b"rubbish"}, "decode", id="rubbish"),
        pytest.param({"version": Version(1, 9)}, "filed-wrong", id="a version that was not signed"),
        pytest.param({"expires_ns": WALL_NS}, "expired", id="expired"),
        pytest.param({"expires_ns": WALL_NS + 500 * 86_400 * NS_PER_S}, "lifetime", id="it expires in the far future"),
        pytest.param({"country": "FR"}, "filed-wrong", id="a place that was not signed"),
    ],
)
async def test_records_that_fail_verification_are_refused_counted_and_remembered(
    make_offer: Make, spoil: dict[str, Any], reason: str
) -> None:
    bad = attrs.evolve(make_offer(sequence=5), **spoil)
    fetches = 0

    def answer(question: Compare | Fetch | Push) -> bytes:
        nonlocal fetches
        if isinstance(question, Compare):
            return listing_of(entry_of(bad))
        fetches += 1
        return encode_items([bad])

    memory = Memory()
    result, store = await sync_with(answer, make_offer(), memory=memory)
    assert (((reason, 1),), 0) == (result.refused, result.stored)
    assert make_offer() == (await store.get(bad.key)).record
    await sync_with(answer, make_offer(), memory=memory)
    assert 1 == fetches


async def test_another_item_than_was_asked_for_is_refused(make_offer: Make) -> None:
    def answer(question: Compare | Fetch | Push) -> bytes:
        return listing_of(entry_of(make_offer(0, 1))) if isinstance(question, Compare) else encode_items([make_offer(0, 2)])

    result, store = await sync_with(answer)

    assert (("unasked", 1),) == result.refused
    assert 0 == await store.revision()


async def test_a_listing_of_another_range_ends_the_session(make_offer: Make) -> None:
    def answer(question: Compare | Fetch | Push) -> bytes:
        assert isinstance(question, Compare)
        if question.ranges[0][0] == "":
            return encode_ranges([RangeAnswer(parts=(b"\x01" * 16, *[bytes(16)] * 15))])
        return encode_ranges([RangeAnswer(entries=(Entry(b"\xff" * 16, Version(1, 1), bytes(16)),))])

    result, _ = await sync_with(answer)

    assert "listing" == result.reason


async def test_a_peer_that_refuses_everything_is_offered_it_once(make_offer: Make) -> None:
    offered = 0

    def answer(question: Compare | Fetch | Push) -> bytes:
        nonlocal offered
        if isinstance(question, Compare):
            return encode_ranges([RangeAnswer(entries=())])
        assert isinstance(question, Push)
        offered += len(question.items)
        return pack(["taken", [0, 0, [[index, "full"] for index in range(len(question.items))]]])

    memory = Memory()
    for _ in range(2):
        await sync_with(answer, make_offer(0, 1), make_offer(0, 2), memory=memory)

    assert 2 == offered


async def test_a_peer_that_answers_one_item_at_a_time_is_asked_for_the_rest(make_offer: Make) -> None:
    records = [make_offer(0, topic) for topic in range(5)]
    by_position = {position_of(record.key): record for record in records}

    def answer(question: Compare | Fetch | Push) -> bytes:
        if isinstance(question, Compare):
            return listing_of(*map(entry_of, records))
        assert isinstance(question, Fetch)
        return encode_items([by_position[question.positions[0]]])

    result, store = await sync_with(answer)

    assert (True, 5, 6) == (result.is_complete, result.stored, result.questions)
    assert 5 == await store.revision()


async def test_limits_of_items_cut_a_session_and_the_next_one_goes_on(serving: Any, make_offer: Make, wall_ns: int) -> None:
    config = ExchangeConfig(is_pruning=False, limits=SyncLimits(fetched_max=7, pushed_max=5))
    async with serving(config=config) as (here, there):
        await here.store.put_many([make_offer(0, topic) for topic in range(12)], wall_ns)
        await there.store.put_many([make_offer(1, topic) for topic in range(12)], wall_ns)
        await trio.testing.wait_all_tasks_blocked()
        outcomes = [await here.exchange.sync(there.address) for _ in range(3)]

        assert [(False, 7, 5), (False, 5, 5), (True, 0, 2)] == [(each.is_complete, each.stored, each.taken) for each in outcomes]
        assert here.exchange.root == there.exchange.root


def test_an_empty_peer_is_offered_everything_in_small_steps(make_offer: Make) -> None:
    tree = DigestTree()
    for number in range(5_000):
        tree.put(attrs.evolve(make_offer(), topic=number.to_bytes(4, "big")))
    session = SyncSession(tree, Memory(), 0.0)
    offered: list[bytes] = []
    while not isinstance(step := session.next_step(), Done):
        if isinstance(step, Ask):
            question = decode_question(step.body)
            assert isinstance(question, Compare)
            session.receive_response(encode_ranges([RangeAnswer(entries=())] * len(question.ranges)))
        else:
            assert isinstance(step, Load)
            offered += step.positions
            session.receive_loaded([None] * len(step.positions))

    assert 5_000 == len(offered) == len(set(offered))
    assert (True, 2, 17) == (step.outcome.is_complete, step.outcome.questions, step.outcome.ranges)


@given(st.lists(st.binary(max_size=60) | st.sampled_from([pack(["ranges", [None]]), pack(["items", [None]])]), max_size=6))
def test_no_sequence_of_answers_raises_anything_but_remote_errors(answers: list[bytes]) -> None:
    session = SyncSession(DigestTree(), Memory(), 0.0)
    for answer in answers:
        step = session.next_step()
        if isinstance(step, Done):
            return
        assert isinstance(step, Ask)
        try:
            session.receive_response(answer)
        except RemoteProtocolError:
            return
