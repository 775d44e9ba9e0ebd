"""The contract's binary interface: calls out, results, events and reasons of refusal in.

Theory of operation. The compiler's description of the contract (`settlement.json`) names the types of every function and event; an
`Interface` is made of it once. Values are plain: int, bool, bytes (addresses are 20 B, hashes 32 B), tuples for structs and lists.
Only the types that the contract uses are known: unsigned integers, address, bool, bytesN, structs and lists of these.

What a node answers is not trusted: every offset, count, padding and range is checked, and lists are bounded by the bytes that hold them.

Written out rather than taken from eth_abi, whose import alone costs 0.4 s of a processor in every router; tests compare the two.

Source: Solidity documentation, "Contract ABI specification".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from srwan.errors import DecodeError
from srwan.ledger_client.settlement.signing import Address, keccak256, word

__all__ = ["AbiType", "Interface", "revert_reason"]

WORD_BYTES = 32
REASON_BYTES_MAX = 200
"""Of a contract's reason, the rest is cut off."""
_ERROR_STRING = bytes.fromhex("08c379a0")
"""Selector of Error(string)."""
_PANIC = bytes.fromhex("4e487b71")
"""Selector of Panic(uint256)."""


@attrs.frozen(slots=True)
class AbiType:
    """One type: a word, a struct or a list."""

    name: str
    """Canonical, as selectors are made of: "uint128", "(address,uint8)[]"."""
    parts: tuple[AbiType, ...] = ()
    """Members of a struct; the one member type of a list."""

    @classmethod
    def of(cls, description: Mapping[str, Any]) -> AbiType:
        """Make one of the compiler's description: {"type": ..., "components": [...]}.

        Raises:
            ValueError: a type that is not known here.
        """
        name = str(description["type"])
        if name.endswith("[]"):
            member = cls.of({**description, "type": name[:-2]})
            return cls(f"{member.name}[]", (member,))
        if name == "tuple":
            parts = tuple(cls.of(part) for part in description["components"])
            return cls(f"({','.join(part.name for part in parts)})", parts)
        is_sized = name.removeprefix("uint").isdigit() or name.removeprefix("bytes").isdigit()
        if name not in ("address", "bool") and not is_sized:
            raise ValueError(f"the type {name!r} is not known here")
        return cls(name)

    @property
    def is_list(self) -> bool:
        """Whether it is a list of one type."""
        return self.name.endswith("[]")

    @property
    def is_dynamic(self) -> bool:
        """Whether its place holds an offset to it."""
        return self.is_list or any(part.is_dynamic for part in self.parts)

    @property
    def head_bytes(self) -> int:
        """Bytes of its place in what holds it."""
        if self.is_dynamic:
            return WORD_BYTES
        return sum(part.head_bytes for part in self.parts) if self.parts else WORD_BYTES

    def encode(self, value: Any) -> bytes:
        """Return the bytes of a value.

        Raises:
            ValueError: it does not fit the type.
        """
        if self.is_list:
            return word(len(value)) + encode_all((self.parts[0],) * len(value), value)
        return encode_all(self.parts, value) if self.parts else self._encode_word(value)

    def _encode_word(self, value: Any) -> bytes:
        if self.name == "address":
            return word(Address(value))
        if self.name == "bool":
            return word(int(bool(value)))
        if self.name.startswith("uint"):
            if not 0 <= value < 1 << int(self.name[4:]):
                raise ValueError(f"{value} does not fit {self.name}")
            return word(int(value))
        if len(value) != int(self.name[5:]):
            raise ValueError(f"{len(value)} bytes are no {self.name}")
        return bytes(value).ljust(WORD_BYTES, b"\0")

    def decode(self, data: bytes, at: int) -> Any:
        """Return the value whose bytes begin at `at`.

        Raises:
            DecodeError: the bytes are no such value.
        """
        if self.is_list:
            count = _uint(data, at)
            member = self.parts[0]
            if count * member.head_bytes > len(data) - at - WORD_BYTES:
                raise DecodeError(f"a list of {count} in {len(data)} bytes")
            return decode_all((member,) * count, data, at + WORD_BYTES)
        return decode_all(self.parts, data, at) if self.parts else self._decode_word(data, at)

    def _decode_word(self, data: bytes, at: int) -> Any:
        number = _uint(data, at)
        if self.name.startswith("bytes"):
            length = int(self.name[5:])
            if any(data[at + length : at + WORD_BYTES]):
                raise DecodeError(f"a {self.name} with something in its padding")
            return data[at : at + length]
        bits = {"address": 160, "bool": 1}.get(self.name) or int(self.name[4:])
        if number >> bits:
            raise DecodeError(f"a {self.name} out of range")
        if self.name == "address":
            return Address(data[at + 12 : at + WORD_BYTES])
        return bool(number) if self.name == "bool" else number


def _uint(data: bytes, at: int) -> int:
    if not 0 <= at <= len(data) - WORD_BYTES:
        raise DecodeError(f"{len(data)} bytes end before a value at {at}")
    return int.from_bytes(data[at : at + WORD_BYTES], "big")


def encode_all(types: Sequence[AbiType], values: Sequence[Any]) -> bytes:
    """Return the bytes of values in a row, as arguments and structs are laid out: places first, then what they point to.

    Raises:
        ValueError: too many or too few, or one does not fit its type.
    """
    if len(types) != len(values):
        raise ValueError(f"{len(values)} values for {len(types)} types")
    head, tail = bytearray(), bytearray()
    start = sum(part.head_bytes for part in types)
    for part, value in zip(types, values, strict=True):
        encoded = part.encode(value)
        if part.is_dynamic:
            head += word(start + len(tail))
            tail += encoded
        else:
            head += encoded
    return bytes(head + tail)


def decode_all(types: Sequence[AbiType], data: bytes, start: int = 0) -> tuple[Any, ...]:
    """Return the values laid out from `start` on.

    Raises:
        DecodeError: the bytes are no such values.
    """
    values: list[Any] = []
    at = start
    for part in types:
        where = start + _uint(data, at) if part.is_dynamic else at
        values.append(part.decode(data, where))
        at += part.head_bytes
    return tuple(values)


@attrs.frozen(slots=True)
class _Function:
    selector: bytes
    inputs: tuple[AbiType, ...]
    outputs: tuple[AbiType, ...]


@attrs.frozen(slots=True)
class _Event:
    name: str
    fields: tuple[tuple[str, AbiType, bool], ...]
    """Name, type, whether it is indexed."""


class Interface:
    """What can be called on a contract and what it reports.

    Args:
        abi: the compiler's description, a list of functions and events.

    Raises:
        ValueError: the description has a type that is not known here.
    """

    def __init__(self, abi: Sequence[Mapping[str, Any]]) -> None:
        self._functions: dict[str, _Function] = {}
        self._events: dict[bytes, _Event] = {}
        self._constructor: tuple[AbiType, ...] = ()
        for entry in abi:
            inputs = tuple(AbiType.of(part) for part in entry.get("inputs", ()))
            signature = f"{entry.get('name', '')}({','.join(part.name for part in inputs)})"
            if entry["type"] == "constructor":
                self._constructor = inputs
            elif entry["type"] == "function":
                outputs = tuple(AbiType.of(part) for part in entry.get("outputs", ()))
                self._functions[entry["name"]] = _Function(keccak256(signature.encode())[:4], inputs, outputs)
            elif entry["type"] == "event":
                fields = tuple((str(part["name"]), kind, bool(part["indexed"])) for part, kind in zip(entry["inputs"], inputs, strict=True))
                self._events[keccak256(signature.encode())] = _Event(entry["name"], fields)

    def encode_constructor(self, *values: Any) -> bytes:
        """Return what follows the bytecode in a deployment."""
        return encode_all(self._constructor, values)

    def encode_call(self, name: str, *values: Any) -> bytes:
        """Return the data of a call.

        Raises:
            ValueError: a value does not fit its type. KeyError: the contract has no such function.
        """
        function = self._functions[name]
        return function.selector + encode_all(function.inputs, values)

    def decode_result(self, name: str, data: bytes) -> tuple[Any, ...]:
        """Return what a call gave back, a struct as a tuple within the tuple.

        Raises:
            DecodeError: the bytes are no such result.
        """
        return decode_all(self._functions[name].outputs, data)

    def decode_event(self, topics: Sequence[bytes], data: bytes) -> tuple[str, dict[str, Any]] | None:
        """Return name and values of an event, None if the contract has no such event.

        Raises:
            DecodeError: the bytes are no such event.
        """
        event = self._events.get(topics[0]) if topics else None
        if event is None:
            return None
        indexed = [(name, kind) for name, kind, is_indexed in event.fields if is_indexed]
        plain = [(name, kind) for name, kind, is_indexed in event.fields if not is_indexed]
        if len(topics) != 1 + len(indexed):
            raise DecodeError(f"an event {event.name} with {len(topics)} topics")
        values = {name: kind.decode(topic, 0) for (name, kind), topic in zip(indexed, topics[1:], strict=True)}
        values |= dict(zip((name for name, _ in plain), decode_all([kind for _, kind in plain], data), strict=True))
        return event.name, values


def revert_reason(data: bytes) -> str:
    """Return the reason that a refused call gave: the contract's word, "panic" with a number, or nothing. Never raises."""
    if data[:4] == _PANIC and len(data) == 4 + WORD_BYTES:
        return f"panic {int.from_bytes(data[4:], 'big'):#x}"
    if data[:4] != _ERROR_STRING:
        return ""
    try:
        at = 4 + _uint(data, 4)
        length = _uint(data, at)
    except DecodeError:
        return ""
    text = data[at + WORD_BYTES : at + WORD_BYTES + min(length, REASON_BYTES_MAX)].decode("utf-8", "replace")
    return "".join(letter for letter in text if letter.isprintable())
