"""A premium segment: listed with a price, found, bought, used, and settled automatically (whitepaper 10).

Run it: python examples/market/premium_segment.py      (needs `pip install "srwan[settlement]"`)

A carrier runs a router between Chicago and New York and asks 10 tokens a GB. A trader in Chicago is willing to pay up to 12. The public
Internet takes 60 ms, over the carrier it is 14: the trader's data move there, a session is opened for it, and what New York received is
paid to the carrier by three validators, less 1 %.
"""

from __future__ import annotations

import trio

from srwan.amount import format_tokens
from srwan.ledger_client.record import Kind
from srwan.ledger_client.sqlite import SqliteStore
from srwan.ledger_client.store import Query
from srwan.routing import PathPolicy
from srwan.swarm.trading import carry, open_trading_floor, wait_until
from srwan.types import UdpAddress

CARRIER = "10.0.0.2"
PRICE = 10_000_000


def delay_s(source: UdpAddress, destination: UdpAddress, _data: bytes) -> float:
    return 0.007 if CARRIER in (source[0], destination[0]) else 0.060


async def main() -> None:
    async with open_trading_floor(delay_s) as floor:
        offer = {"price_microtoken_per_gb": PRICE, "premium": True, "label": "Chicago - New York, microwave"}
        trader = await floor.add("trader", tokens=20, escrow=10)
        await floor.add("carrier", offer=offer, location={"country": "US", "asn": 64500})
        exchange = await floor.add("exchange")
        await floor.start_validators()
        await floor.wait_matrix()

        # List: the offer is in the DITEX for everybody.
        async with await SqliteStore.open(floor.store_path) as ditex:
            listed = await ditex.range(Query(kind=Kind.OFFER, country="US", asn_min=64500, asn_max=64500))
            print(f"listed: {len(listed)} offer under US:64500")

        # Match and buy: nobody spends without having said so; at up to 12 tokens a GB the carrier is used.
        async with trader.open_path("exchange", PathPolicy(price_max_microtoken=12_000_000)) as path:
            await path.send(b"first")
            far_end = await exchange.accept_path()
            await wait_until(lambda: bool(path.relays))
            print("bought:", path.explain())
            sent = await carry(path, far_end, 1_000_000)

        # Settle: receipts of the exchange, the trader's last ticket, two of three validators.
        paid = await floor.settle()
        print(f"settled: {sent} octets sent at {format_tokens(PRICE)} tokens a GB, the carrier earned {paid} microtokens")
        print("conserved" if await floor.is_conserved() else "NOT CONSERVED")


trio.run(main)
