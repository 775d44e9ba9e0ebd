"""One guard per known trap of py-libp2p 0.8.1, so that `libp2p_host.py` may use it on a hostile network.

What this is: functions that take a part of libp2p and make it safe, each named for the trap it closes. What this is not: protocol
logic, or a fork. They replace private members, so libp2p is pinned to exactly 0.8.1 and every guard has a regression test that
fails without it (tests/overlay/test_libp2p_guards.py); an upgrade starts by running those.

Process-wide (module constants and two functions of libp2p, applied once by `patch_process`): traps 2, 4b, 15b and 17b. Everything
else is applied to one host and touches no other user of libp2p in the process. The guards of the DHT are in `libp2p_kad_guards.py`.

Invariants: what a remote peer does can end its own stream or connection and nothing else; every table a remote peer can fill has
a bound here; a connection holds a slot only while it lives. Trap numbers are those of docs/decisions.md, "libp2p".
"""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
import types
import weakref
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Sequence

import libp2p.network.connection.swarm_connection
import libp2p.network.swarm
import libp2p.transport.tcp.tcp
import trio
from libp2p.abc import IMuxedConn, INetConn, INetStream, IRawConnection, ISecureConn
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.x25519 import create_new_key_pair as new_x25519_key_pair
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.trio import TrioTCPStream
from libp2p.io.utils import read_exactly
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.connection.exceptions import RawConnError
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_PROTOCOL
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.yamux.yamux import Yamux, YamuxStream
from libp2p.transport.tcp.tcp import TCP
from multiaddr import Multiaddr

from srwan.overlay.libp2p_stream import reset_quietly

__all__ = [
    "BoundedPeerStore",
    "LivelyTcp",
    "close_for_good",
    "connection_config",
    "freeze_addresses",
    "guard_accept",
    "guard_connections",
    "guard_streams",
    "guard_tasks",
    "no_dialing_on_its_own",
    "noise_only",
    "patch_process",
    "skip_identify",
    "swarm_of",
]

logger = logging.getLogger("srwan.overlay")

HANDSHAKE_S_MAX = 5.0
"""Time from accept to an authenticated, multiplexed connection; an honest one takes 10-50 ms of CPU and two round trips."""

HALF_OPEN_MAX = 256
HALF_OPEN_PER_SOURCE_MAX = 64
"""Connections not yet authenticated, in all and per IPv4 address or IPv6 /64. Beyond it the oldest is closed, so a flood of silent
connections cannot lock out an honest one unless it brings more than this within one honest handshake."""

CONNECTIONS_MAX = 300
CONNECTIONS_PRUNED_ABOVE = 256
"""Established connections: libp2p closes idle ones above the second number, refuses new ones above the first."""

STREAMS_PER_PEER_MAX = 64
STREAM_S_MAX = 60.0
"""Inbound streams of one peer at once, and the longest life of one."""

UNREAD_BYTES_MAX = 4 << 20
"""Bytes received and not yet read on one connection. An honest peer stays within 256 KiB per stream (yamux window)."""

FRAME_S_MAX = 10.0
"""A frame is read or written whole within this, or its connection is closed."""

WINDOW_UPDATE_BYTES = 128 * 1024
"""Flow control credit is returned in steps of half a window."""

UNACKNOWLEDGED_MS_MAX = 20_000
"""TCP_USER_TIMEOUT (RFC 5482)."""

PEERS_STORED_MAX = 1000
ADDRESSES_PER_PEER_MAX = 8
ADDRESS_TTL_S = 3600
"""Bounds of the address book, and how long an address that worked or was named in an answer is kept."""

_LOG_LEVEL = logging.CRITICAL


# --- process-wide ----------------------------------------------------------------------------------------------------------------


def patch_process() -> None:
    """Apply the guards that have no object to hang on. Idempotent; called when the first host opens.

    Other users of libp2p in this process see: no 250 ms pause per dial, no SO_REUSEPORT on listeners, window updates in steps of
    128 KiB, and libp2p's loggers at CRITICAL unless LIBP2P_DEBUG is set.
    """
    no_dial_delay()
    no_shared_ports()
    batch_window_updates()
    quiet_logs()


def no_dial_delay() -> None:
    """Trap 2: every dial sleeps 250 ms, even with one address.

    Cause: `Swarm.dial_peer` waits `_HAPPY_EYEBALLS_DELAY` for a *failure* event after each address. Measured 214-251 ms, patched 30 ms.
    """
    libp2p.network.swarm._HAPPY_EYEBALLS_DELAY = 0.0


def no_shared_ports() -> None:
    """Trap 4b: a taken port is no error, and two nodes get half of each other's connections.

    Cause: the TCP listener sets SO_REUSEPORT for hole punching, which we do not use. SO_REUSEADDR alone lets a restarted node bind
    beside connections in TIME_WAIT, and refuses a port that is being listened on.
    """

    def set_reuse_address(sock: trio.socket.SocketType) -> None:
        sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_REUSEADDR, 1)

    libp2p.transport.tcp.tcp._set_reuse_flags = set_reuse_address


def batch_window_updates() -> None:
    """Trap 17b: every read, also of one byte, sends a window update, and windows grow to 16 MiB.

    Cause: `YamuxStream._auto_tune_and_send_window_update`; protocol names are read bytewise. Half of all frames were such updates:
    opening a stream cost 6.1 ms of CPU at both ends together, 4.4 ms with updates in steps of half a window.
    """

    async def release(self: YamuxStream, *, bytes_read: int = 0) -> None:
        self._pending_recv_release += bytes_read
        if self._pending_recv_release >= WINDOW_UPDATE_BYTES:
            credit, self._pending_recv_release = self._pending_recv_release, 0
            self.recv_window += credit
            await self.send_window_update(credit)

    YamuxStream._auto_tune_and_send_window_update = release  # type: ignore[method-assign]


def quiet_logs() -> None:
    """Trap 15b: libp2p warns about the weather, on stderr, and installs a handler on the root logger.

    Cause: its logger neither propagates nor has handlers, so warnings reach logging's last resort; `swarm_connection` calls
    `logging.debug`, which runs `basicConfig` when the application has not configured logging yet. Set LIBP2P_DEBUG to see its logs.
    """
    if not os.environ.get("LIBP2P_DEBUG"):
        for name in ("libp2p", "libp2p.network.auto_connector"):  # the second sets a level of its own
            logging.getLogger(name).setLevel(_LOG_LEVEL)
    own = logging.getLogger("libp2p.network.connection.swarm_connection")
    stand_in = types.SimpleNamespace(debug=own.debug, info=own.info, warning=own.warning, error=own.error)
    libp2p.network.connection.swarm_connection.logging = stand_in  # type: ignore[assignment, attr-defined]


# --- how a host is made ------------------------------------------------------------------------------------------------------------


def noise_only(key_pair: KeyPair) -> dict[TProtocol, NoiseTransport]:
    """Trap 3: a default host accepts plaintext and offers secio.

    Cause: `new_swarm` lists all four when `sec_opt` is missing. A plaintext-only client got a session with a default host.
    """
    return {NOISE_PROTOCOL: NoiseTransport(key_pair, noise_privkey=new_x25519_key_pair().private_key)}


def connection_config() -> ConnectionConfig:
    """Return bounds and deadlines of connections; both low marks are zero, or libp2p warns below 100 connections."""
    return ConnectionConfig(
        max_connections=CONNECTIONS_MAX,
        high_watermark=CONNECTIONS_PRUNED_ABOVE,
        low_watermark=0,
        min_connections=0,
        inbound_upgrade_timeout=HANDSHAKE_S_MAX,
        outbound_upgrade_timeout=HANDSHAKE_S_MAX,
    )


def no_dialing_on_its_own(swarm: Swarm) -> None:
    """Trap 15: every 30 s, and after each disconnect, libp2p dials up to half its high mark of peers that it ever heard of.

    Cause: `AutoConnector.maybe_connect` aims at the middle between the low and the high mark, so a low mark of zero does not stop it.
    Whom to connect to is the overlay's decision.
    """

    async def stay() -> None:
        await trio.lowlevel.checkpoint()

    swarm.auto_connector._periodic_check_task = stay  # type: ignore[method-assign]
    swarm.auto_connector.maybe_connect = stay  # type: ignore[method-assign]


def retry_config() -> RetryConfig:
    """No hidden retries: a dial fails once and tells; who dials decides on the next try."""
    return RetryConfig(max_retries=0)


def skip_identify(host: BasicHost) -> None:
    """Both ends of a new connection ask each other for protocols, addresses and what they observed: 16-20 of 33 ms CPU a connection.

    We need none of it: DHT messages carry signed addresses, protocol names are negotiated per stream, and addresses that a peer
    merely claims are not believed. The handlers go too, so nobody can push such claims into the address book.
    """
    host._schedule_identify = lambda *_args, **_kwargs: None  # type: ignore[method-assign]
    for protocol in list(host.get_mux().get_protocols()):
        if protocol is not None and "/id/" in str(protocol):
            host.remove_stream_handler(protocol)


def freeze_addresses(host: BasicHost) -> None:
    """Own addresses are put together and parsed again for every DHT message, 6 % of an operation; ours do not change while it is open."""
    addresses = tuple(host.get_addrs())
    host.get_addrs = lambda: list(addresses)  # type: ignore[method-assign]


def _lively(stream: trio.SocketStream) -> None:
    """Let the kernel end a connection whose far host is gone: yamux pings every 30 s, and unacknowledged bytes get 20 s."""
    user_timeout = getattr(socket, "TCP_USER_TIMEOUT", None)  # Linux
    if user_timeout is not None:
        stream.socket.setsockopt(socket.IPPROTO_TCP, user_timeout, UNACKNOWLEDGED_MS_MAX)


def _close_forgotten(forgotten: trio.socket.SocketType) -> None:
    """Close a socket that nobody can wait for any more; in whatever thread the garbage is collected, so without Trio."""
    if (number := forgotten.detach()) >= 0:
        os.close(number)


class LivelyTcp(TCP):
    """Trap 19: a connection to a host that vanished looks established for a quarter of an hour, and every request on it times out.

    Cause: yamux measures round trips with pings but draws no conclusion from a missing answer. It also remembers what it dialed, for
    `close_for_good`: a libp2p connection whose closing was cancelled counts as closed and keeps its socket. Such a one is forgotten by
    libp2p; its socket is closed when it is collected, if not before.
    """

    def __init__(self) -> None:
        super().__init__()
        self._dialed: weakref.WeakSet[trio.SocketStream] = weakref.WeakSet()

    async def dial(self, maddr: Multiaddr) -> IRawConnection:
        """Dial as TCP does, and remember the socket."""
        raw = await super().dial(maddr)
        stream: trio.SocketStream = raw.stream.stream  # type: ignore[attr-defined]
        self._dialed.add(stream)
        weakref.finalize(stream, _close_forgotten, stream.socket).atexit = False
        _lively(stream)
        return raw

    def close_sockets(self) -> None:
        """Close whatever is still open of all that was dialed."""
        for stream in list(self._dialed):
            stream.socket.close()


class BoundedPeerStore(PeerStore):
    """Trap 16: at 1,000 peers the store evicts the oldest entry, and the oldest is the host's own, with its private key.

    Cause: `PeerStore._enforce_peer_limit` knows no own id; every DHT answer may name 20 new peers, so 50 hostile answers end all
    signing. Addresses per peer are unbounded. Here the own entry stays, the least recently heard of others go, and a peer has at most 8.
    """

    def __init__(self, own: ID) -> None:
        super().__init__(max_peers=PEERS_STORED_MAX)
        self._own = own

    def add_addrs(self, peer_id: ID, addrs: Sequence[Multiaddr], ttl: int = 0) -> None:
        """Add addresses within the bounds."""
        known = self.peer_data_map.get(peer_id)
        if known is not None and len(known.get_addrs()) >= ADDRESSES_PER_PEER_MAX and peer_id != self._own:
            known.clear_addrs()
        super().add_addrs(peer_id, list(addrs)[:ADDRESSES_PER_PEER_MAX], ttl)

    def _enforce_peer_limit(self) -> None:
        excess = len(self.peer_data_map) - self.max_peers
        if excess <= 0:
            return
        others = (peer for peer in self.peer_data_map if peer != self._own)
        by_age = sorted(others, key=lambda peer: self.peer_data_map[peer].last_identified)
        for peer in by_age[:excess]:
            del self.peer_data_map[peer]
            self.peer_record_map.pop(peer, None)


# --- connections -------------------------------------------------------------------------------------------------------------------


def _source_of(stream: trio.SocketStream) -> str:
    """Whom an inbound connection is charged to: its IPv4 address or IPv6 /64; "" if it is gone already."""
    try:
        address = ipaddress.ip_address(stream.socket.getpeername()[0].partition("%")[0])
    except (OSError, ValueError, AttributeError):
        return ""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


class HalfOpen:
    """Connections between accept and authentication, oldest first, with the two bounds HALF_OPEN_MAX and HALF_OPEN_PER_SOURCE_MAX."""

    def __init__(self) -> None:
        self._scopes: OrderedDict[int, tuple[str, trio.CancelScope]] = OrderedDict()
        self._per_source: Counter[str] = Counter()
        self.evicted = 0
        """How many were closed to make room."""

    def __len__(self) -> int:
        return len(self._scopes)

    def admit(self, source: str, scope: trio.CancelScope) -> int:
        """Count a new connection in, closing the oldest of its source, or of the busiest source, when there are too many."""
        if self._per_source[source] >= HALF_OPEN_PER_SOURCE_MAX:
            self._evict(source)
        elif len(self._scopes) >= HALF_OPEN_MAX:
            self._evict(self._per_source.most_common(1)[0][0])
        ticket = id(scope)
        self._scopes[ticket] = (source, scope)
        self._per_source[source] += 1
        return ticket

    def release(self, ticket: int) -> None:
        """Count a connection out: it is authenticated, or gone. A second call does nothing."""
        source, _scope = self._scopes.pop(ticket, ("", None))
        if _scope is None:
            return
        self._per_source[source] -= 1
        if not self._per_source[source]:
            del self._per_source[source]

    def _evict(self, source: str) -> None:
        ticket = next(ticket for ticket, (owner, _) in self._scopes.items() if owner == source)
        scope = self._scopes[ticket][1]
        self.release(ticket)
        scope.cancel()
        self.evicted += 1


def guard_accept(swarm: Swarm) -> HalfOpen:
    """Trap 1: after 250 inbound connections in its life a host accepts no more, even if all were closed; one task leaks for each.

    Cause: `Swarm._do_handle_inbound_connection` waits until the *swarm* ends before its slot is released. Here the task ends with the
    connection. Slots before authentication are bounded per source, with a deadline (an honest dial failed while 400 half-open
    connections were held); established ones are bounded by `connection_config`.
    """
    half_open = HalfOpen()

    async def accept(read_write_closer: ReadWriteCloser, maddr: Multiaddr) -> None:
        stream = read_write_closer
        assert isinstance(stream, TrioTCPStream)
        closed = trio.Event()
        close = stream.close

        async def close_and_tell() -> None:
            try:
                await close()
            finally:
                closed.set()

        stream.close = close_and_tell  # type: ignore[method-assign]
        scope = trio.CancelScope()
        _lively(stream.stream)
        ticket = half_open.admit(_source_of(stream.stream), scope)
        is_up = False
        try:
            with scope:
                await swarm.upgrade_inbound_raw_conn(RawConnection(stream, False), maddr)
                is_up = True
        except Exception as error:  # noqa: BLE001 -- whatever a stranger makes libp2p raise ends this connection only
            logger.debug("inbound handshake failed: %s", type(error).__name__)
        finally:
            half_open.release(ticket)
        if is_up:
            await closed.wait()  # the listener closes the socket when this task returns

    swarm._handle_inbound_connection = accept  # type: ignore[method-assign]
    return half_open


def guard_connections(swarm: Swarm) -> None:
    """Apply `bound_unread_bytes` and `write_whole_frames` to each connection, inbound and outbound, once it is authenticated."""
    upgrade = swarm.upgrader.upgrade_connection

    async def upgrade_guarded(conn: ISecureConn, peer_id: ID) -> IMuxedConn:
        muxed = await upgrade(conn, peer_id)
        assert isinstance(muxed, Yamux)
        bound_unread_bytes(muxed)
        write_whole_frames(muxed)
        return muxed

    swarm.upgrader.upgrade_connection = upgrade_guarded  # type: ignore[method-assign]


def bound_unread_bytes(muxed: Yamux) -> None:
    """Trap 17: a peer that ignores the yamux window fills our memory; libp2p only logs "peer exceeded receive window".

    Cause: `Yamux.handle_incoming` extends the stream's buffer in any case, frames may have 16 MiB. Here a connection that holds more
    than UNREAD_BYTES_MAX unread bytes is closed: `TooSlowError` is what its receive loop takes as the order to close.
    """

    async def read_body(length: int) -> bytes:
        if length + sum(map(len, muxed.stream_buffers.values())) > UNREAD_BYTES_MAX:
            raise trio.TooSlowError
        with trio.fail_after(FRAME_S_MAX):
            data: bytes = await read_exactly(muxed.secured_conn, length)
            return data

    muxed._read_data_body = read_body  # type: ignore[method-assign]


def write_whole_frames(muxed: Yamux) -> None:
    """Trap 20: cancelling one request breaks the connection, and with it all others between the two nodes.

    Cause: a write that is cancelled after Noise counted the message, or half-way through the socket, leaves the far side unable to
    decrypt what follows. Here a frame is written whole or the connection is closed: shielded, and bounded in time because the far side
    may not read. Measured: of 300 requests cancelled after 2 ms each, one broke the connection.
    """
    write = muxed._write_frame

    async def write_frame(data: bytes) -> None:
        with trio.move_on_after(FRAME_S_MAX, shield=True) as scope:
            await write(data)
        if scope.cancelled_caught:
            await muxed.secured_conn.close()
            raise RawConnError("the peer does not read")

    muxed._write_frame = write_frame  # type: ignore[method-assign]


def swarm_of(host: BasicHost) -> Swarm:
    """Return the network of a host as what it is."""
    network = host.get_network()
    assert isinstance(network, Swarm)
    return network


async def close_for_good(host: BasicHost) -> None:
    """Trap 4: leaving `host.run()`, also by cancellation, keeps the listener open, and strangers get connections to a dead node.

    Cause: `BasicHost.run` stops the swarm's tasks but the listener is a system task. Closing is shielded, and parallel: libp2p
    sleeps 200 ms for each connection.
    """

    async def close(connection: INetConn) -> None:
        try:
            await connection.close()
        except Exception as error:  # noqa: BLE001 -- a broken connection must not keep the others open
            logger.debug("closing a connection failed: %s", type(error).__name__)

    network = host.get_network()
    with trio.move_on_after(5.0, shield=True):
        for listener in list(network.listeners.values()):
            await listener.close()
        async with trio.open_nursery() as nursery:
            for connection in network.get_connections():
                nursery.start_soon(close, connection)
        await host.close()
    for transport in swarm_of(host).transport_manager.get_transports():
        if isinstance(transport, LivelyTcp):
            transport.close_sockets()


# --- streams ------------------------------------------------------------------------------------------------------------------------


def guard_streams(host: BasicHost) -> None:
    """Trap 5: an exception in any inbound stream handler ends the swarm and the application: a remote kill.

    Cause: handlers run in the swarm's nursery. This is the one place where all inbound streams enter, also those of handlers
    registered later and of libp2p's own. It also bounds streams per peer and their life: libp2p has no bound on either.
    """
    inner = host._swarm_stream_handler
    open_streams: Counter[ID] = Counter()

    async def handle(stream: INetStream) -> None:
        peer = stream.muxed_conn.peer_id
        if open_streams[peer] >= STREAMS_PER_PEER_MAX:
            await reset_quietly(stream)
            return
        open_streams[peer] += 1
        try:
            with trio.move_on_after(STREAM_S_MAX) as scope:
                await inner(stream)
            if scope.cancelled_caught:
                await reset_quietly(stream)
        except Exception as error:  # noqa: BLE001 -- see above; Cancelled is no Exception and passes
            logger.debug("inbound stream failed: %s", type(error).__name__)
            await reset_quietly(stream)
        finally:
            open_streams[peer] -= 1
            if not open_streams[peer]:
                del open_streams[peer]

    host.get_network().set_stream_handler(handle)


def guard_tasks(swarm: Swarm) -> None:
    """Trap 5b: the same for the tasks of connections (yamux, accepting streams): any error in one ends the swarm.

    Cause: `TrioManager._run_and_manage_task` cancels the service on the first error. Call it once the swarm runs.
    """
    run_task = swarm.manager.run_task

    def run_guarded(async_fn: Callable[..., Awaitable[object]], *args: object, daemon: bool = False, name: str | None = None) -> None:
        async def guarded() -> None:
            try:
                await async_fn(*args)
            except Exception as error:  # noqa: BLE001 -- the connection it served is closed by its own clean-up
                logger.debug("connection task failed: %s", type(error).__name__)

        run_task(guarded, daemon=daemon, name=name)

    swarm.manager.run_task = run_guarded  # type: ignore[method-assign]
