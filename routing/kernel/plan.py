"""What a Linux kernel must hold to be a segment router of ours, and the steps that get it there without losing a packet. A core.

Three questions, three functions:

- `plan_kernel`: from roles, peers, circuits and paths to the wanted `KernelState`: routes, rules and HMAC keys;
- `difference`: from what is present and what is wanted to an ordered list of operations;
- `follow_path` of `CircuitTable`: from what the path controller decided to the segments of an encapsulating route.

What is programmed (RFC 8986): at the ingress a route per prefix that encapsulates into a segment list (H.Encaps); at a relay our END
SIDs; at the egress End.DT6, End.DX4 or End.DX6. IPv4 leaves by End.DX4, because End.DT4 needs a VRF device, which some kernels lack.

SIDs say all there is to know in their argument, so an ingress works them out as the egress does: END_DT6 carries the table, END_DX4 the
next hop's IPv4 address, END_DX6 a hash of the next hop. The kernel counts per SID and per nothing else, so what is billed per upstream
neighbour and path gets a SID of its own, END with an argument hashed from the two (`billed_sid`). A SID is a label and no proof: who
knows it can use it, and only the HMAC of RFC 8754, or a network nobody else is on, keeps others from doing so.

Ownership: every route and rule carries `PROTOCOL`, lies in one of two tables of ours and key ids lie in a range of ours, so that
removing what is ours never touches what is not. The tables are reached by rules; the one with the SIDs only for packets that came
in by an underlay interface (RFC 8754 section 5.1: SIDs are not reachable from outside the SR domain).

Order of `difference` (make before break): keys, transit routes, SIDs, rules, then encapsulating routes; removals the other way round. A
route that changes is replaced in one step, which the kernel does atomically; a route that stays is not touched, because
replacing a SID's route sets its counters back to zero. An HMAC key whose secret changes under one id does lose what comes between:
rotate by a new id.

Not here: netlink (`messages.py`, `plane.py`), packets of ours on such a network (`border.py`).
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import attrs

from srwan.errors import RoutingError
from srwan.kernel_config import Circuit, Delivery, HmacKey
from srwan.overlay.view import Role
from srwan.routing.finder import Relays
from srwan.routing.sid import LOCATOR_BYTES, Function, Sid, locator_of
from srwan.routing.srh import SEGMENTS_MAX
from srwan.types import NodeId

__all__ = [
    "PROTOCOL",
    "TABLE_ROUTES",
    "TABLE_SIDS",
    "AddRule",
    "CircuitTable",
    "KernelRoute",
    "KernelRule",
    "KernelState",
    "KernelWish",
    "LocalAction",
    "NextHop",
    "Operation",
    "PutKey",
    "PutRoute",
    "RemoveKey",
    "RemoveRoute",
    "RemoveRule",
    "apply_operation",
    "billed_sid",
    "delivery_sid",
    "difference",
    "locator_prefix",
    "plan_kernel",
]

PROTOCOL = 147
"""Who made a route or rule: a number that neither the kernel nor any routing daemon of rt_protos uses."""
TABLE_ROUTES = 4710
"""Table with the ways to peers' locators and the encapsulating routes; for packets from anywhere."""
TABLE_SIDS = 4711
"""Table with our own SIDs; for packets from underlay interfaces."""
RULE_PRIORITY = 4710
"""Before the main table (32766): what an operator asks to be carried by srwan is."""
KEY_ID_BASE = 0x5352_0000
"""HMAC key ids of ours are this plus 1..65535: the kernel keeps no owner of a key."""
KEY_ID_SPAN = 0x1_0000
SIDS_MAX = 4096
"""SIDs of one node: 64 circuits of 64 neighbours."""
_BILL_DOMAIN = b"srwan/bill/1"
_NEXT_HOP_DOMAIN = b"srwan/next-hop/1"
_FUNCTION_OF = {"End.DT6": Function.END_DT6, "End.DX4": Function.END_DX4, "End.DX6": Function.END_DX6}


def billed_sid(node: NodeId, upstream: NodeId, circuit: int) -> Sid:
    """Return the END SID of `node` that only packets of one circuit that come from one neighbour should name.

    Args:
        node: the relay that counts.
        upstream: the router before it on the path.
        circuit: the ingress's number of the path, 1..2**64-1.

    Raises:
        OverflowError: the circuit does not fit 64 bits.
    """
    digest = hashlib.blake2b(_BILL_DOMAIN + upstream + circuit.to_bytes(8, "little"), digest_size=6).digest()
    return Sid.of(node, Function.END, max(1, int.from_bytes(digest, "big")))


def delivery_sid(node: NodeId, delivery: Delivery) -> Sid:
    """Return the SID by which an egress delivers."""
    if delivery.action == "End.DT6":
        argument = delivery.table
    elif delivery.action == "End.DX4":
        argument = int(ipaddress.IPv4Address(delivery.next_hop))
    else:
        packed = ipaddress.IPv6Address(delivery.next_hop).packed
        argument = int.from_bytes(hashlib.blake2b(_NEXT_HOP_DOMAIN + packed, digest_size=6).digest(), "big") if any(packed) else 0
    return Sid.of(node, _FUNCTION_OF[delivery.action], argument)


def locator_prefix(node: NodeId) -> str:
    """Return the /64 out of which a node's SIDs are taken."""
    return f"{ipaddress.IPv6Address(locator_of(node) + bytes(16 - LOCATOR_BYTES))}/64"


@attrs.frozen(slots=True)
class NextHop:
    """How a peer's underlay address is reached at present."""

    interface: str
    gateway: str
    """IPv6 address on that link: the peer itself, or the router before it."""


@attrs.frozen(slots=True)
class LocalAction:
    """What the kernel does with a packet for a SID of ours."""

    action: str
    """"End", "End.DT6", "End.DX4" or "End.DX6"."""
    table: int = 0
    """Number of the table that End.DT6 looks the inner packet up in; 0 for the others."""
    next_hop: str = ""
    """Address that End.DX4 and End.DX6 send to, the unspecified one for the inner packet's own destination; else empty."""
    is_counted: bool = True
    """Whether the kernel counts packets, octets and errors of it."""


@attrs.frozen(slots=True)
class KernelRoute:
    """A route of ours. With `segments` it encapsulates, with `local` it is a SID, with neither it leads to a peer's locator."""

    table: int
    """TABLE_ROUTES or TABLE_SIDS."""
    prefix: str
    """Canonical IPv4 or IPv6 prefix, "fd00:1::/64"."""
    interface: str
    gateway: str = ""
    segments: tuple[Sid, ...] = ()
    """In visiting order."""
    hmac_key: int = 0
    """Number of the key that authenticates the segment header; 0 for none."""
    local: LocalAction | None = None

    @property
    def key(self) -> tuple[int, str]:
        """What the kernel tells routes apart by."""
        return self.table, self.prefix

    @property
    def rank(self) -> int:
        """When it is made, and the other way round when it is removed: 0 ways to locators, 1 SIDs, 2 encapsulation."""
        return 2 if self.segments else 1 if self.local is not None else 0


@attrs.frozen(slots=True, order=True)
class KernelRule:
    """Which packets look a table up."""

    family: int
    """4 or 6: IP version."""
    table: int
    """TABLE_ROUTES or TABLE_SIDS."""
    interface: str = ""
    """Only packets that came in here; empty for all."""
    priority: int = RULE_PRIORITY
    """Rules are asked by rising priority number."""


@attrs.frozen(slots=True)
class KernelState:
    """All that is ours in a kernel, or shall be."""

    routes: Mapping[tuple[int, str], KernelRoute] = attrs.field(factory=dict)
    """By table and prefix."""
    rules: tuple[KernelRule, ...] = ()
    """Sorted."""
    keys: Mapping[int, HmacKey] = attrs.field(factory=dict)
    """By key id."""


@attrs.frozen(slots=True)
class PutKey:
    """Set an HMAC key; one with the same id is replaced."""

    key: HmacKey


@attrs.frozen(slots=True)
class PutRoute:
    """Add a route, or replace the one with its table and prefix, in one step."""

    route: KernelRoute


@attrs.frozen(slots=True)
class AddRule:
    """Add a rule."""

    rule: KernelRule


@attrs.frozen(slots=True)
class RemoveRoute:
    """Remove the route with this table and prefix."""

    route: KernelRoute


@attrs.frozen(slots=True)
class RemoveRule:
    """Remove a rule."""

    rule: KernelRule


@attrs.frozen(slots=True)
class RemoveKey:
    """Remove an HMAC key."""

    key_id: int
    """Number of the key, in our range."""


Operation: TypeAlias = PutKey | PutRoute | AddRule | RemoveRoute | RemoveRule | RemoveKey


@attrs.frozen(slots=True, kw_only=True)
class KernelWish:
    """What a node wants of its kernel."""

    node_id: NodeId
    roles: Role
    """END needs Role.RELAY, `deliveries` need Role.EGRESS."""
    interfaces: tuple[str, ...]
    """Underlay interfaces, by which SIDs may be reached; the first one also carries routes that need any."""
    next_hops: Mapping[NodeId, NextHop]
    """How peers on the same network are reached."""
    deliveries: tuple[Delivery, ...] = ()
    """What this egress does with packets that end here."""
    bills: tuple[tuple[NodeId, int], ...] = ()
    """(upstream neighbour, circuit) that this relay counts apart."""
    routes: Mapping[str, tuple[Sid, ...]] = attrs.field(factory=dict)
    """Encapsulating routes of this ingress: prefix, segments in visiting order."""
    hmac_key: HmacKey | None = None
    native_interface: str = ""
    """TUN of the user-space router, which gets what is for our locator and no SID of the kernel; empty for none."""
    can_count: bool = True
    """Whether this kernel counts per SID."""


def plan_kernel(wish: KernelWish) -> KernelState:
    """Return what the kernel must hold.

    Raises:
        RoutingError: no underlay interface, too many SIDs, or a route whose segments do not fit a header.

    Cost: 20 us per object.
    """
    if not wish.interfaces:
        raise RoutingError("kernel segment routing needs an underlay interface")
    routes = [*_transit_routes(wish), *_sid_routes(wish), *_encap_routes(wish)]
    if sum(route.local is not None for route in routes) > SIDS_MAX:
        raise RoutingError(f"more than {SIDS_MAX} segment identifiers at one node")
    rules = [KernelRule(6, TABLE_ROUTES), *(KernelRule(6, TABLE_SIDS, interface) for interface in wish.interfaces)]
    if any(ipaddress.ip_network(prefix).version == 4 for prefix in wish.routes):
        rules.append(KernelRule(4, TABLE_ROUTES))
    keys = {} if wish.hmac_key is None else {wish.hmac_key.key_id: wish.hmac_key}
    return KernelState({route.key: route for route in routes}, tuple(sorted(rules)), keys)


def _transit_routes(wish: KernelWish) -> Iterable[KernelRoute]:
    for node, hop in wish.next_hops.items():
        if node != wish.node_id:
            yield KernelRoute(TABLE_ROUTES, locator_prefix(node), hop.interface, hop.gateway)


def _sid_routes(wish: KernelWish) -> Iterable[KernelRoute]:
    actions: dict[Sid, LocalAction] = {}
    if Role.RELAY in wish.roles:
        end = LocalAction("End", is_counted=wish.can_count)
        actions[Sid.of(wish.node_id, Function.END)] = end
        actions |= {billed_sid(wish.node_id, upstream, circuit): end for upstream, circuit in wish.bills}
    if Role.EGRESS in wish.roles:
        for delivery in wish.deliveries:
            sid = delivery_sid(wish.node_id, delivery)
            actions[sid] = LocalAction(delivery.action, delivery.table, delivery.next_hop, wish.can_count)
    for sid, action in actions.items():
        yield KernelRoute(TABLE_SIDS, f"{sid}/128", wish.interfaces[0], local=action)
    if wish.native_interface:
        yield KernelRoute(TABLE_SIDS, locator_prefix(wish.node_id), wish.native_interface)


def _encap_routes(wish: KernelWish) -> Iterable[KernelRoute]:
    for prefix, segments in wish.routes.items():
        if not 1 <= len(segments) <= SEGMENTS_MAX:
            raise RoutingError(f"route to {prefix}: {len(segments)} segments, 1 to {SEGMENTS_MAX} fit a header")
        key_id = 0 if wish.hmac_key is None else wish.hmac_key.key_id
        yield KernelRoute(TABLE_ROUTES, str(ipaddress.ip_network(prefix)), wish.interfaces[0], segments=tuple(segments), hmac_key=key_id)


def difference(present: KernelState, wanted: KernelState) -> list[Operation]:
    """Return the operations that lead from one state to the other, in an order in which nothing is missed in between.

    After any prefix of the list: what both states route is routed, and an encapsulating route has the key and the way to its first
    segment that its own state gives it. Unchanged objects are not mentioned. Cost: O(n log n).
    """
    changed = [route for key, route in wanted.routes.items() if present.routes.get(key) != route]
    dropped = [route for key, route in present.routes.items() if key not in wanted.routes]
    operations: list[Operation] = [PutKey(key) for key_id, key in wanted.keys.items() if present.keys.get(key_id) != key]
    operations += [PutRoute(route) for route in sorted(changed, key=_by_rank) if route.rank < 2]
    operations += [AddRule(rule) for rule in wanted.rules if rule not in present.rules]
    operations += [PutRoute(route) for route in sorted(changed, key=_by_rank) if route.rank == 2]
    falling = sorted(dropped, key=_by_rank, reverse=True)
    operations += [RemoveRoute(route) for route in falling if route.rank == 2]
    operations += [RemoveRule(rule) for rule in present.rules if rule not in wanted.rules]
    operations += [RemoveRoute(route) for route in falling if route.rank < 2]
    operations += [RemoveKey(key_id) for key_id in present.keys if key_id not in wanted.keys]
    return operations


def _by_rank(route: KernelRoute) -> tuple[int, int, str]:
    return route.rank, route.table, route.prefix


def apply_operation(state: KernelState, operation: Operation) -> KernelState:
    """Return what a kernel that held `state` holds after an operation: the model that tests and the shell's bookkeeping share."""
    routes, rules, keys = dict(state.routes), state.rules, dict(state.keys)
    match operation:
        case PutKey(key=key):
            keys[key.key_id] = key
        case RemoveKey(key_id=key_id):
            keys.pop(key_id, None)
        case PutRoute(route=route):
            routes[route.key] = route
        case RemoveRoute(route=route):
            routes.pop(route.key, None)
        case AddRule(rule=rule):
            rules = tuple(sorted({*rules, rule}))
        case RemoveRule(rule=rule):
            rules = tuple(kept for kept in rules if kept != rule)
    return KernelState(routes, rules, keys)


class CircuitTable:
    """Which segments each prefix of an ingress is carried by: follows the paths that the path controller chooses.

    Args:
        node_id: this ingress.
        circuits: prefixes, their egress and how it delivers.
        routers: kernel routers among the members: whom a kernel path may visit.
    """

    def __init__(self, node_id: NodeId, circuits: Sequence[Circuit], routers: Iterable[NodeId]) -> None:
        self._node_id = node_id
        self._circuits = tuple(circuits)
        self._routers = frozenset(routers)
        self._relays: dict[NodeId, Relays] = {}

    @property
    def peers(self) -> tuple[NodeId, ...]:
        """The egresses, each once: whom paths are kept to."""
        return tuple(dict.fromkeys(circuit.egress for circuit in self._circuits))

    def follow_path(self, peer: NodeId, relays: Relays) -> bool:
        """Note that the path to an egress now leads over `relays`.

        Returns:
            Whether routes change. A path over a node that is no kernel router changes none: the kernel goes on as before.
        """
        if any(relay not in self._routers for relay in relays) or self._relays.get(peer) == relays:
            return False
        self._relays[peer] = relays
        return peer in self.peers

    def relays_to(self, peer: NodeId) -> Relays | None:
        """Return the relays in use to an egress; None before its first path."""
        return self._relays.get(peer)

    def routes(self) -> dict[str, tuple[Sid, ...]]:
        """Return the wanted encapsulating routes: prefix, segments in visiting order. Circuits without a path yet have none."""
        routes: dict[str, tuple[Sid, ...]] = {}
        for circuit in self._circuits:
            relays = self._relays.get(circuit.egress)
            if relays is None:
                continue
            upstreams = (self._node_id, *relays)
            ends = [
                billed_sid(relay, upstream, circuit.number) if circuit.number else Sid.of(relay, Function.END)
                for upstream, relay in zip(upstreams, relays, strict=False)
            ]
            routes[circuit.prefix] = (*ends, delivery_sid(circuit.egress, circuit.delivery))
        return routes
