"""Token buckets: their rates, their bounds, and what counts as one source."""

from __future__ import annotations

import random

import pytest

from srwan.errors import RemoteProtocolError
from srwan.overlay.admission import CALM_BURST, LOADED_S, PER_SOURCE_BURST, SECRET_S, SOURCES_MAX, CookieJar, InitGate, TokenBucket
from srwan.overlay.way import RelayedWay, Way


def test_bucket_refills_at_its_rate_up_to_its_burst() -> None:
    bucket = TokenBucket(2.0, 3, 10.0)
    assert [True, True, True, False] == [bucket.take(10.0) for _ in range(4)]
    assert [True, False] == [bucket.take(10.5) for _ in range(2)]
    assert [True, True, True, False] == [bucket.take(100.0) for _ in range(4)]


def test_gate_counts_an_ipv6_64_as_one_source_and_stays_bounded() -> None:
    gate = InitGate()
    for i in range(PER_SOURCE_BURST):
        gate.admit((f"2001:db8::{i:x}", i), 0.0, is_known=False)
    with pytest.raises(RemoteProtocolError) as caught:
        gate.admit(("2001:db8::ffff", 1), 0.0, is_known=False)
    assert "source-rate" == caught.value.reason
    gate.admit(("2001:db8:0:1::1", 1), 0.0, is_known=False)
    for i in range(2 * SOURCES_MAX):
        gate.admit((f"host {i}", 1), 1000.0 + i, is_known=False)
    assert SOURCES_MAX == len(gate._sources)


def test_gate_is_loaded_from_the_first_handshake_beyond_the_rate_until_a_while_after_the_last() -> None:
    gate = InitGate()
    assert [False] * CALM_BURST + [True] == [gate.is_loaded(10.0) for _ in range(CALM_BURST + 1)]
    assert gate.is_loaded(10.0 + LOADED_S / 2)
    assert not gate.is_loaded(10.0 + LOADED_S)


def test_cookies_differ_by_all_of_the_source_and_hold_until_the_secret_changes() -> None:
    rng = random.Random(0)
    jar = CookieJar(rng.randbytes)
    ways: list[Way] = [
        ("192.0.2.1", 1),
        ("192.0.2.1", 2),
        ("192.0.2.11", 1),
        ("2001:db8::1", 1),
        RelayedWay((bytes(16), bytes(16)), 1),
        RelayedWay((bytes(16), bytes(16)), 2),
        RelayedWay((bytes(16), bytes(15) + b"\1"), 1),
        RelayedWay((bytes(15) + b"\1", bytes(16)), 1),
    ]
    cookies = [jar.cookie_for(way, 5.0) for way in ways]
    assert len(ways) == len(set(cookies))
    assert {16} == {len(cookie) for cookie in cookies}
    assert cookies == [jar.cookie_for(way, 5.0 + SECRET_S - 0.1) for way in ways]
    assert set(cookies).isdisjoint(jar.cookie_for(way, 5.0 + SECRET_S) for way in ways)
