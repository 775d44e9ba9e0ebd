"""Counting what became of a stream."""

from __future__ import annotations

from srwan.demo.traffic import TrafficReport, gap_around, median_delay_ms, report_traffic


def test_lost_duplicated_and_reordered_are_told_apart() -> None:
    sent = [float(i) for i in range(6)]
    arrivals = [(0, 0.0, 0.1), (2, 2.0, 2.1), (1, 1.0, 2.2), (2, 2.0, 2.3), (4, 4.0, 4.1)]
    expected = TrafficReport(sent=6, received=4, lost=2, duplicated=1, reordered=1)
    assert expected == report_traffic(sent, arrivals, read_at=100.0)


def test_datagrams_still_under_way_count_neither_as_sent_nor_as_lost() -> None:
    assert TrafficReport(1, 1, 0, 0, 0) == report_traffic([0.0, 9.0], [(0, 0.0, 0.1)], read_at=10.0)


def test_the_median_delay_is_of_datagrams_sent_in_the_interval() -> None:
    arrivals = [(0, 0.0, 9.0), (1, 1.0, 1.1), (2, 1.5, 1.7), (3, 2.0, 2.3)]
    assert 150.0 == median_delay_ms(arrivals, start=1.0, end=2.0)
    assert median_delay_ms(arrivals, start=5.0, end=6.0) is None


def test_the_gap_is_the_longest_silence_after_the_start() -> None:
    arrivals = [(i, 0.0, at) for i, at in enumerate((0.0, 0.5, 1.0, 1.8, 1.9, 2.0))]
    assert 0.8 == gap_around(arrivals, start=1.1, end=2.0)
    assert gap_around(arrivals, start=5.0, end=6.0) is None
