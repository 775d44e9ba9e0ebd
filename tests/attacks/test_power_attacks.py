"""Attacks of those who decide or register: a minority of validators, and wallets that claim routers of others."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest

from srwan.errors import SettlementRefused
from srwan.ledger_client.record import Version
from srwan.ledger_client.settlement.settlement import Claim, batch_digest, binding_digest
from srwan.ledger_client.settlement.ticket import sign_ticket
from srwan.ledger_client.validation.batch import BatchItem, SignedBatch, items_digest
from srwan.ledger_client.validation.binding import BINDING_TOPIC, BindingRequest
from srwan.ledger_client.validation.claim import ClaimFiling
from srwan.ledger_client.validation.seat import sign_seat
from srwan.ledger_client.validation.verdict import ACCEPTED, ClaimVerdict
from srwan.testing.market import SLOT_S, Market, SessionScript, router, wallet

GB = 10**9
PRICE = 3_000_000
WORTH = 9_000_000
RELAYS = ("relay-1", "relay-2", "relay-3")

Enter = Callable[[str, str, int], None]


async def forge_for(market: Market, script: SessionScript, names: list[str]) -> None:
    """Verdicts and batches of validators that work for the attacker, for a claim without any receipt."""
    for name in names:
        identity, key = router(name), wallet(name)
        seal = sign_seat(key, market.domain, identity.node_id)
        amount = script.terms.cap_microtoken
        verdict = ClaimVerdict(script.session_id, 100 * GB, amount, ACCEPTED, seal)
        times = {"issued_ns": market.now_ns, "expires_ns": market.now_ns + 10**12}
        await market.put(verdict.statement(identity.node_id, Version(9, market.now_s), **times).record(identity))
        items = (BatchItem(script.session_id, 100 * GB, amount),)
        batch = SignedBatch(market.now_s // SLOT_S, items, key.sign(items_digest(market.domain, items)), ACCEPTED, seal)
        await market.put(batch.statement(identity.node_id, slot_s=SLOT_S).record(identity))


# ---- validator minority


@pytest.mark.parametrize("captured", [1, 2])
async def test_a_minority_of_validators_pays_nobody(market_of_five: Market, enter: Enter, captured: int) -> None:
    """They swear that a hundred GB were carried, in every slot; the consumer even signed a ticket, as one of them did."""
    market = market_of_five
    offers = [await market.offer(name, PRICE) for name in ("mallory-1", "mallory-2")]
    script = await market.session(offers, relays=("mallory-1", "mallory-2"))
    mallory = await market.holdings("mallory-1", "mallory-2")
    names = [seat.name for seat in market.seats[:captured]]
    for seat in market.seats[:captured]:
        seat.is_up = False
    for _ in range(7):
        await forge_for(market, script, names)
        await market.pass_s(SLOT_S)

    claim = Claim(script.terms, sign_ticket(wallet("consumer"), market.domain, script.terms, 100 * GB, 600_000_000))
    digest = batch_digest(market.domain, [claim])
    mine = [wallet(name).sign(digest) for name in names]
    strangers = [wallet(name).sign(digest) for name in ("mallory", "mallory-1")]
    for signatures, word in ((mine, "quorum"), ([*mine, mine[0], mine[0]], "quorum"), ([*mine, *strangers], "validator")):
        with pytest.raises(SettlementRefused, match=word):
            await market.settlement.settle(wallet("mallory"), [claim], signatures)

    assert 0 == await script.settled_microtoken()
    enter("validator minority", f"{captured} of 5 sign false claims", await mallory.profit_microtoken())


async def test_a_minority_of_validators_cannot_keep_a_payment_from_anybody(market_of_five: Market, enter: Enter) -> None:
    """They work for the consumer, who wants his traffic for nothing."""
    market = market_of_five
    offers = [await market.offer(name, PRICE) for name in RELAYS]
    script = await market.session(offers, consumer="mallory")
    mallory = await market.holdings("mallory", sessions=[script])
    for seat in market.seats[3:]:
        seat.is_up = False
    await script.deliver(GB)
    await market.pass_s(120)
    enter("validator minority", "2 of 5 sign nothing, for the consumer", await mallory.profit_microtoken(got_microtoken=WORTH))


# ---- node-key squatting


async def test_a_router_of_another_cannot_be_bound_to_ones_own_wallet(market: Market, enter: Enter) -> None:
    offers = [await market.offer(name, PRICE) for name in RELAYS]
    mallory = await market.holdings("mallory")
    victim = router("relay-1").node_id
    mine = BindingRequest.sign(router("mallory-1"), wallet("mallory"), market.domain, 9)
    request = attrs.evolve(
        mine, node=victim, wallet_signature=wallet("mallory").sign(binding_digest(market.domain, victim, wallet("mallory").address, 9))
    )
    times = {"issued_ns": market.now_ns, "expires_ns": market.now_ns + 10**12}
    record = attrs.evolve(request, node=router("mallory-1").node_id).statement(Version(1, 1), **times).record(router("mallory-1"))
    assert await market.try_put(attrs.evolve(record, subject=victim))  # filed under the victim's id: the store refuses
    await market.put(record)  # under its own: then it is a request about its own router, with a signature for another
    for seat in market.seats:
        seat.service.core.receive_record(attrs.evolve(record, subject=victim))
    await market.pass_s(40)
    with pytest.raises(SettlementRefused, match="quorum"):
        await market.settlement.bind(wallet("mallory"), victim, wallet("mallory").address, 9, request.wallet_signature, [])
    assert wallet("relay-1").address == await market.settlement.wallet_of(victim)

    script = await market.session(offers, payees=("mallory", "relay-2", "relay-3"))  # a session that would pay it all the same
    await script.count(GB)
    await market.put(script.filed(script.filing(GB)))
    await market.pass_s(40)
    assert 0 == await script.settled_microtoken()
    enter("node-key squatting", "binding another's router", await mallory.profit_microtoken())


async def test_an_unbound_router_cannot_be_squatted_first(market: Market, enter: Enter) -> None:
    victim = router("newcomer")
    mallory = await market.holdings("mallory")
    stolen = BindingRequest.sign(victim, wallet("newcomer"), market.domain, 1)  # the victim's own request, seen on its way
    request = attrs.evolve(
        stolen,
        wallet=wallet("mallory").address,
        wallet_signature=wallet("mallory").sign(binding_digest(market.domain, victim.node_id, wallet("mallory").address, 1)),
    )
    times = {"issued_ns": market.now_ns, "expires_ns": market.now_ns + 10**12}
    forged = request.statement(Version(1, 1), **times)
    assert BINDING_TOPIC == forged.topic
    await market.put(forged.record(victim))  # even if the victim's node were made to sign the record around it
    await market.pass_s(40)
    assert None is await market.settlement.wallet_of(victim.node_id)
    await market.put(stolen.statement(Version(1, 2), **times).record(victim))
    await market.pass_s(40)
    assert wallet("newcomer").address == await market.settlement.wallet_of(victim.node_id)
    enter("node-key squatting", "a request seen on its way", await mallory.profit_microtoken())


async def test_an_old_binding_does_not_come_back(market: Market, enter: Enter) -> None:
    mallory = await market.holdings("mallory")
    request = BindingRequest.sign(router("mallory-1"), wallet("mallory"), market.domain, 1)
    digest = binding_digest(market.domain, request.node, request.wallet, 1)
    signatures = [wallet(seat.name).sign(digest) for seat in market.seats]
    with pytest.raises(SettlementRefused, match="sequence"):
        await market.settlement.bind(wallet("mallory"), request.node, request.wallet, 1, request.wallet_signature, signatures)
    enter("node-key squatting", "an old binding again", await mallory.profit_microtoken())


async def test_a_filing_for_a_path_of_others_is_dropped(market: Market, enter: Enter) -> None:
    offers = [await market.offer(name, PRICE) for name in RELAYS]
    script = await market.session(offers)
    mallory = await market.holdings("mallory", "mallory-1")
    filing: ClaimFiling = script.filing(GB)
    await market.put(script.filed(filing, "mallory-1"))
    await market.pass_s(30)
    assert {1} == {seat.service.core.drops["filer"] for seat in market.seats}
    enter("node-key squatting", "filing the claim of others", await mallory.profit_microtoken())
