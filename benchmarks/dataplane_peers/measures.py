"""What is measured of a chain, once per repetition: TCP, small UDP packets, one-way latency, and the CPU time that they cost.

Each function returns figures by name. A figure that cannot be had is left out, never made up.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from dataplane_peers import cpu, iperf, load
from dataplane_peers.chain import System
from srwan.errors import SrwanError
from srwan.testing.namespaces import LabError, Namespace

SINK_PORT = 7201
PACKET_BYTES = 1400
"""Of a full TCP segment on the wire without the systems' own headers; CPU per packet is CPU per octet times this."""
SMALL_BYTES = 64
PROBES_PER_S = 1000.0
DRAIN_S = 0.15
"""Between the end of a flood and the sink's: what queues in the chain arrives."""
RECOVERED_S = 1.0
"""Within this after a measurement a system carries again, or it is noted."""
LOAD = Path(load.__file__)
FAILURES = (SrwanError, OSError, ValueError, subprocess.SubprocessError)
"""What a system that is down, or breaks down under load, makes of its measurement: no traffic, no process, no answer."""


@attrs.frozen(slots=True)
class Lengths:
    """How long a repetition measures."""

    tcp_s: float
    """Of each TCP test; iperf3 takes whole seconds."""
    flood_s: float
    """Of the UDP flood."""
    probes: int
    """Latency probes, at 1,000 a second."""


def measure(system: System, lengths: Lengths) -> tuple[dict[str, float], list[str]]:
    """Measure a chain once; return the figures, and what went wrong. One part that fails does not keep the others from being measured."""
    figures: dict[str, float] = {}
    problems: list[str] = []
    parts: tuple[Callable[[], dict[str, float]], ...] = (
        lambda: tcp(system, lengths.tcp_s, flows=1),
        lambda: tcp(system, lengths.tcp_s, flows=4),
        lambda: flood(system, lengths.flood_s),
        lambda: latency(system, lengths.probes),
    )
    for part in parts:
        started = time.monotonic()
        try:
            system.wait_carrying()  # a flood may have cost it its path
            if (waited_s := time.monotonic() - started) > RECOVERED_S:
                problems.append(f"carried nothing for {waited_s:.1f} s after what was measured before")
            figures |= part()
        except FAILURES as error:
            problems.append(str(error))
    return figures, problems


def tcp(system: System, seconds: float, *, flows: int) -> dict[str, float]:
    """Return throughput, and with one flow the CPU time per octet of each process and the machine's softirq time."""
    before, machine = process_times(system), cpu.machine_time()
    result = iperf.run_tcp(system.ingress, system.egress, system.target, seconds=seconds, flows=flows)
    after, machine_after = process_times(system), cpu.machine_time()
    figures = {f"tcp{flows}_gbps": result.bits_per_s / 1e9}
    if flows != 1 or not result.octets:
        return figures
    figures["retransmits"] = float(result.retransmits)
    packets = result.octets / PACKET_BYTES
    for side, name in (("A", "ingress"), ("R", "relay"), ("C", "egress")):
        if side in before:
            figures[f"{name}_us"] = 1e6 * (after[side] - before[side]) / packets
    figures["softirq_us"] = 1e6 * (machine_after.softirq_s - machine.softirq_s) / packets
    return figures


def flood(system: System, seconds: float) -> dict[str, float]:
    """Return packets per second of 64 B through the chain, counted where they arrive, and the relay's CPU time for each."""
    before = process_times(system)
    sent, got = _with_sink(system, ["flood", system.target, str(SINK_PORT), str(seconds), str(SMALL_BYTES)])
    after = process_times(system)
    if not got["distinct"]:
        raise LabError(f"{system.name}: none of {sent['sent']:g} packets arrived")
    figures = {
        "udp64_pps": got["distinct"] / max(got["seconds"], seconds),
        "udp64_sent_pps": sent["sent"] / sent["seconds"],
        "udp64_duplicates": float(got["received"] - got["distinct"]),
    }
    if "R" in before:
        figures["relay64_us"] = 1e6 * (after["R"] - before["R"]) / got["distinct"]
    if system.is_kernel:
        # All of the path runs in the sender's context; what the hop costs is what it costs more than sending to the relay.
        near = _run_load(system.ingress, ["flood", _near_target(system), str(SINK_PORT), str(seconds / 2), str(SMALL_BYTES)])
        figures["sender64_us"] = sent["cpu_us"]
        figures["hop64_us"] = sent["cpu_us"] - near["cpu_us"]
    return figures


def latency(system: System, probes: int) -> dict[str, float]:
    """Return one-way latency of 64 B probes, us, by the kernel's receive stamps."""
    command = ["probe", system.target, str(SINK_PORT), str(probes), str(PROBES_PER_S), str(SMALL_BYTES)]
    _sent, got = _with_sink(system, command)
    if got["latency_us"] is None:
        raise LabError(f"{system.name}: no probe arrived")
    return {f"owl_{name}_us": value for name, value in got["latency_us"].items()} | {"owl_lost": float(probes - got["distinct"])}


def process_times(system: System) -> dict[str, float]:
    """Return the CPU time of the system's processes so far, seconds, by "A", "R" and "C"."""
    return {side: cpu.process_s(pid) for side, pid in system.pids.items()}


def _near_target(system: System) -> str:
    """The relay's own address on the ingress side: the same packets, one hop less."""
    port = system.relay.ports[0]
    return port.ipv4 if system.has_ipv4 else port.ipv6


def _run_load(namespace: Namespace, arguments: list[str]) -> dict[str, Any]:
    done = subprocess.run(namespace.command(sys.executable, str(LOAD), *arguments), capture_output=True, text=True, check=False, timeout=60)
    try:
        result: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        raise LabError(f"the load ended with {done.returncode}: {done.stderr[-300:]}") from None
    return result


def _with_sink(system: System, arguments: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Send from A while a sink counts at C; return what either says."""
    family = 2 if system.has_ipv4 else 10
    command = [sys.executable, str(LOAD), "sink", str(SINK_PORT), str(family)]
    sink = system.egress.start(*command, stdin=subprocess.PIPE, output=subprocess.PIPE)
    assert sink.stdin is not None
    assert sink.stdout is not None
    try:
        if sink.stdout.readline() != b"ready\n":
            raise LabError("the sink did not start")
        sent = _run_load(system.ingress, arguments)
        time.sleep(DRAIN_S)
        sink.stdin.close()
        got: dict[str, Any] = json.loads(sink.stdout.readline())
        sink.wait(5.0)
        return sent, got
    finally:
        sink.kill()
        sink.wait()
        sink.stdout.close()
        system.egress.programs.remove(sink)
