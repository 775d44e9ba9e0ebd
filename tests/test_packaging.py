"""The built distributions hold exactly what the tree holds: two build backends left linked folders out without a word."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("overlay", "gossip", "routing", "ledger_client")
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", ".*_cache", "__pycache__", "*.egg-info", "*.so", "build", "dist", "tests", "docs", "benchmarks"
)


def package_files() -> set[str]:
    """Every file that `import srwan` may need, relative to src, links followed."""
    found = set()
    for folder, folders, files in os.walk(ROOT / "src/srwan", followlinks=True):
        folders[:] = [name for name in folders if name != "__pycache__"]
        found |= {str((Path(folder) / name).relative_to(ROOT / "src")) for name in files if not name.endswith((".pyc", ".so"))}
    return found


def without_c(names: set[str]) -> set[str]:
    """Leave out what a C compiler reads, and what it makes where there is one."""
    return {name for name in names if not name.endswith((".c", ".h", ".so"))}


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist, built from a copy of the tree, and the wheel, built from that sdist. Offline: with the locked setuptools."""
    copy = tmp_path_factory.mktemp("copy") / "srwan"
    shutil.copytree(ROOT, copy, symlinks=True, ignore=LEFT_OUT)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(copy / "dist"), str(copy)]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1577836800"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)
    assert 0 == done.returncode, done.stdout[-3000:] + done.stderr[-3000:]
    (sdist,) = (copy / "dist").glob("*.tar.gz")
    (wheel,) = (copy / "dist").glob("*.whl")
    return sdist, wheel


@pytest.mark.parametrize("room", ROOMS)
def test_each_room_is_a_relative_link_to_the_folder_at_the_top(room: str) -> None:
    link = ROOT / "src/srwan" / room

    assert link.is_symlink(), f"{link} is no symbolic link: a checkout without links? See CONTRIBUTING.md"
    assert f"../../{room}" == str(link.readlink())
    assert link.resolve() == ROOT / room


def test_the_wheel_holds_the_package_and_nothing_else(distributions: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(distributions[1]) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}

    assert without_c(names) == without_c(package_files())


@pytest.mark.needs("native")
def test_the_wheel_holds_the_native_data_plane_and_not_its_source(distributions: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(distributions[1]) as wheel:
        names = {Path(name).name for name in wheel.namelist() if name.startswith("srwan/routing/native/")}

    assert {"_core.abi3.so", "_core.pyi"} <= names
    assert [] == [name for name in names if name.endswith((".c", ".h"))]


def test_the_wheel_carries_licence_and_notice(distributions: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(distributions[1]) as wheel:
        licences = {name.partition(".dist-info/licenses/")[2] for name in wheel.namelist() if ".dist-info/licenses/" in name}

    assert {"LICENSE", "src/srwan/swarm/data/NOTICE.txt"} == licences


def test_the_sdist_holds_the_package_as_real_files(distributions: tuple[Path, Path]) -> None:
    with tarfile.open(distributions[0]) as sdist:
        members = {member.name.partition("/")[2]: member for member in sdist.getmembers()}
    sources = {name.removeprefix("src/") for name in members if name.startswith("src/srwan/") and members[name].isfile()}

    assert sources == package_files()
    assert [] == [name for name, member in members.items() if member.issym() or member.islnk()]
    assert {"LICENSE", "README.md", "pyproject.toml"} <= set(members)


def test_the_wheel_imports_where_there_is_no_checkout(distributions: tuple[Path, Path], tmp_path: Path) -> None:
    with zipfile.ZipFile(distributions[1]) as wheel:
        wheel.extractall(tmp_path)
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import srwan, srwan.overlay.view, srwan.gossip.row, srwan.routing.srh, srwan.ledger_client.record\n"
        "assert all(m.__file__.startswith(sys.argv[1]) for n, m in sys.modules.items() if n.split('.')[0] == 'srwan')"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert 0 == done.returncode, done.stderr
