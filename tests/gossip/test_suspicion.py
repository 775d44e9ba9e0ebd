"""One failure detector: beats, deadlines, probes, accusations, and doubt about itself."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srwan.gossip.suspicion import (
    ACCUSE_AGAIN_S,
    BEAT_S,
    FLAG_DEAF,
    LEVEL_S,
    SLOT_S,
    AccusationDue,
    HealthChanged,
    PeerHeardAgain,
    PeerSuspected,
    Suspicion,
    SuspicionEvent,
)
from srwan.identity import Identity
from srwan.overlay.frame import Frame, FrameCodec, FrameType
from srwan.overlay.ring import Ring
from srwan.types import NodeId, UdpAddress

GROUP = bytes(range(32))
IDENTITIES = [Identity(bytes([index]) * 32) for index in range(1, 31)]
NODES = [identity.node_id for identity in IDENTITIES]
ME = NODES[0]


def roster(nodes: Iterable[NodeId]) -> dict[NodeId, UdpAddress]:
    return {node: ("127.0.0.1", 10_000 + NODES.index(node)) for node in nodes}


class Watch:
    """A detector, driven in small steps; the others beat unless they are silent."""

    def __init__(self, n: int, seed: int = 1) -> None:
        self.frames = FrameCodec(IDENTITIES[0], 7, 1)
        for node in NODES[1:n]:
            self.frames.add_peer(node)
        self.core = Suspicion(ME, self.frames, GROUP, rng=random.Random(seed))
        self.now = 100.0
        self.core.set_members(roster(NODES[:n]), self.now)
        self.beats_at = {node: self.now + 0.1 + 0.013 * index for index, node in enumerate(NODES[1:n])}
        self.silent: set[NodeId] = set()
        self.deaf: set[NodeId] = set()
        self.answering = False
        self.events: list[SuspicionEvent] = []
        self.probes: list[tuple[float, NodeId]] = []
        self.sent: list[tuple[float, bytes, UdpAddress]] = []

    def drain(self) -> None:
        self.sent += [(self.now, data, to) for data, to in self.core.datagrams_to_send(self.now, lambda: 5)]
        for node in self.core.probes_due():
            self.probes.append((self.now, node))
            if self.answering or node not in self.silent:
                self.core.heard(node, self.now)
        while (event := self.core.next_event()) is not None:
            self.events.append(event)

    def beat(self, node: NodeId, flags: int = 0) -> None:
        self.core.beat_received(Frame(node, FrameType.BEAT, flags, 0, 0, b""), self.now)

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while True:
            beat_at, node = min((at, node) for node, at in self.beats_at.items())
            timer = self.core.get_timer()
            self.now = min(beat_at, until, until if timer is None else timer)
            if self.now >= until:
                return
            if self.now == beat_at:
                self.beats_at[node] += BEAT_S
                if node not in self.silent:
                    self.beat(node, FLAG_DEAF if node in self.deaf else 0)
            self.core.handle_timer(self.now)
            self.drain()

    def of(self, kind: type) -> list[SuspicionEvent]:
        return [event for event in self.events if isinstance(event, kind)]


def test_a_lone_member_has_nothing_to_do() -> None:
    core = Suspicion(ME, FrameCodec(IDENTITIES[0], 7, 1), GROUP, rng=random.Random(1))
    assert core.get_timer() is None
    core.set_members(roster([ME]), 1.0)
    core.handle_timer(2.0)
    core.accused(2.0)
    assert (None, None, [], []) == (core.get_timer(), core.next_event(), core.probes_due(), list(core.datagrams_to_send(2.0, lambda: 1)))


def test_subjects_and_observers_are_those_of_the_ring() -> None:
    core = Watch(30).core
    ring = Ring(GROUP, NODES)
    assert ring.subjects_of(ME) == core.subjects
    assert sorted(ring.observers_of(ME)) == sorted(core.observers)


def test_every_observer_gets_one_beat_a_period_and_no_slot_more_than_two() -> None:
    watch = Watch(30)
    watch.run(20 * BEAT_S)
    per_receiver = Counter(to for _, _, to in watch.sent)
    assert set(roster(watch.core.observers).values()) == set(per_receiver)
    assert {20} == set(per_receiver.values())
    assert max(Counter(at for at, _, _ in watch.sent).values()) <= 2
    ticks = sorted({at for at, _, _ in watch.sent})
    assert all(SLOT_S == pytest.approx(b - a) for a, b in itertools.pairwise(ticks))


def test_a_beat_is_an_empty_frame_that_opens_at_the_observer() -> None:
    watch = Watch(30)
    watch.run(BEAT_S)
    _, data, (_, port) = watch.sent[0]
    receiver = FrameCodec(IDENTITIES[port - 10_000], 7, 1)
    receiver.add_peer(ME)
    frame = receiver.open(data, 1.0)
    assert (44, ME, FrameType.BEAT, 0, 5, b"") == (len(data), frame.sender, frame.type, frame.flags, frame.tx_ns, frame.content)


def test_who_stays_an_observer_keeps_its_beat() -> None:
    watch = Watch(30)
    watch.run(5 * BEAT_S)
    stayed = set(watch.core.observers)
    phase = {to: at for at, _, to in watch.sent}
    watch.core.set_members(roster(NODES[:24]), watch.now)
    stayed &= set(watch.core.observers)
    watch.run(4 * BEAT_S)
    assert len(stayed) >= 3
    for address in roster(sorted(stayed)).values():
        gaps = [at - phase[address] for at, _, to in watch.sent if to == address and at > phase[address]]
        assert [BEAT_S, 2 * BEAT_S, 3 * BEAT_S, 4 * BEAT_S] == [pytest.approx(gap) for gap in gaps[:4]]


def test_nobody_is_suspected_while_all_beat() -> None:
    watch = Watch(30)
    watch.run(120.0)
    assert ([], []) == (watch.events, watch.probes)


def test_silence_is_probed_four_times_and_then_accused_every_ten_seconds() -> None:
    watch = Watch(30)
    watch.run(10.0)
    subject = watch.core.subjects[0]
    last_at = watch.beats_at[subject] - BEAT_S
    watch.silent.add(subject)
    watch.run(4.5)
    assert [PeerSuspected(subject), AccusationDue(subject)] == watch.events
    assert [subject] * 4 == [node for _, node in watch.probes]
    assert [pytest.approx(last_at + 3.2 + step) for step in (0, 0.2, 0.4, 0.6)] == [at for at, _ in watch.probes]
    watch.run(2 * ACCUSE_AGAIN_S)
    assert [AccusationDue(subject)] * 3 == watch.of(AccusationDue)
    assert 4 == len(watch.probes)


def test_one_answer_to_four_probes_prevents_the_accusation() -> None:
    watch = Watch(30)
    watch.run(10.0)
    subject = watch.core.subjects[0]
    watch.silent.add(subject)
    watch.answering = True
    watch.run(60.0)
    assert [] == watch.of(AccusationDue)
    assert [PeerSuspected(subject), PeerHeardAgain(subject)] == watch.events[:2]


def test_any_frame_counts_as_life() -> None:
    watch = Watch(30)
    watch.run(10.0)
    subject = watch.core.subjects[0]
    watch.silent.add(subject)
    for _ in range(20):
        watch.run(1.5)
        watch.core.heard(subject, watch.now)
    assert [] == watch.events


def test_a_pulse_between_two_beats_does_not_put_the_deadline_off() -> None:
    watch = Watch(30)
    watch.run(10.0)
    subject = watch.core.subjects[0]
    last_at = watch.beats_at[subject] - BEAT_S
    watch.silent.add(subject)
    watch.run(last_at + 1.4 - watch.now)
    watch.core.heard(subject, watch.now)
    watch.run(last_at + 3.25 - watch.now)
    assert [PeerSuspected(subject)] == watch.events


def test_an_accused_subject_is_well_again_when_most_of_its_beats_come() -> None:
    watch = Watch(30)
    watch.run(10.0)
    subject = watch.core.subjects[0]
    watch.silent.add(subject)
    watch.run(8.0)
    watch.silent.clear()
    watch.run(2 * BEAT_S)
    assert [] == watch.of(PeerHeardAgain)
    watch.run(5 * BEAT_S)
    assert [PeerSuspected(subject), AccusationDue(subject)] == watch.events[:2]
    assert PeerHeardAgain(subject) == watch.events[-1]
    before = len(watch.events)
    watch.run(30.0)
    assert before == len(watch.events)


def test_a_subject_most_of_whose_beats_are_lost_is_accused_though_its_echoes_come() -> None:
    watch = Watch(30)
    watch.run(15.0)
    subject = watch.core.subjects[0]
    watch.answering = True
    for _ in range(4):
        watch.silent.add(subject)
        watch.run(2 * BEAT_S)
        watch.silent.clear()
        watch.run(BEAT_S)
    assert [AccusationDue(subject)] == watch.of(AccusationDue)


def test_loss_that_all_subjects_share_is_nobodys_fault() -> None:
    watch = Watch(30)
    watch.run(15.0)
    watch.answering = True
    for _ in range(6):
        watch.silent.update(watch.core.subjects)
        watch.run(2 * BEAT_S)
        watch.silent.clear()
        watch.run(BEAT_S)
    assert [] == watch.of(AccusationDue)


def test_a_subject_that_stops_beating_to_us_but_answers_is_not_accused() -> None:
    watch = Watch(30)
    watch.run(15.0)
    subject = watch.core.subjects[0]
    watch.answering = True
    watch.silent.add(subject)
    watch.run(12.0)
    watch.silent.clear()  # our views agree again
    watch.run(30.0)
    assert [] == watch.of(AccusationDue)


def test_two_deaf_beats_in_a_row_are_an_accusation_and_one_is_none() -> None:
    watch = Watch(30)
    watch.run(10.0)
    subject = watch.core.subjects[0]
    watch.beat(subject, FLAG_DEAF)
    watch.run(BEAT_S)
    watch.beat(subject, FLAG_DEAF)
    watch.run(BEAT_S)
    assert [] == watch.events
    watch.deaf.add(subject)
    watch.run(2 * BEAT_S)
    assert [AccusationDue(subject)] == watch.events
    watch.deaf.clear()
    watch.run(2 * BEAT_S)
    assert [AccusationDue(subject), PeerHeardAgain(subject)] == watch.events


def test_who_hears_nobody_says_so_and_accuses_nobody() -> None:
    watch = Watch(30)
    watch.run(10.0)
    watch.silent.update(NODES)
    watch.run(6.0)
    assert watch.core.is_deaf
    assert watch.core.is_withholding
    assert (255, [HealthChanged(255)]) == (watch.core.health, watch.of(HealthChanged))
    watch.sent.clear()
    watch.run(20.0)
    assert {255 << 8 | FLAG_DEAF} == {int.from_bytes(data[2:4], "little") for _, data, _ in watch.sent}
    assert [] == watch.of(AccusationDue)
    watch.silent.clear()
    watch.run(3.0)
    assert not watch.core.is_withholding
    watch.run(6 * LEVEL_S)
    assert (0, []) == (watch.core.health, watch.of(AccusationDue))


def test_half_the_subjects_silent_and_half_the_others_withhold_without_being_deaf() -> None:
    watch = Watch(30)
    watch.run(10.0)
    subjects = watch.core.subjects
    others = [node for node in NODES[1:] if node not in subjects]
    watch.silent.update(subjects[::2], others[::2])
    watch.run(20.0)
    assert (True, False) == (watch.core.is_withholding, watch.core.is_deaf)
    assert [] == watch.of(AccusationDue)


def test_half_the_subjects_silent_and_the_others_well_are_accused() -> None:
    watch = Watch(30)
    watch.run(10.0)
    crashed = watch.core.subjects[: len(watch.core.subjects) // 2 - 1]
    watch.silent.update(crashed)
    watch.run(6.5)
    assert sorted(crashed) == sorted(event.subject for event in watch.events if isinstance(event, AccusationDue))
    assert not watch.core.is_withholding


def test_with_two_subjects_there_is_no_doubt() -> None:
    watch = Watch(3)
    watch.run(10.0)
    watch.silent.update(NODES[1:3])
    watch.run(6.0)
    assert 2 == len(watch.of(AccusationDue))


@pytest.mark.parametrize("slept_s", [1.2, 5.0, 3600.0])
def test_what_was_slept_over_is_nobodys_fault(slept_s: float) -> None:
    watch = Watch(30)
    watch.run(10.0)
    watch.now += slept_s
    watch.beats_at = {node: watch.now + (at - watch.now) % BEAT_S for node, at in watch.beats_at.items()}
    watch.core.handle_timer(watch.now)
    watch.drain()
    assert 51 == watch.core.health
    assert len(watch.sent) <= 8 * 10
    watch.run(30.0)
    assert [HealthChanged(51), HealthChanged(0)] == watch.events


def test_short_stalls_stretch_no_deadline_unless_they_go_on() -> None:
    watch = Watch(30)
    watch.run(10.0)
    for _ in range(3):
        watch.run(0.5)
        watch.core.behind(0.9, watch.now)
    assert 0 == watch.core.health
    for _ in range(30):
        watch.run(0.5)
        watch.core.behind(0.9, watch.now)
    assert 102 == watch.core.health
    watch.run(2 * LEVEL_S + BEAT_S)
    assert 0 == watch.core.health


@pytest.mark.parametrize(("lag_s", "accused_after_s"), [(0.2, 4.5), (1.5, 6.0)])
def test_frames_that_waited_put_every_accusation_off_by_as_much(lag_s: float, accused_after_s: float) -> None:
    watch = Watch(30)
    watch.run(7.0)
    subject = watch.core.subjects[0]
    watch.silent = {subject}
    silent_at = watch.now
    watch.run(0.5)
    watch.core.behind(lag_s, watch.now)
    watch.drain()
    while not watch.of(AccusationDue):
        watch.run(0.1)
    assert accused_after_s - 1.6 < watch.now - silent_at < accused_after_s + 0.4


def test_a_frozen_subject_that_thaws_while_it_is_probed_is_not_accused() -> None:
    watch = Watch(30)
    watch.run(10.0)
    subject = watch.core.subjects[0]
    watch.silent.add(subject)
    watch.run(watch.beats_at[subject] - BEAT_S + 4.1 - watch.now)
    watch.core.heard(subject, watch.now)
    watch.silent.clear()
    watch.run(10.0)
    assert [PeerSuspected(subject), PeerHeardAgain(subject)] == watch.events


def test_who_is_accused_beats_to_all_at_once_but_not_without_end() -> None:
    watch = Watch(30)
    watch.run(10.0)
    watch.sent.clear()
    for _ in range(100):
        watch.core.accused(watch.now)
    watch.drain()
    assert sorted(roster(watch.core.observers).values()) == sorted(to for _, _, to in watch.sent)
    watch.core.accused(watch.now + 0.5)
    watch.drain()
    assert len(watch.core.observers) == len(watch.sent)


def test_a_new_subject_gets_a_whole_deadline_even_if_it_was_heard_long_ago() -> None:
    watch = Watch(12)
    watch.run(10.0)
    for node in NODES[12:30]:
        watch.frames.add_peer(node)
        watch.core.heard(node, 1.0)
    watch.core.set_members(roster(NODES), watch.now)
    joined_at = watch.now
    watch.run(3.1)
    assert [] == watch.of(PeerSuspected)
    new = {node for node in watch.core.subjects if node not in NODES[:12]}
    watch.run(0.5)
    assert len(new) >= 1
    assert new == {event.subject for event in watch.events if isinstance(event, PeerSuspected)}
    assert watch.now - joined_at < 4.0


def test_those_who_left_are_forgotten() -> None:
    watch = Watch(30)
    watch.run(10.0)
    subject = watch.core.subjects[0]
    watch.silent.add(subject)
    watch.run(8.0)
    watch.core.set_members(roster(node for node in NODES if node != subject), watch.now)
    before = len(watch.of(AccusationDue))
    watch.run(30.0)
    assert before == len(watch.of(AccusationDue))


def test_a_missing_key_is_counted() -> None:
    core = Suspicion(ME, FrameCodec(IDENTITIES[0], 7, 1), GROUP, rng=random.Random(1))
    core.set_members(roster(NODES[:3]), 0.0)
    core.accused(0.0)
    assert [] == list(core.datagrams_to_send(0.0, lambda: 1))
    assert Counter({"no-key": 2}) == core.drops


def test_jitter_puts_the_deadline_off_within_bounds() -> None:
    watch = Watch(30)
    subject = watch.core.subjects[0]
    rng = random.Random(1)
    base = watch.beats_at.pop(subject)
    at = late_s = base
    while watch.now < base + 60:
        late_s = rng.uniform(0, 0.4)
        at = base + BEAT_S * ((watch.now - base) // BEAT_S + 1)
        watch.run(at + late_s - watch.now)
        watch.beat(subject)
        watch.run(at + 0.5 - watch.now)
    last_at = at + late_s
    watch.run(last_at + 3.25 - watch.now)
    assert [] == watch.of(AccusationDue)
    suspected = len(watch.of(PeerSuspected))
    watch.run(0.4)
    assert suspected + 1 == len(watch.of(PeerSuspected))


@given(st.integers(0, 2**32), st.integers(2, 30))
def test_whatever_happens_probes_and_events_are_bounded_and_the_timer_moves_on(seed: int, n: int) -> None:
    rng = random.Random(seed)
    core = Suspicion(ME, FrameCodec(IDENTITIES[0], 7, 1), GROUP, rng=random.Random(seed))
    core.set_members(roster(NODES[:n]), 0.0)
    now, probes = 0.0, 0
    for _ in range(300):
        timer = core.get_timer()
        assert timer is not None
        now = max(now, rng.choice([timer, timer, timer + rng.uniform(0, 2), now]))
        action = rng.random()
        node = rng.choice(NODES)
        if action < 0.3:
            core.beat_received(Frame(node, FrameType.BEAT, rng.randrange(2), 0, 0, b""), now)
        elif action < 0.4:
            core.heard(node, now)
        elif action < 0.42:
            core.set_members(roster(rng.sample(NODES, rng.randrange(2, n + 1))), now)
            core.set_members(roster(NODES[:n]), now)
        core.handle_timer(now)
        after = core.get_timer()
        assert after is not None
        assert after > now
        probes += len(core.probes_due())
        list(core.datagrams_to_send(now, lambda: 1))
        assert 0 <= core.health <= 255
        assert all(bool(event) for event in iter(core.next_event, None))
    # Four to each of ten subjects and ten polled in three seconds, and as often again after each change of the roster.
    assert probes <= 80 * (now / 3 + 300 * 0.1 + 2)
