"""Network as a service: a network of segments of others, from a description of what must hold between one's sites (whitepaper 10.2).

Run it: python examples/market/virtual_network.py      (needs `pip install "srwan[settlement]"`)

A firm wants its sites in Frankfurt and Tokyo no further apart than 120 ms, by two paths that share no relay, for at most 20 tokens a GB
each, and not through one country. Four relays offer segments between them. The plan takes the cheapest pair that does it, and buys it. When
one relay raises its price, the plan changes, and says what to open and what to close.
"""

from __future__ import annotations

import time
from typing import Any

import trio

from srwan.ledger_client.market.network import BoughtPath, Market, NetworkSpec, PlanDiff, SegmentTable, VirtualNetwork
from srwan.ledger_client.market.service import make_offer
from srwan.node import Node
from srwan.offer_config import make_offer_settings
from srwan.routing import PathPolicy
from srwan.swarm.trading import TradingFloor, carry, open_trading_floor, wait_until
from srwan.types import UdpAddress

RELAYS: dict[str, tuple[str, int, float]] = {
    # country, microtokens a GB, ms to either site
    "warsaw": ("PL", 6_000_000, 50.0),
    "dubai": ("AE", 9_000_000, 45.0),
    "mumbai": ("IN", 12_000_000, 55.0),
    "elsewhere": ("XX", 1_000_000, 40.0),
}
LEG_MS = {f"10.0.0.{index}": leg_ms for index, (_, _, leg_ms) in enumerate(RELAYS.values(), 3)}
SPARE_MS = 80.0
"""Between relays."""
DIRECT_MS = 150.0


def delay_s(source: UdpAddress, destination: UdpAddress, _data: bytes) -> float:
    legs = [LEG_MS[ip] for ip in (source[0], destination[0]) if ip in LEG_MS]
    return (DIRECT_MS if not legs else legs[0] if len(legs) == 1 else SPARE_MS) / 1000


def market_of(site: Node) -> Market:
    """What a site knows now: the group's matrix, its offer book, and the places that members declare."""
    assert site.money is not None
    matrix = site.matrix()
    places = {member.node_id: member.location.country for member in site.view()}
    table = SegmentTable.of_matrix(matrix.members, matrix.mean_ms, matrix.loss)
    return Market(table, site.money.book, time.time_ns(), places.__getitem__)


def show(what: str, diff: PlanDiff, site: Node) -> None:
    print(what)
    for words, paths in (("open ", diff.opened), ("close", diff.closed), ("keep ", diff.kept)):
        for path in paths:
            way = " - ".join(site.name_of(node) for node in path.way)
            print(f"  {words} {way}: {path.owl_us / 1000:.0f} ms, {path.price_microtoken} microtokens a GB")
    for unmet in diff.unmet:
        print(f"  unmet: {unmet.demand.source} to {unmet.demand.target}: {unmet.reason}")


async def buy(floor: TradingFloor, diff: PlanDiff, octets: int) -> None:
    """Send some octets on each path that starts at Frankfurt, paid up to what was planned."""
    frankfurt, tokyo = (floor.traders[name].node for name in ("frankfurt", "tokyo"))

    async def use(planned: BoughtPath) -> None:
        policy = PathPolicy(via=planned.relays, fallback=False, price_max_microtoken=planned.price_microtoken)
        async with frankfurt.open_path(planned.target, policy) as path:
            await path.send(b"first")
            await carry(path, await tokyo.accept_path(), octets)

    async with trio.open_nursery() as nursery:
        for planned in diff.opened:
            if planned.source == frankfurt.id:
                nursery.start_soon(use, planned)


async def main() -> None:
    async with open_trading_floor(delay_s) as floor:
        frankfurt = await floor.add("frankfurt", tokens=60, escrow=50, location={"country": "DE"})
        tokyo = await floor.add("tokyo", tokens=60, escrow=50, location={"country": "JP"})
        for name, (country, price, _) in RELAYS.items():
            await floor.add(name, offer={"price_microtoken_per_gb": price}, location={"country": country})
        await floor.start_validators()
        await floor.wait_matrix()
        link: dict[str, Any] = {"owl_ms_max": 120, "paths": 2, "relays_max": 1, "price_max_microtoken": 20_000_000, "avoid": ["XX"]}
        sites = {"frankfurt": str(frankfurt.id), "tokyo": str(tokyo.id)}
        spec = NetworkSpec.of_table({"sites": sites, "links": [{"between": ["frankfurt", "tokyo"], **link}]})
        assert frankfurt.money is not None
        book = frankfurt.money.book
        await wait_until(lambda: len(book.offers()) == len(RELAYS))

        network = VirtualNetwork(spec)
        plan = network.update(market_of(frankfurt))
        show("first plan:", plan, frankfurt)
        await buy(floor, plan, 300_000)
        await floor.settle()
        earned = {name: await floor.earned(name) for name in RELAYS}
        print("earned:", ", ".join(f"{name} {microtoken}" for name, microtoken in earned.items()), "microtokens")

        warsaw = floor.traders["warsaw"]
        assert warsaw.node.money is not None
        assert warsaw.node.money.market is not None
        dearer = make_offer_settings({"price_microtoken_per_gb": 25_000_000})
        await warsaw.node.money.market.list_offer(
            lambda wall_ns, version: make_offer(dearer, warsaw.node.id, wall_ns, version=version, wallet=warsaw.wallet.address)
        )
        await wait_until(lambda: book.price_of(warsaw.node.id, time.time_ns()) == 25_000_000)
        show("when warsaw asks for more:", network.update(market_of(frankfurt)), frankfurt)
        print("conserved" if await floor.is_conserved() else "NOT CONSERVED")


trio.run(main)
