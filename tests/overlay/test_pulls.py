"""When a newcomer that strangers greet asks further; nobody else hurries for that."""

from __future__ import annotations

import random

from srwan.overlay.pulls import NEWCOMER_MET_S, NEWCOMER_PULLS_MAX, NEWCOMER_S, PullPlan
from srwan.types import NodeId

OTHERS = [NodeId(bytes([index]) * 32) for index in range(1, 6)]


def plan_of(now: float = 100.0) -> PullPlan:
    plan = PullPlan(random.Random(1))
    plan.start(now)
    return plan


def test_a_newcomer_that_strangers_greet_asks_once_for_all_of_them() -> None:
    plan = plan_of()
    assert plan.due_at() is None
    for step in range(5):
        plan.met(100.01 + step / 100)
    assert 100.0 + NEWCOMER_MET_S == plan.due_at()
    assert plan.choose(OTHERS, 100.2) in OTHERS


def test_who_agrees_meanwhile_does_not_keep_it_from_asking_further() -> None:
    """Of a hundred that start at once a few agreed with each other, and took themselves for all."""
    plan = plan_of()
    plan.met(100.5)
    asked = plan.choose(OTHERS, 100.5)
    assert asked is not None
    plan.met(100.55)
    plan.agree(asked)
    plan.answered(asked, 100.6, is_full=False)
    assert 100.5 + NEWCOMER_MET_S == plan.due_at()


def test_only_newcomers_hurry_and_not_for_ever() -> None:
    plan = plan_of()
    plan.met(100.0 + NEWCOMER_S)
    assert plan.due_at() is None
    now = 100.0
    for _ in range(NEWCOMER_PULLS_MAX):
        now += 0.2
        plan.met(now)
        plan.choose(OTHERS, now)
        plan.answered(OTHERS[0], now, is_full=False)
    plan.met(now)
    assert plan.due_at() is None


def test_who_has_left_asks_nobody() -> None:
    plan = plan_of()
    plan.met(100.1)
    plan.stop()
    assert plan.due_at() is None
    plan.met(100.2)
    assert plan.due_at() is None
