"""Native SRv6 between a user-space router and kernel routers: our sealed payload behind an IPv6 header and an RFC 8754 header. A core.

    IPv6 40 B          source: locator::1 of the router that put the packet into this form; destination: the active segment
    SRH 8 + 16 n B     next header 253; flags 0, or 8 and 40 B more with an HMAC TLV
    path tag 8 B       u64 little endian, as in the link header; part of what the end-to-end seal authenticates
    payload            as in every other packet of ours, sealed end to end

Theory of operation. On a path ingress - relay - egress whose relay is a Linux kernel, the ingress sends this form instead of a packet
sealed for the link, the relay's kernel executes END (it advances the list and forwards, and knows nothing of us), and the egress gets
the same list with nothing left. A user-space router beside a kernel router translates: in from one form, out in the other.

What is authenticated on such a hop: by us nothing. The payload and the path tag are, end to end, as everywhere; replays are found at the
egress. The segment list, the addresses and who sent the packet are not. With a key, the HMAC TLV proves that source address and segment
list were written by someone who has the key (RFC 8754 section 2.1.2), not who, and not that it is no replay.

So this is for networks that nobody else is on. A packet is taken only if its source is a configured border, the segment before ours
is that of a configured kernel router, and it is in the strict form above; whoever is not configured is refused ("native-peer"). Nothing
that comes in so is counted for a neighbour, for nothing proves which it came from.

Not here: the TUN (`tun.py`), what becomes of a segment list (`relay.py`).
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

import attrs

from srwan.errors import BadSignature, DecodeError
from srwan.kernel_config import HmacKey
from srwan.routing.packet import LINK_HEADER_BYTES, PACKET_BYTES_MAX, PAYLOAD_OVERHEAD_BYTES, TAG_BYTES
from srwan.routing.sid import LOCATOR_BYTES, SID_BYTES, locator_of
from srwan.routing.srh import FIXED_BYTES, NEXT_HEADER_SEALED, SEGMENTS_MAX, SRH_BYTES_MIN
from srwan.types import NodeId, UdpAddress

__all__ = ["NATIVE_BYTES_MAX", "NATIVE_LINK", "NativeBorder", "NativePacket", "hmac_of", "native_source"]

NATIVE_LINK: Final[UdpAddress] = ("native", 0)
"""Stands for the native network where a data plane says where a packet goes; compared by identity."""
IPV6_BYTES = 40
PATH_TAG_BYTES = 8
HMAC_TLV_BYTES = 40
LINK_OCTETS_MAX = PACKET_BYTES_MAX - LINK_HEADER_BYTES - TAG_BYTES
"""Segment routing header and payload in a packet sealed for a link, bytes."""
NATIVE_BYTES_MAX = IPV6_BYTES + HMAC_TLV_BYTES + PATH_TAG_BYTES + LINK_OCTETS_MAX
"""Longest packet: whatever fits a packet sealed for a link fits here. 1520 bytes, on a network with an MTU above 1500."""
NATIVE_BYTES_MIN = IPV6_BYTES + SRH_BYTES_MIN + PATH_TAG_BYTES + PAYLOAD_OVERHEAD_BYTES
HEADERS_KEPT = 4096
"""SRHs with their HMAC kept, one per path and position; the map is cleared when full."""
_HOP_LIMIT = 64
_ROUTING_HEADER = 43
_FLAG_HMAC = 8
_TLV_HMAC, _TLV_HMAC_LENGTH = 5, 38
_SHA256 = 2
_SOURCE_SUFFIX = (1).to_bytes(SID_BYTES - LOCATOR_BYTES, "big")
_IPV6 = struct.Struct("!IHBB16s16s")
_PATH_TAG = struct.Struct("<Q")
_TLV = struct.Struct("!BBHI32s")


class NativePacket(NamedTuple):
    """A packet out of its native form."""

    srh: bytes
    """In the strict form of `srh.Srh`: no flags, no TLV."""
    path_tag: int
    payload: bytes
    """Sealed end to end."""


def native_source(node: NodeId) -> bytes:
    """Return the source address of a node's native packets, 16 bytes."""
    return locator_of(node) + _SOURCE_SUFFIX


def hmac_of(key: HmacKey, source: bytes, srh: bytes) -> bytes:
    """Return the 32 bytes of an HMAC TLV: over source, last entry, flags, key id and segments (RFC 8754 section 2.1.2.1).

    Args:
        key: its algorithm must be SHA-256, or SHA-1, whose 20 bytes are padded with zeros.
        source: IPv6 source address.
        srh: with the HMAC flag set; what follows the segments is not looked at.
    """
    segments = srh[FIXED_BYTES : FIXED_BYTES + SID_BYTES * (srh[4] + 1)]
    text = source + srh[4:6] + key.key_id.to_bytes(4, "big") + segments
    digest = hashlib.sha256 if key.algorithm == _SHA256 else hashlib.sha1
    return hmac.digest(key.secret, text, digest).ljust(32, b"\x00")


@attrs.define(slots=True)
class _Traffic:
    packets_in: int = 0
    packets_out: int = 0


class NativeBorder:
    """Translates between native packets and the parts of ours.

    Args:
        node_id: this node.
        routers: nodes whose kernel executes our segments: sent to in native form, and named by the segment before ours in what comes.
        borders: user-space routers on the same network: whose packets are taken.
        hmac_key: signs what leaves, checks what comes; None for neither.
        is_hmac_required: drop what has no right HMAC.

    Raises:
        ValueError: HMAC is required without a key.
    """

    def __init__(
        self,
        node_id: NodeId,
        routers: Iterable[NodeId],
        borders: Iterable[NodeId],
        *,
        hmac_key: HmacKey | None = None,
        is_hmac_required: bool = False,
    ) -> None:
        if is_hmac_required and hmac_key is None:
            raise ValueError("HMAC is required without a key")
        self.routers = frozenset(routers)
        self.traffic = _Traffic()
        """Packets so far, not authenticated."""
        self._router_locators = frozenset(locator_of(node) for node in self.routers)
        self._nodes = {native_source(node): node for node in borders}
        self._by_locator = {locator_of(node): node for node in self.routers}
        self._source = native_source(node_id)
        self._key = hmac_key
        self._is_required = is_hmac_required
        self._headers: dict[bytes, bytes] = {}

    def build(self, srh: bytes, path_tag: int, payload: bytes) -> bytes:
        """Return a packet in native form.

        Args:
            srh: encoded, strict; its active segment is of one of `routers`.
            path_tag: the path's.
            payload: sealed end to end.

        Raises:
            ValueError: the packet would be longer than one sealed for a link may be.

        Cost: 1 us; with HMAC the first packet of a path 4 us more.
        """
        if len(srh) + len(payload) > LINK_OCTETS_MAX:
            raise ValueError(f"payload of {len(payload)} bytes does not fit a packet with {len(srh)} bytes of SRH")
        head = self._headers.get(srh)
        if head is None:
            if len(self._headers) >= HEADERS_KEPT:
                self._headers.clear()
            head = self._headers[srh] = srh if self._key is None else self._signed(srh, self._key)
        at = FIXED_BYTES + SID_BYTES * srh[3]
        length = len(head) + PATH_TAG_BYTES + len(payload)
        ipv6 = _IPV6.pack(0x6000_0000, length, _ROUTING_HEADER, _HOP_LIMIT, self._source, srh[at : at + SID_BYTES])
        self.traffic.packets_out += 1
        return b"".join((ipv6, head, _PATH_TAG.pack(path_tag), payload))

    def open(self, data: bytes) -> NativePacket:
        """Take a packet out of its native form. For hostile input.

        Raises:
            DecodeError: "native-short", "native-mtu", "native-version", "native-length", "native-header" (not this form),
                "native-destination" (not the active segment), "native-peer" (of nobody configured), "native-hmac" (none, and it is
                required). BadSignature: "native-hmac-auth".

        Cost: 2 us. The header itself is checked by who reads it (`srh.Srh.decode`).
        """
        octets = len(data)
        if octets < NATIVE_BYTES_MIN:
            raise DecodeError("native packet too short", reason="native-short")
        if octets > NATIVE_BYTES_MAX:
            raise DecodeError("native packet too long", reason="native-mtu")
        word, length, next_header, _, source, destination = _IPV6.unpack_from(data)
        if word >> 28 != 6:
            raise DecodeError(f"IP version {word >> 28}", reason="native-version")
        if length != octets - IPV6_BYTES:
            raise DecodeError(f"IPv6 payload of {length} bytes in {octets - IPV6_BYTES}", reason="native-length")
        payload_at = IPV6_BYTES + FIXED_BYTES * (data[IPV6_BYTES + 1] + 1)
        if next_header != _ROUTING_HEADER or data[IPV6_BYTES] != NEXT_HEADER_SEALED:
            raise DecodeError("not a sealed payload behind a segment routing header", reason="native-header")
        if payload_at + PATH_TAG_BYTES + PAYLOAD_OVERHEAD_BYTES > octets:
            raise DecodeError("native packet ends in its headers", reason="native-length")
        srh = self._strict(source, data[IPV6_BYTES:payload_at])
        if len(srh) + octets - payload_at - PATH_TAG_BYTES > LINK_OCTETS_MAX:  # might have to go on over a sealed link
            raise DecodeError("native packet too long for a sealed link", reason="native-mtu")
        left, last = srh[3], srh[4]
        if left >= last:  # nobody was visited: then the sender is next to us and has a sealed link
            raise DecodeError("no kernel router was visited", reason="native-peer")
        active_at = FIXED_BYTES + SID_BYTES * left
        if srh[active_at : active_at + SID_BYTES] != destination:
            raise DecodeError("the destination is not the active segment", reason="native-destination")
        previous = srh[active_at + SID_BYTES : active_at + SID_BYTES + LOCATOR_BYTES]
        if source not in self._nodes or previous not in self._router_locators:
            raise DecodeError("of nobody that is configured", reason="native-peer")
        self.traffic.packets_in += 1
        (path_tag,) = _PATH_TAG.unpack_from(data, payload_at)
        return NativePacket(srh, path_tag, data[payload_at + PATH_TAG_BYTES :])

    def router_before(self, srh: bytes) -> NodeId:
        """Return the kernel router that the segment before the active one names, of a header that `open` returned."""
        at = FIXED_BYTES + SID_BYTES * (srh[3] + 1)
        return self._by_locator[srh[at : at + LOCATOR_BYTES]]

    def _signed(self, srh: bytes, key: HmacKey) -> bytes:
        flagged = bytes([srh[0], srh[1] + HMAC_TLV_BYTES // 8, srh[2], srh[3], srh[4], srh[5] | _FLAG_HMAC]) + srh[6:]
        return flagged + _TLV.pack(_TLV_HMAC, _TLV_HMAC_LENGTH, 0, key.key_id, hmac_of(key, self._source, flagged))

    def _strict(self, source: bytes, srh: bytes) -> bytes:
        """Check a header's sizes and HMAC, and return it without flag and TLV."""
        last = srh[4]
        bare_bytes = FIXED_BYTES + SID_BYTES * (last + 1)
        if last >= SEGMENTS_MAX or len(srh) not in {bare_bytes, bare_bytes + HMAC_TLV_BYTES}:
            raise DecodeError(f"segment routing header of {len(srh)} bytes, last entry {last}", reason="native-length")
        if len(srh) == bare_bytes:
            if self._is_required:
                raise DecodeError("no HMAC", reason="native-hmac")
            return srh
        kind, length, reserved, key_id, digest = _TLV.unpack_from(srh, bare_bytes)
        if srh[5] != _FLAG_HMAC or (kind, length, reserved) != (_TLV_HMAC, _TLV_HMAC_LENGTH, 0):
            raise DecodeError("objects that are no HMAC after the segment list", reason="native-header")
        key = self._key
        if key is not None and (key_id != key.key_id or not hmac.compare_digest(digest, hmac_of(key, source, srh))):
            raise BadSignature("wrong HMAC on a segment routing header", reason="native-hmac-auth")
        return bytes([srh[0], srh[1] - HMAC_TLV_BYTES // 8, srh[2], srh[3], srh[4], 0]) + srh[6:bare_bytes]
