"""What a member signs: both forms, codes, and hostile bytes."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srwan.errors import DecodeError, RemoteProtocolError
from srwan.gossip.row import (
    ENTRIES_MAX,
    OWL_NONE,
    OWL_OUTSIDE,
    ClockClaim,
    Row,
    decode_owl_ms,
    encode_jitter,
    encode_loss,
    encode_owl,
    entry_id,
    jitter_ms,
    loss_share,
    open_row,
    seal_row,
    version_of_row,
)
from srwan.identity import Identity
from srwan.overlay.frame import CONTENT_BYTES_MAX
from srwan.types import NodeId

DATA = Path(__file__).parent.parent / "data"
GROUP = bytes(range(32))
SIGNER = Identity(bytes([7]) * 32)


def row_of(n: int, *, is_described: bool) -> Row:
    members = sorted(Identity(bytes([index]) * 32).node_id for index in range(1, n + 1))
    ids = np.array([entry_id(node) for node in members], np.uint32) if is_described else None
    codes = np.arange(n, dtype=np.uint16) * 500
    small = np.arange(n, dtype=np.uint8)
    return Row(
        node_id=SIGNER.node_id,
        boot=17,
        seq=3,
        stamp_ns=1_700_000_000_123_456_789,
        roster_digest=b"roster-8",
        clock_epoch=2,
        health=1,
        octets_in=10**12,
        octets_out=10**11,
        octets_relayed=10**10,
        base_us=-5_000_000,
        count=n,
        is_described=is_described,
        entries=Row.pack_entries(ids, codes, small % 16, small[::-1] % 16),
        clock=ClockClaim(-1_500, 42_000, 300, 120),
    )


@pytest.mark.parametrize(("name", "is_described"), [("row-slot-order.bin", False), ("row-described.bin", True)])
def test_the_encoding_is_the_one_on_file(name: str, *, is_described: bool) -> None:
    content = (DATA / name).read_bytes()
    row = row_of(5, is_described=is_described)
    assert content == seal_row(row, SIGNER, GROUP).content
    assert row == open_row(SIGNER.node_id, content).row


def test_entries_come_back_as_they_were_packed() -> None:
    row = open_row(SIGNER.node_id, seal_row(row_of(4, is_described=True), SIGNER, GROUP).content).row
    assert [0, 500, 1000, 1500] == row.owl.tolist()
    assert [0, 1, 2, 3] == row.jitter.tolist()
    assert [3, 2, 1, 0] == row.loss.tolist()
    members = sorted(Identity(bytes([index]) * 32).node_id for index in range(1, 5))
    assert row.ids is not None
    assert [entry_id(node) for node in members] == row.ids.tolist()
    assert open_row(SIGNER.node_id, seal_row(row_of(4, is_described=False), SIGNER, GROUP).content).row.ids is None


def test_the_largest_row_fits_one_frame() -> None:
    described = seal_row(row_of(ENTRIES_MAX, is_described=True), SIGNER, GROUP)
    assert len(described.content) == 1032 <= CONTENT_BYTES_MAX
    assert 436 == len(seal_row(row_of(100, is_described=False), SIGNER, GROUP).content)


def test_what_is_measured_is_counted() -> None:
    codes = np.array([OWL_NONE, 5, OWL_OUTSIDE, 0], np.uint16)
    row = attrs.evolve(row_of(4, is_described=False), entries=Row.pack_entries(None, codes, np.zeros(4, np.uint8), np.zeros(4, np.uint8)))
    assert 2 == row.known
    assert 2 == open_row(SIGNER.node_id, seal_row(row, SIGNER, GROUP).content).row.known


def test_a_clock_is_claimed_whole_or_not_at_all() -> None:
    unknown = attrs.evolve(row_of(2, is_described=False), clock=None)
    content = bytearray(seal_row(unknown, SIGNER, GROUP).content)
    assert open_row(SIGNER.node_id, bytes(content)).row.clock is None
    for place in (124, 128, 132, 134):  # offset, drift, their errors
        altered = content.copy()
        altered[place] ^= 1
        with pytest.raises(DecodeError):
            open_row(SIGNER.node_id, bytes(altered))


def test_a_signature_holds_for_its_signer_and_group_only() -> None:
    signed = seal_row(row_of(3, is_described=False), SIGNER, GROUP)
    other = Identity(bytes([8]) * 32).node_id
    assert signed.is_authentic(GROUP)
    assert not signed.is_authentic(bytes(32))
    assert not open_row(other, signed.content).is_authentic(GROUP)
    altered = signed.content[:-1] + bytes([signed.content[-1] ^ 1])
    assert not open_row(SIGNER.node_id, altered).is_authentic(GROUP)


def test_nobody_signs_for_another() -> None:
    with pytest.raises(ValueError, match="cannot be signed"):
        seal_row(row_of(3, is_described=False), Identity(bytes([8]) * 32), GROUP)


@pytest.mark.parametrize("change", [{"seq": 2**32}, {"health": 256}, {"count": 4}, {"stamp_ns": 2**63}])
def test_a_row_out_of_range_is_refused_before_it_is_signed(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"row field|do not hold"):
        attrs.evolve(row_of(3, is_described=False), **change).encode()


@pytest.mark.parametrize(
    ("at", "value", "reason"),
    [(64, 0x20, "version"), (64, 0x12, "version"), (67, 9, "decode"), (67, 255, "decode"), (83, 0x80, "decode"), (99, 0x7F, "decode")],
)
def test_a_malformed_content_is_refused(at: int, value: int, reason: str) -> None:
    content = bytearray(seal_row(row_of(5, is_described=False), SIGNER, GROUP).content)
    content[at] = value
    with pytest.raises(DecodeError) as caught:
        open_row(SIGNER.node_id, bytes(content))
    assert reason == caught.value.reason


def test_every_truncation_is_refused() -> None:
    content = seal_row(row_of(5, is_described=True), SIGNER, GROUP).content
    for length in range(len(content)):
        with pytest.raises(DecodeError):
            open_row(SIGNER.node_id, content[:length])


@given(st.binary(max_size=1300))
def test_random_bytes_raise_nothing_but_remote_errors(content: bytes) -> None:
    try:
        row = open_row(NodeId(bytes(32)), content).row
    except RemoteProtocolError:
        return
    assert content[64:] == row.encode()


@given(st.integers(0, 128), st.booleans(), st.binary(min_size=1100, max_size=1100))
def test_well_formed_lengths_decode_and_encode_to_the_same_bytes(n: int, is_described: bool, noise: bytes) -> None:
    body = bytes([0x11 if is_described else 0x10, noise[0], noise[1], n]) + noise[2:10] + bytes(8) + noise[10:18] + bytes(8) + noise[18:42]
    body += noise[42:50] + b"\x01\x00\x02\x00" + noise[50 : 50 + n * (7 if is_described else 3)]
    row = Row.decode(NodeId(bytes(32)), body)
    assert body == row.encode()
    assert n == len(row.owl) == len(row.jitter) == len(row.loss)


@given(
    st.sampled_from([0x10, 0x11, 0x12, 0x20]),
    st.integers(0, 129),
    st.sampled_from([3, 7, 8]),
    st.sampled_from([b"\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff", b"\x01" * 12, b"\x01" * 8 + b"\xff\xff\x01\x01"]),
    st.binary(min_size=46, max_size=46),
)
def test_the_version_is_read_of_just_what_decodes(first: int, count: int, entry_bytes: int, clock: bytes, noise: bytes) -> None:
    body = bytes([first, noise[0], noise[1], count]) + noise[:12] + bytes(4) + noise[12:22] + bytes(6) + noise[22:46] + clock
    body += bytes(count * entry_bytes)
    assert outcome_of(lambda: version_of_row(body)) == outcome_of(lambda: attrgetter("boot", "seq")(Row.decode(SIGNER.node_id, body)))


def outcome_of(call: Callable[[], Any]) -> Any:
    """What is returned, or what is raised in its place."""
    try:
        return call()
    except DecodeError as error:
        return str(error), error.reason


@given(st.lists(st.one_of(st.none(), st.floats(-300, 300)), min_size=1, max_size=100), st.floats(-3e6, 3e6))
def test_latencies_within_the_span_survive_to_ten_microseconds(values: list[float | None], offset_ms: float) -> None:
    raw_ms = np.array([np.nan if value is None else value + offset_ms for value in values])
    base_us, codes = encode_owl(raw_ms)
    told_ms = decode_owl_ms(codes, base_us)
    assert np.isnan(raw_ms).tolist() == np.isnan(told_ms).tolist()
    assert np.all(np.abs(told_ms - raw_ms)[~np.isnan(raw_ms)] <= 0.00501)


def test_one_wild_clock_does_not_push_the_others_out_of_range() -> None:
    raw_ms = np.array([10.0, 20.0, -9_000.0, 30.0, np.nan, 1e12])
    base_us, codes = encode_owl(raw_ms)
    assert [10.0, 20.0, 30.0] == decode_owl_ms(codes, base_us)[[0, 1, 3]].tolist()
    assert [OWL_OUTSIDE, OWL_NONE, OWL_NONE] == codes[[2, 4, 5]].tolist()


def test_jitter_codes_are_monotonic_and_within_a_factor_of_one_and_a_half() -> None:
    assert (np.diff(jitter_ms(np.arange(16, dtype=np.uint8))) > 0).all()
    for jitter in (0.1, 1.0, 13.0, 700.0):
        told = float(jitter_ms(encode_jitter([jitter]))[0])
        assert 1 / 1.5 <= told / jitter <= 1.5
    assert (0, 0, 15) == tuple(encode_jitter([0.0, -1.0, 1e9]))


def test_loss_codes_span_zero_to_one() -> None:
    assert [0, 2, 15, 15, 0] == encode_loss([0.0, 0.01, 1.0, 2.0, -1.0]).tolist()
    assert [0.0, 0.01, 1.0] == loss_share(np.array([0, 2, 15], np.uint8)).tolist()
    for loss in np.linspace(0, 1, 101):
        assert abs(loss_share(encode_loss([float(loss)]))[0] - loss) <= max(0.003, 0.26 * loss)
