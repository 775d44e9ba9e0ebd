"""Clock offsets, drifts and true one-way latencies out of raw ones, each with an error bound. Never used to choose a path.

A raw entry is `owl[i, j] + queue + x[j] - x[i]` with x the clocks' offsets. Theory of operation: rates first (`clock_drift`); window minima
less the drift, and their minimum, which is nearly free of queues; half the difference of a pair's two directions is `x[j] - x[i]` plus
half the pair's asymmetry, which is at most half of what the round trip exceeds light by (`light`): that, or the round trip where
positions are not known, is the scale in which pairs are compared (`clock_solve`). Who cannot be brought to agree with half of the others
is left out and named; so are members whose claimed place is contradicted, though these keep their clocks.

Excluded is not convicted: where whole regions are asymmetric towards others, honest nodes do not fit either.

What no method can tell: an asymmetry that all pairs of one node share looks like its clock (half of it is the error, and no bound here
covers it); a member that shifts all its stamps alike does no harm, the shift cancels like an offset.

Measured in the model of `benchmarks/clocks.py`; figures and comparisons in docs/decisions.md.
"""

from __future__ import annotations

from typing import TypeAlias

import attrs
import numpy as np
import numpy.typing as npt

from srwan.gossip.clock_drift import fit_drift
from srwan.gossip.clock_history import ClockMinima
from srwan.gossip.clock_solve import PairSolution, rough_solution, solve_pairs
from srwan.gossip.light import SLACK_MS_MIN, trusted_bound_ms

__all__ = ["ClockFit", "ClockMinima", "clock_offsets_ms", "fit_clocks", "recovered_ms"]

_Floats: TypeAlias = npt.NDArray[np.float64]
_Bools: TypeAlias = npt.NDArray[np.bool_]

SCALE_MS_MIN = 2.0
"""Least scale of a pair: what queues and a wrong place add, and how much one pair with a small slack may weigh."""
SCALE_MS_MAX = 1_000.0
"""Longer paths weigh alike: they are noise, and numbers a million apart are no good in one matrix."""
CORE_SHARE = 0.65
"""Share of the nodes, those that agree best at first, who are asked who does not fit. It must hold more honest nodes than liars."""
EXCLUDE_MS_MIN = 3.0
EXCLUDE_QUANTILE = 0.25
EXCLUDE_FACTOR = 5.0
EXCLUDE_NODES = 10.0
"""Left out is whose median error exceeds 3 ms, and 5 (1 + 10 / n) times that of the node at the lower quartile, errors divided by the root
of their scale. In the model the worst honest node of 100 was at 3.6, the best of 30 liars at 7.2; few nodes need more room."""
EXCLUDE_NODES_MIN = 6
"""With fewer nodes nobody can say who is wrong."""
EXCLUDED_ERR_QUANTILE = 0.95
ERR_FACTOR = 1.9
ERR_NODES = 12.0
"""Bounds are 1.9 (1 + 12 / n) standard deviations: that holds for about 95 % in the model, where asymmetries have longer tails than a fit
of few nodes can see."""
WANDER_FACTOR = 2.0
WANDER_MS_MAX = 2.0
"""A pair that moved further between windows changed its path; it counts as this much."""
QUEUE_FACTOR = 3.0
"""95 % of an exponential variable lie below three times its mean."""
ROUNDING_MS = 0.01
"""Two roundings of 5 us."""
DRIFT_NONE_MS_PER_S = 0.1
"""Where no drift could be fitted: two crystals at opposite ends of +-50 ppm."""


@attrs.frozen(slots=True, eq=False)
class ClockFit:
    """Clocks of n nodes at one moment. Bounds are half widths of intervals that hold the truth in 95 % of cases of the model."""

    offset_ms: _Floats
    """Shape (n,), ms a clock is ahead, mean 0 over the nodes that are used; NaN where unknown. Of an excluded node an estimate only."""
    offset_err_ms: _Floats
    """Shape (n,), ms."""
    drift_ppm: _Floats
    """Shape (n,), how much faster than the mean a clock runs, over the span looked at; NaN where unknown."""
    drift_err_ppm: _Floats
    """Shape (n,), ppm."""
    owl_ms: _Floats
    """Shape (n, n), ms, [i, j] is i -> j: the least of the span, without clocks; NaN where unknown and on the diagonal."""
    owl_err_ms: _Floats
    """Shape (n, n), ms; NaN where `owl_ms` is, infinite for pairs with an excluded node."""
    excluded: tuple[int, ...]
    """Nodes that do not fit the others, rising: their stamps are wrong, or they lie."""
    misplaced: tuple[int, ...]
    """Nodes whose claimed places would need packets faster than light, rising: their positions were not used."""
    as_of_s: float
    """The moment the offsets speak of: the newest sample, s; NaN if there is none."""
    span_s: float
    """Time between the oldest and the newest sample, s; NaN if there is none."""


def fit_clocks(minima: ClockMinima, bound_ms: _Floats | None = None) -> ClockFit:
    """Recover clocks and true one-way latencies. For display, price and service levels only.

    Args:
        minima: of `ClockHistory.minima`, n nodes.
        bound_ms: shape (n, n), ms, light in fibre between claimed places, `light_bound_ms`; NaN for a pair with an unknown one. None:
            no place is known.

    Returns:
        The fit. What is not known is NaN; nothing that members told makes this raise.

    Raises:
        ValueError: bound_ms has another shape than the nodes.

    Cost: 10 windows of 100 nodes: see `script/bench clocks`. O(n^3).
    """
    raw, at = minima.raw_ms, minima.at_s
    n = raw.shape[1]
    if bound_ms is not None and bound_ms.shape != (n, n):
        message = f"bound_ms has shape {bound_ms.shape}; the minima are of {n} nodes"
        raise ValueError(message)
    is_known = np.isfinite(raw) & np.isfinite(at) & ~np.eye(n, dtype=np.bool_)
    as_of_s, span_s = _span(at, is_known)
    drift = fit_drift(np.where(is_known, raw, np.nan), at)
    rate = np.where(np.isfinite(drift.rate_ms_per_s), drift.rate_ms_per_s, 0.0)
    rate_err = np.where(np.isfinite(drift.err_ms_per_s), drift.err_ms_per_s, DRIFT_NONE_MS_PER_S)
    age = at - (as_of_s if np.isfinite(as_of_s) else 0.0)
    level = np.where(is_known, raw - (rate[None, None, :] - rate[None, :, None]) * age, np.inf)
    least, queue_ms = _least_and_queue(level)
    theta, round_trip = (least - least.T) / 2, least + least.T
    bound = np.full((n, n), np.nan) if bound_ms is None else bound_ms
    bound, misplaced = trusted_bound_ms(round_trip, bound)
    scale = np.clip(round_trip - 2 * bound, SCALE_MS_MIN, SCALE_MS_MAX)
    with np.errstate(invalid="ignore"):
        theta = np.where(round_trip - 2 * bound >= SLACK_MS_MIN, theta, np.nan)
    solution, excluded = _solve_without_outliers(theta, scale)
    variance = np.diagonal(solution.covariance)
    factor = ERR_FACTOR * (1.0 + ERR_NODES / max(n, 1))
    lag_err = np.hypot(rate_err * _mean_age(age, is_known), WANDER_FACTOR * _wander_ms(level))
    offset, offset_err = solution.x.copy(), np.hypot(factor * _deviation(variance), lag_err)
    for node in excluded:
        offset[node], offset_err[node] = _estimate(theta[:, node] + solution.x)
    owl = least - (offset[None, :] - offset[:, None])
    pair_err = factor * _deviation(variance[None, :] + variance[:, None] - 2 * solution.covariance)
    owl_err = np.hypot(pair_err, QUEUE_FACTOR * queue_ms) + ROUNDING_MS
    owl_err[list(excluded), :] = np.inf
    owl_err[:, list(excluded)] = np.inf
    owl_err[~np.isfinite(owl)] = np.nan
    return ClockFit(
        offset, offset_err, 1e3 * drift.rate_ms_per_s, 1e3 * drift.err_ms_per_s, owl, owl_err, excluded, misplaced, as_of_s, span_s
    )


def clock_offsets_ms(raw_ms: _Floats) -> _Floats:
    """Return clock offsets out of one matrix, without history: shape (n,), ms, mean 0 over the nodes used; NaN where unknown.

    Args:
        raw_ms: shape (n, n), ms; [i, j] is i -> j, clock offsets included; NaN where unknown.

    Cost: that of `fit_clocks` without drift.
    """
    return fit_clocks(ClockMinima.of(raw_ms)).offset_ms


def recovered_ms(raw_ms: _Floats) -> _Floats:
    """Return one matrix with estimated clock offsets taken out: shape (n, n), ms, NaN where raw or an offset is unknown."""
    return fit_clocks(ClockMinima.of(raw_ms)).owl_ms


def _span(at: _Floats, is_known: _Bools) -> tuple[float, float]:
    if not is_known.any():
        return float("nan"), float("nan")
    known = at[is_known]
    return float(known.max()), float(known.max() - known.min())


def _least_and_queue(level: _Floats) -> tuple[_Floats, _Floats]:
    """The minimum over windows, NaN where none, and what of it is still queue, about, shape (n, n), ms.

    For exponential queues the least of k minima lies as far above the path's latency as the second least above the least, in the mean; one
    such gap says little, so those of the sender and of the receiver are averaged.
    """
    rising = np.sort(level, axis=0)
    least = np.where(np.isfinite(rising[0]), rising[0], np.nan) if len(level) else np.full(level.shape[1:], np.nan)
    if len(level) < 2:
        return least, np.zeros_like(least)
    with np.errstate(invalid="ignore"):
        gap = rising[1] - rising[0]
    is_gap = np.isfinite(gap)
    gap = np.where(is_gap, gap, 0.0)
    outbound = gap.sum(axis=1) / np.maximum(is_gap.sum(axis=1), 1)
    inbound = gap.sum(axis=0) / np.maximum(is_gap.sum(axis=0), 1)
    return least, (outbound[:, None] + inbound[None, :]) / 2


def _solve_without_outliers(theta: _Floats, scale: _Floats) -> tuple[PairSolution, tuple[int, ...]]:
    """Solve, leave out who does not fit, and solve again until nobody changes sides."""
    n = len(theta)
    is_in = np.ones(n, np.bool_)
    if n < EXCLUDE_NODES_MIN:
        return solve_pairs(theta, scale), ()
    x = rough_solution(theta, scale)
    misfit, _ = _misfit(theta, scale, x, is_in)
    is_in = misfit <= _quantile(misfit, CORE_SHARE)
    x = rough_solution(_among(theta, is_in), scale, x)
    for is_last in (False, True):
        misfit, misfit_ms = _misfit(theta, scale, x, is_in)
        limit = EXCLUDE_FACTOR * (1.0 + EXCLUDE_NODES / n) * _quantile(misfit, EXCLUDE_QUANTILE)
        with np.errstate(invalid="ignore"):
            is_in = ~((misfit > limit) & (misfit_ms > EXCLUDE_MS_MIN))
        if not is_last:
            x = rough_solution(_among(theta, is_in), scale, x)
    return solve_pairs(_among(theta, is_in), scale, x), tuple(int(node) for node in np.flatnonzero(~is_in))


def _among(theta: _Floats, is_in: _Bools) -> _Floats:
    return np.where(is_in[:, None] & is_in[None, :], theta, np.nan)


def _misfit(theta: _Floats, scale: _Floats, x: _Floats, is_in: _Bools) -> tuple[_Floats, _Floats]:
    """How far each node is from agreeing with those that are in: median over its pairs with them, shape (n,), twice.

    First divided by the root of the scale, which sets liars apart best: a far node's honest errors are larger, but not in proportion.
    Then in ms.
    """
    told = _with_estimates(theta, x, is_in)
    error = np.where(is_in[:, None], np.abs(theta - (told[None, :] - told[:, None])), np.nan)
    return _median_over(error / np.sqrt(scale)), _median_over(error)


def _with_estimates(theta: _Floats, x: _Floats, is_in: _Bools) -> _Floats:
    """Give nodes left out the median of what their pairs say."""
    out = np.flatnonzero(~is_in)
    filled = x.copy()
    filled[out] = _median_over(theta[:, out] + x[:, None])
    return filled


def _estimate(told: _Floats) -> tuple[float, float]:
    """Median of what pairs say, and 95 % of the deviations from it; NaN if none does."""
    told = np.sort(told[np.isfinite(told)])
    if not len(told):
        return float("nan"), float("nan")
    middle = float(told[(len(told) - 1) // 2] + told[len(told) // 2]) / 2
    return middle, float(np.sort(np.abs(told - middle))[int(EXCLUDED_ERR_QUANTILE * (len(told) - 1))])


def _median_over(values: _Floats) -> _Floats:
    """Median over axis 0 of what is not NaN; NaN where all is."""
    rising = np.sort(values, axis=0)
    count = np.isfinite(rising).sum(axis=0)
    if not len(rising):
        return np.full(values.shape[1], np.nan)
    which = np.arange(values.shape[1])
    middle = (rising[np.maximum(count - 1, 0) // 2, which] + rising[np.minimum(count // 2, len(rising) - 1), which]) / 2
    return np.where(count > 0, middle, np.nan)


def _quantile(values: _Floats, share: float) -> float:
    """Quantile of what is finite; infinite if nothing is, so that nobody exceeds it."""
    finite = values[np.isfinite(values)]
    return float(np.quantile(finite, share)) if len(finite) else float("inf")


def _deviation(variance: _Floats) -> _Floats:
    return np.sqrt(np.maximum(variance, 0.0))


def _wander_ms(level: _Floats) -> _Floats:
    """How far each clock strays from its straight line, window by window, root mean square, shape (n,): what all its pairs share."""
    with np.errstate(invalid="ignore"):
        theta = (level - level.transpose(0, 2, 1)) / 2
    is_known = np.isfinite(theta)
    theta = np.where(is_known, theta, 0.0)
    mean = theta.sum(axis=0) / np.maximum(is_known.sum(axis=0), 1)
    strayed = np.where(is_known, np.clip(theta - mean, -WANDER_MS_MAX, WANDER_MS_MAX), 0.0)
    shared = strayed.sum(axis=1) / np.maximum(is_known.sum(axis=1), 1)
    wander: _Floats = np.sqrt((shared**2).sum(axis=0) / max(len(level), 1))
    return wander


def _mean_age(age: _Floats, is_known: _Bools) -> float:
    """How far back the samples lie in the mean, s: over that time an error of the rate becomes one of the offset."""
    return float(-age[is_known].mean()) if is_known.any() else 0.0
