"""What a receiver does with packets of one flow that took several paths: drop second copies, and put the rest in order for a short while.

- `SeqWindow` remembers which of the last 2,048 numbers came. A packet older than the window is taken for a copy: with two paths it is one,
  unless they differ by 2,048 packets.
- `Resequencer` holds a packet back while earlier ones are missing, at most as long as its sender asked for (bounded by HOLD_MS_MAX), and at
  most HELD_MAX packets. When the time of the one held longest is over, the gap before it is given up; what comes later out of the gap is
  handed on at once, late but not lost.

Both are filled by an authenticated peer that need not be trusted: memory is bounded, and no input makes a loop longer than HELD_MAX.

Source: RFC 4303 appendix A2 (window by bitmap), RFC 8655 (packet replication, elimination and ordering).
"""

from __future__ import annotations

from typing import Generic, TypeVar

__all__ = ["Resequencer", "SeqWindow"]

WINDOW = 2048
"""Numbers remembered, as many as a session's replay window."""
_MASK = (1 << WINDOW) - 1
HELD_MAX = 256
"""Packets held back: 50 ms at 5,000 packets/s."""
HOLD_MS_MAX = 200
"""Longest time one is held back, ms."""

Item = TypeVar("Item")


class SeqWindow:
    """Which of the last numbers came already."""

    __slots__ = ("_bits", "_highest")

    def __init__(self) -> None:
        self._highest = -1
        self._bits = 0

    def accept(self, seq: int) -> bool:
        """Note a number and say whether it is new. Cost: 0.3 us."""
        ahead = seq - self._highest
        if ahead > 0:
            self._bits = ((self._bits << ahead) | 1) & _MASK if ahead < WINDOW else 1
            self._highest = seq
            return True
        if ahead <= -WINDOW or self._bits >> -ahead & 1:
            return False
        self._bits |= 1 << -ahead
        return True


class Resequencer(Generic[Item]):
    """Packets of one flow, in order again as far as a short wait allows."""

    __slots__ = ("_held", "_next_seq", "given_up", "late")

    def __init__(self) -> None:
        self._next_seq = 0
        self._held: dict[int, tuple[int, Item]] = {}  # in order of arrival: until when, ns; what
        self.given_up = 0
        """Numbers that were missing when their time was over."""
        self.late = 0
        """Packets that came after they had been given up; handed on out of order."""

    def __len__(self) -> int:
        return len(self._held)

    def put(self, seq: int, item: Item, now_ns: int, hold_ms: int) -> list[Item]:
        """Take a packet and return those that may be handed on now, in order; a number that is held already replaces nothing.

        Args:
            seq: its number.
            item: the packet.
            now_ns: ns on any clock, the same for all calls.
            hold_ms: how long it may wait.
        """
        if seq < self._next_seq:
            self.late += 1
            return [item]
        if seq == self._next_seq:
            self._next_seq += 1
            return [item, *self._take_run()]
        if seq not in self._held:
            self._held[seq] = (now_ns + min(hold_ms, HOLD_MS_MAX) * 1_000_000, item)
        ready = self.take_due(now_ns)
        if len(self._held) > HELD_MAX:
            ready += self._skip_to(min(self._held))
        return ready

    @property
    def due_ns(self) -> int | None:
        """When `take_due` will return something, ns; None if nothing is held."""
        return next(iter(self._held.values()))[0] if self._held else None

    def take_due(self, now_ns: int) -> list[Item]:
        """Give up the gaps before packets whose time is over, and return what may be handed on, in order."""
        ready: list[Item] = []
        while self._held:
            seq, (until_ns, _) = next(iter(self._held.items()))
            if until_ns > now_ns:
                break
            ready += self._skip_to(seq)
        return ready

    def take_all(self) -> list[Item]:
        """Return all that is held, in order, and wait for nothing before it any more."""
        return self._skip_to(max(self._held)) if self._held else []

    def _skip_to(self, seq: int) -> list[Item]:
        """Hand on all that is held up to a number, and the run after it."""
        ready = [self._held.pop(earlier)[1] for earlier in sorted(held for held in self._held if held <= seq)]
        self.given_up += seq + 1 - self._next_seq - len(ready)
        self._next_seq = seq + 1
        return ready + self._take_run()

    def _take_run(self) -> list[Item]:
        ready: list[Item] = []
        while self._held and self._next_seq in self._held:
            ready.append(self._held.pop(self._next_seq)[1])
            self._next_seq += 1
        return ready
