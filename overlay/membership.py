"""Who is in my pulse group, kept equal at all members: spreads membership certificates over frames. A core.

Theory of operation. A newcomer gets a roster from an introducer (`join.py`) and tells every member itself: a JOIN frame with its
certificate, at 0, 0.25, 0.75 and 2 s, until a frame from that member shows that it holds the pair key. The member answers with its
digest, never with more bytes than it was asked with. Nobody forwards news: in a full mesh the newcomer reaches all in one hop, and what
loss leaves out is repaired by comparing digests. Digests travel in these answers and in the pulse; a difference that lasts
`PULL_AFTER_S` makes a node PULL: it names what it holds, the other sends MEMBERS frames with what is missing there, tombstones too, and
may PULL back. Whoever learns of a member from somebody else greets it with JOIN, so that both know each other. Certificates are renewed
every three minutes and expire after ten, which removes crashed nodes even if nobody suspects them; a leaving node says so twice.

Invariants. Whoever is alive in the view has a pair key in the codec, and some seconds longer. Own certificates are issued here only. A peer
can cause work only within its budget: `WORK_BURST` certificates or PULLs, refilled at `WORK_PER_S`; unasked MEMBERS are dropped.

Events: MemberJoined, MemberUpdated, MemberLeft, ViewChanged, IdentityConflict, PeerMisbehaved.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import attrs

from srwan.errors import DecodeError, Equivocation, LimitExceeded, RemoteProtocolError, StaleRecord
from srwan.identity import Identity
from srwan.overlay.admission import TokenBucket
from srwan.overlay.frame import Frame, FrameCodec, FrameType, content_digest
from srwan.overlay.member_frames import (
    JOIN_ANSWER_WANTED,
    PULL_FRAMES_MAX,
    ROSTER_MAX,
    SALT_BYTES,
    batches_of,
    decode_join,
    decode_members,
    decode_pull,
    encode_join,
    encode_members,
    encode_pull,
)
from srwan.overlay.view import Member, View, certificate_id
from srwan.types import NodeId, PeerMisbehaved, UdpAddress

__all__ = [
    "IdentityConflict",
    "MemberJoined",
    "MemberLeft",
    "MemberUpdated",
    "Membership",
    "MembershipEvent",
    "ViewChanged",
]

GREETING_DELAYS_S = (0.0, 0.25, 0.5, 1.25)
"""Pauses before the four JOINs to one member: at 0, 0.25, 0.75, 2 s. At 1 % loss each way all four fail once in 10 million."""
GREETING_JITTER = 0.2
"""Each pause is up to this share longer, so that a hundred newcomers do not send in step."""
PULL_AFTER_S = 0.3
"""A digest difference younger than this is a change still under way: one JOIN flight, generously."""
PULL_INTERVAL_S = 1.0
PULL_INTERVAL_S_MAX = 30.0
"""The pause between PULLs doubles up to this while they bring nothing new (a peer whose clock disagrees about an expiry)."""
PULL_OVERDUE_S = 5.0
"""Under constant churn digests never settle; PULL anyway this long after the last one."""
PULL_ANSWER_S = 3.0
"""MEMBERS count as asked for this long after a PULL."""
RENEW_S = 180.0
LINGER_S = 2.0
"""A pair key outlives its member by this, so that late frames and the second LEAVE are no strangers'."""
LEAVE_REPEAT_S = 0.1
WORK_BURST = 8
WORK_PER_S = 2.0
"""Certificates and PULLs taken from one peer per second: 2 x 130 us of work."""
OUTBOX_MAX = 1024
"""Frames waiting to be sent: 8 answers to each of 128 members; beyond it PULLs are refused."""


@attrs.frozen(slots=True)
class MemberJoined:
    """A node became a member; frames to it can be sealed."""

    member: Member


@attrs.frozen(slots=True)
class MemberUpdated:
    """A member renewed its certificate, restarted, or changed what it says about itself."""

    member: Member


@attrs.frozen(slots=True)
class MemberLeft:
    """A node is no longer a member."""

    node_id: NodeId
    reason: str
    """"left" (it said so) or "expired" (it stopped renewing)."""


@attrs.frozen(slots=True)
class ViewChanged:
    """Ids or boots of the living changed; comes once after a batch of changes."""

    digest: bytes
    """The view's new digest, 8 bytes."""
    size: int
    """Living members, this node included."""


@attrs.frozen(slots=True)
class IdentityConflict:
    """A certificate of this node's own id with a later boot was seen: another run uses the same identity, or our clock was set back."""

    boot: int
    """The other run's boot id."""


MembershipEvent: TypeAlias = MemberJoined | MemberUpdated | MemberLeft | ViewChanged | IdentityConflict | PeerMisbehaved


@attrs.define(slots=True)
class _Greeting:
    attempt: int
    due: float


@attrs.frozen(slots=True)
class _Outgoing:
    receiver: NodeId
    kind: FrameType
    flags: int
    content: bytes
    digest: bytes


class Membership:
    """Keeps one node's view of its group, and its pair keys, up to date.

    Args:
        identity: this node's keys.
        frames: the codec whose peers are kept equal to the view.
        view: the group's view; changed only through this object.
        certify: called with (seq, wall_ns, is_leaving), returns this node's sealed certificate of this boot.
        rng: for jitter, salts and choices.
        is_placed: says whether a node id belongs into this group; all do in a network of one group.

    After every call in, drain `datagrams_to_send` and `next_event`, and ask `get_timer`.
    """

    def __init__(
        self,
        identity: Identity,
        frames: FrameCodec,
        view: View,
        certify: Callable[[int, int, bool], bytes],
        rng: random.Random,
        *,
        is_placed: Callable[[NodeId], bool] = lambda _: True,
    ) -> None:
        self._me = identity.node_id
        self._frames = frames
        self._view = view
        self._certify = certify
        self._rng = rng
        self._is_placed = is_placed
        self._seq = -1
        self._own_certificate = b""
        self._conflicting_boot: int | None = None
        self._is_leaving = False
        self._heard: dict[NodeId, UdpAddress] = {}
        self._greetings: dict[NodeId, _Greeting] = {}
        self._budgets: dict[NodeId, TokenBucket] = {}
        self._lingering: dict[NodeId, float] = {}
        self._mismatches: dict[NodeId, bytes] = {}
        self._mismatch_since = 0.0
        self._pulled: dict[NodeId, tuple[int, float]] = {}
        self._pull_interval_s = PULL_INTERVAL_S
        self._last_pull = self._next_pull = 0.0
        self._renew_at: float | None = None
        self._expire_at: float | None = None
        self._leave_again_at: float | None = None
        self._outbox: deque[_Outgoing] = deque()
        self._events: deque[MembershipEvent] = deque()
        self._announced_digest = b""

    # commands

    def join(self, roster: Sequence[bytes], now: float, wall_ns: int) -> int:
        """Become a member together with those of `roster`: merge it, greet all, start renewing. Call it again for every roster found.

        Args:
            roster: certificates from an introducer, taken up one by one, bad ones reported; () for the first of a group.
            now: monotonic seconds.
            wall_ns: wall time, ns since 1970.

        Returns:
            How many of the roster are living members now.
        """
        if self._renew_at is None:
            self._last_pull = now
            self._issue(now, wall_ns)
        met = 0
        for certificate in roster[:ROSTER_MAX]:
            member = self._take_up_or_report(certificate, None, now, wall_ns)
            met += member is not None and member.node_id != self._me and member.node_id in self._view
        self._reckon_expiry(now, wall_ns)
        return met

    def admit(self, caller: NodeId, certificate: bytes, now: float, wall_ns: int) -> list[bytes]:
        """As introducer: take up a newcomer who asked over the control channel, and return the roster for it, own certificate included.

        Raises:
            RemoteProtocolError: the certificate is not the caller's own, is leaving, or cannot be merged.
        """
        member = self._require_own(caller, certificate, wall_ns, is_leaving=False)
        self._take_up(certificate, now, wall_ns, is_first_hand=True)
        self._reckon_expiry(now, wall_ns)
        tombstone = [] if member.node_id in self._view else [self._view.certificate(member.node_id)]
        return [*self._view.roster, *tombstone]

    def leave(self, now: float, wall_ns: int) -> None:
        """Tell all members that this node goes, now and once more after `LEAVE_REPEAT_S`. Nothing else is sent afterwards."""
        if self._renew_at is None or self._is_leaving:
            return
        self._is_leaving = True
        self._greetings.clear()
        self._mismatches.clear()
        self._outbox.clear()
        self._own_certificate = self._certify(self._seq + 1, wall_ns, True)
        self._renew_at = None
        self._leave_again_at = now + LEAVE_REPEAT_S
        self._broadcast(FrameType.LEAVE, self._own_certificate)

    # what others said

    def receive_frame(self, frame: Frame, source: UdpAddress, now: float, wall_ns: int) -> None:
        """Take an authenticated JOIN, LEAVE, PULL or MEMBERS frame.

        Raises:
            RemoteProtocolError: the sender broke a rule; nothing of that frame, or of the rest of it, was used.
        """
        match frame.type:
            case FrameType.JOIN:
                self._on_join(frame, source, now, wall_ns)
            case FrameType.LEAVE:
                self._on_leave(frame, now, wall_ns)
            case FrameType.PULL:
                self._require_member(frame.sender)
                self._on_pull(frame, now)
            case FrameType.MEMBERS:
                self._require_member(frame.sender)
                self._on_members(frame, source, now, wall_ns)
            case _:
                raise DecodeError(f"{frame.type.name} is no membership frame", reason="type")
        self._reckon_expiry(now, wall_ns)

    def note_heard(self, node_id: NodeId, source: UdpAddress, now: float) -> None:  # noqa: ARG002 - every entry takes the time
        """Any authenticated frame came from `node_id`: it knows us, and this is where it is (address translation, roaming)."""
        if self._heard.get(node_id) == source and node_id not in self._greetings:
            return
        if node_id in self._view:
            self._heard[node_id] = source
            self._greetings.pop(node_id, None)

    def observe_digest(self, peer: NodeId, digest: bytes, now: float) -> None:
        """A member said that its view's digest is this. Differences that last are repaired."""
        if digest == self._view.digest:
            self._mismatches.pop(peer, None)
        elif peer in self._view and peer != self._me and not self._is_leaving:
            if not self._mismatches:
                self._mismatch_since = now
            self._mismatches[peer] = digest

    # time

    def get_timer(self) -> float | None:
        """When to call `handle_timer`, monotonic seconds; None: only after the next call in."""
        candidates = [self._renew_at, self._expire_at, self._leave_again_at, self._pull_at()]
        if self._greetings:
            candidates.append(min(greeting.due for greeting in self._greetings.values()))
        if self._lingering:
            candidates.append(min(self._lingering.values()))
        return min((at for at in candidates if at is not None), default=None)

    def handle_timer(self, now: float, wall_ns: int) -> None:
        """Do what is due: greet, renew, expire, pull, leave again."""
        if self._renew_at is not None and now >= self._renew_at:
            self._issue(now, wall_ns)  # before expiry, so that a node that slept does not expire itself
        if self._leave_again_at is not None and now >= self._leave_again_at:
            self._leave_again_at = None
            self._broadcast(FrameType.LEAVE, self._own_certificate)
        for node_id, greeting in list(self._greetings.items()):
            if now >= greeting.due:
                self._greet(node_id, greeting, now)
        for node_id, until in list(self._lingering.items()):
            if now >= until:
                del self._lingering[node_id]
                self._frames.remove_peer(node_id)
        if self._expire_at is not None and now >= self._expire_at:
            for member in self._view.expire(wall_ns):
                self._forget(member.node_id, "expired", now)
            self._reckon_expiry(now, wall_ns)
        pull_at = self._pull_at()
        if pull_at is not None and now >= pull_at:
            self._pull(now)

    # out

    def address_of(self, node_id: NodeId) -> UdpAddress:
        """Return where to send datagrams for a member: where it was last heard, else what it announced first.

        Raises:
            KeyError: not a member.
        """
        heard = self._heard.get(node_id)
        if heard is not None:
            return heard
        member = self._view.get(node_id)
        if member is None:
            raise KeyError(node_id)
        return member.udp[0]

    def datagrams_to_send(self, now: float, read_stamp_ns: Callable[[], int]) -> Iterator[tuple[bytes, UdpAddress]]:  # noqa: ARG002
        """Yield sealed frames and where they go; the stamp clock is read right before each is sealed."""
        while self._outbox:
            item = self._outbox.popleft()
            if item.receiver in self._view:
                address = self.address_of(item.receiver)
                sealed = self._frames.seal(
                    item.receiver, item.kind, item.content, digest=item.digest, tx_ns=read_stamp_ns(), flags=item.flags
                )
                yield sealed, address

    def next_event(self) -> MembershipEvent | None:
        """Return what happened, oldest first; None: nothing more."""
        if self._events:
            return self._events.popleft()
        if self._view.digest != self._announced_digest:
            self._announced_digest = self._view.digest
            return ViewChanged(self._announced_digest, len(self._view))
        return None

    # frames

    def _on_join(self, frame: Frame, source: UdpAddress, now: float, wall_ns: int) -> None:
        try:
            certificate = decode_join(frame.content, frame.sender)
            if not self._view.holds(frame.sender, certificate):
                self._charge(frame.sender, now)
                self._require_own(frame.sender, certificate, wall_ns, is_leaving=False)
                self._take_up(certificate, now, wall_ns, is_first_hand=True)
            if frame.sender not in self._view:
                raise StaleRecord(f"{frame.sender!r} left already", reason="left")
        finally:
            if frame.sender not in self._view and frame.sender not in self._lingering:
                self._budgets.pop(frame.sender, None)
                self._frames.remove_peer(frame.sender)  # the codec let it in on the strength of this JOIN
        self.note_heard(frame.sender, source, now)
        if frame.flags & JOIN_ANSWER_WANTED:
            self._queue(frame.sender, FrameType.MEMBERS, encode_members(self._view.digest, ()))

    def _on_leave(self, frame: Frame, now: float, wall_ns: int) -> None:
        if not self._view.holds(frame.sender, frame.content):
            self._charge(frame.sender, now)
            self._require_own(frame.sender, frame.content, wall_ns, is_leaving=True)
            self._take_up(frame.content, now, wall_ns, is_first_hand=True)

    def _on_pull(self, frame: Frame, now: float) -> None:
        digest, salt, ids = decode_pull(frame.content)
        self._charge(frame.sender, now)
        if len(self._outbox) >= OUTBOX_MAX:
            raise LimitExceeded("too many frames wait to be sent", reason="pull-rate")
        missing = [certificate for certificate in self._view.certificates if certificate_id(certificate, salt) not in ids]
        self._rng.shuffle(missing)
        for batch in batches_of(missing):
            self._queue(frame.sender, FrameType.MEMBERS, encode_members(self._view.digest, batch))
        self.observe_digest(frame.sender, digest, now)

    def _on_members(self, frame: Frame, source: UdpAddress, now: float, wall_ns: int) -> None:
        digest, certificates = decode_members(frame.content)
        if certificates:
            frames_left, until = self._pulled.get(frame.sender, (0, 0.0))
            if not frames_left or now > until:
                raise LimitExceeded("MEMBERS that were not asked for", reason="unsolicited")
            self._pulled[frame.sender] = frames_left - 1, until
        for certificate in certificates:
            self._take_up_or_report(certificate, (frame.sender, source), now, wall_ns)
        self.observe_digest(frame.sender, digest, now)

    def _require_member(self, sender: NodeId) -> None:
        if sender not in self._view:
            raise DecodeError(f"{sender!r} is not a member", reason="not-member")

    def _require_own(self, sender: NodeId, certificate: bytes, wall_ns: int, *, is_leaving: bool) -> Member:
        member = Member.open(certificate, wall_ns=wall_ns)
        if member.node_id != sender:
            raise DecodeError(f"{sender!r} sent another's certificate as its own")
        if member.is_leaving != is_leaving:
            raise DecodeError("a leaving certificate in a JOIN, or a living one in a LEAVE")
        return member

    # certificates

    def _take_up_or_report(self, certificate: bytes, origin: tuple[NodeId, UdpAddress] | None, now: float, wall_ns: int) -> Member | None:
        """Take up one of several certificates from somebody else; a bad one does not keep the others away."""
        sender, source = origin or (None, None)
        try:
            return self._take_up(certificate, now, wall_ns, is_first_hand=False)
        except StaleRecord:
            return None  # expired meanwhile, or our clocks disagree: nobody's fault
        except Equivocation as evidence:
            self._events.append(PeerMisbehaved(NodeId(evidence.node_id), None, evidence.reason))
        except RemoteProtocolError as error:
            self._events.append(PeerMisbehaved(sender, source, error.reason))
        return None

    def _take_up(self, certificate: bytes, now: float, wall_ns: int, *, is_first_hand: bool) -> Member:
        """Merge a certificate and do what follows from it; return what it says, news or not."""
        member = Member.open(certificate, wall_ns=wall_ns)
        node_id = member.node_id
        if node_id == self._me:
            self._see_own(member, certificate, now, wall_ns)
            return member
        if not self._is_placed(node_id):
            raise DecodeError(f"{node_id!r} belongs into another group", reason="placement")
        if self._view.examine(certificate, wall_ns) is None:
            return member
        before = self._view.get(node_id)
        if not member.is_leaving:
            self._frames.add_peer(node_id)  # may refuse, so before the view changes
        self._view.merge(certificate, wall_ns)
        if member.is_leaving:
            if before is not None:
                self._forget(node_id, "left", now)
            return member
        self._lingering.pop(node_id, None)
        if before is not None and before.udp != member.udp:
            self._heard.pop(node_id, None)
        is_new_run = before is None or before.boot != member.boot
        self._events.append(MemberJoined(member) if before is None else MemberUpdated(member))
        if is_new_run:
            self._on_change(now)
            if not is_first_hand and not self._is_leaving:
                self._greetings[node_id] = _Greeting(0, now)
                self._greet(node_id, self._greetings[node_id], now)
        return member

    def _see_own(self, member: Member, certificate: bytes, now: float, wall_ns: int) -> None:
        """Others hold a certificate of mine: outdo it if it is of this run and newer than mine, for example a leave before a rejoin."""
        mine = self._view.get(self._me)
        if mine is None or certificate == self._own_certificate or member.version < mine.version or self._is_leaving:
            return
        if member.boot == mine.boot:
            self._seq = member.seq
            self._issue(now, wall_ns)
        elif member.boot != self._conflicting_boot:
            self._conflicting_boot = member.boot
            self._events.append(IdentityConflict(member.boot))

    def _issue(self, now: float, wall_ns: int) -> None:
        """Sign a new certificate of my own and tell all."""
        self._seq += 1
        self._own_certificate = self._certify(self._seq, wall_ns, False)
        self._view.merge(self._own_certificate, wall_ns)
        self._renew_at = now + RENEW_S * self._rng.uniform(0.9, 1.0)
        self._broadcast(FrameType.JOIN, encode_join(self._me, self._own_certificate))
        self._reckon_expiry(now, wall_ns)

    def _forget(self, node_id: NodeId, reason: str, now: float) -> None:
        for table in (self._heard, self._greetings, self._budgets, self._mismatches, self._pulled):
            table.pop(node_id, None)
        self._lingering[node_id] = now + LINGER_S
        self._events.append(MemberLeft(node_id, reason))
        self._on_change(now)

    def _on_change(self, now: float) -> None:
        """Ids or boots changed: what was observed before speaks of another view."""
        self._mismatches.clear()
        self._pull_interval_s = PULL_INTERVAL_S
        if self._next_pull > now:
            self._next_pull = min(self._next_pull, self._last_pull + self._jittered(PULL_INTERVAL_S))

    def _reckon_expiry(self, now: float, wall_ns: int) -> None:
        expiry_ns = self._view.next_expiry_ns
        self._expire_at = None if expiry_ns is None else now + max(0.0, (expiry_ns - wall_ns) / 1e9)

    # sending

    def _greet(self, node_id: NodeId, greeting: _Greeting, now: float) -> None:
        self._queue(node_id, FrameType.JOIN, encode_join(self._me, self._own_certificate), flags=JOIN_ANSWER_WANTED)
        greeting.attempt += 1
        if greeting.attempt >= len(GREETING_DELAYS_S):
            del self._greetings[node_id]
            return
        greeting.due = now + GREETING_DELAYS_S[greeting.attempt] * self._rng.uniform(1.0, 1.0 + GREETING_JITTER)

    def _pull_at(self) -> float | None:
        if not self._mismatches:
            return None
        return max(self._next_pull, min(self._mismatch_since + PULL_AFTER_S, self._last_pull + PULL_OVERDUE_S))

    def _pull(self, now: float) -> None:
        peer = self._rng.choice(sorted(self._mismatches))
        self._pulled = {node: (left, until) for node, (left, until) in self._pulled.items() if until > now}
        self._pulled[peer] = PULL_FRAMES_MAX, now + PULL_ANSWER_S
        self._last_pull = now
        self._next_pull = now + self._jittered(self._pull_interval_s)
        self._pull_interval_s = min(2.0 * self._pull_interval_s, PULL_INTERVAL_S_MAX)
        salt = self._rng.randbytes(SALT_BYTES)
        self._queue(peer, FrameType.PULL, encode_pull(self._view.digest, salt, self._view.certificates))

    def _jittered(self, interval_s: float) -> float:
        return interval_s * self._rng.uniform(1.0, 1.5)

    def _broadcast(self, kind: FrameType, content: bytes) -> None:
        digest = content_digest(content)
        self._outbox.extend(_Outgoing(node_id, kind, 0, content, digest) for node_id in self._view.ids if node_id != self._me)

    def _queue(self, receiver: NodeId, kind: FrameType, content: bytes, *, flags: int = 0) -> None:
        self._outbox.append(_Outgoing(receiver, kind, flags, content, content_digest(content)))

    def _charge(self, peer: NodeId, now: float) -> None:
        bucket = self._budgets.get(peer)
        if bucket is None:
            bucket = self._budgets[peer] = TokenBucket(WORK_PER_S, WORK_BURST, now)
        if not bucket.take(now):
            raise LimitExceeded("too many certificates or pulls from one peer", reason="member-rate")
