"""Terms of a path session: bounds, ABI encoding and id, prices and shares."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from eth_abi.abi import encode
from eth_utils.crypto import keccak
from hypothesis import given
from hypothesis import strategies as st

from srwan.ledger_client.settlement.signing import Address
from srwan.ledger_client.settlement.terms import GB_OCTETS, UINT64_MAX, UINT128_MAX, PathTerms, price_of, shares_of

addresses = st.binary(min_size=20, max_size=20).map(Address)
TERMS = PathTerms(Address(bytes([1]) * 20), (Address(bytes([2]) * 20), Address(bytes([3]) * 20)), (5, 7), 100, 2_000_000_000, bytes(32))


@st.composite
def terms_values(draw: st.DrawFn) -> PathTerms:
    payees = draw(st.lists(addresses, min_size=1, max_size=8, unique=True))
    prices = draw(st.lists(st.integers(0, UINT64_MAX), min_size=len(payees), max_size=len(payees)))
    cap, expires_s = draw(st.integers(1, UINT128_MAX)), draw(st.integers(1, UINT64_MAX))
    return PathTerms(draw(addresses), tuple(payees), tuple(prices), cap, expires_s, draw(st.binary(min_size=32, max_size=32)))


@given(terms=terms_values())
def test_the_encoding_is_that_of_eth_abi_and_the_id_its_hash(terms: PathTerms) -> None:
    value = (str(terms.consumer), [str(payee) for payee in terms.payees], terms.prices_microtoken, terms.cap_microtoken, terms.expires_s)
    expected = encode(["(address,address[],uint128[],uint128,uint64,bytes32)"], [(*value, terms.plan)])
    assert expected == terms.abi()
    assert keccak(expected) == terms.session_id


def test_the_id_of_known_terms_stays() -> None:
    assert "f0a1271c74fb7321be7df6081fc7ae1fddb09e93641e569d82125397ad52d2d2" == TERMS.session_id.hex()


@given(one=terms_values(), other=terms_values())
def test_other_terms_have_another_id(one: PathTerms, other: PathTerms) -> None:
    assert (one == other) == (one.session_id == other.session_id)


@pytest.mark.parametrize(
    "change",
    [
        {"payees": ()},
        {"payees": tuple(Address(bytes([n]) * 20) for n in range(9)), "prices_microtoken": (1,) * 9},
        {"payees": (Address(bytes([2]) * 20),) * 2},
        {"prices_microtoken": (1,)},
        {"prices_microtoken": (1, 2, 3)},
        {"prices_microtoken": (1, -1)},
        {"prices_microtoken": (1, UINT64_MAX + 1)},
        {"cap_microtoken": 0},
        {"cap_microtoken": -1},
        {"cap_microtoken": UINT128_MAX + 1},
        {"expires_s": 0},
        {"expires_s": UINT64_MAX + 1},
        {"plan": bytes(31)},
    ],
)
def test_what_is_out_of_bounds_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="terms"):
        attrs.evolve(TERMS, **change)


def test_the_edges_of_the_bounds_are_terms() -> None:
    edges = attrs.evolve(TERMS, prices_microtoken=(0, UINT64_MAX), cap_microtoken=UINT128_MAX, expires_s=UINT64_MAX)
    assert UINT64_MAX == edges.price_microtoken
    assert 32 == len(edges.session_id)
    assert 1 == attrs.evolve(TERMS, cap_microtoken=1, expires_s=1).cap_microtoken


@pytest.mark.parametrize(
    ("octets", "price", "expected"),
    [
        (0, 10**7, 0),
        (GB_OCTETS, 10**7, 10**7),
        (GB_OCTETS - 1, 10**7, 10**7 - 1),
        (99, 10**7, 0),
        (100, 10**7, 1),
        (UINT128_MAX, 1, UINT128_MAX // GB_OCTETS),
    ],
)
def test_prices_are_rounded_down(octets: int, price: int, expected: int) -> None:
    assert expected == price_of(octets, price)


@given(amount=st.integers(0, UINT128_MAX), prices=st.lists(st.integers(0, UINT64_MAX), min_size=1, max_size=8))
def test_shares_sum_to_the_amount_and_none_is_off_by_more_than_rounding(amount: int, prices: list[int]) -> None:
    shares = shares_of(amount, tuple(prices))
    weights = prices if any(prices) else [1] * len(prices)
    assert amount == sum(shares)
    for share, weight in zip(shares[1:], weights[1:], strict=True):
        assert share == amount * weight // sum(weights)
    assert 0 <= shares[0] - amount * weights[0] // sum(weights) < len(prices)


def test_free_relays_share_equally_and_one_without_a_price_gets_nothing() -> None:
    assert (4, 3, 3) == shares_of(10, (0, 0, 0))
    assert (10, 0) == shares_of(10, (5, 0))
