"""What one process asks another to check, and what it is told: round trip, and no answer is taken for another."""

from __future__ import annotations

import io
from collections.abc import Callable

import attrs
import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srwan.errors import BadSignature, DecodeError
from srwan.ledger_client.record import Record
from srwan.ledger_client.verify_slice import FRAME_BYTES_MAX, LENGTH_BYTES, answer_of, open_answer, question_of, refusals_of
from srwan.ledger_client.verify_worker import serve

Make = Callable[..., Record]


@pytest.fixture
def records(make_row: Make) -> list[Record]:
    """The second of three is forged."""
    good = [make_row(index) for index in range(3)]
    return [good[0], attrs.evolve(good[1], envelope=good[1].envelope[:-1] + b"\x00"), good[2]]


def packed(value: object) -> bytes:
    return bytes(msgpack.packb(value) or b"")


def unframed(frame: bytes) -> bytes:
    assert len(frame) - LENGTH_BYTES == int.from_bytes(frame[:LENGTH_BYTES], "big")
    return frame[LENGTH_BYTES:]


def test_an_answer_tells_what_checking_here_would_have(records: list[Record], wall_ns: int) -> None:
    answer = unframed(answer_of(unframed(question_of(7, records, wall_ns))))
    told, expected = open_answer(answer, 7, 3, 100), refusals_of(records, wall_ns, 100)

    assert [101] == list(told) == list(expected)
    assert BadSignature is type(told[101])
    assert (str(expected[101]), expected[101].reason) == (str(told[101]), told[101].reason)


@pytest.mark.parametrize(
    "answer",
    [
        [8, b"\x01\x00\x01", [[1, "BadSignature", "signature", "bad"]]],  # to another question
        [7, b"\x01\x00", [[1, "BadSignature", "signature", "bad"]]],  # about fewer records
        [7, b"\x01\x00\x01\x01", [[1, "BadSignature", "signature", "bad"]]],
        [7, b"\x01\x00\x01", []],  # not good, and no reason
        [7, b"\x01\x01\x01", [[1, "BadSignature", "signature", "bad"]]],  # good, and a reason
        [7, b"\x01\x01\x02", []],
        [7, b"", []],
        [7, b"\x01\x01\x00", [[-1, "BadSignature", "signature", "bad"]]],
        [7, b"\x01\x00\x01", [[1, "BadSignature", "signature", "bad"]] * 2],
        [7, b"\x01\x00\x01", [[1.0, "BadSignature", "signature", "bad"]]],
        [7, b"\x01\x00\x01", [[1, "SystemExit", "signature", "bad"]]],  # no class that checking raises
        [7, b"\x01\x00\x01", [[1, "BadSignature", None, "bad"]]],
        [7, b"\x01\x00\x01", [[1, "BadSignature", "signature", b"bad"]]],
        [7, b"\x01\x00\x01", [[1, "BadSignature"]]],
        [7, b"\x01\x00\x01", [[3, "BadSignature", "signature", "bad"]]],
        [7, b"\x01\x01\x01"],
        None,
    ],
)
def test_what_does_not_fit_the_question_is_no_answer(answer: object) -> None:
    open_answer(packed([7, b"\x01\x00\x01", [[1, "BadSignature", "signature", "bad"]]]), 7, 3)

    with pytest.raises(DecodeError):
        open_answer(packed(answer), 7, 3)


@given(st.binary(max_size=200))
def test_random_bytes_are_no_answer(data: bytes) -> None:
    with pytest.raises(DecodeError):
        open_answer(data, 2**60, 1)


def test_a_worker_answers_question_after_question_until_they_end(records: list[Record], wall_ns: int) -> None:
    questions = [question_of(number, records, wall_ns) for number in (1, 2)]
    answers = io.BytesIO()
    serve(io.BytesIO(b"".join(questions) + questions[0][:-1]), answers)

    assert b"".join(answer_of(unframed(question)) for question in questions) == answers.getvalue()


def test_a_worker_ends_at_a_question_that_is_too_long() -> None:
    answers = io.BytesIO()
    serve(io.BytesIO((FRAME_BYTES_MAX + 1).to_bytes(LENGTH_BYTES, "big") + bytes(100)), answers)

    assert b"" == answers.getvalue()


def test_a_worker_does_not_pass_what_it_cannot_read(wall_ns: int) -> None:
    """The process ends, and its parent does the work."""
    row = ["row", bytes(31), bytes(32), 1, 1, wall_ns + 1, "ZZ", 0, b"", b""]

    with pytest.raises(ValueError, match="a group id has 32 bytes"):
        answer_of(packed([1, wall_ns, [row]]))
