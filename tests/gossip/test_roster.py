"""Rows in our member order, whatever the order of their signer."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srwan.gossip.owl import Entries
from srwan.gossip.roster import FOREIGN_ROSTERS_MAX, Roster
from srwan.gossip.row import OWL_OUTSIDE, Row, entry_id
from srwan.types import NodeId

DIGEST = b"12345678"


def nodes_of(n: int, seed: int = 1) -> list[NodeId]:
    rng = random.Random(seed)
    return sorted(NodeId(rng.randbytes(32)) for _ in range(n))


def row_of(ids: list[int] | None, codes: list[int], digest: bytes = DIGEST) -> Row:
    """A row whose entry k tells code k; jitter and loss are the code too."""
    owl = np.array(codes, np.uint16)
    small = (owl & 0xFF).astype(np.uint8)
    packed = Row.pack_entries(None if ids is None else np.array(ids, np.uint32), owl, small, small)
    return Row(
        node_id=NodeId(bytes(32)),
        boot=1,
        seq=1,
        stamp_ns=5,
        roster_digest=digest,
        clock_epoch=0,
        health=0,
        octets_in=0,
        octets_out=0,
        octets_relayed=0,
        base_us=700,
        count=len(codes),
        is_described=ids is not None,
        entries=packed,
    )


def told(aligned: Row | Entries | None) -> list[int | None]:
    """The codes in our order, None where nothing is told."""
    assert aligned is not None
    return [int(code) if code < OWL_OUTSIDE else None for code in aligned.owl]


def test_slot_order_means_something_with_our_roster_only() -> None:
    roster = Roster(nodes_of(4), DIGEST)
    row = row_of(None, [1, 2, 3, 4])
    assert row is roster.align(row)
    assert roster.align(row_of(None, [1, 2, 3, 4], b"anothero")) is None
    assert roster.align(row_of(None, [1, 2, 3])) is None
    assert roster.align(row_of(None, [1, 2, 3, 4, 5])) is None


def test_a_described_row_in_our_order_is_taken_as_it_is_whatever_its_digest() -> None:
    nodes = nodes_of(4)
    row = row_of([entry_id(node) for node in nodes], [1, 2, 3, 4], b"anothero")
    assert row is Roster(nodes, DIGEST).align(row)


def test_a_described_row_of_a_foreign_roster_is_put_into_our_order() -> None:
    nodes = nodes_of(4)
    stranger = entry_id(NodeId(b"\x99" * 32))
    aligned = Roster(nodes, DIGEST).align(row_of([entry_id(nodes[2]), stranger, entry_id(nodes[0])], [30, 99, 10]))
    assert [10, None, 30, None] == told(aligned)
    assert isinstance(aligned, Entries)
    assert (700, 5, 2) == (aligned.base_us, aligned.stamp_ns, aligned.known)
    row = row_of(None, [10, 0, 30, 0])
    assert (row.jitter.tolist(), row.loss.tolist()) == (aligned.jitter.tolist(), aligned.loss.tolist())


def test_an_id_that_a_row_gives_twice_names_nobody() -> None:
    nodes = nodes_of(3)
    first, second = entry_id(nodes[0]), entry_id(nodes[1])
    roster = Roster(nodes, DIGEST)
    assert [None, 20, None] == told(roster.align(row_of([first, second, first], [10, 20, 11])))
    assert [None, None, None] == told(roster.align(row_of([first] * 5, [10] * 5)))


def test_an_id_that_two_members_share_names_nobody() -> None:
    node, twin = (NodeId(number.to_bytes(32, "little")) for number in (5298, 67741))  # found by trying
    other = nodes_of(1, 2)[0]
    members = sorted([node, twin, other])
    assert entry_id(node) == entry_id(twin)
    aligned = Roster(members, DIGEST).align(row_of([entry_id(other), entry_id(node)], [7, 9]))
    assert [7 if member == other else None for member in members] == told(aligned)


@pytest.mark.parametrize("n", [0, 1])
def test_empty_and_lonely_rows_mean_nothing_and_raise_nothing(n: int) -> None:
    nodes = nodes_of(3)
    aligned = Roster(nodes, DIGEST).align(row_of([5] * n, [1] * n))
    assert [None, None, None] == told(aligned)
    assert [None] == told(Roster(nodes[:1], DIGEST).align(row_of([5] * n, [1] * n)))


def test_mappings_of_foreign_rosters_are_kept_and_bounded() -> None:
    nodes = nodes_of(6)
    roster = Roster(nodes, DIGEST)
    rng = random.Random(1)
    for number in range(3 * FOREIGN_ROSTERS_MAX):
        ids = [entry_id(node) for node in rng.sample(nodes, 5)] + [number]
        expected: list[int | None] = [ids.index(entry_id(node)) + 1 if entry_id(node) in ids else None for node in nodes]
        for _ in range(2):
            assert expected == told(roster.align(row_of(ids, [1, 2, 3, 4, 5, 6])))
        assert len(roster._positions) <= FOREIGN_ROSTERS_MAX


@given(st.lists(st.integers(0, 9), max_size=20), st.integers(1, 10))
def test_whatever_a_row_names_each_member_gets_its_own_code_or_none(named: list[int], n: int) -> None:
    pool = nodes_of(10)
    members = pool[:n]
    aligned = Roster(members, DIGEST).align(row_of([entry_id(pool[index]) for index in named], [100 + index for index in named]))
    expected = [100 + index if named.count(index) == 1 else None for index in range(n)]
    assert expected == told(aligned)
