"""What floods of bad packets do to honest traffic of a router, and whether each bad packet is counted.

    python benchmarks/floods.py [--json] [--repetitions 3] [--seconds 4] [--flood 10000] [--planes portable,native] [--output FILE]

Nodes on loopback in this process: a friend sends --packets datagrams a second to the victim over an open path, while a process of its own
sends --flood bad ones a second to the victim's socket:

- noise: random bytes of all lengths, with the first four bits of every plane;
- strangers: well-formed SR packets for sessions that are not there, or were closed;
- replays: packets that the friend really sealed, over and over;
- forged: the friend's packets with a bit flipped, each with a counter that would be fresh;
- headers: authentic packets of a hostile member, each fresh: segment lists that are cut off, that loop, name the victim twice, have nine
  segments, or lead to nobody.

Given for each kind and data plane: the share of the honest traffic that arrived before and during the flood, the second by the first
(`kept`), processor time of this process during the flood, and how many drops the victim counted for each bad packet (`counted`; what the
socket's full buffer lost counts too). Victim, friend, attacker and measuring share the machine's processors. Handshakes are flooded by
handshakes.py. Each figure: the median over repetitions, with least and greatest.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import trio
from flooding import BODY, carry, flooded

import srwan
from srwan.errors import ConfigError, SrwanError
from srwan.overlay.session import Session
from srwan.routing.packet import LINK_HEADER, LINK_MAGIC, seal_packet, seal_payload
from srwan.routing.payload import Payload, PayloadKind
from srwan.routing.planes import choose_plane
from srwan.routing.sid import Function, Sid
from srwan.routing.srh import Srh

HERE: dict[str, Any] = {"udp": "127.0.0.1:0", "control": "127.0.0.1:0"}
REPEATED = 2_000
"""Bad packets of a kind that may come again."""
TAG = 7
FLOW = 99
PAYLOAD_BYTES = 100
KEPT_MIN = 0.8
"""Aim."""


@attrs.frozen
class Scene:
    """Whom the attacker may pretend to be."""

    rng: random.Random
    fresh: int
    """Packets of a kind that must not come again."""
    victim: srwan.Node
    friend: srwan.Node
    rogue: srwan.Node
    """A member that means harm."""


def session_of(node: srwan.Node, victim: srwan.Node) -> Session:
    """Return a node's session with the victim."""
    session = node.overlay.sessions.current(victim.id)
    assert session is not None, "its path has sent"
    return session


def header(*sids: Sid, left: int | None = None) -> bytes:
    """Return a segment routing header, whatever it says. Segments in visiting order; `left`: those after the first."""
    return bytes([253, 2 * len(sids), 4, len(sids) - 1 if left is None else left, len(sids) - 1, 0, 0, 0]) + b"".join(sids[::-1])


def noise(scene: Scene) -> list[bytes]:
    """Random bytes."""
    firsts = (0x12, 0x21, 0x31, 0x00, 0xF0)
    return [bytes([scene.rng.choice(firsts)]) + scene.rng.randbytes(scene.rng.randrange(1400)) for _ in range(REPEATED)]


def strangers(scene: Scene) -> list[bytes]:
    """Packets for sessions that are not there."""
    rng = scene.rng
    return [
        LINK_HEADER.pack(LINK_MAGIC, 0, PAYLOAD_BYTES, rng.getrandbits(32), rng.getrandbits(32), TAG) + rng.randbytes(56 + PAYLOAD_BYTES)
        for _ in range(REPEATED)
    ]


def replays(scene: Scene) -> list[bytes]:
    """Packets of the friend."""
    session, end = session_of(scene.friend, scene.victim), scene.victim.id
    srh = Srh.for_path((Sid.of(end, Function.END_APP),)).encode()
    return [
        seal_packet(session, srh, TAG, seal_payload(session, TAG, Payload(PayloadKind.DATA, FLOW, number, 0, BODY).encode()))
        for number in range(64)
    ]


def forged(scene: Scene) -> list[bytes]:
    """The same with a bit flipped, and counters of the future."""
    packets = []
    for packet in replays(scene) * (REPEATED // 64):
        changed = bytearray(packet)
        changed[8:16] = (1 << 40 | scene.rng.getrandbits(32)).to_bytes(8, "little")
        changed[scene.rng.randrange(24, len(changed))] ^= 1
        packets.append(bytes(changed))
    return packets


def headers(scene: Scene) -> list[bytes]:
    """Authentic, with bad segment lists."""
    session, rng = session_of(scene.rogue, scene.victim), scene.rng
    here, app, there = (
        Sid.of(scene.victim.id, Function.END),
        Sid.of(scene.victim.id, Function.END_APP),
        Sid.of(scene.friend.id, Function.END),
    )
    nobody = Sid(rng.randbytes(16))
    bad = (
        header(here, app),
        header(here, there, here, app),
        header(here, there)[:-16],
        header(here, *(Sid(rng.randbytes(16)) for _ in range(8))),
        header(here, nobody, app),
        header(nobody, app),
        header(here, there, left=2),
    )
    return [seal_packet(session, bad[number % len(bad)], TAG, rng.randbytes(PAYLOAD_BYTES)) for number in range(scene.fresh)]


KINDS: dict[str, Callable[[Scene], list[bytes]]] = {
    "noise": noise, "strangers": strangers, "replays": replays, "forged": forged, "headers": headers
}  # fmt: skip


async def measure_kind(plane: str, kind: str, options: argparse.Namespace, seed: int) -> dict[str, float]:
    """Measure one kind of flood on one data plane."""
    async with (
        srwan.open_node(name="victim", data_plane=plane, **HERE) as victim,
        srwan.open_node(name="friend", bootstrap=victim.multiaddr, data_plane="portable", **HERE) as friend,
        srwan.open_node(name="rogue", bootstrap=victim.multiaddr, data_plane="portable", **HERE) as rogue,
        rogue.open_path("victim") as other,
        friend.open_path("victim") as path,
    ):
        await path.send(BODY)
        incoming = await victim.accept_path()
        await incoming.receive()
        await other.send(BODY)
        before = await carry(path, incoming, options.packets, options.seconds)
        fresh = int(options.flood * (options.seconds + 1))
        packets = KINDS[kind](Scene(random.Random(seed), fresh, victim, friend, rogue))
        drops = sum(victim.drops().values())
        async with flooded(victim.udp_addresses[0], packets, options.flood, options.seconds) as flood:
            cpu = time.process_time()
            during = await carry(path, incoming, options.packets, options.seconds)
            cpu = time.process_time() - cpu
        await trio.sleep(0.2)
        counted = sum(victim.drops().values()) - drops
        return {
            "before": before,
            "during": during,
            "kept": during / before,
            "cpu_share": cpu / options.seconds,
            "flood_per_s": flood.per_s,
            "counted": counted / (flood.per_s * options.seconds),
        }


def summary(values: Sequence[float]) -> dict[str, float]:
    """Return median and spread."""
    return {"median": statistics.median(values), "least": min(values), "greatest": max(values)}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure all kinds on all planes, repetition by repetition."""
    runs: dict[str, dict[str, list[dict[str, float]]]] = {plane: {kind: [] for kind in KINDS} for plane in options.planes}
    for seed in range(options.repetitions):
        for plane, by_kind in runs.items():
            for kind, samples in by_kind.items():
                print(f"{plane}, {kind}: repetition {seed + 1} of {options.repetitions}", file=sys.stderr, flush=True)
                samples.append(trio.run(measure_kind, plane, kind, options, seed))
    figures = {
        plane: {kind: {name: summary([sample[name] for sample in samples]) for name in samples[0]} for kind, samples in by_kind.items()}
        for plane, by_kind in runs.items()
    }
    machine = {"processors": os.cpu_count(), "python": platform.python_version(), "kernel": platform.release()}
    return {"benchmark": "floods", "machine": machine, "aim_kept": KEPT_MIN, "repetitions": options.repetitions, "planes": figures}


def print_table(result: dict[str, Any]) -> None:
    """Print a line for each kind and plane."""
    print(f"{'':22}{'kept (aim 0.8)':>24}{'cpu of a core':>15}{'flood/s':>10}{'counted':>9}")
    for plane, kinds in result["planes"].items():
        for kind, figures in kinds.items():
            kept = figures["kept"]
            spread = f"{kept['median']:.3f} ({kept['least']:.3f}-{kept['greatest']:.3f})"
            numbers = f"{figures['cpu_share']['median']:15.2f}{figures['flood_per_s']['median']:10.0f}{figures['counted']['median']:9.3f}"
            print(f"{plane + ', ' + kind:22}{spread:>24}{numbers}")


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of honest traffic before, and during each flood")
    parser.add_argument("--packets", type=int, default=1_000, help="honest datagrams a second")
    parser.add_argument("--flood", type=int, default=10_000, help="bad packets a second")
    parser.add_argument("--planes", default="portable,native", help="of the victim")
    parser.add_argument("--output", type=Path, help="write the JSON to this file, too")
    options = parser.parse_args()
    options.planes = options.planes.split(",")
    try:
        for plane in options.planes:
            choose_plane(plane)
        result = measure(options)
    except ConfigError as error:
        parser.error(str(error))
    except SrwanError as error:
        raise SystemExit(str(error)) from None
    text = json.dumps(result, indent=2)
    if options.output is not None:
        options.output.write_text(text + "\n", "utf-8")
    if options.json:
        print(text)
    else:
        print_table(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
