"""Second copies are dropped, and packets put in order for a short while."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from srwan.routing.reorder import HELD_MAX, HOLD_MS_MAX, WINDOW, Resequencer, SeqWindow

MS = 1_000_000


@given(st.lists(st.integers(0, 300), max_size=400))
def test_a_number_is_new_once(seqs: list[int]) -> None:
    window, seen = SeqWindow(), set[int]()
    for seq in seqs:
        assert (seq not in seen) == window.accept(seq)
        seen.add(seq)


def test_what_is_older_than_the_window_is_taken_for_a_copy() -> None:
    window = SeqWindow()
    assert [True, True, True, False, False] == [window.accept(seq) for seq in (0, WINDOW, 1, 0, 1)]
    assert window.accept(2**64 - 1)
    assert window._bits == 1
    assert window.accept(2**64 - 2)


def test_packets_in_order_pass_at_once_and_others_wait_for_the_gap() -> None:
    order: Resequencer[str] = Resequencer()
    assert ["a"] == order.put(0, "a", 0, 50)
    assert [] == order.put(2, "c", 1 * MS, 50)
    assert [] == order.put(3, "d", 2 * MS, 50)
    assert 51 * MS == order.due_ns
    assert ["b", "c", "d"] == order.put(1, "b", 3 * MS, 50)
    assert order.due_ns is None
    assert (0, 0, 0) == (len(order), order.given_up, order.late)


def test_a_gap_is_given_up_when_the_time_of_the_first_one_held_is_over() -> None:
    order: Resequencer[str] = Resequencer()
    order.put(0, "a", 0, 50)
    order.put(3, "d", 1 * MS, 50)
    order.put(2, "c", 2 * MS, 50)
    order.put(5, "f", 20 * MS, 50)
    assert [] == order.take_due(51 * MS - 1)
    assert ["c", "d"] == order.take_due(51 * MS)
    assert (70 * MS, 1) == (order.due_ns, order.given_up)
    assert ["b"] == order.put(1, "b", 52 * MS, 50)
    assert 1 == order.late
    assert ["e", "f"] == order.put(4, "e", 53 * MS, 50)


def test_what_is_held_is_bounded_in_packets_and_in_time() -> None:
    order: Resequencer[int] = Resequencer()
    ready: list[int] = []
    for seq in range(1, HELD_MAX + 2):
        ready += order.put(seq, seq, 0, 65_535)
    assert list(range(1, HELD_MAX + 2)) == ready
    order.put(HELD_MAX + 3, 0, 0, 65_535)
    assert HOLD_MS_MAX * MS == order.due_ns


def test_all_that_is_held_can_be_taken() -> None:
    order: Resequencer[int] = Resequencer()
    for seq in (5, 3, 9):
        order.put(seq, seq, 0, 50)
    assert [3, 5, 9] == order.take_all()
    assert [] == order.take_all()


@given(st.lists(st.tuples(st.integers(0, 40) | st.integers(0, 2**64 - 1), st.integers(0, 30), st.integers(0, 2**16 - 1)), max_size=300))
def test_whatever_comes_each_packet_is_handed_on_once_or_held(steps: list[tuple[int, int, int]]) -> None:
    order: Resequencer[int] = Resequencer()
    window, now_ns, handed, accepted = SeqWindow(), 0, list[int](), 0
    for number, (seq, elapsed_ms, hold_ms) in enumerate(steps):
        now_ns += elapsed_ms * MS
        if window.accept(seq):
            accepted += 1
            handed += order.put(seq, number, now_ns, hold_ms)
        assert len(order) <= HELD_MAX
    handed += order.take_due(now_ns + (HOLD_MS_MAX + 1) * MS)
    assert (accepted, accepted) == (len(handed), len(set(handed)))


def test_packets_of_two_paths_come_out_in_order_if_the_hold_is_longer_than_their_difference() -> None:
    rng, order = random.Random(3), Resequencer[int]()
    arrivals = sorted((seq * MS + (10 + 20 * (seq % 2)) * MS + rng.randrange(MS), seq) for seq in range(2000))
    handed = [item for at_ns, seq in arrivals for item in order.put(seq, seq, at_ns, 30)]
    assert list(range(2000)) == handed + order.take_all()
