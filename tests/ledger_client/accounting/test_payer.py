"""A consumer: when it opens sessions, which receipts it signs for, and what it owes."""

from __future__ import annotations

import random
from typing import Any

import attrs
import pytest

from srwan.errors import RemoteProtocolError
from srwan.ledger_client.accounting.events import EscrowShort, ReceiptDoubted, SessionClosed, SessionOpened, SessionRefused
from srwan.ledger_client.accounting.messages import Answer, SessionNotice, TicketNotice
from srwan.ledger_client.accounting.outbox import Message, Outbox
from srwan.ledger_client.accounting.payer import CloseSession, OpenSession, PathQuote, Payer, PayerSettings
from srwan.ledger_client.accounting.receipt import Receipt
from srwan.ledger_client.settlement.terms import PathTerms

CHAIN_S = 1_000_000_000
TAG = 5


class Buyer:
    """The consumer of the deal, and an egress that signs what it is told to."""

    def __init__(self, deal: Any, escrow: int = 100_000_000, **settings: Any) -> None:
        self.deal, self.now, self.chain_s, self.sent, self.sequence = deal, 0.0, CHAIN_S, 0, 0
        self.settings = PayerSettings(**settings)
        self.outbox = Outbox(random.Random(1))
        self.payer = self.make(1)
        self.payer.set_escrow(escrow)

    def make(self, seed: int) -> Payer:
        return Payer(self.deal.consumer, self.deal.wallet, self.deal.domain, self.outbox, random.Random(seed), self.settings)

    def quote(self, prices: tuple[int, int] = (9_000_000, 1_000_000), **changes: Any) -> PathQuote:
        plan = self.deal.plan
        quote = PathQuote(plan.relays, plan.egress, self.deal.payees, prices, plan.offers, 20_000, 30_000)
        return attrs.evolve(quote, **changes)

    def use(self, **changes: Any) -> bytes | None:
        return self.payer.use_path(self.quote(**changes), TAG, self.now, self.chain_s)

    def opened(self) -> PathTerms:
        command = self.payer.next_command()
        assert isinstance(command, OpenSession)
        self.payer.opened(command.terms.session_id, self.now)
        return command.terms

    def send(self, octets: int) -> None:
        self.sent += octets
        self.payer.traffic({(self.deal.plan.egress, TAG): (self.sent // 1000, self.sent)})

    def receipt(self, session: bytes, octets: int, **changes: Any) -> Receipt:
        self.sequence += 1
        plan = self.deal.plan
        counts = (1, self.sequence, octets, octets // 1000 + 1)
        receipt = Receipt(session, plan.consumer, plan.egress, *counts, 20_000, 20_000, 30_000, 10**18)
        return attrs.evolve(receipt, **changes).sign(self.deal.egress)

    def take(self, receipt: Receipt) -> Answer:
        return self.payer.receive_receipt(self.deal.plan.egress, receipt.encode(), self.now)

    def events(self) -> list[object]:
        found: list[object] = []
        while (event := self.payer.next_event()) is not None:
            found.append(event)
        return found

    def amount(self) -> int:
        return sum(ticket.amount_microtoken for _, _, ticket in self.payer.tickets() if ticket is not None)


@pytest.fixture
def buyer(deal: Any) -> Buyer:
    return Buyer(deal)


def test_a_session_is_written_down_before_it_is_opened_and_everybody_is_told(buyer: Buyer) -> None:
    session = buyer.use()
    (entry,) = buyer.payer.take_entries()
    terms = buyer.opened()
    assert (session, 10_000_000, CHAIN_S + 3600) == (terms.session_id, terms.cap_microtoken, terms.expires_s)
    again = buyer.make(2)
    again.restore([entry], 0.0)
    assert [terms] == [held for held, _, _ in again.tickets()]
    told = {message.peer: SessionNotice.decode(message.body).path_tags for message in buyer.outbox.take_due(0.0, 10)}
    plan = buyer.deal.plan
    assert dict.fromkeys([*plan.relays, plan.egress], (TAG,)) == told


def test_the_same_path_again_changes_nothing_and_a_free_one_costs_nothing(buyer: Buyer) -> None:
    assert buyer.use() == buyer.use()
    buyer.opened()
    assert buyer.payer.next_command() is None
    assert buyer.payer.use_path(buyer.quote((0, 0)), 6, 0.0, CHAIN_S) is None


def test_several_flows_over_the_same_relays_share_a_session(buyer: Buyer) -> None:
    sessions = {buyer.payer.use_path(buyer.quote(), tag, 0.0, CHAIN_S) for tag in (1, 2, 3)}
    assert 1 == len(sessions)
    (message,) = [each for each in buyer.outbox.take_due(0.0, 10) if each.peer == buyer.deal.plan.egress]
    assert (1, 2, 3) == SessionNotice.decode(message.body).path_tags


def test_a_receipt_within_what_was_sent_is_countersigned_and_paid(buyer: Buyer) -> None:
    session = buyer.use()
    assert session is not None
    terms = buyer.opened()
    buyer.outbox.take_due(0.0, 10)
    buyer.send(3_000_000)
    answer = buyer.take(buyer.receipt(session, 2_900_000))
    assert answer.is_ok
    assert 29_000 == buyer.amount()
    bodies = [TicketNotice.decode(message.body) for message in buyer.outbox.take_due(0.0, 10)]
    assert 2 == len(bodies), "one for each relay"
    for body in bodies:
        body.ticket.verify(terms, buyer.deal.domain)
        body.receipt.verify(is_accepted=True)
        assert answer.data == body.receipt.countersignature


def test_receipts_above_what_was_sent_are_doubted_once_and_never_signed(buyer: Buyer) -> None:
    session = buyer.use()
    assert session is not None
    buyer.opened()
    buyer.send(1_000_000)
    buyer.events()
    assert ["excess", "excess"] == [buyer.take(buyer.receipt(session, octets)).word for octets in (1_000_001, 5_000_000)]
    (event,) = buyer.events()
    assert isinstance(event, ReceiptDoubted)
    assert 0 == buyer.amount()
    assert buyer.take(buyer.receipt(session, 1_000_000)).is_ok


def test_the_same_receipt_is_answered_the_same_and_an_older_one_with_what_is_held(buyer: Buyer) -> None:
    session = buyer.use()
    assert session is not None
    buyer.opened()
    buyer.send(3_000_000)
    first, second = buyer.receipt(session, 1_000_000), buyer.receipt(session, 2_000_000)
    assert buyer.take(second) == buyer.take(second)
    answer = buyer.take(first)
    assert "stale" == answer.word
    assert second.body == Receipt.decode(answer.data).body
    assert 20_000 == buyer.amount()


@pytest.mark.parametrize("change", [{"predicted_us": 1}, {"packets": 10}])
def test_receipts_that_contradict_plan_or_themselves_are_refused(buyer: Buyer, change: dict[str, int]) -> None:
    session = buyer.use()
    assert session is not None
    buyer.send(3_000_000)
    with pytest.raises(RemoteProtocolError):
        buyer.take(buyer.receipt(session, 1_000_000, **change))
    assert {"receipt-shape": 1} == dict(buyer.payer.drops)


def test_receipts_of_others_and_forged_ones_are_refused(buyer: Buyer) -> None:
    session = buyer.use()
    assert session is not None
    buyer.send(3_000_000)
    good = buyer.receipt(session, 1_000_000)
    with pytest.raises(RemoteProtocolError):
        buyer.payer.receive_receipt(buyer.deal.relays[0].node_id, good.encode(), 0.0)
    with pytest.raises(RemoteProtocolError):
        buyer.take(attrs.evolve(good, octets=2_000_000, packets=9_000))
    assert "session" == buyer.take(buyer.receipt(bytes(32), 1_000_000)).word
    assert 0 == buyer.amount()


def test_a_session_is_replaced_before_its_cap_is_used_and_what_is_owed_ends_at_the_cap(buyer: Buyer) -> None:
    first = buyer.use()
    assert first is not None
    buyer.opened()
    buyer.send(749_000_000)
    buyer.payer.handle_timer(1.0, CHAIN_S)
    assert buyer.payer.next_command() is None
    buyer.send(2_000_000)
    buyer.payer.handle_timer(2.0, CHAIN_S)
    buyer.payer.handle_timer(3.0, CHAIN_S)
    second = buyer.opened().session_id
    assert buyer.payer.next_command() is None, "one successor"
    assert second == buyer.use() != first
    told = [SessionNotice.decode(each.body) for each in buyer.outbox.take_due(9.0, 20) if each.peer == buyer.deal.plan.egress]
    assert {first: (), second: (TAG,)} == {notice.terms.session_id: notice.path_tags for notice in told}
    buyer.send(1_249_000_000)
    assert buyer.take(buyer.receipt(first, 2_000_000_000)).is_ok
    assert 10_000_000 == buyer.amount()


def test_what_all_sessions_of_a_line_say_together_is_held_against_what_was_sent(buyer: Buyer) -> None:
    first = buyer.use()
    assert first is not None
    buyer.opened()
    buyer.send(760_000_000)
    buyer.payer.handle_timer(1.0, CHAIN_S)
    second = buyer.opened().session_id
    assert buyer.take(buyer.receipt(first, 700_000_000)).is_ok
    assert "excess" == buyer.take(buyer.receipt(second, 60_000_001)).word
    assert buyer.take(buyer.receipt(second, 60_000_000)).is_ok


def test_a_session_is_replaced_before_its_time_is_over_but_not_for_one_that_ends_as_soon(buyer: Buyer) -> None:
    buyer.use(lifetime_s_max=1_000)
    buyer.opened()
    for chain_s, left_s in ((CHAIN_S + 700, 300), (CHAIN_S + 900, 130)):
        buyer.payer.use_path(buyer.quote(lifetime_s_max=left_s), TAG, 1.0, chain_s)
        buyer.payer.handle_timer(1.0, chain_s)
        assert buyer.payer.next_command() is None
    buyer.payer.use_path(buyer.quote(lifetime_s_max=1_000), TAG, 1.0, CHAIN_S + 900)
    buyer.payer.handle_timer(1.0, CHAIN_S + 900)
    assert CHAIN_S + 1_900 == buyer.opened().expires_s


def test_without_escrow_it_says_so_and_tries_again_later(deal: Any) -> None:
    buyer = Buyer(deal, escrow=100)
    assert buyer.use() is None
    (event,) = buyer.events()
    assert isinstance(event, EscrowShort)
    assert buyer.use() is None
    assert [] == buyer.events()
    buyer.payer.set_escrow(1_000_000)
    buyer.now = 31.0
    assert buyer.use() is not None
    assert 1_000_000 == buyer.opened().cap_microtoken, "what there is"


def test_a_refused_opening_is_forgotten_and_told(buyer: Buyer) -> None:
    session = buyer.use()
    assert session is not None
    buyer.payer.open_refused(session, "escrow", 0.0)
    assert [SessionRefused(session, None, "settlement: escrow")] == buyer.events()
    assert [] == buyer.payer.snapshot()
    assert buyer.use() is None, "not at once again"


def test_what_is_left_of_a_reserve_is_asked_back_until_it_is_there(buyer: Buyer) -> None:
    session = buyer.use()
    assert session is not None
    buyer.opened()
    buyer.payer.release_path(buyer.deal.plan.egress, TAG, -100.0)
    commands: list[object] = []
    for now in (0.0, 1.0, 31.0, 61.0, 92.0):
        buyer.payer.handle_timer(now, CHAIN_S + 3601)
        commands += [type(command) for command in (buyer.payer.next_command(),) if command is not None]
    assert [CloseSession] * 3 == commands, "with growing pauses"
    buyer.payer.closed(session, 40.0)
    buyer.payer.closed(session, 41.0)
    kinds = [type(event) for event in buyer.events()]
    assert [SessionOpened, SessionClosed] == kinds


def test_a_path_that_is_given_up_stays_covered_for_a_while(buyer: Buyer) -> None:
    buyer.use()
    buyer.opened()
    buyer.payer.release_path(buyer.deal.plan.egress, TAG, 0.0)
    buyer.payer.handle_timer(9.0, CHAIN_S)
    assert [(buyer.deal.plan.egress, TAG)] == buyer.payer.tags
    buyer.payer.handle_timer(11.0, CHAIN_S)
    assert [] == buyer.payer.tags


def test_a_relay_that_lost_a_session_is_told_again(buyer: Buyer) -> None:
    session = buyer.use()
    assert session is not None
    buyer.opened()
    buyer.send(2_000_000)
    buyer.take(buyer.receipt(session, 1_000_000))
    relay = buyer.deal.plan.relays[0]
    for message in buyer.outbox.take_due(0.0, 20):
        buyer.outbox.succeeded(message, 0.0)
    buyer.payer.answered(Message(("ticket", session, relay), 1, relay, "/srwan/ticket/1", b""), Answer("session"), 1.0)
    again = {(message.key[0], message.peer) for message in buyer.outbox.take_due(1.0, 20) if isinstance(message.key, tuple)}
    assert {("session", relay), ("ticket", relay)} <= again


def test_latency_that_was_not_saved_is_not_paid(latency_deal: Any) -> None:
    buyer = Buyer(latency_deal)
    session = buyer.use(saved_full_us=10_000)
    assert session is not None
    buyer.opened()
    buyer.send(100_000_000)
    buyer.take(buyer.receipt(session, 10_000_000, measured_us=25_000))
    assert 50_000 == buyer.amount()
    buyer.take(buyer.receipt(session, 11_000_000, measured_us=31_000))
    assert 50_000 == buyer.amount(), "what was signed stays"


def test_the_caps_bound_holds(deal: Any) -> None:
    buyer = Buyer(deal, cap_microtoken_max=777_777)
    buyer.use()
    assert 777_777 == buyer.opened().cap_microtoken
