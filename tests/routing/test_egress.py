"""The egress: payloads that end here, and what a peer can fill."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srwan.errors import LimitExceeded
from srwan.overlay.session import Session
from srwan.routing import egress as module
from srwan.routing.egress import (
    FLOWS_PER_PEER_MAX,
    INBOX_PACKETS_MAX,
    AckArrived,
    AckDue,
    Egress,
    FlowClosed,
    FlowInbox,
    FlowPacket,
    NoticeArrived,
    PathStatistics,
)
from srwan.routing.packet import seal_payload
from srwan.routing.payload import RAW_NS_MAX, Ack, DataFlags, KeepAlive, Notice, NoticeReason, Payload, PayloadKind
from srwan.routing.relay import Delivered
from srwan.routing.sid import Function, Sid, locator_of
from srwan.routing.srh import Srh
from srwan.routing.traffic import Drops
from srwan.testing.packets import SrNetwork, SrRouter
from srwan.types import NodeId

PATH_TAG, FLOW = 0xC0FFEE, 42
RX_NS = 10_000_000
NOTHING_SENT = KeepAlive(0, 0)


@attrs.define
class Scene:
    """A peer with a session, two relays' SIDs, and the egress under test."""

    peer: SrRouter
    here: SrRouter
    egress: Egress
    drops: Drops
    relays: tuple[Sid, ...]

    @property
    def end(self) -> Session:
        session = self.peer.sessions.current(self.here.node_id)
        assert session is not None
        return session

    def deliver(self, plaintext: bytes, *, path_tag: int = PATH_TAG, rx_ns: int = RX_NS, next_header: int = 253) -> object:
        return self.deliver_sealed(seal_payload(self.end, path_tag, plaintext), path_tag=path_tag, rx_ns=rx_ns, next_header=next_header)

    def deliver_sealed(self, payload: bytes, *, path_tag: int = PATH_TAG, rx_ns: int = RX_NS, next_header: int = 253) -> object:
        srh = Srh(next_header, 0, 0, (*self.relays, self.here.sid(Function.END_APP)))
        return self.egress.receive(Delivered(self.peer.node_id, srh, path_tag, payload, rx_ns))

    def data(self, seq: int, body: bytes = b"x", *, flow: int = FLOW, tx_ns: int = 0, path_tag: int = PATH_TAG) -> FlowInbox:
        inbox = self.deliver(Payload(PayloadKind.DATA, flow, seq, tx_ns, body).encode(), path_tag=path_tag)
        assert isinstance(inbox, FlowInbox)
        return inbox

    def keepalive(self, seq: int, announced: KeepAlive = NOTHING_SENT, *, tx_ns: int = 0) -> AckDue:
        due = self.deliver(Payload(PayloadKind.KEEPALIVE, 0, seq, tx_ns, announced.encode()).encode())
        assert isinstance(due, AckDue)
        return due


def scene() -> Scene:
    network = SrNetwork()
    peer, here = network.add(), network.add()
    network.connect(peer, here)
    relays = tuple(Sid.of(NodeId(bytes([i]) * 32), Function.END) for i in (1, 2))
    drops = Drops()
    return Scene(peer, here, Egress(here.sessions, drops), drops, relays)


def test_data_waits_in_the_inbox_of_its_flow_in_order_of_arrival() -> None:
    s = scene()
    s.data(1, b"later", tx_ns=RX_NS - 6)
    inbox = s.data(0, b"earlier", tx_ns=RX_NS - 5)
    assert (s.peer.node_id, FLOW, 2, 12) == (inbox.peer, inbox.flow, len(inbox), inbox.octets)
    assert [FlowPacket(b"later", 1, 6, PATH_TAG), FlowPacket(b"earlier", 0, 5, PATH_TAG)] == inbox.take()
    assert (0, 0) == (len(inbox), inbox.octets)


def test_flows_do_not_mix() -> None:
    s = scene()
    one, two = s.data(0, b"one", flow=1), s.data(0, b"two", flow=2)
    assert ([b"one"], [b"two"]) == ([p.body for p in one.take()], [p.body for p in two.take()])


def test_keepalive_is_answered_with_what_arrived_on_its_path_tag() -> None:
    s = scene()
    s.data(3, b"abc", tx_ns=RX_NS - 100)
    s.data(7, b"de", tx_ns=RX_NS - 300)
    s.data(9, b"of another path", tx_ns=0, path_tag=PATH_TAG + 1)
    due = s.keepalive(5, KeepAlive(4, 9), tx_ns=RX_NS - 70)
    back = (*reversed(s.relays), s.peer.sid(Function.END_APP))
    ack = Ack(path_tag=PATH_TAG, keepalive_seq=5, keepalive_raw_ns=70, packets=2, octets=5, mean_raw_ns=200, highest_seq=7)
    assert AckDue(s.peer.node_id, back, PATH_TAG, ack) == due
    reception = s.egress.receptions.peek(s.peer.node_id, PATH_TAG)
    assert reception is not None
    assert (4, 9) == (reception.announced_packets, reception.announced_octets)


def test_mean_latency_is_of_the_data_since_the_last_answer_only() -> None:
    s = scene()
    s.data(0, tx_ns=RX_NS - 100)
    assert s.keepalive(0).ack.mean_raw_ns == 100
    assert s.keepalive(1).ack.mean_raw_ns is None
    s.data(1, tx_ns=RX_NS + 40)
    ack = s.keepalive(2).ack
    assert (-40, 2) == (ack.mean_raw_ns, ack.packets)


@pytest.mark.parametrize("tx_ns", [-(2**63), 2**63 - 1])
def test_hostile_stamps_still_make_an_answer_that_fits(tx_ns: int) -> None:
    s = scene()
    for seq in range(3):
        s.data(seq, tx_ns=tx_ns)
    ack = s.keepalive(0, tx_ns=tx_ns).ack
    assert ack == Ack.decode(ack.encode())
    assert abs(ack.keepalive_raw_ns) <= RAW_NS_MAX


def test_ack_is_handed_on() -> None:
    s = scene()
    ack = Ack(PATH_TAG, 1, 2, 3, 4, 5, 6)
    outcome = s.deliver(Payload(PayloadKind.ACK, 0, 1, RX_NS - 9, ack.encode()).encode())
    assert AckArrived(s.peer.node_id, PATH_TAG, ack, 9, RX_NS) == outcome


def test_ack_that_speaks_of_another_path_is_dropped() -> None:
    s = scene()
    ack = Ack(PATH_TAG + 1, 1, 2, 3, 4, 5, 6)
    assert s.deliver(Payload(PayloadKind.ACK, 0, 1, 0, ack.encode()).encode()) is None
    assert s.drops.by_reason == {"path-tag": 1}


def test_closed_flow_still_takes_late_data_but_nothing_beyond_its_end() -> None:
    s = scene()
    s.data(0)
    close = Payload(PayloadKind.CLOSE, FLOW, 3, 0)
    assert FlowClosed(s.peer.node_id, FLOW) == s.deliver(close.encode())
    inbox = s.data(2)
    assert (2, 3) == (len(inbox), inbox.closed_seq)
    assert s.deliver(Payload(PayloadKind.DATA, FLOW, 3, 0, b"").encode()) is None
    assert s.drops.by_reason == {"flow-closed": 1}


def test_second_close_and_close_of_an_unknown_flow_do_nothing() -> None:
    s = scene()
    assert s.deliver(Payload(PayloadKind.CLOSE, 1, 0, 0).encode()) is None
    s.data(0)
    assert s.deliver(Payload(PayloadKind.CLOSE, FLOW, 3, 0).encode()) is not None
    assert s.deliver(Payload(PayloadKind.CLOSE, FLOW, 1, 0).encode()) is None
    assert s.drops.by_reason == {}


def test_full_inbox_drops_its_oldest_and_counts_it() -> None:
    s = scene()
    inbox = [s.data(seq) for seq in range(INBOX_PACKETS_MAX + 3)][-1]
    assert (INBOX_PACKETS_MAX, 3, INBOX_PACKETS_MAX + 3) == (len(inbox), inbox.dropped, inbox.received)
    assert inbox.take(1)[0].seq == 3
    assert s.drops.by_reason == {"inbox-full": 3}


def test_octets_of_a_peer_are_bounded_over_all_its_flows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUEUED_OCTETS_PER_PEER_MAX", 1000)
    s = scene()
    one = s.data(0, bytes(600), flow=1)
    two = s.data(0, bytes(600), flow=2)
    assert (600, 0, 1) == (one.octets, two.octets, two.dropped)
    s.data(1, bytes(700), flow=1)
    assert [1] == [packet.seq for packet in one.take()]
    s.data(1, bytes(600), flow=2)
    assert two.octets == 600


def test_octets_of_all_peers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUEUED_OCTETS_MAX", 500)
    s = scene()
    inbox = s.data(0, bytes(501))
    assert (0, 1) == (len(inbox), inbox.dropped)


def test_peer_with_too_many_flows_loses_its_oldest_unclaimed_one() -> None:
    s = scene()
    kept = s.egress.claim(s.peer.node_id, 0)
    for flow in range(1, FLOWS_PER_PEER_MAX + 2):
        s.data(0, flow=flow)
    s.data(0, b"still there", flow=0)
    assert [b"still there"] == [packet.body for packet in kept.take()]
    assert s.drops.by_reason == {"flow-evicted": 2}


def test_peer_whose_flows_are_all_claimed_gets_no_more() -> None:
    s = scene()
    inboxes = [s.egress.claim(s.peer.node_id, flow) for flow in range(FLOWS_PER_PEER_MAX)]
    assert s.deliver(Payload(PayloadKind.DATA, 9999, 0, 0, b"").encode()) is None
    assert s.drops.by_reason == {"flows": 1}
    with pytest.raises(LimitExceeded):
        s.egress.claim(s.peer.node_id, 9999)
    s.egress.release(inboxes[0])
    s.data(0, flow=9999)


def test_released_inbox_gives_its_octets_back_once() -> None:
    s = scene()
    inbox = s.data(0, bytes(100))
    s.egress.release(inbox)
    s.egress.release(inbox)
    assert (0, 0) == (inbox.octets, s.egress._queued.octets)
    assert s.data(1) is not inbox


def test_peer_that_left_leaves_nothing() -> None:
    s = scene()
    inbox = s.data(0, bytes(100))
    s.egress.drop_peer(s.peer.node_id)
    s.egress.drop_peer(s.peer.node_id)
    assert (0, 0, 0) == (len(inbox), s.egress._queued.octets, len(s.egress.receptions))


def test_peers_are_bounded_and_idle_ones_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PEERS_MAX", 2)
    s = scene()
    s.data(0)
    s.egress._admit(NodeId(bytes([1]) * 32))
    s.egress._admit(NodeId(bytes([2]) * 32))
    assert {s.peer.node_id, NodeId(bytes([2]) * 32)} == set(s.egress._peers)
    s.egress.claim(NodeId(bytes([2]) * 32), 1)
    with pytest.raises(LimitExceeded):
        s.egress.claim(NodeId(bytes([3]) * 32), 1)


def test_payload_confirms_the_session_that_sealed_it() -> None:
    network = SrNetwork()
    peer, here = network.add(), network.add()
    peer.sessions.connect(here.node_id, here.address, 0.0)
    network.tick()
    network.step()  # INIT
    network.step()  # RESPONSE; the CONFIRM that follows is lost
    network.queue.clear()
    assert here.sessions.current(peer.node_id) is None
    end = peer.sessions.current(here.node_id)
    assert end is not None
    payload = seal_payload(end, 0, Payload(PayloadKind.DATA, 0, 0, 0, b"").encode())
    Egress(here.sessions, Drops()).receive(Delivered(peer.node_id, Srh.for_path((here.sid(Function.END_APP),)), 0, payload, 0))
    assert here.sessions.current(peer.node_id) is not None


def test_every_refused_payload_is_counted_by_reason() -> None:
    s = scene()
    data = Payload(PayloadKind.DATA, FLOW, 0, 0, b"hello").encode()
    payload = seal_payload(s.end, PATH_TAG, data)
    s.deliver_sealed(payload)
    refused = {
        "payload-replay": payload,
        "payload-short": payload[:27],
        "payload-session": bytes(4) + payload[4:],
        "payload-auth": payload[:4] + (99).to_bytes(8, "little") + payload[12:],
        "payload-kind": seal_payload(s.end, PATH_TAG, b"\x09" + data[1:]),
        "payload-flags": seal_payload(s.end, PATH_TAG, data[:1] + b"\x04" + data[2:]),
        "payload-length": seal_payload(s.end, PATH_TAG, data[:23]),
    }
    assert [None] * len(refused) == [s.deliver_sealed(payload) for payload in refused.values()]
    assert s.deliver(data, next_header=4) is None
    assert dict.fromkeys([*refused, "next-header"], 1) == s.drops.by_reason


def test_keepalive_whose_sender_relays_its_own_path_is_dropped() -> None:
    """The list is authentic hop by hop only; the answer to this one would not have a valid path."""
    s = scene()
    s.relays = (s.peer.sid(),)
    assert s.deliver(Payload(PayloadKind.KEEPALIVE, 0, 0, 0, KeepAlive(0, 0).encode()).encode()) is None
    assert s.drops.by_reason == {"loop": 1}


FUZZ = scene()


@settings(max_examples=300)
@given(st.sampled_from([0, 1, 2, 3, 4, 5]), st.binary(max_size=120))
def test_random_plaintext_from_an_authentic_peer_never_raises(kind: int, rest: bytes) -> None:
    before = sum(FUZZ.drops.by_reason.values())
    outcome = FUZZ.deliver(bytes([kind, 0, 0, 0]) + rest)
    is_harmless_close = kind == PayloadKind.CLOSE and len(rest) == 20
    assert outcome is not None or is_harmless_close or sum(FUZZ.drops.by_reason.values()) == before + 1


@settings(max_examples=300)
@given(st.binary(max_size=120))
def test_random_sealed_bytes_never_raise_and_are_counted(payload: bytes) -> None:
    before = sum(FUZZ.drops.by_reason.values())
    assert FUZZ.deliver_sealed(payload) is None
    assert sum(FUZZ.drops.by_reason.values()) == before + 1


# -- answers to DATA, ways back, notices


def answers(s: Scene) -> list[AckDue]:
    waiting = iter(s.egress.next_waiting, None)
    return [each for each in waiting if isinstance(each, AckDue)]


def test_data_are_answered_as_often_as_the_ingress_asked_for() -> None:
    s = scene()
    s.data(0)
    assert [] == answers(s)
    s.keepalive(0, KeepAlive(1, 1, answer_ms=100))
    for seq, at_ms in enumerate((50, 99, 100, 101, 199, 205), 1):
        s.deliver(Payload(PayloadKind.DATA, FLOW, seq, RX_NS, b"x").encode(), rx_ns=RX_NS + at_ms * 1_000_000)
    first, second = answers(s)
    assert (True, 3, 100_000_000, 4, 3) == (
        first.ack.is_for_data,
        first.ack.keepalive_seq,
        first.ack.keepalive_raw_ns,
        first.ack.packets,
        first.ack.highest_seq,
    )
    assert (6, 7) == (second.ack.keepalive_seq, second.ack.packets)
    assert (*reversed(s.relays), s.peer.sid(Function.END_APP)) == first.path


def test_data_are_never_answered_more_often_than_every_20_ms_and_not_at_all_when_not_asked() -> None:
    s = scene()
    s.keepalive(0, KeepAlive(1, 1, answer_ms=1))
    for seq in range(1000):
        s.deliver(Payload(PayloadKind.DATA, FLOW, seq, 0, b"x").encode(), rx_ns=RX_NS + seq * 1_000_000)
    assert 50 >= len(answers(s)) >= 47
    s.keepalive(1, KeepAlive(1, 1))
    s.deliver(Payload(PayloadKind.DATA, FLOW, 1000, 0, b"x").encode(), rx_ns=RX_NS + 10**12)
    assert [] == answers(s)


def test_answers_take_the_way_that_the_ingress_asks_for() -> None:
    s = scene()
    other = NodeId(b"\x07" * 32)
    due = s.keepalive(0, KeepAlive(0, 0, answer_ms=20, back=(locator_of(other),)))
    way = (Sid.of(other, Function.END), s.peer.sid(Function.END_APP))
    assert way == due.path
    once = s.keepalive(1, KeepAlive(0, 0, answer_ms=20, back=(), is_once=True))
    assert way[1:] == once.path
    s.deliver(Payload(PayloadKind.DATA, FLOW, 0, 0, b"x").encode(), rx_ns=RX_NS + 10**9)
    assert [way] == [each.path for each in answers(s)]


@pytest.mark.parametrize("who", ["sender", "here", "twice"])
def test_a_way_back_that_visits_a_node_twice_is_refused(who: str) -> None:
    s = scene()
    other = locator_of(NodeId(b"\x07" * 32))
    back = {"sender": (locator_of(s.peer.node_id),), "here": (locator_of(s.here.node_id),), "twice": (other, other)}[who]
    assert s.deliver(Payload(PayloadKind.KEEPALIVE, 0, 0, 0, KeepAlive(0, 0, back=back).encode()).encode()) is None
    assert s.drops.by_reason == {"loop": 1}


def test_keepalives_beyond_their_rate_are_dropped() -> None:
    s = scene()
    body = KeepAlive(0, 0).encode()
    made = [s.deliver(Payload(PayloadKind.KEEPALIVE, 0, seq, 0, body).encode()) for seq in range(100)]
    assert module.TAG_KEEPALIVES_BURST == sum(isinstance(each, AckDue) for each in made)
    assert s.drops.by_reason == {"keepalive-rate": 100 - module.TAG_KEEPALIVES_BURST}


def test_keepalives_on_many_tags_are_bounded_per_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PEER_KEEPALIVES_BURST", 40)
    s = scene()
    body = KeepAlive(0, 0).encode()
    made = [s.deliver(Payload(PayloadKind.KEEPALIVE, 0, 0, 0, body).encode(), path_tag=tag) for tag in range(100)]
    assert 40 == sum(isinstance(each, AckDue) for each in made)


def test_a_notice_is_handed_on() -> None:
    s = scene()
    notice = Notice(NoticeReason.NO_SESSION, bytes(8))
    outcome = s.deliver(Payload(PayloadKind.NOTICE, 0, 0, 0, notice.encode()).encode())
    assert NoticeArrived(s.peer.node_id, PATH_TAG, notice) == outcome


# -- several paths


def send(s: Scene, seq: int, flags: DataFlags, *, at_ms: int = 0, hold_ms: int = 0, path_tag: int = PATH_TAG) -> FlowInbox:
    payload = Payload(PayloadKind.DATA, FLOW, seq, 0, bytes([seq]), flags, hold_ms)
    inbox = s.deliver(payload.encode(), path_tag=path_tag, rx_ns=RX_NS + at_ms * 1_000_000)
    assert isinstance(inbox, FlowInbox)
    return inbox


def test_of_a_packet_sent_on_two_paths_the_second_copy_is_dropped_and_both_count_for_their_path() -> None:
    s = scene()
    inbox = s.egress.claim(s.peer.node_id, FLOW)
    for seq in range(3):
        send(s, seq, DataFlags.REPEATED)
        send(s, seq, DataFlags.REPEATED, path_tag=PATH_TAG + 1)
    assert ([0, 1, 2], 3, 3) == ([packet.seq for packet in inbox.take()], inbox.repeated, inbox.received)
    receptions = [s.egress.receptions.peek(s.peer.node_id, tag) for tag in (PATH_TAG, PATH_TAG + 1)]
    assert [3, 3] == [reception.packets for reception in receptions if reception is not None]


def test_packets_of_several_paths_are_put_in_order_and_a_gap_is_given_up_in_time() -> None:
    s = scene()
    inbox = s.egress.claim(s.peer.node_id, FLOW)
    for at_ms, seq in enumerate((0, 2, 1, 4, 5)):
        send(s, seq, DataFlags.ORDERED, at_ms=at_ms, hold_ms=50)
    assert ([0, 1, 2], 5) == ([packet.seq for packet in inbox.take()], inbox.received)
    assert RX_NS + 53_000_000 == inbox.due_ns
    inbox.release_due(RX_NS + 52_999_999)
    assert 0 == len(inbox)
    inbox.release_due(RX_NS + 53_000_000)
    assert ([4, 5], 0) == ([packet.seq for packet in inbox.take()], inbox.octets)
    assert inbox.due_ns is None


def test_packets_held_back_count_for_the_bounds_and_are_dropped_with_the_flow() -> None:
    s = scene()
    inbox = send(s, 1, DataFlags.ORDERED, hold_ms=50)
    assert (1, 0) == (inbox.octets, len(inbox))
    s.egress.release(inbox)
    assert (0, 0) == (inbox.octets, s.egress._queued.octets)


# -- expected against measured


def test_statistics_of_a_path_with_data_wait_after_ten_seconds() -> None:
    s = scene()
    owners = {relay: NodeId(bytes([1 + place]) * 32) for place, relay in enumerate(s.relays)}
    s.egress = Egress(s.here.sessions, s.drops, owners.get)
    s.keepalive(0, KeepAlive(0, 0))
    for seq in range(10):
        s.deliver(Payload(PayloadKind.DATA, FLOW, seq, RX_NS - 30_000_000, b"x" * 1000).encode())
    told = KeepAlive(10, 10_000, 20_000_000, 0)
    due = s.deliver(Payload(PayloadKind.KEEPALIVE, 0, 1, 0, told.encode()).encode(), rx_ns=RX_NS + 10_000_000_000)
    assert isinstance(due, AckDue)
    made = s.egress.next_waiting()
    relays = (NodeId(b"\x01" * 32), NodeId(b"\x02" * 32))
    assert PathStatistics(s.peer.node_id, relays, PATH_TAG, 20.0, 30.0, 0.0, 0.0, 8.0, 10, 10.0) == made
    assert s.egress.next_waiting() is None
