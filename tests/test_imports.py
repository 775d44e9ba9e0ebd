"""What can be imported, under which name, and what it drags in."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("overlay", "gossip", "routing", "ledger_client")


def in_fresh_process(program: str, *, cwd: Path = ROOT) -> Any:
    """Run a program that prints one JSON value, with the working folder on its path as in an interactive session."""
    done = subprocess.run([sys.executable, "-c", program], cwd=cwd, capture_output=True, text=True, check=False, timeout=120)
    assert 0 == done.returncode, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def modules() -> list[str]:
    """All modules of srwan, by the files below src/srwan, links followed."""
    names = []
    for folder in [ROOT / "src/srwan", *(ROOT / room for room in ROOMS)]:
        prefix = "srwan" if folder.name == "srwan" else f"srwan.{folder.name}"
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            if parts[-1:] != ("__main__",):
                names.append(".".join((prefix, *parts)))
    return sorted(names)


@pytest.mark.parametrize("package", ["srwan", *(f"srwan.{room}" for room in ROOMS)])
def test_every_public_name_exists_and_is_listed_once_in_order(package: str) -> None:
    module = importlib.import_module(package)
    public = list(module.__all__)

    assert public, f"{package} exports nothing"
    assert public == sorted(set(public))
    assert [] == [name for name in public if not hasattr(module, name)]


def test_the_facade_tells_its_lazy_names() -> None:
    import srwan

    assert set(srwan.__all__) <= set(dir(srwan))
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        _ = srwan.no_such_name  # type: ignore[attr-defined, unused-ignore]  # pyright: ignore


def test_importing_srwan_imports_neither_libp2p_nor_the_node() -> None:
    loaded = in_fresh_process("import sys, json, srwan; print(json.dumps(sorted(sys.modules)))")

    heavy = {"libp2p", "networkx", "scapy", "multiaddr", "grpc", "srwan.node"}
    assert heavy & set(loaded) == set()


@pytest.mark.slow
def test_every_module_can_be_the_first_one_imported() -> None:
    program = f"""
import importlib, json, sys
failed = {{}}
for name in {modules()!r}:
    for loaded in [m for m in sys.modules if m == "srwan" or m.startswith("srwan.")]:
        del sys.modules[loaded]
    try:
        importlib.import_module(name)
    except Exception as error:
        failed[name] = f"{{type(error).__name__}}: {{error}}"
print(json.dumps(failed))
"""
    assert {} == in_fresh_process(program)


def test_no_file_is_imported_under_two_names() -> None:
    program = f"""
import collections, importlib, json, os, sys
for name in {modules()!r}:
    importlib.import_module(name)
names = collections.defaultdict(list)
for name, module in list(sys.modules.items()):
    file = getattr(module, "__file__", None)
    if file and os.path.realpath(file).startswith({str(ROOT)!r} + os.sep) and ".venv" not in file and name != "__main__":
        names[os.path.realpath(file)].append(name)
bare = [name for name in sys.modules if name.split(".")[0] in {ROOMS!r}]
print(json.dumps([[sorted(n) for n in names.values() if len(n) > 1], bare, len(names)]))
"""
    twice, bare, count = in_fresh_process(program)

    assert [] == twice
    assert [] == bare
    assert count >= len(modules())


def test_a_bare_import_of_a_room_gives_other_classes() -> None:
    """Why the bare name is banned: with the repository root on the path it imports, and its classes are not ours."""
    program = """
import json
import overlay.view, srwan.overlay.view
print(json.dumps(overlay.view.View is srwan.overlay.view.View))
"""
    assert in_fresh_process(program) is False
