"""A batch on its way into an etcd cluster: how it is cut into transactions, what each is to change, and what became of the records.

Not here: talking to the cluster (`etcd.py`). Invariants: a plan is consistent with what was known when it was made; nothing of it counts
until it was committed.
"""

from __future__ import annotations

from collections.abc import Sequence

from srwan.errors import RemoteProtocolError
from srwan.ledger_client.etcd_keys import Layout, Newest
from srwan.ledger_client.record import Key, Record, Version
from srwan.ledger_client.store import BatchOutcome, EquivocationProof, Refusal, StoredRecord

__all__ = ["Batch", "Plan", "chunks_of"]

OPERATIONS_MAX = 120
"""Of one list of a transaction; etcd's default bound is 128."""
TRANSACTION_BYTES_MAX = 1_000_000
"""Of the values of one transaction; etcd's default bound of a request is 1.5 MB."""
OPERATIONS_PER_RECORD_MAX = 10
"""3 of the version, 5 of the indexes, and 2 entries of the version before it: by revision, and by place where it moved."""


class Plan:
    """What a chunk is to change, and what becomes of its records once it is committed."""

    def __init__(self, revision: int) -> None:
        self.revision = revision
        self.puts: dict[bytes, bytes] = {}
        self.deletes: set[bytes] = set()
        self.newest: dict[Key, Newest] = {}
        self.held: dict[tuple[Key, Version], StoredRecord] = {}
        self.stored: dict[int, int] = {}
        self.revisions: dict[int, int] = {}
        self.own = 0
        self.refused: dict[int, RemoteProtocolError] = {}
        self.equivocations: list[EquivocationProof] = []

    def add(self, index: int, record: Record, newest: Newest | None, layout: Layout) -> None:
        """Store a record in place of what was the newest under its key."""
        self.revision += 1
        if newest is not None:
            old = layout.index_puts(record.key, newest).keys()
            self.deletes |= old
            for key in old:
                self.puts.pop(key, None)
        now = Newest.of(self.revision, record)
        self.puts |= layout.version_puts(self.revision, record) | layout.index_puts(record.key, now)
        self.newest[record.key] = now
        self.held[record.key, record.version] = StoredRecord(self.revision, record)
        self.stored[index] = self.revisions[index] = self.revision


class Batch:
    """The records of one call and what has become of them so far."""

    def __init__(self, records: tuple[Record, ...], refused: dict[int, RemoteProtocolError]) -> None:
        self.records = records
        self.attempted: dict[int, int] = {}
        self._revisions: list[int | None] = [None] * len(records)
        self._refused = refused
        self._equivocations: list[EquivocationProof] = []
        self._stored = 0

    @property
    def open_indexes(self) -> list[int]:
        """Places of the records that were not refused yet."""
        return [index for index in range(len(self.records)) if index not in self._refused]

    def keys(self, chunk: Sequence[int]) -> list[Key]:
        """Keys of a chunk, each once, in order."""
        return list(dict.fromkeys(self.records[index].key for index in chunk))

    def apply(self, plan: Plan) -> None:
        """Take over what was committed."""
        for index, revision in plan.revisions.items():
            self._revisions[index] = revision
        self._refused |= plan.refused
        self._equivocations += plan.equivocations
        self._stored += len(plan.stored) + plan.own

    def outcome(self, revision: int) -> BatchOutcome:
        """Sum up."""
        refusals = tuple(Refusal(index, self._refused[index]) for index in sorted(self._refused))
        unchanged = len(self.records) - self._stored - len(refusals)
        return BatchOutcome(revision, tuple(self._revisions), self._stored, unchanged, refusals, tuple(self._equivocations))


def chunks_of(batch: Batch) -> list[list[int]]:
    """Cut what is to be stored into transactions: few enough operations, and bytes."""
    chunks: list[list[int]] = []
    bytes_held = 0
    for index in batch.open_indexes:
        record_bytes = len(batch.records[index].envelope) + 1024
        is_full = bool(chunks) and (len(chunks[-1]) + 1) * OPERATIONS_PER_RECORD_MAX > OPERATIONS_MAX
        if not chunks or is_full or bytes_held + record_bytes > TRANSACTION_BYTES_MAX:
            chunks.append([])
            bytes_held = 0
        chunks[-1].append(index)
        bytes_held += record_bytes
    return chunks
