"""What is inside the end-to-end seal: data for a flow, and the keep-alives that watch a path.

A payload is a 24-byte header and a body, little endian: u8 kind, u8 flags, u16 reserved, u32 flow, u64 seq, i64 tx_ns. Only ingress and
egress read it; relays see ciphertext. `tx_ns` is the sender's stamp clock at sealing, so the receiver gets one raw one-way latency per
packet (its own stamp less the sender's, clock offset included), of traffic that really flowed.

- DATA: one datagram of a flow; seq counts per flow from 0.
- KEEPALIVE: how many packets and octets of DATA were sent on this path tag so far; seq counts per path tag.
- ACK: the egress's answer to one KEEPALIVE: its latency, and what DATA arrived on the tag.
- CLOSE: the flow ends; seq is the number of DATA packets it had.

"Octets of DATA" are octets of bodies: what an application handed over, equal at both ends. A KEEPALIVE is padded to the length of an
ACK, so that answering it amplifies nothing.

Invariant: decoding accepts exactly what encoding makes; flags, reserved bits and padding are zero.
"""

from __future__ import annotations

import enum
import struct

import attrs

from srwan.errors import DecodeError

__all__ = ["Ack", "KeepAlive", "Payload", "PayloadKind"]

DATA_BYTES_MAX = 1200
"""Body of a DATA packet, bytes: fits 8 segments into `packet.PACKET_BYTES_MAX`."""
PAYLOAD_HEADER_BYTES = 24
_HEADER = struct.Struct("<BBHIQq")
_KEEPALIVE = struct.Struct("<QQ40x")
_ACK = struct.Struct("<QQqQQqQ")
_NONE_NS = -(1 << 63)
RAW_NS_MAX = (1 << 63) - 1
"""Raw latencies are clamped to +-this: stamps of hostile or unset clocks must still fit 64 bits."""


class PayloadKind(enum.IntEnum):
    """What a payload carries. Values are wire format."""

    DATA = 1
    KEEPALIVE = 2
    ACK = 3
    CLOSE = 4


_KINDS = {int(kind): kind for kind in PayloadKind}
_BODY_BYTES_OF = {PayloadKind.KEEPALIVE: _KEEPALIVE.size, PayloadKind.ACK: _ACK.size, PayloadKind.CLOSE: 0}


@attrs.frozen(slots=True)
class Payload:
    """A payload in clear."""

    kind: PayloadKind
    flow: int
    """Flow between the two ends, 32 bits; 0 for KEEPALIVE and ACK."""
    seq: int
    """64 bits; see the module's header for what it counts."""
    tx_ns: int
    """Stamp at sealing, ns of the sender's stamp clock."""
    body: bytes = b""

    def encode(self) -> bytes:
        """Return the plaintext to seal. Cost: 0.6 us.

        Raises:
            struct.error: a field does not fit its bits. ValueError: the body has the wrong length for its kind.
        """
        _check_body(self.kind, len(self.body))
        return _HEADER.pack(self.kind, 0, 0, self.flow, self.seq, self.tx_ns) + self.body

    @classmethod
    def decode(cls, plaintext: bytes) -> Payload:
        """Return the payload that `plaintext` is. For input from an authenticated but not trusted peer.

        Raises:
            DecodeError: "payload-length", "payload-kind" or "payload-flags".

        Cost: 1.8 us.
        """
        if len(plaintext) < PAYLOAD_HEADER_BYTES:
            raise DecodeError(f"payload of {len(plaintext)} bytes", reason="payload-length")
        number, flags, reserved, flow, seq, tx_ns = _HEADER.unpack_from(plaintext)
        kind = _KINDS.get(number)
        if kind is None:
            raise DecodeError(f"unknown payload kind {number}", reason="payload-kind")
        if flags or reserved:
            raise DecodeError(f"unknown payload flags {flags:#x} {reserved:#x}", reason="payload-flags")
        try:
            _check_body(kind, len(plaintext) - PAYLOAD_HEADER_BYTES)
        except ValueError as error:
            raise DecodeError(str(error), reason="payload-length") from None
        return cls(kind, flow, seq, tx_ns, plaintext[PAYLOAD_HEADER_BYTES:])


def _check_body(kind: PayloadKind, length: int) -> None:
    if kind is PayloadKind.DATA:
        if length > DATA_BYTES_MAX:
            raise ValueError(f"DATA of {length} bytes, at most {DATA_BYTES_MAX} are allowed")
    elif length != _BODY_BYTES_OF[kind]:
        raise ValueError(f"{kind.name} body of {length} bytes, not {_BODY_BYTES_OF[kind]}")


@attrs.frozen(slots=True)
class KeepAlive:
    """Body of a KEEPALIVE: what the ingress has sent on the path tag so far."""

    packets: int
    """DATA packets."""
    octets: int
    """Octets of DATA bodies."""

    def encode(self) -> bytes:
        """Return the body, padded to the length of an ACK's.

        Raises:
            struct.error: a field does not fit its bits.
        """
        return _KEEPALIVE.pack(self.packets, self.octets)

    @classmethod
    def decode(cls, body: bytes) -> KeepAlive:
        """Return the body of a KEEPALIVE.

        Raises:
            DecodeError: another length, or padding that is not zero ("payload-length", "payload-flags").
        """
        if len(body) != _KEEPALIVE.size:
            raise DecodeError(f"KEEPALIVE body of {len(body)} bytes", reason="payload-length")
        if any(body[16:]):
            raise DecodeError("KEEPALIVE padding is not zero", reason="payload-flags")
        return cls(*_KEEPALIVE.unpack(body))


@attrs.frozen(slots=True)
class Ack:
    """Body of an ACK: what the egress saw of one path tag. Latencies are raw: egress stamp less ingress stamp."""

    path_tag: int
    """As it arrived; differs from the link header's if a relay changed one of them."""
    keepalive_seq: int
    """seq of the KEEPALIVE answered."""
    keepalive_raw_ns: int
    """Its raw one-way latency, ns."""
    packets: int
    """DATA packets received on the tag so far."""
    octets: int
    """Octets of their bodies."""
    mean_raw_ns: int | None
    """Mean raw one-way latency of the DATA since the previous ACK on the tag, ns; None if there was none."""
    highest_seq: int
    """Highest seq of any DATA on the tag; 0 if there was none."""

    def encode(self) -> bytes:
        """Return the body, 56 bytes.

        Raises:
            struct.error: a field does not fit its bits.
        """
        mean_raw_ns = _NONE_NS if self.mean_raw_ns is None else self.mean_raw_ns
        return _ACK.pack(self.path_tag, self.keepalive_seq, self.keepalive_raw_ns, self.packets, self.octets, mean_raw_ns, self.highest_seq)

    @classmethod
    def decode(cls, body: bytes) -> Ack:
        """Return the body of an ACK.

        Raises:
            DecodeError: another length ("payload-length").
        """
        if len(body) != _ACK.size:
            raise DecodeError(f"ACK body of {len(body)} bytes", reason="payload-length")
        path_tag, keepalive_seq, keepalive_raw_ns, packets, octets, mean_raw_ns, highest_seq = _ACK.unpack(body)
        mean = None if mean_raw_ns == _NONE_NS else mean_raw_ns
        return cls(path_tag, keepalive_seq, keepalive_raw_ns, packets, octets, mean, highest_seq)


def raw_latency_ns(rx_ns: int, tx_ns: int) -> int:
    """Return the raw one-way latency of a packet, clamped to what 64 bits can carry."""
    return max(-RAW_NS_MAX, min(RAW_NS_MAX, rx_ns - tx_ns))
