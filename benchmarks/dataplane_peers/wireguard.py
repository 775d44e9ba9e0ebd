"""wireguard-go in a line: R is a peer of both and its kernel forwards between them on R's TUN, since WireGuard itself has no relays."""

from __future__ import annotations

import subprocess

from dataplane_peers.chain import TUN_MTU_BYTES, Program, System, find_program

PORT = 51820
OVERLAY = {"A": "10.80.0.1", "R": "10.80.0.2", "C": "10.80.0.3"}


class WireguardGo(System):
    """wireguard-go; the relay opens and seals every packet, and its kernel forwards it from the TUN back to the TUN."""

    name = "wireguard"
    title = "wireguard-go"
    programs = (Program("wireguard-go", "wireguard-go"), Program("wg", "wireguard-tools"))
    version_command = ("wireguard-go", "--version")

    def start(self) -> None:
        """Make keys, start, configure with `wg`."""
        secret = {side: self._wg("genkey") for side in OVERLAY}
        public = {side: self._wg("pubkey", secret[side]) for side in OVERLAY}
        for side, overlay in OVERLAY.items():
            device = f"wg{self.name[:3]}{side}"
            self.launch(side, [find_program("wireguard-go") or "wireguard-go", "-f", device], LOG_LEVEL="error")
            self.wait_device(side, device)
            lines = ["[Interface]", f"PrivateKey={secret[side]}"]
            if side == "R":
                lines.append(f"ListenPort={PORT}")
                for other in "AC":
                    lines += ["[Peer]", f"PublicKey={public[other]}", f"AllowedIPs={OVERLAY[other]}/32"]
            else:
                lines += ["[Peer]", f"PublicKey={public['R']}", "AllowedIPs=10.80.0.0/24", "PersistentKeepalive=1"]
                lines.append(f"Endpoint={self.relay_address(side)}:{PORT}")
            path = self.folder / f"{side}.conf"
            path.write_text("\n".join(lines) + "\n")
            self.namespace(side).run("wg", "setconf", device, str(path))
            self.namespace(side).ip("addr", "add", f"{overlay}/24", "dev", device)
            self.namespace(side).ip("link", "set", device, "mtu", str(TUN_MTU_BYTES), "up")
            self.namespace(side).set_sysctl(f"net/ipv4/conf/{device}/rp_filter", 0)
            self.namespace(side).set_sysctl(f"net/ipv4/conf/{device}/send_redirects", 0)
        self.relay.set_sysctl("net/ipv4/conf/all/send_redirects", 0)
        self.target = OVERLAY["C"]
        self.wait_carrying()

    @staticmethod
    def _wg(command: str, key: str = "") -> str:
        done = subprocess.run([find_program("wg") or "wg", command], input=key, capture_output=True, text=True, check=True)
        return done.stdout.strip()
