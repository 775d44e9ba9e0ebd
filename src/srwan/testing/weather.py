"""What faults do to one node and to the datagrams between two: counters of what is on, and the fate of a datagram under them."""

from __future__ import annotations

import math
import random
from typing import TypeVar

from srwan.testing.faults import Fault

__all__ = ["Condition", "fate_of"]

LOST = -1.0
_Item = TypeVar("_Item")


class Condition:
    """What is wrong with a node at the moment. Faults of one kind may overlap, so they are counted."""

    __slots__ = ("can_freeze", "clogs", "cut_in", "cut_out", "extra_s", "losses", "paused", "side", "starved")

    def __init__(self) -> None:
        self.cut_in = 0
        self.cut_out = 0
        self.paused = 0
        self.side = 0
        self.extra_s = 0.0
        self.losses: list[float] = []
        self.clogs: list[float] = []
        self.starved: list[tuple[float, float]] = []
        self.can_freeze = False

    def change(self, fault: Fault, now: float, by: int) -> None:
        """Begin (by = 1) or end (-1) a fault."""
        match fault.kind:
            case "cut-in":
                self.cut_in += by
            case "cut-out":
                self.cut_out += by
            case "partition":
                self.side += by
            case "delay":
                self.extra_s += by * fault.extra_ms / 1e3
            case "pause":
                self.paused += by
                self.can_freeze = True
            case "loss":
                _put(self.losses, fault.share, by)
            case "starve":
                _put(self.starved, (fault.share, fault.slice_s), by)
                self.can_freeze = True
            case "clog" if by > 0:
                self.clogs.append(fault.end_after(now))
            case "clog":
                self.clogs = [until for until in self.clogs if until > now]
            case _:
                pass

    def frozen_until(self, now: float) -> float:
        """Return when the process runs next; a time that is not later than `now` means that it runs."""
        if self.paused > 0:
            return math.inf
        until = now
        for share, slice_s in self.starved:
            run_s = share * slice_s
            phase_s = now % slice_s
            if phase_s >= run_s:
                until = max(until, now - phase_s + slice_s)
        return until


def fate_of(source: Condition, target: Condition, arrival: float, now: float, rng: random.Random) -> float:
    """Return when a datagram arrives that would arrive at `arrival`; negative if it is lost.

    Args:
        source: of the sender.
        target: of the receiver.
        arrival: without any fault, simulated seconds.
        now: simulated seconds.
        rng: draws losses.
    """
    if source.cut_out > 0 or target.cut_in > 0 or source.side != target.side:
        return LOST
    for losses in (source.losses, target.losses):
        for share in losses:
            if rng.random() < share:
                return LOST
    for until in source.clogs:
        arrival = max(arrival, until + (arrival - now))
    return arrival + source.extra_s


def _put(items: list[_Item], item: _Item, by: int) -> None:
    if by > 0:
        items.append(item)
    else:
        items.remove(item)
