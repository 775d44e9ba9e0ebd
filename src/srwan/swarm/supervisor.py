"""Starts router processes, talks to them in JSON lines, accounts for them, and leaves none behind.

One process per router: `python -m srwan.swarm.worker`. The first line on its standard input is its setting; later lines are commands; each
line on its standard output is an event with the machine-wide monotonic time at which it happened. A router whose standard input ends
stops by itself, so even a supervisor killed with SIGKILL leaves no process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from srwan.errors import SrwanError
from srwan.sole_error import sole_error

__all__ = ["Event", "RouterProcess", "Swarm", "SwarmError", "open_swarm"]

LINE_BYTES_MAX = 4 << 20
"""Longest event line: the arrival log of a stream of some minutes."""
STOP_TIMEOUT_S = 5.0
STDERR_LINES_KEPT = 40


class SwarmError(SrwanError):
    """A router process could not be started, or ended when it should not. The others still run until the swarm is closed."""


Event = dict[str, Any]


class RouterProcess:
    """A router in its own process. Made by `Swarm.start`."""

    def __init__(self, index: int, process: trio.Process, on_event: Callable[[RouterProcess, Event], None]) -> None:
        self.index = index
        self.process = process
        self.cpu_s = 0.0
        """User and system time so far, seconds; sampled by `sample_usage` and at the end."""
        self.rss_mb = 0.0
        """Resident memory at the last sample, MB (10^6 bytes)."""
        self.is_killed = False
        self.errors: list[str] = []
        """Last lines of its standard error."""
        self._on_event = on_event

    @property
    def is_running(self) -> bool:
        """Whether the process has not ended yet."""
        return self.process.returncode is None

    async def command(self, do: str, **arguments: Any) -> None:
        """Send a command; a router that has ended meanwhile is no error."""
        if not self.is_running or self.process.stdin is None:
            return
        try:
            await self.process.stdin.send_all(json.dumps({"do": do, **arguments}).encode() + b"\n")
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return

    def kill(self) -> None:
        """SIGKILL: as a crash. The process gets no chance to say good-bye."""
        self.sample_usage()
        self.is_killed = True
        self.process.send_signal(signal.SIGKILL)

    def sample_usage(self) -> None:
        """Read CPU time and memory from /proc; where there is none, keep the last values."""
        try:
            stat = Path(f"/proc/{self.process.pid}/stat").read_text("ascii").rpartition(")")[2].split()
        except OSError:
            return
        cpu_s = (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")
        if cpu_s > 0:
            self.cpu_s = cpu_s
            self.rss_mb = max(self.rss_mb, int(stat[21]) * os.sysconf("SC_PAGE_SIZE") / 1e6)

    async def _run(self) -> None:
        """Read what the router prints until it ends. Shielded: nothing it printed is lost, and it is stopped by the swarm."""
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read_events)
                nursery.start_soon(self._read_errors)
                await self.process.wait()
            assert self.process.stdin is not None
            await self.process.stdin.aclose()
        self._on_event(self, {"kind": "exit", "t": time.monotonic(), "code": self.process.returncode})

    async def _read_events(self) -> None:
        assert self.process.stdout is not None
        async with self.process.stdout as stdout:
            async for line in _lines(stdout):
                self._on_event(self, json.loads(line))

    async def _read_errors(self) -> None:
        assert self.process.stderr is not None
        async with self.process.stderr as stderr:
            async for line in _lines(stderr):
                self.errors = [*self.errors, line.decode("utf-8", "replace")][-STDERR_LINES_KEPT:]

    async def _stop(self) -> None:
        await self.command("stop")
        self.sample_usage()
        with trio.move_on_after(STOP_TIMEOUT_S):
            await self.process.wait()
        if self.is_running:
            self.process.kill()
            await self.process.wait()


async def _lines(stream: trio.abc.ReceiveStream) -> AsyncIterator[bytes]:
    buffer = bytearray()
    async for chunk in stream:
        buffer += chunk
        while (end := buffer.find(b"\n")) >= 0:
            yield bytes(buffer[:end])
            del buffer[: end + 1]
        if len(buffer) > LINE_BYTES_MAX:
            raise SwarmError(f"a router printed a line of over {LINE_BYTES_MAX} bytes")


class Swarm:
    """Router processes that live as long as the block of `open_swarm`."""

    def __init__(self, nursery: trio.Nursery, on_event: Callable[[RouterProcess, Event], None]) -> None:
        self.routers: list[RouterProcess] = []
        """By index; the running one of those that were started again."""
        self.ended: list[RouterProcess] = []
        """Those in whose place another was started."""
        self._nursery = nursery
        self._on_event = on_event

    async def start(self, settings: dict[str, Any], *, instead_of: RouterProcess | None = None) -> RouterProcess:
        """Start a router and return once it has its settings; it tells with an "up" event when it listens.

        Args:
            settings: fields of `srwan.swarm.worker.Settings`, JSON values.
            instead_of: a router that has ended, whose index it takes.
        """
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "srwan.swarm.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C reaches the supervisor alone, which then stops the routers in order
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        if instead_of is None:
            router = RouterProcess(len(self.routers), process, self._on_event)
            self.routers.append(router)
        else:
            router = RouterProcess(instead_of.index, process, self._on_event)
            self.ended.append(instead_of)
            self.routers[router.index] = router
        self._nursery.start_soon(router._run)
        assert process.stdin is not None
        await process.stdin.send_all(json.dumps(settings).encode() + b"\n")
        return router

    async def _stop(self) -> None:
        """Stop all routers at once: asked first, killed after STOP_TIMEOUT_S."""
        async with trio.open_nursery() as nursery:
            for router in self.routers:
                nursery.start_soon(router._stop)


@asynccontextmanager
async def open_swarm(on_event: Callable[[RouterProcess, Event], None]) -> AsyncIterator[Swarm]:
    """Run router processes for the duration of the block; none is left after it, whatever happened in it.

    Args:
        on_event: called for each event that a router prints, and with kind "exit" when it ended.
    """
    with sole_error():
        async with trio.open_nursery() as nursery:
            swarm = Swarm(nursery, on_event)
            try:
                yield swarm
            finally:
                with trio.CancelScope(shield=True):
                    await swarm._stop()
