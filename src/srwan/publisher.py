"""Takes the reporter's reports to the DITEX: records made, signed and stored in one batch, off the event loop."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import trio

from srwan.clock import Clock
from srwan.errors import RemoteProtocolError, StoreUnavailable
from srwan.gossip.report import Report
from srwan.identity import Identity
from srwan.ledger_client.exchange.open_store import open_store_at
from srwan.ledger_client.publish import records_of_report
from srwan.ledger_client.record import Record
from srwan.ledger_client.store import RecordStore
from srwan.overlay.view import Member, View

__all__ = ["Publisher", "member_name", "open_store"]

log = logging.getLogger("srwan.publisher")

PRUNE_EVERY_REPORTS = 60
"""Expired records are removed after so many reports: every 10 min at the default interval."""
PRUNE_LEASE_S = 300
"""A node that pruned keeps the right to for so long, s: half the time to its next turn, so that another may then take over."""


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
        except StoreUnavailable as error:
            log.warning("report %d/%d was not published: %s", report.epoch, report.sequence, error)
            return False
        self._published += 1
        if self._published % PRUNE_EVERY_REPORTS == 0:
            await self._prune(self._store, wall_ns)
        for refusal in outcome.refused:
            if refusal.error.reason != "stale":  # another reporter was first with a newer row: nothing is lost
                log.warning("the store refused record %d of a report: %s", refusal.index, refusal.error)
        return True

    async def _prune(self, store: RecordStore, wall_ns: int) -> None:
        """Remove what expired and superfluous history; of several nodes on one store only the one that gets the lease does."""
        try:
            if await store.lease("prune", self._identity.node_id, PRUNE_LEASE_S, wall_ns):
                await store.prune(wall_ns)
        except StoreUnavailable as error:
            log.warning("the record store was not pruned: %s", error)


@asynccontextmanager
async def open_store(where: str | None) -> AsyncIterator[RecordStore | None]:
    """Open the node's record store for the duration of the block; None for a node without one.

    Args:
        where: as for `open_store_at`: a path, or "etcd:" and URLs.

    Raises:
        StoreUnavailable: locked, damaged, out of reach, or not permitted; says what to do. ConfigError: malformed.
    """
    if where is None:
        yield None
        return
    async with open_store_at(where) as store:
        yield store


def member_name(record: Record) -> str:
    """Return the name in the certificate of a verified node record, whether or not it has expired; the start of its id if it has none."""
    try:
        name = Member.open(record.envelope, wall_ns=record.expires_ns - 1).name
    except RemoteProtocolError:
        name = ""
    return name or str(record.subject)[:12]
