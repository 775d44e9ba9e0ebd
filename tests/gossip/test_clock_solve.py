"""The robust graph solver: islands, lies and its own covariance."""

from __future__ import annotations

import numpy as np

from srwan.gossip.clock_solve import largest_component, rough_solution, solve_pairs


def test_the_largest_island_is_found_and_nothing_is_empty() -> None:
    is_pair = np.zeros((7, 7), np.bool_)
    for i, j in ((1, 2), (2, 4), (3, 6)):
        is_pair[i, j] = is_pair[j, i] = True
    assert [1, 2, 4] == largest_component(is_pair).tolist()
    assert [] == largest_component(np.zeros((3, 3), np.bool_)).tolist()
    assert [] == largest_component(np.zeros((0, 0), np.bool_)).tolist()


def test_a_third_of_wild_pairs_does_not_move_the_solution() -> None:
    rng = np.random.default_rng(1)
    n = 40
    x = rng.uniform(-1_000, 1_000, n)
    noise = np.triu(rng.normal(0, 0.1, (n, n)) + (rng.random((n, n)) < 0.33) * rng.uniform(-50, 50, (n, n)), 1)
    theta = x[None, :] - x[:, None] + noise - noise.T
    solution = solve_pairs(theta, np.ones((n, n)))
    errors = solution.x - (x - x.mean())
    assert float(np.abs(errors).max()) < 0.15
    deviation = np.sqrt(np.diagonal(solution.covariance))
    assert 0.8 < float(np.sqrt((errors**2).mean()) / deviation.mean()) < 1.6
    assert float(np.abs(rough_solution(theta, np.ones((n, n))) - (x - x.mean())).max()) < 10.0


def test_nobody_paired_gives_nothing() -> None:
    solution = solve_pairs(np.full((3, 3), np.nan), np.ones((3, 3)))
    assert np.isnan(solution.x).all()
    assert np.isnan(solution.covariance).all()
