from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from srwan.routing.payload import Ack
from srwan.routing.policy import PathPolicy
from srwan.routing.verdict import FLAP_S, STRIKES_FORGOTTEN_S, Evidence, Homecoming, Trouble
from srwan.routing.watch import PathWatch

THRESHOLD_MS = 10.0
STEP_S = 0.23
"""Longer than the longest keep-alive interval, so that each step sends one."""


class Pair:
    """Two watched paths that answer in lock step; evaluations half a step after the answers."""

    def __init__(self) -> None:
        policy = PathPolicy()
        self.now = 0.0
        self.used, self.rival = (PathWatch((), tag, policy, random.Random(tag), 0.0) for tag in (1, 2))
        self.evidence = Evidence()

    def step(self, used_ms: float | None, rival_ms: float | None = 50.0) -> bool:
        evaluated_at = self.now + STEP_S / 2
        self.now += STEP_S
        for watch, raw_ms in ((self.used, used_ms), (self.rival, rival_ms)):
            packet = watch.keepalive_to_send(self.now + 0.05)
            assert packet is not None
            if raw_ms is not None:
                watch.receive_ack(Ack(watch.path_tag, packet.seq, int(raw_ms * 1e6), 0, 0, None, 0), self.now + 0.06)
        return self.evidence.weigh(self.used, self.rival, THRESHOLD_MS, evaluated_at)

    def steps_until_enough(self, used_ms: Sequence[float | None], rival_ms: float = 50.0) -> int | None:
        for _ in range(10):
            self.step(50.0, 50.0)
        return next((number for number, raw_ms in enumerate(used_ms, 1) if self.step(raw_ms, rival_ms)), None)


@pytest.mark.parametrize(
    ("used_ms", "expected"),
    [
        ([200.0] * 20, 3),
        ([80.0] * 20, 3),
        ([70.5] * 20, 5),
        ([62.0] * 20, 8),
        ([60.5] * 20, 9),
        ([59.0] * 40, None),
        ([550.0] + [50.0] * 20, None),
        ([550.0, 550.0] + [50.0] * 20, None),
        ([550.0, 50.0, 50.0] * 7, None),
        ([90.0, 90.0, 50.0] * 7, 8),
        ([200.0, None, 200.0, 200.0], 4),
        ([200.0, None, None, None, 50.0, 50.0], None),
        ([None] * 20, None),
    ],
)
def test_evidence_is_enough_after(used_ms: list[float | None], expected: int | None) -> None:
    assert expected == Pair().steps_until_enough(used_ms)


def test_a_rival_that_suffers_the_same_gives_no_evidence() -> None:
    assert Pair().steps_until_enough([200.0] * 20, rival_ms=195.0) is None


def test_without_samples_there_is_no_evidence() -> None:
    pair = Pair()
    assert not pair.evidence.weigh(pair.used, pair.rival, THRESHOLD_MS, 0.0)
    assert not pair.evidence.is_for


def test_trouble_is_told_once_per_episode_and_ends_with_a_second_of_calm() -> None:
    pair, trouble, told = Pair(), Trouble(), []
    for number, raw_ms in enumerate([50.0] * 10 + [90.0] * 10 + [50.0] * 10 + [90.0] * 3):
        evaluated_at = pair.now + STEP_S / 2
        pair.step(raw_ms)
        news = trouble.look(pair.used, THRESHOLD_MS, evaluated_at, is_suspect=False)
        if news is not None:
            told.append((number, news[0]))
    assert [(11, "latency"), (31, "latency")] == told


def test_one_bad_sample_is_no_trouble() -> None:
    pair, trouble = Pair(), Trouble()
    for raw_ms in [50.0] * 10 + [500.0] + [50.0] * 5:
        evaluated_at = pair.now + STEP_S / 2
        pair.step(raw_ms)
        assert trouble.look(pair.used, THRESHOLD_MS, evaluated_at, is_suspect=False) is None
    assert not trouble.is_on


def evaluations_needed(homecoming: Homecoming) -> int:
    return next(number for number in range(1, 10_000) if homecoming.count(is_better=True))


def test_home_is_returned_to_after_ten_evaluations_in_a_row() -> None:
    homecoming = Homecoming()
    homecoming.leave(0.0, is_dead=False, is_for_loss=False)
    assert [False] * 9 == [homecoming.count(is_better=True) for _ in range(9)]
    assert not homecoming.count(is_better=False)
    assert 10 == evaluations_needed(homecoming)


def test_each_flap_and_each_death_doubles_the_wait_up_to_its_bound() -> None:
    homecoming, needed, now = Homecoming(), [], 0.0
    for _ in range(12):
        homecoming.leave(now, is_dead=False, is_for_loss=False)
        needed.append(evaluations_needed(homecoming))
        homecoming.come(now)
        now += FLAP_S - 1
    assert [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3000, 3000, 3000] == needed
    dead = Homecoming()
    dead.leave(0.0, is_dead=True, is_for_loss=False)
    assert 20 == evaluations_needed(dead)


def test_strikes_are_forgotten() -> None:
    homecoming = Homecoming()
    homecoming.leave(0.0, is_dead=True, is_for_loss=False)
    homecoming.come(10.0)
    homecoming.leave(STRIKES_FORGOTTEN_S + 1, is_dead=False, is_for_loss=False)
    assert 10 == evaluations_needed(homecoming)


def test_home_that_was_left_for_its_loss_is_judged_by_all_loss_that_is_seen() -> None:
    pair = Pair()
    for _ in range(30):
        pair.step(50.0)
    for lost in (None, None, None):
        pair.step(52.0, lost)
    for _ in range(12):
        pair.step(52.0)
    homecoming = Homecoming()
    homecoming.leave(0.0, is_dead=False, is_for_loss=False)
    assert pytest.approx(-2.0) == homecoming.gain_ms(pair.used, pair.rival)
    homecoming.leave(0.0, is_dead=False, is_for_loss=True)
    assert homecoming.gain_ms(pair.used, pair.rival) > 20.0
