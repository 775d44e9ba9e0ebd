"""How fast the embedded DITEX takes verified records in, and how soon it answers which routers are in a place.

    python benchmarks/ledger.py [--json] [--records 100000] [--repetitions 5] [--output FILE]

Ingest: signed rows of groups of 100 (436 B as gossip sends them) are put in batches of 500 into a new file on the disk of --folder. Every
signature is verified before it is stored, as always; "verify" is the same check alone, in the same run, so that the difference is the
storage; "_cpu_us" is CPU time a record. "ingest_full" waits for the disk at each batch (synchronous FULL), "ingest" does not (NORMAL).

Query: one file with --records newest records in 30 countries and 2,000 autonomous systems; the questions are a random country and either
one ASN or a range of 100, of all rows found. Time is of the call as an application makes it, with the way to the worker thread and back
and the making of the records found, which is most of the longer one. The file is warm in the page cache.

Each figure: the median over repetitions, with least and greatest, after one repetition to warm up that is not counted. A repetition of
ingest is 5,000 records, of queries 500 questions, of which it gives the median and the 95th percentile.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import apsw
import attrs
import trio

from srwan.gossip.row import Row, seal_row
from srwan.identity import Identity
from srwan.ledger_client.record import Kind, Record, check
from srwan.ledger_client.report import NS_PER_S
from srwan.ledger_client.sqlite import SqliteStore
from srwan.ledger_client.store import Query
from srwan.types import GeoAsn

BATCH = 500
INGEST_RECORDS = 5_000
QUESTIONS = 500
GROUP_MEMBERS = 100
ASNS = 2_000
ASN_SPANS = (1, 100)
COUNTRIES = [first + second for first in "ABCDEF" for second in "VWXYZ"]
WALL_NS = 1_780_000_000 * NS_PER_S


def rows_of(count: int, rng: random.Random) -> list[Record]:
    """Make `count` signed rows under as many keys: members are in several groups, each in one place."""
    identities = [Identity(rng.randbytes(32)) for _ in range(max(1, min(count, 1_000)))]
    places = [GeoAsn(rng.choice(COUNTRIES), asn=rng.randrange(ASNS)) for _ in range(count)]
    entries = rng.randbytes(3 * GROUP_MEMBERS)
    records: list[Record] = []
    for number in range(count):
        identity = identities[number % len(identities)]
        group = (number // len(identities)).to_bytes(32, "big")
        row = Row(identity.node_id, 1, 1, 0, bytes(8), 0, 0, 0, 0, 0, 0, GROUP_MEMBERS, is_described=False, entries=entries)
        content = seal_row(row, identity, group).content
        expires_ns = WALL_NS + 900 * NS_PER_S
        records.append(Record.of_row(identity.node_id, content, group=group, expires_ns=expires_ns, place=places[number]))
    return records


def batches_of(records: Sequence[Record]) -> list[Sequence[Record]]:
    """Cut into batches."""
    return [records[start : start + BATCH] for start in range(0, len(records), BATCH)]


@attrs.frozen(slots=True)
class Speed:
    """Of one pass over records."""

    per_s: float
    """Records a second of wall time."""
    cpu_us: float
    """CPU time of this process a record, user and system, us: robust against other work on the machine, but not free of it."""

    @classmethod
    def since(cls, start: tuple[float, float], count: int) -> Speed:
        """Of `count` records since `now_s()` was `start`."""
        wall_s, cpu_s = (now - then for now, then in zip(now_s(), start, strict=True))
        return cls(count / wall_s, cpu_s / count * 1e6)


def now_s() -> tuple[float, float]:
    """Wall time and CPU time, s."""
    return time.perf_counter(), time.process_time()


async def ingest(records: Sequence[Record], folder: Path, synchronous: Literal["NORMAL", "FULL"]) -> Speed:
    """Put all into a new file."""
    with tempfile.TemporaryDirectory(dir=folder) as fresh:
        async with await SqliteStore.open(Path(fresh) / "ditex.db", synchronous=synchronous) as store:
            start = now_s()
            for batch in batches_of(records):
                outcome = await store.put_many(batch, WALL_NS)
                assert outcome.stored == len(batch)
            return Speed.since(start, len(records))


def verification(records: Sequence[Record]) -> Speed:
    """Check all, store none."""
    start = now_s()
    for record in records:
        check(record, WALL_NS)
    return Speed.since(start, len(records))


async def query_us(store: SqliteStore, rng: random.Random, asn_span: int) -> dict[str, float]:
    """Ask QUESTIONS times for a range of ASN in one country; return latencies in us and how many records an answer had."""
    whole_us: list[float] = []
    found: list[int] = []
    start_cpu_s = time.process_time()
    for _ in range(QUESTIONS):
        asn = rng.randrange(ASNS - asn_span + 1)
        query = Query(kind=Kind.ROW, country=rng.choice(COUNTRIES), asn_min=asn, asn_max=asn + asn_span - 1)
        start_s = time.perf_counter()
        found.append(len(await store.range(query)))
        whole_us.append((time.perf_counter() - start_s) * 1e6)
    prefix = f"query_{asn_span}_asn"
    return {
        f"{prefix}_p50_us": statistics.median(whole_us),
        f"{prefix}_p95_us": statistics.quantiles(whole_us, n=20)[18],
        f"{prefix}_cpu_us": (time.process_time() - start_cpu_s) * 1e6 / QUESTIONS,
        f"{prefix}_found": statistics.mean(found),
    }


@attrs.frozen(slots=True)
class Figure:
    """A measured figure over repetitions."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        """Sum up."""
        return cls(round(statistics.median(values), 1), round(min(values), 1), round(max(values), 1))


async def measure(records: int, repetitions: int, folder: Path, report: Callable[[str], None]) -> dict[str, Figure]:
    """Run all and return the figures by name."""
    rng = random.Random(7)
    report(f"signing {records} rows")
    rows = rows_of(records, rng)
    sample = rows[:INGEST_RECORDS]
    series: dict[str, list[float]] = {}
    for repetition in range(repetitions + 1):
        report(f"ingest {repetition} of {repetitions}")
        speeds = {
            "verify": verification(sample),
            "ingest": await ingest(sample, folder, "NORMAL"),
            "ingest_full": await ingest(sample, folder, "FULL"),
        }
        for name, speed in speeds.items():
            collect(series, {f"{name}_per_s": speed.per_s, f"{name}_cpu_us": speed.cpu_us}, is_counted=repetition > 0)
    with tempfile.TemporaryDirectory(dir=folder) as fresh:
        path = Path(fresh) / "ditex.db"
        report(f"filling a file with {records} records")
        async with await SqliteStore.open(path) as store:
            for batch in batches_of(rows):
                await store.put_many(batch, WALL_NS)
            for repetition in range(repetitions + 1):
                for asn_span in ASN_SPANS:
                    collect(series, await query_us(store, rng, asn_span), is_counted=repetition > 0)
        file_bytes = path.stat().st_size
    series["file_bytes_per_record"] = [file_bytes / records]
    return {name: Figure.of(values) for name, values in series.items()}


def collect(series: dict[str, list[float]], values: dict[str, float], *, is_counted: bool) -> None:
    """Add the values of a repetition."""
    for name, value in values.items():
        series.setdefault(name, []).extend([value] if is_counted else [])


def main() -> None:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=100_000, help="in the file that is asked, at least 5000")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where the files are made, and removed")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--output", type=Path, help="write the JSON to this file, too")
    arguments = parser.parse_args()
    if arguments.records < INGEST_RECORDS or arguments.repetitions < 1:
        parser.error(f"at least {INGEST_RECORDS} records and one repetition")

    def report(text: str) -> None:
        print(text, file=sys.stderr)

    load_average = os.getloadavg()[0]
    figures = trio.run(measure, arguments.records, arguments.repetitions, arguments.folder, report)
    result = {
        "benchmark": "ledger",
        "records": arguments.records,
        "batch": BATCH,
        "repetitions": arguments.repetitions,
        "python": platform.python_version(),
        "sqlite": apsw.sqlite_lib_version(),
        "machine": platform.machine(),
        "load_average_before": round(load_average, 1),
        "figures": {name: attrs.asdict(figure) for name, figure in figures.items()},
    }
    text = json.dumps(result, indent=2)
    if arguments.output:
        arguments.output.write_text(text + "\n")
    if arguments.json:
        print(text)
        return
    for name, figure in figures.items():
        print(f"{name:24} {figure.median:>12,.1f}   ({figure.least:,.1f} .. {figure.greatest:,.1f})")


if __name__ == "__main__":
    main()
