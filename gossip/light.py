"""The least time light in fibre needs between two places, and whose claimed place cannot be true.

A one-way latency is at least the great-circle distance through glass, so half of what a round trip exceeds that, twice, is the most by
which its two directions can differ: near and direct pairs tell clocks apart best. A claimed position that would need packets faster than
light is no use as a bound; `trusted_bound_ms` finds the claims to disregard, worst first, so that one liar does not cost honest members
their places.

What it is not: proof of a place. A member that claims to be nearer to others than it is, is never contradicted.

Source: 0.68 c in fibre; 0.25 % of 60,000 measured pairs beat it, nearly all with one mis-located host (docs/decisions.md).
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["light_bound_ms", "trusted_bound_ms"]

_Floats: TypeAlias = npt.NDArray[np.float64]

FIBRE_KM_PER_MS = 299.792458 * 0.68
"""Speed of light in glass."""
EARTH_RADIUS_KM = 6371.0
SLACK_MS_MIN = -0.1
"""A round trip this much below twice the bound is a rounding error, not a contradiction."""
CONTRADICTED_SHARE_MAX = 0.1
"""A member with more than this share of its pairs faster than light is not where it says."""
CONTRADICTIONS_MIN = 2
"""One contradicted pair does not say which of the two ends lies."""


def light_bound_ms(latitude: _Floats, longitude: _Floats) -> _Floats:
    """Return the least one-way latency between places.

    Args:
        latitude: shape (n,), degrees; NaN where unknown.
        longitude: shape (n,), degrees; NaN where unknown.

    Returns:
        Shape (n, n), ms, symmetric; NaN for a pair with an unknown place; 0 on the diagonal.

    Cost: O(n^2), 0.4 ms for n = 100. Source: haversine formula on a sphere, good to 0.5 %.
    """
    is_place = np.isfinite(latitude) & np.isfinite(longitude) & (np.abs(latitude) <= 90.0) & (np.abs(longitude) <= 360.0)
    phi = np.radians(np.where(is_place, latitude, np.nan))
    lam = np.radians(np.where(is_place, longitude, np.nan))
    haversine = np.sin((phi[:, None] - phi) / 2) ** 2 + np.cos(phi[:, None]) * np.cos(phi) * np.sin((lam[:, None] - lam) / 2) ** 2
    bound: _Floats = 2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(np.minimum(haversine, 1.0))) / FIBRE_KM_PER_MS
    np.fill_diagonal(bound, 0.0)
    return bound


def trusted_bound_ms(round_trip_ms: _Floats, bound_ms: _Floats) -> tuple[_Floats, tuple[int, ...]]:
    """Return the bounds worth using and the members whose claimed places are contradicted.

    Args:
        round_trip_ms: shape (n, n), ms, symmetric; clocks cancel in it; NaN where unknown.
        bound_ms: shape (n, n), ms, as claimed; NaN, negative and infinite count as unknown.

    Returns:
        Bounds of shape (n, n), ms, 0 where unknown or not to be trusted, and the indices of the contradicted members in rising order.
        A contradicted pair of two trusted members keeps its bound: there the round trip is what cannot be true.

    Cost: O(n^2) for each contradicted member.
    """
    bound = np.where(np.isfinite(bound_ms) & (bound_ms > 0), bound_ms, 0.0)
    bound = np.maximum(bound, bound.T)
    slack = np.where(np.isfinite(round_trip_ms), round_trip_ms - 2 * bound, np.inf)
    is_contradicted = (slack < SLACK_MS_MIN) & (bound > 0)
    np.fill_diagonal(is_contradicted, val=False)
    pairs = np.count_nonzero(np.isfinite(round_trip_ms) & (bound > 0), axis=1)
    limit = np.maximum(CONTRADICTED_SHARE_MAX * pairs, CONTRADICTIONS_MIN - 1)
    misplaced: list[int] = []
    for _ in range(len(bound)):
        count = is_contradicted.sum(axis=1)
        excess = np.where(count > limit, count, 0)
        if not excess.any():
            break
        worst = int(np.argmax(excess))
        misplaced.append(worst)
        for array in (is_contradicted, bound):
            array[worst, :] = 0
            array[:, worst] = 0
    return bound, tuple(sorted(misplaced))
