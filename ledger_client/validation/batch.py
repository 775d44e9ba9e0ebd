"""A batch on its way to be settled: an ordered list of claims, and one validator's signature over it or its reason for not signing.

Published as a BATCH record: group MARKET_GROUP, subject the validator's router, topic the slot, version (slot, 0). So a validator says one
thing in a slot: the one whose turn it is proposes, the others answer with the same list and their own signature, or with a reason. Two
different ones are equivocation and every store proves it. Times in the record follow from the slot, so that a validator which restarts
in the middle of it cannot contradict itself by accident.

Claims are named by session, octets and amount, which is all that the signature covers (`Claim.abi_hash`); terms and ticket are in the CLAIM
records, and who has not got those cannot sign.

Layout, canonical msgpack: ["batch/1", slot, [session, octets, amount]..., signature or empty, reason, seat].
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from srwan.errors import DecodeError
from srwan.ledger_client.record import Kind, Version
from srwan.ledger_client.settlement.settlement import CLAIMS_MAX, Claim
from srwan.ledger_client.settlement.signing import SIGNATURE_BYTES, SettlementDomain, keccak256, type_hash, word
from srwan.ledger_client.settlement.terms import HASH_BYTES, UINT64_MAX, UINT128_MAX
from srwan.ledger_client.statement import MARKET_GROUP, Statement
from srwan.ledger_client.validation.verdict import ACCEPTED, INTEGER_BYTES, is_reason
from srwan.types import NodeId
from srwan.wire import pack, unpack

__all__ = ["BATCH_LIFETIME_S", "BatchItem", "SignedBatch", "items_digest", "items_of", "slot_topic"]

BATCH_LIFETIME_S = 7 * 86_400
"""How long a batch stays readable, s: longer than any dispute window in use."""
BATCH_BYTES_MAX = 8192
"""64 claims of 71 B, two signatures, and the rest."""
LAYOUT = "batch/1"
NS_PER_S = 10**9
_BATCH = type_hash("Batch(bytes32 claims)")


def slot_topic(slot: int) -> bytes:
    """Return the topic of the batches of a slot, 8 B."""
    return slot.to_bytes(8, "big")


@attrs.frozen(slots=True)
class BatchItem:
    """One claim of a batch, as its signature covers it.

    Raises:
        ValueError: a field is out of bounds.
    """

    session: bytes
    """32 B."""
    octets: int
    """Since the session began."""
    amount_microtoken: int
    """Likewise, microtokens."""

    def __attrs_post_init__(self) -> None:
        if len(self.session) != HASH_BYTES or not (0 <= self.octets <= UINT128_MAX and 0 <= self.amount_microtoken <= UINT128_MAX):
            raise ValueError("a claim of a batch is out of bounds")

    @classmethod
    def of(cls, claim: Claim) -> BatchItem:
        """Name a claim."""
        return cls(claim.ticket.session, claim.ticket.octets, claim.ticket.amount_microtoken)


@attrs.frozen(slots=True)
class SignedBatch:
    """One validator's word on the batch of a slot.

    Raises:
        ValueError: a field is out of bounds, a session comes twice, or it is neither signed nor refused.
    """

    slot: int
    """Number of the slot: wall time divided by its length."""
    items: tuple[BatchItem, ...]
    """In the order that is signed, 1..CLAIMS_MAX, each session once."""
    signature: bytes
    """Of the validator's wallet over `batch_digest`, 65 B; empty where it refuses."""
    reason: str
    """ACCEPTED, or why it does not sign."""
    seat: bytes
    """As in `ClaimVerdict`."""

    def __attrs_post_init__(self) -> None:
        if not 0 <= self.slot <= UINT64_MAX or len(self.seat) != SIGNATURE_BYTES or not is_reason(self.reason):
            raise ValueError("a batch's slot, seat or reason is out of bounds")
        if not 1 <= len(self.items) <= CLAIMS_MAX or len({item.session for item in self.items}) != len(self.items):
            raise ValueError(f"a batch has 1..{CLAIMS_MAX} claims, each session once")
        if len(self.signature) != (SIGNATURE_BYTES if self.reason == ACCEPTED else 0):
            raise ValueError("a batch is signed, or refused for a reason")

    @property
    def is_signed(self) -> bool:
        """Whether the validator signed; otherwise it refused."""
        return self.reason == ACCEPTED

    def encode(self) -> bytes:
        """Return the content of a BATCH record."""
        items = [
            [item.session, item.octets.to_bytes(INTEGER_BYTES, "big"), item.amount_microtoken.to_bytes(INTEGER_BYTES, "big")]
            for item in self.items
        ]
        return pack([LAYOUT, self.slot, items, self.signature, self.reason, self.seat])

    @classmethod
    def decode(cls, data: bytes) -> SignedBatch:
        """Parse the content of a BATCH record; nothing is verified.

        Raises:
            LimitExceeded, DecodeError: too long or malformed.
        """
        match unpack(data, bytes_max=BATCH_BYTES_MAX):
            case [str(layout), int(slot), list(items), bytes(signature), str(reason), bytes(seat)] if (
                layout == LAYOUT and not isinstance(slot, bool) and len(items) <= CLAIMS_MAX
            ):
                pass
            case _:
                raise DecodeError("not a batch")
        try:
            return cls(slot, tuple(map(_item, items)), signature, reason, seat)
        except ValueError as error:
            raise DecodeError(f"malformed batch: {error}") from None

    def statement(self, validator: NodeId, *, slot_s: int) -> Statement:
        """Return the statement that publishes it; its times follow from the slot and its length, s."""
        issued_ns = self.slot * slot_s * NS_PER_S
        expires_ns = issued_ns + BATCH_LIFETIME_S * NS_PER_S
        return Statement(
            Kind.BATCH, MARKET_GROUP, validator, slot_topic(self.slot), Version(self.slot, 0), issued_ns, expires_ns, self.encode()
        )


def items_digest(domain: SettlementDomain, items: Sequence[BatchItem]) -> bytes:
    """Return what validators sign for a batch: `batch_digest` of its claims, for whoever has not got their terms."""
    hashes = (keccak256(item.session + word(item.octets) + word(item.amount_microtoken)) for item in items)
    return domain.digest(keccak256(_BATCH + keccak256(b"".join(hashes))))


def items_of(claims: Sequence[Claim]) -> tuple[BatchItem, ...]:
    """Name claims in their order."""
    return tuple(map(BatchItem.of, claims))


def _item(value: object) -> BatchItem:
    match value:
        case [bytes(session), bytes(octets), bytes(amount)] if len(octets) == len(amount) == INTEGER_BYTES:
            return BatchItem(session, int.from_bytes(octets, "big"), int.from_bytes(amount, "big"))
        case _:
            raise DecodeError("not a claim of a batch")
