"""Late paths: who is named, and who is not."""

from __future__ import annotations

import math
import random

import pytest

from srwan.gossip.residual import GOOD_FOR_S, PATHS_MAX, SPAN_S, SPANS_MAX, PathResiduals
from srwan.types import NodeId

NODES = [NodeId(bytes([index]) * 32) for index in range(1, 30)]
RELAY, OTHER, *FAR = NODES


def feed(
    paths: PathResiduals, far: NodeId, relays: tuple[NodeId, ...], late_ms: float, *, spans: int = SPANS_MAX, start: float = 0.0
) -> float:
    """Measure once a second for some spans. Return the time."""
    rng = random.Random(1)
    seconds = int(spans * SPAN_S)
    for second in range(seconds):
        paths.measured(far, relays, 1000.0, 1000.0 + late_ms + rng.expovariate(0.5), start + second)
    return start + seconds


def named(paths: PathResiduals, now: float) -> dict[NodeId, int]:
    return {late.relay: len(late.far_ends) for late in paths.late(now)}


def test_a_late_path_names_its_relay() -> None:
    paths = PathResiduals()
    now = feed(paths, FAR[0], (RELAY,), 80.0)
    late = paths.late(now)[0]
    assert (RELAY, (FAR[0],)) == (late.relay, late.far_ends)
    assert 80.0 == pytest.approx(late.by_ms, abs=3.0)


def test_neither_noise_nor_a_short_episode_names_anybody() -> None:
    paths = PathResiduals()
    feed(paths, FAR[0], (RELAY,), 0.0)
    feed(paths, FAR[1], (RELAY,), 80.0, spans=3)
    assert {} == named(paths, 30.0)


def test_spikes_in_half_of_the_samples_are_no_lateness() -> None:
    paths = PathResiduals()
    for second in range(40):
        paths.measured(FAR[0], (RELAY,), 0.0, 100.0 * (second % 2), float(second))
    assert {} == named(paths, 40.0)


def test_an_early_path_is_no_offence() -> None:
    paths = PathResiduals()
    assert {} == named(paths, feed(paths, FAR[0], (RELAY,), -80.0))


def test_what_the_direct_path_shows_too_is_not_the_relays_fault() -> None:
    paths = PathResiduals()
    feed(paths, FAR[0], (), 7.0)
    assert {} == named(paths, feed(paths, FAR[0], (RELAY,), 9.0))
    now = feed(paths, FAR[0], (RELAY,), 19.0, start=40.0)
    assert {RELAY: 1} == named(paths, now)


@pytest.mark.parametrize("bias_ms", [40.0, -40.0])
def test_a_far_end_whose_own_row_is_false_tells_nothing_of_relays(bias_ms: float) -> None:
    paths = PathResiduals()
    feed(paths, FAR[0], (), bias_ms)
    assert {} == named(paths, feed(paths, FAR[0], (RELAY,), 40.0))


def test_paths_to_a_known_liar_tell_nothing() -> None:
    paths = PathResiduals()
    now = feed(paths, FAR[0], (RELAY,), 40.0)
    assert [RELAY] == [late.relay for late in paths.late(now)]
    assert [] == paths.late(now, {FAR[0]})


def test_the_relay_that_recurs_is_named_and_its_companions_are_not() -> None:
    paths = PathResiduals()
    feed(paths, FAR[0], (RELAY, OTHER), 80.0)
    feed(paths, FAR[1], (RELAY,), 80.0)
    now = feed(paths, FAR[2], (FAR[9], RELAY), 80.0)
    assert {RELAY: 3} == named(paths, now)


def test_relays_that_always_go_together_are_named_together() -> None:
    paths = PathResiduals()
    feed(paths, FAR[0], (RELAY, OTHER), 80.0)
    feed(paths, FAR[1], (RELAY, OTHER), 80.0)
    assert {RELAY: 2, OTHER: 2} == named(paths, 30.0)


def test_a_far_end_that_is_late_over_several_relays_is_the_cause_itself() -> None:
    paths = PathResiduals()
    feed(paths, FAR[0], (RELAY,), 80.0)
    assert {RELAY: 1} == named(paths, 30.0)
    feed(paths, FAR[0], (OTHER,), 80.0)
    assert {} == named(paths, 30.0)


def test_a_minority_of_lying_far_ends_cannot_frame_a_relay() -> None:
    paths = PathResiduals()
    for far in FAR[:3]:
        feed(paths, far, (RELAY,), 80.0)
    assert {RELAY: 3} == named(paths, 30.0)
    for far in FAR[3:10]:
        feed(paths, far, (RELAY,), 0.0)
    assert {} == named(paths, 30.0)


def test_good_paths_of_long_ago_are_no_defence() -> None:
    paths = PathResiduals()
    for far in FAR[3:10]:
        feed(paths, far, (RELAY,), 0.0)
    now = feed(paths, FAR[0], (RELAY,), 80.0, start=GOOD_FOR_S + 60.0)
    assert {RELAY: 1} == named(paths, now)


@pytest.mark.parametrize("observed_ms", [math.nan, math.inf, -math.inf])
def test_unusable_figures_change_nothing(observed_ms: float) -> None:
    paths = PathResiduals()
    assert not paths.measured(FAR[0], (RELAY,), 0.0, observed_ms, 1.0)
    assert not paths.measured(FAR[0], (RELAY,) * 9, 0.0, 1.0, 1.0)
    assert 0 == len(paths)


def test_memory_is_bounded_and_the_oldest_path_goes_first() -> None:
    paths = PathResiduals()
    for index in range(PATHS_MAX + 5):
        paths.measured(NodeId(index.to_bytes(32, "big")), (RELAY,), 0.0, 0.0, float(index))
    assert PATHS_MAX == len(paths)
    paths.forget(RELAY)
    assert 0 == len(paths)
