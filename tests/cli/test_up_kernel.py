"""`srwan up --kernel` in network namespaces: what it makes and leaves behind, and three routers with an application's packets."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from srwan.identity import Identity
from srwan.kernel_config import Delivery
from srwan.routing.kernel.plan import delivery_sid
from srwan.routing.kernel.plane import read_present
from srwan.routing.kernel.tun import TUN_NAME
from srwan.routing.sid import Function, Sid
from srwan.testing.namespaces import Lab, Namespace, make_line, wait_until
from srwan.types import NodeId

pytestmark = [pytest.mark.slow, pytest.mark.needs("netns"), pytest.mark.needs("srv6")]

R = NodeId(bytes([2]) * 32)
PORT = 7009
MTU = 1600


# --- what is left behind ----------------------------------------------------------------------------------------------


@pytest.fixture
def lone() -> Iterator[Namespace]:
    with Lab("kernel") as lab:
        left, right = lab.add("A"), lab.add("B")
        lab.link(left, right, 1)
        yield left


def objects(namespace: Namespace) -> str:
    listed = (("-6", "route", "show", "table", "all", "proto", "147"), ("-4", "route", "show", "table", "all", "proto", "147"))
    rules = "\n".join(line for version in ("-4", "-6") for line in namespace.ip(version, "rule").splitlines() if "proto 147" in line)
    return "".join(namespace.ip(*words) for words in listed) + rules


SYSCTLS = ("ipv6/conf/all/forwarding", "ipv6/conf/v11/forwarding", "ipv6/conf/v11/seg6_enabled", "ipv4/ip_forward")


def sysctls(namespace: Namespace) -> list[str]:
    return namespace.run("cat", *(f"/proc/sys/net/{name}" for name in SYSCTLS)).split()


def start_up(namespace: Namespace, folder: Path, *more: str) -> subprocess.Popen[bytes]:
    config = folder / "srwan.toml"
    config.write_text(
        f'name = "a"\nstate_dir = "{folder}"\nudp = ["127.0.0.1:0"]\ncontrol = "127.0.0.1:0"\n[join]\nlone_after_s = 0.0\n'
        f'[kernel]\ninterfaces = ["v11"]\npeers = ["{R.hex()}@fd71:1::2"]\ndeliver = ["dt6:255", "dx4:10.71.1.1"]\nnative = true\n'
        f'bills = ["{R.hex()} 7"]\n'
    )
    command = (sys.executable, "-m", "srwan", "up", "--config", str(config), "--kernel", "--json", *more)
    with (folder / "out").open("ab") as output:
        return namespace.start(*command, output=output, errors=output)


def stop(program: subprocess.Popen[bytes], number: signal.Signals) -> int:
    program.send_signal(number)
    return program.wait(10)


def test_all_that_was_made_goes_on_exit_and_after_a_crash_with_the_next_run(lone: Namespace, tmp_path: Path) -> None:
    lone.ip("-6", "route", "add", "fd55::/64", "dev", "v11", "proto", "static", "table", "4710")  # somebody else's, in our table
    before, foreign = sysctls(lone), lone.ip("-6", "route", "show", "table", "all", "proto", "static")
    assert "" == objects(lone)

    first = start_up(lone, tmp_path)
    wait_until(lambda: "End.DX4" in objects(lone), 20, "srwan up")
    made = objects(lone)
    assert (["1", "1", "1", "1"], 8) == (sysctls(lone), len(made.splitlines()))
    assert -signal.SIGKILL == stop(first, signal.SIGKILL)
    # What the TUN carried went with it; the rest is a leftover.
    assert [line for line in made.splitlines() if TUN_NAME not in line] == objects(lone).splitlines()
    assert ["1", "1", "1", "1"] == sysctls(lone)

    second = start_up(lone, tmp_path)
    wait_until(lambda: TUN_NAME in objects(lone), 20, "srwan up")
    again = start_up(lone, tmp_path)
    assert 2 == again.wait(20)
    assert 0 == stop(second, signal.SIGTERM)
    assert ("", before) == (objects(lone), sysctls(lone))
    assert foreign == lone.ip("-6", "route", "show", "table", "all", "proto", "static")
    assert "another srwan runs this kernel already" in (tmp_path / "out").read_text()


def test_a_run_that_cannot_start_says_what_to_do_and_leaves_nothing(lone: Namespace, tmp_path: Path) -> None:
    before = sysctls(lone)
    for words, said in (
        (("--kernel-interface", "nosuch"), r"kernel\.interfaces: there is no interface 'nosuch'"),
        (("--kernel-interface", "lo"), r"kernel\.interfaces: 'lo' is not usable"),
    ):
        program = lone.start(
            sys.executable,
            "-m",
            "srwan",
            "up",
            "--udp",
            "127.0.0.1:0",
            "--control",
            "127.0.0.1:0",
            "--kernel",
            *words,
            errors=subprocess.PIPE,
        )
        _, errors = program.communicate(timeout=20)
        assert 2 == program.returncode, errors.decode()
        assert re.search(said, errors.decode())
    assert ("", before) == (objects(lone), sysctls(lone))


# --- routers ----------------------------------------------------------------------------------------------------------


def write_config(folder: Path, name: str, ids: dict[str, NodeId], lines: str, bootstrap: str = "") -> Path:
    address = {"A": "fd71:1::1", "R": "fd71:1::2", "C": "fd71:2::2"}[name]
    config = folder / name / "srwan.toml"
    peer = {other: f"{ids[other].hex()}@{'fd71:2::1' if (name, other) == ('C', 'R') else at}" for other, at in ADDRESSES.items()}
    config.write_text(
        f'name = "{name}"\nstate_dir = "{folder / name}"\nudp = ["[{address}]:4710"]\ncontrol = "[{address}]:4710"\n{bootstrap}'
        "[pulse]\nperiod_s = 0.5\n[join]\nlone_after_s = 1.0\n[kernel]\nenabled = true\n" + lines.format(**peer, egress=ids["C"].hex())
    )
    return config


ADDRESSES = {"A": "fd71:1::1", "R": "fd71:1::2", "C": "fd71:2::2"}
SECTIONS = {
    "R": 'interfaces = ["v12", "v21"]\npeers = ["{A}", "{C}"]\n',
    "A": 'interfaces = ["v11"]\npeers = ["{R}"]\nborders = ["{C}"]\nnative = true\nroutes = ["fd99::/64 {egress} dt6:255"]\n',
    "C": 'interfaces = ["v22"]\npeers = ["{R}"]\nborders = ["{A}"]\nnative = true\ndeliver = ["dt6:255"]\n',
}


def multiaddr_in(out: Path) -> str:
    """What a router that has come up printed first."""
    wait_until(lambda: '"up"' in out.read_text(), 30, "srwan up")
    return str(json.loads(out.read_text().splitlines()[0])["multiaddr"])


def udp(namespace: Namespace, *, bound: str = "") -> socket.socket:
    def make() -> socket.socket:
        made = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        made.settimeout(0.5)
        if bound:
            made.bind((bound, PORT))
        return made

    return namespace.call(make)


def counted(namespace: Namespace, sid: Sid) -> int:
    """Packets that a kernel counted for a SID."""
    count = namespace.call(read_present)[1].get(sid)
    return 0 if count is None else count.packets


def test_three_routers_carry_an_applications_packets_and_watch_paths_through_the_kernel(tmp_path: Path) -> None:
    """A's kernel encapsulates for C; the path that A keeps to C is watched over R's kernel, too."""
    ids = {}
    for name in "ARC":
        (tmp_path / name).mkdir()
        ids[name] = Identity.load_or_create(tmp_path / name / "identity").node_id
    with Lab("kernelup") as lab:
        namespaces = dict(zip("ARC", make_line(lab, "ARC", mtu=1600), strict=True))
        namespaces["C"].ip("addr", "add", "fd99::1/128", "dev", "lo")
        programs: list[subprocess.Popen[bytes]] = []
        bootstrap = ""
        for name in "RAC":
            config = write_config(tmp_path, name, ids, SECTIONS[name], bootstrap)
            out = tmp_path / name / "out"
            with out.open("wb") as output:
                command = (sys.executable, "-m", "srwan", "up", "--config", str(config), "--json")
                programs.append(namespaces[name].start(*command, output=output, errors=output))
            bootstrap = bootstrap or f'bootstrap = ["{multiaddr_in(out)}"]\n'
        wait_until(lambda: "encap seg6 " in objects(namespaces["A"]), 40, "a path from A to C")
        delivers = delivery_sid(ids["C"], Delivery("End.DT6", table=255))
        with udp(namespaces["A"]) as sender, udp(namespaces["C"], bound="fd99::1") as receiver:
            for number in range(50):
                sender.sendto(bytes([number]), ("fd99::1", PORT))
            assert list(range(50)) == [receiver.recv(100)[0] for _ in range(50)]
        assert 50 == counted(namespaces["C"], delivers)
        wait_until(lambda: counted(namespaces["R"], Sid.of(ids["R"], Function.END)) > 10, 30, "keep-alives over R's kernel")
        told = json.loads(namespaces["A"].run(sys.executable, "-m", "srwan", "status", "--state-dir", str(tmp_path / "A"), "--json"))[
            "kernel"
        ]
        assert (["fd99::/64"], "", True) == (list(told["routes"]), told["problem"], told["native"]["packets_in"] > 0)
        for program in programs:
            assert 0 == stop(program, signal.SIGTERM)
        assert ["", "", ""] == [objects(namespace) for namespace in namespaces.values()]
