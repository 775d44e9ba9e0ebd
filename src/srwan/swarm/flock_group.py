"""Groups of members in real processes, for measuring: started, told, watched and killed from one loop, whatever system they run.

`Group` holds what every system under test has in common: processes with a pipe at either end, what their members have told so far, kill -9,
and an end that leaves nothing behind. `FlockGroup` is srwan's: the programs of `srwan.swarm.flock`, most of them of many routers, and some
of a single one, which are those that can be killed. Another system is another subclass (benchmarks/serf.py has Serf's).

One thread, `selectors`, no Trio: whoever measures a hundred processes on two cores should itself need next to nothing, and that at once.
So `measure_first` puts it before all others: without, Serf's log was read up to 5 s late while 100 agents started (measured).
"""

from __future__ import annotations

import abc
import contextlib
import fcntl
import itertools
import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import attrs

from srwan.swarm.supervisor import SwarmError

__all__ = ["FlockGroup", "Group", "Program", "Seen", "measure_first"]

PER_PROCESS = 24
"""Routers of srwan in one process; with the four that can be killed, 100 make 4 processes and 4 single ones."""
VICTIMS = 4
PIPE_BYTES = 1 << 20
"""Of standard output: a program that has to wait until its events are read would be measured slower than it is."""
OUTPUT_BYTES_SHOWN = 2000
"""Of a program that ended by itself: the last of what it printed."""


@attrs.frozen(slots=True)
class Seen:
    """What one member came to know."""

    t: float
    """Monotonic seconds."""
    observer: int
    """Index of the member."""
    kind: str
    """"joined", "failed", "left" or "matrix"."""
    peer: int
    """Index of the member it is about; "matrix" is about the observer."""


@attrs.define(eq=False)
class Program:
    """One process of a system under test."""

    popen: subprocess.Popen[bytes]
    nodes: Sequence[int]
    """The members it holds."""
    buffer: bytes = b""
    """What it printed of a line that is not complete yet."""
    tail: bytes = b""
    """The last of what it printed."""
    is_up: bool = False
    """It is ready to join."""

    def say(self, **command: Any) -> None:
        """Write a command line to its standard input."""
        assert self.popen.stdin is not None
        self.popen.stdin.write(json.dumps(command).encode() + b"\n")
        self.popen.stdin.flush()

    def cpu_s(self) -> float:
        """User and system time so far."""
        fields = Path(f"/proc/{self.popen.pid}/stat").read_text("ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_mb(self) -> float:
        """Resident memory now, MB (10^6 bytes)."""
        return int(Path(f"/proc/{self.popen.pid}/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def measure_first() -> None:
    """Let this process run before all that it starts, where the system allows it; its children run as usual."""
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))


class Group(abc.ABC):
    """The members of one system: their processes, and what they have told. A context; no process is left after it.

    Args:
        size: members, named by their indices 0 to size - 1; the others join through member 0.
    """

    name = ""

    def __init__(self, size: int) -> None:
        self.size = size
        self.programs: list[Program] = []
        """Those that were not killed."""
        self.home: dict[int, Program] = {}
        """The program that holds each member."""
        self.alive: list[set[int]] = [set() for _ in range(size)]
        """Whom each member believes alive, itself not included."""
        self.down: set[int] = set()
        """Members that were killed or asked to leave, and not started again."""
        self.history: list[Seen] = []
        """All that was told, as it came."""
        self.false_positives = 0
        """How often a member was said to have failed that was not down."""
        self._selector = selectors.DefaultSelector()
        self._started: list[Program] = []
        self._pairs = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.end()

    # what each system does its own way

    @abc.abstractmethod
    def start(self, *, is_joining: bool) -> None:
        """Start all programs; with is_joining each joins as soon as it can."""

    @abc.abstractmethod
    def join_all(self) -> None:
        """Tell all to join, at once."""

    @abc.abstractmethod
    def restart(self, node: int) -> None:
        """Start a killed member again, and have it join."""

    @abc.abstractmethod
    def ask_to_leave(self, node: int) -> None:
        """Have a member say goodbye and end."""

    @abc.abstractmethod
    def victims(self) -> list[int]:
        """Members that can be killed one by one, in the order of their deaths."""

    @abc.abstractmethod
    def parse(self, program: Program, line: bytes, t: float) -> None:
        """Take a line that a program printed, read at `t` (monotonic seconds)."""

    # what all do alike

    def launch(self, command: list[str], nodes: Sequence[int]) -> Program:
        """Start a program that holds these members."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        popen = subprocess.Popen(  # noqa: S603 - the command is the subclass's, no shell
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, bufsize=0
        )
        program = Program(popen, nodes)
        assert popen.stdout is not None
        os.set_blocking(popen.stdout.fileno(), False)
        fcntl.fcntl(popen.stdout, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._selector.register(popen.stdout, selectors.EVENT_READ, program)
        self.programs.append(program)
        self._started.append(program)
        self.home.update(dict.fromkeys(nodes, program))
        for node in nodes:
            self._pairs -= len(self.alive[node])
            self.alive[node].clear()
        return program

    def kill(self, node: int) -> float:
        """Kill -9 a member that has a process of its own; return when, monotonic seconds."""
        program = self.home[node]
        assert len(program.nodes) == 1, "its process holds others too"
        self.down.add(node)
        killed_at = time.monotonic()
        program.popen.kill()
        program.popen.wait()
        self.programs.remove(program)
        return killed_at

    def end(self) -> None:
        """End all processes of this group."""
        for program in self.programs:
            program.popen.kill()
        for program in self.programs:
            program.popen.wait()
        self._selector.close()
        for program in self._started:
            for pipe in (program.popen.stdin, program.popen.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()

    def pump(self, until: float, is_done: Callable[[], bool] = lambda: False) -> bool:
        """Take what the programs tell until a time (monotonic seconds), or until something is so; say whether it is.

        Raises:
            SwarmError: a program ended by itself.
        """
        while not is_done():
            now = time.monotonic()
            if now >= until:
                return False
            for key, _ in self._selector.select(until - now):
                self._read(key.data)
        return True

    def see(self, t: float, observer: int, kind: str, peer: int) -> None:
        """Note what a member came to know."""
        known = self.alive[observer]
        before = len(known)
        if kind == "joined":
            known.add(peer)
        elif kind in {"failed", "left"}:
            known.discard(peer)
            self.false_positives += kind == "failed" and peer not in self.down
        self._pairs += len(known) - before
        self.history.append(Seen(t, observer, kind, peer))

    def is_together(self) -> bool:
        """Whether every member sees every other."""
        return self._pairs == self.size * (self.size - 1)

    def is_up(self) -> bool:
        """Whether all programs are ready."""
        return len(self.home) == self.size and all(program.is_up for program in self.programs)

    def _read(self, program: Program) -> None:
        assert program.popen.stdout is not None
        chunk = os.read(program.popen.stdout.fileno(), 1 << 16)
        t = time.monotonic()
        if not chunk:
            self._selector.unregister(program.popen.stdout)
            program.popen.stdout.close()
            if program in self.programs and not self.down.issuperset(program.nodes):
                raise SwarmError(f"{self.name}: the program of member {program.nodes[0]} ended: {program.tail.decode(errors='replace')}")
            return
        program.tail = (program.tail + chunk)[-OUTPUT_BYTES_SHOWN:]
        *lines, program.buffer = (program.buffer + chunk).split(b"\n")
        for line in lines:
            self.parse(program, line, t)


class FlockGroup(Group):
    """Routers' control planes: most many to a process, the victims each in a process of its own.

    Args:
        size: as for `Group`, more than `victims`.
        victims: how many have a process of their own, the last ones.
        per_process: the others' share, at most.
        settings: of the programs, beside those that differ among them: `period_s`, `subnet`, `port`, `network`.
    """

    name = "srwan"

    def __init__(self, size: int, *, victims: int = VICTIMS, per_process: int = PER_PROCESS, **settings: Any) -> None:
        super().__init__(size)
        self._shared = size - victims
        self._per_process = per_process
        self._settings = settings
        self._certificate = ""
        self._is_joining = False

    def start(self, *, is_joining: bool) -> None:
        """Start all processes at once."""
        self._is_joining = is_joining
        processes = -(-self._shared // self._per_process)
        bounds = [self._shared * i // processes for i in range(processes + 1)]
        for first, end in itertools.pairwise(bounds):
            self._launch_flock(range(first, end))
        for node in range(self._shared, self.size):
            self._launch_flock([node])

    def join_all(self) -> None:
        """Hand all the certificate of the first router."""
        self._is_joining = True
        for program in self.programs:
            program.say(do="join", certificate=self._certificate)

    def restart(self, node: int) -> None:
        """Start a router again, under its old identity."""
        self.down.discard(node)
        self._launch_flock([node])

    def ask_to_leave(self, node: int) -> None:
        """Have a router say LEAVE."""
        self.down.add(node)
        self.home[node].say(do="leave", node=node)

    def victims(self) -> list[int]:
        """Those in processes of their own."""
        return list(range(self.size - 1, self._shared - 1, -1))

    def parse(self, program: Program, line: bytes, t: float) -> None:  # noqa: ARG002 - the routers stamp their events themselves
        """Take an event line; anything else is an error message and goes to standard error."""
        if not line.startswith(b"{"):
            sys.stderr.write(f"{self.name}: {line.decode(errors='replace')}\n")
            return
        event = json.loads(line)
        match event:
            case {"kind": "joined" | "left" as kind, "node": node, "peer": peer}:
                self.see(event["t"], node, kind, peer)
            case {"kind": "failed" | "expired", "node": node, "peer": peer}:
                self.see(event["t"], node, "failed", peer)
            case {"kind": "matrix", "node": node, "members": self.size}:
                self.see(event["t"], node, "matrix", node)
            case {"kind": "up", "certificate": certificate}:
                self._note_up(program, certificate)
            case _:
                pass

    def _note_up(self, program: Program, certificate: str) -> None:
        """A program is ready; if it may join already, or if others now may because it holds the first router, they do."""
        program.is_up = True
        if 0 in program.nodes:
            self._certificate = certificate
        if self._is_joining and self._certificate:
            for each in self.programs if 0 in program.nodes else [program]:
                if each.is_up:
                    each.say(do="join", certificate=self._certificate)

    def _launch_flock(self, nodes: Sequence[int]) -> Program:
        program = self.launch([sys.executable, "-m", "srwan.swarm.flock"], nodes)
        program.say(first=nodes[0], count=len(nodes), **{"seed": self.size} | self._settings)
        return program
