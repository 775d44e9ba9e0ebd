"""Compile the settlement contract and measure what it costs: script/contract [--check].

Three files are written: the artefact, tests/data/settlement_gas.json with the figures, and the table of them in docs/settlement.md. They
depend on nothing but the source and the compiler: no path, no time, keys in fixed order. vyper is a development dependency.

--check compiles, and compares the artefact and the table in the documentation; that the figures are right is what tests measure.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import vyper  # type: ignore[import-untyped]
from vyper.compiler import compile_code  # type: ignore[import-untyped]

from srwan.ledger_client.contract.artefact import read_artefact
from srwan.ledger_client.settlement.signing import keccak256
from srwan.testing.settlement_gas import BATCHES, batch_gas, batch_name, operation_gas

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "ledger_client" / "contract" / "settlement.vy"
OUTPUT = ROOT / "ledger_client" / "contract" / "settlement.json"
FIGURES = ROOT / "tests" / "data" / "settlement_gas.json"
DOCUMENT = ROOT / "docs" / "settlement.md"
BEGIN, END = "<!-- gas: begin -->\n", "<!-- gas: end -->\n"


def compile_artefact(source: bytes) -> str:
    """Return the artefact of a source as JSON text. Options (EVM version, optimisation) are in pragmas of the source."""
    made = compile_code(source.decode(), output_formats=["abi", "bytecode", "bytecode_runtime"])
    runtime = bytes.fromhex(made["bytecode_runtime"].removeprefix("0x"))
    artefact = {
        "abi": made["abi"],
        "bytecode": made["bytecode"].removeprefix("0x"),
        "compiler": f"vyper {vyper.__version__}, evm cancun, optimised for gas",
        "runtime_hash": keccak256(runtime).hex(),
        "runtime_octets": len(runtime),
        "source_hash": keccak256(source).hex(),
    }
    return json.dumps(artefact, indent=1) + "\n"


def measure(artefact: str) -> str:
    """Return the gas of all operations as JSON text. Cost: 10 s."""
    contract = read_artefact(artefact)
    batches = {
        batch_name(claims, relays, is_shared=is_shared): batch_gas(claims, relays, is_shared=is_shared, artefact=contract)
        for claims, relays, is_shared in BATCHES
    }
    return json.dumps({"gas_per_claim": batches, "gas": operation_gas(contract)}, indent=1) + "\n"


def table(figures: str) -> str:
    """Return the tables of the documentation."""
    gas = json.loads(figures)
    lines = ["| batch | first | later | next |", "|---|---|---|---|"]
    for name, used in gas["gas_per_claim"].items():
        lines.append(f"| {name} | {used['first']:,} | {used['later']:,} | {used['next']:,} |")
    lines += ["", "| operation | gas |", "|---|---|"]
    lines += [f"| {name} | {used:,} |" for name, used in gas["gas"].items()]
    return "\n".join(lines) + "\n"


def with_table(document: str, figures: str) -> str:
    """Return the documentation with the tables between their marks."""
    before, _, rest = document.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{table(figures)}{END}{after}"


def main(arguments: list[str] | None = None) -> int:
    """Write the files, or check them."""
    parser = argparse.ArgumentParser(prog="script/contract", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is not what would be written")
    options = parser.parse_args(arguments)
    made = compile_artefact(SOURCE.read_bytes())
    if not options.check:
        figures = measure(made)
        OUTPUT.write_text(made, "utf-8")
        FIGURES.write_text(figures, "utf-8")
        DOCUMENT.write_text(with_table(DOCUMENT.read_text("utf-8"), figures), "utf-8")
        return 0
    stale: list[str] = []
    if not OUTPUT.exists() or OUTPUT.read_text("utf-8") != made:
        stale.append(OUTPUT.name)
    document = DOCUMENT.read_text("utf-8")
    if document != with_table(document, FIGURES.read_text("utf-8")):
        stale.append(DOCUMENT.name)
    if stale:
        print(f"{' and '.join(stale)}: not what {SOURCE.name} and vyper {vyper.__version__} give: run script/contract", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
