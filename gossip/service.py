"""Gossip at work: gives `GossipCore` its clock, its frames and its turn on the socket. A shell.

It owns no socket: frames come from the overlay, datagrams leave through it, and the overlay's view says who the members are. The core's
earliest timer is an alarm; a task hands reports to whoever publishes them, one at a time, because that may take its time.
Cancelling `run` stops pulsing; nothing is left to undo. Attach `on_event` and `on_report` before `run`.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

import trio

from srwan.clock import Clock
from srwan.errors import RemoteProtocolError
from srwan.gossip.clock_fit import ClockFit
from srwan.gossip.core import GossipConfig, GossipCore
from srwan.gossip.events import EchoMeasured
from srwan.gossip.log_lines import line_of
from srwan.gossip.owl import OwlSnapshot
from srwan.gossip.report import Report
from srwan.gossip.reporter import ReportDue
from srwan.gossip.row import SignedRow
from srwan.gossip.suspicion import BEHIND_S
from srwan.gossip.witness import Score
from srwan.identity import Identity
from srwan.overlay.frame import Frame, FrameType
from srwan.overlay.reactor import Alarm, current_reactor
from srwan.overlay.service import OverlayService
from srwan.types import NodeId, PeerMisbehaved, UdpAddress

__all__ = ["GossipService", "ReportHandler"]

REPORTS_WAITING_MAX = 1
"""A report that is due while one is being published replaces nothing: it is left out, the next one is newer anyway."""

ReportHandler: TypeAlias = Callable[[Report], Awaitable[bool]]
"""Publishes a report; True if it is stored, False if a standby should try."""

NEVER_NS = 2**63

_FRAME_TYPES = (FrameType.PULSE, FrameType.BEAT, FrameType.ECHO, FrameType.REPORTED, FrameType.VOTE)

logger = logging.getLogger("srwan.gossip")


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
        self._clock = clock
        self._overlay = overlay
        self.core = GossipCore(
            identity, overlay.frames, overlay.group, overlay.membership, overlay.view, boot=clock.boot_id, rng=rng, config=config
        )
        """What this service runs; others only look at it."""
        self._report_handler: ReportHandler | None = None
        self._event_callbacks: list[Callable[[object], None]] = []
        self._send_reports, self._receive_reports = trio.open_memory_channel[Report](REPORTS_WAITING_MAX)
        self._alarm: Alarm | None = None
        self._is_touched = False
        self._oldest_rx_ns = NEVER_NS
        overlay.on_frames(_FRAME_TYPES, self._on_frame)
        overlay.on_frames((FrameType.PROBE,), self._on_frame, from_former=True)
        overlay.after_batch(self._after_batch)
        overlay.on_event(self._on_overlay_event)

    # for other rooms

    @property
    def rows(self) -> Mapping[NodeId, SignedRow]:
        """The latest row of each member that was heard; not all are verified."""
        return self.core.pulse.rows

    @property
    def reporter(self) -> NodeId | None:
        """Who reports in this epoch, as far as this node knows; None before there is a group."""
        order = self.core.reporter.order
        return order[0] if order else None

    @property
    def standbys(self) -> tuple[NodeId, ...]:
        """Who steps in if the reporter is silent, best first, at most 3."""
        return self.core.reporter.order[1:]

    @property
    def drops(self) -> Mapping[str, int]:
        """What was passed over without being a peer's fault, and the rest too, by reason; the latter also counts in the overlay."""
        return self.core.drops

    def snapshot(self, now: float) -> OwlSnapshot:
        """Return the matrix of raw one-way latencies as of `now` (monotonic seconds)."""
        return self.core.pulse.snapshot(now)

    def edges_known(self, now: float) -> int:
        """Return how many directed edges are known, of n (n - 1)."""
        return self.core.pulse.edges_known(now)

    def group_ns(self, stamp_ns: int) -> int:
        """Convert a stamp of this node's clock to group time, ns."""
        return self.core.pulse.group_ns(stamp_ns)

    def read_stamp_ns(self) -> int:
        """Group time now, ns."""
        return self.core.pulse.group_ns(self._clock.stamp_ns())

    def round_trip_ms(self, peer: NodeId) -> float | None:
        """Return the last probe's round trip to a member, ms; None if there was none."""
        return self.core.pulse.time.round_trip_ms(peer)

    def set_counters(self, octets_in: int, octets_out: int, octets_relayed: int) -> None:
        """Say what the data plane carried since boot; told with every row."""
        self.core.pulse.counters = (octets_in, octets_out, octets_relayed)

    def is_trusted(self, node: NodeId) -> bool:
        """Say whether a member may be used as a relay, as far as its honesty goes: no evidence of lies, no quarantine."""
        return self.core.is_trusted(node)

    def scores(self) -> Mapping[NodeId, Score]:
        """Return how members stand with this one and with the group; only those with something against them."""
        return {} if self.core.witness is None else self.core.witness.scores(self._clock.now())

    def fit_clocks(self) -> tuple[tuple[NodeId, ...], ClockFit] | None:
        """Return the members and what is known of their clocks and true latencies, as of now; None without reviews. Cost: 50 ms at 100."""
        if self.core.clocks is None:
            return None
        fit = self.core.clocks.fit(self._clock.now())
        return self.core.clocks.members, fit

    def path_measured(self, far: NodeId, relays: tuple[NodeId, ...], predicted_ms: float, observed_ms: float) -> None:
        """Note what a path of this node really delivers, see `Witness.path_measured`."""
        self.core.path_measured(far, relays, predicted_ms, observed_ms, self._clock.now())

    def check_copy(self, node: NodeId, content: bytes) -> None:
        """Compare a row that came through others with the one held; two signed contents at one (boot, seq) become EquivocationSeen.

        Raises:
            RemoteProtocolError: not a row, or badly signed.
        """
        self.core.check_copy(node, content)
        self._flush()

    def on_event(self, callback: Callable[[object], None]) -> None:
        """Have `callback` called with every event of this room: matrix, group time, reporter, equivocation."""
        self._event_callbacks.append(callback)

    def on_report(self, handler: ReportHandler) -> None:
        """Have `handler` publish the reports that are this node's to publish. Without one it never reports, and a standby will."""
        self._report_handler = handler

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Pulse and report until cancelled. Reports started at once."""
        self.core.members_changed(self._clock.now(), self._clock.stamp_ns())
        with current_reactor().alarm(self._on_alarm, self._clock) as self._alarm:
            self._flush()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._alarm.until_failure)
                nursery.start_soon(self._report_loop)
                task_status.started()

    # in

    def _on_frame(self, frame: Frame, source: UdpAddress, rx_ns: int) -> None:
        if self.core.receive_frame(frame, source, rx_ns, self._clock.now(), self._clock.wall_ns()):
            self._is_touched = True
        self._oldest_rx_ns = min(self._oldest_rx_ns, rx_ns)

    def _after_batch(self) -> None:
        """Most batches are beats and pulses that change nothing."""
        if self._oldest_rx_ns < NEVER_NS:
            lag_s = (self._clock.stamp_ns() - self._oldest_rx_ns) / 1e9
            self._oldest_rx_ns = NEVER_NS
            if lag_s > BEHIND_S:
                self._is_touched = True
                self.core.note_lag(lag_s, self._clock.now())
        if self._is_touched:
            self._flush()

    def _on_overlay_event(self, event: object) -> None:
        if self.core.membership_event(event, self._clock.now(), self._clock.stamp_ns()):
            self._flush()

    def _on_alarm(self) -> None:
        self.core.handle_timer(self._clock.now(), self._clock.wall_ns(), self._clock.stamp_ns)
        self._flush()

    # out

    def _flush(self) -> None:
        """Send what the core wants to send, pass on its events, and see that the timer is not later than the core's."""
        now, self._is_touched = self._clock.now(), False
        self.core.settle(now, self._clock.wall_ns())
        for data, destination in self.core.datagrams_to_send(now, self._clock.stamp_ns):
            self._overlay.send(data, destination)
        while (event := self.core.next_event()) is not None:
            self._on_core_event(event, now)
        if self.core.has_touched_membership:
            self.core.has_touched_membership = False
            self._overlay.flush()
        if self._alarm is not None:
            timer = self.core.get_timer()
            self._alarm.set(math.inf if timer is None else timer)

    def _on_core_event(self, event: object, now: float) -> None:
        match event:
            case PeerMisbehaved(peer=peer, source=source, reason=reason):
                self._overlay.count_drop(reason, peer=peer, source=source)
                return
            case ReportDue():
                self._offer_report(event, now)
                return
            case EchoMeasured():
                return
            case _:
                line = line_of(event)
                if line is not None:
                    logger.log(*line)
        for callback in self._event_callbacks:
            callback(event)

    # reports

    def _offer_report(self, due: ReportDue, now: float) -> None:
        try:
            self._send_reports.send_nowait(self.core.make_report(due, now))
        except trio.WouldBlock:
            self.core.report_failed(due.sequence)

    async def _report_loop(self) -> None:
        async for report in self._receive_reports:
            is_stored = await self._publish(report)
            if is_stored:
                self.core.report_published(report.sequence, report.digest, len(report.rows), self._clock.now())
            else:
                self.core.report_failed(report.sequence)
            self._flush()

    async def _publish(self, report: Report) -> bool:
        if self._report_handler is None:
            return False
        try:
            return await self._report_handler(report)
        except RemoteProtocolError as error:
            logger.warning("report %d/%d was not published: %s", report.epoch, report.sequence, error)
            return False
