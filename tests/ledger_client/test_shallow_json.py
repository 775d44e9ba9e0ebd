"""JSON of others: parsed as ever, refused where it is nested too deep, whatever the interpreter's limit of recursion."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srwan.ledger_client.shallow_json import DEPTH_MAX, parse_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=100
)


@given(VALUES)
def test_what_the_parser_of_the_library_takes_is_taken(value: object) -> None:
    assert value == parse_json(json.dumps(value).encode())


@pytest.mark.parametrize(("depth", "is_taken"), [(DEPTH_MAX, True), (DEPTH_MAX + 1, False)])
def test_the_depth_is_bounded_to_the_level(depth: int, is_taken: bool) -> None:
    text = b"[" * depth + b"]" * depth
    if is_taken:
        assert [] != parse_json(text)
        return
    with pytest.raises(ValueError, match="deeper"):
        parse_json(text)


def test_brackets_in_strings_are_no_depth_and_hide_none() -> None:
    assert ["[" * 500, 'a"[' * 500] == parse_json(json.dumps(["[" * 500, 'a"[' * 500]).encode())
    with pytest.raises(ValueError, match="deeper"):
        parse_json(b'["]",' * 500 + b"1" + b"]" * 500)


def test_many_brackets_side_by_side_are_fine() -> None:
    assert [[]] * 5000 == parse_json(json.dumps([[]] * 5000).encode())


def test_a_raised_limit_of_recursion_does_not_let_a_peer_end_the_process() -> None:
    code = (
        "import sys; sys.setrecursionlimit(1_000_000)\n"
        "from srwan.ledger_client.shallow_json import parse_json\n"
        "try: parse_json(b'[' * 1_000_000)\n"
        "except ValueError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (0, f"nested deeper than {DEPTH_MAX} levels\n") == (done.returncode, done.stdout)
