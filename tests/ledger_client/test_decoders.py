"""Hostile bytes at every decoder of the ledger: a value or a `RemoteProtocolError`, and no decoder is left out.

The decoders, their samples and the bytes are those of benchmarks/fuzz_ledger.py, which runs the same for as long as one likes.
"""

from __future__ import annotations

import random
import re
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest

from srwan.errors import DecodeError, LimitExceeded
from srwan.ledger_client.accounting.receipt import Receipt
from srwan.ledger_client.exchange.messages import encode_busy
from srwan.wire import unpack

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))

import fuzz_ledger  # noqa: E402
import fuzzing  # noqa: E402
from fuzzing import Decoder  # noqa: E402

ROUNDS = 600
"""Inputs of one decoder: with 50 decoders some seconds."""
DECODERS = {decoder.name: decoder for decoder in fuzz_ledger.decoders()}
IS_DECODER = re.compile(
    r"decode\w*|of_record|\w+_of_statement|kept_of|carried_of|filing_of|measurements_of|omission_of|proof_in|is_equivocation|terms_of_abi|read_entry|read_transaction"
)
NOT_FOR_BYTES = {
    "settlement.abi.AbiType.decode": "behind decode_all",
}


def test_no_decoder_of_the_ledger_is_left_out() -> None:
    names = set(fuzzing.names_of_functions(ROOT / "ledger_client", IS_DECODER))

    assert len(names) > 35
    assert [] == sorted(names - DECODERS.keys() - NOT_FOR_BYTES.keys())
    assert [] == sorted(NOT_FOR_BYTES.keys() - names)


@pytest.mark.parametrize("name", sorted(DECODERS))
def test_valid_bytes_are_taken_and_give_themselves_again(name: str) -> None:
    decoder = DECODERS[name]
    for sample in decoder.samples:
        if sample == encode_busy(5):
            with pytest.raises(LimitExceeded, match="busy"):
                decoder.decode(sample)
        else:
            value = decoder.decode(sample)
            assert decoder.encode is None or sample == decoder.encode(value)


@pytest.mark.parametrize("name", sorted(DECODERS))
def test_hostile_bytes_are_refused_and_nothing_else_happens(name: str) -> None:
    report = fuzzing.fuzz(DECODERS[name], random.Random(f"1 {name}"), ROUNDS)
    assert not report, report


@pytest.mark.parametrize("name", sorted(DECODERS))
def test_deep_nests_and_lying_lengths_are_refused(name: str) -> None:
    decoder = DECODERS[name]
    for head in fuzzing.NEST_HEADS:
        for depth in fuzzing.DEPTHS:
            assert "" == fuzzing.attempt(decoder, head * depth)
            assert "" == fuzzing.attempt(decoder, head * depth + b"\xc0")
    for lie in fuzzing.LIES:
        assert "" == fuzzing.attempt(decoder, lie)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(DECODERS))
def test_many_hostile_bytes_are_refused_and_nothing_else_happens(name: str) -> None:
    report = fuzzing.fuzz(DECODERS[name], random.Random(f"2 {name}"), 20_000)
    assert not report, report


# --- that the search finds something ---------------------------------------------------------------------------------


SAMPLE = DECODERS["accounting.receipt.Receipt.decode"].samples[0]


def trusting(data: bytes) -> Any:
    """What a decoder looks like that trusts the types it gets."""
    body, _, _ = unpack(data, bytes_max=512)
    return len(unpack(body, bytes_max=512)[0])


def forgetful(data: bytes) -> Receipt:
    """Bounds are checked by the class, and its error is not turned into ours."""
    receipt = Receipt.decode(SAMPLE)
    match unpack(data, bytes_max=512):
        case [bytes(), bytes(signature), bytes(countersignature)]:
            return attrs.evolve(receipt, signature=signature, countersignature=countersignature)
        case _:
            raise DecodeError("not a receipt")


def lenient(data: bytes) -> Receipt:
    """Takes more than one encoding."""
    return Receipt.decode(data.removesuffix(b"\0"))


@pytest.mark.parametrize("decode", [trusting, forgetful, lenient], ids=lambda decode: decode.__name__)
def test_a_careless_decoder_is_found_out(decode: Any) -> None:
    good = DECODERS["accounting.receipt.Receipt.decode"]
    careless = Decoder("careless", decode, good.samples, good.encode if decode is lenient else None)

    assert fuzzing.fuzz(careless, random.Random(1), 10 * ROUNDS)
