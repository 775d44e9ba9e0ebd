"""The gateway: which IP packets go to which node, and which ones of a node are let in. A sans-IO core.

Two directions. `ingress` takes packets that the kernel routed into the TUN and says to which node each goes and in which traffic class;
`egress` takes packets that a node sent here and says which may be written to the TUN. What cannot go on is dropped and counted by reason;
a sender on our side is told by ICMP (`packets_to_write`), a peer never is: it has its own gateway to ask.

The rules, in order:

- malformed packets, source routes, martians and multicast are dropped (`ip_packet`);
- in: the source must be ours (an own address or announced), else the peer would refuse it: ICMP "prohibited"; the longest prefix that
  covers the destination names the node, none: ICMP "no route"; the node must be a member with Role.GATEWAY: ICMP "unreachable";
- in: a packet beyond the MTU is fragmented if IPv4 allows it, else answered with ICMP "fragmentation needed" or "packet too big";
- out: the longest prefix that covers the source must be the sender's (cryptokey routing), and the destination must be ours.

The overlay is one link, not a router: TTL and hop limit are left alone (the kernels on both sides count them down as they forward, which
also ends loops), and so are DSCP and ECN. DSCP chooses the traffic class and with it the path. The outer packet is never marked
ECN-capable, so no congestion mark can get lost (RFC 6040, compatibility mode).

For packets of a pair of addresses that was judged good the verdict is kept (`_ways`, `_permitted`), bounded and dropped with every change
of routes or members; verdicts against a packet are not kept, so a spray of addresses costs time, not memory.

Source: RFC 1812, RFC 8200, RFC 4443, RFC 6040, RFC 8986 4.4-4.8; WireGuard (Donenfeld, NDSS 2017) for cryptokey routing.
"""

from __future__ import annotations

import enum
import ipaddress
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import attrs

from srwan.errors import DecodeError
from srwan.routing.forwarder import PrefixOwner
from srwan.routing.gateway.icmp import IcmpError, TokenBucket, build_icmp_error, may_answer
from srwan.routing.gateway.ip_packet import IpHeader, is_martian, is_multicast, parse_ip, plain_key, traffic_class_of
from srwan.routing.gateway.rewrite import clamp_mss, fragment_ipv4
from srwan.routing.gateway.routes import Network, PrefixTable, overlay_address
from srwan.tun_config import OVERLAY_MTU_BYTES, TunConfig, TunRoute
from srwan.types import NodeId

__all__ = ["CLASS_TABLE", "Gateway", "GatewayCounters", "Outgoing", "TrafficClass"]

PAIRS_MAX = 4096
"""Judged pairs of addresses that are kept, in and out each: 0.5 MB; a site talks to some hundred."""
WRITES_MAX = 256
"""ICMP answers that wait to be written; the token bucket lets 50 pass at once."""


class TrafficClass(enum.IntEnum):
    """Packets with a path of their own. Values are the low bits of the flow id on the wire."""

    NORMAL = 0
    INTERACTIVE = 1
    """Voice and interactive video (RFC 4594): DSCP EF, VOICE-ADMIT, CS4, CS5, AF41..43."""
    BULK = 2
    """Scavengers (RFC 8622, RFC 3662): DSCP LE and CS1."""


_DSCP_INTERACTIVE = frozenset({46, 44, 32, 40, 34, 36, 38})
_DSCP_BULK = frozenset({1, 8})


def _class_of(octet: int) -> TrafficClass:
    dscp = octet >> 2
    if dscp in _DSCP_INTERACTIVE:
        return TrafficClass.INTERACTIVE
    return TrafficClass.BULK if dscp in _DSCP_BULK else TrafficClass.NORMAL


_Lane: TypeAlias = tuple[NodeId, TrafficClass, bool]
"""Peer, class and whether IPv4: packets that go together."""
_CLASSES = tuple(_class_of(octet) for octet in range(256))
CLASS_TABLE = bytes(_CLASSES)
"""The traffic class of each DSCP and ECN octet."""


class Outgoing(NamedTuple):
    """Packets for one node, of one traffic class and IP version, in their order."""

    peer: NodeId
    traffic_class: TrafficClass
    is_ipv4: bool
    packets: list[bytes]
    """Each at most the MTU."""


@attrs.define(slots=True)
class GatewayCounters:
    """What one direction carried and dropped so far."""

    packets: int = 0
    """Passed on."""
    octets: int = 0
    """Of those packets."""
    drops: Counter[str] = attrs.field(factory=Counter[str])
    """Packets, by reason."""


class Gateway:
    """Routes between a TUN and the nodes of the overlay.

    Args:
        node_id: this node.
        config: addresses, routes and what is announced.
    """

    def __init__(self, node_id: NodeId, config: TunConfig) -> None:
        self.overlay_address = overlay_address(node_id)
        self.ingress_counters = GatewayCounters()
        """From the TUN to nodes."""
        self.egress_counters = GatewayCounters()
        """From nodes to the TUN."""
        self.icmp_sent = 0
        """ICMP errors written to the TUN."""
        self._node_id = node_id
        self._config = config
        self._mtu = config.mtu_bytes
        self._own: list[Network] = [ipaddress.ip_network(interface.ip) for interface in config.addresses]
        self._own += [ipaddress.ip_network(self.overlay_address), *config.announce]
        self._entries: list[tuple[Network, NodeId | TunRoute]] = []
        self._ours: PrefixTable[bool] = PrefixTable((network, True) for network in self._own)
        self._routes: PrefixTable[NodeId | TunRoute] = PrefixTable()
        self._names: dict[str, NodeId] = {}
        self._gateways: dict[NodeId, None] = {}
        self._ways: dict[bytes, NodeId] = {}
        self._permitted: dict[NodeId, dict[bytes | None, None]] = {}
        self._permitted_count = 0
        self._writes: deque[bytes] = deque()
        self._blames: Counter[tuple[NodeId, str]] = Counter()
        self._bucket = TokenBucket()
        self._ipv4 = next((interface.ip.packed for interface in config.addresses if interface.version == 4), None)
        self.set_members({})

    # --- configuration and membership -------------------------------------------------------------------------------

    def set_members(self, members: Mapping[NodeId, tuple[str, bool]]) -> None:
        """Take the members of the group: name, and whether it is a gateway. Cost: O(members + routes); judged pairs are forgotten.

        A name in a route is bound to the first node that is seen to bear it alone, for good: names are claims.
        """
        bearers: dict[str, list[NodeId]] = {}
        for node, (name, _) in members.items():
            bearers.setdefault(name, []).append(node)
        for name in (*(route.node for route in self._config.routes), *self._config.via):
            found = bearers.get(name, ())
            if name not in self._names and len(found) == 1 and found[0] != self._node_id:
                self._names[name] = found[0]
        self._gateways = {node: None for node, (_, is_gateway) in members.items() if is_gateway and node != self._node_id}
        entries: list[tuple[Network, NodeId | TunRoute]] = [(ipaddress.ip_network(overlay_address(node)), node) for node in self.peers]
        entries += [(route.prefix, self._node_of(route.node) or route) for route in self._config.routes]
        self._entries = entries
        self._routes = PrefixTable(entries)
        self._ways.clear()
        self._permitted.clear()
        self._permitted_count = 0

    def _node_of(self, written: str) -> NodeId | None:
        """Return the node that an id or a name in the settings stands for, or None while nobody bears the name."""
        return NodeId(bytes.fromhex(written)) if len(written) == 64 else self._names.get(written)

    def via_to(self, peer: NodeId) -> tuple[NodeId, ...]:
        """Return the relays that packets for a node are to visit as configured, those left out that are unknown, the node or this one."""
        nodes = [node for node in map(self._node_of, self._config.via) if node is not None and node not in (peer, self._node_id)]
        return tuple(dict.fromkeys(nodes))

    @property
    def kernel_routes(self) -> tuple[Network, ...]:
        """What the kernel is to route into the TUN now: all configured prefixes, and the overlay addresses of `peers`.

        Prefixes whose node is away are among them, so that their packets do not leak elsewhere.
        """
        hosts = [ipaddress.ip_network(overlay_address(node)) for node in self.peers]
        return tuple(dict.fromkeys([*(route.prefix for route in self._config.routes), *hosts]))

    @property
    def peers(self) -> tuple[NodeId, ...]:
        """The gateways that packets can go to now, by rising NodeId: in host mode all, else those that a route names."""
        routed = {self._node_of(route.node) for route in self._config.routes}
        return tuple(sorted(node for node in self._gateways if self._config.is_host or node in routed))

    @property
    def prefixes(self) -> tuple[list[PrefixOwner], list[PrefixOwner]]:
        """What is ours, and which networks lie behind whom: without an owner where nobody can be reached now."""
        ours: list[PrefixOwner] = [(network.network_address.packed, network.prefixlen, None) for network in self._own]
        routes: list[PrefixOwner] = [
            (network.network_address.packed, network.prefixlen, node if isinstance(node, bytes) and node in self._gateways else None)
            for network, node in self._entries
        ]
        return ours, routes

    def explain_routes(self) -> list[tuple[str, str, str]]:
        """Return (prefix, node as configured, state) for each configured route: "ready", "not a member", "no gateway", "name unknown"."""
        rows = []
        for route in self._config.routes:
            node = self._node_of(route.node)
            state = "name unknown" if node is None else "ready" if node in self._gateways else "no gateway here"
            rows.append((str(route.prefix), route.node, state))
        return rows

    # --- from the TUN -----------------------------------------------------------------------------------------------

    def ingress(self, packets: Iterable[bytes], now: float) -> list[Outgoing]:
        """Take packets of the kernel and return what goes to nodes, sorted; the order within each conversation stays.

        Args:
            packets: as read from the TUN, each one IP packet.
            now: monotonic seconds.

        Cost: 1.2 us for a packet of a pair judged before.
        """
        out: dict[_Lane, list[bytes]] = {}
        ways, mtu = self._ways, self._mtu
        last_key, last_octet = b"", -1  # equal to no packet's
        append: Callable[[bytes], None] = _no_lane
        for packet in packets:
            key = plain_key(packet)
            if key is None or key not in ways or len(packet) > mtu:
                self._ingress_slowly(packet, now, out)
                continue
            first = packet[0]
            octet = packet[1] if first < 0x60 else (first & 0xF) << 4 | packet[1] >> 4
            if key != last_key or octet != last_octet:  # else a train of one conversation
                append = out.setdefault((ways[key], _CLASSES[octet], first < 0x60), []).append
                last_key, last_octet = key, octet
            append(packet)
        counters = self.ingress_counters
        for pieces in out.values():
            counters.packets += len(pieces)
            counters.octets += sum(map(len, pieces))
        return [Outgoing(*lane, pieces) for lane, pieces in out.items()]

    def _ingress_slowly(self, packet: bytes, now: float, out: dict[_Lane, list[bytes]]) -> None:
        """Judge a packet by all rules, and put what goes on where it belongs."""
        drops = self.ingress_counters.drops
        try:
            header = parse_ip(packet)
            _check_addresses(header)
        except DecodeError as error:
            drops[error.reason] += 1
            return
        if self._ours.find(header.source) is None:
            drops["ip-source"] += 1
            self._answer(IcmpError.PROHIBITED, packet, header, now)
            return
        found = self._routes.find(header.destination)
        if found is None:
            drops["ip-no-route"] += 1
            self._answer(IcmpError.NO_ROUTE, packet, header, now)
            return
        if isinstance(found, TunRoute) or found not in self._gateways:
            drops["ip-unreachable"] += 1
            self._answer(IcmpError.UNREACHABLE, packet, header, now)
            return
        if self._config.is_mss_clamped:
            packet = clamp_mss(packet, header, self._mtu)
        if len(packet) > self._mtu and not header.may_fragment:
            drops["ip-too-big"] += 1
            self._answer(IcmpError.TOO_BIG, packet, header, now)
            return
        lane = (found, _CLASSES[traffic_class_of(packet)], header.version == 4)
        out.setdefault(lane, []).extend(fragment_ipv4(packet, self._mtu))
        if len(self._ways) >= PAIRS_MAX:
            self._ways.clear()
        self._ways[header.source + header.destination] = found

    def unsent(self, packets: Sequence[bytes]) -> None:
        """Take back packets that could not be sent: no session with the node or the first relay. They are counted as dropped."""
        if not packets:
            return
        self.ingress_counters.packets -= len(packets)
        self.ingress_counters.octets -= sum(map(len, packets))
        self.ingress_counters.drops["ip-no-path"] += len(packets)

    def _answer(self, error: IcmpError, packet: bytes, header: IpHeader, now: float) -> None:
        if not may_answer(packet, header):
            return
        if len(self._writes) >= WRITES_MAX or not self._bucket.take(now):
            self.ingress_counters.drops["icmp-rate"] += 1
            return
        source = self._ipv4 if header.version == 4 else self.overlay_address.packed
        self._writes.append(build_icmp_error(error, packet, header, source, self._mtu))
        self.icmp_sent += 1

    def packets_to_write(self) -> list[bytes]:
        """Return and remove the ICMP answers for senders on our side, to be written to the TUN."""
        writes = list(self._writes)
        self._writes.clear()
        return writes

    # --- to the TUN -------------------------------------------------------------------------------------------------

    def egress(self, peer: NodeId, packets: Iterable[bytes]) -> list[bytes]:
        """Take packets that a node sent here and return those that may be written to the TUN.

        Args:
            peer: whose end-to-end seal they bore.
            packets: hostile.

        Cost: 1 us for a packet of a pair judged before.
        """
        out: list[bytes] = []
        permitted = self._permitted.get(peer, {})
        for packet in packets:
            if plain_key(packet) in permitted and len(packet) <= OVERLAY_MTU_BYTES:
                out.append(packet)
                continue
            try:
                out.append(self._admit(peer, packet))
            except DecodeError as error:
                self.egress_counters.drops[error.reason] += 1
                self._blames[peer, error.reason] += 1
        self.egress_counters.packets += len(out)
        self.egress_counters.octets += sum(map(len, out))
        return out

    def take_blames(self) -> dict[tuple[NodeId, str], int]:
        """Return and forget how many packets were dropped since the last call, by the peer that sent them and reason."""
        blames, self._blames = self._blames, Counter()
        return blames

    def _admit(self, peer: NodeId, packet: bytes) -> bytes:
        """Judge a packet of a peer by all rules, and return it as it goes on."""
        if len(packet) > OVERLAY_MTU_BYTES:
            raise DecodeError(f"a packet of {len(packet)} bytes", reason="ip-too-big")
        header = parse_ip(packet)
        _check_addresses(header)
        if self._routes.find(header.source) != peer:
            raise DecodeError("a source that does not lie behind this node", reason="ip-spoofed")
        if self._ours.find(header.destination) is None:
            raise DecodeError("a destination that does not lie here", reason="ip-not-announced")
        if self._permitted_count >= PAIRS_MAX:
            self._permitted.clear()
            self._permitted_count = 0
        pairs = self._permitted.setdefault(peer, {})
        key = header.source + header.destination
        self._permitted_count += key not in pairs
        pairs[key] = None
        return clamp_mss(packet, header, self._mtu) if self._config.is_mss_clamped else packet


def _no_lane(_packet: bytes) -> None:
    raise AssertionError("no packet was judged yet")


def _check_addresses(header: IpHeader) -> None:
    if is_multicast(header.destination):
        raise DecodeError("a multicast destination", reason="ip-multicast")
    if is_multicast(header.source) or is_martian(header.source) or is_martian(header.destination):
        raise DecodeError("an address that may not cross a gateway", reason="ip-martian")
