"""Several processes at one file: sudden death of the writer, a reader beside it, many that create it at once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from srwan.gossip.row import SignedRow
from srwan.ledger_client.read import read_file
from srwan.ledger_client.record import Record, verify
from srwan.ledger_client.report import NS_PER_S
from srwan.ledger_client.sqlite import SqliteStore

Make = Callable[..., Record]
NOW_NS = 1_780_000_000 * NS_PER_S
TIMEOUT_S = 60


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ditex.db"


WRITER = """
import sys, trio
from pathlib import Path
from srwan.gossip.row import Row, seal_row
from srwan.identity import Identity
from srwan.ledger_client.record import Record
from srwan.ledger_client.sqlite import SqliteStore

NOW_NS, SIGNER, SIZE = 1_780_000_000 * 10**9, Identity(bytes(32)), 40

def row_of(seq):
    row = Row(SIGNER.node_id, 1, seq, 0, bytes(8), 0, 0, 0, 0, 0, 0, 100, is_described=False, entries=bytes(300))
    content = seal_row(row, SIGNER, bytes(32)).content
    return Record.of_row(SIGNER.node_id, content, group=bytes(32), expires_ns=NOW_NS + 600 * 10**9)

async def main():
    async with await SqliteStore.open(Path(sys.argv[1])) as store:
        start = await store.revision()
        for first in range(start, start + 100_000, SIZE):
            outcome = await store.put_many([row_of(seq) for seq in range(first, first + SIZE)], NOW_NS)
            print(outcome.revision, flush=True)
trio.run(main)
"""


def test_kill_9_amid_batches_loses_nothing_acknowledged(path: Path) -> None:
    """Each round kills the writer while it is at its next batch, and the file is written on by the next one."""

    async def revisions() -> list[int]:
        async with await SqliteStore.open(path, is_read_only=True) as store:
            found: list[int] = []
            while len(found) < await store.revision():
                page = await store.watch(found[-1] if found else 0)
                for stored in page:
                    verify(stored.record)
                found.extend(each.revision for each in page)
            return found

    acknowledged = 0
    for lines in (1, 4, 9, 2, 6):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for _ in range(lines):
                acknowledged = int(writer.stdout.readline())
            writer.send_signal(signal.SIGKILL)
            acknowledged = max([acknowledged, *(int(line) for line in writer.stdout if line.endswith("\n"))])
            assert -signal.SIGKILL == writer.wait(TIMEOUT_S)
        found = trio.run(revisions)

        assert list(range(1, len(found) + 1)) == found
        assert len(found) >= acknowledged
        assert len(found) % 40 == 0  # whole batches only


READER = """
import json, sys, trio
from pathlib import Path
from srwan.ledger_client.read import read_file

async def main():
    for _ in range(int(sys.argv[2])):
        contents = await read_file(Path(sys.argv[1]), wall_ns=0)
        rows = [[len(group.rows), len(group.missing), group.report.sequence] for group in contents.groups]
        print(json.dumps([contents.records, contents.verified, dict(contents.refused), rows]), flush=True)
trio.run(main)
"""


async def test_another_process_reads_whole_batches_while_this_one_writes(
    path: Path, make_report: Make, make_row: Make, make_signed_row: Callable[..., SignedRow]
) -> None:
    readings = 15
    async with await SqliteStore.open(path) as store:

        async def put(seq: int) -> None:
            report = make_report(*(make_signed_row(index, seq) for index in range(4)), sequence=seq)
            assert (await store.put_many([*(make_row(index, seq) for index in range(4)), report], NOW_NS)).stored == 5

        await put(1)
        reader = await trio.lowlevel.open_process([sys.executable, "-c", READER, str(path), str(readings)], stdout=subprocess.PIPE)
        lines = b""
        seq = 1
        try:
            async with trio.open_nursery() as nursery:

                async def collect() -> None:
                    nonlocal lines
                    assert reader.stdout is not None
                    async for chunk in reader.stdout:
                        lines += chunk
                    nursery.cancel_scope.cancel()

                nursery.start_soon(collect)
                while True:
                    seq += 1
                    await put(seq)
        finally:
            with trio.CancelScope(shield=True):
                assert await reader.wait() == 0
                assert reader.stdout is not None
                await reader.stdout.aclose()
    seen = [json.loads(line) for line in lines.splitlines()]

    assert readings == len(seen)
    assert seq > readings
    for records, verified, refusals, groups in seen:
        assert records == verified >= 5
        assert {} == refusals
        ((rows, missing, _),) = groups
        assert (4, 0) == (rows, missing)
    sequences = [groups[0][2] for *_, groups in seen]
    assert sorted(sequences) == sequences
    assert sequences[-1] > sequences[0]


CREATOR = WRITER.replace("start + 100_000", "start + SIZE").replace("start = await store.revision()", "start = int(sys.argv[2]) * SIZE")


def test_processes_that_create_one_file_at_once_agree(path: Path) -> None:
    creators = [subprocess.Popen([sys.executable, "-c", CREATOR, str(path), str(number)], stdout=subprocess.PIPE) for number in range(3)]
    for creator in creators:
        creator.communicate(timeout=TIMEOUT_S)

    assert [0] * 3 == [creator.returncode for creator in creators]
    contents = trio.run(lambda: read_file(path, wall_ns=NOW_NS))
    assert ({}, 1) == (contents.refused, contents.verified)
