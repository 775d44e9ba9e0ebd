"""What an egress knows of one path tag."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srwan.routing.payload import KeepAlive
from srwan.routing.reception import (
    STATISTICS_MAX,
    SUMMARY_BYTES_MAX,
    PathReception,
    PathStatistics,
    RateBucket,
    StatisticsTable,
)
from srwan.routing.sid import locator_of
from srwan.types import NodeId

MS, S = 1_000_000, 1_000_000_000
PEER, RELAY = NodeId(b"\x01" * 32), NodeId(b"\x02" * 32)


def statistics(tag: int, expected_ms: float | None, measured_ms: float, *, loss: float = 0.0, ingress: NodeId = PEER) -> PathStatistics:
    return PathStatistics(ingress, (RELAY,), tag, expected_ms, measured_ms, 0.0, loss, 800.0, 1000, 10.0)


def test_the_rate_between_two_answers_is_by_receive_stamps() -> None:
    reception = PathReception()
    assert (0, 0) == reception.take_rates(1 * S)
    for seq in range(10):
        reception.take_data(seq, 1250, 0, 1 * S + seq * 10 * MS, seq * 10 * MS)
    assert (1000, 0) == reception.take_rates(1 * S + 100 * MS)
    assert (0, 0) == reception.take_rates(1 * S + 105 * MS)  # too soon to tell


def test_a_train_tells_what_the_narrowest_link_lets_through() -> None:
    reception = PathReception()
    for seq in range(11):  # sealed 10 us apart, came in 1 ms apart
        reception.take_data(seq, 1250, 0, 5 * S + seq * MS, seq * 10_000)
    assert 10_000 == reception.take_rates(6 * S)[1]
    assert 0 == reception.take_rates(7 * S)[1]


def test_packets_sealed_apart_or_few_or_all_at_once_are_no_train() -> None:
    for count, gap_ns, spacing_ns in ((50, MS, MS), (8, 10_000, MS), (500, 1000, 1000)):
        reception = PathReception()
        for seq in range(count):
            reception.take_data(seq, 1250, 0, 5 * S + seq * spacing_ns, seq * gap_ns)
        assert 0 == reception.take_rates(6 * S)[1]


def feed(reception: PathReception, start_ns: int, received: int, raw_ms: int) -> None:
    for seq in range(received):
        reception.take_data(seq, 1000, raw_ms * MS, start_ns + seq * 10 * MS, start_ns)


def test_every_ten_seconds_with_data_measured_is_set_against_expected() -> None:
    reception = PathReception()
    assert reception.settle(PEER, (), 7, KeepAlive(0, 0), 1 * S) is None
    feed(reception, 1 * S, 950, 80)
    told = KeepAlive(1000, 10**6, 60 * MS, 10_000)
    assert reception.settle(PEER, (RELAY,), 7, told, 10 * S) is None
    made = reception.settle(PEER, (RELAY,), 7, told, 11 * S)
    assert made is not None
    assert pytest.approx(0.05) == made.loss
    assert PathStatistics(PEER, (RELAY,), 7, 60.0, 80.0, 0.01, made.loss, 760.0, 950, 10.0) == made
    assert pytest.approx(20.0 + 400 * 0.04) == made.excess_ms
    assert (1000, 10**6) == (reception.announced_packets, reception.announced_octets)
    assert reception.settle(PEER, (RELAY,), 7, told, 22 * S) is None  # no DATA since


@given(st.integers(0, 2**64 - 1), st.none() | st.integers(-(2**63) + 1, 2**63 - 1), st.integers(0, 1_000_000))
def test_hostile_announcements_leave_figures_in_range(packets: int, expected_ns: int | None, loss_ppm: int) -> None:
    reception = PathReception()
    reception.settle(PEER, (), 7, KeepAlive(packets // 2, 0), 0)
    reception.take_data(1, 10, (1 << 63) - 1, 5, 5)
    made = reception.settle(PEER, (), 7, KeepAlive(packets, 0, expected_ns, loss_ppm), 20 * S)
    assert made is not None
    assert 0.0 <= made.loss <= 1.0
    table = StatisticsTable()
    table.add(made)
    assert len(table.summary()) <= SUMMARY_BYTES_MAX


def test_a_bucket_gives_its_burst_and_then_its_rate_and_nothing_for_stamps_that_go_back() -> None:
    bucket = RateBucket(100.0, 5)
    assert 5 == sum(bucket.take(0) for _ in range(10))
    assert 9 <= sum(bucket.take(now * MS) for now in range(1, 101)) <= 10
    assert not any(bucket.take(0) for _ in range(10))


def test_the_table_keeps_the_newest_of_each_path_and_is_bounded() -> None:
    table = StatisticsTable()
    for tag in range(STATISTICS_MAX + 10):
        table.add(statistics(tag, 50.0, 50.0))
    table.add(statistics(20, 50.0, 99.0))
    assert STATISTICS_MAX == len(table)
    assert [99.0] == [each.measured_ms for each in table if each.path_tag == 20]
    table.drop_peer(PEER)
    assert 0 == len(table)


def test_extraordinary_paths_are_those_far_from_what_was_expected_either_way() -> None:
    table = StatisticsTable()
    for tag, measured_ms, loss in ((1, 55.0, 0.0), (2, 20.0, 0.0), (3, 50.0, 0.1), (4, 50.0, 0.0)):
        table.add(statistics(tag, 50.0, measured_ms, loss=loss))
    table.add(statistics(5, None, 9000.0))
    assert [3, 2, 1] == [each.path_tag for each in table.extraordinary(3)]


def test_the_summary_has_the_documented_bytes() -> None:
    table = StatisticsTable()
    assert b"\x00" == table.summary()
    for tag in range(20):
        table.add(statistics(tag, 50.0, 50.0 + tag))
    table.add(statistics(99, 50.0, 1e9, loss=0.25))
    summary = table.summary()
    assert (8, SUMMARY_BYTES_MAX) == (summary[0], len(summary))
    first = locator_of(PEER) + locator_of(RELAY) + struct.pack("<HhHI", 1, 32767, 2500, 800)
    assert first == summary[1:27]
