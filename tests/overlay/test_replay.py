"""The window against a model that remembers everything."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from srwan.overlay.replay import ReplayWindow


class Model:
    """Accepts what was never accepted and lies less than `size` below the highest."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.seen: set[int] = set()

    def is_fresh(self, counter: int) -> bool:
        return counter not in self.seen and (not self.seen or counter > max(self.seen) - self.size)

    def accept(self, counter: int) -> bool:
        if not self.is_fresh(counter):
            return False
        self.seen.add(counter)
        return True


@given(st.lists(st.one_of(st.integers(0, 40), st.integers(0, 300), st.integers(2**32 - 20, 2**32 + 20))), st.sampled_from([8, 64, 100]))
def test_accepts_exactly_what_a_complete_memory_would_accept(counters: list[int], size: int) -> None:
    window, model = ReplayWindow(size), Model(size)
    for counter in counters:
        was_fresh = window.is_fresh(counter)
        expected = model.accept(counter)
        assert expected == was_fresh
        assert expected == window.accept(counter)
        assert not window.is_fresh(counter) or not expected


@given(st.lists(st.tuples(st.integers(0, 120), st.integers(1, 70)), max_size=12), st.sampled_from([8, 64]))
def test_runs_in_order_count_like_single_counters(runs: list[tuple[int, int]], size: int) -> None:
    window, model = ReplayWindow(size), Model(size)
    for first, length in runs:
        for counter in range(first, first + length):
            assert model.accept(counter) == window.accept(counter)
        assert [model.is_fresh(counter) for counter in range(200)] == [window.is_fresh(counter) for counter in range(200)]


def test_first_counter_may_be_any() -> None:
    for first in (0, 1, 2**63):
        window = ReplayWindow()
        assert window.accept(first)
        assert first == window.highest
        assert not window.accept(first)


def test_packet_overtaken_by_2047_others_still_counts_and_by_2048_not() -> None:
    window = ReplayWindow(2048)
    for counter in range(2, 2050):
        assert window.accept(counter)
    assert not window.accept(1)
    assert not window.accept(2)
    window = ReplayWindow(2048)
    for counter in range(2, 2049):
        assert window.accept(counter)
    assert window.accept(1)


def test_asking_changes_nothing() -> None:
    window = ReplayWindow()
    window.accept(5)
    assert window.is_fresh(10**9)
    assert window.is_fresh(4)
    assert 5 == window.highest


def test_jump_beyond_the_window_forgets_all_below() -> None:
    window = ReplayWindow(64)
    window.accept(3)
    assert window.accept(1000)
    assert not window.is_fresh(3)
    assert not window.is_fresh(1000 - 64)
    assert window.is_fresh(1000 - 63)
