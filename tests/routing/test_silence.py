"""When answers are due on a path, and which are missing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srwan.routing.policy import PathPolicy
from srwan.routing.silence import ASKED_MAX, OPENING_S, RECORD_S, Silence

RTT_S = 0.08


def answered(*, is_data_answered: bool = True) -> Silence:
    """A silence at 1.08 s: what was sent at 1.0 s was just answered."""
    silence = Silence(PathPolicy(), 0.0)
    silence.ask(1.0, 0)
    silence.hear(1.0, 1.0 + RTT_S, is_own_way=True)
    silence.is_data_answered = is_data_answered
    return silence


def send_data(silence: Silence, start: float, end: float, spacing: float = 0.01) -> None:
    for count in range(round((end - start) / spacing)):
        silence.ask_by_data(start + count * spacing, count + 1, count)


def test_before_the_first_answer_there_is_time_for_handshakes() -> None:
    silence = Silence(PathPolicy(), 10.0)
    assert not silence.has_answered
    assert pytest.approx(10.0 + OPENING_S + 0.65) == silence.due_at(3)


def test_without_data_answers_are_as_periodic_as_keepalives() -> None:
    silence = answered()
    assert pytest.approx((1.33, 1.53, 1.73)) == (silence.due_at(1), silence.due_at(2), silence.due_at(3))


def test_with_data_three_missing_answers_are_a_third_of_a_second() -> None:
    silence = answered()
    send_data(silence, 1.0, 1.6)
    due = 1.0 + RTT_S + 0.025
    assert pytest.approx((due + 0.1, due + 0.2, due + 0.3), abs=0.011) == (silence.due_at(1), silence.due_at(2), silence.due_at(3))


def test_data_count_only_where_the_egress_answers_them() -> None:
    silence = answered(is_data_answered=False)
    send_data(silence, 1.0, 1.6)
    assert pytest.approx(1.73) == silence.due_at(3)


def test_nothing_is_expected_of_an_application_that_pauses() -> None:
    silence = answered()
    send_data(silence, 1.0, 1.15)
    assert pytest.approx(1.0 + RTT_S + 0.125) == silence.due_at(1)
    assert pytest.approx(1.73) == silence.due_at(3)


def test_sparse_data_are_expected_to_be_answered_one_by_one() -> None:
    silence = answered()
    send_data(silence, 1.05, 1.7, spacing=0.15)  # 1.05 is too early after 1.0; 1.2, 1.35 and 1.5 are answered
    assert pytest.approx(1.2 + RTT_S + 0.025) == silence.due_at(1)
    assert pytest.approx(1.5 + RTT_S + 0.025) == silence.due_at(3)


def test_the_greatest_of_the_last_round_trips_is_allowed_for() -> None:
    silence = answered()
    silence.hear(1.1, 1.5, is_own_way=True)
    silence.hear(1.2, 1.5, is_own_way=True)
    send_data(silence, 1.2, 1.9)
    assert pytest.approx(min(1.3 + 0.4 + 0.025, 1.5 + 0.25)) == silence.due_at(1)


def test_a_late_timer_is_not_silence() -> None:
    silence = answered()
    send_data(silence, 1.0, 1.6)
    before = silence.due_at(3)
    silence.excuse(0.05)
    assert pytest.approx(before + 0.05) == silence.due_at(3)


def test_the_own_way_back_is_missed_while_answers_come_by_another() -> None:
    silence = answered()
    send_data(silence, 1.0, 1.6)
    silence.hear(1.25, 1.25 + RTT_S, is_own_way=False)
    assert [False, True] == [silence.is_own_way_missing(2, now) for now in (1.30, 1.32)]
    silence.hear(1.3, 1.38, is_own_way=True)
    assert not silence.is_own_way_missing(2, 1.4)


def test_data_are_found_by_their_number_or_by_the_one_noted_before() -> None:
    silence = answered()
    for seq in range(10):
        silence.ask_by_data(1.1 + 0.004 * seq, seq + 1, 100 + seq)
    found = silence.find_data(104)
    assert found is not None
    assert (103, 4, 106) == (found[0].seq, found[0].packets, found[1].seq if found[1] else None)
    assert silence.find_data(99) is None


@given(st.lists(st.tuples(st.floats(0, 0.3), st.sampled_from(["ask", "data", "hear", "own", "excuse", "start"])), max_size=400))
def test_whatever_happens_memory_is_bounded_and_later_answers_are_due_later(steps: list[tuple[float, str]]) -> None:
    silence, now, sent = Silence(PathPolicy(), 0.0), 0.0, 0
    for elapsed, what in steps:
        now += elapsed
        if what == "ask":
            silence.ask(now, sent)
        elif what == "data":
            sent += 1
            silence.ask_by_data(now, sent, sent)
        elif what in ("hear", "own"):
            silence.is_data_answered = True
            silence.hear(now - min(now, 0.1), now, is_own_way=what == "own")
        elif what == "excuse":
            silence.excuse(elapsed)
        else:
            silence.start(now)
        due = [silence.due_at(count) for count in (1, 2, 3)]
        assert due == sorted(due)
        assert len(silence._asked) <= ASKED_MAX


def test_moments_of_sending_are_noted_sparsely_and_halved_when_full() -> None:
    silence = answered()
    for count in range(10_000):
        silence.ask_by_data(1.1 + count * RECORD_S / 4, count, count)
    assert ASKED_MAX // 2 <= len(silence._asked) <= ASKED_MAX
