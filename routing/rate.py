"""How much a path carries: the greatest delivery rate seen lately, as BBR estimates a bottleneck.

The egress tells with each answer at which rate DATA came in since the last one, and at which rate the fastest train of packets sent back
to back came in, both by its own receive stamps. The first is what was delivered, at most what the application sent; the second is what
the narrowest link let through, and is known where packets come in trains. Of each the maximum over 10 s is kept.

Source: Cardwell et al., BBR (ACM Queue 14-5, 2016), section on estimating BtlBw; packet trains: Dovrolis et al., INFOCOM 2001.
"""

from __future__ import annotations

__all__ = ["MaxFilter"]

SLOTS = 10
SLOT_S = 1.0
"""The maximum is over SLOTS * SLOT_S = 10 s, so a route that got narrower is believed after 10 s."""


class MaxFilter:
    """Greatest value of the last 10 s."""

    __slots__ = ("_newest", "_slots")

    def __init__(self) -> None:
        self._slots = [0.0] * SLOTS
        self._newest = 0

    def add(self, value: float, now: float) -> None:
        """Take a value measured at `now`, monotonic s; earlier than the newest counts as then."""
        slot = max(int(now / SLOT_S), self._newest)
        for empty in range(max(self._newest + 1, slot - SLOTS + 1), slot + 1):
            self._slots[empty % SLOTS] = 0.0
        self._newest = slot
        self._slots[slot % SLOTS] = max(self._slots[slot % SLOTS], value)

    @property
    def value(self) -> float:
        """The greatest value of the 10 s before the newest one; 0 without values."""
        return max(self._slots)
