"""srwan itself: three routers run by `srwan up`, one row for each data plane.

A and C cannot reach each other but through R: its kernel forwards no IPv4, which is what routers speak here, so what arrives was relayed.
They bootstrap from R; each has an address of the overlay on its TUN and a route to the other's, bound to the other's node id. With
--kernel the routers only choose the path and the three kernels carry the packets, as segment routing over IPv6.

Which data plane a router really runs is asked of itself (`srwan status`): one that fell back to another gives no row.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any, ClassVar

import srwan
from dataplane_peers.chain import NotAvailable, System
from srwan.config import KEYS
from srwan.errors import ConfigError, SrwanError
from srwan.identity import Identity
from srwan.routing.planes import choose_plane
from srwan.status_socket import read_status
from srwan.testing.namespaces import Lab, LabError, wait_until

PORT = 4710
OVERLAY = {"A": "10.83.0.1", "C": "10.83.0.3"}
NAMES = {"A": "ingress", "R": "relay", "C": "egress"}
DEVICE = "srwan0"
TARGET_KERNEL = "fd99::1"
UP_S = 45.0
"""Until a router has joined; it gives up by itself after 30 s of looking."""
PATH_READY_S = 40.0
"""Until a path is chosen: members have to meet, and the direct way has to be given up."""


class SrwanChain(System):
    """Three routers."""

    is_ours = True
    keys: ClassVar[tuple[str, ...]] = ()
    """Settings without which there is nothing to measure."""
    plane: ClassVar[str]
    """Setting data_plane."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        super().__init__(lab, folder)
        self.nodes: dict[str, str] = {}
        """Node ids in hexadecimal."""
        for side in NAMES:
            self.state_dir(side).mkdir()
            self.nodes[side] = Identity.load_or_create(self.state_dir(side) / "identity").node_id.hex()

    @classmethod
    def missing(cls) -> str:
        """Say what is not built."""
        lacking = [key for key in cls.keys if key not in KEYS]
        return f"not built: this srwan has no setting {' and '.join(lacking)}" if lacking else ""

    @classmethod
    def version(cls) -> str:
        """Return the library's version."""
        return srwan.__version__

    def state_dir(self, side: str) -> Path:
        """Return where a router keeps its identity, and its status socket."""
        return self.folder / f"state{side}"

    def settings(self, side: str, bootstrap: list[str]) -> dict[str, Any]:
        """Return a router's configuration, by dotted keys."""
        own = self.underlay(side)
        return {
            "network": self.name,
            "name": NAMES[side],
            "state_dir": str(self.state_dir(side)),
            "udp": [f"{own}:{PORT}"],
            "control": f"{own}:{PORT}",
            "bootstrap": bootstrap,
            "data_plane": self.plane,
            "join.lone_after_s": 0.0 if side == "R" else 6.0,
        }

    def flags(self, side: str) -> list[str]:
        """Return the options of `srwan up` beside its file."""
        raise NotImplementedError

    def start_routers(self) -> None:
        """Start the relay, then both ends with its address."""
        try:
            choose_plane(self.plane)
        except ConfigError as error:
            raise NotAvailable(f"not built: {error}") from None
        self.relay.set_sysctl("net/ipv4/ip_forward", 0)
        self._launch("R", [])
        bootstrap = [self._wait_up("R")["multiaddr"]]
        for side in "AC":
            self._launch(side, bootstrap)
        for side in "AC":
            self._wait_up(side)
        for side in NAMES:
            found = self.status(side)["data_plane"]
            if found != self.plane:
                raise NotAvailable(
                    f"not built: the router at {side} runs its {found} data plane; {self.status(side).get('data_plane_why')}"
                )

    def status(self, side: str) -> dict[str, Any]:
        """Return what a router says of itself; its socket opens a little after it is up."""
        found: list[dict[str, Any]] = []

        def answers() -> bool:
            with contextlib.suppress(SrwanError, OSError):
                found.append(read_status(self.state_dir(side)))
            return bool(found)

        self.wait_ready(side, answers, "answers `srwan status`")
        return found[0]

    def state(self) -> dict[str, Any]:
        """Return what the routers dropped, why they run the data plane they run, and the state of their TUN or kernel."""
        wanted = ("data_plane", "data_plane_why", "drops", "tun", "kernel")
        found: dict[str, Any] = {}
        for side in NAMES:
            try:
                status = read_status(self.state_dir(side))
            except (SrwanError, OSError) as error:
                found[side] = str(error)
                continue
            found[side] = {key: status[key] for key in wanted if status.get(key)}
        return found

    def _launch(self, side: str, bootstrap: list[str]) -> None:
        path = self.folder / f"{side}.toml"
        path.write_text(toml(self.settings(side, bootstrap)))
        command = [sys.executable, "-m", "srwan", "up", "--config", str(path), "--json", *self.flags(side)]
        self.launch(side, command, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

    def _wait_up(self, side: str) -> dict[str, Any]:
        """Wait for the router's line "up" and return it."""
        found: list[dict[str, Any]] = []

        def is_up() -> bool:
            lines = (self.folder / f"{side}.log").read_text("utf-8", "replace").splitlines()
            found.extend(event for line in lines if (event := parse_event(line)).get("kind") == "up")
            return bool(found)

        self.wait_ready(side, is_up, "the router is up", timeout_s=UP_S)
        return found[0]

    def wait_relayed(self) -> None:
        """Wait until a ping is answered, for as long as a path takes to be found.

        Raises:
            LabError: it took longer.
        """
        deadline_errors: list[str] = []

        def carries() -> bool:
            try:
                self.wait_carrying()
            except LabError as error:
                deadline_errors.append(str(error))
                return False
            return True

        try:
            wait_until(carries, PATH_READY_S, f"{self.name} carries")
        except LabError:
            raise LabError(deadline_errors[-1]) from None


class SrwanPortable(SrwanChain):
    """L0: pure Python."""

    name = "srwanportable"
    title = "srwan, portable (L0)"
    keys = ("tun.enabled", "data_plane")
    plane = "portable"

    def start(self) -> None:
        """Start the routers and wait for the tunnel."""
        self.forbid_kernel_forwarding()
        self.start_routers()
        for side in "AC":
            self.wait_device(side, DEVICE)
        self.target = OVERLAY["C"]
        self.wait_relayed()

    def settings(self, side: str, bootstrap: list[str]) -> dict[str, Any]:
        """Add the TUN of the ends."""
        found = super().settings(side, bootstrap)
        if side != "R":
            other = "C" if side == "A" else "A"
            found["tun.name"] = DEVICE
            found["tun.addresses"] = [f"{OVERLAY[side]}/32"]
            found["tun.routes"] = [f"{OVERLAY[other]}/32={self.nodes[other]}"]
        return found

    def flags(self, side: str) -> list[str]:
        """The relay needs no TUN."""
        return [] if side == "R" else ["--tun"]


class SrwanNative(SrwanPortable):
    """L2: the native extension."""

    name = "srwannative"
    title = "srwan, native (L2)"
    plane = "native"


class SrwanKernel(SrwanChain):
    """L3: the kernel's SRv6, programmed by srwan."""

    name = "srwankernel"
    title = "srwan, kernel SRv6 (L3)"
    has_ipv4 = False
    is_kernel = True
    keys = ("kernel.interfaces", "data_plane")
    plane = "portable"

    def flags(self, side: str) -> list[str]:  # noqa: ARG002 - all alike
        """All three program their kernels."""
        return ["--kernel"]

    def start(self) -> None:
        """Start the routers; the processes carry nothing, so their CPU time is not asked for."""
        for namespace in (self.ingress, self.relay, self.egress):
            namespace.set_offload(is_on=True)
        self.egress.ip("-6", "addr", "add", f"{TARGET_KERNEL}/128", "dev", "lo")
        self.start_routers()
        if any(self.status(side).get("kernel") is None for side in NAMES):
            raise NotAvailable("not built: `srwan up --kernel` programs nothing")
        self.pids.clear()
        self.target = TARGET_KERNEL
        self.wait_relayed()

    def settings(self, side: str, bootstrap: list[str]) -> dict[str, Any]:
        """Add the private network."""
        found = super().settings(side, bootstrap)
        namespace = self.namespace(side)
        address = {"A": self.ingress.ports[0].ipv6, "C": self.egress.ports[0].ipv6}
        address["R"] = self.relay.ports[1 if side == "C" else 0].ipv6
        found["kernel.interfaces"] = [port.device for port in namespace.ports]
        found["kernel.peers"] = [f"{node}@{address[other]}" for other, node in self.nodes.items() if other != side]
        if side == "A":
            found["kernel.routes"] = [f"fd99::/64 {self.nodes['C']} dt6:255"]
        if side == "C":
            found["kernel.deliver"] = ["dt6:255"]
        return found


def parse_event(line: str) -> dict[str, Any]:
    """Read a line of `srwan up --json`; anything else is empty."""
    if not line.startswith("{"):
        return {}
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}


def toml(settings: dict[str, Any]) -> str:
    """Write settings as TOML: dotted keys become sections. JSON's strings, numbers, booleans and lists are TOML's."""
    top: list[str] = []
    sections: dict[str, list[str]] = {}
    for key, value in settings.items():
        section, _, name = key.rpartition(".")
        (sections.setdefault(section, []) if section else top).append(f"{name} = {json.dumps(value)}")
    for section, lines in sections.items():
        top += [f"[{section}]", *lines]
    return "\n".join(top) + "\n"
