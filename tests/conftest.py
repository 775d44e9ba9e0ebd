"""How all tests run: Hypothesis profiles, and needs that CI turns into musts.

A test that needs something which not every machine has says so: `@pytest.mark.needs("netns")`. Where it is missing the test is
skipped with the reason; where `SRWAN_CI_NEEDS` (a comma-separated list, or "all") or `--require-needs` names it, the test fails.

`SRWAN_HYPOTHESIS` chooses a profile: dev (default), ci (derandomised: the same examples every time; chosen where CI is set), night.
"""

from __future__ import annotations

import functools
import os
import shutil
import socket
import subprocess
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings

from srwan.routing.planes import choose_plane

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

pytest_plugins = ["pytester"]

# No deadlines: on a machine with two busy cores they measure the neighbours.
settings.register_profile("dev", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, database=None, print_blob=True)
settings.register_profile("night", deadline=None, max_examples=5_000, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("SRWAN_HYPOTHESIS") or ("ci" if os.environ.get("CI") else "dev"))

LONGEST = frozenset({"test_demo.py", "test_examples.py", "test_market_examples.py", "test_overseer.py"})
"""Files of half a minute and more."""


def missing_ipv6() -> str:
    """Say why UDP on ::1 does not work here, or return an empty string."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError as error:
        return f"::1 cannot be used ({error.strerror})"
    return ""


def missing_netns() -> str:
    """Say why this process cannot make network namespaces, or return an empty string."""
    if shutil.which("ip") is None:
        return "`ip` is not installed (Debian package iproute2)"
    tried = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True, check=False)
    return "" if tried.returncode == 0 else f"no right to make network namespaces ({tried.stderr.strip()})"


def missing_root() -> str:
    """Say why this process is not root of the machine, or return an empty string. Root of a user namespace is not."""
    if os.geteuid() != 0:
        return "not root"
    with open("/proc/self/uid_map", encoding="ascii") as file:
        return "" if file.read().split() == ["0", "0", "4294967295"] else "root of a user namespace only"


def missing_srv6() -> str:
    """Say why segment routing cannot be tried with this kernel, or return an empty string."""
    if not os.path.exists("/proc/sys/net/ipv6/conf/all/seg6_enabled"):
        return "this kernel has no SRv6 (CONFIG_IPV6_SEG6_LWTUNNEL)"
    return "" if os.path.exists("/dev/net/tun") else "/dev/net/tun is missing"


def missing_tun() -> str:
    """Say why there is no TUN driver here, or return an empty string."""
    return "" if os.path.exists("/dev/net/tun") else "/dev/net/tun is missing (`modprobe tun`)"


def missing_udp_trains() -> str:
    """Say why UDP datagrams cannot come and go in trains here, or return an empty string."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.setsockopt(17, 104, 1)  # UDP_GRO
            probe.setsockopt(17, 103, 0)  # UDP_SEGMENT
    except OSError as error:
        return f"this system has no UDP_GRO and UDP_SEGMENT ({error.strerror})"
    return ""


def missing_native() -> str:
    """Say why the native data plane cannot be used, or return an empty string."""
    name, why = choose_plane()
    return "" if name == "native" else why


def missing_etcd() -> str:
    """Say why no etcd can be started here, or return an empty string."""
    return "" if shutil.which("etcd") else "`etcd` is not installed (Debian package etcd-server)"


def missing_anvil() -> str:
    """Say why no EVM development node can be started here, or return an empty string."""
    asked = subprocess.run([os.path.join(ROOT, "script", "anvil"), "--print"], capture_output=True, text=True, check=False)
    return "" if asked.returncode == 0 else asked.stderr.strip() or "script/anvil knows none"


NEEDS: dict[str, Callable[[], str]] = {
    "anvil": missing_anvil,
    "etcd": missing_etcd,
    "ipv6": missing_ipv6,
    "netns": missing_netns,
    "root": missing_root,
    "srv6": missing_srv6,
    "tun": missing_tun,
    "udp-trains": missing_udp_trains,
    "native": missing_native,
}


@functools.cache
def missing(need: str) -> str:
    """Say why a need is missing, or return an empty string; it is looked for once."""
    return NEEDS[need]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --require-needs."""
    parser.addoption("--require-needs", action="store_true", help="fail, rather than skip, tests whose needs are missing")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that no worker is left with one of them at the end."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip or fail a test one of whose needs is missing."""
    listed = {name.strip() for name in os.environ.get("SRWAN_CI_NEEDS", "").split(",")}
    for mark in item.iter_markers("needs"):
        for need in mark.args:
            if need not in NEEDS:
                pytest.fail(f"unknown need {need!r}; tests/conftest.py knows {sorted(NEEDS)}", pytrace=False)
            problem = missing(need)
            if not problem:
                continue
            if item.config.getoption("--require-needs") or listed & {need, "all"}:
                pytest.fail(f"needs {need}, and here it is a must: {problem}", pytrace=False)
            pytest.skip(f"needs {need}: {problem}")
