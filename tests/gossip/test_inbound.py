"""One inbound edge: what is told, jitter, loss, echoes owed."""

from __future__ import annotations

import math
import random

import pytest

from srwan.gossip.inbound import Arrivals, Inbound

ADDRESS = ("127.0.0.1", 1)
FRESH_S = 25.0


def told(inbound: Inbound, raw_ms: float, now: float) -> float:
    """Take in a sample; return what is told then."""
    inbound.add_sample(raw_ms, now)
    return inbound.told_ms(now, FRESH_S)


def test_one_or_two_samples_are_told_as_they_are_and_three_by_their_median() -> None:
    inbound = Inbound(ADDRESS)
    assert [10.0, 90.0, 11.0, 11.0] == [told(inbound, raw, at) for at, raw in enumerate((10.0, 90.0, 11.0, 10.5))]


def test_old_samples_do_not_enter_the_median() -> None:
    inbound = Inbound(ADDRESS)
    inbound.add_sample(10.0, 0.0)
    inbound.add_sample(11.0, 1.0)
    assert 50.0 == told(inbound, 50.0, 26.0)


def test_a_moved_clock_shifts_or_voids_the_samples() -> None:
    inbound = Inbound(ADDRESS)
    for at, raw in enumerate((10.0, 12.0)):
        inbound.add_sample(raw, at)
    inbound.shift(100.0)
    assert 111.0 == told(inbound, 111.0, 2.0)
    inbound.forget()
    assert math.isnan(inbound.told_ms(2.0, FRESH_S))
    assert 5.0 == told(inbound, 5.0, 3.0)


def test_jitter_is_the_mean_deviation_and_hardly_sees_drift() -> None:
    rng = random.Random(3)
    noisy, drifting = Inbound(ADDRESS), Inbound(ADDRESS)
    for step in range(500):
        noisy.add_sample(rng.gauss(50, 5), step * 10)
        drifting.add_sample(step * 0.5, step * 10)
    assert 5 * 0.8 == pytest.approx(noisy.jitter_ms, rel=0.4)
    assert drifting.jitter_ms < 0.4


def test_loss_is_the_share_of_missing_rounds() -> None:
    rng = random.Random(3)
    arrivals = Arrivals(0)
    for seq in range(1, 5000):
        if rng.random() >= 0.2:
            arrivals.add(seq)
    assert 0.2 == pytest.approx(arrivals.loss, abs=0.12)


def test_rounds_out_of_order_are_not_lost() -> None:
    arrivals = Arrivals(0)
    for seq in (2, 1, 3, 5, 6, 4, 7, 8, 9, 10, 11):
        arrivals.add(seq)
    assert 0.0 == arrivals.loss


def test_a_round_that_comes_after_three_later_ones_is_lost() -> None:
    arrivals = Arrivals(0)
    for seq in (1, 2, 3, 5, 6, 7, 4, 8):
        arrivals.add(seq)
    assert 0 < arrivals.loss < 0.06


def test_an_absurd_jump_costs_no_more_than_a_hundred_steps() -> None:
    arrivals = Arrivals(0)
    arrivals.add(2**32 - 1)
    assert 0.5 < arrivals.loss <= 1.0


def test_echoes_are_rationed() -> None:
    inbound = Inbound(ADDRESS)
    assert 8 == sum(inbound.take_echo_token(100.0) for _ in range(20))
    assert 2 == sum(inbound.take_echo_token(101.0) for _ in range(20))
