"""The ground truth of an emulated swarm: one-way latency, jitter and loss between cloud regions.

Round trips are the real ones between 19 cloud regions (data/aws2020.json, licence in data/NOTICE.txt). No public data set holds
one-way latencies, so each round trip is split with a seeded asymmetry that never beats light in fibre: with b the great-circle time at
0.68 c, `OWL(i, j) = RTT/2 + u (RTT/2 - b)` and `OWL(j, i) = RTT/2 - u (RTT/2 - b)`. One pair in nine is strongly asymmetric (u uniform
in +-0.9), the others hardly (u normal, sd 0.05): more than 11 % of Internet paths differ from RTT/2 by over 10 ms (Liu et al.,
GLOBECOM 2022).
"""

from __future__ import annotations

import json
import math
import random
from importlib import resources
from typing import Any

import attrs

from srwan.types import GeoAsn

__all__ = ["Region", "World", "load_regions"]

LIGHT_IN_FIBRE_KM_PER_MS = 299.792458 * 0.68
EARTH_RADIUS_KM = 6371.0
STRONG_ASYMMETRY_SHARE = 0.11
BASE_LOSS = 0.0005
"""Loss of an uncongested emulated link: 0.05 % of datagrams."""

DEFAULT_ORDER = (
    "eu-central-1", "us-west-2", "us-east-1", "ca-central-1", "eu-west-1", "us-east-2", "eu-north-1", "ap-northeast-1",
    "sa-east-1", "ap-southeast-1", "ap-south-1", "af-south-1", "ap-southeast-2", "me-south-1", "eu-west-2", "us-west-1",
    "eu-west-3", "ap-east-1", "eu-south-1",
)  # fmt: skip
"""The order in which regions join a swarm, so that a small one already spans continents."""


@attrs.frozen(slots=True)
class Region:
    """A place where a router of the swarm pretends to be."""

    name: str
    location: GeoAsn


@attrs.frozen
class World:
    """Regions and the links between them; index i is the i-th region."""

    regions: tuple[Region, ...]
    owl_ms: tuple[tuple[float, ...], ...]
    """True one-way latency i -> j in ms without queueing."""
    jitter_ms: tuple[tuple[float, ...], ...]
    """Mean of the exponential queueing delay i -> j in ms."""

    def best_relay(self, source: int, target: int) -> tuple[int, float]:
        """Return the relay with the least summed latency from source to target, and that sum in ms."""
        others = (k for k in range(len(self.regions)) if k not in (source, target))
        sums = {k: self.owl_ms[source][k] + self.owl_ms[k][target] for k in others}
        relay = min(sums, key=sums.__getitem__)
        return relay, sums[relay]

    def demonstration_pair(self, congestion_ms: float, exclude: frozenset[int] = frozenset()) -> tuple[int, int]:
        """Choose the ordered pair on which a congestion of the direct link shows best.

        Direct is at least 1 ms better than any relay while the network is quiet, at least two relays beat the congested direct
        link clearly, and among such pairs the longest direct link is taken: the case the whitepaper calls normal (8.1). Routers in
        `exclude`, and router 0, which introduces the others, are not among the two ends.

        Raises:
            ValueError: no such pair among the regions.
        """
        best: tuple[float, int, int] | None = None
        count = len(self.regions)
        for i in range(count):
            for j in range(count):
                if i == j or 0 in (i, j) or {i, j} & exclude:
                    continue
                direct = self.owl_ms[i][j]
                sums = sorted(self.owl_ms[i][k] + self.owl_ms[k][j] for k in range(count) if k not in (i, j))
                has_relays = len(sums) >= 2 and sums[0] > direct + 1.0 and sums[1] < direct + congestion_ms / 2
                if has_relays and (best is None or direct > best[0]):
                    best = (direct, i, j)
        if best is None:
            raise ValueError("no pair of regions has a good direct link and two usable relays; use more routers")
        return best[1], best[2]


def load_regions(count: int, seed: int) -> World:
    """Return a world of the first `count` regions, its asymmetry drawn from `seed`.

    Raises:
        ValueError: count is not in 2..19.
    """
    if not 2 <= count <= len(DEFAULT_ORDER):
        raise ValueError(f"{count} regions wanted, 2..{len(DEFAULT_ORDER)} are known")
    data: dict[str, Any] = json.loads(resources.files("srwan.swarm").joinpath("data/aws2020.json").read_text("utf-8"))
    names = [region["name"] for region in data["regions"]]
    chosen = [names.index(name) for name in DEFAULT_ORDER[:count]]
    rng = random.Random(f"srwan/world/{seed}")
    owl = [[0.0] * count for _ in range(count)]
    jitter = [[0.0] * count for _ in range(count)]
    for a in range(count):
        for b in range(a + 1, count):
            i, j = chosen[a], chosen[b]
            half = (data["rtt_min"][i][j] + data["rtt_min"][j][i]) / 4
            bound = min(half, _distance_km(data["regions"][i], data["regions"][j]) / LIGHT_IN_FIBRE_KM_PER_MS)
            is_strong = rng.random() < STRONG_ASYMMETRY_SHARE
            u = rng.uniform(-0.9, 0.9) if is_strong else max(-0.95, min(0.95, rng.gauss(0.0, 0.05)))
            owl[a][b] = half + u * (half - bound)
            owl[b][a] = half - u * (half - bound)
            jitter[a][b] = jitter[b][a] = max(0.05, (data["mdev"][i][j] + data["mdev"][j][i]) / 4)
    regions = tuple(_region(data["regions"][i]) for i in chosen)
    return World(regions, tuple(map(tuple, owl)), tuple(map(tuple, jitter)))


def _region(entry: dict[str, Any]) -> Region:
    return Region(entry["name"], GeoAsn(entry["country"], round(entry["lat"] * 100), round(entry["lon"] * 100), 64512))


def _distance_km(a: dict[str, Any], b: dict[str, Any]) -> float:
    """Great-circle distance by the haversine formula."""
    lat_a, lat_b = math.radians(a["lat"]), math.radians(b["lat"])
    half_chord = math.sin((lat_b - lat_a) / 2) ** 2
    half_chord += math.cos(lat_a) * math.cos(lat_b) * math.sin(math.radians(b["lon"] - a["lon"]) / 2) ** 2
    return 2 * EARTH_RADIUS_KM * math.asin(math.sqrt(half_chord))
