"""`srwan ditex`: read, search, watch, export and serve a record store; every signature is verified again by whoever reads.

This module declares the actions and shows a whole store; searching and watching are in `ditex_search`, serving in `ditex_serve`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from typing import Any

import numpy as np
import trio

from srwan.gossip.clock_fit import recovered_ms
from srwan.ledger_client.complaint import Omission
from srwan.ledger_client.exchange.open_store import open_store_at
from srwan.ledger_client.read import DitexContents, GroupContents, read_matrix
from srwan.ledger_client.record import Kind
from srwan.ledger_client.verify_pool import PROCESSES_DEFAULT_MAX, PROCESSES_MAX
from srwan.publisher import member_name
from srwan.sole_error import sole_error
from srwan.types import NodeId

__all__ = ["add_arguments", "run"]

STORE = "path of an SQLite file, or etcd:http://HOST:2379,http://HOST:2379"
PROCESSES = (
    f"check signatures in so many processes of their own, 0..{PROCESSES_MAX} (as many as cores, {PROCESSES_DEFAULT_MAX} at most, of one: 0)"
)
LIMIT = 100
COMPLAINTS_SHOWN_MAX = 10
"""Lines of complaints about the reporters of a group: whoever is in no roster may complain as well, and of every report."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions and their arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    show = _action(actions, "show", "verify all records and print the newest report of each group", has_store=False)
    show.add_argument("file", metavar="STORE", help=f"{STORE}; may be in use")
    _add_serve(
        _action(actions, "serve", "run a DITEX server: keep a store, exchange records with other operators' servers", has_store=False)
    )
    _add_search(_action(actions, "search", "find segments, offers or path statistics"))
    history = _action(actions, "history", "show what was measured of one segment over time")
    history.add_argument("sender", metavar="FROM", help="id of a router, or the beginning of it, or its name")
    history.add_argument("receiver", metavar="TO", help="likewise")
    history.add_argument("--limit", type=_count, default=LIMIT, help=f"samples ({LIMIT})")
    watch = _action(actions, "watch", "print records as they come")
    watch.add_argument("--after", type=int, metavar="REVISION", help="go on behind this revision (without it: from now on)")
    watch.add_argument("--kind", choices=[kind.value for kind in Kind], help="only these")
    watch.add_argument("--count", type=_count, help="end after so many records")
    export = _action(actions, "export", "write segments, rows or offers to a table")
    export.add_argument("file", metavar="FILE", help="ends in .csv, or in .parquet where pyarrow is installed")
    export.add_argument("--what", choices=["segments", "rows", "offers"], default="segments", help="(segments)")
    _add_places(export)


def _action(actions: Any, name: str, summary: str, *, has_store: bool = True) -> argparse.ArgumentParser:
    action: argparse.ArgumentParser = actions.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
    if has_store:
        action.add_argument("--store", required=True, metavar="STORE", help=STORE)
    action.add_argument("--json", action="store_true", help="print JSON: one object, or one a line as they come")
    return action


def _add_serve(serve: argparse.ArgumentParser) -> None:
    serve.add_argument("--store", metavar="STORE", help=f"{STORE} (ditex.sqlite in the state folder)")
    serve.add_argument("--control", metavar="ADDRESS:PORT", default="0.0.0.0:4720", help="TCP address to listen on (0.0.0.0:4720)")
    serve.add_argument("--announce", action="append", default=[], metavar="MULTIADDR", help="address told to others, without /p2p")
    serve.add_argument("--peer", action="append", default=[], metavar="MULTIADDR", help="a server to exchange with; may be repeated")
    serve.add_argument("--peers-only", action="store_true", help="answer the given peers only")
    serve.add_argument("--state-dir", metavar="FOLDER", help="identity and, without --store, the records (none: a new identity each start)")
    serve.add_argument("--period", type=_seconds, default=10.0, metavar="SECONDS", help="between two sessions with a peer (10)")
    serve.add_argument("--verify-processes", type=_processes, metavar="N", help=PROCESSES)
    serve.add_argument("-v", "--verbose", action="count", default=0, help="log more")


def _add_search(search: argparse.ArgumentParser) -> None:
    kinds = [kind.value for kind in Kind]
    search.add_argument("--kind", choices=kinds, default="row", help="row: segments (default); offer; path: statistics of paths; others")
    _add_places(search)
    search.add_argument("--near", metavar="LAT,LON", help="of segments: nearest senders first, degrees (otherwise the quickest first)")
    search.add_argument("--to", metavar="COUNTRY:ASN", help="of segments: where they end; the ASN may be left out")
    search.add_argument("--owl-ms-max", type=float, metavar="MS", help="of segments: longest recovered one-way latency")
    search.add_argument("--price-max", type=int, metavar="MICROTOKEN", help="of segments and offers: highest price of a GB")
    search.add_argument("--limit", type=_count, default=LIMIT, help=f"results ({LIMIT})")


def _add_places(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--country", metavar="CC", help="ISO 3166-1 code; of segments: where they begin")
    parser.add_argument("--asn", type=int, metavar="N", help="autonomous system; needs --country")


def _count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 1_000_000:
        raise argparse.ArgumentTypeError(f"{text} is not in 1..1000000")
    return number


def _processes(text: str) -> int:
    number = int(text)
    if not 0 <= number <= PROCESSES_MAX:
        raise argparse.ArgumentTypeError(f"{text} is not in 0..{PROCESSES_MAX}")
    return number


def _seconds(text: str) -> float:
    number = float(text)
    if not 0.1 <= number <= 86_400:
        raise argparse.ArgumentTypeError(f"{text} is not in 0.1..86400")
    return number


def run(options: argparse.Namespace) -> int:
    """Do it. Exit status 1 if a record that was to be shown did not verify, or nothing was found."""
    if options.action == "serve":
        from srwan.cli import ditex_serve  # noqa: PLC0415 - 0.9 s of libp2p for servers only

        return ditex_serve.run(options)
    if options.action != "show":
        from srwan.cli import ditex_search  # noqa: PLC0415 - not needed to show

        return ditex_search.run(options)
    contents = trio.run(_read, options.file)
    shown = _as_json(contents)
    if options.json:
        sys.stdout.write(json.dumps(shown) + "\n")
    else:
        _print(shown)
    return 0 if contents.verified == contents.records else 1


async def _read(where: str) -> DitexContents:
    with sole_error():
        async with open_store_at(where, is_read_only=True) as store:
            return await read_matrix(store, wall_ns=time.time_ns())
    raise AssertionError


def _as_json(contents: DitexContents) -> dict[str, Any]:
    return {
        "revision": contents.revision,
        "records": contents.records,
        "verified": contents.verified,
        "refused": dict(contents.refused),
        "equivocations": contents.equivocations,
        "unproven_complaints": contents.unproven,
        "groups": [_group_as_json(group) for group in contents.groups],
    }


def _name(group: GroupContents, node: NodeId) -> str:
    return member_name(group.nodes[node]) if node in group.nodes else str(node)[:12]


def _complaint_as_json(group: GroupContents, omission: Omission) -> dict[str, Any]:
    return {
        "reporter": str(omission.reporter),
        "reporter_name": _name(group, omission.reporter),
        "complainant": str(omission.complainant),
        "complainant_name": _name(group, omission.complainant),
        "epoch": omission.epoch,
        "is_in_roster": omission.is_in_roster,
        "is_of_this_report": omission in group.omissions,
    }


def _group_as_json(group: GroupContents) -> dict[str, Any]:
    matrix = group.matrix()
    names = [_name(group, node) for node in matrix.roster]
    report = group.report
    return {
        "group": report.group.hex(),
        "epoch": report.epoch,
        "sequence": report.sequence,
        "reporter": _name(group, report.reporter),
        "is_expired": group.is_expired,
        "is_entitled": group.is_entitled,
        "rows": len(group.rows),
        "left_out": [str(node) for node in group.left_out],
        "not_held": [str(node) for node in group.missing],
        "unlisted": [str(node) for node in group.unlisted],
        "complaints": [_complaint_as_json(group, omission) for omission in group.complaints],
        "members": [str(node) for node in matrix.roster],
        "names": names,
        "raw_ms": _plain(matrix.owl_ms),
        "owl_ms": _plain(recovered_ms(matrix.owl_ms)),
    }


def _plain(matrix: np.ndarray[Any, np.dtype[np.float64]]) -> list[list[float | None]]:
    return [[round(float(value), 2) if np.isfinite(value) else None for value in row] for row in matrix]


def _gaps(group: dict[str, Any]) -> list[str]:
    """Say what the report leaves out, what the store lacks of it, and who complains of the group's reporters."""
    named = dict(zip(group["members"], group["names"], strict=True))
    lines = [] if group["is_entitled"] else ["the reporter was not elected"]
    sentences = {
        "left_out": "left out by the report",
        "not_held": "named by the report, not in this store",
        "unlisted": "not in the roster",
    }
    for key, sentence in sentences.items():
        if group[key]:
            lines.append(f"{sentence}: {', '.join(named.get(node, node[:12]) for node in group[key])}")
    counted = Counter(
        (each["reporter_name"], each["complainant_name"], "" if each["is_in_roster"] else ", whom it did not name")
        for each in group["complaints"]
    )
    for (reporter, complainant, remark), count in counted.most_common(COMPLAINTS_SHOWN_MAX):
        lines.append(f"{reporter} left out {complainant}{remark}: {count} complaint{'s' * (count != 1)}")
    if len(counted) > COMPLAINTS_SHOWN_MAX:
        lines.append(f"and {len(counted) - COMPLAINTS_SHOWN_MAX} more who complain; --json shows all")
    return lines


def _print(shown: dict[str, Any]) -> None:
    write = sys.stdout.write
    write(f"{shown['records']} records, {shown['verified']} verified, refused {shown['refused'] or 'none'}\n")
    for group in shown["groups"]:
        write(f"\ngroup {group['group'][:16]}, epoch {group['epoch']}, report {group['sequence']} by {group['reporter']}, ")
        write(f"{group['rows']} rows\n")
        for line in _gaps(group):
            write(f"{line}\n")
        write("one-way latency in ms, from row to column, clock offsets estimated out\n")
        width = max(map(len, group["names"]), default=0)
        for name, row in zip(group["names"], group["owl_ms"], strict=True):
            write(f"{name:>{width}} " + " ".join("    -" if value is None else f"{value:5.0f}" for value in row) + "\n")
