"""No path is chosen above the buyer's cap: not ranked, not kept warm, not suggested, not forced, and not after a price has changed."""

from __future__ import annotations

import itertools
import random

import attrs
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srwan.errors import ConfigError
from srwan.routing.finder import PathFinder, Relays
from srwan.routing.policy import PathMode, PathPolicy
from srwan.routing.prices import PRICE_MICROTOKEN_MAX, path_price
from srwan.testing.paths import DIRECT, EAST, VIA_EAST, VIA_NORTH, VIA_WEST, WEST, PathNetwork, between, down, links_of
from srwan.types import NodeId

NODES = tuple(NodeId(bytes([number]) * 32) for number in range(1, 9))


@attrs.frozen(slots=True)
class Matrix:
    members: tuple[NodeId, ...]
    mean_ms: npt.NDArray[np.float64]
    dev_ms: npt.NDArray[np.float64]
    loss: npt.NDArray[np.float64]


def ranked(mean_ms: npt.NDArray[np.float64], prices: dict[NodeId, int | None], policy: PathPolicy) -> list[Relays]:
    zeros = np.zeros_like(mean_ms)
    finder = PathFinder(price_of=lambda node: prices.get(node, 0))
    matrix = Matrix(NODES[: len(mean_ms)], mean_ms, zeros, zeros)
    return [candidate.relays for candidate in finder.rank(matrix, NODES[0], NODES[1], policy, rng=random.Random(1))]


def carried(net: PathNetwork, since: float) -> set[Relays]:
    """Which paths DATA took that were sent after a moment."""
    return {delivery.relays for delivery in net.deliveries if delivery.sent_at > since}


# -- the sum


@pytest.mark.parametrize(
    ("prices", "expected"),
    [({}, 0), ({EAST: 3, WEST: 4}, 7), ({EAST: 3, WEST: None}, None), ({EAST: 2**128 - 1, WEST: 1}, 2**128)],
)
def test_the_price_of_a_path_is_the_sum_of_its_relays(prices: dict[NodeId, int | None], expected: int | None) -> None:
    assert expected == path_price((EAST, WEST), lambda node: prices.get(node, 0))


def test_the_direct_path_costs_nothing_and_without_prices_all_is_free() -> None:
    assert (0, 0) == (path_price((), lambda _node: None), path_price((EAST,), None))


@pytest.mark.parametrize("price", [-1, PRICE_MICROTOKEN_MAX + 1, 1.0, "5", True])
def test_a_policy_refuses_a_price_out_of_range(price: object) -> None:
    with pytest.raises(ConfigError, match=r"policy\.price_max_microtoken: is .*; use an integer from 0 to 1e\+18 microtokens"):
        PathPolicy(price_max_microtoken=price)  # type: ignore[arg-type]


# -- ranking


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    prices=st.lists(st.one_of(st.none(), st.integers(0, 9), st.just(PRICE_MICROTOKEN_MAX), st.just(2**128 - 1)), min_size=6, max_size=6),
    cap=st.one_of(st.integers(0, 20), st.just(PRICE_MICROTOKEN_MAX)),
    relays_max=st.integers(1, 3),
)
def test_the_best_affordable_path_is_found_and_none_above_the_cap(seed: int, prices: list[int | None], cap: int, relays_max: int) -> None:
    mean_ms = np.random.default_rng(seed).uniform(5, 200, (8, 8))
    asked = dict(zip(NODES[2:], prices, strict=True))
    policy = PathPolicy(price_max_microtoken=cap, relays_max=relays_max, spread_ms=0, enter_ms=0.1, leave_ms=0, relay_ms=0)
    found = [relays for relays in ranked(mean_ms, asked, policy) if relays]

    def cost(relays: Relays) -> float:
        way = [NODES.index(node) for node in (NODES[0], *relays, NODES[1])]
        return float(sum(mean_ms[leg] for leg in itertools.pairwise(way)))

    every = [relays for count in range(1, relays_max + 1) for relays in itertools.permutations(NODES[2:], count)]
    affordable = [relays for relays in every if (price := path_price(relays, asked.__getitem__)) is not None and price <= cap]
    assert set(found) <= set(affordable)
    assert bool(found) == bool(affordable)
    if affordable:
        assert min(map(cost, found)) == pytest.approx(min(map(cost, affordable)))


def test_without_having_said_so_nobody_uses_a_relay_that_charges() -> None:
    mean_ms = np.array([[0.0, 100.0, 10.0], [100.0, 0.0, 10.0], [10.0, 10.0, 0.0]])
    assert [()] == ranked(mean_ms, {NODES[2]: 1}, PathPolicy())
    assert [(NODES[2],), ()] == ranked(mean_ms, {NODES[2]: 1}, PathPolicy(price_max_microtoken=1))


def test_a_relay_with_an_infinite_price_is_never_a_relay() -> None:
    mean_ms = np.array([[0.0, 100.0, 10.0], [100.0, 0.0, 10.0], [10.0, 10.0, 0.0]])
    assert [()] == ranked(mean_ms, {NODES[2]: None}, PathPolicy(price_max_microtoken=PRICE_MICROTOKEN_MAX))


def test_of_paths_that_are_as_good_as_the_best_the_cheapest_comes_first() -> None:
    mean_ms = np.full((4, 4), 20.0)
    mean_ms[0, 1] = 100.0
    mean_ms[0, 3] = 22.0
    found = ranked(mean_ms, {NODES[2]: 9, NODES[3]: 4}, PathPolicy(price_max_microtoken=10, relays_max=1))
    assert [(NODES[3],), (NODES[2],), ()] == found


def test_the_explanation_names_the_price() -> None:
    mean_ms = np.array([[0.0, 100.0, 10.0], [100.0, 0.0, 10.0], [10.0, 10.0, 0.0]])
    matrix = Matrix(NODES[:3], mean_ms, np.zeros((3, 3)), np.zeros((3, 3)))
    finder = PathFinder(price_of=lambda _node: 7)
    candidate = finder.predict(matrix, NODES[0], NODES[1], (NODES[2],), PathPolicy())
    assert (7, True) == (candidate.price_microtoken, candidate.explanation.endswith("; 7 microtokens a GB"))


# -- paths in use and kept warm


def test_standbys_above_the_cap_are_not_kept_warm() -> None:
    net = PathNetwork(links_of(direct=50, east=60, west=70), prices={EAST: 6, WEST: 5}, policy=PathPolicy(price_max_microtoken=5)).run(3.0)
    assert [DIRECT, VIA_WEST] == [path.relays for path in net.control.paths]


def test_a_better_path_above_the_cap_is_not_taken() -> None:
    net = PathNetwork(links_of(direct=150, east=50), prices={EAST: 6}, policy=PathPolicy(price_max_microtoken=5)).run(20.0)
    assert ([], {DIRECT}) == (net.switches(), carried(net, 0))


def test_a_better_path_at_the_cap_is_taken() -> None:
    net = PathNetwork(links_of(direct=150, east=50), prices={EAST: 5}, policy=PathPolicy(price_max_microtoken=5)).run(20.0)
    assert [VIA_EAST] == [switch.to_relays for _, switch in net.switches()]


def test_a_suggested_path_above_the_cap_is_not_opened() -> None:
    net = PathNetwork(links_of(direct=50, east=60), updates=False, prices={EAST: 6}, policy=PathPolicy(price_max_microtoken=5)).run(1.0)
    net.control.suggest(VIA_EAST, net.now)
    net.run(1.0)
    assert [DIRECT] == [path.relays for path in net.control.paths]
    net.prices[EAST] = 5
    net.control.suggest(VIA_EAST, net.now)
    assert [DIRECT, VIA_EAST] == [path.relays for path in net.control.paths]


@pytest.mark.parametrize("price", [6, None])
def test_a_price_that_rises_above_the_cap_moves_data_off_within_two_evaluations(price: int | None) -> None:
    net = PathNetwork(links_of(direct=150, east=50, west=60), prices={EAST: 5, WEST: 5}, policy=PathPolicy(price_max_microtoken=5))
    net.run(20.0)
    assert VIA_EAST == net.control.active[0]
    net.prices[EAST] = price
    net.run(0.5)
    since = net.now
    net.run(15.0)
    assert {VIA_WEST} == carried(net, since)
    assert VIA_EAST not in [path.relays for path in net.control.paths]


def test_when_all_prices_rise_data_go_home() -> None:
    net = PathNetwork(links_of(direct=150, east=50, west=60), prices={EAST: 5, WEST: 5}, policy=PathPolicy(price_max_microtoken=5))
    net.run(20.0)
    net.prices.update({EAST: 6, WEST: 6})
    net.run(0.5)
    since = net.now
    net.run(15.0)
    assert {DIRECT} == carried(net, since)


def test_a_failover_does_not_go_to_a_standby_that_became_too_dear() -> None:
    links = links_of(direct=60, east=50, west=60)
    links[DIRECT].is_up = down(120.0, 200.0)
    net = PathNetwork(links, prices={EAST: 5, WEST: 5}, policy=PathPolicy(price_max_microtoken=5)).run(19.9)
    net.prices[EAST] = 6  # 0.1 s before direct dies, and 10 s before the next matrix
    net.run(8.0)
    assert VIA_WEST == net.control.active[0]
    assert VIA_EAST not in carried(net, 120.0)


def test_both_copies_of_a_packet_stay_within_the_cap() -> None:
    policy = PathPolicy(mode=PathMode.REPEAT, price_max_microtoken=5)
    net = PathNetwork(links_of(direct=60, east=50, north=55), prices={EAST: 5}, policy=policy).run(10.0)
    assert VIA_EAST in carried(net, 0)
    net.prices[EAST] = 6
    net.run(0.5)
    since = net.now
    net.run(10.0)
    assert {DIRECT, VIA_NORTH} == carried(net, since)


# -- forced relays


def test_a_forced_path_above_the_cap_is_not_used_and_direct_takes_the_data() -> None:
    net = PathNetwork(links_of(direct=50, east=60), prices={EAST: 6}, policy=PathPolicy(via=(EAST,), price_max_microtoken=5)).run(10.0)
    assert {DIRECT} == carried(net, 0)


def test_a_forced_path_above_the_cap_without_fallback_sends_nothing_until_it_is_affordable() -> None:
    policy = PathPolicy(via=(EAST,), fallback=False, price_max_microtoken=5)
    net = PathNetwork(links_of(direct=50, east=60), prices={EAST: 6}, policy=policy).run(5.0)
    assert ((), set()) == (net.control.routes(), carried(net, 0))
    net.prices[EAST] = 5
    net.run(5.0)
    assert {VIA_EAST} == carried(net, 0)


def test_a_forced_path_is_taken_again_when_it_is_affordable() -> None:
    net = PathNetwork(links_of(direct=50, east=60), prices={EAST: 5}, policy=PathPolicy(via=(EAST,), price_max_microtoken=5)).run(5.0)
    net.prices[EAST] = None
    net.run(0.5)
    since = net.now
    net.run(5.0)
    assert {DIRECT} == carried(net, since)
    net.prices[EAST] = 5
    net.run(10.0)
    assert VIA_EAST == net.control.active[0]


@pytest.mark.parametrize("seed", range(3))
def test_whatever_prices_do_no_data_stay_above_the_cap(seed: int) -> None:
    rng = random.Random(seed)
    links = links_of(direct=90, east=50, west=55, north=60)
    links[VIA_EAST].extra_ms = between(110.0, 115.0, 100.0)
    links[DIRECT].is_up = down(120.0, 123.0)
    net = PathNetwork(links, seed=seed, policy=PathPolicy(price_max_microtoken=5, standbys=3))
    dear_since: dict[Relays, float] = {}
    for _ in range(40):
        for relays in (VIA_EAST, VIA_WEST, VIA_NORTH):
            if rng.random() < 0.2:
                net.prices[relays[0]] = rng.choice([0, 5, 6, None])
            is_dear = net.prices.get(relays[0], 0) not in (0, 5)
            dear_since.setdefault(relays, net.now) if is_dear else dear_since.pop(relays, None)
        sent = len(net.deliveries)
        net.run(1.0)
        late = [each for each in net.deliveries[sent:] if each.sent_at > dear_since.get(each.relays, float("inf")) + 0.5]
        assert [] == late
    assert len({delivery.relays for delivery in net.deliveries}) > 2
