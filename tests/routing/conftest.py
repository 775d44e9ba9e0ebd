"""How many seeds the simulations of paths are run with."""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.fixture(params=["few", pytest.param("many", marks=pytest.mark.slow)])
def seeds(request: pytest.FixtureRequest) -> Callable[[int], range]:
    """A range of so many seeds in the slow run, of a fifth in the quick one."""
    share = 5 if request.param == "few" else 1
    return lambda count: range(max(2, count // share))
