"""Messages that must get there: the newest under each key, again and again, not too often."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from srwan.ledger_client.accounting.outbox import GIVE_UP_S, MESSAGES_MAX, RETRY_S_MAX, Outbox
from srwan.types import NodeId

PEER = NodeId(bytes(32))


def box() -> Outbox:
    return Outbox(random.Random(1))


def put(outbox: Outbox, key: str, body: bytes, now: float = 0.0) -> None:
    outbox.put(key, PEER, "/x/1", body, now)


def test_a_message_goes_once_until_it_is_answered() -> None:
    outbox = box()
    put(outbox, "a", b"1")
    (message,) = outbox.take_due(0.0, 10)
    assert [] == outbox.take_due(0.0, 10)
    assert outbox.get_timer() is None
    outbox.succeeded(message, 1.0)
    assert 0 == len(outbox)


def test_a_newer_one_replaces_it_even_while_it_is_under_way() -> None:
    outbox = box()
    put(outbox, "a", b"1")
    (first,) = outbox.take_due(0.0, 10)
    put(outbox, "a", b"2")
    assert [] == outbox.take_due(0.0, 10), "one under way per key"
    outbox.succeeded(first, 1.0)
    (second,) = outbox.take_due(1.0, 10)
    assert b"2" == second.body


def test_the_same_again_changes_nothing() -> None:
    outbox = box()
    put(outbox, "a", b"1")
    (first,) = outbox.take_due(0.0, 10)
    put(outbox, "a", b"1")
    outbox.succeeded(first, 1.0)
    assert 0 == len(outbox)


def test_pauses_grow_to_a_bound_and_end() -> None:
    outbox, now, pauses = box(), 0.0, []
    put(outbox, "a", b"1")
    while outbox.take_due(now, 1):
        (message,) = (outbox._entries["a"].message,)
        outbox.failed(message, now)
        timer = outbox.get_timer()
        assert timer is not None
        pauses.append(timer - now)
        now = timer
    assert 0.3 < pauses[0] < 0.7
    assert max(pauses) <= RETRY_S_MAX * 1.25
    assert now > GIVE_UP_S
    assert (0, 1) == (len(outbox), outbox.dropped)


def test_it_is_bounded() -> None:
    outbox = box()
    for number in range(MESSAGES_MAX + 5):
        put(outbox, str(number), b"1")
    assert (MESSAGES_MAX, 5) == (len(outbox), outbox.dropped)


@given(steps=st.lists(st.tuples(st.sampled_from(["put", "take", "ok", "fail"]), st.integers(0, 3), st.integers(0, 9)), max_size=60))
def test_the_newest_of_every_key_is_delivered_in_the_end(steps: list[tuple[str, int, int]]) -> None:
    outbox, now, newest, delivered, under_way = box(), 0.0, {}, {}, []
    for what, key, value in steps:
        now += 0.1
        if what == "put":
            put(outbox, str(key), bytes([value]), now)
            newest[str(key)] = bytes([value])
        elif what == "take":
            under_way += outbox.take_due(now, 2)
        elif under_way:
            message = under_way.pop(0)
            if what == "ok":
                delivered[message.key] = message.body
                outbox.succeeded(message, now)
            else:
                outbox.failed(message, now)
    while under_way or len(outbox):
        now += RETRY_S_MAX * 2
        under_way += outbox.take_due(now, 100)
        for message in under_way:
            delivered[message.key] = message.body
            outbox.succeeded(message, now)
        under_way.clear()
    assert newest == delivered
