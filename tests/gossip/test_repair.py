"""Whom to ask once more: not too early, not too often, not too many."""

from __future__ import annotations

import math
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srwan.gossip.inbound import Inbound
from srwan.gossip.owl import Entries, OwlMatrix
from srwan.gossip.repair import AFTER_S, ASKS_AT_ONCE_MAX, ASKS_MAX, GAP_S, TELLING_S, Repair
from srwan.gossip.row import encode_owl
from srwan.types import NodeId

FRESH_S = 25.0


def nodes_of(n: int) -> list[NodeId]:
    return [NodeId(bytes([index]) * 32) for index in range(1, n + 1)]


def group_of(n: int, *, heard: bool) -> tuple[dict[NodeId, Inbound], OwlMatrix]:
    """This member (the first) and n - 1 others, all heard long ago enough to have been told of, or none; no row came of anybody."""
    nodes = nodes_of(n)
    matrix = OwlMatrix(nodes[0], stale_s=FRESH_S)
    matrix.set_members(nodes[1:])
    peers: dict[NodeId, Inbound] = {}
    for node in nodes[1:]:
        peers[node] = Inbound(("127.0.0.1", 1))
        slot = matrix.slot(node)
        assert slot is not None
        peers[node].slot = slot
        if heard:
            peers[node].add_sample(10.0, 0.0)
    return peers, matrix


def entries_of(n: int, slot: int, stamp_ns: int = 1) -> Entries:
    told_ms = np.full(n, 10.0)
    told_ms[slot] = np.nan
    base_us, codes = encode_owl(told_ms)
    return Entries(codes, np.zeros(n, np.uint8), np.zeros(n, np.uint8), base_us, stamp_ns, n - 1)


def test_nobody_is_asked_before_the_others_had_time_to_tell() -> None:
    repair = Repair(FRESH_S, random.Random(1))
    assert not repair.is_due(1e9)
    repair.expect_news(100.0)
    assert [False, False, True] == [repair.is_due(at) for at in (100.0, 100.0 + AFTER_S - 0.01, 100.0 + AFTER_S)]


def test_each_member_is_asked_so_often_for_one_change_and_again_for_the_next() -> None:
    peers, matrix = group_of(5, heard=False)
    repair = Repair(FRESH_S, random.Random(1))
    repair.expect_news(0.0)
    asked_at = [at for at in np.arange(1.0, 20.0, GAP_S / 4) if repair.choose(peers, matrix, at)]
    assert ASKS_MAX == len(asked_at)
    assert [GAP_S, 2 * GAP_S, 4 * GAP_S] == pytest.approx(np.diff(asked_at).tolist(), abs=GAP_S / 4)
    repair.expect_news(30.0)
    assert list(peers) == repair.choose(peers, matrix, 32.0)


@pytest.mark.parametrize(("missing", "first_at"), [(ASKS_AT_ONCE_MAX, AFTER_S), (ASKS_AT_ONCE_MAX + 1, TELLING_S)])
def test_few_who_are_missing_are_asked_sooner_than_many(missing: int, first_at: float) -> None:
    peers, matrix = group_of(missing + 1, heard=False)
    repair = Repair(FRESH_S, random.Random(1))
    repair.expect_news(0.0)
    asked = [at for at in (AFTER_S, TELLING_S - 0.01, TELLING_S) if repair.choose(peers, matrix, at)]
    assert first_at == asked[0]


def test_no_more_than_some_are_asked_at_once_and_in_the_end_all_as_often() -> None:
    peers, matrix = group_of(100, heard=False)
    repair = Repair(FRESH_S, random.Random(1))
    repair.expect_news(0.0)
    asked: Counter[NodeId] = Counter()
    for turn in range(200):
        chosen = repair.choose(peers, matrix, 2.0 + turn / 10)
        assert len(chosen) <= ASKS_AT_ONCE_MAX
        assert len(chosen) == len(set(chosen))
        asked.update(chosen)
    assert dict.fromkeys(peers, ASKS_MAX) == asked


def test_only_those_are_asked_whose_rows_are_missing_or_who_are_not_heard() -> None:
    peers, matrix = group_of(4, heard=True)
    first, second, third = peers
    for node in (first, second):
        matrix.add_row(peers[node].slot, entries_of(4, peers[node].slot), 1.0)
    repair = Repair(FRESH_S, random.Random(1))
    repair.expect_news(0.0)
    assert [third] == repair.choose(peers, matrix, 2.0)
    peers[second].forget()  # its clock moved: heard never, as far as samples go
    assert [second, third] == repair.choose(peers, matrix, 3.0)
    peers[second].add_sample(10.0, 3.5)
    assert [third] == repair.choose(peers, matrix, 4.5)


def test_a_member_whose_row_came_may_be_asked_as_often_when_it_lacks_again() -> None:
    peers, matrix = group_of(3, heard=True)
    (first, second), repair = peers, Repair(FRESH_S, random.Random(1))
    repair.expect_news(0.0)
    for turn in range(ASKS_MAX):
        assert [first, second] == repair.choose(peers, matrix, 2.0 * (turn + 1))
    assert [] == repair.choose(peers, matrix, 20.0)
    matrix.add_row(peers[first].slot, entries_of(3, peers[first].slot), 20.0)
    assert [] == repair.choose(peers, matrix, 20.0)
    peers[first].forget()
    assert [first] == repair.choose(peers, matrix, 20.0)


def test_nobody_is_asked_while_the_matrix_is_full() -> None:
    peers, matrix = group_of(4, heard=True)
    for slot in range(4):
        matrix.add_row(slot, entries_of(4, slot), 1.0)
    assert matrix.is_full(2.0)
    repair = Repair(FRESH_S, random.Random(1))
    repair.expect_news(-math.inf)
    assert [] == repair.choose(peers, matrix, 2.0)


@pytest.mark.parametrize("n", [1, 2])
def test_the_smallest_groups_raise_nothing(n: int) -> None:
    peers, matrix = group_of(n, heard=False)
    assert list(peers) == Repair(FRESH_S, random.Random(1)).choose(peers, matrix, 2.0)


@given(st.integers(0, 2**32), st.integers(2, 60), st.lists(st.tuples(st.integers(0, 59), st.floats(0, 60)), max_size=60))
def test_bounds_hold_whatever_is_heard(seed: int, n: int, samples: list[tuple[int, float]]) -> None:
    peers, matrix = group_of(n, heard=False)
    repair = Repair(FRESH_S, random.Random(seed))
    repair.expect_news(0.0)
    asked: Counter[NodeId] = Counter()
    order = list(peers)
    for index, at in samples:
        peers[order[index % len(order)]].add_sample(1.0, at)
    for turn in range(30):
        chosen = repair.choose(peers, matrix, 2.0 * turn)
        assert len(chosen) <= ASKS_AT_ONCE_MAX
        asked.update(chosen)
    assert max(asked.values(), default=0) <= ASKS_MAX
    assert set(asked) <= set(peers)
