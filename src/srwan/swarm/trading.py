"""A small market in one process: routers over links in memory that list, buy, relay and are paid, with validators and an embedded engine.

What this is: the wiring that examples and tests of the market share. Everything in it is the real protocol: nodes, offers, sessions,
receipts, tickets, claims in one DITEX file, validators, the contract on the embedded EVM. What is made up is where packets travel: a
`MemoryNetwork` whose link function the caller gives.

Needs `pip install "srwan[settlement]"`.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio

from srwan.identity import Identity
from srwan.ledger_client.accounting.plan import PathPlan
from srwan.ledger_client.settlement.deploy import Deployment
from srwan.ledger_client.settlement.pyevm import PyEvmSettlement
from srwan.ledger_client.settlement.settlement import binding_digest
from srwan.ledger_client.settlement.signing import Address, WalletKey
from srwan.ledger_client.settlement.terms import PathTerms
from srwan.ledger_client.settlement.ticket import PathTicket
from srwan.ledger_client.sqlite import SqliteStore
from srwan.ledger_client.validation.service import ValidatorService
from srwan.money import Purse
from srwan.node import Node
from srwan.overlay.memory import Link, MemoryNetwork
from srwan.path import Path as NodePath
from srwan.swarm.clocks import TrioClock
from srwan.swarm.in_memory import open_memory_node

__all__ = ["Trader", "TradingFloor", "carry", "open_trading_floor", "wait_until", "wallet_of"]

VALIDATORS = 3
QUORUM = 2
SUPPLY_MICROTOKEN = 10**15
"""A thousand million tokens."""
SLOT_S = 1
"""Validators take turns every second: nobody wants to wait for an example."""
BODY_OCTETS = 1200
"""Of one datagram."""
UNDER_WAY_S = 0.3
"""Packets under way arrive within this, s."""
TICKETS_S = 2.6
"""Nothing new is owed for so long: all that arrived was receipted and ticketed, s."""
LOOK_S = 0.05
"""Between two looks at something that is waited for, s."""


def wallet_of(name: str) -> WalletKey:
    """Return a key that everybody can make: for examples and tests only."""
    return WalletKey(hashlib.sha256(f"srwan trading floor: {name}".encode()).digest())


@attrs.define(slots=True, eq=False)
class Trader:
    """A router with a wallet."""

    name: str
    node: Node
    identity: Identity
    wallet: WalletKey

    def tickets(self) -> list[tuple[PathTerms, PathPlan, PathTicket | None]]:
        """Return the sessions this router pays for, with the last ticket of each."""
        accounting = None if self.node.money is None else self.node.money.accounting
        return [] if accounting is None else accounting.payer.tickets()

    @property
    def owed_microtoken(self) -> int:
        """What its last tickets promise, microtokens."""
        return sum(ticket.amount_microtoken for _, _, ticket in self.tickets() if ticket is not None)


class TradingFloor:
    """Made by `open_trading_floor`."""

    def __init__(
        self, stack: AsyncExitStack, nursery: trio.Nursery, network: MemoryNetwork, settlement: PyEvmSettlement, store_path: Path
    ) -> None:
        self.network = network
        """Its `link` may be replaced at any time."""
        self.settlement = settlement
        """The engine."""
        self.traders: dict[str, Trader] = {}
        """By name, in the order they came."""
        self.validators: list[ValidatorService] = []
        self.store_path = store_path
        """The DITEX file that all routers and validators here share."""
        self._stack = stack
        self._nursery = nursery
        self._holder = wallet_of("holder")
        self._validator_keys = [wallet_of(f"validator {number}") for number in range(VALIDATORS)]

    async def add(self, name: str, *, tokens: float = 0.0, escrow: float = 0.0, **settings: Any) -> Node:
        """Open a router with a wallet, bound to it by the validators, and return it.

        Args:
            name: of router and wallet.
            tokens: what the wallet begins with.
            escrow: how much of it is put into escrow, tokens.
            settings: as for `srwan.open_node`: `offer={...}` for what it asks.
        """
        key = wallet_of(name)
        amount, deposit = round(tokens * 1e6), round(escrow * 1e6)
        if amount:
            await self.settlement.transfer(self._holder, key.address, amount)
        if deposit:
            await self.settlement.deposit(key, deposit)
        purse = Purse(self.settlement, key)
        identity = Identity(hashlib.sha256(f"srwan trading floor: router {name}".encode()).digest())
        usual: dict[str, Any] = {"pulse_period_s": 0.5, "ditex": self.store_path, "name": name, "lone_after_s": 0.2}
        ip = f"10.0.0.{len(self.traders) + 1}"
        node = await self._stack.enter_async_context(
            open_memory_node(self.network, ip, purse=purse, identity=identity, **(usual | settings))
        )
        await self._bind(node, key)
        self.traders[name] = Trader(name, node, identity, key)
        return node

    def ip_of(self, name: str) -> str:
        """Return the address that the link function sees of a router, or of the next one that is added."""
        names = list(self.traders)
        return f"10.0.0.{names.index(name) + 1 if name in names else len(names) + 1}"

    async def _bind(self, node: Node, key: WalletKey) -> None:
        """Bind a router to its wallet; the router's own signature is taken for granted here, since it runs in this process."""
        digest = binding_digest(self.settlement.domain, node.id, key.address, 1)
        signatures = [validator.sign(digest) for validator in self._validator_keys[:QUORUM]]
        await self.settlement.bind(self._holder, node.id, key.address, 1, key.sign(digest), signatures)

    async def start_validators(self) -> None:
        """Open the validators. Call it when the routers are there, for judging takes time from them."""
        for number, key in enumerate(self._validator_keys):
            identity = Identity(hashlib.sha256(f"srwan trading floor: judge {number}".encode()).digest())
            await self._nursery.start(self._run_validator, identity, key)

    async def _run_validator(self, identity: Identity, key: WalletKey, *, task_status: trio.TaskStatus[None]) -> None:
        async with await SqliteStore.open(self.store_path) as store:
            service = ValidatorService(store, self.settlement, identity, key, TrioClock(), slot_s=SLOT_S)
            self.validators.append(service)
            await service.run(task_status=task_status)

    async def wait_matrix(self) -> None:
        """Wait until every router knows the latency between all pairs."""
        nodes = [trader.node for trader in self.traders.values()]
        await wait_until(lambda: all(self._is_full(node, len(nodes)) for node in nodes), timeout_s=math.inf)

    @staticmethod
    def _is_full(node: Node, count: int) -> bool:
        matrix = node.matrix()
        known = sum(math.isfinite(value) for row in matrix.mean_ms for value in row)
        return len(matrix.members) == count and known == count * (count - 1)

    async def settle(self, *, timeout_s: float = 15.0) -> int:
        """Have everybody publish, and wait until the claims filed are settled; return how much was paid, microtokens."""
        before = await self._earned()
        await self._wait_tickets()
        for trader in self.traders.values():
            if trader.node.money is not None:
                await trader.node.money.flush()
        paid = last = 0
        with trio.move_on_after(timeout_s):
            quiet = 0
            while not paid or quiet < 4:
                await trio.sleep(SLOT_S / 2)
                paid = await self._earned() - before
                quiet, last = (quiet + 1, last) if paid == last else (0, paid)
        return paid

    async def _wait_tickets(self) -> None:
        """Wait until the last octets were receipted and ticketed: nothing new is owed for TICKETS_S."""
        owed, since = -1, trio.current_time()
        with trio.move_on_after(5 * TICKETS_S):
            while trio.current_time() < since + TICKETS_S:
                if (now_owed := self._owed()) != owed:
                    owed, since = now_owed, trio.current_time()
                await trio.sleep(LOOK_S)

    def _owed(self) -> int:
        return sum(trader.owed_microtoken for trader in self.traders.values())

    async def _earned(self) -> int:
        return sum([await self.earned(name) for name in self.traders])

    async def earned(self, name: str) -> int:
        """Return what a router's wallet earned and did not collect yet, fees taken off, microtokens."""
        period, address = await self.settlement.period(), self.traders[name].wallet.address
        return sum([await self.settlement.locked(address, each) for each in range(max(0, period - 2), period + 1)])

    async def is_conserved(self) -> bool:
        """Say whether all places of the contract sum up to the supply, session reserves taken as the rest of what is not elsewhere."""
        addresses: list[Address] = [self._holder.address, *(key.address for key in self._validator_keys)]
        addresses += [trader.wallet.address for trader in self.traders.values()]
        held = 0
        for address in addresses:
            account = await self.settlement.account(address)
            held += account.balance_microtoken + account.escrow_microtoken + account.withdrawing_microtoken
        period = await self.settlement.period()
        for each in range(max(0, period - 2), period + 1):
            held += sum([await self.settlement.locked(address, each) for address in addresses]) + await self.settlement.locked_fees(each)
        pools = await self.settlement.pools()
        held += pools.validators_microtoken + pools.dividend_microtoken + pools.subsidy_microtoken + await self._reserved()
        return held == await self.settlement.supply()

    async def _reserved(self) -> int:
        """What lies in sessions that consumers here opened."""
        total = 0
        for trader in self.traders.values():
            for terms, _, _ in trader.tickets():
                state = await self.settlement.session(terms.session_id)
                total += 0 if state is None else state.reserve_microtoken
        return total


async def carry(path: NodePath, far_end: NodePath, octets: int, *, rate_kbps: int = 8_000) -> int:
    """Send about so many octets of bodies at an even rate, and read them at the other end; return how many were sent.

    Args:
        path: where they are sent.
        far_end: where they arrive.
        octets: how many, rounded up to ten datagrams.
        rate_kbps: how quickly, kbit/s.
    """
    sent, started = 0, trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_read_all, far_end)
        while sent < octets:
            for _ in range(10):
                path.send_nowait(bytes(BODY_OCTETS))
                sent += BODY_OCTETS
            await trio.sleep_until(started + sent * 8 / (rate_kbps * 1000))
        await trio.sleep(UNDER_WAY_S)
        nursery.cancel_scope.cancel()
    return sent


async def _read_all(path: NodePath) -> None:
    async for _ in path:
        pass


async def wait_until(condition: Callable[[], bool], *, timeout_s: float = 10.0) -> bool:
    """Wait until something holds; say whether it did in time."""
    with trio.move_on_after(timeout_s):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await trio.sleep(LOOK_S)
    return condition()


@asynccontextmanager
async def open_trading_floor(link: Link, *, genesis: Sequence[tuple[str, float]] = ()) -> AsyncIterator[TradingFloor]:
    """Open engine, DITEX and network for the duration of the block.

    Args:
        link: delays of datagrams between addresses.
        genesis: wallets besides the routers' and what they begin with, tokens.
    """
    deployment = Deployment(
        validators=tuple(wallet_of(f"validator {number}").address for number in range(VALIDATORS)),
        quorum=QUORUM,
        supply_microtoken=SUPPLY_MICROTOKEN,
        genesis=tuple((wallet_of(name).address, round(tokens * 1e6)) for name, tokens in genesis),
    )
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="srwan-floor-")))
        settlement = await stack.enter_async_context(await PyEvmSettlement.deploy(None, wallet_of("holder"), deployment))
        nursery = await stack.enter_async_context(trio.open_nursery())
        stack.callback(nursery.cancel_scope.cancel)
        yield TradingFloor(stack, nursery, MemoryNetwork(link=link), settlement, folder / "ditex.sqlite")
