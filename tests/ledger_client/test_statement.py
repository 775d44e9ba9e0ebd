from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srwan.errors import BadSignature, DecodeError, LimitExceeded, RemoteProtocolError, StaleRecord
from srwan.identity import Identity
from srwan.ledger_client.record import CONTENT_BYTES_MAX, STATEMENT_LIFETIME_S_MAX, Kind, Record, Version, check, require_current, verify
from srwan.ledger_client.report import NS_PER_S
from srwan.ledger_client.statement import MARKET_GROUP, Statement
from srwan.ledger_client.statement_body import StatementBody
from srwan.types import GeoAsn, NodeId
from srwan.wire import Envelope, pack

Make = Callable[..., Record]
MakeStatement = Callable[..., Statement]
SIGNER = Identity(bytes(32))


@pytest.mark.parametrize("kind", sorted(CONTENT_BYTES_MAX))
def test_a_statement_comes_back_from_its_record(
    make_statement: MakeStatement, identities: tuple[Identity, ...], wall_ns: int, kind: Kind
) -> None:
    statement = make_statement(1, 7, kind=kind, topic=b"topic", content=bytes(CONTENT_BYTES_MAX[kind]))
    record = statement.record(identities[1], GeoAsn("DE", asn=3320), epoch=4)
    check(record, wall_ns)

    assert statement == Statement.of_record(record)
    assert (statement.key, statement.version, statement.expires_ns) == (record.key, record.version, record.expires_ns)
    assert ("DE", 3320, 4) == (record.country, record.asn, record.epoch)


def test_each_kind_has_a_domain_of_its_own(make_statement: MakeStatement, identities: tuple[Identity, ...]) -> None:
    record = make_statement(0, kind=Kind.CLAIM).record(identities[0])
    told = Envelope.decode(record.envelope, bytes_max=40_000)

    assert "ditex-claim" == told.kind
    with pytest.raises(DecodeError):
        verify(attrs.evolve(record, kind=Kind.VERDICT))
    with pytest.raises(BadSignature):
        verify(attrs.evolve(record, kind=Kind.VERDICT, envelope=attrs.evolve(told, kind="ditex-verdict").encode()))


@pytest.mark.parametrize(
    "change",
    [{"topic": b"other"}, {"group": b"\x01" * 32}, {"version": Version(0, 0)}, {"country": "US"}, {"asn": 1}, {"expires_ns": 1}],
)
def test_a_statement_filed_otherwise_than_it_was_signed_is_refused(make_statement_record: Make, change: dict[str, Any]) -> None:
    with pytest.raises(DecodeError) as refused:
        verify(attrs.evolve(make_statement_record(0, topic=b"topic"), **change))
    assert "filed-wrong" == refused.value.reason


def test_the_epoch_is_an_index_only(make_statement_record: Make) -> None:
    verify(attrs.evolve(make_statement_record(0), epoch=9))


def test_a_statement_is_signed_by_its_subject_only(make_statement: MakeStatement, identities: tuple[Identity, ...]) -> None:
    with pytest.raises(ValueError, match="cannot be signed"):
        make_statement(0).record(identities[1])


@pytest.mark.parametrize(
    "change",
    [
        {"kind": Kind.ROW},
        {"group": b""},
        {"topic": bytes(33)},
        {"version": Version(-1, 0)},
        {"version": Version(0, 2**63)},
        {"issued_ns": -1},
        {"expires_ns": 0},
        {"content": bytes(16 * 1024 + 1)},
    ],
)
def test_a_statement_out_of_bounds_cannot_be_made(make_statement: MakeStatement, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        attrs.evolve(make_statement(0), **change)


def test_a_statement_lives_up_to_its_bound_and_no_longer(
    make_statement: MakeStatement, identities: tuple[Identity, ...], wall_ns: int
) -> None:
    record = make_statement(0, lifetime_s=STATEMENT_LIFETIME_S_MAX).record(identities[0])
    check(record, wall_ns)
    with pytest.raises(LimitExceeded) as refused:
        require_current(record, wall_ns - 61 * NS_PER_S)
    assert "lifetime" == refused.value.reason
    with pytest.raises(StaleRecord):
        require_current(record, record.expires_ns)
    with pytest.raises(ValueError, match="lives up to"):
        make_statement(0, lifetime_s=STATEMENT_LIFETIME_S_MAX + 1)


def test_topics_belong_to_statements(make_row: Make, make_statement_record: Make) -> None:
    for record, topic in ((make_row(0), b"x"), (make_statement_record(0), bytes(33))):
        with pytest.raises(ValueError, match="a topic of"):
            attrs.evolve(record, topic=topic)


def test_other_records_hold_no_statement(make_row: Make, make_statement_record: Make) -> None:
    with pytest.raises(DecodeError, match="is no statement"):
        Statement.of_record(make_row(0))
    with pytest.raises(DecodeError, match="holds an envelope of kind"):
        Statement.of_record(attrs.evolve(make_statement_record(0), kind=Kind.PATH))


def test_a_content_over_the_cap_is_refused_although_signed(make_statement: MakeStatement, identities: tuple[Identity, ...]) -> None:
    """The envelope of another kind may be longer; the body's own bound holds."""
    statement = make_statement(0)
    body = StatementBody(
        MARKET_GROUP, b"", *statement.version, statement.issued_ns, statement.expires_ns, "ZZ", 0, bytes(CONTENT_BYTES_MAX[Kind.OFFER] + 1)
    )
    envelope = Envelope.seal(identities[0], "ditex-offer", body.encode()).encode()
    record = Record(Kind.OFFER, MARKET_GROUP, identities[0].node_id, statement.version, statement.expires_ns, envelope)
    with pytest.raises(LimitExceeded):
        verify(record)
    with pytest.raises(LimitExceeded):
        Statement.of_record(record)


@given(
    st.sampled_from(sorted(CONTENT_BYTES_MAX)),
    st.binary(max_size=200)
    | st.lists(st.one_of(st.binary(max_size=40), st.integers(-(2**63), 2**64 - 1), st.text(max_size=3)), max_size=10).map(pack),
)
def test_signed_nonsense_raises_nothing_but_protocol_errors(kind: Kind, body: bytes) -> None:
    envelope = Envelope.seal(SIGNER, f"ditex-{kind}", body).encode()
    record = Record(kind, bytes(32), SIGNER.node_id, Version(1, 1), 1, envelope)
    for use in (verify, Statement.of_record):
        with pytest.raises(RemoteProtocolError):
            use(record)


@given(
    group=st.binary(min_size=32, max_size=32),
    topic=st.binary(max_size=32),
    version=st.tuples(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1)),
    issued_ns=st.integers(0, 2**62),
    asn=st.integers(0, 2**32 - 1),
    content=st.binary(max_size=300),
)
def test_every_statement_survives_the_round_trip(
    group: bytes, topic: bytes, version: tuple[int, int], issued_ns: int, asn: int, content: bytes
) -> None:
    said = Statement(Kind.PATH, group, NodeId(SIGNER.node_id), topic, Version(*version), issued_ns, issued_ns + 1, content)
    record = said.record(SIGNER, GeoAsn("LT", asn=asn))
    verify(record)
    assert said == Statement.of_record(record)
