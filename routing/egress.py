"""The egress: what a node does with a payload that ends here. A core.

It opens the end-to-end seal, which proves who sent it and that it is no replay, whatever the relays did, and then acts by kind: DATA goes
to the inbox of its flow, a KEEPALIVE is answered with what arrived on its path tag, an ACK goes to the path controller, CLOSE ends a
flow, a NOTICE tells of a relay that cannot go on.

DATA of a path are answered, too, where the ingress asked for it with a KEEPALIVE: the first packet that comes `answer_ms` after the last
answer. Such answers wait in `next_waiting`. DATA that came by several paths are freed of second copies and put in order (`reorder`); what
is held back for that waits in its inbox until `FlowInbox.release_due`.

Everything a peer can fill is bounded: an inbox by packets (the oldest goes: fresh data is worth more than old), all inboxes of a peer and
all inboxes together by octets, the flows of a peer by number (the one unclaimed longest goes), statistics by `TagTable`, answers by
token buckets per path tag and per peer. Dropped packets are counted.

The path tag is under the end-to-end seal: a packet that a relay relabels does not open ("payload-auth"), so what is counted on a path tag
is what its ingress sent on it. The segment list is authentic hop by hop only, so a relay could change it; the answer goes back the way
the list tells, or the way the ingress asked for under its seal, to the peer that the seal names: what a relay can spoil is its own path's
standing.

Not here: retransmission, streams (`stream.py`); when to send keep-alives and what an ACK means (`path.py`, `watch.py`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import attrs

from srwan.errors import DecodeError, LimitExceeded, RemoteProtocolError
from srwan.overlay.session import Sessions
from srwan.routing.in_band import HandshakeArrived, read_in_band
from srwan.routing.packet import open_payload
from srwan.routing.payload import (
    PAYLOAD_HEADER_BYTES,
    TUNNEL_FLOW_MIN,
    Ack,
    DataFlags,
    KeepAlive,
    Notice,
    Payload,
    PayloadKind,
    raw_latency_ns,
    split_data,
    split_packet,
)
from srwan.routing.reception import PathReception, PathStatistics, RateBucket
from srwan.routing.relay import Delivered
from srwan.routing.reorder import Resequencer, SeqWindow
from srwan.routing.sid import LOCATOR_BYTES, Function, Sid, locator_of
from srwan.routing.srh import NEXT_HEADER_SEALED, NEXT_HEADER_SESSION
from srwan.routing.traffic import Drops, TagTable
from srwan.types import NodeId

__all__ = ["AckArrived", "AckDue", "Egress", "FlowClosed", "FlowInbox", "FlowPacket", "NoticeArrived", "PathReception", "PathStatistics"]

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
ANSWER_NS_MIN = 20_000_000
"""DATA of one path are answered at most so often, ns, whatever the ingress asks for."""
TAG_KEEPALIVES_PER_S = 80.0
TAG_KEEPALIVES_BURST = 32
"""Keep-alives of one path tag that are answered: 50 a second at the shortest interval, and extra ones."""
PEER_KEEPALIVES_PER_S = 4000.0
PEER_KEEPALIVES_BURST = 1000
"""And of one peer: some 250 flows with 3 paths each at the usual interval; 4,000 answers cost 5 % of a core."""
ANSWERS_MAX = 1024
"""Answers to DATA that wait for a reader: more than one batch brings."""

_REPEATED, _ORDERED = int(DataFlags.REPEATED), int(DataFlags.ORDERED)  # the enumeration's own & costs 1.2 us a packet


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

    __slots__ = (
        "_of_all", "_of_peer", "_order", "_packets", "_window", "closed_seq", "dropped", "flow", "is_claimed", "octets", "peer", "received",
        "repeated",
    )  # fmt: skip

    def __init__(self, peer: NodeId, flow: int, of_peer: _Queued, of_all: _Queued) -> None:
        self.peer = peer
        self.flow = flow
        self.received = 0
        """Packets that came, also those dropped since."""
        self.dropped = 0
        """Packets dropped because nobody took them in time."""
        self.repeated = 0
        """Second copies of packets that were sent on two paths; dropped."""
        self.octets = 0
        """Octets that wait."""
        self.closed_seq: int | None = None
        """How many packets the sender says the flow had; None while it is open."""
        self.is_claimed = False
        """Whether an application asked for this flow."""
        self._packets: deque[FlowPacket] = deque()
        self._window: SeqWindow | None = None
        self._order: Resequencer[FlowPacket] | None = None
        self._of_peer = of_peer
        self._of_all = of_all

    def __len__(self) -> int:
        return len(self._packets)

    def take(self, packets_max: int = INBOX_PACKETS_MAX) -> list[FlowPacket]:
        """Return and remove the oldest packets, at most packets_max, in order of arrival."""
        if len(self._packets) > packets_max:
            return [self._pop() for _ in range(packets_max)]
        taken = list(self._packets)
        self._packets.clear()
        self._account(-sum(len(packet.body) for packet in taken))
        return taken

    @property
    def due_ns(self) -> int | None:
        """When `release_due` is due, ns of the receive stamps; None if nothing is held back."""
        return None if self._order is None else self._order.due_ns

    def release_due(self, now_ns: int) -> None:
        """Put what was held back long enough into the inbox."""
        if self._order is not None:
            self._release(self._order.take_due(now_ns))

    def empty(self) -> None:
        """Drop what waits and what is held back."""
        while self._packets:
            self._pop()
        if self._order is not None:
            for packet in self._order.take_all():
                self._account(-len(packet.body))

    def _is_repeated(self, seq: int) -> bool:
        if self._window is None:
            self._window = SeqWindow()
        is_repeated = not self._window.accept(seq)
        self.repeated += is_repeated
        return is_repeated

    def _put_in_order(self, packet: FlowPacket, now_ns: int, hold_ms: int) -> int:
        """As `_put`, holding the packet back while earlier ones are missing."""
        if self._order is None:
            self._order = Resequencer()
        size = len(packet.body)
        if not self._has_room(size):
            return self._put(packet)
        self.received += 1
        self._account(size)
        self._release(self._order.put(packet.seq, packet, now_ns, hold_ms))
        return 0

    def _release(self, packets: list[FlowPacket]) -> None:
        """Packets that are accounted for already."""
        self._packets.extend(packets)

    def _put(self, packet: FlowPacket) -> int:
        """Append a packet and return how many (older ones, or this one) were dropped to keep the bounds."""
        size = len(packet.body)
        self.received += 1
        if self._has_room(size):
            self._packets.append(packet)
            self.octets += size
            self._of_peer.octets += size
            self._of_all.octets += size
            return 0
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
            len(self._packets) + (0 if self._order is None else len(self._order)) < INBOX_PACKETS_MAX
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


@attrs.frozen(slots=True)
class AckDue:
    """A KEEPALIVE, or DATA, wants this answer, sealed and stamped as late as possible."""

    peer: NodeId
    path: tuple[Sid, ...]
    """The way back: the same relays in reverse or those that the ingress asked for, then the peer."""
    path_tag: int
    ack: Ack


@attrs.frozen(slots=True)
class AckArrived:
    """A far end answered a KEEPALIVE or DATA of ours. The path controller knows whether it was asked."""

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


@attrs.frozen(slots=True)
class NoticeArrived:
    """A neighbour gave notice about a path tag that leads through it, of ours or of somebody for whom we relay."""

    peer: NodeId
    path_tag: int
    notice: Notice


_IP_VERSIONS = {Function.END_DX4.to_bytes(2, "big"): 4, Function.END_DT6.to_bytes(2, "big"): 6}
"""Function of the last segment of packets for the gateway, and the IP version it stands for."""

EgressOutcome: TypeAlias = FlowInbox | AckDue | AckArrived | FlowClosed | HandshakeArrived | NoticeArrived | PathStatistics


class _Peer:
    """What one peer has here."""

    __slots__ = ("bucket", "flows", "queued")

    def __init__(self) -> None:
        self.bucket = RateBucket(PEER_KEEPALIVES_PER_S, PEER_KEEPALIVES_BURST)
        self.flows: dict[int, FlowInbox] = {}
        self.queued = _Queued()


class Egress:
    """Takes payloads that end at this node.

    Args:
        sessions: where its sessions are.
        drops: where drops are counted.
        node_of: finds the member that owns a SID, for statistics; without it only those of direct paths are made.
    """

    def __init__(self, sessions: Sessions, drops: Drops, node_of: Callable[[Sid], NodeId | None] | None = None) -> None:
        self._sessions = sessions
        self._by_index = sessions.by_index
        self._drops = drops
        self._peers: dict[NodeId, _Peer] = {}
        self._queued = _Queued()
        self._node_of = node_of
        self._waiting: deque[AckDue | PathStatistics] = deque(maxlen=ANSWERS_MAX)
        self.receptions: TagTable[PathReception] = TagTable(PathReception)
        """What arrived, by peer and path tag."""

    def receive(self, delivered: Delivered) -> EgressOutcome | None:
        """Take one payload.

        Returns:
            The inbox that got DATA, the answer that a KEEPALIVE wants, an ACK, the end of a flow, a session's handshake; None if it was
            dropped. Dropped packets are counted.

        Cost: 6 us for DATA, besides the relay's part.
        """
        try:
            if delivered.srh.next_header == NEXT_HEADER_SESSION:
                return read_in_band(delivered)
            if delivered.srh.next_header != NEXT_HEADER_SEALED:
                raise DecodeError(f"next header {delivered.srh.next_header}", reason="next-header")
            session, plaintext = open_payload(self._by_index, delivered.path_tag, delivered.payload)
        except RemoteProtocolError as error:
            self._drops.count(error.reason)
            return None
        if not session.is_confirmed:
            self._sessions.confirm(session)
        return self.receive_opened(session.peer, plaintext, delivered)

    def receive_opened(self, sender: NodeId, plaintext: bytes, delivered: Delivered) -> EgressOutcome | None:
        """As `receive`, for a payload that a native data plane opened already; what `delivered` says of the payload is not read.

        Args:
            sender: who sealed it.
            plaintext: what was in it.
            delivered: the packet it came in.
        """
        try:
            peer = self._peers.get(sender) or self._admit(sender)
            packet = split_packet(plaintext)
            if packet is not None:
                return self._take_packet(sender, peer, packet, plaintext[PAYLOAD_HEADER_BYTES:], delivered)
            usual = split_data(plaintext)
            if usual is not None and delivered.srh.segments[-1][LOCATOR_BYTES : LOCATOR_BYTES + 2] not in _IP_VERSIONS:
                inbox = self._inbox_for(sender, peer, usual[0], usual[1])
                return self._put_data(sender, inbox, usual[1], usual[2], plaintext[PAYLOAD_HEADER_BYTES:], delivered)
            payload = Payload.decode(plaintext)
            if payload.kind is PayloadKind.DATA:
                return self._take_data(sender, peer, payload, delivered)
            return self._take_control(sender, peer, payload, delivered)
        except RemoteProtocolError as error:
            self._drops.count(error.reason, sender)
            return None

    def next_waiting(self) -> AckDue | PathStatistics | None:
        """Return an answer that DATA want, or statistics of a path, or None. Read it after each packet or batch."""
        return self._waiting.popleft() if self._waiting else None

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
            inbox.empty()
            del state.flows[inbox.flow]

    def drop_peer(self, peer: NodeId) -> None:
        """Forget all of a peer's flows and statistics, as when it left. Inboxes that applications hold are emptied."""
        state = self._peers.pop(peer, None)
        for inbox in () if state is None else state.flows.values():
            inbox.empty()
        self.receptions.drop_owner(peer)

    def _take_data(self, sender: NodeId, peer: _Peer, payload: Payload, delivered: Delivered) -> FlowInbox:
        version = _IP_VERSIONS.get(delivered.srh.segments[-1][LOCATOR_BYTES : LOCATOR_BYTES + 2])
        if version is not None or payload.flow >= TUNNEL_FLOW_MIN:
            _check_tunnel(payload, version)
        inbox = self._inbox_for(sender, peer, payload.flow, payload.seq)
        return self._put_data(sender, inbox, payload.seq, payload.tx_ns, payload.body, delivered, payload.flags, payload.hold_ms)

    def _inbox_for(self, sender: NodeId, peer: _Peer, flow: int, seq: int) -> FlowInbox:
        """Return the inbox for one packet of DATA.

        Raises:
            DecodeError: the flow was closed before it ("flow-closed").
        """
        inbox = peer.flows.get(flow)
        if inbox is None:
            inbox = self._open_flow(sender, peer, flow)
        if inbox.closed_seq is not None and seq >= inbox.closed_seq:
            raise DecodeError(f"DATA {seq} of a flow closed at {inbox.closed_seq}", reason="flow-closed")
        return inbox

    def _take_packet(self, sender: NodeId, peer: _Peer, head: tuple[int, int, int], body: bytes, delivered: Delivered) -> FlowInbox:
        """Take an IP packet for the gateway: as `_take_data` would, but quicker."""
        flow, seq, tx_ns = head
        if body[0] >> 4 != _IP_VERSIONS.get(delivered.srh.segments[-1][LOCATOR_BYTES : LOCATOR_BYTES + 2]):
            raise DecodeError("not what the last segment says: a packet of an IP version for the gateway", reason="tun-function")
        inbox = peer.flows.get(flow)
        if inbox is None:
            inbox = self._open_flow(sender, peer, flow)
        return self._put_data(sender, inbox, seq, tx_ns, body, delivered)

    def _put_data(
        self, sender: NodeId, inbox: FlowInbox, seq: int, tx_ns: int, body: bytes, delivered: Delivered, flags: int = 0, hold_ms: int = 0
    ) -> FlowInbox:
        rx_ns, path_tag = delivered.rx_ns, delivered.path_tag
        raw_ns = raw_latency_ns(rx_ns, tx_ns)
        reception = self.receptions.touch(sender, path_tag)
        reception.take_data(seq, len(body), raw_ns, rx_ns, tx_ns)
        if reception.answer_ns and not 0 <= rx_ns - reception.answered_ns < reception.answer_ns:
            self.answer_data(sender, seq, delivered, reception, raw_ns)
        if flags & _REPEATED and inbox._is_repeated(seq):
            return inbox
        packet = FlowPacket(body, seq, raw_ns, path_tag)
        dropped = inbox._put_in_order(packet, rx_ns, hold_ms) if flags & _ORDERED else inbox._put(packet)
        for _ in range(dropped):
            self._drops.count("inbox-full", sender)
        return inbox

    def _take_control(self, sender: NodeId, peer: _Peer, payload: Payload, delivered: Delivered) -> EgressOutcome | None:
        path_tag = delivered.path_tag
        raw_ns = raw_latency_ns(delivered.rx_ns, payload.tx_ns)
        if payload.kind is PayloadKind.KEEPALIVE:
            return self._answer(sender, peer, payload, delivered, raw_ns)
        if payload.kind is PayloadKind.ACK:
            ack = Ack.decode(payload.body)
            if ack.path_tag != path_tag:
                raise DecodeError("the ACK speaks of another path tag", reason="path-tag")
            return AckArrived(sender, path_tag, ack, raw_ns, delivered.rx_ns)
        if payload.kind is PayloadKind.NOTICE:
            return NoticeArrived(sender, path_tag, Notice.decode(payload.body))
        inbox = peer.flows.get(payload.flow)
        if inbox is None or inbox.closed_seq is not None:
            return None
        inbox.closed_seq = payload.seq
        return FlowClosed(sender, payload.flow)

    def _answer(self, sender: NodeId, peer: _Peer, payload: Payload, delivered: Delivered, raw_ns: int) -> AckDue:
        told = KeepAlive.decode(payload.body)
        rx_ns, path_tag = delivered.rx_ns, delivered.path_tag
        reception = self.receptions.touch(sender, path_tag)
        if reception.bucket is None:
            reception.bucket = RateBucket(TAG_KEEPALIVES_PER_S, TAG_KEEPALIVES_BURST)
        if not (reception.bucket.take(rx_ns) and peer.bucket.take(rx_ns)):
            raise LimitExceeded("too many keep-alives", reason="keepalive-rate")
        way = _way_back(sender, delivered, told.back)
        reception.answer_ns = max(ANSWER_NS_MIN, told.answer_ms * 1_000_000) if told.answer_ms else 0
        if not told.is_once:
            reception.back = told.back
        self._keep_statistics(sender, delivered, reception, told)
        return AckDue(sender, way, path_tag, _make_ack(path_tag, reception, payload.seq, raw_ns, rx_ns, is_for_data=False))

    def answer_data(self, sender: NodeId, seq: int, delivered: Delivered, reception: PathReception, raw_ns: int) -> None:
        """Have DATA answered, unless a relay changed the segments so that there is no way back; the answer is in `next_waiting`."""
        try:
            way = _way_back(sender, delivered, reception.back)
        except DecodeError as error:
            self._drops.count(error.reason, sender)
            return
        ack = _make_ack(delivered.path_tag, reception, seq, raw_ns, delivered.rx_ns, is_for_data=True)
        self._waiting.append(AckDue(sender, way, delivered.path_tag, ack))

    def _keep_statistics(self, sender: NodeId, delivered: Delivered, reception: PathReception, told: KeepAlive) -> None:
        sids = delivered.srh.segments[:-1]
        relays = tuple(node for sid in sids if self._node_of is not None and (node := self._node_of(sid)) is not None)
        statistics = reception.settle(sender, relays, delivered.path_tag, told, delivered.rx_ns)
        if statistics is not None and len(relays) == len(sids):
            self._waiting.append(statistics)

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
            victim.empty()
            del peer.flows[victim.flow]
        inbox = peer.flows[flow] = FlowInbox(sender, flow, peer.queued, self._queued)
        return inbox


def _check_tunnel(payload: Payload, version: int | None) -> None:
    """Check that a packet for the gateway is one by its segment, which relays see and could change, and by its sealed flow."""
    if version is None or payload.flow < TUNNEL_FLOW_MIN:
        raise DecodeError("the last segment and the flow disagree whether this is for the gateway", reason="tun-function")
    if not payload.body or payload.body[0] >> 4 != version:
        raise DecodeError(f"no IPv{version} packet", reason="tun-function")


def _way_back(sender: NodeId, delivered: Delivered, asked: tuple[bytes, ...] | None) -> tuple[Sid, ...]:
    """Return the way of an answer: by the relays asked for, else by those of the path in reverse.

    Raises:
        DecodeError: it would visit a node twice ("loop").
    """
    segments = delivered.srh.segments
    if asked is None:
        relays: tuple[Sid, ...] = segments[-2::-1]
    else:
        relays = tuple(Sid(locator + _END) for locator in asked)
    locators = {relay.locator for relay in relays} | {locator_of(sender), segments[-1].locator}
    if len(locators) < len(relays) + 2:
        raise DecodeError("the way back would visit a node twice", reason="loop")
    return (*relays, Sid.of(sender, Function.END_APP))


_END = Function.END.to_bytes(2, "big") + bytes(6)


def _make_ack(path_tag: int, reception: PathReception, seq: int, raw_ns: int, rx_ns: int, *, is_for_data: bool) -> Ack:
    rate_kbps, burst_kbps = reception.take_rates(rx_ns)
    return Ack(
        path_tag=path_tag,
        keepalive_seq=seq,
        keepalive_raw_ns=raw_ns,
        packets=reception.packets,
        octets=reception.octets,
        mean_raw_ns=reception.take_mean_raw_ns(),
        highest_seq=reception.highest_seq,
        rate_kbps=rate_kbps,
        burst_kbps=burst_kbps,
        is_for_data=is_for_data,
    )
