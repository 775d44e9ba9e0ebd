"""The three interfaces through which a node reaches others: datagrams, a directory, and request/response.

Each has one implementation on real sockets (`udp.py`, `libp2p_host.py`) and one in memory (`memory.py`), under the same contract
tests; the emulated links of `srwan.swarm` wrap the first. What stands above them never knows which it has.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, runtime_checkable

import attrs

from srwan.overlay.trains import Train
from srwan.types import Datagram, NodeId, UdpAddress

__all__ = ["ControlAddress", "ControlChannel", "ControlHandler", "DatagramTransport", "Directory", "TrainTransport"]

DATAGRAMS_PER_BATCH_MAX = 64
"""Datagrams drained per wake-up: amortises the event loop without starving other tasks (facts: 9-10 us against 20-30 us each)."""

CONTROL_MESSAGE_BYTES_MAX = 1 << 20
"""Upper bound of a control request or response, bytes."""

CONTROL_INBOUND_MAX = 16
"""Requests answered at once per protocol; more are refused: a slow handler must not pile up memory."""

DIRECTORY_KEY_BYTES = 32
"""Length of a directory key."""

DIRECTORY_VALUE_BYTES_MAX = 4096
"""Upper bound of a directory value, bytes: eight introducer records of up to 512."""

DIRECTORY_KEYS_MAX = 2048
"""Values one node keeps for others, 8 MiB at most; the oldest goes first."""


class DatagramTransport(Protocol):
    """Unreliable datagrams. Sending never waits, receiving is per batch: nothing is awaited per packet."""

    @property
    def local_addresses(self) -> tuple[UdpAddress, ...]:
        """Where it listens; the first one is announced."""
        ...

    def send(self, data: bytes, destination: UdpAddress) -> None:
        """Hand one datagram to the network, or drop and count it when the network does not take it at once. Never raises."""
        ...

    async def receive(self) -> list[Datagram]:
        """Wait for datagrams and return up to `DATAGRAMS_PER_BATCH_MAX`, each with its kernel receive stamp in stamp-clock ns.

        Raises:
            trio.ClosedResourceError: the transport was closed.
        """
        ...

    async def serve(self, handle: Callable[[list[Datagram]], None]) -> None:
        """Call `handle` with each batch, as `receive` returns them, until cancelled. What `handle` raises is raised here.

        Raises:
            trio.ClosedResourceError: the transport was closed.
        """
        ...

    async def aclose(self) -> None:
        """Close the sockets at once. A pending `receive` or `serve` raises `trio.ClosedResourceError`."""
        ...


@runtime_checkable
class TrainTransport(DatagramTransport, Protocol):
    """One that takes and gives several datagrams at once; see `trains.py`. Optional: whoever has one uses it, others go one by one."""

    def send_many(self, datagrams: Sequence[bytes], destination: UdpAddress) -> None:
        """Hand datagrams for one destination to the network, in order; as `send` for each. Never raises."""
        ...

    async def serve_trains(self, handle: Callable[[list[Train]], None]) -> None:
        """As `serve`, with the datagrams that came together in one piece; a batch may go beyond the bound by its last train."""
        ...


@attrs.frozen(slots=True)
class ControlAddress:
    """How to reach a node's control channel."""

    node_id: NodeId
    multiaddrs: tuple[str, ...]
    """libp2p multiaddrs without the /p2p part, best first, 1..4; in memory: one opaque string."""


ControlHandler = Callable[[NodeId, bytes], Awaitable[bytes]]
"""Takes the authenticated caller and the request, returns the response. A `RemoteProtocolError` it raises resets the stream."""


class ControlChannel(Protocol):
    """Authenticated, encrypted request/response between nodes; slow (tens of ms), reliable, for messages up to 1 MiB."""

    @property
    def local_address(self) -> ControlAddress:
        """What others use to reach this node."""
        ...

    async def request(self, peer: ControlAddress, protocol: str, body: bytes, *, timeout_s: float) -> bytes:
        """Send `body` on `protocol` (for example "/srwan/join/1") and return the response.

        Raises:
            OverlayError: no connection, refused, or no response within timeout_s.
            LimitExceeded: the response is longer than CONTROL_MESSAGE_BYTES_MAX.
        """
        ...

    def serve(self, protocol: str, handler: ControlHandler) -> None:
        """Answer requests on `protocol` with `handler`. At most 16 run at once per protocol; more are refused.

        A handler is cancelled, wherever it waits, when its caller gives up or it takes too long.
        """
        ...


class Directory(Protocol):
    """Where rendezvous records are put and found, keyed by 32 bytes. Untrusted: values are checked by who reads them."""

    async def publish(self, key: bytes, value: bytes) -> int:
        """Store `value` under `key` and return how many other nodes took it; 0 is no error (a lone first node).

        Raises:
            OverlayError: the directory cannot be reached at all.
        """
        ...

    async def lookup(self, key: bytes) -> bytes | None:
        """Return the best valid value under `key`, or None.

        Raises:
            OverlayError: the directory cannot be reached at all.
        """
        ...
