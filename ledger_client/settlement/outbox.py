"""Transactions on their way to a node, kept on disk until they are taken for good, so that a restart sends none of them twice.

Theory of operation. Each is written and synchronised before it is sent; when it is settled what became of it, a mark follows. What has no
mark when the file is opened again was left over, and is followed up if it is not older than an hour. The file is written anew with what is
left when it is opened, and when it has grown.

Layout: that of `transaction_log.py`; a mark is an entry without a transaction, its digest the first 8 bytes of the transaction's hash.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import trio

from srwan.errors import RemoteProtocolError, SettlementUnavailable
from srwan.ledger_client.settlement.signing import Address
from srwan.ledger_client.settlement.transaction import SignedTransaction, read_transaction
from srwan.ledger_client.settlement.transaction_log import Entry, LogHead, TransactionLog

__all__ = ["KEPT_S", "Outbox"]

KEPT_S = 3600
"""How long a transaction is followed up after a restart, s."""
BYTES_MAX = 4 << 20
"""Size from which the file is written anew, bytes."""
_DIGEST_BYTES = 8


class Outbox:
    """An open outbox. Its methods work in a thread, one at a time. Made by `open`."""

    def __init__(self, log: TransactionLog, left: Sequence[tuple[Entry, SignedTransaction]]) -> None:
        self._log = log
        self._limiter = trio.CapacityLimiter(1)
        self._live: dict[tuple[Address, int], list[Entry]] = {}
        self.left = tuple(signed for _, signed in left)
        """What an earlier process left over, in the order in which it was signed."""
        for entry, signed in left:
            self._live.setdefault(_name(signed), []).append(entry)

    @classmethod
    async def open(cls, path: Path, chain_id: int) -> Self:
        """Open an outbox; make it if there is none.

        Raises:
            SettlementUnavailable: damaged, of another chain, not permitted, or another process holds it.
        """
        log, left = await trio.to_thread.run_sync(_open, path, LogHead(chain_id, int(time.time())))
        return cls(log, left)

    async def keep(self, signed: SignedTransaction) -> None:
        """Write down a transaction; it may be sent when this returns."""
        entry = Entry(int(time.time()), bytes(_DIGEST_BYTES), signed.raw)
        await trio.to_thread.run_sync(self._log.append, entry, limiter=self._limiter)
        self._live.setdefault(_name(signed), []).append(entry)

    async def finish(self, signed: SignedTransaction) -> None:
        """Write down that it is settled what became of all transactions with this one's wallet and nonce."""
        self._live.pop(_name(signed), None)
        await trio.to_thread.run_sync(self._mark, signed.hash[:_DIGEST_BYTES], limiter=self._limiter)

    def _mark(self, digest: bytes) -> None:
        if self._log.size_bytes > BYTES_MAX:
            self._log = self._log.rewrite([entry for entries in list(self._live.values()) for entry in entries])
        else:
            self._log.append(Entry(int(time.time()), digest, b""))

    async def aclose(self) -> None:
        """Close it. Closing twice is fine."""
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._log.close, limiter=self._limiter)


def _name(signed: SignedTransaction) -> tuple[Address, int]:
    return signed.sender, signed.transaction.nonce


def _open(path: Path, head: LogHead) -> tuple[TransactionLog, list[tuple[Entry, SignedTransaction]]]:
    if not path.exists():
        return TransactionLog.create(path, head), []
    log, entries = TransactionLog.open(path)
    try:
        if log.head.chain_id != head.chain_id:
            raise SettlementUnavailable(str(path), f"it is of chain {log.head.chain_id}, not {head.chain_id}", "choose another path")
        try:
            sent = [(entry, read_transaction(entry.raw)) for entry in entries if entry.raw]
        except RemoteProtocolError as error:
            raise SettlementUnavailable(str(path), f"a transaction in it is malformed ({error})", "move it away") from error
        marks = {entry.digest for entry in entries if not entry.raw}
        finished = {_name(signed) for _, signed in sent if signed.hash[:_DIGEST_BYTES] in marks}
        left = [(entry, signed) for entry, signed in sent if _name(signed) not in finished and entry.time_s > head.time_s - KEPT_S]
        return (log.rewrite([entry for entry, _ in left]) if len(left) < len(entries) else log), left
    except BaseException:
        log.close()
        raise
