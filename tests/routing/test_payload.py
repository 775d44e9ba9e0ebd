"""What is inside the end-to-end seal."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srwan.errors import DecodeError
from srwan.routing.payload import (
    DATA_BYTES_MAX,
    RAW_NS_MAX,
    TUNNEL_FLOW_MIN,
    Ack,
    DataFlags,
    KeepAlive,
    Notice,
    NoticeReason,
    Payload,
    PayloadKind,
    raw_latency_ns,
    split_data,
)

u32, u64, i64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.integers(-(2**63), 2**63 - 1)
maybe_ns = st.none() | st.integers(-(2**63) + 1, 2**63 - 1)
acks = st.builds(Ack, u64, u64, i64, u64, u64, maybe_ns, u64, u32, u32, st.booleans())
locators = st.binary(min_size=8, max_size=8)
ways = st.none() | st.lists(locators, max_size=3).map(tuple)
keepalives = st.builds(KeepAlive, u64, u64, maybe_ns, st.integers(0, 1_000_000), st.integers(0, 2**16 - 1), ways, st.booleans())
notices = st.builds(Notice, st.sampled_from(NoticeReason), locators, st.integers(0, 1000))


def test_data_has_the_documented_bytes() -> None:
    encoded = Payload(PayloadKind.DATA, 7, 9, -2, b"hello").encode()
    assert bytes.fromhex("01 00 0000 07000000 0900000000000000 feffffffffffffff") + b"hello" == encoded


def test_ordered_and_repeated_data_have_the_documented_bytes() -> None:
    encoded = Payload(PayloadKind.DATA, 7, 9, 1, b"x", DataFlags.REPEATED | DataFlags.ORDERED, 50).encode()
    assert bytes.fromhex("01 03 3200 07000000 0900000000000000 0100000000000000") + b"x" == encoded


def test_ack_has_the_documented_bytes() -> None:
    expected = b"".join(value.to_bytes(8, "little", signed=value < 0) for value in (1, 2, -3, 4, 5, -(2**63), 7))
    assert expected + struct.pack("<IIB7x", 8, 9, 1) == Ack(1, 2, -3, 4, 5, None, 7, 8, 9, is_for_data=True).encode()


def test_keepalive_is_as_long_as_an_ack_so_that_answering_amplifies_nothing() -> None:
    assert len(Ack(1, 2, 3, 4, 5, 6, 7).encode()) == len(KeepAlive(1, 2).encode())


def test_keepalive_has_the_documented_bytes() -> None:
    assert struct.pack("<QQq", 1, 2, -(2**63)) + bytes(48) == KeepAlive(1, 2).encode()
    full = KeepAlive(1, 2, -3, 4, 5, (b"relay..1", b"relay..2"), is_once=True)
    assert struct.pack("<QQqIHBB", 1, 2, -3, 4, 5, 3, 1) + b"relay..1relay..2" + bytes(24) == full.encode()
    assert KeepAlive.decode(KeepAlive(0, 0, back=()).encode()).back == ()


def test_notice_has_the_documented_bytes() -> None:
    assert b"locator." + bytes.fromhex("0200 f401 00000000") == Notice(NoticeReason.NO_MEMBER, b"locator.", 500).encode()


@given(u32, u64, i64, st.binary(max_size=DATA_BYTES_MAX))
def test_data_survives_encoding(flow: int, seq: int, tx_ns: int, body: bytes) -> None:
    payload = Payload(PayloadKind.DATA, flow, seq, tx_ns, body)
    assert payload == Payload.decode(payload.encode())


@given(acks)
def test_ack_survives_encoding(ack: Ack) -> None:
    assert ack == Ack.decode(ack.encode())


@given(notices)
def test_notice_survives_encoding(notice: Notice) -> None:
    assert notice == Notice.decode(notice.encode())


@given(keepalives)
def test_keepalive_survives_encoding(keepalive: KeepAlive) -> None:
    assert keepalive == KeepAlive.decode(keepalive.encode())


@given(st.binary(max_size=1300))
def test_random_bytes_raise_nothing_but_decode_errors(data: bytes) -> None:
    for decode in (Payload.decode, Ack.decode, KeepAlive.decode, Notice.decode):
        try:
            value = decode(data)
        except DecodeError:
            continue
        assert data == value.encode()


@given(st.binary(min_size=72, max_size=72), st.binary(min_size=16, max_size=16))
def test_bytes_of_the_right_length_raise_nothing_but_decode_errors(body: bytes, short: bytes) -> None:
    for decode, data in ((Ack.decode, body), (KeepAlive.decode, body), (Notice.decode, short)):
        try:
            value = decode(data)
        except DecodeError:
            continue
        assert data == value.encode()


@given(st.binary(min_size=24, max_size=100), st.sampled_from(PayloadKind))
def test_bytes_that_start_like_a_payload_raise_nothing_but_decode_errors(data: bytes, kind: PayloadKind) -> None:
    data = bytes([kind, 0, 0, 0]) + data[4:]
    try:
        payload = Payload.decode(data)
    except DecodeError:
        return
    assert data == payload.encode()


@pytest.mark.parametrize(
    ("plaintext", "reason"),
    [
        (bytes(23), "payload-length"),
        (bytes(24), "payload-kind"),
        (bytes([6]) + bytes(23), "payload-kind"),
        (bytes([1, 4]) + bytes(22), "payload-flags"),
        (bytes([1, 1, 1, 0]) + bytes(20), "payload-flags"),
        (bytes([3, 1]) + bytes(22 + 72), "payload-flags"),
        (bytes([1, 0, 1, 0]) + bytes(20), "payload-flags"),
        (bytes([1]) + bytes(23 + DATA_BYTES_MAX + 1), "payload-length"),
        (bytes([2]) + bytes(23 + 16), "payload-length"),
        (bytes([3]) + bytes(23 + 71), "payload-length"),
        (bytes([4]) + bytes(24), "payload-length"),
        (bytes([5]) + bytes(23), "payload-length"),
    ],
)
def test_malformed_payload_is_refused_by_reason(plaintext: bytes, reason: str) -> None:
    with pytest.raises(DecodeError) as caught:
        Payload.decode(plaintext)
    assert reason == caught.value.reason


@pytest.mark.parametrize(
    "body",
    [
        bytes(71) + b"\1",
        bytes(24) + struct.pack("<IHBB", 1_000_001, 0, 0, 0) + bytes(40),
        bytes(24) + struct.pack("<IHBB", 0, 0, 5, 0) + bytes(40),
        bytes(24) + struct.pack("<IHBB", 0, 0, 0, 2) + bytes(40),
        bytes(24) + struct.pack("<IHBB", 0, 0, 2, 0) + bytes(8) + b"relay..2" + bytes(24),
    ],
)
def test_keepalive_with_impossible_values_is_refused(body: bytes) -> None:
    with pytest.raises(DecodeError) as caught:
        KeepAlive.decode(body)
    assert caught.value.reason == "payload-flags"


@pytest.mark.parametrize("change", [(8, 0), (8, 4), (9, 1), (11, 4), (12, 1)])
def test_notice_with_impossible_values_is_refused(change: tuple[int, int]) -> None:
    body = bytearray(Notice(NoticeReason.NO_SESSION, b"locator.").encode())
    body[change[0]] = change[1]
    with pytest.raises(DecodeError) as caught:
        Notice.decode(bytes(body))
    assert caught.value.reason == "payload-flags"


def test_own_bodies_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="4 relays"):
        KeepAlive(0, 0, back=(bytes(8),) * 4).encode()
    with pytest.raises(ValueError, match="8 bytes, not 7"):
        Notice(NoticeReason.NO_SESSION, bytes(7)).encode()


def test_own_payload_with_a_wrong_body_is_refused_before_it_is_sent() -> None:
    with pytest.raises(ValueError, match="KEEPALIVE body of 16 bytes, not 72"):
        Payload(PayloadKind.KEEPALIVE, 0, 0, 0, bytes(16)).encode()


@given(i64, i64)
def test_raw_latency_always_fits_an_ack(rx_ns: int, tx_ns: int) -> None:
    raw_ns = raw_latency_ns(rx_ns, tx_ns)
    assert raw_ns == Ack.decode(Ack(0, 0, raw_ns, 0, 0, raw_ns, 0).encode()).mean_raw_ns
    assert raw_ns == rx_ns - tx_ns or abs(raw_ns) == RAW_NS_MAX


@given(st.binary(max_size=60), st.sampled_from([b"\x01\0\0\0", b"\x01\0\0\0\x02\xff\xff\xff", b"\x01\x01\0\0", b"\x04\0\0\0", b""]))
def test_the_quick_look_at_data_reads_what_decoding_reads(noise: bytes, start: bytes) -> None:
    plaintext = start + noise
    try:
        payload = Payload.decode(plaintext)
    except DecodeError:
        assert split_data(plaintext) is None
        return
    is_usual = (payload.kind, payload.flags, payload.hold_ms) == (PayloadKind.DATA, 0, 0) and payload.flow < TUNNEL_FLOW_MIN
    assert ((payload.flow, payload.seq, payload.tx_ns) if is_usual else None) == split_data(plaintext)


def test_the_quick_look_at_data_knows_the_longest() -> None:
    longest = Payload(PayloadKind.DATA, 1, 2, 3, bytes(DATA_BYTES_MAX)).encode()
    assert ((1, 2, 3), None) == (split_data(longest), split_data(longest + b"x"))
