"""Whose certificate should have been renewed by now, and whom to ask for the newer one. A core's part.

A member tells all others of its new certificate in one datagram each (`membership.py`), and digests speak of ids and boots only, so who
misses it notices nothing until the old one expires: at 5 % loss a member missed three in a row, and with them a healthy member, in a
simulated half hour. So whoever holds a certificate that has lost half its life asks: its owner, who surely holds the newer one, and in
turns anybody, because some members cannot be reached directly. The question is a PULL, the answer is what it lacks.

Invariant: one question in `ASK_S` at most, whatever is held.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

from srwan.overlay.view import Member
from srwan.types import NodeId

__all__ = ["Renewals"]

ASK_S = 20.0
"""Between two looks. Half a life of ten minutes leaves fifteen questions; at 20 % loss four of ten get no answer."""
ASK_JITTER = 0.2


class Renewals:
    """Looks for certificates that grow old.

    Args:
        rng: for jitter and choices.
    """

    __slots__ = ("_rng", "due_at")

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.due_at: float | None = None
        """When to call `choose`, monotonic seconds; None: not started."""

    def start(self, now: float) -> None:
        """There are members from now on."""
        self.due_at = now + ASK_S * self._rng.uniform(1.0, 1.0 + ASK_JITTER)

    def choose(self, members: Iterable[Member], others: Sequence[NodeId], now: float, wall_ns: int) -> NodeId | None:
        """Return whom to ask now, None: nobody need be asked. Cost: 20 us at 100 members.

        Args:
            members: the living.
            others: their ids without this node's, sorted.
            now: monotonic seconds.
            wall_ns: wall time, ns since 1970.
        """
        self.start(now)
        old = [member.node_id for member in members if 2 * wall_ns > member.issued_ns + member.expires_ns]
        old = [node for node in old if node in others]
        if not old:
            return None
        return self._rng.choice(old if self._rng.random() < 0.5 else others)
