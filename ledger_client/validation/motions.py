"""What validators decide besides claims: bindings of routers to wallets, and taking back payments in dispute.

Both go the same way: somebody asks through the store, each validator judges by itself and publishes its signature or its reason, and when a
quorum signed the same thing, the validators in turn, each a slot after the one before, hand it to the settlement until one has done it.

Bounds: MOTIONS_MAX of each kind; one request per router, EVIDENCE_MAX pieces of evidence per session, first come. The oldest request goes
for a new one, those that were handed in first; whoever still wants to be bound asks again. Of votes on what this validator did not judge
good, where there are too many, those go of the validator that cast most of them: a liar crowds out its own.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Protocol, TypeAlias

import attrs

from srwan.errors import BadSignature, DecodeError, LimitExceeded
from srwan.ledger_client.record import Version
from srwan.ledger_client.settlement.settlement import ValidatorSet, binding_digest, overturn_digest
from srwan.ledger_client.settlement.signing import Address, SettlementDomain, WalletKey, recover
from srwan.ledger_client.statement import Statement
from srwan.ledger_client.validation.binding import BindingRequest, BindingVote
from srwan.ledger_client.validation.cases import Case
from srwan.ledger_client.validation.dispute import DisputeEvidence, OverturnVote, keep_of
from srwan.ledger_client.validation.events import BindingJudged, BindNode, DisputeJudged, Event, OverturnClaim, Request
from srwan.ledger_client.validation.verdict import ACCEPTED
from srwan.types import NodeId
from srwan.wire import unpack

__all__ = ["MOTIONS_MAX", "Motions"]

MOTIONS_MAX = 1024
BALLOTS_MAX = 2 * MOTIONS_MAX
EVIDENCE_MAX = 4
_VOTE_BYTES_MAX = 4096

_Matter: TypeAlias = tuple[str, bytes, bytes, int, int]
"""What exactly is voted on: ("binding", node, wallet, sequence, 0) or ("overturn", session, evidence, settled, keep)."""


class Office(Protocol):
    """What a validator lends to its motions; see `Validator`."""

    @property
    def domain(self) -> SettlementDomain: ...

    @property
    def key(self) -> WalletKey: ...

    @property
    def node_id(self) -> NodeId: ...

    @property
    def seat(self) -> bytes: ...

    @property
    def slot_s(self) -> int: ...

    validators: ValidatorSet

    def rank(self, turn: int) -> int: ...

    def case(self, session: bytes) -> Case | None: ...

    def gather(self, case: Case) -> None: ...

    def holder(self, node: NodeId, seat: bytes) -> Address: ...

    def next_version(self) -> Version: ...

    def times(self) -> tuple[int, int]: ...

    def publish(self, statement: Statement) -> None: ...

    def tell(self, event: Event) -> None: ...

    def ask(self, request: Request) -> None: ...


@attrs.define(slots=True, eq=False)
class _Ballot:
    """Signatures on one matter."""

    signatures: dict[Address, bytes] = attrs.field(factory=dict[Address, bytes])
    act_at: float | None = None
    """Monotonic s from which this validator hands it in; None before there is a quorum."""
    is_done: bool = False


class Motions:
    """Binding requests and disputes of one validator.

    Args:
        office: the validator.
    """

    def __init__(self, office: Office) -> None:
        self._office = office
        self._requests: dict[NodeId, BindingRequest] = {}
        self._evidence: dict[bytes, dict[bytes, DisputeEvidence]] = {}
        self._ballots: dict[_Matter, _Ballot] = {}
        self._now = -math.inf

    def advance(self, now: float) -> None:
        """Hand in what has become due."""
        self._now = now
        for matter, ballot in list(self._ballots.items()):
            if not ballot.is_done and ballot.act_at is not None and now >= ballot.act_at:
                ballot.is_done = True
                self._act(matter, ballot)

    def get_timer(self) -> float:
        """Return when `advance` is due, monotonic s."""
        due = [ballot.act_at for ballot in self._ballots.values() if ballot.act_at is not None and not ballot.is_done]
        return min(due, default=math.inf)

    # ---- bindings

    def receive_request(self, statement: Statement) -> None:
        """Judge a router's request to be bound, and publish the answer.

        Raises:
            RemoteProtocolError: malformed.
        """
        office = self._office
        request = BindingRequest.decode(statement.subject, statement.content)
        if self._requests.get(request.node) == request:
            return
        reason, signature = ACCEPTED, b""
        try:
            request.verify(office.domain)
        except BadSignature as error:
            reason = error.reason
        else:
            self._make_room_for(request.node)
            self._requests[request.node] = request
            signature = office.key.sign(binding_digest(office.domain, request.node, request.wallet, request.sequence))
        vote = BindingVote(request.node, request.wallet, request.sequence, signature, reason, office.seat)
        issued_ns, expires_ns = office.times()
        office.publish(vote.statement(office.node_id, office.next_version(), issued_ns=issued_ns, expires_ns=expires_ns))
        office.tell(BindingJudged(request.node, request.wallet, reason))
        if signature:
            self._count(_matter_of_binding(vote), office.key.address, signature)

    def _make_room_for(self, node: NodeId) -> None:
        if node in self._requests or len(self._requests) < MOTIONS_MAX:
            return
        done = (each for each, request in self._requests.items() if self._is_handed_in(request))
        del self._requests[next(done, next(iter(self._requests)))]

    def _is_handed_in(self, request: BindingRequest) -> bool:
        ballot = self._ballots.get(("binding", request.node, request.wallet, request.sequence, 0))
        return ballot is None or ballot.is_done

    # ---- disputes

    def receive_evidence(self, statement: Statement) -> None:
        """Take evidence about a session; it is weighed when the settlement was looked up.

        Raises:
            RemoteProtocolError: malformed, about a session that nobody claimed here, or there is no room.
        """
        evidence = DisputeEvidence.decode(statement.content)
        case = self._office.case(evidence.session)
        if evidence.session != statement.topic or case is None:
            raise DecodeError("evidence about a claim that is not filed here", reason="unknown")
        held = self._evidence.setdefault(evidence.session, {})
        if len(held) >= EVIDENCE_MAX or len(self._evidence) > MOTIONS_MAX:
            raise LimitExceeded("no room for more evidence", reason="full")
        if evidence.digest not in held:
            held[evidence.digest] = evidence
            self._office.gather(case)

    def weigh(self, case: Case) -> None:
        """Judge the evidence about a case whose state on the settlement was just looked up."""
        office, settled = self._office, case.settled_microtoken
        if not settled or not case.filings:
            return
        filing = max(case.filings.values(), key=lambda filing: filing.claim.ticket.amount_microtoken)
        for digest, evidence in sorted(self._evidence.pop(case.session, {}).items()):
            keep = keep_of(filing, settled, evidence)
            office.tell(DisputeJudged(case.session, keep, ACCEPTED if keep < settled else "unproven"))
            if keep == settled:
                continue
            signature = office.key.sign(overturn_digest(office.domain, case.session, settled, keep, digest))
            vote = OverturnVote(case.session, settled, keep, digest, signature, office.seat)
            issued_ns, expires_ns = office.times()
            office.publish(vote.statement(office.node_id, office.next_version(), issued_ns=issued_ns, expires_ns=expires_ns))
            self._count(_matter_of_overturn(vote), office.key.address, signature)

    # ---- votes

    def receive_vote(self, statement: Statement) -> bool:
        """Count another validator's answer; say False if the statement is a verdict on a claim.

        Raises:
            RemoteProtocolError: a vote that is malformed or not a validator's.
        """
        match unpack(statement.content, bytes_max=_VOTE_BYTES_MAX):
            case ["binding/1", *_]:
                self._receive_binding_vote(statement)
            case ["overturn/1", *_]:
                self._receive_overturn_vote(statement)
            case _:
                return False
        return True

    def _receive_binding_vote(self, statement: Statement) -> None:
        vote = BindingVote.decode(statement.content)
        wallet = self._office.holder(statement.subject, vote.seat)
        if vote.reason != ACCEPTED:
            return
        if recover(binding_digest(self._office.domain, vote.node, vote.wallet, vote.sequence), vote.signature) != wallet:
            raise BadSignature("a binding signed by another wallet than the seat says")
        self._count(_matter_of_binding(vote), wallet, vote.signature)

    def _receive_overturn_vote(self, statement: Statement) -> None:
        vote = OverturnVote.decode(statement.content)
        wallet = self._office.holder(statement.subject, vote.seat)
        if vote.signer(self._office.domain) != wallet:
            raise BadSignature("a vote signed by another wallet than the seat says")
        self._count(_matter_of_overturn(vote), wallet, vote.signature)

    def _count(self, matter: _Matter, wallet: Address, signature: bytes) -> None:
        if matter not in self._ballots and len(self._ballots) >= BALLOTS_MAX:
            self._make_room_for_vote()
        ballot = self._ballots.setdefault(matter, _Ballot())
        ballot.signatures[wallet] = signature
        validators = self._office.validators
        own = self._office.key.address in ballot.signatures  # what this validator did not judge good it does not hand in
        if ballot.act_at is None and own and len(ballot.signatures.keys() & set(validators.addresses)) >= validators.quorum:
            turn = int.from_bytes(matter[1][:8], "big")
            ballot.act_at = self._now + self._office.rank(turn) * self._office.slot_s

    def _make_room_for_vote(self) -> None:
        """Forget what was handed in, or a vote without this validator's own.

        Raises:
            LimitExceeded: there is none of either.
        """
        self._ballots = {key: ballot for key, ballot in self._ballots.items() if not ballot.is_done}
        if len(self._ballots) < BALLOTS_MAX:
            return
        own = self._office.key.address
        foreign = [(key, ballot) for key, ballot in self._ballots.items() if own not in ballot.signatures]
        if not foreign:
            raise LimitExceeded("no room for another vote", reason="full")
        cast = Counter(wallet for _, ballot in foreign for wallet in ballot.signatures)
        busiest = max(sorted(cast), key=lambda wallet: cast[wallet])
        del self._ballots[next(key for key, ballot in foreign if busiest in ballot.signatures)]

    def _act(self, matter: _Matter, ballot: _Ballot) -> None:
        members = self._office.validators.addresses
        signatures = tuple(ballot.signatures[wallet] for wallet in sorted(ballot.signatures) if wallet in members)
        what, subject, other, first, second = matter
        if what == "binding":
            request = self._requests.get(NodeId(subject))
            if request is not None and (request.wallet, request.sequence) == (other, first):
                self._office.ask(BindNode(request, signatures))
            return
        case = self._office.case(subject)
        if case is not None and case.filings:
            terms = next(iter(case.filings.values())).claim.terms
            self._office.ask(OverturnClaim(terms, first, second, other, signatures))


def _matter_of_binding(vote: BindingVote) -> _Matter:
    return ("binding", vote.node, vote.wallet, vote.sequence, 0)


def _matter_of_overturn(vote: OverturnVote) -> _Matter:
    return ("overturn", vote.session, vote.evidence, vote.settled_microtoken, vote.keep_microtoken)
