"""Who is asked for a newer certificate, and how often."""

from __future__ import annotations

import random
from collections import Counter

import attrs

from srwan.identity import Identity
from srwan.overlay.renewals import ASK_JITTER, ASK_S, Renewals
from srwan.overlay.view import Member, Role
from srwan.types import GeoAsn

S = 1_000_000_000
MEMBERS = [
    Member(
        node_id=Identity(bytes([number]) * 32).node_id,
        boot=1,
        seq=0,
        name="",
        udp=(("192.0.2.1", 1),),
        control=(),
        location=GeoAsn(),
        roles=Role.RELAY,
        issued_ns=0,
        expires_ns=600 * S,
        is_leaving=False,
        group=bytes(8),
    )
    for number in range(1, 6)
]
ME, *OTHERS = sorted(member.node_id for member in MEMBERS)


def test_nobody_is_asked_while_all_certificates_are_young() -> None:
    renewals = Renewals(random.Random(1))
    assert renewals.due_at is None
    renewals.start(100.0)
    assert renewals.choose(MEMBERS, OTHERS, 120.0, 300 * S) is None
    assert renewals.due_at is not None
    assert 120.0 + ASK_S <= renewals.due_at <= 120.0 + ASK_S * (1 + ASK_JITTER)


def test_the_owner_of_an_old_certificate_is_asked_half_of_the_time_and_all_others_in_turns() -> None:
    renewals = Renewals(random.Random(1))
    old = OTHERS[2]
    members = [member if member.node_id == old else attrs.evolve(member, issued_ns=290 * S, expires_ns=890 * S) for member in MEMBERS]
    asked = Counter(renewals.choose(members, OTHERS, 0.0, 301 * S) for _ in range(1000))
    assert set(OTHERS) == set(asked)
    assert 550 < asked[old] < 700


def test_the_own_certificate_is_not_asked_for() -> None:
    renewals = Renewals(random.Random(1))
    members = [attrs.evolve(member, issued_ns=290 * S, expires_ns=890 * S) for member in MEMBERS if member.node_id != ME]
    mine = next(member for member in MEMBERS if member.node_id == ME)
    assert renewals.choose([mine, *members], OTHERS, 0.0, 500 * S) is None
