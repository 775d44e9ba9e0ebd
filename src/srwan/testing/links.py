"""What lies between two simulated nodes: a matrix of one-way latencies, and the noise of single datagrams.

Truth without traces: nodes are drawn on a sphere around `CITIES` places, a round trip is light in fibre times a stretch, and it is split
into two directions with an asymmetry that never beats light: with b the bound of one way, `OWL(i, j) = RTT/2 + u (RTT/2 - b)` and the
opposite sign back; for `strong_asymmetry` of the pairs u is uniform in +-0.9, else normal with deviation 0.05. The stretches are
log-normal within the 5th and 95th percentile measured between 246 cities (docs/decisions.md). A given matrix, or a trace (one matrix a
slice), takes its place.

Noise: an exponential queue, spikes on some datagrams, loss, duplicates, stragglers. It is drawn for `POOL` datagrams at once and used up
one by one, because a draw in numpy costs 10 ns and one in Python 300.
"""

from __future__ import annotations

import random

import numpy as np
import numpy.typing as npt

from srwan.errors import ConfigError
from srwan.testing.faults import Faults
from srwan.types import GeoAsn

__all__ = ["LinkLatencies", "Noise", "synthetic_geography"]

LIGHT_IN_FIBRE_KM_PER_MS = 299.792458 * 0.68
EARTH_RADIUS_KM = 6371.0
CITIES = 24
"""Nodes gather around so many places of the sphere, within some hundred km."""
CITY_SPREAD_RADIANS = 0.05
STRETCH_FADES_MS = 40.0
"""Detours are a matter of short distances: no measured pair takes four times the way to its antipodes."""
LATENCY_MS_MIN = 0.25
"""Two nodes in one town: access links and stacks."""
POOL = 1 << 16
"""Datagrams whose noise is drawn at once: 0.5 MB."""
LOST = -1.0
TWICE_S = 1_000.0
"""Added to the noise of a datagram that arrives twice: no delay is so long."""

Floats = npt.NDArray[np.float64]


class LinkLatencies:
    """One-way latencies over time.

    Args:
        latency_ms: shape (n, n), or (slices, n, n) with `slice_s`; [i, j] is i -> j, ms; the diagonal is not read. The last slice goes on.
        slice_s: seconds from slice to slice.

    Raises:
        ConfigError: another shape, not square, or a latency that is not in 0..60,000 ms.
    """

    def __init__(self, latency_ms: Floats, *, slice_s: float = 10.0) -> None:
        slices = np.asarray(latency_ms, np.float64)
        slices = slices[None] if slices.ndim == 2 else slices
        if slices.ndim != 3 or slices.shape[1] != slices.shape[2] or slices.shape[0] == 0:
            raise ConfigError("latency_ms", f"an array of shape {np.shape(latency_ms)}", "give shape (n, n) or (slices, n, n)")
        others = slices[:, ~np.eye(slices.shape[1], dtype=bool)]
        if not bool(((others >= 0) & (others <= 60_000)).all()):
            raise ConfigError(
                "latency_ms", "a latency is missing, negative or over a minute", "give 0..60,000 ms everywhere but the diagonal"
            )
        if not slice_s > 0:
            raise ConfigError("slice_s", f"{slice_s!r} is out of range", "give more than 0 s")
        self._slices = slices
        self.slice_s = slice_s
        """Seconds from slice to slice."""

    @property
    def nodes(self) -> int:
        """Nodes it speaks of."""
        return int(self._slices.shape[1])

    @property
    def slices(self) -> int:
        """Matrices in it."""
        return int(self._slices.shape[0])

    def at(self, slice_index: int) -> Floats:
        """Return the matrix of a slice, shape (n, n), ms; beyond the end the last one."""
        matrix: Floats = self._slices[min(slice_index, self.slices - 1)]
        return matrix

    def part(self, nodes: tuple[int, ...]) -> LinkLatencies:
        """Return the latencies among some of the nodes, in that order."""
        order = np.array(nodes, np.int64)
        return LinkLatencies(self._slices[:, order[:, None], order[None, :]], slice_s=self.slice_s)


def synthetic_geography(n: int, rng: random.Random, faults: Faults) -> tuple[Floats, list[GeoAsn]]:
    """Return one-way latencies between n nodes on a sphere, and where they are.

    Latencies have shape (n, n), ms; [i, j] is i -> j, 0 on the diagonal.

    Args:
        n: number of nodes.
        rng: seeds everything drawn here.
        faults: stretch and asymmetry.

    Cost: O(n^2), 1 ms for n = 100.
    """
    draw = np.random.Generator(np.random.PCG64(rng.getrandbits(64)))
    cities = draw.normal(size=(CITIES, 3))
    places = cities[draw.integers(0, CITIES, n)]
    places = places / np.linalg.norm(places, axis=1, keepdims=True)
    places += draw.normal(scale=CITY_SPREAD_RADIANS, size=(n, 3))
    places /= np.linalg.norm(places, axis=1, keepdims=True)
    bound_ms = np.arccos(np.clip(places @ places.T, -1.0, 1.0)) * EARTH_RADIUS_KM / LIGHT_IN_FIBRE_KM_PER_MS
    low, high = np.log(faults.stretch_min), np.log(faults.stretch_max)
    stretch = np.exp(np.clip(draw.normal((low + high) / 2, (high - low) / 3.3, (n, n)), low, high))
    stretch = faults.stretch_min * (stretch / faults.stretch_min) ** (1 / (1 + bound_ms / STRETCH_FADES_MS))
    is_strong = draw.random((n, n)) < faults.strong_asymmetry
    skew = np.where(is_strong, draw.uniform(-0.9, 0.9, (n, n)), np.clip(draw.normal(0.0, 0.05, (n, n)), -0.95, 0.95))
    upper = np.triu(np.ones((n, n), dtype=bool), 1)
    half_ms = np.where(upper, bound_ms * stretch + LATENCY_MS_MIN, 0.0)
    lean_ms = np.where(upper, skew * (half_ms - bound_ms), 0.0)
    north_cdeg, east_cdeg = np.degrees(np.arcsin(places[:, 2])) * 100, np.degrees(np.arctan2(places[:, 1], places[:, 0])) * 100
    locations = [GeoAsn("ZZ", round(north), round(east), 0) for north, east in zip(north_cdeg.tolist(), east_cdeg.tolist(), strict=True)]
    return half_ms + lean_ms + (half_ms - lean_ms).T, locations


class Noise:
    """Delays, losses and duplicates of single datagrams, one after the other.

    Args:
        rng: seeds the draws.
        faults: what is drawn.

    Iterating gives seconds: the delay on top of the link's latency, `LOST`, or `TWICE_S` and a delay for one that arrives twice.
    """

    def __init__(self, rng: random.Random, faults: Faults) -> None:
        self._draw = np.random.Generator(np.random.PCG64(rng.getrandbits(64)))
        self._faults = faults

    def __iter__(self) -> NoiseDraws:
        """Draws without an end."""
        return NoiseDraws(self)

    def pool(self) -> list[float]:
        """Draw for the next `POOL` datagrams."""
        faults, draw = self._faults, self._draw
        delay_ms = draw.standard_exponential(POOL) * faults.jitter_ms
        is_spike = draw.random(POOL) < faults.spike_share
        delay_ms += is_spike * draw.standard_exponential(POOL) * faults.spike_ms
        if faults.reorder:
            delay_ms += (draw.random(POOL) < faults.reorder) * draw.random(POOL) * faults.reorder_ms
        delay_s = delay_ms / 1e3
        if faults.duplicate:
            delay_s += (draw.random(POOL) < faults.duplicate) * TWICE_S
        delay_s[draw.random(POOL) < faults.loss] = LOST
        found: list[float] = delay_s.tolist()
        return found


class NoiseDraws:
    """An endless iterator over pools."""

    __slots__ = ("_noise", "_pool")

    def __init__(self, noise: Noise) -> None:
        self._noise = noise
        self._pool = iter(noise.pool())

    def __iter__(self) -> NoiseDraws:
        """Itself."""
        return self

    def __next__(self) -> float:
        """Seconds, see `Noise`."""
        for draw in self._pool:
            return draw
        self._pool = iter(self._noise.pool())
        return next(self._pool)
