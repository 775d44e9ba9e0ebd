"""How many strangers' handshakes are worth work: cookies, and token buckets for each source and for all together.

A session INIT costs its receiver about 0.3 ms of key agreement before its sender is known, and a sender can write any source address on
it. What is spent on it follows from two questions, asked before any key agreement:

1. Are there too many? `InitGate.is_loaded` measures the rate of INITs. Below `CALM_PER_S` nothing is asked of anybody. Above it, and for
   `LOADED_S` after, an INIT must carry a MAC under a cookie (`handshake.py`), or is answered with the cookie and forgotten. The cookie is a
   MAC over the source under a secret that changes every `SECRET_S`: the responder keeps nothing for it, and who does not receive what is
   sent to that source does not get it. So spoofed sources never reach the buckets: they can neither use up nor evict any. A node with a
   large group starting around it is loaded for a moment, which costs the latecomers one more round trip.
2. Is it this source's turn? One bucket per source network (IPv4 address, IPv6 /64, the neighbour for a way over relays): one host cannot
   take everybody's share. One for all unknown sources together: bounds the processor time whatever happens. Another for sources where a
   session lives, and for neighbours: strangers do not stop old friends from changing keys.

What this does not stop: a flood from thousands of real addresses, which all hold cookies, takes the strangers' common bucket; newcomers
then wait, friends do not.

Invariants: state is bounded (`SOURCES_MAX` buckets, least recently used ones go first); a source that was forgotten starts with a full
bucket, which the common ones bound. Source: WireGuard (Donenfeld 2017, section 5.4.7), with the difference that its rate of "under load"
is the length of a queue, and ours a token bucket.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address

from srwan.errors import LimitExceeded
from srwan.overlay.way import RelayedWay, Way, source_of

__all__ = ["CookieJar", "InitGate", "TokenBucket"]

SOURCES_MAX = 1024
PER_SOURCE_PER_S = 20.0
PER_SOURCE_BURST = 128
"""A whole group behind one address (a test swarm, a large NAT) may start at once."""
ALL_PER_S = 100.0
"""Requests a second over all strangers: 100 x 0.3 ms = 3 % of a core."""
ALL_BURST = 256
CALM_PER_S = 50.0
"""INITs a second that are served without a cookie: a group of 100 that changes its keys every two minutes has 1 a second and member."""
CALM_BURST = 128
"""A group of 100 that starts at once, and some retransmissions."""
LOADED_S = 1.0
"""How long cookies are demanded after the last INIT beyond the rate: longer than the round trip of who has just got one."""
SECRET_S = 120.0
"""Life of the secret of cookies: WireGuard's."""
COOKIE_BYTES = 16


class CookieJar:
    """Makes cookies, and makes the same one again when it is needed. Holds a secret, and nothing per source.

    Args:
        entropy: returns that many random bytes.
    """

    __slots__ = ("_entropy", "_expires", "_secret")

    def __init__(self, entropy: Callable[[int], bytes]) -> None:
        self._entropy = entropy
        self._secret = b""
        self._expires = -math.inf

    def cookie_for(self, way: Way, now: float) -> bytes:
        """Return the cookie of a source, 16 bytes; another one after the secret has changed. Cost: 1.5 us."""
        if now >= self._expires:
            self._secret = self._entropy(32)
            self._expires = now + SECRET_S
        return hashlib.blake2b(source_of(way), key=self._secret, digest_size=COOKIE_BYTES).digest()


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


class InitGate:
    """Decides which INITs of unauthenticated sources are looked at."""

    __slots__ = ("_calm", "_known", "_loaded_until", "_sources", "_strangers")

    def __init__(self) -> None:
        self._calm = TokenBucket(CALM_PER_S, CALM_BURST, 0.0)
        self._loaded_until = -math.inf
        self._strangers = TokenBucket(ALL_PER_S, ALL_BURST, 0.0)
        self._known = TokenBucket(ALL_PER_S, ALL_BURST, 0.0)
        self._sources: OrderedDict[str | bytes, TokenBucket] = OrderedDict()

    def is_loaded(self, now: float) -> bool:
        """Count an INIT, and say whether it needs a cookie. Cost: 0.5 us."""
        if not self._calm.take(now):
            self._loaded_until = now + LOADED_S
        return now < self._loaded_until

    def admit(self, way: Way, now: float, *, is_known: bool) -> None:
        """Return if an INIT that came this way may be looked at. Cost: 1 us.

        Args:
            way: where it came from.
            now: monotonic seconds.
            is_known: the source is the address of somebody authenticated.

        Raises:
            LimitExceeded: too many from there ("source-rate") or from everywhere ("init-rate").
        """
        network = way.segments[0] if isinstance(way, RelayedWay) else _network(way[0])
        bucket = self._sources.get(network)
        if bucket is None:
            if len(self._sources) >= SOURCES_MAX:
                self._sources.popitem(last=False)
            bucket = self._sources[network] = TokenBucket(PER_SOURCE_PER_S, PER_SOURCE_BURST, now)
        else:
            self._sources.move_to_end(network)
        if not bucket.take(now):
            raise LimitExceeded("too many requests from one source", reason="source-rate")
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
