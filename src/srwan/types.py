"""Values that every room shares: who a router is, where its sockets are, and what a peer did wrong.

Not here: anything with behaviour. Units: stamps and wall times are nanoseconds (int), monotonic times are seconds (float),
latencies are milliseconds (float).
"""

from __future__ import annotations

import hashlib
from typing import Self, TypeAlias

import attrs

__all__ = ["Datagram", "GeoAsn", "NodeId", "PeerMisbehaved", "UdpAddress"]

UdpAddress: TypeAlias = tuple[str, int]
"""Numeric IPv4 or IPv6 address and UDP port."""

Datagram: TypeAlias = tuple[bytes, UdpAddress, int]
"""Payload, source, and receive stamp in nanoseconds of the node's stamp clock (`Clock.stamp_ns`)."""


class NodeId(bytes):
    """A router's Ed25519 public key, 32 bytes. Compares, hashes and packs as plain bytes.

    Raises:
        ValueError: not 32 bytes.
    """

    __slots__ = ()

    def __new__(cls, value: bytes) -> Self:
        """Check the length."""
        if len(value) != 32:
            raise ValueError(f"a NodeId has 32 bytes, not {len(value)}")
        return super().__new__(cls, value)

    @property
    def short(self) -> int:
        """64-bit short id, used in datagram headers where the full key would not pay: BLAKE2b-64 of the key."""
        return int.from_bytes(hashlib.blake2b(self, digest_size=8, person=b"srwan/short/1").digest(), "little")

    def __str__(self) -> str:
        return self.hex()

    def __repr__(self) -> str:
        return f"NodeId({self.hex()[:12]}...)"


@attrs.frozen(slots=True)
class GeoAsn:
    """Where a router says it is: geolocation cell and autonomous system (whitepaper 2.2.3). A claim, not a fact."""

    country: str = "ZZ"
    """ISO 3166-1 alpha-2; ZZ = not said."""
    lat_cdeg: int = 0
    """Latitude, 1/100 degree, -9000..9000."""
    lon_cdeg: int = 0
    """Longitude, 1/100 degree, -18000..18000."""
    asn: int = 0
    """Autonomous system number, 0 = not said."""

    def __str__(self) -> str:
        return f"{self.country}:{self.asn}"


@attrs.frozen(slots=True)
class PeerMisbehaved:
    """A datagram or request was dropped for a reason that is the peer's fault; counted, rate-limited in logs."""

    peer: NodeId | None
    """Who, if the sender was authenticated or at least claimed an id we know; None otherwise."""
    source: UdpAddress | None
    """Where it came from; None for control streams."""
    reason: str
    """The counter it went to: a short lower-case word, see docs/reference/drop-reasons.md."""
