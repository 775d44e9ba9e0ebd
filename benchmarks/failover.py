"""How long a flow of 100 packets a second is interrupted when the relay it takes fails, with real processes on 127.0.0.0/8.

    python benchmarks/failover.py [--json] [--trials 50] [--cells 2] [--only kill,blackhole,...] [--seed 1] [--output FILE]

A cell is a group of its own: ingress, egress and four relays, each a process with overlay, gossip and routing on a UDP socket; links have
emulated latencies (`srwan.swarm.links`), no libp2p. Direct takes 45 ms one way, 145 ms while it is congested; the relays take 50 to 60 ms
and have 1 ms of jitter on each leg. Cells share nothing but the machine; each runs one trial at a time.

A trial: direct is congested, a flow is opened, its data move to a relay. Between 1.5 and 2.5 s later that relay fails:

- kill: SIGKILL of its process;
- blackhole: it lives, and nothing that it sends arrives any more;
- forward: nothing arrives that it sends to the egress; back: to the ingress;
- loss: 30 % of all it sends.

4 s later the fault is taken back and the congestion ends; the trial ends 6 s after data are back on the direct path. After
TRIALS_PER_GROUP trials a cell starts again with new processes: a group makes a router that fails again and again wait longer each time
before it is taken back, up to ten minutes, and after 50 trials in one group no relay was left.

What is measured at the receiver, on CLOCK_MONOTONIC: the longest time between two arrivals from the fault until 4 s after it ("gap"; the
sender's spacing of 10 ms is in it), packets that arrived twice, packets that arrived after a later one, packets that did not arrive; at
the sender: switches of path after the fault, the time from the end of the congestion until data are on the direct path, and switches after
that within 6 s (flaps). Processes share the machine's cores; a gap that comes from waiting for a core is in the figures.

Peers: RON under 20 s (SOSP 2001), SCION's gateway about 1 s (its constants: probes every 500 ms, two missed).

The sender is a program of the same machine: when it had to wait for a core it sends what it missed at once, and jitter then puts packets
out of order that were 10 ms apart; without such waits only a move to a quicker path does.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import signal
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import trio

from srwan.clock import Clock
from srwan.errors import PathClosed
from srwan.gossip.core import GossipConfig
from srwan.gossip.events import MatrixFilled
from srwan.gossip.service import GossipService
from srwan.identity import Identity
from srwan.overlay.member_events import MemberJoined
from srwan.overlay.memory import MemoryNetwork
from srwan.overlay.service import OverlayConfig, OverlayService
from srwan.overlay.udp import open_udp
from srwan.overlay.view import Role
from srwan.routing.path import DirectRestored, PathSwitched
from srwan.routing.policy import PathPolicy
from srwan.routing.service import Flow, FlowEvent, RoutingService
from srwan.swarm.links import EmulatedTransport, Link

FAULTS = ("kill", "blackhole", "forward", "back", "loss")
INGRESS, EGRESS, RELAYS = 0, 1, (2, 3, 4, 5)
DIRECT_MS, CONGESTION_MS = 45.0, 100.0
LEG_MS = {2: 25.0, 3: 26.0, 4: 28.0, 5: 30.0}
JITTER_MS = 1.0
RATE_PER_S = 100.0
WARM_S = (1.5, 2.5)
FAULT_S = 4.0
HOME_TIMEOUT_S = 20.0
AFTER_S = 6.0
START_TIMEOUT_S = 60.0
TRIALS_PER_GROUP = 10
SWITCH_TIMEOUT_S = 20.0
PERIOD_S = 2.0
"""Of pulses: a new flow finds its relays after seconds instead of half a minute; keep-alives do not depend on it."""
PORT = 7950
_NUMBERED = struct.Struct("<IQd")
"""Trial, number of the datagram, and when it was sent."""
LINE_BYTES_MAX = 8 << 20

Event = dict[str, Any]


def address(cell: int, index: int) -> str:
    return f"127.77.{cell}.{index + 1}"


# --- one router, a process ----------------------------------------------------------------------------------------------


def say(kind: str, **fields: Any) -> None:
    sys.stdout.write(json.dumps({"kind": kind, "t": time.monotonic(), **fields}) + "\n")
    sys.stdout.flush()


class Router:
    """Overlay, gossip and routing of one router behind emulated links, steered by lines of JSON."""

    def __init__(self, cell: int, index: int, boot: int) -> None:
        self.index = index
        self._clock = Clock()
        rng = random.Random(f"{cell}/{index}/{boot}")
        digest = hashlib.blake2b(f"failover/{cell}/{index}".encode(), digest_size=32).digest()
        self._identity = Identity(digest)
        self.links = {address(cell, other): Link(one_way_ms(index, other), JITTER_MS, 0.0) for other in range(6) if other != index}
        self._datagrams = EmulatedTransport(open_udp([(address(cell, index), PORT)], self._clock), self.links, rng, trio.current_time)
        network = MemoryNetwork()
        roles = Role.EGRESS | (Role.RELAY if index in RELAYS else Role(0))
        self.overlay = OverlayService(
            self._identity,
            self._clock,
            OverlayConfig(network=f"failover-{cell}", name=str(index), roles=roles),
            self._datagrams,
            network.control_channel(self._identity.node_id),
            network.directory(),
            rng,
        )
        self.gossip = GossipService(self._identity, self._clock, GossipConfig(period_s=PERIOD_S), self.overlay, rng)
        self._names: dict[Any, int] = {}
        self.routing = RoutingService(
            self._identity.node_id,
            self._clock,
            self.overlay,
            self.gossip,
            roles=roles,
            rng=random.Random(f"{cell}/{index}/{boot}/routing"),
            name_of=lambda node: str(self._names.get(node, "?")),
        )
        self._arrivals: list[tuple[int, int, float, float]] = []
        self._stream = trio.CancelScope()
        self._flow: Flow | None = None
        self.overlay.on_event(self._on_event)
        self.gossip.on_event(self._on_event)
        self.routing.on_event(self._on_event)

    async def run(self, commands: AsyncIterator[Event]) -> None:
        """Run until the commands end."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._datagrams.run)
            await nursery.start(self.overlay.run)
            await nursery.start(self.gossip.run)
            nursery.start_soon(self.routing.run)
            nursery.start_soon(self._accept)
            say("up", certificate=self.overlay.view.certificate(self._identity.node_id).hex())
            async for command in commands:
                self._obey(command, nursery)
            nursery.cancel_scope.cancel()

    def _obey(self, command: Event, nursery: trio.Nursery) -> None:
        match command:
            case {"do": "join", "certificate": str(certificate)}:
                self.overlay.membership.join([bytes.fromhex(certificate)], self._clock.now(), self._clock.wall_ns())
                self.overlay.flush()
            case {"do": "link", "to": str(ip), "loss": float(loss), "ms": float(extra_ms)}:
                self.links[ip].congestion_loss, self.links[ip].congestion_ms = loss, extra_ms
            case {"do": "stream", "trial": int(trial)}:
                nursery.start_soon(self._send_stream, trial)
            case {"do": "stop_stream"}:
                self._stream.cancel()
            case {"do": "arrivals", "trial": int(trial)}:
                say("arrivals", arrivals=[arrival[1:] for arrival in self._arrivals if arrival[0] == trial])
                self._arrivals = []
            case _:
                raise ValueError(f"unknown command {command!r}")

    async def _send_stream(self, trial: int) -> None:
        peer = next(node for node, name in self._names.items() if name == EGRESS)
        self._stream = trio.CancelScope()
        with self._stream:
            self._flow = await self.routing.open(peer, PathPolicy(), timeout_s=10.0)
            start = trio.current_time()
            for number in range(1_000_000):
                self._flow.send_nowait(_NUMBERED.pack(trial, number, time.monotonic()))
                await trio.sleep_until(start + (number + 1) / RATE_PER_S)
        if self._flow is not None:
            self._flow.close()
            self._flow = None
        say("stream_ended")

    async def _accept(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                nursery.start_soon(self._read, await self.routing.accept())

    async def _read(self, flow: Flow) -> None:
        try:
            while True:
                packet = await flow.receive()
                self._arrivals.append((*_NUMBERED.unpack(packet.body), time.monotonic()))
        except PathClosed:
            flow.close()

    def _on_event(self, event: object) -> None:
        match event:
            case MemberJoined(member=member):
                self._names[member.node_id] = int(member.name)
            case MatrixFilled(members=members):
                say("matrix", members=members)
            case FlowEvent(event=PathSwitched() as switch):
                say("switch", via=[self._names.get(node, -1) for node in switch.to_relays], reason=switch.reason)
            case FlowEvent(event=DirectRestored()):
                say("direct")
            case _:
                pass


def one_way_ms(index: int, other: int) -> float:
    """Ingress and egress directly, each relay by its leg, relays among each other."""
    if {index, other} == {INGRESS, EGRESS}:
        return DIRECT_MS
    return LEG_MS.get(index, LEG_MS.get(other, 25.0))


async def lines(stream: trio.abc.ReceiveStream) -> AsyncIterator[Event]:
    buffer = bytearray()
    async for chunk in stream:
        buffer += chunk
        *whole, rest = buffer.split(b"\n")
        buffer = bytearray(rest)
        for line in whole:
            yield json.loads(line)
        if len(buffer) > LINE_BYTES_MAX:
            raise ValueError(f"a line of over {LINE_BYTES_MAX} bytes")


async def worker(cell: int, index: int, boot: int) -> None:
    async with trio.lowlevel.FdStream(os.dup(0)) as stdin:
        await Router(cell, index, boot).run(lines(stdin))


# --- a cell: six routers, one trial at a time ---------------------------------------------------------------------------


class Cell:
    """Six processes and what they said."""

    def __init__(self, cell: int, nursery: trio.Nursery, rng: random.Random) -> None:
        self.cell = cell
        self._nursery = nursery
        self._rng = rng
        self._processes: dict[int, trio.Process] = {}
        self._boots = 0
        self._trial = 0
        self._events: list[tuple[int, Event]] = []
        self._news = trio.Event()

    async def start(self) -> None:
        """Start all and wait until everybody's latencies are known at the ingress.

        Raises:
            SystemExit: that took too long.
        """
        since = len(self._events)
        for index in range(6):
            await self._launch(index)
        certificate = await self._wait(INGRESS, "up", START_TIMEOUT_S, since)
        for index in range(1, 6):
            await self._wait(index, "up", START_TIMEOUT_S, since)
            await self._tell(index, do="join", certificate=certificate["certificate"])
        self._certificate = certificate["certificate"]
        await self._wait(INGRESS, "matrix", START_TIMEOUT_S, since, members=6)

    async def _launch(self, index: int) -> None:
        self._boots += 1
        arguments = [sys.executable, __file__, "--worker", f"{self.cell}/{index}/{self._boots}"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        process = await trio.lowlevel.open_process(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        self._processes[index] = process
        self._nursery.start_soon(self._read, index, process)

    async def _read(self, index: int, process: trio.Process) -> None:
        assert process.stdout is not None
        async for event in lines(process.stdout):
            self._events.append((index, event))
            self._news.set()
            self._news = trio.Event()

    async def _tell(self, index: int, **command: Any) -> None:
        stdin = self._processes[index].stdin
        assert stdin is not None
        await stdin.send_all(json.dumps(command).encode() + b"\n")

    async def _link(self, index: int, to: int, loss: float = 0.0, ms: float = 0.0) -> None:
        await self._tell(index, do="link", to=address(self.cell, to), loss=loss, ms=ms)

    async def _wait(self, index: int, kind: str, timeout_s: float, since: int = 0, **fields: Any) -> Event:
        """Wait for an event with these fields.

        Raises:
            trio.TooSlowError: it did not come.
        """
        with trio.fail_after(timeout_s):
            at = since
            while True:
                while at < len(self._events):
                    source, event = self._events[at]
                    at += 1
                    if source == index and event["kind"] == kind and all(event.get(key) == value for key, value in fields.items()):
                        return event
                await self._news.wait()

    async def trial(self, fault: str) -> Event:
        """Run one trial and return what was measured."""
        since = len(self._events)
        await self._link(INGRESS, EGRESS, ms=CONGESTION_MS)
        self._trial += 1
        await self._tell(INGRESS, do="stream", trial=self._trial)
        try:
            switch = await self._wait(INGRESS, "switch", SWITCH_TIMEOUT_S, since)
            await trio.sleep(self._rng.uniform(*WARM_S))
            via = [event["via"] for source, event in self._events[since:] if source == INGRESS and event["kind"] == "switch"][-1]
            if not via:
                return {"error": f"not on a relay: {switch['reason']}"}
            at = len(self._events)
            fault_t = time.monotonic()
            await self._break(via[0], fault)
            await trio.sleep(FAULT_S)
            await self._heal(via[0], fault)
            healed_t = time.monotonic()
            try:
                home = await self._wait(INGRESS, "direct", HOME_TIMEOUT_S, at)
            except trio.TooSlowError:
                return {"error": "did not come back to direct"}
            await trio.sleep(AFTER_S)
            switches = [event["t"] for source, event in self._events[at:] if source == INGRESS and event["kind"] == "switch"]
            words = [event["reason"] for source, event in self._events[at:] if source == INGRESS and event["kind"] == "switch"]
        finally:
            await self._link(INGRESS, EGRESS)
            await self._tell(INGRESS, do="stop_stream")
            await self._wait(INGRESS, "stream_ended", 20.0, since)
        last = len(self._events)
        await self._tell(EGRESS, do="arrivals", trial=self._trial)
        arrivals = (await self._wait(EGRESS, "arrivals", 20.0, last))["arrivals"]
        return {
            **score(arrivals, fault_t),
            "switches": sum(t < healed_t for t in switches),
            "home_s": max(0.0, home["t"] - healed_t),
            "flaps": sum(t > home["t"] for t in switches),
            "reasons": words,
        }

    async def _break(self, relay: int, fault: str) -> None:
        if fault == "kill":
            self._processes[relay].send_signal(signal.SIGKILL)
            return
        for to, faults in ((EGRESS, ("blackhole", "forward")), (INGRESS, ("blackhole", "back"))):
            if fault in faults:
                await self._link(relay, to, loss=1.0)
            elif fault == "loss":
                await self._link(relay, to, loss=0.3)

    async def _heal(self, relay: int, fault: str) -> None:
        await self._link(INGRESS, EGRESS)
        if fault == "kill":
            await self._processes[relay].wait()
            at = len(self._events)
            await self._launch(relay)
            self._nursery.start_soon(self._rejoin, relay, at)
            return
        for to in (EGRESS, INGRESS):
            await self._link(relay, to)

    async def _rejoin(self, relay: int, since: int) -> None:
        await self._wait(relay, "up", START_TIMEOUT_S, since)
        await self._tell(relay, do="join", certificate=self._certificate)

    async def aclose(self) -> None:
        """End all processes: their standard input ends; who does not stop is killed."""
        for process in self._processes.values():
            if process.stdin is not None:
                await process.stdin.aclose()
        for process in self._processes.values():
            with trio.move_on_after(5.0):
                await process.wait()
            if process.returncode is None:
                process.kill()
                await process.wait()


def score(arrivals: Sequence[tuple[int, float, float]], fault_t: float) -> Event:
    """Return what the receiver saw from the fault on."""
    times = sorted(t for _, _, t in arrivals)
    window = [t for t in times if t <= fault_t + FAULT_S]
    start = max((place for place, t in enumerate(window) if t <= fault_t), default=0)
    gaps = [later - earlier for earlier, later in zip(window[start:], window[start + 1 :], strict=False)]
    if window:
        gaps.append(fault_t + FAULT_S - window[-1])
    numbers = [number for number, _, _ in arrivals]
    highest, reordered = -1, 0
    for number in numbers:
        reordered += number < highest
        highest = max(highest, number)
    return {
        "gap_s": max(gaps, default=FAULT_S),
        "duplicates": len(numbers) - len(set(numbers)),
        "reordered": reordered,
        "lost": max(numbers, default=-1) + 1 - len(set(numbers)),
        "received": len(numbers),
    }


# --- the benchmark ------------------------------------------------------------------------------------------------------


async def measure(faults: Sequence[str], trials: int, cells: int, seed: int) -> dict[str, list[Event]]:
    """Run all trials, faults in turn, and return what each measured."""
    todo = [fault for _ in range(trials) for fault in faults]
    results: dict[str, list[Event]] = {fault: [] for fault in faults}

    async def work(cell: Cell) -> None:
        done = 0
        while todo:
            fault = todo.pop(0)
            if done and done % TRIALS_PER_GROUP == 0:
                await cell.aclose()
                await cell.start()
            done += 1
            try:
                outcome = await cell.trial(fault)
            except trio.TooSlowError:
                outcome = {"error": f"no relay was taken, or nothing was answered, within {SWITCH_TIMEOUT_S:g} s"}
            results[fault].append(outcome)
            shown = outcome.get("error") or f"gap {outcome['gap_s']:.3f} s, home {outcome['home_s']:.1f} s, flaps {outcome['flaps']}"
            print(f"{len(todo)} to go; {fault}: {shown}", file=sys.stderr, flush=True)

    async with trio.open_nursery() as nursery:
        groups = [Cell(number, nursery, random.Random(f"{seed}/{number}")) for number in range(cells)]
        try:
            for group in groups:
                await group.start()
            async with trio.open_nursery() as workers:
                for group in groups:
                    workers.start_soon(work, group)
        finally:
            with trio.CancelScope(shield=True):
                for group in groups:
                    await group.aclose()
        nursery.cancel_scope.cancel()
    return results


def summary(outcomes: Sequence[Event]) -> Event:
    """Return the figures of one fault."""
    good = [outcome for outcome in outcomes if "error" not in outcome]
    gaps = sorted(outcome["gap_s"] for outcome in good)
    homes = sorted(outcome["home_s"] for outcome in good)
    if not good:
        return {"trials": 0, "errors": [outcome["error"] for outcome in outcomes]}
    return {
        "trials": len(good),
        "gap_s": {"median": statistics.median(gaps), "p99": gaps[min(len(gaps) - 1, int(0.99 * len(gaps)))], "max": gaps[-1]},
        "duplicates": sum(outcome["duplicates"] for outcome in good),
        "reordered": sum(outcome["reordered"] for outcome in good),
        "lost_median": statistics.median(outcome["lost"] for outcome in good),
        "switches_max": max(outcome["switches"] for outcome in good),
        "home_s": {"median": statistics.median(homes), "max": homes[-1]},
        "flaps": sum(outcome["flaps"] for outcome in good),
        "errors": [outcome["error"] for outcome in outcomes if "error" in outcome],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--cells", type=int, default=2)
    parser.add_argument("--only", default=",".join(FAULTS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        trio.run(partial(worker, *map(int, options.worker.split("/"))))
        return
    faults = [fault for fault in options.only.split(",") if fault in FAULTS]
    started = time.time()
    results = trio.run(measure, faults, options.trials, options.cells, options.seed)
    report: dict[str, Any] = {
        "benchmark": "failover",
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "cells": options.cells,
        "seconds": round(time.time() - started),
        "faults": {fault: summary(outcomes) for fault, outcomes in results.items()},
        "trials": results,
    }
    if options.output is not None:
        options.output.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    if options.json:
        print(json.dumps({key: value for key, value in report.items() if key != "trials"}, indent=2))
        return
    print("fault        trials   gap median    p99    max   dupl.  order.  switches  home median   max   flaps")
    for fault, row in report["faults"].items():
        if not row["trials"]:
            print(f"{fault:<12} {row['errors']}")
            continue
        gap, home = row["gap_s"], row["home_s"]
        print(
            f"{fault:<12} {row['trials']:>6} {gap['median']:>11.3f} {gap['p99']:>7.3f} {gap['max']:>6.3f} {row['duplicates']:>6} "
            f"{row['reordered']:>7} {row['switches_max']:>8} {home['median']:>12.1f} {home['max']:>6.1f} {row['flaps']:>6} {row['errors']}"
        )


if __name__ == "__main__":
    main()
