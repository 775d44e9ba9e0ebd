"""Which relay makes packets later than its told legs promise.

Theory of operation. Packets over a path are stamped by both ends, so observed raw latency minus the sum of the raw legs the matrix told
is free of clock offsets. Honest legs leave queueing noise. A relay that told one direction faster (and the other slower, so that the sum
of both fits its echoes) is caught here alone: its paths arrive late. The direct path to the same far end, measured likewise, calibrates:
what it shows (a mean that lags behind a drifting clock, user-space stamps) is taken off.

Attribution. Bad paths are explained by as few members as possible: the one that recurs in most of them is named, its paths are set aside,
and so on. A far end counts as a candidate as well, for its row tells the last leg: if paths over several relays are late to one far end
only, no relay is blamed. Relays that always appear together are named together. A relay of which more than two thirds of the paths are
good is not named: a minority of lying far ends cannot frame it.

What this cannot tell: an overloaded relay delays packets just so. The consequence is the same, and stays a private decision: it is not
used.

Invariants: at most PATHS_MAX paths are remembered, the one measured longest ago goes first; nothing here depends on a single sample.
Source: end-to-end verification of relayed packets against the told legs; greedy set cover (Chvatal 1979) for the attribution.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter, OrderedDict, deque
from collections.abc import Collection

import attrs

from srwan.types import NodeId

__all__ = ["LatePaths", "PathResiduals"]

PATHS_MAX = 1024
"""Paths remembered, 0.5 kB each: ten to each member of a group."""
RELAYS_MAX = 8
"""As many segments as a path may have."""
SPAN_S = 5.0
"""Measurements of so long count as one, the least of them: spikes and a fast caller change nothing."""
SPANS_MAX = 6
SPANS_MIN = 5
"""Late in a row for at least 20 s and a bit: a leg that really became longer is told within 20 s by two rows, and the prediction
follows."""
LATE_MS = 6.0
"""The second least span is later than told by more than this: half the gain at which a path is entered, and some ms of scheduling in a
relay written in Python."""
BIAS_MS_MAX = 8.0
"""What the direct path may explain: 80 s of lag at +-50 ppm. To a far end with more, whose own row or stamps are false, no path tells
anything."""
GOOD_FOR_S = 600.0
"""A good path is no defence for longer."""
BAD_FOR_S = 43_200.0
"""A bad one is forgotten then; by the decay it weighs nothing any more."""
GOOD_SHARE_MAX = 2 / 3
"""Who has a greater share of good paths is not named."""


@attrs.frozen(slots=True)
class LatePaths:
    """Why a relay is named."""

    relay: NodeId
    far_ends: tuple[NodeId, ...]
    """Where its late paths lead, rising."""
    by_ms: float
    """Greatest lateness, ms."""
    ages_s: tuple[float, ...]
    """Time since each late path was measured, s."""


class _Path:
    __slots__ = ("at", "is_late", "span", "spans")

    def __init__(self) -> None:
        self.spans: deque[float] = deque(maxlen=SPANS_MAX)
        self.span = -1
        self.is_late = False
        self.at = -math.inf

    def add(self, residual_ms: float, now: float) -> None:
        span = int(now // SPAN_S)
        if span == self.span:
            self.spans[-1] = min(self.spans[-1], residual_ms)
        else:
            self.spans.append(residual_ms)
        self.span, self.at = span, now


@attrs.frozen(slots=True)
class _Late:
    far: NodeId
    relays: tuple[NodeId, ...]
    by_ms: float
    at: float


class PathResiduals:
    """Remembers how late paths are, and names relays. A core."""

    def __init__(self) -> None:
        self._paths: OrderedDict[tuple[NodeId, tuple[NodeId, ...]], _Path] = OrderedDict()

    def __len__(self) -> int:
        return len(self._paths)

    def measured(self, far: NodeId, relays: tuple[NodeId, ...], predicted_ms: float, observed_ms: float, now: float) -> bool:
        """Note one measurement of a path from this member.

        Args:
            far: the egress.
            relays: in order, at most RELAYS_MAX; none for the direct path.
            predicted_ms: sum of the raw legs as told, clock offsets included; of the rows when the packets were sent.
            observed_ms: egress stamp minus ingress stamp, the same clocks.
            now: monotonic seconds.

        Returns:
            False if the figures are unusable; nothing changed.

        Cost: 1 us.
        """
        residual_ms = observed_ms - predicted_ms
        if not math.isfinite(residual_ms) or len(relays) > RELAYS_MAX:
            return False
        key = (far, relays)
        path = self._paths.get(key)
        if path is None:
            if len(self._paths) >= PATHS_MAX:
                self._paths.popitem(last=False)
            path = self._paths[key] = _Path()
        path.add(residual_ms, now)
        self._paths.move_to_end(key)
        return True

    def forget(self, node: NodeId) -> None:
        """Forget all paths over `node` or to it: its clock moved, or it was forgiven."""
        for key in [key for key in self._paths if node == key[0] or node in key[1]]:
            del self._paths[key]

    def late(self, now: float, liars: Collection[NodeId] = ()) -> list[LatePaths]:
        """Return the relays that explain the late paths, gravest first.

        Args:
            now: monotonic seconds.
            liars: far ends whose rows are known to be false: paths to them tell nothing.

        Cost: 2 us a path.
        """
        bad, good = self._sort_out(now, liars)
        named: list[LatePaths] = []
        while bad:
            relays, is_far = _most_frequent(bad, good)
            mine = [late for late in bad if (late.far == relays[0] if is_far else relays[0] in late.relays)]
            bad = [late for late in bad if late not in mine]
            if is_far or len(mine) < (1 - GOOD_SHARE_MAX) * (len(mine) + good[relays[0]]):
                continue
            far_ends = tuple(sorted({late.far for late in mine}))
            by_ms = max(late.by_ms for late in mine)
            named += [LatePaths(relay, far_ends, by_ms, tuple(now - late.at for late in mine)) for relay in relays]
        return named

    def _sort_out(self, now: float, liars: Collection[NodeId]) -> tuple[list[_Late], Counter[NodeId]]:
        """Return the late paths, and for each relay in how many good ones it is."""
        bad: list[_Late] = []
        good: Counter[NodeId] = Counter()
        for (far, relays), path in self._paths.items():
            if not relays or len(path.spans) < SPANS_MIN or now - path.at > BAD_FOR_S or far in liars:
                continue
            bias_ms, newest_ms = self._direct_ms(far, now)
            if abs(bias_ms) > BIAS_MS_MAX or (abs(newest_ms) > BIAS_MS_MAX and not path.is_late):
                continue
            by_ms = sorted(path.spans)[1] - max(0.0, bias_ms)  # a direct path that is early accuses nobody
            path.is_late = by_ms > LATE_MS
            if path.is_late:
                bad.append(_Late(far, relays, by_ms, path.at))
            elif now - path.at <= GOOD_FOR_S:
                good.update(relays)
        return bad, good

    def _direct_ms(self, far: NodeId, now: float) -> tuple[float, float]:
        """What the direct path to `far` shows, and what it shows of late; zeros if nothing recent."""
        direct = self._paths.get((far, ()))
        if direct is None or len(direct.spans) < SPANS_MIN or now - direct.at > GOOD_FOR_S:
            return 0.0, 0.0
        return statistics.median(direct.spans), direct.spans[-1]


def _most_frequent(bad: list[_Late], good: Counter[NodeId]) -> tuple[list[NodeId], bool]:
    """Return who recurs most: relays that cannot be told apart, or one far end (True), which needs more than any relay."""
    over: Counter[NodeId] = Counter()
    to: Counter[NodeId] = Counter()
    for late in bad:
        over.update(dict.fromkeys(late.relays, 1))
        to[late.far] += 1
    first = min(over, key=lambda node: (-over[node], good[node], node))
    far = min(to, key=lambda node: (-to[node], node))
    if to[far] > over[first]:
        return [far], True
    paths = [late for late in bad if first in late.relays]
    alike = [node for node in sorted(over) if good[node] == good[first] and over[node] == len(paths)]
    return [node for node in alike if all(node in late.relays for late in paths)], False
