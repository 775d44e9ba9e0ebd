"""Looks after what the group's reporters publish: files complaints of omissions, and evidence of contradictions. A shell of `oversight.py`.

A look costs the store a handful of reads by key, however much it holds, and comes every 10 to 15 s: many routers of one machine share a
file, and nothing here is urgent. (A watch would hand over every row of every group.) Signatures are checked in a worker thread. What is
published goes through a lease, so that of several routers on one store only one looks for evidence and files it at a time.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable
from functools import partial

import trio

from srwan.clock import Clock
from srwan.errors import RemoteProtocolError, StoreUnavailable
from srwan.gossip.core import SelfReborn
from srwan.gossip.events import ClockRealigned
from srwan.gossip.service import GossipService
from srwan.identity import Identity
from srwan.ledger_client.complaint import complaint_of
from srwan.ledger_client.evidence import evidence_of, is_equivocation, proof_in
from srwan.ledger_client.oversight import ComplaintFiled, EvidenceFiled, Omitted, Oversight, OversightEvent, version_of
from srwan.ledger_client.publish import REPORT_LIFETIME_S
from srwan.ledger_client.record import Key, Kind, Record, report_of, verify
from srwan.ledger_client.report import NS_PER_S
from srwan.ledger_client.statement import Statement
from srwan.ledger_client.store import PAGE_RECORDS_MAX, EquivocationProof, Query, RecordStore
from srwan.overlay.join import GroupFounded, GroupJoined
from srwan.overlay.service import OverlayService

__all__ = ["Overseer"]

log = logging.getLogger("srwan.overseer")

LOOK_S = (10.0, 15.0)
"""Between two looks at the reporters' newest reports, s, at random: reports come every 10 s, and an omission must last to count."""
PROOFS_EVERY_LOOKS = 6
"""The contradictions held are looked through every so many looks: about once in 75 s."""
EVIDENCE_LEASE_S = 60
EVIDENCE_PAGES_MAX = 8
"""Pages of a group's evidence that are read before more is published; a group with more than that has enough."""


class Overseer:
    """Looks after the reporters of one node's group, for the node.

    Args:
        store: what is looked at and filed to.
        identity: signs complaints and evidence.
        clock: the node's.
        overlay: says when the node joined.
        gossip: says who reports, and holds the rows.
        period_s: between two pulses.
        rng: for jitter.
    """

    def __init__(
        self,
        store: RecordStore,
        identity: Identity,
        clock: Clock,
        overlay: OverlayService,
        gossip: GossipService,
        *,
        period_s: float,
        rng: random.Random,
    ) -> None:
        self._store = store
        self._identity = identity
        self._clock = clock
        self._gossip = gossip
        self._group = overlay.group
        self._rng = rng
        self._core = Oversight(identity.node_id, overlay.group, period_s=period_s, rng=rng)
        self._is_anew = True
        self._looks = 0
        self._event_callbacks: list[Callable[[object], None]] = []
        overlay.on_event(self._on_event)
        gossip.on_event(self._on_event)

    def on_event(self, callback: Callable[[object], None]) -> None:
        """Have `callback` called with every event: complaints and evidence filed."""
        self._event_callbacks.append(callback)

    async def run(self) -> None:
        """Look every now and then until cancelled."""
        while True:
            await trio.sleep(self._rng.uniform(*LOOK_S))
            try:
                await self.look()
            except StoreUnavailable as error:
                log.warning("the reporters were not looked after: %s", error)

    async def look(self) -> None:
        """Look once.

        Raises:
            StoreUnavailable: the store failed.
        """
        group_ns = self._gossip.read_stamp_ns()
        if self._is_anew or self._gossip.core.is_buried:
            self._is_anew = False
            self._core.start_anew(group_ns)
        rows = self._gossip.rows
        own = rows.get(self._identity.node_id)
        if own is not None:
            self._core.own_row_made(own)
        for case in self._core.complaints_due(rows, group_ns, self._clock.now()):
            await self._complain(case)
        await self._read_reports()
        self._looks += 1
        if self._looks % PROOFS_EVERY_LOOKS == 0:
            await self._read_proofs()

    def _on_event(self, event: object) -> None:
        if isinstance(event, (GroupJoined, GroupFounded, SelfReborn, ClockRealigned)):
            self._is_anew = True

    def _tell(self, event: OversightEvent) -> None:
        for callback in self._event_callbacks:
            callback(event)

    # complaints

    async def _read_reports(self) -> None:
        reporter = self._gossip.reporter
        if reporter is None:
            return
        for stored in await self._store.get_many(self._core.keys_to_read((reporter, *self._gossip.standbys))):
            if stored is not None and self._core.is_news(stored):
                await self._read_report(stored.record)

    async def _read_report(self, report: Record) -> None:
        if not await trio.to_thread.run_sync(_is_good, report):
            return
        told = report_of(report)
        reference = self._core.admission_of(told)
        if reference is None:
            return
        stored = await self._store.get(Key(Kind.ROW, told.group, told.reporter), version_of(reference))
        is_held = stored is not None and await trio.to_thread.run_sync(_is_good, stored.record)
        self._core.omission_seen(report, told, stored.record if stored is not None and is_held else None)

    async def _complain(self, case: Omitted) -> None:
        wall_ns = self._clock.wall_ns()
        expires_ns = wall_ns + REPORT_LIFETIME_S * NS_PER_S
        row = Record.of_row(self._identity.node_id, case.own.content, group=self._group, expires_ns=expires_ns, epoch=case.epoch)
        try:
            complaint = await trio.to_thread.run_sync(partial(complaint_of, case.report, row, wall_ns=wall_ns))
        except ValueError as error:
            log.warning("no complaint of report %d: %s", case.epoch, error)
            return
        if await self._file(complaint):
            reporter = case.report.subject
            log.warning("reporter %s left this node's row out of epoch %d though it had it: complaint filed", reporter, case.epoch)
            self._tell(ComplaintFiled(reporter, case.epoch))

    # evidence

    async def _read_proofs(self) -> None:
        """Publish what is due. Whoever holds the lease looks and files; the others look again later, and find it told."""
        due = self._core.proofs_due(await self._store.equivocations(), self._clock.now())
        if not due or not await self._store.lease("evidence", self._identity.node_id, EVIDENCE_LEASE_S, self._clock.wall_ns()):
            return
        try:
            told = await self._told_in(sorted({proof.key.group for proof in due}))
            for proof in due:
                await self._publish(proof, is_told=proof.key in told)
        finally:
            with trio.move_on_after(1) as scope:
                scope.shield = True
                await self._store.release("evidence", self._identity.node_id)

    async def _told_in(self, groups: Iterable[bytes]) -> set[Key]:
        """Return what the evidence filed under these groups proves."""
        told: set[Key] = set()
        for group in groups:
            after = 0
            for _ in range(EVIDENCE_PAGES_MAX):
                page = await self._store.range(Query(kind=Kind.EVIDENCE, group=group, after=after))
                told |= await trio.to_thread.run_sync(_keys_told, [stored.record for stored in page])
                if len(page) < PAGE_RECORDS_MAX:
                    break
                after = page[-1].revision
        return told

    async def _publish(self, proof: EquivocationProof, *, is_told: bool) -> None:
        key, is_filed = proof.key, False
        if not is_told:
            make = partial(evidence_of, proof, self._identity.node_id, wall_ns=self._clock.wall_ns())
            try:
                is_filed = await self._file(await trio.to_thread.run_sync(make))
            except ValueError as error:  # too long to be quoted
                log.info("a contradiction of %s is not published: %s", key.subject, error)
        self._core.proof_settled(key, self._clock.now(), is_filed=is_filed)
        if is_filed:
            log.warning("%s signed two contradicting %s records: evidence filed", key.subject, key.kind.value)
            self._tell(EvidenceFiled(key.subject, key.kind))

    async def _file(self, statement: Statement) -> bool:
        try:
            await self._store.put(statement.record(self._identity), self._clock.wall_ns())
        except RemoteProtocolError as error:
            log.warning("the store refused this node's %s: %s", statement.kind.value, error)
            return False
        return True


def _is_good(record: Record) -> bool:
    try:
        verify(record)
    except RemoteProtocolError:
        return False
    return True


def _keys_told(records: Iterable[Record]) -> set[Key]:
    """Return the keys of contradictions that these records prove."""
    told: set[Key] = set()
    for record in records:
        try:
            if is_equivocation(record):
                verify(record)
                told.add(proof_in(record).key)
        except RemoteProtocolError:
            continue
    return told
