"""The keys that two routers share, as the data plane uses them: four AES-256-GCM keys, their counters and replay windows.

A session is made by `session.py` from the secrets of a finished handshake and is never changed into another: new keys are a new session
under a new index. It holds no protocol logic; the times and counts that the machine keeps per session live here because they die with it.

Counters run per key and never repeat. The nonce is the counter, so no two packets under one key share a nonce; the two directions and
the two purposes (link, end to end) have keys of their own, so their counters may coincide.
"""

from __future__ import annotations

import math
import struct

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from srwan.overlay.handshake import SessionSecrets
from srwan.overlay.replay import ReplayWindow
from srwan.types import NodeId, UdpAddress

__all__ = ["NONCE", "OpeningKey", "SealingKey", "Session"]

REKEY_AFTER_S = 120.0
"""Age at which the initiator asks for new keys."""
REKEY_AFTER_RESPONDER_S = 150.0
"""Age at which the responder does, should the initiator not have managed."""
SEND_LIFETIME_S = 165.0
"""Not sent with any longer: 15 s before the receiver, whose session is older by a round trip, forgets the keys."""
KEY_LIFETIME_S = 180.0
"""Not accepted any longer."""
CHECK_S = 5.0
"""Between two looks at how much a session was used; two silent ones mean the peer lost the keys."""
CONFIRM_AGAIN_S = 0.25
"""Wait after the first CONFIRM; doubles up to `CONFIRM_AGAIN_S_MAX`."""
CONFIRM_AGAIN_S_MAX = 2.0

NONCE = struct.Struct("<4xQ")
"""Nonce of every AEAD use with session keys: four zero bytes, the counter as u64 little endian."""


class SealingKey:
    """A key to seal with. Take a counter for every packet: `key.cipher.encrypt(NONCE.pack(key.take_counter()), ...)`."""

    __slots__ = ("cipher", "counter")

    def __init__(self, secret: bytes) -> None:
        self.cipher = AESGCM(secret)
        self.counter = 0
        """The next one; also how many packets were sealed."""

    def take_counter(self) -> int:
        """Return a counter never returned before, rising from 0."""
        counter = self.counter
        self.counter = counter + 1
        return counter


class OpeningKey:
    """A key to open with, and the counters that were accepted under it."""

    __slots__ = ("cipher", "window")

    def __init__(self, secret: bytes) -> None:
        self.cipher = AESGCM(secret)
        self.window = ReplayWindow()


class Session:
    """One set of keys shared with a peer. Plain attributes, read by the data plane for every packet; the rest is for `Sessions`."""

    __slots__ = (
        "address",
        "born_s",
        "called_at",
        "check_at",
        "confirm_at",
        "confirm_wait_s",
        "end_open",
        "end_seal",
        "heard_before",
        "is_confirmed",
        "is_initiator",
        "link_open",
        "link_seal",
        "local_index",
        "peer",
        "rekey_at",
        "remote_index",
        "sent_before",
        "silent_checks",
        "upkeep_sent",
    )

    def __init__(
        self, peer: NodeId, address: UdpAddress, indices: tuple[int, int], secret: SessionSecrets, *, is_initiator: bool, now: float
    ) -> None:
        self.peer = peer
        self.address = address
        """Where the last authenticated packet came from; the data plane keeps it so with `moved_to`."""
        self.called_at = address
        self.local_index, self.remote_index = indices
        self.is_initiator = is_initiator
        self.is_confirmed = is_initiator
        """The peer is known to have the keys. If not: call `Sessions.confirm` on the first packet that opens."""
        self.link_seal = SealingKey(secret.link_seal)
        self.link_open = OpeningKey(secret.link_open)
        self.end_seal = SealingKey(secret.end_seal)
        self.end_open = OpeningKey(secret.end_open)
        self.born_s = now
        self.rekey_at = now + (REKEY_AFTER_S if is_initiator else REKEY_AFTER_RESPONDER_S)
        self.check_at = now + CHECK_S
        self.confirm_at = math.inf
        self.confirm_wait_s = CONFIRM_AGAIN_S
        self.upkeep_sent = 0
        self.sent_before = 0
        self.heard_before = -2
        self.silent_checks = 0

    def moved_to(self, source: UdpAddress) -> None:
        """The peer was heard from `source` in a packet that opened: answer there from now on (roaming)."""
        self.address = source

    @property
    def sent(self) -> int:
        """Packets sealed so far under both keys."""
        return self.link_seal.counter + self.end_seal.counter

    @property
    def heard(self) -> int:
        """Rises with every packet accepted in order; -2 when nothing was heard."""
        return self.link_open.window.highest + self.end_open.window.highest

    @property
    def is_heard(self) -> bool:
        """Something was accepted."""
        return self.heard > -2

    @property
    def is_used(self) -> bool:
        """More than handshake upkeep went over it."""
        return self.sent > self.upkeep_sent or self.heard > self.upkeep_sent - 2

    def __repr__(self) -> str:
        return f"Session({self.peer!r}, {self.address}, index {self.local_index:#x})"
