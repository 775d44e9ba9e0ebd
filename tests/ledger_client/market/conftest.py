"""Sellers with fixed keys, and offers of theirs: what the tests of the market share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from srwan.identity import Identity
from srwan.ledger_client.market.offer import Offer
from srwan.ledger_client.record import Version
from srwan.ledger_client.report import NS_PER_S
from srwan.ledger_client.settlement.signing import Address, SettlementDomain, WalletKey

WALL_S = 1_780_000_000
IDENTITIES = tuple(sorted((Identity(bytes([number]) * 32) for number in range(1, 9)), key=lambda identity: identity.node_id))
WALLETS = tuple(WalletKey(bytes([number]) * 32) for number in range(1, 9))


def offer_of(index: int, price: int | None = 1000, *, sequence: int = 1, lifetime_s: int = 7200, **fields: Any) -> Offer:
    """Seller `index`'s offer, issued at WALL_S, paid to its wallet."""
    fields.setdefault("wallet", WALLETS[index].address)
    fields.setdefault("issued_ns", WALL_S * NS_PER_S)
    return Offer(
        seller=IDENTITIES[index].node_id,
        version=Version(WALL_S, sequence),
        price_microtoken_per_gb=price,
        expires_ns=fields["issued_ns"] + lifetime_s * NS_PER_S,
        **fields,
    )


@pytest.fixture
def wall_s() -> int:
    """When all offers here are issued, s since 1970."""
    return WALL_S


@pytest.fixture
def make_offer() -> Callable[..., Offer]:
    """`offer_of`."""
    return offer_of


@pytest.fixture
def sellers() -> tuple[Identity, ...]:
    """Eight routers by rising NodeId."""
    return IDENTITIES


@pytest.fixture
def wallets() -> tuple[WalletKey, ...]:
    """The wallet of each."""
    return WALLETS


@pytest.fixture
def domain() -> SettlementDomain:
    """Some settlement."""
    return SettlementDomain(1337, Address(b"\x11" * 20))
