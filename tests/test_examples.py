"""Every example runs as a stranger would run it, and the README's program is one of them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXPECTED = {
    "hello_path.py": r"^b'hello' came by direct: ",
    "swarm_in_one_process.py": r"(?s)eu-central-1 .* ms\n.*b'around the congestion' came via .*: direct \d+ ms, via ",
    "one_gigabyte.py": r"(?s)relay 2 earned +3,299,999 .*validator pool +25,000 .*dividend pool +75,000 .*: conserved\n$",
    "two_paths_at_once.py": r"^single: 1\d\d of 200 datagrams came, 0 of them twice\nrepeat: (1[89]\d|200) of 200 .* came, 0 of them",
}


def test_every_example_is_run_here() -> None:
    assert sorted(EXPECTED) == sorted(file.name for file in (ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_the_example_runs_and_prints_what_it_promises(name: str) -> None:
    done = subprocess.run([sys.executable, ROOT / "examples" / name], capture_output=True, text=True, timeout=120, check=False)
    assert (0, "") == (done.returncode, done.stderr)
    assert re.search(EXPECTED[name], done.stdout), done.stdout


@pytest.mark.needs("netns", "tun")
def test_the_site_to_site_walk_lets_one_office_ping_the_other() -> None:
    environment = {**os.environ, "SRWAN": f"{sys.executable} -m srwan"}
    command = ["sh", str(ROOT / "examples/site_to_site.sh")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    assert (0, "") == (done.returncode, done.stderr)
    assert "3 received" in done.stdout
    assert re.search(r"to peers +3 packets, 252 octets; dropped nothing\n", done.stdout), done.stdout
    assert "10.2.0.0/24 behind oslo: ready" in done.stdout


def test_the_readme_shows_the_tested_example() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    program = (ROOT / "examples/hello_path.py").read_text("utf-8")
    assert blocks
    assert all(block in program for block in blocks)


def test_the_readme_names_commands_that_exist() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    assert [] == [each for each in re.findall(r"script/\w+", readme) if not (ROOT / each).exists()]
    links = re.findall(r"\]\(((?:docs|examples|CON)[^)]*)\)", readme)
    assert links
    assert [] == [link for link in links if not (ROOT / link).exists()]
