"""The offset between two clocks as one path's answers tell it: what frees raw one-way latencies of it, for display and agreements.

Theory of operation. A raw latency is the receiver's stamp less the sender's. Of a sample with a round trip of r, half of r is the true
one-way latency but for half of the asymmetry, so the offset is raw - r / 2, wrong by at most r / 2. The sample with the quickest round
trip is kept; it is replaced when drift has made it worth less than a new one.

Not here: decisions between paths with the same ends, where offsets cancel and nothing need be known of them.
"""

from __future__ import annotations

import math

from srwan.routing.watch import Sample

__all__ = ["ClockReference"]

DRIFT_MS_PER_S = 0.05
"""Two clocks drift apart by so much, ms/s (50 ppm)."""


class ClockReference:
    """Keeps the best sample between two nodes."""

    __slots__ = ("_sample",)

    def __init__(self) -> None:
        self._sample: Sample | None = None

    def take(self, sample: Sample) -> None:
        """Keep a sample if it tells the offset better: its error is at most half its round trip, and grows with age by drift."""
        old = self._sample
        if old is None or sample.rtt_ms / 2 <= old.rtt_ms / 2 + DRIFT_MS_PER_S * (sample.arrived_at - old.arrived_at):
            self._sample = sample

    @property
    def offset_ms(self) -> float:
        """Receiver's clock less sender's clock, ms; NaN before the first sample."""
        return math.nan if self._sample is None else self._sample.raw_ms - self._sample.rtt_ms / 2
