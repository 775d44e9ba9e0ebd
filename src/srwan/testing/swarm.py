"""Thousands of routers, from a seed: builds the groups, runs one after the other, and says what came of it.

    result = simulate(SimulationOptions(nodes=1000, minutes=10, seed=1), jobs=2)

Keys, places, clocks, phases, losses and faults are drawn from the seed, each node's with a generator of its own. Nodes are placed into
pulse groups as on a network, by `srwan.overlay.group.partition` with a salt from the seed.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import struct
import time
from collections import Counter
from collections.abc import Callable
from functools import partial

import attrs

from srwan.errors import ConfigError
from srwan.gossip.core import GossipConfig
from srwan.identity import Identity
from srwan.overlay.frame import FrameCodec, FrameType
from srwan.overlay.group import group_id, partition
from srwan.testing.faults import Faults, choose_nodes
from srwan.testing.frames import SimFrameCodec, SimIdentity
from srwan.testing.invariants import CHECKS, InvariantViolated
from srwan.testing.jobs import run_in_processes
from srwan.testing.links import LinkLatencies, synthetic_geography
from srwan.testing.result import GroupResult, SimulationResult, agreement_at, group_result, latest, outcome_of
from srwan.testing.router import RouterSettings, SimClock
from srwan.testing.simnet import SimGroup, SimNode
from srwan.types import GeoAsn, NodeId

__all__ = ["Simulation", "SimulationOptions", "simulate"]

NODES_MAX = 100_000
MINUTES_MAX = 100_000.0
JOBS_MAX = 256
STEP_S = 1.0
"""Simulated seconds between two looks at progress and invariants."""
PORT = 4710


@attrs.frozen(slots=True, kw_only=True)
class SimulationOptions:
    """What to simulate.

    Raises:
        ConfigError: a value is out of its range.
    """

    nodes: int = 100
    """Routers, 1..100,000; groups of up to 100."""
    minutes: float = 2.0
    """Simulated time, more than 0."""
    seed: int = 1
    """What everything is drawn from."""
    faults: Faults = attrs.field(factory=Faults)
    has_real_crypto: bool = False
    """Real pair keys and tags, datagrams as bytes, all signatures of reports verified: slower by a third to a half."""
    has_reviews: bool = False
    """Whether routers also look for lies, steps and drift, and anomalies."""
    latency: LinkLatencies | None = None
    """One-way latencies between all nodes; None: drawn, on a sphere."""

    def __attrs_post_init__(self) -> None:
        if not 1 <= self.nodes <= NODES_MAX:
            raise ConfigError("nodes", f"{self.nodes} is out of range", f"give 1..{NODES_MAX}")
        if not 0 < self.minutes <= MINUTES_MAX:
            raise ConfigError("minutes", f"{self.minutes:g} is out of range", f"give more than 0, up to {MINUTES_MAX:g}")
        if not -(2**63) <= self.seed < 2**63:
            raise ConfigError("seed", f"{self.seed} is out of range", "give 64 bits")
        if self.latency is not None and self.latency.nodes != self.nodes:
            raise ConfigError("latency", f"it is for {self.latency.nodes} nodes", f"give one for {self.nodes}, or other nodes")


class Simulation:
    """Groups of routers, made one after the other.

    Args:
        options: see there.

    Raises:
        ConfigError: a fault names nodes that are not there.
    """

    def __init__(self, options: SimulationOptions) -> None:
        self.options = options
        self._seed = hashlib.blake2b(struct.pack("<q", options.seed), digest_size=32, person=b"srwan/sim/seed").digest()
        make = Identity if options.has_real_crypto else SimIdentity
        self._identities = [make(self._derive(b"identity", number)) for number in range(options.nodes)]
        number_of = {identity.node_id: number for number, identity in enumerate(self._identities)}
        leaves = partition(number_of, self._derive(b"salt", 0))
        self.groups: tuple[tuple[str, tuple[NodeId, ...]], ...] = tuple(
            (prefix, tuple(sorted(members))) for prefix, members in sorted(leaves.items()) if members
        )
        """Prefix and members of each group that is not empty."""
        self._number_of = number_of
        self._targets = []
        for index, fault in enumerate(options.faults.faults):
            rng = random.Random(self._derive(b"fault", index))
            having = choose_nodes(fault.nodes, options.nodes, rng, "fault.nodes")
            towards = choose_nodes(fault.towards, options.nodes, rng, "fault.towards") if fault.kind == "cut" else ()
            self._targets.append((frozenset(having), frozenset(towards)))

    def make_group(self, index: int) -> SimGroup:
        """Return one of `groups` at time 0, nobody started."""
        options = self.options
        prefix, members = self.groups[index]
        group, seed = group_id("simulation", prefix), self._derive(b"group", index)
        rng = random.Random(seed)
        numbers = tuple(self._number_of[node] for node in members)
        if options.latency is None:
            latency_ms, locations = synthetic_geography(len(members), rng, options.faults)
            latency = LinkLatencies(latency_ms)
        else:
            latency, locations = options.latency.part(numbers), [GeoAsn()] * len(members)
        nodes = []
        for slot, number in enumerate(numbers):
            own = random.Random(self._derive(b"node", number))
            faults = options.faults
            settings = RouterSettings(
                identity=self._identities[number],
                group=group,
                address=(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", PORT),
                location=locations[slot],
                clock=SimClock(own.uniform(-faults.offset_s, faults.offset_s), own.uniform(-faults.drift_ppm, faults.drift_ppm)),
                make_codec=FrameCodec if options.has_real_crypto or faults.is_fuzzed else SimFrameCodec,
                gossip=GossipConfig() if options.has_reviews else GossipConfig(review_s=None),
                has_real_crypto=options.has_real_crypto,
            )
            nodes.append(SimNode(slot, number, settings, own.randbytes(32)))
        slots = {number: slot for slot, number in enumerate(numbers)}
        targets = [
            (
                tuple(slots[number] for number in sorted(having) if number in slots),
                tuple(slots[number] for number in sorted(towards) if number in slots),
            )
            for having, towards in self._targets
        ]
        return SimGroup(nodes, latency, options.faults, targets, seed, options.minutes * 60)

    def run(self, on_progress: Callable[[float], None] | None = None, *, jobs: int = 1) -> SimulationResult:
        """Run all groups, one after the other or several at once; the result is the same but for the time it took.

        Args:
            on_progress: called with the share done, 0..1, at least once per simulated second and group, or some times a second.
            jobs: processes; with more than one the caller's main module is imported by each (see `multiprocessing`, "spawn").

        A violated invariant ends the run; the result says which, and the figures are those until then.

        Raises:
            ConfigError: jobs is out of range.
        """
        if not 1 <= jobs <= JOBS_MAX:
            raise ConfigError("jobs", f"{jobs} is out of range", f"give 1..{JOBS_MAX}")
        started = time.perf_counter()
        tally = _Tally()
        report = on_progress or (lambda _: None)
        results = (
            run_in_processes(self.options, len(self.groups), jobs, report)
            if min(jobs, len(self.groups)) > 1
            else (self.run_group(index, partial(self._report_share, report, index)) for index in range(len(self.groups)))
        )
        with contextlib.closing(results):
            for result in results:
                tally.add(result)
                if result.violation:
                    break
        return self._result(tally, time.perf_counter() - started)

    def run_group(self, index: int, on_progress: Callable[[float], None]) -> GroupResult:
        """Run one of `groups`.

        Args:
            index: which.
            on_progress: called with the share of it done, 0..1, once per simulated second.
        """
        until_s = self.options.minutes * 60
        group = self.make_group(index)
        violation, now = "", 0.0
        try:
            while now < until_s:
                now = min(until_s, now + STEP_S)
                group.run(now)
                on_progress(now / until_s)
        except InvariantViolated as violated:
            violation = str(violated)
        return group_result(group, violation)

    def _report_share(self, report: Callable[[float], None], index: int, share: float) -> None:
        report((index + share) / len(self.groups))

    def _result(self, tally: _Tally, wall_s: float) -> SimulationResult:
        options = self.options
        until_s = options.minutes * 60
        node_seconds = options.nodes * until_s
        traffic = {
            FrameType(kind).name: (count / node_seconds, size / node_seconds) for kind, (count, size) in sorted(tally.sent.items()) if count
        }
        outcomes = []
        for index, fault in enumerate(options.faults.faults):
            having = self._targets[index][0]
            parts = [
                (group, tuple(slot for slot, number in enumerate(group.numbers) if number in having), group.spoilt, group.numbers)
                for group in tally.groups
            ]
            outcomes.append(outcome_of(fault, until_s, parts))
        return SimulationResult(
            nodes=options.nodes,
            minutes=options.minutes,
            seed=options.seed,
            groups=len(self.groups),
            has_real_crypto=options.has_real_crypto,
            wall_s=wall_s,
            events=tally.events,
            events_per_s=tally.events / max(wall_s, 1e-9),
            trace_hash=tally.hash.hexdigest(),
            rss_mb=tally.rss_mb,
            invariants={name: (checks, found) for name, (checks, found) in tally.invariants.items()},
            violation=tally.violation,
            agreed_s=latest([agreement_at(group, len(group.numbers)) for group in tally.groups]),
            filled_s=latest([group.filled_s for group in tally.groups]),
            bytes_per_s=sum(size for _, size in traffic.values()),
            datagrams_per_s=sum(count for count, _ in traffic.values()),
            traffic=traffic,
            lost=dict(sorted(tally.lost.items())),
            drops=dict(sorted(tally.drops.items())),
            conclusions=dict(sorted(tally.conclusions.items())),
            removals=sum(len(group.removals) for group in tally.groups),
            fuzzed=tally.fuzzed,
            faults=tuple(outcomes),
        )

    def _derive(self, purpose: bytes, number: int) -> bytes:
        return hashlib.blake2b(purpose + struct.pack("<Q", number), key=self._seed, digest_size=32, person=b"srwan/sim/draw").digest()


def simulate(options: SimulationOptions, on_progress: Callable[[float], None] | None = None, *, jobs: int = 1) -> SimulationResult:
    """Run a simulation; see `Simulation.run`.

    Raises:
        ConfigError: a fault names nodes that are not there, or jobs is out of range.
    """
    return Simulation(options).run(on_progress, jobs=jobs)


class _Tally:
    """Sums over groups, in their order."""

    def __init__(self) -> None:
        self.hash = hashlib.blake2b(digest_size=16, person=b"srwan/traces/1")
        self.events = 0
        self.fuzzed = 0
        self.rss_mb = 0.0
        self.violation = ""
        self.sent: dict[int, tuple[int, int]] = {}
        self.lost: Counter[str] = Counter()
        self.drops: Counter[str] = Counter()
        self.conclusions: Counter[str] = Counter()
        self.invariants: dict[str, tuple[int, int]] = dict.fromkeys(CHECKS, (0, 0))
        self.groups: list[GroupResult] = []

    def add(self, result: GroupResult) -> None:
        """Take in a group that ran."""
        self.hash.update(result.trace_digest)
        self.events += result.events
        self.fuzzed += result.fuzzed
        self.rss_mb = max(self.rss_mb, result.rss_mb)
        self.violation = result.violation
        self.lost.update(result.lost)
        self.drops.update(result.drops)
        self.conclusions.update(result.conclusions)
        for kind, (count, size) in result.sent.items():
            before = self.sent.get(kind, (0, 0))
            self.sent[kind] = before[0] + count, before[1] + size
        for name, (checks, found) in result.invariants.items():
            before = self.invariants[name]
            self.invariants[name] = before[0] + checks, before[1] + found
        self.groups.append(result)
