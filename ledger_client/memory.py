"""A record store in memory: for tests and swarms. Same contract as `sqlite.py`, under the same tests; nothing outlives the process."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from srwan.errors import RemoteProtocolError
from srwan.ledger_client.record import Key, Record, Version, check
from srwan.ledger_client.report import NS_PER_S
from srwan.ledger_client.store import (
    BATCH_RECORDS_MAX,
    EQUIVOCATIONS_MAX,
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
from srwan.types import NodeId

__all__ = ["MemoryStore"]


class MemoryStore:
    """Implements `RecordStore`. Unbounded: whoever fills it prunes it."""

    def __init__(self) -> None:
        self._versions: dict[Key, dict[Version, StoredRecord]] = {}
        self._equivocations: dict[Key, EquivocationProof] = {}
        self._leases: dict[str, tuple[NodeId, int]] = {}
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

    async def get_many(self, keys: Sequence[Key]) -> list[StoredRecord | None]:
        """See `RecordStore.get_many`."""
        require_page(max(1, len(keys)))
        await self._turn()
        held = (self._versions.get(key) for key in keys)
        return [versions[max(versions)] if versions else None for versions in held]

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

    async def prune(self, expired_ns: int, *, versions_max: int = HISTORY_VERSIONS_MAX) -> int:
        """See `RecordStore.prune`."""
        require_versions(versions_max)
        await self._turn()
        removed = 0
        for key, versions in list(self._versions.items()):
            if versions[max(versions)].record.expires_ns <= expired_ns:
                gone = list(versions)
            else:
                unexpired = sorted(each for each, stored in versions.items() if stored.record.expires_ns > expired_ns)
                gone = sorted(versions.keys() - set(unexpired[-versions_max:]))
            for version in gone:
                del versions[version]
            removed += len(gone)
            if not versions:
                del self._versions[key]
        return removed

    async def put_proof(self, proof: EquivocationProof) -> bool:
        """See `RecordStore.put_proof`."""
        await self._turn()
        proof.require_proven()
        if proof.key in self._equivocations or len(self._equivocations) >= EQUIVOCATIONS_MAX:
            return False
        self._equivocations[proof.key] = EquivocationProof.of(proof.held, proof.other)
        return True

    async def lease(self, name: str, holder: NodeId, lease_s: int, wall_ns: int) -> bool:
        """See `RecordStore.lease`."""
        require_lease(name, lease_s)
        await self._turn()
        held = self._leases.get(name)
        if held is not None and held[0] != holder and held[1] > wall_ns:
            return False
        self._leases[name] = (holder, wall_ns + lease_s * NS_PER_S)
        return True

    async def release(self, name: str, holder: NodeId) -> None:
        """See `RecordStore.release`."""
        await self._turn()
        if name in self._leases and self._leases[name][0] == holder:
            del self._leases[name]

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
