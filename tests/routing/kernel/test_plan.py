"""What a kernel must hold, and the way there: no kernel, a model of one."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srwan.errors import RoutingError
from srwan.kernel_config import Circuit, Delivery, HmacKey
from srwan.overlay.view import Role
from srwan.routing.kernel.plan import (
    KEY_ID_BASE,
    SIDS_MAX,
    TABLE_ROUTES,
    TABLE_SIDS,
    CircuitTable,
    KernelRoute,
    KernelRule,
    KernelState,
    KernelWish,
    LocalAction,
    NextHop,
    PutRoute,
    RemoveRoute,
    apply_operation,
    billed_sid,
    delivery_sid,
    difference,
    locator_prefix,
    plan_kernel,
)
from srwan.routing.sid import Function, Sid
from srwan.types import NodeId

A, R, S, C = (NodeId(bytes([number]) * 32) for number in (1, 2, 3, 4))
MAIN, SITE = Delivery("End.DT6", table=254), Delivery("End.DX4", next_hop="10.0.0.1")
WISH = KernelWish(node_id=A, roles=Role.RELAY | Role.EGRESS, interfaces=("eth1", "eth2"), next_hops={R: NextHop("eth1", "fe80::2")})
KEY = HmacKey(KEY_ID_BASE + 1, bytes(16))


def routes_of(wish: KernelWish) -> dict[str, KernelRoute]:
    return {prefix: route for (_, prefix), route in plan_kernel(wish).routes.items()}


# --- SIDs --------------------------------------------------------------------------------------------------------------


def test_sids_of_deliveries_say_what_they_do_in_their_argument() -> None:
    assert (Function.END_DT6, 254) == (delivery_sid(C, MAIN).function, delivery_sid(C, MAIN).argument)
    assert (Function.END_DX4, 0x0A000001) == (delivery_sid(C, SITE).function, delivery_sid(C, SITE).argument)
    by_destination = delivery_sid(C, Delivery("End.DX6", next_hop="::"))
    assert (Function.END_DX6, 0) == (by_destination.function, by_destination.argument)
    assert by_destination != delivery_sid(C, Delivery("End.DX6", next_hop="fd00::1"))


def test_billed_sids_differ_by_node_neighbour_and_circuit_and_never_change() -> None:
    assert "fd61:5da8:5f9e:2a36:1:f6c:32cd:9332" == str(billed_sid(R, NodeId(bytes([1]) * 32), 7))
    sids = {billed_sid(node, upstream, circuit) for node in (R, S) for upstream in (A, C) for circuit in (1, 2)}
    assert 8 == len(sids)
    assert {Function.END} == {sid.function for sid in sids}
    assert Sid.of(R, Function.END) not in sids


# --- planning ----------------------------------------------------------------------------------------------------------


def test_a_relay_gets_end_and_the_billed_ones_an_egress_its_deliveries() -> None:
    routes = routes_of(attrs.evolve(WISH, deliveries=(MAIN, SITE), bills=((R, 7),)))
    locals_ = {prefix: route.local for prefix, route in routes.items() if route.local}

    assert locals_ == {
        f"{Sid.of(A, Function.END)}/128": LocalAction("End"),
        f"{billed_sid(A, R, 7)}/128": LocalAction("End"),
        f"{delivery_sid(A, MAIN)}/128": LocalAction("End.DT6", table=254),
        f"{delivery_sid(A, SITE)}/128": LocalAction("End.DX4", next_hop="10.0.0.1"),
    }
    assert {TABLE_SIDS} == {route.table for route in routes.values() if route.local}


def test_without_the_role_there_is_no_sid() -> None:
    wish = attrs.evolve(WISH, roles=Role(0), deliveries=(MAIN,), bills=((R, 7),))
    assert [locator_prefix(R)] == list(routes_of(wish))


def test_kernels_that_cannot_count_are_not_asked_to() -> None:
    routes = routes_of(attrs.evolve(WISH, deliveries=(MAIN,), can_count=False))
    assert {False} == {route.local.is_counted for route in routes.values() if route.local}


def test_sids_are_looked_up_for_underlay_interfaces_only_and_ipv4_only_if_carried() -> None:
    assert plan_kernel(WISH).rules == (KernelRule(6, TABLE_ROUTES), KernelRule(6, TABLE_SIDS, "eth1"), KernelRule(6, TABLE_SIDS, "eth2"))
    with_ipv4 = attrs.evolve(WISH, routes={"10.0.0.0/8": (delivery_sid(C, SITE),)})
    assert KernelRule(4, TABLE_ROUTES) in plan_kernel(with_ipv4).rules


def test_what_is_for_us_and_no_sid_goes_to_user_space() -> None:
    route = routes_of(attrs.evolve(WISH, native_interface="tun9"))[locator_prefix(A)]
    assert (TABLE_SIDS, "tun9", "") == (route.table, route.interface, route.gateway)


def test_an_encapsulating_route_names_segments_and_key() -> None:
    segments = (Sid.of(R, Function.END), delivery_sid(C, MAIN))
    state = plan_kernel(attrs.evolve(WISH, routes={"fd99::/64": segments}, hmac_key=KEY))
    assert KernelRoute(TABLE_ROUTES, "fd99::/64", "eth1", segments=segments, hmac_key=KEY.key_id) == state.routes[TABLE_ROUTES, "fd99::/64"]
    assert {KEY.key_id: KEY} == state.keys


@pytest.mark.parametrize("count", [0, 9])
def test_segments_that_fit_no_header_are_refused(count: int) -> None:
    with pytest.raises(RoutingError, match=f"fd99::/64: {count} segments, 1 to 8"):
        plan_kernel(attrs.evolve(WISH, routes={"fd99::/64": (Sid.of(R, Function.END),) * count}))


def test_the_number_of_sids_is_bounded() -> None:
    with pytest.raises(RoutingError, match=f"more than {SIDS_MAX}"):
        plan_kernel(attrs.evolve(WISH, bills=tuple((R, number) for number in range(1, SIDS_MAX + 1))))


def test_without_an_underlay_there_is_no_plan() -> None:
    with pytest.raises(RoutingError, match="underlay"):
        plan_kernel(attrs.evolve(WISH, interfaces=()))


# --- the way there -----------------------------------------------------------------------------------------------------

nodes = st.sampled_from((R, S, C))
hops = st.builds(NextHop, st.sampled_from(("eth1", "eth2")), st.sampled_from(("fe80::2", "fe80::3")))
paths = st.lists(st.sampled_from((Sid.of(R, Function.END), Sid.of(S, Function.END), billed_sid(R, A, 7))), max_size=2).map(
    lambda ends: (*ends, delivery_sid(C, MAIN))
)
keys = st.none() | st.builds(HmacKey, st.sampled_from((KEY_ID_BASE + 1, KEY_ID_BASE + 2)), st.sampled_from((bytes(16), bytes(17))))
wishes = st.builds(
    KernelWish,
    node_id=st.just(A),
    roles=st.sampled_from((Role(0), Role.RELAY, Role.EGRESS, Role.RELAY | Role.EGRESS)),
    interfaces=st.sampled_from((("eth1",), ("eth1", "eth2"), ("eth2",))),
    next_hops=st.dictionaries(nodes, hops),
    deliveries=st.lists(st.sampled_from((MAIN, SITE)), unique=True).map(tuple),
    bills=st.lists(st.tuples(nodes, st.integers(1, 3)), unique=True, max_size=4).map(tuple),
    routes=st.dictionaries(st.sampled_from(("fd99::/64", "fd98::/48", "10.0.0.0/8")), paths),
    hmac_key=keys,
    native_interface=st.sampled_from(("", "tun9")),
    can_count=st.booleans(),
)


@given(st.lists(wishes, max_size=5))
def test_any_sequence_of_wishes_applied_by_difference_ends_as_wished(sequence: list[KernelWish]) -> None:
    kernel = KernelState()
    for wish in sequence:
        wanted = plan_kernel(wish)
        for operation in difference(kernel, wanted):
            kernel = apply_operation(kernel, operation)
        assert wanted == kernel
        assert [] == difference(kernel, wanted)
    for operation in difference(kernel, KernelState()):
        kernel = apply_operation(kernel, operation)
    assert KernelState() == kernel


@given(wishes, wishes)
def test_what_both_states_serve_is_served_at_every_step_between(before: KernelWish, after: KernelWish) -> None:
    first, last = plan_kernel(before), plan_kernel(after)
    kept = first.routes.keys() & last.routes.keys()
    kernel = first
    for operation in difference(first, last):
        kernel = apply_operation(kernel, operation)
        assert kept <= kernel.routes.keys()
        assert set(first.rules) & set(last.rules) <= set(kernel.rules)
        for key in kept:
            assert kernel.routes[key] in (first.routes[key], last.routes[key])
        for route in kernel.routes.values():
            assert not route.hmac_key or route.hmac_key in kernel.keys
            way = (TABLE_ROUTES, locator_prefix(_owner(route.segments[0]))) if route.segments else route.key
            states = [state for state in (first, last) if state.routes.get(route.key) == route]
            assert way in kernel.routes or not all(way in state.routes for state in states)


def _owner(sid: Sid) -> NodeId:
    return next(node for node in (R, S, C) if Sid.of(node, Function.END).locator == sid.locator)


def test_a_route_that_changes_is_replaced_and_one_that_stays_is_not_touched() -> None:
    before = attrs.evolve(WISH, routes={"fd99::/64": (delivery_sid(C, MAIN),), "fd98::/64": (delivery_sid(C, MAIN),)})
    over_r = (Sid.of(R, Function.END), delivery_sid(C, MAIN))
    after = attrs.evolve(before, routes={"fd99::/64": over_r, "fd98::/64": (delivery_sid(C, MAIN),)})

    (operation,) = difference(plan_kernel(before), plan_kernel(after))
    assert PutRoute(KernelRoute(TABLE_ROUTES, "fd99::/64", "eth1", segments=over_r)) == operation


def test_encapsulation_is_made_last_and_removed_first() -> None:
    wish = attrs.evolve(WISH, routes={"fd99::/64": (Sid.of(R, Function.END), delivery_sid(C, MAIN))}, hmac_key=KEY)
    made = difference(KernelState(), plan_kernel(wish))
    removed = difference(plan_kernel(wish), KernelState())

    assert ["PutKey", "PutRoute", "PutRoute", "AddRule", "AddRule", "AddRule", "PutRoute"] == [type(step).__name__ for step in made]
    assert isinstance(made[-1], PutRoute)
    assert made[-1].route.segments
    assert isinstance(removed[0], RemoveRoute)
    assert removed[0].route.segments
    assert "RemoveKey" == type(removed[-1]).__name__


# --- paths -------------------------------------------------------------------------------------------------------------


def circuits() -> CircuitTable:
    listed = (Circuit("fd99::/64", C, MAIN, 7), Circuit("10.0.0.0/8", C, SITE))
    return CircuitTable(A, listed, (R, S, C))


def test_no_path_no_route() -> None:
    table = circuits()
    assert ({}, (C,)) == (table.routes(), table.peers)


def test_routes_follow_the_path_and_are_billed_per_neighbour() -> None:
    table = circuits()
    assert table.follow_path(C, ())
    assert {"fd99::/64": (delivery_sid(C, MAIN),), "10.0.0.0/8": (delivery_sid(C, SITE),)} == table.routes()
    assert table.follow_path(C, (R, S))
    assert table.routes() == {
        "fd99::/64": (billed_sid(R, A, 7), billed_sid(S, R, 7), delivery_sid(C, MAIN)),
        "10.0.0.0/8": (Sid.of(R, Function.END), Sid.of(S, Function.END), delivery_sid(C, SITE)),
    }


def test_a_path_over_a_stranger_changes_nothing() -> None:
    table = circuits()
    table.follow_path(C, (R,))
    before = table.routes()
    assert not table.follow_path(C, (NodeId(bytes(32)),))
    assert not table.follow_path(C, (R,))
    assert before == table.routes()
