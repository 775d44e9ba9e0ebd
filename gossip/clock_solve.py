"""From differences of pairs to one number per node: robust least squares on a graph, with its covariance.

Given theta[i, j], which is x[j] - x[i] plus an error of its own scale, find x. Nodes that the others cannot be brought to agree with, are
left out. It serves twice: for clock offsets (ms) and for clock rates (ms/s).

Theory of operation. In units of each pair's scale the errors are alike: a core of small ones and a share of large ones, from paths that
are strongly asymmetric and from lies. Weighted least squares gives a start, L1 (weights 1 / error) a robust second step, and a redescending
weight, 1 / (1 + (error / c)^2)^2 with c from the errors themselves, the last: large errors stop pulling at all, where L1 lets each pull
with the same force. Each round is one solution of the weighted graph Laplacian with one node held at 0, by LU.

The covariance is that of an M-estimator, tau^2 L^+, with L the Laplacian of 1 / scale^2 and tau^2 = mean(psi^2) / mean(psi')^2 over the
pairs. It speaks of errors that are independent from pair to pair: what all pairs of one node share is part of x by any method.

Invariants: a fixed order of operations and no randomness, so all who hold the same numbers compute the same. Source: Huber, Robust
Statistics, chapter 7; Beaton and Tukey 1974 for redescending weights; comparisons in docs/decisions.md.
"""

from __future__ import annotations

from typing import TypeAlias

import attrs
import numpy as np
import numpy.typing as npt

__all__ = ["PairSolution", "largest_component", "rough_solution", "solve_pairs"]

_Floats: TypeAlias = npt.NDArray[np.float64]
_Bools: TypeAlias = npt.NDArray[np.bool_]
_Ints: TypeAlias = npt.NDArray[np.int64]

L1_ROUNDS = 8
"""Rounds towards the L1 solution; the last step does not need it exactly."""
ROUGH_ROUNDS = 4
TYPICAL_ROUNDS = 2
"""Rounds of L1 after which the typical error is known well enough to stay."""
REDESCEND_ROUNDS = 12
CONVERGED = 0.05
"""Stop when no node moves by more than this share of the typical pair error."""
L1_FLOOR = 0.05
"""Errors below this share of the typical one weigh alike, so that no pair gets an infinite weight."""
CORE_SCALE = 3.0
"""Errors beyond this many typical ones pull less and less."""
WEIGHT_MIN = 1e-6
"""A pair never loses more than this share of its weight, or a node could come loose."""
RIDGE = 1e-12
"""Keeps a matrix regular that absurd numbers made singular."""
ERROR_MIN = 1e-6
"""Typical error, in units of the pairs' scales, of numbers without any error."""


@attrs.frozen(slots=True, eq=False)
class PairSolution:
    """What `solve_pairs` found. Units are those of theta; n nodes."""

    x: _Floats
    """Shape (n,), mean 0 over the nodes used; NaN for the others."""
    covariance: _Floats
    """Shape (n, n), of x, in the gauge of x; NaN for nodes not used."""


def largest_component(is_pair: _Bools) -> _Ints:
    """Return the indices of the largest set of nodes that pairs connect, rising; of several the first. Empty if there is no pair.

    Cost: O(n^2) per component.
    """
    degree = is_pair.sum(axis=1)
    is_left = degree > 0
    best = np.flatnonzero(is_left)
    if len(best) and int(degree.max()) == len(best) - 1:  # the usual case: somebody is paired with all others
        return best
    best, n = best[:0], len(is_pair)
    while is_left.any():
        is_inside = np.zeros(n, np.bool_)
        is_inside[np.argmax(is_left)] = True
        edge = is_inside
        while edge.any():
            edge = is_pair[edge].any(axis=0) & ~is_inside
            is_inside = is_inside | edge
        is_left &= ~is_inside
        if np.count_nonzero(is_inside) > len(best):
            best = np.flatnonzero(is_inside)
    return best


def rough_solution(theta: _Floats, scale: _Floats, start: _Floats | None = None) -> _Floats:
    """Return a first x of shape (n,), by a few rounds of L1, to find who does not fit. Arguments, and NaN, as of `solve_pairs`."""
    x_all = np.full(len(theta), np.nan)
    used, base, values = _prepared(theta, scale)
    if len(used) > 1:
        x = _iterate(_started(start, used, base, values), base, values, ROUGH_ROUNDS, is_redescending=False)
        x_all[used] = x - x.mean()
    return x_all


def solve_pairs(theta: _Floats, scale: _Floats, start: _Floats | None = None) -> PairSolution:
    """Find x so that x[j] - x[i] fits theta[i, j].

    Args:
        theta: shape (n, n), antisymmetric; NaN where a pair is not to be used.
        scale: shape (n, n), symmetric, > 0: errors of pairs are compared in this unit.
        start: shape (n,), an earlier solution; any gauge. None: start with least squares.

    Returns:
        The solution, for the largest connected set of nodes.

    Cost: O(rounds n^3), 6 ms for n = 100 on one thread.
    """
    n = len(theta)
    x_all, covariance_all = np.full(n, np.nan), np.full((n, n), np.nan)
    used, base, values = _prepared(theta, scale)
    if len(used) < 2:
        return PairSolution(x_all, covariance_all)
    x = _started(start, used, base, values)
    x = _iterate(x, base, values, L1_ROUNDS, is_redescending=False)
    x = _iterate(x, base, values, REDESCEND_ROUNDS, is_redescending=True)
    x_all[used] = x - x.mean()
    covariance_all[np.ix_(used, used)] = _tau_squared(x, base, values) * _centred_inverse(base)
    return PairSolution(x_all, covariance_all)


def _prepared(theta: _Floats, scale: _Floats) -> tuple[_Ints, _Floats, _Floats]:
    """The nodes to use, m of them; of these 1 / scale^2 and theta, shape (m, m), both 0 where there is no pair."""
    is_pair = np.isfinite(theta) & np.isfinite(scale)
    np.fill_diagonal(is_pair, val=False)
    used = largest_component(is_pair)
    box = np.ix_(used, used)
    pairs = is_pair[box]
    base = np.where(pairs, 1.0 / np.where(pairs, scale[box], 1.0) ** 2, 0.0)
    return used, base, np.where(pairs, theta[box], 0.0)


def _started(start: _Floats | None, used: _Ints, base: _Floats, values: _Floats) -> _Floats:
    if start is None or not np.isfinite(start[used]).all():
        return _least_squares(base, values)
    return start[used]


def _errors(x: _Floats, root: _Floats, values: _Floats) -> _Floats:
    """Errors in units of their scale, shape (m, m); `root` is 1 / scale."""
    errors: _Floats = np.abs((values + x[:, None] - x[None, :]) * root)
    return errors


def _typical(errors: _Floats, root: _Floats) -> float:
    """Median error over the pairs."""
    return max(float(np.median(errors[root > 0])), ERROR_MIN)


def _iterate(x: _Floats, base: _Floats, values: _Floats, rounds: int, *, is_redescending: bool) -> _Floats:
    """Reweight and solve until nothing moves. A redescending weight needs one fixed typical error to converge."""
    root = np.sqrt(base)
    root_max = root.max(axis=1)
    typical = 0.0
    for number in range(rounds):
        errors = _errors(x, root, values)
        if number < (1 if is_redescending else TYPICAL_ROUNDS):
            typical = _typical(errors, root)
        if is_redescending:
            weights = base * np.maximum(1.0 / (1.0 + (errors / (CORE_SCALE * typical)) ** 2) ** 2, WEIGHT_MIN)
        else:
            weights = base / np.maximum(errors, max(L1_FLOOR * typical, WEIGHT_MIN * float(errors.max())))
        moved = _least_squares(weights, values)
        step = np.abs(moved - moved.mean() - (x - x.mean()))
        x = moved
        if float((step * root_max).max()) <= CONVERGED * typical:
            break
    return x


def _least_squares(weights: _Floats, values: _Floats) -> _Floats:
    """Node 0 is held at 0; its equation follows from the others."""
    laplacian = -weights
    degree = weights.sum(axis=1)
    laplacian.flat[:: len(weights) + 1] += degree * (1.0 + RIDGE)
    x = np.zeros(len(weights))
    x[1:] = np.linalg.solve(laplacian[1:, 1:], (weights * values).sum(axis=0)[1:])
    return x


def _centred_inverse(base: _Floats) -> _Floats:
    """Pseudo-inverse of the Laplacian, shape (n, n)."""
    laplacian = -base
    laplacian.flat[:: len(base) + 1] += base.sum(axis=1) * (1.0 + RIDGE)
    inverse = np.zeros_like(base)
    inverse[1:, 1:] = np.linalg.inv(laplacian[1:, 1:])
    inverse -= inverse.mean(axis=0)[None, :]
    inverse -= inverse.mean(axis=1)[:, None]
    return inverse


def _tau_squared(x: _Floats, base: _Floats, values: _Floats) -> float:
    """Variance factor of the redescending estimator, corrected for the n - 1 numbers that were fitted."""
    root = np.sqrt(base)
    errors = _errors(x, root, values)
    typical, error = _typical(errors, root), errors[root > 0]
    ratio = (error / (CORE_SCALE * typical)) ** 2
    psi = error / (1.0 + ratio) ** 2
    slope = (1.0 - 3.0 * ratio) / (1.0 + ratio) ** 3
    pairs = len(error) / 2
    freedom = max(pairs - (len(base) - 1), 1.0) / pairs
    return float((psi**2).mean() / max(float(slope.mean()), 0.05) ** 2 / freedom)
