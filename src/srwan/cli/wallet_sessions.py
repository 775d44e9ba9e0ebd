"""What `srwan wallet` shows of the path sessions that a router pays for and carries: from its accounting journal, and from the engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs

from srwan.cli.wallet_desk import Desk, Shown, at, tokens
from srwan.errors import ConfigError, RemoteProtocolError, StoreUnavailable
from srwan.ledger_client.accounting.journal import read_records
from srwan.ledger_client.accounting.payer_journal import Kept, kept_of
from srwan.ledger_client.accounting.relay_journal import CarriedSession, carried_of
from srwan.ledger_client.settlement.settlement import SessionState
from srwan.ledger_client.settlement.terms import PathTerms, price_of
from srwan.ledger_client.settlement.ticket import PathTicket

__all__ = ["sessions", "tickets"]

PAYER, RELAY = b"p", b"r"
"""First byte of the records of the two sides (`srwan.ledger_client.accounting.service`)."""


@attrs.frozen
class Accounts:
    """What the journal holds."""

    paid: list[Kept]
    """Sessions that this router pays for."""
    carried: list[CarriedSession]
    """Sessions that it carries."""


def accounts_of(desk: Desk) -> Accounts:
    """Read the accounting journal, which a running router may have open.

    Raises:
        ConfigError: none is named. StoreUnavailable: it cannot be read, or is damaged.
    """
    path = desk.config.accounting_journal_path
    if path is None:
        raise ConfigError("state_dir", "no accounting journal is named", "give --state-dir FOLDER or --config FILE, those of the router")
    return read_accounts(path)


def read_accounts(path: Path) -> Accounts:
    """Read an accounting journal. Raises: StoreUnavailable: it cannot be read, or is damaged."""
    records = read_records(path)
    try:
        paid = kept_of(record[1:] for record in records if record[:1] == PAYER)
        carried = carried_of(record[1:] for record in records if record[:1] == RELAY)
    except RemoteProtocolError as error:
        raise StoreUnavailable(str(path), f"holds an entry that is none ({error})", "use the srwan that wrote it") from None
    return Accounts(paid, carried)


def _terms_facts(role: str, terms: PathTerms) -> dict[str, Any]:
    return {
        "session": terms.session_id.hex(),
        "role": role,
        "consumer": str(terms.consumer),
        "payees": [str(payee) for payee in terms.payees],
        "prices_microtoken": list(terms.prices_microtoken),
        "cap_microtoken": terms.cap_microtoken,
        "expires_s": terms.expires_s,
    }


def _state_facts(state: SessionState | None) -> dict[str, Any]:
    if state is None:
        return {"is_open": False, "reserve_microtoken": 0, "settled_microtoken": None}
    return {"is_open": True, "reserve_microtoken": state.reserve_microtoken, "settled_microtoken": state.settled_microtoken}


async def sessions(desk: Desk) -> Shown:
    """Show the sessions of the journal, and what the engine holds of each."""
    accounts = accounts_of(desk)
    facts: list[dict[str, Any]] = []
    lines: list[str] = []
    async with desk.open_settlement() as settlement:
        for role, terms in [
            *(("pays", kept.terms) for kept in accounts.paid),
            *(("carries", each.notice.terms) for each in accounts.carried),
        ]:
            state = await settlement.session(terms.session_id)
            facts.append(_terms_facts(role, terms) | _state_facts(state))
            lines += [f"{terms.session_id.hex()}  {role}", *_session_lines(terms, state)]
    return Shown({"sessions": facts}, lines or ["no sessions"])


def _session_lines(terms: PathTerms, state: SessionState | None) -> list[str]:
    relays = f"{len(terms.payees)} relay{'' if len(terms.payees) == 1 else 's'}"
    agreed = f"  {tokens(terms.price_microtoken)} a GB, {relays}, up to {tokens(terms.cap_microtoken)}, until {at(terms.expires_s)}"
    if state is None:
        return [agreed, "  not open on the engine: not yet, or closed"]
    return [agreed, f"  {tokens(state.settled_microtoken)} settled, {tokens(state.reserve_microtoken)} still reserved"]


async def tickets(desk: Desk) -> Shown:
    """Show the last ticket of each session: signed, as consumer, and held, as relay. Needs no engine."""
    accounts = accounts_of(desk)
    facts: list[dict[str, Any]] = []
    lines: list[str] = []
    for kept in accounts.paid:
        facts.append(_terms_facts("pays", kept.terms) | _ticket_facts(kept.ticket) | {"sent_octets": kept.sent_octets})
        lines.append(f"{kept.terms.session_id.hex()}  signed {_ticket_line(kept.ticket)}; {kept.sent_octets:,} octets were sent")
    for carried in accounts.carried:
        terms = carried.notice.terms
        owed = price_of(carried.billable_octets, terms.price_microtoken)
        facts.append(
            _terms_facts("carries", terms)
            | _ticket_facts(carried.ticket)
            | {"carried_octets": carried.octets, "claimed_microtoken": carried.claimed_microtoken, "carried_worth_microtoken": owed}
        )
        line = f"{terms.session_id.hex()}  holds {_ticket_line(carried.ticket)}; {carried.octets:,} octets were carried"
        lines.append(f"{line}, {tokens(carried.claimed_microtoken)} claimed")
    return Shown({"tickets": facts}, lines or ["no tickets"])


def _ticket_facts(ticket: PathTicket | None) -> dict[str, Any]:
    if ticket is None:
        return {"octets": 0, "amount_microtoken": 0, "signature": None}
    return {"octets": ticket.octets, "amount_microtoken": ticket.amount_microtoken, "signature": ticket.signature.hex()}


def _ticket_line(ticket: PathTicket | None) -> str:
    return "no ticket yet" if ticket is None else f"{tokens(ticket.amount_microtoken)} for {ticket.octets:,} octets"
