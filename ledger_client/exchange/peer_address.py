"""The text form of a peer's address: "/ip4/192.0.2.1/tcp/4720/p2p/12D3..." and back to what the control channel wants."""

from __future__ import annotations

from srwan.errors import ConfigError, DecodeError
from srwan.identity import node_id_of_peer_id
from srwan.overlay.transport import ControlAddress

__all__ = ["parse_peer"]

_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_PEER_ID_CHARACTERS_MAX = 64
_PEER_ID_BYTES = 38


def parse_peer(text: str) -> ControlAddress:
    """Return who and where a multiaddr names.

    Raises:
        ConfigError: not "/.../p2p/PEERID" with the PeerID of an Ed25519 key.
    """
    where, separator, peer_id = text.rpartition("/p2p/")
    try:
        if not (separator and where.startswith("/")):
            raise DecodeError("it has no /p2p/ part")
        return ControlAddress(node_id_of_peer_id(_base58(peer_id)), (where,))
    except DecodeError as error:
        remedy = "write /ip4/ADDRESS/tcp/PORT/p2p/PEERID, as the other server prints it when it comes up"
        raise ConfigError("peer", f"{text!r} is no address of a server ({error})", remedy) from None


def _base58(text: str) -> bytes:
    """Bitcoin's base58, the text form of PeerIDs (libp2p specs, peer-ids), of a PeerID of an Ed25519 key."""
    if not 0 < len(text) <= _PEER_ID_CHARACTERS_MAX:
        raise DecodeError(f"a PeerID of {len(text)} characters")
    number = 0
    for character in text:
        digit = _ALPHABET.find(character)
        if digit < 0:
            raise DecodeError(f"{character!r} is not in base58")
        number = number * 58 + digit
    zeros = len(text) - len(text.lstrip("1"))
    body = number.to_bytes((number.bit_length() + 7) // 8, "big")
    if zeros + len(body) != _PEER_ID_BYTES:
        raise DecodeError(f"a PeerID of {zeros + len(body)} bytes")
    return bytes(zeros) + body
