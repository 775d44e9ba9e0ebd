"""Handshakes of sessions that travel as the payload of SR packets, for two ends that cannot reach each other directly. A core.

Next header 254. The payload is sealed by nobody, because the session that would seal it is what is being made; a handshake needs no more
(`srwan.overlay.handshake`), and every hop authenticates its neighbour as for any SR packet:

    0   16  the sender's SID, END_APP: where the answer goes
    16      datagram of plane 0x1

The answer goes back over the same relays in reverse under the same path tag, and then to that SID: the responder does not know who calls
before it has done the work, and a COOKIE is there to spare it the work. A sender that names somebody else's SID has one datagram, no
longer than its own, sent there by us; it could send it there itself.

Invariant: reading accepts exactly what `write_in_band` makes on a path with at least one relay; without a relay the two ends are
neighbours, whose session exists already.
"""

from __future__ import annotations

import attrs

from srwan.errors import DecodeError
from srwan.overlay.handshake import CONFIRM_BYTES, INIT_BYTES
from srwan.overlay.way import RelayedWay
from srwan.routing.relay import Delivered
from srwan.routing.sid import SID_BYTES, Function, Sid

__all__ = ["HandshakeArrived", "read_in_band", "write_in_band"]

BYTES_MIN = SID_BYTES + CONFIRM_BYTES
BYTES_MAX = SID_BYTES + INIT_BYTES


@attrs.frozen(slots=True)
class HandshakeArrived:
    """A datagram of plane 0x1 came over relays, for `Sessions.receive_datagram`."""

    datagram: bytes
    way: RelayedWay
    """The way back."""


def write_in_band(sender: Sid, datagram: bytes) -> bytes:
    """Return the payload that carries `datagram`.

    Args:
        sender: this node's END_APP.
        datagram: of plane 0x1.
    """
    return sender + datagram


def read_in_band(delivered: Delivered) -> HandshakeArrived:
    """Return what a packet with next header 254 carries. For input from an authenticated neighbour.

    Raises:
        DecodeError: "in-band-length"; "in-band-way": no relay, or no SID to answer to; "loop": the sender relays its own handshake.
    """
    payload = delivered.payload
    if not BYTES_MIN <= len(payload) <= BYTES_MAX:
        raise DecodeError(f"handshake of {len(payload)} bytes over relays", reason="in-band-length")
    sender = Sid(payload[:SID_BYTES])
    relays = delivered.srh.segments[-2::-1]
    if not relays or sender.function != Function.END_APP or sender.argument:
        raise DecodeError(f"no way back to {sender} over {len(relays)} relays", reason="in-band-way")
    if any(segment.locator == sender.locator for segment in delivered.srh.segments):
        raise DecodeError("the sender is a relay or the end of its own handshake", reason="loop")
    return HandshakeArrived(payload[SID_BYTES:], RelayedWay((*map(bytes, relays), bytes(sender)), delivered.path_tag))
