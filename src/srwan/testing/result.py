"""What a simulation came to: figures of the run, and what the group concluded of each fault, and when."""

from __future__ import annotations

import resource
from collections import Counter
from collections.abc import Sequence
from typing import Any

import attrs

from srwan.testing.faults import Fault
from srwan.testing.simnet import SimGroup
from srwan.testing.trace import Removal, ViewChange

__all__ = ["FaultOutcome", "GroupResult", "SimulationResult", "agreement_at", "group_result", "latest", "outcome_of"]


@attrs.frozen(slots=True, kw_only=True)
class GroupResult:
    """What is kept of a group that ran; plain values, so that it passes between processes."""

    numbers: tuple[int, ...]
    """Of the nodes, by their indices in the group."""
    spoilt: frozenset[int]
    """Indices of those that a fault ever named."""
    violation: str
    """What did not hold; "" if all did."""
    trace_digest: bytes
    """16 bytes over all that happened."""
    events: int
    """Datagrams delivered, timers fired, actions of the simulator."""
    fuzzed: int
    """Hostile datagrams sent."""
    filled_s: float | None
    """When all knew their whole matrix, simulated seconds; None: never."""
    removals: tuple[Removal, ...]
    view_changes: tuple[ViewChange, ...]
    sent: dict[int, tuple[int, int]]
    """By frame type: datagrams and bytes."""
    lost: dict[str, int]
    """Datagrams that did not arrive, by cause."""
    drops: dict[str, int]
    """Datagrams that arrived and were refused, by reason."""
    conclusions: dict[str, int]
    """Events of cores, by name."""
    invariants: dict[str, tuple[int, int]]
    """By name: checks, violations."""
    rss_mb: float
    """Greatest resident memory of the process so far, MB."""


def group_result(group: SimGroup, violation: str) -> GroupResult:
    """Return what is kept of a group that ran."""
    trace, drops = group.trace, Counter[str]()
    for node in group.nodes:
        if node.router is not None:
            drops.update(node.router.all_drops)
    return GroupResult(
        numbers=tuple(node.number for node in group.nodes),
        spoilt=frozenset(node.index for node in group.nodes if node.is_spoilt),
        violation=violation,
        trace_digest=trace.digest,
        events=trace.events,
        fuzzed=group.fuzzed,
        filled_s=latest([trace.filled_at.get(node.index) for node in group.nodes]) if len(group.nodes) > 1 else 0.0,
        removals=tuple(trace.removals),
        view_changes=tuple(trace.view_changes),
        sent={kind: (count, size) for kind, (count, size) in group.sent.items()},
        lost=dict(group.lost),
        drops=dict(drops),
        conclusions=dict(trace.conclusions),
        invariants={name: (found.checks, found.violations) for name, found in group.invariants.counts.items()},
        rss_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )


def latest(times: Sequence[float | None]) -> float | None:
    """Return the greatest; None if one is missing or there are none."""
    known = [at for at in times if at is not None]
    return max(known, default=None) if len(known) == len(times) else None


@attrs.frozen(slots=True, kw_only=True)
class FaultOutcome:
    """One fault, and what those without a fault concluded of it."""

    kind: str
    at_s: float
    """When it began, simulated seconds."""
    nodes: tuple[int, ...]
    """Who had it."""
    removed: int
    """How many of them were removed by at least one survivor."""
    removed_by_all: int
    """How many of them were removed by every survivor of their group."""
    first_after_s: float | None
    """From the beginning until the first survivor removed one of them; None: nobody did."""
    last_after_s: float | None
    """Until the last survivor removed the last of those that all removed; None: none was removed by all."""
    false_removals: int
    """Removals of members without a fault, by anybody, while it lasted and `SETTLE_S` more."""
    view_changes: int
    """The most different views that one survivor went through in that time."""


SETTLE_S = 60.0
"""What is concluded so long after a fault's end still counts as its consequence."""


@attrs.frozen(slots=True, kw_only=True)
class SimulationResult:
    """A whole simulation. Rates are means over the run."""

    nodes: int
    """Nodes simulated."""
    minutes: float
    """Simulated minutes."""
    seed: int
    """What everything was drawn from."""
    groups: int
    """Pulse groups."""
    has_real_crypto: bool
    wall_s: float
    events: int
    """Datagrams delivered, timers fired, actions of the simulator."""
    events_per_s: float
    """Events per second of wall time."""
    trace_hash: str
    """32 hex digits; equal runs have equal hashes."""
    rss_mb: float
    """Greatest resident memory of the process so far, MB."""
    invariants: dict[str, tuple[int, int]]
    """By name: checks, violations."""
    violation: str
    """What did not hold; "" if all did."""
    agreed_s: float | None
    """When the views of all groups agreed first with all their nodes in, simulated seconds; None: never."""
    filled_s: float | None
    """When all nodes knew their whole matrix, simulated seconds; None: never."""
    bytes_per_s: float
    """Sent by a node, on average."""
    datagrams_per_s: float
    """Sent by a node, on average."""
    traffic: dict[str, tuple[float, float]]
    """By frame type: datagrams and bytes a second and node."""
    lost: dict[str, int]
    """Datagrams that did not arrive, by cause."""
    drops: dict[str, int]
    """Datagrams that arrived and were refused, by reason."""
    conclusions: dict[str, int]
    """Events of cores, by name."""
    removals: int
    """Times that a router took another off its view."""
    fuzzed: int
    """Hostile datagrams sent."""
    faults: tuple[FaultOutcome, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values for `json.dumps`."""
        plain = attrs.asdict(self)
        plain["invariants"] = {name: {"checks": checks, "violations": found} for name, (checks, found) in self.invariants.items()}
        plain["traffic"] = {name: {"datagrams_per_s": count, "bytes_per_s": size} for name, (count, size) in self.traffic.items()}
        return plain


def agreement_at(group: GroupResult, nodes: int) -> float | None:
    """Return when all nodes of a group had one view with all of them in it, None: never. A group of one agrees at once."""
    held: dict[int, bytes] = {}
    sizes: Counter[bytes] = Counter()
    if nodes <= 1:
        return 0.0
    for change in group.view_changes:
        before = held.get(change.observer)
        if before is not None:
            sizes[before] -= 1
        held[change.observer] = change.digest
        sizes[change.digest] += 1
        if change.size == nodes and sizes[change.digest] == nodes:
            return change.at_s
    return None


def outcome_of(
    fault: Fault, until_s: float, groups: Sequence[tuple[GroupResult, tuple[int, ...], frozenset[int], tuple[int, ...]]]
) -> FaultOutcome:
    """Return what the groups concluded of a fault.

    Args:
        fault: the fault.
        until_s: end of the simulation, simulated seconds.
        groups: what is kept of it, indices in the group of those that had it, indices of all with any fault, and for each index its number.
    """
    end_s = min(until_s, fault.at_s + (fault.for_s if fault.for_s is not None else until_s) + SETTLE_S)
    removed = removed_by_all = false_removals = view_changes = 0
    first: float | None = None
    last: float | None = None
    numbers: list[int] = []
    for group, having, spoilt, all_numbers in groups:
        if not having:
            continue
        numbers += [all_numbers[index] for index in having]
        survivors = [index for index in range(len(all_numbers)) if index not in spoilt]
        known: dict[int, dict[int, float]] = {index: {} for index in having}
        for removal in group.removals:
            if not fault.at_s <= removal.at_s <= end_s or removal.observer in spoilt:
                continue
            if removal.subject not in spoilt:
                false_removals += 1
            if removal.subject in known:
                known[removal.subject].setdefault(removal.observer, removal.at_s)
        for times in known.values():
            if not times:
                continue
            removed += 1
            first = min(times.values()) if first is None else min(first, *times.values())
            if len(times) == len(survivors):
                removed_by_all += 1
                last = max(times.values()) if last is None else max(last, *times.values())
        changes = Counter(
            change.observer for change in group.view_changes if fault.at_s <= change.at_s <= end_s and change.observer not in spoilt
        )
        view_changes = max(view_changes, *changes.values(), 0)
    return FaultOutcome(
        kind=fault.kind,
        at_s=fault.at_s,
        nodes=tuple(sorted(numbers)),
        removed=removed,
        removed_by_all=removed_by_all,
        first_after_s=None if first is None else first - fault.at_s,
        last_after_s=None if last is None else last - fault.at_s,
        false_removals=false_removals,
        view_changes=view_changes,
    )
