"""Which paths to one destination are kept warm: home, and the best few relayed candidates that share no relay.

The pool opens, replaces, vetoes and gives up paths; it does not know which one data take, except that it is told not to touch that one.

- Filling: free places go to the best candidates of the last ranking that are not vetoed, node-disjoint from all watched paths.
- Replacing: the worst standby goes when a candidate is predicted better by `switch_ms` in two updates. The standby is taken at its measured
  worth; a candidate that was replaced before, at its prediction and at how far that was off. Otherwise two paths of which one is always
  predicted too well would replace each other for ever.
- Burying: a relayed path that died while another answered, and stayed silent, is vetoed for 30 s * 2^k, and must then be confirmed by 10
  answers instead of 3. One that answers again within BLAME_AFTER_S only stalled: it must be confirmed by 10 answers, and the next stall
  is a death. One that died together with all others is not blamed, since the fault is likely ours; after 2 s another candidate has a try.

Invariants: home is always in the pool and never vetoed; at most `policy.standbys` relayed paths besides home and the one in use; none but
home is opened over a relay that may not relay, or above the policy's price.
"""

from __future__ import annotations

import math
import random
from collections import OrderedDict
from collections.abc import Callable

import attrs

from srwan.routing.finder import Latencies, PathCandidate, PathFinder, Relays, RelaysAllowed
from srwan.routing.path import PathLife, PathProbing, PathSignal, PathState, PathStatus, PathVetoed, VetoList
from srwan.routing.policy import PathPolicy
from srwan.routing.prices import path_price
from srwan.routing.verdict import Evidence
from srwan.routing.watch import PathWatch
from srwan.types import NodeId

__all__ = ["PathPool", "WatchedPath"]

CONFIRMATIONS = 3
"""Fresh answers that make a probed path a standby."""
CONFIRMATIONS_AFTER_VETO = 10
"""The same after a veto: 2 s of good behaviour."""
DEAD_GRACE_S = 2.0
"""A standby that died together with all others is asked on for so long before another candidate gets its place, s."""
BLAME_AFTER_S = 0.4
"""A path that died is vetoed when it stays silent for so long, s; with DATA on it death takes 0.3 s, which a busy host can be silent."""
STALLS_MAX = 1
"""Deaths that a path may recover from before it is vetoed."""
SET_ASIDE_S = 5.0
"""And then not tried again for so long, s; no strike."""
REPLACE_SPACING_S = 5.0
"""Two updates that agree on a better candidate lie at least this apart, s."""
BIASES_MAX = 64
"""Replaced standbys remembered with how much worse they were than predicted."""

USABLE = frozenset({PathState.STANDBY, PathState.ACTIVE})
ALIVE = USABLE | {PathState.SUSPECT}


@attrs.define(slots=True, eq=False)
class WatchedPath:
    """One open path: what is predicted, what is measured, where it is in its life, what speaks for it."""

    candidate: PathCandidate
    watch: PathWatch
    life: PathLife
    confirmations: int
    """Fresh answers it must give to be a standby."""
    evidence: Evidence = attrs.field(factory=Evidence)
    """For moving data to it."""
    died_at: float = -math.inf
    """Monotonic s."""
    is_blamed: bool = False
    """Another path answered when it died, so it was not us."""
    stalls: int = 0
    """How often it recovered soon from a death it was blamed for."""
    noticed_at: float = -math.inf
    """When its relay last gave notice of a failure, monotonic s."""

    @property
    def relays(self) -> Relays:
        """Its relays in visiting order."""
        return self.candidate.relays

    @property
    def state(self) -> PathState:
        """Where it is in its life."""
        return self.life.state

    @property
    def is_usable(self) -> bool:
        """Whether it answers."""
        return self.life.state in USABLE

    @property
    def value_ms(self) -> float:
        """Measured latency and worth of its loss, raw ms; NaN = not measured."""
        return self.watch.value_ms

    def is_answering(self, now: float) -> bool:
        """Whether it is usable and not even one answer is overdue."""
        return self.is_usable and now < self.watch.overdue_at

    def status(self, used: WatchedPath) -> PathStatus:
        """Return what it is, for those who look from outside; `used` is the path in use."""
        return PathStatus(
            self.relays,
            self.watch.path_tag,
            self.state,
            self is used,
            self.candidate.predicted_ms,
            self.watch.live_ms,
            self.watch.data_ms,
            self.watch.samples[-1].rtt_ms if self.watch.samples else math.nan,
            self.watch.loss,
            self.candidate.explanation,
            self.watch.rate.value,
            self.watch.burst.value,
            self.watch.back,
        )

    @property
    def timer(self) -> float:
        """When something is due on it, monotonic s."""
        if self.state in USABLE:
            return min(self.watch.send_at, self.watch.suspect_at)
        if self.state in (PathState.SUSPECT, PathState.PROBING):
            return min(self.watch.send_at, self.watch.dead_at)
        return self.watch.send_at


class PathPool:
    """The watched paths from here to one destination. Arguments as `PathControl`; `tell` takes events."""

    def __init__(
        self,
        ingress: NodeId,
        destination: NodeId,
        policy: PathPolicy,
        *,
        rng: random.Random,
        make_tag: Callable[[], int],
        finder: PathFinder,
        relays_allowed: RelaysAllowed,
        tell: Callable[[PathProbing | PathVetoed], None],
    ) -> None:
        self.paths: dict[Relays, WatchedPath] = {}
        """By relays; the empty tuple is direct."""
        self.by_tag: dict[int, WatchedPath] = {}
        """The same by path tag."""
        self._ends = (ingress, destination)
        self._policy = policy
        self._rng = rng
        self._make_tag = make_tag
        self._finder = finder
        self._allowed = relays_allowed
        self._tell = tell
        self._ranking: list[PathCandidate] = []
        self._vetoes = VetoList()
        self._bias_ms: OrderedDict[Relays, float] = OrderedDict()
        self._better_since: float | None = None

    def all(self) -> list[WatchedPath]:
        """Return the watched paths, as a list that survives changes of the pool."""
        return list(self.paths.values())

    def open_unranked(self, relays: Relays, now: float) -> WatchedPath:
        """Open a path of which nothing is predicted yet."""
        return self._open(PathCandidate(relays, math.nan, math.nan, math.nan, math.nan if relays else 0.0, "not measured yet"), now)

    def suggest(self, relays: Relays, now: float) -> None:
        """Open a path that something else than the matrix speaks for, unless it is watched, vetoed or not allowed."""
        is_open = relays in self.paths or len(relays) > self._policy.relays_max
        if not is_open and self._is_allowed(relays) and not self._vetoes.is_barred(relays, now):
            self.open_unranked(relays, now)

    def rank(self, snapshot: Latencies) -> list[WatchedPath]:
        """Take a new matrix; return the watched paths that may not be used any more. Call `fill` and `replace` next."""
        self._ranking = self._finder.rank(snapshot, *self._ends, self._policy, rng=self._rng, relays_allowed=self._allowed)
        for path in self.paths.values():
            path.candidate = self._finder.predict(snapshot, *self._ends, path.relays, self._policy)
            path.watch.expected_ms, path.watch.expected_loss = path.candidate.predicted_ms, path.candidate.loss
        return [path for path in self.paths.values() if not self._is_allowed(path.relays)]

    def fill(self, used: WatchedPath, home: WatchedPath, now: float) -> None:
        """Open the best candidates until `policy.standbys` relayed paths are warm besides `used`; give up the worst beyond that."""
        if self._policy.via:
            return
        spares = self._spares(used, home)
        missing = self._policy.standbys - len(spares)
        if missing < 0:
            spares.sort(key=lambda path: path.value_ms if path.is_usable else math.inf)
            for path in spares[missing:]:
                self.give_up(path)
        if missing > 0:
            for candidate in self._finder.standbys(self._free(now), self.paths, missing):
                self._open(candidate, now)

    def replace(self, used: WatchedPath, home: WatchedPath, now: float) -> None:
        """Replace the worst standby if for two updates, REPLACE_SPACING_S apart, some candidate was predicted to be better."""
        spares = [path for path in self._spares(used, home) if path.state is PathState.STANDBY]
        worst = max(spares, key=lambda path: path.value_ms, default=None)
        challengers = self._finder.standbys(self._free(now), self.paths, 1)
        if worst is None or not challengers:
            return
        expected_ms = challengers[0].cost_ms + self._bias_ms.get(challengers[0].relays, 0.0)
        if not worst.value_ms - expected_ms >= self._policy.switch_ms:
            self._better_since = None
        elif self._better_since is None:
            self._better_since = now
        elif now - self._better_since >= REPLACE_SPACING_S:
            self._better_since = None
            self._bias_ms[worst.relays] = max(0.0, worst.value_ms - worst.candidate.cost_ms)
            while len(self._bias_ms) > BIASES_MAX:
                self._bias_ms.popitem(last=False)
            self.give_up(worst)
            self._open(challengers[0], now)

    def bury(self, used: WatchedPath, home: WatchedPath, reason: Callable[[WatchedPath], str], now: float) -> None:
        """Veto dead relayed paths that are to blame; set those aside that are not and were asked for DEAD_GRACE_S."""
        for path in self._spares(used, home):
            if path.state is not PathState.DEAD or not path.relays:
                continue
            if path.is_blamed and (path.stalls >= STALLS_MAX or now - path.died_at >= BLAME_AFTER_S):
                self.veto(path, reason(path), now)
            elif now - path.died_at >= DEAD_GRACE_S:
                self.set_aside(path, SET_ASIDE_S, now)

    def set_aside(self, path: WatchedPath, for_s: float, now: float) -> None:
        """Leave a path alone for `for_s` seconds without counting a strike.

        Raises:
            LocalProtocolError: data are on it. Nothing changed.
        """
        self._vetoes.bar(path.relays, path.life, now, for_s=for_s)
        self._forget(path)

    def veto(self, path: WatchedPath, reason: str, now: float) -> None:
        """Leave a path alone for a while.

        Raises:
            LocalProtocolError: data are on it. Nothing changed.
        """
        for_s = self._vetoes.bar(path.relays, path.life, now)
        self._forget(path)
        self._tell(PathVetoed(path.relays, for_s, self._vetoes.strikes(path.relays, now), reason))

    def give_up(self, path: WatchedPath) -> None:
        """Close a path for good; does nothing if it left the pool already."""
        if self.by_tag.get(path.watch.path_tag) is path:
            path.life.on(PathSignal.CLOSED)
            self._forget(path)

    def describe(self, home: WatchedPath, offset_ms: float) -> str:
        """Return "direct 231 ms, via a 158 ms, ...": home first, then by rising cost.

        Raw latencies hold the offset of the two clocks. For the reader it is taken out as far as it is known (`clock_reference`), the same
        for all paths: differences are exact, the level is off by half of the best round trip's asymmetry.
        """
        if math.isnan(offset_ms):
            return "nothing measured"
        words: list[str] = []
        for path in sorted(self.all(), key=lambda path: (path is not home, path.value_ms)):
            name = self._finder.describe(path.relays)
            if path.is_usable:
                lost = f" and {path.watch.loss:.0%} lost" if path.watch.loss_ms >= 1 else ""
                words.append(f"{name} {path.watch.live_ms - offset_ms:.0f} ms{lost}")
            elif path.state in (PathState.DEAD, PathState.SUSPECT):
                words.append(f"{name} {'dead' if path.state is PathState.DEAD else 'silent'}")
        return ", ".join(words)

    def _open(self, candidate: PathCandidate, now: float) -> WatchedPath:
        relays = candidate.relays
        life = self._vetoes.pardon(relays, now)
        life.on(PathSignal.OPENED)
        confirmations = CONFIRMATIONS_AFTER_VETO if self._vetoes.strikes(relays, now) else CONFIRMATIONS
        path = WatchedPath(candidate, PathWatch(relays, self._make_tag(), self._policy, self._rng, now), life, confirmations)
        path.watch.expected_ms, path.watch.expected_loss = candidate.predicted_ms, candidate.loss
        self.paths[relays] = path
        self.by_tag[path.watch.path_tag] = path
        self._tell(PathProbing(relays, path.watch.path_tag))
        return path

    def _forget(self, path: WatchedPath) -> None:
        del self.paths[path.relays]
        del self.by_tag[path.watch.path_tag]

    def _spares(self, used: WatchedPath, home: WatchedPath) -> list[WatchedPath]:
        return [path for path in self.paths.values() if path is not used and path is not home]

    def _free(self, now: float) -> list[PathCandidate]:
        return [
            candidate
            for candidate in self._ranking
            if not self._vetoes.is_barred(candidate.relays, now) and self._is_allowed(candidate.relays)
        ]

    def may_use(self, path: WatchedPath) -> bool:
        """Say whether data may go by a watched path now: prices and time windows change while it is watched."""
        return self._finder.is_affordable(path.relays, self._policy)

    def cheapest(self, paths: list[WatchedPath]) -> list[WatchedPath]:
        """Return those that ask for least now."""
        prices = [path_price(path.relays, self._finder.price_of) or 0 for path in paths]
        return [path for path, price in zip(paths, prices, strict=True) if price == min(prices)]

    def _is_allowed(self, relays: Relays) -> bool:
        if not self._policy.avoid.isdisjoint(relays) or not self._finder.is_affordable(relays, self._policy):
            return False
        if self._allowed is None:
            return True
        return all(map(self._allowed if callable(self._allowed) else self._allowed.__contains__, relays))
