"""Sessions against those who forge, replay, copy and flood."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srwan.identity import Identity
from srwan.overlay import session_table
from srwan.overlay.admission import ALL_BURST, CALM_BURST
from srwan.overlay.handshake import CONFIRM_BYTES, COOKIE_BYTES, INIT_BYTES, RESPONSE_BYTES, Handshaker
from srwan.overlay.session import SessionFailed, SessionRekeyed, Sessions
from srwan.testing.session_pair import HIGH, LOW, WALL_0_NS, SessionPair, SessionParty
from srwan.types import NodeId, PeerMisbehaved, UdpAddress

SAME_KEYS = [[0], [1], [2], [3]]


def make_init(timestamp_ns: int, *, sender: Identity = LOW, receiver: Identity = HIGH, index: int = 7) -> bytes:
    ephemeral = hashlib.sha256(b"%d" % timestamp_ns).digest()
    return Handshaker(sender).start(receiver.node_id, index=index, timestamp_ns=timestamp_ns, ephemeral=ephemeral).datagram()


class Victim:
    """A lone responder, and what it does with single datagrams."""

    def __init__(self, **options: Callable[[NodeId], bool]) -> None:
        rng = random.Random(0)
        self.sessions = Sessions(HIGH, rng, entropy=rng.randbytes, **options)
        self.now = 50.0

    def receive(self, data: bytes, source: UdpAddress = ("192.0.2.1", 1), wall_ns: int = WALL_0_NS) -> list[bytes]:
        self.sessions.receive_datagram(data, source, self.now, wall_ns)
        return [answer for answer, destination in self.sessions.datagrams_to_send(self.now) if destination == source]

    def receive_with_cookie(self, timestamp_ns: int, sender: Identity, source: UdpAddress) -> list[bytes]:
        ephemeral = hashlib.sha256(b"%d" % timestamp_ns).digest()
        started = Handshaker(sender).start(HIGH.node_id, index=7, timestamp_ns=timestamp_ns, ephemeral=ephemeral)
        (cookie,) = self.receive(started.datagram(), source)
        return self.receive(started.datagram(started.read_cookie(cookie)), source)

    def drops(self) -> dict[str, int]:
        return dict(self.sessions.drops)


def test_no_answer_is_longer_than_its_question() -> None:
    assert (176, 60, 64, 32) == (INIT_BYTES, RESPONSE_BYTES, COOKIE_BYTES, CONFIRM_BYTES)
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
    pair = SessionPair()
    pair.connect(pair.a)
    pair.run(1)
    pair.a.wall_step_ns = -3600 * 10**9
    pair.drive_data(130, 1.0)
    pair.run(1)
    assert SessionRekeyed(pair.b.node) in pair.a.events
    assert pair.is_matched


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


def test_flood_from_one_source_costs_a_bounded_number_of_key_agreements() -> None:
    victim = Victim()
    for i in range(CALM_BURST + 50):
        victim.receive(make_init(WALL_0_NS + i))
    assert {"no-cookie": 50} == victim.drops()
    assert [COOKIE_BYTES] == [len(answer) for answer in victim.receive(make_init(WALL_0_NS + 1000), ("198.51.100.1", 1))]
    assert 4 == len(victim.sessions._table.by_index)


def test_peer_that_keeps_calling_does_not_push_out_the_session_in_use() -> None:
    pair = SessionPair()
    pair.connect(pair.a)
    pair.run(1)
    session = pair.session(pair.b)
    for i in range(10):
        init = make_init(pair.wall_ns(pair.a) + i, sender=LOW, receiver=HIGH)
        pair.b.sessions.receive_datagram(init, pair.a.address, pair.now, pair.wall_ns(pair.b))
    assert session is pair.b.sessions.current(pair.a.node)
    assert session is pair.b.sessions.by_index(session.local_index)
    assert 4 == len(pair.b.sessions._table.by_index)


def test_flood_from_many_sources_with_cookies_does_not_shut_out_a_peer_that_has_a_session() -> None:
    friend = SessionParty(LOW, ("192.0.2.1", 1), 5)
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
    victim.sessions._gate._loaded_until = math.inf
    for i in range(ALL_BURST + 2):
        victim.receive_with_cookie(WALL_0_NS + i, stranger, (f"10.0.{i // 250}.{i % 250}", 1))
    assert victim.drops()["init-rate"] >= 1
    assert [RESPONSE_BYTES] == [len(answer) for answer in victim.receive_with_cookie(WALL_0_NS + 10**9, LOW, ("192.0.2.1", 1))]


def test_replayed_or_forged_confirms_change_nothing() -> None:
    pair = SessionPair()
    pair.connect(pair.a)
    confirm = pair.run_until_on_the_wire(3)
    pair.run(1)
    before = pair.session(pair.b)
    attacker = ("203.0.113.66", 6)
    forged = confirm[:8] + (5).to_bytes(8, "little") + confirm[16:]
    other_type = confirm[:1] + b"\x04" + confirm[2:]
    nobody = confirm[:4] + b"\xff\xff\xff\xff" + confirm[8:]
    for data in (confirm, forged, other_type, nobody):
        pair.b.sessions.receive_datagram(data, attacker, pair.now, WALL_0_NS)
    assert {"replay": 2, "mac": 1, "unknown-index": 1} == dict(pair.b.sessions.drops)
    assert pair.a.address == before.address
    assert [] == pair.b.sessions.datagrams_to_send(pair.now)


def test_forged_response_does_not_spoil_the_handshake() -> None:
    pair = SessionPair()
    pair.connect(pair.a)
    response = pair.run_until_on_the_wire(2)
    pair.a.sessions.receive_datagram(response[:-1] + bytes([response[-1] ^ 1]), pair.b.address, pair.now, WALL_0_NS)
    assert {"handshake": 1} == dict(pair.a.sessions.drops)
    pair.run(1)
    assert pair.is_matched


def test_response_copied_by_somebody_quicker_does_not_lead_the_session_astray() -> None:
    pair = SessionPair()
    pair.connect(pair.a)
    pair.run_until_on_the_wire(2)
    pair.a.sessions.receive_datagram(pair.wire[0][3], ("203.0.113.66", 6), pair.now, pair.wall_ns(pair.a))
    pair.collect(pair.a)
    pair.run(1)
    assert SAME_KEYS == pair.openers()
    session = pair.session(pair.a)
    assert pair.b.address == session.address


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
@given(st.one_of(st.binary(max_size=200), st.binary(max_size=200).map(lambda tail: b"\x12" + tail)))
def test_random_bytes_are_dropped_counted_and_never_answered(data: bytes) -> None:
    victim = Victim()
    assert [] == victim.receive(data)
    assert 1 == sum(victim.drops().values())


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_mutated_datagrams_never_raise(data: st.DataObject) -> None:
    pair = SessionPair()
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
        pair.wire[0][2].sessions.receive_datagram(mutant, ("192.0.2.9", 9), pair.now, pair.wall_ns(pair.wire[0][2]))
    pair.run(12)
    pair.connect(pair.a)
    pair.run(12)
    assert pair.is_matched
