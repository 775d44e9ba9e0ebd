"""What a data plane must do, whichever it is: portable Python, a native extension, or the Linux kernel.

There is one wire format and one set of golden vectors; a forwarder is chosen at start by probing and named by `Node.status`. The paths
that use it (`path.py`, `watch.py`) and the applications' flows see this interface only.

Nothing here waits: `receive_batch` is called with what was drained, sends what has to be sent before it returns, and what concerns others
is read afterwards, once per batch: events through `next_event`, inboxes that got data through `ready_flows`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, TypeAlias

import attrs

from srwan.overlay.trains import Train
from srwan.overlay.way import RelayedWay
from srwan.routing.egress import AckArrived, FlowClosed, FlowInbox, NoticeArrived, PathStatistics
from srwan.routing.in_band import HandshakeArrived
from srwan.routing.relay import NeedSession
from srwan.routing.sid import Sid
from srwan.routing.traffic import TrafficCount
from srwan.types import NodeId, PeerMisbehaved, UdpAddress

__all__ = ["Counters", "DataSent", "Forwarder", "ForwarderEvent", "GatewayReading", "PrefixOwner", "TunPlane"]

ForwarderEvent: TypeAlias = AckArrived | FlowClosed | NeedSession | HandshakeArrived | NoticeArrived | PathStatistics | PeerMisbehaved


@attrs.frozen(slots=True)
class Counters:
    """A reading of what a data plane counted so far. Packets and octets never fall, except that entries may be evicted."""

    neighbours: Mapping[NodeId, tuple[TrafficCount, TrafficCount]]
    """(in, out) by neighbour: authentic packets in, packets out; octets of whole datagrams without IP and UDP headers."""
    relayed: Mapping[tuple[NodeId, int], TrafficCount]
    """Packets relayed, by the neighbour they came from and path tag; octets of whole datagrams."""
    sent: Mapping[tuple[NodeId, int], TrafficCount]
    """DATA that this node sent as an ingress, by peer and path tag; octets of bodies."""
    received: Mapping[tuple[NodeId, int], TrafficCount]
    """DATA that this node authenticated as an egress, by peer and path tag; octets of bodies."""
    drops: Mapping[str, int]
    """Packets dropped, by reason."""
    drops_by_peer: Mapping[tuple[NodeId, str], int]
    """Those of them whose sender was authenticated, by sender and reason."""


PrefixOwner: TypeAlias = tuple[bytes, int, NodeId | None]
"""A network and who it belongs to: address of 4 or 16 bytes, length of its prefix, bits, and a node or None."""


@attrs.frozen(slots=True)
class DataSent:
    """IP packets that a data plane read and sent by itself."""

    peer: NodeId
    traffic_class: int
    """0..255."""
    path_tag: int
    """64 bits."""
    at: float
    """When the last of them left, monotonic s."""
    packets: int
    """How many."""
    octets: int
    """Of IP packets."""
    seq: int
    """Of the last one, in its flow."""


@attrs.frozen(slots=True)
class GatewayReading:
    """What a data plane moved between a TUN and peers by itself, so far."""

    sent: TrafficCount
    """From the TUN; octets of IP packets."""
    taken: TrafficCount
    """To the TUN."""
    lost: Mapping[str, int]
    """Packets of the TUN dropped, by reason."""
    write_errors: Mapping[int, int]
    """Packets that the kernel did not take, by errno."""


class TunPlane(Protocol):
    """The part of a data plane that reads and writes the gateway's TUN by itself. What it does not know goes to the gateway as before."""

    @property
    def is_open(self) -> bool:
        """Whether it has a TUN."""
        ...

    @property
    def gone_errno(self) -> int:
        """Why the TUN cannot be read any more; 0 while it can."""
        ...

    def open(self, descriptor: int, *, has_udp: bool) -> None:
        """Read and write a TUN from now on; a duplicate of the descriptor is kept until `close`.

        Args:
            descriptor: non-blocking, with IFF_VNET_HDR.
            has_udp: whether it takes large UDP packets.

        Raises:
            OSError: memory or descriptors are short; nothing changed.
        """
        ...

    def close(self) -> None:
        """Leave the TUN alone. A second call does nothing."""
        ...

    def take_packets(self) -> list[bytes]:
        """Return IP packets of the TUN that are to be judged, in order of arrival."""
        ...

    def set_networks(self, ours: Sequence[PrefixOwner], routes: Sequence[PrefixOwner], *, mtu_bytes: int, classes: bytes) -> None:
        """Replace what is ours, and which networks lie behind which node; packets of others are left to the gateway.

        Args:
            ours: their owner is not read.
            routes: of two with one prefix the later counts; without an owner: it is not there now.
            mtu_bytes: longer packets are left to the gateway.
            classes: the traffic class of each DSCP and ECN octet, 256 bytes.
        """
        ...

    def set_lane(
        self, peer: NodeId, traffic_class: int, paths: tuple[tuple[Sid, ...], tuple[Sid, ...]] | None = None, path_tag: int = 0
    ) -> None:
        """Say which path packets of a traffic class to a peer take from now on.

        Args:
            peer: their gateway.
            traffic_class: 0..255.
            paths: segments in visiting order, of IPv4 and of IPv6 packets; None: they are left to the gateway.
            path_tag: of the path.

        Raises:
            LimitExceeded: too many lanes.
        """
        ...

    def remove_lane(self, peer: NodeId, traffic_class: int) -> None:
        """Forget a lane. Unknown ones are fine."""
        ...

    def take_seqs(self, peer: NodeId, traffic_class: int, count: int) -> int:
        """Return the first of `count` sequence numbers of a lane's flow, for packets that are sent by `Forwarder.send_payloads`."""
        ...

    def take_sent(self, lane: tuple[NodeId, int] | None = None) -> Iterable[DataSent]:
        """Yield and forget what was sent since the last call, at least on one lane (peer, traffic class); None: on all."""
        ...

    def reading(self) -> GatewayReading:
        """Return what was moved so far."""
        ...


class Forwarder(Protocol):
    """Moves SR packets. Synchronous; nothing it does waits."""

    @property
    def name(self) -> str:
        """Which data plane this is, one word for `Node.status`."""
        ...

    @property
    def tun_plane(self) -> TunPlane | None:
        """What reads and writes the gateway's TUN by itself; None: it cannot."""
        ...

    def set_members(self, members: Mapping[bytes, NodeId]) -> None:
        """Replace the map from locator (8 bytes) to node: whom packets may go to."""
        ...

    def drop_peer(self, peer: NodeId) -> None:
        """Forget a peer's flows and statistics, as when it left. Unknown peers are fine."""
        ...

    def throttle(self, neighbour: NodeId, tags: frozenset[int], *, is_exempt: bool, octets_per_s: int) -> None:
        """Carry some of the packets that come from a neighbour at a low rate only, all of them together; the others as ever.

        Args:
            neighbour: whose packets.
            tags: path tags of the packets that are slowed down, or of those that are not.
            is_exempt: whether they are those that are not.
            octets_per_s: of whole datagrams; what does not fit is dropped ("throttled"). 0: nothing is slowed down any more.

        A path tag whose counters were evicted may escape until this is called again, so call it every second while it shall hold.
        """
        ...

    def receive(self, data: bytes, source: UdpAddress, rx_ns: int) -> None:
        """Take one datagram of the data plane; `rx_ns` is its receive stamp on the stamp clock. Never raises on hostile input."""
        ...

    def receive_batch(self, trains: Sequence[Train]) -> None:
        """As `receive` for all datagrams of these trains, in order of arrival."""
        ...

    def send_payload(self, path: Sequence[Sid], path_tag: int, peer: NodeId, plaintext: bytes) -> bool:
        """Send one payload along a path.

        Args:
            path: segments in visiting order, the last one of `peer`.
            path_tag: 64 bits that name the path.
            peer: the egress.
            plaintext: `Payload.encode()`.

        Returns:
            Whether it went out; False if there is no session with the egress or the first hop: counted, and `NeedSession` follows.

        Raises:
            ValueError: not a path to `peer`, or the packet would be too long. Nothing was sent.
        """
        ...

    def send_payloads(self, path: Sequence[Sid], path_tag: int, peer: NodeId, plaintexts: Sequence[bytes]) -> int:
        """Send several payloads along a path, in order and together; what they make waits for no other call.

        Args:
            path: as for `send_payload`, and so are the next two.
            path_tag: 64 bits.
            peer: the egress.
            plaintexts: `Payload.encode()` of each, a batch of them: some 64.

        Returns:
            How many went out, the first ones; for the next one it is counted why not, and those after it were not tried.

        Raises:
            ValueError: as `send_payload`. None of these was sent.
        """
        ...

    def send_handshake(self, way: RelayedWay, datagram: bytes) -> bool:
        """Send a session's datagram over relays, for `Sessions.on_relayed`; what comes back is a `HandshakeArrived`.

        Args:
            way: SIDs of relays and of the peer.
            datagram: of plane 0x1.

        Returns:
            Whether it went out; False if the first relay is no member or has no session with us: counted, and `NeedSession` follows.

        Raises:
            ValueError: not a way.
        """
        ...

    def sent(self, peer: NodeId, path_tag: int) -> TrafficCount:
        """Return the DATA packets and octets of bodies sent to `peer` on a path tag so far: the body of a KEEPALIVE."""
        ...

    def claim(self, peer: NodeId, flow: int) -> FlowInbox:
        """Return the inbox of a flow for an application; it stays until `release`.

        Raises:
            LimitExceeded: too many claimed flows of this peer.
        """
        ...

    def release(self, inbox: FlowInbox) -> None:
        """Give an inbox back; what waits in it is dropped."""
        ...

    def ready_flows(self) -> tuple[FlowInbox, ...]:
        """Return the inboxes that got data or were closed since the last call, each once; unclaimed ones may be new flows."""
        ...

    def next_event(self) -> ForwarderEvent | None:
        """Return the next event, or None."""
        ...

    def counters(self) -> Counters:
        """Return a reading of all counters. Cost: 0.5 us per entry; read it every few seconds, not per packet."""
        ...
