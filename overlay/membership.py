"""Who is in my pulse group, kept equal at all members: spreads membership certificates over frames. A core.

Theory of operation. A newcomer gets a roster from an introducer (`join.py`) and tells every member itself: a JOIN frame with its
certificate, repeated until a frame from that member shows that it holds the pair key (`greetings.py`). The member answers with its digest,
never with more bytes than it was asked with. Nobody forwards news: in a full mesh the newcomer reaches all in one hop, and what loss leaves
out is repaired by comparing digests. Digests travel in these answers and in the pulse; a difference that lasts makes a node PULL
(`pulls.py`): it names what it holds, the other sends MEMBERS frames with what is missing there, tombstones and proofs of burial too, and
may PULL back. Whoever learns of a member from somebody else greets it with JOIN, so that both know each other. Certificates are renewed
every three minutes and expire after ten; a leaving node says so twice.

Failures. Who does not hear a member it watches says so to all, the accused too: an ACCUSE frame, twice. Everybody counts for itself
(`verdict.py`) and buries whom a quorum accuses; a grave outlives every certificate of that run. A buried node that lives is shown the
proof and comes back with a greater boot, unless it did so too often lately (`burials.py`).

Invariants. Whoever is alive in the view has a pair key in the codec, and some seconds longer, a buried one a minute. Own certificates are
issued here only. A peer can cause work only within its budget: `WORK_BURST` certificates or PULLs, refilled at `WORK_PER_S`, and as many
accusations as `verdict.py` says; unasked MEMBERS are dropped. No entry costs more than O(log n) unless the view changes or is pulled.

Events: MemberJoined, MemberUpdated, MemberLeft, MemberAccused, ViewChanged, SelfBuried, IdentityConflict, PeerMisbehaved.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from srwan.errors import DecodeError, Equivocation, LimitExceeded, LocalProtocolError, RemoteProtocolError, StaleRecord
from srwan.identity import Identity
from srwan.overlay.accusation import ACCUSATION_BYTES, Accusation, is_bundle
from srwan.overlay.budgets import Budgets
from srwan.overlay.burials import Burials
from srwan.overlay.deadlines import Deadlines
from srwan.overlay.frame import Frame, FrameCodec, FrameType
from srwan.overlay.greetings import Greetings
from srwan.overlay.member_events import (
    IdentityConflict,
    MemberJoined,
    MemberLeft,
    MembershipEvent,
    MemberUpdated,
    SelfBuried,
    ViewChanged,
)
from srwan.overlay.member_frames import (
    ANSWER_ENDS,
    ANSWER_FULL,
    JOIN_ANSWER_WANTED,
    ROSTER_MAX,
    SALT_BYTES,
    batches_of,
    decode_join,
    decode_members,
    decode_pull,
    encode_join,
    encode_members,
    encode_pull,
    held_of,
    missing_of,
)
from srwan.overlay.outbox import Outbox
from srwan.overlay.pulls import PullPlan
from srwan.overlay.renewals import Renewals
from srwan.overlay.ring import Ring
from srwan.overlay.verdict import Verdict, Verdicts
from srwan.overlay.view import Grave, Member, View
from srwan.types import NodeId, PeerMisbehaved, UdpAddress

__all__ = ["Membership"]

RENEW_S = 180.0
LINGER_S = 2.0
"""A pair key outlives its member by this, so that late frames and the second LEAVE are no strangers'."""
BURIED_LINGER_S = 150.0
"""The same for a buried member: should it live it is told, and its rejoin comes by JOIN under the old key."""
LEAVE_REPEAT_S = 0.1
ACCUSE_REPEAT_S = 0.4
"""Accusations go out once more after this: at 5 % loss a member misses both once in 400."""
WORK_BURST, WORK_PER_S = 8, 2.0
"""Certificates and PULLs taken from one peer per second: 2 x 130 us of work."""
OUTBOX_MAX = 1024
"""Frames waiting to be sent: 8 answers to each of 128 members; beyond it PULLs are refused."""

_S = 1_000_000_000


class Membership:
    """Keeps one node's view of its group, and its pair keys, up to date.

    Args:
        identity: this node's keys.
        frames: the codec whose peers are kept equal to the view.
        view: the group's view; changed only through this object.
        certify: called with (boot, seq, wall_ns, is_leaving), returns this node's sealed certificate.
        rng: for jitter, salts and choices.
        boot: of this node's certificates, until `rejoin` takes a greater one.
        is_placed: says whether a node id belongs into this group; all do in a network of one group.

    After every call in, drain `datagrams_to_send` and `next_event`, and ask `get_timer`.
    """

    def __init__(
        self,
        identity: Identity,
        frames: FrameCodec,
        view: View,
        certify: Callable[[int, int, int, bool], bytes],
        rng: random.Random,
        *,
        boot: int,
        is_placed: Callable[[NodeId], bool] = lambda _: True,
    ) -> None:
        self._me = identity.node_id
        self._frames = frames
        self._view = view
        self._certify = certify
        self._rng = rng
        self._is_placed = is_placed
        self._boot = boot
        self._seq = -1
        self._own_certificate = b""
        self._conflicting_boot: int | None = None
        self._is_leaving = False
        self._heard: dict[NodeId, UdpAddress] = {}
        self._greetings = Greetings(rng)
        self._budgets = Budgets("certificates or pulls", WORK_PER_S, WORK_BURST)
        self._lingering = Deadlines()
        self._pulls = PullPlan(rng)
        self._renewals = Renewals(rng)
        self._verdicts = Verdicts(identity, view.group)
        self._burials = Burials()
        self._accuse_again: deque[tuple[float, bytes]] = deque()
        self._buried_boot: int | None = None
        self._renew_at: float | None = None
        self._expire_at: float | None = None
        self._leave_again_at: float | None = None
        self._outbox = Outbox(frames)
        self._events: deque[MembershipEvent] = deque()
        self._announced_digest = b""
        for member in view.members:
            self._verdicts.add(member.node_id, member.boot)

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
            self._pulls.start(now)
            self._renewals.start(now)
            self._issue(now, wall_ns)
        elif roster and len(self._view) == 1:
            self._pulls.start(now)  # it was alone till now
        met = 0
        for item in roster[:ROSTER_MAX]:
            member = self._take_up_or_report(item, None, now, wall_ns)
            met += member is not None and member.node_id != self._me and member.node_id in self._view
        self._settle(now, wall_ns)
        return met

    def admit(self, caller: NodeId, certificate: bytes, now: float, wall_ns: int) -> list[bytes]:
        """As introducer: take up a newcomer who asked over the control channel, and return the roster for it, own certificate included.

        Raises:
            RemoteProtocolError: the certificate is not the caller's own, is leaving, or cannot be merged.
        """
        member = self._require_own(caller, certificate, wall_ns, is_leaving=False)
        self._take_up(certificate, now, wall_ns, is_first_hand=True)
        self._settle(now, wall_ns)
        if member.node_id in self._view:
            return list(self._view.roster)
        grave = self._view.grave(member.node_id)
        if grave is not None and member.boot <= grave.boot:
            return [*self._view.roster, *grave.bundles]
        return [*self._view.roster, self._view.certificate(member.node_id)]

    def leave(self, now: float, wall_ns: int) -> None:
        """Tell all members that this node goes, now and once more after `LEAVE_REPEAT_S`. Nothing else is sent afterwards."""
        if self._renew_at is None or self._is_leaving:
            return
        self._is_leaving = True
        self._greetings.clear()
        self._pulls.stop()
        self._accuse_again.clear()
        self._outbox.clear()
        self._own_certificate = self._certify(self._boot, self._seq + 1, wall_ns, True)
        self._renew_at = None
        self._leave_again_at = now + LEAVE_REPEAT_S
        self._outbox.queue(self._others(), FrameType.LEAVE, self._own_certificate)

    def rejoin(self, boot: int, now: float, wall_ns: int) -> None:
        """Start a new run after `SelfBuried`: certificates of a greater boot, and a greeting to everybody in the view.

        A member that buried this node often lately takes the new run up later by itself (`burials.py`).

        Raises:
            LocalProtocolError: `boot` is not greater than that of the last run, or this node has not joined yet.
        """
        if boot <= self._boot or self._renew_at is None:
            raise LocalProtocolError(f"cannot start run {boot} after run {self._boot}; join first, and use a greater boot")
        self._boot, self._seq, self._conflicting_boot = boot, -1, None
        self._pulls.start(now)
        self._issue(now, wall_ns, is_told=False)
        for node_id in self._others():
            self._greet(node_id, now)

    def accuse(self, subject: NodeId, round: int, now: float, wall_ns: int) -> None:  # noqa: A002 - the protocol's word
        """Tell all members, the subject too, that this node does not hear it; now and once more after `ACCUSE_REPEAT_S`.

        Nothing happens if the subject is no living member or this node, or if our last accusation of it is fresh and unrefuted, so it
        may be called again while the silence lasts.

        Args:
            subject: who is not heard.
            round: sequence of the last row of it that is held, 0: none.
            now: monotonic seconds.
            wall_ns: wall time, ns since 1970.
        """
        if self._is_leaving:
            return
        taken = self._verdicts.accuse(subject, round, now, wall_ns // _S)
        if taken is None:
            return
        accusation, event = taken
        content = accusation.encode()
        self._events.append(event)
        self._outbox.queue(self._others(), FrameType.ACCUSE, content)
        self._accuse_again.append((now + ACCUSE_REPEAT_S, content))
        self._settle(now, wall_ns)

    def refute(self, node: NodeId, round: int, now: float) -> None:  # noqa: A002, ARG002 - the protocol's word; every entry takes the time
        """An authentic row of `node`'s present run came with this sequence: accusations by those who held an older one are dropped."""
        self._verdicts.refute(node, round)

    # what others said

    def receive_frame(self, frame: Frame, source: UdpAddress, now: float, wall_ns: int) -> None:
        """Take an authenticated JOIN, LEAVE, PULL, MEMBERS or ACCUSE frame.

        Raises:
            RemoteProtocolError: the sender broke a rule; nothing of that frame, or of the rest of it, was used.
        """
        if frame.type not in (FrameType.JOIN, FrameType.LEAVE):
            self._require_member(frame.sender, source, now)
        match frame.type:
            case FrameType.JOIN:
                self._on_join(frame, source, now, wall_ns)
            case FrameType.LEAVE:
                self._on_leave(frame, now, wall_ns)
            case FrameType.PULL:
                self._on_pull(frame, now)
            case FrameType.MEMBERS:
                self._on_members(frame, source, now, wall_ns)
            case FrameType.ACCUSE:
                self._on_accuse(frame, now, wall_ns)
            case _:
                raise DecodeError(f"{frame.type.name} is no membership frame", reason="type")
        self._settle(now, wall_ns)

    def note_heard(self, node_id: NodeId, source: UdpAddress, now: float) -> None:
        """Any authenticated frame came from `node_id`: it knows us, and this is where it is (address translation, roaming).

        If it was buried it is told so, at most once in some seconds.
        """
        if self._heard.get(node_id) == source and node_id not in self._greetings:
            return
        if node_id in self._view:
            self._heard[node_id] = source
            self._greetings.stop(node_id)
        else:
            self._tell_buried(node_id, source, now)

    def observe_digest(self, peer: NodeId, digest: bytes, now: float) -> None:
        """A member said that its view's digest is this. Differences that last are repaired."""
        if digest == self._view.digest:
            self._pulls.agree(peer)
        elif peer in self._view and peer != self._me and not self._is_leaving:
            self._pulls.differ(peer, now)

    def hold(self, until: float) -> None:
        """Greet nobody again before `until`, monotonic seconds: this host does not keep up with what it hears."""
        self._greetings.hold(until)

    # time

    def get_timer(self) -> float | None:
        """When to call `handle_timer`, monotonic seconds; None: only after the next call in. Cost: 1.5 us, however many members."""
        first: float | None = None
        for at in (
            self._renew_at,
            self._expire_at,
            self._leave_again_at,
            self._accuse_again[0][0] if self._accuse_again else None,
            self._greetings.due_at(),
            self._lingering.due_at(),
            self._burials.get_timer(),
            self._verdicts.get_timer(),
            self._pulls.due_at(),
            self._renewals.due_at,
        ):
            if at is not None and (first is None or at < first):
                first = at
        return first

    def handle_timer(self, now: float, wall_ns: int) -> None:
        """Do what is due: greet, renew, expire, accuse and leave again, judge, pull."""
        if self._renew_at is not None and now >= self._renew_at:
            self._issue(now, wall_ns)  # before expiry, so that a node that slept does not expire itself
        if self._leave_again_at is not None and now >= self._leave_again_at:
            self._leave_again_at = None
            self._outbox.queue(self._others(), FrameType.LEAVE, self._own_certificate)
        while self._accuse_again and now >= self._accuse_again[0][0]:
            self._outbox.queue(self._others(), FrameType.ACCUSE, self._accuse_again.popleft()[1])
        for node_id in self._greetings.pop_due(now):
            self._greet(node_id, now)
        for node_id in self._lingering.pop_due(now):
            self._burials.forget_address(node_id)
            self._frames.remove_peer(node_id)
        for certificate in self._burials.pop_held_off(now):
            self._take_up_or_report(certificate, None, now, wall_ns)
        self._verdicts.handle_timer(now)
        if self._expire_at is not None and now >= self._expire_at:
            for member in self._view.expire(wall_ns):
                self._forget(member.node_id, "expired", now)
        self._settle(now, wall_ns)
        if (pull_at := self._pulls.due_at()) is not None and now >= pull_at:
            self._pull(self._pulls.choose(self._others(), now))
        if self._renewals.due_at is not None and now >= self._renewals.due_at:
            self._ask_for_renewals(now, wall_ns)

    # out

    @property
    def ring(self) -> Ring:
        """Who watches whom, over the living; read only. Verdicts count by this one."""
        return self._verdicts.ring

    def address_of(self, node_id: NodeId) -> UdpAddress:
        """Return where to send datagrams for a member: where it was last heard, else what it announced first.

        Raises:
            KeyError: not a member.
        """
        if (heard := self._heard.get(node_id)) is not None:
            return heard
        if (member := self._view.get(node_id)) is None:
            raise KeyError(node_id)
        return member.udp[0]

    def datagrams_to_send(self, now: float, read_stamp_ns: Callable[[], int]) -> Iterator[tuple[bytes, UdpAddress]]:  # noqa: ARG002
        """Yield sealed frames and where they go; the stamp clock is read right before each is sealed."""
        return self._outbox.drain(self._address_to_send, read_stamp_ns)

    def _address_to_send(self, node_id: NodeId) -> UdpAddress | None:
        return self.address_of(node_id) if node_id in self._view else self._burials.address_of(node_id)

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
        is_stranger = frame.sender not in self._view and len(self._view) > 1  # who greets a lone node knows only that
        try:
            certificate = decode_join(frame.content, frame.sender)
            if not self._view.holds(frame.sender, certificate):
                self._budgets.charge(frame.sender, now)
                self._require_own(frame.sender, certificate, wall_ns, is_leaving=False)
                self._take_up(certificate, now, wall_ns, is_first_hand=True)
                if is_stranger:
                    self._pulls.met(now)
            if frame.sender not in self._view:
                self._tell_buried(frame.sender, source, now)
                raise StaleRecord(f"{frame.sender!r} left already", reason="left")
        finally:
            if frame.sender not in self._view and frame.sender not in self._lingering:
                self._budgets.forget(frame.sender)
                self._frames.remove_peer(frame.sender)  # the codec let it in on the strength of this JOIN
        self.note_heard(frame.sender, source, now)
        if frame.flags & JOIN_ANSWER_WANTED:
            self._queue(frame.sender, FrameType.MEMBERS, encode_members(self._view.digest, ()))

    def _on_leave(self, frame: Frame, now: float, wall_ns: int) -> None:
        if not self._view.holds(frame.sender, frame.content):
            self._budgets.charge(frame.sender, now)
            self._require_own(frame.sender, frame.content, wall_ns, is_leaving=True)
            self._take_up(frame.content, now, wall_ns, is_first_hand=True)

    def _on_pull(self, frame: Frame, now: float) -> None:
        digest, salt, ids = decode_pull(frame.content)
        self._budgets.charge(frame.sender, now)
        if len(self._outbox) >= OUTBOX_MAX:
            raise LimitExceeded("too many frames wait to be sent", reason="pull-rate")
        missing = missing_of(self._view, salt, ids, self._rng)
        batches = batches_of(missing)
        flags = ANSWER_ENDS | (ANSWER_FULL if sum(map(len, batches)) < len(missing) else 0)
        for number, batch in enumerate(batches, 1):
            content = encode_members(self._view.digest, batch)
            self._queue(frame.sender, FrameType.MEMBERS, content, flags=flags if number == len(batches) else 0)
        self.observe_digest(frame.sender, digest, now)

    def _on_members(self, frame: Frame, source: UdpAddress, now: float, wall_ns: int) -> None:
        digest, items = decode_members(frame.content)
        if items:
            self._pulls.require_asked(frame.sender, now)
        for item in items:
            self._take_up_or_report(item, (frame.sender, source), now, wall_ns)
        self._settle(now, wall_ns)
        self.observe_digest(frame.sender, digest, now)
        if frame.flags & ANSWER_ENDS:
            self._pulls.answered(frame.sender, now, is_full=bool(frame.flags & ANSWER_FULL))
        elif not items:
            self._pulls.greeted(frame.sender, now)

    def _on_accuse(self, frame: Frame, now: float, wall_ns: int) -> None:
        """An accusation; or, from one who buried us, why."""
        if len(frame.content) == ACCUSATION_BYTES:
            event = self._verdicts.receive(Accusation.decode(frame.content, frame.sender), now, wall_ns // _S)
            if event is not None:
                self._events.append(event)
        elif is_bundle(frame.content) and frame.content[1:33] == self._me:
            self._budgets.charge(frame.sender, now)
            self._events.extend(self._verdicts.receive_bundle(frame.content, now, wall_ns // _S))
        else:
            raise DecodeError(f"an accusation of {len(frame.content)} bytes")

    def _require_member(self, sender: NodeId, source: UdpAddress, now: float) -> None:
        if sender not in self._view:
            self._tell_buried(sender, source, now)
            raise DecodeError(f"{sender!r} is not a member", reason="not-member")

    def _require_own(self, sender: NodeId, certificate: bytes, wall_ns: int, *, is_leaving: bool) -> Member:
        member = Member.open(certificate, wall_ns=wall_ns)
        if member.node_id != sender:
            raise DecodeError(f"{sender!r} sent another's certificate as its own")
        if member.is_leaving != is_leaving:
            raise DecodeError("a leaving certificate in a JOIN, or a living one in a LEAVE")
        return member

    # certificates

    def _take_up_or_report(self, item: bytes, origin: tuple[NodeId, UdpAddress] | None, now: float, wall_ns: int) -> Member | None:
        """Take up one of several certificates or bundles from somebody else; a bad one does not keep the others away."""
        sender, source = origin or (None, None)
        try:
            if not is_bundle(item):
                return self._take_up(item, now, wall_ns, is_first_hand=False)
            self._events.extend(self._verdicts.receive_bundle(item, now, wall_ns // _S))
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
        if before is None and not member.is_leaving:
            self._burials.require_no_hold_off(node_id, certificate, now)
        if not member.is_leaving:
            self._frames.add_peer(node_id)  # may refuse, so before the view changes
        self._view.merge(certificate, wall_ns)
        if member.is_leaving:
            if before is not None:
                self._forget(node_id, "left", now)
            return member
        self._verdicts.add(node_id, member.boot)
        self._lingering.discard(node_id)
        self._burials.resurrect(node_id)
        if before is not None and before.udp != member.udp:
            self._heard.pop(node_id, None)
        self._events.append(MemberJoined(member) if before is None else MemberUpdated(member))
        if before is None or before.boot != member.boot:
            self._pulls.view_changed(now)
            if not is_first_hand and not self._is_leaving:
                self._greet(node_id, now)
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

    def _issue(self, now: float, wall_ns: int, *, is_told: bool = True) -> None:
        """Sign a new certificate of my own and tell all."""
        self._seq += 1
        self._own_certificate = self._certify(self._boot, self._seq, wall_ns, False)
        self._view.merge(self._own_certificate, wall_ns)
        self._verdicts.add(self._me, self._boot)
        self._renew_at = now + RENEW_S * self._rng.uniform(0.9, 1.0)
        if is_told:
            self._outbox.queue(self._others(), FrameType.JOIN, encode_join(self._me, self._own_certificate))
        self._reckon_expiry(now, wall_ns)

    def _forget(self, node_id: NodeId, reason: str, now: float) -> None:
        self._greetings.stop(node_id)
        self._pulls.forget(node_id)
        self._verdicts.remove(node_id, now)
        self._heard.pop(node_id, None)
        self._budgets.forget(node_id)
        if node_id not in self._lingering:
            self._lingering.set(node_id, now + LINGER_S)
        self._events.append(MemberLeft(node_id, reason))
        self._pulls.view_changed(now)

    # burials

    def _settle(self, now: float, wall_ns: int) -> None:
        """Apply what is condemned, all in one go; a new ring may condemn more."""
        while cut := self._verdicts.pop_cut(now):
            for verdict in cut:
                self._apply(verdict, now)
        self._reckon_expiry(now, wall_ns)

    def _apply(self, verdict: Verdict, now: float) -> None:
        subject = verdict.subject
        if subject == self._me:
            if verdict.boot != self._buried_boot:
                self._buried_boot = verdict.boot
                self._events.append(SelfBuried(verdict.boot))
            return
        address = self.address_of(subject)
        self._view.bury(subject, Grave(verdict.boot, verdict.bundles, verdict.until_s * _S))
        self._linger_buried(subject, address, now)
        self._burials.note_burial(subject, now)
        self._forget(subject, "failed", now)

    def _linger_buried(self, node_id: NodeId, address: UdpAddress, now: float) -> None:
        self._lingering.set(node_id, now + BURIED_LINGER_S)
        if (pushed_out := self._burials.keep_address(node_id, address)) is not None:
            self._lingering.discard(pushed_out)
            self._frames.remove_peer(pushed_out)

    def _tell_buried(self, node_id: NodeId, source: UdpAddress, now: float) -> None:
        """A run that was buried still sends: show it the proof, so that it starts anew."""
        grave = self._view.grave(node_id)
        if grave is None or not self._burials.may_tell(node_id, now):
            return
        self._frames.add_peer(node_id)
        self._linger_buried(node_id, source, now)
        for bundle in grave.bundles:
            self._queue(node_id, FrameType.ACCUSE, bundle)

    def _reckon_expiry(self, now: float, wall_ns: int) -> None:
        expiry_ns = self._view.next_expiry_ns
        self._expire_at = None if expiry_ns is None else now + max(0.0, (expiry_ns - wall_ns) / 1e9)

    # sending

    def _greet(self, node_id: NodeId, now: float) -> None:
        self._queue(node_id, FrameType.JOIN, encode_join(self._me, self._own_certificate), flags=JOIN_ANSWER_WANTED)
        self._greetings.sent(node_id, now)

    def _ask_for_renewals(self, now: float, wall_ns: int) -> None:
        peer = self._renewals.choose(self._view.members, self._others(), now, wall_ns)
        if peer is not None and not self._is_leaving:
            self._pulls.ask(peer, now)
            self._pull(peer)

    def _pull(self, peer: NodeId | None) -> None:
        if peer is not None:
            self._queue(peer, FrameType.PULL, encode_pull(self._view.digest, self._rng.randbytes(SALT_BYTES), held_of(self._view)))

    def _others(self) -> list[NodeId]:
        return [node_id for node_id in self._view.ids if node_id != self._me]

    def _queue(self, receiver: NodeId, kind: FrameType, content: bytes, *, flags: int = 0) -> None:
        self._outbox.queue((receiver,), kind, content, flags=flags)
