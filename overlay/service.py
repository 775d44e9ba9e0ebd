"""The overlay at work: one socket, one control channel, one directory, and the cores that decide what goes over them. A shell.

Batches from the socket and the cores' earliest timer come from the process's reactor (`reactor.py`). Every datagram goes to the handler of
its plane; frames are opened once, membership frames are handled here, the others go to who registered for them, and only if their sender is
a member. One task takes the steps of the join plan, one saves the address book. Nothing is awaited per datagram, and nothing a
datagram does ends a task: what is a peer's fault is dropped and counted under a reason, what is our own (any other exception in a
handler) is logged as an error and counted as "internal".

Other rooms attach before `run`: `on_frames`, `on_plane`, `after_batch`, `on_event`. Handlers are synchronous and quick. They send with
`send`, and what they make the cores of this room want to send leaves with the next `flush`, which comes after every batch and timer.

Cancelling `run` says goodbye: LEAVE twice, within `GOODBYE_S`, the address book is saved, and the socket is closed. The control channel
and the directory are closed by who opened them.
"""

from __future__ import annotations

import logging
import math
import os
import random
import secrets
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import attrs
import trio

from srwan.clock import Clock
from srwan.errors import ConfigError, DecodeError, LocalProtocolError, OverlayError, RemoteProtocolError
from srwan.identity import Identity
from srwan.overlay.dispatch import BatchHandler, PlaneHandler, Planes
from srwan.overlay.drops import DropCounter
from srwan.overlay.frame import FRAME_PLANE, Frame, FrameCodec, FrameType
from srwan.overlay.group import GroupId, group_id, group_tag, placement
from srwan.overlay.join import Ask, Done, GroupFounded, GroupJoined, JoinPlan, Lookup, Publish, Wait
from srwan.overlay.member_events import IdentityConflict, MemberAccused, MemberJoined, MemberLeft, SelfBuried, ViewChanged
from srwan.overlay.member_frames import decode_roster, encode_roster
from srwan.overlay.membership import LEAVE_REPEAT_S, Membership
from srwan.overlay.peers import BOOK_BYTES_MAX, AddressBook
from srwan.overlay.reactor import Alarm, current_reactor
from srwan.overlay.rendezvous import RECORD_TTL_S, IntroducerRecord
from srwan.overlay.session import SESSION_PLANE, Sessions
from srwan.overlay.trains import Train
from srwan.overlay.transport import ControlAddress, ControlChannel, DatagramTransport, Directory, TrainTransport
from srwan.overlay.view import CERTIFICATE_BYTES_MAX, LIFETIME_S_DEFAULT, Member, Role, View
from srwan.types import Datagram, GeoAsn, NodeId, PeerMisbehaved, UdpAddress

__all__ = ["JOIN_PROTOCOL", "FrameHandler", "OverlayConfig", "OverlayService", "PlaneHandler", "load_book", "save_book"]

JOIN_PROTOCOL = "/srwan/join/1"
"""Control protocol: request is the caller's certificate, response a roster."""
REQUEST_TIMEOUT_S = 5.0
"""An introducer that needs longer is overloaded; the next one is asked."""
GOODBYE_S = 0.5
USUAL_REASONS = frozenset({"unknown-sender", "stale", "expired", "replay", "ack-late", "hold-off", "left"})
"""Drops that restarts, loss and reordering bring about: no warning."""
BOOK_SAVE_S = 60.0
INTERNAL_PAUSE_S = 1.0
"""After a bug in a timer, so that one that stays due does not fill the log."""
FLUSH_ROUNDS_MAX = 64
"""Events that cause events; the rest waits for the next flush."""

_S = 1_000_000_000
_MEMBERSHIP_TYPES = frozenset({FrameType.JOIN, FrameType.LEAVE, FrameType.PULL, FrameType.MEMBERS, FrameType.ACCUSE})

FrameHandler: TypeAlias = Callable[[Frame, UdpAddress, int], None]
"""Takes an authenticated frame of a member, its source, and its receive stamp in ns of the stamp clock."""

logger = logging.getLogger("srwan.overlay")


@attrs.frozen(slots=True, kw_only=True)
class OverlayConfig:
    """What a node says about itself, and how it looks for others."""

    network: str = "srwan"
    """Routers of one network meet; see `group_id`."""
    prefix: str = ""
    """Which group of the network; "" for a network of one group."""
    salt: bytes = b""
    """Of the placement into groups."""
    name: str = ""
    """Label others see, up to 32 printable ASCII characters."""
    location: GeoAsn = attrs.field(factory=GeoAsn)
    roles: Role = Role.RELAY | Role.INTRODUCER
    announce_udp: tuple[UdpAddress, ...] = ()
    """Addresses told to others, best first; empty: those the socket listens on."""
    announce_control: tuple[str, ...] = ()
    """Control multiaddrs told to others; empty: the control channel's own."""
    has_bootstrap: bool = False
    """There is a way into the directory; without one the node founds a group at once unless the address book knows somebody."""
    lone_after_s: float = 4.0
    """How long to look for a group before founding one."""
    address_book: Path | None = None
    """File that outlives the run; None: none."""


class OverlayService:
    """One node in its group.

    Args:
        identity: the node's keys.
        clock: shared with the transport.
        config: see there.
        transport: bound already; closed when `run` ends.
        control: listening already; stays open.
        directory: reachable or not; stays open.
        rng: for jitter, choices and salts.

    Raises:
        ConfigError: name or addresses cannot be announced, or the network name is malformed.
    """

    def __init__(
        self,
        identity: Identity,
        clock: Clock,
        config: OverlayConfig,
        transport: DatagramTransport,
        control: ControlChannel,
        directory: Directory,
        rng: random.Random,
    ) -> None:
        self.identity = identity
        self.group: GroupId = group_id(config.network, config.prefix)
        """The pulse group this node belongs to."""
        self.view = View(self.group[:8])
        """Who is in it; changed by this service only."""
        self.frames = FrameCodec(identity, group_tag(self.group), clock.boot_id)
        """Seals frames to members."""
        self.sessions = Sessions(identity, rng, entropy=secrets.token_bytes, is_allowed=self.view.__contains__)
        """Encrypted sessions with members."""
        self._clock = clock
        self._config = config
        self._transport = transport
        self._send_many = transport.send_many if isinstance(transport, TrainTransport) else self._send_each
        self._control = control
        self._directory = directory
        self._rng = rng
        self._udp = config.announce_udp or transport.local_addresses[:4]
        self._control_multiaddrs = config.announce_control or control.local_address.multiaddrs[:4]
        self.membership = Membership(identity, self.frames, self.view, self._certify, rng, boot=clock.boot_id, is_placed=self._is_placed)
        """Keeps the view; others only ask it for addresses and tell it digests."""
        self._book = AddressBook()
        self._is_book_changed = False
        self._drops = DropCounter()
        self._planes = Planes(lambda reason, source: self.count_drop(reason, source=source), self._report_internal)
        self._planes.add(FRAME_PLANE, self._on_frame)
        self._planes.add(SESSION_PLANE, self._on_session)
        self._frame_handlers: dict[FrameType, FrameHandler] = {}
        self._types_from_former: set[FrameType] = set()
        self._after_batch: list[Callable[[], None]] = []
        self._event_callbacks: list[Callable[[object], None]] = []
        self._is_flushing = False
        self._is_touched = False
        """Whether membership or sessions may have something to send or to tell; most batches are beats and pulses."""
        self._batch_now = 0.0
        self._batch_wall_ns = 0
        self._alarm: Alarm | None = None
        self._paused_until = -math.inf
        self._is_alone = trio.Event()
        try:
            self._certify(clock.boot_id, 0, clock.wall_ns(), False)
        except LocalProtocolError as error:
            raise ConfigError("announce", str(error), "set addresses that others can reach, and a short name") from None

    # for other rooms

    @property
    def drops(self) -> Mapping[str, int]:
        """What was dropped, by reason, since the start."""
        return self._drops.counts

    def address_of(self, node_id: NodeId) -> UdpAddress:
        """Return where datagrams for a member go. Raises KeyError for others."""
        return self.membership.address_of(node_id)

    def control_address_of(self, node_id: NodeId) -> ControlAddress:
        """Return where control requests for a member go. Raises KeyError for others."""
        member = self.view.get(node_id)
        if member is None:
            raise KeyError(node_id)
        return ControlAddress(node_id, member.control)

    def on_frames(self, types: Iterable[FrameType], handler: FrameHandler, *, from_former: bool = False) -> None:
        """Have members' frames of these types handled. A RemoteProtocolError that the handler raises is counted.

        Args:
            types: none of them taken yet.
            handler: called synchronously.
            from_former: also frames of former members whose keys are still kept.

        Raises:
            LocalProtocolError: a type is taken.
        """
        for kind in types:
            if kind in _MEMBERSHIP_TYPES or kind in self._frame_handlers:
                raise LocalProtocolError(f"frames of type {kind.name} are handled already")
            self._frame_handlers[kind] = handler
            if from_former:
                self._types_from_former.add(kind)

    def on_plane(self, plane: int, handler: PlaneHandler) -> None:
        """Have datagrams whose first byte starts with these four bits handled.

        Raises:
            LocalProtocolError: the plane is taken.
        """
        self._planes.add(plane, handler)

    def on_plane_batch(self, plane: int, handler: BatchHandler) -> None:
        """As `on_plane`, all datagrams of a batch at once, after those of other planes; `handler` answers for what they do.

        Raises:
            LocalProtocolError: the plane is taken.
        """
        self._planes.add_batch(plane, handler)

    def after_batch(self, callback: Callable[[], None]) -> None:
        """Have `callback` called once after every batch of datagrams: the place to send what they caused."""
        self._after_batch.append(callback)

    def on_event(self, callback: Callable[[object], None]) -> None:
        """Have `callback` called with every event of this room: membership, sessions, join, PeerMisbehaved."""
        self._event_callbacks.append(callback)

    def send(self, data: bytes, destination: UdpAddress) -> None:
        """Hand one datagram to the socket. Never waits, never raises."""
        self._transport.send(data, destination)

    def send_many(self, datagrams: Sequence[bytes], destination: UdpAddress) -> None:
        """Hand datagrams for one destination to the socket, in order, together where it can. Never waits, never raises."""
        self._send_many(datagrams, destination)

    def count_drop(self, reason: str, *, peer: NodeId | None = None, source: UdpAddress | None = None) -> None:
        """Count a drop that is a peer's fault; a PeerMisbehaved event follows if none did lately for this reason and peer."""
        event = self._drops.count(reason, peer, source, self._clock.now())
        if event is not None:
            self._emit(event)

    def flush(self) -> None:
        """Send what membership and sessions want to send, and pass on their events.

        Within an event callback it does nothing: the flush under way goes on until nothing is left.
        """
        if self._is_flushing:
            return
        self._is_flushing, self._is_touched = True, False
        try:
            for _ in range(FLUSH_ROUNDS_MAX):
                if not self._flush_once():
                    break
        finally:
            self._is_flushing = False
        self._arm()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Join and serve until cancelled. Reports started once the socket is served; joining goes on in the background.

        Raises:
            OverlayError: the socket was closed under us.
        """
        if self._config.address_book is not None:
            self._book = await trio.to_thread.run_sync(load_book, self._config.address_book)
        self._control.serve(JOIN_PROTOCOL, self._serve_join)
        self.membership.join((), self._clock.now(), self._clock.wall_ns())
        self._alarm = current_reactor().alarm(self._on_alarm, self._clock)
        self.flush()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._serve_socket)
                nursery.start_soon(self._alarm.until_failure)
                nursery.start_soon(self._join_loop)
                nursery.start_soon(self._book_loop)
                task_status.started()
        finally:
            with trio.move_on_after(GOODBYE_S, shield=True):
                await self._say_goodbye()
            with trio.move_on_after(GOODBYE_S, shield=True):
                await self._transport.aclose()
            self._alarm.close()

    # datagrams

    async def _serve_socket(self) -> None:
        try:
            if isinstance(self._transport, TrainTransport):
                await self._transport.serve_trains(self._handle_trains)
            else:
                await self._transport.serve(self._handle_batch)
        except trio.ClosedResourceError:
            raise OverlayError("the datagram socket was closed while the overlay was running") from None

    def _handle_batch(self, batch: list[Datagram]) -> None:
        self._handle_trains([(data, len(data) or 1, source, rx_ns) for data, source, rx_ns in batch])

    def _handle_trains(self, batch: list[Train]) -> None:
        self._batch_now, self._batch_wall_ns = self._clock.now(), self._clock.wall_ns()
        self._planes.handle(batch)
        for callback in self._after_batch:
            self._guarded(callback)
        if self._is_touched:
            self.flush()

    def _on_session(self, data: bytes, source: UdpAddress, rx_ns: int) -> None:  # noqa: ARG002 - the shape of all plane handlers
        self._is_touched = True
        self.sessions.receive_datagram(data, source, self._batch_now, self._batch_wall_ns)

    def _on_frame(self, data: bytes, source: UdpAddress, rx_ns: int) -> None:
        frame = self.frames.open(data, self._batch_now)
        try:
            self._on_open_frame(frame, source, rx_ns)
        except RemoteProtocolError as error:
            self.count_drop(error.reason, peer=frame.sender, source=source)

    def _on_open_frame(self, frame: Frame, source: UdpAddress, rx_ns: int) -> None:
        is_member = frame.sender in self.view
        self.membership.note_heard(frame.sender, source, self._batch_now)
        if frame.type in _MEMBERSHIP_TYPES or not is_member:
            self._is_touched = True
        if frame.type in _MEMBERSHIP_TYPES:
            self.membership.receive_frame(frame, source, self._batch_now, self._batch_wall_ns)
            return
        handler = self._frame_handlers.get(frame.type)
        if handler is not None and (is_member or frame.type in self._types_from_former):
            handler(frame, source, rx_ns)
        else:
            self._drops.count_quietly("no-handler" if handler is None else "late")  # late: it left, its last frames are still coming

    def _guarded(self, call: Callable[[], None]) -> None:
        """Run a callback: an exception is a bug of ours, to be seen and survived."""
        try:
            call()
        except Exception as bug:  # noqa: BLE001 - logged
            self._report_internal(bug)

    def _report_internal(self, bug: Exception) -> None:
        logger.error("a handler failed; the datagram or event is lost, the node goes on", exc_info=bug)
        self._drops.count_quietly("internal")

    # time

    def _on_alarm(self) -> None:
        try:
            self._handle_timers(self._clock.now(), self._clock.wall_ns())
        except Exception as bug:  # noqa: BLE001 - logged
            self._report_internal(bug)
            self._paused_until = self._clock.now() + INTERNAL_PAUSE_S
        self.flush()

    def _arm(self) -> None:
        """Set the alarm to the earliest timer."""
        if self._alarm is not None:
            timers = (self.membership.get_timer(), self.sessions.get_timer())
            self._alarm.set(max(self._paused_until, min((timer for timer in timers if timer is not None), default=math.inf)))

    def _handle_timers(self, now: float, wall_ns: int) -> None:
        membership_timer, sessions_timer = self.membership.get_timer(), self.sessions.get_timer()
        if membership_timer is not None and now >= membership_timer:
            self.membership.handle_timer(now, wall_ns)
        if sessions_timer is not None and now >= sessions_timer:
            self.sessions.handle_timer(now, wall_ns)

    # out

    def _send_each(self, datagrams: Sequence[bytes], destination: UdpAddress) -> None:
        for data in datagrams:
            self._transport.send(data, destination)

    def _flush_once(self) -> bool:
        """Send and tell what there is; say whether there was an event, after which there may be more."""
        now = self._clock.now()
        for data, destination in self.membership.datagrams_to_send(now, self._clock.stamp_ns):
            self._transport.send(data, destination)
        for data, destination in self.sessions.datagrams_to_send(now):
            self._transport.send(data, destination)
        had_event = False
        for next_event in (self.membership.next_event, self.sessions.next_event):
            while (event := next_event()) is not None:
                had_event = True
                self._on_core_event(event)
        return had_event

    def _on_core_event(self, event: object) -> None:
        match event:
            case PeerMisbehaved(peer=peer, source=source, reason=reason):
                self.count_drop(reason, peer=peer, source=source)
                return
            case MemberJoined(member=member):
                logger.info("%s joined", member.name or member.node_id)
                self._note_address(ControlAddress(member.node_id, member.control))
            case MemberLeft(node_id=node_id, reason=reason):
                logger.info("%s left (%s)", node_id, reason)
                self.sessions.drop_peer(node_id)
            case ViewChanged(size=1):
                self._is_alone.set()
            case MemberAccused(subject=subject, observer=observer, accusers=accusers, needed=needed):
                logger.debug("%s does not hear %s: %d of %d needed", observer, subject, accusers, needed)
            case SelfBuried():
                logger.warning("the group gave this node up: too many of its observers did not hear it")
            case IdentityConflict(boot=boot):
                logger.warning("another run (boot %d) uses this node's identity, or our clock was set back", boot)
            case _:
                pass
        self._emit(event)

    def _emit(self, event: object) -> None:
        if isinstance(event, PeerMisbehaved):
            level = logging.DEBUG if event.reason in USUAL_REASONS else logging.WARNING
            logger.log(level, "dropped from %s at %s: %s", event.peer or "an unknown sender", event.source, event.reason)
        for callback in self._event_callbacks:
            self._guarded(lambda c=callback: c(event))  # type: ignore[misc]

    # joining

    async def _join_loop(self) -> None:
        has_bootstrap, record = self._config.has_bootstrap, self._record if self._is_introducer else None
        plan = JoinPlan(
            self.identity.node_id,
            self.group,
            self.view,
            self._book,
            record,
            self._rng,
            has_bootstrap=has_bootstrap,
            lone_after_s=self._config.lone_after_s,
        )
        while True:
            self._is_alone = trio.Event()
            step = plan.next_step(self._clock.now(), self._clock.wall_ns())
            while (event := plan.next_event()) is not None:
                self._log_join(event)
                self._emit(event)
            match step:
                case Wait(until=until):
                    with trio.move_on_after(max(0.0, until - self._clock.now())):
                        await self._is_alone.wait()
                case Done():
                    await self._is_alone.wait()
                case _:
                    await self._take_or_report(plan, step)

    async def _take_or_report(self, plan: JoinPlan, step: Lookup | Ask | Publish) -> None:
        try:
            await self._take(plan, step)
        except OverlayError as error:
            logger.debug("%s failed: %s", type(step).__name__, error)
        except RemoteProtocolError as error:
            self.count_drop(error.reason, peer=step.address.node_id if isinstance(step, Ask) else None)
        except Exception as bug:  # noqa: BLE001 - ours; joining must go on
            self._report_internal(bug)
            await trio.sleep(INTERNAL_PAUSE_S)
        else:
            return
        plan.step_failed(self._clock.now())

    async def _take(self, plan: JoinPlan, step: Lookup | Ask | Publish) -> None:
        match step:
            case Lookup(key=key):
                value = await self._directory.lookup(key)
                plan.looked_up(key, value, self._clock.now(), self._clock.wall_ns())
            case Publish(key=key, value=value):
                copies = await self._directory.publish(key, value)
                plan.published(key, copies, self._clock.now())
            case Ask(address=address):
                certificate = self.view.certificate(self.identity.node_id)
                response = await self._control.request(address, JOIN_PROTOCOL, certificate, timeout_s=REQUEST_TIMEOUT_S)
                now, wall_ns = self._clock.now(), self._clock.wall_ns()
                met = self.membership.join(decode_roster(response), now, wall_ns)
                if met:
                    self._note_address(address)
                plan.asked(address.node_id, met, now, wall_ns)
                self.flush()

    async def _serve_join(self, caller: NodeId, body: bytes) -> bytes:
        """A newcomer asks to be taken in."""
        try:
            if len(body) > CERTIFICATE_BYTES_MAX:
                raise DecodeError(f"a join request of {len(body)} bytes", reason="length")
            roster = self.membership.admit(caller, body, self._clock.now(), self._clock.wall_ns())
        except RemoteProtocolError as error:
            self.count_drop(error.reason, peer=caller)
            raise
        self.flush()
        await trio.lowlevel.checkpoint()
        return encode_roster(roster)

    @staticmethod
    def _log_join(event: object) -> None:
        match event:
            case GroupJoined(introducer=introducer, size=size):
                logger.info("joined a group of %d through %s", size, introducer)
            case GroupFounded():
                logger.info("found no group, founded one")
            case _:
                pass

    # what this node says about itself

    @property
    def _is_introducer(self) -> bool:
        return Role.INTRODUCER in self._config.roles and bool(self._control_multiaddrs)

    def _is_placed(self, node_id: NodeId) -> bool:
        return placement(node_id, self._config.salt, len(self._config.prefix)) == self._config.prefix

    def _certify(self, boot: int, seq: int, wall_ns: int, is_leaving: bool) -> bytes:
        return Member(
            node_id=self.identity.node_id,
            boot=boot,
            seq=seq,
            name=self._config.name,
            udp=self._udp,
            control=self._control_multiaddrs,
            location=self._config.location,
            roles=self._config.roles,
            issued_ns=wall_ns,
            expires_ns=wall_ns + LIFETIME_S_DEFAULT * _S,
            is_leaving=is_leaving,
            group=self.group[:8],
        ).seal(self.identity)

    def _record(self, wall_ns: int) -> bytes:
        return IntroducerRecord(
            node_id=self.identity.node_id,
            group=self.group,
            udp=self._udp,
            control=self._control_multiaddrs,
            issued_ns=wall_ns,
            expires_ns=wall_ns + RECORD_TTL_S * _S,
        ).seal(self.identity)

    # address book and goodbye

    def _note_address(self, address: ControlAddress) -> None:
        self._book.note(address, self._clock.wall_ns())
        self._is_book_changed = True

    async def _book_loop(self) -> None:
        while True:
            await trio.sleep(BOOK_SAVE_S)
            await self._save_book()

    async def _save_book(self) -> None:
        if self._config.address_book is not None and self._is_book_changed:
            self._is_book_changed = False
            await trio.to_thread.run_sync(save_book, self._config.address_book, self._book.encode())

    async def _say_goodbye(self) -> None:
        self.membership.leave(self._clock.now(), self._clock.wall_ns())
        self.flush()
        await self._save_book()
        await trio.sleep(LEAVE_REPEAT_S)
        self.membership.handle_timer(self._clock.now() + LEAVE_REPEAT_S, self._clock.wall_ns())
        self.flush()


def load_book(path: Path) -> AddressBook:
    """Read an address book. Missing: an empty one. Damaged or unreadable: an empty one and one warning; the file stays until saved."""
    try:
        with path.open("rb") as file:
            return AddressBook.decode(file.read(BOOK_BYTES_MAX + 1))
    except FileNotFoundError:
        return AddressBook()
    except (OSError, RemoteProtocolError) as error:
        logger.warning("address book %s is not usable (%s), starting with an empty one", path, error)
        return AddressBook()


def save_book(path: Path, content: bytes) -> None:
    """Write an address book so that it appears complete or not at all. A failure is logged as a warning; the old file stays."""
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError:
            os.unlink(temporary)
            raise
    except OSError as error:
        logger.warning("cannot save the address book %s (%s)", path, error)
