"""Serf and srwan side by side: how soon a group of 50 and of 100 members is together, knows of a death, and what that costs.

    python benchmarks/serf.py [--json] [--members 50,100] [--trials 10] [--steady 60] [--systems serf,srwan] [--quick] [--output FILE]

Needs Linux, `unshare` and `ip`, the right to make a network namespace, and Debian's serf. Both systems run one after the other in one
network namespace made for the run, on addresses of 127.0.0.0/8, so that all their traffic, and nothing else, passes its lo. A process
namespace around it ends everything with the benchmark, however it ends.

Serf: one agent per member, LAN profile, as packaged; what it knows is read from its log, so no RPC traffic is counted. srwan:
`srwan.swarm.flock`, the control plane of a router on a UDP socket of its own, pulses every 10 s; 24 routers to a process, and four
processes of one router each, which are the ones that are killed. Serf's members know who is there; srwan's also hold the one-way
latencies of all ordered pairs, n (n - 1).

What is measured, for both alike, on CLOCK_MONOTONIC, when this program reads it (Serf) or when the router notices it (srwan):

- programs started: from the first exec until every member sees every other, each joining as soon as it is up;
- told to join: the same with all programs up, from the word; bytes on lo of the 10 s from then, 14 B of link header a packet included;
- steady: bytes, packets and CPU time (user and system, /proc) a member and second, from 10 s after joining; memory (RSS); CPU of srwan
  again with all routers in one process, as in a swarm;
- kill -9: until a survivor knows, for each of all survivors: the first and the last of each trial, p99 over all survivors of all trials.
  A trial begins when at most one other is still open and 4 to 5 s after the one before. A survivor that never knew is counted apart;
- false positives: members reported as failed that were not, in the whole run;
- rejoin: from exec of the killed member, once all knew of its death, until every survivor sees it; leave: from the asking until all know.

Two cores carry everything, this program too. Routers in one process share its interpreter and its caches of pure functions: a certificate
is verified once a process. Figures are of one run; times of kill, rejoin and leave: median and greatest over trials.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import attrs
import msgpack

from srwan.errors import SrwanError
from srwan.swarm.flock_group import FlockGroup, Group, Program, Seen, measure_first

SETTLE_S = 10.0
"""After the word to join: the steady state begins. With --quick QUICK_SETTLE_S."""
QUICK_SETTLE_S = 4.0
START_TIMEOUT_S = 60.0
JOIN_TIMEOUT_S = 30.0
"""Who has not seen all by then counts as never; the measurement goes on, and whoever knows a victim counts in its trial."""
KNOWN_TIMEOUT_S = 30.0
"""A survivor that does not know by then is counted as one that never knew."""
SEEN_TIMEOUT_S = 15.0
OPEN_TRIALS_MAX = 2
KILL_PAUSE_S = (4.0, 5.0)
"""Drawn from this range, so that kills fall on all phases of a member's timers."""
LEAVES = 3
OTHERS_CPU_PERCENT_MAX = 20.0
"""Of one core, during the steady state; a join of 100 agents takes both cores for seconds, and takes much longer with less."""
RPC_BYTES_MAX = 4096
SERF_EVENTS = {b"EventMemberJoin:": "joined", b"EventMemberFailed:": "failed", b"EventMemberLeave:": "left"}


class SerfGroup(Group):
    """Serf agents, one a member."""

    name = "serf"

    @staticmethod
    def ip(node: int) -> str:
        """Address of an agent."""
        return f"127.1.{node // 250}.{node % 250 + 1}"

    def start(self, *, is_joining: bool) -> None:
        """The first agent first: `-join` ends an agent that reaches nobody."""
        seed = self._launch_agent(0, is_joining=False)
        if is_joining and not self.pump(time.monotonic() + START_TIMEOUT_S, lambda: seed.is_up):
            raise SystemExit("serf: the first agent did not start")
        for node in range(1, self.size):
            self._launch_agent(node, is_joining=is_joining)

    def join_all(self) -> None:
        """By RPC, as `serf join` does; the connections are made before the word is given."""
        connections = [socket.create_connection((self.ip(node), 7373)) for node in range(1, self.size)]
        for connection in connections:
            connection.sendall(_packed({"Command": "handshake", "Seq": 0}, {"Version": 1}))
        for connection in connections:
            connection.recv(RPC_BYTES_MAX)
        for connection in connections:
            connection.sendall(_packed({"Command": "join", "Seq": 1}, {"Existing": [f"{self.ip(0)}:7946"], "Replay": False}))
        self._connections = connections  # kept open until the group ends: closing one cancels its join

    def restart(self, node: int) -> None:
        """Start an agent again, under its old name and address."""
        self.down.discard(node)
        self._launch_agent(node, is_joining=True)

    def ask_to_leave(self, node: int) -> None:
        """SIGINT, upon which an agent leaves in good order."""
        self.down.add(node)
        self.home[node].popen.send_signal(signal.SIGINT)

    def victims(self) -> list[int]:
        """The last ten."""
        return list(range(self.size - 1, max(0, self.size - 11), -1))

    def parse(self, program: Program, line: bytes, t: float) -> None:
        """Take a line of the log."""
        if b"Log data will now stream" in line:
            program.is_up = True
        at = line.find(b"serf: EventMember")
        if at < 0:
            return
        _, event, name, _ = line[at:].replace(b" (forced):", b":").split(b" ", 3)
        observer, peer = program.nodes[0], int(name[1:])
        if event in SERF_EVENTS and peer != observer:
            self.see(t, observer, SERF_EVENTS[event], peer)

    def _launch_agent(self, node: int, *, is_joining: bool) -> Program:
        command = ["serf", "agent", f"-node=n{node}", f"-bind={self.ip(node)}:7946", f"-rpc-addr={self.ip(node)}:7373"]
        return self.launch([*command, f"-join={self.ip(0)}:7946"] if is_joining else command, [node])


GROUPS: dict[str, type[Group]] = {"serf": SerfGroup, "srwan": FlockGroup}


def _packed(header: dict[str, object], body: dict[str, object]) -> bytes:
    packer = msgpack.Packer()
    return bytes(packer.pack(header) + packer.pack(body))


# --- measuring ----------------------------------------------------------------------------------------------------------


@attrs.frozen
class Options:
    """What is asked for."""

    trials: int
    """Kills per system and size."""
    steady_s: float
    """Length of the steady state."""
    settle_s: float
    """From the word to join to the steady state."""


def measure(kind: type[Group], size: int, options: Options) -> dict[str, Any]:
    """Measure one system at one size."""
    figures: dict[str, Any] = {}
    note(f"{kind.name}, {size} members: starting")
    with kind(size) as group:
        started = time.monotonic()
        group.start(is_joining=True)
        group.pump(started + JOIN_TIMEOUT_S, group.is_together)
        figures["started_first_s"], figures["started_all_s"] = first_and_last(group, started)
    with kind(size) as group:
        group.start(is_joining=False)
        wait_up(group)
        group.pump(time.monotonic() + 1.0)
        measure_join(group, options.settle_s, figures)
        note(f"{kind.name}, {size} members: steady for {options.steady_s:g} s")
        measure_steady(group, options.steady_s, figures)
        measure_kills(group, options.trials, figures)
        note(f"{kind.name}, {size} members: leaving")
        measure_leaves(group, figures)
        figures["false_positives"] = group.false_positives
    if kind is FlockGroup:
        note(f"{kind.name}, {size} members in one process: steady for {options.steady_s:g} s")
        measure_one_process(size, options, figures)
    return figures


def wait_up(group: Group) -> None:
    """Wait until all programs are ready."""
    if not group.pump(time.monotonic() + START_TIMEOUT_S, group.is_up):
        raise SystemExit(f"{group.name}: the programs of {group.size} members did not start within {START_TIMEOUT_S:g} s")


def first_and_last(group: Group, since: float, kind: str = "joined") -> tuple[float | None, float | None]:
    """Seconds until the first member had come to see all, and until the last had; None: not even the first, or not all."""
    latest: dict[int, float] = {}
    for seen in group.history:
        if seen.kind == kind and len(group.alive[seen.observer]) == group.size - 1:
            latest[seen.observer] = max(seen.t, latest.get(seen.observer, 0.0))
    first = min(latest.values()) - since if latest else None
    return first, max(latest.values()) - since if len(latest) == group.size else None


def measure_join(group: Group, settle_s: float, figures: dict[str, Any]) -> None:
    """All at once, from the word."""
    bytes_before, _ = lo_counters()
    cpu_before = sum(program.cpu_s() for program in group.programs)
    told = time.monotonic()
    group.join_all()
    group.pump(told + settle_s)
    figures["join_mb"] = (lo_counters()[0] - bytes_before) / 1e6
    figures["join_cpu_s"] = sum(program.cpu_s() for program in group.programs) - cpu_before
    group.pump(told + JOIN_TIMEOUT_S, group.is_together)
    figures["joined_first_s"], figures["joined_all_s"] = first_and_last(group, told)
    figures["pairs_not_joined"] = sum(group.size - 1 - len(seen) for seen in group.alive)
    figures["matrix_first_s"], figures["matrix_all_s"] = first_and_last(group, told, "matrix")


def measure_steady(group: Group, steady_s: float, figures: dict[str, Any]) -> None:
    """Bytes, CPU, memory while nothing happens."""
    shared = [program for program in group.programs if len(program.nodes) > 1] or group.programs
    single = [program for program in group.programs if len(program.nodes) == 1]
    before, busy_before, start = lo_counters(), busy_s(), time.monotonic()
    cpu_before = {program.popen.pid: program.cpu_s() for program in group.programs}
    group.pump(start + steady_s)
    passed_s, after, busy_after = time.monotonic() - start, lo_counters(), busy_s()

    def cpu_percent(programs: Iterable[Program]) -> float:
        used = {program: program.cpu_s() - cpu_before[program.popen.pid] for program in programs}
        return 100 * sum(used.values()) / passed_s / sum(len(program.nodes) for program in used)

    figures["bytes_per_s"] = (after[0] - before[0]) / passed_s / group.size
    figures["packets_per_s"] = (after[1] - before[1]) / passed_s / group.size
    figures["cpu_percent"] = cpu_percent(shared)
    figures["cpu_single_percent"] = cpu_percent(single)
    own_s = sum(program.cpu_s() - cpu_before[program.popen.pid] for program in group.programs)
    figures["others_cpu_percent"] = max(0.0, 100 * (busy_after - busy_before - own_s) / passed_s)
    figures["rss_mb"] = sum(program.rss_mb() for program in shared) / sum(len(program.nodes) for program in shared)
    figures["rss_single_mb"] = statistics.mean(program.rss_mb() for program in single)


def measure_one_process(size: int, options: Options, figures: dict[str, Any]) -> None:
    """CPU of a router while nothing happens, when all of them are in one process, as in a swarm."""
    with FlockGroup(size, victims=0, per_process=size) as group:
        group.start(is_joining=False)
        wait_up(group)
        group.join_all()
        group.pump(time.monotonic() + JOIN_TIMEOUT_S, group.is_together)
        group.pump(time.monotonic() + options.settle_s)
        (program,) = group.programs
        before, start = program.cpu_s(), time.monotonic()
        group.pump(start + options.steady_s)
        figures["cpu_one_process_percent"] = 100 * (program.cpu_s() - before) / (time.monotonic() - start) / size


@attrs.define(eq=False)
class Trial:
    """One death."""

    victim: int
    killed_at: float
    """Monotonic seconds."""
    observers: set[int]
    """Members that are alive from the death to the end of the trial."""
    known: dict[int, float] = attrs.field(factory=dict)
    """Seconds from the death until each survivor knew."""
    restarted_at: float = 0.0
    """Monotonic seconds; 0 before."""
    seen: dict[int, float] = attrs.field(factory=dict)
    """Seconds from the restart until each survivor saw it."""

    def take(self, seen: Seen) -> None:
        """Note what a member came to know."""
        if seen.peer != self.victim or seen.observer not in self.observers:
            return
        if seen.kind in {"failed", "left"} and seen.t >= self.killed_at:
            self.known.setdefault(seen.observer, seen.t - self.killed_at)
        elif seen.kind == "joined" and self.restarted_at and seen.t >= self.restarted_at:
            self.seen.setdefault(seen.observer, seen.t - self.restarted_at)

    def advance(self, group: Group) -> bool:
        """Start the victim again once all know; say whether the trial is over."""
        now = time.monotonic()
        if not self.restarted_at:
            if len(self.known) >= len(self.observers) or now >= self.killed_at + KNOWN_TIMEOUT_S:
                self.restarted_at = now
                group.restart(self.victim)
            return False
        return len(self.seen) >= len(self.observers) or now >= self.restarted_at + SEEN_TIMEOUT_S


def measure_kills(group: Group, trials: int, figures: dict[str, Any]) -> None:
    """Kill members, see who knows when, and start them again."""
    rng = random.Random(f"{group.name}/{group.size}")
    victims = group.victims()
    waiting = [victims[i % len(victims)] for i in range(trials)]
    open_trials: list[Trial] = []
    done: list[Trial] = []
    next_kill, read = time.monotonic(), len(group.history)
    while waiting or open_trials:
        busy = {trial.victim for trial in open_trials}
        if waiting and len(open_trials) < OPEN_TRIALS_MAX and time.monotonic() >= next_kill and waiting[0] not in busy:
            note(f"{group.name}, {group.size} members: kill {trials - len(waiting) + 1} of {trials}")
            victim = waiting.pop(0)
            for trial in open_trials:
                trial.observers.discard(victim)
            observers = {node for node in range(group.size) if victim in group.alive[node]} - busy
            open_trials.append(Trial(victim, group.kill(victim), observers))
            next_kill = time.monotonic() + rng.uniform(*KILL_PAUSE_S)
        group.pump(time.monotonic() + 0.02)
        for seen in group.history[read:]:
            for trial in open_trials:
                trial.take(seen)
        read = len(group.history)
        over = [trial for trial in open_trials if trial.advance(group)]
        done += over
        open_trials = [trial for trial in open_trials if trial not in over]
    figures["kill"] = kill_figures(done)
    figures["rejoin_s"] = spread(max(trial.seen.values()) for trial in done if len(trial.seen) == len(trial.observers))


def kill_figures(trials: Sequence[Trial]) -> dict[str, Any]:
    """Sum up deaths."""
    times = [t for trial in trials for survivor, t in trial.known.items() if survivor in trial.observers]
    complete = [trial for trial in trials if trial.known.keys() >= trial.observers]
    return {
        "trials": len(trials),
        "never_known": sum(len(trial.observers - trial.known.keys()) for trial in trials),
        "first_s": spread(min(trial.known.values()) for trial in trials if trial.known),
        "last_s": spread(max(trial.known.values()) for trial in complete),
        "p99_s": sorted(times)[min(len(times) - 1, int(0.99 * len(times)))] if times else None,
    }


def measure_leaves(group: Group, figures: dict[str, Any]) -> None:
    """Ask members to leave, one after the other."""
    took: list[float] = []
    for victim in group.victims()[:LEAVES]:
        observers = {node for node in range(group.size) if victim in group.alive[node]} - group.down
        read, asked = len(group.history), time.monotonic()
        group.ask_to_leave(victim)

        def knowers(read: int = read, victim: int = victim) -> dict[int, float]:
            return {seen.observer: seen.t for seen in group.history[read:] if seen.peer == victim and seen.kind in {"left", "failed"}}

        def do_all_know(observers: set[int] = observers, knowers: Callable[[], dict[int, float]] = knowers) -> bool:
            return knowers().keys() >= observers

        if observers and group.pump(asked + SEEN_TIMEOUT_S, do_all_know):
            took.append(max(knowers().values()) - asked)
    figures["leave_s"] = spread(took)


def spread(values: Iterable[float]) -> dict[str, float] | None:
    """Median and greatest; None of nothing."""
    known = list(values)
    return {"median": statistics.median(known), "max": max(known)} if known else None


def lo_counters() -> tuple[int, int]:
    """Bytes and packets that lo of this namespace has carried."""
    for line in Path("/proc/net/dev").read_text("ascii").splitlines():
        name, _, counts = line.partition(":")
        if name.strip() == "lo":
            return int(counts.split()[0]), int(counts.split()[1])
    raise SystemExit("there is no lo in /proc/net/dev")


def busy_s() -> float:
    """CPU time that the whole machine has spent, s: whatever is in it beside the members disturbs them."""
    fields = [int(field) for field in Path("/proc/stat").read_text("ascii").splitlines()[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


# --- telling ------------------------------------------------------------------------------------------------------------


@attrs.frozen
class Line:
    """A line of the table."""

    title: str
    """What it shows."""
    keys: tuple[str, ...]
    """Where its figures are; the last one is compared."""
    unit: str
    """Of its figures."""
    aim: float | None = None
    """Upper bound for srwan at 100 members."""


LINES = (
    Line("programs started: first / all see all", ("started_first_s", "started_all_s"), "s"),
    Line("told to join: first / all see all", ("joined_first_s", "joined_all_s"), "s", 2.0),
    Line("ordered pairs not joined after 30 s", ("pairs_not_joined",), "", 0.0),
    Line("full matrix: first / all members", ("matrix_first_s", "matrix_all_s"), "s", 3.0),
    Line("bytes of joining, total", ("join_mb",), "MB", 4.0),
    Line("CPU of joining, total", ("join_cpu_s",), "s"),
    Line("steady, bytes a member and second", ("bytes_per_s",), "B", 6500.0),
    Line("steady, packets a member and second", ("packets_per_s",), ""),
    Line("steady, CPU a member", ("cpu_percent",), "%", 0.1),
    Line("steady, CPU, all in one process", ("cpu_one_process_percent",), "%", 0.1),
    Line("steady, CPU, one member a process", ("cpu_single_percent",), "%"),
    Line("memory a member", ("rss_mb",), "MB"),
    Line("memory, one member a process", ("rss_single_mb",), "MB"),
    Line("kill -9, first knows: median / max", ("kill.first_s.median", "kill.first_s.max"), "s"),
    Line("kill -9, last knows: median / max", ("kill.last_s.median", "kill.last_s.max"), "s"),
    Line("kill -9, p99 of all survivors", ("kill.p99_s",), "s", 4.5),
    Line("kill -9, survivors that never knew", ("kill.never_known",), "", 0.0),
    Line("false positives", ("false_positives",), "", 0.0),
    Line("rejoin seen by all: median / max", ("rejoin_s.median", "rejoin_s.max"), "s", 1.0),
    Line("leave seen by all: median / max", ("leave_s.median", "leave_s.max"), "s", 0.5),
)


def figure_at(figures: dict[str, Any], key: str) -> float | None:
    """Look up a dotted key."""
    value: Any = figures
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return None if value is None else float(value)


def shown(figures: dict[str, Any], line: Line) -> str:
    """One cell."""
    if line.keys[0].partition(".")[0] not in figures:
        return "-"
    values = [figure_at(figures, key) for key in line.keys]
    numbers = ["-" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}" for value in values]
    return "never" if values[-1] is None else f"{' / '.join(numbers)} {line.unit}".rstrip()


def losses(result: dict[str, Any]) -> list[str]:
    """Say where srwan is worse than Serf, by how much."""
    said = []
    for line in LINES:
        serf, ours = (figure_at(result[name], line.keys[-1]) for name in GROUPS)
        if serf is not None and (ours is None or ours > serf):
            said.append(f"{line.title}: {shown(result['srwan'], line)} against {shown(result['serf'], line)}")
    return said


def print_table(result: dict[str, Any]) -> None:
    """Print both columns."""
    print(f"\n{result['members']} members{'':29}{'serf':>16}{'srwan':>18}{'aim':>10}")
    for line in LINES:
        cells = [shown(result[name], line) if name in result else "-" for name in GROUPS]
        aim = "" if line.aim is None else f"{line.aim:g} {line.unit}".rstrip()
        print(f"{line.title:40}{cells[0]:>16}{cells[1]:>18}{aim:>10}")
    others = max(result[name]["others_cpu_percent"] for name in GROUPS if name in result)
    if others > OTHERS_CPU_PERCENT_MAX:
        print(f"Other programs used {others:.0f} % of a core meanwhile: measure again on an idle machine.")
    if "loses" in result:
        print("srwan loses:" if result["loses"] else "srwan loses nowhere.")
        for sentence in result["loses"]:
            print(f"  {sentence}")


def note(text: str) -> None:
    """Say what is being done, on a terminal in one line."""
    is_terminal = sys.stderr.isatty()
    sys.stderr.write(f"\r\x1b[K{text}" if is_terminal else f"{text}\n")
    sys.stderr.flush()


# --- running ------------------------------------------------------------------------------------------------------------


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Serf and srwan side by side")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--members", default="50,100", help="sizes of the group, with commas between")
    parser.add_argument("--trials", type=int, default=10, help="kills per system and size")
    parser.add_argument("--steady", type=float, default=60.0, help="seconds of steady state")
    parser.add_argument("--systems", default="serf,srwan", help="which to run")
    parser.add_argument("--quick", action="store_true", help="20 members, 2 trials, 5 s: below a minute")
    parser.add_argument("--output", type=Path, help="write JSON here, too")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.members, arguments.trials, arguments.steady = "20", 2, 5.0
    try:
        arguments.members = [int(size) for size in arguments.members.split(",")]
    except ValueError:
        parser.error("--members takes numbers with commas between, for example 50,100")
    if not all(10 <= size <= 250 for size in arguments.members) or arguments.trials < 1 or arguments.steady <= 0:
        parser.error("--members takes 10 to 250 each, --trials at least 1, --steady more than 0")
    arguments.systems = arguments.systems.split(",")
    if not set(arguments.systems) <= set(GROUPS):
        parser.error("--systems takes serf, srwan, or both with a comma between")
    return arguments


def run_outside(systems: Sequence[str]) -> int:
    """Run this program again within namespaces of its own; it ends when its standard input does, whatever becomes of this process."""
    remedies = {"unshare": "util-linux", "ip": "iproute2"} | ({"serf": "serf"} if "serf" in systems else {})
    for program, package in remedies.items():
        if shutil.which(program) is None:
            raise SystemExit(f"`{program}` is not installed; on Debian: apt-get install {package}")
    isolate = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    isolate += [] if os.geteuid() == 0 else ["--map-root-user"]
    tried = subprocess.run([*isolate, "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        raise SystemExit(f"cannot make a network namespace ({tried.stderr.strip()}); run this as root")
    # In a session of its own: Ctrl-C reaches this process alone.
    inside = [*isolate, sys.executable, __file__, *sys.argv[1:], "--inside"]
    with subprocess.Popen(inside, stdin=subprocess.PIPE, start_new_session=True) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            return 130


def end_with_stdin() -> None:
    """Wait until whoever started this is gone; as the first process of its namespace, this one takes all others with it."""
    while os.read(0, 4096):
        pass
    os._exit(130)


def run_inside(arguments: argparse.Namespace) -> int:
    """Measure, then print."""
    threading.Thread(target=end_with_stdin, daemon=True).start()
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    measure_first()
    options = Options(arguments.trials, arguments.steady, QUICK_SETTLE_S if arguments.quick else SETTLE_S)
    started = time.monotonic()
    results: list[dict[str, Any]] = []
    for size in arguments.members:
        result: dict[str, Any] = {"members": size}
        for name in arguments.systems:
            result[name] = measure(GROUPS[name], size, options)
        if len(arguments.systems) == len(GROUPS):
            result["loses"] = losses(result)
        results.append(result)
        note("")
        if not arguments.json:
            print_table(result)
            sys.stdout.flush()
        if arguments.output is not None:  # what is done is not lost if a later part fails
            arguments.output.write_text(json.dumps(_rounded({"results": results}), indent=2) + "\n")
    report = {
        "benchmark": "serf: Debian's serf, LAN profile, and srwan, T = 10 s, in one network namespace",
        "command": f"python benchmarks/serf.py --members {','.join(map(str, arguments.members))} --trials {arguments.trials}",
        "machine": {"cpus": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version(), "load": os.getloadavg()},
        "wall_s": time.monotonic() - started,
        "results": results,
    }
    text = json.dumps(_rounded(report), indent=2)
    if arguments.json:
        print(text)
    if arguments.output is not None:
        arguments.output.write_text(text + "\n")
    return 0


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, (list, tuple)) else value


def main() -> int:
    """Run the benchmark."""
    arguments = parse_arguments()
    try:
        return run_inside(arguments) if arguments.inside else run_outside(arguments.systems)
    except SrwanError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    sys.exit(main())
