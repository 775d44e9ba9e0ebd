"""What a configuration names for money is opened, or refused with the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from srwan.config import NodeConfig, make_config
from srwan.engines import contract_of, open_settlement, open_wallet_key, outbox_path
from srwan.errors import ConfigError, SettlementUnavailable, WalletLocked
from srwan.ledger_client.settlement.deploy import Deployment
from srwan.ledger_client.settlement.devnode import open_devnode
from srwan.ledger_client.settlement.keystore import create_wallet
from srwan.ledger_client.settlement.pyevm import PyEvmSettlement
from srwan.ledger_client.settlement.signing import SettlementDomain, WalletKey

KEY = WalletKey(bytes([1]) * 32)
DEPLOYMENT = Deployment((KEY.address,), 1, 1000)
PHRASE = "correct horse battery"


async def refused(config: NodeConfig) -> str:
    with pytest.raises(ConfigError) as caught:
        async with open_settlement(config):
            pass
    return caught.value.key


async def test_without_a_url_nothing_is_opened() -> None:
    assert "settlement.url" == await refused(make_config())


async def test_the_embedded_engine_is_opened_where_its_journal_lies(tmp_path: Path) -> None:
    config = make_config(state_dir=tmp_path, settlement={"url": "embedded"})
    with pytest.raises(SettlementUnavailable, match="no embedded engine here yet; make one with `srwan wallet deploy`"):
        async with open_settlement(config):
            pass
    async with await PyEvmSettlement.deploy(tmp_path / "settlement.journal", KEY, DEPLOYMENT) as made:
        domain = made.domain
    async with open_settlement(config) as opened:
        assert (1000, domain) == ((await opened.account(KEY.address)).balance_microtoken, opened.domain)
    assert "settlement.journal" == await refused(make_config(settlement={"url": "embedded"}))


async def test_a_node_is_opened_by_its_url(tmp_path: Path) -> None:
    async with await PyEvmSettlement.deploy(None, KEY, DEPLOYMENT) as engine, open_devnode(engine.chain) as node:
        named = {"url": node.url, "contract": str(engine.domain.contract), "chain_id": engine.domain.chain_id}
        config = make_config(state_dir=tmp_path, settlement=named)
        async with open_settlement(config, outbox_suffix=".wallet") as opened, open_settlement(config) as beside:
            assert engine.domain == opened.domain == contract_domain(config)
            await opened.deposit(KEY, 5)
            assert 5 == (await beside.account(KEY.address)).escrow_microtoken
        assert tmp_path / "settlement.outbox.wallet" == outbox_path(config, ".wallet")
        assert {"settlement.outbox", "settlement.outbox.wallet"} == {path.name for path in tmp_path.iterdir()}
        mistyped = named | {"contract": str(engine.domain.contract).swapcase().replace("0X", "0x")}
        assert "settlement.contract" == await refused(make_config(settlement=mistyped))
        with pytest.raises(SettlementUnavailable, match="not 5"):
            async with open_settlement(make_config(settlement=named | {"chain_id": 5}), outage_s=0.1):
                pass


def contract_domain(config: NodeConfig) -> SettlementDomain:
    return SettlementDomain(config.settlement.chain_id, contract_of(config))


async def test_the_wallets_key_is_opened_with_the_passphrase_of_the_file(tmp_path: Path) -> None:
    create_wallet(tmp_path / "wallet.json", PHRASE, key=KEY, scrypt_n=2)
    (tmp_path / "phrase").touch(0o600)
    (tmp_path / "phrase").write_text(PHRASE)

    config = make_config(state_dir=tmp_path, wallet={"passphrase_file": str(tmp_path / "phrase")})
    assert KEY.reveal() == (await open_wallet_key(config)).reveal()
    assert KEY.reveal() == (await open_wallet_key(make_config(state_dir=tmp_path), PHRASE)).reveal()
    with pytest.raises(WalletLocked, match="the passphrase is wrong"):
        await open_wallet_key(config, "wrong horse battery")
    with pytest.raises(ConfigError, match="no passphrase is given"):
        await open_wallet_key(make_config(state_dir=tmp_path))
    with pytest.raises(ConfigError, match="no key file is named"):
        await open_wallet_key(make_config(), PHRASE)
