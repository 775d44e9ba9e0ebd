"""What a replayed policy is worth: realised against direct latency, over slices the policy had not seen.

Let d be the direct, r the realised latency of a pair in a scored slice, o that of a reference policy. A pair-slice is scored if d and r are
known; "used" means r differs from d. Sums run over scored pair-slices, and for a capture over those where o is known too.

    gain_ms = mean(d - r)      gain_pct = 100 sum(d - r) / sum(d)      capture = sum(d - r) / sum(d - o)

`harmed` counts used pair-slices with r > d; `harmed_pairs` counts pairs that ever used a relay and lost by it in sum, which is the fairer
figure where single samples are mostly noise; `worse_pairs` is the same count over all pairs.
"""

from __future__ import annotations

from typing import TypeAlias

import attrs
import numpy as np
import numpy.typing as npt

from srwan.testing.latency_trace import Floats
from srwan.testing.replay_paths import NONE, Paths

__all__ = ["Score", "Scored"]

USED_MS_MIN = 1e-9
"""Difference between realised and direct latency that counts as one, ms."""
_Sums: TypeAlias = npt.NDArray[np.float64]


@attrs.frozen(slots=True, kw_only=True)
class Score:
    """The figures of one policy; all 0 if nothing was scored."""

    mean_ms: float
    """Realised latency, mean, ms."""
    direct_mean_ms: float
    """Direct latency of the same pair-slices, mean, ms."""
    p50_ms: float
    """Realised latency, median, ms."""
    p95_ms: float
    """Realised latency, 95th percentile, ms."""
    gain_ms: float
    """Mean gain over direct, ms; losses counted."""
    gain_pct: float
    """The same as a share of the direct latency, per cent."""
    capture: float | None
    """Gain as a share of the gain of the full-knowledge policy with the same delay; None if that policy loses."""
    capture_oracle: float | None
    """Gain as a share of the gain of the best relay of each slice, known beforehand."""
    relayed: float
    """Share of pair-slices that used a relay."""
    harmed: float
    """Share of these that were slower than direct."""
    harmed_pairs: float
    """Share of the pairs that ever used a relay for which relaying was a loss in sum."""
    worse_pairs: float
    """Number of the same pairs as a share of all pairs."""
    changes: float
    """Changed paths per pair and scored slice, from one scored slice to the next."""
    concentration: float
    """Largest share of the relayed pair-slices that went over one relay."""
    scored: int
    """Pair-slices scored."""
    unscored: int
    """Pair-slices left out because the direct path or a leg in use is missing in the slice."""


class Scored:
    """Collects one policy's slices.

    Args:
        slices: how many will be added.
        n: nodes.
    """

    def __init__(self, slices: int, n: int) -> None:
        self._off = ~np.eye(n, dtype=bool)
        self._n = n
        self._slices = slices
        self._realised: list[Floats] = []
        self._direct_sum = 0.0
        self._gain_sum = 0.0
        self._used = 0
        self._harmed = 0
        self._pair_gain: _Sums = np.zeros((n, n))
        self._ever_used: npt.NDArray[np.bool_] = np.zeros((n, n), dtype=bool)
        self._captured = {"same_delay": np.zeros(2), "oracle": np.zeros(2)}
        self._changed = 0
        self._loads: npt.NDArray[np.int64] = np.zeros(n, dtype=np.int64)
        self._last: Paths | None = None

    def add(self, direct_ms: Floats, realised_ms: Floats, paths: Paths, references_ms: dict[str, Floats]) -> None:
        """Add a slice.

        Args:
            direct_ms: direct latency in it, shape (n, n), NaN where missing.
            realised_ms: realised latency, same shape, NaN where a leg is missing.
            paths: the paths used, shape (n, n, 2).
            references_ms: realised latency of "same_delay" and "oracle".
        """
        is_scored = self._off & np.isfinite(direct_ms) & np.isfinite(realised_ms)
        gain = np.where(is_scored, direct_ms.astype(np.float64) - realised_ms, 0.0)
        is_used = np.abs(gain) > USED_MS_MIN
        self._realised.append(realised_ms[is_scored])
        self._direct_sum += float(direct_ms[is_scored].sum(dtype=np.float64))
        self._gain_sum += float(gain.sum())
        self._used += int(is_used.sum())
        self._harmed += int((is_used & (gain < 0)).sum())
        self._pair_gain += gain
        self._ever_used |= is_used
        for name, reference_ms in references_ms.items():
            is_known = is_scored & np.isfinite(reference_ms)
            possible = (direct_ms.astype(np.float64) - reference_ms)[is_known].sum()
            self._captured[name] += (gain[is_known].sum(), possible)
        relays = paths[is_used]
        self._loads += np.bincount(relays[relays != NONE], minlength=self._n)
        if self._last is not None:
            self._changed += int((paths != self._last).any(axis=2)[self._off].sum())
        self._last = paths

    def score(self) -> Score:
        """Sum up."""
        realised = np.concatenate(self._realised) if self._realised else np.empty(0, dtype=np.float32)
        count, pairs = len(realised), self._n * (self._n - 1)
        mean_ms = float(realised.mean(dtype=np.float64)) if count else 0.0
        p50_ms, p95_ms = (float(value) for value in np.percentile(realised, [50, 95])) if count else (0.0, 0.0)
        lost = int((self._ever_used & (self._pair_gain < 0)).sum())
        return Score(
            mean_ms=mean_ms,
            direct_mean_ms=_ratio(self._direct_sum, count),
            p50_ms=p50_ms,
            p95_ms=p95_ms,
            gain_ms=_ratio(self._gain_sum, count),
            gain_pct=100 * _ratio(self._gain_sum, self._direct_sum),
            capture=_share(self._captured["same_delay"]),
            capture_oracle=_share(self._captured["oracle"]),
            relayed=_ratio(self._used, count),
            harmed=_ratio(self._harmed, self._used),
            harmed_pairs=_ratio(lost, int(self._ever_used.sum())),
            worse_pairs=_ratio(lost, pairs),
            changes=_ratio(self._changed, pairs * (self._slices - 1)),
            concentration=_ratio(int(self._loads.max()), self._used),
            scored=count,
            unscored=pairs * len(self._realised) - count,
        )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _share(captured: _Sums) -> float | None:
    gain, possible = (float(value) for value in captured)
    return None if possible < 0 else _ratio(gain, possible)
