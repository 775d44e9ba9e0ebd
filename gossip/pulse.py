"""The pulse: each member tells each other, every period, what it measured, and is measured by doing so.

Theory of operation. A *round* is one signed row, sent to every member as one frame each, whose transmit stamp is taken right before it is
sealed. The receiver's stamp minus the sender's is a sample of the edge between them; the row inside carries the samples its sender has of
all others. So each member holds the whole directed matrix after everybody pulsed twice. `rounds.py` says when, `group_time.py` keeps the
stamps comparable in 16 bits, `owl.py` holds the result.

Repair. A pulse with the flag AGAIN says "something of yours is missing here"; the other sends its latest content once more, to the asker
only. An ask is as large as its answer, so nothing amplifies; asks per peer and answers per time are bounded, since a hole may be real.

Trust. The frame's pairwise tag proves who sent a row; its signature is for third parties and is checked on the first row of a
peer's run, on one of sixteen, and on every row that leaves this member (`verified_rows`). Two authentic contents at one (boot, seq) are
a proof of equivocation and leave as an event.

Invariants: nothing is sent before group time has settled; (boot, seq) never falls; a row whose roster is not ours changes no matrix.
Order of calls, as everywhere: one call in, then drain `datagrams_to_send` and `next_event`, then ask `get_timer`. Loss counts rounds, not
frame sequences: those are shared with frames that other rooms read.
"""

from __future__ import annotations

import math
import random
import struct
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import NamedTuple

import attrs

from srwan.errors import BadSignature, DecodeError, LimitExceeded, RemoteProtocolError
from srwan.gossip.events import ClockRealigned, EchoMeasured, EquivocationSeen, MatrixFilled, MatrixIncomplete, PeerClockMoved, PulseEvent
from srwan.gossip.group_time import GroupTime
from srwan.gossip.inbound import Arrivals, Inbound, told_by
from srwan.gossip.owl import Entries, OwlMatrix, OwlSnapshot
from srwan.gossip.repair import Repair
from srwan.gossip.roster import Roster
from srwan.gossip.rounds import Rounds
from srwan.gossip.row import ENTRIES_MAX, RAW_MS_MAX, ClockClaim, Row, SignedRow, open_row, seal_row
from srwan.identity import Identity
from srwan.overlay.frame import Frame, FrameCodec, FrameType, content_digest
from srwan.types import NodeId, PeerMisbehaved, UdpAddress

__all__ = ["Pulse"]

PERIOD_S = 10.0
STALE_PERIODS = 2.5
"""An edge is unknown when nothing came for 2.5 periods and STALE_EXTRA_S: two pulses in a row may be lost."""
STALE_EXTRA_S = 1.0
DESCRIBED_S = 15.0
"""Rows are self-describing for so long after a change of the roster: views settle within seconds, rows live for one and a half periods."""
CLOCK_MOVE_S = 1.5
"""Rows made earlier after a peer's clock move still speak of its old clock."""
TELL_AFTER_MOVE_S = 0.3
"""A round so long after CLOCK_MOVE_S tells all what was measured with the new clock: offsets and flights differ by that."""
REACTION_GAP_S = 60.0
"""Clock moves of one peer that come faster are taken, but not answered with an extra round."""
VERIFY_ONE_IN = 16
TICK_BUSY_S = 0.3
TICK_S = 2.0
TICK_HOLES_S = 5.0
"""How often the matrix is looked at: soon after a change while it is incomplete, calmly while it is whole, and rarely while it has holes
that last, because then they must be counted."""
BUSY_S = 10.0
RESEND_GAP_S, EVENTS_MAX = 0.2, 1024

FLAG_AGAIN = 1
"""PULSE: please send yours once more, to me."""
FLAG_SETTLED = 1
"""ECHO: my group time is settled."""
_PROBE = struct.Struct("<QQ")
"""PROBE: nonce, zeros. ECHO: nonce, t2. Of equal size, so that nobody can be made to send more than was sent to him."""


class _Outgoing(NamedTuple):
    receiver: NodeId
    kind: FrameType
    content: bytes = b""
    digest: bytes = b""
    flags: int = 0


@attrs.frozen(slots=True)
class _Told:
    """The latest own row, and how much it told."""

    row: Row
    content: bytes
    digest: bytes
    at: float


class Pulse:
    """Measures and tells. A core: stamps of this host come in as arguments, group time is added here.

    Args:
        identity: this member's keys.
        frames: seals frames; shared with the rest of the overlay.
        group: the 32-byte group id.
        boot: `Clock.boot_id`.
        rng: phases, jitter, nonces, sampling.
        period_s: time between regular rounds.
    """

    def __init__(
        self, identity: Identity, frames: FrameCodec, group: bytes, *, boot: int, rng: random.Random, period_s: float = PERIOD_S
    ) -> None:
        self._identity = identity
        self._frames = frames
        self._group = group
        self._boot = boot
        self._rng = rng
        self._fresh_s = STALE_PERIODS * period_s
        self._peers: dict[NodeId, Inbound] = {}
        self._slot = 0
        self._own: SignedRow | None = None
        self._rounds = Rounds(period_s, rng)
        self._repair = Repair(self._fresh_s, rng)
        self._roster = Roster((identity.node_id,), bytes(8))
        self._queue: deque[_Outgoing] = deque()
        self._events: deque[PulseEvent] = deque()
        self._seq = 0
        self._rows_unverified = 0
        self._told: _Told | None = None
        self._owed_at = -math.inf
        self._rounds_since_change = 0
        self._is_round_due: bool | None = None
        self._is_timer_moved = False
        self._members_at = -math.inf
        self._changed_at = -math.inf
        self._described_until = -math.inf
        self._tick_at = math.inf
        self._heard = (0, 0.0)
        self._is_full = False
        self.matrix = OwlMatrix(identity.node_id, stale_s=self._fresh_s + STALE_EXTRA_S)
        """The group's raw one-way latencies as known here."""
        self.time = GroupTime(rng)
        """This member's offset to group time."""
        self.new_row: Row | None = None
        """The row that the last frame brought, None if it brought none or an old one."""
        self.drops: Counter[str] = Counter()
        """Input dropped, by reason."""
        self.counters: tuple[int, int, int] = (0, 0, 0)
        """Octets in, out and relayed since boot, told in every row; set by the data plane's owner."""
        self.health = 0
        """u8, told in every row; 0 = well."""
        self.clock: ClockClaim | None = None
        """What this member believes of its clock, told in every row."""

    @property
    def rows(self) -> Mapping[NodeId, SignedRow]:
        """The latest row of each member that was heard, the own one included. Not all are verified. Cost: 10 us for n = 100."""
        rows = {node: peer.signed for node, peer in self._peers.items() if peer.signed is not None}
        if self._own is not None:
            rows[self._identity.node_id] = self._own
        return rows

    @property
    def seq(self) -> int:
        """Number of the latest own round, 0 before the first."""
        return self._seq

    @property
    def roster_digest(self) -> bytes:
        """What slot order refers to now, 8 bytes."""
        return self._roster.digest

    @property
    def has_output(self) -> bool:
        """Whether `datagrams_to_send` would yield something."""
        return bool(self._queue) or self._is_round_due is not None

    def set_members(self, members: Mapping[NodeId, UdpAddress], digest: bytes, now: float) -> None:
        """Say who the members are; this one may be among them. Pair keys are agreed with new ones.

        Args:
            members: where each is sent to; at most ENTRIES_MAX, the excess (greatest ids) is left out.
            digest: 8 bytes that name this roster (`View.digest`).
            now: monotonic seconds.
        """
        others = {node: members[node] for node in sorted(members.keys() - {self._identity.node_id})[: ENTRIES_MAX - 1]}
        for gone in [node for node in self._peers if node not in others]:
            del self._peers[gone]
        comers = 0
        for node, address in others.items():
            if node in self._peers:
                self._peers[node].address = address
            elif self._can_reach(node, address):
                self._peers[node] = Inbound(address)
                comers += 1
        if digest != self._roster.digest:
            self._described_until = now + DESCRIBED_S
        self.time.set_peers(self._peers, now)
        is_change = bool(comers) or len(self._peers) + 1 != len(self.matrix.members)
        if is_change:
            self.matrix.set_members(tuple(self._peers))
            for slot, node in enumerate(self.matrix.members):
                if node in self._peers:
                    self._peers[node].slot = slot
                else:
                    self._slot = slot
        if is_change or digest != self._roster.digest:
            self._roster = Roster(self.matrix.members, digest)
        if is_change:
            self._is_full = False
            self._members_at = now
            self._note_change(now, comers / max(1, len(self._peers)))

    def row_of(self, node: NodeId) -> SignedRow | None:
        """Return the latest row of another member, None if there is none. It may not be verified."""
        peer = self._peers.get(node)
        return None if peer is None else peer.signed

    def snapshot(self, now: float) -> OwlSnapshot:
        """Return the matrix as of `now`, what this member would tell now included."""
        return self._current(now).snapshot(now)

    def edges_known(self, now: float) -> int:
        """Count the directed edges known, as `snapshot`."""
        return self._current(now).edges_known(now)

    def probe(self, node: NodeId) -> None:
        """Send a member a probe; its echo is an EchoMeasured. Without effect for others."""
        if node in self._peers:
            self._queue.append(_Outgoing(node, FrameType.PROBE))

    def rounds_judged(self) -> dict[NodeId, tuple[int, int]]:
        """Return for every member heard how many of its rounds were lost, of how many judged, since it started."""
        return {node: (heard.lost, heard.judged) for node, peer in self._peers.items() if (heard := peer.arrivals) is not None}

    def clock_stepped(self, by_ms: float, now: float) -> None:
        """This host's clock was found to have stepped: group time does not follow, and all measurements start again."""
        self.time.clock_stepped(int(by_ms * 1e6))
        self._start_again(-by_ms, now)

    def tell_soon(self, now: float) -> None:
        """Make an extra round soon: somebody doubts that this member lives."""
        self._owed_at = now
        self._rounds.news(now)
        self._is_timer_moved = True

    def hold(self, until: float) -> None:
        """Until then tell only what is regular and ask for nothing: this host does not keep up with what it hears."""
        for part in (self._rounds, self._repair, self.time):
            part.hold(until)

    def receive_frame(self, frame: Frame, source: UdpAddress, rx_ns: int, now: float) -> bool:
        """Take in an authenticated PULSE, PROBE or ECHO. Never raises for what a peer sent: it drops and counts.

        Args:
            frame: from `FrameCodec.open`.
            source: where it came from, for events only.
            rx_ns: the kernel's receive stamp, ns of this host's stamp clock.
            now: monotonic seconds.

        Returns:
            Whether there may be something to send or to tell now, or an earlier timer.

        Cost: 8 us for a PULSE, without folding into the matrix and the signature, if another router of this process parsed the row.
        """
        peer = self._peers.get(frame.sender)
        if peer is None:
            self.drops["not-member"] += 1
            return False
        peer.address = source  # authenticated: this is where it is now
        self._is_timer_moved = False
        self.new_row = None
        try:
            if frame.type is FrameType.PULSE:
                self._receive_pulse(peer, frame, rx_ns, now)
            elif frame.type is FrameType.PROBE:
                self._receive_probe(peer, frame, rx_ns, now)
            elif frame.type is FrameType.ECHO:
                self._receive_echo(frame, rx_ns, now)
        except RemoteProtocolError as error:
            self._blame(frame.sender, source, error.reason)
        return self._is_timer_moved or bool(self._queue) or bool(self._events)

    def handle_timer(self, now: float) -> None:
        """Do what is due: probes, settling, rounds, repair."""
        was_settled = self.time.is_settled
        if self.time.is_check_due(now):
            self._renew_thetas(now)
        moved_ns = self.time.handle_timer(now)
        if moved_ns:
            self._move_clock(moved_ns, now, is_told=was_settled)
        if self.time.is_settled and not was_settled:
            self._rounds.start(now)
            self._note_change(now)
        self._queue.extend(_Outgoing(node, FrameType.PROBE) for node in self.time.probes_due(now))
        if self._peers and self._rounds.due_at <= now:
            is_regular = self._rounds.take(now)
            if is_regular or not self._is_all_told(now):
                self._is_round_due = is_regular
        if self._tick_at <= now:
            self._tick(now)

    def get_timer(self) -> float | None:
        """When to call `handle_timer` next; None without peers."""
        if not self._peers:
            return None
        time_at = self.time.get_timer()
        return min(self._rounds.due_at, self._tick_at, math.inf if time_at is None else time_at)

    def datagrams_to_send(self, now: float, read_stamp_ns: Callable[[], int]) -> Iterator[tuple[bytes, UdpAddress]]:
        """Yield datagrams with their destinations; send each before drawing the next, its stamp is taken as it is drawn.

        Args:
            now: monotonic seconds.
            read_stamp_ns: reads this host's stamp clock.
        """
        if self._is_round_due is not None:
            asked = self._make_round(read_stamp_ns(), now, is_regular=self._is_round_due)
            self._is_round_due = None
            assert self._told is not None
            for node in list(self._peers):
                flags = FLAG_AGAIN if node in asked else 0
                yield from self._sealed(_Outgoing(node, FrameType.PULSE, self._told.content, self._told.digest, flags), read_stamp_ns())
        while self._queue:
            item, stamp_ns = self._queue.popleft(), read_stamp_ns()
            if item.kind is FrameType.PROBE:
                nonce = self._rng.getrandbits(64)
                self.time.probe_sent(item.receiver, nonce, stamp_ns)
                item = _Outgoing(item.receiver, item.kind, _PROBE.pack(nonce, 0))
            yield from self._sealed(item, stamp_ns)

    def _sealed(self, item: _Outgoing, stamp_ns: int) -> tuple[()] | tuple[tuple[bytes, UdpAddress]]:
        """Return one datagram with its destination, or none if the receiver is gone."""
        receiver, kind, content, digest, flags = item
        peer = self._peers.get(receiver)
        if peer is None:
            return ()
        digest = digest or content_digest(content)
        try:
            sealed = self._frames.seal(receiver, kind, content, digest=digest, tx_ns=self.group_ns(stamp_ns), flags=flags)
        except KeyError:  # the overlay let the peer go, and will tell
            self.drops["no-key"] += 1
            return ()
        return ((sealed, peer.address),)

    def next_event(self) -> PulseEvent | None:
        """Return the next event, None if there is none."""
        return self._events.popleft() if self._events else None

    def group_ns(self, stamp_ns: int) -> int:
        """Convert a stamp of this host to group time, ns."""
        group_ns = stamp_ns + self.time.offset_ns
        return group_ns if 0 <= group_ns < 2**63 else min(max(group_ns, 0), 2**63 - 1)

    def verified_rows(self, now: float) -> tuple[SignedRow, ...]:
        """Return the fresh rows whose signatures are good, by rising NodeId; the bad ones are dropped and counted. Cost: 44 us a row."""
        good: list[SignedRow] = [] if self._own is None else [self._own]
        for node, peer in self._peers.items():
            if (signed := peer.signed) is None or peer.heard_at < now - self._fresh_s - STALE_EXTRA_S:
                continue
            if peer.is_verified or signed.is_authentic(self._group):
                peer.is_verified = True
                good.append(signed)
            else:
                peer.signed = None
                self._blame(node, None, BadSignature.reason)
        return tuple(sorted(good, key=lambda signed: signed.node_id))

    def check_copy(self, node: NodeId, content: bytes) -> None:
        """Compare a row that came through others (a report, a repair) with the one held: two contents at one (boot, seq) are a proof.

        Raises:
            DecodeError: no row.
        """
        held, other = self.row_of(node), open_row(node, content)
        if held is not None and (held.row.boot, held.row.seq) == (other.row.boot, other.row.seq) and held.content != content:
            self._compare(held, other)

    def _receive_pulse(self, peer: Inbound, frame: Frame, rx_ns: int, now: float) -> None:
        raw_ms = (rx_ns + self.time.offset_ns - frame.tx_ns) / 1e6
        if not -RAW_MS_MAX <= raw_ms <= RAW_MS_MAX:
            raise DecodeError(f"pulse of {frame.sender!r} is {raw_ms:.0f} ms old by its stamp", reason="stamp")
        held = peer.signed
        if held is None or held.content != frame.content:
            signed = open_row(frame.sender, frame.content)
            if held is not None and not self._is_newer(peer, held, signed):
                return
            self._take_row(peer, held, signed, rx_ns, now)
        is_first = peer.heard_at == -math.inf
        peer.add_sample(raw_ms, now)
        self._heard = (rx_ns, now)
        if is_first:
            self.time.sample_taken(frame.sender, raw_ms)
            self._rounds.news(now)
            self._is_timer_moved = True
        if frame.flags & FLAG_AGAIN:
            self._tell_again(peer, frame.sender, now)

    def _tell_again(self, peer: Inbound, node: NodeId, now: float) -> None:
        """Send the latest row once more to who asks, or owe all a new one."""
        told = self._told
        if told is None or now - peer.resent_at < RESEND_GAP_S:
            return
        peer.resent_at = now
        if now - told.at < CLOCK_MOVE_S:
            self._queue.append(_Outgoing(node, FrameType.PULSE, told.content, told.digest))
        else:  # who asks may have seen a clock move since, and could not use the old row
            self.tell_soon(now)

    def _is_newer(self, peer: Inbound, held: SignedRow, signed: SignedRow) -> bool:
        """Say whether `signed` follows `held`; late ones are counted, twins are compared."""
        old, new = held.row, signed.row
        if new.seq > old.seq if new.boot == old.boot else new.boot > old.boot:
            return True
        if (new.boot, new.seq) == (old.boot, old.seq):
            self._compare(held, signed)
            return False
        self.drops["stale"] += 1
        if new.boot == old.boot and peer.arrivals is not None:
            peer.arrivals.add(new.seq)
        return False

    def _take_row(self, peer: Inbound, held: SignedRow | None, signed: SignedRow, rx_ns: int, now: float) -> None:
        row = signed.row
        is_new_run = held is None or held.row.boot != row.boot
        peer.is_verified = False
        self._rows_unverified -= 1
        if is_new_run or self._rows_unverified <= 0:
            self._rows_unverified = self._rng.randrange(1, 2 * VERIFY_ONE_IN)
            if not signed.is_authentic(self._group):
                raise BadSignature(f"bad signature on a row of {row.node_id!r}")
            peer.is_verified = True
        if held is not None and (is_new_run or held.row.clock_epoch != row.clock_epoch):
            self._forget_clock(peer, row, rx_ns, now)
        if is_new_run or peer.arrivals is None:
            peer.arrivals = Arrivals(row.seq)
        else:
            peer.arrivals.add(row.seq)
        peer.signed = signed
        self.new_row = row
        entries = self._roster.align(row)
        if entries is None:
            self.drops["roster"] += 1
            return
        self.matrix.add_row(peer.slot, entries, now)

    def _forget_clock(self, peer: Inbound, row: Row, rx_ns: int, now: float) -> None:
        """A peer restarted or moved its group time: nothing measured with its old clock compares with what comes."""
        peer.forget()
        self._emit(PeerClockMoved(row.node_id))
        self.matrix.forget(row.node_id, valid_after_ns=self.group_ns(rx_ns) + int(CLOCK_MOVE_S * 1e9))
        if now - peer.reacted_at >= REACTION_GAP_S:
            peer.reacted_at = now
            self._owed_at = now + CLOCK_MOVE_S + TELL_AFTER_MOVE_S
            self._is_timer_moved = True
            self._rounds.once(self._owed_at)
            self._expect_news(now, self._owed_at)

    def _receive_probe(self, peer: Inbound, frame: Frame, rx_ns: int, now: float) -> None:
        if len(frame.content) != _PROBE.size:
            raise DecodeError(f"probe of {len(frame.content)} bytes")
        if not peer.take_echo_token(now):
            raise LimitExceeded(f"too many probes of {frame.sender!r}", reason="echo-rate")
        self.time.probe_received(frame.sender, now)
        self._is_timer_moved = True
        nonce, _ = _PROBE.unpack(frame.content)
        echo = _PROBE.pack(nonce, self.group_ns(rx_ns))
        self._queue.append(_Outgoing(frame.sender, FrameType.ECHO, echo, flags=FLAG_SETTLED if self.time.is_settled else 0))

    def _receive_echo(self, frame: Frame, rx_ns: int, now: float) -> None:
        if len(frame.content) != _PROBE.size:
            raise DecodeError(f"echo of {len(frame.content)} bytes")
        nonce, t2_ns = _PROBE.unpack(frame.content)
        is_settled = bool(frame.flags & FLAG_SETTLED)
        if not self.time.echo_received(frame.sender, nonce, t2_ns, frame.tx_ns, rx_ns, is_settled=is_settled, now=now):
            self.drops["echo"] += 1
            return
        self._is_timer_moved = True
        if (round_trip_ms := self.time.round_trip_ms(frame.sender)) is not None:
            held_ms = self.time.held_ms(frame.sender)
            self._emit(EchoMeasured(frame.sender, round_trip_ms + held_ms, held_ms))

    def _compare(self, held: SignedRow, other: SignedRow) -> None:
        """Two contents at one (boot, seq): equivocation if both are signed, else one of them is a forgery."""
        if not other.is_authentic(self._group):
            raise BadSignature(f"bad signature on a second row of {other.node_id!r}")
        if held.is_authentic(self._group):
            self.drops["equivocation"] += 1
            self._emit(EquivocationSeen(held.node_id, held.content, other.content))
            return
        self._peers[held.node_id].signed = None
        raise BadSignature(f"bad signature on the row held of {held.node_id!r}")

    # Rounds and repair

    def _make_round(self, stamp_ns: int, now: float, *, is_regular: bool) -> Collection[NodeId]:
        """Make the next row; return whom to ask for theirs once more."""
        self._rounds.told(now, is_regular=is_regular)
        self._rounds_since_change += 1
        entries = self._own_entries(self.group_ns(stamp_ns), now)
        ids = self._roster.ids if now < self._described_until else None
        self._seq += 1
        row = Row(
            node_id=self._identity.node_id,
            boot=self._boot,
            seq=self._seq,
            stamp_ns=entries.stamp_ns,
            roster_digest=self._roster.digest,
            clock_epoch=self.time.clock_epoch,
            health=self.health,
            octets_in=self.counters[0],
            octets_out=self.counters[1],
            octets_relayed=self.counters[2],
            base_us=entries.base_us,
            count=len(entries.owl),
            is_described=ids is not None,
            entries=Row.pack_entries(ids, entries.owl, entries.jitter, entries.loss),
            clock=self.clock,
        )
        self._own = seal_row(row, self._identity, self._group)
        self.matrix.add_row(self._slot, row, now)
        self._told = _Told(row, self._own.content, content_digest(self._own.content), now)
        return self._repair.choose(self._peers, self.matrix, now) if self._repair.is_due(now) else ()

    def _own_entries(self, group_ns: int, now: float) -> Entries:
        return told_by(self._peers.values(), len(self.matrix.members), group_ns, now, self._fresh_s + STALE_EXTRA_S)

    def _current(self, now: float) -> OwlMatrix:
        heard_ns, heard_at = self._heard
        self.matrix.add_row(self._slot, self._own_entries(self.group_ns(heard_ns) + int((now - heard_at) * 1e9), now), now)
        return self.matrix

    def _tick(self, now: float) -> None:
        """Look whether the matrix is whole, and ask for what is missing."""
        n = len(self.matrix.members)
        is_full = (self.matrix if self._is_full else self._current(now)).is_full(now)
        if is_full and not self._is_full:
            self._emit(MatrixFilled(n * (n - 1), n, now - self._members_at))
        elif self._is_full and not is_full:
            self._emit(MatrixIncomplete(self.matrix.edges_known(now), n))
        self._is_full = is_full
        is_busy = not is_full and now - self._changed_at < BUSY_S
        self._tick_at = now + (TICK_BUSY_S if is_busy else TICK_S if is_full else TICK_HOLES_S)
        if is_busy and self._repair.is_due(now) and (told := self._told) is not None:
            asked = self._repair.choose(self._peers, self.matrix, now)
            self._queue.extend(_Outgoing(node, FrameType.PULSE, told.content, told.digest, FLAG_AGAIN) for node in asked)

    def _is_all_told(self, now: float) -> bool:
        """Whether an extra round would tell nothing: the own column was told as it is, at least twice, and the matrix is whole."""
        told = self._told
        if told is None or self._rounds_since_change < 2 or told.at < self._owed_at or not self._is_full:
            return False
        return told.row.known == sum(peer.heard_at >= now - self._fresh_s for peer in self._peers.values())

    def _renew_thetas(self, now: float) -> None:
        for node, peer in self._peers.items():
            if peer.heard_at >= now - self._fresh_s:
                self.time.sample_taken(node, peer.last_ms)

    def _note_change(self, now: float, new_share: float = 1.0) -> None:
        self._rounds_since_change = 0
        self._rounds.change(now, new_share)
        self._expect_news(now, now)

    def _expect_news(self, now: float, last_at: float) -> None:
        """Something changed, and others tell of it on their own until about `last_at`; afterwards it is worth asking."""
        self._changed_at = now
        self._repair.expect_news(last_at)
        self._tick_at = min(self._tick_at, now + TICK_BUSY_S)

    def _move_clock(self, by_ns: int, now: float, *, is_told: bool) -> None:
        """Group time moved. Before the first pulse samples move along; later nobody knows which were taken before a step of the clock."""
        by_ms = by_ns / 1e6
        if is_told:
            self._start_again(by_ms, now)
            return
        for peer in self._peers.values():
            peer.shift(by_ms)
        self.matrix.move_own_clock(by_ms, valid_after_ns=0)

    def _start_again(self, by_ms: float, now: float) -> None:
        for peer in self._peers.values():
            peer.forget()
        heard_ns, heard_at = self._heard
        self.matrix.forget(self._identity.node_id, valid_after_ns=self.group_ns(heard_ns) + int((now - heard_at + CLOCK_MOVE_S) * 1e9))
        self._emit(ClockRealigned(by_ms, self.time.clock_epoch))
        self._note_change(now)

    def _can_reach(self, node: NodeId, address: UdpAddress) -> bool:
        try:
            self._frames.add_peer(node)
        except RemoteProtocolError as error:
            self._blame(node, address, error.reason)
            return False
        return True

    def _blame(self, node: NodeId, source: UdpAddress | None, reason: str) -> None:
        self.drops[reason] += 1
        self._emit(PeerMisbehaved(node, source, reason))

    def _emit(self, event: PulseEvent) -> None:
        if len(self._events) >= EVENTS_MAX:
            self.drops["events"] += 1
            return
        self._events.append(event)
