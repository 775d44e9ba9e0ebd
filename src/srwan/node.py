"""A segment router in one object: the only place that knows all rooms, and wires them.

`open_node` opens identity, sockets and store, starts the overlay (who is here), gossip (what we measure and tell), routing (where
packets go) and the publication of reports to the DITEX, and joins the group. Leaving the block closes all of it in the opposite order:
flows say CLOSE, the node says LEAVE, sockets close; also when cancelled.
"""

from __future__ import annotations

import random
import secrets
import socket
import weakref
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
import trio

from srwan.clock import Clock
from srwan.config import NodeConfig, make_config
from srwan.errors import ConfigError, OverlayError, UnknownNode
from srwan.gossip.core import GossipConfig
from srwan.gossip.service import GossipService
from srwan.identity import Identity
from srwan.money import Money, Purse, open_money
from srwan.narrate import describe
from srwan.overlay.join import GroupFounded, GroupJoined
from srwan.overlay.member_events import MemberJoined
from srwan.overlay.rendezvous import best_value, is_valid_value
from srwan.overlay.service import OverlayConfig, OverlayService
from srwan.overlay.transport import ControlChannel, DatagramTransport, Directory
from srwan.overlay.view import Member, Role
from srwan.overseer import Overseer
from srwan.path import Path
from srwan.publisher import Publisher, open_store
from srwan.routing.planes import choose_plane, open_transport
from srwan.routing.policy import PathPolicy
from srwan.routing.service import RoutingService
from srwan.sole_error import sole_error
from srwan.types import GeoAsn, NodeId, UdpAddress

if TYPE_CHECKING:
    from srwan.gossip.owl import OwlSnapshot
    from srwan.ledger_client.exchange.service import ExchangeService
    from srwan.ledger_client.store import RecordStore
    from srwan.routing.gateway.service import GatewayService
    from srwan.routing.kernel.service import KernelService

__all__ = ["EventStream", "Node", "Sockets", "open_node", "open_sockets"]

EVENTS_KEPT_MAX = 1024
"""Events that wait for one slow reader of `Node.events`; the oldest are dropped then."""
UNKNOWN_EDGES_MAX = 50
"""Unknown pairs named in a status."""
NAMES_KEPT_MAX = 1024
"""Names remembered of those who left: ten times a group."""
JOIN_TIMEOUT_S = 30.0
"""How long `open_node` looks for an introducer when bootstrap addresses are given."""
PATH_TIMEOUT_S = 10.0
WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 - recognised, in order not to announce them


@attrs.frozen
class Sockets:
    """What connects a node to others. Wrap or replace parts to emulate links or run without a network."""

    identity: Identity
    """Keys of the node; the control channel authenticates with them."""
    datagrams: DatagramTransport
    control: ControlChannel
    directory: Directory
    multiaddr: str
    """What others bootstrap from."""
    wait_reachable: Callable[[], Awaitable[None]] | None
    """Waits until the directory can be reached; None if there is no way into one, which makes the node found a network."""


@asynccontextmanager
async def open_sockets(config: NodeConfig, clock: Clock) -> AsyncIterator[Sockets]:
    """Open the real sockets of a node: UDP, and libp2p over TCP.

    Raises:
        ConfigError: the identity file is not usable, or an address is taken or not local. Nothing is left open.
    """
    from srwan.overlay.libp2p_host import open_libp2p  # noqa: PLC0415 - 0.9 s and 85 MB: only when sockets are really opened

    identity = Identity.generate() if config.state_dir is None else Identity.load_or_create(config.state_dir / "identity")
    datagrams = open_transport(config.udp, clock, wanted=config.data_plane)
    try:
        async with open_libp2p(
            identity,
            config.control,
            bootstrap=config.bootstrap,
            announce=_announced_control(config),
            is_valid_value=lambda key, value: is_valid_value(key, value, clock.wall_ns()),
            best_value=lambda _key, values: best_value(values, clock.wall_ns()),
        ) as host:
            wait = host.directory.wait_joined if config.bootstrap else None
            yield Sockets(identity, datagrams, host, host.directory, host.multiaddr, wait)
    finally:
        with trio.CancelScope(shield=True):
            await datagrams.aclose()


class Node:
    """A running segment router. Made by `open_node`."""

    def __init__(self, config: NodeConfig, sockets: Sockets, clock: Clock, money: Money | None = None) -> None:
        seed = secrets.randbits(64)
        self.config = config
        self.id: NodeId = sockets.identity.node_id
        """Its public key."""
        self.multiaddr = sockets.multiaddr
        """What others pass as `bootstrap`."""
        self._clock = clock
        roles = Role.EGRESS | (Role.RELAY if config.carries else Role(0)) | (Role.INTRODUCER if config.is_introducer else Role(0))
        roles |= Role.GATEWAY if config.tun.is_enabled else Role(0)
        overlay_config = OverlayConfig(
            network=config.network,
            name="" if config.is_anonymous else config.name,
            location=GeoAsn() if config.is_anonymous else config.location,
            roles=roles,
            announce_udp=_announced_udp(config, sockets),
            has_bootstrap=sockets.wait_reachable is not None,
            lone_after_s=config.lone_after_s,
            address_book=None if config.state_dir is None else config.state_dir / "address-book",
        )
        self.overlay = OverlayService(
            sockets.identity, clock, overlay_config, sockets.datagrams, sockets.control, sockets.directory, random.Random(seed)
        )
        self.gossip = GossipService(
            sockets.identity,
            clock,
            GossipConfig(period_s=config.pulse_period_s, report_interval_s=config.report_interval_s),
            self.overlay,
            random.Random(seed + 1),
        )
        self.routing = RoutingService(
            self.id,
            clock,
            self.overlay,
            self.gossip,
            roles=roles,
            rng=random.Random(seed + 2),
            name_of=self.name_of,
            datagrams=sockets.datagrams,
            prices=None if money is None else money.book,
            relay_cap_kbps=config.relay_cap_kbps,
        )
        self.money = money
        """What relays ask, and what this node pays and is paid. `open_node` always opens it: who pays nothing must know whom to pass by."""
        self.gateway: GatewayService | None = None
        """Packets of unmodified programs through a TUN; None if the settings do not ask for it."""
        self.kernel: KernelService | None = None
        """The Linux kernel as a data plane; None if the settings do not ask for it."""
        self._names: dict[NodeId, str] = {}
        self._streams: weakref.WeakSet[EventStream] = weakref.WeakSet()
        self._placed = trio.Event()
        self._is_founder = False
        for room in (self.overlay, self.gossip, self.routing, *(() if money is None else (money,))):
            room.on_event(self._tell)
        if money is not None:
            money.attach(self.overlay.view, self.gossip, self.routing)

    # --- who is here ------------------------------------------------------------------------------------------------

    @property
    def udp_addresses(self) -> tuple[UdpAddress, ...]:
        """The addresses others send pulses and packets to."""
        member = self.overlay.view.get(self.id)
        return () if member is None else member.udp

    def view(self) -> tuple[Member, ...]:
        """Return the members of the group, this node included, by rising NodeId."""
        return self.overlay.view.members

    def name_of(self, node: NodeId) -> str:
        """Return the name of a member or of one that left, or the start of its id if it has none."""
        member = self.overlay.view.get(node)
        name = self._names.get(node, "") if member is None else member.name
        return name or str(node)[:12]

    def find(self, destination: NodeId | str) -> Member:
        """Return the member that a NodeId, its hex form, or a name stands for.

        Raises:
            UnknownNode: no member, or a name that several members bear.
        """
        if isinstance(destination, str):
            try:
                destination = NodeId(bytes.fromhex(destination))
            except ValueError:
                return self._find_by_name(str(destination))
        member = self.overlay.view.get(destination)
        if member is None:
            raise UnknownNode(str(destination), "is no member of the group")
        return member

    def _find_by_name(self, name: str) -> Member:
        found = self.overlay.view.by_name(name)
        if len(found) != 1:
            raise UnknownNode(name, "is the name of no member" if not found else f"is the name of {len(found)} members, use the node id")
        return found[0]

    # --- what is measured -------------------------------------------------------------------------------------------

    def matrix(self) -> OwlSnapshot:
        """Return the group's directed matrix of raw one-way latencies as this node knows it now."""
        return self.gossip.snapshot(self._clock.now())

    # --- paths ------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def open_path(self, destination: NodeId | str, policy: PathPolicy | None = None) -> AsyncIterator[Path]:
        """Open a path to a member for the duration of the block.

        Args:
            destination: NodeId, its hex form, or the name of a member.
            policy: how to choose among paths; None for `PathPolicy()`.

        Raises:
            UnknownNode: no such member. NoPath: nothing answered within 10 s.
        """
        member = self.find(destination)
        if member.node_id == self.id:
            raise UnknownNode(str(destination), "is this node itself")
        policy = policy or PathPolicy()
        if self.money is not None:
            await self.money.learn_prices(policy.via)
        flow = await self.routing.open(member.node_id, policy, timeout_s=PATH_TIMEOUT_S)
        async with Path(flow, self.name_of) as path:
            yield path

    async def accept_path(self) -> Path:
        """Wait until another node opens a path to this one, and return its other end."""
        return Path(await self.routing.accept(), self.name_of)

    # --- what happens -----------------------------------------------------------------------------------------------

    def events(self) -> EventStream:
        """Return an iterator over what happens from now on: the events listed in docs/reference/events.md.

        It never ends; a reader that is slower than EVENTS_KEPT_MAX events loses the oldest.
        """
        stream = EventStream()
        self._streams.add(stream)
        return stream

    def describe(self, event: object) -> dict[str, Any]:
        """Return an event as JSON values, with a sentence under "detail" where it is worth reading."""
        return describe(event, self.name_of)

    def drops(self) -> dict[str, int]:
        """Return how many datagrams were dropped, by reason (docs/reference/drop-reasons.md)."""
        # The overlay counts what sessions and gossip blame on peers, too; `|` takes the greater of two counts.
        control = Counter(self.overlay.drops) | Counter(self.overlay.sessions.drops) | Counter(self.gossip.drops)
        return dict(control + Counter(self.routing.forwarder.counters().drops))

    def status(self) -> dict[str, Any]:
        """Return the node's state as JSON values."""
        now = self._clock.now()
        members = self.view()
        return {
            "node_id": str(self.id),
            "name": self.config.name,
            "multiaddr": self.multiaddr,
            "network": self.config.network,
            "data_plane": self.routing.forwarder.name,
            "data_plane_why": choose_plane(self.config.data_plane)[1],
            "members": [{"node_id": str(member.node_id), "name": member.name} for member in members],
            "matrix_edges": self.gossip.edges_known(now),
            "matrix_unknown": self._unknown_edges(now),
            "reporter": None if self.gossip.reporter is None else self.name_of(self.gossip.reporter),
            "paths": [
                {
                    "peer": self.name_of(flow.peer),
                    "flow": flow.id,
                    "path": "" if flow.control is None else flow.control.explain(),
                    "watched": [] if flow.control is None else [describe(each, self.name_of) for each in flow.control.paths],
                }
                for flow in self.routing.flows
            ],
            "extraordinary_paths": [describe(each, self.name_of) for each in self.routing.statistics.extraordinary()],
            "tun": None if self.gateway is None else self.gateway.status(),
            "kernel": None if self.kernel is None else self.kernel.status(),
            "money": None if self.money is None else self.money.status(),
            "drops": self.drops(),
        }

    def _unknown_edges(self, now: float) -> list[list[str]]:
        """Name the first pairs [from, to] whose latency is not known."""
        matrix = self.gossip.snapshot(now)
        names = [self.name_of(node) for node in matrix.members]
        pairs = zip(*np.nonzero(np.isnan(matrix.mean_ms)), strict=True)
        return [[names[i], names[j]] for i, j in pairs if i != j][:UNKNOWN_EDGES_MAX]

    async def wait_placed(self) -> bool:
        """Wait until the node is in a group; say whether it founded it."""
        await self._placed.wait()
        return self._is_founder

    def _tell(self, event: object) -> None:
        if isinstance(event, MemberJoined):
            self._names.pop(event.member.node_id, None)
            self._names[event.member.node_id] = event.member.name
            if len(self._names) > NAMES_KEPT_MAX:
                del self._names[next(iter(self._names))]
        if isinstance(event, (GroupJoined, GroupFounded)):
            self._is_founder = isinstance(event, GroupFounded)
            self._placed.set()
        for stream in tuple(self._streams):
            stream._put(event)


class EventStream:
    """Events for one reader: `async for event in node.events()`. Holds up to EVENTS_KEPT_MAX; needs no closing."""

    def __init__(self) -> None:
        self._events: deque[object] = deque(maxlen=EVENTS_KEPT_MAX)
        self._has_news = trio.Event()

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> object:
        await trio.lowlevel.checkpoint()
        while not self._events:
            self._has_news = trio.Event()
            await self._has_news.wait()
        return self._events.popleft()

    def _put(self, event: object) -> None:
        self._events.append(event)
        self._has_news.set()


@asynccontextmanager
async def open_node(
    config: NodeConfig | None = None,
    *,
    sockets: Sockets | None = None,
    clock: Clock | None = None,
    purse: Purse | None = None,
    **settings: Any,
) -> AsyncIterator[Node]:
    """Run a segment router for the duration of the block.

    The block starts when the node has joined a group, or founded one because no bootstrap was given or nobody was found.

    Args:
        config: checked settings; or give them as keywords (`name="paris"`), see `NodeConfig`.
        sockets: opened sockets, to run over emulated links or in memory; None opens real ones.
        clock: the node's clock; None for the machine's.
        purse: settlement engine and wallet; None opens those that the settings name, if any.
        settings: as for `make_config`; not together with `config`.

    Raises:
        ConfigError: a setting, file or port is not usable; nothing was started.
        StoreUnavailable: the DITEX file or the journal of accounts is locked, damaged or cannot be written; nothing was started.
        SettlementUnavailable, WalletLocked: what the settings name for money cannot be opened.
        OverlayError: bootstrap addresses were given and none could be reached within 30 s.
    """
    if config is not None and settings:
        raise ConfigError(", ".join(settings), "settings were given beside a configuration", "use one of the two")
    config = config or make_config(**settings)
    clock = clock or Clock()
    with sole_error():
        async with AsyncExitStack() as stack:
            store = await stack.enter_async_context(open_store(config.ditex_where))
            if sockets is None:
                sockets = await stack.enter_async_context(open_sockets(config, clock))
            money = await stack.enter_async_context(open_money(config, sockets.identity, clock, sockets.control, store, purse))
            node = Node(config, sockets, clock, money)
            publisher = Publisher(store, sockets.identity, node.overlay.view, clock)
            node.gossip.on_report(publisher.publish)
            if config.tun.is_enabled:
                node.gateway = stack.enter_context(_open_gateway(node, clock))
            if config.kernel.is_enabled:
                node.kernel = await stack.enter_async_context(_open_kernel(node, clock))
            async with trio.open_nursery() as nursery:
                await nursery.start(node.overlay.run)
                await nursery.start(node.gossip.run)
                nursery.start_soon(node.routing.run)
                await nursery.start(money.run)
                if store is not None:
                    nursery.start_soon(_make_overseer(store, sockets, clock, node).run)
                if store is not None and (config.ditex_peers or config.is_ditex_served):
                    nursery.start_soon(_make_exchange(store, sockets, clock, config).run)
                if node.gateway is not None:
                    nursery.start_soon(node.gateway.run)
                if node.kernel is not None:
                    nursery.start_soon(node.kernel.run)
                try:
                    await _join(node, sockets)
                    yield node
                finally:
                    node.routing.close()
                    nursery.cancel_scope.cancel()


def _make_overseer(store: RecordStore, sockets: Sockets, clock: Clock, node: Node) -> Overseer:
    """Make what looks after the reporters of the node's group."""
    rng = random.Random(secrets.randbits(64))
    period_s = node.config.pulse_period_s
    overseer = Overseer(store, sockets.identity, clock, node.overlay, node.gossip, period_s=period_s, rng=rng)
    overseer.on_event(node._tell)
    return overseer


def _make_exchange(store: RecordStore, sockets: Sockets, clock: Clock, config: NodeConfig) -> ExchangeService:
    """Make the service that keeps the node's store equal to those of other operators."""
    from srwan.ledger_client.exchange.peer_address import parse_peer  # noqa: PLC0415 - only for who asks for it
    from srwan.ledger_client.exchange.service import ExchangeConfig, ExchangeService  # noqa: PLC0415

    peers = [parse_peer(address) for address in config.ditex_peers]
    rng = random.Random(secrets.randbits(64))
    return ExchangeService(store, sockets.control, clock, rng, peers=peers, config=ExchangeConfig(is_pruning=False))


@contextmanager
def _open_gateway(node: Node, clock: Clock) -> Iterator[GatewayService]:
    """Open the TUN and make the gateway that runs over it."""
    from srwan.routing.gateway.gateway import Gateway  # noqa: PLC0415 - Linux only, and only for who asks for it
    from srwan.routing.gateway.service import GatewayService  # noqa: PLC0415
    from srwan.routing.gateway.tun import open_tun  # noqa: PLC0415

    config = node.config.tun
    gateway = Gateway(node.id, config)
    wants_offload = node.routing.tunnels.is_possible
    with open_tun(config, gateway.overlay_address, wants_offload=wants_offload) as device:
        yield GatewayService(config, gateway, device, overlay=node.overlay, routing=node.routing, clock=clock, name_of=node.name_of)


@asynccontextmanager
async def _open_kernel(node: Node, clock: Clock) -> AsyncIterator[KernelService]:
    """Take the kernel as a data plane; leaving the block removes all that srwan made in it."""
    from srwan.routing.kernel.plane import open_kernel  # noqa: PLC0415 - Linux only, and 0.4 s of pyroute2 only for who asks for it
    from srwan.routing.kernel.service import KernelService, open_native  # noqa: PLC0415

    config = node.config
    roles = Role.EGRESS | (Role.RELAY if config.carries else Role(0))
    async with open_kernel(config.kernel.interfaces, state_dir=config.state_dir, needs_hmac=config.kernel.is_hmac_required) as plane:
        with open_native(config.kernel) as tun:
            yield KernelService(
                node.id,
                config.kernel,
                roles=roles,
                plane=plane,
                tun=tun,
                overlay=node.overlay,
                gossip=node.gossip,
                routing=node.routing,
                clock=clock,
                name_of=node.name_of,
            )


async def _join(node: Node, sockets: Sockets) -> None:
    """Wait until the node is in a group. A node that was told where others are does not silently start a network of its own."""
    with trio.move_on_after(JOIN_TIMEOUT_S):
        if await node.wait_placed() and sockets.wait_reachable is not None:
            await sockets.wait_reachable()
        return
    raise OverlayError(
        f"none of {', '.join(node.config.bootstrap)} could be reached within {JOIN_TIMEOUT_S:g} s; "
        "check the addresses and that those routers are up"
    )


def _announced_udp(config: NodeConfig, sockets: Sockets) -> tuple[UdpAddress, ...]:
    """Return the addresses to tell others: announced ones, or the local ones with a wildcard replaced by the address of a route out."""
    local = sockets.datagrams.local_addresses
    if config.announce:
        return tuple((ip, local[0][1]) for ip in config.announce)
    return tuple((_route_address(config) if ip in WILDCARDS else ip, port) for ip, port in local)


def _announced_control(config: NodeConfig) -> tuple[str, ...]:
    """Return the multiaddrs to tell others, or none if the control channel listens on an address that says it all."""
    ip, port = config.control
    if not port or not (config.announce or ip in WILDCARDS):
        return ()
    return tuple(f"/ip{'6' if ':' in each else '4'}/{each}/tcp/{port}" for each in config.announce or (_route_address(config),))


def _route_address(config: NodeConfig) -> str:
    """Return the local address of the route to the first bootstrap. A connected UDP socket tells it; nothing is sent."""
    target = next((part for part in _ip_parts(config.bootstrap)), "127.0.0.1")
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((target, 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def _ip_parts(multiaddrs: tuple[str, ...]) -> Iterator[str]:
    for multiaddr in multiaddrs:
        parts = multiaddr.split("/")
        if len(parts) > 2 and parts[1] in ("ip4", "ip6"):
            yield parts[2]
