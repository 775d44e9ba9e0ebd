"""What every data plane must do, whichever it is: one suite over all implementations of `Forwarder`, in memory, with real sessions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srwan.overlay.session import Sessions
from srwan.overlay.view import Role
from srwan.routing.egress import AckArrived, FlowClosed, NoticeArrived
from srwan.routing.forwarder import Forwarder
from srwan.routing.payload import KeepAlive, NoticeReason, Payload, PayloadKind
from srwan.routing.portable import PortableForwarder
from srwan.routing.relay import NeedSession
from srwan.routing.sid import Function, Sid, locator_of
from srwan.routing.traffic import DROP_EVENTS_MAX, TrafficCount
from srwan.testing.packets import InFlight, SrNetwork, SrRouter
from srwan.types import NodeId, PeerMisbehaved, UdpAddress

PATH_TAG, FLOW = 0xC0FFEE, 42
ELSEWHERE: UdpAddress = ("127.0.0.9", 999)
STRANGER = NodeId(bytes([7]) * 32)
S_NS = 1_000_000_000


def make_native(node_id: NodeId, sessions: Sessions, **arguments: Any) -> PortableForwarder:
    from srwan.routing.native._core import Plane
    from srwan.routing.native.forwarder import NativeForwarder

    return NativeForwarder(Plane(locator_of(node_id)), node_id, sessions, **arguments)


PLANES: dict[str, Callable[..., PortableForwarder]] = {"portable": PortableForwarder, "native": make_native}


@pytest.fixture(params=["portable", pytest.param("native", marks=pytest.mark.needs("native"))])
def plane(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def line(plane: str, count: int = 3, roles: Role = Role.RELAY) -> tuple[SrNetwork, list[SrRouter]]:
    network = SrNetwork(0, PLANES[plane])
    return network, network.line([roles] * count)


def path_over(routers: list[SrRouter]) -> tuple[Sid, ...]:
    return (*(router.sid() for router in routers[1:-1]), routers[-1].sid(Function.END_APP))


def send(network: SrNetwork, routers: list[SrRouter], body: bytes, *, kind: PayloadKind = PayloadKind.DATA, seq: int = 0) -> bool:
    ingress, egress = routers[0], routers[-1]
    flow = FLOW if kind in {PayloadKind.DATA, PayloadKind.CLOSE} else 0
    payload = Payload(kind, flow, seq, network.now_ns + ingress.offset_ns, body)
    return ingress.forwarder.send_payload(path_over(routers), PATH_TAG, egress.node_id, payload.encode())


def bodies(router: SrRouter) -> list[bytes]:
    return [packet.body for inbox in router.forwarder.ready_flows() for packet in inbox.take()]


def events(router: SrRouter) -> list[object]:
    found: list[object] = []
    while (event := router.forwarder.next_event()) is not None:
        found.append(event)
    return found


def test_it_is_a_forwarder_with_a_name(plane: str) -> None:
    _, routers = line(plane)
    forwarder: Forwarder = routers[0].forwarder
    assert plane == forwarder.name


@pytest.mark.parametrize("relays", range(8))
def test_datagram_goes_from_ingress_over_relays_to_egress_and_back(plane: str, relays: int) -> None:
    network, routers = line(plane, relays + 2)
    assert send(network, routers, b"there")
    network.run()
    assert [b"there"] == bodies(routers[-1])
    assert send(network, routers[::-1], b"and back")
    network.run()
    assert [b"and back"] == bodies(routers[0])
    assert [{}] * len(routers) == [router.drops for router in routers]


def test_a_keepalive_is_answered_with_what_arrived(plane: str) -> None:
    network, routers = line(plane, 4)
    for seq in range(3):
        send(network, routers, b"12345", seq=seq)
    send(network, routers, KeepAlive(3, 15).encode(), kind=PayloadKind.KEEPALIVE, seq=8)
    network.run()
    (event,) = [event for event in events(routers[0]) if isinstance(event, AckArrived) and event.ack.keepalive_seq == 8]
    assert (routers[-1].node_id, PATH_TAG, 3, 15) == (event.peer, event.path_tag, event.ack.packets, event.ack.octets)


def test_a_closed_flow_is_told_once(plane: str) -> None:
    network, routers = line(plane)
    send(network, routers, b"x")
    send(network, routers, b"", kind=PayloadKind.CLOSE, seq=1)
    network.run()
    assert [FlowClosed(routers[0].node_id, FLOW)] == events(routers[-1])
    assert [b"x"] == bodies(routers[-1])


def test_traffic_is_counted_where_it_passes(plane: str) -> None:
    network, routers = line(plane)
    ingress, relay, egress = routers
    sizes = []
    for seq in range(5):
        send(network, routers, bytes(100 * seq), seq=seq)
        sizes.append(len(network.queue[0].data))
        network.run()
    total, none = TrafficCount(5, sum(sizes)), TrafficCount(0, 0)
    data = TrafficCount(5, 1000)
    at_ingress, at_relay, at_egress = (router.forwarder.counters() for router in routers)
    assert {relay.node_id: (none, total)} == dict(at_ingress.neighbours)
    assert {ingress.node_id: (total, none), egress.node_id: (none, total)} == dict(at_relay.neighbours)
    assert {relay.node_id: (total, none)} == dict(at_egress.neighbours)
    assert {(ingress.node_id, PATH_TAG): total} == dict(at_relay.relayed)
    assert {(egress.node_id, PATH_TAG): data} == dict(at_ingress.sent)
    assert {(ingress.node_id, PATH_TAG): data} == dict(at_egress.received)
    assert data == ingress.forwarder.sent(egress.node_id, PATH_TAG)


def test_a_peer_that_left_leaves_no_counters(plane: str) -> None:
    network, routers = line(plane)
    ingress, relay, egress = routers
    send(network, routers, b"x")
    network.run()
    for router in routers:
        for other in routers:
            router.forwarder.drop_peer(other.node_id)
        counters = router.forwarder.counters()
        assert ({}, {}, {}, {}) == (dict(counters.neighbours), dict(counters.relayed), dict(counters.sent), dict(counters.received))
    assert send(network, [ingress, relay, egress], b"again")
    network.run()
    assert [b"again"] == bodies(egress)[-1:]


def test_packets_for_who_is_no_member_any_more_are_dropped(plane: str) -> None:
    network, routers = line(plane)
    ingress, relay, _ = routers
    relay.forwarder.set_members({locator_of(ingress.node_id): ingress.node_id})
    send(network, routers, b"x")
    network.run()
    assert {"next-hop-unknown": 1} == relay.drops
    assert {(ingress.node_id, "next-hop-unknown"): 1} == dict(relay.forwarder.counters().drops_by_peer)


def test_a_missing_session_is_asked_for_once_a_second(plane: str) -> None:
    network, routers = line(plane)
    ingress, relay, egress = routers
    relay.sessions.drop_peer(egress.node_id)
    for seq in range(4):
        send(network, routers, b"x", seq=seq)
        network.run()
    assert [NeedSession(egress.node_id)] == events(relay)
    assert {"no-session": 4} == relay.drops
    assert {(egress.node_id, "no-session"): 4} == dict(relay.forwarder.counters().drops_by_peer)
    network.now_ns += 2 * S_NS
    send(network, routers, b"x", seq=4)
    network.run()
    assert [NeedSession(egress.node_id)] == events(relay)
    assert [] == bodies(egress)
    assert ingress.drops == {}


@pytest.mark.parametrize("is_member", [True, False])
def test_the_ingress_gets_notice_of_a_relay_that_cannot_go_on(plane: str, is_member: bool) -> None:
    network, routers = line(plane, 4)
    ingress, first, second, egress = routers
    send(network, routers, b"x")
    network.run()
    if is_member:
        second.sessions.drop_peer(egress.node_id)
    else:
        members = {locator_of(router.node_id): router.node_id for router in routers[:3]}
        second.forwarder.set_members(members)
    for seq in range(3):
        send(network, routers, b"y", seq=seq)
    network.run()
    reason = NoticeReason.NO_SESSION if is_member else NoticeReason.NO_MEMBER
    told = [event for event in events(ingress) if isinstance(event, NoticeArrived)]
    assert [(first.node_id, PATH_TAG, reason)] == [(event.peer, event.path_tag, event.notice.reason) for event in told]


def test_a_replayed_packet_is_dropped_by_whoever_sees_it_twice(plane: str) -> None:
    network, routers = line(plane)
    send(network, routers, b"once")
    network.queue.append(network.queue[0])
    network.run()
    assert {"replay": 1} == routers[1].drops
    assert [b"once"] == bodies(routers[-1])


def test_forged_packets_change_nothing_but_a_counter(plane: str) -> None:
    network, routers = line(plane)
    send(network, routers, b"honest")
    honest = network.queue.popleft()
    forged = [honest.data[:at] + bytes([honest.data[at] ^ 0x40]) + honest.data[at + 1 :] for at in range(8, 60)]
    for data in forged:
        network.queue.append(InFlight(data, ELSEWHERE, honest.destination))
    network.queue.append(honest)
    network.run()
    assert {"auth": len(forged)} == routers[1].drops
    assert [b"honest"] == bodies(routers[-1])
    session = routers[1].sessions.current(routers[0].node_id)
    assert session is not None
    assert routers[0].address == session.address


def test_a_neighbours_address_follows_its_newest_packet(plane: str) -> None:
    network, routers = line(plane)
    ingress, relay, _ = routers
    session = relay.sessions.current(ingress.node_id)
    assert session is not None
    for seq in range(3):
        send(network, routers, b"x", seq=seq)
    old, newest, middle = network.queue[0], network.queue[2], network.queue[1]
    network.queue.clear()
    relay.receive(newest.data, ELSEWHERE)
    events(relay)
    assert ELSEWHERE == session.address
    relay.receive(middle.data, ("127.0.0.8", 8))  # overtaken: says nothing about where the ingress is now
    relay.receive(old.data, old.source)
    events(relay)
    assert ELSEWHERE == session.address
    network.queue.clear()
    assert send(network, [routers[2], relay, ingress], b"back")
    network.step()
    assert ELSEWHERE == network.queue[0].destination


def test_new_keys_under_load_lose_nothing(plane: str) -> None:
    """Data packets are under way between all steps of three handshakes, again and again."""
    network, routers = line(plane)
    first_keys = routers[0].sessions.current(routers[1].node_id)
    sent = []
    for turn in range(200):
        if turn % 40 == 5:
            for router, peer in ((routers[0], routers[1]), (routers[1], routers[2]), (routers[0], routers[2])):
                router.sessions.renew(peer.node_id, network.now)
                router.flush()
        sent.append(turn.to_bytes(2, "big"))
        assert send(network, routers, sent[-1], seq=turn)
        for _ in range(min(3, len(network.queue))):
            network.step()
        network.tick()
    network.run()
    assert sent == sorted(bodies(routers[-1]))
    assert [{}] * 3 == [router.drops for router in routers]
    assert first_keys is not routers[0].sessions.current(routers[1].node_id)


def test_the_responder_sends_with_new_keys_once_a_packet_proved_that_the_other_has_them(plane: str) -> None:
    network, routers = line(plane, 2)
    ingress, egress = routers
    before = egress.sessions.current(ingress.node_id)
    ingress.sessions.renew(egress.node_id, network.now)
    ingress.flush()
    network.step()  # INIT
    network.step()  # RESPONSE
    confirm = list(network.queue)
    network.queue.clear()
    assert before is egress.sessions.current(ingress.node_id)
    assert send(network, routers, b"under the new keys")
    network.run()
    events(egress)
    assert [b"under the new keys"] == bodies(egress)
    assert before is not egress.sessions.current(ingress.node_id)
    assert confirm


def test_packets_of_a_closed_session_are_dropped(plane: str) -> None:
    network, routers = line(plane)
    send(network, routers, b"late")
    routers[1].sessions.drop_peer(routers[0].node_id)
    network.run()
    assert {"session": 1} == routers[1].drops


def test_payloads_of_a_closed_session_are_dropped(plane: str) -> None:
    network, routers = line(plane)
    send(network, routers, b"late")
    routers[2].sessions.drop_peer(routers[0].node_id)
    network.run()
    assert {"payload-session": 1} == routers[2].drops


def test_a_worn_out_key_sends_nothing(plane: str) -> None:
    network, routers = line(plane, 2)
    session = routers[0].sessions.current(routers[1].node_id)
    assert session is not None
    session.end_seal.counter = 2**63 - 1
    send(network, routers, b"last")
    network.run()
    assert [b"last"] == bodies(routers[1])


def test_misbehaviour_is_told_but_a_flood_of_it_is_not_kept(plane: str) -> None:
    network, routers = line(plane)
    ingress, relay, _ = routers
    send(network, routers, b"x")
    honest = network.queue.popleft()
    for number in range(3 * DROP_EVENTS_MAX):
        data = honest.data[:30] + bytes([number % 255 ^ honest.data[30] or 1]) + honest.data[31:]
        relay.receive(data[:70] + bytes([data[70] ^ 1]) + data[71:], ingress.address)
    told = events(relay)
    assert PeerMisbehaved(None, ingress.address, "auth") == told[0]
    assert 1 <= len(told) <= DROP_EVENTS_MAX
    assert {"auth": 3 * DROP_EVENTS_MAX} == relay.drops


def test_a_path_that_is_none_is_refused(plane: str) -> None:
    network, (ingress, relay, egress) = line(plane)
    forwarder = ingress.forwarder
    plaintext = Payload(PayloadKind.DATA, FLOW, 0, 0, b"x").encode()
    for path in ((), (relay.sid(),), (ingress.sid(), egress.sid(Function.END_APP)), (relay.sid(), relay.sid(), egress.sid())):
        with pytest.raises(ValueError, match=r".+"):
            forwarder.send_payload(path, PATH_TAG, egress.node_id, plaintext)
    with pytest.raises(ValueError, match="does not fit"):
        forwarder.send_payload(path_over([ingress, relay, egress]), PATH_TAG, egress.node_id, bytes(2000))
    assert not forwarder.send_payload((Sid.of(STRANGER, Function.END), egress.sid()), PATH_TAG, egress.node_id, plaintext)
    assert ({"next-hop-unknown": 1}, 0) == (ingress.drops, len(network.queue))


SCENES: dict[str, tuple[SrNetwork, list[SrRouter]]] = {}


@settings(max_examples=200)
@given(
    start=st.sampled_from([b"", b"\x21", b"\x21\0", b"\x21\0\x10\0"]),
    rest=st.binary(max_size=200),
    at=st.integers(0, 2**16),
    is_mutated=st.booleans(),
)
@pytest.mark.parametrize("kind", ["portable", pytest.param("native", marks=pytest.mark.needs("native"))])
def test_random_bytes_never_raise_and_are_dropped(kind: str, start: bytes, rest: bytes, at: int, *, is_mutated: bool) -> None:
    network, routers = SCENES.get(kind) or SCENES.setdefault(kind, line(kind))
    data = honest = start + rest
    if is_mutated:
        send(network, routers, b"hello")
        honest = network.queue.popleft().data
        at %= len(honest)
        data = honest[:at] + rest + honest[at + len(rest) :]
        if data == honest:
            return
    before = sum(routers[1].drops.values())
    routers[1].receive(data, routers[0].address)
    network.queue.clear()
    if data[:1] and data[0] >> 4 != 1:  # sessions have another plane
        changed_payload_only = is_mutated and data[:80] == honest[:80] and len(data) == len(honest)
        assert before + (not changed_payload_only) == sum(routers[1].drops.values())
