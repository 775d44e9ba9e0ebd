"""From what a reporter holds of its group to the records of one batch: certificates, rows, and last the signed report.

Theory of operation. The reporter verifies every row before it vouches for it: a row whose signature is bad, or that is too long, is left
out, counted by reason, and its member is absent from the report. Rows are filed with the place their member's certificate claims, under
the group, epoch and expiry of the report. The records belong into one `put_many`, so that a reader sees all or nothing.

Not here: who is the reporter and when (gossip), where the batch goes (the node).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import attrs

from srwan.errors import RemoteProtocolError
from srwan.gossip.row import SignedRow
from srwan.identity import Identity
from srwan.ledger_client.record import NOWHERE, Record, verify
from srwan.ledger_client.report import NS_PER_S, GroupReport, RowReference, row_digest
from srwan.overlay.view import Member
from srwan.types import GeoAsn, NodeId

__all__ = ["REPORT_LIFETIME_S", "LeftOut", "Publication", "ReportSource", "records_of_report"]

REPORT_LIFETIME_S = 900
"""Default time from issue to expiry, s: 15 epochs of 60 s, after which a latency says little (as for certificates, at most 15 min)."""


class ReportSource(Protocol):
    """What `records_of_report` needs to know of a report; `srwan.gossip.report.Report` is one."""

    @property
    def group(self) -> bytes:
        """Group id, 32 B."""
        ...

    @property
    def epoch(self) -> int:
        """Reporting epoch."""
        ...

    @property
    def sequence(self) -> int:
        """Rises with every report of this reporter within the epoch."""
        ...

    @property
    def reporter(self) -> NodeId:
        """Who signs."""
        ...

    @property
    def roster(self) -> tuple[NodeId, ...]:
        """All members, in the order of the matrix' axes."""
        ...

    @property
    def roster_digest(self) -> bytes:
        """8 bytes by which rows in slot order name this roster."""
        ...

    @property
    def rows(self) -> Sequence[SignedRow]:
        """One of each member that was heard."""
        ...


@attrs.frozen(slots=True)
class LeftOut:
    """Something the reporter does not vouch for."""

    node_id: NodeId
    what: str
    """"row" or "node"."""
    reason: str
    """As in the counters of dropped input: "signature", "limit", "decode", "not-in-roster", ..."""


@attrs.frozen(slots=True)
class Publication:
    """A batch ready for `put_many`."""

    report: GroupReport
    records: tuple[Record, ...]
    """Certificates, rows, and last the report: up to 257 records for a roster of 128."""
    left_out: tuple[LeftOut, ...]


def records_of_report(
    report: ReportSource,
    identity: Identity,
    *,
    certificates: Mapping[NodeId, bytes],
    wall_ns: int,
    lifetime_s: int = REPORT_LIFETIME_S,
) -> Publication:
    """Verify, sign and file what a reporter holds.

    Args:
        report: the group's rows.
        identity: the reporter's.
        certificates: sealed, of the members, as far as known; rows of members without one are filed without a place.
        wall_ns: wall time now, ns since 1970; becomes the time of issue.
        lifetime_s: from issue to expiry, s, 1..86400.

    Raises:
        ValueError: `identity` is not the reporter's, or a field of the report is out of bounds. Nothing was made.

    Cost: one verification per row and new certificate, about 10 ms for 100 members: once a minute.
    """
    if identity.node_id != report.reporter:
        raise ValueError(f"a report of {report.reporter!r} cannot be published by {identity.node_id!r}")
    expires_ns = wall_ns + lifetime_s * NS_PER_S
    roster = tuple(report.roster)
    held = {signed.node_id: signed for signed in report.rows}
    left_out = [LeftOut(node, "row", "not-in-roster") for node in sorted(held.keys() - set(roster))]
    nodes: list[Record] = []
    rows: list[Record] = []
    references: list[RowReference] = []
    for node in roster:
        place = NOWHERE
        if node in certificates:
            try:
                record, place = _node_record(report, node, certificates[node], wall_ns)
                nodes.append(record)
            except RemoteProtocolError as error:
                left_out.append(LeftOut(node, "node", error.reason))
        if node in held:
            try:
                record, reference = _row_record(report, held[node], expires_ns, place)
                rows.append(record)
                references.append(reference)
            except RemoteProtocolError as error:
                left_out.append(LeftOut(node, "row", error.reason))
    body = GroupReport(
        group=report.group,
        epoch=report.epoch,
        sequence=report.sequence,
        reporter=report.reporter,
        roster=roster,
        roster_digest=report.roster_digest,
        rows=tuple(references),
        issued_ns=wall_ns,
        expires_ns=expires_ns,
    )
    return Publication(body, (*nodes, *rows, Record.of_report(body, identity)), tuple(left_out))


def _node_record(report: ReportSource, node: NodeId, certificate: bytes, wall_ns: int) -> tuple[Record, GeoAsn]:
    record = Record.of_member(certificate, group=report.group, wall_ns=wall_ns, epoch=report.epoch)
    verify(
        attrs.evolve(record, subject=node)
    )  # a certificate of another node is refused as "signer", one of another group as "filed-wrong"
    return record, Member.open(certificate, wall_ns=wall_ns).location


def _row_record(report: ReportSource, signed: SignedRow, expires_ns: int, place: GeoAsn) -> tuple[Record, RowReference]:
    node, content = signed.node_id, signed.content
    record = Record.of_row(node, content, group=report.group, expires_ns=expires_ns, epoch=report.epoch, place=place)
    verify(record)
    return record, RowReference(node, *record.version, row_digest(content))
