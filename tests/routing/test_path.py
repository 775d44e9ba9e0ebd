from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from srwan.errors import LocalProtocolError
from srwan.routing.path import (
    MEANINGS,
    STRIKES_FORGOTTEN_S,
    TRANSITIONS,
    VETO_S_MAX,
    VETOES_MAX,
    PathLife,
    PathSignal,
    PathState,
    VetoList,
    life_cycle_page,
)
from srwan.types import NodeId

RELAY = (NodeId(b"\x01" * 32),)


def test_every_state_is_in_the_table_has_a_meaning_and_can_be_reached() -> None:
    reached, fresh = {PathState.CANDIDATE}, {PathState.CANDIDATE}
    while fresh:
        fresh = {following for state in fresh for following in TRANSITIONS[state].values()} - reached
        reached |= fresh
    assert set(PathState) == set(TRANSITIONS) == set(MEANINGS) == reached
    assert set(PathSignal) == {signal for moves in TRANSITIONS.values() for signal in moves}


def test_only_a_standby_is_selected_and_an_active_path_cannot_be_vetoed() -> None:
    assert [PathState.STANDBY] == [state for state, moves in TRANSITIONS.items() if PathSignal.SELECTED in moves]
    assert PathSignal.BARRED not in TRANSITIONS[PathState.ACTIVE]


def test_every_state_but_the_last_can_be_closed_and_closed_is_the_end() -> None:
    for state, moves in TRANSITIONS.items():
        assert (state is not PathState.CLOSED) == (PathSignal.CLOSED in moves)
    assert {} == TRANSITIONS[PathState.CLOSED]


def test_the_page_in_docs_is_made_from_the_table() -> None:
    page = Path(__file__).parents[2] / "docs" / "path-life-cycle.md"
    assert life_cycle_page() == page.read_text("utf-8")


class LifeMachine(RuleBasedStateMachine):
    """Walks the table: one rule per signal, made from TRANSITIONS below, and one for signals that a state does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.life = PathLife()
        self.has_answered = False

    @rule(signal=st.sampled_from(PathSignal))
    def a_signal_that_the_state_does_not_know_changes_nothing(self, signal: PathSignal) -> None:
        before = self.life.state
        if signal in TRANSITIONS[before]:
            return
        with pytest.raises(LocalProtocolError, match=before.value):
            self.life.on(signal)
        assert before is self.life.state

    @precondition(lambda self: self.life.state is PathState.CLOSED)
    @rule()
    def start_again(self) -> None:
        self.life, self.has_answered = PathLife(), False

    @invariant()
    def only_a_path_that_was_confirmed_carries_data(self) -> None:
        assert self.has_answered or self.life.state not in (PathState.STANDBY, PathState.ACTIVE, PathState.SUSPECT)


def _rule_for(signal: PathSignal) -> Any:
    @precondition(lambda self: signal in TRANSITIONS[self.life.state])
    @rule()
    def move(self: LifeMachine) -> None:
        expected = TRANSITIONS[self.life.state][signal]
        assert expected is self.life.on(signal)
        if signal is PathSignal.CONFIRMED:
            self.has_answered = True
        elif signal is PathSignal.DIED:
            self.has_answered = False

    return move


for _signal in PathSignal:
    setattr(LifeMachine, f"on_{_signal.name.lower()}", _rule_for(_signal))

TestPathLife = LifeMachine.TestCase


def dead_path() -> PathLife:
    life = PathLife()
    life.on(PathSignal.OPENED)
    life.on(PathSignal.DIED)
    return life


def test_vetoes_double_up_to_their_bound() -> None:
    vetoes, now, seen = VetoList(), 0.0, []
    for _ in range(7):
        seen.append(vetoes.bar(RELAY, dead_path(), now))
        assert vetoes.is_barred(RELAY, now + seen[-1] - 0.01)
        now += seen[-1]
        assert not vetoes.is_barred(RELAY, now)
    assert [30.0, 60.0, 120.0, 240.0, 480.0, VETO_S_MAX, VETO_S_MAX] == seen


def test_strikes_are_forgotten_after_long_good_behaviour() -> None:
    vetoes = VetoList()
    vetoes.bar(RELAY, dead_path(), 0.0)
    assert 1 == vetoes.strikes(RELAY, 30.0 + STRIKES_FORGOTTEN_S - 1)
    assert 30.0 == vetoes.bar(RELAY, dead_path(), 30.0 + STRIKES_FORGOTTEN_S)


def test_setting_aside_is_no_strike() -> None:
    vetoes = VetoList()
    assert 5.0 == vetoes.bar(RELAY, dead_path(), 0.0, for_s=5.0)
    assert (True, False, 0) == (vetoes.is_barred(RELAY, 4.9), vetoes.is_barred(RELAY, 5.0), vetoes.strikes(RELAY, 4.9))


def test_a_path_is_pardoned_only_after_its_veto() -> None:
    vetoes, life = VetoList(), dead_path()
    vetoes.bar(RELAY, life, 0.0)
    with pytest.raises(LocalProtocolError):
        vetoes.pardon(RELAY, 29.9)
    assert PathState.VETOED == life.state
    assert life is vetoes.pardon(RELAY, 30.0)
    assert life.state.name == "CANDIDATE"


def test_an_active_path_cannot_be_barred() -> None:
    life = PathLife()
    for signal in (PathSignal.OPENED, PathSignal.CONFIRMED, PathSignal.SELECTED):
        life.on(signal)
    vetoes = VetoList()
    with pytest.raises(LocalProtocolError):
        vetoes.bar(RELAY, life, 0.0)
    assert 0 == len(vetoes)


def test_the_list_is_bounded_and_forgets_the_oldest() -> None:
    vetoes = VetoList()
    names = [(NodeId(number.to_bytes(32, "big")),) for number in range(VETOES_MAX + 3)]
    for name in names:
        vetoes.bar(name, dead_path(), 0.0)
    assert VETOES_MAX == len(vetoes)
    assert [False, False, False, True] == [vetoes.is_barred(name, 1.0) for name in names[:4]]
