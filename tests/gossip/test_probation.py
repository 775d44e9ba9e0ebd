"""When a member that was buried alive may come back."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from srwan.gossip.probation import Probation
from srwan.types import NodeId

NODES = [NodeId(bytes([index]) * 32) for index in range(1, 41)]


def ready_after(reach: Callable[[NodeId, float], bool], until: float, nodes: list[NodeId] = NODES) -> float | None:
    """When a node whose probes are answered as `reach` says may rejoin; None if not until then."""
    probation = Probation(nodes, 0.0, rng=random.Random(1))
    now: float | None = 0.0
    while not probation.is_ready:
        now = probation.get_timer()
        assert now is not None
        if now > until:
            return None
        probation.handle_timer(now)
        for node in probation.probes_due():
            if reach(node, now):
                probation.echo_received(node, now + 0.05)
    return now


def test_a_minute_of_answers_is_enough_and_less_is_not() -> None:
    assert 59.0 == ready_after(lambda _node, _now: True, 200.0)


def test_without_former_members_it_is_ready_at_once() -> None:
    probation = Probation([], 0.0, rng=random.Random(1))
    assert (True, None) == (probation.is_ready, probation.get_timer())


@pytest.mark.parametrize(("answered", "is_back"), [(0.9, True), (0.64, True), (0.2, False), (0.04, False)])
def test_who_loses_a_fifth_both_ways_comes_back_and_who_loses_four_fifths_does_not(answered: float, is_back: bool) -> None:
    rng = random.Random(2)
    assert is_back == (ready_after(lambda _node, _now: rng.random() < answered, 600.0) is not None)


def test_who_flaps_every_twenty_seconds_does_not_come_back() -> None:
    assert ready_after(lambda _node, now: int(now / 20) % 2 == 0, 1200.0) is None


def test_a_third_of_dead_former_members_does_not_keep_it_out() -> None:
    assert ready_after(lambda node, _now: node not in NODES[:13], 600.0) is not None


def test_who_reaches_a_quarter_only_does_not_come_back() -> None:
    assert ready_after(lambda node, _now: node in NODES[:10], 1200.0) is None


def test_each_sample_is_tried_three_times_and_an_answer_ends_it() -> None:
    probation = Probation(NODES[:1], 0.0, rng=random.Random(1))
    tries = []
    while (now := probation.get_timer()) is not None and now < 1.95:
        if now >= 1.25:
            probation.echo_received(NODES[0], now)
        probation.handle_timer(now)
        tries += [now] * len(probation.probes_due())
    assert [0.0, 0.3, 0.6, 1.0] == [pytest.approx(at) for at in tries]


def test_answers_nobody_asked_for_do_not_count() -> None:
    probation = Probation(NODES[:1], 0.0, rng=random.Random(1))
    for step in range(200):
        probation.echo_received(NODES[step % 40], 0.0)
    assert not probation.is_ready
    probation.handle_timer(0.0)
    for _ in range(200):
        probation.echo_received(NODES[0], 0.1)
    assert not probation.is_ready


def test_sleep_counts_as_silence() -> None:
    probation = Probation(NODES, 0.0, rng=random.Random(1))
    probation.handle_timer(0.0)
    probation.handle_timer(50.0)
    probation.handle_timer(5000.0)
    assert not probation.is_ready
