"""The claims a validator has before it: who filed what, what it found itself, what the others say.

Theory of operation. A case is a session. Each relay of its path may file, and each filing is judged by itself, so that nobody's bad filing
stands in the way of another's good one. What was accepted once stays signable in its exact figures while newer tickets come in, for
a batch under way names the older figures. Verdicts of others count for all figures up to those they accept, since tickets are cumulative.

Bounds: CASES_MAX cases, of which one relay may open FILER_CASES_MAX. A full house forgets cases that are settled, and if there are none,
those that were refused: claims on sessions that nobody ever opened cost their filer nothing, and must not keep others out.
"""

from __future__ import annotations

import math
from collections import Counter

import attrs

from srwan.ledger_client.settlement.settlement import Claim
from srwan.ledger_client.settlement.signing import Address
from srwan.ledger_client.validation.batch import BatchItem
from srwan.ledger_client.validation.checks import Finding
from srwan.ledger_client.validation.claim import ClaimFiling
from srwan.ledger_client.validation.verdict import ClaimVerdict
from srwan.types import NodeId

__all__ = ["CASES_MAX", "FILER_CASES_MAX", "Case", "Docket"]

CASES_MAX = 4096
"""Open sessions under review; a filing holds about 2 kB."""
FILER_CASES_MAX = 512
"""Of one relay."""
ACCEPTED_MAX = 8
"""Figures of one session that stay signable."""


@attrs.define(slots=True, eq=False)
class Case:
    """One session under review."""

    session: bytes
    opened_by: NodeId
    """Who filed first."""
    since: float
    """Monotonic seconds of the first filing."""
    filings: dict[NodeId, ClaimFiling] = attrs.field(factory=dict[NodeId, ClaimFiling])
    """Latest of each relay of the path."""
    findings: dict[NodeId, Finding] = attrs.field(factory=dict[NodeId, Finding])
    """Own finding about each."""
    accepted: dict[tuple[int, int], Claim] = attrs.field(factory=dict[tuple[int, int], Claim])
    """Own accepted claims by (octets, amount), oldest first."""
    verdicts: dict[Address, ClaimVerdict] = attrs.field(factory=dict[Address, ClaimVerdict])
    """Latest of each validator, own included."""
    settled_microtoken: int = 0
    """On the settlement, as last looked up."""
    is_stale: bool = True
    """Evidence is to be gathered again."""
    is_gathering: bool = False
    proposed_slot: int = -1
    """Last slot whose batch contained it."""
    strikes: int = 0
    """Batches with it that the settlement refused."""
    pending_since: float | None = None
    """Monotonic seconds since when every filing waits for evidence."""

    def leading(self) -> tuple[ClaimFiling, Finding] | None:
        """Return the accepted filing of most, else the judged filing of most; None before any was judged."""
        judged = [(filing, self.findings[filer]) for filer, filing in sorted(self.filings.items()) if filer in self.findings]
        if not judged:
            return None
        return max(judged, key=lambda pair: (pair[1].is_accepted, pair[0].claim.ticket.amount_microtoken))

    def accept(self, claim: Claim) -> None:
        """Keep a claim signable."""
        self.accepted[claim.ticket.octets, claim.ticket.amount_microtoken] = claim
        while len(self.accepted) > ACCEPTED_MAX:
            del self.accepted[next(iter(self.accepted))]

    def signable(self, item: BatchItem) -> Claim | None:
        """Return the claim of exactly these figures if this validator accepted it, else None."""
        return self.accepted.get((item.octets, item.amount_microtoken))

    def supporters(self, claim: Claim, seats: frozenset[Address]) -> int:
        """Count validators that accept at least this much."""
        ticket = claim.ticket
        return sum(
            wallet in seats
            and verdict.is_accepted
            and verdict.octets >= ticket.octets
            and verdict.amount_microtoken >= ticket.amount_microtoken
            for wallet, verdict in self.verdicts.items()
        )

    def ready(self, seats: frozenset[Address], quorum: int) -> Claim | None:
        """Return the greatest claim that this validator and a quorum accept and that is not paid yet; None if there is none."""
        due = (claim for claim in self.accepted.values() if claim.ticket.amount_microtoken > self.settled_microtoken)
        backed = (claim for claim in due if self.supporters(claim, seats) >= quorum)
        return max(backed, key=lambda claim: claim.ticket.amount_microtoken, default=None)

    @property
    def is_done(self) -> bool:
        """Whether all that was filed is paid."""
        return all(filing.claim.ticket.amount_microtoken <= self.settled_microtoken for filing in self.filings.values())

    @property
    def is_refused(self) -> bool:
        """Whether its refusal was published, nothing of it was ever accepted, and nothing new came since."""
        return self.pending_since == math.inf and not self.accepted and not self.is_gathering


class Docket:
    """All cases, bounded."""

    def __init__(self) -> None:
        self._cases: dict[bytes, Case] = {}
        self._opened: Counter[NodeId] = Counter()

    def __len__(self) -> int:
        return len(self._cases)

    def cases(self) -> list[Case]:
        """Return all cases, oldest first."""
        return list(self._cases.values())

    def get(self, session: bytes) -> Case | None:
        """Return the case of a session, or None."""
        return self._cases.get(session)

    def open(self, session: bytes, filer: NodeId, now: float) -> Case | None:
        """Return the case of a session, opened now if there is none; None where the bounds forbid another."""
        case = self._cases.get(session)
        if case is not None:
            return case
        if self._opened[filer] >= FILER_CASES_MAX:
            self._make_room(filer)
        if len(self._cases) >= CASES_MAX:
            self._make_room(None)
        if len(self._cases) >= CASES_MAX or self._opened[filer] >= FILER_CASES_MAX:
            return None
        case = self._cases[session] = Case(session, filer, now)
        self._opened[filer] += 1
        return case

    def _make_room(self, filer: NodeId | None) -> None:
        """Drop settled cases, of one filer or of all; where there are none, all that were refused."""
        among = [case for case in self._cases.values() if filer in (None, case.opened_by)]
        for case in [case for case in among if case.is_done] or [case for case in among if case.is_refused]:
            self.drop(case.session)

    def drop(self, session: bytes) -> None:
        """Forget a case."""
        case = self._cases.pop(session, None)
        if case is not None:
            self._opened[case.opened_by] -= 1
