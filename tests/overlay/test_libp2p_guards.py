"""One test per trap of libp2p 0.8.1: each was seen to fail with its guard taken away."""

from __future__ import annotations

import gc
import secrets
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from libp2p import new_host
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.records.record import make_signed_put_record
from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID, InsecureTransport
from multiaddr import Multiaddr

from srwan.errors import ConfigError, OverlayError
from srwan.identity import Identity, peer_id_bytes
from srwan.overlay import libp2p_guards as guards
from srwan.overlay import libp2p_kad_guards as kad_guards
from srwan.overlay.libp2p_host import Libp2pHost, open_libp2p
from srwan.types import NodeId

KEY = b"k" * 32
ECHO = "/srwan/echo/1"


def is_fresh(_key: bytes, value: bytes) -> bool:
    return not value.startswith(b"expired")


def greatest(_key: bytes, values: Sequence[bytes]) -> int:
    return max(range(len(values)), key=lambda index: values[index])


async def echo(_caller: NodeId, body: bytes) -> bytes:
    return body


@asynccontextmanager
async def open_node(*known: Libp2pHost, is_valid: Callable[[bytes, bytes], bool] = is_fresh) -> AsyncIterator[Libp2pHost]:
    bootstrap = [node.multiaddr for node in known]
    async with open_libp2p(Identity.generate(), bootstrap=bootstrap, is_valid_value=is_valid, best_value=greatest) as node:
        node.serve(ECHO, echo)
        with trio.fail_after(20):
            await node.directory.wait_joined()
        yield node


def swarm_of(node: Libp2pHost) -> Any:
    return node._host.get_network()


def peer_of(node: Libp2pHost) -> ID:
    return ID(peer_id_bytes(node.node_id))


async def ask_echo(caller: Libp2pHost, callee: Libp2pHost, body: bytes = b"hello") -> bytes:
    return await caller.request(callee.local_address, ECHO, body, timeout_s=15)


async def eventually(is_so: Callable[[], bool], timeout_s: float = 10.0) -> None:
    with trio.fail_after(timeout_s):
        while not is_so():  # noqa: ASYNC110 -- what happens inside libp2p has no event to wait for
            await trio.sleep(0.01)


def tcp_address(node: Libp2pHost) -> tuple[str, int]:
    _, _, ip, _, port = node.local_address.multiaddrs[0].split("/")
    return ip, int(port)


# --- trap 1: inbound slots ---


async def test_a_host_accepts_more_connections_in_its_life_than_it_has_slots() -> None:
    async with open_node() as node:
        swarm_of(node)._inbound_limiter = trio.CapacityLimiter(3)  # what libp2p counts with
        for _ in range(8):
            async with open_node() as client:
                assert await ask_echo(client, node) == b"hello"


async def test_a_closed_connection_leaves_no_task_behind() -> None:
    async with open_node() as node:
        tasks = None
        for _ in range(4):
            async with open_node() as client:
                await ask_echo(client, node)
            await eventually(lambda: node.connections == 0)
            await trio.sleep(0.5)
            living = trio.lowlevel.current_statistics().tasks_living
            assert living == (tasks or living)
            tasks = living


async def test_an_honest_node_gets_in_while_400_connections_are_held_half_open() -> None:
    async with open_node() as node, open_node() as client:
        silent = [await trio.open_tcp_stream(*tcp_address(node)) for _ in range(400)]
        try:
            assert await ask_echo(client, node) == b"hello"
        finally:
            for stream in silent:
                await trio.aclose_forcefully(stream)


async def test_the_oldest_half_open_connection_of_the_busiest_source_makes_room() -> None:
    half_open = guards.HalfOpen()
    scopes = [trio.CancelScope() for _ in range(guards.HALF_OPEN_PER_SOURCE_MAX)]
    for scope in scopes:
        half_open.admit("192.0.2.1", scope)
    other = trio.CancelScope()
    half_open.admit("192.0.2.2", other)
    half_open.admit("192.0.2.1", trio.CancelScope())
    assert [True, False, False] == [scopes[0].cancel_called, scopes[1].cancel_called, other.cancel_called]
    assert (guards.HALF_OPEN_PER_SOURCE_MAX + 1, 1) == (len(half_open), half_open.evicted)


# --- trap 2: pause per dial ---


async def test_libp2ps_own_dialing_does_not_sleep_a_quarter_of_a_second() -> None:
    async with open_node() as node:
        shortest = 1.0
        for _ in range(20):
            async with open_node() as client:
                client._host.get_peerstore().add_addrs(peer_of(node), [Multiaddr(node.local_address.multiaddrs[0])], 60)
                start = trio.current_time()
                await swarm_of(client).dial_peer(peer_of(node))
                shortest = min(shortest, trio.current_time() - start)
            if shortest < 0.2:
                break
        assert shortest < 0.2


# --- trap 3: plaintext ---


async def test_a_client_that_speaks_only_plaintext_is_refused() -> None:
    async with open_node() as node:
        private = guards_key_pair()
        client = new_host(key_pair=private, sec_opt={TProtocol(PLAINTEXT_PROTOCOL_ID): InsecureTransport(private)})
        async with client.run(listen_addrs=[]):
            with pytest.raises(Exception, match="unable to connect"):
                await client.connect(info_from_p2p_addr(Multiaddr(node.multiaddr)))
            await guards.close_for_good(client)  # type: ignore[arg-type]


def guards_key_pair() -> Any:
    from libp2p.crypto.ed25519 import create_new_key_pair

    return create_new_key_pair()


# --- trap 4: listeners and ports ---


async def test_leaving_and_cancelling_leave_no_listener() -> None:
    cancelled = ("", 0)
    async with open_node() as node:
        left = tcp_address(node)
    with trio.CancelScope() as scope:
        async with open_node() as node:
            cancelled = tcp_address(node)
            scope.cancel()
            await trio.sleep_forever()
    for address in (left, cancelled):
        with pytest.raises(OSError, match="connect"):
            await trio.open_tcp_stream(*address)


async def test_a_taken_port_is_an_error_that_names_it() -> None:
    async with open_node() as node:
        with pytest.raises(ConfigError, match=rf"127.0.0.1:{tcp_address(node)[1]}.*choose another"):
            async with open_libp2p(Identity.generate(), tcp_address(node), is_valid_value=is_fresh, best_value=greatest):
                pass


# --- trap 5: exceptions of handlers and tasks ---


async def test_an_exception_in_a_stream_handler_does_not_end_the_host() -> None:
    async def fail(_stream: object) -> None:
        raise ValueError("a bug")

    async with open_node() as node, open_node(node) as client:
        node._host.set_stream_handler(TProtocol("/bad/1"), fail)
        for _ in range(3):
            with pytest.raises(OverlayError):
                await client.request(node.local_address, "/bad/1", b"", timeout_s=10)
        assert await ask_echo(client, node) == b"hello"


async def test_random_bytes_on_every_protocol_do_not_end_the_host() -> None:
    async with open_node() as node, open_node(node) as client:
        for protocol in filter(None, node._host.get_mux().get_protocols()):
            for size in (0, 1, 5, 50, 2000):
                stream = await client._host.new_stream(peer_of(node), [protocol])
                await stream.write(secrets.token_bytes(size))
                await stream.close()
        assert await ask_echo(client, node) == b"hello"


async def test_an_exception_in_a_connections_task_does_not_end_the_host() -> None:
    async def fail() -> None:
        raise ValueError("a bug")

    async with open_node() as node, open_node(node) as client:
        swarm_of(node).manager.run_task(fail)
        await trio.sleep(0.05)
        assert await ask_echo(client, node) == b"hello"


async def test_random_frames_on_a_connection_do_not_end_the_host() -> None:
    async with open_node() as node, open_node(node) as client:
        for _ in range(5):
            await ask_echo(client, node)
            (connection,) = swarm_of(client).get_connections(peer_of(node))
            await connection.muxed_conn.secured_conn.write(secrets.token_bytes(600))
            await connection.close()
            await eventually(lambda: client.connections == 0)
        assert await ask_echo(client, node) == b"hello"


async def test_a_peer_has_a_bounded_number_of_streams() -> None:
    async with open_node() as node, open_node(node) as client, open_node(node) as other:
        held = [await client._host.new_stream(peer_of(node), [TProtocol(ECHO)]) for _ in range(8)]
        opened = [await swarm_of(client).new_stream(peer_of(node)) for _ in range(guards.STREAMS_PER_PEER_MAX + 8)]
        await ask_echo(other, node)
        (connection,) = swarm_of(node).get_connections(peer_of(client))
        await eventually(lambda: len(connection.get_streams()) <= guards.STREAMS_PER_PEER_MAX)
        assert await ask_echo(other, node) == b"hello"
        for stream in held + opened:
            await stream.reset()


# --- traps 6 and 7: keys and protocol ---


async def ask(client: Libp2pHost, node: Libp2pHost, kind: Any, key: bytes, value: bytes | None = None) -> Any:
    record = None if value is None else make_signed_put_record(key, value, client._host.get_private_key())
    return await client.directory._ask(peer_of(node), kind, key, record)


async def test_record_keys_are_accepted_by_find_node() -> None:
    async with open_node() as node, open_node(node) as client:
        answer = await ask(client, node, Message.MessageType.FIND_NODE, kad_guards.record_key(KEY).encode())
        assert answer.type == Message.MessageType.FIND_NODE
        with pytest.raises(BaseLibp2pError):
            await ask(client, node, Message.MessageType.FIND_NODE, b"/srwan/" + KEY.hex().encode())  # 71 bytes: what is refused


def test_a_record_key_has_50_characters_and_one_spelling() -> None:
    text = kad_guards.record_key(KEY)
    assert (50, KEY) == (len(text), kad_guards.key_of_record(text))
    for wrong in (text[:-1] + chr(ord(text[-1]) + 1), text + "=", text[:-1], "/other/" + text[7:], "", "/srwan/" + "é" * 43):
        with pytest.raises(ValueError, match="not an srwan record key"):
            kad_guards.key_of_record(wrong)


async def test_the_host_speaks_its_own_dht_protocol_only() -> None:
    async with open_node() as node:
        protocols = sorted(str(protocol) for protocol in node._host.get_mux().get_protocols())
        assert ["/ipfs/ping/1.0.0", ECHO, "/srwan/kad/1.0.0"] == protocols


# --- trap 8: routing table ---


async def test_a_joined_node_is_in_the_routing_tables_of_all_it_met() -> None:
    async with open_node() as first, open_node(first) as second, open_node(first) as third:
        await eventually(lambda: [2, 2, 2] == [node.directory.peers_known for node in (first, second, third)])


# --- traps 9 to 12: the DHT ---


async def test_publishing_an_identical_value_renews_it_and_is_acknowledged() -> None:
    async with open_node() as node, open_node(node) as client:
        assert [1, 1] == [await client.directory.publish(KEY, b"same") for _ in range(2)]


async def test_an_expired_local_copy_is_not_returned() -> None:
    valid = {b"value"}
    async with open_node(is_valid=lambda _key, value: value in valid) as node:
        assert await node.directory.publish(KEY, b"value") == 0
        assert await node.directory.lookup(KEY) == b"value"
        valid.clear()
        assert await node.directory.lookup(KEY) is None


async def test_a_lookup_does_not_stop_at_the_local_copy() -> None:
    async with open_node() as node, open_node(node) as client:
        await client.directory.publish(KEY, b"1 older")
        await node.directory.publish(KEY, b"2 newer")
        client.directory._kad.value_store.put(kad_guards.record_key(KEY).encode(), b"1 older")
        assert await client.directory.lookup(KEY) == b"2 newer"


async def test_an_expired_value_is_not_served_to_others() -> None:
    valid = {b"value"}
    async with open_node(is_valid=lambda _key, value: value in valid) as node, open_node(node, is_valid=lambda *_: True) as client:
        await node.directory.publish(KEY, b"value")
        valid.clear()
        node.directory._placed.clear()
        client.directory._kad.value_store.store.clear()
        assert await client.directory.lookup(KEY) is None


async def test_publish_counts_only_nodes_that_stored_the_value() -> None:
    async with open_node(is_valid=lambda *_: False) as node, open_node(node) as client:
        assert await client.directory.publish(KEY, b"nobody else wants it") == 0


async def test_idle_dht_streams_of_one_peer_do_not_silence_a_node() -> None:
    async with open_node() as node, open_node(node) as hostile, open_node(node) as client:
        held = []
        for _ in range(16):
            try:
                held.append(await hostile._host.new_stream(peer_of(node), [kad_guards.KAD_PROTOCOL]))
            except Exception:  # noqa: BLE001 -- a refused one is as good
                continue
        answer = await ask(client, node, Message.MessageType.FIND_NODE, KEY)
        assert answer.type == Message.MessageType.FIND_NODE
        for stream in held:
            await stream.reset()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        pytest.param(b"/pk/" + KEY, b"value", id="another name space"),
        pytest.param(b"plain", b"value", id="no name space"),
        pytest.param(b"/srwan/short", b"value", id="a malformed key"),
        pytest.param(kad_guards.record_key(KEY).encode(), b"v" * 4097, id="a long value"),
        pytest.param(kad_guards.record_key(KEY).encode(), b"expired", id="an expired value"),
    ],
)
async def test_what_is_no_valid_record_is_not_stored(key: bytes, value: bytes) -> None:
    async with open_node() as node, open_node(node) as client:
        with pytest.raises(BaseLibp2pError):
            await ask(client, node, Message.MessageType.PUT_VALUE, key, value)
        assert {} == node.directory._kad.value_store.store


# --- trap 15: logs and dialing on its own ---


def test_opening_hosts_writes_nothing_and_leaves_the_root_logger_alone() -> None:
    program = """
import logging, trio
from srwan.identity import Identity
from srwan.overlay.libp2p_host import open_libp2p
async def main():
    checks = dict(is_valid_value=lambda key, value: True, best_value=lambda key, values: 0)
    async with open_libp2p(Identity.generate(), **checks) as node:
        async with open_libp2p(Identity.generate(), bootstrap=[node.multiaddr], **checks) as other:
            await other.directory.wait_joined()
            await other.directory.lookup(bytes(32))
trio.run(main)
assert logging.getLogger().handlers == [] and logging.getLogger().level == logging.WARNING
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=110, check=False)
    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)


async def test_a_host_does_not_dial_peers_it_merely_heard_of() -> None:
    async with open_node() as node, open_node() as other:
        other._host.get_peerstore().add_addrs(peer_of(node), [Multiaddr(node.local_address.multiaddrs[0])], 60)
        await swarm_of(other).auto_connector.maybe_connect()
        assert (0, 0) == (node.connections, other.connections)


# --- traps 16 to 19: found while building ---


async def test_a_flood_of_peers_does_not_evict_the_own_key() -> None:
    async with open_node() as node:
        store = node._host.get_peerstore()
        address = Multiaddr("/ip4/192.0.2.1/tcp/1")
        for _ in range(guards.PEERS_STORED_MAX + 50):
            store.add_addrs(ID(peer_id_bytes(NodeId(secrets.token_bytes(32)))), [address], 60)
        assert guards.PEERS_STORED_MAX == len(store.peer_ids())
        assert node._host.get_private_key() is not None


async def test_a_peer_has_a_bounded_number_of_addresses() -> None:
    async with open_node() as node:
        peer = ID(peer_id_bytes(NodeId(bytes(32))))
        for port in range(1, 40):
            node._host.get_peerstore().add_addrs(peer, [Multiaddr(f"/ip4/192.0.2.1/tcp/{port}")], 60)
        assert len(node._host.get_peerstore().addrs(peer)) <= guards.ADDRESSES_PER_PEER_MAX


async def test_a_peer_that_ignores_the_window_is_disconnected() -> None:
    asleep = trio.Event()

    async def never_reads(_stream: object) -> None:
        await asleep.wait()

    async with open_node() as node, open_node(node) as hostile:
        node._host.set_stream_handler(TProtocol("/sleepy/1"), never_reads)
        stream = await hostile._host.new_stream(peer_of(node), [TProtocol("/sleepy/1")])
        await eventually(lambda: node.connections == 1)
        (connection,) = swarm_of(node).get_connections(peer_of(hostile))
        with trio.move_on_after(20):
            for _ in range(guards.UNREAD_BYTES_MAX // 60_000 + 20):
                stream.muxed_stream.send_window = 1 << 30  # type: ignore[attr-defined]
                try:
                    await stream.write(bytes(60_000))
                except Exception:  # noqa: BLE001 -- it was cut off: what we want
                    break
        held = sum(map(len, connection.muxed_conn.stream_buffers.values()))
        assert held <= guards.UNREAD_BYTES_MAX
        await eventually(lambda: connection.is_closed)
        asleep.set()


async def test_a_small_request_costs_no_window_updates_and_a_large_one_few() -> None:
    async with open_node() as node, open_node(node) as client:
        await ask_echo(client, node)
        (connection,) = swarm_of(client).get_connections(peer_of(node))
        updates: list[bytes] = []
        write = connection.muxed_conn._write_frame

        async def count(data: bytes) -> None:
            if data[1:4] == b"\x01\x00\x00":  # a window update without flags
                updates.append(data)
            await write(data)

        connection.muxed_conn._write_frame = count
        await ask_echo(client, node)
        assert [] == updates
        await ask_echo(client, node, bytes(1_000_000))
        assert 0 < len(updates) <= 8


def test_a_full_value_store_drops_the_oldest_foreign_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kad_guards, "DIRECTORY_KEYS_MAX", 4)
    host = new_host(key_pair=guards_key_pair())
    store = kad_guards.BoundedValueStore(host, kad_guards.record_validator(is_fresh, greatest))  # type: ignore[arg-type]
    keys = [kad_guards.record_key(bytes([number]) * 32).encode() for number in range(8)]
    store.put(keys[0], b"own")
    for key in [*keys[1:], keys[6]]:  # one is renewed: it is the youngest now, and nothing has to go for it
        store.put_record(key, make_signed_put_record(key, b"foreign", host.get_private_key()))
    assert [keys[0], keys[5], keys[7], keys[6]] == list(store.store)


async def test_the_kernel_ends_connections_to_vanished_hosts() -> None:
    async with open_node() as node, open_node(node) as client:
        await eventually(lambda: node.connections == 1)
        for host, peer in ((node, client), (client, node)):
            (connection,) = swarm_of(host).get_connections(peer_of(peer))
            assert isinstance(connection, SwarmConn)
            found = _socket_of(connection).getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            assert guards.UNACKNOWLEDGED_MS_MAX == found


async def test_a_connection_that_libp2p_forgot_is_closed_when_it_is_collected() -> None:
    ended = trio.Event()

    async def wait_for_end(stream: trio.SocketStream) -> None:
        assert b"" == await stream.receive_some()
        ended.set()

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, wait_for_end, [listener])
        transport = guards.LivelyTcp()
        forgotten: list[Any] = [await transport.dial(Multiaddr(f"/ip4/127.0.0.1/tcp/{listener.socket.getsockname()[1]}"))]
        forgotten.append(forgotten)  # a cycle, as of a connection and its tasks
        del forgotten
        gc.collect()  # without the guard Python warns of a socket that nobody closed
        with trio.fail_after(5):
            await ended.wait()
        transport.close_sockets()
        nursery.cancel_scope.cancel()


def _socket_of(connection: Any) -> Any:
    return connection.muxed_conn.secured_conn.conn.read_writer.read_write_closer.stream.stream.socket


async def test_no_connection_asks_for_identities_or_believes_pushed_addresses() -> None:
    async with open_node() as node, open_node(node) as client:
        for protocol in ("/ipfs/id/1.0.0", "/ipfs/id/push/1.0.0"):
            with pytest.raises(OverlayError):
                await client.request(node.local_address, protocol, b"", timeout_s=10)
