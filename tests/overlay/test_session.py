"""Two parties in virtual time over a network that loses, delays, duplicates and reorders; and single parties under attack."""

from __future__ import annotations

import hashlib
import heapq
import math
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidTag
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from srwan.errors import BadSignature, DecodeError, LocalProtocolError, RemoteProtocolError
from srwan.identity import Identity, x25519_public_key
from srwan.overlay import session_table
from srwan.overlay.admission import ALL_BURST, PER_SOURCE_BURST, SOURCES_MAX, RequestLimiter, TokenBucket
from srwan.overlay.handshake import CONFIRM_BYTES, INIT_BYTES, RESPONSE_BYTES, Handshaker, datagram_type
from srwan.overlay.session import (
    NONCE,
    SealingKey,
    Session,
    SessionEstablished,
    SessionExpired,
    SessionFailed,
    SessionRekeyed,
    Sessions,
)
from srwan.types import NodeId, PeerMisbehaved, UdpAddress

GOLDEN = Path(__file__).parent.parent / "data"
WALL_0_NS = 1_800_000_000_000_000_000
LOW, HIGH = sorted((Identity(bytes([1]) * 32), Identity(bytes([2]) * 32)), key=lambda identity: identity.node_id)


class Party:
    """A node's sessions, and what it did with them."""

    def __init__(self, identity: Identity, address: UdpAddress, seed: int, **options: Callable[[NodeId], bool]) -> None:
        rng = random.Random(seed)
        self.node = identity.node_id
        self.address = address
        self.sessions = Sessions(identity, rng, entropy=rng.randbytes, **options)
        self.events: list[object] = []
        self.received: set[bytes] = set()
        self.unopened = 0
        self.wall_step_ns = 0

    def seal(self, peer: NodeId, body: bytes) -> bytes | None:
        """A stand-in for the data plane: index, counter, sealed body; by turns with the link key and the end key."""
        session = self.sessions.current(peer)
        if session is None:
            return None
        which = len(body) % 2
        key = (session.link_seal, session.end_seal)[which]
        counter = key.take_counter()
        return (
            bytes([which])
            + session.remote_index.to_bytes(4, "big")
            + NONCE.pack(counter)
            + key.cipher.encrypt(NONCE.pack(counter), body, None)
        )

    def open(self, packet: bytes, source: UdpAddress) -> None:
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
        session.moved_to(source)
        self.sessions.confirm(session)
        self.received.add(body)


class Network:
    """What the wire does to a datagram: `copies` says after which delays, in seconds, it arrives."""

    def __init__(self, seed: int = 0, *, delay_s: float = 0.05, jitter_s: float = 0.0, loss: float = 0.0, duplicates: float = 0.0) -> None:
        self.rng = random.Random(seed)
        self.delay_s, self.jitter_s, self.loss, self.duplicates = delay_s, jitter_s, loss, duplicates

    def copies(self) -> list[float]:
        count = 0 if self.rng.random() < self.loss else 2 if self.rng.random() < self.duplicates else 1
        return [self.delay_s + self.rng.uniform(0.0, self.jitter_s) for _ in range(count)]


class Pair:
    """Two parties and the wires between them, in virtual time. Data packets (first byte below 0x10) may have a network of their own."""

    def __init__(
        self, seed: int = 0, network: Network | None = None, *, data_network: Network | None = None, is_swapped: bool = False
    ) -> None:
        first, second = (HIGH, LOW) if is_swapped else (LOW, HIGH)
        self.a = Party(first, ("192.0.2.1", 1111), 2 * seed)
        self.b = Party(second, ("192.0.2.2", 2222), 2 * seed + 1)
        self.network = network or Network(seed)
        self.data_network = data_network or self.network
        self.now = 1000.0
        self.sent: Counter[str] = Counter()
        self.wire: list[tuple[float, int, Party, bytes, UdpAddress]] = []
        self.serial = 0
        for party in (self.a, self.b):
            party.sessions.handle_timer(self.now, self.wall_ns(party))

    def wall_ns(self, party: Party) -> int:
        return WALL_0_NS + int(self.now * 1e9) + party.wall_step_ns

    def other(self, party: Party) -> Party:
        return self.b if party is self.a else self.a

    def connect(self, party: Party) -> None:
        peer = self.other(party)
        party.sessions.connect(peer.node, peer.address, self.now)
        self.collect(party)

    def send(self, party: Party, body: bytes) -> bool:
        """Send a data packet; False if there is no session to send it with."""
        packet = party.seal(self.other(party).node, body)
        if packet is not None:
            self.transmit(party, packet, self.data_network)
        return packet is not None

    def transmit(self, party: Party, data: bytes, network: Network) -> None:
        for delay_s in network.copies():
            self.serial += 1
            heapq.heappush(self.wire, (self.now + delay_s, self.serial, self.other(party), data, party.address))

    def collect(self, party: Party) -> None:
        for data, destination in party.sessions.datagrams_to_send(self.now):
            self.sent[datagram_type(data).name] += 1
            if destination == self.other(party).address:
                self.transmit(party, data, self.network)
        while (event := party.sessions.next_event()) is not None:
            party.events.append(event)

    def step(self, until: float) -> bool:
        """Do the next thing that happens, if it happens by `until`."""
        timers = [(timer, party) for party in (self.a, self.b) if (timer := party.sessions.get_timer()) is not None]
        when = min([timer for timer, _ in timers] + [entry[0] for entry in self.wire[:1]], default=until + 1)
        if when > until:
            self.now = max(self.now, until)
            return False
        self.now = max(self.now, when)
        if self.wire and self.wire[0][0] <= self.now:
            _, _, party, data, source = heapq.heappop(self.wire)
            if data[0] >= 0x10:
                party.sessions.receive_datagram(data, source, self.now, self.wall_ns(party))
            else:
                party.open(data, source)
            self.collect(party)
            return True
        for timer, party in timers:
            if timer <= self.now:
                party.sessions.handle_timer(self.now, self.wall_ns(party))
                self.collect(party)
        return True

    def run(self, duration_s: float) -> None:
        until = self.now + duration_s
        while self.step(until):
            pass

    def drive_data(self, duration_s: float, interval_s: float) -> int:
        """Both send all the time; return how many packets were sent."""
        until, count = self.now + duration_s, 0
        while self.now < until:
            self.run(interval_s)
            for party in (self.a, self.b):
                count += self.send(party, f"{party.address} {count:06d}{'.' * (count % 2)}".encode())
        return count

    @property
    def match(self) -> bool:
        """Both ends would send on the same session."""
        mine, theirs = self.a.sessions.current(self.b.node), self.b.sessions.current(self.a.node)
        return (
            mine is not None and theirs is not None and (mine.local_index, mine.remote_index) == (theirs.remote_index, theirs.local_index)
        )


def require_same_keys(pair: Pair) -> None:
    mine, theirs = pair.a.sessions.current(pair.b.node), pair.b.sessions.current(pair.a.node)
    assert mine is not None
    assert theirs is not None
    seals = [mine.link_seal, mine.end_seal, theirs.link_seal, theirs.end_seal]
    opens = [theirs.link_open, theirs.end_open, mine.link_open, mine.end_open]
    nonce = NONCE.pack(1 << 40)
    for i, seal in enumerate(seals):
        sealed = seal.cipher.encrypt(nonce, b"x", b"a")
        assert b"x" == opens[i].cipher.decrypt(nonce, sealed, b"a")
        for j, other in enumerate(opens):
            if i != j:
                with pytest.raises(InvalidTag):
                    other.cipher.decrypt(nonce, sealed, b"a")


# -- one handshake -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_swapped", [False, True])
def test_initiator_can_send_after_one_round_trip_and_responder_half_a_round_trip_later(is_swapped: bool) -> None:
    pair = Pair(is_swapped=is_swapped)
    pair.connect(pair.a)
    pair.run(0.101)
    assert pair.a.sessions.current(pair.b.node) is not None
    assert pair.b.sessions.current(pair.a.node) is None
    pair.run(0.05)
    require_same_keys(pair)
    assert {"INIT": 1, "RESPONSE": 1, "CONFIRM": 1, "CONFIRMED": 1} == pair.sent
    mine, theirs = pair.a.sessions.current(pair.b.node), pair.b.sessions.current(pair.a.node)
    assert mine is not None
    assert theirs is not None
    assert [SessionEstablished(pair.b.node, mine.local_index, True, pair.b.address)] == pair.a.events
    assert [SessionEstablished(pair.a.node, theirs.local_index, False, pair.a.address)] == pair.b.events


def test_data_packet_of_the_initiator_confirms_as_well() -> None:
    pair = Pair()
    pair.connect(pair.a)
    while not pair.a.sessions.current(pair.b.node):
        pair.step(2000)
    pair.wire.clear()
    assert pair.send(pair.a, b"first")
    pair.run(0.06)
    assert {b"first"} == pair.b.received
    assert pair.match


def test_connect_does_nothing_while_there_is_a_session_or_a_handshake_under_way() -> None:
    pair = Pair()
    for _ in range(3):
        pair.connect(pair.a)
    assert 1 == pair.sent["INIT"]
    pair.run(0.08)
    pair.connect(pair.b)  # it has answered an INIT just now
    pair.run(1)
    pair.connect(pair.a)
    pair.connect(pair.b)
    pair.run(1)
    assert 1 == pair.sent["INIT"]
    assert pair.match


def test_connect_before_any_wall_time_waits_for_the_timer() -> None:
    sessions = Sessions(LOW, random.Random(0))
    sessions.connect(HIGH.node_id, ("192.0.2.2", 1), 5.0)
    assert [] == sessions.datagrams_to_send(5.0)
    assert 5.0 == sessions.get_timer()
    sessions.handle_timer(5.0, WALL_0_NS)
    assert [INIT_BYTES] == [len(data) for data, _ in sessions.datagrams_to_send(5.0)]


def test_node_cannot_connect_to_itself() -> None:
    with pytest.raises(LocalProtocolError):
        Sessions(LOW, random.Random(0)).connect(LOW.node_id, ("192.0.2.2", 1), 0.0)


def test_unanswered_handshake_fails_after_five_inits_and_leaves_nothing() -> None:
    pair = Pair(network=Network(loss=1.0))
    pair.connect(pair.a)
    pair.run(4.5)
    assert [] == pair.a.events
    pair.run(2)
    assert [SessionFailed(pair.b.node, "no answer to the handshake")] == pair.a.events
    assert 5 == pair.sent["INIT"]
    assert 0 == len(pair.a.sessions)
    assert None is pair.a.sessions.get_timer()


def test_peer_with_an_unusable_key_fails_at_once() -> None:
    sessions = Sessions(LOW, random.Random(0))
    sessions.handle_timer(0.0, WALL_0_NS)
    sessions.connect(NodeId(bytes(32)), ("192.0.2.2", 1), 0.0)
    assert SessionFailed(NodeId(bytes(32)), "its id is no usable public key") == sessions.next_event()
    assert 0 == len(sessions)
    assert None is sessions.get_timer()


def test_round_trip_longer_than_the_retransmission_needs_no_second_key_agreement() -> None:
    pair = Pair(network=Network(delay_s=0.6))
    pair.connect(pair.a)
    pair.run(5)
    assert pair.match
    assert 3 == pair.sent["INIT"]
    assert 3 == pair.sent["RESPONSE"]  # the same bytes each time
    assert 1 == len([event for event in pair.b.events if isinstance(event, SessionEstablished)])
    assert {} == {reason: n for party in (pair.a, pair.b) for reason, n in party.sessions.drops.items() if reason != "late-response"}


def test_lost_confirm_is_repeated_until_answered() -> None:
    pair = Pair()
    pair.connect(pair.a)
    while not pair.a.sessions.current(pair.b.node):
        pair.step(2000)
    pair.wire.clear()  # the CONFIRM
    pair.run(0.4)
    assert pair.match
    confirms = pair.sent["CONFIRM"]
    assert 2 == confirms
    pair.run(30)
    assert confirms == pair.sent["CONFIRM"]


# -- simultaneous open ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_swapped", [False, True])
@pytest.mark.parametrize("lag_s", [0.0, 0.01, 0.04, 0.06, 0.09, 0.12])
def test_both_calling_at_once_end_with_one_session(lag_s: float, is_swapped: bool) -> None:
    pair = Pair(is_swapped=is_swapped)
    pair.connect(pair.a)
    pair.run(lag_s)
    pair.connect(pair.b)
    pair.run(1)
    require_same_keys(pair)
    for party in (pair.a, pair.b):
        assert [SessionEstablished] == [type(event) for event in party.events]
    assert 1 == len([e for party in (pair.a, pair.b) for e in party.events if isinstance(e, SessionEstablished) and e.is_initiator])


def test_winner_behind_whose_back_the_loser_sits_in_a_nat_reaches_it_through_the_address_it_calls_from() -> None:
    pair = Pair()  # a has the lower id and wins
    pair.a.sessions.connect(pair.b.node, ("198.51.100.9", 9), pair.now)  # where nobody listens
    pair.collect(pair.a)
    pair.connect(pair.b)
    pair.run(1)
    require_same_keys(pair)


# -- loss, duplication, reordering ---------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    loss=st.floats(0.0, 0.8),
    duplicates=st.floats(0.0, 0.5),
    jitter_s=st.floats(0.0, 1.0),
    delay_s=st.floats(0.001, 0.5),
    lag_s=st.floats(0.0, 1.0),
    is_mutual=st.booleans(),
    is_swapped=st.booleans(),
)
def test_any_network_that_delivers_now_and_then_ends_with_matching_keys(
    seed: int, loss: float, duplicates: float, jitter_s: float, delay_s: float, lag_s: float, is_mutual: bool, is_swapped: bool
) -> None:
    network = Network(seed, delay_s=delay_s, jitter_s=jitter_s, loss=loss, duplicates=duplicates)
    pair = Pair(seed, network, is_swapped=is_swapped)
    for _ in range(100):
        pair.connect(pair.a)
        pair.run(lag_s)
        if is_mutual:
            pair.connect(pair.b)
        pair.run(6)
        if pair.match:
            break
    assert pair.match
    require_same_keys(pair)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    loss=st.floats(0.0, 0.7),
    duplicates=st.floats(0.0, 0.3),
    jitter_s=st.floats(0.0, 0.5),
    is_swapped=st.booleans(),
)
def test_no_data_packet_is_lost_at_rekeys_however_badly_the_handshakes_fare(
    seed: int, loss: float, duplicates: float, jitter_s: float, is_swapped: bool
) -> None:
    handshakes = Network(seed, loss=loss, duplicates=duplicates, jitter_s=jitter_s)
    data = Network(seed + 1, delay_s=0.02, jitter_s=0.4, duplicates=duplicates)
    pair = Pair(seed, handshakes, data_network=data, is_swapped=is_swapped)
    for _ in range(100):
        pair.connect(pair.a)
        pair.run(6)
        if pair.match:
            break
    sent = pair.drive_data(420, 0.5)
    pair.run(3)
    assert sent > 600
    assert sent == len(pair.a.received) + len(pair.b.received)
    assert 0 == pair.a.unopened + pair.b.unopened


def test_continuous_traffic_survives_ten_rekeys_without_a_loss_or_a_gap() -> None:
    pair = Pair(data_network=Network(delay_s=0.03, jitter_s=0.2))
    pair.connect(pair.a)
    pair.run(1)
    sent = pair.drive_data(1300, 0.25)
    pair.run(1)
    assert 2 * 1300 * 4 == sent  # there was a session to send with at any time
    assert sent == len(pair.a.received) + len(pair.b.received)
    assert 0 == pair.a.unopened + pair.b.unopened
    for party in (pair.a, pair.b):
        kinds = Counter(type(event) for event in party.events)
        assert {SessionEstablished: 1, SessionRekeyed: 10} == kinds
    assert 11 == pair.sent["INIT"]


class TwoParties(RuleBasedStateMachine):
    """Any order of calls, cuts, crashes and data; whatever happens, what was sealed with a current key opens at a peer that still lives."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair(network=Network(delay_s=0.05, jitter_s=0.2), data_network=Network(delay_s=0.05, jitter_s=0.2))
        self.bodies = 0
        self.crashes = 0

    @rule(is_a=st.booleans())
    def connect(self, is_a: bool) -> None:
        self.pair.connect(self.pair.a if is_a else self.pair.b)

    @rule(is_a=st.booleans())
    def renew(self, is_a: bool) -> None:
        party = self.pair.a if is_a else self.pair.b
        party.sessions.renew(self.pair.other(party).node, self.pair.now)
        self.pair.collect(party)

    @rule(duration_s=st.sampled_from([0.01, 0.1, 1.0, 7.0, 40.0, 130.0, 400.0]))
    def wait(self, duration_s: float) -> None:
        self.pair.run(duration_s)

    @rule(loss=st.sampled_from([0.0, 0.0, 0.5, 1.0]))
    def weather(self, loss: float) -> None:
        self.pair.network.loss = loss

    @rule(is_a=st.booleans())
    def send(self, is_a: bool) -> None:
        party = self.pair.a if is_a else self.pair.b
        self.bodies += self.pair.send(party, b"%d" % self.bodies)

    @precondition(lambda self: self.crashes < 2)
    @rule(is_a=st.booleans())
    def crash(self, is_a: bool) -> None:
        pair = self.pair
        pair.run(1)  # nothing in flight
        self.crashes += 1
        fresh = Party(LOW if is_a else HIGH, (pair.a if is_a else pair.b).address, 100 + self.crashes)
        fresh.received = (pair.a if is_a else pair.b).received
        if is_a:
            pair.a = fresh
        else:
            pair.b = fresh
        fresh.sessions.handle_timer(pair.now, pair.wall_ns(fresh))

    @invariant()
    def at_most_four_sessions_and_no_orphans(self) -> None:
        for party in (self.pair.a, self.pair.b):
            table = party.sessions._table
            assert len(table.by_index) == sum(len(entry.sessions) for entry in table.peers.values()) <= 4
            assert len(table.attempts) == sum(entry.attempt is not None for entry in table.peers.values()) <= 1
            assert len(table.answers) <= 1
            for entry in table.peers.values():
                assert entry.timer <= entry.due()
                assert entry.current is None or entry.current.is_confirmed

    def teardown(self) -> None:
        pair = self.pair
        pair.network.loss = 0.0
        pair.run(60)  # a peer that lost its keys is noticed
        if not self.crashes:
            pair.run(1)
            assert self.bodies == len(pair.a.received | pair.b.received)
            assert 0 == pair.a.unopened + pair.b.unopened
        pair.connect(pair.a)
        pair.run(8)
        pair.connect(pair.b)
        pair.run(8)
        for party in (pair.a, pair.b):
            assert pair.send(party, f"last words from {party.address}".encode())
        pair.run(1)
        if not self.crashes:
            assert pair.match
            require_same_keys(pair)


TestTwoParties = TwoParties.TestCase
TestTwoParties.settings = settings(max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


# -- life of a session ---------------------------------------------------------------------------------------------------------------------


def test_unused_session_lapses_at_both_ends_and_leaves_nothing() -> None:
    pair = Pair()
    pair.connect(pair.a)
    pair.run(300)
    assert 1 == pair.sent["INIT"]
    for party in (pair.a, pair.b):
        assert SessionExpired(pair.other(party).node) == party.events[-1]
        assert 0 == len(party.sessions)
        assert None is party.sessions.get_timer()
        assert not party.sessions._table.by_index
        assert not party.sessions._table.answers


def test_old_keys_are_accepted_for_180_seconds_and_not_sent_with_after_165() -> None:
    pair = Pair()
    pair.connect(pair.a)
    pair.run(1)
    for party in (pair.a, pair.b):
        session = party.sessions.current(pair.other(party).node)
        assert session is not None
        session.check_at = session.rekey_at = math.inf  # nobody renews
    late = [packet for _ in range(2) if (packet := pair.a.seal(pair.b.node, b"late")) is not None]
    pair.run(165)
    assert pair.a.sessions.current(pair.b.node) is None
    pair.run(13)
    pair.b.open(late[0], pair.a.address)
    assert {b"late"} == pair.b.received
    pair.run(2)
    pair.b.open(late[1], pair.a.address)
    assert 1 == pair.b.unopened


def test_responder_rekeys_when_the_initiator_cannot() -> None:
    pair = Pair()
    pair.connect(pair.a)
    pair.run(1)
    session = pair.a.sessions.current(pair.b.node)
    assert session is not None
    session.rekey_at = math.inf  # as if its INITs never arrived
    pair.drive_data(160, 1.0)
    pair.run(1)
    assert SessionRekeyed(pair.a.node) in pair.b.events
    assert pair.match


def test_counter_near_its_bound_triggers_a_rekey() -> None:
    pair = Pair()
    pair.connect(pair.a)
    pair.run(1)
    session = pair.a.sessions.current(pair.b.node)
    assert session is not None
    session.link_seal.counter = 1 << 31
    pair.run(11)
    assert SessionRekeyed(pair.b.node) in pair.a.events
    new = pair.a.sessions.current(pair.b.node)
    assert new is not None
    assert new.link_seal.counter < 10


def test_peer_that_restarted_is_noticed_within_20_seconds_of_silence() -> None:
    pair = Pair()
    pair.connect(pair.a)
    pair.run(1)
    pair.drive_data(20, 1.0)
    pair.b = Party(HIGH, pair.b.address, 77)
    pair.b.sessions.handle_timer(pair.now, pair.wall_ns(pair.b))
    for i in range(20):
        pair.send(pair.a, b"%d" % i)
        pair.run(1.0)
    assert pair.match
    require_same_keys(pair)


def test_peer_that_is_gone_is_given_up_within_25_seconds_of_silence() -> None:
    pair = Pair()
    pair.connect(pair.a)
    pair.run(1)
    pair.drive_data(20, 1.0)
    pair.network.loss = 1.0
    for i in range(25):
        pair.send(pair.a, b"%d" % i)
        pair.run(1.0)
    assert SessionFailed(pair.b.node, "no answer to the handshake") in pair.a.events
    assert pair.a.sessions.current(pair.b.node) is None


def test_renewal_asked_for_by_the_data_plane_keeps_the_old_session_until_the_new_one_stands() -> None:
    pair = Pair()
    pair.connect(pair.a)
    pair.run(1)
    old = pair.a.sessions.current(pair.b.node)
    pair.a.sessions.renew(pair.b.node, pair.now)
    pair.collect(pair.a)
    assert old is pair.a.sessions.current(pair.b.node)
    pair.run(0.2)
    assert old is not pair.a.sessions.current(pair.b.node)
    assert old is not None
    assert old is pair.a.sessions.by_index(old.local_index)
    assert pair.match


def test_dropped_peer_leaves_nothing_and_tells_nobody() -> None:
    pair = Pair()
    pair.connect(pair.a)
    pair.run(1)
    pair.a.events.clear()
    session = pair.a.sessions.current(pair.b.node)
    assert session is not None
    pair.a.sessions.drop_peer(pair.b.node)
    pair.a.sessions.drop_peer(pair.b.node)
    assert pair.a.sessions.current(pair.b.node) is None
    assert pair.a.sessions.by_index(session.local_index) is None
    assert None is pair.a.sessions.get_timer()
    assert None is pair.a.sessions.next_event()
    pair.a.sessions.confirm(session)  # the data plane may still hold it


def test_address_follows_the_peer() -> None:
    pair = Pair()
    pair.connect(pair.a)
    pair.run(1)
    pair.a.address = ("203.0.113.5", 5555)
    pair.send(pair.a, b"moved")
    pair.run(1)
    session = pair.b.sessions.current(pair.a.node)
    assert session is not None
    assert pair.a.address == session.address
    assert pair.send(pair.b, b"found")
    pair.run(1)
    assert b"found" in pair.a.received


def test_sealing_key_never_gives_a_counter_twice() -> None:
    key = SealingKey(bytes(32))
    assert list(range(100)) == [key.take_counter() for _ in range(100)]


def test_session_shows_no_key() -> None:
    pair = Pair()
    pair.connect(pair.a)
    pair.run(1)
    session = pair.a.sessions.current(pair.b.node)
    assert isinstance(session, Session)
    assert f"Session({pair.b.node!r}, ('192.0.2.2', 2222), index {session.local_index:#x})" == repr(session)


# -- attacks -------------------------------------------------------------------------------------------------------------------------------


def make_init(timestamp_ns: int, *, sender: Identity = LOW, receiver: Identity = HIGH, index: int = 7) -> bytes:
    ephemeral = hashlib.sha256(b"%d" % timestamp_ns).digest()
    return Handshaker(sender).start(receiver.node_id, index=index, timestamp_ns=timestamp_ns, ephemeral=ephemeral).datagram


class Victim:
    """A lone responder, and what it does with single datagrams."""

    def __init__(self, **options: Callable[[NodeId], bool]) -> None:
        rng = random.Random(0)
        self.sessions = Sessions(HIGH, rng, entropy=rng.randbytes, **options)
        self.now = 50.0

    def receive(self, data: bytes, source: UdpAddress = ("192.0.2.1", 1), wall_ns: int = WALL_0_NS) -> list[bytes]:
        self.sessions.receive_datagram(data, source, self.now, wall_ns)
        return [answer for answer, destination in self.sessions.datagrams_to_send(self.now) if destination == source]

    def drops(self) -> dict[str, int]:
        return dict(self.sessions.drops)


def test_no_answer_is_longer_than_its_question() -> None:
    assert (160, 60, 32) == (INIT_BYTES, RESPONSE_BYTES, CONFIRM_BYTES)
    victim = Victim()
    init = make_init(WALL_0_NS)
    for _ in range(3):
        assert [RESPONSE_BYTES] == [len(answer) for answer in victim.receive(init)]


def test_replayed_init_of_a_live_handshake_gets_the_same_answer_and_moves_nothing() -> None:
    victim = Victim()
    init = make_init(WALL_0_NS)
    first = victim.receive(init)
    again = victim.receive(init, ("203.0.113.66", 6))
    assert first == again
    assert {("192.0.2.1", 1)} == {s.address for s in victim.sessions._table.by_index.values()}


def test_only_rising_timestamps_are_accepted() -> None:
    victim = Victim()
    victim.receive(make_init(WALL_0_NS))
    victim.receive(make_init(WALL_0_NS + 1))
    assert [] == victim.receive(make_init(WALL_0_NS))
    assert [] == victim.receive(make_init(WALL_0_NS - 5))
    assert {"stale-init": 2} == victim.drops()
    assert PeerMisbehaved(LOW.node_id, ("192.0.2.1", 1), "stale-init") == victim.sessions.next_event()


def test_timestamps_are_remembered_after_the_session_is_gone() -> None:
    victim = Victim()
    init = make_init(WALL_0_NS)
    victim.receive(init)
    victim.sessions.drop_peer(LOW.node_id)
    assert [] == victim.receive(init)
    assert {"stale-init": 1} == victim.drops()


def test_peer_whose_clock_ran_far_ahead_and_was_put_right_is_let_in_again() -> None:
    victim = Victim()
    assert victim.receive(make_init(WALL_0_NS + 365 * 86_400 * 10**9))
    assert victim.receive(make_init(WALL_0_NS))
    assert [] == victim.receive(make_init(WALL_0_NS - 1))


def test_node_whose_clock_is_set_back_keeps_sending_rising_timestamps() -> None:
    pair = Pair()
    pair.connect(pair.a)
    pair.run(1)
    pair.a.wall_step_ns = -3600 * 10**9
    pair.drive_data(130, 1.0)
    pair.run(1)
    assert SessionRekeyed(pair.b.node) in pair.a.events
    assert pair.match


def test_strangers_are_dropped_and_counted() -> None:
    victim = Victim(is_allowed=lambda node: node != LOW.node_id)
    assert [] == victim.receive(make_init(WALL_0_NS))
    assert {"not-allowed": 1} == victim.drops()
    assert 0 == len(victim.sessions)


def test_init_for_another_node_is_dropped_before_any_key_agreement(monkeypatch: pytest.MonkeyPatch) -> None:
    victim = Victim()
    monkeypatch.setattr(Handshaker, "read_init", lambda *_: pytest.fail("key agreement was tried"))
    other = Identity(bytes([9]) * 32)
    assert [] == victim.receive(make_init(WALL_0_NS, receiver=other))
    assert {"mac1": 1} == victim.drops()


def test_node_id_that_does_not_belong_to_the_static_key_is_refused() -> None:
    liar = Handshaker(LOW)
    liar.node_id = Identity(bytes([9]) * 32).node_id
    init = liar.start(HIGH.node_id, index=1, timestamp_ns=WALL_0_NS, ephemeral=bytes([5]) * 32).datagram
    victim = Victim()
    assert [] == victim.receive(init)
    assert {"identity": 1} == victim.drops()


def test_negative_of_a_node_id_is_another_node_although_its_static_key_is_the_same() -> None:
    negative = NodeId(HIGH.node_id[:31] + bytes([HIGH.node_id[31] ^ 0x80]))
    assert x25519_public_key(HIGH.node_id) == x25519_public_key(negative)
    init = Handshaker(LOW).start(negative, index=1, timestamp_ns=WALL_0_NS, ephemeral=bytes([5]) * 32).datagram
    with pytest.raises(BadSignature):
        Handshaker(HIGH).require_mac1(init)
    with pytest.raises(BadSignature):
        Handshaker(HIGH).read_init(init)


def test_flood_from_one_source_costs_a_bounded_number_of_key_agreements() -> None:
    victim = Victim()
    for i in range(PER_SOURCE_BURST + 50):
        victim.receive(make_init(WALL_0_NS + i))
    assert {"source-rate": 50} == victim.drops()
    assert victim.receive(make_init(WALL_0_NS + 1000), ("198.51.100.1", 1))
    assert 4 == len(victim.sessions._table.by_index)


def test_flood_of_spoofed_sources_does_not_shut_out_a_peer_that_has_a_session() -> None:
    friend = Party(LOW, ("192.0.2.1", 1), 5)
    victim = Victim()
    friend.sessions.handle_timer(victim.now, WALL_0_NS)
    friend.sessions.connect(HIGH.node_id, ("192.0.2.2", 2), victim.now)
    for _ in range(3):
        for data, _ in friend.sessions.datagrams_to_send(victim.now):
            for answer in victim.receive(data):
                friend.sessions.receive_datagram(answer, ("192.0.2.2", 2), victim.now, WALL_0_NS)
    assert victim.sessions.current(LOW.node_id) is not None
    victim.now += 2.0
    stranger = Identity(bytes([9]) * 32)
    flood = [make_init(WALL_0_NS + i, sender=stranger) for i in range(ALL_BURST + 2)]
    for i, data in enumerate(flood):
        victim.receive(data, (f"10.0.{i // 250}.{i % 250}", 1))
    assert victim.drops()["init-rate"] >= 1
    assert victim.receive(make_init(WALL_0_NS + 10**9))


def test_replayed_or_forged_confirms_change_nothing() -> None:
    pair = Pair()
    pair.connect(pair.a)
    while not (pair.wire and pair.wire[0][3][1] == 3):
        pair.step(2000)
    confirm = pair.wire[0][3]
    pair.run(1)
    before = pair.b.sessions.current(pair.a.node)
    assert before is not None
    attacker = ("203.0.113.66", 6)
    forged = confirm[:8] + (5).to_bytes(8, "little") + confirm[16:]
    wrong_side = confirm[:1] + b"\x04" + confirm[2:]
    nobody = confirm[:4] + b"\xff\xff\xff\xff" + confirm[8:]
    for data in (confirm, forged, wrong_side, nobody):
        pair.b.sessions.receive_datagram(data, attacker, pair.now, WALL_0_NS)
    assert {"replay": 1, "mac": 1, "type": 1, "unknown-index": 1} == dict(pair.b.sessions.drops)
    assert pair.a.address == before.address
    assert [] == pair.b.sessions.datagrams_to_send(pair.now)


def test_forged_response_does_not_spoil_the_handshake() -> None:
    pair = Pair()
    pair.connect(pair.a)
    while not (pair.wire and pair.wire[0][3][1] == 2):
        pair.step(2000)
    response = pair.wire[0][3]
    pair.a.sessions.receive_datagram(response[:-1] + bytes([response[-1] ^ 1]), pair.b.address, pair.now, WALL_0_NS)
    assert {"handshake": 1} == dict(pair.a.sessions.drops)
    pair.run(1)
    assert pair.match


def test_tables_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_table, "SESSIONS_MAX", 3)
    monkeypatch.setattr(session_table, "TIMESTAMPS_MAX", 3)
    victim = Victim()
    victim.sessions.handle_timer(victim.now, WALL_0_NS)
    strangers = [Identity(bytes([i]) * 32) for i in range(20, 26)]
    answers = [victim.receive(make_init(WALL_0_NS, sender=stranger)) for stranger in strangers]
    assert [True, True, True, False, False, False] == [bool(answer) for answer in answers]
    assert {"sessions-full": 3} == victim.drops()
    while victim.sessions.next_event() is not None:
        pass
    victim.sessions.connect(LOW.node_id, ("192.0.2.1", 1), victim.now)
    assert isinstance(victim.sessions.next_event(), SessionFailed)
    for stranger in strangers:
        victim.sessions.drop_peer(stranger.node_id)
        victim.receive(make_init(WALL_0_NS + 1, sender=stranger))
        victim.sessions.drop_peer(stranger.node_id)
    assert 3 == len(victim.sessions._table._timestamps)
    assert 0 == len(victim.sessions)


@settings(max_examples=300)
@given(st.one_of(st.binary(max_size=200), st.binary(max_size=200).map(lambda tail: b"\x11" + tail)))
def test_random_bytes_are_dropped_counted_and_never_answered(data: bytes) -> None:
    victim = Victim()
    assert [] == victim.receive(data)
    assert 1 == sum(victim.drops().values())


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_mutated_datagrams_never_raise(data: st.DataObject) -> None:
    pair = Pair()
    pair.connect(pair.a)
    for _ in range(data.draw(st.integers(0, 3))):
        pair.step(2000)
    if not pair.wire:
        return
    original = bytearray(pair.wire[0][3])
    for _ in range(data.draw(st.integers(1, 3))):
        original[data.draw(st.integers(0, len(original) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(original)))
    for mutant in (bytes(original), bytes(original[:cut])):
        pair.wire[0][2].sessions.receive_datagram(mutant, ("192.0.2.9", 9), pair.now, WALL_0_NS)
    pair.run(12)
    pair.connect(pair.a)
    pair.run(12)
    assert pair.match


# -- wire format ---------------------------------------------------------------------------------------------------------------------------


def golden(name: str, data: bytes) -> None:
    assert (GOLDEN / name).read_bytes() == data


def test_datagrams_are_the_golden_bytes() -> None:
    pair = Pair(7)
    seen: dict[int, bytes] = {}
    pair.connect(pair.a)
    while pair.now < 1001:
        for entry in pair.wire:
            seen.setdefault(entry[3][1], entry[3])
        if not pair.step(1001):
            break
    golden("session-init.bin", seen[1])
    golden("session-response.bin", seen[2])
    golden("session-confirm.bin", seen[3])
    golden("session-confirmed.bin", seen[4])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "length"),
        (b"\x11\x01", "length"),
        (b"\x12\x01" + bytes(158), "version"),
        (b"\x21\x01" + bytes(158), "version"),
        (b"\x11\x09" + bytes(158), "type"),
        (b"\x11\x01" + bytes(157), "length"),
        (b"\x11\x02" + bytes(158), "length"),
        (b"\x11\x03\x01\x00" + bytes(28), "decode"),
    ],
)
def test_malformed_header_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(DecodeError) as caught:
        datagram_type(data)
    assert reason == caught.value.reason


# -- admission -----------------------------------------------------------------------------------------------------------------------------


def test_bucket_refills_at_its_rate_up_to_its_burst() -> None:
    bucket = TokenBucket(2.0, 3, 10.0)
    assert [True, True, True, False] == [bucket.take(10.0) for _ in range(4)]
    assert [True, False] == [bucket.take(10.5) for _ in range(2)]
    assert [True, True, True, False] == [bucket.take(100.0) for _ in range(4)]


def test_limiter_counts_an_ipv6_64_as_one_source_and_stays_bounded() -> None:
    limiter = RequestLimiter()
    for i in range(PER_SOURCE_BURST):
        limiter.admit(f"2001:db8::{i:x}", 0.0, is_known=False)
    with pytest.raises(RemoteProtocolError) as caught:
        limiter.admit("2001:db8::ffff", 0.0, is_known=False)
    assert "source-rate" == caught.value.reason
    limiter.admit("2001:db8:0:1::1", 0.0, is_known=False)
    for i in range(2 * SOURCES_MAX):
        limiter.admit(f"host {i}", 1000.0 + i, is_known=False)
    assert SOURCES_MAX == len(limiter._sources)
