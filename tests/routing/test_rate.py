from __future__ import annotations

from srwan.routing.rate import MaxFilter


def test_the_greatest_value_of_the_last_ten_seconds_counts() -> None:
    rate = MaxFilter()
    assert rate.value == 0.0
    rate.add(500.0, 100.2)
    rate.add(900.0, 101.0)
    rate.add(300.0, 109.9)
    assert rate.value == 900.0
    rate.add(200.0, 111.0)
    assert rate.value == 300.0


def test_after_a_long_pause_nothing_old_is_left() -> None:
    rate = MaxFilter()
    rate.add(900.0, 5.0)
    rate.add(1.0, 10_000.0)
    assert rate.value == 1.0


def test_a_clock_that_goes_back_counts_as_now() -> None:
    rate = MaxFilter()
    rate.add(1.0, 50.0)
    rate.add(7.0, 20.0)
    assert rate.value == 7.0
    rate.add(2.0, 61.0)
    assert rate.value == 2.0
