"""Router processes: started, killed, stopped, and gone with their supervisor."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import trio

from srwan.swarm.supervisor import Event, RouterProcess, open_swarm


def settings(folder: Path, index: int = 0) -> dict[str, Any]:
    return {
        "index": index,
        "routers": 2,
        "seed": 1,
        "network": f"test-{os.getpid()}",
        "addresses": ["127.78.0.1", "127.78.0.2"],
        "bootstrap": [],
        "state_dir": str(folder / str(index)),
        "ditex": str(folder / "ditex.sqlite"),
        "clock_offset_s": 2.0,
        "clock_drift_ppm": 20.0,
    }


async def test_a_router_comes_up_answers_and_stops_cleanly(tmp_path: Path) -> None:
    events: list[Event] = []
    changed = trio.Event()

    def on_event(_router: RouterProcess, event: Event) -> None:
        nonlocal changed
        events.append(event)
        changed.set()
        changed = trio.Event()

    with trio.fail_after(90):
        async with open_swarm(on_event) as swarm:
            router = await swarm.start(settings(tmp_path))
            while not any(event["kind"] == "ViewChanged" for event in events):
                await changed.wait()
            await router.command("status")
            while not any(event["kind"] == "status" for event in events):
                await changed.wait()
            router.sample_usage()
            assert router.cpu_s > 0.1
            assert router.rss_mb > 20
    assert not router.is_running
    assert [] == router.errors
    assert 0 == next(event["code"] for event in events if event["kind"] == "exit")
    status = next(event for event in events if event["kind"] == "status")
    assert "eu-central-1" == status["name"]


async def test_a_router_that_cannot_start_says_why(tmp_path: Path) -> None:
    events: list[Event] = []
    ended = trio.Event()

    def on_event(_router: RouterProcess, event: Event) -> None:
        events.append(event)
        if event["kind"] == "exit":
            ended.set()

    bad = settings(tmp_path) | {"addresses": ["203.0.113.1", "127.78.0.2"]}
    with trio.fail_after(60):
        async with open_swarm(on_event) as swarm:
            router = await swarm.start(bad)
            await ended.wait()
    assert 0 != router.process.returncode
    assert "not an address of this host" in "\n".join(router.errors)


def test_a_killed_supervisor_leaves_no_router(tmp_path: Path) -> None:
    program = (
        "import json, sys, trio\n"
        "from srwan.swarm.supervisor import open_swarm\n"
        "async def main():\n"
        "    async with open_swarm(lambda r, e: print(r.process.pid, e['kind'], flush=True)) as swarm:\n"
        "        await swarm.start(json.loads(sys.argv[1]))\n"
        "        await trio.sleep_forever()\n"
        "trio.run(main)\n"
    )
    command = [sys.executable, "-c", program, json.dumps(settings(tmp_path))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        pid = int(supervisor.stdout.readline().split()[0])
        worker = psutil.Process(pid)
        supervisor.send_signal(signal.SIGKILL)
    worker.wait(timeout=30)
    assert not psutil.pid_exists(pid)


async def test_the_users_error_comes_out_of_the_swarm_unwrapped() -> None:
    with pytest.raises(KeyError, match="mine"):
        async with open_swarm(lambda *_: None):
            raise KeyError("mine")
