"""SR packets on the wire: sealing, opening, and what is refused."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from srwan.errors import BadSignature, DecodeError, RemoteProtocolError, StaleRecord
from srwan.overlay.handshake import SessionSecrets
from srwan.overlay.session import Session
from srwan.routing.packet import PACKET_BYTES_MAX, build_packet, open_packet, open_payload, seal_payload
from srwan.routing.payload import DATA_BYTES_MAX, Payload, PayloadKind
from srwan.routing.sid import Function, Sid
from srwan.routing.srh import SEGMENTS_MAX, Srh
from srwan.testing.packets import SrNetwork
from srwan.types import NodeId

DATA = Path(__file__).parents[1] / "data"
KEYS = [bytes([number]) * 32 for number in range(8)]
A, B = NodeId(bytes([0xAA]) * 32), NodeId(bytes([0xBB]) * 32)
PATH = (Sid.of(B, Function.END), Sid.of(A, Function.END_APP))
PATH_TAG = 0x1122334455667788
OTHER_INDEX, OUR_INDEX = 0x01020304, 0x0A0B0C0D


def pair() -> tuple[Session, Session]:
    """The two ends of one session, A's and B's, with known keys."""
    here = SessionSecrets(link_seal=KEYS[0], link_open=KEYS[1], end_seal=KEYS[2], end_open=KEYS[3])
    there = SessionSecrets(link_seal=KEYS[1], link_open=KEYS[0], end_seal=KEYS[3], end_open=KEYS[2])
    return (
        Session(B, ("127.0.0.1", 2), (OUR_INDEX, OTHER_INDEX), here, is_initiator=True, now=0.0),
        Session(A, ("127.0.0.1", 1), (OTHER_INDEX, OUR_INDEX), there, is_initiator=False, now=0.0),
    )


def only(session: Session) -> dict[int, Session]:
    return {session.local_index: session}


def sealed(a: Session, body: bytes = b"hello") -> bytes:
    payload = seal_payload(a, PATH_TAG, Payload(PayloadKind.DATA, 1, 2, 3, body).encode())
    return build_packet(a, Srh.for_path(PATH), PATH_TAG, payload)


def reason_of(b: Session, data: bytes) -> str:
    with pytest.raises(RemoteProtocolError) as caught:
        open_packet(only(b).get, data)
    return caught.value.reason


def test_packet_has_the_documented_bytes() -> None:
    """Golden vector for every data plane, derived here from the description alone."""
    plaintext = struct.pack("<BBHIQq", 1, 0, 0, 1, 2, 3) + b"hello"
    head = struct.pack("<IQ", OTHER_INDEX, 0)
    payload = head + AESGCM(KEYS[2]).encrypt(bytes(12), plaintext, head + struct.pack("<Q", PATH_TAG))
    header = struct.pack("<BBHIQQ", 0x21, 0, len(payload), OTHER_INDEX, 0, PATH_TAG)
    srh = bytes([253, 4, 4, 1, 1, 0, 0, 0]) + PATH[1] + PATH[0]
    expected = header + AESGCM(KEYS[0]).encrypt(bytes(12), srh, header) + payload
    assert expected == sealed(pair()[0])
    assert expected == (DATA / "sr-packet-2-segments.bin").read_bytes()


def test_nonce_is_four_zero_bytes_and_the_counter() -> None:
    a, _ = pair()
    a.link_seal.counter = a.end_seal.counter = 0x0102
    packet = sealed(a)
    header, payload_at = packet[:24], 24 + 40 + 16
    nonce = bytes(4) + (0x0102).to_bytes(8, "little")
    assert Srh.for_path(PATH).encode() == AESGCM(KEYS[0]).decrypt(nonce, packet[24:payload_at], header)
    inner = packet[payload_at:]
    assert b"hello" == AESGCM(KEYS[2]).decrypt(nonce, inner[12:], inner[:12] + PATH_TAG.to_bytes(8, "little"))[24:]


def test_the_receiver_gets_what_was_sealed() -> None:
    a, b = pair()
    packet = sealed(a, b"x" * 700)
    session, srh, path_tag, payload_at = open_packet(only(b).get, packet)
    assert (b, Srh.for_path(PATH), PATH_TAG) == (session, Srh.decode(srh), path_tag)
    session, plaintext = open_payload(only(b).get, PATH_TAG, packet[payload_at:])
    assert (b, Payload(PayloadKind.DATA, 1, 2, 3, b"x" * 700)) == (session, Payload.decode(plaintext))


def test_nothing_of_path_or_payload_is_readable_on_the_wire() -> None:
    packet = sealed(pair()[0], b"a secret of some length")
    assert not any(clear in packet for clear in (b"secret", PATH[0].locator, PATH[1].locator))


def test_counters_never_repeat() -> None:
    a, _ = pair()
    packets = [sealed(a) for _ in range(100)]
    assert list(range(100)) == [int.from_bytes(packet[8:16], "little") for packet in packets]


def test_application_datagram_fits_with_eight_segments() -> None:
    a, _ = pair()
    nodes = [NodeId(bytes([i]) * 32) for i in range(SEGMENTS_MAX)]
    srh = Srh.for_path(tuple(Sid.of(node, Function.END) for node in nodes))
    packet = build_packet(a, srh, 0, seal_payload(a, 0, Payload(PayloadKind.DATA, 0, 0, 0, bytes(DATA_BYTES_MAX)).encode()))
    assert len(packet) <= PACKET_BYTES_MAX


def test_ipv6_minimum_mtu_fits_with_four_segments() -> None:
    a, _ = pair()
    nodes = [NodeId(bytes([i]) * 32) for i in range(4)]
    srh = Srh.for_path(tuple(Sid.of(node, Function.END) for node in nodes))
    assert len(build_packet(a, srh, 0, seal_payload(a, 0, bytes(1280)))) <= PACKET_BYTES_MAX


def test_packet_beyond_the_mtu_is_not_built_and_uses_no_counter() -> None:
    a, _ = pair()
    with pytest.raises(ValueError, match="does not fit"):
        build_packet(a, Srh.for_path(PATH), 0, bytes(PACKET_BYTES_MAX))
    assert a.link_seal.counter == 0


def test_short_long_and_foreign_packets_are_refused_before_any_cryptography() -> None:
    a, b = pair()
    packet = sealed(a)
    wrong_length = packet[:2] + (len(packet)).to_bytes(2, "little") + packet[4:]
    refused = {
        "short": packet[:63],
        "mtu": packet + bytes(PACKET_BYTES_MAX),
        "version": b"\x22" + packet[1:],
        "flags": packet[:1] + b"\x01" + packet[2:],
        "length": wrong_length,
        "session": packet[:4] + bytes(4) + packet[8:],
    }
    assert {reason: reason for reason in refused} == {reason: reason_of(b, data) for reason, data in refused.items()}


def test_payload_length_that_moves_the_border_by_other_than_a_segment_is_refused() -> None:
    a, b = pair()
    packet = sealed(a)
    for step in (1, 8, 15, 17):
        length = int.from_bytes(packet[2:4], "little") + step
        assert reason_of(b, packet[:2] + length.to_bytes(2, "little") + packet[4:]) == "length"


def test_replayed_packet_is_refused() -> None:
    a, b = pair()
    packet = sealed(a)
    open_packet(only(b).get, packet)
    with pytest.raises(StaleRecord):
        open_packet(only(b).get, packet)


def test_replayed_payload_in_a_new_packet_is_refused() -> None:
    """A relay cannot have one payload counted twice."""
    a, b = pair()
    payload = seal_payload(a, PATH_TAG, b"once")
    open_payload(only(b).get, PATH_TAG, payload)
    with pytest.raises(StaleRecord) as caught:
        open_payload(only(b).get, PATH_TAG, payload)
    assert caught.value.reason == "payload-replay"


def test_reordered_packets_are_all_opened_once() -> None:
    a, b = pair()
    packets = [sealed(a) for _ in range(50)]
    for packet in reversed(packets):
        open_packet(only(b).get, packet)
    assert ["replay"] * 50 == [reason_of(b, packet) for packet in packets]


@pytest.mark.parametrize("counter", [1, 2**32, 2**63, 2**64 - 1])
def test_forged_counter_does_not_move_the_window(counter: int) -> None:
    a, b = pair()
    packet = sealed(a)
    assert reason_of(b, packet[:8] + counter.to_bytes(8, "little") + packet[16:]) == "auth"
    assert b.link_open.window.highest == -1
    open_packet(only(b).get, packet)


def test_authentic_counter_at_its_end_leaves_no_room_and_wraps_nowhere() -> None:
    a, b = pair()
    a.link_seal.counter = 2**64 - 1
    open_packet(only(b).get, sealed(a))
    a.link_seal.counter = 0
    assert reason_of(b, sealed(a)) == "replay"
    a.link_seal.counter = 2**64
    with pytest.raises(struct.error):
        sealed(a)


def test_any_bit_changed_in_header_or_srh_is_refused_by_the_next_hop() -> None:
    a, b = pair()
    packet = sealed(a)
    reasons = set()
    for bit in range(8 * (24 + 40 + 16)):
        changed = bytearray(packet)
        changed[bit // 8] ^= 1 << bit % 8
        reasons.add(reason_of(b, bytes(changed)))
    assert reasons == {"auth", "version", "flags", "length", "session"}
    assert b.link_open.window.highest == -1


def test_any_bit_changed_in_the_payload_is_refused_by_the_egress_only() -> None:
    a, b = pair()
    packet = sealed(a)
    payload_at = 24 + 40 + 16
    reasons = set()
    for bit in range(8 * payload_at, 8 * len(packet)):
        a, b = pair()
        changed = bytearray(packet)
        changed[bit // 8] ^= 1 << bit % 8
        assert open_packet(only(b).get, bytes(changed))[3] == payload_at
        with pytest.raises((BadSignature, DecodeError)) as caught:
            open_payload(only(b).get, PATH_TAG, bytes(changed[payload_at:]))
        reasons.add(caught.value.reason)
        assert b.end_open.window.highest == -1
    assert reasons == {"payload-auth", "payload-session"}


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_payload_opens_only_under_the_path_tag_it_was_sealed_for(path_tag: int, claimed: int) -> None:
    """A relay that relabels a packet is found by the egress; the window does not move, so the true one may still come."""
    a, b = pair()
    payload = seal_payload(a, path_tag, b"x")
    if claimed != path_tag:
        with pytest.raises(BadSignature) as caught:
            open_payload(only(b).get, claimed, payload)
        assert caught.value.reason == "payload-auth"
        assert b.end_open.window.highest == -1
    assert (b, b"x") == open_payload(only(b).get, path_tag, payload)


def test_relay_that_relabels_data_is_found_by_the_egress() -> None:
    """The relay has the link keys, so it can seal any path tag for the next hop; what the ends sealed does not follow."""
    network = SrNetwork()
    ingress, relay, egress = network.line()
    path = (relay.sid(), egress.sid(Function.END_APP))
    data = Payload(PayloadKind.DATA, 1, 0, 0, b"hello").encode()
    for tag_at_relay in (PATH_TAG, PATH_TAG + 1):
        assert ingress.forwarder.send_payload(path, PATH_TAG, egress.node_id, data)
        datagram = network.queue.popleft()
        _, srh, path_tag, payload_at = open_packet(relay.sessions.by_index, datagram.data)
        assert path_tag == PATH_TAG
        link = relay.sessions.current(egress.node_id)
        assert link is not None
        relay.send(build_packet(link, Srh.decode(srh).advanced(), tag_at_relay, datagram.data[payload_at:]), egress.address)
        network.run()
    assert egress.drops == {"payload-auth": 1}
    assert {(ingress.node_id, PATH_TAG): 1} == {key: count.packets for key, count in egress.forwarder.counters().received.items()}


def test_payload_of_a_closed_session_is_refused() -> None:
    a, _ = pair()
    with pytest.raises(DecodeError) as caught:
        open_payload(lambda _: None, 0, seal_payload(a, 0, b""))
    assert caught.value.reason == "payload-session"


@given(st.binary(max_size=1600))
def test_random_bytes_raise_nothing_but_remote_errors(data: bytes) -> None:
    _, b = pair()
    for start in (data, b"\x21\x00" + data, data[:4] + OTHER_INDEX.to_bytes(4, "little") + data[8:]):
        with pytest.raises(RemoteProtocolError):
            open_packet(only(b).get, start)
        with pytest.raises(RemoteProtocolError):
            open_payload(only(b).get, 0, start)


@given(st.integers(-200, 200), st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=6))
def test_mutated_packets_are_refused_or_what_was_sent(cut: int, changes: list[tuple[int, int]]) -> None:
    a, b = pair()
    packet = sealed(a, bytes(60))
    mutated = bytearray(packet[:cut] if cut else packet)
    for at, value in changes:
        if at < len(mutated):
            mutated[at] = value
    try:
        _, srh, path_tag, _ = open_packet(only(b).get, bytes(mutated))
    except RemoteProtocolError:
        return
    assert (Srh.for_path(PATH).encode(), PATH_TAG) == (srh, path_tag)
    assert packet[:80] == mutated[:80]
