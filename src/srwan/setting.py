"""Checks of single values that several sections of a configuration share. Pure; what a section may hold is its own module's business."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from srwan.errors import ConfigError

__all__ = ["Checks", "checked_fields", "flag_of", "items_of", "path_of"]

Checks: TypeAlias = Mapping[str, tuple[str, Callable[[str, Any], Any]]]
"""By key of a section: the name of its field, and the check, which takes the dotted key and the value and returns what the field holds."""


def checked_fields(section: str, values: Mapping[str, Any], checks: Checks) -> dict[str, Any]:
    """Return the fields of a section.

    Args:
        section: its name, without a dot.
        values: by key without the section's name; all of them keys of `checks`.
        checks: of the section.

    Raises:
        ConfigError: a value that its check refuses. KeyError: an unknown key.
    """
    fields: dict[str, Any] = {}
    for key, value in values.items():
        field, check = checks[key]
        fields[field] = check(f"{section}.{key}", value)
    return fields


def flag_of(key: str, value: Any) -> bool:
    """Return a truth value. Raises ConfigError where it is none."""
    if not isinstance(value, bool):
        raise ConfigError(key, f"{value!r} is not usable", "give true or false")
    return value


def path_of(key: str, value: Any) -> Path | None:
    """Return a path, its "~" resolved; None stays None. Raises ConfigError where it is neither a path nor text of one."""
    if value is None or isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value or "\x00" in value:
        raise ConfigError(key, f"{value!r} is not usable", "give a path")
    return Path(value).expanduser()


def items_of(key: str, value: Any, count_max: int) -> list[Any]:
    """Return the items of a list, or of one item written without a list. Raises ConfigError where there are more than `count_max`."""
    items = list(value) if isinstance(value, (list, tuple)) else [value]
    if len(items) > count_max:
        raise ConfigError(key, f"{len(items)} entries", f"give a list of up to {count_max}")
    return items
