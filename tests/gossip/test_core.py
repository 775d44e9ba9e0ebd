"""The parts of one member put together: whole simulated groups, and single frames given to a core."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import pytest

from srwan.errors import ConfigError
from srwan.gossip.anomaly import LatencyRose
from srwan.gossip.core import FORMER_ECHOES_MAX, FORMER_ECHOES_PER_S, HOLD_S_MAX, ClockStepped, GossipConfig, SelfReborn
from srwan.gossip.events import ClockRealigned, EchoMeasured, EquivocationSeen, MatrixFilled, PeerClockMoved
from srwan.gossip.reporter import ReportDue, ReportPublished
from srwan.gossip.row import open_row, seal_row
from srwan.gossip.suspicion import AccusationDue
from srwan.gossip.witness import LieFound, PeerDistrusted, PeerQuarantined
from srwan.identity import Identity
from srwan.overlay.frame import Frame, FrameType
from srwan.overlay.member_events import MemberAccused, MemberLeft, SelfBuried
from srwan.overlay.ring import quorum_of
from srwan.testing.faults import Fault, Faults
from srwan.testing.frames import SimFrameCodec
from srwan.testing.links import LinkLatencies
from srwan.testing.router import SimRouter
from srwan.testing.simnet import SimNode
from srwan.testing.swarm import Simulation, SimulationOptions
from srwan.types import NodeId, PeerMisbehaved, UdpAddress

STRANGER = Identity(b"\x77" * 32).node_id
SOMEWHERE: UdpAddress = ("192.0.2.7", 4710)
PROBE = bytes(range(8)) + bytes(8)


class SpyCodec(SimFrameCodec):
    """Notes what is sealed."""

    sealed: list[FrameType]

    def seal(self, receiver: NodeId, kind: FrameType, content: bytes, *, digest: bytes, tx_ns: int, flags: int = 0) -> bytes:
        self.sealed.append(kind)
        return super().seal(receiver, kind, content, digest=digest, tx_ns=tx_ns, flags=flags)


class LyingCodec(SpyCodec):
    """Signs rows that tell all inbound edges of its member other than they were measured."""

    group: bytes
    by_us: int

    def seal(self, receiver: NodeId, kind: FrameType, content: bytes, *, digest: bytes, tx_ns: int, flags: int = 0) -> bytes:
        if kind is FrameType.PULSE:
            row = open_row(self._identity.node_id, content).row
            content = seal_row(attrs.evolve(row, base_us=row.base_us + self.by_us), self._identity, self.group).content
        return super().seal(receiver, kind, content, digest=digest, tx_ns=tx_ns, flags=flags)


class World:
    """One simulated group; `number` is what faults name nodes by."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, nodes: int, faults: Faults, options: dict[str, Any]) -> None:
        self.config = GossipConfig(review_s=options.pop("review_s", None), **options.pop("config", {}))
        spied, codec = options.pop("spied", None), options.pop("codec", SpyCodec)
        self.sealed: list[FrameType] = []
        simulation = Simulation(SimulationOptions(nodes=nodes, minutes=20, faults=faults, **options))
        self.group = simulation.make_group(0)
        self.nodes = {node.number: node for node in self.group.nodes}
        self.events: list[tuple[float, int, Any]] = []
        for node in self.group.nodes:
            node.settings = attrs.evolve(node.settings, gossip=self.config)
        if spied is not None:
            self.spy(self.nodes[spied], codec)
        note_event = self.group.trace.note_event

        def note(now: float, observer: int, event: object) -> None:
            note_event(now, observer, event)
            self.events.append((now, self.group.nodes[observer].number, event))

        monkeypatch.setattr(self.group.trace, "note_event", note)

    def spy(self, node: SimNode, codec: type[SpyCodec]) -> None:
        def make(identity: Identity, tag: int, boot: int) -> SpyCodec:
            made = codec(identity, tag, boot)
            made.sealed = self.sealed
            if isinstance(made, LyingCodec):
                made.group, made.by_us = node.settings.group, -40_000
            return made

        node.settings = attrs.evolve(node.settings, make_codec=make)

    def run(self, until: float) -> None:
        self.group.run(until)

    def router(self, number: int) -> SimRouter:
        router = self.nodes[number].router
        assert router is not None
        return router

    def routers(self, *, without: int = -1) -> list[SimRouter]:
        return [node.router for node in self.group.nodes if node.router is not None and node.number != without]

    def node_id(self, number: int) -> NodeId:
        return self.nodes[number].settings.identity.node_id

    def of(self, kind: type, *, since: float = 0.0) -> list[tuple[float, int, Any]]:
        return [(at, number, event) for at, number, event in self.events if isinstance(event, kind) and at >= since]

    def removals(self) -> list[tuple[int, int]]:
        """Who removed whom."""
        nodes = self.group.nodes
        return sorted((nodes[removal.observer].number, nodes[removal.subject].number) for removal in self.group.trace.removals)

    def stamp_ns(self, number: int) -> int:
        return self.nodes[number].settings.clock.stamp_ns(self.group.now)

    def group_ms(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """How far each member's group time is ahead of their mean, ms, in member order."""
        order = sorted(self.nodes, key=self.node_id)
        times = [self.router(number).pulse.group_ns(self.stamp_ns(number)) for number in order]
        return np.array([at - times[0] for at in times]) / 1e6 - sum(at - times[0] for at in times) / len(times) / 1e6


MakeWorld = Callable[..., World]


@pytest.fixture
def make_world(monkeypatch: pytest.MonkeyPatch) -> MakeWorld:
    def make(nodes: int, *faults: Fault, weather: dict[str, Any] | None = None, **options: Any) -> World:
        return World(monkeypatch, nodes, Faults(faults=faults, **(weather or {})), options)

    return make


def detour_errors_ms(measured_ms: np.ndarray[Any, Any], true_ms: np.ndarray[Any, Any]) -> float:
    """The greatest error of i -> k -> j against i -> j: what does not depend on clocks."""
    n = len(true_ms)
    worst = 0.0
    for i, k, j in ((i, k, j) for i in range(n) for k in range(n) for j in range(n) if len({i, j, k}) == 3):
        told = measured_ms[i, k] + measured_ms[k, j] - measured_ms[i, j]
        worst = max(worst, abs(told - (true_ms[i, k] + true_ms[k, j] - true_ms[i, j])))
    return worst


# who is there


@pytest.mark.parametrize("seed", [1, 2])
def test_a_crashed_member_is_removed_once_by_every_survivor_and_nobody_else_is(make_world: MakeWorld, seed: int) -> None:
    world = make_world(10, Fault(kind="crash", at_s=12.0, nodes=(3,)), seed=seed)
    world.run(45.0)
    assert [(number, 3) for number in range(10) if number != 3] == world.removals()
    assert {"failed"} == {event.reason for _, _, event in world.of(MemberLeft)}
    assert {world.node_id(3)} == {event.subject for _, _, event in world.of(AccusationDue)}
    assert [9] * 9 == [len(router.view) for router in world.routers()]
    assert [72] * 9 == [router.pulse.edges_known(45.0) for router in world.routers()]


def test_a_member_whose_frames_wait_doubts_itself_and_holds_what_is_not_regular(make_world: MakeWorld) -> None:
    world = make_world(10, spied=3)
    world.run(30.0)
    router = world.router(3)
    regular_at = router.pulse._rounds.due_at
    world.sealed.clear()
    router.core.note_lag(0.1, 30.0)
    assert regular_at == router.pulse._rounds.due_at
    router.core.note_lag(60.0, 30.0)
    router.pulse.tell_soon(30.0)
    assert min(regular_at, 30.0 + HOLD_S_MAX) == router.pulse._rounds.due_at
    router.membership._greetings.sent(world.node_id(4), 30.0)
    assert router.membership._greetings.due_at() == 30.0 + HOLD_S_MAX
    router.pulse.time.set_peers([STRANGER], 30.0)
    assert [STRANGER] == router.pulse.time.probes_due(30.1)
    assert [] == router.pulse.time.probes_due(32.9)
    assert [STRANGER] == router.pulse.time.probes_due(30.0 + HOLD_S_MAX)


def accuse(world: World, accusers: list[NodeId], subject: NodeId) -> None:
    """Have some members accuse one, whatever they hear of it."""
    for number in (number for number in world.nodes if world.node_id(number) in accusers):
        router = world.router(number)
        held = router.pulse.row_of(subject)
        router.membership.accuse(subject, 0 if held is None else held.row.seq, world.group.now, world.stamp_ns(number))
        router.core.has_touched_membership = True


@pytest.mark.parametrize("is_alive", [True, False])
def test_an_accused_member_that_lives_pulses_at_once_and_that_refutes_the_accusations(make_world: MakeWorld, is_alive: bool) -> None:
    crash = () if is_alive else (Fault(kind="crash", at_s=30.0, nodes=(0,)),)
    world = make_world(8, *crash, weather={"loss": 0.0})
    world.run(29.9)
    seq, subject = world.router(0).pulse.seq, world.node_id(0)
    observers = list(world.router(1).membership.ring.observers_of(subject))
    few = 3  # neither a quorum of the seven nor more than half of them
    world.run(30.0)
    accuse(world, observers[:few], subject)
    world.run(31.5)
    assert {subject} == {event.subject for _, _, event in world.of(MemberAccused)}
    if is_alive:
        assert world.router(0).pulse.seq > seq
    assert few < quorum_of(len(observers)) <= 2 * few
    accuse(world, observers[few : 2 * few], subject)
    world.run(32.2)
    # Six of seven accused it, which is more than enough; but if it lives, never enough at once.
    assert ([] if is_alive else [(number, 0) for number in range(1, 8)]) == world.removals()


@pytest.mark.parametrize(("seed", "for_s"), [(0, 15.0), (1, 40.0)])
def test_a_member_that_hears_nothing_is_buried_is_silent_and_comes_back_as_a_new_run(
    make_world: MakeWorld, seed: int, for_s: float
) -> None:
    world = make_world(9, Fault(kind="cut-in", at_s=12.0, for_s=for_s, nodes=(3,)), seed=seed, spied=3)
    world.run(12.0)
    assert {FrameType.PULSE, FrameType.BEAT} <= set(world.sealed)
    world.run(12.0 + for_s)
    while not world.router(3).core.is_buried:
        world.run(world.group.now + 0.1)
        assert world.group.now < 12.0 + for_s + 20.0
    assert [8] * 8 == [len(router.view) for router in world.routers(without=3)]
    world.run(world.group.now + 0.5)
    world.sealed.clear()
    world.run(world.group.now + 55.0)
    assert world.router(3).core.is_buried
    assert {FrameType.PROBE} == set(world.sealed)
    assert 50 <= len(world.sealed) <= 3 * 56
    assert 0 == int(np.isfinite(world.router(3).core.snapshot(world.group.now).last_ms).sum())
    world.run(world.group.now + 20.0)
    ((_, _, buried),) = world.of(SelfBuried)
    ((_, _, reborn),) = world.of(SelfReborn)
    assert reborn.boot > buried.boot
    boots = []
    for router in world.routers():
        member = router.view.get(world.node_id(3))
        assert member is not None
        boots.append(member.boot)
    assert [reborn.boot] * 9 == boots
    assert [9] * 9 == [len(router.view) for router in world.routers()]
    assert [72] * 9 == [router.pulse.edges_known(world.group.now) for router in world.routers()]
    assert [(number, 3) for number in range(9) if number != 3] == world.removals()


@pytest.mark.parametrize("seed", [0, 3])
def test_a_member_that_loses_four_of_five_datagrams_is_removed_and_only_it(make_world: MakeWorld, seed: int) -> None:
    world = make_world(12, Fault(kind="loss", at_s=12.0, nodes=(5,), share=0.8), seed=seed)
    world.run(75.0)
    assert {5} == {subject for _, subject in world.removals()}
    assert set(range(12)) - {5} == {observer for observer, _ in world.removals()}
    assert [11] * 11 == [len(router.view) for router in world.routers(without=5)]


def test_a_member_that_leaves_is_seen_to_leave_by_all_within_a_second(make_world: MakeWorld) -> None:
    world = make_world(8, Fault(kind="leave", at_s=12.0, nodes=(2,)), weather={"loss": 0.0})
    world.run(13.0)
    left = world.of(MemberLeft)
    assert {number: 1 for number in range(8) if number != 2} == Counter(number for _, number, _ in left)
    assert {world.node_id(2)} == {event.node_id for _, _, event in left}
    assert {"failed"} & {event.reason for _, _, event in left} == set()
    world.run(30.0)
    assert 7 == len(left) == len(world.of(MemberLeft))
    assert [] == world.of(AccusationDue)
    assert [42] * 7 == [router.pulse.edges_known(30.0) for router in world.routers()]


def test_another_member_reports_when_the_reporter_crashes(make_world: MakeWorld) -> None:
    world = make_world(8, weather={"loss": 0.0})
    world.run(15.0)
    first = world.of(ReportDue)[-1][1]
    world.nodes[first].router = None
    world.nodes[first].is_spoilt = True
    world.run(45.0)
    others = [(at, number) for at, number, _ in world.of(ReportDue, since=15.0)]
    assert len(others) >= 2
    assert first not in {number for _, number in others}
    assert 1 == len({number for _, number in others})
    assert others[0][0] < 15.0 + 10.0 + 2.5 + 0.5
    heard = Counter(number for at, number, _ in world.of(ReportPublished, since=15.0) if at < others[1][0])
    assert {number: 1 for number in range(8) if number != first} == heard


def test_a_report_holds_authentic_rows_of_all_members(make_world: MakeWorld) -> None:
    world = make_world(4, weather={"loss": 0.0})
    world.run(15.0)
    router = world.router(world.of(ReportDue)[-1][1])
    report = router.core.make_report(ReportDue(epoch=3, sequence=9), 15.0)
    assert (3, 9, router.node_id, router.view.ids) == (report.epoch, report.sequence, report.reporter, report.roster)
    assert list(router.view.ids) == [signed.node_id for signed in report.rows]
    assert [True] * 4 == [signed.is_authentic(world.nodes[0].settings.group) for signed in report.rows]


# clocks


@pytest.mark.parametrize(("review_s", "step_s"), [(10.0, 10.0), (None, -10.0), (10.0, 0.1)])
def test_after_a_clock_step_the_matrix_is_full_again_and_the_newest_values_are_true(
    make_world: MakeWorld, review_s: float | None, step_s: float
) -> None:
    at_s = 150.0 if review_s else 30.0
    world = make_world(
        6, Fault(kind="clock-step", at_s=at_s, nodes=(3,), step_s=step_s), review_s=review_s, weather={"drift_ppm": 0.0, "spike_share": 0.0}
    )
    world.run(at_s + 75.0)
    ((moved_at, _, moved),) = [found for found in world.of(ClockRealigned) if found[1] == 3]
    assert at_s < moved_at < at_s + 45.0
    assert -1e3 * step_s == pytest.approx(moved.by_ms, abs=10.0)
    # What is small is found by the reviews alone; of a great one it depends on who looks first.
    assert 0.2 < abs(step_s) or 1 == len([found for found in world.of(ClockStepped) if found[1] == 3])
    assert {0, 1, 2, 4, 5} <= {number for _, number, event in world.of(PeerClockMoved) if event.node_id == world.node_id(3)}
    assert [] == world.removals()
    assert world.of(MatrixFilled, since=at_s)
    for router in world.routers():
        snapshot = router.core.snapshot(world.group.now)
        assert 30 == int(np.isfinite(snapshot.last_ms).sum())
        order = [world.node_id(node.number) for node in world.group.nodes]
        assert list(snapshot.members) == order
        assert detour_errors_ms(snapshot.last_ms, true_ms(world)) < 25.0


def true_ms(world: World) -> np.ndarray[Any, Any]:
    """What the links add at least, in member order."""
    return np.array(world.group._latency.at(0))  # the simulator's own truth


def test_rows_tell_clocks_after_the_first_fit_and_offsets_are_right_to_a_few_ms(make_world: MakeWorld) -> None:
    world = make_world(8, review_s=10.0, seed=2, weather={"drift_ppm": 5.0})
    world.run(40.0)
    assert [None] * 8 == [router.pulse.rows[router.node_id].row.clock for router in world.routers()]
    world.run(150.0)
    truth_ms = world.group_ms()
    claims = [world.routers()[0].pulse.rows[node].row.clock for node in sorted(map(world.node_id, world.nodes))]
    assert [True] * 8 == [claim is not None for claim in claims]
    told_ms = np.array([claim.offset_us / 1e3 for claim in claims if claim is not None])
    assert np.ptp(truth_ms) > 10.0
    assert np.abs(told_ms - truth_ms).max() < 6.0
    for router in world.routers():
        assert router.core.clocks is not None
        fit = router.core.clocks.fit(150.0)
        assert np.nanmax(np.abs(fit.offset_ms - truth_ms)) < 6.0
        errors_ms = fit.owl_ms - true_ms(world)
        np.fill_diagonal(errors_ms, np.nan)
        assert np.nanmax(np.abs(errors_ms)) < 12.0


# who lies


@pytest.mark.parametrize("seed", [5, 6])
def test_a_member_whose_rows_make_all_edges_shorter_is_distrusted_by_all_others_and_nobody_else_is(
    make_world: MakeWorld, seed: int
) -> None:
    world = make_world(8, seed=seed, review_s=10.0, spied=2, codec=LyingCodec)
    world.run(9.0)
    assert [] == world.of(LieFound)
    # Two reviews, 11 s apart at most, and echoes that are asked for between them.
    world.run(34.0)
    liar = world.node_id(2)
    assert [False] * 7 == [router.core.is_trusted(liar) for router in world.routers(without=2)]
    assert {liar} == {event.node_id for _, _, event in world.of(PeerDistrusted)}
    world.run(90.0)
    assert {number for number in range(8) if number != 2} == {number for _, number, _ in world.of(PeerQuarantined)}
    assert {liar} == {event.node_id for kind in (PeerDistrusted, PeerQuarantined, LieFound) for _, _, event in world.of(kind)}
    honest = [world.node_id(number) for number in range(8) if number != 2]
    assert [[True] * 7] * 8 == [[router.core.is_trusted(node) for node in honest] for router in world.routers()]


def test_in_ordinary_weather_nobody_is_distrusted(make_world: MakeWorld) -> None:
    world = make_world(10, seed=3, review_s=10.0)
    world.run(120.0)
    assert [] == [event for kind in (LieFound, PeerDistrusted, PeerQuarantined) for event in world.of(kind)]
    assert [[True] * 10] * 10 == [[router.core.is_trusted(world.node_id(number)) for number in range(10)] for router in world.routers()]


def test_a_proof_of_equivocation_reaches_all(make_world: MakeWorld) -> None:
    world = make_world(6, review_s=10.0)
    world.run(35.0)
    twin, group = world.nodes[4].settings.identity, world.nodes[4].settings.group
    held = world.router(1).pulse.row_of(twin.node_id)
    assert held is not None
    other = seal_row(attrs.evolve(held.row, base_us=held.row.base_us + 1_000), twin, group)
    world.router(1).core.check_copy(twin.node_id, other.content)
    world.run(37.0)
    ((_, number, seen),) = world.of(EquivocationSeen)
    assert (1, {held.content, other.content}) == (number, {seen.first, seen.second})
    assert [False] * 5 == [router.core.is_trusted(twin.node_id) for router in world.routers(without=4)]
    assert {twin.node_id} == {event.node_id for _, _, event in world.of(PeerQuarantined)}
    assert {0, 1, 2, 3, 5} <= {number for _, number, _ in world.of(PeerQuarantined)}
    world.run(60.0)
    assert [] == world.removals()


def test_bad_conduct_that_membership_saw_speaks_against_a_peer_at_the_witness(make_world: MakeWorld) -> None:
    world = make_world(4, review_s=10.0)
    world.run(15.0)
    core, peer = world.router(0).core, world.node_id(1)
    assert core.witness is not None
    assert {} == core.witness.scores(15.0)
    for _ in range(3):
        assert core.membership_event(PeerMisbehaved(peer, SOMEWHERE, "signature"), 15.0, world.stamp_ns(0))
    assert not core.membership_event(PeerMisbehaved(None, SOMEWHERE, "signature"), 15.0, world.stamp_ns(0))
    core.settle(15.0, world.stamp_ns(0))
    assert {peer} == set(core.witness.scores(15.0))
    assert not core.is_trusted(peer)


# single frames


def frame_of(sender: NodeId, kind: FrameType, content: bytes = PROBE) -> Frame:
    return Frame(sender, kind, 0, 7, 10**18, content)


def sent_of(router: SimRouter, now: float) -> list[tuple[Frame, UdpAddress]]:
    router.core.settle(now, router.stamp_ns)
    return [(router_frame(data), address) for data, address in router.core.datagrams_to_send(now, lambda: router.stamp_ns)]


def router_frame(data: bytes) -> Frame:
    assert isinstance(data, Frame)
    return data


def former_and_survivor(make_world: MakeWorld) -> tuple[World, NodeId, SimRouter]:
    """A group that buried member 3, with nothing left to send."""
    world = make_world(5, Fault(kind="crash", at_s=12.0, nodes=(3,)), weather={"loss": 0.0})
    world.run(25.0)
    router = world.router(0)
    assert world.node_id(3) not in router.view
    sent_of(router, 25.0)
    return world, world.node_id(3), router


def test_a_probe_of_a_former_member_is_echoed_to_where_it_came_from(make_world: MakeWorld) -> None:
    _, former, router = former_and_survivor(make_world)
    assert router.core.receive_frame(frame_of(former, FrameType.PROBE), SOMEWHERE, router.stamp_ns, 25.0, router.stamp_ns)
    ((echo, address),) = sent_of(router, 25.0)
    assert (router.node_id, FrameType.ECHO, SOMEWHERE) == (echo.sender, echo.type, address)
    assert PROBE[:8] == echo.content[:8]
    assert router.pulse.group_ns(router.stamp_ns) == int.from_bytes(echo.content[8:], "little")


def test_probes_of_former_members_are_echoed_within_a_rate(make_world: MakeWorld) -> None:
    _, former, router = former_and_survivor(make_world)
    answered = []
    for at in (25.0, 26.0):
        for _ in range(100):
            router.core.receive_frame(frame_of(former, FrameType.PROBE), SOMEWHERE, router.stamp_ns, at, router.stamp_ns)
        answered.append(len(sent_of(router, at)))
    assert [FORMER_ECHOES_MAX, FORMER_ECHOES_PER_S] == answered


@pytest.mark.parametrize("content", [b"", PROBE[:15], PROBE + b"\0", bytes(1156)])
def test_a_former_members_probe_of_another_length_is_not_echoed(make_world: MakeWorld, content: bytes) -> None:
    _, former, router = former_and_survivor(make_world)
    assert not router.core.receive_frame(frame_of(former, FrameType.PROBE, content), SOMEWHERE, router.stamp_ns, 25.0, router.stamp_ns)
    assert [] == sent_of(router, 25.0)


@pytest.mark.parametrize("kind", [FrameType.PULSE, FrameType.BEAT, FrameType.ECHO, FrameType.REPORTED, FrameType.VOTE])
@pytest.mark.parametrize("is_former", [True, False])
def test_other_frames_of_former_members_and_of_strangers_change_nothing(make_world: MakeWorld, kind: FrameType, is_former: bool) -> None:
    _, former, router = former_and_survivor(make_world)
    sender = former if is_former else STRANGER
    before = router.core.snapshot(25.0)
    rows = router.pulse.rows
    for content in (b"", PROBE, random.Random(1).randbytes(600)):
        router.core.receive_frame(frame_of(sender, kind, content), SOMEWHERE, router.stamp_ns, 25.0, router.stamp_ns)
        assert [] == sent_of(router, 25.0)
        assert router.core.next_event() is None
    assert rows == router.pulse.rows
    np.testing.assert_array_equal(before.last_ms, router.core.snapshot(25.0).last_ms)
    assert before.members == router.core.snapshot(25.0).members


def test_a_strangers_probe_is_not_echoed(make_world: MakeWorld) -> None:
    _, _, router = former_and_survivor(make_world)
    router.core.receive_frame(frame_of(STRANGER, FrameType.PROBE), SOMEWHERE, router.stamp_ns, 25.0, router.stamp_ns)
    assert [] == sent_of(router, 25.0)


@pytest.mark.parametrize("review_s", [None, 10.0])
def test_random_contents_of_a_member_raise_nothing(make_world: MakeWorld, review_s: float | None) -> None:
    world = make_world(3, review_s=review_s)
    world.run(12.0)
    router, rng = world.router(0), random.Random(4)
    for _ in range(400):
        kind = rng.choice([FrameType.PULSE, FrameType.BEAT, FrameType.PROBE, FrameType.ECHO, FrameType.REPORTED, FrameType.VOTE])
        frame = Frame(world.node_id(1), kind, rng.getrandbits(16), 9, rng.getrandbits(63), rng.randbytes(rng.choice([0, 16, 60, 139, 700])))
        router.core.receive_frame(frame, SOMEWHERE, router.stamp_ns, 12.0, router.stamp_ns)
        sent_of(router, 12.0)
        while router.core.next_event() is not None:
            pass
    assert {"rate", "echo-rate", "decode", "length"} & set(router.core.drops)
    assert len(router.core.snapshot(12.0).members) == 3


def test_without_reviews_there_is_no_watch_and_everybody_is_trusted(make_world: MakeWorld) -> None:
    world = make_world(3)
    world.run(12.0)
    core = world.router(0).core
    assert (None, None, None) == (core.witness, core.clocks, core.anomalies)
    assert core.is_trusted(world.node_id(1))
    assert core.is_trusted(STRANGER)
    core.path_measured(world.node_id(1), (world.node_id(2),), 10.0, 12.0, 12.0)
    assert not core.is_buried
    assert [] == world.of(LatencyRose)
    assert world.of(EchoMeasured)


def test_a_member_alone_has_no_timer_and_sends_nothing(make_world: MakeWorld) -> None:
    world = make_world(1, review_s=10.0)
    world.run(5.0)
    router = world.router(0)
    assert router.core.get_timer() is None
    assert [] == sent_of(router, 5.0)
    assert (1, 1) == router.core.snapshot(5.0).last_ms.shape
    world.run(100.0)
    assert router.core.get_timer() is None


# configuration


@pytest.mark.parametrize(
    ("name", "key", "low"),
    [
        ("period_s", "pulse.period_s", 0.5),
        ("report_interval_s", "report.interval_s", 1.0),
        ("standby_delay_s", "report.standby_delay_s", 0.5),
        ("review_s", "pulse.review_s", 5.0),
    ],
)
def test_times_out_of_range_are_refused_by_name(name: str, key: str, low: float) -> None:
    for value in (low, 60.0):
        assert value == getattr(GossipConfig(**{name: value}), name)
    for value in (low - 0.01, 60.01, 0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match=f"use {low:g} to 60 seconds") as caught:
            GossipConfig(**{name: value})
        assert key == caught.value.key


def test_reviews_can_be_off() -> None:
    assert GossipConfig(review_s=None).review_s is None


def test_reported_latencies_are_those_of_the_links(make_world: MakeWorld) -> None:
    latency_ms = np.array([[0.0, 10.0, 80.0], [20.0, 0.0, 30.0], [90.0, 40.0, 0.0]])
    ideal = attrs.asdict(Faults.none(), recurse=False)
    del ideal["faults"]
    world = make_world(3, latency=LinkLatencies(latency_ms), weather=ideal)
    world.run(12.0)
    order = [node.number for node in world.group.nodes]
    for router in world.routers():
        expected = latency_ms[np.ix_(order, order)]
        assert detour_errors_ms(router.core.snapshot(12.0).mean_ms, expected) < 0.1
