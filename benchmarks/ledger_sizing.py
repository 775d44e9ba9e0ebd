"""What the DITEX of a million routers would need: measured a record, multiplied openly.

    python benchmarks/ledger_sizing.py [--json] [--quick] [--repetitions 3] [--folder DIR]
        [--sizing-tree 100000] [--sizing-records 10000] [--sizing-etcd-records 2000]

Measured here, each with least and greatest of the repetitions. "_cpu_us" is CPU time a record of all processes that take part, user and
system, which other work on the machine disturbs less than records a second:

- digest tree: CPU time to take over a record that is new and one that replaces another, memory a record, and the time until the root is
  known again after 1,000 changes among --sizing-tree records, against hashing all of them afresh in the same run;
- exchange: bytes and questions of a session between two trees of --sizing-tree records that differ in 0 to 10,000 of them (signatures are
  not checked in this part; the records have the size of real rows), against a listing of all versions, which one would send without a tree;
- transfer: records a second and bytes a record of whole sessions that fill an empty SQLite store from a full one, over the control channel
  in memory, every signature verified;
- stores: bytes a record on disk and records a second put in batches of 500, in SQLite and, where etcd is installed, in one etcd member on
  loopback (three members write three times as much and are slower: benchmarks/ledger_stores.py).

Computed from these: 1,000,000 routers in 10,000 groups of 100, each row published every 10 s or every 60 s, with one report a group.
Nothing in "computed" was measured at that size; it is the product of the figures above.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import trio

from srwan.clock import Clock
from srwan.gossip.row import Row, seal_row
from srwan.identity import Identity
from srwan.ledger_client.exchange.answers import answers_to, fitting
from srwan.ledger_client.exchange.digest_tree import ENTRY_BYTES, DigestTree, position_of
from srwan.ledger_client.exchange.messages import Compare, Fetch, Item, Push, Taken, decode_question, encode_items, encode_ranges
from srwan.ledger_client.exchange.open_store import open_store_at
from srwan.ledger_client.exchange.service import ExchangeConfig, ExchangeService
from srwan.ledger_client.exchange.session import Ask, Done, Memory, Put, SyncOutcome, SyncSession
from srwan.ledger_client.record import Record, Version
from srwan.ledger_client.report import NS_PER_S, GroupReport, RowReference
from srwan.ledger_client.sqlite import SqliteStore
from srwan.ledger_client.store import HISTORY_VERSIONS_MAX, RecordStore
from srwan.overlay.memory import MemoryNetwork
from srwan.types import GeoAsn, NodeId

WALL_NS = 1_780_000_000 * NS_PER_S
GROUP_MEMBERS = 100
BATCH = 500
DIFFERENCES = (0, 1, 10, 100, 1_000, 10_000)
CHANGES = 1_000
ROUTERS = 1_000_000
ROW_S = (10, 60)
LIFETIME_S = 900


@attrs.frozen
class Spread:
    """A figure of several repetitions."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> Spread:
        """Of the figures of all repetitions."""
        return cls(statistics.median(figures), min(figures), max(figures))

    def shown(self, digits: int = 1) -> dict[str, float]:
        """For JSON."""
        return {name: round(value, digits) for name, value in attrs.asdict(self).items()}


def signed_rows(count: int, rng: random.Random, *, sequence: int = 1) -> list[Record]:
    """Rows as gossip makes them for a group of 100, under `count` keys; 1,000 identities in as many groups as it takes."""
    identities = [Identity(rng.randbytes(32)) for _ in range(min(count, 1_000))]
    entries = rng.randbytes(3 * GROUP_MEMBERS)
    records: list[Record] = []
    for number in range(count):
        identity = identities[number % len(identities)]
        group = (number // len(identities)).to_bytes(32, "big")
        row = Row(identity.node_id, 1, sequence, 0, bytes(8), 0, 0, 0, 0, 0, 0, GROUP_MEMBERS, is_described=False, entries=entries)
        content = seal_row(row, identity, group).content
        place = GeoAsn("DE", asn=number % 2_000)
        expires_ns = WALL_NS + LIFETIME_S * NS_PER_S
        records.append(Record.of_row(identity.node_id, content, group=group, expires_ns=expires_ns, place=place))
    return records


def rows_like(model: Record, count: int, *, sequence: int = 1) -> Iterator[Record]:
    """Records with the envelope length of a real row under `count` keys; nobody signed them."""
    for number in range(count):
        group, subject = (number // GROUP_MEMBERS).to_bytes(32, "big"), NodeId(number.to_bytes(32, "big"))
        envelope = number.to_bytes(8, "big") + sequence.to_bytes(8, "big") + model.envelope[16:]
        yield attrs.evolve(model, group=group, subject=subject, version=Version(1, sequence), envelope=envelope)


# --- the digest tree ---


def tree_figures(model: Record, count: int, repetitions: int) -> dict[str, Any]:
    """CPU time of its operations."""
    new_us: list[float] = []
    replaced_us: list[float] = []
    root_ms: list[float] = []
    afresh_ms: list[float] = []
    changed = list(rows_like(model, min(CHANGES, count), sequence=2))
    records = list(rows_like(model, count))
    for _ in range(repetitions):
        tree = DigestTree()
        new_us.append(_put_s(tree, records) / count * 1e6)
        afresh_ms.append(_root_s(tree) * 1e3)
        replaced_us.append(_put_s(tree, changed) / len(changed) * 1e6)
        root_ms.append(_root_s(tree) * 1e3)
    return {
        "records": count,
        "new_cpu_us": Spread.of(new_us).shown(),
        "replaced_cpu_us": Spread.of(replaced_us).shown(),
        f"root_after_{len(changed)}_changes_cpu_ms": Spread.of(root_ms).shown(),
        "root_afresh_cpu_ms": Spread.of(afresh_ms).shown(),
        "memory_bytes_per_record": round(tree_memory(model, min(count, 50_000)), 1),
    }


def _put_s(tree: DigestTree, records: Sequence[Record]) -> float:
    start = time.process_time()
    for record in records:
        tree.put(record)
    return time.process_time() - start


def _root_s(tree: DigestTree) -> float:
    start = time.process_time()
    assert tree.root
    return time.process_time() - start


def tree_memory(model: Record, count: int) -> float:
    """Bytes of Python objects a record."""
    gc.collect()
    tracemalloc.start()
    tree = DigestTree()
    for record in rows_like(model, count):
        tree.put(record)
    assert tree.root  # its digests are part of it
    gc.collect()
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return size / count


# --- bytes of a session ---


class Side:
    """A tree and its records, unsigned: what a store and its exchange are without the signatures."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.tree = DigestTree()
        self.held: dict[bytes, Record] = {}
        self.put(records)

    def put(self, items: Sequence[Item]) -> None:
        """Take them."""
        for item in items:
            assert isinstance(item, Record)
            if self.tree.put(item):
                self.held[position_of(item.key)] = item

    def answer(self, body: bytes) -> bytes:
        """Answer a question as the service does."""
        question = decode_question(body)
        if isinstance(question, Compare):
            return encode_ranges(answers_to(self.tree, question))
        if isinstance(question, Fetch):
            return encode_items(fitting([self.held.get(position) for position in question.positions]))
        assert isinstance(question, Push)
        self.put([item for item in question.items if isinstance(item, Record)])
        return Taken(len(question.items), 0, ()).encode()

    def sync(self, peer: Side) -> SyncOutcome:
        """Run a session with another side."""
        session = SyncSession(self.tree, Memory(), 0.0)
        while not isinstance(step := session.next_step(), Done):
            if isinstance(step, Ask):
                session.receive_response(peer.answer(step.body))
            elif isinstance(step, Put):
                self.put(step.items)
                session.receive_outcome([None] * len(step.items), len(step.items))
            else:
                session.receive_loaded([self.held.get(position) for position in step.positions])
        return step.outcome


def exchange_figures(model: Record, count: int, rng: random.Random) -> dict[str, Any]:
    """Bytes by how many records differ: half are newer here, half there. Deterministic but for which differ."""
    here, there = Side(list(rows_like(model, count))), Side(list(rows_like(model, count)))
    newer = list(rows_like(model, count, sequence=2))
    figures: list[dict[str, Any]] = []
    used = 0
    rng.shuffle(newer)
    for differing in DIFFERENCES:
        if used + differing > count:
            break
        chosen = newer[used : used + differing]
        used += differing
        here.put(chosen[::2])
        there.put(chosen[1::2])
        outcome = here.sync(there)
        assert here.tree.root == there.tree.root
        size = outcome.sent_bytes + outcome.received_bytes
        record_bytes = sum(len(record.envelope) for record in chosen)
        figures.append(
            {
                "differing": differing,
                "questions": outcome.questions,
                "ranges": outcome.ranges,
                "bytes": size,
                "bytes_beyond_envelopes_per_difference": round((size - record_bytes) / differing) if differing else size,
            }
        )
    return {"records": count, "sessions": figures, "listing_of_all_bytes": count * ENTRY_BYTES}


# --- a whole transfer ---


async def transfer(records: Sequence[Record], folder: Path) -> tuple[float, float, float]:
    """Fill an empty SQLite store from a full one; records a second, CPU us a record of both sides, and bytes a record on the wire."""
    network, clock = MemoryNetwork(), Clock(read_realtime_ns=lambda: WALL_NS)
    config = ExchangeConfig(is_pruning=False)
    with tempfile.TemporaryDirectory(dir=folder) as fresh:
        async with (
            await SqliteStore.open(Path(fresh) / "full.db") as full,
            await SqliteStore.open(Path(fresh) / "empty.db") as empty,
            trio.open_nursery() as nursery,
        ):
            await put_all(full, records)
            services: list[ExchangeService] = []
            channels = [network.control_channel(Identity(bytes([number]) * 32).node_id) for number in (1, 2)]
            for store, channel in zip((full, empty), channels, strict=True):
                service = ExchangeService(store, channel, clock, random.Random(1), config=config)
                await nursery.start(service.run)
                await service.wait_filled()
                services.append(service)
            start, start_cpu = time.perf_counter(), time.process_time()
            stored = received = 0
            while stored < len(records):
                try:
                    outcome = await services[1].sync(channels[0].local_address)
                except Exception as error:
                    if getattr(error, "reason", "") != "busy":
                        raise
                    await trio.sleep(0.2)
                    continue
                stored += outcome.stored
                received += outcome.received_bytes
            elapsed_s, cpu_s = time.perf_counter() - start, time.process_time() - start_cpu
            nursery.cancel_scope.cancel()
    return len(records) / elapsed_s, cpu_s / len(records) * 1e6, received / len(records)


async def put_all(store: RecordStore, records: Sequence[Record]) -> None:
    """In batches."""
    for start in range(0, len(records), BATCH):
        outcome = await store.put_many(records[start : start + BATCH], WALL_NS)
        assert outcome.stored == len(records[start : start + BATCH])


# --- stores ---


async def sqlite_once(records: Sequence[Record], newer: Sequence[Record], folder: Path) -> tuple[float, float, float, float]:
    """Records a second, CPU us and bytes a record, and bytes a superseded version that is kept as history."""
    with tempfile.TemporaryDirectory(dir=folder) as fresh:
        path = Path(fresh) / "ditex.db"
        async with await SqliteStore.open(path) as store:
            start, start_cpu = time.perf_counter(), time.process_time()
            await put_all(store, records)
            elapsed_s, cpu_s = time.perf_counter() - start, time.process_time() - start_cpu
        size = path.stat().st_size
        async with await SqliteStore.open(path) as store:
            await put_all(store, newer)
        grown = path.stat().st_size - size
        return len(records) / elapsed_s, cpu_s / len(records) * 1e6, size / len(records), grown / len(newer)


@contextmanager
def etcd_member(folder: Path) -> Iterator[str]:
    """One member on loopback; yields its client URL."""
    ports: list[int] = []
    for _ in range(2):
        with socket.create_server(("127.0.0.1", 0)) as probe:
            ports.append(probe.getsockname()[1])
    client, peer = (f"http://127.0.0.1:{port}" for port in ports)
    arguments = ["--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer]
    arguments += ["--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}", "--data-dir", str(folder / "etcd")]
    environment = {**os.environ, "ETCD_LOG_LEVEL": "error"}
    process = subprocess.Popen(["etcd", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    try:
        for _ in range(200):
            try:
                _ask_etcd(client, "/v3/maintenance/status")
                break
            except OSError:
                time.sleep(0.05)
        yield client
    finally:
        process.kill()
        process.wait()


def _ask_etcd(client: str, path: str) -> dict[str, Any]:
    with urllib.request.urlopen(urllib.request.Request(client + path, b"{}"), timeout=10) as response:
        told: dict[str, Any] = json.loads(response.read())
    return told


async def etcd_once(records: Sequence[Record], folder: Path) -> tuple[float, float, float]:
    """Records a second, CPU us a record of client and member, and bytes of the database a record."""
    with tempfile.TemporaryDirectory(dir=folder) as fresh:
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        start_cpu = time.process_time()
        with etcd_member(Path(fresh)) as client:
            before = int(_ask_etcd(client, "/v3/maintenance/status")["dbSize"])
            async with open_store_at(f"etcd:{client}") as store:
                start = time.perf_counter()
                await put_all(store, records)
                elapsed_s = time.perf_counter() - start
            size = int(_ask_etcd(client, "/v3/maintenance/status")["dbSize"]) - before
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = time.process_time() - start_cpu + after.ru_utime - ended.ru_utime + after.ru_stime - ended.ru_stime
    return len(records) / elapsed_s, cpu_s / len(records) * 1e6, size / len(records)


# --- the million ---


def report_bytes() -> int:
    """Envelope of a report of 100 members, bytes."""
    identities = [Identity(number.to_bytes(32, "big")) for number in range(1, GROUP_MEMBERS + 1)]
    rows = tuple(RowReference(identity.node_id, 2**31, 2**20, bytes(32)) for identity in identities)
    report = GroupReport(
        group=bytes(32),
        epoch=30_000_000,
        sequence=1,
        reporter=identities[0].node_id,
        roster=tuple(identity.node_id for identity in identities),
        roster_digest=bytes(8),
        rows=rows,
        issued_ns=WALL_NS,
        expires_ns=WALL_NS + LIFETIME_S * NS_PER_S,
    )
    return len(Record.of_report(report, identities[0]).envelope)


def computed(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """What a million routers in groups of 100 would need, by period of publication; products of what was measured."""
    sqlite, tree, moved = measured["sqlite"], measured["tree"], measured["transfer"]
    etcd = measured.get("etcd")
    groups = ROUTERS // GROUP_MEMBERS
    report_share = measured["report_envelope_bytes"] / GROUP_MEMBERS
    needs: list[dict[str, Any]] = []
    for period_s in ROW_S:
        rows_per_s = ROUTERS / period_s
        versions = min(HISTORY_VERSIONS_MAX, LIFETIME_S // period_s)
        newest = ROUTERS * (2 * sqlite["bytes_per_record"]["median"] + report_share)
        history = ROUTERS * (versions - 1) * (sqlite["bytes_per_version"]["median"] + report_share)
        needs.append(
            {
                "row_every_s": period_s,
                "rows_per_s": round(rows_per_s),
                "reports_per_s": round(groups / period_s),
                "sqlite_cores": round(rows_per_s * sqlite["cpu_us"]["median"] / 1e6, 1),
                "etcd_cores_one_member": None if etcd is None else round(rows_per_s * etcd["cpu_us"]["median"] / 1e6, 1),
                "newest_only_gb": round(newest / 1e9, 1),
                "versions_kept": versions,
                "with_history_gb": round((newest + history) / 1e9, 1),
                "exchange_megabytes_per_s_and_peer": round(rows_per_s * (moved["bytes_per_record"]["median"] + report_share) / 1e6, 1),
                "exchange_cores_both_sides_per_peer": round(rows_per_s * moved["cpu_us"]["median"] / 1e6, 1),
                "tree_gb": round(2 * ROUTERS * tree["memory_bytes_per_record"] / 1e9, 2),
            }
        )
    return needs


def _columns(figures: Sequence[tuple[float, ...]], names: Sequence[str]) -> dict[str, dict[str, float]]:
    """The spread of each column of repeated measurements."""
    return {name: Spread.of(column).shown() for name, column in zip(names, zip(*figures, strict=True), strict=True)}


def run(options: argparse.Namespace | None = None) -> dict[str, Any]:
    """Measure and compute; see the module's header.

    Args:
        options: of `main`; None, or a namespace that lacks some, takes the defaults.
    """
    given = {} if options is None else {name: value for name, value in vars(options).items() if value is not None}
    options = _parser().parse_args([], argparse.Namespace(**given))  # what the namespace has stays; the rest gets its default
    if options.quick:
        options.sizing_tree, options.sizing_records, options.sizing_etcd_records, options.repetitions = 20_000, 2_000, 500, 1
    rng = random.Random(5)
    folder = Path(options.folder)
    records = signed_rows(options.sizing_records, rng)
    newer = signed_rows(options.sizing_records, random.Random(5), sequence=2)
    model = records[0]
    repetitions: int = options.repetitions
    measured: dict[str, Any] = {
        "row_envelope_bytes": len(model.envelope),
        "report_envelope_bytes": report_bytes(),
        "tree": tree_figures(model, options.sizing_tree, repetitions),
        "exchange": exchange_figures(model, options.sizing_tree, rng),
    }
    moved = [trio.run(transfer, records, folder) for _ in range(repetitions)]
    measured["transfer"] = {"records": len(records), **_columns(moved, ("records_per_s", "cpu_us", "bytes_per_record"))}
    filed = [trio.run(sqlite_once, records, newer, folder) for _ in range(repetitions)]
    names = ("records_per_s", "cpu_us", "bytes_per_record", "bytes_per_version")
    measured["sqlite"] = {"records": len(records), **_columns(filed, names)}
    if shutil.which("etcd"):
        clustered = [trio.run(etcd_once, records[: options.sizing_etcd_records], folder) for _ in range(repetitions)]
        measured["etcd"] = {"members": 1, "records": options.sizing_etcd_records, **_columns(clustered, names[:3])}
    return {"measured": measured, "computed": computed(measured)}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Sizes of the DITEX of a million routers.")
    parser.add_argument("--sizing-tree", type=int, default=100_000, help="records in the trees")
    parser.add_argument("--sizing-records", type=int, default=10_000, help="signed records put into SQLite and transferred")
    parser.add_argument("--sizing-etcd-records", type=int, default=2_000, help="signed records put into etcd")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one repetition of a fifth")
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="where files are made, and removed")
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    return parser


def main() -> int:
    """Command line."""
    options = _parser().parse_args()
    figures = run(options)
    if options.json:
        sys.stdout.write(json.dumps(figures) + "\n")
        return 0
    for part, value in figures["measured"].items():
        print(f"{part}: {json.dumps(value)}")
    for needs in figures["computed"]:
        print("computed: " + json.dumps(needs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
