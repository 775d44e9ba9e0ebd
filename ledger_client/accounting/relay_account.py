"""The relay's side: which packets are covered by a session, what is owed for them, and who is slowed down until he pays. A core.

Theory of operation. A consumer says which path tags a session covers. The relay checks that it is the payee at its own price, and has the
settlement engine asked whether the session is open. From then on the packets of those tags, from the neighbour that comes before this relay
in the plan, are the consumer's debt until tickets acknowledge them:

    outstanding = bodies relayed - octets acknowledged / (1 - loss tolerance)

over all of a consumer's sessions here. Beyond the credit window, and beyond what the session's cap can pay, its packets are carried at the
free rate, never cut; full speed comes back with the ticket that pays. The window is 8 MB and grows by a sixteenth of what was acknowledged.

Packets that no open session covers count against the neighbour they come from, who gets the same window for all of them together, refilled
at the free rate; whoever sprays path tags gains nothing. A relay that charges nothing slows nobody down.

What is billable: datagrams less the known overhead, and less KEEPALIVES_PER_S keep-alives per tag, which nobody pays for.

Tickets are kept in the journal before they are acknowledged to the consumer. A ticket worth less than the one held changes nothing, the
same one again neither. Claims are filed when a GB is owed, after a while, or when the session runs out.

Calls in: `receive_session`, `session_state`, `receive_ticket`, `traffic`, `claim_filed`, `handle_timer`. Out: `take_entries`,
`take_lookups`, `limits`, `next_claim`, `next_event`.

Invariants: what can be claimed is what a consumer signed, and never falls; a packet is debited once, to one debtor.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from typing import Protocol

import attrs

from srwan.errors import BadSignature, RemoteProtocolError
from srwan.ledger_client.accounting.counters import SessionCount, SessionRole, bodies_in, packet_overhead_octets
from srwan.ledger_client.accounting.events import AccountingEvent, ClaimFiled, DebtCleared, DebtThrottled, TicketReceived
from srwan.ledger_client.accounting.messages import Answer, SessionNotice, TicketNotice
from srwan.ledger_client.accounting.meter import Count, Meter, TagKey
from srwan.ledger_client.accounting.plan import PathPlan, price_at
from srwan.ledger_client.accounting.relay_journal import (
    CarriedSession,
    carried_of,
    claimed_entry,
    count_entry,
    over_entry,
    paid_entry,
    session_entry,
)
from srwan.ledger_client.settlement.settlement import Claim, SessionState
from srwan.ledger_client.settlement.signing import Address, SettlementDomain
from srwan.ledger_client.settlement.terms import GB_OCTETS
from srwan.ledger_client.validation.claim import ClaimFiling
from srwan.types import NodeId

__all__ = ["Limit", "RelayAccount", "RelayOffers", "RelaySettings"]

SESSIONS_MAX = 2048
SESSIONS_PER_CONSUMER_MAX = 64
"""A consumer with so many sessions here has as many lists of relays: more than the members of a group make of three."""
EXPIRY_S_MAX = 32 * 86_400
"""A session that would run longer is refused: its reserve must come back some day."""
LOOKUP_S_MIN = 1.0
LOOKUP_S_MAX = 30.0
LOOKUPS_MAX = 12
"""Asked so often, over four minutes, the settlement engine does not know it: the session is forgotten."""
KEEPALIVES_PER_S = 20
"""Keep-alives, or answers to them, on one path tag that are not billed: 5 each as a rule, 10 with DATA."""
KEEPALIVE_OCTETS = 72
"""Body of a keep-alive (`srwan.routing.payload`)."""
COUNT_STEP_OCTETS = 1_000_000
"""How much is carried under a session between two entries of the journal."""
CLAIM_LEAD_S = 60
"""A session's last claim is filed so long before it expires, s; later tickets are claimed once more."""
CLAIM_AGAIN_S = 30.0
"""A claim that was not filed is handed out again after so long, s."""
OVER_S = 600
"""A session is forgotten so long after it expired, s of chain time: until then a last ticket may come."""
EVENTS_MAX = 1024


class RelayOffers(Protocol):
    """What this relay charges."""

    def is_charging(self, wall_ns: int) -> bool:
        """Say whether it charges anything now."""
        ...

    def problem_with(self, plan: PathPlan, position: int, price_microtoken: int, wall_ns: int, expires_s: int | None = None) -> str:
        """Say in a short lower-case word why a session at this price until then (wall time, s) is not taken, or return an empty string."""
        ...


@attrs.frozen(slots=True)
class RelaySettings:
    """How much credit is given."""

    credit_octets: int = 8_000_000
    """CarriedSession for one debtor before he has acknowledged anything."""
    credit_octets_max: int = 64_000_000
    """To which that grows, by a sixteenth of what was acknowledged."""
    loss_permille: int = 30
    """Of what is relayed, so much may get lost behind this relay."""
    free_octets_per_s: int = 64_000
    """At which the packets of one neighbour are carried when they are throttled, all of them together."""
    claim_octets: int = GB_OCTETS
    """A claim is filed when so much was acknowledged since the last one."""
    claim_interval_s: float = 600.0
    """Or so long after the first ticket since then, s."""


@attrs.frozen(slots=True)
class Limit:
    """Which packets of a neighbour share the free rate."""

    tags: frozenset[int]
    """These, or all but these."""
    is_exempt: bool
    """Whether they are the ones left out."""
    octets_per_s: int


@attrs.define(slots=True)
class _Session:
    id: bytes
    carried: CarriedSession
    position: int
    before: NodeId
    is_open: bool = False
    lookup_at: float = 0.0
    lookups: int = 0
    journaled_octets: int = 0
    unclaimed_at: float | None = None
    """When the first ticket came that was not claimed."""
    filed_at: float = -CLAIM_AGAIN_S
    """When a claim was handed out last."""
    is_throttled: bool = False
    tags: set[int] = attrs.field(factory=set[int])
    """Path tags that it covers, of its last notice: those that no other session has."""

    @property
    def consumer(self) -> NodeId:
        return self.carried.notice.plan.consumer

    @property
    def amount(self) -> int:
        return 0 if self.carried.ticket is None else self.carried.ticket.amount_microtoken

    def acknowledged(self) -> int:
        """Octets that the last ticket pays for in full."""
        ticket, receipt, notice = self.carried.ticket, self.carried.receipt, self.carried.notice
        if ticket is None or receipt is None:
            return 0
        due = price_at(notice.terms, notice.plan, ticket.octets, receipt.saved_us)
        return ticket.octets if ticket.amount_microtoken >= due else ticket.octets * ticket.amount_microtoken // due

    def affordable(self) -> int:
        """Octets that the cap pays for."""
        terms = self.carried.notice.terms
        return terms.cap_microtoken * GB_OCTETS // max(1, terms.price_microtoken)


@attrs.define(slots=True)
class _Stranger:
    """What a neighbour brought that no open session covers."""

    owed_octets: float = 0.0
    is_throttled: bool = False


class RelayAccount:
    """See the module's header.

    Args:
        node_id: of this router.
        wallet: where its money goes.
        domain: of the settlement engine.
        offers: what it charges.
        settings: how much credit it gives.
    """

    def __init__(
        self, node_id: NodeId, wallet: Address, domain: SettlementDomain, offers: RelayOffers, settings: RelaySettings | None = None
    ) -> None:
        self._node_id = node_id
        self._wallet = wallet
        self._domain = domain
        self._offers = offers
        self._settings = settings or RelaySettings()
        self.drops: Counter[str] = Counter()
        """Notices and tickets refused, by reason."""
        self._sessions: dict[bytes, _Session] = {}
        self._by_key: dict[TagKey, _Session] = {}
        self._strangers: dict[NodeId, _Stranger] = {}
        self._uncovered: dict[TagKey, tuple[int, int, int]] = {}
        self._meter = Meter()
        self._looked_at: float | None = None
        self._events: deque[AccountingEvent] = deque(maxlen=EVENTS_MAX)
        self._claims: deque[ClaimFiling] = deque()
        self._entries: list[bytes] = []
        self._limits: dict[NodeId, Limit] = {}

    # --- life -------------------------------------------------------------------------------------------------------

    def restore(self, entries: Iterable[bytes], now: float) -> None:
        """Take what the journal holds. Call once, before anything else.

        Raises:
            DecodeError: an entry is not one of this relay's.
        """
        for carried in carried_of(entries):
            plan = carried.notice.plan
            if self._node_id not in plan.relays:
                continue
            session = _Session(carried.notice.terms.session_id, carried, plan.relays.index(self._node_id), plan.before(self._node_id), True)
            session.journaled_octets = carried.octets
            session.unclaimed_at = now if session.amount > carried.claimed_microtoken else None
            self._sessions[session.id] = session
            self._cover(session, carried.notice.path_tags)

    def snapshot(self) -> list[bytes]:
        """Return the entries that say all that has to be kept, for compacting the journal."""
        return [entry for session in self._sessions.values() if session.is_open for entry in session.carried.entries()]

    # --- messages ---------------------------------------------------------------------------------------------------

    def receive_session(self, caller: NodeId, data: bytes, now: float, wall_ns: int, chain_s: int) -> Answer:
        """Take a consumer's word on what a session covers: "ok", "pending" until the settlement engine was asked, or why not.

        Raises:
            RemoteProtocolError: malformed, or not the caller's. Nothing changed.
        """
        try:
            notice = SessionNotice.decode_from(caller, data)
        except RemoteProtocolError as error:
            self.drops[error.reason] += 1
            raise
        session = self._sessions.get(notice.terms.session_id)
        if session is None:
            problem = self._problem_with(notice, wall_ns, chain_s)
            if problem:
                self.drops[f"session-{problem}"] += 1
                return Answer(problem)
            if not notice.path_tags:
                return Answer("ok")  # over before it began
            plan = notice.plan
            session = _Session(
                notice.terms.session_id, CarriedSession(notice), plan.relays.index(self._node_id), plan.before(self._node_id)
            )
            session.lookup_at = now
            self._sessions[session.id] = session
            self._cover(session, notice.path_tags)
        elif notice.sequence > session.carried.notice.sequence:
            session.carried.notice = notice
            self._cover(session, notice.path_tags)
            if session.is_open:
                self._entries.append(session_entry(notice))
        return Answer("ok" if session.is_open else "pending")

    def _problem_with(self, notice: SessionNotice, wall_ns: int, chain_s: int) -> str:
        terms, plan = notice.terms, notice.plan
        if self._node_id not in plan.relays:
            return "plan"
        position = plan.relays.index(self._node_id)
        if terms.payees[position] != self._wallet:
            return "wallet"
        if not chain_s < terms.expires_s <= chain_s + EXPIRY_S_MAX:
            return "expired"
        of_consumer = sum(session.consumer == plan.consumer for session in self._sessions.values())
        if of_consumer >= SESSIONS_PER_CONSUMER_MAX or len(self._sessions) >= SESSIONS_MAX:
            return "limit"
        expires_s = wall_ns // 10**9 + terms.expires_s - chain_s
        return self._offers.problem_with(plan, position, terms.prices_microtoken[position], wall_ns, expires_s)

    def session_state(self, session_id: bytes, state: SessionState | None, now: float) -> None:
        """Say what the settlement engine holds of a session that `take_lookups` asked about; None: nothing, or it could not be claimed."""
        session = self._sessions.get(session_id)
        if session is None or session.is_open:
            return
        if state is not None:
            session.is_open = True
            carried = session.carried
            session.journaled_octets = carried.octets
            self._entries += [session_entry(carried.notice), *([count_entry(session_id, *carried.counts)] if carried.packets else [])]
            self._relieve(session.before, session.carried.billable_octets)
            return
        session.lookups += 1
        session.lookup_at = now + min(LOOKUP_S_MAX, LOOKUP_S_MIN * 2.0**session.lookups)
        if session.lookups >= LOOKUPS_MAX:
            self.drops["session-unopened"] += 1
            self._forget(session)

    def receive_ticket(self, caller: NodeId, data: bytes, now: float) -> Answer:
        """Take a ticket with its receipt; "ok" also for one held already or worth less.

        "session": the session is not known here. "pending": it is not known yet whether it is open, so the ticket was not taken.

        Raises:
            RemoteProtocolError: malformed, badly signed, beyond price or cap, or not the caller's. Nothing changed.

        Cost: 0.2 ms.
        """
        try:
            notice = TicketNotice.decode(data)
            session = self._sessions.get(notice.ticket.session)
            if session is None or not session.is_open:
                return Answer("session" if session is None else "pending")
            return self._take_ticket(caller, session, notice, now)
        except RemoteProtocolError as error:
            self.drops[error.reason] += 1
            raise

    def _take_ticket(self, caller: NodeId, session: _Session, notice: TicketNotice, now: float) -> Answer:
        ticket, receipt, carried = notice.ticket, notice.receipt, session.carried
        plan, terms = carried.notice.plan, carried.notice.terms
        if caller != plan.consumer or (receipt.consumer, receipt.egress) != (plan.consumer, plan.egress):
            raise BadSignature("a ticket that is not from the session's consumer, or a receipt of others", reason="ticket-stranger")
        held = carried.ticket
        if held is not None and (ticket.amount_microtoken, ticket.octets) <= (held.amount_microtoken, held.octets):
            return Answer("ok")
        ticket.verify(terms, self._domain)
        receipt.verify(is_accepted=True)
        if ticket.octets > receipt.octets or (held is not None and ticket.octets < held.octets):
            raise BadSignature("a ticket over more octets than were received, or over less than before", reason="ticket-octets")
        carried.take_ticket(ticket, receipt)
        if session.unclaimed_at is None:
            session.unclaimed_at = now
        self._entries.append(paid_entry(ticket, receipt))
        if carried.octets > session.journaled_octets:
            self._note_count(session)  # a claim needs the relay's own count beside the ticket, after kill -9, too
        self._events.append(TicketReceived(session.id, plan.consumer, ticket.octets, ticket.amount_microtoken))
        return Answer("ok")

    # --- traffic and debts ------------------------------------------------------------------------------------------

    def traffic(self, relayed: Mapping[TagKey, Count], now: float) -> None:
        """Take a reading of what this node relayed, by neighbour and path tag; octets of whole datagrams. Cost: 1 us per entry."""
        elapsed_s = 1.0 if self._looked_at is None else max(0.0, now - self._looked_at)
        self._looked_at = now
        free = self._settings.free_octets_per_s * elapsed_s
        for stranger in self._strangers.values():
            stranger.owed_octets = max(0.0, stranger.owed_octets - free)
        keepalives = int(KEEPALIVES_PER_S * elapsed_s) + 1
        for key, count in relayed.items():
            packets, octets = self._meter.advance(key, count)
            if not packets:
                continue
            session = self._by_key.get(key)
            relays = 1 if session is None else len(session.carried.notice.plan.relays)
            billable = max(0, bodies_in(octets, packets, relays) - min(packets, keepalives) * KEEPALIVE_OCTETS)
            if session is not None:
                self._debit(session, packets, octets, billable)
            else:
                before = self._uncovered.get(key, (0, 0, 0))
                self._uncovered[key] = (before[0] + packets, before[1] + octets, before[2] + billable)
                self._stranger(key[0]).owed_octets += billable
        self._meter.keep(relayed)
        for key in [key for key in self._uncovered if key not in relayed]:
            del self._uncovered[key]

    def _debit(self, session: _Session, packets: int, octets: int, billable: int) -> None:
        carried = session.carried
        carried.packets += packets
        carried.octets += octets
        carried.billable_octets += billable
        if not session.is_open:
            self._stranger(session.before).owed_octets += billable
        elif carried.octets - session.journaled_octets >= COUNT_STEP_OCTETS:
            self._note_count(session)

    def _note_count(self, session: _Session) -> None:
        carried = session.carried
        session.journaled_octets = carried.octets
        self._entries.append(count_entry(session.id, *carried.counts))

    def outstanding(self, consumer: NodeId) -> int:
        """Return the octets that a consumer has not acknowledged, over all of its open sessions."""
        return max(0, sum(self._balance(each) for each in self._sessions.values() if each.is_open and each.consumer == consumer))

    def _balance(self, session: _Session) -> int:
        """What is outstanding of a session; less than 0 where packets of it were counted under the session before or after."""
        return session.carried.billable_octets - session.acknowledged() * 1000 // (1000 - self._settings.loss_permille)

    def window(self, consumer: NodeId) -> int:
        """Return how many octets are carried for a consumer on credit."""
        return self._window(sum(session.acknowledged() for session in self._sessions.values() if session.consumer == consumer))

    def _window(self, acknowledged: int) -> int:
        return min(self._settings.credit_octets + acknowledged // 16, max(self._settings.credit_octets_max, self._settings.credit_octets))

    def handle_timer(self, now: float, wall_ns: int, chain_s: int) -> None:
        """Judge debts, file claims, forget what is over. Call after each `traffic`."""
        for session in list(self._sessions.values()):
            if chain_s > session.carried.notice.terms.expires_s:
                self._cover(session, ())
                if chain_s > session.carried.notice.terms.expires_s + OVER_S and session.unclaimed_at is None:
                    self._forget(session)
                    continue
            self._claim_if_due(session, now, chain_s)
        self._judge(is_charging=self._offers.is_charging(wall_ns))

    def _judge(self, *, is_charging: bool) -> None:
        """Decide whose packets are carried at the free rate."""
        owed: dict[NodeId, int] = {}
        for session in self._sessions.values():
            if session.is_open:
                owed[session.consumer] = owed.get(session.consumer, 0) + self._balance(session)
        acknowledged: dict[NodeId, int] = {}
        for session in self._sessions.values():
            acknowledged[session.consumer] = acknowledged.get(session.consumer, 0) + session.acknowledged()
        windows = {consumer: self._window(acknowledged[consumer]) for consumer in owed}
        limited: dict[NodeId, set[int]] = {}
        paid: dict[NodeId, set[int]] = {}
        for session in self._sessions.values():
            if not session.is_open:
                continue
            share = 0.75 if session.is_throttled else 1.0  # who was slowed down must pay a quarter before he is trusted again
            is_spent = session.carried.billable_octets * (1000 - self._settings.loss_permille) > session.affordable() * 1000
            is_beyond = owed[session.consumer] > windows[session.consumer] * share
            self._set_throttled(session, is_throttled=is_beyond or is_spent, owed_octets=max(0, owed[session.consumer]))
            tags = limited if session.is_throttled else paid
            tags.setdefault(session.before, set()).update(session.tags)
        limits = self._limits_of(limited)
        for node, stranger in list(self._strangers.items()):
            self._judge_stranger(node, stranger, is_charging=is_charging)
            if stranger.is_throttled:
                limits[node] = Limit(frozenset(paid.get(node, ())), True, self._settings.free_octets_per_s)
            elif not stranger.owed_octets:
                del self._strangers[node]
        self._limits = limits

    def _limits_of(self, limited: Mapping[NodeId, set[int]]) -> dict[NodeId, Limit]:
        return {node: Limit(frozenset(tags), False, self._settings.free_octets_per_s) for node, tags in limited.items() if tags}

    def _set_throttled(self, session: _Session, *, is_throttled: bool, owed_octets: int) -> None:
        if is_throttled != session.is_throttled:
            session.is_throttled = is_throttled
            told = DebtThrottled(session.consumer, session.id, owed_octets) if is_throttled else DebtCleared(session.consumer, session.id)
            self._events.append(told)

    def _judge_stranger(self, node: NodeId, stranger: _Stranger, *, is_charging: bool) -> None:
        share = 0.75 if stranger.is_throttled else 1.0
        is_throttled = is_charging and stranger.owed_octets > self._settings.credit_octets * share
        if is_throttled != stranger.is_throttled:
            stranger.is_throttled = is_throttled
            owed = int(stranger.owed_octets)
            self._events.append(DebtThrottled(node, None, owed) if is_throttled else DebtCleared(node, None))

    # --- claims -----------------------------------------------------------------------------------------------------

    def _claim_if_due(self, session: _Session, now: float, chain_s: int) -> None:
        ticket, receipt, carried = session.carried.ticket, session.carried.receipt, session.carried
        if session.unclaimed_at is None or ticket is None or receipt is None or now - session.filed_at < CLAIM_AGAIN_S:
            return
        terms = carried.notice.terms
        claimed = carried.claimed_microtoken * GB_OCTETS // max(1, terms.price_microtoken)
        is_old = now - session.unclaimed_at >= self._settings.claim_interval_s
        is_last = chain_s + CLAIM_LEAD_S >= terms.expires_s or not carried.notice.path_tags
        if is_old or is_last or session.acknowledged() - claimed >= self._settings.claim_octets:
            session.filed_at = now
            self._claims.append(ClaimFiling(Claim(terms, ticket), carried.notice.plan, receipt))

    def claim_all(self) -> None:
        """File all that was not filed yet, now."""
        for session in self._sessions.values():
            ticket, receipt, carried = session.carried.ticket, session.carried.receipt, session.carried
            if session.unclaimed_at is not None and ticket is not None and receipt is not None:
                self._claims.append(ClaimFiling(Claim(carried.notice.terms, ticket), carried.notice.plan, receipt))

    def claim_filed(self, filing: ClaimFiling) -> None:
        """Say that a claim is in the store."""
        session = self._sessions.get(filing.session)
        ticket = filing.claim.ticket
        if session is None or ticket.amount_microtoken <= session.carried.claimed_microtoken:
            return
        session.carried.claimed_microtoken = ticket.amount_microtoken
        self._entries.append(claimed_entry(session.id, ticket.amount_microtoken))
        self._events.append(ClaimFiled(session.id, ticket.octets, ticket.amount_microtoken))
        session.unclaimed_at = None if session.amount <= ticket.amount_microtoken else max(session.filed_at, session.unclaimed_at or 0.0)

    # --- calls out --------------------------------------------------------------------------------------------------

    def take_entries(self) -> list[bytes]:
        """Return what must be in the journal before anything else of this call leaves the node."""
        entries, self._entries = self._entries, []
        return entries

    def take_lookups(self, now: float) -> list[bytes]:
        """Return sessions about which the settlement engine is to be asked; answer each with `session_state`."""
        due = [session for session in self._sessions.values() if not session.is_open and session.lookup_at <= now]
        for session in due:
            session.lookup_at = now + LOOKUP_S_MAX
        return [session.id for session in due]

    def notice_of(self, session_id: bytes) -> SessionNotice | None:
        """Return what a consumer last said of a session; None if it is not known here."""
        session = self._sessions.get(session_id)
        return None if session is None else session.carried.notice

    def limits(self) -> Mapping[NodeId, Limit]:
        """Return which packets are carried at the free rate now, by neighbour; of others none."""
        return self._limits

    def next_claim(self) -> ClaimFiling | None:
        """Return the next claim to file; answer with `claim_filed` when it is in the store."""
        return self._claims.popleft() if self._claims else None

    def next_event(self) -> AccountingEvent | None:
        """Return the oldest event not yet returned, or None."""
        return self._events.popleft() if self._events else None

    def counts(self) -> list[SessionCount]:
        """Return what was relayed under each open session, by rising id."""
        return [
            SessionCount(session.id, SessionRole.RELAYED, session.carried.packets, session.carried.octets)
            for session in sorted(self._sessions.values(), key=lambda session: session.id)
            if session.is_open and session.carried.packets
        ]

    def owed_microtoken(self) -> int:
        """Return what the last tickets of all sessions come to, over all payees of each, microtokens."""
        return sum(session.amount for session in self._sessions.values())

    # --- inner workings ---------------------------------------------------------------------------------------------

    def _stranger(self, node: NodeId) -> _Stranger:
        return self._strangers.setdefault(node, _Stranger())

    def _relieve(self, node: NodeId, octets: int) -> None:
        """What a neighbour brought is a consumer's debt now."""
        stranger = self._strangers.get(node)
        if stranger is not None:
            stranger.owed_octets = max(0.0, stranger.owed_octets - octets)

    def _cover(self, session: _Session, path_tags: tuple[int, ...]) -> None:
        """Let a session cover these tags and no others; what came on them before is its debt as well.

        Cost: of its own tags, at every look for each session that is over; never of all that are covered.
        """
        for tag in session.tags.difference(path_tags):
            del self._by_key[session.before, tag]
            session.tags.discard(tag)
        for tag in path_tags:
            key = (session.before, tag)
            owner = self._by_key.get(key)
            if owner is session or (owner is not None and owner.consumer != session.consumer):
                continue  # another consumer's, who was first
            if owner is not None:
                owner.tags.discard(tag)
            self._by_key[key] = session
            session.tags.add(tag)
            packets, octets, billable = self._uncovered.pop(key, (0, 0, 0))
            if session.is_open:
                self._relieve(session.before, billable)
            carried = session.carried
            relays = len(carried.notice.plan.relays)
            billable = max(0, billable - packets * (packet_overhead_octets(relays) - packet_overhead_octets(1)))
            carried.take_counts(carried.packets + packets, carried.octets + octets, carried.billable_octets + billable)

    def _forget(self, session: _Session) -> None:
        self._cover(session, ())
        del self._sessions[session.id]
        if session.is_open:
            self._entries.append(over_entry(session.id))
