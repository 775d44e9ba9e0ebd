"""Money on real sockets: traffic over a priced relay ends in a claim that the settlement engine pays; who does not pay is slowed down."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

import srwan
from srwan.config import make_config
from srwan.ledger_client.accounting.counters import SessionRole, counters_of_statement
from srwan.ledger_client.accounting.events import ClaimFiled, DebtThrottled, SessionOpened, TicketReceived
from srwan.ledger_client.accounting.receipt import receipt_of_statement
from srwan.ledger_client.accounting.relay_account import RelaySettings
from srwan.ledger_client.record import Kind
from srwan.ledger_client.settlement.deploy import Deployment
from srwan.ledger_client.settlement.pyevm import PyEvmSettlement
from srwan.ledger_client.settlement.settlement import batch_digest, binding_digest
from srwan.ledger_client.settlement.signing import WalletKey
from srwan.ledger_client.settlement.terms import price_of
from srwan.ledger_client.sqlite import SqliteStore
from srwan.ledger_client.statement import Statement
from srwan.ledger_client.store import Query
from srwan.ledger_client.validation.checks import Evidence, Tolerance, check_claim
from srwan.ledger_client.validation.claim import ClaimFiling
from srwan.money import Purse
from srwan.node import Node, open_node

HERE: dict[str, Any] = {"udp": "127.0.0.1:0", "control": "127.0.0.1:0", "lone_after_s": 1.0}
PRICE = 10_000_000
TOKENS = 1_000_000_000


@attrs.frozen
class Market:
    """Three routers, the middle one with a price, and their engine."""

    settlement: PyEvmSettlement
    validator: WalletKey
    consumer: Node
    relay: Node
    egress: Node


@pytest.fixture
async def market(tmp_path: Path) -> AsyncIterator[Market]:
    deployer, validator = WalletKey(bytes([9]) * 32), WalletKey(bytes([8]) * 32)
    wallets = (WalletKey(bytes([1]) * 32), WalletKey(bytes([2]) * 32), WalletKey(bytes([3]) * 32))
    deployment = Deployment((validator.address,), 1, 10 * TOKENS, genesis=((wallets[0].address, TOKENS),))
    async with AsyncExitStack() as stack:
        settlement = await stack.enter_async_context(await PyEvmSettlement.deploy(None, deployer, deployment))
        await settlement.deposit(wallets[0], TOKENS // 2)
        nodes: list[Node] = []
        for name, wallet in zip(("consumer", "relay", "egress"), wallets, strict=True):
            settings: dict[str, Any] = dict(HERE, name=name, state_dir=tmp_path / name)
            if nodes:
                settings["bootstrap"] = [nodes[0].multiaddr]
            if name == "relay":
                settings["offer"] = {"price_microtoken_per_gb": PRICE}
            purse = Purse(settlement, wallet)
            nodes.append(await stack.enter_async_context(open_node(make_config(**settings), purse=purse)))
        with trio.fail_after(30):
            await until(lambda: all(len(node.view()) == 3 for node in nodes))
        digest = binding_digest(settlement.domain, nodes[1].id, wallets[1].address, 1)
        await settlement.bind(deployer, nodes[1].id, wallets[1].address, 1, wallets[1].sign(digest), [validator.sign(digest)])
        yield Market(settlement, validator, nodes[0], nodes[1], nodes[2])


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():  # noqa: ASYNC110 - what is waited for happens on three nodes and in worker threads
        await trio.sleep(0.02)


def price_known(node: Node, seller: Node) -> int | None:
    assert node.money is not None
    return node.money.book.price_of(seller.id, node._clock.wall_ns())


async def wait_for(node: Node, kind: type[Any], seen: list[Any]) -> None:
    async for event in node.events():
        seen += [event] if isinstance(event, kind) else []


async def test_traffic_over_a_priced_relay_ends_in_a_claim_that_is_paid(market: Market) -> None:
    consumer, relay, egress = market.consumer, market.relay, market.egress
    tickets: list[TicketReceived] = []
    opened: list[SessionOpened] = []
    claims: list[ClaimFiled] = []
    policy = srwan.PathPolicy(via=(relay.id,), price_max_microtoken=PRICE)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for node, kind, seen in ((relay, TicketReceived, tickets), (consumer, SessionOpened, opened), (relay, ClaimFiled, claims)):
                nursery.start_soon(wait_for, node, kind, seen)
            assert consumer.money is not None
            await until(lambda: price_known(consumer, relay) == PRICE)
            async with consumer.open_path("egress", policy) as path:
                await send_until(path, egress, lambda: bool(tickets) and tickets[-1].octets > 1_000_000)
                assert (relay.id,) == path.relays
            assert relay.money is not None
            assert egress.money is not None
            for node in (egress, consumer, relay):
                assert node.money is not None
                await node.money.flush()
            nursery.cancel_scope.cancel()
    assert [((relay.id,), egress.id, PRICE)] == [(event.relays, event.egress, event.price_microtoken) for event in opened]
    last = tickets[-1]
    assert price_of(last.octets, PRICE) == last.amount_microtoken
    await require_paid(market, last.session, claims)


async def send_until(path: srwan.Path, egress: Node, is_enough: Callable[[], bool]) -> None:
    incoming: srwan.Path | None = None
    while not is_enough():
        for _ in range(20):
            path.send_nowait(bytes(1200))
        if incoming is None:
            incoming = await egress.accept_path()
        await trio.sleep(0.01)


async def require_paid(market: Market, session: bytes, claims: list[ClaimFiled]) -> None:
    """What is in the relay's DITEX is all that validators need, and the engine pays it."""
    relay_store = market.relay.money._store if market.relay.money is not None else None
    assert isinstance(relay_store, SqliteStore)
    (claim,) = [stored.record for stored in await relay_store.range(Query(kind=Kind.CLAIM, topic=session))]
    filing = ClaimFiling.decode(Statement.of_record(claim).content)
    filing.verify(market.settlement.domain)
    assert session == filing.session
    assert claims[-1].amount_microtoken == filing.claim.ticket.amount_microtoken
    (counted,) = [stored.record for stored in await relay_store.range(Query(kind=Kind.COUNTERS))]
    relayed = counters_of_statement(Statement.of_record(counted)).session(session, SessionRole.RELAYED)
    assert relayed is not None
    assert relayed.octets > filing.claim.ticket.octets
    egress_store = market.egress.money._store if market.egress.money is not None else None
    assert isinstance(egress_store, SqliteStore)
    (published,) = [stored.record for stored in await egress_store.range(Query(kind=Kind.PATH))]
    receipt = receipt_of_statement(Statement.of_record(published))
    receipt.verify(is_accepted=True)
    assert receipt.octets >= filing.claim.ticket.octets
    assert market.relay.money is not None
    offer = market.relay.money.seller.offer
    assert offer is not None
    payee = filing.claim.terms.payees[0]
    counters = {market.relay.id: counters_of_statement(Statement.of_record(counted))}
    state = await market.settlement.session(session)
    evidence = Evidence(state, {market.relay.id: payee}, {offer.digest: offer}, counters)
    finding = check_claim(filing, market.relay.id, evidence, market.settlement.domain, Tolerance())
    assert finding.is_accepted, finding
    signature = market.validator.sign(batch_digest(market.settlement.domain, [filing.claim]))
    (settled,) = await market.settlement.settle(market.validator, [filing.claim], [signature])
    assert filing.claim.ticket.amount_microtoken == settled.paid_microtoken > 0


async def test_who_pays_nothing_is_slowed_down_not_cut(market: Market) -> None:
    consumer, relay, egress = market.consumer, market.relay, market.egress
    assert relay.money is not None
    assert relay.money.accounting is not None
    account = relay.money.accounting.relay
    assert account is not None
    account._settings = RelaySettings(credit_octets=200_000, free_octets_per_s=40_000)
    assert consumer.money is not None
    consumer.money.accounting = None  # it chooses the path, and will not pay
    throttled: list[DebtThrottled] = []
    policy = srwan.PathPolicy(via=(relay.id,), price_max_microtoken=PRICE)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_for, relay, DebtThrottled, throttled)
            await until(lambda: price_known(consumer, relay) == PRICE)
            async with consumer.open_path("egress", policy) as path:
                await send_until(path, egress, lambda: bool(throttled))
                before = received(egress)
                incoming_is_cut = await goes_on(path, egress, relay)
            nursery.cancel_scope.cancel()
    assert not incoming_is_cut
    assert [(consumer.id, None)] == [(event.node, event.session) for event in throttled]
    assert throttled[0].owed_octets > 200_000
    assert relay.drops()["throttled"] > 100
    assert received(egress) > before


def received(egress: Node) -> int:
    return sum(count.octets for count in egress.routing.forwarder.counters().received.values())


async def goes_on(path: srwan.Path, egress: Node, relay: Node) -> bool:
    """Send on until enough was dropped; say whether nothing at all comes through any more."""
    before = received(egress)
    while relay.drops().get("throttled", 0) <= 100 or received(egress) == before:
        for _ in range(20):
            path.send_nowait(bytes(1200))
        await trio.sleep(0.01)
    return received(egress) == before
