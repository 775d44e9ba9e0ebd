"""What a relay files to be paid: terms and plan of a session, the consumer's last ticket, and the receipt on which the ticket stands.

Theory of operation. Filed as a CLAIM record: group MARKET_GROUP, subject the relay that files, topic the session id; a later filing
replaces an earlier one of the same relay. Every relay of a path may file the same session; tickets are cumulative and pay all payees, so it
is paid once. All in it was signed by others (the ticket by the consumer's wallet, the receipt by egress and consumer): whoever files
vouches only that it holds this.

Layout, canonical msgpack: ["path/1", terms in their ABI encoding, plan, ticket, receipt], each as bytes of its own encoding.

Not here: whether the claim is good (`checks.py`). Invariant: the parts of an instance belong together; signatures are not checked.
"""

from __future__ import annotations

from typing import Self

import attrs

from srwan.errors import DecodeError, LimitExceeded
from srwan.ledger_client.accounting.plan import PathPlan
from srwan.ledger_client.accounting.receipt import Receipt
from srwan.ledger_client.record import Kind, Version
from srwan.ledger_client.settlement.settlement import Claim
from srwan.ledger_client.settlement.signing import Address, SettlementDomain
from srwan.ledger_client.settlement.terms import PAYEES_MAX, PathTerms
from srwan.ledger_client.settlement.ticket import PathTicket
from srwan.ledger_client.statement import MARKET_GROUP, Statement
from srwan.types import NodeId
from srwan.wire import pack, unpack

__all__ = ["CLAIM_BYTES_MAX", "ClaimFiling", "filing_of", "terms_of_abi"]

CLAIM_BYTES_MAX = 4096
"""Terms of 8 payees 800 B, plan 1,024 B, ticket 160 B, receipt 512 B, and their headers."""
LAYOUT = "path/1"
_WORD = 32
_WORDS_MIN = 9
"""Words of the ABI encoding of terms that are no payee and no price."""


def terms_of_abi(data: bytes) -> PathTerms:
    """Parse the ABI encoding of terms, as `PathTerms.abi` makes it and no other. For hostile input.

    Raises:
        DecodeError: not that.
    """
    words, rest = divmod(len(data), _WORD)
    count, odd = divmod(words - _WORDS_MIN, 2)
    if rest or odd or not 1 <= count <= PAYEES_MAX:
        raise DecodeError(f"no terms in {len(data)} bytes")
    values = [data[start : start + _WORD] for start in range(0, len(data), _WORD)]
    try:
        terms = PathTerms(
            consumer=Address(values[1][12:]),
            payees=tuple(Address(value[12:]) for value in values[8 : 8 + count]),
            prices_microtoken=tuple(int.from_bytes(value, "big") for value in values[9 + count :]),
            cap_microtoken=int.from_bytes(values[4], "big"),
            expires_s=int.from_bytes(values[5], "big"),
            plan=values[6],
        )
    except ValueError as error:
        raise DecodeError(f"malformed terms: {error}") from None
    if terms.abi() != data:
        raise DecodeError("terms that are not in canonical form")
    return terms


@attrs.frozen(slots=True)
class ClaimFiling:
    """One claim with what it stands on.

    Raises:
        DecodeError: the parts do not belong together; `reason` is "plan" or "session".
    """

    claim: Claim
    """Terms and the last ticket: what is settled."""
    plan: PathPlan
    """Whose hash the terms carry."""
    receipt: Receipt
    """Covers the octets of the ticket; signed by egress and consumer."""

    def __attrs_post_init__(self) -> None:
        terms = self.claim.terms
        if self.plan.digest != terms.plan or len(self.plan.relays) != len(terms.payees):
            raise DecodeError("the plan is not that of the terms", reason="plan")
        session = terms.session_id
        if self.claim.ticket.session != session or self.receipt.session != session:
            raise DecodeError("ticket or receipt is of another session than the terms", reason="session")
        if (self.receipt.consumer, self.receipt.egress) != (self.plan.consumer, self.plan.egress):
            raise DecodeError("the receipt is not of the plan's consumer and egress", reason="plan")

    @property
    def session(self) -> bytes:
        """Id of the session, 32 B."""
        return self.claim.ticket.session

    def verify(self, domain: SettlementDomain) -> None:
        """Return if the consumer's wallet signed the ticket, egress and consumer the receipt, and the receipt covers the ticket.

        Raises:
            BadSignature, LimitExceeded: as `PathTicket.verify` and `Receipt.verify`; "receipt" where the ticket is for more octets.

        Cost: 0.25 ms.
        """
        ticket = self.claim.ticket
        ticket.verify(self.claim.terms, domain)
        self.receipt.verify(is_accepted=True)
        if ticket.octets > self.receipt.octets:
            raise LimitExceeded(f"a ticket for {ticket.octets} octets, of which {self.receipt.octets} were received", reason="receipt")

    def encode(self) -> bytes:
        """Return the content of a CLAIM record."""
        parts = [self.claim.terms.abi(), self.plan.encode(), self.claim.ticket.encode(), self.receipt.encode()]
        return pack([LAYOUT, *parts])

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Parse the content of a CLAIM record; no signature is verified. For hostile input.

        Raises:
            LimitExceeded, DecodeError: too long, malformed, or of parts that do not belong together.
        """
        match unpack(data, bytes_max=CLAIM_BYTES_MAX):
            case [str(layout), bytes(terms), bytes(plan), bytes(ticket), bytes(receipt)] if layout == LAYOUT:
                return cls(Claim(terms_of_abi(terms), PathTicket.decode(ticket)), PathPlan.decode(plan), Receipt.decode(receipt))
            case _:
                raise DecodeError("not a claim")

    def statement(self, filer: NodeId, version: Version, *, issued_ns: int, expires_ns: int) -> Statement:
        """Return the statement by which a relay files it.

        Args:
            filer: the relay.
            version: greater than that of what it filed before for this session.
            issued_ns: wall time now, ns since 1970.
            expires_ns: wall time after which nobody need look at it; later than the session and the time for claims after it.
        """
        return Statement(Kind.CLAIM, MARKET_GROUP, filer, self.session, version, issued_ns, expires_ns, self.encode())


def filing_of(statement: Statement) -> ClaimFiling:
    """Return what a verified CLAIM statement files; what others signed in it is not checked.

    Raises:
        LimitExceeded, DecodeError: it is none, or filed under another session ("session"), or by who is no relay of it ("filer").
    """
    if statement.kind is not Kind.CLAIM:
        raise DecodeError(f"a {statement.kind} statement files no claim")
    filing = ClaimFiling.decode(statement.content)
    if filing.session != statement.topic:
        raise DecodeError("a claim that is filed under another session", reason="session")
    if statement.subject not in filing.plan.relays:
        raise DecodeError(f"{statement.subject!r} is no relay of the session it files", reason="filer")
    return filing
