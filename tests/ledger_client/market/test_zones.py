"""Local hours become universal time: over midnight, over a change of the clocks, and everywhere."""

from __future__ import annotations

import datetime as dt
import zoneinfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srwan.errors import ConfigError
from srwan.ledger_client.market.schedule import ALWAYS
from srwan.ledger_client.market.zones import resolve_windows
from srwan.offer_config import LocalWindow, parse_local_window


def utc_s(*parts: int) -> int:
    return round(dt.datetime(*parts, tzinfo=dt.UTC).timestamp())  # type: ignore[arg-type,misc]


def resolved(zone: str, start: tuple[int, ...], end: tuple[int, ...], *windows: str) -> list[tuple[str, str]]:
    schedule = resolve_windows(map(parse_local_window, windows), zone, utc_s(*start), utc_s(*end))
    assert schedule.windows is not None
    stamps = [(window.start_s, window.end_s) for window in schedule.windows]
    return [tuple(f"{dt.datetime.fromtimestamp(moment, dt.UTC):%m-%d %H:%M}" for moment in each) for each in stamps]  # type: ignore[misc]


def test_no_windows_is_always() -> None:
    assert ALWAYS == resolve_windows((), "UTC", 0, 1)


def test_a_window_over_midnight_ends_on_the_next_day() -> None:
    found = resolved("America/Chicago", (2026, 6, 2, 5), (2026, 6, 4, 5), "18:00-06:00")  # two local days, CDT is UTC-5
    assert [("06-02 05:00", "06-02 11:00"), ("06-02 23:00", "06-03 11:00"), ("06-03 23:00", "06-04 05:00")] == found


def test_nights_and_weekends_are_one_window_from_friday_to_monday() -> None:
    found = resolved("America/Chicago", (2026, 6, 5, 12), (2026, 6, 9, 12), "mon-fri 18:00-08:00", "sat-sun 00:00-24:00", "mon 00:00-08:00")
    assert [("06-05 12:00", "06-05 13:00"), ("06-05 23:00", "06-08 13:00"), ("06-08 23:00", "06-09 12:00")] == found


def test_a_change_of_the_clocks_moves_what_comes_after_it() -> None:
    found = resolved("America/New_York", (2026, 3, 7), (2026, 3, 10), "08:00-09:00")
    assert [("03-07 13:00", "03-07 14:00"), ("03-08 12:00", "03-08 13:00"), ("03-09 12:00", "03-09 13:00")] == found


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        ("sun 01:30-02:30", ("03-08 06:30", "03-08 07:00")),  # its end is never read: it ends at the change
        ("sun 02:30-05:00", ("03-08 07:00", "03-08 09:00")),  # its start is never read: it begins at the change
        ("sat 22:00-04:00", ("03-08 03:00", "03-08 08:00")),  # an hour shorter
    ],
)
def test_clocks_set_forward(window: str, expected: tuple[str, str]) -> None:
    assert [expected] == resolved("America/New_York", (2026, 3, 7, 12), (2026, 3, 9), window)


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        ("sun 01:15-01:45", ("11-01 05:15", "11-01 05:45")),  # it comes twice: the first time counts
        ("sun 00:30-01:30", ("11-01 04:30", "11-01 05:30")),
        ("sun 01:30-02:30", ("11-01 05:30", "11-01 07:30")),  # an hour longer
    ],
)
def test_clocks_set_back(window: str, expected: tuple[str, str]) -> None:
    assert [expected] == resolved("America/New_York", (2026, 10, 31, 12), (2026, 11, 2, 12), window)


@settings(max_examples=30)
@given(
    zone=st.sampled_from(["UTC", "Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Apia", "Europe/Vilnius", "America/St_Johns"]),
    start=st.integers(0, 1439),
    end=st.integers(1, 1440),
    days=st.frozensets(st.integers(0, 6), min_size=1),
    from_s=st.integers(utc_s(2011, 1, 1), utc_s(2027, 1, 1)),
    probe=st.integers(0, 5 * 86_400 - 1),
)
def test_away_from_changes_it_is_open_just_when_the_local_clock_says_so(
    zone: str, start: int, end: int, days: frozenset[int], from_s: int, probe: int
) -> None:
    schedule = resolve_windows([LocalWindow(days, start, end)], zone, from_s, from_s + 5 * 86_400)
    at = dt.datetime.fromtimestamp(from_s + probe, zoneinfo.ZoneInfo(zone))
    offsets = {dt.datetime.fromtimestamp(from_s + probe + hours * 3600, zoneinfo.ZoneInfo(zone)).utcoffset() for hours in range(-30, 31)}
    if len(offsets) > 1:
        return
    minute, today, yesterday = at.hour * 60 + at.minute, at.weekday() in days, (at.weekday() - 1) % 7 in days
    expected = today and start <= minute < end if start < end else (today and minute >= start) or (yesterday and minute < end)
    assert expected == (schedule.window_at(from_s + probe) is not None)


def test_an_unknown_zone_is_named_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match=r"offer\.time_zone: there is no 'Mars/Olympus'; check the spelling"):
        resolve_windows([parse_local_window("08:00-09:00")], "Mars/Olympus", 0, 86_400)
