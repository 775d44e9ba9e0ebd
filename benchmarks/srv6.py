"""Kernel SRv6 as srwan programs it, against plain forwarding in the same run: TCP and packets per second through one relay.

    python benchmarks/srv6.py [--json] [--repetitions 5] [--output FILE]

Three chains ingress - relay - egress of veth pairs (MTU 1,600), made and removed here, IPv6 throughout: plain forwarding; encap with
two segments at the ingress, a billed END at the relay, End.DT6 at the egress; the same with HMAC-SHA256, required and verified at both.
All stay up and are measured in turn, repetition by repetition; ratios are taken within a repetition, and their median is given.

- TCP: iperf3, one flow, MSS 1,360, with segmentation offload on the links (trains of 64 kB) and without;
- packets/s: 64 B of UDP from one sender by sendmmsg, distinct ones counted where they arrive. All of the path runs in the sender's context,
  so this is also the CPU time of sending, encapsulating, END and decapsulating; the END hop alone is not isolated;
- how long the replacement of one encapsulating route takes, in a worker thread as srwan does it, and how much of it is the kernel's.

Needs Linux with CONFIG_IPV6_SEG6_LWTUNNEL and _HMAC, iproute2, iperf3, ethtool, iputils-ping, and root; without root of the machine the
chain with HMAC is left out. Figures of a machine that does other work at the same time are lower bounds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
from dataplane_peers import measures
from dataplane_peers.chain import NotAvailable, System, find_program
from dataplane_peers.figures import Aim, as_json, judge, summarize

from srwan.errors import SrwanError
from srwan.kernel_config import Delivery, HmacKey
from srwan.overlay.view import Role
from srwan.routing.kernel import messages
from srwan.routing.kernel.plan import (
    KEY_ID_BASE,
    KernelState,
    KernelWish,
    NextHop,
    PutRoute,
    billed_sid,
    delivery_sid,
    difference,
    plan_kernel,
)
from srwan.routing.kernel.plane import KernelAccess
from srwan.testing.namespaces import Lab, Namespace, end_with_stdin, isolation_problem, run_isolated
from srwan.types import NodeId

A, R, C = (NodeId(bytes([number]) * 32) for number in (1, 2, 3))
DELIVERY = Delivery("End.DT6", table=255)
TARGET = "fd99::1"
KEY = HmacKey(KEY_ID_BASE + 42, bytes(range(32)))
CIRCUITS = (7, 8)
REPLACEMENTS = 200
PROGRAMS = ("iperf3", "ping", "ethtool", "ip")
TCP_S, FLOOD_S = 2.0, 1.0

AIMS = (
    Aim("SRv6 / forwarding, TCP", "srv6", "tcp1_gbps", 0.9, is_most=False, other="forwarding"),
    Aim("SRv6 / forwarding, packets/s", "srv6", "udp64_pps", 0.55, is_most=False, other="forwarding"),
)
BESIDE = (
    Aim("SRv6 / forwarding, TCP without offload", "srv6", "tcp1_nooffload_gbps", 0.0, is_most=False, other="forwarding"),
    Aim("SRv6 + HMAC / forwarding, TCP", "srv6hmac", "tcp1_gbps", 0.0, is_most=False, other="forwarding"),
    Aim("SRv6 + HMAC / forwarding, TCP without offload", "srv6hmac", "tcp1_nooffload_gbps", 0.0, is_most=False, other="forwarding"),
    Aim("SRv6 + HMAC / forwarding, packets/s", "srv6hmac", "udp64_pps", 0.0, is_most=False, other="forwarding"),
    Aim("SRv6 / forwarding, CPU of a 64 B packet", "srv6", "sender64_us", 0.0, is_most=True, other="forwarding"),
    Aim("SRv6 + HMAC / forwarding, CPU of a 64 B packet", "srv6hmac", "sender64_us", 0.0, is_most=True, other="forwarding"),
)
"""Given beside the aims, without a bound."""


class Forwarding(System):
    """Plain IPv6 forwarding."""

    name = "forwarding"
    title = "plain forwarding"
    has_ipv4 = False
    is_kernel = True

    def start(self) -> None:
        """Nothing to start."""
        self.target = self.egress.ports[0].ipv6
        self.wait_carrying()


class Srv6(System):
    """The chain as srwan's plan says."""

    name = "srv6"
    title = "SRv6"
    has_ipv4 = False
    is_kernel = True
    key: HmacKey | None = None

    def start(self) -> None:
        """Program the three kernels."""
        self.egress.ip("-6", "addr", "add", f"{TARGET}/128", "dev", "lo")
        a, left, right, c = self.ingress.ports[0], *self.relay.ports, self.egress.ports[0]
        to_r, to_left = NextHop(a.device, left.ipv6), NextHop(c.device, right.ipv6)
        self.wish = KernelWish(
            node_id=A,
            roles=Role.EGRESS,
            interfaces=(a.device,),
            next_hops={R: to_r, C: to_r},
            routes=routes(CIRCUITS[0]),
            hmac_key=self.key,
        )
        wishes = {
            "R": KernelWish(
                node_id=R,
                roles=Role.RELAY,
                interfaces=(left.device, right.device),
                next_hops={A: NextHop(left.device, a.ipv6), C: NextHop(right.device, c.ipv6)},
                bills=tuple((A, circuit) for circuit in CIRCUITS),
                hmac_key=self.key,
            ),
            "C": KernelWish(
                node_id=C,
                roles=Role.EGRESS,
                interfaces=(c.device,),
                next_hops={R: to_left, A: to_left},
                deliveries=(DELIVERY,),
                hmac_key=self.key,
            ),
            "A": self.wish,
        }
        try:
            for side, wish in wishes.items():
                program(self.namespace(side), wish)
        except OSError as error:
            raise NotAvailable(f"the kernel refuses it: {error.strerror}") from None
        for namespace in (self.relay, self.egress):
            for port in namespace.ports:
                namespace.set_sysctl(f"net/ipv6/conf/{port.device}/seg6_require_hmac", int(self.key is not None))
        self.target = TARGET
        self.wait_carrying()


class Srv6Hmac(Srv6):
    """The same with HMAC."""

    name = "srv6hmac"
    title = "SRv6 + HMAC"
    key = KEY


def routes(circuit: int) -> dict[str, Any]:
    """The ingress's route by way of one circuit."""
    return {"fd99::/64": (billed_sid(R, A, circuit), delivery_sid(C, DELIVERY))}


def program(namespace: Namespace, wish: KernelWish) -> None:
    """Bring a kernel to what is wished."""

    def run() -> None:
        kernel = KernelAccess()
        for operation in difference(KernelState(), plan_kernel(wish)):
            kernel.perform(operation)
        kernel.close()

    namespace.call(run)


def replacement(system: Srv6) -> dict[str, float]:
    """Replace the encapsulating route many times; return the median of the whole and of the kernel's part, ms."""
    states = [plan_kernel(attrs.evolve(system.wish, routes=routes(circuit))) for circuit in CIRCUITS]

    def run() -> dict[str, float]:
        kernel = KernelAccess()
        whole, inner = [], []
        for number in range(REPLACEMENTS):
            (operation,) = difference(states[number % 2], states[1 - number % 2])
            assert isinstance(operation, PutRoute)
            started_s = time.perf_counter()
            kernel.perform(operation)
            whole.append(time.perf_counter() - started_s)
            request = messages.put_route(operation.route, 2)
            del request
            encoded_s = time.perf_counter()
            messages.put_route(operation.route, 2)
            inner.append(whole[-1] - (time.perf_counter() - encoded_s))
        kernel.close()
        return {"replace_ms": statistics.median(whole) * 1e3, "replace_kernel_ms": max(0.0, statistics.median(inner)) * 1e3}

    return system.ingress.call(run)


def measure(system: System) -> dict[str, float]:
    """Measure a chain once."""
    sides = (system.ingress, system.relay, system.egress)
    figures: dict[str, float] = {}
    for is_on, name in ((True, "tcp1_gbps"), (False, "tcp1_nooffload_gbps")):
        for side in sides:
            side.set_offload(is_on=is_on)
        figures[name] = measures.tcp(system, TCP_S, flows=1)["tcp1_gbps"]
    for side in sides:
        side.set_offload(is_on=True)
    figures |= measures.flood(system, FLOOD_S)
    if isinstance(system, Srv6):
        figures |= replacement(system)
    return figures


def run(repetitions: int, note: Callable[[str], None]) -> tuple[dict[str, list[dict[str, float]]], dict[str, str]]:
    """Measure all; return samples by chain, and why a chain is absent."""
    samples: dict[str, list[dict[str, float]]] = {}
    absent: dict[str, str] = {}
    with Lab("srv6") as lab:
        systems: list[System] = []
        kinds: tuple[type[System], ...] = (Forwarding, Srv6, Srv6Hmac)
        for kind in kinds:
            system = kind(lab, Path("/run"))
            try:
                system.start()
            except (NotAvailable, SrwanError) as error:
                absent[kind.name] = str(error)
                continue
            systems.append(system)
        for repetition in range(repetitions + 1):
            for system in systems:
                note(f"{system.title}: repetition {repetition} of {repetitions}{' (not counted)' if not repetition else ''}")
                figures = measure(system)
                samples.setdefault(system.name, []).extend([figures] if repetition else [])
    return samples, absent


def main() -> int:
    """Parse the arguments, isolate, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--output", type=Path, help="write the JSON to this file, too")
    parser.add_argument("--isolated", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    lacking = [name for name in PROGRAMS if find_program(name) is None]
    problem = f"needs {', '.join(lacking)}" if lacking else isolation_problem()
    if problem:
        print(f"not measured: {problem}", file=sys.stderr)
        return 0
    if not arguments.isolated:
        return run_isolated([sys.executable, __file__, *sys.argv[1:], "--isolated"])
    end_with_stdin()
    load_before = os.getloadavg()[0]
    samples, absent = run(arguments.repetitions, lambda text: print(text, file=sys.stderr))
    result = {
        "benchmark": "srv6",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "repetitions": arguments.repetitions,
        "load_average_before": round(load_before, 2),
        "figures": as_json(summarize(samples)),
        "aims": as_json(judge(samples, AIMS)),
        "beside": [
            {key: value for key, value in as_json(outcome).items() if key in {"aim", "value"}} for outcome in judge(samples, BESIDE)
        ],
        "absent": absent,
    }
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2) if arguments.json else table(result))
    return 0


def table(result: dict[str, Any]) -> str:
    """The result for people."""
    lines = []
    for name, figures in result["figures"].items():
        lines.append(name)
        lines += [f"  {key:22} {value['median']:>10g}   ({value['least']:g} .. {value['greatest']:g})" for key, value in figures.items()]
    for outcome in (*result["aims"], *result["beside"]):
        value = outcome["value"]
        spread = "not measured" if value is None else f"{value['median']:g} ({value['least']:g} .. {value['greatest']:g})"
        verdict = f", aim {outcome['bound']:g}: {outcome['verdict']}" if "verdict" in outcome else ""
        lines.append(f"{outcome['aim']}: {spread}{verdict}")
    lines += [f"{name}: {why}" for name, why in result["absent"].items()]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
