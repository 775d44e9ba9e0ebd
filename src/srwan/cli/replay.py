"""`srwan replay`: what the path policy would have been worth on a recorded trace."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import attrs

from srwan.routing.advantage import AdvantageRule
from srwan.testing.latency_trace import LatencyTrace, load_trace
from srwan.testing.replay import ReplayOptions, ReplayResult, as_json, replay

__all__ = ["add_arguments", "run"]

PROGRESS_AFTER_S = 2.0
"""Time after which a run is long enough to say how far it is, s; also from one message to the next."""

_COLUMNS = (
    ("mean_ms", "mean ms", "{:.1f}", 1.0),
    ("p50", "p50", "{:.0f}", 1.0),
    ("p95", "p95", "{:.0f}", 1.0),
    ("gain_pct", "gain %", "{:.2f}", 1.0),
    ("capture", "capture", "{:.3f}", 1.0),
    ("capture_oracle", "of oracle", "{:.3f}", 1.0),
    ("relayed", "relayed %", "{:.1f}", 100.0),
    ("harmed", "harmed %", "{:.1f}", 100.0),
    ("harmed_pairs", "pairs %", "{:.1f}", 100.0),
    ("changes", "changes", "{:.4f}", 1.0),
    ("concentration", "one relay %", "{:.1f}", 100.0),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = "Slices are counted from 0, ends included. docs/replay.md defines every figure."
    parser.add_argument("trace", type=Path, metavar="TRACE.npz", help="rtt_ms, float32 (slices, nodes, nodes), ms, NaN where missing")
    parser.add_argument("--learn", type=_slices, metavar="A..B", help="slices to learn from (default: the first half)")
    parser.add_argument("--score", type=_slices, metavar="C..D", help="slices to score (default: what follows)")
    when = parser.add_mutually_exclusive_group()
    when.add_argument("--frozen", action="store_true", help="decide once, after learning")
    when.add_argument("--lag", type=int, metavar="L", help="decide slice by slice, on slices at least L old (default: hold_slices, or 1)")
    parser.add_argument("--groups", choices=["none", "random", "local-search"], default="none", help="who knows what (default: all of it)")
    parser.add_argument("--relay-ms", type=float, default=0.0, metavar="X", help="cost of each relay, ms (default: 0)")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="of random groups and of the search (default: 1)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> int:
    """Replay and print the figures."""
    trace = load_trace(options.trace)
    start_s = time.monotonic()
    wanted = ReplayOptions(
        learn=options.learn,
        score=options.score,
        is_frozen=options.frozen,
        lag=options.lag,
        groups=options.groups,
        relay_ms=options.relay_ms,
        seed=options.seed,
    )
    result = replay(trace, wanted, progress=_Progress())
    shown = {
        "trace": {
            "file": str(options.trace),
            "name": trace.name,
            "slices": len(trace.rtt_ms),
            "nodes": trace.rtt_ms.shape[1],
            "slice_s": trace.slice_s,
            "hold_slices": trace.hold_slices,
        },
        **as_json(result),
        "groups": options.groups,
        "relay_ms": options.relay_ms,
        "seed": options.seed,
        "rule": attrs.asdict(AdvantageRule()),
        "wall_s": round(time.monotonic() - start_s, 2),
    }
    if options.json:
        sys.stdout.write(json.dumps(shown, allow_nan=False) + "\n")
    else:
        _print(trace, result, shown)
    return 0


def _slices(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,9})\.\.(\d{1,9})", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no range of slices; write A..B, for example 0..4")
    return int(match[1]), int(match[2])


class _Progress:
    """Says on standard error how far a long run is and how long it may still take."""

    def __init__(self) -> None:
        self._start_s = self._said_s = time.monotonic()
        self._what = ""

    def __call__(self, what: str, done: int, of: int) -> None:
        now_s = time.monotonic()
        if what != self._what:
            self._what, self._start_s = what, now_s
        if not done or now_s - self._said_s < PROGRESS_AFTER_S:
            return
        self._said_s = now_s
        left_s = (now_s - self._start_s) / done * (of - done)
        sys.stderr.write(f"srwan: {what}, {done} of {of}, {left_s:.0f} s left\n")


def _print(trace: LatencyTrace, result: ReplayResult, shown: dict[str, Any]) -> None:
    write = sys.stdout.write
    first, last = result.score
    way = "paths fixed after learning" if result.lag is None else f"decided slice by slice on slices at least {result.lag} old"
    name = trace.name or shown["trace"]["file"]
    write(f"{name}: {len(trace.rtt_ms)} slices of {trace.rtt_ms.shape[1]} nodes; ")
    write(f"learned {result.learn[0]}..{result.learn[1]}, scored {first}..{last}, {way}\n")
    if result.is_hindsight:
        write("one slice, taught and scored: hindsight\n")
    if shown["groups"] != "none":
        write(f"groups ({shown['groups']}) of {', '.join(map(str, result.group_sizes))}\n")
    if result.policy.unscored:
        write(f"{result.policy.unscored} pair-slices left out, for a latency is missing in them\n")
    write("\n" + f"{'policy':<13}" + "".join(f"{title:>12}" for _, title, _, _ in _COLUMNS) + "\n")
    for policy, figures in (("policy", shown), *shown["baselines"].items()):
        cells = ("-" if figures[key] is None else form.format(figures[key] * scale) for key, _, form, scale in _COLUMNS)
        write(f"{policy:<13}" + "".join(f"{cell:>12}" for cell in cells) + "\n")
    write("\nharmed: of relayed pair-slices; pairs: of pairs ever relayed, those that lost in sum; changes: per pair and slice\n")
