"""What `srwan wallet` does with an engine as a whole: put the contract on one, and serve the embedded one to other processes."""

from __future__ import annotations

import signal
from pathlib import Path

import trio

from srwan.cli.wallet_desk import OUTBOX_SUFFIX, Desk, Shown, tokens
from srwan.engines import open_settlement, outbox_path
from srwan.errors import ConfigError
from srwan.ledger_client.settlement.deploy import Deployment
from srwan.ledger_client.settlement.engine import ContractSettlement
from srwan.ledger_client.settlement.signing import Address, WalletKey
from srwan.settlement_config import EMBEDDED, conceal_url

__all__ = ["deploy", "serve"]


async def deploy(desk: Desk) -> Shown:
    """Put the contract on an engine, all tokens being this wallet's at first."""
    options = desk.options
    url = options.url or desk.config.settlement.url or EMBEDDED
    desk.confirm(
        f"put a new settlement contract with {tokens(options.supply)} on {'the embedded engine' if url == EMBEDDED else conceal_url(url)}"
    )
    key = await desk.unlock()
    validators: tuple[Address, ...] = tuple(dict.fromkeys(options.validator or [key.address]))
    deployment = Deployment(
        validators=validators,
        quorum=options.quorum or len(validators) // 2 + 1,
        supply_microtoken=options.supply,
        subsidy_microtoken=options.subsidy,
        fee_bps=options.fee_bps,
        window_s=options.window,
        withdraw_delay_s=options.withdraw_delay,
    )
    async with await _deploy(desk, url, key, deployment) as settlement:
        domain = settlement.domain
        account = await settlement.account(key.address)
    facts = {
        "url": conceal_url(url),
        "contract": str(domain.contract),
        "chain_id": domain.chain_id,
        "deployer": str(key.address),
        "balance_microtoken": account.balance_microtoken,
        "validators": [str(address) for address in sorted(validators)],
        "quorum": deployment.quorum,
    }
    lines = [f"{tokens(account.balance_microtoken)} are {key.address}'s; write into the configuration of every router:", "", "[settlement]"]
    if url == EMBEDDED:
        lines.append(f'url = "{EMBEDDED}"')
        if desk.config.settlement.journal is not None:
            lines.append(f'journal = "{_journal(desk).absolute()}"')
    else:
        lines += [f'url = "{conceal_url(url)}"', f'contract = "{domain.contract}"', f"chain_id = {domain.chain_id}"]
        if options.confirmations:
            lines.append(f"confirmations = {options.confirmations}")
    return Shown(facts, lines)


def _journal(desk: Desk) -> Path:
    path = desk.config.settlement_journal_path
    if path is None:
        raise ConfigError("settlement.journal", "the embedded engine has no place for its state", "give --state-dir or --journal")
    return path


async def _deploy(desk: Desk, url: str, key: WalletKey, deployment: Deployment) -> ContractSettlement:
    if url == EMBEDDED:
        from srwan.ledger_client.settlement.pyevm import PyEvmSettlement  # noqa: PLC0415 - takes a second

        path = _journal(desk)
        await trio.Path(path.parent).mkdir(parents=True, exist_ok=True)
        return await PyEvmSettlement.deploy(path, key, deployment)
    from srwan.ledger_client.settlement.jsonrpc import JsonRpcSettlement, NodeOptions  # noqa: PLC0415 - as above

    confirmations = desk.options.confirmations or desk.config.settlement.confirmations
    options = NodeOptions(confirmations=confirmations)
    async with desk.sending(is_embedded=False, confirmations=confirmations):
        return await JsonRpcSettlement.deploy(url, key, deployment, options=options, outbox=outbox_path(desk.config, OUTBOX_SUFFIX))


async def serve(desk: Desk) -> Shown:
    """Serve the embedded engine to other processes of this machine until SIGINT or SIGTERM."""
    from srwan.ledger_client.settlement.devnode import open_devnode  # noqa: PLC0415 - takes a second
    from srwan.ledger_client.settlement.pyevm import PyEvmSettlement  # noqa: PLC0415 - as above

    if not desk.config.settlement.is_embedded:
        raise ConfigError("settlement.url", "only the embedded engine is served", 'give --url embedded, or settlement.url = "embedded"')
    async with open_settlement(desk.config) as settlement:
        assert isinstance(settlement, PyEvmSettlement)
        try:
            async with open_devnode(settlement.chain, port=desk.options.port) as node:
                domain = settlement.domain
                desk.print(
                    {"url": node.url, "contract": str(domain.contract), "chain_id": domain.chain_id},
                    [
                        "[settlement]",
                        f'url = "{node.url}"',
                        f'contract = "{domain.contract}"',
                        f"chain_id = {domain.chain_id}",
                        "confirmations = 1",
                    ],
                )
                with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                    async for _ in signals:
                        break
        except OSError as error:
            port = desk.options.port
            raise ConfigError("--port", f"{port} cannot be used ({error.strerror})", "choose another one, or 0 for any") from None
    return Shown({"served": True}, [])
