"""TCP throughput with iperf3: run in two namespaces, its JSON read."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from srwan.testing.namespaces import LabError, Namespace, wait_until

PORT = 5301
MSS_BYTES = 1360
"""Asked of all: with IPv4 and TCP headers 1,400 B (iperf3 -M). A system whose MTU is less gets segments as long as it allows."""
READY_S = 5.0
GRACE_S = 10.0
"""Beyond the test's length, before a client is ended."""
LISTENING = "0A"


@attrs.frozen(slots=True)
class TcpResult:
    """Of one test, as the receiver saw it."""

    bits_per_s: float
    octets: int
    """Of TCP payload that the receiver got."""
    retransmits: int


def parse(text: str) -> TcpResult:
    """Read what `iperf3 -J` printed.

    Raises:
        LabError: the test failed, or this is not iperf3's JSON.
    """
    try:
        report: Mapping[str, Any] = json.loads(text)
        if "error" in report:
            raise LabError(f"iperf3: {report['error']}")
        end = report["end"]
        received = end["sum_received"]
        return TcpResult(
            float(received["bits_per_second"]),
            int(received["bytes"]),
            int(end["sum_sent"].get("retransmits", 0)),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise LabError(f"iperf3 printed no result ({error!r}): {text[-200:]!r}") from None


def is_listening(pid: int, port: int) -> bool:
    """Say whether somebody in the process's network namespace listens on a TCP port."""
    for table in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/{pid}/net/{table}").read_text("ascii").splitlines()[1:]
        except OSError:
            return False
        if any(int(line.split()[1].rpartition(":")[2], 16) == port and line.split()[3] == LISTENING for line in lines):
            return True
    return False


def run_tcp(client: Namespace, server: Namespace, address: str, *, seconds: float, flows: int, octets: int | None = None) -> TcpResult:
    """Send TCP from `client` to `address` in `server` and return what arrived.

    Args:
        client: sends.
        server: receives; for this test only.
        address: IPv4 or IPv6 of the server.
        seconds: how long; rounded up to what iperf3 takes, whole seconds.
        flows: connections at once.
        octets: instead of a time, this much.

    Raises:
        LabError: nothing arrived.
    """
    listener = server.start("iperf3", "-s", "-1", "-p", str(PORT), output=subprocess.DEVNULL, errors=subprocess.DEVNULL)
    try:
        wait_until(lambda: is_listening(listener.pid, PORT), READY_S, "iperf3 listens")
        length = ["-t", str(max(1, round(seconds)))] if octets is None else ["-n", str(octets)]
        command = ["iperf3", "-c", address, "-p", str(PORT), "-J", "-M", str(MSS_BYTES), "-P", str(flows), *length]
        try:
            done = subprocess.run(
                client.command(*command), capture_output=True, text=True, check=False, timeout=max(1.0, seconds) + GRACE_S
            )
        except subprocess.TimeoutExpired:
            raise LabError(f"TCP to {address}: no end after {seconds + GRACE_S:g} s") from None
        return parse(done.stdout)
    finally:
        listener.kill()
        listener.wait()
        server.programs.remove(listener)
