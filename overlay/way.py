"""How a peer is reached: a UDP address, or a way over relays for as long as no datagram gets through directly.

This room knows nothing of segment routing: the segments of a way are bytes that the routing room made and understands. Datagrams of
handshakes travel such a way as the payload of SR packets (`srwan.routing.in_band`), and their answers the same way back.
"""

from __future__ import annotations

from typing import TypeAlias

import attrs

from srwan.types import UdpAddress

__all__ = ["RelayedWay", "Way", "source_of"]


@attrs.frozen(slots=True)
class RelayedWay:
    """A way over at least one relay, as seen from here. The first relay is a neighbour whose packets are authentic."""

    segments: tuple[bytes, ...]
    """Segment identifiers of 16 bytes in visiting order: the relays, then the peer."""
    path_tag: int
    """64 bits that name the path, the same in both directions."""


Way: TypeAlias = UdpAddress | RelayedWay


def source_of(way: Way) -> bytes:
    """Return bytes that stand for all of a way, for cookies: address and port, or segments and path tag. Cost: 0.5 us."""
    if isinstance(way, RelayedWay):
        return b"way\0" + way.path_tag.to_bytes(8, "little") + b"".join(way.segments)
    return b"udp\0" + way[1].to_bytes(2, "little") + way[0].encode()
