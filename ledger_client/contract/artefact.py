"""The compiled settlement contract that ships with the package: ABI, bytecode, and what they were made of.

Not here: the compiler. `script/contract` compiles `settlement.vy` into `settlement.json`, and with --check proves that the one shipped is
what source and compiler give; nothing at run time needs vyper.

The contract's constants that are fixed at deployment lie behind its code on the chain, so code on a chain is compared by its first
`runtime_octets` only.
"""

from __future__ import annotations

import functools
import json
from importlib import resources
from typing import Any

import attrs

from srwan.ledger_client.settlement.signing import keccak256

__all__ = ["Artefact", "load_artefact", "read_artefact"]


@attrs.frozen(slots=True)
class Artefact:
    """One compiled contract."""

    abi: tuple[dict[str, Any], ...]
    """Functions, events and constructor, as in the JSON form of the Solidity ABI."""
    bytecode: bytes
    """What a deployment sends, without the constructor's arguments."""
    runtime_hash: bytes
    """Keccak-256 of the code as deployed, without the constants behind it, 32 B."""
    runtime_octets: int
    """Length of that code."""
    source_hash: bytes
    """Keccak-256 of settlement.vy, 32 B."""
    compiler: str
    """Name, version and options of the compiler."""

    def matches(self, code: bytes) -> bool:
        """Say whether code found on a chain is this contract, whatever it was deployed with."""
        return len(code) >= self.runtime_octets and keccak256(code[: self.runtime_octets]) == self.runtime_hash


def read_artefact(text: str) -> Artefact:
    """Read an artefact as `script/contract` writes it."""
    found = json.loads(text)
    return Artefact(
        abi=tuple(found["abi"]),
        bytecode=bytes.fromhex(found["bytecode"]),
        runtime_hash=bytes.fromhex(found["runtime_hash"]),
        runtime_octets=found["runtime_octets"],
        source_hash=bytes.fromhex(found["source_hash"]),
        compiler=found["compiler"],
    )


@functools.cache
def load_artefact() -> Artefact:
    """Return the contract as shipped. Read once. Cost: 2 ms the first time."""
    return read_artefact(resources.files("srwan.ledger_client.contract").joinpath("settlement.json").read_text("utf-8"))
