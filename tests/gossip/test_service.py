"""The gossip shell over the overlay shell, on trio's virtual time and an in-memory network."""

from __future__ import annotations

import random
from collections.abc import Callable

import attrs
import numpy as np
import pytest
import trio
from trio.testing import MockClock

from srwan.clock import Clock
from srwan.errors import ConfigError, DecodeError, LocalProtocolError
from srwan.gossip.core import GossipConfig
from srwan.gossip.events import EquivocationSeen, MatrixFilled
from srwan.gossip.report import Report
from srwan.gossip.reporter import ReporterElected, ReporterTookOver, ReportPublished
from srwan.gossip.row import open_row, seal_row
from srwan.gossip.service import GossipService
from srwan.identity import Identity
from srwan.overlay.frame import FrameType
from srwan.overlay.memory import MemoryNetwork
from srwan.overlay.service import OverlayConfig, OverlayService
from srwan.types import UdpAddress

WALL_NS = 1_800_000_000_000_000_000
LATENCY_S = {(0, 1): 0.020, (1, 0): 0.030, (0, 2): 0.090, (2, 0): 0.080, (1, 2): 0.025, (2, 1): 0.015}


class VirtualClock(Clock):
    """Trio's time; stamps are off by some seconds, as they are on real hosts."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self.boot_id = 1000
        self.offset_ns = (index - 1) * 2_345_678_901

    def now(self) -> float:
        return trio.current_time()

    def stamp_ns(self) -> int:
        return self.wall_ns() + self.offset_ns

    def wall_ns(self) -> int:
        return WALL_NS + int(trio.current_time() * 1e9)


def address_of(index: int) -> UdpAddress:
    return (f"10.6.0.{index}", 4710)


def latency_s(source: UdpAddress, destination: UdpAddress, _data: bytes) -> float:
    return LATENCY_S[int(source[0][-1]), int(destination[0][-1])]


class Node:
    """Overlay and gossip of one router."""

    def __init__(self, network: MemoryNetwork, index: int) -> None:
        self.identity = Identity(bytes([6, index]) * 16)
        clock = VirtualClock(index)
        self.overlay = OverlayService(
            self.identity,
            clock,
            OverlayConfig(network="test", has_bootstrap=index > 0),
            network.datagram_transport(address_of(index), clock),
            network.control_channel(self.identity.node_id),
            network.directory(),
            random.Random(index),
        )
        self.gossip = GossipService(self.identity, clock, GossipConfig(), self.overlay, random.Random(index))
        self.events: list[object] = []
        self.reports: list[Report] = []
        self.gossip.on_event(self.events.append)
        self.scope = trio.CancelScope()

    async def publish(self, report: Report) -> bool:
        await trio.sleep(0.5)
        self.reports.append(report)
        return True

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        with self.scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(self.overlay.run)
                await nursery.start(self.gossip.run)
                task_status.started()

    def has(self, kind: type) -> bool:
        return any(isinstance(event, kind) for event in self.events)


@pytest.fixture
def make_nodes() -> Callable[[], list[Node]]:
    def make() -> list[Node]:
        network = MemoryNetwork(link=latency_s)
        return [Node(network, index) for index in range(3)]

    return make


async def test_members_measure_each_other_and_one_reports(
    make_nodes: Callable[[], list[Node]], nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    del autojump_clock
    nodes = make_nodes()
    for node in nodes:
        node.gossip.on_report(node.publish)
        await nursery.start(node.run)
    await trio.sleep(30)
    for node in nodes:
        assert 6 == node.gossip.edges_known(trio.current_time())
        assert node.has(MatrixFilled)
        assert node.has(ReporterElected)
        assert node.has(ReportPublished)
        snapshot = node.gossip.snapshot(trio.current_time())
        order = [next(index for index, other in enumerate(nodes) if other.identity.node_id == member) for member in snapshot.members]
        at = {index: place for place, index in enumerate(order)}
        seen_ms = snapshot.mean_ms[at[0], at[1]] + snapshot.mean_ms[at[1], at[2]] - snapshot.mean_ms[at[0], at[2]]
        assert 20 + 25 - 90 == pytest.approx(seen_ms, abs=0.1)
    snapshot = nodes[0].gossip.snapshot(trio.current_time())
    (reporter,) = [node for node in nodes if node.reports]
    assert reporter.identity.node_id == nodes[0].gossip.reporter == nodes[2].gossip.reporter
    assert 2 == len(nodes[0].gossip.standbys)
    report = reporter.reports[-1]
    assert (reporter.overlay.group, snapshot.members, bytes([7])) == (report.group, report.roster, report.present)
    assert [True] * 3 == [signed.is_authentic(report.group) for signed in report.rows]
    heard = [event for event in nodes[0].events if isinstance(event, ReportPublished)]
    assert report.digest == heard[-1].digest
    for node in nodes:
        node.scope.cancel()


async def test_group_time_agrees_though_clocks_do_not(
    make_nodes: Callable[[], list[Node]], nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    del autojump_clock
    nodes = make_nodes()
    for node in nodes:
        await nursery.start(node.run)
    await trio.sleep(10)
    group_ms = [node.gossip.read_stamp_ns() / 1e6 for node in nodes]
    assert np.ptp(group_ms) < 100
    for node in nodes:
        node.scope.cancel()


async def test_a_standby_reports_while_the_reporter_cannot_publish(
    make_nodes: Callable[[], list[Node]], nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    del autojump_clock
    nodes = make_nodes()
    for node in nodes:
        await nursery.start(node.run)
    await trio.sleep(5)
    standby = next(node for node in nodes if node.identity.node_id == node.gossip.standbys[0])
    standby.gossip.on_report(standby.publish)
    await trio.sleep(15)
    assert len(standby.reports) >= 1
    assert standby.has(ReporterTookOver)
    for node in nodes:
        assert standby is node or not node.reports
        node.scope.cancel()


async def test_leaving_and_coming_changes_the_matrix(
    make_nodes: Callable[[], list[Node]], nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    del autojump_clock
    nodes = make_nodes()
    for node in nodes:
        await nursery.start(node.run)
    await trio.sleep(20)
    nodes[2].scope.cancel()
    await trio.sleep(1)
    assert [2, 2] == [node.gossip.edges_known(trio.current_time()) for node in nodes[:2]]
    assert 2 == len(nodes[0].gossip.snapshot(trio.current_time()).members)
    for node in nodes:
        node.scope.cancel()


async def test_an_equivocating_row_from_elsewhere_is_told(
    make_nodes: Callable[[], list[Node]], nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    del autojump_clock
    nodes = make_nodes()
    for node in nodes:
        await nursery.start(node.run)
    await trio.sleep(20)
    held = nodes[0].gossip.rows[nodes[1].identity.node_id]
    row = open_row(held.node_id, held.content).row
    twin = attrs.evolve(row, health=9)
    nodes[0].gossip.check_copy(held.node_id, seal_row(twin, nodes[1].identity, nodes[0].overlay.group).content)
    assert nodes[0].has(EquivocationSeen)
    with pytest.raises(DecodeError):
        nodes[0].gossip.check_copy(held.node_id, b"")
    for node in nodes:
        node.scope.cancel()


async def test_counters_travel_with_the_row(make_nodes: Callable[[], list[Node]], nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    del autojump_clock
    nodes = make_nodes()
    nodes[0].gossip.set_counters(1, 2, 3)
    for node in nodes:
        await nursery.start(node.run)
    await trio.sleep(15)
    row = nodes[1].gossip.rows[nodes[0].identity.node_id].row
    assert (1, 2, 3) == (row.octets_in, row.octets_out, row.octets_relayed)
    for node in nodes:
        node.scope.cancel()


async def test_pulse_frames_have_one_owner(make_nodes: Callable[[], list[Node]]) -> None:
    node = make_nodes()[0]
    with pytest.raises(LocalProtocolError):
        node.overlay.on_frames((FrameType.PULSE,), lambda _frame, _source, _rx_ns: None)


@pytest.mark.parametrize("change", [{"period_s": 0.1}, {"report_interval_s": 100.0}, {"standby_delay_s": float("nan")}])
def test_times_out_of_range_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="out of range"):
        GossipConfig(**change)
