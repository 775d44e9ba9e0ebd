"""Replay of a recorded trace: what a path policy would have been worth, had it decided then.

A policy sees slices only after its own delay and is scored on slices it has not seen. Two ways:

* frozen: it decides once, on the learning range, and keeps its paths over the whole scoring range;
* with lag L: for each scored slice t it decides again, on what it was told by then: slices from the begin of the learning range to t - L.

Simple policies run beside it on the same slices: direct; no margin and a fixed margin, both on the median of what is visible;
"same_delay", full knowledge of the newest visible slice without a margin; and "oracle", the best relay of the scored slice itself, which no
policy can be.

The policy is `srwan.routing.advantage` with one set of parameters; it is told nothing about the trace but the samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from random import Random
from typing import Any, Literal, TypeAlias

import attrs
import numpy as np

from srwan.errors import ConfigError
from srwan.routing.advantage import AdvantageRule, choose_relays
from srwan.testing.latency_trace import Floats, LatencyTrace
from srwan.testing.replay_groups import Groups, choose_grouped, make_groups
from srwan.testing.replay_paths import Paths, best_relays, direct_paths, if_better, one_relay_paths, realised_ms
from srwan.testing.replay_score import Score, Scored

__all__ = ["Grouping", "Progress", "ReplayOptions", "ReplayResult", "as_json", "replay"]

Grouping: TypeAlias = Literal["none", "random", "local-search"]
Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with what is being done, how many of its steps are done and how many there are."""

FIXED_MARGIN = 0.05
"""Margin of the baseline "fixed_margin", share of direct; both margins are required."""
FIXED_MARGIN_MS = 5.0
"""The same, ms."""
RELAY_MS_MAX = 10_000.0
"""Cost of a relay that can be asked for, ms."""


@attrs.frozen(slots=True, kw_only=True)
class ReplayOptions:
    """What to replay. Ranges are slices counted from 0, ends included; None means the default."""

    learn: tuple[int, int] | None = None
    """Slices to learn from; the first half."""
    score: tuple[int, int] | None = None
    """Slices to score; what follows the learning range."""
    is_frozen: bool = False
    """Decide once, after learning."""
    lag: int | None = None
    """Age of the newest slice visible, slices; 1, or what the trace says values are held."""
    groups: Grouping = "none"
    """Knowledge: all of the matrix, or pulse groups with gateways."""
    relay_ms: float = 0.0
    """Cost of each relay, ms."""
    seed: int = 1
    """Of random groups and of the search."""


@attrs.frozen(slots=True, kw_only=True)
class ReplayResult:
    """What came out."""

    learn: tuple[int, int]
    """Slices learned from, ends included."""
    score: tuple[int, int]
    """Slices scored, ends included."""
    lag: int | None
    """Slices; None if paths were fixed after learning."""
    is_hindsight: bool
    """The trace has one slice, on which the policy was both taught and scored: figures say what is there, not what can be had."""
    group_sizes: tuple[int, ...]
    """Members of each group; one group of all without grouping."""
    policy: Score
    """The policy."""
    baselines: dict[str, Score]
    """The simple ones, by name."""


@attrs.frozen(slots=True, eq=False)
class _Decision:
    """Paths of every policy for one scored slice."""

    paths: dict[str, Paths]
    """By name of the policy."""


def replay(
    trace: LatencyTrace, options: ReplayOptions, rule: AdvantageRule | None = None, progress: Progress | None = None
) -> ReplayResult:
    """Replay a trace.

    Args:
        trace: what was measured.
        options: what to learn from and to score.
        rule: parameters of the policy; None for its one set.
        progress: told about steps.

    Raises:
        ConfigError: a range is outside of the trace, or the two overlap.

    Cost: without groups a decision of O(n^3) for each scored slice; n = 100 some 50 ms, n = 490 some seconds.
    """
    report = progress or (lambda _what, _done, _of: None)
    learn, score, lag = _plan(trace, options)
    rng = Random(options.seed)
    groups: Groups | None = None
    if options.groups != "none":
        learned = trace.rtt_ms[learn[0] : learn[1] + 1]
        is_searched = options.groups == "local-search"
        groups = make_groups(learned, is_searched=is_searched, rng=rng, progress=lambda done, of: report("grouping", done, of))
    decide = _Policies(rule or AdvantageRule(), groups, options.relay_ms)
    decisions = _decisions(trace, learn, score, lag, decide)
    count, n = score[1] - score[0] + 1, trace.rtt_ms.shape[1]
    tallies: dict[str, Scored] = {}
    for done, (t, decision) in enumerate(zip(range(score[0], score[1] + 1), decisions, strict=True)):
        report("scoring", done, count)
        latency = trace.rtt_ms[t]
        best = best_relays(latency)
        all_paths = {**decision.paths, "oracle": if_better(latency, best, relay_ms=options.relay_ms)}
        realised = {name: realised_ms(latency, paths, options.relay_ms) for name, paths in all_paths.items()}
        references = {name: realised[name] for name in ("same_delay", "oracle")}
        for name, paths in all_paths.items():
            tallies.setdefault(name, Scored(count, n)).add(latency, realised[name], paths, references)
    scores = {name: tally.score() for name, tally in tallies.items()}
    return ReplayResult(
        learn=learn,
        score=score,
        lag=lag,
        is_hindsight=score[0] <= learn[1],
        group_sizes=(n,) if groups is None else tuple(len(members) for members in groups.members),
        policy=scores.pop("policy"),
        baselines=scores,
    )


class _Policies:
    """All policies; remembers the paths in use."""

    def __init__(self, rule: AdvantageRule, groups: Groups | None, relay_ms: float) -> None:
        self._rule = rule
        self._groups = groups
        self._relay_ms = relay_ms
        self._in_use: Paths | None = None
        self._full_in_use: Paths | None = None

    def decide(self, visible_ms: Floats) -> _Decision:
        """Decide on what is visible, shape (T, n, n); T may be 0."""
        n = visible_ms.shape[1]
        names = ("policy", *(() if self._groups is None else ("full_matrix",)), "direct", "no_margin", "fixed_margin", "same_delay")
        if not len(visible_ms):
            return _Decision({name: direct_paths(n) for name in names})
        full = self._full(visible_ms)
        paths = {"policy": full, "direct": direct_paths(n)}
        if self._groups is not None:
            self._in_use = choose_grouped(visible_ms, self._groups, self._rule, current=self._in_use, relay_ms=self._relay_ms)
            paths.update(policy=self._in_use, full_matrix=full)
        typical = _median(visible_ms[-self._rule.window :])
        best = best_relays(typical)
        paths["no_margin"] = if_better(typical, best, relay_ms=self._relay_ms)
        paths["fixed_margin"] = if_better(typical, best, relay_ms=self._relay_ms, margin=FIXED_MARGIN, margin_ms=FIXED_MARGIN_MS)
        paths["same_delay"] = if_better(visible_ms[-1], best_relays(visible_ms[-1]), relay_ms=self._relay_ms)
        return _Decision({name: paths[name] for name in names})

    def _full(self, visible_ms: Floats) -> Paths:
        current = None if self._full_in_use is None else self._full_in_use[:, :, 0].astype(np.intp)
        self._full_in_use = one_relay_paths(choose_relays(visible_ms, self._rule, current=current, relay_ms=self._relay_ms))
        return self._full_in_use


def _median(visible_ms: Floats) -> Floats:
    """Median over slices, NaN where never seen."""
    if not np.isnan(visible_ms).any():
        median: Floats = np.median(visible_ms, axis=0)
        return median
    seen = np.isfinite(visible_ms).any(axis=0)
    median = np.full(visible_ms.shape[1:], np.nan, dtype=np.float32)
    median[seen] = np.nanmedian(visible_ms[:, seen], axis=0)
    return median


def _decisions(
    trace: LatencyTrace, learn: tuple[int, int], score: tuple[int, int], lag: int | None, policies: _Policies
) -> Iterator[_Decision]:
    """One for each scored slice."""
    slices: Iterable[int] = range(score[0], score[1] + 1)
    if lag is None:
        decision = policies.decide(trace.rtt_ms[learn[0] : learn[1] + 1])
        yield from (decision for _ in slices)
        return
    for t in slices:
        newest = learn[1] if score[0] <= learn[1] else t - lag
        yield policies.decide(trace.rtt_ms[learn[0] : max(newest + 1, learn[0])])


def _plan(trace: LatencyTrace, options: ReplayOptions) -> tuple[tuple[int, int], tuple[int, int], int | None]:
    count = len(trace.rtt_ms)
    if not 0 <= options.relay_ms <= RELAY_MS_MAX:
        raise ConfigError("--relay-ms", f"is {options.relay_ms:g}", f"use 0 to {RELAY_MS_MAX:g} ms")
    if options.is_frozen and options.lag is not None:
        raise ConfigError("--lag", "contradicts --frozen", "give one of the two")
    lag = None if options.is_frozen else trace.hold_slices if options.lag is None else options.lag
    if lag is not None and lag < 1:
        raise ConfigError("--lag", f"is {lag}", "use 1 or more, for a slice cannot be decided on what it is scored by")
    if count == 1 and options.learn in (None, (0, 0)) and options.score in (None, (0, 0)):
        return (0, 0), (0, 0), lag
    default_end = count // 2 - 1 if options.score is None else options.score[0] - 1
    learn = options.learn or (0, default_end)
    score = options.score or (learn[1] + 1, count - 1)
    for key, (first, last) in (("--learn", learn), ("--score", score)):
        if not 0 <= first <= last < count:
            raise ConfigError(key, f"is {first}..{last}", f"name slices from 0 to {count - 1}, the first one first, ends included")
    if score[0] <= learn[1]:
        problem = f"{score[0]}..{score[1]} does not begin after --learn {learn[0]}..{learn[1]}"
        raise ConfigError("--score", problem, f"score slices from {learn[1] + 1} on, which the policy has not seen")
    return learn, score, lag


def as_json(result: ReplayResult) -> dict[str, Any]:
    """Return plain values: the policy's figures at the top, those of the others under "baselines"; p50 and p95 in ms."""
    return {
        **_figures(result.policy),
        "learn": list(result.learn),
        "score": list(result.score),
        "lag": result.lag,
        "is_frozen": result.lag is None,
        "is_hindsight": result.is_hindsight,
        "group_sizes": list(result.group_sizes),
        "baselines": {name: _figures(score) for name, score in result.baselines.items()},
    }


def _figures(score: Score) -> dict[str, Any]:
    figures = attrs.asdict(score)
    return {{"p50_ms": "p50", "p95_ms": "p95"}.get(name, name): value for name, value in figures.items()}
