"""When to pulse: the regular period, and the few extra rounds that make a change of membership known within seconds.

A change starts a burst of rounds; further changes put it off, up to a bound, so that a hundred that come at once are told of once. News, a
first sample of somebody, asks for one round soon. Extra rounds keep a gap and a budget, so that nothing peers do makes a member talk
without end. The regular rounds go on beside the bursts at a phase of their own. Source: facts of the convergence model in
docs/decisions.md.
"""

from __future__ import annotations

import random

__all__ = ["Rounds"]

BURST_S = (0.3, 1.0, 2.2)
"""Extra rounds after a change."""
BURST_SHARE_MIN = 0.1
"""With fewer newcomers among the others no burst: their first samples are news, for one round, and the newcomers burst themselves. Three
rounds of a hundred cost 2 s of two cores where all live on one machine, and nothing is missing when somebody leaves."""
NEWS_S = 0.5
"""What is new is told within so long."""
GROWING_S_MAX = 1.5
"""While members keep coming the burst is put off, because what is told in between would be told again; but not longer."""
GAP_S_MIN = 0.4
"""Least time between two rounds."""
JITTER = 0.05
"""Share by which the period and the bursts vary, so that members do not fall into step."""
EXTRA_BURST_MAX = 5
"""Extra rounds in a row, as far as the gap allows; a dozen routers that join within seconds use them up."""
EXTRA_S = 2.0
"""Afterwards one extra round in so long: what the last newcomers bring is told within a second, not after the storm is forgotten."""


class Rounds:
    """Says when the next round is due. A core.

    Args:
        period_s: time between regular rounds.
        rng: for phase and jitter.
    """

    def __init__(self, period_s: float, rng: random.Random) -> None:
        self._period_s = period_s
        self._rng = rng
        self._regular_at = float("inf")
        self._extra: list[float] = []
        self._earned_at = -float("inf")
        self._last_at = -float("inf")
        self._growing_since = -float("inf")
        self._held_until = -float("inf")

    def start(self, now: float) -> None:
        """Begin with regular rounds, at a random phase."""
        self._regular_at = now + self._rng.random() * self._period_s

    def change(self, now: float, new_share: float = 1.0) -> None:
        """The membership changed, this share of the others is new: burst, unless they are few. Without effect before `start`."""
        if self._regular_at == float("inf") or new_share < BURST_SHARE_MIN:
            return
        if not self._extra:
            self._growing_since = now
        burst = [now + at * self._jitter() for at in BURST_S]
        self._extra = [min(burst[0], max(now, self._growing_since + GROWING_S_MAX)), *burst[1:]]

    def news(self, now: float) -> None:
        """There is something new to tell: one round soon, unless one is due anyway."""
        is_waiting = now < self._held_until and bool(self._extra) and self._extra[0] <= now + NEWS_S
        if self.due_at > now + NEWS_S and not is_waiting:
            self._extra = [now + NEWS_S * self._rng.uniform(1 - 2 * JITTER, 1), *self._extra]

    def once(self, at: float) -> None:
        """One round at `at`, or at most NEWS_S later if one is due then anyway. Without effect before `start`."""
        if self._regular_at < float("inf") and not any(at <= other <= at + NEWS_S for other in self._extra):
            self._extra = sorted([*self._extra, at])

    def hold(self, until: float) -> None:
        """No extra rounds before `until`, as long as it takes this host to read what waits for it: all would have to be told again."""
        self._held_until = max(self._held_until, until)

    @property
    def due_at(self) -> float:
        """When the next round is due; infinite before `start`."""
        if self._regular_at == float("inf"):
            return self._regular_at
        extra_at = self._extra[0] if self._extra else float("inf")
        extra_at = max(extra_at, self._earned_at - (EXTRA_BURST_MAX - 1) * EXTRA_S, self._held_until)
        return max(min(self._regular_at, extra_at), self._last_at + GAP_S_MIN)

    def take(self, now: float) -> bool:
        """Take the round that is due at `now` off the schedule. True if it is a regular one, which is never left out."""
        is_regular = self._regular_at <= now
        if is_regular:
            self._regular_at = now + self._period_s * self._jitter()
        self._extra = [at for at in self._extra if at > now]
        self._growing_since = now
        return is_regular

    def told(self, now: float, *, is_regular: bool) -> None:
        """Note that a round went out."""
        self._last_at = now
        if not is_regular:
            self._earned_at = max(self._earned_at, now) + EXTRA_S  # virtual scheduling: GCRA of ITU-T I.371

    def _jitter(self) -> float:
        return self._rng.uniform(1 - JITTER, 1 + JITTER)
