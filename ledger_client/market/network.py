"""Network as a service: sites and what must hold between them, turned into a set of segments to buy, and kept up (whitepaper 10.2).

A sans-IO core. A `NetworkSpec` says which sites there are and, for pairs of them, how quick, how lossless, how cheap, over how many
disjoint paths and through which countries packets go. `plan_network` finds, from measured latencies and offers, the cheapest set of paths
that does it; `VirtualNetwork` holds on to it while measurements and offers change, and says what to open and what to close.

Theory of operation. A path between two sites is direct or goes over one or two relays. It is feasible if the measured latency of its legs
and of the relays on the way sums up to no more than the limit, loss likewise, all relays offer to carry it for a sum within the cap, and
none is in a country that is shunned. Of the feasible ones the cheapest are taken, of those the quickest. Disjoint paths share no relay;
which ones together cost least is searched exactly among the CANDIDATES_MAX best. A path in use is kept while it is feasible, unless
another set is cheaper by more than KEEP_SHARE: prices that tickle each other must not tear down circuits.

Latencies are true ones in whole microseconds, not raw: what is promised to a customer holds on every clock.

Invariants: no path is planned over a relay without a price, above its cap, or beyond its limits; each pair gets all its paths or none of
them and a reason; the same input gives the same plan.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import attrs
import numpy as np
import numpy.typing as npt

from srwan.errors import ConfigError, NoOffer
from srwan.gossip.clock_fit import recovered_ms
from srwan.ledger_client.market.book import OfferBook
from srwan.ledger_client.market.offer import LATENCY_US_MAX, OFFER_PRICE_MICROTOKEN_MAX, PPM
from srwan.ledger_client.market.quote import Quote, quote_for
from srwan.types import NodeId

__all__ = [
    "BoughtPath",
    "Demand",
    "Market",
    "NetworkPlan",
    "NetworkSpec",
    "PlanDiff",
    "SegmentTable",
    "Unmet",
    "VirtualNetwork",
    "plan_network",
]

SITES_MAX = 64
DEMANDS_MAX = 512
PATHS_MAX = 3
RELAYS_MAX = 2
RELAY_US = 500
"""What a relay itself is thought to cost, us one way (as `PathPolicy.relay_ms`)."""
CANDIDATES_MAX = 48
"""Feasible paths of one pair among which a disjoint set is searched: 17,296 triples at most."""
KEEP_SHARE = 0.1
"""A set of paths is replaced when another one is cheaper by more than this share of its price."""

_Ints: TypeAlias = npt.NDArray[np.int64]


@attrs.frozen(slots=True, eq=False)
class SegmentTable:
    """What was measured: true one-way latencies and loss between members. [i, j] is i -> j."""

    members: tuple[NodeId, ...]
    owl_us: _Ints
    """Shape (n, n), us; -1 where unknown."""
    loss_ppm: _Ints
    """Shape (n, n), parts per million."""

    @classmethod
    def of_matrix(cls, members: Sequence[NodeId], raw_ms: npt.NDArray[np.float64], loss: npt.NDArray[np.float64]) -> SegmentTable:
        """Make one of a group's matrix: raw latencies in ms with NaN where unknown, loss 0..1; clock offsets are recovered here."""
        true_ms = recovered_ms(raw_ms)
        owl_us = np.where(np.isnan(true_ms), -1, np.rint(np.nan_to_num(true_ms) * 1000)).astype(np.int64)
        return cls(tuple(members), owl_us, np.rint(np.nan_to_num(loss) * PPM).astype(np.int64))


@attrs.frozen(slots=True, kw_only=True)
class Demand:
    """What must hold from one site to another. Directed: ask for both ways where both matter."""

    source: str
    """Name of a site."""
    target: str
    """Name of a site."""
    owl_us_max: int
    """Longest one-way latency, us."""
    loss_ppm_max: int = PPM
    """Largest loss, parts per million."""
    price_max_microtoken: int = 0
    """The most that one GB may cost on each path, microtokens."""
    paths: int = 1
    """How many, sharing no relay, 1..3."""
    relays_max: int = RELAYS_MAX
    """On each path, 0..2."""
    countries: frozenset[str] = frozenset()
    """Relays are only in these, ISO 3166-1 alpha-2; empty = anywhere."""
    avoid: frozenset[str] = frozenset()
    """And not in these."""


@attrs.frozen(slots=True)
class NetworkSpec:
    """Sites and demands."""

    sites: Mapping[str, NodeId]
    demands: tuple[Demand, ...]

    @classmethod
    def of_table(cls, table: Mapping[str, Any]) -> NetworkSpec:
        """Read a specification: `{"sites": {name: node id in hex}, "links": [{"between": [a, b], "owl_ms_max": 80, ...}]}`.

        A link is two demands, there and back. Its other keys: loss_max (0..1), price_max_microtoken, paths, relays_max, countries, avoid.

        Raises:
            ConfigError: a key or value is not usable, or a site is not known.
        """
        sites, links = table.get("sites"), table.get("links")
        if not isinstance(sites, Mapping) or not isinstance(links, (list, tuple)) or len(sites) > SITES_MAX or 2 * len(links) > DEMANDS_MAX:
            raise ConfigError("network", "has no table of sites, no list of links, or too many", f"up to {SITES_MAX} sites")
        try:
            known = {str(name): NodeId(bytes.fromhex(node) if isinstance(node, str) else node) for name, node in sites.items()}
        except (TypeError, ValueError) as error:
            raise ConfigError("network.sites", f"is not usable ({error})", "give node ids of 64 hexadecimal digits") from None
        return cls(known, tuple(demand for link in links for demand in _demands_of(link, known)))


def _demands_of(link: Any, sites: Mapping[str, NodeId]) -> tuple[Demand, Demand]:
    known = {"between", "owl_ms_max", "loss_max", "price_max_microtoken", "paths", "relays_max", "countries", "avoid"}
    if not isinstance(link, Mapping) or not known.issuperset(link):
        raise ConfigError("network.links", f"{link!r} is not usable", f"known are {', '.join(sorted(known))}")
    ends = link.get("between")
    if not isinstance(ends, (list, tuple)) or len(ends) != 2 or ends[0] == ends[1] or not all(end in sites for end in ends):
        raise ConfigError("network.links.between", f"{ends!r} is not usable", f"give two of {', '.join(sorted(sites))}")
    values: dict[str, Any] = {
        "owl_us_max": round(_number(link, "owl_ms_max", None, 0.001, LATENCY_US_MAX / 1000) * 1000),
        "loss_ppm_max": round(_number(link, "loss_max", 1.0, 0, 1) * PPM),
        "price_max_microtoken": int(_number(link, "price_max_microtoken", 0, 0, OFFER_PRICE_MICROTOKEN_MAX)),
        "paths": int(_number(link, "paths", 1, 1, PATHS_MAX)),
        "relays_max": int(_number(link, "relays_max", RELAYS_MAX, 0, RELAYS_MAX)),
        "countries": frozenset(map(str, link.get("countries", ()))),
        "avoid": frozenset(map(str, link.get("avoid", ()))),
    }
    there, back = (Demand(source=str(source), target=str(target), **values) for source, target in (ends, ends[::-1]))
    return there, back


def _number(link: Mapping[str, Any], key: str, default: float | None, low: float, high: float) -> float:
    value = link.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ConfigError(f"network.links.{key}", f"{value!r} is not usable", f"give a number in {low:g}..{high:g}")
    return value


@attrs.frozen(slots=True)
class BoughtPath:
    """One path to buy."""

    source: NodeId
    target: NodeId
    relays: tuple[NodeId, ...]
    """In visiting order; empty = direct, which costs nothing."""
    price_microtoken: int
    """Of one GB, microtokens."""
    owl_us: int
    """Measured legs and relays, us."""
    loss_ppm: int
    """Of the legs together, parts per million."""

    @property
    def way(self) -> tuple[NodeId, ...]:
        """All routers of it: two paths with one way are the same path, whatever they measure and cost now."""
        return (self.source, *self.relays, self.target)


@attrs.frozen(slots=True)
class Unmet:
    """A demand for which nothing can be had."""

    demand: Demand
    reason: str
    """In words: what is missing."""


@attrs.frozen(slots=True)
class NetworkPlan:
    """What to buy."""

    paths: tuple[tuple[BoughtPath, ...], ...]
    """For each demand in turn; empty where it is unmet."""
    unmet: tuple[Unmet, ...]

    @property
    def ways(self) -> dict[tuple[NodeId, ...], BoughtPath]:
        """All paths by their routers."""
        return {path.way: path for paths in self.paths for path in paths}


@attrs.frozen(slots=True)
class PlanDiff:
    """From one plan to the next."""

    opened: tuple[BoughtPath, ...]
    """To be bought now."""
    closed: tuple[BoughtPath, ...]
    """Not to be bought any more."""
    kept: tuple[BoughtPath, ...]
    """With what they measure and cost now."""
    unmet: tuple[Unmet, ...]

    @property
    def is_change(self) -> bool:
        """Whether anything is to be done."""
        return bool(self.opened or self.closed)


@attrs.frozen(slots=True)
class Market:
    """What a plan is made from: measurements, offers, places, at one moment."""

    table: SegmentTable
    book: OfferBook
    wall_ns: int
    """Wall time, ns since 1970."""
    country_of: Callable[[NodeId], str] = lambda _node: "ZZ"
    """Where a relay says it is, ISO 3166-1 alpha-2."""

    def quote(self, relays: tuple[NodeId, ...], price_max_microtoken: int) -> Quote | None:
        """Return the price of a path, or None if it cannot be had."""
        try:
            return quote_for(self.book, relays, self.wall_ns, price_max_microtoken=price_max_microtoken)
        except NoOffer:
            return None


def plan_network(spec: NetworkSpec, market: Market) -> NetworkPlan:
    """Return the cheapest set of paths that meets each demand.

    Cost: O(n^2) for each demand with two relays; 60 ms for each at n = 100.
    """
    planned: list[tuple[BoughtPath, ...]] = []
    unmet: list[Unmet] = []
    for demand in spec.demands:
        chosen, reason = _meet(demand, spec, market)
        planned.append(chosen)
        if reason:
            unmet.append(Unmet(demand, reason))
    return NetworkPlan(tuple(planned), tuple(unmet))


def _meet(demand: Demand, spec: NetworkSpec, market: Market) -> tuple[tuple[BoughtPath, ...], str]:
    """Return the paths that meet a demand, or none and the reason."""
    rows = {node: row for row, node in enumerate(market.table.members)}
    source, target = spec.sites[demand.source], spec.sites[demand.target]
    if source not in rows or target not in rows:
        missing = demand.source if source not in rows else demand.target
        return (), f"site {missing} is not measured"
    feasible = list(_candidates(demand, (source, target), rows, market))
    if not feasible:
        return (), f"no path within {demand.owl_us_max} us, {demand.loss_ppm_max} ppm and {demand.price_max_microtoken} microtokens a GB"
    feasible.sort(key=lambda path: (path.price_microtoken, path.owl_us, path.relays))
    chosen = _disjoint(feasible[:CANDIDATES_MAX], demand.paths)
    if chosen is None:
        return (), f"there are not {demand.paths} paths that share no relay"
    return chosen, ""


def _candidates(demand: Demand, ends: tuple[NodeId, NodeId], rows: Mapping[NodeId, int], market: Market) -> Iterator[BoughtPath]:
    """Yield the feasible paths."""
    relays = [node for node in market.table.members if node not in ends and _may_relay(node, demand, market)]
    for count in range(demand.relays_max + 1):
        for chosen in itertools.permutations(relays, count):
            path = _path(demand, (ends[0], *chosen, ends[1]), rows, market)
            if path is not None:
                yield path


def _may_relay(node: NodeId, demand: Demand, market: Market) -> bool:
    country = market.country_of(node)
    if country in demand.avoid or (demand.countries and country not in demand.countries):
        return False
    price = market.book.price_of(node, market.wall_ns)
    return price is not None and price <= demand.price_max_microtoken


def _path(demand: Demand, way: tuple[NodeId, ...], rows: Mapping[NodeId, int], market: Market) -> BoughtPath | None:
    """Return a path if it is within the limits of a demand now, else None."""
    owl_us, arrives = RELAY_US * (len(way) - 2), 1.0
    for here, there in itertools.pairwise(way):
        leg_us = int(market.table.owl_us[rows[here], rows[there]])
        owl_us += leg_us
        if leg_us < 0 or owl_us > demand.owl_us_max:
            return None
        arrives *= 1 - int(market.table.loss_ppm[rows[here], rows[there]]) / PPM
    loss_ppm = round((1 - arrives) * PPM)
    if loss_ppm > demand.loss_ppm_max:
        return None
    quote = market.quote(way[1:-1], demand.price_max_microtoken)
    return None if quote is None else BoughtPath(way[0], way[-1], way[1:-1], quote.price_microtoken, owl_us, loss_ppm)


def _disjoint(paths: Sequence[BoughtPath], count: int) -> tuple[BoughtPath, ...] | None:
    """Return the cheapest `count` paths that share no relay, given by rising price; None if there are not so many."""
    best: tuple[int, tuple[BoughtPath, ...]] | None = None
    for chosen in itertools.combinations(paths, count):
        price = sum(path.price_microtoken for path in chosen)
        if best is not None and price >= best[0]:
            continue
        nodes = [node for path in chosen for node in path.relays]
        if len(nodes) == len(set(nodes)):
            best = (price, chosen)
    return None if best is None else best[1]


class VirtualNetwork:
    """Keeps a specification met.

    Args:
        spec: sites and demands.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        self.spec = spec
        self.plan = NetworkPlan(tuple(() for _ in spec.demands), ())
        """In force."""

    def update(self, market: Market) -> PlanDiff:
        """Take new measurements or offers, and return what changes. Cost: as `plan_network`."""
        rows = {node: row for row, node in enumerate(market.table.members)}
        fresh = plan_network(self.spec, market)
        paths = tuple(
            self._keep(demand, held, best, rows, market)
            for demand, held, best in zip(self.spec.demands, self.plan.paths, fresh.paths, strict=True)
        )
        before, self.plan = self.plan.ways, NetworkPlan(paths, fresh.unmet)
        after = self.plan.ways
        return PlanDiff(
            tuple(path for way, path in after.items() if way not in before),
            tuple(path for way, path in before.items() if way not in after),
            tuple(path for way, path in after.items() if way in before),
            fresh.unmet,
        )

    @staticmethod
    def _keep(
        demand: Demand, held: tuple[BoughtPath, ...], best: tuple[BoughtPath, ...], rows: Mapping[NodeId, int], market: Market
    ) -> tuple[BoughtPath, ...]:
        """Return what is held as it is now if that still meets the demand at about the best price, else the best."""
        now = [
            _path(demand, path.way, rows, market)
            for path in held
            if rows.keys() >= set(path.way) and all(_may_relay(relay, demand, market) for relay in path.relays)
        ]
        kept = tuple(path for path in now if path is not None)
        if not kept or len(kept) < len(held) or not best:
            return best
        held_price, best_price = (sum(path.price_microtoken for path in paths) for paths in (kept, best))
        return kept if best_price >= held_price * (1 - KEEP_SHARE) else best
