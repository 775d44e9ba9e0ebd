"""A step of my clock is found, measured and told once; changes of the network, drift and noise are not steps."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pytest

from srwan.gossip.clock_step import StepDetector, detect_step
from srwan.types import NodeId

Floats: TypeAlias = npt.NDArray[np.floating]
MEMBERS = [NodeId(index.to_bytes(32, "big")) for index in range(30)]


def steps(
    clock_ms: Floats, *, inbound_ms: Floats | None = None, outbound_ms: Floats | None = None, n: int = 30, seed: int = 1
) -> list[float]:
    """Play rounds of 10 s; what others measured of me is a round late. Arrays have one entry a round: clock and network changes."""
    rng = np.random.default_rng(seed)
    detector, found = StepDetector(), []
    owl = rng.uniform(5, 150, n)
    for k, clock in enumerate(clock_ms):
        late = max(k - 1, 0)
        spikes = (rng.random((2, n)) < 0.02) * rng.exponential(40, (2, n))
        queue = rng.exponential(1.5, (2, n)) + spikes
        inbound = owl + clock + queue[0] + (inbound_ms[k] if inbound_ms is not None else 0.0)
        outbound = owl - clock_ms[late] + queue[1] + (outbound_ms[late] if outbound_ms is not None else 0.0)
        lost = rng.random((2, n)) < 0.05
        told = detector.add(MEMBERS[:n], np.where(lost[0], np.nan, inbound), np.where(lost[1], np.nan, outbound), 10.0 * k)
        found += [told] if told else []
    return found


@pytest.mark.parametrize("step_ms", [-5_000.0, -4.0, 4.0, 60.0])
@pytest.mark.parametrize("drift_ms", [-0.6, 0.0, 0.6])
def test_a_step_is_found_once_with_its_size_although_the_clock_drifts(step_ms: float, drift_ms: float) -> None:
    rounds = np.arange(40.0)
    found = steps(drift_ms * rounds + step_ms * (rounds >= 20))
    assert 1 == len(found)
    assert abs(found[0] - step_ms) < 1.2


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_a_longer_access_path_is_no_step(seed: int, *, both: bool) -> None:
    change = 30.0 * (np.arange(40) >= 20)
    assert [] == steps(np.zeros(40), inbound_ms=change, outbound_ms=change if both else None, seed=seed)
    assert [] == steps(np.zeros(40), outbound_ms=change, seed=seed)


@pytest.mark.parametrize("seed", range(5))
def test_drift_queues_and_spikes_are_no_step(seed: int) -> None:
    assert [] == steps(np.arange(200) * 0.5, seed=seed)


def test_two_peers_are_one_word_against_another() -> None:
    assert [] == steps(50.0 * (np.arange(40) >= 20), n=2)


def test_half_the_difference_is_the_clock_and_half_the_sum_the_network() -> None:
    ones = np.ones(10)
    assert 5.0 == detect_step(5 * ones, -5 * ones)
    assert 0.0 == detect_step(5 * ones, 5 * ones)
    assert 0.0 == detect_step(5 * ones, 0 * ones)
    assert 0.0 == detect_step(1.9 * ones, -1.9 * ones)
    assert 0.0 == detect_step(np.full(10, np.nan), -5 * ones)
    assert 0.0 == detect_step(np.zeros(0), np.zeros(0))


def test_a_change_of_members_starts_again_and_wrong_shapes_are_refused() -> None:
    detector = StepDetector()
    for k in range(4):
        assert 0.0 == detector.add(MEMBERS[:5], np.zeros(5), np.zeros(5), 10.0 * k)
    assert 0.0 == detector.add(MEMBERS[:6], np.full(6, 50.0), np.full(6, -50.0), 40.0)
    with pytest.raises(ValueError, match="6 members"):
        detector.add(MEMBERS[:6], np.zeros(5), np.zeros(6), 50.0)
