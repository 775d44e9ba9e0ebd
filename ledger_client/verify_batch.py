"""Checking the signatures of a batch in worker threads on all cores: the way of stores without worker processes (`verify_pool`).

Theory of operation. Ed25519 is most of the cost of taking records in, and libsodium runs without the interpreter's lock: slices of a batch
are checked in threads side by side. All else that checking takes holds the lock, and so two threads bring 1.2 to 1.5 times one.

Not here: what is checked (`record`), the three passages of a slice (`verify_slice`). Shell: threads.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial

import trio

from srwan.errors import RemoteProtocolError
from srwan.ledger_client.record import Record
from srwan.ledger_client.verify_slice import refusals_of

__all__ = ["refusals_in_threads"]

PARALLEL_RECORDS_MIN = 100
"""Smaller batches are checked in one go: 10 ms of work. Threads gain from some 80 records on, worker processes from some 50."""
INLINE_BYTES_MAX = 2048
"""Of envelopes that are checked at once, without a thread: one or two records, 0.1 ms each, as long as the way to a thread and back."""
THREADS_MAX = 4
"""Beyond so many the interpreter's lock is what all wait for."""


async def refusals_in_threads(records: Sequence[Record], wall_ns: int) -> dict[int, RemoteProtocolError]:
    """Do as `refusals_of` in as many worker threads as there are cores. Cost: benchmarks/ledger_stores.py, "verify_threads"."""
    if sum(len(record.envelope) for record in records) <= INLINE_BYTES_MAX:
        await trio.lowlevel.checkpoint()
        return refusals_of(records, wall_ns)
    threads = min(THREADS_MAX, os.cpu_count() or 1) if len(records) >= PARALLEL_RECORDS_MIN else 1
    size = -(-len(records) // threads) or 1
    refused: dict[int, RemoteProtocolError] = {}

    async def run(start: int) -> None:
        refused.update(await trio.to_thread.run_sync(partial(refusals_of, records[start : start + size], wall_ns, start)))

    async with trio.open_nursery() as nursery:
        for start in range(0, len(records), size):
            nursery.start_soon(run, start)
    return refused
