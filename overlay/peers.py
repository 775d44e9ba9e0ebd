"""Routers that were reached before: what a node falls back on when the directory does not answer. A core; the shell does the file.

The book is bounded and ordered by last success; when it is full the one not reached for longest goes. It is a hint, never an authority: who
answers at an address must prove its id, and what it says is signed.

File: canonical msgpack [1, [[node id, last success wall ns, [control addresses...]]...]], oldest first.
"""

from __future__ import annotations

from typing import cast

import attrs
from sortedcontainers import SortedKeyList  # type: ignore[import-untyped, unused-ignore]

from srwan.errors import DecodeError
from srwan.overlay.transport import ControlAddress
from srwan.overlay.view import as_list, decode_control
from srwan.types import NodeId
from srwan.wire import pack, unpack

__all__ = ["AddressBook", "KnownPeer"]

PEERS_KEPT_MAX = 256
"""More than two groups of 100; older entries are mostly gone anyway."""
BOOK_BYTES_MAX = 256 * 1024
"""256 entries of at most 4 x 130 + 60 B, and room."""

_VERSION = 1


@attrs.frozen(slots=True)
class KnownPeer:
    """A node that answered, or was an authenticated member, at some time."""

    address: ControlAddress
    last_success_ns: int
    """Wall time, ns since 1970."""


def _age_key(peer: KnownPeer) -> tuple[int, NodeId]:
    return peer.last_success_ns, peer.address.node_id


class AddressBook:
    """Control addresses by last success, at most `PEERS_KEPT_MAX`."""

    def __init__(self) -> None:
        self._by_id: dict[NodeId, KnownPeer] = {}
        self._by_age = SortedKeyList(key=_age_key)

    def __len__(self) -> int:
        """Peers known."""
        return len(self._by_id)

    def note(self, address: ControlAddress, wall_ns: int) -> None:
        """Remember that a peer was there at `wall_ns`; older news than what is known are ignored. Peers without address are not kept."""
        known = self._by_id.get(address.node_id)
        if not address.multiaddrs or (known is not None and known.last_success_ns > wall_ns):
            return
        self.forget(address.node_id)
        peer = KnownPeer(address, wall_ns)
        self._by_id[address.node_id] = peer
        self._by_age.add(peer)
        if len(self._by_id) > PEERS_KEPT_MAX:
            oldest = cast("KnownPeer", self._by_age[0])
            self.forget(oldest.address.node_id)

    def forget(self, node_id: NodeId) -> None:
        """Drop a peer. Unknown ones are fine."""
        known = self._by_id.pop(node_id, None)
        if known is not None:
            self._by_age.remove(known)

    def newest(self, count: int) -> list[ControlAddress]:
        """Return up to `count` addresses, last reached first."""
        return [peer.address for peer in reversed(self._by_age[-count:])] if count > 0 else []

    def encode(self) -> bytes:
        """Return the file's content."""
        return pack([_VERSION, [[peer.address.node_id, peer.last_success_ns, list(peer.address.multiaddrs)] for peer in self._by_age]])

    @classmethod
    def decode(cls, data: bytes) -> AddressBook:
        """Return the book of a file's content.

        Raises:
            LimitExceeded, DecodeError: too long, damaged, or of another version. The caller starts with an empty book.
        """
        match as_list(unpack(data, bytes_max=BOOK_BYTES_MAX)):
            case [int(version), entries] if version == _VERSION:
                pass
            case _:
                raise DecodeError("not an address book of this version")
        book = cls()
        for entry in as_list(entries):
            match as_list(entry):
                case [bytes(node_id), int(last_success_ns), control] if len(node_id) == 32 and last_success_ns >= 0:
                    book.note(ControlAddress(NodeId(node_id), decode_control(control)), last_success_ns)
                case _:
                    raise DecodeError("malformed entry in the address book")
        return book
