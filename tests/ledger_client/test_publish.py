from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest

from srwan.gossip.report import Report
from srwan.gossip.row import SignedRow
from srwan.identity import Identity
from srwan.ledger_client.memory import MemoryStore
from srwan.ledger_client.publish import LeftOut, records_of_report
from srwan.ledger_client.record import Kind, Version, check, report_of
from srwan.ledger_client.report import NS_PER_S, row_digest

MakeRow = Callable[..., SignedRow]
MakeReport = Callable[..., Report]
MakeCertificate = Callable[..., bytes]


async def test_a_report_becomes_one_batch_that_every_store_takes(
    make_gossip_report: MakeReport,
    make_signed_row: MakeRow,
    make_certificate: MakeCertificate,
    identities: tuple[Identity, ...],
    wall_ns: int,
) -> None:
    rows = [make_signed_row(index, seq=3) for index in (0, 2, 3)]
    certificates = {identities[index].node_id: make_certificate(index) for index in (0, 1, 2)}
    publication = records_of_report(
        make_gossip_report(rows, epoch=9, sequence=2), identities[0], certificates=certificates, wall_ns=wall_ns, lifetime_s=60
    )

    assert () == publication.left_out
    assert [Kind.NODE] * 3 + [Kind.ROW] * 3 + [Kind.REPORT] == [record.kind for record in publication.records]
    for record in publication.records:
        check(record, wall_ns)
    assert [row.content for row in rows] == [record.row_content for record in publication.records[3:6]]
    assert [("LT", 8764), ("DE", 24940), ("ZZ", 0)] == [(record.country, record.asn) for record in publication.records[3:6]]
    assert {9} == {record.epoch for record in publication.records}
    assert {wall_ns + 60 * NS_PER_S} == {record.expires_ns for record in publication.records[3:]}
    outcome = await MemoryStore().put_many(publication.records, wall_ns)
    assert (7, ()) == (outcome.stored, outcome.refused)


def test_the_report_names_each_row_by_version_and_digest(
    make_gossip_report: MakeReport, make_signed_row: MakeRow, identities: tuple[Identity, ...], wall_ns: int
) -> None:
    rows = [make_signed_row(index, seq=3) for index in (1, 3)]
    publication = records_of_report(make_gossip_report(rows, sequence=4), identities[0], certificates={}, wall_ns=wall_ns)
    report = report_of(publication.records[-1])

    assert publication.report == report
    assert Version(5, 4) == publication.records[-1].version
    assert [(row.node_id, 3, row_digest(row.content)) for row in rows] == [(each.node_id, each.seq, each.digest) for each in report.rows]
    assert tuple(identity.node_id for identity in identities) == report.roster
    assert b"roster-1" == report.roster_digest
    assert (wall_ns, wall_ns + 900 * NS_PER_S) == (report.issued_ns, report.expires_ns)


def test_the_reporter_vouches_for_nothing_that_does_not_verify(
    make_gossip_report: MakeReport,
    make_signed_row: MakeRow,
    make_certificate: MakeCertificate,
    identities: tuple[Identity, ...],
    wall_ns: int,
) -> None:
    a, b, c, d = (identity.node_id for identity in identities)
    forged = attrs.evolve(make_signed_row(1), content=bytes(64) + make_signed_row(1).content[64:])
    of_another_group = make_signed_row(2, group=bytes(32))
    certificates = {
        a: make_certificate(0, issued_ns=wall_ns - 700 * NS_PER_S),
        b: make_certificate(2),
        c: make_certificate(2)[:-1],
        d: make_certificate(3, is_leaving=True),
    }
    report = make_gossip_report([make_signed_row(0), forged, of_another_group, make_signed_row(3)])
    report = attrs.evolve(report, roster=report.roster[:3])
    publication = records_of_report(report, identities[0], certificates=certificates, wall_ns=wall_ns)

    assert {
        LeftOut(a, "node", "expired"),
        LeftOut(b, "node", "signer"),
        LeftOut(b, "row", "signature"),
        LeftOut(c, "node", "decode"),
        LeftOut(c, "row", "signature"),
        LeftOut(d, "row", "not-in-roster"),
    } == set(publication.left_out)
    assert [a] == [row.node_id for row in publication.report.rows]
    assert [Kind.ROW, Kind.REPORT] == [record.kind for record in publication.records]


def test_a_leaving_member_is_left_out(
    make_gossip_report: MakeReport, make_certificate: MakeCertificate, identities: tuple[Identity, ...], wall_ns: int
) -> None:
    node = identities[3].node_id
    certificates = {node: make_certificate(3, is_leaving=True)}
    publication = records_of_report(make_gossip_report([]), identities[0], certificates=certificates, wall_ns=wall_ns)

    assert (LeftOut(node, "node", "leaving"),) == publication.left_out


def test_only_the_reporter_publishes(make_gossip_report: MakeReport, identities: tuple[Identity, ...], wall_ns: int) -> None:
    with pytest.raises(ValueError, match="cannot be published"):
        records_of_report(make_gossip_report([], reporter=1), identities[0], certificates={}, wall_ns=wall_ns)


@pytest.mark.parametrize("lifetime_s", [0, 86_401])
def test_lifetimes_are_bounded(make_gossip_report: MakeReport, identities: tuple[Identity, ...], wall_ns: int, lifetime_s: int) -> None:
    with pytest.raises(ValueError, match="lives"):
        records_of_report(make_gossip_report([]), identities[0], certificates={}, wall_ns=wall_ns, lifetime_s=lifetime_s)
