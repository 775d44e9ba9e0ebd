"""What membership frames carry (JOIN, LEAVE, PULL, MEMBERS), and the roster that an introducer answers with. Pure functions.

The frame adds sender, stamp and tag (`frame.py`). Little endian, no padding:

- JOIN: the sender's id (32 B; it lets the codec agree on a key with a stranger) and its certificate. Flag `JOIN_ANSWER_WANTED`.
- LEAVE: the sender's leaving certificate.
- PULL: digest of the sender's view (8 B), a fresh salt (8 B), and 4 bytes of `certificate_id` for every certificate it holds and for every
  grave, which goes by `bundle_head`: who holds a burial needs no second proof of it.
- MEMBERS: digest of the sender's view (8 B), then items, certificates or bundles of accusations, each after its u16 length; none of them
  when it only answers a JOIN. Flags of a PULL's answer: `ANSWER_ENDS` on its last frame, `ANSWER_FULL` with it if there is more to pull.

A roster travels over the control channel: the canonical msgpack list of up to `ROSTER_MAX` certificates and bundles.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence

from srwan.errors import DecodeError
from srwan.overlay.accusation import BUNDLE_BYTES_MAX, bundle_head, is_bundle
from srwan.overlay.frame import CONTENT_BYTES_MAX
from srwan.overlay.view import CERTIFICATE_BYTES_MAX, MEMBERS_MAX, View, bytes_list, certificate_id
from srwan.types import NodeId
from srwan.wire import pack, unpack

__all__ = [
    "batches_of",
    "decode_join",
    "decode_members",
    "decode_pull",
    "decode_roster",
    "encode_join",
    "encode_members",
    "encode_pull",
    "encode_roster",
    "held_of",
    "missing_of",
]

JOIN_ANSWER_WANTED = 1
"""Flag of a JOIN: answer with an empty MEMBERS."""
ANSWER_ENDS = 1
"""Flag of a MEMBERS: the last frame of an answer to a PULL."""
ANSWER_FULL = 2
"""Flag of a MEMBERS: the sender holds more that the puller lacks."""
PULL_FRAMES_MAX = 8
"""MEMBERS frames that answer one PULL, about 32 certificates."""
SALT_BYTES = 8
ROSTER_MAX = MEMBERS_MAX + 8
"""Items of a roster: a full view, and of who asks the tombstone or the proof that buried it."""

_DIGEST_BYTES = 8
_ID_BYTES = 4
_NODE_BYTES = 32
_LENGTH = struct.Struct("<H")
_IDS_MAX = (CONTENT_BYTES_MAX - _DIGEST_BYTES - SALT_BYTES) // _ID_BYTES
"""285 ids fit a PULL. A full view, full tombstones and full graves are more; what is not named is sent once more."""


def encode_join(sender: NodeId, certificate: bytes) -> bytes:
    """Return the content of a JOIN."""
    return sender + certificate


def decode_join(content: bytes, sender: NodeId) -> bytes:
    """Return the certificate in a JOIN; it is not opened.

    Raises:
        DecodeError: too short, or in the name of another than the authenticated sender.
    """
    if len(content) <= _NODE_BYTES or content[:_NODE_BYTES] != sender:
        raise DecodeError("a JOIN in another's name, or empty")
    return content[_NODE_BYTES:]


def encode_pull(digest: bytes, salt: bytes, held: Sequence[bytes]) -> bytes:
    """Return the content of a PULL: my digest, and short salted ids of all that I hold, as far as they fit."""
    return digest + salt + b"".join(certificate_id(item, salt) for item in held[:_IDS_MAX])


def decode_pull(content: bytes) -> tuple[bytes, bytes, frozenset[bytes]]:
    """Return (digest, salt, ids).

    Raises:
        DecodeError: a wrong length.
    """
    start = _DIGEST_BYTES + SALT_BYTES
    count, rest = divmod(len(content) - start, _ID_BYTES)
    if rest or not 0 <= count <= _IDS_MAX:
        raise DecodeError(f"a PULL of {len(content)} bytes")
    ids = frozenset(content[at : at + _ID_BYTES] for at in range(start, len(content), _ID_BYTES))
    return content[:_DIGEST_BYTES], content[_DIGEST_BYTES:start], ids


def held_of(view: View) -> list[bytes]:
    """Return what a PULL names: all certificates, and the heads of all graves."""
    return [*view.certificates, *(bundle_head(node, grave.boot) for node, grave in view.graves)]


def missing_of(view: View, salt: bytes, ids: frozenset[bytes], rng: random.Random) -> list[bytes]:
    """Return what a puller who named `ids` lacks.

    Certificates in random order, so that those cut off differ from time to time, then the proofs of burials: whoever lacks certificates
    cannot judge accusations by their signers yet.
    """
    missing = [certificate for certificate in view.certificates if certificate_id(certificate, salt) not in ids]
    rng.shuffle(missing)
    for node, grave in view.graves:
        if certificate_id(bundle_head(node, grave.boot), salt) not in ids:
            missing.extend(grave.bundles)
    return missing


def encode_members(digest: bytes, items: Sequence[bytes]) -> bytes:
    """Return the content of a MEMBERS frame; the caller sees that it fits."""
    return digest + b"".join(_LENGTH.pack(len(item)) + item for item in items)


def decode_members(content: bytes) -> tuple[bytes, list[bytes]]:
    """Return (digest, items); certificates and bundles are not opened.

    Raises:
        DecodeError: truncated, or an impossible length.
    """
    if len(content) < _DIGEST_BYTES:
        raise DecodeError(f"a MEMBERS of {len(content)} bytes")
    items: list[bytes] = []
    at = _DIGEST_BYTES
    while at < len(content):
        end = at + _LENGTH.size
        length = _LENGTH.unpack_from(content, at)[0] if end <= len(content) else 0
        item = content[end : end + length]
        if not 0 < len(item) == length <= (BUNDLE_BYTES_MAX if is_bundle(item) else CERTIFICATE_BYTES_MAX):
            raise DecodeError("a truncated or malformed list of certificates")
        items.append(item)
        at = end + length
    return content[:_DIGEST_BYTES], items


def batches_of(items: Sequence[bytes]) -> list[list[bytes]]:
    """Cut into what fits one MEMBERS frame each, at most PULL_FRAMES_MAX; one empty batch if there is nothing to send."""
    batches: list[list[bytes]] = [[]]
    room = CONTENT_BYTES_MAX - _DIGEST_BYTES
    for item in items:
        needed = _LENGTH.size + len(item)
        if needed > room:
            if len(batches) == PULL_FRAMES_MAX:
                break
            batches.append([])
            room = CONTENT_BYTES_MAX - _DIGEST_BYTES
        batches[-1].append(item)
        room -= needed
    return batches


def encode_roster(items: Sequence[bytes]) -> bytes:
    """Return the response to a join request."""
    return pack(list(items))


def decode_roster(response: bytes) -> list[bytes]:
    """Return the certificates and bundles of a join response; they are not opened.

    Raises:
        LimitExceeded: too long. DecodeError: not a list of up to `ROSTER_MAX` byte strings.
    """
    return bytes_list(unpack(response, bytes_max=8 + ROSTER_MAX * (CERTIFICATE_BYTES_MAX + 3)), ROSTER_MAX)
