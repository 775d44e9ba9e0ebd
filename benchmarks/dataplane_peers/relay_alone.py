"""One router of the library without gateways: added latency, CPU, a thousand paths, and what is lost when keys, addresses or paths change.

In the middle of a chain of its own two routers for each data plane, at its ends ten members on either side (`relay_rig.py`). The kernel
forwards between the same ends for comparison: what a router adds is its latency less the kernel's. What a loop that does nothing else
adds, in C and in Python (`bare_loop.py`), is what it cannot do without.

- latency: 64 B payloads, 1,000 a second, from the sender's stamp before `send` to the kernel's receive stamp;
- one path, then 1,000 paths between ten neighbours on either side in turn, 1,384 B, sealed beforehand, in flight at most 512: packets per
  second, CPU of the router per packet, and its memory before and after the thousand paths were first used;
- changes: `relay_changes.py`.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs
import numpy as np
import trio
from numpy.typing import NDArray

from dataplane_peers import bare_loop
from dataplane_peers.relay_changes import measure_changes
from dataplane_peers.relay_load import PAYLOAD_AT, preseal
from dataplane_peers.relay_rig import SMALL_BYTES, Rig, read_line
from srwan.overlay.session import Session
from srwan.testing.namespaces import Lab, LabError, Namespace, make_line
from srwan.types import UdpAddress

MTU_BYTES = 1600
PATHS = 1000
PAYLOAD_BYTES = 1384
PROBES_PER_S = 1000
PROBE_BURST = 100
"""Probes between two turns for the beats of the ends."""
SPIN_NS = 60_000
"""Before a probe is due the sender no longer sleeps: a timer is late by about this."""
SUBNET = 100
"""The first of this chain's, so that its addresses are its own."""
KERNEL, BARE_C, BARE_PYTHON = "relay-kernel", "relay-barec", "relay-barepython"
BARE_PORT = 5998
"""Of the loop in C; the one in Python has the next."""


@attrs.frozen(slots=True)
class Amounts:
    """How much is sent."""

    packets: int
    """For throughput, each time."""
    probes: int
    changed: int
    """Packets while something changes."""


# --- throughput and memory ----------------------------------------------------------------------------------------------


async def throughput(rig: Rig, links: Sequence[tuple[Session, bytes, int]], count: int) -> tuple[float, float]:
    """Return packets per second through the first router and its CPU time for each, us."""
    packets = preseal(links, PAYLOAD_BYTES, count)
    rig.aim(0)
    rig.track.on_batch = None
    at = 0

    def take(wanted: int) -> NDArray[np.uint8]:
        nonlocal at
        at += wanted
        return packets[at - wanted : at]

    before = rig.cpu_s()
    seconds = await rig.track.run(take, count)
    used = rig.cpu_s() - before
    if rig.track.received < count * 0.9:
        raise LabError(f"{rig.plane}: {rig.track.received} of {count} packets arrived; {rig.routers[0].ask('report')['drops']}")
    return rig.track.received / seconds, 1e6 * used / rig.track.received


async def measure_paths(rig: Rig, amounts: Amounts) -> dict[str, float]:
    """Compare 1,000 paths with one."""
    pps, us = await throughput(rig, [rig.link(0, 7)], amounts.packets)
    before = rig.routers[0].ask("memory")["octets"]
    tags = [random.getrandbits(62) for _ in range(PATHS)]
    links = [rig.link(path, tag) for path, tag in enumerate(tags)]
    await throughput(rig, links, PATHS)  # first used
    after = rig.routers[0].ask("memory")["octets"]
    paths_pps, paths_us = await throughput(rig, links, amounts.packets)
    return {
        "pps": pps,
        "relay_us": us,
        "paths_pps": paths_pps,
        "paths_relay_us": paths_us,
        "paths_ratio": paths_pps / pps,
        "paths_cpu_ratio": us / paths_us,
        "path_bytes": (after - before) / PATHS,
    }


# --- latency ------------------------------------------------------------------------------------------------------------


async def measure_latency(rig: Rig, count: int, instead_to: UdpAddress | None = None) -> dict[str, float]:
    """Return one-way latency of packets through the router, or of as long ones that are sent elsewhere and get to the receiver, us."""
    await rig.settle_down()
    rows = preseal([rig.link(0, 7)], SMALL_BYTES, count)
    if instead_to is None:
        rig.aim(0)
    else:
        rig.senders[1].connect(instead_to)
        rig.track.sender = rig.senders[1]
    sent_ns: dict[bytes, int] = {}
    latencies: list[int] = []

    def note(data: NDArray[np.uint8], _lengths: NDArray[np.uint32], stamps: NDArray[np.int64]) -> int:
        for row, stamp in zip(data, stamps.tolist(), strict=True):
            sent = sent_ns.pop(row[PAYLOAD_AT : PAYLOAD_AT + 12].tobytes(), None)
            if sent is not None and stamp:
                latencies.append(stamp - sent)
        return len(data)

    rig.track.on_batch = note
    interval_ns = 1_000_000_000 // PROBES_PER_S
    send = rig.track.sender.send
    used = rig.cpu_s()
    for first in range(0, count, PROBE_BURST):
        due = time.monotonic_ns()
        for row in rows[first : first + PROBE_BURST]:
            packet = row.tobytes()
            while (wait := due - time.monotonic_ns()) > 0:
                if wait > 2 * SPIN_NS:
                    time.sleep((wait - SPIN_NS) * 1e-9)  # noqa: ASYNC251 - Trio's is 1 ms coarse
            due += interval_ns
            sent_ns[packet[PAYLOAD_AT : PAYLOAD_AT + 12]] = time.time_ns()
            send(packet)
        await trio.sleep(0.002)
        rig.track.drain()
    await trio.sleep(0.02)
    rig.track.drain()
    rig.track.on_batch = None
    used = rig.cpu_s() - used
    if not latencies:
        raise LabError(f"{rig.plane}: no probe arrived")
    p50, p90, p99 = np.percentile(np.array(latencies) / 1e3, (50, 90, 99)).tolist()
    figures = {"owl_min_us": min(latencies) / 1e3, "owl_p50_us": p50, "owl_p90_us": p90, "owl_p99_us": p99, "owl_lost": float(len(sent_ns))}
    return figures if instead_to else figures | {"probe_relay_us": 1e6 * used / count}


# --- all of it ----------------------------------------------------------------------------------------------------------


@attrs.frozen(slots=True)
class Result:
    """What came of it."""

    samples: dict[str, list[dict[str, float]]] = attrs.field(factory=dict)
    """By "relay-kernel", "relay-barec", "relay-barepython" and "relay-PLANE"."""
    absent: dict[str, str] = attrs.field(factory=dict)
    """Why, by the same names."""
    problems: list[str] = attrs.field(factory=list)


def start_bare_loops(relay: Namespace, to: UdpAddress, folder: Path, absent: dict[str, str]) -> dict[str, UdpAddress]:
    """Start the loops beside the routers and return where they listen, by system."""
    ip = relay.ports[0].ipv4
    found: dict[str, UdpAddress] = {}
    for name, address in ((BARE_C, (ip, BARE_PORT)), (BARE_PYTHON, (ip, BARE_PORT + 1))):
        try:
            start = bare_loop.start_c if name == BARE_C else bare_loop.start_python
            read_line(start(relay, address, to, folder))
            found[name] = address
        except LabError as error:
            absent[name] = str(error)
    return found


async def measure_once(rig: Rig, amounts: Amounts, instead_to: UdpAddress | None) -> dict[str, float]:
    """Measure a router, or only the latency of what is not one."""
    figures = await measure_latency(rig, amounts.probes, instead_to)
    if instead_to is None:
        figures |= await measure_paths(rig, amounts)
        figures |= await measure_changes(rig, amounts.changed)
    return figures


async def run(lab: Lab, planes: Sequence[str], repetitions: int, amounts: Amounts, note: Callable[[str], None]) -> Result:
    """Measure kernel, bare loops and these data planes in turn, repetition by repetition. What fails is said in the result."""
    line = make_line(lab, ["aloneA", "aloneR", "aloneC"], mtu=MTU_BYTES, prefix=SUBNET)
    result = Result()
    rigs: dict[str, Rig] = {}
    async with trio.open_nursery() as nursery:
        for number, plane in enumerate(planes):
            note(f"relay alone, {plane}: starting")
            try:
                rig = Rig(line, plane, number)
                await rig.start(nursery)
                rigs[f"relay-{plane}"] = rig
            except (LabError, OSError) as error:
                result.absent[f"relay-{plane}"] = str(error)
        if rigs:
            await measure(line[1], rigs, repetitions, amounts, result, note)
        for rig in rigs.values():
            rig.close()
        nursery.cancel_scope.cancel()
    return result


async def measure(
    relay: Namespace, rigs: dict[str, Rig], repetitions: int, amounts: Amounts, result: Result, note: Callable[[str], None]
) -> None:
    """Fill in the samples."""
    first = next(iter(rigs.values()))
    receiver = first.receivers[0].getsockname()
    with tempfile.TemporaryDirectory() as folder:
        elsewhere = {KERNEL: receiver} | start_bare_loops(relay, receiver, Path(folder), result.absent)
    result.samples.update({name: [] for name in (*elsewhere, *rigs)})
    for repetition in range(repetitions):
        for name, samples in result.samples.items():
            note(f"relay alone, {name}: repetition {repetition + 1} of {repetitions}")
            figures: dict[str, float] = {}
            try:
                figures = await measure_once(rigs.get(name, first), amounts, elsewhere.get(name))
            except (LabError, OSError) as error:
                result.problems.append(f"{name}, repetition {repetition + 1}: {error}")
            samples.append(figures)
