"""The bytes of session datagrams, and whom they speak of."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from srwan.errors import BadSignature, DecodeError
from srwan.identity import Identity, x25519_public_key
from srwan.overlay.handshake import Handshaker, Hello, datagram_type, response_index
from srwan.testing.session_pair import HIGH, LOW, WALL_0_NS, SessionPair
from srwan.types import NodeId

GOLDEN = Path(__file__).parent.parent / "data"


def golden(name: str, data: bytes) -> None:
    assert (GOLDEN / name).read_bytes() == data


def test_datagrams_are_the_golden_bytes() -> None:
    pair = SessionPair(7)
    seen: dict[int, bytes] = {}
    pair.connect(pair.a)
    while pair.now < 1001:
        for entry in pair.wire:
            seen.setdefault(entry[3][1], entry[3])
        if not pair.step(1001):
            break
    golden("session-init.bin", seen[1])
    golden("session-response.bin", seen[2])
    golden("session-confirm.bin", seen[3])
    golden("session-confirmed.bin", seen[4])
    responder = Handshaker(HIGH)
    golden("session-cookie.bin", responder.give_cookie(responder.require_mac1(seen[1]), b"c" * 16, b"n" * 12))


def test_cookie_has_the_documented_bytes() -> None:
    """Derived here from the description alone."""
    init = (GOLDEN / "session-init.bin").read_bytes()
    header = bytes([0x12, 5, 0, 0]) + init[144:160]
    key = hashlib.blake2b(HIGH.node_id, digest_size=32, person=b"srwan/cookie/1").digest()
    assert header + b"n" * 12 + AESGCM(key).encrypt(b"n" * 12, b"c" * 16, header) == (GOLDEN / "session-cookie.bin").read_bytes()


def test_second_mac_covers_all_before_it_and_shows_who_holds_the_cookie() -> None:
    started = Handshaker(LOW).start(HIGH.node_id, index=11, timestamp_ns=WALL_0_NS, ephemeral=bytes([5]) * 32)
    cookie = bytes(range(16))
    init = started.datagram(cookie)
    assert started.datagram()[:160] == init[:160]
    assert bytes(16) == started.datagram()[160:]
    assert hashlib.blake2b(init[:160], key=cookie, digest_size=16).digest() == init[160:]
    assert Handshaker.has_mac2(init, cookie)
    assert not Handshaker.has_mac2(init, cookie[::-1])
    assert not Handshaker.has_mac2(bytes([init[0] ^ 1]) + init[1:], cookie)


@given(st.binary(max_size=200).map(lambda tail: b"\x12\x05\x00\x00" + tail), st.integers(0, 63), st.integers(1, 255))
def test_changed_or_random_cookies_do_not_open(data: bytes, at: int, change: int) -> None:
    started = Handshaker(LOW).start(HIGH.node_id, index=11, timestamp_ns=WALL_0_NS, ephemeral=bytes([5]) * 32)
    good = bytearray(Handshaker(HIGH).give_cookie(started.mac1, b"c" * 16, b"n" * 12))
    assert b"c" * 16 == started.read_cookie(bytes(good))
    good[at] ^= change
    for bad in (data[:64].ljust(64, b"x"), bytes(good)):
        with pytest.raises(BadSignature):
            started.read_cookie(bad)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "length"),
        (b"\x12\x01", "length"),
        (b"\x11\x01" + bytes(174), "version"),
        (b"\x22\x01" + bytes(174), "version"),
        (b"\x12\x09" + bytes(174), "type"),
        (b"\x12\x01" + bytes(158), "length"),
        (b"\x12\x02" + bytes(174), "length"),
        (b"\x12\x05" + bytes(61), "length"),
        (b"\x12\x03\x01\x00" + bytes(28), "decode"),
        (b"\x12\x05\x00\x01" + bytes(60), "decode"),
    ],
)
def test_malformed_header_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(DecodeError) as caught:
        datagram_type(data)
    assert reason == caught.value.reason


def test_handshake_leaves_both_sides_with_the_same_four_keys() -> None:
    initiator, responder = Handshaker(LOW), Handshaker(HIGH)
    started = initiator.start(HIGH.node_id, index=11, timestamp_ns=WALL_0_NS, ephemeral=bytes([5]) * 32)
    init = started.datagram()
    assert started.mac1 == responder.require_mac1(init)
    noise, hello = responder.read_init(init)
    assert Hello(LOW.node_id, 11, WALL_0_NS) == hello
    response, theirs = responder.respond(noise, hello, index=22, ephemeral=bytes([6]) * 32)
    assert 11 == response_index(response)
    index, ours = started.read_response(response)
    assert 22 == index
    assert (theirs.link_open, theirs.end_open) == (ours.link_seal, ours.end_seal)
    assert (theirs.link_seal, theirs.end_seal) == (ours.link_open, ours.end_open)
    assert 4 == len({ours.link_seal, ours.link_open, ours.end_seal, ours.end_open})
    assert "link" not in repr(ours)


def test_node_id_that_does_not_belong_to_the_static_key_is_refused() -> None:
    liar = Handshaker(LOW)
    liar.node_id = Identity(bytes([9]) * 32).node_id
    init = liar.start(HIGH.node_id, index=1, timestamp_ns=WALL_0_NS, ephemeral=bytes([5]) * 32).datagram()
    responder = Handshaker(HIGH)
    responder.require_mac1(init)
    with pytest.raises(BadSignature) as caught:
        responder.read_init(init)
    assert "identity" == caught.value.reason


def test_negative_of_a_node_id_is_another_node_although_its_static_key_is_the_same() -> None:
    negative = NodeId(HIGH.node_id[:31] + bytes([HIGH.node_id[31] ^ 0x80]))
    assert x25519_public_key(HIGH.node_id) == x25519_public_key(negative)
    init = Handshaker(LOW).start(negative, index=1, timestamp_ns=WALL_0_NS, ephemeral=bytes([5]) * 32).datagram()
    with pytest.raises(BadSignature):
        Handshaker(HIGH).require_mac1(init)
    with pytest.raises(BadSignature):
        Handshaker(HIGH).read_init(init)
