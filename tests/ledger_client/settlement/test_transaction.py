"""Transactions: the same bytes as eth_account's, read back, and nothing but protocol errors for nonsense."""

from __future__ import annotations

import pytest
import rlp  # type: ignore[import-untyped]
from eth_account import Account
from hypothesis import given, settings
from hypothesis import strategies as st

from srwan.errors import RemoteProtocolError
from srwan.ledger_client.settlement.signing import Address, WalletKey
from srwan.ledger_client.settlement.transaction import (
    TRANSACTION_BYTES_MAX,
    Transaction,
    contract_address,
    read_transaction,
    rlp_decode,
    rlp_encode,
    sign_transaction,
)

KEY = WalletKey(b"\7" * 32)
uint64 = st.integers(0, 2**64 - 1)
transactions = st.builds(
    Transaction,
    chain_id=st.integers(1, 2**32),
    nonce=uint64,
    to=st.one_of(st.none(), st.binary(min_size=20, max_size=20).map(Address)),
    data=st.one_of(st.binary(max_size=80), st.sampled_from([b"", b"\0", b"\x7f", b"\x80", b"x" * 55, b"x" * 56, b"x" * 70_000])),
    gas=uint64,
    fee_max_wei=st.integers(0, 2**128 - 1),
    priority_wei=st.one_of(st.none(), st.just(0)),
)


def theirs(transaction: Transaction) -> bytes:
    fields: dict[str, object] = {
        "chainId": transaction.chain_id,
        "nonce": transaction.nonce,
        "to": "" if transaction.to is None else str(transaction.to),
        "data": transaction.data,
        "gas": transaction.gas,
        "value": 0,
    }
    if transaction.priority_wei is None:
        fields["gasPrice"] = transaction.fee_max_wei
    else:
        fields |= {"type": 2, "maxFeePerGas": transaction.fee_max_wei, "maxPriorityFeePerGas": transaction.priority_wei}
    return bytes(Account.from_key(b"\7" * 32).sign_transaction(fields).raw_transaction)


@settings(max_examples=60)
@given(transactions)
def test_a_signed_transaction_is_that_of_eth_account_and_is_read_back(transaction: Transaction) -> None:
    signed = sign_transaction(KEY, transaction)

    assert theirs(transaction) == signed.raw
    assert signed == read_transaction(signed.raw)
    assert KEY.address == signed.sender


nested = st.recursive(st.binary(max_size=60), lambda inner: st.lists(inner, max_size=4), max_leaves=6)


@settings(max_examples=60)
@given(nested)
def test_rlp_is_that_of_the_library(item: list[bytes] | bytes) -> None:
    assert rlp.encode(item) == rlp_encode(item)


@settings(max_examples=300)
@given(st.one_of(st.binary(max_size=200), st.binary(max_size=200).map(lambda data: b"\2" + data), st.binary(max_size=80).map(rlp_encode)))
def test_nonsense_raises_nothing_but_protocol_errors(data: bytes) -> None:
    for read in (read_transaction, rlp_decode):
        try:
            read(data)
        except RemoteProtocolError:
            continue


@settings(max_examples=100)
@given(st.data())
def test_an_altered_transaction_is_refused_or_of_another_sender(data: st.DataObject) -> None:
    signed = sign_transaction(KEY, Transaction(5, 3, Address(b"\1" * 20), b"call", 50_000, 10, 1))
    at = data.draw(st.integers(0, len(signed.raw) - 1))
    altered = bytearray(signed.raw)
    altered[at] ^= 1 << data.draw(st.integers(0, 7))
    try:
        found = read_transaction(bytes(altered))
    except RemoteProtocolError:
        return

    assert found.sender != KEY.address


@pytest.mark.parametrize("kind", [1, 3, 4, 0x7F])
def test_other_types_are_named_as_such(kind: int) -> None:
    with pytest.raises(RemoteProtocolError, match="another type"):
        read_transaction(bytes([kind]) + b"\xc0")


def test_a_transaction_that_moves_coins_is_not_known_here() -> None:
    fields = {"chainId": 5, "nonce": 0, "to": "0x" + "11" * 20, "data": b"", "gas": 21_000, "value": 1, "gasPrice": 1}

    with pytest.raises(RemoteProtocolError, match="this kind"):
        read_transaction(bytes(Account.from_key(b"\7" * 32).sign_transaction(fields).raw_transaction))


def test_one_that_is_too_large_is_neither_made_nor_read() -> None:
    with pytest.raises(ValueError, match="nodes take"):
        sign_transaction(KEY, Transaction(5, 0, None, bytes(TRANSACTION_BYTES_MAX), 1, 0, 0))
    with pytest.raises(RemoteProtocolError, match="at most"):
        read_transaction(b"\2" + bytes(TRANSACTION_BYTES_MAX))


def test_lists_nested_without_end_are_refused() -> None:
    item = b"\xc0"
    for _ in range(60):
        item = bytes([0xC0 + len(item)]) + item if len(item) < 55 else item

    with pytest.raises(RemoteProtocolError, match="too deeply"):
        rlp_decode(item)


def test_where_a_contract_lands_is_known_before() -> None:
    # yellow paper, section 7: keccak of [sender, nonce]; the values are those of a known deployment
    sender = Address.parse("0x6ac7ea33f8831ea9dcc53393aaa88b25a785dbf0")

    assert Address.parse("0xcd234a471b72ba2f1ccf0a70fcaba648a5eecd8d") == contract_address(sender, 0)
    assert Address.parse("0x343c43a37d37dff08ae8c4a11544c718abb4fcf8") == contract_address(sender, 1)
