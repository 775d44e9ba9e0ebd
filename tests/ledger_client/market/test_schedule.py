"""Time windows in universal time, and a clock that is not turned back."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srwan.errors import RemoteProtocolError
from srwan.ledger_client.market.schedule import ALWAYS, TIME_S_MAX, WINDOWS_MAX, Schedule, SteadyWall, Window, schedule_of
from srwan.wire import pack, unpack

NS = 10**9
windows = st.builds(lambda start_s, length_s: Window(start_s, start_s + length_s), st.integers(0, 10_000), st.integers(1, 2_000))


def test_a_window_is_open_from_its_first_second_to_the_one_before_its_last() -> None:
    schedule = Schedule((Window(100, 200), Window(300, 400)))
    found = [schedule.window_at(time_s) is not None for time_s in (99, 100, 199, 200, 250, 300, 399, 400)]
    assert [False, True, True, False, False, True, True, False] == found


def test_no_windows_is_never_and_none_is_always() -> None:
    assert (None, False) == (Schedule(()).window_at(5), ALWAYS.window_at(5) is None)
    assert (None, 300, None) == (ALWAYS.next_start_s(5), Schedule((Window(300, 400),)).next_start_s(5), Schedule(()).next_start_s(5))


@given(st.lists(windows, max_size=20), st.integers(0, 13_000))
def test_merging_opens_whenever_one_of_them_is_open(given_windows: list[Window], time_s: int) -> None:
    expected = any(window.start_s <= time_s < window.end_s for window in given_windows)
    assert expected == (Schedule.merged(given_windows).window_at(time_s) is not None)


@pytest.mark.parametrize(("start_s", "end_s"), [(5, 5), (6, 5), (-1, 5), (0, TIME_S_MAX + 1)])
def test_an_impossible_window_is_refused(start_s: int, end_s: int) -> None:
    with pytest.raises(ValueError, match="no time window"):
        Window(start_s, end_s)


def test_windows_that_touch_or_are_too_many_are_refused() -> None:
    with pytest.raises(ValueError, match="be apart"):
        Schedule((Window(1, 2), Window(2, 3)))
    with pytest.raises(ValueError, match="128 fit"):
        Schedule(tuple(Window(3 * at, 3 * at + 1) for at in range(WINDOWS_MAX + 1)))


@given(st.one_of(st.none(), st.lists(windows, max_size=20)))
def test_a_schedule_comes_back_from_its_value(given_windows: list[Window] | None) -> None:
    schedule = ALWAYS if given_windows is None else Schedule.merged(given_windows)
    assert schedule == schedule_of(unpack(pack(schedule.value()), bytes_max=4000))


@given(st.recursive(st.one_of(st.none(), st.booleans(), st.integers(), st.binary(), st.text()), lambda inner: st.lists(inner, max_size=4)))
def test_other_values_are_refused_as_the_peers_fault(value: Any) -> None:
    with contextlib.suppress(RemoteProtocolError):
        assert value is None or isinstance(schedule_of(value), Schedule)


# -- the clock


def test_a_clock_that_runs_is_believed() -> None:
    wall = SteadyWall(1000 * NS, 0.0)
    assert [1001 * NS, 1005 * NS] == [wall.read(1001 * NS, 1.0), wall.read(1005 * NS, 5.0)]


def test_a_clock_that_is_set_back_stays_at_the_pace_of_the_monotonic_one() -> None:
    wall = SteadyWall(1000 * NS, 0.0)
    assert [1010 * NS, 1020 * NS, 2000 * NS] == [wall.read(400 * NS, 10.0), wall.read(410 * NS, 20.0), wall.read(2000 * NS, 30.0)]
    assert 2 == wall.rollbacks


def test_many_small_steps_back_do_not_stop_time() -> None:
    wall = SteadyWall(1000 * NS, 0.0)
    told = [wall.read(1000 * NS, float(second)) for second in range(1, 60)]
    assert told == sorted(told)
    assert 1059 * NS - 2 * NS <= told[-1]


@given(st.lists(st.tuples(st.integers(0, 10**13), st.floats(0, 100)), max_size=30))
def test_time_never_goes_back_nor_slower_than_the_monotonic_clock(steps: list[tuple[int, float]]) -> None:
    now, told_ns = 0.0, 1000 * NS
    wall = SteadyWall(told_ns, now)
    for wall_ns, passed_s in steps:
        now += passed_s
        read_ns = wall.read(wall_ns, now)
        assert read_ns >= max(told_ns, 1000 * NS + round(now * NS) - 2 * NS - 1000)
        told_ns = read_ns


def test_the_settlements_clock_may_take_it_back() -> None:
    wall = SteadyWall(1000 * NS, 0.0)
    wall.read(9_000_000 * NS, 1.0)  # the wall clock jumped ahead
    wall.believe(1001 * NS, 1.0)
    assert 1003 * NS == wall.read(1003 * NS, 3.0)
