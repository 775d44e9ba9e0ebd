"""The ends of `relay_alone.py`: members of the relay's group with real sessions, and sockets that send and receive in batches.

An `End` is a member: an `OverlayService` on a UDP socket in its namespace, so that the relay has certificates, beats and handshakes to
deal with as always. Its packets go through a `Track`: load sockets in both namespaces, fed by sendmmsg and drained by recvmmsg. The relay
follows an end to its load socket as it follows any peer that moves, by the first authentic packet from there.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import socket
import struct
import time
from collections.abc import Callable, Sequence

import numpy as np
import trio
from numpy.typing import NDArray

from dataplane_peers.load import BATCH, BUFFER_BYTES, CONTROL_BYTES, MSG_DONTWAIT, SO_RCVBUFFORCE, SO_SNDBUFFORCE, SO_TIMESTAMPNS, Batch
from srwan.clock import Clock
from srwan.identity import Identity
from srwan.overlay.memory import MemoryNetwork
from srwan.overlay.service import OverlayConfig, OverlayService
from srwan.overlay.session import Session, SessionRekeyed
from srwan.overlay.udp import open_udp
from srwan.overlay.view import Role
from srwan.routing.packet import seal_packet
from srwan.routing.sid import Function, Sid
from srwan.routing.srh import Srh
from srwan.testing.namespaces import LabError, Namespace
from srwan.types import NodeId, UdpAddress

PAYLOAD_AT = 24 + 8 + 2 * 16 + 16
"""Where the payload starts in a packet with two segments."""
IN_FLIGHT_MAX = 512
"""Packets under way: eight batches, so that the relay always finds one, and few enough that no socket buffer overflows."""
LOST_AFTER_S = 0.25
"""Without any arrival: what is still out does not come."""
PAUSE_S = 0.0002
"""While the window is full: the cores are the relay's then."""
YIELD_S = 0.02
"""Longest time that the beats of the ends wait for a turn."""
READY_S = 15.0
DATA_BYTE = 0x21
SLOT_BYTES = 2048
_HEAD = struct.Struct("<IQ")


class End:
    """A member at one end of the chain.

    Args:
        namespace: where its socket is.
        address: that it listens on.
        network: name of the relay's network.
    """

    def __init__(self, namespace: Namespace, address: UdpAddress, network: str) -> None:
        self.clock, self.address = Clock(), address
        memory, identity = MemoryNetwork(), Identity.generate()
        transport = namespace.call(lambda: open_udp([address], self.clock))
        config = OverlayConfig(network=network, name=f"end{address[1]}", roles=Role.RELAY)
        control = memory.control_channel(identity.node_id)
        self.overlay = OverlayService(
            identity, self.clock, config, transport, control, memory.directory(), random.Random(random.SystemRandom().random())
        )
        self.node_id = identity.node_id
        self.rekeyed = 0
        """Sessions that got new keys."""
        self.overlay.on_event(self._count)

    def join(self, certificate: bytes) -> None:
        """Enter the group of the member whose certificate this is."""
        self.overlay.membership.join([certificate], self.clock.now(), self.clock.wall_ns())
        self.overlay.flush()

    async def connect(self, peer: NodeId) -> None:
        """Have a session with a member, once it is one.

        Raises:
            LabError: not within READY_S.
        """
        deadline = time.monotonic() + READY_S
        while self.overlay.sessions.current(peer) is None:
            if time.monotonic() > deadline:
                raise LabError(f"no session with {peer} within {READY_S:g} s; dropped: {dict(self.overlay.drops)}")
            if peer in self.overlay.view:
                self.overlay.sessions.connect(peer, self.overlay.address_of(peer), self.clock.now())
                self.overlay.flush()
            await trio.sleep(0.02)

    def session(self, peer: NodeId) -> Session:
        """Return the session to send with."""
        session = self.overlay.sessions.current(peer)
        if session is None:
            raise LabError(f"the session with {peer} is gone")
        return session

    def renew(self, peer: NodeId) -> None:
        """Ask for new keys."""
        self.overlay.sessions.renew(peer, self.clock.now())
        self.overlay.flush()

    def _count(self, event: object) -> None:
        self.rekeyed += isinstance(event, SessionRekeyed)


def srh_through(relay: NodeId, egress: NodeId) -> bytes:
    """Return the encoded header of the path relay, egress."""
    return Srh.for_path((Sid.of(relay, Function.END), Sid.of(egress, Function.END_APP))).encode()


def preseal(links: Sequence[tuple[Session, bytes, int]], size: int, count: int) -> NDArray[np.uint8]:
    """Return packets for a relay, one row each, sealed for the links in turn.

    Args:
        links: (session with the relay, header, path tag).
        size: of the payload, bytes; the relay takes it as it is.
        count: packets.
    """
    filling = os.urandom(size - _HEAD.size)
    packets = b"".join(
        seal_packet(link, srh, tag, _HEAD.pack(0, number) + filling)
        for number in range(count)
        for link, srh, tag in (links[number % len(links)],)
    )
    return np.frombuffer(packets, np.uint8).reshape(count, -1)


def load_socket(namespace: Namespace, address: UdpAddress) -> socket.socket:
    """Return a bound UDP socket with large buffers and receive stamps."""
    sock = namespace.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    for forced, plain in ((SO_RCVBUFFORCE, socket.SO_RCVBUF), (SO_SNDBUFFORCE, socket.SO_SNDBUF)):
        try:
            sock.setsockopt(socket.SOL_SOCKET, forced, BUFFER_BYTES)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, plain, BUFFER_BYTES)
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    sock.bind(address)
    sock.setblocking(False)
    return sock


class Track:
    """Sends from one namespace, receives in another, and keeps count.

    Args:
        sender: a connected load socket.
        receivers: load sockets; all are drained.
    """

    def __init__(self, sender: socket.socket, receivers: Sequence[socket.socket]) -> None:
        self.sender = sender
        """May be replaced at any time."""
        self.receivers = list(receivers)
        self.sent = self.received = 0
        self.on_batch: Callable[[NDArray[np.uint8], NDArray[np.uint32], NDArray[np.int64]], int] | None = None
        """Called with data, lengths and kernel stamps (ns) of each batch; returns how many count as received."""
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._in = Batch(SLOT_BYTES, has_control=True)
        self._out: dict[int, Batch] = {}
        self._heard_at = time.monotonic()

    @property
    def in_flight(self) -> int:
        """Packets sent and not received."""
        return self.sent - self.received

    def send(self, rows: NDArray[np.uint8]) -> None:
        """Send up to BATCH packets of one length, waiting while the socket is full."""
        size = rows.shape[1]
        batch = self._out.setdefault(size, Batch(size))
        count = len(rows)
        batch.data[:count] = rows
        deadline = time.monotonic() + 1.0
        done = 0
        while done < count:
            offset = ctypes.byref(batch.headers, done * ctypes.sizeof(batch.headers[0]))
            went = self._libc.sendmmsg(self.sender.fileno(), offset, count - done, 0)
            if went > 0:
                done += went
            elif time.monotonic() > deadline:
                raise LabError(f"the load socket takes nothing: {os.strerror(ctypes.get_errno())}")
        self.sent += count

    def drain(self) -> int:
        """Take what has arrived; return how many packets."""
        before = self.received
        batch = self._in
        for receiver in self.receivers:
            while True:
                batch.control_lengths[:] = CONTROL_BYTES
                count = self._libc.recvmmsg(receiver.fileno(), batch.headers, BATCH, MSG_DONTWAIT, None)
                if count <= 0:
                    break
                data, lengths = batch.data[:count], batch.lengths[:count]
                if self.on_batch is None:
                    self.received += int(np.count_nonzero(data[:, 0] == DATA_BYTE))
                else:
                    stamps = batch.control[:count, 16:32].view(np.int64)
                    self.received += self.on_batch(data, lengths, stamps[:, 0] * 1_000_000_000 + stamps[:, 1])
                if count < BATCH:
                    break
        if self.received > before:
            self._heard_at = time.monotonic()
        return self.received - before

    async def run(self, make_rows: Callable[[int], NDArray[np.uint8]], count: int) -> float:
        """Send `count` packets with at most IN_FLIGHT_MAX under way, and wait for the last.

        Args:
            make_rows: returns the next packets, as many as asked for, at most BATCH.
            count: packets.

        Returns:
            Seconds from the first to the last arrival.
        """
        self.sent = self.received = 0
        started = self._heard_at = yielded = time.monotonic()
        forgiven = 0
        while self.sent < count:
            room = IN_FLIGHT_MAX - (self.in_flight - forgiven)
            if room >= BATCH:
                self.send(make_rows(min(BATCH, count - self.sent)))
            got = self.drain()
            if not got and room < BATCH:
                time.sleep(PAUSE_S)  # noqa: ASYNC251 - Trio's is 1 ms coarse
                got = self.drain()
            now = time.monotonic()
            if now - yielded > YIELD_S or (room < BATCH and not got):  # some may wait at the socket of an end
                await trio.lowlevel.checkpoint()
                yielded = time.monotonic()
            if room < BATCH and now - self._heard_at > LOST_AFTER_S:
                forgiven = self.in_flight  # lost ones make room
        while self.in_flight and time.monotonic() - self._heard_at < LOST_AFTER_S:
            if not self.drain():
                await trio.sleep(0.001)
        return self._heard_at - started

    async def empty(self) -> None:
        """Throw away what may still arrive from before."""
        with contextlib.suppress(LabError):
            for _ in range(3):
                self.drain()
                await trio.sleep(0.005)
