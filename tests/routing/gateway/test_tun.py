"""The TUN gateway in network namespaces: unmodified programs, two real routers with a TUN, and a relay between them.

host - alpha --- relay --- gamma - far

One suite over gateways whose data plane reads and writes the TUN in C, over those where Python does, and over one of each.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.packet import Raw

from srwan.config import make_config
from srwan.errors import ConfigError
from srwan.routing.gateway.tun import open_tun
from srwan.status_socket import read_status
from srwan.testing.namespaces import Lab, Namespace, make_line, wait_until
from srwan.tun_config import TunConfig

SRWAN = (sys.executable, "-m", "srwan")
START_S = 60.0
HOST, ALPHA_LAN, GAMMA_LAN, FAR = "10.71.50.1", "10.71.50.2", "10.71.60.1", "10.71.60.2"
HOST6, FAR6 = "fd71:32::1", "fd71:3c::2"
BODY = bytes(range(256)) * 4096
PORT = 7007
UDP_SEGMENT = 103
OVERLAY = ipaddress.IPv6Address("fd00::1")

pytestmark = pytest.mark.needs("netns", "tun")


class Chain:
    """Three routers in a line, with a host behind either gateway."""

    def __init__(self, lab: Lab, folder: Path, planes: dict[str, str]) -> None:
        self.planes = planes
        self.alpha, self.relay, self.gamma = make_line(lab, ["alpha", "relay", "gamma"])
        self.host, self.far = lab.add("host"), lab.add("far")
        lab.link(self.host, self.alpha, 50)
        lab.link(self.gamma, self.far, 60)
        for namespace, via, via6 in ((self.host, ALPHA_LAN, "fd71:32::2"), (self.far, GAMMA_LAN, "fd71:3c::1")):
            namespace.ip("route", "add", "default", "via", via)
            namespace.ip("-6", "route", "add", "default", "via", via6)
        self.folder = folder
        multiaddr = self.start(self.relay, {})
        self.start(self.alpha, self.tun(multiaddr, "10.71.50.0/24", "fd71:32::/64", "10.71.60.0/24", "fd71:3c::/64", "gamma"))
        forced = {"tun.via": ["relay"]}  # one direction goes direct, the other one over the relay
        self.start(self.gamma, self.tun(multiaddr, "10.71.60.0/24", "fd71:3c::/64", "10.71.50.0/24", "fd71:32::/64", "alpha") | forced)
        wait_until(lambda: all(self.is_ready(each) for each in (self.alpha, self.gamma)), START_S, "both gateways know each other")

    @staticmethod
    def tun(multiaddr: str, own4: str, own6: str, other4: str, other6: str, node: str) -> dict[str, object]:
        routes = [f"{other4}={node}", f"{other6}={node}"]
        return {"bootstrap": [multiaddr], "tun.enabled": True, "tun.announce": [own4, own6], "tun.routes": routes, "tun.host": True}

    def start(self, namespace: Namespace, settings: dict[str, object]) -> str:
        """Start a router and return its multiaddr."""
        address, name = f"{namespace.ports[0].ipv4}:4710", namespace.short
        log, config = self.folder / f"{name}.log", self.folder / f"{name}.toml"
        own = {"name": name, "state_dir": str(self.folder / name), "udp": [address], "control": address, "data_plane": self.planes[name]}
        config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in (own | settings).items()))
        with log.open("wb") as file:
            command = (*SRWAN, "up", "--json", "--config", str(config))
            namespace.start(*command, output=file, errors=file, environment={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"})
        wait_until(lambda: '"kind": "up"' in log.read_text(), START_S, f"{name} is up ({log})")
        line = next(line for line in log.read_text().splitlines() if '"kind": "up"' in line)
        return str(json.loads(line)["multiaddr"])

    def status(self, namespace: Namespace) -> dict[str, Any]:
        status: dict[str, Any] = read_status(self.folder / namespace.short)["tun"]
        return status

    def is_ready(self, namespace: Namespace) -> bool:
        return {"ready"} == {route["state"] for route in self.status(namespace)["routes"]}


PLANES = {
    "native": {"alpha": "native", "relay": "native", "gamma": "native"},
    "portable": {"alpha": "portable", "relay": "portable", "gamma": "portable"},
    "mixed": {"alpha": "native", "relay": "portable", "gamma": "portable"},
}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("portable"),
        pytest.param("native", marks=pytest.mark.needs("native")),
        pytest.param("mixed", marks=[pytest.mark.needs("native"), pytest.mark.slow]),
    ],
)
def chain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    with Lab("tun") as lab:
        yield Chain(lab, tmp_path_factory.mktemp("tun"), PLANES[request.param])


def ping(namespace: Namespace, *arguments: str) -> str:
    done = subprocess.run(namespace.command("ping", "-n", "-i", "0.2", "-w", "10", *arguments), capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def transferred(sender: Namespace, receiver: Namespace, address: str, body: bytes = BODY, mss: int = 0) -> str:
    """Send a body by TCP and return the digest of what came."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET

    def listen() -> socket.socket:
        listener = socket.create_server((address, 0), family=family)
        listener.settimeout(30)
        if mss:
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, mss)
        return listener

    received: list[str] = []

    def receive(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        connection.settimeout(30)
        digest = hashlib.sha256()
        while data := connection.recv(65_536):
            digest.update(data)
        connection.close()
        received.append(digest.hexdigest())

    with receiver.call(listen) as listener:
        thread = threading.Thread(target=receive, args=(listener,))
        thread.start()
        with sender.call(lambda: socket.create_connection((address, listener.getsockname()[1]), timeout=30)) as connection:
            connection.sendall(body)
        thread.join(60)
    return received[0]


@pytest.mark.parametrize("address", [FAR, FAR6])
def test_a_host_behind_one_gateway_pings_one_behind_the_other(chain: Chain, address: str) -> None:
    assert "3 received" in ping(chain.host, "-c", "3", address)


@pytest.mark.parametrize("address", [FAR, FAR6])
def test_tcp_through_both_gateways_delivers_every_byte(chain: Chain, address: str) -> None:
    assert hashlib.sha256(BODY).hexdigest() == transferred(chain.host, chain.far, address)


@pytest.mark.parametrize("address", [HOST, HOST6])
def test_tcp_the_other_way_over_a_relay_delivers_every_byte(chain: Chain, address: str) -> None:
    assert hashlib.sha256(BODY).hexdigest() == transferred(chain.far, chain.host, address)


@pytest.mark.parametrize("mss", [88, 537, 1001])
def test_segments_of_any_length_deliver_every_byte(chain: Chain, mss: int) -> None:
    body = BODY[: len(BODY) // 4 + 13]
    assert hashlib.sha256(body).hexdigest() == transferred(chain.host, chain.far, FAR, body, mss)


def test_tcp_with_ecn_delivers_every_byte(chain: Chain) -> None:
    for namespace in (chain.host, chain.far):
        assert namespace.set_sysctl("net/ipv4/tcp_ecn", 1)
    assert hashlib.sha256(BODY).hexdigest() == transferred(chain.host, chain.far, FAR)


def test_several_streams_at_once_deliver_every_byte(chain: Chain) -> None:
    digests: list[str] = []
    ways = [(chain.host, chain.far, FAR), (chain.far, chain.host, HOST), (chain.host, chain.far, FAR6), (chain.host, chain.far, FAR)]
    threads = [threading.Thread(target=lambda way=way: digests.append(transferred(*way))) for way in ways]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert [hashlib.sha256(BODY).hexdigest()] * len(ways) == digests


@pytest.mark.parametrize(("address", "most"), [(FAR, 1252), (FAR6, 1232)])
def test_datagrams_of_all_lengths_arrive_as_they_were_sent(chain: Chain, address: str, most: int) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    bodies = [bytes([number % 256]) * length for number, length in enumerate([64] * 40 + [0, 1, 2, 999, most, 64, 65, 63] * 5)]
    with chain.far.call(lambda: socket.socket(family, socket.SOCK_DGRAM)) as receiver:
        receiver.bind((address, 0))
        receiver.settimeout(5)
        with chain.host.call(lambda: socket.socket(family, socket.SOCK_DGRAM)) as sender:
            for body in bodies:
                sender.sendto(body, receiver.getsockname()[:2])
            assert bodies == [receiver.recv(2000) for _ in bodies]


@pytest.mark.parametrize("address", [FAR, FAR6])
def test_a_large_udp_packet_arrives_as_its_datagrams(chain: Chain, address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    body = bytes(range(250)) * 41 + b"end"
    with chain.far.call(lambda: socket.socket(family, socket.SOCK_DGRAM)) as receiver:
        receiver.bind((address, 0))
        receiver.settimeout(5)
        with chain.host.call(lambda: socket.socket(family, socket.SOCK_DGRAM)) as sender:
            sender.setsockopt(socket.SOL_UDP, UDP_SEGMENT, 1000)
            sender.sendto(body, receiver.getsockname()[:2])
            assert [body[at : at + 1000] for at in range(0, len(body), 1000)] == [receiver.recv(2000) for _ in range(11)]


def odd_train() -> list[bytes]:
    """TCP packets of one stream that a gateway may join, and others that it must not join or change."""
    ip = IP(src=HOST, dst=FAR)
    tcp = TCP(sport=9, dport=PORT, flags="A", ack=77, window=500, options=[("Timestamp", (1, 2)), ("NOP", None), ("NOP", None)])
    train, seq = [], 1000
    for number in range(120):
        each, segment, length = ip.copy(), tcp.copy(), 700
        each.id = 500 + number if number % 40 < 20 else 7 * number % 65536
        each.flags = "DF" if number % 3 == 0 and number > 60 else ""
        each.tos = 3 if number % 29 == 11 else 0
        length = {0: 0, 13: 1, 17: 1200}.get(number % 23, length)
        segment.flags = {5: "PA", 9: "FA", 15: "UA", 18: "CA", 21: "EA", 22: "FPA"}.get(number % 23, "A")
        segment.seq = seq if number % 31 else seq + 50
        segment.window = 500 if number % 37 else 501
        if number % 41 == 7:
            segment.chksum = 0x1234
        if number % 19 == 8:
            segment.options = [("Timestamp", (2, 2)), ("NOP", None), ("NOP", None)]
        seq += length
        train.append(bytes(each / segment / Raw(bytes([number]) * length)))
    for number in range(20):
        datagram = UDP(sport=9, dport=PORT, chksum=0) if number % 7 == 3 else UDP(sport=9, dport=PORT)
        train.append(bytes(IP(src=HOST, dst=FAR, id=1 + number) / datagram / Raw(bytes([number]) * (90 if number % 5 else 30))))
    return train


def without_hops(packet: bytes) -> bytes:
    """A packet without what every router changes."""
    return packet[:8] + packet[9:10] + packet[12:]


def test_packets_arrive_one_by_one_as_they_were_sent(chain: Chain) -> None:
    """Whatever was joined on the way is cut again where it leaves; nothing of a header changes but TTL and its checksum."""
    train = odd_train()
    chain.gamma.set_offload(is_on=False, devices=[chain.gamma.ports[-1].device])
    chain.gamma.run("ethtool", "-K", chain.gamma.ports[-1].device, "tx", "off")  # sums are made before they are captured

    def capture() -> socket.socket:
        found = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
        found.bind((chain.far.ports[0].device, 0x0800))
        found.settimeout(5)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)  # all of the train, however late it is read
        return found

    def inject() -> socket.socket:
        return socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)

    ping(chain.host, "-c", "1", FAR)  # the way is known
    with (
        chain.far.call(capture) as far,
        chain.host.call(inject) as host,
    ):
        for packet in train:
            host.sendto(packet, (FAR, 0))
        arrived: list[bytes] = []
        while len(arrived) < len(train):
            packet, where = far.recvfrom(70_000)
            if where[2] != socket.PACKET_OUTGOING and packet[16:20] == socket.inet_aton(FAR) and packet[22:24] == PORT.to_bytes(2, "big"):
                arrived.append(packet)
    for protocol in (socket.IPPROTO_TCP, socket.IPPROTO_UDP):
        wanted = [without_hops(packet) for packet in train if packet[9] == protocol]
        assert wanted == [without_hops(packet) for packet in arrived if packet[9] == protocol]


def test_host_mode_reaches_the_overlay_address_of_the_other_gateway(chain: Chain) -> None:
    address = str(chain.status(chain.gamma)["addresses"][-1]).partition("/")[0]
    assert "2 received" in ping(chain.alpha, "-c", "2", address)


@pytest.mark.parametrize(("address", "words"), [(FAR, r"[Ff]rag.* needed.*mtu ?= ?1280"), (FAR6, r"too big: mtu=1280")])
def test_a_packet_beyond_the_mtu_is_answered_with_the_mtu(chain: Chain, address: str, words: str) -> None:
    """By the kernel, which knows the interface's MTU; and by the gateway, when somebody raised that."""
    for mtu in ("1280", "1500"):
        chain.alpha.ip("link", "set", "srwan0", "mtu", mtu)
        for namespace in (chain.host, chain.alpha):
            for family in ("-4", "-6"):
                namespace.ip(family, "route", "flush", "cache")
        before = int(chain.status(chain.alpha)["icmp_sent"])
        assert re.search(words, ping(chain.host, "-c", "1", "-M", "do", "-s", "1400", address))
        assert (mtu == "1500") == (int(chain.status(chain.alpha)["icmp_sent"]) > before)
    chain.alpha.ip("link", "set", "srwan0", "mtu", "1280")


def test_a_long_ipv4_packet_without_df_arrives_in_fragments(chain: Chain) -> None:
    assert "2 received" in ping(chain.host, "-c", "2", "-M", "dont", "-s", "4000", FAR)


def test_a_source_that_is_not_announced_is_refused_and_told(chain: Chain) -> None:
    chain.host.ip("addr", "add", "10.99.0.1/32", "dev", "lo")
    chain.alpha.ip("route", "add", "10.99.0.1/32", "via", HOST)
    assert "filtered" in ping(chain.host, "-c", "1", "-I", "10.99.0.1", FAR)
    assert chain.status(chain.alpha)["to_peers"]["dropped"]["ip-source"] >= 1


def test_what_is_not_routed_never_enters_the_tun(chain: Chain) -> None:
    before = chain.status(chain.alpha)["to_peers"]["packets"]
    assert "1 received" in ping(chain.alpha, "-c", "1", chain.gamma.ports[0].ipv4)
    assert before == chain.status(chain.alpha)["to_peers"]["packets"]


def test_the_status_says_who_reads_the_tun(chain: Chain) -> None:
    for namespace in (chain.alpha, chain.gamma):
        word = "native" if chain.planes[namespace.short] == "native" else "python"
        assert chain.status(namespace)["plane"].startswith(f"{word}: ")


def test_the_status_says_what_the_gateway_did(chain: Chain) -> None:
    text = subprocess.run([*SRWAN, "status", "--state-dir", str(chain.folder / "alpha")], capture_output=True, text=True, check=True).stdout
    assert re.search(r"tun +srwan0 is up, MTU 1280, fd[0-9a-f:]+::1/128", text)
    assert re.search(r"to peers +\d{3,} packets, \d{6,} octets", text)
    assert "10.71.60.0/24 behind gamma: ready" in text
    assert re.search(r"path +to gamma, normal: direct: ", text)
    (back,) = chain.status(chain.gamma)["paths"]
    assert ("alpha", "normal", "via relay") == (back["peer"], back["class"], back["path"].partition(":")[0])


def test_a_killed_router_leaves_no_interface_and_a_stopped_one_no_routes(chain: Chain) -> None:
    """The last one here: the chain is broken then."""
    for namespace, number, status in ((chain.gamma, signal.SIGKILL, -9), (chain.alpha, signal.SIGTERM, 0)):
        assert "srwan0" in namespace.ip("link")
        assert "srwan0" in namespace.ip("route")
        (program,) = namespace.programs
        program.send_signal(number)
        assert status == program.wait(30)
        assert "srwan0" not in namespace.ip("link")
        for family in ("-4", "-6"):
            assert "srwan0" not in namespace.ip(family, "route", "show", "table", "all")


# --- what cannot be opened -------------------------------------------------------------------------------------------


def test_a_taken_name_or_route_is_refused_with_a_remedy_and_nothing_stays() -> None:
    def open_twice(config: TunConfig) -> list[str]:
        said = []
        with open_tun(make_config(tun={"enabled": True}).tun, OVERLAY) as device:
            assert "srwan0" == device.name
            for tun in (make_config(tun={"enabled": True}).tun, config):
                try:
                    with open_tun(tun, OVERLAY):
                        said.append("opened")
                except ConfigError as error:
                    said.append(str(error))
        return said

    with Lab("tunopen") as lab:
        namespace = lab.add("here")
        namespace.ip("link", "add", "v0", "type", "veth", "peer", "name", "v1")
        namespace.ip("link", "set", "v0", "up")
        namespace.ip("addr", "add", "10.2.0.1/16", "dev", "v0")
        config = make_config(tun={"enabled": True, "name": "srwan1", "routes": ["10.2.0.0/16=a"]}).tun
        name, route = namespace.call(lambda: open_twice(config))
        assert "interface srwan0 already" in name
        assert "10.2.0.0/16 is routed elsewhere" in route
        assert "srwan" not in namespace.ip("link")


def test_routes_follow_what_is_asked_and_own_packets_get_a_source_that_the_far_side_takes() -> None:
    def look(namespace: Namespace) -> list[object]:
        found: list[object] = []
        config = make_config(tun={"enabled": True, "announce": ["10.1.0.0/16"], "routes": ["10.2.0.0/16=a", "fd02::/64=a"]}).tun
        with open_tun(config, OVERLAY) as device:
            found.append(sorted(map(str, device.routes)))
            found.append([device.leads_here(address) for address in ("10.2.0.1", "fd02::1", "127.0.0.1", "192.0.2.1")])
            found.append("src 10.1.0.1" in namespace.ip("route", "get", "10.2.0.1"))
            found.append("src fd00::1" in namespace.ip("route", "get", "fd02::1"))
            found.append(device.set_routes([ipaddress.ip_network("10.3.0.0/16")]))
            found.append(namespace.ip("route", "show", "dev", "srwan0", "proto", "213").split()[0])
        return found

    with Lab("tunroutes") as lab:
        namespace = lab.add("here")
        namespace.ip("addr", "add", "10.1.0.1/16", "dev", "lo")
        found = namespace.call(lambda: look(namespace))
    assert [["10.2.0.0/16", "fd02::/64"], [True, True, False, False], True, True, [], "10.3.0.0/16"] == found


def test_packets_pass_the_device_in_batches_both_ways() -> None:
    def move() -> tuple[list[bytes], bytes]:
        config = make_config(tun={"enabled": True, "addresses": ["10.77.0.1/24"]}).tun
        with open_tun(config, OVERLAY) as device, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.bind(("10.77.0.1", 5000))
            sender.settimeout(5)
            for number in range(5):
                sender.sendto(bytes([number]), ("10.77.0.2", 6000))
            packets = device.read()
            answer = packets[0][:12] + packets[0][16:20] + packets[0][12:16] + packets[0][22:24] + packets[0][20:22] + b"\0\x09\0\0!"
            device.write([answer, b"rubbish"])
            assert 1 == sum(device.drops.values())
            return packets, sender.recv(100)

    with Lab("tunmove") as lab:
        packets, answer = lab.add("here").call(move)
    assert [bytes([number]) for number in range(5)] == [packet[28:] for packet in packets]
    assert b"!" == answer


@pytest.mark.needs("root")
def test_without_the_right_the_remedy_names_the_capability() -> None:
    command = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"]  # root by name only
    script = "from ipaddress import *; from srwan.routing.gateway.tun import open_tun; from srwan.tun_config import TunConfig\n"
    script += "with open_tun(TunConfig(), IPv6Address('fd00::1')): pass"
    done = subprocess.run([*command, sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "CAP_NET_ADMIN" in done.stderr
