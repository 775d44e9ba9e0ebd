"""The portable data plane: packets from ingress through relays to egress and back, in memory, with real sessions."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srwan.overlay.view import Role
from srwan.routing.egress import AckArrived, FlowClosed
from srwan.routing.forwarder import Forwarder
from srwan.routing.payload import Ack, KeepAlive, Payload, PayloadKind
from srwan.routing.portable import EVENTS_MAX, PATHS_MAX
from srwan.routing.relay import NeedSession
from srwan.routing.sid import Function, Sid
from srwan.routing.traffic import TrafficCount
from srwan.testing.packets import HOP_NS, InFlight, SrNetwork, SrRouter
from srwan.types import PeerMisbehaved, UdpAddress

PATH_TAG, FLOW = 0xC0FFEE, 42
MS = 1_000_000


def path_over(routers: list[SrRouter]) -> tuple[Sid, ...]:
    """From the first router over those between to the last."""
    return (*(router.sid() for router in routers[1:-1]), routers[-1].sid(Function.END_APP))


def send(network: SrNetwork, routers: list[SrRouter], kind: PayloadKind, body: bytes, *, seq: int = 0, flow: int = FLOW) -> bool:
    ingress, egress = routers[0], routers[-1]
    payload = Payload(kind, flow, seq, network.now_ns + ingress.offset_ns, body)
    return ingress.forwarder.send_payload(path_over(routers), PATH_TAG, egress.node_id, payload.encode())


def bodies(router: SrRouter) -> list[bytes]:
    return [packet.body for inbox in router.forwarder.ready_flows() for packet in inbox.take()]


def test_portable_forwarder_is_a_forwarder() -> None:
    forwarder: Forwarder = SrNetwork().add().forwarder
    assert forwarder.name == "portable"


@pytest.mark.parametrize("relays", range(8))
def test_datagram_goes_from_ingress_over_relays_to_egress_and_back(relays: int) -> None:
    network = SrNetwork()
    routers = network.line([Role.RELAY] * (relays + 2))
    assert send(network, routers, PayloadKind.DATA, b"there")
    network.run()
    assert [b"there"] == bodies(routers[-1])
    assert send(network, routers[::-1], PayloadKind.DATA, b"and back")
    network.run()
    assert [b"and back"] == bodies(routers[0])
    assert [{}] * len(routers) == [router.drops for router in routers]


def test_payload_is_never_readable_between_the_ends() -> None:
    network = SrNetwork()
    routers = network.line([Role.RELAY] * 4)
    secret = b"this is for the egress alone"
    send(network, routers, PayloadKind.DATA, secret)
    seen = []
    while network.queue:
        seen.append(network.queue[0].data)
        network.step()
    assert len(seen) == 3
    assert not any(secret in data for data in seen)
    assert [secret] == bodies(routers[-1])


def changed_under_way(at: int, bit: int, hop: int) -> list[dict[str, int]]:
    """Drops of all routers after one bit of a packet was changed on its way to router `hop`."""
    network = SrNetwork()
    routers = network.line([Role.RELAY] * 4)
    send(network, routers, PayloadKind.DATA, b"hello")
    for _ in range(hop - 1):
        network.step()
    datagram = network.queue.popleft()
    data = bytearray(datagram.data)
    data[at] ^= 1 << bit
    network.queue.append(attrs.evolve(datagram, data=bytes(data)))
    network.run()
    assert bodies(routers[-1]) == []
    return [router.drops for router in routers]


@pytest.mark.parametrize("hop", [1, 2, 3])
@pytest.mark.parametrize("at", [8, 17, 24, 30, 80, 95])
def test_change_in_header_or_srh_is_dropped_at_the_next_hop(at: int, hop: int) -> None:
    expected: list[dict[str, int]] = [{}, {}, {}, {}]
    expected[hop] = {"auth": 1}
    assert expected == changed_under_way(at, 3, hop)


@pytest.mark.parametrize("hop", [1, 2, 3])
@pytest.mark.parametrize("at", [-1, -20, -40])
def test_change_in_the_payload_is_dropped_at_the_egress(at: int, hop: int) -> None:
    assert [{}, {}, {}, {"payload-auth": 1}] == changed_under_way(at, 3, hop)


def test_keepalive_is_answered_over_the_same_relays_in_reverse() -> None:
    network = SrNetwork()
    routers = network.line([Role.RELAY] * 4, offsets_ns=[0, 0, 0, 500 * MS])
    for seq in range(3):
        send(network, routers, PayloadKind.DATA, b"12345", seq=seq)
        network.run()
    send(network, routers, PayloadKind.KEEPALIVE, KeepAlive(3, 15).encode(), seq=8, flow=0)
    hops: list[InFlight] = []
    while network.queue:
        hops.append(network.queue[0])
        network.step()
    addresses = [router.address for router in routers]
    assert [*addresses[1:], *addresses[-2::-1]] == [hop.destination for hop in hops]
    there, back = 500 * MS + 3 * HOP_NS, -500 * MS + 3 * HOP_NS
    ack = Ack(PATH_TAG, 8, there, 3, 15, there, 2)
    assert AckArrived(routers[-1].node_id, PATH_TAG, ack, back, network.now_ns) == routers[0].forwarder.next_event()
    assert [{}] * 4 == [router.drops for router in routers]


def test_answer_is_no_longer_than_what_it_answers() -> None:
    network = SrNetwork()
    routers = network.line()
    send(network, routers, PayloadKind.KEEPALIVE, KeepAlive(0, 0).encode())
    lengths = []
    while network.queue:
        lengths.append(len(network.queue[0].data))
        network.step()
    assert len(lengths) == 4
    assert len(set(lengths)) == 1


def test_all_counters_agree_along_the_path() -> None:
    network = SrNetwork()
    routers = ingress, relay, egress = network.line()
    for seq in range(10):
        send(network, routers, PayloadKind.DATA, bytes(seq), seq=seq)
    octets = sum(len(datagram.data) for datagram in network.queue)
    network.run()
    data, whole = TrafficCount(10, 45), TrafficCount(10, octets)
    assert {(egress.node_id, PATH_TAG): data} == ingress.forwarder.counters().sent
    assert data == ingress.forwarder.sent(egress.node_id, PATH_TAG)
    assert {(ingress.node_id, PATH_TAG): whole} == relay.forwarder.counters().relayed
    assert {(ingress.node_id, PATH_TAG): data} == egress.forwarder.counters().received
    nothing = TrafficCount(0, 0)
    assert {ingress.node_id: (whole, nothing), egress.node_id: (nothing, whole)} == relay.forwarder.counters().neighbours
    assert {relay.node_id: (whole, nothing)} == egress.forwarder.counters().neighbours


def test_lost_packets_show_in_the_answer_to_the_next_keepalive() -> None:
    network = SrNetwork()
    routers = network.line()
    for seq in range(10):
        send(network, routers, PayloadKind.DATA, b"x", seq=seq)
    for _ in range(3):
        del network.queue[4]
    network.run()
    sent = routers[0].forwarder.sent(routers[-1].node_id, PATH_TAG)
    send(network, routers, PayloadKind.KEEPALIVE, KeepAlive(*sent).encode())
    network.run()
    event = routers[0].forwarder.next_event()
    assert isinstance(event, AckArrived)
    assert (10, 7, 9) == (sent.packets, event.ack.packets, event.ack.highest_seq)


def test_close_is_told_after_the_data_before_it() -> None:
    network = SrNetwork()
    routers = network.line()
    send(network, routers, PayloadKind.DATA, b"last words")
    send(network, routers, PayloadKind.CLOSE, b"", seq=1)
    network.run()
    egress = routers[-1].forwarder
    assert FlowClosed(routers[0].node_id, FLOW) == egress.next_event()
    assert [b"last words"] == bodies(routers[-1])


def test_only_data_counts_as_sent() -> None:
    network = SrNetwork()
    routers = network.line()
    send(network, routers, PayloadKind.KEEPALIVE, KeepAlive(0, 0).encode())
    assert TrafficCount(0, 0) == routers[0].forwarder.sent(routers[-1].node_id, PATH_TAG)


def test_missing_session_with_the_egress_or_the_first_hop_is_asked_for() -> None:
    for missing in (1, 2):
        network = SrNetwork()
        routers = network.line()
        routers[0].sessions.drop_peer(routers[missing].node_id)
        assert [False, False] == [send(network, routers, PayloadKind.DATA, b"x") for _ in range(2)]
        assert NeedSession(routers[missing].node_id) == routers[0].forwarder.next_event()
        assert routers[0].forwarder.next_event() is None
        assert routers[0].drops == {"no-session": 2}
        assert not network.queue


def test_relay_without_session_to_the_next_node_asks_for_it_and_the_next_packet_passes() -> None:
    network = SrNetwork()
    routers = ingress, relay, egress = network.line()
    relay.sessions.drop_peer(egress.node_id)
    send(network, routers, PayloadKind.DATA, b"lost")
    network.run()
    assert NeedSession(egress.node_id) == relay.forwarder.next_event()
    network.connect(relay, egress)
    send(network, routers, PayloadKind.DATA, b"found")
    network.run()
    assert [b"found"] == bodies(egress)
    assert ingress.drops == {}


def test_packets_pass_while_sessions_are_replaced() -> None:
    """Keys overlap: what was sealed under the old ones still opens."""
    network = SrNetwork()
    routers = ingress, relay, egress = network.line()
    old = ingress.sessions.current(relay.node_id)
    for seq in range(3):
        send(network, routers, PayloadKind.DATA, bytes([seq]), seq=seq)
        network.run()
    send(network, routers, PayloadKind.DATA, b"old keys", seq=3)
    under_way = network.queue.popleft()
    network.now_ns += 130_000_000_000
    network.tick()
    network.run()
    assert ingress.sessions.current(relay.node_id) is not old
    network.queue.append(under_way)
    send(network, routers, PayloadKind.DATA, b"new keys", seq=4)
    network.run()
    assert [b"\0", b"\1", b"\2", b"old keys", b"new keys"] == bodies(egress)
    assert [{}] * 3 == [router.drops for router in routers]


def test_first_hop_that_left_gets_nothing_more_and_that_is_counted() -> None:
    network = SrNetwork()
    routers = network.line()
    assert send(network, routers, PayloadKind.DATA, b"x")
    routers[0].forwarder.set_members({})
    assert not send(network, routers, PayloadKind.DATA, b"x")
    assert routers[0].drops == {"next-hop-unknown": 1}


def test_wrong_paths_are_the_callers_error_and_send_nothing() -> None:
    network = SrNetwork()
    ingress, relay, egress = network.line()
    plaintext = Payload(PayloadKind.DATA, 0, 0, 0, b"").encode()
    wrong: dict[str, tuple[Sid, ...]] = {
        "0 segments": (),
        "ends at": (egress.sid(), relay.sid()),
        "occurs twice": (relay.sid(), relay.sid(), egress.sid()),
        "this node itself": (ingress.sid(), egress.sid()),
    }
    for problem, path in wrong.items():
        with pytest.raises(ValueError, match=problem):
            ingress.forwarder.send_payload(path, 0, egress.node_id, plaintext)
    with pytest.raises(ValueError, match="does not fit"):
        ingress.forwarder.send_payload((egress.sid(),), 0, egress.node_id, bytes(1400))
    assert not network.queue


def test_path_that_was_good_for_one_peer_is_checked_for_another() -> None:
    network = SrNetwork()
    ingress, relay, egress = network.line()
    plaintext = Payload(PayloadKind.DATA, 0, 0, 0, b"").encode()
    path = (egress.sid(Function.END_APP),)
    assert ingress.forwarder.send_payload(path, 0, egress.node_id, plaintext)
    with pytest.raises(ValueError, match="ends at"):
        ingress.forwarder.send_payload(path, 0, relay.node_id, plaintext)


def test_kept_paths_are_bounded() -> None:
    network = SrNetwork()
    ingress, _, egress = network.line()
    plaintext = Payload(PayloadKind.DATA, 0, 0, 0, b"").encode()
    for argument in range(PATHS_MAX + 10):
        assert ingress.forwarder.send_payload((egress.sid(Function.END_APP, argument),), 0, egress.node_id, plaintext)
    assert len(ingress.forwarder._routes) <= PATHS_MAX


def test_claimed_flow_gets_its_data_and_released_flow_does_not() -> None:
    network = SrNetwork()
    routers = network.line()
    egress = routers[-1].forwarder
    inbox = egress.claim(routers[0].node_id, FLOW)
    send(network, routers, PayloadKind.DATA, b"one")
    network.run()
    assert (inbox,) == egress.ready_flows()
    egress.release(inbox)
    send(network, routers, PayloadKind.DATA, b"two", seq=1)
    network.run()
    (fresh,) = egress.ready_flows()
    assert fresh is not inbox
    assert (False, 0) == (fresh.is_claimed, len(inbox))


def test_payloads_sent_together_arrive_in_order_and_are_counted() -> None:
    network = SrNetwork()
    routers = ingress, _, egress = network.line()
    payloads = [Payload(PayloadKind.DATA, FLOW, seq, network.now_ns, bytes([seq])).encode() for seq in range(70)]
    batches: list[int] = []

    def send_many(datagrams: Sequence[bytes], destination: UdpAddress) -> None:
        batches.append(len(datagrams))
        for data in datagrams:
            ingress.send(data, destination)

    ingress.forwarder._send_many = send_many
    assert 70 == ingress.forwarder.send_payloads(path_over(list(routers)), PATH_TAG, egress.node_id, payloads)
    assert [70] == batches
    network.run()
    assert [bytes([seq]) for seq in range(70)] == bodies(egress)
    assert TrafficCount(70, 70) == ingress.forwarder.sent(egress.node_id, PATH_TAG)


def test_payloads_that_cannot_be_sent_are_said_once_and_not_counted_as_sent() -> None:
    for missing in (1, 2):
        network = SrNetwork()
        routers = network.line()
        ingress, egress = routers[0], routers[-1]
        ingress.sessions.drop_peer(routers[missing].node_id)
        payload = Payload(PayloadKind.DATA, FLOW, 0, 0, b"x").encode()
        assert 0 == ingress.forwarder.send_payloads(path_over(routers), PATH_TAG, egress.node_id, [payload] * 5)
        assert 0 == ingress.forwarder.send_payloads(path_over(routers), PATH_TAG, egress.node_id, [])
        assert NeedSession(routers[missing].node_id) == ingress.forwarder.next_event()
        assert {"no-session": 1} == ingress.drops
        assert TrafficCount(0, 0) == ingress.forwarder.sent(egress.node_id, PATH_TAG)
        assert not network.queue


def test_too_long_payload_keeps_back_all_that_were_to_leave_with_it() -> None:
    network = SrNetwork()
    routers = network.line()
    with pytest.raises(ValueError, match="does not fit"):
        routers[0].forwarder.send_payloads(path_over(routers), PATH_TAG, routers[-1].node_id, [bytes(10), bytes(1500)])
    assert not network.queue


def test_answer_to_a_keepalive_leaves_at_once_and_waits_for_no_data() -> None:
    network = SrNetwork()
    routers = ingress, _, egress = network.line()
    held: list[bytes] = []
    egress.forwarder._send_many = lambda datagrams, _: held.extend(datagrams)
    send(network, list(routers), PayloadKind.KEEPALIVE, KeepAlive(0, 0).encode(), flow=0)
    network.run()
    assert isinstance(ingress.forwarder.next_event(), AckArrived)
    assert not held


def test_peer_that_left_leaves_nothing() -> None:
    network = SrNetwork()
    routers = network.line()
    send(network, routers, PayloadKind.DATA, b"x")
    network.run()
    for router in routers:
        for other in routers:
            router.forwarder.drop_peer(other.node_id)
        counters = router.forwarder.counters()
        assert ({}, {}, {}, {}) == (counters.neighbours, counters.relayed, counters.sent, counters.received)
        assert router.forwarder.ready_flows() == ()


def test_flooded_events_drop_the_oldest_and_keep_the_bound() -> None:
    network = SrNetwork()
    ingress, _, egress = routers = network.line()
    for seq in range(5000):
        ack = Payload(PayloadKind.ACK, 0, seq, network.now_ns, Ack(PATH_TAG, seq, 0, 0, 0, None, 0).encode())
        ingress.forwarder.send_payload(path_over(routers), PATH_TAG, egress.node_id, ack.encode())
    network.run()
    events = list(iter(egress.forwarder.next_event, None))
    assert (EVENTS_MAX, {"events-full": 5000 - EVENTS_MAX}) == (len(events), egress.drops)
    assert isinstance(events[-1], AckArrived)
    assert events[-1].ack.keepalive_seq == 4999


def test_misbehaviour_names_the_neighbour_that_sealed_the_packet() -> None:
    network = SrNetwork()
    ingress, relay, egress = network.line([Role.RELAY, Role(0), Role.RELAY])
    plaintext = Payload(PayloadKind.DATA, 0, 0, 0, b"").encode()
    ingress.forwarder.send_payload((relay.sid(), egress.sid(Function.END_APP)), 0, egress.node_id, plaintext)
    network.run()
    assert PeerMisbehaved(ingress.node_id, ingress.address, "no-role") == relay.forwarder.next_event()
    assert {(ingress.node_id, "no-role"): 1} == relay.forwarder.counters().drops_by_peer


FUZZ = SrNetwork()
FUZZED = FUZZ.line()


@settings(max_examples=300)
@given(st.booleans(), st.integers(0, 400), st.lists(st.tuples(st.integers(0, 250), st.integers(0, 255)), max_size=5))
def test_mutated_packets_never_raise_and_never_arrive_altered(hop_twice: bool, cut: int, changes: list[tuple[int, int]]) -> None:
    body = b"as it was sent"
    send(FUZZ, FUZZED, PayloadKind.DATA, body)
    if hop_twice:
        FUZZ.step()
    datagram = FUZZ.queue.popleft()
    data = bytearray(datagram.data[:cut] if cut else datagram.data)
    for at, value in changes:
        if at < len(data):
            data[at] = value
    before = sum(sum(router.drops.values()) for router in FUZZED)
    FUZZ.routers[datagram.destination].forwarder.receive(bytes(data), datagram.source, FUZZ.now_ns)
    FUZZ.run()
    arrived = bodies(FUZZED[-1])
    is_intact = bytes(data) == datagram.data
    assert ([body] if is_intact else []) == arrived
    assert before + (not is_intact) == sum(sum(router.drops.values()) for router in FUZZED)


@settings(max_examples=300)
@given(st.binary(max_size=1600))
def test_random_datagrams_never_raise_and_are_counted(data: bytes) -> None:
    relay = FUZZED[1]
    before = sum(relay.drops.values())
    relay.forwarder.receive(data, ("127.0.0.1", 1), 0)
    assert before + 1 == sum(relay.drops.values())
    assert not FUZZ.queue
