"""Sessions, receipts and tickets between the three sides, over a network that loses, repeats and reorders, with restarts at every point."""

from __future__ import annotations

import random
from typing import TypeAlias

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from srwan.identity import Identity
from srwan.ledger_client.accounting.counters import packet_overhead_octets
from srwan.ledger_client.accounting.egress_account import EgressAccount
from srwan.ledger_client.accounting.messages import RECEIPT_PROTOCOL, TICKET_PROTOCOL, Answer, TicketNotice
from srwan.ledger_client.accounting.outbox import Message, Outbox
from srwan.ledger_client.accounting.payer import RESTART_SLACK_OCTETS, CloseSession, OpenSession, PathQuote, Payer, PayerSettings
from srwan.ledger_client.accounting.plan import NO_OFFER, PathPlan
from srwan.ledger_client.accounting.relay_account import RelayAccount, RelaySettings
from srwan.ledger_client.settlement.settlement import SessionState
from srwan.ledger_client.settlement.signing import Address, SettlementDomain, WalletKey
from srwan.ledger_client.settlement.terms import PathTerms, price_of
from srwan.types import NodeId

CONSUMER, RELAY, EGRESS = (Identity(bytes([number]) * 32) for number in (1, 2, 3))
WALLET, PAYEE = WalletKey(bytes([1]) * 32), WalletKey(bytes([2]) * 32)
DOMAIN = SettlementDomain(31337, Address(bytes([0xCC]) * 20))
PRICE, BODY = 10_000_000, 1_000
WALL_NS, START_S = 10**18, 1_000_000_000
SENDERS: TypeAlias = tuple[Outbox, NodeId]


class Takes:
    """Offers of a relay with one price."""

    def is_charging(self, wall_ns: int) -> bool:
        return bool(wall_ns)

    def problem_with(self, plan: PathPlan, position: int, price_microtoken: int, wall_ns: int, expires_s: int | None = None) -> str:
        return "" if (price_microtoken, position, plan.relays) == (PRICE, 0, (RELAY.node_id,)) and wall_ns and expires_s else "price"


class World:
    """The three sides, their journals, counters of the data planes, and the settlement engine."""

    def __init__(self) -> None:
        self.now, self.chain_s, self.boots, self.tag = 100.0, START_S, 0, 1
        self.escrow = 10_000_000
        self.opened: dict[bytes, PathTerms] = {}
        self.journals: dict[str, list[bytes]] = {"payer": [], "relay": [], "egress": []}
        self.sent: dict[tuple[NodeId, int], tuple[int, int]] = {}
        self.relayed: dict[tuple[NodeId, int], tuple[int, int]] = {}
        self.received: dict[tuple[NodeId, int], tuple[int, int]] = {}
        self.sent_total = self.authenticated_total = self.payer_crashes = 0
        self.highest: dict[bytes, int] = {}
        self.acknowledged: dict[bytes, int] = {}
        for side in self.journals:
            self.start(side)

    def start(self, side: str) -> None:
        """Start a side, with what its journal holds and counters at zero."""
        self.boots += 1
        rng = random.Random(self.boots)
        if side == "payer":
            self.sent.clear()
            self.tag += 1
            self.payer_outbox = Outbox(rng)
            self.payer = Payer(CONSUMER, WALLET, DOMAIN, self.payer_outbox, rng, PayerSettings(session_octets=20_000_000))
            self.payer.start_sequence(WALL_NS + self.boots)
            self.payer.restore(self.journals["payer"], self.now)
        elif side == "egress":
            self.received.clear()
            self.egress_outbox = Outbox(rng)
            self.egress = EgressAccount(EGRESS, self.egress_outbox, self.boots, lambda _node: None)
            self.egress.restore(self.journals["egress"], self.now)
        else:
            self.relayed.clear()
            self.relay = RelayAccount(RELAY.node_id, PAYEE.address, DOMAIN, Takes(), RelaySettings(claim_octets=5_000_000))
            self.relay.restore(self.journals["relay"], self.now)
        self.collect()

    def collect(self) -> None:
        """Write down what the sides want written, then act on the rest."""
        self.journals["payer"] += self.payer.take_entries()
        if hasattr(self, "egress"):
            self.journals["egress"] += self.egress.take_entries()
        if hasattr(self, "relay"):
            self.journals["relay"] += self.relay.take_entries()
            self.answer_lookups()
        self.settle()

    def answer_lookups(self) -> None:
        for session_id in self.relay.take_lookups(self.now):
            terms = self.opened.get(session_id)
            self.relay.session_state(session_id, None if terms is None else SessionState(terms.cap_microtoken, 0, 1), self.now)
        self.journals["relay"] += self.relay.take_entries()

    def settle(self) -> None:
        self.payer.set_escrow(self.escrow)
        while (command := self.payer.next_command()) is not None:
            session_id = command.terms.session_id
            if isinstance(command, OpenSession) and session_id not in self.opened:
                if command.terms.cap_microtoken > self.escrow or self.chain_s > command.terms.expires_s:
                    self.payer.open_refused(session_id, "escrow", self.now)
                    continue
                self.escrow -= command.terms.cap_microtoken
                self.opened[session_id] = command.terms
            if isinstance(command, OpenSession):
                self.payer.opened(session_id, self.now)
            elif isinstance(command, CloseSession) and self.opened.pop(session_id, None) is not None:
                self.escrow += command.terms.cap_microtoken
                self.payer.closed(session_id, self.now)
        self.journals["payer"] += self.payer.take_entries()

    def send(self, packets: int, lost: int) -> None:
        """Traffic on the path in use; some of it gets lost behind the relay."""
        quote = PathQuote((RELAY.node_id,), EGRESS.node_id, (PAYEE.address,), (PRICE,), (NO_OFFER,), 20_000, 30_000)
        self.payer.use_path(quote, self.tag, self.now, self.chain_s)
        arrived = packets - lost
        add(self.sent, (EGRESS.node_id, self.tag), packets, packets * BODY)
        add(self.relayed, (CONSUMER.node_id, self.tag), packets, packets * (BODY + packet_overhead_octets(1)))
        add(self.received, (CONSUMER.node_id, self.tag), arrived, arrived * BODY)
        self.sent_total += packets * BODY
        self.authenticated_total += arrived * BODY
        self.collect()

    def look(self) -> None:
        self.now += 2.1
        self.chain_s += 2
        self.payer.traffic(self.sent)
        self.payer.handle_timer(self.now, self.chain_s)
        self.egress.traffic(self.received)
        self.egress.handle_timer(self.now, WALL_NS, self.chain_s)
        self.relay.traffic(self.relayed, self.now)
        self.relay.handle_timer(self.now, WALL_NS, self.chain_s)
        while (filing := self.relay.next_claim()) is not None:
            filing.verify(DOMAIN)
            self.relay.claim_filed(filing)
        self.collect()

    def deliver(self, message: Message) -> Answer:
        """Have a message handled, as the services do."""
        sender = EGRESS.node_id if message.protocol == RECEIPT_PROTOCOL else CONSUMER.node_id
        if message.protocol == RECEIPT_PROTOCOL:
            self.payer.traffic(self.sent)
            answer = self.payer.receive_receipt(sender, message.body, self.now)
        elif message.protocol == TICKET_PROTOCOL:
            ticket = TicketNotice.decode(message.body).ticket
            self.highest[ticket.session] = max(self.highest.get(ticket.session, 0), ticket.amount_microtoken)
            answer = self.relay.receive_ticket(sender, message.body, self.now)
            if answer.is_ok:
                self.acknowledged[ticket.session] = max(self.acknowledged.get(ticket.session, 0), ticket.amount_microtoken)
        elif message.peer == EGRESS.node_id:
            answer = self.egress.receive_session(sender, message.body, self.chain_s)
        else:
            answer = self.relay.receive_session(sender, message.body, self.now, WALL_NS, self.chain_s)
        self.collect()
        return answer

    def answered(self, message: Message, answer: Answer) -> None:
        if message.protocol == RECEIPT_PROTOCOL:
            self.egress_outbox.succeeded(message, self.now)
            self.egress.answered(message, answer)
        elif message.protocol == TICKET_PROTOCOL and answer.word == "pending":
            self.payer_outbox.failed(message, self.now)
        else:
            self.payer_outbox.succeeded(message, self.now)
            self.payer.answered(message, answer, self.now)
        self.collect()

    def pump(self) -> None:
        """Deliver all there is until nothing more is said."""
        for _ in range(60):
            messages = self.payer_outbox.take_due(self.now, 100) + self.egress_outbox.take_due(self.now, 100)
            for message in messages:
                self.answered(message, self.deliver(message))
            if not messages and not (len(self.payer_outbox) or len(self.egress_outbox)):
                return
            self.now += 40


def add(table: dict[tuple[NodeId, int], tuple[int, int]], key: tuple[NodeId, int], packets: int, octets: int) -> None:
    held = table.get(key, (0, 0))
    table[key] = (held[0] + packets, held[1] + octets)


class Life(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.world = World()
        self.under_way: list[Message] = []
        self.lost: list[Message] = []
        self.crashes = 0

    @rule(packets=st.integers(1, 4_000), loss=st.integers(0, 3))
    def traffic(self, packets: int, loss: int) -> None:
        self.world.send(packets, packets * loss // 100)
        self.world.look()

    @rule()
    def time_passes(self) -> None:
        self.world.look()

    @rule(packets=st.integers(1_000, 4_000), rounds=st.integers(1, 6))
    def all_goes_well_for_a_while(self, packets: int, rounds: int) -> None:
        world = self.world
        for _ in range(rounds):
            world.send(packets, 0)
            world.look()
            for message in world.payer_outbox.take_due(world.now, 100) + world.egress_outbox.take_due(world.now, 100):
                world.answered(message, world.deliver(message))

    @rule()
    def messages_leave(self) -> None:
        world = self.world
        self.under_way += world.payer_outbox.take_due(world.now, 8) + world.egress_outbox.take_due(world.now, 8)

    @precondition(lambda self: self.under_way)
    @rule(at=st.integers(0, 100), is_repeated=st.booleans(), is_answer_lost=st.booleans())
    def one_arrives(self, at: int, *, is_repeated: bool, is_answer_lost: bool) -> None:
        message = self.under_way.pop(at % len(self.under_way))
        answer = self.world.deliver(message)
        if is_repeated:
            answer = self.world.deliver(message)
        outbox = self.world.egress_outbox if message.protocol == RECEIPT_PROTOCOL else self.world.payer_outbox
        if is_answer_lost:
            outbox.failed(message, self.world.now)
        else:
            self.world.answered(message, answer)

    @precondition(lambda self: self.under_way)
    @rule(at=st.integers(0, 100))
    def one_gets_lost(self, at: int) -> None:
        message = self.under_way.pop(at % len(self.under_way))
        self.lost.append(message)
        outbox = self.world.egress_outbox if message.protocol == RECEIPT_PROTOCOL else self.world.payer_outbox
        outbox.failed(message, self.world.now)

    @precondition(lambda self: self.lost)
    @rule(at=st.integers(0, 100))
    def an_old_one_comes_after_all(self, at: int) -> None:
        self.world.deliver(self.lost[at % len(self.lost)])

    @rule(side=st.sampled_from(["payer", "relay", "egress"]), is_compacted=st.booleans())
    def a_side_dies_and_comes_back(self, side: str, *, is_compacted: bool) -> None:
        world = self.world
        if is_compacted:
            snapshots = {"payer": world.payer.snapshot, "relay": world.relay.snapshot, "egress": world.egress.snapshot}
            world.journals[side] = snapshots[side]()
        is_of_side = side == "egress"
        self.under_way = [each for each in self.under_way if (each.protocol == RECEIPT_PROTOCOL) != is_of_side or side == "relay"]
        world.payer_crashes += side == "payer"
        world.start(side)

    @invariant()
    def nobody_owes_more_than_was_delivered_or_reserved(self) -> None:
        if not hasattr(self, "world"):
            return
        signed = 0
        for terms, _, ticket in self.world.payer.tickets():
            if ticket is not None:
                ticket.verify(terms, DOMAIN)
                assert ticket.amount_microtoken <= min(terms.cap_microtoken, price_of(ticket.octets, PRICE))
                signed += ticket.octets
        assert signed <= self.world.authenticated_total <= self.world.sent_total + self.world.payer_crashes * RESTART_SLACK_OCTETS

    @invariant()
    def the_consumer_never_forgets_what_it_signed(self) -> None:
        if not hasattr(self, "world"):
            return
        held = {terms.session_id: 0 if ticket is None else ticket.amount_microtoken for terms, _, ticket in self.world.payer.tickets()}
        for session, amount in self.world.highest.items():
            if session in self.world.opened:
                assert held[session] >= amount

    @invariant()
    def the_relay_holds_all_that_it_acknowledged(self) -> None:
        if not hasattr(self, "world"):
            return
        for session, amount in self.world.acknowledged.items():
            kept = self.world.relay._sessions.get(session)
            assert kept is None or amount == kept.amount
            assert kept is not None or self.world.chain_s > START_S + 3600

    def teardown(self) -> None:
        """When the network is whole again, the relay holds all that the consumer signed, for all that the egress counted last."""
        if not hasattr(self, "world"):
            return
        for message in self.under_way:
            self.world.answered(message, self.world.deliver(message))
        for _ in range(3):
            self.world.look()
            self.world.pump()
        owed = {terms.session_id: ticket.amount_microtoken for terms, _, ticket in self.world.payer.tickets() if ticket is not None}
        held = {session.id: session.amount for session in self.world.relay._sessions.values() if session.amount}
        assert owed == held
        counted = {count.session: count.octets for count in self.world.egress.counts() if count.octets}
        tickets = {terms.session_id: ticket.octets for terms, _, ticket in self.world.payer.tickets() if ticket is not None}
        assert counted == tickets


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)
