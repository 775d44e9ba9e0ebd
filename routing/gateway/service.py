"""The shell of the gateway: packets between a TUN device and flows to other gateways. Decides nothing about packets (`gateway.py`).

One task reads the TUN: it takes up to 64 packets, has them judged, and hands them to the flows batch by batch; nothing is awaited per
packet. Where the data plane reads and writes the TUN by itself (`Forwarder.tun_plane`), that task waits, and the same is done with the
packets that the plane leaves to us: the first ones of a flow, those that somebody must be told about, those that want a closer look. What
comes from peers is written to the TUN after each batch of datagrams, in the overlay's loop.

A flow to a gateway, one for each traffic class, starts with the first packet and ends when it was idle for `IDLE_S`; while it has no
session yet, up to `HELD_PACKETS_MAX` packets wait up to `HELD_S` for it, so that the first packet of a conversation is not lost.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs
import trio

from srwan.errors import LimitExceeded, RoutingError
from srwan.overlay.member_events import MemberJoined, MemberLeft, ViewChanged
from srwan.overlay.view import Role
from srwan.routing.gateway.gateway import CLASS_TABLE, Gateway, Outgoing, TrafficClass
from srwan.routing.gateway.routes import Network
from srwan.routing.gateway.tun import TunDevice
from srwan.routing.policy import PathPolicy
from srwan.tun_config import TunConfig
from srwan.types import NodeId

if TYPE_CHECKING:
    from srwan.clock import Clock
    from srwan.overlay.service import OverlayService
    from srwan.routing.egress import FlowPacket
    from srwan.routing.gateway.gateway import GatewayCounters
    from srwan.routing.service import Flow, RoutingService
    from srwan.routing.traffic import TrafficCount

__all__ = ["GatewayService"]

log = logging.getLogger("srwan.routing")

HELD_PACKETS_MAX = 64
"""Packets of one flow that wait for its first session: one batch."""
HELD_S = 1.0
"""How long they wait: a handshake takes two round trips; a TCP SYN is repeated after 1 s anyway."""
RETRY_S = 0.02
"""Between two looks whether they can go."""
IDLE_S = 60.0
"""An idle flow costs 15 small packets a second for its path's keep-alives."""
REFRESH_S = 5.0
"""Between two looks for idle flows and for members that changed their name or roles."""

POLICIES = {
    TrafficClass.NORMAL: PathPolicy(),
    TrafficClass.INTERACTIVE: PathPolicy(enter_ms=5.0, switch_ms=5.0, leave_ms=2.0, spread_ms=2.0),
    TrafficClass.BULK: PathPolicy(relays_max=0),
}
"""Direct by default in all; interactive traffic moves for a smaller gain, scavenger traffic burdens no relay."""

_FlowKey: TypeAlias = tuple[NodeId, TrafficClass]


class _Tunnel:
    """The flow of one traffic class to one gateway, and what waits for it."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self.used_at = 0.0
        self.held: deque[tuple[float, bytes]] = deque()
        """Until when a packet may wait, monotonic s, and the packet."""


class GatewayService:
    """Runs the gateway of this node.

    Args:
        node_id: this node.
        config: what `gateway` was made of.
        gateway: the core.
        device: open TUN.
        overlay: who is here.
        routing: makes flows.
        clock: the node's clock.
        name_of: a human's name of a node.
    """

    def __init__(
        self,
        config: TunConfig,
        gateway: Gateway,
        device: TunDevice,
        *,
        overlay: OverlayService,
        routing: RoutingService,
        clock: Clock,
        name_of: Callable[[NodeId], str],
    ) -> None:
        self.gateway = gateway
        self._config = config
        self._device = device
        self._overlay = overlay
        self._routing = routing
        self._clock = clock
        self._name_of = name_of
        self._tunnels: dict[_FlowKey, _Tunnel] = {}
        self._members: dict[NodeId, tuple[str, bool]] = {}
        self._refused: dict[Network, str] = {}
        self._circular: dict[Network, None] = {}
        """Routes withdrawn for good."""
        self._has_held = trio.Event()
        self._is_gone = False
        self._has_gone = trio.Event()
        self._plane_why = self._find_plane()
        routing.on_packets(self._receive)
        overlay.on_event(self._on_overlay_event)

    async def run(self) -> None:
        """Move packets until cancelled. Ends, with an error in the log, when somebody removes the interface."""
        self._warn_of_no_forwarding()
        if self._device.offload.is_on:
            try:
                self._routing.tunnels.open(self._device.descriptor, self._take_packets, has_udp=self._device.offload.has_udp)
            except OSError as error:
                self._note_gone(error.strerror or "")
                return
        self._refresh()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._retry_loop)
                nursery.start_soon(self._refresh_loop)
                await (self._has_gone.wait() if self._device.offload.is_on else self._read_loop())
                nursery.cancel_scope.cancel()
        finally:
            self._routing.tunnels.close()
            for tunnel in self._tunnels.values():
                tunnel.flow.close()
            self._tunnels.clear()

    async def _read_loop(self) -> None:
        device, gateway, clock = self._device, self.gateway, self._clock
        while True:
            await device.wait_readable()
            try:
                packets = device.read()
            except OSError as error:
                self._note_gone(error.strerror or "")
                return
            now = clock.now()
            outgoing = gateway.ingress(packets, now)
            if outgoing:
                self._send(outgoing, now)
            device.write(gateway.packets_to_write())

    def _take_packets(self, packets: list[bytes]) -> None:
        """Do what `_read_loop` does with packets that the data plane leaves to us."""
        if not packets:
            if not self._is_gone:
                self._note_gone("the data plane cannot read it any more")
            return
        now = self._clock.now()
        outgoing = self.gateway.ingress(packets, now)
        if outgoing:
            self._send(outgoing, now)
        self._device.write(self.gateway.packets_to_write())

    def _note_gone(self, reason: str) -> None:
        log.error("interface %s is gone (%s); the gateway stops", self._device.name, reason)
        self._is_gone = True
        self._has_gone.set()

    def _find_plane(self) -> str:
        """Say in one line who reads and writes the TUN."""
        if self._device.offload.is_on:
            kinds = "TCP and UDP" if self._device.offload.has_udp else "TCP"
            return f"native: read and written in C, with offload of {kinds}"
        return f"python: {self._device.offload.problem or 'the data plane in use has no part for the TUN'}"

    # --- to peers ---------------------------------------------------------------------------------------------------

    def _send(self, outgoing: list[Outgoing], now: float) -> None:
        """Send a batch."""
        for peer, traffic_class, _, packets in outgoing:
            tunnel = self._tunnels.get((peer, traffic_class)) or self._open(peer, traffic_class)
            if tunnel is None:
                self.gateway.unsent(packets)
                continue
            tunnel.used_at = now
            sent = 0 if tunnel.held else tunnel.flow.send_packets(packets)  # those held came first
            if sent < len(packets):
                self._hold(tunnel, packets[sent:], now)

    def _open(self, peer: NodeId, traffic_class: TrafficClass) -> _Tunnel | None:
        try:
            policy = attrs.evolve(POLICIES[traffic_class], via=self.gateway.via_to(peer))
            flow = self._routing.open_tunnel(peer, traffic_class, policy)
        except (LimitExceeded, RoutingError) as error:
            log.debug("no flow to the gateway of %s: %s", self._name_of(peer), error)
            return None
        tunnel = self._tunnels[peer, traffic_class] = _Tunnel(flow)
        return tunnel

    def _hold(self, tunnel: _Tunnel, packets: list[bytes], now: float) -> None:
        room = max(0, HELD_PACKETS_MAX - len(tunnel.held))
        tunnel.held += [(now + HELD_S, packet) for packet in packets[:room]]
        self.gateway.unsent(packets[room:])
        tunnel.flow.pause()  # what comes now must not overtake them
        self._has_held.set()

    async def _retry_loop(self) -> None:
        while True:
            await self._has_held.wait()
            await trio.sleep(RETRY_S)
            now = self._clock.now()
            for tunnel in tuple(self._tunnels.values()):
                self._retry(tunnel, now)
            if not any(tunnel.held for tunnel in self._tunnels.values()):
                self._has_held = trio.Event()

    def _retry(self, tunnel: _Tunnel, now: float) -> None:
        held = tunnel.held
        while held and held[0][0] <= now:
            self.gateway.unsent([held.popleft()[1]])
        while held and not tunnel.flow.is_closed and tunnel.flow.send_packets([held[0][1]]):
            held.popleft()
        if not held:
            tunnel.flow.resume()

    # --- from peers -------------------------------------------------------------------------------------------------

    def _receive(self, peer: NodeId, packets: list[FlowPacket]) -> None:
        self._device.write(self.gateway.egress(peer, [packet.body for packet in packets]))
        for (sender, reason), count in self.gateway.take_blames().items():
            for _ in range(count):
                self._overlay.count_drop(reason, peer=sender)

    # --- members and time -------------------------------------------------------------------------------------------

    def _on_overlay_event(self, event: object) -> None:
        if isinstance(event, (MemberJoined, MemberLeft, ViewChanged)):
            self._refresh()
        if isinstance(event, MemberLeft):
            for key in [key for key in self._tunnels if key[0] == event.node_id]:
                self._close(key)

    async def _refresh_loop(self) -> None:
        while True:
            await trio.sleep(REFRESH_S)
            self._refresh()
            idle_at = self._clock.now() - IDLE_S
            for key in [key for key, tunnel in self._tunnels.items() if max(tunnel.used_at, tunnel.flow.sent_at) < idle_at]:
                self._close(key)

    def _close(self, key: _FlowKey) -> None:
        tunnel = self._tunnels.pop(key)
        self.gateway.unsent([packet for _, packet in tunnel.held])
        tunnel.flow.close()

    def _refresh(self) -> None:
        """Show the core the members, and the kernel the routes, if they changed."""
        members = {each.node_id: (each.name, Role.GATEWAY in each.roles) for each in self._overlay.view.members}
        if members == self._members:
            return
        self._members = members
        self.gateway.set_members(members)
        self._set_networks()
        for key in [key for key, tunnel in self._tunnels.items() if tunnel.flow.policy.via != self.gateway.via_to(key[0])]:
            self._close(key)  # the next packet opens it by the new way
        if self._is_gone:
            return
        self._set_routes()

    def _set_networks(self) -> None:
        """Show the data plane what is ours and what lies behind whom, if it moves packets by itself."""
        if self._device.offload.is_on:
            ours, routes = self.gateway.prefixes
            self._routing.tunnels.set_networks(ours, routes, mtu_bytes=self._config.mtu_bytes, classes=CLASS_TABLE)

    def _set_routes(self) -> None:
        """Make the kernel's routes follow the core's, but for those that would lead our own packets in circles."""
        for network, why in self._device.set_routes([each for each in self.gateway.kernel_routes if each not in self._circular]):
            if network not in self._refused:
                self._refused[network] = why
                log.warning("the route %s to %s was refused: it %s", network, self._device.name, why)
        circular = [
            (network, member.node_id)
            for member in self._overlay.view.members
            for address, _ in member.udp
            if self._device.leads_here(address)
            for network in self._device.routes
            if ipaddress.ip_address(address) in network
        ]
        for network, node in circular:
            self._circular[network] = None
            log.error("the route %s is withdrawn: it holds the address of router %s, to which it leads", network, self._name_of(node))
        if circular:
            self._device.set_routes([each for each in self._device.routes if each not in self._circular])

    def _warn_of_no_forwarding(self) -> None:
        """Networks behind this router are reached only if the kernel forwards; that is the owner's switch to turn."""
        for version, switch in ((4, "ipv4/ip_forward"), (6, "ipv6/conf/all/forwarding")):
            if not any(network.version == version for network in self._config.announce):
                continue
            try:
                is_on = Path("/proc/sys/net", switch).read_text("ascii").strip() != "0"
            except OSError:
                continue
            if not is_on:
                log.warning("networks are announced, but the kernel does not forward: sysctl -w net.%s=1", switch.replace("/", "."))

    def status(self) -> dict[str, Any]:
        """Return the state of the gateway as JSON values."""
        gateway = self.gateway
        reading = self._routing.tunnels.reading()
        to_peers, from_peers = _counts(gateway.ingress_counters), _counts(gateway.egress_counters, self._device.drops)
        if reading is not None:
            _add(to_peers, reading.sent, dict(reading.lost))
            _add(from_peers, reading.taken, {f"tun-{_errno_name(number)}": count for number, count in reading.write_errors.items()})
        return {
            "interface": self._device.name,
            "plane": self._plane_why,
            "state": "gone" if self._is_gone else "up",
            "mtu": self._config.mtu_bytes,
            "addresses": [*(str(each) for each in self._config.addresses), f"{gateway.overlay_address}/128"],
            "announced": [str(network) for network in self._config.announce],
            "routes": [{"prefix": prefix, "node": node, "state": state} for prefix, node, state in gateway.explain_routes()],
            "refused": [str(network) for network in (*self._refused, *self._circular)],
            "gateways": [self._name_of(peer) for peer in gateway.peers],
            "to_peers": to_peers,
            "from_peers": from_peers,
            "icmp_sent": gateway.icmp_sent,
            "paths": [
                {
                    "peer": self._name_of(peer),
                    "class": traffic_class.name.lower(),
                    "path": "" if tunnel.flow.control is None else tunnel.flow.control.explain(),
                }
                for (peer, traffic_class), tunnel in self._tunnels.items()
            ],
        }


def _counts(counters: GatewayCounters, more_drops: dict[str, int] | None = None) -> dict[str, Any]:
    drops = {**counters.drops, **{f"tun-{name}": count for name, count in (more_drops or {}).items()}}
    return {"packets": counters.packets, "octets": counters.octets, "dropped": drops}


def _add(counts: dict[str, Any], traffic: TrafficCount, drops: dict[str, int]) -> None:
    """Add what the data plane moved and dropped by itself."""
    counts["packets"] += traffic.packets
    counts["octets"] += traffic.octets
    for reason, count in drops.items():
        counts["dropped"][reason] = counts["dropped"].get(reason, 0) + count


def _errno_name(number: int) -> str:
    return errno.errorcode.get(number, "OSError")
