"""What operations cost, to the last unit: a change of the contract that makes one dearer is seen, and said in docs/settlement.md.

After a change that is meant: `script/contract` writes the figures and the table anew.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from srwan.testing.settlement_gas import BATCHES, batch_gas, batch_name, operation_gas

GAS_PER_CLAIM_MAX = 40_000
"""Aim for a batch of 50 consumers, each over three relays, after the first of a wallet's life."""


@pytest.fixture(scope="module")
def known() -> Any:
    return json.loads((Path(__file__).parents[2] / "data" / "settlement_gas.json").read_text())


def test_every_operation_costs_what_the_table_says(known: Any) -> None:
    assert known["gas"] == operation_gas()


@pytest.mark.parametrize(("claims", "relays", "is_shared"), [batch for batch in BATCHES if batch[0] < 50])
def test_a_claim_costs_what_the_table_says(known: Any, claims: int, relays: int, is_shared: bool) -> None:
    assert known["gas_per_claim"][batch_name(claims, relays, is_shared=is_shared)] == batch_gas(claims, relays, is_shared=is_shared)


def test_a_claim_among_fifty_over_distinct_relays_stays_below_the_aim(known: Any) -> None:
    """Fifty consumers, 150 relays."""
    gas = batch_gas(50, 3, is_shared=False)

    assert known["gas_per_claim"][batch_name(50, 3, is_shared=False)] == gas
    assert max(gas["later"], gas["next"]) <= GAS_PER_CLAIM_MAX


@pytest.mark.slow
@pytest.mark.parametrize(("claims", "relays", "is_shared"), [batch for batch in BATCHES if batch[0] == 50])
def test_a_claim_of_a_large_batch_costs_what_the_table_says(known: Any, claims: int, relays: int, is_shared: bool) -> None:
    assert known["gas_per_claim"][batch_name(claims, relays, is_shared=is_shared)] == batch_gas(claims, relays, is_shared=is_shared)
