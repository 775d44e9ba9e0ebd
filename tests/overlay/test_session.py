"""Sessions of two parties in virtual time: how they begin, live and end. See test_session_weather.py and test_session_attacks.py."""

from __future__ import annotations

import math
import random

import pytest

from srwan.errors import LocalProtocolError
from srwan.overlay.handshake import INIT_BYTES
from srwan.overlay.session import (
    HandshakeUnanswered,
    SealingKey,
    Session,
    SessionEstablished,
    SessionExpired,
    SessionFailed,
    SessionRekeyed,
    Sessions,
)
from srwan.overlay.way import RelayedWay
from srwan.testing.session_pair import HIGH, LOW, WALL_0_NS, SessionPair, SessionParty, Weather
from srwan.types import NodeId

SAME_KEYS = [[0], [1], [2], [3]]


# -- one handshake -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_swapped", [False, True])
def test_initiator_can_send_after_one_round_trip_and_responder_half_a_round_trip_later(is_swapped: bool) -> None:
    pair = SessionPair(is_swapped=is_swapped)
    pair.connect(pair.a)
    pair.run(0.101)
    assert pair.a.sessions.current(pair.b.node) is not None
    assert pair.b.sessions.current(pair.a.node) is None
    pair.run(0.05)
    assert SAME_KEYS == pair.openers()
    assert {"INIT": 1, "RESPONSE": 1, "CONFIRM": 1, "CONFIRMED": 1} == pair.sent
    mine, theirs = pair.session(pair.a), pair.session(pair.b)
    assert [SessionEstablished(pair.b.node, mine.local_index, True, pair.b.address)] == pair.a.events
    assert [SessionEstablished(pair.a.node, theirs.local_index, False, pair.a.address)] == pair.b.events


def test_data_packet_of_the_initiator_confirms_as_well() -> None:
    pair = SessionPair()
    pair.connect(pair.a)
    while not pair.a.sessions.current(pair.b.node):
        pair.step(2000)
    pair.wire.clear()
    assert pair.send(pair.a, b"first")
    pair.run(0.06)
    assert {b"first"} == pair.b.received
    assert pair.is_matched


def test_connect_does_nothing_while_there_is_a_session_or_a_handshake_under_way() -> None:
    pair = SessionPair()
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
    assert pair.is_matched


def test_connect_held_back_by_a_handshake_of_the_peer_starts_when_that_comes_to_nothing() -> None:
    pair = SessionPair()
    pair.connect(pair.a)
    pair.run(0.08)
    pair.weather.loss = 1.0
    pair.wire.clear()
    pair.a.sessions.drop_peer(pair.b.node)  # it died
    pair.connect(pair.b)
    pair.run(5)
    assert 1 == pair.sent["INIT"]
    pair.run(8)
    assert 1 + 5 == pair.sent["INIT"]
    assert [HandshakeUnanswered(pair.a.node), SessionFailed(pair.a.node, "no answer to the handshake")] == pair.b.events


def test_connect_before_any_wall_time_waits_for_the_timer() -> None:
    sessions = Sessions(LOW, random.Random(0), entropy=random.Random(0).randbytes)
    sessions.connect(HIGH.node_id, ("192.0.2.2", 1), 5.0)
    assert [] == sessions.datagrams_to_send(5.0)
    assert 5.0 == sessions.get_timer()
    sessions.handle_timer(5.0, WALL_0_NS)
    assert [INIT_BYTES] == [len(data) for data, _ in sessions.datagrams_to_send(5.0)]


def test_handshake_under_way_goes_further_ways_at_once_with_the_same_bytes_and_not_too_many() -> None:
    sessions = Sessions(LOW, random.Random(0), entropy=random.Random(0).randbytes)
    sessions.handle_timer(5.0, WALL_0_NS)
    relayed: list[tuple[bytes, RelayedWay]] = []
    sessions.on_relayed(lambda datagram, way: relayed.append((datagram, way)))
    way = RelayedWay((bytes(16), bytes(16)), 7)
    addresses = [("192.0.2.2", port) for port in range(1, 9)]
    sessions.connect(HIGH.node_id, addresses[0], 5.0)
    for _ in range(2):
        sessions.connect(HIGH.node_id, way, 5.0)
    for address in addresses:
        sessions.connect(HIGH.node_id, address, 5.0)
    sent = sessions.datagrams_to_send(5.0)
    assert addresses[:3] == [destination for _, destination in sent]
    assert [way] == [taken for _, taken in relayed]
    assert 1 == len({datagram for datagram, _ in sent} | {datagram for datagram, _ in relayed})
    sessions.handle_timer(5.3, WALL_0_NS)
    assert addresses[:3] == [destination for _, destination in sessions.datagrams_to_send(5.3)]
    assert 2 == len(relayed)


def test_handshake_over_relays_without_a_data_plane_is_counted_and_fails() -> None:
    sessions = Sessions(LOW, random.Random(0), entropy=random.Random(0).randbytes)
    sessions.handle_timer(5.0, WALL_0_NS)
    sessions.connect(HIGH.node_id, RelayedWay((bytes(16), bytes(16)), 7), 5.0)
    assert [] == sessions.datagrams_to_send(5.0)
    assert {"no-relayed": 1} == dict(sessions.drops)


def test_node_cannot_connect_to_itself() -> None:
    with pytest.raises(LocalProtocolError):
        Sessions(LOW, random.Random(0), entropy=random.Random(0).randbytes).connect(LOW.node_id, ("192.0.2.2", 1), 0.0)


def test_unanswered_handshake_fails_after_five_inits_and_leaves_nothing() -> None:
    pair = SessionPair(weather=Weather(loss=1.0))
    pair.connect(pair.a)
    pair.run(4.5)
    assert [HandshakeUnanswered(pair.b.node)] == pair.a.events
    pair.run(2)
    assert [HandshakeUnanswered(pair.b.node), SessionFailed(pair.b.node, "no answer to the handshake")] == pair.a.events
    assert 5 == pair.sent["INIT"]
    assert 0 == len(pair.a.sessions)
    assert None is pair.a.sessions.get_timer()


def test_peer_with_an_unusable_key_fails_at_once() -> None:
    sessions = Sessions(LOW, random.Random(0), entropy=random.Random(0).randbytes)
    sessions.handle_timer(0.0, WALL_0_NS)
    sessions.connect(NodeId(bytes(32)), ("192.0.2.2", 1), 0.0)
    assert SessionFailed(NodeId(bytes(32)), "its id is no usable public key") == sessions.next_event()
    assert 0 == len(sessions)
    assert None is sessions.get_timer()


def test_round_trip_longer_than_the_retransmission_needs_no_second_key_agreement() -> None:
    pair = SessionPair(weather=Weather(delay_s=0.6))
    pair.connect(pair.a)
    pair.run(5)
    assert pair.is_matched
    assert 3 == pair.sent["INIT"]
    assert 3 == pair.sent["RESPONSE"]  # the same bytes each time
    assert 1 == len([event for event in pair.b.events if isinstance(event, SessionEstablished)])
    assert {} == {reason: n for party in (pair.a, pair.b) for reason, n in party.sessions.drops.items() if reason != "late-response"}


def test_lost_confirm_is_repeated_until_answered() -> None:
    pair = SessionPair()
    pair.connect(pair.a)
    while not pair.a.sessions.current(pair.b.node):
        pair.step(2000)
    pair.wire.clear()  # the CONFIRM
    pair.run(0.4)
    assert pair.is_matched
    confirms = pair.sent["CONFIRM"]
    assert 2 == confirms
    pair.run(30)
    assert confirms == pair.sent["CONFIRM"]


# -- simultaneous open ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_swapped", [False, True])
@pytest.mark.parametrize("lag_s", [0.0, 0.01, 0.04, 0.06, 0.09, 0.12])
def test_both_calling_at_once_end_with_one_session(lag_s: float, is_swapped: bool) -> None:
    pair = SessionPair(is_swapped=is_swapped)
    pair.connect(pair.a)
    pair.run(lag_s)
    pair.connect(pair.b)
    pair.run(1)
    assert SAME_KEYS == pair.openers()
    for party in (pair.a, pair.b):
        assert [SessionEstablished] == [type(event) for event in party.events]
    assert 1 == len([e for party in (pair.a, pair.b) for e in party.events if isinstance(e, SessionEstablished) and e.is_initiator])


def test_winner_behind_whose_back_the_loser_sits_in_a_nat_reaches_it_through_the_address_it_calls_from() -> None:
    pair = SessionPair()  # a has the lower id and wins
    pair.a.sessions.connect(pair.b.node, ("198.51.100.9", 9), pair.now)  # where nobody listens
    pair.collect(pair.a)
    pair.connect(pair.b)
    pair.run(1)
    assert SAME_KEYS == pair.openers()


# -- life of a session ---------------------------------------------------------------------------------------------------------------------


def test_unused_session_lapses_at_both_ends_and_leaves_nothing() -> None:
    pair = SessionPair()
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
    pair = SessionPair()
    pair.connect(pair.a)
    pair.run(1)
    for party in (pair.a, pair.b):
        session = pair.session(party)
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
    pair = SessionPair()
    pair.connect(pair.a)
    pair.run(1)
    session = pair.session(pair.a)
    session.rekey_at = math.inf  # as if its INITs never arrived
    pair.drive_data(160, 1.0)
    pair.run(1)
    assert SessionRekeyed(pair.a.node) in pair.b.events
    assert pair.is_matched


def test_counter_near_its_bound_triggers_a_rekey() -> None:
    pair = SessionPair()
    pair.connect(pair.a)
    pair.run(1)
    session = pair.session(pair.a)
    session.link_seal.counter = 1 << 31
    pair.run(11)
    assert SessionRekeyed(pair.b.node) in pair.a.events
    new = pair.session(pair.a)
    assert new.link_seal.counter < 10


def test_peer_that_restarted_is_noticed_within_20_seconds_of_silence() -> None:
    pair = SessionPair()
    pair.connect(pair.a)
    pair.run(1)
    pair.drive_data(20, 1.0)
    pair.b = SessionParty(HIGH, pair.b.address, 77)
    pair.b.sessions.handle_timer(pair.now, pair.wall_ns(pair.b))
    for i in range(20):
        pair.send(pair.a, b"%d" % i)
        pair.run(1.0)
    assert pair.is_matched
    assert SAME_KEYS == pair.openers()


def test_peer_that_is_gone_is_given_up_within_25_seconds_of_silence() -> None:
    pair = SessionPair()
    pair.connect(pair.a)
    pair.run(1)
    pair.drive_data(20, 1.0)
    pair.weather.loss = 1.0
    for i in range(25):
        pair.send(pair.a, b"%d" % i)
        pair.run(1.0)
    assert SessionFailed(pair.b.node, "no answer to the handshake") in pair.a.events
    assert pair.a.sessions.current(pair.b.node) is None


def test_renewal_asked_for_by_the_data_plane_keeps_the_old_session_until_the_new_one_stands() -> None:
    pair = SessionPair()
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
    assert pair.is_matched


def test_dropped_peer_leaves_nothing_and_tells_nobody() -> None:
    pair = SessionPair()
    pair.connect(pair.a)
    pair.run(1)
    pair.a.events.clear()
    session = pair.session(pair.a)
    pair.a.sessions.drop_peer(pair.b.node)
    pair.a.sessions.drop_peer(pair.b.node)
    assert pair.a.sessions.current(pair.b.node) is None
    assert pair.a.sessions.by_index(session.local_index) is None
    assert None is pair.a.sessions.get_timer()
    assert None is pair.a.sessions.next_event()
    pair.a.sessions.confirm(session)  # the data plane may still hold it


def test_address_follows_the_peer() -> None:
    pair = SessionPair()
    pair.connect(pair.a)
    pair.run(1)
    pair.a.address = ("203.0.113.5", 5555)
    pair.send(pair.a, b"is gone")
    pair.send(pair.a, b"has gone")
    pair.run(1)
    session = pair.session(pair.b)
    assert pair.a.address == session.address
    assert pair.send(pair.b, b"found")
    pair.run(1)
    assert b"found" in pair.a.received


def test_sealing_key_never_gives_a_counter_twice() -> None:
    key = SealingKey(bytes(32))
    assert list(range(100)) == [key.take_counter() for _ in range(100)]


def test_session_shows_no_key() -> None:
    pair = SessionPair()
    pair.connect(pair.a)
    pair.run(1)
    session = pair.a.sessions.current(pair.b.node)
    assert isinstance(session, Session)
    assert f"Session({pair.b.node!r}, ('192.0.2.2', 2222), index {session.local_index:#x})" == repr(session)
