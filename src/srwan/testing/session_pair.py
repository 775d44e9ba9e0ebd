"""Two parties with sessions and the wires between them, in virtual time; after the `Pair.step()/drive()` harness of quinn.

`SessionPair` moves datagrams through a `Weather` that loses, delays, duplicates and reorders them, calls timers when they are due, and
notes what happened. A `SessionParty` also plays the data plane: it seals small packets with the current session and opens what comes
with whatever session the packet names. Everything follows from the seeds.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable

from cryptography.exceptions import InvalidTag

from srwan.identity import Identity
from srwan.overlay.handshake import datagram_type
from srwan.overlay.session import NONCE, Session, SessionEvent, Sessions
from srwan.types import NodeId, UdpAddress

__all__ = ["HIGH", "LOW", "WALL_0_NS", "SessionPair", "SessionParty", "Weather"]

WALL_0_NS = 1_800_000_000_000_000_000
"""Wall time at monotonic time 0: some day in 2027."""
LOW, HIGH = sorted((Identity(bytes([1]) * 32), Identity(bytes([2]) * 32)), key=lambda identity: identity.node_id)
"""Two identities, by rising NodeId."""
_DATA_BELOW = 0x10  # first byte of the data packets of this harness; session datagrams have 0x11


class SessionParty:
    """A node's sessions, and what it did with them.

    Args:
        identity: its keys.
        address: where it is.
        seed: of its randomness.
        is_allowed: as for `Sessions`.
    """

    def __init__(self, identity: Identity, address: UdpAddress, seed: int, is_allowed: Callable[[NodeId], bool] = lambda _: True) -> None:
        rng = random.Random(seed)
        self.node = identity.node_id
        self.address = address
        self.sessions = Sessions(identity, rng, entropy=rng.randbytes, is_allowed=is_allowed)
        self.events: list[SessionEvent] = []
        self.received: set[bytes] = set()
        """Bodies of data packets that opened."""
        self.unopened = 0
        """Data packets that named no session."""
        self.wall_step_ns = 0
        """How much its wall clock is off."""

    def seal(self, peer: NodeId, body: bytes) -> bytes | None:
        """Return a data packet: index, counter, body sealed with the link key or the end key by turns; None without a session."""
        session = self.sessions.current(peer)
        if session is None:
            return None
        which = len(body) % 2
        key = (session.link_seal, session.end_seal)[which]
        nonce = NONCE.pack(key.take_counter())
        return bytes([which]) + session.remote_index.to_bytes(4, "big") + nonce + key.cipher.encrypt(nonce, body, None)

    def open(self, packet: bytes, source: UdpAddress) -> None:
        """Take in a data packet, as a data plane would."""
        session = self.sessions.by_index(int.from_bytes(packet[1:5], "big"))
        if session is None:
            self.unopened += 1
            return
        key = (session.link_open, session.end_open)[packet[0]]
        counter = NONCE.unpack(packet[5:17])[0]
        if not key.window.is_fresh(counter):
            return
        body = key.cipher.decrypt(packet[5:17], packet[17:], None)
        key.window.accept(counter)
        if not packet[0]:  # under the link key: a packet under the end key may come over relays
            session.moved_to(source, counter)
        self.sessions.confirm(session)
        self.received.add(body)


class Weather:
    """What the wire does to datagrams.

    Args:
        seed: of its randomness.
        delay_s: what every datagram takes, s.
        jitter_s: at most so much more, s; more than the time between two datagrams reorders them.
        loss: share that is lost, 0..1.
        duplicates: share of the rest that arrives twice, 0..1.
    """

    def __init__(self, seed: int = 0, *, delay_s: float = 0.05, jitter_s: float = 0.0, loss: float = 0.0, duplicates: float = 0.0) -> None:
        self.rng = random.Random(seed)
        self.delay_s, self.jitter_s, self.loss, self.duplicates = delay_s, jitter_s, loss, duplicates

    def copies(self) -> list[float]:
        """Return after which delays, s, the next datagram arrives; empty if it is lost."""
        count = 0 if self.rng.random() < self.loss else 2 if self.rng.random() < self.duplicates else 1
        return [self.delay_s + self.rng.uniform(0.0, self.jitter_s) for _ in range(count)]


class SessionPair:
    """Parties `a` and `b` and what is under way between them.

    Args:
        seed: of both parties.
        weather: of session datagrams.
        data_weather: of data packets; the same if None.
        is_swapped: `a` has the higher NodeId.
    """

    def __init__(
        self, seed: int = 0, weather: Weather | None = None, *, data_weather: Weather | None = None, is_swapped: bool = False
    ) -> None:
        first, second = (HIGH, LOW) if is_swapped else (LOW, HIGH)
        self.a = SessionParty(first, ("192.0.2.1", 1111), 2 * seed)
        self.b = SessionParty(second, ("192.0.2.2", 2222), 2 * seed + 1)
        self.weather = weather or Weather(seed)
        self.data_weather = data_weather or self.weather
        self.now = 1000.0
        self.sent: Counter[str] = Counter()
        """Session datagrams sent, by type."""
        self.wire: list[tuple[float, int, SessionParty, bytes, UdpAddress]] = []
        """What is under way: when it arrives, a serial number, where to, bytes, where from. A heap."""
        self._serial = 0
        for party in (self.a, self.b):
            party.sessions.handle_timer(self.now, self.wall_ns(party))

    def wall_ns(self, party: SessionParty) -> int:
        """Return the wall time of a party now, ns."""
        return WALL_0_NS + int(self.now * 1e9) + party.wall_step_ns

    def other(self, party: SessionParty) -> SessionParty:
        """Return its peer."""
        return self.b if party is self.a else self.a

    def session(self, party: SessionParty) -> Session:
        """Return the session that `party` sends with. Raises LookupError if there is none."""
        session = party.sessions.current(self.other(party).node)
        if session is None:
            raise LookupError(f"{party.address} has no session")
        return session

    def connect(self, party: SessionParty) -> None:
        """Have `party` call the other."""
        peer = self.other(party)
        party.sessions.connect(peer.node, peer.address, self.now)
        self.collect(party)

    def send(self, party: SessionParty, body: bytes) -> bool:
        """Send a data packet; return False if there is no session to send it with."""
        packet = party.seal(self.other(party).node, body)
        if packet is not None:
            self._transmit(party, packet, self.data_weather)
        return packet is not None

    def collect(self, party: SessionParty) -> None:
        """Put on the wire what `party` wants to send, and note its events."""
        for data, destination in party.sessions.datagrams_to_send(self.now):
            self.sent[datagram_type(data).name] += 1
            if destination == self.other(party).address:
                self._transmit(party, data, self.weather)
        while (event := party.sessions.next_event()) is not None:
            party.events.append(event)

    def step(self, until: float) -> bool:
        """Do the next thing that happens, if it happens by the time `until`; else move there and return False."""
        timers = [(timer, party) for party in (self.a, self.b) if (timer := party.sessions.get_timer()) is not None]
        when = min([timer for timer, _ in timers] + [entry[0] for entry in self.wire[:1]], default=until + 1)
        if when > until:
            self.now = max(self.now, until)
            return False
        self.now = max(self.now, when)
        if self.wire and self.wire[0][0] <= self.now:
            self._deliver()
            return True
        for timer, party in timers:
            if timer <= self.now:
                party.sessions.handle_timer(self.now, self.wall_ns(party))
                self.collect(party)
        return True

    def run(self, duration_s: float) -> None:
        """Let time pass."""
        until = self.now + duration_s
        while self.step(until):
            pass

    def run_until_on_the_wire(self, kind: int) -> bytes:
        """Let things happen until a session datagram of type `kind` is the next to arrive, and return it."""
        while not (self.wire and self.wire[0][3][1] == kind):
            if not self.step(self.now + 10):
                raise LookupError(f"no datagram of type {kind} within 10 s")
        return self.wire[0][3]

    def drive_data(self, duration_s: float, interval_s: float) -> int:
        """Have both send all the time; return how many packets were sent."""
        until, count = self.now + duration_s, 0
        while self.now < until:
            self.run(interval_s)
            for party in (self.a, self.b):
                count += self.send(party, f"{party.address} {count:06d}{'.' * (count % 2)}".encode())
        return count

    @property
    def is_matched(self) -> bool:
        """Both would send on the same session."""
        mine, theirs = self.a.sessions.current(self.b.node), self.b.sessions.current(self.a.node)
        if mine is None or theirs is None:
            return False
        return (mine.local_index, mine.remote_index) == (theirs.remote_index, theirs.local_index)

    def openers(self) -> list[list[int]]:
        """Return for each of the four sealing keys in use which of the four opening keys open it; [[0], [1], [2], [3]] is right."""
        mine, theirs = self.session(self.a), self.session(self.b)
        opens = [theirs.link_open, theirs.end_open, mine.link_open, mine.end_open]
        nonce = NONCE.pack(1 << 40)
        found: list[list[int]] = []
        for seal in (mine.link_seal, mine.end_seal, theirs.link_seal, theirs.end_seal):
            sealed = seal.cipher.encrypt(nonce, b"x", b"a")
            found.append([i for i, key in enumerate(opens) if _opens(key.cipher.decrypt, nonce, sealed)])
        return found

    def _transmit(self, party: SessionParty, data: bytes, weather: Weather) -> None:
        for delay_s in weather.copies():
            self._serial += 1
            heapq.heappush(self.wire, (self.now + delay_s, self._serial, self.other(party), data, party.address))

    def _deliver(self) -> None:
        _, _, party, data, source = heapq.heappop(self.wire)
        if data[0] < _DATA_BELOW:
            party.open(data, source)
        else:
            party.sessions.receive_datagram(data, source, self.now, self.wall_ns(party))
        self.collect(party)


def _opens(decrypt: Callable[[bytes, bytes, bytes | None], bytes], nonce: bytes, sealed: bytes) -> bool:
    try:
        return decrypt(nonce, sealed, b"a") == b"x"
    except InvalidTag:
        return False
