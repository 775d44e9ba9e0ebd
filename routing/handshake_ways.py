"""Which ways over relays a handshake is offered when the direct one stays silent. A core.

`Sessions` says `HandshakeUnanswered` and goes on calling directly. For a peer that flows want, relays are chosen: first those of paths that
the flows watch, then any that may relay, drawn at random. A relay with whom there is a session is used at once; the others are called, and
used when they answer, for as long as the peer's handshake lasts. `WAYS_OFFERED` ways at once, because the relay chosen may have no way to
the peer either; the same INIT goes them all.

Invariant: state exists only for peers with a handshake of ours under way, which `Sessions` bounds.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from srwan.overlay.session import Sessions
from srwan.overlay.way import RelayedWay
from srwan.routing.sid import Function, Sid
from srwan.types import NodeId

__all__ = ["HandshakeWays"]

WAYS_OFFERED = 2
"""Ways over relays for one handshake."""
RELAYS_CALLED = 4
"""Relays without a session that are called for one handshake."""


class HandshakeWays:
    """Keeps the peers that do not answer, and offers them ways.

    Args:
        sessions: of this node.
        rng: path tags, and the order of relays nobody prefers.
        preferred: relays of the paths that flows to a peer have in mind, best first; empty lists (the direct path) are passed over.
        others: nodes that may relay to a peer, in any fixed order.
        call: asks for a session with a relay.
    """

    def __init__(
        self,
        sessions: Sessions,
        rng: random.Random,
        *,
        preferred: Callable[[NodeId], Iterable[tuple[NodeId, ...]]],
        others: Callable[[NodeId], Iterable[NodeId]],
        call: Callable[[NodeId, float], None],
    ) -> None:
        self._sessions = sessions
        self._rng = rng
        self._preferred = preferred
        self._others = others
        self._call = call
        self._waiting: dict[NodeId, list[tuple[NodeId, ...]]] = {}

    def unanswered(self, peer: NodeId, now: float) -> None:
        """The handshake with a peer that flows want has no answer yet: offer ways, and call relays for more."""
        candidates = self._candidates(peer)
        ready = [relays for relays in candidates if self._is_neighbour(relays[0])]
        for relays in ready[:WAYS_OFFERED]:
            self._offer(peer, relays, now)
        if len(ready) < WAYS_OFFERED:
            self._waiting[peer] = [relays for relays in candidates if relays not in ready][:RELAYS_CALLED]
            for relays in self._waiting[peer]:
                self._call(relays[0], now)

    def established(self, node: NodeId, now: float) -> None:
        """There is a session with a node: it may be a relay that some peer waits for, or that peer."""
        self.ended(node)
        if not self._is_neighbour(node):
            return
        for peer, candidates in self._waiting.items():
            for relays in candidates:
                if relays[0] == node:
                    self._offer(peer, relays, now)

    def ended(self, peer: NodeId) -> None:
        """The handshake with a peer is over, or the peer left."""
        self._waiting.pop(peer, None)

    def _candidates(self, peer: NodeId) -> list[tuple[NodeId, ...]]:
        found = {relays: None for relays in self._preferred(peer) if relays}
        rest = [(node,) for node in self._others(peer) if node != peer and (node,) not in found]
        self._rng.shuffle(rest)
        return [*found, *rest]

    def _is_neighbour(self, node: NodeId) -> bool:
        session = self._sessions.current(node)
        return session is not None and session.address is not None

    def _offer(self, peer: NodeId, relays: tuple[NodeId, ...], now: float) -> None:
        segments = (*(Sid.of(relay, Function.END) for relay in relays), Sid.of(peer, Function.END_APP))
        self._sessions.connect(peer, RelayedWay(tuple(map(bytes, segments)), self._rng.getrandbits(64)), now)
