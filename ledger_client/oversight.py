"""When a node complains of a reporter, and when it publishes a contradiction that its store holds. A core: it decides, and does no I/O.

Complaints. A report without a member's row is no fault: the row may have been lost on its way. The reporter's own words tell the two
apart. A reporter lists a row as long as it heard its member within STALE_PERIODS periods (and a second), and tells a latency of that
member in its own row as long as that is so. Suppose two reports, at t1 < t2, not further apart than those periods, lack this member's row,
and the reporter's row that the second one quotes was made after t1 and tells a latency from this member. If the first omission was honest,
nothing had been heard for too long at t1, so what the row tells was heard after t1; then it was fresh at t2, and the second omission was
not honest. Either way one of the two was not. The complaint is about the second.

What could still excuse it: the reporter's clock moved, or it restarted, between that row and the report, and it had to forget what it
heard. So a complaint waits for a later row of the reporter, over the pulse, of the same run and clock epoch. And nothing counts in the
epoch in which this node came, started anew or moved its clock, nor in the next one, nor of a reporter that is not among the first RANKS of
the roster it signed: readers pass those by.

Evidence. Each contradiction is published once: after a random wait, and if then no EVIDENCE of it is in the store.

Assumption: the members of a group pulse at one period. Not found: a reporter that tells no latency from the member it omits, or that does
not quote its own row; that shows in what it signs. Nor one that omits a member in single reports, or takes it out of the roster (readers
see that: `read.GroupContents.unlisted`).

Source: `gossip/pulse.py` (`verified_rows`, STALE_PERIODS), `gossip/reporter.py` (epochs, ranks, sequence); docs/ditex.md.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import attrs

from srwan.gossip.pulse import STALE_PERIODS
from srwan.gossip.reporter import EPOCH_S, RANKS, epoch_of, rank
from srwan.gossip.row import OWL_OUTSIDE, Row, SignedRow, entry_id, open_row
from srwan.ledger_client.record import Key, Kind, Record, Version
from srwan.ledger_client.report import NS_PER_S, GroupReport, RowReference, row_digest
from srwan.ledger_client.store import EquivocationProof, StoredRecord
from srwan.types import NodeId

__all__ = ["ComplaintFiled", "EvidenceFiled", "Omitted", "Oversight", "OversightEvent", "version_of"]

EPOCHS_UNKNOWN = 2
"""The epoch in which this node came or started anew, and the next one: nobody is complained of for these."""
COMPLAINTS_PER_HOUR_MAX = 12
"""Complaints of one node: what more reporters than that do in an hour shows in these."""
EVIDENCE_PER_HOUR_MAX = 12
"""Contradictions one node publishes in an hour; the others wait."""
EVIDENCE_WAIT_S = (10.0, 130.0)
"""Between finding a contradiction and publishing it, s, at random, so that of many finders on stores that exchange the first one tells."""
EVIDENCE_PER_LOOK_MAX = 4
OWN_ROWS_KEPT_MAX = 16
"""Own rows remembered: some two minutes, more than the two epochs of which one may be quoted."""
REPORTERS_KEPT_MAX = 32
"""Reporters remembered; an epoch has RANKS of them."""
_HOUR_S = 3600.0


@attrs.frozen(slots=True)
class ComplaintFiled:
    """A reporter left this node's row out though it had it: the complaint is in the DITEX."""

    reporter: NodeId
    """Who signed the report."""
    epoch: int
    """Of the report."""


@attrs.frozen(slots=True)
class EvidenceFiled:
    """The store holds two contradicting records of a router: the proof is in the DITEX as evidence."""

    node_id: NodeId
    """Who signed both."""
    kind: Kind
    """Of the two records."""


OversightEvent: TypeAlias = ComplaintFiled | EvidenceFiled


@attrs.frozen(slots=True)
class Omitted:
    """An omission that is to be complained of, unless the reporter's next row excuses it."""

    report: Record
    """Verified."""
    epoch: int
    """Of the report."""
    own: SignedRow
    """The row of this node that the reporter could have had."""
    admission: Row
    """The reporter's row that tells a latency from this node."""


class _Budget:
    """So many in an hour, and no more."""

    def __init__(self, per_hour_max: int) -> None:
        self._per_hour_max = per_hour_max
        self._taken: deque[float] = deque(maxlen=per_hour_max)

    def left(self, now: float) -> int:
        while self._taken and self._taken[0] <= now - _HOUR_S:
            self._taken.popleft()
        return self._per_hour_max - len(self._taken)

    def take(self, now: float) -> None:
        self._taken.append(now)


class Oversight:
    """Decides for one node.

    Args:
        me: this node.
        group: the 32-byte group id.
        period_s: between two pulses of the group.
        rng: for the wait before evidence is published.
    """

    def __init__(self, me: NodeId, group: bytes, *, period_s: float, rng: random.Random) -> None:
        self._me = me
        self._group = group
        self._fresh_ns = int(STALE_PERIODS * period_s * NS_PER_S)
        self._rng = rng
        self._since_epoch: int | None = None
        self._own: deque[SignedRow] = deque(maxlen=OWN_ROWS_KEPT_MAX)
        self._order: tuple[NodeId, ...] = ()
        self._read: dict[NodeId, int] = {}
        self._omitted_ns: dict[NodeId, int] = {}
        self._cases: dict[NodeId, Omitted] = {}
        self._complained: deque[tuple[int, NodeId]] = deque(maxlen=REPORTERS_KEPT_MAX)
        self._complaints = _Budget(COMPLAINTS_PER_HOUR_MAX)
        self._evidence = _Budget(EVIDENCE_PER_HOUR_MAX)
        self._due_at: dict[Key, float | None] = {}

    # complaints

    def start_anew(self, group_ns: int) -> None:
        """This node came into the group, started a new run, or moved its clock: forget what was, and be patient.

        Args:
            group_ns: group time now, ns.
        """
        self._since_epoch = epoch_of(group_ns)
        self._own.clear()
        self._omitted_ns.clear()
        self._cases.clear()

    def own_row_made(self, signed: SignedRow) -> None:
        """Note the latest row of this node; call it at every look."""
        if not self._own or self._own[-1].content != signed.content:
            self._own.append(signed)

    def keys_to_read(self, order: Sequence[NodeId]) -> list[Key]:
        """Return the keys of the reports to look at: of those who may report now, and at the look before. At most 2 RANKS.

        Args:
            order: the reporter and its standbys.
        """
        wanted = dict.fromkeys((*order[:RANKS], *self._order))
        self._order = tuple(order[:RANKS])
        return [Key(Kind.REPORT, self._group, node) for node in wanted if node != self._me]

    def is_news(self, stored: StoredRecord) -> bool:
        """Say whether a report was not looked at before, and note it."""
        reporter = stored.record.subject
        is_news = self._read.pop(reporter, None) != stored.revision
        self._read[reporter] = stored.revision
        _bound(self._read)
        return is_news

    def admission_of(self, told: GroupReport) -> RowReference | None:
        """Return which row of the reporter may show that it heard this node; None if the report gives no cause to complain.

        Args:
            told: a verified report.
        """
        if self._since_epoch is None or told.epoch < self._since_epoch + EPOCHS_UNKNOWN:
            return None
        if told.group != self._group or told.reporter == self._me or self._me not in told.roster:
            return None
        listed = {reference.node_id: reference for reference in told.rows}
        if self._me in listed:
            self._omitted_ns.pop(told.reporter, None)
            return None
        if told.reporter not in rank(told.roster, told.group, told.epoch)[:RANKS]:
            return None
        return listed.get(told.reporter)

    def omission_seen(self, report: Record, told: GroupReport, admission: Record | None) -> None:
        """Take in a report for which `admission_of` named a row.

        Args:
            report: verified.
            told: what is in it.
            admission: that row, verified; None if the store does not hold it.
        """
        at_ns = (told.epoch * EPOCH_S + told.sequence) * NS_PER_S
        before_ns = self._omitted_ns.pop(told.reporter, None)
        self._omitted_ns[told.reporter] = at_ns
        _bound(self._omitted_ns)
        if before_ns is None or not 0 < at_ns - before_ns <= self._fresh_ns or admission is None:
            return
        reference = self.admission_of(told)
        if reference is None or row_digest(admission.row_content) != reference.digest:
            return
        row = open_row(told.reporter, admission.row_content).row
        if row.stamp_ns < before_ns or not _tells_of(row, told, self._me):
            return
        own = self._own_before(row.stamp_ns, told.epoch)
        if own is None or (told.epoch, told.reporter) in self._complained or told.reporter in self._cases:
            return
        self._cases[told.reporter] = Omitted(report, told.epoch, own, row)

    def complaints_due(self, rows: Mapping[NodeId, SignedRow], group_ns: int, now: float) -> list[Omitted]:
        """Return what is to be complained of now; each is returned once, and at most one for each reporter and epoch.

        Args:
            rows: the latest row of each member, as heard over the pulse.
            group_ns: group time now, ns.
            now: monotonic seconds.
        """
        due: list[Omitted] = []
        for reporter, case in list(self._cases.items()):
            signed = rows.get(reporter)
            is_late = epoch_of(group_ns) > case.epoch + 1
            if signed is None or is_late or not _is_same_run(signed.row, case.admission):
                del self._cases[reporter]
            elif signed.row.seq > case.admission.seq:
                del self._cases[reporter]
                if self._complaints.left(now) > 0:
                    self._complaints.take(now)
                    self._complained.append((case.epoch, reporter))
                    due.append(case)
        return due

    def _own_before(self, stamp_ns: int, epoch: int) -> SignedRow | None:
        """The newest row of this node made by then that a complaint of this epoch may quote."""
        for signed in reversed(self._own):
            if signed.row.stamp_ns <= stamp_ns:
                return signed if epoch - 1 <= epoch_of(signed.row.stamp_ns) <= epoch else None
        return None

    # evidence

    def proofs_due(self, proofs: Iterable[EquivocationProof], now: float) -> list[EquivocationProof]:
        """Return what is to be published now unless it was; say of each what became of it with `proof_settled`.

        Args:
            proofs: those that the store holds.
            now: monotonic seconds.
        """
        held = {proof.key: proof for proof in proofs}
        self._due_at = {key: self._due_at[key] if key in self._due_at else now + self._rng.uniform(*EVIDENCE_WAIT_S) for key in held}
        due = [held[key] for key, at in self._due_at.items() if at is not None and at <= now]
        return due[: min(EVIDENCE_PER_LOOK_MAX, self._evidence.left(now))]

    def proof_settled(self, key: Key, now: float, *, is_filed: bool) -> None:
        """A contradiction was published, here (`is_filed`) or by another, or cannot be."""
        self._due_at[key] = None
        if is_filed:
            self._evidence.take(now)


def _bound(kept: dict[NodeId, int]) -> None:
    if len(kept) > REPORTERS_KEPT_MAX:
        del kept[next(iter(kept))]


def _is_same_run(row: Row, other: Row) -> bool:
    return (row.boot, row.clock_epoch) == (other.boot, other.clock_epoch)


def _tells_of(row: Row, told: GroupReport, node: NodeId) -> bool:
    """Say whether a row holds a latency from `node`, a member of the report's roster; not if it could be another member's."""
    if row.ids is not None:
        named = entry_id(node)
        if sum(entry_id(each) == named for each in told.roster) != 1:
            return False
        entries = [index for index, each in enumerate(row.ids) if int(each) == named]
        return len(entries) == 1 and int(row.owl[entries[0]]) < OWL_OUTSIDE
    if row.roster_digest != told.roster_digest or row.count != len(told.roster):
        return False
    return int(row.owl[sorted(told.roster).index(node)]) < OWL_OUTSIDE


def version_of(reference: RowReference) -> Version:
    """Return the version under which the row a report names is filed."""
    return Version(reference.boot, reference.seq)
