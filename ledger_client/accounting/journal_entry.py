"""One entry of an accounting journal, parsed."""

from __future__ import annotations

from typing import Any

from srwan.errors import DecodeError
from srwan.wire import unpack

__all__ = ["ENTRY_BYTES_MAX", "read_entry"]

ENTRY_BYTES_MAX = 8192
"""The longest holds terms, plan and path tags of one session: 3 kB."""


def read_entry(entry: bytes) -> list[Any]:
    """Return the items of an entry, the first one its kind.

    Raises:
        LimitExceeded, DecodeError: too long, or not a list that begins with a word.
    """
    match unpack(entry, bytes_max=ENTRY_BYTES_MAX):
        case [str(kind), *rest]:
            return [kind, *rest]
        case _:
            raise DecodeError("not an entry of a journal")
