"""Does a watched path keep a service level agreement? What `PathPolicy.sla` adds to path choice.

Theory of operation. With an SLA the home path is kept while it meets the agreement, even if another one is faster or cheaper; it is left
when it breaks it, for the cheapest path that meets it. Latencies of an agreement are true ones: raw latencies freed of the offset between
the two clocks (`clock_reference`), with an error of half of the best round trip's asymmetry. Loss is what keep-alives and DATA show beyond
doubt (`watch.proved_loss`: few losses prove nothing).

One spike breaks nothing: BROKEN_EVALUATIONS evaluations in a row must show the breach. What is not measured is not broken.

Not here: who pays for the detour (`srwan.ledger_client.market.sla`), and death, which needs no agreement.

Source: whitepaper 12, "Service Level Agreement Token Escrow".
"""

from __future__ import annotations

import math

from srwan.routing.clock_reference import ClockReference
from srwan.routing.policy import Sla
from srwan.routing.watch import PathWatch

__all__ = ["Assurance"]

BROKEN_EVALUATIONS = 3
"""Consecutive evaluations that show a breach: 0.6 s at the default interval, and a clipped mean moved by three samples of five."""


class Assurance:
    """Holds paths against one agreement.

    Args:
        sla: the agreement.
        reference: tells the offset of the two clocks; while it is unknown only loss is judged.
    """

    __slots__ = ("_broken", "_reference", "_sla")

    def __init__(self, sla: Sla, reference: ClockReference) -> None:
        self._sla = sla
        self._reference = reference
        self._broken = 0

    def breach(self, watch: PathWatch) -> str | None:
        """Say how a path breaks the agreement now, or return None: it meets it, or nothing is known against it."""
        owl_ms = watch.live_ms - self._reference.offset_ms
        if not math.isnan(owl_ms) and owl_ms > self._sla.owl_ms_max:
            return f"takes {owl_ms:.0f} ms of {self._sla.owl_ms_max:g} ms agreed"
        if watch.proved_loss > self._sla.loss_max:
            return f"loses {watch.loss:.1%} of {self._sla.loss_max:.1%} agreed"
        return None

    def is_met(self, watch: PathWatch, *, is_strict: bool = False) -> bool:
        """Say whether a path is measured and breaks nothing; if `is_strict`, its loss counts at face value, not only beyond doubt."""
        if math.isnan(watch.live_ms - self._reference.offset_ms) or (is_strict and watch.seen_loss > self._sla.loss_max):
            return False
        return self.breach(watch) is None

    def look(self, used: PathWatch) -> bool:
        """Judge the path in use once per evaluation; say whether the agreement is broken for good."""
        self._broken = 0 if self.breach(used) is None else self._broken + 1
        return self._broken >= BROKEN_EVALUATIONS

    def forget(self) -> None:
        """Start over, with another path in use."""
        self._broken = 0
