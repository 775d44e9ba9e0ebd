"""What a relay writes down: sessions it carries, the last ticket of each, what it counted, and what it has claimed. Entries of the journal.

Layouts, canonical msgpack, first item the kind: ["session", notice]; ["ticket", ticket, receipt]; ["count", session, packets, octets,
billable octets]; ["claimed", session, amount of 16 B]; ["over", session].

Invariant: replaying entries twice gives what replaying them once gives; tickets, counts and claims only rise.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from srwan.errors import DecodeError
from srwan.ledger_client.accounting.journal_entry import read_entry
from srwan.ledger_client.accounting.messages import SessionNotice
from srwan.ledger_client.accounting.plan import are_integers
from srwan.ledger_client.accounting.receipt import Receipt
from srwan.ledger_client.settlement.ticket import PathTicket
from srwan.wire import pack

__all__ = ["CarriedSession", "carried_of", "claimed_entry", "count_entry", "over_entry", "paid_entry", "session_entry"]


def session_entry(notice: SessionNotice) -> bytes:
    """Return the entry of a session that the settlement engine has, and of what it covers."""
    return pack(["session", notice.encode()])


def paid_entry(ticket: PathTicket, receipt: Receipt) -> bytes:
    """Return the entry of a ticket that is about to be acknowledged."""
    return pack(["ticket", ticket.encode(), receipt.encode()])


def count_entry(session: bytes, packets: int, octets: int, billable_octets: int) -> bytes:
    """Return the entry of what was carried under a session."""
    return pack(["count", session, packets, octets, billable_octets])


def claimed_entry(session: bytes, amount_microtoken: int) -> bytes:
    """Return the entry of a claim that was filed."""
    return pack(["claimed", session, amount_microtoken.to_bytes(16, "big")])


def over_entry(session: bytes) -> bytes:
    """Return the entry of a session under which nothing can come any more."""
    return pack(["over", session])


@attrs.define(slots=True)
class CarriedSession:
    """What is known of a session."""

    notice: SessionNotice
    ticket: PathTicket | None = None
    receipt: Receipt | None = None
    packets: int = 0
    octets: int = 0
    billable_octets: int = 0
    """Of bodies, less keep-alives."""
    claimed_microtoken: int = 0
    """In the last claim that was filed."""

    @property
    def counts(self) -> tuple[int, int, int]:
        """Packets, octets of datagrams, and octets that are billable."""
        return self.packets, self.octets, self.billable_octets

    def entries(self) -> list[bytes]:
        """Return the entries that say the same."""
        session = self.notice.terms.session_id
        entries = [session_entry(self.notice)]
        if self.ticket is not None and self.receipt is not None:
            entries.append(paid_entry(self.ticket, self.receipt))
        if self.packets:
            entries.append(count_entry(session, *self.counts))
        if self.claimed_microtoken:
            entries.append(claimed_entry(session, self.claimed_microtoken))
        return entries

    def take_counts(self, packets: int, octets: int, billable_octets: int) -> None:
        """Take counts, if they are greater than those held."""
        self.packets, self.octets = max(self.packets, packets), max(self.octets, octets)
        self.billable_octets = max(self.billable_octets, billable_octets)

    def take_ticket(self, ticket: PathTicket, receipt: Receipt) -> None:
        """Take a ticket, if it is worth more than the one held."""
        held = self.ticket
        if held is None or (ticket.amount_microtoken, ticket.octets) > (held.amount_microtoken, held.octets):
            self.ticket, self.receipt = ticket, receipt


def carried_of(entries: Iterable[bytes]) -> list[CarriedSession]:
    """Return the sessions that are not over, oldest first.

    Raises:
        DecodeError: an entry is none of these.
    """
    carried: dict[bytes, CarriedSession] = {}
    for entry in entries:
        match read_entry(entry):
            case ["session", bytes(notice)]:
                _take_notice(carried, SessionNotice.decode(notice))
            case ["ticket", bytes(ticket), bytes(receipt)]:
                paid = PathTicket.decode(ticket)
                if paid.session in carried:
                    carried[paid.session].take_ticket(paid, Receipt.decode(receipt))
            case ["count", bytes(session), packets, octets, billable] if are_integers([packets, octets, billable]):
                if session in carried:
                    carried[session].take_counts(packets, octets, billable)
            case ["claimed", bytes(session), bytes(amount)] if len(amount) == 16:
                if session in carried:
                    carried[session].claimed_microtoken = max(carried[session].claimed_microtoken, int.from_bytes(amount, "big"))
            case ["over", bytes(session)]:
                carried.pop(session, None)
            case _:
                raise DecodeError("an entry of the relay's journal that is none")
    return list(carried.values())


def _take_notice(carried: dict[bytes, CarriedSession], notice: SessionNotice) -> None:
    held = carried.setdefault(notice.terms.session_id, CarriedSession(notice))
    if notice.sequence > held.notice.sequence:
        held.notice = notice
