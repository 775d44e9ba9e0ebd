"""What membership frames carry (JOIN, LEAVE, PULL, MEMBERS), and the roster that an introducer answers with. Pure functions.

The frame adds sender, stamp and tag (`frame.py`). Little endian, no padding:

- JOIN: the sender's id (32 B; it lets the codec agree on a key with a stranger) and its certificate. Flag `JOIN_ANSWER_WANTED`.
- LEAVE: the sender's leaving certificate.
- PULL: digest of the sender's view (8 B), a fresh salt (8 B), and 4 bytes of `certificate_id` for every certificate it holds.
- MEMBERS: digest of the sender's view (8 B), then certificates, each after its u16 length; none of them when it only answers a JOIN.

A roster travels over the control channel: the canonical msgpack list of up to `ROSTER_MAX` certificates.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from srwan.errors import DecodeError
from srwan.overlay.frame import CONTENT_BYTES_MAX
from srwan.overlay.view import CERTIFICATE_BYTES_MAX, MEMBERS_MAX, TOMBSTONES_MAX, bytes_list, certificate_id
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
]

JOIN_ANSWER_WANTED = 1
"""Flag of a JOIN: answer with an empty MEMBERS."""
PULL_FRAMES_MAX = 8
"""MEMBERS frames that answer one PULL, about 32 certificates."""
SALT_BYTES = 8
ROSTER_MAX = MEMBERS_MAX + 1
"""Certificates in a roster: a full view, and the tombstone of who asks."""

_DIGEST_BYTES = 8
_ID_BYTES = 4
_NODE_BYTES = 32
_LENGTH = struct.Struct("<H")
_HELD_MAX = MEMBERS_MAX + TOMBSTONES_MAX


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


def encode_pull(digest: bytes, salt: bytes, certificates: Sequence[bytes]) -> bytes:
    """Return the content of a PULL: my digest, and short salted ids of all that I hold."""
    return digest + salt + b"".join(certificate_id(certificate, salt) for certificate in certificates)


def decode_pull(content: bytes) -> tuple[bytes, bytes, frozenset[bytes]]:
    """Return (digest, salt, ids).

    Raises:
        DecodeError: a wrong length.
    """
    start = _DIGEST_BYTES + SALT_BYTES
    count, rest = divmod(len(content) - start, _ID_BYTES)
    if rest or not 0 <= count <= _HELD_MAX:
        raise DecodeError(f"a PULL of {len(content)} bytes")
    ids = frozenset(content[at : at + _ID_BYTES] for at in range(start, len(content), _ID_BYTES))
    return content[:_DIGEST_BYTES], content[_DIGEST_BYTES:start], ids


def encode_members(digest: bytes, certificates: Sequence[bytes]) -> bytes:
    """Return the content of a MEMBERS frame; the caller sees that it fits."""
    return digest + b"".join(_LENGTH.pack(len(certificate)) + certificate for certificate in certificates)


def decode_members(content: bytes) -> tuple[bytes, list[bytes]]:
    """Return (digest, certificates); the certificates are not opened.

    Raises:
        DecodeError: truncated, or an impossible length.
    """
    if len(content) < _DIGEST_BYTES:
        raise DecodeError(f"a MEMBERS of {len(content)} bytes")
    certificates: list[bytes] = []
    at = _DIGEST_BYTES
    while at < len(content):
        end = at + _LENGTH.size
        length = _LENGTH.unpack_from(content, at)[0] if end <= len(content) else 0
        if not 0 < length <= CERTIFICATE_BYTES_MAX or end + length > len(content):
            raise DecodeError("a truncated or malformed certificate list")
        certificates.append(content[end : end + length])
        at = end + length
    return content[:_DIGEST_BYTES], certificates


def batches_of(certificates: Sequence[bytes]) -> list[list[bytes]]:
    """Cut into what fits one MEMBERS frame each, at most PULL_FRAMES_MAX; one empty batch if there is nothing to send."""
    batches: list[list[bytes]] = [[]]
    room = CONTENT_BYTES_MAX - _DIGEST_BYTES
    for certificate in certificates:
        needed = _LENGTH.size + len(certificate)
        if needed > room:
            if len(batches) == PULL_FRAMES_MAX:
                break
            batches.append([])
            room = CONTENT_BYTES_MAX - _DIGEST_BYTES
        batches[-1].append(certificate)
        room -= needed
    return batches


def encode_roster(certificates: Sequence[bytes]) -> bytes:
    """Return the response to a join request."""
    return pack(list(certificates))


def decode_roster(response: bytes) -> list[bytes]:
    """Return the certificates of a join response; they are not opened.

    Raises:
        LimitExceeded: too long. DecodeError: not a list of up to `ROSTER_MAX` byte strings.
    """
    return bytes_list(unpack(response, bytes_max=8 + ROSTER_MAX * (CERTIFICATE_BYTES_MAX + 3)), ROSTER_MAX)
