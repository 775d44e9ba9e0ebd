"""SR packets at load while the sessions under them change: keys, addresses, both. Nothing is lost, and every counter stays right."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from srwan.overlay.session import Sessions
from srwan.overlay.view import Role
from srwan.routing.forwarder import Counters
from srwan.routing.payload import Payload, PayloadKind
from srwan.routing.portable import PortableForwarder
from srwan.routing.sid import Function, Sid, locator_of
from srwan.testing.packets import InFlight, SrNetwork, SrRouter
from srwan.types import NodeId, UdpAddress

TAG, FLOW = 0xC0FFEE, 42


def make_native(node_id: NodeId, sessions: Sessions, **arguments: Any) -> PortableForwarder:
    from srwan.routing.native._core import Plane
    from srwan.routing.native.forwarder import NativeForwarder

    return NativeForwarder(Plane(locator_of(node_id)), node_id, sessions, **arguments)


@pytest.fixture(params=["portable", pytest.param("native", marks=pytest.mark.needs("native"))])
def network(request: pytest.FixtureRequest) -> SrNetwork:
    return SrNetwork(make_forwarder=make_native if request.param == "native" else PortableForwarder)


def send(network: SrNetwork, routers: list[SrRouter], seq: int, body: bytes) -> None:
    path = (*(router.sid() for router in routers[1:-1]), routers[-1].sid(Function.END_APP))
    payload = Payload(PayloadKind.DATA, FLOW, seq, network.now_ns, body).encode()
    assert routers[0].forwarder.send_payload(path, TAG, routers[-1].node_id, payload)


def taken(router: SrRouter) -> list[bytes]:
    return [packet.body for inbox in router.forwarder.ready_flows() for packet in inbox.take()]


def rekey(network: SrNetwork, routers: list[SrRouter]) -> None:
    """Every router asks for new keys with every peer, all at once: each pair crosses."""
    for router in routers:
        for other in routers:
            if router is not other:
                router.sessions.renew(other.node_id, network.now)
        router.flush()


def shuffle(network: SrNetwork, rng: random.Random, reach: int) -> None:
    """Reorder what is under way: nothing moves by more than `reach` places."""
    order = sorted(range(len(network.queue)), key=lambda at: at + rng.uniform(0, reach))
    network.queue.extend([network.queue[at] for at in order])
    for _ in order:
        network.queue.popleft()


def counters(router: SrRouter) -> Counters:
    return router.forwarder.counters()


@pytest.mark.parametrize("relays", [0, 1, 3])
def test_thousands_of_packets_in_disorder_survive_rekeys_of_all_sessions_at_once_and_are_counted_once(
    network: SrNetwork, relays: int
) -> None:
    rng = random.Random(relays)
    routers = network.line([Role.RELAY] * (relays + 2))
    ingress, egress = routers[0], routers[-1]
    sent, received, octets = 0, [], 0
    indices = set()
    for _ in range(5):
        for _ in range(600):
            send(network, routers, sent, b"%d" % sent)
            octets += len(b"%d" % sent)
            sent += 1
        rekey(network, routers)
        for _ in range(300):
            send(network, routers, sent, b"%d" % sent)
            octets += len(b"%d" % sent)
            sent += 1
        shuffle(network, rng, 400)
        for _ in range(20):
            for _ in range(len(network.queue) // 2):
                network.step()
            shuffle(network, rng, 400)
            received += taken(egress)
        network.run()
        received += taken(egress)
        session = ingress.sessions.current(egress.node_id)
        assert session is not None
        indices.add(session.local_index)
    assert 5 == len(indices)
    assert sorted(received, key=int) == [b"%d" % number for number in range(sent)]
    assert [{}] * len(routers) == [router.drops for router in routers]
    assert (sent, octets) == counters(ingress).sent[egress.node_id, TAG]
    assert (sent, octets) == counters(egress).received[ingress.node_id, TAG]
    for before, router in itertools.pairwise(routers):
        came, _ = counters(router).neighbours[before.node_id]
        _, went = counters(before).neighbours[router.node_id]
        assert sent == came.packets == went.packets
        assert came.octets == went.octets
    for before, router in itertools.pairwise(routers[:-1]):
        assert {(before.node_id, TAG): sent} == {key: count.packets for key, count in counters(router).relayed.items()}


def move(network: SrNetwork, router: SrRouter, address: UdpAddress) -> None:
    del network.routers[router.address]
    router.address = address
    network.routers[address] = router


@pytest.mark.parametrize("with_rekey", [False, True])
def test_peer_that_moves_at_load_gets_all_that_is_sent_after_its_first_packet_arrived(network: SrNetwork, with_rekey: bool) -> None:
    rng = random.Random(5)
    routers = a, b = network.line([Role.RELAY] * 2)
    new = ("203.0.113.9", 999)
    for seq in range(500):
        send(network, routers, seq, b"from the old address")
    move(network, a, new)
    if with_rekey:
        rekey(network, routers)
    for seq in range(500, 1000):
        send(network, routers, seq, b"from the new address")
    shuffle(network, rng, 700)  # many from the old address arrive after the first from the new one
    lost_before = lost_after = back = 0
    is_moved = False
    for number in range(3000):
        session = b.sessions.current(a.node_id)
        assert session is not None
        is_moved |= session.address == new
        send(network, [b, a], number, b"%d" % number)
        destination = network.queue[-1].destination
        lost_before += not is_moved and destination != new
        lost_after += is_moved and destination != new
        network.step()
        if network.queue and rng.random() < 0.2:
            network.step()
        back += len(taken(a))
    network.run()
    back += len(taken(a))
    assert is_moved
    assert 0 == lost_after
    assert 3000 - lost_before == back
    assert [{}, {}] == [a.drops, b.drops]


def test_replayed_packet_from_the_old_address_does_not_move_the_peer_back(network: SrNetwork) -> None:
    routers = a, b = network.line([Role.RELAY] * 2)
    send(network, routers, 0, b"0")
    recorded = network.queue[0]
    network.run()
    move(network, a, ("203.0.113.9", 999))
    send(network, routers, 1, b"1")
    network.run()
    for source in (recorded.source, ("203.0.113.66", 6)):
        network.queue.append(InFlight(recorded.data, source, b.address))
    network.run()
    session = b.sessions.current(a.node_id)
    assert session is not None
    assert ("203.0.113.9", 999) == session.address
    assert {"replay": 2} == b.drops


def test_packets_of_a_removed_session_are_dropped_and_not_opened(network: SrNetwork) -> None:
    routers = a, b = network.line([Role.RELAY] * 2)
    send(network, routers, 0, b"late")
    b.sessions.drop_peer(a.node_id)
    network.run()
    assert {"session": 1} == b.drops
    assert [] == taken(b)
    assert Sid.of(b.node_id, Function.END_APP) == b.sid(Function.END_APP)
