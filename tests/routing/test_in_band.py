"""Handshakes over relays: their bytes, what is refused, and nodes that reach each other although no datagram passes between them."""

from __future__ import annotations

import math
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

import srwan
from srwan.clock import Clock
from srwan.config import make_config
from srwan.errors import DecodeError, RemoteProtocolError
from srwan.node import open_sockets
from srwan.overlay.handshake import COOKIE_BYTES, INIT_BYTES, RESPONSE_BYTES
from srwan.overlay.memory import MemoryNetwork
from srwan.overlay.session import Session, Sessions
from srwan.overlay.way import RelayedWay
from srwan.routing.handshake_ways import RELAYS_CALLED, HandshakeWays
from srwan.routing.in_band import BYTES_MAX, HandshakeArrived, read_in_band, write_in_band
from srwan.routing.payload import Payload, PayloadKind
from srwan.routing.portable import PortableForwarder
from srwan.routing.relay import Delivered
from srwan.routing.sid import Function, Sid, locator_of
from srwan.routing.srh import NEXT_HEADER_SESSION, Srh
from srwan.swarm.in_memory import open_memory_node
from srwan.swarm.links import EmulatedTransport, Link
from srwan.testing.packets import SrNetwork, SrRouter
from srwan.types import NodeId, UdpAddress

A, B, C, D = (NodeId(bytes([number]) * 32) for number in range(1, 5))
TAG = 0xFACE
INIT = b"\x12\x01" + bytes(INIT_BYTES - 2)


def delivered(payload: bytes, relays: tuple[NodeId, ...] = (B, C)) -> Delivered:
    segments = (*(Sid.of(relay, Function.END) for relay in relays), Sid.of(D, Function.END_APP))
    neighbour = relays[-1] if relays else A
    return Delivered(neighbour, Srh(NEXT_HEADER_SESSION, 0, 0, segments), TAG, payload, 0)


def way_of(ends: list[SrRouter]) -> RelayedWay:
    """From the first over those between to the last."""
    return RelayedWay((*(bytes(router.sid()) for router in ends[1:-1]), bytes(ends[-1].sid(Function.END_APP))), TAG)


# -- bytes ---------------------------------------------------------------------------------------------------------------------------------


def test_answer_goes_back_over_the_same_relays_to_the_sid_in_the_payload() -> None:
    own = Sid.of(A, Function.END_APP)
    payload = write_in_band(own, INIT)
    assert bytes(own) + INIT == payload
    back = RelayedWay((bytes(Sid.of(C, Function.END)), bytes(Sid.of(B, Function.END)), bytes(own)), TAG)
    assert HandshakeArrived(INIT, back) == read_in_band(delivered(payload))


@pytest.mark.parametrize(
    ("payload", "relays", "reason"),
    [
        (b"", (B,), "in-band-length"),
        (write_in_band(Sid.of(A, Function.END_APP), bytes(31)), (B,), "in-band-length"),
        (write_in_band(Sid.of(A, Function.END_APP), bytes(INIT_BYTES + 1)), (B,), "in-band-length"),
        (write_in_band(Sid.of(A, Function.END_APP), INIT), (), "in-band-way"),
        (write_in_band(Sid.of(A, Function.END), INIT), (B,), "in-band-way"),
        (write_in_band(Sid.of(A, Function.END_APP, 1), INIT), (B,), "in-band-way"),
        (write_in_band(Sid.of(B, Function.END_APP), INIT), (C, B), "loop"),
        (write_in_band(Sid.of(D, Function.END_APP), INIT), (C, B), "loop"),
    ],
)
def test_handshake_without_a_way_back_is_refused(payload: bytes, relays: tuple[NodeId, ...], reason: str) -> None:
    with pytest.raises(DecodeError) as caught:
        read_in_band(delivered(payload, relays))
    assert reason == caught.value.reason


@given(st.binary(max_size=BYTES_MAX + 8), st.lists(st.sampled_from((A, B, C)), max_size=3, unique=True))
def test_random_payload_raises_nothing_but_remote_errors_or_has_a_valid_way_back(payload: bytes, relays: list[NodeId]) -> None:
    try:
        arrived = read_in_band(delivered(payload, tuple(relays)))
    except RemoteProtocolError:
        return
    assert payload[16:] == arrived.datagram
    Srh.for_path(tuple(map(Sid, arrived.way.segments)))


# -- two nodes between whom no datagram passes ---------------------------------------------------------------------------------------------


class Divided:
    """Routers in a line with sessions between neighbours only; `pump` moves datagrams, of which none passes between the two ends."""

    def __init__(self, relays: int = 1, make_forwarder: Callable[..., PortableForwarder] = PortableForwarder) -> None:
        self.network = SrNetwork(0, make_forwarder)
        self.routers = [self.network.add() for _ in range(relays + 2)]
        self.network.introduce()
        for left, right in zip(self.routers, self.routers[1:], strict=False):
            self.network.connect(left, right)
        self.a, self.c = self.routers[0], self.routers[-1]
        for router in self.routers:
            router.sessions.on_relayed(partial(self._relay, router))
        self.is_blocked = True
        self.seen: list[bytes] = []

    def _relay(self, router: SrRouter, datagram: bytes, way: RelayedWay) -> None:
        router.forwarder.send_handshake(way, datagram)

    def pump(self) -> None:
        for _ in range(200):
            if self.network.queue:
                flight = self.network.queue[0]
                if self.is_blocked and {flight.source, flight.destination} == {self.a.address, self.c.address}:
                    self.network.queue.popleft()
                else:
                    self.network.step()
            for router in self.routers:
                while (event := router.forwarder.next_event()) is not None:
                    if isinstance(event, HandshakeArrived):
                        self.seen.append(event.datagram)
                        router.sessions.receive_datagram(event.datagram, event.way, self.network.now, self.network.now_ns)
                router.flush()
            if not self.network.queue:
                return

    def session(self, router: SrRouter) -> Session:
        other = self.c if router is self.a else self.a
        session = router.sessions.current(other.node_id)
        assert session is not None
        return session

    def send(self, path: tuple[Sid, ...]) -> bool:
        payload = Payload(PayloadKind.DATA, 1, 0, 0, b"x").encode()
        return self.a.forwarder.send_payload(path, TAG, self.c.node_id, payload)

    def received(self) -> int:
        return sum(len(inbox.take()) for inbox in self.c.forwarder.ready_flows())


def make_native(node_id: NodeId, sessions: Sessions, **arguments: Any) -> PortableForwarder:
    from srwan.routing.native._core import Plane
    from srwan.routing.native.forwarder import NativeForwarder

    return NativeForwarder(Plane(locator_of(node_id)), node_id, sessions, **arguments)


@pytest.mark.parametrize("make_forwarder", [PortableForwarder, pytest.param(make_native, marks=pytest.mark.needs("native"))])
@pytest.mark.parametrize("relays", [1, 2, 6])
def test_session_forms_over_relays_and_uses_the_end_keys_only(relays: int, make_forwarder: Callable[..., PortableForwarder]) -> None:
    scene = Divided(relays, make_forwarder)
    scene.a.sessions.connect(scene.c.node_id, way_of(scene.routers), scene.network.now)
    scene.pump()
    assert [1, 2, 3, 4] == [datagram[1] for datagram in scene.seen]
    for router in (scene.a, scene.c):
        session = scene.session(router)
        assert session.is_confirmed
        assert session.address is None
    path = tuple(map(Sid, way_of(scene.routers).segments))
    assert scene.send(path)
    scene.pump()
    assert 1 == scene.received()
    assert not scene.send(path[-1:])  # the direct way: no address, nothing may be sealed for it
    assert {"no-session": 1} == scene.a.drops


def test_relays_learn_nothing_but_who_speaks_with_whom() -> None:
    scene = Divided()
    scene.a.sessions.connect(scene.c.node_id, way_of(scene.routers), scene.network.now)
    scene.pump()
    assert scene.routers[1].sessions.by_index(scene.session(scene.a).local_index) is None
    assert not any(datagram.find(scene.a.node_id) >= 0 for datagram in scene.seen)


@pytest.mark.parametrize("make_forwarder", [PortableForwarder, pytest.param(make_native, marks=pytest.mark.needs("native"))])
def test_first_direct_packet_that_is_authenticated_opens_the_direct_way_at_both_ends(
    make_forwarder: Callable[..., PortableForwarder],
) -> None:
    scene = Divided(1, make_forwarder)
    scene.a.sessions.connect(scene.c.node_id, way_of(scene.routers), scene.network.now)
    scene.pump()
    direct = (scene.c.sid(Function.END_APP),)
    scene.a.sessions.connect(scene.c.node_id, scene.c.address, scene.network.now)
    scene.pump()
    assert scene.session(scene.a).address is None  # blocked
    scene.is_blocked = False
    scene.network.now_ns += 1_000_000_000
    scene.a.sessions.connect(scene.c.node_id, scene.c.address, scene.network.now)
    scene.pump()
    assert (scene.c.address, scene.a.address) == (scene.session(scene.a).address, scene.session(scene.c).address)
    assert scene.send(direct)
    scene.pump()
    assert 1 == scene.received()


def test_called_side_can_open_the_direct_way_as_well() -> None:
    scene = Divided()
    scene.a.sessions.connect(scene.c.node_id, way_of(scene.routers), scene.network.now)
    scene.pump()
    scene.is_blocked = False
    scene.c.sessions.connect(scene.a.node_id, scene.a.address, scene.network.now)
    scene.pump()
    assert (scene.c.address, scene.a.address) == (scene.session(scene.a).address, scene.session(scene.c).address)


def test_probe_for_the_direct_way_goes_at_most_once_a_second() -> None:
    scene = Divided()
    scene.a.sessions.connect(scene.c.node_id, way_of(scene.routers), scene.network.now)
    scene.pump()
    sent = scene.session(scene.a).link_seal.counter
    for _ in range(50):
        scene.a.sessions.connect(scene.c.node_id, scene.c.address, scene.network.now)
    assert sent + 1 == scene.session(scene.a).link_seal.counter


def test_forged_direct_packet_does_not_open_the_direct_way() -> None:
    scene = Divided()
    scene.a.sessions.connect(scene.c.node_id, way_of(scene.routers), scene.network.now)
    scene.pump()
    index = scene.session(scene.c).local_index.to_bytes(4, "little")
    scene.c.receive(b"\x12\x03\0\0" + index + bytes(8) + bytes(16), ("203.0.113.6", 6))
    assert scene.session(scene.c).address is None


def test_handshake_that_goes_both_ways_at_once_makes_one_session_with_the_direct_way() -> None:
    scene = Divided()
    scene.is_blocked = False
    scene.a.sessions.connect(scene.c.node_id, way_of(scene.routers), scene.network.now)
    scene.a.sessions.connect(scene.c.node_id, scene.c.address, scene.network.now)
    scene.pump()
    mine, theirs = scene.session(scene.a), scene.session(scene.c)
    assert (mine.local_index, mine.remote_index) == (theirs.remote_index, theirs.local_index)
    assert (scene.c.address, scene.a.address) == (mine.address, theirs.address)


def test_rekey_over_relays_keeps_the_direct_way_there_was() -> None:
    scene = Divided()
    scene.is_blocked = False
    scene.network.connect(scene.a, scene.c)
    old = scene.session(scene.a)
    scene.is_blocked = True
    scene.a.sessions.renew(scene.c.node_id, scene.network.now)
    scene.a.sessions.connect(scene.c.node_id, way_of(scene.routers), scene.network.now)
    scene.pump()
    assert old is not scene.session(scene.a)
    assert scene.c.address == scene.session(scene.a).address


def test_loaded_responder_answers_a_handshake_over_relays_with_a_cookie_no_longer_than_the_question() -> None:
    scene = Divided()
    scene.c.sessions._gate._loaded_until = math.inf
    scene.a.sessions.connect(scene.c.node_id, way_of(scene.routers), scene.network.now)
    scene.pump()
    assert [1, 5, 1, 2, 3, 4] == [datagram[1] for datagram in scene.seen]
    assert COOKIE_BYTES < RESPONSE_BYTES + 16 < INIT_BYTES
    assert scene.session(scene.c).is_confirmed


def test_one_neighbour_cannot_take_the_share_of_handshakes_of_another() -> None:
    """Source of a handshake over relays is the neighbour that handed it over, whatever tags and relays it names."""
    gate = Divided().a.sessions._gate
    rng = random.Random(0)
    refused = 0
    for _ in range(1000):
        way = RelayedWay((bytes(Sid.of(B, Function.END)), rng.randbytes(16)), rng.getrandbits(64))
        try:
            gate.admit(way, 0.0, is_known=True)
        except RemoteProtocolError as error:
            refused += error.reason == "source-rate"
    assert 1000 - 128 == refused
    gate.admit(RelayedWay((bytes(Sid.of(C, Function.END)), bytes(16)), 0), 0.0, is_known=True)


# -- which ways are offered ----------------------------------------------------------------------------------------------------------------


def test_relays_without_a_session_are_called_and_offered_when_they_answer() -> None:
    scene = Divided()
    a, b, c = scene.routers
    called: list[NodeId] = []
    strangers = [NodeId(bytes([number]) * 32) for number in range(20, 30)]
    ways = HandshakeWays(
        a.sessions,
        random.Random(0),
        preferred=lambda _peer: [(), (strangers[0],)],
        others=lambda _peer: [*strangers, b.node_id, c.node_id],
        call=lambda node, _now: called.append(node),
    )
    a.sessions.connect(c.node_id, c.address, scene.network.now)
    ways.unanswered(c.node_id, scene.network.now)
    assert RELAYS_CALLED == len(called)
    assert strangers[0] == called[0]
    scene.pump()
    assert scene.session(c).is_confirmed  # over b, with whom there was a session
    ways.established(c.node_id, scene.network.now)
    assert {} == ways._waiting


# -- whole nodes ---------------------------------------------------------------------------------------------------------------------------


async def until(is_so: Callable[[], bool]) -> None:
    with trio.fail_after(30):
        while not is_so():  # noqa: ASYNC110 - whatever happens in three nodes
            await trio.sleep(0.05)


def divide(network: MemoryNetwork, one: str, other: str) -> None:
    """No datagram passes between two addresses."""

    def link(source: UdpAddress, destination: UdpAddress, _data: bytes) -> float | None:
        return None if {source[0], destination[0]} == {one, other} else 0.005

    network.link = link


async def test_path_between_nodes_that_never_reached_each_other_opens_over_a_relay_and_goes_direct_when_it_can(
    autojump_clock: MockClock,
) -> None:
    network = MemoryNetwork()
    divide(network, "10.0.0.1", "10.0.0.3")
    async with (
        open_memory_node(network, "10.0.0.1", name="a") as a,
        open_memory_node(network, "10.0.0.2", name="b") as b,
        open_memory_node(network, "10.0.0.3", name="c") as c,
    ):
        await trio.sleep(20)
        async with a.open_path("c") as path:
            await path.send(b"over b")
            incoming = await c.accept_path()
            assert b"over b" == await incoming.receive()
            assert (b.id,) == path.relays
            session = a.overlay.sessions.current(c.id)
            assert session is not None
            assert session.address is None
            network.link = lambda _source, _destination, _data: 0.005
            await until(lambda: session.address is not None and not path.relays)
            await path.send(b"direct")
            assert b"direct" == await incoming.receive()


async def test_no_relay_is_asked_where_the_policy_of_the_path_forbids_it(autojump_clock: MockClock) -> None:
    network = MemoryNetwork()
    divide(network, "10.0.0.1", "10.0.0.3")
    async with (
        open_memory_node(network, "10.0.0.1", name="a") as a,
        open_memory_node(network, "10.0.0.2", name="b") as b,
        open_memory_node(network, "10.0.0.3", name="c"),
    ):
        await trio.sleep(5)
        for policy in (srwan.PathPolicy(relays_max=0, standbys=0), srwan.PathPolicy(avoid=frozenset({b.id}))):
            with pytest.raises(srwan.NoPath):
                async with a.open_path("c", policy):
                    raise AssertionError
        assert a.overlay.sessions.current(b.id) is None


@pytest.mark.slow
async def test_keys_go_on_changing_over_relays_when_the_direct_way_is_lost(autojump_clock: MockClock) -> None:
    """Keys live three minutes; five minutes after the direct way was cut the path over the relay has not lost a datagram."""
    network = MemoryNetwork(link=lambda _source, _destination, _data: 0.005)
    async with (
        open_memory_node(network, "10.0.0.1", name="a") as a,
        open_memory_node(network, "10.0.0.2", name="b") as b,
        open_memory_node(network, "10.0.0.3", name="c") as c,
    ):
        await trio.sleep(20)
        async with a.open_path("c", srwan.PathPolicy(keepalive_s=1.0)) as path:
            await path.send(b"first")
            incoming = await c.accept_path()
            assert b"first" == await incoming.receive()
            divide(network, "10.0.0.1", "10.0.0.3")
            await until(lambda: path.relays == (b.id,))
            keys = {a.overlay.sessions.current(c.id)}
            for number in range(150):
                await path.send(b"%d" % number)
                with trio.fail_after(1.0):
                    assert b"%d" % number == await incoming.receive()
                keys.add(a.overlay.sessions.current(c.id))
                await trio.sleep(2.0)
            assert len(keys) >= 3
            assert None not in keys


@asynccontextmanager
async def emulated_node(name: str, host: str, links: dict[str, Link], *bootstrap: str) -> AsyncIterator[srwan.Node]:
    """A node on real sockets whose datagrams go over emulated links."""
    clock = Clock()
    config = make_config(
        name=name, udp=f"{host}:0", control=f"{host}:0", bootstrap=bootstrap, pulse_period_s=0.5, lone_after_s=10.0 if bootstrap else 1.0
    )
    async with open_sockets(config, clock) as sockets, trio.open_nursery() as tasks:
        emulated = EmulatedTransport(sockets.datagrams, links, random.Random(0), trio.current_time)
        tasks.start_soon(emulated.run)
        async with srwan.open_node(config, sockets=attrs.evolve(sockets, datagrams=emulated), clock=clock) as node:
            yield node
        tasks.cancel_scope.cancel()


async def test_the_same_over_real_sockets_and_emulated_links_that_lose_all() -> None:
    hosts = ("127.0.61.1", "127.0.61.2", "127.0.61.3")
    to_c, to_a = Link(0.0, 0.0, 1.0), Link(0.0, 0.0, 1.0)
    with trio.fail_after(60):
        async with (
            emulated_node("b", hosts[1], {}) as b,
            emulated_node("a", hosts[0], {hosts[2]: to_c}, b.multiaddr) as a,
            emulated_node("c", hosts[2], {hosts[0]: to_a}, b.multiaddr) as c,
        ):
            await until(lambda: len(a.view()) == len(c.view()) == 3)
            async with a.open_path("c") as path:
                await path.send(b"over b")
                incoming = await c.accept_path()
                assert b"over b" == await incoming.receive()
                assert (b.id,) == path.relays
                session = a.overlay.sessions.current(c.id)
                assert session is not None
                assert session.address is None
                to_c.loss = to_a.loss = 0.0
                await until(lambda: session.address is not None and not path.relays)
                await path.send(b"direct")
                assert b"direct" == await incoming.receive()
