"""UDP load: floods of small packets, probes of one-way latency, and who counts them. A program that runs inside a namespace.

    python load.py sink PORT FAMILY          counts until its standard input ends, then prints JSON
    python load.py flood ADDRESS PORT SECONDS SIZE
    python load.py probe ADDRESS PORT COUNT PER_S SIZE

Without a compiler: sendmmsg and recvmmsg through ctypes move 64 datagrams per call, which costs Python 0.1 us a packet beside the kernel's
3 to 4. Each datagram starts with a number of its own; the sink counts distinct ones, so that neither losses nor duplicates pass for speed.
Each also carries the sender's CLOCK_REALTIME, taken right before sending (probes; of its batch in a flood), and the sink has the kernel's
receive stamp (SO_TIMESTAMPNS): one machine, one clock, and the receiver's scheduling is not in the result.

Layout of a datagram: u64 sequence, u64 CLOCK_REALTIME ns, u64 magic, filling. Source: sendmmsg(2), recvmmsg(2), socket(7).
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import socket
import struct
import sys
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

BATCH = 64
MAGIC = 0x5357414E42454E43
BUFFER_BYTES = 4 << 20
SLOT_BYTES = 2048
CONTROL_BYTES = 64
SO_TIMESTAMPNS = 35
SO_SNDBUFFORCE = 32
SO_RCVBUFFORCE = 33
MSG_DONTWAIT = 0x40
SEQUENCES_MAX = 1 << 22
"""Of one flood: 4 million packets. More are counted as distinct without a look."""
REFUSED_MAX = 1_000_000
"""Calls that sent nothing, before a flood gives up."""
SPIN_NS = 60_000
"""Before a probe is due the sender no longer sleeps: a timer is late by about this."""
_HEAD = struct.Struct("<QQQ")
_TIMESPEC = struct.Struct("@qq")


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _MsgHdr(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("vectors", ctypes.POINTER(_IoVec)),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _MMsgHdr(ctypes.Structure):
    _fields_ = (("header", _MsgHdr), ("length", ctypes.c_uint))


class Batch:
    """64 datagram buffers for one system call, seen as a NumPy array.

    Args:
        slot_bytes: length of each buffer.
        has_control: with room for the receive stamp.
    """

    def __init__(self, slot_bytes: int, *, has_control: bool = False) -> None:
        self.data: NDArray[np.uint8] = np.zeros((BATCH, slot_bytes), np.uint8)
        self.control: NDArray[np.uint8] = np.zeros((BATCH, CONTROL_BYTES), np.uint8)
        self.headers = (_MMsgHdr * BATCH)()
        self._vectors = (_IoVec * BATCH)()
        for i in range(BATCH):
            self._vectors[i] = _IoVec(self.data.ctypes.data + i * slot_bytes, slot_bytes)
            header = self.headers[i].header
            header.vectors, header.vector_count = ctypes.pointer(self._vectors[i]), 1
            if has_control:
                header.control, header.control_length = self.control.ctypes.data + i * CONTROL_BYTES, CONTROL_BYTES
        octets = (ctypes.c_char * ctypes.sizeof(self.headers)).from_buffer(self.headers)
        raw: memoryview[int] = memoryview(octets).cast("B")
        self.lengths: NDArray[np.uint32] = np.ndarray(
            (BATCH,), np.uint32, buffer=raw, offset=_MMsgHdr.length.offset, strides=(ctypes.sizeof(_MMsgHdr),)
        )
        offset = _MMsgHdr.header.offset + _MsgHdr.control_length.offset
        self.control_lengths: NDArray[np.uint64] = np.ndarray(
            (BATCH,), np.uint64, buffer=raw, offset=offset, strides=(ctypes.sizeof(_MMsgHdr),)
        )


def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _buffered(sock: socket.socket, option: int, plain: int) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, plain, BUFFER_BYTES)


def connected(address: str, port: int) -> socket.socket:
    """Return a UDP socket for sending."""
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    _buffered(sock, SO_SNDBUFFORCE, socket.SO_SNDBUF)
    sock.connect((address, port))
    return sock


def flood(address: str, port: int, seconds: float, size: int) -> dict[str, float]:
    """Send as much as the socket takes, one packet each; return how many, in how long, at which cost of CPU."""
    libc, batch = _libc(), Batch(size)
    words = batch.data[:, :24].view(np.uint64)
    words[:, 2] = MAGIC
    offsets = np.arange(BATCH, dtype=np.uint64)
    sent = refused = 0
    with connected(address, port) as sock:
        started, cpu = time.monotonic(), time.process_time()
        ends = started + seconds
        while (now := time.monotonic()) < ends and refused < REFUSED_MAX:
            words[:, 0] = offsets + np.uint64(sent)
            words[:, 1] = time.time_ns()
            count = libc.sendmmsg(sock.fileno(), batch.headers, BATCH, 0)
            if count > 0:
                sent += count
            else:
                refused += 1
    return {"sent": sent, "seconds": now - started, "cpu_us": 1e6 * (time.process_time() - cpu) / max(1, sent), "refused": refused}


def probe(address: str, port: int, count: int, per_s: float, size: int) -> dict[str, float]:
    """Send stamped packets at a steady rate; return how many and how late the worst of them was, us."""
    interval_ns, due = round(1e9 / per_s), time.monotonic_ns()
    late_ns = 0
    filling = bytes(max(0, size - _HEAD.size))
    with connected(address, port) as sock:
        for seq in range(count):
            while (wait := due - time.monotonic_ns()) > 0:
                if wait > 2 * SPIN_NS:
                    time.sleep((wait - SPIN_NS) * 1e-9)
            late_ns = max(late_ns, -wait)
            due += interval_ns
            sock.send(_HEAD.pack(seq, time.time_ns(), MAGIC) + filling)
    return {"sent": count, "late_us_max": late_ns / 1e3}


class Sink:
    """Counts what a socket gets: distinct sequence numbers, and latencies by the kernel's receive stamps."""

    def __init__(self, port: int, family: socket.AddressFamily) -> None:
        self.sock = socket.socket(family, socket.SOCK_DGRAM)
        _buffered(self.sock, SO_RCVBUFFORCE, socket.SO_RCVBUF)
        self.sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self.sock.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", port))
        self.sock.setblocking(False)
        self._libc, self._batch = _libc(), Batch(SLOT_BYTES, has_control=True)
        self._seen = np.zeros(SEQUENCES_MAX, np.bool_)
        self._latencies: list[NDArray[np.int64]] = []
        self.received = self.foreign = self.distinct = 0
        self.first_s = self.last_s = 0.0

    def drain(self) -> int:
        """Take one batch; return how many datagrams it had."""
        batch = self._batch
        batch.control_lengths[:] = CONTROL_BYTES
        count = self._libc.recvmmsg(self.sock.fileno(), batch.headers, BATCH, MSG_DONTWAIT, None)
        if count <= 0:
            return 0
        self.last_s = time.monotonic()
        self.first_s = self.first_s or self.last_s
        words = batch.data[:count, :24].view(np.uint64)
        ours = (words[:, 2] == MAGIC) & (batch.lengths[:count] >= _HEAD.size)
        self.foreign += int(count - np.count_nonzero(ours))
        sequences = words[ours, 0]
        self.received += len(sequences)
        distinct = np.unique(sequences)
        inside = distinct[distinct < SEQUENCES_MAX].astype(np.int64)
        self.distinct += int(np.count_nonzero(~self._seen[inside])) + len(distinct) - len(inside)
        self._seen[inside] = True
        stamps = batch.control[:count, 16:32].view(np.int64)
        received_ns = stamps[:, 0] * 1_000_000_000 + stamps[:, 1]
        self._latencies.append((received_ns - words[:, 1].astype(np.int64))[ours])
        return int(count)

    def result(self) -> dict[str, Any]:
        """Sum up. Latencies in us; null if nothing came."""
        us = np.concatenate(self._latencies) / 1e3 if self._latencies else np.empty(0)
        quantiles = dict(zip(("p50", "p90", "p99"), np.percentile(us, (50, 90, 99)).tolist(), strict=True)) if len(us) else {}
        return {
            "received": self.received,
            "distinct": self.distinct,
            "foreign": self.foreign,
            "seconds": self.last_s - self.first_s,
            "latency_us": {"min": float(us.min()), **quantiles} if len(us) else None,
        }


def sink(port: int, family: socket.AddressFamily) -> dict[str, Any]:
    """Count until standard input ends."""
    counter = Sink(port, family)
    print("ready", flush=True)
    poller = select.poll()
    poller.register(counter.sock, select.POLLIN)
    poller.register(0, select.POLLIN | select.POLLHUP)
    while True:
        ready = {descriptor for descriptor, _ in poller.poll()}
        while counter.drain() == BATCH:
            pass
        if 0 in ready and not os.read(0, 1):
            while counter.drain():
                pass
            return counter.result()


def main() -> None:
    """Run one command and print its result."""
    kind, *arguments = sys.argv[1:]
    match kind, arguments:
        case "sink", [port, family]:
            result: dict[str, Any] = sink(int(port), socket.AddressFamily(int(family)))
        case "flood", [address, port, seconds, size]:
            result = flood(address, int(port), float(seconds), int(size))
        case "probe", [address, port, count, per_s, size]:
            result = probe(address, int(port), int(count), float(per_s), int(size))
        case _:
            raise SystemExit(__doc__)
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
