"""A validator at work: gives `Validator` its clock, its record store and its settlement. A shell.

It reads what the store holds, follows what comes, does what the core asks, and looks each slot at the set of validators and at the store's
proofs of equivocation. A validator that was killed reads its own verdicts and batches again and goes on; all that it keeps beside the store
are the offers it has seen, which the store prunes (`offer_shelf.py`). Cancelling `run` stops it; what it published stays, and a batch with
a quorum is settled by another.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from srwan.clock import Clock
from srwan.errors import LedgerError, RemoteProtocolError, SettlementRefused, SettlementUnavailable, StoreUnavailable
from srwan.identity import Identity
from srwan.ledger_client.record import Kind, Record
from srwan.ledger_client.settlement.settlement import Settlement, ValidatorSet
from srwan.ledger_client.settlement.signing import WalletKey
from srwan.ledger_client.store import PAGE_RECORDS_MAX, Query, RecordStore
from srwan.ledger_client.validation.cases import CASES_MAX
from srwan.ledger_client.validation.checks import Tolerance
from srwan.ledger_client.validation.events import (
    BindNode,
    Event,
    GatherEvidence,
    OverturnClaim,
    PublishRecord,
    Request,
    SettleBatch,
)
from srwan.ledger_client.validation.gather import Gatherer
from srwan.ledger_client.validation.offer_shelf import OfferShelf
from srwan.ledger_client.validation.validator import SLOT_S, Validator

__all__ = ["ValidatorService"]

DONE_ALREADY = frozenset({"sequence", "keep"})
"""Words with which the contract refuses a decision that it has carried out before."""
WATCHED = (Kind.OFFER, Kind.CLAIM, Kind.VERDICT, Kind.BATCH, Kind.EVIDENCE)
"""Kinds that are read at the start, in this order: verdicts and batches are about claims."""
REQUESTS_MAX = 2 * CASES_MAX
PAUSE_S = 1.0
"""Between tries while the store does not answer, s."""

logger = logging.getLogger("srwan.ledger_client")


class ValidatorService:
    """One validator on one store and one settlement.

    Args:
        store: where records come from and go to.
        settlement: where claims are settled.
        identity: router key that signs what it publishes.
        key: the validator's wallet.
        clock: wall time for slots, monotonic time for the rest.
        slot_s: length of a slot, s; the same for all validators.
        tolerance: of counters; the same for all validators.
        offers: those seen in former runs; None: none, and none are kept for a later one.
    """

    def __init__(
        self,
        store: RecordStore,
        settlement: Settlement,
        identity: Identity,
        key: WalletKey,
        clock: Clock,
        *,
        slot_s: int = SLOT_S,
        tolerance: Tolerance | None = None,
        offers: OfferShelf | None = None,
    ) -> None:
        self._store = store
        self._settlement = settlement
        self._key = key
        self._clock = clock
        self._offers = OfferShelf() if offers is None else offers
        self._gatherer = Gatherer(store, settlement, self._offers)
        self._callbacks: list[Callable[[Event], None]] = []
        self._wake = trio.Event()
        self._queries = trio.open_memory_channel[GatherEvidence | PublishRecord](REQUESTS_MAX)
        self._commands = trio.open_memory_channel[SettleBatch | BindNode | OverturnClaim](REQUESTS_MAX)
        nobody = ValidatorSet((key.address,), 1, 0)  # replaced before anything is received
        self.core = Validator(identity, key, settlement.domain, nobody, boot=clock.boot_id, slot_s=slot_s, tolerance=tolerance)
        """What this service runs; others only look at it."""

    def on_event(self, callback: Callable[[Event], None]) -> None:
        """Call back with every event. Attach before `run`."""
        self._callbacks.append(callback)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Validate until cancelled. Started when the store was read and the set of validators is known.

        Raises:
            StoreUnavailable, SettlementUnavailable: at the start; later it waits and tries again.
        """
        revision = await self.start()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow_store, revision)
            nursery.start_soon(self._follow_time)
            nursery.start_soon(self._look_around)
            nursery.start_soon(self._answer_queries)
            nursery.start_soon(self._carry_out_commands)
            task_status.started()

    # ---- in

    async def start(self) -> int:
        """Take the set of validators and all that the store holds, kind by kind, and return the revision from which to follow.

        Raises:
            StoreUnavailable, SettlementUnavailable: as `run`.
        """
        self.core.set_validators(await self._settlement.validators())
        revision = await self._store.revision()
        self.core.note_time(self._clock.now(), self._clock.wall_ns())
        for kind in WATCHED:
            after = 0
            while True:
                page = await self._store.range(Query(kind=kind, unexpired_ns=self._clock.wall_ns(), after=after))
                for stored in page:
                    self.take(stored.record)
                    await trio.lowlevel.checkpoint()  # a page takes some tenths of a second
                if len(page) < PAGE_RECORDS_MAX:
                    break
                after = page[-1].revision
        return revision

    def take(self, record: Record) -> None:
        """Take a record that the store holds."""
        if record.kind is Kind.OFFER:
            self._offers.put(record)
        else:
            self.core.receive_record(record)

    async def _follow_store(self, revision: int) -> None:
        while True:
            try:
                found = await self._store.watch(revision)
            except StoreUnavailable as error:
                logger.warning("the record store does not answer: %s", error)
                await trio.sleep(PAUSE_S)
                continue
            for stored in found:
                self.take(stored.record)
                await trio.lowlevel.checkpoint()
            revision = found[-1].revision
            self._wake.set()

    async def _follow_time(self) -> None:
        while True:
            self.core.advance(self._clock.now(), self._clock.wall_ns())
            for request in self.drain():
                self._queue(request)
            self._wake = trio.Event()
            with trio.move_on_after(max(0.0, self.core.get_timer() - self._clock.now())):
                await self._wake.wait()
            await trio.lowlevel.checkpoint()

    def drain(self) -> list[Request]:
        """Hand out the core's events, and return its requests."""
        while (event := self.core.next_event()) is not None:
            for callback in self._callbacks:
                callback(event)
        return self.core.requests_to_send()

    def _queue(self, request: Request) -> None:
        try:
            if isinstance(request, GatherEvidence | PublishRecord):
                self._queries[0].send_nowait(request)
            else:
                self._commands[0].send_nowait(request)
        except trio.WouldBlock:
            logger.warning("too much to do: %s is left out", type(request).__name__)
            if isinstance(request, GatherEvidence):
                self.core.receive_failure(request.session)

    async def look_around(self) -> None:
        """Take note of who the validators are, and who contradicted himself."""
        try:
            self.core.set_validators(await self._settlement.validators())
            for proof in await self._store.equivocations():
                self.core.receive_equivocation(proof)
        except LedgerError as error:
            logger.warning("could not look around: %s", error)

    async def _look_around(self) -> None:
        while True:
            await self.look_around()
            self._wake.set()
            await trio.sleep(self.core.slot_s)

    # ---- out

    async def _answer_queries(self) -> None:
        async for request in self._queries[1]:
            await self.carry_out(request)

    async def _carry_out_commands(self) -> None:
        async for request in self._commands[1]:
            await self.carry_out(request)

    async def carry_out(self, request: Request) -> None:
        """Do one thing the core asked for; whatever fails is told to the core or logged."""
        match request:
            case PublishRecord():
                await self._publish(request.record)
            case GatherEvidence():
                await self._gather(request)
            case SettleBatch():
                await self._settle(request)
            case _:
                await self._decide(request)
        self._wake.set()

    async def _gather(self, request: GatherEvidence) -> None:
        try:
            evidence = await self._gatherer.gather(request.filings)
        except LedgerError as error:
            logger.warning("the evidence for session %s cannot be had now: %s", request.session.hex()[:12], error)
            self.core.receive_failure(request.session)
        else:
            self.core.receive_evidence(request.session, evidence)

    async def _publish(self, record: Record) -> None:
        while True:
            try:
                await self._store.put(record, self._clock.wall_ns())
            except StoreUnavailable as error:
                logger.warning("a %s cannot be published now: %s", record.kind, error)
                await trio.sleep(PAUSE_S)
            except RemoteProtocolError as error:
                logger.warning("the store refused a %s of this validator: %s", record.kind, error)
                return
            else:
                return

    async def _settle(self, request: SettleBatch) -> None:
        """Settle unless all of it is paid already, and tell the core what the settlement shows then."""
        try:
            if not await self._is_paid(request):
                await self._settlement.settle(self._key, request.claims, request.signatures)
            sessions = [claim.ticket.session for claim in request.claims]
            states = {session: await self._settlement.session(session) for session in sessions}
        except SettlementRefused as error:
            if await self._is_paid_now(request):
                return
            self.core.receive_refusal(request.slot, error.reason)
        except SettlementUnavailable as error:
            logger.warning("batch %d is not settled yet: %s", request.slot, error)
            self.core.receive_outage(request.slot)
        else:
            self.core.receive_settled(request.slot, states)

    async def _is_paid(self, request: SettleBatch) -> bool:
        for claim in request.claims:
            state = await self._settlement.session(claim.ticket.session)
            if state is None or state.settled_microtoken < claim.ticket.amount_microtoken:
                return False
        return True

    async def _is_paid_now(self, request: SettleBatch) -> bool:
        """Whether a batch that was refused had just been settled by another validator; if so the core knows it then."""
        try:
            if not await self._is_paid(request):
                return False
            states = {claim.ticket.session: await self._settlement.session(claim.ticket.session) for claim in request.claims}
        except SettlementUnavailable:
            return False
        self.core.receive_settled(request.slot, states)
        return True

    async def _decide(self, request: BindNode | OverturnClaim) -> None:
        """Bind, or take back, unless it is done already."""
        try:
            if isinstance(request, BindNode):
                wanted = request.request
                if await self._settlement.wallet_of(wanted.node) != wanted.wallet:
                    signatures = request.signatures
                    await self._settlement.bind(self._key, wanted.node, wanted.wallet, wanted.sequence, wanted.wallet_signature, signatures)
                return
            state = await self._settlement.session(request.terms.session_id)
            if state is not None and state.settled_microtoken == request.settled_microtoken:
                await self._settlement.overturn(self._key, request.terms, request.keep_microtoken, request.evidence, request.signatures)
        except SettlementRefused as error:
            if error.reason in DONE_ALREADY:  # by another validator that holds the same quorum of signatures
                logger.debug("%s: %s", type(request).__name__, error)
            else:
                logger.warning("%s was not carried out: %s", type(request).__name__, error)
        except LedgerError as error:
            logger.warning("%s was not carried out: %s", type(request).__name__, error)
