"""Accusations become verdicts by quorum, and nothing else does."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srwan.errors import BadSignature, DecodeError, LimitExceeded, RemoteProtocolError, StaleRecord
from srwan.identity import Identity
from srwan.overlay.accusation import Accusation, bundles_of, decode_bundle
from srwan.overlay.member_events import MemberAccused
from srwan.overlay.verdict import BURST, Verdicts
from srwan.overlay.view import GRAVE_S
from srwan.types import NodeId

GROUP = b"group-id"
WALL_S = 1_800_000_000
PEOPLE = {identity.node_id: identity for identity in (Identity(bytes([6, index]) * 16) for index in range(41))}
ME, *OTHERS = PEOPLE.values()
SUBJECT = OTHERS[0].node_id


def court(count: int = 40) -> Verdicts:
    verdicts = Verdicts(ME, GROUP)
    for node in [ME.node_id, *(other.node_id for other in OTHERS[: count - 1])]:
        verdicts.add(node, 1000)
    return verdicts


def accusation(observer: NodeId, subject: NodeId = SUBJECT, *, boot: int = 1000, round_: int = 5, issued_s: int = WALL_S) -> Accusation:
    return Accusation.sign(PEOPLE[observer], GROUP, subject, boot=boot, round=round_, issued_s=issued_s)


def others_than(*nodes: NodeId) -> list[NodeId]:
    return [node for node in PEOPLE if node not in nodes]


def test_seven_of_ten_observers_condemn_and_six_do_not() -> None:
    verdicts = court()
    observers = verdicts.ring.observers_of(SUBJECT)
    needed = verdicts.accusers_of(SUBJECT)[1]
    for count, observer in enumerate(observers[:needed], 1):
        assert verdicts.pop_cut(0.0) == []
        assert MemberAccused(SUBJECT, observer, count, needed) == verdicts.receive(accusation(observer), 0.0, WALL_S)
    [verdict] = verdicts.pop_cut(0.0)
    assert (SUBJECT, 1000, WALL_S + GRAVE_S) == (verdict.subject, verdict.boot, verdict.until_s)
    assert {item.observer for bundle in verdict.bundles for item in decode_bundle(bundle)} == set(observers[:needed])


def test_those_who_do_not_watch_need_a_majority_of_all_others() -> None:
    verdicts = court(21)
    strangers = [node for node in others_than(SUBJECT) if node in verdicts.ring and node not in verdicts.ring.observers_of(SUBJECT)]
    watchers = verdicts.ring.observers_of(SUBJECT)[: verdicts.accusers_of(SUBJECT)[1] - 1]
    voters = [*strangers, *watchers][:11]
    for voter in voters[:10]:
        verdicts.receive(accusation(voter), 0.0, WALL_S)
    assert verdicts.pop_cut(0.0) == []
    verdicts.receive(accusation(voters[10]), 0.0, WALL_S)
    [verdict] = verdicts.pop_cut(0.0)
    assert len(verdict.bundles) == 2
    assert set(voters) == {item.observer for bundle in verdict.bundles for item in decode_bundle(bundle)}


@settings(max_examples=25)
@given(st.randoms(use_true_random=False))
def test_a_verdict_depends_on_the_accusations_and_not_on_their_order(rng: random.Random) -> None:
    one, other = court(12), court(12)
    accusations = [accusation(node, subject) for subject in list(PEOPLE)[3:6] for node in list(PEOPLE)[:12] if node != subject]
    sample = rng.sample(accusations, 22)
    shuffled = sample + sample[:5]
    rng.shuffle(shuffled)
    for court_, order in ((one, sample), (other, shuffled)):
        for item in order:
            court_.receive(item, 0.0, WALL_S)
    assert {verdict.subject for verdict in one.pop_cut(5.0)} == {verdict.subject for verdict in other.pop_cut(5.0)}


def test_accusations_more_than_a_minute_apart_are_no_verdict_together() -> None:
    for late_s, size in ((60, 1), (61, 0)):
        verdicts = court()
        observers = verdicts.ring.observers_of(SUBJECT)
        for index, observer in enumerate(observers[: verdicts.accusers_of(SUBJECT)[1]]):
            verdicts.receive(accusation(observer, issued_s=WALL_S - (late_s if index == 0 else 0)), 0.0, WALL_S)
        assert size == len(verdicts.pop_cut(0.0))


def test_a_newer_row_refutes_and_only_a_newer_accusation_counts_again() -> None:
    verdicts = court()
    observer = verdicts.ring.observers_of(SUBJECT)[0]
    verdicts.receive(accusation(observer), 0.0, WALL_S)
    verdicts.refute(SUBJECT, 5)
    assert verdicts.accusers_of(SUBJECT)[0] == 1
    verdicts.refute(SUBJECT, 6)
    assert verdicts.accusers_of(SUBJECT)[0] == 0
    assert verdicts.receive(accusation(observer), 0.4, WALL_S) is None
    assert verdicts.receive(accusation(observer, issued_s=WALL_S + 1), 1.0, WALL_S + 1) is not None
    assert verdicts.accusers_of(SUBJECT)[0] == 1


def test_what_is_condemned_stays_condemned() -> None:
    verdicts = court()
    for observer in verdicts.ring.observers_of(SUBJECT):
        verdicts.receive(accusation(observer), 0.0, WALL_S)
    verdicts.refute(SUBJECT, 99)
    assert len(verdicts.pop_cut(0.0)) == 1


def test_an_accusation_expires_after_thirty_seconds() -> None:
    verdicts = court()
    observer = verdicts.ring.observers_of(SUBJECT)[0]
    verdicts.receive(accusation(observer), 0.0, WALL_S)
    assert verdicts.get_timer() == 30.0
    verdicts.handle_timer(29.9)
    assert verdicts.accusers_of(SUBJECT)[0] == 1
    verdicts.handle_timer(30.0)
    assert verdicts.accusers_of(SUBJECT)[0] == 0
    assert verdicts.get_timer() is None


def test_a_first_verdict_waits_a_second_for_those_on_their_way() -> None:
    verdicts = court()
    second = OTHERS[1].node_id
    needed = verdicts.accusers_of(second)[1]
    observers = verdicts.ring.observers_of(second)
    for observer in observers[:3]:
        verdicts.receive(accusation(observer, second), 1.0, WALL_S)
    for observer in verdicts.ring.observers_of(SUBJECT):
        if observer != second:
            verdicts.receive(accusation(observer), 2.0, WALL_S)
    assert verdicts.get_timer() == 3.0
    assert verdicts.pop_cut(2.9) == []
    for observer in observers[3:needed]:
        verdicts.receive(accusation(observer, second), 2.9, WALL_S)
    assert sorted([SUBJECT, second]) == [verdict.subject for verdict in verdicts.pop_cut(2.9)]


def test_a_first_verdict_waits_no_longer_than_a_second_nor_for_one_that_was_refuted() -> None:
    second = OTHERS[1].node_id
    for is_refuted, at in ((False, 3.0), (True, 2.0)):
        verdicts = court()
        for observer in verdicts.ring.observers_of(second)[:3]:
            verdicts.receive(accusation(observer, second), 1.0, WALL_S)
        for observer in verdicts.ring.observers_of(SUBJECT):
            if observer != second:
                verdicts.receive(accusation(observer), 2.0, WALL_S)
        if is_refuted:
            verdicts.refute(second, 6)
        assert at == verdicts.get_timer()
        assert [SUBJECT] == [verdict.subject for verdict in verdicts.pop_cut(at)]


def test_a_restart_or_a_leave_voids_what_was_held_against_the_earlier_run() -> None:
    verdicts = court()
    observers = verdicts.ring.observers_of(SUBJECT)
    for observer in observers:
        verdicts.receive(accusation(observer), 0.0, WALL_S)
    verdicts.add(SUBJECT, 1001)
    assert verdicts.pop_cut(5.0) == []
    assert verdicts.receive(accusation(observers[0], issued_s=WALL_S + 1), 0.0, WALL_S) is None
    for observer in observers:
        verdicts.receive(accusation(observer, boot=1001), 0.0, WALL_S)
    verdicts.remove(SUBJECT, 0.0)
    assert verdicts.pop_cut(5.0) == []


def test_observers_who_went_within_a_minute_still_count_in_a_bundle() -> None:
    verdicts = court()
    observers = verdicts.ring.observers_of(SUBJECT)[: verdicts.accusers_of(SUBJECT)[1]]
    [bundle] = bundles_of([accusation(observer) for observer in observers])
    verdicts.remove(observers[0], 0.0)
    verdicts.handle_timer(59.0)
    assert len(verdicts.receive_bundle(bundle, 59.0, WALL_S + 59)) == len(observers)
    assert len(verdicts.pop_cut(60.5)) == 1
    verdicts = court()
    verdicts.remove(observers[0], 0.0)
    verdicts.handle_timer(60.0)
    assert len(verdicts.receive_bundle(bundle, 60.0, WALL_S + 60)) == len(observers) - 1


def test_a_bundle_counts_though_its_accusations_were_refuted_here() -> None:
    verdicts = court()
    observers = verdicts.ring.observers_of(SUBJECT)[: verdicts.accusers_of(SUBJECT)[1]]
    for observer in observers[:-1]:
        verdicts.receive(accusation(observer), 0.0, WALL_S)
    verdicts.refute(SUBJECT, 6)
    for bundle in bundles_of([accusation(observer) for observer in observers]):
        verdicts.receive_bundle(bundle, 1.0, WALL_S)
    assert [SUBJECT] == [verdict.subject for verdict in verdicts.pop_cut(1.0)]


def test_a_forged_bundle_condemns_nobody_and_says_so() -> None:
    verdicts = court()
    observers = verdicts.ring.observers_of(SUBJECT)
    forged = [Accusation.sign(PEOPLE[observers[0]], b"stranger", SUBJECT, boot=1000, round=5, issued_s=WALL_S)]
    with pytest.raises(BadSignature):
        verdicts.receive_bundle(bundles_of(forged)[0], 0.0, WALL_S)
    with pytest.raises(StaleRecord):
        verdicts.receive_bundle(bundles_of([accusation(observers[0], issued_s=WALL_S - GRAVE_S - 1)])[0], 0.0, WALL_S)
    assert verdicts.accusers_of(SUBJECT)[0] == 0


def test_a_repetition_costs_nothing_and_a_flood_is_cut_off_before_verification(monkeypatch: pytest.MonkeyPatch) -> None:
    verdicts = court()
    observer = OTHERS[5].node_id
    verified: list[Accusation] = []
    monkeypatch.setattr(Accusation, "verify", lambda self, _: verified.append(self))
    for _ in range(100):
        verdicts.receive(accusation(observer), 0.0, WALL_S)
    assert len(verified) == 1
    with pytest.raises(LimitExceeded) as caught:
        for second in range(1, 100):
            verdicts.receive(accusation(observer, issued_s=WALL_S + second), 0.0, WALL_S + second)
    assert caught.value.reason == "member-rate"
    assert len(verified) == BURST


@pytest.mark.parametrize(("issued_s", "error", "reason"), [(WALL_S + 61, DecodeError, "clock"), (WALL_S - 121, StaleRecord, "stale")])
def test_an_accusation_of_another_time_is_refused(issued_s: int, error: type[RemoteProtocolError], reason: str) -> None:
    with pytest.raises(error) as caught:
        court().receive(accusation(OTHERS[3].node_id, issued_s=issued_s), 0.0, WALL_S)
    assert caught.value.reason == reason


def test_accusations_by_or_of_strangers_or_other_runs_are_nothing() -> None:
    verdicts = court(40)
    stranger = OTHERS[39].node_id
    assert verdicts.receive(accusation(stranger), 0.0, WALL_S) is None
    assert verdicts.receive(accusation(OTHERS[3].node_id, stranger), 0.0, WALL_S) is None
    assert verdicts.receive(accusation(OTHERS[3].node_id, boot=999), 0.0, WALL_S) is None
    with pytest.raises(DecodeError):
        verdicts.receive(accusation(SUBJECT), 0.0, WALL_S)


def test_an_own_accusation_is_repeated_only_when_it_grows_old_or_was_refuted() -> None:
    verdicts = court()
    assert verdicts.accuse(SUBJECT, 5, 0.0, WALL_S) is not None
    assert verdicts.accuse(SUBJECT, 5, 9.9, WALL_S + 9) is None
    assert verdicts.accuse(SUBJECT, 5, 10.1, WALL_S + 10) is not None
    verdicts.refute(SUBJECT, 6)
    assert verdicts.accuse(SUBJECT, 6, 11.0, WALL_S + 11) is not None
    assert verdicts.accuse(ME.node_id, 5, 0.0, WALL_S) is None
    assert verdicts.accuse(OTHERS[39].node_id, 5, 0.0, WALL_S) is None
