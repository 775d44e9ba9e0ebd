"""The emulated world: real round trips, asymmetry inside the light bound, reproducible from a seed."""

from __future__ import annotations

import pytest

from srwan.swarm import regions
from srwan.swarm.regions import DEFAULT_ORDER, load_regions


def test_the_two_directions_sum_to_the_measured_round_trip() -> None:
    world = load_regions(2, seed=1)
    assert ["eu-central-1", "us-west-2"] == [region.name for region in world.regions]
    assert pytest.approx(157.45, abs=0.01) == world.owl_ms[0][1] + world.owl_ms[1][0]


@pytest.mark.parametrize("seed", range(20))
def test_no_direction_is_faster_than_light_in_fibre(seed: int) -> None:
    world = load_regions(len(DEFAULT_ORDER), seed)
    for i, a in enumerate(world.regions):
        for j, b in enumerate(world.regions):
            if i == j:
                continue
            ends = [{"lat": r.location.lat_cdeg / 100, "lon": r.location.lon_cdeg / 100} for r in (a, b)]
            bound_ms = regions._distance_km(*ends) / regions.LIGHT_IN_FIBRE_KM_PER_MS
            assert world.owl_ms[i][j] >= bound_ms - 0.1


def test_some_pairs_are_strongly_asymmetric() -> None:
    world = load_regions(len(DEFAULT_ORDER), seed=1)
    differences = [abs(world.owl_ms[i][j] - world.owl_ms[j][i]) for i in range(19) for j in range(i)]
    assert 0.03 < sum(difference > 10 for difference in differences) / len(differences) < 0.3


def test_same_seed_same_world_and_other_seed_another() -> None:
    assert load_regions(12, 7) == load_regions(12, 7)
    assert load_regions(12, 7).owl_ms != load_regions(12, 8).owl_ms


@pytest.mark.parametrize("count", range(5, 20))
def test_the_demonstration_pair_is_best_direct_and_has_two_relays(count: int) -> None:
    for seed in range(20):
        world = load_regions(count, seed)
        i, j = world.demonstration_pair(150.0, exclude=frozenset({1}))
        sums = sorted(world.owl_ms[i][k] + world.owl_ms[k][j] for k in range(count) if k not in (i, j))
        assert world.owl_ms[i][j] + 1.0 < sums[0]
        assert sums[1] < world.owl_ms[i][j] + 75.0
        assert not {0, 1} & {i, j}


@pytest.mark.parametrize("count", [-1, 0, 1, 20])
def test_a_count_out_of_range_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=r"2\.\.19"):
        load_regions(count, 1)
