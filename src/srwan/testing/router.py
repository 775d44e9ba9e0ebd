"""One simulated router: the real cores, composed as the node composes them, and a clock that is wrong.

The only place of the simulator that knows which cores there are and how they are wired; everything else sees datagrams, timers and events.
What the shells of overlay and gossip do with the system (sockets, tasks, the control channel, the record store) is the simulator's matter;
a report that is due counts as published at once.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable

import attrs

from srwan.errors import RemoteProtocolError
from srwan.gossip.core import GossipConfig, GossipCore
from srwan.gossip.pulse import Pulse
from srwan.gossip.reporter import ReportDue
from srwan.identity import Identity
from srwan.overlay.frame import Frame, FrameCodec, FrameType
from srwan.overlay.group import GroupId
from srwan.overlay.member_events import ViewChanged
from srwan.overlay.membership import Membership
from srwan.overlay.view import LIFETIME_S_DEFAULT, Member, Role, View
from srwan.types import GeoAsn, NodeId, PeerMisbehaved, UdpAddress

__all__ = ["SimClock", "SimRouter"]

EPOCH_NS = 1_700_000_000 * 10**9
"""Wall time at which simulations begin."""
_MEMBERSHIP_TYPES = frozenset({FrameType.JOIN, FrameType.LEAVE, FrameType.PULL, FrameType.MEMBERS, FrameType.ACCUSE})


class SimClock:
    """A host's clocks: off by `offset_s`, drifting by `drift_ppm`, stepped at times. Monotonic time is true: timers need no agreement."""

    __slots__ = ("_offset_ns", "_rate_ns")

    def __init__(self, offset_s: float, drift_ppm: float) -> None:
        self._offset_ns = EPOCH_NS + round(offset_s * 1e9)
        self._rate_ns = 1e9 * (1 + drift_ppm * 1e-6)

    def stamp_ns(self, now: float) -> int:
        """The stamp clock and the wall clock at a time, ns since 1970."""
        return self._offset_ns + int(now * self._rate_ns)

    def step(self, by_s: float) -> None:
        """Set both clocks forward, or back if negative."""
        self._offset_ns += round(by_s * 1e9)


@attrs.frozen(slots=True, kw_only=True)
class RouterSettings:
    """What stays when a router restarts."""

    identity: Identity
    group: GroupId
    address: UdpAddress
    location: GeoAsn
    clock: SimClock
    make_codec: Callable[[Identity, int, int], FrameCodec]
    """Called with identity, group tag and boot id."""
    gossip: GossipConfig
    has_real_crypto: bool
    """Whether reports verify all signatures, as on a network."""


class SimRouter:
    """The cores of one run of one router.

    Args:
        settings: see there.
        rng: of this run.
        now: simulated seconds.

    After every call in, ask `has_output` and drain, then ask `get_timer`.
    """

    def __init__(self, settings: RouterSettings, rng: random.Random, now: float) -> None:
        self.node_id = settings.identity.node_id
        self._settings = settings
        self._clock = settings.clock
        self.stamp_ns = settings.clock.stamp_ns(now)
        """Its stamp clock, as of the last call in, ns."""
        self.boot = (self.stamp_ns // 100_000_000) & 0xFFFFFFFF
        """As `Clock.boot_id`."""
        group = settings.group
        self.frames = settings.make_codec(settings.identity, int.from_bytes(group[:4], "little"), self.boot)
        self.view = View(group[:8])
        """Who this router thinks is there."""
        self.membership = Membership(settings.identity, self.frames, self.view, self._certify, rng, boot=self.boot)
        self.core = GossipCore(
            settings.identity, self.frames, group, self.membership, self.view, boot=self.boot, rng=rng, config=settings.gossip
        )
        """Everything of gossip."""
        self.drops: Counter[str] = Counter()
        """Datagrams refused before a core had them, and what membership blamed on peers."""
        self._membership_at = self._core_at = math.inf
        self._is_membership_touched = True
        self._known: dict[NodeId, None] = {}
        """Members heard since the view changed: the membership need not be told of every frame of theirs."""

    @property
    def pulse(self) -> Pulse:
        """The part of gossip that measures and tells."""
        return self.core.pulse

    @property
    def all_drops(self) -> Counter[str]:
        """What this router refused since it started, by reason."""
        return self.drops + self.core.drops

    # in

    def start(self, now: float) -> None:
        """Become a group of one."""
        self._read_clock(now)
        self.membership.join((), now, self.stamp_ns)
        self._is_membership_touched = True

    def join(self, roster: list[bytes], now: float) -> int:
        """Merge a roster from an introducer; return how many of it are members now."""
        self._read_clock(now)
        self._is_membership_touched = True
        return self.membership.join(roster, now, self.stamp_ns)

    def admit(self, caller: NodeId, certificate: bytes, now: float) -> list[bytes]:
        """As introducer: return the roster. Raises RemoteProtocolError as `Membership.admit`."""
        self._read_clock(now)
        self._is_membership_touched = True
        return self.membership.admit(caller, certificate, now, self.stamp_ns)

    def leave(self, now: float) -> None:
        """Say goodbye."""
        self._read_clock(now)
        self._is_membership_touched = True
        self.membership.leave(now, self.stamp_ns)

    def receive(self, data: bytes, source: UdpAddress, rx_ns: int, now: float) -> bool:
        """Take in a datagram that came at `rx_ns` of this router's clock. Never raises for what a peer sent.

        Returns:
            Whether to drain, and to ask for the timer: mostly not.
        """
        try:
            frame = self.frames.open(data, now)
            kind = frame.type
            if frame.sender not in self._known or kind in _MEMBERSHIP_TYPES:
                return self._receive_from_other(frame, source, rx_ns, now)
            return self.core.receive_frame(frame, source, rx_ns, now, rx_ns)
        except RemoteProtocolError as error:
            self.drops[error.reason] += 1
            return self._is_membership_touched

    def note_lag(self, lag_s: float, now: float) -> None:
        """Say how long the oldest of the datagrams that are read now has waited."""
        self.core.note_lag(lag_s, now)

    def handle_timer(self, now: float) -> None:
        """Do what is due."""
        self.stamp_ns = self._clock.stamp_ns(now)
        if self._membership_at <= now:
            self.membership.handle_timer(now, self.stamp_ns)
            self._is_membership_touched = True
        if self._core_at <= now:
            self.core.handle_timer(now, self.stamp_ns, self._read_stamp_ns)

    # out

    def get_timer(self) -> float:
        """When to call `handle_timer` next; infinite: only after the next call in."""
        if self._is_membership_touched:
            self._is_membership_touched = False
            self._membership_at = _or_never(self.membership.get_timer())
        self._core_at = core_at = _or_never(self.core.get_timer())
        return min(core_at, self._membership_at)

    def drain(self, now: float, found: list[object]) -> list[tuple[bytes, UdpAddress]]:
        """Return the datagrams to send with their destinations, and add what happened to `found`."""
        self.stamp_ns = self._clock.stamp_ns(now)
        out: list[tuple[bytes, UdpAddress]] = []
        core = self.core
        while True:
            core.settle(now, self.stamp_ns)
            out += core.datagrams_to_send(now, self._read_stamp_ns)
            is_idle = True
            while (conclusion := core.next_event()) is not None:
                is_idle = False
                found.append(conclusion)
                if isinstance(conclusion, ReportDue):
                    self._report(conclusion, now)
            if self._is_membership_touched or core.has_touched_membership:
                is_idle &= self._drain_membership(out, found, now)
            if is_idle:
                return out

    def _drain_membership(self, out: list[tuple[bytes, UdpAddress]], found: list[object], now: float) -> bool:
        """As `drain`, for this part; return whether nothing happened."""
        self._is_membership_touched, self.core.has_touched_membership = True, False
        out += self.membership.datagrams_to_send(now, self._read_stamp_ns)
        is_idle = True
        while (event := self.membership.next_event()) is not None:
            is_idle = False
            found.append(event)
            self._on_membership_event(event, now)
        return is_idle

    # the wiring

    def _read_clock(self, now: float) -> None:
        self.stamp_ns = self._clock.stamp_ns(now)

    def _read_stamp_ns(self) -> int:
        return self.stamp_ns

    def _receive_from_other(self, frame: Frame, source: UdpAddress, rx_ns: int, now: float) -> bool:
        """Take in a frame of the membership, or of who was not heard since the view changed."""
        self._is_membership_touched = True
        self.membership.note_heard(frame.sender, source, now)
        is_member = frame.sender in self.view
        if is_member:
            self._known[frame.sender] = None
        if frame.type in _MEMBERSHIP_TYPES:
            self.membership.receive_frame(frame, source, now, rx_ns)
        elif is_member or frame.type is FrameType.PROBE:
            self.core.receive_frame(frame, source, rx_ns, now, rx_ns)
        else:
            self.drops["late"] += 1
        return True

    def _on_membership_event(self, event: object, now: float) -> None:
        if isinstance(event, PeerMisbehaved):
            self.drops[event.reason] += 1
        elif isinstance(event, ViewChanged):
            self._known.clear()
        self.core.membership_event(event, now, self.stamp_ns)

    def _report(self, due: ReportDue, now: float) -> None:
        rows = self.pulse.verified_rows(now) if self._settings.has_real_crypto else tuple(self.pulse.rows)
        self.core.report_published(due.sequence, bytes(32), len(rows), now)

    def _certify(self, boot: int, seq: int, wall_ns: int, is_leaving: bool) -> bytes:
        settings = self._settings
        member = Member(
            node_id=self.node_id,
            boot=boot,
            seq=seq,
            name="",
            udp=(settings.address,),
            control=(),
            location=settings.location,
            roles=Role.RELAY | Role.INTRODUCER,
            issued_ns=wall_ns,
            expires_ns=wall_ns + LIFETIME_S_DEFAULT * 10**9,
            is_leaving=is_leaving,
            group=settings.group[:8],
        )
        return member.seal(settings.identity)


def _or_never(at: float | None) -> float:
    return math.inf if at is None else at
