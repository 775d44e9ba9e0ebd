"""What a validator tells its shell: requests, to be carried out in order, and events, to be shown or logged."""

from __future__ import annotations

from typing import TypeAlias

import attrs

from srwan.ledger_client.record import Record
from srwan.ledger_client.settlement.settlement import Claim
from srwan.ledger_client.settlement.signing import Address
from srwan.ledger_client.settlement.terms import PathTerms
from srwan.ledger_client.validation.binding import BindingRequest
from srwan.ledger_client.validation.claim import ClaimFiling
from srwan.types import NodeId

__all__ = [
    "BatchProposed",
    "BatchRefused",
    "BatchSettled",
    "BatchSigned",
    "BatchStalled",
    "BindNode",
    "BindingJudged",
    "ClaimJudged",
    "DisputeJudged",
    "Event",
    "GatherEvidence",
    "OverturnClaim",
    "PublishRecord",
    "QuorumReached",
    "Request",
    "SettleBatch",
    "ValidatorExposed",
]


@attrs.frozen(slots=True)
class GatherEvidence:
    """Look up what a session's filings are held against and hand it to `receive_evidence`."""

    session: bytes
    filings: tuple[ClaimFiling, ...]
    """All of one session."""


@attrs.frozen(slots=True)
class PublishRecord:
    """Put a record into the store."""

    record: Record


@attrs.frozen(slots=True)
class SettleBatch:
    """Settle a batch unless the settlement shows it paid; then call `receive_settled`, `receive_refusal` or `receive_outage`."""

    slot: int
    """Its number."""
    claims: tuple[Claim, ...]
    signatures: tuple[bytes, ...]
    """Of a quorum or more."""


@attrs.frozen(slots=True)
class BindNode:
    """Bind a router unless it is bound so already."""

    request: BindingRequest
    signatures: tuple[bytes, ...]


@attrs.frozen(slots=True)
class OverturnClaim:
    """Take back a payment unless it was taken back already."""

    terms: PathTerms
    settled_microtoken: int
    """As the signatures say."""
    keep_microtoken: int
    """What stays paid."""
    evidence: bytes
    """Hash of the evidence, 32 B."""
    signatures: tuple[bytes, ...]


Request: TypeAlias = GatherEvidence | PublishRecord | SettleBatch | BindNode | OverturnClaim


@attrs.frozen(slots=True)
class ClaimJudged:
    """A verdict on a claim was published."""

    session: bytes
    octets: int
    """Claimed, since the session began."""
    amount_microtoken: int
    """Likewise, microtokens."""
    reason: str
    """Empty: accepted."""
    figures: tuple[tuple[str, int], ...]
    """As in the verdict."""


@attrs.frozen(slots=True)
class BatchProposed:
    """A validator whose turn it was proposed a batch."""

    slot: int
    """Its number."""
    proposer: Address
    claims: int
    """How many."""


@attrs.frozen(slots=True)
class BatchSigned:
    """This validator signed the batch of a slot."""

    slot: int
    """Its number."""
    claims: int
    """How many."""


@attrs.frozen(slots=True)
class BatchRefused:
    """This validator does not sign the batch of a slot."""

    slot: int
    """Its number."""
    reason: str
    """About the first claim it did not accept; "unknown" where it never saw it."""


@attrs.frozen(slots=True)
class QuorumReached:
    """Enough validators signed the batch of a slot."""

    slot: int
    """Its number."""
    signatures: int
    """How many."""


@attrs.frozen(slots=True)
class BatchSettled:
    """The settlement shows the batch of a slot paid."""

    slot: int
    """Its number."""
    claims: int
    """How many."""
    amount_microtoken: int
    """Of all its claims, since their sessions began."""


@attrs.frozen(slots=True)
class BatchStalled:
    """The batch of a slot was not settled."""

    slot: int
    """Its number."""
    reason: str
    """The contract's word, or "unavailable"."""


@attrs.frozen(slots=True)
class BindingJudged:
    """A request to bind a router was answered."""

    node: NodeId
    wallet: Address
    reason: str
    """Empty: signed."""


@attrs.frozen(slots=True)
class DisputeJudged:
    """Evidence against a settled claim was weighed."""

    session: bytes
    keep_microtoken: int
    """What stays paid."""
    reason: str
    """Empty: this validator votes to take back the rest."""


@attrs.frozen(slots=True)
class ValidatorExposed:
    """A validator signed two different statements under one version; its word counts no more here."""

    node: NodeId
    wallet: Address | None
    """None if its seat is not known here."""


Event: TypeAlias = (
    ClaimJudged
    | BatchProposed
    | BatchSigned
    | BatchRefused
    | QuorumReached
    | BatchSettled
    | BatchStalled
    | BindingJudged
    | DisputeJudged
    | ValidatorExposed
)
