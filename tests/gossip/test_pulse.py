"""The pulse core: two members in one room, a hostile member, and what is dropped."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srwan.errors import DecodeError
from srwan.gossip.events import EquivocationSeen, MatrixFilled, MatrixIncomplete
from srwan.gossip.group_time import SETTLE_FORMING_S, SETTLE_PATIENCE_S
from srwan.gossip.pulse import FLAG_AGAIN, Pulse
from srwan.gossip.row import OWL_NONE, Row, SignedRow, entry_id, seal_row
from srwan.identity import Identity
from srwan.overlay.frame import Frame, FrameCodec, FrameType
from srwan.types import NodeId, PeerMisbehaved, UdpAddress

GROUP = bytes(range(32))
DIGEST = b"roster-8"
ADDRESS: UdpAddress = ("127.0.0.1", 9)
IDENTITIES = sorted((Identity(bytes([index]) * 32) for index in range(1, 6)), key=lambda identity: identity.node_id)
IDS = [identity.node_id for identity in IDENTITIES]
WALL_NS = 1_700_000_000 * 10**9


def pulse_of(index: int = 0, *, members: int = 3, period_s: float = 10.0) -> Pulse:
    """A core that knows its roster since 0 s."""
    core = Pulse(IDENTITIES[index], FrameCodec(IDENTITIES[index], 7, 1), GROUP, boot=1, rng=random.Random(index), period_s=period_s)
    core.set_members(dict.fromkeys(IDS[:members], ADDRESS), DIGEST, 0.0)
    return core


def row_of(
    index: int, *, seq: int = 1, members: int = 3, owl: list[int] | None = None, is_described: bool = False, **fields: Any
) -> SignedRow:
    """What a peer would tell."""
    codes = np.array(owl if owl is not None else [100] * members, np.uint16)
    small = np.zeros(members, np.uint8)
    ids = np.array([entry_id(node) for node in IDS[:members]], np.uint32) if is_described else None
    row = Row(IDS[index], 1, seq, WALL_NS, DIGEST, 0, 0, 0, 0, 0, 0, members, is_described, Row.pack_entries(ids, codes, small, small))
    return seal_row(attrs.evolve(row, **fields), IDENTITIES[index], GROUP)


def give(core: Pulse, signed: SignedRow, now: float, *, latency_ms: float = 50.0, flags: int = 0) -> None:
    """Deliver a row as a pulse that took so long by the two stamps."""
    frame = Frame(signed.node_id, FrameType.PULSE, flags, 1, WALL_NS, signed.content)
    core.receive_frame(frame, ADDRESS, WALL_NS + int(latency_ms * 1e6) - core.time.offset_ns, now)


def drive(core: Pulse, until: float, *, start: float = 0.0) -> Iterator[tuple[float, bytes]]:
    """Fire timers until then; yield what is sent, the clock standing at the time of the sending."""
    now = start
    while True:
        for data, _ in core.datagrams_to_send(now, lambda at=now: WALL_NS + int(at * 1e9)):  # type: ignore[misc]
            yield now, data
        at = core.get_timer()
        if at is None or at > until:
            return
        now = max(at, now)
        core.handle_timer(now)


def events_of(core: Pulse) -> list[object]:
    return list(iter(core.next_event, None))


def kinds(sent: Iterator[tuple[float, bytes]]) -> list[tuple[float, FrameType]]:
    return [(now, FrameType(data[1])) for now, data in sent]


def test_nothing_but_probes_leaves_before_group_time_has_settled() -> None:
    sent = kinds(drive(pulse_of(), 0.99))
    assert {FrameType.PROBE} == {kind for _, kind in sent}
    assert 6 == len(sent)


def test_without_echoes_the_first_pulse_leaves_when_patience_ends_and_a_bit_later() -> None:
    sent = kinds(drive(pulse_of(), 2.0))
    first = min(now for now, kind in sent if kind is FrameType.PULSE)
    assert SETTLE_FORMING_S + SETTLE_PATIENCE_S + 0.3 == pytest.approx(first, abs=0.02)


def test_a_round_is_one_content_for_all_with_stamps_of_their_own() -> None:
    core = pulse_of(members=4)
    list(drive(core, 1.5))
    core.handle_timer(1.8)
    stamps = iter(range(WALL_NS, WALL_NS + 100))
    sent = [data for data, _ in core.datagrams_to_send(1.8, lambda: next(stamps))]
    assert 3 == len(sent)
    assert 1 == len({data[44:] for data in sent})
    assert [WALL_NS + 1, WALL_NS + 2, WALL_NS + 3] == [struct.unpack_from("<Q", data, 20)[0] for data in sent]
    row = core.rows[IDS[0]].row
    assert (1, 1, WALL_NS, DIGEST) == (row.boot, row.seq, row.stamp_ns, row.roster_digest)


def test_a_sample_is_receive_stamp_minus_transmit_stamp() -> None:
    core = pulse_of()
    give(core, row_of(1), 1.0, latency_ms=-123.5)
    assert -123.5 == pytest.approx(core.snapshot(1.0).last_ms[1, 0], abs=1e-3)


def test_the_row_tells_the_latest_samples() -> None:
    core = pulse_of()
    give(core, row_of(1), 1.0, latency_ms=40.0)
    give(core, row_of(2), 1.0, latency_ms=90.0)
    list(drive(core, 1.5, start=1.0))
    row = core.rows[IDS[0]].row
    assert [OWL_NONE, 0, 5000] == row.owl.tolist()
    assert 40_000 == row.base_us


@pytest.mark.parametrize("is_described", [False, True])
def test_a_row_fills_its_senders_column(*, is_described: bool) -> None:
    core = pulse_of()
    give(core, row_of(1, owl=[700, OWL_NONE, 900], is_described=is_described), 1.0)
    last_ms = core.snapshot(1.0).last_ms
    assert [7.0, 9.0] == pytest.approx([last_ms[0, 1], last_ms[2, 1]])


def test_a_described_row_of_another_roster_is_read_by_its_ids() -> None:
    core = pulse_of(members=3)
    give(core, row_of(1, members=5, owl=[100, OWL_NONE, 300, 400, 500], is_described=True, roster_digest=b"other--8"), 1.0)
    last_ms = core.snapshot(1.0).last_ms
    assert [1.0, 3.0] == pytest.approx([last_ms[0, 1], last_ms[2, 1]])
    assert 0 == core.drops["roster"]


def test_a_slot_row_of_another_roster_is_measured_but_not_read() -> None:
    core = pulse_of()
    give(core, row_of(1, owl=[700, OWL_NONE, 900], roster_digest=b"other--8"), 1.0)
    assert 1 == core.drops["roster"]
    assert 1 == core.edges_known(1.0)
    assert 1 == core.rows[IDS[1]].row.seq


def test_ids_that_name_one_member_twice_are_read_as_neither() -> None:
    core = pulse_of()
    small = np.zeros(3, np.uint8)
    ids = np.array([entry_id(IDS[0]), entry_id(IDS[2]), entry_id(IDS[2])], np.uint32)
    entries = Row.pack_entries(ids, np.array([100, 200, 300], np.uint16), small, small)
    give(core, row_of(1, is_described=True, entries=entries), 1.0)
    known = np.isfinite(core.snapshot(1.0).last_ms)
    assert [(0, 1), (1, 0)] == [(int(i), int(j)) for i, j in np.argwhere(known)]


def test_own_rows_are_described_while_the_roster_is_young() -> None:
    core = pulse_of()
    list(drive(core, 2.0))
    assert core.rows[IDS[0]].row.is_described
    list(drive(core, 40.0, start=2.0))
    assert not core.rows[IDS[0]].row.is_described
    core.set_members(dict.fromkeys(IDS[:3], ADDRESS), b"restart8", 40.0)
    list(drive(core, 51.0, start=40.0))
    assert core.rows[IDS[0]].row.is_described
    assert b"restart8" == core.rows[IDS[0]].row.roster_digest


def test_a_stale_row_is_dropped_and_counted() -> None:
    core = pulse_of()
    give(core, row_of(1, seq=5, owl=[700, OWL_NONE, 900]), 1.0)
    give(core, row_of(1, seq=4, owl=[100, OWL_NONE, 100]), 2.0, latency_ms=9000.0)
    assert 1 == core.drops["stale"]
    snapshot = core.snapshot(2.0)
    assert [7.0, 50.0] == pytest.approx([snapshot.last_ms[0, 1], snapshot.last_ms[1, 0]])
    assert [] == events_of(core)


def test_a_later_run_of_a_peer_is_newer_whatever_its_sequence() -> None:
    core = pulse_of()
    give(core, row_of(1, seq=50), 1.0)
    give(core, row_of(1, seq=1, boot=2), 2.0, latency_ms=60.0)
    assert (2, 1) == (core.rows[IDS[1]].row.boot, core.rows[IDS[1]].row.seq)
    assert 60.0 == pytest.approx(core.snapshot(2.0).mean_ms[1, 0], abs=1e-3)


def test_the_same_content_again_is_a_sample_and_no_second_row() -> None:
    core = pulse_of()
    signed = row_of(1)
    give(core, signed, 1.0, latency_ms=50.0)
    give(core, signed, 2.0, latency_ms=51.0)
    assert 51.0 == pytest.approx(core.snapshot(2.0).last_ms[1, 0], abs=1e-3)
    assert 0 == sum(core.drops.values())


def test_frames_of_strangers_are_counted_and_ignored() -> None:
    core = pulse_of(members=3)
    give(core, row_of(4), 1.0)
    assert 1 == core.drops["not-member"]
    assert {} == dict(core.rows)


def test_a_forged_first_row_is_refused() -> None:
    core = pulse_of()
    signed = row_of(1)
    give(core, SignedRow(signed.row, bytes(64) + signed.content[64:]), 1.0)
    assert [PeerMisbehaved(IDS[1], ADDRESS, "signature")] == events_of(core)
    assert 0 == core.edges_known(1.0)


def test_a_forged_later_row_is_found_by_sampling_or_before_it_leaves() -> None:
    core = pulse_of()
    give(core, row_of(1, seq=1), 1.0)
    for seq in range(2, 200):
        signed = row_of(1, seq=seq)
        give(core, SignedRow(signed.row, bytes(64) + signed.content[64:]), 1.0 + seq / 100)
    sampled = core.drops["signature"]
    assert 3 <= sampled <= 35
    assert [] == [signed.node_id for signed in core.verified_rows(3.0)]
    assert sampled + 1 == core.drops["signature"]
    assert IDS[1] not in core.rows


def test_verified_rows_are_the_fresh_ones_and_the_own() -> None:
    core = pulse_of()
    list(drive(core, 2.0))
    give(core, row_of(1), 2.0)
    give(core, row_of(2), 20.0)
    assert [IDS[0], IDS[1], IDS[2]] == [signed.node_id for signed in core.verified_rows(20.0)]
    assert [IDS[0], IDS[2]] == [signed.node_id for signed in core.verified_rows(28.5)]


def test_two_signed_rows_at_one_sequence_are_a_proof() -> None:
    core = pulse_of()
    first, second = row_of(1, owl=[100, OWL_NONE, 100]), row_of(1, owl=[900, OWL_NONE, 900])
    give(core, first, 1.0)
    give(core, second, 2.0)
    seen = [event for event in events_of(core) if isinstance(event, EquivocationSeen)]
    assert [EquivocationSeen(IDS[1], first.content, second.content)] == seen
    assert 1.0 == pytest.approx(core.snapshot(2.0).last_ms[0, 1])


def test_a_copy_through_others_is_compared_too() -> None:
    core = pulse_of()
    first, second = row_of(1, owl=[100, OWL_NONE, 100]), row_of(1, owl=[900, OWL_NONE, 900])
    give(core, first, 1.0)
    core.check_copy(IDS[1], first.content)
    core.check_copy(IDS[1], row_of(1, seq=9).content)
    assert [] == events_of(core)
    core.check_copy(IDS[1], second.content)
    assert [EquivocationSeen(IDS[1], first.content, second.content)] == events_of(core)
    with pytest.raises(DecodeError):
        core.check_copy(IDS[1], b"")


def test_a_forged_twin_proves_nothing() -> None:
    core = pulse_of()
    give(core, row_of(1), 1.0)
    twin = row_of(1, owl=[900, 900, 900])
    give(core, SignedRow(twin.row, bytes(64) + twin.content[64:]), 2.0)
    assert [PeerMisbehaved(IDS[1], ADDRESS, "signature")] == events_of(core)
    assert IDS[1] in core.rows


def test_a_peer_that_moved_its_clock_is_measured_afresh() -> None:
    core = pulse_of()
    for seq in range(1, 6):
        give(core, row_of(1, seq=seq, stamp_ns=WALL_NS), float(seq), latency_ms=50.0)
        give(core, row_of(2, seq=seq, stamp_ns=WALL_NS), float(seq))
    give(core, row_of(1, seq=6, clock_epoch=1), 6.0, latency_ms=-3000.0)
    snapshot = core.snapshot(6.0)
    assert -3000.0 == pytest.approx(snapshot.mean_ms[1, 0], abs=1e-3)
    assert np.isnan(snapshot.mean_ms[1, 2])  # member 2 may not have seen the move
    give(core, row_of(2, seq=6, stamp_ns=WALL_NS - 3 * 10**9 + 1_499_000_000), 7.0)
    assert np.isnan(core.snapshot(7.0).mean_ms[1, 2])
    give(core, row_of(2, seq=7, stamp_ns=WALL_NS + 10**9), 7.0)
    assert np.isfinite(core.snapshot(7.0).mean_ms[1, 2])


def test_again_is_answered_to_the_asker_only_and_rationed() -> None:
    core = pulse_of()
    list(drive(core, 2.0))
    sequence = core.rows[IDS[0]].row.seq
    for step in range(10):
        give(core, row_of(1, seq=1 + step), 2.1 + step / 1000, flags=FLAG_AGAIN)
    sent = [(data, to) for data, to in core.datagrams_to_send(2.2, lambda: WALL_NS)]
    assert 1 == len(sent)
    assert core.rows[IDS[0]].content == sent[0][0][44:]
    assert sequence == core.rows[IDS[0]].row.seq


def test_who_is_asked_for_an_old_row_again_tells_a_new_one_soon() -> None:
    """Found by the demonstration: a clock had moved, and rows made before were sent again and again, of no use to who asked."""
    core = pulse_of(members=2, period_s=1000.0)
    list(drive(core, 1.0))
    give(core, row_of(1, members=2, owl=[500, OWL_NONE]), 1.0)
    list(drive(core, 20.0, start=1.0))
    sequence = core.rows[IDS[0]].row.seq
    give(core, row_of(1, seq=2, members=2, owl=[500, OWL_NONE]), 20.0, flags=FLAG_AGAIN)
    list(drive(core, 20.6, start=20.0))
    assert sequence + 1 == core.rows[IDS[0]].row.seq


def test_who_has_told_nothing_yet_does_not_answer_again() -> None:
    core = pulse_of()
    give(core, row_of(1), 0.1, flags=FLAG_AGAIN)
    assert {FrameType.PROBE} <= {kind for _, kind in kinds(drive(core, 0.2, start=0.1))} <= {FrameType.PROBE}


def test_what_is_missing_is_asked_for_a_bounded_number_of_times() -> None:
    core = pulse_of()
    asked = [data for _, data in drive(core, 200.0) if data[1] == FrameType.PULSE and data[2] & FLAG_AGAIN]
    assert 8 == len(asked)  # four times each of two silent peers


def test_an_echo_is_as_large_as_its_probe_and_rationed() -> None:
    core = pulse_of()
    list(drive(core, 0.1))
    for step in range(50):
        core.receive_frame(Frame(IDS[1], FrameType.PROBE, 0, step, WALL_NS, struct.pack("<QQ", step, 0)), ADDRESS, WALL_NS + 7, 0.1)
    sent = [data for data, _ in core.datagrams_to_send(0.1, lambda: WALL_NS + 9)]
    echoes = [data for data in sent if data[1] == FrameType.ECHO]
    assert [(step, WALL_NS + 7) for step in range(8)] == [struct.unpack("<QQ", data[44:]) for data in echoes]
    assert 42 == core.drops["echo-rate"]


def test_who_has_nothing_new_to_tell_leaves_the_rest_of_the_burst_out() -> None:
    core = pulse_of(members=2, period_s=1000.0)
    list(drive(core, 1.0))
    give(core, row_of(1, members=2, owl=[500, OWL_NONE]), 1.0)
    sent = kinds(drive(core, 30.0, start=1.0))
    assert 2 <= len([kind for _, kind in sent if kind is FrameType.PULSE]) <= 3


def test_the_matrix_is_reported_filled_once_and_incomplete_once() -> None:
    core = pulse_of(members=2)
    list(drive(core, 1.0))
    give(core, row_of(1, members=2, owl=[500, OWL_NONE]), 1.0)
    list(drive(core, 60.0, start=1.0))
    events = [event for event in events_of(core) if not isinstance(event, PeerMisbehaved)]
    assert [MatrixFilled, MatrixIncomplete] == [type(event) for event in events]
    assert [2, 2] == [event.members for event in events if isinstance(event, MatrixFilled | MatrixIncomplete)]


def test_a_roster_of_more_than_a_row_can_hold_is_cut() -> None:
    core = Pulse(IDENTITIES[0], FrameCodec(IDENTITIES[0], 7, 1), GROUP, boot=1, rng=random.Random(1))
    many = [Identity(bytes([index, 1]) * 16).node_id for index in range(140)]
    core.set_members(dict.fromkeys([*many, IDS[0]], ADDRESS), DIGEST, 0.0)
    assert 128 == len(core.matrix.members)
    assert max((len(data) for _, data in drive(core, 3.0)), default=0) == 1076


def test_a_member_whose_pair_key_is_gone_is_skipped() -> None:
    frames = FrameCodec(IDENTITIES[0], 7, 1)
    core = Pulse(IDENTITIES[0], frames, GROUP, boot=1, rng=random.Random(1))
    core.set_members(dict.fromkeys(IDS[:3], ADDRESS), DIGEST, 0.0)
    frames.remove_peer(IDS[1])
    core.handle_timer(0.1)
    assert 1 == len(list(core.datagrams_to_send(0.1, lambda: WALL_NS)))
    assert 1 == core.drops["no-key"]


def test_datagrams_follow_a_peer_that_moved() -> None:
    core = pulse_of(members=2)
    core.receive_frame(Frame(IDS[1], FrameType.PROBE, 0, 1, WALL_NS, bytes(16)), ("127.0.0.2", 77), WALL_NS, 0.0)
    assert {("127.0.0.2", 77)} == {to for _, to in core.datagrams_to_send(0.0, lambda: WALL_NS)}


@pytest.mark.parametrize("tx_ns", [0, 2**64 - 1])
def test_absurd_stamps_are_refused(tx_ns: int) -> None:
    core = pulse_of()
    core.receive_frame(Frame(IDS[1], FrameType.PULSE, 0, 1, tx_ns, row_of(1).content), ADDRESS, WALL_NS, 1.0)
    assert [PeerMisbehaved(IDS[1], ADDRESS, "stamp")] == events_of(core)
    assert 0 == core.edges_known(1.0)


_CORE = pulse_of()


@settings(max_examples=300)
@given(
    st.sampled_from([FrameType.PULSE, FrameType.PROBE, FrameType.ECHO]),
    st.one_of(st.binary(max_size=1156), st.binary(min_size=16, max_size=16), st.binary(min_size=76, max_size=76)),
    st.integers(0, 2**64 - 1),
    st.integers(0, 65535),
)
def test_random_bytes_of_a_member_never_raise(kind: FrameType, content: bytes, tx_ns: int, flags: int) -> None:
    _CORE.receive_frame(Frame(IDS[1], kind, flags, 1, tx_ns, content), ADDRESS, WALL_NS, 1.0)
    list(_CORE.datagrams_to_send(1.0, lambda: WALL_NS))
    events_of(_CORE)


@settings(max_examples=100)
@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**63 - 1), st.binary(min_size=9, max_size=9), st.integers(0, 255))
def test_a_member_that_signs_nonsense_never_raises_and_never_warns(base_us: int, stamp_ns: int, entries: bytes, epoch: int) -> None:
    core = pulse_of()
    signed = row_of(1, base_us=base_us, stamp_ns=stamp_ns, entries=entries, clock_epoch=epoch)
    give(core, signed, 1.0)
    give(core, row_of(1, seq=2, base_us=0, stamp_ns=stamp_ns, entries=entries, clock_epoch=epoch ^ 1), 2.0)
    snapshot = core.snapshot(2.0)
    assert not np.isinf(snapshot.mean_ms).any()
    assert NodeId(IDS[1]) in core.rows
