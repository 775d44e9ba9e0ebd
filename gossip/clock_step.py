"""Whether this member's clock was stepped, or the network changed.

A step of my clock by s makes all that I measure longer by s and all that others measure of me shorter by s, at once. The network makes one
direction longer, or both. So with c_in and c_out the median changes over my edges, (c_in - c_out) / 2 is my clock's and (c_in + c_out) / 2
the network's.

`StepDetector` compares what is known now with three rounds ago: what others measured of me takes up to two rounds to come back in their
rows, and until then a step looks like a change of one direction, which is none. Drift, up to 1 ms a round, is learnt from the rounds
before and taken out.

What it is for: a host that was suspended, migrated or moved its clock by hand. It re-anchors, raises its clock epoch, and everybody
forgets what they knew of this node only. Source: docs/decisions.md (clock steps).
"""

from __future__ import annotations

import itertools
import statistics
from collections import deque
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from srwan.types import NodeId

__all__ = ["StepDetector", "detect_step"]

_Floats: TypeAlias = npt.NDArray[np.float64]

STEP_MS_MIN = 2.0
"""A smaller step is drift, or noise of ten peers."""
NETWORK_SHARE_MAX = 0.25
"""A step leaves round trips as they are; if they changed by more than this share of it, the network did it."""
NETWORK_MS_MAX = 1.0
"""Noise of round trips that does not count as a change of the network."""
PEERS_MIN = 3
"""With one peer nobody can say whose clock it was, with two it is one word against another."""
LAG_ROUNDS = 3
"""Rounds between the two states compared."""
DRIFT_ROUNDS = 9
"""Rounds from which drift is learnt."""
WARM_ROUNDS = 5
"""Rounds before the first verdict, besides those compared: a drift of 0.6 ms a round must not pass for a step."""
RESIDUAL_DRIFT_MS_PER_S = 0.02
"""What is left of drift when it was learnt: rows are up to a round old, so 100 ppm show as up to 1 ms from one round to the next."""
ROUNDS_MAX = LAG_ROUNDS + DRIFT_ROUNDS


def detect_step(inbound_change_ms: _Floats, outbound_change_ms: _Floats, *, least_ms: float = STEP_MS_MIN) -> float:
    """Return by how much this member's clock stepped, ms; 0.0 if it did not or nobody can say.

    Args:
        inbound_change_ms: shape (peers,), change of peer -> me, ms; NaN where unknown.
        outbound_change_ms: shape (peers,), change of me -> peer, ms; NaN where unknown.
        least_ms: what is not more is no step.

    Cost: O(peers), 30 us for 100.
    """
    is_known = np.isfinite(inbound_change_ms) & np.isfinite(outbound_change_ms)
    if np.count_nonzero(is_known) < PEERS_MIN:
        return 0.0
    inbound = float(np.median(inbound_change_ms[is_known]))
    outbound = float(np.median(outbound_change_ms[is_known]))
    clock, network = (inbound - outbound) / 2, (inbound + outbound) / 2
    if abs(clock) <= least_ms or abs(network) > max(NETWORK_MS_MAX, NETWORK_SHARE_MAX * abs(clock)):
        return 0.0
    return clock


class StepDetector:
    """Watches a member's own edges for a step of its clock. A core; call `add` once a round."""

    def __init__(self) -> None:
        self._members: tuple[NodeId, ...] = ()
        self._rounds: deque[tuple[float, _Floats, _Floats]] = deque(maxlen=ROUNDS_MAX + 1)

    def add(self, members: Sequence[NodeId], inbound_ms: _Floats, outbound_ms: _Floats, now: float) -> float:
        """Take in the raw latencies of this round.

        Args:
            members: whom the entries speak of; when this changes the detector starts again.
            inbound_ms: shape (n,), ms, newest raw latency from each member; NaN where unknown.
            outbound_ms: shape (n,), ms, newest raw latency to each member, as told by it; NaN where unknown.
            now: monotonic seconds.

        Returns:
            The step, ms, or 0.0. After a step the detector starts again, so it is told once.

        Raises:
            ValueError: a shape is not (n,).

        Cost: 0.2 ms for n = 100.
        """
        ids = tuple(members)
        if inbound_ms.shape != (len(ids),) or outbound_ms.shape != (len(ids),):
            message = f"{len(ids)} members, but vectors of shapes {inbound_ms.shape} and {outbound_ms.shape}"
            raise ValueError(message)
        if ids != self._members:
            self._members = ids
            self.reset()
        self._rounds.append((now, inbound_ms.copy(), outbound_ms.copy()))
        rate = self._rate()
        if rate is None:
            return 0.0
        then, inbound_then, outbound_then = self._rounds[-1 - LAG_ROUNDS]
        drifted = rate * (now - then)
        least_ms = STEP_MS_MIN + RESIDUAL_DRIFT_MS_PER_S * (now - then)
        step = detect_step(inbound_ms - inbound_then - drifted, outbound_ms - outbound_then + drifted, least_ms=least_ms)
        if step:
            self.reset()
        return step

    def reset(self) -> None:
        """Start again, after the clock or the group's time was moved."""
        self._rounds.clear()

    def _rate(self) -> float | None:
        """How fast my clock gains on the members', ms/s, before the rounds compared; None if not known yet.

        The median over rounds, so that a change of the network two rounds long is none of the rate.
        """
        rounds = list(self._rounds)[:-LAG_ROUNDS]
        if len(rounds) < WARM_ROUNDS:
            return None
        rates: list[float] = []
        for (then, inbound_then, outbound_then), (now, inbound, outbound) in itertools.pairwise(rounds):
            gained = ((inbound - inbound_then) - (outbound - outbound_then)) / 2
            gained = gained[np.isfinite(gained)]
            if len(gained) >= PEERS_MIN and now > then:
                rates.append(float(np.median(gained)) / (now - then))
        return statistics.median(rates) if rates else None
