"""Groups of a simulation in worker processes: the same results, and nothing left."""

from __future__ import annotations

import subprocess
import sys
import time

import attrs
import psutil
import pytest

from srwan.errors import ConfigError
from srwan.testing.jobs import run_in_processes
from srwan.testing.swarm import Simulation, SimulationOptions, simulate

OPTIONS = SimulationOptions(nodes=101, minutes=0.01, seed=5)
"""Two groups."""


def test_several_processes_give_what_one_gives() -> None:
    shares: list[float] = []
    alone = attrs.asdict(simulate(OPTIONS))
    together = attrs.asdict(simulate(OPTIONS, shares.append, jobs=8))
    for result in (alone, together):
        for measured in ("wall_s", "events_per_s", "rss_mb"):
            assert result.pop(measured) > 0
    assert alone == together
    assert sorted(shares) == shares
    assert 0.0 <= shares[0] <= shares[-1] <= 1.0


def test_results_that_are_not_wanted_end_the_workers() -> None:
    options = attrs.evolve(OPTIONS, minutes=600.0)
    before = {child.pid for child in psutil.Process().children(recursive=True)}

    def stop(_: float) -> None:
        raise KeyboardInterrupt

    results = run_in_processes(options, len(Simulation(options).groups), 2, stop)
    with pytest.raises(KeyboardInterrupt):
        next(results)
    left = [child for child in psutil.Process().children(recursive=True) if child.pid not in before and child.status() != "zombie"]
    assert [] == [child for child in left if "resource_tracker" not in " ".join(child.cmdline())]


@pytest.mark.parametrize("jobs", [0, -1, 100_000])
def test_a_number_of_processes_out_of_range_is_refused(jobs: int) -> None:
    with pytest.raises(ConfigError, match="jobs"):
        simulate(OPTIONS, jobs=jobs)


def test_a_parent_that_is_killed_leaves_no_worker() -> None:
    code = "from srwan.testing.swarm import *; simulate(SimulationOptions(nodes=101, minutes=600.0), jobs=2)"
    parent = subprocess.Popen([sys.executable, "-c", code])
    workers: list[psutil.Process] = []
    try:
        deadline = time.monotonic() + 30
        while len(workers) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
            workers = [child for child in psutil.Process(parent.pid).children() if "spawn_main" in " ".join(child.cmdline())]
        assert len(workers) == 2
    finally:
        parent.kill()
        parent.wait()
    gone, alive = psutil.wait_procs(workers, timeout=10)
    for worker in alive:
        worker.kill()
    assert (2, []) == (len(gone), alive)
