"""Clock offsets out of the raw matrix: exact where pairs are symmetric, near where they are not, NaN where nothing is known."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from srwan.gossip.clock_fit import clock_offsets_ms, recovered_ms

Floats: TypeAlias = npt.NDArray[np.float64]


def raw_matrix(owl_ms: Floats, offsets_ms: Floats) -> Floats:
    raw: Floats = owl_ms + offsets_ms[np.newaxis, :] - offsets_ms[:, np.newaxis]
    np.fill_diagonal(raw, np.nan)
    return raw


def symmetric(rng: np.random.Generator, n: int) -> Floats:
    half: Floats = rng.uniform(5, 150, (n, n))
    return (half + half.T) / 2


def test_symmetric_latencies_are_recovered_exactly_although_a_pair_is_missing() -> None:
    rng = np.random.default_rng(1)
    owl, offsets = symmetric(rng, 12), rng.uniform(-5_000, 5_000, 12)
    raw = raw_matrix(owl, offsets)
    raw[0, 3] = np.nan
    recovered = recovered_ms(raw)
    is_known = np.isfinite(raw)
    np.testing.assert_allclose(recovered[is_known], owl[is_known], atol=1e-6)
    np.testing.assert_array_equal(np.isfinite(recovered), is_known)


def test_strong_asymmetry_of_a_tenth_of_the_pairs_costs_a_few_milliseconds() -> None:
    rng = np.random.default_rng(2)
    owl, offsets = symmetric(rng, 60), rng.uniform(-5_000, 5_000, 60)
    tilt = np.triu(np.where(rng.random((60, 60)) < 0.11, rng.uniform(-0.45, 0.45, (60, 60)), 0.0), 1)
    owl = owl * (1 + tilt - tilt.T)
    errors = np.abs(recovered_ms(raw_matrix(owl, offsets)) - owl)
    assert float(np.nanmedian(errors)) < 2.0
    assert float(np.nanmax(errors)) < 10.0


def test_offsets_have_mean_zero_and_unknown_nodes_have_none() -> None:
    rng = np.random.default_rng(3)
    raw = raw_matrix(symmetric(rng, 5), rng.uniform(-100, 100, 5))
    raw[4, :] = raw[:, 4] = np.nan
    offsets = clock_offsets_ms(raw)
    assert abs(float(np.nanmean(offsets))) < 1e-9
    assert [False, False, False, False, True] == list(np.isnan(offsets))


def test_nothing_known_gives_nothing() -> None:
    assert np.isnan(clock_offsets_ms(np.full((3, 3), np.nan))).all()
    assert np.isnan(recovered_ms(np.full((1, 1), np.nan))).all()
