"""Membership frames that wait to be sent. A core's part.

Invariants: frames leave in the order they came; the stamp is read right before each is sealed; a content that goes to many is hashed once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

import attrs

from srwan.overlay.frame import FrameCodec, FrameType, content_digest
from srwan.types import NodeId, UdpAddress

__all__ = ["Outbox"]


@attrs.frozen(slots=True)
class _Outgoing:
    receiver: NodeId
    kind: FrameType
    flags: int
    content: bytes
    digest: bytes


class Outbox:
    """Frames of one node.

    Args:
        frames: seals them when they leave.
    """

    __slots__ = ("_frames", "_waiting")

    def __init__(self, frames: FrameCodec) -> None:
        self._frames = frames
        self._waiting: deque[_Outgoing] = deque()

    def __len__(self) -> int:
        """Frames waiting."""
        return len(self._waiting)

    def clear(self) -> None:
        """Send nothing of what waits."""
        self._waiting.clear()

    def queue(self, receivers: Iterable[NodeId], kind: FrameType, content: bytes, *, flags: int = 0) -> None:
        """Queue one content for each receiver."""
        digest = content_digest(content)
        self._waiting.extend(_Outgoing(receiver, kind, flags, content, digest) for receiver in receivers)

    def drain(
        self, address_of: Callable[[NodeId], UdpAddress | None], read_stamp_ns: Callable[[], int]
    ) -> Iterator[tuple[bytes, UdpAddress]]:
        """Yield sealed datagrams and where they go; those to whom `address_of` gives no address are dropped."""
        while self._waiting:
            item = self._waiting.popleft()
            address = address_of(item.receiver)
            if address is not None:
                stamp_ns = read_stamp_ns()
                yield (
                    self._frames.seal(item.receiver, item.kind, item.content, digest=item.digest, tx_ns=stamp_ns, flags=item.flags),
                    address,
                )
