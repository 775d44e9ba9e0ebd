"""The shell of the routing room: flows of applications, on paths that are watched and chosen, over a data plane. Decides nothing.

A packet's way, `path.send` to delivery: `Flow.send_nowait` asks its `PathControl` which path is active, makes a `Payload` of the
datagram and hands it to the `Forwarder`, which seals it end to end and for the first hop and sends it. At each relay the overlay's loop
calls `Forwarder.receive`; at the egress that puts it into the flow's inbox, and after the batch `_after_batch` wakes the flow's reader.

Stamps in payloads are group time (`srwan.gossip.group_time`), like those of pulses: raw one-way latencies of a path and of the matrix
agree up to the error of group time, and those of two paths with the same ends compare exactly.
"""

from __future__ import annotations

import logging
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import trio

from srwan.clock import Clock
from srwan.errors import LimitExceeded, NoPath, RoutingError
from srwan.overlay.member_events import MemberLeft, ViewChanged
from srwan.overlay.session import HandshakeUnanswered, SessionEstablished, SessionFailed, SessionRekeyed
from srwan.overlay.trains import Train
from srwan.overlay.transport import DatagramTransport
from srwan.overlay.view import Role
from srwan.routing.control import PathControl
from srwan.routing.egress import AckArrived, FlowClosed, FlowInbox, FlowPacket, NoticeArrived
from srwan.routing.finder import PathFinder, Relays
from srwan.routing.flow import Flow, FlowEvent
from srwan.routing.forwarder import Forwarder, ForwarderEvent
from srwan.routing.handshake_ways import HandshakeWays
from srwan.routing.in_band import HandshakeArrived
from srwan.routing.load import RelayLoad
from srwan.routing.packet import DATA_PLANE
from srwan.routing.path import PathDied, PathSwitched
from srwan.routing.payload import TUNNEL_FLOW_MIN, DataFlags, Notice, NoticeReason, Payload, PayloadKind, encode_packets
from srwan.routing.planes import make_forwarder
from srwan.routing.policy import PathMode, PathPolicy
from srwan.routing.prices import Prices
from srwan.routing.reception import PathStatistics, StatisticsTable
from srwan.routing.relay import NeedSession
from srwan.routing.sid import Function, Sid, locator_of, path_segments
from srwan.routing.tunnels import INTERVAL_S, Tunnels
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
_FLAGS = {PathMode.SINGLE: 0, PathMode.REPEAT: int(DataFlags.REPEATED), PathMode.SPREAD: int(DataFlags.ORDERED)}
ACCEPT_QUEUE_MAX = 64
"""New flows that wait for `accept`; more are left in their inboxes until there is room."""


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
        datagrams: what the overlay receives from; it decides which data plane there can be.
        relay_cap_kbps: what it is willing to carry for others, kbit/s; None = whatever comes.
        prices: what relays ask for; None = nothing.
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
        datagrams: DatagramTransport | None = None,
        relay_cap_kbps: float | None = None,
        prices: Prices | None = None,
    ) -> None:
        self._node_id = node_id
        self._clock = clock
        self._overlay = overlay
        self._gossip = gossip
        self._rng = rng
        self._name_of = name_of
        self._finder = PathFinder(name_of, self._price_of)
        self.prices = prices
        """What relays ask for; may be set at any time."""
        self.forwarder: Forwarder = make_forwarder(
            datagrams,
            node_id,
            overlay.sessions,
            roles=roles,
            send=overlay.send,
            send_many=overlay.send_many,
            read_stamp_ns=gossip.read_stamp_ns,
            group_ns=gossip.group_ns,
        )
        self.statistics = StatisticsTable()
        """What paths into this node delivered, against what was expected of them."""
        self.load = None if relay_cap_kbps is None else RelayLoad(relay_cap_kbps, clock.now())
        """What this node carries for others; None without a cap."""
        self._holding: dict[FlowInbox, None] = {}
        self._flows: dict[tuple[NodeId, int], Flow] = {}
        self._by_tag: dict[int, Flow] = {}
        self.tunnels = Tunnels(self.forwarder.tun_plane, self._flows)
        """Flows whose packets the data plane moves by itself."""
        self._waiting: deque[Flow] = deque()
        self._has_waiting = trio.Event()
        self._timer_changed = trio.Event()
        self._listeners: list[Callable[[object], None]] = []
        self._take_packets: Callable[[NodeId, list[FlowPacket]], None] | None = None
        overlay.on_plane_batch(DATA_PLANE, self._receive_batch)
        overlay.after_batch(self._after_batch)
        overlay.on_event(self._on_overlay_event)
        overlay.sessions.on_relayed(lambda datagram, way: self.forwarder.send_handshake(way, datagram))
        self._ways = HandshakeWays(overlay.sessions, rng, preferred=self._relays_in_mind, others=self._relays_at_hand, call=self._connect)

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
        while (peer, flow_id := self._rng.getrandbits(31) << 1 | side) in self._flows or flow_id >= TUNNEL_FLOW_MIN:
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

    def open_tunnel(self, peer: NodeId, traffic_class: int, policy: PathPolicy) -> Flow:
        """Open the flow that carries IP packets of one traffic class to the gateway of a member. Waits for nothing.

        Args:
            peer: a member with Role.GATEWAY.
            traffic_class: 0..255.
            policy: how to choose its path.

        Raises:
            LimitExceeded: too many flows of this peer. RoutingError: FLOWS_MAX flows are open.
        """
        if len(self._flows) >= FLOWS_MAX:
            raise RoutingError(f"{FLOWS_MAX} flows are open; close some")
        flow = self._adopt(self.forwarder.claim(peer, TUNNEL_FLOW_MIN | traffic_class), policy)
        try:
            self.tunnels.follow(flow)
        except LimitExceeded:
            flow.close()
            raise
        return flow

    def on_packets(self, callback: Callable[[NodeId, list[FlowPacket]], None]) -> None:
        """Have `callback` called with the IP packets that a member sent to this node's gateway, after each batch. One at most."""
        self._take_packets = callback

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
            if self.load is not None and now >= self.load.look_at:
                self._tell_load(self.load, now)
            self._release_held()
            self.tunnels.count_sent()
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
        """Return when a path in use is due next, for ranking or by its own timer, or an inbox or the load; inf if none is."""
        controls = [flow.control for flow in self._flows.values() if flow.control is not None]
        timers = [timer for control in controls if (timer := control.get_timer()) is not None]
        timers += [rank_at] if timers else []
        timers += [] if self.load is None else [self.load.look_at]
        if controls and self.tunnels.is_open:
            timers.append(self._clock.now() + INTERVAL_S)
        due_ns = min((inbox.due_ns for inbox in self._holding if inbox.due_ns is not None), default=None)
        if due_ns is not None:
            timers.append(self._clock.now() + max(0, due_ns - self._gossip.read_stamp_ns()) / 1e9)
        return min(timers, default=math.inf)

    def close(self) -> None:
        """Close all flows, telling their peers."""
        for flow in tuple(self._flows.values()):
            flow.close()

    # --- inner workings ---------------------------------------------------------------------------------------------

    def _receive_batch(self, trains: list[Train]) -> None:
        first_ns = trains[0][3]
        shift_ns = self._gossip.group_ns(first_ns) - first_ns  # the same for all of a batch
        self.forwarder.receive_batch([(data, size, source, rx_ns + shift_ns) for data, size, source, rx_ns in trains])

    def _after_batch(self) -> None:
        self._drain_forwarder(self._clock.now())

    def _drain_forwarder(self, now: float) -> None:
        """Act on what a batch of packets left behind."""
        needs_flush = False
        while (event := self.forwarder.next_event()) is not None:
            needs_flush |= self._act_on(event, now)
        for inbox in self.forwarder.ready_flows():
            self._wake_reader(inbox)
            if inbox.due_ns is not None:
                self._holding[inbox] = None
                self._timer_changed.set()
        if needs_flush:
            self._overlay.flush()
        self.tunnels.hand_over()

    def _act_on(self, event: ForwarderEvent, now: float) -> bool:
        """Do what follows from an event; return whether sessions have something to send."""
        match event:
            case AckArrived(peer=peer, path_tag=tag):
                flow = self._by_tag.get(tag)
                if flow is not None and flow.peer == peer and flow.control is not None:
                    if flow.id >= TUNNEL_FLOW_MIN:
                        self.tunnels.count_sent(flow)  # it answers what the control must know of first
                    flow.control.receive_ack(event.ack, now)
                    self._drain(flow, now)
                    flow._wake()
            case NeedSession(node=node):
                self._connect(node, now)
                return True
            case NoticeArrived(peer=peer, path_tag=tag, notice=notice):
                flow = self._by_tag.get(tag)
                if flow is not None and flow.control is not None:
                    flow.control.receive_notice(peer, tag, notice, now)
                    self._drain(flow, now)
            case PathStatistics():
                self.statistics.add(event)
                self._tell(event)
            case HandshakeArrived(datagram=datagram, way=way):
                self._overlay.sessions.receive_datagram(datagram, way, now, self._clock.wall_ns())
                return True
            case FlowClosed(peer=peer, flow=flow_id):
                closed = self._flows.get((peer, flow_id))
                if closed is not None:
                    closed._wake()
            case _:
                self._tell(event)
        return False

    def _release_held(self) -> None:
        """Hand on packets that waited long enough for those before them."""
        for inbox in tuple(self._holding):
            inbox.release_due(self._gossip.read_stamp_ns())
            if inbox.due_ns is None:
                del self._holding[inbox]
            self._wake_reader(inbox)

    def _wake_reader(self, inbox: FlowInbox) -> None:
        if inbox.flow >= TUNNEL_FLOW_MIN:
            packets = inbox.take()
            if self._take_packets is not None:
                self._take_packets(inbox.peer, packets)
            return
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
            self._suggest_way(flow.control, flow.peer)
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
        return member is not None and Role.RELAY in member.roles and self._gossip.is_trusted(node) and self._price_of(node) is not None

    def _price_of(self, node: NodeId) -> int | None:
        return 0 if self.prices is None else self.prices.price_microtoken(node, self._clock.wall_ns())

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

    def _tell_load(self, load: RelayLoad, now: float) -> None:
        """Ask those to go elsewhere whose packets are too much for this node."""
        for excess in load.look(self.forwarder.counters().relayed, now):
            notice = Notice(NoticeReason.OVERLOADED, locator_of(self._node_id), excess.share_permille)
            payload = Payload(PayloadKind.NOTICE, 0, 0, self._gossip.read_stamp_ns(), notice.encode())
            self.forwarder.send_payload(path_segments((), excess.neighbour), excess.path_tag, excess.neighbour, payload.encode())

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
        if flow.id >= TUNNEL_FLOW_MIN:
            self.tunnels.count_sent(flow)  # a keep-alive says what was sent before it
        for packet in control.packets_to_send(now):
            payload = Payload(packet.kind, 0, packet.seq, self._gossip.read_stamp_ns(), packet.body)
            self.forwarder.send_payload(path_segments(packet.relays, flow.peer), packet.path_tag, flow.peer, payload.encode())
        while (event := control.next_event()) is not None:
            if isinstance(event, (PathSwitched, PathDied)):
                log.info("flow %08x to %s: %s", flow.id, self._name_of(flow.peer), event.reason)
            self._tell(FlowEvent(flow.peer, flow.id, event))
        self.tunnels.follow(flow)

    def _send_data(self, flow: Flow, kind: PayloadKind, seq: int, data: bytes) -> bool:
        control = flow.control or self._control_of(flow)
        flags, hold_ms = (_FLAGS[flow.policy.mode], flow.hold_ms) if kind is PayloadKind.DATA else (0, 0)
        plaintext = Payload(kind, flow.id, seq, self._gossip.read_stamp_ns(), data, flags, hold_ms).encode()
        is_sent = False
        for relays, path_tag in control.routes():
            if not self.forwarder.send_payload(path_segments(relays, flow.peer), path_tag, flow.peer, plaintext):
                continue
            is_sent = True
            if kind is PayloadKind.DATA:
                control.data_sent(self._clock.now(), octets=len(data), path_tag=path_tag, seq=seq)
        if not is_sent:
            self._drain_forwarder(self._clock.now())
        return is_sent

    def _send_packets(self, flow: Flow, seq: int, packets: Sequence[bytes]) -> int:
        """Send IP packets on the active path of a tunnel's flow, until one cannot be sent. What follows from the path is done once."""
        control = flow.control or self._control_of(flow)
        if not (routes := control.routes()):
            return 0
        relays, path_tag = routes[0]
        is_ipv4 = packets[0][0] >> 4 == 4
        path = path_segments(relays, flow.peer, Function.END_DX4 if is_ipv4 else Function.END_DT6)
        stamp_ns = self._gossip.read_stamp_ns()  # they leave together
        sent = self.forwarder.send_payloads(path, path_tag, flow.peer, encode_packets(flow.id, seq, stamp_ns, packets))
        self.tunnels.count_sent(flow)  # what left before these
        now = self._clock.now()
        if sent:
            control.data_sent(now, octets=sum(map(len, packets[:sent])), packets=sent, path_tag=path_tag, seq=seq + sent - 1)
        if sent < len(packets):
            self._drain_forwarder(now)
        return sent

    def _connect(self, node: NodeId, now: float) -> None:
        """Ask for a session with a member; nothing for others."""
        if node in self._overlay.view:
            self._overlay.sessions.connect(node, self._overlay.address_of(node), now)

    def _forget(self, flow: Flow) -> None:
        self._flows.pop((flow.peer, flow.id), None)
        self.tunnels.forget(flow)
        for tag in [tag for tag, owner in self._by_tag.items() if owner is flow]:
            del self._by_tag[tag]
        for inbox_flow in [waiting for waiting in self._waiting if waiting is flow]:
            self._waiting.remove(inbox_flow)
        self._holding.pop(flow._inbox, None)
        self.forwarder.release(flow._inbox)

    def _on_overlay_event(self, event: object) -> None:
        match event:
            case ViewChanged():
                self.forwarder.set_members({locator_of(node): node for node in self._overlay.view.ids})
            case MemberLeft(node_id=node):
                self.forwarder.drop_peer(node)
                self.statistics.drop_peer(node)
                self._ways.ended(node)
                for flow in self._flows.values():
                    if flow.control is not None:
                        flow.control.relay_failed(node, self._clock.now())
                        self.tunnels.follow(flow)
            case HandshakeUnanswered(peer=node):
                if any(flow.peer == node for flow in self._flows.values()):
                    self._ways.unanswered(node, self._clock.now())
            case SessionEstablished(peer=node):
                self._ways.established(node, self._clock.now())
                for flow in self._flows.values():
                    if flow.peer == node and flow.control is not None:
                        self._suggest_way(flow.control, node)
            case SessionFailed(peer=node) | SessionRekeyed(peer=node):
                self._ways.ended(node)
            case _:
                pass

    def _suggest_way(self, control: PathControl, peer: NodeId) -> None:
        """Have the way watched that a session with a peer out of direct reach was made on: its row may never get here."""
        session = self._overlay.sessions.current(peer)
        if session is None or session.address is not None or session.way is None:
            return
        owners = {locator_of(node): node for node in self._overlay.view.ids}
        relays = tuple(owners.get(Sid(segment).locator) for segment in session.way.segments[:-1])
        if None not in relays:
            control.suggest(tuple(node for node in relays if node is not None), self._clock.now())
            self._timer_changed.set()

    def _relays_in_mind(self, peer: NodeId) -> list[Relays]:
        """Return the relays of the paths that flows to a peer watch, best predicted first."""
        controls = [flow.control for flow in self._flows.values() if flow.peer == peer and flow.control is not None]
        paths = [path for control in controls for path in control.paths]
        paths.sort(key=lambda path: path.predicted_ms if math.isfinite(path.predicted_ms) else math.inf)
        return [path.relays for path in paths]

    def _relays_at_hand(self, peer: NodeId) -> list[NodeId]:
        """Return who may relay to a peer by the policy of some flow to it."""
        policies = [flow.policy for flow in self._flows.values() if flow.peer == peer]
        free = [policy for policy in policies if policy.relays_max and not policy.via]
        allowed = [
            node
            for node in self._overlay.view.ids
            if any(node not in policy.avoid and self._finder.is_affordable((node,), policy) for policy in free)
        ]
        return [node for node in allowed if node != self._node_id and self._may_relay(node)]

    def _tell(self, event: object) -> None:
        for listener in self._listeners:
            listener(event)
