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

from srwan.errors import DecodeError, Equivocation, RemoteProtocolError, StaleRecord
from srwan.ledger_client.record import ASN_MAX, NOWHERE, Key, Kind, Record, Version, authenticate
from srwan.types import NodeId

__all__ = ["BatchOutcome", "EquivocationProof", "Query", "RecordStore", "Refusal", "StoredRecord", "Verdict", "judge"]

BATCH_RECORDS_MAX = 1000
"""Records of one `put_many`: verifying them takes about 0.1 s (benchmarks/ledger.py), and beyond 500 a transaction gains nothing."""
PAGE_RECORDS_MAX = 1000
"""Records of one page; a page of reports is then at most 16 MB."""
EQUIVOCATIONS_MAX = 4096
"""Proofs held; one per key suffices to distrust its subject, and what comes after the bound is counted only."""
HISTORY_VERSIONS_MAX = 32
"""Versions of one key that pruning leaves, the newest included: rows of 5 min, so that older reports can still be read."""
LEASE_NAME_MAX = 64
LEASE_S_MAX = 3600
"""Longest lease, s: whoever died holding it is waited for no longer than this."""


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

    def require_proven(self) -> None:
        """Return if `is_proven`.

        Raises:
            DecodeError: it is not ("unproven").
        """
        if not self.is_proven():
            raise DecodeError(f"no proof of equivocation by {self.held.subject!r}", reason="unproven")

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
    subject: NodeId | None = None
    topic: bytes | None = None
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
            and self.subject in (None, record.subject)
            and self.topic in (None, record.topic)
            and self.country in (None, record.country)
            and self.asn_min <= record.asn <= self.asn_max
            and (self.unexpired_ns is None or record.expires_ns > self.unexpired_ns)
        )


def require_lease(name: str, lease_s: int) -> None:
    """Return if a lease may have this name and time.

    Raises:
        ValueError: it may not.
    """
    if not (0 < len(name) <= LEASE_NAME_MAX and name.isascii() and name.isprintable()):
        raise ValueError(f"a lease is called 1..{LEASE_NAME_MAX} printable ASCII characters, not {name!r}")
    if not 1 <= lease_s <= LEASE_S_MAX:
        raise ValueError(f"a lease lasts 1..{LEASE_S_MAX} s, not {lease_s}")


def require_versions(versions_max: int) -> None:
    """Return if pruning may leave so many versions.

    Raises:
        ValueError: fewer than one.
    """
    if versions_max < 1:
        raise ValueError(f"the newest version stays: {versions_max} is no number of versions to leave")


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

    async def get_many(self, keys: Sequence[Key]) -> list[StoredRecord | None]:
        """Return the newest record under each of up to PAGE_RECORDS_MAX keys, in their order; None where none is held.

        Raises:
            ValueError: too many keys.
        """
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

    async def prune(self, expired_ns: int, *, versions_max: int = HISTORY_VERSIONS_MAX) -> int:
        """Remove what expired at or before this wall time (ns since 1970), and of every key all but the newest versions.

        Where the newest version of a key goes, all its older ones go with it, so that an old one never comes into force again. Proofs of
        equivocation stay.

        Args:
            expired_ns: wall time, ns since 1970.
            versions_max: versions of a key that stay, the newest included, at least 1.

        Returns:
            How many records went.

        Raises:
            ValueError: versions_max is below 1.
        """
        ...

    async def lease(self, name: str, holder: NodeId, lease_s: int, wall_ns: int) -> bool:
        """Take or renew the exclusive right called `name`, so that of several processes on one store one does a job and others stand by.

        Args:
            name: of the job, 1..LEASE_NAME_MAX characters of printable ASCII; cooperating processes agree on it.
            holder: who asks.
            lease_s: until when unless renewed, s from now, 1..LEASE_S_MAX.
            wall_ns: wall time now, ns since 1970; a store with a clock of its own goes by that one.

        Returns:
            Whether `holder` has it now; False while another has.

        Raises:
            ValueError: name or time out of bounds.
        """
        ...

    async def release(self, name: str, holder: NodeId) -> None:
        """Give the right called `name` back, if `holder` has it."""
        ...

    async def put_proof(self, proof: EquivocationProof) -> bool:
        """Verify a proof that another store found and keep it, unless one of its key is held or there are EQUIVOCATIONS_MAX.

        Returns:
            Whether it was kept.

        Raises:
            DecodeError: it proves nothing ("unproven"). Nothing changed.
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
