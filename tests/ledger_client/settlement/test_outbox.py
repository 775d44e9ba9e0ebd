"""What an outbox keeps, and what it lets go."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from srwan.errors import SettlementUnavailable
from srwan.ledger_client.settlement import outbox as outbox_module
from srwan.ledger_client.settlement.outbox import KEPT_S, Outbox
from srwan.ledger_client.settlement.signing import Address, WalletKey
from srwan.ledger_client.settlement.transaction import SignedTransaction, Transaction, sign_transaction
from srwan.ledger_client.settlement.transaction_log import Entry, LogHead, TransactionLog

KEY = WalletKey(b"\7" * 32)


def signed_with(nonce: int, fee_wei: int = 1) -> SignedTransaction:
    return sign_transaction(KEY, Transaction(5, nonce, Address(b"\1" * 20), b"call", 50_000, fee_wei, 1))


async def left_in(path: Path) -> Sequence[SignedTransaction]:
    outbox = await Outbox.open(path, 5)
    await outbox.aclose()
    return outbox.left


async def test_what_is_not_finished_is_left_over(tmp_path: Path) -> None:
    path = tmp_path / "outbox"
    outbox = await Outbox.open(path, 5)
    first, second, dearer, third = signed_with(0), signed_with(1), signed_with(1, 2), signed_with(2)
    for signed in (first, second, dearer, third):
        await outbox.keep(signed)
    await outbox.finish(dearer)
    await outbox.aclose()

    assert (first, third) == await left_in(path)
    assert (first, third) == await left_in(path)


async def test_what_is_older_than_an_hour_is_let_go(tmp_path: Path) -> None:
    path, now_s = tmp_path / "outbox", int(time.time())
    old, recent = signed_with(0), signed_with(1)
    entries = [Entry(now_s - KEPT_S - 10, bytes(8), old.raw), Entry(now_s - 60, bytes(8), recent.raw)]
    TransactionLog.create(path, LogHead(5, now_s), entries).close()

    assert (recent,) == await left_in(path)


async def test_a_file_that_grows_is_written_anew_with_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "BYTES_MAX", 2_000)
    path = tmp_path / "outbox"
    outbox = await Outbox.open(path, 5)
    await outbox.keep(signed_with(0))
    for nonce in range(1, 60):
        await outbox.keep(signed_with(nonce))
        await outbox.finish(signed_with(nonce))
        assert 3_000 > path.stat().st_size
    await outbox.aclose()

    assert (signed_with(0),) == await left_in(path)


async def test_one_process_holds_it_and_what_is_no_outbox_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "outbox"
    outbox = await Outbox.open(path, 5)
    with pytest.raises(SettlementUnavailable, match="another process holds it"):
        await Outbox.open(path, 5)
    await outbox.aclose()
    with pytest.raises(SettlementUnavailable, match="it is of chain 5, not 6"):
        await Outbox.open(path, 6)
    other = tmp_path / "other"
    TransactionLog.create(other, LogHead(5, 0), [Entry(1, bytes(8), b"nothing")]).close()
    with pytest.raises(SettlementUnavailable, match="a transaction in it is malformed"):
        await Outbox.open(other, 5)
