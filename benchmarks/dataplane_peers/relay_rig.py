"""Routers and ends of one data plane, in three namespaces: what `relay_alone.py` and `relay_changes.py` measure.

In the middle two routers (`bench_relay.py`), since a path is switched from one to the other; on either side ten members (`relay_load.py`),
in this process, as neighbours of the routers.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import trio

from dataplane_peers import cpu
from dataplane_peers.relay_load import DATA_BYTE, End, Track, load_socket, srh_through
from srwan.config import KEYS
from srwan.errors import ConfigError
from srwan.overlay.session import Session
from srwan.routing.packet import DATA_PLANE, seal_packet
from srwan.routing.planes import choose_plane
from srwan.testing.namespaces import LabError, Namespace
from srwan.types import NodeId, UdpAddress

PROGRAM = Path(__file__).with_name("bench_relay.py")
NEIGHBOURS = 10
"""On either side of the router."""
SMALL_BYTES = 64
LOAD_PORT = 6000
ANSWER_S = 45.0
AUDIBLE_S = 1.0
"""Between two packets of an egress, which has nothing to say: a router gives up whom it has sent to for 10 s without an answer."""
SETTLE_S = 0.1
"""After which a router has heard an end from its new port."""


@attrs.define(eq=False)
class Router:
    """A process of `bench_relay.py`."""

    process: subprocess.Popen[bytes]
    address: UdpAddress
    node: NodeId
    plane: str
    """As it says itself."""
    certificate: bytes

    def ask(self, do: str) -> dict[str, Any]:
        """Give a command and return the answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do}).encode() + b"\n")
        self.process.stdin.flush()
        return read_line(self.process)


def read_line(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Return the next answer of a router.

    Raises:
        LabError: it ended, or said nothing for ANSWER_S.
    """
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], ANSWER_S)[0]:
        raise LabError(f"the router said nothing for {ANSWER_S:g} s")
    line = process.stdout.readline()
    if not line:
        raise LabError(f"the router ended with {process.wait()}")
    answer: dict[str, Any] = json.loads(line)
    return answer


def launch(relay: Namespace, plane: str, network: str, address: UdpAddress) -> Router:
    """Start a router.

    Raises:
        LabError: it did not start, or runs another data plane.
    """
    try:
        choose_plane(plane)
    except ConfigError as error:
        raise LabError(f"not built: {error}") from None
    process = relay.start(
        sys.executable,
        str(PROGRAM),
        stdin=subprocess.PIPE,
        output=subprocess.PIPE,
        environment={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(PROGRAM.parents[1])},
    )
    settings: dict[str, Any] = {"network": network, "udp": f"{address[0]}:{address[1]}", "lone_after_s": 0.1}
    if "data_plane" in KEYS:
        settings["data_plane"] = plane
    assert process.stdin is not None
    process.stdin.write(json.dumps(settings).encode() + b"\n")
    process.stdin.flush()
    up = read_line(process)
    if not str(up["plane"]).startswith(plane):
        process.kill()
        raise LabError(f"not built: the router runs its {up['plane']} data plane instead")
    return Router(process, address, NodeId(bytes.fromhex(up["node"])), up["plane"], bytes.fromhex(up["certificate"]))


class Rig:
    """Routers and ends of one data plane."""

    def __init__(self, line: Sequence[Namespace], plane: str, number: int) -> None:
        self.ingress_side, self.relay_side, self.egress_side = line
        self.plane, self.number = plane, number
        network = f"bench{plane}"
        relay_ip = self.relay_side.ports[0].ipv4
        self.routers = [launch(self.relay_side, plane, network, (relay_ip, 4710 + 10 * number + i)) for i in range(2)]
        self.ingresses = self._ends(self.ingress_side, network)
        self.egresses = self._ends(self.egress_side, network)
        near, far = self.ingress_side.ports[0].ipv4, self.egress_side.ports[0].ipv4
        port = LOAD_PORT + 10 * number
        self.senders = [load_socket(self.ingress_side, (near, port + i)) for i in range(2)]
        self.receivers = [load_socket(self.egress_side, (far, port + i)) for i in range(2)]
        self.track = Track(self.senders[0], self.receivers)
        self._receiver_of = dict.fromkeys(range(NEIGHBOURS), 0)

    def _ends(self, namespace: Namespace, network: str) -> list[End]:
        ip, first = namespace.ports[0].ipv4, 5000 + 100 * self.number
        return [End(namespace, (ip, first + i), network) for i in range(NEIGHBOURS)]

    async def start(self, nursery: trio.Nursery) -> None:
        """Join, and make the sessions that paths need."""
        for end in (*self.ingresses, *self.egresses):
            await nursery.start(end.overlay.run)
            end.overlay.on_plane(DATA_PLANE, self._take)
            for router in self.routers:
                end.join(router.certificate)
        for end in (*self.ingresses, *self.egresses):
            for router in self.routers:
                await end.connect(router.node)
        await self.ingresses[0].connect(self.egresses[0].node_id)
        self.aim(0)
        await self.settle_down()
        nursery.start_soon(self._stay_audible)

    def close(self) -> None:
        """Close the load sockets; the routers end with the lab."""
        for sock in (*self.senders, *self.receivers):
            sock.close()
        for router in self.routers:
            assert router.process.stdin is not None
            router.process.stdin.close()

    def aim(self, router: int, sender: int = 0) -> None:
        """Send to a router, from one of the load sockets."""
        self.senders[sender].connect(self.routers[router].address)
        self.track.sender = self.senders[sender]

    def settle(self, receiver: int = 0, egresses: Sequence[int] = range(NEIGHBOURS)) -> None:
        """Have the routers send what is for the egresses to a load socket: one authentic packet of theirs comes from there."""
        self._receiver_of.update(dict.fromkeys(egresses, receiver))
        for router in self.routers:
            srh = srh_through(router.node, self.ingresses[0].node_id)
            for number in egresses:
                hello = seal_packet(self.egresses[number].session(router.node), srh, 1, bytes(SMALL_BYTES))
                self.receivers[receiver].sendto(hello, router.address)

    async def _stay_audible(self) -> None:
        while True:
            await trio.sleep(AUDIBLE_S)
            for number, receiver in tuple(self._receiver_of.items()):
                self.settle(receiver, (number,))

    async def settle_down(self) -> None:
        """`settle`, and wait until that has happened and nothing of before is under way."""
        await self.track.empty()
        self.settle()
        await trio.sleep(SETTLE_S)
        await self.track.empty()

    def link(self, path: int, tag: int) -> tuple[Session, bytes, int]:
        """Return the first hop, header and tag of a path: all pairs of neighbours in turn."""
        router = self.routers[0].node
        ingress, egress = self.ingresses[path % NEIGHBOURS], self.egresses[path // NEIGHBOURS % NEIGHBOURS]
        return ingress.session(router), srh_through(router, egress.node_id), tag

    def _take(self, data: bytes, _source: UdpAddress, _rx_ns: int) -> None:
        """A packet came to the socket of an end, as after a handshake, for those leave from there. It counts, but has no stamp."""
        if data[0] != DATA_BYTE:
            return
        row = np.frombuffer(data, np.uint8).reshape(1, -1)
        if self.track.on_batch is None:
            self.track.received += 1
        else:
            self.track.received += self.track.on_batch(row, np.array([len(data)], np.uint32), np.zeros(1, np.int64))

    def cpu_s(self) -> float:
        """CPU time of the first router so far."""
        return cpu.process_s(self.routers[0].process.pid)
