"""The contract's binary interface: the same bytes as eth_abi's, and nothing but DecodeError for nonsense."""

from __future__ import annotations

import random

import pytest
from eth_abi.abi import encode as encode_theirs
from eth_utils.abi import event_signature_to_log_topic, function_signature_to_4byte_selector
from hypothesis import given, settings
from hypothesis import strategies as st

from srwan.errors import DecodeError
from srwan.ledger_client.contract.artefact import load_artefact
from srwan.ledger_client.settlement.abi import AbiType, Interface, decode_all, encode_all, revert_reason
from srwan.ledger_client.settlement.signing import Address

ABI = load_artefact().abi
INTERFACE = Interface(ABI)
NAMED = {entry["name"]: entry for entry in ABI if "name" in entry}


def types_of(entry: dict[str, object], where: str = "inputs") -> list[AbiType]:
    found = entry[where]
    assert isinstance(found, (list, tuple))
    return [AbiType.of(part) for part in found]


def signature_of(entry: dict[str, object]) -> str:
    return f"{entry['name']}({','.join(kind.name for kind in types_of(entry))})"


def random_value(kind: AbiType, rng: random.Random) -> object:
    if kind.is_list:
        return [random_value(kind.parts[0], rng) for _ in range(rng.choice((0, 1, 2, 8)))]
    if kind.parts:
        return tuple(random_value(part, rng) for part in kind.parts)
    if kind.name.startswith("uint"):
        bits = int(kind.name[4:])
        return rng.choice((0, 1, 2**bits - 1, rng.getrandbits(bits)))
    if kind.name == "bool":
        return rng.random() < 0.5
    return rng.randbytes(20 if kind.name == "address" else int(kind.name[5:]))


def as_eth_abi(kind: AbiType, value: object) -> object:
    """eth_abi wants addresses in hexadecimal digits."""
    if kind.name == "address":
        assert isinstance(value, bytes)
        return str(Address(value))
    if isinstance(value, (list, tuple)):
        parts = kind.parts * len(value) if kind.is_list else kind.parts
        return tuple(as_eth_abi(part, member) for part, member in zip(parts, value, strict=True))
    return value


def as_tuples(value: object) -> object:
    return tuple(as_tuples(member) for member in value) if isinstance(value, (list, tuple)) else value


@pytest.mark.parametrize("name", sorted(name for name, entry in NAMED.items() if entry["type"] == "function"))
def test_calls_and_results_of_every_function_are_those_of_eth_abi(name: str) -> None:
    rng = random.Random(name)
    entry = NAMED[name]
    inputs, outputs = types_of(entry), types_of(entry, "outputs")
    signature = signature_of(entry)
    for _ in range(5):
        values = [random_value(kind, rng) for kind in inputs]
        theirs = encode_theirs([kind.name for kind in inputs], [as_eth_abi(*pair) for pair in zip(inputs, values, strict=True)])
        assert function_signature_to_4byte_selector(signature) + theirs == INTERFACE.encode_call(name, *values)

        results = [random_value(kind, rng) for kind in outputs]
        data = encode_theirs([kind.name for kind in outputs], [as_eth_abi(*pair) for pair in zip(outputs, results, strict=True)])
        assert as_tuples(results) == as_tuples(INTERFACE.decode_result(name, data))


@pytest.mark.parametrize("name", sorted(name for name, entry in NAMED.items() if entry["type"] == "event"))
def test_every_event_is_read(name: str) -> None:
    rng = random.Random(name)
    entry = NAMED[name]
    values = {part["name"]: random_value(AbiType.of(part), rng) for part in entry["inputs"]}
    topics, plain = [event_signature_to_log_topic(signature_of(entry))], []
    for part in entry["inputs"]:
        kind = AbiType.of(part)
        if part["indexed"]:
            topics.append(kind.encode(values[part["name"]]))
        else:
            plain.append((kind, values[part["name"]]))
    data = encode_all([kind for kind, _ in plain], [value for _, value in plain])

    assert (name, values) == INTERFACE.decode_event(topics, data)
    assert INTERFACE.decode_event([b"\1" * 32, *topics[1:]], data) is None
    with pytest.raises(DecodeError):
        INTERFACE.decode_event([*topics, bytes(32)], data)


@settings(max_examples=200)
@given(st.binary(max_size=400))
def test_nonsense_raises_nothing_but_decode_errors(data: bytes) -> None:
    for name in ("account", "validatorSet", "seats", "pools", "isOverturned"):
        try:
            found = INTERFACE.decode_result(name, data)
        except DecodeError:
            continue
        assert len(types_of(NAMED[name], "outputs")) == len(found)
    assert isinstance(revert_reason(data), str)
    assert isinstance(revert_reason(bytes.fromhex("08c379a0") + data), str)


@pytest.mark.parametrize(
    ("kind", "word"),
    [("uint64", b"\1" + bytes(31)), ("address", b"\1" * 32), ("bool", bytes(31) + b"\2"), ("bytes4", bytes(31) + b"\1")],
)
def test_a_word_with_too_much_in_it_is_refused(kind: str, word: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_all([AbiType(kind)], word)


@pytest.mark.parametrize("count", [2, 2**64, 2**255])
def test_a_list_longer_than_what_holds_it_is_refused_at_once(count: int) -> None:
    data = (32).to_bytes(32, "big") + count.to_bytes(32, "big") + bytes(32)

    with pytest.raises(DecodeError, match="a list of"):
        decode_all([AbiType("uint256[]", (AbiType("uint256"),))], data)


@pytest.mark.parametrize(("kind", "value"), [("uint128", 2**128), ("uint128", -1), ("address", b"\1" * 19), ("bytes32", b"\1" * 31)])
def test_a_value_that_does_not_fit_is_not_sent(kind: str, value: object) -> None:
    with pytest.raises(ValueError, match=r"fit|bytes"):
        AbiType(kind).encode(value)


def test_types_that_the_contract_does_not_use_are_named() -> None:
    for name in ("int256", "string", "bytes", "uint256[3]", "function"):
        with pytest.raises(ValueError, match="not known here"):
            AbiType.of({"type": name})


def test_reasons_are_read_shortened_and_made_printable() -> None:
    def said(text: bytes) -> bytes:
        return bytes.fromhex("08c379a0") + encode_theirs(["string"], [text.decode("latin-1")])

    assert "quorum" == revert_reason(said(b"quorum"))
    assert 200 == len(revert_reason(said(b"x" * 5000)))
    assert "ab" == revert_reason(said(b"a\x1b\n\x00b"))
    assert "panic 0x11" == revert_reason(bytes.fromhex("4e487b71") + (17).to_bytes(32, "big"))
    assert "" == revert_reason(b"")
