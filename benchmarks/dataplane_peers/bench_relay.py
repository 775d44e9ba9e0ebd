"""A router of the library in a process of its own, to be loaded from outside: what relays in `relay_alone.py`. A program.

    python bench_relay.py        settings as the first line of standard input, JSON; its end means stop

A whole node (`srwan.open_node`) on a UDP socket, with whatever data plane its settings choose; only the bootstrap plane is in memory, so
nothing of libp2p runs beside the packets. Ends find it by its certificate. Commands and answers are JSON lines: `report` (drops and
sessions), `renew` (new keys with all neighbours), `memory` (resident memory after a garbage collection, bytes).
"""

from __future__ import annotations

import gc
import json
import os
import sys
from typing import Any

import trio

from dataplane_peers import cpu
from srwan.clock import Clock
from srwan.config import make_config
from srwan.identity import Identity
from srwan.node import Node, Sockets, open_node
from srwan.overlay.memory import MemoryNetwork
from srwan.overlay.session import SessionRekeyed
from srwan.routing.planes import open_transport

LINE_BYTES_MAX = 1 << 16


def say(**fields: Any) -> None:
    """Write one JSON line."""
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


async def serve(settings: dict[str, Any]) -> None:
    """Run the router until standard input ends."""
    clock, network, identity = Clock(), MemoryNetwork(), Identity.generate()
    config = make_config(name="relay", **settings)
    control = network.control_channel(identity.node_id)
    sockets = Sockets(identity, open_transport(config.udp, clock, wanted=config.data_plane), control, network.directory(), "", None)
    async with open_node(config, sockets=sockets, clock=clock) as node:
        rekeyed = [0]

        def count(event: object) -> None:
            rekeyed[0] += isinstance(event, SessionRekeyed)

        node.overlay.on_event(count)
        certificate = node.overlay.view.certificate(node.id)
        say(kind="up", certificate=certificate.hex(), node=node.id.hex(), plane=node.status()["data_plane"])
        async for line in trio.lowlevel.FdStream(os.dup(0)):
            for command in line.split(b"\n"):
                if command:
                    answer(node, json.loads(command), rekeyed, clock)


def answer(node: Node, command: dict[str, Any], rekeyed: list[int], clock: Clock) -> None:
    """Do what a command says and say so."""
    match command["do"]:
        case "renew":
            for member in node.view():
                if member.node_id != node.id:
                    node.overlay.sessions.renew(member.node_id, clock.now())
            node.overlay.flush()
            say(kind="renewed")
        case "memory":
            gc.collect()
            say(kind="memory", octets=cpu.memory_bytes(os.getpid()))
        case _:
            counters = node.routing.forwarder.counters()
            relayed = sum(count.packets for count in counters.relayed.values())
            say(kind="report", drops=node.drops(), rekeyed=rekeyed[0], relayed=relayed, tags=len(counters.relayed))


def main() -> None:
    """Run it."""
    settings = json.loads(sys.stdin.buffer.readline(LINE_BYTES_MAX))
    trio.run(serve, settings)


if __name__ == "__main__":
    main()
