"""How much CPU the portable data plane (L0) needs per relayed packet, over UDP on loopback, against a plain loop in the same run.

    python benchmarks/dataplane.py [--packets 20000] [--repetitions 5] [--sizes 64 512 1384] [--output FILE]

Two processes: the load (sends sealed packets, takes them back, keeps up to IN_FLIGHT_MAX under way so that the relay always finds full
batches) and the relay, whose CPU time (user and system, getrusage) is divided by the packets it forwarded. Packets go one by one: no GRO or
GSO, one system call per packet each way. Three loops are compared, in turn within each repetition, on packets of the same sizes:

- plain: recvfrom and sendto in Python, nothing else;
- relay: the same loop with `PortableForwarder.receive` in between: opens, checks, advances, seals, counts;
- stamped: as relay, with recvmsg and the kernel's receive stamp, as the overlay's loop does it.

Sizes are of the sealed payload; an SR packet with two segments is 80 B longer. CPU time is robust against other work on the machine but
not free of it (caches, hyperthreads): compare within one run, mostly by `ratio_to_plain`, over repetitions of relay / plain of the same
repetition, and mind `aes_gcm_56_B_us`: 0.5 on an idle machine; where it is more, work in user space costs more in proportion. Loopback
does the receiver's softirq work in the sender's system call; a real network card divides the cost differently.
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
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import attrs
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from srwan.overlay.session import Session
from srwan.overlay.view import Role
from srwan.routing.packet import open_packet, seal_packet
from srwan.routing.sid import Function
from srwan.routing.srh import Srh
from srwan.testing.packets import SrNetwork, SrRouter

MODES = ("plain", "relay", "stamped")
BATCH = 64
"""Datagrams drained per wake-up, as in `overlay.transport`."""
IN_FLIGHT_MAX = 256
"""Packets under way: four batches, so that the relay always finds a full one, and few enough that no receive buffer overflows."""
LOST_AFTER_S = 0.2
"""Packets not back after this long without progress are lost."""
RECEIVE_BUFFER_BYTES = 4 << 20
SO_TIMESTAMPNS = 35
_TIMESPEC = struct.Struct("qq")
PATH_TAG = 0xBE9C4


@attrs.frozen(slots=True)
class Sample:
    """One repetition of one loop."""

    packets: int
    cpu_us: float
    """CPU time of the relay process per forwarded packet, microseconds."""
    packets_per_s: float
    """Forwarded per second of wall time; a lower bound, the load shares the machine."""


def main() -> int:
    """Run the benchmark and write JSON."""
    parser = argparse.ArgumentParser(description="CPU per relayed packet of the portable data plane")
    parser.add_argument("--packets", type=int, default=20_000, help="packets per repetition and loop")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 512, 1384], help="sealed payload, bytes")
    parser.add_argument("--output", type=Path, help="write JSON here instead of standard output")
    arguments = parser.parse_args()
    results = [measure(size, arguments.packets, arguments.repetitions) for size in arguments.sizes]
    report = {
        "benchmark": "dataplane: portable (L0), one by one, UDP over loopback, relay process CPU per packet",
        "command": f"python benchmarks/dataplane.py --packets {arguments.packets} --repetitions {arguments.repetitions}",
        "machine": {"cpus": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version(), "load": os.getloadavg()},
        "aes_gcm_56_B_us": round(aes_gcm_us(), 2),
        "results": results,
    }
    text = json.dumps(report, indent=2) + "\n"
    if arguments.output is None:
        sys.stdout.write(text)
    else:
        arguments.output.write_text(text)
    return 0


def measure(size: int, packets: int, repetitions: int) -> dict[str, object]:
    """Compare the loops at one size."""
    samples: dict[str, list[Sample]] = {mode: [] for mode in MODES}
    for _ in range(repetitions):
        for mode in MODES:
            samples[mode].append(run_once(mode, size, packets))
    result: dict[str, object] = {"payload_bytes": size}
    for mode in MODES:
        us = [sample.cpu_us for sample in samples[mode]]
        ratios = [sample.cpu_us / plain.cpu_us for sample, plain in zip(samples[mode], samples["plain"], strict=True)]
        result[mode] = {
            "cpu_us_per_packet": {"median": round(statistics.median(us), 2), "min": round(min(us), 2), "max": round(max(us), 2)},
            "ratio_to_plain": {
                "median": round(statistics.median(ratios), 2),
                "min": round(min(ratios), 2),
                "max": round(max(ratios), 2),
            },
            "packets_per_s": round(statistics.median(sample.packets_per_s for sample in samples[mode])),
            "forwarded": sum(sample.packets for sample in samples[mode]),
        }
    return result


def run_once(mode: str, size: int, packets: int) -> Sample:
    """One repetition: fresh sessions, fresh sockets, a fresh relay process."""
    network = SrNetwork()
    ingress, relay, egress = network.line([Role.RELAY] * 3)
    load, at_relay = udp_socket(), udp_socket()
    try:
        current(relay, egress).address = load.getsockname()
        link = current(ingress, relay)
        srh = Srh.for_path((relay.sid(), egress.sid(Function.END_APP))).encode()
        payload = os.urandom(size)
        datagrams = [seal_packet(link, srh, PATH_TAG, payload) for _ in range(packets)]
        ours, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("fork")  # the child inherits the sessions
        child = context.Process(target=relay_process, args=(mode, relay, at_relay, load.getsockname(), theirs))
        child.start()
        try:
            ours.recv()
            started = time.perf_counter()
            last = push(load, at_relay.getsockname(), datagrams)
            wall_s = time.perf_counter() - started
            ours.send("stop")
            forwarded, cpu_s = ours.recv()
        finally:
            child.join(5.0)
            child.kill()
            child.join()
            ours.close()
            theirs.close()
        if mode != "plain":
            _, _, path_tag, payload_at = open_packet(egress.sessions.by_index, last)
            if (path_tag, last[payload_at:]) != (PATH_TAG, payload):
                raise SystemExit("the relay changed what it carried")
        return Sample(forwarded, 1e6 * cpu_s / forwarded, forwarded / wall_s)
    finally:
        load.close()
        at_relay.close()


def current(router: SrRouter, other: SrRouter) -> Session:
    """The session of one router with another."""
    session = router.sessions.current(other.node_id)
    if session is None:
        raise SystemExit("no session")
    return session


def udp_socket() -> socket.socket:
    """A UDP socket on loopback, its port chosen by the kernel."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
    sock.bind(("127.0.0.1", 0))
    sock.setblocking(False)
    return sock


def push(load: socket.socket, relay: tuple[str, int], datagrams: list[bytes]) -> bytes:
    """Send all datagrams with at most IN_FLIGHT_MAX under way, take back what the relay sends, return the last of it."""
    poller = select.poll()
    poller.register(load, select.POLLIN)
    sent, back, last = 0, 0, b""
    while back < len(datagrams):
        for datagram in datagrams[sent : min(sent + BATCH, back + IN_FLIGHT_MAX)]:
            load.sendto(datagram, relay)
            sent += 1
        is_full = sent - back >= IN_FLIGHT_MAX or sent == len(datagrams)
        if not poller.poll(1000 * LOST_AFTER_S if is_full else 0) and is_full:
            if sent == len(datagrams):
                break
            back = sent  # lost ones make room
        with contextlib.suppress(BlockingIOError):
            for _ in range(BATCH):
                last = load.recv(2048)
                back += 1
    if not last:
        raise SystemExit("the relay sent nothing")
    return last


def relay_process(mode: str, router: SrRouter, sock: socket.socket, next_hop: tuple[str, int], parent: Connection) -> None:
    """Forward until told to stop; answer (packets, CPU seconds)."""
    forwarded = 0
    send_to = sock.sendto

    def send(data: bytes, destination: tuple[str, int]) -> None:
        nonlocal forwarded
        forwarded += 1
        send_to(data, destination)

    router.forwarder._send = send
    drain = {"plain": plain_drain, "relay": relay_drain, "stamped": stamped_drain}[mode](router, sock, send, next_hop)
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    poller.register(parent, select.POLLIN)
    before = resource.getrusage(resource.RUSAGE_SELF)
    parent.send("ready")
    while True:
        ready = poller.poll()
        if any(descriptor == parent.fileno() for descriptor, _ in ready):
            break
        with contextlib.suppress(BlockingIOError):
            drain()
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    parent.send((forwarded, cpu_s))


Send = Callable[[bytes, tuple[str, int]], None]


def plain_drain(_router: SrRouter, sock: socket.socket, send: Send, next_hop: tuple[str, int]) -> Callable[[], None]:
    """The cheapest forward loop in Python."""
    receive_from = sock.recvfrom

    def drain() -> None:
        for _ in range(BATCH):
            data, _source = receive_from(2048)
            send(data, next_hop)

    return drain


def relay_drain(router: SrRouter, sock: socket.socket, _send: Send, _next_hop: tuple[str, int]) -> Callable[[], None]:
    """The same with the data plane in between."""
    receive_from, take = sock.recvfrom, router.forwarder.receive

    def drain() -> None:
        for _ in range(BATCH):
            data, source = receive_from(2048)
            take(data, source, 0)

    return drain


def stamped_drain(router: SrRouter, sock: socket.socket, _send: Send, _next_hop: tuple[str, int]) -> Callable[[], None]:
    """As `relay_drain`, with the kernel's receive stamps."""
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    receive_message, take = sock.recvmsg, router.forwarder.receive

    def drain() -> None:
        for _ in range(BATCH):
            data, ancillary, _flags, source = receive_message(2048, 64)
            seconds, ns = _TIMESPEC.unpack_from(ancillary[0][2])
            take(data, source, seconds * 1_000_000_000 + ns)

    return drain


def aes_gcm_us() -> float:
    """One AES-256-GCM of 56 bytes, microseconds of CPU: tells how busy the machine is (0.5 on an idle one)."""
    cipher, nonce, count = AESGCM(bytes(32)), bytes(12), 20_000
    started = time.process_time()
    for _ in range(count):
        cipher.encrypt(nonce, bytes(56), bytes(24))
    return 1e6 * (time.process_time() - started) / count


if __name__ == "__main__":
    sys.exit(main())
