"""The whitepaper's example, computed by hand here and by the contract there: every amount, to the last unit.

0.50 USD a GB at 0.05 USD a token are 10 tokens, 10,000,000 microtokens. Three relays ask the same, as far as whole units allow:
3,333,334 + 3,333,333 + 3,333,333. The fee of 1 % is 100,000, so 9,900,000 are shared in proportion to the prices. The second and the third
get 9,900,000 * 3,333,333 / 10,000,000 = 3,299,999.67, rounded down; the first the rest, 9,900,000 - 2 * 3,299,999 = 3,300,002.
A quarter of the fee is 25,000: three validators get 8,333 each, and 1 is left. The other 75,000 go to the only wallet with votes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from srwan.ledger_client.settlement.deploy import FEE_BPS_DEFAULT
from srwan.ledger_client.settlement.terms import price_of, shares_of

ROOT = Path(__file__).parent.parent
SUPPLY = 1_000_000_000_000


@pytest.fixture(scope="module")
def story() -> dict[str, Any]:
    command = [sys.executable, str(ROOT / "examples" / "one_gigabyte.py"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (0, "") == (done.returncode, done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_gigabyte_is_ticketed_eight_megabytes_at_a_time(story: dict[str, Any]) -> None:
    assert (125, 1_000_000_000, 10_000_000) == (story["tickets"], story["octets"], story["owed"])


def test_the_consumer_pays_ten_tokens_once(story: dict[str, Any]) -> None:
    assert (10_000_000, 0, 0) == (story["paid"], story["paid_again"], story["balances"]["consumer"])
    assert 0 == story["returned"]


def test_each_relay_earns_its_share_of_what_the_fee_leaves(story: dict[str, Any]) -> None:
    assert {"relay 1": 3_300_002, "relay 2": 3_299_999, "relay 3": 3_299_999} == story["earned"]
    assert 10_000_000 - 100_000 == sum(story["earned"].values())


def test_a_quarter_of_the_fee_is_the_validators_and_three_the_voters(story: dict[str, Any]) -> None:
    assert (100, 100_000) == (story["fee_bps"], story["fee"])
    assert (25_000, 75_000) == (story["validator_pool"], story["dividend_pool"])
    assert (24_999, 75_000) == (story["to_validators"], story["to_voters"])


def test_every_unit_is_somewhere_and_none_is_new(story: dict[str, Any]) -> None:
    expected = {
        "holder": SUPPLY - 10_000_000 + 75_000,
        "consumer": 0,
        "relay 1": 3_300_002,
        "relay 2": 3_299_999,
        "relay 3": 3_299_999,
        "validator 1": 8_333,
        "validator 2": 8_333,
        "validator 3": 8_333,
    }
    assert expected == story["balances"]
    assert 1 == story["left_in_pools"]
    assert SUPPLY == story["supply"] == sum(expected.values()) + 1
    assert story["conserved"]


def test_the_library_computes_what_the_contract_does() -> None:
    prices = (3_333_334, 3_333_333, 3_333_333)

    assert 100 == FEE_BPS_DEFAULT
    assert 10_000_000 == price_of(1_000_000_000, sum(prices))
    assert (3_300_002, 3_299_999, 3_299_999) == shares_of(9_900_000, prices)
