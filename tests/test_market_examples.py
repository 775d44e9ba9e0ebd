"""The examples of the market run as a stranger would run them, on the real protocol and the embedded engine, and conserve every token."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "examples" / "market"
EXPECTED = {
    "observe_and_buy.py": r"the enterprise relays: False; it is measured: True\n"
    r"paths of the neighbour lead over: (?!.*enterprise).*carrier.*\nover the enterprise: False\n"
    r"the enterprise bought: via carrier: .*\ncarrier earned [1-9]\d{3} microtokens, the enterprise 0\n",
    "off_hours.py": r"off-hours in Chicago, universal time:\n  Fri 23:00 to Mon 06:00, 55 h\n(.*\n)*"
    r"the group knows the line as nobody in ZZ:0\n"
    r"bought, since 5000000 microtokens .*: via .*\nthe session ends \d+ s before the window\nthe line earned [1-9]\d{3} microtokens\n",
    "pay_for_milliseconds.py": r"(.*\n)* +quick +\d+ +\d+ ms +\d+ ms +80 ms +(49|5\d) ms +10080 +99\d\d\n"
    r" +middling +\d+ +\d+ ms +\d+ ms +80 ms +(1\d|2\d) ms +10080 +[45]\d\d\d\n",
    "premium_segment.py": r"listed: 1 offer under US:64500\nbought: via carrier: .*\n"
    r"settled: 1008000 octets sent at 10 tokens a GB, the carrier earned 99[78]\d microtokens\n",
    "sla_bypass.py": r"kept: +direct: .*\nbroken: +via carrier: .*\nbought: +up to 8000000 of 9000000 .*\nrestored: direct: .*\n"
    r"the carrier earned [1-9]\d{3} microtokens of [1-9]\d{3} spent\n"
    r"evidence: [1-9]\d* of \d+ measurements beyond 40 ms, the worst \d\d ms\n",
    "virtual_network.py": r"first plan:\n  open  frankfurt - warsaw - tokyo: .*\n  open  frankfurt - dubai - tokyo: .*\n(.*\n)*"
    r"earned: warsaw [1-9]\d+, dubai [1-9]\d+, mumbai 0, elsewhere 0 microtokens\nwhen warsaw asks for more:\n"
    r"  open  frankfurt - mumbai - tokyo: .*\n.*\n  close frankfurt - warsaw - tokyo: .*\n(.*\n)*",
}
QUICKEST = "premium_segment.py"


def test_every_market_example_is_run_here() -> None:
    assert sorted(EXPECTED) == sorted(file.name for file in FOLDER.glob("*.py"))


@pytest.mark.parametrize("name", [QUICKEST, *(pytest.param(name, marks=pytest.mark.slow) for name in sorted(EXPECTED) if name != QUICKEST)])
def test_the_example_runs_and_prints_what_it_promises(name: str) -> None:
    done = subprocess.run([sys.executable, FOLDER / name], capture_output=True, text=True, timeout=120, check=False)
    assert (0, "") == (done.returncode, done.stderr)
    assert re.fullmatch(EXPECTED[name] + r"conserved\n", done.stdout), done.stdout
