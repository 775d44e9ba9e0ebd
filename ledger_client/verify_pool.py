"""Checking the signatures of batches in processes of their own, for hosts that take in much.

Theory of operation. Threads check side by side only while libsodium computes; parsing, SQL and the event loop take turns at the
interpreter's lock. Worker processes (`verify_worker`) have locks of their own. A batch is cut into slices; each waits for a free worker, is
asked over a pipe, and its answer says of every record whether it is good, or why not (`verify_slice`). No record comes back. Workers are
started when the first large batch comes and stay; a worker holds 34 MB and takes 0.3 s to start, for which that batch waits.

A worker is not relied on. If it ends, answers what is no answer, or nothing in time, it is killed, the slice is checked in this process,
and another takes its place: at once a few times, then one every RESTART_S. So nothing is lost, nothing is taken in unchecked, and
a host on which no worker can run does what it would have done without.

Workers end with their standard input, that is with this process, however it ends. They have a session of their own, so that Ctrl-C does
not reach them; of the environment they get what Python needs to start, so that no secret in it passes, and they look for modules where
this process does.

Not here: what is checked (`record`), the encoding (`verify_slice`). Shell: processes, pipes.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial
from types import TracebackType
from typing import Self

import attrs
import trio

from srwan.errors import DecodeError, RemoteProtocolError
from srwan.ledger_client.record import Record
from srwan.ledger_client.verify_batch import PARALLEL_RECORDS_MIN, refusals_in_threads
from srwan.ledger_client.verify_slice import FRAME_BYTES_MAX, LENGTH_BYTES, open_answer, question_of, refusals_of

__all__ = ["PROCESSES_DEFAULT_MAX", "PROCESSES_MAX", "VerifyPool", "default_processes"]

PROCESSES_MAX = 64
PROCESSES_DEFAULT_MAX = 4
"""What one store writes, some 50,000 records a second, as many workers check."""
SLICE_RECORDS_MIN, SLICE_RECORDS_MAX = 50, 250
"""A batch is cut into as many slices as there are workers, within these bounds: 5 ms of work, and 25 ms."""
SLICE_BYTES_MAX = FRAME_BYTES_MAX // 2
"""Of envelopes; a longer slice is checked in this process. 250 of the longest kind that may pass at all are 8.3 MB."""
ANSWER_S_MAX = 10.0
"""A worker that has not answered a slice by then is given up, s: 500 times what it takes, for hosts that are loaded many times over."""
RESTART_S = 10.0
"""Time from one replacement of a worker to the next, s, once as many were replaced as there are places: a start costs 0.3 s of a core."""
_RECEIVE_BYTES = 1 << 16
_COMMAND = (sys.executable, "-P", "-m", "srwan.ledger_client.verify_worker")
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "PYTHONHOME", "PYTHONUSERBASE", "HOME")
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

log = logging.getLogger("srwan.ledger_client")


def default_processes() -> int:
    """Return how many processes suit a host that is there to take records in: one a core, up to PROCESSES_DEFAULT_MAX; of one core none."""
    cores = os.cpu_count() or 1
    return min(cores, PROCESSES_DEFAULT_MAX) if cores > 1 else 0


class _WorkerFailed(Exception):
    """A slice was not answered; `args[0]` is the reason under which it is counted."""


@attrs.define(eq=False)
class _Worker:
    """One process. Used by one slice at a time."""

    process: trio.Process
    asked: int = 0
    """Questions so far; numbers them."""

    async def refusals(self, records: Sequence[Record], wall_ns: int, start: int) -> dict[int, RemoteProtocolError]:
        """Ask about a slice that fits a frame; afterwards, unless it returns, the worker is of no more use.

        Raises:
            _WorkerFailed: it ended, was late, or answered garbage.
        """
        self.asked += 1
        question = question_of(self.asked, records, wall_ns)
        assert self.process.stdin is not None
        try:
            with trio.fail_after(ANSWER_S_MAX):
                await self.process.stdin.send_all(question)
                size = int.from_bytes(await self._receive(LENGTH_BYTES), "big")
                if size > FRAME_BYTES_MAX:
                    raise _WorkerFailed("garbage")
                answer = await self._receive(size)
            return open_answer(answer, self.asked, len(records), start)
        except DecodeError:
            raise _WorkerFailed("garbage") from None
        except trio.TooSlowError:
            raise _WorkerFailed("late") from None
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise _WorkerFailed("ended") from None

    async def _receive(self, size: int) -> bytes:
        assert self.process.stdout is not None
        found = bytearray()
        while len(found) < size:
            chunk = await self.process.stdout.receive_some(min(size - len(found), _RECEIVE_BYTES))
            if not chunk:
                raise _WorkerFailed("ended")
            found += chunk
        return bytes(found)

    async def end(self) -> None:
        """Kill it and wait until it is gone. It holds nothing worth an orderly end."""
        with trio.CancelScope(shield=True):
            self.process.kill()
            await self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                assert pipe is not None
                await pipe.aclose()


class VerifyPool:
    """Worker processes that check batches. Use it as an async context manager, or close it with `aclose`.

    Args:
        processes: most workers, 1..PROCESSES_MAX; as many as there are cores is right for a host that does nothing else.

    Raises:
        ValueError: processes is out of range.
    """

    def __init__(self, processes: int) -> None:
        if not 1 <= processes <= PROCESSES_MAX:
            raise ValueError(f"a pool has 1..{PROCESSES_MAX} processes, not {processes}")
        self.failed: Counter[str] = Counter()
        """Slices checked in this process after all, by reason: "ended", "late", "garbage", "unstartable", "waiting" (for a worker)."""
        self._command: Sequence[str] = _COMMAND
        self._free = trio.Semaphore(processes, max_value=processes)
        self._idle: list[_Worker] = []
        self._workers: set[_Worker] = set()
        self._processes = processes
        self._starts = 2.0 * processes
        self._counted_at_s = 0.0
        self._is_closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    @property
    def process_ids(self) -> tuple[int, ...]:
        """Of the workers there are now."""
        return tuple(sorted(worker.process.pid for worker in self._workers))

    async def refusals(self, records: Sequence[Record], wall_ns: int) -> dict[int, RemoteProtocolError]:
        """Do `record.check` for each and return those that must not be stored, by place, with the reason. After `aclose`: in this process.

        Args:
            records: a batch.
            wall_ns: wall time now, ns since 1970.

        Cost: benchmarks/ledger_stores.py, "verify_pool".
        """
        if len(records) < PARALLEL_RECORDS_MIN:
            return await refusals_in_threads(records, wall_ns)
        refused: dict[int, RemoteProtocolError] = {}
        slices = max(-(-len(records) // SLICE_RECORDS_MAX), min(self._processes, len(records) // SLICE_RECORDS_MIN))
        size = -(-len(records) // slices)

        async def run(start: int) -> None:
            refused.update(await self._refusals_of_slice(records[start : start + size], wall_ns, start))

        async with trio.open_nursery() as nursery:
            for start in range(0, len(records), size):
                nursery.start_soon(run, start)
        return refused

    async def aclose(self) -> None:
        """End all workers; slices under way are then checked in this process. Closing twice is fine."""
        self._is_closed = True
        self._idle.clear()
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                for worker in self._workers:
                    nursery.start_soon(worker.end)
        self._workers.clear()

    async def _refusals_of_slice(self, records: Sequence[Record], wall_ns: int, start: int) -> dict[int, RemoteProtocolError]:
        if sum(len(record.envelope) for record in records) <= SLICE_BYTES_MAX:
            try:
                async with self._free:
                    return await self._refusals_by_worker(records, wall_ns, start)
            except _WorkerFailed as error:
                if not self._is_closed:
                    self.failed[error.args[0]] += 1
        return await trio.to_thread.run_sync(partial(refusals_of, records, wall_ns, start))

    async def _refusals_by_worker(self, records: Sequence[Record], wall_ns: int, start: int) -> dict[int, RemoteProtocolError]:
        worker = self._idle.pop() if self._idle else await self._start()  # there are as many places as workers
        try:
            refused = await worker.refusals(records, wall_ns, start)
        except BaseException as error:  # cancelled too: an answer is still to come, or half a question went
            if isinstance(error, _WorkerFailed) and not self._is_closed:
                log.warning("a process that checks signatures is replaced: %s", error)
            await worker.end()
            self._workers.discard(worker)
            raise
        if not self._is_closed:
            self._idle.append(worker)
        return refused

    async def _start(self) -> _Worker:
        """Start a worker, if one may be started now."""
        if self._is_closed:
            raise _WorkerFailed("closed")
        if not self._may_start():
            raise _WorkerFailed("waiting")
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))  # the code that checks there is the code that checks here
        try:
            process = await trio.lowlevel.open_process(
                list(self._command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
                env={**environment, **_ONE_THREAD},
            )
        except (OSError, ValueError) as error:
            log.warning("a process that checks signatures cannot be started: %s", error)
            raise _WorkerFailed("unstartable") from None
        worker = _Worker(process)
        self._workers.add(worker)
        if self._is_closed:  # meanwhile
            await worker.end()
            self._workers.discard(worker)
            raise _WorkerFailed("closed")
        return worker

    def _may_start(self) -> bool:
        """Take one of the starts that are left: at most two for each place, of which one comes back every RESTART_S."""
        now_s = trio.current_time()
        self._starts = min(2.0 * self._processes, self._starts + (now_s - self._counted_at_s) / RESTART_S)
        self._counted_at_s = now_s
        if self._starts < 1:
            return False
        self._starts -= 1
        return True
