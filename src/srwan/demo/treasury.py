"""The money of the demonstration: a settlement engine, wallets for all, and validators in processes of their own.

The engine is the embedded one, in this process, served to the routers as an EVM node is; or any EVM node whose accounts are unlocked, as
development nodes have them, so that wallets can be given gas. All tokens are made here and are worth nothing.

Not here: what the routers pay each other, which is their own business (`srwan.money`), and the steps of the demonstration (`script.py`).
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import trio

from srwan.ledger_client.settlement.deploy import Deployment
from srwan.ledger_client.settlement.engine import ContractSettlement
from srwan.ledger_client.settlement.keystore import create_wallet
from srwan.ledger_client.settlement.signing import Address, SettlementDomain, WalletKey
from srwan.sole_error import sole_error

__all__ = ["PRICE_MICROTOKEN", "Accounts", "Treasury", "open_treasury"]

TOKEN = 10**6
SUPPLY_MICROTOKEN = 1_000_000 * TOKEN
SUBSIDY_MICROTOKEN = 1_000 * TOKEN
ALLOWANCE_MICROTOKEN = 100 * TOKEN
"""What every router is given at the start."""
PRICE_MICROTOKEN = 10 * TOKEN
"""What each router asks for a GB: the whitepaper's 0.50 USD at 0.05 USD a token."""
VALIDATORS = 3
QUORUM = 2
SLOT_S = 2
"""A validator's turn, s."""
WINDOW_S = 3
"""A period of the contract, s: a day in earnest, here what somebody waits for."""
GAS_WEI = 10**18
SCRYPT_N = 2**12
"""Little work: these keys guard nothing."""
STOP_TIMEOUT_S = 5.0
LINE_BYTES_MAX = 64 * 1024


@attrs.frozen(slots=True)
class Accounts:
    """Where all tokens are."""

    balances: dict[str, int]
    """Free balance by name, microtokens."""
    escrow: dict[str, int]
    """Escrow, and what is being withdrawn, by name, microtokens."""
    reserves: int
    """Of open path sessions, microtokens."""
    locked: int
    """Earnings and fees still open to dispute, microtokens."""
    pools: int
    """Validator pool, dividend pool and subsidy, microtokens."""

    @property
    def total(self) -> int:
        """All of it, microtokens."""
        return sum(self.balances.values()) + sum(self.escrow.values()) + self.reserves + self.locked + self.pools


class Treasury:
    """Engine, wallets and validators. Made by `open_treasury`.

    Args:
        settlement: the engine.
        url: where other processes reach it.
        holder: whose tokens are left.
        routers: wallets of the routers, by index.
        validators: wallets of the validators.
    """

    def __init__(
        self, settlement: ContractSettlement, url: str, holder: WalletKey, routers: list[WalletKey], validators: list[WalletKey]
    ) -> None:
        self.settlement = settlement
        self.url = url
        self.holder = holder
        self.routers = routers
        self.validators = validators
        self.events: list[dict[str, Any]] = []
        """What validators told, with "validator", in order of arrival."""

    @property
    def domain(self) -> SettlementDomain:
        """What signatures are made for."""
        return self.settlement.domain

    def purse_of(self, index: int) -> dict[str, Any]:
        """Return what a router's process needs to pay and be paid; goes over a pipe only."""
        domain = self.domain
        return {
            "url": self.url,
            "chain_id": domain.chain_id,
            "contract": str(domain.contract),
            "secret": self.routers[index].reveal().hex(),
            "price_microtoken": PRICE_MICROTOKEN,
        }

    async def accounts(self, sessions: list[bytes], periods: range, names: list[str]) -> Accounts:
        """Read where all tokens are.

        Args:
            sessions: ids of all path sessions that were opened.
            periods: all in which something was settled.
            names: of the routers, by index.
        """
        settlement = self.settlement
        wallets = dict(zip(names, self.routers, strict=True)) | {"holder": self.holder}
        wallets |= {f"validator {number + 1}": key for number, key in enumerate(self.validators)}
        balances: dict[str, int] = {}
        escrow: dict[str, int] = {}
        locked = 0
        for name, key in wallets.items():
            account = await settlement.account(key.address)
            balances[name] = account.balance_microtoken
            escrow[name] = account.escrow_microtoken + account.withdrawing_microtoken
        for period in periods:
            locked += await settlement.locked_fees(period)
            for key in self.routers:
                locked += await settlement.locked(key.address, period)
        states = [await settlement.session(session) for session in sessions]
        reserves = sum(state.reserve_microtoken for state in states if state is not None)
        pools = await settlement.pools()
        in_pools = pools.validators_microtoken + pools.dividend_microtoken + pools.subsidy_microtoken
        return Accounts(balances, escrow, reserves, locked, in_pools)

    @asynccontextmanager
    async def validating(self, folder: Path, store: str, on_event: Callable[[dict[str, Any]], None]) -> AsyncIterator[None]:
        """Run the validators for the duration of the block, each a process of `srwan validator`.

        Args:
            folder: for their key files.
            store: as for `srwan validator --store`.
            on_event: called after each event that one of them tells.
        """
        secret = secrets.token_hex(16)
        passphrase = folder / "passphrase"
        passphrase.touch(mode=0o600)
        passphrase.write_text(secret)
        with sole_error():
            async with trio.open_nursery() as nursery:
                processes: list[trio.Process] = []
                try:
                    for number, key in enumerate(self.validators):
                        path = folder / f"validator-{number + 1}.json"
                        make = partial(create_wallet, path, secret, key=key, scrypt_n=SCRYPT_N)
                        await trio.to_thread.run_sync(make)
                        process = await trio.lowlevel.open_process(
                            self._command(path, passphrase, store),
                            stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE,
                            start_new_session=True,  # Ctrl-C reaches the demonstration alone
                            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                        )
                        processes.append(process)
                        nursery.start_soon(self._read, process, number + 1, on_event)
                    yield
                finally:
                    with trio.CancelScope(shield=True):
                        await _stop(processes)
                    nursery.cancel_scope.cancel()

    def _command(self, keystore: Path, passphrase: Path, store: str) -> list[str]:
        domain = self.domain
        where = ["--store", store, "--settlement", self.url, "--contract", str(domain.contract), "--chain-id", str(domain.chain_id)]
        keys = ["--keystore", str(keystore), "--passphrase-file", str(passphrase)]
        return [sys.executable, "-m", "srwan", "validator", *where, *keys, "--slot-s", str(SLOT_S), "--confirmations", "1", "--json"]

    async def _read(self, process: trio.Process, number: int, on_event: Callable[[dict[str, Any]], None]) -> None:
        assert process.stdout is not None
        buffer = bytearray()
        async with process.stdout as stdout:
            async for chunk in stdout:
                buffer += chunk
                while (end := buffer.find(b"\n")) >= 0:
                    event = {**json.loads(buffer[:end]), "validator": number}
                    del buffer[: end + 1]
                    self.events.append(event)
                    on_event(event)
                if len(buffer) > LINE_BYTES_MAX:
                    raise ValueError(f"a validator printed a line of over {LINE_BYTES_MAX} bytes")


async def _stop(processes: list[trio.Process]) -> None:
    """Ask all to end, and end those that do not."""
    for process in processes:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
    for process in processes:
        with trio.move_on_after(STOP_TIMEOUT_S):
            await process.wait()
        if process.returncode is None:
            process.kill()
            await process.wait()


@asynccontextmanager
async def open_treasury(folder: Path, routers: int, *, evm_url: str | None = None) -> AsyncIterator[Treasury]:
    """Open an engine with a contract of its own on it, and give every router its allowance.

    Args:
        folder: where the embedded engine keeps its state.
        routers: how many wallets.
        evm_url: of an EVM development node; None for the embedded engine.

    Raises:
        SettlementUnavailable: the node cannot be reached, or has no unlocked account. ConfigError: the extra is not installed.
    """
    holder = WalletKey.generate()
    wallets = [WalletKey.generate() for _ in range(routers)]
    validators = sorted((WalletKey.generate() for _ in range(VALIDATORS)), key=lambda key: key.address)
    deployment = Deployment(
        validators=tuple(key.address for key in validators),
        quorum=QUORUM,
        supply_microtoken=SUPPLY_MICROTOKEN,
        subsidy_microtoken=SUBSIDY_MICROTOKEN,
        window_s=WINDOW_S,
        withdraw_delay_s=WINDOW_S,
        genesis=tuple((key.address, ALLOWANCE_MICROTOKEN) for key in wallets),
    )
    async with AsyncExitStack() as stack:
        if evm_url is None:
            from srwan.ledger_client.settlement.devnode import open_devnode  # noqa: PLC0415 - of the extra srwan[settlement]
            from srwan.ledger_client.settlement.pyevm import PyEvmSettlement  # noqa: PLC0415

            embedded = await stack.enter_async_context(await PyEvmSettlement.deploy(folder / "chain.journal", holder, deployment))
            node = await stack.enter_async_context(open_devnode(embedded.chain))
            yield Treasury(embedded, node.url, holder, wallets, validators)
            return
        settlement = await _deploy_on_node(evm_url, holder, deployment, [key.address for key in (*wallets, *validators)])
        await stack.enter_async_context(settlement)
        yield Treasury(settlement, evm_url, holder, wallets, validators)


async def _deploy_on_node(url: str, holder: WalletKey, deployment: Deployment, wallets: list[Address]) -> ContractSettlement:
    from srwan.ledger_client.settlement.jsonrpc import JsonRpcSettlement, NodeOptions  # noqa: PLC0415 - as above
    from srwan.ledger_client.settlement.rpc import RpcClient, to_hex  # noqa: PLC0415

    client = RpcClient(url)
    try:
        unlocked = await client.ask("eth_accounts")
        if not isinstance(unlocked, list) or not unlocked:
            raise client.unavailable("the node has no unlocked account that could give gas", "use a development node, such as anvil")
        for wallet in (holder.address, *wallets):
            await client.ask("eth_sendTransaction", {"from": unlocked[0], "to": str(wallet), "value": to_hex(GAS_WEI)})
    finally:
        await client.aclose()
    return await JsonRpcSettlement.deploy(url, holder, deployment, options=NodeOptions(confirmations=1))
