"""Who is in which state of making or using sessions: the bounded tables behind `session.py`.

Bookkeeping only, no decision of the protocol: peers, sessions by index, own handshakes by index and by mac1, answers given by the INIT
they answer, newest timestamps, and a heap of timers.

Invariants: every session in `by_index` is in its peer's list and the reverse; the same for attempts and answers. A peer's sessions are
ordered by birth. At most one live timer per peer; dead heap entries are skipped and leave when their time comes.
"""

from __future__ import annotations

import heapq
import math

from srwan.overlay.handshake import SessionSecrets, StartedHandshake
from srwan.overlay.session_keys import KEY_LIFETIME_S, SEND_LIFETIME_S, Session, SessionObserver
from srwan.overlay.way import Way
from srwan.types import NodeId, UdpAddress

__all__ = ["Attempt", "PeerEntry", "SessionTable"]

SESSIONS_MAX = 1024
"""Peers with state: a group has up to 100 members, the rest is egresses of other groups and churn."""
SESSIONS_PER_PEER_MAX = 4
"""Current and previous keys, and two handshakes of the peer's that it has not confirmed yet."""
HANDSHAKES_MAX = 256
"""Own handshakes under way at once; each holds 1 kB and costs 0.24 ms to start."""
UNCONFIRMED_S = 6.0
"""How long a peer's unconfirmed handshake counts as under way: as long as it would go on retransmitting."""
TIMESTAMPS_MAX = 4096
"""Peers whose newest INIT timestamp is remembered, also when they have no session; 200 B each."""
KNOWN_REFRESH_S = 1.0
WAYS_MAX = 4
"""Ways one handshake goes at once: an address, a new one, two over relays."""
COOKIES_MAX = 8
"""Cookies taken during one handshake: each makes us send an INIT."""


class Attempt:
    """A handshake of ours under way."""

    __slots__ = ("cookies", "due", "index", "sent", "started", "ways")

    def __init__(self, ways: tuple[Way, ...], index: int, now: float) -> None:
        self.ways: dict[Way, bytes] = dict.fromkeys(ways, b"")  # with the cookie that holds there, if any
        self.index = index
        self.cookies = 0
        self.started: StartedHandshake | None = None  # None until the wall time is known
        self.sent = 0
        self.due = now

    def add(self, way: Way) -> bool:
        """Let the handshake go this way as well; return False if it does already, or goes WAYS_MAX ways."""
        if way in self.ways or len(self.ways) >= WAYS_MAX:
            return False
        self.ways[way] = b""
        return True

    def init(self, way: Way) -> bytes:
        """Return the INIT as it goes this way. Only once started."""
        assert self.started is not None, "not started"
        return self.started.datagram(self.ways.get(way, b""))


class PeerEntry:
    """All that is held of one peer."""

    __slots__ = ("answer", "answered_mac1", "attempt", "current", "is_silent", "node", "retry_at", "sessions", "timer", "wanted")

    def __init__(self, node: NodeId) -> None:
        self.node = node
        self.sessions: list[Session] = []  # oldest first
        self.current: Session | None = None
        self.attempt: Attempt | None = None
        self.answered_mac1 = b""
        self.answer = b""  # the RESPONSE to the INIT with that mac1; empty once the peer confirmed
        self.wanted: tuple[Way, ...] = ()  # connect was called while the peer's own handshake was under way
        self.is_silent = False
        self.retry_at = -math.inf
        self.timer = math.inf

    def courting_until(self) -> float:
        """Until when an unconfirmed handshake of the peer's counts as under way; -inf if there is none."""
        return max((s.born_s + UNCONFIRMED_S for s in self.sessions if not s.is_confirmed), default=-math.inf)

    def due(self) -> float:
        """When there is something to do next, monotonic seconds; inf if never, which means the entry is empty."""
        times = [self.attempt.due] if self.attempt else []
        for session in self.sessions:
            is_current = session is self.current
            times.append(session.born_s + (SEND_LIFETIME_S if is_current else KEY_LIFETIME_S))
            if is_current:
                times += (session.check_at, session.confirm_at)
                if not self.attempt:
                    times.append(max(session.rekey_at, self.retry_at))
        if self.wanted and not self.attempt:
            times.append(self.courting_until())
        return min(times, default=math.inf)


class SessionTable:
    """The tables of one node."""

    __slots__ = (
        "_known",
        "_known_at",
        "_serial",
        "_timers",
        "_timestamps",
        "answers",
        "attempts",
        "by_index",
        "inits",
        "observers",
        "peers",
    )

    def __init__(self) -> None:
        self.peers: dict[NodeId, PeerEntry] = {}
        self.by_index: dict[int, Session] = {}
        self.attempts: dict[int, PeerEntry] = {}
        self.inits: dict[bytes, PeerEntry] = {}
        self.answers: dict[bytes, PeerEntry] = {}
        self.observers: list[SessionObserver] = []
        self._timestamps: dict[NodeId, int] = {}
        self._timers: list[tuple[float, int, PeerEntry]] = []
        self._serial = 0
        self._known: frozenset[UdpAddress] = frozenset()
        self._known_at = -math.inf

    def entry(self, node: NodeId) -> PeerEntry | None:
        """Return the entry of a peer, a new one if needed; None if SESSIONS_MAX are held."""
        entry = self.peers.get(node)
        if entry is None and len(self.peers) < SESSIONS_MAX:
            entry = self.peers[node] = PeerEntry(node)
        return entry

    def free_index(self, wanted: int) -> int:
        """Return `wanted` or the next index that no session and no attempt has."""
        while wanted in self.by_index or wanted in self.attempts:  # ends: the tables hold a few thousand of 2**32
            wanted = (wanted + 1) & 0xFFFFFFFF
        return wanted

    def start_attempt(self, entry: PeerEntry, attempt: Attempt) -> None:
        """Enter a handshake of ours."""
        entry.attempt = attempt
        self.attempts[attempt.index] = entry

    def set_started(self, entry: PeerEntry, attempt: Attempt, started: StartedHandshake) -> None:
        """Enter the INIT of a handshake of ours."""
        attempt.started = started
        self.inits[started.mac1] = entry

    def end_attempt(self, entry: PeerEntry) -> None:
        """Forget our handshake with this peer, if there is one."""
        if entry.attempt:
            if entry.attempt.started:
                del self.inits[entry.attempt.started.mac1]
            del self.attempts[entry.attempt.index]
            entry.attempt = None

    def install(self, entry: PeerEntry, session: Session, secrets: SessionSecrets) -> None:
        """Enter a new session; when there are too many, the oldest unconfirmed one goes, or the oldest if only two are unconfirmed.

        That is never the current one: it is the youngest that is confirmed.
        """
        entry.sessions.append(session)
        self.by_index[session.local_index] = session
        session.observers, session.siblings = self.observers, entry.sessions
        for observer in self.observers:
            observer.session_installed(session, secrets)
        while len(entry.sessions) > SESSIONS_PER_PEER_MAX:
            unconfirmed = [s for s in entry.sessions if not s.is_confirmed]
            self.remove(entry, unconfirmed[0] if len(unconfirmed) > 2 else entry.sessions[0])

    def set_current(self, entry: PeerEntry, session: Session | None) -> None:
        """Say which of a peer's sessions is sent with."""
        if entry.current is not session:
            entry.current = session
            for observer in self.observers:
                observer.current_changed(entry.node, session)

    def remove(self, entry: PeerEntry, session: Session) -> None:
        """Forget one session and its keys."""
        if session is entry.current:
            self.set_current(entry, None)
        entry.sessions.remove(session)
        del self.by_index[session.local_index]
        for observer in self.observers:
            observer.session_removed(session)
        session.close()

    def set_answer(self, entry: PeerEntry, mac1: bytes, answer: bytes) -> None:
        """Remember how the peer's newest INIT was answered; the one before is forgotten."""
        self._forget_answer(entry)
        entry.answered_mac1, entry.answer = mac1, answer
        self.answers[mac1] = entry

    def forget(self, entry: PeerEntry) -> None:
        """Forget all of a peer but its timestamp."""
        self.end_attempt(entry)
        self._forget_answer(entry)
        self.set_current(entry, None)
        for session in tuple(entry.sessions):
            self.remove(entry, session)
        entry.wanted = ()
        entry.timer = math.inf
        del self.peers[entry.node]

    def timestamp(self, node: NodeId) -> int:
        """Return the newest INIT timestamp taken from `node`, wall ns; -1 if none is remembered."""
        return self._timestamps.get(node, -1)

    def set_timestamp(self, node: NodeId, timestamp_ns: int) -> None:
        """Remember it; the one set longest ago is forgotten when there are too many."""
        self._timestamps.pop(node, None)
        if len(self._timestamps) >= TIMESTAMPS_MAX:
            del self._timestamps[next(iter(self._timestamps))]
        self._timestamps[node] = timestamp_ns

    def known_addresses(self, now: float) -> frozenset[UdpAddress]:
        """Return where sessions live, as of at most KNOWN_REFRESH_S ago."""
        if now - self._known_at >= KNOWN_REFRESH_S:
            self._known = frozenset(e.current.address for e in self.peers.values() if e.current and e.current.address)
            self._known_at = now
        return self._known

    def schedule(self, entry: PeerEntry) -> None:
        """Set the peer's timer to when it is due; forget a peer of which nothing is left."""
        if self.peers.get(entry.node) is not entry:
            return
        due = entry.due()
        if due == math.inf:
            self.forget(entry)
        elif due != entry.timer:
            entry.timer = due
            self._serial += 1
            heapq.heappush(self._timers, (due, self._serial, entry))

    def next_due(self) -> float | None:
        """Return the earliest timer, monotonic seconds. Amortised cost: 0.2 us."""
        timers = self._timers
        while timers and timers[0][2].timer != timers[0][0]:
            heapq.heappop(timers)
        return timers[0][0] if timers else None

    def pop_due(self, now: float) -> PeerEntry | None:
        """Return a peer whose timer is up and stop that timer; None if there is none."""
        due = self.next_due()
        if due is None or due > now:
            return None
        entry = heapq.heappop(self._timers)[2]
        entry.timer = math.inf
        return entry

    def _forget_answer(self, entry: PeerEntry) -> None:
        if entry.answered_mac1:
            del self.answers[entry.answered_mac1]
            entry.answered_mac1 = entry.answer = b""
