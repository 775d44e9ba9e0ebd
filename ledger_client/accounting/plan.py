"""What a path session is about, off the chain: which routers stand behind the wallets of its terms, and what latency was promised.

Theory of operation. The settlement engine knows wallets, prices and a cap (`PathTerms`). Which routers those are, in visiting order, who
authenticates the octets at the far end, on which offers the prices stand and how quick the path was to be is in the plan; the terms carry
its hash, so nothing of it can change once the session is open. Two sessions never have one plan: it holds a nonce.

Price and latency. With `saved_full_us` = 0 every octet costs the full price. Otherwise the full price is due from that much latency saved
against the direct path, and proportionally less below, nothing where nothing was saved: `amount_due`. Latencies are raw one-way latencies
between consumer and egress, in which the offset of the two clocks cancels by subtraction; they may be negative.

Layout, canonical msgpack: [1, consumer, [relay, ...], egress, [digest, ...], predicted_us, direct_us, saved_full_us, nonce].

Invariant: an instance is within bounds and has one encoding.
"""

from __future__ import annotations

from typing import Any, TypeGuard

import attrs

from srwan.errors import DecodeError
from srwan.ledger_client.settlement.signing import keccak256
from srwan.ledger_client.settlement.terms import PAYEES_MAX, PathTerms, price_of
from srwan.types import NodeId
from srwan.wire import pack, unpack

__all__ = ["NONCE_BYTES", "NO_OFFER", "PLAN_BYTES_MAX", "PathPlan", "amount_due", "are_integers", "plan_of", "price_at"]

PLAN_BYTES_MAX = 1024
"""Eight relays and eight digests are 544 B."""
NONCE_BYTES = 16
DIGEST_BYTES = 32
NO_OFFER = bytes(DIGEST_BYTES)
"""Stands for the offer of a relay that made none: it is free."""
RAW_US_MAX = 2**62
"""Raw latencies hold the offset of two clocks, which may be years, us."""
SAVED_FULL_US_MAX = 10**9
_VERSION = 1


@attrs.frozen(slots=True)
class PathPlan:
    """The plan of one path session.

    Raises:
        ValueError: a field is out of bounds, or a router comes twice.
    """

    consumer: NodeId
    """Who sends and pays."""
    relays: tuple[NodeId, ...]
    """In visiting order, 1..PAYEES_MAX; relay i is the payee i of the terms."""
    egress: NodeId
    """Who authenticates the octets and signs receipts."""
    offers: tuple[bytes, ...]
    """Digest of the offer on which the price of each relay stands, 32 B; NO_OFFER for a free one."""
    predicted_us: int
    """Raw one-way latency that the matrix predicted for the path, us."""
    direct_us: int
    """Raw one-way latency of the direct path at the same time, us."""
    saved_full_us: int
    """Latency saved from which the full price is due, us; 0: the price does not depend on it."""
    nonce: bytes
    """16 random bytes."""

    def __attrs_post_init__(self) -> None:
        if not 1 <= len(self.relays) <= PAYEES_MAX:
            raise ValueError(f"plan: {len(self.relays)} relays, not 1..{PAYEES_MAX}")
        if len({self.consumer, *self.relays, self.egress}) != len(self.relays) + 2:
            raise ValueError("plan: a router comes twice")
        if len(self.offers) != len(self.relays) or any(len(digest) != DIGEST_BYTES for digest in self.offers):
            raise ValueError("plan: one digest of 32 bytes for each relay is needed")
        if any(abs(raw_us) > RAW_US_MAX for raw_us in (self.predicted_us, self.direct_us)):
            raise ValueError("plan: a latency is out of bounds")
        if not 0 <= self.saved_full_us <= SAVED_FULL_US_MAX:
            raise ValueError(f"plan: full price from {self.saved_full_us} us saved")
        if len(self.nonce) != NONCE_BYTES:
            raise ValueError(f"plan: a nonce of {len(self.nonce)} bytes")

    @property
    def digest(self) -> bytes:
        """Keccak-256 of the encoding, 32 B: what the terms carry. Cost: 20 us."""
        return keccak256(self.encode())

    def encode(self) -> bytes:
        """Return the plan as bytes, up to PLAN_BYTES_MAX."""
        ends = [self.consumer, list(self.relays), self.egress, list(self.offers)]
        return pack([_VERSION, *ends, self.predicted_us, self.direct_us, self.saved_full_us, self.nonce])

    @classmethod
    def decode(cls, data: bytes) -> PathPlan:
        """Parse a plan. For hostile input.

        Raises:
            LimitExceeded, DecodeError: too long or malformed.
        """
        return plan_of(unpack(data, bytes_max=PLAN_BYTES_MAX))

    def before(self, node: NodeId) -> NodeId:
        """Return who hands the session's packets to a relay or the egress: the relay before it, or the consumer.

        Raises:
            ValueError: the router is neither.
        """
        way = (self.consumer, *self.relays, self.egress)
        at = way.index(node)
        if at == 0:
            raise ValueError("nobody comes before the consumer")
        return way[at - 1]


def plan_of(value: Any) -> PathPlan:
    """Return the plan that a parsed msgpack value is.

    Raises:
        DecodeError: it is none.
    """
    match value:
        case [int(version), bytes(consumer), list(relays), bytes(egress), list(offers), *numbers, bytes(nonce)] if (
            are_integers([version, *numbers]) and version == _VERSION and len(numbers) == 3 and len(relays) <= PAYEES_MAX >= len(offers)
        ):
            pass
        case _:
            raise DecodeError("not a plan")
    if not all(isinstance(item, bytes) for item in (*relays, *offers)):
        raise DecodeError("not a plan")
    try:
        predicted_us, direct_us, saved_full_us = numbers
        ends = (NodeId(consumer), tuple(map(NodeId, relays)), NodeId(egress), tuple(offers))
        return PathPlan(*ends, predicted_us, direct_us, saved_full_us, nonce)
    except ValueError as error:
        raise DecodeError(f"malformed plan: {error}") from None


def are_integers(values: list[Any]) -> TypeGuard[list[int]]:
    """Say whether parsed values are integers, none a truth value: in Python True is 1."""
    return all(isinstance(value, int) and not isinstance(value, bool) for value in values)


def amount_due(terms: PathTerms, plan: PathPlan, octets: int, saved_us: int) -> int:
    """Return what is owed for so many octets under a session, microtokens, rounded down, within its cap.

    Args:
        terms: of the session.
        plan: whose hash they carry.
        octets: bodies that the egress authenticated, since the session began.
        saved_us: mean raw latency of the direct path less that of the octets, us; without meaning if the price does not depend on it.
    """
    return min(price_at(terms, plan, octets, saved_us), terms.cap_microtoken)


def price_at(terms: PathTerms, plan: PathPlan, octets: int, saved_us: int) -> int:
    """As `amount_due`, whatever the cap."""
    full = price_of(octets, terms.price_microtoken)
    if not plan.saved_full_us:
        return full
    return full * min(max(saved_us, 0), plan.saved_full_us) // plan.saved_full_us
