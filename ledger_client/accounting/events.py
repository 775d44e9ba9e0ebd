"""What happens to sessions, receipts, tickets and claims on this node, as events. Amounts are microtokens, octets those of bodies."""

from __future__ import annotations

from typing import TypeAlias

import attrs

from srwan.types import NodeId

__all__ = [
    "AccountingEvent",
    "ClaimFiled",
    "DebtCleared",
    "DebtThrottled",
    "EscrowShort",
    "ReceiptDoubted",
    "SessionClosed",
    "SessionOpened",
    "SessionRefused",
    "TicketReceived",
    "TicketSigned",
]


@attrs.frozen(slots=True)
class SessionOpened:
    """This node pays for a path from now on: the settlement engine has reserved the cap."""

    session: bytes
    """Session id, 32 B."""
    relays: tuple[NodeId, ...]
    egress: NodeId
    price_microtoken: int
    """For one GB over the whole path."""
    cap_microtoken: int
    """The most it can cost."""


@attrs.frozen(slots=True)
class SessionRefused:
    """A session that this node wanted was refused, by a relay (its word), by the settlement engine ("settlement: ..."), or ran out."""

    session: bytes
    node: NodeId | None
    """Who refused; None: the settlement engine."""
    reason: str


@attrs.frozen(slots=True)
class SessionClosed:
    """What was left of a session's reserve is back in this node's escrow."""

    session: bytes
    paid_microtoken: int
    """Of the last ticket signed for it."""


@attrs.frozen(slots=True)
class EscrowShort:
    """There is not enough escrow for a session over these relays; traffic goes on as long as they give credit."""

    relays: tuple[NodeId, ...]
    egress: NodeId
    needed_microtoken: int
    """The least cap that is worth a session."""
    free_microtoken: int
    """Not reserved."""


@attrs.frozen(slots=True)
class TicketSigned:
    """This node owes so much for a session, from its beginning."""

    session: bytes
    octets: int
    """Delivered under it, from its beginning."""
    amount_microtoken: int
    """Owed for them."""


@attrs.frozen(slots=True)
class ReceiptDoubted:
    """A receipt was not countersigned: it does not fit what this node sent."""

    session: bytes
    egress: NodeId
    octets: int
    """That it claims."""
    sent_octets: int
    """That were sent over these relays to this egress in all."""


@attrs.frozen(slots=True)
class TicketReceived:
    """This relay is owed more: a consumer's ticket came."""

    session: bytes
    consumer: NodeId
    octets: int
    """Delivered under it, from its beginning."""
    amount_microtoken: int
    """Owed for them."""


@attrs.frozen(slots=True)
class DebtThrottled:
    """Packets are carried at the free rate only: more was relayed than is acknowledged, or than a stranger is given."""

    node: NodeId
    """The consumer; the neighbour they come from where no session covers them."""
    session: bytes | None
    """None: no session covers them."""
    owed_octets: int
    """Of bodies, not acknowledged."""


@attrs.frozen(slots=True)
class DebtCleared:
    """They are carried at full speed again."""

    node: NodeId
    session: bytes | None


@attrs.frozen(slots=True)
class ClaimFiled:
    """This relay's claim is in the DITEX for validators to look at."""

    session: bytes
    octets: int
    """Delivered under it, from its beginning."""
    amount_microtoken: int
    """Owed for them."""


AccountingEvent: TypeAlias = (
    SessionOpened
    | SessionRefused
    | SessionClosed
    | EscrowShort
    | TicketSigned
    | ReceiptDoubted
    | TicketReceived
    | DebtThrottled
    | DebtCleared
    | ClaimFiled
)
