"""The TUN in the native plane's thread: lanes that switch, keys that change, what goes up to Python, what is counted and answered.

Routers on the loopback, one end's TUN in a network namespace, the other end's in another one: whatever gets from one to the other went
through the planes.
"""

from __future__ import annotations

import ipaddress
import itertools
import os
import random
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from srwan.clock import Clock
from srwan.identity import Identity
from srwan.overlay.handshake import SESSION_PLANE
from srwan.overlay.session import Sessions
from srwan.overlay.trains import Train, segments
from srwan.overlay.view import Role
from srwan.routing.egress import AckArrived
from srwan.routing.gateway.tun import TunOffload, _attach
from srwan.routing.packet import DATA_PLANE
from srwan.routing.payload import TUNNEL_FLOW_MIN, KeepAlive, Payload, PayloadKind, encode_packets
from srwan.routing.planes import make_forwarder, open_transport
from srwan.routing.sid import Function, Sid, locator_of
from srwan.testing.namespaces import Lab, Namespace
from srwan.types import NodeId

if TYPE_CHECKING:
    from srwan.routing.native.gateway import NativeGateway

pytestmark = pytest.mark.needs("native", "netns", "tun")
SIDES = (("10.1.0.1", "10.1.0.0/16"), ("10.2.0.1", "10.2.0.0/16"))
PORT = 7007
DIRECT_TAG, RELAY_TAG = 0xD1, 0xD2
CLASSES = bytes(256)
BATCH = 64


def prefix(text: str, owner: NodeId | None = None) -> tuple[bytes, int, NodeId | None]:
    network = ipaddress.ip_network(text)
    return network.network_address.packed, network.prefixlen, owner


class Tun:
    """An open TUN in a namespace, without the routes and addresses that `TunDevice` keeps."""

    def __init__(self, namespace: Namespace, descriptor: int, offload: TunOffload) -> None:
        self.namespace = namespace
        self.descriptor = descriptor
        self.offload = offload
        assert offload.is_on

    def write(self, packets: Sequence[bytes]) -> None:
        for packet in packets:
            os.write(self.descriptor, bytes(10) + packet)

    def close(self) -> None:
        os.close(self.descriptor)


class Router:
    """Transport, sessions and forwarder as a node has them, and what a gateway's service does for it."""

    def __init__(self, clock: Clock, seed: int) -> None:
        identity, rng = Identity(bytes([seed]) * 32), random.Random(seed)
        self.node_id: NodeId = identity.node_id
        self.clock = clock
        self.transport = open_transport([("127.0.0.1", 0)], clock, wanted="native")
        self.sessions = Sessions(identity, rng, entropy=rng.randbytes)
        self.forwarder = make_forwarder(
            self.transport,
            self.node_id,
            self.sessions,
            roles=Role.RELAY | Role.GATEWAY,
            send=self.transport.send,
            send_many=self.transport.send_many,
            read_stamp_ns=clock.stamp_ns,
            group_ns=lambda stamp_ns: stamp_ns,
        )
        self.device: Tun | None = None
        self.events: list[object] = []
        self.upward: list[bytes] = []
        self.taken_by_python: list[bytes] = []
        self.batches = trio.Event()

    @property
    def gateway(self) -> NativeGateway:
        from srwan.routing.native.gateway import NativeGateway

        assert isinstance(self.forwarder.tun_plane, NativeGateway)
        return self.forwarder.tun_plane

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.transport.serve_trains, self._handle)
            while True:
                self.sessions.handle_timer(self.clock.now(), self.clock.wall_ns())
                self._flush()
                await trio.sleep(0.02)

    def _handle(self, trains: list[Train]) -> None:
        for data, at, end, source, rx_ns in segments(trains):
            datagram = data[at:end]
            if datagram[0] >> 4 == SESSION_PLANE:
                self.sessions.receive_datagram(datagram, source, self.clock.now(), self.clock.wall_ns())
            elif datagram[0] >> 4 == DATA_PLANE:
                self.forwarder.receive(datagram, source, rx_ns)
        while (event := self.forwarder.next_event()) is not None:
            self.events.append(event)
        for inbox in self.forwarder.ready_flows():
            bodies = [packet.body for packet in inbox.take()]
            self.taken_by_python += bodies
            if self.device is not None:
                self.device.write(bodies)
        self.upward += self.gateway.take_packets()
        self._flush()
        self.batches.set()
        self.batches = trio.Event()

    def _flush(self) -> None:
        for data, destination in self.sessions.datagrams_to_send(self.clock.now()):
            assert isinstance(destination, tuple)
            self.transport.send(data, destination)
        while self.sessions.next_event() is not None:
            pass

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait until something is so after some batch or timer."""
        with trio.fail_after(20):
            while not is_so():
                with trio.move_on_after(0.02):
                    await self.batches.wait()


class Pair:
    """Two gateways and a relay; a socket behind either end."""

    def __init__(self, routers: list[Router], sender: socket.socket, receiver: socket.socket) -> None:
        self.ingress, self.relay, self.egress = routers
        self.sender, self.receiver = sender, receiver
        self.sent = 0
        self.arrived: list[int] = []

    def path(self, function: Function, *, is_relayed: bool) -> tuple[Sid, ...]:
        last = Sid.of(self.egress.node_id, function)
        return (Sid.of(self.relay.node_id, Function.END), last) if is_relayed else (last,)

    def steer(self, *, is_relayed: bool) -> None:
        """Have packets take a path from now on."""
        paths = self.path(Function.END_DX4, is_relayed=is_relayed), self.path(Function.END_DT6, is_relayed=is_relayed)
        self.ingress.gateway.set_lane(self.egress.node_id, 0, paths, RELAY_TAG if is_relayed else DIRECT_TAG)

    def serve_tags(self) -> None:
        """Let the egress know both path tags, as keep-alives would."""
        for tag, is_relayed in ((DIRECT_TAG, False), (RELAY_TAG, True)):
            alive = Payload(PayloadKind.KEEPALIVE, 0, 0, self.ingress.clock.stamp_ns(), KeepAlive(0, 0, answer_ms=20).encode())
            path = self.path(Function.END_APP, is_relayed=is_relayed)
            assert self.ingress.forwarder.send_payload(path, tag, self.egress.node_id, alive.encode())

    def acks(self, *, is_for_data: bool) -> list[AckArrived]:
        return [each for each in self.ingress.events if isinstance(each, AckArrived) and each.ack.is_for_data is is_for_data]

    def send(self, count: int, size: int = 64) -> None:
        for _ in range(count):
            self.sender.sendto(self.sent.to_bytes(8, "big").ljust(size, b"."), (SIDES[1][0], PORT))
            self.sent += 1

    async def receive(self, waiting_max: int = 0) -> None:
        """Take what arrived until no more than so many are under way."""
        with trio.fail_after(20):
            while True:
                try:
                    while True:
                        self.arrived.append(int.from_bytes(self.receiver.recv(2000)[:8], "big"))
                except BlockingIOError:
                    if self.sent - len(self.arrived) <= waiting_max:
                        return
                await trio.sleep(0.001)


@contextmanager
def tuns() -> Iterator[tuple[list[Tun], list[socket.socket]]]:
    """A TUN and a UDP socket in each of two namespaces."""
    with Lab("nativetun") as lab, ExitStack() as stack:
        devices: list[Tun] = []
        sockets: list[socket.socket] = []
        for number, (address, _) in enumerate(SIDES):
            namespace = lab.add(f"side{number}")
            namespace.set_sysctl("net/ipv6/conf/default/disable_ipv6", 1)  # the kernel would send router solicitations
            descriptor, offload = namespace.call(lambda: _attach("srwan0", wants_offload=True))
            devices.append(Tun(namespace, descriptor, offload))
            stack.callback(devices[-1].close)
            namespace.ip("addr", "add", f"{address}/24", "dev", "srwan0")
            namespace.ip("link", "set", "srwan0", "up", "mtu", "1280")
            namespace.ip("route", "add", SIDES[1 - number][1], "dev", "srwan0")
            sockets.append(stack.enter_context(namespace.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))))
            sockets[-1].setblocking(False)
            sockets[-1].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            sockets[-1].bind((address, PORT))
        yield devices, sockets


@asynccontextmanager
async def gateways() -> AsyncIterator[Pair]:
    """Two gateways with TUNs and sessions, and the relay; no lane is set yet."""
    clock = Clock()
    routers: list[Router] = []
    with tuns() as (devices, sockets):
        try:
            routers += [Router(clock, seed) for seed in (1, 2, 3)]
            pair = Pair(routers, *sockets)
            async with trio.open_nursery() as nursery:
                for router in routers:
                    router.forwarder.set_members({locator_of(other.node_id): other.node_id for other in routers})
                    nursery.start_soon(router.run)
                ways = [*itertools.pairwise(routers), (routers[0], routers[2])]
                for one, other in ways:
                    one.sessions.connect(other.node_id, other.transport.local_addresses[0], clock.now())
                for one, other in ways:
                    await one.until(lambda one=one, other=other: bool(one.sessions.current(other.node_id)))  # type: ignore[misc]
                    await other.until(lambda one=one, other=other: bool(other.sessions.current(one.node_id)))  # type: ignore[misc]
                for number, router in enumerate((pair.ingress, pair.egress)):
                    router.device, peer = devices[number], (pair.egress, pair.ingress)[number].node_id
                    router.gateway.open(devices[number].descriptor, has_udp=devices[number].offload.has_udp)
                    routes = [prefix(SIDES[1 - number][1], peer)]
                    router.gateway.set_networks([prefix(SIDES[number][1])], routes, mtu_bytes=1280, classes=CLASSES)
                yield pair
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                for router in routers:
                    if router.forwarder.tun_plane is not None:
                        router.forwarder.tun_plane.close()
                    await router.transport.aclose()


async def test_a_path_that_switches_under_load_loses_and_repeats_nothing() -> None:
    async with gateways() as pair:
        pair.serve_tags()
        pair.steer(is_relayed=False)
        await pair.ingress.until(lambda: len(pair.acks(is_for_data=False)) == 2)
        wanted: Counter[int] = Counter()
        for start in range(0, 12_800, BATCH):
            is_relayed = start // BATCH % 2 == 1
            pair.steer(is_relayed=is_relayed)
            before = pair.ingress.gateway.reading().sent.packets
            pair.send(BATCH)
            wanted[RELAY_TAG if is_relayed else DIRECT_TAG] += BATCH
            await pair.receive(waiting_max=2 * BATCH)
            await pair.ingress.until(lambda before=before: pair.ingress.gateway.reading().sent.packets == before + BATCH)  # type: ignore[misc]
        await pair.receive()
        assert list(range(12_800)) == sorted(pair.arrived)
        sent: Counter[int] = Counter()
        seqs = []
        for each in pair.ingress.gateway.take_sent():
            sent[each.path_tag] += each.packets
            seqs.append(each.seq)
        assert wanted == sent
        assert sorted(set(seqs)) == seqs
        assert 12_799 == seqs[-1]
        counted = {(pair.ingress.node_id, tag): (count, count * 92) for tag, count in wanted.items()}
        await pair.egress.until(lambda: counted == dict(pair.egress.forwarder.counters().received))  # the last may be in the ring
        assert [] == pair.egress.taken_by_python == pair.ingress.upward


async def test_switches_while_packets_are_read_lose_and_repeat_nothing() -> None:
    async with gateways() as pair:
        pair.serve_tags()
        pair.steer(is_relayed=False)
        await pair.ingress.until(lambda: len(pair.acks(is_for_data=False)) == 2)
        for start in range(0, 12_800, BATCH):
            for at in range(8):
                pair.send(BATCH // 8)
                pair.steer(is_relayed=(start + at) % 2 == 1)
            await pair.receive(waiting_max=4 * BATCH)
        await pair.receive()
        assert list(range(12_800)) == sorted(pair.arrived)


async def test_new_keys_under_load_lose_nothing() -> None:
    async with gateways() as pair:
        pair.serve_tags()
        pair.steer(is_relayed=True)
        await pair.ingress.until(lambda: len(pair.acks(is_for_data=False)) == 2)
        before = pair.ingress.sessions.current(pair.egress.node_id)
        for start in range(0, 9_600, BATCH):
            if start % (16 * BATCH) == 0:
                for one, other in ((pair.ingress, pair.egress), (pair.ingress, pair.relay), (pair.relay, pair.egress)):
                    one.sessions.renew(other.node_id, one.clock.now())
                    one._flush()
            pair.send(BATCH)
            await pair.receive(waiting_max=2 * BATCH)
            await trio.lowlevel.checkpoint()
        await pair.receive()
        assert list(range(9_600)) == sorted(pair.arrived)
        assert before is not pair.ingress.sessions.current(pair.egress.node_id)


async def test_without_a_lane_packets_go_up_whole_and_sequence_numbers_are_shared() -> None:
    async with gateways() as pair:
        peer = pair.egress.node_id
        pair.ingress.gateway.set_lane(peer, 0)
        pair.send(3)
        await pair.ingress.until(lambda: len(pair.ingress.upward) == 3)
        packets = pair.ingress.upward
        seq = pair.ingress.gateway.take_seqs(peer, 0, len(packets))
        sealed = encode_packets(TUNNEL_FLOW_MIN, seq, pair.ingress.clock.stamp_ns(), packets)
        path = pair.path(Function.END_DX4, is_relayed=False)
        assert 3 == pair.ingress.forwarder.send_payloads(path, DIRECT_TAG, peer, sealed)
        await pair.receive()  # with right checksums, or the kernel would not take them
        await pair.egress.until(lambda: len(pair.egress.taken_by_python) == 3)  # the first ones of a path tag
        pair.steer(is_relayed=False)
        pair.send(2)
        await pair.receive()
        assert [0, 1, 2, 3, 4] == pair.arrived
        assert 3 == len(pair.egress.taken_by_python)
        assert [4] == [each.seq for each in pair.ingress.gateway.take_sent()][-1:]
        assert (5, 5 * 92) == pair.ingress.forwarder.sent(peer, DIRECT_TAG)
        direct = pair.ingress.node_id, DIRECT_TAG
        await pair.egress.until(lambda: pair.egress.forwarder.counters().received[direct] == (5, 5 * 92))


async def test_data_are_answered_with_what_arrived_until_then() -> None:
    async with gateways() as pair:
        pair.serve_tags()
        pair.steer(is_relayed=True)
        await pair.ingress.until(lambda: len(pair.acks(is_for_data=False)) == 2)
        await trio.sleep(0.03)
        pair.send(1)
        await pair.ingress.until(lambda: len(pair.acks(is_for_data=True)) == 1)
        await trio.sleep(0.03)
        pair.send(BATCH)
        await pair.ingress.until(lambda: len(pair.acks(is_for_data=True)) >= 2)
        first, second, *_ = pair.acks(is_for_data=True)
        assert (RELAY_TAG, 1, 92, 0) == (first.path_tag, first.ack.packets, first.ack.octets, first.ack.keepalive_seq)
        assert (2, 2 * 92, 1) == (second.ack.packets, second.ack.octets, second.ack.keepalive_seq)
        assert 0 < second.ack.keepalive_raw_ns < 20_000_000_000
        await pair.receive()
        alive = Payload(PayloadKind.KEEPALIVE, 0, 1, pair.ingress.clock.stamp_ns(), KeepAlive(65, 65 * 92, answer_ms=20).encode())
        pair.ingress.forwarder.send_payload(pair.path(Function.END_APP, is_relayed=True), RELAY_TAG, pair.egress.node_id, alive.encode())
        await pair.ingress.until(lambda: len(pair.acks(is_for_data=False)) == 3)
        last = pair.acks(is_for_data=False)[-1].ack
        assert (65, 65 * 92, 64) == (last.packets, last.octets, last.highest_seq)


async def test_a_source_that_lies_elsewhere_or_a_change_of_routes_leaves_packets_to_python() -> None:
    async with gateways() as pair:
        pair.serve_tags()
        pair.steer(is_relayed=False)
        await pair.ingress.until(lambda: len(pair.acks(is_for_data=False)) == 2)
        pair.send(1)
        await pair.receive()
        routes = [prefix(SIDES[0][1], pair.relay.node_id)]  # the ingress may not speak for this network any more
        pair.egress.gateway.set_networks([prefix(SIDES[1][1])], routes, mtu_bytes=1280, classes=CLASSES)
        pair.send(1)
        await pair.egress.until(lambda: len(pair.egress.taken_by_python) == 1)
        pair.ingress.gateway.set_networks([prefix(SIDES[0][1])], [prefix(SIDES[1][1])], mtu_bytes=1280, classes=CLASSES)
        pair.send(1)
        await pair.ingress.until(lambda: len(pair.ingress.upward) == 1)


async def test_what_was_opened_is_closed_and_the_interface_goes_with_its_device() -> None:
    before = len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
    async with gateways() as pair:
        gateway = pair.ingress.gateway
        descriptor = pair.ingress.device.descriptor if pair.ingress.device is not None else -1
        with pytest.raises(OSError, match="Invalid argument"):
            gateway.open(descriptor, has_udp=False)
        gateway.close()
        gateway.close()
        gateway.open(descriptor, has_udp=True)
        pair.serve_tags()
        pair.steer(is_relayed=True)
        await pair.ingress.until(lambda: len(pair.acks(is_for_data=False)) == 2)
        pair.send(1)
        await pair.receive()
    assert before == (len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task")))


async def test_an_interface_that_somebody_removed_is_noticed() -> None:
    async with gateways() as pair:
        assert pair.ingress.device is not None
        pair.ingress.device.namespace.ip("link", "del", "srwan0")
        await pair.ingress.until(lambda: pair.ingress.gateway.gone_errno != 0)
