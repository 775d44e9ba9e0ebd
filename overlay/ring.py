"""Who watches whom: ten salted rings over the members of a group.

In a group of up to eleven everybody watches everybody. In a larger one every member has a place on each of `RINGS` circles, by a hash of
its id. Its observers are the next members on these circles, its subjects those for whom it is the next: so everybody watches and is watched
by about ten others, whatever the ids, and a member that comes or goes changes the watch of its neighbours only. The rings of random places
are a good expander, so the observers of a set of faulty members are mostly healthy (Suresh et al., Rapid, USENIX ATC 2018, section 4.1).
Who chooses his key chooses his neighbours, but not all ten of them for free: places are salted with the group. Among few, rings would not
do: one of three members in 512 has the same next member on all ten of them, which would be its only judge.

Invariants: equal members give equal rings, in whatever order they came; nobody observes itself; a member that is two rings' next counts
once.
"""

from __future__ import annotations

import bisect
import functools
import hashlib
from collections.abc import Iterable
from typing import TypeAlias

from srwan.types import NodeId

__all__ = ["RINGS", "Ring", "quorum_of"]

RINGS = 10
"""Observers of a member: with 7 of 10 needed no false verdict fell in models of up to 40 % independent loss (docs/decisions.md)."""
_PLACE_BYTES = 6
_SALT_BYTES = 8
_SPOTS_CACHED = 4096
"""Nodes whose places are remembered per process, 2 kB each: every member of a group keeps two rings of the same nodes."""

_Spot: TypeAlias = tuple[bytes, NodeId]


@functools.lru_cache(maxsize=_SPOTS_CACHED)
def _spots(salt: bytes, node: NodeId) -> tuple[_Spot, ...]:
    """Return a node's place on each of the rings, with itself, so that places never tie."""
    digest = hashlib.blake2b(node, key=salt, digest_size=RINGS * _PLACE_BYTES, person=b"srwan/ring/1").digest()
    return tuple((digest[start : start + _PLACE_BYTES], node) for start in range(0, len(digest), _PLACE_BYTES))


def quorum_of(observers: int) -> int:
    """Return how many of so many observers must accuse: seven tenths, rounded up, at least one."""
    return max(1, -(-observers * 7 // 10))


class Ring:
    """The rings of one group. A core.

    Args:
        group: the group id; its first 8 bytes are the salt, so that the id and the certificates' group field give equal rings.
        members: the first members.
    """

    __slots__ = ("_observers", "_rings", "_salt", "_spots")

    def __init__(self, group: bytes, members: Iterable[NodeId] = ()) -> None:
        self._salt = group[:_SALT_BYTES]
        self._spots: dict[NodeId, tuple[_Spot, ...]] = {}
        self._observers: dict[NodeId, tuple[NodeId, ...]] = {}
        """Found since the last change."""
        self._rings: tuple[list[_Spot], ...] = tuple([] for _ in range(RINGS))
        for node in members:
            self.add(node)

    def __contains__(self, node: NodeId) -> bool:
        """Say whether a node is on the rings."""
        return node in self._spots

    def __len__(self) -> int:
        """Members on the rings."""
        return len(self._spots)

    def add(self, node: NodeId) -> None:
        """Put a member on the rings; one that is there stays. Cost: 20 us at 100 members."""
        if node in self._spots:
            return
        spots = _spots(self._salt, node)
        self._spots[node] = spots
        for ring, spot in zip(self._rings, spots, strict=True):
            bisect.insort(ring, spot)
        self._observers.clear()

    def remove(self, node: NodeId) -> None:
        """Take a member off the rings; one that is not there is fine."""
        for ring, spot in zip(self._rings, self._spots.pop(node, ()), strict=False):
            del ring[bisect.bisect_left(ring, spot)]
        self._observers.clear()

    def set_members(self, members: Iterable[NodeId]) -> None:
        """Make the rings hold exactly these."""
        wanted = dict.fromkeys(members)
        for node in [node for node in self._spots if node not in wanted]:
            self.remove(node)
        for node in wanted:
            self.add(node)

    def observers_of(self, node: NodeId) -> tuple[NodeId, ...]:
        """Return who watches `node`: up to `RINGS` distinct others; () if it is not on the rings or alone.

        Cost: 8 us; 0.1 us again until a member comes or goes.
        """
        found = self._observers.get(node)
        if found is None:
            found = self._neighbours(node, 1)
            if node in self._spots:
                self._observers[node] = found
        return found

    def subjects_of(self, node: NodeId) -> tuple[NodeId, ...]:
        """Return whom `node` watches, as `observers_of`."""
        return self._neighbours(node, -1)

    def _neighbours(self, node: NodeId, step: int) -> tuple[NodeId, ...]:
        if len(self._spots) <= RINGS + 1 and node in self._spots:
            return tuple(other for _, other in self._rings[0] if other != node)
        found: dict[NodeId, None] = {}
        for ring, spot in zip(self._rings, self._spots.get(node, ()), strict=False):
            other = ring[(bisect.bisect_left(ring, spot) + step) % len(ring)][1]
            if other != node:
                found[other] = None
        return tuple(found)
