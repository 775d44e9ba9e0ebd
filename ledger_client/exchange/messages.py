"""What two stores say to each other on "/srwan/ditex/1": three questions, four answers, each canonical msgpack of at most 1 MiB.

Questions, `[version, name, arguments]`:

- "compare" [[prefix, digest], ...]: do you hold the same in these ranges? A prefix is 0..32 hexadecimal digits, a digest 16 B.
- "fetch" [position, ...]: give me what you hold at these positions, 16 B each.
- "push" [item, ...]: take these.

Answers, `[name, content]`:

- "ranges" [answer, ...]: of each range in turn None (the same), 256 B (the digests of its 16 parts), or `[entries]`, 48 B each (all of it).
- "items" [item or None, ...]: of each position in turn; None where nothing is (any more).
- "taken" [stored, unchanged, [[index, reason], ...]].
- "busy" seconds: nothing was done; ask again after that time.

Answers to "compare" and "fetch" may stop early, after at least one: the rest is asked again. An item is a record, a list of 11 fields, or a
proof of equivocation, a list of two such records.

Not here: whether a record is what its subject signed. Each store verifies what it takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import attrs

from srwan.errors import DecodeError, LimitExceeded, RemoteProtocolError
from srwan.ledger_client.exchange.digest_tree import (
    DEPTH_MAX,
    DIGEST_BYTES,
    EMPTY,
    FAN_OUT,
    POSITION_BYTES,
    Entry,
    position_of,
    position_of_proof,
)
from srwan.ledger_client.record import ENVELOPE_BYTES_MAX, Kind, Record, Version
from srwan.ledger_client.store import EquivocationProof
from srwan.types import NodeId
from srwan.wire import pack, unpack

__all__ = [
    "PROTOCOL",
    "Compare",
    "Fetch",
    "Item",
    "Push",
    "RangeAnswer",
    "Taken",
    "decode_question",
    "decode_record",
    "encode_record",
    "position_of_item",
]

PROTOCOL = "/srwan/ditex/1"
"""Of the control channel."""
MESSAGE_BYTES_MAX = 1 << 20
"""As CONTROL_MESSAGE_BYTES_MAX of the overlay."""
ANSWER_BYTES = 512 * 1024
"""An answer stops before it is longer than this, unless a single item is."""
RANGES_MAX = 512
"""Ranges of one question; 20 kB."""
ITEMS_MAX = 500
"""Records of one question or answer: a transaction gains nothing beyond, and verifying them takes 30 ms."""
PUSH_BYTES = 512 * 1024
"""Of the items of one push; the longest item has 34 kB, a proof twice as much."""
REASON_CHARACTERS_MAX = 32
RETRY_S_MAX = 600
_VERSION = 1
_ITEM_FIELDS = 11

Item: TypeAlias = Record | EquivocationProof
"""What is exchanged."""
Range: TypeAlias = tuple[str, bytes]
"""Prefix and digest."""


def position_of_item(item: Item) -> bytes:
    """Return where an item belongs."""
    return position_of(item.key) if isinstance(item, Record) else position_of_proof(item.key)


# --- items ---


def encode_record(record: Record) -> list[Any]:
    """Return a record as a value for `wire.pack`."""
    filed = [record.kind.value, record.group, record.subject, record.topic, *record.version, record.expires_ns]
    return [*filed, record.epoch, record.country, record.asn, record.envelope]


def decode_record(value: Any) -> Record:
    """Return the record in a decoded value; not verified. For hostile input.

    Raises:
        LimitExceeded: over the cap of its kind. DecodeError: malformed, or of an unknown kind ("kind").
    """
    match value:
        case [
            str(name), bytes(group), bytes(subject), bytes(topic), int(era), int(sequence), int(expires_ns),
            int(epoch), str(country), int(asn), bytes(envelope),
        ]:  # fmt: skip
            pass
        case _:
            raise DecodeError("not a record")
    try:
        kind = Kind(name)
    except ValueError:
        raise DecodeError(f"a record of unknown kind {name[:32]!r}", reason="kind") from None
    if len(envelope) > ENVELOPE_BYTES_MAX[kind]:
        raise LimitExceeded(f"a {kind} record of {len(envelope)} bytes, at most {ENVELOPE_BYTES_MAX[kind]} are allowed")
    try:
        version = Version(era, sequence)
        return Record(kind, group, NodeId(subject), version, expires_ns, envelope, epoch, country, asn, topic)
    except ValueError as error:
        raise DecodeError(f"malformed record: {error}") from None


def _encode_item(item: Item) -> list[Any]:
    if isinstance(item, Record):
        return encode_record(item)
    return [encode_record(item.held), encode_record(item.other)]


def _decode_item(value: Any) -> Item:
    if isinstance(value, list) and len(value) == 2:
        return EquivocationProof(decode_record(value[0]), decode_record(value[1]))
    return decode_record(value)


def item_bytes(item: Item) -> int:
    """Return about how many bytes an item takes in a message, never too few."""
    records = (item,) if isinstance(item, Record) else (item.held, item.other)
    return sum(len(record.envelope) + 200 for record in records)


# --- questions ---


@attrs.frozen(slots=True)
class Compare:
    """A question about ranges."""

    ranges: tuple[Range, ...]
    """1..RANGES_MAX of them."""

    def encode(self) -> bytes:
        """Return the message."""
        return pack([_VERSION, "compare", [list(each) for each in self.ranges]])


@attrs.frozen(slots=True)
class Fetch:
    """A question for items."""

    positions: tuple[bytes, ...]
    """1..ITEMS_MAX of them, 16 B each."""

    def encode(self) -> bytes:
        """Return the message."""
        return pack([_VERSION, "fetch", list(self.positions)])


@attrs.frozen(slots=True)
class Push:
    """An offer of items. Those that are malformed are kept as the error that says so."""

    items: tuple[Item | RemoteProtocolError, ...]
    """1..ITEMS_MAX of them."""

    def encode(self) -> bytes:
        """Return the message."""
        return pack([_VERSION, "push", [_encode_item(item) for item in self.items if not isinstance(item, RemoteProtocolError)]])


Question: TypeAlias = Compare | Fetch | Push


def decode_question(body: bytes) -> Question:
    """Parse a question. For hostile input.

    Raises:
        LimitExceeded: the message or a list in it is too long. DecodeError: malformed, or of another version ("version").
    """
    match unpack(body, bytes_max=MESSAGE_BYTES_MAX):
        case [int(version), str(name), list(arguments)] if not isinstance(version, bool):
            pass
        case _:
            raise DecodeError("not a question about a store")
    if version != _VERSION:
        raise DecodeError(f"a question of version {version}, not {_VERSION}", reason="version")
    length_max = RANGES_MAX if name == "compare" else ITEMS_MAX
    if not 1 <= len(arguments) <= length_max:
        raise LimitExceeded(f"{len(arguments)} arguments, 1..{length_max} are allowed")
    if name == "compare":
        return Compare(tuple(_decode_range(each) for each in arguments))
    if name == "fetch":
        return Fetch(tuple(_decode_position(each) for each in arguments))
    if name == "push":
        return Push(tuple(_item_or_error(each) for each in arguments))
    raise DecodeError("an unknown question")


def _decode_range(value: Any) -> Range:
    match value:
        case [str(prefix), bytes(digest)] if len(digest) == DIGEST_BYTES and is_prefix(prefix):
            return prefix, digest
        case _:
            raise DecodeError("not a range")


def is_prefix(text: str) -> bool:
    """Say whether `text` names a range."""
    return len(text) <= DEPTH_MAX and all(digit in "0123456789abcdef" for digit in text)


def _decode_position(value: Any) -> bytes:
    if not isinstance(value, bytes) or len(value) != POSITION_BYTES:
        raise DecodeError("not a position")
    return value


def _item_or_error(value: Any) -> Item | RemoteProtocolError:
    try:
        return _decode_item(value)
    except RemoteProtocolError as error:
        return error


# --- answers ---


@attrs.frozen(slots=True)
class RangeAnswer:
    """What the other side says of one range; both None: it holds the same."""

    parts: tuple[bytes, ...] | None = None
    """Digests of its 16 parts."""
    entries: tuple[Entry, ...] | None = None
    """All that it holds in the range."""


@attrs.frozen(slots=True)
class Taken:
    """What became of a push."""

    stored: int
    """Items that were new to the other side."""
    unchanged: int
    """Items it held already."""
    refused: tuple[tuple[int, str], ...]
    """Place in the push and the word for why."""

    def encode(self) -> bytes:
        """Return the message."""
        return pack(["taken", [self.stored, self.unchanged, [list(each) for each in self.refused]]])


def encode_ranges(answers: Sequence[RangeAnswer]) -> bytes:
    """Return the answer to a `Compare`."""
    return pack(["ranges", [_encode_range_answer(each) for each in answers]])


def _encode_range_answer(answer: RangeAnswer) -> Any:
    if answer.parts is not None:
        return b"".join(answer.parts)
    return None if answer.entries is None else [b"".join(entry.encode() for entry in answer.entries)]


def encode_items(items: Sequence[Item | None]) -> bytes:
    """Return the answer to a `Fetch`."""
    return pack(["items", [None if item is None else _encode_item(item) for item in items]])


def encode_busy(retry_s: int) -> bytes:
    """Return the answer of one who has no time."""
    return pack(["busy", retry_s])


def decode_answer(body: bytes, name: str) -> list[Any]:
    """Return the content of an answer of the wanted name. For hostile input.

    Raises:
        LimitExceeded: too long, or the other side is busy ("busy"). DecodeError: malformed, or another answer.
    """
    match unpack(body, bytes_max=MESSAGE_BYTES_MAX):
        case ["busy", int(retry_s)]:
            raise LimitExceeded(f"busy for {retry_s} s", reason="busy")
        case [str(given), list(content)] if given == name:
            return content
        case _:
            raise DecodeError(f"not an answer {name!r}")


def decode_ranges(body: bytes, asked: int) -> list[RangeAnswer]:
    """Parse the answer to `asked` ranges: 1..asked answers. For hostile input. Raises: as `decode_answer`."""
    content = decode_answer(body, "ranges")
    if not 1 <= len(content) <= asked:
        raise DecodeError(f"{len(content)} answers to {asked} ranges")
    return [_decode_range_answer(each) for each in content]


def _decode_range_answer(value: Any) -> RangeAnswer:
    match value:
        case None:
            return RangeAnswer()
        case bytes() if len(value) == FAN_OUT * DIGEST_BYTES:
            return RangeAnswer(parts=tuple(value[start : start + DIGEST_BYTES] for start in range(0, len(value), DIGEST_BYTES)))
        case [bytes(listing)]:
            return RangeAnswer(entries=tuple(Entry.decode_many(listing)))
        case _:
            raise DecodeError("not an answer about a range")


def decode_items(body: bytes, asked: Sequence[bytes]) -> list[Item | RemoteProtocolError | None]:
    """Parse the answer to a `Fetch`: 1..len(asked) items, each at the position asked for, or the error it is. For hostile input.

    Raises: as `decode_answer`.
    """
    content = decode_answer(body, "items")
    if not 1 <= len(content) <= len(asked):
        raise DecodeError(f"{len(content)} items for {len(asked)} positions")
    return [_decode_fetched(value, position) for value, position in zip(content, asked, strict=False)]


def _decode_fetched(value: Any, position: bytes) -> Item | RemoteProtocolError | None:
    if value is None:
        return None
    item = _item_or_error(value)
    if not isinstance(item, RemoteProtocolError) and position_of_item(item) != position:
        return DecodeError("an item that was not asked for", reason="unasked")
    return item


def decode_taken(body: bytes, pushed: int) -> Taken:
    """Parse the answer to a push of `pushed` items. For hostile input. Raises: as `decode_answer`."""
    match decode_answer(body, "taken"):
        case [int(stored), int(unchanged), list(refused)] if min(stored, unchanged) >= 0 and stored + unchanged + len(refused) == pushed:
            return Taken(stored, unchanged, tuple(_decode_refusal(each, pushed) for each in refused))
        case _:
            raise DecodeError("not an account of what was taken")


def _decode_refusal(value: Any, pushed: int) -> tuple[int, str]:
    match value:
        case [int(index), str(reason)] if 0 <= index < pushed and len(reason) <= REASON_CHARACTERS_MAX and reason.isprintable():
            return index, reason
        case _:
            raise DecodeError("not a refusal")


def is_empty(digest: bytes) -> bool:
    """Say whether it is the digest of a range without items."""
    return digest == EMPTY
