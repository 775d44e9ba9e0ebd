"""The group's matrix of raw one-way latencies, as far as this member knows it.

Every edge i -> j keeps its last value and a *clipped mean*: an exponential mean over about 16 values in which a value further away than
four mean deviations counts as four deviations. Three values in a row beyond that on the same side are no spikes but a new level: the edge
then starts again from their median. Rows of others fill their columns, own measurements the own one.

Raw means: receiver's stamp minus sender's stamp. The clocks' offsets are in it and cancel in every comparison of paths with equal ends;
nothing here may look at a single value's size. A mean lags behind a drifting clock, by the same time on all edges, so that cancels too.

Held receiver-major (one row of an array is one member's row), in float32: 6e-5 ms at one second. Rows wait in a short queue and are
folded in together when somebody looks, because twenty numpy calls on 100 x 100 numbers cost little more than on 100.

Invariants: the diagonal is never known; an edge is unknown as soon as its receiver says so, is silent for `stale_s`, or the sender's
clock was moved after the receiver's row was made. Source: docs/decisions.md (ranking by means of fresh samples).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import attrs
import numpy as np
import numpy.typing as npt

from srwan.gossip.row import OWL_NONE, OWL_OUTSIDE, OWL_UNIT_US, Codes8, Codes16, Floats, jitter_ms
from srwan.types import NodeId

__all__ = ["OwlMatrix", "OwlSnapshot", "OwnVector"]

_Float32s: TypeAlias = npt.NDArray[np.float32]
_Bools: TypeAlias = npt.NDArray[np.bool_]
_Ints: TypeAlias = npt.NDArray[np.int64]

MEAN_SAMPLES_MAX = 16
"""Values a mean looks back on: 160 s at the default period."""
CLIP_DEVIATIONS = 4.0
"""A value further from the mean is clipped, in mean deviations."""
CLIP_MS_MIN = 0.5
"""Clip limit of a very steady edge, so that scheduler noise is no new level."""
CLIP_AFTER = 4
"""Values before the deviation means something."""
LEVEL_AFTER = 3
"""Values in a row on one side of the clip limit that make a new level."""
PENDING_MAX = 128
"""Rows waiting to be folded in; one a member."""

# numpy scalars, so that float32 stays float32
_ONE, _THREE, _SAMPLES_MAX = np.float32(1), np.float32(3), np.float32(MEAN_SAMPLES_MAX)
_CLIP_MS_MIN, _INFINITE = np.float32(CLIP_MS_MIN), np.float32(np.inf)


@attrs.frozen(slots=True, eq=False)
class OwlSnapshot:
    """The matrix at one moment. All arrays have shape (n, n), float64; [i, j] speaks of i -> j; NaN where unknown or stale."""

    members: tuple[NodeId, ...]
    """Who index i is, in rising order."""
    mean_ms: Floats
    """Raw one-way latency, clipped mean, ms; NaN on the diagonal."""
    last_ms: Floats
    """Raw one-way latency as last told, ms."""
    dev_ms: Floats
    """Mean absolute deviation, ms: the greater of what the receiver said and what the told values show."""
    loss: Floats
    """Share of pulses lost, 0..1."""
    age_s: Floats
    """Time since the receiver's row came (for the own column: since the sample), s."""


@attrs.frozen(slots=True, eq=False)
class OwnVector:
    """What this member would tell now. Arrays have shape (n,)."""

    last_ms: Floats
    """NaN where nothing fresh is known."""
    jitter: Codes8
    loss: Codes8


@attrs.frozen(slots=True, eq=False)
class _Pending:
    owner: int
    codes: Codes16
    base_us: int
    jitter: Codes8
    loss: Codes8
    stamp_ns: int
    now: float


class _Edges:
    """Arrays of shape (n, n), [receiver, sender], and (n,)."""

    __slots__ = ("count", "dev", "heard_at", "jitter", "known", "last", "loss", "mean", "previous", "streak", "valid_after_ns")

    def __init__(self, n: int) -> None:
        self.mean: _Float32s = np.zeros((n, n), np.float32)
        self.dev: _Float32s = np.zeros((n, n), np.float32)
        self.last: _Float32s = np.zeros((n, n), np.float32)
        self.previous: _Float32s = np.zeros((n, n), np.float32)
        self.known: _Bools = np.zeros((n, n), np.bool_)
        self.count: Codes8 = np.zeros((n, n), np.uint8)
        self.streak: npt.NDArray[np.int8] = np.zeros((n, n), np.int8)
        self.jitter: Codes8 = np.zeros((n, n), np.uint8)
        self.loss: Codes8 = np.zeros((n, n), np.uint8)
        self.heard_at: Floats = np.full(n, -np.inf)
        self.valid_after_ns: _Ints = np.zeros(n, np.int64)

    def copy_from(self, old: _Edges, here: _Ints, there: _Ints) -> None:
        """Take the edges among surviving members; `here` are their new indices, `there` the old ones."""
        for name in ("mean", "dev", "last", "previous", "known", "count", "streak", "jitter", "loss"):
            getattr(self, name)[np.ix_(here, here)] = getattr(old, name)[np.ix_(there, there)]
        self.heard_at[here] = old.heard_at[there]
        self.valid_after_ns[here] = old.valid_after_ns[there]


class _Own:
    """This member's own measurements, shape (n,) by sender."""

    __slots__ = ("at", "jitter", "last_ms", "loss", "since")

    def __init__(self, n: int) -> None:
        self.last_ms: Floats = np.zeros(n)
        self.jitter: Codes8 = np.zeros(n, np.uint8)
        self.loss: Codes8 = np.zeros(n, np.uint8)
        self.at: Floats = np.full(n, -np.inf)
        self.since: Floats = np.full(n, np.inf)

    def copy_from(self, old: _Own, here: _Ints, there: _Ints) -> None:
        for name in self.__slots__:
            getattr(self, name)[here] = getattr(old, name)[there]


class OwlMatrix:
    """Raw one-way latencies of a group. A core.

    Args:
        me: this member; its column is filled by `measure`.
        stale_s: an edge whose receiver was silent for so long is unknown.
    """

    def __init__(self, me: NodeId, *, stale_s: float) -> None:
        self._me = me
        self._stale_s = stale_s
        self._members: tuple[NodeId, ...] = (me,)
        self._slots: dict[NodeId, int] = {me: 0}
        self._edges = _Edges(1)
        self._own = _Own(1)
        self._own_is_dirty = False
        self._pending: dict[int, _Pending] = {}

    @property
    def members(self) -> tuple[NodeId, ...]:
        """Who has a row and a column, in rising order; this member is one of them."""
        return self._members

    def slot(self, node: NodeId) -> int | None:
        """Return the index of a member, None if it is none."""
        return self._slots.get(node)

    def set_members(self, members: Sequence[NodeId]) -> None:
        """Change who is in the matrix; edges among those who stay are kept. Cost: 0.3 ms for n = 100."""
        self._fold()
        ids = tuple(sorted({*members, self._me}))
        if ids == self._members:
            return
        slots = {node: index for index, node in enumerate(ids)}
        staying = [node for node in ids if node in self._slots]
        here = np.array([slots[node] for node in staying], np.int64)
        there = np.array([self._slots[node] for node in staying], np.int64)
        edges, own = _Edges(len(ids)), _Own(len(ids))
        edges.copy_from(self._edges, here, there)
        own.copy_from(self._own, here, there)
        self._edges, self._own, self._members, self._slots = edges, own, ids, slots

    def measure(self, sender: NodeId, last_ms: float, jitter: int, loss: int, now: float) -> None:
        """Note an own measurement of `sender` -> me; `jitter` and `loss` are u8 codes. Unknown senders are ignored. Cost: 1 us."""
        slot = self._slots.get(sender)
        if slot is None:
            return
        own = self._own
        own.last_ms[slot] = last_ms
        own.jitter[slot] = jitter
        own.loss[slot] = loss
        own.at[slot] = now
        own.since[slot] = min(own.since[slot], now)
        self._own_is_dirty = True

    def add_row(self, owner: NodeId, codes: Codes16, base_us: int, jitter: Codes8, loss: Codes8, *, stamp_ns: int, now: float) -> None:
        """Take in what `owner` told, vectors of shape (n,) in member order. Not a member, or this member itself: ignored.

        Args:
            owner: the receiver of all these edges.
            codes: u16 OWL codes of `srwan.gossip.row`.
            base_us: what code 0 means.
            jitter: u8 codes.
            loss: u8 codes.
            stamp_ns: group time when the row was made.
            now: when it came.
        """
        slot = self._slots.get(owner)
        if slot is None or owner == self._me:
            return
        if slot in self._pending or len(self._pending) >= PENDING_MAX:
            self._fold()
        self._pending[slot] = _Pending(slot, codes, base_us, jitter, loss, stamp_ns, now)

    def forget(self, node: NodeId, *, valid_after_ns: int) -> None:
        """Forget all edges from and to `node`: its clock was moved or it was restarted.

        Args:
            node: the member.
            valid_after_ns: rows made before (group time) still speak of its old clock; what they say of it is passed over.
        """
        slot = self._slots.get(node)
        if slot is None:
            return
        self._fold()
        edges = self._edges
        for array in (edges.known, edges.count, edges.streak):
            array[:, slot] = 0
            array[slot, :] = 0
        edges.valid_after_ns[slot] = min(max(valid_after_ns, 0), 2**63 - 1)
        self._own.at[slot] = -np.inf
        self._own.since[slot] = np.inf

    def move_own_clock(self, by_ms: float, *, valid_after_ns: int) -> None:
        """This member's stamps moved by `by_ms`: what it measured shifts with them, what others measured of it shifts the other way."""
        self._fold()
        slot = self._slots[self._me]
        edges = self._edges
        for array in (edges.mean, edges.last, edges.previous):
            array[slot, :] += by_ms
            array[:, slot] -= by_ms
        self._own.last_ms += by_ms
        # Limits set before are in the old group time.
        edges.valid_after_ns[:] = np.maximum(edges.valid_after_ns + np.where(edges.valid_after_ns > 0, int(by_ms * 1e6), 0), 0)
        edges.valid_after_ns[slot] = min(max(valid_after_ns, 0), 2**63 - 1)

    def own_vector(self, now: float) -> OwnVector:
        """Return what this member has fresh to tell."""
        own = self._own
        return OwnVector(np.where(own.at >= now - self._stale_s, own.last_ms, np.nan), own.jitter.copy(), own.loss.copy())

    def snapshot(self, now: float) -> OwlSnapshot:
        """Return a copy of the matrix as of `now`. Cost: 0.15 ms for n = 100, and 0.3 ms if all rows are new."""
        self._fold()
        is_known = self._known(now)
        edges, me = self._edges, self._slots[self._me]

        def public(array: npt.NDArray[np.floating]) -> Floats:
            return np.ascontiguousarray(np.where(is_known, array, np.nan).T.astype(np.float64))

        heard_at = np.repeat(edges.heard_at[:, None], len(self._members), axis=1)
        heard_at[me] = self._own.at
        return OwlSnapshot(
            self._members,
            public(edges.mean),
            public(edges.last),
            public(np.maximum(edges.dev, jitter_ms(edges.jitter))),
            public(edges.loss / np.float32(255)),
            public(now - heard_at),
        )

    def edges_known(self, now: float) -> int:
        """Return how many of the n (n - 1) directed edges are known. Cost: 20 us for n = 100."""
        self._fold()
        return int(np.count_nonzero(self._known(now)))

    def lacking(self, now: float, *, patience_s: float) -> list[NodeId]:
        """Return the members from whom something is missing here.

        That is: a sample of theirs, or in their row an edge from a member that this one has heard for `patience_s`.
        """
        self._fold()
        is_known = self._known(now)
        me = self._slots[self._me]
        is_alive = is_known[me] & (self._own.since <= now - patience_s)
        is_alive[me] = True
        is_lacking = (is_alive[None, :] & ~is_known).sum(axis=1) > is_alive  # nobody measures itself
        is_lacking |= ~is_known[me]
        is_lacking[me] = False
        return [self._members[index] for index in np.flatnonzero(is_lacking)]

    def _known(self, now: float) -> _Bools:
        """Shape (n, n), [receiver, sender]."""
        me = self._slots[self._me]
        is_known: _Bools = self._edges.known & (self._edges.heard_at >= now - self._stale_s)[:, None]
        is_known[me] = self._edges.known[me] & (self._own.at >= now - self._stale_s)
        np.fill_diagonal(is_known, val=False)
        return is_known

    def _fold(self) -> None:
        """Work the waiting rows and the own measurements into the edges."""
        edges = self._edges
        if self._pending:
            rows = list(self._pending.values())
            self._pending = {}
            owners = np.array([row.owner for row in rows], np.int64)
            codes = np.stack([row.codes for row in rows])
            bases_us = np.array([row.base_us for row in rows], np.float64)
            stamps_ns = np.array([row.stamp_ns for row in rows], np.int64)
            edges.jitter[owners] = np.stack([row.jitter for row in rows])
            edges.loss[owners] = np.stack([row.loss for row in rows])
            edges.heard_at[owners] = [row.now for row in rows]
            values_ms = ((codes * float(OWL_UNIT_US) + bases_us[:, None]) / 1000.0).astype(np.float32)
            is_comparable = stamps_ns[:, None] >= edges.valid_after_ns[None, :]
            self._update(owners, values_ms, codes < OWL_OUTSIDE, is_comparable)
        if self._own_is_dirty:
            self._own_is_dirty = False
            own, me = self._own, self._slots[self._me]
            edges.jitter[me] = own.jitter
            edges.loss[me] = own.loss
            is_measured = np.isfinite(own.at)[None, :]
            self._update(np.array([me], np.int64), own.last_ms[None, :].astype(np.float32), is_measured, np.ones_like(is_measured))

    def _update(self, owners: _Ints, values_ms: _Float32s, is_measured: _Bools, is_comparable: _Bools) -> None:
        """One step of the clipped mean for the given receivers; all arrays have shape (k, n)."""
        edges = self._edges
        at: _Ints | slice = slice(owners[0], owners[0] + 1) if len(owners) == 1 else owners  # a slice needs no copies
        was_known, last, previous = edges.known[at], edges.last[at], edges.previous[at]
        mean, dev, count = edges.mean[at], edges.dev[at], edges.count[at]
        # A burst tells an old sample again; equal values bring nothing to a mean.
        is_new = is_measured & is_comparable & ~(was_known & (values_ms == last))
        error = (values_ms - mean) * is_new
        limit = np.where(count >= CLIP_AFTER, np.maximum(CLIP_DEVIATIONS * dev, _CLIP_MS_MIN), _INFINITE)
        clipped = np.clip(error, -limit, limit)
        weight = is_new / np.minimum(count + _ONE, _SAMPLES_MAX)
        mean += weight * clipped
        dev += weight * (np.abs(clipped) - dev)
        dev[is_new & (count == 0)] = 0
        count += is_new & (count < MEAN_SAMPLES_MAX)
        is_level = self._note_streaks(at, error - clipped, is_new)
        if is_level is not None:
            low, high = np.minimum(values_ms, last), np.maximum(values_ms, last)
            mean = np.where(is_level, np.maximum(low, np.minimum(high, previous)), mean)
            dev = np.where(is_level, (np.maximum(high, previous) - np.minimum(low, previous)) / _THREE, dev)
            count[is_level] = LEVEL_AFTER
        edges.mean[at], edges.dev[at], edges.count[at] = mean, dev, count
        edges.previous[at] = np.where(is_new, last, previous)
        edges.last[at] = np.where(is_new, values_ms, last)
        edges.known[at] = np.where(is_comparable, is_measured, was_known)

    def _note_streaks(self, at: _Ints | slice, excess: _Float32s, is_new: _Bools) -> _Bools | None:
        """Count values in a row beyond the clip limit, signed by side. Return where that made a new level, None if nowhere."""
        streaks = self._edges.streak
        if not excess.any():
            streaks[at] *= ~is_new
            return None
        side = np.sign(excess).astype(np.int8)
        streak = streaks[at]
        streak = np.where(is_new, np.where(side * streak > 0, streak + side, side), streak)
        is_level: _Bools = is_new & (np.abs(streak) >= LEVEL_AFTER)
        streaks[at] = np.where(is_level, 0, streak)
        return is_level if is_level.any() else None


def spread(codes: Codes16, jitter: Codes8, loss: Codes8, positions: _Ints, n: int) -> tuple[Codes16, Codes8, Codes8]:
    """Return entries of a described row in member order, shape (n,).

    Args:
        codes: OWL codes of the entries.
        jitter: their jitter codes.
        loss: their loss codes.
        positions: for each entry the index of its member, negative if it is none.
        n: number of members; who is not named is not measured.
    """
    is_member = positions >= 0
    where = positions[is_member]
    all_codes = np.full(n, OWL_NONE, np.uint16)
    all_jitter, all_loss = np.zeros(n, np.uint8), np.zeros(n, np.uint8)
    all_codes[where] = codes[is_member]
    all_jitter[where] = jitter[is_member]
    all_loss[where] = loss[is_member]
    return all_codes, all_jitter, all_loss
