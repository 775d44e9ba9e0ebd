"""The receipt: who signs what, bounds, bytes, and its publication."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srwan.errors import BadSignature, DecodeError, RemoteProtocolError
from srwan.identity import Identity
from srwan.ledger_client.accounting.receipt import RECEIPT_BYTES_MAX, Receipt, receipt_of_statement
from srwan.ledger_client.record import verify
from srwan.ledger_client.statement import Statement
from srwan.types import NodeId

node_ids = st.binary(min_size=32, max_size=32).map(NodeId)
counts = st.integers(0, 2**63 - 1)
raw = st.integers(-(2**62), 2**62)
signatures = st.sampled_from([b"", bytes(64)])
receipts = st.builds(
    Receipt,
    st.binary(min_size=32, max_size=32), node_ids, node_ids, counts, counts, counts, counts, raw, raw, raw, counts, signatures, signatures,
)  # fmt: skip


@given(receipt=receipts)
def test_it_is_read_as_it_was_written(receipt: Receipt) -> None:
    assert receipt == Receipt.decode(receipt.encode())
    assert len(receipt.encode()) <= RECEIPT_BYTES_MAX


@given(data=st.binary(max_size=300))
def test_random_bytes_are_refused_as_the_peers_fault(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        Receipt.decode(data)


def test_egress_signs_and_consumer_countersigns(deal: Any) -> None:
    receipt = deal.receipt(1_000)
    receipt.verify(is_accepted=True)
    attrs.evolve(receipt, countersignature=b"").verify(is_accepted=False)
    with pytest.raises(BadSignature):
        attrs.evolve(receipt, countersignature=b"").verify(is_accepted=True)
    with pytest.raises(BadSignature):
        receipt.verify(is_accepted=False)
    with pytest.raises(ValueError, match="egress"):
        receipt.sign(deal.consumer)
    with pytest.raises(ValueError, match="consumer"):
        receipt.countersign(deal.egress)
    with pytest.raises(ValueError, match="signed"):
        attrs.evolve(receipt, signature=b"").countersign(deal.consumer)


@pytest.mark.parametrize("field", ["octets", "packets", "measured_us", "direct_us", "sequence", "boot", "wall_ns"])
def test_nothing_of_it_can_be_altered(deal: Any, field: str) -> None:
    receipt = deal.receipt(1_000)
    altered = attrs.evolve(receipt, **{field: getattr(receipt, field) + 1})
    with pytest.raises(BadSignature):
        altered.verify(is_accepted=True)


def test_the_two_signatures_cannot_stand_for_each_other(deal: Any) -> None:
    receipt = deal.receipt(1_000)
    with pytest.raises(BadSignature):
        attrs.evolve(receipt, signature=receipt.countersignature, countersignature=receipt.signature).verify(is_accepted=True)


@pytest.mark.parametrize("field", ["octets", "packets", "boot", "sequence", "wall_ns"])
@pytest.mark.parametrize("value", [-1, 2**63])
def test_counts_out_of_bounds_are_refused(deal: Any, field: str, value: int) -> None:
    with pytest.raises(ValueError, match="out of bounds"):
        attrs.evolve(deal.receipt(1_000), **{field: value})


def test_the_egress_publishes_it_under_the_session(deal: Any) -> None:
    receipt = deal.receipt(1_000)
    statement = receipt.statement(issued_ns=10**18, expires_ns=10**18 + 10**9)
    record = statement.record(deal.egress)
    verify(record)
    assert receipt == receipt_of_statement(Statement.of_record(record))
    with pytest.raises(ValueError, match="signed"):
        statement.record(deal.consumer)


def test_one_that_is_filed_under_another_name_is_refused(deal: Any) -> None:
    statement = deal.receipt(1_000).statement(issued_ns=10**18, expires_ns=10**18 + 10**9)
    stranger = Identity(bytes([99]) * 32).node_id
    for change in ({"subject": stranger}, {"topic": bytes(32)}):
        with pytest.raises(DecodeError, match="another"):
            receipt_of_statement(attrs.evolve(statement, **change))
