"""Sessions over a network that loses, delays, duplicates and reorders, and any order of calls, cuts, crashes and data."""

from __future__ import annotations

from collections import Counter

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from srwan.overlay.session import SessionEstablished, SessionRekeyed
from srwan.testing.session_pair import HIGH, LOW, SessionPair, SessionParty, Weather

SAME_KEYS = [[0], [1], [2], [3]]


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
    network = Weather(seed, delay_s=delay_s, jitter_s=jitter_s, loss=loss, duplicates=duplicates)
    pair = SessionPair(seed, network, is_swapped=is_swapped)
    for _ in range(100):
        pair.connect(pair.a)
        pair.run(lag_s)
        if is_mutual:
            pair.connect(pair.b)
        pair.run(6)
        if pair.is_matched:
            break
    assert pair.is_matched
    assert SAME_KEYS == pair.openers()


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
    handshakes = Weather(seed, loss=loss, duplicates=duplicates, jitter_s=jitter_s)
    data = Weather(seed + 1, delay_s=0.02, jitter_s=0.4, duplicates=duplicates)
    pair = SessionPair(seed, handshakes, data_weather=data, is_swapped=is_swapped)
    for _ in range(100):
        pair.connect(pair.a)
        pair.run(6)
        if pair.is_matched:
            break
    sent = pair.drive_data(420, 0.5)
    pair.run(3)
    assert sent > 600
    assert sent == len(pair.a.received) + len(pair.b.received)
    assert 0 == pair.a.unopened + pair.b.unopened


def test_continuous_traffic_survives_ten_rekeys_without_a_loss_or_a_gap() -> None:
    pair = SessionPair(data_weather=Weather(delay_s=0.03, jitter_s=0.2))
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
        self.pair = SessionPair(weather=Weather(delay_s=0.05, jitter_s=0.2), data_weather=Weather(delay_s=0.05, jitter_s=0.2))
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
        self.pair.weather.loss = loss

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
        fresh = SessionParty(LOW if is_a else HIGH, (pair.a if is_a else pair.b).address, 100 + self.crashes)
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
        pair.weather.loss = 0.0
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
            assert pair.is_matched
            assert SAME_KEYS == pair.openers()


TestTwoParties = TwoParties.TestCase
TestTwoParties.settings = settings(max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
