"""Between records and the columns of the embedded record store's tables (`sqlite_schema`). A core."""

from __future__ import annotations

from typing import Any, TypeAlias

from srwan.ledger_client.record import Key, Kind, Record, Version
from srwan.ledger_client.store import EquivocationProof, StoredRecord
from srwan.types import NodeId

__all__ = ["Columns", "columns_of", "columns_of_record", "proof_of", "row_of", "stored_of"]

Columns: TypeAlias = tuple[bytes, str, bytes, bytes]
"""A key as the indexes have it: group, kind, subject, topic."""


def columns_of(key: Key) -> Columns:
    """Return what OF_KEY takes."""
    return key.group, key.kind, key.subject, key.topic


def columns_of_record(record: Record) -> Columns:
    """Do `columns_of(record.key)` without making the key; the kind as a plain str, whose hash is quick."""
    return record.group, record.kind.value, record.subject, record.topic


def row_of(record: Record) -> tuple[Any, ...]:
    """Return what INSERT takes."""
    filed = (record.kind.value, record.group, record.subject, record.topic, *record.version, record.expires_ns)
    return (*filed, record.epoch, record.country, record.asn, record.envelope)


def stored_of(
    revision: int,
    kind: str,
    group: bytes,
    subject: bytes,
    topic: bytes,
    era: int,
    sequence: int,
    expires_ns: int,
    epoch: int,
    country: str,
    asn: int,
    envelope: bytes,
) -> StoredRecord:
    """Make a record of what COLUMNS are. Raises ValueError or TypeError where the file was damaged."""
    version = Version(era, sequence)
    return StoredRecord(revision, Record(Kind(kind), group, NodeId(subject), version, expires_ns, envelope, epoch, country, asn, topic))


def proof_of(
    kind: str,
    group: bytes,
    subject: bytes,
    topic: bytes,
    era: int,
    sequence: int,
    held: bytes,
    held_expires_ns: int,
    other: bytes,
    other_expires_ns: int,
) -> EquivocationProof:
    """Make a proof of what PROOF_COLUMNS are. Raises as `stored_of`."""
    filed = (Kind(kind), group, NodeId(subject), Version(era, sequence))
    return EquivocationProof(Record(*filed, held_expires_ns, held, topic=topic), Record(*filed, other_expires_ns, other, topic=topic))
