"""Increments of counters that may start over or vanish: what came since the last reading, never counted twice. A core.

A data plane's counters only rise, but an entry may be evicted and begin again at zero, and all begin at zero when the router restarts. A
reading below the last one is such a beginning: what it shows came since. What an evicted entry had counted beyond the last reading is lost,
which costs its owner and nobody else.

Invariant: the sum of the increments of a key never exceeds what its counter counted over all its lives.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeAlias

from srwan.types import NodeId

__all__ = ["NOTHING", "Count", "Meter", "TagKey", "TagReading"]

TagKey: TypeAlias = tuple[NodeId, int]
"""Neighbour or peer, and path tag."""
Count: TypeAlias = tuple[int, int]
"""Packets and octets; `srwan.routing.traffic.TrafficCount` is one."""
NOTHING: Count = (0, 0)


class TagReading(Protocol):
    """A reading of counters by neighbour or peer and path tag."""

    def get(self, key: TagKey, /) -> Count | None:
        """Return a count, or None."""
        ...


class Meter:
    """Reads counters by difference."""

    def __init__(self) -> None:
        self._last: dict[TagKey, Count] = {}

    def __len__(self) -> int:
        return len(self._last)

    def advance(self, key: TagKey, count: Count) -> Count:
        """Return what came since the last reading of a key, packets and octets; all of it for a key not seen before."""
        packets, octets = self._last.get(key, NOTHING)
        self._last[key] = (count[0], count[1])
        if count[0] < packets or count[1] < octets:
            return count[0], count[1]
        return count[0] - packets, count[1] - octets

    def keep(self, reading: Mapping[TagKey, Count]) -> None:
        """Forget keys that are in the reading no more: if they come again, they begin at zero."""
        for key in [key for key in self._last if key not in reading]:
            del self._last[key]
