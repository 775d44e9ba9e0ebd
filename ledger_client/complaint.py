"""What a member files when a reporter left its row out: a statement with all that is needed to see the omission.

Theory of operation. A complaint quotes the report as its reporter signed it and the row as the complaining member signed it. Whoever reads
it needs nothing else: the report's bitmap and Merkle root are signed and were checked against its rows when it was decoded, so that a
member without its bit set is provably not covered by it; the row proves that the member had measured in that epoch or the one before.

What it shows is the omission, not the guilt: the row may have been lost on its way. A reader weighs how many complain of one reporter.

Content: canonical msgpack of ["omission/1", envelope of the report, envelope of the row]. Filed under the report's group, the member as
subject, `report_digest` as topic and (epoch, sequence) of the report as version, so that nobody complains twice of one report.

Not here: when to complain, and what follows from it.

Source: RFC 9162 section 2.1 for the tree; whitepaper on reporters who edit.
"""

from __future__ import annotations

import hashlib

import attrs

from srwan.errors import DecodeError, RemoteProtocolError
from srwan.gossip.reporter import epoch_of
from srwan.gossip.row import Row, open_row
from srwan.ledger_client.merkle import DIGEST_BYTES
from srwan.ledger_client.record import CONTENT_BYTES_MAX, ENVELOPE_BYTES_MAX, Kind, Record, Version, report_of, verify
from srwan.ledger_client.report import NS_PER_S, GroupReport
from srwan.ledger_client.statement import Statement
from srwan.types import NodeId
from srwan.wire import Envelope, pack, unpack

__all__ = ["Omission", "complaint_of", "omission_of", "report_digest"]

COMPLAINT_LIFETIME_S = 30 * 86_400
"""How long a complaint counts unless said otherwise, s: a month, in which a reporter's habits show."""
_LAYOUT = "omission/1"


@attrs.frozen(slots=True)
class Omission:
    """What a complaint proves."""

    group: bytes
    """Group id, 32 B."""
    epoch: int
    """Of the report."""
    reporter: NodeId
    """Who signed it."""
    complainant: NodeId
    """Whose row is not in it."""
    report_digest: bytes
    """`report_digest` of the report's envelope, 32 B."""
    is_in_roster: bool
    """The report names the member as absent; otherwise it does not know the member at all."""


def report_digest(envelope: bytes) -> bytes:
    """Return the BLAKE2b-256 of a report's envelope, under which complaints are filed."""
    return hashlib.blake2b(envelope, digest_size=DIGEST_BYTES, person=b"srwan/report/1").digest()


def complaint_of(report: Record, row: Record, *, wall_ns: int, lifetime_s: int = COMPLAINT_LIFETIME_S) -> Statement:
    """Return what the row's member is to sign and publish.

    Args:
        report: of the member's group, without its row.
        row: the member's own, of the report's epoch or the one before.
        wall_ns: wall time now, ns since 1970.
        lifetime_s: from now to expiry, s.

    Raises:
        ValueError: there is nothing to complain of: another group, another time, or the report has the row.

    Cost: two verifications.
    """
    content = pack([_LAYOUT, report.envelope, row.envelope])
    try:
        found = _shown_by(report, row)
    except RemoteProtocolError as error:
        raise ValueError(f"this is no omission: {error}") from None
    version = Version(report.version.era, report.version.sequence)
    times = (wall_ns, wall_ns + lifetime_s * NS_PER_S)
    return Statement(Kind.COMPLAINT, found.group, found.complainant, found.report_digest, version, *times, content)


def omission_of(record: Record) -> Omission:
    """Return what a complaint proves. For hostile input; the record itself must have been verified.

    Raises:
        RemoteProtocolError: it is malformed, or what it quotes is forged ("signature", ...) or shows no omission ("unproven").

    Cost: two verifications, 0.7 ms for a report of 100.
    """
    statement = Statement.of_record(record)
    match unpack(statement.content, bytes_max=CONTENT_BYTES_MAX[Kind.COMPLAINT]):
        case [str(layout), bytes(report), bytes(row)] if layout == _LAYOUT and record.kind is Kind.COMPLAINT:
            found = _shown_by(_quoted_report(report, statement.group), _quoted_row(row, statement.group))
        case _:
            raise DecodeError("not a complaint")
    filed = (statement.subject, statement.topic, statement.version.era)
    if filed != (found.complainant, found.report_digest, found.epoch):
        raise DecodeError("a complaint is not filed as what it quotes", reason="filed-wrong")
    return found


def _quoted_report(envelope: bytes, group: bytes) -> Record:
    told = Envelope.decode(envelope, bytes_max=ENVELOPE_BYTES_MAX[Kind.REPORT])
    report = GroupReport.decode(told.body)
    return Record(Kind.REPORT, group, told.signer, Version(report.epoch, report.sequence), report.expires_ns, envelope)


def _quoted_row(envelope: bytes, group: bytes) -> Record:
    told = Envelope.decode(envelope, bytes_max=ENVELOPE_BYTES_MAX[Kind.ROW])
    row = Row.decode(told.signer, told.body[len(group) + len(told.signer) :])
    return Record(Kind.ROW, group, told.signer, Version(row.boot, row.seq), 0, envelope)


def _shown_by(report: Record, row: Record) -> Omission:
    """Verify both and see that the one lacks the other."""
    verify(report)
    verify(row)
    told = report_of(report)
    made_in = epoch_of(open_row(row.subject, row.row_content).row.stamp_ns)
    if told.group != row.group:
        raise _unproven("the report is of another group than the row")
    if not told.epoch - 1 <= made_in <= told.epoch:
        raise _unproven(f"a row of epoch {made_in} says nothing about a report of epoch {told.epoch}")
    if any(reference.node_id == row.subject for reference in told.rows):
        raise _unproven("the report has a row of the member")
    is_in_roster = row.subject in told.roster
    return Omission(told.group, told.epoch, told.reporter, row.subject, report_digest(report.envelope), is_in_roster)


def _unproven(problem: str) -> DecodeError:
    return DecodeError(problem, reason="unproven")
