"""Clocks and true one-way latencies: exact where nothing blurs them, bounded where something does, silent where nothing is known."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srwan.gossip.clock_fit import ClockFit, ClockMinima, clock_offsets_ms, fit_clocks, recovered_ms

Floats: TypeAlias = npt.NDArray[np.float64]


def raw_matrix(owl_ms: Floats, offsets_ms: Floats) -> Floats:
    raw: Floats = owl_ms + offsets_ms[np.newaxis, :] - offsets_ms[:, np.newaxis]
    np.fill_diagonal(raw, np.nan)
    return raw


def symmetric(rng: np.random.Generator, n: int) -> Floats:
    half: Floats = rng.uniform(5, 150, (n, n))
    return (half + half.T) / 2


def tilted(rng: np.random.Generator, n: int) -> Floats:
    """A tenth of the pairs strongly asymmetric, the others a little."""
    is_strong = rng.random((n, n)) < 0.11
    tilt = np.triu(np.where(is_strong, rng.uniform(-0.45, 0.45, (n, n)), rng.normal(0, 0.025, (n, n))), 1)
    owl: Floats = symmetric(rng, n) * (1 + tilt - tilt.T)
    return owl


def windows(owl_ms: Floats, offset_ms: Floats, rate_ms_per_s: Floats, queue_ms: Floats | None = None) -> ClockMinima:
    """Ten windows a minute apart, each edge measured at its middle."""
    times = 30.0 + 60.0 * np.arange(10.0, dtype=np.float64)
    raw = np.stack([raw_matrix(owl_ms, offset_ms + rate_ms_per_s * time) for time in times])
    return ClockMinima.of(raw if queue_ms is None else raw + queue_ms, times)


def is_same_without_nan(fit: ClockFit) -> bool:
    return bool(np.isnan(fit.owl_ms[np.isnan(fit.owl_err_ms)]).all())


def test_without_noise_offsets_drifts_and_latencies_are_exact() -> None:
    rng = np.random.default_rng(1)
    owl, offset, rate = symmetric(rng, 12), rng.uniform(-5_000, 5_000, 12), rng.uniform(-0.05, 0.05, 12)
    fit = fit_clocks(windows(owl, offset, rate))
    np.fill_diagonal(owl, np.nan)
    at_end = offset + rate * 570.0
    assert (570.0, 540.0) == (fit.as_of_s, fit.span_s)
    np.testing.assert_allclose(fit.owl_ms, owl, atol=1e-5)
    np.testing.assert_allclose(fit.offset_ms, at_end - at_end.mean(), atol=1e-5)
    np.testing.assert_allclose(fit.drift_ppm, 1e3 * (rate - rate.mean()), atol=1e-4)
    assert () == fit.excluded
    assert float(np.nanmax(fit.owl_err_ms)) < 0.05


def test_a_constant_added_to_all_clocks_changes_nothing() -> None:
    rng = np.random.default_rng(2)
    owl, offset, rate = tilted(rng, 10), rng.uniform(-50, 50, 10), rng.uniform(-0.05, 0.05, 10)
    first, second = fit_clocks(windows(owl, offset, rate)), fit_clocks(windows(owl, offset + 1_000.0, rate + 0.02))
    np.testing.assert_allclose(first.offset_ms, second.offset_ms, atol=1e-5)
    np.testing.assert_allclose(first.drift_ppm, second.drift_ppm, atol=1e-4)
    assert abs(float(first.offset_ms.mean())) < 1e-9


def test_strong_asymmetry_of_a_tenth_of_the_pairs_costs_a_fraction_of_a_millisecond() -> None:
    rng = np.random.default_rng(3)
    owl, offset = tilted(rng, 60), rng.uniform(-5_000, 5_000, 60)
    errors = np.abs(recovered_ms(raw_matrix(owl, offset)) - owl)
    assert float(np.nanmedian(errors)) < 0.4
    assert float(np.nanquantile(errors, 0.95)) < 1.2


def test_bounds_hold_for_about_95_percent_in_a_small_model() -> None:
    inside: dict[str, list[bool]] = {"offset": [], "drift": [], "owl": []}
    for seed in range(12):
        rng = np.random.default_rng(100 + seed)
        n = 25
        owl, offset, rate = tilted(rng, n), rng.uniform(-5_000, 5_000, n), rng.uniform(-0.05, 0.05, n)
        fit = fit_clocks(windows(owl, offset, rate, rng.exponential(0.25, (10, n, n))))
        at_end = offset + rate * 570.0
        inside["offset"] += list(np.abs(fit.offset_ms - (at_end - at_end.mean())) <= fit.offset_err_ms)
        inside["drift"] += list(np.abs(fit.drift_ppm - 1e3 * (rate - rate.mean())) <= fit.drift_err_ppm)
        is_edge = ~np.eye(n, dtype=np.bool_)
        inside["owl"] += list((np.abs(fit.owl_ms - owl) <= fit.owl_err_ms)[is_edge])
        assert 0.0 < float(np.nanmedian(fit.owl_err_ms)) < 6.0
    shares = {name: float(np.mean(hits)) for name, hits in inside.items()}
    assert {name for name, share in shares.items() if not 0.90 <= share <= 0.999} == set(), shares


@pytest.mark.parametrize("has_bound", [False, True])
def test_liars_are_named_and_cost_the_others_little(*, has_bound: bool) -> None:
    rng = np.random.default_rng(4)
    n, liars = 60, (3, 10, 11, 12, 20, 21, 30, 31, 32, 40, 41, 42, 50, 51, 52, 53, 57, 58)
    owl, offset, rate = tilted(rng, n), rng.uniform(-5_000, 5_000, n), rng.uniform(-0.05, 0.05, n)
    minima = windows(owl, offset, rate, rng.exponential(0.25, (10, n, n)))
    for liar in liars:
        minima.raw_ms[:, :, liar] += rng.uniform(-50, 50, n)
    bound = np.minimum(owl, owl.T) / 2 if has_bound else None
    fit = fit_clocks(minima, bound)
    assert liars == fit.excluded
    honest = np.setdiff1d(np.arange(n), liars)
    errors = np.abs(fit.owl_ms - owl)[np.ix_(honest, honest)]
    assert float(np.nanmedian(errors)) < 0.6
    assert np.isinf(fit.owl_err_ms[3, 4])
    assert np.isfinite(fit.offset_ms).all()


def test_a_member_that_lies_about_its_place_is_named_and_keeps_its_clock() -> None:
    rng = np.random.default_rng(5)
    n, liar = 30, 7
    owl, offset = tilted(rng, n), rng.uniform(-100, 100, n)
    bound = np.minimum(owl, owl.T) * 0.6
    bound[liar, :] = bound[:, liar] = np.where(rng.random(n) < 0.5, 200.0, 1.0)
    fit = fit_clocks(windows(owl, offset, np.zeros(n)), bound)
    honest = fit_clocks(windows(owl, offset, np.zeros(n)), np.where(bound == 200.0, np.nan, bound))
    assert ((liar,), ()) == (fit.misplaced, fit.excluded)
    others = np.delete(np.arange(n), liar)
    pairs = np.ix_(others, others)
    assert float(np.nanmedian(np.abs(fit.owl_ms - owl)[pairs])) < 1.1 * float(np.nanmedian(np.abs(honest.owl_ms - owl)[pairs])) + 0.05
    assert abs(fit.offset_ms[liar] - (offset[liar] - offset.mean())) < 3.0


def test_a_path_that_gets_longer_or_a_spike_does_not_bend_the_drift() -> None:
    rng = np.random.default_rng(6)
    n = 20
    owl, offset, rate = symmetric(rng, n), rng.uniform(-100, 100, n), rng.uniform(-0.05, 0.05, n)
    minima = windows(owl, offset, rate)
    minima.raw_ms[4:, 2, 5] += 40.0
    minima.raw_ms[9, 3, :] += 100.0
    fit = fit_clocks(minima)
    np.testing.assert_allclose(fit.drift_ppm, 1e3 * (rate - rate.mean()), atol=0.01)
    np.testing.assert_allclose(fit.owl_ms[2, 5], owl[2, 5], atol=0.01)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 5, 8])
@pytest.mark.parametrize("count", [0, 1, 2, 10])
def test_few_nodes_few_windows_or_nothing_known_never_raise(n: int, count: int) -> None:
    rng = np.random.default_rng(7)
    times = np.arange(count).astype(np.float64) * 60
    for raw in (np.full((count, n, n), np.nan), rng.uniform(5, 50, (count, n, n))):
        for bound in (None, np.full((n, n), np.nan), np.full((n, n), 1e9)):
            fit = fit_clocks(ClockMinima.of(raw, times), bound)
            assert ((n,), (n, n)) == (fit.offset_ms.shape, fit.owl_err_ms.shape)


def test_two_nodes_share_the_difference_and_have_half_the_round_trip() -> None:
    fit = fit_clocks(ClockMinima.of(np.array([[np.nan, 110.0], [-50.0, np.nan]])))
    np.testing.assert_allclose(fit.offset_ms, [-40.0, 40.0])
    np.testing.assert_allclose(fit.owl_ms[[0, 1], [1, 0]], [30.0, 30.0])


def test_an_island_that_nobody_reaches_is_unknown_and_the_rest_is_not() -> None:
    rng = np.random.default_rng(8)
    raw = raw_matrix(symmetric(rng, 9), rng.uniform(-100, 100, 9))
    raw[:6, 6:] = raw[6:, :6] = np.nan
    offsets = clock_offsets_ms(raw)
    assert [False] * 6 + [True] * 3 == list(np.isnan(offsets))
    assert abs(float(np.nanmean(offsets))) < 1e-9
    recovered = recovered_ms(raw)
    assert np.isnan(recovered[6:, 6:]).all()


def test_symmetric_latencies_are_recovered_exactly_although_a_pair_is_missing() -> None:
    rng = np.random.default_rng(9)
    owl, offsets = symmetric(rng, 12), rng.uniform(-5_000, 5_000, 12)
    raw = raw_matrix(owl, offsets)
    raw[0, 3] = np.nan
    recovered = recovered_ms(raw)
    is_known = np.isfinite(raw)
    np.testing.assert_allclose(recovered[is_known], owl[is_known], atol=1e-6)
    np.testing.assert_array_equal(np.isfinite(recovered), is_known)


def test_nothing_known_gives_nothing() -> None:
    assert np.isnan(clock_offsets_ms(np.full((3, 3), np.nan))).all()
    assert np.isnan(recovered_ms(np.full((1, 1), np.nan))).all()


def test_shapes_that_do_not_fit_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"raw_ms has shape \(2, 3\)"):
        ClockMinima.of(np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"at_s has shape \(3,\)"):
        ClockMinima.of(np.zeros((2, 4, 4)), np.zeros(3))
    with pytest.raises(ValueError, match=r"bound_ms has shape \(3, 3\)"):
        fit_clocks(ClockMinima.of(np.zeros((4, 4))), np.zeros((3, 3)))


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 9))
@settings(max_examples=60)
def test_absurd_numbers_never_raise_and_bounds_stand_where_values_do(seed: int, n: int) -> None:
    absurd = [np.nan, np.inf, -np.inf, 0.0, 1e-300, -5.0, 10.0, 11.0, 3e6, -3e6, 1e300]
    raw = np.random.default_rng(seed).choice(absurd, (3, n, n))
    fit = fit_clocks(ClockMinima.of(raw), np.abs(raw[0]))
    assert is_same_without_nan(fit)
    is_known = np.isfinite(fit.owl_ms)
    assert not np.isnan(fit.owl_err_ms[is_known]).any()
    assert (fit.owl_err_ms[is_known] >= 0).all()


def test_same_numbers_give_the_same_bits() -> None:
    rng = np.random.default_rng(10)
    minima = windows(tilted(rng, 15), rng.uniform(-9, 9, 15), rng.uniform(-0.05, 0.05, 15))
    assert fit_clocks(minima).owl_ms.tobytes() == fit_clocks(minima).owl_ms.tobytes()
