"""`srwan ditex search`, `history`, `watch` and `export`: what stands in a store, looked up, followed, and taken away."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import trio

from srwan.errors import ConfigError, RemoteProtocolError
from srwan.ledger_client.accounting.receipt import Receipt, receipt_of_statement
from srwan.ledger_client.exchange.export import offer_fields, row_fields, segment_fields, write_table
from srwan.ledger_client.exchange.open_store import open_store_at
from srwan.ledger_client.exchange.segments import (
    Place,
    SegmentQuery,
    find_segments,
    read_offers,
    read_records,
    segment_history,
)
from srwan.ledger_client.record import Kind, Record, verify
from srwan.ledger_client.statement import Statement
from srwan.ledger_client.store import Query, RecordStore, StoredRecord
from srwan.publisher import member_name
from srwan.sole_error import sole_error
from srwan.types import NodeId

__all__ = ["run"]

EXPORTED_MAX = 10_000_000
"""Lines of a table."""
_COLUMNS = {
    "row": ("from_name", "from_country", "from_asn", "to_name", "to_country", "to_asn", "owl_ms", "raw_ms", "price_microtoken_per_gb"),
    "offer": ("seller", "country", "asn", "price_microtoken_per_gb", "is_premium", "label"),
    "path": ("egress", "consumer", "octets", "predicted_us", "measured_us", "direct_us", "saved_us"),
}
_COLUMNS_OF_OTHERS = ("kind", "subject", "country", "asn", "version", "expires_ns", "bytes")


def run(options: argparse.Namespace) -> int:
    """Do it. Exit status 1 if nothing was found."""
    actions = {"search": _search, "history": _history, "watch": _watch, "export": _export}
    return trio.run(_with_store, actions[options.action], options)


async def _with_store(action: Callable[[RecordStore, argparse.Namespace], Awaitable[int]], options: argparse.Namespace) -> int:
    status = 0
    with sole_error():
        async with open_store_at(options.store, is_read_only=True) as store:
            status = await action(store, options)
    return status


# --- search ---


def _place(options: argparse.Namespace) -> Place:
    try:
        return Place(options.country and options.country.upper(), options.asn)
    except ValueError as error:
        raise ConfigError("--asn", str(error), "give --country, too") from None


def _segment_query(options: argparse.Namespace) -> SegmentQuery:
    near = None
    if options.near is not None:
        try:
            latitude, longitude = map(float, options.near.split(","))
        except ValueError:
            raise ConfigError("--near", f"{options.near!r} is not usable", "give LATITUDE,LONGITUDE in degrees") from None
        if not (-90 <= latitude <= 90 and -180 <= longitude <= 180):
            raise ConfigError("--near", f"{options.near!r} is not on Earth", "give LATITUDE,LONGITUDE in degrees")
        near = latitude, longitude
    try:
        receiver = Place() if options.to is None else Place.parse(options.to)
    except ValueError as error:
        raise ConfigError("--to", str(error), "give for example DE:3320") from None
    return SegmentQuery(_place(options), receiver, near, options.owl_ms_max, options.price_max, options.limit)


async def _search(store: RecordStore, options: argparse.Namespace) -> int:
    found = await _found(store, options)
    if options.json:
        sys.stdout.write(json.dumps({"kind": options.kind, "found": found}) + "\n")
    else:
        _print_table(_COLUMNS.get(options.kind, _COLUMNS_OF_OTHERS), found)
    return 0 if found else 1


async def _found(store: RecordStore, options: argparse.Namespace) -> list[dict[str, Any]]:
    wall_ns = time.time_ns()
    if options.kind == Kind.ROW:
        return [segment_fields(each) for each in await find_segments(store, _segment_query(options), wall_ns=wall_ns)]
    place = _place(options)
    if options.kind == Kind.OFFER:
        offers = await read_offers(store, place, wall_ns=wall_ns)
        if options.price_max is not None:
            offers = [each for each in offers if each.carries and (each.price_microtoken_per_gb or 0) <= options.price_max]
        offers.sort(key=lambda each: (not each.carries, each.price_microtoken_per_gb or 0, each.seller))
        return [offer_fields(each) for each in offers[: options.limit]]
    query = attrs.evolve(place.query(Kind(options.kind)), unexpired_ns=wall_ns)
    records = await read_records(store, query, limit=options.limit)
    if options.kind == Kind.PATH:
        receipts = [_receipt_of(record) for record in records]
        return [_receipt_fields(receipt) for receipt in receipts if receipt is not None]
    return [_record_fields(record) for record in records]


def _receipt_of(record: Record) -> Receipt | None:
    try:
        receipt = receipt_of_statement(Statement.of_record(record))
        receipt.verify(is_accepted=True)
    except RemoteProtocolError:
        return None
    return receipt


def _receipt_fields(receipt: Receipt) -> dict[str, Any]:
    return {
        "session": receipt.session.hex(),
        "consumer": str(receipt.consumer),
        "egress": str(receipt.egress),
        "octets": receipt.octets,
        "packets": receipt.packets,
        "predicted_us": receipt.predicted_us,
        "measured_us": receipt.measured_us,
        "direct_us": receipt.direct_us,
        "saved_us": receipt.saved_us,
        "wall_ns": receipt.wall_ns,
    }


def _record_fields(record: Record) -> dict[str, Any]:
    return {
        "kind": record.kind.value,
        "group": record.group.hex(),
        "subject": str(record.subject),
        "topic": record.topic.hex(),
        "version": list(record.version),
        "expires_ns": record.expires_ns,
        "country": record.country,
        "asn": record.asn,
        "bytes": len(record.envelope),
    }


def _print_table(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    cells = [[_shown(row[column]) for column in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    for line in (columns, *cells):
        sys.stdout.write("  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)) + "\n")


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.1f}"
    text = str(value)
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= 32 else text[:12]


# --- history ---


async def _history(store: RecordStore, options: argparse.Namespace) -> int:
    nodes = await read_records(store, Query(kind=Kind.NODE))
    sender, receiver = _find(nodes, options.sender), _find(nodes, options.receiver)
    samples = []
    for group in sorted({record.group for record in nodes if record.subject == receiver}):
        samples += await segment_history(store, group, sender, receiver, limit=options.limit)
    samples.sort(key=lambda sample: (-sample.boot, -sample.sequence))
    found = [attrs.asdict(sample) for sample in samples[: options.limit]]
    if options.json:
        sys.stdout.write(json.dumps({"from": str(sender), "to": str(receiver), "samples": found}) + "\n")
    else:
        _print_table(("measured_ns", "sequence", "raw_ms", "jitter_ms", "loss_share"), found)
    return 0 if found else 1


def _find(nodes: Sequence[Record], wanted: str) -> NodeId:
    """The router of that name, or whose id begins so."""
    found = {record.subject for record in nodes if str(record.subject).startswith(wanted.lower()) or member_name(record) == wanted}
    if len(found) != 1:
        problem = "no router of the store is called so" if not found else f"{len(found)} routers are called so"
        raise ConfigError(wanted, problem, "give more of its id; `srwan ditex search --kind node --json` lists them")
    return found.pop()


# --- watch ---


async def _watch(store: RecordStore, options: argparse.Namespace) -> int:
    after = await store.revision() if options.after is None else options.after
    left = options.count
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def stop() -> None:
                async for _ in signals:
                    nursery.cancel_scope.cancel()

            nursery.start_soon(stop)
            while left is None or left > 0:
                page = await store.watch(after)
                after = page[-1].revision
                shown = [stored for stored in page if options.kind in (None, stored.record.kind.value)][:left]
                for stored in shown:
                    _tell(stored, as_json=options.json)
                left = None if left is None else left - len(shown)
            nursery.cancel_scope.cancel()
    return 0


def _tell(stored: StoredRecord, *, as_json: bool) -> None:
    record = stored.record
    try:
        verify(record)
        problem = None
    except RemoteProtocolError as error:
        problem = error.reason
    if as_json:
        sys.stdout.write(json.dumps({"revision": stored.revision, "problem": problem, **_record_fields(record)}) + "\n")
    else:
        name = member_name(record) if record.kind is Kind.NODE else str(record.subject)[:12]
        version = f"{record.version.era}.{record.version.sequence}"
        place = f"{record.country}:{record.asn}"
        sys.stdout.write(
            f"{stored.revision:>10}  {record.kind.value:9}  {_shown(name):12}  {place:12}  {version}  {problem or 'verified'}\n"
        )
    sys.stdout.flush()


# --- export ---


async def _export(store: RecordStore, options: argparse.Namespace) -> int:
    place, wall_ns = _place(options), time.time_ns()
    rows: list[dict[str, Any]]
    if options.what == "segments":
        rows = [segment_fields(each) for each in await find_segments(store, SegmentQuery(place, limit=EXPORTED_MAX), wall_ns=wall_ns)]
    elif options.what == "offers":
        rows = [offer_fields(each) for each in await read_offers(store, place, wall_ns=wall_ns)]
    else:
        rows = [row_fields(record) for record in await read_records(store, place.query(Kind.ROW))]
    if not rows:
        sys.stderr.write(f"srwan: the store holds no {options.what} of that place; nothing was written\n")
        return 1
    path = Path(options.file)
    await trio.to_thread.run_sync(write_table, path, tuple(rows[0]), rows)
    told = {"file": str(path), "what": options.what, "rows": len(rows)}
    sys.stdout.write(json.dumps(told) + "\n" if options.json else f"{len(rows)} {options.what} written to {path}\n")
    return 0
