"""How records lie in an etcd cluster: keys, values and indexes, as pure functions.

Layout, below a prefix of the operator's choice. KEY is group (32 B), kind and "/", subject (32 B), length of the topic (1 B), topic: whole
groups, and kinds of a group, are ranges. Revisions, versions and times are 8 bytes, big endian, so that order of keys is order of numbers.

    head                            revision of the record accepted last, 8 B
    r/REVISION                      the record: canonical msgpack of all its fields
    v/KEY ERA SEQUENCE              its revision: the history of a key
    n/KEY                           of the newest version: canonical msgpack of [revision, era, sequence, country, ASN, expiry]
    k/KIND "/" REVISION             the newest of a kind by revision; empty
    p/COUNTRY ASN(4 B) KEY          the newest of a place: revision
    s/SUBJECT KEY                   the newest of a subject: revision
    t/LENGTH TOPIC KEY              the newest of a topic that is not empty: revision
    x/EXPIRY REVISION               what expires when: KEY ERA SEQUENCE
    e/KEY                           a proof of equivocation: canonical msgpack
    l/NAME                          holder of a lease; etcd removes it with the lease

Everything that writes, but for e/ and l/, compares the modification revision of `head` and writes it: all changes of a store are one
sequence, and a revision is never given twice.

Invariants: every function here is total over well-formed input, and decoders raise ValueError for anything else.
"""

from __future__ import annotations

import attrs

from srwan.errors import RemoteProtocolError
from srwan.ledger_client.record import ENVELOPE_BYTES_MAX, Key, Kind, Record, Version
from srwan.ledger_client.store import EquivocationProof, StoredRecord
from srwan.types import NodeId
from srwan.wire import pack, unpack

__all__ = ["Layout", "Newest", "after_prefix"]

_NUMBER_BYTES = 8
_ID_BYTES = 32
_RECORD_OVERHEAD_BYTES = 256
_RECORD_BYTES_MAX = max(ENVELOPE_BYTES_MAX.values()) + _RECORD_OVERHEAD_BYTES


@attrs.frozen(slots=True)
class Newest:
    """What `n/` says of a key."""

    revision: int
    """Under which it is held."""
    version: Version
    country: str
    """ISO 3166-1 alpha-2."""
    asn: int
    """Autonomous system number."""
    expires_ns: int
    """Wall time, ns since 1970."""

    @classmethod
    def of(cls, revision: int, record: Record) -> Newest:
        """Of a record held under `revision`."""
        return cls(revision, record.version, record.country, record.asn, record.expires_ns)

    def encode(self) -> bytes:
        """Return the value."""
        return pack([self.revision, *self.version, self.country, self.asn, self.expires_ns])

    @classmethod
    def decode(cls, value: bytes) -> Newest:
        """Parse a value.

        Raises:
            ValueError: malformed.
        """
        match _unpack(value, 128):
            case [int(revision), int(era), int(sequence), str(country), int(asn), int(expires_ns)]:
                return cls(revision, Version(era, sequence), country, asn, expires_ns)
            case _:
                raise ValueError("not what is said of a newest version")


def _unpack(value: bytes, bytes_max: int) -> object:
    try:
        return unpack(value, bytes_max=bytes_max)
    except RemoteProtocolError as error:
        raise ValueError(str(error)) from None


def number(value: int) -> bytes:
    """Return 8 bytes, big endian."""
    return value.to_bytes(_NUMBER_BYTES, "big")


def number_of(value: bytes) -> int:
    """Parse `number`.

    Raises:
        ValueError: not 8 bytes.
    """
    if len(value) != _NUMBER_BYTES:
        raise ValueError(f"a number has {_NUMBER_BYTES} bytes, not {len(value)}")
    return int.from_bytes(value, "big")


def after_prefix(prefix: bytes) -> bytes:
    """Return the first key after all that start with `prefix`, which ends in no 0xFF forever."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else b"\0"


def key_bytes(key: Key) -> bytes:
    """Return KEY."""
    return key.group + key.kind.encode("ascii") + b"/" + key.subject + bytes([len(key.topic)]) + key.topic


def key_of(value: bytes) -> Key:
    """Parse KEY.

    Raises:
        ValueError: malformed.
    """
    kind, slash, rest = value[_ID_BYTES:].partition(b"/")
    topic = rest[_ID_BYTES + 1 :]
    if not slash or len(rest) <= _ID_BYTES or rest[_ID_BYTES] != len(topic):
        raise ValueError("not the key of a record")
    return Key(Kind(kind.decode("ascii")), value[:_ID_BYTES], NodeId(rest[:_ID_BYTES]), topic)


def version_bytes(version: Version) -> bytes:
    """Return ERA SEQUENCE."""
    return number(version.era) + number(version.sequence)


def key_and_version_of(value: bytes) -> tuple[Key, Version]:
    """Parse KEY ERA SEQUENCE.

    Raises:
        ValueError: malformed.
    """
    version = value[-2 * _NUMBER_BYTES :]
    return key_of(value[: -2 * _NUMBER_BYTES]), Version(number_of(version[:_NUMBER_BYTES]), number_of(version[_NUMBER_BYTES:]))


def record_bytes(record: Record) -> bytes:
    """Return the value of `r/`."""
    filed = [record.kind.value, record.group, record.subject, record.topic, *record.version, record.expires_ns]
    return pack([*filed, record.epoch, record.country, record.asn, record.envelope])


def stored_of(revision: bytes, value: bytes) -> StoredRecord:
    """Parse the key's end and the value of `r/`.

    Raises:
        ValueError: malformed.
    """
    match _unpack(value, _RECORD_BYTES_MAX):
        case [
            str(kind), bytes(group), bytes(subject), bytes(topic), int(era), int(sequence), int(expires_ns),
            int(epoch), str(country), int(asn), bytes(envelope),
        ]:  # fmt: skip
            filed = (Kind(kind), group, NodeId(subject), Version(era, sequence), expires_ns, envelope)
            return StoredRecord(number_of(revision), Record(*filed, epoch, country, asn, topic))
        case _:
            raise ValueError("not a record")


def proof_bytes(proof: EquivocationProof) -> bytes:
    """Return the value of `e/`."""
    return pack([record_bytes(proof.held), record_bytes(proof.other)])


def proof_of(value: bytes) -> EquivocationProof:
    """Parse the value of `e/`.

    Raises:
        ValueError: malformed.
    """
    match _unpack(value, 2 * _RECORD_BYTES_MAX + 16):
        case [bytes(held), bytes(other)]:
            return EquivocationProof(*(stored_of(bytes(_NUMBER_BYTES), each).record for each in (held, other)))
        case _:
            raise ValueError("not a proof")


@attrs.frozen(slots=True)
class Layout:
    """Where things are below one prefix."""

    prefix: bytes

    @property
    def head(self) -> bytes:
        """Where the last revision is."""
        return self.prefix + b"head"

    def record(self, revision: int) -> bytes:
        """Where a record is."""
        return self.prefix + b"r/" + number(revision)

    @property
    def records_end(self) -> bytes:
        """After all records."""
        return self.prefix + b"r0"

    def newest(self, key: Key) -> bytes:
        """Where it says which version is in force."""
        return self.prefix + b"n/" + key_bytes(key)

    def newest_of_group(self, group: bytes, kind: Kind | None) -> bytes:
        """Prefix of the keys of a group, of one kind if it is given."""
        return self.prefix + b"n/" + group + (kind.encode("ascii") + b"/" if kind else b"")

    def version(self, key: Key, version: Version) -> bytes:
        """Where it says under which revision a version is held."""
        return self.versions(key) + version_bytes(version)

    def versions(self, key: Key) -> bytes:
        """Prefix of a key's versions."""
        return self.all_versions + key_bytes(key)

    @property
    def all_versions(self) -> bytes:
        """Prefix of all versions of all keys."""
        return self.prefix + b"v/"

    def of_kind(self, kind: Kind, revision: int) -> bytes:
        """Where the newest of a kind are, by revision."""
        return self.prefix + b"k/" + kind.encode("ascii") + b"/" + number(revision)

    def of_place(self, country: str, asn: int) -> bytes:
        """Prefix of the newest of a place; ASN 2**32 gives what follows the last one."""
        return self.prefix + b"p/" + country.encode("ascii") + asn.to_bytes(5, "big")[1:] if asn < 2**32 else self._after_country(country)

    def _after_country(self, country: str) -> bytes:
        return after_prefix(self.prefix + b"p/" + country.encode("ascii"))

    def of_subject(self, subject: NodeId) -> bytes:
        """Prefix of the newest of a subject."""
        return self.prefix + b"s/" + subject

    def of_topic(self, topic: bytes) -> bytes:
        """Prefix of the newest of a topic."""
        return self.prefix + b"t/" + bytes([len(topic)]) + topic

    def expiry(self, expires_ns: int, revision: int) -> bytes:
        """Where it says what expires at a time."""
        return self.prefix + b"x/" + number(expires_ns) + number(revision)

    @property
    def proofs(self) -> bytes:
        """Prefix of the proofs of equivocation."""
        return self.prefix + b"e/"

    def lease(self, name: str) -> bytes:
        """Where it says who holds a lease."""
        return self.prefix + b"l/" + name.encode("ascii")

    def index_puts(self, key: Key, newest: Newest) -> dict[bytes, bytes]:
        """Everything that says that a version is in force: keys and values."""
        at, revision = key_bytes(key), number(newest.revision)
        puts = {
            self.newest(key): newest.encode(),
            self.of_kind(key.kind, newest.revision): b"",
            self.of_place(newest.country, newest.asn) + at: revision,
            self.of_subject(key.subject) + at: revision,
        }
        return puts | ({self.of_topic(key.topic) + at: revision} if key.topic else {})

    def version_puts(self, revision: int, record: Record) -> dict[bytes, bytes]:
        """Everything that says that a version is held."""
        return {
            self.record(revision): record_bytes(record),
            self.version(record.key, record.version): number(revision),
            self.expiry(record.expires_ns, revision): key_bytes(record.key) + version_bytes(record.version),
        }
