"""`srwan replay` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from srwan.cli import main


def trace_file(folder: Path, n: int = 6) -> Path:
    rng = np.random.default_rng(2)
    rtt_ms = (rng.uniform(10, 100, (n, n)) * rng.uniform(0.98, 1.02, (10, n, n))).astype(np.float32)
    path = folder / "trace.npz"
    np.savez(path, rtt_ms=rtt_ms, name=np.array("six places"))
    return path


def test_the_figures_come_as_one_json_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == main(["replay", str(trace_file(tmp_path)), "--learn", "0..4", "--score", "5..8", "--frozen", "--json"])

    shown = json.loads(capsys.readouterr().out)
    assert ([0, 4], [5, 8], None, True) == (shown["learn"], shown["score"], shown["lag"], shown["is_frozen"])
    assert {"gain_pct", "gain_ms", "capture", "relayed", "harmed", "changes", "p50", "p95", "mean_ms", "concentration"} <= set(shown)
    assert {"direct", "no_margin", "fixed_margin", "same_delay", "oracle"} == set(shown["baselines"])
    assert shown["gain_pct"] > 0


def test_the_table_names_all_policies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == main(["replay", str(trace_file(tmp_path)), "--lag", "2", "--groups", "random"])

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "six places: 10 slices of 6 nodes; learned 0..4, scored 5..9, decided slice by slice on slices at least 2 old"
    assert ["policy", "policy", "full_matrix", "direct", "no_margin", "fixed_margin", "same_delay", "oracle"] == [
        line.split()[0] for line in lines[3:-2]
    ]


def test_two_nodes_give_zeros(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == main(["replay", str(trace_file(tmp_path, 2)), "--json"])

    shown = json.loads(capsys.readouterr().out)
    assert (0, 0, 0) == (shown["gain_ms"], shown["relayed"], shown["capture"])


@pytest.mark.parametrize("arguments", [["--learn", "0..9"], ["--score", "4..5"], ["--lag", "0"], ["--relay-ms", "-1"]])
def test_what_cannot_be_replayed_ends_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert 2 == main(["replay", str(trace_file(tmp_path)), "--learn", "0..4", *arguments])

    error = capsys.readouterr().err
    assert error.startswith("srwan: --")
    assert 1 == error.count("\n")


def test_a_range_that_is_none_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["replay", str(trace_file(tmp_path)), "--learn", "0-4"])

    assert 2 == ended.value.code
    assert "write A..B" in capsys.readouterr().err


def test_a_file_that_is_no_trace_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("hello")

    assert 2 == main(["replay", str(tmp_path / "notes.txt")])
    assert "not a readable .npz archive" in capsys.readouterr().err
