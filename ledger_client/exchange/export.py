"""Segments, rows and offers as a table in a file: CSV, or Parquet where pyarrow is installed. A shell.

The file is written beside its place and renamed: it is whole or not there. Money and octets are written as integers, latencies in ms with
two decimals (CSV) or as floats (Parquet); unknown values are empty. Texts of others cannot pass for formulas of a spreadsheet: one that
begins like a formula gets an apostrophe before it.
"""

from __future__ import annotations

import csv
import io
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from srwan.errors import ConfigError
from srwan.gossip.row import open_row
from srwan.ledger_client.exchange.segments import Segment
from srwan.ledger_client.market.offer import Offer
from srwan.ledger_client.record import Kind, Record

__all__ = ["offer_fields", "row_fields", "segment_fields", "write_table"]

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def segment_fields(segment: Segment) -> dict[str, Any]:
    """Return a segment as one line of a table."""
    return {
        "group": segment.group.hex(),
        "from": str(segment.sender),
        "from_name": segment.sender_name,
        "from_country": segment.sender_place.country,
        "from_asn": segment.sender_place.asn,
        "from_lat": segment.sender_place.lat_cdeg / 100,
        "from_lon": segment.sender_place.lon_cdeg / 100,
        "to": str(segment.receiver),
        "to_name": segment.receiver_name,
        "to_country": segment.receiver_place.country,
        "to_asn": segment.receiver_place.asn,
        "to_lat": segment.receiver_place.lat_cdeg / 100,
        "to_lon": segment.receiver_place.lon_cdeg / 100,
        "raw_ms": _known(segment.raw_ms),
        "owl_ms": _known(segment.owl_ms),
        "price_microtoken_per_gb": segment.price_microtoken_per_gb,
        "epoch": segment.epoch,
        "measured_ns": segment.measured_ns,
        "is_attested": segment.is_attested,
        "is_expired": segment.is_expired,
    }


def offer_fields(offer: Offer) -> dict[str, Any]:
    """Return an offer as one line of a table."""
    return {
        "seller": str(offer.seller),
        "country": offer.country,
        "asn": offer.asn,
        "price_microtoken_per_gb": offer.price_microtoken_per_gb,
        "carries": offer.carries,
        "wallet": None if offer.wallet is None else offer.wallet.hex(),
        "label": offer.label,
        "is_premium": offer.is_premium,
        "is_anonymous": offer.is_anonymous,
        "saved_full_us": offer.saved_full_us,
        "rate_kbps": offer.limits.rate_kbps,
        "day_octets": offer.limits.day_octets,
        "promises": " ".join(f"{each.to}<={each.owl_us_max}us" for each in offer.promises),
        "issued_ns": offer.issued_ns,
        "expires_ns": offer.expires_ns,
        "digest": offer.digest.hex(),
    }


def row_fields(record: Record) -> dict[str, Any]:
    """Return a verified row as one line of a table."""
    assert record.kind is Kind.ROW
    row = open_row(record.subject, record.row_content).row
    return {
        "group": record.group.hex(),
        "node": str(record.subject),
        "country": record.country,
        "asn": record.asn,
        "boot": row.boot,
        "sequence": row.seq,
        "measured_ns": row.stamp_ns,
        "entries": row.count,
        "known": row.known,
        "octets_in": row.octets_in,
        "octets_out": row.octets_out,
        "octets_relayed": row.octets_relayed,
        "expires_ns": record.expires_ns,
    }


def _known(value_ms: float) -> float | None:
    return round(value_ms, 2) if math.isfinite(value_ms) else None


def write_table(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a table; what was at `path` before is replaced.

    Args:
        path: its ending chooses the form: .csv or .parquet.
        columns: their order.
        rows: one mapping with all columns each.

    Raises:
        ConfigError: another ending, pyarrow is missing, or the file cannot be written. Nothing is left behind.
    """
    if path.suffix == ".csv":
        content = _csv(columns, rows)
    elif path.suffix == ".parquet":
        content = _parquet(path, columns, rows)
    else:
        raise ConfigError(str(path), f"no table ends in {path.suffix!r}", "choose a name that ends in .csv or .parquet")
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            try:
                file.write(content)
                file.flush()
                os.fchmod(file.fileno(), 0o644)
                Path(file.name).replace(path)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise ConfigError(
            str(path), f"it cannot be written ({error.strerror})", "choose a folder that exists and where you may write"
        ) from error


def _csv(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row[column]) for column in columns] for row in rows)
    return text.getvalue().encode()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.2f}"
    if isinstance(value, str) and value.startswith(_FORMULA_STARTS):
        return f"'{value}"
    return str(value)


def _parquet(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> bytes:
    try:
        arrow: Any = import_module("pyarrow")
        parquet: Any = import_module("pyarrow.parquet")
    except ImportError:
        raise ConfigError(str(path), "Parquet needs pyarrow, which is not installed", "pip install pyarrow, or write a .csv") from None
    table = arrow.table({column: [row[column] for row in rows] for column in columns})
    sink = arrow.BufferOutputStream()
    parquet.write_table(table, sink)
    return bytes(sink.getvalue())
