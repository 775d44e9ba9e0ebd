"""Packets of a neighbour at a low rate: the bucket, and what both data planes make of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srwan.overlay.session import Sessions
from srwan.overlay.view import Role
from srwan.routing.payload import Payload, PayloadKind
from srwan.routing.portable import PortableForwarder
from srwan.routing.sid import Function, locator_of
from srwan.routing.throttle import TagLimit
from srwan.testing.packets import SrNetwork, SrRouter
from srwan.types import NodeId

PAID, UNPAID = 1, 2
RATE = 10_000
BODY = bytes(800)
S_NS = 1_000_000_000


def make_native(node_id: NodeId, sessions: Sessions, **arguments: Any) -> PortableForwarder:
    from srwan.routing.native._core import Plane
    from srwan.routing.native.forwarder import NativeForwarder

    return NativeForwarder(Plane(locator_of(node_id)), node_id, sessions, **arguments)


PLANES: dict[str, Callable[..., PortableForwarder]] = {"portable": PortableForwarder, "native": make_native}


@pytest.fixture(params=["portable", pytest.param("native", marks=pytest.mark.needs("native"))])
def network(request: pytest.FixtureRequest) -> SrNetwork:
    return SrNetwork(0, PLANES[str(request.param)])


def send(network: SrNetwork, routers: list[SrRouter], path_tag: int, count: int) -> None:
    ingress, relay, egress = routers
    path = (relay.sid(), egress.sid(Function.END_APP))
    for seq in range(count):
        payload = Payload(PayloadKind.DATA, 5, seq, network.now_ns + ingress.offset_ns, BODY)
        assert ingress.forwarder.send_payload(path, path_tag, egress.node_id, payload.encode())
    network.run()


def received(routers: list[SrRouter], path_tag: int) -> int:
    count = routers[2].forwarder.counters().received.get((routers[0].node_id, path_tag))
    return 0 if count is None else count.packets


def throttle(routers: list[SrRouter], tags: set[int], *, is_exempt: bool, rate: int = RATE) -> None:
    routers[1].forwarder.throttle(routers[0].node_id, frozenset(tags), is_exempt=is_exempt, octets_per_s=rate)


@pytest.mark.parametrize("is_exempt", [False, True])
def test_only_what_is_named_or_only_what_is_not_is_slowed_down(network: SrNetwork, *, is_exempt: bool) -> None:
    routers = network.line([Role.RELAY] * 3)
    throttle(routers, {PAID if is_exempt else UNPAID}, is_exempt=is_exempt)
    send(network, routers, PAID, 40)
    send(network, routers, UNPAID, 40)
    assert 40 == received(routers, PAID)
    assert 0 < received(routers, UNPAID) < 10
    dropped = routers[1].drops["throttled"]
    assert 40 == received(routers, UNPAID) + dropped
    relayed = routers[1].forwarder.counters().relayed[routers[0].node_id, UNPAID]
    assert received(routers, UNPAID) == relayed.packets, "what was dropped was not relayed"


def test_the_rate_is_that_of_the_limit_and_all_tags_share_it(network: SrNetwork) -> None:
    routers = network.line([Role.RELAY] * 3)
    throttle(routers, set(), is_exempt=True)
    for second in range(10):
        for tag in range(5):
            send(network, routers, 100 + tag, 6)
        network.now_ns += S_NS
        throttle(routers, {second}, is_exempt=True)  # said again, with other tags: the bucket stays as it is
    octets = sum(count.octets for count in routers[1].forwarder.counters().relayed.values())
    assert 0.4 * 10 * RATE <= octets <= 10 * RATE + 5_000


def test_without_a_limit_all_packets_pass_again(network: SrNetwork) -> None:
    routers = network.line([Role.RELAY] * 3)
    throttle(routers, {UNPAID}, is_exempt=False)
    throttle(routers, set(), is_exempt=False, rate=0)
    send(network, routers, UNPAID, 40)
    assert 40 == received(routers, UNPAID)
    assert {} == routers[1].drops


def test_a_neighbour_that_left_is_not_slowed_down_when_it_comes_back(network: SrNetwork) -> None:
    routers = network.line([Role.RELAY] * 3)
    throttle(routers, set(), is_exempt=True)
    routers[1].forwarder.drop_peer(routers[0].node_id)
    send(network, routers, UNPAID, 40)
    assert 40 == received(routers, UNPAID)


@given(
    rate=st.integers(1, 10**9),
    steps=st.lists(st.tuples(st.floats(-1, 3, allow_nan=False), st.integers(1, 1500)), max_size=50),
)
def test_never_more_passes_than_rate_and_burst_allow(rate: int, steps: list[tuple[float, int]]) -> None:
    limit = TagLimit(frozenset(), is_exempt=True, octets_per_s=rate)
    now = highest = 0.0
    passed = 0
    for step, octets in steps:
        now += step
        highest = max(highest, now)
        passed += octets if limit.take(octets, now) else 0
    start = max(0.0, steps[0][0]) if steps else 0.0
    assert passed <= max(3_000, rate / 2) + (highest - start + 1) * rate
