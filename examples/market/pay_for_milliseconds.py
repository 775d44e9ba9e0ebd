"""Pay for milliseconds: the price depends on the latency that was verifiably saved.

Run it: python examples/market/pay_for_milliseconds.py      (needs `pip install "srwan[settlement]"`)

Two relays ask 10 tokens a GB, in full only from 40 ms saved against the direct path. One saves 50 ms, the other 20. What was predicted when
the session was opened, what the egress measured, and what direct took meanwhile stands in the receipt that egress and consumer signed; it
is attached to the claim, validators recompute the price from it, and the second relay gets half.
"""

from __future__ import annotations

import trio

from srwan.ledger_client.accounting.receipt import receipt_of_statement
from srwan.ledger_client.record import Kind
from srwan.ledger_client.settlement.terms import price_of
from srwan.ledger_client.sqlite import SqliteStore
from srwan.ledger_client.statement import Statement
from srwan.ledger_client.store import Query
from srwan.node import Node
from srwan.routing import PathPolicy
from srwan.swarm.trading import carry, open_trading_floor, wait_until
from srwan.types import NodeId, UdpAddress

QUICK, MIDDLING = "10.0.0.3", "10.0.0.4"
LEG_MS = {QUICK: 15, MIDDLING: 30}
DIRECT_MS = 80
OFFER = {"price_microtoken_per_gb": 10_000_000, "saved_full_us": 40_000}


def delay_s(source: UdpAddress, destination: UdpAddress, _data: bytes) -> float:
    return min(LEG_MS.get(ip, DIRECT_MS) for ip in (source[0], destination[0])) / 1000


async def use(buyer: Node, far: Node, policy: PathPolicy, relay: NodeId) -> None:
    """Send a megabyte over one relay."""
    async with buyer.open_path("far", policy) as path:
        await path.send(b"first")
        far_end = await far.accept_path()
        await wait_until(lambda: path.relays == (relay,))
        await carry(path, far_end, 1_000_000)


async def main() -> None:
    async with open_trading_floor(delay_s) as floor:
        buyer = await floor.add("buyer", tokens=40, escrow=30)
        far = await floor.add("far")
        relays = [await floor.add(name, offer=OFFER) for name in ("quick", "middling")]
        await floor.start_validators()
        await floor.wait_matrix()
        async with trio.open_nursery() as nursery:
            for relay, other in (relays, relays[::-1]):
                policy = PathPolicy(price_max_microtoken=10_000_000, avoid={other.id})
                nursery.start_soon(use, buyer, far, policy, relay.id)
        await floor.settle()

        sessions = {terms.session_id: (terms, plan.relays) for terms, plan, _ in floor.traders["buyer"].tickets()}
        print(f"{'relay':>9} {'octets':>9} {'predicted':>10} {'measured':>9} {'direct':>7} {'saved':>6} {'full price':>11} {'earned':>7}")
        async with await SqliteStore.open(floor.store_path) as ditex:
            for stored in await ditex.range(Query(kind=Kind.PATH)):
                receipt = receipt_of_statement(Statement.of_record(stored.record))
                receipt.verify(is_accepted=True)
                terms, (relay_id,) = sessions[receipt.session]
                name = buyer.name_of(NodeId(relay_id))
                times = (receipt.predicted_us, receipt.measured_us, receipt.direct_us, receipt.saved_us)
                predicted, measured, direct, saved = (f"{each / 1000:.0f} ms" for each in times)
                full = price_of(receipt.octets, terms.price_microtoken)
                earned = await floor.earned(name)
                print(f"{name:>9} {receipt.octets:>9} {predicted:>10} {measured:>9} {direct:>7} {saved:>6} {full:>11} {earned:>7}")
        print("conserved" if await floor.is_conserved() else "NOT CONSERVED")


trio.run(main)
