"""Attacks by which a consumer would have its traffic for nothing: false counters, false evidence, partners that turn against the path."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from srwan.ledger_client.record import Version
from srwan.ledger_client.validation.dispute import DisputeEvidence
from srwan.testing.market import Market, SessionScript, router

GB = 10**9
PRICE = 3_000_000
WORTH = 9_000_000
MIXED = ("relay-1", "mallory-1", "relay-3")
"""One relay of the path is the consumer's own."""

Enter = Callable[[str, str, int], None]
ATTACK = "traffic for nothing"


async def open_session(market: Market) -> SessionScript:
    offers = [await market.offer(name, PRICE) for name in MIXED]
    return await market.session(offers, relays=MIXED, consumer="mallory", egress="mallory-egress")


async def settle_and_count(market: Market, script: SessionScript, enter: Enter, variant: str, before: int) -> None:
    """Consumer, egress and one relay are hers: she got from the two others what they ask for one GB."""
    mallory = await market.holdings("mallory", "mallory-1", sessions=[script])
    profit = await mallory.owned_microtoken() - before + 2 * PRICE
    assert WORTH == await script.settled_microtoken()
    enter(ATTACK, variant, profit)


@pytest.mark.parametrize("liars", [("mallory",), ("mallory-egress",), ("mallory-1",), ("mallory", "mallory-1", "mallory-egress")])
async def test_false_counters_keep_no_pay_from_honest_relays(market: Market, enter: Enter, liars: tuple[str, ...]) -> None:
    script = await open_session(market)
    before = await (await market.holdings("mallory", "mallory-1", sessions=[script])).owned_microtoken()
    await script.count(GB, *(name for name in ("mallory", *MIXED, "mallory-egress") if name not in liars))
    for name in liars:
        await market.put(script.counters(name, 0, boot=3, sequence=1))
    await market.put(script.filed(script.filing(GB), "relay-1"))
    await market.pass_s(40)
    await settle_and_count(market, script, enter, f"counters of zero by {len(liars)} of its own", before)


async def test_a_partner_that_rebinds_itself_keeps_no_pay_from_honest_relays(market: Market, enter: Enter) -> None:
    script = await open_session(market)
    before = await (await market.holdings("mallory", "mallory-1", sessions=[script])).owned_microtoken()
    await market.bind("mallory-1", "mallory", sequence=2)
    await script.count(GB)
    await market.put(script.filed(script.filing(GB), "relay-1"))
    await market.pass_s(40)
    await settle_and_count(market, script, enter, "own relay bound elsewhere under way", before)


async def test_evidence_against_ones_own_relay_takes_nothing_back(market: Market, enter: Enter) -> None:
    script = await open_session(market)
    before = await (await market.holdings("mallory", "mallory-1", sessions=[script])).owned_microtoken()
    await script.count(GB)
    await market.put(script.filed(script.filing(GB), "relay-1"))
    await market.pass_s(40)
    pair = tuple(script.counters("mallory-1", octets, boot=5, sequence=sequence).envelope for octets, sequence in ((GB, 1), (0, 2)))
    evidence = DisputeEvidence(script.session_id, ((pair[0], pair[1]),))
    times = {"issued_ns": market.now_ns, "expires_ns": market.now_ns + 10**12}
    await market.put(evidence.statement(router("mallory").node_id, Version(1, 1), **times).record(router("mallory")))
    await market.pass_s(40)
    await settle_and_count(market, script, enter, "payment disputed with own relay's contradiction", before)


async def test_a_receipt_withdrawn_takes_nothing_back(market: Market, enter: Enter) -> None:
    script = await open_session(market)
    before = await (await market.holdings("mallory", "mallory-1", sessions=[script])).owned_microtoken()
    await script.count(GB)
    await market.put(script.filed(script.filing(GB), "relay-1"))
    lower = script.receipt(0)
    await market.put(lower.statement(issued_ns=market.now_ns, expires_ns=market.now_ns + 10**12).record(router("mallory-egress")))
    await market.pass_s(40)
    await settle_and_count(market, script, enter, "a later receipt over nothing", before)
