"""Light in fibre as a bound, and whose claimed places contradict it."""

from __future__ import annotations

import numpy as np

from srwan.gossip.light import light_bound_ms, trusted_bound_ms


def test_a_quarter_of_the_equator_takes_49_ms_and_unknown_places_have_no_bound() -> None:
    bound = light_bound_ms(np.array([0.0, 0.0, 90.0, np.nan, 500.0]), np.array([0.0, 90.0, 17.0, 0.0, 0.0]))
    np.testing.assert_allclose(bound[:3, :3], [[0, 49.09, 49.09], [49.09, 0, 49.09], [49.09, 49.09, 0]], atol=0.01)
    assert np.isnan(bound[3, :3]).all()
    assert np.isnan(bound[4, :3]).all()


def test_the_one_who_lies_about_its_place_is_named_and_not_its_peers() -> None:
    bound = np.full((12, 12), 20.0)
    bound[5, :] = bound[:, 5] = 90.0
    trusted, misplaced = trusted_bound_ms(np.full((12, 12), 60.0), bound)
    assert (5,) == misplaced
    assert (0.0, 20.0) == (trusted[5, 1], trusted[1, 2])


def test_one_contradicted_pair_accuses_nobody() -> None:
    bound = np.full((12, 12), 20.0)
    bound[3, 4] = bound[4, 3] = 90.0
    trusted, misplaced = trusted_bound_ms(np.full((12, 12), 60.0), bound)
    assert () == misplaced
    assert trusted[3, 4] == 90.0


def test_absurd_bounds_count_as_unknown() -> None:
    bound = np.array([[0.0, np.nan, -5.0], [np.inf, 0.0, np.nan], [-5.0, np.nan, 0.0]])
    trusted, misplaced = trusted_bound_ms(np.full((3, 3), 60.0), bound)
    np.testing.assert_array_equal(trusted, np.zeros((3, 3)))
    assert () == misplaced
