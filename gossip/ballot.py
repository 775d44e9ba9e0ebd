"""The votes held against members, and whether they are enough for quarantine.

A map subject -> witness -> newest vote, newest by (issued, withdrawn). Votes are self-signed, so it does not matter who brought them; the
map of two members that saw the same votes is equal. A vote lapses half an hour after it was issued unless its witness renews it: a member
that dies, forgets or leaves does not accuse for ever.

Quarantine needs votes of half of the living members, the subject not counted, and of three in any case: in a group of five or less two
slanderers would else be enough. Votes of those who are no members do not count; below the threshold votes change nothing at all.

Invariants: at most SUBJECTS_PER_WITNESS_MAX live votes of one witness; none issued ahead of our wall clock by more than VOTE_SKEW_S.
"""

from __future__ import annotations

from collections.abc import Collection

from srwan.errors import LimitExceeded, StaleRecord
from srwan.gossip.evidence import QuarantineVote
from srwan.types import NodeId

__all__ = ["Ballot", "votes_needed"]

VOTE_LIFETIME_S = 1800
"""A vote not renewed for so long lapses: three renewals (`witness.RENEW_S`) may be lost."""
VOTE_SKEW_S = 60
"""How far a vote may lie ahead of our wall clock, as for certificates of membership."""
VOTES_MIN = 3
SUBJECTS_PER_WITNESS_MAX = 64
"""Half of the greatest group: who accuses more is itself the exception. Bounds the map to 128 x 64 votes, 4 MB."""


def votes_needed(others: int) -> int:
    """Return how many votes quarantine one of a group with `others` further living members."""
    return max(VOTES_MIN, (others + 1) // 2)


class Ballot:
    """Holds authentic votes. A core without time of its own: wall seconds come in."""

    def __init__(self) -> None:
        self._votes: dict[NodeId, dict[NodeId, QuarantineVote]] = {}
        self._per_witness: dict[NodeId, int] = {}

    @property
    def subjects(self) -> tuple[NodeId, ...]:
        """Those against whom any vote is held, rising."""
        return tuple(sorted(self._votes))

    def held(self, subject: NodeId, witness: NodeId) -> QuarantineVote | None:
        """Return the newest vote of a witness on a subject."""
        return self._votes.get(subject, {}).get(witness)

    def require_new(self, vote: QuarantineVote, wall_s: int) -> None:
        """Return if the vote would be taken; asked before its signature is checked, since that costs a hundred times more.

        Raises:
            StaleRecord: not newer than what is held ("vote-old"), lapsed ("vote-lapsed"), or ahead of our wall clock ("vote-ahead").
            LimitExceeded: its witness holds votes on too many ("votes").
        """
        if vote.issued_s > wall_s + VOTE_SKEW_S:
            raise StaleRecord(f"vote issued {vote.issued_s - wall_s} s ahead", reason="vote-ahead")
        if vote.issued_s + VOTE_LIFETIME_S <= wall_s:
            raise StaleRecord(f"vote issued {wall_s - vote.issued_s} s ago", reason="vote-lapsed")
        held = self.held(vote.subject, vote.witness)
        if held is not None and held.version >= vote.version:
            raise StaleRecord(f"a vote of {vote.witness!r} that is not newer than the one held", reason="vote-old")
        if held is None and self._per_witness.get(vote.witness, 0) >= SUBJECTS_PER_WITNESS_MAX:
            raise LimitExceeded(f"{vote.witness!r} votes on more than {SUBJECTS_PER_WITNESS_MAX}", reason="votes")

    def put(self, vote: QuarantineVote) -> None:
        """Take an authentic vote for which `require_new` returned."""
        votes = self._votes.setdefault(vote.subject, {})
        if vote.witness not in votes:
            self._per_witness[vote.witness] = self._per_witness.get(vote.witness, 0) + 1
        votes[vote.witness] = vote

    def remove(self, subject: NodeId, witness: NodeId) -> None:
        """Drop one vote; none held is fine."""
        votes = self._votes.get(subject, {})
        if votes.pop(witness, None) is None:
            return
        self._per_witness[witness] -= 1
        if not self._per_witness[witness]:
            del self._per_witness[witness]
        if not votes:
            del self._votes[subject]

    def lapse(self, wall_s: int) -> None:
        """Drop all votes that were not renewed. Cost: 0.1 us a vote."""
        old = [vote for votes in self._votes.values() for vote in votes.values() if vote.issued_s + VOTE_LIFETIME_S <= wall_s]
        for vote in old:
            self.remove(vote.subject, vote.witness)

    def accusers(self, subject: NodeId, living: Collection[NodeId]) -> tuple[NodeId, ...]:
        """Return the living members whose vote on `subject` stands, rising."""
        votes = self._votes.get(subject)
        if not votes:
            return ()
        return tuple(sorted(node for node, vote in votes.items() if not vote.is_withdrawn and node in living))
