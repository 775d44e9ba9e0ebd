"""What must hold in every simulation, whatever the faults. A violation ends the run with the seed, the time and the node.

| name | what | when |
|---|---|---|
| time-rises | no event is earlier than the one before | every step |
| core-raised-nothing | what a peer sends never raises out of a core | every step |
| timers-advance | a router's timer is not due for ever, whatever is called | every step |
| output-bounded | one call into a router makes at most `OUTPUT_MAX` datagrams and leaves no events behind | every step |
| healthy-stays | a member without faults is removed by nobody | every removal |
| sequence-rises | (boot, seq) of a router's own rows rises | every `INTERVAL_S`, all routers |
| rows-rise | (boot, seq) of every row held never falls | every interval, one router in turn |
| diagonal-unknown | a router never knows a latency to itself | every interval, one router in turn |
| digest-names-roster | equal digests mean equal members | every interval, one router in turn |
| inbox-bounded | a paused router's socket buffer is bounded | every interval, all routers |
| views-converge | routers without faults agree, `CONVERGE_S` after the last start, burial, return or fault | every interval, all routers |

The first five are O(1) at their event. A whole interval costs O(n) in a group of n: checks that are O(n) for one router take one at a time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import attrs
import numpy as np

from srwan.errors import SrwanError
from srwan.testing.router import SimRouter
from srwan.types import NodeId

__all__ = ["INTERVAL_S", "InvariantViolated", "Invariants"]

INBOX_OCTETS_MAX = 212_992
"""Socket buffer of a process that does not run: the default of Linux (net.core.rmem_default)."""
ROWS_EVERY = 5
"""Every so many intervals the rows and the matrix of one router are looked at: that folds a matrix which nobody else may have asked for."""
INTERVAL_S = 1.0
OUTPUT_MAX = 4_096
"""Datagrams of one call into a router: a few to each of 127 others."""
CONVERGE_S = 60.0
"""Two PULL intervals at their longest: what loss left out is repaired by then."""
CHECKS = (
    "time-rises",
    "core-raised-nothing",
    "timers-advance",
    "output-bounded",
    "healthy-stays",
    "sequence-rises",
    "rows-rise",
    "diagonal-unknown",
    "digest-names-roster",
    "inbox-bounded",
    "views-converge",
)


class InvariantViolated(SrwanError):
    """Something that must always hold did not. The simulation stopped there; the same seed and faults lead to the same place."""

    def __init__(self, name: str, at_s: float, node: int, detail: str) -> None:
        super().__init__(f"{name} was violated at {at_s:.3f} s by node {node}: {detail}")
        self.name = name
        self.at_s = at_s
        self.node = node
        """Index in the whole simulation."""
        self.detail = detail


class Watched(Protocol):
    """What is read of a simulated node."""

    number: int
    """Index in the whole simulation."""
    router: SimRouter | None
    """None while it is down."""
    is_spoilt: bool
    """Whether it has or had a fault."""
    inbox_octets: int


@attrs.define(slots=True)
class Count:
    """How often an invariant was checked, and violated."""

    checks: int = 0
    """Times checked."""
    violations: int = 0
    """Times violated; the first ends the run."""


class Invariants:
    """Checks one group."""

    def __init__(self) -> None:
        self.counts = {name: Count() for name in CHECKS}
        self._turn = 0
        self._own: dict[int, tuple[int, int]] = {}
        self._held: dict[tuple[int, NodeId], tuple[int, int]] = {}
        self._rosters: dict[bytes, tuple[NodeId, ...]] = {}

    def violated(self, name: str, at_s: float, node: int, detail: str) -> InvariantViolated:
        """Count a violation and return the error to raise."""
        self.counts[name].violations += 1
        return InvariantViolated(name, at_s, node, detail)

    def note_steps(self, steps: int) -> None:
        """Count what the event loop checks itself at every step."""
        for name in ("time-rises", "core-raised-nothing", "timers-advance", "output-bounded"):
            self.counts[name].checks += steps

    def require_reason_to_remove(self, at_s: float, observer: int, subject: Watched, reason: str) -> None:
        """A member was removed: it must have had a fault."""
        self.counts["healthy-stays"].checks += 1
        if not subject.is_spoilt:
            raise self.violated("healthy-stays", at_s, subject.number, f"node {observer} removed it ({reason}), and it has no fault")

    def check_interval(self, at_s: float, nodes: Iterable[Watched], *, is_settled: bool) -> None:
        """Check what is checked at intervals.

        Args:
            at_s: simulated seconds.
            nodes: all of the group.
            is_settled: whether nothing happened for `CONVERGE_S`.
        """
        up = [(node, node.router) for node in nodes if node.router is not None]
        for node, router in up:
            self._check_own(at_s, node, router)
        self._turn += 1
        if up and self._turn % ROWS_EVERY == 0:
            self._check_rows(at_s, *up[self._turn // ROWS_EVERY % len(up)])
        if is_settled:
            self._check_views(at_s, [(node, router) for node, router in up if not node.is_spoilt])

    def _check_own(self, at_s: float, node: Watched, router: SimRouter) -> None:
        self.counts["inbox-bounded"].checks += 1
        if node.inbox_octets > INBOX_OCTETS_MAX:
            raise self.violated("inbox-bounded", at_s, node.number, f"its socket buffer holds {node.inbox_octets} octets")
        self.counts["sequence-rises"].checks += 1
        version = router.boot, router.pulse.seq
        if version < self._own.get(node.number, version):
            raise self.violated("sequence-rises", at_s, node.number, f"its row {version} follows {self._own[node.number]}")
        self._own[node.number] = version

    def _check_rows(self, at_s: float, node: Watched, router: SimRouter) -> None:
        for name in ("rows-rise", "diagonal-unknown", "digest-names-roster"):
            self.counts[name].checks += 1
        for owner, signed in router.pulse.rows.items():
            key, version = (router.boot, owner), (signed.row.boot, signed.row.seq)
            before = self._held.get((node.number, owner), version)
            if version < before and key[0] == router.boot:
                raise self.violated("rows-rise", at_s, node.number, f"it held {before} of {owner!r}, and now {version}")
            self._held[node.number, owner] = version
        if not np.isnan(np.diagonal(router.pulse.snapshot(at_s).last_ms)).all():
            raise self.violated("diagonal-unknown", at_s, node.number, "it knows a latency from itself to itself")
        ids = router.view.ids
        if self._rosters.setdefault(router.view.digest, ids) != ids:
            raise self.violated("digest-names-roster", at_s, node.number, "its view has the digest of another")

    def _check_views(self, at_s: float, healthy: list[tuple[Watched, SimRouter]]) -> None:
        self.counts["views-converge"].checks += 1
        wanted = {router.node_id for _, router in healthy}
        for node, router in healthy:
            if router.view.digest != healthy[0][1].view.digest or not wanted <= set(router.view.ids):
                detail = f"it sees {len(router.view)} members, node {healthy[0][0].number} sees {len(healthy[0][1].view)}"
                raise self.violated("views-converge", at_s, node.number, detail)
