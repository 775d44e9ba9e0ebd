"""One inbound edge, peer -> me: its samples, jitter and loss, and what this member owes that peer.

A told value is the median of the last three samples if those are fresh, else the last one: a single late datagram is not told to the group.
Jitter is the mean absolute deviation, estimated from consecutive differences because these hardly see a drifting clock. Loss counts gaps in
the numbers of the peer's rounds; a round is lost when three later ones came first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from srwan.gossip.owl import Entries
from srwan.gossip.row import OWL_OUTSIDE, SignedRow, encode_jitter, encode_loss, encode_owl
from srwan.types import UdpAddress

__all__ = ["Arrivals", "Inbound", "told_by"]

JITTER_SAMPLES = 16
LOSS_ROUNDS = 100
"""Rounds that the loss looks back on."""
LOSS_PRIOR_ROUNDS = 20
"""Loss starts as if so many rounds had arrived, so that one early gap is not 50 %."""
REORDER_ROUNDS = 3
ECHOES_PER_S = 2.0
ECHO_BURST = 8.0
"""Echoes owed to one peer at once: a whole quick succession of probes."""

_DIFFERENCE_SCALE = 1 / math.sqrt(2) / JITTER_SAMPLES
"""Of independent samples, consecutive differences are 1.41 times the deviation."""


class Arrivals:
    """Loss of one peer's rounds. `seq` is any round that arrived."""

    __slots__ = ("_arrived", "_highest", "_rounds", "judged", "loss", "lost")

    def __init__(self, seq: int) -> None:
        self._highest = seq
        self._arrived = 1
        self._rounds = 1
        self.judged = 0
        """Rounds known to be lost or arrived."""
        self.lost = 0
        """Of these, the lost."""
        self.loss = 0.0
        """Exponential mean of lost (1) and arrived (0), over 100 rounds."""

    def add(self, seq: int) -> None:
        """Count round `seq` as arrived; late ones count if less than three came first."""
        ahead = seq - self._highest
        if ahead == 1 and self._arrived & 7 == 7 and self._rounds >= REORDER_ROUNDS:  # nothing was lost lately
            self._arrived = 15
            self._rounds += 1
            self._highest = seq
            self.judged += 1
            self.loss -= self.loss / min(self.judged + LOSS_PRIOR_ROUNDS, LOSS_ROUNDS)
            return
        if ahead <= 0:
            if ahead > -REORDER_ROUNDS:
                self._arrived |= 1 << -ahead
            return
        steps = min(ahead, LOSS_ROUNDS)
        for step in range(steps):
            self._arrived = (self._arrived << 1 | (step == steps - 1)) & (1 << (REORDER_ROUNDS + 1)) - 1
            self._rounds += 1
            if self._rounds > REORDER_ROUNDS:
                is_lost = not self._arrived >> REORDER_ROUNDS & 1
                self.judged += 1
                self.lost += is_lost
                self.loss += (is_lost - self.loss) / min(self.judged + LOSS_PRIOR_ROUNDS, LOSS_ROUNDS)
        self._highest = seq


class Inbound:
    """What is kept of one other member."""

    __slots__ = (
        "_echo_at",
        "_echo_tokens",
        "_ms",
        "_oldest_at",
        "_oldest_ms",
        "_previous_at",
        "_previous_ms",
        "address",
        "arrivals",
        "heard_at",
        "is_verified",
        "jitter_ms",
        "reacted_at",
        "resent_at",
        "signed",
        "since",
        "slot",
    )

    def __init__(self, address: UdpAddress) -> None:
        self.address = address
        """Where to send."""
        self.slot = -1
        """Index in the matrix."""
        self.signed: SignedRow | None = None
        """The latest row."""
        self.arrivals: Arrivals | None = None
        """None until the first row."""
        self.is_verified = False
        """Whether the signature of the row held was checked."""
        self.jitter_ms = 0.0
        self.reacted_at = -math.inf
        """When a clock move of it last made this member burst."""
        self.resent_at = -math.inf
        self.since = math.inf
        """When the first of the samples that still count came."""
        self.heard_at = -math.inf
        """When the last sample came; minus infinity before the first, and after `forget`."""
        self._previous_at = self._oldest_at = -math.inf
        self._ms = self._previous_ms = self._oldest_ms = 0.0
        self._echo_tokens = ECHO_BURST
        self._echo_at = 0.0

    @property
    def last_ms(self) -> float:
        """The last sample; meaningless before the first."""
        return self._ms

    def add_sample(self, raw_ms: float, now: float) -> None:
        """Take in a sample. Cost: 0.5 us."""
        previous_at = self.heard_at
        if previous_at > -math.inf:
            self.jitter_ms += abs(raw_ms - self._ms) * _DIFFERENCE_SCALE - self.jitter_ms / JITTER_SAMPLES
        else:
            self.since = now
        self._oldest_at, self._oldest_ms = self._previous_at, self._previous_ms
        self._previous_at, self._previous_ms = previous_at, self._ms
        self.heard_at, self._ms = now, raw_ms

    def told_ms(self, now: float, fresh_s: float) -> float:
        """Return what to tell of this edge, ms: NaN if the last sample is older than `fresh_s`."""
        since = now - fresh_s
        if self.heard_at < since:
            return math.nan
        last, previous, oldest = self._ms, self._previous_ms, self._oldest_ms
        if self._oldest_at < self.heard_at - fresh_s:
            return last
        return max(min(last, previous), min(max(last, previous), oldest))  # the median

    def shift(self, by_ms: float) -> None:
        """The own clock moved."""
        self._ms += by_ms
        self._previous_ms += by_ms
        self._oldest_ms += by_ms

    def forget(self) -> None:
        """The peer's clock moved."""
        self.heard_at = self._previous_at = self._oldest_at = -math.inf
        self.since = math.inf

    def take_echo_token(self, now: float) -> bool:
        """Say whether one more echo is owed."""
        self._echo_tokens = min(ECHO_BURST, self._echo_tokens + (now - self._echo_at) * ECHOES_PER_S)
        self._echo_at = now
        if self._echo_tokens < 1.0:
            return False
        self._echo_tokens -= 1.0
        return True


def told_by(peers: Iterable[Inbound], n: int, group_ns: int, now: float, fresh_s: float) -> Entries:
    """Return what a member has to tell of its inbound edges: n entries in member order. Cost: 120 us for n = 100."""
    slots: list[int] = []
    samples_ms: list[float] = []
    jitters_ms: list[float] = []
    losses: list[float] = []
    for peer in peers:
        slots.append(peer.slot)
        samples_ms.append(peer.told_ms(now, fresh_s))
        jitters_ms.append(peer.jitter_ms)
        losses.append(0.0 if peer.arrivals is None else peer.arrivals.loss)
    told_ms, jitter, loss = np.full(n, np.nan), np.zeros(n, np.uint8), np.zeros(n, np.uint8)
    told_ms[slots], jitter[slots], loss[slots] = samples_ms, encode_jitter(jitters_ms), encode_loss(losses)
    base_us, codes = encode_owl(told_ms)
    return Entries(codes, jitter, loss, base_us, group_ns, int(np.count_nonzero(codes < OWL_OUTSIDE)))
