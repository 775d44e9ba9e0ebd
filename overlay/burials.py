"""What a member remembers of those it buried: where they were, whether they know, and how soon they may come back. A core's part.

A buried node may live. For a while its former members keep its pair key and address, and show it the proof when it speaks, once in
`TELL_AGAIN_S`. A node that fails, restarts and fails again costs its group a view change each time, so its first restart is welcome at
once, and one whose runs were buried `n` times within the last hour has to wait 10 s * 2**(n - 1) after the last burial, ten minutes at
most (after BGP's route flap damping, RFC 2439, with a plain count in place of the decaying penalty). A certificate that comes too early
is kept and taken up when the wait is over, so its node need not try again. Members decide for themselves and may disagree for some
seconds; the pull repairs it.

Invariants: at most `NODES_MAX` nodes are remembered, each with `BURIALS_MAX` times, one address and one waiting certificate.
"""

from __future__ import annotations

from collections import deque

from srwan.errors import LimitExceeded
from srwan.overlay.deadlines import Deadlines
from srwan.types import NodeId, UdpAddress

__all__ = ["Burials"]

HOLD_OFF_S = 10.0
HOLD_OFF_S_MAX = 600.0
MEMORY_S = 3600.0
"""A burial older than this is forgiven."""
NODES_MAX = 256
"""Nodes remembered, up to 1 kB each; the one buried, or heard of, longest ago is forgotten first."""
BURIALS_MAX = 8
"""Times remembered of one node: with 7 the wait has reached its cap."""
TELL_AGAIN_S = 5.0


class Burials:
    """One member's memory of the buried."""

    __slots__ = ("_addresses", "_burials", "_held_off", "_held_off_due", "_told")

    def __init__(self) -> None:
        self._burials: dict[NodeId, deque[float]] = {}
        self._addresses: dict[NodeId, UdpAddress] = {}
        self._told: dict[NodeId, float] = {}
        self._held_off: dict[NodeId, bytes] = {}
        self._held_off_due = Deadlines()

    # damping

    def note_burial(self, node: NodeId, now: float) -> None:
        """A run of `node` was buried at `now`, monotonic seconds."""
        times = self._burials.pop(node, None)
        if times is None:
            times = deque(maxlen=BURIALS_MAX)
            if len(self._burials) >= NODES_MAX:
                self._forgive(next(iter(self._burials)))
        times.append(now)
        self._burials[node] = times

    def flaps(self, node: NodeId, now: float) -> int:
        """Return how many runs of `node` were buried within the last hour, counted up to `BURIALS_MAX`."""
        times = self._burials.get(node)
        if times is None:
            return 0
        while times and times[0] <= now - MEMORY_S:
            times.popleft()
        if not times:
            del self._burials[node]
        return len(times)

    def held_until(self, node: NodeId, now: float) -> float | None:
        """Return until when a new run of `node` has to wait, monotonic seconds; None: it may come."""
        flaps = self.flaps(node, now)
        if flaps < 2:
            return None
        until = self._burials[node][-1] + min(HOLD_OFF_S_MAX, HOLD_OFF_S * 2.0 ** (flaps - 1))
        return until if until > now else None

    def require_no_hold_off(self, node: NodeId, certificate: bytes, now: float) -> None:
        """Return if a new run may come; else keep its certificate until it may. Raises LimitExceeded ("hold-off")."""
        until = self.held_until(node, now)
        if until is not None:
            self._held_off[node] = certificate
            self._held_off_due.set(node, until)
            raise LimitExceeded(f"{node!r} failed too often lately, {until - now:.0f} s to wait", reason="hold-off")

    def get_timer(self) -> float | None:
        """When a wait will be over, monotonic seconds."""
        return self._held_off_due.due_at()

    def pop_held_off(self, now: float) -> list[bytes]:
        """Return the certificates whose wait is over."""
        return [self._held_off.pop(node) for node in self._held_off_due.pop_due(now)]

    def _forgive(self, node: NodeId) -> None:
        del self._burials[node]
        self._held_off.pop(node, None)
        self._held_off_due.discard(node)

    # those who may live

    def keep_address(self, node: NodeId, address: UdpAddress) -> NodeId | None:
        """Remember where a buried node is; return whom this pushed out."""
        self._addresses.pop(node, None)
        pushed_out = next(iter(self._addresses)) if len(self._addresses) >= NODES_MAX else None
        if pushed_out is not None:
            self.forget_address(pushed_out)
        self._addresses[node] = address
        return pushed_out

    def address_of(self, node: NodeId) -> UdpAddress | None:
        """Return where a node that was buried lately is."""
        return self._addresses.get(node)

    def forget_address(self, node: NodeId) -> None:
        """Nothing more is sent to it."""
        self._addresses.pop(node, None)
        self._told.pop(node, None)

    def may_tell(self, node: NodeId, now: float) -> bool:
        """Say whether a buried node that spoke should be shown the proof now, and note that it is."""
        told = self._told.get(node)
        if told is not None and now - told < TELL_AGAIN_S:
            return False
        self._told[node] = now
        return True

    def resurrect(self, node: NodeId) -> None:
        """It lives again, in a new run."""
        self.forget_address(node)
        self._held_off.pop(node, None)
        self._held_off_due.discard(node)
