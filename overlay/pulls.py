"""When to compare views with whom: turns digests that others tell into PULLs. A core's part; `membership.py` sends and answers them.

Theory of operation. A difference is usually a change still under way, so it is pulled only when it lasts: `PULL_AFTER_S`, not sooner than
`PULL_INTERVAL_S` after the last pull, ever more rarely while pulls bring nothing. Four cases are in a hurry. A newcomer whose first
answer shows another digest pulls at once and, for `NEWCOMER_S`, from one member after the other until one agrees; it does
not wait for slow or lost answers longer than `NEWCOMER_AGAIN_S`. A newcomer that is greeted by a stranger pulls `NEWCOMER_MET_S` after its
last pull: a few that agree with each other would otherwise take themselves for all, while a hundred others find each other. Whoever got
news, or an answer that was cut off for length, pulls again as soon as that answer ends, from another member: with answers of 32
certificates a hundred newcomers who all know the same one member find each other in four or five such rounds, and no single member has to
send everybody everything.

Invariants: one PULL at a time is hurried; hurried pulls are `PULL_AGAIN_S` apart; MEMBERS beyond what was asked for are refused.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from srwan.errors import LimitExceeded
from srwan.overlay.member_frames import PULL_FRAMES_MAX
from srwan.types import NodeId

__all__ = ["PullPlan"]

PULL_AFTER_S = 0.3
"""A digest difference younger than this is a change still under way: one JOIN flight, generously."""
PULL_INTERVAL_S = 1.0
PULL_INTERVAL_S_MAX = 30.0
"""The pause between PULLs doubles up to this while they bring nothing new (a peer whose clock disagrees about an expiry)."""
PULL_OVERDUE_S = 5.0
"""Under constant churn digests never settle; PULL anyway this long after the last one."""
PULL_ANSWER_S = 15.0
"""MEMBERS count as asked for this long after a PULL: a host that a hundred newcomers ask at once is late; the frames are counted anyway."""
PULL_AGAIN_S = 0.05
"""Pause before a hurried PULL: the last frames of an answer may overtake each other."""
NEWCOMER_S = 10.0
"""After its start a node knows little and is in a hurry."""
NEWCOMER_AGAIN_S = 0.5
"""A newcomer waits so long for an answer before it asks one more member. Less is quicker on idle hosts (0.15 s: 1.1 s instead of 1.4 s in
the join storm of the tests), and makes a hundred newcomers on two processors ask again and again for what is on its way."""
NEWCOMER_MET_S = 0.15
"""Strangers that greet a newcomer within so long make one PULL. A hundred routers that start at once, each knowing one random other, agree
after 1.8 to 2.2 s with this (simulated, ten seeds), after 2.1 to 2.6 s with 0.3, after 4.6 to 5.6 s without (three seeds)."""
NEWCOMER_PULLS_MAX = 32
"""Hurried PULLs of a newcomer: a few rounds of news, and as many that brought none."""
_ASKED_FRAMES_MAX = 4 * PULL_FRAMES_MAX


class PullPlan:
    """Decides about the PULLs of one node.

    Args:
        rng: for jitter and choices.
    """

    __slots__ = (
        "_asked",
        "_hurry_at",
        "_interval_s",
        "_last",
        "_met_at",
        "_mismatches",
        "_newcomer_pulls",
        "_newcomer_until",
        "_news",
        "_next",
        "_rng",
        "_since",
    )

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._mismatches: dict[NodeId, None] = {}
        self._since = 0.0
        self._asked: dict[NodeId, tuple[int, float]] = {}
        self._news = False
        self._interval_s = PULL_INTERVAL_S
        self._last = self._next = 0.0
        self._hurry_at = self._met_at = math.inf
        self._newcomer_until = 0.0
        self._newcomer_pulls = 0

    def start(self, now: float) -> None:
        """This node has just become a member, or one again."""
        self._last = now
        self._newcomer_until = now + NEWCOMER_S
        self._newcomer_pulls = 0
        self._interval_s = PULL_INTERVAL_S

    def stop(self) -> None:
        """Pull no more."""
        self._mismatches.clear()
        self._hurry_at = self._met_at = math.inf
        self._newcomer_until = 0.0

    def agree(self, peer: NodeId) -> None:
        """A member's digest is ours."""
        self._mismatches.pop(peer, None)

    def differ(self, peer: NodeId, now: float) -> None:
        """A member's digest is not ours."""
        if not self._mismatches:
            self._since = now
        self._mismatches[peer] = None

    def forget(self, peer: NodeId) -> None:
        """A member is gone."""
        self._mismatches.pop(peer, None)
        self._asked.pop(peer, None)

    def view_changed(self, now: float) -> None:
        """Ids or boots changed: what was observed before speaks of another view."""
        self._mismatches.clear()
        self._news = True
        self._interval_s = PULL_INTERVAL_S
        if self._next > now:
            self._next = min(self._next, self._last + self._jittered(self._interval_s))

    def met(self, now: float) -> None:
        """A stranger greeted this node and is a member now. Whoever introduced it knows more than a newcomer does."""
        if self._met_at == math.inf and self._is_newcomer(now):
            self._met_at = max(now, self._last + NEWCOMER_MET_S)

    def greeted(self, peer: NodeId, now: float) -> None:
        """A member answered our JOIN. A newcomer that sees another digest there waits for nothing."""
        if peer in self._mismatches and self._hurry_at == math.inf and self._is_newcomer(now):
            self._hurry_at = max(now, self._last + PULL_AGAIN_S)

    def _is_newcomer(self, now: float) -> bool:
        return now < self._newcomer_until and self._newcomer_pulls < NEWCOMER_PULLS_MAX

    def require_asked(self, peer: NodeId, now: float) -> None:
        """Return if a MEMBERS frame of that member was asked for. Raises LimitExceeded ("unsolicited")."""
        frames_left, until = self._asked.get(peer, (0, 0.0))
        if not frames_left or now > until:
            raise LimitExceeded("MEMBERS that were not asked for", reason="unsolicited")
        self._asked[peer] = frames_left - 1, until

    def answered(self, peer: NodeId, now: float, *, is_full: bool) -> None:
        """An answer ended. If it was cut off, or there was news meanwhile and views differ still, there may be more elsewhere."""
        self._hurry_at = math.inf
        if is_full or (peer in self._mismatches and (self._news or self._is_newcomer(now))):
            self._hurry_at = max(now, self._last) + PULL_AGAIN_S * self._rng.uniform(0.5, 1.5)

    def due_at(self) -> float | None:
        """When to PULL, monotonic seconds; None: all agree. Cost: 0.3 us."""
        if (hurry_at := min(self._hurry_at, self._met_at)) < math.inf:
            return hurry_at
        if not self._mismatches:
            return None
        return max(self._next, min(self._since + PULL_AFTER_S, self._last + PULL_OVERDUE_S))

    def choose(self, others: Sequence[NodeId], now: float) -> NodeId | None:
        """Choose whom to PULL now, and plan the next time; None if there is nobody.

        Args:
            others: the other living members, sorted.
            now: monotonic seconds.
        """
        self._asked = {node: (left, until) for node, (left, until) in self._asked.items() if until > now}
        is_hurried = min(self._hurry_at, self._met_at) < math.inf
        self._hurry_at = self._met_at = math.inf
        candidates: Sequence[NodeId] = sorted(self._mismatches)
        if is_hurried:  # anybody may hold more than we do; spread over those not asked lately
            candidates = [node for node in others if node not in self._asked] or others
        if not candidates:
            return None
        peer = self._rng.choice(candidates)
        self.ask(peer, now)
        self._news = False
        self._last = now
        self._newcomer_pulls += 1
        if self._is_newcomer(now):
            self._hurry_at = now + NEWCOMER_AGAIN_S
        self._next = now + self._jittered(self._interval_s)
        self._interval_s = min(2.0 * self._interval_s, PULL_INTERVAL_S_MAX)
        return peer

    def ask(self, peer: NodeId, now: float) -> None:
        """A PULL goes to this member, for whatever reason: take its answer."""
        frames_left = self._asked.get(peer, (0, 0.0))[0]
        self._asked[peer] = min(frames_left + PULL_FRAMES_MAX, _ASKED_FRAMES_MAX), now + PULL_ANSWER_S

    def _jittered(self, interval_s: float) -> float:
        return interval_s * self._rng.uniform(1.0, 1.5)
