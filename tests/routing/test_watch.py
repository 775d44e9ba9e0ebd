from __future__ import annotations

import contextlib
import itertools
import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srwan.errors import RemoteProtocolError, StaleRecord
from srwan.routing.payload import Ack, KeepAlive, PayloadKind
from srwan.routing.policy import PathPolicy
from srwan.routing.silence import OPENING_S
from srwan.routing.watch import EXTRA_MAX, LOSS_MS_MAX, OUTSTANDING_MAX, PathPacket, PathWatch
from srwan.types import NodeId

RELAYS = (NodeId(b"\x01" * 32),)
TAG = 77
RTT_S = 0.1


def open_watch(now: float = 0.0, *, policy: PathPolicy | None = None) -> PathWatch:
    return PathWatch(RELAYS, TAG, policy or PathPolicy(), random.Random(5), now)


def send(watch: PathWatch, now: float | None = None) -> tuple[float, PathPacket]:
    """Send what is due next, at `now` or when it is due."""
    moment = watch.send_at if now is None else now
    packet = watch.keepalive_to_send(moment)
    assert packet is not None
    return moment, packet


def ack(seq: int, raw_ms: float = 50.0, *, packets: int = 0, mean_raw_ns: int | None = None) -> Ack:
    return Ack(TAG, seq, int(raw_ms * 1e6), packets, packets * 1000, mean_raw_ns, 0)


def feed(watch: PathWatch, raws_ms: Sequence[float | None], *, sent: int = 0, received: int = 0) -> float:
    """Send one regular keep-alive per entry and answer it; None is lost. DATA per interval as told. Returns the time."""
    now = 0.0
    total = 0
    for raw_ms in raws_ms:
        watch.count_data(sent, sent * 1000)
        total += received
        now, packet = send(watch)
        if raw_ms is not None:
            now += RTT_S / 2
            watch.receive_ack(ack(packet.seq, raw_ms, packets=total), now)
    return now


def test_first_keepalive_is_due_at_once_and_says_what_data_was_sent() -> None:
    watch = open_watch(3.0)
    watch.count_data(2, 1500)
    _, packet = send(watch, 3.0)
    assert (RELAYS, TAG, PayloadKind.KEEPALIVE, 0) == (packet.relays, packet.path_tag, packet.kind, packet.seq)
    assert KeepAlive(2, 1500, answer_ms=100) == KeepAlive.decode(packet.body)
    assert watch.keepalive_to_send(3.0) is None


def test_keepalives_are_jittered_by_a_tenth_and_never_catch_up() -> None:
    watch = open_watch()
    moments = [send(watch)[0] for _ in range(500)]
    gaps = [later - earlier for earlier, later in itertools.pairwise(moments)]
    assert 0.18 <= min(gaps) < 0.182
    assert 0.218 < max(gaps) <= 0.22 + 1e-9
    send(watch, moments[-1] + 60.0)
    assert watch.keepalive_to_send(moments[-1] + 60.0) is None


def test_live_latency_ignores_a_spike_or_two_and_follows_the_third_sample() -> None:
    watch = open_watch()
    feed(watch, [50.0] * 5)
    steps = []
    for raw_ms in (200.0, 200.0, 200.0):
        _, packet = send(watch)
        watch.receive_ack(ack(packet.seq, raw_ms), watch.send_at)
        steps.append(watch.live_ms)
    assert [52.0, 54.0, 196.0] == steps
    assert pytest.approx(50.6) == watch.usual_ms


def test_only_the_last_five_samples_make_the_live_latency() -> None:
    watch = open_watch()
    feed(watch, [10.0] * 10 + [20.0, 22.0, 24.0, 26.0, 28.0])
    assert (24.0, 28.0, 10) == (watch.live_ms, watch.newest_ms, len(watch.samples))


def test_nothing_is_known_without_answers() -> None:
    watch = open_watch()
    assert [True] * 4 == [math.isnan(value) for value in (watch.live_ms, watch.newest_ms, watch.value_ms, watch.usual_ms)]
    assert (0.0, 0.0) == (watch.loss, watch.loss_ms)


def test_an_answer_counts_once() -> None:
    watch = open_watch()
    _, packet = send(watch)
    watch.receive_ack(ack(packet.seq), 0.1)
    with pytest.raises(StaleRecord, match="late or twice"):
        watch.receive_ack(ack(packet.seq, 1.0), 0.2)
    assert (1, 50.0) == (watch.answers, watch.live_ms)


def test_an_answer_to_what_was_never_sent_is_refused() -> None:
    watch = open_watch()
    send(watch)
    with pytest.raises(RemoteProtocolError) as caught:
        watch.receive_ack(ack(1), 0.1)
    assert ("ack-unsent", 0) == (caught.value.reason, watch.answers)


def test_silence_makes_suspect_after_two_and_dead_after_three_missed_answers() -> None:
    watch = open_watch()
    _, packet = send(watch)
    watch.receive_ack(ack(packet.seq), 0.1)
    assert pytest.approx((0.55, 0.75)) == (watch.suspect_at, watch.dead_at)
    assert pytest.approx(0.4) == watch.silence_s(0.5)


def test_a_path_just_opened_is_given_time_for_handshakes() -> None:
    watch = open_watch(10.0)
    assert pytest.approx(10.0 + OPENING_S + 0.65) == watch.dead_at
    assert pytest.approx(0.5) == watch.silence_s(10.5)


def test_extra_keepalives_follow_a_missed_answer_and_are_bounded() -> None:
    watch = open_watch()
    _, first = send(watch)
    watch.receive_ack(ack(first.seq), 0.05)
    moments = []
    while watch.send_at < 10.0:
        moments.append(send(watch)[0])
    in_second = sum(0.0 < moment <= 1.0 for moment in moments)
    assert EXTRA_MAX + 4 <= in_second <= EXTRA_MAX + 6
    assert all(0.17 < later - earlier for earlier, later in itertools.pairwise(moments) if earlier > 1.0)


def test_a_late_timer_is_not_silence() -> None:
    watch = open_watch()
    feed(watch, [50.0])
    before = watch.dead_at
    watch.excuse(2.0)
    assert pytest.approx(before + 2.0) == watch.dead_at


def test_what_was_sent_before_the_path_was_open_is_no_loss() -> None:
    watch = open_watch()
    feed(watch, [None] * 5 + [50.0] + [50.0] * 30)
    assert 0.0 == watch.loss


@pytest.mark.parametrize("lost", [1, 2, 3, 4])
def test_few_losses_prove_nothing(lost: int) -> None:
    watch = open_watch()
    feed(watch, [50.0] * 20 + [None] * lost + [50.0] * 12)
    assert pytest.approx(lost / 20) == watch.loss
    assert 0.0 == watch.loss_ms


def test_heavy_loss_is_worth_more_than_the_margin_within_four_seconds() -> None:
    watch = open_watch()
    feed(watch, [50.0] * 100 + [50.0, None] * 16 + [50.0] * 5)
    assert 10.0 < watch.loss_ms <= LOSS_MS_MAX


def test_light_loss_is_proved_by_data_within_twenty_seconds() -> None:
    watch = open_watch()
    feed(watch, [50.0] * 101, sent=20, received=19)
    assert 0.045 < watch.loss < 0.055
    assert 10.0 < watch.loss_ms < 20.0


def test_an_egress_that_counts_more_than_was_sent_gains_nothing() -> None:
    watch = open_watch()
    feed(watch, [50.0] * 50, sent=10, received=1000)
    assert (0.0, 0.0) == (watch.loss, watch.loss_ms)


def test_an_egress_that_starts_counting_again_is_no_loss() -> None:
    watch = open_watch()
    feed(watch, [50.0] * 20, sent=10, received=10)
    watch.count_data(10, 0)
    now, packet = send(watch)
    watch.receive_ack(ack(packet.seq, packets=3), now)
    assert 0.0 == watch.loss


def test_a_path_that_died_is_measured_from_scratch() -> None:
    watch = open_watch()
    now = feed(watch, [50.0] * 10)
    _, old = send(watch)
    watch.start_over(now)
    with pytest.raises(StaleRecord):
        watch.receive_ack(ack(old.seq), now + 0.1)
    assert (0, True, True) == (watch.answers, math.isnan(watch.live_ms), watch.send_at > now)


def test_best_since_takes_the_least_of_the_new_samples_or_the_last() -> None:
    watch = open_watch()
    now = feed(watch, [50.0, 40.0, 70.0, 60.0])
    arrived = [sample.arrived_at for sample in watch.samples]
    assert (60.0, 40.0, 60.0) == (watch.best_since_ms(arrived[1]), watch.best_since_ms(arrived[0]), watch.best_since_ms(now + 1))
    assert (4, 2) == (watch.count_sent_since(0.0), watch.count_sent_since(watch.samples[2].sent_at))


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2**64 - 1) | st.integers(0, 40),
            st.integers(-(2**63), 2**63 - 1),
            st.integers(0, 2**64 - 1),
            st.none() | st.integers(-(2**63) + 1, 2**63 - 1),
        ),
        max_size=60,
    )
)
def test_hostile_answers_raise_nothing_else_and_leave_finite_figures(answers: list[tuple[int, int, int, int | None]]) -> None:
    watch, now = open_watch(), 0.0
    for seq, raw_ns, packets, mean_ns in answers:
        watch.count_data(7, 7000)
        now, _ = send(watch)
        with contextlib.suppress(RemoteProtocolError):
            watch.receive_ack(Ack(TAG, seq, raw_ns, packets, 0, mean_ns, 0), now)
        assert 0.0 <= watch.loss <= 1.0
        assert 0.0 <= watch.loss_ms <= LOSS_MS_MAX
        assert watch.answers == 0 or math.isfinite(watch.live_ms)


def test_unanswered_keepalives_are_bounded() -> None:
    watch = open_watch(policy=PathPolicy(keepalive_s=0.02))
    for _ in range(5000):
        send(watch)
    assert len(watch._outstanding) <= OUTSTANDING_MAX + 1


# -- DATA that are answered, other ways back


def data_ack(seq: int, packets: int, raw_ms: float = 50.0, *, rate_kbps: int = 0) -> Ack:
    return Ack(TAG, seq, int(raw_ms * 1e6), packets, packets * 1000, None, seq, rate_kbps, rate_kbps * 2, is_for_data=True)


def flowing(seconds: float = 1.0) -> tuple[PathWatch, float]:
    """A watch with 100 packets/s whose DATA were answered every 100 ms, all answers 50 ms after the question; the time at the end."""
    watch = open_watch()
    _, packet = send(watch, 0.0)
    watch.receive_ack(ack(packet.seq), 0.05)
    now = 0.05
    under_way: list[tuple[float, int]] = []
    for seq in range(round(seconds * 100)):
        now = 0.1 + seq * 0.01
        watch.count_data(1, 1000, now, seq)
        if seq % 10 == 5 and seq >= 15:
            watch.receive_ack(data_ack(seq - 5, seq - 4), now)
        if (keepalive := watch.keepalive_to_send(now)) is not None:
            under_way.append((now + 0.05, keepalive.seq))
        if under_way and under_way[0][0] <= now:
            watch.receive_ack(ack(under_way.pop(0)[1], packets=seq - 4), now)
    return watch, now


def test_answered_data_put_keepalives_off_but_for_one_a_second() -> None:
    watch, _ = flowing(5.0)
    assert 5 <= watch._seq <= 8
    assert 0.0 == watch.loss


def test_answers_to_data_make_as_many_samples_as_keepalives_would() -> None:
    watch, now = flowing(5.0)
    recent = [sample.arrived_at for sample in watch.samples]
    assert (10, True) == (len(recent), 1.6 <= recent[-1] - recent[0] <= 2.2)
    assert now - watch.newest_at <= 0.25


@pytest.mark.parametrize(("seq", "reason"), [(1000, "ack-unsent"), (95, "ack-late"), (3, "ack-late")])
def test_answers_to_data_that_do_not_fit_are_refused(seq: int, reason: str) -> None:
    watch, now = flowing(1.0)
    with pytest.raises(RemoteProtocolError) as caught:
        watch.receive_ack(data_ack(95, 96), now)
        watch.receive_ack(data_ack(seq, 97), now)
    assert reason == caught.value.reason


def test_loss_of_data_is_seen_in_their_answers() -> None:
    watch = open_watch()
    _, packet = send(watch, 0.0)
    watch.receive_ack(ack(packet.seq), 0.05)
    received = 0
    for seq in range(600):
        now = 0.1 + seq * 0.01
        watch.count_data(1, 1000, now, seq)
        received += seq % 4 != 0
        if seq % 10 == 9:
            watch.receive_ack(data_ack(seq, received), now)
    assert 0.22 <= watch.loss <= 0.27
    assert watch.loss_ms > 10.0


def test_rates_told_by_the_egress_are_kept_as_maxima() -> None:
    watch, now = flowing(1.0)
    watch.receive_ack(data_ack(95, 96, rate_kbps=800), now)
    assert (800.0, 1600.0) == (watch.rate.value, watch.burst.value)


def test_extra_keepalives_ask_in_turn_for_the_detour_and_for_the_own_way() -> None:
    watch, now = flowing(1.0)
    watch.detour = ()
    asked: list[tuple[bytes, ...] | None] = []
    while len(asked) < EXTRA_MAX:
        now += 0.005
        if now >= watch._extra_at and (packet := watch.keepalive_to_send(now)) is not None:
            told = KeepAlive.decode(packet.body)
            if told.is_once:
                asked.append(told.back)
    assert [(), None, (), None] == asked
