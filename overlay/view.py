"""Who is in my group: signed membership certificates, and the map that merges them.

A certificate is what a node says about itself, signed by itself: where it is, what it does, until when that holds. Nobody else can
write or alter it, so it does not matter from whom it comes, and a view needs no consensus: it is a map from node to its newest
certificate, newest by (boot, seq); a leaving certificate is a tombstone that stays until it expires, so that an older copy cannot bring
the node back. Merging is commutative, associative and idempotent: two views that saw the same certificates are equal, in whatever order
they came. A burial (the proof that a quorum declared one run dead, `verdict.py`) is a grave: no certificate of that node up to that boot
lives any more, whatever its seq; a later boot does. Of two graves of a node the one of the later boot is kept.

Invariants. At most `MEMBERS_MAX` living members, `TOMBSTONES_MAX` tombstones and `GRAVES_MAX` graves. The digest depends on ids and boots
of the living only, not on seq, so renewals do not disturb it. At one (boot, seq) a leaving body beats a living one, and of two living
bodies the first stays: the signer equivocated, which can change what is known of itself but never the digest.

A boot id rises with the time of start and wraps every 13.6 years; a node that restarts across the wrap is taken up again when its last
certificate expires.

Certificate: an envelope of kind "member" whose body is the canonical msgpack list [boot, seq, group (8 B), name, [[ip, port]...],
[control...], country, latitude, longitude, ASN, roles, issued ns, expires ns, is leaving]. The signer is the node.
"""

from __future__ import annotations

import bisect
import enum
import functools
import hashlib
import ipaddress
import struct
from typing import cast

import attrs

from srwan.errors import DecodeError, Equivocation, LimitExceeded, LocalProtocolError, RemoteProtocolError, StaleRecord
from srwan.identity import Identity
from srwan.types import GeoAsn, NodeId, UdpAddress
from srwan.wire import Envelope, pack, unpack

__all__ = [
    "Grave",
    "Member",
    "Role",
    "View",
    "certificate_id",
    "decode_control",
    "decode_lifetime",
    "decode_udp",
    "require_not_ahead",
    "require_not_expired",
]

MEMBERS_MAX = 128
"""Living members of a view: a group has up to 100, the rest is room while one splits."""
TOMBSTONES_MAX = 128
"""Leaving certificates kept; the one to expire first goes when there are more."""
GRAVES_MAX = 128
"""Graves kept, 1 to 7 kB each; the one to expire first goes when there are more."""
CERTIFICATE_BYTES_MAX = 600
"""Sealed certificate: a JOIN frame holds one in any case; a usual one has 220 B."""
LIFETIME_S_DEFAULT = 600
LIFETIME_S_MAX = 900
MEMBER_SKEW_S = 60
"""How far a certificate's issue time may lie ahead of our wall clock; a node whose clock is worse cannot join."""
GRAVE_S = LIFETIME_S_MAX + 2 * MEMBER_SKEW_S
"""A grave is kept this long after its last accusation: as long as a certificate of that run can be valid, with two clocks a minute off."""
NAME_CHARS_MAX = 32
UDP_ADDRESSES_MAX = 4
CONTROL_ADDRESSES_MAX = 4
CONTROL_CHARS_MAX = 128
NO_GROUP = bytes(8)
"""Group field of a certificate that is bound to no group: for tests and tools."""

_KIND = "member"
_FIELDS = 14
_OPENED_CACHE = 1024
"""Verified certificates remembered per process, about 1 MB: a swarm in one process verifies each once, not once per member."""
_S = 1_000_000_000


class Role(enum.IntFlag):
    """What a node offers to others. Values are wire format; unknown bits are refused."""

    RELAY = 1
    EGRESS = 2
    INTRODUCER = 4
    GATEWAY = 8
    """Takes IP packets for its TUN (SID functions END_DT6, END_DX4)."""


@attrs.frozen(slots=True)
class Member:
    """What a node says about itself; authentic when it came out of `open`."""

    node_id: NodeId
    boot: int
    """Start of the run that issued this, tenths of a second since 1970 modulo 2**32."""
    seq: int
    """Rises within a boot."""
    name: str
    """Label, up to 32 printable ASCII characters, "" allowed; a claim, neither unique nor checked."""
    udp: tuple[UdpAddress, ...]
    """1..4 addresses for datagrams, best first."""
    control: tuple[str, ...]
    """0..4 libp2p multiaddrs without the /p2p part; in memory one opaque string."""
    location: GeoAsn
    roles: Role
    issued_ns: int
    """Wall time, ns since 1970."""
    expires_ns: int
    """Wall time, ns since 1970; at most `LIFETIME_S_MAX` after issued_ns."""
    is_leaving: bool = False
    """A tombstone: the node left, in this boot."""
    group: bytes = NO_GROUP
    """First 8 bytes of the id of the group it is a member of; a view takes only its own group's certificates."""

    @property
    def version(self) -> tuple[int, int, bool]:
        """Newer certificates of a node have greater versions."""
        return self.boot, self.seq, self.is_leaving

    def seal(self, identity: Identity) -> bytes:
        """Return the signed certificate, at most `CERTIFICATE_BYTES_MAX` bytes. Cost: 40 us.

        Raises:
            LocalProtocolError: not this identity's own, or a field is out of its range.
        """
        if self.node_id != identity.node_id:
            raise LocalProtocolError(f"a certificate of {self.node_id!r} cannot be signed by {identity.node_id!r}")
        try:
            body = self._body()
            is_faithful = _decode_body(self.node_id, body) == self
        except (RemoteProtocolError, ValueError) as error:
            raise LocalProtocolError(f"not a valid certificate: {error}") from None
        certificate = Envelope.seal(identity, _KIND, body).encode()
        if not is_faithful or len(certificate) > CERTIFICATE_BYTES_MAX:
            raise LocalProtocolError(
                f"a certificate of {len(certificate)} bytes, at most {CERTIFICATE_BYTES_MAX}; announce fewer addresses"
            )
        return certificate

    @classmethod
    def open(cls, data: bytes, *, wall_ns: int) -> Member:
        """Return the member that an authentic, valid certificate speaks of.

        Args:
            data: as received; checked for size before it is parsed, for its signature before the body is.
            wall_ns: wall time now.

        Raises:
            LimitExceeded: over `CERTIFICATE_BYTES_MAX`. DecodeError: malformed, or issued too far ahead ("clock").
            BadSignature: not the node's own. StaleRecord: expired.

        Cost: 80 us the first time in this process, 1 us later.
        """
        member = _open_authentic(data)
        require_not_ahead(member.issued_ns, wall_ns)
        require_not_expired(member.expires_ns, wall_ns)
        return member

    def _body(self) -> bytes:
        geo = self.location
        return pack(
            [
                self.boot,
                self.seq,
                self.group,
                self.name,
                [list(address) for address in self.udp],
                list(self.control),
                geo.country,
                geo.lat_cdeg,
                geo.lon_cdeg,
                geo.asn,
                int(self.roles),
                self.issued_ns,
                self.expires_ns,
                self.is_leaving,
            ]
        )


def certificate_id(certificate: bytes, salt: bytes) -> bytes:
    """Return the 4 bytes that name a certificate in one exchange; its salt (8 B) is fresh, so nobody can aim at a collision."""
    return hashlib.blake2b(certificate, key=salt, digest_size=4, person=b"srwan/certid/1").digest()


@functools.lru_cache(maxsize=_OPENED_CACHE)
def _open_authentic(data: bytes) -> Member:
    """Verify and decode. A pure function of the bytes, so its results can be kept; failures are not."""
    envelope = Envelope.decode(data, bytes_max=CERTIFICATE_BYTES_MAX)
    return _decode_body(envelope.signer, envelope.verify(_KIND))


def _decode_body(node_id: NodeId, body: bytes) -> Member:
    fields = as_list(unpack(body, bytes_max=CERTIFICATE_BYTES_MAX))
    if len(fields) != _FIELDS:
        raise DecodeError(f"a membership certificate of {len(fields)} fields")
    boot, seq, group, name, udp, control, country, lat, lon, asn, roles, issued, expires, is_leaving = fields
    if not (isinstance(group, bytes) and len(group) == len(NO_GROUP) and isinstance(is_leaving, bool)):
        raise DecodeError("malformed group or leaving mark in a certificate")
    if not (isinstance(name, str) and len(name) <= NAME_CHARS_MAX and name.isascii() and name.isprintable()):
        raise DecodeError("malformed name in a certificate")
    if not (isinstance(country, str) and len(country) == 2 and country.isascii() and country.isalpha() and country.isupper()):
        raise DecodeError("malformed country in a certificate")
    issued_ns, expires_ns = decode_lifetime(issued, expires, LIFETIME_S_MAX)
    return Member(
        node_id=node_id,
        boot=_decode_integer(boot, 0, 2**32 - 1),
        seq=_decode_integer(seq, 0, 2**32 - 1),
        name=name,
        udp=decode_udp(udp),
        control=decode_control(control),
        location=GeoAsn(
            country, _decode_integer(lat, -9000, 9000), _decode_integer(lon, -18000, 18000), _decode_integer(asn, 0, 2**32 - 1)
        ),
        roles=Role(_decode_integer(roles, 0, 15)),
        issued_ns=issued_ns,
        expires_ns=expires_ns,
        is_leaving=is_leaving,
        group=group,
    )


def _decode_integer(value: object, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise DecodeError(f"not an integer in {low}..{high}")
    return value


def as_list(value: object) -> list[object]:
    """Return a decoded msgpack list. Raises DecodeError for anything else."""
    if not isinstance(value, list):
        raise DecodeError("not a list")
    return cast("list[object]", value)


def bytes_list(value: object, items_max: int) -> list[bytes]:
    """Return a decoded msgpack list of up to `items_max` byte strings. Raises DecodeError for anything else."""
    items = as_list(value)
    if len(items) > items_max or not all(isinstance(item, bytes) for item in items):
        raise DecodeError(f"not a list of up to {items_max} byte strings")
    return cast("list[bytes]", items)


def decode_udp(value: object) -> tuple[UdpAddress, ...]:
    """Return 1..4 UDP addresses from their decoded msgpack form [[ip, port]...].

    Raises:
        DecodeError: malformed, not in the usual spelling, not numeric, multicast, unspecified, or port 0.
    """
    items = as_list(value)
    if not 1 <= len(items) <= UDP_ADDRESSES_MAX:
        raise DecodeError(f"{len(items)} UDP addresses, wanted 1..{UDP_ADDRESSES_MAX}")
    return tuple(_decode_udp_address(item) for item in items)


def _decode_udp_address(item: object) -> UdpAddress:
    match as_list(item):
        case [str(host), port] if "%" not in host:
            pass
        case _:
            raise DecodeError("malformed UDP address")
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        raise DecodeError("not a numeric IP address") from None
    if str(ip) != host or ip.is_multicast or ip.is_unspecified:
        raise DecodeError("an IP address that cannot be sent to, or in an unusual spelling")
    return host, _decode_integer(port, 1, 65535)


def decode_control(value: object) -> tuple[str, ...]:
    """Return 0..4 control addresses from their decoded msgpack form.

    Raises:
        DecodeError: too many, too long, or not printable ASCII.
    """
    items = as_list(value)
    if len(items) > CONTROL_ADDRESSES_MAX:
        raise DecodeError(f"{len(items)} control addresses, at most {CONTROL_ADDRESSES_MAX}")
    return tuple(_decode_control_address(item) for item in items)


def _decode_control_address(item: object) -> str:
    if not (isinstance(item, str) and 1 <= len(item) <= CONTROL_CHARS_MAX and item.isascii() and item.isprintable()):
        raise DecodeError("malformed control address")
    return item


def decode_lifetime(issued: object, expires: object, lifetime_s_max: int) -> tuple[int, int]:
    """Return (issued_ns, expires_ns).

    Raises:
        DecodeError: not integers, not in order, or further apart than lifetime_s_max.
    """
    issued_ns, expires_ns = _decode_integer(issued, 0, 2**63 - 1), _decode_integer(expires, 0, 2**63 - 1)
    if not 0 < expires_ns - issued_ns <= lifetime_s_max * _S:
        raise DecodeError("a lifetime that is empty or too long")
    return issued_ns, expires_ns


def require_not_ahead(issued_ns: int, wall_ns: int) -> None:
    """Return if an issue time is not ahead of our wall clock by more than `MEMBER_SKEW_S`. Raises DecodeError ("clock")."""
    if issued_ns > wall_ns + MEMBER_SKEW_S * _S:
        raise DecodeError(f"issued {(issued_ns - wall_ns) / _S:.0f} s ahead of our clock", reason="clock")


def require_not_expired(expires_ns: int, wall_ns: int) -> None:
    """Return if something is still valid. Raises StaleRecord ("expired")."""
    if expires_ns <= wall_ns:
        raise StaleRecord(f"expired {(wall_ns - expires_ns) / _S:.0f} s ago", reason="expired")


@attrs.frozen(slots=True)
class Grave:
    """The burial of all runs of a node up to one."""

    boot: int
    """Certificates of this boot and of earlier ones are dead."""
    bundles: tuple[bytes, ...]
    """The proof: bundles of accusations (`accusation.py`); checked before it came here."""
    until_ns: int
    """Wall time at which the grave is forgotten, ns since 1970."""


class View:
    """The newest certificate of every node of one group. A core: no clock, no sockets.

    Args:
        group: first 8 bytes of the group id; certificates of other groups are refused.
    """

    def __init__(self, group: bytes = NO_GROUP) -> None:
        self._group = group
        self._held: dict[NodeId, _Held] = {}
        self._graves: dict[NodeId, Grave] = {}
        self._stamps: list[bytes] = []
        """Id and boot of every living member, sorted: what the digest covers."""
        self._living: tuple[Member, ...] | None = ()
        """Derived, as the digest: None after a change, computed when wanted, so that a roster of 100 is merged in one go."""
        self._digest: bytes | None = None
        self._next_expiry_ns: int | None = None

    def __len__(self) -> int:
        """Living members."""
        return len(self._stamps)

    def __contains__(self, node_id: NodeId) -> bool:
        """Say whether a node is a living member."""
        return self.get(node_id) is not None

    @property
    def group(self) -> bytes:
        """First 8 bytes of the group id."""
        return self._group

    @property
    def graves(self) -> tuple[tuple[NodeId, Grave], ...]:
        """Who was buried, in the order of burial; at most `GRAVES_MAX`."""
        return tuple(self._graves.items())

    @property
    def members(self) -> tuple[Member, ...]:
        """The living, sorted by node id."""
        if self._living is None:
            living = (held.member for held in self._held.values() if not held.member.is_leaving)
            self._living = tuple(sorted(living, key=lambda member: member.node_id))
        return self._living

    @property
    def ids(self) -> tuple[NodeId, ...]:
        """The living, sorted."""
        return tuple(member.node_id for member in self.members)

    @property
    def digest(self) -> bytes:
        """8 bytes over ids and boots of the living: equal views have equal digests."""
        if self._digest is None:
            self._digest = hashlib.blake2b(b"".join(self._stamps), digest_size=8, person=b"srwan/view/1").digest()
        return self._digest

    @property
    def next_expiry_ns(self) -> int | None:
        """Wall time at which `expire` will have something to do, or earlier; None if nothing is held."""
        return self._next_expiry_ns

    @property
    def certificates(self) -> tuple[bytes, ...]:
        """All that is held, tombstones too, in the order it came; at most `MEMBERS_MAX + TOMBSTONES_MAX`."""
        return tuple(held.certificate for held in self._held.values())

    @property
    def roster(self) -> tuple[bytes, ...]:
        """The certificates of the living, sorted by node id: what a newcomer is given."""
        return tuple(self._held[member.node_id].certificate for member in self.members)

    def get(self, node_id: NodeId) -> Member | None:
        """Return a living member."""
        held = self._held.get(node_id)
        return None if held is None or held.member.is_leaving else held.member

    def by_name(self, name: str) -> tuple[Member, ...]:
        """Return the living who call themselves `name`; names are not unique."""
        return tuple(member for member in self.members if member.name == name)

    def certificate(self, node_id: NodeId) -> bytes:
        """Return what is held of a node, a tombstone too.

        Raises:
            KeyError: nothing is held.
        """
        return self._held[node_id].certificate

    def holds(self, node_id: NodeId, certificate: bytes) -> bool:
        """Say whether exactly this certificate is held of that node, without any cryptography."""
        held = self._held.get(node_id)
        return held is not None and held.certificate == certificate

    def grave(self, node_id: NodeId) -> Grave | None:
        """Return the burial of a node's runs up to a boot, if there was one."""
        return self._graves.get(node_id)

    def examine(self, certificate: bytes, wall_ns: int) -> Member | None:
        """Return and raise what `merge` would; nothing changes.

        Cost: as `Member.open`, and 1 us.
        """
        member = Member.open(certificate, wall_ns=wall_ns)
        if member.group != self._group:
            raise DecodeError(f"a certificate of another group, {member.group.hex()}", reason="group")
        grave = self._graves.get(member.node_id)
        if grave is not None and member.boot <= grave.boot:
            return None
        held = self._held.get(member.node_id)
        if held is not None and not held.is_older_than(member, certificate):
            return None
        if not member.is_leaving and member.node_id not in self and len(self._stamps) >= MEMBERS_MAX:
            raise LimitExceeded(f"the view holds {MEMBERS_MAX} members already", reason="view-full")
        return member

    def merge(self, certificate: bytes, wall_ns: int) -> Member | None:
        """Take up a certificate.

        Args:
            certificate: as received, from anybody.
            wall_ns: wall time now.

        Returns:
            The member if this is news (it may be leaving); None if the same or a newer certificate is held, or that run is buried.

        Raises:
            RemoteProtocolError: as `Member.open`; of another group ("group"); another body at the same version (`Equivocation`, the
                first stays); `LimitExceeded` ("view-full"). Nothing changed.

        Cost: as `Member.open`, and 4 us.
        """
        member = self.examine(certificate, wall_ns)
        if member is None:
            return None
        before = self.get(member.node_id)
        old_stamp = None if before is None else _stamp_of(before)
        new_stamp = None if member.is_leaving else _stamp_of(member)
        self._held[member.node_id] = _Held(member, certificate)
        self._living = None
        if old_stamp != new_stamp:
            self._restamp(old_stamp, new_stamp)
        self._next_expiry_ns = min(member.expires_ns, self._next_expiry_ns or member.expires_ns)
        if member.is_leaving:
            self._bound_tombstones()
        return member

    def bury(self, node_id: NodeId, grave: Grave) -> Member | None:
        """Declare all runs of a node up to a boot dead; return the living member that this removed. An earlier grave is replaced."""
        held_grave = self._graves.get(node_id)
        if held_grave is not None and held_grave.boot >= grave.boot:
            return None
        self._graves.pop(node_id, None)
        self._graves[node_id] = grave
        self._next_expiry_ns = min(grave.until_ns, self._next_expiry_ns or grave.until_ns)
        if len(self._graves) > GRAVES_MAX:
            del self._graves[min(self._graves, key=lambda node: (self._graves[node].until_ns, node))]
        held = self._held.get(node_id)
        if held is None or held.member.boot > grave.boot:
            return None
        del self._held[node_id]
        if held.member.is_leaving:
            return None
        self._living = None
        self._restamp(_stamp_of(held.member), None)
        return held.member

    def expire(self, wall_ns: int) -> tuple[Member, ...]:
        """Forget what is no longer valid, and return the living among it, sorted by node id."""
        if self._next_expiry_ns is None or wall_ns < self._next_expiry_ns:
            return ()
        self._graves = {node: grave for node, grave in self._graves.items() if grave.until_ns > wall_ns}
        gone = sorted((held.member for held in self._held.values() if held.member.expires_ns <= wall_ns), key=lambda gone: gone.node_id)
        for member in gone:
            del self._held[member.node_id]
        removed = tuple(member for member in gone if not member.is_leaving)
        for member in removed:
            self._restamp(_stamp_of(member), None)
        self._living = None
        expiries = [held.member.expires_ns for held in self._held.values()] + [grave.until_ns for grave in self._graves.values()]
        self._next_expiry_ns = min(expiries, default=None)
        return removed

    def _restamp(self, old: bytes | None, new: bytes | None) -> None:
        self._digest = None
        if old is not None:
            del self._stamps[bisect.bisect_left(self._stamps, old)]
        if new is not None:
            bisect.insort(self._stamps, new)

    def _bound_tombstones(self) -> None:
        if len(self._held) - len(self._stamps) <= TOMBSTONES_MAX:
            return
        tombstones = (held.member for held in self._held.values() if held.member.is_leaving)
        del self._held[min(tombstones, key=lambda member: (member.expires_ns, member.node_id)).node_id]


def _stamp_of(member: Member) -> bytes:
    return member.node_id + struct.pack("<I", member.boot)


@attrs.frozen(slots=True)
class _Held:
    member: Member
    certificate: bytes

    def is_older_than(self, member: Member, certificate: bytes) -> bool:
        """Say whether `member` replaces what is held. Raises Equivocation for another body at the same version."""
        mine = self.member
        if (member.boot, member.seq) == (mine.boot, mine.seq) and member != mine and member.is_leaving <= mine.is_leaving:
            raise Equivocation(member.node_id, self.certificate, certificate)
        return member.version > mine.version
