"""Who watches whom."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srwan.overlay.ring import RINGS, Ring, quorum_of
from srwan.types import NodeId

GROUP = bytes(range(32))
NODES = [NodeId(bytes([index]) * 32) for index in range(120)]


@pytest.mark.parametrize(("observers", "needed"), [(0, 1), (1, 1), (2, 2), (3, 3), (4, 3), (5, 4), (9, 7), (10, 7)])
def test_a_quorum_is_seven_tenths_rounded_up_and_never_nobody(observers: int, needed: int) -> None:
    assert needed == quorum_of(observers)


def test_observers_are_golden() -> None:
    ring = Ring(GROUP, NODES[:20])
    assert (18, 12, 4, 6, 15, 13, 7, 16, 9) == tuple(NODES.index(node) for node in ring.observers_of(NODES[0]))
    assert Ring(GROUP[:8], NODES[:20]).observers_of(NODES[0]) == ring.observers_of(NODES[0])
    assert Ring(b"another8", NODES[:20]).observers_of(NODES[0]) != ring.observers_of(NODES[0])


@settings(max_examples=50)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 29)), max_size=60), st.randoms(use_true_random=False))
def test_rings_depend_on_the_members_and_not_on_how_they_came(steps: list[tuple[bool, int]], rng: random.Random) -> None:
    ring = Ring(GROUP)
    members: set[int] = set()
    for is_added, index in steps:
        (ring.add if is_added else ring.remove)(NODES[index])
        (members.add if is_added else members.discard)(index)
        ring.observers_of(NODES[0])  # what was found before must not outlive the change
    shuffled = sorted(members)
    rng.shuffle(shuffled)
    other = Ring(GROUP, [NODES[index] for index in shuffled])
    third = Ring(GROUP, NODES)
    third.set_members(NODES[index] for index in shuffled)
    for index in range(30):
        assert other.observers_of(NODES[index]) == ring.observers_of(NODES[index]) == third.observers_of(NODES[index])
        assert other.subjects_of(NODES[index]) == ring.subjects_of(NODES[index])
    assert len(members) == len(ring) == len(third)
    assert [index in members for index in range(30)] == [NODES[index] in ring for index in range(30)]


@settings(max_examples=30)
@given(st.integers(0, 100))
def test_watching_is_mutual_and_nobody_watches_himself(count: int) -> None:
    ring = Ring(GROUP, NODES[:count])
    for node in NODES[:count]:
        observers = ring.observers_of(node)
        assert node not in observers
        assert len(set(observers)) == len(observers) <= RINGS
        assert bool(observers) == (count > 1)
        assert all(node in ring.subjects_of(observer) for observer in observers)
    assert ring.observers_of(NODES[119]) == ()


@pytest.mark.parametrize("count", [2, 3, 4, 11])
def test_among_few_everybody_watches_everybody_whatever_the_ids(count: int) -> None:
    """With rings alone, one of three members in 512 had a single observer, whose lost edge was its death."""
    rng = random.Random(7)
    for _ in range(1000):
        nodes = [NodeId(rng.randbytes(32)) for _ in range(count)]
        ring = Ring(GROUP, nodes)
        for node in nodes:
            assert set(nodes) - {node} == set(ring.observers_of(node)) == set(ring.subjects_of(node))


def test_everybody_is_watched_by_about_ten_and_a_crash_of_a_tenth_leaves_a_quorum_nearly_always() -> None:
    rng = random.Random(1)
    ring = Ring(GROUP, NODES[:100])
    assert min(len(ring.observers_of(node)) for node in NODES[:100]) >= 8
    short = 0
    for _ in range(100):
        dead = set(rng.sample(NODES[:100], 10))
        short += sum(
            len([observer for observer in ring.observers_of(node) if observer not in dead]) < quorum_of(len(ring.observers_of(node)))
            for node in dead
        )
    assert short <= 30
