"""How much a relay carries for others, and whom it asks to go elsewhere when that is more than it is willing to.

A relay's load is what it sent on per second, by its own counters. Above its cap it gives notice (OVERLOADED) on every path that carried
something in the last interval, with the share it wants to be rid of: 1 - cap / load. Each ingress moves with that probability, so about
the right part of the traffic leaves, and which part is chance. Who moved stays away for 30 s; what is left over is asked again after an
interval. What a relay carries is in its row for everybody (octets relayed); the cap itself is told to those only who use it.

Nothing is dropped here: a relay that is asked for more than it can do drops in its queues, and the paths through it show loss.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from srwan.routing.payload import SHARE_PERMILLE_MAX
from srwan.routing.traffic import TrafficCount
from srwan.types import NodeId

__all__ = ["Excess", "RelayLoad"]

LOOK_S = 1.0
"""Between two looks, s."""
NOTICES_MAX = 64
"""Paths asked to leave at one look, those that carried most first."""


@attrs.frozen(slots=True)
class Excess:
    """A path that should leave with a probability."""

    neighbour: NodeId
    """From whom its packets came."""
    path_tag: int
    share_permille: int
    """Share of all traffic that should go elsewhere, 1..1000."""


class RelayLoad:
    """Watches what one relay carries.

    Args:
        cap_kbps: what it is willing to carry, kbit/s of whole datagrams.
        now: monotonic s.
    """

    def __init__(self, cap_kbps: float, now: float) -> None:
        self.cap_kbps = cap_kbps
        self.load_kbps = 0.0
        """Carried in the last interval, kbit/s."""
        self.look_at = now + LOOK_S
        """When to call `look`, monotonic s."""
        self._looked_at = now
        self._octets: dict[tuple[NodeId, int], int] = {}

    def look(self, relayed: Mapping[tuple[NodeId, int], TrafficCount], now: float) -> list[Excess]:
        """Take a reading of what was relayed so far; return whom to give notice. Cost: 0.3 us per path."""
        elapsed_s = now - self._looked_at
        if elapsed_s <= 0:
            return []
        carried = {key: count.octets - self._octets.get(key, 0) for key, count in relayed.items()}
        self._octets = {key: count.octets for key, count in relayed.items()}
        self._looked_at, self.look_at = now, now + LOOK_S
        self.load_kbps = sum(max(0, octets) for octets in carried.values()) * 8 / 1000 / elapsed_s
        if self.load_kbps <= self.cap_kbps:
            return []
        share = max(1, round(SHARE_PERMILLE_MAX * (1 - self.cap_kbps / self.load_kbps)))
        heaviest = sorted((key for key, octets in carried.items() if octets > 0), key=lambda key: (-carried[key], key))
        return [Excess(neighbour, path_tag, share) for neighbour, path_tag in heaviest[:NOTICES_MAX]]
