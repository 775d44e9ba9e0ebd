"""Bounds by the speed of light, and who is blamed for impossible pairs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srwan.gossip.light import light_bound_ms
from srwan.gossip.place import misplaced, positions_of, vacuum_bound_ms
from srwan.types import GeoAsn

LONDON, NEW_YORK = GeoAsn("GB", 5151, -13), GeoAsn("US", 4071, -7401)


def test_london_and_new_york_are_nineteen_ms_of_vacuum_apart() -> None:
    lat, lon = positions_of([LONDON, NEW_YORK])
    # 5,570 km by the haversine formula; less 0.56 % and 2 km
    assert (5570 * 0.9944 - 2) / 299.792458 == pytest.approx(vacuum_bound_ms(lat, lon)[0, 1], abs=0.02)


def test_positions_that_are_not_said_or_out_of_range_bound_nothing() -> None:
    places = [LONDON, GeoAsn(), GeoAsn("XX", 9001, 0), GeoAsn("XX", 0, -18001), GeoAsn("XX", 0, 0), GeoAsn("ZZ", 100, 0)]
    lat, lon = positions_of(places)
    assert [True, False, False, False, True, True] == np.isfinite(lat).tolist()
    assert [0, 4, 5] == np.flatnonzero(np.isfinite(vacuum_bound_ms(lat, lon)[0])).tolist()


@given(st.lists(st.tuples(st.integers(-9000, 9000), st.integers(-18000, 18000)), min_size=2, max_size=6))
def test_vacuum_is_always_faster_than_fibre_and_symmetric(places: list[tuple[int, int]]) -> None:
    lat, lon = positions_of([GeoAsn("XX", *place) for place in places])
    vacuum = vacuum_bound_ms(lat, lon)
    assert (vacuum <= light_bound_ms(lat, lon)).all()
    assert (vacuum >= 0).all()
    assert np.allclose(vacuum, vacuum.T)


def impossible(n: int, pairs: list[tuple[int, int]]) -> np.ndarray:
    matrix = np.zeros((n, n), np.bool_)
    for i, j in pairs:
        matrix[i, j] = matrix[j, i] = True
    return matrix


def test_whoever_disagrees_with_most_is_named_and_its_counterparts_are_not() -> None:
    assert [3] == misplaced(impossible(6, [(3, 0), (3, 1), (3, 5)]))
    assert [3, 0] == misplaced(impossible(7, [(3, 0), (3, 1), (3, 5), (3, 6), (0, 2), (0, 4)]))


def test_a_single_pair_names_nobody() -> None:
    assert [] == misplaced(impossible(4, [(1, 2)]))
