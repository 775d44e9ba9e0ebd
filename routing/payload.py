"""What is inside the end-to-end seal: data for a flow, and the keep-alives that watch a path.

A payload is a 24-byte header and a body, little endian: u8 kind, u8 flags, u16 hold, u32 flow, u64 seq, i64 tx_ns. Only ingress and
egress read it; relays see ciphertext. `tx_ns` is the sender's stamp clock at sealing, so the receiver gets one raw one-way latency per
packet (its own stamp less the sender's, clock offset included), of traffic that really flowed.

- DATA: one datagram of a flow; seq counts per flow from 0. Flag REPEATED: it was sent on two paths, the receiver takes the first. Flag
  ORDERED: packets of the flow take several paths; the receiver may hold one back for `hold` ms until those before it are there.
- KEEPALIVE: how much DATA was sent on this path tag so far, what the ingress expects of the path, and how it wants to be answered: which
  way, and how often while DATA flows. seq counts per path tag.
- ACK: the egress's answer to a KEEPALIVE, or to DATA where it was asked to answer those: its latency, and what arrived on the tag.
- CLOSE: the flow ends; seq is the number of DATA packets it had.
- NOTICE: a relay could not send on what came on this path tag, or has too much to do. It is sealed by the relay, for its neighbour.

"Octets of DATA" are octets of bodies: what an application handed over, equal at both ends. A KEEPALIVE is padded to the length of an
ACK, so that answering it amplifies nothing; an answer to DATA comes at most every 20 ms.

Invariant: decoding accepts exactly what encoding makes; unknown flags, reserved bits and padding are zero.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from typing import NamedTuple

import attrs

from srwan.errors import DecodeError

__all__ = ["Ack", "DataFlags", "KeepAlive", "Notice", "NoticeReason", "Payload", "PayloadKind"]

DATA_BYTES_MAX = 1200
"""Body of a DATA packet, bytes: fits 8 segments into `packet.PACKET_BYTES_MAX`."""
TUNNEL_FLOW_MIN = 0xFFFF_FF00
"""DATA of flows from here on is an IP packet for the gateway; the low 8 bits are its traffic class. Applications never get such a flow."""
TUNNEL_BYTES_MAX = 1280
"""Such a packet, bytes: the overlay's MTU; fits 4 segments into `packet.PACKET_BYTES_MAX`, also over IPv6."""
PAYLOAD_HEADER_BYTES = 24
_HEADER = struct.Struct("<BBHIQq")
_KEEPALIVE = struct.Struct("<QQqIHBB24s16x")
_ACK = struct.Struct("<QQqQQqQIIB7x")
_NOTICE = struct.Struct("<8sBxHI")
_LOCATOR_BYTES = 8
_NONE_NS = -(1 << 63)
RAW_NS_MAX = (1 << 63) - 1
"""Raw latencies are clamped to +-this: stamps of hostile or unset clocks must still fit 64 bits."""
BACK_RELAYS_MAX = 3
"""Relays on the way back of an answer, as many as on a path."""
LOSS_PPM_MAX = 1_000_000
_ONCE = 1


class PayloadKind(enum.IntEnum):
    """What a payload carries. Values are wire format."""

    DATA = 1
    KEEPALIVE = 2
    ACK = 3
    CLOSE = 4
    NOTICE = 5


class DataFlags(enum.IntFlag):
    """Flags of DATA. Values are wire format."""

    REPEATED = 1
    """Sent on two paths; the second copy is to be dropped."""
    ORDERED = 2
    """May be held back for those before it."""


_KINDS = {int(kind): kind for kind in PayloadKind}
_BODY_BYTES_OF = {
    PayloadKind.KEEPALIVE: _KEEPALIVE.size,
    PayloadKind.ACK: _ACK.size,
    PayloadKind.CLOSE: 0,
    PayloadKind.NOTICE: _NOTICE.size,
}
_USUAL_DATA = bytes((PayloadKind.DATA, 0, 0, 0))
"""Kind, flags and hold time of DATA without flags."""
_DATA_FLAGS = int(DataFlags.REPEATED | DataFlags.ORDERED)


class Payload(NamedTuple):
    """A payload in clear. A tuple, because it is made per packet: 0.6 us less than a class."""

    kind: PayloadKind
    flow: int
    """Flow between the two ends, 32 bits; 0 for KEEPALIVE, ACK and NOTICE."""
    seq: int
    """64 bits; see the module's header for what it counts."""
    tx_ns: int
    """Stamp at sealing, ns of the sender's stamp clock."""
    body: bytes = b""
    flags: int = 0
    """`DataFlags`; 0 unless DATA."""
    hold_ms: int = 0
    """How long ORDERED DATA may wait for those before it, ms, 16 bits; else 0."""

    def encode(self) -> bytes:
        """Return the plaintext to seal. Cost: 0.6 us.

        Raises:
            struct.error: a field does not fit its bits. ValueError: the body has the wrong length for its kind.
        """
        _check_body(self.kind, self.flow, len(self.body))
        return _HEADER.pack(self.kind, self.flags, self.hold_ms, self.flow, self.seq, self.tx_ns) + self.body

    @classmethod
    def decode(cls, plaintext: bytes) -> Payload:
        """Return the payload that `plaintext` is. For input from an authenticated but not trusted peer.

        Raises:
            DecodeError: "payload-length", "payload-kind" or "payload-flags".

        Cost: 1.8 us.
        """
        if len(plaintext) < PAYLOAD_HEADER_BYTES:
            raise DecodeError(f"payload of {len(plaintext)} bytes", reason="payload-length")
        number, flags, hold_ms, flow, seq, tx_ns = _HEADER.unpack_from(plaintext)
        kind = _KINDS.get(number)
        if kind is None:
            raise DecodeError(f"unknown payload kind {number}", reason="payload-kind")
        if (flags or hold_ms) and not _is_valid(kind, flags, hold_ms):
            raise DecodeError(f"unknown payload flags {flags:#x} {hold_ms:#x}", reason="payload-flags")
        try:
            _check_body(kind, flow, len(plaintext) - PAYLOAD_HEADER_BYTES)
        except ValueError as error:
            raise DecodeError(str(error), reason="payload-length") from None
        return cls(kind, flow, seq, tx_ns, plaintext[PAYLOAD_HEADER_BYTES:], flags, hold_ms)


def encode_packets(flow: int, seq: int, tx_ns: int, packets: Sequence[bytes]) -> list[bytes]:
    """Return the payloads of IP packets for a gateway, as `Payload.encode` would make them. Cost: 0.5 us a packet.

    Args:
        flow: of a tunnel.
        seq: of the first packet.
        tx_ns: stamp of all.
        packets: at least one.

    Raises:
        ValueError: a packet is longer than TUNNEL_BYTES_MAX.
    """
    _check_body(PayloadKind.DATA, flow, max(map(len, packets)))
    pack = _HEADER.pack
    return [pack(1, 0, 0, flow, at, tx_ns) + packet for at, packet in enumerate(packets, seq)]


def split_data(plaintext: bytes) -> tuple[int, int, int] | None:
    """As `split_packet`, for the usual DATA of an application's flow."""
    if not PAYLOAD_HEADER_BYTES <= len(plaintext) <= PAYLOAD_HEADER_BYTES + DATA_BYTES_MAX or plaintext[:4] != _USUAL_DATA:
        return None
    _, _, _, flow, seq, tx_ns = _HEADER.unpack_from(plaintext)
    return (flow, seq, tx_ns) if flow < TUNNEL_FLOW_MIN else None


def split_packet(plaintext: bytes) -> tuple[int, int, int] | None:
    """Return (flow, seq, tx_ns) if a payload is a usual one of a tunnel, whose body follows at PAYLOAD_HEADER_BYTES; None for all others.

    Usual: DATA without flags, of valid length. What it returns equals what `Payload.decode` reads, for a third of the cost: 0.4 us.
    """
    if not PAYLOAD_HEADER_BYTES < len(plaintext) <= PAYLOAD_HEADER_BYTES + TUNNEL_BYTES_MAX or plaintext[:4] != _USUAL_DATA:
        return None
    _, _, _, flow, seq, tx_ns = _HEADER.unpack_from(plaintext)
    return (flow, seq, tx_ns) if flow >= TUNNEL_FLOW_MIN else None


def _is_valid(kind: PayloadKind, flags: int, hold_ms: int) -> bool:
    return kind is PayloadKind.DATA and not flags & ~_DATA_FLAGS and (not hold_ms or bool(flags & DataFlags.ORDERED))


def _check_body(kind: PayloadKind, flow: int, length: int) -> None:
    if kind is PayloadKind.DATA:
        if length > DATA_BYTES_MAX and (flow < TUNNEL_FLOW_MIN or length > TUNNEL_BYTES_MAX):
            raise ValueError(f"DATA of {length} bytes, at most {DATA_BYTES_MAX} are allowed")
    elif length != _BODY_BYTES_OF[kind]:
        raise ValueError(f"{kind.name} body of {length} bytes, not {_BODY_BYTES_OF[kind]}")


@attrs.frozen(slots=True)
class KeepAlive:
    """Body of a KEEPALIVE: what the ingress has sent on the path tag so far, what it expects, and how it wants to be answered."""

    packets: int
    """DATA packets."""
    octets: int
    """Octets of DATA bodies."""
    expected_raw_ns: int | None = None
    """Raw one-way latency that the matrix predicts for the path, ns; None if unknown."""
    expected_loss_ppm: int = 0
    """Loss that the matrix predicts, parts per million."""
    answer_ms: int = 0
    """Answer DATA on this tag, too, at least so far apart, ms, 16 bits; 0 = answer only KEEPALIVEs."""
    back: tuple[bytes, ...] | None = None
    """Locators (8 bytes each) of the relays that answers shall take, in visiting order, at most 3; None = those of the path, reversed."""
    is_once: bool = False
    """Whether `back` is meant for this answer alone and not for those to DATA."""

    def encode(self) -> bytes:
        """Return the body, 72 bytes, padded to the length of an ACK's.

        Raises:
            struct.error: a field does not fit its bits. ValueError: too many relays, or one that is no locator.
        """
        relays = () if self.back is None else self.back
        if len(relays) > BACK_RELAYS_MAX or any(len(relay) != _LOCATOR_BYTES for relay in relays):
            raise ValueError(f"the way back has {len(relays)} relays, at most {BACK_RELAYS_MAX} locators of 8 bytes are allowed")
        expected_ns = _NONE_NS if self.expected_raw_ns is None else self.expected_raw_ns
        way = 0 if self.back is None else 1 + len(relays)
        return _KEEPALIVE.pack(
            self.packets, self.octets, expected_ns, self.expected_loss_ppm, self.answer_ms, way, _ONCE * self.is_once, b"".join(relays)
        )

    @classmethod
    def decode(cls, body: bytes) -> KeepAlive:
        """Return the body of a KEEPALIVE.

        Raises:
            DecodeError: another length, impossible values, or padding that is not zero ("payload-length", "payload-flags").
        """
        if len(body) != _KEEPALIVE.size:
            raise DecodeError(f"KEEPALIVE body of {len(body)} bytes", reason="payload-length")
        packets, octets, expected_ns, loss_ppm, answer_ms, way, flags, relays = _KEEPALIVE.unpack(body)
        used = _LOCATOR_BYTES * max(0, way - 1)
        if used > len(relays) or flags & ~_ONCE or loss_ppm > LOSS_PPM_MAX or any(relays[used:]) or any(body[-16:]):
            raise DecodeError("KEEPALIVE with impossible values or padding", reason="payload-flags")
        back = None if not way else tuple(relays[at : at + _LOCATOR_BYTES] for at in range(0, used, _LOCATOR_BYTES))
        expected = None if expected_ns == _NONE_NS else expected_ns
        return cls(packets, octets, expected, loss_ppm, answer_ms, back, bool(flags))


@attrs.frozen(slots=True)
class Ack:
    """Body of an ACK: what the egress saw of one path tag. Latencies are raw: egress stamp less ingress stamp."""

    path_tag: int
    """As it arrived; differs from the link header's if a relay changed one of them."""
    keepalive_seq: int
    """seq of the KEEPALIVE answered, or of the DATA (see `is_for_data`)."""
    keepalive_raw_ns: int
    """Raw one-way latency of what is answered, ns."""
    packets: int
    """DATA packets received on the tag so far, what is answered included."""
    octets: int
    """Octets of their bodies."""
    mean_raw_ns: int | None
    """Mean raw one-way latency of the DATA since the previous ACK on the tag, ns; None if there was none."""
    highest_seq: int
    """Highest seq of any DATA on the tag; 0 if there was none."""
    rate_kbps: int = 0
    """DATA received since the previous ACK on the tag, kbit/s by the egress's stamps, 32 bits; 0 = unknown."""
    burst_kbps: int = 0
    """Highest rate within one train of DATA since the previous ACK, kbit/s, 32 bits; 0 = no train."""
    is_for_data: bool = False
    """Whether DATA is answered."""

    def encode(self) -> bytes:
        """Return the body, 72 bytes.

        Raises:
            struct.error: a field does not fit its bits.
        """
        return _ACK.pack(
            self.path_tag,
            self.keepalive_seq,
            self.keepalive_raw_ns,
            self.packets,
            self.octets,
            _NONE_NS if self.mean_raw_ns is None else self.mean_raw_ns,
            self.highest_seq,
            self.rate_kbps,
            self.burst_kbps,
            self.is_for_data,
        )

    @classmethod
    def decode(cls, body: bytes) -> Ack:
        """Return the body of an ACK.

        Raises:
            DecodeError: another length, unknown flags, or padding that is not zero ("payload-length", "payload-flags").
        """
        if len(body) != _ACK.size:
            raise DecodeError(f"ACK body of {len(body)} bytes", reason="payload-length")
        tag, seq, raw_ns, packets, octets, mean_ns, highest_seq, rate_kbps, burst_kbps, flags = _ACK.unpack(body)
        if flags > 1 or any(body[-7:]):
            raise DecodeError("ACK with unknown flags or padding", reason="payload-flags")
        mean = None if mean_ns == _NONE_NS else mean_ns
        return cls(tag, seq, raw_ns, packets, octets, mean, highest_seq, rate_kbps, burst_kbps, bool(flags))


class NoticeReason(enum.IntEnum):
    """Why a relay gives notice. Values are wire format."""

    NO_SESSION = 1
    """It has no session with the next node."""
    NO_MEMBER = 2
    """The next node is no member any more: it left, or was given up as failed."""
    OVERLOADED = 3
    """It carries more than it is willing to."""


_REASONS = {int(reason): reason for reason in NoticeReason}
SHARE_PERMILLE_MAX = 1000


@attrs.frozen(slots=True)
class Notice:
    """Body of a NOTICE: why a relay would like data on this path tag to go elsewhere."""

    reason: NoticeReason
    locator: bytes
    """The node it cannot reach, 8 bytes; for OVERLOADED its own."""
    share_permille: int = SHARE_PERMILLE_MAX
    """Share of the traffic that should go elsewhere, 0..1000."""

    def encode(self) -> bytes:
        """Return the body, 16 bytes.

        Raises:
            struct.error: a field does not fit its bits. ValueError: no locator.
        """
        if len(self.locator) != _LOCATOR_BYTES:
            raise ValueError(f"a locator has {_LOCATOR_BYTES} bytes, not {len(self.locator)}")
        return _NOTICE.pack(self.locator, self.reason, self.share_permille, 0)

    @classmethod
    def decode(cls, body: bytes) -> Notice:
        """Return the body of a NOTICE.

        Raises:
            DecodeError: another length, an unknown reason or impossible values ("payload-length", "payload-flags").
        """
        if len(body) != _NOTICE.size:
            raise DecodeError(f"NOTICE body of {len(body)} bytes", reason="payload-length")
        locator, number, share_permille, reserved = _NOTICE.unpack(body)
        reason = _REASONS.get(number)
        if reason is None or reserved or body[9] or share_permille > SHARE_PERMILLE_MAX:
            raise DecodeError("NOTICE with impossible values", reason="payload-flags")
        return cls(reason, locator, share_permille)


def raw_latency_ns(rx_ns: int, tx_ns: int) -> int:
    """Return the raw one-way latency of a packet, clamped to what 64 bits can carry."""
    raw_ns = rx_ns - tx_ns
    return raw_ns if -RAW_NS_MAX <= raw_ns <= RAW_NS_MAX else max(-RAW_NS_MAX, min(RAW_NS_MAX, raw_ns))
