"""The shortest relays there can be, in Python and in C: one datagram in, the same one out.

No relay in user space that sleeps between packets adds less latency than they do: it is woken, and there is a system call either way. They
do not share a thread, decrypt or look anything up, so they bound `relay_alone.py`'s data planes and compete with nobody. As a program,
which is the loop in Python (`bare_loop.c` is the other):

    python bare_loop.py LISTEN_IPV4 LISTEN_PORT TO_IPV4 TO_PORT
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from srwan.testing.namespaces import LabError, Namespace
from srwan.types import UdpAddress

C_SOURCE = Path(__file__).with_suffix(".c")


def start_python(namespace: Namespace, listen_at: UdpAddress, to: UdpAddress, _folder: Path) -> subprocess.Popen[bytes]:
    """Start the loop in Python; it says a line once it is up."""
    return _start(namespace, [sys.executable, str(Path(__file__))], listen_at, to)


def start_c(namespace: Namespace, listen_at: UdpAddress, to: UdpAddress, folder: Path) -> subprocess.Popen[bytes]:
    """Compile the loop in C into a folder and start it; it says a line once it is up.

    Raises:
        LabError: there is no C compiler, or it fails.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        raise LabError("no C compiler; on Debian: apt-get install gcc libc6-dev")
    program = folder / "bare_loop"
    done = subprocess.run([compiler, "-O2", "-o", str(program), str(C_SOURCE)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"cc failed: {done.stderr.strip()}")
    return _start(namespace, [str(program)], listen_at, to)


def _start(namespace: Namespace, command: list[str], listen_at: UdpAddress, to: UdpAddress) -> subprocess.Popen[bytes]:
    arguments = [word for ip, port in (listen_at, to) for word in (ip, str(port))]
    return namespace.start(*command, *arguments, output=subprocess.PIPE)


def main(listen_ip: str, listen_port: str, to_ip: str, to_port: str) -> None:
    """Relay until killed."""
    to = (to_ip, int(to_port))
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((listen_ip, int(listen_port)))
    print(json.dumps({"kind": "up"}), flush=True)
    receive, send = sock.recv, sock.sendto
    while True:
        send(receive(2048), to)


if __name__ == "__main__":
    main(*sys.argv[1:])
