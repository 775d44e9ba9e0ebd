"""What is normal of one edge: where its raw samples lie, how much they vary, and what share of packets it loses.

Not here: what follows when an edge is not normal (`anomaly`).

Theory of operation. `Baseline` is the level of up to 360 clean samples, an hour at the default period. 15 samples make a block of which
only median, time and spread are kept; the level is the median of the last 24 block medians (a remedian). Raw samples drift with two
clocks, 1 ms per 10 s at 100 ppm, so blocks lie on a line. Its slope is told, or found by Theil's incomplete method: the median of the
slopes between the points of the earlier and of the later half. The level is the end of the line, and what the slope may be wrong by
widens the limits with the time since then. `JitterTest` compares the mean deviation of 16 samples with a slow mean of its own.
`LossTest` is Page's test, a sequential likelihood ratio of two shares of loss.

Invariants: nothing here grows beyond its constant; who calls keeps anomalous samples out.
Source: Theil 1950; Rousseeuw and Bassett 1990; Page 1954; RFC 3550 section 6.4.1 for jitter from differences.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence

__all__ = ["LOSS_ENTER", "NEW_LEVEL_S", "SLOPE_MS_PER_S_MAX", "Baseline", "JitterTest", "LossTest", "median_of"]

BLOCK_SAMPLES = 15
"""Clean samples of a block: two and a half minutes at the default period, and the warm-up of an edge."""
BLOCKS_MAX = 24
"""Blocks of a baseline: 360 samples."""
LEARN_GAP_S = 0.9
"""Samples that follow closer are judged but not learnt: a burst must not fill a block."""
NEW_LEVEL_S = 7200.0
"""What stays so long is the new normal."""
RISE_SHARE = 0.2
"""Of the true latency: more is a rise; half of it ends one."""
RISE_MS_MIN = 2.0
"""Least rise that counts, ms: twice what two bad clocks do to a raw sample within a period."""
RISE_MS_UNKNOWN = 10.0
"""Rise that counts where neither latency nor round trip is known, ms: what routing wants before it leaves the direct path."""
SPREADS = 5.0
"""Rises within so many deviations of the edge's own samples are noise. Queues are skewed: 3 gave three false alarms an edge-day at 2 ms."""
SPREAD_BLOCKS = 8
"""Blocks over which the spread is averaged."""
SLOPE_MS_PER_S_MAX = 0.2
"""Two clocks 100 ppm off each."""
SLOPE_DOUBTS = 4.0
"""Standard errors of a found slope that are allowed for."""
SLOPE_DOUBT_TOLD = 0.0004
"""Allowed error of a told slope, ms/s: 0.39 ppm was the clock fit's 95th percentile after 3 minutes."""
MEDIAN_EFFICIENCY = 1.25
"""Standard error of a median over that of a mean."""
QUARTILES_TO_SD = 1.349
"""Distance of the quartiles of a normal distribution, in standard deviations."""

JITTER_SAMPLES = 16
JITTER_USUAL_SAMPLES = 360
JITTER_CLIP = 4.0
"""One difference counts at most so many usual ones and 1 ms, so that a spike is no jitter."""
JITTER_RISE = 2.0
JITTER_RISE_MS = 1.0
"""Risen: above twice the usual and 1 ms. Over: below 1.5 times the usual and half a ms."""

LOSS_ENTER = math.log(10_000)
"""Odds against chance, logarithmic: four lost in a row with nothing before, or 5 of 24, at 1 % against 10 %."""
LOSS_LEAVE = math.log(100)
"""49 rounds, or 509 data packets, without loss."""


def median_of(values: Iterable[float]) -> float:
    """Return the median, the mean of the two in the middle if their number is even; not of nothing."""
    rising = sorted(values)
    middle = len(rising) >> 1
    return rising[middle] if len(rising) & 1 else (rising[middle - 1] + rising[middle]) / 2


def _slope(times: Sequence[float], values: Sequence[float]) -> float:
    """Return the slope of values over rising times, by Theil's incomplete method, within the bounds of clocks."""
    half = (len(times) + 1) // 2
    pairs = zip(times[half:], times, values[half:], values, strict=False)  # the shorter later half says when to stop
    slope = median_of([(later - earlier) / (end - start) for end, start, later, earlier in pairs])
    return max(-SLOPE_MS_PER_S_MAX, min(SLOPE_MS_PER_S_MAX, slope))


class Baseline:
    """The line on which clean samples of one edge lie, and how far from it others are anomalous."""

    __slots__ = (
        "_block_times",
        "_block_values",
        "_learnt_at",
        "_medians",
        "_span_s",
        "_times",
        "at",
        "doubt",
        "drift",
        "enter_ms",
        "is_ready",
        "leave_ms",
        "level_ms",
        "owl_ms",
        "slope",
        "spread_ms",
    )

    def __init__(self) -> None:
        self.owl_ms: float | None = None
        """True one-way latency, ms: what the share of a rise refers to."""
        self.drift: float | None = None
        """Told slope, ms/s."""
        self.enter_ms = RISE_MS_UNKNOWN
        """Excess over the line that is a rise, ms, to which the doubt is added."""
        self.leave_ms = RISE_MS_UNKNOWN / 2
        """Half of it."""
        self.restart()

    def restart(self) -> None:
        """Forget the samples."""
        self._times = array("d")
        self._medians = array("d")
        self._block_times: list[float] = []
        self._block_values: list[float] = []
        self._learnt_at = -math.inf
        self._span_s = 0.0
        self.is_ready = False
        """False until the first block is full."""
        self.at = 0.0
        """The time at which the line has `level_ms`, monotonic s."""
        self.level_ms = 0.0
        self.slope = 0.0
        """ms/s."""
        self.doubt = 0.0
        """Allowed error of the slope, ms/s."""
        self.spread_ms = 0.0
        """Standard deviation of clean samples, robust, ms."""

    def level_at(self, now: float) -> float:
        """Return what a raw sample would be in normal times, ms."""
        return self.level_ms + self.slope * (now - self.at)

    def learn(self, raw_ms: float, now: float) -> None:
        """Take in a clean sample. Cost: 0.3 us, and 18 us every 15th time."""
        if now - self._learnt_at < LEARN_GAP_S:
            return
        self._learnt_at = now
        self._block_times.append(now)
        self._block_values.append(raw_ms)
        if len(self._block_times) >= BLOCK_SAMPLES:
            self._close_block()

    def fit(self) -> None:
        """Lay the line through the blocks and set the limits. Cost: 9 us."""
        times, medians = self._times, self._medians
        if times:
            self.at = at = times[-1]
            if self.drift is not None:
                self.slope, self.doubt = self.drift, SLOPE_DOUBT_TOLD
            else:
                if len(times) > 1:
                    self.slope = _slope(times, medians)
                error = MEDIAN_EFFICIENCY * self.spread_ms / (self._span_s * math.sqrt(len(times)))
                self.doubt = min(SLOPE_MS_PER_S_MAX, SLOPE_DOUBTS * error)
            slope = self.slope
            self.level_ms = median_of([value + slope * (at - when) for when, value in zip(times, medians, strict=True)])
            self.is_ready = True
        self.set_limits()

    def set_limits(self) -> None:
        """Set the limits."""
        share_ms = RISE_MS_UNKNOWN if self.owl_ms is None else max(RISE_MS_MIN, RISE_SHARE * self.owl_ms)
        self.enter_ms = max(share_ms, SPREADS * self.spread_ms)
        self.leave_ms = self.enter_ms / 2

    def _close_block(self) -> None:
        times, values = self._block_times, self._block_values
        self._block_times, self._block_values = [], []
        center = times[len(times) // 2]
        if not self.is_ready:
            self.slope = self._first_slope(times, values)
        rising = self._levelled(times, values, center)
        median = median_of(rising)
        if self.is_ready and median < self.level_at(center) - self.enter_ms - self.doubt * (center - self.at):
            # The path became shorter and its past says nothing; or the slope was wrong, and its past says no more.
            del self._times[:], self._medians[:]
            self.slope = self._first_slope(times, values)
            rising = self._levelled(times, values, center)
            median = median_of(rising)
        quarter = len(rising) // 4
        spread_ms = (rising[-1 - quarter] - rising[quarter]) / QUARTILES_TO_SD
        self.spread_ms += (spread_ms - self.spread_ms) / min(len(self._times) + 1, SPREAD_BLOCKS)
        self._times.append(center)
        self._medians.append(median)
        if len(self._times) > BLOCKS_MAX:
            del self._times[0], self._medians[0]
        self._span_s = max(center - self._times[0], times[-1] - times[0])
        self.fit()

    def _first_slope(self, times: Sequence[float], values: Sequence[float]) -> float:
        return self.drift if self.drift is not None else _slope(times, values)

    def _levelled(self, times: Sequence[float], values: Sequence[float], center: float) -> list[float]:
        """Return the values of a block as at its center, rising."""
        slope = self.slope
        return sorted([value + slope * (center - at) for at, value in zip(times, values, strict=True)])


class JitterTest:
    """Whether the samples of one edge vary more than usual."""

    __slots__ = ("_count", "is_high", "jitter_ms", "since", "usual_ms")

    def __init__(self) -> None:
        self._count = 0
        self.is_high = False
        self.since = 0.0
        """When it became high, monotonic s."""
        self.jitter_ms = 0.0
        """Mean deviation of the last 16 samples, ms."""
        self.usual_ms = 0.0
        """Its slow mean, frozen while it is high, ms."""

    def add(self, difference_ms: float, now: float) -> bool:
        """Take in the difference of two consecutive samples, and say whether that changed the verdict. Cost: 0.4 us."""
        deviation_ms = abs(difference_ms) / math.sqrt(2)  # of independent samples, differences are 1.41 times the deviation
        count = self._count
        if count < JITTER_SAMPLES:
            self._count = count + 1
            self.jitter_ms += (deviation_ms - self.jitter_ms) / (count + 1)
            self.usual_ms = self.jitter_ms
            return False
        usual_ms = self.usual_ms
        clip_ms = JITTER_CLIP * usual_ms + JITTER_RISE_MS
        deviation_ms = min(deviation_ms, clip_ms)
        self.jitter_ms = jitter_ms = self.jitter_ms + (deviation_ms - self.jitter_ms) / JITTER_SAMPLES
        if self.is_high:
            if now - self.since > NEW_LEVEL_S:
                self.usual_ms = jitter_ms
            elif jitter_ms >= (1 + JITTER_RISE) / 2 * usual_ms + JITTER_RISE_MS / 2:
                return False
            self.is_high = False
            return True
        if jitter_ms > JITTER_RISE * usual_ms + JITTER_RISE_MS:
            self.is_high = True
            self.since = now
            return True
        if count < JITTER_USUAL_SAMPLES:
            self._count = count = count + 1
        self.usual_ms = usual_ms + (deviation_ms - usual_ms) / count
        return False


class LossTest:
    """Which of two shares of loss the packets of one edge speak for.

    Args:
        normal: share that is normal, 0..1.
        bad: share that is not.
        step_max: evidence that one report may bring; packets that are lost in a bunch are not independent.
    """

    __slots__ = ("_arrived_worth", "_lost_worth", "_score", "_step_max", "_window", "is_high", "share", "since")

    def __init__(self, normal: float, bad: float, step_max: float = math.inf) -> None:
        self._lost_worth = math.log(bad / normal)
        self._arrived_worth = math.log((1 - normal) / (1 - bad))
        self._step_max = step_max
        self._window = 3 / bad
        self._score = 0.0
        self.is_high = False
        self.since = 0.0
        """When it became high, monotonic s."""
        self.share = 0.0
        """Exponential mean of the loss, over as many packets as hold three losses at the bad share."""

    def add(self, lost: int, sent: int, now: float) -> bool:
        """Count `lost` of `sent`, sent > 0, and say whether that changed the verdict."""
        self.share += (lost / sent - self.share) * min(1.0, sent / self._window)
        step = lost * self._lost_worth - (sent - lost) * self._arrived_worth
        step = max(-self._step_max, min(self._step_max, step))
        self._score = max(0.0, self._score + (-step if self.is_high else step))
        if self._score < (LOSS_LEAVE if self.is_high else LOSS_ENTER):
            return False
        self._score = 0.0
        self.is_high = not self.is_high
        if self.is_high:
            self.since = now
        return True
