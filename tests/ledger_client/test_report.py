from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srwan.errors import DecodeError, RemoteProtocolError
from srwan.gossip.row import SignedRow
from srwan.ledger_client.merkle import is_included
from srwan.ledger_client.report import BODY_BYTES_MAX, GroupReport, RowReference, row_digest
from srwan.types import NodeId
from srwan.wire import pack, unpack

GOLDEN = Path(__file__).parents[1] / "data/ditex-report.bin"


@pytest.fixture
def report(make_group_report: Callable[..., GroupReport], make_signed_row: Callable[..., SignedRow]) -> GroupReport:
    """Of four members, the third one is absent."""
    return make_group_report(*(make_signed_row(index) for index in (0, 1, 3)))


def report_of(members: int) -> GroupReport:
    roster = tuple(NodeId(number.to_bytes(32, "big")) for number in range(members))
    rows = tuple(RowReference(node, 2**32 - 1, 2**32 - 1, row_digest(node)) for node in roster)
    return GroupReport(bytes(32), 2**48, 2**32 - 1, roster[0], roster, bytes(8), rows, 2**62, 2**62 + 1)


def test_body_is_stable_over_releases(report: GroupReport) -> None:
    assert GOLDEN.read_bytes() == report.encode()


def test_decoding_gives_back_what_was_encoded(report: GroupReport) -> None:
    assert report == GroupReport.decode(report.encode())


@given(st.integers(1, 20), st.data())
def test_any_subset_of_rows_survives_the_round_trip(members: int, data: st.DataObject) -> None:
    whole = report_of(members)
    kept = data.draw(st.sets(st.integers(0, members - 1)))
    report = attrs.evolve(whole, rows=tuple(row for index, row in enumerate(whole.rows) if index in kept))

    assert report == GroupReport.decode(report.encode())
    assert sum(byte.bit_count() for byte in report.presence) == len(kept)


def test_presence_names_the_absent_by_their_place_in_the_roster(report: GroupReport) -> None:
    assert bytes([0b1011]) == report.presence


def test_largest_report_fits_its_cap() -> None:
    assert len(report_of(128).encode()) < BODY_BYTES_MAX


def test_a_row_is_shown_to_belong_to_the_report_by_its_proof_alone(report: GroupReport) -> None:
    for node in (row.node_id for row in report.rows):
        row, index, proof = report.proof(node)

        assert is_included(row.leaf, index, len(report.rows), proof, report.root)
    with pytest.raises(KeyError):
        report.proof(report.roster[2])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"group": bytes(31)}, "group id"),
        ({"epoch": -1}, "out of range"),
        ({"sequence": 2**63}, "out of range"),
        ({"epoch": True}, "out of range"),
        ({"expires_ns": 0}, "lives"),
        ({"issued_ns": 0}, "lives"),
        ({"roster": ()}, "a roster of 0"),
        ({"roster_digest": bytes(7)}, "roster digest"),
        ({"reporter": NodeId(bytes(32))}, "reporter"),
    ],
)
def test_a_report_out_of_bounds_cannot_be_made(report: GroupReport, change: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        attrs.evolve(report, **change)


def test_roster_and_rows_must_fit_each_other(report: GroupReport) -> None:
    with pytest.raises(ValueError, match="roster order"):
        attrs.evolve(report, rows=report.rows[::-1])
    with pytest.raises(ValueError, match="roster order"):
        attrs.evolve(report, rows=(*report.rows, report.rows[0]))
    with pytest.raises(ValueError, match="roster order"):
        attrs.evolve(report, roster=report.roster[:1])
    with pytest.raises(ValueError, match="twice"):
        attrs.evolve(report, roster=(*report.roster, report.roster[0]))
    with pytest.raises(ValueError, match="malformed row"):
        attrs.evolve(report, rows=(attrs.evolve(report.rows[0], digest=b""),))
    with pytest.raises(ValueError, match="a roster of 129"):
        report_of(129)


PLACES = {"group": 0, "epoch": 1, "reporter": 3, "roster": 4, "roster digest": 5, "presence": 6, "rows": 7, "root": 8, "expiry": 10}


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("group", b"short"),
        ("epoch", True),
        ("epoch", "five"),
        ("reporter", bytes(32)),
        ("roster", bytes(33)),
        ("roster digest", b""),
        ("presence", bytes([0b0111])),
        ("presence", bytes([0b1111])),
        ("presence", bytes([0b1011, 0])),
        ("presence", bytes([0b1011]) + bytes(10_000)),
        ("rows", []),
        ("rows", [1, 2, 3]),
        ("rows", [[1, 2, bytes(32)], [1, True, bytes(32)], [1, 2, bytes(32)]]),
        ("root", bytes(32)),
        ("expiry", 0),
    ],
)
def test_a_body_that_contradicts_itself_is_refused(report: GroupReport, place: str, value: object) -> None:
    body = unpack(report.encode(), bytes_max=BODY_BYTES_MAX)
    body[PLACES[place]] = value

    with pytest.raises(DecodeError):
        GroupReport.decode(pack(body))


@given(st.binary(max_size=400))
def test_random_bytes_raise_nothing_but_protocol_errors(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        GroupReport.decode(data)


json_like = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=40) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=8,
)


@given(st.data())
def test_random_fields_raise_nothing_but_protocol_errors(data: st.DataObject) -> None:
    body: list[Any] = unpack(report_of(3).encode(), bytes_max=BODY_BYTES_MAX)
    for place in data.draw(st.sets(st.integers(0, len(body) - 1), min_size=1, max_size=3)):
        body[place] = data.draw(json_like)
    try:
        encoded = pack(body)
        report = GroupReport.decode(encoded)
    except RemoteProtocolError:
        return
    assert encoded == report.encode()
