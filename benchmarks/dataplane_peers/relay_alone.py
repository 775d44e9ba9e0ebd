"""One router of the library without gateways: added latency, CPU, a thousand paths, and what is lost when keys, addresses or paths change.

In the middle of a chain of its own two routers for each data plane, at its ends ten members on either side (`relay_rig.py`). The kernel
forwards between the same ends for comparison: what a router adds is its latency less the kernel's.

- latency: 64 B payloads, 1,000 a second, from the sender's stamp before `send` to the kernel's receive stamp;
- one path, then 1,000 paths between ten neighbours on either side in turn, 1,384 B, sealed beforehand, in flight at most 512: packets per
  second, CPU of the router per packet, and its memory before and after the thousand paths were first used;
- changes: `relay_changes.py`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

import attrs
import numpy as np
import trio
from numpy.typing import NDArray

from dataplane_peers.relay_changes import measure_changes
from dataplane_peers.relay_load import PAYLOAD_AT, preseal
from dataplane_peers.relay_rig import SMALL_BYTES, Rig
from srwan.overlay.session import Session
from srwan.testing.namespaces import Lab, LabError, make_line

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
KERNEL = "relay-kernel"


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


async def measure_latency(rig: Rig, count: int, *, is_kernel: bool) -> dict[str, float]:
    """Return one-way latency of packets through the router, or of as long ones through the kernel, us."""
    await rig.settle_down()
    rows = preseal([rig.link(0, 7)], SMALL_BYTES, count)
    if is_kernel:
        rig.senders[1].connect(rig.receivers[0].getsockname())
        rig.track.sender = rig.senders[1]
    else:
        rig.aim(0)
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
    return figures if is_kernel else figures | {"probe_relay_us": 1e6 * used / count}


# --- all of it ----------------------------------------------------------------------------------------------------------


@attrs.frozen(slots=True)
class Result:
    """What came of it."""

    samples: dict[str, list[dict[str, float]]] = attrs.field(factory=dict)
    """By "relay-kernel" and "relay-PLANE"."""
    absent: dict[str, str] = attrs.field(factory=dict)
    """Why, by the same names."""
    problems: list[str] = attrs.field(factory=list)


async def run(lab: Lab, planes: Sequence[str], repetitions: int, amounts: Amounts, note: Callable[[str], None]) -> Result:
    """Measure the kernel and these data planes in turn, repetition by repetition. What fails is said in the result."""
    line = make_line(lab, ["aloneA", "aloneR", "aloneC"], mtu=MTU_BYTES, prefix=SUBNET)
    result = Result()
    rigs: dict[str, Rig] = {}
    async with trio.open_nursery() as nursery:
        for number, plane in enumerate(planes):
            note(f"relay alone, {plane}: starting")
            try:
                rig = Rig(line, plane, number)
                await rig.start(nursery)
                rigs[plane] = rig
            except (LabError, OSError) as error:
                result.absent[f"relay-{plane}"] = str(error)
        result.samples.update({KERNEL: [], **{f"relay-{plane}": [] for plane in rigs}})
        for repetition in range(repetitions if rigs else 0):
            for name in result.samples:
                note(f"relay alone, {name}: repetition {repetition + 1} of {repetitions}")
                rig = rigs.get(name.removeprefix("relay-")) or next(iter(rigs.values()))
                figures: dict[str, float] = {}
                try:
                    figures |= await measure_latency(rig, amounts.probes, is_kernel=name == KERNEL)
                    if name != KERNEL:
                        figures |= await measure_paths(rig, amounts)
                        figures |= await measure_changes(rig, amounts.changed)
                except (LabError, OSError) as error:
                    result.problems.append(f"{name}, repetition {repetition + 1}: {error}")
                result.samples[name].append(figures)
        for rig in rigs.values():
            rig.close()
        nursery.cancel_scope.cancel()
    return result
