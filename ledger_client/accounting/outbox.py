"""Messages that must get there sooner or later: the newest under each key, sent again with growing pauses until it was answered. A core.

Theory of operation. Every message of accounting says how things stand, so a newer one under the same key replaces an older one that was not
delivered. `take_due` hands out what is due; each is then answered (`succeeded`) or not (`failed`), and one that was replaced meanwhile
stays to be sent. Pauses double from RETRY_S_MIN to RETRY_S_MAX, each by a random factor, so that a router that comes back is not greeted by
all at once. A message older than GIVE_UP_S goes.

Invariants: one message under way per key; bounded by MESSAGES_MAX, the oldest that is not under way goes.
"""

from __future__ import annotations

import random
from collections.abc import Hashable

import attrs

from srwan.types import NodeId

__all__ = ["Message", "Outbox"]

MESSAGES_MAX = 4096
"""Keys: 1,024 sessions with their relays and egress."""
RETRY_S_MIN = 0.5
RETRY_S_MAX = 30.0
GIVE_UP_S = 3600.0
"""A message that nobody answered for so long is dropped, s: whoever wants it will hear a newer one."""


@attrs.frozen(slots=True)
class Message:
    """One request to send."""

    key: Hashable
    """What it is about; a newer one with the same key replaces it."""
    serial: int
    """Which one under the key."""
    peer: NodeId
    protocol: str
    body: bytes


@attrs.define(slots=True)
class _Entry:
    message: Message
    put_at: float
    due_at: float
    failures: int = 0
    is_under_way: bool = False


class Outbox:
    """See the module's header.

    Args:
        rng: for the pauses.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._entries: dict[Hashable, _Entry] = {}
        self._serial = 0
        self.dropped = 0
        """Messages given up."""

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, key: Hashable, peer: NodeId, protocol: str, body: bytes, now: float) -> None:
        """Send a message as soon as may be, instead of an older one under this key. The same body again changes nothing."""
        old = self._entries.get(key)
        if old is not None and old.message.body == body:
            return
        self._serial += 1
        entry = _Entry(Message(key, self._serial, peer, protocol, body), now, now)
        if old is not None:
            entry.is_under_way = old.is_under_way
            entry.failures = old.failures
            entry.due_at = old.due_at if old.failures else now
        elif len(self._entries) >= MESSAGES_MAX:
            self._make_room()
        self._entries[key] = entry

    def drop(self, key: Hashable) -> None:
        """Send it no more. Unknown keys are fine."""
        self._entries.pop(key, None)

    def take_due(self, now: float, count_max: int) -> list[Message]:
        """Return up to `count_max` messages that are due; answer each with `succeeded` or `failed`."""
        for key in [key for key, entry in self._entries.items() if now - entry.put_at > GIVE_UP_S and not entry.is_under_way]:
            del self._entries[key]
            self.dropped += 1
        due = [entry for entry in self._entries.values() if entry.due_at <= now and not entry.is_under_way][:count_max]
        for entry in due:
            entry.is_under_way = True
        return [entry.message for entry in due]

    def succeeded(self, message: Message, now: float) -> None:
        """Note that a message was answered."""
        entry = self._entries.get(message.key)
        if entry is None:
            return
        if entry.message.serial == message.serial:
            del self._entries[message.key]
            return
        entry.is_under_way, entry.failures, entry.due_at = False, 0, now

    def failed(self, message: Message, now: float) -> None:
        """Note that a message was not answered, or that the peer asked to come back later."""
        entry = self._entries.get(message.key)
        if entry is None:
            return
        entry.is_under_way = False
        pause_s = min(RETRY_S_MAX, RETRY_S_MIN * 2.0 ** min(entry.failures, 16)) * self._rng.uniform(0.75, 1.25)
        entry.failures += 1
        entry.due_at = now + pause_s

    def get_timer(self) -> float | None:
        """Return when `take_due` has something, monotonic s; None if nothing waits."""
        return min((entry.due_at for entry in self._entries.values() if not entry.is_under_way), default=None)

    def _make_room(self) -> None:
        victim = next((key for key, entry in self._entries.items() if not entry.is_under_way), None)
        if victim is not None:
            del self._entries[victim]
            self.dropped += 1
