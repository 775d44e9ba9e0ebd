"""What one member knows of another: evidence by kind that fades, the least echoes, and what followed from it.

A plain record, kept by `witness.py`. Tallies fade by 1 % a minute (half in 69 minutes); they are brought up to date when read. Echoes are
kept as minima per minute over ten minutes, so memory does not grow with probes.
"""

from __future__ import annotations

import math
from collections import deque

import attrs

from srwan.gossip.evidence import Kind
from srwan.types import NodeId

__all__ = ["CLEAN_S", "FADE_PER_MIN", "Reason", "Standing"]

FADE_PER_MIN = 0.99
"""Factor of a score per minute."""
CLEAN_S = 86_400.0
"""So long without new evidence a vote is withdrawn, and a proof has been served: 24 h."""
ECHO_WINDOW_MIN = 10
"""Echoes older than this many minutes are forgotten: routes and clocks change."""
FORGOTTEN = 0.01
"""A tally below this is gone."""
_NEVER = -math.inf


@attrs.frozen(slots=True)
class Reason:
    """One part of a score."""

    kind: Kind
    score: float
    """As of now, faded."""
    by_ms: float
    """Of the last evidence: how far the claim was from what was measured, ms; 0 where that means nothing."""
    witnesses: tuple[NodeId, ...]
    """Who measured it."""


class _Tally:
    __slots__ = ("at", "by_ms", "value")

    def __init__(self) -> None:
        self.value = 0.0
        self.at = 0.0
        self.by_ms = 0.0

    def faded(self, now: float) -> float:
        return self.value * math.pow(FADE_PER_MIN, max(0.0, now - self.at) / 60.0)


class Standing:
    """Mutable; times are monotonic seconds."""

    __slots__ = (
        "_echo_due_since",
        "_echoes",
        "_proven_at",
        "_tallies",
        "echoes_fresh",
        "evidence_at",
        "is_distrusted",
        "is_quarantined",
        "strikes",
    )

    def __init__(self) -> None:
        self._tallies: dict[Kind, _Tally] = {}
        self._echoes: deque[tuple[int, float, float]] = deque()
        self._echo_due_since: float | None = None
        self._proven_at = _NEVER
        self.evidence_at = _NEVER
        """When evidence was last added; -inf if never."""
        self.strikes = 0.0
        """Checks in which the claims fell short of the echoes, less some for those in which they did not."""
        self.echoes_fresh = 0
        """Echoes since the first strike."""
        self.is_distrusted = False
        self.is_quarantined = False

    def add(self, kind: Kind, weight: float, cap: float, by_ms: float, now: float) -> bool:
        """Add evidence. Return True if there was none of this kind."""
        tally = self._tallies.setdefault(kind, _Tally())
        before = tally.faded(now)
        tally.value, tally.at, tally.by_ms = min(cap, before + weight), now, by_ms
        self.evidence_at = now
        return before < FORGOTTEN

    def set_tally(self, kind: Kind, value: float, by_ms: float, now: float, *, last_at: float) -> bool:
        """Replace the tally of a kind that is computed anew each time. Return True if there was none.

        Args:
            kind: of the evidence.
            value: the tally now.
            by_ms: of the last evidence.
            now: monotonic seconds.
            last_at: when the last evidence was measured.
        """
        is_new = kind not in self._tallies
        tally = self._tallies.setdefault(kind, _Tally())
        tally.value, tally.at, tally.by_ms = value, now, by_ms
        self.evidence_at = max(self.evidence_at, last_at)
        return is_new

    def clear(self, kind: Kind) -> None:
        """Drop the tally of a kind."""
        self._tallies.pop(kind, None)

    def prove(self, now: float) -> None:
        """Note a proof: the score is infinite for CLEAN_S."""
        self._proven_at = self.evidence_at = now

    def is_proven(self, now: float) -> bool:
        """Whether a proof stands."""
        return now - self._proven_at <= CLEAN_S

    def forgive(self) -> None:
        """Drop all evidence; echoes stay."""
        self._tallies.clear()
        self._proven_at = self.evidence_at = _NEVER
        self.strikes = 0.0

    def score(self, now: float, *, apart: Kind | None = None) -> float:
        """Return the sum of the faded tallies, infinite while a proof stands; `apart` from one kind."""
        if not self._tallies and self._proven_at == _NEVER:
            return 0.0
        return math.inf if self.is_proven(now) else sum(tally.faded(now) for kind, tally in self._tallies.items() if kind is not apart)

    def reasons(self, me: NodeId, now: float) -> tuple[Reason, ...]:
        """Return the parts of the score, greatest first; `me` is the witness."""
        parts = [
            Reason(kind, tally.faded(now), tally.by_ms, (me,)) for kind, tally in self._tallies.items() if tally.faded(now) >= FORGOTTEN
        ]
        if self.is_proven(now):
            parts.append(Reason(Kind.EQUIVOCATION, math.inf, 0.0, (me,)))
        return tuple(sorted(parts, key=lambda part: (-part.score, part.kind)))

    def gravest(self, now: float) -> Kind:
        """Return the kind with the greatest part of the score."""
        if self.is_proven(now) or not self._tallies:
            return Kind.EQUIVOCATION
        return max(self._tallies, key=lambda kind: (self._tallies[kind].faded(now), -kind))

    def is_blank(self, now: float) -> bool:
        """Whether forgetting this member would lose nothing."""
        return self.score(now) < FORGOTTEN and not self.is_quarantined and now - self.evidence_at > CLEAN_S

    def echo(self, round_trip_ms: float, held_ms: float, now: float) -> None:
        """Note an echo; `held_ms` is the peer's word."""
        minute = int(now // 60)
        proven_ms = round_trip_ms - held_ms
        self.echoes_fresh += 1
        self._echo_due_since = now
        if self._echoes and self._echoes[-1][0] == minute:
            _, least_proven_ms, least_ms = self._echoes.pop()
            proven_ms, round_trip_ms = min(proven_ms, least_proven_ms), min(round_trip_ms, least_ms)
        self._echoes.append((minute, proven_ms, round_trip_ms))
        self._prune(now)

    def floors_ms(self, now: float) -> tuple[float, float]:
        """Return the least round trip of the window, without the held time as told and with it; NaN if there was no echo."""
        self._prune(now)
        if not self._echoes:
            return math.nan, math.nan
        return min(echo[1] for echo in self._echoes), min(echo[2] for echo in self._echoes)

    def echo_due_since(self, now: float) -> float:
        """Return when the last echo came, or when this was first asked."""
        if self._echo_due_since is None:
            self._echo_due_since = now
        return self._echo_due_since

    def _prune(self, now: float) -> None:
        oldest = int(now // 60) - ECHO_WINDOW_MIN
        while self._echoes and self._echoes[0][0] < oldest:
            self._echoes.popleft()
