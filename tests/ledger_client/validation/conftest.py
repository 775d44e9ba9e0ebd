"""A market with five validators, and a session script that needs no engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import cast

import pytest

from srwan.ledger_client.accounting.plan import PathPlan
from srwan.ledger_client.market.offer import Offer
from srwan.ledger_client.record import Version
from srwan.ledger_client.settlement.signing import Address, SettlementDomain
from srwan.ledger_client.settlement.terms import PathTerms
from srwan.testing.market import DAY_S, NS_PER_S, START_S, Market, SessionScript, router, wallet

RELAYS = ("relay-1", "relay-2", "relay-3")
PRICE = 3_000_000


def offer_of(name: str) -> Offer:
    """A relay's offer, valid for a day from the start."""
    return Offer(
        seller=router(name).node_id,
        version=Version(1, 1),
        price_microtoken_per_gb=PRICE,
        wallet=wallet(name).address,
        issued_ns=START_S * NS_PER_S,
        expires_ns=(START_S + DAY_S) * NS_PER_S,
    )


@pytest.fixture
def offers() -> dict[bytes, Offer]:
    """Of the three relays, by digest."""
    return {offer.digest: offer for offer in map(offer_of, RELAYS)}


@pytest.fixture
def script(offers: dict[bytes, Offer]) -> SessionScript:
    """A session over three relays at their prices, full price from 20 ms saved, without an engine."""
    plan = PathPlan(
        consumer=router("consumer").node_id,
        relays=tuple(router(name).node_id for name in RELAYS),
        egress=router("egress").node_id,
        offers=tuple(offers),
        predicted_us=100_000,
        direct_us=150_000,
        saved_full_us=20_000,
        nonce=bytes(16),
    )
    terms = PathTerms(
        consumer=wallet("consumer").address,
        payees=tuple(wallet(name).address for name in RELAYS),
        prices_microtoken=(PRICE,) * 3,
        cap_microtoken=10**9,
        expires_s=START_S + 3_600,
        plan=plan.digest,
    )
    place = SimpleNamespace(domain=SettlementDomain(31_337, Address(bytes(20))), now_ns=START_S * NS_PER_S, now_s=START_S)
    return SessionScript(cast("Market", place), terms, plan, "consumer", RELAYS, "egress")


@pytest.fixture
async def market() -> AsyncIterator[Market]:
    """A contract of its own, five validators, quorum three."""
    made = await Market.open()
    yield made
    await made.settlement.aclose()
