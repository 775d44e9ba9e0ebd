"""What a path costs, until when, and on which terms."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from srwan.errors import NoOffer
from srwan.identity import Identity
from srwan.ledger_client.accounting.plan import NO_OFFER
from srwan.ledger_client.market.book import EDGE_S, SESSION_S_MIN, OfferBook
from srwan.ledger_client.market.offer import INFINITE, Offer
from srwan.ledger_client.market.quote import SESSION_S, best_quote, quote_for
from srwan.ledger_client.market.schedule import Schedule, Window
from srwan.ledger_client.settlement.signing import WalletKey
from srwan.types import NodeId

MakeOffer = Callable[..., Offer]
List = Callable[..., Offer]
NS = 10**9
ME = NodeId(bytes(32))
CAP = 10**9


@pytest.fixture
def book() -> OfferBook:
    return OfferBook(ME, random.Random(1))


@pytest.fixture
def listed(book: OfferBook, make_offer: MakeOffer, sellers: tuple[Identity, ...], wall_s: int) -> List:
    """List seller `index`'s offer in the book."""

    def list_offer(index: int, price: int | None, **fields: object) -> Offer:
        offer = make_offer(index, price, **fields)
        book.receive_record(offer.record(sellers[index]), wall_s * NS)
        return offer

    return list_offer


@pytest.fixture
def nodes(sellers: tuple[Identity, ...]) -> tuple[NodeId, ...]:
    return tuple(seller.node_id for seller in sellers)


def test_a_path_costs_the_sum_and_its_terms_fit_its_plan(
    book: OfferBook, listed: List, nodes: tuple[NodeId, ...], wallets: tuple[WalletKey, ...], wall_s: int
) -> None:
    offers = (listed(0, 300), listed(1, 400), listed(2, 0))
    quote = quote_for(book, nodes[:3], wall_s * NS, price_max_microtoken=700)
    plan = quote.plan(ME, nodes[7], predicted_us=-5, direct_us=10, nonce=bytes(16))
    terms = quote.terms(wallets[7].address, plan, 10**6)
    assert (700, offers, wall_s + SESSION_S, False) == (quote.price_microtoken, quote.offers, quote.expires_s, quote.is_free)
    assert (nodes[:3], tuple(offer.digest for offer in offers)) == (plan.relays, plan.offers)
    assert tuple(wallet.address for wallet in wallets[:3]) == terms.payees
    assert ((300, 400, 0), plan.digest, wall_s + SESSION_S) == (terms.prices_microtoken, terms.plan, terms.expires_s)


def test_no_quote_is_above_the_cap(book: OfferBook, listed: List, nodes: tuple[NodeId, ...], wall_s: int) -> None:
    listed(0, 300)
    listed(1, 401)
    with pytest.raises(NoOffer, match="costs 701 microtokens a GB, 700 are allowed"):
        quote_for(book, nodes[:2], wall_s * NS, price_max_microtoken=700)


def test_a_relay_that_never_carries_is_not_quoted(book: OfferBook, listed: List, nodes: tuple[NodeId, ...], wall_s: int) -> None:
    listed(0, INFINITE)
    with pytest.raises(NoOffer, match="carries nothing now") as caught:
        quote_for(book, nodes[:1], wall_s * NS, price_max_microtoken=CAP)
    assert nodes[0] == caught.value.relay


def test_a_free_path_needs_no_session(book: OfferBook, nodes: tuple[NodeId, ...], wallets: tuple[WalletKey, ...], wall_s: int) -> None:
    for relays in ((), nodes[:2]):
        quote = quote_for(book, relays, wall_s * NS, price_max_microtoken=0)
        assert (True, (), 0) == (quote.is_free, quote.payees, quote.price_microtoken)
    plan = quote.plan(ME, nodes[7], predicted_us=0, direct_us=0, nonce=bytes(16))
    with pytest.raises(ValueError, match="needs no session"):
        quote.terms(wallets[7].address, plan, 1)


def test_a_free_relay_on_a_paid_path_is_a_payee_at_its_bound_wallet(
    book: OfferBook, listed: List, nodes: tuple[NodeId, ...], wallets: tuple[WalletKey, ...], wall_s: int
) -> None:
    listed(0, 300)
    with pytest.raises(NoOffer, match="has no wallet"):
        quote_for(book, nodes[:2], wall_s * NS, price_max_microtoken=CAP)
    quote = quote_for(book, nodes[:2], wall_s * NS, price_max_microtoken=CAP, wallets={nodes[1]: wallets[1].address})
    assert ((wallets[0].address, wallets[1].address), NO_OFFER) == (quote.payees, quote.offer_digests[1])


def test_two_relays_of_one_wallet_are_not_quoted(
    book: OfferBook, listed: List, nodes: tuple[NodeId, ...], wallets: tuple[WalletKey, ...], wall_s: int
) -> None:
    listed(0, 300)
    listed(1, 1, wallet=wallets[0].address)
    with pytest.raises(NoOffer, match="paid twice"):
        quote_for(book, nodes[:2], wall_s * NS, price_max_microtoken=CAP)


def test_a_session_ends_with_the_first_window_or_offer(book: OfferBook, listed: List, nodes: tuple[NodeId, ...], wall_s: int) -> None:
    listed(0, 1, schedule=Schedule((Window(wall_s - 100, wall_s + 900),)))
    listed(1, 1, lifetime_s=800)
    ends = [quote_for(book, relays, wall_s * NS, price_max_microtoken=2).expires_s for relays in (nodes[:1], nodes[1:2], nodes[:2])]
    assert [wall_s + 900, wall_s + 800, wall_s + 800] == ends


def test_around_the_end_of_a_window_every_session_that_is_quoted_lies_within_it(
    book: OfferBook, listed: List, nodes: tuple[NodeId, ...], wall_s: int
) -> None:
    start_s, end_s = wall_s + 100, wall_s + 400
    listed(0, 1, schedule=Schedule((Window(start_s, end_s),)))
    quoted = []
    for time_s in range(wall_s, end_s + 100):
        try:
            quote = quote_for(book, nodes[:1], time_s * NS + NS - 1, price_max_microtoken=2)
        except NoOffer:
            continue
        quoted.append(time_s)
        assert start_s <= time_s < quote.expires_s <= end_s
    assert (start_s + EDGE_S, end_s - SESSION_S_MIN) == (quoted[0], quoted[-1])
    assert len(quoted) == quoted[-1] - quoted[0] + 1


def test_the_price_depends_on_saved_latency_only_as_far_as_every_seller_agrees(
    book: OfferBook, listed: List, nodes: tuple[NodeId, ...], wall_s: int
) -> None:
    listed(0, 1, saved_full_us=20_000)
    listed(1, 1, saved_full_us=5_000)
    listed(2, 1)
    listed(3, 0)
    found = [
        quote_for(book, relays, wall_s * NS, price_max_microtoken=9).saved_full_us
        for relays in (nodes[:1], nodes[:2], nodes[:3], nodes[3:4])
    ]
    assert [20_000, 5_000, 0, 0] == found


def test_the_quickest_path_within_the_cap_is_best_and_of_equals_the_cheapest(
    book: OfferBook, listed: List, nodes: tuple[NodeId, ...], wall_s: int
) -> None:
    for index, price in enumerate((50, 30, 20, 90)):
        listed(index, price)
    candidates = [((nodes[0],), 10_000), ((nodes[1],), 14_000), ((nodes[2],), 16_000), ((nodes[3],), 1_000)]

    def best(cap: int) -> tuple[NodeId, ...] | None:
        quote = best_quote(book, candidates, wall_s * NS, price_max_microtoken=cap)
        return None if quote is None else quote.relays

    assert [(nodes[3],), (nodes[1],), (nodes[2],), None] == [best(90), best(50), best(29), best(19)]
