"""The keys that two routers share, as the data plane uses them: four AES-256-GCM keys, their counters and replay windows.

A session is made by `session.py` from the secrets of a finished handshake and is never changed into another: new keys are a new session
under a new index. It holds no protocol logic; the times and counts that the machine keeps per session live here because they die with it.

A data plane with tables of its own follows the sessions as a `SessionObserver` (`Sessions.observe`). That is the only way to the raw keys,
and only at installation: a `Session` holds ciphers, and lets go of them when it is removed.

Counters run per key and never repeat. The nonce is the counter, so no two packets under one key share a nonce; the two directions and
the two purposes (link, end to end) have keys of their own, so their counters may coincide.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from srwan.errors import NoSession
from srwan.overlay.handshake import SessionSecrets
from srwan.overlay.replay import ReplayWindow
from srwan.overlay.way import RelayedWay, Way
from srwan.types import NodeId, UdpAddress

__all__ = ["NONCE", "OpeningKey", "SealingKey", "Session", "SessionObserver"]

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


class _ClosedCipher:
    """Takes the place of a cipher whose session was removed: nothing opens under it, and sealing is a mistake of ours."""

    __slots__ = ()

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes:
        del nonce, data, associated_data
        raise NoSession("the session was removed; ask `Sessions.current` for every packet")

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes:
        del nonce, data, associated_data
        raise InvalidTag


class Cipher(Protocol):
    """What `AESGCM` does."""

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes:
        """Seal; see `AESGCM.encrypt`."""
        ...

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes:
        """Open; see `AESGCM.decrypt`. Raises InvalidTag."""
        ...


_CLOSED = _ClosedCipher()


class SealingKey:
    """A key to seal with. Take a counter for every packet: `key.cipher.encrypt(NONCE.pack(key.take_counter()), ...)`.

    A native data plane derives from it, overrides `take_counter` and makes `counter` a property; see `SessionObserver`.
    """

    __slots__ = ("cipher", "counter")

    def __init__(self, secret: bytes) -> None:
        self.cipher: Cipher = AESGCM(secret)
        self.counter = 0
        """The next one; also how many packets were sealed."""

    def take_counter(self) -> int:
        """Return a counter never returned before, rising from 0."""
        counter = self.counter
        self.counter = counter + 1
        return counter


class OpeningKey:
    """A key to open with, and the counters that were accepted under it.

    A native data plane derives from `ReplayWindow` and sets `window`; see `SessionObserver`.
    """

    __slots__ = ("cipher", "window")

    def __init__(self, secret: bytes) -> None:
        self.cipher: Cipher = AESGCM(secret)
        self.window = ReplayWindow()


class SessionObserver(Protocol):
    """Follows a node's sessions as they come, change and go: what a data plane with tables of its own needs.

    Order of calls for one session: `session_installed` first, `session_removed` last. A session becomes current after it was installed;
    before the current one is removed, `current_changed` says that it is current no longer. Calls come from within calls of `Sessions`;
    an observer must not call back into it and must not raise.
    """

    def session_installed(self, session: Session, secrets: SessionSecrets) -> None:
        """Keys exist: open what names `session.local_index` from now on. Nothing was sealed or opened with them yet.

        Here, and never later, `session.link_seal`, `end_seal`, `link_open` and `end_open` (or only the `window` of the latter two) may be
        replaced by others derived from them whose counters and windows live elsewhere. Copy the keys out of `secrets` and keep no
        reference to it.
        """
        ...

    def session_removed(self, session: Session) -> None:
        """The keys are dead: accept nothing more, wipe them. Its ciphers are gone from `session` after this call."""
        ...

    def current_changed(self, peer: NodeId, session: Session | None) -> None:
        """Seal with `session` for this peer from now on; with None: with nothing."""
        ...

    def address_moved(self, session: Session) -> None:
        """`session.address` is another one; also called for sessions that are not current. Not called at installation."""
        ...


class Session:
    """One set of keys shared with a peer. Plain attributes, read by the data plane for every packet; the rest is for `Sessions`."""

    __slots__ = (
        "address",
        "born_s",
        "called",
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
        "observers",
        "peer",
        "probed_s",
        "rekey_at",
        "remote_index",
        "sent_before",
        "siblings",
        "silent_checks",
        "upkeep_sent",
        "way",
    )

    def __init__(
        self, peer: NodeId, address: UdpAddress | None, indices: tuple[int, int], secret: SessionSecrets, *, is_initiator: bool, now: float
    ) -> None:
        self.peer = peer
        self.address = address
        """Where the peer was last heard from in a packet under the link key; the data plane keeps it so with `moved_to`. None for a session
        made over relays: then nothing may be sealed with the link key, the end key only."""
        self.observers: Sequence[SessionObserver] = ()
        self.siblings: Sequence[Session] = ()
        """The peer's sessions, this one among them, oldest first; empty before installation and after removal."""
        self.way: RelayedWay | None = None
        """The way over relays that handshake datagrams of the peer took last."""
        self.called: tuple[Way, ...] = ()
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
        self.probed_s = -math.inf

    def moved_to(self, source: UdpAddress, counter: int) -> None:
        """The peer was heard from another address: answer there from now on (roaming), as in RFC 9000 section 9.3.

        Args:
            source: where the packet came from.
            counter: its counter under the link key; it opened and was accepted. One that others overtook says nothing about where the
                peer is now and moves nothing.
        """
        if counter != self.link_open.window.highest:
            return
        self._move(source)
        if self.siblings and self.siblings[-1] is not self:
            for newer in self.siblings[self.siblings.index(self) + 1 :]:  # the peer has not begun to use these: what it said here is newest
                if newer.link_open.window.highest < 0:
                    newer._move(source)

    def _move(self, source: UdpAddress) -> None:
        if source != self.address:
            self.address = source
            for observer in self.observers:
                observer.address_moved(self)

    def close(self) -> None:
        """Let go of the ciphers: nothing opens any more, and sealing raises NoSession. For `SessionTable`; a second call does nothing."""
        self.siblings = ()
        for key in (self.link_seal, self.link_open, self.end_seal, self.end_open):
            key.cipher = _CLOSED

    @property
    def ways(self) -> tuple[Way, ...]:
        """Where the peer was heard, the address first."""
        return tuple(way for way in (self.address, self.way) if way is not None)

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
