"""History, fit and steps put together: whoever comes, goes or tells nothing, it raises nothing and knows what can be known."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srwan.gossip.clock_watch import FIRST_FIT_S, FIT_S, ClockWatch
from srwan.gossip.owl import OwlSnapshot
from srwan.gossip.row import Floats
from srwan.gossip.service import GossipService
from srwan.types import GeoAsn, NodeId

ME = NodeId(b"\x05" * 32)
REVIEW_S = 10.0


def nodes_of(n: int) -> list[NodeId]:
    """n members, this one among them."""
    return sorted([ME, *(NodeId(bytes([index if index < 5 else index + 1]) * 32) for index in range(1, n))])


def places_of(nodes: list[NodeId]) -> dict[NodeId, GeoAsn]:
    return dict.fromkeys(nodes, GeoAsn())


class Clocks:
    """A group whose clocks are off and drift, and links that queue a little."""

    def __init__(self, nodes: list[NodeId], *, drift_ppm: float = 30.0, seed: int = 1) -> None:
        rng = self.rng = random.Random(seed)
        self.nodes = nodes
        n = len(nodes)
        self.offset_ms = np.array([rng.uniform(-50, 50) for _ in nodes])
        self.drift_ppm = np.array([rng.uniform(-drift_ppm, drift_ppm) for _ in nodes])
        half: Floats = np.array([[rng.uniform(5, 60) for _ in nodes] for _ in nodes])
        self.owl_ms: Floats = (half + half.T) / 2
        np.fill_diagonal(self.owl_ms, np.nan)
        assert self.owl_ms.shape == (n, n)

    def snapshot(self, now: float) -> OwlSnapshot:
        n = len(self.nodes)
        clock = self.offset_ms + self.drift_ppm * 1e-3 * now
        raw = self.owl_ms + clock[None, :] - clock[:, None]
        raw += np.array([[self.rng.expovariate(5.0) for _ in self.nodes] for _ in self.nodes])
        return snapshot_of(self.nodes, raw, np.zeros((n, n)))


def snapshot_of(nodes: list[NodeId], raw_ms: Floats, age_s: Floats) -> OwlSnapshot:
    zeros = np.zeros(raw_ms.shape)
    return OwlSnapshot(tuple(nodes), raw_ms.copy(), raw_ms.copy(), zeros, zeros, age_s)


def watched(clocks: Clocks, until: float) -> ClockWatch:
    watch = ClockWatch(ME)
    watch.set_members(places_of(clocks.nodes), 0.0)
    at = 0.0
    while at <= until:
        assert 0.0 == watch.review(clocks.snapshot(at), at)
        at += REVIEW_S
    return watch


def test_before_the_first_fit_nothing_is_claimed() -> None:
    watch = ClockWatch(ME)
    assert ((ME,), None, None, (None, None)) == (watch.members, watch.last_fit, watch.claim(0.0), watch.inbound(ME))


def test_after_a_minute_clocks_and_latencies_are_known() -> None:
    clocks = Clocks(nodes_of(8), drift_ppm=0.0)
    watch = watched(clocks, FIRST_FIT_S)
    claim, me = watch.claim(FIRST_FIT_S), clocks.nodes.index(ME)
    true_ms = clocks.offset_ms - clocks.offset_ms.mean()
    assert claim is not None
    assert true_ms[me] == pytest.approx(claim.offset_us / 1e3, abs=5.0)
    assert 0 < claim.offset_error_us
    other = 0 if me else 1
    owl_ms, drift_ppm = watch.inbound(clocks.nodes[other])
    assert clocks.owl_ms[other, me] == pytest.approx(owl_ms, abs=8.0)
    assert drift_ppm is not None


def test_the_first_fit_is_after_a_minute_and_the_others_come_calmly() -> None:
    clocks = Clocks(nodes_of(6))
    watch = ClockWatch(ME)
    watch.set_members(places_of(clocks.nodes), 100.0)
    fitted = []
    fit = None
    for turn in range(100):
        now = 100.0 + REVIEW_S * turn
        watch.review(clocks.snapshot(now), now)
        if watch.last_fit is not fit:
            fit = watch.last_fit
            fitted.append(now - 100.0)
    assert [FIRST_FIT_S, FIRST_FIT_S + FIT_S, FIRST_FIT_S + 2 * FIT_S, FIRST_FIT_S + 3 * FIT_S] == fitted


def test_drift_is_known_after_ten_minutes() -> None:
    clocks = Clocks(nodes_of(8))
    watch = watched(clocks, 600.0)
    fit = watch.fit(600.0)
    np.testing.assert_allclose(fit.drift_ppm, clocks.drift_ppm - clocks.drift_ppm.mean(), atol=3.0)


def test_a_change_of_members_voids_the_fit_and_keeps_what_was_measured() -> None:
    clocks = Clocks(nodes_of(8), drift_ppm=0.0)
    watch = watched(clocks, 120.0)
    assert watch.claim(120.0) is not None
    fewer = [node for node in clocks.nodes if node != clocks.nodes[-1]]
    watch.set_members(places_of(fewer), 121.0)
    assert (None, None) == watch.inbound(clocks.nodes[-1])
    empty = np.full((7, 7), np.nan)
    watch.review(snapshot_of(fewer, empty, empty), 121.0)
    assert (tuple(fewer), None, None) == (watch.members, watch.last_fit, watch.claim(121.0))
    watch.set_members(places_of(clocks.nodes), 122.0)
    watch.set_members(places_of(fewer), 122.0)
    fit = watch.fit(122.0)
    assert (tuple(fewer), (7,)) == (watch.members, fit.offset_ms.shape)
    true_ms = clocks.offset_ms[:7] - clocks.offset_ms[:7].mean()
    assert np.abs(fit.offset_ms - true_ms).max() < 5.0


def test_a_newcomer_is_unknown_until_the_next_review() -> None:
    clocks = Clocks(nodes_of(5))
    watch = watched(clocks, 120.0)
    newcomer = NodeId(b"\x77" * 32)
    watch.set_members(places_of([*clocks.nodes, newcomer]), 121.0)
    assert (None, None) == watch.inbound(newcomer)


def test_the_service_returns_a_fit_with_the_members_it_speaks_of() -> None:
    clocks = Clocks(nodes_of(5))
    watch = watched(clocks, 120.0)
    watch.set_members(places_of([*clocks.nodes, NodeId(b"\x77" * 32)]), 121.0)
    service = SimpleNamespace(core=SimpleNamespace(clocks=watch), _clock=SimpleNamespace(now=lambda: 121.0))  # what it reads
    found = GossipService.fit_clocks(cast("GossipService", service))
    assert found is not None
    assert len(found[0]) == len(found[1].offset_ms)


def test_a_claim_stays_within_its_bound_until_the_next_fit() -> None:
    clocks = Clocks(nodes_of(8), drift_ppm=80.0)
    watch = watched(clocks, FIRST_FIT_S + FIT_S - REVIEW_S)
    claim, me = watch.claim(FIRST_FIT_S + FIT_S - REVIEW_S), clocks.nodes.index(ME)
    assert claim is not None
    ahead_ms = clocks.offset_ms + clocks.drift_ppm * 1e-3 * (FIRST_FIT_S + FIT_S - REVIEW_S)
    assert abs(claim.offset_us / 1e3 - (ahead_ms - ahead_ms.mean())[me]) <= claim.offset_error_us / 1e3 + 1.0


def test_the_same_members_again_change_nothing() -> None:
    clocks = Clocks(nodes_of(5))
    watch = watched(clocks, 120.0)
    fit = watch.last_fit
    assert fit is not None
    watch.set_members(places_of(clocks.nodes), 121.0)
    assert fit is watch.last_fit


def test_a_snapshot_of_other_members_is_passed_over() -> None:
    clocks = Clocks(nodes_of(5))
    watch = ClockWatch(ME)
    watch.set_members(places_of(clocks.nodes[:4] if ME in clocks.nodes[:4] else clocks.nodes), 0.0)
    other = Clocks(nodes_of(9))
    assert 0.0 == watch.review(other.snapshot(0.0), 0.0)
    assert watch.last_fit is None


def test_a_step_of_this_members_clock_is_found_once() -> None:
    clocks = Clocks(nodes_of(8))
    watch = watched(clocks, 200.0)
    clocks.offset_ms[clocks.nodes.index(ME)] += 500.0
    found = [watch.review(clocks.snapshot(now), now) for now in np.arange(210.0, 330.0, REVIEW_S)]
    steps = [step for step in found if step]
    assert 1 == len(steps)
    assert 500.0 == pytest.approx(steps[0], abs=2.0)
    assert steps[0] == watch.step_ms


def test_a_move_of_group_time_is_no_step() -> None:
    clocks = Clocks(nodes_of(8))
    watch = watched(clocks, 200.0)
    watch.forget(ME)
    clocks.offset_ms[clocks.nodes.index(ME)] += 300.0
    assert [0.0] * 12 == [watch.review(clocks.snapshot(now), now) for now in np.arange(210.0, 330.0, REVIEW_S)]
    fit = watch.fit(330.0)
    true_ms = clocks.offset_ms + clocks.drift_ppm * 1e-3 * fit.as_of_s
    assert np.abs(fit.offset_ms - (true_ms - true_ms.mean())).max() < 6.0


@pytest.mark.parametrize("n", [1, 2, 3])
def test_in_the_smallest_groups_nothing_is_raised_and_nothing_absurd_claimed(n: int) -> None:
    clocks = Clocks(nodes_of(n))
    watch = watched(clocks, 400.0)
    fit, claim = watch.fit(400.0), watch.claim(400.0)
    assert (n,) == fit.offset_ms.shape
    assert claim is None or abs(claim.offset_us) < 200_000
    clocks.offset_ms[0] += 500.0
    steps = [watch.review(clocks.snapshot(now), now) for now in np.arange(410.0, 500.0, REVIEW_S)]
    assert [0.0] * len(steps) == steps  # with fewer than three peers nobody can say whose clock it was


def test_a_matrix_of_nothing_raises_nothing_and_nothing_is_claimed() -> None:
    nodes = nodes_of(5)
    watch = ClockWatch(ME)
    watch.set_members(places_of(nodes), 0.0)
    empty = np.full((5, 5), np.nan)
    for now in np.arange(0.0, 700.0, REVIEW_S):
        assert 0.0 == watch.review(snapshot_of(nodes, empty, np.full((5, 5), np.inf)), now)
    assert watch.last_fit is not None
    assert watch.claim(700.0) is None
    assert (None, None) == watch.inbound(nodes[0])


def test_a_member_that_tells_nothing_is_unknown_and_the_others_are_known() -> None:
    clocks = Clocks(nodes_of(7), drift_ppm=0.0)
    silent = next(index for index, node in enumerate(clocks.nodes) if node != ME)
    watch = ClockWatch(ME)
    watch.set_members(places_of(clocks.nodes), 0.0)
    for now in np.arange(0.0, 200.0, REVIEW_S):
        snapshot = clocks.snapshot(now)
        for array in (snapshot.last_ms, snapshot.mean_ms):
            array[silent, :] = array[:, silent] = np.nan
        watch.review(snapshot, now)
    assert watch.claim(200.0) is not None
    assert (None, None) == watch.inbound(clocks.nodes[silent])
    fit = watch.last_fit
    assert fit is not None
    assert 6 == int(np.isfinite(fit.offset_ms).sum())


def test_a_member_whose_clock_moved_is_forgotten_alone() -> None:
    clocks = Clocks(nodes_of(7), drift_ppm=0.0)
    watch = watched(clocks, 200.0)
    moved = next(index for index, node in enumerate(clocks.nodes) if node != ME)
    watch.forget(clocks.nodes[moved])
    watch.forget(NodeId(b"\xee" * 32))
    fit = watch.fit(200.0)
    assert not np.isfinite(fit.offset_ms[moved])
    assert 6 == int(np.isfinite(fit.offset_ms).sum())


def test_a_claim_beyond_what_a_row_holds_is_none() -> None:
    clocks = Clocks(nodes_of(4), drift_ppm=0.0)
    clocks.offset_ms[clocks.nodes.index(ME)] += 3_000_000.0
    watch = watched(clocks, 200.0)
    assert watch.claim(200.0) is None


@settings(max_examples=30)
@given(st.data())
def test_nothing_that_members_come_go_and_tell_raises(data: st.DataObject) -> None:
    watch, pool = ClockWatch(ME), nodes_of(6)
    now = 0.0
    for _ in range(data.draw(st.integers(1, 12))):
        now += data.draw(st.sampled_from([0.0, 10.0, 100.0]))
        members = sorted({ME, *data.draw(st.lists(st.sampled_from(pool), max_size=6))})
        watch.set_members(places_of(members), now)
        n = len(members)
        values = st.sampled_from([np.nan, np.inf, -np.inf, 0.0, 1e6, -4e6, 12.5, 1e300])
        raw = np.array(data.draw(st.lists(values, min_size=n * n, max_size=n * n)), np.float64).reshape(n, n)
        age = np.array(data.draw(st.lists(st.sampled_from([0.0, 5.0, np.nan, np.inf, -1.0]), min_size=n * n, max_size=n * n))).reshape(n, n)
        if data.draw(st.booleans()):
            assert np.isfinite(watch.review(snapshot_of(members, raw, age), now))
        watch.fit(now)
        watch.claim(now)
        watch.inbound(pool[0])
