"""Checking the signatures of a batch on all cores.

Theory of operation. Ed25519 is most of the cost of taking records in, and libsodium runs without the interpreter's lock: slices of a batch
are checked in worker threads side by side. A thread goes over its slice three times: it opens every envelope, checks every signature, and
compares what was signed with what was filed. The passage in the middle holds the lock for 3 of 77 us, so that threads are rarely in each
other's way; record by record, each waited for the other's parsing after every signature, and two brought 8 % over one.

Not here: what is checked (`record`). Shell: threads.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial

import trio

from srwan.errors import RemoteProtocolError
from srwan.ledger_client.record import Record, is_authentic, open_envelope, require_as_filed, require_current
from srwan.wire import Envelope

__all__ = ["refusals_in_threads", "refusals_of"]

PARALLEL_RECORDS_MIN = 100
"""Smaller batches are checked in one go: 10 ms of work, against 0.2 ms for handing it to another thread."""
INLINE_BYTES_MAX = 2048
"""Of envelopes that are checked at once, without a thread: one or two records, 0.1 ms each, as long as the way to a thread and back."""
THREADS_MAX = 4
"""Beyond so many the interpreter's lock is what all wait for."""


def refusals_of(records: Sequence[Record], wall_ns: int, start: int = 0) -> dict[int, RemoteProtocolError]:
    """Do `check` for each and return those that must not be stored, by place counted from `start`, with the reason."""
    refused: dict[int, RemoteProtocolError] = {}
    opened: list[tuple[int, Record, Envelope]] = []
    for index, record in enumerate(records, start):
        try:
            require_current(record, wall_ns)
            opened.append((index, record, open_envelope(record)))
        except RemoteProtocolError as error:
            refused[index] = error
    authentic = [is_authentic(record, envelope) for _, record, envelope in opened]
    for (index, record, envelope), is_good in zip(opened, authentic, strict=True):
        try:
            require_as_filed(record, envelope, is_authentic=is_good)
        except RemoteProtocolError as error:
            refused[index] = error
    return refused


async def refusals_in_threads(records: Sequence[Record], wall_ns: int) -> dict[int, RemoteProtocolError]:
    """Do as `refusals_of` in as many worker threads as there are cores. Cost: benchmarks/ledger.py, "verify"."""
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
