"""Lets a caller see the one error that ended a block of tasks, not the exception groups of its nurseries."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["sole_error"]


@contextmanager
def sole_error() -> Iterator[None]:
    """Replace an exception group that holds a single exception, at whatever depth, by that exception. Others pass unchanged."""
    try:
        yield
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        if isinstance(error, BaseExceptionGroup):
            raise
        raise error from error.__cause__
