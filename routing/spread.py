"""Which paths the next packet takes when a flow uses several: two at once, or several in turn.

- Repeat: the path in use and the best other one that answers. All watched paths are node-disjoint, so one relay never holds both copies.
- Spread: the path in use and those that answer and are worth as much within `spread_ms`, by smooth weighted round robin: each packet goes
  to the path with the greatest credit, which then pays the sum of all weights. Over any run of packets each path gets its share to within
  one packet. Weights are the capacities seen in trains of packets if they are known of all, else equal.

What is chosen among is set a few times a second (`set_paths`); per packet only credits move. Paths with more packets in flight than others
reorder; the receiver puts them in order and bounds the wait (`egress`).

Source: smooth weighted round robin as in nginx (upstream round robin, 2012); whitepaper 12 (virtual circuits over several SR paths).
"""

from __future__ import annotations

from collections.abc import Sequence

from srwan.routing.policy import PathMode
from srwan.routing.pool import WatchedPath

__all__ = ["PathSpread"]

WEIGHT_SHARE_MIN = 0.05
"""No path gets less than this share of the greatest weight: what is not used cannot be seen to have got better."""


class PathSpread:
    """Chooses the paths of each packet.

    Args:
        mode: from the policy.
        spread_ms: how much worse than the path in use a path may be to count as equal, ms.
    """

    def __init__(self, mode: PathMode, spread_ms: float) -> None:
        self._mode = mode
        self._spread_ms = spread_ms
        self._paths: list[WatchedPath] = []
        self._weights: list[float] = []
        self._credits: list[float] = []

    def set_paths(self, used: WatchedPath, others: Sequence[WatchedPath], now: float) -> None:
        """Take the paths there are now; `others` does not hold `used`. Cost: 1 us per path."""
        answering = [path for path in others if path.is_answering(now)]
        if self._mode is PathMode.REPEAT:
            chosen = [used, *sorted(answering, key=lambda path: path.value_ms)[:1]]
        elif used.is_answering(now):
            chosen = [used, *(path for path in answering if path.value_ms <= used.value_ms + self._spread_ms)]
        else:
            chosen = [used]
        capacities = [path.watch.burst.value for path in chosen]
        greatest = max(capacities)
        weights = [max(capacity / greatest, WEIGHT_SHARE_MIN) for capacity in capacities] if min(capacities) > 0 else [1.0] * len(chosen)
        if chosen != self._paths:
            self._credits = [0.0] * len(chosen)
        self._paths, self._weights = chosen, weights

    def next_paths(self) -> Sequence[WatchedPath]:
        """Return the paths of the next packet, at least one. Cost: 0.5 us."""
        if self._mode is PathMode.REPEAT or len(self._paths) == 1:
            return self._paths
        best, total = 0, 0.0
        for place, weight in enumerate(self._weights):
            total += weight
            self._credits[place] += weight
            if self._credits[place] > self._credits[best]:
                best = place
        self._credits[best] -= total
        return self._paths[best : best + 1]
