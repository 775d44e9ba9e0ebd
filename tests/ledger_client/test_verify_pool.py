"""Checking batches in other processes: the same refusals as in this one, whatever becomes of the workers."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import attrs
import pytest
import trio
import trio.testing

from srwan.errors import RemoteProtocolError
from srwan.gossip.row import SignedRow
from srwan.ledger_client import verify_pool
from srwan.ledger_client.record import CONTENT_BYTES_MAX, ENVELOPE_BYTES_MAX, Kind, Record, Version, check
from srwan.ledger_client.report import NS_PER_S
from srwan.ledger_client.sqlite import SqliteStore
from srwan.ledger_client.verify_batch import refusals_in_threads
from srwan.ledger_client.verify_pool import VerifyPool, default_processes

Make = Callable[..., Record]
Refusals: TypeAlias = dict[int, tuple[type[RemoteProtocolError], str, str]]
TIMEOUT_S = 60


@pytest.fixture
async def pool() -> AsyncIterator[VerifyPool]:
    async with VerifyPool(2) as opened:
        yield opened
    assert () == opened.process_ids


@pytest.fixture
def good(
    make_row: Make, make_node: Make, make_report: Make, make_statement_record: Make, make_signed_row: Callable[..., SignedRow]
) -> list[Record]:
    """Of every kind, by each of two members."""
    made: list[Record] = []
    for index in range(2):
        made += [make_row(index), make_node(index), make_report(make_signed_row(index), reporter=index)]
        made += [make_statement_record(index, kind=kind, topic=b"topic") for kind in CONTENT_BYTES_MAX]
    assert set(Kind) == {record.kind for record in made}
    return made


@pytest.fixture
def batch(good: list[Record], wall_ns: int, make_certificate: Callable[..., bytes]) -> list[Record]:
    """Good records of every kind, and of each everything that can be wrong with it, in any order."""
    made = list(good)
    for record in good[: len(Kind)]:
        envelope = record.envelope
        made += [
            attrs.evolve(record, expires_ns=wall_ns),
            attrs.evolve(record, expires_ns=wall_ns + 500 * 86_400 * NS_PER_S),
            attrs.evolve(record, expires_ns=record.expires_ns + NS_PER_S),
            attrs.evolve(record, version=Version(record.version.era, record.version.sequence + 1)),
            attrs.evolve(record, group=bytes(32)),
            attrs.evolve(record, subject=good[len(Kind)].subject),
            attrs.evolve(record, country="XX"),
            attrs.evolve(record, asn=1),
            attrs.evolve(record, envelope=envelope[:-1] + bytes([envelope[-1] ^ 1])),
            attrs.evolve(record, envelope=envelope.replace(record.group, bytes(32))),
            attrs.evolve(record, envelope=envelope[:-1]),
            attrs.evolve(record, envelope=b""),
            attrs.evolve(record, envelope=b"\x92" * 500),
            attrs.evolve(record, envelope=bytes(ENVELOPE_BYTES_MAX[record.kind] + 1)),
            attrs.evolve(record, envelope=b"\x95\x02" + envelope[2:]),
            attrs.evolve(record, kind=Kind.NODE if record.kind is Kind.ROW else Kind.ROW, topic=b""),
        ]
        if record.topic:
            made.append(attrs.evolve(record, topic=b"other"))
    made.append(attrs.evolve(good[1], envelope=make_certificate(0, is_leaving=True)))
    random.Random(1).shuffle(made)
    return made


@pytest.fixture
def rows(make_row: Make) -> list[Record]:
    """200 rows, of which one is forged."""
    made = [make_row(index % 4, seq) for seq, index in enumerate(range(200), 1)]
    made[150] = attrs.evolve(made[150], envelope=made[150].envelope[:-1] + b"\x00")
    return made


def told(refused: dict[int, RemoteProtocolError]) -> Refusals:
    return {index: (type(error), error.reason, str(error)) for index, error in refused.items()}


def checked_one_by_one(records: Sequence[Record], wall_ns: int) -> Refusals:
    refused: dict[int, RemoteProtocolError] = {}
    for index, record in enumerate(records):
        try:
            check(record, wall_ns)
        except RemoteProtocolError as error:
            refused[index] = error
    return told(refused)


def is_running(process_id: int) -> bool:
    return Path(f"/proc/{process_id}").exists()


# ---- the contract, over both ways


@pytest.fixture(params=["threads", "pool"])
async def refusals(request: pytest.FixtureRequest, pool: VerifyPool) -> Callable[..., Awaitable[dict[int, RemoteProtocolError]]]:
    return refusals_in_threads if request.param == "threads" else pool.refusals


async def test_a_batch_is_refused_as_each_record_by_itself(
    refusals: Callable[..., Awaitable[dict[int, RemoteProtocolError]]],
    pool: VerifyPool,
    good: list[Record],
    batch: list[Record],
    wall_ns: int,
    request: pytest.FixtureRequest,
) -> None:
    found = told(await refusals(batch, wall_ns))

    assert checked_one_by_one(batch, wall_ns) == found
    assert {"expired", "lifetime", "filed-wrong", "signer", "signature", "decode", "limit", "version", "leaving"} == {
        reason for _, reason, _ in found.values()
    }
    assert not {id(record) for record in good} & {id(batch[index]) for index in found}
    assert (2 if "pool" in request.node.name else 0) == len(pool.process_ids)
    assert {} == pool.failed


@pytest.mark.parametrize("count", [1, 99, 100, 101, 257, 1000])
async def test_every_record_of_a_batch_of_any_size_is_checked(pool: VerifyPool, rows: list[Record], wall_ns: int, count: int) -> None:
    forged = rows[150]

    assert list(range(count)) == sorted(await pool.refusals([forged] * count, wall_ns))


async def test_a_slice_too_long_for_a_frame_is_checked_here(pool: VerifyPool, rows: list[Record], wall_ns: int) -> None:
    records = [attrs.evolve(rows[0], envelope=bytes(verify_pool.SLICE_BYTES_MAX)), *rows[1:]]

    assert checked_one_by_one(records, wall_ns) == told(await pool.refusals(records, wall_ns))
    assert {} == pool.failed
    assert 1 == len(pool.process_ids)  # for the other slice


async def test_a_store_takes_in_the_same_with_a_pool_as_without(
    pool: VerifyPool, batch: list[Record], wall_ns: int, tmp_path: Path
) -> None:
    async with await SqliteStore.open(tmp_path / "a") as alone, await SqliteStore.open(tmp_path / "b", verifier=pool) as with_pool:
        outcomes = [await store.put_many(batch, wall_ns) for store in (alone, with_pool)]

    assert outcomes[0].revisions == outcomes[1].revisions
    assert outcomes[0].stored == outcomes[1].stored > 0
    assert [(each.index, str(each.error)) for each in outcomes[0].refused] == [
        (each.index, str(each.error)) for each in outcomes[1].refused
    ]
    assert 2 == len(pool.process_ids)


# ---- workers that fail


async def test_workers_that_were_killed_are_replaced_and_nothing_is_lost(pool: VerifyPool, rows: list[Record], wall_ns: int) -> None:
    expected = checked_one_by_one(rows, wall_ns)
    await pool.refusals(rows, wall_ns)
    killed = pool.process_ids
    for process_id in killed:
        os.kill(process_id, signal.SIGKILL)

    assert expected == told(await pool.refusals(rows, wall_ns))
    assert {"ended": 2} == pool.failed
    assert not any(map(is_running, killed))
    assert expected == told(await pool.refusals(rows, wall_ns))
    assert {"ended": 2} == pool.failed
    assert 2 == len(set(pool.process_ids) - set(killed))


async def test_a_worker_killed_over_its_slice_costs_nothing_but_time(pool: VerifyPool, rows: list[Record], wall_ns: int) -> None:
    await pool.refusals(rows, wall_ns)
    for process_id in pool.process_ids:
        os.kill(process_id, signal.SIGSTOP)
    found: Refusals = {}

    async def ask() -> None:
        found.update(told(await pool.refusals(rows, wall_ns)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        for process_id in pool.process_ids:
            os.kill(process_id, signal.SIGKILL)

    assert checked_one_by_one(rows, wall_ns) == found
    assert {"ended": 2} == pool.failed


GARBAGE = """
import sys, msgpack
questions, answers = sys.stdin.buffer, sys.stdout.buffer
def frame(value):
    packed = msgpack.packb(value)
    return len(packed).to_bytes(4, "big") + packed
while length := questions.read(4):
    number, _, rows = msgpack.unpackb(questions.read(int.from_bytes(length, "big")))
    answers.write(eval(sys.argv[1]))
    answers.flush()
"""


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ('b"HTTP/1.1 400 Bad Request"', "garbage"),
        ('b"\\0\\0\\0\\5hello"', "garbage"),
        ("frame([number, b'', []])", "garbage"),
        ("frame([number + 1, b'\\1' * len(rows), []])", "garbage"),
        ("frame([number, b'\\0' * len(rows), []])", "garbage"),
        ("frame([number, b'\\1' * len(rows), [[0, 'DecodeError', 'decode', '']]])", "garbage"),
        ("b'\\0\\0' + sys.exit()", "ended"),
        ("b'\\0\\0'", "late"),
    ],
)
async def test_garbage_is_not_taken_for_an_answer(
    pool: VerifyPool, rows: list[Record], wall_ns: int, answer: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason == "late":
        monkeypatch.setattr(verify_pool, "ANSWER_S_MAX", 0.5)
    pool._command = [sys.executable, "-c", GARBAGE, answer]

    assert checked_one_by_one(rows, wall_ns) == told(await pool.refusals(rows, wall_ns))
    assert {reason: 2} == pool.failed
    assert () == pool.process_ids


async def test_an_answer_out_of_turn_is_none_to_the_next_question(pool: VerifyPool, rows: list[Record], wall_ns: int) -> None:
    pool._command = [sys.executable, "-c", GARBAGE, "2 * frame([number, b'\\1' * len(rows), []])"]
    assert {} == await pool.refusals(rows[:150], wall_ns)
    assert {} == pool.failed

    assert checked_one_by_one(rows, wall_ns) == told(await pool.refusals(rows, wall_ns))
    assert {"garbage": 2} == pool.failed


async def test_where_no_worker_can_run_batches_are_checked_here(pool: VerifyPool, rows: list[Record], wall_ns: int, tmp_path: Path) -> None:
    pool._command = [str(tmp_path / "nothing")]

    assert checked_one_by_one(rows, wall_ns) == told(await pool.refusals(rows, wall_ns))
    assert {"unstartable": 2} == pool.failed


async def test_workers_that_end_at_once_are_not_started_without_end(
    rows: list[Record], wall_ns: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = itertools.count(1000.0, 0.001)
    monkeypatch.setattr(trio, "current_time", lambda: next(now_s))
    log = tmp_path / "starts"
    async with VerifyPool(2) as pool:
        pool._command = ["/bin/sh", "-c", f"echo >> {log}"]
        for _ in range(6):
            assert [150] == list(await pool.refusals(rows, wall_ns))
        assert {"ended": 4, "waiting": 8} == pool.failed
        assert 4 == len(log.read_text())

        now_s = itertools.count(1000.0 + 1.5 * verify_pool.RESTART_S, 0.001)
        await pool.refusals(rows, wall_ns)
        assert {"ended": 5, "waiting": 9} == pool.failed


# ---- ends


async def test_a_cancelled_batch_leaves_no_worker_with_half_a_question(pool: VerifyPool, rows: list[Record], wall_ns: int) -> None:
    await pool.refusals(rows, wall_ns)
    stopped = pool.process_ids
    for process_id in stopped:
        os.kill(process_id, signal.SIGSTOP)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.refusals, rows, wall_ns)
            nursery.start_soon(pool.refusals, rows, wall_ns)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()

    assert scope.cancelled_caught
    assert not any(map(is_running, stopped))
    assert checked_one_by_one(rows, wall_ns) == told(await pool.refusals(rows, wall_ns))
    assert {} == pool.failed


async def test_a_pool_closed_under_a_batch_ends_its_workers_and_the_batch_is_checked_here(rows: list[Record], wall_ns: int) -> None:
    found: Refusals = {}
    pool = VerifyPool(2)

    async def ask() -> None:
        found.update(told(await pool.refusals(rows, wall_ns)))

    async with trio.open_nursery() as nursery:
        await pool.refusals(rows, wall_ns)
        workers = pool.process_ids
        for process_id in workers:
            os.kill(process_id, signal.SIGSTOP)
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        await pool.aclose()

    assert 2 == len(workers)
    assert not any(map(is_running, workers))
    assert checked_one_by_one(rows, wall_ns) == found
    await pool.aclose()
    assert [150] == list(await pool.refusals(rows, wall_ns))
    assert ((), {}) == (pool.process_ids, pool.failed)


async def test_no_descriptor_is_left(rows: list[Record], wall_ns: int) -> None:
    async def life() -> None:
        async with VerifyPool(2) as pool:
            await pool.refusals(rows, wall_ns)
            os.kill(pool.process_ids[0], signal.SIGKILL)
            await pool.refusals(rows, wall_ns)
            with trio.move_on_after(0):
                await pool.refusals(rows, wall_ns)

    await life()
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(3):
        await life()

    assert before == sorted(os.listdir("/proc/self/fd"))


PARENT = """
import os, signal, sys, trio
from srwan.gossip.row import Row, seal_row
from srwan.identity import Identity
from srwan.ledger_client.record import Record
from srwan.ledger_client.verify_pool import VerifyPool

NOW_NS, SIGNER = 1_780_000_000 * 10**9, Identity(bytes(32))
row = Row(SIGNER.node_id, 1, 1, 0, bytes(8), 0, 0, 0, 0, 0, 0, 100, is_described=False, entries=bytes(300))
content = seal_row(row, SIGNER, bytes(32)).content
records = [Record.of_row(SIGNER.node_id, content, group=bytes(32), expires_ns=NOW_NS + 600 * 10**9)] * 500

async def main():
    pool = VerifyPool(2)
    async with trio.open_nursery() as nursery:
        assert not await pool.refusals(records, NOW_NS)
        print(*pool.process_ids, flush=True)
        while True:
            await pool.refusals(records, NOW_NS)
trio.run(main)
"""


def test_workers_end_with_a_parent_killed_by_9() -> None:
    """They hold its standard error too: that this ends says that all are gone."""
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        workers = [int(each) for each in parent.stdout.readline().split()]
        assert 2 == len(workers)
        parent.kill()
        _, errors = parent.communicate(timeout=TIMEOUT_S)

    assert "" == errors
    assert -signal.SIGKILL == parent.returncode


async def test_workers_have_a_session_of_their_own_and_get_no_secret(
    pool: VerifyPool, rows: list[Record], wall_ns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SRWAN_PASSPHRASE", "do not tell")
    await pool.refusals(rows, wall_ns)

    for process_id in pool.process_ids:
        assert process_id == os.getsid(process_id)
        environment = Path(f"/proc/{process_id}/environ").read_bytes().split(b"\0")
        assert not [each for each in environment if b"PASSPHRASE" in each]
        assert b"PYTHONPATH=" + os.pathsep.join(filter(None, sys.path)).encode() in environment
        assert {"0", "1", "2"} == set(os.listdir(f"/proc/{process_id}/fd"))


@pytest.mark.parametrize(("cores", "processes"), [(None, 0), (1, 0), (2, 2), (3, 3), (4, 4), (64, 4)])
def test_the_default_leaves_small_hosts_alone(monkeypatch: pytest.MonkeyPatch, cores: int | None, processes: int) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)

    assert processes == default_processes()


@pytest.mark.parametrize("processes", [0, -1, 65])
def test_a_pool_has_at_least_one_and_not_too_many(processes: int) -> None:
    with pytest.raises(ValueError, match=r"not -?\d+"):
        VerifyPool(processes)
