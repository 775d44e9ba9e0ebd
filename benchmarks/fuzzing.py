"""Hostile bytes for decoders: what makes them, what looks at what comes of them, and the command line of the fuzzers.

What a stranger hands over must come out as a value or as an error that the decoder names, whatever the bytes; and a value must be one whose
own encoding is the bytes it came from. A decoder gets random bytes, flipped, cut, repeated and spliced valid bytes, valid msgpack values
of which one part became another (integers at the ends of their ranges, other types, other lengths), and nests deeper than any stack.

Used by fuzz_ledger.py and fuzz_dataplane.py, and by the tests that run the same for a few seconds.
"""

from __future__ import annotations

import argparse
import ast
import functools
import multiprocessing
import random
import re
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import attrs
import msgpack

from srwan.errors import RemoteProtocolError


@attrs.frozen
class Decoder:
    """One way in, and bytes that pass it."""

    name: str
    """Module and function, as the tests find them."""
    decode: Callable[[bytes], Any]
    samples: tuple[bytes, ...]
    encode: Callable[[Any], bytes] | None = None
    """What must give the bytes again; None where a decoder takes more than one encoding, or returns something else."""
    errors: tuple[type[Exception], ...] = (RemoteProtocolError,)
    """What it may raise."""


NASTY: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**32 - 1, 2**53, 2**63 - 1, 2**63, 2**64 - 1, -(2**63), b"", b"\0", b"\xff" * 16, b"\xff" * 20,
    bytes(31), bytes(32), bytes(33), bytes(64), bytes(65), bytes(70_000), "", "x", "\0", "\u0661", "x" * 33, "x" * 70_000, [], [[]],
    [None] * 600, {}, {"a": 1},
)  # fmt: skip
DEPTHS = (2, 100, 511, 512, 513, 1024, 5000, 100_000)
NEST_HEADS = (b"\x91", b"\x81\xa1a", b"\xdc\x00\x01", b"\xdd\x00\x00\x00\x01", b"\xdf\x00\x00\x00\x01\xa1a", b"\xc8\x00\x01\x05", b"\xc1")
LIES = (b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\xc9\xff\xff\xff\xff\0")


def names_of_functions(folder: Path, pattern: re.Pattern[str]) -> Iterator[str]:
    """Yield the functions and methods below a folder whose whole name fits, as in `Decoder.name`: for tests of completeness."""
    for path in sorted(folder.rglob("*.py")):
        module = ".".join(path.relative_to(folder).with_suffix("").parts)
        for node in ast.parse(path.read_text("utf-8")).body:
            inner = node.body if isinstance(node, ast.ClassDef) else [node]
            owner = f"{node.name}." if isinstance(node, ast.ClassDef) else ""
            for each in inner:
                if isinstance(each, ast.FunctionDef) and pattern.fullmatch(each.name):
                    yield f"{module}.{owner}{each.name}"


def random_bytes(rng: random.Random, _: bytes) -> bytes:
    return rng.randbytes(rng.choice((0, 1, 2, 8, 32, 100, 1000)))


def flipped(rng: random.Random, sample: bytes) -> bytes:
    data = bytearray(sample)
    for _ in range(rng.randint(1, 4) if data else 0):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def cut_or_stretched(rng: random.Random, sample: bytes) -> bytes:
    at, end = sorted((rng.randint(0, len(sample)), rng.randint(0, len(sample))))
    return rng.choice(
        (sample[:at], sample[at:], sample + sample[at:end], sample[:at] + sample[end:], sample[:end] + sample[at:], sample + b"\0")
    )


def overwritten(rng: random.Random, sample: bytes) -> bytes:
    at = rng.randint(0, len(sample))
    patch = rng.choice((*LIES, rng.randbytes(rng.randint(1, 40)), b"\xff" * 16, bytes(16), b"\xcb" + bytes(8), b"\xca" + bytes(4)))
    return sample[:at] + patch + sample[at + (len(patch) if rng.random() < 0.5 else 0) :]


def nested(rng: random.Random, sample: bytes) -> bytes:
    head = rng.choice(NEST_HEADS)
    return head * rng.choice(DEPTHS) + rng.choice((b"", b"\xc0", sample))


def replaced(rng: random.Random, sample: bytes) -> bytes:
    """A valid value of which one part, at any depth and within encoded parts too, became another; canonical again if that is possible."""
    value = _unpacked(sample)
    if not isinstance(value, list):
        return flipped(rng, sample)
    return _packed(_with_one_part_changed(rng, value))


def _unpacked(data: bytes) -> Any:
    try:
        return msgpack.unpackb(data, raw=False, strict_map_key=False, use_list=True)
    except (ValueError, RecursionError, msgpack.exceptions.UnpackException):
        return None


def _packed(value: Any) -> bytes:
    try:
        return cast("bytes", msgpack.packb(value, use_bin_type=True))
    except (ValueError, TypeError, OverflowError):
        return b"\xc1"


def _with_one_part_changed(rng: random.Random, value: Any) -> Any:
    inner = _unpacked(value) if isinstance(value, bytes) and len(value) > 40 else None
    if isinstance(inner, list) and rng.random() < 0.8:
        return _packed(_with_one_part_changed(rng, inner))
    if not isinstance(value, list) or not value or rng.random() < 0.1:
        return _another(rng, value)
    at = rng.randrange(len(value))
    changed = list(value)
    way = rng.random()
    if way < 0.75:
        changed[at] = _with_one_part_changed(rng, value[at])
    elif way < 0.83:
        del changed[at]
    elif way < 0.91:
        changed.insert(at, rng.choice((value[at], rng.choice(NASTY))))
    else:
        changed[at] = changed[rng.randrange(len(changed))]
    return changed


def _another(rng: random.Random, value: Any) -> Any:
    if isinstance(value, int) and rng.random() < 0.5:
        return value + rng.choice((-1, 1, 2**32, -(2**32)))
    if isinstance(value, bytes) and rng.random() < 0.5:
        return flipped(rng, value)
    return rng.choice(NASTY)


ROUNDS = 200
"""Between two looks at the clock."""
MUTATORS = (random_bytes, flipped, cut_or_stretched, overwritten, nested, replaced, replaced, replaced)


def attempt(decoder: Decoder, data: bytes) -> str:
    """Decode hostile bytes; return what is wrong with how that went, or nothing."""
    try:
        value = decoder.decode(data)
    except decoder.errors:
        return ""
    except Exception:  # noqa: BLE001 - whatever it is, it is what we look for
        return traceback.format_exc()
    if decoder.encode is not None and decoder.encode(value) != data:
        return f"decodes to {value!r:.500}, which is encoded otherwise"
    return ""


def fuzz(decoder: Decoder, rng: random.Random, rounds: int) -> str:
    """Give a decoder so many hostile inputs; return the first that goes wrong, as a report, or nothing."""
    for _ in range(rounds):
        data = rng.choice(MUTATORS)(rng, rng.choice(decoder.samples))
        if wrong := attempt(decoder, data):
            return f"{decoder.name}: {data.hex() if len(data) <= 4096 else f'{len(data)} bytes, {data[:64].hex()}...'}\n{wrong}"
    return ""


@attrs.frozen
class Finding:
    """What became of one decoder."""

    name: str
    rounds: int
    """Inputs it took."""
    report: str
    """What went wrong; nothing if nothing did."""


def search(make_decoders: Callable[[], Sequence[Decoder]], seed: int, seconds: float, name: str) -> Finding:
    """Give one decoder hostile inputs for so long."""
    (decoder,) = (each for each in make_decoders() if each.name == name)
    rng, end, rounds, report = random.Random(f"{seed} {name}"), time.monotonic() + seconds, 0, ""
    while not report and time.monotonic() < end:
        report = fuzz(decoder, rng, ROUNDS)
        rounds += ROUNDS
    return Finding(name, rounds, report)


def run_fuzzer(make_decoders: Callable[[], Sequence[Decoder]], description: str | None) -> int:
    """Read the command line, search, and say what was found; return the exit status.

    Args:
        make_decoders: a function of a module, since it is called in other processes.
        description: of the fuzzer, for `--help`.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, metavar="N", help="how long in all, s (60)")
    parser.add_argument("--each", type=float, metavar="N", help="how long every decoder, s, instead")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="decoders at a time (1)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the bytes (1)")
    parser.add_argument("--only", default="", metavar="NAME", help="decoders whose name holds this")
    options = parser.parse_args()
    names = [decoder.name for decoder in make_decoders() if options.only in decoder.name]
    if not names:
        parser.error(f"no decoder's name holds {options.only!r}; there are {', '.join(decoder.name for decoder in make_decoders())}")
    each_s = options.each if options.each is not None else options.seconds * options.jobs / len(names)
    findings: list[Finding] = []
    with multiprocessing.get_context("spawn").Pool(min(options.jobs, len(names))) as pool:
        for finding in pool.imap(functools.partial(search, make_decoders, options.seed, each_s), names, chunksize=1):
            print(finding.report or f"{finding.name}: {finding.rounds} inputs without fault", flush=True)
            findings.append(finding)
    bad = sum(bool(finding.report) for finding in findings)
    print(f"{len(findings) - bad} of {len(findings)} decoders took {each_s:g} s of hostile bytes each without fault; seed {options.seed}")
    return 1 if bad else 0
