"""An egress: what it counts for whom, when it signs, and what it does about a lost journal."""

from __future__ import annotations

import random
from typing import Any

import attrs
import pytest

from srwan.errors import RemoteProtocolError
from srwan.ledger_client.accounting.egress_account import EgressAccount
from srwan.ledger_client.accounting.messages import Answer, SessionNotice
from srwan.ledger_client.accounting.outbox import Message, Outbox
from srwan.ledger_client.accounting.receipt import Receipt
from srwan.types import NodeId

CHAIN_S = 2_000_000_000 - 3600


class Counter:
    """The egress of the deal, and traffic that comes to it."""

    def __init__(self, deal: Any, direct_us: int | None = None) -> None:
        self.deal, self.now, self.sequence = deal, 0.0, 0
        self.direct_us = direct_us
        self.received: dict[tuple[NodeId, int], tuple[int, int]] = {}
        self.restart([])

    def restart(self, entries: list[bytes]) -> None:
        self.outbox = Outbox(random.Random(1))
        self.egress = EgressAccount(self.deal.egress, self.outbox, 3, lambda _node: self.direct_us)
        self.egress.restore(entries, self.now)
        self.received.clear()

    def cover(self, *tags: int, chain_s: int = CHAIN_S) -> str:
        self.sequence += 1
        notice = SessionNotice(self.deal.terms, self.deal.plan, self.sequence, tags)
        return self.egress.receive_session(self.deal.plan.consumer, notice.encode(), chain_s).word

    def come(self, octets: int, tag: int = 1, *, seconds: float = 0.25, sender: NodeId | None = None) -> None:
        key = (sender or self.deal.plan.consumer, tag)
        packets, held = self.received.get(key, (0, 0))
        self.received[key] = (packets + octets // 1000 + 1, held + octets)
        self.look(seconds)

    def look(self, seconds: float = 0.25) -> None:
        self.now += seconds
        self.egress.traffic(self.received)
        self.egress.handle_timer(self.now, 10**18, CHAIN_S)

    def message(self) -> Message | None:
        return next(iter(self.outbox.take_due(self.now, 1)), None)

    def told(self) -> Receipt:
        message = self.message()
        assert message is not None
        self.outbox.failed(message, self.now - 1000)
        receipt = Receipt.decode(message.body)
        receipt.verify(is_accepted=False)
        return receipt


@pytest.fixture
def counter(deal: Any) -> Counter:
    return Counter(deal)


def test_a_receipt_is_made_for_a_million_octets_or_after_two_seconds(counter: Counter) -> None:
    assert "ok" == counter.cover(1)
    counter.now = 10.0
    counter.come(999_000)
    assert 999_000 == counter.told().octets, "the first after a while"
    counter.come(500_000)
    assert 999_000 == counter.told().octets
    counter.come(501_000)
    assert 2_000_000 == counter.told().octets
    counter.come(10)
    counter.look(2.0)
    assert 2_000_010 == counter.told().octets
    counter.look(10.0)
    assert 2_000_010 == counter.told().octets, "nothing came, nothing is said"


def test_only_the_consumers_own_packets_count(counter: Counter) -> None:
    counter.cover(1)
    counter.come(5_000_000, sender=counter.deal.relays[0].node_id)
    counter.come(5_000_000, tag=2)
    assert counter.message() is None
    with pytest.raises(RemoteProtocolError):
        notice = SessionNotice(counter.deal.terms, counter.deal.plan, 9, (1,)).encode()
        counter.egress.receive_session(counter.deal.relays[0].node_id, notice, CHAIN_S)
    assert {"session-stranger": 1} == dict(counter.egress.drops)


def test_what_a_newer_notice_leaves_out_counts_no_more_and_older_notices_change_nothing(counter: Counter) -> None:
    counter.cover(1)
    old = SessionNotice(counter.deal.terms, counter.deal.plan, counter.sequence, (1,)).encode()
    counter.come(1_000_000)
    counter.cover(2)
    assert counter.egress.receive_session(counter.deal.plan.consumer, old, CHAIN_S).is_ok
    counter.come(3_000_000)
    assert 1_000_000 == counter.told().octets


def test_sessions_of_others_or_out_of_time_are_refused(counter: Counter, deal: Any) -> None:
    assert "expired" == counter.cover(1, chain_s=2_000_000_000)
    assert "expired" == counter.cover(1, chain_s=1)
    stranger = EgressAccount(deal.relays[0], Outbox(random.Random(1)), 1, lambda _node: None)
    notice = SessionNotice(deal.terms, deal.plan, 1, (1,))
    assert "plan" == stranger.receive_session(deal.plan.consumer, notice.encode(), CHAIN_S).word


def test_latencies_are_as_planned_until_they_are_measured(counter: Counter) -> None:
    counter.cover(1)
    counter.come(1_000_000)
    assert (20_000, 20_000, 30_000) == (counter.told().predicted_us, counter.told().measured_us, counter.told().direct_us)
    counter.direct_us = 33_000
    counter.egress.path_measured(counter.deal.plan.consumer, 1, 100, 21_000)
    counter.egress.path_measured(counter.deal.plan.consumer, 1, 300, 25_000)
    counter.egress.path_measured(counter.deal.plan.consumer, 99, 300, 1)
    counter.come(1_000_000)
    assert (24_000, 33_000) == (counter.told().measured_us, counter.told().direct_us)


def test_the_countersigned_receipt_is_handed_out_to_be_published(counter: Counter) -> None:
    counter.cover(1)
    counter.come(1_000_000)
    message = counter.message()
    assert message is not None
    accepted = Receipt.decode(message.body).countersign(counter.deal.consumer)
    counter.egress.answered(message, Answer("ok", accepted.countersignature))
    counter.egress.answered(message, Answer("ok", accepted.countersignature))
    assert [(accepted, counter.deal.terms.expires_s)] == counter.egress.take_accepted()
    assert [] == counter.egress.take_accepted()


@pytest.mark.parametrize("data", [b"", bytes(64), bytes(63)])
def test_a_forged_countersignature_is_not_taken(counter: Counter, data: bytes) -> None:
    counter.cover(1)
    counter.come(1_000_000)
    message = counter.message()
    assert message is not None
    with pytest.raises(RemoteProtocolError):
        counter.egress.answered(message, Answer("ok", data))
    assert [] == counter.egress.take_accepted()


def test_after_a_restart_receipts_go_on_from_the_last_one(counter: Counter) -> None:
    counter.cover(1)
    counter.come(3_000_000)
    entries = counter.egress.take_entries()
    counter.restart(entries)
    assert 3_000_000 == counter.told().octets, "it is sent again"
    counter.come(1_000_000)
    assert 4_000_000 == counter.told().octets
    again = [*entries, *counter.egress.take_entries()]
    counter.restart(counter.egress.snapshot())
    compacted = counter.egress.counts()
    counter.restart(again + again)
    assert compacted == counter.egress.counts()


def test_a_lost_journal_is_made_up_for_by_what_the_consumer_holds(counter: Counter) -> None:
    counter.cover(1)
    counter.come(5_000_000)
    held = counter.told().countersign(counter.deal.consumer)
    counter.restart([])
    counter.cover(1)
    counter.come(1_000_000)
    message = counter.message()
    assert message is not None
    for forged in (attrs.evolve(held, octets=9_000_000), attrs.evolve(held, countersignature=bytes(64))):
        with pytest.raises(RemoteProtocolError):
            counter.egress.answered(message, Answer("stale", forged.encode()))
    counter.egress.answered(message, Answer("stale", held.encode()))
    counter.egress.answered(message, Answer("stale", held.encode()))
    counter.outbox.succeeded(message, counter.now)
    counter.come(1_000_000)
    counter.look(3.0)
    assert 7_000_000 == counter.told().octets, "5 held, 1 before the consumer said so, 1 after"
