"""How fast the members' clocks run against each other, out of window minima.

Half the difference of the two directions of a pair is the difference of two clocks plus a constant; its slope over time is the difference
of their rates. Of each pair the median slope between windows that lie at least half the span apart (Theil and Sen, without the short
baselines that carry noise only); of all pairs one rate per node by `clock_solve`. A path that changes its length moves one pair, or for
less than half the time, and is voted down.

Drift has to go before a minimum over time is taken: 50 ppm are 0.5 ms in 10 s, and a minimum over ten minutes would pick the sample at the
end of the slope, in both directions.

Invariants: rates have mean 0 over the nodes that have one. Source: Theil 1950, Sen 1968; facts measured in docs/decisions.md.
"""

from __future__ import annotations

from typing import TypeAlias

import attrs
import numpy as np
import numpy.typing as npt

from srwan.gossip.clock_solve import solve_pairs

__all__ = ["Drift", "fit_drift"]

_Floats: TypeAlias = npt.NDArray[np.float64]

RATE_MS_PER_S_MAX = 1.0
"""1,000 ppm: ten times what a bad crystal does. A pair that claims more is not used."""
SPAN_S_MIN = 15.0
"""Below this span noise is larger than drift: none is fitted."""
ERR_FACTOR = 2.3
ERR_NODES = 6.0
"""The bound is 2.3 (1 + 6 / n) standard deviations: that holds for about 95 % in the model of `benchmarks/clocks.py`."""


@attrs.frozen(slots=True, eq=False)
class Drift:
    """Rates of clocks, n nodes."""

    rate_ms_per_s: _Floats
    """Shape (n,), mean 0; NaN where unknown."""
    err_ms_per_s: _Floats
    """Shape (n,), half the width of the interval that holds the truth in 95 %; NaN where unknown."""


def fit_drift(raw_ms: _Floats, at_s: _Floats) -> Drift:
    """Estimate the rates.

    Args:
        raw_ms: shape (windows, n, n), minima, ms; NaN where unknown.
        at_s: shape (windows, n, n), when they were measured, s.

    Cost: 10 windows of 100 nodes: 12 ms on one thread.
    """
    windows, n = raw_ms.shape[:2]
    nothing = Drift(np.full(n, np.nan), np.full(n, np.nan))
    if windows < 2 or n < 2:
        return nothing
    rows, columns = np.triu_indices(n, 1)
    theta = (raw_ms[:, rows, columns] - raw_ms[:, columns, rows]) / 2
    time = (at_s[:, rows, columns] + at_s[:, columns, rows]) / 2
    gap = (windows + 1) // 2
    early, late = np.triu_indices(windows, gap)
    span = time[late] - time[early]
    with np.errstate(invalid="ignore", divide="ignore"):
        slopes = (theta[late] - theta[early]) / span
        is_good = np.isfinite(slopes) & (span >= SPAN_S_MIN) & (np.abs(slopes) <= RATE_MS_PER_S_MAX)
    count = is_good.sum(axis=0)
    slopes = np.sort(np.where(is_good, slopes, np.inf).T, axis=1)
    which = np.arange(len(count))
    low, high = slopes[which, np.maximum(count - 1, 0) // 2], slopes[which, np.minimum(count // 2, slopes.shape[1] - 1)]
    pair_rate = np.full((n, n), np.nan)
    pair_rate[rows, columns] = np.where(count > 0, (low + np.where(count > 0, high, low)) / 2, np.nan)
    pair_rate[columns, rows] = -pair_rate[rows, columns]
    pair_scale = np.ones((n, n))
    pair_scale[rows, columns] = pair_scale[columns, rows] = np.sqrt(slopes.shape[1] / np.maximum(count, 1))
    solution = solve_pairs(pair_rate, pair_scale)
    deviation = np.sqrt(np.maximum(np.diagonal(solution.covariance), 0.0))
    return Drift(solution.x, ERR_FACTOR * (1.0 + ERR_NODES / n) * deviation)
