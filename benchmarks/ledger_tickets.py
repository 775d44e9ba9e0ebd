"""What accounting costs: the relay's packet loop with and without it, and how many tickets are signed and checked in a second.

    python benchmarks/ledger_tickets.py [--json] [--packets 60000] [--repetitions 7] [--sessions 64] [--tags 512]

Data path: one relay in this process opens, checks, advances and seals packets of 1,400 B (`PortableForwarder.receive_batch`, batches of 64,
what it sends is thrown away). Repetitions with and without accounting take turns on packets sealed beforehand. With accounting, after every
0.25 s of work the node looks: reads all counters (--tags path tags besides), runs payer, relay and egress, checks a ticket with its receipt
for an eighth of the sessions (each has one every 2 s), writes it down and waits for the disk. `ratio` is packets a second of CPU time with
over without, of two passes that follow each other; `overhead` the CPU time of one look over 0.25 s, which swings less. Medians, with least
and greatest.

Tickets: "signed_and_checked" is `sign_ticket` and `PathTicket.verify` of a rising ticket; "cycle" all that is done for one: receipt signed,
checked and countersigned, ticket signed, both checked by the relay, with their bytes written and read, without disk and network.

CPU time of this process; the journal's waiting for the disk is wall time, and told apart.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from srwan.clock import Clock
from srwan.identity import Identity
from srwan.ledger_client.accounting.egress_account import EgressAccount
from srwan.ledger_client.accounting.journal import Journal
from srwan.ledger_client.accounting.messages import SessionNotice, TicketNotice
from srwan.ledger_client.accounting.outbox import Outbox
from srwan.ledger_client.accounting.payer import Payer
from srwan.ledger_client.accounting.plan import NO_OFFER, PathPlan
from srwan.ledger_client.accounting.receipt import Receipt
from srwan.ledger_client.accounting.relay_account import Limit, RelayAccount
from srwan.ledger_client.accounting.service import AccountingService, TrafficReading
from srwan.ledger_client.settlement.settlement import SessionState
from srwan.ledger_client.settlement.signing import Address, SettlementDomain, WalletKey
from srwan.ledger_client.settlement.terms import PathTerms
from srwan.ledger_client.settlement.ticket import PathTicket, sign_ticket
from srwan.overlay.trains import Train
from srwan.overlay.view import Role
from srwan.routing.payload import Payload, PayloadKind
from srwan.routing.sid import Function
from srwan.testing.packets import SrNetwork, SrRouter
from srwan.types import NodeId

BATCH = 64
BODY = 1200
LOOK_S = 0.25
PRICE = 10_000_000
TAG = 0xACC0
DOMAIN = SettlementDomain(31337, Address(bytes(20)))
PAYER, PAYEE = WalletKey(bytes([1]) * 32), WalletKey(bytes([2]) * 32)
CONSUMER, EGRESS = Identity(bytes([1]) * 32), Identity(bytes([3]) * 32)


class _Takes:
    """Offers of a relay that takes every price."""

    def is_charging(self, wall_ns: int) -> bool:
        return bool(wall_ns)

    def problem_with(self, plan: PathPlan, position: int, price_microtoken: int, wall_ns: int, expires_s: int | None = None) -> str:
        del plan, position, price_microtoken, wall_ns, expires_s
        return ""


class _Plane:
    """A relay's counters."""

    def __init__(self, router: SrRouter) -> None:
        self._router = router

    def read(self) -> TrafficReading:
        counters = self._router.forwarder.counters()
        return TrafficReading(counters.sent, counters.received, counters.relayed, 0, 0)

    def limit(self, neighbour: NodeId, limit: Limit | None) -> None:
        raise AssertionError(f"nobody is in debt here, not {neighbour!r} by {limit}")


class Bench:
    """A line of three routers; the middle one keeps accounts."""

    def __init__(self, folder: Path, sessions: int, tags: int) -> None:
        self.network = SrNetwork(0)
        self.routers = self.network.line([Role.RELAY] * 3)
        self.relay = self.routers[1]
        rng = random.Random(0)  # as SrNetwork(0) makes identities
        self.consumer, _, self.egress = (Identity(rng.randbytes(32)) for _ in self.routers)
        self.relay.forwarder._send = lambda _data, _to: None  # the network's part is not what is measured
        self.expires_s = int(Clock().now()) + 86_400  # the service was told no other time, so its chain's began at 0
        self.sessions = [self._deal(number) for number in range(sessions)]
        identity = Identity(bytes([2]) * 32)
        outbox = Outbox(random.Random(1))
        self.account = RelayAccount(self.relay.node_id, PAYEE.address, DOMAIN, _Takes())
        nothing: Any = None
        self.service = AccountingService(
            self.relay.node_id,
            PAYEE,
            nothing,
            nothing,
            address_of=lambda _node: None,
            clock=Clock(),
            journal=Journal(folder / "accounting.journal"),
            plane=_Plane(self.relay),
            payer=Payer(identity, PAYEE, DOMAIN, outbox, random.Random(2)),
            relay=self.account,
            egress=EgressAccount(identity, outbox, 1, lambda _node: None),
            outbox=outbox,
            publish=nothing,
            tell=lambda _event: None,
            boot=1,
        )
        for number, (plan, terms) in enumerate(self.sessions):
            notice = SessionNotice(terms, plan, 1, (TAG + number,))
            self.account.receive_session(plan.consumer, notice.encode(), 0.0, 1, self.service.chain_s())
            self.account.session_state(terms.session_id, SessionState(terms.cap_microtoken, 0, 1), 0.0)
        for tag in range(tags):
            self.relay.forwarder._relay.relayed.touch(NodeId(bytes([9]) * 32), tag).packets += 1
        self.service.look()
        self.journal_s = 0.0
        self.looks_s: list[float] = []
        self.look_at = 0.0
        self.prepared: list[list[bytes]] = []

    def _deal(self, number: int) -> tuple[PathPlan, PathTerms]:
        """All sessions are of the ingress of this line, so that its packets are covered."""
        ends = (self.routers[0].node_id, (self.relay.node_id,), self.routers[2].node_id)
        plan = PathPlan(*ends, (NO_OFFER,), 1, 2, 0, number.to_bytes(16, "big"))
        return plan, PathTerms(PAYER.address, (PAYEE.address,), (PRICE,), 10**15, self.expires_s, plan.digest)

    def packets(self, count: int) -> list[Train]:
        """Sealed datagrams for the relay, in turn on the sessions' path tags, one train each."""
        ingress, relay, egress = self.routers
        path = (relay.sid(), egress.sid(Function.END_APP))
        for seq in range(count):
            payload = Payload(PayloadKind.DATA, 5, seq, self.network.now_ns, bytes(BODY)).encode()
            ingress.forwarder.send_payload(path, TAG + seq // BATCH % len(self.sessions), egress.node_id, payload)
        datagrams = list(self.network.queue)
        self.network.queue.clear()
        return [(each.data, len(each.data), each.source, self.network.now_ns) for each in datagrams]

    def look(self) -> None:
        """What a node does for accounting in a quarter of a second: counters, cores, a ticket for each session that is busy."""
        started = time.process_time()
        self.service.look()
        for body in self.prepared.pop():
            assert self.account.receive_ticket(self.routers[0].node_id, body, 1.0).is_ok
        self.service._collect()
        began = time.perf_counter()
        self.service._journal.sync()
        self.journal_s += time.perf_counter() - began
        self.looks_s.append(time.process_time() - started)
        self.look_at = time.process_time() + LOOK_S


def tickets_for(bench: Bench, looks: int) -> list[list[bytes]]:
    """What consumers send in so many looks: made beforehand, for it is their time and not the relay's."""
    made: list[list[bytes]] = []
    for number in range(1, looks + 1):
        octets, batch = number * 1_000_000_000, []
        for plan, terms in bench.sessions if number == 1 else bench.sessions[number % 8 :: 8]:  # at first all pay ahead
            counts = (1, number, octets, octets // BODY + 1)
            receipt = Receipt(terms.session_id, plan.consumer, plan.egress, *counts, 1, 1, 2, 1)
            signed = receipt.sign(bench.egress).countersign(bench.consumer)
            ticket = sign_ticket(PAYER, DOMAIN, terms, octets, octets * PRICE // 10**9)
            batch.append(TicketNotice(ticket, signed).encode())
        made.append(batch)
    return made[::-1]


def data_path(options: argparse.Namespace) -> dict[str, Any]:
    """Compare the packet loop with and without accounting."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), options.sessions, options.tags)
        bench.prepared = tickets_for(bench, 200)
        bench.look()
        without: list[float] = []
        accounted: list[float] = []
        looks: list[float] = []
        for _ in range(options.repetitions + 1):
            without.append(options.packets / forward(bench, bench.packets(options.packets)))
            began_looks = len(bench.looks_s)
            accounted.append(options.packets / forward(bench, bench.packets(options.packets), is_accounted=True))
            looks += bench.looks_s[began_looks:]
        without, accounted = without[1:], accounted[1:]
        overhead = [look / LOOK_S for look in looks]
        bench.service._journal.close()
    return {
        "packets_per_s_without": spread(without, 0),
        "packets_per_s_with": spread(accounted, 0),
        "ratio": spread([one / other for one, other in zip(accounted, without, strict=True)], 3),
        "look_ms": spread([look * 1000 for look in looks], 3),
        "overhead": spread(overhead, 5),
        "overhead_wanted": 0.05,
        "journal_wait_ms_per_look": round(bench.journal_s * 1000 / len(bench.looks_s), 2),
        "sessions": options.sessions,
        "path_tags": options.tags + options.sessions,
    }


def forward(bench: Bench, trains: Sequence[Train], *, is_accounted: bool = False) -> float:
    """Return the CPU time in which the relay sends these packets on, s; with looks between them where it keeps accounts."""
    receive = bench.relay.forwarder.receive_batch
    began = time.process_time()
    for start in range(0, len(trains), BATCH):
        receive(trains[start : start + BATCH])
        if is_accounted and time.process_time() >= bench.look_at:
            bench.look()
    return time.process_time() - began


def tickets(options: argparse.Namespace) -> dict[str, Any]:
    """Measure tickets a second."""
    del options
    plan = PathPlan(CONSUMER.node_id, (NodeId(bytes([9]) * 32),), EGRESS.node_id, (NO_OFFER,), 1, 2, 0, bytes(16))
    terms = PathTerms(PAYER.address, (PAYEE.address,), (PRICE,), 10**15, 10_000, plan.digest)
    account = RelayAccount(NodeId(bytes([9]) * 32), PAYEE.address, DOMAIN, _Takes())
    account.receive_session(CONSUMER.node_id, SessionNotice(terms, plan, 1, (1,)).encode(), 0.0, 1, 1)
    account.session_state(terms.session_id, SessionState(1, 0, 1), 0.0)
    numbers = iter(range(1, 10**9))

    def sign_and_check() -> None:
        octets = next(numbers) * 1_000_000
        sign_ticket(PAYER, DOMAIN, terms, octets, octets // 100).verify(terms, DOMAIN)

    def cycle() -> None:
        number = next(numbers)
        octets = number * 1_000_000
        sent = Receipt(terms.session_id, plan.consumer, plan.egress, 1, number, octets, octets // 1000, 1, 1, 2, 1).sign(EGRESS).encode()
        receipt = Receipt.decode(sent)
        receipt.verify(is_accepted=False)
        ticket: PathTicket = sign_ticket(PAYER, DOMAIN, terms, octets, octets // 100)
        notice = TicketNotice(ticket, receipt.countersign(CONSUMER)).encode()
        assert account.receive_ticket(plan.consumer, notice, 1.0).is_ok
        account.take_entries()

    return {"signed_and_checked_per_s": rate(sign_and_check), "wanted_per_s": 2000, "cycle_per_s": rate(cycle)}


def rate(work: Callable[[], None], repetitions: int = 7, count: int = 400) -> dict[str, float]:
    """Return how often a second something is done, of CPU time."""
    found: list[float] = []
    for _ in range(repetitions + 1):
        began = time.process_time()
        for _ in range(count):
            work()
        found.append(count / (time.process_time() - began))
    return spread(found[1:], 0)


def spread(values: Sequence[float], digits: int) -> dict[str, float]:
    """Return median, least and greatest."""
    return {name: round(of(values), digits) for name, of in (("median", statistics.median), ("min", min), ("max", max))}


def run(options: argparse.Namespace | None = None) -> dict[str, Any]:
    """Measure.

    Args:
        options: of `main`; None, or a namespace that lacks some, takes the defaults.
    """
    options = argparse.Namespace(**{**vars(_parser().parse_args([])), **({} if options is None else vars(options))})
    return {"data_path": data_path(options), "tickets": tickets(options)}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--packets", type=int, default=60_000)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--sessions", type=int, default=64)
    parser.add_argument("--tags", type=int, default=512)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    options = _parser().parse_args(arguments)
    result = run(options)
    if options.json:
        print(json.dumps(result))
        return 0
    for part, figures in result.items():
        for name, value in figures.items():
            print(f"{part:10} {name:28} {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
