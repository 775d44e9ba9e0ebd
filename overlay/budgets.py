"""How much work each member may cause: one token bucket per peer. A core's part.

Invariant: a bucket lives until its peer is forgotten, so there are as many as peers; whoever forgets peers forgets their buckets.
"""

from __future__ import annotations

from srwan.errors import LimitExceeded
from srwan.overlay.admission import TokenBucket
from srwan.types import NodeId

__all__ = ["Budgets"]


class Budgets:
    """Token buckets of one kind of work.

    Args:
        what: the work, for the message of the error.
        per_s: tokens a second and peer.
        burst: tokens a peer starts with, and has at most.
    """

    __slots__ = ("_buckets", "_burst", "_per_s", "_what")

    def __init__(self, what: str, per_s: float, burst: int) -> None:
        self._what = what
        self._per_s = per_s
        self._burst = burst
        self._buckets: dict[NodeId, TokenBucket] = {}

    def charge(self, peer: NodeId, now: float) -> None:
        """Take one token of `peer`. Raises LimitExceeded ("member-rate")."""
        bucket = self._buckets.get(peer)
        if bucket is None:
            bucket = self._buckets[peer] = TokenBucket(self._per_s, self._burst, now)
        if not bucket.take(now):
            raise LimitExceeded(f"too many {self._what} from one member", reason="member-rate")

    def forget(self, peer: NodeId) -> None:
        """The peer is gone."""
        self._buckets.pop(peer, None)
