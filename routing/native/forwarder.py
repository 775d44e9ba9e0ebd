"""`Forwarder` with the fast path in C: a PortableForwarder that is handed only what the native plane leaves to it. A core.

The plane opens, judges and sends on SR packets, and opens payloads that end here; they come out of it with notes of what else happened
and are read after each batch. Packets that need a decision of Python (no session with the next hop, handshakes over relays, kernel
routers, functions it does not know) come up untouched, and what the portable plane does with them is done here as well. Sending from here
is the portable plane's too, with counters of the native one; `send_payloads` seals and sends many at once in C.

Two ways to run. With a thread: the plane has the sockets, and `receive_batch` gets only what it passed up. Without: over any transport, as
in tests and emulated networks, `receive_batch` takes each packet through the plane here and now.

What both planes counted is added up, so readings are the same whoever counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

from srwan.overlay.session import Sessions
from srwan.overlay.trains import Train, segments
from srwan.overlay.view import Role
from srwan.routing.forwarder import Counters, ForwarderEvent
from srwan.routing.kernel.border import NativeBorder
from srwan.routing.native._core import CONFIRMED, DROPPED, MOVED, OPENED, RECEIVED, SEAL_BATCH_MAX, Plane
from srwan.routing.native.gateway import NativeGateway
from srwan.routing.native.tables import NativeTables
from srwan.routing.payload import PAYLOAD_HEADER_BYTES, PayloadKind, raw_latency_ns
from srwan.routing.portable import PortableForwarder
from srwan.routing.relay import DELIVERY_FUNCTIONS, GATEWAY_FUNCTIONS, Delivered
from srwan.routing.sid import Sid
from srwan.routing.srh import Srh
from srwan.routing.traffic import TrafficCount
from srwan.types import NodeId, UdpAddress

__all__ = ["NativeForwarder"]

OPENED_PER_BATCH_MAX = 256
"""Payloads taken from the plane at once: 2 ms of Python; the rest waits for the next turn of the loop."""
LIMIT_TAGS_MAX = 4096
"""Path tags that a limit names (plane.h); those beyond are throttled, or not, as if not named."""
HEADERS_KEPT = 4096
"""Decoded segment lists of packets that ended here, one for each path to this node."""
NO_TRAFFIC = TrafficCount(0, 0)


class NativeForwarder(PortableForwarder):
    """See the module's header.

    Args:
        plane: of this node's locator, with no peers yet.
        node_id: this node.
        sessions: where its sessions are; there are none yet.
        roles: as for `PortableForwarder`, and so are the next three.
        send: hands a datagram to the network.
        read_stamp_ns: the stamp clock.
        send_many: as `send` for several.
        convert_ns: makes stamps of the payloads' clock of the plane's receive stamps (CLOCK_REALTIME), if the plane has a thread; None: it
            has none.
        read_shifts: what makes CLOCK_MONOTONIC, and CLOCK_REALTIME, the payloads' clock, ns; None: the plane reads no TUN.

    Raises:
        LocalProtocolError: there are sessions already.
    """

    name = "native"

    def __init__(
        self,
        plane: Plane,
        node_id: NodeId,
        sessions: Sessions,
        *,
        roles: Role,
        send: Callable[[bytes, UdpAddress], None],
        read_stamp_ns: Callable[[], int],
        send_many: Callable[[Sequence[bytes], UdpAddress], None] | None = None,
        convert_ns: Callable[[int], int] | None = None,
        read_shifts: Callable[[], tuple[int, int]] | None = None,
    ) -> None:
        super().__init__(node_id, sessions, roles=roles, send=send, read_stamp_ns=read_stamp_ns, send_many=send_many)
        self._plane = plane
        self._sessions = sessions
        self._convert_ns = convert_ns
        self._tables = NativeTables(plane)
        self._headers: dict[bytes, Srh] = {}
        self._upward: frozenset[NodeId] = frozenset()
        ending = DELIVERY_FUNCTIONS | GATEWAY_FUNCTIONS if Role.GATEWAY in roles else DELIVERY_FUNCTIONS
        self._gateway: NativeGateway | None = None
        if read_shifts is not None and Role.GATEWAY in roles:
            self._gateway = self.tun_plane = NativeGateway(
                plane, self._tables, self._egress, self._sent, find_route=self._find_lane_route, read_shifts=read_shifts
            )
        plane.set_role(Role.RELAY in roles, sorted(ending))
        sessions.observe(self._tables)

    # --- tables -----------------------------------------------------------------------------------------------------

    def set_members(self, members: Mapping[bytes, NodeId]) -> None:
        """Replace the map from locator to node; see `Forwarder.set_members`."""
        super().set_members(members)
        self._tables.set_members(members.values(), self._upward)
        if self._gateway is not None:
            self._gateway.refresh()

    def set_border(self, border: NativeBorder, send_native: Callable[[bytes], None]) -> None:
        """As `PortableForwarder.set_border`; packets for kernel routers come up."""
        super().set_border(border, send_native)
        self._upward = border.routers
        self._tables.set_upward(self._upward)
        if self._gateway is not None:
            self._gateway.refresh()

    def drop_peer(self, peer: NodeId) -> None:
        """Forget a peer's flows and statistics; see `Forwarder.drop_peer`."""
        if self._gateway is not None:
            self._gateway.drop_peer(peer, self._tables.known_number(peer))
        super().drop_peer(peer)
        self._tables.drop_peer(peer)

    def throttle(self, neighbour: NodeId, tags: frozenset[int], *, is_exempt: bool, octets_per_s: int) -> None:
        """Carry some of a neighbour's packets at a low rate only; see `Forwarder.throttle`."""
        super().throttle(neighbour, tags, is_exempt=is_exempt, octets_per_s=octets_per_s)
        self._plane.set_limit(self._tables.number_of(neighbour), octets_per_s, is_exempt, sorted(tags)[:LIMIT_TAGS_MAX])

    # --- in ---------------------------------------------------------------------------------------------------------

    def receive_batch(self, trains: Sequence[Train]) -> None:
        """Take datagrams of the data plane; see `Forwarder.receive_batch`."""
        if self._convert_ns is not None:
            super().receive_batch(trains)
            return
        outbox: dict[UdpAddress, list[bytes]] = {}
        upward: list[Train] = []
        process = self._plane.process
        for data, at, end, source, rx_ns in segments(trains):
            datagram = data[at:end]
            outcome = process(datagram, source, rx_ns)
            if isinstance(outcome, tuple):
                outbox.setdefault(outcome[1], []).append(outcome[0])
            elif not outcome:
                upward.append((datagram, len(datagram) or 1, source, rx_ns))
        for destination, packets in outbox.items():
            self._send_all(packets, destination)
        self._take_opened()
        super().receive_batch(upward)

    def next_event(self) -> ForwarderEvent | None:
        """Return the next event, or None."""
        self._take_opened()
        return super().next_event()

    def _take_opened(self) -> None:
        """Act on what the plane opened and noted, up to a batch of it."""
        if not self._plane.has_opened():
            return
        shift_ns: int | None = None
        for kind, *rest in self._plane.take_opened(OPENED_PER_BATCH_MAX):
            if kind == OPENED:
                neighbour, sender, path_tag, rx_ns, srh, plaintext = cast("tuple[int, int, int, int, bytes, bytes]", tuple(rest))
                if shift_ns is None:  # the same for all of a batch
                    shift_ns = 0 if self._convert_ns is None else self._convert_ns(rx_ns) - rx_ns
                self._deliver_opened(neighbour, sender, path_tag, rx_ns, shift_ns, srh, plaintext)
            elif kind == RECEIVED:
                self._take_received(rest)
            else:
                self._note(kind, rest)

    def _deliver_opened(self, neighbour: int, sender: int, path_tag: int, rx_ns: int, shift_ns: int, srh: bytes, plaintext: bytes) -> None:
        from_node, by_node = self._tables.node_of.get(neighbour), self._tables.node_of.get(sender)
        if from_node is None or by_node is None:  # has gone since
            self._drops.count("payload-session")
            return
        delivered = Delivered(from_node, self._header_of(srh), path_tag, b"", rx_ns + shift_ns)
        outcome = self._egress.receive_opened(by_node, plaintext, delivered)
        if self._gateway is not None:
            self._gateway.serve(by_node, path_tag, outcome, rx_ns)
        self._settle(outcome)

    def _header_of(self, srh: bytes) -> Srh:
        header = self._headers.get(srh)
        if header is None:
            if len(self._headers) >= HEADERS_KEPT:
                self._headers.clear()
            header = self._headers[srh] = Srh.decode(srh)
        return header

    def _take_received(self, rest: list[object]) -> None:
        """Count what the plane took for the gateway, and answer the last packet of it if that is due."""
        neighbour, sender, path_tag, counts, srh, seq, tx_ns, rx_ns = cast(
            "tuple[int, int, int, tuple[int, int, int, int, int], bytes, int, int, int]", tuple(rest)
        )
        from_node, by_node = self._tables.node_of.get(neighbour), self._tables.node_of.get(sender)
        if self._gateway is None or from_node is None or by_node is None:
            return
        self._gateway.add_received(by_node, path_tag, counts)
        if srh:
            group_ns = rx_ns if self._convert_ns is None else self._convert_ns(rx_ns)
            delivered = Delivered(from_node, self._header_of(srh), path_tag, b"", group_ns)
            reception = self._egress.receptions.touch(by_node, path_tag)
            self._egress.answer_data(by_node, seq, delivered, reception, raw_latency_ns(group_ns, tx_ns))
            self._settle(None)

    def _note(self, kind: int, rest: list[object]) -> None:
        if kind == DROPPED:
            number, reason, source = cast("tuple[int, str, UdpAddress]", tuple(rest))
            self._drops.note(reason, self._tables.node_of.get(number), source)
            return
        session = self._sessions.by_index(cast("int", rest[0]))
        if session is None:
            return
        if kind == CONFIRMED:
            self._sessions.confirm(session)
        elif kind == MOVED:
            self._tables.move(session, cast("UdpAddress", rest[1]))

    # --- out --------------------------------------------------------------------------------------------------------

    def send_payloads(self, path: Sequence[Sid], path_tag: int, peer: NodeId, plaintexts: Sequence[bytes]) -> int:
        """Send several payloads along a path, sealed and handed to the kernel as trains in C; see `Forwarder.send_payloads`.

        Cost: 0.6 us a payload of 1,200 B and what the kernel takes for a train.
        """
        path = tuple(path)
        route = self._routes.get(path)
        if route is None or route.peer != peer:
            route = self._find_route(path, peer)
        if route is None or route.first in self._upward:
            return super().send_payloads(path, path_tag, peer, plaintexts)
        first, egress, sent = self._tables.number_of(route.first), self._tables.number_of(peer), 0
        while sent < len(plaintexts):
            batch = list(plaintexts[sent : sent + SEAL_BATCH_MAX])
            count = self._send_batch(first, egress, route.srh, path_tag, batch)
            self._count_sent(peer, path_tag, batch[:count])
            sent += count
            if count < len(batch):  # a session is missing: let the portable part say which, count it, and ask for it
                return sent + super().send_payloads(path, path_tag, peer, plaintexts[sent : sent + 1])
        return sent

    def _send_batch(self, first: int, egress: int, srh: bytes, path_tag: int, batch: list[bytes]) -> int:
        if self._convert_ns is not None:
            return self._plane.send_batch(first, egress, srh, path_tag, batch)
        packets, destination = self._plane.seal_batch(first, egress, srh, path_tag, batch)
        if destination is not None:
            self._send_all(packets, destination)
        return len(packets)

    def _count_sent(self, peer: NodeId, path_tag: int, plaintexts: Sequence[bytes]) -> None:
        data = [len(plaintext) for plaintext in plaintexts if plaintext[0] == PayloadKind.DATA]
        if data:
            traffic = self._sent.touch(peer, path_tag)
            traffic.packets += len(data)
            traffic.octets += sum(data) - PAYLOAD_HEADER_BYTES * len(data)

    def _find_lane_route(self, path: tuple[Sid, ...], peer: NodeId) -> tuple[NodeId, bytes] | None:
        route = self._routes.get(path) or self._find_route(path, peer)
        return None if route is None or route.first in self._upward else (route.first, route.srh)

    def sent(self, peer: NodeId, path_tag: int) -> TrafficCount:
        """Return the DATA packets and octets of bodies sent to `peer` on a path tag so far."""
        if self._gateway is not None:
            self._gateway.read_sent()
        return super().sent(peer, path_tag)

    def _owners_of(self, path_tag: int) -> list[NodeId]:
        native = (self._tables.node_of[number] for number in self._plane.owners_of(path_tag))
        return list(dict.fromkeys([*super()._owners_of(path_tag), *native]))

    # --- counters ---------------------------------------------------------------------------------------------------

    def counters(self) -> Counters:
        """Return a reading of all counters, those of the plane and of the portable part together. Cost: 1 us per entry."""
        if self._gateway is not None:
            self._gateway.read_sent()
            self._gateway.read_received()
        portable = super().counters()
        neighbours, relayed, drops, drops_by_peer = self._plane.counters()
        node_of = self._tables.node_of
        all_neighbours = dict(portable.neighbours)
        for number, packets_in, octets_in, packets_out, octets_out in neighbours:
            came, went = all_neighbours.get(node_of[number], (NO_TRAFFIC, NO_TRAFFIC))
            all_neighbours[node_of[number]] = (_sum(came, packets_in, octets_in), _sum(went, packets_out, octets_out))
        all_relayed = dict(portable.relayed)
        for number, path_tag, packets, octets in relayed:
            key = (node_of[number], path_tag)
            all_relayed[key] = _sum(all_relayed.get(key, NO_TRAFFIC), packets, octets)
        all_drops = dict(portable.drops)
        for reason, count in drops.items():
            all_drops[reason] = all_drops.get(reason, 0) + count
        all_by_peer = dict(portable.drops_by_peer)
        for number, reason, count in drops_by_peer:
            by = (node_of[number], reason)
            all_by_peer[by] = all_by_peer.get(by, 0) + count
        return Counters(
            neighbours=all_neighbours,
            relayed=all_relayed,
            sent=portable.sent,
            received=portable.received,
            drops=all_drops,
            drops_by_peer=all_by_peer,
        )


def _sum(count: TrafficCount, packets: int, octets: int) -> TrafficCount:
    return TrafficCount(count.packets + packets, count.octets + octets)
