"""The address book."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srwan.errors import DecodeError, RemoteProtocolError
from srwan.overlay.peers import PEERS_KEPT_MAX, AddressBook
from srwan.overlay.transport import ControlAddress
from srwan.types import NodeId
from srwan.wire import pack


def address(index: int, host: str = "192.0.2.1") -> ControlAddress:
    return ControlAddress(NodeId(index.to_bytes(32, "big")), (f"/ip4/{host}/tcp/{index + 1}",))


def book_of(count: int) -> AddressBook:
    book = AddressBook()
    for index in range(count):
        book.note(address(index), index)
    return book


def test_the_last_reached_comes_first() -> None:
    book = book_of(5)
    book.note(address(1), 100)
    assert [address(1), address(4), address(3)] == book.newest(3)
    assert (5, []) == (len(book), book.newest(0))


def test_a_new_address_replaces_the_old_and_older_news_does_not() -> None:
    book = book_of(1)
    book.note(address(0, "192.0.2.50"), 10)
    book.note(address(0, "192.0.2.99"), 5)
    assert [address(0, "192.0.2.50")] == book.newest(9)


def test_the_one_not_reached_for_longest_goes_when_the_book_is_full() -> None:
    book = book_of(PEERS_KEPT_MAX + 10)
    assert len(book) == PEERS_KEPT_MAX
    assert address(10) in book.newest(PEERS_KEPT_MAX)
    assert address(9) not in book.newest(PEERS_KEPT_MAX)


def test_peers_without_address_are_not_kept_and_unknown_ones_can_be_forgotten() -> None:
    book = book_of(1)
    book.note(ControlAddress(NodeId(bytes(32)), ()), 5)
    book.forget(NodeId(b"\xff" * 32))
    book.forget(address(0).node_id)
    assert len(book) == 0


def test_a_book_has_golden_bytes() -> None:
    book = AddressBook()
    book.note(ControlAddress(NodeId(b"\x11" * 32), ("mem",)), 258)
    assert book.encode().hex() == "9201" + "9193" + "c420" + "11" * 32 + "cd0102" + "91a36d656d"


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 2**62)), max_size=60))
def test_a_book_survives_encoding(notes: list[tuple[int, int]]) -> None:
    book = AddressBook()
    for index, at_ns in notes:
        book.note(address(index), at_ns)
    again = AddressBook.decode(book.encode())
    assert (book.newest(100), book.encode()) == (again.newest(100), again.encode())


@given(st.binary(max_size=300))
def test_random_bytes_raise_nothing_but_protocol_errors(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        AddressBook.decode(data)


@pytest.mark.parametrize(
    "entry", [[b"short", 1, ["a"]], [bytes(32), -1, ["a"]], [bytes(32), 1, [1]], [bytes(32), 1, ["a"] * 5], "text", []]
)
def test_a_damaged_entry_is_refused(entry: object) -> None:
    with pytest.raises(DecodeError):
        AddressBook.decode(pack([1, [entry]]))
