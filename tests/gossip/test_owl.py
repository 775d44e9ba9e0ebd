"""The matrix: clipped means, staleness, membership, moved clocks."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srwan.gossip.owl import CLIP_DEVIATIONS, PENDING_MAX, Entries, OwlMatrix
from srwan.gossip.row import OWL_OUTSIDE, encode_jitter, encode_loss, encode_owl
from srwan.types import NodeId

NODES = [NodeId(bytes([index]) * 32) for index in range(1, 6)]
STALE_S = 26.0


def matrix_of(n: int) -> OwlMatrix:
    matrix = OwlMatrix(NODES[0], stale_s=STALE_S)
    matrix.set_members(NODES[:n])
    return matrix


def tell(
    matrix: OwlMatrix, owner: int, values: list[float], now: float, *, stamp_ns: int = 10**9, jitter: float = 0, loss: float = 0
) -> None:
    """Have a member tell `values`."""
    base_us, codes = encode_owl(np.array(values))
    n = len(values)
    slot = matrix.slot(NODES[owner])
    assert slot is not None
    jitters, losses = np.full(n, encode_jitter(jitter), np.uint8), np.full(n, encode_loss(loss), np.uint8)
    matrix.add_row(slot, Entries(codes, jitters, losses, base_us, stamp_ns, int((codes < OWL_OUTSIDE).sum())), now)


def tell_own(matrix: OwlMatrix, sender: int, value: float, now: float) -> None:
    """Have this member tell one latency."""
    values = [np.nan] * len(matrix.members)
    values[sender] = value
    tell(matrix, 0, values, now)


def mean_after(values: list[float]) -> float:
    """The mean of 1 -> 2 after these values were told, 10 s apart."""
    matrix = matrix_of(3)
    for step, value in enumerate(values):
        tell(matrix, 2, [5.0, value, np.nan], 10.0 * step)
        matrix.edges_known(10.0 * step)
    return float(matrix.snapshot(10.0 * (len(values) - 1)).mean_ms[1, 2])


def test_a_row_fills_its_owners_column() -> None:
    matrix = matrix_of(3)
    tell(matrix, 1, [7.0, np.nan, 9.0], 1.0)
    last_ms = matrix.snapshot(1.0).last_ms
    assert [7.0, 9.0] == [round(float(last_ms[0, 1]), 3), round(float(last_ms[2, 1]), 3)]
    assert 2 == int(np.isfinite(last_ms).sum())


def test_loss_and_jitter_come_with_the_row() -> None:
    matrix = matrix_of(3)
    tell(matrix, 0, [np.nan, np.nan, 12.5], 4.0, jitter=1.0, loss=0.5)
    snapshot = matrix.snapshot(5.0)
    assert (12.5, 1.0, 0.5, 1.0) == tuple(
        float(array[2, 0]) for array in (snapshot.last_ms, snapshot.age_s, snapshot.loss, snapshot.dev_ms)
    )
    assert 1 == matrix.edges_known(5.0)


def test_the_diagonal_is_never_known() -> None:
    matrix = matrix_of(3)
    for owner in (1, 2):
        tell(matrix, owner, [1.0, 2.0, 3.0], 1.0)
    tell(matrix, 0, [1.0, np.nan, np.nan], 1.0)
    assert np.isnan(np.diag(matrix.snapshot(1.0).mean_ms)).all()
    assert 4 == matrix.edges_known(1.0)


def test_an_edge_is_unknown_as_soon_as_its_receiver_says_so() -> None:
    matrix = matrix_of(3)
    tell(matrix, 1, [7.0, np.nan, 9.0], 1.0)
    tell(matrix, 1, [7.5, np.nan, np.nan], 2.0)
    assert 1 == matrix.edges_known(2.0)
    assert np.isnan(matrix.snapshot(2.0).last_ms[2, 1])


@pytest.mark.parametrize(("at", "edges"), [(1.0 + STALE_S, 3), (1.5 + STALE_S, 1), (2.5 + STALE_S, 0)])
def test_silence_makes_edges_stale(at: float, edges: int) -> None:
    matrix = matrix_of(3)
    tell(matrix, 1, [7.0, np.nan, 9.0], 1.0)
    tell_own(matrix, 1, 3.0, 2.0)
    assert edges == matrix.edges_known(at)
    assert edges == int(np.isfinite(matrix.snapshot(at).mean_ms).sum())


def test_members_who_stay_keep_their_edges() -> None:
    matrix = matrix_of(4)
    tell(matrix, 1, [7.0, np.nan, 9.0, 11.0], 1.0)
    tell_own(matrix, 3, 3.0, 1.0)
    matrix.set_members([NODES[1], NODES[3], NODES[4]])
    assert (NODES[0], NODES[1], NODES[3], NODES[4]) == matrix.members
    last_ms = matrix.snapshot(1.0).last_ms
    assert [7.0, 11.0, 3.0] == [round(float(last_ms[edge]), 3) for edge in ((0, 1), (2, 1), (2, 0))]
    assert 3 == matrix.edges_known(1.0)


def test_a_single_spike_hardly_moves_the_mean() -> None:
    steady = [50.0, 51.0, 49.0, 50.5, 49.5, 50.2, 49.8, 50.1]
    moved_ms = mean_after([*steady, 250.0]) - mean_after(steady)
    assert 0 < moved_ms < CLIP_DEVIATIONS * 1.0


def test_two_spikes_are_no_new_level_and_three_are() -> None:
    steady = [50.0, 51.0, 49.0, 50.5, 49.5, 50.2]
    assert mean_after([*steady, 150.0, 151.0, 50.0]) < 60
    assert 151.0 == pytest.approx(mean_after([*steady, 150.0, 151.0, 152.0]), abs=0.01)


def test_spikes_to_both_sides_are_no_new_level() -> None:
    steady = [50.0, 51.0, 49.0, 50.5, 49.5, 50.2]
    assert abs(mean_after([*steady, 150.0, -50.0, 151.0, -51.0]) - 50) < 10


def test_a_value_that_is_told_twice_counts_once() -> None:
    assert mean_after([10.0, 10.0, 10.0, 20.0]) == pytest.approx(15.0)


def test_the_mean_of_noise_is_its_mean_over_sixteen_values() -> None:
    rng = random.Random(5)
    values = [80 + rng.uniform(-5, 5) for _ in range(200)]
    assert 80.0 == pytest.approx(mean_after(values), abs=3.0)


def test_a_moved_clock_voids_all_edges_of_that_member() -> None:
    matrix = matrix_of(3)
    tell(matrix, 1, [7.0, np.nan, 9.0], 1.0)
    tell(matrix, 2, [8.0, 9.0, np.nan], 1.0)
    tell(matrix, 0, [np.nan, 3.0, 4.0], 1.0)
    matrix.forget(NODES[1], valid_after_ns=3 * 10**9)
    known = np.isfinite(matrix.snapshot(1.0).last_ms)
    assert [(0, 2), (2, 0)] == [(int(i), int(j)) for i, j in np.argwhere(known)]


def test_rows_made_before_the_clock_moved_say_nothing_of_it() -> None:
    matrix = matrix_of(3)
    matrix.forget(NODES[1], valid_after_ns=3 * 10**9)
    tell(matrix, 2, [8.0, 9.0, np.nan], 2.0, stamp_ns=3 * 10**9 - 1)
    assert np.isnan(matrix.snapshot(2.0).last_ms[1, 2])
    assert np.isfinite(matrix.snapshot(2.0).last_ms[0, 2])
    tell(matrix, 2, [8.0, 9.5, np.nan], 3.0, stamp_ns=3 * 10**9)
    assert 9.5 == pytest.approx(matrix.snapshot(3.0).last_ms[1, 2])


def test_the_own_clocks_move_shifts_what_is_known() -> None:
    matrix = matrix_of(3)
    tell(matrix, 1, [7.0, np.nan, 9.0], 1.0)
    tell(matrix, 2, [8.0, 19.0, np.nan], 1.0)
    tell_own(matrix, 1, 3.0, 1.0)
    before = matrix.snapshot(1.0).last_ms
    matrix.move_own_clock(1000.0, valid_after_ns=5 * 10**9)
    after = matrix.snapshot(1.0).last_ms
    assert [-1000.0, -1000.0, 1000.0, 0.0] == pytest.approx(
        [after[0, 1] - before[0, 1], after[0, 2] - before[0, 2], after[1, 0] - before[1, 0], after[2, 1] - before[2, 1]], abs=1e-3
    )
    tell(matrix, 1, [7.0, np.nan, 9.0], 2.0, stamp_ns=4 * 10**9)  # its maker had not seen the move yet
    assert -993.0 == pytest.approx(matrix.snapshot(2.0).last_ms[0, 1], abs=1e-3)


def test_the_own_clocks_move_takes_the_limits_of_others_along() -> None:
    matrix = matrix_of(3)
    matrix.forget(NODES[1], valid_after_ns=30 * 10**9)
    matrix.move_own_clock(-20_000.0, valid_after_ns=0)
    tell(matrix, 2, [8.0, 9.0, np.nan], 2.0, stamp_ns=10 * 10**9 - 1)
    assert np.isnan(matrix.snapshot(2.0).last_ms[1, 2])
    tell(matrix, 2, [8.0, 9.5, np.nan], 3.0, stamp_ns=10 * 10**9)
    assert 9.5 == pytest.approx(matrix.snapshot(3.0).last_ms[1, 2])


def test_lacking_names_those_whose_rows_have_holes() -> None:
    matrix = matrix_of(3)
    assert [1, 2] == matrix.lacking(1.0, [1, 2])
    tell(matrix, 1, [7.0, np.nan, np.nan], 1.0)
    tell(matrix, 2, [8.0, 9.0, np.nan], 1.0)
    assert [1] == matrix.lacking(1.2, [1, 2])
    assert [] == matrix.lacking(1.2, [1])  # member 1 may not have heard 2 yet


def test_the_matrix_is_full_when_all_rows_are_whole_and_fresh() -> None:
    matrix = matrix_of(3)
    tell(matrix, 0, [np.nan, 1.0, 2.0], 1.0)
    tell(matrix, 1, [1.0, np.nan, 2.0], 1.0)
    assert not matrix.is_full(1.0)
    tell(matrix, 2, [1.0, 2.0, np.nan], 2.0)
    assert [True, True, False] == [matrix.is_full(at) for at in (2.0, 1.0 + STALE_S, 1.1 + STALE_S)]
    tell(matrix, 0, [np.nan, np.nan, 2.0], 3.0)
    assert not matrix.is_full(3.0)
    tell(matrix, 0, [np.nan, 1.0, 2.0], 4.0)
    assert matrix.is_full(4.0)
    matrix.forget(NODES[1], valid_after_ns=2 * 10**9)
    tell(matrix, 0, [np.nan, 1.0, 2.0], 5.0, stamp_ns=3 * 10**9)
    tell(matrix, 1, [1.0, np.nan, 2.0], 5.0, stamp_ns=3 * 10**9)
    assert not matrix.is_full(5.0)
    tell(matrix, 2, [1.0, 2.0, np.nan], 5.0, stamp_ns=2 * 10**9)
    assert matrix.is_full(5.0)


def test_who_does_not_look_keeps_the_last_rows_only() -> None:
    lazy, eager = matrix_of(3), matrix_of(3)
    for step in range(5 * PENDING_MAX):
        for matrix in (lazy, eager):
            tell(matrix, 2, [5.0, 20.0 + step % 7, np.nan], float(step))
        eager.edges_known(float(step))
    now = 5.0 * PENDING_MAX - 1
    assert float(eager.snapshot(now).mean_ms[1, 2]) == pytest.approx(float(lazy.snapshot(now).mean_ms[1, 2]), abs=0.6)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 3), st.lists(st.one_of(st.none(), st.floats(0, 600)), min_size=4, max_size=4)), max_size=30))
def test_folding_late_gives_the_same_matrix_as_folding_at_once(rows: list[tuple[int, list[float | None]]]) -> None:
    late, at_once = matrix_of(4), matrix_of(4)
    for step, (owner, values) in enumerate(rows):
        told = [np.nan if value is None else value for value in values]
        tell(late, owner, told, float(step))
        tell(at_once, owner, told, float(step))
        at_once.edges_known(float(step))
    one, other = late.snapshot(30.0), at_once.snapshot(30.0)
    np.testing.assert_allclose(one.mean_ms, other.mean_ms, rtol=1e-6)
    np.testing.assert_allclose(one.dev_ms, other.dev_ms, rtol=1e-4, atol=1e-4)
