"""Nodes that neither pay nor charge still know who asks a price, and keep off: nobody could pay that relay, and it would slow them down."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from srwan.ledger_client.settlement.deploy import Deployment
from srwan.ledger_client.settlement.pyevm import PyEvmSettlement
from srwan.ledger_client.settlement.signing import WalletKey
from srwan.money import Purse
from srwan.node import Node
from srwan.overlay.memory import MemoryNetwork
from srwan.routing.policy import PathPolicy
from srwan.swarm.clocks import TrioClock
from srwan.swarm.in_memory import open_memory_node

PRICE = 5_000_000
WALLET = WalletKey(bytes([1]) * 32)


@pytest.fixture
async def nodes(autojump_clock: MockClock) -> AsyncIterator[dict[str, Node]]:
    """A sender and a receiver without money, a relay with a price, and one without."""
    network, clock = MemoryNetwork(), TrioClock()
    autojump_clock.autojump_threshold = 0.005  # the embedded engine and the stores work in threads
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(await PyEvmSettlement.deploy(None, WALLET, Deployment((WALLET.address,), 1, 10**6)))
        found: dict[str, Node] = {}
        for number, name in enumerate(("sender", "receiver", "dear", "free"), 1):
            purse = Purse(engine, WALLET) if name == "dear" else None
            settings: dict[str, Any] = {"offer": {"price_microtoken_per_gb": PRICE}} if name == "dear" else {}
            opened = open_memory_node(network, f"10.0.0.{number}", name=name, clock=clock, purse=purse, **settings)
            found[name] = await stack.enter_async_context(opened)
        with trio.fail_after(60):
            while any(len(node.view()) < len(found) for node in found.values()):  # noqa: ASYNC110 - four nodes tell each other
                await trio.sleep(0.1)
        yield found


@pytest.mark.parametrize(("relay", "is_taken"), [("dear", False), ("free", True)])
async def test_a_relay_that_asks_a_price_is_not_taken_even_when_it_is_forced(nodes: dict[str, Node], relay: str, is_taken: bool) -> None:
    sender, via = nodes["sender"], nodes[relay].id
    assert (None, None) == (sender.config.offer, sender.status()["money"]["wallet"])
    async with sender.open_path("receiver", PathPolicy(via=(via,))) as path:
        await path.send(b"first")
        assert ((via,) if is_taken else ()) == path.relays
        await trio.sleep(2)
        assert ((via,) if is_taken else ()) == path.relays


async def test_a_tunnel_over_a_relay_leaves_it_as_soon_as_its_price_is_known(nodes: dict[str, Node]) -> None:
    """A gateway's flows do not wait for prices: they begin as they are told."""
    sender, receiver, dear = nodes["sender"], nodes["receiver"].id, nodes["dear"].id
    flow = await sender.routing.open(receiver, PathPolicy(via=(dear,)), timeout_s=10)
    with trio.fail_after(5):
        while flow.control is None or flow.control.active[0]:  # noqa: ASYNC110 - path choice looks every now and then
            await trio.sleep(0.1)
    assert sender.money is not None
    assert sender.money.book.is_known(dear)


async def test_the_price_is_known_by_asking(nodes: dict[str, Node]) -> None:
    sender, clock = nodes["sender"], TrioClock()
    assert sender.money is not None
    await sender.money.learn_prices([nodes["dear"].id, nodes["free"].id])
    assert [PRICE, 0] == [sender.money.book.price_of(nodes[name].id, clock.wall_ns()) for name in ("dear", "free")]
    assert 1 == sender.status()["money"]["offers_known"]
