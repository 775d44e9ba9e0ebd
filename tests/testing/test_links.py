"""Latencies between simulated nodes, and the noise on them."""

from __future__ import annotations

import random
from itertools import islice

import numpy as np
import pytest

from srwan.errors import ConfigError
from srwan.testing.faults import Faults
from srwan.testing.links import LOST, TWICE_S, LinkLatencies, Noise, synthetic_geography


def test_geography_is_plausible_asymmetric_and_the_seeds() -> None:
    latency_ms, locations = synthetic_geography(60, random.Random(3), Faults())
    again_ms, _ = synthetic_geography(60, random.Random(3), Faults())
    assert latency_ms.tobytes() == again_ms.tobytes()
    off = ~np.eye(60, dtype=bool)
    assert 0.05 < latency_ms[off].min()
    assert 20 < np.median(latency_ms[off]) < 150
    assert latency_ms[off].max() < 450
    assert 0.0 == np.abs(np.diagonal(latency_ms)).max()
    difference = np.abs(latency_ms - latency_ms.T)[off] / (latency_ms + latency_ms.T)[off]
    assert 0.03 < np.mean(difference > 0.1) < 0.15
    assert 60 == len(locations)


def test_noise_has_the_shares_that_were_asked_for() -> None:
    faults = Faults(loss=0.1, duplicate=0.05, jitter_ms=2.0, spike_share=0.0)
    draws = np.array(list(islice(Noise(random.Random(1), faults), 200_000)))
    assert 0.1 == pytest.approx(np.mean(draws == LOST), rel=0.05)
    assert 0.045 == pytest.approx(np.mean(draws >= TWICE_S), rel=0.05)
    assert 0.002 == pytest.approx(draws[(draws >= 0) & (draws < TWICE_S)].mean(), rel=0.05)


def test_stragglers_are_held_up_to_the_limit() -> None:
    faults = Faults(loss=0.0, jitter_ms=0.0, spike_share=0.0, reorder=0.2, reorder_ms=100.0)
    draws = np.array(list(islice(Noise(random.Random(1), faults), 50_000)))
    assert 0.2 == pytest.approx(np.mean(draws > 0), rel=0.05)
    assert 0.09 < draws.max() <= 0.1


def test_a_trace_has_slices_and_ends_with_its_last() -> None:
    slices = np.arange(18.0).reshape(2, 3, 3)
    trace = LinkLatencies(slices, slice_s=5.0)
    assert (3, 2) == (trace.nodes, trace.slices)
    assert slices[1].tolist() == trace.at(7).tolist()
    assert [[8.0, 6.0], [2.0, 0.0]] == trace.part((2, 0)).at(0).tolist()


@pytest.mark.parametrize(
    "wrong", [np.zeros((2, 3)), np.zeros((0, 2, 2)), np.full((2, 2), np.nan), np.full((2, 2), -1.0), np.full((2, 2), 1e6)]
)
def test_latencies_that_cannot_be_are_refused(wrong: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> None:
    with pytest.raises(ConfigError, match="latency_ms"):
        LinkLatencies(wrong)


def test_the_diagonal_of_a_trace_is_not_read() -> None:
    latency_ms = np.full((2, 2), 10.0)
    np.fill_diagonal(latency_ms, np.nan)
    assert 2 == LinkLatencies(latency_ms).nodes
