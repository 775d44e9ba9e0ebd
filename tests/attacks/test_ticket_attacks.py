"""Attacks with tickets and prices: the same ticket again, more tickets than tokens, another price than agreed, another time than it is."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest

from srwan.errors import DecodeError, SettlementRefused
from srwan.ledger_client.market.schedule import Schedule, Window
from srwan.ledger_client.market.seller import Seller
from srwan.ledger_client.settlement import ticket as ticket_module
from srwan.ledger_client.settlement.settlement import Claim, batch_digest
from srwan.ledger_client.settlement.signing import SettlementDomain, WalletKey
from srwan.ledger_client.settlement.terms import PathTerms, price_of
from srwan.ledger_client.settlement.ticket import PathTicket, sign_ticket
from srwan.ledger_client.validation.claim import ClaimFiling
from srwan.ledger_client.validation.events import ClaimJudged, Request, SettleBatch
from srwan.testing.market import FUNDS_MICROTOKEN, NS_PER_S, Market, SessionScript, router, wallet

GB = 10**9
PRICE = 3_000_000
WORTH = 9_000_000
"""Of one GB over three relays at PRICE."""
RELAYS = ("relay-1", "relay-2", "relay-3")

Enter = Callable[[str, str, int], None]


async def open_session(market: Market, *, nonce: int = 0, cap_microtoken: int = 10**9, consumer: str = "consumer") -> SessionScript:
    offers = [await market.offer(name, PRICE, sequence=nonce + 1) for name in RELAYS]
    return await market.session(offers, nonce=nonce, cap_microtoken=cap_microtoken, consumer=consumer)


def signed_anyway(key: WalletKey, domain: SettlementDomain, terms: PathTerms, octets: int, amount_microtoken: int) -> PathTicket:
    """A ticket that `sign_ticket` would refuse to sign, by the same hash: what a consumer with software of its own can make."""
    digest = domain.digest(ticket_module._struct_hash(terms.session_id, octets, amount_microtoken))
    return PathTicket(terms.session_id, octets, amount_microtoken, key.sign(digest))


def reasons(market: Market) -> set[str]:
    return {event.reason for seat in market.seats for event in seat.events if isinstance(event, ClaimJudged)}


async def settle_by_hand(market: Market, key: WalletKey, claims: list[Claim], signers: int = 2) -> str:
    """Hand a batch to the contract with signatures of so many validators; return its word, empty if it took it."""
    digest = batch_digest(market.domain, claims)
    try:
        await market.settlement.settle(key, claims, [wallet(seat.name).sign(digest) for seat in market.seats[:signers]])
    except SettlementRefused as error:
        return error.reason
    return ""


# ---- replayed ticket


async def test_a_replayed_ticket_pays_nothing(market: Market, enter: Enter) -> None:
    batches: list[SettleBatch] = []

    def keep(request: Request) -> Request:
        if isinstance(request, SettleBatch):
            batches.append(request)
        return request

    for seat in market.seats:
        seat.on_request = keep
    script = await open_session(market)
    ledger = await market.holdings(*RELAYS)
    filing = await script.deliver(GB)
    await market.pass_s(40)

    for name in RELAYS:  # filed again, by each relay
        await market.put(script.filed(filing, name))
    await market.pass_s(40)
    enter("replayed ticket", "filed again by every relay", await ledger.profit_microtoken(given_microtoken=WORTH))

    for _ in range(3):  # the signed batch handed in again, and inside another batch
        await market.settlement.settle(wallet("relay-1"), batches[0].claims, batches[0].signatures)
    assert "" == await settle_by_hand(market, wallet("relay-1"), [filing.claim, filing.claim])
    enter("replayed ticket", "batch handed in again", await ledger.profit_microtoken(given_microtoken=WORTH))

    other = await open_session(market, nonce=1)  # under another session
    with pytest.raises(DecodeError, match="another session"):
        ClaimFiling(Claim(other.terms, filing.claim.ticket), other.plan, filing.receipt)
    stolen = attrs.evolve(filing.claim.ticket, session=other.session_id)
    await market.put(other.filed(ClaimFiling(Claim(other.terms, stolen), other.plan, other.receipt(GB))))
    assert "signature" == await settle_by_hand(market, wallet("relay-1"), [Claim(other.terms, stolen)], signers=3)
    await market.pass_s(40)
    enter("replayed ticket", "under another session", await ledger.profit_microtoken(given_microtoken=WORTH))

    old = await open_session(market, nonce=2)  # an older one after a newer one
    await old.deliver(GB)
    await market.pass_s(40)
    await market.put(old.filed(old.filing(GB // 2)))
    assert "" == await settle_by_hand(market, wallet("relay-1"), [Claim(old.terms, old.ticket(GB // 2))])
    await market.pass_s(40)
    assert WORTH == await old.settled_microtoken()
    enter("replayed ticket", "an older one later", await ledger.profit_microtoken(given_microtoken=2 * WORTH))


# ---- over-issue


async def test_a_consumer_cannot_sign_away_more_than_it_has(market: Market, enter: Enter) -> None:
    half = FUNDS_MICROTOKEN // 2
    offers = [await market.offer(name, PRICE) for name in ("mallory-1", "mallory-2")]
    ledger = await market.holdings("mallory", "mallory-1", "mallory-2")
    drained = await market.session(
        offers, relays=("mallory-1", "mallory-2"), consumer="mallory", egress="mallory-egress", cap_microtoken=half
    )
    ledger.sessions.append(drained)

    with pytest.raises(SettlementRefused, match="escrow"):  # the same escrow for an honest path
        await open_session(market, consumer="mallory", cap_microtoken=1)
    with pytest.raises(SettlementRefused, match="escrow"):  # or asked back while it is reserved
        await market.settlement.request_withdraw(wallet("mallory"), 1)
    enter("over-issue", "one escrow for two sessions", await ledger.profit_microtoken())

    octets = half * GB // drained.terms.price_microtoken * 10
    ticket = signed_anyway(wallet("mallory"), market.domain, drained.terms, octets, 2 * half)
    await market.put(
        drained.counters("mallory-1", octets),
    )
    filing = ClaimFiling(Claim(drained.terms, ticket), drained.plan, drained.receipt(octets))
    await market.put(drained.filed(filing))
    await market.pass_s(40)
    assert "cap" == await settle_by_hand(market, wallet("mallory-1"), [filing.claim], signers=3)
    enter("over-issue", "a ticket beyond the cap", await ledger.profit_microtoken())

    dear = signed_anyway(wallet("mallory"), market.domain, drained.terms, GB, drained.terms.price_microtoken + 1)
    assert "price" == await settle_by_hand(market, wallet("mallory-1"), [Claim(drained.terms, dear)], signers=3)
    enter("over-issue", "a ticket beyond the price of its octets", await ledger.profit_microtoken())


async def test_an_honest_relay_beside_a_drained_escrow_is_paid(market: Market, enter: Enter) -> None:
    """Mallory buys from honest relays, then pays all else that she has to herself before they claim."""
    ledger = await market.holdings("mallory", "mallory-1")
    honest = await open_session(market, consumer="mallory", cap_microtoken=WORTH)
    ledger.sessions.append(honest)
    await honest.deliver(GB)
    offer = await market.offer("mallory-1", PRICE)
    drained = await market.session(
        [offer], relays=("mallory-1",), consumer="mallory", egress="mallory-egress", cap_microtoken=FUNDS_MICROTOKEN // 2 - WORTH
    )
    ledger.sessions.append(drained)
    amount = drained.terms.cap_microtoken
    claim = Claim(drained.terms, signed_anyway(wallet("mallory"), market.domain, drained.terms, 10**18, amount))
    assert "" == await settle_by_hand(market, wallet("mallory"), [claim])

    await market.pass_s(40)

    assert WORTH == await honest.settled_microtoken()
    enter("over-issue", "all else paid to oneself first", await ledger.profit_microtoken(got_microtoken=WORTH))


# ---- price change in mid-session


async def test_a_price_cannot_change_in_mid_session(market: Market, enter: Enter) -> None:
    script = await open_session(market)
    ledger = await market.holdings(*RELAYS)
    await script.deliver(GB // 2)
    await market.pass_s(40)

    dear = [await market.offer(name, 100 * PRICE, sequence=2) for name in RELAYS]
    changed = attrs.evolve(script.terms, prices_microtoken=(100 * PRICE,) * 3)
    with pytest.raises(DecodeError, match="another session"):
        ClaimFiling(Claim(changed, script.ticket(GB)), script.plan, script.receipt(GB))
    other = attrs.evolve(script.plan, offers=tuple(offer.digest for offer in dear))
    ghost = attrs.evolve(script, plan=other, terms=attrs.evolve(changed, plan=other.digest))
    await ghost.deliver(GB)  # the consumer's software signs what it is asked to; nothing is reserved under these terms
    await market.pass_s(40)
    assert "session" in reasons(market)
    assert "closed" == await settle_by_hand(market, wallet("relay-1"), [Claim(ghost.terms, ghost.ticket(GB))], signers=3)
    enter("price change in mid-session", "dearer, by a new offer", await ledger.profit_microtoken(given_microtoken=WORTH))

    await script.deliver(GB)
    await market.pass_s(40)
    assert WORTH == await script.settled_microtoken()
    enter("price change in mid-session", "dearer, then the old terms", await ledger.profit_microtoken(given_microtoken=WORTH))


async def test_a_consumer_cannot_lower_the_price_under_way(market: Market, enter: Enter) -> None:
    script = await open_session(market, consumer="mallory")
    ledger = await market.holdings("mallory", sessions=[script])
    cheap = attrs.evolve(script.terms, prices_microtoken=(1,) * 3)
    assert cheap.session_id != script.session_id  # other terms are another session: a ticket of it is none of this
    ticket = sign_ticket(wallet("mallory"), market.domain, cheap, GB, price_of(GB, 3))
    with pytest.raises(DecodeError, match="another session"):
        ClaimFiling(Claim(script.terms, ticket), script.plan, script.receipt(GB))

    await script.deliver(GB)  # the relays go on only for tickets of their terms
    await market.pass_s(40)

    enter("price change in mid-session", "cheaper, by the consumer", await ledger.profit_microtoken(got_microtoken=WORTH))


# ---- clock rollback on a time window


async def test_an_offer_of_the_night_does_not_hold_at_noon(market: Market, enter: Enter) -> None:
    """The night's price, a tenth of the day's, is over. The consumer's clock says it is not."""
    night = Schedule((Window(market.now_s - 7_200, market.now_s - 60),))
    noon_ns = market.now_s * NS_PER_S
    offers = [await market.offer(name, PRICE // 10, schedule=night, issued_s=market.now_s - 10_000) for name in RELAYS]
    script = await market.session(offers, consumer="mallory")
    ledger = await market.holdings("mallory", sessions=[script])
    seller = Seller(router("relay-1").node_id, noon_ns, 0.0)
    seller.list_offer(offers[0])

    assert "closed" == seller.problem_with(script.plan, 0, PRICE // 10, noon_ns)
    assert "closed" == seller.problem_with(script.plan, 0, PRICE // 10, noon_ns - 3_600 * NS_PER_S)  # its own clock set back, too
    enter("clock rollback on a time window", "by the consumer: nobody carries", await ledger.profit_microtoken())

    relays = await market.holdings(*RELAYS)
    await script.deliver(GB)  # relays that let themselves be talked into it
    for seat in market.seats[:1]:
        seat.service.core.advance(float(market.now_s), noon_ns - 3_600 * NS_PER_S)  # and validators whose clocks are wrong
    await market.pass_s(40)
    assert {"offer-window"} == reasons(market)
    profit = await relays.profit_microtoken(given_microtoken=WORTH // 10)
    enter("clock rollback on a time window", "by the relays: nobody pays", profit)
