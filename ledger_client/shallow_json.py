"""JSON of others, refused before it is parsed where it is nested deeper than anything honest.

The parser of the standard library recurses. Some libraries (py-evm is one) raise the interpreter's limit of recursion for the whole
process, and then some 20 kB of opening brackets from anybody overrun the stack and end the process (seen: a segmentation fault).
"""

from __future__ import annotations

import json
import re
from typing import Any

__all__ = ["DEPTH_MAX", "parse_json"]

DEPTH_MAX = 64
"""Deepest nesting: answers of etcd and of EVM nodes have up to six levels."""
_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', re.DOTALL)


def parse_json(data: bytes | bytearray) -> Any:
    """Return the value.

    Raises:
        ValueError: not JSON, not UTF-8, or nested deeper than DEPTH_MAX.

    Cost: twice that of json.loads; text with few brackets is not looked through.
    """
    if data.count(b"[") + data.count(b"{") > DEPTH_MAX and _is_deep(data):
        raise ValueError(f"nested deeper than {DEPTH_MAX} levels")
    return json.loads(data)


def _is_deep(data: bytes | bytearray) -> bool:
    depth = 0
    for token in _TOKENS.finditer(data):
        if token[0] in (b"[", b"{"):
            depth += 1
            if depth > DEPTH_MAX:
                return True
        elif token[0] in (b"]", b"}"):
            depth -= 1
    return False
