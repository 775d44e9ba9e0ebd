"""The tunnels of a data plane that moves the gateway's packets by itself: it is shown their paths, and tells what it sent. A core.

A tunnel is the flow of one traffic class to one gateway. Its `PathControl` decides as for every flow; what is different is that packets are
not counted one batch at a time as they leave, but read every `INTERVAL_S`, and before an answer is judged that speaks of them. So the
data plane takes the next packet on the path that was decided last, and the control knows of every packet before it acts on it.

Without such a data plane (`Forwarder.tun_plane` is None, or no TUN was opened) all of this does nothing, and packets are sent by
`Flow.send_packets`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from srwan.routing.control import PathControl
from srwan.routing.forwarder import GatewayReading, PrefixOwner, TunPlane
from srwan.routing.payload import TUNNEL_FLOW_MIN
from srwan.routing.sid import Function, path_segments
from srwan.types import NodeId

__all__ = ["Tunnel", "Tunnels"]

INTERVAL_S = 0.05
"""How often what the data plane sent by itself is read: silence of a path is noticed by it, and evaluations are 0.2 s apart."""
CLASS_BITS = 0xFF


class Tunnel(Protocol):
    """What is read and set of a flow; those of applications are passed by."""

    peer: NodeId
    id: int
    control: PathControl | None
    is_paused: bool
    sent_at: float
    """When the data plane by itself sent packets of it last, monotonic s."""


class Tunnels:
    """See the module's header.

    Args:
        plane: of the forwarder; None: it leaves all packets to Python.
        flows: the open flows by peer and number, as they come and go.
    """

    def __init__(self, plane: TunPlane | None, flows: Mapping[tuple[NodeId, int], Tunnel]) -> None:
        self._plane = plane
        self._flows = flows
        self._take: Callable[[list[bytes]], None] | None = None

    @property
    def is_possible(self) -> bool:
        """Whether the data plane could move packets of a TUN by itself."""
        return self._plane is not None

    @property
    def is_open(self) -> bool:
        """Whether it does."""
        return self._plane is not None and self._plane.is_open

    def open(self, descriptor: int, take: Callable[[list[bytes]], None], *, has_udp: bool) -> None:
        """Have the data plane read and write a TUN; only where `is_possible`.

        Args:
            descriptor: non-blocking, with IFF_VNET_HDR; a duplicate is kept until `close`.
            take: called with packets that are left to the gateway, and with none when the TUN is gone.
            has_udp: whether it takes large UDP packets.

        Raises:
            OSError: memory or descriptors are short; nothing changed.
        """
        assert self._plane is not None
        self._plane.open(descriptor, has_udp=has_udp)
        self._take = take

    def close(self) -> None:
        """Have the data plane leave the TUN alone. A second call does nothing."""
        self._take = None
        if self._plane is not None:
            self._plane.close()

    def set_networks(self, ours: Sequence[PrefixOwner], routes: Sequence[PrefixOwner], *, mtu_bytes: int, classes: bytes) -> None:
        """Show the data plane which IP packets are whose; see `TunPlane.set_networks`."""
        if self._plane is not None:
            self._plane.set_networks(ours, routes, mtu_bytes=mtu_bytes, classes=classes)

    def reading(self) -> GatewayReading | None:
        """Return what the data plane moved by itself so far; None: it does not."""
        return self._plane.reading() if self._plane is not None and self._plane.is_open else None

    def hand_over(self) -> None:
        """Give the gateway what the data plane left to it since the last call."""
        if self._take is None or self._plane is None:
            return
        packets = self._plane.take_packets()
        if packets:
            self._take(packets)
        if self._plane.gone_errno:
            self._take([])

    def follow(self, flow: Tunnel) -> None:
        """Show the data plane the path of a flow as it is now, if it is a tunnel. Cost: 2 us, and 3 us if the path is another one.

        Raises:
            LimitExceeded: too many tunnels.
        """
        if flow.id < TUNNEL_FLOW_MIN or not self.is_open:
            return
        assert self._plane is not None
        control = flow.control
        routes = () if control is None or control.is_closed or flow.is_paused else control.routes()
        if not routes:
            self._plane.set_lane(flow.peer, flow.id & CLASS_BITS)
            return
        relays, path_tag = routes[0]
        paths = path_segments(relays, flow.peer, Function.END_DX4), path_segments(relays, flow.peer, Function.END_DT6)
        self._plane.set_lane(flow.peer, flow.id & CLASS_BITS, paths, path_tag)

    def count_sent(self, flow: Tunnel | None = None) -> None:
        """Let the controls know what the data plane sent by itself, at least of one flow; None: of all. Cost: 1 us a flow."""
        if not self.is_open:
            return
        assert self._plane is not None
        for sent in self._plane.take_sent(None if flow is None else (flow.peer, flow.id & CLASS_BITS)):
            sender = self._flows.get((sent.peer, TUNNEL_FLOW_MIN | sent.traffic_class))
            if sender is not None and sender.control is not None:
                sender.sent_at = sent.at
                sender.control.data_sent(sent.at, octets=sent.octets, packets=sent.packets, path_tag=sent.path_tag, seq=sent.seq)

    def take_seqs(self, flow: Tunnel, count: int) -> int:
        """Return the first of `count` sequence numbers of a tunnel, for packets that are sent from here; only where `is_open`."""
        assert self._plane is not None
        return self._plane.take_seqs(flow.peer, flow.id & CLASS_BITS, count)

    def forget(self, flow: Tunnel) -> None:
        """A flow ended: its packets go up from now on."""
        if flow.id >= TUNNEL_FLOW_MIN and self.is_open:
            assert self._plane is not None
            self._plane.remove_lane(flow.peer, flow.id & CLASS_BITS)
