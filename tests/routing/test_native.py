"""The native plane on real sockets of the loopback: its thread relays, ends packets, wakes Python, and is gone when closed."""

from __future__ import annotations

import gc
import itertools
import os
import random
import socket
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from srwan.clock import Clock
from srwan.errors import NoSession
from srwan.identity import Identity
from srwan.overlay.handshake import SESSION_PLANE
from srwan.overlay.session import Sessions
from srwan.overlay.trains import Train, segments
from srwan.overlay.udp import open_udp
from srwan.overlay.view import Role
from srwan.routing.packet import DATA_PLANE
from srwan.routing.payload import KeepAlive, Payload, PayloadKind
from srwan.routing.planes import make_forwarder, open_transport
from srwan.routing.sid import Function, Sid, locator_of
from srwan.types import NodeId, UdpAddress

if TYPE_CHECKING:
    from srwan.routing.native.forwarder import NativeForwarder

pytestmark = pytest.mark.needs("native")
PATH_TAG, FLOW = 0xC0FFEE, 42
BATCH = 64
ANY_PORT: UdpAddress = ("127.0.0.1", 0)


def threads() -> int:
    """Threads of this process, those that Python does not know too."""
    return len(os.listdir("/proc/self/task"))


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


class Router:
    """Transport, sessions and forwarder as a node has them, without overlay and gossip."""

    def __init__(self, clock: Clock, *, plane: str, seed: int, address: UdpAddress = ANY_PORT) -> None:
        identity, rng = Identity(bytes([seed]) * 32), random.Random(seed)
        self.node_id: NodeId = identity.node_id
        self.clock = clock
        self.transport = open_transport([address], clock, wanted=plane)
        self.sessions = Sessions(identity, rng, entropy=rng.randbytes)
        self.forwarder = make_forwarder(
            self.transport,
            self.node_id,
            self.sessions,
            roles=Role.RELAY,
            send=self.transport.send,
            send_many=self.transport.send_many,
            read_stamp_ns=clock.stamp_ns,
            group_ns=lambda stamp_ns: stamp_ns,
        )
        self.bodies: list[bytes] = []
        self.events: list[object] = []
        self.others: list[bytes] = []
        self.batches = trio.Event()

    @property
    def address(self) -> UdpAddress:
        return self.transport.local_addresses[0]

    @property
    def native(self) -> NativeForwarder:
        from srwan.routing.native.forwarder import NativeForwarder

        assert isinstance(self.forwarder, NativeForwarder)
        return self.forwarder

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
            plane = datagram[0] >> 4 if datagram else -1
            if plane == SESSION_PLANE:
                self.sessions.receive_datagram(datagram, source, self.clock.now(), self.clock.wall_ns())
            elif plane == DATA_PLANE:
                self.forwarder.receive(datagram, source, rx_ns)
            else:
                self.others.append(datagram)
        while (event := self.forwarder.next_event()) is not None:
            self.events.append(event)
        for inbox in self.forwarder.ready_flows():
            self.bodies += [packet.body for packet in inbox.take()]
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


@asynccontextmanager
async def line(*planes: str, addresses: Sequence[UdpAddress] = ()) -> AsyncIterator[list[Router]]:
    """Routers in a line that know each other, with sessions between neighbours and between the ends."""
    clock = Clock()
    routers: list[Router] = []
    try:
        for number, plane in enumerate(planes):
            routers.append(Router(clock, plane=plane, seed=number + 1, address=addresses[number] if addresses else ANY_PORT))
        async with trio.open_nursery() as nursery:
            for router in routers:
                router.forwarder.set_members({locator_of(other.node_id): other.node_id for other in routers})
                nursery.start_soon(router.run)
            pairs = dict.fromkeys([*itertools.pairwise(routers), (routers[0], routers[-1])])
            for one, other in pairs:
                one.sessions.connect(other.node_id, other.address, clock.now())
            for one, other in pairs:
                await one.until(lambda one=one, other=other: bool(one.sessions.current(other.node_id)))  # type: ignore[misc]
                await other.until(lambda one=one, other=other: bool(other.sessions.current(one.node_id)))  # type: ignore[misc]
            yield routers
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            for router in routers:
                await router.transport.aclose()


def path_over(routers: Sequence[Router]) -> tuple[Sid, ...]:
    return (*(Sid.of(router.node_id, Function.END) for router in routers[1:-1]), Sid.of(routers[-1].node_id, Function.END_APP))


def plaintexts(start: int, count: int, size: int = 8) -> list[bytes]:
    return [
        Payload(PayloadKind.DATA, FLOW, seq, 0, seq.to_bytes(8, "big").ljust(size, b".")).encode() for seq in range(start, start + count)
    ]


async def send_all(routers: Sequence[Router], count: int, *, size: int = 8, after_batch: Callable[[int], None] = lambda _: None) -> None:
    """Send so that never more is under way than the sockets hold, and wait until all arrived."""
    ingress, egress, path = routers[0], routers[-1], path_over(routers)
    for start in range(0, count, BATCH):
        batch = plaintexts(start, min(BATCH, count - start), size)
        if ingress.forwarder.name == "native":
            assert len(batch) == ingress.native.send_payloads(path, PATH_TAG, egress.node_id, batch)
        else:
            assert all(ingress.forwarder.send_payload(path, PATH_TAG, egress.node_id, plaintext) for plaintext in batch)
        after_batch(start)
        while len(egress.bodies) + 8 * BATCH < start:
            await egress.until(lambda start=start: len(egress.bodies) + 8 * BATCH >= start)  # type: ignore[misc]
        await trio.lowlevel.checkpoint()
    await egress.until(lambda: len(egress.bodies) >= count)


def numbers(router: Router) -> list[int]:
    return sorted(int.from_bytes(body[:8], "big") for body in router.bodies)


@pytest.mark.parametrize("planes", [("portable", "native", "portable"), ("native",) * 3, ("native", "portable", "native"), ("native",) * 2])
async def test_everything_arrives_once_whichever_planes_are_on_the_way(planes: tuple[str, ...]) -> None:
    async with line(*planes) as routers:
        await send_all(routers, 2_000)
        assert list(range(2_000)) == numbers(routers[-1])
        assert [{}] * len(planes) == [dict(router.forwarder.counters().drops) for router in routers]
        if len(planes) == 3:
            ((key, count),) = routers[1].forwarder.counters().relayed.items()
            assert ((routers[0].node_id, PATH_TAG), 2_000) == (key, count.packets)


@pytest.mark.parametrize("seed", range(3))
async def test_packets_of_all_lengths_leave_in_trains_that_are_cut_where_they_were_joined(seed: int) -> None:
    """A train may end with a shorter packet, not go on after it; whoever joins them wrongly, the kernel cuts elsewhere."""
    rng = random.Random(seed)
    bodies = [rng.randbytes(rng.choice((0, 1, 500, 500, 500, 1000, 1000, rng.randrange(1100)))) for _ in range(600)]
    async with line("native", "native", "native") as routers:
        ingress, _, egress = routers
        sealed = [Payload(PayloadKind.DATA, FLOW, seq, 0, body).encode() for seq, body in enumerate(bodies)]
        for start in range(0, len(sealed), BATCH):
            batch = sealed[start : start + BATCH]
            assert len(batch) == ingress.native.send_payloads(path_over(routers), PATH_TAG, egress.node_id, batch)
            await egress.until(lambda start=start: len(egress.bodies) + 2 * BATCH >= start)  # type: ignore[misc]
        await egress.until(lambda: len(egress.bodies) == len(bodies))
        assert bodies == egress.bodies
        assert [{}] * 3 == [dict(router.forwarder.counters().drops) for router in routers]


@pytest.mark.needs("ipv6")
async def test_it_relays_between_ipv4_and_ipv6() -> None:
    clock = Clock()
    async with line("native", "native", addresses=[("::1", 0), ("::1", 0)]) as routers:
        await send_all(routers, 200, size=1000)
        assert list(range(200)) == numbers(routers[-1])
    both = open_transport([ANY_PORT, ("::1", 0)], clock, wanted="native")
    await both.aclose()


async def test_keepalives_are_answered_with_stamps_of_the_kernel() -> None:
    from srwan.routing.egress import AckArrived

    async with line("native", "native", "native") as routers:
        ingress, _, egress = routers
        await send_all(routers, 10)
        alive = Payload(PayloadKind.KEEPALIVE, 0, 5, ingress.clock.stamp_ns(), KeepAlive(10, 80).encode())
        assert ingress.forwarder.send_payload(path_over(routers), PATH_TAG, egress.node_id, alive.encode())
        await ingress.until(lambda: any(isinstance(event, AckArrived) and event.ack.keepalive_seq == 5 for event in ingress.events))
        (ack,) = [event for event in ingress.events if isinstance(event, AckArrived) and event.ack.keepalive_seq == 5]
        assert (10, 80) == (ack.ack.packets, ack.ack.octets)
        assert 0 < ack.raw_ns < 20_000_000_000
        assert 0 < ack.ack.keepalive_raw_ns < 20_000_000_000


async def test_tables_change_under_load_without_a_lost_packet() -> None:
    async with line("native", "native", "native") as routers:
        relay = routers[1]
        members = {locator_of(router.node_id): router.node_id for router in routers}
        strangers = [NodeId(number.to_bytes(32, "big")) for number in range(1, 200)]

        def change(start: int) -> None:
            some = strangers[start // BATCH % 100 :: 3]
            relay.forwarder.set_members({**members, **{locator_of(node): node for node in some}})
            relay.forwarder.drop_peer(strangers[start // BATCH % 100])
            relay.forwarder.counters()

        await send_all(routers, 10_000, after_batch=change)
        assert list(range(10_000)) == numbers(routers[-1])
        assert dict(relay.forwarder.counters().drops) == {}


async def test_new_keys_under_load_lose_nothing() -> None:
    async with line("native", "native", "native") as routers:
        pairs = ((0, 1), (1, 2), (0, 2))
        before = [routers[one].sessions.current(routers[other].node_id) for one, other in pairs]

        def renew(start: int) -> None:
            if start % (16 * BATCH) == 0:
                for one, other in pairs:
                    routers[one].sessions.renew(routers[other].node_id, routers[one].clock.now())
                    routers[one]._flush()

        await send_all(routers, 12_000, after_batch=renew)
        assert list(range(12_000)) == numbers(routers[-1])
        assert [{}] * 3 == [dict(router.forwarder.counters().drops) for router in routers]
        after = [routers[one].sessions.current(routers[other].node_id) for one, other in pairs]
        assert all(old is not new for old, new in zip(before, after, strict=True))


async def test_python_follows_a_peer_that_moved() -> None:
    async with line("portable", "native", "portable") as routers:
        ingress, relay, egress = routers
        session = relay.sessions.current(ingress.node_id)
        assert session is not None
        elsewhere = open_udp([ANY_PORT], ingress.clock)
        try:
            ingress.forwarder._send = elsewhere.send  # type: ignore[attr-defined]
            for plaintext in plaintexts(0, 3):
                ingress.forwarder.send_payload(path_over(routers), PATH_TAG, egress.node_id, plaintext)
            await relay.until(lambda: session.address == elsewhere.local_addresses[0])
            await egress.until(lambda: len(egress.bodies) == 3)
        finally:
            await elsewhere.aclose()


async def test_a_flood_of_rubbish_keeps_neither_packets_nor_handshakes_from_passing() -> None:
    async with line("native", "native", "native") as routers:
        relay = routers[1]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flood:
            flood.connect(relay.address)
            rng = random.Random(1)
            rubbish = [
                *(b"\x21" + rng.randbytes(rng.randrange(0, 300)) for _ in range(64)),  # SR packets of nobody
                *(b"\x11\x01" + rng.randbytes(198) for _ in range(32)),  # handshakes
                *(b"\x31" + rng.randbytes(100) for _ in range(32)),  # frames
                *(rng.randbytes(1) for _ in range(8)),
            ]

            def pour(_: int) -> None:
                for data in rubbish:
                    flood.send(data)

            await send_all(routers, 4_000, after_batch=pour)
        assert list(range(4_000)) == numbers(routers[-1])
        drops = relay.forwarder.counters().drops
        assert drops["short"] > 100
        assert {"short", "flags", "length", "session", "queue-full"} >= set(drops)


async def test_what_python_does_not_read_is_dropped_and_counted() -> None:
    from srwan.routing.native._core import Plane
    from srwan.routing.native.transport import NativeTransport

    transport = open_udp([ANY_PORT], Clock(), make=NativeTransport)
    assert isinstance(transport, NativeTransport)
    plane = Plane(b"\xfd1234567")
    transport.attach(plane)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flood:
            flood.connect(transport.local_addresses[0])
            with trio.fail_after(20):
                while "queue-full" not in plane.counters()[2]:
                    for _ in range(200):
                        flood.send(bytes(1200))
                    await trio.lowlevel.checkpoint()
        batch = await transport.receive()
        assert [bytes(1200)] * 64 == [data for data, _, _ in batch]
        assert [bytes(1200)] * 64 == [data for data, _, _ in await transport.receive()]
    finally:
        await transport.aclose()


async def test_datagrams_come_up_as_they_were_sent() -> None:
    async with line("native", "native") as routers:
        sent = [b"", b"x", b"\x31" + bytes(1199), bytes(2048), bytes(2049), b"\x40last"]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            for data in sent:
                other.sendto(data, routers[0].address)
        await routers[0].until(lambda: b"\x40last" in routers[0].others)
        assert [data for data in sent if len(data) <= 2048] == routers[0].others
        assert routers[0].transport.drops["truncated"] == 1


async def test_a_transport_that_no_plane_uses_is_an_ordinary_one() -> None:
    transport = open_transport([ANY_PORT], Clock(), wanted="native")
    before = threads()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.sendto(b"hello", transport.local_addresses[0])
    ((data, _, _),) = await transport.receive()
    assert b"hello" == data
    assert before == threads()
    await transport.aclose()


async def test_closing_ends_a_waiting_reader() -> None:
    from srwan.routing.native._core import Plane
    from srwan.routing.native.transport import NativeTransport

    transport = open_udp([ANY_PORT], Clock(), make=NativeTransport)
    assert isinstance(transport, NativeTransport)
    transport.attach(Plane(b"\xfd1234567"))
    ended: list[type[BaseException]] = []

    async def wait() -> None:
        try:
            await transport.receive()
        except trio.ClosedResourceError as error:
            ended.append(type(error))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        await transport.aclose()
    assert [trio.ClosedResourceError] == ended
    with pytest.raises(trio.ClosedResourceError):
        await transport.receive()
    await transport.aclose()


async def test_nothing_is_left_after_closing_under_load() -> None:
    async def once() -> None:
        async with line("native", "native", "native") as routers:
            for start in range(0, 10 * BATCH, BATCH):
                routers[0].native.send_payloads(path_over(routers), PATH_TAG, routers[-1].node_id, plaintexts(start, BATCH))

    await once()
    gc.collect()
    threads_before, descriptors_before, alive = threads(), descriptors(), threading.active_count()
    sizes = []
    for _ in range(4):
        for _ in range(5):
            await once()
        gc.collect()
        sizes.append(_resident_kib())
    assert (threads_before, descriptors_before, alive) == (threads(), descriptors(), threading.active_count())
    assert sizes[-1] - sizes[0] < 8 << 10  # 15 rounds of three planes; one plane is 10 MiB


def _resident_kib() -> int:
    with open("/proc/self/status") as status:
        return next(int(row.split()[1]) for row in status if row.startswith("VmRSS:"))


async def test_a_removed_session_seals_nothing_in_c_or_python() -> None:
    async with line("native", "native") as routers:
        ingress, egress = routers
        session = ingress.sessions.current(egress.node_id)
        assert session is not None
        ingress.sessions.drop_peer(egress.node_id)
        assert 0 == ingress.native.send_payloads(path_over(routers), PATH_TAG, egress.node_id, plaintexts(0, 3))
        with pytest.raises(NoSession):
            session.end_seal.cipher.encrypt(bytes(12), b"", None)
        assert {"no-session": 1} == dict(ingress.forwarder.counters().drops)
