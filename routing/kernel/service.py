"""The shell of the kernel data plane: keeps the kernel at what configuration, underlay and paths want, and carries native packets.

Three things are watched, and whichever moves leads to the same step, plan and apply:

- the way to each configured peer's underlay address, every `REFRESH_S`;
- the path to each egress that prefixes are routed to: this node keeps a flow to it as any application would, and what `PathControl`
  decides (`PathSwitched`, `DirectRestored`) replaces the segments of the encapsulating routes in one step each;
- what others do to our objects: stock is taken at every refresh, so what was removed behind our back comes back.

Routes that a killed run left and that still lead to the wanted egress carry on until this run has a path of its own, so that a crash and a
restart interrupt no traffic.

Such a flow's keep-alives measure the way that the data take if the relays are kernel routers and this node speaks native SRv6: they
then go through the same END. A path over a relay that is no kernel router cannot be taken by the kernel; its routes stay as they were,
and the log says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import trio

from srwan.clock import Clock
from srwan.errors import ConfigError, RoutingError
from srwan.kernel_config import HmacKey, KernelSettings, read_hmac_key
from srwan.overlay.view import Role
from srwan.routing.kernel.border import NativeBorder
from srwan.routing.kernel.messages import SidCount
from srwan.routing.kernel.plan import KEY_ID_BASE, TABLE_ROUTES, CircuitTable, KernelWish, NextHop, delivery_sid, plan_kernel
from srwan.routing.kernel.plane import KernelPlane, sid_routes
from srwan.routing.kernel.sysctl import wanted_sysctls
from srwan.routing.kernel.tun import NativeTun
from srwan.routing.path import DirectRestored, PathSwitched
from srwan.routing.policy import PathPolicy
from srwan.routing.portable import PortableForwarder
from srwan.routing.service import Flow, FlowEvent, RoutingService
from srwan.routing.sid import Sid
from srwan.types import NodeId

if TYPE_CHECKING:
    from srwan.gossip.service import GossipService
    from srwan.overlay.service import OverlayService

__all__ = ["KernelService", "open_native"]

log = logging.getLogger("srwan.routing")

REFRESH_S = 5.0
"""How often the way to peers is looked up and stock is taken, s: 1 ms of netlink each time."""
PATH_TIMEOUT_S = 10.0
"""How long a path to an egress is waited for before it is tried anew, s."""
INHERIT_S = 60.0
"""How long encapsulating routes of a run that was killed are kept until this one has paths of its own, s: joining a group takes some 10."""
RETRY_S = 5.0
"""Between two attempts to open a path to an egress that is no member yet or does not answer, s."""


@contextmanager
def open_native(settings: KernelSettings) -> Iterator[NativeTun | None]:
    """Open the TUN for native SRv6 if the settings ask for it.

    Raises:
        ConfigError: as `NativeTun`.
    """
    if not settings.is_native:
        yield None
        return
    tun = NativeTun()
    try:
        yield tun
    finally:
        tun.close()


class KernelService:
    """Runs the kernel as a data plane beside the node's own.

    Args:
        node_id: this node.
        settings: the `[kernel]` section.
        roles: what the node offers.
        plane: the kernel.
        tun: for native packets, or None.
        overlay: members.
        gossip: group time, for the stamps of native packets.
        routing: paths, and the data plane that native packets are handed to.
        clock: this node's clock.
        name_of: a human's name of a node.

    Raises:
        ConfigError: the key file is not usable, HMAC is configured and refused by the kernel where it is a must, or native packets are
            wanted beside a data plane that cannot take them.
    """

    def __init__(
        self,
        node_id: NodeId,
        settings: KernelSettings,
        *,
        roles: Role,
        plane: KernelPlane,
        tun: NativeTun | None,
        overlay: OverlayService,
        gossip: GossipService,
        routing: RoutingService,
        clock: Clock,
        name_of: Callable[[NodeId], str],
    ) -> None:
        self._node_id = node_id
        self._settings = settings
        self._roles = roles
        self._plane = plane
        self._tun = tun
        self._overlay = overlay
        self._gossip = gossip
        self._routing = routing
        self._clock = clock
        self._name_of = name_of
        self._key = self._usable_key()
        self._circuits = CircuitTable(node_id, settings.routes, [peer.node for peer in settings.peers])
        self._flows: dict[NodeId, Flow] = {}
        self._counts: dict[Sid, SidCount] = {}
        self._next_hops: dict[NodeId, NextHop] = {}
        self._inherited = self._routes_found()
        self._problem = ""
        self._changed = trio.Event()
        self._border: NativeBorder | None = None
        if tun is not None:
            self._border = self._speak_native(tun)
        routing.on_event(self._on_path)

    async def run(self) -> None:
        """Keep the kernel as wanted until cancelled. What is ours in the kernel goes when its `KernelPlane` is closed."""
        settings = self._settings
        has_ipv4 = any("." in circuit.prefix for circuit in settings.routes) or any(
            delivery.action == "End.DX4" for delivery in settings.deliver
        )
        await self._plane.set_sysctls(
            wanted_sysctls(settings.interfaces, has_ipv4=has_ipv4, needs_hmac=settings.is_hmac_required and self._key is not None)
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep)
            if self._tun is not None:
                nursery.start_soon(self._tun.run, self._receive_native, self._routing._after_batch)
            for peer in self._circuits.peers:
                nursery.start_soon(self._keep_path, peer)

    def status(self) -> dict[str, Any]:
        """Return what the kernel holds of ours and counted, as JSON values; counters are up to REFRESH_S old."""
        abilities = self._plane.abilities
        sids = []
        for sid, route in sorted(sid_routes(self._plane.state).items()):
            count = self._counts.get(sid)
            entry: dict[str, Any] = {"sid": str(sid), "action": "" if route.local is None else route.local.action}
            if count is not None:
                entry |= {"packets": count.packets, "octets": count.octets, "errors": count.errors}
            sids.append(entry)
        return {
            "counts_sids": abilities.can_count,
            "hmac": "" if self._key is None else f"key {self._key.key_id:#x}",
            "hmac_problem": abilities.hmac_problem,
            "problem": self._problem,
            "sids": sids,
            "routes": {prefix: [str(segment) for segment in segments] for prefix, segments in self._circuits.routes().items()},
            "peers_reached": sorted(self._name_of(node) for node in self._next_hops),
            "native": None if self._border is None else self._native_status(self._border),
        }

    def _native_status(self, border: NativeBorder) -> dict[str, int]:
        refused = 0 if self._tun is None else self._tun.refused
        return {"packets_in": border.traffic.packets_in, "packets_out": border.traffic.packets_out, "refused": refused}

    def _usable_key(self) -> HmacKey | None:
        """Return the configured key if the kernel takes keys; without it and not a must, say so once and go on."""
        settings, abilities = self._settings, self._plane.abilities
        if settings.hmac_key_file is None:
            return None
        key = read_hmac_key(settings.hmac_key_file, KEY_ID_BASE)
        if abilities.can_hmac:
            return key
        if settings.is_hmac_required:
            raise ConfigError("kernel.require_hmac", abilities.hmac_problem, "do that, or set it to false")
        log.warning("kernel: going on without HMAC: %s", abilities.hmac_problem)
        return None

    def _speak_native(self, tun: NativeTun) -> NativeBorder:
        forwarder = self._routing.forwarder
        if not isinstance(forwarder, PortableForwarder):
            raise ConfigError("kernel.native", f"the data plane {forwarder.name!r} takes no native SRv6", 'set data_plane = "portable"')
        settings = self._settings
        border = NativeBorder(
            self._node_id,
            [peer.node for peer in settings.peers],
            [peer.node for peer in settings.borders],
            hmac_key=self._key,
            is_hmac_required=settings.is_hmac_required,
        )
        forwarder.set_border(border, tun.send)
        return border

    def _receive_native(self, packet: bytes) -> None:
        forwarder = self._routing.forwarder
        assert isinstance(forwarder, PortableForwarder)
        # Stamped here, not by the kernel: a TUN has no receive stamps. Raw latencies of such hops carry the loop's delay.
        forwarder.receive_native(packet, self._gossip.group_ns(self._clock.stamp_ns()))

    # --- the kernel -------------------------------------------------------------------------------------------------

    def _routes_found(self) -> dict[str, tuple[Sid, ...]]:
        """Return the encapsulating routes that an earlier run left and that still lead where the settings want."""
        present = self._plane.state.routes
        wanted = {circuit.prefix: delivery_sid(circuit.egress, circuit.delivery) for circuit in self._settings.routes}
        found = {prefix: present[TABLE_ROUTES, prefix].segments for prefix in wanted if (TABLE_ROUTES, prefix) in present}
        return {prefix: segments for prefix, segments in found.items() if segments and segments[-1] == wanted[prefix]}

    async def _keep(self) -> None:
        inherited_until = trio.current_time() + INHERIT_S
        while True:
            if trio.current_time() >= inherited_until:
                self._inherited.clear()
            self._changed = trio.Event()
            await self._bring_about()
            with trio.move_on_after(REFRESH_S):
                await self._changed.wait()
                continue
            await self._plane.refresh()

    async def _bring_about(self) -> None:
        """Plan and apply. What the kernel refuses is said and tried again at the next refresh."""
        settings = self._settings
        self._next_hops = await self._plane.next_hops((*settings.peers, *settings.borders))
        wish = KernelWish(
            node_id=self._node_id,
            roles=self._roles,
            interfaces=settings.interfaces,
            next_hops=self._next_hops,
            deliveries=settings.deliver,
            bills=settings.bills,
            routes={**self._inherited, **self._circuits.routes()},
            hmac_key=self._key,
            native_interface="" if self._tun is None else self._tun.name,
            can_count=self._plane.abilities.can_count,
        )
        try:
            done = await self._plane.apply(plan_kernel(wish))
            self._counts = await self._plane.read_counts()
        except (RoutingError, OSError) as error:
            if str(error) != self._problem:
                log.warning("kernel: %s", error)
            self._problem = str(error)
            return
        self._problem = ""
        if done:
            log.info("kernel: %d changes", len(done))

    # --- paths ------------------------------------------------------------------------------------------------------

    async def _keep_path(self, peer: NodeId) -> None:
        """Keep a path to an egress open; the flow carries nothing but keep-alives."""
        while True:
            if peer in self._overlay.view:
                try:
                    flow = await self._routing.open(peer, self._policy(peer), timeout_s=PATH_TIMEOUT_S)
                except RoutingError as error:
                    log.debug("kernel: %s", error)
                else:
                    await self._hold(peer, flow)
            await trio.sleep(RETRY_S)

    async def _hold(self, peer: NodeId, flow: Flow) -> None:
        self._flows[peer] = flow
        try:
            if flow.control is not None:
                self._follow(peer, flow.control.active[0])
            while not flow.is_closed and peer in self._overlay.view:  # noqa: ASYNC110 - neither has an event to wait for
                await trio.sleep(RETRY_S)
        finally:
            self._flows.pop(peer, None)
            flow.close()

    def _policy(self, peer: NodeId) -> PathPolicy:
        """Return the policy that shuns all relays whose kernel we do not know."""
        routers = {router.node for router in self._settings.peers}
        return PathPolicy(avoid=[node for node in self._overlay.view.ids if node not in routers and node not in {peer, self._node_id}])

    def _on_path(self, event: object) -> None:
        if not isinstance(event, FlowEvent):
            return
        flow = self._flows.get(event.peer)
        if flow is None or flow.id != event.flow:
            return
        match event.event:
            case PathSwitched(to_relays=relays):
                self._follow(event.peer, relays)
            case DirectRestored():
                self._follow(event.peer, ())
            case _:
                pass

    def _follow(self, peer: NodeId, relays: tuple[NodeId, ...]) -> None:
        if self._circuits.follow_path(peer, relays):
            self._changed.set()
        elif self._circuits.relays_to(peer) != relays:
            names = ", ".join(self._name_of(relay) for relay in relays)
            log.warning("kernel: the path to %s over %s has a relay that is no kernel router; routes stay", self._name_of(peer), names)
