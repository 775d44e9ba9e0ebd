"""What the settlement contract costs in gas, against the aim of 40,000 per claim in a batch of 50 consumers over three relays each.

    python benchmarks/ledger_gas.py [--json]

Gas is deterministic, so there is no spread: figures are of one execution on the EVM of py-evm, Prague fork. What first, later, next,
shared and distinct mean says `srwan.testing.settlement_gas`; the peer in the same run is the cheapest thing an EVM does, a transfer of
its own coin (21,000 gas), and the bound of a claim is what no contract could avoid, its calldata aside: one recovery of a signature and one
changed word of storage each for the session and every relay that no other claim of the batch names.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from srwan.testing.settlement_gas import BATCHES, batch_gas, batch_name, calldata_octets, operation_gas

GAS_PER_CLAIM_MAX = 40_000
AIM = "50 claims, 3 relays, distinct"
TRANSFER_GAS = 21_000
WORD_GAS = 5_000
"""A cold word of storage read and changed, EIP-2929."""
RECOVERY_GAS = 3_000


def run(options: argparse.Namespace | None = None) -> dict[str, Any]:
    """Measure. `options` is not used: there is nothing to choose."""
    del options
    batches = {
        batch_name(claims, relays, is_shared=is_shared): batch_gas(claims, relays, is_shared=is_shared)
        for claims, relays, is_shared in BATCHES
    }
    aim = batches[AIM]
    return {
        "gas_per_claim": batches,
        "gas": operation_gas(),
        "calldata_octets": {f"{claims} claims, 3 relays": calldata_octets(claims, 3) for claims in (1, 10, 50)},
        "aim": {"what": AIM, "max": GAS_PER_CLAIM_MAX, "later": aim["later"], "next": aim["next"], "first": aim["first"]},
        "aim_met": max(aim["later"], aim["next"]) <= GAS_PER_CLAIM_MAX,
        "bound_gas_per_claim": {f"{relays} relays": RECOVERY_GAS + WORD_GAS * (1 + relays) for relays in (1, 3)},
        "peer_gas": {"transfer of the chain's own coin": TRANSFER_GAS},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    result = run(options)
    if options.json:
        print(json.dumps(result, indent=1))
        return 0
    for name, gas in result["gas_per_claim"].items():
        print(f"{name:34} first {gas['first']:>8,} later {gas['later']:>8,} next {gas['next']:>8,} gas per claim")
    for name, used in result["gas"].items():
        print(f"{name:34} {used:>10,} gas")
    print(f"aim {result['aim']}: {'met' if result['aim_met'] else 'MISSED'}; bound {result['bound_gas_per_claim']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
