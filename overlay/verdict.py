"""Who is dead: collects signed accusations and decides, without asking anybody. A core's part; `membership.py` feeds it and buries.

Theory of operation. A member is condemned when seven tenths of its ring observers accuse one run of it, or more than half of all other
living members do; accusations of one verdict were made within `WINDOW_S` of each other. One accusation is a pair that cannot talk, a
quorum of independent observers is a dead node (Suresh et al., Rapid, USENIX ATC 2018). Failures come in groups, so the first verdict
waits, `CUT_WAIT_S` at most, while some other subject is between "noticed" and condemned; then all are applied in one cut.

A row of the subject newer than what an observer held refutes that accusation; the observer may accuse again later. What is condemned
stays condemned: others may have applied it already. Accusations are forgotten `ACCUSATION_S` after they came.

Members do not apply a cut at one instant. Those who went within `PAST_S` therefore stay on a second ring, and a quorum on either counts.

Invariants. At most one accusation per subject and observer. Only accusations of a living member's present run, by somebody who is or just
was a member, are held; a signature is verified only after all this, and within the sender's budget. A verdict is a function of the
accusations held, not of their order.
"""

from __future__ import annotations

from collections import deque

import attrs

from srwan.errors import DecodeError, StaleRecord
from srwan.identity import Identity
from srwan.overlay.accusation import Accusation, bundles_of, decode_bundle
from srwan.overlay.budgets import Budgets
from srwan.overlay.member_events import MemberAccused
from srwan.overlay.ring import Ring, quorum_of
from srwan.overlay.view import GRAVE_S, MEMBER_SKEW_S
from srwan.types import NodeId

__all__ = ["Verdict", "Verdicts"]

ACCUSATION_S = 30.0
"""An accusation counts this long after it arrived; an observer that still hears nothing makes a new one."""
ACCUSE_AGAIN_S = 10.0
"""An observer's own accusation younger than this is not repeated: others hold it for 20 s more."""
WINDOW_S = 60
"""Issue times of one verdict lie within this: what a member saw an hour ago proves nothing now. Leaves room for clocks 30 s apart."""
ISSUED_S_MAX = 120
"""Age at which a single accusation is refused: `WINDOW_S` and a clock that is a minute slow."""
CUT_WAIT_S = 1.0
"""A first verdict waits this long at most for those on their way. Waiting 0.1 or 0.25 s in any case saved no view change in the tests."""
PAST_S = 60.0
NOTICED_SHARE = 0.3
NOTICED_MIN = 2
"""A subject with three tenths of its observers, and at least two, may be on its way to a verdict."""
BURST = 40
PER_S = 5.0
"""Accusations taken from one member: forty may die at once; then 5 x 44 us a second."""
PROOF_MAX = 70
"""Accusations in a proof: a majority of the largest view, seven bundles."""
_PROOF_RING_MAX = 10


@attrs.frozen(slots=True)
class Verdict:
    """A run that a quorum condemned."""

    subject: NodeId
    boot: int
    bundles: tuple[bytes, ...]
    """The proof, as others take it up."""
    until_s: int
    """Wall time until which the grave is kept, s since 1970: alike at all who hold this proof."""


@attrs.define(slots=True)
class _Held:
    accusation: Accusation
    until: float
    is_refuted: bool = False


class Verdicts:
    """The accusations one member knows, and what follows from them.

    Args:
        identity: of this node.
        group: first 8 bytes of the group id.
    """

    def __init__(self, identity: Identity, group: bytes) -> None:
        self._identity = identity
        self._group = group
        self.ring = Ring(group)
        """Who watches whom, over the living; changed by this object only."""
        self._past = Ring(group)
        self._gone: deque[tuple[float, NodeId]] = deque()
        self._boots: dict[NodeId, int] = {}
        self._pending: dict[NodeId, dict[NodeId, _Held]] = {}
        self._expiry: deque[tuple[float, NodeId, NodeId]] = deque()
        self._condemned: dict[NodeId, tuple[Accusation, ...]] = {}
        self._condemned_at = 0.0
        self._cut_at: float | None = None
        self._is_stirred = False
        self._budgets = Budgets("accusations", PER_S, BURST)

    # who lives

    def add(self, node: NodeId, boot: int) -> None:
        """A node lives, in this run. What is held against an earlier run is void."""
        before = self._boots.get(node)
        if before == boot:
            return
        self._boots[node] = boot
        if before is None:
            self.ring.add(node)
            self._past.add(node)
        self._drop_subject(node)

    def remove(self, node: NodeId, now: float) -> None:
        """A node is no longer a member. Its accusations count on for a while."""
        if self._boots.pop(node, None) is None:
            return
        self.ring.remove(node)
        self._gone.append((now + PAST_S, node))
        self._budgets.forget(node)
        self._drop_subject(node)

    def _drop_subject(self, node: NodeId) -> None:
        self._pending.pop(node, None)
        self._condemned.pop(node, None)
        self._is_stirred = True

    # accusations

    def accuse(self, subject: NodeId, round: int, now: float, wall_s: int) -> tuple[Accusation, MemberAccused] | None:  # noqa: A002
        """Accuse a living member; None if it is none, or if our last accusation of it is fresh."""
        boot = self._boots.get(subject)
        me = self._identity.node_id
        if boot is None or subject == me or subject in self._condemned:
            return None
        held = self._pending.get(subject, {}).get(me)
        if held is not None and not held.is_refuted and held.until - now > ACCUSATION_S - ACCUSE_AGAIN_S:
            return None
        mine = Accusation.sign(self._identity, self._group, subject, boot=boot, round=round, issued_s=wall_s)
        return mine, self._take(mine, now)

    def receive(self, accusation: Accusation, now: float, wall_s: int) -> MemberAccused | None:
        """Take up what a member sent; None if it is known already or about nobody who lives in that run.

        Raises:
            DecodeError: somebody accuses himself, or issued ahead of our clock ("clock"). StaleRecord: too old. BadSignature: forged.
            LimitExceeded: over the observer's budget ("member-rate").
        """
        if not self._is_news(accusation):
            return None
        self._budgets.charge(accusation.observer, now)
        _require_timely(accusation.issued_s, wall_s, ISSUED_S_MAX)
        accusation.verify(self._group)
        return self._take(accusation, now)

    def receive_bundle(self, data: bytes, now: float, wall_s: int) -> list[MemberAccused]:
        """Take up the accusations of a bundle, whatever refuted them here meanwhile: others may have acted on them.

        Raises:
            DecodeError, StaleRecord, BadSignature: as `receive`; those before the bad one are kept.
        """
        events: list[MemberAccused] = []
        for accusation in decode_bundle(data):
            held = self._pending.get(accusation.subject, {}).get(accusation.observer)
            if held is not None and held.is_refuted and held.accusation == accusation:
                events.append(self._take(accusation, now))
            elif self._is_news(accusation):
                _require_timely(accusation.issued_s, wall_s, GRAVE_S)
                accusation.verify(self._group)
                events.append(self._take(accusation, now))
        return events

    def refute(self, subject: NodeId, round: int) -> None:  # noqa: A002
        """An authentic row of `subject` of this round came: who accused it holding an older one was wrong. Cost: 0.1 us if nobody did."""
        pending = self._pending.get(subject)
        if pending is None or subject in self._condemned:
            return
        for held in pending.values():
            held.is_refuted |= held.accusation.round < round
        self._reckon_cut()

    def accusers_of(self, subject: NodeId) -> tuple[int, int]:
        """Return how many ring observers accuse, and how many make a verdict."""
        observers = self.ring.observers_of(subject)
        pending = self._pending.get(subject, {})
        accusers = sum(1 for observer in observers if observer in pending and not pending[observer].is_refuted)
        return accusers, quorum_of(len(observers))

    def _is_news(self, accusation: Accusation) -> bool:
        observer, subject = accusation.observer, accusation.subject
        if observer == subject:
            raise DecodeError(f"{observer!r} accuses himself")
        if self._boots.get(subject) != accusation.boot or subject in self._condemned or observer not in self._past:
            return False
        held = self._pending.get(subject, {}).get(observer)
        return held is None or (accusation.issued_s, accusation.round) > (held.accusation.issued_s, held.accusation.round)

    def _take(self, accusation: Accusation, now: float) -> MemberAccused:
        subject, observer = accusation.subject, accusation.observer
        until = now + ACCUSATION_S
        self._pending.setdefault(subject, {})[observer] = _Held(accusation, until)
        self._expiry.append((until, subject, observer))
        self._judge(subject, now)
        return MemberAccused(subject, observer, *self.accusers_of(subject))

    # verdicts

    def get_timer(self) -> float | None:
        """When to call `handle_timer` and then `pop_cut`, monotonic seconds. Cost: 0.3 us."""
        first = self._cut_at
        for waiting in (self._expiry, self._gone):
            if waiting and (first is None or waiting[0][0] < first):
                first = waiting[0][0]
        return first

    def handle_timer(self, now: float) -> None:
        """Forget old accusations, and members who went long ago."""
        while self._expiry and self._expiry[0][0] <= now:
            until, subject, observer = self._expiry.popleft()
            pending = self._pending.get(subject, {})
            if observer in pending and pending[observer].until == until:
                del pending[observer]
                self._is_stirred = True
                if not pending:
                    del self._pending[subject]
        while self._gone and self._gone[0][0] <= now:
            _, node = self._gone.popleft()
            if node not in self._boots and all(other != node for _, other in self._gone):
                self._past.remove(node)

    def pop_cut(self, now: float) -> list[Verdict]:
        """Return all that is condemned, sorted by subject, if the cut is complete or has waited long enough; else nothing."""
        if self._is_stirred:
            self._is_stirred = False
            for subject in list(self._pending):
                self._judge(subject, now)
            self._reckon_cut()
        if self._cut_at is None or now < self._cut_at:
            return []
        cut = [self._verdict(subject, proof) for subject, proof in sorted(self._condemned.items())]
        for verdict in cut:
            self._drop_subject(verdict.subject)
        self._cut_at = None
        return cut

    @staticmethod
    def _verdict(subject: NodeId, proof: tuple[Accusation, ...]) -> Verdict:
        return Verdict(subject, proof[0].boot, bundles_of(proof), max(item.issued_s for item in proof) + GRAVE_S)

    def _judge(self, subject: NodeId, now: float) -> None:
        if subject in self._condemned:
            return
        standing = [held.accusation for held in self._pending.get(subject, {}).values() if not held.is_refuted]
        standing.sort(key=lambda item: (item.issued_s, item.observer))
        for start, first in enumerate(standing):
            window = [item for item in standing[start:] if item.issued_s - first.issued_s <= WINDOW_S]
            proof = self._proof(subject, window)
            if proof:
                if not self._condemned:
                    self._condemned_at = now
                self._condemned[subject] = proof
                break
            if window[-1] is standing[-1]:
                break  # later windows hold less
        self._reckon_cut()

    def _proof(self, subject: NodeId, window: list[Accusation]) -> tuple[Accusation, ...]:
        """Return accusations that condemn, or () if these do not."""
        for ring in (self.ring, self._past):
            observers = ring.observers_of(subject)
            votes = [item for item in window if item.observer in observers]
            if observers and len(votes) >= quorum_of(len(observers)):
                others = [item for item in window if item.observer not in observers]
                return tuple(votes + others[: max(0, _PROOF_RING_MAX - len(votes))])
        votes = [item for item in window if item.observer in self._boots]
        return tuple(votes[:PROOF_MAX]) if 2 * len(votes) > len(self._boots) - 1 else ()

    def _reckon_cut(self) -> None:
        if not self._condemned:
            self._cut_at = None
        else:
            self._cut_at = self._condemned_at + (CUT_WAIT_S if self._is_unsettled() else 0.0)

    def _is_unsettled(self) -> bool:
        """Say whether another subject may be on its way to a verdict. O(subjects accused), and only while somebody is condemned."""
        for subject in self._pending:
            if subject not in self._condemned:
                accusers, needed = self.accusers_of(subject)
                noticed = max(NOTICED_MIN, -(-len(self.ring.observers_of(subject)) * NOTICED_SHARE // 1))
                if noticed <= accusers < needed:
                    return True
        return False


def _require_timely(issued_s: int, wall_s: int, age_s_max: int) -> None:
    if issued_s > wall_s + MEMBER_SKEW_S:
        raise DecodeError(f"an accusation issued {issued_s - wall_s} s ahead of our clock", reason="clock")
    if issued_s < wall_s - age_s_max:
        raise StaleRecord(f"an accusation issued {wall_s - issued_s} s ago")
