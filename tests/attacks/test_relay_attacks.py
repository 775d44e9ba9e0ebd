"""Attacks of relays: octets that nobody sent, counters that say more, payloads that nobody can read."""

from __future__ import annotations

import random
from collections.abc import Callable

import attrs
import pytest
from cryptography.exceptions import InvalidTag

from srwan.ledger_client.accounting.egress_account import EgressAccount
from srwan.ledger_client.accounting.messages import SessionNotice
from srwan.ledger_client.accounting.outbox import Outbox
from srwan.ledger_client.settlement.settlement import Claim
from srwan.ledger_client.settlement.terms import price_of
from srwan.ledger_client.validation.claim import ClaimFiling
from srwan.ledger_client.validation.events import ClaimJudged
from srwan.testing.market import Market, SessionScript, router, wallet
from srwan.testing.session_pair import SessionPair

GB = 10**9
PRICE = 3_000_000
WORTH = 9_000_000
RELAYS = ("relay-1", "relay-2", "relay-3")
PAIR = ("mallory-1", "mallory-2")

Enter = Callable[[str, str, int], None]


async def open_session(market: Market, relays: tuple[str, ...] = RELAYS, *, nonce: int = 0) -> SessionScript:
    offers = [await market.offer(name, PRICE, sequence=nonce + 1) for name in relays]
    return await market.session(offers, relays=relays, nonce=nonce)


def reasons(market: Market) -> set[str]:
    return {event.reason for seat in market.seats for event in seat.events if isinstance(event, ClaimJudged)}


def drops(market: Market) -> set[str]:
    return {reason for seat in market.seats for reason, count in seat.service.core.drops.items() if count}


# ---- colluding relay pair


async def test_two_relays_that_swear_for_each_other_are_paid_what_the_egress_saw(market: Market, enter: Enter) -> None:
    """Both sit on the consumer's path. Their counters agree on a hundred times what went over it."""
    script = await open_session(market, PAIR)
    pair = await market.holdings(*PAIR)
    await script.count(GB, "consumer", "egress")
    for name in PAIR:
        await market.put(script.counters(name, 100 * GB))
        await market.put(script.filed(script.filing(GB), name))
    await market.pass_s(40)
    assert 6_000_000 == await script.settled_microtoken()
    enter("colluding relay pair", "counters that agree on too much", await pair.profit_microtoken(given_microtoken=6_000_000))

    honest = script.filing(GB)  # now with signatures of their own in place of the consumer's and the egress's
    forged = attrs.evolve(honest.claim.ticket, octets=100 * GB, amount_microtoken=600_000_000)
    witness = attrs.evolve(script.receipt(100 * GB, egress="mallory-egress", consumer="mallory"), egress=router("egress").node_id)
    witness = attrs.evolve(witness, consumer=router("consumer").node_id)
    for filing in (
        ClaimFiling(Claim(script.terms, forged), script.plan, script.receipt(100 * GB)),
        ClaimFiling(honest.claim, script.plan, witness),
    ):
        await market.put(script.filed(filing, "mallory-1"))
    await market.pass_s(40)
    assert "signature" in drops(market)
    enter("colluding relay pair", "signatures of their own", await pair.profit_microtoken(given_microtoken=6_000_000))


async def test_a_pair_that_names_itself_consumer_and_egress_pays_itself(market: Market, enter: Enter) -> None:
    script = await market.session(
        [await market.offer(name, PRICE) for name in PAIR], relays=PAIR, consumer="mallory", egress="mallory-egress"
    )
    pair = await market.holdings("mallory", *PAIR, sessions=[script])
    await script.deliver(100 * GB)
    await market.pass_s(40)
    assert 600_000_000 == await script.settled_microtoken()
    enter("colluding relay pair", "consumer and egress of their own", await pair.profit_microtoken())


async def test_an_egress_that_is_paid_is_no_witness(market: Market, enter: Enter) -> None:
    """The second of the pair is the egress, bound to the wallet of the first: it would swear to its own income."""
    await market.bind("mallory-egress", "mallory-1", sequence=2)
    offer = await market.offer("mallory-1", PRICE)
    script = await market.session([offer], relays=("mallory-1",), egress="mallory-egress")
    pair = await market.holdings("mallory-1")
    await script.deliver(GB)  # the consumer's software signs; nothing says whether the octets came
    await market.pass_s(40)
    assert {"egress-paid"} == reasons(market)
    enter("colluding relay pair", "one of them the egress", await pair.profit_microtoken())


# ---- counter inflation


@pytest.mark.parametrize("factor", [2, 1_000])
async def test_inflated_counters_pay_nothing_more(market: Market, enter: Enter, factor: int) -> None:
    script = await open_session(market, ("relay-1", "mallory-1", "relay-3"))
    mallory = await market.holdings("mallory-1")
    await script.count(GB)
    for sequence in range(3):
        await market.put(script.counters("mallory-1", factor * GB, boot=2, sequence=sequence))
    await market.put(script.filed(script.filing(GB), "mallory-1"))
    await market.pass_s(40)
    assert WORTH == await script.settled_microtoken()
    enter("counter inflation", f"{factor} times", await mallory.profit_microtoken(given_microtoken=PRICE))


async def test_inflated_counters_without_a_ticket_claim_nothing(market: Market, enter: Enter) -> None:
    script = await open_session(market)
    mallory = await market.holdings("relay-1")
    await market.put(script.counters("relay-1", 10 * GB))
    unsigned = attrs.evolve(script.ticket(GB), octets=10 * GB, amount_microtoken=10 * WORTH)
    await market.put(script.filed(ClaimFiling(Claim(script.terms, unsigned), script.plan, script.receipt(10 * GB))))
    await market.pass_s(40)
    assert 0 == await script.settled_microtoken()
    enter("counter inflation", "without a ticket for it", await mallory.profit_microtoken())


# ---- corrupted payload claimed


def authenticated_octets(packets: int, corrupted: int) -> tuple[int, int]:
    """Send packets under a real end-to-end key, damage the first of them on the way, and count what opens: packets and octets of bodies."""
    pair = SessionPair(seed=7)
    pair.connect(pair.a)
    pair.run(2.0)
    opened = octets = 0
    for number in range(packets):
        body = number.to_bytes(4, "big") * 250
        packet = pair.a.seal(pair.b.node, body)
        assert packet is not None
        if number < corrupted:
            packet = packet[:40] + bytes([packet[40] ^ 1]) + packet[41:]
        try:
            pair.b.open(packet, pair.a.address)
        except InvalidTag:
            continue
        opened, octets = opened + 1, octets + len(body)
    return opened, octets


@pytest.mark.parametrize("corrupted", [40, 100])
async def test_corrupted_payloads_are_not_authenticated_and_not_paid(market: Market, enter: Enter, corrupted: int) -> None:
    """A relay forwards rubbish to save itself the work. It counts what it sent; the egress counts what opens."""
    script = await open_session(market, ("mallory-1",))
    mallory = await market.holdings("mallory-1")
    packets, octets = authenticated_octets(100, corrupted)
    assert (100 - corrupted, (100 - corrupted) * 1_000) == (packets, octets)
    account = EgressAccount(router("egress"), Outbox(random.Random(1)), 1, lambda _node: None)
    notice = SessionNotice(script.terms, script.plan, 1, (5,))
    account.receive_session(router("consumer").node_id, notice.encode(), market.now_s)
    account.traffic({(router("consumer").node_id, 5): (packets, octets)})
    assert [octets] * bool(octets) == [count.octets for count in account.counts()]

    await market.put(script.counters("mallory-1", 100_000))  # all that it forwarded
    paid_for = script.filing(octets)
    await market.put(script.filed(paid_for))
    forged = attrs.evolve(paid_for.claim.ticket, octets=100_000, amount_microtoken=300)
    await market.put(script.filed(ClaimFiling(Claim(script.terms, forged), script.plan, script.receipt(octets))))
    await market.pass_s(40)

    given = price_of(octets, PRICE)
    assert given == await script.settled_microtoken()
    enter("corrupted payload claimed", f"{corrupted} % corrupted", await mallory.profit_microtoken(given_microtoken=given))


async def test_a_promise_of_latency_that_is_not_kept_is_not_paid(market: Market, enter: Enter) -> None:
    """Price by latency saved: the plan promised 50 ms, the egress measured none."""
    offers = [await market.offer(name, PRICE) for name in RELAYS]
    script = await market.session(offers, saved_full_us=50_000)
    relays = await market.holdings(*RELAYS)
    await script.count(GB)
    await market.put(script.filed(script.filing(GB, amount_microtoken=WORTH, receipt=script.receipt(GB, measured_us=150_000))))
    await market.pass_s(40)
    assert {"saved"} == reasons(market)
    assert 0 == script.due(GB, 0)
    enter("latency that was not saved", "full price claimed", await relays.profit_microtoken())
    assert wallet("consumer").address == script.terms.consumer
