"""Encrypted sessions with other routers: who has one, which keys to send with, which to accept, when to change them.

Handshake datagrams are in `handshake.py`, keys in `session_keys.py`, tables in `session_table.py`; this is the machine around them. The
data plane takes a `Session` from `current` or `by_index` and uses its keys itself; it never waits for anything here.

A data plane with tables of its own, a native one, follows along as an observer: see `SessionObserver` and `Sessions.observe`.

Theory of operation (after WireGuard, Donenfeld 2017, section 6, with the differences said here):

- One round trip. The initiator can send when RESPONSE arrives. The responder has the keys since INIT but sends with them only after a
  packet under them proved that the other side has them too (`confirm`); until then it goes on with the old session. So nothing
  is ever sealed with keys that the receiver lacks: a rekey under traffic loses no packet.
- The initiator sends CONFIRM at once, whether it has data or not, and repeats it until the responder was heard on the new session.
- A retransmitted INIT is the same bytes, and the responder answers the same bytes with the same RESPONSE without any key agreement:
  long round trips and duplicated datagrams need no second handshake.
- Both call at once: the INIT of the node with the lower NodeId counts. The other side gives up its own and answers. The winner does
  not answer, but sends its INIT again, to where the other's came from: that passes a NAT in front of the loser.
- Replay: a responder takes only INITs whose timestamp is above all it took from that peer. A node whose clock was set back keeps
  sending rising timestamps while it runs. A remembered timestamp more than `CLOCK_AHEAD_S` ahead of our own wall clock is not held
  against a peer that comes back with a smaller one: its clock was wrong and has been put right. A replayed INIT that slips through
  so never touches a session in use; it costs an answer.
- Floods: `admission.py` says when an INIT needs a cookie and whether its source may have another key agreement. An initiator that gets a
  COOKIE sends its INIT again at once, with mac2.
- Ways: a handshake may go several ways at once, the peer's address and ways over relays (`way.py`), always the same INIT. Two INITs
  without an answer are told as `HandshakeUnanswered`; the routing room then names a way over relays. A session made so has no address:
  its end keys are used, its link keys are not, until a CONFIRM came directly. Both sides send one to the peer's address whenever
  `connect` is called, which a data plane does as long as it misses the direct way. A rekey over relays keeps the address there was.
- Life: new keys after 120 s (by the initiator; the responder steps in at 150 s), not sent with after 165 s, not accepted after 180 s.
  A session that nothing was sent or received on is not renewed; it lapses. A peer that stays silent for two checks of 5 s while we
  send (it restarted, or is gone) gets a new handshake, and if it does not answer that either, the session is given up.

Invariants:
- `current(peer)`, if any, is known to the peer: RESPONSE or an authenticated packet under its keys was received.
- A peer has at most `SESSIONS_PER_PEER_MAX` sessions and one handshake of ours; all tables have named bounds.
- No counter of a `SealingKey` is used twice: keys are replaced at 2**31, far below any limit of AES-GCM with distinct nonces.
- Unauthenticated bytes never move an address, a window or a timer; nor do authentic ones that others overtook move an address.
- The keys of a removed session are gone from it; no `repr` and no error shows a key.
"""

from __future__ import annotations

import math
import random
from collections import Counter, deque
from collections.abc import Callable, Mapping

from cryptography.exceptions import InvalidTag

from srwan.errors import BadSignature, LocalProtocolError, RemoteProtocolError, StaleRecord
from srwan.identity import Identity
from srwan.overlay.admission import CookieJar, InitGate
from srwan.overlay.handshake import (
    CONFIRM_HEADER,
    SESSION_MAGIC,
    SESSION_PLANE,
    Handshaker,
    Hello,
    SessionDatagram,
    SessionSecrets,
    cookie_mac1,
    datagram_type,
    response_index,
)
from srwan.overlay.noise import Responder
from srwan.overlay.session_events import (
    HandshakeUnanswered,
    SessionEstablished,
    SessionEvent,
    SessionExpired,
    SessionFailed,
    SessionRekeyed,
)
from srwan.overlay.session_keys import (
    CHECK_S,
    CONFIRM_AGAIN_S,
    CONFIRM_AGAIN_S_MAX,
    KEY_LIFETIME_S,
    NONCE,
    SEND_LIFETIME_S,
    OpeningKey,
    SealingKey,
    Session,
    SessionObserver,
)
from srwan.overlay.session_table import COOKIES_MAX, HANDSHAKES_MAX, SESSIONS_MAX, Attempt, PeerEntry, SessionTable
from srwan.overlay.way import RelayedWay, Way
from srwan.types import NodeId, PeerMisbehaved, UdpAddress

__all__ = [
    "NONCE",
    "SESSIONS_MAX",
    "SESSION_PLANE",
    "HandshakeUnanswered",
    "OpeningKey",
    "SealingKey",
    "Session",
    "SessionEstablished",
    "SessionEvent",
    "SessionExpired",
    "SessionFailed",
    "SessionObserver",
    "SessionRekeyed",
    "Sessions",
]

RETRANSMIT_S = (0.25, 0.5, 1.0, 2.0, 1.5)
"""Waits after each INIT; after the last one the handshake has failed (5.25 s). Jittered by a tenth."""
REKEY_JITTER_S = 5.0
"""Spreads the rekeys of sessions that were made at once."""
REKEY_RETRY_S = 10.0
"""Between two attempts to change the keys of one session."""
COUNTER_REKEY = 1 << 31
"""Packets under one key before it is changed: half of 2**32, so that no one needs to count exactly."""
UNANSWERED_INITS = 2
"""After so many INITs without an answer (0.75 s) other ways are asked for: longer than nearly all round trips."""
PROBE_S = 0.9
"""Between two CONFIRMs that look for the direct way: data planes ask once a second."""
CLOCK_AHEAD_S = 60.0
"""A remembered timestamp further ahead of our wall clock than this came from a wrong clock."""
DATAGRAMS_MAX = 1024
"""Datagrams that wait to be taken by the shell; more are dropped."""
EVENTS_MAX = 1024
"""With this many events waiting, misbehaviour is counted but not reported."""


class Sessions:
    """All sessions of one node. A core: no clock, no socket.

    Call `datagrams_to_send` and `next_event` until empty after every other call; sleep until `get_timer`, then call `handle_timer`.

    Args:
        identity: this node's keys.
        rng: jitter; need not be secure.
        entropy: returns that many random bytes for ephemeral keys and indices; must be secure in production.
        is_allowed: says who may open sessions with us; others are dropped and counted.
    """

    def __init__(
        self,
        identity: Identity,
        rng: random.Random,
        *,
        entropy: Callable[[int], bytes],
        is_allowed: Callable[[NodeId], bool] = lambda _: True,
    ) -> None:
        self._node_id = identity.node_id
        self._handshaker = Handshaker(identity)
        self._rng = rng
        self._entropy = entropy
        self._is_allowed = is_allowed
        self._gate = InitGate()
        self._cookies = CookieJar(entropy)
        self._table = SessionTable()
        self._own_timestamp_ns = 0
        self._wall_minus_now_ns: int | None = None
        self._outbox: list[tuple[bytes, UdpAddress]] = []
        self._send_relayed: Callable[[bytes, RelayedWay], object] | None = None
        self._events: deque[SessionEvent] = deque()
        self._drops: Counter[str] = Counter()

    # -- what the data plane reads -----------------------------------------------------------------------------------------------------

    def current(self, peer: NodeId) -> Session | None:
        """Return the session to send with, or None. Cost: 0.1 us."""
        entry = self._table.peers.get(peer)
        return entry.current if entry else None

    def by_index(self, local_index: int) -> Session | None:
        """Return the session that a received packet names: current, previous, or not confirmed yet. Cost: 0.1 us."""
        return self._table.by_index.get(local_index)

    @property
    def drops(self) -> Mapping[str, int]:
        """Datagrams dropped since the start, by reason."""
        return self._drops

    def __len__(self) -> int:
        """Peers with a session or a handshake under way."""
        return len(self._table.peers)

    def observe(self, observer: SessionObserver) -> None:
        """Have `observer` told of every session from installation to removal; see `SessionObserver`.

        Raises:
            LocalProtocolError: there are sessions already, whose raw keys nobody has any more.
        """
        if self._table.by_index:
            raise LocalProtocolError("observe before the first session: raw keys are given out at installation only")
        self._table.observers.append(observer)

    def on_relayed(self, send: Callable[[bytes, RelayedWay], object]) -> None:
        """Have `send` take what goes over relays, at once and without raising; without it such datagrams are dropped and counted."""
        self._send_relayed = send

    # -- in ----------------------------------------------------------------------------------------------------------------------------

    def connect(self, peer: NodeId, way: Way, now: float) -> None:
        """Start a handshake, unless there is a session or a handshake under way, ours or the peer's.

        Ends with `SessionEstablished` or `SessionFailed`. If no wall time was given yet, INIT leaves at the next `handle_timer`, which
        is due at once. A handshake of ours under way goes this way as well from now on. A session over relays stays; if `way` is an
        address, the peer is called there directly, at most once in PROBE_S.

        Raises:
            LocalProtocolError: `peer` is this node.
        """
        if peer == self._node_id:
            raise LocalProtocolError("a node has no session with itself")
        entry = self._table.entry(peer)
        if entry is None:
            self._events.append(SessionFailed(peer, f"{SESSIONS_MAX} peers have sessions already"))
            return
        if entry.attempt:
            self._add_way(entry.attempt, way, now)
        elif entry.current:
            self._probe(entry.current, way, now)
        elif entry.courting_until() > now:
            entry.wanted = (way,)
        else:
            self._begin(entry, (way,), now)
        self._table.schedule(entry)

    def renew(self, peer: NodeId, now: float) -> None:
        """Ask for new keys because packets get no answer; the old ones stay in use until then. Without an answer the session is given up.

        For a data plane that knows sooner than the 10 to 15 s that it takes here that a peer lost its keys. Nothing happens if there is
        no session, or a handshake is under way.
        """
        entry = self._table.peers.get(peer)
        if entry is None or entry.current is None or entry.attempt or entry.courting_until() > now:
            return
        entry.is_silent = True
        entry.current.heard_before = entry.current.heard
        self._begin(entry, entry.current.ways, now)
        self._table.schedule(entry)

    def confirm(self, session: Session) -> None:
        """A packet under `session` opened, so the peer has its keys: send with it from now on. Cost: 0.1 us when confirmed already."""
        if session.is_confirmed:
            return
        session.is_confirmed = True
        entry = self._table.peers.get(session.peer)
        if entry is None or session not in entry.sessions:
            return
        if session is entry.sessions[-1]:
            entry.answer = b""
        if entry.current is None or entry.sessions.index(session) > entry.sessions.index(entry.current):
            self._adopt(entry, session)
        self._table.schedule(entry)

    def drop_peer(self, peer: NodeId) -> None:
        """Forget all keys shared with `peer` and any handshake under way, without an event. Unknown peers are fine."""
        entry = self._table.peers.get(peer)
        if entry is not None:
            self._table.forget(entry)

    def receive_datagram(self, data: bytes, source: Way, now: float, wall_ns: int) -> None:
        """Take in a datagram of plane 0x1. Never raises on what a peer sent: it is dropped, counted and reported.

        Args:
            data: as it came, from the socket or out of an SR packet.
            source: where from; a way over relays is the way back.
            now: monotonic seconds.
            wall_ns: wall time, ns.
        """
        self._set_wall(now, wall_ns)
        try:
            match datagram_type(data):
                case SessionDatagram.INIT:
                    self._receive_init(data, source, now)
                case SessionDatagram.RESPONSE:
                    self._receive_response(data, source, now)
                case SessionDatagram.COOKIE:
                    self._receive_cookie(data, source)
                case kind:
                    self._receive_confirm(kind, data, source)
        except RemoteProtocolError as error:
            self._misbehaved(None, source, error.reason)

    def handle_timer(self, now: float, wall_ns: int) -> None:
        """Do what is due: retransmit, give up, rekey, expire. Cost: 5 us for each peer that is due, 200 us for a new handshake."""
        self._set_wall(now, wall_ns)
        while (entry := self._table.pop_due(now)) is not None:
            self._serve(entry, now)

    # -- out ---------------------------------------------------------------------------------------------------------------------------

    def get_timer(self) -> float | None:
        """Return when `handle_timer` is due, monotonic seconds; None if never. Amortised cost: 0.2 us."""
        return self._table.next_due()

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, UdpAddress]]:  # noqa: ARG002 -- the interface of all cores
        """Return what is to be sent, and forget it."""
        outbox, self._outbox = self._outbox, []
        return outbox

    def next_event(self) -> SessionEvent | None:
        """Return the oldest event not returned yet, or None."""
        return self._events.popleft() if self._events else None

    # -- receiving ---------------------------------------------------------------------------------------------------------------------

    def _receive_init(self, data: bytes, source: Way, now: float) -> None:
        mac1 = self._handshaker.require_mac1(data)
        answered = self._table.answers.get(mac1)
        if answered is not None:
            self._answer_again(answered, source)
            return
        if self._gate.is_loaded(now):
            cookie = self._cookies.cookie_for(source, now)
            if not self._handshaker.has_mac2(data, cookie):
                self._drops["no-cookie"] += 1
                self._send(self._handshaker.give_cookie(mac1, cookie, self._entropy(12)), source)
                return
        is_known = isinstance(source, RelayedWay) or source in self._table.known_addresses(now)
        self._gate.admit(source, now, is_known=is_known)
        noise, hello = self._handshaker.read_init(data)
        peer = hello.node_id
        if peer == self._node_id or not self._is_allowed(peer):
            self._misbehaved(peer, source, "not-allowed")
            return
        if hello.timestamp_ns <= self._table.timestamp(peer) <= self._wall_ns(now) + int(CLOCK_AHEAD_S * 1e9):
            self._misbehaved(peer, source, "stale-init")
            return
        entry = self._table.entry(peer)
        if entry is None:
            self._misbehaved(peer, source, "sessions-full")
            return
        if entry.attempt and self._node_id < peer:
            self._drops["simultaneous"] += 1
            if entry.attempt.started:
                self._send(entry.attempt.init(source), source)
            return
        self._answer(entry, noise, hello, mac1, source, now)

    def _answer_again(self, entry: PeerEntry, source: Way) -> None:
        """An INIT came twice: retransmitted because RESPONSE was lost or is slow, or duplicated by the network."""
        if entry.answer:
            self._send(entry.answer, source)
        else:
            self._drops["duplicate-init"] += 1

    def _answer(self, entry: PeerEntry, noise: Responder, hello: Hello, mac1: bytes, source: Way, now: float) -> None:
        index = self._take_index()
        response, secret = self._handshaker.respond(noise, hello, index=index, ephemeral=self._entropy(32))
        self._table.set_timestamp(entry.node, hello.timestamp_ns)
        if entry.attempt:
            entry.wanted = tuple(entry.attempt.ways)
            self._table.end_attempt(entry)
        session = self._make_session(entry, source, (index, hello.index), secret, is_initiator=False, now=now)
        self._table.install(entry, session, secret)
        self._table.set_answer(entry, mac1, response)
        self._send(response, source)
        self._table.schedule(entry)

    def _receive_response(self, data: bytes, source: Way, now: float) -> None:
        entry = self._table.attempts.get(response_index(data))
        if entry is None or entry.attempt is None or entry.attempt.started is None:
            self._drops["late-response"] += 1  # a duplicate, or we gave way: nobody's fault
            return
        index, ways = entry.attempt.index, tuple(entry.attempt.ways)
        remote_index, secret = entry.attempt.started.read_response(data)
        self._table.end_attempt(entry)
        session = self._make_session(entry, source, (index, remote_index), secret, is_initiator=True, now=now)
        session.called = (source, *ways)
        session.rekey_at += self._rng.uniform(0.0, REKEY_JITTER_S)
        session.confirm_at = now + CONFIRM_AGAIN_S
        self._table.install(entry, session, secret)
        self._adopt(entry, session)
        self._confirm_everywhere(session)
        self._table.schedule(entry)

    def _make_session(
        self, entry: PeerEntry, source: Way, indices: tuple[int, int], secret: SessionSecrets, *, is_initiator: bool, now: float
    ) -> Session:
        """Make one whose peer was heard from `source`; if that is a way over relays, it keeps the address of the session it replaces."""
        if not isinstance(source, RelayedWay):
            return Session(entry.node, source, indices, secret, is_initiator=is_initiator, now=now)
        address = entry.current.address if entry.current else None
        session = Session(entry.node, address, indices, secret, is_initiator=is_initiator, now=now)
        session.way = source
        return session

    def _receive_cookie(self, data: bytes, source: Way) -> None:
        entry = self._table.inits.get(cookie_mac1(data))
        attempt = entry.attempt if entry else None
        if attempt is None or attempt.started is None:
            self._drops["late-response"] += 1
            return
        cookie = attempt.started.read_cookie(data)
        ways = [way for way in attempt.ways if way == source] or [way for way in attempt.ways if isinstance(way, tuple)]
        for way in ways:
            if attempt.ways[way] != cookie and attempt.cookies < COOKIES_MAX:
                attempt.cookies += 1
                attempt.ways[way] = cookie
                self._send(attempt.init(way), way)

    def _receive_confirm(self, kind: SessionDatagram, data: bytes, source: Way) -> None:
        _, _, _, index, counter = CONFIRM_HEADER.unpack_from(data)
        session = self._table.by_index.get(index)
        if session is None:
            self._drops["unknown-index"] += 1  # a session just forgotten: nobody's fault
            return
        if not session.link_open.window.is_fresh(counter):
            raise StaleRecord(f"replayed {kind.name}", reason="replay")
        try:
            session.link_open.cipher.decrypt(NONCE.pack(counter), data[CONFIRM_HEADER.size :], data[: CONFIRM_HEADER.size])
        except InvalidTag:
            raise BadSignature(f"{kind.name} does not open", reason="mac") from None
        session.link_open.window.accept(counter)
        if not isinstance(source, RelayedWay):
            session.moved_to(source, counter)
        elif counter == session.link_open.window.highest:
            session.way = source
        if kind is SessionDatagram.CONFIRM:
            self.confirm(session)
            self._send_confirm(session, SessionDatagram.CONFIRMED, source)
        else:
            session.confirm_at = math.inf

    # -- time --------------------------------------------------------------------------------------------------------------------------

    def _serve(self, entry: PeerEntry, now: float) -> None:
        """Do all that is due for one peer, in this order: keys die, the handshake under way goes on, a new one starts."""
        self._expire(entry, now)
        if entry.attempt and entry.attempt.due <= now:
            self._transmit_init(entry, entry.attempt, now)
        if entry.current:
            self._tend(entry, entry.current, now)
        if entry.wanted and not entry.attempt and entry.courting_until() <= now:
            ways, entry.wanted = entry.wanted, ()
            if entry.current is None:
                self._begin(entry, ways, now)
        self._table.schedule(entry)

    def _expire(self, entry: PeerEntry, now: float) -> None:
        if entry.current and entry.current.born_s + SEND_LIFETIME_S <= now:
            self._table.set_current(entry, None)
            if entry.attempt is None:
                self._events.append(SessionExpired(entry.node))
        for session in [s for s in entry.sessions if s.born_s + KEY_LIFETIME_S <= now]:
            self._table.remove(entry, session)

    def _tend(self, entry: PeerEntry, session: Session, now: float) -> None:
        """Look after the current session: repeat CONFIRM, notice silence, rekey."""
        if session.confirm_at <= now:
            self._confirm_again(session, now)
        if session.check_at <= now:
            self._check_silence(entry, session, now)
        is_worn = max(session.link_seal.counter, session.end_seal.counter) >= COUNTER_REKEY
        is_due = is_worn or entry.is_silent or session.rekey_at <= now
        if not is_due or entry.attempt or entry.retry_at > now:
            return
        if (session.is_used or entry.is_silent) and entry.courting_until() <= now:
            self._begin(entry, session.ways, now)
        else:
            entry.retry_at = now + REKEY_RETRY_S

    def _confirm_again(self, session: Session, now: float) -> None:
        if session.is_heard:
            session.confirm_at = math.inf
            return
        self._confirm_everywhere(session)
        session.confirm_wait_s = min(2 * session.confirm_wait_s, CONFIRM_AGAIN_S_MAX)
        session.confirm_at = now + session.confirm_wait_s * self._jitter()

    @staticmethod
    def _check_silence(entry: PeerEntry, session: Session, now: float) -> None:
        session.check_at = now + CHECK_S
        if session.heard > session.heard_before:
            session.silent_checks = 0
            entry.is_silent = False
        elif session.sent > session.sent_before or session.silent_checks:
            session.silent_checks += 1
        session.sent_before, session.heard_before = session.sent, session.heard
        if session.silent_checks >= 2:
            session.silent_checks = 0
            entry.is_silent = True

    # -- handshakes of ours ------------------------------------------------------------------------------------------------------------

    def _begin(self, entry: PeerEntry, ways: tuple[Way, ...], now: float) -> None:
        entry.retry_at = now + REKEY_RETRY_S
        entry.wanted = ()
        if len(self._table.attempts) >= HANDSHAKES_MAX:
            self._give_up(entry, f"{HANDSHAKES_MAX} handshakes are under way")
            return
        attempt = Attempt(ways, self._take_index(), now)
        self._table.start_attempt(entry, attempt)
        if self._wall_minus_now_ns is not None:
            self._transmit_init(entry, attempt, now)

    def _transmit_init(self, entry: PeerEntry, attempt: Attempt, now: float) -> None:
        if attempt.sent >= len(RETRANSMIT_S):
            self._give_up(entry, "no answer to the handshake")
            return
        if attempt.started is None:
            timestamp_ns = self._own_timestamp_ns = max(self._own_timestamp_ns + 1, self._wall_ns(now))
            try:
                started = self._handshaker.start(entry.node, index=attempt.index, timestamp_ns=timestamp_ns, ephemeral=self._entropy(32))
            except BadSignature:
                self._give_up(entry, "its id is no usable public key")
                return
            self._table.set_started(entry, attempt, started)
        for way in attempt.ways:
            self._send(attempt.init(way), way)
        if attempt.sent == UNANSWERED_INITS:
            self._events.append(HandshakeUnanswered(entry.node))
        attempt.due = now + RETRANSMIT_S[attempt.sent] * self._jitter()
        attempt.sent += 1

    def _give_up(self, entry: PeerEntry, problem: str) -> None:
        """End the attempt. A session that still hears the peer stays in use; a silent one is not sent with any more.

        Keys that the peer may still send with, the silent ones and its unconfirmed ones, are accepted until they expire.
        """
        self._table.end_attempt(entry)
        is_silent, entry.is_silent = entry.is_silent, False
        if entry.current and (not is_silent or entry.current.heard > entry.current.heard_before):
            return
        self._table.set_current(entry, None)
        self._events.append(SessionFailed(entry.node, problem))

    # -- small things ------------------------------------------------------------------------------------------------------------------

    def _adopt(self, entry: PeerEntry, session: Session) -> None:
        """Make a session whose keys the peer has the current one."""
        had_one = entry.current is not None
        self._table.set_current(entry, session)
        entry.wanted = ()
        entry.is_silent = False
        self._table.end_attempt(entry)
        if had_one:
            self._events.append(SessionRekeyed(entry.node))
        else:
            self._events.append(SessionEstablished(entry.node, session.local_index, session.is_initiator, session.address))

    def _take_index(self) -> int:
        return self._table.free_index(int.from_bytes(self._entropy(4), "little"))

    def _set_wall(self, now: float, wall_ns: int) -> None:
        self._wall_minus_now_ns = wall_ns - int(now * 1e9)

    def _wall_ns(self, now: float) -> int:
        assert self._wall_minus_now_ns is not None, "used before the first wall time"
        return int(now * 1e9) + self._wall_minus_now_ns

    def _jitter(self) -> float:
        return self._rng.uniform(0.9, 1.1)

    def _confirm_everywhere(self, session: Session) -> None:
        """To where RESPONSE came from and to where INIT went: somebody may have copied RESPONSE to us from elsewhere, and been quicker."""
        for way in dict.fromkeys((*session.ways, *session.called)):
            self._send_confirm(session, SessionDatagram.CONFIRM, way)

    def _probe(self, session: Session, way: Way, now: float) -> None:
        """Find out whether the peer of a session over relays can be reached directly: CONFIRMED will come if so, and set the address."""
        if session.address is None and not isinstance(way, RelayedWay) and now - session.probed_s >= PROBE_S:
            session.probed_s = now
            self._send_confirm(session, SessionDatagram.CONFIRM, way)

    def _add_way(self, attempt: Attempt, way: Way, now: float) -> None:
        """Send the INIT this way at once, and again soon: the relay may first have to call the peer itself."""
        if attempt.add(way) and attempt.started:
            self._send(attempt.init(way), way)
            attempt.due = min(attempt.due, now + RETRANSMIT_S[0])

    def _send_confirm(self, session: Session, kind: SessionDatagram, destination: Way) -> None:
        counter = session.link_seal.take_counter()
        session.upkeep_sent += 1
        header = CONFIRM_HEADER.pack(SESSION_MAGIC, kind, 0, session.remote_index, counter)
        self._send(header + session.link_seal.cipher.encrypt(NONCE.pack(counter), b"", header), destination)

    def _send(self, data: bytes, destination: Way) -> None:
        if isinstance(destination, RelayedWay):
            if self._send_relayed is None:
                self._drops["no-relayed"] += 1
            else:
                self._send_relayed(data, destination)
            return
        if len(self._outbox) >= DATAGRAMS_MAX:
            self._drops["outbox-full"] += 1
            return
        self._outbox.append((data, destination))

    def _misbehaved(self, peer: NodeId | None, source: Way, reason: str) -> None:
        self._drops[reason] += 1
        if len(self._events) < EVENTS_MAX:
            self._events.append(PeerMisbehaved(peer, None if isinstance(source, RelayedWay) else source, reason))
