"""How often a relay gives notice that it cannot go on, and to whom it hands on the notice of another relay.

A relay that has a packet for a node it has no session with, or that is no member any more, tells the neighbour from whom the packet came:
a NOTICE under the session of the two, with the packet's path tag. A relay that gets such a notice hands it on to the neighbour from whom
packets with this tag came, in its own name, and so it gets to the ingress. There it is a hint: what an ingress does with it is `control`'s.

Bounded: one notice per neighbour, tag and second, NOTICES_PER_S in all; a notice is as long as the smallest packet it can follow from, so
nobody is flooded with more than was sent.

Invariant: whoever sprays path tags makes this node forget tags, and gets no more notices for it.
"""

from __future__ import annotations

from collections import OrderedDict

from srwan.types import NodeId

__all__ = ["NoticeGate"]

NOTICE_S = 1.0
"""Least time between two notices to one neighbour on one path tag, s: what a session takes to be made."""
NOTICES_PER_S = 200.0
NOTICES_BURST = 100
"""All notices of a node: each costs 10 us."""
TAGS_MAX = 1024
"""Neighbours and tags remembered; the oldest are forgotten."""


class NoticeGate:
    """Says whether a notice may be given now."""

    def __init__(self) -> None:
        self._given: OrderedDict[tuple[NodeId, int], float] = OrderedDict()
        self._tokens = float(NOTICES_BURST)
        self._filled_at: float | None = None

    def may_give(self, neighbour: NodeId, path_tag: int, now: float) -> bool:
        """Say whether to give notice of a path tag to a neighbour at `now`, monotonic s; if so it counts as given."""
        key = (neighbour, path_tag)
        given_at = self._given.get(key)
        if given_at is not None and 0.0 <= now - given_at < NOTICE_S:
            return False
        if self._filled_at is not None and now > self._filled_at:
            self._tokens = min(NOTICES_BURST, self._tokens + (now - self._filled_at) * NOTICES_PER_S)
        self._filled_at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        self._given[key] = now
        self._given.move_to_end(key)
        while len(self._given) > TAGS_MAX:
            self._given.popitem(last=False)
        return True
