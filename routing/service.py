"""The shell of the routing room: flows of applications, on paths that are watched and chosen, over a data plane. Decides nothing.

A packet's way, `path.send` to delivery: `Flow.send_nowait` asks its `PathControl` which path is active, makes a `Payload` of the
datagram and hands it to the `Forwarder`, which seals it end to end and for the first hop and sends it. At each relay the overlay's loop
calls `Forwarder.receive`; at the egress that puts it into the flow's inbox, and after the batch `_after_batch` wakes the flow's reader.

Stamps in payloads are group time (`srwan.gossip.group_time`), like those of pulses: raw one-way latencies of a path and of the matrix
agree up to the error of group time, and those of two paths with the same ends compare exactly.
"""

from __future__ import annotations

import functools
import logging
import math
import random
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs
import trio

from srwan.clock import Clock
from srwan.errors import LimitExceeded, NoPath, PathClosed, RoutingError
from srwan.overlay.membership import MemberLeft, ViewChanged
from srwan.overlay.view import Role
from srwan.routing.control import PathControl
from srwan.routing.egress import AckArrived, FlowClosed, FlowInbox, FlowPacket
from srwan.routing.finder import PathFinder, Relays
from srwan.routing.forwarder import Forwarder
from srwan.routing.packet import DATA_PLANE
from srwan.routing.path import PathDied, PathSwitched
from srwan.routing.payload import DATA_BYTES_MAX, Payload, PayloadKind
from srwan.routing.policy import PathPolicy
from srwan.routing.portable import PortableForwarder
from srwan.routing.relay import NeedSession
from srwan.routing.sid import Function, Sid, locator_of
from srwan.types import NodeId

if TYPE_CHECKING:
    from srwan.gossip.service import GossipService
    from srwan.overlay.service import OverlayService

__all__ = ["Flow", "FlowEvent", "RoutingService"]

log = logging.getLogger("srwan.routing")

RANK_INTERVAL_S = 1.0
"""How often open paths are ranked anew by the matrix; a pulse brings news every 10 s, bursts and keep-alives sooner."""
COUNT_INTERVAL_S = 5.0
"""How often the octets carried are handed to the pulse: twice per pulse."""
FLOWS_MAX = 1024
"""Flows that applications of this node hold at once; each open one costs up to 15 small packets a second."""
ACCEPT_QUEUE_MAX = 64
"""New flows that wait for `accept`; more are left in their inboxes until there is room."""


@attrs.frozen(slots=True)
class FlowEvent:
    """Something happened to the path of a flow: one of the events of `srwan.routing.control`."""

    peer: NodeId
    flow: int
    event: object


class Flow:
    """Datagrams between this node and a peer, both ways. Made by `RoutingService.open` and `accept`."""

    def __init__(self, service: RoutingService, inbox: FlowInbox, policy: PathPolicy) -> None:
        self.peer = inbox.peer
        self.id = inbox.flow
        self.policy = policy
        self.control: PathControl | None = None
        """Chooses the path to the peer; None until the first packet is sent."""
        self._service = service
        self._inbox = inbox
        self._next_seq = 0
        self._has_news = trio.Event()
        self._is_closed = False

    @property
    def is_closed(self) -> bool:
        """Whether this end was closed."""
        return self._is_closed

    def send_nowait(self, data: bytes) -> bool:
        """Send one datagram on the active path.

        Args:
            data: at most DATA_BYTES_MAX bytes.

        Returns:
            Whether it left this host; False while no session is ready: it is lost then, as on a dead link.

        Raises:
            PathClosed: the flow was closed. ValueError: the datagram is too long.

        Cost: 10 us.
        """
        if self._is_closed:
            raise PathClosed(f"the flow to {self.peer!r} is closed; open a new path")
        if len(data) > DATA_BYTES_MAX:
            raise ValueError(f"a datagram of {len(data)} bytes, at most {DATA_BYTES_MAX} fit")
        seq = self._next_seq
        self._next_seq += 1
        return self._service._send_data(self, PayloadKind.DATA, seq, data)

    async def receive(self) -> FlowPacket:
        """Wait for the next datagram, in order of arrival.

        Raises:
            PathClosed: the flow was closed, here or by the peer, and nothing waits any more.
        """
        await trio.lowlevel.checkpoint()
        while not len(self._inbox):
            if self._is_closed or self._inbox.closed_seq is not None:
                raise PathClosed(f"the flow to {self.peer!r} was closed")
            await self._has_news.wait()
        return self._inbox.take(1)[0]

    def close(self) -> None:
        """End the flow and tell the peer, once per loss-prone path (CLOSE is not acknowledged). A second call does nothing."""
        if self._is_closed:
            return
        if self.control is not None:
            self._service._send_data(self, PayloadKind.CLOSE, self._next_seq, b"")
            self.control.close(self._service.now())
        self._is_closed = True
        self._wake()
        self._service._forget(self)

    def _wake(self) -> None:
        self._has_news.set()
        self._has_news = trio.Event()


class RoutingService:
    """Runs the paths of this node.

    Args:
        node_id: this node.
        clock: its clock.
        overlay: members, sessions, and the datagram loop.
        gossip: the matrix and group time.
        roles: what it offers; Role.RELAY to carry others' packets.
        rng: flow ids, path tags, choices among equal paths.
        name_of: a human's name of a node.
    """

    def __init__(
        self,
        node_id: NodeId,
        clock: Clock,
        overlay: OverlayService,
        gossip: GossipService,
        *,
        roles: Role,
        rng: random.Random,
        name_of: Callable[[NodeId], str],
    ) -> None:
        self._node_id = node_id
        self._clock = clock
        self._overlay = overlay
        self._gossip = gossip
        self._rng = rng
        self._name_of = name_of
        self._finder = PathFinder(name_of)
        self.forwarder: Forwarder = PortableForwarder(
            node_id, overlay.sessions, roles=roles, send=overlay.send, read_stamp_ns=gossip.read_stamp_ns
        )
        self._flows: dict[tuple[NodeId, int], Flow] = {}
        self._by_tag: dict[int, Flow] = {}
        self._waiting: deque[Flow] = deque()
        self._has_waiting = trio.Event()
        self._timer_changed = trio.Event()
        self._listeners: list[Callable[[object], None]] = []
        overlay.on_plane(DATA_PLANE, self._receive)
        overlay.after_batch(self._after_batch)
        overlay.on_event(self._on_overlay_event)

    # --- for applications -------------------------------------------------------------------------------------------

    def on_event(self, callback: Callable[[object], None]) -> None:
        """Call `callback` for each `FlowEvent` and `PeerMisbehaved`."""
        self._listeners.append(callback)

    async def open(self, peer: NodeId, policy: PathPolicy, *, timeout_s: float) -> Flow:
        """Open a flow to a member and wait until a path to it answers.

        Raises:
            NoPath: nothing answered within timeout_s; the flow is closed again.
            RoutingError: FLOWS_MAX flows are open.
        """
        if len(self._flows) >= FLOWS_MAX:
            raise RoutingError(f"{FLOWS_MAX} flows are open; close some")
        side = int(self._node_id > peer)  # lowest bit of a flow id: the two ends never open the same one
        while (peer, flow_id := self._rng.getrandbits(31) << 1 | side) in self._flows:
            pass
        flow = self._adopt(self.forwarder.claim(peer, flow_id), policy)
        try:
            control = self._control_of(flow)
            with trio.move_on_after(timeout_s):
                while not control.is_alive:
                    await flow._has_news.wait()
                return flow
            raise NoPath(f"no path to {peer!r} answered within {timeout_s:g} s; is the router up?")
        except BaseException:
            flow.close()
            raise

    async def accept(self) -> Flow:
        """Wait for a flow that a peer opened. Several may wait."""
        await trio.lowlevel.checkpoint()
        while not self._waiting:
            await self._has_waiting.wait()
        return self._waiting.popleft()

    def now(self) -> float:
        """Monotonic seconds of this node's clock."""
        return self._clock.now()

    @property
    def flows(self) -> tuple[Flow, ...]:
        """All open flows."""
        return tuple(self._flows.values())

    # --- tasks ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run the timers of all open paths until cancelled."""
        rank_at = count_at = self._clock.now()
        while True:
            self._timer_changed = trio.Event()
            deadline = min(count_at, self._next_timer(rank_at))
            with trio.move_on_at(trio.current_time() + max(0.0, deadline - self._clock.now())):
                await self._timer_changed.wait()
            now = self._clock.now()
            if now >= rank_at:
                rank_at = now + RANK_INTERVAL_S
                self._rank_all(now)
            if now >= count_at:
                count_at = now + COUNT_INTERVAL_S
                self._tell_counters()
                self._tell_deliveries()
            for flow in tuple(self._flows.values()):
                if flow.control is not None:
                    flow.control.handle_timer(now)
                    self._drain(flow, now)
            self._drain_forwarder(now)
            await trio.lowlevel.checkpoint()

    def _next_timer(self, rank_at: float) -> float:
        """Return when a path in use is due next: for ranking or by its own timer; never if none is."""
        controls = [flow.control for flow in self._flows.values() if flow.control is not None]
        timers = [timer for control in controls if (timer := control.get_timer()) is not None]
        return min(rank_at, *timers) if timers else math.inf

    def close(self) -> None:
        """Close all flows, telling their peers."""
        for flow in tuple(self._flows.values()):
            flow.close()

    # --- inner workings ---------------------------------------------------------------------------------------------

    def _receive(self, data: bytes, source: tuple[str, int], rx_ns: int) -> None:
        self.forwarder.receive(data, source, self._gossip.group_ns(rx_ns))

    def _after_batch(self) -> None:
        self._drain_forwarder(self._clock.now())

    def _drain_forwarder(self, now: float) -> None:
        """Act on what a batch of packets left behind."""
        needs_flush = False
        while (event := self.forwarder.next_event()) is not None:
            match event:
                case AckArrived(peer=peer, path_tag=tag):
                    flow = self._by_tag.get(tag)
                    if flow is not None and flow.peer == peer and flow.control is not None:
                        flow.control.receive_ack(event.ack, now)
                        self._drain(flow, now)
                        flow._wake()
                case NeedSession(node=node):
                    self._connect(node, now)
                    needs_flush = True
                case FlowClosed(peer=peer, flow=flow_id):
                    closed = self._flows.get((peer, flow_id))
                    if closed is not None:
                        closed._wake()
                case _:
                    self._tell(event)
        for inbox in self.forwarder.ready_flows():
            self._wake_reader(inbox)
        if needs_flush:
            self._overlay.flush()

    def _wake_reader(self, inbox: FlowInbox) -> None:
        flow = self._flows.get((inbox.peer, inbox.flow))
        if flow is not None:
            flow._wake()
        elif not inbox.is_claimed and len(self._waiting) < ACCEPT_QUEUE_MAX and len(self._flows) < FLOWS_MAX:
            try:
                claimed = self.forwarder.claim(inbox.peer, inbox.flow)
            except LimitExceeded as error:
                self._overlay.count_drop(error.reason, peer=inbox.peer)
                return
            self._waiting.append(self._adopt(claimed, PathPolicy()))
            self._has_waiting.set()
            self._has_waiting = trio.Event()

    def _adopt(self, inbox: FlowInbox, policy: PathPolicy) -> Flow:
        flow = Flow(self, inbox, policy)
        self._flows[inbox.peer, inbox.flow] = flow
        return flow

    def _control_of(self, flow: Flow) -> PathControl:
        """Return the flow's path control, starting it with the first packet."""
        if flow.control is None:
            now = self._clock.now()
            flow.control = PathControl(
                self._node_id,
                flow.peer,
                flow.policy,
                rng=self._rng,
                make_tag=lambda: self._make_tag(flow),
                now=now,
                finder=self._finder,
                relays_allowed=self._may_relay,
            )
            self._connect(flow.peer, now)
            flow.control.update(self._gossip.snapshot(now), now)
            self._drain(flow, now)
            self._drain_forwarder(now)
            self._overlay.flush()
            self._timer_changed.set()
        return flow.control

    def _make_tag(self, flow: Flow) -> int:
        while (tag := self._rng.getrandbits(64)) in self._by_tag:
            pass
        self._by_tag[tag] = flow
        return tag

    def _may_relay(self, node: NodeId) -> bool:
        member = self._overlay.view.get(node)
        return member is not None and Role.RELAY in member.roles and self._gossip.is_trusted(node)

    def _rank_all(self, now: float) -> None:
        """Show all open paths the newest matrix, and forget the tags of paths that were given up."""
        controls = [(flow, flow.control) for flow in self._flows.values() if flow.control is not None]
        if controls:
            snapshot = self._gossip.snapshot(now)
            for _, control in controls:
                control.update(snapshot, now)
        self._by_tag = {status.path_tag: flow for flow, control in controls for status in control.paths}

    def _tell_counters(self) -> None:
        """Let the next row say what this node carried."""
        counters = self.forwarder.counters()
        octets_in = sum(came.octets for came, _ in counters.neighbours.values())
        octets_out = sum(went.octets for _, went in counters.neighbours.values())
        self._gossip.set_counters(octets_in, octets_out, sum(count.octets for count in counters.relayed.values()))

    def _tell_deliveries(self) -> None:
        """Let gossip compare what the watched paths deliver with what their relays tell: the only check that finds some lies."""
        for flow in self._flows.values():
            for path in flow.control.paths if flow.control is not None else ():
                if math.isfinite(path.predicted_ms) and math.isfinite(path.live_ms):
                    legs_ms = path.predicted_ms - flow.policy.relay_ms * len(path.relays)
                    self._gossip.path_measured(flow.peer, path.relays, legs_ms, path.live_ms)

    def _drain(self, flow: Flow, now: float) -> None:
        """Send the keep-alives a path control wants sent, and tell its events."""
        control = flow.control
        assert control is not None
        for packet in control.packets_to_send(now):
            payload = Payload(packet.kind, 0, packet.seq, self._gossip.read_stamp_ns(), packet.body)
            self.forwarder.send_payload(_segments(packet.relays, flow.peer), packet.path_tag, flow.peer, payload.encode())
        while (event := control.next_event()) is not None:
            if isinstance(event, (PathSwitched, PathDied)):
                log.info("flow %08x to %s: %s", flow.id, self._name_of(flow.peer), event.reason)
            self._tell(FlowEvent(flow.peer, flow.id, event))

    def _send_data(self, flow: Flow, kind: PayloadKind, seq: int, data: bytes) -> bool:
        control = flow.control or self._control_of(flow)
        relays, path_tag = control.active
        payload = Payload(kind, flow.id, seq, self._gossip.read_stamp_ns(), data)
        is_sent = self.forwarder.send_payload(_segments(relays, flow.peer), path_tag, flow.peer, payload.encode())
        now = self._clock.now()
        if kind is PayloadKind.DATA and is_sent:
            control.data_sent(now, octets=len(data))
        if not is_sent:
            self._drain_forwarder(now)
        return is_sent

    def _connect(self, node: NodeId, now: float) -> None:
        """Ask for a session with a member; nothing for others."""
        if node in self._overlay.view:
            self._overlay.sessions.connect(node, self._overlay.address_of(node), now)

    def _forget(self, flow: Flow) -> None:
        self._flows.pop((flow.peer, flow.id), None)
        for tag in [tag for tag, owner in self._by_tag.items() if owner is flow]:
            del self._by_tag[tag]
        for inbox_flow in [waiting for waiting in self._waiting if waiting is flow]:
            self._waiting.remove(inbox_flow)
        self.forwarder.release(flow._inbox)

    def _on_overlay_event(self, event: object) -> None:
        match event:
            case ViewChanged():
                self.forwarder.set_members({locator_of(node): node for node in self._overlay.view.ids})
            case MemberLeft(node_id=node):
                self.forwarder.drop_peer(node)
                for flow in self._flows.values():
                    if flow.control is not None:
                        flow.control.relay_failed(node, self._clock.now())
            case _:
                pass

    def _tell(self, event: object) -> None:
        for listener in self._listeners:
            listener(event)


@functools.lru_cache(maxsize=4096)
def _segments(relays: Relays, peer: NodeId) -> tuple[Sid, ...]:
    """Return a path's segment list in visiting order; the same few are asked for per packet."""
    return (*(Sid.of(relay, Function.END) for relay in relays), Sid.of(peer, Function.END_APP))
