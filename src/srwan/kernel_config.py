"""Settings of the kernel data plane: the `[kernel]` section of a configuration, checked.

Whom the kernel may exchange native SRv6 with is said here and nowhere else: a member's announcement is believed about its own
measurements, not about being on a network whose packets carry no authentication of ours. So a network of kernel routers is
configured, peer by peer, for now.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs

from srwan.errors import ConfigError
from srwan.setting import flag_of
from srwan.types import NodeId

__all__ = ["KERNEL_KEYS", "Circuit", "Delivery", "HmacKey", "KernelPeer", "KernelSettings", "kernel_settings", "read_hmac_key"]

ITEMS_MAX = 256
"""Entries of a list in the section: more than two groups' worth of peers."""
INTERFACE_NAME_MAX = 15
"""Characters of a Linux interface name."""
HMAC_SECRET_BYTES_MAX = 64
"""The kernel's bound of a secret (SEG6_HMAC_SECRET_LEN), bytes."""
HMAC_SECRET_BYTES_MIN = 16
"""Below this a secret could be guessed, bytes."""
CIRCUIT_MAX = (1 << 64) - 1
KEY_ID_MAX = 0xFFFF
_ACTIONS = {"dt6": "End.DT6", "dx4": "End.DX4", "dx6": "End.DX6"}


@attrs.frozen(slots=True)
class Delivery:
    """What an egress does with the inner packet."""

    action: str
    """"End.DT6": look it up in a table. "End.DX4", "End.DX6": send it to a next hop."""
    table: int = 0
    """Number of the table of End.DT6 (254 main, 255 addresses of the host itself); else 0."""
    next_hop: str = ""
    """Of End.DX4 and End.DX6; the unspecified address: the packet's own destination."""


@attrs.frozen(slots=True)
class KernelPeer:
    """A router on the same private network."""

    node: NodeId
    address: str
    """Its IPv6 address on the underlay."""


@attrs.frozen(slots=True)
class Circuit:
    """A prefix that this ingress carries to an egress."""

    prefix: str
    """Canonical IPv4 or IPv6 prefix."""
    egress: NodeId
    delivery: Delivery
    number: int = 0
    """What relays bill it by, 1..2**64-1; 0: not billed apart."""


@attrs.frozen(slots=True)
class HmacKey:
    """A key of the HMAC TLV (RFC 8754 section 2.1.2), shared by all routers of the network."""

    key_id: int
    """Number on the wire, 32 bits."""
    secret: bytes = attrs.field(repr=False)
    algorithm: int = 2
    """Code of the hash: 1 SHA-1, 2 SHA-256."""


@attrs.frozen(slots=True, kw_only=True)
class KernelSettings:
    """The `[kernel]` section."""

    is_enabled: bool = False
    """kernel.enabled: program the kernel; `srwan up --kernel` sets it."""
    interfaces: tuple[str, ...] = ()
    """kernel.interfaces: the private underlay, at least one where the data plane is enabled."""
    peers: tuple[KernelPeer, ...] = ()
    """kernel.peers: routers whose kernel executes our SIDs, "NODE_ID@IPV6_ADDRESS"."""
    borders: tuple[KernelPeer, ...] = ()
    """kernel.borders: user-space routers on the same network that speak native SRv6, written as peers are."""
    deliver: tuple[Delivery, ...] = ()
    """kernel.deliver: what this egress does for others, "dt6:254", "dx4:10.0.0.1", "dx6:fd00::1". Empty: nothing."""
    routes: tuple[Circuit, ...] = ()
    """kernel.routes: what this ingress carries, "PREFIX NODE_ID DELIVERY [CIRCUIT]"."""
    bills: tuple[tuple[NodeId, int], ...] = ()
    """kernel.bills: what this relay counts apart, "UPSTREAM_NODE_ID CIRCUIT"."""
    is_native: bool = False
    """kernel.native: this user-space router takes and sends native SRv6 itself, through a TUN."""
    hmac_key_file: Path | None = None
    """kernel.hmac_key_file: "ID SECRET_IN_HEX". None: no HMAC."""
    is_hmac_required: bool = False
    """kernel.require_hmac: drop segment headers without a right HMAC; then a kernel that refuses keys is an error."""


def _bad(key: str, value: Any, remedy: str) -> ConfigError:
    return ConfigError(key, f"{value!r} is not usable", remedy)


def _items(key: str, value: Any) -> list[str]:
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)) or len(items) > ITEMS_MAX or not all(isinstance(item, str) for item in items):
        raise _bad(key, value, f"give a list of up to {ITEMS_MAX} strings")
    return list(items)


def _node(text: str) -> NodeId:
    return NodeId(bytes.fromhex(text))


def _interface(text: str) -> str:
    if not 1 <= len(text) <= INTERFACE_NAME_MAX or "/" in text or not text.isprintable() or " " in text or text in {".", "..", "lo", "all"}:
        raise ValueError(text)
    return text


def _peer(text: str) -> KernelPeer:
    node, separator, address = text.partition("@")
    if not separator:
        raise ValueError(text)
    return KernelPeer(_node(node), str(ipaddress.IPv6Address(address)))


def _delivery(text: str) -> Delivery:
    kind, _, argument = text.partition(":")
    action = _ACTIONS[kind]
    if action == "End.DT6":
        if not argument.isdecimal() or not 1 <= int(argument) < 1 << 32:
            raise ValueError(text)
        return Delivery(action, table=int(argument))
    address = ipaddress.ip_address(argument)
    if address.version != (4 if action == "End.DX4" else 6):
        raise ValueError(text)
    return Delivery(action, next_hop=str(address))


def _number(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= CIRCUIT_MAX:
        raise ValueError(text)
    return int(text)


def _circuit(text: str) -> Circuit:
    words = text.split()
    if len(words) not in {3, 4}:
        raise ValueError(text)
    network = ipaddress.ip_network(words[0])
    delivery = _delivery(words[2])
    if (network.version == 4) != (delivery.action == "End.DX4"):
        raise ValueError(text)
    return Circuit(str(network), _node(words[1]), delivery, _number(words[3]) if len(words) == 4 else 0)


def _bill(text: str) -> tuple[NodeId, int]:
    upstream, circuit = text.split()
    return _node(upstream), _number(circuit)


def _list_of(read: Callable[[str], Any], remedy: str) -> Callable[[str, Any], Any]:
    def check(key: str, value: Any) -> Any:
        found: list[Any] = []
        for item in _items(key, value):
            try:
                found.append(read(item))
            except (ValueError, KeyError):
                raise _bad(key, item, remedy) from None
        if len(set(found)) != len(found):
            raise _bad(key, value, "name nothing twice")
        return tuple(found)

    return check


def _file(key: str, value: Any) -> Path:
    if not isinstance(value, (str, Path)) or not str(value) or "\x00" in str(value):
        raise _bad(key, value, "give a path")
    return Path(value).expanduser()


_PEER_REMEDY = 'give "NODE_ID@IPV6_ADDRESS" with the 64 hexadecimal digits of a node id'
_FIELDS: dict[str, tuple[str, Callable[[str, Any], Any]]] = {
    "kernel.enabled": ("is_enabled", flag_of),
    "kernel.interfaces": ("interfaces", _list_of(_interface, "give names of network interfaces, not lo")),
    "kernel.peers": ("peers", _list_of(_peer, _PEER_REMEDY)),
    "kernel.borders": ("borders", _list_of(_peer, _PEER_REMEDY)),
    "kernel.deliver": ("deliver", _list_of(_delivery, 'give "dt6:TABLE", "dx4:IPV4_ADDRESS" or "dx6:IPV6_ADDRESS"')),
    "kernel.routes": ("routes", _list_of(_circuit, 'give "PREFIX NODE_ID DELIVERY [CIRCUIT]"; IPv4 is delivered by dx4')),
    "kernel.bills": ("bills", _list_of(_bill, 'give "UPSTREAM_NODE_ID CIRCUIT"')),
    "kernel.native": ("is_native", flag_of),
    "kernel.hmac_key_file": ("hmac_key_file", _file),
    "kernel.require_hmac": ("is_hmac_required", flag_of),
}
KERNEL_KEYS = tuple(_FIELDS)
"""Keys of the section, dotted."""


def kernel_settings(values: Mapping[str, Any]) -> KernelSettings:
    """Check the section.

    Args:
        values: by dotted key, a subset of KERNEL_KEYS.

    Raises:
        ConfigError: a value is not usable, a node is both peer and border, a prefix is routed twice, or HMAC is required without a key.
    """
    fields: dict[str, Any] = {}
    for key, value in values.items():
        field, check = _FIELDS[key]
        fields[field] = check(key, value)
    settings = KernelSettings(**fields)
    nodes = [peer.node for peer in (*settings.peers, *settings.borders)]
    if len(set(nodes)) != len(nodes):
        raise ConfigError("kernel.borders", "a node is named twice among peers and borders", "a router is one of the two")
    prefixes = [circuit.prefix for circuit in settings.routes]
    if len(set(prefixes)) != len(prefixes):
        raise ConfigError("kernel.routes", "a prefix is routed twice", "give each prefix one egress")
    if settings.is_hmac_required and settings.hmac_key_file is None:
        raise ConfigError("kernel.require_hmac", "is set without a key", "set kernel.hmac_key_file")
    return settings


def read_hmac_key(path: Path, id_base: int) -> HmacKey:
    """Return the key in a file: its id 1..65535 and its secret of 16..64 bytes in hexadecimal.

    Raises:
        ConfigError: the file cannot be read or holds something else. The secret is in no message.
    """
    try:
        words = path.read_text("ascii").split()
        key_id, secret = int(words[0]), bytes.fromhex(words[1])
        if len(words) != 2 or not 1 <= key_id <= KEY_ID_MAX or not HMAC_SECRET_BYTES_MIN <= len(secret) <= HMAC_SECRET_BYTES_MAX:
            raise ValueError
    except OSError as error:
        raise ConfigError("kernel.hmac_key_file", f"{path} cannot be read ({error.strerror})", "check the path and its owner") from None
    except (ValueError, IndexError):
        raise ConfigError("kernel.hmac_key_file", f"{path} holds no key", 'write one line "ID SECRET_IN_HEX", id 1..65535') from None
    return HmacKey(id_base + key_id, secret)
