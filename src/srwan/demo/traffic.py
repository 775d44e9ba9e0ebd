"""What became of the application's datagrams: lost, duplicated, reordered, delays and gaps, from both ends' logs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from statistics import median

import attrs

__all__ = ["Arrival", "TrafficReport", "gap_around", "median_delay_ms", "report_traffic"]

Arrival = tuple[int, float, float]
"""Number of a datagram, monotonic time of sending, of arrival (seconds, same machine)."""

IN_FLIGHT_S_MAX = 1.5
"""Datagrams sent less than this before the log was read may still be under way and count neither as sent nor as lost."""


@attrs.frozen(slots=True)
class TrafficReport:
    """Counts over one stream."""

    sent: int
    """Datagrams sent long enough ago to have arrived."""
    received: int
    """Different datagrams that arrived."""
    lost: int
    """Datagrams of those that never arrived."""
    duplicated: int
    """Arrivals of a datagram that had arrived already."""
    reordered: int
    """Arrivals with a number below the highest seen before (RFC 4737)."""


def report_traffic(sent_times: Sequence[float], arrivals: Sequence[Arrival], *, read_at: float) -> TrafficReport:
    """Compare what was sent with what arrived.

    Args:
        sent_times: monotonic time of sending of datagram 0, 1, 2, ...
        arrivals: as logged by the receiver, in order of arrival.
        read_at: monotonic time at which the log was read.
    """
    settled = sum(1 for at in sent_times if at <= read_at - IN_FLIGHT_S_MAX)
    seen: set[int] = set()
    duplicated = reordered = 0
    highest = -1
    for number, _, _ in arrivals:
        if number in seen:
            duplicated += 1
            continue
        seen.add(number)
        reordered += number < highest
        highest = max(highest, number)
    received = sum(1 for number in seen if number < settled)
    return TrafficReport(settled, received, settled - received, duplicated, reordered)


def median_delay_ms(arrivals: Sequence[Arrival], *, start: float, end: float) -> float | None:
    """Return the median true delay of datagrams sent in [start, end), ms; None if none arrived."""
    delays = [(arrived - sent) * 1e3 for _, sent, arrived in arrivals if start <= sent < end]
    return round(median(delays), 1) if delays else None


def gap_around(arrivals: Sequence[Arrival], *, start: float, end: float) -> float | None:
    """Return the longest time without an arrival within [start, end], seconds; None without arrivals before and after start."""
    times = sorted(arrived for _, _, arrived in arrivals)
    inside = [at for at in times if start - 1.0 <= at <= end]
    if not inside or inside[0] > start or inside[-1] <= start:
        return None
    return round(max(later - earlier for earlier, later in itertools.pairwise(inside) if later > start), 3)
