"""The relay: what a node does with an SR packet that reaches it (RFC 8754 section 4.3.1, RFC 8986 section 4.1). A core.

A packet is opened (`packet.open_packet`), its active segment must be one of ours, and then either another segment is left: the header
advances and is sealed for the next node; or none is: the payload goes to the egress (`egress.py`). A bad packet is counted and never
answered, so nobody can make this node send anything to anywhere without a session key, and then only what it was given, once, to a
member.

Rules:
- Only a node with Role.RELAY executes END; any node is the end of its own traffic.
- The segment before the active one must be the neighbour that sealed the packet: the list then tells the way the packet really took,
  as far as neighbours are honest, and a relay cannot point the answers of an egress at somebody else.
- The next node must be a member with a session. If there is none, the packet is dropped and the session asked for, at most once per
  `SESSION_ASK_S` and node; nothing is queued for strangers.
- A neighbour's address follows its authentic packets (roaming), as in WireGuard.
- The one exception to all this is native SRv6 on a private network, with routers that the settings name, and with nobody by default:
  docs/kernel.md says what is and what is not authenticated there.

All packets of a path carry the same header at one hop, so what follows from it is worked out once and kept (`_plans`): decoding and
checking a list of three segments costs 8 us, looking the plan up by the header's bytes 0.1 us. A plan holds no session and no verdict
about a packet, so nothing can be poisoned; the map is cleared when it is full and when the members change.

Packets mostly come many at once, and those that follow each other are mostly of one path. So `process_batch` keeps what they share, a
lane, until another comes: session, onward hop, counters; and for the length of the batch what packets under one session share, and those
for one next node, so that packets of many paths in turn cost little more. What is left for each packet is written out in line in one
loop: of 3.8 us, 1.7 us are AES-GCM, opening and sealing, 0.4 us putting the packet together (docs/decisions.md says how this was
measured). `open_packet` and `seal_packet` do the same one at a time, for tests, tools and the ingress.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

import attrs
from cryptography.exceptions import InvalidTag

from srwan.errors import DecodeError, RemoteProtocolError, StaleRecord
from srwan.overlay.session import Session, Sessions
from srwan.overlay.session_keys import NONCE
from srwan.overlay.trains import Train, segments
from srwan.overlay.view import Role
from srwan.routing.kernel.border import NATIVE_LINK, NativeBorder
from srwan.routing.packet import (
    LINK_HEADER,
    LINK_HEADER_BYTES,
    LINK_MAGIC,
    PACKET_BYTES_MAX,
    PACKET_BYTES_MIN,
    PAYLOAD_AT_MAX,
    PAYLOAD_AT_MIN,
    TAG_BYTES,
    open_packet,
    seal_packet,
)
from srwan.routing.payload import Notice, NoticeReason
from srwan.routing.sid import LOCATOR_BYTES, Function, Sid, locator_of
from srwan.routing.srh import Srh
from srwan.routing.throttle import TagLimit
from srwan.routing.traffic import Drops, NeighbourTraffic, TagTable, TagTraffic
from srwan.types import NodeId, UdpAddress

__all__ = ["Delivered", "Forwarded", "NeedSession", "Relay"]

PLANS_MAX = 4096
"""Headers whose consequences are kept, about 1 KB each; a relay of 100 members sees some hundred."""
NEIGHBOURS_MAX = 1024
"""Neighbours with counters: a group has up to 100 members, the rest is room for churn."""
REFUSED_MAX = 64
"""Paths of a batch whose ingresses are told that they lead nowhere: a batch has so many packets."""
SESSION_ASK_S = 1.0
"""Least time between two requests for a session with one node, seconds: a handshake takes 2 round trips, below 1 s."""
DELIVERY_FUNCTIONS = frozenset({Function.END_APP, Function.END_STREAM})
"""Functions that end at this node whatever its roles."""
GATEWAY_FUNCTIONS = frozenset({Function.END_DT6, Function.END_DX4})
"""Functions that end at a node with Role.GATEWAY: IP packets for its TUN. Off by default."""

Forwarded: TypeAlias = tuple[bytes, UdpAddress]
"""A packet for the next node, and where to send it. A plain tuple, because it is made per packet: 0.3 us less than a class."""


class Delivered(NamedTuple):
    """A packet whose last segment is here: an authentic header, a payload still sealed."""

    neighbour: NodeId
    """Who sealed the link layer: the last relay, or the ingress itself."""
    srh: Srh
    """As received, segments_left = 0; the way it took."""
    path_tag: int
    payload: bytes
    rx_ns: int
    """Receive stamp, ns of our stamp clock."""


@attrs.frozen(slots=True)
class NeedSession:
    """A packet was dropped because no session with `node` is there; make one. Not said again for SESSION_ASK_S."""

    node: NodeId


class _Neighbour(NeighbourTraffic):
    __slots__ = ("locator",)

    def __init__(self, node: NodeId) -> None:
        super().__init__()
        self.locator = locator_of(node)


_Plan: TypeAlias = tuple[bytes | None, NodeId, bytes, Srh | None]
"""What follows from a header: the locator of the node that must have sent it (None at the first segment: any ingress), the next node, the
header as it leaves us (empty if it ends here), and the header itself if it ends here."""

Outbox: TypeAlias = dict[UdpAddress, list[bytes]]
"""Packets to send, by destination."""

_LINK_HEADER_IN = struct.Struct("<HHIQQ")
"""`packet.LINK_HEADER`, version and flags in one: flags are zero, so it is the version's value."""
_PAYLOAD_STARTS = frozenset(range(PAYLOAD_AT_MIN, PAYLOAD_AT_MAX + 1, 16))


def _unset(*_: object) -> Any:
    raise AssertionError("used before the first packet")


class _Inbound:
    """How packets under one session come in, for the length of a batch."""

    __slots__ = ("accept", "came_from", "decrypt", "is_fresh", "limit", "session", "source")

    def __init__(self, session: Session) -> None:
        key = session.link_open
        self.session = session
        self.is_fresh, self.accept, self.decrypt = key.window.is_fresh, key.window.accept, key.cipher.decrypt
        self.came_from: _Neighbour | None = None
        """Who they come from; None before the first of them was let in."""
        self.source: UdpAddress | None = None
        """Of the one that was let in last."""
        self.limit: TagLimit | None = None
        """Of some of them, which are slowed down."""


class _Hop:
    """How packets go on to one next node, for the length of a batch."""

    __slots__ = ("goes_to", "remote_index", "seal", "send", "take_counter")

    def __init__(self, link: Session, goes_to: _Neighbour, send: Callable[[bytes], None]) -> None:
        self.seal = link.link_seal.cipher.encrypt
        self.take_counter = link.link_seal.take_counter
        self.remote_index = link.remote_index
        self.goes_to = goes_to
        self.send = send


class _Ending:
    """What becomes of packets that do not go on, under a seal of ours, to a next node."""

    __slots__ = ("delivered", "divert", "next_node", "peer", "refusal")

    def __init__(self, peer: NodeId) -> None:
        self.peer = peer
        """Who sent them."""
        self.delivered: Srh | None = None
        """The header, if they end here."""
        self.divert: Callable[[bytes], None] | None = None
        """Takes their payload, if they leave in another form."""
        self.refusal = ""
        """Why they are dropped, if not for want of a session with `next_node`."""
        self.next_node: NodeId | None = None


_Lane: TypeAlias = tuple[bytes, _Hop | None, _Neighbour, TagTraffic | None, _Ending | None]
"""What packets that follow each other under one session, header, path tag and source share: the header as it leaves us and the hop, or an
empty one and, last, what becomes of them instead; between them where they are counted as come in and as relayed."""


def _count(came_from: _Neighbour, hop: _Hop | None, relayed: TagTraffic | None, packets: int, octets: int) -> None:
    came_from.packets_in += packets
    came_from.octets_in += octets
    if hop is not None:
        goes_to = hop.goes_to
        goes_to.packets_out += packets
        goes_to.octets_out += octets
    if relayed is not None:
        relayed.packets += packets
        relayed.octets += octets


class Relay:
    """Takes SR packets in and says what becomes of them.

    Args:
        node_id: this node.
        sessions: where its sessions are.
        roles: what it offers; Role.RELAY to forward.
        drops: where drops are counted.
    """

    def __init__(self, node_id: NodeId, sessions: Sessions, roles: Role, drops: Drops) -> None:
        self._node_id = node_id
        self._sessions = sessions
        self._by_index = sessions.by_index
        self._current = sessions.current
        self._drops = drops
        self._is_relay = Role.RELAY in roles
        self._ending = DELIVERY_FUNCTIONS | GATEWAY_FUNCTIONS if Role.GATEWAY in roles else DELIVERY_FUNCTIONS
        self._locator = locator_of(node_id)
        self._end = Sid.of(node_id, Function.END)
        self._nobody = _Neighbour(node_id)  # before the first packet of a batch; counts none
        self._members: dict[bytes, NodeId] = {}
        self._plans: dict[bytes, _Plan] = {}
        self._asked: dict[NodeId, float] = {}
        self._border: NativeBorder | None = None
        self._kernel_routers: frozenset[NodeId] = frozenset()
        self.neighbours: dict[NodeId, _Neighbour] = {}
        """Traffic by neighbour."""
        self.relayed: TagTable[TagTraffic] = TagTable(TagTraffic)
        """Packets sent on for others, by the neighbour they came from and path tag; octets of whole datagrams."""
        self.refused: dict[tuple[NodeId, int], Notice] = {}
        """Paths of packets that could not go on, by neighbour and path tag, at most REFUSED_MAX; its reader takes it away."""
        self.limits: dict[NodeId, TagLimit] = {}
        """Neighbours some of whose packets are carried at a low rate only."""
        self._now = 0.0  # of the batch

    def set_members(self, members: Mapping[bytes, NodeId]) -> None:
        """Replace the map from locator to node: whom packets may go to. Cost: O(members), and plans are made anew."""
        self._members = dict(members)
        self._plans.clear()
        living = set(self._members.values())
        self._asked = {node: at for node, at in self._asked.items() if node in living}

    def node_of(self, sid: Sid) -> NodeId | None:
        """Return the member that owns a SID, or None."""
        return self._members.get(sid.locator)

    def drop_peer(self, node: NodeId) -> None:
        """Forget a node's counters, as when it left. Unknown nodes are fine."""
        self.neighbours.pop(node, None)
        self.relayed.drop_owner(node)
        self.limits.pop(node, None)

    def process(self, data: bytes, source: UdpAddress, rx_ns: int, now: float) -> Forwarded | Delivered | NeedSession | None:
        """Take one SR packet: `process_batch` of one, for tests and tools.

        Returns:
            What to send, what was delivered, or which session to make; None if the packet was dropped.
        """
        outbox: Outbox = {}
        arrived: list[Delivered] = []
        needed = self.process_batch(((data, len(data) or 1, source, rx_ns),), now, outbox, arrived)
        for destination, packets in outbox.items():
            return packets[0], destination
        return arrived[0] if arrived else needed[0] if needed else None

    def process_batch(  # noqa: PLR0915 -- one loop written out in line; see the module's header
        self, trains: Iterable[Train], now: float, outbox: Outbox, arrived: list[Delivered]
    ) -> list[NeedSession]:
        """Take SR packets.

        Args:
            trains: of them, in order of arrival; receive stamps in ns of the stamp clock.
            now: monotonic seconds.
            outbox: gets what is to be sent, by destination; packets for one destination in the order in which they came.
            arrived: gets the packets that end here.

        Returns:
            Which sessions to make. Packets that are neither sent on nor delivered are dropped and counted.

        Cost: 3.8 us for a packet sent on like the one before it, 1.4 us more for one of another path; nearly independent of its size.
        """
        needed: list[NeedSession] = []
        hops: dict[NodeId, _Hop] = {}
        inbounds: dict[int, _Inbound] = {}
        self._now = now
        came_from = self._nobody
        hop: _Hop | None = None
        relayed: TagTraffic | None = None
        onward, remote_index, packets, octets, index_held, tag_held, srh_held, source_held = b"", 0, 0, 0, -1, -1, b"", ("", 0)
        seal: Callable[[bytes, bytes, bytes], bytes] = _unset
        take_counter: Callable[[], int] = _unset
        send: Callable[[bytes], None] = _unset
        pack_header, unpack_header, pack_nonce = LINK_HEADER.pack, _LINK_HEADER_IN.unpack_from, NONCE.pack
        inbound: _Inbound | None = None
        ending: _Ending | None = None
        is_fresh: Callable[[int], bool] = _unset
        accept: Callable[[int], bool] = _unset
        decrypt: Callable[[bytes, bytes, bytes], bytes] = _unset
        for data, at, end, source, rx_ns in segments(trains):
            try:
                if end - at < PACKET_BYTES_MIN:
                    open_packet(self._by_index, data[at:end])  # raises what is wrong
                magic, length, index, counter, path_tag = unpack_header(data, at)
                payload_at = end - length
                if magic != LINK_MAGIC or payload_at - at not in _PAYLOAD_STARTS or end - at > PACKET_BYTES_MAX:
                    open_packet(self._by_index, data[at:end])
                if index != index_held:
                    index_held = tag_held = -1
                    inbound = inbounds.get(index) or self._meet(index, inbounds)
                    is_fresh, accept, decrypt = inbound.is_fresh, inbound.accept, inbound.decrypt
                    index_held = index
                if not is_fresh(counter):
                    raise StaleRecord("replayed SR packet", reason="replay")
                srh = decrypt(pack_nonce(counter), data[at + LINK_HEADER_BYTES : payload_at], data[at : at + LINK_HEADER_BYTES])
            except (InvalidTag, RemoteProtocolError) as error:
                self._drops.count(error.reason if isinstance(error, RemoteProtocolError) else "auth", None, source)
                continue
            accept(counter)
            if path_tag != tag_held or srh != srh_held or source != source_held:
                _count(came_from, hop, relayed, packets, octets)
                assert inbound is not None
                onward, hop, came_from, relayed, ending = self._enter(inbound, srh, counter, path_tag, source, hops, outbox)
                if hop is not None:
                    remote_index, seal, take_counter, send = hop.remote_index, hop.seal, hop.take_counter, hop.send
                tag_held, srh_held, source_held, packets, octets = path_tag, srh, source, 0, 0
            packets += 1
            octets += end - at
            if onward:
                counter = take_counter()
                header = pack_header(LINK_MAGIC, 0, length, remote_index, counter, path_tag)
                send(header + seal(pack_nonce(counter), onward, header) + data[payload_at:end])
            elif ending is not None and ending.delivered is not None:
                arrived.append(Delivered(ending.peer, ending.delivered, path_tag, data[payload_at:end], rx_ns))
            else:
                needed += self._divert(ending, data[payload_at:end], source, now)
        _count(came_from, hop, relayed, packets, octets)
        return needed

    def set_border(self, border: NativeBorder | None) -> None:
        """Speak native SRv6 with the routers that `border` names, and with nobody else; None: with nobody."""
        self._border = border
        self._kernel_routers = frozenset() if border is None else border.routers

    def process_native(self, data: bytes, rx_ns: int, now: float) -> Forwarded | Delivered | NeedSession | None:
        """Take one native SRv6 packet, which no link authenticates; as `process`, but counted for no neighbour.

        It is refused ("native-peer") unless `set_border` named both the router that put it into this form and the kernel router before
        us. What it carries is sealed end to end as ever.
        """
        border = self._border
        try:
            if border is None:
                raise DecodeError("native SRv6 is spoken with configured routers only", reason="native-peer")
            packet = border.open(data)
            _, next_node, onward, delivered = self._plans.get(packet.srh) or self._make_plan(packet.srh)
        except RemoteProtocolError as error:
            self._drops.count(error.reason)
            return None
        if delivered is not None:
            return Delivered(border.router_before(packet.srh), delivered, packet.path_tag, packet.payload, rx_ns)
        return self.send(next_node, onward, packet.path_tag, packet.payload, now)

    def send(self, node: NodeId, srh: bytes, path_tag: int, payload: bytes, now: float) -> Forwarded | NeedSession | None:
        """Seal a packet for a neighbour and count it.

        Args:
            node: the node of the active segment.
            srh: encoded header.
            path_tag: the path's.
            payload: sealed payload.
            now: monotonic seconds.

        Returns:
            What to send, or which session to make; None if that was asked lately. Without a session the packet is counted as dropped.

        Raises:
            ValueError: the packet would be too long; a packet that came in never is.
        """
        return self.seal(node, srh, path_tag, payload) or self.need_session(node, now)

    def seal(self, node: NodeId, srh: bytes, path_tag: int, payload: bytes) -> Forwarded | None:
        """As `send`; without a session the packet is counted as dropped and `need_session` says whether to ask for one. Cost: 2 us."""
        if node in self._kernel_routers and srh[3] and self._border is not None:
            return self._border.build(srh, path_tag, payload), NATIVE_LINK
        link = self._current(node)
        if link is None or (address := link.address) is None:  # without an address: a session made over relays
            self._drops.count("no-session", node)
            return None
        packet = seal_packet(link, srh, path_tag, payload)
        neighbour = self.neighbours.get(node) or self._admit(node)
        neighbour.packets_out += 1
        neighbour.octets_out += len(packet)
        return packet, address

    def need_session(self, node: NodeId, now: float) -> NeedSession | None:
        """Return a request for a session, unless one was made less than SESSION_ASK_S ago."""
        asked_at = self._asked.get(node)
        if asked_at is not None and 0.0 <= now - asked_at < SESSION_ASK_S:
            return None
        self._asked[node] = now
        return NeedSession(node)

    def _meet(self, index: int, inbounds: dict[int, _Inbound]) -> _Inbound:
        """Find the session that a packet names.

        Raises:
            DecodeError: "session".
        """
        session = self._by_index(index)
        if session is None:
            raise DecodeError("SR packet for a session that is not there", reason="session")
        inbound = inbounds[index] = _Inbound(session)
        return inbound

    def _let_in(self, inbound: _Inbound, counter: int, source: UdpAddress) -> _Neighbour:
        """Note where authentic packets under a session come from now, and from whom."""
        session = inbound.session
        if session.address != source:
            session.moved_to(source, counter)
        if not session.is_confirmed:
            self._sessions.confirm(session)
        peer = session.peer
        inbound.source, inbound.limit = source, self.limits.get(peer)
        inbound.came_from = came_from = self.neighbours.get(peer) or self._admit(peer)
        return came_from

    def _enter(
        self, inbound: _Inbound, srh: bytes, counter: int, path_tag: int, source: UdpAddress, hops: dict[NodeId, _Hop], outbox: Outbox
    ) -> _Lane:
        """Work out what becomes of an authentic packet and those like it that follow. Cost: 0.7 us for a hop in `hops`."""
        came_from = inbound.came_from
        if came_from is None or inbound.source != source:
            came_from = self._let_in(inbound, counter, source)
        peer = inbound.session.peer
        plan = self._plans.get(srh)
        if plan is None:
            try:
                plan = self._make_plan(srh)
            except RemoteProtocolError as error:
                return self._refusing(came_from, peer, srh, path_tag, error.reason)
        previous, next_node, onward, delivered = plan
        if previous is not None and previous != came_from.locator:
            return self._refusing(came_from, peer, srh, path_tag, "srh-previous")
        if onward:
            limit = inbound.limit
            if limit is not None and limit.covers(path_tag) and self._current(next_node) is not None:
                return self._slow_down(came_from, peer, onward, next_node, path_tag, limit, outbox)
            hop = hops.get(next_node)
            if hop is not None:
                return onward, hop, came_from, self.relayed.touch(peer, path_tag), None
            return self._lead_on(came_from, peer, onward, next_node, path_tag, hops, outbox)
        ending = _Ending(peer)
        ending.delivered = delivered
        return b"", None, came_from, None, ending

    def _lead_on(
        self, came_from: _Neighbour, peer: NodeId, onward: bytes, node: NodeId, path_tag: int, hops: dict[NodeId, _Hop], outbox: Outbox
    ) -> _Lane:
        """Make the hop to the next node; without a session with it packets are refused."""
        if node in self._kernel_routers and onward[3] and self._border is not None:
            build, packets, ending = self._border.build, outbox.setdefault(NATIVE_LINK, []), _Ending(peer)
            ending.divert = lambda payload: packets.append(build(onward, path_tag, payload))
            return b"", None, came_from, self.relayed.touch(peer, path_tag), ending
        link = self._current(node)
        if link is None or (address := link.address) is None:  # without an address: a session made over relays
            self._note_refused(peer, path_tag, NoticeReason.NO_SESSION, locator_of(node))
            ending = _Ending(peer)
            ending.next_node = node
            return b"", None, came_from, None, ending
        hop = hops[node] = _Hop(link, self.neighbours.get(node) or self._admit(node), outbox.setdefault(address, []).append)
        return onward, hop, came_from, self.relayed.touch(peer, path_tag), None

    def _slow_down(
        self, came_from: _Neighbour, peer: NodeId, onward: bytes, node: NodeId, path_tag: int, limit: TagLimit, outbox: Outbox
    ) -> _Lane:
        """Send on what the limit lets through and drop the rest."""
        ending, relayed = _Ending(peer), self.relayed.touch(peer, path_tag)

        def pass_on(payload: bytes) -> None:
            if not limit.take(LINK_HEADER_BYTES + len(onward) + TAG_BYTES + len(payload), self._now):
                self._drops.count("throttled", peer)
                return
            sent = self.seal(node, onward, path_tag, payload)
            if sent is not None:
                outbox.setdefault(sent[1], []).append(sent[0])
                relayed.packets += 1
                relayed.octets += len(sent[0])

        ending.divert = pass_on
        return b"", None, came_from, None, ending

    def _refusing(self, came_from: _Neighbour, peer: NodeId, srh: bytes, path_tag: int, reason: str) -> _Lane:
        if reason == "next-hop-unknown":
            self._note_refused(peer, path_tag, NoticeReason.NO_MEMBER, Srh.decode(srh).advanced().active.locator)
        ending = _Ending(peer)
        ending.refusal = reason
        return b"", None, came_from, None, ending

    def _note_refused(self, neighbour: NodeId, path_tag: int, reason: NoticeReason, locator: bytes) -> None:
        if len(self.refused) < REFUSED_MAX:
            self.refused[neighbour, path_tag] = Notice(reason, locator)

    def _divert(self, ending: _Ending | None, payload: bytes, source: UdpAddress, now: float) -> list[NeedSession]:
        """Send a packet on in another form, or count one that leads nowhere."""
        assert ending is not None, "set where there is no hop"
        if ending.divert is not None:
            ending.divert(payload)
            return []
        if ending.next_node is None:
            self._drops.count(ending.refusal, ending.peer, source)
            return []
        self._drops.count("no-session", ending.next_node)
        needed = self.need_session(ending.next_node, now)
        return [] if needed is None else [needed]

    def _admit(self, node: NodeId) -> _Neighbour:
        """Make a neighbour's counters; when there are too many, the oldest that is no member goes."""
        if len(self.neighbours) >= NEIGHBOURS_MAX:
            living = set(self._members.values())
            victim = next((old for old in self.neighbours if old not in living), next(iter(self.neighbours)))
            del self.neighbours[victim]
        neighbour = self.neighbours[node] = _Neighbour(node)
        return neighbour

    def _make_plan(self, data: bytes) -> _Plan:
        """Work out what follows from a header.

        Raises:
            DecodeError: as `Srh.decode`; "not-mine", "no-role", "next-hop-unknown".
        """
        srh = Srh.decode(data)
        at = len(srh.segments) - 1 - srh.segments_left
        active = srh.segments[at]
        previous = srh.segments[at - 1][:LOCATOR_BYTES] if at else None
        if active.locator != self._locator:
            raise DecodeError(f"segment {active} is not ours", reason="not-mine")
        if srh.segments_left == 0:
            if active.function not in self._ending:
                raise DecodeError(f"function {active.function:#x} does not end here", reason="not-mine")
            plan: _Plan = (previous, self._node_id, b"", srh)
        else:
            if active != self._end:
                raise DecodeError(f"function {active.function:#x} does not go on", reason="not-mine")
            if not self._is_relay:
                raise DecodeError("this node is no relay", reason="no-role")
            next_node = self._members.get(srh.segments[at + 1][:LOCATOR_BYTES])
            if next_node is None:
                raise DecodeError(f"segment {srh.segments[at + 1]} is of no member", reason="next-hop-unknown")
            plan = (previous, next_node, srh.advanced().encode(), None)
        if len(self._plans) >= PLANS_MAX:
            self._plans.clear()
        self._plans[data] = plan
        return plan
