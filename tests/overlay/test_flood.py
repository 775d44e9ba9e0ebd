"""Handshake floods of 100,000 INITs, from one source and from many, forged and real: who still gets in, and what it costs to refuse."""

from __future__ import annotations

import hashlib
import heapq
import itertools
import random
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from srwan.identity import Identity
from srwan.overlay.admission import ALL_BURST, ALL_PER_S, CALM_BURST, CALM_PER_S, LOADED_S, PER_SOURCE_BURST, PER_SOURCE_PER_S, SOURCES_MAX
from srwan.overlay.handshake import COOKIE_BYTES, INIT_BYTES, SESSION_MAGIC, Handshaker, cookie_mac1
from srwan.overlay.session import DATAGRAMS_MAX, EVENTS_MAX, Sessions
from srwan.testing.session_pair import HIGH, LOW, WALL_0_NS
from srwan.types import NodeId, UdpAddress

FLOOD = 100_000
FLOOD_S = 4.0
"""Virtual time: 25,000 INITs a second."""
HONEST = 100
HERE: UdpAddress = ("192.0.2.2", 2222)
LATENCY_S = 0.04

Attack = Callable[[int], tuple[bytes, UdpAddress]]


class Forger:
    """Makes INITs that pass every check before key agreement, for 2 us each: rubbish with right macs."""

    def __init__(self, seed: int = 0) -> None:
        self._rng = random.Random(seed)
        self._key = hashlib.blake2b(HIGH.node_id, digest_size=32, person=b"srwan/mac1/1").digest()

    def init(self, cookie: bytes = b"") -> bytes:
        body = bytes([SESSION_MAGIC, 1, 0, 0]) + self._rng.randbytes(INIT_BYTES - 36)
        body += hashlib.blake2b(body, key=self._key, digest_size=16).digest()
        return body + (hashlib.blake2b(body, key=cookie, digest_size=16).digest() if cookie else bytes(16))


def spoofed(i: int) -> UdpAddress:
    return (f"10.{i >> 16 & 255}.{i >> 8 & 255}.{i & 255}", 1 + i % 65535)


class Siege:
    """A responder in virtual time, a flood that arrives evenly, and honest initiators of which each calls once."""

    def __init__(self, attack: Attack, *, honest: int = HONEST, flood: int = FLOOD) -> None:
        rng = random.Random(1)
        self.target = Sessions(HIGH, rng, entropy=rng.randbytes)
        self.now = 100.0
        self.target.handle_timer(self.now, WALL_0_NS)
        self.answers: list[tuple[bytes, UdpAddress]] = []
        """What went to the attacker's addresses."""
        self.octets = [0, 0]
        """From the attacker, and to it."""
        self.agreements = 0
        self._attack = attack
        self._serial = itertools.count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._callers: dict[UdpAddress, tuple[Sessions, NodeId]] = {}
        self._count_agreements()
        for i in range(flood):
            self._at(self.now + i * FLOOD_S / flood, partial(self._strike, i))
        for i in range(honest):
            address = (f"198.51.{i // 250}.{i % 250}", 4000 + i)
            caller = Identity(hashlib.sha256(b"honest %d" % i).digest())
            party = random.Random(i)
            self._callers[address] = Sessions(caller, party, entropy=party.randbytes), caller.node_id
            self._at(self.now + 0.2 + i * (FLOOD_S - 1.0) / honest, partial(self._call, address))

    def _count_agreements(self) -> None:
        handshaker, read = self.target._handshaker, Handshaker.read_init

        class Counting(Handshaker):
            def read_init(inner, init: bytes) -> object:  # type: ignore[override] # noqa: N805 - self is the siege
                self.agreements += 1
                return read(inner, init)

        counting = Counting(HIGH)
        assert counting._mac1_key == handshaker._mac1_key
        self.target._handshaker = counting

    def _at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._serial), what))

    def _wall_ns(self) -> int:
        return WALL_0_NS + int(self.now * 1e9)

    def _strike(self, i: int) -> None:
        data, source = self._attack(i)
        self.octets[0] += len(data)
        self.target.receive_datagram(data, source, self.now, self._wall_ns())
        self._flush()

    def _flush(self) -> None:
        for answer, destination in self.target.datagrams_to_send(self.now):
            if destination in self._callers:
                self._at(self.now + LATENCY_S, partial(self._arrive, destination, answer))
            else:
                self.octets[1] += len(answer)
                if len(self.answers) < 1000:
                    self.answers.append((answer, destination))

    def _call(self, address: UdpAddress) -> None:
        caller, _ = self._callers[address]
        caller.handle_timer(self.now, self._wall_ns())
        caller.connect(HIGH.node_id, HERE, self.now)
        self._carry(address)

    def _arrive(self, address: UdpAddress, answer: bytes) -> None:
        self._callers[address][0].receive_datagram(answer, HERE, self.now, self._wall_ns())
        self._carry(address)

    def _carry(self, address: UdpAddress) -> None:
        caller, _ = self._callers[address]
        for data, _ in caller.datagrams_to_send(self.now):
            self._at(self.now + LATENCY_S, partial(self._reach, data, address))
        timer = caller.get_timer()
        if timer is not None and timer < self.now + 10.0:
            self._at(max(timer, self.now + 0.001), partial(self._tick, address))

    def _tick(self, address: UdpAddress) -> None:
        self._callers[address][0].handle_timer(self.now, self._wall_ns())
        for data, _ in self._callers[address][0].datagrams_to_send(self.now):
            self._at(self.now + LATENCY_S, partial(self._reach, data, address))

    def _reach(self, data: bytes, address: UdpAddress) -> None:
        self.target.receive_datagram(data, address, self.now, self._wall_ns())
        self._flush()

    def run(self) -> int:
        """Return how many honest initiators had a confirmed session at the end of the flood."""
        until = self.now + FLOOD_S
        while self._events and self._events[0][0] <= until:
            self.now, _, what = heapq.heappop(self._events)
            what()
        return sum(self.target.current(node) is not None for _, node in self._callers.values())

    def assert_bounded(self) -> None:
        assert len(self.target._gate._sources) <= SOURCES_MAX
        assert len(self.target._events) <= EVENTS_MAX + 2 * HONEST
        assert len(self.target._outbox) <= DATAGRAMS_MAX
        assert len(self.target._table.answers) <= HONEST
        assert len(self.target._table.peers) <= HONEST
        assert self.octets[1] <= self.octets[0]


def test_forged_flood_from_many_sources_keeps_nobody_out_and_costs_nothing_but_cookies() -> None:
    forger = Forger()
    siege = Siege(lambda i: (forger.init(), spoofed(i)))
    assert siege.run() >= 0.99 * HONEST
    siege.assert_bounded()
    assert siege.agreements <= HONEST + CALM_BURST + CALM_PER_S * FLOOD_S
    assert {COOKIE_BYTES} == {len(answer) for answer, _ in siege.answers}
    assert siege.target.drops["no-cookie"] >= FLOOD - CALM_BURST - CALM_PER_S * FLOOD_S


def test_flood_from_one_source_that_takes_its_cookie_and_uses_it_keeps_nobody_out() -> None:
    """It is a real address, so it gets cookies; each INIT of it has a right mac2. Its bucket is what stops it."""
    forger, attacker, cookies = Forger(), ("203.0.113.66", 6), [b""]
    siege: Siege

    def attack(_i: int) -> tuple[bytes, UdpAddress]:
        while siege.answers:
            answer, _ = siege.answers.pop()
            if len(answer) == COOKIE_BYTES:
                started = Handshaker(LOW).start(HIGH.node_id, index=1, timestamp_ns=1, ephemeral=bytes([5]) * 32)
                cookies[0] = started.read_cookie(answer)
        return forger.init(cookies[0]), attacker

    siege = Siege(attack)
    assert siege.run() >= 0.99 * HONEST
    siege.assert_bounded()
    assert siege.agreements <= HONEST + CALM_BURST + PER_SOURCE_BURST + PER_SOURCE_PER_S * FLOOD_S + 1
    assert siege.target.drops["source-rate"] >= 0.99 * FLOOD


def test_flood_from_thousands_of_real_sources_costs_a_bounded_share_of_the_processor() -> None:
    """Each of 5,000 addresses receives its cookie. No address can be told from a friend's, but the common bucket holds."""
    forger = Forger()
    siege: Siege

    def attack(i: int) -> tuple[bytes, UdpAddress]:
        source = spoofed(i % 5000)
        return forger.init(siege.target._cookies.cookie_for(source, siege.now)), source

    siege = Siege(attack, honest=0, flood=FLOOD // 4)
    siege.run()
    siege.assert_bounded()
    assert siege.agreements <= CALM_BURST + ALL_BURST + ALL_PER_S * FLOOD_S + 1


def test_flood_by_who_does_not_know_the_key_is_not_answered_at_all() -> None:
    rng = random.Random(0)
    siege = Siege(lambda i: (bytes([SESSION_MAGIC, 1, 0, 0]) + rng.randbytes(INIT_BYTES - 4), spoofed(i)), flood=FLOOD // 4)
    assert siege.run() >= 0.99 * HONEST
    siege.assert_bounded()
    assert [] == siege.answers
    assert FLOOD // 4 == siege.target.drops["mac1"]


def test_flood_of_one_recorded_init_from_many_sources_costs_no_key_agreement() -> None:
    init = Handshaker(LOW).start(HIGH.node_id, index=1, timestamp_ns=WALL_0_NS, ephemeral=bytes([5]) * 32).datagram()
    siege = Siege(lambda i: (init, spoofed(i)), flood=FLOOD // 4)
    assert siege.run() >= 0.99 * HONEST
    assert siege.agreements <= HONEST + 1
    assert siege.octets[1] <= siege.octets[0]


# -- cookies -------------------------------------------------------------------------------------------------------------------------------


def loaded() -> tuple[Sessions, Forger, Iterator[int]]:
    rng = random.Random(3)
    target, forger = Sessions(HIGH, rng, entropy=rng.randbytes), Forger()
    for i in range(CALM_BURST + 1):
        target.receive_datagram(forger.init(), spoofed(i), 0.0, WALL_0_NS)
    target.datagrams_to_send(0.0)
    return target, forger, itertools.count(1)


def answers(target: Sessions, data: bytes, source: UdpAddress, now: float = 0.0) -> list[bytes]:
    target.receive_datagram(data, source, now, WALL_0_NS)
    return [answer for answer, destination in target.datagrams_to_send(now) if destination == source]


def test_calm_responder_asks_for_no_cookie_and_does_not_again_once_it_is_calm() -> None:
    target, forger, _ = loaded()
    assert [COOKIE_BYTES] == [len(answer) for answer in answers(target, forger.init(), spoofed(1))]
    later = LOADED_S + 1 / CALM_PER_S + 0.1
    init = Handshaker(LOW).start(HIGH.node_id, index=1, timestamp_ns=WALL_0_NS, ephemeral=bytes([5]) * 32).datagram()
    assert [60] == [len(answer) for answer in answers(target, init, spoofed(1), later)]


@pytest.mark.parametrize("where", [("192.0.2.1", 2), ("192.0.2.2", 1), ("192.0.2.11", 1)])
def test_cookie_holds_for_one_address_and_port_and_one_secret(where: UdpAddress) -> None:
    target, _, _ = loaded()
    here = ("192.0.2.1", 1)
    started = Handshaker(LOW).start(HIGH.node_id, index=1, timestamp_ns=WALL_0_NS, ephemeral=bytes([5]) * 32)
    (answer,) = answers(target, started.datagram(), here)
    assert started.mac1 == cookie_mac1(answer)
    cookie = started.read_cookie(answer)
    assert [COOKIE_BYTES] == [len(data) for data in answers(target, started.datagram(cookie), where)]
    target._gate._loaded_until = 1e9
    assert [COOKIE_BYTES] == [len(data) for data in answers(target, started.datagram(cookie), here, 121.0)]
    assert cookie != started.read_cookie(answers(target, started.datagram(), here, 121.0)[0])
    assert [60] == [len(data) for data in answers(target, started.datagram(target._cookies.cookie_for(here, 121.0)), here, 121.0)]


def test_cookie_that_does_not_open_or_answers_nothing_changes_nothing() -> None:
    rng = random.Random(4)
    caller = Sessions(LOW, rng, entropy=rng.randbytes)
    caller.handle_timer(0.0, WALL_0_NS)
    caller.connect(HIGH.node_id, HERE, 0.0)
    ((init, _),) = caller.datagrams_to_send(0.0)
    responder = Handshaker(HIGH)
    good = responder.give_cookie(responder.require_mac1(init), b"c" * 16, b"n" * 12)
    forged = good[:-1] + bytes([good[-1] ^ 1])
    other = responder.give_cookie(bytes(16), b"c" * 16, b"n" * 12)
    for data in (forged, other):
        caller.receive_datagram(data, HERE, 0.0, WALL_0_NS)
    assert {"cookie": 1, "late-response": 1} == dict(caller.drops)
    assert [] == caller.datagrams_to_send(0.0)
    caller.receive_datagram(good, HERE, 0.0, WALL_0_NS)
    ((again, destination),) = caller.datagrams_to_send(0.0)
    assert (HERE, init[:-16]) == (destination, again[:-16])
    assert Handshaker.has_mac2(again, b"c" * 16)
    caller.receive_datagram(good, HERE, 0.0, WALL_0_NS)
    assert [] == caller.datagrams_to_send(0.0)


def test_initiator_sends_a_bounded_number_of_inits_however_many_cookies_it_gets() -> None:
    rng = random.Random(4)
    caller = Sessions(LOW, rng, entropy=rng.randbytes)
    caller.handle_timer(0.0, WALL_0_NS)
    caller.connect(HIGH.node_id, HERE, 0.0)
    ((init, _),) = caller.datagrams_to_send(0.0)
    responder = Handshaker(HIGH)
    mac1 = responder.require_mac1(init)
    for i in range(100):
        caller.receive_datagram(responder.give_cookie(mac1, bytes([i]) * 16, bytes(12)), HERE, 0.0, WALL_0_NS)
    assert 8 == len(caller.datagrams_to_send(0.0))
