"""What the portable data plane (L0) costs a relay: CPU a packet and packets a second, against a plain loop in Python in the same run.

    python benchmarks/portable.py [--json] [--packets 20000] [--repetitions 7] [--sizes 64 512 1384] [--output FILE]

Two processes over UDP on the loopback, pinned to a processor each where there are two: the load seals packets beforehand, sends them, takes
them back and keeps up to IN_FLIGHT_MAX under way, so that the relay always finds a full batch; the relay's CPU time (user and system) is
divided by the packets it forwarded. `packets_per_s` is of wall time with both processes running, a lower bound: the load is one, too.
Loops are compared in turn within each repetition, on packets of the same sizes:

- plain: recvfrom and sendto, nothing else, one datagram at a time;
- relay: the same with `PortableForwarder.receive_batch` in between: opens, checks, advances, seals, counts;
- stamped: one by one, as a node does it where the kernel has no trains: `UdpTransport` with kernel stamps, on Trio;
- joined: datagrams come one by one and leave in trains: a network card without GRO;
- trains: they come in trains and leave in trains, as a node does it on Linux;
- plain_trains: recvmsg and sendmsg of whole trains, nothing else: what is left when a packet costs nothing.

Sizes are of the sealed payload; an SR packet with two segments is 80 B longer. CPU time is robust against other work on the machine but not
free of it (caches, hyperthreads): compare within one run, by `ratio_to_plain`, over repetitions of loop / plain of the same repetition, and
by `quiet_us_per_packet`, the cheapest tenth of the full batches of a repetition, wake-up and reading included; and mind `aes_gcm_56_B_us`:
0.5 on an idle machine; where it is more, work in user space costs more in proportion. Not in the figures: the network. Loopback passes
trains whole and computes no checksum; it does the receiver's softirq work in the sender's system call. A train needs a card or driver with
GRO on the way in, and one bulk flow: many small flows are the row "stamped".
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import platform
import resource
import select
import socket
import statistics
import struct
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import attrs
import trio
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from srwan.clock import Clock
from srwan.overlay.session import Session
from srwan.overlay.trains import Train, cut
from srwan.overlay.udp import UdpTransport
from srwan.overlay.view import Role
from srwan.routing.packet import open_packet, seal_packet
from srwan.routing.sid import Function
from srwan.routing.srh import Srh
from srwan.testing.packets import SrNetwork, SrRouter
from srwan.types import UdpAddress

MODES = ("plain", "relay", "stamped", "joined", "plain_trains", "trains")
WITH_TRAINS = frozenset({"plain_trains", "trains"})
"""Modes whose load comes in trains."""
BATCH = 64
"""Datagrams drained per wake-up, as in `overlay.transport`."""
IN_FLIGHT_MAX = 512
"""Packets under way: eight batches, so that the relay always finds a full one, and few enough that no receive buffer overflows."""
LOST_AFTER_S = 3.0
"""Packets not back after this long without progress are lost."""
BUFFER_BYTES = 8 << 20
SOL_UDP, UDP_SEGMENT, UDP_GRO = 17, 103, 104
SO_TIMESTAMPNS, SO_RCVBUFFORCE, SO_SNDBUFFORCE = 35, 33, 32
PATH_TAG = 0xBE9C4


@attrs.frozen(slots=True)
class Sample:
    """One repetition of one loop."""

    packets: int
    """Forwarded."""
    lost: int
    """Sent and not come back."""
    cpu_us: float
    """CPU time of the relay process per forwarded packet, microseconds."""
    quiet_us: float
    """The same of the cheapest tenth of full batches: what it costs while others leave the processor's other thread and caches alone."""
    packets_per_s: float
    """Forwarded per second of wall time."""


def main() -> None:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packets", type=int, default=20_000, help="packets per repetition and loop")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 512, 1384], help="sealed payload, bytes")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES), help="loops to measure; plain always is")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--output", type=Path, help="write the JSON to this file, too")
    arguments = parser.parse_args()
    modes = [mode for mode in MODES if mode == "plain" or mode in arguments.modes]
    load = os.getloadavg()[0]
    results = [measure(modes, size, arguments.packets, arguments.repetitions) for size in arguments.sizes]
    report = {
        "benchmark": "portable",
        "packets": arguments.packets,
        "repetitions": arguments.repetitions,
        "machine": {"cpus": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version()},
        "load_average_before": round(load, 1),
        "aes_gcm_56_B_us": round(aes_gcm_us(), 2),
        "results": results,
    }
    text = json.dumps(report, indent=2)
    if arguments.output is not None:
        arguments.output.write_text(text + "\n")
    print(text if arguments.json else table(report, modes))


def table(report: Mapping[str, object], modes: Sequence[str]) -> str:
    """The report for people."""
    lines = [
        f"aes_gcm_56_B_us {report['aes_gcm_56_B_us']}",
        "size  loop          CPU us a packet      quiet  of plain   packets/s   Gbit/s   lost",
    ]
    results = report["results"]
    assert isinstance(results, list)
    for result in results:
        for mode in modes:
            row = result[mode]
            cpu, ratio = row["cpu_us_per_packet"], row["ratio_to_plain"]["median"]
            spread_us = f"{cpu['median']:6.2f} ({cpu['min']:.2f}..{cpu['max']:.2f})"
            rate = f"{row['packets_per_s']['median']:10,} {row['gbit_per_s']:8.2f} {row['lost']:6}"
            lines.append(
                f"{result['payload_bytes']:4}  {mode:12} {spread_us:22} {row['quiet_us_per_packet']['median']:6.2f} {ratio:7.2f}  {rate}"
            )
    return "\n".join(lines)


def measure(modes: Sequence[str], size: int, packets: int, repetitions: int) -> dict[str, object]:
    """Compare the loops at one size."""
    samples: dict[str, list[Sample]] = {mode: [] for mode in modes}
    for repetition in range(repetitions + 1):
        for mode in modes:
            sample = run_once(mode, size, packets)
            if repetition:  # the first one warms up
                samples[mode].append(sample)
    result: dict[str, object] = {"payload_bytes": size}
    for mode in modes:
        ratios = [sample.cpu_us / plain.cpu_us for sample, plain in zip(samples[mode], samples["plain"], strict=True)]
        quiet_ratios = [sample.quiet_us / plain.quiet_us for sample, plain in zip(samples[mode], samples["plain"], strict=True)]
        rates = [sample.packets_per_s for sample in samples[mode]]
        result[mode] = {
            "cpu_us_per_packet": spread([sample.cpu_us for sample in samples[mode]], 2),
            "quiet_us_per_packet": spread([sample.quiet_us for sample in samples[mode]], 2),
            "ratio_to_plain": spread(ratios, 3),
            "quiet_ratio_to_plain": spread(quiet_ratios, 3),
            "packets_per_s": spread(rates, None),
            "gbit_per_s": round(statistics.median(rates) * size * 8e-9, 3),
            "lost": sum(sample.lost for sample in samples[mode]),
        }
    return result


def spread(values: Sequence[float], digits: int | None) -> dict[str, float]:
    """Median, least and greatest."""
    return {"median": round(statistics.median(values), digits), "min": round(min(values), digits), "max": round(max(values), digits)}


def run_once(mode: str, size: int, packets: int) -> Sample:
    """One repetition: fresh sessions, fresh sockets, a fresh relay process."""
    network = SrNetwork()
    ingress, relay, egress = network.line([Role.RELAY] * 3)
    load, at_relay = udp_socket(), udp_socket()
    cpus = sorted(os.sched_getaffinity(0))
    try:
        load.setsockopt(SOL_UDP, UDP_GRO, 1)
        current(relay, egress).address = load.getsockname()
        link = current(ingress, relay)
        srh = Srh.for_path((relay.sid(), egress.sid(Function.END_APP))).encode()
        payload = os.urandom(size)
        datagrams = [seal_packet(link, srh, PATH_TAG, payload) for _ in range(packets)]
        ours, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("fork")  # the child inherits the sessions
        child = context.Process(target=relay_process, args=(mode, relay, at_relay, load.getsockname(), theirs, cpus[-1]))
        child.start()
        os.sched_setaffinity(0, {cpus[0]})
        try:
            ours.recv()
            started = time.perf_counter()
            back, last = push(load, at_relay.getsockname(), datagrams, in_trains=mode in WITH_TRAINS)
            wall_s = time.perf_counter() - started
            ours.send("stop")
            cpu_s, quiet_us = ours.recv()
        finally:
            child.join(5.0)
            child.kill()
            child.join()
            ours.close()
            theirs.close()
        if not mode.startswith("plain"):
            _, _, path_tag, payload_at = open_packet(egress.sessions.by_index, last)
            if (path_tag, last[payload_at:]) != (PATH_TAG, payload):
                raise SystemExit("the relay changed what it carried")
        return Sample(back, packets - back, 1e6 * cpu_s / back, quiet_us, back / wall_s)
    finally:
        os.sched_setaffinity(0, cpus)
        load.close()
        at_relay.close()


def current(router: SrRouter, other: SrRouter) -> Session:
    """The session of one router with another."""
    session = router.sessions.current(other.node_id)
    if session is None:
        raise SystemExit("no session")
    return session


def udp_socket() -> socket.socket:
    """A UDP socket on the loopback, its port chosen by the kernel."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF, SO_RCVBUFFORCE, SO_SNDBUFFORCE):
        with contextlib.suppress(PermissionError):
            sock.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
    sock.bind(("127.0.0.1", 0))
    sock.setblocking(False)
    return sock


def push(load: socket.socket, relay: UdpAddress, datagrams: list[bytes], *, in_trains: bool) -> tuple[int, bytes]:
    """Send all with at most IN_FLIGHT_MAX under way, take back what the relay sends, return how many came and the last of them."""
    size = len(datagrams[0])
    segment = [(SOL_UDP, UDP_SEGMENT, struct.pack("@H", size))]
    pieces = [b"".join(datagrams[start:stop]) for start, stop in cut(datagrams)] if in_trains else datagrams
    counts = [len(piece) // size for piece in pieces]
    poller = select.poll()
    poller.register(load, select.POLLIN)
    at, sent, back, last = 0, 0, 0, b""
    while back < len(datagrams):
        while at < len(pieces) and sent - back < IN_FLIGHT_MAX:
            if in_trains:
                load.sendmsg([pieces[at]], segment, 0, relay)
            else:
                load.sendto(pieces[at], relay)
            sent += counts[at]
            at += 1
        if not poller.poll(1000 * LOST_AFTER_S):
            if at == len(pieces):
                break
            back = sent  # lost ones make room
        with contextlib.suppress(BlockingIOError):
            for _ in range(BATCH):
                last = load.recv(65_535)
                back += max(1, len(last) // size)
    if not last:
        raise SystemExit("the relay sent nothing")
    return back, last[:size]


def relay_process(mode: str, router: SrRouter, sock: socket.socket, next_hop: UdpAddress, parent: Connection, cpu: int) -> None:
    """Forward until told to stop; answer with the CPU seconds it took."""
    os.sched_setaffinity(0, {cpu})
    if mode in ("stamped", "joined", "trains"):
        trio.run(relay_as_a_node, mode, router, sock, parent)
        return
    drain = {"plain": plain_drain, "relay": relay_drain, "plain_trains": train_drain}[mode](router, sock, next_hop)
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    poller.register(parent, select.POLLIN)
    meter, before_s = Meter(), time.process_time()
    parent.send("ready")
    while all(descriptor != parent.fileno() for descriptor, _ in poller.poll()):
        meter.tick(drain())
    parent.send((time.process_time() - before_s, meter.quiet_us))


class Meter:
    """CPU time of each full batch."""

    def __init__(self) -> None:
        self._at_ns = time.thread_time_ns()
        self._us: list[float] = []

    def tick(self, packets: int) -> None:
        """So many packets since the last call."""
        now_ns = time.thread_time_ns()
        if packets >= BATCH // 2:
            self._us.append((now_ns - self._at_ns) / packets / 1e3)
        self._at_ns = now_ns

    @property
    def quiet_us(self) -> float:
        """Per packet, of the cheapest tenth."""
        return sorted(self._us)[len(self._us) // 10] if self._us else float("nan")


async def relay_as_a_node(mode: str, router: SrRouter, sock: socket.socket, parent: Connection) -> None:
    """Forward with the transport and the loop that a node has."""
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    if mode == "trains":
        sock.setsockopt(SOL_UDP, UDP_GRO, 1)
    transport = UdpTransport([sock], Clock(), has_kernel_stamps=True, takes_trains=mode == "trains", sends_trains=mode != "stamped")
    forwarder, meter, held = router.forwarder, Meter(), 0
    forwarder._send, forwarder._send_many = transport.send, transport.send_many

    def handle(trains: list[Train]) -> None:
        nonlocal held
        meter.tick(held)  # from one batch to the next: the wake-up and the reading, too
        held = sum(max(1, -(-len(data) // size)) for data, size, _, _ in trains)
        forwarder.receive_batch(trains)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(transport.serve_trains, handle)
        before = resource.getrusage(resource.RUSAGE_SELF)
        parent.send("ready")
        await trio.lowlevel.wait_readable(parent.fileno())
        after = resource.getrusage(resource.RUSAGE_SELF)
        nursery.cancel_scope.cancel()
    parent.send((after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, meter.quiet_us))
    if transport.drops or router.drops:
        sys.stderr.write(f"{mode}: dropped {dict(transport.drops)} {router.drops}\n")


def plain_drain(_router: SrRouter, sock: socket.socket, next_hop: UdpAddress) -> Callable[[], int]:
    """The cheapest forward loop in Python; returns how many it took."""
    receive_from, send_to = sock.recvfrom, sock.sendto

    def drain() -> int:
        taken = 0
        with contextlib.suppress(BlockingIOError):
            for taken in range(1, BATCH + 1):  # noqa: B007 -- read after the loop
                data, _source = receive_from(2048)
                send_to(data, next_hop)
        return taken

    return drain


def relay_drain(router: SrRouter, sock: socket.socket, _next_hop: UdpAddress) -> Callable[[], int]:
    """The same with the data plane in between."""
    receive_from, forwarder = sock.recvfrom, router.forwarder
    forwarder._send = sock.sendto  # type: ignore[assignment]

    def drain() -> int:
        batch: list[Train] = []
        with contextlib.suppress(BlockingIOError):
            for _ in range(BATCH):
                data, source = receive_from(2048)
                batch.append((data, len(data), source, 0))
        forwarder.receive_batch(batch)
        return len(batch)

    return drain


def train_drain(_router: SrRouter, sock: socket.socket, next_hop: UdpAddress) -> Callable[[], int]:
    """Whole trains in and out."""
    sock.setsockopt(SOL_UDP, UDP_GRO, 1)
    receive_message, send_message = sock.recvmsg, sock.sendmsg

    def drain() -> int:
        taken = 0
        with contextlib.suppress(BlockingIOError):
            while taken < BATCH:
                data, ancillary, _flags, _source = receive_message(65_535, 64)
                size = int.from_bytes(ancillary[0][2], sys.byteorder) if ancillary else len(data)
                send_message([data], [(SOL_UDP, UDP_SEGMENT, struct.pack("@H", size))], 0, next_hop)
                taken += -(-len(data) // size)
        return taken

    return drain


def aes_gcm_us() -> float:
    """One AES-256-GCM of 56 bytes, microseconds of CPU: tells how busy the machine is (0.5 on an idle one)."""
    cipher, nonce, count = AESGCM(bytes(32)), bytes(12), 20_000
    started = time.process_time()
    for _ in range(count):
        cipher.encrypt(nonce, bytes(56), bytes(24))
    return 1e6 * (time.process_time() - started) / count


if __name__ == "__main__":
    main()
