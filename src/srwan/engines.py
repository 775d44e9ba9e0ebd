"""Opens what a node's settings name for money: the settlement engine, and the key of the wallet.

Not here: what is paid when (`srwan.money`), and the engines themselves (`srwan.ledger_client.settlement`). They are imported when one is
opened: py-evm and httpx take a second of a processor, and most routers that relay for nothing need neither.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from srwan.config import NodeConfig
from srwan.errors import ConfigError, SettlementUnavailable
from srwan.ledger_client.settlement.keystore import open_wallet, read_passphrase_file
from srwan.ledger_client.settlement.signing import Address, SettlementDomain, WalletKey

if TYPE_CHECKING:
    from srwan.ledger_client.settlement.engine import ContractSettlement

__all__ = ["contract_of", "open_settlement", "open_wallet_key", "outbox_path"]

OUTAGE_S = 30.0
"""How long a router bears with a node that does not answer, s."""


@contextlib.asynccontextmanager
async def open_settlement(
    config: NodeConfig, *, outbox_suffix: str | None = "", outage_s: float = OUTAGE_S
) -> AsyncGenerator[ContractSettlement]:
    """Open the settlement engine that a configuration names, and close it when the block is left.

    Args:
        config: with `settlement.url`.
        outbox_suffix: appended to the name of the file of transactions on their way to a node, which one process holds at a time: for
            commands that run beside a router. None for who sends nothing: no such file is made or held.
        outage_s: how long a node may be away before a question fails, s.

    Raises:
        ConfigError: no engine is named, or the extra srwan[settlement] is not installed.
        SettlementUnavailable: it cannot be reached, is damaged, held by another process, or there is no contract.
    """
    settings = config.settlement
    if not settings.is_enabled:
        raise ConfigError("settlement.url", "no settlement engine is named", 'give "embedded", or the URL of an EVM node')
    opened = await (_open_embedded(config) if settings.is_embedded else _open_node(config, outbox_suffix, outage_s))
    async with opened as settlement:
        yield settlement


async def _open_embedded(config: NodeConfig) -> ContractSettlement:
    from srwan.ledger_client.settlement.pyevm import PyEvmSettlement  # noqa: PLC0415 - slow, see the header

    path = config.settlement_journal_path
    if path is None:
        raise ConfigError("settlement.journal", "the embedded engine has no place for its state", "give state_dir or settlement.journal")
    if not await trio.to_thread.run_sync(path.exists):
        raise SettlementUnavailable(str(path), "there is no embedded engine here yet", "make one with `srwan wallet deploy`")
    return await PyEvmSettlement.open(path)


async def _open_node(config: NodeConfig, outbox_suffix: str | None, outage_s: float) -> ContractSettlement:
    from srwan.ledger_client.settlement.jsonrpc import JsonRpcSettlement, NodeOptions  # noqa: PLC0415 - slow, see the header

    settings = config.settlement
    domain = SettlementDomain(settings.chain_id, contract_of(config))
    outbox = None if outbox_suffix is None else outbox_path(config, outbox_suffix)
    options = NodeOptions(confirmations=settings.confirmations, outage_s=outage_s)
    return await JsonRpcSettlement.open(settings.url, domain, options=options, outbox=outbox)


def outbox_path(config: NodeConfig, suffix: str) -> Path | None:
    """Return where transactions on their way to a node are kept; None: nowhere.

    A command (`suffix`) that is given no state folder keeps them beside the key file: repeated after a kill it would send them twice.
    Routers do not: several on one machine may pay from one wallet, and what they send may be sent twice.
    """
    path = config.settlement_journal_path
    if path is None and suffix and config.wallet_path is not None:
        path = config.wallet_path.with_name(f"{config.wallet_path.name}.outbox")
    return None if path is None else path.with_name(path.name + suffix)


def contract_of(config: NodeConfig) -> Address:
    """Return the address of the contract on a node.

    Raises:
        ConfigError: it has a wrong checksum: a digit is mistyped.
    """
    try:
        return Address.parse(config.settlement.contract)
    except ValueError as error:
        raise ConfigError("settlement.contract", str(error), "copy it again from whoever deployed the contract") from None


async def open_wallet_key(config: NodeConfig, passphrase: str | None = None) -> WalletKey:
    """Open the key file that a configuration names.

    Args:
        config: with `wallet.keystore` or `state_dir`.
        passphrase: None reads `wallet.passphrase_file`.

    Raises:
        ConfigError: no file is named, or no passphrase. WalletLocked: it cannot be opened.

    Cost: 0.4 s of a thread.
    """
    path = config.wallet_path
    if path is None:
        raise ConfigError("wallet.keystore", "no key file is named", "give wallet.keystore or state_dir")
    return await trio.to_thread.run_sync(_unlock, path, passphrase, config.wallet.passphrase_file, abandon_on_cancel=True)


def _unlock(path: Path, passphrase: str | None, passphrase_file: Path | None) -> WalletKey:
    if passphrase is None and passphrase_file is None:
        raise ConfigError("wallet.passphrase_file", "no passphrase is given", "name the file that holds it, mode 0600")
    if passphrase is None:
        assert passphrase_file is not None
        passphrase = read_passphrase_file(passphrase_file)
    return open_wallet(path, passphrase)
