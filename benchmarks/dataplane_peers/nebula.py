"""nebula: A and C reach each other through R alone, which relays sealed packets (am_relay) without opening them."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from dataplane_peers.chain import TUN_MTU_BYTES, Program, System, find_program

PORT = 4242
OVERLAY = {"A": "10.81.0.1", "R": "10.81.0.2", "C": "10.81.0.3"}


class Nebula(System):
    """nebula with a relay that is also its lighthouse."""

    name = "nebula"
    title = "nebula (am_relay)"
    programs = (Program("nebula", "nebula"), Program("nebula-cert", "nebula"))
    version_command = ("nebula", "-version")

    def start(self) -> None:
        """Make a certificate authority and three certificates, write the configurations, start."""
        self._certify("ca", "-name", "comparison")
        for side, address in OVERLAY.items():
            self._certify("sign", "-name", side, "-ip", f"{address}/24")
        self.forbid_kernel_forwarding()
        nebula = find_program("nebula") or "nebula"
        for side in "RAC":
            path = self.folder / f"{side}.yml"
            path.write_text(json.dumps(self._configuration(side), indent=1))  # YAML includes JSON
            self.launch(side, [nebula, "-config", str(path)])
            self.wait_device(side, self._device(side))
        self.target = OVERLAY["C"]
        self.wait_carrying()

    @staticmethod
    def _device(side: str) -> str:
        return f"neb{side}"

    def _certify(self, *arguments: str) -> None:
        command = [find_program("nebula-cert") or "nebula-cert", *arguments]
        subprocess.run(command, check=True, capture_output=True, cwd=self.folder)

    def _configuration(self, side: str) -> dict[str, Any]:
        is_relay = side == "R"
        relays = [] if is_relay else [OVERLAY["R"]]
        any_port = {"port": "any", "proto": "any", "host": "any"}
        return {
            "pki": {"ca": f"{self.folder}/ca.crt", "cert": f"{self.folder}/{side}.crt", "key": f"{self.folder}/{side}.key"},
            "static_host_map": {} if is_relay else {OVERLAY["R"]: [f"{self.relay_address(side)}:{PORT}"]},
            "lighthouse": {"am_lighthouse": is_relay, "interval": 5, "hosts": relays},
            "listen": {"host": "0.0.0.0", "port": PORT, "batch": 64, "read_buffer": 4_000_000, "write_buffer": 4_000_000},
            "punchy": {"punch": True},
            "relay": {"am_relay": is_relay, "use_relays": True, "relays": relays},
            "tun": {"dev": self._device(side), "mtu": TUN_MTU_BYTES},
            "logging": {"level": "warning"},
            "firewall": {
                "conntrack": {"tcp_timeout": "12m", "udp_timeout": "3m", "default_timeout": "10m"},
                "outbound": [any_port],
                "inbound": [any_port],
            },
        }
