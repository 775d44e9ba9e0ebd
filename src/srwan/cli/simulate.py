"""`srwan simulate`: thousands of routers on a virtual network, every fault from a seed."""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import attrs
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from srwan.errors import ConfigError
from srwan.testing.faults import Faults, load_faults
from srwan.testing.result import FaultOutcome, SimulationResult
from srwan.testing.swarm import SimulationOptions, simulate

__all__ = ["add_arguments", "run"]

SEEDS_MAX = 100_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--nodes", type=int, default=100, metavar="N", help="routers; groups of up to 100 (100)")
    parser.add_argument("--minutes", type=float, default=2.0, metavar="M", help="simulated time (2)")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="draws keys, places, clocks, losses and faults (1)")
    parser.add_argument("--seeds", metavar="A..B", help="run every seed from A to B; stop at the first that fails")
    parser.add_argument("--faults", type=Path, metavar="FILE.toml", help="weather and faults; docs/simulation.md has an example")
    parser.add_argument("--real-crypto", action="store_true", help="real pair keys and tags, datagrams as bytes; slower")
    parser.add_argument("--reviews", action="store_true", help="routers also look for lies, clock steps and anomalies; slower")
    parser.add_argument("--jobs", type=int, default=1, metavar="J", help="run so many groups at once, each in a process (1)")
    parser.add_argument("--json", action="store_true", help="print one JSON object a seed, and nothing else")


def run(options: argparse.Namespace) -> int:
    """Simulate. Exit status 1 with the replaying command if an invariant was violated."""
    faults = Faults() if options.faults is None else load_faults(options.faults)
    chosen = SimulationOptions(
        nodes=options.nodes,
        minutes=options.minutes,
        seed=options.seed,
        faults=faults,
        has_real_crypto=options.real_crypto,
        has_reviews=options.reviews,
    )
    seeds = [options.seed] if options.seeds is None else _seeds(options.seeds)
    with _progress() as show:
        for turn, seed in enumerate(seeds):
            show_seed = partial(_show_seed, show, turn, len(seeds))
            result = simulate(attrs.evolve(chosen, seed=seed), show_seed, jobs=options.jobs)
            if options.json:
                sys.stdout.write(json.dumps(result.to_json()) + "\n")
            elif len(seeds) > 1:
                sys.stdout.write(
                    f"seed {seed}: {result.events} events, trace {result.trace_hash}, {result.violation or 'all invariants held'}\n"
                )
            sys.stdout.flush()
            if result.violation:
                sys.stderr.write(f"srwan simulate: {result.violation}\nreplay it with: {_replay_command(options, seed)}\n")
                return 1
            if not options.json and len(seeds) == 1:
                _print(result)
    return 0


def _show_seed(show: Callable[[float], None], turn: int, turns: int, share: float) -> None:
    show((turn + share) / turns)


def _seeds(text: str) -> range:
    match = re.fullmatch(r"(\d{1,18})\.\.(\d{1,18})", text)
    if match is None or not 0 <= int(match[2]) - int(match[1]) < SEEDS_MAX:
        raise ConfigError("--seeds", f"{text!r} is no range", f"give A..B with A <= B, at most {SEEDS_MAX} seeds")
    return range(int(match[1]), int(match[2]) + 1)


def _replay_command(options: argparse.Namespace, seed: int) -> str:
    words = ["srwan", "simulate", "--nodes", str(options.nodes), "--minutes", f"{options.minutes:g}", "--seed", str(seed)]
    words += ["--faults", str(options.faults)] if options.faults is not None else []
    words += ["--real-crypto"] if options.real_crypto else []
    words += ["--reviews"] if options.reviews else []
    return shlex.join(words)


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[float], None]]:
    """Show how far it is, and the time left, on a terminal; nothing elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _share: None
        return
    columns = (TextColumn("simulating"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, refresh_per_second=4) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda share: bar.update(task, completed=share)


def _print(result: SimulationResult) -> None:
    write = sys.stdout.write
    write(f"{result.nodes} nodes in {result.groups} groups, {result.minutes:g} simulated minutes, seed {result.seed}\n")
    write(f"{result.events} events in {result.wall_s:.1f} s, {result.events_per_s:.0f} a second, {result.rss_mb:.0f} MB, ")
    write(f"trace {result.trace_hash}\n")
    write(f"all views equal after {_time(result.agreed_s)}, all matrices full after {_time(result.filled_s)}\n")
    write(f"a node sends {result.datagrams_per_s:.1f} datagrams and {result.bytes_per_s:.0f} bytes a second:\n")
    for name, (count, size) in result.traffic.items():
        write(f"  {name:<9}{count:8.2f} {size:8.0f}\n")
    for outcome in result.faults:
        _print_outcome(outcome)
    checks = sum(count for count, _ in result.invariants.values())
    write(f"{len(result.invariants)} invariants held, checked {checks} times\n")


def _print_outcome(outcome: FaultOutcome) -> None:
    write = sys.stdout.write
    write(f"{outcome.kind} at {outcome.at_s:g} s, {len(outcome.nodes)} nodes: {outcome.removed} removed, {outcome.removed_by_all} by all; ")
    write(f"first known after {_time(outcome.first_after_s)}, last after {_time(outcome.last_after_s)}; ")
    write(f"{outcome.false_removals} false removals, {outcome.view_changes} view changes\n")


def _time(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.2f} s"
