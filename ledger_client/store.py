"""The interface of a record store, the values that go in and out of it, and the one rule by which all stores merge.

Theory of operation. A store keeps, per key, all versions it accepted until they are pruned; the newest is the record, the others are its
history. Every accepted record gets a revision, a number that rises by commit and is never given twice, so that a watcher can go on where
it stopped. Putting is a batch: each record is checked by itself, the good ones are stored in one transaction, the others come back with
the reason. Putting the same record again changes nothing, so batches may be repeated after a failure.

Merge rule (`judge`): a version already held under the same key is unchanged if its bytes are equal, and equivocation if they are not;
otherwise newer than the newest is stored and older is stale. What is held never gives way to a contradiction.

Not here: any storage. `sqlite.py` and `memory.py` implement it under one contract test.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Protocol

import attrs

from srwan.errors import Equivocation, RemoteProtocolError, StaleRecord
from srwan.ledger_client.record import ASN_MAX, NOWHERE, Key, Kind, Record, Version, authenticate

__all__ = ["BatchOutcome", "EquivocationProof", "Query", "RecordStore", "Refusal", "StoredRecord", "Verdict", "judge"]

BATCH_RECORDS_MAX = 1000
"""Records of one `put_many`: verifying them takes about 0.1 s (benchmarks/ledger.py), and beyond 500 a transaction gains nothing."""
PAGE_RECORDS_MAX = 1000
"""Records of one page; a page of reports is then at most 16 MB."""
EQUIVOCATIONS_MAX = 4096
"""Proofs held; one per key suffices to distrust its subject, and what comes after the bound is counted only."""


class Verdict(enum.Enum):
    """What becomes of a record that was put."""

    NEW = "new"
    UNCHANGED = "unchanged"
    STALE = "stale"
    EQUIVOCATION = "equivocation"


def judge(version: Version, envelope: bytes, newest: Version | None, held: bytes | None) -> Verdict:
    """Decide about a record.

    Args:
        version: of the record.
        envelope: of the record.
        newest: newest version held under its key, None if none is.
        held: the envelope held under its key and version, None if none is.
    """
    if held is not None:
        if held != envelope:
            return Verdict.EQUIVOCATION
        return Verdict.UNCHANGED if version == newest else Verdict.STALE
    return Verdict.NEW if newest is None or version > newest else Verdict.STALE


def refusal_of(record: Record, held: Record | None) -> RemoteProtocolError:
    """Return the error for a record judged STALE (`held` None) or contradicting `held`; its `reason` is "stale" or "equivocation"."""
    if held is not None:
        return Equivocation(record.subject, held.envelope, record.envelope)
    return StaleRecord(f"a newer {record.kind} record of {record.subject!r} than {record.version} is held")


@attrs.frozen(slots=True)
class StoredRecord:
    """A record as it lies in a store."""

    revision: int
    """Rises with every record the store accepts, from 1."""
    record: Record


@attrs.frozen(slots=True)
class EquivocationProof:
    """Two records under one key and version: evidence against their subject that convinces whoever verifies both."""

    held: Record
    """The one that came first and stays in force; without place and epoch."""
    other: Record
    """The one that contradicts it; without place and epoch."""

    @classmethod
    def of(cls, held: Record, other: Record) -> EquivocationProof:
        """Make one of two records as they are, dropping what no signature covers."""
        return cls(*(attrs.evolve(each, epoch=0, country=NOWHERE.country, asn=NOWHERE.asn) for each in (held, other)))

    @property
    def key(self) -> Key:
        """What both speak of."""
        return self.held.key

    @property
    def version(self) -> Version:
        """The version both were signed under."""
        return self.held.version

    def is_proven(self) -> bool:
        """Say whether the subject signed both under this version and they differ. Cost: two signatures."""
        if self.other.key != self.key or self.other.version != self.version or self.held.envelope == self.other.envelope:
            return False
        try:
            authenticate(self.held)
            authenticate(self.other)
        except RemoteProtocolError:
            return False
        return True


@attrs.frozen(slots=True)
class Refusal:
    """A record of a batch that was not stored."""

    index: int
    """Its place in the batch."""
    error: RemoteProtocolError
    """Why; `error.reason` is the word to count it under."""


@attrs.frozen(slots=True)
class BatchOutcome:
    """What became of a batch; once returned, what was stored stays."""

    revision: int
    """Of the store after the batch."""
    revisions: tuple[int | None, ...]
    """For each record in turn, the revision under which it is held now, or None where it was refused."""
    stored: int
    """Records that are new."""
    unchanged: int
    """Records that were held already, byte for byte."""
    refused: tuple[Refusal, ...]
    equivocations: tuple[EquivocationProof, ...]
    """Contradictions in this batch, each also refused; report their subjects."""


def sole_revision(outcome: BatchOutcome) -> int:
    """Return the revision of the only record of a batch.

    Raises:
        RemoteProtocolError: it was refused.
    """
    if outcome.refused:
        raise outcome.refused[0].error
    (revision,) = outcome.revisions
    assert revision is not None
    return revision


@attrs.frozen(slots=True)
class Query:
    """Which newest records to return; what is None does not filter.

    Raises:
        ValueError: ASN without country, an ASN range that is not one, or a limit out of range.
    """

    kind: Kind | None = None
    group: bytes | None = None
    country: str | None = None
    """ISO 3166-1 alpha-2."""
    asn_min: int = 0
    """Lowest autonomous system number, inclusive; needs a country."""
    asn_max: int = ASN_MAX
    """Highest autonomous system number, inclusive; needs a country."""
    unexpired_ns: int | None = None
    """Wall time, ns since 1970: leave out what had expired then."""
    after: int = 0
    """Only revisions above this one: the last one of the page before."""
    limit: int = PAGE_RECORDS_MAX
    """Longest answer, records, 1..PAGE_RECORDS_MAX."""

    def __attrs_post_init__(self) -> None:
        if not 0 <= self.asn_min <= self.asn_max <= ASN_MAX:
            raise ValueError(f"no ASN range: {self.asn_min}..{self.asn_max}")
        if self.country is None and (self.asn_min > 0 or self.asn_max < ASN_MAX):
            raise ValueError("an ASN range needs a country: the index is by country, then ASN")
        require_page(self.limit)

    def matches(self, stored: StoredRecord) -> bool:
        """Say whether a newest record belongs into the answer."""
        record = stored.record
        return (
            stored.revision > self.after
            and self.kind in (None, record.kind)
            and self.group in (None, record.group)
            and self.country in (None, record.country)
            and self.asn_min <= record.asn <= self.asn_max
            and (self.unexpired_ns is None or record.expires_ns > self.unexpired_ns)
        )


def require_page(limit: int) -> None:
    """Return if `limit` is a page size.

    Raises:
        ValueError: it is not.
    """
    if not 1 <= limit <= PAGE_RECORDS_MAX:
        raise ValueError(f"a page has 1..{PAGE_RECORDS_MAX} records, not {limit}")


class RecordStore(Protocol):
    """A place for verified records. May be used by several tasks at once; calls take turns.

    Every method raises `StoreUnavailable` when the storage fails (nothing of that call is stored then) and `trio.ClosedResourceError`
    after `aclose`. A call that is cancelled while waiting for its turn does nothing; once begun it runs to its end.
    """

    async def put(self, record: Record, wall_ns: int) -> int:
        """Verify and store one record and return the revision under which it is held.

        Raises:
            StaleRecord: older than held, or expired. Equivocation: it contradicts what is held; the proof was stored.
            RemoteProtocolError: it does not pass `record.check`. Nothing changed.
        """
        ...

    async def put_many(self, records: Sequence[Record], wall_ns: int) -> BatchOutcome:
        """Verify each record and store the good ones in one transaction; each is judged after those before it.

        Args:
            records: up to BATCH_RECORDS_MAX.
            wall_ns: wall time now, ns since 1970.

        Raises:
            ValueError: too many records. Nothing changed.
        """
        ...

    async def get(self, key: Key, version: Version | None = None) -> StoredRecord | None:
        """Return the newest record under `key`, or the one of just that version; None if it is not held."""
        ...

    async def range(self, query: Query) -> list[StoredRecord]:
        """Return the newest records that match, by rising revision; a full page may have more behind it."""
        ...

    async def history(self, key: Key, *, limit: int = PAGE_RECORDS_MAX) -> list[StoredRecord]:
        """Return up to `limit` versions held under `key`, newest first.

        Raises:
            ValueError: limit is not 1..PAGE_RECORDS_MAX.
        """
        ...

    async def watch(self, after: int, *, limit: int = PAGE_RECORDS_MAX) -> list[StoredRecord]:
        """Wait until records with a revision above `after` are held and return the first ones, by rising revision.

        Call it again with the last revision seen. What was superseded in between comes too; what was pruned does not.

        Raises:
            ValueError: limit is not 1..PAGE_RECORDS_MAX. trio.ClosedResourceError: the store was closed while waiting.
        """
        ...

    async def prune(self, expired_ns: int) -> int:
        """Remove what expired at or before this wall time (ns since 1970) and return how many records that were.

        Where the newest version of a key goes, all its older ones go with it, so that an old one never comes into force again. Proofs of
        equivocation stay.
        """
        ...

    async def equivocations(self, *, limit: int = PAGE_RECORDS_MAX) -> list[EquivocationProof]:
        """Return the first proofs held, oldest first: at most one per key, EQUIVOCATIONS_MAX in all.

        Raises:
            ValueError: limit is not 1..PAGE_RECORDS_MAX.
        """
        ...

    async def revision(self) -> int:
        """Return the revision of the record accepted last; 0 if there never was one."""
        ...

    async def aclose(self) -> None:
        """Close it; a pending `watch` raises `trio.ClosedResourceError`. Closing twice is fine."""
        ...
