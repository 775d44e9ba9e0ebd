from __future__ import annotations

import itertools
import math
import random

import attrs
import networkx as nx
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srwan.routing.finder import CANDIDATES_MAX, PathCandidate, PathFinder
from srwan.routing.policy import PathPolicy
from srwan.types import NodeId


def node(number: int) -> NodeId:
    return NodeId(number.to_bytes(32, "big"))


@attrs.frozen(slots=True)
class Matrix:
    members: tuple[NodeId, ...]
    mean_ms: npt.NDArray[np.float64]
    dev_ms: npt.NDArray[np.float64]
    loss: npt.NDArray[np.float64]


def matrix(mean_ms: npt.ArrayLike, *, dev_ms: float = 0.0, loss: float = 0.0) -> Matrix:
    mean = np.array(mean_ms, dtype=np.float64)
    return Matrix(tuple(node(row) for row in range(len(mean))), mean, np.full_like(mean, dev_ms), np.full_like(mean, loss))


def random_matrix(count: int, seed: int, *, hole_share: float = 0.0) -> Matrix:
    rng = np.random.default_rng(seed)
    mean = rng.uniform(5, 200, (count, count))
    mean[rng.random((count, count)) < hole_share] = np.nan
    return matrix(mean)


def rank(snapshot: Matrix, policy: PathPolicy | None = None, *, seed: int = 1, allowed: object = None) -> list[PathCandidate]:
    return PathFinder().rank(
        snapshot,
        node(0),
        node(1),
        policy or PathPolicy(spread_ms=0),
        rng=random.Random(seed),
        relays_allowed=allowed,  # type: ignore[arg-type]
    )


THREE = [[0, 100, 30], [100, 0, 30], [30, 40, 0]]


def test_a_relay_that_gains_enough_comes_before_direct() -> None:
    first, second = rank(matrix(THREE))
    assert ((node(2),), 70.5, 100.0, 29.5) == (first.relays, first.predicted_ms, first.direct_ms, first.gain_ms)
    assert "via 00000000, 70.5 ms raw, risk 0.0 ms; direct 100.0 ms raw, risk 0.0 ms; gain 29.5 ms" == first.explanation
    assert second.is_direct


def test_direct_stays_first_when_nothing_beats_it_by_enter_ms() -> None:
    ranked = rank(matrix(THREE), PathPolicy(enter_ms=30))
    assert [(), (node(2),)] == [candidate.relays for candidate in ranked]


def test_direction_matters() -> None:
    there = rank(matrix(THREE))[0]
    back = PathFinder().rank(matrix(THREE), node(1), node(0), PathPolicy(), rng=random.Random(1))[0]
    assert (70.5, 60.5) == (there.predicted_ms, back.predicted_ms)


def test_deviation_and_loss_of_each_leg_are_a_risk() -> None:
    candidate = rank(matrix(THREE, dev_ms=8.0, loss=0.01), PathPolicy(risk_weight=0.5, loss_cost_ms=400))[0]
    assert (16.0, 21.5) == (candidate.risk_ms, candidate.gain_ms)


def test_a_leg_without_deviation_is_known_nevertheless() -> None:
    assert 70.5 == rank(matrix(THREE, dev_ms=math.nan, loss=math.nan))[0].cost_ms


def test_a_relay_with_an_unknown_leg_is_no_candidate() -> None:
    assert [()] == [candidate.relays for candidate in rank(matrix([[0.0, 100.0, 30.0], [100.0, 0.0, 30.0], [30.0, math.nan, 0.0]]))]


def test_a_hole_on_direct_puts_a_known_relay_first() -> None:
    first, second = rank(matrix([[0.0, math.nan, 30.0], [100.0, 0.0, 30.0], [30.0, 40.0, 0.0]]))
    assert ((node(2),), math.inf, True) == (first.relays, first.gain_ms, second.is_direct)


@given(st.integers(0, 2**32 - 1), st.lists(st.floats(-1e7, 1e7), min_size=12, max_size=12))
def test_clock_offsets_never_change_the_ranking_or_a_gain(seed: int, offsets_ms: list[float]) -> None:
    honest = random_matrix(12, seed)
    offsets = np.array(offsets_ms)
    skewed = matrix(honest.mean_ms + offsets[None, :] - offsets[:, None])
    policy = PathPolicy(relays_max=3, spread_ms=0)
    expected, seen = rank(honest, policy), rank(skewed, policy)
    assert [candidate.relays for candidate in expected[:3]] == [candidate.relays for candidate in seen[:3]]
    assert [pytest.approx(candidate.gain_ms, abs=1e-6) for candidate in expected] == [candidate.gain_ms for candidate in seen]


def test_avoided_and_not_allowed_nodes_never_relay() -> None:
    snapshot = random_matrix(30, 7)
    policy = PathPolicy(avoid=frozenset({node(3), node(4)}), relays_max=2)
    for allowed in (frozenset(map(node, range(2, 10))), lambda member: int.from_bytes(member, "big") < 10):
        used = {member for candidate in rank(snapshot, policy, allowed=allowed) for member in candidate.relays}
        assert used
        assert used <= set(map(node, (2, 5, 6, 7, 8, 9)))


def test_relays_max_zero_is_direct_only() -> None:
    assert [()] == [candidate.relays for candidate in rank(random_matrix(30, 7), PathPolicy(relays_max=0))]


@pytest.mark.parametrize("stranger", [node(99)])
def test_a_destination_outside_the_matrix_is_reached_directly(stranger: NodeId) -> None:
    (only,) = PathFinder().rank(matrix(THREE), node(0), stranger, PathPolicy(), rng=random.Random(1))
    assert (True, True) == (only.is_direct, math.isnan(only.direct_ms))


def test_forced_relays_are_the_only_relayed_candidate_even_if_unknown() -> None:
    forced, direct = rank(matrix(THREE), PathPolicy(via=(node(2), node(50))))
    assert ((node(2), node(50)), True, True) == (forced.relays, math.isnan(forced.predicted_ms), direct.is_direct)


def test_ranking_to_oneself_is_refused() -> None:
    with pytest.raises(ValueError, match="same node"):
        PathFinder().rank(matrix(THREE), node(0), node(0), PathPolicy(), rng=random.Random(1))


def test_choice_within_the_spread_is_random_and_outside_it_never_first() -> None:
    mean = np.full((6, 6), 500.0)
    mean[0, 1] = 100
    mean[0, 2:] = [10, 12, 14, 17]
    mean[2:, 1] = 10
    firsts = [rank(matrix(mean), PathPolicy(spread_ms=5), seed=seed)[0].relays for seed in range(300)]
    counts = {relays: firsts.count(relays) for relays in set(firsts)}
    assert {(node(2),), (node(3),), (node(4),)} == set(counts)
    assert min(counts.values()) > 60


@pytest.mark.parametrize("relays_max", [1, 2, 3])
def test_cheapest_path_equals_that_of_simple_path_enumeration(relays_max: int) -> None:
    for seed in range(12):
        snapshot = random_matrix(9, seed, hole_share=0.2)
        graph: nx.DiGraph[int] = nx.DiGraph()
        graph.add_nodes_from(range(9))
        for leg in itertools.permutations(range(9), 2):
            if not math.isnan(snapshot.mean_ms[leg]):
                graph.add_edge(*leg, weight=float(snapshot.mean_ms[leg]) + 0.5 * (leg[1] != 1))
        paths = nx.all_simple_paths(graph, 0, 1, cutoff=relays_max + 1)
        costs = sorted(nx.path_weight(graph, path, "weight") for path in paths if len(path) > 2)
        relayed = [candidate for candidate in rank(snapshot, PathPolicy(relays_max=relays_max, spread_ms=0)) if candidate.relays]
        assert pytest.approx(costs[0]) == relayed[0].predicted_ms
        assert min(CANDIDATES_MAX, len(costs)) >= len(relayed)
        assert all(len(set(candidate.relays)) == len(candidate.relays) <= relays_max for candidate in relayed)
        if relays_max < 3:  # with three, one middle relay is kept per outer pair
            assert pytest.approx(costs[:CANDIDATES_MAX]) == [candidate.predicted_ms for candidate in relayed]


def test_standbys_share_no_relay_with_each_other_or_with_the_path_in_use() -> None:
    ranked = rank(random_matrix(20, 3), PathPolicy(relays_max=2, spread_ms=0))
    relayed = [candidate for candidate in ranked if candidate.relays]
    chosen = PathFinder().standbys(ranked, [relayed[0].relays], 3)
    nodes = [member for relays in (relayed[0].relays, *(candidate.relays for candidate in chosen)) for member in relays]
    assert len(nodes) == len(set(nodes))
    assert all(candidate.relays for candidate in chosen)
