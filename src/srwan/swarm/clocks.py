"""Clocks for swarms: one that is wrong on purpose, as unsynchronised hosts are, and one that follows Trio's, virtual or not."""

from __future__ import annotations

import trio

from srwan.clock import Clock

__all__ = ["SkewedClock", "TrioClock"]


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
        """The stamp clock as this host sees it, ns."""
        return self._skewed(super().stamp_ns())

    def wall_ns(self) -> int:
        """The wall clock as this host sees it, ns; it does not drift within a run."""
        return super().wall_ns() + self._offset_ns

    def stamp_from_realtime_ns(self, realtime_ns: int) -> int:
        """Convert a kernel stamp as this host would."""
        return self._skewed(super().stamp_from_realtime_ns(realtime_ns))


class TrioClock(Clock):
    """All three times are Trio's, so that a node runs on virtual time under `trio.testing.MockClock`."""

    def __init__(self) -> None:
        super().__init__()
        self._start_ns = super().wall_ns() - round(trio.current_time() * 1e9)

    def now(self) -> float:
        """Trio's time, seconds."""
        return trio.current_time()

    def stamp_ns(self) -> int:
        """Trio's time, ns since 1970 by the wall clock at the start."""
        return self._start_ns + round(trio.current_time() * 1e9)

    def wall_ns(self) -> int:
        """The same as `stamp_ns`."""
        return self.stamp_ns()

    def stamp_from_realtime_ns(self, realtime_ns: int) -> int:
        """Nothing to convert: transports in memory stamp with `stamp_ns`."""
        return realtime_ns
