"""Who of my subjects may be dead: beats, probes before accusations, and doubt about myself before blame for others.

Theory of operation. Every member beats to its ring observers (`overlay/ring.py`), to each once in BEAT_S, spread over SLOTS moments of
the period. Any authenticated frame counts as life. When two beats in a row are missed the subject is probed four times in PROBING_S; only
when nothing answers is it accused, and accused again while it stays silent. One accusation removes nobody: seven tenths of the observers
must agree (`quorum_of`), so a dead edge is no dead member.

The slots are there for the quorum. If all beats left at once, a crash right after them would cost every observer the whole wait. With five
slots and at most two observers in each, the seventh of ten observers (the seventh of nine, the sixth of eight) had its last beat at least
one slot before the crash. So the seventh accusation falls at most 2 x 1.5 + 0.2 - 0.3 + 1.0 = 3.9 s after the crash, and one flight of a
beat and one hop later it is known. A pulse that comes between two beats must not undo this: it moves the deadline by whole periods only.

Two more grounds for an accusation. A subject that still beats, but whose beats are lost five times of eight, is of no use to the group
although its echoes sometimes come through; where the median subject loses many too, the loss is not its own and does not count. And a
subject whose beats carry FLAG_DEAF twice in a row hears nobody.

Self-health (Dadgar, Phillips, Currey, Lifeguard, arXiv 1707.00788). Called late, I was asleep: what I missed meanwhile is nobody's fault,
so all waits are shifted. When three tenths of my subjects are silent at once, I poll some random others too, and hold my accusations until
the poll is over. If then two fifths of all asked are silent, I am on the wrong side of something and withhold them; if hardly anybody
answers, I am deaf and say so in my beats. Ten crashes among a hundred make nobody doubt: of 20 asked, 2 are silent. Either
raises `health`, which stretches deadlines.

Invariants: nobody is accused without four unanswered probes, five lost beats of eight or two deaf beats; nothing is accused while in doubt.
Measured on an event heap of these cores with 5 to 260 ms of latency (tests/gossip/test_suspicion_model.py), n = 100: the last survivor
knows of a crash after 4.0 s in the median, 4.23 p99, 4.26 at most (50 crashes). In 30 minutes with 30 members starved for up to 2 s at a
time, 41 accusations and no verdict. A member that loses 80 % of what it sends is out after 11 s in the median, rarely up to 18.
"""

from __future__ import annotations

import enum
import random
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

import attrs

from srwan.overlay.frame import Frame, FrameCodec, FrameType, content_digest
from srwan.overlay.ring import Ring
from srwan.types import NodeId, UdpAddress

__all__ = ["FLAG_DEAF", "AccusationDue", "HealthChanged", "PeerHeardAgain", "PeerSuspected", "Suspicion", "SuspicionEvent"]

BEAT_S = 1.5
"""Time between two beats to one observer."""
SLOTS = 5
"""Moments in a period at which beats leave; ten observers make two a slot, so a quorum always spans two slots."""
SLOT_S = BEAT_S / SLOTS
SLACK_S_MIN = 0.2
"""How late a beat may be on a steady edge: queueing, scheduling."""
SLACK_S_MAX = 0.6
"""Nor may jitter, true or feigned, put an accusation off by more."""
SLACK_DEVIATIONS = 4.0
JITTER_SAMPLES = 16
PROBE_AT_S = (0.0, 0.2, 0.4, 0.6)
"""When the probes of one subject leave after its deadline: at 20 % loss 1.7 % of healthy ones answer none."""
PROBING_S = 1.0
"""The last probe has 0.4 s for its round trip, the first 1 s."""
ACCUSE_AGAIN_S = 10.0
WITHHELD_S = 0.25
"""How often a withheld accusation is looked at again."""
HISTORY_BEATS = 8
LOSSY_BEATS = 3
"""Arrived of the last HISTORY_BEATS, or fewer: lossy. At 20 % loss 1 % of windows are, at 80 % loss 94 %."""
STEADY_BEATS = 5
"""Arrived of the last HISTORY_BEATS, or more: an accused subject is well again."""
WELL_BEATS = 6
"""Arrived of the last HISTORY_BEATS from the median subject, or more: loss is the subject's own, not the network's or mine."""
GAP_BEATS_MAX = 6
"""Beats that come back after a longer gap begin a new history: that was silence, or the sender's ring was another."""
DEAF_BEATS = 2
"""Deaf beats in a row before a subject is accused."""
ASLEEP_S = 0.5
"""A timer handled later than this was slept over."""
DOUBT_SUBJECTS_MIN = 3
"""With fewer subjects nothing can be concluded from their silence."""
POLL_MEMBERS = 10
"""Others asked when in doubt, besides the subjects. In a half/half partition 13 % of members find less than 8 of 20 silent."""
POLL_GAP_S = 5.0
LEVEL_MAX = 5
LEVEL_PARTED = 2
LEVEL_S = 10.0
"""One level of ill health is forgotten in so long."""
LEVEL_STRETCH = 0.5
"""Deadlines are 1 + level x this as long. Lifeguard takes 1; here sleep itself is made up for already."""
STRETCH_MAX = 2.0
STALL_S = 1.0
"""A single shorter stall is made up for by what is shifted: a hundred routers on two cores have some whenever one of them restarts."""
STALLS_S = 2.0
"""Short stalls that go on for so long show a host that is starved, and probably its neighbours with it; each such time adds a level."""
STALLS_GAP_S = 3.0
"""After so long without a stall they have ended."""
LEVEL_STALLED_MAX = 2
"""Stalls add no more: deadlines are stretched to STRETCH_MAX then, and 20 s after a storm they are what they were."""
GRACE_S = 6.0
"""Nobody is accused so soon after it became a member here, nor by a newcomer: a hundred that start at once are late with everything."""
BEHIND_S = 0.3
"""Frames that waited so long in the socket show that this host does not keep up."""
ACCUSED_GAP_S = 1.0
"""Least time between two rounds of beats in answer to accusations."""
EVENTS_MAX = 1024

FLAG_DEAF = 1
"""BEAT: I hear hardly anybody. The upper 8 bits of the flags are the sender's health."""

_EMPTY_DIGEST = content_digest(b"")
_HISTORY_MASK = (1 << HISTORY_BEATS) - 1
_NEVER = float("inf")


@attrs.frozen(slots=True)
class AccusationDue:
    """This member has to accuse a subject; comes again every ACCUSE_AGAIN_S while there is ground for it."""

    subject: NodeId


@attrs.frozen(slots=True)
class PeerSuspected:
    """A subject missed two beats; its probing began."""

    subject: NodeId


@attrs.frozen(slots=True)
class PeerHeardAgain:
    """A suspected or accused subject is well again: there is no ground for an accusation any more."""

    subject: NodeId


@attrs.frozen(slots=True)
class HealthChanged:
    """This member trusts itself less or more than before."""

    level: int
    """As `Suspicion.health`: 0 well .. 255."""


SuspicionEvent: TypeAlias = AccusationDue | PeerSuspected | PeerHeardAgain | HealthChanged


class _Doubt(enum.IntEnum):
    """What this member thinks of itself when others are silent."""

    NONE = 0
    PARTED = 1
    DEAF = 2


class _Subject:
    """What is kept of one watched member. Times are monotonic seconds."""

    __slots__ = (
        "accuse_at",
        "beat_at",
        "deaf_beats",
        "has_beat",
        "history",
        "is_accused",
        "jitter_s",
        "must_steady",
        "probes",
        "silent_at",
        "slack_s",
    )

    def __init__(self, now: float, accuse_at: float) -> None:
        self.beat_at = now  # until the first beat: since when it is watched
        self.has_beat = False
        self.history = _HISTORY_MASK  # one bit a beat, 1 = arrived, the latest lowest
        self.must_steady = False  # was accused, and its beats have not shown yet that it is well
        self.jitter_s = 0.0
        self.slack_s = SLACK_S_MIN
        self.deaf_beats = 0
        self.silent_at = _NEVER  # when its probing began
        self.probes = 0
        self.is_accused = False
        self.accuse_at = accuse_at

    def take_beat(self, now: float) -> None:
        """Note a beat: jitter of consecutive ones, and which of the last eight came."""
        gap_s = now - self.beat_at
        self.beat_at = now
        if not self.has_beat:
            self.has_beat = True
            self.must_steady = False
            return
        steps = int(gap_s / BEAT_S + 0.5)
        if steps == 1:
            # Of independent delays, consecutive differences are 1.41 times the deviation.
            self.jitter_s += (abs(gap_s - BEAT_S) * 0.707 - self.jitter_s) / JITTER_SAMPLES
            self.slack_s = min(max(SLACK_S_MIN, SLACK_DEVIATIONS * self.jitter_s), SLACK_S_MAX)
        if steps > GAP_BEATS_MAX:
            self.history = 1 if self.is_accused else _HISTORY_MASK
        else:
            self.history = (self.history << steps | 1) & _HISTORY_MASK
        if self.must_steady and self.history.bit_count() >= STEADY_BEATS:
            self.must_steady = False

    def recent_beats(self, now: float) -> int:
        """Which of the last eight beats came, those included that should have come since the last one did."""
        steps = int((now - self.beat_at - SLACK_S_MAX) / BEAT_S)
        return self.history << steps & _HISTORY_MASK if steps < HISTORY_BEATS else 0

    def is_losing(self, now: float) -> bool:
        """Whether most beats are lost although it does beat: one came after one that did not."""
        recent = self.recent_beats(now)
        if recent == 0 or recent.bit_count() > LOSSY_BEATS:
            return False
        last = recent & -recent
        return recent + last != _HISTORY_MASK + 1  # else all came up to the last one, and none since

    def deadline(self, heard_at: float, wait_s: float) -> float:
        """When two beats in a row are missed after life was last seen; `wait_s` is two periods, or more in ill health."""
        if not self.has_beat:
            return heard_at + wait_s + self.slack_s
        since_s = heard_at - self.beat_at
        whole_s = since_s // BEAT_S * BEAT_S if since_s >= BEAT_S else 0.0
        return self.beat_at + whole_s + wait_s + self.slack_s


class Suspicion:
    """The failure detector of one member. A core.

    Order of calls, as everywhere: one call in, then drain `probes_due`, `datagrams_to_send` and `next_event`, then ask `get_timer`.
    `heard` is the exception: it changes nothing that would have to be drained.

    Args:
        me: this member.
        frames: seals beats; shared with the rest of the overlay, which agrees on the keys.
        group: the 32-byte group id, the salt of the rings.
        rng: the phase of the beats, and who is polled.
    """

    def __init__(self, me: NodeId, frames: FrameCodec, group: bytes, *, rng: random.Random) -> None:
        self._me = me
        self._frames = frames
        self._rng = rng
        self._ring = Ring(group, (me,))
        self._members: Mapping[NodeId, UdpAddress] = {}
        self._heard: dict[NodeId, float] = {}
        self._since: dict[NodeId, float] = {}
        self._subjects: dict[NodeId, _Subject] = {}
        self._others: tuple[NodeId, ...] = ()  # neither subjects nor me
        self._slots: list[list[NodeId]] = [[] for _ in range(SLOTS)]
        self._slot = 0
        self._beat_at = _NEVER
        self._scan_at = _NEVER
        self._timer_at = _NEVER
        self._beats: dict[NodeId, None] = {}
        self._probes: list[NodeId] = []
        self._events: deque[SuspicionEvent] = deque()
        self._answered_at = -_NEVER
        self._doubt = _Doubt.NONE
        self._polled: tuple[NodeId, ...] = ()
        self._polled_at = -_NEVER
        self._poll_probes = len(PROBE_AT_S)
        self._level = 0
        self._level_at = -_NEVER
        self._raised_at = -_NEVER
        self._stalled_at = self._stalls_since = -_NEVER
        self.drops: Counter[str] = Counter()
        """Output dropped, by reason."""

    @property
    def health(self) -> int:
        """How far this member distrusts itself: 0 well .. 255, for its row."""
        return self._level * 255 // LEVEL_MAX

    @property
    def is_deaf(self) -> bool:
        """Whether hardly anybody is heard."""
        return self._doubt is _Doubt.DEAF

    @property
    def is_withholding(self) -> bool:
        """Whether accusations are held back because the fault may be here."""
        return self._doubt is not _Doubt.NONE

    @property
    def subjects(self) -> tuple[NodeId, ...]:
        """Whom this member watches."""
        return tuple(self._subjects)

    @property
    def observers(self) -> tuple[NodeId, ...]:
        """To whom this member beats."""
        return tuple(node for slot in self._slots for node in slot)

    def set_members(self, members: Mapping[NodeId, UdpAddress], now: float) -> None:
        """Say who the members are and where; this one may be among them. A new subject gets a whole deadline before it is suspected.

        Cost: 20 us for each that comes or goes; 20 us when only addresses change, at 100 members.
        """
        if members.keys() == self._members.keys():
            self._members = dict(members)
            return
        self._members = dict(members)
        self._ring.set_members((*sorted(members), self._me))
        subjects = self._ring.subjects_of(self._me)
        self._heard = {node: at for node, at in self._heard.items() if node in members}
        self._heard.update((node, now) for node in subjects if node not in self._subjects)
        self._since = {node: self._since.get(node, now) for node in members}
        self._subjects = {node: self._subjects.get(node) or _Subject(now, self._since[node] + GRACE_S) for node in subjects}
        self._others = tuple(sorted(members.keys() - self._subjects.keys() - {self._me}))
        self._polled = tuple(node for node in self._polled if node in members)
        self._assign_slots()
        if not subjects:
            self._beat_at = self._scan_at = self._timer_at = _NEVER
            self._doubt = _Doubt.NONE
            return
        if self._beat_at == _NEVER:
            self._slot = self._rng.randrange(SLOTS)
            self._beat_at = now + self._rng.random() * SLOT_S
        self._scan_at = now
        self._timer_at = min(self._timer_at, now)

    def heard(self, node: NodeId, now: float) -> None:
        """Note life: an authenticated frame came from a member. Deadlines look at it when they fall due. Cost: 0.1 us."""
        self._heard[node] = now

    def behind(self, lag_s: float, now: float) -> None:
        """Frames waited `lag_s` before this host read them: others may have waited too, so every wait begins as much later."""
        if lag_s > BEHIND_S:
            self._shift(lag_s, now)
            self._timer_at = min(self._timer_at, now)

    def beat_received(self, frame: Frame, now: float) -> None:
        """Take in an authenticated BEAT. Cost: 0.8 us."""
        self._heard[frame.sender] = now
        subject = self._subjects.get(frame.sender)
        if subject is None:
            return
        subject.take_beat(now)
        if not frame.flags & FLAG_DEAF:
            subject.deaf_beats = 0
            return
        subject.deaf_beats += 1
        if subject.deaf_beats == DEAF_BEATS:
            self._scan_at = now
            self._timer_at = min(self._timer_at, now)

    def accused(self, now: float) -> None:
        """Somebody accused this member: beat to all observers at once, unless that was done within ACCUSED_GAP_S."""
        if now - self._answered_at >= ACCUSED_GAP_S:
            self._answered_at = now
            self._beats.update(dict.fromkeys(self.observers))

    def handle_timer(self, now: float) -> None:
        """Do what is due: beats, deadlines, probes, accusations. Cost: 1 us, and 6 us once a period."""
        late_s = now - self._timer_at
        if late_s < 0:
            return
        if late_s > ASLEEP_S:
            self._shift(late_s, now)
        if self._beat_at <= now:
            self._beat(now)
        if self._scan_at <= now:
            self._scan_at = self._scan(now)
        self._timer_at = min(self._beat_at, self._scan_at)

    def get_timer(self) -> float | None:
        """When to call `handle_timer` next; None without other members."""
        return None if self._timer_at == _NEVER else self._timer_at

    @property
    def has_output(self) -> bool:
        """Whether `datagrams_to_send` would yield something."""
        return bool(self._beats)

    def probes_due(self) -> list[NodeId]:
        """Return whom to send a PROBE now, each once; they are handed out once."""
        if not self._probes:
            return []
        due, self._probes = list(dict.fromkeys(self._probes)), []
        return due

    def datagrams_to_send(self, now: float, read_stamp_ns: Callable[[], int]) -> Iterator[tuple[bytes, UdpAddress]]:
        """Yield the beats that are due, with their destinations.

        Args:
            now: monotonic seconds; not used, for the likeness of all cores.
            read_stamp_ns: reads the clock whose stamps this member's frames carry.
        """
        del now
        if not self._beats:
            return
        due, self._beats = self._beats, {}
        flags = self.health << 8 | (FLAG_DEAF if self._doubt is _Doubt.DEAF else 0)
        for node in due:
            address = self._members.get(node)
            if address is None:
                continue
            try:
                sealed = self._frames.seal(node, FrameType.BEAT, b"", digest=_EMPTY_DIGEST, tx_ns=read_stamp_ns(), flags=flags)
            except KeyError:  # the overlay let the peer go, and will tell
                self.drops["no-key"] += 1
                continue
            yield sealed, address

    def next_event(self) -> SuspicionEvent | None:
        """Return the next event, None if there is none."""
        return self._events.popleft() if self._events else None

    def _assign_slots(self) -> None:
        """Spread the observers evenly; those who stay keep their slot, so that none of them waits longer for a beat."""
        observers = dict.fromkeys(self._ring.observers_of(self._me))
        share = -(-len(observers) // SLOTS)
        self._slots = [[node for node in slot if node in observers][:share] for slot in self._slots]
        placed = {node for slot in self._slots for node in slot}
        for node in observers:
            if node not in placed:
                min(self._slots, key=len).append(node)

    def _shift(self, late_s: float, now: float) -> None:
        """I was asleep: what came meanwhile was not read, so every wait begins as much later."""
        for node, subject in self._subjects.items():
            self._heard[node] = min(self._heard[node] + late_s, now)
            subject.beat_at = min(subject.beat_at + late_s, now)
            if subject.silent_at < _NEVER:
                subject.silent_at = max(subject.silent_at, min(subject.silent_at + late_s, now))
        self._polled_at = min(self._polled_at + late_s, now)
        self._scan_at = now
        if now - self._stalled_at > STALLS_GAP_S:
            self._stalls_since = now
        self._stalled_at = now
        if late_s < STALL_S and now - self._stalls_since < STALLS_S:
            return
        if now - self._raised_at < STALLS_S:
            self._level_at = now
            return
        self._raised_at = now
        self._set_level(max(self._level, min(self._level + 1, LEVEL_STALLED_MAX)), now)

    def _beat(self, now: float) -> None:
        """Take the slots that are due; what was slept over is not made up for twice."""
        steps = int((now - self._beat_at) / SLOT_S) + 1
        for _ in range(min(steps, SLOTS)):
            self._beats.update(dict.fromkeys(self._slots[self._slot]))
            self._slot = (self._slot + 1) % SLOTS
            if self._slot == 0:
                self._scan_at = min(self._scan_at, now)  # looking now puts the deadlines off that would need a timer of their own
        self._beat_at += steps * SLOT_S

    def _scan(self, now: float) -> float:
        """Look at all subjects. Return when to look again."""
        if self._level and now - self._level_at >= LEVEL_S and self._doubt is _Doubt.NONE:
            self._set_level(self._level - 1, now)
        wait_s = 2 * BEAT_S * min(1 + self._level * LEVEL_STRETCH, STRETCH_MAX)
        next_at = _NEVER
        silent = 0
        due: list[NodeId] = []
        for node, subject in self._subjects.items():
            heard_at = self._heard[node]
            if heard_at > subject.silent_at:
                self._end_silence(node, subject)
            if subject.silent_at == _NEVER:
                deadline = subject.deadline(heard_at, wait_s)
                if now >= deadline:
                    self._begin_silence(node, subject, now)
                else:
                    next_at = min(next_at, deadline)
                    if subject.history == _HISTORY_MASK and not (subject.is_accused or subject.deaf_beats):
                        continue
            silent += subject.silent_at < _NEVER
            next_at = min(next_at, self._judge(node, subject, now, due))
        was_withholding = self.is_withholding
        next_at = min(next_at, self._weigh(silent, now))
        if was_withholding and not self.is_withholding:
            self._forgive(now)
            next_at = now
        elif due:
            next_at = min(next_at, self._accuse(due, now))
        return max(next_at, now + 1e-3)

    def _begin_silence(self, node: NodeId, subject: _Subject, now: float) -> None:
        subject.silent_at = now
        subject.probes = 0
        if not subject.is_accused:
            self._emit(PeerSuspected(node))

    def _end_silence(self, node: NodeId, subject: _Subject) -> None:
        subject.silent_at = _NEVER
        if not subject.is_accused:
            self._emit(PeerHeardAgain(node))

    def _judge(self, node: NodeId, subject: _Subject, now: float, due: list[NodeId]) -> float:
        """Probe, accuse or acquit one subject that is not simply well. Return when to look at it again."""
        is_silent = subject.silent_at < _NEVER
        is_bad = subject.must_steady or subject.deaf_beats >= DEAF_BEATS or (subject.is_losing(now) and self._is_network_well(now))
        if is_silent and not is_bad and subject.probes < len(PROBE_AT_S):
            if now >= subject.silent_at + PROBE_AT_S[subject.probes]:
                subject.probes += 1
                self._probes.append(node)
            at_s = PROBE_AT_S[subject.probes] if subject.probes < len(PROBE_AT_S) else PROBING_S
            return subject.silent_at + at_s
        if is_silent and not is_bad and now < subject.silent_at + PROBING_S:
            return subject.silent_at + PROBING_S
        if is_silent or is_bad:
            if now >= subject.accuse_at:
                due.append(node)
                return _NEVER
            return min(subject.accuse_at, now + BEAT_S)
        if subject.is_accused:
            subject.is_accused = False
            subject.accuse_at = -_NEVER
            self._emit(PeerHeardAgain(node))
        return now + BEAT_S

    def _is_network_well(self, now: float) -> bool:
        """Whether the median subject's beats come: otherwise loss is nobody's own fault, or mine."""
        arrived = sorted(subject.recent_beats(now).bit_count() for subject in self._subjects.values())
        return arrived[len(arrived) // 2] >= WELL_BEATS

    def _weigh(self, silent: int, now: float) -> float:
        """Ask whether the fault is here: poll when many subjects are silent, and count. Return when to look again."""
        subjects = len(self._subjects)
        if subjects < DOUBT_SUBJECTS_MIN or silent < 2 or 10 * silent < 3 * subjects:
            self._doubt = _Doubt.NONE
            self._polled_at = -_NEVER
            return _NEVER
        if now >= self._polled_at + POLL_GAP_S:
            self._polled = tuple(self._rng.sample(self._others, min(POLL_MEMBERS, len(self._others))))
            self._polled_at = now
            self._poll_probes = 0
        if self._poll_probes < len(PROBE_AT_S) and now >= self._polled_at + PROBE_AT_S[self._poll_probes]:
            self._probes += [node for node in self._polled if self._heard.get(node, -_NEVER) < self._polled_at]
            self._poll_probes += 1
        if self._is_polling(now):
            at_s = PROBE_AT_S[self._poll_probes] if self._poll_probes < len(PROBE_AT_S) else PROBING_S
            return self._polled_at + at_s
        self._conclude(silent, now)
        return self._polled_at + POLL_GAP_S

    def _conclude(self, silent: int, now: float) -> None:
        """Compare those who are silent with those asked; `silent` of the asked are subjects."""
        asked = len(self._subjects) + len(self._polled)
        silent += sum(self._heard.get(node, -_NEVER) < self._polled_at for node in self._polled)
        knows_all = len(self._polled) == len(self._others)
        if 10 * silent >= 9 * asked:
            self._doubt = _Doubt.DEAF
            self._set_level(LEVEL_MAX, now)
        elif 2 * silent > asked or (not knows_all and 5 * silent >= 2 * asked):
            self._doubt = _Doubt.PARTED
            self._set_level(max(self._level, LEVEL_PARTED), now)
        else:
            self._doubt = _Doubt.NONE

    def _is_polling(self, now: float) -> bool:
        return now < self._polled_at + PROBING_S

    def _forgive(self, now: float) -> None:
        """The fault was here and is over: who is still silent is probed afresh, and what was lost meanwhile is not counted."""
        for subject in self._subjects.values():
            if subject.silent_at < _NEVER:
                subject.silent_at = now
                subject.probes = 0
            if not subject.is_accused:
                subject.history = _HISTORY_MASK

    def _accuse(self, due: list[NodeId], now: float) -> float:
        """Accuse, or wait if the fault may be here. Return when to look again."""
        if self._doubt is not _Doubt.NONE or self._is_polling(now):
            return now + WITHHELD_S
        for node in due:
            subject = self._subjects[node]
            subject.is_accused = subject.must_steady = True
            subject.accuse_at = now + ACCUSE_AGAIN_S
            self._emit(AccusationDue(node))
        return now + BEAT_S

    def _set_level(self, level: int, now: float) -> None:
        before = self._level
        self._level = min(max(level, 0), LEVEL_MAX)
        self._level_at = now
        if self._level != before:
            self._emit(HealthChanged(self.health))

    def _emit(self, event: SuspicionEvent) -> None:
        if len(self._events) >= EVENTS_MAX:
            self.drops["events"] += 1
            return
        self._events.append(event)
