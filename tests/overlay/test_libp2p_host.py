"""The libp2p host: requests, the directory's client, joining, errors at the edge, and an end that leaves nothing behind."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import psutil
import pytest
import trio
from libp2p.custom_types import TProtocol
from libp2p.network.stream.exceptions import StreamError
from libp2p.network.stream.net_stream import NetStream

from srwan.errors import ConfigError, DecodeError, OverlayError
from srwan.identity import Identity, node_id_of_peer_id
from srwan.overlay import libp2p_directory
from srwan.overlay.libp2p_host import Libp2pHost, open_libp2p
from srwan.overlay.libp2p_kad_guards import record_key
from srwan.overlay.libp2p_stream import StreamReader, frame_message, read_message
from srwan.overlay.transport import ControlAddress
from srwan.types import NodeId, UdpAddress

KEY = b"k" * 32
ECHO = "/srwan/echo/1"


def always(_key: bytes, _value: bytes) -> bool:
    return True


def greatest(_key: bytes, values: Sequence[bytes]) -> int:
    return max(range(len(values)), key=lambda index: values[index])


async def echo(_caller: NodeId, body: bytes) -> bytes:
    return body


@asynccontextmanager
async def open_node(
    *bootstrap: str, identity: Identity | None = None, listen: UdpAddress = ("127.0.0.1", 0), announce: Sequence[str] = ()
) -> AsyncIterator[Libp2pHost]:
    async with open_libp2p(
        identity or Identity.generate(), listen, bootstrap=bootstrap, announce=announce, is_valid_value=always, best_value=greatest
    ) as node:
        node.serve(ECHO, echo)
        yield node


def port_of(node: Libp2pHost) -> int:
    return int(node.local_address.multiaddrs[0].rpartition("/")[2])


async def eventually(is_so: Callable[[], bool], timeout_s: float = 30.0) -> None:
    with trio.fail_after(timeout_s):
        while not is_so():  # noqa: ASYNC110 -- what happens inside libp2p has no event to wait for
            await trio.sleep(0.01)


# --- identity and addresses ---


async def test_the_peer_id_is_the_node_id() -> None:
    identity = Identity(bytes(range(32)))
    async with open_node(identity=identity) as node:
        assert identity.node_id == node.node_id
        assert ControlAddress(identity.node_id, (f"/ip4/127.0.0.1/tcp/{port_of(node)}",)) == node.local_address
        peer_id = node.multiaddr.rpartition("/")[2]
        assert f"/ip4/127.0.0.1/tcp/{port_of(node)}/p2p/{peer_id}" == node.multiaddr
        assert identity.node_id == node_id_of_peer_id(node._host.get_id().to_bytes())


async def test_announced_addresses_replace_those_it_listens_on() -> None:
    async with open_node(announce=["/ip4/192.0.2.7/tcp/4001"]) as node:
        assert ("/ip4/192.0.2.7/tcp/4001",) == node.local_address.multiaddrs
        assert node.multiaddr.startswith("/ip4/192.0.2.7/tcp/4001/p2p/12D3Koo")


@pytest.mark.needs("ipv6")
async def test_two_nodes_talk_over_ipv6() -> None:
    async with open_node(listen=("::1", 0)) as node, open_node(node.multiaddr, listen=("::1", 0)) as other:
        assert b"six" == await other.request(node.local_address, ECHO, b"six", timeout_s=15)


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        pytest.param({"bootstrap": ["nonsense"]}, "bootstrap", id="no multiaddr"),
        pytest.param({"bootstrap": ["/ip4/127.0.0.1/tcp/1"]}, "bootstrap", id="no peer id"),
        pytest.param({"listen": ("localhost", 0)}, "localhost:0", id="a host name to listen on"),
        pytest.param({"listen": ("192.0.2.1", 0)}, "192.0.2.1:0", id="an address of another host"),
        pytest.param({"announce": ["nonsense"]}, "announce", id="no announced multiaddr"),
    ],
)
async def test_a_setting_that_cannot_be_used_is_named(setting: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        async with open_libp2p(Identity.generate(), is_valid_value=always, best_value=greatest, **setting):  # type: ignore[arg-type]
            pass
    assert named == caught.value.key


# --- requests ---


async def test_an_error_of_the_body_leaves_the_block_as_it_is() -> None:
    with pytest.raises(DecodeError):
        async with open_node():
            raise DecodeError("mine")


async def test_a_node_that_presents_another_key_is_refused() -> None:
    async with open_node() as node, open_node() as caller:
        wrong = ControlAddress(Identity.generate().node_id, node.local_address.multiaddrs)
        with pytest.raises(OverlayError, match="no connection"):
            await caller.request(wrong, ECHO, b"", timeout_s=15)


async def test_addresses_are_tried_in_turn() -> None:
    async with open_node() as node, open_node() as caller:
        dead = ControlAddress(node.node_id, ("/ip4/127.0.0.1/tcp/1", *node.local_address.multiaddrs))
        assert b"found" == await caller.request(dead, ECHO, b"found", timeout_s=15)


async def test_a_malformed_address_is_an_overlay_error() -> None:
    async with open_node() as caller:
        with pytest.raises(OverlayError, match="multiaddr"):
            await caller.request(ControlAddress(NodeId(bytes(32)), ("nonsense",)), ECHO, b"", timeout_s=15)
        with pytest.raises(OverlayError, match="no address"):
            await caller.request(ControlAddress(Identity.generate().node_id, ()), ECHO, b"", timeout_s=15)


async def test_a_failed_dial_does_not_forbid_the_next_one() -> None:
    identity = Identity.generate()
    async with open_node() as caller:
        async with open_node(identity=identity) as node:
            address = node.local_address
        with pytest.raises(OverlayError):
            await caller.request(address, ECHO, b"", timeout_s=15)
        async with open_node(identity=identity, listen=("127.0.0.1", int(address.multiaddrs[0].rpartition("/")[2]))):
            assert b"back" == await caller.request(address, ECHO, b"back", timeout_s=15)


async def test_a_peer_that_restarted_is_dialed_again() -> None:
    identity = Identity.generate()
    async with open_node() as caller:
        async with open_node(identity=identity) as node:
            address = node.local_address
            await caller.request(address, ECHO, b"", timeout_s=15)
        async with open_node(identity=identity, listen=("127.0.0.1", int(address.multiaddrs[0].rpartition("/")[2]))):
            assert b"back" == await caller.request(address, ECHO, b"back", timeout_s=15)


async def test_requests_of_two_nodes_share_one_connection() -> None:
    async with open_node() as node, open_node() as caller:
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(lambda: caller.request(node.local_address, ECHO, b"", timeout_s=15))
        assert (1, 1) == (node.connections, caller.connections)


async def test_cancelled_requests_leave_no_stream_behind() -> None:
    async def sleepy(_caller: NodeId, _body: bytes) -> bytes:
        await trio.sleep_forever()
        return b""

    async with open_node() as node, open_node() as caller:
        node.serve("/srwan/sleepy/1", sleepy)
        await caller.request(node.local_address, ECHO, b"", timeout_s=15)
        for _ in range(300):  # a leaked stream keeps one of 256 slots
            with trio.move_on_after(0.002):
                await caller.request(node.local_address, "/srwan/sleepy/1", b"", timeout_s=15)
        assert b"still" == await caller.request(node.local_address, ECHO, b"still", timeout_s=15)


@pytest.mark.parametrize("end", ["stays", "resets", "hangs-up"])
async def test_a_caller_that_closes_its_half_is_answered_unless_it_goes(end: str) -> None:
    has_started, is_wanted, has_ended = trio.Event(), trio.Event(), trio.Event()

    async def slow(_caller: NodeId, body: bytes) -> bytes:
        has_started.set()
        try:
            await is_wanted.wait()
        finally:
            has_ended.set()
        return body

    async with open_node() as node, open_node() as caller:
        node.serve("/srwan/slow/1", slow)
        await caller.request(node.local_address, ECHO, b"", timeout_s=15)
        peer = caller._host.get_network().get_connections()[0].muxed_conn.peer_id
        stream = await caller._host.new_stream(peer, [TProtocol("/srwan/slow/1")])
        assert isinstance(stream, NetStream)
        with trio.fail_after(15):
            await stream.write(frame_message(b"half"))
            await has_started.wait()
            await stream.close_write()
            await trio.sleep(0.5)  # longer than between two looks
            assert not has_ended.is_set()
            if end == "stays":
                is_wanted.set()
                assert b"half" == await read_message(StreamReader(stream))
                return
            await (stream.reset() if end == "resets" else caller.aclose())
            await has_ended.wait()


@pytest.mark.parametrize("is_at_once", [True, False])
async def test_a_caller_that_sends_more_than_a_request_is_cut_off(is_at_once: bool) -> None:
    has_started = trio.Event()

    async def sleepy(_caller: NodeId, _body: bytes) -> bytes:
        has_started.set()
        await trio.sleep_forever()
        return b""

    async with open_node() as node, open_node() as caller:
        node.serve("/srwan/sleepy/1", sleepy)
        await caller.request(node.local_address, ECHO, b"", timeout_s=15)
        peer = caller._host.get_network().get_connections()[0].muxed_conn.peer_id
        stream = await caller._host.new_stream(peer, [TProtocol("/srwan/sleepy/1")])
        with trio.fail_after(15):
            await stream.write(frame_message(b"one") + b"x" * is_at_once)
            if not is_at_once:
                await has_started.wait()
                await stream.write(b"x")
            with pytest.raises(StreamError):
                await stream.read(1)
        assert b"on" == await caller.request(node.local_address, ECHO, b"on", timeout_s=15)


async def test_a_failing_handler_is_logged_once_without_its_payload(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(_caller: NodeId, _body: bytes) -> bytes:
        raise ZeroDivisionError

    async with open_node() as node, open_node() as caller:
        node.serve("/srwan/bad/1", fail)
        with caplog.at_level(logging.WARNING, "srwan.overlay"), pytest.raises(OverlayError):
            await caller.request(node.local_address, "/srwan/bad/1", b"secret", timeout_s=15)
    records = [record for record in caplog.records if record.name.startswith("srwan")]
    assert ["/srwan/bad/1: the handler failed"] == [record.getMessage() for record in records]


async def test_requests_fail_once_the_host_is_closed() -> None:
    async with open_node() as node, open_node() as caller:
        await caller.aclose()
        await caller.aclose()
        with pytest.raises(OverlayError, match="closed"):
            await caller.request(node.local_address, ECHO, b"", timeout_s=15)


# --- joining and the directory ---


async def test_a_lone_node_publishes_to_nobody_and_finds_what_it_published() -> None:
    async with open_node() as node:
        assert 0 == await node.directory.publish(KEY, b"value")
        assert b"value" == await node.directory.lookup(KEY)
        assert node.directory.is_joined


async def test_a_node_joins_when_its_bootstrap_node_comes_up_later() -> None:
    identity = Identity.generate()
    async with open_node(identity=identity) as gone:
        address, port = gone.multiaddr, port_of(gone)
    async with open_node(address) as early:
        await trio.sleep(0.6)
        assert not early.directory.is_joined
        async with open_node(identity=identity, listen=("127.0.0.1", port)):
            with trio.fail_after(30):
                await early.directory.wait_joined()


async def test_one_living_bootstrap_node_is_enough() -> None:
    async with open_node() as gone:
        dead = gone.multiaddr
    async with open_node() as node, open_node(dead, node.multiaddr, dead) as other:
        with trio.fail_after(30):
            await other.directory.wait_joined()


async def test_without_an_answer_from_any_bootstrap_node_the_directory_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libp2p_directory, "JOIN_WAIT_S", 0.2)
    async with open_node() as gone:
        dead = gone.multiaddr
    async with open_node(dead) as node:
        with pytest.raises(OverlayError, match="bootstrap"):
            await node.directory.lookup(KEY)
        with pytest.raises(OverlayError, match="bootstrap"):
            await node.directory.publish(KEY, b"value")
        assert b"value" == await node.directory.lookup(KEY)


async def test_a_node_that_lost_everybody_joins_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libp2p_directory, "CHECK_S", 0.05)
    identity = Identity.generate()
    async with open_node(identity=identity) as first:
        address, port = first.multiaddr, port_of(first)
        async with open_node(address) as node:
            await node.directory.wait_joined()
            await first.aclose()
            with pytest.raises(OverlayError, match="answer"):
                await node.directory.lookup(KEY)
            async with open_node(identity=identity, listen=("127.0.0.1", port)) as again:
                await eventually(lambda: node.directory.peers_known > 0)
                await again.directory.publish(KEY, b"value")
                assert b"value" == await node.directory.lookup(KEY)


async def test_a_record_published_early_reaches_nodes_that_come_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libp2p_directory, "CHECK_S", 0.05)
    async with open_node() as first:
        assert 0 == await first.directory.publish(KEY, b"value")
        async with open_node(first.multiaddr) as late:
            await late.directory.wait_joined()
            await eventually(lambda: late.directory._kad.value_store.get(record_key(KEY).encode()) is not None)


async def test_all_of_six_nodes_find_what_each_published() -> None:
    async with open_node() as first, trio.open_nursery() as nursery:
        nodes = [first]

        async def run(task_status: trio.TaskStatus[Libp2pHost]) -> None:
            async with open_node(first.multiaddr) as node:
                task_status.started(node)
                await trio.sleep_forever()

        nodes += [await nursery.start(run) for _ in range(5)]
        with trio.fail_after(60):
            for node in nodes:
                await node.directory.wait_joined()
            for number, node in enumerate(nodes):
                assert await node.directory.publish(bytes([number]) * 32, b"value %d" % number) > 0
            for number, node in enumerate(nodes):
                wanted = (number + 1) % len(nodes)
                assert b"value %d" % wanted == await node.directory.lookup(bytes([wanted]) * 32)
        nursery.cancel_scope.cancel()


async def test_a_node_that_does_not_answer_is_forgotten() -> None:
    async with open_node() as first, open_node(first.multiaddr) as node:
        await node.directory.wait_joined()
        async with open_node(first.multiaddr) as short_lived:
            await short_lived.directory.wait_joined()
            with trio.fail_after(15):
                while node.directory.peers_known < 2:
                    await node.directory._announce()
        await node.directory.lookup(KEY)
        assert 1 == node.directory.peers_known


# --- the end ---


async def test_an_end_in_the_middle_of_everything_leaves_no_socket_and_no_task() -> None:
    process = psutil.Process()
    async with open_node():  # what libp2p and trio keep for good
        pass
    await trio.sleep(0.3)
    before = (process.num_fds(), trio.lowlevel.current_statistics().tasks_living)
    with trio.CancelScope() as scope:
        async with AsyncExitStack() as sockets, open_node() as node, open_node(node.multiaddr) as other, trio.open_nursery() as nursery:
            await other.directory.wait_joined()
            await sockets.enter_async_context(await trio.open_tcp_stream("127.0.0.1", port_of(node)))
            for _ in range(20):
                nursery.start_soon(other.directory.lookup, KEY)
                nursery.start_soon(lambda: other.request(node.local_address, ECHO, bytes(100_000), timeout_s=15))
            await trio.sleep(0.02)
            scope.cancel()
    await eventually(lambda: before == (process.num_fds(), trio.lowlevel.current_statistics().tasks_living))
