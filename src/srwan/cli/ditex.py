"""`srwan ditex`: read a record store as one that is not trusted; every signature is verified again."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import trio

from srwan.gossip.clock_fit import recovered_ms
from srwan.ledger_client.read import DitexContents, GroupContents, read_file
from srwan.publisher import member_name

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("action", choices=["show"], help="show: verify all records and print the newest report of each group")
    parser.add_argument("file", type=Path, help="SQLite file of a node; may be in use")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> int:
    """Print what the store holds. Exit status 1 if a record did not verify."""
    contents = trio.run(_read, options.file)
    shown = _as_json(contents)
    if options.json:
        sys.stdout.write(json.dumps(shown) + "\n")
    else:
        _print(shown)
    return 0 if contents.verified == contents.records else 1


async def _read(path: Path) -> DitexContents:
    return await read_file(path, wall_ns=time.time_ns())


def _as_json(contents: DitexContents) -> dict[str, Any]:
    return {
        "revision": contents.revision,
        "records": contents.records,
        "verified": contents.verified,
        "refused": dict(contents.refused),
        "equivocations": contents.equivocations,
        "groups": [_group_as_json(group) for group in contents.groups],
    }


def _group_as_json(group: GroupContents) -> dict[str, Any]:
    matrix = group.matrix()
    names = [member_name(group.nodes[node]) if node in group.nodes else str(node)[:12] for node in matrix.roster]
    report = group.report
    return {
        "group": report.group.hex(),
        "epoch": report.epoch,
        "sequence": report.sequence,
        "reporter": names[matrix.roster.index(report.reporter)] if report.reporter in matrix.roster else str(report.reporter)[:12],
        "is_expired": group.is_expired,
        "rows": len(group.rows),
        "members": [str(node) for node in matrix.roster],
        "names": names,
        "raw_ms": _plain(matrix.owl_ms),
        "owl_ms": _plain(recovered_ms(matrix.owl_ms)),
    }


def _plain(matrix: np.ndarray[Any, np.dtype[np.float64]]) -> list[list[float | None]]:
    return [[round(float(value), 2) if np.isfinite(value) else None for value in row] for row in matrix]


def _print(shown: dict[str, Any]) -> None:
    write = sys.stdout.write
    write(f"{shown['records']} records, {shown['verified']} verified, refused {shown['refused'] or 'none'}\n")
    for group in shown["groups"]:
        write(f"\ngroup {group['group'][:16]}, epoch {group['epoch']}, report {group['sequence']} by {group['reporter']}, ")
        write(f"{group['rows']} rows\n")
        write("one-way latency in ms, from row to column, clock offsets estimated out\n")
        width = max(map(len, group["names"]), default=0)
        for name, row in zip(group["names"], group["owl_ms"], strict=True):
            write(f"{name:>{width}} " + " ".join("    -" if value is None else f"{value:5.0f}" for value in row) + "\n")
