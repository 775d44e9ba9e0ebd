"""A skewed clock: off and drifting, the same for sent stamps, kernel stamps and wall time."""

from __future__ import annotations

import time

from srwan.clock import Clock
from srwan.swarm.clocks import SkewedClock


def test_stamps_and_wall_time_are_off_by_the_offset() -> None:
    clock = SkewedClock(5_000_000_000, 0.0)
    assert abs(clock.stamp_ns() - time.time_ns() - 5_000_000_000) < 50_000_000
    assert abs(clock.wall_ns() - time.time_ns() - 5_000_000_000) < 50_000_000


def test_kernel_stamps_agree_with_own_stamps() -> None:
    clock = SkewedClock(-3_000_000_000, 50.0)
    clock.refresh()
    assert abs(clock.stamp_from_realtime_ns(time.time_ns()) - clock.stamp_ns()) < 20_000_000


def test_it_drifts_against_a_true_clock() -> None:
    true, fast = Clock(), SkewedClock(0, 100_000.0)
    start_true, start_fast = true.stamp_ns(), fast.stamp_ns()
    while true.stamp_ns() - start_true < 20_000_000:
        pass
    elapsed_true, elapsed_fast = true.stamp_ns() - start_true, fast.stamp_ns() - start_fast
    assert 1.05 < elapsed_fast / elapsed_true < 1.2
