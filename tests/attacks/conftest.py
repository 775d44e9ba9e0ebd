"""What all attacks share: a market, an account of what the attacker gained, and the table of measured profits.

Profit is counted at list prices, in microtokens (`Holdings.profit_microtoken`): what the attacker owns after the attack, less what she
owned before, plus what the service is worth that she got, less what the service is worth that she gave.

`benchmarks/ledger_attacks.py` runs these tests with SRWAN_ATTACKS_JSON naming a file, into which the table goes at the end.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from srwan.testing.market import Market


class AttackTable:
    """The measured profits, one row an attack."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, object]] = {}

    def enter(self, attack: str, variant: str, profit_microtoken: int, request: pytest.FixtureRequest) -> None:
        """Note a variant; the row holds the greatest profit of all variants, for that is what an attacker would choose."""
        assert isinstance(request.node, pytest.Item)
        row = self.rows.setdefault(
            attack, {"attack": attack, "profit_microtoken": profit_microtoken, "variants": {}, "test": request.node.path.name}
        )
        variants = row["variants"]
        assert isinstance(variants, dict)
        variants[variant] = profit_microtoken
        row["profit_microtoken"] = max(variants.values())


@pytest.fixture(scope="session")
def attack_table() -> Iterator[AttackTable]:
    """Collects all rows, and writes them where SRWAN_ATTACKS_JSON says."""
    table = AttackTable()
    yield table
    if (path := os.environ.get("SRWAN_ATTACKS_JSON")) is not None:
        Path(path).write_text(json.dumps(list(table.rows.values())), "utf-8")


@pytest.fixture
def note(attack_table: AttackTable, request: pytest.FixtureRequest) -> Callable[[str, str, int], None]:
    """Notes a measured profit: `note(attack, variant, profit)`."""
    return lambda attack, variant, profit_microtoken: attack_table.enter(attack, variant, profit_microtoken, request)


@pytest.fixture
def enter(note: Callable[[str, str, int], None]) -> Callable[[str, str, int], None]:
    """Notes a profit and holds it against the bound: nobody may gain."""

    def enter(attack: str, variant: str, profit_microtoken: int) -> None:
        note(attack, variant, profit_microtoken)
        assert profit_microtoken <= 0, f"{attack}, {variant}: the attacker gains {profit_microtoken} microtokens"

    return enter


@pytest.fixture
async def market() -> AsyncIterator[Market]:
    """Honest consumer, three honest relays, an egress; a mallory with wallets, relays and an egress of her own; three validators."""
    made = await Market.open(
        wallets=("consumer", "mallory"),
        validators=3,
        quorum=2,
        routers=("consumer", "relay-1", "relay-2", "relay-3", "egress", "mallory", "mallory-1", "mallory-2", "mallory-egress"),
    )
    yield made
    await made.settlement.aclose()


@pytest.fixture
async def market_of_five() -> AsyncIterator[Market]:
    """The same with five validators and a quorum of three."""
    made = await Market.open(
        wallets=("consumer", "mallory"), routers=("relay-1", "relay-2", "relay-3", "egress", "mallory-1", "mallory-2", "mallory-egress")
    )
    yield made
    await made.settlement.aclose()
