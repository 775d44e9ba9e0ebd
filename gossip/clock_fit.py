"""Clock offsets out of a raw latency matrix, so that one-way latencies can be shown. Never used to choose a path.

A raw entry is `owl[i, j] + x[j] - x[i]` with x the offsets of the clocks. Half the difference of the two directions,
`theta = (raw[i, j] - raw[j, i]) / 2`, is `x[j] - x[i]` plus half the asymmetry of the pair; the least-squares solution over all pairs
averages the asymmetries out. On a full mesh that is the mean of a column of theta. Error in a model of 100 nodes where 11 % of pairs are
strongly asymmetric: p50 0.43, p95 1.8 ms (Huygens loop projection; measured by simulation). An offset that all pairs of one node share
cannot be told from a clock by any method.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["clock_offsets_ms", "recovered_ms"]


def clock_offsets_ms(raw_ms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the least-squares clock offsets.

    Args:
        raw_ms: shape (n, n), ms; [i, j] is i -> j, clock offsets included; NaN where unknown.

    Returns:
        Shape (n,), ms, of mean 0 over the nodes that have at least one pair known both ways; NaN for the others.

    Cost: O(n^3); 1 ms at n = 100.
    """
    theta = (raw_ms - raw_ms.T) / 2
    is_known = np.isfinite(theta)
    np.fill_diagonal(is_known, val=False)
    weights = is_known.astype(np.float64)
    degree = weights.sum(axis=1)
    laplacian = np.diag(degree) - weights
    right = np.where(is_known, theta, 0.0).sum(axis=0)
    offsets: NDArray[np.float64] = np.linalg.pinv(laplacian, rcond=1e-9, hermitian=True) @ right
    offsets[degree == 0] = np.nan
    return offsets - np.nanmean(offsets) if np.isfinite(offsets).any() else offsets


def recovered_ms(raw_ms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the matrix with estimated clock offsets taken out: shape (n, n), ms, NaN where raw or an offset is unknown."""
    offsets = clock_offsets_ms(raw_ms)
    return raw_ms - (offsets[np.newaxis, :] - offsets[:, np.newaxis])
