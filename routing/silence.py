"""When answers are due on one path, and which are missing: of keep-alives, and of DATA where the egress answers those.

Theory of operation. An egress answers each KEEPALIVE, and of DATA the first packet that comes `answer_s` or more after the last answer. So
the ingress can tell from what it sent when which answer was due: those questions are found by walking over the moments of sending, and the
answer to each is due one round trip later. With DATA flowing, three missing answers are a third of a second; without, three keep-alives
are two thirds. Nothing is expected of an application that pauses.

The round trip is the greatest of the last three, so jitter and a slow answer or two delay a verdict and never hasten one. Whatever was
sent, answers are also due as periodically as keep-alives leave: that needs no round trip, and bounds the verdict if DATA are not answered
as thought.

Invariants: memory is bounded; an answer counts for what was sent before it; nothing is due earlier than a round trip after its question.
Not here: what is sent (`watch`) and what follows from silence (`control`).
"""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

from srwan.routing.policy import PathPolicy

__all__ = ["Asked", "Silence"]

OPENING_S = 3.0
"""Allowance before the first answer, s: handshakes with the relays (one retransmission) and one round trip."""
SLACK = 0.25
"""Of an interval, for jitter of sending and answering."""
RECORD_S = 0.01
"""Moments of sending DATA are noted at most so often, s: a tenth of the usual interval between answers."""
ASKED_MAX = 512
"""Moments kept: 5 s of DATA; halved when full."""
ROUND_TRIPS = 3
"""The greatest of so many is what an answer may take."""


class Asked(NamedTuple):
    """A moment of sending."""

    at: float
    """Monotonic s."""
    is_keepalive: bool
    packets: int
    """DATA packets sent on the path until then, these included."""
    seq: int
    """Of the last of them; -1 if it is not known."""


class Silence:
    """Questions and answers of one path, in time.

    Args:
        policy: intervals.
        now: the path is opened, monotonic s.
    """

    __slots__ = (
        "_answer_s",
        "_asked",
        "_forgiven_s",
        "_heard_at",
        "_missing",
        "_policy",
        "_round_trips",
        "_scanned",
        "answered_at",
        "data_at",
        "is_data_answered",
        "own_at",
    )

    def __init__(self, policy: PathPolicy, now: float) -> None:
        self._policy = policy
        self._answer_s = min(policy.answer_s, policy.keepalive_s)
        self._asked: list[Asked] = []
        self._missing: list[float] = []  # questions since answered_at found so far, and how many of _asked were looked at for them
        self._scanned = 0
        self._round_trips: deque[float] = deque(maxlen=ROUND_TRIPS)
        self.start(now)

    def start(self, now: float) -> None:
        """Forget all: the path is new, or died."""
        self._asked.clear()
        self._missing.clear()
        self._scanned = 0
        self._round_trips.clear()
        self._heard_at = now + OPENING_S
        self._forgiven_s = 0.0
        self.answered_at = -math.inf
        """When the newest answered packet was sent, monotonic s; -inf before the first answer."""
        self.own_at = now
        """The same of those whose answer came back by the path's own relays; the start before the first."""
        self.data_at = -math.inf
        """When DATA were noted last, monotonic s."""
        self.is_data_answered = False
        """Whether the egress answers DATA here; until it did once, nothing is expected of it."""

    @property
    def has_answered(self) -> bool:
        """Whether there was an answer since the start."""
        return bool(self._round_trips)

    def ask(self, now: float, packets: int) -> None:
        """Note a keep-alive sent."""
        self._note(Asked(now, True, packets, -1))

    def ask_by_data(self, now: float, packets: int, seq: int) -> None:
        """Note DATA sent. Cost: 0.1 us; 1 us every RECORD_S."""
        if now - self.data_at >= RECORD_S:
            self.data_at = now
            self._note(Asked(now, False, packets, seq))

    def _note(self, asked: Asked) -> None:
        self._asked.append(asked)
        if len(self._asked) > ASKED_MAX:
            del self._asked[: ASKED_MAX // 2]
            self._scanned = max(0, self._scanned - ASKED_MAX // 2)

    def find_data(self, seq: int) -> tuple[Asked, Asked | None] | None:
        """Return the newest noted DATA with a seq up to this one, and the one noted after it; None if none is known."""
        after: Asked | None = None
        for asked in reversed(self._asked):
            if asked.is_keepalive or asked.seq < 0:
                continue
            if asked.seq <= seq:
                return asked, after
            after = asked
        return None

    def hear(self, sent_at: float, now: float, *, is_own_way: bool) -> None:
        """Note an answer to what was sent at `sent_at`."""
        self._heard_at = now
        self._forgiven_s = 0.0
        self._round_trips.append(now - sent_at)
        self.answered_at = max(self.answered_at, sent_at)
        if is_own_way:
            self.own_at = max(self.own_at, sent_at)
        self._drop_settled()
        self._missing.clear()
        self._scanned = 0

    def _drop_settled(self) -> None:
        """Forget questions that all ways answered, but for the last DATA: later ones are counted from it."""
        settled_at = min(self.answered_at, self.own_at)
        count = next((place for place, asked in enumerate(self._asked) if asked.at > settled_at), len(self._asked))
        last_data = next((place for place in range(count - 1, -1, -1) if not self._asked[place].is_keepalive), None)
        kept = [] if last_data is None else [self._asked[last_data]]
        self._asked[:count] = kept

    def excuse(self, lateness_s: float) -> None:
        """Do not count `lateness_s` as silence: we slept, not the path."""
        self._heard_at += lateness_s
        self._forgiven_s += lateness_s

    @property
    def interval_s(self) -> float:
        """How far apart answers are now, s."""
        return self._answer_s if self.is_data_answered else self._policy.keepalive_s

    def due_at(self, count: int) -> float:
        """Return when so many answers in a row are missing unless one comes, monotonic s."""
        regular_at = self.regular_due_at(count)
        if not self._round_trips:
            return regular_at
        while len(self._missing) < count and self._scanned < len(self._asked):
            asked = self._asked[self._scanned]
            self._scanned += 1
            if self._is_question(asked, self._missing[-1] if self._missing else self.answered_at):
                self._missing.append(asked.at)
        if len(self._missing) < count:
            return regular_at
        return min(regular_at, self._missing[count - 1] + self.allowance_s)

    def regular_due_at(self, count: int) -> float:
        """Return the same by keep-alives alone: a bound of `due_at`, monotonic s."""
        return self._heard_at + (count + SLACK) * self._policy.keepalive_s

    def is_own_way_missing(self, count: int, now: float) -> bool:
        """Whether so many answers in a row did not come back by the path's own relays."""
        if not self.has_answered:
            return False
        last = self.own_at
        for asked in self._asked:
            if self._is_question(asked, last):
                last = asked.at
                count -= 1
                if not count:
                    return now >= last + self.allowance_s
        return False

    def silence_s(self, now: float) -> float:
        """Seconds since the last answer, or since the start."""
        return now - (self._heard_at if self._round_trips else self._heard_at - OPENING_S)

    @property
    def allowance_s(self) -> float:
        """How long an answer may take, s; call it after the first answer."""
        return max(self._round_trips) + SLACK * self.interval_s + self._forgiven_s

    def _is_question(self, asked: Asked, last: float) -> bool:
        """Whether the egress answers this, if it answered what was sent at `last`."""
        return asked.at > last and (asked.is_keepalive or (self.is_data_answered and asked.at >= last + self._answer_s))
