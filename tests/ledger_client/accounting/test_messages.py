"""What the three sides say to each other: bytes and bounds."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srwan.errors import DecodeError, RemoteProtocolError
from srwan.ledger_client.accounting.messages import NOTICE_BYTES_MAX, Answer, SessionNotice, TicketNotice


def test_they_are_read_as_they_were_written(deal: Any) -> None:
    for tags in ((), (0,), (1, 2, 2**64 - 1), tuple(range(64))):
        notice = SessionNotice(deal.terms, deal.plan, 2**64 - 1, tags)
        assert notice == SessionNotice.decode(notice.encode())
    paid = TicketNotice(deal.ticket(10**6, 10_000), deal.receipt(10**6))
    assert paid == TicketNotice.decode(paid.encode())
    for answer in (Answer("ok"), Answer("stale", deal.receipt(5).encode())):
        assert answer == Answer.decode(answer.encode())
    assert (True, False) == (Answer("ok").is_ok, Answer("price").is_ok)


@given(data=st.binary(max_size=200))
def test_random_bytes_are_refused_as_the_peers_fault(data: bytes) -> None:
    for kind in (SessionNotice, TicketNotice, Answer):
        with pytest.raises(RemoteProtocolError):
            kind.decode(data)


@given(at=st.integers(0, 10_000), value=st.integers(0, 255))
def test_a_damaged_notice_is_refused_or_read_as_what_it_says(deal: Any, at: int, value: int) -> None:
    data = bytearray(SessionNotice(deal.terms, deal.plan, 5, (1, 2)).encode())
    data[at % len(data)] = value
    try:
        notice = SessionNotice.decode(bytes(data))
    except RemoteProtocolError:
        return
    assert bytes(data) == notice.encode()


@pytest.mark.parametrize("tags", [(2, 1), (1, 1), (-1,), (2**64,), tuple(range(65))])
def test_tags_are_few_and_in_order(deal: Any, tags: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="tag"):
        SessionNotice(deal.terms, deal.plan, 1, tags)


def test_a_plan_that_is_not_that_of_the_terms_is_refused(deal: Any, latency_deal: Any) -> None:
    with pytest.raises(DecodeError, match="plan"):
        SessionNotice(deal.terms, latency_deal.plan, 1, ())
    with pytest.raises(DecodeError, match="two sessions"):
        TicketNotice.decode(TicketNotice(deal.ticket(10**6, 1), latency_deal.receipt(10**6)).encode())


def test_the_longest_notice_is_within_its_bound(deal: Any) -> None:
    notice = SessionNotice(deal.terms, deal.plan, 2**64 - 1, tuple(2**64 - 64 + n for n in range(64)))
    assert len(notice.encode()) <= NOTICE_BYTES_MAX
    assert SessionNotice.decode(notice.encode()) == attrs.evolve(notice)
