"""The embedded record store: one SQLite file, written by one node, readable by any process of the machine meanwhile.

Theory of operation. Every call runs in a worker thread, one at a time (a limiter of 1 also hands out the turns), so that neither the disk
nor the signatures of a batch ever hold up the event loop. A batch is verified first, by threads or by worker processes (`verify_pool`), and
then written in one transaction: the newest versions of its keys are fetched at once, and what is newer is written at once. The file is in
WAL mode: readers of other processes see whole transactions and never block the writer. With synchronous NORMAL an acknowledged batch
survives the death of the process at any instant (the log is with the operating system); with FULL it survives a power cut too, at a cost
that batches of 500 do not show and single records do.

A file is recognised by its application id and schema version before anything is written to it. Where the storage fails, the transaction
is rolled back and `StoreUnavailable` says in one sentence what is wrong and what to do.

Trap: apsw runs a statement with several parts lazily and stops at the first row; every cursor here is consumed.

Source of the settings: sqlite.org/wal.html, sqlite.org/pragma.html#pragma_synchronous; figures by benchmarks/ledger.py.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import apsw
import trio

from srwan.errors import RemoteProtocolError, StoreUnavailable
from srwan.ledger_client.record import Key, Record, Version
from srwan.ledger_client.report import NS_PER_S
from srwan.ledger_client.sqlite_rows import Columns, columns_of, columns_of_record, proof_of, row_of, stored_of
from srwan.ledger_client.sqlite_schema import (
    ABOVE,
    ADD_PROOF,
    APPLICATION_ID,
    DELETE_KEY,
    DELETE_OLD,
    EXPIRED_NEWEST,
    FROM_VERSION_1,
    GET_NEWEST,
    GET_NEWEST_VERSION,
    GET_VERSION,
    HISTORY,
    INSERT,
    PROOFS,
    RANGE,
    RANGE_OF_GROUP,
    RANGE_OF_KIND,
    RANGE_OF_PLACE,
    RANGE_OF_SUBJECT,
    RANGE_OF_TOPIC,
    SCHEMA,
    SCHEMA_VERSION,
    SUPERFLUOUS,
    SUPERSEDE,
    TAKE_LEASE,
)
from srwan.ledger_client.store import (
    BATCH_RECORDS_MAX,
    HISTORY_VERSIONS_MAX,
    PAGE_RECORDS_MAX,
    BatchOutcome,
    EquivocationProof,
    Query,
    Refusal,
    StoredRecord,
    Verdict,
    judge,
    refusal_of,
    require_lease,
    require_page,
    require_versions,
    sole_revision,
)
from srwan.ledger_client.verify_batch import PARALLEL_RECORDS_MIN, refusals_in_threads
from srwan.ledger_client.verify_pool import VerifyPool
from srwan.ledger_client.verify_slice import refusals_of
from srwan.types import NodeId

__all__ = ["SqliteStore"]

BUSY_S = 5.0
"""How long a call waits for another process that holds the lock, s."""
BYTES_MAX = 8 << 30
"""Bound of the file, bytes. A record with its indexes takes 1.05 kB, so a day of reports, 100 rows every 10 s, 0.9 GB unless pruned."""
WATCH_POLL_S = 0.25
"""How soon a watcher sees what another process wrote, s; what this one wrote it sees at once."""
PRUNE_RECORDS_MAX = 5000
"""Records removed in one transaction, so that pruning a large file does not keep others waiting: about 50 ms."""
_WAL_BYTES_KEPT_MAX = 64 << 20
_RETRY_S = 0.01

_PROBLEMS: tuple[tuple[type[apsw.Error], str, str], ...] = (
    (apsw.BusyError, "another process holds the lock", "stop it, or wait for it to finish, and try again"),
    (apsw.LockedError, "another process holds the lock", "stop it, or wait for it to finish, and try again"),
    (apsw.NotADBError, "this is not a DITEX file", "choose another path, or move the file away to start an empty one"),
    (apsw.CorruptError, "the file is damaged", "move it away and restore a copy, or let the node start an empty one"),
    (apsw.FullError, "the disk is full, or the store has reached its size limit", "free some space, prune the store or raise its limit"),
    (apsw.ReadOnlyError, "the file or its folder is read-only", "give this user write permission or choose another folder"),
    (apsw.PermissionsError, "access is not permitted", "give this user permission or choose another folder"),
    (apsw.CantOpenError, "the file cannot be opened or created", "check that its folder exists and that this user may write there"),
    (apsw.IOError, "the disk reports an error", "check the disk, then restore a copy"),
)

_T = TypeVar("_T")


class SqliteStore:
    """Implements `RecordStore` on a file. Made by `open`; close it with `aclose` or use it as an async context manager."""

    def __init__(
        self,
        path: Path,
        *,
        is_read_only: bool,
        synchronous: Literal["NORMAL", "FULL"],
        busy_s: float,
        bytes_max: int,
        verifier: VerifyPool | None,
    ) -> None:
        self._path = path.absolute()
        self._is_read_only = is_read_only
        self._synchronous = synchronous
        self._busy_s = busy_s
        self._bytes_max = bytes_max
        self._verify = refusals_in_threads if verifier is None else verifier.refusals
        self._limiter = trio.CapacityLimiter(1)
        self._changed = trio.Event()
        self._is_closed = False
        self._connection: apsw.Connection | None = None

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        is_read_only: bool = False,
        synchronous: Literal["NORMAL", "FULL"] = "NORMAL",
        busy_s: float = BUSY_S,
        bytes_max: int = BYTES_MAX,
        verifier: VerifyPool | None = None,
    ) -> SqliteStore:
        """Open a store, creating the file if there is none.

        Args:
            path: of the file; two more appear beside it while it is open (`-wal`, `-shm`). Local disks only.
            is_read_only: change nothing, create nothing; for other processes than the node.
            synchronous: "FULL" also waits for the disk at each batch.
            busy_s: how long to wait for another process that holds the lock, s.
            bytes_max: bound of the file, bytes.
            verifier: checks large batches in other processes; the caller closes it, afterwards. None: threads do.

        Raises:
            StoreUnavailable: missing (read-only), not a DITEX file, of a newer version, damaged, locked, or not permitted. Nothing changed.
        """
        store = cls(path, is_read_only=is_read_only, synchronous=synchronous, busy_s=busy_s, bytes_max=bytes_max, verifier=verifier)
        await trio.to_thread.run_sync(store._open, limiter=store._limiter)
        return store

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    @property
    def path(self) -> Path:
        """Of the file, absolute."""
        return self._path

    # ---- the interface: each call takes its turn in a worker thread

    async def put(self, record: Record, wall_ns: int) -> int:
        """See `RecordStore.put`. Prefer batches: one transaction a record is several times slower."""
        return sole_revision(await self.put_many([record], wall_ns))

    async def put_many(self, records: Sequence[Record], wall_ns: int) -> BatchOutcome:
        """See `RecordStore.put_many`. Cost: benchmarks/ledger.py; the signatures are most of it."""
        if len(records) > BATCH_RECORDS_MAX:
            raise ValueError(f"a batch has up to {BATCH_RECORDS_MAX} records, not {len(records)}")
        batch = tuple(records)
        refused: dict[int, RemoteProtocolError] | None = None
        if len(batch) >= PARALLEL_RECORDS_MIN:  # before its turn: others store meanwhile
            refused = await self._verify(batch, wall_ns)
        outcome = await self._run(lambda: self._put_batch(batch, wall_ns, refused))
        if outcome.stored:
            self._wake_watchers()
        return outcome

    async def get(self, key: Key, version: Version | None = None) -> StoredRecord | None:
        """See `RecordStore.get`."""
        found = await self._run(lambda: self._get(key, version))
        return found[0] if found else None

    async def get_many(self, keys: Sequence[Key]) -> list[StoredRecord | None]:
        """See `RecordStore.get_many`."""
        require_page(max(1, len(keys)))
        return await self._run(lambda: self._get_each(tuple(keys)))

    async def range(self, query: Query) -> list[StoredRecord]:
        """See `RecordStore.range`. Cost: by country, group or kind as many rows as the index yields, else a scan of the file."""
        return await self._run(lambda: self._select_range(query))

    async def history(self, key: Key, *, limit: int = PAGE_RECORDS_MAX) -> list[StoredRecord]:
        """See `RecordStore.history`."""
        require_page(limit)
        return await self._run(lambda: self._select(HISTORY, (*columns_of(key), limit)))

    async def watch(self, after: int, *, limit: int = PAGE_RECORDS_MAX) -> list[StoredRecord]:
        """See `RecordStore.watch`. What other processes write is seen within WATCH_POLL_S."""
        require_page(limit)
        while True:
            changed = self._changed
            found = await self._run(lambda: self._select(ABOVE, (after, limit)))
            if found:
                return found
            with trio.move_on_after(WATCH_POLL_S):
                await changed.wait()

    async def prune(self, expired_ns: int, *, versions_max: int = HISTORY_VERSIONS_MAX) -> int:
        """See `RecordStore.prune`. Works in steps of PRUNE_RECORDS_MAX, between which others get their turn."""
        require_versions(versions_max)
        removed = 0
        while step := await self._run(lambda: self._prune_step(expired_ns)):
            removed += step
        while step := await self._run(lambda: self._prune_history(versions_max)):
            removed += step
        return removed

    async def lease(self, name: str, holder: NodeId, lease_s: int, wall_ns: int) -> bool:
        """See `RecordStore.lease`."""
        require_lease(name, lease_s)
        return await self._run(lambda: self._lease(name, holder, wall_ns + lease_s * NS_PER_S, wall_ns))

    async def release(self, name: str, holder: NodeId) -> None:
        """See `RecordStore.release`."""
        await self._run(lambda: self._release(name, holder))

    async def put_proof(self, proof: EquivocationProof) -> bool:
        """See `RecordStore.put_proof`."""
        return await self._run(lambda: self._put_proof(proof))

    async def equivocations(self, *, limit: int = PAGE_RECORDS_MAX) -> list[EquivocationProof]:
        """See `RecordStore.equivocations`."""
        require_page(limit)
        return await self._run(lambda: self._select_proofs(limit))

    async def revision(self) -> int:
        """See `RecordStore.revision`."""
        return await self._run(self._revision)

    async def aclose(self) -> None:
        """See `RecordStore.aclose`. The last process to close a file folds the log back into it."""
        self._is_closed = True
        self._wake_watchers()
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._close, limiter=self._limiter)

    def _wake_watchers(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _run(self, work: Callable[[], _T]) -> _T:
        return await trio.to_thread.run_sync(self._work, work, limiter=self._limiter)

    # ---- below runs in the worker thread

    def _work(self, work: Callable[[], _T]) -> _T:
        if self._is_closed:
            raise trio.ClosedResourceError("the record store is closed")
        with self._mapping_errors():
            return work()

    @contextlib.contextmanager
    def _mapping_errors(self) -> Generator[None]:
        """The one place where foreign errors become ours."""
        try:
            yield
        except apsw.Error as error:
            for kind, problem, remedy in _PROBLEMS:
                if isinstance(error, kind):
                    raise self._unavailable(problem, remedy) from error
            raise self._unavailable(f"SQLite reports {str(error)!r}", "restore a copy, or let the node start an empty file") from error

    def _unavailable(self, problem: str, remedy: str) -> StoreUnavailable:
        return StoreUnavailable(str(self._path), problem, remedy)

    def _execute(self, statement: str, bindings: Any = ()) -> list[Any]:
        assert self._connection is not None
        return list(self._connection.execute(statement, bindings))

    def _each(self, statement: str, bindings: Iterable[Any]) -> list[Any]:
        """Run a statement with each of many bindings: the loop is SQLite's, 1 us a turn."""
        assert self._connection is not None
        return list(self._connection.executemany(statement, bindings))

    def _scalar(self, statement: str) -> int:
        rows = self._execute(statement)
        return int(rows[0][0]) if rows else 0

    @contextlib.contextmanager
    def _transaction(self) -> Generator[None]:
        """All or nothing, also where COMMIT itself fails."""
        assert self._connection is not None
        self._execute("BEGIN IMMEDIATE")
        try:
            yield
            self._execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:  # SQLite has rolled back by itself after some errors
                self._execute("ROLLBACK")
            raise

    def _open(self) -> None:
        if self._is_read_only and not self._path.exists():
            raise self._unavailable("there is no such file", "check the path; a node creates its file when it starts")
        flags = apsw.SQLITE_OPEN_READONLY if self._is_read_only else apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
        with self._mapping_errors():
            try:
                self._connection = apsw.Connection(str(self._path), flags=flags)
                self._connection.set_busy_timeout(int(self._busy_s * 1000))
                self._prepare(self._connection)
            except BaseException:
                self._close()
                raise

    def _prepare(self, connection: apsw.Connection) -> None:
        found = self._recognise()
        if self._is_read_only:
            if found == 0:
                raise self._unavailable("the file is empty", "check the path; a node fills its file when it starts")
            if found < SCHEMA_VERSION:
                raise self._unavailable(
                    f"the file has the old schema version {found}", "let a node open it for writing once: it is brought up then"
                )
            return
        if connection.readonly("main"):
            raise apsw.ReadOnlyError
        self._set_wal()
        self._execute(f"PRAGMA synchronous = {self._synchronous}")
        self._execute(f"PRAGMA journal_size_limit = {_WAL_BYTES_KEPT_MAX}")
        self._execute(f"PRAGMA max_page_count = {self._bytes_max // self._scalar('PRAGMA page_size')}")
        if found < SCHEMA_VERSION:
            with self._transaction():
                found = self._recognise()  # another process may have been quicker
                if found < SCHEMA_VERSION:
                    self._execute(SCHEMA if found == 0 else FROM_VERSION_1)

    def _recognise(self) -> int:
        """Return the schema version, 0 of a new file (no tables); raise if it holds anything but our schema. Only reads."""
        assert self._connection is not None
        tables = application = version = 0
        with self._connection:  # one snapshot, lest half of what another process creates is seen
            tables = self._scalar("SELECT count(*) FROM sqlite_schema")
            application, version = self._scalar("PRAGMA application_id"), self._scalar("PRAGMA user_version")
        if tables == application == version == 0:
            return 0
        if application != APPLICATION_ID or version < 1:
            raise self._unavailable("this is a database of another program", "choose another path")
        if version > SCHEMA_VERSION:
            raise self._unavailable(
                f"the file has schema version {version}, this srwan knows {SCHEMA_VERSION}", "use the newer srwan that wrote it"
            )
        return version

    def _set_wal(self) -> None:
        """Of two that change the mode of a new file at once, SQLite may refuse one without waiting (seen once in 900 such races)."""
        deadline = time.monotonic() + self._busy_s
        while True:
            try:
                mode = self._execute("PRAGMA journal_mode = WAL")[0][0]
            except apsw.BusyError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(_RETRY_S)
                continue
            if mode != "wal":
                raise self._unavailable(f"the file system allows journal mode {mode!r} only", "choose a folder on a local disk")
            return

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _put_batch(self, records: tuple[Record, ...], wall_ns: int, refused: dict[int, RemoteProtocolError] | None) -> BatchOutcome:
        self._require_writable()
        if refused is None:
            refused = refusals_of(records, wall_ns)  # before the lock is taken
        revisions: list[int | None] = [None] * len(records)
        equivocations: list[EquivocationProof] = []
        with self._transaction():
            before = self._revision()
            revision = self._merge(records, before, refused, revisions, equivocations)
            assert revision == self._revision()
        stored = revision - before
        refusals = tuple(Refusal(index, refused[index]) for index in sorted(refused))
        return BatchOutcome(revision, tuple(revisions), stored, len(records) - stored - len(refusals), refusals, tuple(equivocations))

    def _merge(
        self,
        records: Sequence[Record],
        revision: int,
        refused: dict[int, RemoteProtocolError],
        revisions: list[int | None],
        equivocations: list[EquivocationProof],
    ) -> int:
        """Judge each that is not refused after those before it, and write what is new, many at a time. Returns the last revision given."""
        newest = self._newest_versions(records)
        new: dict[Columns, Record] = {}
        for index, record in enumerate(records):
            if index in refused:
                continue
            key = columns_of_record(record)
            if key in new:  # of two under one key the second is judged by what was written of the first
                self._write(new, newest)
            held = newest.get(key)
            if held is None or record.version > held:
                new[key] = record
                revision += 1  # as AUTOINCREMENT will
                revisions[index] = revision
                continue
            try:
                revisions[index] = self._revision_of_old(record, held, equivocations)
            except RemoteProtocolError as error:
                refused[index] = error
        self._write(new, newest)
        return revision

    def _newest_versions(self, records: Sequence[Record]) -> dict[Columns, Version]:
        found = self._each(GET_NEWEST_VERSION, map(columns_of_record, records))
        return {(group, kind, subject, topic): Version(era, sequence) for group, kind, subject, topic, era, sequence in found}

    def _write(self, new: dict[Columns, Record], newest: dict[Columns, Version]) -> None:
        """Write records that are newer than `newest`, in their order, and forget them."""
        self._each(SUPERSEDE, [key for key in new if key in newest])
        self._each(INSERT, map(row_of, new.values()))
        newest.update((key, record.version) for key, record in new.items())
        new.clear()

    def _revision_of_old(self, record: Record, newest: Version, equivocations: list[EquivocationProof]) -> int:
        """Return the revision of a record that is held already; its version is not above the newest one.

        Raises:
            StaleRecord, Equivocation: it is not; the proof was written.
        """
        held = self._get(record.key, record.version)
        verdict = judge(record.version, record.envelope, newest, held[0].record.envelope if held else None)
        if held and verdict is Verdict.UNCHANGED:
            return held[0].revision
        if held and verdict is Verdict.EQUIVOCATION:
            proof = EquivocationProof.of(held[0].record, record)
            equivocations.append(proof)
            self._add_proof(proof)
            raise refusal_of(record, held[0].record)
        raise refusal_of(record, None)

    def _add_proof(self, proof: EquivocationProof) -> None:
        evidence = (proof.held.envelope, proof.held.expires_ns, proof.other.envelope, proof.other.expires_ns)
        self._execute(ADD_PROOF, (*proof.key, *proof.version, *evidence))

    def _put_proof(self, proof: EquivocationProof) -> bool:
        if self._is_read_only:
            raise self._unavailable("the store was opened read-only", "only the node that owns the file writes to it")
        assert self._connection is not None
        proof.require_proven()
        with self._transaction():
            before = self._connection.total_changes()
            self._add_proof(EquivocationProof.of(proof.held, proof.other))
            return self._connection.total_changes() > before

    def _select_range(self, query: Query) -> list[StoredRecord]:
        if query.topic:
            statement = RANGE_OF_TOPIC
        elif query.subject is not None:
            statement = RANGE_OF_SUBJECT
        elif query.country is not None:
            statement = RANGE_OF_PLACE
        elif query.group is not None:
            statement = RANGE_OF_GROUP
        else:
            statement = RANGE if query.kind is None else RANGE_OF_KIND
        bindings = {
            "kind": query.kind,
            "grp": query.group,
            "subject": query.subject,
            "topic": query.topic,
            "country": query.country,
            "asn_min": query.asn_min,
            "asn_max": query.asn_max,
            "unexpired_ns": -1 if query.unexpired_ns is None else query.unexpired_ns,
            "after": query.after,
            "limit": query.limit,
        }
        return self._select(statement, bindings)

    def _get(self, key: Key, version: Version | None) -> list[StoredRecord]:
        if version is None:
            return self._select(GET_NEWEST, columns_of(key))
        return self._select(GET_VERSION, (*columns_of(key), *version))

    def _get_each(self, keys: tuple[Key, ...]) -> list[StoredRecord | None]:
        found = [self._get(key, None) for key in keys]
        return [each[0] if each else None for each in found]

    def _select(self, statement: str, bindings: Any) -> list[StoredRecord]:
        with self._refusing_malformed():
            return [stored_of(*row) for row in self._execute(statement, bindings)]

    def _select_proofs(self, limit: int) -> list[EquivocationProof]:
        with self._refusing_malformed():
            return [proof_of(*row) for row in self._execute(PROOFS, (limit,))]

    @contextlib.contextmanager
    def _refusing_malformed(self) -> Generator[None]:
        """What this store wrote is well-formed; a file with anything else was damaged or made by somebody else."""
        try:
            yield
        except (ValueError, TypeError) as error:
            raise self._unavailable(f"a record in the file is malformed ({error})", "move it away and restore a copy") from error

    def _revision(self) -> int:
        return self._scalar("SELECT seq FROM sqlite_sequence WHERE name = 'records'")

    def _require_writable(self) -> None:
        if self._is_read_only:
            raise self._unavailable("the store was opened read-only", "only the node that owns the file writes to it")

    def _lease(self, name: str, holder: NodeId, until_ns: int, wall_ns: int) -> bool:
        self._require_writable()
        with self._transaction():
            self._execute(TAKE_LEASE, (name, holder, until_ns, wall_ns))
            return bool(self._execute("SELECT holder = ? FROM leases WHERE name = ?", (holder, name))[0][0])

    def _release(self, name: str, holder: NodeId) -> None:
        self._require_writable()
        with self._transaction():
            self._execute("DELETE FROM leases WHERE name = ? AND holder = ?", (name, holder))

    def _prune_history(self, versions_max: int) -> int:
        assert self._connection is not None
        superfluous = self._execute(SUPERFLUOUS, (versions_max - 1, PRUNE_RECORDS_MAX))  # walks the superseded, before the lock is taken
        if not superfluous:
            return 0
        with self._transaction():
            before = self._connection.total_changes()
            for revision in superfluous:
                self._execute("DELETE FROM records WHERE revision = ? AND is_newest = 0", revision)
            return self._connection.total_changes() - before

    def _prune_step(self, expired_ns: int) -> int:
        assert self._connection is not None
        self._require_writable()
        with self._transaction():
            before = self._connection.total_changes()
            self._execute(DELETE_OLD, (expired_ns, PRUNE_RECORDS_MAX))
            if self._connection.total_changes() == before:
                for key in self._execute(EXPIRED_NEWEST, (expired_ns, PRUNE_RECORDS_MAX)):
                    self._execute(DELETE_KEY, key)
            return self._connection.total_changes() - before
