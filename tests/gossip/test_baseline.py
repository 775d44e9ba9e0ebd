"""What is normal of one edge: levels on a drifting line, spreads, jitter, loss."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srwan.gossip.baseline import (
    BLOCK_SAMPLES,
    BLOCKS_MAX,
    LOSS_ENTER,
    LOSS_LEAVE,
    RISE_MS_UNKNOWN,
    SLOPE_DOUBT_TOLD,
    SLOPE_MS_PER_S_MAX,
    Baseline,
    JitterTest,
    LossTest,
    median_of,
)


def baseline_of(values: list[float], *, every_s: float = 10.0) -> Baseline:
    baseline = Baseline()
    for number, value in enumerate(values):
        baseline.learn(value, every_s * number)
    return baseline


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40))
def test_as_many_values_are_below_the_median_as_above(values: list[float]) -> None:
    median = median_of(values)
    assert min(values) <= median <= max(values)
    assert sum(value < median for value in values) <= len(values) / 2
    assert sum(value > median for value in values) <= len(values) / 2


def test_a_baseline_is_ready_after_one_block() -> None:
    assert not baseline_of([5.0] * (BLOCK_SAMPLES - 1)).is_ready
    baseline = baseline_of([5.0] * BLOCK_SAMPLES)
    assert (True, 5.0, 0.0) == (baseline.is_ready, baseline.level_ms, baseline.slope)


@pytest.mark.parametrize("ppm", [-100.0, 0.0, 7.0, 100.0])
def test_the_line_follows_two_clocks_through_spikes(ppm: float) -> None:
    rng = random.Random(2)
    raw_ms = [80 + ppm / 1000 * 10 * number + rng.gauss(0, 1) + 200 * (rng.random() < 0.03) for number in range(600)]
    baseline = baseline_of(raw_ms)
    assert pytest.approx(ppm / 1000, abs=0.0003) == baseline.slope
    assert pytest.approx(80 + ppm / 1000 * 6000, abs=0.8) == baseline.level_at(6000.0)
    assert pytest.approx(1.0, rel=0.4) == baseline.spread_ms


def test_a_found_slope_is_doubted_less_the_longer_it_held() -> None:
    rng = random.Random(2)
    raw_ms = [rng.gauss(0, 1) for _ in range(600)]
    early, late = (baseline_of(raw_ms[: count * BLOCK_SAMPLES]) for count in (2, 20))
    assert early.doubt > 5 * late.doubt > 0


def test_a_told_slope_is_taken_and_hardly_doubted() -> None:
    baseline = baseline_of([7.0] * 3 * BLOCK_SAMPLES)
    baseline.drift = 0.05
    baseline.fit()
    assert (0.05, SLOPE_DOUBT_TOLD) == (baseline.slope, baseline.doubt)


def test_slopes_beyond_what_clocks_do_are_not_believed() -> None:
    assert SLOPE_MS_PER_S_MAX == baseline_of([50.0 * number for number in range(BLOCK_SAMPLES)]).slope


def test_no_more_than_an_hour_is_kept() -> None:
    baseline = baseline_of([0.0] * 700 + [5.0] * BLOCK_SAMPLES * BLOCKS_MAX)
    assert 5.0 == pytest.approx(baseline.level_at(10.0 * (700 + BLOCK_SAMPLES * BLOCKS_MAX)))
    assert BLOCKS_MAX == len(baseline._medians) == len(baseline._times)


def test_a_burst_does_not_fill_a_block() -> None:
    assert not baseline_of([5.0] * 40, every_s=0.2).is_ready


def test_a_lower_block_starts_the_baseline_again() -> None:
    baseline = baseline_of([50.0] * 5 * BLOCK_SAMPLES + [50.0 - 1.1 * RISE_MS_UNKNOWN] * BLOCK_SAMPLES)
    assert 50.0 - 1.1 * RISE_MS_UNKNOWN == pytest.approx(baseline.level_ms)
    assert 1 == len(baseline._medians)


def test_limits_are_not_below_what_the_edge_varies_by() -> None:
    rng = random.Random(4)
    baseline = baseline_of([rng.gauss(0, 10) for _ in range(360)])
    assert pytest.approx(50.0, rel=0.3) == baseline.enter_ms
    assert baseline.enter_ms / 2 == baseline.leave_ms


def test_one_spike_is_no_jitter_however_large() -> None:
    rng = random.Random(1)
    test = JitterTest()
    assert not any(test.add(rng.gauss(0, 1), 0.0) for _ in range(200))
    assert not any(test.add(value, 0.0) for value in (900.0, -900.0))


def test_jitter_that_stays_becomes_usual() -> None:
    rng = random.Random(1)
    test = JitterTest()
    changes = [number for number in range(2000) if test.add(rng.gauss(0, 1 if number < 500 else 8), 10.0 * number)]
    rose, became_usual = changes
    assert 500 < rose < 550
    assert pytest.approx(720, abs=2) == became_usual - rose


def test_losses_are_worth_their_odds_and_so_are_arrivals() -> None:
    test = LossTest(0.01, 0.1)
    assert [False, False, False, True] == [test.add(1, 1, 1.0) for _ in range(4)]  # 10^4 to 1
    assert test.is_high
    arrivals = next(number for number in range(1, 1000) if test.add(0, 1, 2.0))
    assert 49 == arrivals  # (0.99 / 0.9)^49 is just above 100
    assert LOSS_ENTER == 2 * LOSS_LEAVE


def test_the_shares_between_normal_and_bad_that_do_not_rise_are_below_four_percent() -> None:
    def rises(one_in: int) -> bool:
        test = LossTest(0.01, 0.1)
        return any(test.add(number % one_in == 0, 1, 0.0) for number in range(5000))

    assert (False, True) == (rises(26), rises(20))
