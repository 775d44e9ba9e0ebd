"""The gateway's shell over a device and flows in memory: held packets, idle flows, members that come and go, routes that must not be."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import attrs
import pytest
import trio
import trio.testing
from scapy.layers.inet import ICMP, IP, UDP

from srwan.config import make_config
from srwan.errors import RoutingError
from srwan.overlay.member_events import MemberLeft
from srwan.overlay.view import Role
from srwan.routing.egress import FlowPacket
from srwan.routing.gateway.gateway import Gateway, TrafficClass
from srwan.routing.gateway.routes import Network
from srwan.routing.gateway.service import HELD_PACKETS_MAX, HELD_S, IDLE_S, REFRESH_S, GatewayService
from srwan.routing.gateway.tun import TunOffload
from srwan.routing.policy import PathPolicy
from srwan.types import NodeId

HERE, PARIS, OSLO = (NodeId(bytes([number]) * 32) for number in (1, 2, 3))
TUN = {"enabled": True, "addresses": ["10.77.0.1/24"], "routes": ["10.2.0.0/16=paris", "10.3.0.0/16=oslo"]}


def packet(number: int = 0, destination: str = "10.2.0.1", tos: int = 0) -> bytes:
    return bytes(IP(src="10.77.0.1", dst=destination, id=number, tos=tos) / UDP(sport=1, dport=2))


class FakeDevice:
    name = "srwan0"
    offload = TunOffload(is_on=False, has_udp=False, problem="")

    def __init__(self) -> None:
        self.drops: dict[str, int] = {}
        self.written: list[bytes] = []
        self.networks: list[Network] = []
        self.circular: set[str] = set()
        self.is_gone = False
        self._waiting: list[bytes] = []
        self._has_news = trio.Event()

    @property
    def routes(self) -> tuple[Network, ...]:
        return tuple(self.networks)

    def feed(self, *packets: bytes) -> None:
        self._waiting += packets
        self._has_news.set()

    async def wait_readable(self) -> None:
        await trio.lowlevel.checkpoint()
        await self._has_news.wait()

    def read(self) -> list[bytes]:
        if self.is_gone:
            raise OSError(77, "File descriptor in bad state")
        self._has_news = trio.Event()
        packets, self._waiting = self._waiting, []
        return packets

    def write(self, packets: Sequence[bytes]) -> None:
        self.written += packets

    def set_routes(self, networks: Sequence[Network]) -> list[tuple[Network, str]]:
        self.networks = [network for network in networks if str(network) != "10.3.0.0/16"]
        return [(network, "is routed elsewhere") for network in networks if str(network) == "10.3.0.0/16"]

    def leads_here(self, address: str) -> bool:
        return address in self.circular and any(ipaddress.ip_address(address) in network for network in self.networks)


@attrs.define(eq=False)
class FakeFlow:
    peer: NodeId
    policy: PathPolicy
    has_session: bool
    sent: list[bytes] = attrs.field(factory=list)
    is_closed: bool = False
    control: None = None
    sent_at: float = -math.inf
    is_paused: bool = False

    def send_packets(self, packets: Sequence[bytes]) -> int:
        assert not self.is_closed
        self.sent += packets if self.has_session else ()
        return len(packets) if self.has_session else 0

    def pause(self) -> None:
        self.is_paused = True

    def resume(self) -> None:
        self.is_paused = False

    def close(self) -> None:
        self.is_closed = True


@attrs.define(eq=False)
class Scene:
    """A service that runs, and what is around it."""

    service: GatewayService
    gateway: Gateway
    device: FakeDevice
    flows: list[tuple[NodeId, int, FakeFlow]]
    members: list[Any]
    tell: Callable[[object], None]
    deliver: Callable[[NodeId, list[FlowPacket]], None]
    world: SimpleNamespace

    @property
    def drops(self) -> dict[str, int]:
        return self.gateway.ingress_counters.drops


def member(node: NodeId, name: str, roles: Role = Role.GATEWAY) -> Any:
    return SimpleNamespace(node_id=node, name=name, roles=roles, udp=((f"192.0.2.{node[0]}", 4710),))


@asynccontextmanager
async def running(**changes: Any) -> AsyncIterator[Scene]:
    config = make_config(tun={**TUN, **changes}).tun
    gateway, device = Gateway(HERE, config), FakeDevice()
    members = [member(HERE, "here"), member(PARIS, "paris"), member(OSLO, "oslo")]
    world = SimpleNamespace(has_session=True, is_full=False, blames=[])
    flows: list[tuple[NodeId, int, FakeFlow]] = []
    hooks: dict[str, Any] = {}

    def open_tunnel(peer: NodeId, traffic_class: int, policy: PathPolicy) -> FakeFlow:
        if world.is_full:
            raise RoutingError("1024 flows are open; close some")
        flows.append((peer, traffic_class, FakeFlow(peer, policy, world.has_session)))
        return flows[-1][2]

    overlay = SimpleNamespace(
        view=SimpleNamespace(members=members),
        on_event=lambda callback: hooks.update(event=callback),
        count_drop=lambda reason, peer: world.blames.append((peer, reason)),
    )
    routing = SimpleNamespace(
        open_tunnel=open_tunnel,
        on_packets=lambda callback: hooks.update(packets=callback),
        tunnels=SimpleNamespace(close=lambda: None, reading=lambda: None),
    )
    service = GatewayService(
        config,
        gateway,
        cast("Any", device),
        overlay=cast("Any", overlay),
        routing=cast("Any", routing),
        clock=cast("Any", SimpleNamespace(now=trio.current_time)),
        name_of=lambda node: {PARIS: "paris", OSLO: "oslo"}.get(node, "?"),
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(service.run)
        await trio.testing.wait_all_tasks_blocked()
        yield Scene(service, gateway, device, flows, members, hooks["event"], hooks["packets"], world)
        nursery.cancel_scope.cancel()
    assert all(flow.is_closed for _, _, flow in flows)


async def fed(scene: Scene, *packets: bytes) -> None:
    scene.device.feed(*packets)
    await trio.testing.wait_all_tasks_blocked()


async def test_packets_go_to_one_flow_for_each_peer_and_class(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as scene:
        await fed(scene, packet(1), packet(2, tos=0xB8), packet(3), packet(4, destination="10.3.0.1"))
        await fed(scene, packet(5))
        sent = {(peer, traffic_class): [IP(each).id for each in flow.sent] for peer, traffic_class, flow in scene.flows}
    assert {(PARIS, TrafficClass.NORMAL): [1, 3, 5], (PARIS, TrafficClass.INTERACTIVE): [2], (OSLO, TrafficClass.NORMAL): [4]} == sent


async def test_packets_wait_for_the_first_session_and_keep_their_order(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as scene:
        scene.world.has_session = False
        await fed(scene, packet(1), packet(2))
        await fed(scene, packet(3))
        ((_, _, flow),) = scene.flows
        assert [] == flow.sent
        assert flow.is_paused  # or those that a data plane sends by itself would overtake them
        flow.has_session = True
        await fed(scene, packet(4))
        await trio.sleep(HELD_S / 2)
        assert [1, 2, 3, 4] == [IP(each).id for each in flow.sent]
        assert not flow.is_paused
        await fed(scene, packet(5))
        assert 5 == len(flow.sent)
        assert {} == scene.drops
        assert 5 == scene.gateway.ingress_counters.packets


async def test_packets_wait_no_longer_than_a_second_and_no_more_than_a_batch(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as scene:
        scene.world.has_session = False
        await fed(scene, *[packet(number) for number in range(HELD_PACKETS_MAX + 3)])
        assert {"ip-no-path": 3} == scene.drops
        await trio.sleep(HELD_S * 1.5)
        assert {"ip-no-path": HELD_PACKETS_MAX + 3} == scene.drops
        assert 0 == scene.gateway.ingress_counters.packets


async def test_without_room_for_a_flow_packets_are_dropped(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as scene:
        scene.world.is_full = True
        await fed(scene, packet())
        assert {"ip-no-path": 1} == scene.drops


async def test_idle_flows_end_and_start_again(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as scene:
        await fed(scene, packet())
        await trio.sleep(IDLE_S - 2 * REFRESH_S)
        assert not scene.flows[0][2].is_closed
        await trio.sleep(4 * REFRESH_S)
        assert scene.flows[0][2].is_closed
        await fed(scene, packet())
        assert [True, False] == [flow.is_closed for _, _, flow in scene.flows]


async def test_a_member_that_leaves_takes_its_flows_with_it_and_senders_are_told(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as scene:
        await fed(scene, packet(), packet(destination="10.3.0.1"))
        del scene.members[1]
        scene.tell(MemberLeft(PARIS, cast("Any", "left")))
        assert [True, False] == [flow.is_closed for _, _, flow in scene.flows]
        await fed(scene, packet())
        assert {"ip-unreachable": 1} == scene.drops
        assert (3, 1) == (IP(scene.device.written[0])[ICMP].type, IP(scene.device.written[0])[ICMP].code)


async def test_what_peers_send_is_written_if_they_may(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as scene:
        good = bytes(IP(src="10.2.0.1", dst="10.77.0.1") / UDP())
        bad = bytes(IP(src="10.3.0.1", dst="10.77.0.1") / UDP())
        scene.deliver(PARIS, [FlowPacket(body, 0, 0, 0) for body in (good, bad)])
        assert [good] == scene.device.written
        status = scene.service.status()
        assert {"packets": 1, "octets": len(good), "dropped": {"ip-spoofed": 1}} == status["from_peers"]
        scene.deliver(PARIS, [FlowPacket(body, 0, 0, 0) for body in (bad, good, bad[:-1])])
        assert [(PARIS, "ip-spoofed"), (PARIS, "ip-spoofed"), (PARIS, "ip-length")] == scene.world.blames


async def test_a_change_of_forced_relays_moves_the_flow(autojump_clock: trio.testing.MockClock) -> None:
    async with running(via=["relay"]) as scene:
        await fed(scene, packet())
        scene.members.append(member(NodeId(bytes([9]) * 32), "relay", Role.RELAY))
        await trio.sleep(2 * REFRESH_S)
        await fed(scene, packet())
        assert [(), (NodeId(bytes([9]) * 32),)] == [flow.policy.via for _, _, flow in scene.flows]
        assert [True, False] == [flow.is_closed for _, _, flow in scene.flows]


async def test_a_route_that_holds_the_address_of_a_router_is_withdrawn(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(routes=["192.0.2.0/24=paris", "10.2.0.0/16=paris"]) as scene:
        assert "192.0.2.0/24" in [str(network) for network in scene.device.routes]
        scene.device.circular = {"192.0.2.3"}
        del scene.members[0]
        await trio.sleep(2 * REFRESH_S)
        assert "192.0.2.0/24" not in [str(network) for network in scene.device.routes]
        assert "10.2.0.0/16" in [str(network) for network in scene.device.routes]
        assert ["192.0.2.0/24"] == scene.service.status()["refused"]
        assert "192.0.2.0/24 is withdrawn: it holds the address of router oslo" in caplog.text


async def test_a_refused_route_is_told_once_and_shown(autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture) -> None:
    async with running() as scene:
        scene.members.append(member(NodeId(bytes([9]) * 32), "rome"))
        await trio.sleep(3 * REFRESH_S)
        assert ["10.3.0.0/16"] == scene.service.status()["refused"]
        assert 1 == caplog.text.count("10.3.0.0/16 to srwan0 was refused: it is routed elsewhere")


async def test_when_the_interface_is_gone_the_gateway_stops_and_says_so(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with running() as scene:
        scene.device.is_gone = True
        await fed(scene, packet())
        assert "gone" == scene.service.status()["state"]
        assert "interface srwan0 is gone" in caplog.text
        scene.members.append(member(NodeId(bytes([9]) * 32), "rome"))
        scene.tell(MemberLeft(OSLO, cast("Any", "left")))
