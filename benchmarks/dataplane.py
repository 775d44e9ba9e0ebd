"""The data planes of srwan, nebula, wireguard-go, tinc, yggdrasil and the kernel side by side, in one run, and what srwan's are to reach.

    python benchmarks/dataplane.py [--json] [--quick] [--only NAME,...] [--repetitions 3] [--output FILE]

Each system has three namespaces, ingress - relay - egress, joined by veth pairs (MTU 1,600), made and removed here; only its own relay can
carry packets from one end to the other. All stay up and are measured in turn, repetition by repetition, so that other work on the machine
falls on all alike. Given are the median over repetitions with least and greatest, and ratios that were taken within a repetition.

- TCP: iperf3, one flow and four, MSS 1,360 where the MTU allows;
- CPU: user and system time of each process, with the softirq work in its context, per 1,400 B of TCP payload and per 64 B packet;
- UDP: 64 B packets through the chain, distinct ones counted where they arrive; one-way latency of 64 B probes, 1,000 a second, by the
  kernel's receive stamps;
- relay alone (--only relay): a router of the library without gateways, against the kernel and loops that do nothing else on the same way:
  added latency, CPU, memory and speed with 1,000 paths, packets lost while keys, addresses or the path change at full load;
- failover (--only failover): `benchmarks/failover.py`, the gap in a flow when its relay fails; half an hour of the run.

A system that is not installed or not built is named with what it lacks. Needs Linux, iproute2, util-linux, iperf3, ethtool, and root or the
right to make user namespaces; everything runs in process, mount and network namespaces that end with the run, however it ends. Figures of
a machine that does other work at the same time are lower bounds: see `others_cpu_percent`. docs/benchmarks.md says how to read them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import trio
from dataplane_peers import cpu, failover_part, measures, relay_alone, report
from dataplane_peers.aims import AIMS
from dataplane_peers.chain import NotAvailable, System, find_program
from dataplane_peers.figures import Figure, as_json, differences, judge, ratios, summarize
from dataplane_peers.roster import BY_NAME, SYSTEMS

from srwan.errors import SrwanError
from srwan.sole_error import sole_error
from srwan.testing.namespaces import Lab, LabError, end_with_stdin, isolation_problem, run_isolated

RELAY, FAILOVER = "relay", "failover"
"""Names of the parts without gateways, for --only."""
PLANES = ("portable", "native")
PROGRAMS = {"iperf3": "iperf3", "ping": "iputils-ping", "ethtool": "ethtool"}
OTHERS_CPU_PERCENT_MAX = 20.0
LENGTHS = measures.Lengths(tcp_s=2.0, flood_s=1.0, probes=1500)
QUICK_LENGTHS = measures.Lengths(tcp_s=1.0, flood_s=0.4, probes=300)
AMOUNTS = relay_alone.Amounts(packets=60_000, probes=1500, changed=60_000)
QUICK_AMOUNTS = relay_alone.Amounts(packets=10_000, probes=300, changed=10_000)
RELAY_TITLES = {
    relay_alone.KERNEL: "kernel",
    relay_alone.BARE_C: "bare loop, C",
    relay_alone.BARE_PYTHON: "bare loop, Python",
    **{f"relay-{plane}": f"srwan, {plane}" for plane in PLANES},
}
RELAYS = tuple(RELAY_TITLES)
OURS = tuple(kind.name for kind in SYSTEMS if kind.is_ours)
RATIOS = ("tcp1_gbps", "tcp4_gbps", "relay_us", "relay64_us", "udp64_pps")
LATENCIES = ("owl_p50_us", "owl_p99_us")


def note(text: str) -> None:
    """Say what is being done, on a terminal in one line."""
    sys.stderr.write(f"\r\x1b[K{text}" if sys.stderr.isatty() else f"{text}\n")
    sys.stderr.flush()


class Run:
    """One run: what was measured, and what could not be."""

    def __init__(self, names: Sequence[str], repetitions: int, trials: int, *, is_quick: bool) -> None:
        self.names = names
        self.trials = trials
        self.repetitions = repetitions
        self.is_quick = is_quick
        self.samples: dict[str, list[dict[str, float]]] = {}
        self.absent: dict[str, str] = {}
        """Why, by system."""
        self.conditions: dict[str, dict[str, Any]] = {}
        """Version and MTU, by system."""
        self.notes: list[str] = []
        self.failover: dict[str, Any] = {}
        """Report of that part."""

    def measure(self) -> None:
        """Measure all that is wanted and there."""
        with Lab("bench") as lab, tempfile.TemporaryDirectory(dir="/run") as folder:
            systems = list(self._start(lab, Path(folder)))
            for repetition in range(self.repetitions):
                for system in systems:
                    self._measure_once(system, repetition)
            for system in systems:
                self.conditions[system.name] |= system.state()
            lab.end_programs()
            if RELAY in self.names:
                self._measure_relay(lab)
        if FAILOVER in self.names:
            self._measure_failover()

    def _start(self, lab: Lab, folder: Path) -> Iterator[System]:
        lacking = sorted({package for program, package in PROGRAMS.items() if find_program(program) is None})
        for kind in SYSTEMS:
            if kind.name not in self.names:
                continue
            self.conditions[kind.name] = {"version": kind.version()}
            problem = f"not measured; on Debian: apt-get install {' '.join(lacking)}" if lacking else kind.missing()
            if problem:
                self.absent[kind.name] = problem
                continue
            note(f"{kind.title}: starting")
            own = folder / kind.name
            own.mkdir()
            try:
                system = kind(lab, own)
                system.start()
            except (NotAvailable, *measures.FAILURES) as error:
                self.absent[kind.name] = str(error)
                continue
            self.conditions[kind.name]["mtu"] = system.overlay_mtu()
            self.samples[kind.name] = []
            yield system

    def _measure_once(self, system: System, repetition: int) -> None:
        note(f"{system.title}: repetition {repetition + 1} of {self.repetitions}")
        figures, problems = measures.measure(system, QUICK_LENGTHS if self.is_quick else LENGTHS)
        self.notes += [f"{system.name}, repetition {repetition + 1}: {problem}" for problem in problems]
        self.samples[system.name].append(figures)

    def _measure_relay(self, lab: Lab) -> None:
        amounts = QUICK_AMOUNTS if self.is_quick else AMOUNTS
        try:
            with sole_error():
                result = trio.run(relay_alone.run, lab, PLANES, self.repetitions, amounts, note)
        except SrwanError as error:
            self.notes.append(f"relay alone: {error}")
            return
        self.samples |= result.samples
        self.absent |= result.absent
        self.notes += result.problems

    def _measure_failover(self) -> None:
        note(f"failover: {self.trials} trials of each fault")
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)  # its processes meet on 127.0.0.0/8
        try:
            result = failover_part.run(self.trials)
        except LabError as error:
            self.notes.append(str(error))
            return
        self.samples |= result.samples
        self.failover = result.report


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Data planes side by side", formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--quick", action="store_true", help="one short repetition: about a minute, good for looking, not for claims")
    parser.add_argument("--only", default="", metavar="NAME,...", help=f"of {', '.join([*BY_NAME, RELAY, FAILOVER])}")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--trials", type=int, default=50, help="of each fault in the part failover, which --quick leaves out")
    parser.add_argument("--output", type=Path, help="write the JSON to this file, too")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    known = [*BY_NAME, RELAY, FAILOVER]
    usual = [name for name in known if not (arguments.quick and name == FAILOVER)]
    arguments.only = arguments.only.split(",") if arguments.only else usual
    strangers = [name for name in arguments.only if name not in known]
    if strangers:
        parser.error(f"--only knows {', '.join(known)}, not {', '.join(strangers)}")
    if arguments.quick:
        arguments.repetitions = 1
    if arguments.repetitions < 1 or arguments.trials < 1:
        parser.error("--repetitions and --trials take at least 1")
    return arguments


def run_inside(arguments: argparse.Namespace) -> int:
    """Measure, then print."""
    end_with_stdin()
    conditions, started, busy = report.machine(), time.monotonic(), cpu.machine_time()
    run = Run(arguments.only, arguments.repetitions, arguments.trials, is_quick=arguments.quick)
    own_s = own_cpu_s()
    run.measure()
    wall_s, after = time.monotonic() - started, cpu.machine_time()
    others = max(0.0, 100 * (after.busy_s - busy.busy_s - (own_cpu_s() - own_s)) / wall_s)
    note("")
    summary, outcomes = summarize(run.samples), judge(run.samples, AIMS)
    result = {
        "benchmark": "dataplane: ingress - relay - egress in namespaces, all systems in one run",
        "command": command_of(arguments),
        "machine": conditions | {"others_cpu_percent": others, "stolen_s": after.stolen_s - busy.stolen_s},
        "wall_s": wall_s,
        "repetitions": arguments.repetitions,
        "systems": {name: run.conditions.get(name, {}) | {"figures": figures} for name, figures in summary.items()},
        "absent": run.absent,
        "failover": run.failover,
        "aims": outcomes,
        "ratios": ratios(run.samples, OURS, [kind.name for kind in SYSTEMS if kind.name not in OURS], RATIOS),
        "added_latency": differences(run.samples, OURS, "kernel", LATENCIES) | differences(run.samples, RELAYS[1:], RELAYS[0], LATENCIES),
        "notes": run.notes,
        "left_out": report.LEFT_OUT,
    }
    text = json.dumps(as_json(result), indent=2)
    if arguments.output is not None:
        arguments.output.write_text(text + "\n")
    if arguments.json:
        print(text)
        return 0
    print_tables(run, summary, arguments.only)
    print(*["", *report.verdicts([outcome for outcome in outcomes if outcome.value is not None]), ""], *run.notes, sep="\n")
    if others > OTHERS_CPU_PERCENT_MAX:
        print(f"Other programs used {others:.0f} % of a core meanwhile: these figures are provisional; measure again on an idle machine.")
    return 0


def command_of(arguments: argparse.Namespace) -> str:
    """Return the command that repeats this run."""
    options = ["--quick"] if arguments.quick else ["--repetitions", str(arguments.repetitions), "--trials", str(arguments.trials)]
    return " ".join(["python benchmarks/dataplane.py", *options, "--only", ",".join(arguments.only)])


def print_tables(run: Run, summary: dict[str, dict[str, Figure]], names: Sequence[str]) -> None:
    """Print what was asked for."""
    titles = {kind.name: kind.title for kind in SYSTEMS if kind.name in names}
    print(*report.table(report.CHAIN, titles, summary, run.absent) if titles else (), sep="\n")
    if RELAY in names:
        print("", *report.table(report.ALONE, RELAY_TITLES, summary, run.absent), sep="\n")


def own_cpu_s() -> float:
    """CPU time of everything in this process namespace, ended processes included, as far as they were waited for."""
    times = os.times()
    running = 0.0
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            with contextlib.suppress(OSError):
                running += cpu.process_s(int(entry))
    return times.user + times.system + times.children_user + times.children_system + running


def main() -> int:
    """Run the benchmark."""
    arguments = parse_arguments()
    try:
        if arguments.inside:
            return run_inside(arguments)
        problem = "needs Linux" if platform.system() != "Linux" else isolation_problem()
        if problem:
            print(json.dumps({"benchmark": "dataplane", "problem": problem}) if arguments.json else f"dataplane: {problem}; not measured")
            return 0
        return run_isolated([sys.executable, __file__, *sys.argv[1:], "--inside"])
    except SrwanError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    sys.exit(main())
