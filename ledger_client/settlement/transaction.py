"""Transactions of an EVM chain: made, signed, and read back.

A transaction here moves no coin of the chain: it carries a call of the contract, or its deployment. Two envelopes are known: EIP-1559,
and the legacy one with EIP-155 for nodes that name no base fee.

Theory of operation. The bytes that are signed are an RLP list; the signature is of the same curve and key as a ticket's, over another
digest: a ticket's begins with 0x19 0x01, a transaction's with 0x02 or an RLP list's header, so neither passes for the other.

Written out rather than taken from eth_account, whose import costs 1.0 s of a processor in every router; tests compare the two.

Source: yellow paper appendix B (RLP); EIP-155, EIP-1559, EIP-2718.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import attrs

from srwan.errors import DecodeError, LimitExceeded
from srwan.ledger_client.settlement.signing import Address, WalletKey, keccak256, recover

__all__ = ["TRANSACTION_BYTES_MAX", "SignedTransaction", "Transaction", "contract_address", "read_transaction", "sign_transaction"]

TRANSACTION_BYTES_MAX = 128 << 10
"""Of one transaction: what nodes take into their pools (geth: txMaxSize). A batch of 64 claims with 8 payees each has 83 kB."""
_EIP_1559 = 2
_RLP_DEPTH_MAX = 4

Rlp: TypeAlias = "bytes | list[Rlp]"


def rlp_encode(item: bytes | Sequence[bytes | Sequence[bytes]]) -> bytes:
    """Return the RLP of bytes or of a list."""
    if isinstance(item, bytes):
        if len(item) == 1 and item[0] < 0x80:
            return item
        return _rlp_header(len(item), 0x80) + item
    body = b"".join(map(rlp_encode, item))
    return _rlp_header(len(body), 0xC0) + body


def _rlp_header(length: int, base: int) -> bytes:
    if length <= 55:
        return bytes([base + length])
    size = _minimal(length)
    return bytes([base + 55 + len(size)]) + size


def _minimal(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def rlp_decode(data: bytes) -> Rlp:
    """Return the item that `data` is, all of it.

    Raises:
        DecodeError: it is no canonical RLP.
    """
    item, end = _rlp_item(data, 0, 0)
    if end != len(data):
        raise DecodeError(f"{len(data) - end} bytes behind an RLP item")
    return item


def _rlp_item(data: bytes, at: int, depth: int) -> tuple[Rlp, int]:
    if at >= len(data) or depth > _RLP_DEPTH_MAX:
        raise DecodeError("RLP that ends early or is nested too deeply")
    first = data[at]
    if first < 0x80:
        return data[at : at + 1], at + 1
    base = 0xC0 if first >= 0xC0 else 0x80
    length, start = first - base, at + 1
    if length > 55:
        size = data[start : start + length - 55]
        start += length - 55
        length = int.from_bytes(size, "big")
        if not size or not size[0] or length <= 55:
            raise DecodeError("an RLP length that is not minimal")
    end = start + length
    if end > len(data):
        raise DecodeError("RLP that ends early")
    if base == 0x80:
        if length == 1 and data[start] < 0x80:
            raise DecodeError("an RLP byte that is not minimal")
        return data[start:end], end
    items: list[Rlp] = []
    while start < end:
        item, start = _rlp_item(data, start, depth + 1)
        items.append(item)
    if start != end:
        raise DecodeError("an RLP list whose items do not fill it")
    return items, end


@attrs.frozen(slots=True)
class Transaction:
    """A call of a contract, or its deployment, not yet signed."""

    chain_id: int
    """EIP-155."""
    nonce: int
    """How many transactions of the wallet come before it."""
    to: Address | None
    """The contract; None to deploy one."""
    data: bytes = attrs.field(repr=False)
    """The call, or the code with its arguments."""
    gas: int
    """The most it may use, gas."""
    fee_max_wei: int
    """The most that one gas may cost in all, wei."""
    priority_wei: int | None
    """The most of that which the block's maker gets, wei; None makes it a legacy transaction."""


@attrs.frozen(slots=True)
class SignedTransaction:
    """A transaction and the bytes that a node takes."""

    transaction: Transaction
    sender: Address
    """Whose signature it bears."""
    raw: bytes = attrs.field(repr=False)
    """For eth_sendRawTransaction."""
    hash: bytes
    """Its name on the chain, 32 B."""


def _fields(transaction: Transaction) -> list[bytes | Sequence[bytes]]:
    to = b"" if transaction.to is None else bytes(transaction.to)
    common: list[bytes | Sequence[bytes]] = [_minimal(transaction.gas), to, b"", transaction.data]
    if transaction.priority_wei is None:
        return [_minimal(transaction.nonce), _minimal(transaction.fee_max_wei), *common]
    fees = [_minimal(transaction.priority_wei), _minimal(transaction.fee_max_wei)]
    return [_minimal(transaction.chain_id), _minimal(transaction.nonce), *fees, *common, ()]


def _digest(transaction: Transaction) -> bytes:
    if transaction.priority_wei is None:
        return keccak256(rlp_encode([*_fields(transaction), _minimal(transaction.chain_id), b"", b""]))
    return keccak256(bytes([_EIP_1559]) + rlp_encode(_fields(transaction)))


def sign_transaction(key: WalletKey, transaction: Transaction) -> SignedTransaction:
    """Sign it.

    Raises:
        ValueError: it is larger than a node takes.

    Cost: 0.1 ms for a small one.
    """
    signature = key.sign(_digest(transaction))
    parity = signature[64] - 27
    r, s = signature[:32].lstrip(b"\0"), signature[32:64].lstrip(b"\0")
    if transaction.priority_wei is None:
        raw = rlp_encode([*_fields(transaction), _minimal(transaction.chain_id * 2 + 35 + parity), r, s])
    else:
        raw = bytes([_EIP_1559]) + rlp_encode([*_fields(transaction), _minimal(parity), r, s])
    if len(raw) > TRANSACTION_BYTES_MAX:
        raise ValueError(f"a transaction of {len(raw)} bytes, nodes take {TRANSACTION_BYTES_MAX}")
    return SignedTransaction(transaction, key.address, raw, keccak256(raw))


def read_transaction(raw: bytes) -> SignedTransaction:
    """Read a signed transaction and recover its sender.

    Raises:
        LimitExceeded: larger than TRANSACTION_BYTES_MAX.
        DecodeError: not a transaction, or of a kind that is not known here: with coins, with an access list, of another type.
        BadSignature: no key fits its signature.
    """
    if len(raw) > TRANSACTION_BYTES_MAX:
        raise LimitExceeded(f"a transaction of {len(raw)} bytes, at most {TRANSACTION_BYTES_MAX}", reason="size")
    is_legacy = raw[:1] >= b"\xc0"
    if not is_legacy and raw[:1] != bytes([_EIP_1559]):
        raise DecodeError("a transaction of another type than legacy and EIP-1559")
    items = rlp_decode(raw if is_legacy else raw[1:])
    match (is_legacy, items):
        case (True, [bytes(nonce), bytes(fee), bytes(gas), bytes(to), b"", bytes(data), bytes(v), bytes(r), bytes(s)]):
            chain_id, priority = divmod(max(0, _number(v) - 35), 2)[0], None
            parity = _number(v) - 35 - 2 * chain_id
        case (
            False,
            [
                bytes(chain),
                bytes(nonce),
                bytes(tip),
                bytes(fee),
                bytes(gas),
                bytes(to),
                b"",
                bytes(data),
                [],
                bytes(v),
                bytes(r),
                bytes(s),
            ],
        ):
            chain_id, priority, parity = _number(chain), _number(tip), _number(v)
        case _:
            raise DecodeError("not a transaction of this kind")
    if len(to) not in (0, 20) or parity not in (0, 1) or max(len(r), len(s)) > 32:
        raise DecodeError("a transaction with a malformed receiver or signature")
    receiver = Address(to) if to else None
    transaction = Transaction(chain_id, _number(nonce), receiver, data, _number(gas), _number(fee), priority)
    sender = recover(_digest(transaction), r.rjust(32, b"\0") + s.rjust(32, b"\0") + bytes([27 + parity]))
    return SignedTransaction(transaction, sender, raw, keccak256(raw))


def _number(data: bytes) -> int:
    if data[:1] == b"\0" or len(data) > 32:
        raise DecodeError("a number that is not minimal")
    return int.from_bytes(data, "big")


def contract_address(sender: Address, nonce: int) -> Address:
    """Return where a contract lands that this wallet deploys with this nonce."""
    return Address(keccak256(rlp_encode([bytes(sender), _minimal(nonce)]))[-20:])
