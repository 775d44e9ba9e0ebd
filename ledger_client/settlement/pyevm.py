"""The embedded settlement engine: the contract on an EVM in this process, kept by a journal of its transactions. The default.

Theory of operation. The state is in memory (`evm.py`). Each transaction is applied, written to the journal and synchronised to the disk
before it is acknowledged; opening the journal applies them again, each at its block's time, and compares what each did with what it did
the first time. So a process killed at any instant has lost nothing that was acknowledged; what was on its way is there once or not at all.
A transaction that the contract refuses is not taken and not written.

One process at a time holds a journal; others reach the engine through `devnode.py`. Everything runs in a worker thread, one call at a time.

Time is given by a clock of whole seconds; blocks never go back behind it. Not here: consensus. Who holds the file can rewrite it.

Cost: a command 3 ms and what the disk takes to synchronise, a query 1.5 ms, opening 2.5 ms for each transaction ever taken.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import trio

from srwan.errors import RemoteProtocolError, SettlementUnavailable
from srwan.ledger_client.settlement.chain import PastLog, Receipt, refusal
from srwan.ledger_client.settlement.deploy import Deployment, deploy
from srwan.ledger_client.settlement.engine import ContractSettlement
from srwan.ledger_client.settlement.evm import GAS_LIMIT, Evm, Executed
from srwan.ledger_client.settlement.signing import Address, WalletKey
from srwan.ledger_client.settlement.transaction import Transaction, sign_transaction
from srwan.ledger_client.settlement.transaction_log import Entry, LogHead, TransactionLog

__all__ = ["EMBEDDED_CHAIN_ID", "PyEvmChain", "PyEvmSettlement"]

EMBEDDED_CHAIN_ID = 0x737277
""""srw", 7,565,943: registered for no public chain."""
IN_MEMORY = "the embedded engine"

_T = TypeVar("_T")


def _system_clock_s() -> int:
    return int(time.time())


class PyEvmChain:
    """Implements `Chain` in this process.

    Args:
        evm: the state.
        where: what to call it in errors.
        clock_s: the time, s since 1970.
        record: keeps an entry for good; raises SettlementUnavailable if it cannot.
        close: lets go of what `record` uses.
    """

    def __init__(
        self, evm: Evm, *, where: str, clock_s: Callable[[], int], record: Callable[[Entry], None], close: Callable[[], None]
    ) -> None:
        self._evm = evm
        self._where = where
        self._clock_s = clock_s
        self._record = record
        self._close = close
        self._limiter = trio.CapacityLimiter(1)
        self._is_closed = False
        self._problem: SettlementUnavailable | None = None

    @property
    def chain_id(self) -> int:
        """See `Chain.chain_id`."""
        return self._evm.chain_id

    @property
    def where(self) -> str:
        """See `Chain.where`."""
        return self._where

    @property
    def contract(self) -> Address | None:
        """The first contract that was deployed."""
        return self._evm.contract

    async def now_s(self) -> int:
        """See `Chain.now_s`: of the next block."""
        return await self.run(lambda evm: evm.time_at(self._clock_s()))

    async def call(self, to: Address, data: bytes) -> bytes:
        """See `Chain.call`."""
        done = await self.simulate(None, to, data)
        if not done.is_success:
            raise refusal(done.output)
        return done.output

    async def simulate(self, sender: Address | None, to: Address | None, data: bytes) -> Executed:
        """Return what a call of anybody's would do in the next block."""
        return await self.run(lambda evm: evm.call(sender, to, data, self._clock_s()))

    async def code(self, address: Address) -> bytes:
        """See `Chain.code`."""
        return await self.run(lambda evm: evm.code(address))

    async def past_logs(self, contract: Address, blocks: int) -> list[PastLog]:
        """See `Chain.past_logs`: of the last RECEIPTS_MAX transactions."""

        def look(evm: Evm) -> list[PastLog]:
            recent = [(receipt, evm.block(receipt.block_number)) for receipt in evm.receipts()]
            return [
                PastLog(block.number, block.time_s, log)
                for receipt, block in recent
                if block is not None and block.number > evm.head.number - blocks
                for log in receipt.logs
                if log.address == contract
            ]

        return await self.run(look)

    async def execute(self, key: WalletKey, to: Address | None, data: bytes) -> Receipt:
        """See `Chain.execute`."""

        def sign_and_take(evm: Evm) -> Executed:
            transaction = Transaction(evm.chain_id, evm.nonce(key.address), to, data, GAS_LIMIT, 0, 0)
            return self._take(evm, sign_transaction(key, transaction).raw, is_refusal_kept=False)

        done = await self.run(sign_and_take)
        if done.receipt is None:
            raise refusal(done.output)
        return done.receipt

    async def submit(self, raw: bytes) -> Receipt:
        """Take a signed transaction, as a node does: one that the contract refuses is taken too, and uses up its nonce.

        Raises:
            RemoteProtocolError: it cannot be taken. Nothing changed.
        """
        done = await self.run(lambda evm: self._take(evm, raw, is_refusal_kept=True))
        assert done.receipt is not None
        return done.receipt

    def _take(self, evm: Evm, raw: bytes, *, is_refusal_kept: bool) -> Executed:
        time_s = evm.time_at(self._clock_s())
        done = evm.apply(raw, time_s, is_refusal_kept=is_refusal_kept)
        if done.receipt is not None:
            try:
                self._record(Entry(time_s, done.digest, raw))
            except SettlementUnavailable as error:
                self._problem = error  # the state in memory is ahead of the file: it must not be seen
                raise
        return done

    async def run(self, work: Callable[[Evm], _T]) -> _T:
        """Do something with the state in the worker thread, when it is this call's turn."""
        return await trio.to_thread.run_sync(self._work, work, limiter=self._limiter)

    def _work(self, work: Callable[[Evm], _T]) -> _T:
        if self._is_closed:
            raise trio.ClosedResourceError("the settlement engine is closed")
        if self._problem is not None:
            raise SettlementUnavailable(self._where, self._problem.problem, "make room and restart: the journal holds all that was taken")
        return work(self._evm)

    async def aclose(self) -> None:
        """See `Chain.aclose`."""
        self._is_closed = True
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._close, limiter=self._limiter)


class PyEvmSettlement(ContractSettlement):
    """Implements `Settlement` in this process. Made by `open` or `deploy`."""

    def __init__(self, chain: PyEvmChain, contract: Address) -> None:
        super().__init__(chain, contract)
        self.chain = chain
        """For `devnode.py`, which lets other processes use it."""

    @classmethod
    async def deploy(
        cls,
        path: Path | None,
        key: WalletKey,
        deployment: Deployment,
        *,
        chain_id: int = EMBEDDED_CHAIN_ID,
        clock_s: Callable[[], int] = _system_clock_s,
    ) -> PyEvmSettlement:
        """Make a new chain with the contract on it, all handed out as `deployment.genesis` says.

        Args:
            path: of the journal; None keeps everything in memory only. It appears at once and whole, when the chain is ready.
            key: the deployer.
            deployment: what is fixed for good.
            chain_id: EIP-155 chain id, part of every signature.
            clock_s: the time, s since 1970.

        Raises:
            SettlementRefused: not with these parameters. SettlementUnavailable: there is a journal already, or it cannot be written.
            ConfigError: py-evm is not installed.
        """
        limiter = trio.CapacityLimiter(1)
        head = LogHead(chain_id, clock_s())
        evm = await trio.to_thread.run_sync(Evm, chain_id, head.time_s, limiter=limiter)
        entries: list[Entry] = []
        ready = PyEvmChain(evm, where=str(path or IN_MEMORY), clock_s=clock_s, record=entries.append, close=_nothing)
        domain = await deploy(ready, key, deployment)
        if path is None:
            return cls(PyEvmChain(evm, where=IN_MEMORY, clock_s=clock_s, record=_forget, close=_nothing), domain.contract)
        log = await trio.to_thread.run_sync(TransactionLog.create, path, head, entries, limiter=limiter)
        return cls(PyEvmChain(evm, where=str(path), clock_s=clock_s, record=log.append, close=log.close), domain.contract)

    @classmethod
    async def open(cls, path: Path, *, clock_s: Callable[[], int] = _system_clock_s) -> PyEvmSettlement:
        """Open a journal that `deploy` made, and apply what is in it.

        Raises:
            SettlementUnavailable: it is missing, damaged, held by another process, or gives another state than it gave.
            ConfigError: py-evm is not installed.

        Cost: 1 s for py-evm, 2.5 ms for each transaction.
        """
        log, evm = await trio.to_thread.run_sync(_replay, path)
        assert evm.contract is not None
        chain = PyEvmChain(evm, where=str(path), clock_s=clock_s, record=log.append, close=log.close)
        return cls(chain, evm.contract)


def _nothing() -> None:
    """There is nothing to close."""


def _forget(_entry: Entry) -> None:
    """Nothing outlives the process."""


def _replay(path: Path) -> tuple[TransactionLog, Evm]:
    log, entries = TransactionLog.open(path)
    try:
        evm = Evm(log.head.chain_id, log.head.time_s)
        for number, entry in enumerate(entries, 1):
            _apply_again(evm, entry, functools.partial(_differs, path, number))
        if evm.contract is None:
            raise SettlementUnavailable(str(path), "there is no contract in it", "it is of no use: move it away and deploy anew")
    except BaseException:
        log.close()
        raise
    return log, evm


def _apply_again(evm: Evm, entry: Entry, differs: Callable[[], SettlementUnavailable]) -> None:
    try:
        done = evm.apply(entry.raw, entry.time_s, is_refusal_kept=True)
    except RemoteProtocolError as error:
        raise differs() from error
    if done.digest != entry.digest:
        raise differs()


def _differs(path: Path, number: int) -> SettlementUnavailable:
    return SettlementUnavailable(
        str(path), f"transaction {number} does not do what it did when it was taken", "use the versions of srwan and py-evm that wrote it"
    )
