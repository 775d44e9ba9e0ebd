"""Datagrams over the machine's UDP sockets: one per local address, raw, non-blocking, stamped by the kernel. A shell.

Theory of operation: `receive` waits until a socket can be read and then takes all that is there, up to 64 datagrams; nothing is awaited
per datagram. Several sockets are watched through one epoll descriptor, which is itself a thing to wait for, so that one socket or
several, there is one wait and no task per socket. `send` hands the datagram to the kernel or drops it; it never waits and never raises.

Trains (`trains.py`): where the kernel has UDP_GRO, one read brings up to 64 KiB of datagrams of one source, and where it has UDP_SEGMENT,
`send_many` hands over as many at once. Reading and sending a datagram of 1,464 bytes takes 6.3 us alone and 0.7 us in a train (measured;
docs/decisions.md). Both are asked for when a socket is opened and done without where they are refused. A destination for which the kernel
refuses a train (no checksum offload on the way out, IPsec) gets its datagrams one by one from then on, and the refused ones at once; where
it is their size that is refused (the MTU), only those as long as these.

Stamps: the kernel notes the arrival of each datagram (`SO_TIMESTAMPNS`, CLOCK_REALTIME), which leaves the delay of the scheduler and
of this process out of every latency: p99 67 us against 688 us and more (measured; docs/decisions.md). Where the system has no such
option the time of reading is taken. A train has one stamp, of its first datagram: the kernel joins only what one poll of the network
card found, so that the others came at most that much later. When the wall clock was stepped, the batch at hand gets the time of reading
as well, and the conversion is set right before the next one.

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
from srwan.overlay.trains import Train, cut, datagrams_of
from srwan.overlay.transport import DATAGRAMS_PER_BATCH_MAX
from srwan.types import Datagram, UdpAddress

__all__ = ["UdpTransport", "open_udp"]

DATAGRAM_BYTES_MAX = 2048
"""Longer ones are dropped: nothing we send exceeds a 1,500-byte underlay."""
READ_BYTES_MAX = 65_535
"""What one read takes where trains may come: no UDP payload is longer."""
READ_SEGMENTS_MAX = 128
"""Datagrams taken out of one train, the rest is dropped: UDP_MAX_SEGMENTS of Linux since 6.6. Network cards and hypervisors may join more
of very small ones, which nobody sends us in good faith."""
RECEIVE_BUFFER_BYTES = 4 << 20
"""Wanted of the kernel: 30 ms at 1 Gbit/s, for when the process is not scheduled. The system's rmem_max may allow less."""
SEND_BUFFER_BYTES = 512 << 10
"""Wanted of the kernel, which doubles it: a dozen trains. A train is taken or refused whole, so the usual buffer, of three, refuses many;
in a longer one frames would wait behind more than 7 ms of data at 1 Gbit/s."""
ADDRESSES_MAX = 8
ROUTES_MAX = 4096
"""Destinations whose socket is remembered; when more are met, all are looked up afresh."""
REFRESH_S = 0.5
"""Between two looks for steps of the wall clock too small to notice otherwise."""

_IS_LINUX = sys.platform == "linux"
_SO_TIMESTAMPNS: int = getattr(socket, "SO_TIMESTAMPNS", 35)  # Linux, asm-generic; not named by Python 3.11
_SO_RCVBUFFORCE: int = getattr(socket, "SO_RCVBUFFORCE", 33)
_SO_SNDBUFFORCE: int = getattr(socket, "SO_SNDBUFFORCE", 32)
_SO_MEMINFO = 55
_MEMINFO = struct.Struct("@9I")  # Linux 4.12, include/uapi/linux/sock_diag.h; the last one is SK_MEMINFO_DROPS
_SOL_UDP = 17
_UDP_SEGMENT = 103  # Linux, include/uapi/linux/udp.h; not named by Python 3.11
_UDP_GRO = 104
_IP_MTU_DISCOVER: int = getattr(socket, "IP_MTU_DISCOVER", 10)
_IPV6_MTU_DISCOVER: int = getattr(socket, "IPV6_MTU_DISCOVER", 23)
_PMTUDISC_DO: int = getattr(socket, "IP_PMTUDISC_DO", 2)
_MSG_TRUNC = int(socket.MSG_TRUNC)  # the enumeration's own & costs 1.2 us a datagram
_TIMESPEC = struct.Struct("@qq")
_GRO_SIZE = struct.Struct("@i")
_SEGMENT_SIZE = struct.Struct("@H")
_ANCILLARY_BYTES = socket.CMSG_SPACE(_TIMESPEC.size) + socket.CMSG_SPACE(_GRO_SIZE.size)
_SIZE_REFUSALS = frozenset({errno.EINVAL, errno.EMSGSIZE})  # the path's MTU is smaller; shorter datagrams may still pass
_TRAIN_REFUSALS = _SIZE_REFUSALS | {errno.EIO, errno.ENOPROTOOPT, errno.EOPNOTSUPP}

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
        takes_trains: `UDP_GRO` is set on some.
        sends_trains: all of them know `UDP_SEGMENT`.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        clock: Clock,
        *,
        has_kernel_stamps: bool,
        takes_trains: bool = False,
        sends_trains: bool = False,
    ) -> None:
        self._sockets = tuple(sockets)
        self._clock = clock
        self._has_kernel_stamps = has_kernel_stamps
        self.takes_trains = takes_trains
        """Whether one read may bring several datagrams."""
        self.sends_trains = sends_trains
        """Whether `send_many` hands over several datagrams at once, to destinations that did not refuse it."""
        self._read_bytes = READ_BYTES_MAX if takes_trains else DATAGRAM_BYTES_MAX
        self._local_addresses = tuple(_address_of(sock) for sock in sockets)
        self._by_family: dict[int, socket.socket] = {}
        for sock in sockets:
            self._by_family.setdefault(sock.family, sock)
        self._ipv6 = frozenset(sock for sock in sockets if sock.family == socket.AF_INET6)  # asking a socket costs 0.5 us
        self._routes: dict[UdpAddress, Callable[[bytes, UdpAddress], int]] = {}
        self._refused_bytes: dict[UdpAddress, int] = {}  # of those in _routes: datagrams this long leave singly
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
        """Datagrams not sent or not passed on, by reason.

        An errno name; "address": not a destination; "truncated": too long; "segments": beyond READ_SEGMENTS_MAX of a train; "buffer": the
        kernel had no room because this process was too slow, where it tells; a whole train counts once there.
        """
        lost = sum(map(_lost_in_buffer, self._sockets))
        return {**self._drops, "buffer": lost} if lost else self._drops

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

    def send_many(self, datagrams: Sequence[bytes], destination: UdpAddress) -> None:
        """Hand datagrams for one destination to the kernel, in order, as few trains as they make where it takes trains.

        What the kernel does not take at once is dropped and counted, each datagram of a train for itself. Never raises.

        Cost: 0.4 us for each datagram of 1,400 bytes in a train, one by one as `send`.
        """
        refused_bytes = self._refused_bytes.get(destination, READ_BYTES_MAX)
        if len(datagrams) == 1 or not self.sends_trains or not refused_bytes:
            for data in datagrams:
                self.send(data, destination)
            return
        sendto = self._routes.get(destination) or self._route(destination)
        if sendto is None:
            self._drops["address"] += len(datagrams)
            return
        for start, stop in cut(datagrams):
            if stop - start > 1 and len(datagrams[start]) < refused_bytes:
                self._send_train(datagrams[start:stop], destination)
                continue
            for data in datagrams[start:stop]:
                self.send(data, destination)

    async def receive(self) -> list[Datagram]:
        """Wait for datagrams and return 1 to 64 of them, in the order of arrival at each socket. See `DatagramTransport.receive`.

        Up to 127 more come when the last read brought a train. Cancelling it loses nothing.

        Raises:
            trio.ClosedResourceError: the transport was closed. trio.BusyResourceError: another task is waiting.

        Cost: as `receive_trains`, and 0.3 us a datagram of a train.
        """
        return datagrams_of(await self.receive_trains())

    async def receive_trains(self) -> list[Train]:
        """As `receive`, trains in one piece; without `takes_trains` all are of one datagram.

        Cost: 1.3 us a datagram more than a bare `recvfrom`, and 20 us for the wake-up; a train of 44 costs 12 us.
        """
        while True:
            if self._is_closed:
                raise trio.ClosedResourceError("the UDP transport was closed")
            await trio.lowlevel.wait_readable(self._epoll or self._sockets[0])
            batch = self._drain_ready() if self._epoll else self._drain(self._sockets[0], DATAGRAMS_PER_BATCH_MAX)[0]
            if batch:
                return batch

    async def serve(self, handle: Callable[[list[Datagram]], None]) -> None:
        """Call `handle` with each batch, as `receive` returns them, until cancelled, from the reactor that the process shares.

        What `handle` raises is raised here.

        Raises:
            trio.ClosedResourceError: the transport was closed. trio.BusyResourceError: it is served already.
        """
        await self.serve_trains(lambda trains: handle(datagrams_of(trains)))

    async def serve_trains(self, handle: Callable[[list[Train]], None]) -> None:
        """As `serve`, trains in one piece.

        One read when a socket held no more at its turn before, else twice as many: control frames mostly come alone, and finding out that
        nothing more is there costs as much as reading one.
        """
        if self._is_closed:
            raise trio.ClosedResourceError("the UDP transport was closed")
        counts_max = dict.fromkeys(self._by_fileno, 1)

        def read(fileno: int) -> None:
            count_max = counts_max[fileno]
            batch, has_more = self._drain(self._by_fileno[fileno], count_max)
            counts_max[fileno] = min(2 * count_max, DATAGRAMS_PER_BATCH_MAX) if has_more else 1
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

    def _send_train(self, datagrams: Sequence[bytes], destination: UdpAddress) -> None:
        """Hand over datagrams that `cut` put together; one by one, now and later, if the kernel refuses to have it so there."""
        size = len(datagrams[0])
        segment = (_SOL_UDP, _UDP_SEGMENT, _SEGMENT_SIZE.pack(size))
        try:
            self._socket_for(destination).sendmsg(datagrams, (segment,), 0, destination)
        except OSError as error:
            if error.errno not in _TRAIN_REFUSALS:
                self._drops[_errno_name(error)] += len(datagrams)
                return
            self._refused_bytes[destination] = size if error.errno in _SIZE_REFUSALS else 0
            for data in datagrams:
                self.send(data, destination)

    def _socket_for(self, destination: UdpAddress) -> socket.socket:
        """Return the socket of a destination that `_route` accepted."""
        return self._by_family[socket.AF_INET6 if ":" in destination[0] else socket.AF_INET]

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
            self._refused_bytes.clear()
        self._routes[destination] = sock.sendto
        return sock.sendto

    def _drain_ready(self) -> list[Train]:
        """Drain the sockets that can be read, each up to its share of the batch, so that none starves another."""
        assert self._epoll is not None
        ready = self._epoll.poll(0)
        batch: list[Train] = []
        for fileno, _ in ready:
            batch += self._drain(self._by_fileno[fileno], DATAGRAMS_PER_BATCH_MAX // len(ready))[0]
        return batch

    def _drain(self, sock: socket.socket, count_max: int) -> tuple[list[Train], bool]:
        """Read until nothing is left, or `count_max` datagrams were taken and more may be left; the last train may go beyond it."""
        batch: list[Train] = []
        recvmsg, read_bytes, unpack = sock.recvmsg, self._read_bytes, _TIMESPEC.unpack_from
        to_stamp_ns = self._clock.stamp_from_realtime_ns
        is_kernel_stamped = self._has_kernel_stamps and self._is_clock_steady()
        shift_ns: int | None = None  # between the kernel's clock and ours: the same for all of a batch, but not for ever
        is_ipv6 = sock in self._ipv6
        count = 0
        while count < count_max:
            count += 1
            try:
                data, ancillary, flags, source = recvmsg(read_bytes, _ANCILLARY_BYTES)
            except BlockingIOError:
                return batch, False
            except OSError as error:  # an ICMP error for something sent before
                self._drops[_errno_name(error)] += 1
                continue
            if is_ipv6:
                source = source[:2]
            size = len(data)
            stamp_ns = 0
            for level, _, value in ancillary:
                if level == _SOL_UDP:
                    (told,) = _GRO_SIZE.unpack_from(value)
                    size = told if 0 < told < size else size
                elif is_kernel_stamped:
                    seconds, nanoseconds = unpack(value)
                    stamp_ns = seconds * 1_000_000_000 + nanoseconds
                    if shift_ns is None:
                        shift_ns = to_stamp_ns(stamp_ns) - stamp_ns
                    stamp_ns += shift_ns
            if flags & _MSG_TRUNC or size > DATAGRAM_BYTES_MAX:
                self._drops["truncated"] += _segments(data, size)
                continue
            if size < len(data):
                count += _segments(data, size) - 1
                data = self._bounded(data, size)
            batch.append((data, size or 1, source, stamp_ns or self._clock.stamp_ns()))
        return batch, True

    def _bounded(self, data: bytes, size: int) -> bytes:
        """Return a train without what is beyond READ_SEGMENTS_MAX."""
        beyond = _segments(data, size) - READ_SEGMENTS_MAX
        if beyond <= 0:
            return data
        self._drops["segments"] += beyond
        return data[: READ_SEGMENTS_MAX * size]

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


def open_udp(addresses: Sequence[UdpAddress], clock: Clock, *, make: type[UdpTransport] = UdpTransport) -> UdpTransport:
    """Bind one UDP socket to each address.

    Args:
        addresses: 1..8 numeric addresses of this host; port 0 lets the kernel choose. The first one is announced.
        clock: converts the kernel's receive stamps to the node's stamp clock.
        make: the class of the transport.

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
        takes_trains = [_take_trains(sock) for sock in sockets]
        sends_trains = [_can_send_trains(sock) for sock in sockets]
        return make(sockets, clock, has_kernel_stamps=all(stamped), takes_trains=any(takes_trains), sends_trains=all(sends_trains))
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
    _try_option(sock, socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    if not _IS_LINUX:
        return False
    _try_option(sock, socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)  # beyond rmem_max; needs CAP_NET_ADMIN
    _try_option(sock, socket.SOL_SOCKET, _SO_SNDBUFFORCE, SEND_BUFFER_BYTES)
    if sock.family == socket.AF_INET6:
        _try_option(sock, socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_DO)
    else:
        _try_option(sock, socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_DO)
    return _try_option(sock, socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)


def _take_trains(sock: socket.socket) -> bool:
    """Have the kernel hand over trains in one piece; return whether it will."""
    return _IS_LINUX and _try_option(sock, _SOL_UDP, _UDP_GRO, 1)


def _can_send_trains(sock: socket.socket) -> bool:
    """Return whether the kernel knows UDP_SEGMENT; nothing is changed, the size is said with each train."""
    return _IS_LINUX and _try_option(sock, _SOL_UDP, _UDP_SEGMENT, 0)


def _lost_in_buffer(sock: socket.socket) -> int:
    """How often the kernel dropped what came for a socket."""
    try:
        return int(_MEMINFO.unpack(sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size))[-1])
    except (OSError, struct.error):  # another system, or closed
        return 0


def _segments(data: bytes, size: int) -> int:
    """How many datagrams a train holds."""
    return max(1, -(-len(data) // max(1, size)))


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
