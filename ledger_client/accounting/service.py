"""The shell of accounting: consumer's, relay's and egress's side of one node over the control channel, the journal and a settlement engine.

Decides nothing. Every look it reads the data plane's counters and lets the three cores see them; what they want written is in the journal
before anything that rests on it leaves: answers, messages, commands to the settlement engine. A journal that cannot be written stops all
three until it can be, and no traffic.

Tasks of `run`: looks, messages, settlement, publication. A settlement engine that cannot be reached delays opening and checking of sessions
and nothing else.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

import attrs
import trio

from srwan.clock import Clock
from srwan.errors import InsufficientEscrow, LedgerError, OverlayError, RemoteProtocolError, SettlementRefused, StoreUnavailable
from srwan.ledger_client.accounting.counters import NEIGHBOURS_MAX, NeighbourCount, RouterCounters, SessionCount
from srwan.ledger_client.accounting.egress_account import EgressAccount
from srwan.ledger_client.accounting.events import AccountingEvent
from srwan.ledger_client.accounting.journal import Journal
from srwan.ledger_client.accounting.messages import RECEIPT_PROTOCOL, SESSION_PROTOCOL, TICKET_PROTOCOL, Answer, SessionNotice
from srwan.ledger_client.accounting.meter import Count, TagKey
from srwan.ledger_client.accounting.outbox import Message, Outbox
from srwan.ledger_client.accounting.payer import CloseSession, OpenSession, PathQuote, Payer
from srwan.ledger_client.accounting.plan import PathPlan
from srwan.ledger_client.accounting.relay_account import Limit, RelayAccount
from srwan.ledger_client.record import Version
from srwan.ledger_client.settlement.settlement import Settlement
from srwan.ledger_client.settlement.signing import WalletKey
from srwan.ledger_client.settlement.terms import PathTerms
from srwan.ledger_client.statement import Statement
from srwan.ledger_client.validation.claim import ClaimFiling
from srwan.overlay.transport import ControlAddress, ControlChannel
from srwan.types import NodeId

__all__ = ["AccountingService", "TrafficPlane", "TrafficReading"]

log = logging.getLogger("srwan.accounting")

LOOK_S = 0.25
"""Between two readings of the counters, s: a receipt is late by up to so much."""
CHAIN_S = 10.0
"""Between two readings of the settlement engine's time and of the escrow, s."""
PUBLISH_S = 30.0
"""Between two publications of counters and receipts, s."""
KEPT_S = 14 * 86_400
"""What is published about a session counts so long after it expires, s: claims, disputes."""
REQUESTS_MAX = 16
"""Messages under way at once."""
REQUEST_TIMEOUT_S = 10.0
_PAYER, _RELAY, _EGRESS = b"p", b"r", b"e"


@attrs.frozen(slots=True)
class TrafficReading:
    """Counters of a data plane."""

    sent: Mapping[TagKey, Count]
    """By egress and path tag; octets of bodies."""
    received: Mapping[TagKey, Count]
    """By ingress and path tag; octets of bodies."""
    relayed: Mapping[TagKey, Count]
    """By neighbour and path tag; octets of whole datagrams."""
    octets_in: int
    """Of all datagrams since boot."""
    octets_out: int
    """Of all datagrams since boot."""
    neighbours: Mapping[NodeId, tuple[int, int]] = attrs.field(factory=dict[NodeId, tuple[int, int]])
    """Octets of datagrams (in, out) by neighbour, since boot."""


class TrafficPlane(Protocol):
    """What accounting wants of a data plane."""

    def read(self) -> TrafficReading:
        """Return a reading of the counters."""
        ...

    def limit(self, neighbour: NodeId, limit: Limit | None) -> None:
        """Carry these packets of a neighbour at the free rate; None: all of them as they come."""
        ...


class AccountingService:
    """See the module's header. Make it, call `restore`, then `run`.

    Args:
        node_id: this router.
        wallet: pays for sessions and their opening; also signs transactions.
        settlement: the engine.
        control: the node's control channel.
        address_of: where the control channel of a router is; None if it is not known.
        clock: the node's clock.
        journal: just opened; closed by whoever opened it.
        plane: the data plane.
        payer: the consumer's side.
        relay: the relay's side; None for a node that is no relay.
        egress: the egress's side.
        outbox: shared by them.
        publish: signs and stores statements; returns whether they are stored.
        tell: gets the events.
        boot: of this run.
        problem_with: says in a word why validators would refuse a claim on a session although it is open, or an empty string; None: they
            would not.
    """

    def __init__(
        self,
        node_id: NodeId,
        wallet: WalletKey,
        settlement: Settlement,
        control: ControlChannel,
        *,
        address_of: Callable[[NodeId], ControlAddress | None],
        clock: Clock,
        journal: Journal,
        plane: TrafficPlane,
        payer: Payer,
        relay: RelayAccount | None,
        egress: EgressAccount,
        outbox: Outbox,
        publish: Callable[[Sequence[Statement]], Awaitable[bool]],
        tell: Callable[[AccountingEvent], None],
        boot: int,
        problem_with: Callable[[PathTerms, PathPlan], Awaitable[str]] | None = None,
    ) -> None:
        self._node_id = node_id
        self._wallet = wallet
        self._settlement = settlement
        self._control = control
        self._address_of = address_of
        self._clock = clock
        self._journal = journal
        self._plane = plane
        self.payer = payer
        self.relay = relay
        self.egress = egress
        self._outbox = outbox
        self._publish = publish
        self._tell = tell
        self._boot = boot
        self._problem_with = problem_with
        self._sequence = 0
        self._chain_s = 0
        self._chain_at = 0.0
        self._unwritten: list[bytes] = []
        self._disk = trio.Lock()
        self._is_compacting = False
        self._mail = trio.Event()
        self._work = trio.Event()
        self._commands: deque[OpenSession | CloseSession] = deque()
        self._limited: dict[NodeId, Limit] = {}
        self._published: dict[bytes, tuple[SessionCount, ...]] = {}

    # --- life -------------------------------------------------------------------------------------------------------

    async def restore(self) -> None:
        """Ask the settlement engine for its time and give the cores what the journal holds.

        Raises:
            SettlementUnavailable: the engine cannot be reached. DecodeError: the journal holds what is not ours.
        """
        await self._read_chain()
        now = self._clock.now()
        records = self._journal.records
        self.payer.start_sequence(self._clock.wall_ns())
        self.payer.restore([record[1:] for record in records if record[:1] == _PAYER], now)
        self.egress.restore([record[1:] for record in records if record[:1] == _EGRESS], now)
        if self.relay is not None:
            self.relay.restore([record[1:] for record in records if record[:1] == _RELAY], now)
        self._journal.forget_records()
        self._control.serve(SESSION_PROTOCOL, self._serve_session)
        self._control.serve(RECEIPT_PROTOCOL, self._serve_receipt)
        if self.relay is not None:
            self._control.serve(TICKET_PROTOCOL, self._serve_ticket)

    async def run(self) -> None:
        """Keep accounts until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run_looks)
            nursery.start_soon(self._run_messages)
            nursery.start_soon(self._run_settlement)
            nursery.start_soon(self._run_publication)

    def use_path(self, quote: PathQuote, path_tag: int) -> bytes | None:
        """Have the traffic on a path tag paid; see `Payer.use_path`."""
        session = self.payer.use_path(quote, path_tag, self._clock.now(), self.chain_s())
        self._collect()
        return session

    def release_path(self, egress: NodeId, path_tag: int) -> None:
        """Say that a path tag is not used any more; see `Payer.release_path`."""
        self.payer.release_path(egress, path_tag, self._clock.now())

    def path_measured(self, consumer: NodeId, path_tag: int, packets: int, raw_us: int) -> None:
        """Say what latency packets into this node had; see `EgressAccount.path_measured`."""
        self.egress.path_measured(consumer, path_tag, packets, raw_us)

    def chain_s(self) -> int:
        """The settlement engine's time as it must be now, s since 1970."""
        return self._chain_s + int(self._clock.now() - self._chain_at)

    # --- looks ------------------------------------------------------------------------------------------------------

    async def _run_looks(self) -> None:
        while True:
            self.look()
            if self._journal.is_worth_compacting and not self._unwritten:
                await self._compact()
            await trio.sleep(LOOK_S)

    def look(self) -> None:
        """Read the counters and do what follows."""
        now, wall_ns, chain_s = self._clock.now(), self._clock.wall_ns(), self.chain_s()
        reading = self._plane.read()
        self.payer.traffic(reading.sent)
        self.payer.handle_timer(now, chain_s)
        self.egress.traffic(reading.received)
        self.egress.handle_timer(now, wall_ns, chain_s)
        if self.relay is not None:
            self.relay.traffic(reading.relayed, now)
            self.relay.handle_timer(now, wall_ns, chain_s)
            self._apply_limits(self.relay.limits())
        self._collect()

    def _apply_limits(self, limits: Mapping[NodeId, Limit]) -> None:
        for node in [node for node in self._limited if node not in limits]:
            self._plane.limit(node, None)
        for node, limit in limits.items():
            self._plane.limit(node, limit)  # again and again: the plane may have forgotten it
        self._limited = dict(limits)

    def _collect(self) -> None:
        """Take what the cores left behind after a call: first what is to be written."""
        self._unwritten += [_PAYER + entry for entry in self.payer.take_entries()]
        self._unwritten += [_EGRESS + entry for entry in self.egress.take_entries()]
        if self.relay is not None:
            self._unwritten += [_RELAY + entry for entry in self.relay.take_entries()]
        self._write()
        while (command := self.payer.next_command()) is not None:
            self._commands.append(command)
        for core in (self.payer, self.relay):
            while core is not None and (event := core.next_event()) is not None:
                self._tell(event)
        if self._commands:
            self._work.set()
        self._mail.set()

    def _write(self) -> None:
        if not self._unwritten or self._is_compacting:
            return
        try:
            self._journal.append(*self._unwritten)
        except StoreUnavailable as error:
            log.error("accounting waits for its journal: %s", error)  # noqa: TRY400 - a full disk, no fault of the program
            return
        self._unwritten.clear()

    async def _require_written(self) -> None:
        """Return when all that was wanted is on the disk.

        Raises:
            StoreUnavailable: it cannot be written now.
        """
        async with self._disk:
            self._write()
            if self._unwritten:
                raise StoreUnavailable("journal", "cannot be written", "free some space")
            await trio.to_thread.run_sync(self._journal.sync)

    async def _compact(self) -> None:
        """Write the journal anew, in a thread; what is to be written meanwhile waits, and so does whoever wants it written."""
        async with self._disk:
            entries = [_PAYER + entry for entry in self.payer.snapshot()] + [_EGRESS + entry for entry in self.egress.snapshot()]
            if self.relay is not None:
                entries += [_RELAY + entry for entry in self.relay.snapshot()]
            self._is_compacting = True
            try:
                await trio.to_thread.run_sync(self._journal.compact, entries)
            except StoreUnavailable as error:
                log.warning("the journal of accounting was not compacted: %s", error)
            finally:
                self._is_compacting = False

    # --- messages ---------------------------------------------------------------------------------------------------

    async def _serve_session(self, caller: NodeId, body: bytes) -> bytes:
        chain_s = self.chain_s()
        if self._address_of(caller) is None:  # the table of sessions is for members: who is none carries nothing over us
            self.egress.drops["session-outsider"] += 1
            raise RemoteProtocolError(f"{caller!r} is no member of the group", reason="session-outsider")
        try:
            is_egress = SessionNotice.decode(body).plan.egress == self._node_id
        except RemoteProtocolError as error:
            self.egress.drops[error.reason] += 1
            raise
        if is_egress or self.relay is None:
            answer = self.egress.receive_session(caller, body, chain_s)
        else:
            answer = self.relay.receive_session(caller, body, self._clock.now(), self._clock.wall_ns(), chain_s)
        self._collect()
        self._work.set()
        return await self._answer(answer)

    async def _serve_receipt(self, caller: NodeId, body: bytes) -> bytes:
        self.payer.traffic(self._plane.read().sent)
        answer = self.payer.receive_receipt(caller, body, self._clock.now())
        self._collect()
        return await self._answer(answer)

    async def _serve_ticket(self, caller: NodeId, body: bytes) -> bytes:
        assert self.relay is not None
        answer = self.relay.receive_ticket(caller, body, self._clock.now())
        self._collect()
        return await self._answer(answer)

    async def _answer(self, answer: Answer) -> bytes:
        await self._require_written()
        return answer.encode()

    async def _run_messages(self) -> None:
        limiter = trio.CapacityLimiter(REQUESTS_MAX)
        async with trio.open_nursery() as nursery:
            while True:
                self._mail = trio.Event()
                free = int(limiter.available_tokens)
                if free and await self._is_written():
                    for message in self._outbox.take_due(self._clock.now(), free):
                        nursery.start_soon(self._send, message, limiter)
                timer = self._outbox.get_timer()
                pause_s = LOOK_S if timer is None else min(LOOK_S, max(0.01, timer - self._clock.now()))
                with trio.move_on_after(pause_s):
                    await self._mail.wait()

    async def _is_written(self) -> bool:
        try:
            await self._require_written()
        except StoreUnavailable:
            return False
        return True

    async def _send(self, message: Message, limiter: trio.CapacityLimiter) -> None:
        async with limiter:
            answer = await self._request(message)
        now = self._clock.now()
        is_ticket_untaken = answer is not None and message.protocol == TICKET_PROTOCOL and answer.word in ("pending", "session")
        if answer is None or is_ticket_untaken:
            self._outbox.failed(message, now)  # who never knows the session gets its ticket with growing pauses, not at once again
        else:
            self._outbox.succeeded(message, now)
        if answer is None:
            return
        self.payer.answered(message, answer, now)
        try:
            self.egress.answered(message, answer)
        except RemoteProtocolError as error:
            self.egress.drops[error.reason] += 1
        self._collect()

    async def _request(self, message: Message) -> Answer | None:
        address = self._address_of(message.peer)
        if address is None:
            return None
        try:
            return Answer.decode(await self._control.request(address, message.protocol, message.body, timeout_s=REQUEST_TIMEOUT_S))
        except (OverlayError, RemoteProtocolError) as error:
            log.debug("%s to %r: %s", message.protocol, message.peer, error)
            return None

    # --- settlement -------------------------------------------------------------------------------------------------

    async def _read_chain(self) -> None:
        self._chain_s, self._chain_at = await self._settlement.now_s(), self._clock.now()
        account = await self._settlement.account(self._wallet.address)
        self.payer.set_escrow(account.escrow_microtoken)

    async def _run_settlement(self) -> None:
        failures = 0
        while True:
            self._work = trio.Event()
            try:
                if self._clock.now() - self._chain_at >= CHAIN_S:
                    await self._read_chain()
                await self._look_up()
                await self._command()
                failures = 0
            except LedgerError as error:
                if not failures:
                    log.warning("settlement waits: %s", error)
                failures += 1
                await trio.sleep(min(CHAIN_S, LOOK_S * 2.0 ** min(failures, 10)))
            with trio.move_on_after(1.0):
                await self._work.wait()

    async def _look_up(self) -> None:
        if self.relay is None:
            return
        for session_id in self.relay.take_lookups(self._clock.now()):
            state = await self._settlement.session(session_id)
            notice = self.relay.notice_of(session_id)
            if state is not None and notice is not None and self._problem_with is not None:
                problem = await self._problem_with(notice.terms, notice.plan)
                if problem:
                    log.info("session %s is not taken as paid: %s", session_id.hex()[:12], problem)
                    state = None
            self.relay.session_state(session_id, state, self._clock.now())
            self._collect()

    async def _command(self) -> None:
        while self._commands:
            await self._require_written()
            command = self._commands[0]
            if isinstance(command, OpenSession):
                await self._open(command)
            else:
                await self._close(command)
            self._commands.popleft()
            self._collect()

    async def _open(self, command: OpenSession) -> None:
        session_id = command.terms.session_id
        try:
            if await self._settlement.session(session_id) is None:
                await self._settlement.open_session(self._wallet, command.terms)
        except (SettlementRefused, InsufficientEscrow) as error:
            reason = error.reason if isinstance(error, SettlementRefused) else "escrow"
            self.payer.open_refused(session_id, reason, self._clock.now())
            return
        self.payer.opened(session_id, self._clock.now())

    async def _close(self, command: CloseSession) -> None:
        session_id = command.terms.session_id
        if await self._settlement.session(session_id) is not None:
            try:
                await self._settlement.close_session(self._wallet, command.terms)
            except SettlementRefused as error:
                log.debug("session %s is not closed yet: %s", session_id.hex()[:12], error.reason)
                return
        self.payer.closed(session_id, self._clock.now())

    # --- publication ------------------------------------------------------------------------------------------------

    async def _run_publication(self) -> None:
        publish_at = self._clock.now() + PUBLISH_S
        while True:
            await trio.sleep(LOOK_S)
            is_due = self._clock.now() >= publish_at
            if is_due:
                publish_at = self._clock.now() + PUBLISH_S
            await self._publish_news(is_due=is_due)

    async def flush(self) -> None:
        """Publish counters, receipts and claims now rather than when they are due."""
        self.look()
        if self.relay is not None:
            self.relay.claim_all()
        await self._publish_news(is_due=True)

    async def _publish_news(self, *, is_due: bool) -> None:
        """Publish claims at once, with the counters of their sessions; all else when it is due."""
        filings: list[ClaimFiling] = []
        while self.relay is not None and (filing := self.relay.next_claim()) is not None:
            filings.append(filing)
        if not filings and not is_due:
            return
        counts = self._changed_counts(None if is_due else {filing.session for filing in filings})
        statements = [self._counters_statement(session_id, of_session) for session_id, of_session in counts.items()]
        statements += [self._claim_statement(filing) for filing in filings]
        if is_due:
            for receipt, expires_s in self.egress.take_accepted():
                statements.append(receipt.statement(**self._lifetime(expires_s)))
        if not statements or not await self._publish(statements):
            return
        self._published.update(counts)
        for filing in filings:
            assert self.relay is not None
            self.relay.claim_filed(filing)
        self._collect()

    def _changed_counts(self, wanted: set[bytes] | None) -> dict[bytes, tuple[SessionCount, ...]]:
        """Return the counts by session that changed since they were published, of all sessions or the wanted ones."""
        by_session: dict[bytes, tuple[SessionCount, ...]] = {}
        for count in (*self.payer.counts(), *(self.relay.counts() if self.relay is not None else ()), *self.egress.counts()):
            if wanted is None or count.session in wanted:
                by_session[count.session] = (*by_session.get(count.session, ()), count)
        self._published = {session: counts for session, counts in self._published.items() if wanted is not None or session in by_session}
        return {session: counts for session, counts in by_session.items() if self._published.get(session) != counts}

    def _counters_statement(self, session_id: bytes, counts: tuple[SessionCount, ...]) -> Statement:
        reading = self._plane.read()
        self._sequence += 1
        busiest = sorted(reading.neighbours.items(), key=lambda item: (-sum(item[1]), item[0]))[:NEIGHBOURS_MAX]
        neighbours = tuple(NeighbourCount(node, *octets) for node, octets in sorted(busiest))
        counters = RouterCounters(self._boot, self._sequence, reading.octets_in, reading.octets_out, neighbours, tuple(sorted(counts)))
        return counters.statement(self._node_id, session_id, **self._lifetime(self.chain_s()))

    def _claim_statement(self, filing: ClaimFiling) -> Statement:
        self._sequence += 1
        version = Version(self._boot, self._sequence)
        return filing.statement(self._node_id, version, **self._lifetime(filing.claim.terms.expires_s))

    def _lifetime(self, expires_s: int) -> dict[str, int]:
        wall_ns = self._clock.wall_ns()
        left_s = max(0, expires_s - self.chain_s()) + KEPT_S
        return {"issued_ns": wall_ns, "expires_ns": wall_ns + left_s * 10**9}
