"""ICMP errors of the gateway: what a sender behind it is told about a packet that cannot go on. A core; pure functions and a token bucket.

Which packets may be answered at all: not an ICMP error, not a fragment but the first, not to or from an address that is not one host's
(RFC 1122 3.2.2, RFC 4443 2.4 e). What is quoted: as much of the packet as fits 576 bytes of IPv4 (RFC 1812 4.3.2.3) or 1,280 of IPv6
(RFC 4443 2.4 c). How often: `TokenBucket` (RFC 4443 2.4 f).
"""

from __future__ import annotations

import enum
import struct

from srwan.routing.gateway.ip_packet import ICMP, ICMPV6, IpHeader, checksum, is_martian, is_multicast

__all__ = ["IcmpError", "TokenBucket", "build_icmp_error", "may_answer"]

ICMP_PER_S = 100.0
"""Errors a second in the long run: far above what path MTU discovery of a site needs, far below what it can be misused for."""
ICMP_BURST = 50.0
"""Errors at once; a page load opens some tens of connections."""
QUOTED_V4_BYTES_MAX = 576 - 20 - 8
QUOTED_V6_BYTES_MAX = 1280 - 40 - 8
HOP_LIMIT = 64
_DUMMY_IPV4 = bytes((192, 0, 0, 8))
"""Source of errors of a gateway that has no IPv4 address: the dummy address of RFC 7600."""
_V4_ERRORS = frozenset({3, 4, 5, 11, 12})
_V4 = struct.Struct("!BBHHHBBH4s4s")
_V6 = struct.Struct("!IHBB16s16s")


class IcmpError(enum.Enum):
    """Why a packet cannot go on: (ICMP type and code, ICMPv6 type and code)."""

    TOO_BIG = ((3, 4), (2, 0))
    """Longer than the overlay's MTU."""
    NO_ROUTE = ((3, 0), (1, 0))
    """No route leads there."""
    UNREACHABLE = ((3, 1), (1, 3))
    """The node behind which it lies is not there."""
    PROHIBITED = ((3, 13), (1, 5))
    """A source that the peer would not take from here."""


class TokenBucket:
    """A rate with bursts: starts full.

    Args:
        per_s: tokens a second.
        burst: most tokens.
    """

    def __init__(self, per_s: float = ICMP_PER_S, burst: float = ICMP_BURST) -> None:
        self._per_s = per_s
        self._burst = burst
        self._tokens = burst
        self._at = -1.0

    def take(self, now: float) -> bool:
        """Take one token if there is one. `now` is monotonic seconds."""
        if self._at >= 0.0:
            self._tokens = min(self._burst, self._tokens + max(0.0, now - self._at) * self._per_s)
        self._at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


def may_answer(packet: bytes, header: IpHeader) -> bool:
    """Say whether an ICMP error may be sent about a packet."""
    if not header.is_first or is_multicast(header.source) or is_martian(header.source) or is_multicast(header.destination):
        return False
    if header.protocol == ICMP and header.version == 4:
        return len(packet) > header.upper_at and packet[header.upper_at] not in _V4_ERRORS
    if header.protocol == ICMPV6 and header.version == 6:
        return len(packet) > header.upper_at and packet[header.upper_at] >= 128 and packet[header.upper_at] != 137
    return True


def build_icmp_error(error: IcmpError, packet: bytes, header: IpHeader, source: bytes | None, mtu: int) -> bytes:
    """Return the IP packet that tells the sender of `packet` about an error.

    Args:
        error: what is wrong.
        packet: whole, as parsed.
        header: of it.
        source: address of the gateway, of the packet's version; None: it has none.
        mtu: for TOO_BIG, the longest packet that fits, bytes.

    Cost: 6 us.
    """
    next_mtu = mtu if error is IcmpError.TOO_BIG else 0
    if header.version == 4:
        kind, code = error.value[0]
        return _build_v4(struct.pack("!BBHHH", kind, code, 0, 0, next_mtu) + packet[:QUOTED_V4_BYTES_MAX], source, header.source)
    kind, code = error.value[1]
    assert source is not None
    body = struct.pack("!BBHI", kind, code, 0, next_mtu) + packet[:QUOTED_V6_BYTES_MAX]
    pseudo = source + header.source + struct.pack("!II", len(body), ICMPV6)
    body = body[:2] + checksum(pseudo + body).to_bytes(2, "big") + body[4:]
    return _V6.pack(6 << 28, len(body), ICMPV6, HOP_LIMIT, source, header.source) + body


def _build_v4(body: bytes, source: bytes | None, destination: bytes) -> bytes:
    body = body[:2] + checksum(body).to_bytes(2, "big") + body[4:]
    start = _V4.pack(0x45, 0xC0, 20 + len(body), 0, 0, HOP_LIMIT, ICMP, 0, source or _DUMMY_IPV4, destination)  # TOS: RFC 1812 4.3.2.5
    return start[:10] + checksum(start).to_bytes(2, "big") + start[12:] + body
