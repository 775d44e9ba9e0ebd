"""The kernel data plane in network namespaces: ingress A - relay R - egress C, with traffic through a real kernel."""

from __future__ import annotations

import errno
import itertools
import json
import mmap
import os
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Self

import attrs
import pytest
from scapy.layers.inet6 import IPv6, IPv6ExtHdrSegmentRouting

from srwan.kernel_config import Delivery, HmacKey
from srwan.overlay.view import Role
from srwan.routing.kernel.border import HMAC_TLV_BYTES, IPV6_BYTES, NativeBorder, hmac_of, native_source
from srwan.routing.kernel.plan import (
    KEY_ID_BASE,
    KernelState,
    KernelWish,
    NextHop,
    Operation,
    billed_sid,
    delivery_sid,
    difference,
    plan_kernel,
)
from srwan.routing.kernel.plane import KernelAccess
from srwan.routing.kernel.tun import TUN_NAME, NativeTun
from srwan.routing.payload import Payload, PayloadKind
from srwan.routing.sid import Function, Sid
from srwan.routing.srh import NEXT_HEADER_SEALED, Srh
from srwan.testing.namespaces import Lab, Namespace, make_line, wait_until
from srwan.testing.packets import SrNetwork, SrRouter
from srwan.types import NodeId

pytestmark = [pytest.mark.needs("netns"), pytest.mark.needs("srv6")]

A, R, C = (NodeId(bytes([number]) * 32) for number in (1, 2, 3))
DT6, DX4, DX6 = Delivery("End.DT6", table=255), Delivery("End.DX4", next_hop="10.99.0.1"), Delivery("End.DX6", next_hop="fd71:2::1")
CIRCUIT = 7
PORT = 7009
KEY = HmacKey(KEY_ID_BASE + 42, bytes(range(32)))
ETH_P_ALL = 3
"""Shown before the protocols take the packet; a socket of one protocol gets it after IPv6 did."""
MTU = 1600


class Box:
    """A namespace's kernel, driven from here: what is asked is done by a thread inside."""

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace
        self.kernel = namespace.call(KernelAccess)
        self.state = KernelState()

    @property
    def device(self) -> str:
        return self.namespace.ports[0].device

    def apply(self, wish: KernelWish) -> int:
        wanted = plan_kernel(wish)
        operations = difference(self.state, wanted)
        self.perform(operations)
        self.state = wanted
        return len(operations)

    def forget(self) -> None:
        """Remove all that is ours."""
        self.perform(difference(self.state, KernelState()))
        self.state = KernelState()

    def perform(self, operations: list[Operation]) -> None:
        def run() -> None:
            for operation in operations:
                self.kernel.perform(operation)

        self.namespace.call(run)

    def counts(self) -> dict[Sid, tuple[int, int, int]]:
        _, counts = self.namespace.call(self.kernel.read)
        return {sid: (count.packets, count.octets, count.errors) for sid, count in counts.items()}


class Chain:
    """A, R and C in a line."""

    def __init__(self, line: tuple[Box, Box, Box], nodes: tuple[NodeId, NodeId, NodeId] = (A, R, C)) -> None:
        self.a, self.r, self.c = line
        self.nodes = nodes
        a, r, c = nodes
        left, right = self.r.namespace.ports[0].device, self.r.namespace.ports[1].device
        to_left, to_right = NextHop(left, "fd71:1::1"), NextHop(right, "fd71:2::2")
        self.wish_a = KernelWish(
            node_id=a,
            roles=Role.EGRESS,
            interfaces=(self.a.device,),
            next_hops={r: NextHop(self.a.device, "fd71:1::2"), c: NextHop(self.a.device, "fd71:1::2")},
        )
        self.wish_r = KernelWish(
            node_id=r,
            roles=Role.RELAY,
            interfaces=(left, right),
            next_hops={a: to_left, c: to_right},
            bills=((a, CIRCUIT), (a, CIRCUIT + 1)),
        )
        self.wish_c = KernelWish(
            node_id=c,
            roles=Role.EGRESS,
            interfaces=(self.c.device,),
            next_hops={r: NextHop(self.c.device, "fd71:2::1"), a: NextHop(self.c.device, "fd71:2::1")},
            deliveries=(DT6, DX4, DX6),
        )

    def close(self) -> None:
        """Leave the line as it was."""
        for box in (self.a, self.r, self.c):
            box.forget()
            for port in box.namespace.ports:
                box.namespace.set_sysctl(f"net/ipv6/conf/{port.device}/seg6_require_hmac", 0)

    def program(self, key: HmacKey | None = None) -> None:
        """Bring all three to what a billed path A - R - C needs."""
        self.r.apply(attrs.evolve(self.wish_r, hmac_key=key))
        self.c.apply(attrs.evolve(self.wish_c, hmac_key=key))
        self.a.apply(attrs.evolve(self.wish_a, hmac_key=key, routes=self.routes(CIRCUIT)))

    def routes(self, circuit: int) -> dict[str, tuple[Sid, ...]]:
        a, r, c = self.nodes
        end = billed_sid(r, a, circuit)
        return {
            "fd99::/64": (end, delivery_sid(c, DT6)),
            "fd98::/64": (end, delivery_sid(c, DX6)),
            "10.99.0.0/24": (end, delivery_sid(c, DX4)),
        }


def is_reachable(address: str) -> bool:
    """Neighbours of fresh links are not known, and packets sent before they are may be lost."""
    with socket.socket(family_of(address), socket.SOCK_STREAM) as probe:
        probe.settimeout(0.3)
        return errno.ECONNREFUSED == probe.connect_ex((address, PORT))


@pytest.fixture(scope="module")
def line() -> Iterator[tuple[Box, Box, Box]]:
    with Lab("kernel") as lab:
        a, r, c = (Box(namespace) for namespace in make_line(lab, "ARC", mtu=MTU))
        for box, address in ((c, "fd99::1/128"), (c, "10.99.0.1/32"), (r, "fd98::1/128")):
            box.namespace.ip("addr", "add", address, "dev", "lo")
        for box, address in ((a, "fd71:2::2"), (c, "fd71:1::1"), (a, "10.71.2.2")):
            wait_until(lambda: box.namespace.call(lambda: is_reachable(address)), 10, f"{address} reachable")  # noqa: B023 - called at once
        yield a, r, c
        for box in (a, r, c):
            box.kernel.close()


@pytest.fixture
def chain(line: tuple[Box, Box, Box]) -> Iterator[Chain]:
    made = Chain(line)
    yield made
    made.close()


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def receiver(chain: Chain, address: str) -> socket.socket:
    def make() -> socket.socket:
        found = socket.socket(family_of(address), socket.SOCK_DGRAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        found.bind((address, PORT))
        found.settimeout(0.4)
        return found

    box = chain.r if address == "fd98::1" else chain.c
    return box.namespace.call(make)


def send(chain: Chain, address: str, numbers: range, *, each: Callable[[int], None] = lambda _: None) -> None:
    def run() -> None:
        with socket.socket(family_of(address), socket.SOCK_DGRAM) as sender:
            for number in numbers:
                sender.sendto(struct.pack("!I", number) + bytes(200), (address, PORT))
                each(number)
                if number % 20 == 19:
                    time.sleep(0.0005)  # a pace, not a synchronisation: the receiver's buffer holds some thousand

    chain.a.namespace.call(run)


def collect(sock: socket.socket) -> list[int]:
    """Numbers received, until nothing came for the socket's timeout."""
    numbers: list[int] = []
    try:
        while True:
            numbers.append(struct.unpack("!I", sock.recv(2000)[:4])[0])
    except TimeoutError:
        return numbers


def deliver(chain: Chain, address: str, count: int) -> list[int]:
    with receiver(chain, address) as sock:
        thread = threading.Thread(target=send, args=(chain, address, range(count)))
        thread.start()
        numbers = collect(sock)
        thread.join()
        return numbers + collect(sock)


class Wire:
    """Packets of a device, copied at the moment they pass: segment routing writes into what a plain packet socket would show later."""

    FRAMES, FRAME_BYTES = 64, 2048

    def __init__(self, namespace: Namespace, device: str) -> None:
        self.socket = namespace.call(lambda: self._open(device))
        self.ring = mmap.mmap(self.socket.fileno(), self.FRAMES * self.FRAME_BYTES)

    def _open(self, device: str) -> socket.socket:
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        size = self.FRAMES * self.FRAME_BYTES
        opened.setsockopt(263, 5, struct.pack("IIII", size, 1, self.FRAME_BYTES, self.FRAMES))  # SOL_PACKET, PACKET_RX_RING
        opened.bind((device, ETH_P_ALL))
        return opened

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.ring.close()
        self.socket.close()

    def find(self, is_wanted: Callable[[bytes], bool]) -> bytes:
        """The first IPv6 packet of a kind, within 2 s."""
        for at in range(0, self.FRAMES * self.FRAME_BYTES, self.FRAME_BYTES):
            while not struct.unpack_from("L", self.ring, at)[0] & 1:
                assert select.select([self.socket], [], [], 2)[0], "no such packet passed"
            length, _, _, start = struct.unpack_from("IIHH", self.ring, at + 8)
            packet = self.ring[at + start : at + start + length]
            if is_wanted(packet):
                return packet
        raise AssertionError("other packets filled the ring")


def is_segment_routed(packet: bytes) -> bool:
    return packet[0] >> 4 == 6 and packet[6] == 43


# --- plain kernel paths -----------------------------------------------------------------------------------------------


def test_what_is_delivered_equals_what_the_sids_counted(chain: Chain) -> None:
    chain.program()

    assert list(range(300)) == deliver(chain, "fd99::1", 300)
    assert list(range(200)) == deliver(chain, "10.99.0.1", 200)
    assert list(range(100)) == deliver(chain, "fd98::1", 100)  # cross-connected from C back to R, which has the address

    relay, egress = chain.r.counts(), chain.c.counts()
    assert {"billed": 600, "other circuit": 0, "plain": 0} == {
        "billed": relay[billed_sid(R, A, CIRCUIT)][0],
        "other circuit": relay[billed_sid(R, A, CIRCUIT + 1)][0],
        "plain": relay[Sid.of(R, Function.END)][0],
    }
    assert {DT6: 300, DX4: 200, DX6: 100} == {delivery: egress[delivery_sid(C, delivery)][0] for delivery in (DT6, DX4, DX6)}
    assert {0} == {errors for _, _, errors in (*relay.values(), *egress.values())}
    # IPv6: 40 outer, 40 SRH, 40 inner, 8 UDP, 204; IPv4: 20 inner.
    assert 400 * (40 + 40 + 40 + 8 + 204) + 200 * (40 + 40 + 20 + 8 + 204) == relay[billed_sid(R, A, CIRCUIT)][1]


def test_what_is_wanted_is_what_the_kernel_says_it_holds(chain: Chain) -> None:
    chain.program()
    for box in (chain.a, chain.r, chain.c):
        assert (box.state, []) == (box.namespace.call(box.kernel.read)[0], difference(box.namespace.call(box.kernel.read)[0], box.state))


def test_a_hundred_path_replacements_under_traffic_lose_duplicate_and_reorder_nothing(chain: Chain) -> None:
    chain.program()
    packets, changes = 6000, 100
    circuits = itertools.cycle((CIRCUIT + 1, CIRCUIT))
    done: list[int] = []

    def replace(number: int) -> None:
        if number % (packets // changes) == 0:
            done.append(chain.a.apply(attrs.evolve(chain.wish_a, routes=chain.routes(next(circuits)))))

    with receiver(chain, "fd99::1") as sock:
        thread = threading.Thread(target=send, args=(chain, "fd99::1", range(packets)), kwargs={"each": replace})
        thread.start()
        numbers = collect(sock)
        thread.join()
        numbers += collect(sock)
    assert [3] * changes == done  # the three prefixes, replaced in place
    assert list(range(packets)) == numbers
    counts = chain.r.counts()
    shares = [counts[billed_sid(R, A, circuit)][0] for circuit in (CIRCUIT, CIRCUIT + 1)]
    assert packets == sum(shares)
    assert abs(shares[0] - shares[1]) <= packets // changes


def test_unchanged_sids_keep_their_counters_when_a_plan_is_applied_again(chain: Chain) -> None:
    chain.program()
    deliver(chain, "fd99::1", 50)
    chain.r.apply(attrs.evolve(chain.wish_r, bills=(*chain.wish_r.bills, (C, CIRCUIT))))

    assert 50 == chain.r.counts()[billed_sid(R, A, CIRCUIT)][0]


def test_sids_cannot_be_reached_from_an_interface_that_is_no_underlay(chain: Chain) -> None:
    chain.program()
    chain.r.apply(attrs.evolve(chain.wish_r, interfaces=(chain.r.namespace.ports[1].device,)))

    assert [] == deliver(chain, "fd99::1", 20)


# --- HMAC -------------------------------------------------------------------------------------------------------------


@pytest.mark.needs("root")
def test_hmac_right_wrong_and_absent(chain: Chain) -> None:
    for box in (chain.r, chain.c):
        for port in box.namespace.ports:
            box.namespace.set_sysctl(f"net/ipv6/conf/{port.device}/seg6_require_hmac", 1)
    chain.program(KEY)
    end = billed_sid(R, A, CIRCUIT)

    assert list(range(60)) == deliver(chain, "fd99::1", 60)
    assert 0 == chain.r.counts()[end][2]
    assert [] == difference(chain.a.namespace.call(chain.a.kernel.read)[0], chain.a.state)

    wrong = attrs.evolve(KEY, secret=bytes(32))
    chain.r.apply(attrs.evolve(chain.wish_r, hmac_key=wrong))
    assert [] == deliver(chain, "fd99::1", 60)
    assert 60 == chain.r.counts()[end][2]

    chain.r.apply(attrs.evolve(chain.wish_r, hmac_key=KEY))
    chain.a.apply(attrs.evolve(chain.wish_a, routes=chain.routes(CIRCUIT)))  # without a key
    assert [] == deliver(chain, "fd99::1", 60)
    assert 120 == chain.r.counts()[end][2]


# --- bytes ------------------------------------------------------------------------------------------------------------


def test_our_srh_is_the_one_the_kernel_writes(chain: Chain) -> None:
    chain.program()
    with Wire(chain.r.namespace, chain.r.namespace.ports[0].device) as wire, receiver(chain, "10.99.0.1") as sock:
        send(chain, "10.99.0.1", range(1))
        packet = wire.find(is_segment_routed)
        collect(sock)
    path = chain.routes(CIRCUIT)["10.99.0.0/24"]
    expected = Srh.for_path(path, next_header=4).encode()

    assert expected == packet[IPV6_BYTES : IPV6_BYTES + len(expected)]
    assert path[0] == packet[24:40]


@pytest.mark.needs("root")
def test_our_hmac_is_the_one_the_kernel_writes(chain: Chain) -> None:
    chain.program(KEY)
    with Wire(chain.r.namespace, chain.r.namespace.ports[0].device) as wire, receiver(chain, "fd99::1") as sock:
        send(chain, "fd99::1", range(1))
        packet = wire.find(is_segment_routed)
        collect(sock)
    srh = packet[IPV6_BYTES : IPV6_BYTES + 8 + 32 + HMAC_TLV_BYTES]

    assert hmac_of(KEY, packet[8:24], srh) == srh[-32:]


# --- mixed paths ------------------------------------------------------------------------------------------------------


@attrs.define
class Mixed:
    """User space at A and C, the kernel at R."""

    chain: Chain
    network: SrNetwork
    routers: list[SrRouter]
    tuns: dict[str, NativeTun]


@pytest.fixture(params=[None, pytest.param(KEY, marks=pytest.mark.needs("root"))], ids=["plain", "hmac"])
def mixed(request: pytest.FixtureRequest, line: tuple[Box, Box, Box]) -> Iterator[Mixed]:
    key: HmacKey | None = request.param
    network = SrNetwork()
    routers = network.line([Role.RELAY] * 3)
    ingress, relay, egress = (router.node_id for router in routers)
    chain = Chain(line, (ingress, relay, egress))
    tuns = {name: box.namespace.call(NativeTun) for name, box in (("A", chain.a), ("C", chain.c))}
    chain.r.apply(attrs.evolve(chain.wish_r, hmac_key=key))
    for router, box, wish, tun in ((routers[0], chain.a, chain.wish_a, tuns["A"]), (routers[2], chain.c, chain.wish_c, tuns["C"])):
        box.apply(attrs.evolve(wish, native_interface=TUN_NAME, deliveries=()))
        border = NativeBorder(router.node_id, [relay], [ingress, egress], hmac_key=key, is_hmac_required=key is not None)
        router.forwarder.set_border(border, tun.send)
    if key is not None:
        for port in chain.r.namespace.ports:
            chain.r.namespace.set_sysctl(f"net/ipv6/conf/{port.device}/seg6_require_hmac", 1)
    yield Mixed(chain, network, routers, tuns)
    chain.close()
    for tun in tuns.values():
        os.close(tun._fd)


def read_tun(tun: NativeTun) -> bytes:
    while True:
        readable, _, _ = select.select([tun._fd], [], [], 2)
        assert readable, "nothing came out of the TUN"
        packets: list[bytes] = []
        tun.read(packets.append)
        if packets:
            return packets[0]


def test_one_packet_crosses_user_space_kernel_and_user_space_with_the_same_sids(mixed: Mixed) -> None:
    ingress, relay, egress = mixed.routers
    path = (relay.sid(), egress.sid(Function.END_APP))
    payload = Payload(PayloadKind.DATA, 42, 0, 0, b"through the kernel")
    r = mixed.chain.r.namespace
    with Wire(r, r.ports[0].device) as before, Wire(r, r.ports[1].device) as after:
        assert ingress.forwarder.send_payload(path, 0xC0FFEE, egress.node_id, payload.encode())
        came = read_tun(mixed.tuns["C"])
        seen = [wire.find(is_segment_routed) for wire in (before, after)]

    egress.forwarder.receive_native(came, 1)
    assert [b"through the kernel"] == [packet.body for inbox in egress.forwarder.ready_flows() for packet in inbox.take()]
    assert ({}, {}) == (ingress.drops, egress.drops)
    assert 1 == mixed.chain.r.counts()[relay.sid()][0]
    for packet, left, active in zip(seen, (1, 0), path, strict=True):
        read = IPv6(packet)
        header = read[IPv6ExtHdrSegmentRouting]
        assert (str(active), left, 1, NEXT_HEADER_SEALED) == (read.dst, header.segleft, header.lastentry, header.nh)
        assert [str(path[1]), str(path[0])] == header.addresses
        assert native_source(ingress.node_id) == socket.inet_pton(socket.AF_INET6, read.src)
        assert b"through the kernel" not in packet
    assert not mixed.network.queue  # nothing went any other way


def test_answers_come_back_over_the_kernel_router(mixed: Mixed) -> None:
    ingress, relay, egress = mixed.routers
    back = (relay.sid(), ingress.sid(Function.END_APP))
    payload = Payload(PayloadKind.DATA, 43, 0, 0, b"and back")
    assert egress.forwarder.send_payload(back, 5, ingress.node_id, payload.encode())
    ingress.forwarder.receive_native(read_tun(mixed.tuns["A"]), 1)

    assert [b"and back"] == [packet.body for inbox in ingress.forwarder.ready_flows() for packet in inbox.take()]


# --- status -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_status_shows_sids_with_their_counters(chain: Chain) -> None:
    chain.program()
    deliver(chain, "fd99::1", 25)
    shown = json.loads(chain.r.namespace.run(sys.executable, "-m", "srwan", "status", "--json"))

    assert {"sid": str(billed_sid(R, A, CIRCUIT)), "does": "End", "packets": 25, "octets": 25 * 332, "errors": 0} in shown["sids"]
    assert {"End": 3} == {does: sum(entry["does"] == does for entry in shown["sids"]) for does in ("End",)}
