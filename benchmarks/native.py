"""What the native data plane (L2) costs a relay: CPU a packet, and packets a second, one relay alone between two namespaces.

    python benchmarks/native.py [--json] [--seconds 1.0] [--repetitions 5] [--sizes 64 512 1384] [--output FILE]

Three namespaces in a line, ingress - relay - sink, joined by veth pairs, MTU 1600. The ingress seals packets of two segments in C as fast
as it can and sends them; the relay is a process with a plane and nothing else; what it sends is dropped by a filter in the sink's socket.
Ingress and relay are pinned to a processor each where there are two. `us` is CPU time (user and system, softirq work of its own
transmit included) of the relay process over packets that it sent on; `per_s` is packets sent on over wall time. Rows:

- trains: the ingress hands over GSO trains, and veth passes them on whole: one bulk flow, the best case;
- single: segmentation is off at the ingress, so that packets come to the relay one by one; they leave it in trains;
- single_out: as `single`, and segmentation is off at the relay too, so that the kernel cuts what leaves: a device that cannot.

Sizes are of the sealed payload; an SR packet with two segments is 80 B longer. Root, or a right to make namespaces, and ethtool.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import resource
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from srwan.routing.native._core import SEAL_BATCH_MAX, Plane
from srwan.routing.sid import Function, Sid, locator_of
from srwan.routing.srh import Srh
from srwan.testing.namespaces import Lab, LabError, Namespace
from srwan.types import NodeId

ROWS = ("single", "single_out", "trains")
INGRESS, RELAY, EGRESS = (NodeId(bytes([number]) * 32) for number in (1, 2, 3))
RELAY_PORT, SINK_PORT = 7000, 7001
BUFFER_BYTES = 4 << 20
PAYLOAD_OVERHEAD_BYTES = 28
SO_SNDBUFFORCE, SO_RCVBUFFORCE, SO_TIMESTAMPNS = 32, 33, 35
SOL_UDP, UDP_GRO = 17, 104


def key(purpose: str) -> bytes:
    """A key that both ends know."""
    return purpose.encode().ljust(32, b".")


def udp_socket(address: tuple[str, int]) -> socket.socket:
    """A socket as a node has it."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    for option, value in ((SO_SNDBUFFORCE, BUFFER_BYTES), (SO_RCVBUFFORCE, BUFFER_BYTES), (SO_TIMESTAMPNS, 1)):
        sock.setsockopt(socket.SOL_SOCKET, option, value)
    sock.bind(address)
    return sock


def pin(processor: int) -> None:
    """Stay on one processor, where there are several."""
    available = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {available[processor % len(available)]})


def run_relay(sink: str) -> None:
    """Relay until standard input ends; a line asks for packets sent on and CPU seconds so far."""
    pin(1)
    plane = Plane(locator_of(RELAY))
    for number, node in enumerate((INGRESS, EGRESS), 1):
        plane.add_peer(number, locator_of(node))
    keys = (key("unused"), key("link-1"), key("unused"), key("unused"))
    plane.add_session(1, 1, 1, None, keys, True)
    onward = plane.add_session(2, 2, 2, (sink, SINK_PORT), (key("link-2"), key("unused"), key("unused"), key("unused")), True)
    plane.set_members([(1, False), (2, False)])
    plane.set_current(2, onward)
    plane.set_role(True, [Function.END_APP])
    sock = udp_socket(("0.0.0.0", RELAY_PORT))
    plane.open([(sock.fileno(), int(sock.family))])
    print("ready", flush=True)
    for _ in sys.stdin:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        neighbours, _relayed, drops, _ = plane.counters()
        sent = sum(packets_out for _, _, _, packets_out, _ in neighbours)
        report = {"sent": sent, "cpu_s": usage.ru_utime + usage.ru_stime, "drops": drops, "io": plane.io_errors()[0]}
        print(json.dumps(report), flush=True)
    plane.close()


def run_ingress(relay: str) -> None:
    """Send for as many seconds as a line of standard input says, payloads of as many bytes; answer with packets sent."""
    pin(0)
    plane = Plane(locator_of(INGRESS))
    for number, node in enumerate((RELAY, EGRESS), 1):
        plane.add_peer(number, locator_of(node))
    link = plane.add_session(1, 1, 1, (relay, RELAY_PORT), (key("link-1"), key("unused"), key("unused"), key("unused")), True)
    end = plane.add_session(2, 2, 2, None, (key("unused"), key("unused"), key("end"), key("unused")), True)
    plane.set_current(1, link)
    plane.set_current(2, end)
    sock = udp_socket(("0.0.0.0", 0))
    plane.open([(sock.fileno(), int(sock.family))])
    srh = Srh.for_path((Sid.of(RELAY, Function.END), Sid.of(EGRESS, Function.END_APP))).encode()
    print("ready", flush=True)
    for line in sys.stdin:
        seconds, payload_bytes = json.loads(line)
        plaintexts = [bytes(payload_bytes - PAYLOAD_OVERHEAD_BYTES)] * SEAL_BATCH_MAX
        started = time.perf_counter()
        sent = 0
        while time.perf_counter() - started < seconds:
            sent += plane.send_batch(1, 2, srh, 77, plaintexts)
        print(json.dumps({"sent": sent, "seconds": time.perf_counter() - started}), flush=True)
    plane.close()


def open_sink() -> socket.socket:
    """A socket whose filter drops all that comes: it costs the sender as little as a wire."""

    class Instruction(ctypes.Structure):
        _fields_ = (("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.POINTER(Instruction)))

    drop = Instruction(0x06, 0, 0, 0)  # BPF_RET | BPF_K, 0 bytes
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, 26, bytes(Program(1, ctypes.pointer(drop))))  # SO_ATTACH_FILTER
    sock.setsockopt(SOL_UDP, UDP_GRO, 1)
    sock.bind(("0.0.0.0", SINK_PORT))
    return sock


class Program:
    """A program of this file in a namespace, spoken to by lines."""

    def __init__(self, namespace: Namespace, role: str, peer: str) -> None:
        command = (sys.executable, __file__, "--role", role, "--peer", peer)
        self._process = namespace.start(*command, stdin=subprocess.PIPE, output=subprocess.PIPE)
        self.read()

    def read(self) -> str:
        """Return the next line."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().decode()

    def ask(self, question: object) -> dict[str, Any]:
        """Send a line and return the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question).encode() + b"\n")
        self._process.stdin.flush()
        return dict(json.loads(self.read()))


def measure_once(ingress: Program, relay: Program, seconds: float, size: int) -> dict[str, float]:
    """Load the relay once."""
    before = relay.ask("report")
    load = ingress.ask([seconds, size])
    time.sleep(0.05)  # for what is under way
    after = relay.ask("report")
    packets = after["sent"] - before["sent"]
    return {
        "per_s": packets / load["seconds"],
        "us": (after["cpu_s"] - before["cpu_s"]) / max(1, packets) * 1e6,
        "gbit_s": packets * size * 8 / load["seconds"] / 1e9,
        "offered_per_s": load["sent"] / load["seconds"],
    }


def spread(samples: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Median, least and greatest of each figure."""
    figures = {name: sorted(sample[name] for sample in samples) for name in samples[0]}
    return {name: {"median": statistics.median(values), "min": values[0], "max": values[-1]} for name, values in figures.items()}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure all rows."""
    rows: dict[str, Any] = {}
    with Lab("native") as lab:
        left, middle, right = lab.add("ingress"), lab.add("relay"), lab.add("sink")
        into, at_relay = lab.link(left, middle, 1, mtu=1600)
        out, at_sink = lab.link(middle, right, 2, mtu=1600)
        sink = right.call(open_sink)
        relay, ingress = Program(middle, "relay", at_sink.ipv4), Program(left, "ingress", at_relay.ipv4)
        for row in arguments.rows:
            left.set_offload(is_on=row == "trains", devices=[into.device])
            middle.set_offload(is_on=row != "single_out", devices=[out.device])
            for size in arguments.sizes:
                measure_once(ingress, relay, arguments.seconds / 4, size)
                samples = [measure_once(ingress, relay, arguments.seconds, size) for _ in range(arguments.repetitions)]
                rows[f"{row} {size} B"] = spread(samples)
        last = relay.ask("report")
        sink.close()
    return {
        "rows": rows,
        "relay_drops": last["drops"],
        "relay_socket_errors": last["io"],
        "conditions": {"kernel": platform.release(), "processors": os.cpu_count(), "python": platform.python_version()},
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="CPU and throughput of a native relay")
    parser.add_argument("--json", action="store_true", help="print JSON only")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 512, 1384])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--output", type=Path)
    parser.add_argument("--role", choices=("relay", "ingress"), help=argparse.SUPPRESS)
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role:
        (run_relay if arguments.role == "relay" else run_ingress)(arguments.peer)
        return 0
    try:
        result: dict[str, Any] = measure(arguments)
    except LabError as error:
        result = {"skipped": str(error)}
    text = json.dumps(result, indent=2)
    if arguments.output:
        arguments.output.write_text(text + "\n", "utf-8")
    if arguments.json or "skipped" in result:
        print(text)
        return 0
    for name, figures in result["rows"].items():
        per_s, us = figures["per_s"], figures["us"]
        print(
            f"{name:18} {per_s['median'] / 1000:8.0f}k/s ({per_s['min'] / 1000:.0f}-{per_s['max'] / 1000:.0f})"
            f"  {us['median']:6.3f} us ({us['min']:.3f}-{us['max']:.3f})  {figures['gbit_s']['median']:6.2f} Gbit/s"
            f"  offered {figures['offered_per_s']['median'] / 1000:.0f}k/s"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
