"""A TUN interface of Linux: packets that the kernel routes into it are read here, and what is written here the kernel takes as received.

A shell, without any rule about packets (`gateway.py`). `read` drains up to 64 packets and never waits, `write` never waits: what the
kernel does not take is dropped and counted. Interface, addresses and routes live as long as the open descriptor, so nothing is left
behind however the process ends.

No packet information header (IFF_NO_PI), no offload: one system call a packet, 1.4 us each way. IPv6 addresses of its own the interface
gets none (addr_gen_mode), so it carries nothing but what is routed into it.

Source: Linux Documentation/networking/tuntap.rst, netdevice(7), rtnetlink(7).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import ipaddress
import logging
import os
import struct
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import trio

from srwan.errors import ConfigError
from srwan.routing.gateway.routes import Network
from srwan.tun_config import OVERLAY_MTU_BYTES, Interface, TunConfig

__all__ = ["TunDevice", "open_tun"]

log = logging.getLogger("srwan.routing")

PACKETS_PER_BATCH_MAX = 64
"""Packets read per wake-up, as datagrams in `overlay.udp`: 0.1 ms of system calls."""
READ_BYTES = 4096
"""Longer packets are cut off and then dropped for their length; the interface's MTU is at most 1,280."""
QUEUE_PACKETS = 1000
"""Packets that wait in the kernel while this process is not scheduled: 10 ms at 100,000 packets a second."""
DEVICE = "/dev/net/tun"
ROUTE_PROTOCOL = 213
"""Origin of the routes, as `ip route` shows it; none of those that iproute2 names."""

_TUNSETIFF = 0x400454CA
_TUNSETOFFLOAD = 0x400454D0
_TUNGETFEATURES = 0x800454CF
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR, _IFF_TUN_EXCL = 0x0001, 0x1000, 0x4000, 0x8000
_OFFLOAD_TCP = 0x01 | 0x02 | 0x04  # TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6
_OFFLOAD_UDP = 0x20 | 0x40  # TUN_F_USO4, TUN_F_USO6
_NO_HEADER = bytes(10)
"""A virtio_net_hdr that says nothing."""
_IFREQ = struct.Struct("16sH22x")
_NODAD = 0x02
_FAMILIES = {4: 2, 6: 10}
_RIGHTS = "run as root, give the capability CAP_NET_ADMIN (AmbientCapabilities in systemd, setcap), or try it inside `unshare -Urnm`"
_REMEDIES = {
    errno.ENOENT: ("there is no such device", "load it with `modprobe tun`; a container needs `--device /dev/net/tun`"),
    errno.ENODEV: ("the kernel has no TUN driver", "load it with `modprobe tun`"),
    errno.ENXIO: ("the kernel has no TUN driver", "load it with `modprobe tun`"),
    errno.EACCES: ("not permitted", _RIGHTS),
    errno.EPERM: ("not permitted", _RIGHTS),
}


@attrs.frozen(slots=True)
class TunOffload:
    """What the kernel leaves to who reads the interface."""

    is_on: bool
    """IFF_VNET_HDR, with checksums and TCP segmentation."""
    has_udp: bool
    """UDP segmentation, too (Linux 6.2)."""
    problem: str
    """Why it is off although it was wanted."""


class TunDevice:
    """An open TUN interface. Made by `open_tun`.

    Args:
        descriptor: of the device, non-blocking, attached; owned from now on.
        name: of the interface.
        netlink: pyroute2.IPRoute, owned from now on.
        index: of the interface.
        offload: what the kernel leaves to us, as `open_tun` found.
    """

    def __init__(self, descriptor: int, name: str, netlink: Any, index: int, offload: TunOffload | None = None) -> None:
        self.name = name
        self.offload = offload or TunOffload(is_on=False, has_udp=False, problem="")
        """Whether packets have a header (virtio_net_hdr) and may be large. `read` is not to be called then."""
        self.drops: Counter[str] = Counter()
        """Packets that the kernel did not take, by errno name."""
        self._descriptor = descriptor
        self._netlink = netlink
        self._index = index
        self._routes: dict[Network, None] = {}
        self._sources: dict[int, str] = {}
        """By IP version, the address that this host's own packets are to have, so that the far gateway takes them."""

    @property
    def descriptor(self) -> int:
        """Of the device; it stays ours."""
        return self._descriptor

    @property
    def routes(self) -> tuple[Network, ...]:
        """What the kernel routes into the interface."""
        return tuple(self._routes)

    async def wait_readable(self) -> None:
        """Wait until there is a packet, or the interface is gone."""
        await trio.lowlevel.wait_readable(self._descriptor)

    def read(self) -> list[bytes]:
        """Return the packets that wait, 0 to 64 of them.

        Raises:
            OSError: the interface is gone.

        Cost: 1.4 us a packet.
        """
        packets: list[bytes] = []
        read, descriptor = os.read, self._descriptor
        try:
            for _ in range(PACKETS_PER_BATCH_MAX):
                packets.append(read(descriptor, READ_BYTES))  # noqa: PERF401 - what was read before the queue ran empty is kept
        except BlockingIOError:
            pass
        return packets

    def write(self, packets: Iterable[bytes]) -> None:
        """Give packets to the kernel. Never waits, never raises. Cost: 1.4 us a packet, and what the kernel does with it."""
        write, descriptor, header = os.write, self._descriptor, _NO_HEADER if self.offload.is_on else b""
        for packet in packets:
            try:
                write(descriptor, header + packet)
            except OSError as error:
                self.drops[errno.errorcode.get(error.errno or 0, "OSError")] += 1

    def set_routes(self, networks: Sequence[Network]) -> list[tuple[Network, str]]:
        """Make the kernel route exactly these networks into the interface, and return those it refused with the reason.

        Cost: 0.3 ms a route that is new or gone.
        """
        from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415 - 0.3 s of imports, for who has a TUN

        refused: list[tuple[Network, str]] = []
        wanted = dict.fromkeys(networks)
        changes = [("del", each) for each in self._routes if each not in wanted] + [
            ("add", each) for each in wanted if each not in self._routes
        ]
        for command, network in changes:
            source = {"prefsrc": self._sources[network.version]} if network.version in self._sources else {}
            family = _FAMILIES[network.version]
            try:
                self._netlink.route(command, dst=str(network), oif=self._index, family=family, proto=ROUTE_PROTOCOL, **source)
            except NetlinkError as error:
                if command == "add":
                    refused.append((network, "is routed elsewhere" if error.code == errno.EEXIST else str(error.args[-1])))
                    continue
            if command == "add":
                self._routes[network] = None
            else:
                del self._routes[network]
        return refused

    def leads_here(self, address: str) -> bool:
        """Say whether the kernel would send a packet to an address into the interface. Cost: 0.3 ms."""
        from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415

        try:
            (answer,) = self._netlink.route("get", dst=address, family=_FAMILIES[ipaddress.ip_address(address).version])
        except NetlinkError:  # unreachable
            return False
        return bool(answer.get_attr("RTA_OIF") == self._index)

    def close(self) -> None:
        """Close: interface, addresses and routes are gone. Nobody may wait any more; closing again does nothing."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)
            self._netlink.close()


@contextmanager
def open_tun(config: TunConfig, overlay_address: ipaddress.IPv6Address, *, wants_offload: bool = False) -> Iterator[TunDevice]:
    """Make a TUN interface for the duration of the block: up, with addresses, MTU and the configured routes.

    Args:
        config: the settings.
        overlay_address: of this node.
        wants_offload: have the kernel give large packets with headers, for a data plane that reads them; without it if the kernel refuses.

    Raises:
        ConfigError: no Linux, no device, no right, the name is taken, or an address or route is refused. Nothing is left behind.
    """
    if sys.platform != "linux":
        raise ConfigError("tun", f"there is no TUN gateway for {sys.platform}", "run it on Linux, or use paths through the API")
    descriptor, offload = _attach(config.name, wants_offload=wants_offload)
    try:
        from pyroute2 import IPRoute  # noqa: PLC0415 - 0.3 s of imports, for who has a TUN

        netlink: Any = IPRoute()
    except BaseException:
        os.close(descriptor)
        raise
    device: TunDevice | None = None
    try:
        device = TunDevice(descriptor, config.name, netlink, netlink.link_lookup(ifname=config.name)[0], offload)
        _configure(netlink, device, config, overlay_address)
        yield device
    finally:
        if device is not None:
            device.close()
        else:
            os.close(descriptor)
            netlink.close()


def _attach(name: str, *, wants_offload: bool) -> tuple[int, TunOffload]:
    """Open the device and make the interface, with offload if that is wanted and possible."""
    if not wants_offload:
        return _open_device(name, 0), TunOffload(is_on=False, has_udp=False, problem="")
    problem = "the kernel's TUN has no IFF_VNET_HDR"
    if _has_vnet_header():
        descriptor = _open_device(name, _IFF_VNET_HDR)
        for flags in (_OFFLOAD_TCP | _OFFLOAD_UDP, _OFFLOAD_TCP):
            try:
                fcntl.ioctl(descriptor, _TUNSETOFFLOAD, flags)
            except OSError as error:
                problem = f"the kernel refuses offload on the TUN ({error.strerror})"
            else:
                return descriptor, TunOffload(is_on=True, has_udp=flags != _OFFLOAD_TCP, problem="")
        os.close(descriptor)
    return _open_device(name, 0), TunOffload(is_on=False, has_udp=False, problem=problem)


def _has_vnet_header() -> bool:
    """Ask the driver; False also if it cannot be asked, and then opening says why."""
    try:
        descriptor = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        (features,) = struct.unpack("I", fcntl.ioctl(descriptor, _TUNGETFEATURES, bytes(4)))
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return bool(features & _IFF_VNET_HDR)


def _open_device(name: str, more_flags: int) -> int:
    try:
        descriptor = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        problem, remedy = _REMEDIES.get(error.errno or 0, (error.strerror or "cannot be opened", "check it"))
        raise ConfigError(DEVICE, problem, remedy) from None
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, _IFREQ.pack(name.encode(), _IFF_TUN | _IFF_NO_PI | _IFF_TUN_EXCL | more_flags))
    except OSError as error:
        os.close(descriptor)
        if error.errno in (errno.EBUSY, errno.EINVAL, errno.EEXIST):
            raise ConfigError("tun.name", f"there is an interface {name} already", "choose another name, or remove that one") from None
        problem, remedy = _REMEDIES.get(error.errno or 0, (error.strerror or "cannot be made", "check the settings of [tun]"))
        raise ConfigError("tun.name", f"interface {name}: {problem}", remedy) from None
    return descriptor


def _configure(netlink: Any, device: TunDevice, config: TunConfig, overlay_address: ipaddress.IPv6Address) -> None:
    from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415

    index = device._index
    with contextlib.suppress(OSError):  # no IPv6 here, or /proc is read-only: some multicast more to drop
        Path(f"/proc/sys/net/ipv6/conf/{config.name}/addr_gen_mode").write_text("1", "ascii")
    netlink.link("set", index=index, mtu=config.mtu_bytes, txqlen=QUEUE_PACKETS, state="up")
    for interface in config.addresses:
        try:
            _add_address(netlink, index, interface)
        except NetlinkError as error:
            raise ConfigError("tun.addresses", f"{interface} was refused ({error.args[-1]})", "check it against `ip address`") from None
    if config.mtu_bytes >= OVERLAY_MTU_BYTES:
        try:
            _add_address(netlink, index, ipaddress.ip_interface(overlay_address))
        except NetlinkError as error:
            log.warning("%s does without its overlay address %s (%s); is IPv6 switched off?", config.name, overlay_address, error.args[-1])
    device._sources = _own_sources(netlink, config)
    refused = device.set_routes([route.prefix for route in config.routes])
    if refused:
        network, why = refused[0]
        raise ConfigError("tun.routes", f"{network} {why}", "see `ip route`; remove the other route, or take the prefix out")


def _add_address(netlink: Any, index: int, interface: Interface) -> None:
    flags = {"flags": _NODAD} if interface.version == 6 else {}
    netlink.addr("add", index=index, address=str(interface.ip), prefixlen=interface.network.prefixlen, **flags)


def _own_sources(netlink: Any, config: TunConfig) -> dict[int, str]:
    """Return for each IP version an address of this host that the far side takes: the interface's, or one in an announced network.

    Without one of either kind the kernel chooses: for IPv6 the overlay address.
    """
    sources: dict[int, str] = {interface.version: str(interface.ip) for interface in reversed(config.addresses)}
    local = [ipaddress.ip_address(entry.get_attr("IFA_ADDRESS")) for entry in netlink.get_addr() if entry.get_attr("IFA_ADDRESS")]
    for address in local:
        if address.version not in sources and any(address in network for network in config.announce):
            sources[address.version] = str(address)
    return sources
