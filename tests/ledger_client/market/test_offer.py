"""Offers: what they say when, that they are bound, and that nothing else is one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from srwan.errors import BadSignature, DecodeError, RemoteProtocolError
from srwan.identity import Identity
from srwan.ledger_client.market.bond import Bond, sign_bond
from srwan.ledger_client.market.offer import INFINITE, OFFER_PRICE_MICROTOKEN_MAX, Limits, Offer, Promise
from srwan.ledger_client.market.schedule import Schedule, Window
from srwan.ledger_client.record import Kind, Record, check
from srwan.ledger_client.settlement.signing import SettlementDomain, WalletKey
from srwan.ledger_client.statement import MARKET_GROUP, Statement
from srwan.types import GeoAsn
from srwan.wire import pack

MakeOffer = Callable[..., Offer]
NS = 10**9
same_fixtures = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)


def full(make_offer: MakeOffer, wall_s: int, bond: Bond | None = None) -> Offer:
    return make_offer(
        0,
        OFFER_PRICE_MICROTOKEN_MAX,
        schedule=Schedule((Window(wall_s, wall_s + 60), Window(wall_s + 100, wall_s + 200))),
        limits=Limits(rate_kbps=10_000, day_octets=2**62),
        label="Chicago - New York",
        is_premium=True,
        saved_full_us=10_000,
        promises=(Promise("DE:3320", 25_000, 1000), Promise("ab" * 32, 4_000)),
        bond=bond,
        country="US",
        asn=64500,
    )


def test_an_offer_comes_back_from_the_record_it_is_published_as(
    make_offer: MakeOffer, sellers: tuple[Identity, ...], wallets: tuple[WalletKey, ...], domain: SettlementDomain, wall_s: int
) -> None:
    bond = sign_bond(wallets[0], domain, sellers[0].node_id, 2**128 - 1)
    for offer in (
        full(make_offer, wall_s, bond),
        make_offer(0, INFINITE, wallet=None),
        make_offer(0, 0, wallet=None, schedule=Schedule(())),
    ):
        record = offer.record(sellers[0])
        check(record, wall_s * NS)
        again = Offer.of_record(record)
        assert (offer, offer.digest) == (again, again.digest)
        assert (Kind.OFFER, MARKET_GROUP, b"", offer.country, offer.asn) == (
            record.kind,
            record.group,
            record.topic,
            record.country,
            record.asn,
        )


def test_the_digest_differs_with_every_field_that_is_signed(make_offer: MakeOffer, wall_s: int) -> None:
    offer = full(make_offer, wall_s)
    others: dict[str, Any] = {
        "price_microtoken_per_gb": 1,
        "saved_full_us": 9,
        "label": "x",
        "is_premium": False,
        "limits": Limits(),
        "promises": (),
        "schedule": Schedule(None),
        "wallet": make_offer(1).wallet,
        "issued_ns": offer.issued_ns + 1,
        "expires_ns": offer.expires_ns + 1,
        "version": make_offer(0, sequence=2).version,
        "seller": make_offer(1).seller,
    }
    digests = {attrs.evolve(offer, **{name: value}).digest for name, value in others.items()}
    assert len(others) == len(digests - {offer.digest})


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"price": -1}, "a price of -1"),
        ({"price": OFFER_PRICE_MICROTOKEN_MAX + 1}, "a price of"),
        ({"price": 1, "wallet": None}, "no wallet is named"),
        ({"lifetime_s": 0}, "lives too long or not at all"),
        ({"lifetime_s": 63 * 86_400}, "lives too long or not at all"),
        ({"label": "x" * 65}, "a label of 65 characters"),
        ({"label": "a\nb"}, "cannot be printed"),
        ({"saved_full_us": -1}, "full price from -1"),
        ({"promises": tuple(Promise("DE:1", 1) for _ in range(17))}, "17 promises"),
    ],
)
def test_an_impossible_offer_is_refused(make_offer: MakeOffer, fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        make_offer(0, **fields)


@pytest.mark.parametrize("make", [lambda: Limits(-1), lambda: Limits(0, 2**63), lambda: Promise("", 1), lambda: Promise("DE:1", 0)])
def test_impossible_limits_and_promises_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="offer: "):
        make()


# -- when


def test_it_has_its_price_while_it_is_issued_current_and_in_a_window(make_offer: MakeOffer, wall_s: int) -> None:
    offer = make_offer(0, 7, schedule=Schedule((Window(wall_s + 100, wall_s + 200), Window(wall_s + 7000, wall_s + 9000))))
    found = [offer.price_at(wall_s + after_s) for after_s in (0, 100, 199, 200, 7100, 7199, 7200)]
    assert [None, 7, 7, None, 7, 7, None] == found
    assert [wall_s + 200, wall_s + 7200, wall_s] == [offer.ends_s(wall_s + 150), offer.ends_s(wall_s + 7100), offer.ends_s(wall_s)]


def test_it_is_not_valid_before_it_was_issued_but_for_skewed_clocks(make_offer: MakeOffer, wall_s: int) -> None:
    assert [False, True] == [make_offer(0).is_valid_at(wall_s - 61), make_offer(0).is_valid_at(wall_s - 60)]


def test_an_infinite_price_is_no_price_at_any_time(make_offer: MakeOffer, wall_s: int) -> None:
    offer = make_offer(0, INFINITE)
    assert (None, False, True) == (offer.price_at(wall_s), offer.carries, offer.is_valid_at(wall_s))


# -- hostile


@same_fixtures
@given(content=st.one_of(st.binary(max_size=300), st.lists(st.one_of(st.none(), st.integers(0, 9), st.binary(max_size=20))).map(pack)))
def test_a_statement_with_another_content_is_the_peers_fault(make_offer: MakeOffer, sellers: tuple[Identity, ...], content: bytes) -> None:
    statement = make_offer(0).statement()
    record = attrs.evolve(statement, content=content).record(sellers[0], GeoAsn())
    with pytest.raises(RemoteProtocolError):
        Offer.of_record(record)


@same_fixtures
@given(at=st.integers(0, 400), flip=st.integers(1, 255))
def test_a_changed_byte_never_leaves_the_decoder_as_another_error(
    make_offer: MakeOffer, sellers: tuple[Identity, ...], wall_s: int, at: int, flip: int
) -> None:
    statement = full(make_offer, wall_s).statement()
    content = bytearray(statement.content)
    content[at % len(content)] ^= flip
    record = attrs.evolve(statement, content=bytes(content)).record(sellers[0], GeoAsn())
    with contextlib.suppress(RemoteProtocolError):
        assert Offer.of_record(record) != full(make_offer, wall_s)


def test_a_record_of_another_kind_group_or_topic_is_no_offer(make_offer: MakeOffer, sellers: tuple[Identity, ...]) -> None:
    statement = make_offer(0).statement()
    for change in ({"topic": b"x"}, {"group": bytes([1]) * 32}, {"kind": Kind.EVIDENCE}):
        record: Record = attrs.evolve(statement, **change).record(sellers[0])
        with pytest.raises(DecodeError, match="is not the offer of"):
            Offer.of_record(record)
    assert isinstance(Offer.of_record(Statement.of_record(statement.record(sellers[0])).record(sellers[0])), Offer)


# -- bonds


def test_a_bond_is_its_wallets_for_one_seller_amount_and_settlement(
    sellers: tuple[Identity, ...], wallets: tuple[WalletKey, ...], domain: SettlementDomain
) -> None:
    bond, seller, wallet = sign_bond(wallets[0], domain, sellers[0].node_id, 500), sellers[0].node_id, wallets[0].address
    bond.verify(seller, wallet, domain)
    for wrong in (
        (attrs.evolve(bond, amount_microtoken=501), seller, wallet, domain),
        (bond, sellers[1].node_id, wallet, domain),
        (bond, seller, wallets[1].address, domain),
        (bond, seller, wallet, attrs.evolve(domain, chain_id=1)),
    ):
        with pytest.raises(BadSignature):
            wrong[0].verify(*wrong[1:])


@pytest.mark.parametrize("amount", [0, -1, 2**128])
def test_an_impossible_bond_is_refused(amount: int) -> None:
    with pytest.raises(ValueError, match="a bond of"):
        Bond(amount, bytes(65))
