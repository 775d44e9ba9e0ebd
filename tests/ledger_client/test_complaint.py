from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srwan.errors import RemoteProtocolError
from srwan.gossip.reporter import epoch_of
from srwan.gossip.row import SignedRow, seal_row
from srwan.identity import Identity
from srwan.ledger_client.complaint import complaint_of, omission_of, report_digest
from srwan.ledger_client.evidence import evidence_of, is_equivocation, proof_in
from srwan.ledger_client.memory import MemoryStore
from srwan.ledger_client.read import read_matrix
from srwan.ledger_client.record import Kind, Record, Version, verify
from srwan.ledger_client.report import NS_PER_S, GroupReport
from srwan.ledger_client.statement import Statement
from srwan.ledger_client.store import EquivocationProof
from srwan.wire import pack

Make = Callable[..., Record]
MakeRow = Callable[..., SignedRow]
EPOCH = epoch_of(1_780_000_000 * NS_PER_S)


@pytest.fixture
def report(make_report: Make, make_signed_row: MakeRow) -> Record:
    """Member 0 reports its own row and member 1's, but not those of 2 and 3."""
    return make_report(make_signed_row(0), make_signed_row(1), epoch=EPOCH)


def test_a_member_left_out_can_show_it(report: Record, make_row: Make, identities: tuple[Identity, ...], wall_ns: int) -> None:
    record = complaint_of(report, make_row(2), wall_ns=wall_ns).record(identities[2])
    verify(record)
    omission = omission_of(record)

    assert (report.group, EPOCH, identities[0].node_id, identities[2].node_id) == (
        omission.group,
        omission.epoch,
        omission.reporter,
        omission.complainant,
    )
    assert report_digest(report.envelope) == omission.report_digest == record.topic
    assert omission.is_in_roster


def test_a_member_left_out_of_the_roster_can_show_it(
    make_group_report: Callable[..., GroupReport], make_row: Make, identities: tuple[Identity, ...], wall_ns: int
) -> None:
    shortened = attrs.evolve(make_group_report(epoch=EPOCH), roster=(identities[0].node_id,))
    record = complaint_of(Record.of_report(shortened, identities[0]), make_row(2), wall_ns=wall_ns).record(identities[2])

    assert not omission_of(record).is_in_roster


def test_there_is_nothing_to_complain_of(
    report: Record, make_report: Make, make_row: Make, make_signed_row: MakeRow, identities: tuple[Identity, ...], wall_ns: int
) -> None:
    with pytest.raises(ValueError, match="the report has a row of the member"):
        complaint_of(report, make_row(1), wall_ns=wall_ns)
    for epoch in (EPOCH + 2, EPOCH - 1):
        with pytest.raises(ValueError, match="says nothing about a report of epoch"):
            complaint_of(make_report(make_signed_row(0), epoch=epoch), make_row(2), wall_ns=wall_ns)
    elsewhere = seal_row(make_signed_row(2).row, identities[2], bytes(32))
    with pytest.raises(ValueError, match="of another group"):
        complaint_of(report, Record.of_row(elsewhere.node_id, elsewhere.content, group=bytes(32), expires_ns=1), wall_ns=wall_ns)
    forged = attrs.evolve(make_row(2), envelope=make_row(2).envelope[:-1] + bytes([make_row(2).envelope[-1] ^ 1]))
    with pytest.raises(ValueError, match="bad row signature"):
        complaint_of(report, forged, wall_ns=wall_ns)


def alike(complaint: Statement, content: list[Any], **changes: Any) -> Statement:
    return attrs.evolve(complaint, content=pack(content), **changes)


def test_a_complaint_that_shows_nothing_is_refused(
    report: Record, make_report: Make, make_row: Make, make_signed_row: MakeRow, identities: tuple[Identity, ...], wall_ns: int
) -> None:
    good = complaint_of(report, make_row(2), wall_ns=wall_ns)
    layout = "omission/1"
    row = make_row(2).envelope
    present = make_report(make_signed_row(0), make_signed_row(2), epoch=EPOCH)
    cases: list[tuple[Statement, str]] = [
        (alike(good, [layout, present.envelope, row], topic=report_digest(present.envelope)), "unproven"),
        (alike(good, [layout, report.envelope[:-1] + b"\x00", row]), "signature"),
        (alike(good, [layout, report.envelope, make_row(3).envelope]), "filed-wrong"),
        (alike(good, [layout, report.envelope, row], topic=b""), "filed-wrong"),
        (alike(good, [layout, report.envelope, row], group=bytes(32)), "filed-wrong"),
        (alike(good, [layout, row, report.envelope]), "decode"),
        (alike(good, [layout, report.envelope, b""]), "decode"),
        (alike(good, ["other/1", report.envelope, row]), "decode"),
        (alike(good, []), "decode"),
        (attrs.evolve(good, kind=Kind.EVIDENCE), "decode"),
    ]
    assert omission_of(good.record(identities[2])).epoch == EPOCH
    for statement, reason in cases:
        with pytest.raises(RemoteProtocolError) as refused:
            omission_of(statement.record(identities[2]))
        assert reason == refused.value.reason


async def test_readers_show_who_was_left_out(
    report: Record, make_row: Make, make_node: Make, identities: tuple[Identity, ...], wall_ns: int
) -> None:
    store = MemoryStore()
    good = complaint_of(report, make_row(2), wall_ns=wall_ns)
    false = alike(good, ["omission/1", report.envelope, make_row(1).envelope], subject=identities[1].node_id)
    await store.put_many([make_node(0), report, good.record(identities[2]), false.record(identities[1])], wall_ns)
    contents = await read_matrix(store, wall_ns=wall_ns)
    (group,) = contents.groups

    assert [identities[2].node_id] == [omission.complainant for omission in group.omissions]
    assert (group.omissions, identities[2].node_id in group.left_out) == (group.complaints, True)
    assert (1, {}) == (contents.unproven, contents.refused)


# ---- evidence of contradictions


@pytest.fixture
def proof(make_row: Make) -> EquivocationProof:
    return EquivocationProof.of(make_row(0), make_row(0, octets=1))


def test_evidence_of_a_contradiction_convinces_whoever_reads_it(
    proof: EquivocationProof, make_statement_record: Make, identities: tuple[Identity, ...], wall_ns: int
) -> None:
    claims = [make_statement_record(1, kind=Kind.CLAIM, topic=b"t", content=content) for content in (b"\x01", b"\x02")]
    for each in (proof, EquivocationProof.of(*claims)):
        record = evidence_of(each, identities[3].node_id, wall_ns=wall_ns).record(identities[3])
        verify(record)

        assert is_equivocation(record)
        assert each == proof_in(record)


def test_what_proves_nothing_is_no_evidence(
    proof: EquivocationProof, make_row: Make, make_statement: Callable[..., Statement], identities: tuple[Identity, ...], wall_ns: int
) -> None:
    finder = identities[3]
    with pytest.raises(ValueError, match="do not contradict"):
        evidence_of(EquivocationProof.of(make_row(0), make_row(0)), finder.node_id, wall_ns=wall_ns)
    held, other = make_row(0), make_row(0, seq=2)
    filed: list[Any] = ["equivocation/1", "row", held.group, held.subject, b"", *held.version]
    quoted: list[Any] = [held.envelope, held.expires_ns, other.envelope, other.expires_ns]
    for content, reason in (
        ([*filed, *quoted], "unproven"),
        ([*filed[:1], "dream", *filed[2:], *quoted], "decode"),
        ([*filed[:4], b"topic", *filed[5:], *quoted], "decode"),
        (["dispute/1", *filed[1:], *quoted], "decode"),
        (filed, "decode"),
    ):
        record = make_statement(3, kind=Kind.EVIDENCE, content=pack(content)).record(finder)
        with pytest.raises(RemoteProtocolError) as refused:
            proof_in(record)
        assert reason == refused.value.reason
    assert not is_equivocation(make_statement(3, kind=Kind.EVIDENCE, content=pack(["dispute/1"])).record(finder))
    assert not is_equivocation(make_row(0))


def test_a_contradiction_too_long_to_be_quoted_is_told(make_statement_record: Make, identities: tuple[Identity, ...], wall_ns: int) -> None:
    claims = [make_statement_record(1, kind=Kind.CLAIM, content=bytes([number]) * 30_000) for number in (0, 1)]
    with pytest.raises(ValueError, match="bytes of content"):
        evidence_of(EquivocationProof.of(*claims), identities[3].node_id, wall_ns=wall_ns)


@given(st.binary(max_size=200) | st.lists(st.binary(max_size=40) | st.integers(0, 2**63) | st.text(max_size=4), max_size=12).map(pack))
def test_random_contents_raise_nothing_but_protocol_errors(content: bytes) -> None:
    signer = Identity(bytes(32))
    for kind, use in ((Kind.COMPLAINT, omission_of), (Kind.EVIDENCE, proof_in)):
        statement = Statement(kind, bytes(32), signer.node_id, b"", Version(0, 0), 0, 1, content)
        with pytest.raises(RemoteProtocolError):
            use(statement.record(signer))
