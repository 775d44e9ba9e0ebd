"""What one member of a pulse group does besides belonging to it: everything of this room, put together without I/O.

A frame of a member goes to the part that understands it, and what one part finds out goes to those who need it:

- `pulse.py` measures and tells; its matrix is what paths are chosen by.
- `suspicion.py` says who may be dead. What it accuses, the overlay's membership signs and spreads; the quorum there decides. A newer row
  refutes accusations. A member that was buried alive is silent until `probation.py` finds it well, then it starts a new run.
- `reporter.py` says whose turn it is to publish.
- Once a round a *review* of the matrix: `witness.py` looks for lies, `clock_watch.py` follows the clocks; `anomaly.py` takes every
  sample. These three watch only: the first says who is no relay, the others inform people.

The simulator runs this very class; `service.py` gives it a socket and a clock. Order of calls, as everywhere: one call in, then `settle`,
`datagrams_to_send` and `next_event`, then `get_timer`. `receive_frame` says whether that is needed at all: most frames change nothing.
"""

from __future__ import annotations

import math
import random
import struct
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Protocol, TypeAlias

import attrs

from srwan.errors import ConfigError
from srwan.gossip.anomaly import AnomalyDetector, AnomalyEvent
from srwan.gossip.clock_watch import ClockWatch
from srwan.gossip.events import ClockRealigned, EchoMeasured, EquivocationSeen, MatrixFilled, PeerClockMoved, PulseEvent
from srwan.gossip.owl import OwlSnapshot
from srwan.gossip.probation import Probation
from srwan.gossip.pulse import PERIOD_S, Pulse
from srwan.gossip.report import Report
from srwan.gossip.reporter import INTERVAL_S, STANDBY_DELAY_S, ReportDue, Reporter, ReporterEvent
from srwan.gossip.suspicion import BEHIND_S, FLAG_DEAF, AccusationDue, HealthChanged, Suspicion, SuspicionEvent
from srwan.gossip.witness import EchoWanted, Witness, WitnessEvent
from srwan.identity import Identity
from srwan.overlay.admission import TokenBucket
from srwan.overlay.frame import Frame, FrameCodec, FrameType, content_digest
from srwan.overlay.member_events import MemberAccused, SelfBuried, ViewChanged
from srwan.overlay.membership import Membership
from srwan.overlay.view import View
from srwan.types import NodeId, PeerMisbehaved, UdpAddress

__all__ = ["ClockStepped", "GossipConfig", "GossipCore", "GossipEvent", "SelfReborn"]

REVIEW_S = 10.0
"""Once a round: 3 to 7 ms of work at 100 members, and every few rounds 30, in all 0.1 % of a core. The witness and the step detector count
rounds."""
REVIEW_JITTER = 0.1
ECHO_GAP_S = 0.3
"""Between probes that the witness wants, so that they are answered."""
PROBES_WAITING_MAX = 256
FORMER_ECHOES_PER_S, FORMER_ECHOES_MAX = 20.0, 40
"""Echoes for members that were buried here and look whether they are well."""
EVENTS_MAX = 1024
HOLD_S_MAX = 3.0
"""A host that is behind by more than this tells what is new nevertheless so often."""

_PROBE = struct.Struct("<QQ")
_PULSE, _SUSPICION, _REPORTER, _WATCH = 1, 2, 4, 8
"""Bits that name parts; the last one witness, anomalies, clocks and probation together."""
_ALL = 15


class _Part(Protocol):
    def next_event(self) -> GossipEvent | None: ...


@attrs.frozen(slots=True, kw_only=True)
class GossipConfig:
    """How often a member tells, reports and reviews.

    Raises:
        ConfigError: a time is out of range.
    """

    period_s: float = PERIOD_S
    """Between two regular pulses, 0.5..60 s."""
    report_interval_s: float = INTERVAL_S
    """Between two reports, 1..60 s."""
    standby_delay_s: float = STANDBY_DELAY_S
    """How much longer each standby waits than the one before it, 0.5..60 s."""
    review_s: float | None = REVIEW_S
    """Between two reviews for lies, clocks and anomalies, 5..60 s; None: this member does not look for them."""

    def __attrs_post_init__(self) -> None:
        for key, value, low in (
            ("pulse.period_s", self.period_s, 0.5),
            ("report.interval_s", self.report_interval_s, 1.0),
            ("report.standby_delay_s", self.standby_delay_s, 0.5),
            ("pulse.review_s", REVIEW_S if self.review_s is None else self.review_s, 5.0),
        ):
            if not low <= value <= 60:
                raise ConfigError(key, f"{value} is out of range", f"use {low:g} to 60 seconds")


@attrs.frozen(slots=True)
class ClockStepped:
    """This member's clock was stepped: it was suspended, migrated, or set by hand. Latencies of before do not compare."""

    by_ms: float


@attrs.frozen(slots=True)
class SelfReborn:
    """This member had been buried while it lived, showed itself that it is well, and started a new run."""

    boot: int
    """Of the new run."""


GossipEvent: TypeAlias = PulseEvent | SuspicionEvent | ReporterEvent | WitnessEvent | AnomalyEvent | ClockStepped | SelfReborn


class GossipCore:
    """One member's part in what the group measures and tells.

    Args:
        identity: the member's keys.
        frames: shared with the membership.
        group: the 32-byte group id.
        membership: signs accusations, weighs them, and starts new runs.
        view: who the members are.
        boot: `Clock.boot_id`.
        rng: phases, jitter, sampling.
        config: see there.
    """

    def __init__(
        self,
        identity: Identity,
        frames: FrameCodec,
        group: bytes,
        membership: Membership,
        view: View,
        *,
        boot: int,
        rng: random.Random,
        config: GossipConfig,
    ) -> None:
        self._me = identity.node_id
        self._frames = frames
        self._group = group
        self._membership = membership
        self._view = view
        self._rng = rng
        self._config = config
        self.pulse = Pulse(identity, frames, group, boot=boot, rng=rng, period_s=config.period_s)
        """Measures and tells."""
        self.suspicion = Suspicion(self._me, frames, group, rng=rng)
        """Says who may be dead."""
        self.reporter = Reporter(self._me, frames, group, interval_s=config.report_interval_s, standby_delay_s=config.standby_delay_s)
        """Says whose turn it is to publish."""
        is_reviewing = config.review_s is not None
        self.witness: Witness | None = Witness(identity, group, frames, rng=rng) if is_reviewing else None
        """Looks for lies; None without reviews."""
        self.clocks: ClockWatch | None = ClockWatch(self._me) if is_reviewing else None
        """Follows the clocks; None without reviews."""
        self.anomalies: AnomalyDetector | None = AnomalyDetector() if is_reviewing else None
        """Watches the inbound edges; None without reviews."""
        self._parts: tuple[tuple[int, _Part], ...] = (
            (_PULSE, self.pulse),
            (_SUSPICION, self.suspicion),
            (_REPORTER, self.reporter),
            *((_WATCH, part) for part in (self.witness, self.anomalies) if part is not None),
        )
        self._touched = 0
        """Parts that may have something to send or to tell, or another timer."""
        self._pulse_at = self._suspicion_at = self._reporter_at = self._watch_at = math.inf
        self.has_touched_membership = False
        """Set when the membership may have got something to send or an earlier timer; the owner clears it."""
        self._differing: dict[NodeId, None] = {}
        """Members whose last row spoke of another view than ours; as many as there are members."""
        self._probation: Probation | None = None
        self._former_tokens = TokenBucket(FORMER_ECHOES_PER_S, FORMER_ECHOES_MAX, 0.0)
        self._former_echoes: deque[tuple[NodeId, UdpAddress, bytes]] = deque()
        self._buried_boot = 0
        self._review_at = math.inf
        self._probes_later: deque[tuple[float, NodeId]] = deque()
        self._events: deque[GossipEvent] = deque()
        self._lost_events = 0

    # for other rooms

    @property
    def drops(self) -> Counter[str]:
        """What was passed over or refused in all parts, by reason."""
        drops = self.pulse.drops + self.reporter.drops + self.suspicion.drops
        drops["events"] += self._lost_events
        for part in (self.witness, self.anomalies):
            if part is not None:
                drops += part.drops
        return drops

    @property
    def is_buried(self) -> bool:
        """Whether the group buried this member, and it is not back yet."""
        return self._probation is not None

    def is_trusted(self, node: NodeId) -> bool:
        """Say whether a member may be used as a relay, as far as its honesty goes."""
        return self.witness is None or self.witness.is_trusted(node)

    def snapshot(self, now: float) -> OwlSnapshot:
        """Return the matrix of raw one-way latencies as of `now`."""
        return self.pulse.snapshot(now)

    def make_report(self, due: ReportDue, now: float) -> Report:
        """Return the report that is due: verified rows only."""
        rows = self.pulse.verified_rows(now)
        return Report(self._group, due.epoch, due.sequence, self._me, self.pulse.matrix.members, self.pulse.roster_digest, rows)

    def report_published(self, sequence: int, digest: bytes, rows: int, now: float) -> None:
        """The report that was due is stored: tell all members, see `Reporter.report_published`."""
        self._touched |= _REPORTER
        self.reporter.report_published(sequence, digest, rows, now)

    def report_failed(self, sequence: int) -> None:
        """The report that was due could not be stored, see `Reporter.report_failed`."""
        self._touched |= _REPORTER
        self.reporter.report_failed(sequence)

    def check_copy(self, node: NodeId, content: bytes) -> None:
        """Compare a row that came through others with the one held, see `Pulse.check_copy`."""
        self._touched |= _PULSE
        self.pulse.check_copy(node, content)

    # in

    def members_changed(self, now: float, stamp_ns: int) -> None:
        """The view is another, or addresses are: tell all parts. While this member is buried it has no members.

        Args:
            now: monotonic seconds.
            stamp_ns: this host's stamp clock.
        """
        members: dict[NodeId, UdpAddress] = {}
        self._touched = _ALL
        if self._probation is None:
            members = {node: self._membership.address_of(node) for node in self._view.ids if node != self._me}
        self._differing.clear()
        self.pulse.set_members(members, self._view.digest, now)
        self.suspicion.set_members(members, now)
        self.reporter.set_members(members, now, self.pulse.group_ns(stamp_ns))
        if self.witness is None or self.clocks is None or self.anomalies is None:
            return
        places = {member.node_id: member.location for member in self._view.members if member.node_id in members}
        self.witness.set_members({node: (address, places[node]) for node, address in members.items()}, now)
        own = self._view.get(self._me)
        self.clocks.set_members(places if own is None else {**places, self._me: own.location}, now)
        self.anomalies.set_members(members, now)
        if self._review_at == math.inf and members:
            self._plan_review(now)

    def membership_event(self, event: object, now: float, stamp_ns: int) -> bool:
        """Take in what `Membership` says happened. Return whether it concerns gossip: there may be something to send or to tell now."""
        match event:
            case ViewChanged():
                self.members_changed(now, stamp_ns)
            case MemberAccused(subject=subject) if subject == self._me:
                self.pulse.tell_soon(now)
                self.suspicion.accused(now)
            case SelfBuried(boot=boot):
                self._begin_probation(boot, now, stamp_ns)
            case PeerMisbehaved(peer=peer, reason=reason) if peer is not None and self.witness is not None:
                self.witness.misbehaved(peer, reason, now)
            case _:
                return False
        self._touched = _ALL
        return True

    def receive_frame(self, frame: Frame, source: UdpAddress, rx_ns: int, now: float, wall_ns: int) -> bool:
        """Take in an authenticated frame of a member. Never raises for what a peer sent: it drops and counts.

        Args:
            frame: from `FrameCodec.open`, of a type in `FRAME_TYPES`.
            source: where it came from.
            rx_ns: receive stamp, ns of this host's stamp clock.
            now: monotonic seconds.
            wall_ns: wall time, ns since 1970.

        Returns:
            Whether there may be something to send or to tell now, or an earlier timer.
        """
        kind = frame.type
        if kind is FrameType.BEAT:
            self.suspicion.beat_received(frame, now)
            if not frame.flags & FLAG_DEAF:
                return False
            self._touched |= _SUSPICION
            return True
        self.suspicion.heard(frame.sender, now)
        if kind is FrameType.PULSE:
            return self._receive_pulse(frame, source, rx_ns, now)
        if kind is FrameType.PROBE and frame.sender not in self._view:
            return self._echo_former(frame, source, rx_ns, now)
        self._touched |= _ALL
        if kind is FrameType.ECHO and self._probation is not None:
            self._probation.echo_received(frame.sender, now)
        elif kind is FrameType.PROBE or kind is FrameType.ECHO:
            return self.pulse.receive_frame(frame, source, rx_ns, now)
        elif kind is FrameType.REPORTED:
            self.reporter.receive_frame(frame, source, now)
        elif kind is FrameType.VOTE and self.witness is not None:
            self.witness.receive_frame(frame, now, wall_ns)
        return True

    def note_lag(self, lag_s: float, now: float) -> None:
        """Say how long the frames of a batch waited before they were read: a host that does not keep up accuses nobody, and tells less."""
        if lag_s > BEHIND_S:
            self._touched |= _SUSPICION | _PULSE
            self.suspicion.behind(lag_s, now)
            until = now + min(lag_s, HOLD_S_MAX)
            self.pulse.hold(until)
            self._membership.hold(until)

    def path_measured(self, far: NodeId, relays: tuple[NodeId, ...], predicted_ms: float, observed_ms: float, now: float) -> None:
        """Note what a path of this member really delivers, see `Witness.path_measured`."""
        if self.witness is not None:
            self.witness.path_measured(far, relays, predicted_ms, observed_ms, now)

    def handle_timer(self, now: float, wall_ns: int, read_stamp_ns: Callable[[], int]) -> None:
        """Do what is due.

        Args:
            now: monotonic seconds.
            wall_ns: wall time, ns since 1970.
            read_stamp_ns: reads this host's stamp clock.
        """
        if self._suspicion_at <= now:
            self._touched |= _SUSPICION
            self.suspicion.handle_timer(now)
        if self._pulse_at <= now:
            self._touched |= _PULSE
            self.pulse.handle_timer(now)
        if self._reporter_at <= now:
            self._touched |= _REPORTER
            self.reporter.handle_timer(now, self.pulse.group_ns(read_stamp_ns()))
        if self._watch_at <= now:
            self._touched |= _WATCH | _PULSE
            self._watch(now, wall_ns, read_stamp_ns)

    def get_timer(self) -> float | None:
        """When to call `handle_timer` next; None without members. Cost: 0.5 us, and 1 us for each part that was touched since."""
        touched, self._touched = self._touched, 0
        if touched & _SUSPICION:
            self._suspicion_at = _or_never(self.suspicion.get_timer())
        if touched & _PULSE:
            self._pulse_at = _or_never(self.pulse.get_timer())
        if touched & _REPORTER:
            self._reporter_at = _or_never(self.reporter.get_timer())
        if touched & _WATCH:
            self._watch_at = self._next_watch()
        at = min(self._suspicion_at, self._pulse_at, self._reporter_at, self._watch_at)
        return None if at == math.inf else at

    # out

    def datagrams_to_send(self, now: float, read_stamp_ns: Callable[[], int]) -> Iterator[tuple[bytes, UdpAddress]]:
        """Yield datagrams with their destinations; send each before drawing the next, its stamp is taken as it is drawn."""

        def read_group_ns() -> int:
            return self.pulse.group_ns(read_stamp_ns())

        touched = self._touched
        if touched & _SUSPICION:
            for node in self.suspicion.probes_due():
                self.pulse.probe(node)
                self._touched |= _PULSE
            if self.suspicion.has_output:
                yield from self.suspicion.datagrams_to_send(now, read_group_ns)
        if touched & _WATCH:
            yield from self._datagrams_of_the_watch(now, read_group_ns)
        if self.pulse.has_output:
            yield from self.pulse.datagrams_to_send(now, read_stamp_ns)
        if touched & _REPORTER:
            yield from self.reporter.datagrams_to_send(now, read_group_ns)

    def settle(self, now: float, wall_ns: int) -> None:
        """Pass on what the parts found out to each other. Call it before the two others when a call in said that there may be something."""
        for bit, part in self._parts:
            if self._touched & bit:
                while (event := part.next_event()) is not None:
                    self._pass_on(event, now, wall_ns)
                    self._emit(event)

    def next_event(self) -> GossipEvent | None:
        """Return what happened, None if there is nothing more."""
        return self._events.popleft() if self._events else None

    # inside

    def _emit(self, event: GossipEvent) -> None:
        if len(self._events) >= EVENTS_MAX:
            self._lost_events += 1
            return
        self._events.append(event)

    def _receive_pulse(self, frame: Frame, source: UdpAddress, rx_ns: int, now: float) -> bool:
        is_touched = self.pulse.receive_frame(frame, source, rx_ns, now)
        row = self.pulse.new_row
        if is_touched:
            self._touched |= _PULSE
        if row is None:
            return is_touched
        if row.roster_digest != self._view.digest:
            self._differing[frame.sender] = None
            self._observe_digest(frame.sender, row.roster_digest, now)
            is_touched = True
        elif self._differing and frame.sender in self._differing:
            del self._differing[frame.sender]
            self._observe_digest(frame.sender, row.roster_digest, now)
            is_touched = True
        self._membership.refute(frame.sender, row.seq, now)
        if self.anomalies is not None:
            self.anomalies.sample(frame.sender, (self.pulse.group_ns(rx_ns) - frame.tx_ns) / 1e6, now)
            if self.anomalies.has_output:
                self._touched |= _WATCH
                is_touched = True
        return is_touched

    def _observe_digest(self, node: NodeId, digest: bytes, now: float) -> None:
        self.has_touched_membership = True
        self._membership.observe_digest(node, digest, now)

    def _pass_on(self, event: GossipEvent, now: float, wall_ns: int) -> None:
        """Tell other parts what one found out."""
        match event:
            case AccusationDue(subject=subject):
                held = self.pulse.row_of(subject)
                self.has_touched_membership = True
                self._membership.accuse(subject, 0 if held is None else held.row.seq, now, wall_ns)
            case MatrixFilled():
                self.reporter.matrix_filled(now)
                self._touched |= _REPORTER
            case HealthChanged(level=level):
                self.pulse.health = level
            case _ if self.witness is not None and self.anomalies is not None and self.clocks is not None:
                self._touched |= _WATCH
                self._tell_watchers(event, self.witness, self.anomalies, self.clocks, now)
            case _:
                pass

    def _tell_watchers(self, event: GossipEvent, witness: Witness, anomalies: AnomalyDetector, clocks: ClockWatch, now: float) -> None:
        match event:
            case EchoMeasured(node_id=node, round_trip_ms=round_trip_ms, held_ms=held_ms):
                witness.echo_measured(node, round_trip_ms, now, held_ms=held_ms)
                anomalies.probe_measured(node, max(0.0, round_trip_ms - held_ms), now)
            case EchoWanted(node_id=node, probes=probes):
                later = [(now + number * ECHO_GAP_S, node) for number in range(probes)]
                if len(self._probes_later) < PROBES_WAITING_MAX:
                    self._probes_later = deque(sorted([*self._probes_later, *later]))
            case EquivocationSeen(node_id=node, first=first, second=second):
                witness.equivocation_seen(node, first, second, now)
            case PeerMisbehaved(peer=peer, reason=reason) if peer is not None:
                witness.misbehaved(peer, reason, now)
            case ClockRealigned():
                clocks.forget(self._me)
                for node in self._view.ids:
                    if node != self._me:
                        anomalies.forget(node, now)
            case PeerClockMoved(node_id=node):
                clocks.forget(node)
                anomalies.forget(node, now)
            case _:
                pass

    # watching

    def _watch(self, now: float, wall_ns: int, read_stamp_ns: Callable[[], int]) -> None:
        """Do what is due for witness, anomalies, clocks and probation."""
        if self._probation is not None:
            self._go_on_with_probation(self._probation, now, wall_ns, read_stamp_ns())
        if self.witness is None or self.anomalies is None:
            return
        self.witness.handle_timer(now, wall_ns)
        self.anomalies.handle_timer(now)
        while self._probes_later and self._probes_later[0][0] <= now:
            self.pulse.probe(self._probes_later.popleft()[1])
        if now >= self._review_at:
            self._review(now)

    def _next_watch(self) -> float:
        timers = [None if self._probation is None else self._probation.get_timer()]
        if self.witness is not None and self.anomalies is not None:
            timers += [self.witness.get_timer(), self.anomalies.get_timer(), self._review_at]
            timers.append(self._probes_later[0][0] if self._probes_later else None)
        return min((at for at in timers if at is not None), default=math.inf)

    def _datagrams_of_the_watch(self, now: float, read_group_ns: Callable[[], int]) -> Iterator[tuple[bytes, UdpAddress]]:
        yield from self._datagrams_of_the_buried(read_group_ns)
        if self.witness is not None and self.anomalies is not None:
            for node in self.anomalies.probes_due(now):
                self.pulse.probe(node)
            yield from self.witness.datagrams_to_send(now, read_group_ns)

    def _plan_review(self, now: float) -> None:
        assert self._config.review_s is not None
        self._review_at = now + self._config.review_s * self._rng.uniform(1 - REVIEW_JITTER, 1 + REVIEW_JITTER)

    def _review(self, now: float) -> None:
        """Look through the matrix for lies, steps and drift, and let the anomalies know what is usual."""
        assert self.witness is not None
        assert self.clocks is not None
        assert self.anomalies is not None
        self._plan_review(now)
        if self._probation is not None:
            return
        snapshot = self.pulse.snapshot(now)
        self.witness.check(snapshot, now)
        for node, (lost, judged) in self.pulse.rounds_judged().items():
            self.anomalies.rounds_counted(node, lost, judged, now)
        fit = self.clocks.last_fit
        step_ms = self.clocks.review(snapshot, now)
        if step_ms:
            self.pulse.clock_stepped(step_ms, now)
            self._emit(ClockStepped(step_ms))
        self.pulse.clock = self.clocks.claim(now)
        if self.clocks.last_fit is not fit:
            for node in self._view.ids:
                if node != self._me:
                    owl_ms, drift_ppm = self.clocks.inbound(node)
                    self.anomalies.calibrate(node, owl_ms=owl_ms, drift_ppm=drift_ppm)

    # buried alive

    def _begin_probation(self, boot: int, now: float, stamp_ns: int) -> None:
        """The group goes on without this member: be silent, and find out when it is well."""
        self._buried_boot = boot
        self._probation = Probation([node for node in self._view.ids if node != self._me], now, rng=self._rng)
        self.members_changed(now, stamp_ns)

    def _go_on_with_probation(self, probation: Probation, now: float, wall_ns: int, stamp_ns: int) -> None:
        probation.handle_timer(now)
        if not probation.is_ready:
            return
        self._probation = None
        self.has_touched_membership = True
        boot = max(self._buried_boot + 1, wall_ns // 100_000_000 & 0xFFFFFFFF)
        self._membership.rejoin(boot, now, wall_ns)
        self.members_changed(now, stamp_ns)
        self._emit(SelfReborn(boot))

    def _echo_former(self, frame: Frame, source: UdpAddress, rx_ns: int, now: float) -> bool:
        """Answer a PROBE of who is no member (any more), within a rate for all of them."""
        if len(frame.content) != _PROBE.size or not self._former_tokens.take(now):
            return False
        nonce, _ = _PROBE.unpack(frame.content)
        self._touched |= _WATCH
        self._former_echoes.append((frame.sender, source, _PROBE.pack(nonce, self.pulse.group_ns(rx_ns))))
        return True

    def _datagrams_of_the_buried(self, read_group_ns: Callable[[], int]) -> Iterator[tuple[bytes, UdpAddress]]:
        """Yield the probes of a probation here, and the echoes for probations elsewhere."""
        outgoing: list[tuple[NodeId, UdpAddress, FrameType, bytes]] = []
        if self._probation is not None:
            for node in self._probation.probes_due():
                if node in self._view:
                    content = _PROBE.pack(self._rng.getrandbits(64), 0)
                    outgoing.append((node, self._membership.address_of(node), FrameType.PROBE, content))
        while self._former_echoes:
            former, source, content = self._former_echoes.popleft()
            outgoing.append((former, source, FrameType.ECHO, content))
        for receiver, address, kind, content in outgoing:
            try:
                sealed = self._frames.seal(receiver, kind, content, digest=content_digest(content), tx_ns=read_group_ns())
            except KeyError:  # its key is gone already
                continue
            yield sealed, address


def _or_never(at: float | None) -> float:
    return math.inf if at is None else at
