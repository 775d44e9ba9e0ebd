"""Increments of counters that start over or vanish are never counted twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from srwan.ledger_client.accounting.meter import Meter
from srwan.types import NodeId

KEY = (NodeId(bytes(32)), 5)


def test_the_first_reading_counts_in_full_and_later_ones_by_difference() -> None:
    meter = Meter()
    assert [(3, 300), (1, 50), (0, 0)] == [meter.advance(KEY, count) for count in ((3, 300), (4, 350), (4, 350))]


def test_a_counter_that_begins_again_counts_what_it_shows() -> None:
    meter = Meter()
    meter.advance(KEY, (10, 1000))
    assert (2, 90) == meter.advance(KEY, (2, 90))


def test_one_that_vanished_begins_at_zero() -> None:
    meter = Meter()
    meter.advance(KEY, (10, 1000))
    meter.keep({})
    assert 0 == len(meter)
    assert (11, 1100) == meter.advance(KEY, (11, 1100))


@given(steps=st.lists(st.one_of(st.tuples(st.integers(0, 9), st.integers(0, 999)), st.just("restart"), st.just("read")), max_size=80))
def test_never_more_is_counted_than_came(steps: list[tuple[int, int] | str]) -> None:
    meter = Meter()
    shown = truth = counted = (0, 0)
    for step in steps:
        if step == "restart":
            shown = (0, 0)
        elif step == "read":
            packets, octets = meter.advance(KEY, shown)
            counted = (counted[0] + packets, counted[1] + octets)
        elif isinstance(step, tuple):
            shown, truth = ((shown[0] + step[0], shown[1] + step[1]), (truth[0] + step[0], truth[1] + step[1]))
    assert counted[1] <= truth[1]
