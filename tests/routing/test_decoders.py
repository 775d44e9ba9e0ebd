"""Hostile bytes at every decoder of the data plane: a value, a `RemoteProtocolError` or a counted drop, and no decoder is left out.

The decoders, their samples and the bytes are those of benchmarks/fuzz_dataplane.py, which runs the same for as long as one likes.
"""

from __future__ import annotations

import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))

import fuzz_dataplane  # noqa: E402
import fuzzing  # noqa: E402

ROUNDS = 300
"""Inputs of one decoder: with 20 decoders a second."""
DECODERS = {decoder.name: decoder for decoder in fuzz_dataplane.decoders()}
IS_DECODER = re.compile(r"decode|open|open_packet|open_payload|read_in_band|parse_ip")
NOT_FOR_STRANGERS = {
    "forwarder.TunPlane.open": "takes a descriptor",
    "native.gateway.NativeGateway.open": "takes a descriptor",
    "tunnels.Tunnels.open": "takes a descriptor",
}


def test_no_decoder_of_the_data_plane_is_left_out() -> None:
    names = set(fuzzing.names_of_functions(ROOT / "routing", IS_DECODER))

    assert len(names) > 9
    assert [] == sorted(names - DECODERS.keys() - NOT_FOR_STRANGERS.keys())
    assert [] == sorted(NOT_FOR_STRANGERS.keys() - names)


@pytest.mark.parametrize("name", sorted(DECODERS))
def test_valid_bytes_are_taken_and_give_themselves_again(name: str) -> None:
    decoder = DECODERS[name]
    for sample in decoder.samples:
        value = decoder.decode(sample)
        assert decoder.encode is None or sample == decoder.encode(value)


@pytest.mark.parametrize("name", sorted(DECODERS))
def test_hostile_bytes_are_refused_or_counted_and_nothing_else_happens(name: str) -> None:
    report = fuzzing.fuzz(DECODERS[name], random.Random(f"1 {name}"), ROUNDS)
    assert not report, report


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(DECODERS))
def test_many_hostile_bytes_are_refused_or_counted_and_nothing_else_happens(name: str) -> None:
    report = fuzzing.fuzz(DECODERS[name], random.Random(f"2 {name}"), 20_000)
    assert not report, report


def test_a_packet_that_vanishes_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = next(each for each in fuzz_dataplane._of_routers() if each.name == "portable.PortableForwarder.receive")
    monkeypatch.setattr("srwan.routing.traffic.Drops.count", lambda *_: None)

    assert "nowhere was it counted" in fuzzing.fuzz(decoder, random.Random(1), ROUNDS)


@pytest.mark.parametrize(
    ("only", "status", "said"),
    [("srh", 0, "1 of 1 decoders took 0.1 s of hostile bytes each without fault"), ("nosuch", 2, "there are srh.")],
)
def test_the_fuzzer_says_what_it_did_and_what_it_does_not_know(only: str, status: int, said: str) -> None:
    command = [sys.executable, str(ROOT / "benchmarks/fuzz_dataplane.py"), "--each", "0.1", "--only", only]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    assert (status, True) == (done.returncode, said in done.stdout + done.stderr), done.stderr
