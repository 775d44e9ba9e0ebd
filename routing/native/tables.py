"""Keeps the tables of a native plane as the node has them: peers, members, sessions. A core.

There is one truth. Sessions are made, confirmed, replaced and removed by `srwan.overlay.session`; the plane is told of each step as a
`SessionObserver`. Counters and windows live in the plane from the first moment of a session on, and the keys in `Session` are replaced by
ones that read and move them there; so packets sealed in Python and in C never share a nonce, and what either opened the other refuses.

The plane knows peers by numbers that are never used again, so that what it reports about one that has gone is not taken for another's.

A session's peer is told to be elsewhere from both sides: the plane notes the source of authentic packets, and handshake datagrams are
opened in Python. What came from the plane is not told back to it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from srwan.overlay.handshake import SessionSecrets
from srwan.overlay.replay import ReplayWindow
from srwan.overlay.session_keys import OpeningKey, SealingKey, Session
from srwan.routing.native._core import Plane, SessionKeys
from srwan.routing.sid import locator_of
from srwan.types import NodeId, UdpAddress

__all__ = ["NativeTables"]

PEERS_KEPT_MAX = 2048
"""Peers before those that have no session and are no members are forgotten; the plane takes twice as many."""
LINK, END = 0, 1


class _NativeWindow(ReplayWindow):
    """A replay window in the plane."""

    __slots__ = ("_keys", "_purpose")

    def __init__(self, keys: SessionKeys, purpose: int) -> None:
        self._keys = keys
        self._purpose = purpose

    @property
    def highest(self) -> int:  # type: ignore[override] # pyright: ignore[reportIncompatibleVariableOverride] - read, not set, outside
        return self._keys.highest(self._purpose)

    def is_fresh(self, counter: int) -> bool:
        return self._keys.is_fresh(self._purpose, counter)

    def accept(self, counter: int) -> bool:
        return self._keys.accept(self._purpose, counter)


class _NativeSealingKey(SealingKey):
    """A key whose counter is in the plane."""

    __slots__ = ("_keys", "_purpose")

    def __init__(self, key: SealingKey, keys: SessionKeys, purpose: int) -> None:
        self.cipher = key.cipher
        self._keys = keys
        self._purpose = purpose

    @property
    def counter(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._keys.sealed(self._purpose)

    @counter.setter
    def counter(self, value: int) -> None:
        self._keys.skip_to(self._purpose, value)

    def take_counter(self) -> int:
        return self._keys.take_counter(self._purpose)


class NativeTables:
    """A `SessionObserver` that keeps a plane's tables.

    Args:
        plane: whose tables; nobody else changes them.
    """

    def __init__(self, plane: Plane) -> None:
        self.node_of: dict[int, NodeId] = {}
        """Peers by their numbers."""
        self._plane = plane
        self._numbers: dict[NodeId, int] = {}
        self._last_number = 0
        self._keys: dict[int, SessionKeys] = {}
        self._members: tuple[NodeId, ...] = ()
        self._is_told_by_plane = False

    def number_of(self, node: NodeId) -> int:
        """Return a peer's number; it is made known to the plane if it is not yet."""
        number = self._numbers.get(node)
        if number is None:
            if len(self._numbers) >= PEERS_KEPT_MAX:
                self._forget_unused()
            number = self._last_number = self._last_number + 1
            if not self._plane.add_peer(number, locator_of(node)):
                raise AssertionError("more peers than there can be sessions and members")
            self._numbers[node] = number
            self.node_of[number] = node
        return number

    def known_number(self, node: NodeId) -> int | None:
        """Return a peer's number, or None if the plane does not know it."""
        return self._numbers.get(node)

    def set_members(self, members: Iterable[NodeId], upward: Collection[NodeId]) -> None:
        """Replace whom packets may go to; those for `upward` members go up to Python."""
        self._members = tuple(members)
        self._plane.set_members([(self.number_of(node), node in upward) for node in self._members])

    def set_upward(self, upward: Collection[NodeId]) -> None:
        """Say anew whose packets go up."""
        self.set_members(self._members, upward)

    def drop_peer(self, node: NodeId) -> None:
        """Forget a peer's counters. Unknown ones are fine."""
        number = self._numbers.get(node)
        if number is not None:
            self._plane.reset_peer(number)
            self._forget(node, number)

    def move(self, session: Session, address: UdpAddress) -> None:
        """The plane heard a session's peer elsewhere, and sends there already."""
        if session.address == address:
            return
        session.address = address
        self._is_told_by_plane = True
        try:
            for observer in session.observers:
                observer.address_moved(session)
        finally:
            self._is_told_by_plane = False

    # --- as an observer ---------------------------------------------------------------------------------------------

    def session_installed(self, session: Session, secrets: SessionSecrets) -> None:
        """Have the plane open packets of it, and take counters and windows from there."""
        keys = self._plane.add_session(
            session.local_index,
            session.remote_index,
            self.number_of(session.peer),
            session.address,
            (secrets.link_seal, secrets.link_open, secrets.end_seal, secrets.end_open),
            session.is_confirmed,
        )
        self._keys[session.local_index] = keys
        session.link_seal = _NativeSealingKey(session.link_seal, keys, LINK)
        session.end_seal = _NativeSealingKey(session.end_seal, keys, END)
        _replace_window(session.link_open, keys, LINK)
        _replace_window(session.end_open, keys, END)

    def session_removed(self, session: Session) -> None:
        """Have the plane forget it."""
        keys = self._keys.pop(session.local_index, None)
        if keys is not None:
            self._plane.remove_session(keys)

    def current_changed(self, peer: NodeId, session: Session | None) -> None:
        """Have the plane seal with it."""
        self._plane.set_current(self.number_of(peer), None if session is None else self._keys[session.local_index])

    def address_moved(self, session: Session) -> None:
        """Have the plane send there."""
        if not self._is_told_by_plane and session.address is not None:
            self._keys[session.local_index].move(*session.address)

    def _forget(self, node: NodeId, number: int) -> None:
        if self._plane.remove_peer(number):
            del self._numbers[node], self.node_of[number]

    def _forget_unused(self) -> None:
        for node, number in tuple(self._numbers.items()):
            self._forget(node, number)


def _replace_window(key: OpeningKey, keys: SessionKeys, purpose: int) -> None:
    key.window = _NativeWindow(keys, purpose)
