"""All figures of the ledger in one run: stores, contract, tickets, sizing.

    script/bench ledger [--json] [--only PART...] [--quick] [--records N] [--repetitions N] [--folder DIR] [--output FILE]

Each part is a module of its own beside this one, with its own header that says what is measured and how, and runs alone as well:

- stores: `ledger_stores.py`, records verified and stored a second, queries by place, puts and watches in a cluster, death of its leader;
- gas: `ledger_gas.py`, what the settlement contract's operations cost;
- tickets: `ledger_tickets.py`, tickets signed and checked, and what accounting costs the data path;
- sizing: `ledger_sizing.py`, what a million routers in ten thousand groups take, and where each engine ends;
- attacks: `ledger_attacks.py`, what each attack of `tests/attacks/` brings the attacker.

A part that cannot run here says why, and the others go on.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from srwan.errors import SrwanError

PARTS = {
    "stores": "ledger_stores",
    "gas": "ledger_gas",
    "tickets": "ledger_tickets",
    "sizing": "ledger_sizing",
    "attacks": "ledger_attacks",
}


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run one part; what keeps it from running is its result."""
    start_s = time.monotonic()
    try:
        found: dict[str, Any] = importlib.import_module(PARTS[name]).run(options)
    except (ImportError, SrwanError, OSError) as error:
        found = {"missing": f"{type(error).__name__}: {error}"}
    return {**found, "took_s": round(time.monotonic() - start_s, 1)}


def show(value: Any, indent: int = 0) -> None:
    """Print nested figures, one a line."""
    for name, each in value.items():
        if isinstance(each, dict) and each.keys() != {"median", "least", "greatest"}:
            print(f"{' ' * indent}{name}")
            show(each, indent + 2)
        elif isinstance(each, dict):
            print(f"{' ' * indent}{name:28} {each['median']:>12,.2f}   ({each['least']:,.2f} .. {each['greatest']:,.2f})")
        else:
            print(f"{' ' * indent}{name:28} {each}")


def main() -> None:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--only", nargs="+", choices=sorted(PARTS), help="only these parts")
    parser.add_argument("--quick", action="store_true", help="fewer records and repetitions: figures to look at, not to quote")
    parser.add_argument("--records", type=int, help="as each part takes it")
    parser.add_argument("--repetitions", type=int, help="as each part takes it")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where files are made, and removed")
    parser.add_argument("--output", type=Path, help="write the JSON to this file, too")
    options = parser.parse_args()
    given = argparse.Namespace(**{name: value for name, value in vars(options).items() if value is not None})
    load_average = os.getloadavg()[0]
    parts = {}
    for name in PARTS:
        if options.only is None or name in options.only:
            print(f"{name} ...", file=sys.stderr)
            parts[name] = measure(name, given)
    result = {
        "benchmark": "ledger",
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "load_average_before": round(load_average, 1),
        **parts,
    }
    text = json.dumps(result, indent=2)
    if options.output:
        options.output.write_text(text + "\n")
    if options.json:
        print(text)
    else:
        show(parts)


if __name__ == "__main__":
    main()
