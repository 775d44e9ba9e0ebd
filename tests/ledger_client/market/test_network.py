"""A virtual network: the cheapest paths that do what is wanted, held on to while they do."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from srwan.errors import ConfigError
from srwan.identity import Identity
from srwan.ledger_client.market.book import OfferBook
from srwan.ledger_client.market.network import (
    RELAY_US,
    Demand,
    Market,
    NetworkSpec,
    SegmentTable,
    VirtualNetwork,
    plan_network,
)
from srwan.ledger_client.market.offer import INFINITE, Offer
from srwan.types import NodeId

NS = 10**9
MakeOffer = Callable[..., Offer]
COUNTRIES = ("DE", "JP", "PL", "AE", "IN", "XX", "US", "SG")


class World:
    """Two sites, the first two sellers, and six relays; every leg takes 20 ms but the direct one, which takes 100."""

    def __init__(self, make_offer: MakeOffer, sellers: tuple[Identity, ...], wall_s: int) -> None:
        self.nodes = tuple(seller.node_id for seller in sellers)
        self.owl_us = np.full((8, 8), 20_000, dtype=np.int64)
        self.owl_us[0, 1] = self.owl_us[1, 0] = 100_000
        self.loss_ppm = np.zeros((8, 8), dtype=np.int64)
        self._make_offer, self._sellers, self._wall_s = make_offer, sellers, wall_s
        self._sequence = itertools.count(1)
        self.book = OfferBook(NodeId(bytes(32)), random.Random(1))

    def price(self, index: int, price: int | None) -> None:
        offer = self._make_offer(index, price, sequence=next(self._sequence))
        self.book.receive_record(offer.record(self._sellers[index]), self._wall_s * NS)

    def market(self) -> Market:
        table = SegmentTable(self.nodes, self.owl_us, self.loss_ppm)
        return Market(table, self.book, self._wall_s * NS, lambda node: COUNTRIES[self.nodes.index(node)])

    def spec(self, **demand: Any) -> NetworkSpec:
        values: dict[str, Any] = {"owl_us_max": 50_000, "price_max_microtoken": 1000, "relays_max": 1} | demand
        return NetworkSpec({"a": self.nodes[0], "b": self.nodes[1]}, (Demand(source="a", target="b", **values),))

    def relays(self, **demand: Any) -> list[tuple[int, ...]]:
        """Indices of the relays of the planned paths."""
        plan = plan_network(self.spec(**demand), self.market())
        return [tuple(map(self.nodes.index, path.relays)) for path in plan.paths[0]]

    def reason(self, **demand: Any) -> str:
        (unmet,) = plan_network(self.spec(**demand), self.market()).unmet
        return unmet.reason


@pytest.fixture
def world(make_offer: MakeOffer, sellers: tuple[Identity, ...], wall_s: int) -> World:
    world = World(make_offer, sellers, wall_s)
    for index, price in zip(range(2, 8), (50, 40, 30, 10, 60, INFINITE), strict=True):
        world.price(index, price)
    return world


def test_the_cheapest_path_that_is_quick_enough_is_planned(world: World) -> None:
    assert [(5,)] == world.relays()
    world.owl_us[5, 1] = 30_001 - RELAY_US
    assert [(4,)] == world.relays()
    world.owl_us[5, 1] = 30_000 - RELAY_US
    assert [(5,)] == world.relays()


def test_direct_is_taken_where_it_will_do_for_it_is_free(world: World) -> None:
    assert [()] == world.relays(owl_us_max=100_000)


def test_disjoint_paths_share_no_relay_and_are_the_cheapest_together(world: World) -> None:
    assert [(5,), (4,), (3,)] == world.relays(paths=3)
    assert "not 3 paths that share no relay" in world.reason(paths=3, price_max_microtoken=35)


def test_of_two_disjoint_sets_the_cheaper_one_is_found_though_it_lacks_the_cheapest_path(world: World) -> None:
    world.owl_us[:] = -1
    for leg in ((0, 2), (2, 3), (3, 1), (2, 1), (0, 3), (0, 4), (4, 1)):
        world.owl_us[leg] = 20_000
    world.price(4, 500)
    world.price(2, 0)
    world.price(3, 0)
    # 2 and 3 in one path are free, and so are both alone
    assert [{2}, {3}] == sorted((set(each) for each in world.relays(paths=2, relays_max=2, owl_us_max=70_000)), key=min)


def test_countries_are_kept_to_and_avoided(world: World) -> None:
    assert [(4,)] == world.relays(avoid=frozenset({"XX"}))
    assert [(2,)] == world.relays(countries=frozenset({"PL", "AE"}), avoid=frozenset({"AE"}))
    assert "no path within" in world.reason(countries=frozenset({"ZZ"}))


def test_loss_of_the_legs_adds_up(world: World) -> None:
    world.loss_ppm[0, 5] = world.loss_ppm[5, 1] = 10_000
    assert [(5,)] == world.relays(loss_ppm_max=19_900)
    assert [(4,)] == world.relays(loss_ppm_max=19_899)


def test_an_infinite_price_is_never_planned_and_unknown_legs_neither(world: World) -> None:
    for index in range(2, 7):
        world.price(index, INFINITE)
    assert "no path within 50000 us" in world.reason()
    world.price(7, 1)
    assert [(7,)] == world.relays()
    world.owl_us[7, 1] = -1
    assert "no path within" in world.reason()


def test_a_site_that_is_not_measured_is_named(world: World) -> None:
    spec = NetworkSpec({"a": world.nodes[0], "b": NodeId(bytes(32))}, world.spec().demands)
    (unmet,) = plan_network(spec, world.market()).unmet
    assert "site b is not measured" == unmet.reason


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32),
    prices=st.lists(st.one_of(st.none(), st.integers(0, 9)), min_size=6, max_size=6),
    cap=st.integers(0, 15),
    limit_us=st.integers(20_000, 120_000),
    paths=st.integers(1, 2),
)
def test_what_is_planned_is_feasible_and_the_cheapest_there_is(
    make_offer: MakeOffer,
    sellers: tuple[Identity, ...],
    wall_s: int,
    seed: int,
    prices: list[int | None],
    cap: int,
    limit_us: int,
    paths: int,
) -> None:
    world = World(make_offer, sellers, wall_s)
    world.owl_us = np.random.default_rng(seed).integers(1_000, 80_000, (8, 8))
    for index, price in enumerate(prices, 2):
        world.price(index, price)
    feasible = []
    for relays in [(), *itertools.permutations(range(2, 8), 1), *itertools.permutations(range(2, 8), 2)]:
        asked = [prices[index - 2] for index in relays]
        way = (0, *relays, 1)
        owl_us = sum(int(world.owl_us[leg]) for leg in itertools.pairwise(way)) + RELAY_US * len(relays)
        if None not in asked and sum(each or 0 for each in asked) <= cap and owl_us <= limit_us:
            feasible.append((sum(each or 0 for each in asked), set(relays)))
    sets = [
        chosen
        for chosen in itertools.combinations(feasible, paths)
        if len(set().union(*(r for _, r in chosen))) == sum(len(r) for _, r in chosen)
    ]
    plan = plan_network(world.spec(owl_us_max=limit_us, price_max_microtoken=cap, relays_max=2, paths=paths), world.market())
    assert bool(sets) == bool(plan.paths[0])
    if sets:
        assert min(sum(price for price, _ in chosen) for chosen in sets) == sum(path.price_microtoken for path in plan.paths[0])
        assert all(path.owl_us <= limit_us and path.price_microtoken <= cap for path in plan.paths[0])


# -- kept up


def test_a_path_is_kept_while_it_will_do_and_is_about_the_cheapest(world: World) -> None:
    network = VirtualNetwork(world.spec())
    assert [(world.nodes[5],)] == [path.relays for path in network.update(world.market()).opened]
    world.price(5, 33)  # 4 asks 30: less than a tenth cheaper
    diff = network.update(world.market())
    assert (False, [33]) == (diff.is_change, [path.price_microtoken for path in diff.kept])
    world.price(5, 34)
    diff = network.update(world.market())
    assert ([(world.nodes[4],)], [(world.nodes[5],)]) == ([p.relays for p in diff.opened], [p.relays for p in diff.closed])


@pytest.mark.parametrize("trouble", ["slow", "dear", "gone", "infinite"])
def test_a_path_that_will_not_do_any_more_is_replaced(world: World, trouble: str) -> None:
    network = VirtualNetwork(world.spec())
    network.update(world.market())
    match trouble:
        case "slow":
            world.owl_us[0, 5] = 90_000
        case "dear":
            world.price(5, 1001)
        case "gone":
            world.owl_us[5, :] = -1
        case _:
            world.price(5, INFINITE)
    diff = network.update(world.market())
    assert ([(world.nodes[4],)], [(world.nodes[5],)], ()) == ([p.relays for p in diff.opened], [p.relays for p in diff.closed], diff.unmet)


def test_when_nothing_will_do_all_is_closed_and_the_reason_told(world: World) -> None:
    network = VirtualNetwork(world.spec())
    network.update(world.market())
    world.owl_us[:] = 90_000
    diff = network.update(world.market())
    assert ((), 1, 1, ()) == (diff.opened, len(diff.closed), len(diff.unmet), network.plan.paths[0])


def test_a_matrix_with_skewed_clocks_becomes_true_latencies() -> None:
    offsets_ms = np.array([0.0, 500.0, -40.0])
    true_ms = np.array([[np.nan, 20.0, 30.0], [20.0, np.nan, 25.0], [30.0, 25.0, np.nan]])
    raw_ms = true_ms + offsets_ms[None, :] - offsets_ms[:, None]
    table = SegmentTable.of_matrix([NodeId(bytes([number]) * 32) for number in range(3)], raw_ms, np.full((3, 3), np.nan))
    assert [[-1, 20_000, 30_000], [20_000, -1, 25_000], [30_000, 25_000, -1]] == table.owl_us.tolist()


# -- from a table


def test_a_table_becomes_two_demands_a_link() -> None:
    link = {"between": ["a", "b"], "owl_ms_max": 80, "loss_max": 0.01, "price_max_microtoken": 5, "paths": 2, "avoid": ["XX"]}
    spec = NetworkSpec.of_table({"sites": {"a": "00" * 32, "b": "01" * 32}, "links": [link]})
    there, back = spec.demands
    assert (("a", "b"), ("b", "a")) == ((there.source, there.target), (back.source, back.target))
    assert (80_000, 10_000, 5, 2, frozenset({"XX"})) == (
        there.owl_us_max,
        there.loss_ppm_max,
        there.price_max_microtoken,
        there.paths,
        there.avoid,
    )


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({}, "no table of sites"),
        ({"sites": {"a": "xx"}, "links": []}, "network.sites"),
        ({"sites": {"a": "00" * 32}, "links": [{"between": ["a", "b"], "owl_ms_max": 1}]}, "network.links.between"),
        ({"sites": {"a": "00" * 32}, "links": [{"between": ["a", "a"], "owl_ms_max": 1}]}, "network.links.between"),
        ({"sites": {"a": "00" * 32, "b": "01" * 32}, "links": [{"between": ["a", "b"]}]}, "network.links.owl_ms_max"),
        (
            {"sites": {"a": "00" * 32, "b": "01" * 32}, "links": [{"between": ["a", "b"], "owl_ms_max": 1, "paths": 4}]},
            "network.links.paths",
        ),
        ({"sites": {"a": "00" * 32, "b": "01" * 32}, "links": [{"between": ["a", "b"], "owl_ms": 1}]}, "network.links"),
    ],
)
def test_a_wrong_table_is_named(table: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        NetworkSpec.of_table(table)
