"""Many small signed records of made-up subjects, and stores in memory whose exchange runs over a network in memory."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import attrs
import pytest
import trio

from srwan.clock import Clock
from srwan.identity import Identity
from srwan.ledger_client.exchange.service import ExchangeConfig, ExchangeService
from srwan.ledger_client.memory import MemoryStore
from srwan.ledger_client.record import Kind, Record, Version
from srwan.ledger_client.report import NS_PER_S
from srwan.ledger_client.statement import MARKET_GROUP, Statement
from srwan.ledger_client.store import RecordStore
from srwan.overlay.memory import MemoryControlChannel, MemoryNetwork
from srwan.overlay.transport import ControlAddress
from srwan.types import GeoAsn
from srwan.wire import pack

WALL_NS = 1_780_000_000 * NS_PER_S
SUBJECTS = tuple(Identity(bytes([number]) * 32) for number in range(1, 9))


def offer_of(
    subject: int = 0, topic: int = 0, sequence: int = 0, *, era: int = 1, content: int = 0, lifetime_s: int = 3600, kind: Kind = Kind.OFFER
) -> Record:
    """A statement of one of the subjects; `content` makes another one of the same version."""
    identity = SUBJECTS[subject]
    key = (kind, MARKET_GROUP, identity.node_id, topic.to_bytes(2, "big"))
    statement = Statement(*key, Version(era, sequence), WALL_NS, WALL_NS + lifetime_s * NS_PER_S, pack([content]))
    return statement.record(identity, GeoAsn("DE", asn=3320))


@attrs.frozen
class Server:
    """One store with its exchange."""

    store: RecordStore
    channel: MemoryControlChannel
    exchange: ExchangeService

    @property
    def address(self) -> ControlAddress:
        """For others."""
        return self.channel.local_address


@asynccontextmanager
async def open_servers(
    count: int = 2, *, stores: Sequence[RecordStore] = (), config: ExchangeConfig | None = None
) -> AsyncIterator[list[Server]]:
    """Servers that ask nobody by themselves; `sync` runs a session."""
    network = MemoryNetwork()
    clock = Clock(read_realtime_ns=lambda: WALL_NS)
    servers: list[Server] = []
    async with trio.open_nursery() as nursery:
        for number in range(count):
            channel = network.control_channel(Identity(bytes([200 + number]) * 32).node_id)
            store = stores[number] if stores else MemoryStore()
            exchange = ExchangeService(store, channel, clock, random.Random(number), config=config or ExchangeConfig(is_pruning=False))
            await nursery.start(exchange.run)
            await exchange.wait_filled()
            servers.append(Server(store, channel, exchange))
        yield servers
        nursery.cancel_scope.cancel()
    for server in servers:
        await server.store.aclose()


@pytest.fixture(scope="session")
def wall_ns() -> int:
    """The time at which everything here is issued."""
    return WALL_NS


@pytest.fixture(scope="session")
def make_offer() -> Callable[..., Record]:
    """`offer_of`."""
    return offer_of


@pytest.fixture(scope="session")
def serving() -> Callable[..., object]:
    """`open_servers`."""
    return open_servers
