"""What consumer, relays and egress of a session say to each other over the control channel, and how it is answered.

    /srwan/session/1    consumer to relays and egress: a session covers these path tags from now on
    /srwan/receipt/1    egress to consumer: a receipt; the answer holds the countersignature
    /srwan/ticket/1     consumer to relays: a ticket, and the receipt it stands on

All of it is idempotent: each message says how things stand, not what to add, and an older one changes nothing. The channel authenticates
the caller.

Layouts, canonical msgpack: session [1, terms in their ABI encoding, plan, sequence, [path tag, ...]]; ticket [1, ticket, receipt];
answer [word, data].

Invariant: decoding accepts exactly what encoding makes.
"""

from __future__ import annotations

from typing import Final

import attrs

from srwan.errors import BadSignature, DecodeError
from srwan.ledger_client.accounting.plan import PLAN_BYTES_MAX, PathPlan, are_integers
from srwan.ledger_client.accounting.receipt import RECEIPT_BYTES_MAX, Receipt
from srwan.ledger_client.settlement.terms import UINT64_MAX, PathTerms
from srwan.ledger_client.settlement.ticket import TICKET_BYTES_MAX, PathTicket
from srwan.ledger_client.validation.claim import terms_of_abi
from srwan.types import NodeId
from srwan.wire import pack, unpack

__all__ = ["RECEIPT_PROTOCOL", "SESSION_PROTOCOL", "TICKET_PROTOCOL", "Answer", "SessionNotice", "TicketNotice"]

SESSION_PROTOCOL: Final = "/srwan/session/1"
RECEIPT_PROTOCOL: Final = "/srwan/receipt/1"
TICKET_PROTOCOL: Final = "/srwan/ticket/1"

PATH_TAGS_MAX = 64
"""Path tags of one session: each is a flow over the same relays to the same egress; a node has up to 1,024 flows."""
TERMS_BYTES_MAX = 1024
"""ABI encoding of eight payees: 800 B."""
NOTICE_BYTES_MAX = PLAN_BYTES_MAX + TERMS_BYTES_MAX + 9 * PATH_TAGS_MAX + 64
ANSWER_BYTES_MAX = RECEIPT_BYTES_MAX + 64
WORD_CHARACTERS_MAX = 32
_VERSION = 1


@attrs.frozen(slots=True)
class SessionNotice:
    """A consumer says which path tags a session covers; those that a newer notice leaves out, it covers no more.

    Raises:
        DecodeError: terms and plan do not belong together. ValueError: too many tags, or a number is out of bounds.
    """

    terms: PathTerms
    plan: PathPlan
    sequence: int
    """Rises with every notice of the consumer."""
    path_tags: tuple[int, ...]
    """64 bits each, by rising value; none: the session is over."""

    def __attrs_post_init__(self) -> None:
        if self.plan.digest != self.terms.plan or len(self.plan.relays) != len(self.terms.payees):
            raise DecodeError("the plan is not that of the terms", reason="plan")
        if len(self.path_tags) > PATH_TAGS_MAX or list(self.path_tags) != sorted(set(self.path_tags)):
            raise ValueError(f"path tags: up to {PATH_TAGS_MAX} by rising value")
        if not all(0 <= number <= UINT64_MAX for number in (self.sequence, *self.path_tags)):
            raise ValueError("a sequence or path tag that does not fit 64 bits")

    def encode(self) -> bytes:
        """Return it as bytes."""
        return pack([_VERSION, self.terms.abi(), self.plan.encode(), self.sequence, list(self.path_tags)])

    @classmethod
    def decode_from(cls, caller: NodeId, data: bytes) -> SessionNotice:
        """Parse a notice that a consumer may only give of its own sessions. For hostile input.

        Raises:
            LimitExceeded, DecodeError: as `decode`. BadSignature: of a session of another consumer ("session-stranger").
        """
        notice = cls.decode(data)
        if notice.plan.consumer != caller:
            raise BadSignature("a session of another consumer", reason="session-stranger")
        return notice

    @classmethod
    def decode(cls, data: bytes) -> SessionNotice:
        """Parse a notice. For hostile input.

        Raises:
            LimitExceeded, DecodeError: too long, malformed, or of parts that do not belong together.
        """
        match unpack(data, bytes_max=NOTICE_BYTES_MAX):
            case [version, bytes(terms), bytes(plan), sequence, list(tags)] if are_integers([version, sequence, *tags]):
                pass
            case _:
                raise DecodeError("not the notice of a session")
        if version != _VERSION:
            raise DecodeError(f"a notice of version {version}", reason="version")
        try:
            return cls(terms_of_abi(terms), PathPlan.decode(plan), sequence, tuple(tags))
        except ValueError as error:
            raise DecodeError(f"malformed notice: {error}") from None


@attrs.frozen(slots=True)
class TicketNotice:
    """A consumer pays: its ticket, and the receipt it stands on with both signatures."""

    ticket: PathTicket
    receipt: Receipt

    def encode(self) -> bytes:
        """Return it as bytes."""
        return pack([_VERSION, self.ticket.encode(), self.receipt.encode()])

    @classmethod
    def decode(cls, data: bytes) -> TicketNotice:
        """Parse it. For hostile input.

        Raises:
            LimitExceeded, DecodeError: too long, malformed, or ticket and receipt are of two sessions.
        """
        match unpack(data, bytes_max=TICKET_BYTES_MAX + RECEIPT_BYTES_MAX + 64):
            case [version, bytes(ticket), bytes(receipt)] if are_integers([version]) and version == _VERSION:
                notice = cls(PathTicket.decode(ticket), Receipt.decode(receipt))
            case _:
                raise DecodeError("not a ticket with its receipt")
        if notice.ticket.session != notice.receipt.session:
            raise DecodeError("ticket and receipt are of two sessions", reason="session")
        return notice


@attrs.frozen(slots=True)
class Answer:
    """How a message was taken."""

    word: str
    """"ok"; "stale": the data are what is held; else a short lower-case word that says why it was refused."""
    data: bytes = b""

    @property
    def is_ok(self) -> bool:
        """Whether it was taken, now or before."""
        return self.word == "ok"

    def encode(self) -> bytes:
        """Return it as bytes."""
        return pack([self.word, self.data])

    @classmethod
    def decode(cls, data: bytes) -> Answer:
        """Parse it. For hostile input.

        Raises:
            LimitExceeded, DecodeError: too long or malformed.
        """
        match unpack(data, bytes_max=ANSWER_BYTES_MAX):
            case [str(word), bytes(content)] if 0 < len(word) <= WORD_CHARACTERS_MAX and word.isascii() and word.isprintable():
                return cls(word, content)
            case _:
                raise DecodeError("not an answer")
