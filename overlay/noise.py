"""Noise_IK_25519_AESGCM_BLAKE2s: the handshake that gives two routers a pair of fresh keys in one round trip.

    IK:
      <- s                     the initiator knows the responder's static key beforehand
      ...
      -> e, es, s, ss          INIT: ephemeral key, the initiator's static key sealed, payload sealed
      <- e, ee, se             RESPONSE: ephemeral key, payload sealed

Written from the Noise Protocol Framework, revision 34 (sections 5, 7.5, 9.3, 12), on the primitives of `cryptography`; checked in the tests
against an independent implementation, in both roles. Not here: datagram formats, retransmission, what the payloads mean (`handshake.py`,
`session.py`).

Theory of operation: a chaining key collects every Diffie-Hellman result, a hash collects every byte both sides saw. Each result
replaces the key under which the next piece is sealed, with the hash as associated data; so a piece opens only if both sides agree on
all that came before. In IK every such key seals exactly one piece, hence the nonce is always 0 and no counter is kept.

Properties (section 7.7): the payload of INIT is authenticated but can be replayed and lacks forward secrecy against a later theft of the
responder's key; the payload of RESPONSE and all that follows has both. The initiator's identity is hidden from those without that key.

Invariants: an object takes one step in each direction; a message that fails to open changes nothing, so forged messages cannot spoil
a handshake under way. All-zero Diffie-Hellman results are refused.
"""

from __future__ import annotations

import hashlib
import hmac

import attrs
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from srwan.errors import BadSignature, DecodeError

__all__ = ["INIT_OVERHEAD_BYTES", "RESPONSE_OVERHEAD_BYTES", "Initiator", "Responder", "TransportKeys"]

PROTOCOL_NAME = b"Noise_IK_25519_AESGCM_BLAKE2s"
KEY_BYTES = 32
TAG_BYTES = 16
INIT_OVERHEAD_BYTES = KEY_BYTES + (KEY_BYTES + TAG_BYTES) + TAG_BYTES
"""An INIT message is this much longer than its payload: ephemeral key, sealed static key, tag."""
RESPONSE_OVERHEAD_BYTES = KEY_BYTES + TAG_BYTES
_NONCE_ZERO = bytes(12)
_KEY_UNSET = bytes(KEY_BYTES)


@attrs.frozen(slots=True, repr=False)
class TransportKeys:
    """What a finished handshake leaves (`Split`, section 5.2). Secret: no `repr`."""

    from_initiator: bytes
    """Key of the direction initiator -> responder, 32 bytes."""
    from_responder: bytes
    """Key of the direction responder -> initiator, 32 bytes."""
    transcript: bytes
    """Handshake hash, 32 bytes: equal at both ends, unique to this handshake; for channel binding (section 11.2)."""


class _SymmetricState:
    """Section 5.2, with the CipherState of 5.1 reduced to the one key in force."""

    __slots__ = ("_chaining_key", "_key", "hash")

    def __init__(self, prologue: bytes) -> None:
        self._chaining_key = PROTOCOL_NAME.ljust(KEY_BYTES, b"\0")
        self._key = _KEY_UNSET
        self.hash = self._chaining_key
        self.mix_hash(prologue)

    def copy(self) -> _SymmetricState:
        twin = _SymmetricState.__new__(_SymmetricState)
        twin._chaining_key, twin._key, twin.hash = self._chaining_key, self._key, self.hash
        return twin

    def mix_hash(self, data: bytes) -> None:
        self.hash = hashlib.blake2s(self.hash + data).digest()

    def mix_key(self, private: X25519PrivateKey, public: bytes) -> None:
        """MixKey(DH(private, public)); the only place where Diffie-Hellman is done. Cost: 40 us."""
        try:
            secret = private.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError:
            raise BadSignature("a Diffie-Hellman result is zero: the peer's key is of low order", reason="bad-key") from None
        self._chaining_key, self._key = _hkdf(self._chaining_key, secret)

    def seal(self, plaintext: bytes) -> bytes:
        """EncryptAndHash."""
        sealed = AESGCM(self._key).encrypt(_NONCE_ZERO, plaintext, self.hash)
        self.mix_hash(sealed)
        return sealed

    def open(self, sealed: bytes) -> bytes:
        """DecryptAndHash."""
        try:
            plaintext = AESGCM(self._key).decrypt(_NONCE_ZERO, sealed, self.hash)
        except InvalidTag:
            raise BadSignature("a handshake message does not open", reason="handshake") from None
        self.mix_hash(sealed)
        return plaintext

    def split(self) -> TransportKeys:
        from_initiator, from_responder = _hkdf(self._chaining_key, b"")
        return TransportKeys(from_initiator, from_responder, self.hash)


class Initiator:
    """The side that knows whom it wants. `write_init`, then `read_response` until one opens.

    Args:
        static: our static key.
        ephemeral: a fresh key, never used before.
        responder_static: X25519 public key of the responder, 32 bytes.
        prologue: bytes both sides must agree on.
    """

    __slots__ = ("_ephemeral", "_responder_static", "_state", "_static")

    def __init__(self, *, static: X25519PrivateKey, ephemeral: X25519PrivateKey, responder_static: bytes, prologue: bytes) -> None:
        self._static = static
        self._ephemeral = ephemeral
        self._responder_static = responder_static
        self._state = _SymmetricState(prologue)
        self._state.mix_hash(responder_static)

    def write_init(self, payload: bytes) -> bytes:
        """Return the first message, `INIT_OVERHEAD_BYTES` longer than `payload`. Call once. Cost: 110 us.

        Raises:
            BadSignature: the responder's key is of low order.
        """
        state = self._state
        ephemeral_public = self._ephemeral.public_key().public_bytes_raw()
        state.mix_hash(ephemeral_public)
        state.mix_key(self._ephemeral, self._responder_static)
        sealed_static = state.seal(self._static.public_key().public_bytes_raw())
        state.mix_key(self._static, self._responder_static)
        return ephemeral_public + sealed_static + state.seal(payload)

    def read_response(self, message: bytes) -> tuple[bytes, TransportKeys]:
        """Return the responder's payload and the keys. May be called again after a failure.

        Raises:
            DecodeError: too short. BadSignature: forged, or an answer to another handshake. Nothing changed.

        Cost: 100 us.
        """
        if len(message) < RESPONSE_OVERHEAD_BYTES:
            raise DecodeError(f"handshake response of {len(message)} bytes", reason="length")
        state = self._state.copy()
        ephemeral = message[:KEY_BYTES]
        state.mix_hash(ephemeral)
        state.mix_key(self._ephemeral, ephemeral)
        state.mix_key(self._static, ephemeral)
        payload = state.open(message[KEY_BYTES:])
        return payload, state.split()


class Responder:
    """The side that is called. `read_init`, decide, `write_response`. One object per message received.

    Args:
        static: our static key.
        static_public: its public half, 32 bytes (saves deriving it for every message).
        prologue: bytes both sides must agree on.
    """

    __slots__ = ("_initiator_ephemeral", "_initiator_static", "_state", "_static")

    def __init__(self, *, static: X25519PrivateKey, static_public: bytes, prologue: bytes) -> None:
        self._static = static
        self._state = _SymmetricState(prologue)
        self._state.mix_hash(static_public)
        self._initiator_ephemeral = b""
        self._initiator_static = b""

    def read_init(self, message: bytes) -> tuple[bytes, bytes]:
        """Return the initiator's static public key, proved to be its own, and its payload.

        Raises:
            DecodeError: too short. BadSignature: not for us, forged, or another prologue. Throw the object away.

        Cost: 100 us; 50 us for messages not meant for us.
        """
        if len(message) < INIT_OVERHEAD_BYTES:
            raise DecodeError(f"handshake init of {len(message)} bytes", reason="length")
        state = self._state
        ephemeral = message[:KEY_BYTES]
        static_end = KEY_BYTES + KEY_BYTES + TAG_BYTES
        state.mix_hash(ephemeral)
        state.mix_key(self._static, ephemeral)
        initiator_static = state.open(message[KEY_BYTES:static_end])
        state.mix_key(self._static, initiator_static)
        payload = state.open(message[static_end:])
        self._initiator_ephemeral, self._initiator_static = ephemeral, initiator_static
        return initiator_static, payload

    def write_response(self, payload: bytes, ephemeral: X25519PrivateKey) -> tuple[bytes, TransportKeys]:
        """Return the second message, `RESPONSE_OVERHEAD_BYTES` longer than `payload`, and the keys. Call once. Cost: 110 us.

        Raises:
            BadSignature: the initiator's ephemeral key is of low order.
        """
        assert self._initiator_static, "write_response before read_init"
        state = self._state
        ephemeral_public = ephemeral.public_key().public_bytes_raw()
        state.mix_hash(ephemeral_public)
        state.mix_key(ephemeral, self._initiator_ephemeral)
        state.mix_key(ephemeral, self._initiator_static)
        return ephemeral_public + state.seal(payload), state.split()


def _hkdf(chaining_key: bytes, material: bytes) -> tuple[bytes, bytes]:
    """HKDF with two outputs over HMAC-BLAKE2s (section 4.3)."""
    extracted = _hmac(chaining_key, material)
    first = _hmac(extracted, b"\x01")
    return first, _hmac(extracted, first + b"\x02")


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, hashlib.blake2s).digest()
