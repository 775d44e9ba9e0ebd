"""The main job as a user runs it: router processes, congestion, crashes, and nothing left behind."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import trio

from srwan.cli import main
from srwan.demo.script import Demonstration, DemoOptions

ROOT = Path(__file__).parents[2]
TIMES = ("view_agreed_after_s", "matrix_full_after_s", "detected_after_s", "rerouted_after_s", "reporter_takeover_s", "returned_after_s")
TRAFFIC = ("sent", "received", "lost", "duplicated", "reordered", "direct_ms", "relayed_ms", "relay_kill_gap_s")
OTHERS = (
    "versions",
    "routers",
    "processes",
    "matrix_edges",
    "reporter",
    "ditex_records",
    "ditex_verified",
    "events",
    "cpu_s",
    "rss_mb_max",
)
KEYS = {*TIMES, *TRAFFIC, *OTHERS}


def run_demo(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it with a folder of its own for its files, by which its processes are told from those of other tests, too."""
    command = [sys.executable, "-m", "srwan", "demo", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, check=False, env={**os.environ, "TMPDIR": str(folder)})


def left_by(folder: Path) -> list[str]:
    processes = [process.info for process in psutil.process_iter(["pid", "cmdline", "environ"])]
    alive = [" ".join(info["cmdline"] or []) for info in processes if (info["environ"] or {}).get("TMPDIR") == str(folder)]
    return [*alive, *(path.name for path in folder.iterdir())]


def test_the_eight_steps_happen_and_nothing_is_left(tmp_path: Path) -> None:
    done = run_demo(tmp_path, "--json", "--routers", "6", "--seconds", "240")
    assert (0, "") == (done.returncode, done.stderr)
    result = json.loads(done.stdout)
    assert set() == KEYS - set(result)
    assert (6, 6, 30) == (result["routers"], result["processes"], result["matrix_edges"])
    assert result["ditex_records"] == result["ditex_verified"] >= 13
    assert 0 == result["duplicated"]
    assert result["received"] + result["lost"] == result["sent"]
    assert result["relayed_ms"] < result["direct_ms"] + 75 < result["congested_direct_ms"]
    kinds = [event["kind"] for event in result["events"]]
    first = [kinds.index(kind) for kind in ("PathDegraded", "PathSwitched", "DirectRestored")]
    assert first == sorted(first)
    assert "PathDied" in kinds[first[0] :]
    assert 0 <= result["reporter_takeover_s"] < 60  # by a standby, or by the next epoch's reporter if the minute ended then
    assert any("direct" in event["detail"] and "via" in event["detail"] for event in result["events"] if event["kind"] == "PathSwitched")
    assert result["settled"] == result["claims"] >= 1
    assert 0 == result["refused"]
    assert result["paid"] == result["escrow_before"] - result["escrow_after"] == sum(result["earned"].values()) + result["fees"] > 0
    assert result["conserved"]
    assert [] == left_by(tmp_path)


class KillsTwoCarriers(Demonstration):
    """A demonstration in which the path that took over loses its relay, too."""

    second = ""

    async def _kill_reporter(self) -> None:
        await trio.sleep(5.0)  # receipts come every two seconds: it is owed something now
        self.second = self._relays_in_use(0.0)[0]
        self.processes[self._index_of(self.second)].kill()
        await trio.sleep(3.0)  # a third relay carries
        await super()._kill_reporter()


@pytest.mark.slow
async def test_every_relay_that_was_killed_while_it_carried_is_paid() -> None:
    """The reporter may be the relay in use: it was killed, not started again, and nobody else could claim what it was owed."""
    demonstration = KillsTwoCarriers(DemoOptions(routers=6, seconds=240.0), lambda *_: None)

    result = await demonstration.run()

    assert demonstration.second in result["earned"]
    assert result["settled"] == result["claims"] >= 2
    assert result["conserved"]


@contextmanager
def anvil() -> Iterator[str]:
    """A development node that makes a block when it has a transaction, and none besides; its URL once it answers."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen([ROOT / "script" / "anvil", "--port", str(port), "--silent"])
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.slow
@pytest.mark.needs("etcd", "anvil")
def test_a_cluster_and_a_node_without_a_clock_of_its_own_settle_the_same(tmp_path: Path) -> None:
    with anvil() as url:
        done = run_demo(tmp_path, "--json", "--routers", "6", "--seconds", "240", "--etcd", "--evm", url)
    assert (0, "") == (done.returncode, done.stderr)
    result = json.loads(done.stdout)
    assert result["settled"] == result["claims"] >= 1
    assert 0 == result["refused"]
    assert result["conserved"]
    assert [] == left_by(tmp_path)


@pytest.mark.slow
def test_without_congestion_traffic_stays_direct(tmp_path: Path) -> None:
    done = run_demo(tmp_path, "--json", "--routers", "6", "--seconds", "240", "--no-congestion")
    assert (0, "") == (done.returncode, done.stderr)
    result = json.loads(done.stdout)
    assert [] == [event for event in result["events"] if event["kind"] == "PathSwitched"]
    assert "rerouted_after_s" not in result
    assert (0, 0, True) == (result["settled"], result["paid"], result["conserved"])
    assert result["lost"] <= result["sent"] * 0.02


@pytest.mark.slow
def test_running_out_of_time_is_a_failure_with_a_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    done = run_demo(tmp_path, "--routers", "5", "--seconds", "10", "--json")
    assert 1 == done.returncode
    assert "not finished after 10 s" in done.stderr
    assert "failed" in json.loads(done.stdout)
    assert [] == left_by(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "word"), [(["--routers", "4"], "5..19"), (["--routers", "20"], "5..19"), (["--seconds", "1"], "10..3600")]
)
def test_numbers_out_of_range_are_refused(arguments: list[str], word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert 2 == main(["demo", *arguments])
    assert word in capsys.readouterr().err
