"""Batches: many packets at once, in trains or not, come to what they come to one by one."""

from __future__ import annotations

import random
from collections.abc import Sequence

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srwan.overlay.session import Session
from srwan.overlay.trains import Train, cut
from srwan.overlay.view import Role
from srwan.routing.packet import open_packet, seal_packet
from srwan.routing.portable import PortableForwarder
from srwan.routing.relay import Delivered, NeedSession, Relay
from srwan.routing.sid import Function, locator_of
from srwan.routing.srh import Srh
from srwan.routing.traffic import Drops, TrafficCount
from srwan.testing.packets import SrNetwork, SrRouter
from srwan.types import UdpAddress

TAG, OTHER_TAG = 0xC0FFEE, 0xBEEF


def current(router: SrRouter, other: SrRouter) -> Session:
    session = router.sessions.current(other.node_id)
    assert session is not None
    return session


class Crossing:
    """A relay in the middle of four neighbours: `west` and `north` send through it, `east` and `south` are next. Follows from nothing."""

    def __init__(self) -> None:
        self.network = SrNetwork()
        self.middle, self.west, self.north, self.east, self.south = (self.network.add() for _ in range(5))
        self.network.introduce()
        for other in (self.west, self.north, self.east, self.south):
            self.network.connect(other, self.middle)
        self.drops = Drops()
        self.relay = Relay(self.middle.node_id, self.middle.sessions, Role.RELAY, self.drops)
        self.relay.set_members({locator_of(router.node_id): router.node_id for router in self.network.routers.values()})
        self.outbox: dict[UdpAddress, list[bytes]] = {}
        self.arrived: list[Delivered] = []
        self.needed: list[NeedSession] = []

    def packet(self, source: SrRouter, next_hop: SrRouter | None, payload: bytes, *, tag: int = TAG) -> bytes:
        """From a neighbour over the middle to the next, or to the middle itself."""
        path = (self.middle.sid(Function.END_APP),) if next_hop is None else (self.middle.sid(), next_hop.sid(Function.END_APP))
        return seal_packet(current(source, self.middle), Srh.for_path(path).encode(), tag, payload)

    def process(self, *trains: Train, now: float = 0.0) -> None:
        self.needed += self.relay.process_batch(trains, now, self.outbox, self.arrived)

    def payloads(self, router: SrRouter) -> list[bytes]:
        """What went to a router, opened there."""
        payloads = []
        for packet in self.outbox.pop(router.address, ()):
            _, _, _, payload_at = open_packet(router.sessions.by_index, packet)
            payloads.append(packet[payload_at:])
        return payloads

    def outcome(self) -> object:
        """All that can be seen of what was done, sealed bytes too."""
        neighbours = {node: neighbour.read() for node, neighbour in self.relay.neighbours.items()}
        relayed = sorted((owner, tag, entry.read()) for owner, tag, entry in self.relay.relayed)
        addresses = [current(self.middle, other).address for other in (self.west, self.north, self.east, self.south)]
        return self.outbox, self.arrived, self.needed, neighbours, relayed, self.drops.by_reason, self.drops.by_peer, addresses


def in_trains(datagrams: Sequence[tuple[bytes, UdpAddress]]) -> list[Train]:
    """Join neighbours of one source as a kernel would."""
    trains: list[Train] = []
    start = 0
    while start < len(datagrams):
        source = datagrams[start][1]
        stop = start
        while stop < len(datagrams) and datagrams[stop][1] == source:
            stop += 1
        run = [data for data, _ in datagrams[start:stop]]
        trains += [(b"".join(run[first:last]), len(run[first]) or 1, source, 1) for first, last in cut(run)]
        start = stop
    return trains


SIZES = st.sampled_from([0, 1, 40, 40, 40, 1384])
STEPS = st.lists(
    st.tuples(st.sampled_from(["west-east", "west-south", "north-east", "west-here", "retag", "forged", "replay", "noise", "cut"]), SIZES),
    max_size=40,
)


def traffic_of(scene: Crossing, steps: Sequence[tuple[str, int]]) -> list[tuple[bytes, UdpAddress]]:
    west, north, east, south = scene.west, scene.north, scene.east, scene.south
    rng = random.Random(len(steps))
    sent: list[tuple[bytes, UdpAddress]] = []
    for kind, size in steps:
        payload = rng.randbytes(size)
        if kind == "replay" and sent:
            sent.append(rng.choice(sent))
            continue
        source = north if kind == "north-east" else west
        next_hop = {"west-south": south, "west-here": None}.get(kind, east)
        data = scene.packet(source, next_hop, payload, tag=OTHER_TAG if kind == "retag" else TAG)
        if kind == "forged":
            at = rng.randrange(len(data) - size)
            data = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        elif kind == "noise":
            data = payload
        elif kind == "cut":
            data = data[: rng.randrange(len(data))]
        sent.append((data, source.address))
    return sent


@settings(max_examples=60)
@given(STEPS)
def test_batch_of_trains_comes_to_the_same_as_its_datagrams_one_by_one(steps: list[tuple[str, int]]) -> None:
    single, whole = Crossing(), Crossing()
    datagrams = traffic_of(single, steps)
    for data, source in datagrams:
        single.process((data, len(data) or 1, source, 1))
    whole.process(*in_trains(datagrams))
    assert single.outcome() == whole.outcome()


def test_packets_keep_their_order_for_each_next_node() -> None:
    s = Crossing()
    hops = [s.east if number % 3 else s.south for number in range(30)]
    trains = [(data, len(data), s.west.address, 1) for data in (s.packet(s.west, hop, bytes([n])) for n, hop in enumerate(hops))]
    s.process(*trains)
    assert [bytes([n]) for n in range(30) if n % 3] == s.payloads(s.east)
    assert [bytes([n]) for n in range(30) if not n % 3] == s.payloads(s.south)


@pytest.mark.parametrize("count", [1, 2, 44, 64])
@pytest.mark.parametrize("last", [1384, 5])
def test_train_goes_on_whole_with_its_last_packet_shorter(count: int, last: int) -> None:
    s = Crossing()
    payloads = [bytes([n]) * (last if n == count - 1 else 1384) for n in range(count)]
    packets = [s.packet(s.west, s.east, payload) for payload in payloads]
    s.process((b"".join(packets), len(packets[0]), s.west.address, 1))
    assert [len(packet) for packet in packets] == [len(packet) for packet in s.outbox[s.east.address]]
    assert payloads == s.payloads(s.east)
    octets = sum(map(len, packets))
    assert [(s.west.node_id, TAG, TrafficCount(count, octets))] == [(owner, tag, entry.read()) for owner, tag, entry in s.relay.relayed]
    assert (TrafficCount(count, octets), TrafficCount(0, 0)) == s.relay.neighbours[s.west.node_id].read()
    assert (TrafficCount(0, 0), TrafficCount(count, octets)) == s.relay.neighbours[s.east.node_id].read()


@pytest.mark.parametrize("at", [0, 1, 2])
def test_forged_packet_in_a_train_spoils_no_other(at: int) -> None:
    s = Crossing()
    packets = [s.packet(s.west, s.east, bytes([n])) for n in range(3)]
    packets[at] = packets[at][:30] + bytes([packets[at][30] ^ 1]) + packets[at][31:]
    s.process((b"".join(packets), len(packets[0]), s.west.address, 1))
    assert [bytes([n]) for n in range(3) if n != at] == s.payloads(s.east)
    assert {"auth": 1} == s.drops.by_reason


def test_packet_twice_in_a_train_passes_once() -> None:
    s = Crossing()
    data = s.packet(s.west, s.east, b"once")
    s.process((data + data, len(data), s.west.address, 1))
    assert [b"once"] == s.payloads(s.east)
    assert {"replay": 1} == s.drops.by_reason


def test_packets_sealed_before_and_after_a_rekey_pass_in_one_batch() -> None:
    s = Crossing()
    old = [s.packet(s.west, s.east, b"old %d" % n) for n in range(3)]
    s.network.now_ns += 130_000_000_000
    session = current(s.west, s.middle)
    s.network.tick()
    s.network.run()
    assert session is not current(s.west, s.middle)
    new = [s.packet(s.west, s.east, b"new %d" % n) for n in range(3)]
    mixed = [packet for pair in zip(old, new, strict=True) for packet in pair]
    s.process((b"".join(mixed), len(mixed[0]), s.west.address, 1), now=130.0)
    assert [b"old 0", b"new 0", b"old 1", b"new 1", b"old 2", b"new 2"] == s.payloads(s.east)
    assert {} == s.drops.by_reason


def test_neighbour_that_moves_within_a_batch_is_answered_where_it_was_last() -> None:
    s = Crossing()
    before, after = s.packet(s.west, s.east, b"1"), s.packet(s.west, s.east, b"2")
    s.process((before, len(before), s.west.address, 1), (after, len(after), ("127.0.0.9", 9), 1))
    assert ("127.0.0.9", 9) == current(s.middle, s.west).address


def test_missing_session_is_asked_for_once_and_others_are_served() -> None:
    s = Crossing()
    s.middle.sessions.drop_peer(s.south.node_id)
    packets = [s.packet(s.west, hop, b"x") for hop in (s.south, s.east, s.south, s.south)]
    s.process((b"".join(packets), len(packets[0]), s.west.address, 1), now=5.0)
    assert [NeedSession(s.south.node_id)] == s.needed
    assert [b"x"] == s.payloads(s.east)
    assert {"no-session": 3} == s.drops.by_reason
    assert [TrafficCount(1, len(packets[0]))] == [entry.read() for _, _, entry in s.relay.relayed]


def test_train_of_tiny_datagrams_is_dropped_and_counted() -> None:
    s = Crossing()
    s.process((bytes(128), 1, s.west.address, 1), (b"", 1, s.west.address, 1))
    assert {"short": 129} == s.drops.by_reason


def test_delivered_payloads_come_out_of_a_train_whole_with_its_stamp() -> None:
    s = Crossing()
    packets = [s.packet(s.west, None, bytes([n]) * 50) for n in range(4)]
    s.process((b"".join(packets), len(packets[0]), s.west.address, 77))
    assert [(bytes([n]) * 50, 77, s.west.node_id) for n in range(4)] == [(d.payload, d.rx_ns, d.neighbour) for d in s.arrived]


def test_neighbours_behind_one_address_are_told_apart() -> None:
    s = Crossing()
    packets = [s.packet(source, s.east, b"x") for source in (s.west, s.north, s.west)]
    s.process((b"".join(packets), len(packets[0]), s.west.address, 1))
    counts = {owner: entry.packets for owner, _, entry in s.relay.relayed}
    assert {s.west.node_id: 2, s.north.node_id: 1} == counts


def test_every_malformed_packet_is_counted_under_what_is_wrong_with_it() -> None:
    s = Crossing()
    good = s.packet(s.west, s.east, bytes(40))
    malformed = {
        "short": good[:63],
        "mtu": good + bytes(1473 - len(good)),
        "version": b"\x22" + good[1:],
        "flags": good[:1] + b"\x01" + good[2:],
        "length": good[:2] + b"\xff\x00" + good[4:],
        "session": good[:4] + b"\0\0\0\0" + good[8:],
        "auth": good[:24] + bytes([good[24] ^ 1]) + good[25:],
    }
    for data in malformed.values():
        s.process((data, len(data), s.west.address, 1))
    assert dict.fromkeys(malformed, 1) == s.drops.by_reason
    s.process((good, len(good), s.west.address, 1))
    assert [bytes(40)] == s.payloads(s.east)


def test_packet_too_long_to_go_on_unfragmented_is_dropped_though_authentic(monkeypatch: pytest.MonkeyPatch) -> None:
    s = Crossing()
    monkeypatch.setattr("srwan.routing.packet.PACKET_BYTES_MAX", 2000)
    data = s.packet(s.west, s.east, bytes(1450))
    monkeypatch.undo()
    s.process((data, len(data), s.west.address, 1))
    assert {"mtu": 1} == s.drops.by_reason


# -- the forwarder -------------------------------------------------------------------------------------------------------------------------


@attrs.define
class Wire:
    """What a forwarder handed over, in order."""

    calls: list[tuple[str, UdpAddress, int]] = attrs.Factory(list)

    def send(self, data: bytes, destination: UdpAddress) -> None:
        del data
        self.calls.append(("send", destination, 1))

    def send_many(self, datagrams: Sequence[bytes], destination: UdpAddress) -> None:
        self.calls.append(("send_many", destination, len(datagrams)))


def test_what_goes_on_leaves_together_for_each_next_node() -> None:
    s, wire = Crossing(), Wire()
    forwarder = PortableForwarder(
        s.middle.node_id, s.middle.sessions, roles=Role.RELAY, send=wire.send, send_many=wire.send_many, read_stamp_ns=lambda: 0
    )
    forwarder.set_members({locator_of(router.node_id): router.node_id for router in s.network.routers.values()})
    packets = [s.packet(s.west, hop, b"x") for hop in (s.east, s.east, s.south, s.east)]
    forwarder.receive_batch([(b"".join(packets), len(packets[0]), s.west.address, 1)])
    assert [("send_many", s.east.address, 3), ("send", s.south.address, 1)] == wire.calls
    forwarder.receive_batch([])
    assert 2 == len(wire.calls)


def test_without_send_many_packets_leave_one_by_one() -> None:
    s, wire = Crossing(), Wire()
    forwarder = PortableForwarder(s.middle.node_id, s.middle.sessions, roles=Role.RELAY, send=wire.send, read_stamp_ns=lambda: 0)
    forwarder.set_members({locator_of(router.node_id): router.node_id for router in s.network.routers.values()})
    packets = [s.packet(s.west, s.east, b"x") for _ in range(3)]
    forwarder.receive_batch([(b"".join(packets), len(packets[0]), s.west.address, 1)])
    assert [("send", s.east.address, 1)] * 3 == wire.calls
