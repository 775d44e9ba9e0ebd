"""Gossip at work: gives the pulse and the reporter their clock, their frames and their turn on the socket. A shell.

It owns no socket: frames come from the overlay, datagrams leave through it, and the overlay's view says who the members are. Two tasks:
one waits for the earliest timer of the cores, one hands reports to whoever publishes them, one at a time, because that may take its time.
Cancelling `run` stops pulsing; nothing is left to undo. Attach `on_event` and `on_report` before `run`.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

import attrs
import trio

from srwan.clock import Clock
from srwan.errors import ConfigError, RemoteProtocolError
from srwan.gossip.events import ClockRealigned, EquivocationSeen, MatrixFilled, MatrixIncomplete
from srwan.gossip.owl import OwlSnapshot
from srwan.gossip.pulse import PERIOD_S, Pulse
from srwan.gossip.report import Report
from srwan.gossip.reporter import INTERVAL_S, STANDBY_DELAY_S, ReportDue, Reporter, ReporterElected, ReporterTookOver, ReportPublished
from srwan.gossip.row import SignedRow
from srwan.identity import Identity
from srwan.overlay.frame import Frame, FrameType
from srwan.overlay.membership import ViewChanged
from srwan.overlay.service import OverlayService
from srwan.types import NodeId, PeerMisbehaved, UdpAddress

__all__ = ["GossipConfig", "GossipService", "ReportHandler"]

REPORTS_WAITING_MAX = 1
"""A report that is due while one is being published replaces nothing: it is left out, the next one is newer anyway."""

ReportHandler: TypeAlias = Callable[[Report], Awaitable[bool]]
"""Publishes a report; True if it is stored, False if a standby should try."""

logger = logging.getLogger("srwan.gossip")


@attrs.frozen(slots=True, kw_only=True)
class GossipConfig:
    """How often a member tells and reports.

    Raises:
        ConfigError: a time is out of range.
    """

    period_s: float = PERIOD_S
    """Between two regular pulses, 0.5..60 s."""
    report_interval_s: float = INTERVAL_S
    """Between two reports, 1..60 s."""
    standby_delay_s: float = STANDBY_DELAY_S
    """How much longer each standby waits than the one before it, 0.5..60 s."""

    def __attrs_post_init__(self) -> None:
        for key, value, low in (
            ("pulse.period_s", self.period_s, 0.5),
            ("report.interval_s", self.report_interval_s, 1.0),
            ("report.standby_delay_s", self.standby_delay_s, 0.5),
        ):
            if not low <= value <= 60:
                raise ConfigError(key, f"{value} is out of range", f"use {low:g} to 60 seconds")


class GossipService:
    """What one node measures of its group, and tells.

    Args:
        identity: the node's keys.
        clock: shared with the overlay and its transport.
        config: see there.
        overlay: not running yet, or running.
        rng: for phases, jitter and sampling.

    Raises:
        LocalProtocolError: another room handles the overlay's pulse frames already.
    """

    def __init__(self, identity: Identity, clock: Clock, config: GossipConfig, overlay: OverlayService, rng: random.Random) -> None:
        self._me = identity.node_id
        self._clock = clock
        self._overlay = overlay
        self._pulse = Pulse(identity, overlay.frames, overlay.group, boot=clock.boot_id, rng=rng, period_s=config.period_s)
        self._reporter = Reporter(
            identity.node_id,
            overlay.frames,
            overlay.group,
            interval_s=config.report_interval_s,
            standby_delay_s=config.standby_delay_s,
        )
        self._report_handler: ReportHandler | None = None
        self._event_callbacks: list[Callable[[object], None]] = []
        self._send_reports, self._receive_reports = trio.open_memory_channel[Report](REPORTS_WAITING_MAX)
        self._rearm = trio.Event()
        self._armed_at = math.inf
        overlay.on_frames((FrameType.PULSE, FrameType.PROBE, FrameType.ECHO), self._on_pulse_frame)
        overlay.on_frames((FrameType.REPORTED,), self._on_reported_frame)
        overlay.after_batch(self._flush)
        overlay.on_event(self._on_overlay_event)

    # for other rooms

    @property
    def rows(self) -> Mapping[NodeId, SignedRow]:
        """The latest row of each member that was heard; not all are verified."""
        return self._pulse.rows

    @property
    def reporter(self) -> NodeId | None:
        """Who reports in this epoch, as far as this node knows; None before there is a group."""
        order = self._reporter.order
        return order[0] if order else None

    @property
    def standbys(self) -> tuple[NodeId, ...]:
        """Who steps in if the reporter is silent, best first, at most 3."""
        return self._reporter.order[1:]

    @property
    def drops(self) -> Mapping[str, int]:
        """What was passed over without being a peer's fault, and the rest too, by reason; the latter also counts in the overlay."""
        return self._pulse.drops + self._reporter.drops

    def snapshot(self, now: float) -> OwlSnapshot:
        """Return the matrix of raw one-way latencies as of `now` (monotonic seconds)."""
        return self._pulse.snapshot(now)

    def edges_known(self, now: float) -> int:
        """Return how many directed edges are known, of n (n - 1)."""
        return self._pulse.edges_known(now)

    def group_ns(self, stamp_ns: int) -> int:
        """Convert a stamp of this node's clock to group time, ns."""
        return self._pulse.group_ns(stamp_ns)

    def read_stamp_ns(self) -> int:
        """Group time now, ns."""
        return self._pulse.group_ns(self._clock.stamp_ns())

    def round_trip_ms(self, peer: NodeId) -> float | None:
        """Return the last probe's round trip to a member, ms; None if there was none."""
        return self._pulse.time.round_trip_ms(peer)

    def set_counters(self, octets_in: int, octets_out: int, octets_relayed: int) -> None:
        """Say what the data plane carried since boot; told with every row."""
        self._pulse.counters = (octets_in, octets_out, octets_relayed)

    def check_copy(self, node: NodeId, content: bytes) -> None:
        """Compare a row that came through others with the one held; two signed contents at one (boot, seq) become EquivocationSeen.

        Raises:
            RemoteProtocolError: not a row, or badly signed.
        """
        self._pulse.check_copy(node, content)
        self._flush()

    def on_event(self, callback: Callable[[object], None]) -> None:
        """Have `callback` called with every event of this room: matrix, group time, reporter, equivocation."""
        self._event_callbacks.append(callback)

    def on_report(self, handler: ReportHandler) -> None:
        """Have `handler` publish the reports that are this node's to publish. Without one it never reports, and a standby will."""
        self._report_handler = handler

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Pulse and report until cancelled. Reports started at once."""
        self._sync_members()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._timer_loop)
            nursery.start_soon(self._report_loop)
            task_status.started()

    # in

    def _on_pulse_frame(self, frame: Frame, source: UdpAddress, rx_ns: int) -> None:
        now = self._clock.now()
        self._pulse.receive_frame(frame, source, rx_ns, now)
        if frame.type is FrameType.PULSE:
            signed = self._pulse.rows.get(frame.sender)
            if signed is not None:
                self._overlay.membership.observe_digest(frame.sender, signed.row.roster_digest, now)

    def _on_reported_frame(self, frame: Frame, source: UdpAddress, rx_ns: int) -> None:  # noqa: ARG002 - the shape of all frame handlers
        self._reporter.receive_frame(frame, source, self._clock.now())

    def _on_overlay_event(self, event: object) -> None:
        if isinstance(event, ViewChanged):
            self._sync_members()

    def _sync_members(self) -> None:
        view, now = self._overlay.view, self._clock.now()
        members = {node: self._overlay.address_of(node) for node in view.ids if node != self._me}
        self._pulse.set_members(members, view.digest, now)
        self._reporter.set_members(members, now, self.read_stamp_ns())
        self._flush()

    async def _timer_loop(self) -> None:
        while True:
            self._armed_at = self._next_timer()
            self._rearm = trio.Event()
            with trio.move_on_after(max(0.0, self._armed_at - self._clock.now())):
                await self._rearm.wait()
            now = self._clock.now()
            if now >= self._next_timer():
                self._pulse.handle_timer(now)
                self._reporter.handle_timer(now, self.read_stamp_ns())
                self._flush()

    def _next_timer(self) -> float:
        timers = (self._pulse.get_timer(), self._reporter.get_timer())
        return min((timer for timer in timers if timer is not None), default=math.inf)

    # out

    def _flush(self) -> None:
        """Send what the cores want to send, pass on their events, and see that the timer is not later than theirs."""
        now = self._clock.now()
        for data, destination in self._pulse.datagrams_to_send(now, self._clock.stamp_ns):
            self._overlay.send(data, destination)
        for data, destination in self._reporter.datagrams_to_send(now, self.read_stamp_ns):
            self._overlay.send(data, destination)
        while (event := self._pulse.next_event() or self._reporter.next_event()) is not None:
            self._on_core_event(event, now)
        if self._next_timer() < self._armed_at:
            self._rearm.set()

    def _on_core_event(self, event: object, now: float) -> None:
        match event:
            case PeerMisbehaved(peer=peer, source=source, reason=reason):
                self._overlay.count_drop(reason, peer=peer, source=source)
                return
            case ReportDue(epoch=epoch, sequence=sequence):
                self._offer_report(epoch, sequence, now)
                return
            case MatrixFilled(edges=edges, members=members, after_s=after_s):
                self._reporter.matrix_filled(now)
                logger.info("all %d edges of %d members are known, %.1f s after the last change", edges, members, after_s)
            case MatrixIncomplete(edges=edges, members=members):
                logger.info("only %d edges of %d members are known", edges, members)
            case ClockRealigned(by_ms=by_ms, epoch=epoch):
                logger.info("moved the group time by %.0f ms, clock epoch %d", by_ms, epoch)
            case ReporterElected(epoch=epoch, node_id=node_id):
                logger.info("%s reports in epoch %d", node_id, epoch)
            case ReporterTookOver(node_id=node_id, rank=rank):
                logger.info("standby %d, %s, reports", rank, node_id)
            case EquivocationSeen(node_id=node_id):
                logger.warning("%s signed two different rows at one sequence number", node_id)
            case ReportPublished(rows=rows, node_id=node_id):
                logger.debug("%s published %d rows", node_id, rows)
            case _:
                pass
        for callback in self._event_callbacks:
            callback(event)

    # reports

    def _offer_report(self, epoch: int, sequence: int, now: float) -> None:
        rows = self._pulse.verified_rows(now)
        report = Report(self._overlay.group, epoch, sequence, self._me, self._pulse.matrix.members, self._pulse.roster_digest, rows)
        try:
            self._send_reports.send_nowait(report)
        except trio.WouldBlock:
            self._reporter.report_failed(sequence)

    async def _report_loop(self) -> None:
        async for report in self._receive_reports:
            is_stored = await self._publish(report)
            if is_stored:
                self._reporter.report_published(report.sequence, report.digest, len(report.rows), self._clock.now())
            else:
                self._reporter.report_failed(report.sequence)
            self._flush()

    async def _publish(self, report: Report) -> bool:
        if self._report_handler is None:
            return False
        try:
            return await self._report_handler(report)
        except RemoteProtocolError as error:
            logger.warning("report %d/%d was not published: %s", report.epoch, report.sequence, error)
            return False
