"""Hostile datagrams: random bytes, damaged copies of real ones, replays, and well-sealed frames full of nonsense.

The last kind is the one that matters: a member of the group, with a pair key to everybody, can put anything into a frame, and past the tag
only the decoders stand. What is damaged was overheard in the same simulation, so that most of it is right.
"""

from __future__ import annotations

import random
from collections import deque

from srwan.overlay.frame import CONTENT_BYTES_MAX, DATAGRAM_BYTES_MAX, HEADER_BYTES, FrameType, content_digest
from srwan.testing.router import SimRouter
from srwan.types import UdpAddress

__all__ = ["Fuzzer"]

OVERHEARD_MAX = 256
"""Datagrams kept as models."""


class Fuzzer:
    """Makes datagrams that should not be.

    Args:
        rng: draws everything.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._overheard: deque[bytes] = deque(maxlen=OVERHEARD_MAX)
        self.made = 0
        """Datagrams made so far."""

    def overhear(self, out: list[tuple[bytes, UdpAddress]]) -> None:
        """Keep one of the datagrams sent as a model."""
        self._overheard.append(out[self._rng.randrange(len(out))][0])

    def attack(self, router: SimRouter, addresses: list[UdpAddress], now: float) -> list[tuple[bytes, UdpAddress]]:  # noqa: ARG002
        """Return one hostile datagram of a member, and where it goes."""
        rng = self._rng
        self.made += 1
        receivers = [member for member in router.view.members if member.node_id != router.node_id]
        if not receivers or rng.random() < 0.4:
            return [(self._damaged(), rng.choice(addresses))]
        receiver = rng.choice(receivers)
        kind = rng.choice(list(FrameType))
        content = self._nonsense()
        try:
            sealed = router.frames.seal(
                receiver.node_id,
                kind,
                content,
                digest=content_digest(content),
                tx_ns=rng.choice((0, rng.getrandbits(64), router.pulse.group_ns(router.stamp_ns))),
                flags=rng.getrandbits(16),
            )
        except KeyError:
            return []
        return [(sealed, receiver.udp[0])]

    def _nonsense(self) -> bytes:
        """Content for a sealed frame: random, or that of a real frame with some bytes changed."""
        rng = self._rng
        if not self._overheard or rng.random() < 0.3:
            return rng.randbytes(rng.choice((0, 1, 16, 46, 64, 132, rng.randrange(CONTENT_BYTES_MAX + 1))))
        return self._bent(rng.choice(self._overheard)[HEADER_BYTES:])[:CONTENT_BYTES_MAX]

    def _damaged(self) -> bytes:
        """A whole datagram: random, or a real one replayed, cut, or with some bytes changed."""
        rng = self._rng
        if not self._overheard or rng.random() < 0.2:
            return rng.randbytes(rng.randrange(1, DATAGRAM_BYTES_MAX + 100))
        data = rng.choice(self._overheard)
        return data if rng.random() < 0.2 else self._bent(data)

    def _bent(self, data: bytes) -> bytes:
        rng = self._rng
        bent = bytearray(data)
        match rng.randrange(4):
            case 0 if bent:
                del bent[rng.randrange(len(bent)) :]
            case 1:
                bent += rng.randbytes(rng.randrange(1, 64))
            case 2 if bent:
                at = rng.randrange(len(bent))
                bent[at : at + 8] = rng.choice((bytes(8), b"\xff" * 8, rng.randbytes(8)))
            case _:
                for _ in range(rng.randrange(1, 5)):
                    if bent:
                        bent[rng.randrange(len(bent))] ^= 1 << rng.randrange(8)
        return bytes(bent)
