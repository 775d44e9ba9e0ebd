"""The embedded machine: an EVM in memory that takes one transaction a block, at the time it is told, and nothing else.

What it is not: a blockchain. There is no consensus, no mining, no Merkle root and no fee: gas costs nothing and is limited only so that a
transaction ends. What makes it last is the journal of `pyevm.py`: the same transactions at the same times give the same state.

Theory of operation. py-evm's state of the Prague fork is kept in memory for good, and each transaction is applied to it in place: 2.5 ms,
against 8 ms with blocks, roots and receipts of a whole chain. Block hashes are made of number, time and transaction; the contract uses
none.

py-evm is imported when the first machine is made: 0.95 s of a processor, and it is in the extra srwan[settlement].
"""

from __future__ import annotations

import hashlib
import sys
from typing import Any

import attrs

from srwan.errors import ConfigError, DecodeError, RemoteProtocolError
from srwan.ledger_client.settlement.chain import Log, Receipt
from srwan.ledger_client.settlement.signing import Address, keccak256, word
from srwan.ledger_client.settlement.transaction import SignedTransaction, read_transaction

__all__ = ["GAS_LIMIT", "Block", "Evm", "Executed"]

GAS_LIMIT = 60_000_000
"""Of a block and of a transaction, gas. A batch of 64 claims with 8 new payees each takes 25 million."""
RECEIPTS_MAX = 10_000
"""Receipts kept for those who ask later; the oldest go first."""
_NOBODY = Address(bytes(20))


@attrs.frozen(slots=True)
class Block:
    """One block: one transaction."""

    number: int
    """From 1 on; block 0 is empty."""
    time_s: int
    """When it was made, s since 1970."""
    hash: bytes
    """Its name, 32 B."""
    parent: bytes
    """Name of the one before, 32 B."""


@attrs.frozen(slots=True)
class Executed:
    """What a call or a transaction did."""

    is_success: bool
    output: bytes
    """What it gave back, or the reason why it was refused."""
    gas_used: int
    """Gas."""
    receipt: Receipt | None
    """Of a transaction that was taken; None where nothing changed."""

    @property
    def digest(self) -> bytes:
        """Return 8 bytes over success and events: what a second run of the same transaction must give again."""
        logs = () if self.receipt is None else self.receipt.logs
        parts = [bytes([self.is_success]), *(part for log in logs for part in (log.address, *log.topics, log.data))]
        return hashlib.blake2b(b"".join(len(part).to_bytes(4, "big") + part for part in parts), digest_size=8).digest()


def _import_machine() -> Any:
    """Import py-evm, and undo what that does to the whole process.

    It raises the interpreter's limit of recursion to 10,240, at which nested JSON of some 20 kB, from anybody, overruns the stack (seen:
    a segmentation fault in json.loads). It does so for contracts that call themselves 1,024 deep; this one calls nobody.
    """
    limit = sys.getrecursionlimit()
    try:
        from srwan.ledger_client.settlement import machine  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(
            "settlement", f"the embedded engine is not installed ({error.name})", 'run `pip install "srwan[settlement]"`'
        ) from None
    finally:
        sys.setrecursionlimit(limit)
    return machine


class Evm:
    """The state of an embedded chain.

    Args:
        chain_id: EIP-155 chain id: part of every signature.
        time_s: of block 0, s since 1970.

    Raises:
        ConfigError: py-evm is not installed.
    """

    def __init__(self, chain_id: int, time_s: int) -> None:
        self.chain_id = chain_id
        self._machine = _import_machine().Machine(chain_id, GAS_LIMIT)
        self.head = Block(0, time_s, keccak256(word(chain_id) + word(time_s)), bytes(32))
        """The last block."""
        self.contract: Address | None = None
        """The first contract that was deployed."""
        self._blocks = {0: self.head}
        self._receipts: dict[bytes, tuple[Receipt, SignedTransaction]] = {}

    def time_at(self, now_s: int) -> int:
        """Return the time of a block made now: never before the last one's, s since 1970."""
        return max(now_s, self.head.time_s)

    def apply(self, raw: bytes, time_s: int, *, is_refusal_kept: bool) -> Executed:
        """Take a transaction into a new block.

        Args:
            raw: as signed.
            time_s: time of its block, not before the last one's, s since 1970.
            is_refusal_kept: also take one that the contract refuses, which uses up its nonce, as nodes do; else nothing changes.

        Raises:
            RemoteProtocolError: not a transaction, of another chain, its nonce is not the wallet's next, or it needs too much gas.
                Nothing changed.

        Cost: 3 ms for a deposit, 360 ms for a batch of 50 claims with 3 payees each.
        """
        if time_s < self.head.time_s:
            raise DecodeError(f"a block at {time_s} s after one at {self.head.time_s} s")
        signed = read_transaction(raw)
        self._admit(signed)
        number = self.head.number + 1
        done = self._machine.apply(raw, number, time_s, is_refusal_kept)
        if not (done.is_success or is_refusal_kept):
            return Executed(False, done.output, done.gas_used, None)
        logs = tuple(Log(Address(address), tuple(map(word, topics)), data) for address, topics, data in done.logs)
        contract = Address(done.contract) if done.contract and done.is_success else None
        receipt = Receipt(signed.hash, number, done.is_success, contract, done.gas_used, logs)
        self.contract = self.contract or contract
        name = keccak256(self.head.hash + word(number) + word(time_s) + signed.hash)
        self.head = Block(number, time_s, name, self.head.hash)
        self._blocks[number] = self.head
        self._receipts[signed.hash] = (receipt, signed)
        if len(self._receipts) > RECEIPTS_MAX:
            del self._receipts[next(iter(self._receipts))]
        if len(self._blocks) > RECEIPTS_MAX:
            del self._blocks[next(iter(self._blocks))]
        return Executed(done.is_success, done.output, done.gas_used, receipt)

    def _admit(self, signed: SignedTransaction) -> None:
        transaction = signed.transaction
        expected = self.nonce(signed.sender)
        if transaction.chain_id != self.chain_id:
            raise RemoteProtocolError(f"a transaction for chain {transaction.chain_id}, this is {self.chain_id}", reason="chain")
        if transaction.nonce < expected:
            raise RemoteProtocolError(f"nonce too low: {transaction.nonce}, the wallet's next is {expected}", reason="nonce")
        if transaction.nonce > expected:
            raise RemoteProtocolError(f"nonce too high: {transaction.nonce}, the wallet's next is {expected}", reason="nonce")
        if transaction.gas > GAS_LIMIT:
            raise RemoteProtocolError(f"exceeds block gas limit: {transaction.gas} of {GAS_LIMIT}", reason="gas")
        if transaction.fee_max_wei:
            raise RemoteProtocolError("insufficient funds for gas: here gas is free and nobody has coins, so offer 0", reason="gas")

    def call(self, sender: Address | None, to: Address | None, data: bytes, now_s: int) -> Executed:
        """Return what a call would do now; changes nothing. Cost: 1.5 ms."""
        done = self._machine.call(sender or _NOBODY, to, data, self.head.number + 1, self.time_at(now_s))
        return Executed(done.is_success, done.output, done.gas_used, None)

    def nonce(self, address: Address) -> int:
        """Return how many transactions of a wallet were taken."""
        return int(self._machine.nonce(address))

    def code(self, address: Address) -> bytes:
        """Return the code at an address, empty if there is no contract."""
        return bytes(self._machine.code(address))

    def block(self, number: int) -> Block | None:
        """Return a block, None if there is none or it is too long ago."""
        return self._blocks.get(number)

    def receipts(self) -> list[Receipt]:
        """Return what became of the last transactions, RECEIPTS_MAX at most, oldest first."""
        return [receipt for receipt, _ in self._receipts.values()]

    def receipt(self, transaction_hash: bytes) -> tuple[Receipt, SignedTransaction] | None:
        """Return what became of a transaction, None if it never came or too long ago."""
        return self._receipts.get(transaction_hash)
