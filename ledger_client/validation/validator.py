"""A validator: judges claims, proposes and signs batches, answers binding requests, votes on disputes. Sans-IO.

Theory of operation. Records come in as the store shows them. A claim opens or continues a case (`cases.py`); the shell gathers what it
is held against, `checks.py` judges, and the finding is published as a verdict. In its slot (`slots.py`) the validator proposes the
claims that it and a quorum accept; it signs a batch of another only if it accepted every claim of it, in exactly those figures,
itself. When a quorum signed, the proposer settles, and where it does not the next in order does.

So two of five that lie, refuse everything, propose what they like or are gone change neither what is paid nor to whom: what they
propose is not signed by the other three, what they do not sign is, and their slots cost time only.

Not here: clocks, stores, the settlement (`service.py`). Call `advance` with the time before anything is asked of it; after every call drain
`requests_to_send` and `next_event`.

Invariants: one batch signed in a slot, whatever the clock does; nothing signed that was not judged here; all that others can fill is
bounded. What is not a good record is dropped and counted in `drops` by its reason.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Mapping

from srwan.errors import BadSignature, DecodeError, LimitExceeded, RemoteProtocolError, StaleRecord
from srwan.identity import Identity
from srwan.ledger_client.record import Kind, Record, Version, verify
from srwan.ledger_client.settlement.settlement import CLAIMS_MAX, Claim, SessionState, ValidatorSet
from srwan.ledger_client.settlement.signing import Address, SettlementDomain, WalletKey, recover
from srwan.ledger_client.statement import Statement
from srwan.ledger_client.store import EquivocationProof
from srwan.ledger_client.validation.batch import BatchItem, SignedBatch, items_digest, items_of
from srwan.ledger_client.validation.binding import BINDING_TOPIC
from srwan.ledger_client.validation.cases import Case, Docket
from srwan.ledger_client.validation.checks import Evidence, Finding, Tolerance, check_claim
from srwan.ledger_client.validation.claim import filing_of
from srwan.ledger_client.validation.events import (
    BatchProposed,
    BatchRefused,
    BatchSettled,
    BatchSigned,
    BatchStalled,
    ClaimJudged,
    Event,
    GatherEvidence,
    PublishRecord,
    QuorumReached,
    Request,
    SettleBatch,
    ValidatorExposed,
)
from srwan.ledger_client.validation.motions import Motions
from srwan.ledger_client.validation.seat import seat_holder, sign_seat
from srwan.ledger_client.validation.slots import Slot, SlotBook, owner_of, proposal_of
from srwan.ledger_client.validation.verdict import ACCEPTED, ClaimVerdict
from srwan.types import NodeId

__all__ = ["SLOT_S", "Validator"]

SLOT_S = 10
"""Default length of a slot, s: a batch is on its way for one slot or two, which is short against any dispute window."""
PATIENCE_SLOTS = 2
"""Slots to wait for late evidence before a refusal for the lack of it is published."""
PROPOSE_AGAIN_SLOTS = 3
"""Slots after which a claim that was in a batch and is still not paid is proposed again."""
REFUSE_AFTER_SLOTS = 1
"""Slots that a batch of another waits for its claims to be judged here."""
STRIKES_MAX = 3
"""Batches of one claim alone that the settlement may refuse before the claim is refused with its word."""
SETTLE_TRIES_MAX = 6
PAID_REASONS = frozenset({"spent", "session"})
"""What a claim is refused for once it is paid, or its session closed."""
VERDICT_LIFETIME_S = 60 * 86_400
NS_PER_S = 10**9
SEATS_KEPT_MAX = 256


class Validator:
    """One validator.

    Args:
        identity: router key that signs what it publishes.
        key: the validator's wallet.
        domain: of the settlement.
        validators: the set, this wallet among them or not: who has no seat judges, and nobody counts it.
        boot: of this run; greater than of any run before.
        slot_s: length of a slot, s; the same for all validators.
        tolerance: see there; the same for all validators.
    """

    def __init__(
        self,
        identity: Identity,
        key: WalletKey,
        domain: SettlementDomain,
        validators: ValidatorSet,
        *,
        boot: int,
        slot_s: int = SLOT_S,
        tolerance: Tolerance | None = None,
    ) -> None:
        self._identity = identity
        self._key = key
        self._domain = domain
        self._tolerance = tolerance or Tolerance()
        self._seat = sign_seat(key, domain, identity.node_id)
        self._boot = boot
        self._sequence = 0
        self._seats: dict[NodeId, Address] = {}
        self._exposed: set[NodeId] = set()
        self._docket = Docket()
        self._book = SlotBook(slot_s)
        self._motions = Motions(self)
        self._requests: deque[Request] = deque()
        self._events: deque[Event] = deque()
        self._now, self._wall_ns = -math.inf, 0
        self._boundary = math.inf
        self.drops: Counter[str] = Counter()
        """Records not used, by reason."""
        self.validators = validators
        """Who signs batches."""

    # ---- what motions need of it, and tests look at

    @property
    def domain(self) -> SettlementDomain:
        """What signatures are made for."""
        return self._domain

    @property
    def key(self) -> WalletKey:
        """The validator's wallet."""
        return self._key

    @property
    def node_id(self) -> NodeId:
        """Under which it publishes."""
        return self._identity.node_id

    @property
    def seat(self) -> bytes:
        """What shows that `node_id` speaks for the wallet, 65 B."""
        return self._seat

    @property
    def slot_s(self) -> int:
        """Length of a slot, s."""
        return self._book.slot_s

    @property
    def open_claims(self) -> int:
        """Sessions that are filed and not wholly paid."""
        return sum(not case.is_done for case in self._docket.cases())

    def rank(self, turn: int) -> int:
        """Return how many others come before this validator from a turn on; a number beyond the set for who has no seat."""
        addresses = self.validators.addresses
        if self._key.address not in addresses:
            return 2 * len(addresses)
        return (addresses.index(self._key.address) - turn) % len(addresses)

    def case(self, session: bytes) -> Case | None:
        """Return the case of a session, or None."""
        return self._docket.get(session)

    def tell(self, event: Event) -> None:
        """Queue an event."""
        self._events.append(event)

    def ask(self, request: Request) -> None:
        """Queue a request."""
        self._requests.append(request)

    def publish(self, statement: Statement) -> None:
        """Sign a statement and queue it for the store."""
        self.ask(PublishRecord(statement.record(self._identity)))

    def next_version(self) -> Version:
        """Return a version above all before."""
        self._sequence += 1
        return Version(self._boot, self._sequence)

    def times(self) -> tuple[int, int]:
        """Return issue and expiry of what is published now, wall time in ns."""
        return self._wall_ns, self._wall_ns + VERDICT_LIFETIME_S * NS_PER_S

    # ---- in

    def note_time(self, now: float, wall_ns: int) -> None:
        """Take note of the time and do nothing: before what a store holds is read at the start."""
        self._now, self._wall_ns = now, wall_ns
        self._book.advance(wall_ns - self._book.slot_s * NS_PER_S)

    def advance(self, now: float, wall_ns: int) -> None:
        """Take note of the time, monotonic s and wall ns, and do what has become due."""
        self._now, self._wall_ns = now, wall_ns
        slot_ns = self._book.slot_s * NS_PER_S
        self._boundary = now + (slot_ns - wall_ns % slot_ns) / NS_PER_S
        if self._book.advance(wall_ns):
            self._begin_slot()
        for slot in self._book.slots():
            self._answer(slot)
            if slot.settle_at is not None and now >= slot.settle_at:
                self._settle(slot)
        for case in self._docket.cases():
            if case.pending_since is not None and now >= case.pending_since + PATIENCE_SLOTS * self._book.slot_s:
                self._conclude(case)
        self._motions.advance(now)

    def set_validators(self, validators: ValidatorSet) -> None:
        """Take note of another set; what was said by those who left counts no more."""
        self.validators = validators

    def receive_record(self, record: Record) -> None:
        """Take a record from the store. Whatever is wrong with it is counted, not raised."""
        try:
            verify(record)
            statement = Statement.of_record(record)
            if statement.expires_ns <= self._wall_ns:
                raise StaleRecord("an expired statement", reason="expired")
            self._dispatch(statement)
        except RemoteProtocolError as error:
            self.drops[error.reason] += 1

    def _dispatch(self, statement: Statement) -> None:
        if statement.kind is Kind.CLAIM and statement.topic == BINDING_TOPIC:
            self._motions.receive_request(statement)
        elif statement.kind is Kind.CLAIM:
            self._receive_claim(statement)
        elif statement.kind in (Kind.COUNTERS, Kind.PATH):
            self._touch(statement.topic, statement.subject)
        elif statement.kind is Kind.EVIDENCE:
            self._motions.receive_evidence(statement)
        elif statement.kind is Kind.VERDICT:
            self._receive_verdict(statement)
        elif statement.kind is Kind.BATCH:
            self._receive_batch(statement)

    def receive_evidence(self, session: bytes, evidence: Evidence) -> None:
        """Take what was gathered for a `GatherEvidence`."""
        case = self._docket.get(session)
        if case is None:
            return
        case.is_gathering = False
        self._look_up(case, evidence.session)
        for filer, filing in case.filings.items():
            finding = check_claim(filing, filer, evidence, self._domain, self._tolerance)
            case.findings[filer] = finding
            if finding.is_accepted:
                case.accept(filing.claim)
        self._conclude(case)
        self._motions.weigh(case)
        if case.is_stale:
            self._gather(case)

    def receive_failure(self, session: bytes) -> None:
        """Take note that evidence could not be gathered now; it is tried again with the next slot."""
        case = self._docket.get(session)
        if case is not None:
            case.is_gathering, case.is_stale = False, True

    def receive_settled(self, number: int, states: Mapping[bytes, SessionState | None]) -> None:
        """Take note of what the settlement shows of a batch's sessions after it was settled, by whomever."""
        slot = self._book.slot(number)
        slot.settle_at, slot.is_finished = None, True
        proposal = proposal_of(slot, self.validators)
        for session, state in sorted(states.items()):
            case = self._docket.get(session)
            if case is not None:
                self._look_up(case, state)
                case.strikes = 0
        if proposal is not None:
            self.tell(BatchSettled(number, len(proposal.items), sum(item.amount_microtoken for item in proposal.items)))

    def receive_refusal(self, number: int, reason: str) -> None:
        """Take note that the settlement refused a batch: its claims are looked at again and proposed one by one."""
        slot = self._book.slot(number)
        slot.settle_at, slot.is_finished = None, True
        proposal = proposal_of(slot, self.validators)
        self.tell(BatchStalled(number, reason))
        for item in proposal.items if proposal is not None else ():
            case = self._docket.get(item.session)
            if case is None:
                continue
            case.strikes += 1
            case.is_stale = True
            if case.strikes >= STRIKES_MAX and proposal is not None and len(proposal.items) == 1:
                case.accepted.clear()
                case.findings = {filer: Finding(reason or "refused") for filer in case.filings}
                self._conclude(case)
            else:
                self._gather(case)

    def receive_outage(self, number: int) -> None:
        """Take note that the settlement cannot be reached: tried again a slot later, SETTLE_TRIES_MAX times in all."""
        slot = self._book.slot(number)
        if slot.tries >= SETTLE_TRIES_MAX:
            slot.settle_at, slot.is_finished = None, True
            self.tell(BatchStalled(number, "unavailable"))
        else:
            slot.settle_at = self._now + self._book.slot_s

    def receive_equivocation(self, proof: EquivocationProof) -> None:
        """Take a proof that somebody signed two statements under one version; only validators' are looked at."""
        node = proof.held.subject
        if proof.held.kind not in (Kind.VERDICT, Kind.BATCH) or node in self._exposed or node == self.node_id or not proof.is_proven():
            return
        wallet = self._seats.get(node)
        if wallet is None:
            try:
                wallet = seat_holder(self._domain, node, _seat_in(Statement.of_record(proof.held)))
            except RemoteProtocolError:
                return
        if wallet not in self.validators.addresses:
            return  # anybody may contradict himself under this kind; the set is bounded by the validators
        self._exposed.add(node)
        for case in self._docket.cases():
            case.verdicts.pop(wallet, None)
        self.tell(ValidatorExposed(node, wallet))

    # ---- out

    def get_timer(self) -> float:
        """Return when `advance` should be called next, monotonic s."""
        return min(self._boundary, self._motions.get_timer(), *self._book.due())

    def next_event(self) -> Event | None:
        """Return the next event, or None."""
        return self._events.popleft() if self._events else None

    def requests_to_send(self) -> list[Request]:
        """Return what the shell is to do, in order."""
        requests = list(self._requests)
        self._requests.clear()
        return requests

    # ---- claims

    def _receive_claim(self, statement: Statement) -> None:
        filing = filing_of(statement)
        filing.verify(self._domain)
        case = self._docket.open(filing.session, statement.subject, self._now)
        if case is None:
            raise LimitExceeded("no room for another claim", reason="full")
        if case.filings.get(statement.subject) == filing:
            return
        case.filings[statement.subject] = filing
        case.pending_since = None
        case.findings.pop(statement.subject, None)
        self._gather(case)

    def _touch(self, session: bytes, subject: NodeId) -> None:
        """Counters or a receipt came in: judge what waits for them again."""
        case = self._docket.get(session)
        if case is None or case.is_done or not case.filings or all(finding.is_accepted for finding in case.findings.values()):
            return
        plan = next(iter(case.filings.values())).plan  # the same in all filings
        if subject in (plan.consumer, *plan.relays, plan.egress):
            self._gather(case)

    def _gather(self, case: Case) -> None:
        case.is_stale = case.is_gathering
        if not case.is_gathering:
            case.is_gathering = True
            self.ask(GatherEvidence(case.session, tuple(filing for _, filing in sorted(case.filings.items()))))

    def gather(self, case: Case) -> None:
        """Have a case's evidence gathered again."""
        self._gather(case)

    def _look_up(self, case: Case, state: SessionState | None) -> None:
        if state is not None:
            case.settled_microtoken = state.settled_microtoken

    def _conclude(self, case: Case) -> None:
        """Publish the finding that counts, unless it was said already or evidence may still come."""
        leading = case.leading()
        if leading is None:
            return
        filing, finding = leading
        if finding.is_pending:
            if case.pending_since is None:
                case.pending_since = self._now
            if self._now < case.pending_since + PATIENCE_SLOTS * self._book.slot_s:
                return
        ticket = filing.claim.ticket
        own = case.verdicts.get(self._key.address)
        if finding.reason in PAID_REASONS and own is not None and own.is_accepted and own.amount_microtoken >= ticket.amount_microtoken:
            return  # paid meanwhile: what was said of it stays said
        said = (ticket.octets, ticket.amount_microtoken, finding.reason)
        if own is not None and (own.octets, own.amount_microtoken, own.reason) == said:
            case.pending_since = None if finding.is_accepted else math.inf
            return
        case.pending_since = None if finding.is_accepted else math.inf
        verdict = ClaimVerdict(case.session, *said, self._seat, finding.figures)
        case.verdicts[self._key.address] = verdict
        issued_ns, expires_ns = self.times()
        self.publish(verdict.statement(self.node_id, self.next_version(), issued_ns=issued_ns, expires_ns=expires_ns))
        self.tell(ClaimJudged(case.session, *said, finding.figures))

    def _receive_verdict(self, statement: Statement) -> None:
        if self._motions.receive_vote(statement):
            return
        verdict = ClaimVerdict.decode(statement.content)
        if verdict.session != statement.topic:
            raise DecodeError("a verdict that is filed under another session", reason="filed-wrong")
        wallet = self.holder(statement.subject, verdict.seat)
        case = self._docket.get(verdict.session)
        if case is None:
            raise DecodeError("a verdict on a claim that is not filed here", reason="unknown")
        if wallet == self._key.address:
            case.verdicts.setdefault(wallet, verdict)  # of a former run, for in this one what was said last is known
        else:
            case.verdicts[wallet] = verdict

    def holder(self, node: NodeId, seat: bytes) -> Address:
        """Return the validator for whom a router speaks.

        Raises:
            BadSignature: for nobody, or for no validator ("seat"), or it was exposed ("exposed").
        """
        if node in self._exposed:
            raise BadSignature(f"{node!r} contradicted itself", reason="exposed")
        wallet = self._seats.get(node)
        if wallet is None:
            wallet = seat_holder(self._domain, node, seat)
        if wallet not in self.validators.addresses:
            raise BadSignature(f"{node!r} speaks for {wallet}, which is no validator", reason="seat")
        if len(self._seats) < SEATS_KEPT_MAX:
            self._seats[node] = wallet
        return wallet

    # ---- batches

    def _begin_slot(self) -> None:
        for case in self._docket.cases():
            if case.is_stale and not case.is_gathering:
                self._gather(case)
        number = self._book.newest
        if owner_of(number, self.validators) != self._key.address or self._key.address in self._book.slot(number).answers:
            return
        claims = self._choose(number)
        if claims:
            self.tell(BatchProposed(number, self._key.address, len(claims)))
            self._say(self._book.slot(number), items_of(claims))

    def _choose(self, number: int) -> list[Claim]:
        """Claims to propose: oldest first, those that made a batch fail alone."""
        seats, quorum = frozenset(self.validators.addresses), self.validators.quorum
        chosen: list[Claim] = []
        alone: list[Claim] = []
        for case in self._docket.cases():
            if case.proposed_slot >= 0 and number < case.proposed_slot + PROPOSE_AGAIN_SLOTS and not case.strikes:
                continue
            claim = case.ready(seats, quorum)
            if claim is not None:
                (alone if case.strikes else chosen).append(claim)
        if alone and (not chosen or number % 2):
            return alone[:1]
        return sorted(chosen[:CLAIMS_MAX], key=lambda claim: claim.ticket.session)

    def _say(self, slot: Slot, items: tuple[BatchItem, ...], reason: str = ACCEPTED) -> None:
        """Publish this validator's one word in a slot: its signature, or why not."""
        signature = b""
        if reason == ACCEPTED:
            assert all((case := self._docket.get(item.session)) is not None and case.signable(item) for item in items)
            signature = self._key.sign(items_digest(self._domain, items))
        batch = SignedBatch(slot.number, items, signature, reason, self._seat)
        self.publish(batch.statement(self.node_id, slot_s=self._book.slot_s))
        self._take(slot, self._key.address, batch)

    def _receive_batch(self, statement: Statement) -> None:
        batch = SignedBatch.decode(statement.content)
        if not self._book.is_current(batch.slot):
            raise StaleRecord("a batch of a slot long past or to come", reason="slot")
        if batch.statement(statement.subject, slot_s=self._book.slot_s) != statement:
            raise DecodeError("a batch that is not filed under its slot and times", reason="filed-wrong")
        wallet = self.holder(statement.subject, batch.seat)
        slot = self._book.slot(batch.slot)
        if wallet in slot.answers:
            return
        if batch.is_signed and recover(items_digest(self._domain, batch.items), batch.signature) != wallet:
            raise BadSignature("a batch signed by another wallet than the seat says")
        self._take(slot, wallet, batch)

    def _take(self, slot: Slot, wallet: Address, batch: SignedBatch) -> None:
        slot.answers[wallet] = batch
        if wallet == owner_of(slot.number, self.validators) and batch.is_signed:
            slot.first_seen = self._now
            for item in batch.items:
                case = self._docket.get(item.session)
                if case is not None:
                    case.proposed_slot = max(case.proposed_slot, slot.number)
            if wallet != self._key.address:
                self.tell(BatchProposed(slot.number, wallet, len(batch.items)))
        self._answer(slot)
        self._count(slot)

    def _answer(self, slot: Slot) -> None:
        """Sign what another proposed if all of it was accepted here; refuse when its time is over."""
        proposal = proposal_of(slot, self.validators)
        own = self._key.address
        if proposal is None or slot.first_seen is None or own in slot.answers or own not in self.validators.addresses:
            return
        cases = [self._docket.get(item.session) for item in proposal.items]
        unsigned = [case for case, item in zip(cases, proposal.items, strict=True) if case is None or case.signable(item) is None]
        if not unsigned:
            self.tell(BatchSigned(slot.number, len(proposal.items)))
            self._say(slot, proposal.items)
        elif self._now >= slot.first_seen + REFUSE_AFTER_SLOTS * self._book.slot_s:
            leading = unsigned[0].leading() if unsigned[0] is not None else None
            reason = (leading[1].reason if leading is not None else "") or "unknown"
            self.tell(BatchRefused(slot.number, reason))
            self._say(slot, proposal.items, reason)

    def _count(self, slot: Slot) -> None:
        proposal = proposal_of(slot, self.validators)
        if proposal is None or slot.is_finished or slot.settle_at is not None:
            return
        signatures = self._good_signatures(slot, proposal)
        if len(signatures) >= self.validators.quorum:
            self.tell(QuorumReached(slot.number, len(signatures)))
            slot.settle_at = self._now + self.rank(slot.number) * self._book.slot_s

    def _good_signatures(self, slot: Slot, proposal: SignedBatch) -> tuple[bytes, ...]:
        """Those of the present set under a proposal; each was verified when it came."""
        return tuple(signature for wallet, signature in slot.signatures(proposal).items() if wallet in self.validators.addresses)

    def _claims_of(self, proposal: SignedBatch) -> tuple[Claim, ...] | None:
        """The claims of a batch; None unless this validator accepted all of them."""
        claims: list[Claim] = []
        for item in proposal.items:
            case = self._docket.get(item.session)
            claim = None if case is None else case.signable(item)
            if claim is None:
                return None
            claims.append(claim)
        return tuple(claims)

    def _settle(self, slot: Slot) -> None:
        proposal = proposal_of(slot, self.validators)
        slot.settle_at = None
        slot.tries += 1
        claims = None if proposal is None else self._claims_of(proposal)
        if proposal is None or claims is None:  # not judged here yet, after a restart, or refused
            slot.is_finished = slot.tries >= SETTLE_TRIES_MAX
            slot.settle_at = None if slot.is_finished else self._now + self._book.slot_s
            return
        self.ask(SettleBatch(slot.number, claims, self._good_signatures(slot, proposal)))


def _seat_in(statement: Statement) -> bytes:
    """The seat that a validator's statement carries. Raises RemoteProtocolError where it has none."""
    if statement.kind is Kind.BATCH:
        return SignedBatch.decode(statement.content).seat
    return ClaimVerdict.decode(statement.content).seat
