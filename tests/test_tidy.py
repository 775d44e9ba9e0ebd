"""Rules of the house that no linter knows. Each failure says where, what, and the rule.

Sizes and names: a room is small, and its name says what is in it. Cores: every module of the four packages that is not listed as a
shell in pyproject.toml (the import contract) has no clock, no randomness of its own, no socket, no task. Words: what a reader should
not have to read. Paths and hosts: what must not land because it is true on one machine only.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import srwan.errors

ROOT = Path(__file__).parents[1]
ROOMS = ("overlay", "gossip", "routing", "ledger_client")
SOURCE_FOLDERS = (*ROOMS, "src/srwan")
CODE_FOLDERS = (*SOURCE_FOLDERS, "examples", "tests", "benchmarks", "script")
TEXT_FOLDERS = (*CODE_FOLDERS, "docs", ".ci")
TEXT_SUFFIXES = {"", ".cfg", ".css", ".html", ".js", ".md", ".py", ".toml", ".txt", ".yml"}

FILE_LINES_MAX = 600
FUNCTION_LINES_MAX = 60
"""Lines of code: the docstring is not counted, for long ones are wanted."""
BANNED_MODULE_NAMES = {"utils", "util", "helpers", "helper", "manager", "common", "base", "misc", "stuff"}
NEEDS_NO_UNIT = re.compile(
    r"_(ns|us|ms|s|ppm|bytes|lines)(_max|_min)?$"
    r"|^(boot|epoch|flags|flow|index|octets|packets|path_tag|seq|sequence)$"
)
"""Numeric fields whose name says their unit, and the identifiers and counts of docs/glossary.md."""
MAY_PRINT = ("src/srwan/cli", "src/srwan/demo", "examples", "benchmarks", "script")

# Spelled apart so that this file does not break its own rules.
BANNED_WORDS = {
    r"\b(white|black)-?lists?\b": "say allow-list or deny-list",
    r"\b(blazing|seamless|cutting[- ]edge|revolutionary|game[- ]changing)": "say the figure instead",
    r"\b(TO" + r"DO|FIX" + r"ME|X" + r"XX)\b": "open an issue, or do it",
    r"\bone way (delay|latency)": "one-way latency is spelled with a hyphen",
}
BANNED_PLACES = {
    r"/(work|root|farm|home|Users)" + r"/\w": "a path of one machine",
    r"\.li" + r"brary\b": "a path of one machine",
    r"py" + r"pi\.org|python" + r"hosted\.org|npm" + r"js\.(org|com)|crates" + r"\.io": "the host of a package registry",
}


@functools.cache
def files(folders: tuple[str, ...], suffixes: frozenset[str]) -> tuple[Path, ...]:
    """Files of the repository below some folders, and at the top for "."; links are not followed, so each file comes once."""
    found: list[Path] = []
    for folder in folders:
        walk = (ROOT / folder).rglob("*") if folder != "." else ROOT.glob("*")
        found += [path for path in walk if path.is_file() and path.suffix in suffixes and not path.is_symlink()]
    return tuple(sorted(path for path in found if not {"__pycache__", "srwan.egg-info"} & set(path.parts)))


def code(*folders: str) -> tuple[Path, ...]:
    return files(folders or CODE_FOLDERS, frozenset({".py"}))


def texts() -> tuple[Path, ...]:
    return files((*TEXT_FOLDERS, "."), frozenset(TEXT_SUFFIXES))


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), str(path))


@functools.cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """All of a file's, walked once for all rules: walking takes longer than parsing."""
    return tuple(ast.walk(tree(path)))


def where(path: Path, node: ast.AST | int) -> str:
    return f"{path.relative_to(ROOT)}:{node if isinstance(node, int) else getattr(node, 'lineno', 1)}"


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[1:] if parts[0] == "src" else ("srwan", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def contract(name: str) -> dict[str, list[str]]:
    """One import-linter contract of pyproject.toml, found by the beginning of its name."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (found,) = [entry for entry in settings["tool"]["importlinter"]["contracts"] if entry["name"].startswith(name)]
    return dict(found)


@functools.cache
def shells() -> frozenset[str]:
    return frozenset(entry.partition(" -> ")[0] for entry in contract("Cores import no I/O")["ignore_imports"])


def cores() -> tuple[Path, ...]:
    return tuple(path for path in code(*ROOMS) if module_name(path) not in shells())


def imported_modules(path: Path) -> Iterator[tuple[ast.stmt, str]]:
    """(statement, module) for every import, the names of `from a import b` as a.b too, for b may be a module."""
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert 0 == node.level, f"{where(path, node)}: relative import; house rule: absolute imports"
            yield node, node.module or ""
            yield from ((node, f"{node.module}.{alias.name}") for alias in node.names)


def refuse(wrong: Iterable[str]) -> None:
    """Fail with one line for each breach of a rule."""
    if lines := sorted(set(wrong)):
        pytest.fail("\n".join(lines), pytrace=False)


# --- sizes and names -------------------------------------------------------------------------------------------------


def test_the_walk_finds_the_code() -> None:
    found = {str(path.relative_to(ROOT)) for path in texts()}

    assert {"overlay/frame.py", "src/srwan/wire.py", "tests/test_tidy.py", "script/check", "docs/index.md", "pyproject.toml"} <= found
    assert [] == [name for name in found if name.startswith("src/srwan/overlay/")]


def test_files_are_short_enough_to_read_in_one_sitting() -> None:
    lengths = {path: path.read_text("utf-8").count("\n") for path in code()}
    too_long = [f"{where(path, 1)}: {lines} lines, at most {FILE_LINES_MAX}" for path, lines in lengths.items() if lines > FILE_LINES_MAX]

    refuse(too_long)


def test_functions_are_short_enough_to_see_at_once() -> None:
    too_long = []
    for path in code():
        for node in nodes(path):
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            has_docstring = ast.get_docstring(node, clean=False) is not None
            docstring_lines = (node.body[0].end_lineno or 0) - node.body[0].lineno + 1 if has_docstring else 0
            lines = (node.end_lineno or 0) - node.lineno + 1 - docstring_lines
            if lines > FUNCTION_LINES_MAX:
                too_long.append(f"{where(path, node)}: {node.name} has {lines} lines, at most {FUNCTION_LINES_MAX}")

    refuse(too_long)


def test_module_names_say_what_is_inside() -> None:
    refuse(f"{where(path, 1)}: {path.stem} does not say what is inside" for path in code() if path.stem in BANNED_MODULE_NAMES)


def test_every_module_of_the_library_says_what_it_is() -> None:
    refuse(f"{where(path, 1)}: no module docstring" for path in code(*SOURCE_FOLDERS) if not ast.get_docstring(tree(path)))


# --- cores -----------------------------------------------------------------------------------------------------------


def test_what_is_listed_as_a_shell_does_io() -> None:
    """It imports what does, or waits for another shell through an interface."""
    io_modules = set(contract("Cores import no I/O")["forbidden_modules"])
    refuse(
        f"{where(path, 1)}: imports nothing of {sorted(io_modules)} and waits for nothing; it is a core, take it off the list of shells"
        for path in code(*ROOMS)
        if module_name(path) in shells()
        and not io_modules & {name for _, name in imported_modules(path)}
        and not any(isinstance(node, ast.AsyncFunctionDef) for node in nodes(path))
    )


def test_cores_import_no_shell() -> None:
    wrong = [
        f"{where(path, node)}: a core imports the shell {name}; only shells and srwan.node may"
        for path in cores()
        for node, name in imported_modules(path)
        if name in shells() and path.name != "__init__.py"
    ]
    refuse(wrong)


def test_cores_take_randomness_from_outside() -> None:
    wrong = []
    for path in cores():
        for node in nodes(path):
            if isinstance(node, ast.ImportFrom) and node.module == "random" and [alias.name for alias in node.names] != ["Random"]:
                wrong.append(f"{where(path, node)}: from random import Random only; a core's rng comes through the constructor")
            if not isinstance(node, ast.Attribute):
                continue
            written = ast.unparse(node)
            if written.startswith("random.") and written.split(".")[1] != "Random":
                wrong.append(f"{where(path, node)}: {written}; a core's rng comes through the constructor")
            if written.startswith(("np.random.", "numpy.random.", "uuid.uuid")) or written == "nacl.utils.random":
                wrong.append(f"{where(path, node)}: {written}; a core's rng comes through the constructor")
            if node.attr == "generate" and "Key" in written:
                wrong.append(f"{where(path, node)}: {written}() draws its own key; take 32 bytes of the rng given")
    refuse(wrong)


def test_cores_neither_read_a_clock_nor_wait() -> None:
    """Interfaces (Protocol classes) may declare async methods; a core has none."""
    wrong = []
    for path in cores():
        declared = [
            statement
            for node in nodes(path)
            if isinstance(node, ast.ClassDef) and any("Protocol" in ast.unparse(parent) for parent in node.bases)
            for statement in ast.walk(node)
        ]
        is_async = [isinstance(node, ast.AsyncFunctionDef) and node not in declared for node in nodes(path)]
        if any(is_async):
            wrong.append(f"{where(path, 1)}: async code in a core; move it to a shell, or list the module as one in pyproject.toml")
        wrong += [
            f"{where(path, node)}: a core imports {name}; time comes as the arguments now and wall_ns"
            for node, name in imported_modules(path)
            if name in {"time", "datetime", "srwan.clock"}
        ]
    refuse(wrong)


def test_nothing_in_the_library_imports_its_test_kit() -> None:
    """But the command line: `srwan simulate` and `srwan replay` are the test kit's front door. Test frameworks it may not import either."""
    wrong = []
    for path in code(*SOURCE_FOLDERS):
        package = module_name(path).split(".")[1:2]
        for node, name in imported_modules(path):
            is_test_kit = name.split(".")[:2] == ["srwan", "testing"] and package not in (["testing"], ["cli"])
            is_framework = name.split(".")[0] in {"pytest", "hypothesis", "tests"} and package != ["testing"]
            if is_test_kit or is_framework:
                wrong.append(f"{where(path, node)}: imports {name}")
    refuse(wrong)


# --- words, paths, prints ---------------------------------------------------------------------------------------------


def matches(patterns: dict[str, str]) -> list[str]:
    found = []
    for path in texts():
        if path.name in {"LICENSE", "requirements.lock"} or path == Path(__file__):
            continue
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            found += [f"{where(path, number)}: {hit[0]!r}: {why}" for pattern, why in patterns.items() if (hit := re.search(pattern, line))]
    return found


def test_texts_use_no_banned_words() -> None:
    refuse(matches(BANNED_WORDS))


def test_texts_name_no_place_that_exists_on_one_machine_only() -> None:
    refuse(matches(BANNED_PLACES))


def test_the_lock_names_no_registry() -> None:
    lock = (ROOT / "requirements.lock").read_text()

    assert [] == re.findall(r"https?://|--(?:extra-)?index|--find-links| @ ", lock)
    assert "--hash=sha256:" in lock


def test_the_licence_is_the_unchanged_apache_licence() -> None:
    digest = hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest()

    assert "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30" == digest


def test_only_the_command_line_and_the_examples_print() -> None:
    wrong = [
        f"{where(path, node)}: print; cores emit events, services log"
        for path in code(*SOURCE_FOLDERS)
        if not str(path.relative_to(ROOT)).startswith(MAY_PRINT)
        for node in nodes(path)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    refuse(wrong)


def test_nothing_swallows_every_exception() -> None:
    wrong = []
    for path in code():
        for node in nodes(path):
            if isinstance(node, ast.ExceptHandler) and all(isinstance(statement, ast.Pass) for statement in node.body):
                caught = ast.unparse(node.type) if node.type else "everything"
                if node.type is None or caught in {"Exception", "BaseException"}:
                    wrong.append(f"{where(path, node)}: except {caught}: pass")
            if isinstance(node, ast.ExceptHandler) and node.type is not None and "Cancelled" in ast.unparse(node.type):
                wrong.append(f"{where(path, node)}: catches trio.Cancelled")
    refuse(wrong)


# --- documentation ---------------------------------------------------------------------------------------------------


def public_classes(*folders: str) -> Iterator[tuple[Path, ast.ClassDef]]:
    for path in code(*folders):
        for node in tree(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                yield path, node


def test_every_public_error_says_what_state_it_leaves() -> None:
    errors = [error for error in vars(srwan.errors).values() if isinstance(error, type) and issubclass(error, Exception)]
    silent = [error.__name__ for error in errors if len((error.__doc__ or "").split()) < 6]

    assert sorted(error.__name__ for error in errors) == sorted(srwan.errors.__all__)
    assert [] == silent


def test_errors_are_defined_in_one_place() -> None:
    elsewhere = [
        f"{where(path, node)}: {node.name}; public errors live in src/srwan/errors.py"
        for path, node in public_classes(*ROOMS)
        if any(ast.unparse(parent).endswith(("Error", "Exception")) for parent in node.bases)
    ]
    refuse(elsewhere)


def test_every_public_class_is_documented_and_every_number_in_it_has_its_unit() -> None:
    """In its name, or in the docstring line under the field of an attrs class."""
    wrong = []
    for path, node in public_classes(*SOURCE_FOLDERS):
        if not ast.get_docstring(node):
            wrong.append(f"{where(path, node)}: {node.name} has no docstring")
        if not any("frozen" in ast.unparse(decorator) or "define" in ast.unparse(decorator) for decorator in node.decorator_list):
            continue
        for field, following in zip(node.body, [*node.body[1:], None], strict=True):
            if not isinstance(field, ast.AnnAssign) or not re.search(r"\b(int|float)\b", ast.unparse(field.annotation)):
                continue
            name = ast.unparse(field.target)
            is_documented = NEEDS_NO_UNIT.search(name) or (isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant))
            if not is_documented:
                wrong.append(f"{where(path, field)}: {node.name}.{name} has no line that says its unit")
    refuse(wrong)


def test_events_are_frozen_and_next_event_says_what_it_returns() -> None:
    past_tense = re.compile(r"(ed|Left|Lost|Sent|Found|Taken|Began)$")
    wrong = [
        f"{where(path, node)}: next_event returns an event or None, and says which"
        for path in cores()
        for node in nodes(path)
        if isinstance(node, ast.FunctionDef) and node.name == "next_event" and "None" not in ast.unparse(node.returns or node.args)
    ]
    for path, node in public_classes(*ROOMS):
        decorators = " ".join(ast.unparse(decorator) for decorator in node.decorator_list)
        if past_tense.search(node.name) and "attrs." in decorators and "frozen" not in decorators:
            wrong.append(f"{where(path, node)}: {node.name} reads as an event; use attrs.frozen")
    refuse(wrong)
