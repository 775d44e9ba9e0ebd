"""Every message there and back, and whatever else may come."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srwan.errors import DecodeError, LimitExceeded, RemoteProtocolError
from srwan.ledger_client.exchange import messages
from srwan.ledger_client.exchange.digest_tree import Entry
from srwan.ledger_client.exchange.messages import (
    ITEMS_MAX,
    RANGES_MAX,
    Compare,
    Fetch,
    Push,
    RangeAnswer,
    Taken,
    decode_items,
    decode_question,
    decode_ranges,
    decode_record,
    decode_taken,
    encode_items,
    encode_ranges,
    encode_record,
    position_of_item,
)
from srwan.ledger_client.record import Kind, Record, Version
from srwan.ledger_client.store import EquivocationProof
from srwan.wire import pack

Make = Callable[..., Record]

POSITION = bytes(range(16))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=300) | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=12),
    max_leaves=30,
)


def test_questions_survive_the_wire(make_offer: Make) -> None:
    first, second = make_offer(), make_offer(content=1)
    proof = EquivocationProof.of(first, second)
    for question in (Compare((("", bytes(16)), ("0f", POSITION))), Fetch((POSITION,)), Push((first, proof, second))):
        assert question == decode_question(question.encode())


def test_answers_survive_the_wire(make_offer: Make) -> None:
    record, proof = make_offer(), EquivocationProof.of(make_offer(), make_offer(content=1))
    answers = [
        RangeAnswer(),
        RangeAnswer(parts=(POSITION,) * 16),
        RangeAnswer(entries=(Entry(POSITION, Version(1, 2), bytes(16)),)),
        RangeAnswer(entries=()),
    ]
    items = [record, None, proof]
    positions = [position_of_item(record), POSITION, position_of_item(proof)]

    assert answers == decode_ranges(encode_ranges(answers), 4)
    assert items == decode_items(encode_items(items), positions)
    assert Taken(2, 1, ((0, "stale"),)) == decode_taken(Taken(2, 1, ((0, "stale"),)).encode(), 4)


def test_an_item_that_was_not_asked_for_is_an_error_in_its_place(make_offer: Make) -> None:
    (fetched,) = decode_items(encode_items([make_offer()]), [POSITION])

    assert isinstance(fetched, DecodeError)
    assert "unasked" == fetched.reason


def test_malformed_items_do_not_spoil_those_beside_them(make_offer: Make) -> None:
    record = make_offer()
    fields = encode_record(record)
    broken: dict[str, list[Any]] = {
        "kind": ["gold", *fields[1:]],
        "decode": [*fields[:-1], 7],
        "limit": [*fields[:-1], bytes(40_000)],
    }
    message = pack([1, "push", [fields, *broken.values()]])
    push = decode_question(message)

    assert isinstance(push, Push)
    assert record == push.items[0]
    assert list(broken) == [error.reason for error in push.items[1:] if isinstance(error, RemoteProtocolError)]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"era": -1}, "decode"),
        ({"era": True}, "decode"),
        ({"era": 2**63}, "decode"),
        ({"expires_ns": 2**63}, "decode"),
        ({"group": b"short"}, "decode"),
        ({"subject": b"short"}, "decode"),
        ({"topic": bytes(33)}, "decode"),
        ({"country": "de"}, "decode"),
        ({"asn": 2**32}, "decode"),
        ({"kind": 5}, "decode"),
    ],
)
def test_a_record_out_of_bounds_is_refused(make_offer: Make, changed: dict[str, Any], reason: str) -> None:
    names = ("kind", "group", "subject", "topic", "era", "sequence", "expires_ns", "epoch", "country", "asn", "envelope")
    fields = {**dict(zip(names, encode_record(make_offer()), strict=True)), **changed}

    with pytest.raises(RemoteProtocolError) as refused:
        decode_record(list(fields.values()))
    assert reason == refused.value.reason


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        pack([1, "compare", []]),
        pack([1, "compare", [["", bytes(16)]] * (RANGES_MAX + 1)]),
        pack([1, "compare", [["g", bytes(16)]]]),
        pack([1, "compare", [["0" * 33, bytes(16)]]]),
        pack([1, "compare", [["F", bytes(16)]]]),
        pack([1, "compare", [["", bytes(15)]]]),
        pack([1, "fetch", [bytes(15)]]),
        pack([1, "fetch", [bytes(16)] * (ITEMS_MAX + 1)]),
        pack([1, "push", []]),
        pack([1, "drop", [1]]),
        pack([2, "fetch", [bytes(16)]]),
        pack([True, "fetch", [bytes(16)]]),
        pack([1, "push", [bytes(1 << 20)]]),
    ],
)
def test_malformed_questions_are_refused(body: bytes) -> None:
    with pytest.raises((DecodeError, LimitExceeded)):
        decode_question(body)


@pytest.mark.parametrize(
    "body",
    [
        pack(["ranges", []]),
        pack(["ranges", [None, None, None]]),
        pack(["ranges", [bytes(255)]]),
        pack(["ranges", [[bytes(47)]]]),
        pack(["items", [None]]),
        pack(["busy", 3]),
        pack(["ranges"]),
    ],
)
def test_malformed_answers_are_refused(body: bytes) -> None:
    with pytest.raises((DecodeError, LimitExceeded)):
        decode_ranges(body, 2)


@pytest.mark.parametrize(
    "content", [[1, 1, []], [-1, 3, []], [0, 1, [[2, "stale"]]], [0, 1, [[0, "a" * 33]]], [0, 1, [[0, "\n"]]], [0, 2], []]
)
def test_an_account_that_does_not_add_up_is_refused(content: list[Any]) -> None:
    with pytest.raises(DecodeError):
        decode_taken(pack(["taken", content]), 3 if content[:2] == [1, 1] else 2)


@given(st.binary(max_size=200) | VALUES.map(pack) | st.tuples(st.just(1), st.sampled_from(["compare", "fetch", "push"]), VALUES).map(pack))
def test_random_bytes_raise_remote_errors_only(body: bytes) -> None:
    for decode in (
        decode_question,
        lambda body: decode_ranges(body, 3),
        lambda body: decode_items(body, [POSITION]),
        lambda b: decode_taken(b, 2),
    ):
        try:
            decode(body)
        except RemoteProtocolError:
            continue


@given(
    st.tuples(st.sampled_from(["ranges", "items", "taken", "busy"]), VALUES).map(pack),
)
def test_random_answers_raise_remote_errors_only(body: bytes) -> None:
    for decode in (lambda body: decode_ranges(body, 3), lambda body: decode_items(body, [POSITION]), lambda b: decode_taken(b, 2)):
        try:
            decode(body)
        except RemoteProtocolError:
            continue


@given(st.data())
def test_a_record_with_any_field_exchanged_is_a_record_or_a_remote_error(data: st.DataObject) -> None:
    fields: list[Any] = ["offer", bytes(32), bytes(32), b"", 1, 2, 3, 4, "DE", 5, b"envelope"]
    fields[data.draw(st.integers(0, 10))] = data.draw(VALUES)
    try:
        record = decode_record(fields)
    except RemoteProtocolError:
        return
    assert fields == encode_record(record)


def test_the_longest_question_and_answer_fit_the_control_channel(make_offer: Make) -> None:
    deepest = Compare((("f" * 32, bytes(16)),) * RANGES_MAX).encode()
    longest = attrs.evolve(make_offer(), kind=Kind.CLAIM, envelope=bytes(33_000), topic=bytes(32))
    proof = EquivocationProof(longest, longest)

    assert len(deepest) < messages.MESSAGE_BYTES_MAX
    assert len(Push((proof,)).encode()) <= messages.item_bytes(proof) + 20
    assert messages.item_bytes(proof) + messages.PUSH_BYTES < messages.MESSAGE_BYTES_MAX
