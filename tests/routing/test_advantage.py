"""Which relay is worth it: the rule against a slow reference, and what noise, holding, absence and hysteresis do to it."""

from __future__ import annotations

from typing import TypeAlias

import attrs
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srwan.routing.advantage import DIRECT, AdvantageRule, choose_relays, weigh

Floats: TypeAlias = npt.NDArray[np.float32]
RULE = AdvantageRule()


def steady(direct_ms: float, leg_ms: float, *, slices: int = 12, noise_ms: float = 0.5, n: int = 3) -> Floats:
    """All legs alike but for 0 -> 1, which may go over 2; seeded noise on each value."""
    rng = np.random.default_rng(3)
    samples = np.full((slices, n, n), leg_ms) + rng.normal(0, noise_ms, (slices, n, n))
    samples[:, 0, 1] += direct_ms - leg_ms
    samples[:, range(n), range(n)] = 0
    return samples.astype(np.float32)


def slow_choice(samples: Floats, rule: AdvantageRule, relay_ms: float) -> npt.NDArray[np.intp]:
    """The rule again, one pair and relay at a time, from the samples of the gain itself; every sample its own block, nothing in use."""
    count, n = len(samples), samples.shape[1]
    weights = 0.5 ** ((count - np.arange(count) - 0.5) / rule.half_life)
    weights /= weights.sum()
    blocks = 1 / np.square(weights).sum()
    noise = weigh(samples, rule).noise_ms

    def reliable(values: npt.NDArray[np.floating], legs: int) -> float:
        mean = weights @ values
        freedom = blocks - 1 + rule.prior_samples
        variance = (weights @ np.square(values - mean) * blocks + legs * noise**2 * rule.prior_samples) / freedom
        student = rule.confidence * (1 + (rule.confidence**2 + 1) / (4 * freedom))
        return float(min(mean - student * np.sqrt(variance / blocks), values[-1]))

    chosen = np.full((n, n), DIRECT, dtype=np.intp)
    for i, j in ((i, j) for i in range(n) for j in range(n) if i != j):
        paths = {k: samples[:, i, k].astype(float) + samples[:, k, j] + relay_ms for k in range(n) if k not in (i, j)}
        relay = min(paths, key=lambda k: -reliable(-paths[k], 2))
        if reliable(samples[:, i, j] - paths[relay], 3) > rule.enter * noise:
            chosen[i, j] = relay
    return chosen


def test_a_lasting_advantage_is_taken_and_nothing_else() -> None:
    expected = np.full((3, 3), DIRECT)
    expected[0, 1] = 2

    assert expected.tolist() == choose_relays(steady(100, 30), RULE).tolist()


def test_direct_is_kept_where_the_advantage_is_within_the_noise() -> None:
    assert (choose_relays(steady(61, 30, noise_ms=10), RULE) == DIRECT).all()


def test_the_cost_of_the_relay_counts() -> None:
    assert 2 == choose_relays(steady(100, 30), RULE, relay_ms=30)[0, 1]
    assert DIRECT == choose_relays(steady(100, 30), RULE, relay_ms=45)[0, 1]


@pytest.mark.parametrize("relay_ms", [0.0, 7.0])
def test_the_rule_is_the_one_that_is_written_down(relay_ms: float) -> None:
    rng = np.random.default_rng(5)
    typical = rng.uniform(10, 200, (9, 9))
    samples = (typical * rng.gamma(20, 1 / 20, (11, 9, 9))).astype(np.float32)
    samples[:, range(9), range(9)] = 0

    chosen = choose_relays(samples, RULE, relay_ms=relay_ms)

    assert 10 < (chosen != DIRECT).sum() < 60
    assert slow_choice(samples, RULE, relay_ms).tolist() == chosen.tolist()


def test_noise_that_the_legs_share_does_not_hide_an_advantage() -> None:
    """The sender is slow at times, and so are all paths from it: the difference is steady."""
    samples = steady(100, 40)
    shared = np.random.default_rng(4).exponential(200, (len(samples), 1)).astype(np.float32)
    samples[:, 0, 1:] += shared
    alone = steady(100, 40)
    alone[:, 0, 1] += shared[:, 0] - shared.mean()
    strict = attrs.evolve(RULE, confidence=3.0, enter=0.01)

    assert 2 == choose_relays(samples, strict)[0, 1]
    assert DIRECT == choose_relays(alone, strict)[0, 1]


def test_an_advantage_that_the_newest_sample_denies_is_not_taken() -> None:
    samples = steady(100, 30)
    samples[-1, 0, 1] = 40

    assert DIRECT == choose_relays(samples, RULE)[0, 1]


def test_held_values_are_one_sample() -> None:
    fresh = steady(100, 30, slices=30)
    held = np.repeat(fresh, 4, axis=0)

    assert 29.0 < weigh(fresh, attrs.evolve(RULE, half_life=1e9)).blocks <= 30.01
    assert weigh(held, attrs.evolve(RULE, half_life=1e9)).blocks == pytest.approx(30, rel=0.1)


def test_what_happened_before_the_window_is_forgotten() -> None:
    recent = steady(100, 30, slices=RULE.window)
    before = np.full((50, 3, 3), 1.0, dtype=np.float32)

    assert weigh(recent, RULE).mean_ms.tolist() == weigh(np.concatenate((before, recent)), RULE).mean_ms.tolist()


def test_a_path_in_use_is_kept_within_the_margin_and_left_when_it_turns_bad() -> None:
    samples = steady(100, 30)
    noise_ms = weigh(samples, RULE).noise_ms
    current = choose_relays(samples, RULE)
    slightly = samples.copy()
    slightly[-1, 0, 1] = slightly[-1, 0, 2] + slightly[-1, 2, 1] + 0.5 * RULE.enter * noise_ms
    bad = samples.copy()
    bad[-1, 0, 1] = 40

    assert DIRECT == choose_relays(slightly, RULE)[0, 1]
    assert 2 == choose_relays(slightly, RULE, current=current)[0, 1]
    assert DIRECT == choose_relays(bad, RULE, current=current)[0, 1]


def test_another_relay_must_lead_by_the_margin() -> None:
    rule = attrs.evolve(RULE, lead=20.0)
    current = np.full((4, 4), DIRECT, dtype=np.intp)
    current[0, 1] = 2
    slightly, clearly = steady(100, 30, n=4), steady(100, 30, n=4)
    slightly[:, 3, 1] -= 5
    clearly[:, 3, 1] -= 20

    assert 3 == choose_relays(slightly, rule)[0, 1]
    assert 2 == choose_relays(slightly, rule, current=current)[0, 1]
    assert 3 == choose_relays(clearly, rule, current=current)[0, 1]


def test_missing_legs_are_never_used_and_missing_samples_take_the_last_value() -> None:
    samples = steady(100, 30, n=4)
    samples[:, 0, 2] = np.nan
    samples[3:5, 0, 3] = np.nan
    samples[0, 3, 1] = np.nan

    chosen = choose_relays(samples, RULE)

    assert 3 == chosen[0, 1]
    assert DIRECT == chosen[0, 2]


@pytest.mark.parametrize("n", [1, 2])
def test_groups_without_a_third_member_go_direct(n: int) -> None:
    samples = np.full((3, n, n), 10.0, dtype=np.float32)

    assert (choose_relays(samples, RULE) == DIRECT).all()


def test_one_sample_is_trusted_to_a_share_of_the_typical_latency() -> None:
    clear, marginal = steady(100, 30, slices=1), steady(60.6, 30, slices=1, noise_ms=0)

    assert 2 == choose_relays(clear, RULE)[0, 1]
    assert DIRECT == choose_relays(marginal, RULE)[0, 1]


def test_a_group_that_was_never_measured_goes_direct() -> None:
    assert (choose_relays(np.full((3, 4, 4), np.nan, dtype=np.float32), RULE) == DIRECT).all()


@given(st.integers(0, 2**31), st.integers(1, 9), st.integers(3, 6), st.sampled_from([0.25, 2.0, 64.0]))
def test_the_unit_of_latency_does_not_matter(seed: int, slices: int, n: int, factor: float) -> None:
    samples = np.random.default_rng(seed).uniform(1, 300, (slices, n, n)).astype(np.float32)
    chosen = choose_relays(samples, RULE)

    assert chosen.tolist() == choose_relays(samples * np.float32(factor), RULE).tolist()
    ends = np.indices((n, n))
    assert not ((chosen == ends[0]) | (chosen == ends[1])).any()
    assert (np.diag(chosen) == DIRECT).all()
