"""Trains: cutting datagrams into those that may leave together, and taking apart what came together."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srwan.overlay.trains import SEGMENTS_MAX, TRAIN_BYTES_MAX, Train, cut, datagrams_of, plane_of, segments
from srwan.types import UdpAddress

SOURCE: UdpAddress = ("192.0.2.1", 7)

LENGTHS = st.one_of(st.integers(0, 3), st.sampled_from([64, 1384, 1384, 1384, 1472, 65_507]))


def train(data: bytes, size: int) -> Train:
    return data, size, SOURCE, 5


@given(st.lists(LENGTHS, max_size=200))
def test_pieces_are_all_datagrams_in_order_and_each_may_leave_as_a_train(lengths: list[int]) -> None:
    pieces = list(cut([bytes(length) for length in lengths]))
    assert [at for start, stop in pieces for at in range(start, stop)] == list(range(len(lengths)))
    for start, stop in pieces:
        piece = lengths[start:stop]
        assert len(piece) == 1 or set(piece[:-1]) == {piece[0]}
        assert len(piece) == 1 or 0 < piece[-1] <= piece[0]
        assert len(piece) <= SEGMENTS_MAX
        assert len(piece) == 1 or sum(piece) <= TRAIN_BYTES_MAX


@given(st.lists(st.integers(1, 3), max_size=200))
def test_no_two_neighbouring_pieces_could_have_left_together(lengths: list[int]) -> None:
    pieces = [lengths[start:stop] for start, stop in cut([bytes(length) for length in lengths])]
    for left, right in itertools.pairwise(pieces):
        assert len(left) == SEGMENTS_MAX or left[-1] < left[0] or right[0] > left[0]


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([], []),
        ([5], [(0, 1)]),
        ([0, 0], [(0, 1), (1, 2)]),
        ([5, 5, 5], [(0, 3)]),
        ([5, 5, 2], [(0, 3)]),
        ([5, 5, 2, 2], [(0, 3), (3, 4)]),
        ([2, 5], [(0, 1), (1, 2)]),
        ([5, 0, 5], [(0, 1), (1, 2), (2, 3)]),
        ([1464] * 45, [(0, 44), (44, 45)]),
        ([64] * 65, [(0, 64), (64, 65)]),
        ([40_000] * 2, [(0, 1), (1, 2)]),
        ([70_000] * 2, [(0, 1), (1, 2)]),
    ],
)
def test_cutting(lengths: list[int], expected: list[tuple[int, int]]) -> None:
    assert expected == list(cut([bytes(length) for length in lengths]))


@given(st.lists(st.tuples(st.binary(max_size=50), st.integers(1, 20)), max_size=8))
def test_datagrams_of_trains_are_their_bytes_in_order_and_no_longer_than_the_size(trains: list[tuple[bytes, int]]) -> None:
    batch = [train(data, size) for data, size in trains]
    datagrams = datagrams_of(batch)
    assert datagrams == [(data[start:end], source, stamp_ns) for data, start, end, source, stamp_ns in segments(batch)]
    assert b"".join(data for data, _ in trains) == b"".join(data for data, _, _ in datagrams)
    assert sum(max(1, -(-len(data) // size)) for data, size in trains) == len(datagrams)
    assert all((source, stamp_ns) == (SOURCE, 5) for _, source, stamp_ns in datagrams)


def test_last_datagram_may_be_shorter_and_a_train_may_be_of_one() -> None:
    assert [b"abc", b"def", b"g"] == [data for data, _, _ in datagrams_of([train(b"abcdefg", 3)])]
    assert [b"abc", b"def"] == [data for data, _, _ in datagrams_of([train(b"abcdef", 3)])]
    assert [b"abc", b""] == [data for data, _, _ in datagrams_of([train(b"abc", 3), train(b"", 1)])]


@pytest.mark.parametrize(
    ("data", "size", "plane"),
    [
        (b"\x21...\x21...\x21.", 4, 2),
        (b"\x21...\x31...\x21.", 4, -1),
        (b"\x21...\x31", 4, -1),
        (b"\x31...", 4, 3),
        (b"\x31...", 9, 3),
        (b"", 1, -1),
    ],
)
def test_plane_is_told_if_all_datagrams_share_it(data: bytes, size: int, plane: int) -> None:
    assert plane == plane_of(train(data, size))
