"""What session handshakes cost, what refusing a flood of them costs, and what a flood does to honest traffic of a live node.

    python benchmarks/handshakes.py [--json] [--repetitions 5] [--seconds 4] [--output FILE]

Costs are CPU time of `Sessions.receive_datagram` and `datagrams_to_send`, us per datagram, of a responder in memory:

- handshake: INIT to RESPONSE with its two key agreements, what a refusal saves;
- stray: bytes of an INIT's length, refused by the first mac;
- cookie: a forged INIT with a right first mac, from an address of its own, while the node is loaded: answered with a cookie;
- spent: forged INITs with both macs right, from one address whose bucket is empty;
- again: the same INIT over and over, answered with the same RESPONSE.

Traffic: two nodes on loopback in this process, one sends --packets datagrams a second to the other over an open path, and a process of its
own floods the receiver with INITs as fast as it may (--flood a second): forged ones from one socket, all answered with cookies. `share` is
how much of the honest traffic arrives, and of the rate without the flood; `handshakes` how many of ten honest peers have a session within
a handshake's time. The flood, both nodes and the measuring share the machine's processors.

Each figure: the median over repetitions, with least and greatest.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import socket
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio
from flooding import BODY, carry, flooded

import srwan
from srwan.identity import Identity
from srwan.overlay.admission import PER_SOURCE_BURST
from srwan.overlay.handshake import INIT_BYTES, SESSION_MAGIC, Handshaker
from srwan.overlay.session import Sessions
from srwan.types import NodeId, UdpAddress

DATAGRAMS = 20_000
HANDSHAKES = 300
WALL_NS = 1_780_000_000_000_000_000
HERE: dict[str, Any] = {"udp": "127.0.0.1:0", "control": "127.0.0.1:0"}
INITS = 2_000
"""Of a flood, before it repeats itself."""
CALLERS_S = 8.0
"""The flood goes on so long after the honest traffic, while strangers call."""

Datagrams = list[tuple[bytes, UdpAddress]]


class Forger:
    """Makes INITs that are rubbish with right macs."""

    def __init__(self, victim: NodeId, seed: int) -> None:
        self._rng = random.Random(seed)
        self._key = hashlib.blake2b(victim, digest_size=32, person=b"srwan/mac1/1").digest()

    def init(self, cookie: bytes = b"") -> bytes:
        """Return one, with the second mac if there is a cookie."""
        body = bytes([SESSION_MAGIC, 1, 0, 0]) + self._rng.randbytes(INIT_BYTES - 36)
        body += hashlib.blake2b(body, key=self._key, digest_size=16).digest()
        return body + (hashlib.blake2b(body, key=cookie, digest_size=16).digest() if cookie else bytes(16))


def address(number: int) -> UdpAddress:
    return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}", 4710


class Victim:
    """A responder in memory. `loaded_for_s` makes it demand cookies from the first INIT on."""

    def __init__(self, seed: int, *, is_loaded: bool) -> None:
        self.identity = Identity(random.Random(seed).randbytes(32))
        self.sessions = Sessions(self.identity, random.Random(seed), entropy=os.urandom)
        if is_loaded:
            self.sessions._gate._loaded_until = float("inf")

    def cost_us(self, datagrams: Datagrams, *, interval_s: float = 1e-5) -> float:
        """Take all in and return the CPU time per datagram, with that of making the answers."""
        sessions, now = self.sessions, 0.0
        start = time.process_time_ns()
        for data, source in datagrams:
            sessions.receive_datagram(data, source, now, WALL_NS)
            sessions.datagrams_to_send(now)
            now += interval_s
        return (time.process_time_ns() - start) / len(datagrams) / 1000


def handshake_us(seed: int) -> float:
    victim = Victim(seed, is_loaded=False)
    victim.sessions._is_allowed = lambda _peer: True
    datagrams: Datagrams = []
    for number in range(HANDSHAKES):
        caller = Handshaker(Identity(hashlib.sha256(b"%d" % number).digest()))
        started = caller.start(victim.identity.node_id, index=1, timestamp_ns=WALL_NS, ephemeral=hashlib.sha256(b"e%d" % number).digest())
        datagrams.append((started.datagram(), address(number)))
    return victim.cost_us(datagrams, interval_s=0.1)  # calm: 10 a second


def stray_us(seed: int) -> float:
    rng = random.Random(seed)
    head = bytes([SESSION_MAGIC, 1, 0, 0])
    return Victim(seed, is_loaded=False).cost_us([(head + rng.randbytes(INIT_BYTES - 4), address(n)) for n in range(DATAGRAMS)])


def cookie_us(seed: int) -> float:
    victim = Victim(seed, is_loaded=True)
    forger = Forger(victim.identity.node_id, seed)
    return victim.cost_us([(forger.init(), address(number)) for number in range(DATAGRAMS)])


def spent_us(seed: int) -> float:
    victim = Victim(seed, is_loaded=True)
    forger, cookie = Forger(victim.identity.node_id, seed), victim.sessions._cookies.cookie_for(address(1), 0.0)
    victim.cost_us([(forger.init(cookie), address(1)) for _ in range(PER_SOURCE_BURST)])
    return victim.cost_us([(forger.init(cookie), address(1)) for _ in range(DATAGRAMS)])


def again_us(seed: int) -> float:
    victim = Victim(seed, is_loaded=False)
    caller = Handshaker(Identity(hashlib.sha256(b"again").digest()))
    started = caller.start(victim.identity.node_id, index=1, timestamp_ns=WALL_NS, ephemeral=bytes(range(32)))
    return victim.cost_us([(started.datagram(), address(number)) for number in range(DATAGRAMS)])


async def honest_callers(victim: srwan.Node, count: int) -> int:
    """Return how many of `count` strangers have the victim's RESPONSE within a handshake's time, each on a socket of its own."""
    victim.overlay.sessions._is_allowed = lambda _peer: True
    done = 0

    async def call(number: int) -> None:
        nonlocal done
        rng = random.Random(number)
        caller = Sessions(Identity(rng.randbytes(32)), rng, entropy=os.urandom)
        with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, trio.move_on_after(5.5):
            await udp.bind((f"127.0.9.{number + 1}", 0))
            caller.handle_timer(trio.current_time(), time.time_ns())
            caller.connect(victim.id, victim.udp_addresses[0], trio.current_time())
            while caller.current(victim.id) is None:
                for data, destination in caller.datagrams_to_send(trio.current_time()):
                    await udp.sendto(data, destination)
                with trio.move_on_after(max(0.0, (caller.get_timer() or 0.0) - trio.current_time())):
                    data, source = await udp.recvfrom(2048)
                    caller.receive_datagram(data, (source[0], source[1]), trio.current_time(), time.time_ns())
                caller.handle_timer(trio.current_time(), time.time_ns())
            done += 1

    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(call, number)
            await trio.sleep(0.1)
    return done


async def traffic(per_s: int, flood_per_s: int, seconds: float) -> dict[str, float]:
    async with (
        srwan.open_node(name="victim", **HERE) as victim,
        srwan.open_node(name="friend", bootstrap=victim.multiaddr, **HERE) as friend,
        friend.open_path("victim") as path,
    ):
        await path.send(BODY)
        incoming = await victim.accept_path()
        await incoming.receive()
        before = await carry(path, incoming, per_s, seconds)
        forger = Forger(victim.id, os.getpid())
        inits = [forger.init() for _ in range(INITS)]
        flood_s = seconds + CALLERS_S
        async with flooded(victim.udp_addresses[0], inits, flood_per_s, flood_s) as flood:
            cpu = time.process_time()
            during = await carry(path, incoming, per_s, seconds)
            cpu = (time.process_time() - cpu) / seconds
            callers = await honest_callers(victim, 10)
        return {
            "share_before": before,
            "share_during": during,
            "cpu_share_during": cpu,
            "flood_sent_per_s": flood.per_s,
            "flood_answered_per_s": victim.overlay.sessions.drops.get("no-cookie", 0) / flood_s,
            "handshakes_of_10": float(callers),
        }


def summary(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "greatest": max(values)}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    costs: dict[str, Callable[[int], float]] = {
        "handshake_us": handshake_us,
        "stray_us": stray_us,
        "cookie_us": cookie_us,
        "spent_us": spent_us,
        "again_us": again_us,
    }
    result: dict[str, Any] = {"machine": platform.machine(), "python": platform.python_version(), "processors": os.cpu_count()}
    for name, cost in costs.items():
        cost(0)
        result[name] = summary([cost(seed) for seed in range(1, options.repetitions + 1)])
    runs = [trio.run(traffic, options.packets, options.flood, options.seconds) for _ in range(max(1, options.repetitions // 2))]
    for name in runs[0]:
        result[name] = summary([run[name] for run in runs])
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description="Cost of session handshakes and of refusing them.")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--packets", type=int, default=1_000)
    parser.add_argument("--flood", type=int, default=10_000)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    result = measure(options)
    text = json.dumps(result, indent=2)
    if options.output:
        options.output.write_text(text + "\n", "utf-8")
    if options.json:
        print(text)
    else:
        for name, value in result.items():
            print(
                f"{name:24} {value['median']:.3f} ({value['least']:.3f}-{value['greatest']:.3f})"
                if isinstance(value, dict)
                else f"{name:24} {value}"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
