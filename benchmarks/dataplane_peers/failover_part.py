"""The failover benchmark (`benchmarks/failover.py`) as a part of this run: how long a flow is interrupted when its relay fails."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs

from srwan.testing.namespaces import LabError

PROGRAM = Path(__file__).parents[1] / "failover.py"
CELLS = 2
"""Trials at once."""
TRIAL_S = 60.0
"""Most that a trial takes, before the whole is given up."""
FAULTS = ("kill", "blackhole", "forward", "back", "loss")


@attrs.frozen(slots=True)
class Result:
    """What came of it."""

    samples: dict[str, list[dict[str, float]]]
    """By "failover-FAULT"; one sample each, which sums up all trials."""
    report: dict[str, Any]
    """As the benchmark gives it."""


def run(trials: int) -> Result:
    """Run all faults.

    Raises:
        LabError: it failed or printed no result.
    """
    command = [sys.executable, str(PROGRAM), "--json", "--trials", str(trials), "--cells", str(CELLS)]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, timeout=TRIAL_S * trials * len(FAULTS))
        return parse(done.stdout)
    except subprocess.TimeoutExpired:
        raise LabError(f"failover: no end after {trials} trials of {TRIAL_S:g} s") from None


def parse(text: str) -> Result:
    """Read what `failover.py --json` printed. Raises LabError: that is not its result."""
    try:
        report: dict[str, Any] = json.loads(text)
        samples = {f"failover-{fault}": [figures_of(summary)] for fault, summary in report["faults"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LabError(f"failover printed no result ({error!r})") from None
    return Result(samples, report)


def figures_of(summary: dict[str, Any]) -> dict[str, float]:
    """Return the figures of one fault; of no trials, none."""
    if not summary["trials"]:
        return {}
    return {
        "trials": float(summary["trials"]),
        "gap_median_s": float(summary["gap_s"]["median"]),
        "gap_p99_s": float(summary["gap_s"]["p99"]),
        "duplicates": float(summary["duplicates"]),
        "flaps": float(summary["flaps"]),
        "home_median_s": float(summary["home_s"]["median"]),
        "failed_trials": float(len(summary["errors"])),
    }
