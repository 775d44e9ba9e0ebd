"""What the path policy is worth on recorded traces, with one parameter set for all of them.

    python benchmarks/replay.py [SETS] [--json] [--output FILE]

SETS is the folder of the published sets that `script/traces` converts; without it the environment variable SRWAN_TRACES, else
../shared/data. Two rows, each the policy beside the simple ones on the same slices (docs/replay.md defines the figures):

    planetlab  learns on frames 0..4, its paths are fixed, scored on 5..8; and the same decided frame by frame (lag 1)
    seattle    learns on slices 0..171, decides slice by slice on slices at least 8 old, scored on 172..343

The result is a computation, the same in every run; what is measured is its time, once. Without the sets the run says so and succeeds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import attrs

from srwan.routing.advantage import AdvantageRule
from srwan.testing.latency_trace import load_trace
from srwan.testing.replay import ReplayOptions, as_json, replay

ROOT = Path(__file__).resolve().parents[1]
ROWS = {
    "planetlab_frozen": ("planetlab490_part1.npz", ReplayOptions(learn=(0, 4), score=(5, 8), is_frozen=True)),
    "planetlab_lag_1": ("planetlab490_part1.npz", ReplayOptions(learn=(0, 4), score=(5, 8), lag=1)),
    "seattle_lag_8": ("seattle99_part1.npz", ReplayOptions(learn=(0, 171), score=(172, 343), lag=8)),
}
AIMS = {
    "planetlab_frozen": {"capture_oracle": (0.75, ">="), "harmed": (0.05, "<=")},
    "planetlab_lag_1": {"changes": (0.04, "<=")},
    "seattle_lag_8": {"mean_ms": (325.0, "<="), "harmed": (0.20, "<=")},
}


def measure(sets: Path) -> dict[str, Any]:
    """Convert the sets and replay each row that can be."""
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        converter = [sys.executable, str(ROOT / "script" / "convert_traces.py"), str(sets), folder]
        subprocess.run(converter, check=True, stdout=subprocess.DEVNULL)
        for name, (file, options) in ROWS.items():
            path = Path(folder) / file
            if not path.is_file():
                print(f"{name}: {file} is not in {sets}, left out", file=sys.stderr)
                continue
            print(f"{name} ...", file=sys.stderr)
            trace = load_trace(path)
            start_s, start_cpu_s = time.perf_counter(), time.process_time()
            rows[name] = as_json(replay(trace, options))
            rows[name]["wall_s"] = round(time.perf_counter() - start_s, 1)
            rows[name]["cpu_s"] = round(time.process_time() - start_cpu_s, 1)
            aims = AIMS[name].items()
            rows[name]["aims"] = {
                key: {"aim": f"{sign} {aim:g}", "value": rows[name][key], "is_met": (rows[name][key] >= aim) == (sign == ">=")}
                for key, (aim, sign) in aims
            }
    return rows


def show(rows: dict[str, Any]) -> None:
    keys = ("mean_ms", "capture_oracle", "relayed", "harmed", "harmed_pairs", "changes")
    for name, row in rows.items():
        print(f"\n{name} ({row['cpu_s']} s CPU)\n{'':14}" + "".join(f"{key:>16}" for key in keys))
        for policy, figures in (("policy", row), *row["baselines"].items()):
            print(f"{policy:14}" + "".join(f"{figures[key]:>16.4f}" for key in keys))
        for key, aim in row["aims"].items():
            print(f"  {key} {aim['value']:.4f}, aim {aim['aim']}: {'met' if aim['is_met'] else 'missed'}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Replay recorded traces.")
    parser.add_argument("sets", type=Path, nargs="?", help="folder of the published sets")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--output", type=Path, help="write the JSON here too")
    arguments = parser.parse_args()
    sets = arguments.sets or Path(os.environ.get("SRWAN_TRACES") or ROOT.parent / "shared" / "data")
    if not any((sets / file).is_file() for file, _ in ROWS.values()):
        print(f"skipped: {sets} holds none of the sets; name their folder or set SRWAN_TRACES", file=sys.stderr)
        rows: dict[str, Any] = {}
    else:
        rows = measure(sets)
    result = {
        "benchmark": "replay",
        "python": platform.python_version(),
        "machine": platform.machine(),
        "is_skipped": not rows,
        "rule": attrs.asdict(AdvantageRule()),
        "rows": rows,
    }
    text = json.dumps(result, indent=2, allow_nan=False)
    if arguments.output:
        arguments.output.write_text(text + "\n")
    if arguments.json:
        print(text)
    else:
        show(rows)


if __name__ == "__main__":
    main()
