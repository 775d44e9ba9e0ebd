"""A libp2p host for bootstrap and control, with every known trap guarded: `open_libp2p` and what it yields.

What this is: the shell that owns the libp2p host of a node. It gives a `ControlChannel` (one stream per request, length-prefixed,
bounded) and a `Directory` (`libp2p_directory.py`). What this is not: a place for protocol logic, or a path for pulses and data,
which have their own UDP socket: libp2p costs 10-20 ms of CPU a connection and 5 ms a request, and its GossipSub is not used at all.

Theory of operation: Ed25519 identity from the node's seed, so that PeerID and NodeId are one key; TCP, Noise, yamux, nothing else.
A message is a u32 length (little endian) and that many bytes, both ways; the side that breaks a rule has its stream reset, and the
caller's NodeId is the authenticated PeerID, never a claim. Connections are kept and shared by all requests between two nodes.

Importing this module imports libp2p (0.7 s of CPU, 85 MB, with compiled bytecode; 3 s without): import it late, once.

Known limits: TCP only, no NAT traversal. Half-open connections are bounded per source (`libp2p_guards.guard_accept`), but a flood from
more than 256 addresses at once can still push out an honest newcomer, who tries again; established connections are not affected.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial

import trio
from libp2p import new_swarm
from libp2p.abc import INetStream
from libp2p.crypto.ed25519 import Ed25519PrivateKey
from libp2p.crypto.keys import KeyPair
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.host.basic_host import BasicHost
from libp2p.host.exceptions import StreamFailure
from libp2p.network.exceptions import SwarmException
from libp2p.network.stream.exceptions import StreamError
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo, info_from_p2p_addr
from multiaddr import Multiaddr
from multiaddr.exceptions import Error as MultiaddrError

from srwan.errors import ConfigError, DecodeError, OverlayError, RemoteProtocolError
from srwan.identity import Identity, node_id_of_peer_id, peer_id_bytes
from srwan.overlay import libp2p_guards as guards
from srwan.overlay.libp2p_directory import KadDirectory
from srwan.overlay.libp2p_kad_guards import BestValue, IsValidValue
from srwan.overlay.libp2p_stream import StreamReader, answer_unless_reset, exchange, frame_message, read_message, reset_quietly
from srwan.overlay.transport import CONTROL_INBOUND_MAX, CONTROL_MESSAGE_BYTES_MAX, ControlAddress, ControlHandler
from srwan.types import NodeId, UdpAddress

__all__ = ["Libp2pHost", "open_libp2p"]

logger = logging.getLogger("srwan.overlay")

DIAL_TIMEOUT_S = 8.0
ADDRESSES_DIALED_MAX = 4
BOOTSTRAP_MAX = 64
READ_TIMEOUT_S = 10.0
"""A caller has this long to send its request."""

SERVE_TIMEOUT_S = 30.0
"""A handler has this long to answer."""

_FOREIGN_ERRORS: tuple[tuple[type[BaseException], str], ...] = (
    (trio.TooSlowError, "no response in time"),
    (StreamFailure, "does not speak the protocol, or refused the stream"),
    (StreamError, "closed the stream: it refused the request or failed"),
    (SwarmException, "cannot be reached"),
    (BaseLibp2pError, "the connection failed"),
    (trio.ClosedResourceError, "the host is closed"),
    (trio.BrokenResourceError, "the connection broke"),
    (OSError, "the connection failed"),
    (ExceptionGroup, "the connection failed"),
    (KeyError, "the connection ended"),
)
"""What libp2p may raise, first match wins. KeyError: yamux looks up streams of a connection that just ended."""


class Libp2pHost:
    """An open host. Implements `ControlChannel`; `directory` implements `Directory`. Made by `open_libp2p` only."""

    def __init__(
        self,
        identity: Identity,
        host: BasicHost,
        announced: tuple[str, ...],
        bootstrap: Sequence[PeerInfo],
        is_valid: IsValidValue,
        best: BestValue,
    ) -> None:
        self._identity = identity
        self._host = host
        self._announced = announced
        self._dials: dict[ID, trio.Lock] = {}
        self._is_closed = False
        self._directory = KadDirectory(host, self, bootstrap, is_valid, best)

    @property
    def node_id(self) -> NodeId:
        """Who we are."""
        return self._identity.node_id

    @property
    def local_address(self) -> ControlAddress:
        """What others use to reach this node: the announced addresses, or where it listens."""
        return ControlAddress(self.node_id, self._announced)

    @property
    def multiaddr(self) -> str:
        """The first address with the PeerID, as bootstrap lists want it: "/ip4/127.0.0.1/tcp/1234/p2p/12D3..."."""
        return f"{self._announced[0]}/p2p/{self._host.get_id()}"

    @property
    def directory(self) -> KadDirectory:
        """The directory this host takes part in."""
        return self._directory

    @property
    def connections(self) -> int:
        """Established connections."""
        return len(self._host.get_network().get_connections())

    async def request(self, peer: ControlAddress, protocol: str, body: bytes, *, timeout_s: float) -> bytes:
        """Send `body` on `protocol` and return the response. Cancellation resets the stream; the connection stays.

        Raises:
            ValueError: body is longer than CONTROL_MESSAGE_BYTES_MAX.
            OverlayError: no connection, refused, or no response within timeout_s.
            LimitExceeded: the response is longer than CONTROL_MESSAGE_BYTES_MAX.

        Cost: a connected peer 2-3 ms of CPU at each end, a new connection 6-10 ms more.
        """
        if len(body) > CONTROL_MESSAGE_BYTES_MAX:
            raise ValueError(f"request of {len(body)} bytes, at most {CONTROL_MESSAGE_BYTES_MAX}")
        if peer.node_id == self.node_id:
            raise OverlayError(f"{protocol}: this node is {peer.node_id!r} itself")
        peer_id = ID(peer_id_bytes(peer.node_id))
        with _as_overlay_errors(f"{protocol} at {peer.node_id!r}"), trio.fail_after(timeout_s):
            await self.connect(peer_id, [_multiaddr(text) for text in peer.multiaddrs[:ADDRESSES_DIALED_MAX]])
            async with exchange(self._host, peer_id, protocol, frame_message(body)) as reader:
                return await read_message(reader)

    def serve(self, protocol: str, handler: ControlHandler) -> None:
        """Answer requests on `protocol` with `handler`, CONTROL_INBOUND_MAX at once; a second call replaces the handler.

        A `RemoteProtocolError` of the handler resets the stream; so does any other error, which is logged with its traceback.
        """
        running = 0

        async def handle(stream: INetStream) -> None:
            nonlocal running
            if running >= CONTROL_INBOUND_MAX:
                await reset_quietly(stream)
                return
            running += 1
            try:
                await _answer(stream, protocol, handler)
            finally:
                running -= 1

        self._host.set_stream_handler(TProtocol(protocol), handle)

    async def connect(self, peer: ID, addresses: Sequence[Multiaddr]) -> None:
        """Return once there is a connection to `peer`, dialing `addresses` in turn if there is none.

        libp2p's own dialing takes the first TCP address only and refuses a peer for 60 s after a failure; this does neither.

        Raises:
            OverlayError: closed, no address, or none answers.
        """
        if self._is_closed:
            raise OverlayError("the libp2p host is closed")
        network = self._host.get_network()
        lock = self._dials.setdefault(peer, trio.Lock())
        try:
            async with lock:
                if any(not connection.is_closed for connection in network.get_connections(peer)):
                    return
                await self._dial(peer, addresses)
        finally:
            if not lock.statistics().tasks_waiting and not lock.locked():
                self._dials.pop(peer, None)

    async def aclose(self) -> None:
        """Close listener and connections now; requests fail from here on. Leaving `open_libp2p` does it too. Shielded, at most 5 s."""
        self._is_closed = True
        await guards.close_for_good(self._host)

    async def _dial(self, peer: ID, addresses: Sequence[Multiaddr]) -> None:
        problem: object = "no address known"
        network = self._host.get_network()
        for address in addresses[:ADDRESSES_DIALED_MAX]:
            try:
                with trio.fail_after(DIAL_TIMEOUT_S):
                    await network.dial_addr(address, peer)
            except (BaseLibp2pError, OSError, ValueError, trio.TooSlowError) as error:
                problem = f"{address}: {error.__cause__ or error}"
                continue
            self._host.get_peerstore().add_addrs(peer, [address], guards.ADDRESS_TTL_S)
            await self._directory.admit(peer, [address])
            return
        raise OverlayError(f"no connection to {peer}: {problem}")


@asynccontextmanager
async def open_libp2p(
    identity: Identity,
    listen: UdpAddress = ("127.0.0.1", 0),
    *,
    bootstrap: Sequence[str] = (),
    announce: Sequence[str] = (),
    is_valid_value: IsValidValue,
    best_value: BestValue,
) -> AsyncIterator[Libp2pHost]:
    """Open a host, join the directory in the background, and close both at the end, whatever happened in between.

    Args:
        identity: whose key authenticates all connections.
        listen: numeric IP address and TCP port; port 0 lets the kernel choose.
        bootstrap: multiaddrs of nodes to join through, with /p2p/; tried again with backoff until one answers. Empty: a first node.
        announce: up to 4 multiaddrs without /p2p that others shall use instead of `listen`, for hosts behind NAT or on wildcards.
        is_valid_value: says whether a directory value may be kept now; called with untrusted bytes, at most 4,096.
        best_value: picks the better of valid directory values.

    Raises:
        ConfigError: an address is malformed, or cannot be listened on. Nothing is left open.
    """
    guards.patch_process()
    peers = [_peer_info(text) for text in bootstrap[:BOOTSTRAP_MAX]]
    address = _listen_multiaddr(listen)
    announced = [_announced_multiaddr(text) for text in announce[:ADDRESSES_DIALED_MAX]]
    host = _new_host(identity, announced)
    failure: Exception | None = None
    async with host.run(listen_addrs=[address]):
        try:
            guards.guard_tasks(guards.swarm_of(host))
            opened = tuple(str(own) for own in host.get_transport_addrs())
            if not opened:
                raise _listen_error(listen)
            guards.freeze_addresses(host)
            node = Libp2pHost(identity, host, tuple(map(str, announced)) or opened, peers, is_valid_value, best_value)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(node.directory.run)
                try:
                    yield node
                except Exception as error:  # noqa: BLE001 -- raised again below, outside of the nurseries that would wrap it in groups
                    failure = error
                finally:
                    nursery.cancel_scope.cancel()
                    node._is_closed = True
        except ConfigError as error:
            failure = error
        finally:
            await guards.close_for_good(host)
    if failure is not None:
        raise failure


def _new_host(identity: Identity, announced: Sequence[Multiaddr]) -> BasicHost:
    private = Ed25519PrivateKey.from_bytes(identity.seed)
    key_pair = KeyPair(private, private.get_public_key())
    own_id = ID(peer_id_bytes(identity.node_id))
    swarm = new_swarm(
        key_pair=key_pair,
        sec_opt=guards.noise_only(key_pair),
        transports=[guards.LivelyTcp()],
        peerstore_opt=guards.BoundedPeerStore(own_id),
        muxer_preference="YAMUX",
        connection_config=guards.connection_config(),
        retry_config=guards.retry_config(),
    )
    assert isinstance(swarm, Swarm)
    swarm.set_resource_manager(None)
    guards.no_dialing_on_its_own(swarm)
    guards.guard_accept(swarm)
    guards.guard_connections(swarm)
    host = BasicHost(network=swarm, announce_addrs=announced or None, disable_identify_address_discovery=True)
    guards.skip_identify(host)
    guards.guard_streams(host)
    return host


def _peer_info(text: str) -> PeerInfo:
    """Parse a bootstrap address. Raises: ConfigError."""
    try:
        peer = info_from_p2p_addr(Multiaddr(text))
        node_id_of_peer_id(peer.peer_id.to_bytes())
    except (BaseLibp2pError, MultiaddrError, ValueError, DecodeError) as error:
        remedy = "write /ip4/ADDRESS/tcp/PORT/p2p/PEERID, as the other node prints it when it comes up"
        raise ConfigError("bootstrap", f"{text!r} is no address of a node ({error})", remedy) from None
    return peer


def _multiaddr(text: str) -> Multiaddr:
    """Parse a peer's address. Raises: OverlayError."""
    try:
        return Multiaddr(text)
    except (MultiaddrError, ValueError) as error:
        raise OverlayError(f"{text!r} is no multiaddr: {error}") from None


def _announced_multiaddr(text: str) -> Multiaddr:
    try:
        return Multiaddr(text)
    except (MultiaddrError, ValueError) as error:
        raise ConfigError("announce", f"{text!r} is no multiaddr ({error})", "write /ip4/ADDRESS/tcp/PORT") from None


def _listen_multiaddr(listen: UdpAddress) -> Multiaddr:
    host, port = listen
    try:
        return Multiaddr(f"/ip{6 if ':' in host else 4}/{host}/tcp/{port}")
    except (MultiaddrError, ValueError) as error:
        raise ConfigError(f"{host}:{port}", f"not an IP address and a port ({error})", "give a numeric address of this host") from None


def _listen_error(listen: UdpAddress) -> ConfigError:
    """Find out why libp2p could not listen, which it only logs."""
    host, port = listen
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.bind((host, port))
    except OSError as error:
        problem = f"cannot listen ({error.strerror})"
        remedy = (
            "stop the program that uses the port, or choose another"
            if error.errno == errno.EADDRINUSE
            else "choose an address of this host"
        )
        return ConfigError(f"{host}:{port}", problem, remedy)
    return ConfigError(f"{host}:{port}", "cannot listen", "try again, or choose another port")


@contextmanager
def _as_overlay_errors(what: str) -> Iterator[None]:
    """The edge: errors of libp2p and its transports become `OverlayError`; ours pass."""
    try:
        yield
    except tuple(kind for kind, _ in _FOREIGN_ERRORS) as error:
        problem = next(text for kind, text in _FOREIGN_ERRORS if isinstance(error, kind))
        raise OverlayError(f"{what}: {problem}") from error


async def _answer(stream: INetStream, protocol: str, handler: ControlHandler) -> None:
    """Serve one request. Nothing a caller does and nothing a handler raises leaves this function."""
    try:
        caller = node_id_of_peer_id(stream.muxed_conn.peer_id.to_bytes())
        with trio.fail_after(READ_TIMEOUT_S):
            body = await read_message(reader := StreamReader(stream))
            if reader.has_more:
                raise DecodeError("octets after a request")
        with trio.fail_after(SERVE_TIMEOUT_S):
            response = await answer_unless_reset(stream, partial(handler, caller, body))
            if len(response) > CONTROL_MESSAGE_BYTES_MAX:
                raise ValueError(f"response of {len(response)} bytes, at most {CONTROL_MESSAGE_BYTES_MAX}")
            await stream.write(frame_message(response))
            await stream.close()
    except (RemoteProtocolError, BaseLibp2pError, trio.TooSlowError) as error:
        logger.debug("%s: request refused: %s", protocol, error)
        await reset_quietly(stream)
    except Exception:
        logger.exception("%s: the handler failed", protocol)
        await reset_quietly(stream)
