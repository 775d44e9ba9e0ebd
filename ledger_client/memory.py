"""A record store in memory: for tests and swarms. Same contract as `sqlite.py`, under the same tests; nothing outlives the process."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from srwan.errors import RemoteProtocolError
from srwan.ledger_client.record import Key, Record, Version, check
from srwan.ledger_client.store import (
    BATCH_RECORDS_MAX,
    EQUIVOCATIONS_MAX,
    PAGE_RECORDS_MAX,
    BatchOutcome,
    EquivocationProof,
    Query,
    Refusal,
    StoredRecord,
    Verdict,
    judge,
    refusal_of,
    require_page,
    sole_revision,
)

__all__ = ["MemoryStore"]


class MemoryStore:
    """Implements `RecordStore`. Unbounded: whoever fills it prunes it."""

    def __init__(self) -> None:
        self._versions: dict[Key, dict[Version, StoredRecord]] = {}
        self._equivocations: dict[Key, EquivocationProof] = {}
        self._revision = 0
        self._changed = trio.Event()
        self._is_closed = False

    async def _turn(self) -> None:
        await trio.lowlevel.checkpoint()
        if self._is_closed:
            raise trio.ClosedResourceError("the record store is closed")

    async def put(self, record: Record, wall_ns: int) -> int:
        """See `RecordStore.put`."""
        return sole_revision(await self.put_many([record], wall_ns))

    async def put_many(self, records: Sequence[Record], wall_ns: int) -> BatchOutcome:
        """See `RecordStore.put_many`. Cost: the signatures, on the event loop."""
        if len(records) > BATCH_RECORDS_MAX:
            raise ValueError(f"a batch has up to {BATCH_RECORDS_MAX} records, not {len(records)}")
        await self._turn()
        before = self._revision
        revisions: list[int | None] = []
        refused: list[Refusal] = []
        equivocations: list[EquivocationProof] = []
        for index, record in enumerate(records):
            try:
                check(record, wall_ns)
                revisions.append(self._merge(record, equivocations))
            except RemoteProtocolError as error:
                revisions.append(None)
                refused.append(Refusal(index, error))
        stored = self._revision - before
        if stored:
            self._changed.set()
            self._changed = trio.Event()
        unchanged = len(records) - stored - len(refused)
        return BatchOutcome(self._revision, tuple(revisions), stored, unchanged, tuple(refused), tuple(equivocations))

    def _merge(self, record: Record, equivocations: list[EquivocationProof]) -> int:
        versions = self._versions.get(record.key, {})
        held = versions.get(record.version)
        verdict = judge(record.version, record.envelope, max(versions, default=None), held.record.envelope if held else None)
        if held is not None and verdict is Verdict.UNCHANGED:
            return held.revision
        if held is not None and verdict is Verdict.EQUIVOCATION:
            proof = EquivocationProof.of(held.record, record)
            equivocations.append(proof)
            if len(self._equivocations) < EQUIVOCATIONS_MAX:
                self._equivocations.setdefault(record.key, proof)
            raise refusal_of(record, held.record)
        if verdict is not Verdict.NEW:
            raise refusal_of(record, None)
        self._revision += 1
        self._versions.setdefault(record.key, {})[record.version] = StoredRecord(self._revision, record)
        return self._revision

    async def get(self, key: Key, version: Version | None = None) -> StoredRecord | None:
        """See `RecordStore.get`."""
        await self._turn()
        versions = self._versions.get(key)
        if not versions:
            return None
        return versions.get(max(versions) if version is None else version)

    async def range(self, query: Query) -> list[StoredRecord]:
        """See `RecordStore.range`. Cost: a scan of all keys."""
        await self._turn()
        newest = (versions[max(versions)] for versions in self._versions.values())
        return sorted(filter(query.matches, newest), key=lambda stored: stored.revision)[: query.limit]

    async def history(self, key: Key, *, limit: int = PAGE_RECORDS_MAX) -> list[StoredRecord]:
        """See `RecordStore.history`."""
        require_page(limit)
        await self._turn()
        versions = self._versions.get(key, {})
        return [versions[version] for version in sorted(versions, reverse=True)[:limit]]

    async def watch(self, after: int, *, limit: int = PAGE_RECORDS_MAX) -> list[StoredRecord]:
        """See `RecordStore.watch`."""
        require_page(limit)
        await self._turn()
        while not (found := self._above(after)):
            await self._changed.wait()
            await self._turn()
        return found[:limit]

    def _above(self, after: int) -> list[StoredRecord]:
        stored = (each for versions in self._versions.values() for each in versions.values() if each.revision > after)
        return sorted(stored, key=lambda each: each.revision)

    async def prune(self, expired_ns: int) -> int:
        """See `RecordStore.prune`."""
        await self._turn()
        removed = 0
        for key, versions in list(self._versions.items()):
            if versions[max(versions)].record.expires_ns <= expired_ns:
                gone = list(versions)
            else:
                gone = [version for version, stored in versions.items() if stored.record.expires_ns <= expired_ns]
            for version in gone:
                del versions[version]
            removed += len(gone)
            if not versions:
                del self._versions[key]
        return removed

    async def equivocations(self, *, limit: int = PAGE_RECORDS_MAX) -> list[EquivocationProof]:
        """See `RecordStore.equivocations`."""
        require_page(limit)
        await self._turn()
        return list(self._equivocations.values())[:limit]

    async def revision(self) -> int:
        """See `RecordStore.revision`."""
        await self._turn()
        return self._revision

    async def aclose(self) -> None:
        """See `RecordStore.aclose`."""
        self._is_closed = True
        self._changed.set()
        await trio.lowlevel.checkpoint()
