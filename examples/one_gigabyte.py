"""Follow the money for one gigabyte, to the last unit: the example of the whitepaper's section 3.

Run it: python examples/one_gigabyte.py [--json]      (needs `pip install "srwan[settlement]"`)

A coin is worth 0.05 USD and one GB costs 0.50 USD, so 10 tokens, over a path of three relays that share it equally. A consumer puts 10
tokens into escrow, reserves them for the path, and signs a ticket for every 8 MB that arrives. Three validators sign the batch with the
last ticket, the contract pays. Two days later nothing can be disputed any more: relays collect, and the fee goes to the pools, a quarter
to validators and three quarters to the wallets with votes. All of it on the embedded engine: an EVM in this process, in memory.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from typing import Any

import trio

from srwan.amount import format_tokens
from srwan.ledger_client.settlement.deploy import Deployment
from srwan.ledger_client.settlement.pyevm import PyEvmSettlement
from srwan.ledger_client.settlement.settlement import Claim, batch_digest
from srwan.ledger_client.settlement.signing import WalletKey
from srwan.ledger_client.settlement.terms import GB_OCTETS, PathTerms, price_of
from srwan.ledger_client.settlement.ticket import sign_ticket

TOKEN = 1_000_000
"""Microtokens."""
CENTS_PER_TOKEN = 5
CENTS_PER_GB = 50
PRICE = CENTS_PER_GB * TOKEN // CENTS_PER_TOKEN
"""Of one GB over the whole path: 10,000,000 microtokens."""
PRICES = (PRICE - 2 * (PRICE // 3), PRICE // 3, PRICE // 3)
"""Of each relay; 10,000,000 is no multiple of three, and the first takes the odd unit."""
CREDIT_OCTETS = 8_000_000
"""What relays carry before they want the next ticket."""
SUPPLY = 1_000_000 * TOKEN
DAY_S = 86_400
START_S = 1_780_000_000 // DAY_S * DAY_S


def wallet(name: str) -> WalletKey:
    """A key that everybody can make: for an example only."""
    return WalletKey(hashlib.sha256(name.encode()).digest())


NAMES = ("holder", "consumer", "relay 1", "relay 2", "relay 3", "validator 1", "validator 2", "validator 3")
WALLETS = {name: wallet(name) for name in NAMES}
HOLDER, CONSUMER = WALLETS["holder"], WALLETS["consumer"]
RELAYS = [key for name, key in WALLETS.items() if name.startswith("relay")]
VALIDATORS = sorted((key for name, key in WALLETS.items() if name.startswith("validator")), key=lambda key: key.address)


async def follow_the_money() -> dict[str, Any]:
    """Return every amount of the story, in microtokens."""
    now = [START_S]
    deployment = Deployment(
        validators=tuple(key.address for key in VALIDATORS),
        quorum=2,
        supply_microtoken=SUPPLY,
        genesis=((CONSUMER.address, PRICE),),
    )
    async with await PyEvmSettlement.deploy(None, HOLDER, deployment, clock_s=lambda: now[0]) as settlement:
        story: dict[str, Any] = {"supply": await settlement.supply(), "fee_bps": await settlement.fee_bps()}

        # The consumer reserves what the gigabyte can cost: nobody can be promised it twice.
        await settlement.deposit(CONSUMER, PRICE)
        relays = tuple(key.address for key in RELAYS)
        terms = PathTerms(CONSUMER.address, relays, PRICES, PRICE, START_S + 3600, plan=hashlib.sha256(b"one gigabyte").digest())
        await settlement.open_session(CONSUMER, terms)

        # One ticket for every 8 MB, each worth all before it.
        tickets = [
            sign_ticket(CONSUMER, settlement.domain, terms, octets, price_of(octets, PRICE))
            for octets in range(CREDIT_OCTETS, GB_OCTETS + 1, CREDIT_OCTETS)
        ]
        last = tickets[-1]
        last.verify(terms, settlement.domain)
        story |= {"tickets": len(tickets), "octets": last.octets, "owed": last.amount_microtoken}

        # A relay claims, the validators sign what they checked, and anyone hands it to the contract. Twice pays once.
        claims = [Claim(terms, last)]
        signatures = [key.sign(batch_digest(settlement.domain, claims)) for key in VALIDATORS]
        (settled,) = await settlement.settle(RELAYS[0], claims, signatures)
        (again,) = await settlement.settle(RELAYS[1], claims, signatures)
        story |= {"paid": settled.paid_microtoken, "fee": settled.fee_microtoken, "paid_again": again.paid_microtoken}

        # The holder of most tokens votes for itself, which moves none, and takes a seat among those who share the dividend.
        await settlement.vote(HOLDER, HOLDER.address)
        await settlement.seat(HOLDER, HOLDER.address)

        # Two days later the period of the payment can be disputed no more.
        period = await settlement.period()
        now[0] += 2 * DAY_S
        story["earned"] = {name: await settlement.collect(HOLDER, key.address, period) for name, key in WALLETS.items() if key in RELAYS}
        await settlement.collect_fees(HOLDER, period)
        pools = await settlement.pools()
        story |= {"validator_pool": pools.validators_microtoken, "dividend_pool": pools.dividend_microtoken}
        story |= {"to_validators": await settlement.pay_validators(HOLDER), "to_voters": await settlement.pay_dividend(HOLDER)}
        now[0] += DAY_S
        story["returned"] = await settlement.close_session(HOLDER, terms)

        # Where everything is now.
        pools = await settlement.pools()
        accounts = {name: await settlement.account(key.address) for name, key in WALLETS.items()}
        story["balances"] = {name: account.balance_microtoken + account.escrow_microtoken for name, account in accounts.items()}
        story["left_in_pools"] = pools.validators_microtoken + pools.dividend_microtoken + pools.subsidy_microtoken
        story["conserved"] = sum(story["balances"].values()) + story["left_in_pools"] == story["supply"]
        return story


def show(story: dict[str, Any]) -> None:
    """Print the story as tables."""

    def row(what: str, microtoken: int, note: str = "") -> None:
        whole, rest = divmod(microtoken * CENTS_PER_TOKEN, 100 * TOKEN)  # in units of 10**-8 USD
        dollars = f"{whole}.{rest:08}"
        print(f"  {what:<24}{microtoken:>14,}  {format_tokens(microtoken):>10}  {dollars:>12}  {note}".rstrip())

    print(f"{story['octets']:,} octets over three relays at 0.50 USD a GB, 0.05 USD a token; {story['tickets']} tickets, one settled")
    print(f"\n  {'':<24}{'microtokens':>14}  {'tokens':>10}  {'USD':>12}")
    row("consumer paid", story["paid"])
    row("handed in again", story["paid_again"], "the same batch: nothing")
    for name, earned in story["earned"].items():
        row(f"{name} earned", earned)
    row("fee", story["fee"], f"{story['fee_bps'] / 100:g} %")
    row("  to the validator pool", story["validator_pool"], "25 %")
    row("  to the dividend pool", story["dividend_pool"], "75 %")
    row("validators were paid", story["to_validators"], "in equal parts")
    row("voters were paid", story["to_voters"])
    row("left in the pools", story["left_in_pools"], "until the next payout")
    total = sum(story["balances"].values()) + story["left_in_pools"]
    print(f"\nall places together hold {total:,} microtokens, the supply is {story['supply']:,}: ", end="")
    print("conserved" if story["conserved"] else "NOT CONSERVED")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Follow the money for one gigabyte, to the last unit.")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    wants_json = parser.parse_args().json
    result = trio.run(follow_the_money)
    if wants_json:
        print(json.dumps(result))
    else:
        show(result)
