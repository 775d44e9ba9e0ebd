"""How fast the record stores take verified records in, and how soon they answer and tell.

    python benchmarks/ledger_stores.py [--json] [--stores sqlite etcd] [--quick] [--records 1000000] [--repetitions 5] [--folder DIR]

SQLite, taking in: signed rows of groups of 100 (436 B as gossip sends them) go into a new file in batches of 500, every signature verified
as always. "signatures" is the bound: libsodium alone, in a thread for each core, over messages made before. "verify_one_thread",
"verify_threads" and "verify_pool" are the checks alone, in one thread, in threads on all cores, in as many worker processes as cores;
"store" and "store_newer" are the writing alone, of records verified before: under new keys, and superseding what is held. "ingest_threads"
and "ingest_pool" put batch after batch, "_overlapped" keeps so many batches under way that some are verified while one is written, "_full"
waits for the disk at each batch. "_gain" is that of the pool over threads, "_of_bound" the share of the bound, both within one repetition.
"ingest_pool_overlapped" is how `srwan ditex serve` is run by default, hence the aim. "_cpu_us" is CPU time a record of the process and the
workers: robust against other work on the machine, though not free of it. Workers are warm.

SQLite, answering: one file with --records newest records in 30 countries and 1,333 autonomous systems, 25 of each pair. The question is
for one pair, all records found. Time is of the call as an application makes it, with the way to the worker thread and back and the making
of the records. The file is filled without signatures, which a store does not look at when it answers; it is warm in the page cache.

etcd: three members on loopback on the same machine as their clients, records of 600 B. "put" is one record a call, every one verified;
"gateway_put" a bare put of as many bytes through the same gateway, the bound of it; "batch" 257 records, a report of 128 members, that
supersede those before. "put_to_watch" is from before the put at one member until another process, which watches at another, has the
record. "leader_gap": the leader is killed under sequential puts; the longest time between two acknowledged puts, what of them was lost,
what the watcher missed.

Each figure is the median over repetitions with least and greatest, after one that is not counted; etcd's leader dies three times.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
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
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import apsw
import attrs
import trio
from nacl.bindings import crypto_sign_open

from srwan.gossip.row import Row, seal_row
from srwan.identity import Identity
from srwan.ledger_client.etcd import EtcdStore
from srwan.ledger_client.etcd_gateway import EtcdGateway, EtcdSettings, put_op
from srwan.ledger_client.record import Kind, Record, open_envelope
from srwan.ledger_client.report import NS_PER_S
from srwan.ledger_client.sqlite import SqliteStore
from srwan.ledger_client.sqlite_schema import INSERT
from srwan.ledger_client.store import Query
from srwan.ledger_client.verify_batch import refusals_in_threads
from srwan.ledger_client.verify_pool import VerifyPool
from srwan.ledger_client.verify_slice import refusals_of
from srwan.types import GeoAsn, NodeId
from srwan.wire import signing_domain

BATCH = 500
UNDER_WAY = 3
"""Batches that a host which takes in much has under way: one is written, and there is always another to check."""
GROUP_MEMBERS = 100
REPORT_RECORDS = 257
ASNS = 1_333
COUNTRIES = [first + second for first in "ABCDEF" for second in "VWXYZ"]
WALL_NS = 1_780_000_000 * NS_PER_S
AIMS = {
    "ingest_pool_overlapped_per_s_min": 20_000,
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
def measured(name: str, count: int, into: dict[str, float], pool: VerifyPool | None = None) -> Generator[None]:
    """Add the speed of `count` records in the block and their CPU time, here and in the workers."""
    wall_s, cpu_s = time.perf_counter(), cpu_s_of(pool)
    yield
    into[f"{name}_per_s"] = count / (time.perf_counter() - wall_s)
    into[f"{name}_cpu_us"] = (cpu_s_of(pool) - cpu_s) / count * 1e6


def cpu_s_of(pool: VerifyPool | None) -> float:
    """CPU time of this process and the workers until now, s. proc(5): the first figure of schedstat is ns on a CPU."""
    stats = [Path(f"/proc/{pid}/schedstat") for pid in (pool.process_ids if pool else ())]
    return time.process_time() + sum(int(stat.read_text().split()[0]) for stat in stats) / 1e9


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


async def signatures_once(records: Sequence[Record]) -> None:
    """Do nothing but check signatures, in one thread for each core."""
    threads = os.cpu_count() or 1
    envelopes = [open_envelope(record) for record in records]
    signed = [(each.signature + signing_domain(each.kind) + b"\x00" + each.body, each.signer) for each in envelopes]

    def check(share: Sequence[tuple[bytes, NodeId]]) -> None:
        for message, signer in share:
            crypto_sign_open(message, signer)

    async with trio.open_nursery() as nursery:
        for start in range(threads):
            nursery.start_soon(trio.to_thread.run_sync, check, signed[start::threads])


async def ingest_once(records: Sequence[Record], newer: Sequence[Record], folder: Path, pool: VerifyPool) -> dict[str, float]:
    """Every way of taking them in, once."""
    found: dict[str, float] = {}
    batches = batches_of(records)
    await pool.refusals(batches[0], WALL_NS)
    with measured("signatures", len(records), found):
        await signatures_once(records)
    with measured("verify_one_thread", len(records), found):
        assert not await trio.to_thread.run_sync(refusals_of, records, WALL_NS)
    with measured("verify_threads", len(records), found):
        for batch in batches:
            assert not await refusals_in_threads(batch, WALL_NS)
    with measured("verify_pool", len(records), found, pool):
        for batch in batches:
            assert not await pool.refusals(batch, WALL_NS)
    ways: list[tuple[str, Literal["NORMAL", "FULL"], int, VerifyPool | None]] = [
        ("ingest_threads", "NORMAL", 1, None),
        ("ingest_pool", "NORMAL", 1, pool),
        ("ingest_threads_overlapped", "NORMAL", UNDER_WAY, None),
        ("ingest_pool_overlapped", "NORMAL", UNDER_WAY, pool),
        ("ingest_pool_full", "FULL", 1, pool),
    ]
    for name, synchronous, under_way, verifier in ways:
        with tempfile.TemporaryDirectory(dir=folder) as fresh:
            async with await SqliteStore.open(Path(fresh) / "ditex.db", synchronous=synchronous, verifier=verifier) as store:
                with measured(name, len(records), found, verifier):
                    await ingest(store, batches, under_way)
    with tempfile.TemporaryDirectory(dir=folder) as fresh:
        async with await SqliteStore.open(Path(fresh) / "ditex.db") as store:
            for name, version in (("store", records), ("store_newer", newer)):
                with measured(name, len(version), found):
                    for batch in batches_of(version):
                        await store._run(lambda batch=batch: store._put_batch(tuple(batch), WALL_NS, {}))  # type: ignore[misc]
    assert not pool.failed
    for what in ("verify", "ingest"):
        found[f"{what}_gain"] = found[f"{what}_pool_per_s"] / found[f"{what}_threads_per_s"]
    found["ingest_overlapped_gain"] = found["ingest_pool_overlapped_per_s"] / found["ingest_threads_overlapped_per_s"]
    found["ingest_pool_overlapped_of_bound"] = found["ingest_pool_overlapped_per_s"] / found["signatures_per_s"]
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
    count = 1_000 if options.quick else 5_000
    rows, newer = (rows_of(count, random.Random(7), seq=seq) for seq in (1, 2))
    async with VerifyPool(os.cpu_count() or 1) as pool:
        for repetition in range(options.repetitions + 1):
            report(f"sqlite: taking in, {repetition} of {options.repetitions}")
            series.add(await ingest_once(rows, newer, options.folder, pool), is_counted=repetition > 0)
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
    async with await EtcdStore.open(settings) as store:
        put = [await milliseconds(store.put, record, WALL_NS) for record in records]
        async with another_node(elsewhere) as node:
            told = [await told_after_ms(store, node, record) for record in rows_of(count // 3, rng, signers=50)]
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


def watch_elsewhere(settings: EtcdSettings, told: Connection) -> None:
    """Be another node: tell for each record when it was there, until killed. The clock is one for all processes of a machine."""

    async def watch() -> None:
        async with await EtcdStore.open(settings) as store:
            after = 0
            told.send((after, 0.0))
            while True:
                after = (await store.watch(after))[-1].revision
                told.send((after, time.perf_counter()))

    trio.run(watch)


@contextlib.asynccontextmanager
async def another_node(settings: EtcdSettings) -> AsyncGenerator[Connection]:
    """A process that runs `watch_elsewhere`."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=watch_elsewhere, args=(settings, there), daemon=True)
    process.start()
    try:
        await trio.to_thread.run_sync(here.recv)  # it is up
        yield here
    finally:
        process.kill()
        process.join()


async def told_after_ms(store: EtcdStore, node: Connection, record: Record) -> float:
    """From before a put until a node elsewhere, already waiting, has the record."""
    await trio.sleep(0.05)  # until it waits
    start_s = time.perf_counter()
    revision = await store.put(record, WALL_NS)
    while True:
        seen, at_s = await trio.to_thread.run_sync(node.recv)
        if seen >= revision:
            return float(at_s - start_s) * 1e3


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
            print(f"{store:6} {name:32} {figure['median']:>12,.2f}   ({figure['least']:,.2f} .. {figure['greatest']:,.2f})")


if __name__ == "__main__":
    main()
