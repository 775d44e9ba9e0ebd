"""What session handshakes look like on the wire, and the keys that come out of them.

Four datagrams of plane 0x1, all little endian; `session.py` decides when each is sent:

    INIT, 160 B               initiator -> responder
      0   u8   0x11, plane and version
      1   u8   1
      2   u16  0
      4   32   ephemeral key                    |
      36  48   static key, sealed               | first message of Noise IK
      84  60   payload, sealed: NodeId of the   |
               sender 32, u32 its session index,|
               u64 its wall time in ns          |
      144 16   mac1: BLAKE2b-128 over bytes 0..143, key = BLAKE2b-256(NodeId of the receiver)

    RESPONSE, 60 B            responder -> initiator
      0   u8, u8, u16         0x11, 2, 0
      4   u32                 session index of the receiver
      8   32   ephemeral key                    | second message of Noise IK
      40  20   payload, sealed: u32 index       |
               of the sender                    |

    CONFIRM (3) and CONFIRMED (4), 32 B; initiator -> responder and back
      0   u8, u8, u16         0x11, type, 0
      4   u32                 session index of the receiver
      8   u64                 counter of the sender's link key
      16  16   AES-256-GCM tag over bytes 0..15, under the sender's link key

No answer is longer than its question, so nothing amplifies. mac1 (as in WireGuard, Donenfeld 2017, section 5.3) shows that the sender
knows whom it calls: scans and stray bytes are dropped for 1 us instead of 40 us. It is no secret and authenticates nobody.

The prologue is `srwan/session/1` and the responder's NodeId. A NodeId is an Ed25519 key, and two of them (A and its negative) map
to one X25519 key; with the prologue the initiator gets an answer only from the NodeId it called, and the responder checks the
NodeId in the payload against the static key.

Keys: Noise leaves one key per direction; each gives two, BLAKE2b-256 keyed with it over the handshake hash, `person` "srwan/link/1" or
"srwan/end/1". Link keys seal headers between neighbours, end keys payloads between ingress and egress: a relay that is a neighbour
today and an egress tomorrow never uses one key for two formats.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import struct

import attrs
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from srwan.errors import BadSignature, DecodeError
from srwan.identity import Identity, x25519_public_key
from srwan.overlay.noise import INIT_OVERHEAD_BYTES, RESPONSE_OVERHEAD_BYTES, Initiator, Responder, TransportKeys
from srwan.types import NodeId

__all__ = [
    "CONFIRM_BYTES",
    "CONFIRM_HEADER",
    "INIT_BYTES",
    "MAC1_BYTES",
    "RESPONSE_BYTES",
    "SESSION_MAGIC",
    "SESSION_PLANE",
    "Handshaker",
    "Hello",
    "SessionDatagram",
    "SessionSecrets",
    "StartedHandshake",
    "datagram_type",
    "response_index",
]

SESSION_PLANE = 0x1
"""Upper half of the first byte of a session datagram; SR packets have 0x2, frames 0x3."""
SESSION_MAGIC = SESSION_PLANE << 4 | 1
PROLOGUE = b"srwan/session/1"

_HEADER = struct.Struct("<BBH")
_RESPONSE_HEADER = struct.Struct("<BBHI")
CONFIRM_HEADER = struct.Struct("<BBHIQ")
_HELLO = struct.Struct("<32sIQ")
_INDEX = struct.Struct("<I")
MAC1_BYTES = 16
INIT_BYTES = _HEADER.size + INIT_OVERHEAD_BYTES + _HELLO.size + MAC1_BYTES
RESPONSE_BYTES = _RESPONSE_HEADER.size + RESPONSE_OVERHEAD_BYTES + _INDEX.size
CONFIRM_BYTES = CONFIRM_HEADER.size + 16


class SessionDatagram(enum.IntEnum):
    """Types of session datagrams. Values are wire format."""

    INIT = 1
    RESPONSE = 2
    CONFIRM = 3
    CONFIRMED = 4


_BYTES = {
    SessionDatagram.INIT: INIT_BYTES,
    SessionDatagram.RESPONSE: RESPONSE_BYTES,
    SessionDatagram.CONFIRM: CONFIRM_BYTES,
    SessionDatagram.CONFIRMED: CONFIRM_BYTES,
}


@attrs.frozen(slots=True)
class Hello:
    """What the initiator says of itself in INIT; authenticated."""

    node_id: NodeId
    index: int
    """Session index it wants to be addressed by, u32."""
    timestamp_ns: int
    """Wall time at its side, ns; rises from one handshake to the next."""


@attrs.frozen(slots=True, repr=False)
class SessionSecrets:
    """The four keys of a session as one side uses them, 32 bytes each. Secret: no `repr`."""

    link_seal: bytes
    link_open: bytes
    end_seal: bytes
    end_open: bytes

    @classmethod
    def derive(cls, keys: TransportKeys, *, is_initiator: bool) -> SessionSecrets:
        """Return the keys of the initiator's or the responder's side."""
        ours, theirs = keys.from_initiator, keys.from_responder
        if not is_initiator:
            ours, theirs = theirs, ours
        return cls(
            link_seal=_subkey(ours, keys.transcript, b"srwan/link/1"),
            link_open=_subkey(theirs, keys.transcript, b"srwan/link/1"),
            end_seal=_subkey(ours, keys.transcript, b"srwan/end/1"),
            end_open=_subkey(theirs, keys.transcript, b"srwan/end/1"),
        )


class StartedHandshake:
    """The initiator's half of a handshake under way: the INIT to send, and what opens the RESPONSE."""

    __slots__ = ("_noise", "datagram")

    def __init__(self, noise: Initiator, datagram: bytes) -> None:
        self._noise = noise
        self.datagram = datagram

    def read_response(self, data: bytes) -> tuple[int, SessionSecrets]:
        """Return the responder's session index and the keys. A failure changes nothing; the right RESPONSE may still come.

        Raises:
            BadSignature: forged, or the answer to another INIT.

        Cost: 100 us.
        """
        payload, keys = self._noise.read_response(data[_RESPONSE_HEADER.size :])
        (index,) = _INDEX.unpack(payload)
        return index, SessionSecrets.derive(keys, is_initiator=True)


class Handshaker:
    """Makes and opens handshake datagrams for one node. Stateless but for the node's keys.

    Args:
        identity: this node's keys.
    """

    __slots__ = ("_mac1_key", "_prologue", "_static", "_static_public", "node_id")

    def __init__(self, identity: Identity) -> None:
        self.node_id = identity.node_id
        self._static = X25519PrivateKey.from_private_bytes(identity.x25519_secret)
        self._static_public = self._static.public_key().public_bytes_raw()
        self._mac1_key = _mac1_key(identity.node_id)
        self._prologue = PROLOGUE + identity.node_id

    def start(self, peer: NodeId, *, index: int, timestamp_ns: int, ephemeral: bytes) -> StartedHandshake:
        """Make an INIT.

        Args:
            peer: whom to call.
            index: our session index, u32.
            timestamp_ns: wall time, ns; greater than in any INIT before.
            ephemeral: 32 fresh random bytes.

        Raises:
            BadSignature: `peer` is no usable public key.

        Cost: 240 us.
        """
        noise = Initiator(
            static=self._static,
            ephemeral=X25519PrivateKey.from_private_bytes(ephemeral),
            responder_static=x25519_public_key(peer),
            prologue=PROLOGUE + peer,
        )
        message = noise.write_init(_HELLO.pack(self.node_id, index, timestamp_ns))
        body = _HEADER.pack(SESSION_MAGIC, SessionDatagram.INIT, 0) + message
        return StartedHandshake(noise, body + _mac1(_mac1_key(peer), body))

    def require_mac1(self, init: bytes) -> bytes:
        """Return the mac1 of an INIT of the right length that is meant for this node. Cost: 1 us.

        Raises:
            BadSignature: meant for another node, or stray bytes.
        """
        mac1 = init[-MAC1_BYTES:]
        if not hmac.compare_digest(mac1, _mac1(self._mac1_key, init[:-MAC1_BYTES])):
            raise BadSignature("an INIT that was not made for this node", reason="mac1")
        return mac1

    def read_init(self, init: bytes) -> tuple[Responder, Hello]:
        """Open an INIT that passed `require_mac1`.

        Returns:
            What answers it, and what the initiator says of itself.

        Raises:
            BadSignature: forged, or the NodeId does not belong to the static key.

        Cost: 170 us.
        """
        noise = Responder(static=self._static, static_public=self._static_public, prologue=self._prologue)
        static, payload = noise.read_init(init[_HEADER.size : -MAC1_BYTES])
        node_id, index, timestamp_ns = _HELLO.unpack(payload)
        node = NodeId(node_id)
        if x25519_public_key(node) != static:
            raise BadSignature(f"an INIT in the name of {node!r} with another static key", reason="identity")
        return noise, Hello(node, index, timestamp_ns)

    def respond(self, noise: Responder, hello: Hello, *, index: int, ephemeral: bytes) -> tuple[bytes, SessionSecrets]:
        """Return the RESPONSE to an INIT just read, and the responder's keys.

        Args:
            noise: from `read_init`; used up.
            hello: from `read_init`.
            index: our session index, u32.
            ephemeral: 32 fresh random bytes.

        Raises:
            BadSignature: the initiator's ephemeral key is of low order.

        Cost: 160 us.
        """
        message, keys = noise.write_response(_INDEX.pack(index), X25519PrivateKey.from_private_bytes(ephemeral))
        header = _RESPONSE_HEADER.pack(SESSION_MAGIC, SessionDatagram.RESPONSE, 0, hello.index)
        return header + message, SessionSecrets.derive(keys, is_initiator=False)


def datagram_type(data: bytes) -> SessionDatagram:
    """Return the type of a session datagram whose header and length are right.

    Raises:
        DecodeError: another version ("version"), unknown type ("type"), wrong length ("length"), reserved bits set ("decode").
    """
    if len(data) < _HEADER.size:
        raise DecodeError(f"session datagram of {len(data)} bytes", reason="length")
    magic, kind, reserved = _HEADER.unpack_from(data)
    if magic != SESSION_MAGIC:
        raise DecodeError(f"session version {magic:#x}", reason="version")
    try:
        known = SessionDatagram(kind)
    except ValueError:
        raise DecodeError(f"unknown session datagram {kind}", reason="type") from None
    if len(data) != _BYTES[known]:
        raise DecodeError(f"{known.name} of {len(data)} bytes", reason="length")
    if reserved:
        raise DecodeError("reserved bits of a session datagram are set")
    return known


def response_index(data: bytes) -> int:
    """Return the session index that a RESPONSE of the right length is addressed to."""
    index: int = _RESPONSE_HEADER.unpack_from(data)[3]
    return index


def _mac1_key(receiver: NodeId) -> bytes:
    return hashlib.blake2b(receiver, digest_size=32, person=b"srwan/mac1/1").digest()


def _mac1(key: bytes, body: bytes) -> bytes:
    return hashlib.blake2b(body, key=key, digest_size=MAC1_BYTES).digest()


def _subkey(key: bytes, transcript: bytes, purpose: bytes) -> bytes:
    return hashlib.blake2b(transcript, key=key, digest_size=32, person=purpose).digest()
