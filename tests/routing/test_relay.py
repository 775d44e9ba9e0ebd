"""The relay: forwarding, delivery, and every reason to drop."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srwan.overlay.session import Session
from srwan.overlay.view import Role
from srwan.routing.packet import open_packet, seal_packet, seal_payload
from srwan.routing.relay import NEIGHBOURS_MAX, PLANS_MAX, Delivered, NeedSession, Relay
from srwan.routing.sid import Function, Sid, locator_of
from srwan.routing.srh import SEGMENTS_MAX, Srh
from srwan.routing.traffic import Drops, TrafficCount
from srwan.testing.packets import SrNetwork, SrRouter
from srwan.types import NodeId, UdpAddress

PATH_TAG = 0xC0FFEE
STRANGER = NodeId(bytes([7]) * 32)
ELSEWHERE: UdpAddress = ("127.0.0.9", 999)


@attrs.define
class Scene:
    """An ingress, a relay under test, and an egress, with sessions; nothing under way."""

    ingress: SrRouter
    middle: SrRouter
    egress: SrRouter
    relay: Relay
    drops: Drops

    @property
    def link(self) -> Session:
        """The ingress's session with the relay."""
        return current(self.ingress, self.middle)

    @property
    def path(self) -> tuple[Sid, ...]:
        return (self.middle.sid(), self.egress.sid(Function.END_APP))

    def packet(self, srh: Srh | bytes | None = None, payload: bytes = b"opaque to relays") -> bytes:
        if not isinstance(srh, bytes):
            srh = (srh or Srh.for_path(self.path)).encode()
        return seal_packet(self.link, srh, PATH_TAG, payload)

    def process(self, data: bytes, now: float = 0.0) -> object:
        return self.relay.process(data, self.ingress.address, 123, now)

    def drops_after(self, data: bytes) -> dict[str, int]:
        assert self.process(data) is None
        return dict(self.drops.by_reason)


def current(router: SrRouter, other: SrRouter) -> Session:
    session = router.sessions.current(other.node_id)
    assert session is not None
    return session


def scene(roles: Role = Role.RELAY) -> Scene:
    network = SrNetwork()
    ingress, middle, egress = network.line()
    drops = Drops()
    relay = Relay(middle.node_id, middle.sessions, roles, drops)
    relay.set_members({locator_of(router.node_id): router.node_id for router in (ingress, middle, egress)})
    return Scene(ingress, middle, egress, relay, drops)


def test_packet_goes_on_to_the_next_segment_with_one_segment_less() -> None:
    s = scene()
    outcome = s.process(s.packet())
    assert isinstance(outcome, tuple)
    data, destination = outcome
    assert s.egress.address == destination
    session, srh, path_tag, payload_at = open_packet(s.egress.sessions.by_index, data)
    assert (s.middle.node_id, PATH_TAG, b"opaque to relays") == (session.peer, path_tag, data[payload_at:])
    assert attrs.evolve(Srh.for_path(s.path), segments_left=0) == Srh.decode(srh)
    assert s.drops.by_reason == {}


def test_relayed_packet_is_as_long_as_it_came_and_shares_no_sealed_byte_run() -> None:
    s = scene()
    data = s.packet()
    outcome = s.process(data)
    assert isinstance(outcome, tuple)
    assert len(data) == len(outcome[0])
    assert data[24:72] not in outcome[0]


def test_last_segment_is_delivered_with_the_way_it_took() -> None:
    s = scene()
    srh = Srh.for_path((s.middle.sid(Function.END_APP, 5),))
    outcome = s.process(s.packet(srh))
    assert Delivered(s.ingress.node_id, srh, PATH_TAG, b"opaque to relays", 123) == outcome


def test_end_of_own_traffic_needs_no_role() -> None:
    s = scene(Role(0))
    assert isinstance(s.process(s.packet(Srh.for_path((s.middle.sid(Function.END_STREAM),)))), Delivered)


def test_node_without_the_role_relays_nothing() -> None:
    s = scene(Role.EGRESS)
    assert {"no-role": 1} == s.drops_after(s.packet())


def test_traffic_is_counted_per_neighbour_and_per_path_tag() -> None:
    s = scene()
    sizes = []
    for n in range(5):
        data = s.packet(payload=bytes(100 * n))
        sizes.append(len(data))
        assert s.process(data) is not None
    total = TrafficCount(5, sum(sizes))
    assert (total, TrafficCount(0, 0)) == s.relay.neighbours[s.ingress.node_id].read()
    assert (TrafficCount(0, 0), total) == s.relay.neighbours[s.egress.node_id].read()
    assert [(s.ingress.node_id, PATH_TAG, total)] == [(owner, tag, entry.read()) for owner, tag, entry in s.relay.relayed]


def test_delivered_packets_are_not_counted_as_relayed() -> None:
    s = scene()
    s.process(s.packet(Srh.for_path((s.middle.sid(Function.END_APP),))))
    assert (1, 0) == (s.relay.neighbours[s.ingress.node_id].packets_in, len(s.relay.relayed))


def test_replay_is_dropped() -> None:
    s = scene()
    data = s.packet()
    assert s.process(data) is not None
    assert {"replay": 1} == s.drops_after(data)


def test_packet_of_a_closed_session_is_dropped() -> None:
    s = scene()
    data = s.packet()
    s.middle.sessions.drop_peer(s.ingress.node_id)
    assert {"session": 1} == s.drops_after(data)


def test_authentic_packet_from_a_new_address_moves_the_session_there() -> None:
    s = scene()
    s.relay.process(s.packet(), ELSEWHERE, 0, 0.0)
    assert ELSEWHERE == current(s.middle, s.ingress).address


def test_forged_or_replayed_packet_moves_no_session() -> None:
    s = scene()
    data = s.packet()
    s.process(data)
    s.relay.process(data, ELSEWHERE, 0, 0.0)
    forged = bytearray(s.packet())
    forged[30] ^= 1
    s.relay.process(bytes(forged), ELSEWHERE, 0, 0.0)
    assert s.ingress.address == current(s.middle, s.ingress).address
    assert {"replay": 1, "auth": 1} == s.drops.by_reason


def test_first_packet_confirms_the_responders_session() -> None:
    network = SrNetwork()
    ingress, middle = network.add(), network.add()
    ingress.sessions.connect(middle.node_id, middle.address, 0.0)
    network.tick()
    network.step()  # INIT
    network.step()  # RESPONSE; the CONFIRM that follows is lost
    network.queue.clear()
    assert middle.sessions.current(ingress.node_id) is None
    relay = Relay(middle.node_id, middle.sessions, Role.RELAY, Drops())
    srh = Srh.for_path((middle.sid(Function.END_APP),))
    assert relay.process(seal_packet(current(ingress, middle), srh.encode(), 0, b""), ingress.address, 0, 0.0) is not None
    assert middle.sessions.current(ingress.node_id) is not None


def test_next_node_without_session_is_asked_for_once_a_second_and_the_packets_are_dropped() -> None:
    s = scene()
    s.middle.sessions.drop_peer(s.egress.node_id)
    outcomes = [s.process(s.packet(), now) for now in (5.0, 5.1, 5.9, 6.1, 6.2)]
    need = NeedSession(s.egress.node_id)
    assert [need, None, None, need, None] == outcomes
    assert s.drops.by_reason == {"no-session": 5}
    assert len(s.relay.relayed) == 0


def test_clock_that_went_back_does_not_silence_requests_for_sessions() -> None:
    s = scene()
    assert s.relay.need_session(STRANGER, 1e9) is not None
    assert s.relay.need_session(STRANGER, 5.0) is not None


def test_next_segment_of_no_member_is_dropped() -> None:
    s = scene()
    assert {"next-hop-unknown": 1} == s.drops_after(s.packet(Srh.for_path((s.middle.sid(), Sid.of(STRANGER, Function.END_APP)))))


def test_node_that_left_is_no_next_hop_any_more() -> None:
    s = scene()
    assert s.process(s.packet()) is not None
    s.relay.set_members({})
    assert {"next-hop-unknown": 1} == s.drops_after(s.packet())


def foreign_segments(s: Scene) -> dict[str, tuple[Sid, ...]]:
    end = s.egress.sid(Function.END_APP)
    return {
        "another node": (Sid.of(STRANGER, Function.END), end),
        "END with an argument": (Sid.of(s.middle.node_id, Function.END, 1), end),
        "delivery with segments left": (s.middle.sid(Function.END_APP), end),
        "END with none left": (s.middle.sid(),),
        "egress to another network": (s.middle.sid(Function.END_DX4),),
        "unknown function": (Sid(locator_of(s.middle.node_id) + b"\x77\x77" + bytes(6)),),
    }


@pytest.mark.parametrize("name", foreign_segments(scene()))
def test_active_segment_that_is_not_ours_to_execute_is_dropped(name: str) -> None:
    s = scene()
    assert {"not-mine": 1} == s.drops_after(s.packet(Srh.for_path(foreign_segments(s)[name])))


def test_segment_before_ours_must_be_who_sent_it() -> None:
    """Else a relay could write another way back into the list, and have the egress answer there."""
    s = scene()
    srh = Srh(253, 1, 0, (Sid.of(STRANGER, Function.END), *s.path))
    assert {"srh-previous": 1} == s.drops_after(s.packet(srh))
    honest = Srh(253, 1, 0, (s.ingress.sid(), *s.path))
    assert s.process(s.packet(honest)) is not None


def hostile_headers(s: Scene) -> dict[str, tuple[bytes, str]]:
    good = Srh.for_path(s.path).encode()
    twice = bytes([253, 6, 4, 2, 2, 0, 0, 0]) + s.middle.sid() + s.egress.sid() + s.middle.sid()
    nodes = [NodeId(bytes([i]) * 32) for i in range(SEGMENTS_MAX)]
    nine = bytes([253, 18, 4, 8, 8, 0, 0, 0]) + b"".join(Sid.of(node, Function.END) for node in nodes) + s.middle.sid()
    return {
        "own segment twice": (twice, "loop"),
        "segments left beyond the list": (good[:3] + b"\x02" + good[4:], "srh-segments-left"),
        "another routing type": (good[:2] + b"\x03" + good[3:], "srh-type"),
        "flags": (good[:5] + b"\x80" + good[6:], "srh-flags"),
        "truncated": (good[:24], "srh-length"),
        "zero segments": (bytes([253, 0, 4, 0, 0, 0, 0, 0]) + bytes(16), "srh-length"),
        "objects after the list": (good[:4] + b"\x00" + good[5:], "srh-tlv"),
        "nine segments": (nine, "length"),
    }


@pytest.mark.parametrize("name", hostile_headers(scene()))
def test_hostile_header_from_an_authentic_neighbour_is_dropped_and_held_against_it(name: str) -> None:
    s = scene()
    srh, reason = hostile_headers(s)[name]
    assert {reason: 1} == s.drops_after(s.packet(srh))
    event = s.drops.next_event()
    assert event is not None
    assert (reason, None if reason == "length" else s.ingress.node_id) == (event.reason, event.peer)


def test_bad_packets_are_never_answered() -> None:
    """Nothing is ever sent but a packet taken in: process returns no datagram for a dropped one."""
    s = scene()
    for srh, _ in hostile_headers(s).values():
        assert s.process(s.packet(srh)) is None
    assert s.middle.sessions.datagrams_to_send(0.0) == []


def test_plans_are_bounded_under_headers_that_all_differ() -> None:
    s = scene()
    for tag in range(PLANS_MAX + 500):
        assert s.process(s.packet(attrs.evolve(Srh.for_path(s.path), tag=tag))) is not None
    assert len(s.relay._plans) <= PLANS_MAX


def test_neighbours_are_bounded_and_members_stay() -> None:
    s = scene()
    s.process(s.packet())
    for i in range(NEIGHBOURS_MAX + 10):
        s.relay._admit(NodeId(i.to_bytes(32, "big")))
    assert len(s.relay.neighbours) == NEIGHBOURS_MAX
    assert {s.ingress.node_id, s.egress.node_id} <= set(s.relay.neighbours)


FUZZ = scene()


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_random_header_from_an_authentic_neighbour_never_raises(srh: bytes) -> None:
    before = sum(FUZZ.drops.by_reason.values())
    srh = (srh + bytes(24))[: max(24, 8 + (len(srh) - 8) // 16 * 16)][:136]
    assert FUZZ.process(FUZZ.packet(srh)) is None
    assert sum(FUZZ.drops.by_reason.values()) == before + 1


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, 39), st.integers(0, 255)), max_size=3))
def test_mutated_header_from_an_authentic_neighbour_is_dropped_and_counted_or_goes_to_a_member(changes: list[tuple[int, int]]) -> None:
    before = sum(FUZZ.drops.by_reason.values())
    srh = bytearray(Srh.for_path(FUZZ.path).encode())
    for at, value in changes:
        srh[at] = value
    outcome = FUZZ.process(FUZZ.packet(bytes(srh)))
    if outcome is None:
        assert sum(FUZZ.drops.by_reason.values()) == before + 1
    else:
        assert isinstance(outcome, tuple)
        assert FUZZ.egress.address == outcome[1]


@settings(max_examples=300)
@given(st.binary(max_size=1600), st.booleans())
def test_random_datagram_never_raises_and_is_counted(data: bytes, names_a_session: bool) -> None:
    before = sum(FUZZ.drops.by_reason.values())
    if names_a_session:
        data = b"\x21\x00" + data[2:4] + FUZZ.link.remote_index.to_bytes(4, "little") + data[8:]
    assert FUZZ.process(data) is None
    assert sum(FUZZ.drops.by_reason.values()) == before + 1


def test_payload_is_sealed_for_the_egress_and_not_for_the_relay() -> None:
    s = scene()
    plaintext = b"only the egress reads this"
    payload = seal_payload(current(s.ingress, s.egress), PATH_TAG, plaintext)
    outcome = s.process(s.packet(payload=payload))
    assert isinstance(outcome, tuple)
    assert payload == outcome[0][-len(payload) :]
    assert plaintext not in outcome[0]
    assert s.middle.sessions.by_index(int.from_bytes(payload[:4], "little")) is None
