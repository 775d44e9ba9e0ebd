"""Three routers with wallets, and the values they exchange, for all tests of accounting."""

from __future__ import annotations

import attrs
import pytest

from srwan.identity import Identity
from srwan.ledger_client.accounting.plan import PathPlan
from srwan.ledger_client.accounting.receipt import Receipt
from srwan.ledger_client.settlement.signing import Address, SettlementDomain, WalletKey
from srwan.ledger_client.settlement.terms import PathTerms
from srwan.ledger_client.settlement.ticket import PathTicket, sign_ticket


@attrs.frozen
class Deal:
    """Consumer, two relays and egress; the first relay has a price, the second is free."""

    consumer: Identity
    relays: tuple[Identity, Identity]
    egress: Identity
    wallet: WalletKey
    payees: tuple[Address, Address]
    domain: SettlementDomain
    plan: PathPlan
    terms: PathTerms

    def receipt(self, octets: int, *, sequence: int = 1, measured_us: int = 20_000) -> Receipt:
        """Of the egress, countersigned."""
        counts = (7, sequence, octets, octets // 1000 + 1)
        receipt = Receipt(
            self.terms.session_id, self.plan.consumer, self.plan.egress, *counts, self.plan.predicted_us, measured_us, 30_000, 10**18
        )
        return receipt.sign(self.egress).countersign(self.consumer)

    def ticket(self, octets: int, amount: int) -> PathTicket:
        """Of the consumer."""
        return sign_ticket(self.wallet, self.domain, self.terms, octets, amount)


def make_deal(saved_full_us: int = 0) -> Deal:
    consumer, first, second, egress = (Identity(bytes([number]) * 32) for number in range(1, 5))
    wallets = [WalletKey(bytes([number]) * 32) for number in range(1, 4)]
    relays = (first.node_id, second.node_id)
    plan = PathPlan(
        consumer.node_id, relays, egress.node_id, (bytes([5]) * 32, bytes([6]) * 32), 20_000, 30_000, saved_full_us, bytes([7]) * 16
    )
    payees = (wallets[1].address, wallets[2].address)
    terms = PathTerms(wallets[0].address, payees, (9_000_000, 1_000_000), 5_000_000, 2_000_000_000, plan.digest)
    domain = SettlementDomain(31337, Address(bytes([0xCC]) * 20))
    return Deal(consumer, (first, second), egress, wallets[0], payees, domain, plan, terms)


@pytest.fixture(scope="session")
def deal() -> Deal:
    """The price does not depend on latency."""
    return make_deal()


@pytest.fixture(scope="session")
def latency_deal() -> Deal:
    """The full price is due from 10 ms saved."""
    return make_deal(10_000)
