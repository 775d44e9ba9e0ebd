"""The side that is asked: what it says of ranges, and how much work it does for whom.

Theory of operation. An answer depends on the question and on the tree alone; nothing is kept between questions, so that whoever breaks
off or asks in any order costs nothing more. Work is charged in microseconds of processor time, roughly as measured, before it is done:
each known peer has a budget of its own, all strangers share one, since identities cost nothing. Who has none left is told so in one
small message.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from srwan.ledger_client.exchange.digest_tree import DIGEST_BYTES, ENTRY_BYTES, FAN_OUT, LEAF_ITEMS_MAX, DigestTree
from srwan.ledger_client.exchange.messages import ANSWER_BYTES, Compare, Fetch, Item, Question, RangeAnswer, item_bytes
from srwan.types import NodeId

__all__ = ["WorkBudgets", "WorkRates", "answers_to", "fitting", "work_us"]

_QUESTION_US = 200
_RANGE_US = 20
_ITEM_US = 60
_PUSHED_US = 120
"""A record is decoded, verified and stored; see benchmarks/ledger_sizing.py."""


def answers_to(tree: DigestTree, question: Compare) -> list[RangeAnswer]:
    """Return what to say of each range; stops early where the answer would exceed ANSWER_BYTES. Cost: 20 us a range that differs."""
    answers: list[RangeAnswer] = []
    size = 0
    for prefix, digest in question.ranges:
        if answers and size > ANSWER_BYTES - max(FAN_OUT * DIGEST_BYTES, LEAF_ITEMS_MAX * ENTRY_BYTES):
            break
        if tree.digest(prefix) == digest:
            answers.append(RangeAnswer())
        elif tree.is_leaf(prefix):
            entries = tuple(tree.entries(prefix, LEAF_ITEMS_MAX))
            size += len(entries) * ENTRY_BYTES
            answers.append(RangeAnswer(entries=entries))
        else:
            size += FAN_OUT * DIGEST_BYTES
            answers.append(RangeAnswer(parts=tuple(tree.parts(prefix))))
    return answers


def fitting(items: Sequence[Item | None]) -> Sequence[Item | None]:
    """Return as many of the first items as fit one answer, at least one."""
    size = 0
    for index, item in enumerate(items):
        size += 1 if item is None else item_bytes(item)
        if size > ANSWER_BYTES and index:
            return items[:index]
    return items


def work_us(question: Question) -> int:
    """Return about what answering costs, us of processor time."""
    if isinstance(question, Compare):
        return _QUESTION_US + _RANGE_US * len(question.ranges)
    if isinstance(question, Fetch):
        return _QUESTION_US + _ITEM_US * len(question.positions)
    return _QUESTION_US + _PUSHED_US * len(question.items)


@attrs.frozen(slots=True)
class WorkRates:
    """How much of a processor answering may take."""

    peer_us: int = 400_000
    """For each known peer, us a second."""
    strangers_us: int = 100_000
    """For all others together, us a second; 0 answers known peers only."""
    burst_s: float = 10.0
    """How much may be saved up, s of the above."""


class _Account:
    """Work that may still be done: refilled with time, and allowed to go below zero by one question."""

    __slots__ = ("_at", "_burst_us", "_left_us", "_per_s_us")

    def __init__(self, per_s_us: int, burst_s: float, now: float) -> None:
        self._per_s_us = per_s_us
        self._burst_us = per_s_us * burst_s
        self._left_us = self._burst_us
        self._at = now

    def charge(self, amount_us: int, now: float) -> float:
        """Charge the work and return 0, or charge nothing and return after how many seconds there is something again."""
        self._left_us = min(self._burst_us, self._left_us + max(0.0, now - self._at) * self._per_s_us)
        self._at = now
        if self._left_us <= 0:
            return max(1.0, -self._left_us / self._per_s_us) if self._per_s_us else 600.0
        self._left_us -= amount_us
        return 0.0


class WorkBudgets:
    """Who may cause how much work.

    Args:
        known: peers with a budget of their own.
        rates: how much.
        now: monotonic seconds.
    """

    def __init__(self, known: Sequence[NodeId], rates: WorkRates, now: float) -> None:
        self._known: Mapping[NodeId, _Account] = {node: _Account(rates.peer_us, rates.burst_s, now) for node in known}
        self._strangers = _Account(rates.strangers_us, rates.burst_s, now)

    def charge(self, peer: NodeId, question: Question, now: float) -> float:
        """Charge a question and return 0; or, if the budget is used up, after how many seconds to ask again."""
        return self._known.get(peer, self._strangers).charge(work_us(question), now)
