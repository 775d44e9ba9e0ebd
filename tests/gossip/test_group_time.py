"""Group time: who moves where, and when."""

from __future__ import annotations

import itertools
import random

import pytest

from srwan.gossip.group_time import (
    CHECK_GROWN_S,
    CHECK_SETTLED_S,
    REALIGN_GAP_S,
    REALIGN_NS,
    SETTLE_FORMING_S,
    SETTLE_PATIENCE_S,
    SETTLE_QUIET_S,
    GroupTime,
)
from srwan.types import NodeId

NODES = [NodeId(bytes([index]) * 32) for index in range(1, 30)]
S = 10**9


def echo(time: GroupTime, node: NodeId, ahead_ns: int, now: float, *, is_settled: bool = False, rtt_ns: int = 100_000_000) -> bool:
    """A probe and its echo, from a peer whose group time is `ahead_ns` ahead of this host's stamp clock."""
    t1 = 1000 * S
    time.probe_sent(node, 5, t1)
    t2 = t1 + ahead_ns + rtt_ns // 2
    return time.echo_received(node, 5, t2, t2 + 1000, t1 + rtt_ns + 1000, is_settled=is_settled, now=now)


def settled(peers_ahead_ns: list[int], *, are_settled: bool = False) -> GroupTime:
    time = GroupTime(random.Random(1))
    nodes = NODES[: len(peers_ahead_ns)]
    time.set_peers(nodes, 0.0)
    for node, ahead_ns in zip(nodes, peers_ahead_ns, strict=True):
        assert echo(time, node, ahead_ns, 0.1, is_settled=are_settled)
    time.handle_timer(SETTLE_FORMING_S)
    assert time.is_settled
    return time


@pytest.mark.parametrize(
    ("ahead_s", "expected_s"),
    [([5], 0), ([-5], -5), ([1, 2], 1), ([-3, 4], 0), ([-3, -2, 4], -2), ([1, 2, 3, 4], 2)],
)
def test_a_newcomer_takes_the_lower_median_of_itself_and_the_others(ahead_s: list[int], expected_s: int) -> None:
    assert expected_s * S == settled([ahead * S for ahead in ahead_s]).offset_ns


def test_two_fresh_members_agree_without_both_moving() -> None:
    assert [0, -3 * S] == [settled([3 * S]).offset_ns, settled([-3 * S]).offset_ns]


def test_a_newcomer_follows_those_who_pulse_already() -> None:
    assert 3 * S == settled([3 * S], are_settled=True).offset_ns
    assert 3 * S == settled([3 * S, 3 * S, 3 * S], are_settled=True).offset_ns


def test_many_newcomers_at_once_all_follow_the_two_who_pulse_already() -> None:
    """Found by the demonstration: two routers settled early, ten came at once, and the matrix stayed incomplete for seconds."""
    time = GroupTime(random.Random(1))
    time.set_peers(NODES[:11], 0.0)
    for index, node in enumerate(NODES[:11]):
        assert echo(time, node, [3 * S, 3 * S, *range(-9 * S, 0, S)][index], 0.1, is_settled=index < 2)
    time.handle_timer(SETTLE_QUIET_S)
    assert 3 * S == time.offset_ns


def test_the_first_move_raises_no_clock_epoch() -> None:
    assert 0 == settled([-5 * S]).clock_epoch


def test_a_minority_of_liars_cannot_choose_the_time() -> None:
    honest = [index * 10_000_000 for index in range(-5, 6)]
    for lie in (-4000 * S, 4000 * S):
        assert abs(settled(honest + [lie] * 10).offset_ns) <= 50_000_000


@pytest.mark.parametrize(("is_settled", "quiet_s"), [(False, SETTLE_FORMING_S), (True, SETTLE_QUIET_S)])
def test_settling_waits_for_all_echoes_and_with_patience_for_the_last(is_settled: bool, quiet_s: float) -> None:
    for echoes, wait_s in ((2, quiet_s), (1, quiet_s + SETTLE_PATIENCE_S)):
        time = GroupTime(random.Random(1))
        time.set_peers(NODES[:2], 0.0)
        for node in NODES[:echoes]:
            echo(time, node, S, 0.1, is_settled=is_settled)
        time.handle_timer(wait_s - 0.01)
        assert not time.is_settled
        time.handle_timer(wait_s)
        assert time.is_settled


def test_who_lacks_an_echo_follows_those_who_settled_meanwhile() -> None:
    time = GroupTime(random.Random(1))
    time.set_peers(NODES[:4], 0.0)
    for index, node in enumerate(NODES[:3]):
        echo(time, node, index * S, 0.1)
    time.handle_timer(SETTLE_FORMING_S)
    assert not time.is_settled
    time.sample_taken(NODES[2], 50.0 - 2000.0)
    time.handle_timer(SETTLE_FORMING_S + SETTLE_PATIENCE_S)
    assert 2 * S == time.offset_ns


def test_a_pulse_tells_as_well_as_an_echo_that_somebody_is_settled() -> None:
    time = GroupTime(random.Random(1))
    time.set_peers(NODES[:2], 0.0)
    for node in NODES[:2]:
        echo(time, node, S, 0.1)
    time.sample_taken(NODES[0], 50.0 - 1000.0)
    time.handle_timer(SETTLE_QUIET_S)
    assert time.is_settled


def test_a_settled_member_looks_again_after_its_roster_stopped_growing() -> None:
    time = settled([0, 0], are_settled=True)
    for index, at in enumerate((10.0, 10.5, 11.0), 3):
        time.set_peers(NODES[:index], at)
    for node in NODES[:5]:
        echo(time, node, -4 * S, 11.1, is_settled=True)
    assert 0 == time.handle_timer(11.0 + CHECK_GROWN_S - 0.01)
    assert -4 * S == time.handle_timer(11.0 + CHECK_GROWN_S)


def test_a_group_that_comes_back_is_looked_at_when_it_has_echoed() -> None:
    time = settled([0, 0], are_settled=True)
    time.handle_timer(50.0)
    time.set_peers(NODES[:3], 100.0)
    time.set_peers([], 100.5)
    time.set_peers(NODES[3:7], 1000.0)
    for node in NODES[3:7]:
        echo(time, node, -4 * S, 1000.2, is_settled=True)
    assert 0 == time.handle_timer(1000.2)
    assert -4 * S == time.handle_timer(1000.0 + CHECK_GROWN_S)


def test_a_roster_that_grows_for_ever_does_not_keep_a_settled_member_from_looking() -> None:
    time = settled([0, 0], are_settled=True)
    moved = 0
    for index in range(3, len(NODES)):
        at = 10.0 + 0.9 * index
        time.set_peers(NODES[:index], at)
        for node in NODES[:index]:
            echo(time, node, -4 * S - time.offset_ns, at, is_settled=True)
        moved += time.handle_timer(at + 0.5)
    assert -4 * S == moved


def test_a_growing_roster_is_waited_for() -> None:
    time = GroupTime(random.Random(1))
    time.set_peers(NODES[:1], 0.0)
    echo(time, NODES[0], S, 0.1)
    time.set_peers(NODES[:2], 0.2)
    time.handle_timer(0.3)
    assert not time.is_settled


def test_nobody_settles_alone() -> None:
    time = GroupTime(random.Random(1))
    time.set_peers([], 0.0)
    time.handle_timer(100.0)
    assert (False, None) == (time.is_settled, time.get_timer())
    time.set_peers(NODES[:1], 100.0)
    time.set_peers([], 100.1)
    time.set_peers(NODES[1:2], 200.0)
    time.handle_timer(200.1)
    assert not time.is_settled


def test_a_member_that_is_far_off_moves_and_raises_its_epoch() -> None:
    time = settled([0, 0], are_settled=True)
    for node in NODES[:2]:
        time.sample_taken(node, -950.0)
    assert S == time.handle_timer(SETTLE_FORMING_S + CHECK_SETTLED_S) == time.offset_ns
    assert 1 == time.clock_epoch


def test_a_member_that_is_a_little_off_stays() -> None:
    time = settled([0, 0], are_settled=True)
    for node in NODES[:2]:
        echo(time, node, REALIGN_NS, 1.0, is_settled=True)
    assert 0 == time.handle_timer(10.0)
    assert 0 == time.clock_epoch


def test_moves_are_rare() -> None:
    time = settled([0, 0], are_settled=True)
    moves = []
    for step in range(4000):
        now = 1.0 + step
        for node in NODES[:2]:
            echo(time, node, time.offset_ns + S, now, is_settled=True)
        if time.handle_timer(now):
            moves.append(now)
    late = [at for at in moves if at > 70]
    assert 5 < len(moves) - len(late) <= 13
    assert all(b - a >= REALIGN_GAP_S for a, b in itertools.pairwise(late))
    assert 10 <= len(late) <= 4000 / REALIGN_GAP_S


def test_each_peer_is_probed_again_until_it_echoes_and_then_once_a_minute() -> None:
    time = GroupTime(random.Random(1))
    time.set_peers(NODES[:2], 0.0)
    assert [] == time.probes_due(0.0)
    assert set(NODES[:2]) == set(time.probes_due(0.1))
    assert [] == time.probes_due(0.2)
    echo(time, NODES[0], 0, 0.25)
    assert [NODES[1]] == time.probes_due(0.35)
    probes = [node for step in range(300) for node in time.probes_due(1.0 + step)]
    assert 4 <= probes.count(NODES[0]) <= 7


def test_a_silent_peer_is_not_probed_for_ever() -> None:
    time = GroupTime(random.Random(1))
    time.set_peers(NODES[:1], 0.0)
    sent = [0.05 * step for step in range(200) for _ in time.probes_due(0.05 * step)]
    assert [0.1, 0.35, 0.85, 1.85, 3.85] == pytest.approx(sent)


def test_a_host_that_is_behind_probes_who_is_new_but_nobody_again_until_it_has_caught_up() -> None:
    time = GroupTime(random.Random(1))
    time.set_peers(NODES[:2], 0.0)
    assert NODES[:2] == time.probes_due(0.1)
    assert echo(time, NODES[0], 0, 0.2)
    time.hold(2.0)
    time.hold(1.0)  # a shorter one takes nothing back
    time.probe_received(NODES[1], 0.5)
    time.set_peers(NODES[:3], 0.5)
    sent = [(0.05 * step, node) for step in range(10, 60) for node in time.probes_due(0.05 * step)]
    assert [NODES[2], NODES[1], NODES[2]] == [node for _, node in sent[:3]]
    assert [0.6, 2.0, 2.0] == pytest.approx([at for at, _ in sent[:3]])
    assert len(sent) == 5  # each once more, 0.5 s later


def test_a_probe_is_a_reason_to_probe_back_at_once() -> None:
    time = GroupTime(random.Random(1))
    time.set_peers(NODES[:1], 0.0)
    time.probes_due(0.1)
    time.probes_due(0.35)
    time.probe_received(NODES[0], 0.4)
    assert [] == time.probes_due(0.4)  # the echo may be under way
    time.probe_received(NODES[0], 0.65)
    assert [NODES[0]] == time.probes_due(0.65)


def test_an_echo_that_nobody_asked_for_changes_nothing() -> None:
    time = GroupTime(random.Random(1))
    time.set_peers(NODES[:1], 0.0)
    assert not time.echo_received(NODES[0], 5, S, S, S, is_settled=True, now=0.0)
    assert not time.echo_received(NODES[1], 5, S, S, S, is_settled=True, now=0.0)
    assert echo(time, NODES[0], 0, 0.1)
    assert not time.echo_received(NODES[0], 5, S, S, S, is_settled=True, now=0.2)


@pytest.mark.parametrize("ahead_ns", [10**19, -(10**19)])
def test_absurd_stamps_are_refused(ahead_ns: int) -> None:
    time = GroupTime(random.Random(1))
    time.set_peers(NODES[:1], 0.0)
    assert not echo(time, NODES[0], ahead_ns, 0.1)
    assert not echo(time, NODES[0], 0, 0.1, rtt_ns=-5000)


def test_the_round_trip_is_told() -> None:
    time = settled([7 * S])
    assert (100.0, None) == (time.round_trip_ms(NODES[0]), time.round_trip_ms(NODES[5]))


def test_two_islands_meet_on_the_earlier_one() -> None:
    moved = []
    for other_s in (4, -4):
        time = settled([0, 0], are_settled=True)
        time.set_peers(NODES[:5], 10.0)
        for index, node in enumerate(NODES[:5]):
            echo(time, node, 0 if index < 2 else other_s * S, 10.1, is_settled=True)
        time.handle_timer(10.0 + CHECK_GROWN_S)
        moved.append((time.offset_ns, time.clock_epoch))
    assert [(0, 0), (-4 * S, 1)] == moved
