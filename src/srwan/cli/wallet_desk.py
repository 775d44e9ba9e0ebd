"""What every action of `srwan wallet` needs: the settings, the key when something is to be signed, a way to ask and a way to tell."""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import json
import sys
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import attrs
import trio

from srwan.amount import format_tokens
from srwan.config import NodeConfig, load_config, make_config
from srwan.engines import open_settlement, open_wallet_key
from srwan.errors import ConfigError
from srwan.ledger_client.settlement.engine import ContractSettlement
from srwan.ledger_client.settlement.keystore import address_of_wallet, ask_passphrase, read_passphrase_fd, read_passphrase_file
from srwan.ledger_client.settlement.signing import Address, WalletKey
from srwan.settlement_config import EMBEDDED, SettlementSettings, settlement_settings
from srwan.sole_error import sole_error

__all__ = ["OUTBOX_SUFFIX", "Desk", "Shown", "at", "config_of", "tokens"]

OUTBOX_SUFFIX = ".wallet"
"""Of the file of transactions on their way: the router holds its own."""
OUTAGE_S = 8.0
"""How long a command bears with a node that does not answer, s: somebody is waiting."""

PATIENCE_S = 15.0
"""Between two signs of life while a transaction is on its way, s."""


@attrs.frozen
class Shown:
    """What an action found or did."""

    facts: dict[str, Any]
    """For --json; amounts in microtokens."""
    lines: Sequence[str]
    """For people."""
    problem: str = ""
    """Why it did not come out as it should: the last line, and exit status 1."""


def tokens(microtoken: int) -> str:
    """Return an amount for people: "1.5 tokens"."""
    return f"{format_tokens(microtoken)} token{'' if microtoken == 1_000_000 else 's'}"


def at(time_s: int) -> str:
    """Return a time for people: UTC, to the second."""
    return dt.datetime.fromtimestamp(time_s, tz=dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def config_of(options: argparse.Namespace) -> NodeConfig:
    """Return the settings of the file, with what the options say put over them.

    Raises:
        ConfigError: as `load_config`.
    """
    config = load_config(options.config) if options.config is not None else make_config()
    if options.state_dir is not None:
        config = attrs.evolve(config, state_dir=options.state_dir)
    wallet = {name: value for name in ("keystore", "passphrase_file") if (value := getattr(options, name)) is not None}
    config = attrs.evolve(config, wallet=attrs.evolve(config.wallet, **wallet))
    names = ("url", "contract", "chain_id", "confirmations", "journal")
    given = {name: value for name in names if (value := getattr(options, name, None)) is not None}
    if options.action == "deploy" and "url" not in given and not config.settlement.is_enabled:
        given["url"] = EMBEDDED
    if not given or (options.action == "deploy" and given.get("url", EMBEDDED) != EMBEDDED):
        return config  # a contract that is yet to be deployed has no address: `deploy` looks at the URL itself
    if "url" in given and given["url"] != config.settlement.url:
        config = attrs.evolve(config, settlement=SettlementSettings())  # another engine has another contract
    held = {name: value for name, value in attrs.asdict(config.settlement).items() if value != getattr(SettlementSettings(), name)}
    return attrs.evolve(config, settlement=settlement_settings({**held, **given}))


class Desk:
    """Where one action is done.

    Args:
        options: of the command line.

    Raises:
        ConfigError: the settings are not usable.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.config = config_of(options)
        self._key: WalletKey | None = None

    @property
    def path(self) -> Path:
        """Of the key file.

        Raises:
            ConfigError: none is named.
        """
        path = self.config.wallet_path
        if path is None:
            raise ConfigError("wallet.keystore", "no key file is named", "give --keystore FILE, --state-dir FOLDER or --config FILE")
        return path

    def address(self) -> Address:
        """Return whose wallet this is about: the one named on the command line, or that of the key file.

        Raises:
            ConfigError, WalletLocked: no file is named, or it cannot be read, or it does not say.
        """
        named = getattr(self.options, "address", None)
        if named is not None:
            return Address(named)
        if self._key is not None:
            return self._key.address
        found = address_of_wallet(self.path)
        if found is None:
            raise ConfigError(str(self.path), "the key file does not say its address", "name the address on the command line")
        return found

    def passphrase(self, *, is_new: bool = False) -> str:
        """Return the passphrase: of the descriptor, of the file, or typed at the terminal.

        Raises:
            WalletLocked: as `keystore.read_passphrase_fd`, `read_passphrase_file` and `ask_passphrase`.
        """
        if self.options.passphrase_fd is not None:
            return read_passphrase_fd(self.options.passphrase_fd)
        if self.config.wallet.passphrase_file is not None:
            return read_passphrase_file(self.config.wallet.passphrase_file)
        return ask_passphrase(str(self.path), is_new=is_new)

    async def unlock(self) -> WalletKey:
        """Return the key, asking for the passphrase if need be.

        Raises:
            ConfigError, WalletLocked: as `srwan.engines.open_wallet_key`.
        """
        if self._key is None:
            address_of_wallet(self.path)  # a missing file is told before anybody is asked
            self._key = await open_wallet_key(self.config, self.passphrase())
        return self._key

    def confirm(self, question: str) -> None:
        """Return if the user agrees, or said so with --yes.

        Raises:
            ConfigError: there is nobody to ask. SystemExit: no.
        """
        if self.options.yes:
            return
        if not sys.stdin.isatty():
            raise ConfigError("--yes", f"there is no terminal to ask at whether to {question}", "give it to do so without being asked")
        sys.stderr.write(f"{question}? [y/N] ")
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            sys.stderr.write("nothing was done\n")
            raise SystemExit(1)

    def tell(self, line: str) -> None:
        """Say how it goes, to people only."""
        if not self.options.json:
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()

    def open_settlement(self, *, is_sending: bool = False) -> contextlib.AbstractAsyncContextManager[ContractSettlement]:
        """Open the engine; raises as `srwan.engines.open_settlement`.

        Args:
            is_sending: the action may send a transaction. Only then it takes the outbox, so that one can look while another command waits.
        """
        return open_settlement(self.config, outbox_suffix=OUTBOX_SUFFIX if is_sending else None, outage_s=OUTAGE_S)

    @contextlib.asynccontextmanager
    async def sending(self, *, is_embedded: bool | None = None, confirmations: int = 0) -> AsyncGenerator[None]:
        """Say that a transaction takes its time, where it does, and from time to time that it still does.

        The engine must have been opened with `is_sending`.
        """
        settings = self.config.settlement
        if settings.is_embedded if is_embedded is None else is_embedded:
            yield
            return
        deep = confirmations or settings.confirmations
        self.tell(f"sending; it counts when it is {deep} block{'s' * (deep != 1)} deep, or final")
        with sole_error():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._tell_waiting)
                yield
                nursery.cancel_scope.cancel()

    async def _tell_waiting(self) -> None:
        begun = trio.current_time()
        while True:
            await trio.sleep(PATIENCE_S)
            waited_s = round(trio.current_time() - begun)
            self.tell(
                f"still waiting after {waited_s} s; where no blocks come by themselves, --confirmations 1. It is safe to stop and repeat"
            )

    def print(self, facts: dict[str, Any], lines: Sequence[str]) -> None:
        """Print one of the two, at once."""
        sys.stdout.write(json.dumps(facts) + "\n" if self.options.json else "".join(f"{line}\n" for line in lines))
        sys.stdout.flush()

    def show(self, shown: Shown) -> int:
        """Print what came out and return the exit status."""
        self.print(shown.facts | ({"problem": shown.problem} if shown.problem else {}), shown.lines)
        if shown.problem:
            sys.stderr.write(f"srwan wallet: {shown.problem}\n")
        return 1 if shown.problem else 0
