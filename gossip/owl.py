"""The group's matrix of raw one-way latencies, as far as this member knows it: one row of every member, its own included.

Every edge i -> j keeps its last value and a *clipped mean*: an exponential mean over about 16 values in which a value further away than
four mean deviations counts as four deviations. Three values in a row beyond that on the same side are no spikes but a new level: the edge
then starts again from their median.

Raw means: receiver's stamp minus sender's stamp. The clocks' offsets are in it and cancel in every comparison of paths with equal ends;
nothing here may look at a single value's size. A mean lags behind a drifting clock, by the same time on all edges, so that cancels too.

Rows wait until somebody looks, up to 16 of a member, and are folded in round by round: twenty numpy calls on 100 x 100 numbers cost little
more than on 100, and a member that nobody asks pays nothing. Whether the matrix is whole is counted as rows come. Held receiver-major (one
row of an array is one member's row), in float32: 6e-5 ms at one second.

Invariants: the diagonal is never known; an edge is unknown as soon as its receiver says so, is silent for `stale_s`, or the sender's
clock was moved after the receiver's row was made. Source: docs/decisions.md (ranking by means of fresh samples).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import TypeAlias

import attrs
import numpy as np
import numpy.typing as npt

from srwan.gossip.row import OWL_NONE, OWL_OUTSIDE, OWL_UNIT_US, Codes8, Codes16, Floats, Row, jitter_ms, loss_share
from srwan.types import NodeId

__all__ = ["OwlMatrix", "OwlSnapshot"]

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
PENDING_MAX = MEAN_SAMPLES_MAX
"""Rows of one member that wait to be folded in; a mean would forget older ones anyway."""

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
    """Time since the receiver's row came, s."""


@attrs.frozen(slots=True, eq=False)
class Entries:
    """The entries of a row whose roster is not ours, in our order. Arrays have shape (n,)."""

    owl: Codes16
    jitter: Codes8
    loss: Codes8
    base_us: int
    stamp_ns: int
    known: int
    """Entries that hold a latency."""


class _Edges:
    """Arrays of shape (n, n), [receiver, sender], and (n,)."""

    __slots__ = ("count", "dev", "jitter", "known", "last", "loss", "mean", "previous", "streak", "valid_after_ns")

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
        self.valid_after_ns: _Ints = np.zeros(n, np.int64)

    def copy_from(self, old: _Edges, here: _Ints, there: _Ints) -> None:
        """Take the edges among surviving members; `here` are their new indices, `there` the old ones."""
        for name in ("mean", "dev", "last", "previous", "known", "count", "streak", "jitter", "loss"):
            getattr(self, name)[np.ix_(here, here)] = getattr(old, name)[np.ix_(there, there)]
        self.valid_after_ns[here] = old.valid_after_ns[there]


class OwlMatrix:
    """Raw one-way latencies of a group. A core.

    Args:
        me: this member.
        stale_s: an edge whose receiver was silent for so long is unknown.
    """

    def __init__(self, me: NodeId, *, stale_s: float) -> None:
        self._me = me
        self._stale_s = stale_s
        self._members: tuple[NodeId, ...] = ()
        self._slots: dict[NodeId, int] = {}
        self._edges = _Edges(0)
        self._edges_order: tuple[NodeId, ...] = ()
        self._pending: list[deque[tuple[Row | Entries, tuple[NodeId, ...]]]] = []
        self._heard_at: list[float] = []
        self._is_whole: list[bool] = []
        self._whole = 0
        self._valid_after_ns_max = 0
        self.set_members((me,))

    @property
    def members(self) -> tuple[NodeId, ...]:
        """Who has a row and a column, in rising order; this member is one of them."""
        return self._members

    def slot(self, node: NodeId) -> int | None:
        """Return the index of a member, None if it is none."""
        return self._slots.get(node)

    def set_members(self, members: Sequence[NodeId]) -> None:
        """Change who is in the matrix; edges among those who stay are kept. Cost: 60 us for n = 100, and 1 ms when somebody looks."""
        ids = tuple(sorted({*members, self._me}))
        if ids == self._members:
            return
        old = self._slots
        self._heard_at = [self._heard_at[old[node]] if node in old else -math.inf for node in ids]
        self._pending = [self._pending[old[node]] if node in old else deque(maxlen=PENDING_MAX) for node in ids]
        self._members, self._slots = ids, {node: index for index, node in enumerate(ids)}
        self._doubt_all()

    def add_row(self, slot: int, row: Row | Entries, now: float) -> None:
        """Take in what a member told, in member order; its own row too. Cost: 0.4 us.

        Args:
            slot: the receiver of all these edges.
            row: n entries.
            now: when it came.
        """
        self._pending[slot].append((row, self._members))
        self._heard_at[slot] = now
        is_whole = row.known == len(self._members) - 1 and (row.stamp_ns >= self._valid_after_ns_max or slot == self._slots[self._me])
        if is_whole != self._is_whole[slot]:
            self._is_whole[slot] = is_whole
            self._whole += 1 if is_whole else -1

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
        self._doubt_all()

    def move_own_clock(self, by_ms: float, *, valid_after_ns: int) -> None:
        """This member's stamps moved by `by_ms`: what it measured shifts with them, what others measured of it shifts the other way."""
        self._fold()
        slot = self._slots[self._me]
        edges = self._edges
        for array in (edges.mean, edges.last, edges.previous):
            array[slot, :] += by_ms
            array[:, slot] -= by_ms
        # Limits set before are in the old group time.
        edges.valid_after_ns[:] = np.maximum(edges.valid_after_ns + np.where(edges.valid_after_ns > 0, int(by_ms * 1e6), 0), 0)
        edges.valid_after_ns[slot] = min(max(valid_after_ns, 0), 2**63 - 1)
        self._doubt_all()

    def snapshot(self, now: float) -> OwlSnapshot:
        """Return a copy of the matrix as of `now`. Cost: 0.15 ms for n = 100, and 0.3 ms if all rows are new."""
        self._fold()
        is_known = self._known(now)
        edges = self._edges

        def public(array: npt.NDArray[np.floating]) -> Floats:
            return np.ascontiguousarray(np.where(is_known, array, np.nan).T.astype(np.float64))

        heard_at = np.repeat(np.array(self._heard_at)[:, None], len(self._members), axis=1)
        return OwlSnapshot(
            self._members,
            public(edges.mean),
            public(edges.last),
            public(np.maximum(edges.dev, jitter_ms(edges.jitter))),
            public(loss_share(edges.loss)),
            public(now - heard_at),
        )

    def is_full(self, now: float) -> bool:
        """Whether every directed edge is known, by the last row of each member. Cost: 2 us."""
        n = len(self._members)
        return n > 1 and self._whole == n and min(self._heard_at) >= now - self._stale_s

    def edges_known(self, now: float) -> int:
        """Return how many of the n (n - 1) directed edges are known. Cost: 30 us for n = 100, and more if rows are new."""
        self._fold()
        return int(np.count_nonzero(self._known(now)))

    def lacking(self, now: float, heard: Sequence[int]) -> list[int]:
        """Return the slots of other members whose rows lack an edge from one of `heard`.

        Args:
            now: monotonic seconds.
            heard: slots of members that this one has been hearing for a while; what others lack of them may be had by asking.
        """
        self._fold()
        is_known = self._known(now)
        is_alive = np.zeros(len(self._members), np.bool_)
        is_alive[[*heard, self._slots[self._me]]] = True
        is_lacking = (is_alive[None, :] & ~is_known).sum(axis=1) > is_alive  # nobody measures itself
        is_lacking[self._slots[self._me]] = False
        return [int(slot) for slot in np.flatnonzero(is_lacking)]

    def _known(self, now: float) -> _Bools:
        """Shape (n, n), [receiver, sender]."""
        is_known: _Bools = self._edges.known & (np.array(self._heard_at) >= now - self._stale_s)[:, None]
        np.fill_diagonal(is_known, val=False)
        return is_known

    def _doubt_all(self) -> None:
        """Members or clocks changed: no row counts as whole until the next one of its owner."""
        self._is_whole = [False] * len(self._members)
        self._whole = 0
        self._valid_after_ns_max = int(self._edges.valid_after_ns.max(initial=0))

    def _fold(self) -> None:
        """Work the waiting rows into the edges, the oldest of each member first."""
        self._resize()
        moves: dict[int, _Ints] = {}
        while any(self._pending):
            owners = [slot for slot, rows in enumerate(self._pending) if rows]
            rows = [self._in_order(*self._pending[slot].popleft(), moves) for slot in owners]
            self._fold_once(np.array(owners, np.int64), rows)

    def _resize(self) -> None:
        """Let the edges follow the members."""
        if self._edges_order is self._members:
            return
        old = {node: index for index, node in enumerate(self._edges_order)}
        staying = [node for node in self._members if node in old]
        edges = _Edges(len(self._members))
        here = np.array([self._slots[node] for node in staying], np.int64)
        edges.copy_from(self._edges, here, np.array([old[node] for node in staying], np.int64))
        self._edges, self._edges_order = edges, self._members

    def _in_order(self, row: Row | Entries, order: tuple[NodeId, ...], moves: dict[int, _Ints]) -> Row | Entries:
        """Return a row that came when the members were `order` in the present one."""
        if order is self._members:
            return row
        positions = moves.get(id(order))
        if positions is None:
            positions = moves[id(order)] = np.array([self._slots.get(node, -1) for node in order], np.int64)
        return spread(row, positions, len(self._members))

    def _fold_once(self, owners: _Ints, rows: Sequence[Row | Entries]) -> None:
        edges = self._edges
        codes = np.stack([row.owl for row in rows])
        bases_us = np.array([row.base_us for row in rows], np.float64)
        stamps_ns = np.array([row.stamp_ns for row in rows], np.int64)
        edges.jitter[owners] = np.stack([row.jitter for row in rows])
        edges.loss[owners] = np.stack([row.loss for row in rows])
        values_ms = ((codes * float(OWL_UNIT_US) + bases_us[:, None]) / 1000.0).astype(np.float32)
        is_comparable = stamps_ns[:, None] >= edges.valid_after_ns[None, :]
        is_comparable[owners == self._slots[self._me]] = True  # what was measured with an old clock was forgotten where it was measured
        self._update(owners, values_ms, codes < OWL_OUTSIDE, is_comparable)

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


def spread(row: Row | Entries, positions: _Ints, n: int) -> Entries:
    """Return the entries of a row in another order.

    Args:
        row: of any roster.
        positions: for each entry the index of its member, negative if it is none.
        n: number of members; who is not named is not measured.
    """
    is_member = positions >= 0
    where = positions[is_member]
    codes = np.full(n, OWL_NONE, np.uint16)
    jitter, loss = np.zeros(n, np.uint8), np.zeros(n, np.uint8)
    codes[where] = row.owl[is_member]
    jitter[where] = row.jitter[is_member]
    loss[where] = row.loss[is_member]
    return Entries(codes, jitter, loss, row.base_us, row.stamp_ns, int(np.count_nonzero(codes < OWL_OUTSIDE)))
