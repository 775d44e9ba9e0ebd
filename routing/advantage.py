"""Which one-relay path, if any, each ordered pair should use, from a window of samples of the whole matrix.

What this is: a pure statistical rule on arrays. It knows no names, clocks or packets, nor whose samples it reads: everything it adapts to
(noise, how long values are held, how far samples agree) it estimates from the samples. It decides about the future from the past only; what
a path in use then delivers comes back as further samples.

Theory. For the pair (i, j) and relay k the gain in a sample is g = d_ij - d_ik - d_kj - relay cost. The minimum of ~n noisy sums is biased
low (the winner's curse), so nothing is taken at its estimate but at what can be relied upon, the lesser of

    mean of g - `confidence` standard errors          (what the window says, less what it cannot know)
    g of the newest sample                            (what was true last)

Among relays the direct path is common, so they are ranked by the same bound of the path d_ik + d_kj alone; whether the first of them is
worth it is judged by the bound of its g. There the mean is over g itself, not over legs, so that noise the legs share (a slow end point
delays the direct path and the first leg alike) cancels in mean and error. Variances are sums of (co)variances of legs, which cost products
of matrices and never an array of n^3. Means, not medians: what relaying wins back is the tail. The newest sample removes much of the harm
where noise comes in episodes.

Samples that were held are one sample: the window is cut into blocks as long as values usually stay unchanged, and errors are those of means
of blocks, with Student's factor for few of them. Blocks lose half of their weight every `half_life` samples. Variances are shrunk towards
the group's typical one, which counts as `prior_samples` further blocks, so that two or three samples that agree by chance are not
certainty; the typical noise in turn starts from `prior_noise` of the median latency, for a single sample tells nothing about noise.

A path is entered when that bound exceeds `enter` times the typical noise, left when it falls below `stay` times that, and exchanged when
the bound of another exceeds its expected gain by `lead` times it: hysteresis. Direct is the default.

Invariants: a path is only ever chosen if all its legs and the direct one were seen in the window; a relay is neither end; the answer
depends on nothing but the arguments, and multiplying all samples by a power of two multiplies all bounds by it and changes no choice.

Source: docs/replay.md has the measurements; James and Stein 1961, Efron and Morris 1975 for shrinking variances; Thaler 1988 for the curse.
"""

from __future__ import annotations

from typing import TypeAlias

import attrs
import numpy as np
import numpy.typing as npt

__all__ = ["DIRECT", "AdvantageRule", "Evidence", "choose_relays", "reliable_ms", "weigh"]

DIRECT = -1
"""In an array of relays: no relay."""

Floats: TypeAlias = npt.NDArray[np.float32]
Relays: TypeAlias = npt.NDArray[np.intp]
_Bools: TypeAlias = npt.NDArray[np.bool_]


@attrs.frozen(slots=True, kw_only=True)
class AdvantageRule:
    """The parameters; one set for all networks."""

    window: int = 160
    """Newest samples looked at. Beyond four half-lives a sample has 1/16 of a new one's weight."""
    half_life: float = 40.0
    """Age at which a sample has half the weight of the newest, samples."""
    confidence: float = 1.0
    """Standard errors taken off the mean gain."""
    enter: float = 2.0
    """Bound that a path needs, in units of the typical noise of a sample."""
    lead: float = 4.0
    """Bound that a path needs above the expected gain of the one in use, to take its place, in the same unit."""
    stay: float = -1.0
    """Bound below which a path in use is left, in the same unit; at most `enter`."""
    prior_noise: float = 0.01
    """Noise of a sample before anything is known, share of the median latency: the upper decile of 30 pings' mean above their minimum is
    2 % of the median path, the median 0.3 %."""
    prior_samples: float = 1.0
    """Blocks that the typical variance counts for when a variance is estimated."""


@attrs.frozen(slots=True, eq=False)
class Evidence:
    """A window, prepared for weighing any relay."""

    mean_ms: Floats
    """Weighted mean of every leg, shape (n, n), ms; inf where never seen."""
    newest_ms: Floats
    """Last value seen, shape (n, n), ms; inf where never seen."""
    spread_ms: Floats
    """Deviations of block means from `mean_ms`, times the root of the block's weight, shape (n, n, blocks), ms."""
    variance_ms2: Floats
    """Sum of squares of `spread_ms` over blocks, shape (n, n), ms^2."""
    blocks: float
    """Effective number of blocks, 1 / sum of squared weights."""
    noise_ms: float
    """Typical standard deviation of a block of one leg, ms."""


def weigh(samples_ms: npt.NDArray[np.floating], rule: AdvantageRule) -> Evidence:
    """Prepare the newest `rule.window` samples.

    Args:
        samples_ms: latencies, oldest first, shape (T, n, n), T >= 1, ms; NaN where missing. The diagonal is not read.
        rule: the parameters.

    Cost: O(T n^2).
    """
    window = _filled(np.array(samples_ms[-rule.window :], dtype=np.float32))
    count, n = window.shape[0], window.shape[1]
    is_pair = np.isfinite(window[-1]) & ~np.eye(n, dtype=bool)
    newest = np.where(is_pair, window[-1], np.inf).astype(np.float32)
    window[:, ~is_pair] = 0
    length = _held(window, is_pair)
    starts = np.arange(count % length or length, count, length) if count > length else np.empty(0, dtype=np.intp)
    edges = np.concatenate(([0], starts)).astype(np.intp)
    sizes: Floats = np.diff(np.append(edges, count)).astype(np.float32)
    means = np.add.reduceat(window, edges, axis=0) / sizes[:, None, None]
    ages = count - edges - sizes / 2
    weights = 0.5 ** (ages / rule.half_life) * sizes
    weights = (weights / weights.sum()).astype(np.float32)
    mean: Floats = np.einsum("t,tij->ij", weights, means)
    spread = np.ascontiguousarray(np.moveaxis((means - mean) * np.sqrt(weights)[:, None, None], 0, -1))
    variance = np.einsum("ijt,ijt->ij", spread, spread)
    blocks = float(1 / np.square(weights.astype(np.float64)).sum())
    noise = _typical_noise(mean, variance, is_pair, blocks, rule)
    return Evidence(np.where(is_pair, mean, np.inf).astype(np.float32), newest, spread, variance, blocks, noise)


def choose_relays(
    samples_ms: npt.NDArray[np.floating],
    rule: AdvantageRule,
    *,
    current: Relays | None = None,
    relay_ms: float = 0.0,
) -> Relays:
    """Decide for every ordered pair of the group.

    Args:
        samples_ms: latencies, oldest first, shape (T, n, n), T >= 1, ms; NaN where missing. One-way or round trip, but all alike.
        rule: the parameters.
        current: relays in use, shape (n, n), DIRECT for none; None if nothing is in use yet.
        relay_ms: cost of the relay itself, ms.

    Returns:
        Relays to use, shape (n, n); DIRECT for none and on the diagonal.

    Cost: O(n^3 B) multiplications with B blocks, O(n^2 B) memory.
    """
    evidence = weigh(samples_ms, rule)
    n = len(evidence.mean_ms)
    in_use = np.full((n, n), DIRECT, dtype=np.intp) if current is None else current
    unknown = np.full((n, n), -np.inf, dtype=np.float32)
    cheapest, best, kept, expected = -unknown, unknown.copy(), unknown.copy(), unknown.copy()
    best_relay = np.full((n, n), DIRECT, dtype=np.intp)
    for relay in range(n):
        weighed = _through(evidence, relay, rule, relay_ms)
        is_cheaper = weighed.cost_ms < cheapest
        cheapest[is_cheaper] = weighed.cost_ms[is_cheaper]
        best[is_cheaper] = weighed.bound_ms[is_cheaper]
        best_relay[is_cheaper] = relay
        if current is not None:
            is_used = in_use == relay
            kept[is_used] = weighed.bound_ms[is_used]
            expected[is_used] = weighed.gain_ms[is_used]
    enter_ms = np.float32(rule.enter * evidence.noise_ms)
    stays = kept > np.float32(rule.stay * evidence.noise_ms)
    moves = (best > enter_ms) & (~stays | (best > expected + np.float32(rule.lead * evidence.noise_ms)))
    return np.where(moves, best_relay, np.where(stays, in_use, DIRECT))


def reliable_ms(mean_ms: Floats, newest_ms: Floats, variance_ms2: Floats, legs: int, evidence: Evidence, rule: AdvantageRule) -> Floats:
    """Return what of a gain can be relied upon, ms; arrays of one shape.

    Args:
        mean_ms: weighted mean of the gain; of a cost, negated, for what of it has to be reckoned with.
        newest_ms: gain in the newest sample.
        variance_ms2: weighted variance of the gain between blocks.
        legs: how many latencies the gain is a sum of.
        evidence: the window.
        rule: the parameters.
    """
    prior = np.float32(legs * evidence.noise_ms**2 * rule.prior_samples)
    freedom = np.float32(max(evidence.blocks - 1, 0) + rule.prior_samples)
    variance = (np.maximum(variance_ms2, 0) * np.float32(evidence.blocks) + prior) / freedom
    student = np.float32(rule.confidence * (1 + (rule.confidence**2 + 1) / (4 * freedom)))
    lower: Floats = mean_ms - student * np.sqrt(variance / np.float32(evidence.blocks))
    return np.minimum(lower, newest_ms)


@attrs.frozen(slots=True, eq=False)
class _Through:
    """All pairs through one relay; arrays have shape (n, n)."""

    gain_ms: Floats
    """Mean gain, ms."""
    bound_ms: Floats
    """What of it can be relied upon, ms; -inf where the relay cannot be used."""
    cost_ms: Floats
    """What the relayed path has to be reckoned with, ms; inf where the relay cannot be used."""


def _through(evidence: Evidence, relay: int, rule: AdvantageRule, relay_ms: float) -> _Through:
    mean, newest, spread, own = evidence.mean_ms, evidence.newest_ms, evidence.spread_ms, evidence.variance_ms2
    path = mean[:, relay, None] + (mean[relay] + np.float32(relay_ms))
    path_newest = newest[:, relay, None] + (newest[relay] + np.float32(relay_ms))
    first, last = spread[:, relay], spread[relay]  # shape (n, blocks) each
    path_variance = own[:, relay, None] + own[relay] + 2 * (first @ last.T)
    shared = np.matmul(spread, first[:, :, None])[:, :, 0] + np.matmul(spread.transpose(1, 0, 2), last[:, :, None])[:, :, 0].T
    with np.errstate(invalid="ignore"):  # a pair never seen: inf - inf
        gain, gain_newest = mean - path, newest - path_newest
    bound = reliable_ms(gain, gain_newest, own + path_variance - 2 * shared, 3, evidence, rule)
    is_usable = np.isfinite(bound)
    cost = -reliable_ms(-path, -path_newest, path_variance, 2, evidence, rule)
    return _Through(gain, np.where(is_usable, bound, np.float32(-np.inf)), np.where(is_usable, cost, np.float32(np.inf)))


def _filled(window: Floats) -> Floats:
    """Missing values take the last one seen, those before the first one seen that one; in place. Never seen stays NaN."""
    if not np.isnan(window).any():
        return window
    for steps in (range(1, len(window)), range(len(window) - 2, -1, -1)):
        step = -1 if steps.step > 0 else 1
        for t in steps:
            is_missing = np.isnan(window[t])
            window[t][is_missing] = window[t + step][is_missing]
    return window


def _held(window: Floats, is_pair: _Bools) -> int:
    """How many samples a value usually stays the same, >= 1: the inverse of the share of values that differ from the one before."""
    count = len(window)
    if count < 3 or not is_pair.any():
        return 1
    changed = float(np.mean([(window[t] != window[t - 1])[is_pair].mean() for t in range(1, count)]))
    return int(np.clip(round(1 / max(changed, 1 / count)), 1, max(count // 4, 1)))


def _typical_noise(mean: Floats, variance: Floats, is_pair: _Bools, blocks: float, rule: AdvantageRule) -> float:
    """Root of the median variance of a block over all legs, one block of prior included, ms."""
    if not is_pair.any():
        return 0.0
    prior = (rule.prior_noise * float(np.median(mean[is_pair]))) ** 2
    seen = float(np.median(variance[is_pair])) * blocks
    return float(np.sqrt((prior + seen) / blocks)) if blocks > 1 else float(np.sqrt(prior))
