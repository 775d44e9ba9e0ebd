"""The history of a wallet: what concerns it and nothing else, the same from the embedded engine and over JSON-RPC."""

from __future__ import annotations

import pytest

from srwan.errors import SettlementUnavailable
from srwan.ledger_client.settlement.deploy import Deployment
from srwan.ledger_client.settlement.devnode import open_devnode
from srwan.ledger_client.settlement.history import ContractEvent, happened_to
from srwan.ledger_client.settlement.jsonrpc import JsonRpcChain, JsonRpcSettlement
from srwan.ledger_client.settlement.pyevm import PyEvmSettlement
from srwan.ledger_client.settlement.signing import Address, WalletKey
from srwan.ledger_client.settlement.terms import PathTerms

ALICE, BOB, CAROL = (WalletKey(bytes([number]) * 32) for number in (1, 2, 3))
TOKEN = 1_000_000
SESSION, OTHER_SESSION = bytes(32), bytes([1]) * 32


def event(name: str, **values: object) -> ContractEvent:
    return ContractEvent(1, 2, name, values)


def test_events_that_name_a_wallet_and_those_of_its_sessions_concern_it() -> None:
    opened = event("SessionOpened", session=SESSION, consumer=ALICE.address, cap=5)
    others = event("SessionOpened", session=OTHER_SESSION, consumer=BOB.address, cap=5)
    closed, closed_too = event("SessionClosed", session=SESSION, returned=1), event("SessionClosed", session=OTHER_SESSION, returned=1)
    given = event("Transfer", sender=CAROL.address, receiver=ALICE.address, amount=20)
    fees = event("FeesCollected", period=1, amount=5)

    assert [opened, given, closed] == happened_to(ALICE.address, [closed, opened, others, given, fees, closed, closed_too])
    assert [others, closed_too] == happened_to(BOB.address, [opened, others, given, closed, closed_too])
    assert [] == happened_to(Address(bytes(20)), [opened, fees])


async def test_the_same_is_told_by_the_engine_and_over_json_rpc() -> None:
    now = [1_780_000_000]
    deployment = Deployment((ALICE.address,), 1, 100 * TOKEN)
    async with await PyEvmSettlement.deploy(None, ALICE, deployment, clock_s=lambda: now[0]) as engine:
        now[0] += 5
        await engine.transfer(ALICE, BOB.address, TOKEN)
        await engine.deposit(ALICE, 5 * TOKEN)
        now[0] += 5
        terms = PathTerms(ALICE.address, (BOB.address,), (TOKEN,), 2 * TOKEN, now[0] + 60, bytes(32))
        await engine.open_session(ALICE, terms)
        await engine.vote(ALICE, BOB.address)
        told = {key: await engine.history(key.address) for key in (ALICE, BOB, CAROL)}
        async with open_devnode(engine.chain) as node, await JsonRpcSettlement.open(node.url, engine.domain) as remote:
            assert told == {key: await remote.history(key.address) for key in (ALICE, BOB, CAROL)}
            assert told[ALICE][-2:] == await remote.history(ALICE.address, blocks=2)
        assert told[ALICE][-2:] == await engine.history(ALICE.address, blocks=2)

    assert ["Transfer", "Transfer", "Deposited", "SessionOpened", "Voted"] == [each.name for each in told[ALICE]]
    assert ["Transfer", "Voted", "Seated"] == [each.name for each in told[BOB]]
    assert [] == told[CAROL]
    assert ContractEvent(2, 1_780_000_005, "Transfer", {"sender": ALICE.address, "receiver": BOB.address, "amount": TOKEN}) == told[BOB][0]


NONSENSE: tuple[object, ...] = (
    "0x",
    [5],
    [{}],
    [{"topics": [], "blockNumber": "0x1", "address": "0x", "data": "0x"}],
    [{"topics": ["0x00"], "blockNumber": "0x1", "address": "0x" + "11" * 20, "data": "0x"}],
    [{"topics": ["0x" + "00" * 32] * 5, "blockNumber": "0x1", "address": "0x" + "11" * 20, "data": "0x"}],
    [{"topics": [], "blockNumber": "latest", "address": "0x" + "11" * 20, "data": "0x"}],
    [{"topics": [], "blockNumber": "0x1", "address": "0x" + "11" * 20, "data": 5}],
)


async def test_logs_that_are_none_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async with (
        await PyEvmSettlement.deploy(None, ALICE, Deployment((ALICE.address,), 1, TOKEN)) as engine,
        open_devnode(engine.chain) as node,
        await JsonRpcSettlement.open(node.url, engine.domain) as remote,
    ):
        chain = remote._chain
        assert isinstance(chain, JsonRpcChain)
        real = chain._submission.ask
        lies = list(NONSENSE)

        async def lie(method: str, *parameters: object) -> object:
            return lies.pop(0) if method == "eth_getLogs" else await real(method, *parameters)

        monkeypatch.setattr(chain._submission, "ask", lie)
        while lies:
            with pytest.raises(SettlementUnavailable, match="nonsense"):
                await remote.history(ALICE.address)
