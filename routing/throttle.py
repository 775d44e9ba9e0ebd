"""Packets of one neighbour that are carried at a low rate only: those of some path tags, or all but those of some. A core.

Who is slowed down, and why, is not decided here: accounting does (`srwan.ledger_client.accounting`), for debts. All packets of a neighbour
that are slowed down share one token bucket, so many path tags give no more than one. What does not fit is dropped and counted
("throttled"); nothing is queued.
"""

from __future__ import annotations

__all__ = ["TagLimit"]

BURST_S = 0.5
"""Depth of the bucket, s at its rate."""
BURST_OCTETS_MIN = 3_000
"""Room for two packets at any rate."""


class TagLimit:
    """A token bucket for some of a neighbour's packets.

    Args:
        tags: path tags.
        is_exempt: whether it is for all but these.
        octets_per_s: of whole datagrams.
    """

    __slots__ = ("_filled_at", "_tokens", "is_exempt", "octets_per_s", "tags")

    def __init__(self, tags: frozenset[int], *, is_exempt: bool, octets_per_s: int) -> None:
        self.tags = tags
        self.is_exempt = is_exempt
        self.octets_per_s = octets_per_s
        self._tokens = self._depth()
        self._filled_at: float | None = None

    def covers(self, path_tag: int) -> bool:
        """Say whether packets of a path tag are slowed down."""
        return (path_tag in self.tags) is not self.is_exempt

    def take(self, octets: int, now: float) -> bool:
        """Say whether a packet may go on at `now`, monotonic s; if so it is charged. Times that go back bring no tokens."""
        if self._filled_at is not None and now > self._filled_at:
            self._tokens = min(self._depth(), self._tokens + (now - self._filled_at) * self.octets_per_s)
        self._filled_at = now if self._filled_at is None else max(now, self._filled_at)
        if self._tokens < octets:
            return False
        self._tokens -= octets
        return True

    def _depth(self) -> float:
        return max(float(BURST_OCTETS_MIN), BURST_S * self.octets_per_s)
