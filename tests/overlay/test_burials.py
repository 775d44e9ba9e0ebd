"""How soon the buried may come back, and deadlines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srwan.errors import LimitExceeded
from srwan.overlay.burials import NODES_MAX, Burials
from srwan.overlay.deadlines import Deadlines
from srwan.types import NodeId

NODE = NodeId(b"\x01" * 32)


def nodes(count: int) -> list[NodeId]:
    return [NodeId(index.to_bytes(32, "big")) for index in range(1, count + 1)]


@pytest.mark.parametrize(("burials", "hold_off_s"), [(1, None), (2, 20.0), (3, 40.0), (4, 80.0), (6, 320.0), (7, 600.0), (20, 600.0)])
def test_the_hold_off_doubles_with_every_burial_after_the_first_up_to_ten_minutes(burials: int, hold_off_s: float | None) -> None:
    memory = Burials()
    for number in range(burials):
        memory.note_burial(NODE, float(number))
    last = burials - 1.0
    assert memory.held_until(NODE, last) == (None if hold_off_s is None else last + hold_off_s)
    assert memory.held_until(NODE, last + (hold_off_s or 0.0)) is None


def test_a_burial_is_forgiven_after_an_hour() -> None:
    memory = Burials()
    for at in (0.0, 10.0, 3595.0):
        memory.note_burial(NODE, at)
    assert memory.flaps(NODE, 3599.0) == 3
    assert memory.held_until(NODE, 3600.0) == 3595.0 + 20.0
    assert memory.flaps(NODE, 3595.0 + 3600.0) == 0


def test_a_certificate_that_comes_too_early_is_given_back_when_the_wait_is_over() -> None:
    memory = Burials()
    memory.require_no_hold_off(NODE, b"one", 0.0)
    memory.note_burial(NODE, 0.0)
    memory.require_no_hold_off(NODE, b"one", 0.0)
    memory.note_burial(NODE, 5.0)
    for certificate in (b"two", b"three"):
        with pytest.raises(LimitExceeded) as caught:
            memory.require_no_hold_off(NODE, certificate, 6.0)
        assert caught.value.reason == "hold-off"
    assert memory.get_timer() == 25.0
    assert memory.pop_held_off(24.9) == []
    assert memory.pop_held_off(25.0) == [b"three"]
    assert memory.get_timer() is None


def test_the_memory_is_bounded() -> None:
    memory = Burials()
    crowd = nodes(NODES_MAX + 1)
    for node in crowd:
        memory.note_burial(node, 0.0)
    assert memory.flaps(crowd[0], 0.0) == 0
    assert [memory.keep_address(node, ("192.0.2.1", 1)) for node in crowd] == [None] * NODES_MAX + [crowd[0]]
    assert memory.address_of(crowd[0]) is None
    assert memory.address_of(crowd[1]) == ("192.0.2.1", 1)


def test_a_buried_node_is_told_once_in_five_seconds() -> None:
    memory = Burials()
    assert [True, False, True] == [memory.may_tell(NODE, now) for now in (0.0, 4.9, 5.0)]


@given(st.lists(st.tuples(st.integers(0, 9), st.one_of(st.none(), st.integers(0, 50))), max_size=300), st.integers(0, 60))
def test_deadlines_come_out_in_order_whatever_was_moved_or_dropped(steps: list[tuple[int, int | None]], now: int) -> None:
    crowd = nodes(10)
    deadlines = Deadlines()
    expected: dict[NodeId, float] = {}
    for index, at in steps:
        if at is None:
            deadlines.discard(crowd[index])
            expected.pop(crowd[index], None)
        else:
            deadlines.set(crowd[index], float(at))
            expected[crowd[index]] = float(at)
        assert deadlines.due_at() == min(expected.values(), default=None)
    due = sorted((at, node) for node, at in expected.items() if at <= now)
    assert [node for _, node in due] == deadlines.pop_due(float(now))
    assert len(expected) - len(due) == len(deadlines)
