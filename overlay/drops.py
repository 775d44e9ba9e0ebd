"""Counts what was dropped, by reason, and says when that is worth telling. A core.

A peer that sends rubbish as fast as it can must not fill logs: each pair of reason and peer is reported once in `REPORT_AGAIN_S`. Drops of
unauthenticated senders share one entry per reason, because a forged source costs nothing. Counters count everything.
"""

from __future__ import annotations

from collections import Counter, OrderedDict

from srwan.types import NodeId, PeerMisbehaved, UdpAddress

__all__ = ["DropCounter"]

REPORT_AGAIN_S = 10.0
REPORTED_MAX = 1024
"""Pairs of reason and peer remembered; the one reported longest ago is forgotten first."""


class DropCounter:
    """Counters of one node."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        """How often, by reason, since the start."""
        self._reported: OrderedDict[tuple[str, NodeId | None], float] = OrderedDict()

    def count(self, reason: str, peer: NodeId | None, source: UdpAddress | None, now: float) -> PeerMisbehaved | None:
        """Count one drop; return an event if this reason and peer were not reported lately. Cost: 1 us."""
        self.counts[reason] += 1
        last = self._reported.get((reason, peer))
        if last is not None and now - last < REPORT_AGAIN_S:
            return None
        self._reported[reason, peer] = now
        self._reported.move_to_end((reason, peer))
        if len(self._reported) > REPORTED_MAX:
            self._reported.popitem(last=False)
        return PeerMisbehaved(peer, source, reason)

    def count_quietly(self, reason: str) -> None:
        """Count one drop that is nobody's fault."""
        self.counts[reason] += 1
