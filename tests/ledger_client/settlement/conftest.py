"""One small world on each engine: a consumer, three relays, five validators, and a clock that the test moves.

The engines: the embedded one in this process, the same reached over the development node's HTTP, and anvil. After each test all tokens are
counted: they must be as many as there were.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio

from srwan.ledger_client.settlement.deploy import Deployment
from srwan.ledger_client.settlement.devnode import open_devnode
from srwan.ledger_client.settlement.engine import ContractSettlement
from srwan.ledger_client.settlement.jsonrpc import JsonRpcSettlement, NodeOptions
from srwan.ledger_client.settlement.pyevm import PyEvmSettlement
from srwan.ledger_client.settlement.settlement import Claim, batch_digest
from srwan.ledger_client.settlement.signing import Address, SettlementDomain, WalletKey, keccak256
from srwan.ledger_client.settlement.terms import PathTerms, price_of
from srwan.ledger_client.settlement.ticket import sign_ticket

ROOT = Path(__file__).parents[3]
START_S = 1_780_000_000
WINDOW_S = 3_600
DELAY_S = 600
SUPPLY = 10**15
SUBSIDY = 10**12
FUNDS = 10**12
GB = 10**9
FAST = NodeOptions(confirmations=1, poll_s=0.1, stuck_s=2.0, patience_s=20.0, question_s=5.0, outage_s=5.0)


def key_of(name: str) -> WalletKey:
    """A wallet that is the same every time."""
    return WalletKey(keccak256(name.encode()))


@attrs.define
class Clock:
    """The time of an embedded engine, s since 1970."""

    now_s: int = START_S

    def __call__(self) -> int:
        return self.now_s


@attrs.frozen
class AnvilNode:
    """A running anvil."""

    url: str
    process: subprocess.Popen[bytes]

    async def ask(self, method: str, *parameters: Any) -> Any:
        """A question that only a development node answers."""
        async with httpx.AsyncClient(trust_env=False, verify=False, timeout=20) as client:
            answer = (await client.post(self.url, json={"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters})).json()
        assert "error" not in answer, answer
        return answer["result"]

    async def fund(self, *keys: WalletKey) -> None:
        """Give wallets the chain's own coin, for gas."""
        for key in keys:
            await self.ask("anvil_setBalance", str(key.address), hex(10**20))

    async def mine(self, blocks: int = 1) -> None:
        """Make some blocks."""
        await self.ask("anvil_mine", hex(blocks))

    def stop(self) -> None:
        """End it; it writes its state, if it has a file for it."""
        self.process.terminate()
        self.process.wait(20)


def start_anvil(*arguments: str, port: int = 0) -> AnvilNode:
    """Start an anvil on loopback and wait until it listens."""
    command = [str(ROOT / "script" / "anvil"), "--host", "127.0.0.1", "--port", str(port), "--timestamp", str(START_S), *arguments]
    with tempfile.TemporaryFile("w+") as log:  # not a pipe, which nobody would read on
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and process.poll() is None:
            log.seek(0)
            if found := re.search(r"^Listening on (\S+)$", log.read(), re.MULTILINE):
                return AnvilNode(f"http://{found[1]}", process)
            time.sleep(0.01)
        process.kill()
        log.seek(0)
        raise AssertionError(f"anvil does not listen ({process.wait()}): {log.read()[-500:]}")


@attrs.define
class World:
    """An engine with wallets on it."""

    settlement: ContractSettlement
    travel: Callable[[int], Awaitable[None]]
    """Moves the chain's time on by so many seconds."""
    deployer: WalletKey
    consumer: WalletKey
    relays: tuple[WalletKey, ...]
    validators: tuple[WalletKey, ...]
    sessions: list[bytes] = attrs.field(factory=list)
    others: list[Address] = attrs.field(factory=list)
    """Wallets beside these that a test uses."""
    is_at_rest: bool = True
    """Whether the engine can be asked at the end."""
    periods: set[int] = attrs.field(factory=set)
    """In which something was paid."""

    @property
    def domain(self) -> SettlementDomain:
        return self.settlement.domain

    async def terms(
        self, cap: int = 30 * 10**6, *, plan: str = "plan", prices: Sequence[int] = (3_000_000, 3_000_000, 4_000_000)
    ) -> PathTerms:
        """Terms of a session of the consumer's with the relays, not yet open."""
        now_s = await self.settlement.now_s()
        payees = tuple(relay.address for relay in self.relays[: len(prices)])
        made = PathTerms(self.consumer.address, payees, tuple(prices), cap, now_s + 3_000, keccak256(plan.encode()))
        self.sessions.append(made.session_id)
        return made

    def claim(self, terms: PathTerms, octets: int = GB, amount: int | None = None) -> Claim:
        """The consumer's ticket over so many octets."""
        amount = price_of(octets, terms.price_microtoken) if amount is None else amount
        return Claim(terms, sign_ticket(self.consumer, self.domain, terms, octets, amount))

    async def settle(self, *claims: Claim, signers: int = 3) -> Any:
        """Have a batch paid that so many validators signed."""
        self.periods.add(await self.settlement.period())
        return await self.settlement.settle(self.deployer, claims, self.quorum(batch_digest(self.domain, claims), signers))

    def quorum(self, digest: bytes, signers: int = 3) -> list[bytes]:
        """Signatures of so many validators, in no order."""
        return [key.sign(digest) for key in self.validators[:signers]]

    async def counted(self) -> int:
        """All tokens there are, counted place by place."""
        settlement = self.settlement
        keys = (self.deployer, self.consumer, *self.relays, *self.validators)
        addresses = sorted({*(key.address for key in keys), *self.others})
        periods = sorted({period - back for period in self.periods for back in range(3)})
        total = 0
        for address in addresses:
            account = await settlement.account(address)
            total += account.balance_microtoken + account.escrow_microtoken + account.withdrawing_microtoken
        for relay in self.relays:
            total += sum([await settlement.locked(relay.address, past) for past in periods])
        for session_id in sorted(set(self.sessions)):
            held = await settlement.session(session_id)
            total += 0 if held is None else held.reserve_microtoken
        total += sum([await settlement.locked_fees(past) for past in periods])
        pools = await settlement.pools()
        return total + pools.validators_microtoken + pools.dividend_microtoken + pools.subsidy_microtoken


def deployment_of(consumer: WalletKey, validators: Sequence[WalletKey]) -> Deployment:
    """Five validators of whom three sign; the consumer has funds."""
    return Deployment(
        validators=tuple(key.address for key in validators),
        quorum=3,
        supply_microtoken=SUPPLY,
        subsidy_microtoken=SUBSIDY,
        fee_bps=100,
        window_s=WINDOW_S,
        withdraw_delay_s=DELAY_S,
        genesis=((consumer.address, FUNDS),),
    )


CONSUMER = key_of("consumer")
DEPLOYER = key_of("deployer")
RELAYS = tuple(key_of(f"relay {number}") for number in range(3))
VALIDATORS = tuple(key_of(f"validator {number}") for number in range(5))
DEPLOYMENT = deployment_of(CONSUMER, VALIDATORS)


@contextlib.asynccontextmanager
async def embedded_world() -> AsyncGenerator[World]:
    """On the engine of this process, in memory."""
    clock = Clock()

    async def travel(seconds: int) -> None:
        clock.now_s += seconds

    async with await PyEvmSettlement.deploy(None, DEPLOYER, DEPLOYMENT, clock_s=clock) as settlement:
        yield World(settlement, travel, DEPLOYER, CONSUMER, RELAYS, VALIDATORS)


@contextlib.asynccontextmanager
async def devnode_world() -> AsyncGenerator[World]:
    """The same, reached over HTTP."""
    async with embedded_world() as world:
        assert isinstance(world.settlement, PyEvmSettlement)
        async with (
            open_devnode(world.settlement.chain) as node,
            await JsonRpcSettlement.open(node.url, world.domain, options=attrs.evolve(FAST, confirmations=3)) as settlement,
        ):
            yield attrs.evolve(world, settlement=settlement)


@contextlib.asynccontextmanager
async def anvil_world(anvil: AnvilNode, *, options: NodeOptions = FAST, outbox: Path | None = None) -> AsyncGenerator[World]:
    """A contract of its own on an anvil."""

    async def travel(seconds: int) -> None:
        await anvil.ask("evm_increaseTime", seconds)
        await anvil.mine()

    await anvil.fund(DEPLOYER, CONSUMER, *RELAYS, *VALIDATORS)
    async with await JsonRpcSettlement.deploy(anvil.url, DEPLOYER, DEPLOYMENT, options=FAST) as first:
        domain = first.domain
    async with await JsonRpcSettlement.open(anvil.url, domain, options=options, outbox=outbox) as settlement:
        yield World(settlement, travel, DEPLOYER, CONSUMER, RELAYS, VALIDATORS)


@pytest.fixture(scope="session")
def anvil() -> Iterator[AnvilNode]:
    """An anvil that makes a block for each transaction; shared by all tests that do not disturb it."""
    node = start_anvil()
    yield node
    node.stop()


@pytest.fixture
def start_node() -> Iterator[Callable[..., AnvilNode]]:
    """Starts anvils of a test's own."""
    nodes: list[AnvilNode] = []

    def start(*arguments: str, port: int = 0) -> AnvilNode:
        nodes.append(start_anvil(*arguments, port=port))
        return nodes[-1]

    yield start
    for node in nodes:
        if node.process.poll() is None:
            node.stop()


@pytest.fixture(params=["embedded", "devnode", pytest.param("anvil", marks=pytest.mark.needs("anvil"))])
async def world(request: pytest.FixtureRequest) -> AsyncGenerator[World]:
    """The world on each engine; all tokens are counted afterwards."""
    async with contextlib.AsyncExitStack() as stack:
        if request.param == "anvil":
            made = await stack.enter_async_context(anvil_world(request.getfixturevalue("anvil")))
        else:
            made = await stack.enter_async_context(embedded_world() if request.param == "embedded" else devnode_world())
        yield made
        if made.is_at_rest:
            assert SUPPLY == await made.counted()
            assert SUPPLY == await made.settlement.supply()


@pytest.fixture
def open_anvil_world() -> Callable[..., contextlib.AbstractAsyncContextManager[World]]:
    """`anvil_world`."""
    return anvil_world


@pytest.fixture
def fast() -> NodeOptions:
    """How to deal with a node that is near."""
    return FAST


@pytest.fixture
def clock() -> Clock:
    """A time that the test sets."""
    return Clock()


@pytest.fixture
def deployment() -> Deployment:
    """What the worlds are made with."""
    return DEPLOYMENT


@pytest.fixture
def deployer() -> WalletKey:
    """Who deploys."""
    return DEPLOYER


@pytest.fixture
def consumer() -> WalletKey:
    """Who has funds."""
    return CONSUMER


@pytest.fixture
def make_key() -> Callable[[str], WalletKey]:
    """`key_of`."""
    return key_of


async def patiently(condition: Callable[[], bool | Awaitable[bool]], *, within_s: float = 15) -> None:
    """Wait until something is so; fails if it never is."""
    with trio.fail_after(within_s):
        while True:
            found = condition()
            if found if isinstance(found, bool) else await found:
                return
            await trio.sleep(0.01)


@pytest.fixture
def until() -> Callable[..., Awaitable[None]]:
    """`patiently`."""
    return patiently
