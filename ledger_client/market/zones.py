"""Local hours to universal time: when a seller's daily windows are, over the coming weeks. A shell: it reads the time zone tables.

Theory of operation. A window of a day is open while the local clock reads from its start to its end. Each is resolved date by date, so that
a change of the clocks moves, lengthens or shortens the one it falls into and no other. Where a reading comes twice (clocks set back), the
first one counts; where it does not come at all (clocks set forward), the moment of the change does.

Only sellers do this, and sign what comes out; see `schedule.py`.

Source: IANA time zone database through `zoneinfo` (PEP 615); PEP 495 for readings that come twice or never.
"""

from __future__ import annotations

import datetime as dt
import zoneinfo
from collections.abc import Iterable

from srwan.errors import ConfigError
from srwan.ledger_client.market.schedule import ALWAYS, Schedule, Window
from srwan.offer_config import DAY_MINUTES, LocalWindow

__all__ = ["resolve_windows"]

_DAY = dt.timedelta(days=1)


def resolve_windows(windows: Iterable[LocalWindow], zone_name: str, from_s: int, until_s: int) -> Schedule:
    """Return when these windows are open in an interval of universal time.

    Args:
        windows: in local hours; none at all means always.
        zone_name: IANA name.
        from_s: start of the interval, s since 1970.
        until_s: its end, s since 1970.

    Raises:
        ConfigError: there is no such zone here.
        ValueError: the interval holds more windows than a schedule.

    Cost: 10 us for each day and window.
    """
    rules = tuple(windows)
    if not rules:
        return ALWAYS
    try:
        zone = zoneinfo.ZoneInfo(zone_name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        remedy = "check the spelling; where the system has no time zone tables, `pip install tzdata`"
        raise ConfigError("offer.time_zone", f"there is no {zone_name!r}", remedy) from None
    day = dt.datetime.fromtimestamp(from_s, zone).date() - _DAY  # a window of the day before may reach into the first
    last = dt.datetime.fromtimestamp(until_s, zone).date()
    found: list[Window] = []
    while day <= last:
        for rule in rules:
            if day.weekday() in rule.days:
                end_day = day + _DAY if rule.end_minute <= rule.start_minute else day
                start_s = max(from_s, _instant_s(day, rule.start_minute, zone))
                end_s = min(until_s, _instant_s(end_day, rule.end_minute, zone))
                if start_s < end_s:
                    found.append(Window(start_s, end_s))
        day += _DAY
    return Schedule.merged(found)


def _instant_s(day: dt.date, minute: int, zone: zoneinfo.ZoneInfo) -> int:
    """Return when the local clock first reads a minute of a day, or passes over it, s since 1970."""
    if minute == DAY_MINUTES:
        day, minute = day + _DAY, 0
    reading = dt.datetime(day.year, day.month, day.day, minute // 60, minute % 60)  # noqa: DTZ001 - a reading, no instant
    first_s = round(reading.replace(tzinfo=zone).timestamp())
    if dt.datetime.fromtimestamp(first_s, zone).replace(tzinfo=None) == reading:
        return first_s
    before_s, after_s = round(reading.replace(tzinfo=zone, fold=1).timestamp()), first_s  # the change lies between the two
    while after_s - before_s > 1:
        middle_s = (before_s + after_s) // 2
        is_after = dt.datetime.fromtimestamp(middle_s, zone).replace(tzinfo=None) >= reading
        before_s, after_s = (before_s, middle_s) if is_after else (middle_s, after_s)
    return after_s
