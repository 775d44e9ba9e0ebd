"""The benchmark of floods: it runs, and a router counts what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[1] / "benchmarks/floods.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(PROGRAM), *arguments], capture_output=True, text=True, check=False, timeout=100)


@pytest.mark.slow
def test_every_bad_packet_of_a_flood_is_counted() -> None:
    done = run("--json", "--repetitions", "1", "--seconds", "0.5", "--flood", "1000", "--planes", "portable")
    assert 0 == done.returncode, done.stderr
    kinds = json.loads(done.stdout)["planes"]["portable"]

    assert {"noise", "strangers", "replays", "forged", "headers"} == kinds.keys()
    assert 0.85 < min(figures["counted"]["median"] for figures in kinds.values())  # the first 64 replays are none
    assert 1.05 > max(figures["counted"]["median"] for figures in kinds.values())


def test_an_unknown_data_plane_is_named() -> None:
    done = run("--planes", "quantum")
    assert (2, True) == (done.returncode, "quantum" in done.stderr)
