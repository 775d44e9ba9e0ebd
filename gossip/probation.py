"""When a member that was buried alive may come back: after a minute in which it reached nearly everybody it asked.

A member that hears of its own burial was too bad a neighbour for too many, and most faults come back: a link that flaps every twenty
seconds would be buried and welcomed again without end. So it first shows to itself that it is well. Each second it asks one random former
member, up to three times; an answer to any of the three counts. Nine tenths of the last 60 s must be answered. At 20 % independent loss
95 % are, so a member of a lossy network does come back; one that loses four of five of its own frames does not, and one that is cut off
for 20 s starts over.

Former members may have died meanwhile: after SILENT_MAX samples in a row without an answer one is left out, until half of them were; then
all are asked again.

Invariants: not ready before WINDOW_S of samples; an answer counts once and only for a sample under way.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable

from srwan.types import NodeId

__all__ = ["Probation"]

WINDOW_S = 60.0
SAMPLE_S = 1.0
"""One former member is asked in so long."""
WINDOW_SAMPLES = int(WINDOW_S / SAMPLE_S)
TRIES_AT_S = (0.0, 0.3, 0.6)
ANSWERED_MIN = 0.9
"""Share of the samples in the window."""
SILENT_MAX = 2
"""Samples in a row without an answer after which a former member is taken for dead."""
MEMBERS_MAX = 1024

_NEVER = float("inf")


class Probation:
    """Decides when this node may rejoin. A core; its owner sends the probes and tells of the echoes.

    Args:
        members: the former members, without this node; the excess over MEMBERS_MAX (greatest ids) is left out.
        now: monotonic seconds, when the probation begins.
        rng: whom to ask.
    """

    def __init__(self, members: Iterable[NodeId], now: float, *, rng: random.Random) -> None:
        self._rng = rng
        self._silent = dict.fromkeys(sorted(set(members))[:MEMBERS_MAX], 0)
        self._answers: deque[bool] = deque(maxlen=WINDOW_SAMPLES)
        self._asked: NodeId | None = None
        self._asked_at = -_NEVER
        self._tries = len(TRIES_AT_S)
        self._next_at = now if self._silent else _NEVER
        self._timer_at = self._next_at
        self._probes: list[NodeId] = []

    @property
    def is_ready(self) -> bool:
        """Whether this node may rejoin now; true without former members."""
        if not self._silent:
            return True
        return len(self._answers) == WINDOW_SAMPLES and sum(self._answers) >= ANSWERED_MIN * WINDOW_SAMPLES

    def echo_received(self, node: NodeId, now: float) -> None:
        """An authenticated ECHO came. It counts if that node is being asked."""
        if node == self._asked and now < self._asked_at + SAMPLE_S:
            self._asked = None
            self._answers.append(True)
            self._silent[node] = 0
            self._timer_at = self._next_at

    def handle_timer(self, now: float) -> None:
        """Do what is due: another try, or the next sample."""
        if now < self._timer_at:
            return
        if now >= self._next_at:
            self._begin_sample(now)
        if self._asked is None:
            self._timer_at = self._next_at
            return
        if self._tries < len(TRIES_AT_S) and now >= self._asked_at + TRIES_AT_S[self._tries]:
            self._tries += 1
            self._probes.append(self._asked)
        self._timer_at = self._asked_at + TRIES_AT_S[self._tries] if self._tries < len(TRIES_AT_S) else self._next_at

    def get_timer(self) -> float | None:
        """When to call `handle_timer` next; None without former members."""
        return None if self._timer_at == _NEVER else self._timer_at

    def probes_due(self) -> list[NodeId]:
        """Return whom to send a PROBE now; each is handed out once."""
        due, self._probes = self._probes, []
        return due

    def _begin_sample(self, now: float) -> None:
        if self._asked is not None:
            self._answers.append(False)
            self._silent[self._asked] += 1
        # Slept over: what was not asked was not answered.
        self._answers.extend([False] * min(int((now - self._next_at) / SAMPLE_S), WINDOW_SAMPLES))
        self._next_at = now + SAMPLE_S
        alive = [node for node, silent in self._silent.items() if silent < SILENT_MAX]
        if 2 * len(alive) < len(self._silent):
            self._silent = dict.fromkeys(self._silent, 0)
            alive = list(self._silent)
        self._asked = self._rng.choice(alive)
        self._asked_at = now
        self._tries = 0
