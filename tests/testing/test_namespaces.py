"""Labs of network namespaces: what they connect, and that nothing of them is left."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from srwan.testing import namespaces
from srwan.testing.namespaces import Lab, LabError, isolation_problem, make_line, remove_leftovers, run_isolated, wait_until

HOLD = """
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
from srwan.testing.namespaces import Lab
with Lab("hold") as lab:
    namespace = lab.add("A")
    program = namespace.start("sleep", "60")
    print(namespace.name, program.pid, flush=True)
    time.sleep(60)
"""


def existing() -> list[str]:
    folder = namespaces.NETNS_FOLDER
    return os.listdir(folder) if folder.is_dir() else []


def is_running(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def start_holder() -> tuple[subprocess.Popen[str], str, int]:
    holder = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    with holder.stdout as lines:
        name, pid = lines.readline().split()
    return holder, name, int(pid)


@pytest.mark.parametrize("label", ["", "Big", "a.b", "a" * 17])
def test_a_label_that_does_not_fit_a_name_is_refused(label: str) -> None:
    with pytest.raises(ValueError, match="label"):
        Lab(label)


@pytest.mark.needs("netns")
def test_the_ends_of_a_line_reach_each_other_through_the_middle_only() -> None:
    with Lab("line") as lab:
        first, middle, last = make_line(lab, ["A", "R", "C"], mtu=1600)
        far = last.ports[0]

        first.run("ping", "-c", "1", "-W", "2", far.ipv4)
        first.run("ping", "-c", "1", "-W", "2", far.ipv6)
        first.run("ping", "-c", "1", "-W", "2", "-M", "do", "-s", "1572", far.ipv4)
        middle.set_sysctl("net/ipv4/ip_forward", 0)
        with pytest.raises(LabError, match="ping"):
            first.run("ping", "-c", "1", "-W", "1", far.ipv4)


@pytest.mark.needs("netns")
def test_a_call_inside_a_namespace_opens_its_socket_there() -> None:
    with Lab("call") as lab:
        left, right = make_line(lab, ["A", "C"])

        def bound() -> socket.socket:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            try:
                sock.bind((right.ports[0].ipv4, 0))
            except OSError:
                sock.close()
                raise
            return sock

        with right.call(bound) as receiver, left.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
            receiver.settimeout(5)
            sender.sendto(b"hello", receiver.getsockname())
            assert b"hello" == receiver.recv(16)
        with pytest.raises(OSError, match="assign"):
            bound()
        with pytest.raises(ZeroDivisionError):
            left.call(lambda: 1 // 0)


@pytest.mark.needs("netns")
def test_nothing_is_left_after_a_block_that_fails() -> None:
    names: list[str] = []
    pids: list[int] = []
    with pytest.raises(ZeroDivisionError), Lab("fail") as lab:
        namespace = lab.add("A")
        names.append(namespace.name)
        pids.append(namespace.start("sleep", "60").pid)
        stubborn = namespace.start("sh", "-c", "trap '' TERM; sleep 60 & echo; wait", output=subprocess.PIPE)
        pids.append(stubborn.pid)
        assert stubborn.stdout is not None
        with stubborn.stdout as lines:
            lines.readline()
        pids += [int(pid) for pid in namespaces._run(["ip", "netns", "pids", namespace.name]).split() if int(pid) not in pids]
        assert 3 == len(pids)  # the last one is nobody's but the namespace's
        assert names[0] in existing()
        _ = 1 // 0

    assert [] == [name for name in existing() if name in names]
    assert [False, False, False] == [is_running(pid) for pid in pids]


@pytest.mark.needs("netns")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_nothing_is_left_after_a_signal(number: signal.Signals) -> None:
    holder, name, pid = start_holder()
    assert name in existing()

    holder.send_signal(number)
    holder.wait(10)

    assert name not in existing()
    assert not is_running(pid)


@pytest.mark.needs("netns")
def test_what_a_killed_run_left_is_removed_by_the_next_and_only_that() -> None:
    holder, name, pid = start_holder()
    other, kept, _ = start_holder()
    try:
        holder.kill()
        holder.wait(10)
        wait_until(lambda: not is_running(pid), 5, "its programs end with it")
        assert name in existing()

        removed = remove_leftovers()

        assert name in removed
        assert name not in existing()
        assert kept in existing()
    finally:
        other.terminate()
        other.wait(10)


@pytest.mark.needs("netns")
def test_the_name_tells_a_maker_from_another_process_with_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    with Lab("mine") as lab:
        name = lab.add("A").name
        assert [] == [left for left in remove_leftovers() if left == name]

        monkeypatch.setattr(namespaces, "_started", lambda _process: 1)

        assert name in remove_leftovers()


@pytest.mark.needs("netns")
def test_an_isolated_run_ends_with_its_caller(tmp_path: Path) -> None:
    if problem := isolation_problem():
        pytest.fail(problem)
    inside = tmp_path / "inside.py"
    inside.write_text(
        "import time\n"
        "from srwan.testing.namespaces import Lab, end_with_stdin\n"
        "end_with_stdin()\n"
        "with Lab('deep') as lab:\n"
        "    lab.add('A').start('sleep', '61')\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
    )
    outside = f"import sys\nfrom srwan.testing.namespaces import run_isolated\nrun_isolated([sys.executable, {str(inside)!r}])"
    caller = subprocess.Popen([sys.executable, "-c", outside], stdout=subprocess.PIPE, text=True)
    assert caller.stdout is not None
    with caller.stdout as lines:
        assert "ready\n" == lines.readline()

        caller.kill()
        caller.wait(10)

        assert "" == lines.read()  # all that held the pipe has ended
    assert [] == [name for name in existing() if ".deep." in name]


@pytest.mark.needs("netns")
def test_an_isolated_run_returns_the_status_and_keeps_its_namespaces_to_itself() -> None:
    before = set(existing())

    assert 7 == run_isolated(["sh", "-c", "ip netns add inner && exit 7"])
    assert set() == {name for name in set(existing()) - before if name == "inner"}


def test_waiting_for_what_never_comes_ends() -> None:
    started = time.monotonic()

    with pytest.raises(LabError, match="godot"):
        wait_until(lambda: False, 0.05, "godot")

    assert time.monotonic() >= started + 0.05
