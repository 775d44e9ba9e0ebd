"""A live node under fire: 100,000 random, truncated, oversized, mutated and replayed datagrams, and it still pulses and carries data."""

from __future__ import annotations

import random
import socket
from typing import Any

import trio

import srwan
from srwan.types import UdpAddress

HERE: dict[str, Any] = {"udp": "127.0.0.1:0", "control": "127.0.0.1:0", "pulse_period_s": 0.5}
DATAGRAMS = 100_000
BATCH = 100


class Recorder:
    """Remembers datagrams that a node sent, to be mutated and replayed."""

    def __init__(self, node: srwan.Node) -> None:
        self.seen: list[bytes] = []
        self._send = node.overlay._transport.send
        node.overlay._transport.send = self.send  # type: ignore[method-assign]

    def send(self, data: bytes, destination: UdpAddress) -> None:
        if len(self.seen) < 2_000:
            self.seen.append(data)
        self._send(data, destination)


def hostile_datagram(rng: random.Random, seen: list[bytes]) -> bytes:
    kind = rng.randrange(6)
    if kind == 0:
        return rng.randbytes(rng.randrange(0, 1500))
    if kind == 1:  # a right first byte, rubbish after it
        return bytes([rng.choice((0x10, 0x11, 0x12, 0x21, 0x31))]) + rng.randbytes(rng.randrange(0, 1400))
    data = bytearray(rng.choice(seen))
    if kind == 2:
        return bytes(data)  # a replay
    if kind == 3:
        return bytes(data[: rng.randrange(len(data))])  # truncated
    if kind == 4:
        return bytes(data) + rng.randbytes(rng.randrange(1, 200))
    for _ in range(rng.randrange(1, 4)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


async def test_a_node_survives_a_hundred_thousand_hostile_datagrams() -> None:
    rng = random.Random(1)
    with trio.fail_after(110):
        async with (
            srwan.open_node(name="victim", **HERE) as victim,
            srwan.open_node(name="friend", bootstrap=victim.multiaddr, **HERE) as friend,
            friend.open_path("victim") as path,
        ):
            recorders = [Recorder(victim), Recorder(friend)]
            await path.send(b"before")
            incoming = await victim.accept_path()
            assert b"before" == await incoming.receive()
            await trio.sleep(2)
            seen = [data for recorder in recorders for data in recorder.seen]
            assert len(seen) > 20
            target = victim.udp_addresses[0]
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as attacker:
                attacker.bind(("127.0.0.1", 0))
                attacker.setblocking(False)
                for _ in range(DATAGRAMS // BATCH):
                    for _ in range(BATCH):
                        attacker.sendto(hostile_datagram(rng, seen), target)
                    await trio.lowlevel.checkpoint()
                await trio.sleep(1)
                try:
                    answered = attacker.recv(2048)
                except BlockingIOError:
                    answered = b""
            assert b"" == answered  # nothing hostile was ever answered to where it came from
            pulses = victim.gossip.rows[friend.id].row.seq
            await path.send(b"after")
            assert b"after" == await incoming.receive()
            await trio.sleep(2)
            assert victim.gossip.rows[friend.id].row.seq > pulses
            assert 2 == victim.status()["matrix_edges"]
            drops = victim.drops()
            assert "internal" not in drops
            assert {"mac", "replay", "length", "unknown-sender", "plane", "version"} <= set(drops)
            assert sum(drops.values()) > DATAGRAMS / 2
