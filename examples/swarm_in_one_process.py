"""Six routers in one process, without sockets: the real protocol over links that take their time.

Prints the group's matrix of one-way latencies as one member knows it, then sends a datagram from Frankfurt to Oregon while the direct
link is 150 ms slower than usual, and says which way it took.
"""

from contextlib import AsyncExitStack

import trio

from srwan.gossip import MatrixFilled, recovered_ms
from srwan.overlay import MemoryNetwork
from srwan.routing import FlowEvent, PathSwitched
from srwan.swarm.in_memory import open_memory_node
from srwan.swarm.regions import load_regions
from srwan.types import UdpAddress

WORLD = load_regions(6, seed=1)
ADDRESSES = [f"10.0.0.{index + 1}" for index in range(6)]
CONGESTED = {("10.0.0.1", "10.0.0.2")}  # eu-central-1 -> us-west-2


def delay_s(source: UdpAddress, destination: UdpAddress, _data: bytes) -> float:
    i, j = ADDRESSES.index(source[0]), ADDRESSES.index(destination[0])
    extra_ms = 150.0 if (source[0], destination[0]) in CONGESTED else 0.0
    return (WORLD.owl_ms[i][j] + extra_ms) / 1e3


async def main() -> None:
    network = MemoryNetwork(link=delay_s)
    async with AsyncExitStack() as stack:
        nodes = [
            await stack.enter_async_context(open_memory_node(network, ip, name=region.name))
            for ip, region in zip(ADDRESSES, WORLD.regions, strict=True)
        ]
        frankfurt, oregon = nodes[0], nodes[1]
        async for event in frankfurt.events():
            if isinstance(event, MatrixFilled) and event.members == 6:
                break
        matrix = frankfurt.matrix()
        for member, row in zip(matrix.members, recovered_ms(matrix.mean_ms), strict=True):
            print(f"{frankfurt.name_of(member):>14}", " ".join(f"{value:5.0f}" for value in row), "ms")
        async with frankfurt.open_path("us-west-2") as path:
            async for event in frankfurt.events():
                if isinstance(event, FlowEvent) and isinstance(event.event, PathSwitched):
                    break
            await path.send(b"around the congestion")
            print(await (await oregon.accept_path()).receive(), "came", path.explain())


trio.run(main)
