"""When an offer is good: intervals of universal time, and a clock that is not turned back.

What this is: the time windows of an offer as everybody who reads it understands them. What it is not: weeks, local hours and daylight
saving; those are rules of one place, they change by decree, and the seller resolves them before it signs (`zones`). So buyer, relay and
validator need no table of time zones to agree on whether a window is open, and a session over midnight or over a change of the clocks is an
interval like any other.

`SteadyWall` guards against a clock that is set back, by mistake or to get into a window that has closed: the time it tells never runs
slower than the monotonic clock.

Invariants: windows rise and neither touch nor overlap; `SteadyWall` never goes back on the word of the wall clock.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable
from typing import Any

import attrs

from srwan.errors import DecodeError

__all__ = ["ALWAYS", "TIME_S_MAX", "WINDOWS_MAX", "Schedule", "SteadyWall", "Window", "schedule_of"]

WINDOWS_MAX = 128
"""Windows of one schedule: two a day for two months; 128 are 1.4 kB."""
TIME_S_MAX = 2**40
"""The year 36,000: latest time that a window may name, s since 1970."""
ROLLBACK_NS = 2 * 10**9
"""A wall clock that lags by more behind the monotonic one was set back, ns; less is the correction of a drift."""


@attrs.frozen(slots=True, order=True)
class Window:
    """An interval of universal time.

    Raises:
        ValueError: it is empty or out of range.
    """

    start_s: int
    """First second, s since 1970."""
    end_s: int
    """First second after it, s since 1970."""

    def __attrs_post_init__(self) -> None:
        if not 0 <= self.start_s < self.end_s <= TIME_S_MAX:
            raise ValueError(f"no time window: {self.start_s}..{self.end_s}")


_EVER = Window(0, TIME_S_MAX)


@attrs.frozen(slots=True)
class Schedule:
    """When something is open.

    Raises:
        ValueError: too many windows, or they do not rise or are not apart.
    """

    windows: tuple[Window, ...] | None
    """Rising; None = always. Without any it is never open."""

    def __attrs_post_init__(self) -> None:
        windows = self.windows or ()
        if len(windows) > WINDOWS_MAX:
            raise ValueError(f"{len(windows)} windows, at most {WINDOWS_MAX} fit")
        if any(after.start_s <= before.end_s for before, after in itertools.pairwise(windows)):
            raise ValueError("windows must rise and be apart; merge those that touch")

    @classmethod
    def merged(cls, windows: Iterable[Window]) -> Schedule:
        """Return the schedule that is open whenever one of these windows is, given in any order.

        Raises:
            ValueError: more than WINDOWS_MAX are left when those that touch are merged.
        """
        merged: list[Window] = []
        for window in sorted(windows):
            if merged and window.start_s <= merged[-1].end_s:
                merged[-1] = Window(merged[-1].start_s, max(window.end_s, merged[-1].end_s))
            else:
                merged.append(window)
        return cls(tuple(merged))

    def window_at(self, time_s: int) -> Window | None:
        """Return the window that is open at a time, or None. Cost: O(log n)."""
        if self.windows is None:
            return _EVER if 0 <= time_s < TIME_S_MAX else None
        at = bisect.bisect_right(self.windows, time_s, key=lambda window: window.start_s) - 1
        return self.windows[at] if at >= 0 and time_s < self.windows[at].end_s else None

    def next_start_s(self, time_s: int) -> int | None:
        """Return when it opens next, after a time; None if it does not, or is always open."""
        if self.windows is None:
            return None
        at = bisect.bisect_right(self.windows, time_s, key=lambda window: window.start_s)
        return self.windows[at].start_s if at < len(self.windows) else None

    def value(self) -> list[list[int]] | None:
        """Return it as a msgpack value; `schedule_of` is the way back."""
        return None if self.windows is None else [[window.start_s, window.end_s] for window in self.windows]


ALWAYS = Schedule(None)


def schedule_of(value: Any) -> Schedule:
    """Return the schedule that a parsed msgpack value is.

    Raises:
        DecodeError: it is none.
    """
    if value is None:
        return ALWAYS
    if not isinstance(value, list) or len(value) > WINDOWS_MAX:
        raise DecodeError("not a schedule")
    windows: list[Window] = []
    for item in value:
        match item:
            case [int(start_s), int(end_s)] if not isinstance(start_s, bool) and not isinstance(end_s, bool):
                pass
            case _:
                raise DecodeError("not a time window")
        try:
            windows.append(Window(start_s, end_s))
        except ValueError as error:
            raise DecodeError(f"malformed schedule: {error}") from None
    try:
        return Schedule(tuple(windows))
    except ValueError as error:
        raise DecodeError(f"malformed schedule: {error}") from None


class SteadyWall:
    """Wall time that cannot be turned back.

    Args:
        wall_ns: wall time now, ns since 1970.
        now: monotonic s.
    """

    __slots__ = ("_base_at", "_base_ns", "_told_ns", "rollbacks")

    def __init__(self, wall_ns: int, now: float) -> None:
        self._base_ns = self._told_ns = wall_ns
        self._base_at = now
        self.rollbacks = 0
        """How often a clock that had been set back was not believed."""

    def read(self, wall_ns: int, now: float) -> int:
        """Return the time to go by, ns since 1970.

        That is the wall clock's, or where that was set back what the monotonic clock makes of the latest time believed.
        """
        expected_ns = self._base_ns + round((now - self._base_at) * 1e9)
        if wall_ns < expected_ns - ROLLBACK_NS:
            self.rollbacks += 1
            wall_ns = expected_ns
        elif wall_ns >= expected_ns:  # one that lags a little is read, but not built upon: many small steps back are a large one
            self._base_ns, self._base_at = wall_ns, now
        self._told_ns = max(self._told_ns, wall_ns)
        return self._told_ns

    def believe(self, wall_ns: int, now: float) -> None:
        """Go by a witness whom the owner of the wall clock cannot move, the settlement's clock: the only way back, too."""
        self._base_ns = self._told_ns = wall_ns
        self._base_at = now
