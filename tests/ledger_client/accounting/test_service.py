"""The shell: what is not written down does not leave; an engine that is away delays, and nothing else."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from srwan.errors import OverlayError, SettlementUnavailable, StoreUnavailable
from srwan.ledger_client.accounting.counters import SessionRole, counters_of_statement
from srwan.ledger_client.accounting.egress_account import EgressAccount
from srwan.ledger_client.accounting.events import SessionOpened
from srwan.ledger_client.accounting.journal import Journal
from srwan.ledger_client.accounting.messages import RECEIPT_PROTOCOL
from srwan.ledger_client.accounting.outbox import Outbox
from srwan.ledger_client.accounting.payer import PathQuote, Payer
from srwan.ledger_client.accounting.receipt import Receipt
from srwan.ledger_client.accounting.relay_account import Limit
from srwan.ledger_client.accounting.service import AccountingService, TrafficReading
from srwan.ledger_client.settlement.settlement import Account, SessionState
from srwan.ledger_client.settlement.signing import WalletKey
from srwan.ledger_client.settlement.terms import PathTerms
from srwan.ledger_client.statement import Statement
from srwan.overlay.memory import MemoryNetwork
from srwan.swarm.clocks import TrioClock
from srwan.types import NodeId

TAG = 5


class Engine:
    """As much of a settlement engine as a consumer asks; away at will."""

    def __init__(self) -> None:
        self.is_away = False
        self.opened: dict[bytes, PathTerms] = {}
        self.refused = 0

    def _require(self) -> None:
        if self.is_away:
            self.refused += 1
            raise SettlementUnavailable("engine", "is away", "wait")

    async def now_s(self) -> int:
        self._require()
        return 1_000_000_000

    async def account(self, address: object) -> Account:
        del address
        self._require()
        return Account(0, 50_000_000, 0, 0, None, 0)

    async def session(self, session_id: bytes) -> SessionState | None:
        self._require()
        terms = self.opened.get(session_id)
        return None if terms is None else SessionState(terms.cap_microtoken, 0, 1)

    async def open_session(self, key: WalletKey, terms: PathTerms) -> None:
        del key
        self._require()
        self.opened[terms.session_id] = terms


class Plane:
    """Counters that are set by hand."""

    def __init__(self) -> None:
        self.sent: dict[tuple[NodeId, int], tuple[int, int]] = {}

    def read(self) -> TrafficReading:
        return TrafficReading(self.sent, {}, {}, 1, 2)

    def limit(self, neighbour: NodeId, limit: Limit | None) -> None:
        raise AssertionError(f"{neighbour!r} {limit}")


class Consumer:
    """The consumer of the deal as a service, and the control channel of its egress."""

    def __init__(self, deal: Any, folder: Path) -> None:
        network = MemoryNetwork()
        self.deal, self.engine, self.plane = deal, Engine(), Plane()
        control = network.control_channel(deal.plan.consumer)
        self.address = control.local_address
        self.egress = network.control_channel(deal.plan.egress)
        self.journal = Journal(folder / "journal")
        self.statements: list[Statement] = []
        self.events: list[object] = []
        outbox = Outbox(random.Random(1))
        settlement: Any = self.engine
        self.service = AccountingService(
            deal.plan.consumer,
            deal.wallet,
            settlement,
            control,
            address_of=lambda _node: None,
            clock=TrioClock(),
            journal=self.journal,
            plane=self.plane,
            payer=Payer(deal.consumer, deal.wallet, deal.domain, outbox, random.Random(2)),
            relay=None,
            egress=EgressAccount(deal.consumer, outbox, 1, lambda _node: None),
            outbox=outbox,
            publish=self.publish,
            tell=self.events.append,
            boot=1,
        )

    async def publish(self, statements: Sequence[Statement]) -> bool:
        self.statements += statements
        return True

    def use(self) -> bytes:
        plan = self.deal.plan
        quote = PathQuote(plan.relays, plan.egress, self.deal.payees, (9_000_000, 1_000_000), plan.offers, 20_000, 30_000)
        session = self.service.use_path(quote, TAG)
        assert session is not None
        return session

    async def hand_in(self, session: bytes, octets: int) -> bytes:
        plan = self.deal.plan
        receipt = Receipt(session, plan.consumer, plan.egress, 1, octets, octets, octets // 1000, 20_000, 20_000, 30_000, 10**18)
        body = receipt.sign(self.deal.egress).encode()
        return await self.egress.request(self.address, RECEIPT_PROTOCOL, body, timeout_s=5)


@pytest.fixture
async def consumer(deal: Any, tmp_path: Path) -> Consumer:
    await trio.lowlevel.checkpoint()
    return Consumer(deal, tmp_path)


async def until(is_so: Callable[[], bool]) -> None:
    with trio.fail_after(30):
        while not is_so():  # noqa: ASYNC110 - the journal's worker thread gives no event to wait for, and virtual time runs away from it
            await trio.sleep(0.02)


async def test_what_cannot_be_written_down_is_neither_signed_nor_opened(consumer: Consumer, monkeypatch: pytest.MonkeyPatch) -> None:
    await consumer.service.restore()
    session = consumer.use()
    consumer.plane.sent[consumer.deal.plan.egress, TAG] = (3_000, 3_000_000)

    def fail(*_payloads: bytes) -> None:
        raise StoreUnavailable("journal", "disk full", "make room")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(consumer.service.run)
        await until(lambda: bool(consumer.engine.opened))
        monkeypatch.setattr(consumer.journal, "append", fail)
        with pytest.raises(OverlayError):
            await consumer.hand_in(session, 1_000_000)
        monkeypatch.undo()
        assert await consumer.hand_in(session, 1_000_000)
        assert await consumer.hand_in(session, 1_000_000), "again changes nothing"
        nursery.cancel_scope.cancel()
    consumer.journal.close()
    with Journal(consumer.journal._path) as journal:
        assert 1 == sum(b"ticket" in record for record in journal.records)


async def test_an_engine_that_is_away_delays_the_opening_only(consumer: Consumer) -> None:
    await consumer.service.restore()
    consumer.engine.is_away = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(consumer.service.run)
        session = consumer.use()
        consumer.plane.sent[consumer.deal.plan.egress, TAG] = (3_000, 3_000_000)
        await until(lambda: consumer.engine.refused >= 2)
        assert await consumer.hand_in(session, 1_000_000), "what was delivered is owed"
        assert {} == consumer.engine.opened
        consumer.engine.is_away = False
        await until(lambda: session in consumer.engine.opened)
        await until(lambda: any(isinstance(event, SessionOpened) for event in consumer.events))
        nursery.cancel_scope.cancel()
    consumer.journal.close()


async def test_what_was_sent_is_published_once_it_changed(consumer: Consumer) -> None:
    await consumer.service.restore()
    session = consumer.use()
    consumer.plane.sent[consumer.deal.plan.egress, TAG] = (3_000, 3_000_000)
    for _ in range(2):
        await consumer.service.flush()
    (statement,) = consumer.statements
    counters = counters_of_statement(statement)
    assert session == statement.topic
    assert 3_000_000 == getattr(counters.session(session, SessionRole.SENT), "octets", None)
    consumer.plane.sent[consumer.deal.plan.egress, TAG] = (4_000, 4_000_000)
    await consumer.service.flush()
    assert 2 == len(consumer.statements)
    assert consumer.statements[0].version < consumer.statements[1].version
    consumer.journal.close()
