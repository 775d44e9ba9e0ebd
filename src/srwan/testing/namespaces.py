"""Network namespaces for tests and measurements: made, linked by veth pairs, and gone afterwards, whatever ends the run.

A `Lab` makes named namespaces with `ip netns` and removes them when its block ends: after an error, Ctrl-C, SIGTERM and SIGHUP as well.
Programs that it starts get SIGKILL when this process dies (PR_SET_PDEATHSIG), so that a killed run leaves at most empty namespaces; their
names hold who made them (`srwan-lab.LABEL.PID.STARTED.NAME`), and the next lab removes those whose maker is no more. Nothing else is
touched: who shares a namespace with us is ended by its process id, never by name.

`run_isolated` goes further: it runs a command as the first process of process, mount and network namespaces of its own, with a /run of its
own, as root or, where user namespaces are allowed, as anybody. When that process ends, or whoever called ends in any way at all, SIGKILL
included, the kernel removes everything inside. A lab works within it as anywhere.

Needs Linux, iproute2 and util-linux; `ethtool` for `Namespace.set_offload`. Source: namespaces(7), veth(4), ip-netns(8), prctl(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Any, Self, TypeVar

import attrs

from srwan.errors import SrwanError

__all__ = [
    "Lab",
    "LabError",
    "Namespace",
    "Port",
    "end_with_stdin",
    "isolation_problem",
    "make_line",
    "remove_leftovers",
    "run_isolated",
    "wait_until",
]

PREFIX = "srwan-lab"
LABEL = re.compile(r"[a-z0-9]{1,16}")
"""Of a lab, and the names in it but for case."""
NAME = re.compile(rf"{PREFIX}\.[a-z0-9]+\.(\d+)\.(\d+)\.[A-Za-z0-9]+")
"""Groups: process id of the maker, and when it started (clock ticks since boot)."""
END_S = 3.0
"""What a program gets to end after SIGTERM, before SIGKILL."""
POLL_S = 0.02
SIGNALS = (signal.SIGTERM, signal.SIGHUP)
"""Turned into SystemExit while a lab is open. SIGINT is KeyboardInterrupt already."""
CLONE_NEWNET = 0x40000000
OFFLOADS = ("tso", "gso", "gro")
NETNS_FOLDER = Path("/run/netns")

Result = TypeVar("Result")


class LabError(SrwanError):
    """A namespace, link or address could not be made, or something did not get ready. The lab can only be left, which removes all of it."""


def _run(command: Sequence[str], *, is_checked: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - no shell; the arguments are ours
    if is_checked and done.returncode != 0:
        raise LabError(f"`{' '.join(command)}` failed: {done.stderr.strip() or done.stdout.strip() or done.returncode}")
    return done.stdout


def wait_until(is_so: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Wait until something is so.

    Raises:
        LabError: it was not within timeout_s.
    """
    deadline = time.monotonic() + timeout_s
    while not is_so():
        if time.monotonic() >= deadline:
            raise LabError(f"{what}: not within {timeout_s:g} s")
        time.sleep(POLL_S)


@attrs.frozen(slots=True)
class Port:
    """One end of a link."""

    device: str
    ipv4: str
    """Address, without its length of 24."""
    ipv6: str
    """Address, without its length of 64."""


class Namespace:
    """One network namespace of a lab. Made by `Lab.add`."""

    def __init__(self, name: str, short: str) -> None:
        self.name = name
        """What `ip netns list` shows."""
        self.short = short
        """What `Lab.add` was given."""
        self.ports: list[Port] = []
        """Ends of links, in the order they were made."""
        self.programs: list[subprocess.Popen[Any]] = []

    def command(self, *command: str) -> list[str]:
        """Return the command that runs `command` in here; it has the same process id."""
        return ["ip", "netns", "exec", self.name, *command]

    def run(self, *command: str) -> str:
        """Run a command in here to its end and return what it printed.

        Raises:
            LabError: its status is not 0.
        """
        return _run(self.command(*command))

    def ip(self, *arguments: str) -> str:
        """Run `ip` on this namespace. Raises LabError as `run` does."""
        return _run(["ip", "-n", self.name, *arguments])

    def start(
        self,
        *command: str,
        output: int | IO[bytes] | None = None,
        errors: int | IO[bytes] | None = None,
        stdin: int | None = subprocess.DEVNULL,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a program in here. It ends with the lab; call from the main thread, for it also ends with the thread that started it.

        Args:
            command: program and arguments.
            output: its standard output; None for ours.
            errors: its standard error; None for ours.
            stdin: its standard input.
            environment: added to ours.
        """
        tied = self.command("setpriv", "--pdeathsig", "KILL", "--", *command)
        program = subprocess.Popen(  # noqa: S603 - no shell; the arguments are the caller's
            tied, stdin=stdin, stdout=output, stderr=errors, env={**os.environ, **(environment or {})}
        )
        self.programs.append(program)
        return program

    def write(self, path: str, text: str) -> bool:
        """Write to a file below /proc/sys or /sys as it is seen in here; say whether that was possible."""
        done = subprocess.run(  # noqa: S603
            self.command("sh", "-c", 'printf %s "$2" > "$1"', "sh", path, text), capture_output=True, check=False
        )
        return done.returncode == 0

    def set_sysctl(self, key: str, value: int) -> bool:
        """Set a sysctl such as "net/ipv4/ip_forward"; say whether that was possible."""
        return self.write(f"/proc/sys/{key}", str(value))

    def set_offload(self, *, is_on: bool, devices: Sequence[str] = ()) -> None:
        """Turn segmentation and receive offload (tso, gso, gro) on or off.

        Args:
            is_on: on.
            devices: none: of all links.

        Raises:
            LabError: ethtool is missing or refuses.
        """
        switches = [word for offload in OFFLOADS for word in (offload, "on" if is_on else "off")]
        for device in devices or [port.device for port in self.ports]:
            self.run("ethtool", "-K", device, *switches)

    def call(self, function: Callable[[], Result]) -> Result:
        """Call a function of this process inside the namespace and return its result: sockets that it opens stay in there.

        Raises:
            OSError: the namespace cannot be entered. What `function` raises.
        """
        results: list[Result] = []
        errors: list[BaseException] = []

        def enter_and_call() -> None:  # in a thread of its own: what it enters ends with it
            try:
                descriptor = os.open(NETNS_FOLDER / self.name, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    libc = ctypes.CDLL(None, use_errno=True)
                    if libc.setns(descriptor, CLONE_NEWNET) != 0:
                        number = ctypes.get_errno()
                        raise OSError(number, os.strerror(number), self.name)
                finally:
                    os.close(descriptor)
                results.append(function())
            except BaseException as error:  # noqa: BLE001 - raised by the caller
                errors.append(error)

        thread = threading.Thread(target=enter_and_call)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    def ask_to_end(self) -> None:
        """Send SIGTERM to what was started in here and still runs."""
        for program in self.programs:
            if program.poll() is None:
                program.terminate()

    def end_programs(self) -> None:
        """End what was started in here: SIGTERM, and SIGKILL for what takes longer than END_S."""
        self.ask_to_end()
        deadline = time.monotonic() + END_S
        for program in self.programs:
            try:
                program.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                program.kill()
                program.wait()
        self.programs.clear()


class Lab:
    """Namespaces that belong together. A context; nothing of it is left after the block.

    Args:
        label: part of the names, up to 16 lower-case letters and digits.

    Raises:
        ValueError: the label is not usable.
    """

    def __init__(self, label: str) -> None:
        if not LABEL.fullmatch(label):
            raise ValueError(f"{label!r} is no label: use up to 16 lower-case letters and digits")
        self._stem = f"{PREFIX}.{label}.{os.getpid()}.{_started(os.getpid())}"
        self.namespaces: dict[str, Namespace] = {}
        """By the name that `add` was given."""
        self._former: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        remove_leftovers()
        if threading.current_thread() is threading.main_thread():
            self._former = {number: signal.signal(number, _end_in_order) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with _undisturbed():
            self.end_programs()
            for namespace in self.namespaces.values():
                _remove(namespace.name)
            self.namespaces.clear()
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def end_programs(self) -> None:
        """End what was started in all namespaces, at once; see `Namespace.end_programs`."""
        for namespace in self.namespaces.values():
            namespace.ask_to_end()
        for namespace in self.namespaces.values():
            namespace.end_programs()

    def add(self, name: str) -> Namespace:
        """Make a namespace with its loopback up.

        Args:
            name: up to 16 letters and digits, unique in this lab.

        Raises:
            ValueError: the name is not usable. LabError: no right to make one, or `ip` is missing.
        """
        if name in self.namespaces or not LABEL.fullmatch(name.lower()):
            raise ValueError(f"{name!r} is no name for another namespace: use up to 16 letters and digits")
        namespace = self.namespaces[name] = Namespace(f"{self._stem}.{name}", name)  # noted first: removed even if it is half made
        _run(["ip", "netns", "add", namespace.name])
        for key in ("all/accept_dad", "default/accept_dad", "default/dad_transmits"):
            # Duplicate address detection would hold or lose packets of the first two seconds of every link.
            namespace.set_sysctl(f"net/ipv6/conf/{key}", 0)
        namespace.ip("link", "set", "lo", "up")
        return namespace

    def link(self, left: Namespace, right: Namespace, subnet: int, *, mtu: int = 1500) -> tuple[Port, Port]:
        """Connect two namespaces by a veth pair, up and addressed: 10.71.subnet.1 and .2, fd71:subnet::1 and ::2.

        Args:
            left: gets the addresses that end in 1.
            right: gets those that end in 2.
            subnet: 1..254, unique in this lab.
            mtu: of both ends, bytes.

        Raises:
            LabError: `ip` refuses.
        """
        ports = tuple(Port(f"v{subnet}{side}", f"10.71.{subnet}.{side}", f"fd71:{subnet:x}::{side}") for side in (1, 2))
        pair = ((left, ports[0]), (right, ports[1]))
        add = ["ip", "link", "add", ports[0].device, "netns", left.name, "type", "veth", "peer", "name", ports[1].device]
        _run([*add, "netns", right.name])
        for namespace, port in pair:
            namespace.ip("link", "set", port.device, "mtu", str(mtu), "up")
            namespace.ip("addr", "add", f"{port.ipv4}/24", "dev", port.device)
            namespace.ip("addr", "add", f"{port.ipv6}/64", "dev", port.device, "nodad")
            # Receive packet steering onto the core of whoever forwards them makes a receive livelock of it (measured).
            namespace.write(f"/sys/class/net/{port.device}/queues/rx-0/rps_cpus", "0")
            namespace.ports.append(port)
        return ports[0], ports[1]


def make_line(lab: Lab, names: Sequence[str], *, mtu: int = 1500, prefix: int = 0) -> list[Namespace]:
    """Make namespaces in a line, each routing between its neighbours, so that the first reaches the last.

    Args:
        lab: that they belong to.
        names: at least two.
        mtu: of all links, bytes.
        prefix: added to the subnets, which are 1, 2, ... from the left.

    Raises:
        LabError: something could not be made.
    """
    line = [lab.add(name) for name in names]
    for subnet, (left, right) in enumerate(itertools.pairwise(line), prefix + 1):
        lab.link(left, right, subnet, mtu=mtu)
    last = prefix + len(line) - 1
    for index, namespace in enumerate(line):
        for key in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
            namespace.set_sysctl(key, 1)
        for device in ("all", *(port.device for port in namespace.ports)):
            namespace.set_sysctl(f"net/ipv4/conf/{device}/rp_filter", 0)
            namespace.set_sysctl(f"net/ipv6/conf/{device}/seg6_enabled", 1)
        for subnet in range(prefix + 1, last + 1):
            own = (prefix + index, prefix + index + 1)
            if subnet in own:
                continue
            side, neighbour = (2, own[1]) if subnet > own[1] else (1, own[0])
            namespace.ip("route", "add", f"10.71.{subnet}.0/24", "via", f"10.71.{neighbour}.{side}")
            namespace.ip("-6", "route", "add", f"fd71:{subnet:x}::/64", "via", f"fd71:{neighbour:x}::{side}")
    return line


def remove_leftovers() -> list[str]:
    """Remove the namespaces of labs whose process is no more, with what still runs in them; return their names."""
    if not NETNS_FOLDER.is_dir():
        return []
    left = [name for name in sorted(os.listdir(NETNS_FOLDER)) if (match := NAME.fullmatch(name)) and not _is_alive(match)]
    for name in left:
        _remove(name)
    return left


def _is_alive(match: re.Match[str]) -> bool:
    return _started(int(match[1])) == int(match[2])


def _started(process: int) -> int:
    """Return when a process started, clock ticks since boot; 0 if there is none. Process ids come back, pairs with this do not."""
    try:
        return int(Path(f"/proc/{process}/stat").read_text("ascii").rpartition(")")[2].split()[19])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _remove(name: str) -> None:
    """Remove a namespace, ending who is in it; fine if it is not there."""
    if not (NETNS_FOLDER / name).exists():
        return
    deadline = time.monotonic() + END_S
    while (inside := _run(["ip", "netns", "pids", name], is_checked=False).split()) and time.monotonic() < deadline:
        for process in inside:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGKILL)
        time.sleep(POLL_S)
    _run(["ip", "netns", "del", name], is_checked=False)


def _end_in_order(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Hold signals back: half a removal is what they would make."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*SIGNALS, signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# --- isolation ----------------------------------------------------------------------------------------------------------


def _unshare() -> list[str]:
    isolate = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    return isolate if os.geteuid() == 0 else [*isolate, "--map-root-user"]


_OWN_RUN = ["sh", "-c", 'mount -t tmpfs tmpfs /run && mkdir /run/netns && exec "$@"', "sh"]
"""/run of its own: namespaces are named below it, wireguard-go puts sockets there."""


def isolation_problem() -> str:
    """Say why `run_isolated` does not work here and what to install or be; an empty string if it does."""
    for program, package in {"unshare": "util-linux", "setpriv": "util-linux", "ip": "iproute2"}.items():
        if shutil.which(program) is None:
            return f"`{program}` is not installed (Debian package {package})"
    tried = subprocess.run(  # noqa: S603
        [*_unshare(), *_OWN_RUN, "ip", "netns", "add", "probe"], capture_output=True, text=True, check=False
    )
    return "" if tried.returncode == 0 else f"no right to make namespaces ({tried.stderr.strip()}); be root or allow user namespaces"


def run_isolated(command: Sequence[str]) -> int:
    """Run a command in process, mount and network namespaces of its own and return its status; 130 after Ctrl-C.

    The command must call `end_with_stdin` of its own accord or end when its standard input does: that is how it learns that we are gone.
    Its standard output and error are ours. What it made in namespaces, processes and /run is gone when this returns.
    """
    with subprocess.Popen([*_unshare(), *_OWN_RUN, *command], stdin=subprocess.PIPE, start_new_session=True) as process:  # noqa: S603
        former = {number: signal.signal(number, _end_in_order) for number in SIGNALS}
        try:
            return process.wait()
        except (KeyboardInterrupt, SystemExit):
            return 130
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)


def end_with_stdin() -> None:
    """For a command under `run_isolated`: end this process at once when standard input does. All it started goes with it."""

    def wait_for_end() -> None:
        while os.read(0, 4096):
            pass
        sys.stderr.flush()
        os._exit(130)

    threading.Thread(target=wait_for_end, daemon=True).start()
