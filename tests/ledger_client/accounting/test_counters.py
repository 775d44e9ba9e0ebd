"""Counters: bounds, order, bytes, the sizes of the largest, and what of a datagram is body."""

from __future__ import annotations

import itertools
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srwan.errors import DecodeError, RemoteProtocolError
from srwan.ledger_client.accounting.counters import (
    NEIGHBOURS_MAX,
    SESSIONS_MAX,
    NeighbourCount,
    RouterCounters,
    SessionCount,
    SessionRole,
    bodies_in,
    counters_of_statement,
    packet_overhead_octets,
)
from srwan.ledger_client.record import CONTENT_BYTES_MAX, Kind, verify
from srwan.ledger_client.statement import Statement
from srwan.overlay.view import Role
from srwan.routing.payload import Payload, PayloadKind
from srwan.routing.sid import Function
from srwan.testing.packets import SrNetwork
from srwan.types import NodeId

MOST = 2**63 - 1
counts = st.integers(0, MOST)
keys = st.binary(min_size=32, max_size=32)
neighbours = st.dictionaries(keys.map(NodeId), st.tuples(counts, counts), max_size=5).map(
    lambda found: tuple(NeighbourCount(node, *octets) for node, octets in sorted(found.items()))
)
sessions = st.dictionaries(st.tuples(keys, st.sampled_from(SessionRole)), st.tuples(counts, counts), max_size=5).map(
    lambda found: tuple(SessionCount(*key, *octets) for key, octets in sorted(found.items()))
)
readings = st.builds(RouterCounters, counts, counts, counts, counts, neighbours, sessions)


@given(counters=readings)
def test_they_are_read_as_they_were_written(counters: RouterCounters) -> None:
    assert counters == RouterCounters.decode(counters.encode())


@given(data=st.binary(max_size=300))
def test_random_bytes_are_refused_as_the_peers_fault(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        RouterCounters.decode(data)


def test_the_largest_fit_a_record() -> None:
    near = tuple(NeighbourCount(NodeId(n.to_bytes(32, "big")), MOST, MOST) for n in range(NEIGHBOURS_MAX))
    paid = tuple(SessionCount(n.to_bytes(32, "big"), SessionRole.RELAYED, MOST, MOST) for n in range(SESSIONS_MAX))
    largest = RouterCounters(MOST, MOST, MOST, MOST, near, paid)
    assert len(largest.encode()) <= CONTENT_BYTES_MAX[Kind.COUNTERS]
    with pytest.raises(ValueError, match="too many"):
        attrs.evolve(largest, sessions=(*paid, SessionCount(b"\xff" * 32, SessionRole.SENT, 1, 1)))


def test_what_is_out_of_order_or_bounds_is_refused() -> None:
    first, second = (SessionCount(bytes([n]) * 32, SessionRole.SENT, 1, 1) for n in (1, 2))
    near = NeighbourCount(NodeId(bytes(32)), 1, 1)
    for change in ({"sessions": (second, first)}, {"sessions": (first, first)}, {"neighbours": (near, near)}):
        with pytest.raises(ValueError, match="order"):
            attrs.evolve(RouterCounters(1, 1, 1, 1), **change)
    for value in (-1, MOST + 1):
        with pytest.raises(ValueError, match="bounds"):
            RouterCounters(1, 1, value, 1)


def test_they_are_published_by_their_router_only(deal: Any) -> None:
    counters = RouterCounters(3, 4, 5, 6, (), (SessionCount(deal.terms.session_id, SessionRole.SENT, 1, 2),))
    statement = counters.statement(deal.consumer.node_id, deal.terms.session_id, issued_ns=10**18, expires_ns=10**18 + 1)
    record = statement.record(deal.consumer)
    verify(record)
    assert counters == counters_of_statement(Statement.of_record(record))
    assert 2 == getattr(counters.session(deal.terms.session_id, SessionRole.SENT), "octets", None)
    assert counters.session(deal.terms.session_id, SessionRole.RELAYED) is None
    with pytest.raises(DecodeError, match="version"):
        counters_of_statement(attrs.evolve(statement, content=attrs.evolve(counters, sequence=5).encode()))


@pytest.mark.parametrize("relays", [1, 2, 3])
def test_what_a_relay_counts_less_the_overhead_is_what_the_egress_counts(relays: int) -> None:
    network = SrNetwork(0)
    routers = network.line([Role.RELAY] * (relays + 2))
    path = (*(router.sid() for router in routers[1:-1]), routers[-1].sid(Function.END_APP))
    for seq, length in enumerate((0, 1, 700, 1200)):
        payload = Payload(PayloadKind.DATA, 5, seq, network.now_ns, bytes(length)).encode()
        assert routers[0].forwarder.send_payload(path, 7, routers[-1].node_id, payload)
    network.run()
    for before, router in itertools.pairwise(routers[:-1]):
        count = router.forwarder.counters().relayed[before.node_id, 7]
        assert 1901 == bodies_in(count.octets, count.packets, relays)
    assert 1901 == routers[-1].forwarder.counters().received[routers[0].node_id, 7].octets
    assert 100 + 16 * (relays + 1) == packet_overhead_octets(relays)


def test_fewer_octets_than_overhead_are_none() -> None:
    assert 0 == bodies_in(131, 1, 1)
    assert 1 == bodies_in(133, 1, 1)
