"""Group time: every member adds an offset of its own to its stamps, so that the stamps of a group agree within some 100 ms.

This is no clock synchronisation. Constant offsets cancel in every comparison of paths with equal ends, so precision would be wasted; but
a row tells latencies in 16 bits above one base, and hosts' clocks differ by seconds. Only the range matters here.

Theory of operation. A member probes each peer when it first sees it, and once a minute; the echo gives theta = ((t2 - t1) + (t3 - t4)) /
2, how far the peer's group time is ahead of mine; the last pulse of the peer renews it before it is used, taking half the round trip as
its latency. I belong at the *lower median* of {0 (myself)} and all thetas: everybody computes the same place, two islands of equal size
agree on the earlier one, and a minority of liars cannot choose it. Those whose pulses are under way (*settled*) weigh four times as much
as those who have not told anything yet, because moving the latter costs nothing. Moving to the median does not move the median, so it
does not matter who moves first.

Before its first pulse a member settles: it waits for the echoes of its roster, for a bounded time, and takes the median of those that are
settled, whatever the number of newcomers; only where nobody is settled, the median of all. Two routers that settled early and ten that
come at once would otherwise meet in the middle, and the two could only follow seconds later. For the same reason a group where nobody is
settled yet waits longer whether it still grows, and whoever lacks an echo longer than whoever has all. Afterwards a member moves only if
it is more than `REALIGN_NS` off, rarely, and raises its clock epoch, which tells the others to forget what they knew of it.

Invariants: the offset is within +-OFFSET_NS_MAX; a theta is never older than its peer's last pulse; a member without peers never
settles. Source: RFC 5905 section 8 for theta; bounds in docs/decisions.md.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

from srwan.types import NodeId

__all__ = ["GroupTime"]

REALIGN_NS = 200_000_000
"""A member further than this from the median moves. Twice this and the spread of OWLs must stay below the 655 ms that a row can tell."""
OFFSET_NS_MAX = 2 * 10**18
"""63 years: a host that believes it is 1970 can still follow, and stamps stay within 63 bits."""
SETTLE_PATIENCE_S = 0.75
"""Who lacks echoes waits so much longer than who has all: the median of fewer is another place."""
SETTLE_GROWING_S_MAX = 3.0
"""While the roster grows the first pulse waits, because all before would be told again; but not longer, from the first peer on."""
SETTLE_QUIET_S = 0.25
"""The roster must not have grown for so long before it counts as whole, if any of it is settled."""
SETTLE_FORMING_S = 0.7
"""The same where nobody is. A hundred that start at once are islands of a few for a second; an island that settled would move, and all
others measure it anew. With 0.25 s here as well the matrix was not full after 10 s, with 9 pulses an edge (docs/decisions.md)."""
CHECK_SETTLED_S = 2.0
"""Its first look is so long after it settled."""
CHECK_GROWN_S = 1.0
"""A settled member looks at its place again so long after its roster stopped growing, when the newcomers have echoed; it waits for that no
longer than GROWING_S_MAX."""
PROBE_AFTER_S = 0.1
GROWING_S_MAX = 1.5
"""A new peer is probed when the roster has not grown for so long, or has been growing for that long: joins come first."""
PROBE_RETRY_S = 0.25
PROBE_TRIES_MAX = 5
"""Probes until one is echoed, at 0, 0.25, 0.75, 1.75, 3.75 s: a datagram is lost now and then, and a hundred hosts that start at once
are late with their echoes, so that asking again soon would make them later."""
PROBE_PERIOD_S = 60.0
PROBE_JITTER = 0.2
CHECK_PERIOD_S = 30.0
CHECK_PERIOD_EARLY_S = 5.0
"""Also the least time between two moves in the first minute."""
EARLY_S = 60.0
REALIGN_GAP_S = 300.0
"""Least time between two moves later on: 200 ms take 33 minutes at 100 ppm."""
SETTLED_WEIGHT = 4
NONCES_MAX = 4
"""Probes under way per peer; an echo of an older one is refused."""


class _Peer:
    __slots__ = ("held_ns", "is_settled", "next_probe_at", "nonces", "probed_at", "round_trip_ns", "theta_ns", "tries")

    def __init__(self, now: float) -> None:
        self.theta_ns: int | None = None
        self.round_trip_ns: int | None = None
        self.held_ns = 0
        self.is_settled = False
        self.next_probe_at = now
        self.tries = 0
        self.probed_at = -float("inf")
        self.nonces: dict[int, int] = {}


class GroupTime:
    """Finds this member's offset to the group's time. A core; whoever owns it sends the probes and reads the stamps.

    Stamps given in are nanoseconds of this host's stamp clock, peers' stamps are nanoseconds of their group time.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._peers: dict[NodeId, _Peer] = {}
        self._first_at: float | None = None
        self._settle_by: float | None = None
        self._growing_since: float | None = None
        self._grown_at = 0.0
        self._quiet_at = 0.0
        self._early_until = 0.0
        self._check_at: float | None = None
        self._check_by: float | None = None
        self._moved_at = -REALIGN_GAP_S
        self._probe_at = float("inf")
        self._held_until = -float("inf")
        self.offset_ns = 0
        """What to add to a stamp of this host to get group time."""
        self.clock_epoch = 0
        """u8, rises with every move after the first pulse."""
        self.is_settled = False
        """True once this member may pulse."""

    def set_peers(self, peers: Iterable[NodeId], now: float) -> None:
        """Change who the others are. New ones are probed at once."""
        old, added = self._peers, False
        self._peers = {}
        for node in peers:  # in the given order, not a set's: runs with one seed are equal
            added |= node not in old
            self._peers[node] = old.get(node) or _Peer(now + PROBE_AFTER_S)
        if not self._peers:
            self._check_by = None  # the others may come back after any time
        if not self._peers and not self.is_settled:
            self._first_at = self._settle_by = None
        if not added:
            return
        if self._growing_since is None or now - self._growing_since > GROWING_S_MAX:
            self._growing_since = now
        else:  # the roster grows still: those who were not probed yet can wait
            for peer in self._peers.values():
                if not peer.tries and peer.theta_ns is None:
                    peer.next_probe_at = now + PROBE_AFTER_S
        self._probe_at = min((peer.next_probe_at for peer in self._peers.values()), default=float("inf"))
        if self.is_settled:
            if self._check_by is None:
                self._check_by = now + GROWING_S_MAX + CHECK_GROWN_S
            self._check_at = min(now + CHECK_GROWN_S, self._check_by)
            return
        self._grown_at = now
        if self._first_at is None:
            self._first_at = now
        self._wait_for_quiet(has_settled=any(peer.is_settled for peer in self._peers.values()))

    def _wait_for_quiet(self, *, has_settled: bool) -> None:
        """Plan when to settle: after the roster grew, or when it turns out that somebody is settled."""
        self._quiet_at = self._grown_at + (SETTLE_QUIET_S if has_settled else SETTLE_FORMING_S)
        if self._first_at is not None:
            self._settle_by = min(self._first_at + SETTLE_GROWING_S_MAX, self._quiet_at + SETTLE_PATIENCE_S)

    def hold(self, until: float) -> None:
        """Probe nobody again before `until` who was probed and has not echoed: the echo may wait in the socket."""
        self._held_until = max(self._held_until, until)

    def probes_due(self, now: float) -> list[NodeId]:
        """Return the peers to probe now; each is due again later."""
        if now < self._probe_at:
            return []
        if now < self._held_until:
            for peer in self._peers.values():
                if peer.tries and peer.theta_ns is None and peer.next_probe_at <= now:
                    peer.next_probe_at = self._held_until
        due = [node for node, peer in self._peers.items() if peer.next_probe_at <= now]
        for node in due:
            peer = self._peers[node]
            peer.tries += 1
            peer.probed_at = now
            if peer.theta_ns is None and peer.tries < PROBE_TRIES_MAX:
                peer.next_probe_at = now + PROBE_RETRY_S * 2 ** (peer.tries - 1)
            else:
                peer.next_probe_at = now + self._period()
        self._probe_at = min((peer.next_probe_at for peer in self._peers.values()), default=float("inf"))
        return due

    def probe_sent(self, node: NodeId, nonce: int, t1_ns: int) -> None:
        """Note that a probe left at `t1_ns`."""
        peer = self._peers.get(node)
        if peer is None:
            return
        if len(peer.nonces) >= NONCES_MAX:
            del peer.nonces[next(iter(peer.nonces))]
        peer.nonces[nonce] = t1_ns

    def echo_received(self, node: NodeId, nonce: int, t2_ns: int, t3_ns: int, t4_ns: int, *, is_settled: bool, now: float) -> bool:
        """Take in an echo.

        Args:
            node: who echoed.
            nonce: of the probe.
            t2_ns: when the probe came there, the peer's group time.
            t3_ns: when the echo left there, the peer's group time.
            t4_ns: when the echo came here, this host's stamp.
            is_settled: whether the peer said that its pulses are under way.
            now: monotonic seconds.

        Returns:
            False if there was no such probe under way, or the stamps are absurd: nothing changed.
        """
        peer = self._peers.get(node)
        t1_ns = peer.nonces.pop(nonce, None) if peer is not None else None
        if peer is None or t1_ns is None:
            return False
        theta_ns = (t2_ns - t1_ns + t3_ns - t4_ns) // 2 - self.offset_ns
        round_trip_ns = t4_ns - t1_ns - (t3_ns - t2_ns)
        if abs(self.offset_ns + theta_ns) > OFFSET_NS_MAX or round_trip_ns < 0:
            return False
        peer.theta_ns = theta_ns
        peer.round_trip_ns = round_trip_ns
        peer.held_ns = t3_ns - t2_ns
        peer.is_settled = is_settled
        if is_settled and not self.is_settled:
            self._wait_for_quiet(has_settled=True)
        peer.tries = 0
        peer.next_probe_at = now + self._period()
        self._probe_at = min(self._probe_at, peer.next_probe_at)
        return True

    def probe_received(self, node: NodeId, now: float) -> None:
        """A peer probes, so it is up: if it has not echoed yet though there was time, probe it at once."""
        peer = self._peers.get(node)
        if peer is None or peer.theta_ns is not None or not 0 < peer.tries < PROBE_TRIES_MAX:
            return
        if now - peer.probed_at >= PROBE_RETRY_S:
            peer.next_probe_at = now
            self._probe_at = min(self._probe_at, now)

    def sample_taken(self, node: NodeId, raw_ms: float) -> None:
        """Renew the theta of a peer by the last raw latency (this host's group time less the peer's, ms) of a pulse: it has settled."""
        peer = self._peers.get(node)
        if peer is None or peer.round_trip_ns is None:
            return
        theta_ns = peer.round_trip_ns // 2 - int(raw_ms * 1e6)
        if abs(self.offset_ns + theta_ns) <= OFFSET_NS_MAX:
            peer.theta_ns = theta_ns
            peer.is_settled = True
            if not self.is_settled:
                self._wait_for_quiet(has_settled=True)

    def is_check_due(self, now: float) -> bool:
        """Say whether the next `handle_timer` looks at the thetas, so that they should be renewed before."""
        return self.is_settled and self._check_at is not None and now >= self._check_at

    def round_trip_ms(self, node: NodeId) -> float | None:
        """Return the last probe's round trip without the time it spent at the peer, ms; None if there was none."""
        peer = self._peers.get(node)
        return None if peer is None or peer.round_trip_ns is None else peer.round_trip_ns / 1e6

    def held_ms(self, node: NodeId) -> float:
        """Return how long the peer says that it held the last probe, ms; 0.0 if there was none."""
        peer = self._peers.get(node)
        return 0.0 if peer is None else peer.held_ns / 1e6

    def clock_stepped(self, by_ns: int) -> None:
        """This host's clock was stepped: take it back out of group time, and let the others know."""
        self.clock_epoch = (self.clock_epoch + 1) & 0xFF
        self.offset_ns -= by_ns

    def handle_timer(self, now: float) -> int:
        """Settle or check, if it is time. Return by how many ns group time moved, mostly 0."""
        if not self.is_settled:
            return self._settle(now) if self._may_settle(now) else 0
        if self._check_at is None or now < self._check_at:
            return 0
        is_early = now < self._early_until
        self._check_at, self._check_by = now + (CHECK_PERIOD_EARLY_S if is_early else CHECK_PERIOD_S), None
        if now - self._moved_at < (CHECK_PERIOD_EARLY_S if is_early else REALIGN_GAP_S):
            return 0
        by_ns = self._median_ns()
        if abs(by_ns) <= REALIGN_NS:
            return 0
        self._moved_at = now
        self.clock_epoch = (self.clock_epoch + 1) & 0xFF
        return self._move(by_ns)

    def get_timer(self) -> float | None:
        """When to call `handle_timer` and `probes_due` next."""
        if not self._peers:
            return None
        if self.is_settled:
            return min(self._probe_at, self._check_at) if self._check_at is not None else self._probe_at
        settle_at = self._settle_by if self._settle_by is not None else float("inf")
        if self._has_all():
            settle_at = min(settle_at, self._quiet_at)
        return min(self._probe_at, settle_at)

    def _has_all(self) -> bool:
        return all(peer.theta_ns is not None for peer in self._peers.values())

    def _may_settle(self, now: float) -> bool:
        if not self._peers or self._settle_by is None:
            return False
        return now >= self._settle_by or (now >= self._quiet_at and self._has_all())

    def _settle(self, now: float) -> int:
        settled = sorted(peer.theta_ns for peer in self._peers.values() if peer.is_settled and peer.theta_ns is not None)
        by_ns = settled[(len(settled) - 1) // 2] if settled else self._median_ns()
        self.is_settled = True
        self._early_until = now + EARLY_S
        self._check_at = now + CHECK_SETTLED_S
        return self._move(by_ns)

    def _move(self, by_ns: int) -> int:
        self.offset_ns += by_ns
        for peer in self._peers.values():
            if peer.theta_ns is not None:
                peer.theta_ns -= by_ns
        return by_ns

    def _median_ns(self) -> int:
        """The weighted lower median of myself and all peers with a valid theta."""
        places = [0] * (SETTLED_WEIGHT if self.is_settled else 1)
        for peer in self._peers.values():
            if peer.theta_ns is not None:
                places += [peer.theta_ns] * (SETTLED_WEIGHT if peer.is_settled else 1)
        places.sort()
        return places[(len(places) - 1) // 2]

    def _period(self) -> float:
        return PROBE_PERIOD_S * self._rng.uniform(1 - PROBE_JITTER, 1 + PROBE_JITTER)
