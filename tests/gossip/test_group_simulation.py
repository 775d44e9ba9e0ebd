"""Whole groups of pulse and reporter cores on one event heap: seeded latencies, loss, clocks that are seconds apart and drift."""

from __future__ import annotations

import hashlib
import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest

from srwan.errors import RemoteProtocolError
from srwan.gossip.events import ClockRealigned, MatrixFilled, MatrixIncomplete
from srwan.gossip.pulse import Pulse
from srwan.gossip.reporter import ReportDue, Reporter, ReporterTookOver, ReportPublished
from srwan.identity import Identity
from srwan.overlay.frame import FrameCodec, FrameType
from srwan.types import UdpAddress

GROUP = bytes(range(32))
WALL_NS = 1_700_000_000_000_000_000


class Member:
    """One node: cores, and a clock that is off and drifts."""

    def __init__(self, index: int, rng: random.Random, *, offset_s: float, drift_ppm: float) -> None:
        self.index = index
        self.identity = Identity(rng.randbytes(32))
        self.node_id = self.identity.node_id
        self.address: UdpAddress = ("127.0.0.1", 10_000 + index)
        self.frames = FrameCodec(self.identity, 7, 1000)
        self.pulse = Pulse(self.identity, self.frames, GROUP, boot=1000, rng=random.Random(rng.random()))
        self.reporter = Reporter(self.node_id, self.frames, GROUP)
        self.offset_s = offset_s
        self.rate = 1 + drift_ppm * 1e-6
        self.is_up = True
        self.events: list[tuple[float, Any]] = []
        self.filled_at: float | None = None
        self.timer_at = float("inf")

    def stamp_ns(self, now: float) -> int:
        return WALL_NS + int((self.offset_s + now * self.rate) * 1e9)


class Group:
    """Members, links and the heap."""

    def __init__(
        self, n: int, seed: int, *, loss: float = 0.01, offset_s: float = 5.0, drift_ppm: float = 50.0, queue_ms: float = 0.05
    ) -> None:
        self.rng = random.Random(seed)
        self.members = [
            Member(i, self.rng, offset_s=self.rng.uniform(-offset_s, offset_s), drift_ppm=self.rng.uniform(-drift_ppm, drift_ppm))
            for i in range(n)
        ]
        self.by_address = {member.address: member for member in self.members}
        places = [(self.rng.random(), self.rng.random()) for _ in range(n)]
        self.latency_ms = np.array([[2 + 130 * ((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2) ** 0.5 for b in places] for a in places])
        self.latency_ms *= np.array([[self.rng.uniform(0.9, 1.3) for _ in range(n)] for _ in range(n)])
        self.loss = loss
        self.queue_ms = queue_ms
        self.now = 0.0
        self.heap: list[tuple[float, int, Callable[[], None]]] = []
        self.order = itertools.count()
        self.sent: Counter[FrameType] = Counter()
        self.is_cut: Callable[[int, int], bool] = lambda _i, _j: False
        self.longest = 0

    def at(self, when: float, action: Callable[[], None]) -> None:
        heapq.heappush(self.heap, (when, next(self.order), action))

    def introduce(self, when: float, member: Member, others: list[Member] | None = None) -> None:
        """Give `member` the roster at `when`."""
        roster = {other.node_id: other.address for other in (self.members if others is None else others)}
        digest = hashlib.blake2b(b"".join(sorted(roster)), digest_size=8).digest()

        def apply() -> None:
            member.pulse.set_members(roster, digest, self.now)
            member.reporter.set_members(roster, self.now, member.pulse.group_ns(member.stamp_ns(self.now)))
            self.settle(member)

        self.at(when, apply)

    def settle(self, member: Member) -> None:
        """Drain a member's cores after a call in."""
        pulse, now = member.pulse, self.now

        def outgoing() -> Iterator[tuple[bytes, UdpAddress]]:
            yield from pulse.datagrams_to_send(now, lambda: member.stamp_ns(now))
            yield from member.reporter.datagrams_to_send(now, lambda: pulse.group_ns(member.stamp_ns(now)))

        for data, destination in outgoing():
            self.sent[FrameType(data[1])] += 1
            self.longest = max(self.longest, len(data))
            other = self.by_address[destination]
            if self.rng.random() < self.loss or self.is_cut(member.index, other.index):
                continue
            latency_s = (self.latency_ms[member.index, other.index] + self.rng.expovariate(1) * self.queue_ms) / 1e3
            self.at(now + latency_s, partial(self.deliver, other, data, member.address))
        while (event := pulse.next_event() or member.reporter.next_event()) is not None:
            member.events.append((now, event))
            if isinstance(event, MatrixFilled):
                member.filled_at = now
                member.reporter.matrix_filled(now)
            if isinstance(event, ReportDue):
                rows = pulse.verified_rows(now)
                member.reporter.report_published(event.sequence, bytes(32), len(rows), now)
                self.settle(member)
        self.arm(member)

    def arm(self, member: Member) -> None:
        due = [at for at in (member.pulse.get_timer(), member.reporter.get_timer()) if at is not None]
        if due and min(due) < member.timer_at:
            member.timer_at = max(min(due), self.now)
            self.at(member.timer_at, partial(self.fire, member, member.timer_at))

    def fire(self, member: Member, at: float) -> None:
        if member.timer_at != at or not member.is_up:
            return
        member.timer_at = float("inf")
        member.pulse.handle_timer(self.now)
        member.reporter.handle_timer(self.now, member.pulse.group_ns(member.stamp_ns(self.now)))
        self.settle(member)

    def deliver(self, member: Member, data: bytes, source: UdpAddress) -> None:
        if not member.is_up:
            return
        try:
            frame = member.frames.open(data, self.now)
        except RemoteProtocolError:  # not introduced yet
            return
        if frame.type is FrameType.REPORTED:
            member.reporter.receive_frame(frame, source, self.now)
        else:
            member.pulse.receive_frame(frame, source, member.stamp_ns(self.now), self.now)
        self.settle(member)

    def run(self, until: float) -> None:
        while self.heap and self.heap[0][0] <= until:
            self.now, _, action = heapq.heappop(self.heap)
            action()
        self.now = until

    def path_errors_ms(self, member: Member, which: str) -> np.ndarray[Any, Any]:
        """|([i,k] + [k,j] - [i,j]) - truth| for all triples, ms; NaN where unknown."""
        snapshot = member.pulse.snapshot(self.now)
        order = [next(m.index for m in self.members if m.node_id == node) for node in snapshot.members]
        truth = self.latency_ms[np.ix_(order, order)]
        raw = getattr(snapshot, which)
        errors = []
        for k in range(len(order)):
            seen = raw[:, k, None] + raw[None, k, :] - raw
            real = truth[:, k, None] + truth[None, k, :] - truth
            error = np.abs(seen - real)
            error[k, :] = np.nan
            error[:, k] = np.nan
            np.fill_diagonal(error, np.nan)
            errors.append(error)
        return np.array(errors)


def started(n: int, seed: int, **options: Any) -> Group:
    """Members who get to know each other between 0 and 0.5 s."""
    group = Group(n, seed, **options)
    for member in group.members:
        group.introduce(group.rng.uniform(0, 0.5), member)
    return group


def events_of(group: Group, kind: type) -> list[tuple[float, int, Any]]:
    return [(at, member.index, event) for member in group.members for at, event in member.events if isinstance(event, kind)]


def require_true_paths(group: Group, observers: list[Member], *, tolerance_ms: float = 2.0) -> None:
    """Every observer knows all edges, and sees every detour as it is."""
    n = len(observers[0].pulse.matrix.members)
    for member in observers:
        for which in ("last_ms", "mean_ms"):
            errors = group.path_errors_ms(member, which)
            assert n * (n - 1) * (n - 2) == int(np.isfinite(errors).sum())
            assert n < 3 or np.nanmax(errors) <= tolerance_ms


@pytest.mark.parametrize(("n", "seed"), [(2, 0), (2, 1), (3, 0), (3, 1), (3, 2), *((12, seed) for seed in range(6)), (30, 0)])
def test_the_matrix_is_full_at_all_members_within_three_seconds(n: int, seed: int) -> None:
    group = started(n, seed)
    group.run(3.0)
    assert [True] * n == [member.filled_at is not None for member in group.members]
    require_true_paths(group, group.members)
    assert [] == events_of(group, ClockRealigned)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_hundred_members_fill_the_matrix_within_three_seconds_of_the_last(seed: int) -> None:
    group = started(100, seed)
    group.run(0.5 + 3.0)
    assert [True] * 100 == [member.filled_at is not None for member in group.members]
    assert 9900 == group.members[5].pulse.edges_known(group.now)
    require_true_paths(group, group.members[:2])
    assert group.longest <= 1200
    assert group.sent[FrameType.PULSE] <= 5 * 9900
    assert Counter() == sum((Counter(member.pulse.drops) for member in group.members), Counter()) - Counter({"echo": 10**6, "stale": 100})


def test_the_same_seed_gives_the_same_run() -> None:
    runs = []
    for _ in range(2):
        group = started(5, 3)
        group.run(30.0)
        runs.append([(member.events, member.pulse.snapshot(group.now).mean_ms.tobytes()) for member in group.members])
    assert runs[0] == runs[1]


def test_paths_stay_true_while_clocks_drift_and_the_matrix_stays_full() -> None:
    group = started(12, 4)
    group.run(180.0)
    # Two members' values may be told 20 s apart: 2 ms at 100 ppm, and some queueing.
    require_true_paths(group, group.members[:4], tolerance_ms=4.0)
    assert [] == events_of(group, ClockRealigned)
    assert 12 * 11 * 18 == pytest.approx(group.sent[FrameType.PULSE], rel=0.35)
    assert group.sent[FrameType.PROBE] <= 12 * 11 * 10


def test_slot_order_replaces_described_rows_when_the_roster_is_quiet() -> None:
    group = started(12, 4)
    group.run(40.0)
    assert [False] * 12 == [member.pulse.rows[member.node_id].row.is_described for member in group.members]
    assert 12 * 11 == group.members[3].pulse.edges_known(group.now)
    assert 0 == sum(member.pulse.drops["roster"] for member in group.members)


def test_a_newcomer_is_in_everybodys_matrix_within_three_seconds_and_nobody_moves() -> None:
    group = Group(9, 6)
    old = group.members[:8]
    for member in old:
        group.introduce(group.rng.uniform(0, 0.5), member, old)
    group.run(60.0)
    for member in group.members:
        group.introduce(60.0 + group.rng.uniform(0, 0.3), member)
    group.run(63.0)
    assert [True] * 9 == [member.pulse.matrix.is_full(group.now) and len(member.pulse.matrix.members) == 9 for member in group.members]
    require_true_paths(group, group.members, tolerance_ms=4.0)
    assert [] == events_of(group, ClockRealigned)


def test_those_who_leave_are_out_of_the_matrix_at_once() -> None:
    group = started(6, 2)
    group.run(20.0)
    left = group.members[:5]
    group.members[5].is_up = False
    for member in left:
        group.introduce(20.0, member, left)
    group.run(20.5)
    assert [20] * 5 == [member.pulse.edges_known(group.now) for member in left]


def test_two_islands_find_one_time_and_one_matrix() -> None:
    group = Group(8, 5, offset_s=0.0)
    islands = group.members[:4], group.members[4:]
    for island, offset_s in zip(islands, (3.0, -3.0), strict=True):
        for member in island:
            member.offset_s = offset_s
            group.introduce(group.rng.uniform(0, 0.5), member, island)
    group.run(70.0)
    for member in group.members:
        group.introduce(70.0 + group.rng.uniform(0, 0.5), member)
    group.run(85.0)
    assert {0, 1, 2, 3} == {index for _, index, _ in events_of(group, ClockRealigned)}  # the later ones move
    assert 4 == len(events_of(group, ClockRealigned))
    require_true_paths(group, group.members, tolerance_ms=4.0)


def test_a_cut_makes_holes_and_healing_fills_them() -> None:
    group = started(6, 8)
    group.run(20.0)
    group.is_cut = lambda i, j: (i < 3) != (j < 3)
    group.run(60.0)
    assert {0, 1, 2, 3, 4, 5} == {index for _, index, _ in events_of(group, MatrixIncomplete)}
    assert 6 <= group.members[0].pulse.edges_known(group.now) < 30
    group.is_cut = lambda _i, _j: False
    group.run(85.0)
    assert [30] * 6 == [member.pulse.edges_known(group.now) for member in group.members]
    require_true_paths(group, group.members, tolerance_ms=5.0)  # 100 ppm between two clocks, rows up to 25 s old, and some queueing


def test_an_edge_that_works_one_way_is_a_hole_and_costs_little() -> None:
    group = Group(8, 9, loss=0.0)
    group.is_cut = lambda i, j: (i, j) == (2, 5)
    for member in group.members:
        group.introduce(0.0, member)
    group.run(100.0)
    # Member 5 gets no row of member 2, so it lacks that whole column too.
    assert [55, 55, 55, 55, 55, 48, 55, 55] == [member.pulse.edges_known(group.now) for member in group.members]
    assert group.sent[FrameType.PULSE] <= 1.5 * 8 * 7 * 14


@pytest.mark.parametrize("seed", range(3))
def test_a_standby_reports_when_the_reporter_is_gone(seed: int) -> None:
    group = started(12, seed)
    group.run(12.0)
    reports = sorted(events_of(group, ReportDue), key=lambda report: report[0])
    assert len(reports) >= 1
    assert reports[0][0] <= 4.0
    reporter = group.members[reports[0][1]]
    last_at = max(at for at, index, _ in reports if index == reporter.index)
    reporter.is_up = False
    group.run(12.0 + 10.0 + 3 * 2.5 + 1.0)
    later = [at for at, index, _ in events_of(group, ReportDue) if at > last_at and index != reporter.index]
    assert len(later) >= 1
    assert min(later) <= last_at + 10.0 + 3 * 2.5 + 0.5
    assert len(events_of(group, ReporterTookOver)) >= 1


def test_one_member_reports_at_a_time_and_all_hear_of_it() -> None:
    group = started(8, 3, loss=0.0)
    group.run(170.0)
    due = sorted(events_of(group, ReportDue), key=lambda report: report[0])
    assert all(b[0] - a[0] >= 9.0 for a, b in itertools.pairwise(due))
    assert 15 <= len(due) <= 18
    heard = Counter(index for _, index, _ in events_of(group, ReportPublished))
    assert [len(due)] * 8 == [heard[index] for index in range(8)]
    assert len({index for _, index, _ in due}) > 1  # epochs pass the load round
