"""A clock that is wrong on purpose: off by seconds and drifting, as unsynchronised hosts are."""

from __future__ import annotations

from srwan.clock import Clock

__all__ = ["SkewedClock"]


class SkewedClock(Clock):
    """The machine's clock seen through an offset and a drift. `now()` stays true: timers are local and need no agreement.

    Args:
        offset_ns: what is added at the start.
        drift_ppm: parts per million by which it runs fast (positive) or slow.
    """

    def __init__(self, offset_ns: int, drift_ppm: float) -> None:
        super().__init__()
        self._offset_ns = offset_ns
        self._drift_ppm = drift_ppm
        self._start_ns = super().stamp_ns()

    def _skewed(self, true_ns: int) -> int:
        return true_ns + self._offset_ns + round((true_ns - self._start_ns) * self._drift_ppm / 1_000_000)

    def stamp_ns(self) -> int:
        return self._skewed(super().stamp_ns())

    def wall_ns(self) -> int:
        return super().wall_ns() + self._offset_ns

    def stamp_from_realtime_ns(self, realtime_ns: int) -> int:
        return self._skewed(super().stamp_from_realtime_ns(realtime_ns))
