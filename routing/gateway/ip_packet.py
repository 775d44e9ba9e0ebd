"""IP packets as the gateway sees them: headers checked, never trusted. A core; pure functions.

`parse_ip` reads what a router must know of a packet from a TUN or from a peer: lengths, the IPv4 header checksum, options, fragments and
IPv6 extension headers, all within bounds. `plain_key` is the same decision for the common packet (no options, no fragment, no extension
header) at a tenth of the cost; what it refuses to judge is parsed. Checksums of TCP, UDP and ICMP are left to the ends, as in any router
(RFC 1812 4.2.2.5 asks for that of the IP header only).

Refused besides what is malformed: source routes (IPv4 LSRR and SSRR, RFC 7126 4.3; IPv6 routing headers that still have a segment left,
RFC 5095 and RFC 8754 5.1), because they would carry a packet past the gateway's check of its destination.

Sources: RFC 791, 1812, 8200, 4443 2.4, 6890 (martians).
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from srwan.errors import DecodeError

__all__ = ["IpHeader", "checksum", "is_martian", "is_multicast", "is_plain_sum", "parse_ip", "plain_key", "traffic_class_of"]

IPV4_BYTES_MIN = 20
IPV6_BYTES_MIN = 40
EXTENSIONS_MAX = 8
"""IPv6 extension headers of one packet; RFC 8200 4.1 names six kinds that come at most once, destination options twice."""
IP_BYTES_MAX = 65_535

ICMP, TCP, UDP, ICMPV6, NO_NEXT = 1, 6, 17, 58, 59
_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AUTHENTICATION, _DESTINATION, _MOBILITY = 0, 43, 44, 51, 60, 135
_EXTENSIONS = frozenset({_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AUTHENTICATION, _DESTINATION, _MOBILITY})
_PLAIN_V6 = frozenset({TCP, UDP, ICMPV6})
_SOURCE_ROUTES = frozenset({131, 137})
"""IPv4 options: loose and strict source and record route."""
_DF, _MF, _OFFSET = 0x4000, 0x2000, 0x1FFF
_V4 = struct.Struct("!BBHHHBBH4s4s")
_V6 = struct.Struct("!IHBB16s16s")


class IpHeader(NamedTuple):
    """What a router must know of a packet."""

    version: int
    """4 or 6."""
    source: bytes
    """4 or 16 bytes."""
    destination: bytes
    protocol: int
    """Upper layer behind all extension headers."""
    upper_at: int
    """Where the upper layer starts, bytes. In a fragment that is not the first there is none."""
    is_first: bool
    """Whether the upper layer's header is in this packet: no fragment, or the first one."""
    is_fragment: bool
    may_fragment: bool
    """Whether a router may fragment it: IPv4 without DF."""


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071) of some bytes. Cost: 0.2 us, 0.8 us per KB.

    A one's complement sum of 16-bit words is the number modulo 65535, because 2**16 is 1 there.
    """
    if len(data) % 2:
        data += b"\0"
    number = int.from_bytes(data, "big")
    return 0xFFFF if number == 0 else 0xFFFF - (number % 0xFFFF or 0xFFFF)


def is_plain_sum(data: bytes) -> bool:
    """Say whether the Internet checksum over bytes that contain it is right. Not for all zeros."""
    return int.from_bytes(data, "big") % 0xFFFF == 0


def plain_key(packet: bytes) -> bytes | None:
    """Return source and destination of a packet that is whole, plain, right and no TCP SYN, or None for one to be parsed. Cost: 0.5 us."""
    octets = len(packet)
    if octets < IPV4_BYTES_MIN:
        return None
    first = packet[0]
    if first == 0x45:
        if packet[2] << 8 | packet[3] != octets or packet[6] & 0x3F or packet[7] or int.from_bytes(packet[:20], "big") % 0xFFFF:
            return None
        return None if packet[9] == TCP and (octets < 40 or packet[33] & 2) else packet[12:20]
    if first >> 4 != 6 or octets < IPV6_BYTES_MIN or (packet[4] << 8 | packet[5]) + 40 != octets or packet[6] not in _PLAIN_V6:
        return None
    return None if packet[6] == TCP and (octets < 60 or packet[53] & 2) else packet[8:40]


def traffic_class_of(packet: bytes) -> int:
    """Return the DSCP and ECN octet of an IPv4 or IPv6 packet of at least two bytes."""
    return packet[1] if packet[0] >> 4 == 4 else (packet[0] & 0xF) << 4 | packet[1] >> 4


def parse_ip(packet: bytes) -> IpHeader:
    """Return what a router must know of a packet. For hostile input.

    Raises:
        DecodeError: "ip-short", "ip-version", "ip-length", "ip-checksum", "ip-options", "ip-fragment", "ip-extension",
            "ip-source-route".

    Cost: 2 us for a plain packet; bounded by the options and EXTENSIONS_MAX.
    """
    if not packet:
        raise DecodeError("an empty IP packet", reason="ip-short")
    version = packet[0] >> 4
    if version == 4:
        return _parse_ipv4(packet)
    if version == 6:
        return _parse_ipv6(packet)
    raise DecodeError(f"IP version {version}", reason="ip-version")


def _parse_ipv4(packet: bytes) -> IpHeader:
    if len(packet) < IPV4_BYTES_MIN:
        raise DecodeError(f"IPv4 packet of {len(packet)} bytes", reason="ip-short")
    first, _, total, _, flags, _, protocol, _, source, destination = _V4.unpack_from(packet)
    header_bytes = (first & 0xF) * 4
    if total != len(packet) or not IPV4_BYTES_MIN <= header_bytes <= total:
        raise DecodeError(f"IPv4 packet of {len(packet)} bytes says {total}, {header_bytes} of header", reason="ip-length")
    if not is_plain_sum(packet[:header_bytes]):
        raise DecodeError("wrong IPv4 header checksum", reason="ip-checksum")
    if header_bytes > IPV4_BYTES_MIN:
        _check_options(packet[IPV4_BYTES_MIN:header_bytes])
    offset = (flags & _OFFSET) * 8
    has_more = bool(flags & _MF)
    _check_fragment(offset, total - header_bytes, has_more=has_more)
    is_fragment = has_more or offset > 0
    return IpHeader(4, source, destination, protocol, header_bytes, offset == 0, is_fragment, not flags & _DF)


def _check_options(options: bytes) -> None:
    at = 0
    while at < len(options):
        kind = options[at]
        if kind == 0:
            return
        if kind == 1:
            at += 1
            continue
        if kind in _SOURCE_ROUTES:
            raise DecodeError(f"IPv4 source route option {kind}", reason="ip-source-route")
        if at + 1 >= len(options) or not 2 <= options[at + 1] <= len(options) - at:
            raise DecodeError(f"IPv4 option {kind} of wrong length", reason="ip-options")
        at += options[at + 1]


def _check_fragment(offset: int, length: int, *, has_more: bool) -> None:
    if has_more and (length % 8 or length == 0):
        raise DecodeError(f"a fragment of {length} bytes that is not the last", reason="ip-fragment")
    if offset and (length == 0 or offset + length > IP_BYTES_MAX):
        raise DecodeError(f"a fragment of {length} bytes at {offset}", reason="ip-fragment")


def _parse_ipv6(packet: bytes) -> IpHeader:
    if len(packet) < IPV6_BYTES_MIN:
        raise DecodeError(f"IPv6 packet of {len(packet)} bytes", reason="ip-short")
    _, length, protocol, _, source, destination = _V6.unpack_from(packet)
    if length + IPV6_BYTES_MIN != len(packet):
        raise DecodeError(f"IPv6 packet of {len(packet)} bytes says {length + IPV6_BYTES_MIN}", reason="ip-length")
    at = IPV6_BYTES_MIN
    for count in range(EXTENSIONS_MAX + 1):
        if protocol not in _EXTENSIONS:
            return IpHeader(6, source, destination, protocol, at, True, False, False)
        if protocol == _HOP_BY_HOP and count:
            raise DecodeError("hop-by-hop options behind another header", reason="ip-extension")
        if at + 8 > len(packet):
            raise DecodeError("a cut off IPv6 extension header", reason="ip-extension")
        if protocol == _FRAGMENT:
            return _parse_fragment(packet, at, source, destination)
        header_bytes = (packet[at + 1] + 2) * 4 if protocol == _AUTHENTICATION else (packet[at + 1] + 1) * 8
        if at + header_bytes > len(packet):
            raise DecodeError("an IPv6 extension header longer than its packet", reason="ip-extension")
        if protocol == _ROUTING and packet[at + 3]:
            raise DecodeError(f"IPv6 routing header of type {packet[at + 2]} with segments left", reason="ip-source-route")
        protocol, at = packet[at], at + header_bytes
    raise DecodeError(f"more than {EXTENSIONS_MAX} IPv6 extension headers", reason="ip-extension")


def _parse_fragment(packet: bytes, at: int, source: bytes, destination: bytes) -> IpHeader:
    """Read a fragment header. What follows in the first fragment may be more extension headers: it is taken as the upper layer's."""
    flags = packet[at + 2] << 8 | packet[at + 3]
    offset, has_more = flags & 0xFFF8, bool(flags & 1)
    _check_fragment(offset, len(packet) - at - 8, has_more=has_more)
    return IpHeader(6, source, destination, packet[at], at + 8, offset == 0, has_more or offset > 0, False)


def is_multicast(address: bytes) -> bool:
    """Say whether an address is multicast or the IPv4 limited broadcast."""
    if len(address) == 4:
        return 224 <= address[0] < 240 or address == b"\xff\xff\xff\xff"
    return address[0] == 0xFF


def is_martian(address: bytes) -> bool:
    """Say whether an address may never cross a gateway, as source or destination: unspecified, loopback, link-local, reserved.

    Multicast is asked for apart. Private and unique local addresses are what gateways are for, so they pass.
    """
    if len(address) == 4:
        first = address[0]
        return first in (0, 127) or first >= 240 or address[:2] == b"\xa9\xfe"
    if address[0] == 0xFE:
        return address[1] & 0xC0 in (0x80, 0xC0)
    return address[:10] == bytes(10) and (address[10:12] in (b"\xff\xff", b"\0\0"))
