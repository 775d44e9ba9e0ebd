"""PathControl against a simulated network: how soon data leave what fails, notices, ways back, several paths at once, and no flapping."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from srwan.routing.control import OVERLOADED_S
from srwan.routing.finder import Relays
from srwan.routing.path import PathDegraded, PathDied, PathState, PathVetoed
from srwan.routing.payload import Notice, NoticeReason
from srwan.routing.policy import PathMode, PathPolicy
from srwan.testing.paths import (
    DIRECT,
    EAST,
    VIA_EAST,
    VIA_NORTH,
    VIA_SOUTH,
    VIA_WEST,
    WEST,
    PathNetwork,
    between,
    down,
    links_of,
)

NO_SESSION = Notice(NoticeReason.NO_SESSION, bytes(8))


def on_east(seed: int, *, policy: PathPolicy | None = None, **options: float) -> PathNetwork:
    """100 packets/s over a relay that is better than direct and two standbys; the fault is to come at 105 s or later."""
    rng = random.Random(seed)
    links = links_of(direct=rng.uniform(80, 140), east=rng.uniform(30, 55), west=rng.uniform(66, 75), north=rng.uniform(66, 75))
    net = PathNetwork(links, seed=seed, jitter_ms=2.0, loss=0.001, data_pps=100, policy=policy, **options)  # type: ignore[arg-type]
    net.run(5.0)
    assert VIA_EAST == net.control.active[0]
    return net


# -- speed


@pytest.mark.parametrize("fault", ["kill", "forward", "back", "loss"])
def test_a_flow_of_100_packets_a_second_is_interrupted_for_half_a_second_at_most(
    seeds: Callable[[int], range], fault: str, record_testsuite_property: Callable[[str, object], None]
) -> None:
    gaps = []
    for seed in seeds(8):
        net = on_east(seed)
        link, at = net.links[VIA_EAST], net.now + random.Random(-seed).random()
        if fault == "kill":
            link.is_up = down(at)
        elif fault == "forward":
            link.is_forward_up = down(at)
        elif fault == "back":
            link.is_back_up = down(at)
        else:
            link.loss = between(at, 1e9, 0.3)
        net.run(5.0)
        gaps.append(net.gap_s(at))
        moved = [switch for when, switch in net.switches() if when >= at]
        assert (0 if fault == "back" else 1) == len(moved)
    record_testsuite_property(f"gap_s_{fault}_max", round(max(gaps), 3))
    assert max(gaps) <= {"kill": 0.5, "forward": 0.5, "back": 0.1, "loss": 0.2}[fault]


def test_without_answers_to_data_keepalives_alone_show_silence() -> None:
    for seed in range(5):
        net = on_east(seed, answers_data=False)
        at = net.now + random.Random(seed).random()
        net.links[VIA_EAST].is_up = down(at)
        net.run(3.0)
        assert net.gap_s(at) <= 0.95


def test_data_suppress_keepalives_on_the_path_they_take() -> None:
    net = on_east(1)
    before, start = len(net.keepalives), net.now
    net.run(20.0)
    sent = Counter(relays for _, relays in net.keepalives[before:])
    assert sent[VIA_EAST] <= 25
    assert min(sent[DIRECT], sent[VIA_WEST], sent[VIA_NORTH]) >= 90
    assert start + 20.0 == net.now


def test_an_application_that_pauses_is_no_silence() -> None:
    links = links_of(direct=50, east=60, west=70)
    net = PathNetwork(links, seed=4, data_pps=100).run(5.0)
    net._data_pps = 1.6  # now and then a packet
    net.run(60.0)
    assert ([], []) == (net.switches(), net.events(PathDied))


# -- ways back


def test_a_broken_way_back_is_told_and_tried_again_until_it_heals() -> None:
    net = on_east(3)
    at = net.now + 0.5
    net.links[VIA_EAST].is_back_up = down(at, at + 10.0)
    net.run(8.0)
    status = net.control.paths[0]
    assert (VIA_EAST, PathState.ACTIVE) == (status.relays, status.state)
    assert status.back in (DIRECT, VIA_WEST, VIA_NORTH)
    assert ["way back"] == [event.problem for event in net.events(PathDegraded) if event.problem == "way back"]
    net.run(12.0)
    assert net.control.paths[0].back is None
    assert [] == net.events(PathDied)


def test_a_way_back_by_a_path_that_dies_is_replaced() -> None:
    net = on_east(3)
    at = net.now + 0.5
    net.links[VIA_EAST].is_back_up = down(at)
    net.run(3.0)
    taken = net.control.paths[0].back
    assert taken is not None
    net.links[taken].is_up = down(net.now)
    net.run(3.0)
    status = net.control.paths[0]
    assert VIA_EAST == status.relays
    assert taken != status.back


def test_a_path_whose_way_back_never_worked_still_opens() -> None:
    links = links_of(direct=90, east=50, west=60)
    links[VIA_EAST].is_back_up = lambda _now: False
    net = PathNetwork(links, seed=2).run(12.0)
    assert VIA_EAST == net.control.active[0]


# -- notices


def test_a_notice_moves_data_at_once_to_a_path_that_answers() -> None:
    net = on_east(1)
    net.links[VIA_EAST].is_up = down(net.now)
    net.control.receive_notice(EAST, net.control.active[1], NO_SESSION, net.now)
    assert VIA_EAST != net.control.active[0]
    net.run(2.0)
    assert [VIA_EAST] == [veto.relays for veto in net.events(PathVetoed)]


def test_a_notice_is_taken_from_the_first_relay_of_the_path_only_and_once_a_second() -> None:
    net = on_east(1)
    tag = net.control.active[1]
    net.control.receive_notice(WEST, tag, NO_SESSION, net.now)
    net.control.receive_notice(EAST, 4711, NO_SESSION, net.now)
    assert (VIA_EAST, 2) == (net.control.active[0], net.control.drops["notice-stranger"])
    net.control.receive_notice(EAST, tag, NO_SESSION, net.now)
    net.control.receive_notice(EAST, tag, NO_SESSION, net.now + 0.9)
    assert 1 == net.control.drops["notice-rate"]


def test_a_notice_moves_nothing_where_no_other_path_answers() -> None:
    links = links_of(direct=90, east=50)
    net = PathNetwork(links, seed=5, data_pps=100).run(5.0)
    links[DIRECT].is_up = down(net.now)
    net.run(3.0)
    net.control.receive_notice(EAST, net.control.active[1], NO_SESSION, net.now)
    assert VIA_EAST == net.control.active[0]
    net.run(1.0)
    assert (VIA_EAST, PathState.ACTIVE) == (net.control.paths[0].relays, net.control.paths[0].state)


def test_a_relay_that_lies_in_every_notice_loses_the_traffic_and_moves_it_a_few_times_only() -> None:
    net = on_east(2)
    for _ in range(600):
        for status in net.control.paths:
            if status.relays == VIA_EAST:
                net.control.receive_notice(EAST, status.path_tag, NO_SESSION, net.now)
        net.run(0.1)
    assert len(net.switches()) <= 1 + 3  # in a minute: away, back when a veto of 30 s is over, away
    assert [30.0, 60.0] == [veto.for_s for veto in net.events(PathVetoed) if veto.relays == VIA_EAST]


def test_a_notice_about_a_path_that_is_not_open_yet_changes_nothing() -> None:
    net = PathNetwork(links_of(direct=50, east=60), seed=1)
    net.control.receive_notice(EAST, 1001, NO_SESSION, net.now)
    net.run(2.0)
    assert [PathState.ACTIVE, PathState.STANDBY] == [path.state for path in net.control.paths]


def test_an_overloaded_relay_loses_about_the_share_it_asks_to_be_rid_of() -> None:
    left = 0
    for seed in range(30):
        net = PathNetwork(links_of(direct=90, east=40, west=60), seed=seed, data_pps=10).run(4.0)
        assert VIA_EAST == net.control.active[0]
        net.control.receive_notice(EAST, net.control.active[1], Notice(NoticeReason.OVERLOADED, bytes(8), 500), net.now)
        if net.control.active[0] != VIA_EAST:
            left += 1
            assert VIA_EAST not in [path.relays for path in net.control.paths]
    assert 7 <= left <= 23


def test_who_left_an_overloaded_relay_stays_away_for_a_while() -> None:
    net = PathNetwork(links_of(direct=90, east=40, west=60), seed=1, data_pps=10).run(4.0)
    net.control.receive_notice(EAST, net.control.active[1], Notice(NoticeReason.OVERLOADED, bytes(8), 1000), net.now)
    net.run(OVERLOADED_S - 0.5)
    assert VIA_EAST not in [path.relays for path in net.control.paths]
    net.run(12.0)
    assert VIA_EAST == net.control.active[0]


# -- several paths


def test_repeated_packets_survive_the_death_of_a_relay_without_a_gap() -> None:
    net = on_east(1, policy=PathPolicy(mode=PathMode.REPEAT))
    at = net.now + 0.5
    net.links[VIA_EAST].is_up = down(at)
    net.run(5.0)
    assert net.gap_s(at) <= 0.1
    first: dict[int, Relays] = {}
    copies = Counter(delivery.seq for delivery in net.deliveries)
    for delivery in net.deliveries:
        first.setdefault(delivery.seq, delivery.relays)
    assert max(copies.values()) == 2
    assert sum(count == 2 for count in copies.values()) >= 0.9 * len(copies) - 40


def test_spread_packets_take_turns_over_equal_paths() -> None:
    links = links_of(direct=150, east=50, west=52, north=53, south=80)
    net = PathNetwork(links, seed=1, data_pps=100, jitter_ms=0.2, policy=PathPolicy(mode=PathMode.SPREAD)).run(6.0)
    start = len(net.deliveries)
    net.run(10.0)
    taken = Counter(delivery.relays for delivery in net.deliveries[start:])
    assert {VIA_EAST, VIA_WEST, VIA_NORTH} == set(taken)
    assert max(taken.values()) - min(taken.values()) <= 10


def test_a_dead_path_is_out_of_the_turns_at_once() -> None:
    links = links_of(direct=150, east=50, west=52)
    net = PathNetwork(links, seed=1, data_pps=100, policy=PathPolicy(mode=PathMode.SPREAD)).run(6.0)
    net.control.relay_failed(EAST, net.now)
    assert {VIA_WEST} == {net.control.routes()[0][0] for _ in range(20)}


# -- no flapping


@settings(max_examples=12, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(st.integers(0, 2**16), st.sampled_from([2.0, 5.0, 9.0]), st.sampled_from(["kill", "forward", "back", "loss", "slow", "notice"]))
def test_whatever_fails_again_and_again_data_move_a_few_times_a_minute_at_most(seed: int, period_s: float, fault: str) -> None:
    rng = random.Random(seed)
    links = links_of(direct=rng.uniform(60, 120), east=50, west=60, north=66, south=70)
    for relays in rng.sample([DIRECT, VIA_EAST, VIA_WEST, VIA_NORTH, VIA_SOUTH], 2):
        phase, share = rng.uniform(0, period_s), rng.uniform(0.1, 0.7)

        def is_bad(now: float, phase: float = phase, share: float = share) -> bool:
            return now > 105.0 and (now + phase) % period_s < share * period_s

        link = links[relays]
        if fault == "kill":
            link.is_up = lambda now, is_bad=is_bad: not is_bad(now)  # type: ignore[misc]
        elif fault == "forward":
            link.is_forward_up = lambda now, is_bad=is_bad: not is_bad(now)  # type: ignore[misc]
        elif fault == "back":
            link.is_back_up = lambda now, is_bad=is_bad: not is_bad(now)  # type: ignore[misc]
        elif fault == "loss":
            link.loss = lambda now, is_bad=is_bad: 0.3 * is_bad(now)  # type: ignore[misc]
        else:
            link.extra_ms = lambda now, is_bad=is_bad: 120.0 * is_bad(now)  # type: ignore[misc]
    net = PathNetwork(links, seed=seed, data_pps=20).run(5.0)
    for _ in range(60):
        net.run(1.0)
        if fault == "notice":
            relays, tag = net.control.active
            if relays:
                net.control.receive_notice(relays[0], tag, NO_SESSION, net.now)
    moments = [when for when, _ in net.switches()]
    is_all_lies = fault == "notice"  # of every relay that gets the data
    assert sum(when > 105.0 for when in moments) <= (16 if is_all_lies else 12)
    assert sum(when > 145.0 for when in moments) <= (8 if is_all_lies else 4)
