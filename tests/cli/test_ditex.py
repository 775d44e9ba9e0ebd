"""`srwan ditex`: three server processes that exchange, and what search, history, watch and export make of a store."""

from __future__ import annotations

import csv
import importlib.util
import json
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import trio

from srwan.cli import main
from srwan.gossip.report import Report
from srwan.gossip.reporter import epoch_of
from srwan.gossip.row import Row, SignedRow, encode_owl, seal_row
from srwan.identity import Identity
from srwan.ledger_client.accounting.receipt import Receipt
from srwan.ledger_client.complaint import complaint_of
from srwan.ledger_client.market.offer import Offer
from srwan.ledger_client.publish import records_of_report
from srwan.ledger_client.record import Kind, Record, Version
from srwan.ledger_client.report import NS_PER_S
from srwan.ledger_client.settlement.signing import Address
from srwan.ledger_client.sqlite import SqliteStore
from srwan.overlay.view import Member, Role
from srwan.types import GeoAsn, NodeId

GROUP = bytes(range(32))
ROSTER_DIGEST = b"roster-1"
PLACES = (
    GeoAsn("DE", 5012, 868, 3320),
    GeoAsn("DE", 5252, 1340, 24940),
    GeoAsn("SG", 129, 10385, 16509),
    GeoAsn("LT", 5469, 2528, 8764),
)
NAMES = ("frankfurt", "berlin", "singapore", "vilnius")
IDENTITIES = tuple(sorted((Identity(bytes([number]) * 32) for number in range(1, 5)), key=lambda identity: identity.node_id))
OWL_MS = np.array([[np.nan, 8, 80, 20], [8, np.nan, 85, 12], [80, 85, np.nan, 95], [20, 12, 95, np.nan]], float)
CLOCKS_MS = np.array([0.0, 300.0, -40.0, 7.0])
ME = "srwan ditex"


def rows_of(seq: int, wall_ns: int) -> list[SignedRow]:
    """What every member measured of the others: the true latency and the difference of two clocks."""
    rows = []
    for index, identity in enumerate(IDENTITIES):
        raw_ms = OWL_MS[:, index] + CLOCKS_MS[index] - CLOCKS_MS + seq
        base_us, owl = encode_owl(raw_ms)
        entries = Row.pack_entries(None, owl, np.full(4, 3, np.uint8), np.full(4, 2, np.uint8))
        row = Row(identity.node_id, 7, seq, wall_ns, ROSTER_DIGEST, 0, 0, 11, 12, 13, base_us, 4, is_described=False, entries=entries)
        rows.append(seal_row(row, identity, GROUP))
    return rows


def certificate_of(index: int, wall_ns: int) -> bytes:
    identity = IDENTITIES[index]
    return Member(
        node_id=identity.node_id,
        boot=7,
        seq=1,
        name=NAMES[index],
        udp=(("127.0.0.1", 4000 + index),),
        control=(),
        location=PLACES[index],
        roles=Role.RELAY,
        issued_ns=wall_ns,
        expires_ns=wall_ns + 600 * NS_PER_S,
        group=GROUP[:8],
    ).seal(identity)


def publication(seq: int, wall_ns: int, *, epoch: int = 5, without: str = "") -> list[Record]:
    roster = tuple(identity.node_id for identity in IDENTITIES)
    rows = tuple(row for row, name in zip(rows_of(seq, wall_ns), NAMES, strict=True) if name != without)
    report = Report(GROUP, epoch, seq, roster[0], roster, ROSTER_DIGEST, rows)
    certificates = {identity.node_id: certificate_of(index, wall_ns) for index, identity in enumerate(IDENTITIES)}
    return list(records_of_report(report, IDENTITIES[0], certificates=certificates, wall_ns=wall_ns).records)


def offer_of(index: int, price: int | None, wall_ns: int) -> Record:
    offer = Offer(
        seller=IDENTITIES[index].node_id,
        version=Version(1, 1),
        price_microtoken_per_gb=price,
        wallet=Address(bytes(20)),
        issued_ns=wall_ns,
        expires_ns=wall_ns + 3600 * NS_PER_S,
        label="=1+1",
        country=PLACES[index].country,
        asn=PLACES[index].asn,
    )
    return offer.record(IDENTITIES[index])


def receipt_of(wall_ns: int, *, is_accepted: bool = True) -> Record:
    egress, consumer = IDENTITIES[2], IDENTITIES[0]
    session = b"\x05" * 32 if is_accepted else b"\x06" * 32
    receipt = Receipt(session, consumer.node_id, egress.node_id, 1, 1, 10**9, 800_000, 70_000, 71_000, 95_000, wall_ns)
    signed = receipt.sign(egress)
    signed = signed.countersign(consumer) if is_accepted else signed
    return signed.statement(issued_ns=wall_ns, expires_ns=wall_ns + 3600 * NS_PER_S).record(egress, PLACES[2])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two rounds of a group of four, two offers and two receipts, one of them not accepted by its consumer."""
    path = tmp_path_factory.mktemp("ditex") / "ditex.sqlite"
    wall_ns = time.time_ns()

    async def fill() -> None:
        async with await SqliteStore.open(path) as opened:
            for seq in (1, 2):
                outcome = await opened.put_many(publication(seq, wall_ns), wall_ns)
                assert not outcome.refused
            more = [
                offer_of(0, 5_000_000, wall_ns),
                offer_of(2, None, wall_ns),
                receipt_of(wall_ns),
                receipt_of(wall_ns, is_accepted=False),
            ]
            assert 4 == (await opened.put_many(more, wall_ns)).stored

    trio.run(fill)
    return path


@pytest.fixture
def ditex(store: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run an action on the store; return its status and what it printed, parsed where it is JSON."""

    def run(action: str, *arguments: str) -> tuple[int, Any]:
        status = main(["ditex", action, "--store", str(store), *arguments])
        printed = capsys.readouterr()
        text = printed.out or printed.err
        return status, json.loads(text) if "--json" in arguments and printed.out else text

    return run


# --- search ---


def test_segments_are_found_by_place_with_recovered_latency_and_price(ditex: Callable[..., Any]) -> None:
    status, shown = ditex("search", "--country", "de", "--asn", "3320", "--json")

    assert 0 == status
    assert ["berlin", "vilnius", "singapore"] == [each["to_name"] for each in shown["found"]]
    assert {"frankfurt"} == {each["from_name"] for each in shown["found"]}
    assert [5_000_000] * 3 == [each["price_microtoken_per_gb"] for each in shown["found"]]
    assert [10.0, 22.0, 82.0] == pytest.approx([each["owl_ms"] for each in shown["found"]], abs=1.5)
    assert [310.0, 29.0, 42.0] == pytest.approx([each["raw_ms"] for each in shown["found"]], abs=0.02)
    assert all(each["is_attested"] and not each["is_expired"] for each in shown["found"])


def test_segments_are_narrowed_by_destination_latency_price_and_count(ditex: Callable[..., Any]) -> None:
    def found(*arguments: str) -> list[tuple[str, str]]:
        return [(each["from_name"], each["to_name"]) for each in ditex("search", *arguments, "--json")[1]["found"]]

    assert 12 == len(found())
    assert {("frankfurt", "singapore"), ("berlin", "singapore"), ("vilnius", "singapore")} == set(found("--to", "SG:16509"))
    assert [("frankfurt", "singapore")] == found("--to", "sg", "--country", "DE", "--asn", "3320")
    assert 6 == len(found("--owl-ms-max", "50"))
    assert {"frankfurt"} == {sender for sender, _ in found("--price-max", "5000000")}
    assert [] == found("--price-max", "4999999")
    assert 2 == len(found("--limit", "2"))
    assert {"singapore"} == {sender for sender, _ in found("--near", "1.3,103.8", "--limit", "3")}
    assert [] == found("--country", "FR")


def test_offers_and_accepted_path_statistics_are_found(ditex: Callable[..., Any]) -> None:
    _, offers = ditex("search", "--kind", "offer", "--json")
    _, cheap = ditex("search", "--kind", "offer", "--country", "DE", "--price-max", "5000000", "--json")
    _, paths = ditex("search", "--kind", "path", "--json")
    _, nodes = ditex("search", "--kind", "node", "--country", "SG", "--json")

    assert [5_000_000, None] == [each["price_microtoken_per_gb"] for each in offers["found"]]
    assert [str(IDENTITIES[0].node_id)] == [each["seller"] for each in cheap["found"]]
    assert [(71_000, 24_000)] == [(each["measured_us"], each["saved_us"]) for each in paths["found"]]
    assert [str(IDENTITIES[2].node_id)] == [each["subject"] for each in nodes["found"]]


def test_tables_for_humans_hold_the_same(ditex: Callable[..., Any]) -> None:
    for kind, word in (("row", "frankfurt"), ("offer", "5000000"), ("path", "24000"), ("report", "report")):
        status, text = ditex("search", "--kind", kind)
        assert 0 == status
        assert word in text


@pytest.mark.parametrize(
    "arguments",
    [["--asn", "3320"], ["--near", "here"], ["--near", "91,0"], ["--to", "Germany"], ["--to", "DE:x"]],
)
def test_a_place_that_is_none_is_said_so(ditex: Callable[..., Any], arguments: list[str]) -> None:
    status, text = ditex("search", *arguments)

    assert 2 == status
    assert text.startswith("srwan: --")


def test_nothing_found_is_status_1_and_no_store_status_2(
    ditex: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 1 == ditex("search", "--country", "FR")[0]
    for where in (str(tmp_path / "none"), "etcd:ftp://x", "etcd:", "etcd:http://127.0.0.1:1?colour=red"):
        assert 2 == main(["ditex", "search", "--store", where])
        assert capsys.readouterr().err.startswith("srwan: ")


def test_show_still_takes_a_path(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == main(["ditex", "show", str(store), "--json"])
    shown = json.loads(capsys.readouterr().out)

    assert shown["records"] == shown["verified"]
    assert sorted(NAMES) == sorted(shown["groups"][0]["names"])


def store_with(path: Path, *batches: list[Record], wall_ns: int) -> Path:
    async def fill() -> None:
        async with await SqliteStore.open(path) as opened:
            for batch in batches:
                assert not (await opened.put_many(batch, wall_ns)).refused

    trio.run(fill)
    return path


def test_show_tells_whom_the_report_leaves_out_what_is_not_held_and_who_complains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wall_ns = time.time_ns()
    epoch = epoch_of(wall_ns)
    first = publication(1, wall_ns, epoch=epoch, without="vilnius")
    second = publication(2, wall_ns, epoch=epoch, without="vilnius")
    vilnius = rows_of(1, wall_ns)[3]
    row = Record.of_row(vilnius.node_id, vilnius.content, group=GROUP, expires_ns=wall_ns + 900 * NS_PER_S)
    complaint = complaint_of(first[-1], row, wall_ns=wall_ns).record(IDENTITIES[3])
    berlin = next(record for record in second if (record.kind, record.subject) == (Kind.ROW, IDENTITIES[1].node_id))
    held = [record for record in second if record is not berlin]
    first = [record for record in first if record.key != berlin.key]
    store = store_with(tmp_path / "ditex.sqlite", first, held, [row, complaint], wall_ns=wall_ns)

    assert 0 == main(["ditex", "show", str(store), "--json"])
    shown = json.loads(capsys.readouterr().out)
    (group,) = shown["groups"]
    assert (2, [str(IDENTITIES[3].node_id)], [str(IDENTITIES[1].node_id)], []) == (
        group["sequence"],
        group["left_out"],
        group["not_held"],
        group["unlisted"],
    )
    told = {
        "reporter": str(IDENTITIES[0].node_id),
        "reporter_name": "frankfurt",
        "complainant": str(IDENTITIES[3].node_id),
        "complainant_name": "vilnius",
        "epoch": epoch,
        "is_in_roster": True,
        "is_of_this_report": False,
    }
    assert ([told], 0) == (group["complaints"], shown["unproven_complaints"])
    main(["ditex", "show", str(store)])
    lines = capsys.readouterr().out.splitlines()
    assert [
        "left out by the report: vilnius",
        "named by the report, not in this store: berlin",
        "frankfurt left out vilnius: 1 complaint",
    ] == lines[3:6]


def test_show_of_a_whole_report_tells_of_no_gap(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["ditex", "show", str(store), "--json"])
    (group,) = json.loads(capsys.readouterr().out)["groups"]
    assert [[], [], [], []] == [group[key] for key in ("left_out", "not_held", "unlisted", "complaints")]


def test_a_complaint_counts_until_it_expires(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wall_ns = time.time_ns()
    records = publication(1, wall_ns, epoch=epoch_of(wall_ns), without="vilnius")
    vilnius = rows_of(1, wall_ns)[3]
    row = Record.of_row(vilnius.node_id, vilnius.content, group=GROUP, expires_ns=wall_ns + 900 * NS_PER_S)
    then_ns = wall_ns - 31 * 86_400 * NS_PER_S
    complaint = complaint_of(records[-1], row, wall_ns=then_ns).record(IDENTITIES[3])
    store = store_with(tmp_path / "ditex.sqlite", records, wall_ns=wall_ns)
    store_with(store, [complaint], wall_ns=then_ns)

    main(["ditex", "show", str(store), "--json"])
    assert [] == json.loads(capsys.readouterr().out)["groups"][0]["complaints"]


# --- history, watch, export ---


def test_the_history_of_a_segment_is_what_its_receiver_measured(ditex: Callable[..., Any]) -> None:
    status, shown = ditex("history", "frankfurt", str(IDENTITIES[1].node_id)[:10], "--json")

    assert 0 == status
    assert [2, 1] == [each["sequence"] for each in shown["samples"]]
    assert [310.0, 309.0] == pytest.approx([each["raw_ms"] for each in shown["samples"]], abs=0.02)
    assert {(0.01, 0.125)} == {(each["loss_share"], each["jitter_ms"]) for each in shown["samples"]}
    assert 1 == len(ditex("history", "frankfurt", "berlin", "--limit", "1", "--json")[1]["samples"])
    assert 2 == ditex("history", "frankfurt", "atlantis")[0]
    assert 2 == ditex("history", "frankfurt", "")[0]


def test_a_watch_goes_on_behind_a_revision(ditex: Callable[..., Any]) -> None:
    """Two rounds: 4 certificates, 4 rows and a report, then 4 rows and a report; and 4 statements."""
    _, text = ditex("watch", "--after", "0", "--count", "18")
    _, rest = ditex("watch", "--after", "16", "--count", "2")
    _, offers = ditex("watch", "--after", "0", "--kind", "offer", "--count", "2")

    lines = text.splitlines()
    assert 18 == len(lines)
    assert lines[-2:] == rest.splitlines()
    assert all("verified" in line for line in lines)
    assert 2 == offers.count("offer")


def test_a_watch_prints_json_lines(ditex: Callable[..., Any], store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == main(["ditex", "watch", "--store", str(store), "--after", "0", "--count", "3", "--json"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    assert [1, 2, 3] == [line["revision"] for line in lines]
    assert {None} == {line["problem"] for line in lines}


@pytest.mark.parametrize(("what", "lines"), [("segments", 12), ("rows", 4), ("offers", 2)])
def test_an_export_is_a_table_with_a_line_for_each(ditex: Callable[..., Any], tmp_path: Path, what: str, lines: int) -> None:
    file = tmp_path / "table.csv"
    status, told = ditex("export", str(file), "--what", what, "--json")
    with file.open(newline="") as opened:
        read = list(csv.DictReader(opened))

    assert (0, lines) == (status, told["rows"])
    assert lines == len(read)
    assert [file] == list(tmp_path.iterdir())
    if what == "offers":
        assert {"'=1+1"} == {row["label"] for row in read}
        assert {"5000000", ""} == {row["price_microtoken_per_gb"] for row in read}
    if what == "rows":
        assert {("11", "12", "13")} == {(row["octets_in"], row["octets_out"], row["octets_relayed"]) for row in read}


def test_an_export_that_cannot_be_written_leaves_nothing(ditex: Callable[..., Any], tmp_path: Path) -> None:
    assert 2 == ditex("export", str(tmp_path / "table.xls"))[0]
    assert 2 == ditex("export", str(tmp_path / "none" / "table.csv"))[0]
    assert 1 == ditex("export", str(tmp_path / "table.csv"), "--country", "FR")[0]
    assert [] == list(tmp_path.iterdir())


def test_parquet_without_pyarrow_says_what_to_install(ditex: Callable[..., Any], tmp_path: Path) -> None:
    status, text = ditex("export", str(tmp_path / "table.parquet"))

    if importlib.util.find_spec("pyarrow") is None:
        assert 2 == status
        assert "pip install pyarrow" in text
    else:
        assert 0 == status
        assert b"PAR1" == (tmp_path / "table.parquet").read_bytes()[:4]


# --- serve ---


class Server:
    """A server process and the JSON lines it prints."""

    def __init__(self, folder: Path, *peers: str, options: tuple[str, ...] = ()) -> None:
        arguments = ["--control", "127.0.0.1:0", "--state-dir", str(folder), "--period", "0.3", "--json", *options]
        for peer in peers:
            arguments += ["--peer", peer]
        command = [sys.executable, "-m", "srwan", "ditex", "serve", *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self._lines: queue.Queue[dict[str, Any]] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.store = folder / "ditex.sqlite"

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(json.loads(line))

    def wait_for(self, kind: str, is_wanted: Callable[[dict[str, Any]], bool] = lambda _line: True) -> dict[str, Any]:
        while True:
            line = self._lines.get(timeout=60)
            if line["kind"] == kind and is_wanted(line):
                return line

    def stop(self, by: signal.Signals) -> tuple[int, str]:
        self.process.send_signal(by)
        _, errors = self.process.communicate(timeout=30)
        return self.process.returncode, errors


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[Server]]:
    """The first is known to the other two."""
    started = [Server(tmp_path / "0")]
    try:
        first = started[0].wait_for("up")
        started += [Server(tmp_path / str(number), first["multiaddr"]) for number in (1, 2)]
        yield started
    finally:
        for server in started:
            if server.process.poll() is None:
                server.process.kill()
                server.process.communicate()


def test_records_put_into_one_of_three_server_processes_arrive_at_the_others(servers: list[Server]) -> None:
    """Another process writes to the file of the second; the third has them from the first. Signals end servers cleanly."""
    for server in servers[1:]:
        server.wait_for("synced", lambda line: line["is_complete"])
    wall_ns = time.time_ns()

    async def publish() -> int:
        async with await SqliteStore.open(servers[1].store) as store:
            return (await store.put_many([*publication(1, wall_ns), offer_of(0, 7, wall_ns)], wall_ns)).stored

    assert 10 == trio.run(publish)
    assert 10 == servers[0].wait_for("received")["stored"]
    assert 10 == servers[2].wait_for("synced", lambda line: line["stored"] > 0)["stored"]

    async def held(server: Server) -> set[tuple[Any, ...]]:
        async with await SqliteStore.open(server.store, is_read_only=True) as store:
            return {(stored.record.key, stored.record.version, stored.record.envelope) for stored in await store.watch(0)}

    first, second, third = (trio.run(held, server) for server in servers)
    assert 10 == len(first)
    assert first == second == third
    for server, by in zip(servers[::-1], (signal.SIGTERM, signal.SIGINT, signal.SIGTERM), strict=True):
        assert (0, "") == server.stop(by)


def many_rows(wall_ns: int) -> list[Record]:
    """The same four rows in 40 groups."""
    rows = list(zip(rows_of(1, wall_ns), IDENTITIES, strict=True))
    made: list[Record] = []
    for number in range(40):
        group, expires_ns = bytes([number]) * 32, wall_ns + 900 * NS_PER_S
        signed = [seal_row(row.row, identity, group) for row, identity in rows]
        made += [Record.of_row(row.node_id, row.content, group=group, expires_ns=expires_ns) for row in signed]
    return made


def test_a_server_checks_many_records_in_as_many_processes_as_told_which_end_with_it(tmp_path: Path) -> None:
    wall_ns = time.time_ns()

    async def publish() -> int:
        (tmp_path / "0").mkdir()
        async with await SqliteStore.open(tmp_path / "0" / "ditex.sqlite") as store:
            return (await store.put_many(many_rows(wall_ns), wall_ns)).stored

    assert 160 == trio.run(publish)
    started = [Server(tmp_path / "0")]
    try:
        multiaddr = started[0].wait_for("up")["multiaddr"]
        for processes in (0, 2):
            server = Server(tmp_path / f"with {processes}", multiaddr, options=("--verify-processes", str(processes)))
            started.append(server)
            assert 160 == server.wait_for("synced", lambda line: line["stored"] > 0)["stored"]
            workers = psutil.Process(server.process.pid).children()
            assert processes == len(workers)
            assert (0, "") == server.stop(signal.SIGTERM)
            assert not any(worker.is_running() for worker in workers)
    finally:
        for server in started:
            server.process.kill()
            server.process.communicate()


@pytest.mark.parametrize("processes", ["-1", "65", "two"])
def test_a_number_of_processes_out_of_range_is_refused(processes: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["ditex", "serve", "--state-dir", "here", "--verify-processes", processes])
    assert "--verify-processes" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--control", "nowhere", "--state-dir", "here"],
        ["--peer", "/ip4/127.0.0.1/tcp/1", "--state-dir", "here"],
        ["--peer", "/ip4/127.0.0.1/tcp/1/p2p/12D3", "--state-dir", "here"],
        ["--peer", "/ip4/127.0.0.1/tcp/1/p2p/0OIl", "--state-dir", "here"],
    ],
)
def test_a_server_that_cannot_start_says_why(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert 2 == main(["ditex", "serve", *arguments])
    assert capsys.readouterr().err.startswith("srwan: ")


def test_a_peers_address_is_read_back() -> None:
    from srwan.cli.identity import _base58
    from srwan.identity import peer_id_bytes
    from srwan.ledger_client.exchange.peer_address import parse_peer

    for node in (NodeId(bytes(32)), NodeId(b"\xff" * 32), IDENTITIES[0].node_id):
        address = parse_peer(f"/ip4/192.0.2.1/tcp/4720/p2p/{_base58(peer_id_bytes(node))}")
        assert (node, ("/ip4/192.0.2.1/tcp/4720",)) == (address.node_id, address.multiaddrs)
