"""kill -9 at random instants of a process that writes to a record store or a journal; and files that were cut or altered.

This file is also a program: `python test_crashes.py WHAT FOLDER SEED KILLS`. It imports everything once and forks for every kill a writer,
which opens the file, goes on where it finds itself and tells its parent each write that was acknowledged to it. After a number of
acknowledgements and a moment more, both drawn from the seed, the parent kills it, and forks a checker that opens the file again: every
acknowledged write is there, none is there twice, nothing else is.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import NoReturn

import attrs
import pytest
import trio

from srwan.errors import RemoteProtocolError, SettlementUnavailable, StoreUnavailable
from srwan.identity import Identity
from srwan.ledger_client.accounting.journal import Journal, read_records
from srwan.ledger_client.record import Kind, Record, Version, verify
from srwan.ledger_client.report import NS_PER_S
from srwan.ledger_client.settlement.deploy import Deployment
from srwan.ledger_client.settlement.pyevm import PyEvmSettlement
from srwan.ledger_client.settlement.signing import WalletKey
from srwan.ledger_client.settlement.transaction_log import Entry, LogHead, TransactionLog
from srwan.ledger_client.sqlite import SqliteStore
from srwan.ledger_client.statement import MARKET_GROUP, Statement
from srwan.ledger_client.store import StoredRecord

KILLS_ALL = 200
"""Instants of a full run, for each of the files."""
KILLS_OF_ONE_FILE = 10
ACKNOWLEDGED_MAX = 5
"""Writes that are waited for before a kill."""
MOMENT_S_MAX = 0.008
"""Longest time from there to the kill, s: one to three writes more."""
WATCHDOG_S = 60
BATCH_RECORDS = 5
NOW_NS = 1_780_000_000 * NS_PER_S
SIGNER = Identity(bytes(32))

Acknowledge = Callable[[int], None]


@attrs.frozen
class Victim:
    """Something that is written to until it is killed."""

    name: str
    write: Callable[[Path, Acknowledge], None]
    """Opens the file, goes on from what it holds, and tells how many writes it holds after each that was acknowledged."""
    count: Callable[[Path], int]
    """Opens the file, checks all of it, and returns how many writes it holds."""
    kills_of_default_run: int = 20
    """The engine replays its journal at each opening, so it gets fewer."""


# --- the record store ------------------------------------------------------------------------------------------------


def statement_of(number: int) -> Record:
    statement = Statement(
        kind=Kind.COUNTERS,
        group=MARKET_GROUP,
        subject=SIGNER.node_id,
        topic=number.to_bytes(8, "big"),
        version=Version(1, number),
        issued_ns=NOW_NS,
        expires_ns=NOW_NS + 3600 * NS_PER_S,
        content=bytes([0xC4, 200]) + bytes(200),
    )
    return statement.record(SIGNER)


def write_store(path: Path, acknowledge: Acknowledge) -> None:
    async def write() -> None:
        store = await SqliteStore.open(path)
        start = await store.revision()
        assert start % BATCH_RECORDS == 0, "a batch was stored in part"
        for first in range(start, 10_000, BATCH_RECORDS):
            outcome = await store.put_many([statement_of(first + each) for each in range(BATCH_RECORDS)], NOW_NS)
            acknowledge(outcome.revision // BATCH_RECORDS)

    trio.run(write)


def count_store(path: Path) -> int:
    async def count() -> int:
        async with await SqliteStore.open(path) as store:
            stored = [each async for each in pages(store)]
            for each in stored:
                verify(each.record)
            assert [statement_of(number) for number in range(len(stored))] == [each.record for each in stored]
            assert list(range(1, len(stored) + 1)) == [each.revision for each in stored]
            return len(stored) // BATCH_RECORDS

    return trio.run(count)


async def pages(store: SqliteStore) -> AsyncIterator[StoredRecord]:
    last, seen = await store.revision(), 0
    while seen < last:
        for each in await store.watch(seen):
            yield each
            seen = each.revision


# --- the journal of accounting ---------------------------------------------------------------------------------------


def numbers_of(records: tuple[bytes, ...]) -> int:
    """Records are "n..." for one number, or "s..." for all numbers up to one, which compaction writes."""
    count = 0
    for record in records:
        kind, number = record[:1], int.from_bytes(record[1:9], "big")
        assert number == count + 1 or (kind == b"s" and count == 0), "something is missing, or there twice"
        assert record[9:] == bytes(number % 64)
        count = number
    return count


def record_of(kind: bytes, number: int) -> bytes:
    return kind + number.to_bytes(8, "big") + bytes(number % 64)


def write_accounts(path: Path, acknowledge: Acknowledge) -> None:
    journal = Journal(path)
    count = numbers_of(journal.records)
    while True:
        count += 1
        journal.append(record_of(b"n", count))
        if count % 4 == 0:
            journal.sync()
        if count % 9 == 0:
            journal.compact([record_of(b"s", count)])
        acknowledge(count)


def count_accounts(path: Path) -> int:
    with Journal(path) as journal:
        return numbers_of(journal.records)


# --- the journal of the embedded engine ------------------------------------------------------------------------------


def entry_of(number: int) -> Entry:
    return Entry(NOW_NS // NS_PER_S + number, number.to_bytes(8, "big"), bytes(number % 300 + 1))


def write_transactions(path: Path, acknowledge: Acknowledge) -> None:
    if path.exists():
        log, entries = TransactionLog.open(path)
    else:
        log, entries = TransactionLog.create(path, LogHead(31337, 1)), []
    while True:
        entry = entry_of(len(entries))
        log.append(entry)
        entries.append(entry)
        if len(entries) % 9 == 0:
            log = log.rewrite(entries)
        acknowledge(len(entries))


def count_transactions(path: Path) -> int:
    log, entries = TransactionLog.open(path)
    assert [entry_of(number) for number in range(len(entries))] == entries
    assert LogHead(31337, 1) == log.head
    log.close()
    return len(entries)


# --- the embedded engine ---------------------------------------------------------------------------------------------

SAVER = WalletKey(bytes([7]) * 32)
SUPPLY = 1_000_000


def write_engine(path: Path, acknowledge: Acknowledge) -> None:
    """Deposits of one microtoken each: what was paid in is what was acknowledged, and none of it twice."""

    async def write() -> None:
        if path.exists():
            engine = await PyEvmSettlement.open(path)
        else:
            engine = await PyEvmSettlement.deploy(path, SAVER, Deployment((SAVER.address,), 1, SUPPLY))
        paid_in = (await engine.account(SAVER.address)).escrow_microtoken
        while True:
            await engine.deposit(SAVER, 1)
            paid_in += 1
            acknowledge(paid_in)

    trio.run(write)


def count_engine(path: Path) -> int:
    async def count() -> int:
        async with await PyEvmSettlement.open(path) as engine:
            account = await engine.account(SAVER.address)
            assert SUPPLY == account.balance_microtoken + account.escrow_microtoken == await engine.supply()
            return account.escrow_microtoken

    return trio.run(count)


VICTIMS = (
    Victim("store", write_store, count_store),
    Victim("accounts", write_accounts, count_accounts),
    Victim("transactions", write_transactions, count_transactions),
    Victim("engine", write_engine, count_engine, kills_of_default_run=10),
)


# --- the program that kills ------------------------------------------------------------------------------------------


def in_fork(work: Callable[[Acknowledge], int]) -> tuple[int, int]:
    """Run `work` in a forked process; return its pid and the end of the pipe from which numbers of 8 bytes come."""
    reading, writing = os.pipe()
    if pid := os.fork():
        os.close(writing)
        return pid, reading
    status = 1
    try:
        os.close(reading)
        signal.alarm(WATCHDOG_S)
        status = work(lambda number: _tell(writing, number))
    except BaseException:  # noqa: BLE001 - a fork must not return into its parent's code
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _tell(writing: int, number: int) -> None:
    os.write(writing, number.to_bytes(8, "big"))


def read_numbers(reading: int, count: int) -> list[int]:
    numbers: list[int] = []
    while len(numbers) < count and len(data := os.read(reading, 8)) == 8:
        numbers.append(int.from_bytes(data, "big"))
    return numbers


def kill_once(victim: Victim, path: Path, rng: random.Random) -> tuple[int, int]:
    """Return how many writes were acknowledged to the writer, and how many the file holds after its death."""

    def write(acknowledge: Acknowledge) -> int:
        victim.write(path, acknowledge)
        return 0

    def check(acknowledge: Acknowledge) -> int:
        acknowledge(victim.count(path) if path.exists() else 0)
        return 0

    pid, reading = in_fork(write)
    heard = read_numbers(reading, rng.randint(0, ACKNOWLEDGED_MAX))
    time.sleep(rng.random() ** 3 * MOMENT_S_MAX)  # most of them short, so that opening the file is hit too
    os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    heard += read_numbers(reading, 1 << 30)
    os.close(reading)
    if not os.WIFSIGNALED(status):
        raise SystemExit(f"{victim.name}: the writer ended by itself")
    pid, reading = in_fork(check)
    held = read_numbers(reading, 1)
    os.close(reading)
    if os.waitpid(pid, 0)[1] or not held:
        raise SystemExit(f"{victim.name}: the file cannot be read after {heard[-1:]} acknowledged writes")
    return max(heard, default=0), held[0]


def main(name: str, folder: Path, seed: int, kills: int) -> NoReturn:
    """Kill so often, and print how it went as one JSON object."""
    (victim,) = [each for each in VICTIMS if each.name == name]
    if name == "engine":
        importlib.import_module("srwan.ledger_client.settlement.machine")  # py-evm, once rather than in every fork
    rng = random.Random(f"{name} {seed}")
    outcomes: list[tuple[int, int, int]] = []
    held = 0
    for number in range(kills):
        path = folder / f"{name}-{number // KILLS_OF_ONE_FILE}"
        before = 0 if number % KILLS_OF_ONE_FILE == 0 else held
        acknowledged, held = kill_once(victim, path, rng)
        outcomes.append((before, acknowledged, held))
    sys.stdout.write(json.dumps(outcomes))
    raise SystemExit(0)


# --- tests: kills ----------------------------------------------------------------------------------------------------


def kill(victim: Victim, folder: Path, kills: int) -> None:
    command = [sys.executable, __file__, victim.name, str(folder), "1", str(kills)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=WATCHDOG_S * 10, check=False, env=environment)
    assert (0, "") == (done.returncode, done.stderr), done.stderr
    outcomes = json.loads(done.stdout)

    assert kills == len(outcomes)
    for before, acknowledged, held in outcomes:
        assert before <= held, "what was there before the kill is gone"
        assert acknowledged <= held, "what was acknowledged is gone"
        assert held <= max(acknowledged, before) + 1, "what was never written is there"
    assert sum(acknowledged > before for before, acknowledged, _ in outcomes) > kills // 3  # the writers did write
    assert kills < KILLS_ALL or any(acknowledged == 0 for _, acknowledged, _ in outcomes)  # and some died while they opened the file


@pytest.mark.parametrize("victim", VICTIMS, ids=lambda victim: victim.name)
def test_kill_9_at_some_random_instants_loses_and_repeats_nothing(victim: Victim, tmp_path: Path) -> None:
    kill(victim, tmp_path, victim.kills_of_default_run)


@pytest.mark.slow
@pytest.mark.parametrize("victim", VICTIMS, ids=lambda victim: victim.name)
def test_kill_9_at_all_random_instants_loses_and_repeats_nothing(victim: Victim, tmp_path: Path) -> None:
    kill(victim, tmp_path, KILLS_ALL)


# --- tests: files that were cut or altered ----------------------------------------------------------------------------

WRITES = 12


def accounts_of(path: Path) -> tuple[object, ...]:
    with Journal(path) as journal:
        return journal.records


def transactions_of(path: Path) -> tuple[object, ...]:
    log, entries = TransactionLog.open(path)
    log.close()
    return tuple(entries)


@attrs.frozen
class Damaged:
    """A journal of WRITES records, to be cut and altered."""

    read: Callable[[Path], tuple[object, ...]]
    content: bytes
    records: tuple[object, ...]
    last_at: int
    """Where the last record begins, bytes."""


@pytest.fixture(params=["accounts", "transactions"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Damaged:
    path = tmp_path / "whole"
    if request.param == "accounts":
        with Journal(path) as accounts:
            accounts.append(*(record_of(b"n", number) for number in range(1, WRITES)))
            last_at = path.stat().st_size
            accounts.append(record_of(b"n", WRITES))
        return Damaged(accounts_of, path.read_bytes(), accounts_of(path), last_at)
    log = TransactionLog.create(path, LogHead(31337, 1), map(entry_of, range(WRITES - 1)))
    last_at = path.stat().st_size
    log.append(entry_of(WRITES - 1))
    log.close()
    return Damaged(transactions_of, path.read_bytes(), transactions_of(path), last_at)


def outcome_of(journal: Damaged, path: Path, content: bytes) -> tuple[object, ...] | None:
    """Return what a file with this content holds, None where it is refused: then with a remedy, and unchanged."""
    path.write_bytes(content)
    problem = ""
    try:
        return journal.read(path)
    except (StoreUnavailable, SettlementUnavailable) as error:
        problem = f"{error.where}: {error.problem}; {error.remedy}"
    assert re.fullmatch(rf".*{path.name}: .+; .+", problem)
    assert content == path.read_bytes()
    return None


def test_a_journal_that_was_cut_holds_all_that_is_whole(journal: Damaged, tmp_path: Path) -> None:
    """What a writer leaves that dies in mid-write: nothing before it suffers, and the file goes on from there."""
    path = tmp_path / "cut"
    for size in range(len(journal.content)):
        found = outcome_of(journal, path, journal.content[:size])
        if size >= journal.last_at:
            assert journal.records[: WRITES - 1] == found
        elif found is not None:
            assert journal.records[: len(found)] == found
            assert found == journal.read(path)


def test_a_flipped_bit_is_refused_or_costs_the_last_record_at_most(journal: Damaged, tmp_path: Path) -> None:
    """The last record alone cannot be told from one that was being written when the power failed."""
    path = tmp_path / "flipped"
    for at in range(len(journal.content)):
        content = bytearray(journal.content)
        content[at] ^= 1 << at % 8
        found = outcome_of(journal, path, bytes(content))
        if found is None or found == journal.records:
            continue
        assert at >= journal.last_at, f"a flipped bit at byte {at} lost {WRITES - len(found)} records"
        assert journal.records[: WRITES - 1] == found


def test_a_journal_is_read_while_its_owner_writes(tmp_path: Path) -> None:
    path = tmp_path / "open"
    with Journal(path) as accounts:
        for number in range(1, WRITES):
            accounts.append(record_of(b"n", number))
            assert number == numbers_of(read_records(path))
    path.write_bytes(path.read_bytes()[:-1])
    before = path.read_bytes()
    assert WRITES - 2 == numbers_of(read_records(path))
    assert before == path.read_bytes()
    for content in (b"", before[:20], before[:30] + b"x" + before[31:]):
        path.write_bytes(content)
        with pytest.raises(StoreUnavailable):
            read_records(path)
    with pytest.raises(StoreUnavailable, match="cannot be read"):
        read_records(tmp_path / "none")


def test_two_journals_pasted_together_are_not_taken_for_one(journal: Damaged, tmp_path: Path) -> None:
    head = journal.content[: journal.content.index(b"\n") + 1]
    for content in (journal.content * 2, journal.content + journal.content[journal.last_at :], head + journal.content):
        assert outcome_of(journal, tmp_path / "pasted", content) is None


async def test_a_store_with_flipped_bits_never_shows_a_record_that_was_not_signed(tmp_path: Path) -> None:
    """SQLite has no checksums of its own: what it does not notice, the signatures do."""
    path, whole = tmp_path / "flipped.db", tmp_path / "whole.db"
    records = [statement_of(number) for number in range(WRITES)]
    async with await SqliteStore.open(whole) as store:
        await store.put_many(records, NOW_NS)
    content = whole.read_bytes()
    rng = random.Random(1)
    outcomes = {"refused": 0, "noticed": 0, "unharmed": 0}
    for _ in range(150):
        altered = bytearray(content)
        for _ in range(3):
            altered[rng.randrange(len(altered))] ^= 1 << rng.randrange(8)
        path.write_bytes(altered)
        outcomes[await outcome_of_store(path, records)] += 1
        for beside in tmp_path.glob("flipped.db-*"):
            beside.unlink()

    assert min(outcomes.values()) > 0, outcomes


async def outcome_of_store(path: Path, records: list[Record]) -> str:
    try:
        async with await SqliteStore.open(path) as store:
            found = [(await store.get(record.key), record) for record in records]
            everything = [each async for each in pages(store)]
    except StoreUnavailable:
        return "refused"
    shown = [held.record for held, _ in found if held is not None]
    authentic = [each for each in (*shown, *(each.record for each in everything)) if is_authentic(each)]
    assert all(attrs.evolve(each, epoch=0) in records for each in authentic)
    return "unharmed" if [record for _, record in found] == shown else "noticed"


def is_authentic(record: Record) -> bool:
    try:
        verify(record)
    except RemoteProtocolError:
        return False
    return True


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
