from __future__ import annotations

import itertools
import math
import random

import attrs
import numpy as np
import numpy.typing as npt

from srwan.routing.finder import PathFinder, Relays
from srwan.routing.path import PathProbing, PathSignal, PathState, PathVetoed
from srwan.routing.payload import Ack
from srwan.routing.policy import PathPolicy
from srwan.routing.pool import CONFIRMATIONS, CONFIRMATIONS_AFTER_VETO, PathPool, WatchedPath
from srwan.types import NodeId

NODES = tuple(NodeId(bytes([number]) * 32) for number in range(8))
INGRESS, EGRESS, A, B, C, D, E, F = NODES


@attrs.frozen(slots=True)
class Matrix:
    members: tuple[NodeId, ...]
    mean_ms: npt.NDArray[np.float64]
    dev_ms: npt.NDArray[np.float64]
    loss: npt.NDArray[np.float64]


def matrix(**one_way_ms: float) -> Matrix:
    """Cost of the path over each relay by its letter; "direct" for none."""
    mean_ms = np.full((8, 8), math.nan)
    mean_ms[0, 1] = one_way_ms.pop("direct", 50.0)
    for letter, latency_ms in one_way_ms.items():
        row = "abcdef".index(letter) + 2
        mean_ms[0, row], mean_ms[row, 1] = 0.0, latency_ms - 0.5
    return Matrix(NODES, mean_ms, np.zeros((8, 8)), np.zeros((8, 8)))


class Bench:
    """A pool whose home carries the data."""

    def __init__(self, policy: PathPolicy | None = None) -> None:
        self.told: list[PathProbing | PathVetoed] = []
        self.allowed = set(NODES)
        tags = itertools.count(1)
        self.pool = PathPool(
            INGRESS,
            EGRESS,
            policy or PathPolicy(spread_ms=0),
            rng=random.Random(1),
            make_tag=lambda: next(tags),
            finder=PathFinder(),
            relays_allowed=self.allowed,
            tell=self.told.append,
        )
        self.home = self.pool.open_unranked((), 0.0)

    def update(self, now: float, **one_way_ms: float) -> list[WatchedPath]:
        gone = self.pool.rank(matrix(**one_way_ms))
        self.pool.fill(self.home, self.home, now)
        self.pool.replace(self.home, self.home, now)
        return gone

    def confirm(self, relays: Relays, raw_ms: float) -> WatchedPath:
        path = self.pool.paths[relays]
        packet = path.watch.keepalive_to_send(path.watch.send_at)
        assert packet is not None
        path.watch.receive_ack(Ack(packet.path_tag, packet.seq, int(raw_ms * 1e6), 0, 0, None, 0), path.watch.send_at)
        path.life.on(PathSignal.CONFIRMED)
        return path

    def kill(self, relays: Relays, now: float, *, is_blamed: bool) -> WatchedPath:
        path = self.pool.paths[relays]
        path.life.on(PathSignal.DIED)
        path.died_at, path.is_blamed = now, is_blamed
        return path

    @property
    def watched(self) -> list[Relays]:
        return list(self.pool.paths)


def test_the_best_candidates_are_opened_and_told() -> None:
    bench = Bench()
    assert [] == bench.update(0.0, a=60, b=55, c=70)
    assert [(), (B,), (A,)] == bench.watched
    assert [PathProbing((), 1), PathProbing((B,), 2), PathProbing((A,), 3)] == bench.told
    assert [CONFIRMATIONS] * 3 == [path.confirmations for path in bench.pool.all()]


def test_watched_paths_share_no_relay() -> None:
    bench = Bench(PathPolicy(relays_max=2, standbys=4, spread_ms=0))
    snapshot = matrix(a=60, b=61, c=62, d=63)
    snapshot.mean_ms[2:6, 2:6] = 0.0
    bench.pool.rank(snapshot)
    bench.pool.fill(bench.home, bench.home, 0.0)
    nodes = [node for relays in bench.watched for node in relays]
    assert len(nodes) == len(set(nodes)) == 4


def test_paths_beyond_the_wanted_number_are_given_up_the_worst_first() -> None:
    bench = Bench()
    bench.update(0.0, a=60, b=55, c=70)
    used = bench.confirm((A,), 60.0)
    bench.confirm((B,), 55.0)
    bench.pool.fill(used, bench.home, 0.0)
    assert [(), (B,), (A,), (C,)] == bench.watched
    unconfirmed = bench.pool.paths[(C,)]
    bench.pool.fill(bench.home, bench.home, 0.0)
    assert ([(), (B,), (A,)], PathState.CLOSED) == (bench.watched, unconfirmed.state)


def test_a_better_candidate_replaces_the_worst_standby_after_two_updates() -> None:
    bench = Bench()
    bench.update(0.0, a=60, b=65)
    bench.confirm((A,), 60.0)
    bench.confirm((B,), 65.0)
    bench.update(10.0, a=60, b=65, c=54)
    bench.update(12.0, a=60, b=65, c=54)
    assert [(), (A,), (B,)] == bench.watched
    bench.update(20.0, a=60, b=65, c=54)
    assert [(), (A,), (C,)] == bench.watched


def test_a_candidate_that_is_better_only_now_and_then_replaces_nothing() -> None:
    bench = Bench()
    bench.update(0.0, a=60, b=65)
    bench.confirm((A,), 60.0)
    bench.confirm((B,), 65.0)
    for moment in range(10, 100, 20):
        bench.update(float(moment), a=60, b=65, c=54)
        bench.update(moment + 10.0, a=60, b=65, c=60)
    assert [(), (A,), (B,)] == bench.watched


def test_a_standby_that_was_worse_than_predicted_does_not_come_back_on_its_prediction() -> None:
    bench = Bench(PathPolicy(standbys=1, spread_ms=0))
    bench.update(0.0, a=60, b=66)
    bench.confirm((A,), 80.0)
    bench.update(10.0, a=60, b=66)
    bench.update(20.0, a=60, b=66)
    assert [(), (B,)] == bench.watched
    bench.confirm((B,), 85.0)
    for moment in range(30, 100, 10):
        bench.update(float(moment), a=60, b=66)
    assert [(), (B,)] == bench.watched


def test_a_blamed_path_is_vetoed_and_needs_more_answers_when_it_comes_back() -> None:
    bench = Bench()
    bench.update(0.0, a=60, b=65)
    bench.kill((A,), 1.0, is_blamed=True)
    bench.pool.bury(bench.home, bench.home, lambda _path: "it died", 1.3)
    assert (A,) in bench.watched
    bench.pool.bury(bench.home, bench.home, lambda _path: "it died", 1.5)
    assert PathVetoed((A,), 30.0, 1, "it died") == bench.told[-1]
    bench.update(31.4, a=60, b=65)
    assert [(), (B,)] == bench.watched
    bench.update(31.6, a=60, b=65)
    assert CONFIRMATIONS_AFTER_VETO == bench.pool.paths[(A,)].confirmations


def test_a_path_that_died_with_all_others_is_set_aside_without_a_strike() -> None:
    bench = Bench()
    bench.update(0.0, a=60, b=65, c=70)
    bench.kill((A,), 1.0, is_blamed=False)
    bench.pool.bury(bench.home, bench.home, lambda _path: "", 2.9)
    assert (A,) in bench.watched
    bench.pool.bury(bench.home, bench.home, lambda _path: "", 3.0)
    bench.pool.fill(bench.home, bench.home, 3.0)
    assert [(), (B,), (C,)] == bench.watched
    bench.pool.give_up(bench.pool.paths[(C,)])
    bench.pool.fill(bench.home, bench.home, 8.1)
    assert CONFIRMATIONS == bench.pool.paths[(A,)].confirmations
    assert not [event for event in bench.told if isinstance(event, PathVetoed)]


def test_home_is_never_buried() -> None:
    bench = Bench()
    bench.update(0.0, a=60)
    bench.kill((), 1.0, is_blamed=True)
    bench.pool.bury(bench.pool.paths[(A,)], bench.home, lambda _path: "", 100.0)
    assert PathState.DEAD is bench.pool.paths[()].state


def test_paths_over_relays_that_are_no_longer_allowed_are_named_and_not_opened_again() -> None:
    bench = Bench()
    bench.update(0.0, a=60, b=65)
    bench.allowed.discard(A)
    (gone,) = bench.update(10.0, a=60, b=65, c=70)
    assert (A,) == gone.relays
    bench.pool.give_up(gone)
    bench.pool.give_up(gone)
    bench.update(11.0, a=60, b=65, c=70)
    assert [(), (B,), (C,)] == bench.watched
