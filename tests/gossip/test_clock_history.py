"""The history keeps each window's least sample with its time, forgets what it must, and stays small."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pytest

from srwan.gossip.clock_fit import fit_clocks
from srwan.gossip.clock_history import SPAN_S_MAX, WINDOWS_MAX, ClockHistory
from srwan.types import NodeId

Floats: TypeAlias = npt.NDArray[np.float64]
PERIOD_S = 10.0


def node(number: int) -> NodeId:
    return NodeId(number.to_bytes(32, "big"))


def history_of(n: int) -> ClockHistory:
    history = ClockHistory(node(0))
    history.set_members([node(index) for index in range(n)])
    return history


def played(n: int, rounds: int, *, rate_ms_per_s: Floats, owl_ms: Floats, queue_ms: float = 0.0, by_row: bool = False) -> ClockHistory:
    """Member 0 pulses at 0, 10, ...; the others at phases of their own. Rows hold each sender's last pulse before them."""
    rng = np.random.default_rng(5)
    history = history_of(n)
    phase = np.linspace(0, 9, n)
    told, age = np.full((n, n), np.nan), np.zeros((n, n))
    measured = np.full((n, n), np.nan)
    for k in range(rounds):
        for who in range(n):
            now = phase[who] + k * PERIOD_S
            if who == 0 and k > 0 and not by_row:
                age[:] = now - (phase + (k - 1) * PERIOD_S)[None, :]
                age[:, 0] = now - (phase + (k - 1) * PERIOD_S)
                told[:, 0] = measured[:, 0]
                history.add(told, age, now)
            told[:, who] = measured[:, who]
            if by_row:
                history.add_row(node(who), told[:, who].copy(), now)
            queue = rng.exponential(queue_ms, n) if queue_ms else 0.0
            measured[who] = owl_ms[who] + (rate_ms_per_s - rate_ms_per_s[who]) * now + queue
            measured[who, who] = np.nan
    return history


@pytest.mark.parametrize("by_row", [False, True])
@pytest.mark.parametrize("rounds", [7, 20, 60, 100])
def test_phases_ages_and_merged_windows_do_not_blur_a_noise_free_recovery(rounds: int, *, by_row: bool) -> None:
    rng = np.random.default_rng(1)
    n = 8
    owl = rng.uniform(5, 80, (n, n))
    owl = (owl + owl.T) / 2
    rate = rng.uniform(-0.05, 0.05, n)
    history = played(n, rounds, rate_ms_per_s=rate, owl_ms=owl, by_row=by_row)
    fit = fit_clocks(history.minima(rounds * PERIOD_S))
    np.fill_diagonal(owl, np.nan)
    np.testing.assert_allclose(fit.owl_ms, owl, atol=0.02)
    np.testing.assert_allclose(fit.drift_ppm, 1e3 * (rate - rate.mean()), atol=0.5)
    assert fit.span_s <= SPAN_S_MAX + 2 * PERIOD_S


def test_queues_are_filtered_although_clocks_drift() -> None:
    rng = np.random.default_rng(2)
    n = 12
    owl = rng.uniform(5, 80, (n, n))
    owl = (owl + owl.T) / 2
    rate = rng.uniform(-0.05, 0.05, n)
    fit = fit_clocks(played(n, 62, rate_ms_per_s=rate, owl_ms=owl, queue_ms=1.5).minima(620.0))
    np.fill_diagonal(owl, np.nan)
    errors = np.abs(fit.owl_ms - owl)
    assert float(np.nanmedian(errors)) < 0.1
    assert float(np.nanmean(errors <= fit.owl_err_ms)) > 0.8


def test_the_least_of_a_window_stands_with_its_time() -> None:
    history = history_of(2)
    for now, value in ((0.0, 9.0), (5.0, 4.0), (10.0, 7.0)):
        history.add_row(node(0), np.full(2, np.nan), now)
        history.add_row(node(1), np.array([value, np.nan]), now + 1)
    minima = history.minima(11.0)
    assert (1, 2, 2) == minima.raw_ms.shape
    assert (4.0, 5.0) == (minima.raw_ms[0, 0, 1], minima.at_s[0, 0, 1])
    assert np.isnan(minima.raw_ms[0, 1, 0])


def test_a_value_told_again_is_not_a_new_sample() -> None:
    history = history_of(2)
    for now in (0.0, 100.0):
        history.add_row(node(0), np.full(2, np.nan), now)
        history.add_row(node(1), np.array([4.0, np.nan]), now)
    minima = history.minima(100.0)
    assert [4.0] == minima.raw_ms[np.isfinite(minima.raw_ms)].tolist()
    assert np.isnan(minima.raw_ms[-1]).all()


def test_memory_and_span_are_bounded_however_long_it_runs() -> None:
    n = 100
    history = history_of(n)
    rng = np.random.default_rng(3)
    for minute in range(40):
        history.add(rng.uniform(0, 9, (n, n)), None, 60.0 * minute)
    minima = history.minima(60.0 * 39)
    assert len(minima.raw_ms) <= WINDOWS_MAX
    known = minima.at_s[np.isfinite(minima.raw_ms)]
    assert 60.0 * 39 - known.min() <= SPAN_S_MAX
    assert history.nbytes <= WINDOWS_MAX * n * n * 6 + n * n * 16


def test_silence_leaves_nothing() -> None:
    history = history_of(3)
    history.add(np.full((3, 3), 5.0), None, 0.0)
    assert 0 == len(history.minima(SPAN_S_MAX + 1).raw_ms)
    fit = fit_clocks(history.minima(SPAN_S_MAX + 1))
    assert np.isnan(fit.offset_ms).all()


def test_edges_among_those_who_stay_survive_a_change_of_members() -> None:
    history = history_of(4)
    raw = np.arange(16.0).reshape(4, 4) + 1
    history.add(raw, None, 0.0)
    history.set_members([node(1), node(3), node(9)])
    assert (node(0), node(1), node(3), node(9)) == history.members
    kept = history.minima(1.0).raw_ms[0]
    np.testing.assert_allclose(kept[np.ix_([0, 1, 2], [0, 1, 2])], raw[np.ix_([0, 1, 3], [0, 1, 3])])
    assert np.isnan(kept[3]).all()
    assert np.isnan(kept[:, 3]).all()


def test_a_moved_clock_forgets_its_node_only() -> None:
    history = history_of(3)
    history.add(np.full((3, 3), 5.0), None, 0.0)
    history.forget(node(1))
    history.forget(node(77))
    kept = history.minima(1.0).raw_ms[0]
    assert [[False, True, False], [True, True, True], [False, True, False]] == np.isnan(kept).tolist()


def test_a_sample_of_unknown_time_is_not_used() -> None:
    history = history_of(3)
    history.add_row(node(1), np.array([5.0, np.nan, 6.0]), 0.0)
    history.add_row(node(2), np.array([5.0, 6.0, np.nan]), 1.0)
    kept = history.minima(1.0).raw_ms
    assert [6.0] == kept[np.isfinite(kept)].tolist()


def test_absurd_values_and_strangers_are_passed_over() -> None:
    history = history_of(2)
    history.add_row(node(1), np.array([1e9, np.inf]), 0.0)
    history.add_row(node(50), np.array([1.0, 1.0]), 0.0)
    history.add(np.array([[np.nan, -1e300], [np.inf, np.nan]]), np.array([[-1.0, np.nan], [np.inf, 0.0]]), 1.0)
    assert np.isnan(history.minima(1.0).raw_ms).all()


def test_clocks_an_hour_apart_keep_their_microseconds() -> None:
    history = history_of(2)
    for index in range(3):
        history.add_row(node(0), np.full(2, np.nan), 10.0 * index)
        history.add_row(node(1), np.array([3_000_000.125 - 0.001 * index, np.nan]), 10.0 * index)
    assert abs(float(np.nanmin(history.minima(20.0).raw_ms)) - 3_000_000.123) < 1e-4


def test_shapes_that_do_not_fit_are_refused_by_name() -> None:
    history = history_of(3)
    with pytest.raises(ValueError, match=r"3 members, the matrix has shape \(2, 2\)"):
        history.add(np.zeros((2, 2)), None, 0.0)
    with pytest.raises(ValueError, match=r"3 members, the row has shape \(2,\)"):
        history.add_row(node(1), np.zeros(2), 0.0)
