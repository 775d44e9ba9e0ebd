"""Who publishes what the group measured: a rendezvous hash over the view, no votes.

Theory of operation. Every member ranks the members by BLAKE2b(group || epoch || id), epoch = group time // 60 s, over the view it had
when the epoch began. Rank 0 publishes a report every interval and tells all so (REPORTED). Rank r = 1..3 steps in when nothing was heard
for an interval and r standby delays, and steps back when a better rank is heard. Views that differ, or a partition, give two reporters
for a while; that is harmless, because reports are sets of self-signed rows and merge.

Invariants: a member that is no candidate (rank > 3) never publishes; while one candidate lives and hears the group, no more than an
interval and three standby delays pass without a report; REPORTED from members that rank low is no reason to stay silent. A reporter can
omit or delay, nothing else. Source: docs/decisions.md (rendezvous hashing, Thaler and Ravishankar 1998); whitepaper on the reporter.

REPORTED content, little endian, 46 bytes: u64 epoch, u32 sequence, 32 B digest of the report, u16 rows.
"""

from __future__ import annotations

import functools
import hashlib
import struct
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

import attrs

from srwan.errors import DecodeError, RemoteProtocolError
from srwan.overlay.frame import Frame, FrameCodec, FrameType, content_digest
from srwan.types import NodeId, PeerMisbehaved, UdpAddress

__all__ = ["ReportDue", "ReportPublished", "Reporter", "ReporterElected", "ReporterEvent", "ReporterTookOver", "epoch_of", "rank"]

EPOCH_S = 60
"""A lease: long enough that reporters do not flap, short enough that the load goes round."""
INTERVAL_S = 10.0
STANDBY_DELAY_S = 2.5
RANKS = 4
"""The reporter and three standbys."""
RANKS_HEARD = 8
"""Whose REPORTED counts: views may differ by some members, a liar further down cannot silence the candidates."""
FIRST_AFTER_S = 3.0
"""The first report does not wait longer for a full matrix."""
SETTLE_S = 3.0
"""While the first view still grows, the ranks follow it; then they are pinned for the epoch."""
EVENTS_MAX = 256

_EPOCH_NS = EPOCH_S * 10**9
_REPORTED = struct.Struct("<QI32sH")


def epoch_of(group_ns: int) -> int:
    """Return the epoch that a group time (ns) lies in."""
    return group_ns // _EPOCH_NS


def rank(members: Sequence[NodeId], group: bytes, epoch: int) -> tuple[NodeId, ...]:
    """Return the members by falling rendezvous weight: the reporter first, then its standbys.

    Args:
        members: in any order.
        group: the 32-byte group id, which salts the ranks.
        epoch: of `epoch_of`.

    Cost: 1.2 us a member.
    """
    salt = group + struct.pack("<q", epoch)
    return tuple(sorted(members, key=lambda node: _weight(salt, node), reverse=True))


@functools.lru_cache(maxsize=4096)
def _weight(salt: bytes, node: NodeId) -> bytes:
    """The members of a group in one process all ask for the same ones, and while it forms again and again."""
    return hashlib.blake2b(salt + node, digest_size=16, person=b"srwan/reporter/1").digest()


@attrs.frozen(slots=True)
class ReporterElected:
    """A new epoch, or a new view in the first seconds: this is who reports."""

    epoch: int
    node_id: NodeId
    """The reporter."""
    order: tuple[NodeId, ...]
    """The reporter and its standbys, best first, at most 4."""


@attrs.frozen(slots=True)
class ReporterTookOver:
    """A standby reports in place of those before it."""

    node_id: NodeId
    rank: int
    """Its place in the order of this epoch, from 1: how many before it are silent or gone."""


@attrs.frozen(slots=True)
class ReportDue:
    """This member is to publish a report now; answer with `Reporter.report_published`."""

    epoch: int
    sequence: int
    """Rises with every report of this member in the epoch, also over a restart: at least the second of the epoch."""


@attrs.frozen(slots=True)
class ReportPublished:
    """A report was published, here or by another."""

    epoch: int
    sequence: int
    node_id: NodeId
    """Who published."""
    digest: bytes
    """32 bytes, `Report.digest`."""
    rows: int
    """Rows in it."""


ReporterEvent: TypeAlias = ReporterElected | ReporterTookOver | ReportDue | ReportPublished | PeerMisbehaved


class Reporter:
    """Decides when this member publishes. A core.

    Args:
        me: this member.
        frames: seals REPORTED; peers are those of the pulse.
        group: the 32-byte group id.
        interval_s: between reports.
        standby_delay_s: how much longer each further rank waits.
    """

    def __init__(
        self, me: NodeId, frames: FrameCodec, group: bytes, *, interval_s: float = INTERVAL_S, standby_delay_s: float = STANDBY_DELAY_S
    ) -> None:
        self._me = me
        self._frames = frames
        self._group = group
        self._interval_s = interval_s
        self._standby_delay_s = standby_delay_s
        self._addresses: dict[NodeId, UdpAddress] = {}
        self._order: tuple[NodeId, ...] = ()
        self._candidates: tuple[NodeId, ...] = ()
        self._my_rank: int | None = None
        self._epoch: int | None = None
        self._epoch_ends_at = float("inf")
        self._pin_at = float("inf")
        self._last_report_at: float | None = None
        self._first_by = float("inf")
        self._is_in_charge = False
        self._due: ReportDue | None = None
        self._sequence = -1
        self._queue: deque[tuple[NodeId, bytes, bytes]] = deque()
        self._events: deque[ReporterEvent] = deque()
        self.drops: Counter[str] = Counter()
        """Input dropped, by reason."""

    @property
    def order(self) -> tuple[NodeId, ...]:
        """The reporter of this epoch and its standbys, best first, members only; empty before the first view."""
        return self._candidates[:RANKS]

    def set_members(self, members: Mapping[NodeId, UdpAddress], now: float, group_ns: int) -> None:
        """Say who the members are and where; this one may be among them.

        Args:
            members: with their addresses.
            now: monotonic seconds.
            group_ns: group time now.
        """
        others = {node: address for node, address in members.items() if node != self._me}
        is_change = others.keys() != self._addresses.keys()
        was_alone = not self._addresses
        self._addresses = others
        if not is_change:
            return
        if was_alone:
            self._pin_at, self._first_by = now + SETTLE_S, now + FIRST_AFTER_S
            self._last_report_at = None
        elif self._last_report_at is None and now < self._pin_at:
            self._pin_at, self._first_by = now + SETTLE_S, now + FIRST_AFTER_S
        if now < self._pin_at:
            self._elect(now, group_ns)
        else:
            self._note_candidates()

    def matrix_filled(self, now: float) -> None:
        """The whole matrix is known here: the first report need not wait longer."""
        if self._last_report_at is None:
            self._first_by = min(self._first_by, now)

    def receive_frame(self, frame: Frame, source: UdpAddress, now: float) -> None:
        """Take in an authenticated REPORTED. Never raises for what a peer sent."""
        if frame.sender not in self._addresses:
            self.drops["not-member"] += 1
            return
        try:
            self._receive_reported(frame, now)
        except RemoteProtocolError as error:
            self.drops[error.reason] += 1
            self._emit(PeerMisbehaved(frame.sender, source, error.reason))

    def handle_timer(self, now: float, group_ns: int) -> None:
        """Begin a new epoch and publish, if it is time."""
        if not self._addresses:
            return
        if self._epoch is None or epoch_of(group_ns) != self._epoch:
            self._elect(now, group_ns)
        self._epoch_ends_at = now + (_EPOCH_NS - group_ns % _EPOCH_NS) / 1e9
        mine = self._my_rank
        if mine is None or self._due is not None or now < self._due_at(mine):
            return
        place = self._order.index(self._me)
        if place > 0 and not self._is_in_charge:
            self._emit(ReporterTookOver(self._me, place))
        self._is_in_charge = True
        epoch = epoch_of(group_ns)
        self._sequence = max(self._sequence + 1, group_ns % _EPOCH_NS // 10**9)
        self._due = ReportDue(epoch, self._sequence)
        self._last_report_at = now
        self._emit(self._due)

    def report_published(self, sequence: int, digest: bytes, rows: int, now: float) -> None:
        """Tell all members of a report that was due; one that is not due any more is passed over.

        Args:
            sequence: of the `ReportDue`.
            digest: 32 bytes, `Report.digest`.
            rows: rows in it.
            now: monotonic seconds.
        """
        due = self._due
        if due is None or due.sequence != sequence:
            return
        self._due = None
        self._last_report_at = now
        content = _REPORTED.pack(due.epoch, due.sequence, digest, rows)
        tag = content_digest(content)
        for node in self._addresses:
            self._queue.append((node, content, tag))
        self._emit(ReportPublished(due.epoch, due.sequence, self._me, digest, rows))

    def report_failed(self, sequence: int) -> None:
        """The report that was due could not be published; nobody is told, so a standby steps in, and this member tries again in turn."""
        if self._due is not None and self._due.sequence == sequence:
            self._due = None

    def get_timer(self) -> float | None:
        """When to call `handle_timer` next; None without peers."""
        if not self._addresses:
            return None
        mine = self._my_rank
        if mine is None or self._due is not None:
            return self._epoch_ends_at
        return min(self._due_at(mine), self._epoch_ends_at)

    def datagrams_to_send(self, now: float, read_group_ns: Callable[[], int]) -> Iterator[tuple[bytes, UdpAddress]]:  # noqa: ARG002
        """Yield datagrams with their destinations.

        Args:
            now: monotonic seconds.
            read_group_ns: reads group time, ns.
        """
        while self._queue:
            node, content, tag = self._queue.popleft()
            address = self._addresses.get(node)
            if address is None:
                continue
            try:
                sealed = self._frames.seal(node, FrameType.REPORTED, content, digest=tag, tx_ns=read_group_ns())
            except KeyError:  # the overlay let the peer go, and will tell
                self.drops["no-key"] += 1
                continue
            yield sealed, address

    def next_event(self) -> ReporterEvent | None:
        """Return the next event, None if there is none."""
        return self._events.popleft() if self._events else None

    def _elect(self, now: float, group_ns: int) -> None:
        """Rank the view as it is now, for this epoch."""
        epoch = epoch_of(group_ns)
        if epoch != self._epoch:
            self._is_in_charge = False
            self._sequence = -1
        self._epoch = epoch
        self._epoch_ends_at = now + (_EPOCH_NS - group_ns % _EPOCH_NS) / 1e9
        order = rank((self._me, *self._addresses), self._group, epoch)
        if order[:RANKS] != self._order[:RANKS]:
            self._is_in_charge = False
        self._order = order
        self._note_candidates()
        self._emit(ReporterElected(epoch, order[0], order[:RANKS]))

    def _note_candidates(self) -> None:
        """The pinned order without those who left since."""
        self._candidates = tuple(node for node in self._order if node == self._me or node in self._addresses)
        first = self._candidates[:RANKS]
        self._my_rank = first.index(self._me) if self._me in first else None

    def _due_at(self, mine: int) -> float:
        delay_s = 0.0 if self._is_in_charge else mine * self._standby_delay_s
        if self._last_report_at is None:
            return self._first_by + delay_s
        return self._last_report_at + self._interval_s + delay_s

    def _receive_reported(self, frame: Frame, now: float) -> None:
        if len(frame.content) != _REPORTED.size:
            raise DecodeError(f"REPORTED of {len(frame.content)} bytes")
        epoch, sequence, digest, rows = _REPORTED.unpack(frame.content)
        if frame.sender not in self._candidates[:RANKS_HEARD]:
            # A member that is new here, or whose view or epoch is not ours: no misbehaviour, but no reason to be silent either.
            self.drops["not-reporter"] += 1
            return
        self._last_report_at = now
        if self._candidates.index(frame.sender) < (RANKS if self._my_rank is None else self._my_rank):
            self._is_in_charge = False
        self._emit(ReportPublished(epoch, sequence, frame.sender, digest, rows))

    def _emit(self, event: ReporterEvent) -> None:
        if len(self._events) >= EVENTS_MAX:
            self.drops["events"] += 1
            return
        self._events.append(event)
