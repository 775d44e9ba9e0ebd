"""Which paths look best: ranks the candidates between two members by the matrix of one-way latencies.

Pure: no state, no clock; randomness comes in as an argument. What is ranked is a prediction. `control` keeps the best few warm and
decides by what they are measured to deliver, never by the prediction alone.

Theory: the matrix holds raw one-way latencies, receiver's stamp less sender's stamp. Along any path from ingress to egress the clock
offsets of the relays cancel and those of the two ends are the same for every path, so sums over different paths compare exactly, in
milliseconds, and never in per cent. The minimum of many noisy sums is biased low; each leg therefore pays a risk term (its deviation
times `policy.risk_weight`, and `policy.loss_cost_ms` for what it loses), each relay `policy.relay_ms`.

Two and three relays are found by min-plus products of the matrix over the allowed relays, which bounds the number of relays exactly;
enumerating shortest simple paths (Yen 1971) cannot bound it and is the oracle of the tests.

Prices bound the search: a path whose relays together ask for more than `policy.price_max_microtoken` per GB is no candidate, nor is one
over a relay that has no price, for it never carries. Among equals, those within `spread_ms`, the cheapest come first.

Invariants: direct is always among the candidates, and first unless a relayed path beats it by `enter_ms`; no path visits a node twice; no
candidate but the forced one (`via`) is above the cap.

Source: whitepaper 2.2.3, 3.3; docs/decisions.md for the risk term and the margin.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Protocol, TypeAlias

import attrs
import numpy as np
import numpy.typing as npt

from srwan.routing.policy import PathPolicy
from srwan.routing.prices import PriceOf, path_price
from srwan.types import NodeId

__all__ = ["Latencies", "PathCandidate", "PathFinder", "Relays", "RelaysAllowed"]

CANDIDATES_MAX = 16
"""Relayed candidates in a ranking: twice the most standbys a policy can ask for."""

Relays: TypeAlias = tuple[NodeId, ...]
"""A path is named by its relays in visiting order; the empty tuple is the direct path."""
RelaysAllowed: TypeAlias = Callable[[NodeId], bool] | Collection[NodeId] | None
"""Who may be a relay: a predicate or a set; None means every member."""
_Floats: TypeAlias = npt.NDArray[np.float64]
_Ints: TypeAlias = npt.NDArray[np.int64]
_Found: TypeAlias = tuple[tuple[int, ...], float]
_Rows: TypeAlias = dict[NodeId, int]


class Latencies(Protocol):
    """What is read of a snapshot of the matrix (`srwan.gossip.owl.OwlSnapshot`): [i, j] is i -> j; NaN where unknown or stale."""

    @property
    def members(self) -> tuple[NodeId, ...]:
        """Names of rows and columns."""
        ...

    @property
    def mean_ms(self) -> _Floats:
        """Raw one-way latency, mean of fresh samples, ms, shape (n, n)."""
        ...

    @property
    def dev_ms(self) -> _Floats:
        """Its deviation, ms, shape (n, n)."""
        ...

    @property
    def loss(self) -> _Floats:
        """Share of lost packets, 0..1, shape (n, n)."""
        ...


def short_name(node: NodeId) -> str:
    """Return the first 8 hex digits of a node id: its name where nothing better is known."""
    return node.hex()[:8]


@attrs.frozen(slots=True)
class PathCandidate:
    """One path and what the matrix predicts for it. Raw latencies: they compare with each other only."""

    relays: Relays
    """In visiting order; empty = direct."""
    predicted_ms: float
    """Raw one-way latency from ingress to egress, mean of the legs and the relays' cost, ms; NaN = unknown."""
    risk_ms: float
    """What deviation and loss of the legs add to it when paths are compared, ms."""
    direct_ms: float
    """Raw one-way latency of the direct path, ms; NaN = unknown."""
    gain_ms: float
    """Cost of the direct path less the cost of this one, ms; 0 for direct; inf if only direct is unknown, NaN if this one is."""
    explanation: str
    """The same for a human."""
    loss: float = 0.0
    """Loss that the matrix predicts from end to end, 0..1; legs of which none is known count as lossless."""
    price_microtoken: int | None = 0
    """What one GB over it costs, microtokens; None if one of its relays does not carry."""

    @property
    def cost_ms(self) -> float:
        """What is ranked: predicted_ms + risk_ms; NaN = unknown."""
        return self.predicted_ms + self.risk_ms

    @property
    def is_direct(self) -> bool:
        """Whether it has no relay."""
        return not self.relays


@attrs.frozen(slots=True)
class PathFinder:
    """Ranks paths.

    Args:
        name_of: a human's name of a node, for explanations.
        price_of: what relays ask for now; None: all are free.
    """

    name_of: Callable[[NodeId], str] = short_name
    price_of: PriceOf | None = None

    def rank(
        self,
        snapshot: Latencies,
        ingress: NodeId,
        egress: NodeId,
        policy: PathPolicy,
        *,
        rng: random.Random,
        relays_allowed: RelaysAllowed = None,
    ) -> list[PathCandidate]:
        """Return candidates, the one to take first.

        Order: relayed paths that beat direct by `enter_ms`, direct, the other relayed paths; each group by rising cost, but those within
        `spread_ms` of the best relayed one are shuffled, and then put by rising price.

        Args:
            snapshot: raw one-way latencies of the group.
            ingress: sender; if it is no member, only direct is known.
            egress: receiver, not the ingress.
            policy: margins, risk, number of relays, price; with `via`, the only relayed candidate is that path.
            rng: for the shuffle.
            relays_allowed: who may relay; `policy.avoid`, ingress and egress never do.

        Returns:
            Direct and at most CANDIDATES_MAX relayed paths, all of known latency except direct and `via`.

        Raises:
            ValueError: ingress equals egress.

        Cost: O(n) for one relay, O(n^2) for two, O(n^3) for three. n=100: 0.3, 0.6 and 7 ms.
        """
        if ingress == egress:
            raise ValueError("ingress and egress are the same node")
        rows = _rows(snapshot)
        direct = self._predict(snapshot, rows, (ingress, egress), (), policy)
        if policy.via:
            return [self._predict(snapshot, rows, (ingress, egress), policy.via, policy), direct]
        found = _search(snapshot, rows, (ingress, egress), policy, relays_allowed, self.price_of)
        relayed = [self._predict(snapshot, rows, (ingress, egress), relays, policy) for relays in found]
        relayed.sort(key=lambda candidate: candidate.cost_ms)
        if relayed:
            close = [candidate for candidate in relayed if candidate.cost_ms <= relayed[0].cost_ms + policy.spread_ms]
            relayed[: len(close)] = sorted(rng.sample(close, len(close)), key=lambda candidate: candidate.price_microtoken or 0)
        better = [candidate for candidate in relayed if candidate.gain_ms >= policy.enter_ms]
        return [*better, direct, *(candidate for candidate in relayed if not candidate.gain_ms >= policy.enter_ms)]

    def predict(self, snapshot: Latencies, ingress: NodeId, egress: NodeId, relays: Relays, policy: PathPolicy) -> PathCandidate:
        """Return what the matrix says of one path, whether or not it is worth taking. Nodes that are no members have unknown legs."""
        return self._predict(snapshot, _rows(snapshot), (ingress, egress), relays, policy)

    def _predict(self, snapshot: Latencies, rows: _Rows, ends: tuple[NodeId, NodeId], relays: Relays, policy: PathPolicy) -> PathCandidate:
        direct_ms, direct_risk_ms = _sum_legs(snapshot, rows, ends, policy)
        if not relays:
            text = f"direct, {_ms(direct_ms)} raw, risk {_ms(direct_risk_ms)}"
            return PathCandidate((), direct_ms, direct_risk_ms, direct_ms, 0.0, text, _loss_over_legs(snapshot, rows, ends))
        nodes = (ends[0], *relays, ends[1])
        predicted_ms, risk_ms = _sum_legs(snapshot, rows, nodes, policy)
        cost_ms, direct_cost_ms = predicted_ms + risk_ms, direct_ms + direct_risk_ms
        gain_ms = math.inf if math.isnan(direct_cost_ms) and not math.isnan(cost_ms) else direct_cost_ms - cost_ms
        text = (
            f"{self.describe(relays)}, {_ms(predicted_ms)} raw, risk {_ms(risk_ms)}; "
            f"direct {_ms(direct_ms)} raw, risk {_ms(direct_risk_ms)}; gain {_ms(gain_ms)}"
        )
        price = path_price(relays, self.price_of)
        text += f"; {_words(price)}" if price != 0 else ""
        return PathCandidate(relays, predicted_ms, risk_ms, direct_ms, gain_ms, text, _loss_over_legs(snapshot, rows, nodes), price)

    def is_affordable(self, relays: Relays, policy: PathPolicy) -> bool:
        """Say whether all relays of a path carry now, together for at most the policy's cap."""
        price = path_price(relays, self.price_of)
        return price is not None and price <= policy.price_max_microtoken

    def standbys(self, candidates: Sequence[PathCandidate], used: Iterable[Relays], count: int) -> list[PathCandidate]:
        """Return the first `count` relayed candidates that share no relay with `used` or with each other."""
        taken = {node for relays in used for node in relays}
        chosen: list[PathCandidate] = []
        for candidate in candidates:
            if len(chosen) >= count:
                break
            if candidate.relays and taken.isdisjoint(candidate.relays):
                chosen.append(candidate)
                taken.update(candidate.relays)
        return chosen

    def describe(self, relays: Relays) -> str:
        """Return a path's name for a human: "direct", "via a", "via a+b"."""
        return "via " + "+".join(self.name_of(node) for node in relays) if relays else "direct"


def _ms(value: float) -> str:
    return "unknown" if math.isnan(value) else f"{value:.1f} ms"


def _words(price_microtoken: int | None) -> str:
    return "a relay does not carry" if price_microtoken is None else f"{price_microtoken} microtokens a GB"


def _rows(snapshot: Latencies) -> _Rows:
    return {node: row for row, node in enumerate(snapshot.members)}


def _sum_legs(snapshot: Latencies, rows: _Rows, nodes: Sequence[NodeId], policy: PathPolicy) -> tuple[float, float]:
    """Return (latency with the relays' cost, risk), ms, of the path through `nodes`; NaN if a leg is unknown."""
    if not all(node in rows for node in nodes):
        return math.nan, math.nan
    latency_ms, risk_ms = policy.relay_ms * (len(nodes) - 2), 0.0
    for leg in itertools.pairwise(rows[node] for node in nodes):
        latency_ms += float(snapshot.mean_ms[leg])
        risk_ms += policy.risk_weight * _known(float(snapshot.dev_ms[leg])) + policy.loss_cost_ms * _known(float(snapshot.loss[leg]))
    return latency_ms, risk_ms


def _loss_over_legs(snapshot: Latencies, rows: _Rows, nodes: Sequence[NodeId]) -> float:
    if not all(node in rows for node in nodes):
        return 0.0
    return 1.0 - math.prod(1.0 - _known(float(snapshot.loss[leg])) for leg in itertools.pairwise(rows[node] for node in nodes))


def _known(value: float) -> float:
    """A leg with one sample has a mean and no deviation: count none."""
    return 0.0 if math.isnan(value) else value


def _search(
    snapshot: Latencies, rows: _Rows, ends: tuple[NodeId, NodeId], policy: PathPolicy, allowed: RelaysAllowed, price_of: PriceOf | None
) -> list[Relays]:
    """Return up to CANDIDATES_MAX of the relayed paths of least latency and risk, unordered."""
    if policy.relays_max == 0 or not all(node in rows for node in ends):
        return []
    may_relay: Callable[[NodeId], bool] = _everybody
    if allowed is not None:
        may_relay = allowed if callable(allowed) else allowed.__contains__
    shunned = policy.avoid.union(ends)
    asked = {row: path_price((node,), price_of) for node, row in rows.items() if node not in shunned and may_relay(node)}
    priced = [(row, price) for row, price in asked.items() if price is not None and price <= policy.price_max_microtoken]
    if not priced:
        return []
    relays = np.array([row for row, _ in priced], dtype=np.intp)
    budget = _Budget(np.array([price for _, price in priced], dtype=np.int64), policy.price_max_microtoken)
    first, last = _cost(snapshot, policy, (rows[ends[0]], relays)), _cost(snapshot, policy, (relays, rows[ends[1]]))
    found: list[_Found] = [((place,), cost) for place, cost in _cheapest(first + last + policy.relay_ms)]
    if policy.relays_max > 1:
        between = _cost(snapshot, policy, np.ix_(relays, relays)) + policy.relay_ms
        np.fill_diagonal(between, np.inf)
        found += _pairs(first, between, last, policy.relay_ms, budget)
        if policy.relays_max > 2:
            found += _triples(first, between, last, policy.relay_ms, budget)
    found.sort(key=lambda path: path[1])
    return [tuple(snapshot.members[relays[place]] for place in places) for places, _ in found[:CANDIDATES_MAX]]


def _everybody(_node: NodeId) -> bool:
    return True


def _cost(snapshot: Latencies, policy: PathPolicy, at: tuple[int | npt.NDArray[np.intp], ...]) -> _Floats:
    """Cost of the legs `at`, ms; inf where unknown."""
    risk = policy.risk_weight * np.nan_to_num(snapshot.dev_ms[at]) + policy.loss_cost_ms * np.nan_to_num(snapshot.loss[at])
    cost: _Floats = snapshot.mean_ms[at] + risk
    return np.where(np.isnan(cost), np.inf, cost)


def _cheapest(cost: _Floats) -> list[tuple[int, float]]:
    """Return (flat index, cost) of the CANDIDATES_MAX least finite entries, unordered."""
    flat = cost.ravel()
    count = min(CANDIDATES_MAX, flat.size)
    best = np.argpartition(flat, count - 1)[:count]
    return [(int(place), float(flat[place])) for place in best if np.isfinite(flat[place])]


class _Budget:
    """Prices of the allowed relays, shape (n,), each within the cap; rules out what is above it together."""

    def __init__(self, prices: _Ints, price_max: int) -> None:
        self._prices = prices
        self._price_max = price_max
        self._is_needed = bool(prices.any())

    def bound(self, cost: _Floats, through: int | None = None) -> _Floats:
        """Return the cost of paths over relays i and j, and the one named, [i, j]: inf where they ask for too much."""
        if not self._is_needed:
            return cost
        middle = 0 if through is None else int(self._prices[through])
        return np.where(self._prices[:, None] + self._prices[None, :] > self._price_max - middle, np.inf, cost)


def _pairs(first: _Floats, between: _Floats, last: _Floats, relay_ms: float, budget: _Budget) -> list[_Found]:
    total = budget.bound(first[:, None] + between + last[None, :] + relay_ms)
    return [(divmod(place, len(last)), cost) for place, cost in _cheapest(total)]


def _triples(first: _Floats, between: _Floats, last: _Floats, relay_ms: float, budget: _Budget) -> list[_Found]:
    """For each (a, c) the best b between them within the budget; a min-plus product. The diagonal of `between` is inf, so b is neither."""
    best = np.full(between.shape, np.inf)
    middle = np.zeros(between.shape, dtype=np.intp)
    for b in range(len(last)):
        through_b = budget.bound(between[:, b, None] + between[None, b, :], b)
        is_less = through_b < best
        best[is_less] = through_b[is_less]
        middle[is_less] = b
    np.fill_diagonal(best, np.inf)
    total = first[:, None] + best + last[None, :] + relay_ms
    found: list[_Found] = []
    for place, cost in _cheapest(total):
        a, c = divmod(place, len(last))
        found.append(((a, int(middle[a, c]), c), cost))
    return found
