"""The clock over a pair of machine clocks that the test moves."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from srwan.clock import STEP_NS_MIN, Clock

WALL_0_NS = 1_800_000_000_000_000_000


class Machine:
    """Two clocks. Every reading takes `reading_ns`; the readings in `stalls` (counted from 0) take that much longer."""

    def __init__(self, reading_ns: int = 50) -> None:
        self.monotonic_ns = 5_000_000_000
        self.wall_offset_ns = WALL_0_NS - self.monotonic_ns
        self.reading_ns = reading_ns
        self.readings = 0
        self.stalls: dict[int, int] = {}

    def _pass(self) -> None:
        self.monotonic_ns += self.reading_ns + self.stalls.get(self.readings, 0)
        self.readings += 1

    def read_monotonic_ns(self) -> int:
        self._pass()
        return self.monotonic_ns

    def read_realtime_ns(self) -> int:
        self._pass()
        return self.monotonic_ns + self.wall_offset_ns

    def clock(self) -> Clock:
        return Clock(self.read_monotonic_ns, self.read_realtime_ns)


def test_stamps_start_at_wall_time_and_run_with_the_monotonic_clock() -> None:
    machine = Machine()
    clock = machine.clock()
    first = clock.stamp_ns()
    assert abs(first - (machine.monotonic_ns + machine.wall_offset_ns)) <= 100
    machine.monotonic_ns += 10**9
    assert first + 10**9 + machine.reading_ns == clock.stamp_ns()


def test_step_of_the_wall_clock_never_shows_in_stamps_or_timers() -> None:
    machine = Machine()
    clock = machine.clock()
    stamp, now = clock.stamp_ns(), clock.now()
    machine.wall_offset_ns -= 3600 * 10**9
    assert clock.refresh()
    assert 0 < clock.stamp_ns() - stamp < 2000
    assert 0 < clock.now() - now < 2e-6
    assert WALL_0_NS - 3600 * 10**9 < clock.wall_ns() < WALL_0_NS - 3599 * 10**9


@given(st.integers(-(10**18), 10**18))
def test_kernel_stamps_are_right_again_after_any_step_and_refresh(step_ns: int) -> None:
    machine = Machine()
    clock = machine.clock()
    machine.wall_offset_ns += step_ns
    is_step = abs(step_ns) > STEP_NS_MIN + 1000
    if is_step or abs(step_ns) < STEP_NS_MIN - 1000:
        assert is_step == clock.has_stepped()
        assert is_step == clock.refresh()
        assert is_step == clock.steps
    else:
        clock.refresh()
    assert not clock.has_stepped()
    received_ns = machine.monotonic_ns + machine.wall_offset_ns
    assert abs(clock.stamp_from_realtime_ns(received_ns) - clock.stamp_ns()) <= 300


def test_refreshing_adds_no_jitter_to_kernel_stamps() -> None:
    machine = Machine()
    clock = machine.clock()
    before = clock.stamp_from_realtime_ns(WALL_0_NS)
    for stall_ns in range(100):
        machine.stalls = {machine.readings + i: stall_ns * 7 for i in (1, 4, 7)}
        assert not clock.refresh()
    assert before == clock.stamp_from_realtime_ns(WALL_0_NS)


def test_thread_that_loses_the_processor_raises_a_false_alarm_that_refresh_withdraws() -> None:
    machine = Machine()
    clock = machine.clock()
    machine.stalls = {machine.readings + 1: 5_000_000}
    assert clock.has_stepped()
    machine.stalls = {machine.readings + 1: 5_000_000}
    assert not clock.refresh()
    assert 0 == clock.steps


def test_first_reading_disturbed_by_a_stall_is_replaced_by_a_better_one() -> None:
    machine = Machine()
    machine.stalls = {1: 900_000, 4: 900_000, 7: 900_000}
    clock = machine.clock()
    assert not clock.refresh()
    received_ns = machine.monotonic_ns + machine.wall_offset_ns
    anchor_error_ns = 450_000
    assert abs(clock.stamp_from_realtime_ns(received_ns) - clock.stamp_ns()) <= 300
    assert abs(clock.stamp_ns() - received_ns) <= anchor_error_ns + 1000


def test_later_runs_have_greater_boot_ids() -> None:
    machine = Machine()
    first = machine.clock().boot_id
    machine.monotonic_ns += 200_000_000
    assert first + 2 == machine.clock().boot_id
    assert WALL_0_NS // 100_000_000 % 2**32 == first


def test_real_clock_agrees_with_the_machine() -> None:
    clock = Clock()
    assert abs(clock.stamp_ns() - time.time_ns()) < 10**9
    assert abs(clock.now() - time.monotonic()) < 1.0
    assert abs(clock.stamp_from_realtime_ns(time.time_ns()) - clock.stamp_ns()) < 10**8
    assert clock.stamp_ns() <= clock.stamp_ns()
