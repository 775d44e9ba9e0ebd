"""The two things a gateway may change in a packet: IPv4 fragments, and the MSS option of a TCP SYN. A core; pure functions.

Fragments follow RFC 791 3.2: options with the copied bit go into every fragment, the others into the first; an already fragmented packet
keeps its offset and its last "more" flag. The TCP checksum is mended, not computed anew (RFC 1624), so damage on the way stays visible.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from srwan.routing.gateway.ip_packet import TCP, IpHeader, checksum

__all__ = ["clamp_mss", "fragment_ipv4"]

_MF, _OFFSET = 0x2000, 0x1FFF
_FIRST_WORDS = struct.Struct("!BBHHHBBH")
_COPIED = 0x80
_SYN = 0x02
_MSS_OPTION = 2


def fragment_ipv4(packet: bytes, mtu: int) -> Iterator[bytes]:
    """Yield the fragments of an IPv4 packet that may be fragmented, none longer than `mtu`; the packet itself if it fits.

    Args:
        packet: parsed, header checksum right.
        mtu: bytes, 68 or more.
    """
    if len(packet) <= mtu:
        yield packet
        return
    first, tos, _, identity, flags, ttl, protocol, _ = _FIRST_WORDS.unpack_from(packet)
    header_bytes = (first & 0xF) * 4
    options, body = packet[20:header_bytes], packet[header_bytes:]
    at, offset = 0, flags & _OFFSET
    while at < len(body):
        room = (mtu - 20 - len(options)) & ~7
        piece = body[at : at + room]
        is_last = at + len(piece) == len(body)
        more = flags & _MF if is_last else _MF
        words = (0x40 | 5 + len(options) // 4, tos, 20 + len(options) + len(piece), identity, more | offset + at // 8, ttl, protocol, 0)
        header = _FIRST_WORDS.pack(*words) + packet[12:20] + options
        yield header[:10] + checksum(header).to_bytes(2, "big") + header[12:] + piece
        at += len(piece)
        options = _copied(options) if at == len(piece) else options


def _copied(options: bytes) -> bytes:
    """Return the options that every fragment carries, padded to whole words. The list was checked when the packet was parsed."""
    kept, at = b"", 0
    while at < len(options) and options[at] != 0:
        length = 1 if options[at] == 1 else options[at + 1]
        if options[at] & _COPIED:
            kept += options[at : at + length]
        at += length
    return kept + bytes(-len(kept) % 4)


def clamp_mss(packet: bytes, header: IpHeader, mtu: int) -> bytes:
    """Return the packet, in a TCP SYN with an MSS beyond what fits `mtu` with that MSS lowered. Malformed options are left alone."""
    at = header.upper_at
    if header.protocol != TCP or not header.is_first or len(packet) < at + 20 or not packet[at + 13] & _SYN:
        return packet
    mss_max = mtu - (40 if header.version == 4 else 60)
    end = min(at + (packet[at + 12] >> 4) * 4, len(packet))
    option = at + 20
    while option + 1 < end and packet[option] != 0:
        if packet[option] == 1:
            option += 1
            continue
        length = packet[option + 1]
        if packet[option] == _MSS_OPTION and length == 4 and option + 4 <= end:
            return _lower_mss(packet, at + 16, option + 2, mss_max)
        if length < 2:
            break
        option += length
    return packet


def _lower_mss(packet: bytes, sum_at: int, mss_at: int, mss_max: int) -> bytes:
    old = packet[mss_at] << 8 | packet[mss_at + 1]
    if old <= mss_max:
        return packet
    # An option may start at an odd offset: its bytes count in swapped order then.
    swap = (mss_at - sum_at) % 2
    before, after = (_swapped(old), _swapped(mss_max)) if swap else (old, mss_max)
    total = (0xFFFF - (packet[sum_at] << 8 | packet[sum_at + 1])) + (0xFFFF - before) + after
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    changed = bytearray(packet)
    changed[mss_at : mss_at + 2] = mss_max.to_bytes(2, "big")
    changed[sum_at : sum_at + 2] = (0xFFFF - total).to_bytes(2, "big")
    return bytes(changed)


def _swapped(word: int) -> int:
    return (word & 0xFF) << 8 | word >> 8
