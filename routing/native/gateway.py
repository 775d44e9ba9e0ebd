"""The gateway's packets in C: keeps the plane's tables of networks, lanes and receptions, and reads what went through them. A core.

A lane is the flow of one traffic class to one peer with the path that its packets take; it is set anew whenever the path changes, and a
lane without a path leaves its packets to Python. A reception is a path tag of a peer whose packets the plane writes to the TUN. Both are
made when Python has seen and judged a first packet (gateway.h says what goes up), so all bounds and refusals stay where they are.

What the plane sent becomes `DataSent`, in the order of sending, for who watches paths; what it received is added to the egress's own
`PathReception`, so answers, statistics and accounting read the same counters whoever took a packet.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence

import attrs

from srwan.errors import LimitExceeded
from srwan.routing.egress import AckDue, Egress, EgressOutcome, FlowInbox
from srwan.routing.forwarder import DataSent, GatewayReading, PrefixOwner
from srwan.routing.native._core import Plane
from srwan.routing.native.tables import NativeTables
from srwan.routing.payload import TUNNEL_FLOW_MIN
from srwan.routing.sid import Sid
from srwan.routing.traffic import TagTable, TagTraffic, TrafficCount
from srwan.types import NodeId

__all__ = ["NativeGateway"]

PACKETS_PER_BATCH_MAX = 256
"""Packets of the TUN taken from the plane at once."""
SENT_MAX = 65_536
"""Moments of sending that wait for a reader; one for each lane and 10 ms. Beyond it the oldest go, and paths are watched less well."""
IDLE_NS = 60_000_000_000
"""A path tag on which nothing came for so long is served by Python again, until its next packet."""
_MICRO = 1e-9


@attrs.define(slots=True)
class _Lane:
    """What a lane was told last."""

    number: int
    flow: int
    paths: tuple[tuple[Sid, ...], tuple[Sid, ...]] | None
    path_tag: int
    told: object = None


class NativeGateway:
    """See the module's header.

    Args:
        plane: whose tables.
        tables: numbers of peers.
        egress: takes what comes up, and answers.
        sent: DATA sent by peer and path tag.
        find_route: returns the first node and the SRH of a path to a peer, or None if the plane cannot send by it.
        read_shifts: returns what makes CLOCK_MONOTONIC, and CLOCK_REALTIME, the clock of payloads' stamps, ns.
    """

    def __init__(
        self,
        plane: Plane,
        tables: NativeTables,
        egress: Egress,
        sent: TagTable[TagTraffic],
        *,
        find_route: Callable[[tuple[Sid, ...], NodeId], tuple[NodeId, bytes] | None],
        read_shifts: Callable[[], tuple[int, int]],
    ) -> None:
        self._plane = plane
        self._tables = tables
        self._egress = egress
        self._sent_by_tag = sent
        self._find_route = find_route
        self._read_shifts = read_shifts
        self._rx_shift_ns = 0
        self._lanes: dict[tuple[NodeId, int], _Lane] = {}
        self._receptions: dict[tuple[int, int], None] = {}
        self._owners: frozenset[NodeId] = frozenset()
        self._networks: tuple[Sequence[PrefixOwner], Sequence[PrefixOwner], int, bytes] | None = None
        self._sent: deque[DataSent] = deque(maxlen=SENT_MAX)
        self._newest_ns = 0
        self.is_open = False
        """Whether the plane reads and writes a TUN."""

    # --- the TUN ----------------------------------------------------------------------------------------------------

    def open(self, descriptor: int, *, has_udp: bool) -> None:
        """Have the plane read and write a TUN; see `TunPlane.open`."""
        self._shift()
        self._plane.open_tun(descriptor, has_udp)
        self.is_open = True

    def close(self) -> None:
        """Have the plane leave the TUN alone. Closing again does nothing."""
        if self.is_open:
            self.is_open = False
            self._plane.close_tun()

    def take_packets(self) -> list[bytes]:
        """Return IP packets of the TUN that the plane leaves to Python, in order of arrival."""
        return self._plane.take_packets(PACKETS_PER_BATCH_MAX)

    @property
    def gone_errno(self) -> int:
        """Why the TUN cannot be read any more, an errno; 0 while it can."""
        return self._plane.tun_errno()

    # --- tables -----------------------------------------------------------------------------------------------------

    def set_networks(self, ours: Sequence[PrefixOwner], routes: Sequence[PrefixOwner], *, mtu_bytes: int, classes: bytes) -> None:
        """Replace what is ours and what lies behind whom; see `TunPlane.set_networks`."""
        self._networks = (ours, routes, mtu_bytes, classes)
        self._owners = frozenset(owner for _, _, owner in routes if owner is not None)
        self._plane.set_networks(
            [(address, bits, 1) for address, bits, _ in ours],
            [(address, bits, 0 if owner is None else self._tables.number_of(owner)) for address, bits, owner in routes],
            mtu_bytes,
            classes,
        )

    def set_lane(
        self, peer: NodeId, traffic_class: int, paths: tuple[tuple[Sid, ...], tuple[Sid, ...]] | None = None, path_tag: int = 0
    ) -> None:
        """Say which path packets take from now on; see `TunPlane.set_lane`."""
        lane = self._lanes.get((peer, traffic_class))
        if lane is None:
            lane = self._lanes[peer, traffic_class] = _Lane(self._tables.number_of(peer), TUNNEL_FLOW_MIN | traffic_class, paths, path_tag)
        elif lane.paths == paths and lane.path_tag == path_tag:
            return
        lane.paths, lane.path_tag = paths, path_tag
        self._tell(peer, traffic_class, lane)

    def remove_lane(self, peer: NodeId, traffic_class: int) -> None:
        """Forget a lane; its packets go up from now on."""
        lane = self._lanes.pop((peer, traffic_class), None)
        if lane is not None:
            self._note(self._plane.remove_lane(lane.number, traffic_class))

    def take_seqs(self, peer: NodeId, traffic_class: int, count: int) -> int:
        """Return the first of `count` sequence numbers of a lane's flow, for packets that Python sends."""
        return self._plane.take_seqs(self._lanes[peer, traffic_class].number, traffic_class, count)

    def refresh(self) -> None:
        """Work out anew what follows from members and ways to them."""
        for (peer, traffic_class), lane in self._lanes.items():
            self._tell(peer, traffic_class, lane)

    def _tell(self, peer: NodeId, traffic_class: int, lane: _Lane) -> None:
        """Show the plane a lane as it is now, if that is news."""
        first, headers = 0, (b"", b"")
        if lane.paths is not None:
            found = [self._find_route(path, peer) for path in lane.paths]
            if found[0] is not None and found[1] is not None:
                first, headers = self._tables.number_of(found[0][0]), (found[0][1], found[1][1])
        number = self._tables.number_of(peer)
        told = (number, first, headers, lane.path_tag)
        if told == lane.told:
            return
        if lane.number != number:  # the peer was forgotten and came again
            self._note(self._plane.remove_lane(lane.number, traffic_class))
            lane.number = number
        lane.told = told
        try:
            self._note(self._plane.set_lane(number, traffic_class, lane.flow, first, *headers, lane.path_tag))
        except ValueError as error:
            raise LimitExceeded(str(error), reason="lanes") from None

    def drop_peer(self, peer: NodeId, number: int | None) -> None:
        """Forget what came from a peer that left; its lanes end with their flows."""
        for key in [key for key in self._receptions if key[0] == number]:
            self._plane.remove_reception(*key)
            del self._receptions[key]
        if self._networks is not None and peer in self._owners:
            ours, routes, mtu_bytes, classes = self._networks
            left = [(address, bits, None if owner == peer else owner) for address, bits, owner in routes]
            self.set_networks(ours, left, mtu_bytes=mtu_bytes, classes=classes)

    # --- what went out ----------------------------------------------------------------------------------------------

    def take_sent(self, lane: tuple[NodeId, int] | None = None) -> Iterable[DataSent]:
        """Yield and forget what the plane sent until now; see `TunPlane.take_sent`. Cost: 1 us a lane and for each 10 ms of sending."""
        if lane is None:
            self.read_sent()
        elif lane in self._lanes:
            self._note(self._plane.read_lane(self._lanes[lane].number, lane[1]))
        while self._sent:
            yield self._sent.popleft()

    def read_sent(self) -> None:
        """Count what the plane sent until now."""
        self._shift()
        self._note(self._plane.read_lanes())

    def _note(self, moments: Sequence[tuple[int, int, int, int, int, int, int]]) -> None:
        for number, traffic_class, path_tag, at_ns, packets, octets, seq in moments:
            peer = self._tables.node_of.get(number)
            if peer is None:
                continue
            traffic = self._sent_by_tag.touch(peer, path_tag)
            traffic.packets += packets
            traffic.octets += octets
            self._sent.append(DataSent(peer, traffic_class, path_tag, at_ns * _MICRO, packets, octets, seq))

    def _shift(self) -> None:
        """Let the plane stamp by the clock as it is now: it moves seldom, when a group agrees anew on its time or the wall clock steps."""
        shifts = self._read_shifts()
        self._rx_shift_ns = shifts[1]
        self._plane.set_shifts(*shifts)

    # --- what came --------------------------------------------------------------------------------------------------

    def add_received(self, sender: NodeId, path_tag: int, counts: tuple[int, int, int, int, int]) -> None:
        """Add what the plane took on a path tag."""
        if counts[0]:
            self._egress.receptions.touch(sender, path_tag).take_counts(*counts)

    def serve(self, sender: NodeId, path_tag: int, outcome: EgressOutcome | None, rx_ns: int) -> None:
        """Have the plane take further packets like one that Python took just now, and answer them as was asked for.

        Args:
            sender: who sealed it.
            path_tag: of the packet.
            outcome: what the egress made of it.
            rx_ns: its receive stamp, CLOCK_REALTIME.
        """
        if not self.is_open or sender not in self._owners:
            return
        key = (self._tables.number_of(sender), path_tag)
        if not isinstance(outcome, AckDue) and (
            not isinstance(outcome, FlowInbox) or outcome.flow < TUNNEL_FLOW_MIN or key in self._receptions
        ):
            return
        reception = self._egress.receptions.peek(sender, path_tag)
        if reception is not None:
            answered_ns = reception.answered_ns - self._rx_shift_ns if reception.answered_ns else 0
            if self._plane.set_reception(*key, reception.answer_ns, answered_ns, rx_ns):
                self._receptions[key] = None

    def read_received(self) -> None:
        """Add all that came until now, and have Python serve again what was idle. Cost: 1 us a path tag."""
        if not self._receptions:
            return
        readings = self._plane.read_receptions()
        self._newest_ns = max(self._newest_ns, *(used_ns for _, _, used_ns, _ in readings), 0)
        for number, path_tag, used_ns, counts in readings:
            peer = self._tables.node_of.get(number)
            if peer is not None:
                self.add_received(peer, path_tag, counts)
            if self._newest_ns - used_ns > IDLE_NS:
                rest = self._plane.remove_reception(number, path_tag)
                self._receptions.pop((number, path_tag), None)
                if rest is not None and peer is not None:
                    self.add_received(peer, path_tag, rest)

    def reading(self) -> GatewayReading:
        """Return what went through the plane so far."""
        sent, taken, lost, errors = self._plane.gateway_counters()
        return GatewayReading(
            TrafficCount(*sent),
            TrafficCount(*taken),
            {word: count for word, count in zip(("queue-full", "not-sealed", "tun-header"), lost, strict=True) if count},
            dict(errors),
        )
