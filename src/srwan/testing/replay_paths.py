"""Paths of all ordered pairs at once, what they cost in a slice, and the simple choices a policy is compared with.

Paths are an integer array of shape (n, n, 2): first and second relay of i -> j, NONE where there is none; a path with one relay has it
first. Latencies are arrays of shape (n, n), ms, 0 on the diagonal, NaN where missing.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from srwan.testing.latency_trace import Floats

__all__ = ["NONE", "Paths", "best_relays", "direct_paths", "if_better", "one_relay_paths", "realised_ms"]

Paths: TypeAlias = npt.NDArray[np.int16]
NONE = -1
"""In an array of paths: no relay."""


def direct_paths(n: int) -> Paths:
    """Everybody direct."""
    return np.full((n, n, 2), NONE, dtype=np.int16)


def one_relay_paths(relays: npt.NDArray[np.integer]) -> Paths:
    """Paths from an array of relays, shape (n, n), NONE where direct."""
    paths = direct_paths(len(relays))
    paths[:, :, 0] = relays
    return paths


def realised_ms(latency_ms: Floats, paths: Paths, relay_ms: float) -> Floats:
    """What the paths cost in a slice, shape (n, n), ms; NaN where a leg is missing in it."""
    i, j = np.indices(latency_ms.shape)
    first = np.where(paths[:, :, 0] == NONE, i, paths[:, :, 0])
    second = np.where(paths[:, :, 1] == NONE, first, paths[:, :, 1])
    relays = np.count_nonzero(paths != NONE, axis=2).astype(np.float32)
    total: Floats = latency_ms[i, first] + latency_ms[first, second] + latency_ms[second, j] + relays * np.float32(relay_ms)
    return total


def best_relays(latency_ms: Floats) -> tuple[Floats, npt.NDArray[np.int16]]:
    """Return cost (ms; inf where no relay has both legs) and index of the cheapest relay of every pair, shapes (n, n). Cost: O(n^3)."""
    n = len(latency_ms)
    legs = np.where(np.isnan(latency_ms), np.float32(np.inf), latency_ms)
    np.fill_diagonal(legs, np.inf)
    best = np.full((n, n), np.inf, dtype=np.float32)
    relays = np.full((n, n), NONE, dtype=np.int16)
    for relay in range(n):
        through = legs[:, relay, None] + legs[relay]
        np.copyto(relays, relay, where=through < best)
        np.minimum(best, through, out=best)
    return best, relays


def if_better(
    latency_ms: Floats, best: tuple[Floats, npt.NDArray[np.int16]], *, relay_ms: float, margin: float = 0.0, margin_ms: float = 0.0
) -> Paths:
    """Take the cheapest relay of `best_relays` where it beats direct by both margins (share of direct, and ms), else direct."""
    cost = best[0] + np.float32(relay_ms)
    with np.errstate(invalid="ignore"):
        is_better = (cost < latency_ms * np.float32(1 - margin)) & (cost < latency_ms - np.float32(margin_ms))
    np.fill_diagonal(is_better, val=False)
    return one_relay_paths(np.where(is_better, best[1], NONE))
