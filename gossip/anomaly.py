"""Anomalies of the edges into this member: latency that rose, packets that get lost, jitter that grew; per direction, on raw stamps.

Theory of operation. A sample's excess over the edge's `Baseline` is compared with a limit: 20 % of the edge's *true* latency, told by
the owner, else half of the usual round trip; never less than 2 ms, five spreads of the edge, or what its slope may be wrong by.

- Suspected after 2 of 3 samples beyond the limit. 5 probes at 200 ms then ask the round trip, which no clock can fake: risen by the limit
  confirms, risen by less than half of it withdraws. Withdrawn twice with no good sample between: the clocks moved, not the network, and
  the baseline starts again.
- Risen when probes confirm, or 3 of 5 samples are beyond the limit (their median is); normal when 3 of 5 are below half of it.
- Loss is tested for 1 % against 10 % on rounds and for 0.1 % against 1 % on data. One pulse in 100 is 1 %, so rounds tell nothing below
  4 %; 10 % take about 10 minutes of them, 50 % take 80 s. Data counters see in seconds what rounds cannot.
- Jitter is compared with its own slow mean.

Invariants: what is beyond the limit, and all while suspected or risen, stays out of the baseline; a level that stays for two hours is the
new normal; every suspicion or rise is ended by exactly one LatencyNormal unless its member left; probes are bounded over all edges.
Memory: 5 kB an edge at most. Source: median of 5 against single samples and means, benchmarks/anomalies.py; whitepaper section 1 for 20 %.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter, deque
from collections.abc import Iterable
from typing import Literal, TypeAlias

import attrs

from srwan.gossip.baseline import LOSS_ENTER, NEW_LEVEL_S, SLOPE_MS_PER_S_MAX, Baseline, JitterTest, LossTest, median_of
from srwan.gossip.row import RAW_MS_MAX
from srwan.types import NodeId

__all__ = [
    "AnomalyDetector",
    "AnomalyEvent",
    "JitterNormal",
    "JitterRose",
    "LatencyNormal",
    "LatencyRiseSuspected",
    "LatencyRose",
    "LossNormal",
    "LossRose",
]

RECENT = 5
"""Samples of the median that decides."""
_RECENT_BITS = (1 << RECENT) - 1
RECENT_GAP_S = 60.0
"""Samples before a silence of so long say nothing of now."""
PROBES = 5
PROBE_GAP_S = 0.2
PROBE_WAIT_S = 1.0
"""After the last probe of a run."""
PROBES_ENOUGH = 3
"""Round trips without which a run says nothing: a majority."""
RUN_GAP_S = 10.0
"""Least time between two runs on one edge: the peer owes 2 echoes a second."""
RUNS_BURST = 8.0
RUNS_PER_S = 0.5
"""Over all edges, so 2.5 probes a second and 40 at once; when the own link clogs all edges rise, and samples decide."""
ROUND_TRIPS_MAX = 31
"""Usual round trip: median of so many, half an hour at one a minute."""
ROUND_TRIP_MS_MAX = 60_000.0
WITHDRAWALS_MAX = 2

LOSS_ROUNDS = (0.01, 0.1)
"""Shares of lost rounds that are normal and bad. In between, below 4 %, the test never rises."""
LOSS_DATA = (0.001, 0.01)
"""Of data packets, which are many but lost in bunches."""
LOSS_STEP_MAX = LOSS_ENTER / 3
"""Evidence of one report of data: three in agreement are wanted."""
EVENTS_MAX = 1024

NormalReason: TypeAlias = Literal["back", "withdrawn", "clock", "new-level", "forgotten"]
LossSource: TypeAlias = Literal["rounds", "data"]


@attrs.frozen(slots=True)
class LatencyRiseSuspected:
    """Two of three samples of the edge from `node` were beyond its limit; probes were asked for if affordable."""

    node_id: NodeId
    by_ms: float
    """Excess of the last sample over the baseline, ms."""


@attrs.frozen(slots=True)
class LatencyRose:
    """The one-way latency from `node` is beyond its limit."""

    node_id: NodeId
    by_ms: float
    """Median excess, of the last five samples or of the probes' round trips, ms."""
    confirmed_by: Literal["probes", "samples"]


@attrs.frozen(slots=True)
class LatencyNormal:
    """A rise, or the suspicion of one, is over."""

    node_id: NodeId
    after_s: float
    """Since it was suspected, s."""
    reason: NormalReason
    """Back below half the limit; withdrawn before it was confirmed; the clocks moved, not the network; the level is the new normal; or
    the edge was forgotten meanwhile."""


@attrs.frozen(slots=True)
class LossRose:
    """The edge from `node` loses more than is normal."""

    node_id: NodeId
    share: float
    """Recent loss, 0..1."""
    source: LossSource


@attrs.frozen(slots=True)
class LossNormal:
    """Loss of the edge from `node` is normal again."""

    node_id: NodeId
    after_s: float
    source: LossSource


@attrs.frozen(slots=True)
class JitterRose:
    """Samples of the edge from `node` vary more than usual."""

    node_id: NodeId
    jitter_ms: float
    """Mean absolute deviation of the last 16, ms."""
    usual_ms: float


@attrs.frozen(slots=True)
class JitterNormal:
    """The jitter from `node` is as usual again, or what it is became usual."""

    node_id: NodeId
    after_s: float


AnomalyEvent: TypeAlias = LatencyRiseSuspected | LatencyRose | LatencyNormal | LossRose | LossNormal | JitterRose | JitterNormal


class _Run:
    """Probes of one suspicion."""

    __slots__ = ("round_trips", "sent", "wake_at")

    def __init__(self, now: float) -> None:
        self.sent = 0
        self.wake_at = now
        """When the next probe is due, or after the last when waiting ends."""
        self.round_trips: list[float] = []


_CALM, _SUSPECTED, _RISEN = 0, 1, 2


class _Edge:
    """What is kept of the edge from one peer."""

    __slots__ = (
        "baseline",
        "beyond",
        "beyond_half",
        "data_loss",
        "excess",
        "jitter",
        "last_at",
        "last_ms",
        "owl_ms",
        "round_loss",
        "round_trip_ms",
        "round_trips",
        "rounds",
        "run_after",
        "since",
        "state",
        "withdrawals",
    )

    def __init__(self, now: float) -> None:
        self.baseline = Baseline()
        self.owl_ms: float | None = None
        """As told."""
        self.round_trips = array("d")
        self.round_trip_ms: float | None = None
        """The usual one."""
        self.rounds: tuple[int, int] | None = None
        """Totals of rounds lost and judged when last told."""
        self.round_loss = LossTest(*LOSS_ROUNDS)
        self.data_loss = LossTest(*LOSS_DATA, LOSS_STEP_MAX)
        self.run_after = -math.inf
        self.jitter = JitterTest()
        self.restart(now)

    def restart(self, now: float) -> None:
        """Forget what raw samples said of latency; loss, round trips and jitter know no clock."""
        self.baseline.restart()
        self.state = _CALM
        self.since = now
        """When it was suspected."""
        self.withdrawals = 0
        self.last_at = -math.inf
        self.last_ms = 0.0
        self.excess: deque[float] = deque(maxlen=RECENT)
        self.beyond = self.beyond_half = 0
        """The last five samples as bits, newest lowest: beyond the limit, beyond half of it."""

    def set_limits(self) -> None:
        """Take the true latency, else half of the usual round trip, as what percents refer to."""
        half_ms = None if self.round_trip_ms is None else self.round_trip_ms / 2
        self.baseline.owl_ms = self.owl_ms if self.owl_ms is not None else half_ms
        self.baseline.set_limits()


class AnomalyDetector:
    """Watches all inbound edges of one member. A core; who owns it sends the probes, and tells every round trip and sample."""

    def __init__(self) -> None:
        self._edges: dict[NodeId, _Edge] = {}
        self._runs: dict[NodeId, _Run] = {}
        self._run_tokens = RUNS_BURST
        self._tokens_at = 0.0
        self._events: deque[AnomalyEvent] = deque()
        self.drops: Counter[str] = Counter()
        """Input not used, by reason."""

    # Commands

    def set_members(self, nodes: Iterable[NodeId], now: float) -> None:
        """Say which peers there are, this member left out. What is known of those who stay is kept; who left gets no event."""
        old = self._edges
        self._edges = {node: old.get(node) or _Edge(now) for node in nodes}
        for gone in [node for node in self._runs if node not in self._edges]:
            del self._runs[gone]

    def calibrate(self, node: NodeId, *, owl_ms: float | None, drift_ppm: float | None) -> None:
        """Tell what the clock fit says of the edge from `node`.

        Args:
            node: the peer.
            owl_ms: true one-way latency in normal times, ms; None: half of the usual round trip is taken.
            drift_ppm: how fast raw samples of the edge rise by the clocks alone, my rate less the peer's; None: it is found.

        Cost: 15 us.
        """
        edge = self._edges.get(node)
        if edge is None:
            self.drops["not-member"] += 1
            return
        is_owl_good = owl_ms is not None and 0.0 <= owl_ms <= ROUND_TRIP_MS_MAX
        is_drift_good = drift_ppm is not None and abs(drift_ppm) <= SLOPE_MS_PER_S_MAX * 1000
        edge.owl_ms = owl_ms if is_owl_good else None
        edge.baseline.drift = drift_ppm / 1000 if drift_ppm is not None and is_drift_good else None
        edge.baseline.fit()
        edge.set_limits()

    def forget(self, node: NodeId, now: float) -> None:
        """The clock of `node` moved or it restarted: raw samples before and after do not compare."""
        edge = self._edges.get(node)
        if edge is not None:
            self._restart(node, edge, "forgotten", now)
            edge.rounds = None

    # What was measured

    def sample(self, node: NodeId, raw_ms: float, now: float) -> None:
        """Take in a raw sample of the edge from `node`, ms, about one a period. Cost: 3 us."""
        edge = self._edges.get(node)
        if edge is None:
            self.drops["not-member"] += 1
            return
        if not -RAW_MS_MAX <= raw_ms <= RAW_MS_MAX:
            self.drops["sample"] += 1
            return
        if now - edge.last_at > RECENT_GAP_S:
            if edge.state == _SUSPECTED:
                self._end(node, edge, "withdrawn", now)
            elif edge.state == _CALM:
                edge.beyond = edge.beyond_half = 0
        elif edge.jitter.add(raw_ms - edge.last_ms, now):
            self._tell_jitter(node, edge.jitter, now)
        edge.last_at = now
        edge.last_ms = raw_ms
        baseline = edge.baseline
        if not baseline.is_ready:
            baseline.learn(raw_ms, now)
            return
        lag_s = now - baseline.at
        excess_ms = raw_ms - baseline.level_ms - baseline.slope * lag_s
        doubt_ms = baseline.doubt * lag_s
        is_beyond = excess_ms > baseline.enter_ms + doubt_ms
        edge.excess.append(excess_ms)
        edge.beyond = edge.beyond << 1 & _RECENT_BITS | is_beyond
        edge.beyond_half = edge.beyond_half << 1 & _RECENT_BITS | (excess_ms > baseline.leave_ms + doubt_ms)
        if edge.state == _CALM and not is_beyond:
            edge.withdrawals = 0
            baseline.learn(raw_ms, now)
        elif is_beyond or edge.state != _CALM:
            self._judge_latency(node, edge, now)

    def probe_measured(self, node: NodeId, round_trip_ms: float, now: float) -> None:
        """Take in the round trip of any probe to `node`, the regular ones too: these make the usual round trip, ms."""
        edge = self._edges.get(node)
        if edge is None:
            self.drops["not-member"] += 1
            return
        if not 0.0 <= round_trip_ms <= ROUND_TRIP_MS_MAX:
            self.drops["round-trip"] += 1
            return
        run = self._runs.get(node)
        if run is not None and run.sent:
            run.round_trips.append(round_trip_ms)
            if len(run.round_trips) >= PROBES:
                self._conclude(node, edge, run, now)
        elif edge.state == _CALM and not edge.beyond & 1:
            edge.round_trips.append(round_trip_ms)
            if len(edge.round_trips) > ROUND_TRIPS_MAX:
                del edge.round_trips[0]
            edge.round_trip_ms = median_of(edge.round_trips)
            if edge.owl_ms is None:
                edge.set_limits()

    def rounds_counted(self, node: NodeId, lost: int, judged: int, now: float) -> None:
        """Tell how many of the peer's rounds were lost of how many judged, totals since it started; if they fall it started again."""
        edge = self._edges.get(node)
        if edge is None:
            self.drops["not-member"] += 1
            return
        before, edge.rounds = edge.rounds, (lost, judged)
        if before is not None and judged > before[1] and 0 <= lost - before[0] <= judged - before[1]:
            self._judge_loss(node, edge.round_loss, "rounds", lost - before[0], judged - before[1], now)

    def data_loss(self, node: NodeId, lost: int, sent: int, now: float) -> None:
        """Tell that of `sent` data packets from `node` to me `lost` did not come; once a second or so, for edges that carry data."""
        edge = self._edges.get(node)
        if edge is None:
            self.drops["not-member"] += 1
        elif not 0 <= lost <= sent:
            self.drops["data-loss"] += 1
        elif sent:
            self._judge_loss(node, edge.data_loss, "data", lost, sent, now)

    # Timers and output

    def probes_due(self, now: float) -> list[NodeId]:
        """Return the peers to send one probe each now; each call counts them as sent."""
        due = [node for node, run in self._runs.items() if run.sent < PROBES and run.wake_at <= now]
        for node in due:
            run = self._runs[node]
            run.sent += 1
            run.wake_at = now + (PROBE_GAP_S if run.sent < PROBES else PROBE_WAIT_S)
        return due

    def handle_timer(self, now: float) -> None:
        """End runs whose last probe was long enough ago."""
        for node, run in list(self._runs.items()):
            if run.sent >= PROBES and run.wake_at <= now:
                self._conclude(node, self._edges[node], run, now)

    def get_timer(self) -> float | None:
        """Return when `handle_timer` and `probes_due` want to be called, monotonic s."""
        return min((run.wake_at for run in self._runs.values()), default=None)

    @property
    def has_output(self) -> bool:
        """Whether there may be an event, or a probe to send now or later. Cost: 0.1 us."""
        return bool(self._events or self._runs)

    def next_event(self) -> AnomalyEvent | None:
        """Return the next event, None if there is none."""
        return self._events.popleft() if self._events else None

    def is_risen(self, node: NodeId) -> bool:
        """Say whether the latency from `node` is beyond its limit now."""
        edge = self._edges.get(node)
        return edge is not None and edge.state == _RISEN

    def usual_ms(self, node: NodeId, now: float) -> float:
        """Return what a raw sample from `node` would be in normal times, ms; NaN before 15 samples."""
        edge = self._edges.get(node)
        if edge is None or not edge.baseline.is_ready:
            return math.nan
        return edge.baseline.level_at(now)

    # Verdicts

    def _judge_latency(self, node: NodeId, edge: _Edge, now: float) -> None:
        """One sample came that is beyond the limit, or the edge is not calm."""
        beyond = edge.beyond
        if edge.state == _CALM and (beyond & 7).bit_count() >= 2:
            edge.state, edge.since = _SUSPECTED, now
            self._emit(LatencyRiseSuspected(node, edge.excess[-1]))
            self._start_run(node, edge, now)
        if edge.state == _SUSPECTED:
            if beyond.bit_count() > RECENT // 2:
                self._rise(node, edge, median_of(edge.excess), "samples")
            elif not beyond & 7:
                self._end(node, edge, "withdrawn", now)
        elif edge.state == _RISEN:
            if edge.beyond_half.bit_count() <= RECENT // 2:
                self._end(node, edge, "back", now)
            elif now - edge.since > NEW_LEVEL_S:
                self._restart(node, edge, "new-level", now)

    def _rise(self, node: NodeId, edge: _Edge, by_ms: float, confirmed_by: Literal["probes", "samples"]) -> None:
        edge.state = _RISEN
        edge.withdrawals = 0
        edge.beyond_half = _RECENT_BITS  # three samples must be good, however few confirmed the rise
        self._emit(LatencyRose(node, by_ms, confirmed_by))

    def _end(self, node: NodeId, edge: _Edge, reason: NormalReason, now: float) -> None:
        edge.state = _CALM
        edge.beyond = edge.beyond_half = 0
        self._runs.pop(node, None)
        self._emit(LatencyNormal(node, now - edge.since, reason))

    def _restart(self, node: NodeId, edge: _Edge, reason: NormalReason, now: float) -> None:
        if edge.state != _CALM:
            self._end(node, edge, reason, now)
        edge.restart(now)

    def _start_run(self, node: NodeId, edge: _Edge, now: float) -> None:
        self._run_tokens = min(RUNS_BURST, self._run_tokens + (now - self._tokens_at) * RUNS_PER_S)
        self._tokens_at = now
        if self._run_tokens >= 1.0 and now >= edge.run_after and node not in self._runs:
            self._run_tokens -= 1.0
            edge.run_after = now + RUN_GAP_S
            self._runs[node] = _Run(now)

    def _conclude(self, node: NodeId, edge: _Edge, run: _Run, now: float) -> None:
        """Compare the round trips of a run with the usual one."""
        del self._runs[node]
        if edge.state != _SUSPECTED or len(run.round_trips) < PROBES_ENOUGH or edge.round_trip_ms is None:
            return
        rise_ms = median_of(run.round_trips) - edge.round_trip_ms
        if rise_ms > edge.baseline.enter_ms:
            self._rise(node, edge, rise_ms, "probes")
        elif rise_ms < edge.baseline.leave_ms:
            edge.withdrawals += 1
            if edge.withdrawals >= WITHDRAWALS_MAX:
                self._restart(node, edge, "clock", now)
            else:
                self._end(node, edge, "withdrawn", now)

    def _judge_loss(self, node: NodeId, test: LossTest, source: LossSource, lost: int, sent: int, now: float) -> None:
        if not test.add(lost, sent, now):
            return
        self._emit(LossRose(node, test.share, source) if test.is_high else LossNormal(node, now - test.since, source))

    def _tell_jitter(self, node: NodeId, test: JitterTest, now: float) -> None:
        self._emit(JitterRose(node, test.jitter_ms, test.usual_ms) if test.is_high else JitterNormal(node, now - test.since))

    def _emit(self, event: AnomalyEvent) -> None:
        if len(self._events) >= EVENTS_MAX:
            self.drops["events"] += 1
            return
        self._events.append(event)
