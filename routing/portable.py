"""The portable data plane, L0: relay, egress and ingress in Python, on the node's one UDP socket. A core: it needs no root and no compiler.

The loop that drains the socket is the overlay's; it calls `receive` per datagram and, after each batch, whoever reads `ready_flows` and
`next_event`. Packets leave at once through the `send` callable: there is no queue in here that could fill.

What an ingress sends follows from its path: header bytes and first hop are worked out once and kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from srwan.overlay.session import Sessions
from srwan.overlay.view import Role
from srwan.routing.egress import AckArrived, AckDue, Egress, FlowClosed, FlowInbox
from srwan.routing.forwarder import Counters, ForwarderEvent
from srwan.routing.packet import seal_payload
from srwan.routing.payload import PAYLOAD_HEADER_BYTES, Payload, PayloadKind
from srwan.routing.relay import Delivered, Forwarded, NeedSession, Relay
from srwan.routing.sid import Sid, locator_of
from srwan.routing.srh import Srh
from srwan.routing.traffic import Drops, TagTable, TagTraffic, TrafficCount
from srwan.types import NodeId, UdpAddress

__all__ = ["PortableForwarder"]

EVENTS_MAX = 4096
"""Events kept between two reads: 64 datagrams bring at most 64; the rest is room for a slow reader. The oldest goes."""
PATHS_MAX = 4096
"""Paths whose headers are kept: 100 destinations with some candidates each, and the ways back of answers."""

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
    """

    name = "portable"

    def __init__(
        self,
        node_id: NodeId,
        sessions: Sessions,
        *,
        roles: Role,
        send: Callable[[bytes, UdpAddress], None],
        read_stamp_ns: Callable[[], int],
    ) -> None:
        self._current = sessions.current
        self._send = send
        self._read_stamp_ns = read_stamp_ns
        self._drops = Drops()
        self._relay = Relay(node_id, sessions, roles, self._drops)
        self._egress = Egress(sessions, self._drops)
        self._locator = locator_of(node_id)
        self._routes: dict[tuple[Sid, ...], _Route] = {}
        self._sent: TagTable[TagTraffic] = TagTable(TagTraffic)
        self._ready: dict[FlowInbox, None] = {}
        self._events: deque[AckArrived | FlowClosed | NeedSession] = deque()

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
        """Take one datagram of the data plane. Never raises on hostile input; what is dropped is counted.

        Cost: the relay's or the egress's, and `send`.
        """
        outcome = self._relay.process(data, source, rx_ns, rx_ns * 1e-9)
        if outcome is None:
            return
        if isinstance(outcome, Delivered):
            self._deliver(outcome)
        elif isinstance(outcome, NeedSession):
            self._emit(outcome)
        else:
            self._send(*outcome)

    def send_payload(self, path: Sequence[Sid], path_tag: int, peer: NodeId, plaintext: bytes) -> bool:
        """Send one payload along a path; see `Forwarder.send_payload`. Cost: 4 us and `send`."""
        path = tuple(path)
        route = self._routes.get(path)
        if route is None or route.peer != peer:
            route = self._find_route(path, peer)
            if route is None:
                self._drops.count("next-hop-unknown")
                return False
        now = self._read_stamp_ns() * 1e-9
        end = self._current(peer)
        if end is None:
            self._drops.count("no-session")
            outcome: Forwarded | NeedSession | None = self._relay.need_session(peer, now)
        else:
            outcome = self._relay.send(route.first, route.srh, path_tag, seal_payload(end, plaintext), now)
        if outcome is None:
            return False
        if isinstance(outcome, NeedSession):
            self._emit(outcome)
            return False
        self._send(*outcome)
        if plaintext[0] == PayloadKind.DATA:
            traffic = self._sent.touch(peer, path_tag)
            traffic.packets += 1
            traffic.octets += len(plaintext) - PAYLOAD_HEADER_BYTES
        return True

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

    def _deliver(self, delivered: Delivered) -> None:
        outcome = self._egress.receive(delivered)
        if outcome is None:
            return
        if isinstance(outcome, FlowInbox):
            self._ready[outcome] = None
        elif isinstance(outcome, AckDue):
            answer = Payload(PayloadKind.ACK, 0, outcome.ack.keepalive_seq, self._read_stamp_ns(), outcome.ack.encode())
            self.send_payload(outcome.path, outcome.path_tag, outcome.peer, answer.encode())
        else:
            self._emit(outcome)

    def _emit(self, event: AckArrived | FlowClosed | NeedSession) -> None:
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
