from __future__ import annotations

from typing import Any

import attrs
import pytest

from srwan.errors import ConfigError
from srwan.routing.policy import PathPolicy
from srwan.types import NodeId

A, B, C, D = (NodeId(bytes([number]) * 32) for number in range(1, 5))


def test_defaults_are_valid_and_immutable() -> None:
    policy = PathPolicy()
    assert (10.0, 10.0, 3.0, 5.0, 1, 2, 0.2) == (
        policy.enter_ms,
        policy.switch_ms,
        policy.leave_ms,
        policy.spread_ms,
        policy.relays_max,
        policy.standbys,
        policy.keepalive_s,
    )
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        policy.enter_ms = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("enter_ms", 0.0, "policy.enter_ms: is 0.0; use a number from 0.1 to 10000 ms"),
        ("enter_ms", float("nan"), "policy.enter_ms: is nan; use a number from 0.1 to 10000 ms"),
        ("switch_ms", -1, "policy.switch_ms: is -1; use a number from 0.1 to 10000 ms"),
        ("spread_ms", "5", "policy.spread_ms: is '5'; use a number from 0 to 10000 ms"),
        ("risk_weight", 11, "policy.risk_weight: is 11; use a number from 0 to 10"),
        ("relays_max", 4, "policy.relays_max: is 4; use an integer from 0 to 3"),
        ("relays_max", 1.0, "policy.relays_max: is 1.0; use an integer from 0 to 3"),
        ("standbys", True, "policy.standbys: is True; use an integer from 0 to 8"),
        ("keepalive_s", 0.001, "policy.keepalive_s: is 0.001; use a number from 0.02 to 10 s"),
        ("leave_ms", 10.0, "policy.leave_ms: is 10.0; use less than policy.enter_ms, 10 ms"),
        ("dead_after", 2, "policy.dead_after: is 2; use more than policy.suspect_after, 2"),
        ("via", (A, B, C, D), "policy.via: names 4 nodes; use 0 to 3 nodes"),
        ("via", (A, A), "policy.via: names a node twice; visit each relay once"),
        ("via", (b"x",), "policy.via: holds b'x'; use NodeIds of 32 bytes"),
    ],
)
def test_error_names_key_value_and_range(key: str, value: Any, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        PathPolicy(**{key: value})
    assert expected == str(caught.value)
    assert f"policy.{key}" == caught.value.key


def test_a_forced_relay_must_not_be_avoided() -> None:
    with pytest.raises(ConfigError, match=r"out of policy\.avoid"):
        PathPolicy(via=(A,), avoid=frozenset({A}))


def test_lists_are_taken_for_avoid_and_via() -> None:
    policy = PathPolicy(avoid=[A, B], via=[C])
    assert (frozenset({A, B}), (C,)) == (policy.avoid, policy.via)
