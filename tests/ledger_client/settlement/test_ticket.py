"""The ticket: EIP-712 by hand against eth_account, what is refused, and its bytes."""

from __future__ import annotations

import functools
from pathlib import Path

import attrs
import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data
from hypothesis import given, settings
from hypothesis import strategies as st

from srwan.errors import BadSignature, DecodeError, LimitExceeded, RemoteProtocolError
from srwan.ledger_client.settlement.signing import Address, SettlementDomain, WalletKey
from srwan.ledger_client.settlement.terms import GB_OCTETS, UINT128_MAX, PathTerms, price_of
from srwan.ledger_client.settlement.ticket import TICKET_BYTES_MAX, PathTicket, sign_ticket

DATA = Path(__file__).parents[2] / "data"
SECRET = bytes(range(1, 33))
KEY, OTHER = WalletKey(SECRET), WalletKey(bytes([9]) * 32)
DOMAIN = SettlementDomain(31337, Address(bytes([0xCC]) * 20))
PRICE, CAP = 10_000_000, 50_000_000
TERMS = PathTerms(KEY.address, (Address(bytes([2]) * 20),), (PRICE,), CAP, 2_000_000_000, bytes(range(32)))
TYPES = {
    "EIP712Domain": [
        {"name": "name", "type": "string"},
        {"name": "version", "type": "string"},
        {"name": "chainId", "type": "uint256"},
        {"name": "verifyingContract", "type": "address"},
    ],
    "PathTicket": [{"name": "session", "type": "bytes32"}, {"name": "octets", "type": "uint128"}, {"name": "amount", "type": "uint128"}],
}


@functools.cache
def ticket_of(octets: int = GB_OCTETS, amount: int = PRICE) -> PathTicket:
    return sign_ticket(KEY, DOMAIN, TERMS, octets, amount)


@given(octets=st.integers(0, UINT128_MAX), share=st.integers(0, 100))
@settings(max_examples=20)
def test_it_is_what_eth_account_signs(octets: int, share: int) -> None:
    amount = min(CAP, price_of(octets, PRICE)) * share // 100
    domain = {"name": "srwan", "version": "1", "chainId": DOMAIN.chain_id, "verifyingContract": str(DOMAIN.contract)}
    message = {"session": TERMS.session_id, "octets": octets, "amount": amount}
    typed = {"types": TYPES, "primaryType": "PathTicket", "domain": domain, "message": message}
    expected = Account.sign_message(encode_typed_data(full_message=typed), SECRET).signature
    ticket = sign_ticket(KEY, DOMAIN, TERMS, octets, amount)
    assert bytes(expected) == ticket.signature
    ticket.verify(TERMS, DOMAIN)
    assert ticket == PathTicket.decode(ticket.encode())


def test_its_bytes_stay() -> None:
    golden = DATA / "path-ticket.bin"
    assert golden.read_bytes() == ticket_of().encode()
    assert ticket_of() == PathTicket.decode(golden.read_bytes())
    assert len(golden.read_bytes()) <= TICKET_BYTES_MAX


def test_a_ticket_for_another_contract_chain_session_or_consumer_is_refused() -> None:
    ticket = ticket_of()
    for domain in (SettlementDomain(1, DOMAIN.contract), SettlementDomain(31337, Address(bytes(20)))):
        with pytest.raises(BadSignature):
            ticket.verify(TERMS, domain)
    for terms in (attrs.evolve(TERMS, cap_microtoken=CAP + 1), attrs.evolve(TERMS, consumer=OTHER.address)):
        with pytest.raises(BadSignature, match="another session"):
            ticket.verify(terms, DOMAIN)


@pytest.mark.parametrize(("field", "by"), [("octets", 1), ("amount_microtoken", -1)])
def test_an_altered_ticket_is_refused(field: str, by: int) -> None:
    altered = attrs.evolve(ticket_of(), **{field: getattr(ticket_of(), field) + by})
    with pytest.raises(BadSignature):
        altered.verify(TERMS, DOMAIN)


def test_nobody_can_promise_more_than_price_or_cap() -> None:
    for octets, amount in ((GB_OCTETS, PRICE + 1), (0, 1), (100 * GB_OCTETS, CAP + 1)):
        with pytest.raises(ValueError, match="more than agreed"):
            sign_ticket(KEY, DOMAIN, TERMS, octets, amount)
    with pytest.raises(ValueError, match="not the consumer"):
        sign_ticket(OTHER, DOMAIN, TERMS, GB_OCTETS, PRICE)
    with pytest.raises(LimitExceeded) as beyond_price:
        PathTicket(TERMS.session_id, GB_OCTETS, PRICE + 1, bytes(65)).verify(TERMS, DOMAIN)
    with pytest.raises(LimitExceeded) as beyond_cap:
        PathTicket(TERMS.session_id, UINT128_MAX, CAP + 1, bytes(65)).verify(TERMS, DOMAIN)
    assert ("price", "cap") == (beyond_price.value.reason, beyond_cap.value.reason)


@pytest.mark.parametrize(("octets", "amount"), [(-1, 0), (0, -1), (UINT128_MAX + 1, 0), (0, UINT128_MAX + 1)])
def test_numbers_out_of_bounds_are_refused(octets: int, amount: int) -> None:
    with pytest.raises(ValueError, match="128 bits"):
        PathTicket(bytes(32), octets, amount, bytes(65))


def test_the_greatest_and_the_smallest_numbers_pass() -> None:
    for octets, amount in ((0, 0), (1, 1), (UINT128_MAX, UINT128_MAX)):
        ticket = PathTicket(bytes(32), octets, amount, bytes(65))
        assert ticket == PathTicket.decode(ticket.encode())


@given(data=st.binary(max_size=200))
def test_random_bytes_are_refused_as_the_peers_fault(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        PathTicket.decode(data)


@given(at=st.integers(0, 10_000), bit=st.integers(0, 7))
@settings(max_examples=60)
def test_no_flipped_bit_passes(at: int, bit: int) -> None:
    data = bytearray(ticket_of().encode())
    data[at % len(data)] ^= 1 << bit
    try:
        ticket = PathTicket.decode(bytes(data))
    except (DecodeError, LimitExceeded):
        return
    with pytest.raises(RemoteProtocolError):
        ticket.verify(TERMS, DOMAIN)


def test_too_long_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(LimitExceeded):
        PathTicket.decode(ticket_of().encode() + bytes(TICKET_BYTES_MAX))
