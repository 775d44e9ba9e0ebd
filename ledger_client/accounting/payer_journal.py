"""What a consumer writes down: sessions before they are opened, tickets before they are sent, how much was sent. Entries of the journal.

Layouts, canonical msgpack, first item the kind: ["open", terms, plan]; ["ticket", ticket, receipt, packets, octets] with what was sent
under the session by then; ["sent", session, packets, octets]; ["closed", session].

Invariant: replaying entries twice gives what replaying them once gives; tickets and counts only rise.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from srwan.errors import DecodeError
from srwan.ledger_client.accounting.journal_entry import read_entry
from srwan.ledger_client.accounting.plan import PathPlan, are_integers
from srwan.ledger_client.accounting.receipt import Receipt
from srwan.ledger_client.settlement.terms import PathTerms
from srwan.ledger_client.settlement.ticket import PathTicket
from srwan.ledger_client.validation.claim import terms_of_abi
from srwan.wire import pack

__all__ = ["Kept", "closed_entry", "kept_of", "opened_entry", "sent_entry", "ticket_entry"]


def opened_entry(terms: PathTerms, plan: PathPlan) -> bytes:
    """Return the entry of a session that is about to be opened."""
    return pack(["open", terms.abi(), plan.encode()])


def ticket_entry(ticket: PathTicket, receipt: Receipt, packets: int, octets: int) -> bytes:
    """Return the entry of a ticket that is about to be sent."""
    return pack(["ticket", ticket.encode(), receipt.encode(), packets, octets])


def sent_entry(session: bytes, packets: int, octets: int) -> bytes:
    """Return the entry of what was sent under a session."""
    return pack(["sent", session, packets, octets])


def closed_entry(session: bytes) -> bytes:
    """Return the entry of a session that is over: its reserve is back, or was never taken."""
    return pack(["closed", session])


@attrs.define(slots=True)
class Kept:
    """What is known of a session."""

    terms: PathTerms
    plan: PathPlan
    ticket: PathTicket | None = None
    receipt: Receipt | None = None
    sent_packets: int = 0
    """Since the session began."""
    sent_octets: int = 0
    """Of bodies, in these packets."""

    def entries(self) -> list[bytes]:
        """Return the entries that say the same."""
        entries = [opened_entry(self.terms, self.plan)]
        if self.ticket is not None and self.receipt is not None:
            entries.append(ticket_entry(self.ticket, self.receipt, self.sent_packets, self.sent_octets))
        elif self.sent_octets:
            entries.append(sent_entry(self.terms.session_id, self.sent_packets, self.sent_octets))
        return entries


def kept_of(entries: Iterable[bytes]) -> list[Kept]:
    """Return the sessions that are not over, oldest first.

    Raises:
        DecodeError: an entry is none of these.
    """
    kept: dict[bytes, Kept] = {}
    for entry in entries:
        match read_entry(entry):
            case ["open", bytes(terms), bytes(plan)]:
                session = Kept(terms_of_abi(terms), PathPlan.decode(plan))
                kept.setdefault(session.terms.session_id, session)
            case ["ticket", bytes(ticket), bytes(receipt), packets, octets] if are_integers([packets, octets]):
                _take_ticket(kept, PathTicket.decode(ticket), Receipt.decode(receipt), packets, octets)
            case ["sent", bytes(session_id), packets, octets] if are_integers([packets, octets]):
                _take_sent(kept.get(session_id), packets, octets)
            case ["closed", bytes(session_id)]:
                kept.pop(session_id, None)
            case _:
                raise DecodeError("an entry of the consumer's journal that is none")
    return list(kept.values())


def _take_ticket(kept: dict[bytes, Kept], ticket: PathTicket, receipt: Receipt, packets: int, octets: int) -> None:
    session = kept.get(ticket.session)
    if session is None:
        return
    if session.ticket is None or (ticket.octets, ticket.amount_microtoken) > (session.ticket.octets, session.ticket.amount_microtoken):
        session.ticket, session.receipt = ticket, receipt
    _take_sent(session, packets, octets)


def _take_sent(session: Kept | None, packets: int, octets: int) -> None:
    if session is not None:
        session.sent_packets, session.sent_octets = max(session.sent_packets, packets), max(session.sent_octets, octets)
