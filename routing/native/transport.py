"""The node's UDP sockets, read by the native plane's thread once a data plane uses them. A shell.

Until `attach` it is a `UdpTransport` and nothing else: whoever wraps it, to emulate links for example, sees every datagram. After that
the plane's thread reads the sockets; what it leaves to Python comes through a ring, and a descriptor wakes the loop. A batch may then be
empty: there are payloads or notes for the `NativeForwarder`, which reads them after the batch. Sending is unchanged; two may send on one
socket.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable, Mapping

import trio

from srwan.overlay.reactor import current_reactor
from srwan.overlay.trains import Train, datagrams_of
from srwan.overlay.transport import DATAGRAMS_PER_BATCH_MAX
from srwan.overlay.udp import UdpTransport
from srwan.routing.native._core import Plane
from srwan.types import Datagram

__all__ = ["NativeTransport"]


class NativeTransport(UdpTransport):
    """UDP sockets that a native plane may read. Made by `open_udp`; see the module's header."""

    _plane: Plane | None = None
    _news = -1

    def attach(self, plane: Plane) -> None:
        """Have a plane read the sockets from now on. Once, and before anything is received.

        Raises:
            OSError: no thread, or too many descriptors; the transport goes on without it.
        """
        sockets = [(sock.fileno(), int(sock.family)) for sock in self._sockets]
        self._news = plane.open(sockets)
        self._plane = plane

    @property
    def is_attached(self) -> bool:
        """Whether a plane reads the sockets."""
        return self._plane is not None

    @property
    def drops(self) -> Mapping[str, int]:
        """As `UdpTransport.drops`, with what the plane's thread could not send or pass on."""
        drops = Counter(self._drops)
        if self._plane is not None:
            errors, truncated = self._plane.io_errors()
            for number, count in errors:
                drops[errno.errorcode.get(number, "OSError")] += count
            if truncated:
                drops["truncated"] += truncated
        return drops

    def convert_ns(self, realtime_ns: int) -> int:
        """Return a receive stamp of the plane on the stamp clock; the time now if the wall clock was just stepped."""
        return self._clock.stamp_from_realtime_ns(realtime_ns) if self._is_clock_steady() else self._clock.stamp_ns()

    async def receive_trains(self) -> list[Train]:
        """As `UdpTransport.receive_trains`; the batch may be empty once a plane is attached."""
        if self._plane is None:
            return await super().receive_trains()
        if self._is_closed:
            raise trio.ClosedResourceError("the UDP transport was closed")
        await trio.lowlevel.wait_readable(self._news)
        return self._take(self._plane)

    async def receive(self) -> list[Datagram]:
        """As `receive_trains`, one by one."""
        return datagrams_of(await self.receive_trains())

    async def serve_trains(self, handle: Callable[[list[Train]], None]) -> None:
        """As `UdpTransport.serve_trains`; batches may be empty once a plane is attached."""
        plane = self._plane
        if plane is None:
            await super().serve_trains(handle)
            return

        def read(_: int) -> None:
            handle(self._take(plane))
            plane.signal()  # the handler may have left something

        if self._is_closed:
            raise trio.ClosedResourceError("the UDP transport was closed")
        with current_reactor().watch((self._news,), read) as self._watch:
            await self._watch.until_failure()

    async def aclose(self) -> None:
        """End the plane's thread and close the sockets. Closing again does nothing."""
        if self._plane is not None and not self._is_closed:
            if self._watch is not None and not self._watch.is_closed:
                self._watch.fail(trio.ClosedResourceError("the UDP transport was closed"))
            trio.lowlevel.notify_closing(self._news)
            self._plane.close()  # waits for the batch at hand, some 0.1 ms
        await super().aclose()

    def _take(self, plane: Plane) -> list[Train]:
        """Return datagrams that came up, each a train of one; where more wait, the descriptor is readable again."""
        plane.clear_news()
        batch = plane.take_datagrams(DATAGRAMS_PER_BATCH_MAX)
        if not batch:
            return []
        shift_ns = self.convert_ns(batch[0][2]) - batch[0][2]  # the same for all of a batch
        if len(batch) == DATAGRAMS_PER_BATCH_MAX:
            plane.signal()
        return [(data, len(data) or 1, source, rx_ns + shift_ns) for data, source, rx_ns in batch]
