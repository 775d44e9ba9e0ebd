"""Pulse groups over a trace: who is together, who are the gateways, and paths within and between groups.

A group holds at most GROUP_NODES nodes and knows the latencies among them; within it a path may have one relay. Each group names up to
GATEWAYS of its members as gateways, the ones that lower the sum of its own best paths most, which takes no knowledge from outside. The
gateways form a group of their own, so that a path between groups is i -> a -> b -> j with gateways a of i's and b of j's group. The direct
latency between groups is assumed to be measured on demand.

Groups and gateways are made from the slices of the learning range alone. `local-search` starts from random groups and swaps two nodes of
different groups wherever that raises the gain within both (docs/replay.md has what it is worth).
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TypeAlias

import attrs
import numpy as np
import numpy.typing as npt

from srwan.routing.advantage import AdvantageRule, choose_relays, reliable_ms, weigh
from srwan.testing.latency_trace import Floats
from srwan.testing.replay_paths import NONE, Paths, direct_paths, one_relay_paths

__all__ = ["GATEWAYS", "GROUP_NODES", "SWAPS", "Groups", "choose_grouped", "make_groups"]

GROUP_NODES = 100
"""Most members of a pulse group."""
GATEWAYS = 20
"""Gateways of a group: five groups of 100 give a group of gateways of 100."""
SWAPS = 2500
"""Swaps that the local search proposes: the gain is flat beyond."""

_Nodes: TypeAlias = npt.NDArray[np.intp]


@attrs.frozen(slots=True, eq=False)
class Groups:
    """A partition of the nodes."""

    members: tuple[_Nodes, ...]
    """Nodes of each group, rising."""
    gateways: tuple[_Nodes, ...]
    """Gateways of each group, rising."""


def make_groups(learned_ms: Floats, *, is_searched: bool, rng: Random, progress: Callable[[int, int], None] | None = None) -> Groups:
    """Divide the nodes into the fewest groups of equal size, at random or by local search.

    Args:
        learned_ms: slices to learn from, shape (T, n, n), ms; NaN where missing.
        is_searched: improve the random groups by swaps.
        rng: decides the random groups and the proposals.
        progress: called with swaps proposed and SWAPS.
    """
    typical = _typical(learned_ms)
    n = len(typical)
    order = list(range(n))
    rng.shuffle(order)
    count = -(-n // GROUP_NODES)
    labels = np.empty(n, dtype=np.intp)
    labels[order] = np.arange(n) % count
    if is_searched and count > 1:
        labels = _search(typical, labels, rng, progress)
    members = tuple(np.flatnonzero(labels == group) for group in range(count))
    return Groups(members, tuple(np.sort(nodes[_gateways(typical[np.ix_(nodes, nodes)])]) for nodes in members))


def choose_grouped(
    samples_ms: Floats, groups: Groups, rule: AdvantageRule, *, current: Paths | None = None, relay_ms: float = 0.0
) -> Paths:
    """Decide for every ordered pair with what its groups know.

    Args:
        samples_ms: latencies, oldest first, shape (T, n, n), ms; NaN where missing.
        groups: who is together.
        rule: the policy's parameters.
        current: paths in use, shape (n, n, 2).
        relay_ms: cost of each relay, ms.
    """
    paths = direct_paths(samples_ms.shape[1])
    for source, (ours, our_gateways) in enumerate(zip(groups.members, groups.gateways, strict=True)):
        within = np.ix_(ours, ours)
        in_use = None if current is None else _to_local(current[within][:, :, 0], ours)
        relays = choose_relays(samples_ms[:, ours][:, :, ours], rule, current=in_use, relay_ms=relay_ms)
        paths[within] = one_relay_paths(np.where(relays == NONE, NONE, ours[relays]))
        for target, (theirs, their_gateways) in enumerate(zip(groups.members, groups.gateways, strict=True)):
            if target == source:
                continue
            between = np.ix_(ours, theirs)
            used = None if current is None else current[between]
            paths[between] = _choose_between(samples_ms, ours, our_gateways, their_gateways, theirs, rule, used, relay_ms)
    return paths


def _typical(learned_ms: Floats) -> Floats:
    """Median over slices; inf where never seen; 0 on the diagonal."""
    seen = np.isfinite(learned_ms).any(axis=0)
    typical = np.full(learned_ms.shape[1:], np.inf, dtype=np.float32)
    typical[seen] = np.nanmedian(learned_ms[:, seen], axis=0)
    np.fill_diagonal(typical, 0)
    return typical


def _gain_within(typical: Floats) -> float:
    """Sum of what the best single relay saves within a group, ms."""
    best = typical.copy()
    for relay in range(len(typical)):
        np.minimum(best, typical[:, relay, None] + typical[relay], out=best)
    is_known = np.isfinite(typical)
    return float((typical[is_known] - best[is_known]).sum(dtype=np.float64))


def _search(typical: Floats, labels: _Nodes, rng: Random, progress: Callable[[int, int], None] | None) -> _Nodes:
    def gain_of(group: int) -> float:
        nodes = np.flatnonzero(labels == group)
        return _gain_within(typical[np.ix_(nodes, nodes)])

    gains = [gain_of(group) for group in range(int(labels.max()) + 1)]
    for proposal in range(SWAPS):
        if progress is not None:
            progress(proposal, SWAPS)
        one, other = rng.sample(range(len(labels)), 2)
        first, second = int(labels[one]), int(labels[other])
        if first == second:
            continue
        labels[one], labels[other] = second, first
        swapped = gain_of(first), gain_of(second)
        if sum(swapped) > gains[first] + gains[second]:
            gains[first], gains[second] = swapped
        else:
            labels[one], labels[other] = first, second
    return labels


def _gateways(typical: Floats) -> list[int]:
    """Repeat: take the member that lowers the sum of the best paths within the group most."""
    is_known = np.isfinite(typical)
    best = np.where(is_known, typical, np.float32(-np.inf))
    chosen: list[int] = []
    for _ in range(min(GATEWAYS, len(typical))):
        savings = [
            -1.0 if node in chosen else float(np.maximum(best - (typical[:, node, None] + typical[node]), 0).sum(dtype=np.float64))
            for node in range(len(typical))
        ]
        node = int(np.argmax(savings))
        chosen.append(node)
        np.minimum(best, typical[:, node, None] + typical[node], out=best)
    return chosen


def _to_local(relays: npt.NDArray[np.int16], nodes: _Nodes) -> _Nodes:
    return np.where(relays == NONE, NONE, np.searchsorted(nodes, np.maximum(relays, 0)))


def _choose_between(
    samples_ms: Floats,
    ours: _Nodes,
    our_gateways: _Nodes,
    their_gateways: _Nodes,
    theirs: _Nodes,
    rule: AdvantageRule,
    current: Paths | None,
    relay_ms: float,
) -> Paths:
    """Paths of one block of pairs, shape (len(ours), len(theirs), 2); the same rule as `choose_relays`, over pairs of gateways.

    For each of our gateways the cheapest onward gateway by means is a candidate, so that 20 paths a pair are weighed and not 400.
    """
    nodes = np.concatenate((ours, theirs))
    evidence = weigh(samples_ms[:, nodes][:, :, nodes], rule)
    place = {int(node): index for index, node in enumerate(nodes)}
    i, j = np.arange(len(ours)), np.arange(len(ours), len(nodes))
    b_all = np.array([place[int(node)] for node in their_gateways])
    mean, newest = _closed(evidence.mean_ms), _closed(evidence.newest_ms)
    pair = np.ix_(i, j)
    best = np.full((len(i), len(j)), -np.inf, dtype=np.float32)
    cheapest, kept, expected = np.full_like(best, np.inf), best.copy(), best.copy()
    chosen = np.full((*best.shape, 2), NONE, dtype=np.int16)
    for gateway in our_gateways:
        a = place[int(gateway)]
        onward = b_all[np.argmin(mean[a, b_all][:, None] + mean[np.ix_(b_all, j)], axis=0)]
        legs = [(i[:, None], np.full((1, len(j)), a)), (np.full((len(i), 1), a), onward[None]), (onward[None], j[None])]
        relays_ms = relay_ms * ((i != a)[:, None].astype(np.float32) + (onward != j)[None])
        path, path_newest = (sum(values[leg] for leg in legs) + relays_ms for values in (mean, newest))
        spread = sum(evidence.spread_ms[leg] for leg in legs)
        with np.errstate(invalid="ignore"):
            gain, gain_newest = mean[pair] - path, newest[pair] - path_newest
        variance = np.square(evidence.spread_ms[pair] - spread).sum(axis=2)
        bound = reliable_ms(gain, gain_newest, variance, 4, evidence, rule)
        bound = np.where(np.isfinite(bound), bound, np.float32(-np.inf))
        cost = -reliable_ms(-path, -path_newest, np.square(spread).sum(axis=2), 3, evidence, rule)
        first = np.where(i == a, NONE, gateway)[:, None]
        second = np.where(onward == j, NONE, nodes[onward])[None]
        candidate = np.stack(np.broadcast_arrays(np.where(first == NONE, second, first), np.where(first == NONE, NONE, second)), axis=2)
        if current is not None:
            is_used = (candidate == current).all(axis=2) & (candidate != NONE).any(axis=2)
            kept[is_used], expected[is_used] = bound[is_used], gain[is_used]
        is_cheaper = (cost < cheapest) & np.isfinite(bound) & (candidate != NONE).any(axis=2)
        cheapest[is_cheaper], best[is_cheaper], chosen[is_cheaper] = cost[is_cheaper], bound[is_cheaper], candidate[is_cheaper]
    enter_ms = np.float32(rule.enter * evidence.noise_ms)
    stays = kept > np.float32(rule.stay * evidence.noise_ms)
    moves = (best > enter_ms) & (~stays | (best > expected + np.float32(rule.lead * evidence.noise_ms)))
    fallback = direct_paths(1)[0, 0] if current is None else np.where(stays[:, :, None], current, NONE)
    return np.where(moves[:, :, None], chosen, fallback).astype(np.int16)


def _closed(latency_ms: Floats) -> Floats:
    """With 0 from a node to itself, so that a gateway's own paths have one leg less."""
    closed = latency_ms.copy()
    np.fill_diagonal(closed, 0)
    return closed
