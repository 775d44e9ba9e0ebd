"""Replay: nobody sees what is scored, the figures are the formulas, groups know only themselves."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from srwan.errors import ConfigError
from srwan.routing.advantage import AdvantageRule
from srwan.testing.latency_trace import LatencyTrace
from srwan.testing.replay import Grouping, ReplayOptions, as_json, replay
from srwan.testing.replay_groups import GATEWAYS, Groups, choose_grouped, make_groups
from srwan.testing.replay_paths import NONE, best_relays, direct_paths, if_better, one_relay_paths, realised_ms
from srwan.testing.replay_score import Scored


def random_trace(slices: int, n: int, *, seed: int = 1, noise: float = 0.02) -> LatencyTrace:
    """Distances on a plane, some pairs with a detour of the default path, and noise."""
    rng = np.random.default_rng(seed)
    places = rng.uniform(0, 100, (n, 2))
    typical = np.hypot(*(places[:, None] - places[None]).transpose(2, 0, 1)) + 5
    typical = typical * np.where(rng.random((n, n)) < 0.3, 2.0, 1.0)
    rtt_ms = (typical * rng.gamma(1 / noise**2, noise**2, (slices, n, n))).astype(np.float32)
    rtt_ms[:, range(n), range(n)] = 0
    return LatencyTrace(rtt_ms)


def shown(trace: LatencyTrace, **options: Any) -> dict[str, Any]:
    return as_json(replay(trace, ReplayOptions(**options)))


def test_two_slices_by_hand() -> None:
    rtt_ms = np.array(
        [
            [[0, 100, 20], [10, 0, 10], [20, 30, 0]],
            [[0, 100, 20], [10, 0, 10], [20, 40, 0]],
            [[0, 60, 30], [10, 0, 10], [20, 40, 0]],
        ],
        dtype=np.float32,
    )
    figures = shown(LatencyTrace(rtt_ms), learn=(0, 0), score=(1, 2), is_frozen=True)

    # 0 -> 1 goes over 2: 60 ms against 100, then 70 against 60; 2 -> 1 over 0 and the others stay direct
    assert 12 == figures["scored"]
    assert pytest.approx((60 + 70 + 2 * (10 + 10 + 20 + 40) + 20 + 30) / 12) == figures["mean_ms"]
    assert pytest.approx((40 - 10) / 12) == figures["gain_ms"]
    assert pytest.approx(100 * 30 / (160 + 50 + 160)) == figures["gain_pct"]
    assert pytest.approx((2 / 12, 1 / 2, 0, 1)) == tuple(figures[key] for key in ("relayed", "harmed", "harmed_pairs", "concentration"))
    possible = figures["baselines"]["oracle"]["gain_ms"] * 12
    assert pytest.approx(30 / possible) == figures["capture_oracle"]
    assert pytest.approx(30 / (figures["baselines"]["same_delay"]["gain_ms"] * 12)) == figures["capture"]
    assert 0 == figures["changes"]


@pytest.mark.parametrize(("is_frozen", "lag", "newest"), [(True, None, 5), (False, 1, 10), (False, 3, 8)])
def test_no_policy_sees_what_it_is_scored_on(is_frozen: bool, lag: int | None, newest: int) -> None:
    """Slices after the newest visible one are changed: no decision for the last scored slice changes, only what is realised."""
    trace = random_trace(12, 8)
    spoiled = trace.rtt_ms.copy()
    spoiled[newest + 1 : 11] = spoiled[newest + 1 : 11].transpose(0, 2, 1) * 3
    options = {"learn": (0, 5), "score": (11, 11), "is_frozen": is_frozen, "lag": lag}

    first, second = shown(trace, **options), shown(LatencyTrace(spoiled), **options)

    assert first["relayed"] > 0
    assert first == second
    spoiled[newest] = spoiled[newest].T * 3
    assert shown(LatencyTrace(spoiled), **options) != first


def test_the_default_is_the_second_half_on_what_values_are_held() -> None:
    figures = shown(LatencyTrace(random_trace(9, 4).rtt_ms, hold_slices=3))

    assert ([0, 3], [4, 8], 3) == (figures["learn"], figures["score"], figures["lag"])


def test_before_anything_is_visible_all_go_direct() -> None:
    figures = shown(random_trace(4, 5), learn=(0, 0), score=(1, 1), lag=2)

    assert (0, 0) == (figures["relayed"], figures["gain_ms"])


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"learn": (0, 9)}, "--learn: is 0..9"),
        ({"learn": (3, 2), "score": (4, 5)}, "--learn"),
        ({"score": (5, 9)}, "--score: is 5..9"),
        ({"learn": (0, 3), "score": (3, 5)}, "does not begin after"),
        ({"learn": (4, 5), "score": (0, 1)}, "does not begin after"),
        ({"score": (0, 1)}, "--learn"),
        ({"lag": 0}, "--lag"),
        ({"lag": 2, "is_frozen": True}, "--lag"),
        ({"relay_ms": -1.0}, "--relay-ms"),
        ({"relay_ms": float("nan")}, "--relay-ms"),
    ],
)
def test_what_cannot_be_replayed_is_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        shown(random_trace(6, 4), **options)


def test_two_nodes_have_nothing_to_relay() -> None:
    figures = shown(random_trace(6, 2))

    assert {0.0} == {figures[key] for key in ("gain_ms", "gain_pct", "capture", "capture_oracle", "relayed", "harmed", "changes")}
    assert figures["mean_ms"] == figures["direct_mean_ms"] > 0


def test_a_static_trace_is_scored_in_hindsight_and_says_so() -> None:
    figures = shown(random_trace(1, 8))

    assert figures["is_hindsight"]
    assert 0 == figures["harmed"]
    assert 0.7 < figures["capture_oracle"] <= 1


def test_missing_values_are_left_out_and_counted() -> None:
    trace = random_trace(8, 6)
    trace.rtt_ms[5, 0, 1] = np.nan
    trace.rtt_ms[:, 2, 3] = np.nan

    figures = shown(trace)

    assert 4 * 30 == figures["scored"] + figures["unscored"]
    assert figures["unscored"] >= 5
    assert np.isfinite(figures["mean_ms"])
    assert 5 == figures["baselines"]["direct"]["unscored"]


def test_a_lost_reference_gives_no_capture() -> None:
    tally = Scored(1, 2)
    direct = np.array([[0, 10], [10, 0]], dtype=np.float32)
    tally.add(direct, direct - 1, direct_paths(2), {"same_delay": direct + 1, "oracle": direct - 2})

    assert (None, 0.5) == (tally.score().capture, tally.score().capture_oracle)


def test_changes_are_counted_from_slice_to_slice() -> None:
    tally = Scored(3, 3)
    latency = np.ones((3, 3), dtype=np.float32)
    over_2 = direct_paths(3)
    over_2[0, 1, 0] = 2
    for paths in (direct_paths(3), over_2, over_2):
        tally.add(latency, latency, paths, {})

    assert pytest.approx(1 / (6 * 2)) == tally.score().changes


def test_the_cheapest_relay_is_the_one_found_by_trying() -> None:
    latency = random_trace(1, 7, seed=4).rtt_ms[0]
    latency[0, 1] = np.nan
    cost, relays = best_relays(latency)

    for i, j in ((i, j) for i in range(7) for j in range(7) if i != j):
        tried = {k: latency[i, k] + latency[k, j] for k in range(7) if k not in (i, j) and np.isfinite(latency[i, k] + latency[k, j])}
        assert min(tried.values()) == cost[i, j]
        assert cost[i, j] == tried[int(relays[i, j])]
    assert NONE == if_better(latency, (cost, relays), relay_ms=0)[0, 1, 0]


def test_each_relay_costs() -> None:
    latency = random_trace(1, 5).rtt_ms[0]
    paths = one_relay_paths(np.full((5, 5), NONE))
    paths[0, 1], paths[0, 2] = (3, 4), (3, NONE)

    realised = realised_ms(latency, paths, 0.5)

    assert pytest.approx(latency[0, 3] + latency[3, 4] + latency[4, 1] + 1) == realised[0, 1]
    assert pytest.approx(latency[0, 3] + latency[3, 2] + 0.5) == realised[0, 2]
    assert latency[1, 0] == realised[1, 0]


def test_groups_are_even_and_depend_on_the_seed_alone() -> None:
    trace = random_trace(2, 130)

    first, again, other = (make_groups(trace.rtt_ms, is_searched=False, rng=Random(seed)) for seed in (1, 1, 2))

    assert [65, 65] == [len(nodes) for nodes in first.members]
    assert list(range(130)) == sorted(np.concatenate(first.members).tolist())
    assert [nodes.tolist() for nodes in first.members] == [nodes.tolist() for nodes in again.members]
    assert [nodes.tolist() for nodes in first.members] != [nodes.tolist() for nodes in other.members]
    for members, gateways in zip(first.members, first.gateways, strict=True):
        assert GATEWAYS == len(set(gateways.tolist()))
        assert set(gateways.tolist()) <= set(members.tolist())


def by_hand(trace: LatencyTrace) -> Groups:
    half = trace.rtt_ms.shape[1] // 2
    members = (np.arange(half), np.arange(half, 2 * half))
    return Groups(members, (members[0][:3], members[1][:3]))


def test_paths_between_groups_go_over_gateways_and_within_over_members() -> None:
    trace = random_trace(6, 16)
    groups = by_hand(trace)
    paths = choose_grouped(trace.rtt_ms, groups, AdvantageRule())
    group_of: npt.NDArray[np.intp] = np.repeat([0, 1], 8)

    seen = {"within": 0, "between": 0}
    for i, j in np.argwhere(paths[:, :, 0] != NONE):
        relays = [int(relay) for relay in paths[i, j] if relay != NONE]
        assert i not in relays
        assert j not in relays
        if group_of[i] == group_of[j]:
            assert 1 == len(relays)
            assert group_of[relays[0]] == group_of[i]
            seen["within"] += 1
        else:
            assert set(relays) <= {*groups.gateways[0].tolist(), *groups.gateways[1].tolist()}
            seen["between"] += 1
    assert min(seen.values()) > 3
    gain = trace.rtt_ms.mean(axis=0) - realised_ms(trace.rtt_ms.mean(axis=0), paths, 0)
    assert (gain[paths[:, :, 0] != NONE] > 0).all()


def test_groups_keep_their_paths_while_nothing_changes() -> None:
    trace = random_trace(6, 16)
    groups = by_hand(trace)
    paths = choose_grouped(trace.rtt_ms, groups, AdvantageRule())

    assert paths.tolist() == choose_grouped(trace.rtt_ms, groups, AdvantageRule(), current=paths).tolist()


@pytest.mark.parametrize("groups", ["random", "local-search"])
def test_a_group_of_all_is_no_grouping(groups: Grouping) -> None:
    figures = shown(random_trace(6, 12), groups=groups)

    assert [12] == figures["group_sizes"]
    assert figures["gain_ms"] == figures["baselines"]["full_matrix"]["gain_ms"] > 0
