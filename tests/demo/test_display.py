"""What the table says of a router."""

from __future__ import annotations

from typing import Any

import pytest

from srwan.demo.display import _activity

NAMED: dict[str, Any] = {"name": "tokyo"}


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, "starting"),
        ({"ViewChanged": {}}, "joined"),
        ({"ViewChanged": {}, "ReportPublished": {"node_id": "paris"}}, "joined"),
        ({"ViewChanged": {}, "ReportPublished": {"node_id": "tokyo"}}, "reporter"),
        ({"path_open": {}}, "sends direct"),
        ({"path_open": {}, "PathSwitched": {"to_relays": ["paris"]}}, "sends via paris"),
        ({"path_open": {}, "PathSwitched": {"to_relays": []}}, "sends direct"),
        ({"path_open": {}, "stream_ended": {}, "ViewChanged": {}}, "joined"),
        ({"exit": {"code": -9}}, "[red]ended[/]"),
        ({"exit": {"code": 0}}, "stopped"),
    ],
)
def test_the_table_says_what_a_router_does_now(facts: dict[str, Any], expected: str) -> None:
    assert expected == _activity(NAMED | facts)
