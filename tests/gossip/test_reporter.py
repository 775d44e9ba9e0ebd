"""Who reports: ranks, intervals, standbys, hostile REPORTED."""

from __future__ import annotations

import struct
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srwan.gossip.reporter import (
    EPOCH_S,
    FIRST_AFTER_S,
    RANKS,
    RANKS_HEARD,
    ReportDue,
    Reporter,
    ReporterElected,
    ReporterTookOver,
    ReportPublished,
    epoch_of,
    rank,
)
from srwan.identity import Identity
from srwan.overlay.frame import Frame, FrameCodec, FrameType
from srwan.types import NodeId, PeerMisbehaved

GROUP = bytes(range(32))
IDENTITIES = [Identity(bytes([index]) * 32) for index in range(1, 13)]
IDS = [identity.node_id for identity in IDENTITIES]
ADDRESS = ("127.0.0.1", 9)
START_NS = 100 * EPOCH_S * 10**9
S = 10**9


def reporter_at(place: int, *, members: int = 12) -> Reporter:
    """The reporter core of the member at this place of the order, with its view known since 0 s."""
    node = rank(IDS[:members], GROUP, epoch_of(START_NS))[place]
    frames = FrameCodec(IDENTITIES[IDS.index(node)], 7, 1)
    for other in IDS[:members]:
        frames.add_peer(other)
    core = Reporter(node, frames, GROUP)
    core.set_members(dict.fromkeys(IDS[:members], ADDRESS), 0.0, START_NS)
    return core


def drive(core: Reporter, until: float, *, start: float = 0.0, publishes: bool = True) -> list[tuple[float, object]]:
    """Fire timers until then, publishing what is due; return events."""
    events: list[tuple[float, object]] = []
    now = start
    while True:
        while (event := core.next_event()) is not None:
            events.append((round(now, 3), event))
            if isinstance(event, ReportDue):
                if publishes:
                    core.report_published(event.sequence, bytes(32), 12, now)
                else:
                    core.report_failed(event.sequence)
        at = core.get_timer()
        if at is None or at > until:
            return events
        now = max(at, now)
        core.handle_timer(now, START_NS + int(now * 1e9) + 1)


def reported(sender: NodeId, *, epoch: int = 100, sequence: int = 1) -> Frame:
    return Frame(sender, FrameType.REPORTED, 0, 1, 0, struct.pack("<QI32sH", epoch, sequence, bytes(32), 12))


def due_times(events: list[tuple[float, object]]) -> list[float]:
    return [at for at, event in events if isinstance(event, ReportDue)]


def test_all_members_compute_the_same_order_and_epochs_change_it() -> None:
    orders = [rank(IDS, GROUP, epoch) for epoch in range(50)]
    assert orders == [rank(IDS[::-1], GROUP, epoch) for epoch in range(50)]
    assert set(IDS) == set(orders[0])
    assert len({order[0] for order in orders}) > 6


def test_a_member_that_goes_changes_nobody_elses_order() -> None:
    order = rank(IDS, GROUP, 3)
    assert order[1:] == rank([node for node in IDS if node != order[0]], GROUP, 3)


def test_another_group_has_another_order() -> None:
    assert rank(IDS, GROUP, 3) != rank(IDS, bytes(32), 3)


def test_the_first_report_comes_three_seconds_after_the_view_and_then_every_interval() -> None:
    assert [FIRST_AFTER_S, 13.0, 23.0] == due_times(drive(reporter_at(0), 30.0))


def test_a_full_matrix_brings_the_first_report_at_once() -> None:
    core = reporter_at(0)
    core.matrix_filled(1.2)
    assert 1.2 == due_times(drive(core, 30.0, start=1.2))[0]


def test_a_growing_view_puts_off_the_first_report_and_moves_the_ranks() -> None:
    core = reporter_at(0, members=6)
    core.set_members(dict.fromkeys(IDS, ADDRESS), 2.0, START_NS + 2 * S)
    expected = rank(IDS, GROUP, 100)
    assert expected[:RANKS] == core.order
    times = due_times(drive(core, 30.0, start=2.0))
    assert all(at >= 5.0 for at in times)


@pytest.mark.parametrize("place", range(1, RANKS))
def test_each_standby_waits_its_turn_and_says_that_it_took_over(place: int) -> None:
    events = drive(reporter_at(place), 30.0)
    first = FIRST_AFTER_S + place * 2.5
    assert [first, first + 10.0] == due_times(events)[:2]
    assert [place] == [event.rank for _, event in events if isinstance(event, ReporterTookOver)]


def test_those_further_down_never_report() -> None:
    assert [] == due_times(drive(reporter_at(RANKS), 59.0))


def test_a_standby_stays_silent_while_it_hears_the_reporter() -> None:
    core = reporter_at(1)
    order = core.order
    for at in range(0, 50, 10):
        core.receive_frame(reported(order[0]), ADDRESS, float(at))
        assert [] == due_times(drive(core, at + 10.0, start=float(at)))


def test_a_standby_steps_back_when_a_better_rank_is_heard_again() -> None:
    core = reporter_at(2)
    assert [8.0, 18.0] == due_times(drive(core, 20.0))
    core.receive_frame(reported(core.order[1]), ADDRESS, 20.0)
    assert [20.0 + 10.0 + 5.0] == due_times(drive(core, 36.0, start=20.0))


def test_a_new_epoch_is_ranked_over_the_view_at_its_begin() -> None:
    core = reporter_at(0)
    drive(core, 20.0)
    stay = core.order[0], *IDS[:3]
    core.set_members(dict.fromkeys(stay, ADDRESS), 20.0, START_NS + 20 * S)
    events = drive(core, 61.0, start=20.0)
    elected = [(at, event) for at, event in events if isinstance(event, ReporterElected)]
    assert [60.0] == [at for at, _ in elected]
    assert rank(list(set(stay)), GROUP, 101)[:RANKS] == elected[0][1].order


def test_who_left_is_skipped_and_who_came_late_waits_for_the_next_epoch() -> None:
    core = reporter_at(1, members=11)
    first = core.order[0]
    drive(core, 20.0)
    newcomer = IDS[11]
    core.set_members(dict.fromkeys([*(node for node in IDS[:11] if node != first), newcomer], ADDRESS), 20.0, START_NS + 20 * S)
    order = rank([node for node in IDS[:11] if node != first], GROUP, 100)
    assert order[:RANKS] == core.order


def test_a_report_that_failed_is_told_to_nobody_and_tried_again() -> None:
    core = reporter_at(0)
    events = drive(core, 30.0, publishes=False)
    assert [3.0, 13.0, 23.0] == due_times(events)
    assert [] == list(core.datagrams_to_send(30.0, lambda: 0))
    assert [] == [event for _, event in events if isinstance(event, ReportPublished)]


def test_sequences_rise_within_an_epoch_and_begin_with_its_second() -> None:
    events = drive(reporter_at(0), 55.0)
    assert [3, 13, 23, 33, 43, 53] == [event.sequence for _, event in events if isinstance(event, ReportDue)]


def test_all_others_are_told_in_one_frame_each() -> None:
    core = reporter_at(0)
    drive(core, 5.0)
    datagrams = list(core.datagrams_to_send(5.0, lambda: 5))
    assert 11 == len(datagrams)
    assert {44 + 46} == {len(data) for data, _ in datagrams}


def test_a_lone_member_reports_nothing() -> None:
    core = Reporter(IDS[0], FrameCodec(IDENTITIES[0], 7, 1), GROUP)
    core.set_members({IDS[0]: ADDRESS}, 0.0, START_NS)
    core.handle_timer(100.0, START_NS)
    assert (None, None, ()) == (core.get_timer(), core.next_event(), core.order)


def test_strangers_and_low_ranks_silence_nobody() -> None:
    core = reporter_at(0)
    low = rank(IDS, GROUP, 100)[RANKS_HEARD]
    drive(core, 5.0)
    core.receive_frame(reported(low), ADDRESS, 6.0)
    core.receive_frame(reported(NodeId(bytes(32))), ADDRESS, 6.0)
    assert [13.0] == due_times(drive(core, 20.0, start=6.0))
    assert Counter({"not-reporter": 1, "not-member": 1}) == core.drops


@given(st.binary(max_size=80))
def test_random_bytes_as_reported_never_raise(content: bytes) -> None:
    core = reporter_at(1)
    core.receive_frame(Frame(core.order[0], FrameType.REPORTED, 0, 1, 0, content), ADDRESS, 1.0)
    events = [event for _, event in drive(core, 1.0)]
    if len(content) != 46:
        assert [PeerMisbehaved(core.order[0], ADDRESS, "decode")] == [event for event in events if isinstance(event, PeerMisbehaved)]
        assert 1 == core.drops["decode"]
