"""Several groups of a simulation at once, each in one of some worker processes.

Groups share nothing, so each worker makes the whole simulation from its options and runs those groups that it is handed. Results come back
in the order of the groups: what is summed and hashed does not depend on who was first.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, MutableSequence
from concurrent.futures import Future, ProcessPoolExecutor
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from srwan.testing.result import GroupResult
    from srwan.testing.swarm import Simulation, SimulationOptions

__all__ = ["run_in_processes"]

LOOK_S = 0.2
"""Between two looks at how far the workers are."""


class _Flag(Protocol):
    value: int


class _Stopped(Exception):
    """The results are not wanted any more."""


_simulation: Simulation
_shares: MutableSequence[float]
_is_stopped: _Flag


def run_in_processes(
    options: SimulationOptions, groups: int, jobs: int, on_progress: Callable[[float], None]
) -> Generator[GroupResult, None, None]:
    """Yield the results of all groups in order. Closing it ends the workers within a simulated second of theirs.

    Args:
        options: of the simulation.
        groups: how many it has.
        jobs: processes at once.
        on_progress: called with the share of all done, 0..1.

    Raises:
        concurrent.futures.process.BrokenProcessPool: a worker was killed.
    """
    context = multiprocessing.get_context("spawn")  # threads, as of a progress bar, do not survive a fork
    shares = context.Array("d", groups, lock=False)
    is_stopped = context.Value("b", 0, lock=False)
    pool = ProcessPoolExecutor(min(jobs, groups), context, _prepare, (options, shares, is_stopped))
    try:
        for future in [pool.submit(_run_group, index) for index in range(groups)]:
            yield _wait(future, lambda: on_progress(sum(shares) / groups))
    finally:
        is_stopped.value = 1
        pool.shutdown(wait=True, cancel_futures=True)


def _wait(future: Future[GroupResult], on_look: Callable[[], None]) -> GroupResult:
    while True:
        on_look()
        try:
            return future.result(timeout=LOOK_S)
        except TimeoutError:
            continue


def _prepare(options: SimulationOptions, shares: MutableSequence[float], is_stopped: _Flag) -> None:
    """In a worker: make the simulation once."""
    global _simulation, _shares, _is_stopped
    from srwan.testing.swarm import Simulation  # noqa: PLC0415 - it imports this module

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the workers
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    _simulation, _shares, _is_stopped = Simulation(options), shares, is_stopped


def _end_with_the_parent() -> None:
    """A parent that was killed told nobody to stop: a worker would go on to the end of its group, and then wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _run_group(index: int) -> GroupResult:
    def note(share: float) -> None:
        if _is_stopped.value:
            raise _Stopped
        _shares[index] = share

    return _simulation.run_group(index, note)
