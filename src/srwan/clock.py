"""A node's clock: a stamp clock that is never stepped, and the wall clock that others talk about.

Three times, never mixed:

- `now()`: monotonic seconds, for timers.
- `stamp_ns()`: nanoseconds of the stamp clock, for latency stamps. It starts at the wall time of the first reading and then runs with
  CLOCK_MONOTONIC, so that an NTP step or a leap second never appears in a latency. Between two hosts it differs by an unknown offset
  and drifts by some ppm; comparisons of paths with equal end points do not mind (docs/decisions.md).
- `wall_ns()`: CLOCK_REALTIME, for expiry of records only.

The kernel stamps received datagrams with CLOCK_REALTIME; `stamp_from_realtime_ns` converts with the difference of the two clocks. Linux
slews both clocks alike, so that difference changes by steps alone: somebody set the wall clock, a leap second, the machine slept. A
receiver asks `has_stepped` once per batch of datagrams and, if so, calls `refresh` and does not trust the kernel stamps of that batch.
A difference that agrees with the held one within the error of reading it changes nothing, so reading it adds no jitter to stamps.

`boot_id` tells restarts of one node apart and rises with time. After the machine slept, stamps run on but have lost the time slept
against other hosts; `steps` counts that too, and gossip notices it as a jump of all its latencies (`clock_epoch` of a row).
"""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Clock"]

STEP_NS_MIN = 2_000_000
"""A change of (realtime - monotonic) between two refreshes beyond this is a step and no reading error: 2 ms, as measured on noisy hosts."""


class Clock:
    """Reads the machine's clocks. One per node; share it between transport and cores' shells.

    Args:
        read_monotonic_ns: CLOCK_MONOTONIC, ns; tests give another.
        read_realtime_ns: CLOCK_REALTIME, ns; tests give another.
    """

    def __init__(
        self, read_monotonic_ns: Callable[[], int] = time.monotonic_ns, read_realtime_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self._read_monotonic_ns = read_monotonic_ns
        self._read_realtime_ns = read_realtime_ns
        self._realtime_minus_monotonic_ns, self._error_ns = self._sample_difference()
        self._anchor_ns = self._realtime_minus_monotonic_ns
        self.boot_id = (read_realtime_ns() // 100_000_000) & 0xFFFFFFFF
        """Start of this run in tenths of a second since 1970, modulo 2**32 (13.6 years): later runs have greater ids."""
        self.steps = 0
        """How often the wall clock was stepped since the start, as far as `refresh` saw."""

    def _sample_difference(self) -> tuple[int, int]:
        """CLOCK_REALTIME - CLOCK_MONOTONIC and its greatest error, ns: the tightest of three bracketed readings."""
        best_error, best = 1 << 62, 0
        for _ in range(3):
            before = self._read_monotonic_ns()
            wall = self._read_realtime_ns()
            after = self._read_monotonic_ns()
            error = (after - before + 1) // 2
            if error < best_error:
                best_error, best = error, wall - (before + after) // 2
        return best, best_error

    def now(self) -> float:
        """Monotonic seconds."""
        return self._read_monotonic_ns() / 1e9

    def stamp_ns(self) -> int:
        """Nanoseconds of the stamp clock now."""
        return self._read_monotonic_ns() + self._anchor_ns

    def wall_ns(self) -> int:
        """Nanoseconds since 1970, as this host believes."""
        return self._read_realtime_ns()

    def stamp_from_realtime_ns(self, realtime_ns: int) -> int:
        """Convert a kernel receive stamp (CLOCK_REALTIME, ns) to the stamp clock. Error: 0.1 us, plus steps since the last `refresh`."""
        return realtime_ns - self._realtime_minus_monotonic_ns + self._anchor_ns

    def has_stepped(self) -> bool:
        """Say whether the wall clock seems to have been stepped since the last `refresh`, from one quick reading. Cost: 0.2 us.

        A thread that loses the processor during the reading causes a false alarm; `refresh` says for sure.
        """
        difference = self._read_realtime_ns() - self._read_monotonic_ns()
        return not -STEP_NS_MIN <= difference - self._realtime_minus_monotonic_ns <= STEP_NS_MIN

    def refresh(self) -> bool:
        """Sample the wall clock again; call it when `has_stepped`, and every now and then for steps too small for that.

        Returns:
            True if the wall clock was stepped since the last call. Stamps go on unbroken; kernel stamps taken before the step and
            converted from now on are wrong, and so are those taken after the step and converted before this call.
        """
        difference, error_ns = self._sample_difference()
        change = abs(difference - self._realtime_minus_monotonic_ns)
        is_same = change <= error_ns + self._error_ns
        if not is_same or error_ns < self._error_ns:
            self._realtime_minus_monotonic_ns, self._error_ns = difference, error_ns
        is_step = not is_same and change > STEP_NS_MIN
        self.steps += is_step
        return is_step
