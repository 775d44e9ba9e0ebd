"""Which path the data of one application path take, and when that changes.

A sans-IO core per (destination, policy). The calls:

- in: `update` (a new matrix), `receive_ack`, `receive_notice`, `handle_timer`, `data_sent`, `relay_failed`, `close`;
- out, drained after every call in: `packets_to_send`, `next_event`, `get_timer`; and `active`, or with several paths per flow `routes`,
  read for every packet.

Theory of operation. Data start on the home path at once: direct, or the one forced by `via`. Home and the best few relayed candidates,
node-disjoint, are kept warm with keep-alives all the time (`pool`), so that every decision compares paths measured in the same seconds,
and a failover needs no handshake. Predictions choose what is kept warm; only measurements (`watch`) move data. About every 200 ms all are
judged (`verdict`):

1. Leaving. Data leave home when a standby is measured better by `enter_ms`, a relayed path when another is by `switch_ms`: after 3
   evaluations if the step is large, after 9 if the gain is at the threshold, never for a spike or a lost keep-alive. Among standbys within
   `spread_ms` of the best one of the cheapest is chosen at random. If the path in use got slower or lossy, home is a standby like any
   other.
2. Returning. When for 10 evaluations the gain of a relayed path is under `leave_ms`, data go home; more slowly after each flap.
3. Death. At the first answer that is overdue on the path in use (the alarm), all other paths are asked. When it is dead, data move to the
   best one of which not even one answer is overdue, as soon as an answer came by any other path that cannot have been under way at the
   alarm: it proves that the fault is neither ours nor the far end's. Without proof within 0.45 s they move all the same, else home; from
   a relay that the group reports gone they move at once.
   When all paths fall silent together, the fault is likely ours: data stay and no path is blamed. A path that answers again within
   0.4 s only stalled; the second time it is a death.
4. Vetoes. A relayed path that died while another answered, or turned out worse than both its promise and direct within a minute after data
   moved to it (it could not carry them), is left alone for 30 s * 2^k.

5. Notice. A path's first relay may say that it cannot go on. Then the path is asked at once and data leave it for a standby that answers,
   if there is one; nothing else follows. If the path answers what is asked after the notice, the notice was wrong or is over: a path that
   data left for it is vetoed, so a relay that lies loses the traffic, which it could have dropped as well. One that says it has too much
   to do loses the share it asks to be rid of.
6. The way back is watched apart (`watch`): while only answers fail to come back by a path, data stay on it.
7. Price. Paths above `price_max_microtoken`, or over a relay that does not carry now, take no data: those in use are left at the next
   evaluation, for direct if nothing else answers; a forced path without fallback sends nothing then (`routes` is empty).
8. Agreement. With an SLA, 1 applies only while the path in use breaks it (`assurance`); the cheapest path that meets it is preferred. Data
   go home when home meets it again.

Evaluations run on a clock of random phase: two routers that saw the same event move up to 0.2 s apart, and to different relays.

Invariants: exactly one path is in use; home is always watched; only a path that is a standby is selected, home and direct excepted; no data
above the policy's price; no event, packet or timer after `close`.

Source: whitepaper 3.3, 3.4, 8.1; docs/decisions.md for thresholds.
"""

from __future__ import annotations

import math
import random
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import TypeAlias

from srwan.errors import PathClosed, RemoteProtocolError
from srwan.routing.assurance import Assurance
from srwan.routing.clock_reference import ClockReference
from srwan.routing.finder import Latencies, PathFinder, Relays, RelaysAllowed
from srwan.routing.path import (
    DirectRestored,
    PathActivated,
    PathDegraded,
    PathDied,
    PathProbing,
    PathSignal,
    PathState,
    PathStatus,
    PathSwitched,
    PathVetoed,
)
from srwan.routing.payload import SHARE_PERMILLE_MAX, Ack, Notice, NoticeReason
from srwan.routing.policy import PathMode, PathPolicy
from srwan.routing.pool import ALIVE, BLAME_AFTER_S, CONFIRMATIONS, CONFIRMATIONS_AFTER_VETO, STALLS_MAX, PathPool, WatchedPath
from srwan.routing.spread import PathSpread
from srwan.routing.verdict import Homecoming, Trouble
from srwan.routing.watch import PathPacket
from srwan.types import NodeId, PeerMisbehaved

__all__ = ["ControlEvent", "PathControl", "PathStatus"]

DWELL_S = 1.0
"""Least time on a path, s, unless it dies."""
TRIAL_S = 60.0
"""How long a path is held to the latency it promised, s: 50 ppm of clock drift are 3 ms in it."""
UNANSWERED_S = 1.0
"""A home path that never answered for so long is left when a standby answers, s."""
OVERSLEPT_S = 0.1
"""A timer handled later than this after it was due means that we slept; the time is not counted as silence, s."""
PATIENCE = 2.25
"""Keep-alive intervals after the alarm for which data wait for proof that another path than theirs is alive."""
NOTICE_SPACING_S = 1.0
"""Notices on one path that come sooner after another have no effect, s."""
OVERLOADED_S = 30.0
"""A path whose relay has too much to do is set aside for so long, s: its load is told anew by then."""
EVENTS_MAX = 256
"""Undrained events; the oldest are dropped."""

ControlEvent: TypeAlias = (
    PathProbing | PathActivated | PathDegraded | PathSwitched | DirectRestored | PathDied | PathVetoed | PeerMisbehaved
)


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
        self._finder = finder or PathFinder()
        self._events: deque[ControlEvent] = deque(maxlen=EVENTS_MAX)
        self._pool = PathPool(
            ingress,
            destination,
            policy,
            rng=rng,
            make_tag=make_tag,
            finder=self._finder,
            relays_allowed=relays_allowed,
            tell=self._events.append,
        )
        self._home = self._in_use = self._pool.open_unranked(policy.via, now)
        if policy.via and policy.fallback:
            self._pool.open_unranked((), now)
        self._evaluated_at = now
        self._evaluate_at = now + rng.uniform(0, policy.keepalive_s)
        self._trouble = Trouble()
        self._homecoming = Homecoming()
        self._switched_at = -math.inf
        self._promised_ms = math.nan
        self._reference = ClockReference()
        self._told_back: int | None = None
        self._alarm_at = math.inf  # when the first answer on the path in use was overdue; inf: none is
        self._alarm_rtt_ms = 0.0  # of the path in use
        self._assurance = None if policy.sla is None else Assurance(policy.sla, self._reference)
        self._spread = None if policy.mode is PathMode.SINGLE else PathSpread(policy.mode, policy.spread_ms)
        self._is_barred = False  # the path in use asks for too much and there is no other
        self._mind_price(now)
        self._spread_out(now)

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

    def routes(self) -> tuple[tuple[Relays, int], ...]:
        """Return relays and path tag of each path that the next packet takes: one, or two with `PathMode.REPEAT`. Call once per packet.

        None if the only path there may be is above the policy's price.

        Raises:
            PathClosed: after `close`.
        """
        if self._is_barred and not self.is_closed:
            return ()
        if self._spread is None or self.is_closed:
            return (self.active,)
        return tuple((path.relays, path.watch.path_tag) for path in self._spread.next_paths())

    @property
    def is_alive(self) -> bool:
        """Whether the path that data take answers."""
        return not self.is_closed and self._in_use.state in ALIVE

    @property
    def paths(self) -> tuple[PathStatus, ...]:
        """All watched paths, the one in use first."""
        ordered = sorted(self._pool.all(), key=lambda path: path is not self._in_use)
        return tuple(path.status(self._in_use) for path in ordered)

    def explain(self) -> str:
        """Say which path data take and what all watched ones measure: "via a: direct 231 ms, via a 158 ms". For humans."""
        return f"{self._name(self._in_use)}: {self._measured()}"

    # -- in

    def update(self, snapshot: Latencies, now: float) -> None:
        """Take a new matrix or a changed set of allowed relays: rank again, fill the standbys.

        Moves data only off a relay that is no longer allowed. Cost: as `PathFinder.rank`.
        """
        if self.is_closed or self.policy.via:
            return
        for path in self._pool.rank(snapshot):
            if path is self._in_use:
                self._escape(f"{self._name(path)} may not be used any more", now)
            self._pool.give_up(path)
        self._pool.fill(self._in_use, self._home, now)
        self._pool.replace(self._in_use, self._home, now)
        self._spread_out(now)

    def suggest(self, relays: Relays, now: float) -> None:
        """Watch a path that is known to reach the destination although the matrix may not say so: a handshake came over it."""
        if not self.is_closed and not self.policy.via:
            self._pool.suggest(relays, now)
            self._spread_out(now)

    def receive_ack(self, ack: Ack, now: float) -> None:
        """Take an answer of the egress, authenticated as the destination's. Never raises; what does not fit is dropped and counted."""
        if self.is_closed:
            return
        path = self._pool.by_tag.get(ack.path_tag)
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
        self._reference.take(path.watch.samples[-1])
        if self._has_recovered(path, now):
            self._welcome(path, now)
            self._tell_way_back()

    def _has_recovered(self, path: WatchedPath, now: float) -> bool:
        """A path answered; say whether it is still watched."""
        if path.state is PathState.DEAD:
            path.life.on(PathSignal.ANSWERED)
            if path.is_blamed and now - path.died_at < BLAME_AFTER_S:
                path.stalls += 1
                path.confirmations = CONFIRMATIONS_AFTER_VETO
        if path.state is PathState.SUSPECT and path.watch.answered_at > path.noticed_at:
            path.life.on(PathSignal.ANSWERED)
            if math.isfinite(path.noticed_at):
                self._forgive_notice(path, now)
        return path.state is not PathState.VETOED

    def _welcome(self, path: WatchedPath, now: float) -> None:
        """A path answered: confirm it, select it if data are on it already, take the data of a dead one."""
        if path.state is PathState.PROBING and path.watch.answers >= (1 if path is self._in_use else path.confirmations):
            path.life.on(PathSignal.CONFIRMED)
            if path is self._in_use:
                self._alarm_at = math.inf
                reason = f"{self._name(path)} answers, {path.watch.samples[-1].rtt_ms:.0f} ms round trip"
                self._events.append(PathActivated(path.relays, path.watch.path_tag, reason))
        if path.state is PathState.STANDBY and path is self._in_use:
            path.life.on(PathSignal.SELECTED)
        if path is self._in_use and path.state is PathState.ACTIVE:
            self._alarm_at = math.inf
        elif self._in_use.state is PathState.DEAD and path.is_usable:
            self._flee(f"{self._name(self._in_use)} does not answer", now)

    def receive_notice(self, sender: NodeId, path_tag: int, notice: Notice, now: float) -> None:
        """Take a relay's notice, authenticated as the sender's. Never raises; what does not fit is dropped and counted.

        Only the first relay of a path can give notice of it: relays behind it tell it, and it tells us. What follows is in the module's
        header: a question, and a move if another path answers.
        """
        if self.is_closed:
            return
        path = self._pool.by_tag.get(path_tag)
        if path is None or not path.relays or path.relays[0] != sender:
            self.drops["notice-stranger"] += 1
            return
        if now - path.noticed_at < NOTICE_SPACING_S:
            self.drops["notice-rate"] += 1
            return
        if not path.is_usable:
            return
        path.noticed_at = now
        words = f"{self._finder.name_of(sender)} gave notice: {notice.reason.name.lower().replace('_', ' ')}"
        if notice.reason is NoticeReason.OVERLOADED:
            self._relieve(path, notice.share_permille / SHARE_PERMILLE_MAX, words, now)
        else:
            path.life.on(PathSignal.NOTIFIED)
            path.watch.hurry(now)
            if path is self._in_use:
                self._tell_degraded("silence", words)
                self._leave_if_possible(words, now)
        self._spread_out(now)

    def handle_timer(self, now: float) -> None:
        """Notice silence and decide. Call when `get_timer` is due; calling more often does no harm."""
        due = self.get_timer()
        if due is None:
            return
        if now - due > OVERSLEPT_S:
            for path in self._pool.all():
                path.watch.excuse(now - due)
        for path in self._pool.all():
            self._check_silence(path, now)
        if now >= self._evaluate_at:
            self._evaluate(now)
            self._evaluated_at = now
            self._evaluate_at = now + self.policy.keepalive_s * self._rng.uniform(0.9, 1.1)
            self._spread_out(now)

    def data_sent(self, now: float, *, octets: int, packets: int = 1, path_tag: int | None = None, seq: int = -1) -> None:
        """Count DATA sent, on the path in use or on the one with `path_tag`. Call before the keep-alives of the same batch are made.

        `seq` is the last one's; without it answers to DATA are not understood, and silence shows by keep-alives alone.
        """
        path = self._in_use if path_tag is None else self._pool.by_tag.get(path_tag)
        if path is not None:
            path.watch.count_data(packets, octets, now, seq)

    def relay_failed(self, node: NodeId, now: float) -> None:
        """Take a hint that a node is gone: every path through it is dead at once."""
        for path in self._pool.all():
            if node in path.relays and (path.state in ALIVE or path.state is PathState.PROBING):
                path.stalls = STALLS_MAX  # the group's failure detector is no stall
                self._die(path, f"{self._finder.name_of(node)} was reported gone", now, is_known=True)
        self._spread_out(now)

    def close(self, now: float) -> None:
        """Stop: nothing is sent, due or reported any more. Idempotent."""
        del now
        self.is_closed = True
        for path in self._pool.all():
            self._pool.give_up(path)
        self._events.clear()

    # -- out

    def packets_to_send(self, now: float) -> Iterator[PathPacket]:
        """Yield the keep-alives that are due, at most one per path."""
        for path in self._pool.all():
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
        return min(self._evaluate_at, *(path.timer for path in self._pool.paths.values()))

    # -- silence and death

    def _check_silence(self, path: WatchedPath, now: float) -> None:
        watch = path.watch
        if path is self._in_use and path.is_usable and self._alarm_at > now >= watch.overdue_at:
            self._alarm_at, self._alarm_rtt_ms = now, watch.samples[-1].rtt_ms
            for other in self._pool.all():
                if other is not path:
                    other.watch.hurry(now)
        if path.is_usable and now >= watch.suspect_at:
            path.life.on(PathSignal.MISSED)
            if path is self._in_use and self._trouble.begin():
                self._tell_degraded("silence", f"silent for {watch.silence_s(now) * 1000:.0f} ms")
        if path.state in (PathState.SUSPECT, PathState.PROBING) and now >= watch.dead_at:
            reason = f"silent for {watch.silence_s(now) * 1000:.0f} ms" if watch.answers else "never answered"
            self._die(path, f"{self._name(path)} {reason}", now)

    def _die(self, path: WatchedPath, reason: str, now: float, *, is_known: bool = False) -> None:
        """Declare a path dead; `is_known`: the group reports its relay gone, so data need not wait for proof that another path lives."""
        path.life.on(PathSignal.DIED)
        path.watch.start_over(now)
        path.evidence.forget()
        path.confirmations = CONFIRMATIONS
        path.died_at = now
        path.is_blamed = any(other.is_answering(now) for other in self._pool.all())
        was_active = path is self._in_use
        is_last = all(other.state not in ALIVE for other in self._pool.all())
        self._events.append(PathDied(path.relays, path.watch.path_tag, was_active, is_last, reason))
        if was_active:
            if is_known:
                self._escape(reason, now)
            else:
                self._flee(reason, now)

    def _flee(self, reason: str, now: float) -> None:
        """Leave a path that cannot be used: to the best one that answers right now, else home, else stay."""
        is_alarm = self._alarm_at <= now < self._alarm_at + PATIENCE * self.policy.keepalive_s
        if is_alarm and not any(self._is_proof(path, now) for path in self._pool.all()):
            return  # those asked at the alarm may still answer
        self._escape(reason, now)

    def _escape(self, reason: str, now: float) -> None:
        """Leave a path at once: to the best one that answers right now, else home, or direct where home asks for too much; else stay."""
        if self._leave_if_possible(reason, now):
            return
        refuge = self._home if self._pool.may_use(self._home) else self._pool.paths.get((), self._in_use)
        if refuge is not self._in_use:
            self._switch(refuge, f"{reason}; no other path answers", None, now)

    def _mind_price(self, now: float) -> None:
        """Leave a path that asks for more than the policy allows, or does not carry any more; without another, send nothing."""
        if not self._pool.may_use(self._in_use):
            self._escape(f"{self._name(self._in_use)} asks for more than policy.price_max_microtoken, or does not carry", now)
        self._is_barred = not self._pool.may_use(self._in_use)

    def _is_proof(self, path: WatchedPath, now: float) -> bool:
        """Whether a path's newest answer cannot have been under way at the alarm, if only the path in use failed."""
        if path is self._in_use or not path.is_answering(now):
            return False
        sample = path.watch.samples[-1]
        return sample.arrived_at >= self._alarm_at + max(0.0, sample.rtt_ms - self._alarm_rtt_ms) / 1000

    def _leave_if_possible(self, reason: str, now: float) -> bool:
        """Move data to the best path that answers right now, if there is one, and say whether there was."""
        answering = [path for path in self._pool.all() if path is not self._in_use and path.is_answering(now) and self._pool.may_use(path)]
        if answering:
            self._switch(self._choose(answering), f"{reason}; {self._measured()}", None, now)
        return bool(answering)

    # -- notices and ways back

    def _forgive_notice(self, path: WatchedPath, now: float) -> None:
        """A path answered what was asked after its relay's notice: data that stayed stay, and those that left do not come back soon."""
        path.noticed_at = -math.inf
        if path is self._in_use:
            path.life.on(PathSignal.SELECTED)
        elif path is not self._home:
            self._pool.veto(path, f"{self._name(path)} answers in spite of its relay's notice", now)

    def _relieve(self, path: WatchedPath, share: float, words: str, now: float) -> None:
        """Take data off a path whose relay has too much to do, at random by the share it asks to be rid of."""
        if path is self._in_use and (self._rng.random() >= share or not self._leave_if_possible(words, now)):
            return
        if path is not self._home:
            self._pool.set_aside(path, OVERLOADED_S, now)
            self._pool.fill(self._in_use, self._home, now)

    def _choose_ways_back(self, now: float) -> None:
        """Tell each path by which other one its answers could come."""
        answering = sorted((path for path in self._pool.all() if path.is_answering(now)), key=lambda path: path.value_ms)
        usable = {path.relays for path in answering}
        for path in self._pool.all():
            detour = next((other for other in answering if other is not path), None)
            path.watch.detour = None if detour is None else detour.relays
            path.watch.detour_rtt_s = 0.0 if detour is None else detour.watch.samples[-1].rtt_ms / 1000
            if path.watch.back is not None and path.watch.back not in usable:
                path.watch.use_way_back(path.watch.detour, now)

    def _tell_way_back(self) -> None:
        """Say once that answers do not come back by the relays of the path in use."""
        watch = self._in_use.watch
        if watch.back is None:
            self._told_back = None
        elif self._told_back != watch.path_tag:
            self._told_back = watch.path_tag
            self._tell_degraded("way back", f"is not answered by its own relays but {self._finder.describe(watch.back)}")

    def _spread_out(self, now: float) -> None:
        if self._spread is not None and not self.is_closed:
            others = [path for path in self._pool.all() if path is not self._in_use and self._pool.may_use(path)]
            self._spread.set_paths(self._in_use, others, now)

    # -- deciding

    def _evaluate(self, now: float) -> None:
        self._pool.bury(self._in_use, self._home, lambda path: f"{self._name(path)} died", now)
        self._pool.fill(self._in_use, self._home, now)
        self._choose_ways_back(now)
        self._mind_price(now)
        path = self._in_use
        is_unanswered = path.state is PathState.PROBING and now - path.watch.opened_at >= UNANSWERED_S
        if path.state is PathState.DEAD or is_unanswered:
            self._flee(f"{self._name(path)} does not answer", now)
            return
        news = self._trouble.look(path.watch, self.policy.enter_ms, self._evaluated_at, is_suspect=path.state is PathState.SUSPECT)
        if news is not None:
            self._tell_degraded(*news)
        self._consider_return(now)
        if path is self._in_use and not self.policy.via:
            self._weigh_rivals(now)

    def _tell_degraded(self, problem: str, words: str) -> None:
        path = self._in_use
        self._events.append(PathDegraded(path.relays, path.watch.path_tag, problem, f"{self._name(path)} {words}"))

    def _consider_return(self, now: float) -> None:
        used, home = self._in_use, self._home
        if used is home:
            return
        if self._assurance is not None:
            has_gain = not self._assurance.is_met(home.watch, is_strict=True)
        else:
            has_gain = not self.policy.via and self._homecoming.gain_ms(used.watch, home.watch) >= self.policy.leave_ms
        may_return = home.state is PathState.STANDBY and not has_gain and self._pool.may_use(home)
        is_due = self._homecoming.count(is_better=may_return)
        if is_due and now - self._switched_at >= DWELL_S:
            self._switch(home, f"{self._name(home)} is as good again: {self._measured()}", used.value_ms - home.value_ms, now)

    def _weigh_rivals(self, now: float) -> None:
        used = self._in_use
        rivals = [path for path in self._pool.all() if path.state is PathState.STANDBY and path is not used and self._pool.may_use(path)]
        if self._assurance is not None and self._keeps_agreement(self._assurance, rivals, now):
            return
        if not self._trouble.is_on:
            rivals = [path for path in rivals if path is not self._home]
        threshold_ms = self.policy.enter_ms if used is self._home else self.policy.switch_ms
        is_enough = [rival.evidence.weigh(used.watch, rival.watch, threshold_ms, self._evaluated_at) for rival in rivals]
        if any(is_enough) and now - self._switched_at >= DWELL_S:
            chosen = self._choose([rival for rival in rivals if rival.evidence.is_for])  # the best may only lack a last sample
            self._switch(chosen, self._measured(), used.value_ms - chosen.value_ms, now)

    def _keeps_agreement(self, assurance: Assurance, rivals: list[WatchedPath], now: float) -> bool:
        """Say that the path in use keeps its agreement, or that data left it for one that does; False: leave it for any better one."""
        used = self._in_use
        is_broken = assurance.look(used.watch)
        meeting = [rival for rival in rivals if assurance.is_met(rival.watch)] if is_broken else []
        if meeting and now - self._switched_at >= DWELL_S:
            chosen = self._choose(self._pool.cheapest(meeting))
            reason = f"{self._name(used)} {assurance.breach(used.watch)}; {self._measured()}"
            self._switch(chosen, reason, used.value_ms - chosen.value_ms, now)
        if not is_broken:
            for rival in rivals:
                rival.evidence.forget()
        return not is_broken or bool(meeting)

    def _choose(self, paths: list[WatchedPath]) -> WatchedPath:
        """Return one at random of the cheapest of those within `spread_ms` of the best."""
        best_ms = min(path.value_ms for path in paths)
        return self._rng.choice(self._pool.cheapest([path for path in paths if path.value_ms <= best_ms + self.policy.spread_ms]))

    def _switch(self, path: WatchedPath, reason: str, gain_ms: float | None, now: float) -> None:
        old, self._in_use = self._in_use, path
        if old.state is PathState.ACTIVE:
            old.life.on(PathSignal.DESELECTED)
        if path.state is PathState.STANDBY:
            path.life.on(PathSignal.SELECTED)
        self._events.append(PathSwitched(old.relays, path.relays, path.watch.path_tag, reason, gain_ms))
        if not path.relays:
            self._events.append(DirectRestored(old.relays, path.watch.path_tag, reason))
        if self._has_broken_promise(old, now):
            self._pool.veto(old, f"{self._name(old)} was worse than it promised", now)
        if old is self._home:
            is_for_loss = old.is_usable and old.watch.live_ms - path.watch.live_ms < self.policy.enter_ms
            self._homecoming.leave(now, is_dead=old.state is PathState.DEAD, is_for_loss=is_for_loss)
        elif path is self._home:
            self._homecoming.come(now)
        else:
            self._homecoming.forget()
        self._switched_at = now
        self._alarm_at = math.inf
        self._promised_ms = path.watch.live_ms
        self._trouble.forget()
        if self._assurance is not None:
            self._assurance.forget()
        for other in self._pool.all():
            other.evidence.forget()
        self._pool.fill(path, self._home, now)

    def _has_broken_promise(self, old: WatchedPath, now: float) -> bool:
        direct = self._pool.paths.get(())
        if direct is None or not direct.is_usable or not old.is_usable or old in (direct, self._home) or now - self._switched_at > TRIAL_S:
            return False
        return old.value_ms - self._promised_ms >= self.policy.switch_ms and old.value_ms > direct.value_ms

    # -- words

    def _name(self, path: WatchedPath) -> str:
        return self._finder.describe(path.relays)

    def _measured(self) -> str:
        return self._pool.describe(self._home, self._reference.offset_ms)
