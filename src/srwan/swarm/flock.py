"""Many routers' control planes in one process, on real sockets: what is measured against Serf, and how hundreds fit on one machine.

Theory of operation. Each router is a real `OverlayService` and a real `GossipService` on a UDP socket of its own, bound to one of the
addresses of 127.0.0.0/8, which Linux has without setting anything up. There is no libp2p: the control channel and the directory are those
of `overlay.memory`, empty, and a router finds the group by the certificate of one member that it is handed, as `serf agent -join` by an
address. Nothing else is shared between the routers of a process but the interpreter and the caches of pure functions (a certificate that
two of them open is verified once). Flocks in several processes meet over the sockets alone.

As a program (`python -m srwan.swarm.flock`) it takes `Settings` as the first line of standard input, then commands, all JSON; its end
means stop, so that a flock never outlives who started it. Each event is one JSON line on standard output with `t`, the machine-wide
monotonic time in seconds. Events: up (pid, certificate), joined (node, peer, boot), left, failed, expired (node, peer), matrix (node,
members, edges), gone (node), status. Commands: join (certificate), leave (node), status, profile (file), profile_end, stop.

Identities derive from the settings, so a router that is started again is itself. They are no secret: for measurements and tests only.
"""

from __future__ import annotations

import cProfile
import hashlib
import json
import logging
import os
import random
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeAlias

import attrs
import trio

from srwan.clock import Clock
from srwan.errors import ConfigError
from srwan.gossip.core import GossipConfig
from srwan.gossip.events import MatrixFilled
from srwan.gossip.pulse import PERIOD_S
from srwan.gossip.service import GossipService
from srwan.identity import Identity
from srwan.overlay.member_events import MemberJoined, MemberLeft, MemberUpdated
from srwan.overlay.memory import MemoryNetwork
from srwan.overlay.service import OverlayConfig, OverlayService
from srwan.overlay.udp import open_udp
from srwan.overlay.view import Role
from srwan.sole_error import sole_error
from srwan.types import NodeId, UdpAddress

__all__ = ["Event", "Flock", "FlockRouter", "Settings"]

ROUTERS_MAX = 1024
"""In one process: file descriptors, and half a core at a period of 10 s."""
LINE_BYTES_MAX = 64 * 1024
"""Longest command: the certificate of one member is 1 kB at most."""

Event: TypeAlias = dict[str, Any]
"""Kind under "kind", monotonic seconds under "t", the rest as the module's header says."""
Tell: TypeAlias = Callable[[Event], None]


@attrs.frozen(kw_only=True)
class Settings:
    """First line of standard input: which routers of the flock run here.

    Raises:
        ConfigError: a number is out of range.
    """

    first: int
    """Index of the first router in this process."""
    count: int
    """Routers in this process; their indices follow one another."""
    seed: int
    """Identities derive from it and the index."""
    subnet: int = 2
    """Router `i` listens on 127.subnet.(i // 250).(i % 250 + 1)."""
    port: int = 7946
    """UDP port of every router."""
    network: str = "flock"
    """Network name, so that flocks on one machine do not mix."""
    period_s: float = PERIOD_S
    """Between two pulses of a router."""

    def __attrs_post_init__(self) -> None:
        if not 1 <= self.count <= ROUTERS_MAX or not 0 <= self.first <= 60_000:
            raise ConfigError("count", f"{self.count} routers from index {self.first}", f"run 1 to {ROUTERS_MAX} in one process")
        if not 1 <= self.subnet <= 254:
            raise ConfigError("subnet", f"127.{self.subnet}.0.0 is no subnet for a flock", "use 1 to 254")

    def address(self, index: int) -> UdpAddress:
        """Return where a router of the flock listens."""
        return f"127.{self.subnet}.{index // 250}.{index % 250 + 1}", self.port

    def identity(self, index: int) -> Identity:
        """Return the keys of a router of the flock, the same in every run."""
        return Identity(hashlib.blake2b(f"{self.seed}/{index}".encode(), digest_size=32, person=b"srwan/flock/1").digest())


class FlockRouter:
    """One router's control plane: overlay and gossip, no data plane.

    Args:
        settings: of the flock.
        index: its place in it; also its name.
        network: control channel and directory, shared by the routers of this process.
        tell: called with its events.

    Raises:
        ConfigError: the address is taken or not local.
    """

    def __init__(self, settings: Settings, index: int, network: MemoryNetwork, tell: Tell) -> None:
        self.index = index
        """Place in the flock."""
        self._tell = tell
        self._names: dict[NodeId, int] = {}
        self._boots: dict[NodeId, int] = {}
        self._scope = trio.CancelScope()
        identity, clock = settings.identity(index), Clock()
        control = network.control_channel(identity.node_id)
        # No introducer and no bootstrap: who is here comes over the sockets alone.
        overlay_config = OverlayConfig(network=settings.network, name=str(index), roles=Role.RELAY)
        gossip_config = GossipConfig(period_s=settings.period_s)
        self._clock = clock
        self._datagrams = open_udp([settings.address(index)], clock)
        self.overlay = OverlayService(
            identity, clock, overlay_config, self._datagrams, control, network.directory(), random.Random(random.SystemRandom().random())
        )
        """Who is here."""
        self.gossip = GossipService(identity, clock, gossip_config, self.overlay, random.Random(random.SystemRandom().random()))
        """What is measured."""
        self.overlay.on_event(self._on_overlay_event)
        self.gossip.on_event(self._on_gossip_event)

    @property
    def certificate(self) -> bytes:
        """What others are handed to find the group; there is one once the router runs."""
        return self.overlay.view.certificate(self.overlay.identity.node_id)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled or told to leave; says goodbye either way."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    await nursery.start(self.overlay.run)
                    await nursery.start(self.gossip.run)
                    task_status.started()
        finally:
            self._say("gone")

    def join(self, certificate: bytes) -> None:
        """Enter the group of the member whose certificate this is."""
        if certificate != self.certificate:
            self.overlay.membership.join([certificate], self._clock.now(), self._clock.wall_ns())
            self.overlay.flush()

    def leave(self) -> None:
        """Say goodbye and end."""
        self._scope.cancel()

    async def aclose(self) -> None:
        """Close the socket of a router that never ran."""
        await self._datagrams.aclose()

    def status(self) -> Event:
        """Return what it knows, as JSON values."""
        drops = {reason: max(self.overlay.drops.get(reason, 0), count) for reason, count in self.gossip.drops.items()}
        return {
            "members": len(self.overlay.view),
            "edges": self.gossip.edges_known(self._clock.now()),
            "drops": {**self.overlay.drops, **drops},
            "socket_drops": dict(self._datagrams.drops),
        }

    def _on_overlay_event(self, event: object) -> None:
        match event:
            case MemberJoined(member=member) | MemberUpdated(member=member):
                if self._boots.get(member.node_id) != member.boot:  # a renewed certificate is no news, a restart is
                    self._boots[member.node_id] = member.boot
                    self._names[member.node_id] = int(member.name)
                    self._say("joined", peer=int(member.name), boot=member.boot)
            case MemberLeft(node_id=node_id, reason=reason):
                self._boots.pop(node_id, None)
                self._say(reason, peer=self._names.get(node_id, -1))
            case _:
                pass

    def _on_gossip_event(self, event: object) -> None:
        if isinstance(event, MatrixFilled):
            self._say("matrix", members=event.members, edges=event.edges)

    def _say(self, kind: str, **fields: Any) -> None:
        self._tell({"kind": kind, "t": time.monotonic(), "node": self.index, **fields})


class Flock:
    """The routers of one process.

    Args:
        settings: which routers, where.
        tell: called with their events; must be quick.
    """

    def __init__(self, settings: Settings, tell: Tell) -> None:
        self._settings = settings
        self._tell = tell
        self.routers: dict[int, FlockRouter] = {}
        """Those that run, by index."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run all, each in a group of its own until told to join, until cancelled. Says up once all serve their sockets.

        Raises:
            ConfigError: an address is taken or not local; nothing was started.
        """
        network = MemoryNetwork()
        first, count = self._settings.first, self._settings.count
        try:
            for index in range(first, first + count):
                self.routers[index] = FlockRouter(self._settings, index, network, self._tell)
        except ConfigError:
            for router in self.routers.values():
                await router.aclose()
            raise
        async with trio.open_nursery() as nursery:
            for router in self.routers.values():
                await nursery.start(router.run)
            certificate = self.routers[first].certificate.hex()
            self._tell({"kind": "up", "t": time.monotonic(), "pid": os.getpid(), "certificate": certificate})
            task_status.started()
            await trio.sleep_forever()

    def join(self, certificate: bytes) -> None:
        """Have all enter the group of the member whose certificate this is."""
        for router in self.routers.values():
            router.join(certificate)

    def leave(self, index: int) -> None:
        """Have one say goodbye and end.

        Raises:
            KeyError: it does not run here.
        """
        self.routers.pop(index).leave()

    def obey(self, command: Event) -> None:
        """Carry out a command line.

        Raises:
            ValueError: unknown, or malformed.
        """
        match command:
            case {"do": "join", "certificate": str(certificate)}:
                self.join(bytes.fromhex(certificate))
            case {"do": "leave", "node": int(index)} if index in self.routers:
                self.leave(index)
            case {"do": "status"}:
                nodes = {str(index): router.status() for index, router in self.routers.items()}
                self._tell({"kind": "status", "t": time.monotonic(), "nodes": nodes})
            case _:
                raise ValueError(f"unknown command {command!r}")


class _Printer:
    """Prints events as lines, those of one turn of the event loop in one system call: a hundred routers tell ten thousand joins at once."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._has_lines = trio.Event()

    def __call__(self, event: Event) -> None:
        self._lines.append(json.dumps(event, separators=(",", ":")))
        self._has_lines.set()

    async def run(self) -> None:
        """Print until cancelled."""
        while True:
            await self._has_lines.wait()
            self._has_lines = trio.Event()
            self.flush()

    def flush(self) -> None:
        """Print what waits."""
        if self._lines:
            sys.stdout.write("\n".join(self._lines) + "\n")
            sys.stdout.flush()
            self._lines.clear()


async def _lines(stream: trio.abc.ReceiveStream) -> AsyncIterator[Event]:
    buffer = bytearray()
    async for chunk in stream:
        buffer += chunk
        *lines, rest = buffer.split(b"\n")
        buffer = bytearray(rest)
        for line in lines:
            yield json.loads(line)
        if len(buffer) > LINE_BYTES_MAX:
            raise ValueError(f"a command line of over {LINE_BYTES_MAX} bytes")


async def _main() -> None:
    profile = cProfile.Profile()
    profile_file = ""
    printer = _Printer()
    async with trio.lowlevel.FdStream(os.dup(0)) as stdin, trio.open_nursery() as nursery:
        commands = _lines(stdin)
        flock = Flock(Settings(**await anext(commands)), printer)
        nursery.start_soon(printer.run)
        nursery.start_soon(flock.run)
        async for command in commands:
            match command:
                case {"do": "stop"}:
                    break
                case {"do": "profile", "file": str(profile_file)}:
                    profile.enable()
                case {"do": "profile_end"}:
                    profile.disable()
                    profile.dump_stats(profile_file)
                case _:
                    flock.obey(command)
        nursery.cancel_scope.cancel()
    printer.flush()


async def _run() -> None:
    with sole_error():
        await _main()


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr, format="%(name)s %(levelname)s %(message)s")
    try:
        trio.run(_run)
    except ConfigError as error:
        raise SystemExit(str(error)) from None
