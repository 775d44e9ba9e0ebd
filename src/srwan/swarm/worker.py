"""One router of a swarm: a node on real sockets behind emulated links and a wrong clock, steered over standard input.

Run by `srwan.swarm.supervisor`; not meant to be started by hand. The first line of standard input is `Settings`, later lines are commands,
its end means stop. Events go out as JSON lines with `t`, the machine-wide monotonic time. The worker also holds the two ends of the
demonstration's application, on the public API: a sender of numbered datagrams and a receiver that logs their arrival.
"""

from __future__ import annotations

import json
import logging
import os
import random
import struct
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import attrs
import trio

import srwan
from srwan.ledger_client.settlement.signing import Address, SettlementDomain, WalletKey
from srwan.node import EventStream, Sockets, open_sockets
from srwan.swarm.clocks import SkewedClock
from srwan.swarm.links import EmulatedTransport, Link
from srwan.swarm.regions import BASE_LOSS, load_regions

if TYPE_CHECKING:
    from srwan.money import Purse

__all__ = ["Settings"]

_NUMBERED = struct.Struct("<Qd")
"""Number of a datagram and the monotonic time of its sending: all routers share one machine, so the true delay can be told."""
BODY_BYTES = 1000
"""Of a datagram, as of a video call's."""
LINE_BYTES_MAX = 64 * 1024
ARRIVALS_KEPT_MAX = 200_000


@attrs.frozen(kw_only=True)
class Settings:
    """First line of a worker's standard input."""

    index: int
    """Place in the world."""
    routers: int
    """Size of the world."""
    seed: int
    """Draws the world's asymmetry and this router's link noise."""
    network: str
    """Network name, so that swarms on one machine do not mix."""
    addresses: list[str]
    """IP address of each router of the world, by index."""
    bootstrap: list[str]
    """Multiaddrs of introducers; empty for the first router."""
    state_dir: str
    """Folder of identity and address book."""
    ditex: str
    """Path of the record store the group publishes to."""
    clock_offset_s: float
    """How far the router's clock is off at the start."""
    clock_drift_ppm: float
    """How much faster than true it runs."""
    purse: dict[str, Any] | None = None
    """Where its money is: url, chain_id, contract, secret of the wallet, price_microtoken for a GB it carries; None: it carries for
    nothing."""


def say(kind: str, **fields: Any) -> None:
    """Print one event line."""
    sys.stdout.write(json.dumps({"kind": kind, "t": time.monotonic(), **fields}) + "\n")
    sys.stdout.flush()


class Worker:
    """Runs one node and obeys the supervisor."""

    def __init__(self, settings: Settings) -> None:
        world = load_regions(settings.routers, settings.seed)
        me = settings.index
        self._settings = settings
        self._region = world.regions[me]
        self._links = {
            address: Link(world.owl_ms[me][j], world.jitter_ms[me][j], BASE_LOSS) for j, address in enumerate(settings.addresses) if j != me
        }
        self._clock = SkewedClock(round(settings.clock_offset_s * 1e9), settings.clock_drift_ppm)
        self._streams = trio.CancelScope()
        self._sent: list[float] = []
        self._arrivals: list[tuple[int, float, float]] = []

    async def run(self, lines: AsyncIterator[bytes]) -> None:
        """Run until told to stop or until `lines` ends because the supervisor is gone."""
        s = self._settings
        ip = s.addresses[s.index]
        config = srwan.make_config(
            network=s.network,
            name=self._region.name,
            state_dir=s.state_dir,
            udp=f"{ip}:0",
            control=f"{ip}:0",
            bootstrap=s.bootstrap,
            location=self._region.location,
            ditex=s.ditex,
            lone_after_s=30.0,  # a dozen processes starting on two cores need some seconds to find each other
            **({} if s.purse is None else {"offer": {"price_microtoken_per_gb": s.purse["price_microtoken"]}}),
        )
        commands, received = trio.open_memory_channel[dict[str, Any]](64)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read_commands, lines, commands, nursery.cancel_scope)
            async with open_sockets(config, self._clock) as sockets:
                say("up", pid=os.getpid(), multiaddr=sockets.multiaddr, udp=list(sockets.datagrams.local_addresses[0]))
                rng = random.Random(f"srwan/links/{s.seed}/{s.index}")
                emulated = EmulatedTransport(sockets.datagrams, self._links, rng, trio.current_time)
                async with trio.open_nursery() as links:
                    links.start_soon(emulated.run)
                    await self._run_node(config, attrs.evolve(sockets, datagrams=emulated), received)

    async def _read_commands(
        self, lines: AsyncIterator[bytes], commands: trio.MemorySendChannel[dict[str, Any]], scope: trio.CancelScope
    ) -> None:
        async for line in lines:
            command = json.loads(line)
            if command["do"] == "stop":
                break
            await commands.send(command)
        scope.cancel()

    async def _run_node(self, config: srwan.NodeConfig, sockets: Sockets, commands: trio.MemoryReceiveChannel[dict[str, Any]]) -> None:
        async with AsyncExitStack() as stack:
            purse = None if self._settings.purse is None else await stack.enter_async_context(_open_purse(self._settings.purse))
            node = await stack.enter_async_context(srwan.open_node(config, sockets=sockets, clock=self._clock, purse=purse))
            nursery = await stack.enter_async_context(trio.open_nursery())
            events = node.events()  # before the present view is told: a change in between would never be
            say("ViewChanged", size=len(node.view()), digest=node.overlay.view.digest.hex())
            nursery.start_soon(self._tell_events, node, events)
            nursery.start_soon(self._receive, node)
            async for command in commands:
                self._obey(node, nursery, command)

    def _obey(self, node: srwan.Node, nursery: trio.Nursery, command: dict[str, Any]) -> None:
        match command:
            case {"do": "stream", "to": str(to), "rate": float(rate), "price_max_microtoken": int(price_max)}:
                nursery.start_soon(self._stream, node, to, rate, price_max)
            case {"do": "stop_stream"}:
                self._streams.cancel()
            case {"do": "congest", "ip": str(ip), "ms": float(added_ms), "loss": float(loss)}:
                self._links[ip].congestion_ms = added_ms
                self._links[ip].congestion_loss = loss
            case {"do": "arrivals"}:
                say("arrivals", arrivals=self._arrivals)
            case {"do": "settle_up"}:
                nursery.start_soon(self._settle_up, node)
            case {"do": "status"}:
                say("status", **node.status())
            case _:
                raise ValueError(f"unknown command {command!r}")

    async def _tell_events(self, node: srwan.Node, events: EventStream) -> None:
        async for event in events:
            described = node.describe(event)
            say(described.pop("event"), **described)

    async def _settle_up(self, node: srwan.Node) -> None:
        """Publish accounts now: a demonstration does not wait for a GB."""
        if node.money is not None:
            await node.money.flush()
        say("settled_up")

    async def _stream(self, node: srwan.Node, to: str, rate: float, price_max_microtoken: int) -> None:
        """The application: number datagrams and send them, `rate` a second, over the best path that costs no more."""
        with self._streams:
            async with node.open_path(to, srwan.PathPolicy(price_max_microtoken=price_max_microtoken)) as path:
                say("path_open", explain=path.explain())
                start = trio.current_time()
                for number in range(ARRIVALS_KEPT_MAX):
                    await path.send(_NUMBERED.pack(number, time.monotonic()).ljust(BODY_BYTES, b"\0"))
                    self._sent.append(time.monotonic())
                    await trio.sleep_until(start + (number + 1) / rate)
        say("stream_ended", sent=self._sent)

    async def _receive(self, node: srwan.Node) -> None:
        """The application's other end: log what arrives on any path."""
        async with trio.open_nursery() as nursery:
            while True:
                path = await node.accept_path()
                nursery.start_soon(self._log_arrivals, path)

    async def _log_arrivals(self, path: srwan.Path) -> None:
        async with path:
            async for data in path:
                arrived = time.monotonic()
                if len(data) == BODY_BYTES and len(self._arrivals) < ARRIVALS_KEPT_MAX:
                    number, sent = _NUMBERED.unpack_from(data)
                    self._arrivals.append((number, sent, arrived))


@asynccontextmanager
async def _open_purse(settings: Mapping[str, Any]) -> AsyncIterator[Purse]:
    """Reach the engine that the settings name."""
    from srwan.ledger_client.settlement.jsonrpc import JsonRpcSettlement, NodeOptions  # noqa: PLC0415 - only for who has money
    from srwan.money import Purse  # noqa: PLC0415

    domain = SettlementDomain(settings["chain_id"], Address.parse(settings["contract"]))
    options = NodeOptions(confirmations=1)  # of a development node, whose blocks are final
    async with await JsonRpcSettlement.open(settings["url"], domain, options=options) as settlement:
        yield Purse(settlement, WalletKey(bytes.fromhex(settings["secret"])))


async def _lines(stream: trio.abc.ReceiveStream) -> AsyncIterator[bytes]:
    buffer = bytearray()
    async for chunk in stream:
        buffer += chunk
        while (end := buffer.find(b"\n")) >= 0:
            yield bytes(buffer[:end])
            del buffer[: end + 1]
        if len(buffer) > LINE_BYTES_MAX:
            raise ValueError(f"a command line of over {LINE_BYTES_MAX} bytes")


async def _main() -> None:
    async with trio.lowlevel.FdStream(0) as stdin:
        lines = _lines(stdin)
        async for first in lines:
            await Worker(Settings(**json.loads(first))).run(lines)
            break


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(name)s %(levelname)s %(message)s")
    trio.run(_main)
