"""Emulated links under virtual time: delay, loss, congestion, order by delay."""

from __future__ import annotations

import random
from collections.abc import Callable

import trio
from trio.testing import MockClock

from srwan.swarm.links import EmulatedTransport, Link
from srwan.types import Datagram, UdpAddress

HERE: UdpAddress = ("127.0.0.1", 1)
THERE: UdpAddress = ("127.0.0.2", 2)


class RecordingTransport:
    """Remembers when what was sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[float, bytes, UdpAddress]] = []
        self.is_closed = False

    @property
    def local_addresses(self) -> tuple[UdpAddress, ...]:
        return (HERE,)

    def send(self, data: bytes, destination: UdpAddress) -> None:
        self.sent.append((trio.current_time(), data, destination))

    async def receive(self) -> list[Datagram]:
        await trio.sleep_forever()
        raise AssertionError

    async def serve(self, handle: Callable[[list[Datagram]], None]) -> None:
        handle(await self.receive())

    async def aclose(self) -> None:
        self.is_closed = True
        await trio.lowlevel.checkpoint()


async def test_a_datagram_leaves_after_its_delay(autojump_clock: MockClock) -> None:
    inner = RecordingTransport()
    emulated = EmulatedTransport(inner, {THERE[0]: Link(100.0, 0.0, 0.0)}, random.Random(1), trio.current_time)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(emulated.run)
        start = trio.current_time()
        emulated.send(b"a", THERE)
        await trio.sleep(0.05)
        emulated.send(b"b", THERE)
        assert [] == inner.sent
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert [(0.1, b"a"), (0.15, b"b")] == [(round(at - start, 6), data) for at, data, _ in inner.sent]


async def test_a_shorter_delay_overtakes(autojump_clock: MockClock) -> None:
    inner = RecordingTransport()
    link = Link(100.0, 0.0, 0.0)
    emulated = EmulatedTransport(inner, {THERE[0]: link}, random.Random(1), trio.current_time)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(emulated.run)
        link.congestion_ms = 150.0
        emulated.send(b"slow", THERE)
        link.congestion_ms = 0.0
        emulated.send(b"fast", THERE)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert [b"fast", b"slow"] == [data for _, data, _ in inner.sent]


async def test_loss_and_congestion_loss_add_up_and_are_counted(autojump_clock: MockClock) -> None:
    inner = RecordingTransport()
    emulated = EmulatedTransport(inner, {THERE[0]: Link(1.0, 0.0, 0.1, 0.0, 0.2)}, random.Random(1), trio.current_time)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(emulated.run)
        for _ in range(10_000):
            emulated.send(b"x", THERE)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert 10_000 == len(inner.sent) + emulated.dropped
    assert 0.28 < emulated.dropped / 10_000 < 0.32


async def test_jitter_has_the_wanted_mean(autojump_clock: MockClock) -> None:
    link, rng = Link(10.0, 2.0, 0.0), random.Random(1)
    delays = [link.draw(rng) or 0.0 for _ in range(10_000)]
    assert 0.0117 < sum(delays) / len(delays) < 0.0123
    assert min(delays) >= 0.01


async def test_a_destination_without_a_link_is_sent_to_at_once_and_close_closes_the_inner_one(autojump_clock: MockClock) -> None:
    inner = RecordingTransport()
    emulated = EmulatedTransport(inner, {}, random.Random(1), trio.current_time)
    emulated.send(b"x", THERE)
    await emulated.aclose()
    assert [b"x"] == [data for _, data, _ in inner.sent]
    assert inner.is_closed
