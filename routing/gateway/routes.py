"""Longest-prefix routes: which node a network lies behind. A core.

One table answers two questions, as WireGuard's cryptokey routing does: to which node a packet goes (by its destination), and whether a
node may send a packet (by its source: the longest prefix that covers it must be that node's). So nobody can speak for a network that is
not configured to lie behind it, however it got the packet here.

A lookup tries the prefix lengths that occur, longest first; a table of a site has a handful.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Generic, TypeAlias, TypeVar

from srwan.routing.sid import locator_of
from srwan.types import NodeId

__all__ = ["Network", "PrefixTable", "overlay_address"]

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Value = TypeVar("Value")

_HOST_PART = bytes(7) + b"\x01"


def overlay_address(node_id: NodeId) -> ipaddress.IPv6Address:
    """Return the IPv6 address that a node has in the overlay: `locator::1`, function 0 of its SIDs, which is no function."""
    return ipaddress.IPv6Address(locator_of(node_id) + _HOST_PART)


class PrefixTable(Generic[Value]):
    """Values by prefix, found by the longest one that covers an address.

    Args:
        entries: of two with the same prefix the later one counts.
    """

    def __init__(self, entries: Iterable[tuple[Network, Value]] = ()) -> None:
        by_bits: dict[tuple[int, int], dict[int, Value]] = {}
        for network, value in entries:
            shift = network.max_prefixlen - network.prefixlen
            address_bytes = network.max_prefixlen // 8
            by_bits.setdefault((address_bytes, shift), {})[int(network.network_address) >> shift] = value
        self._tables: dict[int, list[tuple[int, dict[int, Value]]]] = {4: [], 16: []}
        for (address_bytes, shift), table in sorted(by_bits.items(), key=lambda item: item[0]):
            self._tables[address_bytes].append((shift, table))

    def find(self, address: bytes) -> Value | None:
        """Return the value of the longest prefix that covers an address of 4 or 16 bytes, or None. Cost: 0.3 us a prefix length."""
        number = int.from_bytes(address, "big")
        for shift, table in self._tables[len(address)]:
            value = table.get(number >> shift)
            if value is not None:
                return value
        return None
