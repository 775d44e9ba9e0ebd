"""One session with another store, as the side that asks: find what differs, fetch what is newer there, push what is newer here.

Theory of operation. The caller takes steps until `Done` and reports back after each: `Ask` (send, then `receive_response`), `Put` (offer
items to our store, then `receive_outcome`), `Load` (read items from it, then `receive_loaded`). Ranges are compared depth first, so that
few are pending however much differs. Of an item that differs the greater version wins; at equal versions both sides give theirs,
which makes a proof of equivocation on both.

What a hostile or broken peer can cost is bounded per session by `SyncLimits`: questions, bytes, items in and out; a split below the last
digit is refused. What it listed but could not or would not give in a form that our store takes is remembered for that peer alone
(`Memory`), and not asked for again for some time; likewise what it refused of ours. Whoever lies in listings withholds or repeats; it
cannot make our store take anything that its subject did not sign, nor drop anything.

Not here: sending, storing, time-outs (`service.py`), answering (`answers.py`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TypeAlias

import attrs

from srwan.errors import DecodeError, RemoteProtocolError
from srwan.ledger_client.exchange.digest_tree import DEPTH_MAX, EMPTY, LEAF_ITEMS_MAX, DigestTree, Entry
from srwan.ledger_client.exchange.messages import (
    ITEMS_MAX,
    PUSH_BYTES,
    RANGES_MAX,
    Compare,
    Fetch,
    Item,
    Push,
    RangeAnswer,
    decode_items,
    decode_ranges,
    decode_taken,
    item_bytes,
    position_of_item,
)

__all__ = ["Ask", "Done", "Load", "Memory", "Put", "Step", "SyncLimits", "SyncOutcome", "SyncSession"]

OFFERED_AT_ONCE_MAX = 2_000
"""Items of a range that are offered in one step, about 10 ms."""
MEMORY_ENTRIES_MAX = 16_384
"""Refusals remembered per peer, about 3 MB."""
MEMORY_S = 600.0
"""How long; then a clock may have been set or room been made."""


@attrs.frozen(slots=True)
class SyncLimits:
    """What one session may cost. The rest is left to the next one, which finds less that differs."""

    questions_max: int = 4_000
    """Messages sent."""
    ranges_max: int = 100_000
    """Compared; each that differs everywhere costs 16 look-ups."""
    received_bytes_max: int = 256 << 20
    """Of answers."""
    fetched_max: int = 100_000
    """Items asked for."""
    pushed_max: int = 100_000
    """Items offered."""


@attrs.frozen(slots=True)
class Ask:
    """Send this to the peer and hand back what it answers."""

    body: bytes


@attrs.frozen(slots=True)
class Put:
    """Offer these to our store and hand back, for each, the reason of its refusal or None."""

    items: tuple[Item, ...]


@attrs.frozen(slots=True)
class Load:
    """Read these positions from our store and hand back, for each, the item or None."""

    positions: tuple[bytes, ...]
    """16 B each."""


@attrs.frozen(slots=True)
class SyncOutcome:
    """What a session came to."""

    is_complete: bool
    """Everything that differed was compared; False: a limit was reached, the next session goes on."""
    questions: int
    """Messages sent."""
    sent_bytes: int
    received_bytes: int
    ranges: int
    """Ranges compared."""
    fetched: int
    """Items that came."""
    stored: int
    """Of these, new to our store."""
    refused: tuple[tuple[str, int], ...]
    """Items that were refused, by reason; "gone": listed, but not given."""
    pushed: int
    """Items that went."""
    taken: int
    """Of these, new to the peer's store."""


@attrs.frozen(slots=True)
class Done:
    """The session is over."""

    outcome: SyncOutcome


Step: TypeAlias = Ask | Put | Load | Done


class Memory:
    """What was refused between us and one peer: bounded, and forgotten after MEMORY_S."""

    def __init__(self) -> None:
        self._until: OrderedDict[tuple[bool, Entry], float] = OrderedDict()

    def add(self, entry: Entry, now: float, *, is_ours: bool) -> None:
        """Remember that we refused a peer's item, or the peer one of ours."""
        self._until[is_ours, entry] = now + MEMORY_S
        self._until.move_to_end((is_ours, entry))
        if len(self._until) > MEMORY_ENTRIES_MAX:
            self._until.popitem(last=False)

    def has(self, entry: Entry, now: float, *, is_ours: bool) -> bool:
        """Say whether it was refused lately."""
        return self._until.get((is_ours, entry), now) > now


class SyncSession:
    """The asking side.

    Args:
        tree: of our store; it may change meanwhile.
        memory: of this peer; outlives the session.
        now: monotonic seconds.
        limits: of this session.
    """

    def __init__(self, tree: DigestTree, memory: Memory, now: float, limits: SyncLimits | None = None) -> None:
        self._tree = tree
        self._memory = memory
        self._now = now
        self._limits = limits or SyncLimits()
        self._ranges: list[str] = [""]
        self._asked: Ask | None = None
        self._asked_ranges: list[str] = []
        self._asked_entries: list[Entry] = []
        self._wanted: OrderedDict[bytes, Entry] = OrderedDict()
        self._offered: OrderedDict[bytes, Entry] = OrderedDict()
        self._putting: list[tuple[Entry, Item]] = []
        self._loading: list[Entry] = []
        self._loaded: list[tuple[Entry, Item]] = []
        self._pushing: list[Entry] = []
        self._is_cut = False
        self._questions = self._sent_bytes = self._received_bytes = self._compared = 0
        self._fetched = self._stored = self._pushed = self._taken = 0
        self._refused: dict[str, int] = {}
        self._wanted_in_all = self._offered_in_all = 0

    # --- what to do next

    def next_step(self) -> Step:
        """Return what to do; ask again after reporting back."""
        if self._putting:
            return Put(tuple(item for _, item in self._putting))
        if self._asked is not None:
            return self._asked
        if self._is_spent():
            self._is_cut = True
            return Done(self.outcome())
        is_last = not self._ranges
        if self._loaded:
            return self._ask_push()
        if len(self._offered) >= ITEMS_MAX or (self._offered and is_last):
            self._loading = [self._offered.popitem(last=False)[1] for _ in range(min(ITEMS_MAX, len(self._offered)))]
            return Load(tuple(entry.position for entry in self._loading))
        if len(self._wanted) >= ITEMS_MAX or (self._wanted and is_last):
            self._asked_entries = list(self._wanted.values())[:ITEMS_MAX]
            return self._ask(Fetch(tuple(entry.position for entry in self._asked_entries)).encode())
        if self._ranges:
            self._asked_ranges = [self._ranges.pop() for _ in range(min(RANGES_MAX, len(self._ranges)))]
            return self._ask(Compare(tuple((prefix, self._tree.digest(prefix)) for prefix in self._asked_ranges)).encode())
        return Done(self.outcome())

    def _is_spent(self) -> bool:
        limits = self._limits
        return (
            self._questions >= limits.questions_max
            or self._compared >= limits.ranges_max
            or self._received_bytes >= limits.received_bytes_max
        )

    def outcome(self) -> SyncOutcome:
        """Return what the session came to so far."""
        is_complete = not (self._is_cut or self._ranges or self._wanted or self._offered or self._loaded or self._putting)
        return SyncOutcome(
            is_complete,
            self._questions,
            self._sent_bytes,
            self._received_bytes,
            self._compared,
            self._fetched,
            self._stored,
            tuple(sorted(self._refused.items())),
            self._pushed,
            self._taken,
        )

    def _ask(self, body: bytes) -> Ask:
        self._asked = Ask(body)
        self._questions += 1
        self._sent_bytes += len(body)
        return self._asked

    def _ask_push(self) -> Ask:
        items: list[Item] = []
        self._pushing = []
        size = 0
        while self._loaded and (not items or size + item_bytes(self._loaded[0][1]) <= PUSH_BYTES):
            entry, item = self._loaded.pop(0)
            size += item_bytes(item)
            items.append(item)
            self._pushing.append(entry)
        self._pushed += len(items)
        return self._ask(Push(tuple(items)).encode())

    # --- what came of it

    def receive_response(self, body: bytes) -> None:
        """Take the answer to the last `Ask`.

        Raises:
            RemoteProtocolError: malformed, or it answers something else; the session is of no use any more. LimitExceeded ("busy").
        """
        assert self._asked is not None
        self._received_bytes += len(body)
        if self._pushing:
            self._receive_taken(body)
        elif self._asked_entries:
            self._receive_items(body)
        else:
            self._receive_ranges(body)
        self._asked = None

    def _receive_ranges(self, body: bytes) -> None:
        answers = decode_ranges(body, len(self._asked_ranges))
        for prefix, answer in zip(self._asked_ranges, answers, strict=False):
            self._compared += 1
            if answer.parts is not None:
                self._descend(prefix, answer.parts)
            elif answer.entries is not None:
                self._compare_listing(prefix, answer)
        self._ranges += self._asked_ranges[len(answers) :]
        self._asked_ranges = []

    def _descend(self, prefix: str, parts: tuple[bytes, ...]) -> None:
        if len(prefix) >= DEPTH_MAX:
            raise DecodeError("a range is split below the last digit", reason="depth")
        for digit, digest in zip("0123456789abcdef", parts, strict=True):
            part = prefix + digit
            if self._tree.digest(part) == digest:
                continue
            if digest == EMPTY:
                self._offer_range(part)
            else:
                self._ranges.append(part)

    def _is_large(self, prefix: str) -> bool:
        """Say whether we hold much more in a range than the peer; its parts are then compared one by one, so that no step takes long."""
        if len(prefix) >= DEPTH_MAX or self._tree.count(prefix) <= OFFERED_AT_ONCE_MAX:
            return False
        parts = zip("0123456789abcdef", self._tree.parts(prefix), strict=True)
        self._ranges += [prefix + digit for digit, digest in parts if digest != EMPTY]
        return True

    def _offer_range(self, prefix: str) -> None:
        if self._is_large(prefix):
            return
        room = max(0, self._limits.pushed_max - self._offered_in_all)
        ours = self._tree.entries(prefix, room + 1)
        for entry in ours[:room]:
            self._offer(entry)
        self._is_cut |= len(ours) > room

    def _compare_listing(self, prefix: str, answer: RangeAnswer) -> None:
        theirs = {entry.position: entry for entry in answer.entries or ()}
        if any(not position.hex().startswith(prefix) for position in theirs):
            raise DecodeError("a listing names items of another range", reason="listing")
        if len(theirs) <= LEAF_ITEMS_MAX and self._is_large(prefix):
            return
        for entry in theirs.values():
            held = self._tree.entry_at(entry.position)
            if held is None or held.version < entry.version:
                self._want(entry)
            elif held.version > entry.version:
                self._offer(held)
            elif held.digest != entry.digest:
                self._want(entry)
                self._offer(held)
        room = max(0, self._limits.pushed_max - self._offered_in_all) + len(theirs)
        ours = self._tree.entries(prefix, room + 1)
        for entry in ours[:room]:
            if entry.position not in theirs:
                self._offer(entry)
        self._is_cut |= len(ours) > room

    def _want(self, entry: Entry) -> None:
        if self._memory.has(entry, self._now, is_ours=False):
            return
        if self._wanted_in_all >= self._limits.fetched_max:
            self._is_cut = True
            return
        self._wanted_in_all += 1
        self._wanted[entry.position] = entry

    def _offer(self, entry: Entry) -> None:
        if self._memory.has(entry, self._now, is_ours=True):
            return
        if self._offered_in_all >= self._limits.pushed_max:
            self._is_cut = True
            return
        self._offered_in_all += 1
        self._offered[entry.position] = entry

    def _receive_items(self, body: bytes) -> None:
        asked = self._asked_entries
        items = decode_items(body, [entry.position for entry in asked])
        self._asked_entries = []
        for entry, item in zip(asked, items, strict=False):
            self._wanted.pop(entry.position, None)
            if item is None:
                self._refuse(entry, "gone")  # listed and not given: superseded meanwhile, or never there
            elif isinstance(item, RemoteProtocolError):
                self._refuse(entry, item.reason)
            else:
                self._fetched += 1
                self._putting.append((entry, item))

    def _refuse(self, entry: Entry, reason: str) -> None:
        self._refused[reason] = self._refused.get(reason, 0) + 1
        self._memory.add(entry, self._now, is_ours=False)

    def receive_outcome(self, reasons: Sequence[str | None], stored: int) -> None:
        """Take what our store said to the last `Put`.

        Args:
            reasons: for each item why it was refused, or None.
            stored: how many were new.
        """
        for (entry, _), reason in zip(self._putting, reasons, strict=True):
            if reason is not None:
                self._refuse(entry, reason)
        self._stored += stored
        self._putting = []

    def receive_loaded(self, items: Sequence[Item | None]) -> None:
        """Take what our store holds at the positions of the last `Load`."""
        self._loaded += [(entry, item) for entry, item in zip(self._loading, items, strict=True) if item is not None]
        assert all(position_of_item(item) == entry.position for entry, item in self._loaded)
        self._loading = []

    def _receive_taken(self, body: bytes) -> None:
        taken = decode_taken(body, len(self._pushing))
        for index, _ in taken.refused:
            self._memory.add(self._pushing[index], self._now, is_ours=True)
        self._taken += taken.stored
        self._pushing = []
