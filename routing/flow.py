"""A flow: datagrams between this node and a peer, as the routing service hands them out. A shell: it waits; it decides nothing.

Not here: which path a datagram takes (`control`), and who makes, runs and forgets flows (`service`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs
import trio

from srwan.errors import PathClosed
from srwan.routing.egress import FlowInbox, FlowPacket
from srwan.routing.payload import DATA_BYTES_MAX, TUNNEL_FLOW_MIN, PayloadKind
from srwan.routing.policy import PathMode, PathPolicy
from srwan.types import NodeId

if TYPE_CHECKING:
    from srwan.routing.control import PathControl
    from srwan.routing.service import RoutingService

__all__ = ["Flow", "FlowEvent"]


@attrs.frozen(slots=True)
class FlowEvent:
    """Something happened to the path of a flow: one of the events of `srwan.routing.control`."""

    peer: NodeId
    flow: int
    event: object


class Flow:
    """Datagrams between this node and a peer, both ways. Made by `RoutingService.open` and `accept`."""

    def __init__(self, service: RoutingService, inbox: FlowInbox, policy: PathPolicy) -> None:
        self.peer = inbox.peer
        self.id = inbox.flow
        self.policy = policy
        self.hold_ms = round(policy.hold_ms) if policy.mode is PathMode.SPREAD else 0
        """How long the receiver may hold a packet back, ms."""
        self.control: PathControl | None = None
        """Chooses the path to the peer; None until the first packet is sent."""
        self.sent_at = -math.inf
        """When the data plane by itself sent packets of a tunnel last, monotonic s."""
        self.is_paused = False
        """Whether packets of a tunnel are left to the gateway; see `pause`."""
        self._service = service
        self._inbox = inbox
        self._next_seq = 0
        self._has_news = trio.Event()
        self._is_closed = False

    @property
    def is_closed(self) -> bool:
        """Whether this end was closed."""
        return self._is_closed

    def send_nowait(self, data: bytes) -> bool:
        """Send one datagram on the active path.

        Args:
            data: at most DATA_BYTES_MAX bytes.

        Returns:
            Whether it left this host; False while no session is ready: it is lost then, as on a dead link.

        Raises:
            PathClosed: the flow was closed. ValueError: the datagram is too long.

        Cost: 10 us.
        """
        if self._is_closed:
            raise PathClosed(f"the flow to {self.peer!r} is closed; open a new path")
        if len(data) > DATA_BYTES_MAX:
            raise ValueError(f"a datagram of {len(data)} bytes, at most {DATA_BYTES_MAX} fit")
        seq = self._next_seq
        self._next_seq += 1
        return self._service._send_data(self, PayloadKind.DATA, seq, data)

    async def receive(self) -> FlowPacket:
        """Wait for the next datagram, in order of arrival.

        Raises:
            PathClosed: the flow was closed, here or by the peer, and nothing waits any more.
        """
        await trio.lowlevel.checkpoint()
        while not len(self._inbox):
            if self._is_closed or self._inbox.closed_seq is not None:
                raise PathClosed(f"the flow to {self.peer!r} was closed")
            await self._has_news.wait()
        return self._inbox.take(1)[0]

    def close(self) -> None:
        """End the flow and tell the peer, once per loss-prone path (CLOSE is not acknowledged). A second call does nothing."""
        if self._is_closed:
            return
        if self.control is not None:
            if self.id < TUNNEL_FLOW_MIN:
                self._service._send_data(self, PayloadKind.CLOSE, self._next_seq, b"")
            self.control.close(self._service.now())
        self._is_closed = True
        self._wake()
        self._service._forget(self)

    def send_packets(self, packets: Sequence[bytes]) -> int:
        """Send IP packets of one version to the peer's gateway, on a flow of `open_tunnel`; return how many left this host.

        Those are the first ones; the others are lost, as no session is ready. Raises PathClosed: the flow was closed. Cost: 8 us a packet.
        """
        if self._is_closed:
            raise PathClosed(f"the flow to {self.peer!r} is closed; open a new path")
        if self._service.tunnels.is_open:
            seq = self._service.tunnels.take_seqs(self, len(packets))
        else:
            seq = self._next_seq
            self._next_seq += len(packets)
        return self._service._send_packets(self, seq, packets)

    def pause(self) -> None:
        """Have all packets of a tunnel left to the gateway, because earlier ones wait there. Pausing again does nothing."""
        self._set_paused(is_paused=True)

    def resume(self) -> None:
        """Let the data plane send packets of a tunnel by itself again, if it can."""
        self._set_paused(is_paused=False)

    def _set_paused(self, *, is_paused: bool) -> None:
        if self.is_paused is not is_paused:
            self.is_paused = is_paused
            if not self._is_closed:
                self._service.tunnels.follow(self)

    def _wake(self) -> None:
        self._has_news.set()
        self._has_news = trio.Event()
