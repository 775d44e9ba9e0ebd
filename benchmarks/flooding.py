"""A flood from a process of its own, and the share of honest traffic that arrives meanwhile. Used by handshakes.py and floods.py."""

from __future__ import annotations

import contextlib
import multiprocessing
import socket
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import attrs
import trio

from srwan.types import UdpAddress

BODY = bytes(1000)
"""Of an honest datagram."""
PAUSE_S = 0.0005
"""Of the attacker between two bursts."""
START_S = 60.0
"""For the attacker's process to start; the machine may be busy."""


@attrs.define
class Flood:
    """What an attacker did."""

    per_s: float = 0.0
    """Datagrams that it really sent, once it has ended."""


def _send(target: UdpAddress, datagrams: Sequence[bytes], per_s: int, seconds: float, started: Any, count: Any) -> None:
    """Send datagrams from one socket, evenly, over and over."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as attacker:
        attacker.setblocking(False)
        started.set()
        begin, sent = time.monotonic(), 0
        while (passed := time.monotonic() - begin) < seconds:
            while sent < passed * per_s:
                try:
                    attacker.sendto(datagrams[sent % len(datagrams)], target)
                except BlockingIOError:
                    break
                sent += 1
            time.sleep(PAUSE_S)
        count.value = sent


@contextlib.asynccontextmanager
async def flooded(target: UdpAddress, datagrams: Sequence[bytes], per_s: int, seconds: float) -> AsyncIterator[Flood]:
    """Have a process send datagrams to an address; the block begins when it does, and ends no sooner.

    Args:
        target: numeric.
        datagrams: sent in turn, again from the first one when they have run out.
        per_s: wanted rate.
        seconds: how long.
    """
    context = multiprocessing.get_context("spawn")
    started, count = context.Event(), context.Value("q", 0)
    attacker = context.Process(target=_send, args=(target, datagrams, per_s, seconds, started, count))
    attacker.start()
    try:
        if not await trio.to_thread.run_sync(started.wait, START_S):
            raise RuntimeError(f"the attacker did not start within {START_S:g} s")
        flood = Flood()
        yield flood
        await trio.to_thread.run_sync(attacker.join)
        flood.per_s = count.value / seconds
    finally:
        attacker.kill()
        attacker.join()


async def carry(path: Any, incoming: Any, per_s: int, seconds: float) -> float:
    """Send evenly and return the share that arrived."""
    sent = received = 0

    async def take() -> None:
        nonlocal received
        while True:
            await incoming.receive()
            received += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        begin = trio.current_time()
        while (passed := trio.current_time() - begin) < seconds:
            while sent < passed * per_s:
                await path.send(BODY)
                sent += 1
            await trio.sleep(0.002)
        await trio.sleep(0.3)
        nursery.cancel_scope.cancel()
    return received / sent
