"""Settings of the TUN gateway, the `[tun]` section: which networks lie behind which node, and what peers may reach here.

A route is written "PREFIX=NODE", NODE being a node id of 64 hexadecimal digits or a name. Names are neither unique nor trusted, so a name
is bound to the first node that bears it alone, for as long as the router runs; where strangers may join, write node ids.

The checks here need no network; whether a prefix may be routed on this machine is found out when the device is opened.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any, TypeAlias

import attrs

from srwan.errors import ConfigError
from srwan.setting import Checks, checked_fields, flag_of, items_of

__all__ = ["OVERLAY_MTU_BYTES", "TUN_KEYS", "Interface", "Network", "TunConfig", "TunRoute", "make_tun_config", "parse_route"]

OVERLAY_MTU_BYTES = 1280
"""Longest packet the overlay carries: IPv6's least (RFC 8200 5), and what fits 1,500 bytes of underlay behind four segments."""
MTU_BYTES_MIN = 576
"""What every IPv4 host takes (RFC 791)."""
ROUTES_MAX = 1024
"""Configured prefixes: ten for each member of a group."""
ADDRESSES_MAX = 16
VIA_MAX = 3
"""Relays on a path: what the overlay's MTU leaves room for."""
PREFIX_BITS_MIN = 1
"""A default route would lead the router's own packets into its own tunnel."""
NAME = re.compile(r"[A-Za-z0-9_.-]{1,15}")
"""Of an interface: 15 characters are the kernel's bound (IFNAMSIZ), which also refuses "." and ".."."""
NODE = re.compile(r"[0-9a-f]{64}|[!-~]{1,32}")

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Interface: TypeAlias = ipaddress.IPv4Interface | ipaddress.IPv6Interface


@attrs.frozen(slots=True)
class TunRoute:
    """A network and the node behind which it lies."""

    prefix: Network
    node: str
    """Node id in hexadecimal, or a name."""

    def __str__(self) -> str:
        return f"{self.prefix}={self.node}"


@attrs.frozen(slots=True, kw_only=True)
class TunConfig:
    """Settings of the TUN gateway. Make one with `srwan.config.make_config` or `load_config`, which check it."""

    is_enabled: bool = False
    """tun.enabled: open the device."""
    name: str = "srwan0"
    """tun.name: of the interface, 1..15 characters."""
    addresses: tuple[Interface, ...] = ()
    """tun.addresses: of the interface, with prefix length, besides the overlay address that follows from the node id."""
    routes: tuple[TunRoute, ...] = ()
    """tun.routes: where prefixes lie, and from which prefixes a node may send."""
    announce: tuple[Network, ...] = ()
    """tun.announce: networks behind this router that peers may reach, besides its own addresses."""
    is_host: bool = False
    """tun.host: exchange packets with the overlay address of every member, not only with the routes."""
    via: tuple[str, ...] = ()
    """tun.via: relays (ids or names) that all packets visit, in this order, 0..3; direct while they do not answer. Empty: as measured."""
    mtu_bytes: int = OVERLAY_MTU_BYTES
    """tun.mtu: longest packet, 576..1280 bytes; IPv6 needs 1280."""
    is_mss_clamped: bool = True
    """tun.mss_clamp: lower the MSS of TCP connections to what fits, rather than to rely on path MTU discovery."""


def parse_route(text: str) -> TunRoute:
    """Return the route in "10.2.0.0/16=paris".

    Raises:
        ValueError: not PREFIX=NODE, host bits set, or no usable name. Says what is wrong.
    """
    prefix, separator, node = text.partition("=")
    if not separator or not NODE.fullmatch(node):
        raise ValueError(f"{text!r} is not PREFIX=NODE")
    return TunRoute(ipaddress.ip_network(prefix.strip()), node)


def make_tun_config(values: Mapping[str, Any]) -> TunConfig:
    """Check the values of a `[tun]` section, keys without "tun.".

    Raises:
        ConfigError: a value out of its range, or two that contradict each other. Unknown keys are the caller's to refuse.
    """
    config = TunConfig(**checked_fields("tun", values, _FIELDS))
    has_ipv6 = [
        str(each) for each in (*config.addresses, *config.announce, *(route.prefix for route in config.routes)) if each.version == 6
    ]
    if config.mtu_bytes < OVERLAY_MTU_BYTES and (has_ipv6 or config.is_host):
        what = has_ipv6[0] if has_ipv6 else "tun.host"
        raise ConfigError("tun.mtu", f"{config.mtu_bytes} is too little for IPv6 ({what})", f"leave it at {OVERLAY_MTU_BYTES}")
    seen: set[Network] = set()
    for route in config.routes:
        if route.prefix in seen:
            raise ConfigError("tun.routes", f"{route.prefix} is given twice", "a prefix lies behind one node")
        seen.add(route.prefix)
    both = next((network for network in config.announce if network in seen), None)
    if both is not None:
        raise ConfigError("tun.announce", f"{both} is also in tun.routes", "a prefix lies here or behind another node")
    return config


def _name(key: str, value: Any) -> str:
    if not isinstance(value, str) or not NAME.fullmatch(value) or value in (".", ".."):
        raise ConfigError(key, f"{value!r} is not usable", "give 1..15 letters, digits, or _ . -")
    return value


def _mtu(key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not MTU_BYTES_MIN <= value <= OVERLAY_MTU_BYTES:
        raise ConfigError(key, f"{value!r} is out of range", f"give a number in {MTU_BYTES_MIN}..{OVERLAY_MTU_BYTES}")
    return value


def _addresses(key: str, value: Any) -> tuple[Interface, ...]:
    made = []
    for item in items_of(key, value, ADDRESSES_MAX):
        try:
            interface = ipaddress.ip_interface(item)
        except ValueError:
            raise ConfigError(key, f"{item!r} is not usable", 'give addresses with prefix length, like "10.77.0.1/24"') from None
        if interface.ip.is_multicast or interface.ip.is_unspecified or interface.ip.is_loopback:
            raise ConfigError(key, f"{item!r} is not usable", "give a unicast address")
        made.append(interface)
    return tuple(made)


def _networks(key: str, value: Any) -> tuple[Network, ...]:
    made: list[Network] = []
    for item in items_of(key, value, ROUTES_MAX):
        try:
            made.append(ipaddress.ip_network(item))
        except ValueError as error:
            raise ConfigError(key, f"{item!r} is not usable ({error})", 'give networks like "10.1.0.0/16" without host bits') from None
    _check_networks(key, made)
    return tuple(made)


def _routes(key: str, value: Any) -> tuple[TunRoute, ...]:
    made: list[TunRoute] = []
    for item in items_of(key, value, ROUTES_MAX):
        try:
            made.append(item if isinstance(item, TunRoute) else parse_route(item if isinstance(item, str) else repr(item)))
        except ValueError as error:
            raise ConfigError(key, f"{item!r} is not usable ({error})", 'give "PREFIX=NODE", like "10.2.0.0/16=paris"') from None
    _check_networks(key, [route.prefix for route in made])
    return tuple(made)


def _via(key: str, value: Any) -> tuple[str, ...]:
    nodes = items_of(key, value, VIA_MAX)
    if not all(isinstance(node, str) and NODE.fullmatch(node) for node in nodes) or len(set(nodes)) != len(nodes):
        raise ConfigError(key, f"{value!r} is not usable", f"give up to {VIA_MAX} different node ids or names")
    return tuple(nodes)


def _check_networks(key: str, networks: list[Network]) -> None:
    for network in networks:
        if network.prefixlen < PREFIX_BITS_MIN:
            raise ConfigError(key, f"{network} is everything", "name the networks; the Internet is not reached through a TUN route")
        if network.is_multicast or network.is_loopback or network.is_link_local:
            raise ConfigError(key, f"{network} cannot be routed", "give unicast networks")


_FIELDS: Checks = {
    "enabled": ("is_enabled", flag_of),
    "name": ("name", _name),
    "addresses": ("addresses", _addresses),
    "routes": ("routes", _routes),
    "announce": ("announce", _networks),
    "host": ("is_host", flag_of),
    "via": ("via", _via),
    "mtu": ("mtu_bytes", _mtu),
    "mss_clamp": ("is_mss_clamped", flag_of),
}
TUN_KEYS = tuple(f"tun.{key}" for key in _FIELDS)
"""Keys of the section, dotted."""
