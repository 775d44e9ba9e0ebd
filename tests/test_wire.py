"""Canonical msgpack and the signed envelope."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srwan.errors import BadSignature, DecodeError, LimitExceeded, RemoteProtocolError
from srwan.identity import Identity
from srwan.wire import ENVELOPE_OVERHEAD_BYTES_MAX, Envelope, pack, signing_domain, unpack

ALICE = Identity(bytes(range(32)))
BOB = Identity(bytes(range(32, 64)))

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(min_value=-(2**63), max_value=2**64 - 1)
    | st.binary(max_size=40)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), inner, max_size=5).map(
            lambda value: dict(sorted(value.items()))
        )
    ),
    max_leaves=20,
)


# --- canonical msgpack -----------------------------------------------------------------------------------------------


@given(VALUES)
def test_every_value_comes_back(value: Any) -> None:
    assert value == unpack(pack(value), bytes_max=100_000)


@given(st.binary(max_size=200))
def test_random_bytes_decode_to_what_packs_to_them_or_are_refused(data: bytes) -> None:
    try:
        value = unpack(data, bytes_max=150)
    except RemoteProtocolError:
        return
    assert data == pack(value)


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (None, "c0"),
        (True, "c3"),
        (127, "7f"),
        (-1, "ff"),
        (2**64 - 1, "cfffffffffffffffff"),
        (b"ab", "c4026162"),
        ("ab", "a26162"),
        ([1, "a", b""], "9301a161c400"),
        ({"a": 1, "b": []}, "82a16101a16290"),
    ],
)
def test_golden_encodings(value: Any, encoded: str) -> None:
    assert encoded == pack(value).hex()
    assert value == unpack(bytes.fromhex(encoded), bytes_max=20)


@pytest.mark.parametrize(
    "value", [1.0, {"b": 1, "a": 2}, {1: 2}, {b"a": 1}, 2**64, -(2**63) - 1, {1, 2}, [[0.5]], object(), bytearray(b"a"), "\ud800"]
)
def test_what_has_no_canonical_encoding_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"canonical|rising order|64 bits|surrogates"):
        pack(value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",  # never used
        b"\xcc\x01",  # 1 in two bytes
        b"\xd9\x01a",  # "a" with a length byte
        b"\x82\xa1b\x01\xa1a\x02",  # keys out of order
        b"\x82\xa1a\x01\xa1a\x02",  # a key twice
        b"\x81\x01\x02",  # a key that is no string
        b"\xcb" + bytes(8),  # a float
        b"\xd4\x01\x00",  # an extension type
        b"\xd7\xff" + bytes(8),  # a timestamp
        b"\x01\x02",  # two values
        b"\x92\x01",  # truncated
        b"\xa1\xff",  # not UTF-8
        b"\xdd\xff\xff\xff\xff",  # a list of 2**32 - 1
        b"\x91" * 3_000 + b"\x01",  # nested 3,000 deep
    ],
)
def test_hostile_encodings_are_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        unpack(data, bytes_max=4_000)


def test_the_size_is_checked_before_anything_is_parsed() -> None:
    assert b"x" * 8 == unpack(pack(b"x" * 8), bytes_max=10)
    with pytest.raises(LimitExceeded, match="11 bytes, at most 10"):
        unpack(b"\xc1" * 11, bytes_max=10)


# --- envelopes -------------------------------------------------------------------------------------------------------


def test_a_sealed_envelope_opens_for_its_kind() -> None:
    envelope = Envelope.decode(Envelope.seal(ALICE, "row", b"body").encode(), bytes_max=300)

    assert ("row", ALICE.node_id, b"body") == (envelope.kind, envelope.signer, envelope.body)
    assert b"body" == envelope.verify("row")


def test_golden_envelope() -> None:
    golden = (
        "9501a3726f77c42003a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8c404626f64"
        "79c440984cdf93a43cb66f88f88db4c2048ab3465b03511586728f70e6717b3c107ce4dbc439f451828d0a90858b0d743ff6a24d01426d"
        "535845992a7a5fccf5eab701"
    )

    assert golden == Envelope.seal(ALICE, "row", b"body").encode().hex()
    assert b"body" == Envelope.decode(bytes.fromhex(golden), bytes_max=300).verify("row")
    assert b"srwan/row/1" == signing_domain("row")


def test_another_kind_is_refused_even_if_the_envelope_says_so() -> None:
    envelope = Envelope.seal(ALICE, "row", b"body")
    renamed = Envelope("report", envelope.signer, envelope.body, envelope.signature)

    with pytest.raises(DecodeError, match="of kind 'row', wanted 'report'"):
        envelope.verify("report")
    with pytest.raises(BadSignature):
        renamed.verify("report")


@pytest.mark.parametrize("part", ["signer", "body", "signature"])
def test_a_changed_part_is_not_authentic(part: str) -> None:
    envelope = Envelope.seal(ALICE, "row", b"body")
    other = Envelope.seal(BOB, "row", b"b0dy")
    parts = {name: getattr(envelope, name) for name in ("kind", "signer", "body", "signature")} | {part: getattr(other, part)}

    assert envelope.is_authentic()
    assert not Envelope(**parts).is_authentic()


def test_overhead_stays_below_its_bound() -> None:
    envelope = Envelope.seal(ALICE, "k" * 32, bytes(70_000))

    assert len(envelope.encode()) - len(envelope.body) <= ENVELOPE_OVERHEAD_BYTES_MAX


@pytest.mark.parametrize("kind", ["", "k" * 33, "a\x00b", "rö"])
def test_kinds_that_could_confuse_domains_are_refused(kind: str) -> None:
    data = pack([1, kind, ALICE.node_id, b"", bytes(64)])

    with pytest.raises(DecodeError, match="malformed envelope"):
        Envelope.decode(data, bytes_max=300)


@pytest.mark.parametrize("version", [0, 2, True, None, "1"])
def test_another_version_is_refused_and_counted_as_such(version: object) -> None:
    with pytest.raises(DecodeError) as caught:
        Envelope.decode(pack([version, "row", ALICE.node_id, b"", bytes(64)]), bytes_max=300)
    assert "version" == caught.value.reason


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        [1, "row", ALICE.node_id, b""],
        [1, "row", ALICE.node_id, b"", bytes(64), 0],
        [1, b"row", ALICE.node_id, b"", bytes(64)],
        [1, "row", bytes(31), b"", bytes(64)],
        [1, "row", ALICE.node_id, b"", bytes(63)],
        [1, "row", ALICE.node_id, "", bytes(64)],
    ],
)
def test_what_is_no_envelope_is_refused(value: Any) -> None:
    with pytest.raises(DecodeError):
        Envelope.decode(bytes(msgpack.packb(value) or b""), bytes_max=300)


@given(st.binary(max_size=300))
def test_random_bytes_raise_only_remote_protocol_errors(data: bytes) -> None:
    try:
        envelope = Envelope.decode(data, bytes_max=250)
    except RemoteProtocolError:
        return
    assert not envelope.is_authentic()


@given(VALUES)
def test_random_values_raise_only_remote_protocol_errors(value: Any) -> None:
    try:
        envelope = Envelope.decode(pack(value), bytes_max=1_000)
    except RemoteProtocolError:
        return
    assert not envelope.is_authentic()


@given(st.integers(0, 111), st.integers(0, 7))
def test_one_flipped_bit_never_gives_an_authentic_envelope(at: int, bit: int) -> None:
    data = bytearray(Envelope.seal(ALICE, "row", b"body").encode())
    data[at % len(data)] ^= 1 << bit
    try:
        Envelope.decode(bytes(data), bytes_max=300).verify("row")
    except RemoteProtocolError:
        return
    pytest.fail(f"byte {at % len(data)}, bit {bit}: accepted")
