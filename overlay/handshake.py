"""What session handshakes look like on the wire, and the keys that come out of them.

Five datagrams of plane 0x1, all little endian; `session.py` decides when each is sent:

    INIT, 176 B               initiator -> responder
      0   u8   0x12, plane and version
      1   u8   1
      2   u16  0
      4   32   ephemeral key                    |
      36  48   static key, sealed               | first message of Noise IK
      84  60   payload, sealed: NodeId of the   |
               sender 32, u32 its session index,|
               u64 its wall time in ns          |
      144 16   mac1: BLAKE2b-128 over bytes 0..143, key = BLAKE2b-256(NodeId of the receiver), person "srwan/mac1/1"
      160 16   mac2: zero, or BLAKE2b-128 over bytes 0..159, key = the cookie that the receiver gave

    RESPONSE, 60 B            responder -> initiator
      0   u8, u8, u16         0x12, 2, 0
      4   u32                 session index of the receiver
      8   32   ephemeral key                    | second message of Noise IK
      40  20   payload, sealed: u32 index       |
               of the sender                    |

    CONFIRM (3) and its answer CONFIRMED (4), 32 B
      0   u8, u8, u16         0x12, type, 0
      4   u32                 session index of the receiver
      8   u64                 counter of the sender's link key
      16  16   AES-256-GCM tag over bytes 0..15, under the sender's link key

    COOKIE, 64 B              responder -> initiator, instead of RESPONSE, when INITs come too fast
      0   u8, u8, u16         0x12, 5, 0
      4   16   mac1 of the INIT it answers
      20  12   nonce, random
      32  32   cookie, sealed: AES-256-GCM, key = BLAKE2b-256(NodeId of the sender), person "srwan/cookie/1", over bytes 0..19

No answer is longer than its question, so nothing amplifies. The macs are WireGuard's (Donenfeld 2017, sections 5.3 and 5.4.7). mac1 shows
that the sender knows whom it calls: scans and stray bytes are dropped for 1 us instead of 40 us. It is no secret and authenticates nobody.
mac2 shows that the sender receives what is sent to where it says it is: the cookie is a MAC over that address under a secret of the
responder (`admission.py`), which keeps no state for it. Only who saw the INIT can make a COOKIE that opens.

The prologue is `srwan/session/2` and the responder's NodeId. A NodeId is an Ed25519 key, and two of them (A and its negative) map
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
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from srwan.errors import BadSignature, DecodeError
from srwan.identity import Identity, x25519_public_key
from srwan.overlay.noise import INIT_OVERHEAD_BYTES, RESPONSE_OVERHEAD_BYTES, Initiator, Responder, TransportKeys
from srwan.types import NodeId

__all__ = [
    "CONFIRM_BYTES",
    "CONFIRM_HEADER",
    "COOKIE_BYTES",
    "INIT_BYTES",
    "MAC_BYTES",
    "RESPONSE_BYTES",
    "SESSION_MAGIC",
    "SESSION_PLANE",
    "Handshaker",
    "Hello",
    "SessionDatagram",
    "SessionSecrets",
    "StartedHandshake",
    "cookie_mac1",
    "datagram_type",
    "response_index",
]

SESSION_PLANE = 0x1
"""Upper half of the first byte of a session datagram; SR packets have 0x2, frames 0x3."""
SESSION_MAGIC = SESSION_PLANE << 4 | 2
PROLOGUE = b"srwan/session/2"

_HEADER = struct.Struct("<BBH")
_RESPONSE_HEADER = struct.Struct("<BBHI")
CONFIRM_HEADER = struct.Struct("<BBHIQ")
_HELLO = struct.Struct("<32sIQ")
_INDEX = struct.Struct("<I")
_COOKIE_HEADER = struct.Struct("<BBH16s")
_NONCE_BYTES = 12
MAC_BYTES = 16
"""Of mac1, of mac2, and of a cookie."""
INIT_BYTES = _HEADER.size + INIT_OVERHEAD_BYTES + _HELLO.size + 2 * MAC_BYTES
_MAC1_AT, _MAC2_AT = INIT_BYTES - 2 * MAC_BYTES, INIT_BYTES - MAC_BYTES
_NO_MAC2 = bytes(MAC_BYTES)
RESPONSE_BYTES = _RESPONSE_HEADER.size + RESPONSE_OVERHEAD_BYTES + _INDEX.size
CONFIRM_BYTES = CONFIRM_HEADER.size + 16
COOKIE_BYTES = _COOKIE_HEADER.size + _NONCE_BYTES + MAC_BYTES + 16


class SessionDatagram(enum.IntEnum):
    """Types of session datagrams. Values are wire format."""

    INIT = 1
    RESPONSE = 2
    CONFIRM = 3
    CONFIRMED = 4
    COOKIE = 5


_BYTES = {
    SessionDatagram.INIT: INIT_BYTES,
    SessionDatagram.RESPONSE: RESPONSE_BYTES,
    SessionDatagram.CONFIRM: CONFIRM_BYTES,
    SessionDatagram.CONFIRMED: CONFIRM_BYTES,
    SessionDatagram.COOKIE: COOKIE_BYTES,
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
    """The initiator's half of a handshake under way: the INIT to send, and what opens the RESPONSE or a COOKIE."""

    __slots__ = ("_body", "_noise", "_peer")

    def __init__(self, noise: Initiator, peer: NodeId, body: bytes) -> None:
        self._noise = noise
        self._peer = peer
        self._body = body  # up to and with mac1

    @property
    def mac1(self) -> bytes:
        """What a COOKIE for this INIT names."""
        return self._body[_MAC1_AT:]

    def datagram(self, cookie: bytes = b"") -> bytes:
        """Return the INIT, with mac2 if there is a cookie; the same bytes for the same cookie. Cost: 1 us."""
        return self._body + (_mac(cookie, self._body) if cookie else _NO_MAC2)

    def read_cookie(self, data: bytes) -> bytes:
        """Return the cookie in a COOKIE of the right length.

        Raises:
            BadSignature: not made by somebody who saw this INIT and knows the peer ("cookie").

        Cost: 4 us.
        """
        header, nonce, sealed = data[: _COOKIE_HEADER.size], data[_COOKIE_HEADER.size : 32], data[32:]
        try:
            return AESGCM(_cookie_key(self._peer)).decrypt(nonce, sealed, header)
        except InvalidTag:
            raise BadSignature("a COOKIE does not open", reason="cookie") from None

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

    __slots__ = ("_cookie_cipher", "_mac1_key", "_prologue", "_static", "_static_public", "node_id")

    def __init__(self, identity: Identity) -> None:
        self.node_id = identity.node_id
        self._static = X25519PrivateKey.from_private_bytes(identity.x25519_secret)
        self._static_public = self._static.public_key().public_bytes_raw()
        self._mac1_key = _mac1_key(identity.node_id)
        self._cookie_cipher = AESGCM(_cookie_key(identity.node_id))
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
        return StartedHandshake(noise, peer, body + _mac(_mac1_key(peer), body))

    def require_mac1(self, init: bytes) -> bytes:
        """Return the mac1 of an INIT of the right length that is meant for this node. Cost: 1 us.

        Raises:
            BadSignature: meant for another node, or stray bytes.
        """
        mac1 = init[_MAC1_AT:_MAC2_AT]
        if not hmac.compare_digest(mac1, _mac(self._mac1_key, init[:_MAC1_AT])):
            raise BadSignature("an INIT that was not made for this node", reason="mac1")
        return mac1

    @staticmethod
    def has_mac2(init: bytes, cookie: bytes) -> bool:
        """Say whether the sender of an INIT holds `cookie`. Cost: 1 us."""
        mac2 = init[_MAC2_AT:]
        return mac2 != _NO_MAC2 and hmac.compare_digest(mac2, _mac(cookie, init[:_MAC2_AT]))

    def give_cookie(self, mac1: bytes, cookie: bytes, nonce: bytes) -> bytes:
        """Return the COOKIE that answers an INIT.

        Args:
            mac1: of the INIT.
            cookie: 16 bytes.
            nonce: 12 random bytes.

        Cost: 2 us.
        """
        header = _COOKIE_HEADER.pack(SESSION_MAGIC, SessionDatagram.COOKIE, 0, mac1)
        return header + nonce + self._cookie_cipher.encrypt(nonce, cookie, header)

    def read_init(self, init: bytes) -> tuple[Responder, Hello]:
        """Open an INIT that passed `require_mac1`.

        Returns:
            What answers it, and what the initiator says of itself.

        Raises:
            BadSignature: forged, or the NodeId does not belong to the static key.

        Cost: 170 us.
        """
        noise = Responder(static=self._static, static_public=self._static_public, prologue=self._prologue)
        static, payload = noise.read_init(init[_HEADER.size : _MAC1_AT])
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


def cookie_mac1(data: bytes) -> bytes:
    """Return the mac1 of the INIT that a COOKIE of the right length answers."""
    mac1: bytes = _COOKIE_HEADER.unpack_from(data)[3]
    return mac1


def _mac1_key(receiver: NodeId) -> bytes:
    return hashlib.blake2b(receiver, digest_size=32, person=b"srwan/mac1/1").digest()


def _cookie_key(responder: NodeId) -> bytes:
    return hashlib.blake2b(responder, digest_size=32, person=b"srwan/cookie/1").digest()


def _mac(key: bytes, body: bytes) -> bytes:
    return hashlib.blake2b(body, key=key, digest_size=MAC_BYTES).digest()


def _subkey(key: bytes, transcript: bytes, purpose: bytes) -> bytes:
    return hashlib.blake2b(transcript, key=key, digest_size=32, person=purpose).digest()
