"""When rounds are due."""

from __future__ import annotations

import itertools
import random

import pytest

from srwan.gossip.rounds import BURST_S, EXTRA_BURST_MAX, EXTRA_S, GAP_S_MIN, Rounds


def run(rounds: Rounds, until: float, *, change_every: float | None = None, news_every: float | None = None) -> list[float]:
    """Take every round until then; optionally something keeps happening."""
    times: list[float] = []
    changes = [] if change_every is None else [change_every * step for step in range(int(until / change_every))]
    news = [] if news_every is None else [news_every * step for step in range(int(until / news_every))]
    while rounds.due_at <= until or changes or news:
        happens_at = min(changes[:1] + news[:1], default=float("inf"))
        if happens_at <= rounds.due_at:
            if changes and changes[0] == happens_at:
                rounds.change(changes.pop(0))
            else:
                rounds.news(news.pop(0))
            continue
        now = rounds.due_at
        rounds.told(now, is_regular=rounds.take(now))
        times.append(now)
    return times


def test_nothing_is_due_before_the_start() -> None:
    rounds = Rounds(10.0, random.Random(1))
    rounds.change(0.0)
    rounds.news(0.0)
    assert float("inf") == rounds.due_at


def test_regular_rounds_come_every_period_at_a_random_phase() -> None:
    first = set()
    for seed in range(20):
        rounds = Rounds(10.0, random.Random(seed))
        rounds.start(0.0)
        times = run(rounds, 1000.0)
        first.add(round(times[0]))
        assert all(9.5 <= b - a <= 10.5 for a, b in itertools.pairwise(times))
    assert len(first) > 5


def test_a_change_brings_three_rounds_within_three_seconds() -> None:
    rounds = Rounds(1e6, random.Random(1))
    rounds.start(0.0)
    rounds.change(100.0)
    assert [0.3, 1.0, 2.2] == pytest.approx([at - 100.0 for at in run(rounds, 200.0)], rel=0.06)


def test_changes_within_a_burst_put_it_off_but_not_for_ever() -> None:
    rounds = Rounds(1e6, random.Random(1))
    rounds.start(0.0)
    rounds.change(100.0)
    rounds.change(100.2)
    assert 100.5 == pytest.approx(rounds.due_at, abs=0.03)
    for step in range(2, 40):
        rounds.change(100.0 + step / 10)
        if rounds.due_at <= 100.0 + step / 10:
            break
    assert 1.5 <= rounds.due_at - 100.0 <= 2.2
    rounds.told(rounds.due_at, is_regular=rounds.take(rounds.due_at))
    assert 102.2 <= run(rounds, 200.0)[-1] <= 105.0


def test_news_are_told_within_half_a_second_and_once() -> None:
    rounds = Rounds(1e6, random.Random(1))
    rounds.start(0.0)
    for step in range(10):
        rounds.news(100.0 + step / 100)
    assert [100.5] == pytest.approx(run(rounds, 200.0), abs=0.03)


def test_a_round_at_a_given_time_joins_one_that_is_due_soon_after() -> None:
    rounds = Rounds(1e6, random.Random(1))
    rounds.once(100.0)
    assert float("inf") == rounds.due_at
    rounds.start(0.0)
    for at in (101.0, 101.0, 100.8, 105.0):
        rounds.once(at)
    assert [101.0, 105.0] == run(rounds, 200.0)


@pytest.mark.parametrize("options", [{"change_every": 0.05}, {"news_every": 0.05}, {"change_every": 3.0}])
def test_whatever_happens_rounds_keep_gap_and_budget(options: dict[str, float]) -> None:
    rounds = Rounds(1e6, random.Random(1))
    rounds.start(0.0)
    times = run(rounds, 60.0, **options)
    assert len(times) > 12
    assert min(b - a for a, b in itertools.pairwise(times)) >= GAP_S_MIN - 1e-9
    for at in times:
        assert len([other for other in times if at <= other < at + 10.0 - 1e-9]) <= EXTRA_BURST_MAX + 10.0 / EXTRA_S


def test_news_after_a_storm_of_joins_is_told_within_a_second() -> None:
    """Found by the demonstration: twelve joins used up the budget, and the last newcomer's latencies waited seconds for the next."""
    rounds = Rounds(1e6, random.Random(1))
    rounds.start(0.0)
    for step in range(40):
        now = 100.0 + step / 10
        rounds.change(now)
        while rounds.due_at <= now:
            rounds.told(now, is_regular=rounds.take(now))
    rounds.news(104.0)
    assert rounds.due_at <= 104.0 + EXTRA_S


def test_a_host_that_is_behind_tells_only_what_is_regular_until_it_has_caught_up() -> None:
    rounds = Rounds(10.0, random.Random(1))
    rounds.start(0.0)
    regular_at = rounds.due_at
    rounds.hold(regular_at + 2.0)
    rounds.hold(regular_at - 1.0)  # a shorter lag takes nothing back
    rounds.change(0.0)
    for step in range(50):
        rounds.news(step * 0.01)
    assert regular_at == rounds.due_at
    rounds.told(regular_at, is_regular=rounds.take(regular_at))
    rounds.change(regular_at)
    assert regular_at + 2.0 == rounds.due_at
    assert len(rounds._extra) <= len(BURST_S) + 1


@pytest.mark.parametrize(("new_share", "is_burst"), [(0.0, False), (0.09, False), (0.11, True), (1.0, True)])
def test_a_change_by_few_newcomers_or_none_makes_no_burst(new_share: float, is_burst: bool) -> None:
    rounds = Rounds(10.0, random.Random(1))
    rounds.start(0.0)
    regular_at = rounds.due_at
    rounds.change(0.0, new_share)
    assert is_burst == (rounds.due_at < regular_at)
