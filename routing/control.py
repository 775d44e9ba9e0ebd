"""Which path the data of one application path take, and when that changes.

A sans-IO core per (destination, policy). The calls:

- in: `update` (a new matrix), `receive_ack`, `handle_timer`, `data_sent`, `relay_failed`, `close`;
- out, drained after every call in: `packets_to_send`, `next_event`, `get_timer`; and `active`, read for every packet.

Theory of operation. Data start on the home path at once: direct, or the one forced by `via`. Home and the best few relayed candidates,
node-disjoint, are kept warm with keep-alives all the time, so that every decision compares paths measured in the same seconds, and
a failover needs no handshake. Predictions choose what is kept warm; only measurements move data. About every 200 ms all are judged:

1. Leaving. Each evaluation gives each standby a weight against the path in use: 1 if its clipped mean (and loss) is better by the
   threshold; up to 3 if even the best of the newest samples of the path in use is worse by 3 thresholds than the worst that is known of
   the standby; what goes beyond 1 is lost again with the first good sample. Weights of consecutive evaluations add up; at 9 data move. So
   a large step moves data after 3 evaluations, a gain at the threshold after 9, a spike or a lost keep-alive never. Both paths must have given 3 samples sent since the first of these
   evaluations, so that congestion both share (the access link) is not held against one. Among standbys within `spread_ms` of the best
   one is chosen at random.
2. Returning. When for 10 evaluations the gain of a relayed path is under `leave_ms`, data go home; twice as long each time home was left
   again soon after a return, or died under data. If the path in use broke down while home did not, home is a standby like any other.
3. Death. When the path in use falls silent, data move at once to the best standby of which not even one answer is overdue, else home.
   (When all paths fall silent together, the fault is likely ours: data stay, no path is blamed.)
4. Vetoes. A relayed path that died while another answered, or turned out worse than both its promise and direct within a minute after data
   moved to it (it could not carry them), is left alone for 30 s * 2^k, and must then be confirmed by 10 answers instead of 3.

Evaluations run on a clock of random phase: two routers that saw the same event move up to 0.2 s apart, and to different relays.

Invariants: exactly one path is in use; home is always watched; only a path that is a standby is selected, home excepted; no event, packet
or timer after `close`.

Source: whitepaper 3.3, 3.4, 8.1; docs/decisions.md for thresholds.
"""

from __future__ import annotations

import math
import random
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import TypeAlias

import attrs

from srwan.errors import PathClosed, RemoteProtocolError
from srwan.routing.finder import Latencies, PathCandidate, PathFinder, Relays, RelaysAllowed
from srwan.routing.path import (
    DirectRestored,
    PathActivated,
    PathDegraded,
    PathDied,
    PathLife,
    PathProbing,
    PathSignal,
    PathState,
    PathSwitched,
    PathVetoed,
    VetoList,
)
from srwan.routing.payload import Ack
from srwan.routing.policy import PathPolicy
from srwan.routing.watch import PathPacket, PathWatch, Sample
from srwan.types import NodeId, PeerMisbehaved

__all__ = ["ControlEvent", "PathControl", "PathStatus"]

CONFIRMATIONS = 3
"""Fresh answers that make a probed path a standby. Home needs one while it carries data, but three to be returned to."""
CONFIRMATIONS_AFTER_VETO = 10
"""The same after a veto: 2 s of good behaviour."""
EVALUATIONS_MIN = 3
"""Consecutive evaluations, and fresh samples of both paths, before data leave a path that still answers."""
WEIGHT_MAX = 3.0
"""Weight of one evaluation, in thresholds."""
WEIGHT_TO_SWITCH = EVALUATIONS_MIN * WEIGHT_MAX
RETURN_EVALUATIONS = 10
"""Evaluations with too little gain before data go home: 2 s."""
RETURN_EVALUATIONS_MAX = 3000
"""Bound of the doubling: 10 min."""
CALM_EVALUATIONS = 5
"""Evaluations without trouble that end an episode of degradation: 1 s."""
DEGRADED_EVALUATIONS = 2
"""Consecutive evaluations with trouble that are reported."""
DWELL_S = 1.0
"""Least time on a path, s, unless it dies."""
TRIAL_S = 60.0
"""How long a path is held to the latency it promised, s: 50 ppm of clock drift are 3 ms in it."""
FLAP_S = 30.0
"""Leaving home again so soon after a return is a strike against returning, s."""
STRIKES_FORGOTTEN_S = 600.0
"""Strikes against returning are forgotten after so long without one, s."""
UNANSWERED_S = 1.0
"""A home path that never answered for so long is left when a standby answers, s."""
DEAD_GRACE_S = 2.0
"""A standby that died together with all others is asked on for so long before another candidate gets its place, s."""
SET_ASIDE_S = 5.0
"""And then not tried again for so long, s. No strike: when all is dead, the fault is more likely ours."""
OVERSLEPT_S = 0.1
"""A timer handled later than this after it was due means that we slept; the time is not counted as silence, s."""
REPLACE_SPACING_S = 5.0
"""Two updates that confirm a better candidate lie at least this apart, s."""
BIASES_MAX = 64
"""Replaced standbys remembered with how much worse they were than predicted."""
DRIFT_MS_PER_S = 0.05
"""Two clocks drift apart by so much, ms/s (50 ppm)."""
EVENTS_MAX = 256
"""Undrained events; the oldest are dropped."""

ControlEvent: TypeAlias = (
    PathProbing | PathActivated | PathDegraded | PathSwitched | DirectRestored | PathDied | PathVetoed | PeerMisbehaved
)

_USABLE = frozenset({PathState.STANDBY, PathState.ACTIVE})
_ALIVE = _USABLE | {PathState.SUSPECT}


@attrs.frozen(slots=True)
class PathStatus:
    """One watched path, for display. Raw latencies compare with each other only."""

    relays: Relays
    path_tag: int
    state: PathState
    is_in_use: bool
    predicted_ms: float
    """What the matrix predicted at the last update, raw ms; NaN = unknown."""
    live_ms: float
    """Measured by keep-alives, raw ms; NaN = not yet."""
    data_ms: float
    """Measured on the DATA of the last interval, raw ms; NaN = none."""
    rtt_ms: float
    """Last round trip, ms; NaN = not yet."""
    loss: float
    """Over the last 20 keep-alives, 0..1."""
    explanation: str
    """Of the prediction."""


@attrs.define(slots=True, eq=False)
class _Path:
    candidate: PathCandidate
    watch: PathWatch
    life: PathLife
    confirmations: int
    evaluations: int = 0  # consecutive ones that spoke for the path
    surplus: float = 0.0  # what they weighed beyond 1 each
    since: float = 0.0  # when the first sample that spoke for the path was sent
    died_at: float = 0.0
    is_blamed: bool = False  # another path answered when it died, so it was not us

    @property
    def relays(self) -> Relays:
        return self.candidate.relays

    @property
    def state(self) -> PathState:
        return self.life.state

    @property
    def is_usable(self) -> bool:
        return self.life.state in _USABLE

    @property
    def value_ms(self) -> float:
        return self.watch.value_ms

    def is_answering(self, now: float) -> bool:
        """Whether it is usable and not even one answer is overdue."""
        return self.is_usable and now < self.watch.overdue_at

    def forget_weight(self) -> None:
        self.evaluations, self.surplus = 0, 0.0


class PathControl:
    """All candidate paths from here to one destination.

    Args:
        ingress: this node.
        destination: the egress.
        policy: thresholds and wishes.
        rng: jitter and the choice among equals.
        make_tag: returns a path tag not used before.
        now: monotonic s; the home path is opened at once.
        finder: ranks candidates and names nodes in reasons.
        relays_allowed: who may relay now (members with that role that can be reached); None = every member of the matrix.

    Raises:
        ValueError: the destination is this node.
    """

    def __init__(
        self,
        ingress: NodeId,
        destination: NodeId,
        policy: PathPolicy,
        *,
        rng: random.Random,
        make_tag: Callable[[], int],
        now: float,
        finder: PathFinder | None = None,
        relays_allowed: RelaysAllowed = None,
    ) -> None:
        if ingress == destination:
            raise ValueError("the destination is this node")
        self.ingress = ingress
        self.destination = destination
        self.policy = policy
        self.drops: Counter[str] = Counter()
        """Answers dropped, by reason."""
        self.is_closed = False
        self._rng = rng
        self._make_tag = make_tag
        self._finder = finder or PathFinder()
        self._allowed = relays_allowed
        self._ranking: list[PathCandidate] = []
        self._vetoes = VetoList()
        self._bias_ms: OrderedDict[Relays, float] = OrderedDict()
        self._events: deque[ControlEvent] = deque(maxlen=EVENTS_MAX)
        self._paths: dict[Relays, _Path] = {}
        self._by_tag: dict[int, _Path] = {}
        self._home = self._in_use = self._open(_unknown(policy.via), now)
        if policy.via and policy.fallback:
            self._open(_unknown(()), now)
        self._evaluated_at = now
        self._evaluate_at = now + rng.uniform(0, policy.keepalive_s)
        self._switched_at = self._returned_at = self._struck_at = -math.inf
        self._promised_ms = math.nan
        self._strikes = 0
        self._too_little_gain = 0
        self._troubled = self._calm = 0
        self._is_degraded = False
        self._better: tuple[Relays, float] | None = None
        self._reference: Sample | None = None

    # -- read

    @property
    def active(self) -> tuple[Relays, int]:
        """Relays and path tag that data take now. It may be a home path that does not answer (see `is_alive`).

        Raises:
            PathClosed: after `close`.
        """
        if self.is_closed:
            raise PathClosed("the path is closed; open a new one")
        return self._in_use.relays, self._in_use.watch.path_tag

    @property
    def is_alive(self) -> bool:
        """Whether the path that data take answers."""
        return not self.is_closed and self._in_use.state in _ALIVE

    @property
    def paths(self) -> tuple[PathStatus, ...]:
        """All watched paths, the one in use first."""
        ordered = sorted(self._paths.values(), key=lambda path: path is not self._in_use)
        return tuple(
            PathStatus(
                path.relays,
                path.watch.path_tag,
                path.state,
                path is self._in_use,
                path.candidate.predicted_ms,
                path.watch.live_ms,
                path.watch.data_ms,
                path.watch.samples[-1].rtt_ms if path.watch.samples else math.nan,
                path.watch.loss,
                path.candidate.explanation,
            )
            for path in ordered
        )

    def explain(self) -> str:
        """Say which path data take and what all watched ones measure: "via a: direct 231 ms, via a 158 ms". For humans."""
        return f"{self._name(self._in_use)}: {self._measured()}"

    # -- in

    def update(self, snapshot: Latencies, now: float) -> None:
        """Take a new matrix or a changed set of allowed relays: rank again, fill the standbys. Moves data only off a relay that is no
        longer allowed. Cost: as `PathFinder.rank`."""
        if self.is_closed or self.policy.via:
            return
        self._ranking = self._finder.rank(
            snapshot, self.ingress, self.destination, self.policy, rng=self._rng, relays_allowed=self._allowed
        )
        for path in list(self._paths.values()):
            path.candidate = self._finder.predict(snapshot, self.ingress, self.destination, path.relays, self.policy)
            if not all(self._may_relay(node) for node in path.relays):
                self._retire(path, now)
        self._fill(now)
        self._replace(now)

    def receive_ack(self, ack: Ack, now: float) -> None:
        """Take an answer of the egress, authenticated as the destination's. Never raises; what does not fit is dropped and counted."""
        path = self._by_tag.get(ack.path_tag)
        if path is None:
            self.drops["ack-unknown-tag"] += 1
            return
        try:
            path.watch.receive_ack(ack, now)
        except RemoteProtocolError as error:
            self.drops[error.reason] += 1
            if error.reason == "ack-unsent":
                self._events.append(PeerMisbehaved(self.destination, None, error.reason))
            return
        self._take_reference(path.watch.samples[-1])
        if path.state in (PathState.SUSPECT, PathState.DEAD):
            path.life.on(PathSignal.ANSWERED)
        if path.state is PathState.PROBING and path.watch.answers >= (1 if path is self._in_use else path.confirmations):
            path.life.on(PathSignal.CONFIRMED)
            if path is self._in_use:
                reason = f"{self._name(path)} answers, {path.watch.samples[-1].rtt_ms:.0f} ms round trip"
                self._events.append(PathActivated(path.relays, path.watch.path_tag, reason))
        if path.state is PathState.STANDBY and path is self._in_use:
            path.life.on(PathSignal.SELECTED)

    def handle_timer(self, now: float) -> None:
        """Notice silence and decide. Call when `get_timer` is due; calling more often does no harm."""
        if self.is_closed:
            return
        due = self.get_timer()
        if due is not None and now - due > OVERSLEPT_S:
            for path in self._paths.values():
                path.watch.excuse(now - due)
        for path in list(self._paths.values()):
            self._check_silence(path, now)
        if now >= self._evaluate_at:
            self._evaluate(now)
            self._evaluated_at = now
            self._evaluate_at = now + self.policy.keepalive_s * self._rng.uniform(0.9, 1.1)

    def data_sent(self, now: float, *, octets: int, packets: int = 1, path_tag: int | None = None) -> None:
        """Count DATA sent, on the path in use or on the one with `path_tag`. Call before the keep-alives of the same batch are made."""
        del now  # part of the convention of cores; counting needs no time
        path = self._in_use if path_tag is None else self._by_tag.get(path_tag)
        if path is not None:
            path.watch.count_data(packets, octets)

    def relay_failed(self, node: NodeId, now: float) -> None:
        """Take a hint that a node is gone: every path through it is dead at once."""
        for path in list(self._paths.values()):
            if node in path.relays and path.state in _ALIVE | {PathState.PROBING}:
                self._die(path, f"{self._finder.name_of(node)} was reported gone", now)

    def close(self, now: float) -> None:
        """Stop: nothing is sent, due or reported any more. Idempotent."""
        del now
        if self.is_closed:
            return
        self.is_closed = True
        for path in self._paths.values():
            path.life.on(PathSignal.CLOSED)
        self._paths.clear()
        self._by_tag.clear()
        self._events.clear()

    # -- out

    def packets_to_send(self, now: float) -> Iterator[PathPacket]:
        """Yield the keep-alives that are due, at most one per path."""
        for path in list(self._paths.values()):
            packet = path.watch.keepalive_to_send(now)
            if packet is not None:
                yield packet

    def next_event(self) -> ControlEvent | None:
        """Return the oldest event not yet returned, or None."""
        return self._events.popleft() if self._events else None

    def get_timer(self) -> float | None:
        """Return when `handle_timer` and `packets_to_send` are due, monotonic s; None after `close`."""
        if self.is_closed:
            return None
        return min(self._evaluate_at, *(self._path_timer(path) for path in self._paths.values()))

    def _path_timer(self, path: _Path) -> float:
        if path.state in _USABLE:
            return min(path.watch.send_at, path.watch.suspect_at)
        if path.state in (PathState.SUSPECT, PathState.PROBING):
            return min(path.watch.send_at, path.watch.dead_at)
        return path.watch.send_at

    # -- opening and closing paths

    def _open(self, candidate: PathCandidate, now: float) -> _Path:
        life = self._vetoes.pardon(candidate.relays, now)
        life.on(PathSignal.OPENED)
        confirmations = CONFIRMATIONS_AFTER_VETO if self._vetoes.strikes(candidate.relays, now) else CONFIRMATIONS
        watch = PathWatch(candidate.relays, self._make_tag(), self.policy, self._rng, now)
        path = _Path(candidate, watch, life, confirmations)
        self._paths[candidate.relays] = path
        self._by_tag[watch.path_tag] = path
        self._events.append(PathProbing(candidate.relays, watch.path_tag))
        return path

    def _forget(self, path: _Path) -> None:
        del self._paths[path.relays]
        del self._by_tag[path.watch.path_tag]

    def _give_up(self, path: _Path) -> None:
        path.life.on(PathSignal.CLOSED)
        self._forget(path)

    def _retire(self, path: _Path, now: float) -> None:
        """Give up a path whose relays are not allowed any more."""
        if path is self._in_use:
            self._flee(f"{self._name(path)} may not be used any more", now)
        if self._paths.get(path.relays) is path:  # unless leaving it was a reason for a veto
            self._give_up(path)

    def _veto(self, path: _Path, reason: str, now: float) -> None:
        for_s = self._vetoes.bar(path.relays, path.life, now)
        self._forget(path)
        self._events.append(PathVetoed(path.relays, for_s, self._vetoes.strikes(path.relays, now), reason))

    def _may_relay(self, node: NodeId) -> bool:
        if node in self.policy.avoid:
            return False
        if self._allowed is None:
            return True
        return self._allowed(node) if callable(self._allowed) else node in self._allowed

    def _spares(self) -> list[_Path]:
        return [path for path in self._paths.values() if path is not self._in_use and path is not self._home]

    def _fill(self, now: float) -> None:
        """Open the best candidates until `policy.standbys` relayed paths are warm besides the one in use; give up those beyond."""
        if self.policy.via:
            return
        spares = self._spares()
        missing = self.policy.standbys - len(spares)
        if missing < 0:
            spares.sort(key=lambda path: path.value_ms if path.is_usable else math.inf)
            for path in spares[missing:]:
                self._give_up(path)
        if missing <= 0:
            return
        free = [candidate for candidate in self._ranking if not self._vetoes.is_barred(candidate.relays, now)]
        free = [candidate for candidate in free if all(self._may_relay(node) for node in candidate.relays)]
        for candidate in self._finder.standbys(free, self._paths, missing):
            self._open(candidate, now)

    def _replace(self, now: float) -> None:
        """Replace the worst standby when a candidate is predicted better by `switch_ms` in two updates.

        The standby is taken at its measured worth; a candidate that was replaced before, at its prediction and how far that was off.
        """
        spares = [path for path in self._spares() if path.state is PathState.STANDBY]
        free = [candidate for candidate in self._ranking if not self._vetoes.is_barred(candidate.relays, now)]
        if not spares or not free:
            return
        worst = max(spares, key=lambda path: path.value_ms)
        others = [relays for relays in self._paths if relays != worst.relays]
        challengers = self._finder.standbys(free, [*others, worst.relays], 1)
        gain_ms = worst.value_ms - self._expected_ms(challengers[0]) if challengers else -math.inf
        if not gain_ms >= self.policy.switch_ms:
            self._better = None
            return
        relays = challengers[0].relays
        if self._better is None or self._better[0] != relays:
            self._better = (relays, now)
        elif now - self._better[1] >= REPLACE_SPACING_S:
            self._better = None
            self._bias_ms[worst.relays] = max(0.0, worst.value_ms - worst.candidate.cost_ms)
            while len(self._bias_ms) > BIASES_MAX:
                self._bias_ms.popitem(last=False)
            self._give_up(worst)
            self._open(challengers[0], now)

    def _expected_ms(self, candidate: PathCandidate) -> float:
        return candidate.cost_ms + self._bias_ms.get(candidate.relays, 0.0)

    # -- silence and death

    def _check_silence(self, path: _Path, now: float) -> None:
        watch = path.watch
        if path.state in _USABLE and now >= watch.suspect_at:
            path.life.on(PathSignal.MISSED)
            if path is self._in_use:
                self._degrade("silence", f"{self._name(path)} silent for {watch.silence_s(now) * 1000:.0f} ms")
        if path.state in (PathState.SUSPECT, PathState.PROBING) and now >= watch.dead_at:
            has_answered = watch.answers > 0
            reason = f"silent for {watch.silence_s(now) * 1000:.0f} ms" if has_answered else "never answered"
            self._die(path, f"{self._name(path)} {reason}", now)

    def _die(self, path: _Path, reason: str, now: float) -> None:
        path.life.on(PathSignal.DIED)
        path.watch.start_over(now)
        path.died_at = now
        path.is_blamed = any(other.is_answering(now) for other in self._paths.values())
        path.confirmations = CONFIRMATIONS
        path.forget_weight()
        was_active = path is self._in_use
        is_last = all(other.state not in _ALIVE for other in self._paths.values())
        self._events.append(PathDied(path.relays, path.watch.path_tag, was_active, is_last, reason))
        if was_active:
            self._flee(reason, now)

    def _flee(self, reason: str, now: float) -> None:
        """Leave a path that cannot be used: to the best one that answers right now, else home, else stay."""
        answering = [path for path in self._paths.values() if path is not self._in_use and path.is_answering(now)]
        if answering:
            self._switch(self._choose(answering), f"{reason}; {self._measured()}", None, now)
        elif self._in_use is not self._home:
            self._switch(self._home, f"{reason}; no other path answers", None, now)

    def _bury(self, now: float) -> None:
        """Veto relayed paths that died while another lived. Those that died with all others: let other candidates have a try."""
        for path in self._spares():
            if path.state is not PathState.DEAD or not path.relays:
                continue
            if path.is_blamed:
                self._veto(path, f"{self._name(path)} died", now)
            elif now - path.died_at >= DEAD_GRACE_S:
                self._vetoes.bar(path.relays, path.life, now, for_s=SET_ASIDE_S)
                self._forget(path)

    # -- deciding

    def _evaluate(self, now: float) -> None:
        self._bury(now)
        self._fill(now)
        path = self._in_use
        is_unanswered = path.state is PathState.PROBING and now - path.watch.opened_at >= UNANSWERED_S
        if path.state is PathState.DEAD or is_unanswered:
            self._flee(f"{self._name(path)} does not answer", now)
            return
        self._look_for_trouble()
        if path is not self._home and self._has_gone_long_enough_without_gain():
            self._consider_return(now)
        if path is self._in_use:
            self._weigh_rivals(now)

    def _look_for_trouble(self) -> None:
        """Report once that the path in use is worse than usual; no decision."""
        watch, threshold_ms = self._in_use.watch, self.policy.enter_ms
        if watch.newest_at <= self._evaluated_at and self._in_use.state is not PathState.SUSPECT:
            return  # nothing new to judge
        excess_ms = watch.best_since_ms(self._evaluated_at) - watch.usual_ms
        is_lossy = watch.loss_ms >= threshold_ms
        if not (excess_ms >= threshold_ms or is_lossy or self._in_use.state is PathState.SUSPECT):
            self._troubled = 0
            self._calm += 1
            if self._calm >= CALM_EVALUATIONS:
                self._is_degraded = False
            return
        self._calm = 0
        self._troubled += 1
        if self._troubled >= DEGRADED_EVALUATIONS:
            name = self._name(self._in_use)
            if is_lossy:
                self._degrade("loss", f"{name} loses {watch.loss:.0%}")
            else:
                self._degrade("latency", f"{name} {excess_ms:.0f} ms slower than usual")

    def _degrade(self, problem: str, reason: str) -> None:
        self._calm = 0
        if not self._is_degraded:
            self._is_degraded = True
            self._events.append(PathDegraded(self._in_use.relays, self._in_use.watch.path_tag, problem, reason))

    def _has_gone_long_enough_without_gain(self) -> bool:
        """Count evaluations in which going home would cost less than `leave_ms`; with `via`, in which home answers."""
        has_gain = not self.policy.via and not self._home.value_ms - self._in_use.value_ms < self.policy.leave_ms
        if self._home.state is not PathState.STANDBY or has_gain:
            self._too_little_gain = 0
            return False
        self._too_little_gain += 1
        return self._too_little_gain >= min(RETURN_EVALUATIONS_MAX, RETURN_EVALUATIONS * 2**self._strikes)

    def _consider_return(self, now: float) -> None:
        if now - self._switched_at >= DWELL_S:
            gain_ms = self._in_use.value_ms - self._home.value_ms
            self._switch(self._home, f"{self._name(self._home)} is as good again: {self._measured()}", gain_ms, now)

    def _weigh_rivals(self, now: float) -> None:
        if self.policy.via:
            return
        rivals = [path for path in self._paths.values() if path.state is PathState.STANDBY and path is not self._in_use]
        if not self._is_degraded:
            rivals = [path for path in rivals if path is not self._home]
        threshold_ms = self.policy.enter_ms if self._in_use is self._home else self.policy.switch_ms
        is_ready = [self._weigh(rival, threshold_ms) for rival in rivals]
        if not any(is_ready) or now - self._switched_at < DWELL_S:
            return
        chosen = self._choose([rival for rival in rivals if rival.evaluations])  # a better one may lack a last sample: no reason to miss it
        self._switch(chosen, self._measured(), self._in_use.value_ms - chosen.value_ms, now)

    def _weigh(self, rival: _Path, threshold_ms: float) -> bool:
        """Add the weight of this evaluation for `rival`; say whether it is enough to move data to it."""
        used, other = self._in_use.watch, rival.watch
        live_gain_ms = used.value_ms - other.value_ms
        newest_gain_ms = used.best_since_ms(self._evaluated_at) - max(other.live_ms, other.newest_ms) + used.loss_ms - other.loss_ms
        if max(newest_gain_ms, live_gain_ms) < threshold_ms or math.isnan(live_gain_ms):
            rival.forget_weight()
            return False
        if not rival.evaluations:
            rival.since = used.samples[-1].sent_at
        rival.evaluations += 1
        if newest_gain_ms >= threshold_ms:
            rival.surplus += min(WEIGHT_MAX, newest_gain_ms / threshold_ms) - 1.0
        else:
            rival.surplus = 0.0  # a sample as good as before: no step, so only patience counts
        fresh = min(used.count_sent_since(rival.since), other.count_sent_since(rival.since))
        is_enough = rival.evaluations >= EVALUATIONS_MIN and rival.evaluations + rival.surplus >= WEIGHT_TO_SWITCH
        return is_enough and fresh >= EVALUATIONS_MIN and live_gain_ms >= threshold_ms

    def _choose(self, paths: list[_Path]) -> _Path:
        """Return one at random of those within `spread_ms` of the best."""
        best_ms = min(path.value_ms for path in paths)
        return self._rng.choice([path for path in paths if path.value_ms <= best_ms + self.policy.spread_ms])

    def _switch(self, path: _Path, reason: str, gain_ms: float | None, now: float) -> None:
        old, self._in_use = self._in_use, path
        if old.state is PathState.ACTIVE:
            old.life.on(PathSignal.DESELECTED)
        if path.state is PathState.STANDBY:
            path.life.on(PathSignal.SELECTED)
        tag = path.watch.path_tag
        self._events.append(PathSwitched(old.relays, path.relays, tag, reason, gain_ms))
        if not path.relays:
            self._events.append(DirectRestored(old.relays, tag, reason))
        self._count_strike(old, now)
        if old.relays and old.is_usable and self._has_broken_promise(old, now):
            self._veto(old, f"{self._name(old)} was worse than it promised", now)
        if path is self._home:
            self._returned_at = now
        self._switched_at = now
        self._promised_ms = path.watch.live_ms
        self._too_little_gain = self._troubled = self._calm = 0
        self._is_degraded = False
        for other in self._paths.values():
            other.forget_weight()
        self._fill(now)

    def _count_strike(self, old: _Path, now: float) -> None:
        """Leaving home because it died, or again soon after a return, doubles the wait for the next return."""
        if old is not self._home:
            return
        if now - self._struck_at > STRIKES_FORGOTTEN_S:
            self._strikes = 0
        if old.state is PathState.DEAD or now - self._returned_at < FLAP_S:
            self._strikes += 1
            self._struck_at = now

    def _has_broken_promise(self, old: _Path, now: float) -> bool:
        direct = self._paths.get(())
        if direct is None or direct is old or not direct.is_usable or old is self._home or now - self._switched_at > TRIAL_S:
            return False
        is_worse_than_promised = old.value_ms - self._promised_ms >= self.policy.switch_ms
        return is_worse_than_promised and old.value_ms > direct.value_ms

    # -- words

    def _take_reference(self, sample: Sample) -> None:
        """Keep the sample that tells the clocks' offset best: its error is at most half its round trip, and grows with age by drift."""
        old = self._reference
        if old is None or sample.rtt_ms / 2 <= old.rtt_ms / 2 + DRIFT_MS_PER_S * (sample.arrived_at - old.arrived_at):
            self._reference = sample

    def _name(self, path: _Path) -> str:
        return self._finder.describe(path.relays)

    def _measured(self) -> str:
        """Return "direct 231 ms, via a 158 ms, ...": home first, then by rising cost.

        Raw latencies hold the offset of the two clocks. For the reader it is taken out by half of the quickest round trip, the same for
        all paths: differences are exact, the level is off by half of that round trip's asymmetry.
        """
        if self._reference is None:
            return "nothing measured"
        offset_ms = self._reference.raw_ms - self._reference.rtt_ms / 2
        ordered = sorted(self._paths.values(), key=lambda path: (path is not self._home, path.value_ms))
        words: list[str] = []
        for path in ordered:
            if path.is_usable:
                lost = f" and {path.watch.loss:.0%} lost" if path.watch.loss_ms >= 1 else ""
                words.append(f"{self._name(path)} {path.watch.live_ms - offset_ms:.0f} ms{lost}")
            elif path.state in (PathState.DEAD, PathState.SUSPECT):
                words.append(f"{self._name(path)} {'dead' if path.state is PathState.DEAD else 'silent'}")
        return ", ".join(words)


def _unknown(relays: Relays) -> PathCandidate:
    """A candidate before any matrix: nothing is predicted."""
    return PathCandidate(relays, math.nan, math.nan, math.nan, math.nan if relays else 0.0, "not measured yet")
