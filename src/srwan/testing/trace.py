"""What happened in a simulation: a hash over all of it, and the few things that are looked at afterwards.

Two runs are equal if and only if their trace hashes are: BLAKE2b over the ordered log of events (time, kind, source, target), and over
every conclusion a core came to. The log is hashed in batches of machine words, because a call per event would cost as much as the event.
"""

from __future__ import annotations

import array
import hashlib
import struct
from collections import Counter

import attrs

from srwan.gossip.events import MatrixFilled
from srwan.overlay.member_events import MemberLeft, ViewChanged
from srwan.types import NodeId, PeerMisbehaved

__all__ = ["Removal", "Trace", "ViewChange"]

BATCH = 1 << 16
"""Events hashed at once: 0.8 MB."""
RECORDS_MAX = 2_000_000
"""Removals and view changes remembered, each; a group that makes more is beyond reading."""


@attrs.frozen(slots=True)
class Removal:
    """A router took another off its view."""

    at_s: float
    """Simulated seconds."""
    observer: int
    """Index of who removed."""
    subject: int
    """Index of who was removed."""
    reason: str


@attrs.frozen(slots=True)
class ViewChange:
    """A router's view became another."""

    at_s: float
    """Simulated seconds."""
    observer: int
    """Index of whose view."""
    digest: bytes
    size: int
    """Living members in it."""


class Trace:
    """Collects and hashes the events of one group.

    Args:
        indices: the group's nodes by id.
    """

    def __init__(self, indices: dict[NodeId, int]) -> None:
        self._indices = indices
        self._hash = hashlib.blake2b(digest_size=16, person=b"srwan/trace/1")
        self._times = array.array("d")
        self._codes = array.array("Q")
        self.note_time = self._times.append
        """Called with each event's time; `note_code` must follow, and now and then `flush_if_full`."""
        self.note_code = self._codes.append
        """Called with `kind << 40 | source << 20 | target`, indices from 0."""
        self.events = 0
        """Hashed so far."""
        self.removals: list[Removal] = []
        self.view_changes: list[ViewChange] = []
        self.filled_at: dict[int, float] = {}
        """When each router first knew the whole matrix, simulated seconds."""
        self.conclusions: Counter[str] = Counter()
        """Events of cores by name."""

    def note_event(self, now: float, observer: int, event: object) -> None:
        """Take in what a core of `observer` concluded."""
        name = type(event).__name__
        self.conclusions[name] += 1
        subject = -1
        if isinstance(event, MemberLeft):
            subject = self._indices.get(event.node_id, -1)
            if len(self.removals) < RECORDS_MAX:
                self.removals.append(Removal(now, observer, subject, event.reason))
        elif isinstance(event, ViewChanged):
            if len(self.view_changes) < RECORDS_MAX:
                self.view_changes.append(ViewChange(now, observer, event.digest, event.size))
            name += event.digest.hex()
        elif isinstance(event, MatrixFilled):
            self.filled_at.setdefault(observer, now)
            subject = event.members
        elif isinstance(event, PeerMisbehaved):
            name += event.reason
        self._hash.update(struct.pack("<dii", now, observer, subject) + name.encode())

    def flush(self) -> None:
        """Hash what was noted."""
        self.events += len(self._times)
        self._hash.update(self._times.tobytes())
        self._hash.update(self._codes.tobytes())
        del self._times[:]
        del self._codes[:]

    @property
    def digest(self) -> bytes:
        """16 bytes over everything so far."""
        self.flush()
        return self._hash.digest()
