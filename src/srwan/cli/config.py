"""`srwan config`: check a configuration file before a router is restarted with it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import attrs

from srwan.config import load_config

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("action", choices=["check"], help="check: read the file, report the first error or the resulting settings")
    parser.add_argument("file", type=Path, help="TOML file")


def run(options: argparse.Namespace) -> int:
    """Print the settings that the file results in. Errors name the key, the value and the range."""
    for field, value in attrs.asdict(load_config(options.file), recurse=False).items():
        sys.stdout.write(f"{field} = {value!s}\n")
    return 0
