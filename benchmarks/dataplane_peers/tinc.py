"""tinc 1.0 in router mode: R opens and seals every packet; A and C know only R's address, and R's kernel forwards nothing."""

from __future__ import annotations

import subprocess

from dataplane_peers.chain import TUN_MTU_BYTES, Program, System, find_program

OVERLAY = {"A": "10.82.0.1", "R": "10.82.0.2", "C": "10.82.0.3"}
KEY_BITS = 2048


class Tinc(System):
    """tinc with its default ciphers."""

    name = "tinc"
    title = "tinc"
    programs = (Program("tincd", "tinc"), Program("openssl", "openssl"))
    version_command = ("tincd", "--version")

    def start(self) -> None:
        """Make keys, write the hosts files, start."""
        self.forbid_kernel_forwarding()
        public = {side: self._make_key(side) for side in OVERLAY}
        for side in "RAC":
            folder = self.folder / side
            for other, overlay in OVERLAY.items():
                address = f"Address={self.relay_address(side)}\n" if other == "R" and side != "R" else ""
                # IndirectData: A and C are told of each other's addresses, and are to send through R all the same.
                indirect = "" if other == "R" else "IndirectData=yes\n"
                (folder / "hosts" / other).write_text(f"Subnet={overlay}/32\n{address}{indirect}{public[other]}")
            connect = "" if side == "R" else "ConnectTo=R\n"
            device = f"tinc{side}"
            (folder / "tinc.conf").write_text(f"Name={side}\nInterface={device}\nMode=router\n{connect}")
            script = f"#!/bin/sh\nip addr add {OVERLAY[side]}/24 dev $INTERFACE\nip link set $INTERFACE mtu {TUN_MTU_BYTES} up\n"
            (folder / "tinc-up").write_text(script)
            (folder / "tinc-up").chmod(0o755)
            self.launch(side, [find_program("tincd") or "tincd", "-c", str(folder), "-D", f"--pidfile={folder}/pid"])
            self.wait_device(side, device)
        self.target = OVERLAY["C"]
        self.wait_carrying()

    def _make_key(self, side: str) -> str:
        folder = self.folder / side
        (folder / "hosts").mkdir(parents=True)
        secret = folder / "rsa_key.priv"
        openssl = find_program("openssl") or "openssl"
        subprocess.run([openssl, "genrsa", "-traditional", "-out", str(secret), str(KEY_BITS)], check=True, capture_output=True)
        secret.chmod(0o600)
        done = subprocess.run([openssl, "rsa", "-in", str(secret), "-RSAPublicKey_out"], check=True, capture_output=True, text=True)
        return done.stdout
