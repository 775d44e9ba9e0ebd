"""Which sessions a relay takes on its own offers."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from srwan.identity import Identity
from srwan.ledger_client.accounting.plan import NO_OFFER, PathPlan
from srwan.ledger_client.market.offer import INFINITE, Limits, Offer
from srwan.ledger_client.market.schedule import Schedule, Window
from srwan.ledger_client.market.seller import OFFERS_REMEMBERED, REPLACED_S, Seller
from srwan.types import NodeId

MakeOffer = Callable[..., Offer]
NS = 10**9


@pytest.fixture
def seller(sellers: tuple[Identity, ...], wall_s: int) -> Seller:
    return Seller(sellers[0].node_id, wall_s * NS, 0.0)


def plan_on(sellers: tuple[Identity, ...], digest: bytes, saved_full_us: int = 0) -> PathPlan:
    return PathPlan(NodeId(bytes(32)), (sellers[0].node_id,), sellers[7].node_id, (digest,), 0, 0, saved_full_us, bytes(16))


def test_a_session_on_the_offer_is_taken_and_every_other_one_named(
    seller: Seller, make_offer: MakeOffer, sellers: tuple[Identity, ...], wall_s: int
) -> None:
    offer = make_offer(0, 5, saved_full_us=1000, schedule=Schedule((Window(wall_s, wall_s + 600),)))
    seller.list_offer(offer)
    good, at_ns = plan_on(sellers, offer.digest, 1000), (wall_s + 10) * NS
    assert "" == seller.problem_with(good, 0, 5, at_ns, wall_s + 600)
    assert "closed" == seller.problem_with(good, 0, 5, at_ns, wall_s + 601)
    assert "closed" == seller.problem_with(good, 0, 5, (wall_s + 600) * NS)
    assert "price" == seller.problem_with(good, 0, 4, at_ns)
    assert "offer" == seller.problem_with(plan_on(sellers, bytes([1]) * 32), 0, 5, at_ns)
    assert "saved" == seller.problem_with(plan_on(sellers, offer.digest, 1001), 0, 5, at_ns)


def test_without_an_offer_only_free_sessions_are_taken(seller: Seller, sellers: tuple[Identity, ...], wall_s: int) -> None:
    plan = plan_on(sellers, NO_OFFER)
    assert ["", "offer", False] == [
        seller.problem_with(plan, 0, 0, wall_s * NS),
        seller.problem_with(plan, 0, 1, wall_s * NS),
        seller.is_charging(wall_s * NS),
    ]


def test_a_seller_with_an_infinite_price_takes_none(
    seller: Seller, make_offer: MakeOffer, sellers: tuple[Identity, ...], wall_s: int
) -> None:
    offer = make_offer(0, INFINITE)
    seller.list_offer(offer)
    assert ("never", True) == (seller.problem_with(plan_on(sellers, offer.digest), 0, 0, wall_s * NS), seller.is_charging(wall_s * NS))


@pytest.mark.parametrize(("price", "after_s", "expected"), [(0, 0, False), (5, 0, True), (0, 700, True)])
def test_it_charges_for_a_price_and_while_it_is_closed(
    seller: Seller, make_offer: MakeOffer, wall_s: int, price: int, after_s: int, expected: bool
) -> None:
    seller.list_offer(make_offer(0, price, schedule=Schedule((Window(wall_s, wall_s + 600),))))
    assert expected == seller.is_charging((wall_s + after_s) * NS)


def test_an_offer_that_was_replaced_stands_a_while(
    seller: Seller, make_offer: MakeOffer, sellers: tuple[Identity, ...], wall_s: int
) -> None:
    old, new = make_offer(0, 5), make_offer(0, 9, sequence=2)
    seller.list_offer(old)
    seller.list_offer(new)
    plan = plan_on(sellers, old.digest)
    assert ["", "offer"] == [seller.problem_with(plan, 0, 5, (wall_s + after) * NS) for after in (REPLACED_S - 1, REPLACED_S)]


def test_offers_of_others_and_older_ones_are_not_listed(seller: Seller, make_offer: MakeOffer) -> None:
    seller.list_offer(make_offer(0, 5, sequence=2))
    for wrong in (make_offer(1, 5, sequence=3), make_offer(0, 5, sequence=2), make_offer(0, 5)):
        with pytest.raises(ValueError, match="not a newer offer"):
            seller.list_offer(wrong)


def test_no_more_than_some_offers_are_remembered(seller: Seller, make_offer: MakeOffer, sellers: tuple[Identity, ...], wall_s: int) -> None:
    offers = [make_offer(0, 5, sequence=number) for number in range(1, OFFERS_REMEMBERED + 2)]
    for offer in offers:
        seller.list_offer(offer)
    words = [seller.problem_with(plan_on(sellers, offer.digest), 0, 5, wall_s * NS) for offer in offers[:2]]
    assert ["offer", ""] == words


def test_a_clock_set_back_opens_no_window(seller: Seller, make_offer: MakeOffer, sellers: tuple[Identity, ...], wall_s: int) -> None:
    offer = make_offer(0, 5, schedule=Schedule((Window(wall_s, wall_s + 600),)))
    seller.list_offer(offer)
    seller.tick((wall_s + 590) * NS, 590.0)
    seller.tick((wall_s + 10) * NS, 601.0)  # set back by ten minutes as the window was about to close
    assert "closed" == seller.problem_with(plan_on(sellers, offer.digest), 0, 5, (wall_s + 10) * NS, wall_s + 100)
    seller.believe((wall_s + 10) * NS, 601.0)
    assert "" == seller.problem_with(plan_on(sellers, offer.digest), 0, 5, (wall_s + 10) * NS, wall_s + 100)


def test_a_days_limit_closes_it_until_midnight(seller: Seller, make_offer: MakeOffer, sellers: tuple[Identity, ...], wall_s: int) -> None:
    offer = make_offer(0, 5, limits=Limits(day_octets=1000), lifetime_s=3 * 86_400)
    seller.list_offer(offer)
    plan = plan_on(sellers, offer.digest)
    seller.count_octets(999)
    words = [seller.problem_with(plan, 0, 5, wall_s * NS)]
    seller.count_octets(1)
    words.append(seller.problem_with(plan, 0, 5, wall_s * NS))
    seller.tick((wall_s + 86_400) * NS, 86_400.0)
    words.append(seller.problem_with(plan, 0, 5, (wall_s + 86_400) * NS))
    assert ["", "day-limit", ""] == words


def test_who_lists_nothing_any_more_is_free(seller: Seller, make_offer: MakeOffer, wall_s: int) -> None:
    seller.list_offer(make_offer(0, 5))
    seller.withdraw_offer()
    assert (None, False) == (seller.offer, seller.is_charging(wall_s * NS))
