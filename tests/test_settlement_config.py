"""The [settlement] and [wallet] sections of a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from srwan.config import NodeConfig, load_config, make_config
from srwan.errors import ConfigError
from srwan.settlement_config import EMBEDDED, SettlementSettings, WalletSettings, conceal_url, settlement_settings, wallet_settings

CONTRACT = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
REMOTE = {"url": "http://127.0.0.1:8545", "contract": CONTRACT, "chain_id": 31337}


def test_the_sections_of_a_file_are_read(tmp_path: Path) -> None:
    file = tmp_path / "srwan.toml"
    file.write_text(
        f'[settlement]\nurl = "https://node.example/v3"\ncontract = "{CONTRACT}"\nchain_id = 10\nconfirmations = 1\n'
        '[wallet]\nkeystore = "/etc/srwan/wallet.json"\npassphrase_file = "/etc/srwan/phrase"\n'
    )
    config = load_config(file)

    expected = SettlementSettings(url="https://node.example/v3", contract=CONTRACT, chain_id=10, confirmations=1)
    assert expected == config.settlement
    assert (True, False) == (config.settlement.is_enabled, config.settlement.is_embedded)
    assert WalletSettings(keystore=Path("/etc/srwan/wallet.json"), passphrase_file=Path("/etc/srwan/phrase")) == config.wallet


def test_without_the_sections_nothing_is_paid_or_charged() -> None:
    assert SettlementSettings() == make_config().settlement == settlement_settings({})
    assert WalletSettings() == make_config().wallet == wallet_settings({})
    assert not make_config().settlement.is_enabled


def test_files_lie_in_the_state_folder_unless_they_are_named() -> None:
    config = make_config(state_dir="/var/lib/srwan", settlement={"url": EMBEDDED})

    assert config.settlement.is_embedded
    assert Path("/var/lib/srwan/wallet.json") == config.wallet_path
    assert Path("/var/lib/srwan/settlement.journal") == config.settlement_journal_path
    remote = make_config(state_dir="/var/lib/srwan", settlement=REMOTE)
    assert Path("/var/lib/srwan/settlement.outbox") == remote.settlement_journal_path  # beside an embedded engine that is served
    assert (None, None) == (make_config().wallet_path, make_config().settlement_journal_path)
    named = make_config(state_dir="/var/lib/srwan", settlement={"url": EMBEDDED, "journal": "/j"}, wallet={"keystore": "/w"})
    assert (Path("/w"), Path("/j")) == (named.wallet_path, named.settlement_journal_path)


def test_settings_may_be_given_as_their_classes() -> None:
    settlement, wallet = SettlementSettings(url=EMBEDDED), WalletSettings(keystore=Path("/w"))

    assert NodeConfig(settlement=settlement, wallet=wallet) == make_config(settlement=settlement, wallet=wallet)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("url", "anvil"),
        ("url", "ws://127.0.0.1:8545"),
        ("url", "http://"),
        ("url", "http://host:0"),
        ("url", "http://host:65536"),
        ("url", "http://[::1"),
        ("url", "http://a b"),
        ("url", "http://a\n"),
        ("url", "http://" + "a" * 512),
        ("url", 8545),
        ("contract", CONTRACT[2:]),
        ("contract", CONTRACT[:-1]),
        ("contract", CONTRACT + "0"),
        ("contract", b"\0" * 20),
        ("chain_id", -1),
        ("chain_id", 2**53),
        ("chain_id", "1"),
        ("chain_id", True),
        ("chain_id", 1.0),
        ("confirmations", 0),
        ("confirmations", 1001),
        ("journal", ""),
        ("journal", 7),
        ("no_such", 1),
    ],
)
def test_a_bad_value_is_refused_naming_its_key(key: str, value: Any) -> None:
    with pytest.raises(ConfigError) as refused:
        make_config(settlement={**REMOTE, key: value})
    assert f"settlement.{key}" == refused.value.key


@pytest.mark.parametrize(("key", "value"), [("keystore", ""), ("keystore", 7), ("passphrase_file", "a\0b"), ("passphrase", "secret")])
def test_a_bad_value_of_the_wallet_is_refused_naming_its_key(key: str, value: Any) -> None:
    with pytest.raises(ConfigError) as refused:
        make_config(wallet={key: value})
    assert f"wallet.{key}" == refused.value.key
    with pytest.raises(ConfigError):
        wallet_settings({key: value})


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ({"url": "http://h", "chain_id": 1}, "settlement.contract"),
        ({"url": "http://h", "contract": CONTRACT}, "settlement.chain_id"),
        ({"url": EMBEDDED, "contract": CONTRACT}, "settlement.contract"),
        ({"url": EMBEDDED, "chain_id": 1}, "settlement.chain_id"),
        ({"contract": CONTRACT}, "settlement.contract"),
        ({**REMOTE, "wallet": 1}, "settlement.wallet"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(section: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as refused:
        settlement_settings(section)
    assert key == refused.value.key


def test_the_access_key_in_a_url_is_not_shown() -> None:
    secret = "https://user:hunter2@node.example:8545/v3/hunter2?key=hunter2"
    settings = settlement_settings({**REMOTE, "url": secret})

    assert secret == settings.url
    assert "hunter2" not in repr(settings) + str(make_config(settlement={**REMOTE, "url": secret}))
    assert "https://node.example:8545" == conceal_url(secret)
    assert ("embedded", "") == (conceal_url("embedded"), conceal_url(""))
    with pytest.raises(ConfigError) as refused:
        settlement_settings({**REMOTE, "url": "ftp://user:hunter2@node.example/hunter2"})
    assert "hunter2" not in str(refused.value)
