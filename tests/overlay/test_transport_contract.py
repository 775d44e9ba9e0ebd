"""The contracts of overlay/transport.py, over every implementation: so the fakes are verified fakes."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial

import attrs
import pytest
import trio

from srwan.clock import Clock
from srwan.errors import DecodeError, LimitExceeded, OverlayError
from srwan.identity import Identity
from srwan.overlay.libp2p_host import open_libp2p
from srwan.overlay.memory import MemoryNetwork
from srwan.overlay.transport import (
    CONTROL_INBOUND_MAX,
    CONTROL_MESSAGE_BYTES_MAX,
    DATAGRAMS_PER_BATCH_MAX,
    DIRECTORY_VALUE_BYTES_MAX,
    ControlAddress,
    ControlChannel,
    DatagramTransport,
    Directory,
)
from srwan.types import Datagram, NodeId, UdpAddress

KEY = b"k" * 32
OTHER_KEY = b"o" * 32
ECHO = "/srwan/echo/1"


def is_valid(_key: bytes, value: bytes) -> bool:
    return not value.startswith(b"invalid")


def greatest(_key: bytes, values: Sequence[bytes]) -> int:
    return max(range(len(values)), key=lambda index: values[index])


async def eventually(is_so: Callable[[], bool], timeout_s: float = 30.0) -> None:
    with trio.fail_after(timeout_s):
        while not is_so():  # noqa: ASYNC110 -- what happens at the far side has no event to wait for
            await trio.sleep(0.01)


@attrs.frozen
class Peers:
    """Two nodes that know each other."""

    ids: tuple[NodeId, NodeId]
    channels: tuple[ControlChannel, ControlChannel]
    directories: tuple[Directory, Directory]


@pytest.fixture(params=["memory", "libp2p"])
async def peers(request: pytest.FixtureRequest) -> AsyncIterator[Peers]:
    identities = (Identity.generate(), Identity.generate())
    ids = (identities[0].node_id, identities[1].node_id)
    if request.param == "memory":
        network = MemoryNetwork(is_valid_value=is_valid, best_value=greatest)
        channels = (network.control_channel(ids[0]), network.control_channel(ids[1]))
        yield Peers(ids, channels, (network.directory(), network.directory()))
        return
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(open_libp2p(identities[0], is_valid_value=is_valid, best_value=greatest))
        second = await stack.enter_async_context(
            open_libp2p(identities[1], bootstrap=[first.multiaddr], is_valid_value=is_valid, best_value=greatest)
        )
        with trio.fail_after(30):
            await second.directory.wait_joined()
        await eventually(lambda: first.directory.peers_known > 0)
        yield Peers(ids, (first, second), (first.directory, second.directory))


# --- ControlChannel ---


async def echo(_caller: NodeId, body: bytes) -> bytes:
    return body


@pytest.mark.parametrize("size", [0, 1, 100, 70_000, CONTROL_MESSAGE_BYTES_MAX])
async def test_a_request_is_answered_whole(peers: Peers, size: int) -> None:
    server, client = peers.channels
    server.serve(ECHO, echo)
    body = bytes(range(256)) * (size // 256) + bytes(size % 256)
    assert body == await client.request(server.local_address, ECHO, body, timeout_s=30)


async def test_the_handler_learns_who_asks(peers: Peers) -> None:
    server, client = peers.channels

    async def who(caller: NodeId, _body: bytes) -> bytes:
        return bytes(caller)

    server.serve("/srwan/who/1", who)
    assert peers.ids[1] == await client.request(server.local_address, "/srwan/who/1", b"", timeout_s=15)


async def test_both_sides_serve(peers: Peers) -> None:
    for channel in peers.channels:
        channel.serve(ECHO, echo)
    assert b"1" == await peers.channels[0].request(peers.channels[1].local_address, ECHO, b"1", timeout_s=15)
    assert b"2" == await peers.channels[1].request(peers.channels[0].local_address, ECHO, b"2", timeout_s=15)


async def test_a_second_handler_replaces_the_first(peers: Peers) -> None:
    async def shout(_caller: NodeId, body: bytes) -> bytes:
        return body.upper()

    server, client = peers.channels
    server.serve(ECHO, echo)
    server.serve(ECHO, shout)
    assert b"HELLO" == await client.request(server.local_address, ECHO, b"hello", timeout_s=15)


async def test_a_body_that_is_too_long_is_not_sent(peers: Peers) -> None:
    with pytest.raises(ValueError, match="1048577 bytes"):
        await peers.channels[1].request(peers.channels[0].local_address, ECHO, bytes(CONTROL_MESSAGE_BYTES_MAX + 1), timeout_s=15)


async def test_a_protocol_that_is_not_spoken_is_an_overlay_error(peers: Peers) -> None:
    with pytest.raises(OverlayError):
        await peers.channels[1].request(peers.channels[0].local_address, "/srwan/none/1", b"", timeout_s=15)


@pytest.mark.parametrize("error", [DecodeError("the peer erred"), ValueError("we erred"), OverlayError("so did others")])
async def test_a_handler_that_raises_fails_this_request_only(peers: Peers, error: Exception) -> None:
    async def fail(_caller: NodeId, _body: bytes) -> bytes:
        raise error

    server, client = peers.channels
    server.serve("/srwan/bad/1", fail)
    server.serve(ECHO, echo)
    with pytest.raises(OverlayError):
        await client.request(server.local_address, "/srwan/bad/1", b"", timeout_s=15)
    assert b"fine" == await client.request(server.local_address, ECHO, b"fine", timeout_s=15)


async def test_no_response_in_time_is_an_overlay_error(peers: Peers) -> None:
    async def sleepy(_caller: NodeId, _body: bytes) -> bytes:
        await trio.sleep_forever()
        return b""

    server, client = peers.channels
    server.serve("/srwan/sleepy/1", sleepy)
    with trio.fail_after(10), pytest.raises(OverlayError):
        await client.request(server.local_address, "/srwan/sleepy/1", b"", timeout_s=0.2)


async def test_a_handler_ends_when_its_caller_gives_up_and_its_place_is_free_again(peers: Peers) -> None:
    started, has_started = trio.open_memory_channel[None](1)
    ended, has_ended = trio.open_memory_channel[None](CONTROL_INBOUND_MAX + 4)

    async def sleepy(_caller: NodeId, _body: bytes) -> bytes:
        await started.send(None)
        try:
            await trio.sleep_forever()
        finally:
            ended.send_nowait(None)
        return b""

    server, client = peers.channels
    server.serve("/srwan/sleepy/1", sleepy)
    with trio.fail_after(15):
        for _ in range(CONTROL_INBOUND_MAX + 4):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(client.request, server.local_address, "/srwan/sleepy/1", b"", timeout_s=15))
                await has_started.receive()
                nursery.cancel_scope.cancel()
            await has_ended.receive()


async def test_an_unreachable_node_is_an_overlay_error(peers: Peers) -> None:
    nobody = ControlAddress(Identity.generate().node_id, ("/ip4/127.0.0.1/tcp/1",))
    with pytest.raises(OverlayError):
        await peers.channels[1].request(nobody, ECHO, b"", timeout_s=15)


async def test_a_node_does_not_ask_itself(peers: Peers) -> None:
    with pytest.raises(OverlayError, match="itself"):
        await peers.channels[0].request(peers.channels[0].local_address, ECHO, b"", timeout_s=15)


async def test_a_response_that_is_too_long_is_not_returned(peers: Peers) -> None:
    async def boundless(_caller: NodeId, _body: bytes) -> bytes:
        return bytes(CONTROL_MESSAGE_BYTES_MAX + 1)

    server, client = peers.channels
    server.serve("/srwan/boundless/1", boundless)
    with pytest.raises((LimitExceeded, OverlayError)):  # refused there if the far side is honest, here if it is not
        await client.request(server.local_address, "/srwan/boundless/1", b"", timeout_s=15)


async def test_only_so_many_requests_run_at_once(peers: Peers) -> None:
    server, client = peers.channels
    running = refused = 0
    gate = trio.Event()

    async def wait(_caller: NodeId, _body: bytes) -> bytes:
        nonlocal running
        running += 1
        await gate.wait()
        return b""

    async def call() -> None:
        nonlocal refused
        try:
            await client.request(server.local_address, "/srwan/wait/1", b"", timeout_s=60)
        except OverlayError:
            refused += 1

    server.serve("/srwan/wait/1", wait)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for _ in range(CONTROL_INBOUND_MAX + 5):
                nursery.start_soon(call)
            await eventually(lambda: running + refused == CONTROL_INBOUND_MAX + 5)
            assert (CONTROL_INBOUND_MAX, 5) == (running, refused)
            gate.set()
        server.serve("/srwan/wait/1", echo)
        await client.request(server.local_address, "/srwan/wait/1", b"", timeout_s=15)


# --- Directory ---


async def test_what_one_published_the_other_finds(peers: Peers) -> None:
    first, second = peers.directories
    assert 1 == await first.publish(KEY, b"value")
    assert (b"value", b"value") == (await first.lookup(KEY), await second.lookup(KEY))


async def test_what_nobody_published_is_none(peers: Peers) -> None:
    await peers.directories[0].publish(KEY, b"value")
    assert await peers.directories[1].lookup(OTHER_KEY) is None


async def test_the_better_value_wins_whoever_publishes_it(peers: Peers) -> None:
    first, second = peers.directories
    await first.publish(KEY, b"1 older")
    assert 1 == await second.publish(KEY, b"2 newer")
    assert 0 == await first.publish(KEY, b"0 oldest")
    assert (b"2 newer", b"2 newer") == (await first.lookup(KEY), await second.lookup(KEY))


async def test_publishing_the_same_again_counts_again(peers: Peers) -> None:
    assert [1, 1] == [await peers.directories[0].publish(KEY, b"same") for _ in range(2)]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        pytest.param(b"short", b"value", id="a short key"),
        pytest.param(KEY, b"", id="an empty value"),
        pytest.param(KEY, b"v" * (DIRECTORY_VALUE_BYTES_MAX + 1), id="a long value"),
        pytest.param(KEY, b"invalid", id="a value that is not valid"),
    ],
)
async def test_what_cannot_be_published_is_a_value_error(peers: Peers, key: bytes, value: bytes) -> None:
    with pytest.raises(ValueError, match="directory"):
        await peers.directories[0].publish(key, value)


async def test_a_value_of_the_greatest_length_is_found(peers: Peers) -> None:
    value = b"v" * DIRECTORY_VALUE_BYTES_MAX
    await peers.directories[0].publish(KEY, value)
    assert value == await peers.directories[1].lookup(KEY)


async def test_a_short_key_cannot_be_looked_up(peers: Peers) -> None:
    with pytest.raises(ValueError, match="directory key"):
        await peers.directories[0].lookup(b"short")


# --- DatagramTransport ---

OpenTransport = Callable[[], DatagramTransport]


@pytest.fixture(params=["memory", "udp"])
async def open_transport(request: pytest.FixtureRequest) -> AsyncIterator[OpenTransport]:
    clock = Clock()
    opened: list[DatagramTransport] = []
    if request.param == "udp":
        udp = pytest.importorskip("srwan.overlay.udp")

        def make() -> DatagramTransport:
            opened.append(udp.open_udp([("127.0.0.1", 0)], clock))
            return opened[-1]
    else:
        network = MemoryNetwork()

        def make() -> DatagramTransport:
            opened.append(network.datagram_transport(("127.0.0.1", 0), clock))
            return opened[-1]

    yield make
    for transport in opened:
        await transport.aclose()


async def receive(transport: DatagramTransport, count: int) -> list[Datagram]:
    received: list[Datagram] = []
    with trio.fail_after(10):
        while len(received) < count:
            batch = await transport.receive()
            assert 0 < len(batch) <= DATAGRAMS_PER_BATCH_MAX
            received += batch
    return received


def address_of(transport: DatagramTransport) -> UdpAddress:
    return transport.local_addresses[0]


async def test_a_datagram_arrives_with_its_source_and_a_stamp(open_transport: OpenTransport) -> None:
    first, second = open_transport(), open_transport()
    clock = Clock()
    before = clock.stamp_ns()
    first.send(b"hello", address_of(second))
    ((data, source, stamp_ns),) = await receive(second, 1)
    assert (b"hello", address_of(first)) == (data, source)
    assert before - 50_000_000 <= stamp_ns <= time.monotonic_ns() + (before - time.monotonic_ns()) + 10_000_000_000


async def test_datagrams_come_in_order_and_in_bounded_batches(open_transport: OpenTransport) -> None:
    first, second = open_transport(), open_transport()
    for number in range(2 * DATAGRAMS_PER_BATCH_MAX + 3):
        first.send(b"%d" % number, address_of(second))
    received = await receive(second, 2 * DATAGRAMS_PER_BATCH_MAX + 3)
    assert [b"%d" % number for number in range(2 * DATAGRAMS_PER_BATCH_MAX + 3)] == [data for data, _, _ in received]


async def test_sending_never_raises(open_transport: OpenTransport) -> None:
    transport = open_transport()
    closed = open_transport()
    await closed.aclose()
    transport.send(b"x", address_of(closed))
    transport.send(bytes(70_000), address_of(transport))
    closed.send(b"x", address_of(transport))
    transport.send(b"to myself", address_of(transport))
    assert [b"to myself"] == [data for data, _, _ in await receive(transport, 1)]


async def test_closing_ends_a_pending_receive(open_transport: OpenTransport) -> None:
    transport = open_transport()

    async def wait(end: Callable[[], Awaitable[list[Datagram]]]) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await end()

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, transport.receive)
            await trio.testing.wait_all_tasks_blocked()
            await transport.aclose()
        await transport.aclose()
        await wait(transport.receive)


# --- what only the memory network can do ---


async def test_a_link_delays_and_loses_datagrams(autojump_clock: trio.testing.MockClock) -> None:
    delays = {b"late": 0.3, b"early": 0.1, b"lost": None}
    network = MemoryNetwork(link=lambda _source, _destination, data: delays[data])
    clock = Clock()
    first, second = (network.datagram_transport(("10.0.0.1", 0), clock) for _ in range(2))
    start = trio.current_time()
    for data in delays:
        first.send(data, address_of(second))
    arrivals = []
    for _ in range(2):
        ((data, _source, _stamp),) = await second.receive()
        arrivals.append((data, round(trio.current_time() - start, 3)))
    assert [(b"early", 0.1), (b"late", 0.3)] == arrivals
    assert {"lost": 1} == dict(first.drops)


async def test_a_stamp_is_the_time_of_arrival_not_of_reading(autojump_clock: trio.testing.MockClock) -> None:
    class Stopped:
        def stamp_ns(self) -> int:
            return 1_000

    network = MemoryNetwork(link=lambda *_: 0.25)
    transport = network.datagram_transport(("10.0.0.1", 0), Stopped())
    transport.send(b"x", address_of(transport))
    await trio.sleep(5)
    ((_data, _source, stamp_ns),) = await transport.receive()
    assert 250_001_000 == stamp_ns


async def test_a_full_queue_drops_and_counts() -> None:
    network = MemoryNetwork(link=lambda *_: 60.0)
    transport = network.datagram_transport(("10.0.0.1", 0), Clock())
    for _ in range(4096 + 7):
        transport.send(b"x", address_of(transport))
    assert {"queue": 7} == dict(transport.drops)


async def test_the_memory_directory_can_be_down_and_forgets_what_expires() -> None:
    valid = {b"value"}
    network = MemoryNetwork(is_valid_value=lambda _key, value: value in valid)
    directory = network.directory()
    assert 0 == await directory.publish(KEY, b"value")
    network.is_directory_down = True
    for operation in (directory.lookup(KEY), directory.publish(KEY, b"value")):
        with pytest.raises(OverlayError):
            await operation
    network.is_directory_down = False
    valid.clear()
    assert await directory.lookup(KEY) is None
    assert {} == network._values


async def test_two_in_one_place_are_refused_and_a_place_is_free_again_after_closing() -> None:
    network = MemoryNetwork()
    transport = network.datagram_transport(("10.0.0.1", 7), Clock())
    channel = network.control_channel(NodeId(KEY))
    with pytest.raises(ValueError, match="taken"):
        network.datagram_transport(("10.0.0.1", 7), Clock())
    with pytest.raises(ValueError, match="taken"):
        network.control_channel(NodeId(KEY))
    await transport.aclose()
    await channel.aclose()
    network.datagram_transport(("10.0.0.1", 7), Clock())
    network.control_channel(NodeId(KEY))
    with pytest.raises(OverlayError, match="closed"):
        await channel.request(ControlAddress(NodeId(OTHER_KEY), ("/memory/x",)), ECHO, b"", timeout_s=1)
