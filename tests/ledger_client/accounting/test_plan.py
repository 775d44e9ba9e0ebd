"""The plan: bounds, bytes, and what is owed where latency counts."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srwan.errors import RemoteProtocolError
from srwan.ledger_client.accounting.plan import NO_OFFER, PathPlan, amount_due, price_at
from srwan.ledger_client.settlement.signing import keccak256
from srwan.types import NodeId
from srwan.wire import pack, unpack

nodes = st.binary(min_size=32, max_size=32).map(NodeId)


@st.composite
def plans(draw: st.DrawFn) -> PathPlan:
    members = draw(st.lists(nodes, min_size=3, max_size=10, unique=True))
    relays = tuple(members[1:-1])
    offers = tuple(draw(st.binary(min_size=32, max_size=32)) for _ in relays)
    raw = st.integers(-(2**62), 2**62)
    saved = draw(st.integers(0, 10**9))
    return PathPlan(members[0], relays, members[-1], offers, draw(raw), draw(raw), saved, draw(st.binary(min_size=16, max_size=16)))


@given(plan=plans())
def test_it_is_read_as_it_was_written(plan: PathPlan) -> None:
    assert plan == PathPlan.decode(plan.encode())
    assert keccak256(plan.encode()) == plan.digest


@given(data=st.binary(max_size=200))
def test_random_bytes_are_refused_as_the_peers_fault(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        PathPlan.decode(data)


@given(plan=plans(), at=st.integers(0, 8), value=st.one_of(st.none(), st.booleans(), st.integers(-1, 3), st.just([]), st.just(b"x")))
def test_a_field_of_another_kind_is_refused_or_is_another_plan(plan: PathPlan, at: int, value: Any) -> None:
    fields = unpack(plan.encode(), bytes_max=1024)
    fields[at] = value
    try:
        other = PathPlan.decode(pack(fields))
    except RemoteProtocolError:
        return
    assert other.encode() == pack(fields)


@pytest.mark.parametrize(
    "change",
    [
        {"relays": (), "offers": ()},
        {"offers": (NO_OFFER,)},
        {"offers": (bytes(31), bytes(32))},
        {"saved_full_us": -1},
        {"saved_full_us": 10**9 + 1},
        {"nonce": bytes(15)},
        {"predicted_us": 2**62 + 1},
        {"direct_us": -(2**62) - 1},
    ],
)
def test_what_is_out_of_bounds_is_refused(deal: Any, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="plan"):
        attrs.evolve(deal.plan, **change)


def test_no_router_comes_twice(deal: Any) -> None:
    for change in ({"egress": deal.plan.consumer}, {"consumer": deal.plan.relays[0]}, {"relays": (deal.plan.relays[0],) * 2}):
        with pytest.raises(ValueError, match="twice"):
            attrs.evolve(deal.plan, **change)


def test_who_hands_over_to_whom(deal: Any) -> None:
    plan = deal.plan
    assert plan.consumer == plan.before(plan.relays[0])
    assert plan.relays == (plan.before(plan.relays[1]), plan.before(plan.egress))
    with pytest.raises(ValueError, match="before"):
        plan.before(plan.consumer)


@pytest.mark.parametrize(
    ("saved_us", "share"), [(-5, 0), (0, 0), (1, 0.0001), (5_000, 0.5), (9_999, 0.9999), (10_000, 1), (99_000, 1), (-(2**62), 0)]
)
def test_what_is_owed_follows_the_latency_saved(latency_deal: Any, saved_us: int, share: float) -> None:
    octets = 100_000_000
    assert round(1_000_000 * share) == amount_due(latency_deal.terms, latency_deal.plan, octets, saved_us)


def test_what_is_owed_never_exceeds_the_cap(deal: Any) -> None:
    assert 5_000_000 == amount_due(deal.terms, deal.plan, 10**12, 0)
    assert 10**10 == price_at(deal.terms, deal.plan, 10**12, 0)
    assert 0 == amount_due(deal.terms, deal.plan, 99, 0)
