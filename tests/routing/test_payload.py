"""What is inside the end-to-end seal."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srwan.errors import DecodeError
from srwan.routing.payload import DATA_BYTES_MAX, RAW_NS_MAX, Ack, KeepAlive, Payload, PayloadKind, raw_latency_ns

u32, u64, i64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.integers(-(2**63), 2**63 - 1)
acks = st.builds(Ack, u64, u64, i64, u64, u64, st.none() | st.integers(-(2**63) + 1, 2**63 - 1), u64)
keepalives = st.builds(KeepAlive, u64, u64)


def test_data_has_the_documented_bytes() -> None:
    encoded = Payload(PayloadKind.DATA, 7, 9, -2, b"hello").encode()
    assert bytes.fromhex("01 00 0000 07000000 0900000000000000 feffffffffffffff") + b"hello" == encoded


def test_ack_has_the_documented_bytes() -> None:
    expected = b"".join(value.to_bytes(8, "little", signed=value < 0) for value in (1, 2, -3, 4, 5, -(2**63), 7))
    assert expected == Ack(1, 2, -3, 4, 5, None, 7).encode()


def test_keepalive_is_as_long_as_an_ack_so_that_answering_amplifies_nothing() -> None:
    assert len(Ack(1, 2, 3, 4, 5, 6, 7).encode()) == len(KeepAlive(1, 2).encode())
    assert struct.pack("<QQ", 1, 2) + bytes(40) == KeepAlive(1, 2).encode()


@given(u32, u64, i64, st.binary(max_size=DATA_BYTES_MAX))
def test_data_survives_encoding(flow: int, seq: int, tx_ns: int, body: bytes) -> None:
    payload = Payload(PayloadKind.DATA, flow, seq, tx_ns, body)
    assert payload == Payload.decode(payload.encode())


@given(acks)
def test_ack_survives_encoding(ack: Ack) -> None:
    assert ack == Ack.decode(ack.encode())


@given(keepalives)
def test_keepalive_survives_encoding(keepalive: KeepAlive) -> None:
    assert keepalive == KeepAlive.decode(keepalive.encode())


@given(st.binary(max_size=1300))
def test_random_bytes_raise_nothing_but_decode_errors(data: bytes) -> None:
    for decode in (Payload.decode, Ack.decode, KeepAlive.decode):
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
        (bytes([5]) + bytes(23), "payload-kind"),
        (bytes([1, 1]) + bytes(22), "payload-flags"),
        (bytes([1, 0, 1, 0]) + bytes(20), "payload-flags"),
        (bytes([1]) + bytes(23 + DATA_BYTES_MAX + 1), "payload-length"),
        (bytes([2]) + bytes(23 + 16), "payload-length"),
        (bytes([3]) + bytes(23 + 57), "payload-length"),
        (bytes([4]) + bytes(24), "payload-length"),
    ],
)
def test_malformed_payload_is_refused_by_reason(plaintext: bytes, reason: str) -> None:
    with pytest.raises(DecodeError) as caught:
        Payload.decode(plaintext)
    assert reason == caught.value.reason


def test_keepalive_with_padding_that_is_not_zero_is_refused() -> None:
    with pytest.raises(DecodeError) as caught:
        KeepAlive.decode(bytes(55) + b"\1")
    assert caught.value.reason == "payload-flags"


def test_own_payload_with_a_wrong_body_is_refused_before_it_is_sent() -> None:
    with pytest.raises(ValueError, match="KEEPALIVE body of 16 bytes, not 56"):
        Payload(PayloadKind.KEEPALIVE, 0, 0, 0, bytes(16)).encode()


@given(i64, i64)
def test_raw_latency_always_fits_an_ack(rx_ns: int, tx_ns: int) -> None:
    raw_ns = raw_latency_ns(rx_ns, tx_ns)
    assert raw_ns == Ack.decode(Ack(0, 0, raw_ns, 0, 0, raw_ns, 0).encode()).mean_raw_ns
    assert raw_ns == rx_ns - tx_ns or abs(raw_ns) == RAW_NS_MAX
