"""Checking the signatures of a batch on all cores.

Theory of operation. Ed25519 is most of the cost of taking records in, and libsodium runs without the interpreter's lock: slices of a batch
are checked in worker threads side by side. What needs the lock, parsing and comparing, is about a third of it and bounds the gain.

Not here: what is checked (`record.check`). Shell: threads.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial

import trio

from srwan.errors import RemoteProtocolError
from srwan.ledger_client.record import Record, check

__all__ = ["refusals_in_threads", "refusals_of"]

PARALLEL_RECORDS_MIN = 100
"""Smaller batches are checked in one go: 10 ms of work, against 0.2 ms for handing it to another thread."""
THREADS_MAX = 4
"""Beyond so many the interpreter's lock is what all wait for."""


def refusals_of(records: Sequence[Record], wall_ns: int, start: int = 0) -> dict[int, RemoteProtocolError]:
    """Check each and return those that must not be stored, by place counted from `start`, with the reason."""
    refused: dict[int, RemoteProtocolError] = {}
    for index, record in enumerate(records, start):
        try:
            check(record, wall_ns)
        except RemoteProtocolError as error:
            refused[index] = error
    return refused


async def refusals_in_threads(records: Sequence[Record], wall_ns: int) -> dict[int, RemoteProtocolError]:
    """Do as `refusals_of` in as many worker threads as there are cores. Cost: benchmarks/ledger.py, "verify"."""
    threads = min(THREADS_MAX, os.cpu_count() or 1) if len(records) >= PARALLEL_RECORDS_MIN else 1
    size = -(-len(records) // threads) or 1
    refused: dict[int, RemoteProtocolError] = {}

    async def run(start: int) -> None:
        refused.update(await trio.to_thread.run_sync(partial(refusals_of, records[start : start + size], wall_ns, start)))

    async with trio.open_nursery() as nursery:
        for start in range(0, len(records), size):
            nursery.start_soon(run, start)
    return refused
