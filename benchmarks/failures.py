"""What a group of 100 concludes of failures, in the simulator with the real cores: crashes, Rapid's faults, loss, starvation.

    python benchmarks/failures.py [--json] [--nodes 100] [--seeds 1,2,3] [--quiet-minutes 2] [--only crash,loss-20,...] [--output FILE]

Each scenario is one simulated group per seed, latencies drawn on a sphere, 1 % loss unless it says otherwise, clocks off by up to 5 s. The
fault begins at 30 s. "last" is when the last survivor knew of the last faulty member, "changes" the most view changes that one survivor
saw, "false" removals of members without a fault, "exact" the runs in which every survivor removed exactly the faulty ones.

`crash` and `crash-10` end one and ten members at once. `lossy`, `deaf` and `mute` give one member 80 % loss, or cut what comes to it or
leaves it; `flapping` cuts what comes to it for 10 of every 20 s. `loss-N` and `starved` have no faulty member: N % loss on all links, or
30 % of the members frozen for 80 % of every 2 s, for --quiet-minutes; any removal there is a false one.

Peers (docs/decisions.md): Serf's last survivor knew after 10.9 s median, 13.0 at most; memberlist oscillates under Rapid's faults.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from srwan.testing.faults import Fault, Faults
from srwan.testing.swarm import SimulationOptions, simulate

AT_S = 30.0
FAULTS: dict[str, Fault] = {
    "crash": Fault(kind="crash", at_s=AT_S, nodes=1),
    "crash-10": Fault(kind="crash", at_s=AT_S, nodes=10),
    "lossy": Fault(kind="loss", at_s=AT_S, nodes=1, share=0.8),
    "deaf": Fault(kind="cut-in", at_s=AT_S, nodes=1),
    "mute": Fault(kind="cut-out", at_s=AT_S, nodes=1),
    "flapping": Fault(kind="cut-in", at_s=AT_S, nodes=1, period_s=20.0),
}
QUIET: dict[str, Faults] = {
    "loss-1": Faults(loss=0.01),
    "loss-5": Faults(loss=0.05),
    "loss-20": Faults(loss=0.2),
    "starved": Faults(faults=(Fault(kind="starve", at_s=AT_S, nodes="30%", share=0.2, slice_s=2.0),)),
}
FAULT_MINUTES = 1.5
"""A fault has a minute to be found."""


def run_fault(name: str, nodes: int, seed: int) -> dict[str, Any]:
    """Return what came of one fault."""
    result = simulate(SimulationOptions(nodes=nodes, minutes=FAULT_MINUTES, seed=seed, faults=Faults(faults=(FAULTS[name],))))
    (outcome,) = result.faults
    wanted = len(outcome.nodes)
    return {
        "last_s": outcome.last_after_s,
        "first_s": outcome.first_after_s,
        "is_exact": outcome.removed_by_all == wanted and outcome.false_removals == 0,
        "false": outcome.false_removals,
        "view_changes": outcome.view_changes,
    }


def run_quiet(name: str, nodes: int, seed: int, minutes: float) -> dict[str, Any]:
    """Return how many members were removed though nobody failed."""
    result = simulate(SimulationOptions(nodes=nodes, minutes=minutes, seed=seed, faults=QUIET[name]))
    return {"false": result.removals, "violation": result.violation, "bytes_per_s": result.bytes_per_s}


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return medians and extremes over the seeds."""
    told = [run["last_s"] for run in runs if run.get("last_s") is not None]
    figures: dict[str, Any] = {"runs": len(runs), "false": sum(run["false"] for run in runs)}
    if "is_exact" in runs[0]:
        figures |= {
            "exact": sum(run["is_exact"] for run in runs),
            "last_s_median": statistics.median(told) if told else None,
            "last_s_max": max(told, default=None),
            "view_changes_max": max(run["view_changes"] for run in runs),
        }
    return figures


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description="What a simulated group concludes of failures.")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--quiet-minutes", type=float, default=2.0)
    parser.add_argument("--only", default=",".join([*FAULTS, *QUIET]))
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    names = options.only.split(",")
    unknown = [name for name in names if name not in FAULTS and name not in QUIET]
    if unknown:
        parser.error(f"no scenario called {unknown[0]}; there are {', '.join([*FAULTS, *QUIET])}")
    started = time.monotonic()
    results: dict[str, Any] = {}
    for name in names:
        sys.stderr.write(f"{name}: {len(seeds)} seeds, {options.nodes} nodes\n")
        if name in FAULTS:
            runs = [run_fault(name, options.nodes, seed) for seed in seeds]
        else:
            runs = [run_quiet(name, options.nodes, seed, options.quiet_minutes) for seed in seeds]
        results[name] = {**summary(runs), "by_seed": dict(zip(map(str, seeds), runs, strict=True))}
    report = {
        "benchmark": "failures, simulated",
        "nodes": options.nodes,
        "quiet_minutes": options.quiet_minutes,
        "wall_s": round(time.monotonic() - started, 1),
        "results": results,
    }
    text = json.dumps(report, indent=2)
    if options.output is not None:
        options.output.write_text(text + "\n")
    if options.json:
        sys.stdout.write(text + "\n")
        return 0
    sys.stdout.write(f"{'scenario':10} {'exact':>7} {'last s, median':>15} {'max':>7} {'changes':>8} {'false':>6}\n")
    for name, figures in results.items():
        exact = f"{figures['exact']}/{figures['runs']}" if "exact" in figures else "-"
        median, greatest = (figures.get(key) for key in ("last_s_median", "last_s_max"))
        shown = [f"{value:.2f}" if value is not None else "-" for value in (median, greatest)]
        changes = figures.get("view_changes_max", "-")
        sys.stdout.write(f"{name:10} {exact:>7} {shown[0]:>15} {shown[1]:>7} {changes:>8} {figures['false']:>6}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
