"""The segment routing header, byte for byte as in RFC 8754 section 2.

    next header (8) | hdr ext len (8) | routing type = 4 (8) | segments left (8)
    last entry (8)  | flags (8)       | tag (16)
    segment list, 128 bits each, the LAST segment to visit first

In this API segments stand in visiting order and are reversed on the wire. Network byte order, unlike our own headers, because kernels
and packet analysers read this one.

Stricter than the RFC, because everything that is accepted is a door: no flags, no TLVs (hop authentication is the link's job, RFC 8754's
HMAC does not cover the payload), no reduced form (segments left never exceeds the last entry), at most `SEGMENTS_MAX` segments, and
no node twice ("loop"): a packet that could come back could go in circles at our cost.

Not here: what a node does with the header (`relay.py`), how it is sealed (`packet.py`).
"""

from __future__ import annotations

import struct
from typing import NoReturn

import attrs

from srwan.errors import DecodeError
from srwan.routing.sid import LOCATOR_BYTES, SID_BYTES, Sid

__all__ = ["NEXT_HEADER_SEALED", "NEXT_HEADER_SESSION", "SEGMENTS_MAX", "SRH_BYTES_MAX", "SRH_BYTES_MIN", "Srh"]

SEGMENTS_MAX = 8
"""Segments in one list: 7 relays and the egress. Paths that pay have 1 to 3 relays; the MTU budget is 16 B each."""
NEXT_HEADER_SEALED = 253
"""Next header of a payload sealed by `packet.seal_payload`: "use for experimentation and testing" (RFC 3692, RFC 4727)."""
NEXT_HEADER_SESSION = 254
"""Next header of a session's handshake that travels over relays (`in_band.py`): the other such number."""
FIXED_BYTES = 8
SRH_BYTES_MIN = FIXED_BYTES + SID_BYTES
SRH_BYTES_MAX = FIXED_BYTES + SEGMENTS_MAX * SID_BYTES
_FIXED = struct.Struct("!BBBBBBH")
_ROUTING_TYPE = 4


def _refuse(reason: str, problem: str) -> NoReturn:
    raise DecodeError(f"segment routing header: {problem}", reason=reason)


@attrs.frozen(slots=True)
class Srh:
    """A segment routing header.

    Raises:
        ValueError: a field is out of range, or a node occurs twice.
    """

    next_header: int
    """Protocol number of what follows, 0..255."""
    segments_left: int
    """Segments still to visit after the active one, 0 <= segments_left < len(segments)."""
    tag: int
    """Class of the packet, 16 bits; ours is 0 (paths are told apart by the link header's path tag)."""
    segments: tuple[Sid, ...]
    """In visiting order, 1..SEGMENTS_MAX."""

    def __attrs_post_init__(self) -> None:
        if not 1 <= len(self.segments) <= SEGMENTS_MAX:
            raise ValueError(f"{len(self.segments)} segments, allowed are 1 to {SEGMENTS_MAX}")
        if not 0 <= self.segments_left < len(self.segments):
            raise ValueError(f"{self.segments_left} segments left of {len(self.segments)}")
        if not (0 <= self.next_header <= 0xFF and 0 <= self.tag <= 0xFFFF):
            raise ValueError(f"next header {self.next_header} or tag {self.tag} out of range")
        if _has_loop(self.segments):
            raise ValueError("a node occurs twice in the segment list")

    @classmethod
    def for_path(cls, path: tuple[Sid, ...], *, next_header: int = NEXT_HEADER_SEALED) -> Srh:
        """Return the header that an ingress sends: the first segment of `path`, in visiting order, is active.

        Raises:
            ValueError: no or too many segments, or a node occurs twice.
        """
        return cls(next_header, max(len(path) - 1, 0), 0, path)

    @property
    def active(self) -> Sid:
        """The segment being visited: the IPv6 destination address of an SRv6 packet."""
        return self.segments[len(self.segments) - 1 - self.segments_left]

    def advanced(self) -> Srh:
        """Return the header as it leaves the active segment's node: one segment less left.

        Raises:
            ValueError: none is left.
        """
        return attrs.evolve(self, segments_left=self.segments_left - 1)

    def encode(self) -> bytes:
        """Return the wire form, 8 + 16 n bytes. Cost: 1 us."""
        n = len(self.segments)
        fixed = _FIXED.pack(self.next_header, 2 * n, _ROUTING_TYPE, self.segments_left, n - 1, 0, self.tag)
        return fixed + b"".join(reversed(self.segments))

    @classmethod
    def decode(cls, data: bytes) -> Srh:
        """Return the header that `data` is. For hostile input.

        Raises:
            DecodeError: not exactly one header of the strict form above; `reason` is "srh-length", "srh-type", "srh-flags",
                "srh-segments" (none or too many), "srh-last-entry", "srh-tlv", "srh-segments-left" or "loop".

        Cost: 7 us for 3 segments; a relay does it once per path.
        """
        if len(data) < FIXED_BYTES:
            _refuse("srh-length", f"{len(data)} bytes")
        next_header, ext_len, routing_type, segments_left, last_entry, flags, tag = _FIXED.unpack_from(data)
        if routing_type != _ROUTING_TYPE:
            _refuse("srh-type", f"routing type {routing_type}")
        if FIXED_BYTES * (ext_len + 1) != len(data):
            _refuse("srh-length", f"{len(data)} bytes, hdr ext len {ext_len}")
        if flags:
            _refuse("srh-flags", f"flags {flags:#x}")
        if ext_len == 0 or last_entry >= SEGMENTS_MAX:
            _refuse("srh-segments", f"last entry {last_entry}, hdr ext len {ext_len}")
        if ext_len < 2 * (last_entry + 1):
            _refuse("srh-last-entry", f"last entry {last_entry}, hdr ext len {ext_len}")
        if ext_len > 2 * (last_entry + 1):
            _refuse("srh-tlv", "objects after the segment list")
        if segments_left > last_entry:
            _refuse("srh-segments-left", f"{segments_left} left, last entry {last_entry}")
        segments = tuple(Sid(data[at : at + SID_BYTES]) for at in range(len(data) - SID_BYTES, 0, -SID_BYTES))
        if _has_loop(segments):
            _refuse("loop", "a node occurs twice")
        return cls(next_header, segments_left, tag, segments)


def _has_loop(segments: tuple[Sid, ...]) -> bool:
    return len({segment[:LOCATOR_BYTES] for segment in segments}) < len(segments)
