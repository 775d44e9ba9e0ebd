"""What `srwan wallet` does without an engine or with the router's identity: make and show key files, bind the router to the wallet."""

from __future__ import annotations

import time

import trio

from srwan.cli.wallet_desk import Desk, Shown
from srwan.errors import ConfigError
from srwan.identity import Identity
from srwan.ledger_client.exchange.open_store import open_store_at
from srwan.ledger_client.record import Version
from srwan.ledger_client.report import NS_PER_S
from srwan.ledger_client.settlement.keystore import create_wallet
from srwan.ledger_client.validation.binding import BindingRequest

__all__ = ["bind", "create", "show"]

REQUEST_S = 7 * 86_400
"""How long a request to be bound lies in the DITEX, s."""
LOOK_S = 2.0
"""Between two looks whether the validators have bound the router, s."""


async def create(desk: Desk) -> Shown:
    """Make a key file."""
    path = desk.path
    if await trio.Path(path).exists():
        raise ConfigError(str(path), "there is a file of that name already", "choose another name; a key file is never overwritten")
    passphrase = desk.passphrase(is_new=True)
    key = await trio.to_thread.run_sync(create_wallet, path, passphrase)
    lines = [
        f"{key.address}",
        f"the key is in {path}, encrypted; without the file or without its passphrase all that the wallet has is lost,",
        "so keep a copy of both, apart from each other",
    ]
    return Shown({"address": str(key.address), "file": str(path)}, lines)


async def show(desk: Desk) -> Shown:
    """Show a wallet's public name; with --check, after opening the file."""
    if desk.options.check:
        await desk.unlock()
    address = desk.address()
    lines = [f"{address}", f"{desk.path}, {'opened: the passphrase is right' if desk.options.check else 'not opened'}"]
    return Shown({"address": str(address), "file": str(desk.path), "is_checked": bool(desk.options.check)}, lines)


async def bind(desk: Desk) -> Shown:
    """Ask the validators to bind this router to this wallet, so that what it relays is paid to it."""
    config = desk.config
    if config.state_dir is None or config.ditex_where is None:
        raise ConfigError("state_dir", "no router is named", "give --state-dir FOLDER or --config FILE, those of the router")
    identity = Identity.load(config.state_dir / "identity")
    key = await desk.unlock()
    async with desk.open_settlement() as settlement:
        if await settlement.wallet_of(identity.node_id) != key.address:
            sequence = await settlement.binding_sequence(identity.node_id) + 1
            request = BindingRequest.sign(identity, key, settlement.domain, sequence)
            wall_ns = time.time_ns()
            version = Version(wall_ns // NS_PER_S, 0)
            statement = request.statement(version, issued_ns=wall_ns, expires_ns=wall_ns + REQUEST_S * NS_PER_S)
            async with open_store_at(config.ditex_where) as store:
                await store.put(statement.record(identity), wall_ns)
            desk.tell(f"asked: the request is in {config.ditex_where}, from where a running router takes it to the validators")
        bound = await settlement.wallet_of(identity.node_id)
        while desk.options.wait and bound != key.address:
            await trio.sleep(LOOK_S)
            bound = await settlement.wallet_of(identity.node_id)
    facts = {"node_id": str(identity.node_id), "wallet": str(key.address), "is_bound": bound == key.address}
    if bound == key.address:
        return Shown(facts, [f"{identity.node_id} is bound to {key.address}"])
    return Shown(facts, [f"{identity.node_id} is not bound yet; a quorum of validators has to sign: look again with the same command"])
