"""How fast the record stores take verified records in, and how soon they answer and tell.

    python benchmarks/ledger_stores.py [--json] [--stores sqlite etcd] [--quick] [--records 1000000] [--repetitions 5] [--folder DIR]

SQLite, taking in: signed rows of groups of 100 (436 B as gossip sends them) go into a new file in batches of 500, every signature verified
as always, in worker threads on all cores. "verify_one_thread" and "verify" are the checks alone on one core and on all, in the same run;
"store" is the writing alone, of records verified before. "ingest" puts batch after batch, "ingest_overlapped" keeps two batches under
way, so that one is verified while the other is written, "ingest_full" waits for the disk at each batch. "_cpu_us" is CPU time a record of
the whole process: robust against other work on the machine, though not free of it.

SQLite, answering: one file with --records newest records in 30 countries and 1,333 autonomous systems, 25 of each pair. The question is
for one pair, all records found. Time is of the call as an application makes it, with the way to the worker thread and back and the making
of the records. The file is filled without signatures, which a store does not look at when it answers; it is warm in the page cache.

etcd: three members on loopback on the same machine as their client, records of 600 B. "put" is one record a call, every one verified;
"gateway_put" a bare put of as many bytes through the same gateway, the bound of it; "batch" 257 records, a report of 128 members, that
supersede those before. "put_to_watch" is from before the put at one member until a watcher at another has the record. "leader_gap": the
leader is killed under sequential puts; the longest time between two acknowledged puts, what of them was lost, what the watcher missed.

Each figure is the median over repetitions with least and greatest, after one that is not counted; etcd's leader dies three times.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from pathlib import Path
from typing import Any, Literal

import apsw
import attrs
import trio

from srwan.gossip.row import Row, seal_row
from srwan.identity import Identity
from srwan.ledger_client.etcd import EtcdStore
from srwan.ledger_client.etcd_gateway import EtcdGateway, EtcdSettings, put_op
from srwan.ledger_client.record import Kind, Record
from srwan.ledger_client.report import NS_PER_S
from srwan.ledger_client.sqlite import SqliteStore
from srwan.ledger_client.sqlite_schema import INSERT
from srwan.ledger_client.store import Query
from srwan.ledger_client.verify_batch import refusals_in_threads, refusals_of
from srwan.types import GeoAsn

BATCH = 500
GROUP_MEMBERS = 100
REPORT_RECORDS = 257
ASNS = 1_333
COUNTRIES = [first + second for first in "ABCDEF" for second in "VWXYZ"]
WALL_NS = 1_780_000_000 * NS_PER_S
AIMS = {
    "ingest_overlapped_per_s_min": 20_000,
    "query_p99_ms_max": 5,
    "put_p50_ms_max": 5,
    "put_to_watch_p50_ms_max": 5,
    "leader_gap_s_max": 3,
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
        return cls(*(round(of(values), 2) for of in (statistics.median, min, max)))


class Series:
    """Values of each repetition, by name."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {}

    def add(self, values: dict[str, float], *, is_counted: bool = True) -> None:
        """Add those of one repetition."""
        for name, value in values.items():
            self._values.setdefault(name, []).extend([value] if is_counted else [])

    def figures(self) -> dict[str, Any]:
        """Sum up."""
        return {name: attrs.asdict(Figure.of(values)) for name, values in self._values.items() if values}


def report(text: str) -> None:
    """Say what is going on."""
    print(text, file=sys.stderr)


def rows_of(count: int, rng: random.Random, *, seq: int = 1, signers: int = 1_000) -> list[Record]:
    """Make `count` signed rows under as many keys: members are in several groups, each in one place."""
    identities = [Identity(rng.randbytes(32)) for _ in range(max(1, min(count, signers)))]
    places = [GeoAsn(rng.choice(COUNTRIES), asn=rng.randrange(ASNS)) for _ in range(count)]
    entries = rng.randbytes(3 * GROUP_MEMBERS)
    records: list[Record] = []
    for number in range(count):
        identity = identities[number % len(identities)]
        group = (number // len(identities)).to_bytes(32, "big")
        row = Row(identity.node_id, 1, seq, 0, bytes(8), 0, 0, 0, 0, 0, 0, GROUP_MEMBERS, is_described=False, entries=entries)
        content = seal_row(row, identity, group).content
        expires_ns = WALL_NS + 900 * NS_PER_S
        records.append(Record.of_row(identity.node_id, content, group=group, expires_ns=expires_ns, place=places[number]))
    return records


def batches_of(records: Sequence[Record]) -> list[Sequence[Record]]:
    """Cut into batches."""
    return [records[start : start + BATCH] for start in range(0, len(records), BATCH)]


@contextlib.contextmanager
def measured(name: str, count: int, into: dict[str, float]) -> Generator[None]:
    """Add the speed of `count` records in the block and their CPU time."""
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    yield
    into[f"{name}_per_s"] = count / (time.perf_counter() - wall_s)
    into[f"{name}_cpu_us"] = (time.process_time() - cpu_s) / count * 1e6


# ---- SQLite


async def ingest(store: SqliteStore, batches: Sequence[Sequence[Record]], under_way: int) -> None:
    """Put all, so many batches at a time."""
    left = list(batches[::-1])

    async def work() -> None:
        while left:
            batch = left.pop()
            assert (await store.put_many(batch, WALL_NS)).stored == len(batch)

    async with trio.open_nursery() as nursery:
        for _ in range(under_way):
            nursery.start_soon(work)


async def ingest_once(records: Sequence[Record], folder: Path) -> dict[str, float]:
    """Every way of taking them in, once."""
    found: dict[str, float] = {}
    batches = batches_of(records)
    with measured("verify_one_thread", len(records), found):
        assert not await trio.to_thread.run_sync(refusals_of, records, WALL_NS)
    with measured("verify", len(records), found):
        for batch in batches:
            assert not await refusals_in_threads(batch, WALL_NS)
    ways: list[tuple[str, Literal["NORMAL", "FULL"], int]] = [
        ("ingest", "NORMAL", 1),
        ("ingest_overlapped", "NORMAL", 2),
        ("ingest_full", "FULL", 1),
    ]
    for name, synchronous, under_way in ways:
        with tempfile.TemporaryDirectory(dir=folder) as fresh:
            async with await SqliteStore.open(Path(fresh) / "ditex.db", synchronous=synchronous) as store:
                with measured(name, len(records), found):
                    await ingest(store, batches, under_way)
    with tempfile.TemporaryDirectory(dir=folder) as fresh:
        async with await SqliteStore.open(Path(fresh) / "ditex.db") as store:
            with measured("store", len(records), found):
                for batch in batches:
                    await store._run(lambda batch=batch: store._put_batch(tuple(batch), WALL_NS, {}))  # type: ignore[misc]
    return found


def fill(path: Path, count: int, rng: random.Random) -> None:
    """Write `count` newest records of one envelope straight into a file of the store."""
    (model,) = rows_of(1, rng)
    connection = apsw.Connection(str(path))

    def rows() -> Generator[tuple[Any, ...]]:
        for _ in range(count):
            filed = (model.kind, rng.randbytes(32), rng.randbytes(32), b"", *model.version, model.expires_ns, 0)
            yield (*filed, rng.choice(COUNTRIES), rng.randrange(ASNS), model.envelope)

    indexes = list(connection.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL"))
    with connection:  # indexes are made afterwards: sorted, in a twentieth of the time
        for name, _ in indexes:
            list(connection.execute(f"DROP INDEX {name}"))
        list(connection.executemany(INSERT, rows()))
        for _, statement in indexes:
            list(connection.execute(statement))
    connection.close()


async def answers_once(store: SqliteStore, rng: random.Random, questions: int) -> dict[str, float]:
    """Ask for a random place, again and again."""
    took_ms: list[float] = []
    found: list[int] = []
    cpu_s = time.process_time()
    for _ in range(questions):
        asn = rng.randrange(ASNS)
        query = Query(kind=Kind.ROW, country=rng.choice(COUNTRIES), asn_min=asn, asn_max=asn)
        start_s = time.perf_counter()
        found.append(len(await store.range(query)))
        took_ms.append((time.perf_counter() - start_s) * 1e3)
    return {
        "query_p50_ms": statistics.median(took_ms),
        "query_p99_ms": statistics.quantiles(took_ms, n=100)[98],
        "query_cpu_us": (time.process_time() - cpu_s) / questions * 1e6,
        "query_found": statistics.mean(found),
    }


async def measure_sqlite(options: argparse.Namespace) -> dict[str, Any]:
    """All of the embedded store."""
    series, rng = Series(), random.Random(7)
    rows = rows_of(1_000 if options.quick else 5_000, rng)
    for repetition in range(options.repetitions + 1):
        report(f"sqlite: taking in, {repetition} of {options.repetitions}")
        series.add(await ingest_once(rows, options.folder), is_counted=repetition > 0)
    with tempfile.TemporaryDirectory(dir=options.folder) as fresh:
        path = Path(fresh) / "ditex.db"
        async with await SqliteStore.open(path) as store:
            report(f"sqlite: filling a file with {options.records} records")
            await trio.to_thread.run_sync(fill, path, options.records, rng)
            for repetition in range(options.repetitions + 1):
                report(f"sqlite: answering, {repetition} of {options.repetitions}")
                series.add(await answers_once(store, rng, 200 if options.quick else 1_000), is_counted=repetition > 0)
        series.add({"file_bytes_per_record": path.stat().st_size / options.records})
    return {"records": options.records, "batch": BATCH, "sqlite": apsw.sqlite_lib_version(), "figures": series.figures()}


# ---- etcd


class Cluster:
    """Three members on loopback, ended by their process ids."""

    def __init__(self, folder: Path) -> None:
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(6)]
        urls = [f"http://127.0.0.1:{each.getsockname()[1]}" for each in sockets]
        for each in sockets:
            each.close()
        self.endpoints, peers = tuple(urls[:3]), urls[3:]
        members = ",".join(f"m{index}={peer}" for index, peer in enumerate(peers))
        self.processes = [
            subprocess.Popen(
                [
                    "etcd", "--name", f"m{index}", "--data-dir", str(folder / f"m{index}"), "--initial-cluster", members,
                    "--listen-client-urls", self.endpoints[index], "--advertise-client-urls", self.endpoints[index],
                    "--listen-peer-urls", peers[index], "--initial-advertise-peer-urls", peers[index],
                ],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for index in range(3)
        ]  # fmt: skip

    def leader(self) -> int | None:
        """Index of the member that leads, if one does and all answer."""
        leads = None
        for index, endpoint in enumerate(self.endpoints):
            with contextlib.suppress(OSError):
                request = urllib.request.Request(endpoint + "/v3/maintenance/status", b"{}")
                with urllib.request.urlopen(request, timeout=5) as response:
                    told = json.loads(response.read())
                if told.get("leader", "") == told["header"]["member_id"]:
                    leads = index
                continue
            return None
        return leads

    async def wait_ready(self) -> None:
        """Return when one of them leads."""
        with trio.fail_after(30):
            while await trio.to_thread.run_sync(self.leader) is None:  # noqa: ASYNC110 (other processes)
                await trio.sleep(0.1)

    def stop(self) -> None:
        """End them all."""
        for process in self.processes:
            process.kill()
            process.wait()


@contextlib.asynccontextmanager
async def cluster_in(folder: Path) -> AsyncGenerator[Cluster]:
    """A fresh cluster."""
    with tempfile.TemporaryDirectory(dir=folder) as fresh:
        cluster = Cluster(Path(fresh))
        try:
            await cluster.wait_ready()
            yield cluster
        finally:
            cluster.stop()


async def puts_once(cluster: Cluster, number: int, count: int) -> dict[str, float]:
    """Single puts, bare puts, put to watch, a report."""
    rng = random.Random(number)
    records = rows_of(count, rng)
    settings = EtcdSettings(cluster.endpoints, prefix=f"bench{number}/")
    elsewhere = EtcdSettings(cluster.endpoints[::-1], prefix=settings.prefix)
    gateway = EtcdGateway.open(settings)
    bare = [
        await milliseconds(gateway.transact, (), [put_op(f"bare{number}/{each}".encode(), rng.randbytes(600))]) for each in range(count)
    ]
    await gateway.aclose()
    async with await EtcdStore.open(settings) as store, await EtcdStore.open(elsewhere) as watcher:
        put = [await milliseconds(store.put, record, WALL_NS) for record in records]
        told = [await told_after_ms(store, watcher, record) for record in rows_of(count // 3, rng, signers=50)]
        report_rows = [rows_of(REPORT_RECORDS, random.Random(1), seq=seq, signers=REPORT_RECORDS) for seq in (1, 2)]
        batch = [await milliseconds(store.put_many, rows, WALL_NS) for rows in report_rows]
    return {
        "put_p50_ms": statistics.median(put),
        "put_p95_ms": statistics.quantiles(put, n=20)[18],
        "gateway_put_p50_ms": statistics.median(bare),
        "put_to_watch_p50_ms": statistics.median(told),
        "put_to_watch_p95_ms": statistics.quantiles(told, n=20)[18],
        "batch_ms": batch[-1],
        "batch_per_s": REPORT_RECORDS / batch[-1] * 1e3,
    }


async def milliseconds(call: Callable[..., Any], *arguments: Any) -> float:
    """How long an awaited call takes, ms."""
    start_s = time.perf_counter()
    await call(*arguments)
    return (time.perf_counter() - start_s) * 1e3


async def told_after_ms(store: EtcdStore, watcher: EtcdStore, record: Record) -> float:
    """From before a put until a watcher elsewhere, already waiting, has the record."""
    after = await store.revision()
    at_s = 0.0

    async def watch() -> None:
        nonlocal at_s
        await watcher.watch(after)
        at_s = time.perf_counter()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await trio.sleep(0.05)  # until it waits
        start_s = time.perf_counter()
        nursery.start_soon(store.put, record, WALL_NS)
    return (at_s - start_s) * 1e3


async def leader_dies(folder: Path, puts: int) -> dict[str, float]:
    """Kill the leader under sequential puts."""
    seen: list[int] = []
    gap_s = 0.0
    (first,) = rows_of(1, random.Random(1))
    rows = [rows_of(1, random.Random(1), seq=seq)[0] for seq in range(1, puts + 1)]
    async with cluster_in(folder) as cluster:
        settings = EtcdSettings(cluster.endpoints)

        async def watch() -> None:
            async with await EtcdStore.open(EtcdSettings(cluster.endpoints[::-1])) as watcher:
                while len(seen) < puts:
                    seen.extend(stored.record.version.sequence for stored in await watcher.watch(len(seen)))

        async with await EtcdStore.open(settings) as store:
            with trio.fail_after(60):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(watch)
                    last_s = time.perf_counter()
                    for number, row in enumerate(rows):
                        if number == puts // 2:
                            leader = cluster.leader()
                            assert leader is not None
                            cluster.processes[leader].kill()
                            cluster.processes[leader].wait()
                            last_s = time.perf_counter()
                        await store.put(row, WALL_NS)
                        gap_s, last_s = max(gap_s, time.perf_counter() - last_s), time.perf_counter()
            held = {stored.record.version.sequence for stored in await store.history(first.key)}
    missing = [row for row in rows if row.version.sequence not in held]
    return {"leader_gap_s": gap_s, "leader_lost": len(missing), "leader_watch_missed": puts - len(set(seen))}


async def measure_etcd(options: argparse.Namespace) -> dict[str, Any]:
    """All of the cluster's store."""
    if shutil.which("etcd") is None:
        return {"missing": "etcd is not installed (Debian package etcd-server)"}
    series = Series()
    async with cluster_in(options.folder) as cluster:
        for repetition in range(options.repetitions + 1):
            report(f"etcd: putting, {repetition} of {options.repetitions}")
            series.add(await puts_once(cluster, repetition, 60 if options.quick else 200), is_counted=repetition > 0)
    for repetition in range(1 if options.quick else 3):
        report(f"etcd: the leader dies, {repetition + 1}")
        series.add(await leader_dies(options.folder, 200))
    return {"members": 3, "record_bytes": 600, "figures": series.figures()}


def run(options: argparse.Namespace | None = None) -> dict[str, Any]:
    """Measure.

    Args:
        options: of `main`; None, or a namespace that lacks some, takes the defaults.
    """
    given = {} if options is None else {name: value for name, value in vars(options).items() if value is not None}
    options = argparse.Namespace(**{**vars(_parser().parse_args([])), **given})
    if options.quick:
        options.records, options.repetitions = min(options.records, 100_000), min(options.repetitions, 2)
    parts = {"sqlite": measure_sqlite, "etcd": measure_etcd}
    chosen = [name for name in parts if name in (options.stores or parts)]
    found = {name: trio.run(parts[name], options) for name in chosen}
    return {**found, "aims": AIMS, "cores": os.cpu_count(), "python": platform.python_version()}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--stores", nargs="+", choices=("sqlite", "etcd"), help="only these")
    parser.add_argument("--quick", action="store_true", help="a tenth of the records, two repetitions")
    parser.add_argument("--records", type=int, default=1_000_000, help="in the file that is asked")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where the files are made, and removed")
    return parser


def main() -> None:
    """Parse the arguments, measure, print."""
    options = _parser().parse_args()
    found = run(options)
    if options.json:
        print(json.dumps(found, indent=2))
        return
    for store in ("sqlite", "etcd"):
        for name, figure in found.get(store, {}).get("figures", {}).items():
            print(f"{store:6} {name:26} {figure['median']:>12,.2f}   ({figure['least']:,.2f} .. {figure['greatest']:,.2f})")


if __name__ == "__main__":
    main()
