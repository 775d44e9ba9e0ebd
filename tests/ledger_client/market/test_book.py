"""The offers a buyer knows, and what relays cost by them."""

from __future__ import annotations

import random
from collections.abc import Callable

import attrs
import pytest

from srwan.errors import BadSignature, DecodeError, StaleRecord
from srwan.identity import Identity
from srwan.ledger_client.market import book as book_module
from srwan.ledger_client.market.bond import sign_bond
from srwan.ledger_client.market.book import (
    ASKING_MAX,
    EDGE_S,
    FORGET_NS,
    REFRESH_S,
    SESSION_S_MIN,
    OfferBook,
    OfferLapsed,
    OfferListed,
)
from srwan.ledger_client.market.offer import INFINITE, Offer
from srwan.ledger_client.market.schedule import Schedule, Window
from srwan.ledger_client.settlement.signing import SettlementDomain, WalletKey
from srwan.types import NodeId

MakeOffer = Callable[..., Offer]
NS = 10**9
ME = NodeId(bytes(32))


@pytest.fixture
def book(domain: SettlementDomain) -> OfferBook:
    return OfferBook(ME, random.Random(1), domain=domain, bond_min_microtoken=100)


def test_a_relay_without_an_offer_that_nobody_asks_is_free(book: OfferBook, sellers: tuple[Identity, ...], wall_s: int) -> None:
    assert 0 == book.price_of(sellers[0].node_id, wall_s * NS)


def test_a_price_holds_from_the_offer_on_and_only_the_newest_counts(
    book: OfferBook, make_offer: MakeOffer, sellers: tuple[Identity, ...], wall_s: int
) -> None:
    first, second = make_offer(0, 5), make_offer(0, 7, sequence=2)
    assert book.receive_record(second.record(sellers[0]), wall_s * NS)
    with pytest.raises(StaleRecord):
        book.receive_record(first.record(sellers[0]), wall_s * NS)
    assert not book.receive_record(second.record(sellers[0]), wall_s * NS)
    assert (7, second) == (book.price_of(sellers[0].node_id, wall_s * NS), book.offer_of(sellers[0].node_id))
    assert (OfferListed(second, None), None) == (book.next_event(), book.next_event())


def test_an_infinite_price_is_none(book: OfferBook, make_offer: MakeOffer, sellers: tuple[Identity, ...], wall_s: int) -> None:
    book.receive_record(make_offer(0, INFINITE).record(sellers[0]), wall_s * NS)
    assert None is book.price_microtoken(sellers[0].node_id, wall_s * NS)


def test_at_the_edges_of_a_window_no_session_can_be_opened(
    book: OfferBook, make_offer: MakeOffer, sellers: tuple[Identity, ...], wall_s: int
) -> None:
    schedule = Schedule((Window(wall_s + 1000, wall_s + 2000),))
    book.receive_record(make_offer(0, 5, schedule=schedule).record(sellers[0]), wall_s * NS)
    moments = (999, 1000, 1000 + EDGE_S - 1, 1000 + EDGE_S, 2000 - SESSION_S_MIN, 2001 - SESSION_S_MIN, 2000)
    assert [None, None, None, 5, 5, None, None] == [book.price_of(sellers[0].node_id, (wall_s + at) * NS) for at in moments]


def test_an_offer_that_expired_makes_nobody_free_until_it_is_forgotten(
    book: OfferBook, make_offer: MakeOffer, sellers: tuple[Identity, ...], wall_s: int
) -> None:
    offer = make_offer(0, 5)
    book.receive_record(offer.record(sellers[0]), wall_s * NS)
    book.next_event()
    book.handle_timer(0.0, offer.expires_ns)
    book.handle_timer(1.0, offer.expires_ns + 1)
    assert (OfferLapsed(offer), None) == (book.next_event(), book.next_event())
    assert None is book.price_of(offer.seller, offer.expires_ns)
    book.handle_timer(2.0, offer.expires_ns + FORGET_NS)
    assert 0 == book.price_of(offer.seller, offer.expires_ns + FORGET_NS)


def test_a_forged_offer_changes_nothing(book: OfferBook, make_offer: MakeOffer, sellers: tuple[Identity, ...], wall_s: int) -> None:
    record = make_offer(0, 5).record(sellers[0])
    forged = attrs.evolve(record, subject=sellers[1].node_id)
    with pytest.raises((BadSignature, DecodeError)):
        book.receive_record(forged, wall_s * NS)
    assert ((), None) == (book.offers(), book.next_event())


# -- asking


def test_members_are_asked_when_somebody_wants_their_price(book: OfferBook, sellers: tuple[Identity, ...], wall_s: int) -> None:
    nodes = [seller.node_id for seller in sellers]
    book.set_members([ME, *nodes], 0.0)
    assert ([], None) == (book.requests_to_send(0.0), book.get_timer())
    assert None is book.price_of(nodes[0], wall_s * NS)
    assert ([nodes[0]], []) == (book.requests_to_send(0.0), book.requests_to_send(0.0))
    assert None is book.price_of(nodes[0], wall_s * NS)
    book.receive_answer(nodes[0], None, 0.1, wall_s * NS)
    assert 0 == book.price_of(nodes[0], wall_s * NS)


def test_no_more_than_some_are_asked_at_once(book: OfferBook, wall_s: int) -> None:
    nodes = [NodeId(bytes([number]) * 32) for number in range(1, 31)]
    book.set_members(nodes, 0.0)
    assert {None} == {book.price_of(node, wall_s * NS) for node in nodes}
    first = book.requests_to_send(0.0)
    assert (ASKING_MAX, []) == (len(first), book.requests_to_send(0.0))
    book.request_failed(first[0], 0.0)
    assert 1 == len(book.requests_to_send(0.0))


def test_who_cannot_be_asked_is_free_and_asked_again_later(book: OfferBook, sellers: tuple[Identity, ...], wall_s: int) -> None:
    node = sellers[0].node_id
    book.set_members([node], 0.0)
    waits = []
    now = 0.0
    book.price_of(node, wall_s * NS)
    for _ in range(4):
        assert [node] == book.requests_to_send(now)
        book.request_failed(node, now)
        assert 0 == book.price_of(node, wall_s * NS)
        timer = book.get_timer()
        assert timer is not None
        waits.append(timer - now)
        now = timer
    assert waits == sorted(waits)
    assert 12 <= waits[0] <= 18


def test_an_answer_is_refreshed_before_the_offer_expires(
    book: OfferBook, make_offer: MakeOffer, sellers: tuple[Identity, ...], wall_s: int
) -> None:
    node = sellers[0].node_id
    book.set_members([node], 0.0)
    book.price_of(node, wall_s * NS)
    book.requests_to_send(0.0)
    assert book.receive_answer(node, make_offer(0, 5, lifetime_s=100).record(sellers[0]), 0.0, wall_s * NS)
    assert book.requests_to_send(60.0) == []
    assert [node] == book.requests_to_send(71.0)
    book.receive_answer(node, make_offer(0, 6, sequence=2).record(sellers[0]), 71.0, wall_s * NS)
    timer = book.get_timer()
    assert timer is not None
    assert 71 + 0.9 * REFRESH_S <= timer <= 71 + REFRESH_S


def test_an_answer_with_anothers_offer_is_refused(
    book: OfferBook, make_offer: MakeOffer, sellers: tuple[Identity, ...], wall_s: int
) -> None:
    book.set_members([sellers[0].node_id, sellers[1].node_id], 0.0)
    book.price_of(sellers[0].node_id, wall_s * NS)
    book.requests_to_send(0.0)
    with pytest.raises(DecodeError) as caught:
        book.receive_answer(sellers[0].node_id, make_offer(1, 5).record(sellers[1]), 0.0, wall_s * NS)
    assert ("offer-foreign", ()) == (caught.value.reason, book.offers())


def test_a_refused_session_has_the_seller_asked_at_once(book: OfferBook, sellers: tuple[Identity, ...], wall_s: int) -> None:
    node = sellers[0].node_id
    book.set_members([node], 0.0)
    book.price_of(node, wall_s * NS)
    book.requests_to_send(0.0)
    book.receive_answer(node, None, 0.0, wall_s * NS)
    book.ask_again(node, 10.0)
    assert [node] == book.requests_to_send(10.0)


def test_when_it_is_full_strangers_go_first(
    book: OfferBook, make_offer: MakeOffer, sellers: tuple[Identity, ...], wall_s: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(book_module, "OFFERS_MAX", 2)
    book.set_members([sellers[0].node_id], 0.0)
    for index in range(3):
        book.receive_record(make_offer(index, 5).record(sellers[index]), wall_s * NS)
    assert [sellers[0].node_id, sellers[2].node_id] == [offer.seller for offer in book.offers()]


def test_to_who_takes_free_relays_only_a_member_is_free_until_it_answered(
    make_offer: MakeOffer, sellers: tuple[Identity, ...], wall_s: int
) -> None:
    node = sellers[0].node_id
    book = OfferBook(ME, random.Random(1), are_unknown_free=True)
    book.set_members([node], 0.0)
    assert 0 == book.price_of(node, wall_s * NS)
    assert [node] == book.requests_to_send(0.0)
    book.receive_answer(node, make_offer(0, 5).record(sellers[0]), 0.0, wall_s * NS)
    assert 5 == book.price_of(node, wall_s * NS)


# -- anonymous sellers


def test_an_anonymous_seller_needs_a_bond_its_escrow_and_to_answer_itself(
    book: OfferBook,
    make_offer: MakeOffer,
    sellers: tuple[Identity, ...],
    wallets: tuple[WalletKey, ...],
    domain: SettlementDomain,
    wall_s: int,
) -> None:
    node = sellers[0].node_id
    record = make_offer(0, 5, bond=sign_bond(wallets[0], domain, node, 1000)).record(sellers[0])
    prices = []

    def note_price() -> None:
        prices.append(book.price_of(node, wall_s * NS))

    book.receive_record(record, wall_s * NS)
    note_price()
    assert (wallets[0].address,) == book.wallets_to_check()
    book.note_escrow(wallets[0].address, 1000)
    note_price()  # it did not answer under its key yet
    book.set_members([node], 0.0)
    assert [node] == book.requests_to_send(0.0)
    book.receive_answer(node, record, 0.0, wall_s * NS)
    note_price()
    book.note_escrow(wallets[0].address, 999)
    note_price()
    assert [None, None, 5, None] == prices


@pytest.mark.parametrize(
    ("signer", "bond", "expected"), [(0, 99, None), (0, 100, 5), (1, 1000, None)], ids=["too-small", "just-enough", "of-another-wallet"]
)
def test_a_bond_must_be_as_large_as_the_buyer_asks_and_of_the_seller_s_own_wallet(
    book: OfferBook,
    make_offer: MakeOffer,
    sellers: tuple[Identity, ...],
    wallets: tuple[WalletKey, ...],
    domain: SettlementDomain,
    wall_s: int,
    signer: int,
    bond: int,
    expected: int | None,
) -> None:
    node = sellers[0].node_id
    book.set_members([node], 0.0)
    offer = make_offer(0, 5, bond=sign_bond(wallets[signer], domain, node, bond))
    book.receive_answer(node, offer.record(sellers[0]), 0.0, wall_s * NS)
    book.note_escrow(wallets[0].address, 10**6)
    assert expected == book.price_of(node, wall_s * NS)
