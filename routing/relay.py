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

All packets of a path carry the same header at one hop, so what follows from it is worked out once and kept (`_plans`): decoding and
checking a list of three segments costs 8 us, looking the plan up by the header's bytes 0.1 us. A plan holds no session and no verdict
about a packet, so nothing can be poisoned; the map is cleared when it is full and when the members change.

Of the 5 us that a packet costs here, 1.5 us are AES-GCM and 0.4 us the replay window. Writing `open_packet` and `seal_packet` out in
line was measured to save 0.2 us (4 %), so they stay functions that tests and tools share.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

import attrs

from srwan.errors import DecodeError, RemoteProtocolError
from srwan.overlay.session import Sessions
from srwan.overlay.view import Role
from srwan.routing.packet import open_packet, seal_packet
from srwan.routing.sid import LOCATOR_BYTES, Function, Sid, locator_of
from srwan.routing.srh import Srh
from srwan.routing.traffic import Drops, NeighbourTraffic, TagTable, TagTraffic
from srwan.types import NodeId, UdpAddress

__all__ = ["Delivered", "Forwarded", "NeedSession", "Relay"]

PLANS_MAX = 4096
"""Headers whose consequences are kept, about 1 KB each; a relay of 100 members sees some hundred."""
NEIGHBOURS_MAX = 1024
"""Neighbours with counters: a group has up to 100 members, the rest is room for churn."""
SESSION_ASK_S = 1.0
"""Least time between two requests for a session with one node, seconds: a handshake takes 2 round trips, below 1 s."""
DELIVERY_FUNCTIONS = frozenset({Function.END_APP, Function.END_STREAM})
"""Functions that end at this node whatever its roles. Egress to other networks (END_DX4, ...) is not among them: off by default."""

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
header as it leaves us, and the header itself if it ends here."""


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
        self._locator = locator_of(node_id)
        self._end = Sid.of(node_id, Function.END)
        self._members: dict[bytes, NodeId] = {}
        self._plans: dict[bytes, _Plan] = {}
        self._asked: dict[NodeId, float] = {}
        self.neighbours: dict[NodeId, _Neighbour] = {}
        """Traffic by neighbour."""
        self.relayed: TagTable[TagTraffic] = TagTable(TagTraffic)
        """Packets sent on for others, by the neighbour they came from and path tag; octets of whole datagrams."""

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

    def process(self, data: bytes, source: UdpAddress, rx_ns: int, now: float) -> Forwarded | Delivered | NeedSession | None:
        """Take one SR packet.

        Args:
            data: the datagram.
            source: where it came from.
            rx_ns: its receive stamp, ns of the stamp clock.
            now: monotonic seconds.

        Returns:
            What to send, what was delivered, which session to make; None if the packet was dropped. Dropped packets are counted.

        Cost: 5 us for a packet sent on, nearly independent of its size.
        """
        peer: NodeId | None = None
        try:
            session, srh, path_tag, payload_at = open_packet(self._by_index, data)
            peer = session.peer
            if session.address != source:
                session.moved_to(source)
            if not session.is_confirmed:
                self._sessions.confirm(session)
            neighbour = self.neighbours.get(peer) or self._admit(peer)
            octets = len(data)
            neighbour.packets_in += 1
            neighbour.octets_in += octets
            previous, next_node, onward, delivered = self._plans.get(srh) or self._make_plan(srh)
            if previous is not None and previous != neighbour.locator:
                raise DecodeError("the segment before ours is not who sent it", reason="srh-previous")
        except RemoteProtocolError as error:
            self._drops.count(error.reason, peer, source)
            return None
        if delivered is not None:
            return Delivered(peer, delivered, path_tag, data[payload_at:], rx_ns)
        sent = self.send(next_node, onward, path_tag, data[payload_at:], now)
        if isinstance(sent, tuple):
            traffic = self.relayed.touch(peer, path_tag)
            traffic.packets += 1
            traffic.octets += octets
        return sent

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
        link = self._current(node)
        if link is None:
            self._drops.count("no-session", node)
            return self.need_session(node, now)
        packet = seal_packet(link, srh, path_tag, payload)
        neighbour = self.neighbours.get(node) or self._admit(node)
        neighbour.packets_out += 1
        neighbour.octets_out += len(packet)
        return packet, link.address

    def need_session(self, node: NodeId, now: float) -> NeedSession | None:
        """Return a request for a session, unless one was made less than SESSION_ASK_S ago."""
        asked_at = self._asked.get(node)
        if asked_at is not None and 0.0 <= now - asked_at < SESSION_ASK_S:
            return None
        self._asked[node] = now
        return NeedSession(node)

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
            if active.function not in DELIVERY_FUNCTIONS:
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
