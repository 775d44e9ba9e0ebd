"""Every example runs as a stranger would run it, and the README's program is one of them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXPECTED = {
    "hello_path.py": r"^b'hello' came by direct: ",
    "swarm_in_one_process.py": r"(?s)eu-central-1 .* ms\n.*b'around the congestion' came via .*: direct \d+ ms, via ",
}


def test_every_example_is_run_here() -> None:
    assert sorted(EXPECTED) == sorted(file.name for file in (ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_the_example_runs_and_prints_what_it_promises(name: str) -> None:
    done = subprocess.run([sys.executable, ROOT / "examples" / name], capture_output=True, text=True, timeout=120, check=False)
    assert (0, "") == (done.returncode, done.stderr)
    assert re.search(EXPECTED[name], done.stdout), done.stdout


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
