"""Which members are still to be greeted with JOIN, and when. A core's part.

A member is greeted up to four times, until a frame of it shows that it holds the pair key. A host that does not keep up with what it hears
greets nobody again meanwhile, because the answer may wait in its socket: a hundred routers that joined at once on two cores sent twice as
many greetings as needed (docs/decisions.md).

Invariants: whoever is greeted and did not answer has another attempt due, until the last one was made.
"""

from __future__ import annotations

import math
import random

from srwan.overlay.deadlines import Deadlines
from srwan.types import NodeId

__all__ = ["Greetings"]

GREETING_DELAYS_S = (0.0, 0.4, 0.8, 1.6)
"""Pauses before the four JOINs to one member: at 0, 0.4, 1.2, 2.8 s, ever longer because a host with a hundred newcomers is late. At 1 %
loss each way all four fail once in 10 million."""
GREETING_JITTER = 0.2
"""Each pause is up to this share longer, so that a hundred newcomers do not send in step."""


class Greetings:
    """The greetings of one node.

    Args:
        rng: for jitter.
    """

    __slots__ = ("_attempts", "_due", "_held_until", "_rng")

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._attempts: dict[NodeId, int] = {}
        self._due = Deadlines()
        self._held_until = -math.inf

    def __contains__(self, node: NodeId) -> bool:
        """Say whether a member has not answered and will be greeted again."""
        return node in self._attempts

    def sent(self, node: NodeId, now: float) -> None:
        """A JOIN goes to `node`: plan the next one, if that was not the last."""
        attempt = self._attempts.get(node, 0) + 1
        if attempt >= len(GREETING_DELAYS_S):
            self.stop(node)
            return
        self._attempts[node] = attempt
        self._due.set(node, now + GREETING_DELAYS_S[attempt] * self._rng.uniform(1.0, 1.0 + GREETING_JITTER))

    def stop(self, node: NodeId) -> None:
        """It answered, or is gone."""
        if self._attempts.pop(node, None) is not None:
            self._due.discard(node)

    def clear(self) -> None:
        """Greet nobody."""
        self._attempts.clear()
        self._due.clear()

    def hold(self, until: float) -> None:
        """Greet nobody again before `until`, monotonic seconds."""
        self._held_until = max(self._held_until, until)

    def due_at(self) -> float | None:
        """When the next JOIN is due, monotonic seconds."""
        at = self._due.due_at()
        return None if at is None else max(at, self._held_until)

    def pop_due(self, now: float) -> list[NodeId]:
        """Return whom to greet now; call `sent` for each."""
        return [] if now < self._held_until else self._due.pop_due(now)
