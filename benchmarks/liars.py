"""What lying relays gain, and what is left of it after one detection interval.

    python benchmarks/liars.py [--json] [--seeds 5] [--only NAME,...] [--output FILE]

Virtual time, rounds of 10 s, real `Witness` and `OwlMatrix` cores; queueing Exp(1.5 ms) a leg and 2 % times Exp(40 ms), clocks off by up
to 100 ms (group time sees to that) and drifting by up to 50 ppm, pulses at phases of their own, 1 % lost. Geography: 100 nodes of the
WonderNetwork set where SRWAN_TRACES names a folder with wondernetwork2020.npz (without hosts that light says are elsewhere), else
synthetic cities. One pair in nine is strongly asymmetric, within the light bound. Each member takes, to each other, the best single relay
by the told means if it gains at least the margin (10 ms, as the product; 0 in `facts-*`: 60 synthetic nodes), measures that path and the
direct one end to end (three medians of 5 keep-alives a round), and stops using whom it distrusts. Echoes: one a pair and minute, and five
more when asked for. As in the product, data move to a path that was chosen by what is told only when it was measured better than direct.

Liars begin after the warm-up. "unchecked" counts pairs that would choose a path over a liar at the end if nobody checked; "honest" the
pairs that did before it lied; "after" the pairs that still do six rounds (60 s, the detection interval: the period of probes) after the
first lie; "data" the pairs whose data go over a liar, for its path was measured better than direct by the margin: before it lied, after six
rounds of it, and most in any round of it; "detect_s" when the last member that chose it for its lie stopped. "accused" counts honest
members distrusted or quarantined by any honest member: must be 0.

Scenarios: echo (-40 ms a leg, both directions), hold (the same, and it says that it held the probes for 80 ms), directional (to half of
the peers 40 ms less in and more out, to the others the reverse), shift (all stamps by 40 ms: gains nothing, cannot be detected), place
(honest stamps, a claimed position on the other side of the Earth), slander (no lie, but a third of the group votes against ten honest
members), small-X (X ms a leg), and 1, 5, 10, 30 % of liars, apart or colluding (a link of 1 ms between any two of them, and slander).
Signatures are checked once per process. Each figure: median over seeds, with least and greatest.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import attrs
import numpy as np
import numpy.typing as npt

from srwan.gossip import evidence
from srwan.gossip.evidence import Kind, cast_vote, frames_of_votes
from srwan.gossip.light import light_bound_ms
from srwan.gossip.owl import Entries, OwlMatrix, OwlSnapshot
from srwan.gossip.place import misplaced, vacuum_bound_ms
from srwan.gossip.row import OWL_OUTSIDE, encode_jitter, encode_owl
from srwan.gossip.witness import EchoWanted, LieFound, PeerQuarantined, Witness
from srwan.identity import Identity, is_signed_by
from srwan.overlay.frame import Frame, FrameCodec, FrameType
from srwan.types import GeoAsn, NodeId

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

ROUND_S = 10.0
WARM_ROUNDS = 10
LYING_ROUNDS = 12
INTERVAL_ROUNDS = 6
NODES = 100
WALL_NS = 1_780_000_000 * 10**9
LIE_MS = 40.0
SLANDERED = 10


@attrs.frozen(slots=True)
class Scenario:
    """One way to lie."""

    name: str
    liars: int = 1
    lie: str = "echo"
    lie_ms: float = LIE_MS
    is_colluding: bool = False
    margin_ms: float = 10.0
    nodes: int = NODES
    is_synthetic: bool = False


SCENARIOS = [
    Scenario("echo"),
    Scenario("hold", lie="hold"),
    Scenario("directional", lie="directional"),
    Scenario("shift", lie="shift"),
    Scenario("place", lie="place"),
    Scenario("slander", liars=33, lie="none", is_colluding=True),
    Scenario("small-2", lie_ms=2.0),
    Scenario("small-5", lie_ms=5.0),
    Scenario("small-10", lie_ms=10.0),
    Scenario("facts-echo", margin_ms=0.0, nodes=60, is_synthetic=True),
    Scenario("facts-directional", lie="directional", margin_ms=0.0, nodes=60, is_synthetic=True),
    Scenario("apart-5", liars=5),
    Scenario("apart-10", liars=10),
    Scenario("apart-30", liars=30),
    Scenario("colluding-5", liars=5, is_colluding=True),
    Scenario("colluding-10", liars=10, is_colluding=True),
    Scenario("colluding-30", liars=30, is_colluding=True),
    Scenario("directional-10", liars=10, lie="directional"),
    Scenario("directional-30", liars=30, lie="directional"),
]


def geography(scenario: Scenario, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
    """Return round trips (n, n), latitudes and longitudes."""
    folder = os.environ.get("SRWAN_TRACES")
    path = Path(folder) / "wondernetwork2020.npz" if folder else None
    if path is not None and path.exists() and not scenario.is_synthetic:
        data = np.load(path, allow_pickle=False)
        both = data["rtt_min"].astype(np.float64)
        whole = np.fmin(both, both.T)
        bounds = 2 * vacuum_bound_ms(data["lat"].astype(np.float64), data["lon"].astype(np.float64))
        is_placed = ~np.isin(np.arange(len(whole)), misplaced(whole < bounds))
        pick = np.sort(rng.choice(np.flatnonzero(is_placed), scenario.nodes, replace=False))
        round_trips = whole[np.ix_(pick, pick)]
        round_trips = np.where(np.isfinite(round_trips), round_trips, np.nanmedian(round_trips))
        lat, lon = data["lat"][pick].astype(np.float64), data["lon"][pick].astype(np.float64)
    else:
        cities = np.stack([rng.uniform(-35, 60, 25), rng.uniform(-180, 180, 25)], axis=1)
        home = cities[rng.integers(0, len(cities), scenario.nodes)] + rng.normal(0, 1.5, (scenario.nodes, 2))
        lat, lon = home[:, 0], (home[:, 1] + 180) % 360 - 180
        detour = np.triu(1.1 + rng.gamma(1.5, 0.3, (scenario.nodes, scenario.nodes)), 1)
        access = rng.uniform(0.3, 3.0, scenario.nodes)
        round_trips = 2 * light_bound_ms(lat, lon) * (detour + detour.T) + access[:, None] + access[None, :]
    np.fill_diagonal(round_trips, 0.0)
    return round_trips, lat, lon


class Stub:
    """Stands in for `FrameCodec`: hands contents over as they are."""

    def seal(self, receiver: NodeId, kind: int, content: bytes, *, digest: bytes, tx_ns: int, flags: int = 0) -> bytes:  # noqa: ARG002
        """Return the content."""
        return content


class World:
    """A group, its clocks, its lies."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self.scenario = scenario
        self.rng = rng = np.random.default_rng(seed)
        n = self.n = scenario.nodes
        self.round_trips, lat, lon = geography(scenario, rng)
        bound = np.minimum(light_bound_ms(lat, lon), self.round_trips / 2)
        share = np.where(rng.random((n, n)) < 0.11, rng.uniform(-1, 1, (n, n)), rng.normal(0, 0.02, (n, n)))
        share = np.triu(share, 1)
        skew = (self.round_trips / 2 - bound) * np.clip(share - share.T, -1, 1)
        self.owl = self.round_trips / 2 + skew
        identities = sorted((Identity(rng.bytes(32)) for _ in range(n)), key=lambda identity: identity.node_id)
        self.identities, self.ids = identities, tuple(identity.node_id for identity in identities)
        self.offset, self.rate = rng.uniform(-100, 100, n), rng.uniform(-50, 50, n) * 1e-3  # ms, ms/s
        self.phase = rng.uniform(0, ROUND_S, n)
        self.liars = np.sort(rng.choice(n, scenario.liars, replace=False))
        self.is_liar = np.isin(np.arange(n), self.liars)
        self.claim_in, self.claim_out = self._lies()
        places = [GeoAsn("XX", round(float(a) * 100), round(float(b) * 100)) for a, b in zip(lat, lon, strict=True)]
        if scenario.lie == "place":
            for k in self.liars:
                places[k] = GeoAsn("XX", -places[k].lat_cdeg, (places[k].lon_cdeg + 36000) % 36000 - 18000)
        members = {node: (("10.0.0.1", index), places[index]) for index, node in enumerate(self.ids)}
        self.witnesses = [
            Witness(identity, b"g" * 32, cast("FrameCodec", Stub()), rng=random.Random(seed * 1000 + index))
            for index, identity in enumerate(identities)
        ]
        for witness in self.witnesses:
            witness.set_members(members, 0.0)
            witness.handle_timer(0.0, WALL_NS)
        self.matrix = OwlMatrix(self.ids[0], stale_s=26.0)
        self.matrix.set_members(self.ids)
        self.before: Floats = np.full((n, n), np.nan)
        self.watched: Bools = np.zeros((n, n), np.bool_)
        self.check_s: list[float] = []
        self.found: dict[Kind, int] = {}
        self.quarantined: dict[NodeId, float] = {}

    def _lies(self) -> tuple[Floats, Floats]:
        """What liars add to raw latencies: in their own rows [i, k], and through their transmit stamps [k, j]."""
        into, out = np.zeros((self.n, self.n)), np.zeros((self.n, self.n))
        lie_ms, lie = self.scenario.lie_ms, self.scenario.lie
        for k in self.liars:
            if lie in {"echo", "hold"}:
                into[:, k], out[k, :] = -lie_ms, -lie_ms
            elif lie == "directional":
                side = np.where(self.rng.random(self.n) < 0.5, -lie_ms, lie_ms)
                into[:, k], out[k, :] = side, -side
            elif lie == "shift":
                into[:, k], out[k, :] = lie_ms, -lie_ms
        return into, out

    def queue(self, shape: tuple[int, ...]) -> Floats:
        """Queueing delay, ms."""
        return self.rng.exponential(1.5, shape) + (self.rng.random(shape) < 0.02) * self.rng.exponential(40.0, shape)

    def clock(self, at: Floats | float) -> Floats:
        """Offset of each clock, ms."""
        return self.offset + self.rate * at

    def tell(self, number: int, *, is_lying: bool) -> None:
        """One round of pulses and rows."""
        n, start = self.n, number * ROUND_S
        sent = start + self.phase
        raw = self.owl + self.queue((n, n)) + (self.offset[None, :] + self.rate[None, :] * sent[:, None]) - self.clock(sent)[:, None]
        if is_lying:
            raw += self.claim_out
        raw = np.where(self.rng.random((n, n)) < 0.01, self.before, raw)
        told = np.where(self.phase[:, None] < self.phase[None, :], raw, self.before)
        self.before = raw
        if is_lying:
            told = told + self.claim_in
            if self.scenario.is_colluding and self.scenario.lie == "echo":
                among = np.ix_(self.liars, self.liars)
                told[among] = 1.0 + (self.clock(start)[None, :] - self.clock(start)[:, None])[among]
        jitter, loss = np.full(n, encode_jitter(1.5), np.uint8), np.zeros(n, np.uint8)
        np.fill_diagonal(told, np.nan)
        for j in range(n):
            base_us, codes = encode_owl(told[:, j])
            known = int(np.count_nonzero(codes < OWL_OUTSIDE))
            self.matrix.add_row(j, Entries(codes, jitter, loss, base_us, 10**9, known), float(sent[j]))

    def echo(self, i: int, j: int, now: float, *, is_lying: bool) -> None:
        """Probe `j` from `i`."""
        wait = float(self.rng.exponential(0.3))
        trip = float(self.owl[i, j] + self.owl[j, i] + self.queue((2,)).sum()) + wait
        held = 2 * self.scenario.lie_ms if is_lying and self.scenario.lie == "hold" and self.is_liar[j] else wait
        self.witnesses[i].echo_measured(self.ids[j], trip, now, held_ms=held)

    def measure_paths(self, via: npt.NDArray[np.int64], view: OwlSnapshot, now: float) -> Bools:
        """Everybody measures the paths it chose, and the direct ones beside them, end to end.

        Returns:
            Shape (n, n): pairs whose path was measured better than direct by the margin: the median of three medians.
        """
        rows, columns = np.nonzero(via >= 0)
        relays = via[rows, columns]
        clocks = self.clock(now)
        skew = clocks[columns] - clocks[rows]
        told = np.maximum(*(array[rows, relays] + array[relays, columns] for array in (view.mean_ms, view.last_ms)))
        told_direct = np.maximum(view.mean_ms, view.last_ms)
        self.watched |= via >= 0
        others = np.nonzero(self.watched)
        gains: list[Floats] = []
        for at in (now, now + ROUND_S / 3, now + 2 * ROUND_S / 3):
            legs = self.owl[rows, relays] + self.owl[relays, columns] + np.median(self.queue((5, 2, len(rows))).sum(axis=1), axis=0) + 0.2
            direct = self.owl[others] + np.median(self.queue((5, len(others[0]))), axis=0) + clocks[others[1]] - clocks[others[0]]
            for i, j, k, predicted, observed in zip(*(part.tolist() for part in (rows, columns, relays, told, legs + skew)), strict=True):
                self.witnesses[i].path_measured(self.ids[j], (self.ids[k],), predicted, observed, at)
            for i, j, predicted, observed in zip(*(part.tolist() for part in (*others, told_direct[others], direct)), strict=True):
                self.witnesses[i].path_measured(self.ids[j], (), predicted, observed, at)
            straight = np.full((self.n, self.n), np.nan)
            straight[others] = direct
            gains.append(straight[rows, columns] - legs - skew)
        is_better = np.zeros((self.n, self.n), np.bool_)
        is_better[rows, columns] = np.median(gains, axis=0) >= self.scenario.margin_ms
        return is_better

    def check(self, view: OwlSnapshot, now: float, *, is_lying: bool) -> None:
        """All honest members check; what they want and send is done."""
        for i, witness in enumerate(self.witnesses):
            if self.is_liar[i]:
                continue
            start = time.process_time()
            witness.check(view, now)
            self.check_s.append(time.process_time() - start)
            witness.handle_timer(now, WALL_NS + int(now * 1e9))
        self.deliver(now)
        for i, witness in enumerate(self.witnesses):
            while (event := witness.next_event()) is not None:
                if isinstance(event, EchoWanted):
                    for _ in range(event.probes):
                        self.echo(i, self.ids.index(event.node_id), now, is_lying=is_lying)
                elif isinstance(event, LieFound):
                    self.found[event.kind] = self.found.get(event.kind, 0) + 1
                elif isinstance(event, PeerQuarantined):
                    self.quarantined.setdefault(event.node_id, now)

    def deliver(self, now: float) -> None:
        """Carry VOTE frames."""
        for i, witness in enumerate(self.witnesses):
            for content, (_, port) in list(witness.datagrams_to_send(now, lambda: 0)):
                if not self.is_liar[port]:
                    frame = Frame(self.ids[i], FrameType.VOTE, 0, 0, 0, content)
                    self.witnesses[port].receive_frame(frame, now, WALL_NS + int(now * 1e9))

    def slander(self, now: float) -> None:
        """All liars vote against the first honest members."""
        honest = [index for index in range(self.n) if not self.is_liar[index]]
        wall_s = WALL_NS // 10**9 + int(now)
        for k in self.liars:
            votes = [cast_vote(self.identities[k], b"g" * 32, self.ids[index], Kind.ECHO, wall_s) for index in honest[:SLANDERED]]
            for content in frames_of_votes(votes):
                for index in honest:
                    frame = Frame(self.ids[k], FrameType.VOTE, 0, 0, 0, content)
                    self.witnesses[index].receive_frame(frame, now, wall_s * 10**9)

    def trust(self) -> Bools:
        """Shape (n, n): whether i would use k."""
        return np.array([[witness.is_trusted(node) for node in self.ids] for witness in self.witnesses], np.bool_)


def choose(view: OwlSnapshot, trusted: Bools, margin_ms: float) -> npt.NDArray[np.int64]:
    """Return the relay of each ordered pair, -1 for the direct path; shape (n, n)."""
    n = len(view.members)
    mean = view.mean_ms
    via = np.full((n, n), -1, np.int64)
    for i in range(n):
        first = np.where(trusted[i], mean[i], np.inf)
        first[i] = np.inf
        sums = first[:, None] + mean
        sums = np.where(np.isfinite(sums), sums, np.inf)
        best = np.argmin(sums, axis=0)
        gain = mean[i] - sums[best, np.arange(n)]
        via[i] = np.where(gain > margin_ms, best, -1)  # NaN, the own column, compares false
    return via


def run(scenario: Scenario, seed: int) -> dict[str, float]:
    """Play one scenario."""
    world = World(scenario, seed)
    n, liars = world.n, world.liars
    everybody = np.ones((n, n), np.bool_)
    honest_counts: list[int] = []
    checked: list[int] = []
    unchecked: list[int] = []
    honest_data: list[int] = []
    data: list[int] = []
    names = np.flatnonzero(~world.is_liar)

    def attracted(via: npt.NDArray[np.int64], among: Bools = everybody) -> int:
        return int((np.isin(via, liars) & among)[names].sum())

    for number in range(WARM_ROUNDS + LYING_ROUNDS):
        now, is_lying = (number + 1) * ROUND_S, number >= WARM_ROUNDS
        world.tell(number, is_lying=is_lying)
        for i, j in zip(*np.nonzero(world.rng.random((n, n)) < ROUND_S / 60), strict=True):
            if i != j and not world.is_liar[i]:
                world.echo(int(i), int(j), now - 5.0, is_lying=is_lying)
        if number == WARM_ROUNDS and scenario.is_colluding:
            world.slander(now)
        view = world.matrix.snapshot(now)
        via = choose(view, world.trust(), scenario.margin_ms)
        via[liars] = -1
        if is_lying:
            checked.append(attracted(via))
            unchecked.append(attracted(choose(view, everybody, scenario.margin_ms)))
        elif number >= 4:
            honest_counts.append(attracted(choose(view, everybody, scenario.margin_ms)))
        if number >= 2:
            world.check(view, now, is_lying=is_lying)
            carried = attracted(via, world.measure_paths(via, view, now))
            if is_lying:
                data.append(carried)
            elif number >= 4:
                honest_data.append(carried)
    return figures(world, honest_counts, checked, unchecked) | {
        "honest_data_pairs": statistics.median(honest_data),
        "after_data_pairs": float(data[INTERVAL_ROUNDS]),
        "most_data_pairs": float(max(data)),
    }


def figures(world: World, honest_counts: list[int], checked: list[int], unchecked: list[int]) -> dict[str, float]:
    """Sum up one run."""
    honest = statistics.median(honest_counts)
    spread = max(honest_counts) - honest
    drawn = next((index for index, pairs in enumerate(unchecked) if pairs > max(1.1 * honest, honest + 2 * spread + 1)), None)
    trust = world.trust()[~world.is_liar]
    quiet = next((index for index in range(len(checked)) if all(pairs <= 1.1 * honest + 1 for pairs in checked[index:])), None)
    honest_ids = {world.ids[index] for index in np.flatnonzero(~world.is_liar)}
    lying_from = WARM_ROUNDS * ROUND_S
    result = {
        "honest_pairs": honest,
        "unchecked_pairs": float(unchecked[-1]),
        "after_pairs": float(checked[INTERVAL_ROUNDS]),
        "last_pairs": float(checked[-1]),
        "accused": float((~trust[:, ~world.is_liar]).any(axis=0).sum() + len(honest_ids & world.quarantined.keys())),
        "distrusting_share": float((~trust[:, world.is_liar]).mean()),
        "named_liars_share": float((~trust[:, world.is_liar]).any(axis=0).mean()),
        "quarantined_liars_share": sum(world.ids[k] in world.quarantined for k in world.liars) / len(world.liars),
        "check_cpu_ms": statistics.median(world.check_s) * 1e3,
    }
    if drawn is not None and quiet is not None:
        result["detect_s"] = max(0, quiet - drawn) * ROUND_S
    times = [at - lying_from for node, at in world.quarantined.items() if node not in honest_ids]
    if times:
        result["quarantine_s"] = statistics.median(times)
    return result


def summary(results: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Median, least and greatest over seeds."""
    keys = list(dict.fromkeys(key for result in results for key in result))
    table: dict[str, dict[str, float]] = {}
    for key in keys:
        values = [result[key] for result in results if key in result]
        figures_of: dict[str, Callable[[list[float]], float]] = {"median": statistics.median, "min": min, "max": max}
        table[key] = {name: round(function(values), 3) for name, function in figures_of.items()} | {"runs": len(values)}
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description="What lying relays gain, and what is left of it after one detection interval.")
    parser.add_argument("--json", action="store_true", help="print JSON only")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", help="scenarios, separated by commas; default all")
    parser.add_argument("--output", type=Path, help="write the JSON there as well")
    arguments = parser.parse_args()
    setattr(evidence, "is_signed_by", functools.cache(is_signed_by))  # noqa: B010 - the module's own name, for all members of this process
    table: dict[str, dict[str, dict[str, float]]] = {}
    for scenario in SCENARIOS:
        if arguments.only and scenario.name not in arguments.only.split(","):
            continue
        results = []
        for seed in range(1, arguments.seeds + 1):
            print(f"{scenario.name}: seed {seed} of {arguments.seeds}", file=sys.stderr)
            results.append(run(scenario, seed))
        table[scenario.name] = summary(results)
        if not arguments.json:
            print_row(scenario.name, table[scenario.name])
    has_traces = "wondernetwork2020.npz" if os.environ.get("SRWAN_TRACES") else "synthetic"
    document = {
        "benchmark": "liars",
        "seeds": arguments.seeds,
        "geography": has_traces,
        "python": platform.python_version(),
        "scenarios": table,
    }
    text = json.dumps(document, indent=1)
    if arguments.output:
        arguments.output.write_text(text + "\n")
    if arguments.json:
        print(text)
    return 0


def print_row(name: str, row: dict[str, dict[str, float]]) -> None:
    """One line for people."""
    cells = [f"{key} {cell['median']:g} ({cell['min']:g}..{cell['max']:g})" for key, cell in row.items()]
    print(f"{name:18}", "; ".join(cells), flush=True)


if __name__ == "__main__":
    sys.exit(main())
