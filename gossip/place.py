"""How soon a signal could be there at all: round trips that prove a claimed position false.

Theory of operation. Nothing travels faster than light in vacuum along the great circle. A round trip below twice that proves that one of
the two positions is false. Light in fibre makes about 0.68 of it (`light.py`); round trips between the two are no proof: coarse positions
and radio links do that too, so they count for nothing here.

Who of the two is it? `misplaced` names the fewest members that explain all impossible pairs: whoever disagrees with most. A witness whose
own position is wrong finds itself there.

Positions are claims (`GeoAsn`), in hundredths of a degree. One that is not said (country ZZ at 0, 0) or out of range is NaN, and so is
every bound with it. The sphere is wrong by up to 0.56 %, and rounding by 0.8 km a position; both are given away, so that a violation
stays a proof. Source: speed of light in vacuum, SI; WGS 84 ellipsoid against the sphere of `light.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from srwan.gossip.light import FIBRE_KM_PER_MS, light_bound_ms
from srwan.gossip.row import Floats
from srwan.types import GeoAsn

__all__ = ["misplaced", "positions_of", "vacuum_bound_ms"]

_Bools: TypeAlias = npt.NDArray[np.bool_]

VACUUM_KM_PER_MS = 299.792458
ELLIPSOID_SHARE = 0.9944
"""The great circle of the sphere may exceed the geodesic of the ellipsoid by 0.56 %."""
ROUNDING_KM = 2.0
"""Two positions rounded to 0.01 degree: at most 0.8 km each."""
CONTRADICTIONS_MIN = 2
"""One impossible pair does not say which of the two ends lies."""


def positions_of(places: Sequence[GeoAsn]) -> tuple[Floats, Floats]:
    """Return latitudes and longitudes in degrees, each of shape (n,); NaN where none was said or it is out of range."""
    lat = np.array([place.lat_cdeg for place in places], np.float64)
    lon = np.array([place.lon_cdeg for place in places], np.float64)
    is_said = np.array([place.country != "ZZ" or (place.lat_cdeg, place.lon_cdeg) != (0, 0) for place in places], np.bool_)
    is_said &= (np.abs(lat) <= 9000) & (np.abs(lon) <= 18000)
    return np.where(is_said, lat / 100, np.nan), np.where(is_said, lon / 100, np.nan)


def vacuum_bound_ms(lat: Floats, lon: Floats) -> Floats:
    """Return a time, one way, that no signal can undercut if both positions are true.

    Args:
        lat: degrees, shape (n,); NaN where unknown.
        lon: degrees, shape (n,); NaN where unknown.

    Returns:
        Shape (n, n), ms, symmetric, 0 on the diagonal; NaN for a pair with an unknown position.

    Cost: O(n^2), 0.5 ms for n = 100; keep it as long as nobody moves.
    """
    km = light_bound_ms(lat, lon) * (FIBRE_KM_PER_MS * ELLIPSOID_SHARE)
    bound: Floats = np.maximum(km - ROUNDING_KM, 0.0) / VACUUM_KM_PER_MS
    return bound


def misplaced(is_impossible: _Bools) -> list[int]:
    """Return the fewest members that explain the impossible pairs, the one in most pairs first.

    A pair that nothing else speaks of names nobody. Greedy, O(n^2) for each one named; of two in equally many pairs the first.

    Args:
        is_impossible: shape (n, n), symmetric, false on the diagonal.
    """
    left = is_impossible.copy()
    named: list[int] = []
    while True:
        counts = left.sum(axis=1)
        worst = int(np.argmax(counts))
        if counts[worst] < CONTRADICTIONS_MIN:
            return named
        named.append(worst)
        left[worst] = left[:, worst] = False
