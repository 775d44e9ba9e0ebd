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

import hashlib
import math
import random
import struct
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import TypeAlias

import attrs
import numpy as np
import numpy.typing as npt

from srwan.errors import BadSignature, DecodeError, LimitExceeded, RemoteProtocolError
from srwan.gossip.group_time import GroupTime
from srwan.gossip.inbound import Arrivals, Inbound
from srwan.gossip.owl import OwlMatrix, spread
from srwan.gossip.rounds import Rounds
from srwan.gossip.row import RAW_MS_MAX, Ids, Row, SignedRow, encode_jitter, encode_loss, encode_owl, entry_id, open_row, seal_row
from srwan.identity import Identity
from srwan.overlay.frame import Frame, FrameCodec, FrameType, content_digest
from srwan.types import NodeId, PeerMisbehaved, UdpAddress

__all__ = ["ClockRealigned", "EquivocationSeen", "MatrixFilled", "MatrixIncomplete", "Pulse", "PulseEvent"]

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
TICK_S = 1.0
"""How often the matrix is looked at: soon after a change and while it is incomplete, else calmly."""
BUSY_S = 10.0
REPAIR_AFTER_S = 1.0
"""No asking before so long after the others should have told: the bursts bring most."""
REPAIR_PATIENCE_S = 0.7
ASKS_MAX = 6
"""Asks to one peer for one thing; then the hole is taken as real."""
ASKS_PER_TICK_MAX = 32
RESEND_GAP_S = 0.2
EVENTS_MAX = 1024
MEMBERS_MAX = 128
"""As many as a row has entries for."""

FLAG_AGAIN = 1
"""PULSE: please send yours once more, to me."""
FLAG_SETTLED = 1
"""ECHO: my group time is settled."""
_PROBE = struct.Struct("<QQ")
"""PROBE: nonce, zeros. ECHO: nonce, t2. Of equal size, so that nobody can be made to send more than was sent to him."""


@attrs.frozen(slots=True)
class MatrixFilled:
    """Every directed edge of the group is known here."""

    edges: int
    """n (n - 1)."""
    members: int
    """n, this member included."""
    after_s: float
    """Time since the last change of membership, s."""


@attrs.frozen(slots=True)
class MatrixIncomplete:
    """Some edges are not known any more; emitted once, after the matrix was filled."""

    edges: int
    """Known edges."""
    members: int
    """n, this member included."""


@attrs.frozen(slots=True)
class ClockRealigned:
    """This member moved its group time after its pulses were under way."""

    by_ms: float
    epoch: int
    """The new clock epoch, u8."""


@attrs.frozen(slots=True)
class EquivocationSeen:
    """A member signed two different rows at one (boot, seq). The two contents prove it to anybody who knows the group id."""

    node_id: NodeId
    first: bytes
    """Signed content."""
    second: bytes
    """Signed content."""


_Positions: TypeAlias = npt.NDArray[np.int64]
PulseEvent: TypeAlias = MatrixFilled | MatrixIncomplete | ClockRealigned | EquivocationSeen | PeerMisbehaved


@attrs.frozen(slots=True)
class _Outgoing:
    receiver: NodeId
    kind: FrameType
    content: bytes = b""
    digest: bytes = b""
    flags: int = 0


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
        self._rows: dict[NodeId, SignedRow] = {}
        self._rounds = Rounds(period_s, rng)
        self._roster_digest = bytes(8)
        self._entry_ids: Ids = np.zeros(0, np.uint32)
        self._entry_key = b""
        self._positions: dict[bytes, _Positions] = {}
        self._queue: deque[_Outgoing] = deque()
        self._events: deque[PulseEvent] = deque()
        self._seq = 0
        self._told: tuple[bytes, bytes] | None = None
        self._told_edges = 0
        self._told_at = -math.inf
        self._owed_at = -math.inf
        self._repair_at = math.inf
        self._rounds_since_change = 0
        self._is_round_due: bool | None = None
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
        self.drops: Counter[str] = Counter()
        """Input dropped, by reason."""
        self.counters: tuple[int, int, int] = (0, 0, 0)
        """Octets in, out and relayed since boot, told in every row; set by the data plane's owner."""
        self.health = 0
        """u8, told in every row; 0 = well."""

    @property
    def rows(self) -> Mapping[NodeId, SignedRow]:
        """The latest row of each member that was heard, the own one included. Not all are verified."""
        return MappingProxyType(self._rows)

    @property
    def roster_digest(self) -> bytes:
        """What slot order refers to now, 8 bytes."""
        return self._roster_digest

    @property
    def is_full(self) -> bool:
        """Whether the whole matrix was known when it was last looked at."""
        return self._is_full

    def set_members(self, members: Mapping[NodeId, UdpAddress], digest: bytes, now: float) -> None:
        """Say who the members are; this one may be among them. Pair keys are agreed with new ones.

        Args:
            members: where each is sent to; at most MEMBERS_MAX, the excess (greatest ids) is left out.
            digest: 8 bytes that name this roster (`View.digest`).
            now: monotonic seconds.
        """
        others = {node: members[node] for node in sorted(members.keys() - {self._identity.node_id})[: MEMBERS_MAX - 1]}
        if digest != self._roster_digest:
            self._roster_digest = digest
            self._described_until = now + DESCRIBED_S
        for gone in self._peers.keys() - others.keys():
            del self._peers[gone]
            self._rows.pop(gone, None)
        added = False
        for node, address in others.items():
            if node in self._peers:
                self._peers[node].address = address
            elif self._can_reach(node, address):
                self._peers[node] = Inbound(address)
                added = True
        self.time.set_peers(self._peers, now)
        if not added and len(self._peers) + 1 == len(self.matrix.members):
            return
        self.matrix.set_members(tuple(self._peers))
        self._entry_ids = np.array([entry_id(node) for node in self.matrix.members], np.uint32)
        self._entry_key = self._entry_ids.astype("<u4").tobytes()
        self._positions.clear()
        self._is_full = False
        self._members_at = now
        self._note_change(now)

    def receive_frame(self, frame: Frame, source: UdpAddress, rx_ns: int, now: float) -> None:
        """Take in an authenticated PULSE, PROBE or ECHO. Never raises for what a peer sent: it drops and counts.

        Args:
            frame: from `FrameCodec.open`.
            source: where it came from, for events only.
            rx_ns: the kernel's receive stamp, ns of this host's stamp clock.
            now: monotonic seconds.

        Cost: 30 us for a PULSE in a group of 100, without folding into the matrix and the signature.
        """
        peer = self._peers.get(frame.sender)
        if peer is None:
            self.drops["not-member"] += 1
            return
        peer.address = source  # authenticated: this is where it is now
        try:
            if frame.type is FrameType.PULSE:
                self._receive_pulse(peer, frame, rx_ns, now)
            elif frame.type is FrameType.PROBE:
                self._receive_probe(peer, frame, rx_ns, now)
            elif frame.type is FrameType.ECHO:
                self._receive_echo(frame, rx_ns, now)
        except RemoteProtocolError as error:
            self._blame(frame.sender, source, error.reason)

    def handle_timer(self, now: float) -> None:
        """Do what is due: probes, settling, rounds, repair."""
        was_settled = self.time.is_settled
        moved_ns = self.time.handle_timer(now)
        if moved_ns:
            self._move_clock(moved_ns, now, is_told=was_settled)
        if self.time.is_settled and not was_settled:
            self._rounds.start(now)
            self._note_change(now)
        for node in self.time.probes_due(now):
            self._queue.append(_Outgoing(node, FrameType.PROBE))
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
            self._make_round(read_stamp_ns(), now, is_regular=self._is_round_due)
            self._is_round_due = None
        while self._queue:
            item = self._queue.popleft()
            peer = self._peers.get(item.receiver)
            if peer is None:
                continue
            content, stamp_ns = item.content, read_stamp_ns()
            if item.kind is FrameType.PROBE:
                nonce = self._rng.getrandbits(64)
                self.time.probe_sent(item.receiver, nonce, stamp_ns)
                content = _PROBE.pack(nonce, 0)
            digest = item.digest or content_digest(content)
            try:
                sealed = self._frames.seal(
                    item.receiver, item.kind, content, digest=digest, tx_ns=self.group_ns(stamp_ns), flags=item.flags
                )
            except KeyError:  # the overlay let the peer go, and will tell
                self.drops["no-key"] += 1
                continue
            yield sealed, peer.address

    def next_event(self) -> PulseEvent | None:
        """Return the next event, None if there is none."""
        return self._events.popleft() if self._events else None

    def group_ns(self, stamp_ns: int) -> int:
        """Convert a stamp of this host to group time, ns."""
        return min(max(stamp_ns + self.time.offset_ns, 0), 2**63 - 1)

    def verified_rows(self, now: float) -> tuple[SignedRow, ...]:
        """Return the fresh rows whose signatures are good, by rising NodeId; the bad ones are dropped and counted. Cost: 44 us a row."""
        good: list[SignedRow] = []
        for node, signed in sorted(self._rows.items()):
            peer = self._peers.get(node)
            if peer is None:
                good.append(signed)  # the own one
            elif peer.heard_at < now - self._fresh_s - STALE_EXTRA_S:
                continue
            elif peer.is_verified or signed.is_authentic(self._group):
                peer.is_verified = True
                good.append(signed)
            else:
                del self._rows[node]
                self._blame(node, None, BadSignature.reason)
        return tuple(good)

    def check_copy(self, node: NodeId, content: bytes) -> None:
        """Compare a row that came through others (a report, a repair) with the one held: two contents at one (boot, seq) are a proof.

        Raises:
            DecodeError: no row.
        """
        held = self._rows.get(node)
        other = open_row(node, content)
        if held is not None and (held.row.boot, held.row.seq) == (other.row.boot, other.row.seq) and held.content != content:
            self._compare(held, other)

    def _receive_pulse(self, peer: Inbound, frame: Frame, rx_ns: int, now: float) -> None:
        raw_ms = (self.group_ns(rx_ns) - frame.tx_ns) / 1e6
        if abs(raw_ms) > RAW_MS_MAX:
            raise DecodeError(f"pulse of {frame.sender!r} is {raw_ms:.0f} ms old by its stamp", reason="stamp")
        held = self._rows.get(frame.sender)
        if held is None or held.content != frame.content:
            signed = open_row(frame.sender, frame.content)
            if held is not None and not self._is_newer(peer, held, signed):
                return
            self._take_row(peer, held, signed, rx_ns, now)
        self.time.pulse_received(frame.sender, frame.tx_ns, rx_ns)
        is_first = not peer.has_samples
        peer.heard_at = now
        self._heard = (rx_ns, now)
        told_ms = peer.add_sample(raw_ms, now, self._fresh_s)
        loss = peer.arrivals.loss if peer.arrivals is not None else 0.0
        self.matrix.measure(frame.sender, told_ms, encode_jitter(peer.jitter_ms), encode_loss(loss), now)
        if is_first:
            self._rounds.news(now)
        if frame.flags & FLAG_AGAIN and self._told is not None and now - peer.resent_at >= RESEND_GAP_S:
            peer.resent_at = now
            if now - self._told_at < CLOCK_MOVE_S:
                self._queue.append(_Outgoing(frame.sender, FrameType.PULSE, *self._told))
            else:  # who asks may have seen a clock move since, and could not use the old row
                self._owed_at = now
                self._rounds.news(now)

    def _is_newer(self, peer: Inbound, held: SignedRow, signed: SignedRow) -> bool:
        """Say whether `signed` follows `held`; late ones are counted, twins are compared."""
        old, new = held.row, signed.row
        if (new.boot, new.seq) > (old.boot, old.seq):
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
        if is_new_run or self._rng.random() * VERIFY_ONE_IN < 1.0:
            if not signed.is_authentic(self._group):
                raise BadSignature(f"bad signature on a row of {row.node_id!r}")
            peer.is_verified = True
        if held is not None and (is_new_run or held.row.clock_epoch != row.clock_epoch):
            self._forget_clock(peer, row, rx_ns, now)
        if is_new_run or peer.arrivals is None:
            peer.arrivals = Arrivals(row.seq)
        else:
            peer.arrivals.add(row.seq)
        self._rows[row.node_id] = signed
        self._take_entries(row, now)

    def _take_entries(self, row: Row, now: float) -> None:
        n = len(self.matrix.members)
        codes, jitter, loss = row.owl, row.jitter, row.loss
        if row.is_described:
            key = row.entries[: 4 * row.count]
            if key != self._entry_key:
                codes, jitter, loss = spread(codes, jitter, loss, self._positions_of(key), n)
        elif row.roster_digest != self._roster_digest or row.count != n:
            self.drops["roster"] += 1
            return
        self.matrix.add_row(row.node_id, codes, row.base_us, jitter, loss, stamp_ns=row.stamp_ns, now=now)

    def _positions_of(self, key: bytes) -> _Positions:
        """For each of the packed ids the index of the one member it names, -1 if it names none or is named twice."""
        positions = self._positions.get(key)
        if positions is None:
            matches = np.frombuffer(key, "<u4")[:, None] == self._entry_ids[None, :]
            is_sure = (matches.sum(axis=1) == 1) & (matches @ matches.sum(axis=0) == 1)
            positions = np.where(is_sure, np.argmax(matches, axis=1), -1).astype(np.int64)
            if len(self._positions) >= MEMBERS_MAX:
                self._positions.clear()
            self._positions[key] = positions
        return positions

    def _forget_clock(self, peer: Inbound, row: Row, rx_ns: int, now: float) -> None:
        """A peer restarted or moved its group time: nothing measured with its old clock compares with what comes."""
        peer.forget()
        self.matrix.forget(row.node_id, valid_after_ns=self.group_ns(rx_ns) + int(CLOCK_MOVE_S * 1e9))
        if now - peer.reacted_at >= REACTION_GAP_S:
            peer.reacted_at = now
            self._owed_at = now + CLOCK_MOVE_S + TELL_AFTER_MOVE_S
            self._rounds.once(self._owed_at)
            self._expect_news(now, self._owed_at)

    def _receive_probe(self, peer: Inbound, frame: Frame, rx_ns: int, now: float) -> None:
        if len(frame.content) != _PROBE.size:
            raise DecodeError(f"probe of {len(frame.content)} bytes")
        if not peer.take_echo_token(now):
            raise LimitExceeded(f"too many probes of {frame.sender!r}", reason="echo-rate")
        self.time.probe_received(frame.sender, now)
        nonce, _ = _PROBE.unpack(frame.content)
        flags = FLAG_SETTLED if self.time.is_settled else 0
        self._queue.append(_Outgoing(frame.sender, FrameType.ECHO, _PROBE.pack(nonce, self.group_ns(rx_ns)), flags=flags))

    def _receive_echo(self, frame: Frame, rx_ns: int, now: float) -> None:
        if len(frame.content) != _PROBE.size:
            raise DecodeError(f"echo of {len(frame.content)} bytes")
        nonce, t2_ns = _PROBE.unpack(frame.content)
        is_settled = bool(frame.flags & FLAG_SETTLED)
        if not self.time.echo_received(frame.sender, nonce, t2_ns, frame.tx_ns, rx_ns, is_settled=is_settled, now=now):
            self.drops["echo"] += 1

    def _compare(self, held: SignedRow, other: SignedRow) -> None:
        """Two contents at one (boot, seq): equivocation if both are signed, else one of them is a forgery."""
        if not other.is_authentic(self._group):
            raise BadSignature(f"bad signature on a second row of {other.node_id!r}")
        if held.is_authentic(self._group):
            self.drops["equivocation"] += 1
            self._emit(EquivocationSeen(held.node_id, held.content, other.content))
            return
        del self._rows[held.node_id]
        raise BadSignature(f"bad signature on the row held of {held.node_id!r}")

    # Rounds and repair

    def _make_round(self, stamp_ns: int, now: float, *, is_regular: bool) -> None:
        self._rounds.told(now, is_regular=is_regular)
        self._rounds_since_change += 1
        self._told_at = now
        vector = self.matrix.own_vector(now)
        base_us, codes = encode_owl(vector.last_ms)
        ids = self._entry_ids if now < self._described_until else None
        self._seq += 1
        row = Row(
            node_id=self._identity.node_id,
            boot=self._boot,
            seq=self._seq,
            stamp_ns=self.group_ns(stamp_ns),
            roster_digest=self._roster_digest,
            matrix_digest=self._matrix_digest(),
            clock_epoch=self.time.clock_epoch,
            health=self.health,
            octets_in=self.counters[0],
            octets_out=self.counters[1],
            octets_relayed=self.counters[2],
            base_us=base_us,
            count=len(codes),
            is_described=ids is not None,
            entries=Row.pack_entries(ids, codes, vector.jitter, vector.loss),
        )
        signed = seal_row(row, self._identity, self._group)
        self._rows[row.node_id] = signed
        self._told = (signed.content, content_digest(signed.content))
        self._told_edges = int(np.count_nonzero(np.isfinite(vector.last_ms)))
        asked = self._ask(now) if now >= self._repair_at else frozenset[NodeId]()
        for node in self._peers:
            self._queue.append(_Outgoing(node, FrameType.PULSE, *self._told, flags=FLAG_AGAIN if node in asked else 0))

    def _matrix_digest(self) -> bytes:
        digest = hashlib.blake2b(digest_size=8, person=b"srwan/matrix/1")
        for node in self.matrix.members:
            signed = self._rows.get(node)
            if signed is not None and node != self._identity.node_id:
                digest.update(node + struct.pack("<II", signed.row.boot, signed.row.seq))
        return digest.digest()

    def _ask(self, now: float) -> frozenset[NodeId]:
        """Return whom to ask for their pulse once more, and count the asking."""
        lacking = set(self.matrix.lacking(now, patience_s=REPAIR_PATIENCE_S))
        asked: list[NodeId] = []
        for node, peer in self._peers.items():
            if node not in lacking:
                peer.asks = 0
            elif peer.asks < ASKS_MAX:
                asked.append(node)
        if len(asked) > ASKS_PER_TICK_MAX:
            asked = self._rng.sample(asked, ASKS_PER_TICK_MAX)
        for node in asked:
            self._peers[node].asks += 1
        return frozenset(asked)

    def _tick(self, now: float) -> None:
        """Look whether the matrix is whole, and ask for what is missing."""
        n = len(self.matrix.members)
        edges = self.matrix.edges_known(now)
        is_full = n > 1 and edges == n * (n - 1)
        if is_full and not self._is_full:
            self._emit(MatrixFilled(edges, n, now - self._members_at))
        elif self._is_full and not is_full:
            self._emit(MatrixIncomplete(edges, n))
        self._is_full = is_full
        is_busy = not is_full and now - self._changed_at < BUSY_S
        self._tick_at = now + (TICK_BUSY_S if is_busy else TICK_S)
        if is_busy and now >= self._repair_at and self._told is not None:
            for node in self._ask(now):
                self._queue.append(_Outgoing(node, FrameType.PULSE, *self._told, flags=FLAG_AGAIN))

    def _is_all_told(self, now: float) -> bool:
        """Whether an extra round would tell nothing: the own column was told as it is, at least twice, and the matrix is whole."""
        if self._rounds_since_change < 2 or self._told_at < self._owed_at or not self._is_full:
            return False
        return self._told_edges == int(np.count_nonzero(np.isfinite(self.matrix.own_vector(now).last_ms)))

    def _note_change(self, now: float) -> None:
        self._rounds_since_change = 0
        self._rounds.change(now)
        self._expect_news(now, now)

    def _expect_news(self, now: float, last_at: float) -> None:
        """Something changed, and others tell of it on their own until about `last_at`; afterwards it is worth asking."""
        self._changed_at = now
        self._repair_at = last_at + REPAIR_AFTER_S
        for peer in self._peers.values():
            peer.asks = 0
        self._tick_at = min(self._tick_at, now + TICK_BUSY_S)

    def _move_clock(self, by_ns: int, now: float, *, is_told: bool) -> None:
        """Group time moved: what was measured moves along."""
        by_ms = by_ns / 1e6
        for peer in self._peers.values():
            peer.shift(by_ms)
        heard_ns, heard_at = self._heard
        moved_ns = self.group_ns(heard_ns) + int((now - heard_at + CLOCK_MOVE_S) * 1e9)
        self.matrix.move_own_clock(by_ms, valid_after_ns=moved_ns if is_told else 0)
        if is_told:
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
