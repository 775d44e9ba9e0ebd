"""Every datagram on two paths that share no relay: what one of them loses, the other one mostly brings, and nothing comes twice.

Four routers in one process; all links to and from Oslo lose every fifth datagram, so that no path is better than another. Prints how many
of 200 datagrams came with one path and with two.
"""

import random
from contextlib import AsyncExitStack

import trio

from srwan.gossip import MatrixFilled
from srwan.node import Node
from srwan.overlay import MemoryNetwork
from srwan.routing import PathPolicy
from srwan.swarm.in_memory import open_memory_node
from srwan.types import UdpAddress

NAMES = ("paris", "oslo", "madrid", "rome")
OSLO = "10.0.0.2"
rng = random.Random(1)
loss = {"share": 0.0}


def delay_s(source: UdpAddress, destination: UdpAddress, _data: bytes) -> float | None:
    if OSLO in (source[0], destination[0]) and rng.random() < loss["share"]:
        return None
    return 0.020


async def count(paris: Node, oslo: Node, policy: PathPolicy) -> tuple[int, int]:
    """Send 200 datagrams and return how many came, and how many of them twice."""
    loss["share"] = 0.0
    came: list[bytes] = []
    async with paris.open_path("oslo", policy) as path:
        await path.send(b"first")
        other_end = await oslo.accept_path()
        await other_end.receive()
        for _ in range(100):
            if sum(each.is_warm for each in path.status()) == 3:
                break
            await trio.sleep(0.1)
        loss["share"] = 0.2
        for number in range(200):
            await path.send(number.to_bytes(2, "big"))
            await trio.sleep(0.01)
        with trio.move_on_after(1.0):
            while True:
                came.append(await other_end.receive())
    return len(set(came)), len(came) - len(set(came))


async def main() -> None:
    network = MemoryNetwork(link=delay_s)
    async with AsyncExitStack() as stack:
        nodes = [
            await stack.enter_async_context(open_memory_node(network, f"10.0.0.{index}", name=name, pulse_period_s=1.0))
            for index, name in enumerate(NAMES, 1)
        ]
        async for event in nodes[0].events():
            if isinstance(event, MatrixFilled) and event.members == len(NAMES):
                break
        for mode in ("single", "repeat"):
            came, twice = await count(nodes[0], nodes[1], PathPolicy(mode=mode))
            print(f"{mode}: {came} of 200 datagrams came, {twice} of them twice")


trio.run(main)
