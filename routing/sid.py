"""Segment identifiers: 128 bits that name a node and what it shall do with a packet (RFC 8986 section 3).

A SID is `locator (64) | function (16) | argument (48)`, in network byte order, and is a valid IPv6 address out of the unique local
range fd00::/8 (RFC 4193), so that the Linux kernel can own the same SIDs as the user-space router. The locator derives from the NodeId
alone: whoever knows a member knows its SIDs, and nothing has to be assigned. It is too short to prove who owns it (56 bits), so it only
ever selects among members whose full ids are known; proof is in the session keys.

Not here: what the functions do (`relay.py`, `egress.py`), the list of segments (`srh.py`).
"""

from __future__ import annotations

import enum
import functools
import hashlib
import ipaddress
from typing import Self

from srwan.types import NodeId

__all__ = ["LOCATOR_BYTES", "SID_BYTES", "Function", "Sid", "locator_of", "path_segments"]

SID_BYTES = 16
LOCATOR_BYTES = 8
ARGUMENT_MAX = (1 << 48) - 1
LOCATORS_KEPT = 4096
"""Locators remembered, a pure function's; some groups' worth of nodes."""
PATHS_KEPT = 4096
"""Segment lists remembered: 100 destinations with some paths each."""
_LOCATOR_DOMAIN = b"srwan/locator/1"
_LOCATOR_PREFIX = b"\xfd"


class Function(enum.IntEnum):
    """What the node named by the locator does. Values are wire format.

    The first four equal the IANA code points of the SRv6 endpoint behaviours (RFC 8986 section 10.2). The function bits of a SID belong
    to the node that owns the locator (section 3.1), so our own two cannot collide with anybody's.
    """

    END = 1
    """Go on to the next segment."""
    END_DX6 = 16
    """Decapsulate and cross-connect an IPv6 packet."""
    END_DX4 = 17
    """Decapsulate and cross-connect an IPv4 packet."""
    END_DT6 = 18
    """Decapsulate and look an IPv6 packet up in a table."""
    END_APP = 0xFF01
    """Deliver to the application on this node."""
    END_STREAM = 0xFF02
    """Deliver to the stream layer on this node."""


class Sid(bytes):
    """A segment identifier: 16 bytes, as on the wire. Compares, hashes and packs as plain bytes.

    Raises:
        ValueError: not 16 bytes.
    """

    __slots__ = ()

    def __new__(cls, value: bytes) -> Self:
        """Check the length."""
        if len(value) != SID_BYTES:
            raise ValueError(f"a Sid has {SID_BYTES} bytes, not {len(value)}")
        return super().__new__(cls, value)

    @classmethod
    def of(cls, node_id: NodeId, function: Function, argument: int = 0) -> Sid:
        """Return the SID of `function` at a node.

        Args:
            node_id: who executes it.
            function: what it does.
            argument: 48 bits that mean what the function says; 0 for END.

        Raises:
            ValueError: the argument does not fit 48 bits.
        """
        if not 0 <= argument <= ARGUMENT_MAX:
            raise ValueError(f"a SID argument has 48 bits, {argument:#x} does not fit")
        return cls(locator_of(node_id) + function.to_bytes(2, "big") + argument.to_bytes(6, "big"))

    @classmethod
    def parse(cls, text: str) -> Sid:
        """Return the SID written as an IPv6 address.

        Raises:
            ValueError: not an IPv6 address.
        """
        return cls(ipaddress.IPv6Address(text).packed)

    @property
    def locator(self) -> bytes:
        """Which node: the first 8 bytes."""
        return self[:LOCATOR_BYTES]

    @property
    def function(self) -> int:
        """What it does: a `Function`, or another number that this version does not know. 0..65535."""
        return int.from_bytes(self[8:10], "big")

    @property
    def argument(self) -> int:
        """The function's argument, 48 bits."""
        return int.from_bytes(self[10:16], "big")

    def __str__(self) -> str:
        return str(ipaddress.IPv6Address(bytes(self)))

    def __repr__(self) -> str:
        return f"Sid({self})"


@functools.lru_cache(maxsize=LOCATORS_KEPT)
def locator_of(node_id: NodeId) -> bytes:
    """Return a node's locator, 8 bytes: the /64 out of which all its SIDs are taken. Cost: 1 us the first time, then 0.1 us."""
    return _LOCATOR_PREFIX + hashlib.blake2b(_LOCATOR_DOMAIN + node_id, digest_size=32).digest()[: LOCATOR_BYTES - 1]


@functools.lru_cache(maxsize=PATHS_KEPT)
def path_segments(relays: tuple[NodeId, ...], peer: NodeId, function: Function = Function.END_APP) -> tuple[Sid, ...]:
    """Return a path's segment list in visiting order; the same few are asked for per packet. Cost: 0.2 us but for the first time."""
    return (*(Sid.of(relay, Function.END) for relay in relays), Sid.of(peer, function))
