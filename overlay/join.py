"""How a router finds its group and stays findable: decides the next step, does none of it. A core; `service.py` takes the steps.

Theory of operation. Seeking: look up the first rendezvous key; ask up to three of the introducers found there, distinct hosts first;
the first roster makes this node a member. The other keys, and then the address book, are tried only if that gave nothing. Rounds repeat
with growing pauses until `lone_after_s` is over; then the node founds the group and publishes itself at once. A node without bootstrap
address founds at once. Two founders are no harm: founders look again after 2, 5 and 10 s and then every 30 s while alone, ask any
introducer that is not in their view, and so the islands become one. A member that finds itself alone seeks again.

Directory operations cost 160-340 ms of CPU each, so the usual newcomer does one lookup and one ask. Only introducers touch the
directory afterwards: the five that come first in a hash order of the view every 90 s, the others every 15 minutes. Each time they look
up one key, the three in turn, and publish if their record there is absent (and fewer than five others are there) or older than three
minutes. So no crowd of newcomers publishes at once, nobody coordinates, and every key is refreshed at least every 4.5 minutes; records
live ten.

Contract: take the step that `next_step` returns, feed its outcome back, ask again. `Wait` may be cut short at any time; do so when nobody
else is left in the view. One step is out at a time.
"""

from __future__ import annotations

import enum
import hashlib
import random
from collections import deque
from collections.abc import Callable, Iterable
from typing import TypeAlias

import attrs

from srwan.errors import RemoteProtocolError
from srwan.overlay.group import GroupId, rendezvous_keys
from srwan.overlay.peers import AddressBook
from srwan.overlay.rendezvous import IntroducerRecord, merge_values, open_value
from srwan.overlay.transport import ControlAddress
from srwan.overlay.view import Role, View
from srwan.types import NodeId
from srwan.wire import pack

__all__ = ["Ask", "Done", "GroupFounded", "GroupJoined", "JoinEvent", "JoinPlan", "JoinState", "Lookup", "Publish", "Step", "Wait"]

ASKED_PER_SOURCE_MAX = 3
"""Introducers asked of one directory value, or of the address book, in one round."""
RETRY_S_FIRST = 0.3
"""Pause after the first round that found nothing; doubles, and varies by a quarter."""
LONE_AFTER_S_DEFAULT = 4.0
LONE_JITTER = 0.5
"""A node founds up to this share later than it might: of many that start together, the first is found by the rest."""
FOUNDER_LOOKS_S = (2.0, 5.0, 10.0)
LONE_LOOK_S = 30.0
UPKEEP_S = 90.0
"""Between directory visits of the first `INTRODUCERS_WANTED` introducers: 0.5 s of CPU in 90 s."""
UPKEEP_S_STANDBY = 900.0
REFRESH_AFTER_S = 180.0
INTRODUCERS_WANTED = 5
PUBLISH_SPREAD_S = (1.0, 5.0)
"""A newcomer that should be published is so after this long: the view has settled, and five do not write over each other."""

_S = 1_000_000_000


class JoinState(enum.Enum):
    """Where a node stands."""

    SEEKING = "seeking"
    MEMBER = "member"
    FOUNDER = "founder"


@attrs.frozen(slots=True)
class Lookup:
    """Look up `key` in the directory; then call `looked_up` or `step_failed`."""

    key: bytes


@attrs.frozen(slots=True)
class Ask:
    """Ask this introducer for its roster and merge it; then call `asked` with how many members that gave, or `step_failed`."""

    address: ControlAddress


@attrs.frozen(slots=True)
class Publish:
    """Put `value` under `key`; then call `published` or `step_failed`."""

    key: bytes
    value: bytes


@attrs.frozen(slots=True)
class Wait:
    """Nothing to do before a time."""

    until: float
    """Monotonic seconds."""


@attrs.frozen(slots=True)
class Done:
    """Nothing to do until nobody else is left in the view."""


Step: TypeAlias = Lookup | Ask | Publish | Wait | Done


@attrs.frozen(slots=True)
class GroupJoined:
    """An introducer took this node in."""

    introducer: NodeId
    size: int
    """Members known right after."""


@attrs.frozen(slots=True)
class GroupFounded:
    """No group was found, so this node is the first of one; it keeps looking for others."""


JoinEvent: TypeAlias = GroupJoined | GroupFounded


class JoinPlan:
    """Decides what one node does next to find its group.

    Args:
        me: this node.
        group: whose rendezvous keys to use.
        view: the group's view; read only. Whoever is in it needs not be asked.
        book: routers reached before; read only.
        record: returns this node's sealed introducer record for a wall time; None if this node does not introduce others.
        rng: for choices and jitter.
        has_bootstrap: whether there is any way into a directory; if not, there is nothing to wait for.
        lone_after_s: how long to seek before founding a group.
    """

    def __init__(
        self,
        me: NodeId,
        group: GroupId,
        view: View,
        book: AddressBook,
        record: Callable[[int], bytes] | None,
        rng: random.Random,
        *,
        has_bootstrap: bool,
        lone_after_s: float = LONE_AFTER_S_DEFAULT,
    ) -> None:
        self._me = me
        self._group = group
        self._keys = rendezvous_keys(group)
        self._view = view
        self._book = book
        self._record = record
        self._rng = rng
        self._has_bootstrap = has_bootstrap
        self._lone_after_s = lone_after_s
        self.state = JoinState.SEEKING
        """Where this node stands."""
        self._deadline: float | None = None
        self._round = 0
        self._keys_left: list[bytes] = []
        self._is_book_left = False
        self._steps: deque[Lookup | Ask | Publish] = deque()
        self._resume_at: float | None = None
        self._looks: deque[float] = deque()
        self._upkeep_at: float | None = None
        self._visits = 0
        self._publish_late: tuple[float, bytes, bytes] | None = None
        self._last_found: tuple[bytes, bytes] | None = None
        self._events: deque[JoinEvent] = deque()

    def next_step(self, now: float, wall_ns: int) -> Step:
        """Return what to do next.

        Args:
            now: monotonic seconds.
            wall_ns: wall time, for the expiry of records.
        """
        if self.state is JoinState.MEMBER and len(self._view) <= 1 and not self._steps:
            self._seek_again()
        if self.state is JoinState.SEEKING and not self._steps:
            return self._next_of_seeking(now, wall_ns)
        if self._steps:
            return self._steps[0]
        return self._next_of_upkeep(now, wall_ns)

    def next_event(self) -> JoinEvent | None:
        """Return what happened, oldest first; None: nothing more."""
        return self._events.popleft() if self._events else None

    # outcomes

    def looked_up(self, key: bytes, value: bytes | None, now: float, wall_ns: int) -> None:  # noqa: ARG002 - every entry takes the time
        """The directory answered; `value` may be anything."""
        self._drop_step()
        records = self._usable_records(value, wall_ns)
        self._last_found = key, value or b""
        strangers = [record for record in records if record.node_id != self._me and record.node_id not in self._view]
        self._steps.extend(Ask(address) for address in self._choose(strangers))
        if self.state is not JoinState.SEEKING and self._should_publish(records, wall_ns):
            self._steps.append(self._publish_step(key, value or b"", wall_ns))

    def asked(self, introducer: NodeId, met: int, now: float, wall_ns: int) -> None:
        """An introducer answered and its roster was merged.

        Args:
            introducer: who answered.
            met: members this gave; 0 counts as no answer.
            now: monotonic seconds.
            wall_ns: wall time.
        """
        self._drop_step()
        if not met:
            return
        self._events.append(GroupJoined(introducer, len(self._view)))
        if self.state is not JoinState.SEEKING:
            return
        self.state = JoinState.MEMBER
        self._steps.clear()
        self._upkeep_at = None
        if self._record is not None and self._last_found is not None:
            key, value = self._last_found
            if len(self._usable_records(value, wall_ns)) < INTRODUCERS_WANTED:
                self._publish_late = now + self._rng.uniform(*PUBLISH_SPREAD_S), key, value

    def published(self, key: bytes, copies: int, now: float) -> None:  # noqa: ARG002
        """The directory took the value. No copy elsewhere is no error: a lone first node."""
        self._drop_step()

    def step_failed(self, now: float) -> None:
        """The step could not be taken: nobody answered, or nothing usable came. The plan goes on with the other sources."""
        if self._steps and isinstance(self._steps.popleft(), Publish):
            self._upkeep_at = now + self._jittered(LONE_LOOK_S)

    # seeking

    def _seek_again(self) -> None:
        self.state = JoinState.SEEKING
        self._deadline = self._resume_at = self._publish_late = None
        self._last_found = None
        self._round = 0

    def _next_of_seeking(self, now: float, wall_ns: int) -> Step:
        if self._deadline is None:
            self._deadline = now + self._lone_after_s * self._rng.uniform(1.0, 1.0 + LONE_JITTER)
            self._start_round()
        if self._resume_at is not None and now < self._resume_at:
            return Wait(self._resume_at)
        if self._resume_at is not None:
            self._resume_at = None
            self._start_round()
        if self._keys_left:
            self._steps.append(Lookup(self._keys_left.pop(0)))
            return self._steps[0]
        if self._is_book_left:
            self._is_book_left = False
            known = [address for address in self._book.newest(ASKED_PER_SOURCE_MAX + 1) if address.node_id != self._me]
            self._steps.extend(Ask(address) for address in known[:ASKED_PER_SOURCE_MAX])
            if self._steps:
                return self._steps[0]
        if now >= self._deadline or not (self._has_bootstrap or len(self._book)):
            return self._found(now, wall_ns)
        pause_s = RETRY_S_FIRST * 2**self._round * self._rng.uniform(0.75, 1.25)
        self._round += 1
        self._resume_at = resume_at = min(now + pause_s, self._deadline)
        return Wait(resume_at)

    def _start_round(self) -> None:
        """The first round tries everything; later ones the first key, where founders publish first, and one of the others in turn."""
        self._is_book_left = True
        if not self._has_bootstrap:
            self._keys_left = []
        elif self._round == 0:
            self._keys_left = list(self._keys)
        else:
            self._keys_left = [self._keys[0], self._keys[1 + self._round % (len(self._keys) - 1)]]

    def _found(self, now: float, wall_ns: int) -> Step:
        self.state = JoinState.FOUNDER
        self._events.append(GroupFounded())
        self._looks = deque(now + delay_s * self._rng.uniform(1.0, 1.2) for delay_s in FOUNDER_LOOKS_S)
        self._upkeep_at = None
        if self._record is not None:
            found = self._last_found if self._last_found is not None and self._last_found[0] == self._keys[0] else None
            self._steps.append(self._publish_step(self._keys[0], found[1] if found else b"", wall_ns))
            return self._steps[0]
        return self._next_of_upkeep(now, wall_ns)

    # upkeep

    def _next_of_upkeep(self, now: float, wall_ns: int) -> Step:
        if self._publish_late is not None:
            due, key, value = self._publish_late
            if now < due:
                return Wait(due)
            self._publish_late = None
            if self._rank() < INTRODUCERS_WANTED:
                self._steps.append(self._publish_step(key, value, wall_ns))
                return self._steps[0]
        if self._looks:
            if now < self._looks[0]:
                return Wait(self._looks[0])
            self._looks.popleft()
            self._steps.append(Lookup(self._keys[0]))
            return self._steps[0]
        if self._record is None and len(self._view) > 1:
            self.state = JoinState.MEMBER
            return Done()
        if self._upkeep_at is None:
            self._upkeep_at = now + self._jittered(self._upkeep_s())
        if now < self._upkeep_at:
            return Wait(self._upkeep_at)
        self._upkeep_at = None
        self.state = JoinState.MEMBER if len(self._view) > 1 else JoinState.FOUNDER
        self._visits += 1
        self._steps.append(Lookup(self._keys[self._visits % len(self._keys)]))
        return self._steps[0]

    def _upkeep_s(self) -> float:
        if len(self._view) <= 1:
            return LONE_LOOK_S
        return UPKEEP_S if self._rank() < INTRODUCERS_WANTED else UPKEEP_S_STANDBY

    def _should_publish(self, records: list[IntroducerRecord], wall_ns: int) -> bool:
        if self._record is None:
            return False
        mine = next((record for record in records if record.node_id == self._me), None)
        if mine is not None:
            return wall_ns - mine.issued_ns >= REFRESH_AFTER_S * _S
        return len(records) < INTRODUCERS_WANTED

    def _publish_step(self, key: bytes, value: bytes, wall_ns: int) -> Publish:
        assert self._record is not None, "only introducers publish"
        return Publish(key, merge_values([value, pack([self._record(wall_ns)])], self._group, wall_ns))

    def _rank(self) -> int:
        """How many introducers of the view come before this one in an order that nobody's position tells."""
        mine = self._order_of(self._me)
        others = (member.node_id for member in self._view.members if Role.INTRODUCER in member.roles and member.node_id != self._me)
        return sum(self._order_of(node_id) < mine for node_id in others)

    def _order_of(self, node_id: NodeId) -> bytes:
        return hashlib.blake2b(self._group + node_id, digest_size=8, person=b"srwan/intro/1").digest()

    # shared

    def _drop_step(self) -> None:
        if self._steps:
            self._steps.popleft()

    def _usable_records(self, value: bytes | None, wall_ns: int) -> list[IntroducerRecord]:
        try:
            return [record for record in open_value(value, wall_ns) if record.group == self._group] if value else []
        except RemoteProtocolError:
            return []

    def _choose(self, records: Iterable[IntroducerRecord]) -> list[ControlAddress]:
        """Up to three in random order, one of each host before the second of any."""
        shuffled = list(records)
        self._rng.shuffle(shuffled)
        hosts: set[str] = set()
        first: list[ControlAddress] = []
        rest: list[ControlAddress] = []
        for record in shuffled:
            (rest if record.udp[0][0] in hosts else first).append(record.address)
            hosts.add(record.udp[0][0])
        return (first + rest)[:ASKED_PER_SOURCE_MAX]

    def _jittered(self, delay_s: float) -> float:
        return delay_s * self._rng.uniform(0.8, 1.0)
