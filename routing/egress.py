"""The egress: what a node does with a payload that ends here. A core.

It opens the end-to-end seal, which proves who sent it and that it is no replay, whatever the relays did, and then acts by kind: DATA goes
to the inbox of its flow, a KEEPALIVE is answered with what arrived on its path tag, an ACK goes to the path controller, CLOSE ends a
flow.

Everything a peer can fill is bounded: an inbox by packets (the oldest goes: fresh data is worth more than old), all inboxes of a peer and
all inboxes together by octets, the flows of a peer by number (the one unclaimed longest goes), statistics by `TagTable`. Dropped packets
are counted.

The segment list and the path tag are authentic hop by hop only, so a relay could change them; the answer goes back the way the list
tells, to the peer that the seal names, and carries the tag as it arrived: what a relay can spoil is its own path's standing.

Not here: order, retransmission, streams (`stream.py`); when to send keep-alives and what an ACK means (`path.py`, `watch.py`).
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple, TypeAlias

import attrs

from srwan.errors import DecodeError, LimitExceeded, RemoteProtocolError
from srwan.overlay.session import Sessions
from srwan.routing.packet import open_payload
from srwan.routing.payload import Ack, KeepAlive, Payload, PayloadKind, raw_latency_ns
from srwan.routing.relay import Delivered
from srwan.routing.sid import Function, Sid, locator_of
from srwan.routing.srh import NEXT_HEADER_SEALED
from srwan.routing.traffic import Drops, TagTable, TagTraffic
from srwan.types import NodeId

__all__ = ["AckArrived", "AckDue", "Egress", "FlowClosed", "FlowInbox", "FlowPacket", "PathReception"]

INBOX_PACKETS_MAX = 1024
"""Packets waiting in one flow: 10 ms at 100,000 packets per second, the most a portable data plane brings in."""
FLOWS_PER_PEER_MAX = 256
"""Flows of one peer; the node count of a group times a few."""
QUEUED_OCTETS_PER_PEER_MAX = 4 << 20
"""Octets waiting in all inboxes of one peer: three full inboxes."""
QUEUED_OCTETS_MAX = 64 << 20
"""Octets waiting in all inboxes: 16 peers at their bound."""
PEERS_MAX = 1024
"""Peers with flows: those with sessions are fewer."""


class FlowPacket(NamedTuple):
    """One datagram of a flow, as the application gets it."""

    body: bytes
    seq: int
    """Per flow, from 0; gaps are packets lost, late or dropped."""
    raw_ns: int
    """Raw one-way latency, ns: our stamp less the sender's."""
    path_tag: int


class _Queued:
    """Octets that wait, of one peer or of all."""

    __slots__ = ("octets",)

    def __init__(self) -> None:
        self.octets = 0


class FlowInbox:
    """Datagrams of one flow that wait for the application."""

    __slots__ = ("_of_all", "_of_peer", "_packets", "closed_seq", "dropped", "flow", "is_claimed", "octets", "peer", "received")

    def __init__(self, peer: NodeId, flow: int, of_peer: _Queued, of_all: _Queued) -> None:
        self.peer = peer
        self.flow = flow
        self.received = 0
        """Packets that came, also those dropped since."""
        self.dropped = 0
        """Packets dropped because nobody took them in time."""
        self.octets = 0
        """Octets that wait."""
        self.closed_seq: int | None = None
        """How many packets the sender says the flow had; None while it is open."""
        self.is_claimed = False
        """Whether an application asked for this flow."""
        self._packets: deque[FlowPacket] = deque()
        self._of_peer = of_peer
        self._of_all = of_all

    def __len__(self) -> int:
        return len(self._packets)

    def take(self, packets_max: int = INBOX_PACKETS_MAX) -> list[FlowPacket]:
        """Return and remove the oldest packets, at most packets_max, in order of arrival."""
        return [self._pop() for _ in range(min(packets_max, len(self._packets)))]

    def _put(self, packet: FlowPacket) -> int:
        """Append a packet and return how many (older ones, or this one) were dropped to keep the bounds."""
        size = len(packet.body)
        self.received += 1
        dropped = 0
        while not (has_room := self._has_room(size)) and self._packets:
            self._pop()
            dropped += 1
        if has_room:
            self._packets.append(packet)
            self._account(size)
        else:
            dropped += 1
        self.dropped += dropped
        return dropped

    def _has_room(self, size: int) -> bool:
        return (
            len(self._packets) < INBOX_PACKETS_MAX
            and self._of_peer.octets + size <= QUEUED_OCTETS_PER_PEER_MAX
            and self._of_all.octets + size <= QUEUED_OCTETS_MAX
        )

    def _pop(self) -> FlowPacket:
        packet = self._packets.popleft()
        self._account(-len(packet.body))
        return packet

    def _account(self, size: int) -> None:
        self.octets += size
        self._of_peer.octets += size
        self._of_all.octets += size


class PathReception(TagTraffic):
    """What arrived from one peer on one path tag. `packets` and `octets` are of DATA, octets of bodies."""

    __slots__ = ("announced_octets", "announced_packets", "highest_seq", "raw_ns_count", "raw_ns_sum")

    def __init__(self) -> None:
        super().__init__()
        self.highest_seq = 0
        """Highest seq of any DATA."""
        self.announced_packets = 0
        """DATA packets that the ingress says it sent, from its last KEEPALIVE."""
        self.announced_octets = 0
        self.raw_ns_sum = 0
        """Sum of raw one-way latencies of DATA since the last answer, ns."""
        self.raw_ns_count = 0

    def take_mean_raw_ns(self) -> int | None:
        """Return the mean raw one-way latency of DATA since the last call, ns; None if there was none."""
        count, total = self.raw_ns_count, self.raw_ns_sum
        self.raw_ns_count = self.raw_ns_sum = 0
        return total // count if count else None


@attrs.frozen(slots=True)
class AckDue:
    """A KEEPALIVE wants this answer, sealed and stamped as late as possible."""

    peer: NodeId
    path: tuple[Sid, ...]
    """The way back: the same relays in reverse, then the peer."""
    path_tag: int
    ack: Ack


@attrs.frozen(slots=True)
class AckArrived:
    """A far end answered a KEEPALIVE of ours. The path controller knows whether it was asked."""

    peer: NodeId
    path_tag: int
    ack: Ack
    raw_ns: int
    """Raw one-way latency of the answer, ns: our stamp less the egress's."""
    rx_ns: int
    """When it came, ns of our stamp clock."""


@attrs.frozen(slots=True)
class FlowClosed:
    """A peer ended a flow. What waits in its inbox can still be taken."""

    peer: NodeId
    flow: int


EgressOutcome: TypeAlias = FlowInbox | AckDue | AckArrived | FlowClosed


class _Peer:
    """What one peer has here."""

    __slots__ = ("flows", "queued")

    def __init__(self) -> None:
        self.flows: dict[int, FlowInbox] = {}
        self.queued = _Queued()


class Egress:
    """Takes payloads that end at this node.

    Args:
        sessions: where its sessions are.
        drops: where drops are counted.
    """

    def __init__(self, sessions: Sessions, drops: Drops) -> None:
        self._sessions = sessions
        self._by_index = sessions.by_index
        self._drops = drops
        self._peers: dict[NodeId, _Peer] = {}
        self._queued = _Queued()
        self.receptions: TagTable[PathReception] = TagTable(PathReception)
        """What arrived, by peer and path tag."""

    def receive(self, delivered: Delivered) -> EgressOutcome | None:
        """Take one payload.

        Returns:
            The inbox that got DATA, the answer that a KEEPALIVE wants, an ACK, the end of a flow; None if it was dropped. Dropped packets
            are counted.

        Cost: 6 us for DATA, besides the relay's part.
        """
        sender: NodeId | None = None
        try:
            if delivered.srh.next_header != NEXT_HEADER_SEALED:
                raise DecodeError(f"next header {delivered.srh.next_header}", reason="next-header")
            session, plaintext = open_payload(self._by_index, delivered.payload)
            sender = session.peer
            peer = self._peers.get(sender) or self._admit(sender)
            if not session.is_confirmed:
                self._sessions.confirm(session)
            payload = Payload.decode(plaintext)
            if payload.kind is PayloadKind.DATA:
                return self._take_data(sender, peer, payload, delivered)
            return self._take_control(sender, peer, payload, delivered)
        except RemoteProtocolError as error:
            self._drops.count(error.reason, sender)
            return None

    def claim(self, peer: NodeId, flow: int) -> FlowInbox:
        """Return the inbox of a flow for an application, with what already waits; it stays until `release`.

        Raises:
            LimitExceeded: the peer has FLOWS_PER_PEER_MAX claimed flows, or PEERS_MAX peers have flows.
        """
        state = self._peers.get(peer) or self._admit(peer)
        inbox = state.flows.get(flow)
        if inbox is None:  # an empty one is false
            inbox = self._open_flow(peer, state, flow)
        inbox.is_claimed = True
        return inbox

    def release(self, inbox: FlowInbox) -> None:
        """Give an inbox back: what waits in it is dropped, uncounted. A second call does nothing."""
        state = self._peers.get(inbox.peer)
        if state is not None and state.flows.get(inbox.flow) is inbox:
            inbox.take()
            del state.flows[inbox.flow]

    def drop_peer(self, peer: NodeId) -> None:
        """Forget all of a peer's flows and statistics, as when it left. Inboxes that applications hold are emptied."""
        state = self._peers.pop(peer, None)
        for inbox in () if state is None else state.flows.values():
            inbox.take()
        self.receptions.drop_owner(peer)

    def _take_data(self, sender: NodeId, peer: _Peer, payload: Payload, delivered: Delivered) -> FlowInbox:
        inbox = peer.flows.get(payload.flow)
        if inbox is None:
            inbox = self._open_flow(sender, peer, payload.flow)
        if inbox.closed_seq is not None and payload.seq >= inbox.closed_seq:
            raise DecodeError(f"DATA {payload.seq} of a flow closed at {inbox.closed_seq}", reason="flow-closed")
        size = len(payload.body)
        raw_ns = raw_latency_ns(delivered.rx_ns, payload.tx_ns)
        reception = self.receptions.touch(sender, delivered.path_tag)
        reception.packets += 1
        reception.octets += size
        reception.raw_ns_sum += raw_ns
        reception.raw_ns_count += 1
        reception.highest_seq = max(payload.seq, reception.highest_seq)
        dropped = inbox._put(FlowPacket(payload.body, payload.seq, raw_ns, delivered.path_tag))
        for _ in range(dropped):
            self._drops.count("inbox-full", sender)
        return inbox

    def _take_control(self, sender: NodeId, peer: _Peer, payload: Payload, delivered: Delivered) -> EgressOutcome | None:
        path_tag = delivered.path_tag
        raw_ns = raw_latency_ns(delivered.rx_ns, payload.tx_ns)
        if payload.kind is PayloadKind.KEEPALIVE:
            return self._answer(sender, payload, delivered, raw_ns)
        if payload.kind is PayloadKind.ACK:
            ack = Ack.decode(payload.body)
            if ack.path_tag != path_tag:
                raise DecodeError("the ACK speaks of another path tag", reason="path-tag")
            return AckArrived(sender, path_tag, ack, raw_ns, delivered.rx_ns)
        inbox = peer.flows.get(payload.flow)
        if inbox is None or inbox.closed_seq is not None:
            return None
        inbox.closed_seq = payload.seq
        return FlowClosed(sender, payload.flow)

    def _answer(self, sender: NodeId, payload: Payload, delivered: Delivered, raw_ns: int) -> AckDue:
        announced = KeepAlive.decode(payload.body)
        relays = delivered.srh.segments[-2::-1]
        locator = locator_of(sender)
        if any(relay.locator == locator for relay in relays):
            raise DecodeError("the sender is a relay of its own path", reason="loop")
        reception = self.receptions.touch(sender, delivered.path_tag)
        reception.announced_packets = announced.packets
        reception.announced_octets = announced.octets
        ack = Ack(
            path_tag=delivered.path_tag,
            keepalive_seq=payload.seq,
            keepalive_raw_ns=raw_ns,
            packets=reception.packets,
            octets=reception.octets,
            mean_raw_ns=reception.take_mean_raw_ns(),
            highest_seq=reception.highest_seq,
        )
        return AckDue(sender, (*relays, Sid.of(sender, Function.END_APP)), delivered.path_tag, ack)

    def _admit(self, peer: NodeId) -> _Peer:
        """Make a peer's state; when there are too many, the oldest without flows goes."""
        if len(self._peers) >= PEERS_MAX:
            idle = next((old for old, state in self._peers.items() if not state.flows), None)
            if idle is None:
                raise LimitExceeded(f"{PEERS_MAX} peers have flows here", reason="peers")
            del self._peers[idle]
        state = self._peers[peer] = _Peer()
        return state

    def _open_flow(self, sender: NodeId, peer: _Peer, flow: int) -> FlowInbox:
        """Make an inbox; when the peer has too many, its oldest that no application claimed goes."""
        if len(peer.flows) >= FLOWS_PER_PEER_MAX:
            victim = next((inbox for inbox in peer.flows.values() if not inbox.is_claimed), None)
            if victim is None:
                raise LimitExceeded(f"{FLOWS_PER_PEER_MAX} flows are open", reason="flows")
            for _ in victim.take():
                self._drops.count("flow-evicted", sender)
            del peer.flows[victim.flow]
        inbox = peer.flows[flow] = FlowInbox(sender, flow, peer.queued, self._queued)
        return inbox
