"""Emulated links: a datagram transport that delays, jitters, drops and congests what it sends, over another transport.

Delay is added at the sender, so one wrapper per router emulates the whole mesh and the sockets stay real. A datagram leaves when its delay
has passed: late by the event loop's timer resolution (p50 0.65 ms, measured), never early. Delivery order follows the drawn delays, so
jitter may reorder, as on the Internet.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Mapping

import attrs
import trio

from srwan.overlay.transport import DatagramTransport
from srwan.types import Datagram, UdpAddress

__all__ = ["EmulatedTransport", "Link"]

IN_FLIGHT_MAX = 65_536
"""Datagrams held for delayed sending; more are dropped and counted. 1.2 kB each: at most 80 MB."""


@attrs.define(slots=True)
class Link:
    """One direction of an emulated link. Congestion is what is added on top while it lasts."""

    owl_ms: float
    """One-way latency without queueing."""
    jitter_ms: float
    """Mean of an exponential queueing delay."""
    loss: float
    """Share of datagrams dropped, 0..1."""
    congestion_ms: float = 0.0
    """Latency added while the link is congested."""
    congestion_loss: float = 0.0
    """Share of datagrams dropped in addition, 0..1."""

    def draw(self, rng: random.Random) -> float | None:
        """Return the delay of one datagram in seconds, or None if it is lost."""
        if rng.random() < self.loss + self.congestion_loss:
            return None
        queue_ms = rng.expovariate(1.0 / self.jitter_ms) if self.jitter_ms > 0 else 0.0
        return (self.owl_ms + self.congestion_ms + queue_ms) / 1e3


class EmulatedTransport(DatagramTransport):
    """Wraps a transport with links by destination IP address. Destinations without a link are sent to at once.

    Args:
        inner: the real transport; closed together with this one.
        links: by destination IP address; may be changed while it runs.
        rng: draws jitter and loss.
        now: the clock of the event loop, seconds.

    Run `run()` in a task as long as it is used.
    """

    def __init__(self, inner: DatagramTransport, links: Mapping[str, Link], rng: random.Random, now: Callable[[], float]) -> None:
        self._inner = inner
        self._links = links
        self._rng = rng
        self._now = now
        self._queue: list[tuple[float, int, bytes, UdpAddress]] = []
        self._sequence = 0
        self._earlier = trio.Event()
        self.dropped = 0
        """Datagrams lost on emulated links so far."""

    @property
    def local_addresses(self) -> tuple[UdpAddress, ...]:
        """Those of the inner transport."""
        return self._inner.local_addresses

    def send(self, data: bytes, destination: UdpAddress) -> None:
        """Hold the datagram for its delay, or lose it."""
        link = self._links.get(destination[0])
        if link is None:
            self._inner.send(data, destination)
            return
        delay = link.draw(self._rng)
        if delay is None or len(self._queue) >= IN_FLIGHT_MAX:
            self.dropped += 1
            return
        due = self._now() + delay
        self._sequence += 1
        if not self._queue or due < self._queue[0][0]:
            self._earlier.set()
        heapq.heappush(self._queue, (due, self._sequence, data, destination))

    async def run(self) -> None:
        """Send what is due, for ever."""
        while True:
            self._earlier = trio.Event()
            if self._queue:
                with trio.move_on_at(trio.current_time() + self._queue[0][0] - self._now()):
                    await self._earlier.wait()
            else:
                await self._earlier.wait()
            now = self._now()
            while self._queue and self._queue[0][0] <= now:
                _, _, data, destination = heapq.heappop(self._queue)
                self._inner.send(data, destination)

    async def receive(self) -> list[Datagram]:
        """Receive from the inner transport: delays are the sender's business."""
        return await self._inner.receive()

    async def serve(self, handle: Callable[[list[Datagram]], None]) -> None:
        """Serve the inner transport."""
        await self._inner.serve(handle)

    async def aclose(self) -> None:
        """Close the inner transport; what is still held is lost."""
        self._queue.clear()
        await self._inner.aclose()
