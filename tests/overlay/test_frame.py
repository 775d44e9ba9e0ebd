"""Frames: their bytes, whom they let in, and what a hostile network can do with them."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srwan.errors import BadSignature, LimitExceeded, RemoteProtocolError, StaleRecord
from srwan.identity import Identity
from srwan.overlay import frame as frame_module
from srwan.overlay.frame import (
    CONTENT_BYTES_MAX,
    DATAGRAM_BYTES_MAX,
    HEADER_BYTES,
    JOIN_BURST_MAX,
    JOINS_PER_S_MAX,
    REPLAY_WINDOW,
    Frame,
    FrameCodec,
    FrameType,
    content_digest,
)
from srwan.types import NodeId

GOLDEN = Path(__file__).parent.parent / "data"
GROUP = 0xA1B2C3D4
BOOT = 1_000_000
ALICE, BOB, CAROL = (Identity(bytes([i]) * 32) for i in (1, 2, 3))


def codec(identity: Identity, peers: tuple[Identity, ...] = (), *, group: int = GROUP, boot: int = BOOT) -> FrameCodec:
    made = FrameCodec(identity, group, boot)
    for peer in peers:
        made.add_peer(peer.node_id)
    return made


def seal(sender: FrameCodec, receiver: Identity, content: bytes = b"content", kind: FrameType = FrameType.BEAT) -> bytes:
    return sender.seal(receiver.node_id, kind, content, digest=content_digest(content), tx_ns=77, flags=5)


def reason_of(receiver: FrameCodec, data: bytes, now: float = 0.0) -> str:
    with pytest.raises(RemoteProtocolError) as caught:
        receiver.open(data, now)
    return caught.value.reason


def sealed_run(sender: Identity, receiver: Identity, sequences: list[int]) -> list[bytes]:
    """One frame for each of the given pair sequences."""
    made = codec(sender, (receiver,))
    frames = []
    for sequence in sequences:
        made._pairs[receiver.node_id].next_sequence = sequence
        frames.append(seal(made, receiver))
    return frames


def accepted(receiver: FrameCodec, frames: list[bytes]) -> list[bool]:
    """Which of the frames are taken in; the others must be dropped as replays."""
    result = []
    for data in frames:
        try:
            receiver.open(data, 0.0)
        except StaleRecord:
            result.append(False)
        else:
            result.append(True)
    return result


# -- bytes ---------------------------------------------------------------------------------------------------------------------------------


def test_frame_is_the_golden_bytes() -> None:
    data = seal(codec(ALICE, (BOB,)), BOB)
    assert (GOLDEN / "frame-beat.bin").read_bytes() == data
    assert struct.pack("<BBHIQIQ", 0x31, 2, 5, GROUP, ALICE.node_id.short, BOOT, 77) == data[:28]
    assert HEADER_BYTES + len(b"content") == len(data)


@given(st.sampled_from(FrameType), st.integers(0, 65535), st.integers(0, 2**64 - 1), st.binary(max_size=CONTENT_BYTES_MAX))
def test_what_was_sealed_opens(kind: FrameType, flags: int, tx_ns: int, content: bytes) -> None:
    sender, receiver = codec(ALICE, (BOB,)), codec(BOB, (ALICE,))
    for sequence in (BOOT, BOOT + 1):
        data = sender.seal(BOB.node_id, kind, content, digest=content_digest(content), tx_ns=tx_ns, flags=flags)
        assert len(data) <= DATAGRAM_BYTES_MAX
        assert Frame(ALICE.node_id, kind, flags, sequence, tx_ns, content) == receiver.open(data, 0.0)


def test_content_that_does_not_fit_is_our_error() -> None:
    sender = codec(ALICE, (BOB,))
    assert DATAGRAM_BYTES_MAX == len(seal(sender, BOB, bytes(CONTENT_BYTES_MAX)))
    with pytest.raises(ValueError, match="at most 1156"):
        seal(sender, BOB, bytes(CONTENT_BYTES_MAX + 1))
    with pytest.raises(KeyError):
        seal(sender, CAROL)


@given(st.one_of(st.binary(max_size=1300), st.binary(max_size=1300).map(lambda tail: struct.pack("<BBHI", 0x31, 8, 0, GROUP) + tail)))
def test_random_bytes_raise_nothing_but_remote_errors(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        codec(BOB, (ALICE,)).open(data, 0.0)


@given(st.data(), st.sampled_from([FrameType.BEAT, FrameType.JOIN]))
def test_frame_with_any_bit_changed_is_refused(data: st.DataObject, kind: FrameType) -> None:
    original = seal(codec(ALICE, (BOB,)), BOB, bytes(ALICE.node_id) + b"certificate", kind)
    mutant = bytearray(original)
    mutant[data.draw(st.integers(0, len(mutant) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    known, stranger = codec(BOB, (ALICE,)), codec(BOB)
    for receiver, peers in ((known, {ALICE.node_id}), (stranger, set())):
        with pytest.raises(RemoteProtocolError):
            receiver.open(bytes(mutant), 0.0)
        assert peers == receiver.peers
    assert ALICE.node_id == known.open(original, 0.0).sender  # the forgery moved nothing


@pytest.mark.parametrize("size", [0, 1, HEADER_BYTES - 1, DATAGRAM_BYTES_MAX + 1])
def test_impossible_length_is_refused(size: int) -> None:
    assert "length" == reason_of(codec(BOB), b"\x31" * size)


def test_other_version_group_and_type_are_refused_by_name() -> None:
    receiver = codec(BOB, (ALICE,))
    data = seal(codec(ALICE, (BOB,)), BOB)
    assert "version" == reason_of(receiver, b"\x32" + data[1:])
    assert "version" == reason_of(receiver, b"\x21" + data[1:])
    assert "type" == reason_of(receiver, data[:1] + b"\xff" + data[2:])
    assert "group" == reason_of(receiver, seal(codec(ALICE, (BOB,), group=GROUP + 1), BOB))


def test_key_depends_on_the_group_as_well() -> None:
    data = bytearray(seal(codec(ALICE, (BOB,), group=GROUP + 1), BOB))
    data[4:8] = struct.pack("<I", GROUP)
    assert "mac" == reason_of(codec(BOB, (ALICE,)), bytes(data))


def test_frame_for_one_receiver_does_not_open_at_another_nor_at_its_sender() -> None:
    sender = codec(ALICE, (BOB, CAROL))
    data = seal(sender, BOB)
    assert "mac" == reason_of(codec(CAROL, (ALICE,)), data)
    assert "unknown-sender" == reason_of(sender, data)


# -- replay --------------------------------------------------------------------------------------------------------------------------------


@given(st.sampled_from([BOOT, 0, 2**32 - 40, 2**32 - 1]), st.lists(st.integers(0, 150), max_size=60))
def test_each_sequence_is_taken_once_and_late_ones_within_the_window_also_where_it_wraps(start: int, offsets: list[int]) -> None:
    frames = sealed_run(ALICE, BOB, [(start + offset) & 0xFFFFFFFF for offset in offsets])
    seen: set[int] = set()
    expected = []
    for offset in offsets:
        expected.append(offset not in seen and (not seen or offset > max(seen) - REPLAY_WINDOW))
        if expected[-1]:
            seen.add(offset)
    assert expected == accepted(codec(BOB, (ALICE,)), frames)


def test_sender_wraps_its_sequence() -> None:
    sender, receiver = codec(ALICE, (BOB,), boot=2**32 - 2), codec(BOB, (ALICE,))
    sequences = [receiver.open(seal(sender, BOB), 0.0).sequence for _ in range(4)]
    assert [2**32 - 2, 2**32 - 1, 0, 1] == sequences


def test_peer_that_restarts_is_heard_and_its_old_frames_are_not() -> None:
    old, new = codec(ALICE, (BOB,)), codec(ALICE, (BOB,), boot=BOOT + 100)
    receiver = codec(BOB, (ALICE,))
    recorded = [seal(old, BOB) for _ in range(3)]
    assert [True, True] == accepted(receiver, recorded[:2])
    assert [True] == accepted(receiver, [seal(new, BOB)])
    assert [False, False, False] == accepted(receiver, recorded)


def test_frames_recorded_before_a_peer_was_removed_cannot_be_replayed_when_it_is_back() -> None:
    sender, receiver = codec(ALICE, (BOB,)), codec(BOB, (ALICE,))
    recorded = [seal(sender, BOB) for _ in range(3)]
    assert [True, True, True] == accepted(receiver, recorded)
    receiver.remove_peer(ALICE.node_id)
    receiver.add_peer(ALICE.node_id)
    assert [False, False, False] == accepted(receiver, recorded)
    assert [True] == accepted(receiver, [seal(sender, BOB)])


def test_replayed_join_does_not_bring_a_removed_peer_back() -> None:
    sender, receiver = codec(ALICE, (BOB,)), codec(BOB)
    join = seal(sender, BOB, bytes(ALICE.node_id), FrameType.JOIN)
    receiver.open(join, 0.0)
    receiver.add_peer(ALICE.node_id)
    receiver.remove_peer(ALICE.node_id)
    assert "replay" == reason_of(receiver, join)
    assert frozenset() == receiver.peers


def test_own_sequence_goes_on_above_all_used_when_a_peer_comes_back() -> None:
    for boot in (BOOT, 2**32 - 2):
        sender, receiver = codec(ALICE, (BOB, CAROL), boot=boot), codec(BOB, (ALICE,))
        for _ in range(5):
            receiver.open(seal(sender, BOB), 0.0)
        sender.remove_peer(CAROL.node_id)
        sender.remove_peer(BOB.node_id)
        sender.remove_peer(BOB.node_id)
        sender.add_peer(BOB.node_id)
        assert (boot + 5) & 0xFFFFFFFF == receiver.open(seal(sender, BOB), 0.0).sequence


def test_memory_of_removed_peers_is_bounded_and_closed_to_strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_module, "RETIRED_MAX", 2)
    receiver = codec(BOB)
    members = [Identity(bytes([i]) * 32) for i in range(10, 14)]
    for member in members:
        receiver.add_peer(member.node_id)
        receiver.open(seal(codec(member, (BOB,)), BOB), 0.0)
        receiver.remove_peer(member.node_id)
    stranger = Identity(bytes([99]) * 32)
    receiver.open(seal(codec(stranger, (BOB,)), BOB, bytes(stranger.node_id), FrameType.JOIN), 0.0)
    receiver.remove_peer(stranger.node_id)
    assert [member.node_id for member in members[2:]] == list(receiver._retired)


# -- who is let in -------------------------------------------------------------------------------------------------------------------------


def test_unknown_sender_is_dropped_before_any_cryptography(monkeypatch: pytest.MonkeyPatch) -> None:
    receiver = codec(BOB)
    monkeypatch.setattr(Identity, "shared_secret", lambda *_: pytest.fail("a key agreement was tried"))
    data = bytearray(HEADER_BYTES + 40)
    data[:20] = struct.pack("<BBHIQI", 0x31, FrameType.PULSE, 0, GROUP, ALICE.node_id.short, 1)
    assert "unknown-sender" == reason_of(receiver, bytes(data))


def test_join_introduces_its_sender() -> None:
    sender, receiver = codec(ALICE, (BOB,)), codec(BOB)
    content = bytes(ALICE.node_id) + b"certificate"
    assert content == receiver.open(seal(sender, BOB, content, FrameType.JOIN), 0.0).content
    assert frozenset({ALICE.node_id}) == receiver.peers
    assert b"then" == receiver.open(seal(sender, BOB, b"then"), 0.0).content


def test_join_in_the_name_of_another_is_refused_and_leaves_no_pair() -> None:
    receiver = codec(BOB)
    forged = seal(codec(ALICE, (BOB,)), BOB, bytes(CAROL.node_id), FrameType.JOIN)
    assert "unknown-sender" == reason_of(receiver, forged)
    renamed = bytearray(forged)
    renamed[8:16] = struct.pack("<Q", CAROL.node_id.short)
    assert "mac" == reason_of(receiver, bytes(renamed))
    assert "unknown-sender" == reason_of(receiver, seal(codec(ALICE, (BOB,)), BOB, b"short", FrameType.JOIN))
    mirrored = bytearray(HEADER_BYTES + 32)
    mirrored[:20] = struct.pack("<BBHIQI", 0x31, FrameType.JOIN, 0, GROUP, BOB.node_id.short, 1)
    mirrored[HEADER_BYTES:] = BOB.node_id
    assert "unknown-sender" == reason_of(receiver, bytes(mirrored))
    assert frozenset() == receiver.peers


def test_join_with_an_unusable_key_is_refused() -> None:
    node = NodeId(bytes(32))
    data = struct.pack("<BBHIQIQ", 0x31, FrameType.JOIN, 0, GROUP, node.short, 1, 0) + bytes(16) + node
    receiver = codec(BOB)
    assert "bad-key" == reason_of(receiver, data)
    assert frozenset() == receiver.peers
    with pytest.raises(BadSignature):
        receiver.add_peer(node)


def test_strangers_joins_are_limited_and_members_are_not() -> None:
    receiver = codec(BOB, (ALICE,))
    friend = codec(ALICE, (BOB,))
    rng = random.Random(0)

    def flood(count: int, now: float) -> list[str]:
        reasons = []
        for _ in range(count):
            node = rng.randbytes(32)
            data = struct.pack("<BBHIQIQ", 0x31, FrameType.JOIN, 0, GROUP, NodeId(node).short, 1, 0) + bytes(16) + node
            reasons.append(reason_of(receiver, data, now))
        return reasons

    reasons = flood(JOIN_BURST_MAX + 10, 0.0)
    assert ["join-rate"] * 10 == reasons[JOIN_BURST_MAX:]
    assert "join-rate" not in reasons[:JOIN_BURST_MAX]
    assert ALICE.node_id == receiver.open(seal(friend, BOB), 0.0).sender
    reasons = flood(int(JOINS_PER_S_MAX) + 5, 1.0)
    assert 5 == reasons.count("join-rate")
    assert frozenset({ALICE.node_id}) == receiver.peers


def test_pairs_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_module, "PEERS_MAX", 1)
    receiver = codec(BOB, (ALICE,))
    receiver.add_peer(ALICE.node_id)
    with pytest.raises(LimitExceeded):
        receiver.add_peer(CAROL.node_id)
    join = seal(codec(CAROL, (BOB,)), BOB, bytes(CAROL.node_id), FrameType.JOIN)
    assert "peers" == reason_of(receiver, join)
    receiver.remove_peer(ALICE.node_id)
    assert CAROL.node_id == receiver.open(join, 0.0).sender


def test_two_peers_with_one_short_id_cannot_both_be_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NodeId, "short", 7)
    receiver = codec(BOB, (ALICE,))
    with pytest.raises(LimitExceeded) as caught:
        receiver.add_peer(CAROL.node_id)
    assert "short-id" == caught.value.reason
    receiver.remove_peer(CAROL.node_id)
    receiver.remove_peer(ALICE.node_id)
    assert frozenset() == receiver.peers


def test_node_is_not_its_own_peer() -> None:
    receiver = codec(BOB, (BOB,))
    assert frozenset() == receiver.peers
