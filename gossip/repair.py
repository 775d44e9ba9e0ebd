"""Whom to ask once more for a pulse: what is missing in the matrix may be had by asking, or may be missing for good.

After a change the others tell of it on their own for some seconds; asking before would double the traffic. So nobody is asked for a second,
nor for two while much is missing; the last few holes, which losses made, are asked for as soon as they are the only ones. Each member is
asked a bounded number of times for one change, ever more rarely, and a bounded number of members at a time. A core.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping

from srwan.gossip.inbound import Inbound
from srwan.gossip.owl import OwlMatrix
from srwan.types import NodeId

__all__ = ["Repair"]

AFTER_S = 1.0
"""No asking before so long after the others should have told: the bursts bring most."""
PATIENCE_S = 0.7
"""A member that was first heard later than this may not have been told of by others yet."""
TELLING_S = 2.0
"""So long after a change, what more than ASKS_AT_ONCE_MAX members lack is left to them to tell."""
GAP_S = 0.3
"""Between two looks at what is missing, and from the first ask to the second; an answer comes within a round trip. Then twice as long each
time: whoever does not answer may be late."""
ASKS_MAX = 4
"""Asks to one peer for one change; then the hole is taken as real."""
ASKS_AT_ONCE_MAX = 8


class Repair:
    """Counts who was asked.

    Args:
        fresh_s: a member is heard if its last sample is not older.
        rng: whom to ask first if there are many.
    """

    def __init__(self, fresh_s: float, rng: random.Random) -> None:
        self._fresh_s = fresh_s
        self._rng = rng
        self._due_at = math.inf
        self._telling_until = math.inf
        self._asks: dict[NodeId, tuple[int, float]] = {}

    def expect_news(self, last_at: float) -> None:
        """Something changed, and others tell of it on their own until about `last_at`."""
        self._due_at = last_at + AFTER_S
        self._telling_until = last_at + TELLING_S
        self._asks = {}

    def hold(self, until: float) -> None:
        """Ask nobody before `until`: what is missing may wait in the socket."""
        self._due_at = max(self._due_at, until)

    def is_due(self, now: float) -> bool:
        """Say whether asking is worth it already."""
        return now >= self._due_at

    def choose(self, peers: Mapping[NodeId, Inbound], matrix: OwlMatrix, now: float) -> list[NodeId]:
        """Return whom to ask now, and count it."""
        if matrix.is_full(now):
            return []
        self._due_at = now + GAP_S
        lacking = set(matrix.lacking(now, [peer.slot for peer in peers.values() if peer.since <= now - PATIENCE_S]))
        missing = 0
        chosen: list[NodeId] = []
        for node, peer in peers.items():
            if peer.slot not in lacking and peer.heard_at >= now - self._fresh_s:
                self._asks.pop(node, None)
                continue
            asks, again_at = self._asks.get(node, (0, now))
            missing += asks < ASKS_MAX
            if asks < ASKS_MAX and again_at <= now:
                chosen.append(node)
        if missing > ASKS_AT_ONCE_MAX and now < self._telling_until:
            return []
        if len(chosen) > ASKS_AT_ONCE_MAX:
            chosen = self._rng.sample(chosen, ASKS_AT_ONCE_MAX)
        for node in chosen:
            asks = self._asks.get(node, (0, now))[0]
            self._asks[node] = asks + 1, now + GAP_S * 2**asks
        return chosen
