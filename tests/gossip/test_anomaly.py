"""Anomalies of inbound edges: what is suspected, confirmed, withdrawn and ended, under noise, drift and moved clocks."""

from __future__ import annotations

import math
import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srwan.gossip.anomaly import (
    EVENTS_MAX,
    PROBES,
    RUNS_BURST,
    RUNS_PER_S,
    AnomalyDetector,
    AnomalyEvent,
    JitterNormal,
    JitterRose,
    LatencyNormal,
    LatencyRiseSuspected,
    LatencyRose,
    LossNormal,
    LossRose,
)
from srwan.gossip.baseline import BLOCK_SAMPLES, RISE_MS_MIN, RISE_MS_UNKNOWN
from srwan.types import NodeId

PEER, OTHER = NodeId(bytes([1]) * 32), NodeId(bytes([2]) * 32)
NODES = [NodeId(bytes([index]) * 32) for index in range(1, 100)]
PERIOD_S = 10.0
RAW_MS = -5_000.0
"""What the clocks make of a latency of OWL_MS: only differences may count."""
OWL_MS = 100.0


class Edge:
    """One edge, a sample every period."""

    def __init__(self, *, owl_ms: float | None = OWL_MS, drift_ppm: float | None = None, round_trip_ms: float | None = None) -> None:
        self.detector = AnomalyDetector()
        self.detector.set_members([PEER], 0.0)
        self.detector.calibrate(PEER, owl_ms=owl_ms, drift_ppm=drift_ppm)
        self.now = 0.0
        if round_trip_ms is not None:
            for _ in range(5):
                self.detector.probe_measured(PEER, round_trip_ms, self.now)

    def warm_up(self) -> Edge:
        self.feed([0.0] * BLOCK_SAMPLES)
        return self

    def feed(self, excesses_ms: list[float]) -> list[AnomalyEvent]:
        """Feed samples and return what came of them."""
        for excess_ms in excesses_ms:
            self.now += PERIOD_S
            self.detector.sample(PEER, RAW_MS + excess_ms, self.now)
        return self.events()

    def probe(self, round_trip_ms: float | None) -> list[float]:
        """Send all probes that are asked for and answer them 100 ms later, with None never; return when they were sent."""
        sent: list[float] = []
        while (timer := self.detector.get_timer()) is not None:
            self.detector.handle_timer(timer)
            for node in self.detector.probes_due(timer):
                assert PEER == node
                sent.append(timer)
                if round_trip_ms is not None:
                    self.detector.probe_measured(PEER, round_trip_ms, timer + 0.1)
        return sent

    def events(self) -> list[AnomalyEvent]:
        return events_of(self.detector)


def events_of(detector: AnomalyDetector) -> list[AnomalyEvent]:
    return list(iter(detector.next_event, None))


def test_a_rise_is_suspected_after_two_samples_risen_after_three_and_over_after_three_good_ones() -> None:
    edge = Edge().warm_up()
    assert [] == edge.feed([30.0])
    assert [LatencyRiseSuspected(PEER, 30.0)] == edge.feed([30.0])
    assert [LatencyRose(PEER, 30.0, "samples")] == edge.feed([30.0])
    assert edge.detector.is_risen(PEER)
    assert [] == edge.feed([30.0] * 20 + [0.0, 0.0])
    assert [LatencyNormal(PEER, 240.0, "back")] == edge.feed([0.0])
    assert not edge.detector.is_risen(PEER)


def test_probes_confirm_a_rise_within_a_second_of_the_suspicion() -> None:
    edge = Edge(round_trip_ms=200.0).warm_up()
    edge.feed([30.0, 30.0])
    sent = edge.probe(230.0)
    assert [0.0, 0.2, 0.4, 0.6, 0.8] == pytest.approx([at - edge.now for at in sent])
    assert [LatencyRose(PEER, 30.0, "probes")] == edge.events()
    assert [] == edge.feed([0.0, 0.0])
    assert [LatencyNormal(PEER, 30.0, "back")] == edge.feed([0.0])


def test_round_trips_during_a_rise_are_not_usual() -> None:
    edge = Edge(round_trip_ms=200.0).warm_up()
    edge.feed([30.0] * 3)
    for _ in range(100):
        edge.detector.probe_measured(PEER, 230.0, edge.now)
    edge.detector.handle_timer(edge.now + 10)
    edge.feed([0.0] * 3 + [30.0] * 2)
    edge.probe(230.0)
    assert LatencyRose(PEER, 30.0, "probes") == edge.events()[-1]


def test_probes_that_see_no_rise_withdraw_the_suspicion() -> None:
    edge = Edge(round_trip_ms=200.0).warm_up()
    edge.feed([30.0, 30.0])
    edge.probe(200.0)
    (normal,) = edge.events()
    assert isinstance(normal, LatencyNormal)
    assert "withdrawn" == normal.reason
    assert pytest.approx(0.9) == normal.after_s
    assert [] == edge.feed([0.0] * 5)


def test_without_enough_echoes_samples_decide() -> None:
    edge = Edge(round_trip_ms=200.0).warm_up()
    edge.feed([30.0, 30.0])
    assert PROBES == len(edge.probe(None))
    assert [] == edge.events()
    assert [LatencyRose(PEER, 30.0, "samples")] == edge.feed([30.0])


def test_without_a_usual_round_trip_probes_decide_nothing() -> None:
    edge = Edge().warm_up()
    edge.feed([30.0, 30.0])
    edge.probe(500.0)
    assert [] == edge.events()


def test_a_clock_step_is_no_rise_where_probes_answer() -> None:
    edge = Edge(round_trip_ms=200.0).warm_up()
    happened: list[AnomalyEvent] = []
    for _ in range(60):
        happened += edge.feed([40.0])
        edge.probe(200.0)
        happened += edge.events()
    assert ["withdrawn", "clock"] == [event.reason for event in happened if isinstance(event, LatencyNormal)]
    assert 2 == sum(isinstance(event, LatencyRiseSuspected) for event in happened)
    assert 4 == len(happened)
    assert pytest.approx(RAW_MS + 40.0) == edge.detector.usual_ms(PEER, edge.now)


def test_a_suspicion_without_further_samples_is_withdrawn_by_good_ones() -> None:
    edge = Edge().warm_up()
    assert [LatencyRiseSuspected] == [type(event) for event in edge.feed([30.0, 0.0, 30.0])]
    assert [LatencyNormal(PEER, 30.0, "withdrawn")] == edge.feed([0.0, 0.0, 0.0])


def test_a_suspicion_from_before_a_silence_is_withdrawn() -> None:
    edge = Edge().warm_up()
    edge.feed([30.0, 30.0])
    edge.now += 600.0
    assert ["withdrawn"] == [event.reason for event in edge.feed([30.0]) if isinstance(event, LatencyNormal)]
    assert not edge.detector.is_risen(PEER)


def test_lone_spikes_are_nothing() -> None:
    edge = Edge().warm_up()
    assert [] == edge.feed([500.0, 0.0, 0.0] * 200)
    assert pytest.approx(RAW_MS) == edge.detector.usual_ms(PEER, edge.now)


@pytest.mark.parametrize(
    ("owl_ms", "round_trip_ms", "limit_ms"),
    [
        (100.0, None, 20.0),
        (100.0, 600.0, 20.0),
        (None, 300.0, 30.0),
        (None, None, RISE_MS_UNKNOWN),
        (1.0, None, RISE_MS_MIN),
        (math.nan, 300.0, 30.0),
    ],
)
def test_percents_refer_to_the_true_latency(owl_ms: float | None, round_trip_ms: float | None, limit_ms: float) -> None:
    def rises(by_ms: float) -> bool:
        edge = Edge(owl_ms=owl_ms, round_trip_ms=round_trip_ms, drift_ppm=0.0).warm_up()
        return any(isinstance(event, LatencyRose) for event in edge.feed([by_ms] * 5))

    assert (False, True) == (rises(0.95 * limit_ms), rises(1.05 * limit_ms))


def test_a_rise_is_over_below_half_of_what_began_it() -> None:
    edge = Edge(drift_ppm=0.0).warm_up()
    edge.feed([25.0] * 5)
    assert [] == edge.feed([11.0] * 20)
    assert [LatencyNormal] == [type(event) for event in edge.feed([9.0] * 5)]


def test_the_baseline_is_frozen_during_a_rise_and_does_not_learn_what_is_beyond_the_limit() -> None:
    edge = Edge().warm_up()
    edge.feed([30.0] * 350)
    assert pytest.approx(RAW_MS) == edge.detector.usual_ms(PEER, edge.now)
    edge.feed([0.0] * 5 + [30.0, 0.0, 0.0] * 100)
    assert pytest.approx(RAW_MS) == edge.detector.usual_ms(PEER, edge.now)


def test_what_stays_for_two_hours_is_the_new_normal() -> None:
    edge = Edge().warm_up()
    happened = edge.feed([30.0] * 800)
    assert LatencyNormal(PEER, 7210.0, "new-level") == happened[-1]
    assert [] == edge.feed([30.0] * 100)
    assert [LatencyRiseSuspected, LatencyRose] == [type(event) for event in edge.feed([60.0] * 5)]


def test_a_path_that_became_shorter_has_a_new_baseline_within_five_minutes() -> None:
    edge = Edge().warm_up()
    assert [] == edge.feed([-40.0] * 30)
    assert pytest.approx(RAW_MS - 40.0) == edge.detector.usual_ms(PEER, edge.now)
    assert [LatencyRiseSuspected, LatencyRose] == [type(event) for event in edge.feed([-10.0] * 5)]


@pytest.mark.parametrize("drift_ppm", [-100.0, -30.0, 30.0, 100.0])
@pytest.mark.parametrize("is_told", [False, True])
def test_drifting_clocks_are_no_rise_and_hide_none(drift_ppm: float, is_told: bool) -> None:
    rng = random.Random(5)
    edge = Edge(drift_ppm=drift_ppm if is_told else None)

    def feed(count: int, rise_ms: float) -> list[AnomalyEvent]:
        return [event for _ in range(count) for event in edge.feed([rise_ms + rng.gammavariate(2, 1) + drift_ppm / 1000 * edge.now])]

    assert [] == feed(1000, 0.0)
    assert pytest.approx(RAW_MS + 1.7 + drift_ppm / 1000 * edge.now, abs=1.5) == edge.detector.usual_ms(PEER, edge.now)
    assert [LatencyRiseSuspected, LatencyRose] == [type(event) for event in feed(360, 25.0)]
    assert [LatencyNormal] == [type(event) for event in feed(5, 0.0)]


def test_a_moved_clock_of_the_peer_ends_a_rise_and_starts_the_baseline_again() -> None:
    edge = Edge().warm_up()
    edge.feed([30.0] * 3)
    edge.detector.forget(PEER, edge.now)
    assert [LatencyNormal(PEER, PERIOD_S, "forgotten")] == edge.events()
    assert math.isnan(edge.detector.usual_ms(PEER, edge.now))
    assert [] == edge.feed([900.0] * 60)


def test_probes_are_bounded_over_all_edges() -> None:
    detector = AnomalyDetector()
    detector.set_members(NODES, 0.0)
    sent: list[int] = []
    suspected = 0
    for number in range(BLOCK_SAMPLES + 60):
        now = PERIOD_S * number
        for node in NODES:
            detector.sample(node, 40.0 * (number >= BLOCK_SAMPLES) * (number % 5 < 2), now)
        suspected += sum(isinstance(event, LatencyRiseSuspected) for event in events_of(detector))
        sent.append(0)
        while (timer := detector.get_timer()) is not None:
            detector.handle_timer(timer)
            sent[-1] += len(detector.probes_due(timer))
    assert PROBES * RUNS_BURST == max(sent)
    assert 12 * 5 * PERIOD_S * RUNS_PER_S * PROBES >= sum(sent) > 12 * PROBES
    assert 12 * len(NODES) == suspected


def test_one_lost_round_in_a_hundred_is_normal_and_one_in_five_is_not() -> None:
    detector = AnomalyDetector()
    detector.set_members([PEER], 0.0)

    lost = judged = 0

    def count(lost_of: list[bool]) -> list[AnomalyEvent]:
        nonlocal lost, judged
        for is_lost in lost_of:
            lost, judged = lost + is_lost, judged + 1
            detector.rounds_counted(PEER, lost, judged, PERIOD_S * judged)
        return events_of(detector)

    assert [] == count([number % 100 == 0 for number in range(2000)])
    (rose,) = count([number % 5 == 0 for number in range(60)])
    assert isinstance(rose, LossRose)
    assert ("rounds", True) == (rose.source, 0.1 < rose.share < 0.3)
    assert [LossNormal] == [type(event) for event in count([False] * 100)]


def test_a_peer_that_counts_rounds_anew_lost_nothing() -> None:
    detector = AnomalyDetector()
    detector.set_members([PEER], 0.0)
    detector.rounds_counted(PEER, 50, 1000, 0.0)
    detector.rounds_counted(PEER, 0, 2, 10.0)
    detector.rounds_counted(PEER, 40, 20, 20.0)
    assert [] == events_of(detector)


def test_one_bunch_of_lost_data_is_nothing_and_three_reports_are_enough() -> None:
    detector = AnomalyDetector()
    detector.set_members([PEER], 0.0)
    detector.data_loss(PEER, 400, 1000, 0.0)
    for number in range(1, 10):
        detector.data_loss(PEER, 0, 1000, float(number))
    assert [] == events_of(detector)
    for number in range(10, 13):
        detector.data_loss(PEER, 30, 1000, float(number))
    (rose,) = events_of(detector)
    assert isinstance(rose, LossRose)
    assert "data" == rose.source
    assert pytest.approx(0.03) == rose.share
    for number in range(13, 16):
        detector.data_loss(PEER, 0, 1000, float(number))
    assert [LossNormal(PEER, 14.0 - 12.0, "data")] == events_of(detector)


def test_jitter_is_compared_with_what_is_usual() -> None:
    rng = random.Random(3)
    edge = Edge().warm_up()
    assert [] == edge.feed([rng.gauss(0, 1) for _ in range(2000)])
    (rose,) = edge.feed([rng.gauss(0, 5) for _ in range(60)])
    assert isinstance(rose, JitterRose)
    assert pytest.approx(0.8, rel=0.5) == rose.usual_ms
    assert [JitterNormal] == [type(event) for event in edge.feed([rng.gauss(0, 1) for _ in range(100)])]


def test_broken_input_is_counted_and_changes_nothing() -> None:
    edge = Edge().warm_up()
    for raw_ms in (math.nan, math.inf, -math.inf, 1e9):
        edge.detector.sample(PEER, raw_ms, edge.now)
    for round_trip_ms in (math.nan, -1.0, 1e9):
        edge.detector.probe_measured(PEER, round_trip_ms, edge.now)
    edge.detector.data_loss(PEER, 2, 1, edge.now)
    edge.detector.data_loss(PEER, -1, 1, edge.now)
    edge.detector.data_loss(PEER, 0, 0, edge.now)
    edge.detector.sample(OTHER, 1.0, edge.now)
    edge.detector.calibrate(PEER, owl_ms=OWL_MS, drift_ppm=math.nan)
    assert {"sample": 4, "round-trip": 3, "data-loss": 2, "not-member": 1} == edge.detector.drops
    assert RAW_MS == edge.detector.usual_ms(PEER, edge.now)
    assert [] == edge.events()


def test_who_stays_keeps_the_baseline_and_who_leaves_is_forgotten_silently() -> None:
    edge = Edge(round_trip_ms=200.0).warm_up()
    edge.detector.set_members([OTHER, PEER], edge.now)
    assert RAW_MS == edge.detector.usual_ms(PEER, edge.now)
    edge.feed([30.0, 30.0])
    edge.detector.set_members([OTHER], edge.now)
    assert ([], None) == (edge.events(), edge.detector.get_timer())
    edge.detector.set_members([PEER], edge.now)
    assert math.isnan(edge.detector.usual_ms(PEER, edge.now))


def test_events_nobody_fetches_are_bounded() -> None:
    edge = Edge().warm_up()
    for _ in range(EVENTS_MAX):
        for excess_ms in (30.0, 30.0, 0.0, 0.0, 0.0):
            edge.now += PERIOD_S
            edge.detector.sample(PEER, RAW_MS + excess_ms, edge.now)
    assert EVENTS_MAX == len(edge.events())
    assert edge.detector.drops["events"] > 0


def test_an_edge_takes_at_most_five_kilobytes() -> None:
    rng = random.Random(1)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    detector = AnomalyDetector()
    detector.set_members(NODES[:5], 0.0)
    for number in range(600):
        for node in NODES[:5]:
            detector.sample(node, rng.gauss(80, 1), PERIOD_S * number)
            detector.probe_measured(node, rng.gauss(160, 1), PERIOD_S * number)
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert used < 5_000 * 5


@given(st.lists(st.tuples(st.sampled_from(["sample", "probe", "wait", "forget", "tell"]), st.floats(-80, 80)), max_size=150))
def test_every_suspicion_is_ended_by_exactly_one_normal(steps: list[tuple[str, float]]) -> None:
    edge = Edge(round_trip_ms=200.0).warm_up()
    happened: list[AnomalyEvent] = []
    for step, value in steps:
        if step == "sample":
            happened += edge.feed([value, value])
        elif step == "probe":
            edge.probe(200.0 + value)
        elif step == "wait":
            edge.now += 10 * abs(value)
        elif step == "forget":
            edge.detector.forget(PEER, edge.now)
        else:
            edge.detector.calibrate(PEER, owl_ms=abs(value), drift_ppm=value)
        happened += edge.events()
        assert (edge.detector.get_timer() or edge.now) <= edge.now + 1.0
    state = 0
    after: dict[type[object], tuple[int, set[int]]] = {LatencyRiseSuspected: (1, {0}), LatencyRose: (2, {1}), LatencyNormal: (0, {1, 2})}
    for event in happened:
        if type(event) in after:
            to, allowed = after[type(event)]
            assert state in allowed
            state = to
    assert (state == 2) == edge.detector.is_risen(PEER)
