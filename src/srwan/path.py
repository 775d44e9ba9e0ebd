"""An open path as an application sees it: datagrams to and from one other router, over whatever way is best at the moment."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

import trio

from srwan.errors import PathClosed
from srwan.types import NodeId

if TYPE_CHECKING:
    from collections.abc import Callable

    from srwan.routing.path import PathStatus
    from srwan.routing.service import Flow

__all__ = ["Path"]


class Path:
    """Datagrams between this node and another, encrypted end to end, in both directions.

    Use it as an async context manager, and `async for data in path` to receive until the other side closes. Datagrams may be lost,
    reordered, and in rare cases of switching delayed, as on any path through the Internet; they are never duplicated or altered. The
    way they take is chosen for each direction by its sender and may change at any time; `explain` says which it is and why.

    With `PathPolicy(mode="repeat")` each datagram takes two paths that share no relay, and the first copy is received. With
    `PathPolicy(mode="spread")` datagrams take turns over all paths that are as good as the best; the receiver puts them in order again
    and waits at most `hold_ms` for a missing one.

    Paths are made by `Node.open_path` and `Node.accept_path`.
    """

    def __init__(self, flow: Flow, name_of: Callable[[NodeId], str]) -> None:
        self._flow = flow
        self._name_of = name_of

    @property
    def remote(self) -> NodeId:
        """The router at the other end."""
        return self._flow.peer

    async def send(self, data: bytes) -> None:
        """Send one datagram; a checkpoint. When it returns, the datagram is on its way or lost; nothing is queued or retransmitted.

        Args:
            data: 0..1200 bytes.

        Raises:
            PathClosed: this end was closed; nothing was sent.
            ValueError: longer than 1200 bytes; nothing was sent.

        Cost: 10 us and a trio checkpoint.
        """
        await trio.lowlevel.checkpoint()
        self._flow.send_nowait(data)

    def send_nowait(self, data: bytes) -> bool:
        """As `send` without the checkpoint. Returns whether the datagram left this host."""
        return self._flow.send_nowait(data)

    async def receive(self) -> bytes:
        """Wait for the next datagram. Cancellation loses nothing.

        Raises:
            PathClosed: closed here, or closed by the other side and everything was read.
        """
        return (await self._flow.receive()).body

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await self.receive()
        except PathClosed:
            raise StopAsyncIteration from None

    @property
    def relays(self) -> tuple[NodeId, ...]:
        """The relays that datagrams sent now would visit, in order; empty for the direct path."""
        return () if self._flow.control is None else self._flow.control.active[0]

    def status(self) -> tuple[PathStatus, ...]:
        """Return all watched paths, the one in use first: what is predicted, measured, lost, and delivered per second on each."""
        return () if self._flow.control is None else self._flow.control.paths

    def explain(self) -> str:
        """Say in words which path is in use and what the others would cost, for example "direct 78 ms (via us-east-1 79 ms, ...)"."""
        return "not used for sending yet" if self._flow.control is None else self._flow.control.explain()

    async def aclose(self) -> None:
        """Close this end and tell the other one. A second call does nothing."""
        self._flow.close()
        await trio.lowlevel.checkpoint()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        with trio.CancelScope(shield=True):
            await self.aclose()

    def __repr__(self) -> str:
        return f"<Path to {self._name_of(self.remote)}, {self.explain()}>"
