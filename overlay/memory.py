"""The three interfaces of `transport.py` in memory: what tests and swarms in one process use instead of sockets and libp2p.

What this is: verified fakes, public, under the same contract tests as the real ones. What this is not: the deterministic simulator
(`srwan.testing`), since Trio does not schedule deterministically; nor a model of TCP.

Theory of operation: a `MemoryNetwork` is a switchboard. Datagrams go through a link function that says how long each takes or that it
is lost; they wait in the receiver's queue, sorted by arrival, and `receive` sleeps until the first is due, so no task runs in the
background and `autojump_clock` works. A control request runs the handler in the caller's task. The directory is one table that all
nodes share, unreachable at the switch of an attribute.

Invariants: queues and tables are bounded; what is dropped is counted; nothing outlives the objects.
"""

from __future__ import annotations

import heapq
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import trio

from srwan.errors import LimitExceeded, OverlayError, RemoteProtocolError
from srwan.overlay.transport import (
    CONTROL_INBOUND_MAX,
    CONTROL_MESSAGE_BYTES_MAX,
    DATAGRAMS_PER_BATCH_MAX,
    DIRECTORY_KEY_BYTES,
    DIRECTORY_KEYS_MAX,
    DIRECTORY_VALUE_BYTES_MAX,
    ControlAddress,
    ControlHandler,
)
from srwan.types import Datagram, NodeId, UdpAddress

__all__ = ["Link", "MemoryControlChannel", "MemoryDatagramTransport", "MemoryDirectory", "MemoryNetwork", "StampClock"]

logger = logging.getLogger("srwan.overlay")

QUEUE_DATAGRAMS_MAX = 4096
"""Datagrams under way to one receiver, at most 5 MB; more are dropped like by a full socket buffer."""

DATAGRAM_BYTES_MAX = 65_507
"""What UDP over IPv4 can carry."""

FIRST_EPHEMERAL_PORT = 49_152
"""RFC 6335."""

SERVE_TIMEOUT_S = 30.0

Link: TypeAlias = Callable[[UdpAddress, UdpAddress, bytes], float | None]
"""Given source, destination and payload: the one-way delay in seconds, or None when the datagram is lost."""


class StampClock(Protocol):
    """What a datagram transport needs of a `srwan.clock.Clock`."""

    def stamp_ns(self) -> int:
        """Nanoseconds of the stamp clock now."""
        ...


def _instant(_source: UdpAddress, _destination: UdpAddress, _data: bytes) -> float:
    return 0.0


def _always_valid(_key: bytes, _value: bytes) -> bool:
    return True


def _last(_key: bytes, values: Sequence[bytes]) -> int:
    return len(values) - 1


class MemoryNetwork:
    """A network in memory.

    Args:
        link: delay or loss of each datagram; by default all arrive at once.
        is_valid_value: says whether a directory value may be kept now; by default all may.
        best_value: picks the better of valid directory values; by default the one published last.
    """

    def __init__(
        self,
        *,
        link: Link = _instant,
        is_valid_value: Callable[[bytes, bytes], bool] = _always_valid,
        best_value: Callable[[bytes, Sequence[bytes]], int] = _last,
    ) -> None:
        self.link = link
        """May be replaced at any time; it decides for datagrams sent from then on."""
        self.is_directory_down = False
        """True makes every directory operation raise `OverlayError`."""
        self._is_valid_value = is_valid_value
        self._best_value = best_value
        self._transports: dict[UdpAddress, MemoryDatagramTransport] = {}
        self._channels: dict[str, MemoryControlChannel] = {}
        self._values: OrderedDict[bytes, bytes] = OrderedDict()
        self._directories = 0
        self._next_port = FIRST_EPHEMERAL_PORT

    def datagram_transport(self, address: UdpAddress, clock: StampClock) -> MemoryDatagramTransport:
        """Open a transport on `address`; port 0 means a free one. Raises: ValueError: the address is taken."""
        host, port = address
        if port == 0:
            port, self._next_port = self._next_port, self._next_port + 1
        if (host, port) in self._transports:
            raise ValueError(f"{host}:{port} is taken")
        transport = MemoryDatagramTransport(self, (host, port), clock)
        self._transports[host, port] = transport
        return transport

    def control_channel(self, node_id: NodeId) -> MemoryControlChannel:
        """Open the control channel of a node. Raises: ValueError: it has one already."""
        channel = MemoryControlChannel(self, node_id)
        text = channel.local_address.multiaddrs[0]
        if text in self._channels:
            raise ValueError(f"{text} is taken")
        self._channels[text] = channel
        return channel

    def directory(self) -> MemoryDirectory:
        """Return one more node's access to the directory."""
        self._directories += 1
        return MemoryDirectory(self)


class MemoryDatagramTransport:
    """Implements `DatagramTransport`. Made by `MemoryNetwork.datagram_transport`."""

    def __init__(self, network: MemoryNetwork, address: UdpAddress, clock: StampClock) -> None:
        self._network = network
        self._address = address
        self._clock = clock
        self._queue: list[tuple[float, int, Datagram]] = []  # heap by (arrival on trio's clock, order of sending)
        self._order = 0
        self._arrived = trio.Event()
        self._is_closed = False
        self.drops: Counter[str] = Counter()
        """Datagrams this transport did not send or queue, by reason: "size", "lost", "unreachable", "queue", "closed"."""

    @property
    def local_addresses(self) -> tuple[UdpAddress, ...]:
        """The one address."""
        return (self._address,)

    def send(self, data: bytes, destination: UdpAddress) -> None:
        """Hand a datagram to the link. Never raises, never waits."""
        receiver = self._network._transports.get(destination)
        if self._is_closed:
            self.drops["closed"] += 1
        elif len(data) > DATAGRAM_BYTES_MAX:
            self.drops["size"] += 1
        elif receiver is None:
            self.drops["unreachable"] += 1
        else:
            delay_s = self._network.link(self._address, destination, data)
            if delay_s is None:
                self.drops["lost"] += 1
            else:
                receiver._enqueue(bytes(data), self._address, delay_s)

    async def receive(self) -> list[Datagram]:
        """Wait for the first datagram that is due and return what has arrived, up to DATAGRAMS_PER_BATCH_MAX, in order of arrival.

        The receive stamp is the stamp clock at sending plus the delay: what a kernel at the receiver would have written.

        Raises:
            trio.ClosedResourceError: the transport was closed.
        """
        await trio.lowlevel.checkpoint()
        while True:
            if self._is_closed:
                raise trio.ClosedResourceError
            now = trio.current_time()
            batch: list[Datagram] = []
            while self._queue and self._queue[0][0] <= now and len(batch) < DATAGRAMS_PER_BATCH_MAX:
                batch.append(heapq.heappop(self._queue)[2])
            if batch:
                return batch
            self._arrived = trio.Event()
            with trio.move_on_at(self._queue[0][0] if self._queue else float("inf")):
                await self._arrived.wait()

    async def serve(self, handle: Callable[[list[Datagram]], None]) -> None:
        """Call `handle` with each batch until cancelled. Raises: as `receive`, and what `handle` raises."""
        while True:
            handle(await self.receive())

    async def aclose(self) -> None:
        """Close. A pending `receive` raises `trio.ClosedResourceError`; what was under way is lost. Idempotent."""
        if not self._is_closed:
            self._is_closed = True
            del self._network._transports[self._address]
            self._queue.clear()
            self._arrived.set()
        await trio.lowlevel.checkpoint()

    def _enqueue(self, data: bytes, source: UdpAddress, delay_s: float) -> None:
        if len(self._queue) >= QUEUE_DATAGRAMS_MAX:
            self.drops["queue"] += 1
            return
        stamp_ns = self._clock.stamp_ns() + round(delay_s * 1e9)
        self._order += 1
        heapq.heappush(self._queue, (trio.current_time() + delay_s, self._order, (data, source, stamp_ns)))
        self._arrived.set()


class MemoryControlChannel:
    """Implements `ControlChannel`. Made by `MemoryNetwork.control_channel`."""

    def __init__(self, network: MemoryNetwork, node_id: NodeId) -> None:
        self._network = network
        self._node_id = node_id
        self._handlers: dict[str, ControlHandler] = {}
        self._running: Counter[str] = Counter()

    @property
    def local_address(self) -> ControlAddress:
        """One opaque string, derived from the node id."""
        return ControlAddress(self._node_id, (f"/memory/{self._node_id.hex()}",))

    async def request(self, peer: ControlAddress, protocol: str, body: bytes, *, timeout_s: float) -> bytes:
        """Run the peer's handler in this task. Errors as in `ControlChannel.request`; ValueError: body is too long."""
        if len(body) > CONTROL_MESSAGE_BYTES_MAX:
            raise ValueError(f"request of {len(body)} bytes, at most {CONTROL_MESSAGE_BYTES_MAX}")
        await trio.lowlevel.checkpoint()
        if self._network._channels.get(self.local_address.multiaddrs[0]) is not self:
            raise OverlayError("the control channel is closed")
        if peer.node_id == self._node_id:
            raise OverlayError(f"{protocol}: this node is {peer.node_id!r} itself")
        reachable = (self._network._channels.get(text) for text in peer.multiaddrs)
        target = next((channel for channel in reachable if channel is not None and channel._node_id == peer.node_id), None)
        if target is None:
            raise OverlayError(f"{protocol} at {peer.node_id!r}: cannot be reached")
        with trio.move_on_after(timeout_s):
            return await target._answer(self._node_id, protocol, bytes(body))
        raise OverlayError(f"{protocol} at {peer.node_id!r}: no response in time")

    def serve(self, protocol: str, handler: ControlHandler) -> None:
        """Answer requests on `protocol` with `handler`; a second call replaces it."""
        self._handlers[protocol] = handler

    async def aclose(self) -> None:
        """Leave the network. Idempotent."""
        self._network._channels.pop(self.local_address.multiaddrs[0], None)
        await trio.lowlevel.checkpoint()

    async def _answer(self, caller: NodeId, protocol: str, body: bytes) -> bytes:
        handler = self._handlers.get(protocol)
        if handler is None or self._running[protocol] >= CONTROL_INBOUND_MAX:
            raise OverlayError(f"{protocol} at {self._node_id!r}: not spoken, or too many requests")
        self._running[protocol] += 1
        try:
            with trio.fail_after(SERVE_TIMEOUT_S):
                response = await handler(caller, body)
        except RemoteProtocolError as error:
            raise OverlayError(f"{protocol} at {self._node_id!r}: refused") from error
        except Exception as error:
            logger.exception("%s: the handler failed", protocol)
            raise OverlayError(f"{protocol} at {self._node_id!r}: failed") from error
        finally:
            self._running[protocol] -= 1
        if len(response) > CONTROL_MESSAGE_BYTES_MAX:
            raise LimitExceeded(f"response of {len(response)} bytes, at most {CONTROL_MESSAGE_BYTES_MAX}", reason="control-length")
        return bytes(response)


class MemoryDirectory:
    """Implements `Directory`. Made by `MemoryNetwork.directory`."""

    def __init__(self, network: MemoryNetwork) -> None:
        self._network = network

    async def publish(self, key: bytes, value: bytes) -> int:
        """Store `value`, unless a better one is held; return the number of other nodes that took it, 0 if they keep a better one.

        Raises:
            ValueError: key is not 32 bytes, or value is empty, too long or not valid.
            OverlayError: the directory is down.
        """
        if len(key) != DIRECTORY_KEY_BYTES:
            raise ValueError(f"a directory key has {DIRECTORY_KEY_BYTES} bytes, not {len(key)}")
        if not 0 < len(value) <= DIRECTORY_VALUE_BYTES_MAX or not self._network._is_valid_value(key, value):
            raise ValueError(f"a directory value of {len(value)} bytes that is not valid cannot be published")
        await self._reach()
        values = self._network._values
        held = values.get(key)
        if (
            held is not None
            and held != value
            and self._network._is_valid_value(key, held)
            and self._network._best_value(key, [held, value]) == 0
        ):
            return 0
        values.pop(key, None)
        values[key] = bytes(value)
        while len(values) > DIRECTORY_KEYS_MAX:
            values.popitem(last=False)
        return self._network._directories - 1

    async def lookup(self, key: bytes) -> bytes | None:
        """Return the valid value under `key`, or None. Raises: as `publish`."""
        if len(key) != DIRECTORY_KEY_BYTES:
            raise ValueError(f"a directory key has {DIRECTORY_KEY_BYTES} bytes, not {len(key)}")
        await self._reach()
        value = self._network._values.get(key)
        if value is None or self._network._is_valid_value(key, value):
            return value
        del self._network._values[key]
        return None

    async def _reach(self) -> None:
        await trio.lowlevel.checkpoint()
        if self._network.is_directory_down:
            raise OverlayError("the directory cannot be reached")
