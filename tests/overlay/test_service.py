"""The overlay shell under trio, on virtual time, over the in-memory network."""

from __future__ import annotations

import contextlib
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from srwan.clock import Clock
from srwan.errors import BadSignature, ConfigError, LocalProtocolError, OverlayError
from srwan.identity import Identity
from srwan.overlay.frame import Frame, FrameType, content_digest
from srwan.overlay.join import GroupFounded, GroupJoined
from srwan.overlay.member_events import MemberJoined, MemberLeft, ViewChanged
from srwan.overlay.member_frames import encode_join
from srwan.overlay.memory import MemoryNetwork
from srwan.overlay.rendezvous import best_value, is_valid_value
from srwan.overlay.service import JOIN_PROTOCOL, OverlayConfig, OverlayService, load_book, save_book
from srwan.overlay.session import SessionEstablished
from srwan.types import NodeId, PeerMisbehaved, UdpAddress

WALL_NS = 1_800_000_000_000_000_000
LATENCY_S = 0.02


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
    """Everything that nodes reach each other through; datagrams take 20 ms."""

    def __init__(self) -> None:
        self.memory = MemoryNetwork(link=lambda *_: LATENCY_S, is_valid_value=self.is_valid, best_value=self.best)
        self.operations: Counter[str] = Counter()

    @staticmethod
    def is_valid(key: bytes, value: bytes) -> bool:
        return is_valid_value(key, value, VirtualClock(0).wall_ns())

    @staticmethod
    def best(key: bytes, values: Sequence[bytes]) -> int:
        return best_value(values, VirtualClock(0).wall_ns())


class SlowDirectory:
    """Counts operations; each takes as long as in a real one."""

    def __init__(self, net: Net) -> None:
        self.directory = net.memory.directory()
        self.operations = net.operations

    async def publish(self, key: bytes, value: bytes) -> int:
        self.operations["publish"] += 1
        await trio.sleep(0.2)
        return await self.directory.publish(key, value)

    async def lookup(self, key: bytes) -> bytes | None:
        self.operations["lookup"] += 1
        await trio.sleep(0.2)
        return await self.directory.lookup(key)


class Node:
    def __init__(self, net: Net, index: int, *, boot_id: int = 1000, **config: Any) -> None:
        self.identity = Identity(bytes([5, index]) * 16)
        self.address: UdpAddress = (f"10.5.0.{index + 1}", 4710)
        clock = VirtualClock(boot_id)
        self.transport = net.memory.datagram_transport(self.address, clock)
        self.control = net.memory.control_channel(self.identity.node_id)
        settings: dict[str, Any] = {"network": "test", "name": f"n{index}", "has_bootstrap": index > 0} | config
        self.service = OverlayService(
            self.identity, clock, OverlayConfig(**settings), self.transport, self.control, SlowDirectory(net), random.Random(index)
        )
        self.events: list[object] = []
        self.service.on_event(self.events.append)
        self.scope = trio.CancelScope()
        self.has_ended = False

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        with self.scope:
            await self.service.run(task_status=task_status)
        await self.control.aclose()
        self.has_ended = True

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
        for node in nodes:
            node.scope.cancel()


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
async def test_nodes_find_each_other_and_agree(autojump_clock: MockClock, count: int) -> None:
    net = Net()
    async with running(net, count) as nodes:
        took = await until(lambda: is_converged(nodes), 2.0)
        assert took < 1.0
        assert GroupFounded() in nodes[0].events
        assert [1] * (count - 1) == [sum(isinstance(event, GroupJoined) for event in node.events) for node in nodes[1:]]
        assert net.operations == Counter(publish=1, lookup=count - 1)  # the usual newcomer does one lookup
        last = [event for event in nodes[0].events if isinstance(event, ViewChanged)][-1]
        assert ViewChanged(nodes[0].service.view.digest, count) == last
        assert [{}] * count == [node.service.drops for node in nodes]


async def test_a_bug_in_what_a_timer_sends_ends_the_node_instead_of_its_timers(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node(Net(), 0)
    flush_once = node.service._flush_once
    failures = [ZeroDivisionError("a bug")]

    def fail_once() -> bool:
        if failures:
            raise failures.pop()
        return flush_once()

    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            await nursery.start(node.run)
            monkeypatch.setattr(node.service, "_flush_once", fail_once)
            await trio.sleep(1000.0)  # certificates are renewed, so there is a timer
            nursery.cancel_scope.cancel()


async def test_twelve_nodes_agree_when_one_datagram_in_ten_is_lost(autojump_clock: MockClock) -> None:
    net = Net()
    rng = random.Random(3)
    net.memory.link = lambda *_: None if rng.random() < 0.1 else rng.uniform(0.005, 0.08)
    async with running(net, 12) as nodes:
        await until(lambda: is_converged(nodes), 5.0)


async def test_nodes_that_start_together_without_anybody_become_one_group(autojump_clock: MockClock) -> None:
    net = Net()
    async with trio.open_nursery() as nursery:
        nodes = [Node(net, index, has_bootstrap=True) for index in range(8)]
        for node in nodes:
            nursery.start_soon(nursery.start, node.run)
        await until(lambda: is_converged(nodes), 20.0)
        nursery.cancel_scope.cancel()


async def test_a_cancelled_node_says_goodbye_and_is_gone_at_once(autojump_clock: MockClock) -> None:
    net = Net()
    async with running(net, 4) as nodes:
        await until(lambda: is_converged(nodes), 2.0)
        leaver = nodes.pop(2)
        leaver.scope.cancel()
        assert await until(lambda: {len(node.service.view) for node in nodes} == {3}, 0.5) <= LATENCY_S + 0.02
        assert await until(lambda: leaver.has_ended, 0.6) <= 0.5
        await trio.sleep(3.0)
        assert [1, 1, 1] == [node.events.count(MemberLeft(leaver.identity.node_id, "left")) for node in nodes]
        assert [{}] * 3 == [node.service.drops for node in nodes]


async def test_a_directory_that_is_down_does_not_keep_a_node_from_starting(autojump_clock: MockClock) -> None:
    net = Net()
    net.memory.is_directory_down = True
    async with running(net, 1, has_bootstrap=True) as [node]:
        await until(lambda: GroupFounded() in node.events, 10.0)


async def test_rubbish_is_dropped_and_counted_by_reason_and_the_node_still_serves(autojump_clock: MockClock) -> None:
    net = Net()
    async with running(net, 3) as nodes:
        await until(lambda: is_converged(nodes), 2.0)
        victim, member, _ = nodes
        attacker = net.memory.datagram_transport(("203.0.113.9", 666), VirtualClock(0))
        rng = random.Random(7)
        own = member.service.view.certificate(member.identity.node_id)
        good = [
            member.seal(victim, FrameType.JOIN, encode_join(member.identity.node_id, own)),
            member.seal(victim, FrameType.PULL, bytes(16)),
            member.seal(victim, FrameType.LEAVE, own),
            member.seal(victim, FrameType.PULSE, b"p" * 600),
            bytes([0x11]) + rng.randbytes(140),
        ]
        for number in range(10_000):
            mutated = bytearray(rng.choice(good))
            mutated[rng.randrange(len(mutated))] ^= 1 << rng.randrange(8)
            attacker.send(rng.randbytes(rng.choice([0, 1, 43, 44, 45, 200, 1200, 1500])) if number % 2 else bytes(mutated), victim.address)
            if number % 500 == 499:
                await trio.sleep(0.05)
        await trio.sleep(1.0)
        drops = victim.service.drops
        assert "internal" not in drops
        assert {"group", "length", "mac", "plane", "unknown-sender", "version"} <= set(drops)
        in_sessions = sum(victim.service.sessions.drops.values())
        assert 10_000 <= sum(drops.values()) + in_sessions
        assert len([event for event in victim.events if isinstance(event, PeerMisbehaved)]) <= 2 * len(drops)
        assert victim.service.address_of(member.identity.node_id) == member.address
        late = Node(net, 9)
        async with trio.open_nursery() as nursery:
            await nursery.start(late.run)
            await until(lambda: is_converged([*nodes, late]), 3.0)
            nursery.cancel_scope.cancel()


async def test_frames_reach_their_handler_with_their_stamp(autojump_clock: MockClock) -> None:
    net = Net()
    async with running(net, 2) as nodes:
        one, other = nodes
        got: list[tuple[Frame, UdpAddress, int]] = []
        batches: list[int] = []
        one.service.on_frames([FrameType.PULSE], lambda frame, source, rx_ns: got.append((frame, source, rx_ns)))
        one.service.after_batch(lambda: batches.append(len(got)))
        await until(lambda: is_converged(nodes), 2.0)
        await trio.sleep(1.0)
        batches.clear()
        rx_ns = VirtualClock(0).stamp_ns() + round(LATENCY_S * 1e9)
        for content in (b"first", b"second"):
            other.service.send(other.seal(one, FrameType.PULSE, content), one.address)
        await trio.sleep(0.1)
        assert [(b"first", other.address, rx_ns), (b"second", other.address, rx_ns)] == [
            (frame.content, source, at_ns) for frame, source, at_ns in got
        ]
        assert batches == [2]
        other.service.send(other.seal(one, FrameType.BEAT, b""), one.address)
        await trio.sleep(0.1)
        assert one.service.drops == {"no-handler": 1}


async def test_the_last_frames_of_a_member_that_left_reach_no_handler_and_blame_nobody(autojump_clock: MockClock) -> None:
    net = Net()
    async with running(net, 2) as nodes:
        one, other = nodes
        got: list[Frame] = []
        one.service.on_frames([FrameType.PULSE], lambda frame, *_: got.append(frame))
        await until(lambda: is_converged(nodes), 2.0)
        late = other.seal(one, FrameType.PULSE, b"late")
        other.scope.cancel()
        await until(lambda: len(one.service.view) == 1, 1.0)
        net.memory.datagram_transport(("10.5.0.99", 1), VirtualClock(0)).send(late, one.address)
        await trio.sleep(0.1)
        assert ([], {"late": 1}) == (got, one.service.drops)


async def test_a_remote_error_of_a_handler_is_counted_with_its_peer_and_reported_once_in_ten_seconds(autojump_clock: MockClock) -> None:
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


async def test_a_bug_in_a_handler_is_logged_and_survived(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
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
        assert "ZeroDivisionError" in caplog.text
        other.scope.cancel()
        await until(lambda: len(one.service.view) == 1, 1.0)


async def test_a_bug_below_the_join_loop_is_logged_and_survived(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        await trio.lowlevel.checkpoint()
        raise ZeroDivisionError

    net = Net()
    monkeypatch.setattr(SlowDirectory, "lookup", fail)
    async with running(net, 1, has_bootstrap=True) as [node]:
        await until(lambda: GroupFounded() in node.events, 20.0)
        assert node.service.drops["internal"] >= 1
        assert "ZeroDivisionError" in caplog.text


async def test_planes_and_frame_types_have_one_handler_each(autojump_clock: MockClock) -> None:
    net = Net()
    async with running(net, 1) as [node]:
        got: list[bytes] = []
        node.service.on_plane(0x2, lambda data, *_: got.append(data))
        stranger = net.memory.datagram_transport(("10.5.0.99", 1), VirtualClock(0))
        for data in (b"\x21packet", b"\xf1alien", b""):
            stranger.send(data, node.address)
        await trio.sleep(0.1)
        assert ([b"\x21packet"], {"plane": 2}) == (got, node.service.drops)
        for plane in (0x1, 0x2, 0x3):
            with pytest.raises(LocalProtocolError):
                node.service.on_plane(plane, lambda *_: None)
        node.service.on_frames([FrameType.PULSE], lambda *_: None)
        for kind in (FrameType.PULSE, FrameType.JOIN):
            with pytest.raises(LocalProtocolError):
                node.service.on_frames([kind], lambda *_: None)


async def test_members_get_sessions_and_strangers_do_not(autojump_clock: MockClock) -> None:
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
        stranger.service.flush()
        await trio.sleep(0.1)
        assert one.service.sessions.current(stranger.identity.node_id) is None
        assert one.service.drops == {"not-allowed": 1}
        other.scope.cancel()
        await until(lambda: one.service.sessions.current(other.identity.node_id) is None, 1.0)


async def test_a_join_request_with_anothers_certificate_is_refused_and_counted(autojump_clock: MockClock) -> None:
    net = Net()
    async with running(net, 2) as nodes:
        await until(lambda: is_converged(nodes), 2.0)
        one, other = nodes
        attacker = net.memory.control_channel(NodeId(b"\x01" * 32))
        certificate = other.service.view.certificate(other.identity.node_id)
        for body in (certificate, b"rubbish", b"x" * 10_000):
            with pytest.raises(OverlayError):
                await attacker.request(one.control.local_address, JOIN_PROTOCOL, body, timeout_s=1.0)
        assert one.service.drops == {"decode": 2, "length": 1}


async def test_the_address_book_brings_a_node_back_without_a_directory(autojump_clock: MockClock, tmp_path: Path) -> None:
    net = Net()
    book = tmp_path / "peers"
    async with running(net, 2) as nodes:
        await until(lambda: is_converged(nodes), 2.0)
        async with trio.open_nursery() as nursery:
            guest = Node(net, 7, address_book=book)
            await nursery.start(guest.run)
            await until(lambda: is_converged([*nodes, guest]), 3.0)
            guest.scope.cancel()
        assert book.stat().st_mode & 0o777 == 0o600
        assert [path.name for path in tmp_path.iterdir()] == ["peers"]
        net.memory.is_directory_down = True
        async with trio.open_nursery() as nursery:
            again = Node(net, 7, boot_id=2000, address_book=book)
            await nursery.start(again.run)
            await until(lambda: is_converged([*nodes, again]), 3.0)
            again.scope.cancel()


def test_a_damaged_address_book_is_an_empty_one_and_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "peers"
    assert len(load_book(path)) == 0
    path.write_bytes(b"rubbish")
    with caplog.at_level(logging.WARNING):
        assert len(load_book(path)) == 0
        save_book(tmp_path / "missing" / "peers", b"")
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]


async def test_an_address_that_nobody_can_send_to_is_a_config_error(autojump_clock: MockClock) -> None:
    net = Net()
    with pytest.raises(ConfigError):
        Node(net, 0, announce_udp=(("0.0.0.0", 4710),))
    with pytest.raises(ConfigError):
        Node(net, 1, name="caf\u00e9")
    with pytest.raises(ConfigError):
        Node(net, 2, network="")


async def test_a_socket_closed_from_outside_ends_the_service_with_an_overlay_error(autojump_clock: MockClock) -> None:
    net = Net()
    node = Node(net, 0)
    with pytest.raises(ExceptionGroup) as caught:
        async with trio.open_nursery() as nursery:
            await nursery.start(node.run)
            await node.transport.aclose()
    assert caught.group_contains(OverlayError)


async def test_a_newcomer_is_reported_with_its_name(autojump_clock: MockClock) -> None:
    net = Net()
    async with running(net, 2) as nodes:
        await until(lambda: is_converged(nodes), 2.0)
        [joined] = [event for event in nodes[0].events if isinstance(event, MemberJoined)]
        assert joined.member.name == "n1"
        assert nodes[0].service.control_address_of(joined.member.node_id).multiaddrs == joined.member.control
        with pytest.raises(KeyError):
            nodes[0].service.control_address_of(NodeId(bytes(32)))
