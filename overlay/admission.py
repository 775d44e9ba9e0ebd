"""How many strangers' requests are worth work: token buckets per source network and for all together.

A session INIT costs its receiver about 0.3 ms of key agreement before its sender is known. The limiter decides beforehand, on nothing
but the source address:

- one bucket per source network (IPv4 address, IPv6 /64): one host cannot take everybody's share;
- one bucket for all unknown sources together: spoofed addresses cannot take more than a fixed share of the processor;
- another for sources at which a session lives already: a flood of spoofed strangers does not stop old friends from changing keys.

Invariants: state is bounded (`SOURCES_MAX` buckets, least recently used ones go first); a source that was forgotten starts with a full
bucket, which the common ones bound.
"""

from __future__ import annotations

from collections import OrderedDict
from ipaddress import IPv6Address

from srwan.errors import LimitExceeded

__all__ = ["RequestLimiter", "TokenBucket"]

SOURCES_MAX = 1024
PER_SOURCE_PER_S = 20.0
PER_SOURCE_BURST = 128
"""A whole group behind one address (a test swarm, a large NAT) may start at once."""
ALL_PER_S = 100.0
"""Requests a second over all strangers: 100 x 0.3 ms = 3 % of a core."""
ALL_BURST = 256


class TokenBucket:
    """`burst` tokens, refilled at `per_s` a second.

    Args:
        per_s: tokens a second.
        burst: tokens that a full bucket holds; it starts full.
        now: monotonic seconds.
    """

    __slots__ = ("_at", "_burst", "_per_s", "_tokens")

    def __init__(self, per_s: float, burst: int, now: float) -> None:
        self._per_s = per_s
        self._burst = float(burst)
        self._tokens = self._burst
        self._at = now

    def take(self, now: float) -> bool:
        """Take one token if there is one."""
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._at) * self._per_s)
        self._at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


class RequestLimiter:
    """Decides which requests of unauthenticated sources are looked at."""

    __slots__ = ("_known", "_sources", "_strangers")

    def __init__(self) -> None:
        self._strangers = TokenBucket(ALL_PER_S, ALL_BURST, 0.0)
        self._known = TokenBucket(ALL_PER_S, ALL_BURST, 0.0)
        self._sources: OrderedDict[str, TokenBucket] = OrderedDict()

    def admit(self, host: str, now: float, *, is_known: bool) -> None:
        """Return if a request from `host` may be looked at. Cost: 1 us.

        Args:
            host: numeric address of the source.
            now: monotonic seconds.
            is_known: the source is the address of somebody authenticated.

        Raises:
            LimitExceeded: too many from there ("source-rate") or from everywhere ("init-rate").
        """
        network = _network(host)
        bucket = self._sources.get(network)
        if bucket is None:
            if len(self._sources) >= SOURCES_MAX:
                self._sources.popitem(last=False)
            bucket = self._sources[network] = TokenBucket(PER_SOURCE_PER_S, PER_SOURCE_BURST, now)
        else:
            self._sources.move_to_end(network)
        if not bucket.take(now):
            raise LimitExceeded(f"too many requests from {network}", reason="source-rate")
        if not (self._known if is_known else self._strangers).take(now):
            raise LimitExceeded("too many requests from all sources", reason="init-rate")


def _network(host: str) -> str:
    """IPv4 address as it is; the /64 of an IPv6 address, since one customer owns all of it (RFC 6177)."""
    if ":" not in host:
        return host
    try:
        return IPv6Address(host).packed[:8].hex()
    except ValueError:
        return host
