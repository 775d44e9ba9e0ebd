"""Membership under failures and join storms: groups on an event heap with a latency per pair, loss and cuts."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable

import pytest

from srwan.errors import LocalProtocolError, RemoteProtocolError, StaleRecord
from srwan.identity import Identity
from srwan.overlay.accusation import Accusation, bundles_of
from srwan.overlay.frame import Frame, FrameCodec, FrameType, content_digest
from srwan.overlay.member_events import MemberAccused, MemberJoined, MemberLeft, MembershipEvent, SelfBuried, ViewChanged
from srwan.overlay.member_frames import encode_join, encode_members
from srwan.overlay.membership import Membership
from srwan.overlay.view import Member, Role, View
from srwan.types import GeoAsn, UdpAddress

WALL_NS = 1_800_000_000_000_000_000
S = 1_000_000_000
UDP_IP_BYTES = 28


class Node:
    """One member; it accuses whom it watches and does not hear, as a failure detector would."""

    def __init__(self, index: int, seed: int, *, boot: int = 1000) -> None:
        self.identity = Identity(bytes([3, index]) * 16)
        self.node_id = self.identity.node_id
        self.address: UdpAddress = (f"10.3.0.{index + 1}", 4710)
        self.frames = FrameCodec(self.identity, 7, boot)
        self.view = View()
        self.core = Membership(self.identity, self.frames, self.view, self.certify, random.Random(f"{seed}/{index}/{boot}"), boot=boot)
        self.events: list[MembershipEvent] = []
        self.drops: dict[str, int] = {}

    def certify(self, boot: int, seq: int, wall_ns: int, is_leaving: bool) -> bytes:
        return Member(
            self.node_id,
            boot,
            seq,
            f"node-{self.address[0]}",
            (self.address,),
            (f"/ip4/{self.address[0]}/tcp/4710",),
            GeoAsn("LT", 5469, 2528, 8764),
            Role.RELAY | Role.INTRODUCER,
            wall_ns,
            wall_ns + 600 * S,
            is_leaving,
        ).seal(self.identity)

    def count(self, kind: type) -> int:
        return sum(isinstance(event, kind) for event in self.events)


class Net:
    """20 to 150 ms between any two, up to 5 ms jitter."""

    def __init__(self, count: int, seed: int, *, loss: float = 0.0) -> None:
        self.rng = random.Random(seed)
        self.seed = seed
        self.loss = loss
        self.now = 0.0
        self.bytes = 0
        self.datagrams = 0
        self.nodes = [Node(index, seed) for index in range(count)]
        self.index = {node.address: index for index, node in enumerate(self.nodes)}
        self.by_id = {node.node_id: index for index, node in enumerate(self.nodes)}
        self.owl_s = [[self.rng.uniform(0.020, 0.150) for _ in range(count)] for _ in range(count)]
        self.dead: set[int] = set()
        self.cut: set[tuple[int, int]] = set()
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._armed: dict[int, float] = {}

    def at(self, when: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (when, next(self._order), action))

    def wall_ns(self) -> int:
        return WALL_NS + int(self.now * 1e9)

    def living(self) -> list[Node]:
        return [node for index, node in enumerate(self.nodes) if index not in self.dead]

    def drain(self, index: int) -> None:
        node = self.nodes[index]
        for data, destination in node.core.datagrams_to_send(self.now, self.wall_ns):
            self.bytes += len(data) + UDP_IP_BYTES
            self.datagrams += 1
            other = self.index[destination]
            if (index, other) not in self.cut and self.rng.random() >= self.loss:
                when = self.now + self.owl_s[index][other] + self.rng.uniform(0.0, 0.005)
                self.at(when, lambda o=other, d=data: self.deliver(o, d, node.address))  # type: ignore[misc]
        while (event := node.core.next_event()) is not None:
            node.events.append(event)
        timer = node.core.get_timer()
        if timer is not None and not self.now < self._armed.get(index, -1.0) <= timer:
            self._armed[index] = timer
            self.at(max(timer, self.now), lambda: self.fire(index))

    def deliver(self, index: int, data: bytes, source: UdpAddress) -> None:
        node = self.nodes[index]
        if index in self.dead:
            return
        try:
            frame = node.frames.open(data, self.now)
            node.core.note_heard(frame.sender, source, self.now)
            node.core.receive_frame(frame, source, self.now, self.wall_ns())
        except RemoteProtocolError as error:
            node.drops[error.reason] = node.drops.get(error.reason, 0) + 1
        self.drain(index)

    def fire(self, index: int) -> None:
        self._armed.pop(index, None)
        if index in self.dead:
            return
        timer = self.nodes[index].core.get_timer()
        if timer is not None and self.now >= timer:
            self.nodes[index].core.handle_timer(self.now, self.wall_ns())
        self.drain(index)

    def join(self, index: int, roster: list[bytes]) -> None:
        self.nodes[index].core.join(roster, self.now, self.wall_ns())
        self.drain(index)

    def accuse(self, observer: int, subject: int, round_: int = 5) -> None:
        if observer not in self.dead:
            self.nodes[observer].core.accuse(self.nodes[subject].node_id, round_, self.now, self.wall_ns())
            self.drain(observer)

    def crash(self, victims: set[int]) -> None:
        """Stop some at once; whoever watches one of them notices 3 to 4 s later, and looks again every second."""
        self.dead |= victims
        for index in range(len(self.nodes)):
            if index not in self.dead:
                self.at(self.now + self.rng.uniform(3.0, 4.0), lambda i=index: self.watch(i))  # type: ignore[misc]

    def watch(self, index: int) -> None:
        node = self.nodes[index]
        for subject in node.core.ring.subjects_of(node.node_id):
            if self.by_id[subject] in self.dead:
                self.accuse(index, self.by_id[subject])
        if index not in self.dead:
            self.at(self.now + 1.0, lambda: self.watch(index))

    def tell_digests(self, period_s: float) -> None:
        """What pulses do, again and again: everyone hears everyone's digest, or loses it."""
        living = self.living()
        for node in living:
            for other in living:
                if other is not node and self.rng.random() >= self.loss:
                    node.core.observe_digest(other.node_id, other.view.digest, self.now)
            self.drain(self.by_id[node.node_id])
        self.at(self.now + period_s, lambda: self.tell_digests(period_s))

    def run(self, until: float, stop: Callable[[], bool] = lambda: False) -> float:
        while self._heap and self._heap[0][0] <= until:
            self.now, _, action = heapq.heappop(self._heap)
            action()
            if stop():
                return self.now
        self.now = until
        return until

    def agrees_on(self, size: int) -> bool:
        living = self.living()
        return all(len(node.view) == size for node in living) and len({node.view.digest for node in living}) == 1


def group(count: int, seed: int = 1, *, loss: float = 0.0) -> Net:
    """A converged group, all at 5 s of virtual time."""
    net = Net(count, seed)
    roster = [node.certify(1000, 0, WALL_NS, False) for node in net.nodes]
    for index in range(count):
        net.join(index, roster)
    net.run(5.0)
    assert net.agrees_on(count)
    for node in net.nodes:
        node.events.clear()
        node.drops.clear()
    net.loss = loss
    net.datagrams = net.bytes = 0
    return net


@pytest.mark.parametrize(
    ("count", "seed", "bytes_max"),
    [(30, 1, 700_000), (30, 2, 700_000), *(pytest.param(100, seed, 7_000_000, marks=pytest.mark.slow) for seed in (1, 2, 3))],
)
def test_newcomers_who_all_know_the_same_one_member_find_each_other_in_two_seconds(count: int, seed: int, bytes_max: int) -> None:
    net = Net(count, seed, loss=0.01)
    net.join(0, [])
    roster = [net.nodes[0].view.certificate(net.nodes[0].node_id)]
    for index in range(1, count):
        net.join(index, roster)
    at = net.run(3.0, lambda: net.agrees_on(count))
    net.run(5.0)
    assert at <= (1.5 if count < 100 else 2.0)
    assert net.bytes <= bytes_max


@pytest.mark.parametrize("seed", range(4))
def test_after_ten_failures_at_once_and_five_percent_loss_all_survivors_agree(seed: int) -> None:
    net = group(30, seed, loss=0.05)
    victims = set(net.rng.sample(range(30), 10))
    net.crash(victims)
    net.tell_digests(2.0)
    net.run(net.now + 40.0, lambda: net.agrees_on(20))
    assert net.agrees_on(20)
    gone = {net.nodes[index].node_id for index in victims}
    for node in net.living():
        left = [event for event in node.events if isinstance(event, MemberLeft)]
        assert gone == {event.node_id for event in left}
        assert {"failed"} == {event.reason for event in left}


def test_one_crash_is_one_view_change_at_everybody_within_a_flight_of_the_last_accusation_needed() -> None:
    net = group(20)
    net.crash({7})
    at = net.run(net.now + 20.0, lambda: net.agrees_on(19))
    assert at - 5.0 <= 4.0 + 0.155
    assert [1] * 19 == [node.count(ViewChanged) for node in net.living()]
    accused = [event for event in net.nodes[0].events if isinstance(event, MemberAccused)]
    needed = accused[0].needed
    assert list(range(1, needed + 1)) == [event.accusers for event in accused]
    assert {(net.nodes[7].node_id, needed)} == {(event.subject, event.needed) for event in accused}


def test_a_member_that_one_other_cannot_hear_stays() -> None:
    net = group(12)
    net.cut = {(3, 4)}
    for second in range(60):
        net.at(5.0 + second, lambda: net.accuse(4, 3))
    net.run(70.0)
    assert net.agrees_on(12)
    assert {0} == {node.count(MemberLeft) for node in net.nodes}
    assert net.nodes[3].count(MemberAccused) > 0


def test_accusers_short_of_a_quorum_bury_nobody_and_a_newer_row_clears_the_accused() -> None:
    net = group(20)
    subject = net.nodes[3]
    observers = [net.by_id[node] for node in subject.core.ring.observers_of(subject.node_id)]
    needed = -(-len(observers) * 7 // 10)
    for observer in observers[: needed - 1]:
        net.accuse(observer, 3)
    net.run(6.0)
    for node in net.nodes:
        node.core.refute(subject.node_id, 6, net.now)
    for observer in observers[needed - 1 :]:
        net.accuse(observer, 3)
    net.run(60.0)
    assert net.agrees_on(20)
    assert {0} == {node.count(MemberLeft) + node.count(SelfBuried) for node in net.nodes}


def test_a_member_that_heard_no_accusation_learns_of_the_burial_by_pull() -> None:
    net = group(20)
    net.crash({7})
    deaf = net.nodes[2]
    watchers = {net.by_id[node] for node in deaf.core.ring.observers_of(net.nodes[7].node_id)}
    assert 2 not in watchers
    net.cut = {(other, 2) for other in range(20)}
    net.run(9.5)
    assert len(deaf.view) == 20
    net.cut = set()
    net.run(20.0)  # the accusations are forgotten by now and repeated no more
    deaf.core.observe_digest(net.nodes[1].node_id, net.nodes[1].view.digest, net.now)
    net.drain(2)
    net.run(22.0)
    assert net.agrees_on(19)
    assert MemberLeft(net.nodes[7].node_id, "failed") in deaf.events
    assert deaf.drops == {}


def buried_alive(net: Net, index: int) -> None:
    """Its watchers accuse it though it lives."""
    for observer in net.nodes[0].core.ring.observers_of(net.nodes[index].node_id):
        net.accuse(net.by_id[observer], index)


def test_a_node_that_was_buried_alive_is_told_once_and_comes_back_in_a_new_run() -> None:
    net = group(12)
    node = net.nodes[3]
    buried_alive(net, 3)
    net.run(7.0)
    assert {11} == {len(other.view) for other in net.nodes if other is not node}
    assert [SelfBuried(1000)] == [event for event in node.events if isinstance(event, SelfBuried)]
    with pytest.raises(LocalProtocolError):
        node.core.rejoin(1000, net.now, net.wall_ns())
    node.core.rejoin(2000, net.now, net.wall_ns())
    net.drain(3)
    net.run(8.0)
    assert net.agrees_on(12)
    assert {2000} == {other.view.get(node.node_id).boot for other in net.nodes}  # type: ignore[union-attr]
    assert {1} == {other.count(MemberJoined) for other in net.nodes if other is not node}
    net.run(400.0)  # certificates of the new run are renewed
    assert net.agrees_on(12)


def test_certificates_of_a_buried_run_do_not_bring_it_back_whatever_their_seq() -> None:
    net = group(6)
    net.cut = {(other, 3) for other in range(6)}
    buried_alive(net, 3)
    net.run(7.0)
    node, one = net.nodes[3], net.nodes[0]
    assert node.count(SelfBuried) == 0
    late = node.certify(1000, 77, net.wall_ns(), False)
    net.cut = set()
    content = encode_join(node.node_id, late)
    data = node.frames.seal(one.node_id, FrameType.JOIN, content, digest=content_digest(content), tx_ns=0)
    with pytest.raises(StaleRecord) as caught:  # as the shell does: only members are noted as heard
        one.core.receive_frame(one.frames.open(data, net.now), node.address, net.now, net.wall_ns())
    net.drain(0)
    assert caught.value.reason == "left"
    assert node.node_id not in one.view
    net.run(8.0)
    assert node.count(SelfBuried) == 1  # the answer was the proof


def test_a_proof_reaches_a_buried_node_that_asks_an_introducer_or_speaks_after_its_key_was_forgotten() -> None:
    net = group(6)
    net.cut = {(other, 3) for other in range(6)}
    buried_alive(net, 3)
    net.run(160.0)
    node, one = net.nodes[3], net.nodes[0]
    assert node.node_id not in one.frames.peers
    roster = one.core.admit(node.node_id, node.view.certificate(node.node_id), net.now, net.wall_ns())
    assert len(roster) == 6
    node.core.join(roster, net.now, net.wall_ns())
    net.drain(3)
    assert node.count(SelfBuried) == 1
    net.cut = set()
    net.run(440.0)  # it renews in its old run; the others tell it why that is void, and forget its key again
    assert node.count(SelfBuried) == 1


def test_a_node_that_fails_again_and_again_is_held_off_and_then_taken_up_by_itself() -> None:
    net = group(8)
    node = net.nodes[3]
    for run in (1, 2):
        buried_alive(net, 3)
        net.run(net.now + 1.0)
        node.core.rejoin(1000 + run, net.now, net.wall_ns())
        net.drain(3)
        net.run(net.now + 5.0)
        assert net.agrees_on(8) == (run == 1)
    assert all(other.drops == {"hold-off": other.drops["hold-off"]} for other in net.nodes if other is not node)
    net.run(net.now + 13.0)
    assert not net.agrees_on(8)
    net.run(net.now + 3.0)
    assert net.agrees_on(8)


def sealed(net: Net, sender: int, receiver: int, content: bytes, kind: FrameType = FrameType.ACCUSE) -> bytes:
    return net.nodes[sender].frames.seal(net.nodes[receiver].node_id, kind, content, digest=content_digest(content), tx_ns=0)


def test_forged_foreign_repeated_replayed_and_strangers_accusations_do_nothing() -> None:
    net = group(8)
    one, victim = net.nodes[0], net.nodes[3]
    wall_s = net.wall_ns() // S

    def accusation(index: int, group_id: bytes = bytes(8), boot: int = 1000) -> Accusation:
        return Accusation.sign(net.nodes[index].identity, group_id, victim.node_id, boot=boot, round=5, issued_s=wall_s)

    for index in (1, 2, 4, 5, 6, 7):
        net.deliver(0, sealed(net, index, 0, accusation(index, b"elsewher").encode()), net.nodes[index].address)
        net.deliver(0, sealed(net, index, 0, accusation(1 if index != 1 else 2).encode()), net.nodes[index].address)
        net.deliver(0, sealed(net, index, 0, accusation(index, boot=999).encode()), net.nodes[index].address)
        net.deliver(0, sealed(net, index, 0, bundles_of([accusation(other) for other in (1, 2, 4, 5, 6, 7)])[0]), net.nodes[index].address)
        members = encode_members(bytes(8), bundles_of([accusation(other) for other in (1, 2, 4, 5, 6, 7)]))
        net.deliver(0, sealed(net, index, 0, members, FrameType.MEMBERS), net.nodes[index].address)
    replay = sealed(net, 1, 0, accusation(1).encode())
    for _ in range(10):
        net.deliver(0, replay, net.nodes[1].address)
        net.deliver(0, sealed(net, 1, 0, accusation(1).encode()), net.nodes[1].address)
    assert one.drops == {"signature": 12, "decode": 6, "unsolicited": 6, "replay": 9}
    assert [1] == [event.accusers for event in one.events if isinstance(event, MemberAccused)]
    stranger = Node(99, 1)
    frame = Frame(stranger.node_id, FrameType.ACCUSE, 0, 0, 0, accusation(1).encode())
    with pytest.raises(RemoteProtocolError):
        one.core.receive_frame(frame, stranger.address, net.now, net.wall_ns())
    net.run(20.0)
    assert net.agrees_on(8)


def test_ten_thousand_random_contents_raise_nothing_but_protocol_errors_and_change_no_view() -> None:
    net = group(4)
    rng = random.Random(3)
    one, other = net.nodes[:2]
    kinds = [FrameType.JOIN, FrameType.LEAVE, FrameType.PULL, FrameType.MEMBERS, FrameType.ACCUSE]
    good = [
        Accusation.sign(other.identity, bytes(8), net.nodes[2].node_id, boot=1000, round=1, issued_s=net.wall_ns() // S),
        Accusation.sign(other.identity, bytes(8), one.node_id, boot=1000, round=1, issued_s=net.wall_ns() // S),
    ]
    samples = [item for each in good for item in (each.encode(), bundles_of([each])[0], encode_members(bytes(8), bundles_of([each])))]
    dropped = 0
    for number in range(10_000):
        content = bytearray(rng.choice(samples) if number % 2 else rng.randbytes(rng.randrange(1157)))
        for _ in range(rng.randrange(4)):
            if content:
                content[rng.randrange(len(content))] = rng.randrange(256)
        now = net.now + number * 0.01
        frame = Frame(other.node_id, rng.choice(kinds), rng.randrange(8), number, 0, bytes(content[:1156]))
        try:
            one.core.receive_frame(frame, other.address, now, net.wall_ns())
        except RemoteProtocolError:
            dropped += 1
        one.core.handle_timer(now, net.wall_ns())
        list(one.core.datagrams_to_send(now, net.wall_ns))
        while one.core.next_event() is not None:
            pass
    assert dropped > 8_000
    assert set(one.view.ids) == {node.node_id for node in net.nodes}
