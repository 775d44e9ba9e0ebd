"""What clocks are recovered from: of every edge, the least raw latency of each minute of the last ten.

Queues only add, so the least of a few samples is close to the path's own latency. Which sample is the least must not depend on drift,
which moves a pair of clocks by up to 6 ms in a minute: samples are compared after the rates known so far were taken out, and kept as they
were measured, with their time.

When a sample was measured is not told. It came with a pulse of its sender, and a sender's row comes with its pulses: so an edge in a row
was measured when this member last heard from the edge's sender before that row (give or take the difference of two latencies).

Windows begin with 15 s and are merged in twos whenever there are too many, up to a minute, so that the first minute already shows drift.

Values are float32 relative to the edge's first one: 1e-5 ms however far apart the clocks are. 100 members take 0.8 MB.

Invariants: at most `WINDOWS_MAX` windows and `SPAN_S_MAX` seconds; nothing of a node from before its clock moved. Source:
docs/decisions.md (clock recovery).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import attrs
import numpy as np
import numpy.typing as npt

from srwan.gossip.clock_drift import fit_drift
from srwan.types import NodeId

__all__ = ["ClockHistory", "ClockMinima"]

_Floats: TypeAlias = npt.NDArray[np.float64]
_Float32s: TypeAlias = npt.NDArray[np.float32]
_Float16s: TypeAlias = npt.NDArray[np.float16]

WINDOWS_MAX = 10
WINDOW_S_MIN = 15.0
WINDOW_S_MAX = 60.0
SPAN_S_MAX = WINDOWS_MAX * WINDOW_S_MAX
"""Clocks wander: a line through an hour was 0.6 ms off where one through ten minutes was 0.2."""
SAMPLE_AGE_S_MAX = 30.0
"""A sample that would be older than three periods when it was told, or of unknown time, is not used: 10 s can be 1 ms."""
AT_S_MAX = 2 * WINDOW_S_MAX
"""Merged windows can be a little longer than a minute."""
RAW_MS_MAX = 3_600_000.0
"""As in rows: beyond an hour a raw latency is no measurement."""


@attrs.frozen(slots=True, eq=False)
class ClockMinima:
    """Window minima of raw latencies, what `fit_clocks` takes. [k, i, j] is window k, edge i -> j."""

    raw_ms: _Floats
    """Shape (windows, n, n), ms, clock offsets included; NaN where unknown."""
    at_s: _Floats
    """Shape (windows, n, n), monotonic s of the fitting member: when it was measured."""

    @classmethod
    def of(cls, raw_ms: _Floats, at_s: _Floats | None = None) -> ClockMinima:
        """Take plain arrays.

        Args:
            raw_ms: shape (windows, n, n) or (n, n) for one window, ms; NaN or infinite where unknown.
            at_s: shape (windows,) or (windows, n, n), s. None: window k was measured at k minutes.

        Raises:
            ValueError: the shapes do not fit.
        """
        raw = np.array(raw_ms, np.float64, ndmin=3)
        if raw.ndim != 3 or raw.shape[1] != raw.shape[2]:
            message = f"raw_ms has shape {np.shape(raw_ms)}; give (n, n) or (windows, n, n)"
            raise ValueError(message)
        times: _Floats = np.arange(len(raw)).astype(np.float64) * WINDOW_S_MAX if at_s is None else np.asarray(at_s, np.float64)
        if times.shape not in {(len(raw),), raw.shape}:
            message = f"at_s has shape {times.shape}; give ({len(raw)},) or {raw.shape}"
            raise ValueError(message)
        raw[~(np.abs(raw) <= RAW_MS_MAX)] = np.nan
        return cls(raw, np.array(np.broadcast_to(times.reshape(len(raw), *times.shape[1:] or (1, 1)), raw.shape), np.float64))


class _Window:
    """`value` relative to the edges' base, ms, NaN unknown; `at` relative to `start`, s. Shape (n, n), [sender, receiver]."""

    __slots__ = ("at", "start", "value")

    def __init__(self, start: float, n: int) -> None:
        self.start = start
        self.value: _Float32s = np.full((n, n), np.nan, np.float32)
        self.at: _Float16s = np.zeros((n, n), np.float16)


class ClockHistory:
    """Collects window minima of a group's raw latencies. A core; call `add` once a round, or `add_row` for every row.

    Args:
        me: this member.
    """

    def __init__(self, me: NodeId) -> None:
        self._me = me
        self._members: tuple[NodeId, ...] = (me,)
        self._slots: dict[NodeId, int] = {me: 0}
        self._windows: list[_Window] = []
        self._window_s = WINDOW_S_MIN
        self._reset(1)

    def _reset(self, n: int) -> None:
        self._base: _Floats = np.full((n, n), np.nan)
        self._last: _Floats = np.full((n, n), np.nan)
        self._rate: _Floats = np.zeros(n)
        self._row_at: _Floats = np.full(n, np.nan)

    @property
    def members(self) -> tuple[NodeId, ...]:
        """Whose clocks these are, in rising order; index i of all arrays."""
        return self._members

    @property
    def nbytes(self) -> int:
        """Memory of the arrays, octets."""
        return self._base.nbytes + self._last.nbytes + sum(window.value.nbytes + window.at.nbytes for window in self._windows)

    def set_members(self, members: Sequence[NodeId]) -> None:
        """Change who is in the group; edges among those who stay are kept. Cost: 2 ms for n = 100."""
        ids = tuple(sorted({*members, self._me}))
        if ids == self._members:
            return
        slots = {node: index for index, node in enumerate(ids)}
        staying = [node for node in ids if node in self._slots]
        here = np.array([slots[node] for node in staying], np.int64)
        there = np.array([self._slots[node] for node in staying], np.int64)
        base, last, rate, row_at = self._base, self._last, self._rate, self._row_at
        self._reset(len(ids))
        inside, outside = np.ix_(here, here), np.ix_(there, there)
        self._base[inside], self._last[inside] = base[outside], last[outside]
        self._rate[here], self._row_at[here] = rate[there], row_at[there]
        for index, old in enumerate(self._windows):
            window = _Window(old.start, len(ids))
            window.value[inside], window.at[inside] = old.value[outside], old.at[outside]
            self._windows[index] = window
        self._members, self._slots = ids, slots

    def add(self, raw_ms: _Floats, age_s: _Floats | None, now: float) -> None:
        """Take in the whole matrix; what was told before is passed over. Call it once a round, when this member pulses.

        Args:
            raw_ms: shape (n, n), ms, [i, j] is i -> j, in member order; NaN where unknown: `OwlSnapshot.last_ms`.
            age_s: shape (n, n), s: since the receiver's row came, in the own column since the sample: `OwlSnapshot.age_s`.
                None: everything was measured now.
            now: monotonic seconds.

        Raises:
            ValueError: a shape is not (n, n).

        Cost: 0.4 ms for n = 100, and once a minute 15 ms.
        """
        n = len(self._members)
        for array in (raw_ms, age_s):
            if array is not None and array.shape != (n, n):
                message = f"the history has {n} members, the matrix has shape {array.shape}; call set_members first"
                raise ValueError(message)
        at = np.full((n, n), now)
        if age_s is not None:
            told_at = now - np.where(np.isfinite(raw_ms) & (age_s >= 0), age_s, np.inf)
            row_at = told_at.max(axis=0)
            me = self._slots[self._me]
            row_at[me] = now
            at = self._measured_at(row_at)
            at[:, me] = told_at[:, me]
            self._row_at = np.where(np.isfinite(row_at), row_at, np.nan)
        self._note(slice(None), raw_ms, at, now)

    def add_row(self, receiver: NodeId, raw_ms: _Floats, now: float) -> None:
        """Take in what one member told, as its row comes (of this member: as it pulses). Who is no member is passed over.

        Args:
            receiver: the member.
            raw_ms: shape (n,), ms, by sender in member order; NaN where unknown.
            now: monotonic seconds.

        Raises:
            ValueError: the shape is not (n,).

        Cost: 50 us for n = 100.
        """
        slot = self._slots.get(receiver)
        if slot is None:
            return
        if raw_ms.shape != (len(self._members),):
            message = f"the history has {len(self._members)} members, the row has shape {raw_ms.shape}; call set_members first"
            raise ValueError(message)
        at = np.where(self._row_at >= now - SAMPLE_AGE_S_MAX, self._row_at, np.nan)
        self._row_at[slot] = now
        self._note(slice(slot, slot + 1), raw_ms[:, None], at[:, None], now)

    def forget(self, node: NodeId) -> None:
        """Forget all edges from and to `node`: its clock was moved or it was restarted."""
        slot = self._slots.get(node)
        if slot is None:
            return
        for array in (self._base, self._last):
            array[slot, :] = array[:, slot] = np.nan
        for window in self._windows:
            window.value[slot, :] = window.value[:, slot] = np.nan
        self._rate[slot] = 0.0
        self._row_at[slot] = np.nan

    def minima(self, now: float) -> ClockMinima:
        """Return a copy of the windows, oldest first, none older than `SPAN_S_MAX`. Cost: 1 ms for n = 100."""
        self._drop_old(now)
        n = len(self._members)
        raw, at = np.zeros((len(self._windows), n, n)), np.zeros((len(self._windows), n, n))
        for index, window in enumerate(self._windows):
            raw[index] = window.value + self._base
            at[index] = window.at.astype(np.float64) + window.start
        return ClockMinima(raw, at)

    def _measured_at(self, row_at: _Floats) -> _Floats:
        """When the edges in rows that came at `row_at` were measured: with their senders' last pulse before. Shape (n, n)."""
        is_before = row_at[:, None] <= row_at[None, :]
        at = np.where(is_before, row_at[:, None], self._row_at[:, None])
        is_sane = (at <= row_at[None, :]) & (at >= row_at[None, :] - SAMPLE_AGE_S_MAX)
        return np.where(is_sane, at, np.nan)

    def _note(self, columns: slice, raw_ms: _Floats, at: _Floats, now: float) -> None:
        """Keep what is new and less than the window's least. Arrays of shape (n, number of receivers)."""
        window = self._open_window(now)
        with np.errstate(invalid="ignore"):
            is_new = (np.abs(raw_ms) <= RAW_MS_MAX) & np.isfinite(at) & (raw_ms != self._last[:, columns])
        self._last[:, columns] = np.where(is_new, raw_ms, self._last[:, columns])
        base = self._base[:, columns]
        base = np.where(is_new & np.isnan(base), raw_ms, base)
        self._base[:, columns] = base
        value = raw_ms - base
        time = np.clip(np.nan_to_num(at - window.start), -SAMPLE_AGE_S_MAX, AT_S_MAX)
        held, held_time = window.value[:, columns], window.at[:, columns]
        rate = self._rate[None, columns] - self._rate[:, None]
        with np.errstate(invalid="ignore"):
            is_less = is_new & (np.isnan(held) | (value - rate * time < held - rate * held_time))
        window.value[:, columns] = np.where(is_less, value, held)
        window.at[:, columns] = np.where(is_less, time, held_time)

    def _drop_old(self, now: float) -> None:
        while self._windows and self._windows[0].start <= now - SPAN_S_MAX:
            del self._windows[0]

    def _open_window(self, now: float) -> _Window:
        """The window of now, a new one if it is time."""
        if self._windows and now < self._windows[-1].start + self._window_s:
            return self._windows[-1]
        self._drop_old(now)
        if len(self._windows) >= WINDOWS_MAX:
            if self._window_s < WINDOW_S_MAX:
                self._merge()
            else:
                del self._windows[0]
        self._learn_rates(now)
        self._windows.append(_Window(now, len(self._members)))
        return self._windows[-1]

    def _merge(self) -> None:
        """Make two windows one; the times of the second count from the start of the first."""
        merged: list[_Window] = []
        rate = self._rate[None, :] - self._rate[:, None]
        for first, second in zip(self._windows[::2], self._windows[1::2], strict=True):
            window = _Window(first.start, len(self._members))
            second_at = np.minimum(second.at + np.float16(second.start - first.start), np.float16(AT_S_MAX))
            with np.errstate(invalid="ignore"):
                is_second = np.isnan(first.value) | (second.value - rate * second_at < first.value - rate * first.at)
            window.value = np.where(is_second, second.value, first.value)
            window.at = np.where(is_second, second_at, first.at)
            merged.append(window)
        self._windows = merged
        self._window_s *= 2

    def _learn_rates(self, now: float) -> None:
        minima = self.minima(now)
        rate = fit_drift(minima.raw_ms, minima.at_s).rate_ms_per_s
        self._rate = np.where(np.isfinite(rate), rate, self._rate)
