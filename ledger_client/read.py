"""Reading a DITEX that one does not trust: every signature is verified again, and only what passes is shown.

Theory of operation. All newest records are read in pages and verified; what fails is counted by reason. Per group the newest report
(epoch, then sequence, then the one with more rows) is taken. Each row it names is looked up in just the version it names and held
against the digest the reporter signed; where the store has only a newer row of that member, that one is used and marked as not attested,
since its own signature carries it.

When a row was filed to expire, and where, is the word of whoever filed it, and a row could be filed again and again. So a row counts as
long as the report that names it, or names an older one of its member, and no longer: that expiry is signed. Its place is taken from the
member's certificate. Rows that no report speaks of are not shown at all.

Entitlement: the reporter's rank among its own roster in its epoch is computed again; only the first RANKS may report, and a report of
another gives way to theirs. A reporter that shortens its roster until it ranks first leaves out members whose certificates are held: they
are told (`unlisted`), and complain (`omissions`). An epoch in the future is refused, or it would be the newest for ever. Pass `is_trusted`
for a rule of one's own.

Reads are several transactions: while the node writes and prunes, a row may be gone between two of them. It is then missing, never wrong.

Shell: runs in any process while the node writes. Verification runs in a worker thread.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import attrs
import numpy as np
import numpy.typing as npt
import trio

from srwan.errors import RemoteProtocolError
from srwan.gossip.reporter import RANKS, epoch_of, rank
from srwan.gossip.row import Row, decode_owl_ms, entry_id, open_row
from srwan.ledger_client.complaint import Omission, omission_of, report_digest
from srwan.ledger_client.record import NOWHERE, Key, Kind, Record, Version, report_of, verify
from srwan.ledger_client.report import GroupReport, row_digest
from srwan.ledger_client.sqlite import SqliteStore
from srwan.ledger_client.store import PAGE_RECORDS_MAX, Query, RecordStore, StoredRecord
from srwan.types import GeoAsn, NodeId

__all__ = ["DitexContents", "GroupContents", "PublishedMatrix", "PublishedRow", "read_file", "read_matrix"]

EPOCHS_AHEAD_MAX = 10
"""How many epochs a report may be ahead of the reader's wall clock: ten minutes. Group time is the median of its members' clocks."""


@attrs.frozen(slots=True)
class PublishedRow:
    """A verified row."""

    record: Record
    is_attested: bool
    """The report names just these bytes; otherwise the row is newer than the report."""
    expires_ns: int = 0
    """Wall time, ns since 1970, from which it no longer counts: that of the report, or earlier if it was filed so."""
    place: GeoAsn = NOWHERE
    """Country and ASN by the member's certificate; nowhere without one."""


@attrs.frozen(slots=True)
class PublishedMatrix:
    """Raw one-way latencies of a group as published."""

    roster: tuple[NodeId, ...]
    """The order of both axes."""
    owl_ms: npt.NDArray[np.float64]
    """Shape (n, n), ms, clock offsets included; [i, j] is i -> j; NaN where unknown."""
    unreadable: tuple[NodeId, ...]
    """Members whose row is authentic but in the slot order of another roster; their columns are NaN."""


@attrs.frozen(slots=True)
class GroupContents:
    """The newest verified report of a group and what it speaks of."""

    report: GroupReport
    revision: int
    """Of the report in the store."""
    is_expired: bool
    """The report's expiry lies before the time of reading."""
    rows: Mapping[NodeId, PublishedRow]
    """Verified rows of members in the roster."""
    missing: tuple[NodeId, ...]
    """Members whose row the report names but the store does not hold in a form that verifies."""
    nodes: Mapping[NodeId, Record]
    """Verified certificates of members in the roster."""
    reporter_rank: int = 0
    """Place of the reporter among its roster in its epoch: 0 is the reporter, up to RANKS - 1 its standbys, others may not report."""
    unlisted: tuple[NodeId, ...] = ()
    """Holders of certificates of the group, valid when the report was issued, whom its roster does not name; rising."""
    omissions: tuple[Omission, ...] = ()
    """Proven complaints about this report, by complainant. A newer report mostly comes before one is filed: see `complaints`."""
    complaints: tuple[Omission, ...] = ()
    """Proven complaints about any report of the group that have not expired, the latest epoch first."""

    @property
    def left_out(self) -> tuple[NodeId, ...]:
        """Members in the roster without a bit in the report's presence bitmap, in roster order: the reporter held no row, or says so."""
        present = {reference.node_id for reference in self.report.rows}
        return tuple(node for node in self.report.roster if node not in present)

    @property
    def is_entitled(self) -> bool:
        """Say whether the reporter was an elected candidate, by the roster it signed."""
        return self.reporter_rank < RANKS

    def matrix(self) -> PublishedMatrix:
        """Return the latencies of the group. Cost: one decoding per row, O(n^2)."""
        slots = _Slots(self.report)
        owl_ms = np.full((len(slots.roster), len(slots.roster)), np.nan)
        unreadable: list[NodeId] = []
        for node, published in self.rows.items():
            row = open_row(node, published.record.row_content).row
            senders = slots.of(row)
            if senders is None:
                unreadable.append(node)
                continue
            is_known = senders >= 0
            owl_ms[senders[is_known], slots.place[node]] = decode_owl_ms(row.owl, row.base_us)[is_known]
        np.fill_diagonal(owl_ms, np.nan)
        return PublishedMatrix(slots.roster, owl_ms, tuple(unreadable))


class _Slots:
    """Where in a report's roster the entries of a row belong."""

    def __init__(self, report: GroupReport) -> None:
        self.roster = report.roster
        self.place = {node: index for index, node in enumerate(report.roster)}
        self._digest = report.roster_digest
        self._rising = np.array([self.place[node] for node in sorted(report.roster)])
        ids = Counter(map(entry_id, report.roster))
        self._by_id = {entry_id(node): index for node, index in self.place.items() if ids[entry_id(node)] == 1}

    def of(self, row: Row) -> npt.NDArray[np.int64] | None:
        """Return the index of each entry's member, -1 if it is not in the roster; None if the row speaks of another roster."""
        ids = row.ids
        if ids is not None:
            return np.array([self._by_id.get(int(each), -1) for each in ids], dtype=np.int64)
        if row.roster_digest != self._digest or row.count != len(self.roster):
            return None
        return self._rising


@attrs.frozen(slots=True)
class DitexContents:
    """What a store holds, verified."""

    revision: int
    """Of the store when reading began."""
    records: int
    """Records examined: the newest of every key and the older rows that reports name."""
    verified: int
    """Records that are what their subject signed."""
    refused: Mapping[str, int]
    """How many did not verify, by reason ("signature", "signer", "filed-wrong", "limit", "decode", ..., "untrusted")."""
    equivocations: int
    """Contradictions held that are proven (`Equivocation.is_proven`); counted among the first PAGE_RECORDS_MAX."""
    groups: tuple[GroupContents, ...]
    """By group id."""
    unproven: int = 0
    """Complaints that their subject signed but that show no omission."""


def _trust_all(_report: GroupReport) -> bool:
    return True


class _Reading:
    """State of one reading: counts, and the verified records by what the report will ask for."""

    def __init__(self, is_trusted: Callable[[GroupReport], bool], wall_ns: int) -> None:
        self._is_trusted = is_trusted
        self._wall_ns = wall_ns
        self._refused_revisions: set[int] = set()
        self.records = 0
        self.refused: Counter[str] = Counter()
        self.reports: dict[bytes, tuple[GroupReport, StoredRecord]] = {}
        self.newest: dict[Key, Record] = {}
        self.certified: dict[bytes, list[Record]] = {}
        self.omissions: dict[bytes, list[Omission]] = {}
        self.complaints: dict[bytes, list[Omission]] = {}
        self.unproven = 0

    def admit(self, stored: StoredRecord) -> bool:
        """Count and verify one record. Say whether it is good. One that was refused before is not counted again."""
        if stored.revision in self._refused_revisions:
            return False
        self.records += 1
        try:
            verify(stored.record)
        except RemoteProtocolError as error:
            self.refused[error.reason] += 1
            self._refused_revisions.add(stored.revision)
            return False
        return True

    def take_page(self, page: list[StoredRecord]) -> None:
        for stored in page:
            if not self.admit(stored):
                continue
            if stored.record.kind is Kind.REPORT:
                self._take_report(stored)
            elif stored.record.kind is Kind.COMPLAINT:
                self._take_complaint(stored.record)
            elif stored.record.kind in (Kind.NODE, Kind.ROW):
                self.newest[stored.record.key] = stored.record
                if stored.record.kind is Kind.NODE:
                    self.certified.setdefault(stored.record.group, []).append(stored.record)

    def _take_complaint(self, record: Record) -> None:
        try:
            omission = omission_of(record)
        except RemoteProtocolError:
            self.unproven += 1
        else:
            self.omissions.setdefault(omission.report_digest, []).append(omission)
            if record.expires_ns > self._wall_ns:
                self.complaints.setdefault(omission.group, []).append(omission)

    def _take_report(self, stored: StoredRecord) -> None:
        report = report_of(stored.record)
        if not self._is_trusted(report):
            self.refused["untrusted"] += 1
            return
        if report.epoch > epoch_of(self._wall_ns) + EPOCHS_AHEAD_MAX:
            self.refused["epoch"] += 1
            return
        held = self.reports.get(report.group)
        if held is None or self._order(report) > self._order(held[0]):
            self.reports[report.group] = report, stored

    def _order(self, report: GroupReport) -> tuple[bool, int, int, int, NodeId]:
        """Order of the reports of one group; the reporter's id only breaks ties, so that all readers agree."""
        is_preferred = report.expires_ns > self._wall_ns and rank_of(report) < RANKS
        return is_preferred, report.epoch, report.sequence, len(report.rows), report.reporter


def rank_of(report: GroupReport) -> int:
    """Return the reporter's place in the rendezvous order of the roster it signed, for its epoch; from RANKS on it may not report."""
    return rank(report.roster, report.group, report.epoch).index(report.reporter)


async def read_matrix(
    store: RecordStore,
    *,
    wall_ns: int,
    is_trusted: Callable[[GroupReport], bool] = _trust_all,
    group: bytes | None = None,
) -> DitexContents:
    """Verify what a store holds and return the newest report of each group with its rows.

    Args:
        store: trusted for nothing but being there.
        wall_ns: wall time now, ns since 1970; expired reports are shown and marked.
        is_trusted: whether to look at a report at all; refused ones count as "untrusted".
        group: only this one; None reads all.

    Raises:
        StoreUnavailable: the store cannot be read.

    Cost: 50 us a record in a worker thread; memory for all of them.
    """
    reading = _Reading(is_trusted, wall_ns)
    revision = await store.revision()
    after = 0
    while page := await store.range(Query(group=group, after=after)):
        await trio.to_thread.run_sync(reading.take_page, page)
        after = page[-1].revision
        if len(page) < PAGE_RECORDS_MAX:
            break
    groups = [await _group_contents(store, reading, *reading.reports[each], wall_ns) for each in sorted(reading.reports)]
    proofs = [proof for proof in await store.equivocations() if proof.is_proven()]
    refused = dict(sorted(reading.refused.items()))
    verified = reading.records - sum(refused.values())
    return DitexContents(revision, reading.records, verified, refused, len(proofs), tuple(groups), reading.unproven)


async def _group_contents(store: RecordStore, reading: _Reading, report: GroupReport, stored: StoredRecord, wall_ns: int) -> GroupContents:
    rows: dict[NodeId, PublishedRow] = {}
    nodes = {node: record for node in report.roster if (record := reading.newest.get(Key(Kind.NODE, report.group, node))) is not None}
    for reference in report.rows:
        key, version = Key(Kind.ROW, report.group, reference.node_id), Version(reference.boot, reference.seq)
        newest = reading.newest.get(key)
        row = newest
        if newest is None or newest.version != version:
            older = await store.get(key, version)
            row = older.record if older is not None and reading.admit(older) else None
        is_attested = row is not None and row_digest(row.row_content) == reference.digest
        if not is_attested:
            row = newest if newest is not None and newest.version > version else None
        if row is not None:
            certificate = nodes.get(reference.node_id)
            place = GeoAsn(certificate.country, asn=certificate.asn) if certificate is not None else NOWHERE
            rows[reference.node_id] = PublishedRow(row, is_attested, min(row.expires_ns, report.expires_ns), place)
    missing = tuple(reference.node_id for reference in report.rows if reference.node_id not in rows)
    certified = {each.subject for each in reading.certified.get(report.group, ()) if each.expires_ns > report.issued_ns}
    omissions = sorted(reading.omissions.get(report_digest(stored.record.envelope), ()), key=lambda each: each.complainant)
    complaints = sorted(reading.complaints.get(report.group, ()), key=lambda each: (-each.epoch, each.reporter, each.complainant))
    return GroupContents(
        report=report,
        revision=stored.revision,
        is_expired=report.expires_ns <= wall_ns,
        rows=rows,
        missing=missing,
        nodes=nodes,
        reporter_rank=rank_of(report),
        unlisted=tuple(sorted(certified - set(report.roster))),
        omissions=tuple(omissions),
        complaints=tuple(complaints),
    )


async def read_file(
    path: Path,
    *,
    wall_ns: int,
    is_trusted: Callable[[GroupReport], bool] = _trust_all,
    group: bytes | None = None,
) -> DitexContents:
    """Open a node's file read-only, from any process, and return its verified contents; arguments and errors as `read_matrix`."""
    async with await SqliteStore.open(path, is_read_only=True) as store:
        return await read_matrix(store, wall_ns=wall_ns, is_trusted=is_trusted, group=group)
