"""One deployed contract for a whole module, put back to its first state before each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from srwan.testing.settlement_bench import SettlementBench


@pytest.fixture(scope="module")
def deployed() -> SettlementBench:
    return SettlementBench()


@pytest.fixture
def bench(deployed: SettlementBench) -> Iterator[SettlementBench]:
    """Five validators, a quorum of three, a fee of 1 %, windows of an hour."""
    snapshot = deployed.chain.snapshot()
    yield deployed
    deployed.chain.revert(snapshot)
