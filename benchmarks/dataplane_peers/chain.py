"""Three namespaces for each system, ingress - relay - egress, and what all systems have in common.

A `System` makes its own chain, so that all of them stay up for the whole run and can be measured in turn; while one is measured the others
carry nothing but their own keep-alives. Files go to a folder of the run's own, programs are started by us and ended with the lab.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import attrs

from srwan.testing.namespaces import Lab, LabError, Namespace, make_line, wait_until

MTU_BYTES = 1600
"""Of all links, as in earlier measurements: the systems' own headers fit around packets of 1,400 B."""
TUN_MTU_BYTES = 1420
"""Of the systems' TUN devices, where it can be set."""
READY_S = 20.0
LOG_BYTES_SHOWN = 400


class NotAvailable(Exception):
    """A system cannot be measured here; the message says why, and what to install."""


@attrs.frozen(slots=True)
class Program:
    """A program that a system needs."""

    name: str
    package: str
    """Debian package."""


class System:
    """A system under test, in a chain of its own. Subclasses say how it is set up.

    Args:
        lab: makes the namespaces.
        folder: for its files; exists.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    """In the table."""
    programs: ClassVar[tuple[Program, ...]] = ()
    version_command: ClassVar[tuple[str, ...]] = ()
    has_ipv4: ClassVar[bool] = True
    """Its overlay carries IPv4; if not, it is measured with IPv6."""
    is_kernel: ClassVar[bool] = False
    """No process carries the packets."""
    is_ours: ClassVar[bool] = False

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab = lab
        self.folder = folder
        self.ingress, self.relay, self.egress = make_line(lab, [f"{self.name}{side}" for side in "ARC"], mtu=MTU_BYTES)
        self.pids: dict[str, int] = {}
        """Of its processes, by "A", "R" and "C"."""
        self.target = ""
        """Address of the egress inside the overlay."""
        self.notes: list[str] = []
        """What was found out about it while it was set up."""

    @classmethod
    def missing(cls) -> str:
        """Say what it lacks here, or return an empty string."""
        packages = sorted({program.package for program in cls.programs if find_program(program.name) is None})
        return f"not installed; on Debian: apt-get install {' '.join(packages)}" if packages else ""

    @classmethod
    def version(cls) -> str:
        """Return what its version command says."""
        if not cls.version_command:
            return ""
        program = find_program(cls.version_command[0])
        if program is None:
            return ""
        done = subprocess.run([program, *cls.version_command[1:]], capture_output=True, text=True, check=False)
        found = re.search(r"\d+\.\d+[\w.\-]*", done.stdout + done.stderr)
        return found[0] if found else ""

    def start(self) -> None:
        """Set it up; `target` is known and `pids` are filled afterwards.

        Raises:
            NotAvailable: it cannot run here. LabError: it did not start.
        """
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """Return what it can tell of itself after the measurements, for the report."""
        return {}

    def overlay_mtu(self) -> int:
        """Return the MTU of the device that leads from A to the target, bytes."""
        route = json.loads(self.ingress.ip("-j", "route", "get", self.target))[0]
        device = json.loads(self.ingress.ip("-j", "link", "show", str(route["dev"])))[0]
        return int(device["mtu"])

    # what each of them needs

    def namespace(self, side: str) -> Namespace:
        """Return the namespace of "A", "R" or "C"."""
        return {"A": self.ingress, "R": self.relay, "C": self.egress}[side]

    def underlay(self, side: str) -> str:
        """Return the IPv4 address of a namespace; for the relay its ingress side."""
        return self.namespace(side).ports[0].ipv4

    def relay_address(self, side: str) -> str:
        """Return the relay's IPv4 address on the link to "A" or "C"."""
        return self.relay.ports[0 if side == "A" else 1].ipv4

    def launch(self, side: str, command: Sequence[str], **environment: str) -> int:
        """Start a process of the system, its output in a log; note and return its process id."""
        path = self.folder / f"{side}.log"
        with path.open("ab") as log:
            program = self.namespace(side).start(*command, output=log, errors=log, environment=environment)
        self.pids[side] = program.pid
        return program.pid

    def log_tail(self, side: str) -> str:
        """Return the end of a process's log."""
        path = self.folder / f"{side}.log"
        return path.read_text("utf-8", "replace")[-LOG_BYTES_SHOWN:] if path.exists() else ""

    def forbid_kernel_forwarding(self) -> None:
        """See to it that nobody but the system itself can carry packets from A to C."""
        for key in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
            self.relay.set_sysctl(key, 0)

    def wait_device(self, side: str, device: str) -> None:
        """Wait until a network device is there."""
        self.wait_ready(side, lambda: device in self.namespace(side).ip("-br", "link"), f"device {device}")

    def wait_ready(self, side: str, is_ready: Callable[[], bool], what: str, *, timeout_s: float = READY_S) -> None:
        """Wait for something that a process does; its end or `timeout_s` end the waiting.

        Raises:
            LabError: it ended, or took longer.
        """
        running = next((program for program in self.namespace(side).programs if program.pid == self.pids.get(side)), None)

        def is_ready_or_dead() -> bool:
            return is_ready() or (running is not None and running.poll() is not None)

        try:
            wait_until(is_ready_or_dead, timeout_s, f"{self.name} at {side}: {what}")
        except LabError as error:
            raise LabError(f"{error}: {self.log_tail(side)}") from None
        if running is not None and running.poll() is not None:
            raise LabError(f"{self.name} at {side} ended with {running.returncode}: {self.log_tail(side)}")

    def wait_carrying(self) -> None:
        """Wait until a ping from A to C is answered.

        Raises:
            LabError: none was within READY_S.
        """

        def answered() -> bool:
            done = subprocess.run(
                self.ingress.command("ping", "-c", "1", "-W", "1", "-n", self.target), capture_output=True, check=False, timeout=5
            )
            return done.returncode == 0

        tails = "; ".join(f"{side}: {tail}" for side in self.pids if (tail := self.log_tail(side)))
        try:
            wait_until(answered, READY_S, f"{self.name}: {self.target} answers")
        except LabError as error:
            raise LabError(f"{error} {tails}".strip()) from None


def find_program(name: str) -> str | None:
    """Return a program's path, those of administrators included."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/local/sbin")
