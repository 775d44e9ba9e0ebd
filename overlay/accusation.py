"""A member says that it no longer hears another: signed, so that enough of them together prove a verdict to anybody. Pure functions.

An accusation names the run of the subject (the boot of its certificate), the last round the observer holds of it and when it was made; it
is worth nothing alone (`verdict.py` counts). It covers the group, so it cannot be carried into another one.

Little endian, no padding. Signed under "srwan/accuse/1": group (8 B), subject (32 B), boot u32, round u32, issued u32.

- Content of an ACCUSE frame, 108 B: subject, boot, round, issued, signature (64 B). The observer is the frame's sender.
- Bundle, the proof that buried somebody, up to 1,077 B: `BUNDLE_MAGIC`, subject, boot u32, then for each accusation observer (32 B), issued
  u32, round u32, signature (64 B). It fits a MEMBERS frame; no certificate starts with the same byte. One verdict may need several bundles.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence

import attrs

from srwan.errors import DecodeError
from srwan.identity import Identity, require_signature
from srwan.types import NodeId

__all__ = ["Accusation", "bundle_head", "bundles_of", "decode_bundle", "is_bundle"]

DOMAIN = b"srwan/accuse/1"
BUNDLE_MAGIC = 0x0B
"""First byte of a bundle; a certificate is a msgpack list and starts with 0x95."""
ACCUSATIONS_PER_BUNDLE_MAX = 10
"""One per ring; ten and the head still fit a MEMBERS frame."""

_VERIFIED_CACHE = 2048
"""Verified accusations remembered per process, 0.6 MB: a swarm in one process verifies each once, and a repetition costs nothing."""
_FIELDS = struct.Struct("<32sIII")
_SIGNATURE_BYTES = 64
_HEAD = struct.Struct("<B32sI")
_ENTRY = struct.Struct("<32sII64s")
ACCUSATION_BYTES = _FIELDS.size + _SIGNATURE_BYTES
BUNDLE_BYTES_MAX = _HEAD.size + ACCUSATIONS_PER_BUNDLE_MAX * _ENTRY.size


@attrs.frozen(slots=True)
class Accusation:
    """`observer` does not hear `subject`. Authentic only after `verify`."""

    observer: NodeId
    subject: NodeId
    boot: int
    """Run of the subject that is accused: the boot of its certificate."""
    round: int
    """Sequence of the last row the observer holds of the subject, 0: none."""
    issued_s: int
    """The observer's wall time, s since 1970."""
    signature: bytes

    @classmethod
    def sign(cls, identity: Identity, group: bytes, subject: NodeId, *, boot: int, round: int, issued_s: int) -> Accusation:  # noqa: A002 - the protocol's word
        """Accuse `subject` as `identity`.

        Args:
            identity: the observer's keys.
            group: first 8 bytes of the group id.
            subject: who is accused.
            boot: of its certificate, u32.
            round: last row held, u32.
            issued_s: wall time, s since 1970, u32.

        Cost: 20 us.
        """
        message = group + _FIELDS.pack(subject, boot, round, issued_s)
        return cls(identity.node_id, subject, boot, round, issued_s, identity.sign(DOMAIN, message))

    @classmethod
    def decode(cls, content: bytes, observer: NodeId) -> Accusation:
        """Parse the content of an ACCUSE frame of `observer`; the signature is not checked. Raises DecodeError for a wrong length."""
        if len(content) != ACCUSATION_BYTES:
            raise DecodeError(f"an accusation of {len(content)} bytes, wanted {ACCUSATION_BYTES}")
        subject, boot, round_, issued_s = _FIELDS.unpack_from(content)
        return cls(observer, NodeId(subject), boot, round_, issued_s, content[_FIELDS.size :])

    def encode(self) -> bytes:
        """Return the content of an ACCUSE frame."""
        return _FIELDS.pack(self.subject, self.boot, self.round, self.issued_s) + self.signature

    def verify(self, group: bytes) -> None:
        """Return if the observer signed this for `group` (8 B). Raises BadSignature. Cost: 44 us; 1 us if this process did it before."""
        _verify(self.observer, group + _FIELDS.pack(self.subject, self.boot, self.round, self.issued_s), self.signature)


@functools.lru_cache(maxsize=_VERIFIED_CACHE)
def _verify(observer: NodeId, message: bytes, signature: bytes) -> None:
    """A pure function of its arguments, so that it passed can be remembered; failures are not."""
    require_signature(observer, DOMAIN, message, signature)


def is_bundle(item: bytes) -> bool:
    """Say whether an item of a MEMBERS frame or roster is a bundle; otherwise it is a certificate."""
    return item[:1] == bytes((BUNDLE_MAGIC,))


def bundle_head(subject: NodeId, boot: int) -> bytes:
    """Return the first 37 bytes of every bundle about that run: what names a burial, whoever proves it with whichever accusations."""
    return _HEAD.pack(BUNDLE_MAGIC, subject, boot)


def bundles_of(accusations: Sequence[Accusation]) -> tuple[bytes, ...]:
    """Return bundles that hold these accusations, all of one run of one subject, in this order."""
    if not accusations:
        return ()
    head = bundle_head(accusations[0].subject, accusations[0].boot)
    entries = [_ENTRY.pack(item.observer, item.issued_s, item.round, item.signature) for item in accusations]
    starts = range(0, len(entries), ACCUSATIONS_PER_BUNDLE_MAX)
    return tuple(head + b"".join(entries[start : start + ACCUSATIONS_PER_BUNDLE_MAX]) for start in starts)


def decode_bundle(data: bytes) -> tuple[Accusation, ...]:
    """Return the accusations of a bundle, 1..10 of different observers; no signature is checked.

    Raises:
        DecodeError: no bundle, a wrong length, an observer twice, or somebody who accuses himself.
    """
    count, rest = divmod(len(data) - _HEAD.size, _ENTRY.size)
    if rest or not 1 <= count <= ACCUSATIONS_PER_BUNDLE_MAX or data[0] != BUNDLE_MAGIC:
        raise DecodeError(f"a malformed bundle of {len(data)} bytes")
    _, subject, boot = _HEAD.unpack_from(data)
    entries = list(_ENTRY.iter_unpack(data[_HEAD.size :]))
    observers = {entry[0] for entry in entries}
    if len(observers) != count or subject in observers:
        raise DecodeError("a bundle with an observer twice, or with its subject as observer")
    return tuple(
        Accusation(NodeId(observer), NodeId(subject), boot, round_, issued_s, signature)
        for observer, issued_s, round_, signature in entries
    )
