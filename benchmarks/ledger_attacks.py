"""What each attack on the market brings its attacker: runs tests/attacks and collects the profits that the tests measured.

    python benchmarks/ledger_attacks.py [--json] [--all] [--docs]

Profit is in microtokens, at list prices, the greatest of all variants of an attack (tests/attacks/conftest.py says how it is counted); none
may be above zero. Everything is deterministic, so there is no spread. --all includes the variants that the default test run leaves out
(2 minutes); --docs writes the table into docs/attacks.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "attacks.md"
BEGIN, END = "<!-- profits: begin -->\n", "<!-- profits: end -->\n"


def run(options: argparse.Namespace | None = None) -> dict[str, Any]:
    """Run the attack suite; `options.all` includes its slow variants.

    Raises:
        RuntimeError: a test failed that is not about profit, so there is no table.
    """
    is_all = bool(getattr(options, "all", False))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "attacks.json"
        marks = ["-m", "slow or not slow"] if is_all else []
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/attacks", *marks]
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, "SRWAN_ATTACKS_JSON": str(path)}, capture_output=True, text=True, check=False
        )
        if not path.exists():
            raise RuntimeError(f"the attack suite did not run: {done.stdout[-2_000:]}")
        rows: list[dict[str, Any]] = json.loads(path.read_text("utf-8"))
    worst = max((row["profit_microtoken"] for row in rows), default=0)
    return {
        "attacks": sorted(rows, key=lambda row: str(row["attack"])),
        "profit_microtoken_max": worst,
        "aim": {"profit_microtoken_max": 0},
        "aim_met": worst <= 0 and done.returncode == 0,
        "tests_passed": done.returncode == 0,
    }


def table(result: dict[str, Any]) -> str:
    """Return the measured profits as the documentation shows them."""
    lines = ["| attack | variants | greatest profit, microtokens | least | test |", "|---|---|---|---|---|"]
    for row in result["attacks"]:
        profits = list(row["variants"].values())
        lines.append(f"| {row['attack']} | {len(profits)} | {max(profits):,} | {min(profits):,} | `tests/attacks/{row['test']}` |")
    return "\n".join(lines) + "\n"


def write_table(result: dict[str, Any]) -> None:
    """Put the table into docs/attacks.md, between its marks."""
    text = DOCUMENT.read_text("utf-8")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    DOCUMENT.write_text(before + BEGIN + "\n" + table(result) + "\n" + END + after, "utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--all", action="store_true", help="include the slow variants")
    parser.add_argument("--docs", action="store_true", help="write the table into docs/attacks.md")
    options = parser.parse_args(arguments)
    result = run(options)
    if options.docs:
        write_table(result)
    if options.json:
        print(json.dumps(result, indent=1))
    else:
        print(table(result), end="")
        print(f"greatest profit {result['profit_microtoken_max']:,} microtokens, aim 0: {'met' if result['aim_met'] else 'MISSED'}")
    return 0 if result["aim_met"] else 1


if __name__ == "__main__":
    sys.exit(main())
