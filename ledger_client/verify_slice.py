"""Checking a slice of a batch of records, and how a slice and its refusals are written where another process does the checking.

Theory of operation. A slice is gone over three times: every envelope is opened, every signature checked, and what was signed compared with
what was filed. The passage in the middle holds the interpreter's lock for 3 of 77 us, so that threads which check slices side by side
(`verify_batch`) are rarely in each other's way; record by record, each waited for the other's parsing after every signature.

Between processes (`verify_pool`, `verify_worker`) both directions are frames: a length, u32 big-endian, and so many bytes of msgpack.

- question: `[number, wall_ns, [[kind, group, subject, era, sequence, expires_ns, country, asn, topic, envelope], ...]]`;
- answer: `[number, passed, [[place, class, reason, message], ...]]`, `passed` having one byte a record: 1 says that it was checked and is
  good, 0 that a refusal follows. Good is what is called good, never what nothing is said about.

Invariants: `open_answer` returns just what `refusals_of` would have, or raises. What is not checked (the epoch) is not sent.

Not here: what is checked (`record`), threads, processes. A core.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgpack

from srwan.errors import BadSignature, DecodeError, LimitExceeded, RemoteProtocolError, StaleRecord
from srwan.ledger_client.record import Kind, Record, Version, is_authentic, open_envelope, require_as_filed, require_current
from srwan.types import NodeId
from srwan.wire import Envelope

__all__ = ["FRAME_BYTES_MAX", "LENGTH_BYTES", "answer_of", "open_answer", "question_of", "refusals_of"]

FRAME_BYTES_MAX = 16 << 20
"""Longest frame either way, bytes: 400 records of the longest kind. A slice that is longer is checked where it is."""
LENGTH_BYTES = 4
_GOOD, _REFUSED = 1, 0
_KINDS: Mapping[str, Kind] = {kind.value: kind for kind in Kind}
"""As `Kind(value)`, in a tenth of its 1 us."""
_ERRORS: Mapping[str, type[RemoteProtocolError]] = {
    error.__name__: error for error in (RemoteProtocolError, BadSignature, DecodeError, LimitExceeded, StaleRecord)
}
"""What checking a record raises. Another class is no answer: the process that meets it ends, and the slice is checked anew at home."""


def refusals_of(records: Sequence[Record], wall_ns: int, start: int = 0) -> dict[int, RemoteProtocolError]:
    """Do `check` for each and return those that must not be stored, by place counted from `start`, with the reason."""
    refused: dict[int, RemoteProtocolError] = {}
    opened: list[tuple[int, Record, Envelope]] = []
    for index, record in enumerate(records, start):
        try:
            require_current(record, wall_ns)
            opened.append((index, record, open_envelope(record)))
        except RemoteProtocolError as error:
            refused[index] = error
    authentic = [is_authentic(record, envelope) for _, record, envelope in opened]
    for (index, record, envelope), is_good in zip(opened, authentic, strict=True):
        try:
            require_as_filed(record, envelope, is_authentic=is_good)
        except RemoteProtocolError as error:
            refused[index] = error
    return refused


def question_of(number: int, records: Sequence[Record], wall_ns: int) -> bytes:
    """Return the frame that asks to check `records`; `number` is what the answer must repeat. Cost: 2 us a record."""
    rows = [
        (
            record.kind,
            record.group,
            record.subject,
            *record.version,
            record.expires_ns,
            record.country,
            record.asn,
            record.topic,
            record.envelope,
        )
        for record in records
    ]
    return _frame((number, wall_ns, rows))


def answer_of(question: bytes) -> bytes:
    """Check what a question holds, given without its length, and return the frame that answers it. Raises whatever is wrong with it."""
    number, wall_ns, rows = msgpack.unpackb(question)
    records = [
        Record(_KINDS[kind], group, NodeId(subject), Version(era, sequence), expires_ns, envelope, 0, country, asn, topic)
        for kind, group, subject, era, sequence, expires_ns, country, asn, topic, envelope in rows
    ]
    refused = refusals_of(records, wall_ns)
    passed = bytearray([_GOOD]) * len(records)
    told: list[tuple[int, str, str, str]] = []
    for place, error in sorted(refused.items()):
        name = type(error).__name__
        if _ERRORS.get(name) is not type(error):
            raise error
        passed[place] = _REFUSED
        told.append((place, name, error.reason, str(error)))
    return _frame((number, bytes(passed), told))


def open_answer(answer: bytes, number: int, count: int, start: int = 0) -> dict[int, RemoteProtocolError]:
    """Return what an answer, given without its length, says must not be stored, by place counted from `start`, with the reason.

    Raises:
        DecodeError: not a whole answer to question `number` about `count` records.
    """
    try:
        number_told, passed, told = msgpack.unpackb(answer)
        refused = {start + place: _ERRORS[name](_text(message), reason=_text(reason)) for place, name, reason, message in told}
        expected = bytearray([_GOOD]) * count
        for index in refused:
            expected[index - start] = _REFUSED
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError, msgpack.exceptions.UnpackException) as error:
        raise DecodeError(f"not an answer: {type(error).__name__}") from None
    if number_told != number or passed != bytes(expected) or len(refused) != len(told) or min(refused, default=start) < start:
        raise DecodeError(f"an answer that does not fit question {number} about {count} records")
    return refused


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _frame(value: Any) -> bytes:
    payload = cast("bytes", msgpack.packb(value))
    return len(payload).to_bytes(LENGTH_BYTES, "big") + payload
