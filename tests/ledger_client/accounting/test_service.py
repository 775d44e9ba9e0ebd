"""The shell: what is not written down does not leave; an engine that is away delays, and nothing else."""

from __future__ import annotations

import random
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from srwan.errors import OverlayError, SettlementUnavailable, StoreUnavailable
from srwan.ledger_client.accounting.counters import SessionRole, counters_of_statement
from srwan.ledger_client.accounting.egress_account import EgressAccount
from srwan.ledger_client.accounting.events import SessionOpened, SessionRefused
from srwan.ledger_client.accounting.journal import Journal
from srwan.ledger_client.accounting.journal_entry import read_entry
from srwan.ledger_client.accounting.messages import RECEIPT_PROTOCOL, SESSION_PROTOCOL, TICKET_PROTOCOL, Answer, SessionNotice
from srwan.ledger_client.accounting.outbox import Outbox
from srwan.ledger_client.accounting.payer import PathQuote, Payer
from srwan.ledger_client.accounting.receipt import Receipt
from srwan.ledger_client.accounting.relay_account import Limit
from srwan.ledger_client.accounting.service import AccountingService, TrafficReading
from srwan.ledger_client.settlement.deploy import Deployment
from srwan.ledger_client.settlement.pyevm import PyEvmSettlement
from srwan.ledger_client.statement import Statement
from srwan.overlay.memory import MemoryNetwork
from srwan.overlay.transport import ControlAddress
from srwan.swarm.clocks import TrioClock
from srwan.types import NodeId

TAG = 5


class Line:
    """The way to a real embedded engine, which can be cut: then every question fails, and none reaches the engine."""

    def __init__(self, engine: PyEvmSettlement) -> None:
        self.engine = engine
        self.is_cut = False
        self.refused = 0

    def __getattr__(self, name: str) -> Any:
        if self.is_cut:
            self.refused += 1
            raise SettlementUnavailable("engine", "is away", "wait")
        return getattr(self.engine, name)


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

    def __init__(self, deal: Any, engine: PyEvmSettlement, folder: Path) -> None:
        network = MemoryNetwork()
        self.deal, self.line, self.plane = deal, Line(engine), Plane()
        control = network.control_channel(deal.plan.consumer)
        self.address = control.local_address
        self.egress = network.control_channel(deal.plan.egress)
        self.relay = network.control_channel(deal.plan.relays[0])
        self.addresses: dict[NodeId, ControlAddress] = {}
        self.journal = Journal(folder / "journal")
        self.statements: list[Statement] = []
        self.events: list[object] = []
        outbox = Outbox(random.Random(1))
        settlement: Any = self.line
        self.service = AccountingService(
            deal.plan.consumer,
            deal.wallet,
            settlement,
            control,
            address_of=self.addresses.get,
            clock=TrioClock(),
            journal=self.journal,
            plane=self.plane,
            payer=Payer(deal.consumer, deal.wallet, engine.domain, outbox, random.Random(2)),
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

    async def is_open(self, session: bytes) -> bool:
        return await self.line.engine.session(session) is not None

    def was_told_open(self) -> bool:
        return any(isinstance(event, SessionOpened) for event in self.events)

    async def hand_in(self, session: bytes, octets: int) -> bytes:
        plan = self.deal.plan
        receipt = Receipt(session, plan.consumer, plan.egress, 1, octets, octets, octets // 1000, 20_000, 20_000, 30_000, 10**18)
        body = receipt.sign(self.deal.egress).encode()
        return await self.egress.request(self.address, RECEIPT_PROTOCOL, body, timeout_s=5)


@pytest.fixture
async def engine(deal: Any) -> AsyncIterator[PyEvmSettlement]:
    """The embedded engine in memory, with an escrow of the consumer's."""
    deployment = Deployment((deal.wallet.address,), 1, 100_000_000)
    async with await PyEvmSettlement.deploy(None, deal.wallet, deployment) as settlement:
        await settlement.deposit(deal.wallet, 50_000_000)
        yield settlement


@pytest.fixture
async def consumer(deal: Any, engine: PyEvmSettlement, tmp_path: Path) -> Consumer:
    await trio.lowlevel.checkpoint()
    return Consumer(deal, engine, tmp_path)


async def until(is_so: Callable[[], bool]) -> None:
    with trio.fail_after(30):
        while not is_so():  # noqa: ASYNC110 - the journal's worker thread gives no event to wait for, and virtual time runs away from it
            await trio.sleep(0.02)


async def test_what_cannot_be_written_down_is_neither_signed_nor_opened(consumer: Consumer, monkeypatch: pytest.MonkeyPatch) -> None:
    await consumer.service.restore()
    tried: list[int] = []

    def fail(*payloads: bytes) -> None:
        tried.append(len(payloads))
        raise StoreUnavailable("journal", "disk full", "make room")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(consumer.service.run)
        monkeypatch.setattr(consumer.journal, "append", fail)
        session = consumer.use()
        consumer.plane.sent[consumer.deal.plan.egress, TAG] = (3_000, 3_000_000)
        await until(lambda: len(tried) >= 8)
        assert not await consumer.is_open(session)
        monkeypatch.undo()
        await until(consumer.was_told_open)
        assert await consumer.is_open(session)
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


async def test_what_comes_while_the_journal_is_written_anew_waits_and_is_written(
    consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await consumer.service.restore()
    session = consumer.use()
    consumer.plane.sent[consumer.deal.plan.egress, TAG] = (3_000, 3_000_000)
    begun, may_go_on = trio.Event(), threading.Event()
    compact = consumer.journal.compact

    def compact_slowly(entries: list[bytes]) -> None:
        trio.from_thread.run_sync(begun.set)
        may_go_on.wait()
        compact(entries)

    monkeypatch.setattr(consumer.journal, "compact", compact_slowly)
    answers: list[bytes] = []

    async def hand_in() -> None:
        answers.append(await consumer.hand_in(session, 1_000_000))

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(consumer.service._compact)
            await begun.wait()
            nursery.start_soon(hand_in)
            for _ in range(20):
                consumer.service.look()
                await trio.sleep(0.01)
            assert [] == answers
            may_go_on.set()
    finally:
        may_go_on.set()
    assert 1 == len(answers)
    consumer.journal.close()
    with Journal(consumer.journal._path) as journal:
        assert ["open", "sent", "ticket"] == [read_entry(record[1:])[0] for record in journal.records]


async def test_a_relay_that_never_knows_the_session_is_not_asked_again_at_once(consumer: Consumer) -> None:
    await consumer.service.restore()
    asked: list[str] = []

    def answering(protocol: str, word: str) -> None:
        async def answer(_caller: NodeId, _body: bytes) -> bytes:
            asked.append(protocol)
            await trio.lowlevel.checkpoint()
            return Answer(word).encode()

        consumer.relay.serve(protocol, answer)

    answering(SESSION_PROTOCOL, "offer")
    answering(TICKET_PROTOCOL, "session")
    relay = consumer.deal.plan.relays[0]
    consumer.addresses[relay] = consumer.relay.local_address
    outbox = consumer.service._outbox
    async with trio.open_nursery() as nursery:
        nursery.start_soon(consumer.service.run)
        session = consumer.use()
        consumer.plane.sent[consumer.deal.plan.egress, TAG] = (3_000, 3_000_000)
        assert await consumer.hand_in(session, 1_000_000)
        key = ("ticket", session, relay)
        await until(lambda: asked.count(TICKET_PROTOCOL) >= 2 and outbox._entries[key].failures >= 2)
        pause_s = outbox._entries[key].due_at - trio.current_time()
        nursery.cancel_scope.cancel()
    assert pause_s > 0.5
    assert 2 == asked.count(TICKET_PROTOCOL)
    assert asked.count(SESSION_PROTOCOL) <= 1 + 2, "it is told once more with every ticket that it did not take"
    assert SessionRefused(session, relay, "offer") in consumer.events
    consumer.journal.close()


async def test_a_session_of_who_is_no_member_takes_no_room(consumer: Consumer) -> None:
    await consumer.service.restore()
    notice = SessionNotice(consumer.deal.terms, consumer.deal.plan, 1, (TAG,))
    with pytest.raises(OverlayError):
        await consumer.egress.request(consumer.address, SESSION_PROTOCOL, notice.encode(), timeout_s=5)
    assert {"session-outsider": 1} == dict(consumer.service.egress.drops)


async def test_an_engine_that_is_away_delays_the_opening_only(consumer: Consumer) -> None:
    await consumer.service.restore()
    consumer.line.is_cut = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(consumer.service.run)
        session = consumer.use()
        consumer.plane.sent[consumer.deal.plan.egress, TAG] = (3_000, 3_000_000)
        await until(lambda: consumer.line.refused >= 2)
        assert await consumer.hand_in(session, 1_000_000), "what was delivered is owed"
        assert not await consumer.is_open(session)
        assert not consumer.was_told_open()
        consumer.line.is_cut = False
        await until(consumer.was_told_open)
        assert await consumer.is_open(session)
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
