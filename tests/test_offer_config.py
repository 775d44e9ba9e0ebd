"""The [offer] section: what a router asks, and what follows from it for its roles and its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from srwan.config import load_config, make_config
from srwan.errors import ConfigError
from srwan.offer_config import LocalWindow, OfferSettings, make_offer_settings, parse_local_window

FULL = """
[offer]
price_microtoken_per_gb = 10000000
windows = ["mon-fri 18:00-08:00", "sat-sun 00:00-24:00"]
time_zone = "America/Chicago"
premium = true
label = "Chicago - New York"
rate_kbps = 100000
day_octets = 1000000000000
saved_full_us = 20000
anonymous = true
bond_microtoken = 5000000
"""
WEEKDAYS, WEEKEND = frozenset(range(5)), frozenset({5, 6})


def test_every_key_reaches_its_setting(tmp_path: Path) -> None:
    file = tmp_path / "srwan.toml"
    file.write_text(FULL)
    expected = OfferSettings(
        price_microtoken_per_gb=10_000_000,
        windows=(LocalWindow(WEEKDAYS, 1080, 480), LocalWindow(WEEKEND, 0, 1440)),
        time_zone="America/Chicago",
        is_premium=True,
        label="Chicago - New York",
        rate_kbps=100_000,
        day_octets=10**12,
        saved_full_us=20_000,
        is_anonymous=True,
        bond_microtoken=5_000_000,
    )
    config = load_config(file)
    assert expected == config.offer
    assert (True, True, 100_000) == (config.carries, config.is_anonymous, config.relay_cap_kbps)


def test_without_the_section_a_router_carries_for_nothing_and_lists_no_offer() -> None:
    config = make_config()
    assert (None, True, False, None) == (config.offer, config.carries, config.is_anonymous, config.relay_cap_kbps)


@pytest.mark.parametrize("price", ["infinity", "infinite", float("inf")])
def test_an_infinite_price_takes_the_relay_role_away(price: object) -> None:
    config = make_config(offer={"price_microtoken_per_gb": price})
    assert (False, True) == (config.carries, config.is_relay)
    assert config.offer is not None
    assert None is config.offer.price_microtoken_per_gb


def test_settings_may_be_given_as_their_class() -> None:
    assert OfferSettings(price_microtoken_per_gb=5) == make_config(offer=OfferSettings(price_microtoken_per_gb=5)).offer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("22:00-06:00", LocalWindow(frozenset(range(7)), 1320, 360)),
        ("sun 00:00-24:00", LocalWindow(frozenset({6}), 0, 1440)),
        ("sat-mon 08:30-09:00", LocalWindow(frozenset({5, 6, 0}), 510, 540)),
        ("fri 18:00-00:00", LocalWindow(frozenset({4}), 1080, 1440)),
        ("mon-mon 01:00-02:00", LocalWindow(frozenset({0}), 60, 120)),
    ],
)
def test_windows_are_read(text: str, expected: LocalWindow) -> None:
    assert expected == parse_local_window(text)


@pytest.mark.parametrize(
    "text", ["", "mon", "mon-fri", "8:00-9:00", "24:00-01:00", "08:60-09:00", "25:00-26:00", "08:00-08:00", "xyz 08:00-09:00"]
)
def test_other_words_are_no_windows(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not DAY-DAY|is no time|begins at midnight"):
        parse_local_window(text)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (
            {"price_microtoken_per_gb": -1},
            r"offer\.price_microtoken_per_gb: -1 is out of range; give an integer in 0\.\.10+ or \"infinity\"",
        ),
        ({"price_microtoken_per_gb": 1.5}, r"offer\.price_microtoken_per_gb"),
        ({"price_microtoken_per_gb": True}, r"offer\.price_microtoken_per_gb"),
        ({"price_microtoken_per_gb": 10**18 + 1}, r"offer\.price_microtoken_per_gb"),
        ({"windows": ["late"]}, r"offer\.windows: is not usable \('late' is not"),
        ({"windows": ["08:00-09:00"] * 33}, r"offer\.windows: 33 entries"),
        ({"time_zone": "../etc/passwd"}, r"offer\.time_zone"),
        ({"time_zone": 5}, r"offer\.time_zone"),
        ({"premium": 1}, r"offer\.premium: 1 is not usable; give true or false"),
        ({"label": "x" * 65}, r"offer\.label"),
        ({"rate_kbps": 2**32}, r"offer\.rate_kbps"),
        ({"saved_full_us": -1}, r"offer\.saved_full_us"),
        ({"anonymous": True}, r"offer\.bond_microtoken: is not given with offer\.anonymous"),
        ({"price_microtoken_per_gb": "infinity", "windows": ["08:00-09:00"]}, r"offer\.windows: are given with an infinite price"),
    ],
)
def test_a_wrong_value_is_named(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        make_offer_settings(values)
