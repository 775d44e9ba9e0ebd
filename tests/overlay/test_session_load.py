"""Sessions at full load: thousands of packets under way in disorder while keys change on both sides and peers move. Nothing is lost."""

from __future__ import annotations

import gc
import random
import traceback
from collections.abc import Callable

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from srwan.errors import LocalProtocolError, NoSession
from srwan.overlay.handshake import Handshaker, SessionSecrets
from srwan.overlay.session import NONCE, OpeningKey, SealingKey, Session, SessionExpired, SessionObserver
from srwan.testing.session_pair import HIGH, LOW, SessionPair, Weather
from srwan.types import NodeId, UdpAddress


def loaded_pair(seed: int = 0) -> SessionPair:
    """A pair with sessions, whose data take 0.2 s give or take 30 ms: 2,000 packets each way are under way at 10,000 a second."""
    handshakes = Weather(seed, delay_s=0.05, jitter_s=0.1)
    pair = SessionPair(seed, handshakes, data_weather=Weather(seed, delay_s=0.2, jitter_s=0.03))
    pair.connect(pair.a)
    pair.run(2.0)
    assert pair.is_matched
    return pair


def drive(pair: SessionPair, duration_s: float, interval_s: float) -> int:
    """Have both send all the time, under link and end keys by turns; return how many packets were sent. No two bodies are the same."""
    until, count = pair.now + duration_s, 0
    while pair.now < until:
        pair.run(interval_s)
        for party in (pair.a, pair.b):
            body = f"{pair.now:.6f} {party.address[1]:06d}"
            count += pair.send(party, (body + "." * (count // 2 % 2)).encode())
    return count


def rekey(pair: SessionPair, *parties: int) -> None:
    """Have the current sessions of these parties due for new keys now."""
    for which in parties:
        party = (pair.a, pair.b)[which]
        pair.session(party).rekey_at = pair.now
        party.sessions._table.peers[pair.other(party).node].retry_at = pair.now
        party.sessions._table.schedule(party.sessions._table.peers[pair.other(party).node])


@pytest.mark.parametrize("parties", [(0,), (1,), (0, 1)])
def test_no_packet_of_thousands_under_way_is_lost_when_keys_change(parties: tuple[int, ...]) -> None:
    pair, sent, indices = loaded_pair(), 0, set()
    for _ in range(3):
        sent += drive(pair, 0.1, 1e-4)
        assert len(pair.wire) > 1_500
        rekey(pair, *parties)
        sent += drive(pair, 0.5, 1e-4)
        indices.add(pair.session(pair.a).local_index)
    pair.run(1.0)
    assert 3 == len(indices)
    assert sent > 30_000
    assert sent == len(pair.a.received) + len(pair.b.received)
    assert 0 == pair.a.unopened + pair.b.unopened
    assert pair.is_matched


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), lag_s=st.floats(0.0, 0.4))
def test_keys_that_both_change_at_nearly_the_same_time_lose_nothing(seed: int, lag_s: float) -> None:
    pair = loaded_pair(seed)
    rekey(pair, 0)
    sent = drive(pair, lag_s, 2e-3) if lag_s > 0.002 else 0
    rekey(pair, 1)
    sent += drive(pair, 1.0, 2e-3)
    pair.run(1.0)
    assert sent == len(pair.a.received) + len(pair.b.received)
    assert pair.is_matched


@pytest.mark.parametrize("with_rekey", [False, True])
def test_peer_that_moves_at_full_load_gets_every_packet_sent_after_its_first_one_arrived(with_rekey: bool) -> None:
    """Packets from the old address are still under way when the first from the new one arrives, and go on arriving after it."""
    pair = loaded_pair()
    drive(pair, 0.3, 1e-4)
    old, new = pair.a.address, ("203.0.113.5", 5555)
    if with_rekey:
        rekey(pair, 0, 1)
    pair.a.address = new
    moved_at, back = None, []
    for _ in range(5_000):
        drive(pair, 1e-4, 1e-4)
        session = pair.session(pair.b)
        if moved_at is None and session.address == new:
            moved_at = pair.now
        if moved_at is not None and session.address != new:
            back.append(pair.now)
    assert moved_at is not None
    assert [] == back
    assert new == pair.session(pair.b).address != old


def test_replayed_or_overtaken_packet_from_the_old_address_does_not_move_the_peer_back() -> None:
    pair = SessionPair()
    pair.connect(pair.a)
    pair.run(1)
    old, new = pair.a.address, ("203.0.113.5", 5555)
    packets = [pair.a.seal(pair.b.node, body) for body in (b"01", b"23", b"45")]
    first, overtaken, last = (packet for packet in packets if packet is not None)
    pair.b.open(first, old)
    pair.b.open(last, new)
    assert new == pair.session(pair.b).address
    pair.b.open(overtaken, old)
    pair.b.open(first, old)
    assert new == pair.session(pair.b).address
    assert {b"01", b"23", b"45"} <= pair.b.received


def test_address_heard_under_old_keys_holds_for_new_ones_that_the_peer_does_not_use_yet() -> None:
    pair = SessionPair()
    pair.connect(pair.a)
    pair.run(1)
    under_old = pair.b.seal(pair.a.node, b"ab")
    old = pair.session(pair.a)
    pair.a.sessions.renew(pair.b.node, pair.now)
    pair.collect(pair.a)
    while pair.session(pair.a) is old:
        pair.step(pair.now + 1)
    assert under_old is not None
    pair.a.open(under_old, ("203.0.113.7", 7))
    assert ("203.0.113.7", 7) == pair.session(pair.a).address


# -- keys leave with their sessions --------------------------------------------------------------------------------------------------------


def test_expired_session_opens_nothing_seals_nothing_and_holds_no_cipher() -> None:
    pair = SessionPair()
    pair.connect(pair.a)
    pair.run(1)
    session = pair.session(pair.a)
    packet = pair.b.seal(pair.a.node, b"late")
    assert packet is not None
    pair.weather.loss = 1.0
    pair.run(200)
    assert pair.a.sessions.by_index(session.local_index) is None
    for sealing in (session.link_seal, session.end_seal):
        with pytest.raises(NoSession):
            sealing.cipher.encrypt(bytes(12), b"x", None)
    for opening in (session.link_open, session.end_open):
        with pytest.raises(InvalidTag):
            opening.cipher.decrypt(packet[5:17], packet[17:], None)
    keys = (session.link_seal, session.link_open, session.end_seal, session.end_open)
    assert not any(isinstance(held, AESGCM) for key in keys for held in gc.get_referents(key))


def test_node_that_slept_past_the_life_of_its_keys_tells_that_the_session_expired_and_leaves_nothing() -> None:
    pair, recorder = SessionPair(), Recorder()
    pair.a.sessions.observe(recorder)
    pair.connect(pair.a)
    pair.run(1)
    session = pair.session(pair.a)
    pair.now += 10_000
    pair.a.sessions.handle_timer(pair.now, pair.wall_ns(pair.a))
    pair.collect(pair.a)
    assert SessionExpired(pair.b.node) == pair.a.events[-1]
    assert ({}, {}) == (recorder.installed, recorder.current)
    assert not isinstance(session.end_seal.cipher, AESGCM)


def test_no_key_shows_in_a_repr_or_an_error() -> None:
    keys = [bytes([0x41 + i]) * 32 for i in range(4)]
    secrets = SessionSecrets(link_seal=keys[0], link_open=keys[1], end_seal=keys[2], end_open=keys[3])
    session = Session(LOW.node_id, ("192.0.2.1", 1), (1, 2), secrets, is_initiator=True, now=0.0)
    started = Handshaker(LOW).start(HIGH.node_id, index=1, timestamp_ns=1, ephemeral=keys[0])
    shown = [repr(value) for value in (secrets, session, session.link_seal, session.end_open, started, Handshaker(LOW))]
    session.close()
    actions: list[Callable[[], bytes]] = [
        lambda: session.link_seal.cipher.encrypt(bytes(12), b"", None),
        lambda: started.read_cookie(bytes(64)),
    ]
    for action in actions:
        try:
            action()
        except Exception as error:  # noqa: BLE001 - whichever it is
            shown += [repr(error), "".join(traceback.format_exception(error))]
    text = "".join(shown)
    assert not any(key.hex() in text or repr(key)[2:-1] in text for key in keys)


# -- observers -----------------------------------------------------------------------------------------------------------------------------


class Recorder:
    """An observer that checks the order of calls and keeps tables as a native data plane would."""

    def __init__(self) -> None:
        self.installed: dict[int, Session] = {}
        self.current: dict[NodeId, Session] = {}
        self.addresses: dict[int, UdpAddress | None] = {}
        self.keys: dict[int, tuple[bytes, ...]] = {}

    def session_installed(self, session: Session, secrets: SessionSecrets) -> None:
        assert session.local_index not in self.installed
        assert (0, 0, -2) == (session.link_seal.counter, session.end_seal.counter, session.heard)
        self.installed[session.local_index] = session
        self.addresses[session.local_index] = session.address
        self.keys[session.local_index] = (secrets.link_seal, secrets.link_open, secrets.end_seal, secrets.end_open)

    def session_removed(self, session: Session) -> None:
        assert self.current.get(session.peer) is not session
        del self.installed[session.local_index], self.addresses[session.local_index], self.keys[session.local_index]

    def current_changed(self, peer: NodeId, session: Session | None) -> None:
        if session is None:
            del self.current[peer]
        else:
            assert self.installed[session.local_index] is session
            assert self.current.get(peer) is not session
            self.current[peer] = session

    def address_moved(self, session: Session) -> None:
        assert self.addresses[session.local_index] != session.address
        self.addresses[session.local_index] = session.address


def assert_mirrors(recorder: Recorder, pair: SessionPair) -> None:
    table = pair.a.sessions._table
    assert table.by_index == recorder.installed
    assert {node: entry.current for node, entry in table.peers.items() if entry.current} == recorder.current
    assert {index: session.address for index, session in table.by_index.items()} == recorder.addresses


def test_observer_can_mirror_all_sessions_through_rekeys_moves_and_ends() -> None:
    pair, recorder = SessionPair(), Recorder()
    observer: SessionObserver = recorder
    pair.a.sessions.observe(observer)
    pair.connect(pair.a)
    for _ in range(40):
        drive(pair, 10.0, 1.0)
        pair.b.address = ("203.0.113.5", int(pair.now))
        assert_mirrors(recorder, pair)
    assert len(recorder.installed) > 1
    drive(pair, 2.0, 1.0)
    assert ("203.0.113.5", int(pair.now) - 2) == pair.session(pair.a).address
    session = pair.session(pair.a)
    keys = recorder.keys[session.local_index]
    sealed = session.end_seal.cipher.encrypt(NONCE.pack(1 << 40), b"x", b"")
    assert b"x" == AESGCM(keys[2]).decrypt(NONCE.pack(1 << 40), sealed, b"")
    pair.a.sessions.drop_peer(pair.b.node)
    assert_mirrors(recorder, pair)
    assert ({}, {}) == (recorder.installed, recorder.current)


def test_observer_comes_before_the_first_session_or_not_at_all() -> None:
    pair = SessionPair()
    pair.connect(pair.a)
    pair.run(1)
    with pytest.raises(LocalProtocolError):
        pair.a.sessions.observe(Recorder())


class CountersElsewhere(SealingKey):
    """A sealing key whose counter lives in a table of somebody else."""

    __slots__ = ("table",)

    def __init__(self, secret: bytes, table: dict[str, int]) -> None:
        self.table = table
        table["next"] = 0
        super().__init__(secret)

    def take_counter(self) -> int:
        self.table["next"] += 1
        return self.table["next"] - 1

    @property
    def counter(self) -> int:
        return self.table["next"]

    @counter.setter
    def counter(self, value: int) -> None:
        self.table["next"] = value


def test_observer_may_replace_the_keys_at_installation() -> None:
    """Then counters taken elsewhere, by a native thread, and those taken here never repeat, and a worn key is seen."""
    tables: list[dict[str, int]] = []

    class Native(Recorder):
        def session_installed(self, session: Session, secrets: SessionSecrets) -> None:
            super().session_installed(session, secrets)
            tables.append({})
            session.link_seal = CountersElsewhere(secrets.link_seal, tables[-1])
            session.link_open = OpeningKey(secrets.link_open)

    pair = SessionPair()
    pair.a.sessions.observe(Native())
    pair.connect(pair.a)
    pair.run(1)
    sent = drive(pair, 5.0, 0.1)
    pair.run(1)
    assert sent == len(pair.a.received) + len(pair.b.received)
    assert tables[-1]["next"] > 20
    tables[-1]["next"] = 1 << 31
    pair.run(11)
    assert 2 == len(tables)


# -- replay --------------------------------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), start=st.sampled_from([0, 2**32 - 1000, 2**63 - 1000, 2**64 - 3000]))
def test_window_of_2048_takes_what_a_set_would_take_in_any_disorder(seed: int, start: int) -> None:
    rng = random.Random(seed)
    window, seen, highest, base = OpeningKey(bytes(32)).window, set(), -1, start
    for _ in range(400):
        base = min(base + rng.choice([0, 1, 1, 1, 2, 100, 2047, 2048, 2049, 10_000]) * (rng.random() < 0.4), 2**64 - 1)
        counter = max(0, base - rng.choice([0, 0, 1, 5, 2046, 2047, 2048, 2049, 5_000]))
        expected = counter not in seen and counter > highest - 2048
        assert expected == window.is_fresh(counter)
        assert expected == window.accept(counter)
        seen.add(counter)
        highest = max(highest, counter)
        assert highest == window.highest
