"""Takes the reporter's reports to the DITEX: records made, signed and stored in one batch, off the event loop."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from srwan.clock import Clock
from srwan.errors import RemoteProtocolError, StoreUnavailable
from srwan.gossip.report import Report
from srwan.identity import Identity
from srwan.ledger_client.publish import records_of_report
from srwan.ledger_client.record import Record
from srwan.ledger_client.sqlite import SqliteStore
from srwan.ledger_client.store import RecordStore
from srwan.overlay.view import Member, View

__all__ = ["Publisher", "member_name", "open_store"]

log = logging.getLogger("srwan.publisher")

PRUNE_EVERY_REPORTS = 60
"""Expired records are removed after so many reports: every 10 min at the default interval."""


class Publisher:
    """Publishes the reports of one node.

    Args:
        store: where to; None publishes nowhere, for nodes without a store.
        identity: signs the reports.
        view: where the members' certificates are.
        clock: tells the wall time of issue.
    """

    def __init__(self, store: RecordStore | None, identity: Identity, view: View, clock: Clock) -> None:
        self._store = store
        self._identity = identity
        self._view = view
        self._clock = clock
        self._published = 0

    async def publish(self, report: Report) -> bool:
        """Verify, sign and store a report with its rows and certificates.

        Returns:
            Whether it is stored; False without a store, or when the store failed (logged): a standby will report then.
        """
        if self._store is None:
            return False
        wall_ns = self._clock.wall_ns()
        certificates = {node: self._view.certificate(node) for node in self._view.ids}
        make = partial(records_of_report, report, self._identity, wall_ns=wall_ns, certificates=certificates)
        publication = await trio.to_thread.run_sync(make)
        try:
            outcome = await self._store.put_many(publication.records, wall_ns)
            self._published += 1
            if self._published % PRUNE_EVERY_REPORTS == 0:
                await self._store.prune(wall_ns)
        except StoreUnavailable as error:
            log.warning("report %d/%d was not published: %s", report.epoch, report.sequence, error)
            return False
        for refusal in outcome.refused:
            if refusal.error.reason != "stale":  # another reporter was first with a newer row: nothing is lost
                log.warning("the store refused record %d of a report: %s", refusal.index, refusal.error)
        return True


@asynccontextmanager
async def open_store(path: Path | None) -> AsyncIterator[RecordStore | None]:
    """Open the node's record store for the duration of the block; None for a node without one.

    Raises:
        StoreUnavailable: locked, damaged, or not permitted; says what to do.
    """
    if path is None:
        yield None
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    store = await SqliteStore.open(path)
    try:
        yield store
    finally:
        with trio.CancelScope(shield=True):
            await store.aclose()


def member_name(record: Record) -> str:
    """Return the name in the certificate of a verified node record, whether or not it has expired; the start of its id if it has none."""
    try:
        name = Member.open(record.envelope, wall_ns=record.expires_ns - 1).name
    except RemoteProtocolError:
        name = ""
    return name or str(record.subject)[:12]
