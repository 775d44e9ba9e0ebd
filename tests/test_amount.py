"""Amounts: exact, and refused rather than rounded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srwan.amount import AMOUNT_MICROTOKEN_MAX, format_tokens, parse_amount


@pytest.mark.parametrize(
    ("text", "microtoken"),
    [
        ("0", 0),
        ("1", 1_000_000),
        ("1.5", 1_500_000),
        ("0.1", 100_000),
        ("0.000001", 1),
        (" 10 tokens ", 10_000_000),
        ("1 token", 1_000_000),
        ("007.50", 7_500_000),
        ("1500000u", 1_500_000),
        ("1 microtoken", 1),
        ("0u", 0),
        (f"{2**128 - 1}u", 2**128 - 1),
        ("340282366920938463463374607431768.211455", 2**128 - 1),
    ],
)
def test_an_amount_is_read_to_the_last_microtoken(text: str, microtoken: int) -> None:
    assert microtoken == parse_amount(text)


@pytest.mark.parametrize(
    "text",
    ["", "-1", "+1", "1e3", "1.5u", "0.0000001", ".5", "5.", "1,5", "1_000", "0x10", "nan", "inf", "\u0661", "1 2", "1.5 USD", "9" * 5000],
)
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no amount"):
        parse_amount(text)


@pytest.mark.parametrize("text", [f"{2**128}u", "340282366920938463463374607431768.211456", "9" * 39])
def test_more_than_the_contract_can_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="more than there can be"):
        parse_amount(text)


@given(st.integers(0, AMOUNT_MICROTOKEN_MAX))
def test_what_is_written_is_read_back(microtoken: int) -> None:
    assert microtoken == parse_amount(format_tokens(microtoken)) == parse_amount(f"{microtoken}u")


def test_a_negative_amount_can_be_shown() -> None:
    assert ("-0.5", "-2") == (format_tokens(-500_000), format_tokens(-2_000_000))
