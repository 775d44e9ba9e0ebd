"""yggdrasil in a line over TCP, the transport of the version that Debian 12 has; IPv6 only, MTU 65,535, so TCP arrives in long segments."""

from __future__ import annotations

import json
import subprocess

from dataplane_peers.chain import Program, System, find_program

PORT = 9001


class Yggdrasil(System):
    """yggdrasil: A and C each connect to R."""

    name = "yggdrasil"
    title = "yggdrasil (TCP line)"
    programs = (Program("yggdrasil", "yggdrasil"),)
    version_command = ("yggdrasil", "-version")
    has_ipv4 = False

    def start(self) -> None:
        """Make keys and configurations, start."""
        yggdrasil = find_program("yggdrasil") or "yggdrasil"
        self.forbid_kernel_forwarding()
        for side in "RAC":
            made = subprocess.run([yggdrasil, "-genconf", "-json"], check=True, capture_output=True, text=True)
            configuration = json.loads(made.stdout)
            device, is_relay = f"ygg{side}", side == "R"
            configuration.update(
                AdminListen="none",
                MulticastInterfaces=[],
                IfName=device,
                IfMTU=65535,
                Listen=[f"tcp://0.0.0.0:{PORT}"] if is_relay else [],
                Peers=[] if is_relay else [f"tcp://{self.relay_address(side)}:{PORT}"],
            )
            path = self.folder / f"{side}.json"
            path.write_text(json.dumps(configuration))
            self.launch(side, [yggdrasil, "-useconffile", str(path)])
            self.wait_device(side, device)
        asked = [yggdrasil, "-useconffile", str(self.folder / "C.json"), "-address"]
        self.target = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
        self.wait_carrying()
