"""What this member knows of the group's clocks: history, fit, steps. Put together; the parts say how they work.

Every review the newest raw latencies go into the history and past the step detector; every FIT_S the history is fitted. Nothing that is
found out here chooses a path. Light bounds come from the places that members claim; the fit does not believe impossible ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from srwan.gossip.clock_fit import ClockFit, fit_clocks
from srwan.gossip.clock_history import ClockHistory
from srwan.gossip.clock_step import StepDetector
from srwan.gossip.light import light_bound_ms
from srwan.gossip.owl import OwlSnapshot
from srwan.gossip.place import positions_of
from srwan.gossip.row import ClockClaim, Floats
from srwan.types import GeoAsn, NodeId

__all__ = ["ClockWatch"]

FIT_S = 300.0
"""A fit is 50 ms of work at 100 members: 0.02 % of a core."""
FIRST_FIT_S = 60.0

_NO_PLACE = GeoAsn()
_I32 = 2**31 - 1
_U16 = 65534


class ClockWatch:
    """Follows the clocks of a group. A core; call `review` with every snapshot, once a round.

    Args:
        me: this member.
    """

    def __init__(self, me: NodeId) -> None:
        self._me = me
        self._history = ClockHistory(me)
        self._steps = StepDetector()
        self._places: Mapping[NodeId, GeoAsn] = {}
        self._members: tuple[NodeId, ...] = (me,)
        self._fit: ClockFit | None = None
        self._fit_at = math.inf
        self.step_ms = 0.0
        """The last step found of this member's clock, ms."""

    def set_members(self, places: Mapping[NodeId, GeoAsn], now: float) -> None:
        """Say who the members are, this one included, and where they say they are."""
        self._places = places
        self._fit_at = min(self._fit_at, now + FIRST_FIT_S)

    def forget(self, node: NodeId) -> None:
        """The clock of `node`, or this member's own, moved."""
        self._history.forget(node)
        if node == self._me:
            self._steps.reset()
            self._fit = None

    def review(self, snapshot: OwlSnapshot, now: float) -> float:
        """Take in the matrix, and fit if it is time.

        Args:
            snapshot: of the members given before; another is passed over.
            now: monotonic seconds.

        Returns:
            By how much this member's clock stepped since the last review but some, ms; mostly 0.0.

        Cost: 1 ms for n = 100; once a minute 15 ms more, every FIT_S 50 ms more.
        """
        self._follow_members()
        if snapshot.members != self._members or len(self._members) < 2:
            return 0.0
        self._history.add(snapshot.last_ms, snapshot.age_s, now)
        me = self._members.index(self._me)
        step_ms = self._steps.add(self._members, snapshot.last_ms[:, me], snapshot.last_ms[me, :], now)
        if step_ms:
            self.step_ms = step_ms
        if now >= self._fit_at:
            self.fit(now)
        return step_ms

    def fit(self, now: float) -> ClockFit:
        """Fit what is known now, and remember it for `claim` and `owl_ms`. Cost: 50 ms for n = 100."""
        self._follow_members()
        self._fit = fit_clocks(self._history.minima(now), self._bound_ms())
        self._fit_at = now + (FIRST_FIT_S if self.claim(now) is None else FIT_S)
        return self._fit

    def _follow_members(self) -> None:
        """Resize the history when somebody looks, not at each of a hundred joins."""
        members = tuple(sorted({*self._places, self._me}))
        if members != self._members:
            self._history.set_members(members)
            self._members = members
            self._fit = None
            self._steps.reset()

    @property
    def last_fit(self) -> ClockFit | None:
        """The last fit, of `members`; None before the first and after a change of members."""
        return self._fit

    @property
    def members(self) -> tuple[NodeId, ...]:
        """Who index i of a fit is."""
        return self._members

    def claim(self, now: float) -> ClockClaim | None:
        """Return what this member tells of its own clock now, carried forward from the last fit; None while it does not know."""
        fit = self._fit
        if fit is None or self._me not in self._members:
            return None
        me, age_s = self._members.index(self._me), now - fit.as_of_s
        drift_ppb, drift_error_ppb = float(fit.drift_ppm[me]) * 1e3, float(fit.drift_err_ppm[me]) * 1e3
        offset_us = float(fit.offset_ms[me]) * 1e3 + drift_ppb * age_s / 1e3
        offset_error_us = float(fit.offset_err_ms[me]) * 1e3 + drift_error_ppb * age_s / 1e3
        if not all(map(math.isfinite, (offset_us, drift_ppb, offset_error_us, drift_error_ppb))):
            return None
        if abs(offset_us) > _I32 or abs(drift_ppb) > _I32:
            return None
        return ClockClaim(round(offset_us), round(drift_ppb), min(round(offset_error_us), _U16), min(round(drift_error_ppb), _U16))

    def inbound(self, node: NodeId) -> tuple[float | None, float | None]:
        """Return the true one-way latency of `node` -> me (ms) and how fast raw samples of it rise by the clocks alone (ppm), if known."""
        fit = self._fit
        if fit is None or node not in self._members or node not in self._places:
            return None, None
        me, other = self._members.index(self._me), self._members.index(node)
        owl_ms, drift_ppm = float(fit.owl_ms[other, me]), float(fit.drift_ppm[me] - fit.drift_ppm[other])
        return (owl_ms if math.isfinite(owl_ms) else None), (drift_ppm if math.isfinite(drift_ppm) else None)

    def _bound_ms(self) -> Floats | None:
        if all(place == _NO_PLACE for place in self._places.values()):
            return None
        lat, lon = positions_of([self._places.get(node, _NO_PLACE) for node in self._members])
        return light_bound_ms(lat, lon)
