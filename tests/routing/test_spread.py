"""Which paths the next packet takes when a flow uses several."""

from __future__ import annotations

import random
from collections import Counter

import attrs
import pytest

from srwan.routing.finder import PathCandidate, Relays
from srwan.routing.path import PathLife, PathSignal
from srwan.routing.payload import Ack
from srwan.routing.policy import PathMode, PathPolicy
from srwan.routing.pool import WatchedPath
from srwan.routing.spread import PathSpread
from srwan.routing.watch import PathWatch
from srwan.types import NodeId

A, B, C = (NodeId(bytes([number]) * 32) for number in (1, 2, 3))


def path(relays: Relays, raw_ms: float, *, kbps: float = 0.0) -> WatchedPath:
    """A standby that answered at 0.1 s."""
    watch = PathWatch(relays, len(relays) + sum(relay[0] for relay in relays), PathPolicy(), random.Random(1), 0.0)
    packet = watch.keepalive_to_send(0.0)
    assert packet is not None
    watch.receive_ack(attrs.evolve(Ack(watch.path_tag, 0, int(raw_ms * 1e6), 0, 0, None, 0), burst_kbps=int(kbps)), 0.1)
    life = PathLife()
    life.on(PathSignal.OPENED)
    life.on(PathSignal.CONFIRMED)
    return WatchedPath(PathCandidate(relays, raw_ms, 0.0, 0.0, 0.0, ""), watch, life, 3)


def share(spread: PathSpread, packets: int = 1000) -> Counter[Relays]:
    return Counter(each.relays for _ in range(packets) for each in spread.next_paths())


def test_repeated_packets_take_the_path_in_use_and_the_best_other_one_that_answers() -> None:
    spread = PathSpread(PathMode.REPEAT, 5.0)
    used, good, better = path((), 50), path((A,), 90), path((B,), 80)
    spread.set_paths(used, [good, better], 0.15)
    assert [used, better] == list(spread.next_paths())
    spread.set_paths(used, [good, better], 9.0)  # none of them answered lately
    assert [used] == list(spread.next_paths())


def test_equal_paths_take_turns_and_worse_ones_are_left_out() -> None:
    spread = PathSpread(PathMode.SPREAD, 5.0)
    spread.set_paths(path((), 50), [path((A,), 54), path((B,), 56)], 0.15)
    assert {(): 500, (A,): 500} == share(spread)


def test_capacities_are_weights_if_they_are_known_of_all() -> None:
    spread = PathSpread(PathMode.SPREAD, 5.0)
    paths = [path((), 50, kbps=6000), path((A,), 50, kbps=3000), path((B,), 50, kbps=1000)]
    spread.set_paths(paths[0], paths[1:], 0.15)
    assert {(): 600, (A,): 300, (B,): 100} == share(spread)
    spread.set_paths(paths[0], [paths[1], path((C,), 50)], 0.15)
    assert len(set(share(spread, 999).values())) == 1


@pytest.mark.parametrize("packets", [7, 10, 33])
def test_any_run_of_packets_is_fair_to_one_packet(packets: int) -> None:
    spread = PathSpread(PathMode.SPREAD, 5.0)
    paths = [path((), 50, kbps=6000), path((A,), 50, kbps=3000), path((B,), 50, kbps=1000)]
    spread.set_paths(paths[0], paths[1:], 0.15)
    for _ in range(20):
        taken = share(spread, packets)
        assert all(abs(taken[each] - packets * weight) <= 1.0 + 1e-9 for each, weight in (((), 0.6), ((A,), 0.3), ((B,), 0.1)))


def test_a_path_of_little_capacity_is_still_tried() -> None:
    spread = PathSpread(PathMode.SPREAD, 5.0)
    spread.set_paths(path((), 50, kbps=1_000_000), [path((A,), 50, kbps=1)], 0.15)
    assert 40 <= share(spread)[(A,)] <= 60


def test_a_path_in_use_that_does_not_answer_is_used_alone() -> None:
    spread = PathSpread(PathMode.SPREAD, 5.0)
    spread.set_paths(path((), 50), [path((A,), 50)], 5.0)
    assert {(): 10} == share(spread, 10)
