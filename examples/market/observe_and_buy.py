"""Price = infinity: an enterprise that measures and buys, and never carries for others (whitepaper 10.3).

Run it: python examples/market/observe_and_buy.py      (needs `pip install "srwan[settlement]"`)

The enterprise's router stands so well that everybody's packets would be quickest over it. Its price is infinite: it takes part in the
pulse, all see its latencies, but no path leads over it, whatever anybody is willing to pay. When its own way to the cloud is congested it
buys a better one from a carrier.
"""

from __future__ import annotations

import trio

from srwan.overlay.view import Role
from srwan.routing import PathPolicy
from srwan.swarm.trading import carry, open_trading_floor, wait_until
from srwan.types import UdpAddress

ENTERPRISE, CARRIER, CLOUD, NEIGHBOUR = (f"10.0.0.{number}" for number in range(1, 5))
OWL_MS = {
    frozenset((ENTERPRISE, CARRIER)): 10,
    frozenset((CARRIER, CLOUD)): 10,
    frozenset((ENTERPRISE, CLOUD)): 90,  # congested
    frozenset((ENTERPRISE, NEIGHBOUR)): 5,
    frozenset((NEIGHBOUR, CARRIER)): 50,
    frozenset((NEIGHBOUR, CLOUD)): 100,
}


def delay_s(source: UdpAddress, destination: UdpAddress, _data: bytes) -> float:
    return OWL_MS[frozenset((source[0], destination[0]))] / 1000


async def main() -> None:
    async with open_trading_floor(delay_s) as floor:
        enterprise = await floor.add("enterprise", tokens=20, escrow=10, offer={"price_microtoken_per_gb": "infinity"})
        await floor.add("carrier", offer={"price_microtoken_per_gb": 8_000_000})
        cloud = await floor.add("cloud")
        neighbour = await floor.add("neighbour", tokens=20, escrow=10)
        await floor.start_validators()
        await floor.wait_matrix()
        roles = enterprise.find(enterprise.id).roles
        print(f"the enterprise relays: {Role.RELAY in roles}; it is measured: {enterprise.id in neighbour.matrix().members}")

        rich = PathPolicy(price_max_microtoken=10**15)
        async with neighbour.open_path("carrier", rich) as direct, neighbour.open_path("cloud", rich) as path:
            await direct.send(b"x")
            await path.send(b"x")
            await cloud.accept_path()
            await wait_until(lambda: len(path.status()) > 1)
            used = {node for each in (direct, path) for status in each.status() for node in status.relays}
            print(f"paths of the neighbour lead over: {', '.join(neighbour.name_of(node) for node in sorted(used)) or 'nobody'}")
            print(f"over the enterprise: {enterprise.id in used}")

        async with enterprise.open_path("cloud", PathPolicy(price_max_microtoken=8_000_000)) as path:
            await path.send(b"first")
            far_end = await cloud.accept_path()
            await wait_until(lambda: bool(path.relays))
            print("the enterprise bought:", path.explain())
            await carry(path, far_end, 1_000_000)
        print(f"carrier earned {await floor.settle()} microtokens, the enterprise {await floor.earned('enterprise')}")
        print("conserved" if await floor.is_conserved() else "NOT CONSERVED")


trio.run(main)
