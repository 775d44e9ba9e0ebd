"""The egress's side: counts the octets it authenticated under each session and signs receipts. A core.

Theory of operation. A consumer says which path tags of its traffic to this egress a session covers; only its own traffic can be meant, for
the data plane counts by authenticated sender. Every reading moves the session's counts on. A receipt is made when RECEIPT_OCTETS came,
later on a 64th of all, or RECEIPT_S after the last one if anything did, and replaces one that was not delivered yet. The consumer's
answer is its countersignature; with it the receipt is kept, and handed out to be published.

A consumer that answers "stale" holds a receipt of ours that says more than we know: our journal was lost. Then we go on from that.

Latency: the mean of what the data plane measured of the session's packets, as planned until it has measured any; both are raw, so their
difference to the direct path's is exact.

Receipts are kept in the journal before they are sent, so a restart never makes them fall; what came after the last one is not counted.

Calls in: `receive_session`, `traffic`, `path_measured`, `answered`, `handle_timer`. Out: `take_entries`, `accepted`, the outbox.

Invariants: counts only rise; a packet is counted under one session; nothing is signed that was not authenticated here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

import attrs

from srwan.errors import BadSignature, DecodeError, RemoteProtocolError
from srwan.identity import Identity
from srwan.ledger_client.accounting.counters import SessionCount, SessionRole
from srwan.ledger_client.accounting.journal_entry import read_entry
from srwan.ledger_client.accounting.messages import RECEIPT_PROTOCOL, Answer, SessionNotice
from srwan.ledger_client.accounting.meter import Count, Meter, TagKey
from srwan.ledger_client.accounting.outbox import Message, Outbox
from srwan.ledger_client.accounting.receipt import Receipt
from srwan.types import NodeId
from srwan.wire import pack

__all__ = ["EgressAccount"]

RECEIPT_OCTETS = 1_000_000
RECEIPT_OCTETS_MAX = 16_000_000
"""A receipt covers a 64th of what came before, between these two: a quarter of the credit that a relay gives beyond the first 8 MB."""
RECEIPT_S = 2.0
SESSIONS_MAX = 2048
SESSIONS_PER_CONSUMER_MAX = 64
OVER_S = 600
"""A session is forgotten so long after it expired, s of chain time."""
EXPIRY_S_MAX = 32 * 86_400


@attrs.define(slots=True)
class _Session:
    notice: SessionNotice
    octets: int = 0
    packets: int = 0
    measured_packets: int = 0
    measured_us_sum: int = 0
    told: Receipt | None = None
    """The last one signed."""
    told_at: float = 0.0
    accepted: Receipt | None = None
    """The last one countersigned."""


class EgressAccount:
    """See the module's header.

    Args:
        identity: of this router; signs receipts.
        outbox: gets the receipts.
        boot: of this run.
        direct_us: returns the raw one-way latency of the direct path from a consumer to here, us, or None if it is not known.
    """

    def __init__(self, identity: Identity, outbox: Outbox, boot: int, direct_us: Callable[[NodeId], int | None]) -> None:
        self._identity = identity
        self._outbox = outbox
        self._boot = boot
        self._direct_us = direct_us
        self.drops: Counter[str] = Counter()
        """Notices refused, by reason."""
        self._sessions: dict[bytes, _Session] = {}
        self._by_key: dict[TagKey, bytes] = {}
        self._meter = Meter()
        self._sequence = 0
        self._news: dict[bytes, None] = {}
        self._entries: list[bytes] = []

    def restore(self, entries: Iterable[bytes], now: float) -> None:
        """Take what the journal holds. Call once, before anything else.

        Raises:
            DecodeError: an entry is not one of this egress's.
        """
        for entry in entries:
            match read_entry(entry):
                case ["covers", bytes(data)]:
                    notice = SessionNotice.decode(data)
                    session = self._sessions.setdefault(notice.terms.session_id, _Session(notice))
                    if notice.sequence > session.notice.sequence:
                        session.notice = notice
                case ["receipt", bytes(data)]:
                    self._recall(Receipt.decode(data))
                case ["done", bytes(session_id)]:
                    self._sessions.pop(session_id, None)
                case _:
                    raise DecodeError("an entry of the egress's journal that is none")
        for session_id, session in self._sessions.items():
            self._cover(session_id, session.notice)
            if session.told is not None and session.told is not session.accepted:
                self._send(session.told, now)

    def _recall(self, receipt: Receipt) -> None:
        session = self._sessions.get(receipt.session)
        if session is None or (session.told is not None and receipt.octets < session.told.octets):
            return
        session.told = receipt
        session.octets, session.packets = receipt.octets, receipt.packets
        session.measured_packets, session.measured_us_sum = receipt.packets, receipt.packets * receipt.measured_us
        if receipt.countersignature:
            session.accepted = receipt

    def snapshot(self) -> list[bytes]:
        """Return the entries that say all that has to be kept, for compacting the journal."""
        entries: list[bytes] = []
        for session in self._sessions.values():
            entries.append(pack(["covers", session.notice.encode()]))
            receipts = [receipt for receipt in (session.accepted, session.told) if receipt is not None]
            entries += [pack(["receipt", receipt.encode()]) for receipt in dict.fromkeys(receipts)]
        return entries

    def receive_session(self, caller: NodeId, data: bytes, chain_s: int) -> Answer:
        """Take a consumer's word on what a session covers.

        Raises:
            RemoteProtocolError: malformed, or not the caller's. Nothing changed.
        """
        try:
            notice = SessionNotice.decode_from(caller, data)
        except RemoteProtocolError as error:
            self.drops[error.reason] += 1
            raise
        session_id, expires_s = notice.terms.session_id, notice.terms.expires_s
        session = self._sessions.get(session_id)
        if session is None:
            of_consumer = sum(each.notice.plan.consumer == caller for each in self._sessions.values())
            problem = "plan" if notice.plan.egress != self._identity.node_id else ""
            problem = problem or ("" if chain_s < expires_s <= chain_s + EXPIRY_S_MAX else "expired")
            problem = problem or ("limit" if of_consumer >= SESSIONS_PER_CONSUMER_MAX or len(self._sessions) >= SESSIONS_MAX else "")
            if problem:
                self.drops[f"session-{problem}"] += 1
                return Answer(problem)
            if not notice.path_tags:
                return Answer("ok")
            self._sessions[session_id] = _Session(notice)
        elif notice.sequence <= session.notice.sequence:
            return Answer("ok")
        else:
            self._uncover(session_id, session.notice)
            session.notice = notice
        self._cover(session_id, notice)
        self._entries.append(pack(["covers", data]))
        return Answer("ok")

    def traffic(self, received: Mapping[TagKey, Count]) -> None:
        """Take a reading of what this node authenticated, by sender and path tag; octets of bodies."""
        for key, session_id in self._by_key.items():
            count = received.get(key)
            if count is None:
                continue
            packets, octets = self._meter.advance(key, count)
            session = self._sessions[session_id]
            session.packets += packets
            session.octets += octets
        self._meter.keep(received)

    def path_measured(self, consumer: NodeId, path_tag: int, packets: int, raw_us: int) -> None:
        """Say what latency a consumer's packets on a path tag had, on the mean."""
        session_id = self._by_key.get((consumer, path_tag))
        if session_id is not None:
            session = self._sessions[session_id]
            session.measured_packets += packets
            session.measured_us_sum += packets * raw_us

    def handle_timer(self, now: float, wall_ns: int, chain_s: int) -> None:
        """Sign the receipts that are due, forget sessions that are over. Call after each `traffic`."""
        for session_id, session in list(self._sessions.items()):
            told = 0 if session.told is None else session.told.octets
            new = session.octets - told
            if new >= min(RECEIPT_OCTETS_MAX, max(RECEIPT_OCTETS, told // 64)) or (new and now - session.told_at >= RECEIPT_S):
                self._sign(session_id, session, now, wall_ns)
            elif chain_s > session.notice.terms.expires_s + OVER_S:
                self._forget(session_id)

    def _sign(self, session_id: bytes, session: _Session, now: float, wall_ns: int) -> None:
        plan = session.notice.plan
        measured = session.measured_us_sum // session.measured_packets if session.measured_packets else plan.predicted_us
        direct = self._direct_us(plan.consumer)
        self._sequence += 1
        counts = (self._boot, self._sequence, session.octets, session.packets)
        latencies = (plan.predicted_us, measured, plan.direct_us if direct is None else direct)
        receipt = Receipt(session_id, plan.consumer, plan.egress, *counts, *latencies, wall_ns).sign(self._identity)
        session.told, session.told_at = receipt, now
        self._entries.append(pack(["receipt", receipt.encode()]))
        self._send(receipt, now)

    def _send(self, receipt: Receipt, now: float) -> None:
        self._outbox.put(("receipt", receipt.session), receipt.consumer, RECEIPT_PROTOCOL, receipt.encode(), now)

    def answered(self, message: Message, answer: Answer) -> None:
        """Take the consumer's answer to a receipt; answers to other messages are fine.

        Raises:
            RemoteProtocolError: a countersignature or a receipt in it that is not good. Nothing changed.
        """
        match message.key:
            case ("receipt", bytes(session_id)) if session_id in self._sessions:
                session = self._sessions[session_id]
            case _:
                return
        if answer.word == "stale":
            self._go_on_from(session, Receipt.decode(answer.data))
        elif answer.is_ok:
            receipt = attrs.evolve(Receipt.decode(message.body), countersignature=_countersignature(answer.data))
            receipt.verify(is_accepted=True)
            self._accept(session, receipt)
        else:
            self.drops[f"receipt-{answer.word}" if answer.word in ("session", "excess") else "receipt-refused"] += 1

    def _go_on_from(self, session: _Session, held: Receipt) -> None:
        """Take up a receipt of ours that the consumer holds and we lost."""
        held.verify(is_accepted=True)
        if held.session != session.notice.terms.session_id or held.egress != self._identity.node_id:
            raise BadSignature("a receipt of another session or egress", reason="receipt-stranger")
        if session.told is None or held.octets < session.octets:
            return
        since = (session.octets, session.packets)  # counted since the loss
        session.told = held
        session.octets, session.packets = held.octets + since[0], held.packets + since[1]
        self._accept(session, held)

    def _accept(self, session: _Session, receipt: Receipt) -> None:
        if session.accepted is None or receipt.octets > session.accepted.octets:
            session.accepted = receipt
            self._news[receipt.session] = None
            self._entries.append(pack(["receipt", receipt.encode()]))

    def take_accepted(self) -> list[tuple[Receipt, int]]:
        """Return the receipts countersigned since the last call, the newest of each session, with when it expires, s of chain time."""
        news = [(self._sessions[session_id], session_id) for session_id in self._news if session_id in self._sessions]
        self._news.clear()
        return [(session.accepted, session.notice.terms.expires_s) for session, _ in news if session.accepted is not None]

    def take_entries(self) -> list[bytes]:
        """Return what must be in the journal before anything else of this call leaves the node."""
        entries, self._entries = self._entries, []
        return entries

    def counts(self) -> list[SessionCount]:
        """Return what was received under each session, by rising id."""
        return [
            SessionCount(session_id, SessionRole.RECEIVED, session.packets, session.octets)
            for session_id, session in sorted(self._sessions.items())
            if session.packets
        ]

    def _cover(self, session_id: bytes, notice: SessionNotice) -> None:
        for tag in notice.path_tags:
            self._by_key[notice.plan.consumer, tag] = session_id

    def _uncover(self, session_id: bytes, notice: SessionNotice) -> None:
        """Let go of the tags of a session's last notice that are still its own. Cost: of these only, however many others there are."""
        for tag in notice.path_tags:
            if self._by_key.get((notice.plan.consumer, tag)) == session_id:
                del self._by_key[notice.plan.consumer, tag]

    def _forget(self, session_id: bytes) -> None:
        session = self._sessions.pop(session_id)
        self._uncover(session_id, session.notice)
        self._news.pop(session_id, None)
        self._outbox.drop(("receipt", session.notice.terms.session_id))
        self._entries.append(pack(["done", session_id]))


def _countersignature(data: bytes) -> bytes:
    if len(data) != 64:
        raise BadSignature("a countersignature has 64 bytes")
    return data
