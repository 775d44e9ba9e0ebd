"""What a directory holds about a group: signed records of introducers, routers that take newcomers in. Pure functions.

A directory value is a canonical msgpack list of up to `RECORDS_MAX` sealed records, at most `VALUE_BYTES_MAX` bytes. The directory is
not trusted: each record is signed by the introducer itself, names the group it is for (so it cannot be put under another key), and
expires after ten minutes; bad ones are dropped when a value is read. Whoever publishes merges its own record into what it found. Two
that publish at once may each lose the other's record; the next refresh heals that.

A value that is full keeps records of distinct hosts first, then the freshest: many records from one host cannot push out the others.

Record: an envelope of kind "introducer" whose body is the canonical msgpack list [group (32 B), [[ip, port]...], [control...], issued ns,
expires ns]. The signer is the introducer.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

import attrs

from srwan.errors import DecodeError, LocalProtocolError, RemoteProtocolError
from srwan.identity import Identity
from srwan.overlay.group import GroupId, rendezvous_keys
from srwan.overlay.transport import ControlAddress
from srwan.overlay.view import as_list, bytes_list, decode_control, decode_lifetime, decode_udp, require_not_ahead, require_not_expired
from srwan.types import NodeId, UdpAddress
from srwan.wire import Envelope, pack, unpack

__all__ = ["IntroducerRecord", "best_value", "is_valid_value", "merge_values", "open_value"]

RECORDS_MAX = 8
RECORD_BYTES_MAX = 500
"""A sealed record; a usual one has 230 B."""
VALUE_BYTES_MAX = 4096
RECORD_TTL_S = 600
"""Ten minutes: the directory only bootstraps, and an introducer that crashed must not be tried for long."""

_KIND = "introducer"
_S = 1_000_000_000


@attrs.frozen(slots=True)
class IntroducerRecord:
    """Where newcomers may ask to be taken into a group; authentic when it came out of `open`."""

    node_id: NodeId
    group: GroupId
    udp: tuple[UdpAddress, ...]
    """1..4 addresses for datagrams, best first."""
    control: tuple[str, ...]
    """1..4 libp2p multiaddrs without the /p2p part; in memory one opaque string."""
    issued_ns: int
    """Wall time, ns since 1970."""
    expires_ns: int
    """Wall time, ns since 1970; at most `RECORD_TTL_S` after issued_ns."""

    @property
    def address(self) -> ControlAddress:
        """Where to ask."""
        return ControlAddress(self.node_id, self.control)

    def seal(self, identity: Identity) -> bytes:
        """Return the signed record, at most `RECORD_BYTES_MAX` bytes.

        Raises:
            LocalProtocolError: not this identity's own, or a field is out of its range.
        """
        if self.node_id != identity.node_id:
            raise LocalProtocolError(f"a record of {self.node_id!r} cannot be signed by {identity.node_id!r}")
        try:
            body = pack([self.group, [list(address) for address in self.udp], list(self.control), self.issued_ns, self.expires_ns])
            is_faithful = _decode_body(self.node_id, body) == self
        except (RemoteProtocolError, ValueError) as error:
            raise LocalProtocolError(f"not a valid introducer record: {error}") from None
        sealed = Envelope.seal(identity, _KIND, body).encode()
        if not is_faithful or len(sealed) > RECORD_BYTES_MAX:
            raise LocalProtocolError(f"a record of {len(sealed)} bytes, at most {RECORD_BYTES_MAX}; announce fewer addresses")
        return sealed

    @classmethod
    def open(cls, data: bytes, *, wall_ns: int) -> IntroducerRecord:
        """Return the record of authentic, valid bytes.

        Raises:
            LimitExceeded, DecodeError, BadSignature, StaleRecord: as `Member.open`.
        """
        record = cls.open_any_age(data)
        require_not_ahead(record.issued_ns, wall_ns)
        require_not_expired(record.expires_ns, wall_ns)
        return record

    @classmethod
    def open_any_age(cls, data: bytes) -> IntroducerRecord:
        """Return the record of authentic bytes, expired or not. Raises LimitExceeded, DecodeError, BadSignature."""
        envelope = Envelope.decode(data, bytes_max=RECORD_BYTES_MAX)
        return _decode_body(envelope.signer, envelope.verify(_KIND))


def _decode_body(node_id: NodeId, body: bytes) -> IntroducerRecord:
    match as_list(unpack(body, bytes_max=RECORD_BYTES_MAX)):
        case [bytes(group), udp, control, issued, expires] if len(group) == 32 and control:
            issued_ns, expires_ns = decode_lifetime(issued, expires, RECORD_TTL_S)
            return IntroducerRecord(node_id, GroupId(group), decode_udp(udp), decode_control(control), issued_ns, expires_ns)
        case _:
            raise DecodeError("not an introducer record")


def open_value(value: bytes, wall_ns: int) -> list[IntroducerRecord]:
    """Return the valid records of a directory value, newest of each node, best first; bad ones are dropped.

    The caller still has to check that `record.group` is its own.

    Raises:
        RemoteProtocolError: the value as a whole is malformed, or too large.

    Cost: 60 us a record.
    """
    return [record for record, _ in _ranked(_open_all(value, wall_ns))]


def merge_values(values: Iterable[bytes], group: GroupId, wall_ns: int) -> bytes:
    """Return one value with the valid records of all for one group; when they are too many, distinct hosts go first, then the freshest.

    Args:
        values: directory values; malformed ones count as empty.
        group: records of other groups are left out: a directory would not take them.
        wall_ns: wall time now.
    """
    records: dict[IntroducerRecord, bytes] = {}
    for value in values:
        try:
            records.update((record, sealed) for record, sealed in _open_all(value, wall_ns).items() if record.group == group)
        except RemoteProtocolError:
            continue
    chosen: list[bytes] = []
    for _, sealed in _ranked(records):
        if len(chosen) < RECORDS_MAX and len(pack([*chosen, sealed])) <= VALUE_BYTES_MAX:
            chosen.append(sealed)
    return pack(chosen)


def is_valid_value(key: bytes, value: bytes, wall_ns: int) -> bool:
    """Say whether a directory should store `value` under `key`: every record well-formed, authentic, for this key, one per node, one alive.

    Stricter than reading, so that nobody parks rubbish in a directory; what `merge_values` makes passes, also after some of its records
    expired. Never raises.
    """
    try:
        records = [IntroducerRecord.open_any_age(item) for item in _split(value)]
        for record in records:
            require_not_ahead(record.issued_ns, wall_ns)
    except RemoteProtocolError:
        return False
    is_one_each = len({record.node_id for record in records}) == len(records)
    is_for_key = all(key in rendezvous_keys(group) for group in {record.group for record in records})
    return is_one_each and is_for_key and any(record.expires_ns > wall_ns for record in records)


def best_value(values: Sequence[bytes], wall_ns: int) -> int:
    """Return the index of the value to keep: most live records on distinct hosts, then most records, then the freshest.

    Raises:
        ValueError: values is empty.
    """
    if not values:
        raise ValueError("no values to choose from")
    return max(range(len(values)), key=lambda index: _quality(values[index], wall_ns))


def _quality(value: bytes, wall_ns: int) -> tuple[int, int, int]:
    try:
        records = open_value(value, wall_ns)
    except RemoteProtocolError:
        return 0, 0, 0
    return len({_host_of(record) for record in records}), len(records), max((record.issued_ns for record in records), default=0)


def _split(value: bytes) -> list[bytes]:
    return bytes_list(unpack(value, bytes_max=VALUE_BYTES_MAX), RECORDS_MAX)


def _open_all(value: bytes, wall_ns: int) -> dict[IntroducerRecord, bytes]:
    records: dict[IntroducerRecord, bytes] = {}
    for sealed in _split(value):
        try:
            records[IntroducerRecord.open(sealed, wall_ns=wall_ns)] = sealed
        except RemoteProtocolError:
            continue
    return records


def _ranked(records: dict[IntroducerRecord, bytes]) -> list[tuple[IntroducerRecord, bytes]]:
    """Newest of each node, freshest first, but one of each host before the second of any."""
    newest: dict[NodeId, tuple[IntroducerRecord, bytes]] = {}
    for record, sealed in sorted(records.items(), key=lambda item: (-item[0].issued_ns, item[0].node_id, item[1])):
        newest.setdefault(record.node_id, (record, sealed))
    hosts: set[str] = set()
    first: list[tuple[IntroducerRecord, bytes]] = []
    rest: list[tuple[IntroducerRecord, bytes]] = []
    for entry in newest.values():
        host = _host_of(entry[0])
        (rest if host in hosts else first).append(entry)
        hosts.add(host)
    return first + rest


def _host_of(record: IntroducerRecord) -> str:
    """The network a record is in: /24 or /48, as one owner usually holds that much."""
    ip = ipaddress.ip_address(record.udp[0][0])
    return str(ipaddress.ip_network((ip, 24 if ip.version == 4 else 48), strict=False))
