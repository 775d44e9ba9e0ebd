"""What only the file store does: failures of the storage, other processes, sudden death. All on real files."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import apsw
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from srwan.errors import RemoteProtocolError, StoreUnavailable
from srwan.gossip.row import Row, seal_row
from srwan.identity import Identity
from srwan.ledger_client.read import read_file
from srwan.ledger_client.record import Record, verify
from srwan.ledger_client.report import NS_PER_S
from srwan.ledger_client.sqlite import SqliteStore
from srwan.ledger_client.sqlite_schema import APPLICATION_ID, FROM_VERSION_1
from srwan.ledger_client.store import Query

Make = Callable[..., Record]
NOW_NS = 1_780_000_000 * NS_PER_S
SIGNER = Identity(bytes(32))
TIMEOUT_S = 60


def row_of(seq: int, *, expires_s: int = 600) -> Record:
    row = Row(SIGNER.node_id, 1, seq, 0, bytes(8), 0, 0, 0, 0, 0, 0, 100, is_described=False, entries=bytes(300))
    content = seal_row(row, SIGNER, bytes(32)).content
    return Record.of_row(SIGNER.node_id, content, group=bytes(32), expires_ns=NOW_NS + expires_s * NS_PER_S)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ditex.db"


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that other users can reach, unlike those of pytest."""
    folder = Path(tempfile.mkdtemp(prefix="srwan-ditex-"))
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


async def write(path: Path, *records: Record) -> None:
    async with await SqliteStore.open(path) as store:
        await store.put_many(records, NOW_NS)


def folded(path: Path) -> bytes:
    """Content of a closed file."""
    assert not path.with_name(path.name + "-wal").exists()
    return path.read_bytes()


async def refused(path: Path, *, is_read_only: bool = False) -> StoreUnavailable:
    """The error on opening; what is at `path` must stay as it is."""
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(StoreUnavailable) as error:
        await SqliteStore.open(path, is_read_only=is_read_only, busy_s=0.1)
    assert before == (path.read_bytes() if path.is_file() else None)
    assert str(path) == error.value.where
    assert f"{path}: {error.value.problem}; {error.value.remedy}" == str(error.value)
    return error.value


# ---- opening


async def test_settings_are_in_force(path: Path) -> None:
    settings_and_values: list[tuple[Literal["NORMAL", "FULL"], int]] = [("NORMAL", 1), ("FULL", 2)]
    for synchronous, expected in settings_and_values:
        async with await SqliteStore.open(path, synchronous=synchronous, bytes_max=1 << 20) as store:
            assert store._scalar("PRAGMA synchronous") == expected
            assert store._execute("PRAGMA journal_mode") == [("wal",)]
            assert store._scalar("PRAGMA busy_timeout") == 5000
            assert store._scalar("PRAGMA max_page_count") == 256


async def test_records_outlive_the_store(path: Path) -> None:
    record = row_of(1)
    await write(path, record)
    async with await SqliteStore.open(path, synchronous="FULL") as store:
        held = await store.get(record.key)

    assert held is not None
    assert record == held.record
    assert folded(path)[:15] == b"SQLite format 3"


async def test_no_folder(tmp_path: Path) -> None:
    assert (await refused(tmp_path / "none/ditex.db")).problem == "the file cannot be opened or created"


async def test_a_folder_in_place_of_the_file(tmp_path: Path) -> None:
    assert (await refused(tmp_path)).problem == "the file cannot be opened or created"


async def test_reading_creates_nothing(path: Path) -> None:
    assert (await refused(path, is_read_only=True)).problem == "there is no such file"
    assert not path.exists()
    path.touch()
    assert (await refused(path, is_read_only=True)).problem == "the file is empty"


async def test_an_empty_file_becomes_a_store(path: Path) -> None:
    path.touch()
    await write(path, row_of(1))

    assert (await read_file(path, wall_ns=NOW_NS)).verified == 1


@pytest.mark.parametrize("is_read_only", [False, True])
async def test_not_a_database(path: Path, is_read_only: bool) -> None:
    path.write_bytes(b"My diary. " * 1000)

    assert (await refused(path, is_read_only=is_read_only)).problem == "this is not a DITEX file"


@pytest.mark.parametrize("is_read_only", [False, True])
async def test_a_database_of_another_program(path: Path, is_read_only: bool) -> None:
    with apsw.Connection(str(path)) as connection:
        list(connection.execute("CREATE TABLE bookmarks (url TEXT)"))
    connection.close()

    assert (await refused(path, is_read_only=is_read_only)).problem == "this is a database of another program"


@pytest.mark.parametrize("is_read_only", [False, True])
async def test_a_newer_schema(path: Path, is_read_only: bool) -> None:
    await write(path, row_of(1))
    connection = apsw.Connection(str(path))
    list(connection.execute("PRAGMA user_version = 3"))
    connection.close()

    assert (await refused(path, is_read_only=is_read_only)).problem == "the file has schema version 3, this srwan knows 2"


VERSION_1 = f"""
CREATE TABLE records (
    revision INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, grp BLOB NOT NULL, subject BLOB NOT NULL, era INTEGER NOT NULL,
    sequence INTEGER NOT NULL, expires_ns INTEGER NOT NULL, epoch INTEGER NOT NULL, country TEXT NOT NULL, asn INTEGER NOT NULL,
    is_newest INTEGER NOT NULL, envelope BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX records_version ON records (grp, kind, subject, era, sequence);
CREATE UNIQUE INDEX records_newest ON records (grp, kind, subject) WHERE is_newest = 1;
CREATE INDEX records_kind ON records (kind) WHERE is_newest = 1;
CREATE INDEX records_place ON records (country, asn) WHERE is_newest = 1;
CREATE INDEX records_expiry ON records (expires_ns);
CREATE TABLE equivocations (
    number INTEGER PRIMARY KEY, kind TEXT NOT NULL, grp BLOB NOT NULL, subject BLOB NOT NULL, era INTEGER NOT NULL,
    sequence INTEGER NOT NULL, held BLOB NOT NULL, held_expires_ns INTEGER NOT NULL, other BLOB NOT NULL,
    other_expires_ns INTEGER NOT NULL, UNIQUE (grp, kind, subject)
) STRICT;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = 1;
"""
"""The schema before there were topics."""


def write_version_1(path: Path, records: list[Record]) -> None:
    """A file as the previous version left it; the last record is the newest, and contradicts the first."""
    connection = apsw.Connection(str(path))
    list(connection.execute("PRAGMA journal_mode = WAL"))
    list(connection.execute(VERSION_1))
    for record in records:
        is_newest = int(record is records[-1])
        filed = (record.kind, record.group, record.subject, *record.version, record.expires_ns, record.epoch, record.country, record.asn)
        list(connection.execute(f"INSERT INTO records VALUES ({', '.join('?' * 12)})", (None, *filed, is_newest, record.envelope)))
    key = (records[0].kind, records[0].group, records[0].subject, *records[0].version)
    quoted = [(each.envelope, each.expires_ns) for each in (records[0], records[-1])]
    list(connection.execute(f"INSERT INTO equivocations VALUES ({', '.join('?' * 10)})", (None, *key, *quoted[0], *quoted[1])))
    connection.close()


async def test_a_file_of_the_previous_version_is_brought_up_when_a_node_opens_it(path: Path) -> None:
    records = [row_of(seq) for seq in (1, 2, 3)]
    write_version_1(path, records)

    assert (await refused(path, is_read_only=True)).problem == "the file has the old schema version 1"
    async with await SqliteStore.open(path) as store:
        assert records == [each.record for each in await store.watch(0)]
        assert records[::-1] == [each.record for each in await store.history(records[0].key)]
        assert [records[2]] == [each.record for each in await store.range(Query())]
        assert 1 == len(await store.equivocations())
        assert 4 == await store.put(row_of(4), NOW_NS)
    assert (await read_file(path, wall_ns=NOW_NS)).verified == 1


async def test_bringing_up_is_done_whole_or_not_at_all(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [row_of(seq) for seq in (1, 2, 3)]
    write_version_1(path, records)
    monkeypatch.setattr("srwan.ledger_client.sqlite.FROM_VERSION_1", FROM_VERSION_1 + "CREATE TABLE records (a);")
    with pytest.raises(StoreUnavailable):
        await SqliteStore.open(path)
    monkeypatch.undo()
    async with await SqliteStore.open(path) as store:
        assert records == [each.record for each in await store.watch(0)]


async def test_our_mark_without_our_tables(path: Path) -> None:
    connection = apsw.Connection(str(path))
    list(connection.execute(f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 2; CREATE TABLE other (a)"))
    connection.close()

    async with await SqliteStore.open(path) as store:
        with pytest.raises(StoreUnavailable, match="no such table"):
            await store.put(row_of(1), NOW_NS)


OPEN_AS_NOBODY = """
import os, sys, trio
from pathlib import Path
from srwan.errors import StoreUnavailable
from srwan.ledger_client.sqlite import SqliteStore
from srwan.ledger_client.read import read_file

path = Path(sys.argv[1])
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
async def main():
    try:
        await SqliteStore.open(path)
    except StoreUnavailable as error:
        print(error.problem)
    else:
        print("opened")
    try:
        print((await read_file(path, wall_ns=0)).verified)
    except StoreUnavailable as error:
        print(error.problem)
trio.run(main)
"""


def open_as_nobody(path: Path) -> list[str]:
    """Open as a user without rights, for writing and for reading, and return what came of it."""
    done = subprocess.run([sys.executable, "-c", OPEN_AS_NOBODY, str(path)], capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


async def test_a_read_only_folder(shared_folder: Path) -> None:
    shared_folder.chmod(0o555)

    assert ["the file cannot be opened or created", "there is no such file"] == open_as_nobody(shared_folder / "ditex.db")
    assert [] == list(shared_folder.iterdir())


async def test_a_read_only_file(shared_folder: Path) -> None:
    path = shared_folder / "ditex.db"
    await write(path, row_of(1))
    path.chmod(0o444)
    shared_folder.chmod(0o777)
    before = path.read_bytes()

    assert ["the file or its folder is read-only", "1"] == open_as_nobody(path)
    assert before == path.read_bytes()


async def test_a_read_only_folder_with_a_file_in_it(shared_folder: Path) -> None:
    """A reader writes, too: its place in the log, beside the file."""
    path = shared_folder / "ditex.db"
    await write(path, row_of(1))
    path.chmod(0o444)
    shared_folder.chmod(0o555)
    before = path.read_bytes()

    assert ["the file or its folder is read-only"] * 2 == open_as_nobody(path)
    assert before == path.read_bytes()


# ---- damage


def damaged(path: Path, start: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(content)


async def test_damaged_pages(path: Path) -> None:
    await write(path, *(row_of(seq) for seq in range(200)))
    size = path.stat().st_size
    damaged(path, 4096, os.urandom(size - 4096))

    with pytest.raises(StoreUnavailable) as error:
        await read_file(path, wall_ns=NOW_NS)
    assert error.value.problem == "the file is damaged"
    assert str(path) == error.value.where


async def test_writing_to_a_damaged_file_fails_cleanly(path: Path) -> None:
    await write(path, *(row_of(seq) for seq in range(200)))
    damaged(path, 2 * 4096, b"\xff" * (path.stat().st_size - 2 * 4096))
    async with await SqliteStore.open(path) as store:
        with pytest.raises(StoreUnavailable, match="damaged"):
            await store.put_many([row_of(seq) for seq in range(200, 400)], NOW_NS)
        assert store._connection is not None
        assert not store._connection.in_transaction


async def test_half_of_a_file(path: Path) -> None:
    await write(path, *(row_of(seq) for seq in range(200)))
    os.truncate(path, path.stat().st_size // 2 // 4096 * 4096)

    with pytest.raises(StoreUnavailable, match="damaged"):
        await read_file(path, wall_ns=NOW_NS)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE records SET subject = x'00'",
        "UPDATE records SET grp = x'00'",
        "UPDATE records SET kind = 'dream'",
        "UPDATE records SET country = 'nowhere'",
        "UPDATE records SET era = -1",
        "UPDATE records SET country = CAST(x'ff' AS TEXT)",
    ],
)
async def test_a_malformed_record(path: Path, change: str) -> None:
    await write(path, row_of(1))
    connection = apsw.Connection(str(path))
    list(connection.execute(change))
    connection.close()

    with pytest.raises(StoreUnavailable, match="malformed"):
        await read_file(path, wall_ns=NOW_NS)


@settings(max_examples=40)
@given(flips=st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), min_size=1, max_size=12))
def test_whatever_bytes_are_damaged_nothing_false_is_shown(flips: list[tuple[int, int]]) -> None:
    """Either one clear error, or only rows that verify: the signer signed seq 0..19 and nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ditex.db"
        good = [row_of(seq) for seq in range(20)]
        trio.run(write, path, *good)
        content = bytearray(path.read_bytes())
        for place, value in flips:
            content[place % len(content)] = value
        path.write_bytes(content)

        async def read() -> list[Record]:
            await read_file(path, wall_ns=NOW_NS)
            async with await SqliteStore.open(path, is_read_only=True) as store:
                return [stored.record for stored in await store.history(good[0].key)]

        with contextlib.suppress(StoreUnavailable):
            for record in trio.run(read):
                with contextlib.suppress(RemoteProtocolError):
                    verify(record)
                    assert good[record.version.sequence].envelope == record.envelope


# ---- locks, space


async def test_a_lock_of_another_connection(path: Path) -> None:
    async with await SqliteStore.open(path, busy_s=0.1) as store:
        await store.put(row_of(1), NOW_NS)
        other = apsw.Connection(str(path))
        list(other.execute("BEGIN IMMEDIATE"))
        with pytest.raises(StoreUnavailable) as error:
            await store.put_many([row_of(2), row_of(3)], NOW_NS)
        with pytest.raises(StoreUnavailable):
            await store.prune(2**62)

        assert error.value.problem == "another process holds the lock"
        assert await store.revision() == 1
        list(other.execute("ROLLBACK"))
        other.close()
        assert await store.put(row_of(2), NOW_NS) == 2


async def test_opening_a_new_file_under_a_lock(path: Path) -> None:
    other = apsw.Connection(str(path))
    list(other.execute("BEGIN EXCLUSIVE"))
    error = await refused(path)
    other.close()

    assert error.problem == "another process holds the lock"


async def test_opening_tries_again_where_sqlite_gives_up_at_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that make a new file a log at the same time: rarely, one of them is told at once that the file is locked."""
    execute = SqliteStore._execute
    attempts: list[str] = []

    def busy_at_first(store: SqliteStore, statement: str, bindings: object = ()) -> list[object]:
        if "journal_mode" in statement:
            attempts.append(statement)
            if len(attempts) < 3:
                raise apsw.BusyError
        return execute(store, statement, bindings)

    monkeypatch.setattr(SqliteStore, "_execute", busy_at_first)
    await write(path, row_of(1))
    assert len(attempts) == 3


async def test_stores_that_create_one_file_at_once_agree(tmp_path: Path) -> None:
    for number in range(10):
        path = tmp_path / str(number)
        async with trio.open_nursery() as nursery:
            for seq in range(6):
                nursery.start_soon(write, path, row_of(seq))
        contents = await read_file(path, wall_ns=NOW_NS)
        assert ({}, 1) == (contents.refused, contents.verified)


async def test_the_event_loop_runs_on_while_a_batch_waits_for_the_lock(path: Path) -> None:
    """The lock is released by a task that can only run if the waiting batch does not hold up the loop."""
    async with await SqliteStore.open(path) as store:
        other = apsw.Connection(str(path))
        list(other.execute("BEGIN IMMEDIATE"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.put, row_of(1), NOW_NS)
            await trio.testing.wait_all_tasks_blocked()
            list(other.execute("ROLLBACK"))
            other.close()
        assert await store.revision() == 1


async def test_a_cancelled_put_is_done_whole_if_begun_and_not_at_all_if_queued(path: Path) -> None:
    async with await SqliteStore.open(path) as store:
        other = apsw.Connection(str(path))
        list(other.execute("BEGIN IMMEDIATE"))
        async with trio.open_nursery() as outer:
            scope = trio.CancelScope()

            async def put_two() -> None:
                with scope:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(store.put, row_of(1), NOW_NS)
                        await trio.testing.wait_all_tasks_blocked()
                        nursery.start_soon(store.put, row_of(2), NOW_NS)

            outer.start_soon(put_two)
            while store._limiter.statistics().tasks_waiting < 1:
                await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
            list(other.execute("ROLLBACK"))
            other.close()
        assert [1] == [each.record.version.sequence for each in await store.watch(0)]


async def test_a_full_disk_loses_nothing_acknowledged_and_pruning_makes_room(path: Path) -> None:
    batch = 50
    async with await SqliteStore.open(path, bytes_max=600_000) as store:
        acknowledged = 0
        with pytest.raises(StoreUnavailable) as error:
            for first in range(0, 5000, batch):
                records = [row_of(seq, expires_s=10 if seq < 100 else 600) for seq in range(first, first + batch)]
                acknowledged = (await store.put_many(records, NOW_NS)).revision
        assert error.value.problem == "the disk is full, or the store has reached its size limit"
        assert acknowledged >= 2 * batch
        assert acknowledged == await store.revision()
        assert list(range(1, acknowledged + 1)) == [each.revision for each in await store.watch(0)]
        assert 100 == await store.prune(NOW_NS + 10 * NS_PER_S, versions_max=10_000)
        assert (await store.put_many([row_of(seq) for seq in range(5000, 5000 + batch)], NOW_NS)).stored == batch


async def test_pruning_much_goes_in_steps(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("srwan.ledger_client.sqlite.PRUNE_RECORDS_MAX", 7)
    async with await SqliteStore.open(path) as store:
        await store.put_many([row_of(seq, expires_s=seq // 10 + 1) for seq in range(50)], NOW_NS)

        assert 30 == await store.prune(NOW_NS + 3 * NS_PER_S)
        assert list(range(31, 51)) == [each.revision for each in await store.watch(0)]


async def test_a_read_only_store_does_not_write(path: Path) -> None:
    await write(path, row_of(1))
    before = folded(path)
    async with await SqliteStore.open(path, is_read_only=True) as store:
        for use in (store.put(row_of(2), NOW_NS), store.prune(2**62)):
            with pytest.raises(StoreUnavailable, match="read-only"):
                await use
    assert before == path.read_bytes()


async def test_a_place_is_found_through_its_index(path: Path) -> None:
    async with await SqliteStore.open(path) as store:
        plans: list[str] = []
        select = store._select

        def explain(statement: str, bindings: object) -> object:
            plans.extend(str(row[3]) for row in store._execute("EXPLAIN QUERY PLAN " + statement, bindings))
            return select(statement, bindings)

        store._select = explain  # type: ignore[method-assign, assignment]
        await store.range(Query(country="DE", asn_min=1))
        await store.range(Query(group=bytes(32)))
    assert "SEARCH records USING INDEX records_place (country=? AND asn>? AND asn<?)" in plans
    assert any(plan.startswith("SEARCH records USING INDEX records_newest (grp=?") for plan in plans)


# ---- watchers


async def test_a_watcher_is_woken_by_its_own_store_without_polling(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("srwan.ledger_client.sqlite.WATCH_POLL_S", 10 * TIMEOUT_S)
    seen: list[int] = []
    async with await SqliteStore.open(path) as store:

        async def watch() -> None:
            with trio.fail_after(TIMEOUT_S):
                seen.extend(each.revision for each in await store.watch(0))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            await trio.testing.wait_all_tasks_blocked()
            await store.put(row_of(1), NOW_NS)
    assert [1] == seen


async def test_a_watcher_sees_what_another_connection_writes(path: Path) -> None:
    await write(path, row_of(1))
    async with (
        await SqliteStore.open(path, is_read_only=True) as reader,
        await SqliteStore.open(path) as writer,
        trio.open_nursery() as nursery,
    ):

        async def watch() -> None:
            with trio.fail_after(TIMEOUT_S):
                assert [2] == [each.revision for each in await reader.watch(1)]
            nursery.cancel_scope.cancel()

        nursery.start_soon(watch)
        await trio.testing.wait_all_tasks_blocked()
        await writer.put(row_of(2), NOW_NS)
        await trio.sleep_forever()
