"""The bytes of session datagrams, and whom they speak of."""

from __future__ import annotations

from pathlib import Path

import pytest

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


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "length"),
        (b"\x11\x01", "length"),
        (b"\x12\x01" + bytes(158), "version"),
        (b"\x21\x01" + bytes(158), "version"),
        (b"\x11\x09" + bytes(158), "type"),
        (b"\x11\x01" + bytes(157), "length"),
        (b"\x11\x02" + bytes(158), "length"),
        (b"\x11\x03\x01\x00" + bytes(28), "decode"),
    ],
)
def test_malformed_header_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(DecodeError) as caught:
        datagram_type(data)
    assert reason == caught.value.reason


def test_handshake_leaves_both_sides_with_the_same_four_keys() -> None:
    initiator, responder = Handshaker(LOW), Handshaker(HIGH)
    started = initiator.start(HIGH.node_id, index=11, timestamp_ns=WALL_0_NS, ephemeral=bytes([5]) * 32)
    assert started.datagram[-16:] == responder.require_mac1(started.datagram)
    noise, hello = responder.read_init(started.datagram)
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
    init = liar.start(HIGH.node_id, index=1, timestamp_ns=WALL_0_NS, ephemeral=bytes([5]) * 32).datagram
    responder = Handshaker(HIGH)
    responder.require_mac1(init)
    with pytest.raises(BadSignature) as caught:
        responder.read_init(init)
    assert "identity" == caught.value.reason


def test_negative_of_a_node_id_is_another_node_although_its_static_key_is_the_same() -> None:
    negative = NodeId(HIGH.node_id[:31] + bytes([HIGH.node_id[31] ^ 0x80]))
    assert x25519_public_key(HIGH.node_id) == x25519_public_key(negative)
    init = Handshaker(LOW).start(negative, index=1, timestamp_ns=WALL_0_NS, ephemeral=bytes([5]) * 32).datagram
    with pytest.raises(BadSignature):
        Handshaker(HIGH).require_mac1(init)
    with pytest.raises(BadSignature):
        Handshaker(HIGH).read_init(init)
