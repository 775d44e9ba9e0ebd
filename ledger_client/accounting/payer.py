"""The consumer's side: opens sessions, says what they cover, checks receipts and signs tickets. A core: no clock, no sending.

Theory of operation. A *line* is one list of relays to one egress. What flows over it is paid under one session at a time; before that has
used up three quarters of its cap or of its time the next one is opened, and the line's path tags move over. Traffic never waits: relays
give credit while a session opens.

A receipt of the egress is countersigned if it fits: signed by the plan's egress, not less than one before, and, over all sessions of the
line, not more than was sent. Then a ticket over what is due goes to all relays. So this node owes for what both it and the egress say was
delivered; loss costs it nothing.

What must survive is handed out by `take_entries` and has to be in the journal before anything else that a call brought about leaves:
sessions before they are opened on the settlement engine, tickets before they are sent. After a restart no ticket is ever signed below one
that was, and no reserve is forgotten. What was sent since the last entry is not known then; the egress is believed for RESTART_SLACK_OCTETS
more, once.

Calls in: `use_path`, `release_path`, `traffic`, `set_escrow`, `receive_receipt`, `answered`, `opened`, `open_refused`, `closed`,
`handle_timer`. Out, to be drained after each of them: `take_entries`, then `next_command`, `next_event`, and the outbox.

Invariants: no ticket exceeds cap, or price times octets, or goes down; what is signed for a line never exceeds what was sent on it; times
of sessions are chain time, times of timers monotonic.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from typing import TypeAlias

import attrs

from srwan.errors import BadSignature, DecodeError, RemoteProtocolError
from srwan.identity import Identity
from srwan.ledger_client.accounting.counters import SessionCount, SessionRole
from srwan.ledger_client.accounting.events import (
    AccountingEvent,
    EscrowShort,
    ReceiptDoubted,
    SessionClosed,
    SessionOpened,
    SessionRefused,
    TicketSigned,
)
from srwan.ledger_client.accounting.messages import PATH_TAGS_MAX, SESSION_PROTOCOL, TICKET_PROTOCOL, Answer, SessionNotice, TicketNotice
from srwan.ledger_client.accounting.meter import Count, Meter, TagKey
from srwan.ledger_client.accounting.outbox import Message, Outbox
from srwan.ledger_client.accounting.payer_journal import Kept, closed_entry, kept_of, opened_entry, sent_entry, ticket_entry
from srwan.ledger_client.accounting.plan import NONCE_BYTES, PathPlan, amount_due
from srwan.ledger_client.accounting.receipt import Receipt
from srwan.ledger_client.settlement.signing import Address, SettlementDomain, WalletKey
from srwan.ledger_client.settlement.terms import GB_OCTETS, UINT64_MAX, UINT128_MAX, PathTerms, price_of
from srwan.ledger_client.settlement.ticket import PathTicket, sign_ticket
from srwan.types import NodeId

__all__ = ["CloseSession", "OpenSession", "PathQuote", "Payer", "PayerSettings"]

LINES_MAX = 512
"""Lists of relays and egresses paid for at once; what goes over more is not paid, and throttled by those who charge."""
SESSIONS_MAX = 2048
"""Sessions remembered, most of them waiting for their reserve to come back."""
CAP_OCTETS_MIN = 1 << 24
"""A session that could not pay for 16 MiB is not worth opening: twice the usual credit."""
RETRY_S = 30.0
"""After the escrow was short, or the settlement engine refused, s."""
CLOSE_DOUBLINGS_MAX = 7
"""Pauses between two tries to close a session double so often, to an hour: the time for claims may be days."""
RENEWAL_S_MIN = 60
"""A session is not replaced by one that ends less than so much later, s."""
LINGER_S = 10.0
"""A path tag is covered so long after its path was given up, s: packets may be under way, and it may come back."""
RESTART_SLACK_OCTETS = 64_000_000
"""What may have been sent after the last entry of the journal: half a second at 1 Gbit/s."""
SENT_STEP_OCTETS = 1_000_000
"""How much is sent under a session between two entries of the journal."""
BODY_OCTETS_MAX = 1280
"""Body of one packet (`srwan.routing.payload.TUNNEL_BYTES_MAX`)."""
EVENTS_MAX = 1024


@attrs.frozen(slots=True)
class PathQuote:
    """What a path costs now and whom to pay."""

    relays: tuple[NodeId, ...]
    """In visiting order."""
    egress: NodeId
    payees: tuple[Address, ...]
    """Wallet of each relay."""
    prices_microtoken: tuple[int, ...]
    """Of each relay, for one GB."""
    offers: tuple[bytes, ...]
    """Digest of the offer of each relay, 32 B."""
    predicted_us: int
    """Raw one-way latency, us."""
    direct_us: int
    """Of the direct path."""
    saved_full_us: int = 0
    """As in `PathPlan`."""
    lifetime_s_max: int = UINT64_MAX
    """How long these prices stand, s."""


@attrs.frozen(slots=True)
class PayerSettings:
    """How much money is put where."""

    session_octets: int = GB_OCTETS
    """A session's cap is the price of so many octets, or what the escrow has."""
    lifetime_s: int = 3600
    """Of a session, s of chain time."""
    cap_microtoken_max: int = UINT128_MAX
    """Greatest cap of one session, whatever it costs."""


@attrs.frozen(slots=True)
class OpenSession:
    """Have the settlement engine reserve the cap; then call `opened` or `open_refused`. May come again after a restart."""

    terms: PathTerms


@attrs.frozen(slots=True)
class CloseSession:
    """Try to get back what is left of a reserve; then call `closed`, or nothing if it is too early."""

    terms: PathTerms


PayerCommand: TypeAlias = OpenSession | CloseSession
_LineKey: TypeAlias = tuple[tuple[NodeId, ...], NodeId]


@attrs.define(slots=True)
class _Session:
    id: bytes
    terms: PathTerms
    plan: PathPlan
    is_open: bool = False
    ticket: PathTicket | None = None
    receipt: Receipt | None = None
    sent_packets: int = 0
    sent_octets: int = 0
    journaled_octets: int = 0
    close_at: float = 0.0
    """Not before, to try to close it."""
    close_tries: int = 0

    @property
    def amount(self) -> int:
        return 0 if self.ticket is None else self.ticket.amount_microtoken

    @property
    def received(self) -> int:
        return 0 if self.receipt is None else self.receipt.octets


@attrs.define(slots=True)
class _Line:
    key: _LineKey
    quote: PathQuote | None = None
    tags: dict[int, None] = attrs.field(factory=dict)
    released: dict[int, float] = attrs.field(factory=dict)
    current: bytes | None = None
    next: bytes | None = None
    retry_at: float = 0.0
    sent_octets: int = 0
    slack_octets: int = 0


class Payer:
    """See the module's header.

    Args:
        identity: of this node; countersigns receipts.
        wallet: signs tickets.
        domain: of the settlement engine.
        outbox: gets the messages.
        rng: nonces; seeded by the system's randomness, for two plans must differ.
        settings: how much money is put where.
    """

    def __init__(
        self,
        identity: Identity,
        wallet: WalletKey,
        domain: SettlementDomain,
        outbox: Outbox,
        rng: random.Random,
        settings: PayerSettings | None = None,
    ) -> None:
        self._identity = identity
        self._wallet = wallet
        self._domain = domain
        self._outbox = outbox
        self._rng = rng
        self._settings = settings or PayerSettings()
        self.drops: Counter[str] = Counter()
        """Receipts refused, by reason."""
        self._sessions: dict[bytes, _Session] = {}
        self._lines: dict[_LineKey, _Line] = {}
        self._line_of_tag: dict[TagKey, _Line] = {}
        self._meter = Meter()
        self._escrow = 0
        self._sequence = 0
        self._doubted: set[bytes] = set()
        self._events: deque[AccountingEvent] = deque(maxlen=EVENTS_MAX)
        self._commands: deque[PayerCommand] = deque()
        self._entries: list[bytes] = []

    # --- life -------------------------------------------------------------------------------------------------------

    def restore(self, entries: Iterable[bytes], now: float) -> None:
        """Take what the journal holds. Call once, before anything else.

        Raises:
            DecodeError: an entry is not one of this payer's.
        """
        for kept in kept_of(entries):
            session = _Session(kept.terms.session_id, kept.terms, kept.plan, False, kept.ticket, kept.receipt)
            session.sent_packets, session.sent_octets = kept.sent_packets, max(kept.sent_octets, session.received)
            session.journaled_octets = session.sent_octets
            self._sessions[session.id] = session
            line = self._line(_key_of(session.plan))
            line.current = session.id
            line.sent_octets += session.sent_octets
            line.slack_octets = RESTART_SLACK_OCTETS
            self._commands.append(OpenSession(session.terms))  # whether that was done is not known; doing it again changes nothing
            self._send_ticket(session, now)

    def snapshot(self) -> list[bytes]:
        """Return the entries that say all that has to be kept, for compacting the journal."""
        return [
            entry
            for session in self._sessions.values()
            for entry in Kept(
                session.terms, session.plan, session.ticket, session.receipt, session.sent_packets, session.sent_octets
            ).entries()
        ]

    # --- calls in ---------------------------------------------------------------------------------------------------

    def use_path(self, quote: PathQuote, path_tag: int, now: float, chain_s: int) -> bytes | None:
        """Have the traffic on a path tag paid, if it costs anything. Again and again for one tag is fine.

        Returns:
            The session that covers it; None if it costs nothing, or there is none yet.
        """
        if not any(quote.prices_microtoken):
            return None
        key = (quote.relays, quote.egress)
        line = self._lines.get(key)
        if line is None:
            if len(self._lines) >= LINES_MAX:
                return None
            line = self._line(key)
        line.quote = quote
        line.released.pop(path_tag, None)
        if path_tag not in line.tags and len(line.tags) < PATH_TAGS_MAX:
            line.tags[path_tag] = None
            self._line_of_tag[quote.egress, path_tag] = line
            if line.current is not None:
                self._announce(line, now)
        if line.current is None and now >= line.retry_at:
            line.current = self._begin(line, quote, now, chain_s)
            self._announce(line, now)
        return line.current

    def release_path(self, egress: NodeId, path_tag: int, now: float) -> None:
        """Say that a path tag is not used any more; it stays covered for LINGER_S. Unknown ones are fine."""
        line = self._line_of_tag.get((egress, path_tag))
        if line is not None:
            line.released.setdefault(path_tag, now + LINGER_S)

    @property
    def tags(self) -> list[TagKey]:
        """Egress and path tag of all traffic that is paid."""
        return list(self._line_of_tag)

    def traffic(self, sent: Mapping[TagKey, Count]) -> None:
        """Take a reading of what this node sent, by egress and path tag; octets of bodies. Call before each receipt is given in."""
        for key, line in self._line_of_tag.items():
            count = sent.get(key)
            if count is None:
                continue
            packets, octets = self._meter.advance(key, count)
            line.sent_octets += octets
            session = None if line.current is None else self._sessions.get(line.current)
            if session is None or not octets:
                continue
            session.sent_packets += packets
            session.sent_octets += octets
            if session.sent_octets - session.journaled_octets >= SENT_STEP_OCTETS:
                session.journaled_octets = session.sent_octets
                self._entries.append(sent_entry(session.id, session.sent_packets, session.sent_octets))
        self._meter.keep(sent)

    def set_escrow(self, free_microtoken: int) -> None:
        """Say how much of the escrow is not reserved, as the settlement engine has it."""
        pending = sum(session.terms.cap_microtoken for session in self._sessions.values() if not session.is_open)
        self._escrow = max(0, free_microtoken - pending)

    def opened(self, session_id: bytes, now: float) -> None:
        """Say that the settlement engine has reserved a session's cap. Again changes nothing."""
        session = self._sessions.get(session_id)
        if session is None or session.is_open:
            return
        session.is_open = True
        line = self._line(_key_of(session.plan))
        terms = session.terms
        self._events.append(SessionOpened(session_id, *line.key, terms.price_microtoken, terms.cap_microtoken))
        if line.next == session_id:
            old, line.current, line.next = line.current, session_id, None
            if old is not None and old in self._sessions:
                self._tell(self._sessions[old], (), now)
            self._announce(line, now)

    def open_refused(self, session_id: bytes, reason: str, now: float) -> None:
        """Say that the settlement engine will not reserve a session's cap: too little escrow, or past its time."""
        session = self._sessions.get(session_id)
        if session is None or session.is_open:
            return
        self._events.append(SessionRefused(session_id, None, f"settlement: {reason}"))
        line = self._line(_key_of(session.plan))
        line.retry_at = now + RETRY_S
        self._forget(session, now)

    def closed(self, session_id: bytes, now: float) -> None:
        """Say that a session is closed on the settlement engine, by whomever. Unknown ones are fine."""
        session = self._sessions.get(session_id)
        if session is not None:
            self._events.append(SessionClosed(session_id, session.amount))
            self._forget(session, now)

    def receive_receipt(self, caller: NodeId, data: bytes, now: float) -> Answer:
        """Take a receipt; the answer holds the countersignature, or what this node holds if it holds more ("stale").

        Raises:
            RemoteProtocolError: malformed, badly signed, or not the caller's. Nothing changed.
        """
        try:
            return self._take_receipt(caller, Receipt.decode(data), now)
        except RemoteProtocolError as error:
            self.drops[error.reason] += 1
            raise

    def answered(self, message: Message, answer: Answer, now: float) -> None:
        """Take the answer to a message of the outbox; ones of others are fine."""
        match message.key:
            case ("session", bytes(session_id), _) if not answer.is_ok and answer.word != "pending":
                self._events.append(SessionRefused(session_id, message.peer, answer.word))
            case ("ticket", bytes(session_id), _) if answer.word == "session" and session_id in self._sessions:
                session = self._sessions[session_id]  # the relay lost it: say it again, then pay again
                line = self._line(_key_of(session.plan))
                self._tell(session, tuple(sorted(line.tags)) if line.current == session_id else (), now)
                self._send_ticket(session, now)
            case _:
                pass

    def handle_timer(self, now: float, chain_s: int) -> None:
        """Renew what runs out, let go of what is not used, get back what is left. Call every second or so."""
        for line in list(self._lines.values()):
            for path_tag in [path_tag for path_tag, at in line.released.items() if at <= now]:
                self._uncover(line, path_tag, now)
            if line.tags:
                self._renew(line, now, chain_s)
            elif not any(_key_of(session.plan) == line.key for session in self._sessions.values()):
                del self._lines[line.key]
        for session in self._sessions.values():
            if chain_s > session.terms.expires_s and now >= session.close_at:
                session.close_at = now + RETRY_S * 2.0 ** min(session.close_tries, CLOSE_DOUBLINGS_MAX)
                session.close_tries += 1
                self._commands.append(CloseSession(session.terms))

    # --- calls out --------------------------------------------------------------------------------------------------

    def take_entries(self) -> list[bytes]:
        """Return what must be in the journal before anything else of this call leaves the node."""
        entries, self._entries = self._entries, []
        return entries

    def next_command(self) -> PayerCommand | None:
        """Return what is to be done on the settlement engine next, or None."""
        return self._commands.popleft() if self._commands else None

    def next_event(self) -> AccountingEvent | None:
        """Return the oldest event not yet returned, or None."""
        return self._events.popleft() if self._events else None

    def counts(self) -> list[SessionCount]:
        """Return what was sent under each session, by rising id."""
        return [
            SessionCount(session.id, SessionRole.SENT, session.sent_packets, session.sent_octets)
            for session in sorted(self._sessions.values(), key=lambda session: session.id)
            if session.sent_octets
        ]

    def tickets(self) -> list[tuple[PathTerms, PathPlan, PathTicket | None]]:
        """Return terms, plan and last ticket of every session that is remembered, oldest first."""
        return [(session.terms, session.plan, session.ticket) for session in self._sessions.values()]

    # --- sessions ---------------------------------------------------------------------------------------------------

    def _line(self, key: _LineKey) -> _Line:
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = _Line(key)
        return line

    def _begin(self, line: _Line, quote: PathQuote, now: float, chain_s: int) -> bytes | None:
        """Make terms for a line and have them opened; None if there is not the money."""
        price = sum(quote.prices_microtoken)
        cap = min(max(1, price_of(self._settings.session_octets, price)), self._settings.cap_microtoken_max, self._escrow)
        needed = max(1, price_of(CAP_OCTETS_MIN, price))
        if cap < min(needed, self._settings.cap_microtoken_max) or len(self._sessions) >= SESSIONS_MAX:
            line.retry_at = now + RETRY_S
            self._events.append(EscrowShort(*line.key, needed, self._escrow))
            return None
        nonce = self._rng.randbytes(NONCE_BYTES)
        latencies = (quote.predicted_us, quote.direct_us, quote.saved_full_us)
        plan = PathPlan(self._identity.node_id, quote.relays, quote.egress, quote.offers, *latencies, nonce)
        expires_s = min(UINT64_MAX, chain_s + self._lifetime_s(quote))
        terms = PathTerms(self._wallet.address, quote.payees, quote.prices_microtoken, cap, expires_s, plan.digest)
        session = _Session(terms.session_id, terms, plan)
        self._sessions[session.id] = session
        self._escrow -= cap
        self._entries.append(opened_entry(terms, plan))
        self._commands.append(OpenSession(terms))
        return session.id

    def _renew(self, line: _Line, now: float, chain_s: int) -> None:
        """Begin the next session of a line if the current one will not do much longer."""
        current = None if line.current is None else self._sessions.get(line.current)
        if line.next is not None or line.quote is None or now < line.retry_at:
            return
        if current is None:
            line.current = self._begin(line, line.quote, now, chain_s)
            self._announce(line, now)
            return
        terms = current.terms
        used = max(current.amount, price_of(current.sent_octets, terms.price_microtoken) if not current.plan.saved_full_us else 0)
        is_spent = used * 4 >= terms.cap_microtoken * 3
        lifetime_s = self._lifetime_s(line.quote)
        is_old = (terms.expires_s - chain_s) * 4 <= lifetime_s and chain_s + lifetime_s >= terms.expires_s + RENEWAL_S_MIN
        if is_spent or is_old:
            line.next = self._begin(line, line.quote, now, chain_s)

    def _lifetime_s(self, quote: PathQuote) -> int:
        return min(self._settings.lifetime_s, quote.lifetime_s_max)

    def _announce(self, line: _Line, now: float) -> None:
        """Tell relays and egress what a line's session covers now."""
        session = None if line.current is None else self._sessions.get(line.current)
        if session is not None:
            self._tell(session, tuple(sorted(line.tags)), now)

    def _tell(self, session: _Session, tags: tuple[int, ...], now: float) -> None:
        self._sequence += 1
        body = SessionNotice(session.terms, session.plan, self._sequence, tags).encode()
        for node in (*session.plan.relays, session.plan.egress):
            self._outbox.put(("session", session.id, node), node, SESSION_PROTOCOL, body, now)

    def start_sequence(self, wall_ns: int) -> None:
        """Let notices of this run count as newer than those of runs before; call once, with the wall time."""
        self._sequence = max(self._sequence, wall_ns)

    def _uncover(self, line: _Line, path_tag: int, now: float) -> None:
        line.released.pop(path_tag, None)
        line.tags.pop(path_tag, None)
        self._line_of_tag.pop((line.key[1], path_tag), None)
        self._announce(line, now)

    def _forget(self, session: _Session, now: float) -> None:
        del self._sessions[session.id]
        self._doubted.discard(session.id)
        self._entries.append(closed_entry(session.id))
        self._tell(session, (), now)
        for node in session.plan.relays:
            self._outbox.drop(("ticket", session.id, node))
        line = self._line(_key_of(session.plan))
        line.sent_octets -= min(line.sent_octets, session.received)
        line.current = None if line.current == session.id else line.current
        line.next = None if line.next == session.id else line.next

    # --- receipts and tickets ---------------------------------------------------------------------------------------

    def _take_receipt(self, caller: NodeId, receipt: Receipt, now: float) -> Answer:
        session = self._sessions.get(receipt.session)
        if session is None:
            return Answer("session")
        plan, held = session.plan, session.receipt
        if (caller, receipt.egress, receipt.consumer) != (plan.egress, plan.egress, plan.consumer):
            raise BadSignature("a receipt that is not of the session's egress", reason="receipt-stranger")
        if held is not None and held.body == receipt.body:
            return Answer("ok", held.countersignature)
        receipt.verify(is_accepted=False)
        if receipt.predicted_us != plan.predicted_us or receipt.octets > receipt.packets * BODY_OCTETS_MAX:
            raise DecodeError("a receipt that contradicts the plan or itself", reason="receipt-shape")
        if held is not None and receipt.octets <= held.octets:
            return Answer("stale", held.encode())
        if not self._is_plausible(session, receipt):
            return Answer("excess")
        session.receipt = receipt.countersign(self._identity)
        self._sign(session, session.receipt, now)
        return Answer("ok", session.receipt.countersignature)

    def _is_plausible(self, session: _Session, receipt: Receipt) -> bool:
        """Whether, over all sessions of a line, no more was received than was sent."""
        line = self._line(_key_of(session.plan))
        received = sum(other.received for other in self._sessions.values() if _key_of(other.plan) == line.key)
        total = received - session.received + receipt.octets
        if total > line.sent_octets + line.slack_octets:
            self.drops["receipt-excess"] += 1
            if session.id not in self._doubted:
                self._doubted.add(session.id)
                self._events.append(ReceiptDoubted(session.id, receipt.egress, receipt.octets, line.sent_octets))
            return False
        missing = max(0, total - line.sent_octets)
        line.sent_octets += missing
        line.slack_octets -= missing
        return True

    def _sign(self, session: _Session, receipt: Receipt, now: float) -> None:
        """Sign what is due, keep it, and send it to all relays."""
        due = max(session.amount, amount_due(session.terms, session.plan, receipt.octets, receipt.saved_us))
        session.ticket = sign_ticket(self._wallet, self._domain, session.terms, receipt.octets, due)
        self._entries.append(ticket_entry(session.ticket, receipt, session.sent_packets, session.sent_octets))
        session.journaled_octets = session.sent_octets
        self._events.append(TicketSigned(session.id, receipt.octets, due))
        self._send_ticket(session, now)

    def _send_ticket(self, session: _Session, now: float) -> None:
        if session.ticket is None or session.receipt is None:
            return
        body = TicketNotice(session.ticket, session.receipt).encode()
        for relay in session.plan.relays:
            self._outbox.put(("ticket", session.id, relay), relay, TICKET_PROTOCOL, body, now)


def _key_of(plan: PathPlan) -> _LineKey:
    return plan.relays, plan.egress
