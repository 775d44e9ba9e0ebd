"""The portable data plane, L0: relay, egress and ingress in Python, on the node's one UDP socket. A core: it needs no root and no compiler.

The loop that drains the socket is the overlay's; it calls `receive_batch` and, after that, whoever reads `ready_flows` and `next_event`.
What a relay sends on leaves at the end of the batch through `send_many`, in trains where the system has them; what this node itself sends
leaves at once through `send`, so keep-alives and their answers wait for no data. No queue in here outlives a call.

What an ingress sends follows from its path: header bytes and first hop are worked out once and kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from srwan.overlay.session import Sessions
from srwan.overlay.trains import Train
from srwan.overlay.view import Role
from srwan.overlay.way import RelayedWay
from srwan.routing.egress import AckArrived, AckDue, Egress, EgressOutcome, FlowClosed, FlowInbox, NoticeArrived, PathStatistics
from srwan.routing.forwarder import Counters, ForwarderEvent, TunPlane
from srwan.routing.in_band import HandshakeArrived, write_in_band
from srwan.routing.kernel.border import NATIVE_LINK, NativeBorder
from srwan.routing.notice import NoticeGate
from srwan.routing.packet import seal_payload
from srwan.routing.payload import PAYLOAD_HEADER_BYTES, Notice, Payload, PayloadKind
from srwan.routing.relay import Delivered, NeedSession, Relay
from srwan.routing.sid import Function, Sid, locator_of
from srwan.routing.srh import NEXT_HEADER_SESSION, Srh
from srwan.routing.throttle import TagLimit
from srwan.routing.traffic import Drops, TagTable, TagTraffic, TrafficCount
from srwan.types import NodeId, UdpAddress

__all__ = ["PortableForwarder"]

EVENTS_MAX = 4096
"""Events kept between two reads: 64 datagrams bring at most 64; the rest is room for a slow reader. The oldest goes."""
PATHS_MAX = 4096
"""Paths whose headers are kept: 100 destinations with some candidates each, and the ways back of answers."""

_DATA = int(PayloadKind.DATA)

Entry = TypeVar("Entry", bound=TagTraffic)


class _Route(NamedTuple):
    """What follows from a path."""

    srh: bytes
    first: NodeId
    """Node of the first segment."""
    peer: NodeId
    """Node of the last segment."""


class PortableForwarder:
    """`Forwarder` in pure Python.

    Args:
        node_id: this node.
        sessions: where its sessions are.
        roles: what it offers; Role.RELAY to forward for others.
        send: hands a datagram to the network, at once and without raising.
        read_stamp_ns: the stamp clock, for stamps taken at sealing.
        send_many: as `send`, for several datagrams with one destination; None: `send` is called for each.
    """

    name = "portable"
    tun_plane: TunPlane | None = None

    def __init__(
        self,
        node_id: NodeId,
        sessions: Sessions,
        *,
        roles: Role,
        send: Callable[[bytes, UdpAddress], None],
        read_stamp_ns: Callable[[], int],
        send_many: Callable[[Sequence[bytes], UdpAddress], None] | None = None,
    ) -> None:
        self._current = sessions.current
        self._send = send
        self._send_many = send_many
        self._read_stamp_ns = read_stamp_ns
        self._drops = Drops()
        self._relay = Relay(node_id, sessions, roles, self._drops)
        self._egress = Egress(sessions, self._drops, self._relay.node_of)
        self._notices = NoticeGate()
        self._locator = locator_of(node_id)
        self._sid = Sid.of(node_id, Function.END_APP)
        self._routes: dict[tuple[Sid, ...], _Route] = {}
        self._sent: TagTable[TagTraffic] = TagTable(TagTraffic)
        self._ready: dict[FlowInbox, None] = {}
        self._events: deque[AckArrived | FlowClosed | NeedSession | HandshakeArrived | NoticeArrived | PathStatistics] = deque()

    def set_members(self, members: Mapping[bytes, NodeId]) -> None:
        """Replace the map from locator to node: whom packets may go to. Cost: O(members), and headers are worked out anew."""
        self._relay.set_members(members)
        self._routes.clear()

    def drop_peer(self, peer: NodeId) -> None:
        """Forget a peer's flows and statistics, as when it left. Unknown peers are fine."""
        self._egress.drop_peer(peer)
        self._relay.drop_peer(peer)
        self._sent.drop_owner(peer)
        self._drops.drop_peer(peer)
        self._ready = {inbox: None for inbox in self._ready if inbox.peer != peer}

    def receive(self, data: bytes, source: UdpAddress, rx_ns: int) -> None:
        """Take one datagram of the data plane, as `receive_batch` does. Never raises on hostile input."""
        self.receive_batch(((data, len(data) or 1, source, rx_ns),))

    def receive_batch(self, trains: Sequence[Train]) -> None:
        """Take datagrams of the data plane in order of arrival. Never raises on hostile input; what is dropped is counted.

        What goes on leaves at the end, all packets for one next node together and in the order in which they came.

        Cost: the relay's or the egress's, and `send_many`.
        """
        if not trains:
            return
        outbox: dict[UdpAddress, list[bytes]] = {}
        arrived: list[Delivered] = []
        for needed in self._relay.process_batch(trains, trains[0][3] * 1e-9, outbox, arrived):
            self._emit(needed)
        for destination, packets in outbox.items():
            self._send_all(packets, destination)
        for delivered in arrived:
            self._deliver(delivered)
        if self._relay.refused:
            self._tell_refused()

    def set_border(self, border: NativeBorder, send_native: Callable[[bytes], None]) -> None:
        """Speak native SRv6 with the routers that `border` names (`kernel/border.py`); `send_native` is as `send` without a destination."""
        send = self._send
        self._relay.set_border(border)
        self._send = lambda data, to: send_native(data) if to is NATIVE_LINK else send(data, to)

    def receive_native(self, data: bytes, rx_ns: int) -> None:
        """Take one native SRv6 packet. Never raises on hostile input; refused from routers that `set_border` did not name."""
        outcome = self._relay.process_native(data, rx_ns, rx_ns * 1e-9)
        if isinstance(outcome, Delivered):
            self._deliver(outcome)
        elif isinstance(outcome, NeedSession):
            self._emit(outcome)
        elif outcome is not None:
            self._send(*outcome)

    def throttle(self, neighbour: NodeId, tags: frozenset[int], *, is_exempt: bool, octets_per_s: int) -> None:
        """Carry some of a neighbour's packets at a low rate only; see `Forwarder.throttle`."""
        limits = self._relay.limits
        held = limits.get(neighbour)
        if not octets_per_s:
            limits.pop(neighbour, None)
        elif held is not None and held.octets_per_s == octets_per_s:
            held.tags, held.is_exempt = tags, is_exempt
        else:
            limits[neighbour] = TagLimit(tags, is_exempt=is_exempt, octets_per_s=octets_per_s)

    def send_payload(self, path: Sequence[Sid], path_tag: int, peer: NodeId, plaintext: bytes) -> bool:
        """Send one payload along a path; see `Forwarder.send_payload`. Cost: 4 us and `send`."""
        path = tuple(path)
        route = self._routes.get(path)
        if route is None or route.peer != peer:
            route = self._find_route(path, peer)
            if route is None:
                self._drops.count("next-hop-unknown")
                return False
        end = self._current(peer)
        if end is None:
            self._drops.count("no-session")
            self._ask_for(peer)
            return False
        sent = self._relay.seal(route.first, route.srh, path_tag, seal_payload(end, path_tag, plaintext))
        if sent is None:
            self._ask_for(route.first)
            return False
        self._send(*sent)
        if plaintext[0] == _DATA:
            traffic = self._sent.touch(peer, path_tag)
            traffic.packets += 1
            traffic.octets += len(plaintext) - PAYLOAD_HEADER_BYTES
        return True

    def send_payloads(self, path: Sequence[Sid], path_tag: int, peer: NodeId, plaintexts: Sequence[bytes]) -> int:
        """Send several payloads along a path, in trains; see `Forwarder.send_payloads`. Cost: 4 us each, and `send_many`."""
        path = tuple(path)
        route = self._routes.get(path)
        if route is None or route.peer != peer:
            route = self._find_route(path, peer)
        end = self._current(peer)
        if route is None or end is None:
            return int(self.send_payload(path, path_tag, peer, plaintexts[0])) if plaintexts else 0  # says why, and counts it
        seal, first, srh = self._relay.seal, route.first, route.srh
        outbox: dict[UdpAddress, list[bytes]] = {}
        sent = octets = 0
        for plaintext in plaintexts:
            packet = seal(first, srh, path_tag, seal_payload(end, path_tag, plaintext))
            if packet is None:
                self._ask_for(first)
                break
            outbox.setdefault(packet[1], []).append(packet[0])
            sent += 1
            octets += len(plaintext) - PAYLOAD_HEADER_BYTES if plaintext[0] == _DATA else 0
        for destination, packets in outbox.items():
            self._send_all(packets, destination)
        if octets:
            traffic = self._sent.touch(peer, path_tag)
            traffic.packets += sum(plaintext[0] == _DATA for plaintext in plaintexts[:sent])
            traffic.octets += octets
        return sent

    def send_handshake(self, way: RelayedWay, datagram: bytes) -> bool:
        """Send a session's datagram over relays; see `Forwarder.send_handshake`. Cost: 10 us and `send`."""
        path = tuple(Sid(segment) for segment in way.segments)
        srh = Srh.for_path(path, next_header=NEXT_HEADER_SESSION)
        first = self._relay.node_of(path[0])
        if first is None:
            self._drops.count("next-hop-unknown")
            return False
        outcome = self._relay.send(first, srh.encode(), way.path_tag, write_in_band(self._sid, datagram), self._read_stamp_ns() * 1e-9)
        if isinstance(outcome, NeedSession):
            self._emit(outcome)
        elif outcome is not None:
            self._send(*outcome)
            return True
        return False

    def sent(self, peer: NodeId, path_tag: int) -> TrafficCount:
        """Return the DATA packets and octets of bodies sent to `peer` on a path tag so far."""
        traffic = self._sent.peek(peer, path_tag)
        return TrafficCount(0, 0) if traffic is None else traffic.read()

    def claim(self, peer: NodeId, flow: int) -> FlowInbox:
        """Return the inbox of a flow for an application; see `Egress.claim`."""
        return self._egress.claim(peer, flow)

    def release(self, inbox: FlowInbox) -> None:
        """Give an inbox back; what waits in it is dropped."""
        self._egress.release(inbox)

    def ready_flows(self) -> tuple[FlowInbox, ...]:
        """Return the inboxes that got data or were closed since the last call, each once."""
        ready = tuple(self._ready)
        self._ready.clear()
        return ready

    def next_event(self) -> ForwarderEvent | None:
        """Return the next event, or None."""
        return self._events.popleft() if self._events else self._drops.next_event()

    def counters(self) -> Counters:
        """Return a reading of all counters. Cost: 0.5 us per entry."""
        return Counters(
            neighbours={node: traffic.read() for node, traffic in self._relay.neighbours.items()},
            relayed=_read(self._relay.relayed),
            sent=_read(self._sent),
            received=_read(self._egress.receptions),
            drops=dict(self._drops.by_reason),
            drops_by_peer=dict(self._drops.by_peer),
        )

    def _send_all(self, packets: Sequence[bytes], destination: UdpAddress) -> None:
        if self._send_many is not None and len(packets) > 1 and destination is not NATIVE_LINK:
            self._send_many(packets, destination)
            return
        for packet in packets:
            self._send(packet, destination)

    def _deliver(self, delivered: Delivered) -> None:
        self._settle(self._egress.receive(delivered))

    def _settle(self, outcome: EgressOutcome | None) -> None:
        """Do what follows from a payload that ended here, and send the answers that its DATA want."""
        if isinstance(outcome, FlowInbox):
            self._ready[outcome] = None
        elif isinstance(outcome, AckDue):
            self._answer(outcome)
        elif outcome is not None:
            self._emit(outcome)
        if isinstance(outcome, NoticeArrived):
            for owner in self._owners_of(outcome.path_tag):
                if owner != outcome.peer:
                    self._give_notice(owner, outcome.path_tag, outcome.notice)
        while (waiting := self._egress.next_waiting()) is not None:
            if isinstance(waiting, AckDue):
                self._answer(waiting)
            else:
                self._emit(waiting)

    def _owners_of(self, path_tag: int) -> list[NodeId]:
        """Return the neighbours from whom packets of a path tag were sent on."""
        return self._relay.relayed.owners_of(path_tag)

    def _answer(self, due: AckDue) -> None:
        answer = Payload(PayloadKind.ACK, 0, due.ack.keepalive_seq, self._read_stamp_ns(), due.ack.encode())
        self.send_payload(due.path, due.path_tag, due.peer, answer.encode())

    def _tell_refused(self) -> None:
        """Tell the neighbours whose packets could not go on."""
        refused, self._relay.refused = self._relay.refused, {}
        for (neighbour, path_tag), notice in refused.items():
            self._give_notice(neighbour, path_tag, notice)

    def _give_notice(self, neighbour: NodeId, path_tag: int, notice: Notice) -> None:
        stamp_ns = self._read_stamp_ns()
        if self._notices.may_give(neighbour, path_tag, stamp_ns * 1e-9):
            payload = Payload(PayloadKind.NOTICE, 0, 0, stamp_ns, notice.encode())
            self.send_payload((Sid.of(neighbour, Function.END_APP),), path_tag, neighbour, payload.encode())

    def _ask_for(self, node: NodeId) -> None:
        """Ask for a session, unless that was done lately."""
        needed = self._relay.need_session(node, self._read_stamp_ns() * 1e-9)
        if needed is not None:
            self._emit(needed)

    def _emit(self, event: AckArrived | FlowClosed | NeedSession | HandshakeArrived | NoticeArrived | PathStatistics) -> None:
        if len(self._events) >= EVENTS_MAX:
            self._events.popleft()
            self._drops.count("events-full")
        self._events.append(event)

    def _find_route(self, path: tuple[Sid, ...], peer: NodeId) -> _Route | None:
        """Check a path and keep what follows from it; None if its first segment is of no member.

        Raises:
            ValueError: not a path from here to `peer`.
        """
        srh = Srh.for_path(path)
        if path[-1].locator != locator_of(peer):
            raise ValueError(f"the path ends at {path[-1]}, not at {peer!r}")
        if any(sid.locator == self._locator for sid in path):
            raise ValueError("the path leads through this node itself")
        first = self._relay.node_of(path[0])
        if first is None:
            return None
        if len(self._routes) >= PATHS_MAX:
            self._routes.clear()
        route = self._routes[path] = _Route(srh.encode(), first, peer)
        return route


def _read(table: TagTable[Entry]) -> dict[tuple[NodeId, int], TrafficCount]:
    return {(owner, path_tag): entry.read() for owner, path_tag, entry in table}
