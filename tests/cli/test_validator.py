"""`srwan validator`: against a store in a file and a node over HTTP; what it prints, and what it says when it cannot start."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import pytest
import trio

from srwan.cli import validator as command
from srwan.errors import ConfigError, WalletLocked
from srwan.identity import Identity
from srwan.ledger_client.settlement.devnode import open_devnode
from srwan.ledger_client.settlement.keystore import create_wallet
from srwan.ledger_client.settlement.signing import Address
from srwan.ledger_client.sqlite import SqliteStore
from srwan.testing.market import Market, wallet

PASSPHRASE = "correct horse battery staple"


def options_of(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(words)


def words_of(folder: Path, url: str = "http://127.0.0.1:9", contract: str = str(Address(bytes(20)))) -> list[str]:
    keystore, passphrase = folder / "wallet.json", folder / "passphrase"
    if not keystore.exists():
        create_wallet(keystore, PASSPHRASE, key=wallet("validator-0"), scrypt_n=1024)
        passphrase.write_text(PASSPHRASE + "\n")
        passphrase.chmod(0o600)
    place = ["--store", str(folder / "ditex.sqlite"), "--settlement", url, "--contract", contract]
    return [*place, "--keystore", str(keystore), "--passphrase-file", str(passphrase), "--slot-s", "1", "--confirmations", "1"]


async def test_a_claim_is_judged_signed_and_settled_over_http(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    market = await Market.open(validators=1, quorum=1, start_s=int(time.time()))
    script = await market.session([await market.offer(f"relay-{number}", 1_000_000) for number in (1, 2, 3)])
    for seat in market.seats:
        seat.is_up = False
    async with open_devnode(market.settlement.chain) as node, trio.open_nursery() as nursery:
        words = [*words_of(tmp_path, node.url, str(market.domain.contract)), "--json"]
        identity = Identity.load_or_create(tmp_path / "identity")
        nursery.start_soon(command._validate, options_of(*words), market.domain.contract, wallet("validator-0"), identity)
        store = await SqliteStore.open(tmp_path / "ditex.sqlite")
        await script.deliver(10**9)
        for stored in await market.store.watch(0):
            await store.put(stored.record, time.time_ns())
        with trio.fail_after(60):
            printed = ""
            while '"settled"' not in printed:
                await trio.sleep(0.1)
                printed += capsys.readouterr().out
        await store.aclose()
        nursery.cancel_scope.cancel()
    await market.settlement.aclose()

    lines = [json.loads(line) for line in printed.splitlines()]
    assert ["up", "accepted", "proposed", "quorum", "settled"] == [line["kind"] for line in lines]
    assert (True, 1) == (lines[0]["has_seat"], lines[0]["quorum"])
    assert 3_000_000 == lines[1]["amount_microtoken"]


def test_settings_that_cannot_be_are_told_before_anything_starts(tmp_path: Path) -> None:
    words = words_of(tmp_path)
    mistyped = str(wallet("validator-0").address).swapcase().replace("0X", "0x")
    with pytest.raises(ConfigError, match="--contract"):
        command.run(options_of(*words_of(tmp_path, contract=mistyped)))
    with pytest.raises(ConfigError, match="--slot-s"):
        command.run(options_of(*words, "--slot-s", "0"))
    (tmp_path / "passphrase").write_text("another passphrase\n")
    with pytest.raises(WalletLocked):
        command.run(options_of(*words))


def test_a_node_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from srwan.errors import SettlementUnavailable
    from srwan.ledger_client.settlement import jsonrpc

    monkeypatch.setattr(jsonrpc, "NodeOptions", _hasty)
    with pytest.raises(SettlementUnavailable):
        command.run(options_of(*words_of(tmp_path)))


def _hasty(**named: int) -> object:
    from srwan.ledger_client.settlement.submission import NodeOptions

    return NodeOptions(question_s=0.2, outage_s=0.3, **named)
