"""Settings of what this router asks for carrying others' packets: the `[offer]` section.

Time windows are written in local hours of one time zone, "mon-fri 18:00-08:00"; one that ends no later than it begins ends on the next day.
When they are in universal time is for `srwan.ledger_client.market.zones` to say, for it depends on the date.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from srwan.errors import ConfigError
from srwan.setting import Checks, checked_fields, flag_of, items_of

__all__ = ["DAY_MINUTES", "OFFER_KEYS", "LocalWindow", "OfferSettings", "make_offer_settings", "parse_local_window"]

PRICE_MICROTOKEN_MAX = 10**18
WINDOWS_MAX = 32
LABEL_CHARACTERS_MAX = 64
DAY_MINUTES = 24 * 60
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_WINDOW = re.compile(r"(?:(?P<first>[a-z]{3})(?:-(?P<last>[a-z]{3}))? +)?(?P<start>\d\d:\d\d)-(?P<end>\d\d:\d\d)")


@attrs.frozen(slots=True)
class LocalWindow:
    """A daily time window in local hours."""

    days: frozenset[int]
    """On which it begins, 0 = Monday."""
    start_minute: int
    """Minute of the local day, 0..1439."""
    end_minute: int
    """Minute of the local day, 1..1440; not after start_minute: it ends on the next day."""


def _minute(text: str) -> int:
    hours, minutes = (int(part) for part in text.split(":"))
    if minutes > 59 or hours * 60 + minutes > DAY_MINUTES:
        raise ValueError(f"{text} is no time of the day")
    return hours * 60 + minutes


def parse_local_window(text: str) -> LocalWindow:
    """Return the window in "mon-fri 18:00-08:00", "sun 00:00-24:00" or "22:00-06:00" (every day).

    Raises:
        ValueError: it is none.
    """
    match = _WINDOW.fullmatch(text)
    if match is None or not all(name in (None, *DAYS) for name in (match["first"], match["last"])):
        raise ValueError(f"{text!r} is not DAY-DAY HH:MM-HH:MM")
    first = 0 if match["first"] is None else DAYS.index(match["first"])
    last = 6 if match["first"] is None else first if match["last"] is None else DAYS.index(match["last"])
    start, end = _minute(match["start"]), _minute(match["end"])
    if start in (DAY_MINUTES, end):
        raise ValueError(f"{text!r} begins at midnight's end, or ends when it begins")
    return LocalWindow(frozenset(day % 7 for day in range(first, last + 1 if last >= first else last + 8)), start, end or DAY_MINUTES)


@attrs.frozen(slots=True, kw_only=True)
class OfferSettings:
    """What this router asks for. Make one with `srwan.config.make_config` or `load_config`, which check it."""

    price_microtoken_per_gb: int | None = 0
    """offer.price_microtoken_per_gb: price of one GB, microtokens, 0..10^18; None ("infinity") = observe and buy, never carry."""
    windows: tuple[LocalWindow, ...] = ()
    """offer.windows: when sessions may run, in local hours; empty = always."""
    time_zone: str = "UTC"
    """offer.time_zone: IANA name of the zone of the windows."""
    is_premium: bool = False
    """offer.premium: a commercial segment."""
    label: str = ""
    """offer.label: for humans, up to 64 characters."""
    rate_kbps: int = 0
    """offer.rate_kbps: what is carried for others together, kbit/s; 0 = whatever comes."""
    day_octets: int = 0
    """offer.day_octets: octets a day after which no session is accepted; 0 = whatever comes."""
    saved_full_us: int = 0
    """offer.saved_full_us: verified latency saved from which the full price is due, us; 0 = always."""
    is_anonymous: bool = False
    """offer.anonymous: no name and no place are told; the wallet's escrow stands for them."""
    bond_microtoken: int = 0
    """offer.bond_microtoken: what the wallet vouches with, microtokens; needed with anonymous."""

    @property
    def carries(self) -> bool:
        """Whether this router carries for others at any price."""
        return self.price_microtoken_per_gb is not None


def make_offer_settings(values: Mapping[str, Any]) -> OfferSettings:
    """Check the values of an `[offer]` section, keys without "offer.".

    Raises:
        ConfigError: a value out of its range, or two that contradict each other. Unknown keys are the caller's to refuse.
    """
    settings = OfferSettings(**checked_fields("offer", values, _FIELDS))
    if settings.is_anonymous and not settings.bond_microtoken:
        raise ConfigError("offer.bond_microtoken", "is not given with offer.anonymous", "say how much of the escrow stands for the name")
    if not settings.carries and settings.windows:
        raise ConfigError("offer.windows", "are given with an infinite price", "a router that never carries has no hours; leave one out")
    return settings


def _price(key: str, value: Any) -> int | None:
    if value in ("infinity", "infinite") or value == float("inf"):
        return None
    return _count(PRICE_MICROTOKEN_MAX, ' or "infinity"')(key, value)


def _count(high: int, words: str = "") -> Callable[[str, Any], int]:
    def check(key: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= high:
            raise ConfigError(key, f"{value!r} is out of range", f"give an integer in 0..{high}{words}")
        return value

    return check


def _windows(key: str, value: Any) -> tuple[LocalWindow, ...]:
    items = items_of(key, value, WINDOWS_MAX)
    try:
        return tuple(item if isinstance(item, LocalWindow) else parse_local_window(str(item)) for item in items)
    except ValueError as error:
        raise ConfigError(key, f"is not usable ({error})", 'give windows like "mon-fri 18:00-08:00"') from None


def _zone(key: str, value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+){0,2}", value):
        raise ConfigError(key, f"{value!r} is not usable", 'give the IANA name of a time zone, like "America/Chicago"')
    return value


def _label(key: str, value: Any) -> str:
    if not isinstance(value, str) or len(value) > LABEL_CHARACTERS_MAX or not (value.isascii() and (value.isprintable() or not value)):
        raise ConfigError(key, f"{value!r} is not usable", f"give up to {LABEL_CHARACTERS_MAX} printable ASCII characters")
    return value


_FIELDS: Checks = {
    "price_microtoken_per_gb": ("price_microtoken_per_gb", _price),
    "windows": ("windows", _windows),
    "time_zone": ("time_zone", _zone),
    "premium": ("is_premium", flag_of),
    "label": ("label", _label),
    "rate_kbps": ("rate_kbps", _count(2**32 - 1)),
    "day_octets": ("day_octets", _count(2**63 - 1)),
    "saved_full_us": ("saved_full_us", _count(10**9)),
    "anonymous": ("is_anonymous", flag_of),
    "bond_microtoken": ("bond_microtoken", _count(2**63 - 1)),
}
OFFER_KEYS = tuple(f"offer.{key}" for key in _FIELDS)
"""Keys of the section, dotted."""
