"""Votes and proofs: golden bytes, round trips, forgery, hostile bytes."""

from __future__ import annotations

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srwan.errors import DecodeError, RemoteProtocolError
from srwan.gossip.evidence import (
    VOTES_PER_FRAME_MAX,
    EquivocationProof,
    Kind,
    QuarantineVote,
    cast_vote,
    decode_content,
    frame_of_proof,
    frames_of_votes,
)
from srwan.gossip.row import Row, seal_row
from srwan.identity import Identity
from srwan.overlay.frame import CONTENT_BYTES_MAX

GROUP = b"g" * 32
ALICE, BOB = Identity(b"a" * 32), Identity(b"b" * 32)
VOTE = cast_vote(ALICE, GROUP, BOB.node_id, Kind.ECHO, 1_780_000_000)


def content_of(stamp_ns: int, *, count: int = 2, seq: int = 7, group: bytes = GROUP, is_described: bool = False) -> bytes:
    zeros = np.zeros(count, np.uint8)
    entries = Row.pack_entries(np.arange(count, dtype=np.uint32) if is_described else None, np.zeros(count, np.uint16), zeros, zeros)
    row = Row(
        node_id=BOB.node_id,
        boot=1,
        seq=seq,
        stamp_ns=stamp_ns,
        roster_digest=bytes(8),
        clock_epoch=0,
        health=0,
        octets_in=0,
        octets_out=0,
        octets_relayed=0,
        base_us=0,
        count=count,
        is_described=is_described,
        entries=entries,
    )
    return seal_row(row, BOB, group).content


PROOF = EquivocationProof.of(BOB.node_id, content_of(1), content_of(2))


def test_a_vote_has_known_bytes() -> None:
    data = VOTE.encode()
    assert 138 == len(data)
    assert ALICE.node_id + BOB.node_id + bytes.fromhex("0100") + (1_780_000_000).to_bytes(8, "little") == data[:74]
    assert VOTE == QuarantineVote.decode(data)


def test_a_vote_counts_only_in_its_group_and_unaltered() -> None:
    assert VOTE.is_authentic(GROUP)
    assert not VOTE.is_authentic(b"h" * 32)
    assert not attrs.evolve(VOTE, is_withdrawn=True).is_authentic(GROUP)
    assert not attrs.evolve(VOTE, issued_s=VOTE.issued_s + 1).is_authentic(GROUP)
    assert not attrs.evolve(VOTE, kind=Kind.PLACE).is_authentic(GROUP)
    assert not attrs.evolve(VOTE, witness=BOB.node_id, subject=ALICE.node_id).is_authentic(GROUP)


def test_nobody_votes_on_itself() -> None:
    with pytest.raises(ValueError, match="no vote on"):
        cast_vote(ALICE, GROUP, ALICE.node_id, Kind.ECHO, 1)
    with pytest.raises(DecodeError):
        QuarantineVote.decode(ALICE.node_id + ALICE.node_id + VOTE.encode()[64:])


@pytest.mark.parametrize("count", [1, 8, 9, 20])
def test_votes_fill_frames_and_come_back_in_order(count: int) -> None:
    votes = tuple(attrs.evolve(VOTE, issued_s=index) for index in range(count))
    frames = frames_of_votes(votes)
    assert -(-count // VOTES_PER_FRAME_MAX) == len(frames)
    assert max(len(frame) for frame in frames) <= CONTENT_BYTES_MAX
    decoded = [vote for frame in frames for vote in _votes(frame)]
    assert list(votes) == decoded


def _votes(frame: bytes) -> tuple[QuarantineVote, ...]:
    content = decode_content(frame)
    assert isinstance(content, tuple)
    return content


def test_a_proof_of_a_full_group_fits_one_frame_and_convinces_anybody() -> None:
    proof = EquivocationProof.of(BOB.node_id, content_of(1, count=100), content_of(2, count=100))
    frame = frame_of_proof(proof)
    assert frame is not None
    assert 35 + len(proof.first) + len(proof.second) == len(frame)
    assert proof == decode_content(frame)
    assert proof.is_valid(GROUP)
    assert (1, 7) == proof.version


def test_a_proof_too_long_for_a_frame_makes_none() -> None:
    assert frame_of_proof(EquivocationProof.of(BOB.node_id, *(content_of(stamp, count=128, is_described=True) for stamp in (1, 2)))) is None


def test_a_pair_makes_one_proof_in_either_order() -> None:
    assert PROOF == EquivocationProof.of(BOB.node_id, content_of(2), content_of(1))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (content_of(1), content_of(2, seq=8)),
        (content_of(1), content_of(2, group=b"h" * 32)),
        (content_of(1), bytes(64) + content_of(1)[64:]),
        (content_of(1), bytes(64) + content_of(2)[64:]),
        (content_of(1), b"short"),
    ],
    ids=["other-seq", "other-group", "same-body", "forged", "no-row"],
)
def test_what_is_no_equivocation_proves_nothing(one: bytes, other: bytes) -> None:
    assert not EquivocationProof.of(BOB.node_id, one, other).is_valid(GROUP)


def test_a_proof_does_not_hold_against_somebody_else() -> None:
    assert PROOF.is_valid(GROUP)
    assert not attrs.evolve(PROOF, subject=ALICE.node_id).is_valid(GROUP)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x01",
        b"\x03" + VOTE.encode(),
        b"\x01" + VOTE.encode()[:-1],
        b"\x01" + VOTE.encode() * 9,
        b"\x01" + VOTE.encode()[:64] + b"\x09" + VOTE.encode()[65:],
        b"\x01" + VOTE.encode()[:65] + b"\x02" + VOTE.encode()[66:],
        b"\x01" + VOTE.encode()[:66] + b"\xff" * 8 + VOTE.encode()[74:],
        PROOF.encode()[:30],
        b"\x02" + BOB.node_id + b"\xff\xff" + b"x" * 100,
        bytes(2000),
    ],
)
def test_malformed_contents_are_refused(content: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_content(content)


def test_a_proof_whose_contents_fall_is_refused() -> None:
    swapped = EquivocationProof(PROOF.subject, PROOF.second, PROOF.first)
    with pytest.raises(DecodeError):
        decode_content(swapped.encode())


@given(st.binary(max_size=1200), st.sampled_from([b"", b"\x01", b"\x02"]))
def test_random_bytes_raise_only_protocol_errors(data: bytes, form: bytes) -> None:
    try:
        content = decode_content(form + data)
    except RemoteProtocolError:
        return
    if isinstance(content, EquivocationProof):
        assert not content.is_valid(GROUP)
    else:
        assert not any(vote.is_authentic(GROUP) for vote in content)
