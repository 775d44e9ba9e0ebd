"""`srwan simulate` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from srwan.cli import main
from srwan.testing.router import SimRouter

QUICK = ("simulate", "--nodes", "4", "--minutes", "0.1")


def test_json_holds_the_figures_and_the_invariants(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "faults.toml"
    file.write_text('[[fault]]\nkind = "leave"\nat_s = 3\nnodes = [2]\n', "utf-8")
    assert 0 == main([*QUICK, "--seed", "7", "--faults", str(file), "--json"])
    shown = json.loads(capsys.readouterr().out)
    assert (4, 7, 1) == (shown["nodes"], shown["seed"], shown["groups"])
    assert 32 == len(shown["trace_hash"])
    assert {"wall_s", "events", "events_per_s", "rss_mb", "invariants", "faults", "agreed_s", "filled_s", "traffic"} <= set(shown)
    assert 0 == sum(entry["violations"] for entry in shown["invariants"].values())
    assert ("leave", [2], 1) == (shown["faults"][0]["kind"], shown["faults"][0]["nodes"], shown["faults"][0]["removed"])


def test_the_summary_says_what_was_concluded(capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == main(list(QUICK))
    shown = capsys.readouterr()
    assert "4 nodes in 1 groups" in shown.out
    assert "invariants held" in shown.out
    assert "" == shown.err


def test_many_seeds_print_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == main([*QUICK, "--seeds", "3..5"])
    assert ["seed 3", "seed 4", "seed 5"] == [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()]


def test_a_failing_seed_is_printed_with_the_command_that_replays_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(self: SimRouter, now: float) -> None:
        raise ValueError("broken on purpose")

    monkeypatch.setattr(SimRouter, "handle_timer", broken)
    assert 1 == main([*QUICK, "--seeds", "8..9", "--real-crypto"])
    shown = capsys.readouterr().err
    assert "core-raised-nothing" in shown
    assert "srwan simulate --nodes 4 --minutes 0.1 --seed 8 --real-crypto" in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--nodes", "0"], "nodes: 0 is out of range"),
        (["--minutes", "nan"], "minutes: nan is out of range"),
        (["--seeds", "9..3"], "--seeds: '9..3' is no range"),
        (["--faults", "none.toml"], "none.toml: cannot be read"),
    ],
)
def test_what_cannot_be_run_is_one_sentence_and_status_2(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert 2 == main(["simulate", *words])
    assert said in capsys.readouterr().err


def test_a_fault_for_nodes_that_are_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "faults.toml"
    file.write_text('[[fault]]\nkind = "crash"\nat_s = 3\nnodes = [7]\n', "utf-8")
    assert 2 == main([*QUICK, "--faults", str(file)])
    assert "there is no node 7" in capsys.readouterr().err
