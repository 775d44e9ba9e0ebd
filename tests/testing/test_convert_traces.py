"""script/traces: published sets become traces, with their notices, and what has no licence stays outside."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from srwan.testing.latency_trace import load_trace

ROOT = Path(__file__).parents[2]


def convert(sets: Path, output: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "script" / "convert_traces.py"), str(sets), str(output)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_sets_become_traces_with_their_notices(tmp_path: Path) -> None:
    sets, output = tmp_path / "sets", tmp_path / "out"
    sets.mkdir()
    seattle = np.full((3, 3, 3), 10, dtype=np.uint16)
    seattle[1, 0, 1] = 0
    seattle[:, 1, 2] = 0
    seattle[2, 2, 0] = 900
    np.savez(sets / "seattle_part1.npz", rtt_10ms=seattle)
    np.savez(sets / "planetlab_part1.npz", rtt_100us_triu=np.array([[10, 20, 30]], dtype=np.uint16), n=3)
    np.savez(sets / "wondernetwork.npz", rtt_avg=np.ones((3, 3), dtype=np.float32))

    done = convert(sets, output)

    assert 0 == done.returncode, done.stderr
    trace = load_trace(output / "seattle_part1.npz")
    assert (8, 100, 5, 5000) == (trace.hold_slices, trace.rtt_ms[1, 0, 1], trace.rtt_ms[0, 1, 2], trace.rtt_ms[2, 2, 0])
    assert [[0, 1, 2], [1, 0, 3], [2, 3, 0]] == load_trace(output / "planetlab_part1.npz").rtt_ms[0].tolist()
    assert (1, 3, 3) == load_trace(output / "wondernetwork.npz").rtt_ms.shape
    assert ["planetlab_part1.NOTICE.txt", "seattle_part1.NOTICE.txt"] == sorted(path.name for path in output.glob("*.txt"))
    assert "Copyright (c) 2016 uofa-rzhu3" in (output / "seattle_part1.NOTICE.txt").read_text("utf-8")


def test_a_set_without_a_licence_is_not_stored_in_the_repository(tmp_path: Path) -> None:
    np.savez(tmp_path / "wondernetwork.npz", rtt_avg=np.ones((3, 3), dtype=np.float32))
    output = ROOT / "build" / "traces-of-a-test"

    done = convert(tmp_path, output)

    assert 0 == done.returncode
    assert "outside of the repository" in done.stdout
    assert [] == list(output.iterdir())
    output.rmdir()


def test_a_folder_without_sets_is_refused(tmp_path: Path) -> None:
    assert 2 == convert(tmp_path, tmp_path / "out").returncode
