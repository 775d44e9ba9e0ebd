"""Keccak, addresses, EIP-712 domains and signatures, held against eth_account and eth_utils."""

from __future__ import annotations

import contextlib

import pytest
from eth_account import Account
from eth_account._utils.signing import sign_message_hash
from eth_keys.datatypes import PrivateKey
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak
from hypothesis import given, settings
from hypothesis import strategies as st

from srwan.errors import BadSignature
from srwan.ledger_client.settlement.signing import Address, SettlementDomain, WalletKey, keccak256, recover, type_hash, word

CURVE_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
secrets = st.integers(1, CURVE_ORDER - 1).map(lambda number: number.to_bytes(32, "big"))
addresses = st.binary(min_size=20, max_size=20).map(Address)
digests = st.binary(min_size=32, max_size=32)


def test_known_values() -> None:
    assert "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470" == keccak256(b"").hex()
    assert "0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf" == str(WalletKey((1).to_bytes(32, "big")).address)


@given(data=st.binary(max_size=300))
def test_keccak_is_that_of_the_evm(data: bytes) -> None:
    assert keccak(data) == keccak256(data)


@given(secret=secrets)
@settings(max_examples=20)
def test_a_wallets_address_is_that_of_its_key(secret: bytes) -> None:
    assert Account.from_key(secret).address == str(WalletKey(secret).address)


@given(address=addresses)
def test_addresses_are_written_and_read_with_their_checksum(address: Address) -> None:
    assert to_checksum_address(address) == str(address)
    assert address == Address.parse(str(address)) == Address.parse(f"0x{address.hex()}") == Address.parse(f"0x{address.hex().upper()}")


def test_a_mistyped_address_is_refused() -> None:
    good = "0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf"
    for text in ("", "0x", good[:-1], f"{good}0", good.replace("7E5F", "7E5f"), f"0x{'g' * 40}"):
        with pytest.raises(ValueError, match=r"address|checksum|hexadecimal|non-hex"):
            Address.parse(text)
    with pytest.raises(ValueError, match="20 bytes"):
        Address(bytes(19))


@given(secret=secrets, digest=digests)
@settings(max_examples=30)
def test_signatures_are_those_of_eth_account_and_tell_who_signed(secret: bytes, digest: bytes) -> None:
    key = WalletKey(secret)
    _, _, _, expected = sign_message_hash(PrivateKey(secret), digest)
    assert bytes(expected) == key.sign(digest)
    assert key.address == recover(digest, key.sign(digest))


@given(signature=st.binary(max_size=80).filter(lambda data: len(data) != 65), digest=digests)
def test_bytes_of_another_length_are_no_signature(signature: bytes, digest: bytes) -> None:
    with pytest.raises(BadSignature):
        recover(digest, signature)


@given(shape=st.sampled_from([(64, 27), (64, 28)]), body=st.binary(min_size=64, max_size=64), digest=digests)
@settings(max_examples=50)
def test_random_numbers_of_the_right_shape_raise_nothing_else(shape: tuple[int, int], body: bytes, digest: bytes) -> None:
    with contextlib.suppress(BadSignature):
        assert 20 == len(recover(digest, body[: shape[0]] + bytes([shape[1]])))


def test_the_twin_of_a_signature_is_refused() -> None:
    digest, key = bytes(32), WalletKey(bytes([7]) * 32)
    signature = key.sign(digest)
    s = int.from_bytes(signature[32:64], "big")
    twin = signature[:32] + (CURVE_ORDER - s).to_bytes(32, "big") + bytes([55 - signature[64]])
    with pytest.raises(BadSignature, match="high s"):
        recover(digest, twin)


@pytest.mark.parametrize("r", [0, CURVE_ORDER, 2**256 - 1])
@pytest.mark.parametrize("s", [0, 1])
def test_numbers_at_the_edges_are_no_signature(r: int, s: int) -> None:
    with pytest.raises(BadSignature):
        recover(bytes(32), r.to_bytes(32, "big") + s.to_bytes(32, "big") + b"\x1b")


@pytest.mark.parametrize("secret", [bytes(32), CURVE_ORDER.to_bytes(32, "big"), b"\xff" * 32, bytes(31), b""])
def test_what_is_no_key_is_refused(secret: bytes) -> None:
    with pytest.raises(ValueError, match=r"(?i)key|secret|length|invalid"):
        WalletKey(secret)


def test_a_key_does_not_show_itself() -> None:
    secret = bytes(range(1, 33))
    assert secret.hex() not in repr(WalletKey(secret)) + str(WalletKey(secret))
    assert secret == WalletKey(secret).reveal()


@given(chain_id=st.integers(0, 2**256 - 1), contract=addresses, struct=digests)
@settings(max_examples=30)
def test_the_domain_is_that_of_eip_712(chain_id: int, contract: Address, struct: bytes) -> None:
    from eth_abi.abi import encode

    kind = keccak(b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)")
    parts = (kind, keccak(b"srwan"), keccak(b"1"), chain_id, str(contract))
    separator = keccak(encode(["bytes32", "bytes32", "bytes32", "uint256", "address"], parts))
    assert keccak(b"\x19\x01" + separator + struct) == SettlementDomain(chain_id, contract).digest(struct)


def test_words_have_32_bytes_and_bounds() -> None:
    assert (bytes(31) + b"\x01", b"\xff" * 32, bytes(12) + bytes(20)) == (word(1), word(2**256 - 1), word(bytes(20)))
    for value in (-1, 2**256, bytes(33)):
        with pytest.raises(ValueError, match=r"fit"):
            word(value)


def test_a_type_hash_is_the_hash_of_its_words() -> None:
    assert keccak(b"Mail(address to)") == type_hash("Mail(address to)")
