"""Routers in memory that move SR packets to each other: real identities, sessions and data planes, no sockets, tasks or clocks.

`SrNetwork` is a queue of datagrams and a time. `step` delivers the oldest datagram, which takes `HOP_NS`; `run` goes on until nothing is
under way. A test looks at, changes, drops or repeats what is under way through `queue`. Everything follows from the seed.
"""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Callable, Sequence

import attrs

from srwan.identity import Identity
from srwan.overlay.session import SESSION_PLANE, Sessions
from srwan.overlay.view import Role
from srwan.routing.portable import PortableForwarder
from srwan.routing.sid import Function, Sid, locator_of
from srwan.types import NodeId, UdpAddress

__all__ = ["InFlight", "SrNetwork", "SrRouter"]

HOP_NS = 1_000_000
"""What every datagram takes, ns."""
STEPS_MAX = 100_000
"""Datagrams that `run` delivers before it says that something goes in circles."""
START_NS = 1_800_000_000_000_000_000
"""Where stamps start: some day in 2027."""


@attrs.frozen(slots=True)
class InFlight:
    """A datagram under way."""

    data: bytes
    source: UdpAddress
    destination: UdpAddress


class SrRouter:
    """One router. `network` carries what it sends; `offset_ns` is how far its stamp clock is ahead."""

    def __init__(self, network: SrNetwork, identity: Identity, address: UdpAddress, roles: Role, offset_ns: int) -> None:
        rng = random.Random(identity.seed)
        self.node_id = identity.node_id
        self.address = address
        self.offset_ns = offset_ns
        self.sessions = Sessions(identity, rng, entropy=rng.randbytes)
        self.forwarder = network.make_forwarder(
            identity.node_id, self.sessions, roles=roles, send=self.send, read_stamp_ns=lambda: network.now_ns + offset_ns
        )
        self._network = network

    def sid(self, function: Function = Function.END, argument: int = 0) -> Sid:
        """One of this router's SIDs."""
        return Sid.of(self.node_id, function, argument)

    @property
    def drops(self) -> dict[str, int]:
        """What its data plane dropped, by reason."""
        return dict(self.forwarder.counters().drops)

    def send(self, data: bytes, destination: UdpAddress) -> None:
        """Put a datagram on its way."""
        self._network.queue.append(InFlight(data, self.address, destination))

    def receive(self, data: bytes, source: UdpAddress) -> None:
        """Take a datagram now, as if it had just come from `source`."""
        now, stamp_ns = self._network.now, self._network.now_ns + self.offset_ns
        if data[:1] and data[0] >> 4 == SESSION_PLANE:
            self.sessions.receive_datagram(data, source, now, self._network.now_ns)
        else:
            self.forwarder.receive(data, source, stamp_ns)
        self.flush()

    def flush(self) -> None:
        """Let the sessions send what they have to."""
        for data, destination in self.sessions.datagrams_to_send(self._network.now):
            self.send(data, destination)


class SrNetwork:
    """Routers, and the datagrams between them.

    Args:
        seed: of identities and session keys.
        make_forwarder: makes the data plane of a router, with the arguments of `PortableForwarder`.
    """

    def __init__(self, seed: int = 0, make_forwarder: Callable[..., PortableForwarder] = PortableForwarder) -> None:
        self.make_forwarder = make_forwarder
        self._rng = random.Random(seed)
        self.now_ns = START_NS
        self.routers: dict[UdpAddress, SrRouter] = {}
        self.queue: deque[InFlight] = deque()

    @property
    def now(self) -> float:
        """Monotonic seconds."""
        return (self.now_ns - START_NS) * 1e-9

    def add(self, *, roles: Role = Role.RELAY, offset_ns: int = 0) -> SrRouter:
        """Add a router with a new identity; call `introduce` when all are there."""
        address = ("127.0.0.1", 20_000 + len(self.routers))
        router = SrRouter(self, Identity(self._rng.randbytes(32)), address, roles, offset_ns)
        self.routers[address] = router
        return router

    def introduce(self) -> None:
        """Tell all routers of each other."""
        members: dict[bytes, NodeId] = {locator_of(router.node_id): router.node_id for router in self.routers.values()}
        for router in self.routers.values():
            router.forwarder.set_members(members)

    def connect(self, caller: SrRouter, called: SrRouter) -> None:
        """Make a session between two routers, confirmed at both ends."""
        caller.sessions.connect(called.node_id, called.address, self.now)
        self.tick()
        self.run()

    def tick(self) -> None:
        """Run the timers of all sessions."""
        for router in self.routers.values():
            router.sessions.handle_timer(self.now, self.now_ns)
            router.flush()

    def step(self) -> None:
        """Deliver the oldest datagram under way; it is lost if nobody has its address."""
        datagram = self.queue.popleft()
        self.now_ns += HOP_NS
        router = self.routers.get(datagram.destination)
        if router is not None:
            router.receive(datagram.data, datagram.source)

    def run(self) -> None:
        """Deliver datagrams until none is under way."""
        for _ in range(STEPS_MAX):
            if not self.queue:
                return
            self.step()
        raise AssertionError(f"{STEPS_MAX} datagrams and no end: something goes in circles")

    def line(self, roles: Sequence[Role] = (Role.RELAY,) * 3, *, offsets_ns: Sequence[int] = ()) -> list[SrRouter]:
        """Add routers in a line, with sessions between neighbours and between the two ends: ingress, relays, egress."""
        offsets = [*offsets_ns, *[0] * (len(roles) - len(offsets_ns))]
        routers = [self.add(roles=role, offset_ns=offset) for role, offset in zip(roles, offsets, strict=True)]
        self.introduce()
        for left, right in itertools.pairwise(routers):
            self.connect(left, right)
        if len(routers) > 2:
            self.connect(routers[0], routers[-1])
        return routers
