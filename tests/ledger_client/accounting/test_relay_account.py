"""A relay: which sessions it takes, what is debt, who is slowed down, and what it claims."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from srwan.errors import RemoteProtocolError
from srwan.identity import Identity
from srwan.ledger_client.accounting.counters import packet_overhead_octets
from srwan.ledger_client.accounting.events import ClaimFiled, DebtCleared, DebtThrottled, TicketReceived
from srwan.ledger_client.accounting.messages import SessionNotice, TicketNotice
from srwan.ledger_client.accounting.plan import PathPlan
from srwan.ledger_client.accounting.relay_account import LOOKUPS_MAX, RelayAccount, RelaySettings
from srwan.ledger_client.settlement.settlement import SessionState
from srwan.ledger_client.settlement.signing import Address
from srwan.types import NodeId

WALL_NS, CHAIN_S = 10**18, 2_000_000_000 - 3600
SETTINGS = RelaySettings(credit_octets=1_000_000, credit_octets_max=2_000_000, free_octets_per_s=50_000)
OPEN = SessionState(5_000_000, 0, 1)


class Offers:
    """Charges, and takes one price only."""

    def __init__(self) -> None:
        self.charges = True

    def is_charging(self, wall_ns: int) -> bool:
        return self.charges and wall_ns > 0

    def problem_with(self, plan: PathPlan, position: int, price_microtoken: int, wall_ns: int, expires_s: int | None = None) -> str:
        assert plan.relays
        assert wall_ns
        assert expires_s
        return "" if (position, price_microtoken) == (0, 9_000_000) else "price"


class Desk:
    """The first relay of the deal, and traffic that comes to it."""

    def __init__(self, deal: Any) -> None:
        self.deal, self.offers, self.now, self.sequence = deal, Offers(), 0.0, 0
        self.account = self.make()
        self.counters: dict[tuple[NodeId, int], tuple[int, int]] = {}

    def make(self) -> RelayAccount:
        node = self.deal.relays[0].node_id
        return RelayAccount(node, self.deal.payees[0], self.deal.domain, self.offers, SETTINGS)

    def tell(self, *tags: int, chain_s: int = CHAIN_S) -> str:
        self.sequence += 1
        notice = SessionNotice(self.deal.terms, self.deal.plan, self.sequence, tags)
        return self.account.receive_session(self.deal.plan.consumer, notice.encode(), self.now, WALL_NS, chain_s).word

    def open(self, *tags: int) -> None:
        self.tell(*tags)
        (session,) = self.account.take_lookups(self.now)
        self.account.session_state(session, OPEN, self.now)

    def carry(self, octets: int, tag: int = 1, *, neighbour: NodeId | None = None, seconds: float = 1.0) -> None:
        """Bodies of 1,000 octets."""
        key = (neighbour or self.deal.plan.consumer, tag)
        packets, held = octets // 1000, self.counters.get(key, (0, 0))
        self.counters[key] = (held[0] + packets, held[1] + packets * (1000 + packet_overhead_octets(2)))
        self.look(seconds=seconds)

    def look(self, *, seconds: float = 1.0, chain_s: int = CHAIN_S) -> None:
        self.now += seconds
        self.account.traffic(self.counters, self.now)
        self.account.handle_timer(self.now, WALL_NS, chain_s)

    def pay(self, octets: int, amount: int | None = None) -> str:
        ticket = self.deal.ticket(octets, octets // 100 if amount is None else amount)
        body = TicketNotice(ticket, self.deal.receipt(octets, sequence=octets)).encode()
        return self.account.receive_ticket(self.deal.plan.consumer, body, self.now).word

    def events(self) -> list[object]:
        found: list[object] = []
        while (event := self.account.next_event()) is not None:
            found.append(event)
        return found


@pytest.fixture
def desk(deal: Any) -> Desk:
    return Desk(deal)


def test_a_session_is_taken_when_the_settlement_engine_has_it(desk: Desk) -> None:
    assert "pending" == desk.tell(1)
    assert [desk.deal.terms.session_id] == desk.account.take_lookups(0.0)
    assert [] == desk.account.take_lookups(0.0), "asked once"
    desk.account.session_state(desk.deal.terms.session_id, OPEN, 0.0)
    assert "ok" == desk.tell(1)
    assert [] == desk.account.take_lookups(1e6)


def test_a_ticket_for_a_session_that_is_not_known_to_be_open_is_not_taken_yet(desk: Desk) -> None:
    desk.tell(1)
    assert ("pending", 0) == (desk.pay(1_000_000), desk.account.owed_microtoken())
    desk.account.session_state(desk.deal.terms.session_id, OPEN, 0.0)
    assert ("ok", 10_000) == (desk.pay(1_000_000), desk.account.owed_microtoken())


def test_one_that_is_never_opened_is_forgotten(desk: Desk) -> None:
    desk.tell(1)
    for _ in range(LOOKUPS_MAX):
        (session,) = desk.account.take_lookups(desk.now)
        desk.account.session_state(session, None, desk.now)
        desk.now += 1000
    assert [] == desk.account.take_lookups(desk.now)
    assert "session" == desk.pay(1_000_000)
    assert [] == desk.account.snapshot()


def test_sessions_at_another_price_wallet_relay_or_time_are_refused(desk: Desk) -> None:
    deal = desk.deal
    assert "expired" == desk.tell(1, chain_s=2_000_000_000)
    assert "expired" == desk.tell(1, chain_s=1)
    other = RelayAccount(deal.relays[0].node_id, Address(bytes(20)), deal.domain, desk.offers, SETTINGS)
    stranger = RelayAccount(Identity(bytes([77]) * 32).node_id, deal.payees[0], deal.domain, desk.offers, SETTINGS)
    dear = RelayAccount(deal.relays[1].node_id, deal.payees[1], deal.domain, desk.offers, SETTINGS)
    notice = SessionNotice(deal.terms, deal.plan, 1, (1,)).encode()
    words = [each.receive_session(deal.plan.consumer, notice, 0.0, WALL_NS, CHAIN_S).word for each in (other, stranger, dear)]
    assert ["wallet", "plan", "price"] == words


def test_only_the_consumer_speaks_for_its_session(desk: Desk) -> None:
    notice = SessionNotice(desk.deal.terms, desk.deal.plan, 9, (1,)).encode()
    with pytest.raises(RemoteProtocolError):
        desk.account.receive_session(desk.deal.egress.node_id, notice, 0.0, WALL_NS, CHAIN_S)
    desk.open(1)
    body = TicketNotice(desk.deal.ticket(1000, 10), desk.deal.receipt(1000)).encode()
    with pytest.raises(RemoteProtocolError):
        desk.account.receive_ticket(desk.deal.egress.node_id, body, 0.0)
    assert {"session-stranger": 1, "ticket-stranger": 1} == dict(desk.account.drops)


def test_who_pays_is_carried_at_full_speed(desk: Desk) -> None:
    desk.open(1)
    for million in range(1, 20):
        desk.carry(1_000_000)
        desk.pay(1_000_000 * million)
        desk.look()
        assert {} == desk.account.limits()


def test_beyond_the_window_packets_are_slowed_down_until_the_ticket_comes(desk: Desk) -> None:
    desk.open(1, 2)
    desk.carry(900_000)
    assert {} == desk.account.limits()
    desk.carry(200_000, tag=2)
    (limit,) = desk.account.limits().values()
    assert (frozenset({1, 2}), False, 50_000) == (limit.tags, limit.is_exempt, limit.octets_per_s)
    (event,) = desk.events()
    assert isinstance(event, DebtThrottled)
    assert desk.deal.plan.consumer == event.node
    desk.pay(1_100_000)
    desk.look()
    assert {} == desk.account.limits()
    assert [TicketReceived, DebtCleared] == [type(event) for event in desk.events()]


def test_a_ticket_that_acknowledges_without_paying_clears_nothing(desk: Desk) -> None:
    desk.open(1)
    desk.carry(1_500_000)
    assert "ok" == desk.pay(1_500_000, amount=15)
    desk.look()
    assert {} != desk.account.limits()
    assert desk.account.outstanding(desk.deal.plan.consumer) > 1_400_000


def test_the_window_grows_with_what_was_acknowledged_up_to_its_bound(desk: Desk) -> None:
    desk.open(1)
    windows = []
    for octets in (0, 8_000_000, 16_000_000, 500_000_000):
        if octets:
            desk.pay(octets)
        windows.append(desk.account.window(desk.deal.plan.consumer))
    assert [1_000_000, 1_500_000, 2_000_000, 2_000_000] == windows


def test_more_than_the_cap_can_pay_is_slowed_down_though_all_is_paid(desk: Desk) -> None:
    desk.open(1)
    desk.carry(499_000_000)
    desk.pay(499_000_000)
    desk.look()
    assert {} == desk.account.limits()
    desk.carry(20_000_000)
    assert "ok" == desk.pay(519_000_000, amount=5_000_000)
    desk.look()
    assert 1 == len(desk.account.limits())


def test_strangers_of_one_neighbour_share_one_credit_however_many_tags_they_spray(desk: Desk) -> None:
    desk.open(1)
    for tag in range(100, 140):
        desk.carry(30_000, tag=tag, seconds=0.01)
    (limit,) = desk.account.limits().values()
    assert (frozenset({1}), True) == (limit.tags, limit.is_exempt), "the session's packets are left alone"
    (event,) = desk.events()
    assert event == DebtThrottled(desk.deal.plan.consumer, None, getattr(event, "owed_octets", 0))
    for _ in range(40):
        desk.look()
    assert {} == desk.account.limits(), "it is worked off at the free rate"


def test_what_came_before_the_session_is_the_sessions_debt_and_not_twice(desk: Desk) -> None:
    desk.carry(600_000)
    desk.open(1)
    assert 590_000 < desk.account.outstanding(desk.deal.plan.consumer) <= 600_000
    desk.carry(900_000, tag=50)
    assert [] == list(desk.account.limits()), "600,000 for the session, 900,000 for the stranger: neither is beyond a million"


def test_keep_alives_are_not_billed(desk: Desk) -> None:
    desk.open(1)
    for _ in range(600):
        held = desk.counters.get((desk.deal.plan.consumer, 1), (0, 0))
        desk.counters[desk.deal.plan.consumer, 1] = (held[0] + 10, held[1] + 10 * (72 + packet_overhead_octets(2)))
        desk.look()
    assert 0 == desk.account.outstanding(desk.deal.plan.consumer)


def test_who_charges_nothing_slows_nobody_down(desk: Desk) -> None:
    desk.offers.charges = False
    desk.carry(50_000_000)
    assert {} == desk.account.limits()


@pytest.mark.parametrize("change", [{"octets": 2_000_000}, {"amount_microtoken": 10_001}, {"signature": bytes(65)}])
def test_forged_tickets_are_refused_and_change_nothing(desk: Desk, change: dict[str, Any]) -> None:
    desk.open(1)
    desk.account.take_entries()
    forged = attrs.evolve(desk.deal.ticket(1_000_000, 10_000), **change)
    body = TicketNotice(forged, desk.deal.receipt(1_000_000)).encode()
    with pytest.raises(RemoteProtocolError):
        desk.account.receive_ticket(desk.deal.plan.consumer, body, 0.0)
    assert ([], 0) == (desk.account.take_entries(), desk.account.owed_microtoken())


def test_a_ticket_without_a_countersigned_receipt_is_refused(desk: Desk) -> None:
    desk.open(1)
    receipt = attrs.evolve(desk.deal.receipt(1_000_000), countersignature=b"")
    body = TicketNotice(desk.deal.ticket(1_000_000, 10_000), receipt).encode()
    with pytest.raises(RemoteProtocolError):
        desk.account.receive_ticket(desk.deal.plan.consumer, body, 0.0)


def test_the_same_ticket_and_lesser_ones_change_nothing(desk: Desk) -> None:
    desk.open(1)
    assert "ok" == desk.pay(2_000_000)
    desk.account.take_entries()
    assert ["ok", "ok"] == [desk.pay(2_000_000), desk.pay(1_000_000)]
    assert ([], 20_000) == (desk.account.take_entries(), desk.account.owed_microtoken())


def test_a_claim_is_filed_at_the_end_and_again_for_later_tickets_only(desk: Desk) -> None:
    desk.open(1)
    desk.pay(1_000_000)
    desk.look(seconds=700)
    filing = desk.account.next_claim()
    assert filing is not None
    filing.verify(desk.deal.domain)
    assert desk.account.next_claim() is None
    desk.account.claim_filed(filing)
    desk.account.claim_filed(filing)
    assert 1 == [type(event) for event in desk.events()].count(ClaimFiled)
    desk.look(seconds=700)
    assert desk.account.next_claim() is None
    desk.pay(2_000_000)
    desk.look(chain_s=2_000_000_000 - 30)
    assert desk.account.next_claim() is not None


def test_a_claim_that_could_not_be_filed_is_handed_out_again(desk: Desk) -> None:
    desk.open(1)
    desk.pay(1_000_000)
    handed_out = 0
    for _ in range(4):
        desk.look(seconds=700)
        handed_out += desk.account.next_claim() is not None
    assert 4 == handed_out


def test_after_a_restart_it_holds_what_it_acknowledged_and_counts_nothing_twice(desk: Desk) -> None:
    desk.open(1)
    desk.carry(3_000_000)
    desk.pay(2_900_000)
    entries = desk.account.take_entries()
    again = desk.make()
    again.restore(entries, 0.0)
    assert 29_000 == again.owed_microtoken()
    assert again.snapshot() == [*again.snapshot()]
    third = desk.make()
    third.restore(again.snapshot(), 0.0)
    assert again.counts() == third.counts() == desk.account.counts()
    third.traffic({(desk.deal.plan.consumer, 1): (1, 1000)}, 1.0)
    assert desk.account.counts()[0].octets + 1000 == third.counts()[0].octets


def test_when_it_is_over_its_packets_are_a_strangers_again(desk: Desk) -> None:
    desk.open(1)
    desk.look(chain_s=2_000_000_001)
    desk.counters.clear()
    desk.carry(2_000_000)
    (limit,) = desk.account.limits().values()
    assert limit.is_exempt
    desk.look(chain_s=2_000_000_000 + 601)
    assert [] == desk.account.snapshot()
