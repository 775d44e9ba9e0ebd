"""The overlay shell under trio, on virtual time, with transports, control channel and directory in memory."""

from __future__ import annotations

import contextlib
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from srwan.clock import Clock
from srwan.errors import BadSignature, ConfigError, DecodeError, LocalProtocolError, OverlayError, RemoteProtocolError
from srwan.identity import Identity
from srwan.overlay.frame import Frame, FrameType, content_digest
from srwan.overlay.join import GroupFounded, GroupJoined
from srwan.overlay.membership import MemberJoined, MemberLeft, ViewChanged
from srwan.overlay.rendezvous import best_value, is_valid_value
from srwan.overlay.service import JOIN_PROTOCOL, OverlayConfig, OverlayService, load_book, save_book
from srwan.overlay.session import SessionEstablished
from srwan.overlay.transport import ControlAddress, ControlHandler
from srwan.types import Datagram, NodeId, PeerMisbehaved, UdpAddress

pytestmark = pytest.mark.usefixtures("autojump_clock")

WALL_NS = 1_800_000_000_000_000_000


class VirtualClock(Clock):
    """Trio's clock as all three times."""

    def __init__(self, boot_id: int) -> None:
        super().__init__()
        self.boot_id = boot_id

    def now(self) -> float:
        return trio.current_time()

    def stamp_ns(self) -> int:
        return int(trio.current_time() * 1e9)

    def wall_ns(self) -> int:
        return WALL_NS + int(trio.current_time() * 1e9)


class Net:
    """Everything that nodes reach each other through."""

    def __init__(self) -> None:
        self.sockets: dict[UdpAddress, Transport] = {}
        self.handlers: dict[tuple[NodeId, str], ControlHandler] = {}
        self.values: dict[bytes, list[bytes]] = {}
        self.operations: Counter[str] = Counter()
        self.has_directory = True


class Transport:
    def __init__(self, net: Net, address: UdpAddress) -> None:
        self.net = net
        self.local_addresses = (address,)
        self.into, self.out = trio.open_memory_channel[Datagram](10_000)
        net.sockets[address] = self

    def send(self, data: bytes, destination: UdpAddress) -> None:
        other = self.net.sockets.get(destination)
        if other is not None:
            other.inject(data, self.local_addresses[0])

    def inject(self, data: bytes, source: UdpAddress) -> None:
        with contextlib.suppress(trio.WouldBlock, trio.BrokenResourceError):
            self.into.send_nowait((data, source, int(trio.current_time() * 1e9)))

    async def receive(self) -> list[Datagram]:
        batch = [await self.out.receive()]
        with contextlib.suppress(trio.WouldBlock):
            while len(batch) < 64:
                batch.append(self.out.receive_nowait())
        return batch

    async def aclose(self) -> None:
        self.net.sockets.pop(self.local_addresses[0], None)
        self.out.close()
        await trio.lowlevel.checkpoint()


class Control:
    def __init__(self, net: Net, node_id: NodeId) -> None:
        self.net = net
        self.local_address = ControlAddress(node_id, ("mem:" + node_id.hex()[:8],))

    async def request(self, peer: ControlAddress, protocol: str, body: bytes, *, timeout_s: float) -> bytes:
        self.net.operations["request"] += 1
        handler = self.net.handlers.get((peer.node_id, protocol))
        await trio.sleep(0.05)
        if handler is None:
            raise OverlayError("refused")
        try:
            with trio.fail_after(timeout_s):
                return await handler(self.local_address.node_id, body)
        except RemoteProtocolError:
            raise OverlayError("stream reset") from None

    def serve(self, protocol: str, handler: ControlHandler) -> None:
        self.net.handlers[self.local_address.node_id, protocol] = handler


class InMemoryDirectory:
    def __init__(self, net: Net) -> None:
        self.net = net

    async def publish(self, key: bytes, value: bytes) -> int:
        self.net.operations["publish"] += 1
        await trio.sleep(0.2)
        if not self.net.has_directory:
            raise OverlayError("no directory")
        wall_ns = WALL_NS + int(trio.current_time() * 1e9)
        assert is_valid_value(key, value, wall_ns)
        self.net.values[key] = [value]
        return 1

    async def lookup(self, key: bytes) -> bytes | None:
        self.net.operations["lookup"] += 1
        await trio.sleep(0.2)
        if not self.net.has_directory:
            raise OverlayError("no directory")
        values = self.net.values.get(key, [])
        return values[best_value(values, WALL_NS + int(trio.current_time() * 1e9))] if values else None


class Node:
    def __init__(self, net: Net, index: int, *, boot_id: int = 1000, **config: Any) -> None:
        self.net = net
        self.identity = Identity(bytes([5, index]) * 16)
        self.address: UdpAddress = (f"10.5.0.{index + 1}", 4710)
        self.transport = Transport(net, self.address)
        settings: dict[str, Any] = {"network": "test", "name": f"n{index}", "has_bootstrap": index > 0} | config
        self.service = OverlayService(
            self.identity,
            VirtualClock(boot_id),
            OverlayConfig(**settings),
            self.transport,
            Control(net, self.identity.node_id),
            InMemoryDirectory(net),
            random.Random(index),
        )
        self.events: list[object] = []
        self.service.on_event(self.events.append)
        self.scope = trio.CancelScope()

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        with self.scope:
            await self.service.run(task_status=task_status)

    def seal(self, other: Node, kind: FrameType, content: bytes) -> bytes:
        return self.service.frames.seal(other.identity.node_id, kind, content, digest=content_digest(content), tx_ns=0)


@contextlib.asynccontextmanager
async def running(net: Net, count: int, **config: Any) -> AsyncIterator[list[Node]]:
    """`count` nodes started one after the other without waiting for their joins; all are stopped at the end."""
    async with trio.open_nursery() as nursery:
        nodes = []
        for index in range(count):
            node = Node(net, index, **config)
            nodes.append(node)
            await nursery.start(node.run)
            if index == 0:
                await trio.sleep(1.0)
        yield nodes
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool], seconds: float) -> float:
    """Wait on virtual time; return how long it took."""
    start = trio.current_time()
    while not condition():
        assert trio.current_time() - start < seconds, "not in time"
        await trio.sleep(0.01)
    return trio.current_time() - start


def is_converged(nodes: list[Node]) -> bool:
    return {len(node.service.view) for node in nodes} == {len(nodes)} and len({node.service.view.digest for node in nodes}) == 1


@pytest.mark.parametrize("count", [1, 3, 12])
async def test_nodes_find_each_other_and_agree(count: int) -> None:
    net = Net()
    async with running(net, count) as nodes:
        took = await until(lambda: is_converged(nodes), 2.0)
        assert took < 1.0
        assert GroupFounded() in nodes[0].events
        assert all(any(isinstance(event, GroupJoined) for event in node.events) for node in nodes[1:])
        # the happy path: one lookup and one ask each
        assert net.operations["request"] == count - 1
        assert net.operations["lookup"] <= count + 1
        last = [event for event in nodes[0].events if isinstance(event, ViewChanged)][-1]
        assert last == ViewChanged(nodes[0].service.view.digest, count)
        assert all(node.service.drops == {} for node in nodes)


async def test_nodes_that_start_together_without_anybody_become_one_group() -> None:
    net = Net()
    async with trio.open_nursery() as nursery:
        nodes = [Node(net, index, has_bootstrap=True) for index in range(8)]
        for node in nodes:
            nursery.start_soon(nursery.start, node.run)
        await until(lambda: is_converged(nodes), 20.0)
        nursery.cancel_scope.cancel()


async def test_a_cancelled_node_says_goodbye_and_is_gone_at_once() -> None:
    net = Net()
    async with running(net, 4) as nodes:
        await until(lambda: is_converged(nodes), 2.0)
        start = trio.current_time()
        nodes[2].scope.cancel()
        took = await until(lambda: all(len(node.service.view) == 3 for node in nodes if node is not nodes[2]), 0.5)
        assert took <= 0.05
        await until(lambda: nodes[2].address not in net.sockets, 0.6)
        assert trio.current_time() - start <= 0.6
        left = MemberLeft(nodes[2].identity.node_id, "left")
        assert [1, 1, 1] == [node.events.count(left) for node in nodes if node is not nodes[2]]
        await trio.sleep(3.0)
        assert all(node.service.drops == {} for node in nodes)


async def test_a_directory_that_is_down_does_not_keep_a_node_from_starting() -> None:
    net = Net()
    net.has_directory = False
    async with running(net, 1, has_bootstrap=True) as [node]:
        await until(lambda: GroupFounded() in node.events, 10.0)


async def test_rubbish_is_dropped_and_counted_by_reason_and_the_node_still_serves() -> None:
    net = Net()
    async with running(net, 3) as nodes:
        await until(lambda: is_converged(nodes), 2.0)
        victim, member, _ = nodes
        rng = random.Random(7)
        own = member.service.view.certificate(member.identity.node_id)
        good = [
            member.seal(victim, FrameType.JOIN, member.identity.node_id + own),
            member.seal(victim, FrameType.PULL, bytes(16)),
            member.seal(victim, FrameType.LEAVE, own),
            member.seal(victim, FrameType.PULSE, b"p" * 600),
            bytes([0x11]) + rng.randbytes(140),
        ]
        for number in range(10_000):
            if number % 2:
                data = rng.randbytes(rng.choice([0, 1, 43, 44, 45, 200, 1200, 1500]))
            else:
                mutated = bytearray(rng.choice(good))
                mutated[rng.randrange(len(mutated))] ^= 1 << rng.randrange(8)
                data = bytes(mutated)
            victim.transport.inject(data, ("203.0.113.9", number % 60000 + 1))
            if number % 500 == 0:
                await trio.sleep(0.01)
        await trio.sleep(1.0)
        drops = dict(victim.service.drops)
        assert "internal" not in drops
        assert {"mac", "plane", "length"} <= set(drops)
        assert sum(drops.values()) + sum(victim.service.sessions.drops.values()) >= 9_000
        reported = [event for event in victim.events if isinstance(event, PeerMisbehaved)]
        assert len(reported) <= 2 * len(drops)
        late = Node(net, 9)
        async with trio.open_nursery() as nursery:
            await nursery.start(late.run)
            await until(lambda: is_converged([*nodes, late]), 3.0)
            nursery.cancel_scope.cancel()


async def test_frames_reach_their_handler_with_their_stamp_and_only_from_members() -> None:
    net = Net()
    async with running(net, 2) as nodes:
        one, other = nodes
        got: list[tuple[Frame, UdpAddress, int]] = []
        batches: list[int] = []
        one.service.on_frames([FrameType.PULSE], lambda frame, source, rx_ns: got.append((frame, source, rx_ns)))
        one.service.after_batch(lambda: batches.append(len(got)))
        await until(lambda: is_converged(nodes), 2.0)
        batches.clear()
        for content in (b"first", b"second"):
            other.service.send(other.seal(one, FrameType.PULSE, content), one.address)
        sent_ns = int(trio.current_time() * 1e9)
        await trio.sleep(0.1)
        assert [(b"first", other.address, sent_ns), (b"second", other.address, sent_ns)] == [
            (frame.content, source, rx_ns) for frame, source, rx_ns in got
        ]
        assert batches == [2]
        other.service.send(other.seal(one, FrameType.BEAT, b""), one.address)
        await trio.sleep(0.1)
        assert one.service.drops == {"no-handler": 1}


async def test_a_remote_error_of_a_handler_is_counted_with_its_peer_and_reported_once_in_ten_seconds() -> None:
    def refuse(*_: object) -> None:
        raise BadSignature("no", reason="row-signature")

    net = Net()
    async with running(net, 2) as nodes:
        one, other = nodes
        one.service.on_frames([FrameType.PULSE], refuse)
        await until(lambda: is_converged(nodes), 2.0)
        for _ in range(12):
            other.service.send(other.seal(one, FrameType.PULSE, b""), one.address)
            await trio.sleep(1.0)
        assert one.service.drops == {"row-signature": 12}
        report = PeerMisbehaved(other.identity.node_id, other.address, "row-signature")
        assert [report, report] == [event for event in one.events if isinstance(event, PeerMisbehaved)]


async def test_a_bug_in_a_handler_is_logged_and_survived(caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    net = Net()
    async with running(net, 2) as nodes:
        one, other = nodes
        one.service.on_frames([FrameType.PULSE], fail)
        one.service.on_event(fail)
        await until(lambda: is_converged(nodes), 2.0)
        before = one.service.drops["internal"]
        other.service.send(other.seal(one, FrameType.PULSE, b""), one.address)
        await trio.sleep(0.1)
        assert one.service.drops["internal"] == before + 1
        assert "a handler failed" in caplog.text
        nodes[1].scope.cancel()
        await until(lambda: len(one.service.view) == 1, 1.0)


async def test_planes_and_frame_types_have_one_handler_each() -> None:
    net = Net()
    async with running(net, 1) as [node]:
        got: list[bytes] = []
        node.service.on_plane(0x2, lambda data, *_: got.append(data))
        node.transport.inject(b"\x21packet", ("10.5.0.99", 1))
        node.transport.inject(b"\xf1alien", ("10.5.0.99", 1))
        node.transport.inject(b"", ("10.5.0.99", 1))
        await trio.sleep(0.1)
        assert ([b"\x21packet"], {"plane": 2}) == (got, node.service.drops)
        for plane in (0x1, 0x2, 0x3):
            with pytest.raises(LocalProtocolError):
                node.service.on_plane(plane, lambda *_: None)
        node.service.on_frames([FrameType.PULSE], lambda *_: None)
        for kind in (FrameType.PULSE, FrameType.JOIN):
            with pytest.raises(LocalProtocolError):
                node.service.on_frames([kind], lambda *_: None)


async def test_members_get_sessions_and_strangers_do_not() -> None:
    net = Net()
    async with running(net, 2) as nodes:
        await until(lambda: is_converged(nodes), 2.0)
        one, other = nodes
        one.service.sessions.connect(other.identity.node_id, one.service.address_of(other.identity.node_id), trio.current_time())
        one.service.flush()
        await until(lambda: all(any(isinstance(event, SessionEstablished) for event in node.events) for node in nodes), 2.0)
        stranger = Node(net, 9)
        stranger.service.sessions.connect(one.identity.node_id, one.address, trio.current_time())
        stranger.service.sessions.handle_timer(trio.current_time(), WALL_NS)
        for data, destination in stranger.service.sessions.datagrams_to_send(trio.current_time()):
            stranger.service.send(data, destination)
        await trio.sleep(0.1)
        assert one.service.sessions.current(stranger.identity.node_id) is None
        assert one.service.drops == {"not-allowed": 1}
        other.scope.cancel()
        await until(lambda: one.service.sessions.current(other.identity.node_id) is None, 1.0)


async def test_a_join_request_with_anothers_certificate_is_refused_and_counted() -> None:
    net = Net()
    async with running(net, 2) as nodes:
        await until(lambda: is_converged(nodes), 2.0)
        one, other = nodes
        handler = net.handlers[one.identity.node_id, JOIN_PROTOCOL]
        certificate = other.service.view.certificate(other.identity.node_id)
        for body in (certificate, b"rubbish", b"x" * 10_000):
            with pytest.raises(DecodeError):
                await handler(NodeId(b"\x01" * 32), body)
        assert one.service.drops == {"decode": 2, "length": 1}


async def test_the_address_book_brings_a_node_back_without_a_directory(tmp_path: Path) -> None:
    net = Net()
    book = tmp_path / "peers"
    async with running(net, 2) as nodes:
        await until(lambda: is_converged(nodes), 2.0)
        async with trio.open_nursery() as nursery:
            guest = Node(net, 7, address_book=book)
            await nursery.start(guest.run)
            await until(lambda: is_converged([*nodes, guest]), 3.0)
            nursery.cancel_scope.cancel()
        assert book.stat().st_mode & 0o777 == 0o600
        assert [path.name for path in tmp_path.iterdir()] == ["peers"]
        net.has_directory = False
        async with trio.open_nursery() as nursery:
            again = Node(net, 7, boot_id=2000, address_book=book)
            await nursery.start(again.run)
            await until(lambda: is_converged([*nodes, again]), 3.0)
            nursery.cancel_scope.cancel()


def test_a_damaged_address_book_is_an_empty_one_and_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "peers"
    assert len(load_book(path)) == 0
    path.write_bytes(b"rubbish")
    with caplog.at_level(logging.WARNING):
        assert len(load_book(path)) == 0
        save_book(tmp_path / "missing" / "peers", b"")
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]


async def test_an_address_that_nobody_can_send_to_is_a_config_error() -> None:
    net = Net()
    with pytest.raises(ConfigError):
        Node(net, 0, announce_udp=(("0.0.0.0", 4710),))
    with pytest.raises(ConfigError):
        Node(net, 0, name="caf\u00e9")
    with pytest.raises(ConfigError):
        Node(net, 0, network="")


async def test_a_socket_closed_from_outside_ends_the_service_with_an_overlay_error() -> None:
    net = Net()
    node = Node(net, 0)
    with pytest.raises(ExceptionGroup) as caught:
        async with trio.open_nursery() as nursery:
            await nursery.start(node.run)
            await node.transport.aclose()
    assert caught.group_contains(OverlayError)


async def test_a_newcomer_is_reported_with_its_name() -> None:
    net = Net()
    async with running(net, 2) as nodes:
        await until(lambda: is_converged(nodes), 2.0)
        [joined] = [event for event in nodes[0].events if isinstance(event, MemberJoined)]
        assert joined.member.name == "n1"
        assert nodes[0].service.control_address_of(joined.member.node_id).multiaddrs == joined.member.control
        with pytest.raises(KeyError):
            nodes[0].service.control_address_of(NodeId(bytes(32)))
