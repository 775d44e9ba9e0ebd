"""Datagrams over the machine's UDP sockets: one per local address, raw, non-blocking, stamped by the kernel. A shell.

Theory of operation: `receive` waits until a socket can be read and then takes all that is there, up to 64 datagrams; nothing is awaited
per datagram. Several sockets are watched through one epoll descriptor, which is itself a thing to wait for, so that one socket or
several, there is one wait and no task per socket. `send` hands the datagram to the kernel or drops it; it never waits and never raises.

Stamps: the kernel notes the arrival of each datagram (`SO_TIMESTAMPNS`, CLOCK_REALTIME), which leaves the delay of the scheduler and
of this process out of every latency: p99 67 us against 688 us and more (measured; docs/decisions.md). Where the system has no such
option the time of reading is taken. When the wall clock was stepped, the batch at hand gets the time of reading as well, and the
conversion is set right before the next one.

Not here: what datagrams mean. Source: udp(7), ip(7), socket(7).
"""

from __future__ import annotations

import errno
import select
import socket
import struct
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_address

import trio

from srwan.clock import Clock
from srwan.errors import ConfigError
from srwan.overlay.reactor import Watch, current_reactor
from srwan.overlay.transport import DATAGRAMS_PER_BATCH_MAX
from srwan.types import Datagram, UdpAddress

__all__ = ["UdpTransport", "open_udp"]

DATAGRAM_BYTES_MAX = 2048
"""Longer ones are dropped: nothing we send exceeds a 1,500-byte underlay."""
RECEIVE_BUFFER_BYTES = 4 << 20
"""Wanted of the kernel: 30 ms at 1 Gbit/s, for when the process is not scheduled. The system's rmem_max may allow less."""
ADDRESSES_MAX = 8
ROUTES_MAX = 4096
"""Destinations whose socket is remembered; when more are met, all are looked up afresh."""
REFRESH_S = 0.5
"""Between two looks for steps of the wall clock too small to notice otherwise."""

_IS_LINUX = sys.platform == "linux"
_SO_TIMESTAMPNS: int = getattr(socket, "SO_TIMESTAMPNS", 35)  # Linux, asm-generic; not named by Python 3.11
_SO_RCVBUFFORCE: int = getattr(socket, "SO_RCVBUFFORCE", 33)
_IP_MTU_DISCOVER: int = getattr(socket, "IP_MTU_DISCOVER", 10)
_IPV6_MTU_DISCOVER: int = getattr(socket, "IPV6_MTU_DISCOVER", 23)
_PMTUDISC_DO: int = getattr(socket, "IP_PMTUDISC_DO", 2)
_MSG_TRUNC = int(socket.MSG_TRUNC)  # the enumeration's own & costs 1.2 us a datagram
_TIMESPEC = struct.Struct("@qq")
_ANCILLARY_BYTES = socket.CMSG_SPACE(_TIMESPEC.size)

_REMEDIES = {
    errno.EADDRINUSE: ("the port is taken", "stop the other program, choose another port, or use port 0 for any free one"),
    errno.EADDRNOTAVAIL: ("not an address of this host", "use one that `ip address` lists, or 0.0.0.0 for all"),
    errno.EACCES: ("not permitted", "use a port above 1023"),
    errno.EPERM: ("not permitted", "use a port above 1023"),
    errno.EAFNOSUPPORT: ("this host has no such protocol", "use an address of the other IP version"),
}


class UdpTransport:
    """UDP sockets as a `DatagramTransport`. Make it with `open_udp`; at most one task may wait in `receive`.

    Args:
        sockets: bound, non-blocking; owned from now on.
        clock: converts kernel stamps.
        has_kernel_stamps: `SO_TIMESTAMPNS` is set on all sockets.
    """

    def __init__(self, sockets: Sequence[socket.socket], clock: Clock, *, has_kernel_stamps: bool) -> None:
        self._sockets = tuple(sockets)
        self._clock = clock
        self._has_kernel_stamps = has_kernel_stamps
        self._local_addresses = tuple(_address_of(sock) for sock in sockets)
        self._by_family: dict[int, socket.socket] = {}
        for sock in sockets:
            self._by_family.setdefault(sock.family, sock)
        self._routes: dict[UdpAddress, Callable[[bytes, UdpAddress], int]] = {}
        self._drops: Counter[str] = Counter()
        self._refresh_at = clock.now() + REFRESH_S
        self._is_closed = False
        self._watch: Watch | None = None
        self._epoll: select.epoll | None = None
        self._by_fileno = {sock.fileno(): sock for sock in sockets}
        if len(sockets) > 1:
            self._epoll = select.epoll()
            for sock in sockets:
                self._epoll.register(sock.fileno(), select.EPOLLIN)

    @property
    def local_addresses(self) -> tuple[UdpAddress, ...]:
        """Where it listens, in the order given to `open_udp`; ports chosen by the kernel are filled in."""
        return self._local_addresses

    @property
    def drops(self) -> Mapping[str, int]:
        """Datagrams not sent or not passed on, by reason: an errno name, "address", "truncated"."""
        return self._drops

    def send(self, data: bytes, destination: UdpAddress) -> None:
        """Hand one datagram to the kernel, from the first local address of the destination's IP version.

        What the kernel does not take at once (full buffer, no route, firewall, too long for the path) is dropped and counted. Never raises.

        Cost: 0.3 us more than the system call.
        """
        sendto = self._routes.get(destination) or self._route(destination)
        if sendto is None:
            self._drops["address"] += 1
            return
        try:
            sendto(data, destination)
        except OSError as error:
            self._drops[_errno_name(error)] += 1

    async def receive(self) -> list[Datagram]:
        """Wait for datagrams and return 1 to 64 of them, in the order of arrival at each socket. See `DatagramTransport.receive`.

        Cancelling it loses nothing.

        Raises:
            trio.ClosedResourceError: the transport was closed. trio.BusyResourceError: another task is waiting.

        Cost: 0.9 us a datagram more than a bare `recvfrom`, and 60 us for the wake-up.
        """
        while True:
            if self._is_closed:
                raise trio.ClosedResourceError("the UDP transport was closed")
            await trio.lowlevel.wait_readable(self._epoll or self._sockets[0])
            batch = self._drain_ready() if self._epoll else self._drain(self._sockets[0], DATAGRAMS_PER_BATCH_MAX)
            if batch:
                return batch

    async def serve(self, handle: Callable[[list[Datagram]], None]) -> None:
        """Call `handle` with each batch until cancelled; the wait is shared with all that is served in this Trio run.

        Raises:
            trio.ClosedResourceError: the transport was closed. trio.BusyResourceError: it is served already. What `handle` raises.
        """
        if self._is_closed:
            raise trio.ClosedResourceError("the UDP transport was closed")

        def read(fileno: int) -> None:
            batch = self._drain(self._by_fileno[fileno], DATAGRAMS_PER_BATCH_MAX)
            if batch:
                handle(batch)

        with current_reactor().watch(tuple(self._by_fileno), read) as self._watch:
            await self._watch.until_failure()

    async def aclose(self) -> None:
        """Close the sockets at once. A waiting `receive` raises `trio.ClosedResourceError`. Closing again does nothing."""
        if not self._is_closed:
            self._is_closed = True
            if self._watch is not None and not self._watch.is_closed:
                self._watch.fail(trio.ClosedResourceError("the UDP transport was closed"))
            if self._epoll is not None:
                trio.lowlevel.notify_closing(self._epoll)
                self._epoll.close()
            for sock in self._sockets:
                trio.lowlevel.notify_closing(sock)
                sock.close()
        await trio.lowlevel.checkpoint()

    def _route(self, destination: UdpAddress) -> Callable[[bytes, UdpAddress], int] | None:
        """Choose the socket for a destination. Only numeric addresses pass, since the socket module would ask the DNS for names."""
        host, port = destination
        try:
            family = socket.AF_INET if ip_address(host).version == 4 else socket.AF_INET6
        except ValueError:
            return None
        sock = self._by_family.get(family)
        if sock is None or not 0 < port < 65536:
            return None
        if len(self._routes) >= ROUTES_MAX:
            self._routes.clear()
        self._routes[destination] = sock.sendto
        return sock.sendto

    def _drain_ready(self) -> list[Datagram]:
        """Drain the sockets that can be read, each up to its share of the batch, so that none starves another."""
        assert self._epoll is not None
        ready = self._epoll.poll(0)
        batch: list[Datagram] = []
        for fileno, _ in ready:
            batch += self._drain(self._by_fileno[fileno], DATAGRAMS_PER_BATCH_MAX // len(ready))
        return batch

    def _drain(self, sock: socket.socket, count_max: int) -> list[Datagram]:
        batch: list[Datagram] = []
        recvmsg, to_stamp_ns, unpack = sock.recvmsg, self._clock.stamp_from_realtime_ns, _TIMESPEC.unpack_from
        is_kernel_stamped = self._has_kernel_stamps and self._is_clock_steady()
        is_ipv6 = sock.family == socket.AF_INET6
        for _ in range(count_max):
            try:
                data, ancillary, flags, source = recvmsg(DATAGRAM_BYTES_MAX, _ANCILLARY_BYTES)
            except BlockingIOError:
                break
            except OSError as error:  # an ICMP error for something sent before
                self._drops[_errno_name(error)] += 1
                continue
            if flags & _MSG_TRUNC:
                self._drops["truncated"] += 1
                continue
            if is_kernel_stamped and ancillary:
                seconds, nanoseconds = unpack(ancillary[0][2])
                stamp_ns = to_stamp_ns(seconds * 1_000_000_000 + nanoseconds)
            else:
                stamp_ns = self._clock.stamp_ns()
            batch.append((data, source[:2] if is_ipv6 else source, stamp_ns))
        return batch

    def _is_clock_steady(self) -> bool:
        """Say whether the kernel stamps of this batch can be converted; False when a step of the wall clock has just been noticed."""
        clock = self._clock
        if clock.has_stepped():
            return not clock.refresh()
        now = clock.now()
        if now >= self._refresh_at:
            self._refresh_at = now + REFRESH_S
            clock.refresh()
        return True


def open_udp(addresses: Sequence[UdpAddress], clock: Clock) -> UdpTransport:
    """Bind one UDP socket to each address.

    Args:
        addresses: 1..8 numeric addresses of this host; port 0 lets the kernel choose. The first one is announced.
        clock: converts the kernel's receive stamps to the node's stamp clock.

    Raises:
        ConfigError: no or too many addresses, one that is malformed or not of this host, or a port that is taken. Nothing stays open.
    """
    if not 1 <= len(addresses) <= ADDRESSES_MAX:
        raise ConfigError("udp", f"{len(addresses)} addresses", f"give 1 to {ADDRESSES_MAX}")
    if len(addresses) > 1 and not hasattr(select, "epoll"):
        raise ConfigError("udp", f"{len(addresses)} addresses on a system without epoll", "give one address")
    sockets: list[socket.socket] = []
    stamped: list[bool] = []
    try:
        for address in addresses:
            sock = _bind(address)
            sockets.append(sock)
            stamped.append(_set_options(sock))
        return UdpTransport(sockets, clock, has_kernel_stamps=all(stamped))
    except BaseException:
        for sock in sockets:
            sock.close()
        raise


def _bind(address: UdpAddress) -> socket.socket:
    host, port = address
    try:
        family = socket.AF_INET if ip_address(host).version == 4 else socket.AF_INET6
    except ValueError:
        raise ConfigError("udp", f"{host!r} is no numeric IP address", "write for example 192.0.2.1 or 2001:db8::1") from None
    if not 0 <= port < 65536:
        raise ConfigError("udp", f"port {port} does not exist", "choose 0 to 65535")
    sock: socket.socket | None = None
    try:
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        sock.setblocking(False)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
    except OSError as error:
        if sock is not None:
            sock.close()
        problem, remedy = _REMEDIES.get(error.errno or 0, (error.strerror or _errno_name(error), "check the address"))
        raise ConfigError("udp", f"cannot listen on {host} port {port}: {problem}", remedy) from None
    return sock


def _set_options(sock: socket.socket) -> bool:
    """Ask for what makes the socket better, and do without where the system refuses; return whether the kernel will stamp."""
    _try_option(sock, socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
    if not _IS_LINUX:
        return False
    _try_option(sock, socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)  # beyond rmem_max; needs CAP_NET_ADMIN
    if sock.family == socket.AF_INET6:
        _try_option(sock, socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_DO)
    else:
        _try_option(sock, socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_DO)
    return _try_option(sock, socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)


def _try_option(sock: socket.socket, level: int, option: int, value: int) -> bool:
    try:
        sock.setsockopt(level, option, value)
    except OSError:
        return False
    return True


def _address_of(sock: socket.socket) -> UdpAddress:
    host, port = sock.getsockname()[:2]
    return host, port


def _errno_name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, type(error).__name__)
