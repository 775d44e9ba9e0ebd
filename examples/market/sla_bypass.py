"""A service level agreement with tokens behind it: the ISP pays for the way around its own congestion (whitepaper 12).

Run it: python examples/market/sla_bypass.py      (needs `pip install "srwan[settlement]"`)

An ISP promises its customer 40 ms to the cloud and puts 10 tokens into escrow for the case that it cannot keep that. A carrier would be
quicker all the time, but while the ISP keeps its word nobody pays one. Then its network is congested: data go over the carrier, paid from
the ISP's escrow within the budget, and come back when it is over. What was measured is signed as evidence and put into the DITEX.
"""

from __future__ import annotations

import math
import time

import trio

from srwan.ledger_client.market.quote import quote_for
from srwan.ledger_client.market.sla import Agreement, Measurement, SlaAccount, measurements_of
from srwan.ledger_client.record import Kind, Version
from srwan.ledger_client.sqlite import SqliteStore
from srwan.ledger_client.statement import Statement
from srwan.ledger_client.store import Query
from srwan.path import Path
from srwan.routing import PathPolicy, Sla
from srwan.swarm.trading import carry, open_trading_floor, wait_until
from srwan.types import UdpAddress

CARRIER = "10.0.0.2"
PRICE = 8_000_000
congestion = {"ms": 0.0}


def delay_s(source: UdpAddress, destination: UdpAddress, _data: bytes) -> float:
    return (8.0 if CARRIER in (source[0], destination[0]) else 30.0 + congestion["ms"]) / 1000


async def measure(path: Path, account: SlaAccount) -> None:
    """Show the account what the ISP's path delivers, five times a second."""
    offset_ms = math.nan
    while True:
        await trio.sleep(0.2)
        direct = next(status for status in path.status() if not status.relays)
        if math.isnan(direct.live_ms):
            continue
        if math.isnan(offset_ms):
            offset_ms = direct.live_ms - direct.rtt_ms / 2  # both ways are equally quick as long as the ISP keeps its word
        owl_us = round((direct.live_ms - offset_ms) * 1000)
        account.measure(Measurement(time.time_ns(), owl_us, round(direct.loss * 1e6)))


async def main() -> None:
    async with open_trading_floor(delay_s) as floor:
        customer = await floor.add("isp", tokens=20, escrow=10)  # the customer's router pays with the wallet that the ISP keeps for it
        await floor.add("carrier", offer={"price_microtoken_per_gb": PRICE})
        cloud = await floor.add("cloud")
        await floor.start_validators()
        await floor.wait_matrix()
        agreement = Agreement(
            provider=customer.id,
            wallet=floor.traders["isp"].wallet.address,
            owl_us_max=40_000,
            price_max_microtoken=PRICE,
            budget_microtoken=9_000_000,
        )
        account = SlaAccount(agreement, time.time_ns())
        policy = PathPolicy(sla=Sla(owl_ms_max=40), price_max_microtoken=agreement.price_max_microtoken)
        async with customer.open_path("cloud", policy) as path, trio.open_nursery() as nursery:
            nursery.start_soon(measure, path, account)
            await path.send(b"first")
            far_end = await cloud.accept_path()
            await trio.sleep(2.5)
            print("kept:    ", path.explain())

            congestion["ms"] = 60.0
            await wait_until(lambda: bool(path.relays) and account.is_broken)
            print("broken:  ", path.explain())
            assert customer.money is not None
            wall_ns = time.time_ns()
            quote = quote_for(customer.money.book, path.relays, wall_ns, price_max_microtoken=agreement.price_max_microtoken)
            await wait_until(lambda: bool(floor.traders["isp"].tickets()))
            ((terms, _, _), *_) = floor.traders["isp"].tickets()
            account.buy(quote, terms.session_id, terms.cap_microtoken, wall_ns)
            print(f"bought:   up to {terms.cap_microtoken} of {agreement.budget_microtoken} microtokens of the budget")
            evidence = account.evidence(customer.id, Version(wall_ns // 10**9, 0), wall_ns)
            await carry(path, far_end, 600_000)

            congestion["ms"] = 0.0
            await wait_until(lambda: not path.relays)
            print("restored:", path.explain())
            nursery.cancel_scope.cancel()
        paid = await floor.settle()
        account.spent(terms.session_id, floor.traders["isp"].owed_microtoken)
        print(f"the carrier earned {paid} microtokens of {account.agreement.budget_microtoken - account.left_microtoken(wall_ns)} spent")

        async with await SqliteStore.open(floor.store_path) as ditex:
            await ditex.put(evidence.record(floor.traders["isp"].identity), wall_ns)
            (stored,) = await ditex.range(Query(kind=Kind.EVIDENCE))
            measured = measurements_of(Statement.of_record(stored.record), agreement)
            breaches = sum(map(agreement.is_broken_by, measured))
            worst_ms = max(each.owl_us for each in measured) / 1000
            print(f"evidence: {breaches} of {len(measured)} measurements beyond 40 ms, the worst {worst_ms:.0f} ms")
        print("conserved" if await floor.is_conserved() else "NOT CONSERVED")


trio.run(main)
