"""Canonical msgpack and the signed envelope: how everything that is signed, stored or sent over a control stream is encoded.

Canonical means: one value has one encoding. `unpack` packs what it read again and refuses bytes that differ, so that a digest or
a signature over bytes speaks of exactly one value. Only None, bool, int (64 bit), bytes, str, list and dict with str keys in
rising order are allowed; floats are not (money and octets are integers, latencies travel in fixed units).

An envelope is `[1, kind, signer, body, signature]`; the signature covers `srwan/<kind>/1`, a zero byte, and body. Sizes are checked
before anything is parsed, the signature before the body is parsed.
"""

from __future__ import annotations

from typing import Any, cast

import attrs
import msgpack

from srwan.errors import BadSignature, DecodeError, LimitExceeded
from srwan.identity import Identity, is_signed_by
from srwan.types import NodeId

__all__ = ["Envelope", "pack", "unpack"]

ENVELOPE_VERSION = 1
ENVELOPE_OVERHEAD_BYTES_MAX = 160
"""Upper bound of everything in an envelope that is not the body."""

_ENVELOPE_TYPES = (str, bytes, bytes, bytes)
"""Of what follows the version, compared as one tuple: a match statement took 6 us, as long as all the rest of decoding."""


def _check(value: Any) -> None:
    if value is None or isinstance(value, (bool, bytes, str)):
        return
    if isinstance(value, int):
        if not -(2**63) <= value < 2**64:
            raise ValueError(f"integer does not fit 64 bits: {value}")
        return
    if isinstance(value, (list, tuple)) and not isinstance(value, msgpack.ExtType):
        for item in value:
            _check(item)
        return
    if isinstance(value, dict):
        keys = list(value)
        if not all(isinstance(key, str) for key in keys) or keys != sorted(keys):
            raise ValueError("dict keys must be strings in rising order")
        for item in value.values():
            _check(item)
        return
    raise ValueError(f"{type(value).__name__} has no canonical encoding")


def pack(value: Any) -> bytes:
    """Return the canonical encoding of `value`.

    Raises:
        ValueError: a float, a dict with unsorted or non-str keys, an integer over 64 bits, or another type.
    """
    _check(value)
    return cast("bytes", msgpack.packb(value, use_bin_type=True))


def unpack(data: bytes, *, bytes_max: int) -> Any:
    """Return the value that `data` encodes. For hostile input.

    Args:
        data: canonical msgpack.
        bytes_max: refuse anything longer before parsing it.

    Raises:
        LimitExceeded: longer than bytes_max.
        DecodeError: not msgpack, not canonical, or a type that has no canonical encoding.
    """
    if len(data) > bytes_max:
        raise LimitExceeded(f"{len(data)} bytes, at most {bytes_max} are allowed")
    try:
        value = msgpack.unpackb(data, raw=False, strict_map_key=True, use_list=True)
        again = pack(value)
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.exceptions.UnpackException) as error:
        raise DecodeError(f"not canonical msgpack: {type(error).__name__}") from None
    if again != data:
        raise DecodeError("msgpack is not in canonical form")
    return value


@attrs.frozen(slots=True)
class Envelope:
    """A signed body. The body stays bytes: what was signed is what is stored and relayed."""

    kind: str
    """What the body is, for example "row" or "report"; part of the signature's domain."""
    signer: NodeId
    body: bytes
    signature: bytes

    @classmethod
    def seal(cls, identity: Identity, kind: str, body: bytes) -> Envelope:
        """Sign `body` as `kind`."""
        return cls(kind, identity.node_id, body, identity.sign(signing_domain(kind), body))

    @classmethod
    def decode(cls, data: bytes, *, bytes_max: int) -> Envelope:
        """Parse without checking the signature; call `verify` before the body is used.

        Raises:
            LimitExceeded, DecodeError: as `unpack`, or not an envelope of this version.
        """
        value = unpack(data, bytes_max=bytes_max)
        if not isinstance(value, list) or tuple(map(type, value[1:])) != _ENVELOPE_TYPES:
            raise DecodeError("not an envelope")
        version, kind, signer, body, signature = value
        if type(version) is not int or version != ENVELOPE_VERSION:  # True == 1
            raise DecodeError(f"envelope version {version!r} is not {ENVELOPE_VERSION}", reason="version")
        if len(signer) != 32 or len(signature) != 64 or not (kind.isascii() and 0 < len(kind) <= 32 and "\x00" not in kind):
            raise DecodeError("malformed envelope")
        return cls(kind, NodeId(signer), body, signature)

    def encode(self) -> bytes:
        """Return the canonical bytes."""
        return pack([ENVELOPE_VERSION, self.kind, self.signer, self.body, self.signature])

    def is_authentic(self) -> bool:
        """Say whether the signature is the signer's. Cost: one Ed25519 verification, about 45 us."""
        return is_signed_by(self.signer, signing_domain(self.kind), self.body, self.signature)

    def verify(self, kind: str) -> bytes:
        """Return the body of an authentic envelope of the wanted kind.

        Raises:
            DecodeError: another kind. BadSignature: not the signer's.
        """
        if self.kind != kind:
            raise DecodeError(f"envelope of kind {self.kind!r}, wanted {kind!r}")
        if not self.is_authentic():
            raise BadSignature(f"bad {kind} signature of {self.signer!r}")
        return self.body


def signing_domain(kind: str) -> bytes:
    """Return the domain that separates signatures over `kind` from all others."""
    return f"srwan/{kind}/{ENVELOPE_VERSION}".encode("ascii")
