"""The sliding window that lets every counter through once, in any order, as long as it is not too old.

Theory of operation (RFC 4303 section 3.4.3, RFC 6479): the highest counter accepted so far, and one bit for each of the counters just
below it. A Python integer is the bit set: one shift moves the window however far it has to go, in 0.25 us for 2048 bits (measured; the
ring of 64-bit words of RFC 6479 costs the same in Python, a list of counters 60 times the memory). Packets mostly come in order, and the
counters of such a run need no bits: its length says that all of them were seen. It becomes bits when a counter is missing.

Invariant: a counter is accepted at most once in the life of a window, and never when `WINDOW_BITS` or more below the highest.
Check freshness before the packet is authenticated if that saves work, `accept` only after: a forged counter must not move the window.
"""

from __future__ import annotations

__all__ = ["WINDOW_BITS", "ReplayWindow"]

WINDOW_BITS = 2048
"""Packets that may be overtaken by others and still count: 20 ms of reordering at 100,000 packets a second."""


class ReplayWindow:
    """Which counters of one key have been seen.

    Args:
        size_bits: width of the window, counters.
    """

    __slots__ = ("_bits", "_mask", "_run", "_size_bits", "highest")

    def __init__(self, size_bits: int = WINDOW_BITS) -> None:
        self.highest = -1
        """Highest counter accepted; -1 before the first."""
        self._size_bits = size_bits
        self._mask = (1 << size_bits) - 1
        self._run = 0  # counters up to and with the highest that were accepted one after the other
        self._bits = 0  # bit i: counter highest - run - i was accepted

    def is_fresh(self, counter: int) -> bool:
        """Say whether `accept` would take it. Changes nothing. Cost: 0.1 us."""
        behind = self.highest - counter
        if behind < 0:
            return True
        return self._run <= behind < self._size_bits and not self._bits >> (behind - self._run) & 1

    def accept(self, counter: int) -> bool:
        """Mark `counter` as seen, if it is fresh; call it after authentication. Cost: 0.1 us for the next one, 0.5 us for others.

        Returns:
            False, and nothing changed, for a replay or a counter too old to tell.
        """
        if counter == self.highest + 1:
            self.highest = counter
            self._run += 1
            return True
        if not self.is_fresh(counter):
            return False
        self._end_run()
        behind = self.highest - counter
        if behind < 0:
            ahead = -behind
            self._bits = (self._bits << ahead | 1) & self._mask if ahead < self._size_bits else 1
            self.highest = counter
        else:
            self._bits |= 1 << behind
        return True

    def _end_run(self) -> None:
        run, self._run = self._run, 0
        if run >= self._size_bits:
            self._bits = self._mask
        elif run:
            self._bits = (self._bits << run | (1 << run) - 1) & self._mask
