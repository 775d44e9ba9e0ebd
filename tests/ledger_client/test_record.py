from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srwan.errors import BadSignature, DecodeError, LimitExceeded, RemoteProtocolError, StaleRecord
from srwan.gossip.row import SignedRow
from srwan.identity import Identity
from srwan.ledger_client.record import (
    CONTENT_BYTES_MAX,
    ENVELOPE_BYTES_MAX,
    Kind,
    Record,
    Version,
    check,
    report_of,
    require_current,
    verify,
)
from srwan.ledger_client.report import LIFETIME_S_MAX, NS_PER_S, GroupReport
from srwan.types import GeoAsn, NodeId
from srwan.wire import Envelope

Make = Callable[..., Record]


@pytest.fixture(params=list(Kind))
def record(
    request: pytest.FixtureRequest,
    make_node: Make,
    make_row: Make,
    make_report: Make,
    make_signed_row: Callable[..., SignedRow],
    make_statement_record: Make,
) -> Record:
    """A good one of each kind."""
    makers: dict[Kind, Callable[[], Record]] = {
        Kind.NODE: lambda: make_node(0),
        Kind.ROW: lambda: make_row(0),
        Kind.REPORT: lambda: make_report(make_signed_row(0), make_signed_row(1)),
    }
    kind = request.param
    return makers[kind]() if kind in makers else make_statement_record(0, kind=kind, topic=b"topic")


def test_a_record_of_each_kind_verifies(record: Record, wall_ns: int) -> None:
    check(record, wall_ns)


def test_a_row_comes_back_as_gossip_signed_it(make_signed_row: Callable[..., SignedRow], group: bytes) -> None:
    signed = make_signed_row(2, seq=9)
    record = Record.of_row(signed.node_id, signed.content, group=group, expires_ns=1)

    assert signed.content == record.row_content
    assert (signed.row.boot, 9) == record.version
    assert signed.is_authentic(group)


def test_a_node_is_filed_with_version_expiry_and_place_of_its_certificate(make_node: Make, wall_ns: int) -> None:
    record = make_node(3, seq=4)

    assert (Version(7000, 4), "SG", 16509) == (record.version, record.country, record.asn)
    assert wall_ns + 600 * NS_PER_S == record.expires_ns


def test_a_report_is_read_back(
    make_report: Make, make_group_report: Callable[..., GroupReport], make_signed_row: Callable[..., SignedRow]
) -> None:
    row = make_signed_row(1)

    assert make_group_report(row) == report_of(make_report(row))


def test_one_flipped_bit_anywhere_is_refused(record: Record) -> None:
    for place in range(len(record.envelope)):
        flipped = bytearray(record.envelope)
        flipped[place] ^= 1
        with pytest.raises(RemoteProtocolError):
            verify(attrs.evolve(record, envelope=bytes(flipped)))


def test_a_signature_by_another_is_refused(make_row: Make, identities: tuple[Identity, ...]) -> None:
    row = make_row(0)
    body = Envelope.decode(row.envelope, bytes_max=1300).body
    forged = Envelope.seal(identities[1], "row", body)

    with pytest.raises(DecodeError) as foreign:
        verify(attrs.evolve(row, envelope=forged.encode()))
    with pytest.raises(BadSignature):
        verify(attrs.evolve(row, envelope=attrs.evolve(forged, signer=row.subject).encode()))
    assert foreign.value.reason == "signer"


def test_a_report_signed_by_one_but_speaking_for_another_is_refused(
    make_group_report: Callable[..., GroupReport], identities: tuple[Identity, ...]
) -> None:
    report = make_group_report(reporter=0)
    forger = identities[1]
    envelope = Envelope.seal(forger, "ditex-report", report.encode()).encode()
    record = Record(Kind.REPORT, report.group, forger.node_id, Version(report.epoch, report.sequence), report.expires_ns, envelope)

    with pytest.raises(DecodeError) as refused:
        verify(record)
    assert refused.value.reason == "filed-wrong"


@pytest.mark.parametrize(
    "change", [{"version": Version(7001, 1)}, {"version": Version(6, 0)}, {"version": Version(7000, 2)}, {"group": b"\x01" * 32}]
)
def test_a_record_filed_under_another_key_or_version_is_refused(record: Record, change: dict[str, Any]) -> None:
    with pytest.raises(DecodeError) as refused:
        verify(attrs.evolve(record, **change))
    assert refused.value.reason == "filed-wrong"


@pytest.mark.parametrize("by_ns", [-1, 1])
def test_the_expiry_of_nodes_and_reports_is_part_of_what_was_signed(make_node: Make, make_report: Make, by_ns: int) -> None:
    for record in (make_node(0), make_report()):
        with pytest.raises(RemoteProtocolError):
            verify(attrs.evolve(record, expires_ns=record.expires_ns + by_ns))


def test_a_node_filed_in_another_place_than_it_signed_is_refused(make_node: Make) -> None:
    for change in ({"country": "US"}, {"asn": 1}):
        with pytest.raises(DecodeError) as refused:
            verify(attrs.evolve(make_node(0), **change))
        assert refused.value.reason == "filed-wrong"


def test_a_record_of_another_kind_is_refused(record: Record) -> None:
    for kind in sorted(set(Kind) - {record.kind}):
        topic = record.topic if kind in CONTENT_BYTES_MAX else b""
        with pytest.raises(RemoteProtocolError):
            verify(attrs.evolve(record, kind=kind, topic=topic))


def test_a_row_signed_for_another_group_is_refused(make_signed_row: Callable[..., SignedRow], group: bytes) -> None:
    signed = make_signed_row(0, group=bytes(32))

    with pytest.raises(BadSignature):
        verify(Record.of_row(signed.node_id, signed.content, group=group, expires_ns=1))


def test_a_leaving_member_is_not_published(make_certificate: Callable[..., bytes], group: bytes, wall_ns: int) -> None:
    with pytest.raises(DecodeError) as refused:
        Record.of_member(make_certificate(0, is_leaving=True), group=group, wall_ns=wall_ns)
    assert refused.value.reason == "leaving"


def test_size_is_checked_before_anything_is_parsed(record: Record) -> None:
    with pytest.raises(LimitExceeded):
        verify(attrs.evolve(record, envelope=bytes(ENVELOPE_BYTES_MAX[record.kind] + 1)))


def test_time_is_checked_only_when_publishing(record: Record, wall_ns: int) -> None:
    verify(record)
    require_current(record, record.expires_ns - 1)
    with pytest.raises(StaleRecord) as expired:
        require_current(record, record.expires_ns)
    assert expired.value.reason == "expired"


def test_a_record_that_would_live_too_long_is_refused(make_row: Make, wall_ns: int) -> None:
    with pytest.raises(LimitExceeded) as refused:
        check(make_row(0, expires_s=LIFETIME_S_MAX + 61), wall_ns)
    assert refused.value.reason == "lifetime"


def test_a_report_is_signed_by_its_reporter_only(make_group_report: Callable[..., GroupReport], identities: tuple[Identity, ...]) -> None:
    with pytest.raises(ValueError, match="cannot be signed"):
        Record.of_report(make_group_report(reporter=0), identities[1])


def test_only_rows_hold_rows_and_only_reports_hold_reports(make_node: Make, make_row: Make) -> None:
    with pytest.raises(DecodeError):
        _ = make_node(0).row_content
    with pytest.raises(DecodeError):
        report_of(make_row(0))


@pytest.mark.parametrize(
    "change",
    [
        {"group": b""},
        {"version": Version(-1, 0)},
        {"version": Version(0, 2**63)},
        {"expires_ns": -1},
        {"epoch": 2**63},
        {"country": "lt"},
        {"country": "LTU"},
        {"country": "ÄÖ"},
        {"country": ""},
        {"asn": -1},
        {"asn": 2**32},
        {"asn": True},
    ],
)
def test_a_record_out_of_bounds_cannot_be_made(make_row: Make, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        attrs.evolve(make_row(0), **change)


@given(st.sampled_from(Kind), st.binary(max_size=300))
def test_random_envelopes_raise_nothing_but_protocol_errors(kind: Kind, envelope: bytes) -> None:
    record = Record(kind, bytes(32), NodeId(bytes(32)), Version(0, 0), 1, envelope)
    with pytest.raises(RemoteProtocolError):
        verify(record)


@given(st.sampled_from([("node", "member"), ("row", "row"), ("report", "ditex-report")]), st.binary(max_size=300))
def test_signed_nonsense_raises_nothing_but_protocol_errors(kinds: tuple[str, str], body: bytes) -> None:
    signer = Identity(bytes(32))
    envelope = Envelope.seal(signer, kinds[1], bytes(32) + signer.node_id + body if kinds[1] == "row" else body).encode()
    record = Record(Kind(kinds[0]), bytes(32), signer.node_id, Version(1, 1), 1, envelope)
    try:
        verify(record)
    except RemoteProtocolError:
        return
    assert record.kind is Kind.ROW  # random bytes can be a row, but only if they decode


def test_a_row_too_short_to_be_one_is_refused(group: bytes) -> None:
    with pytest.raises(DecodeError):
        Record.of_row(NodeId(bytes(32)), bytes(64), group=group, expires_ns=1, place=GeoAsn())
