"""Settings of money, the `[settlement]` and `[wallet]` sections: which engine settles, and where the key of this router's wallet lies.

Without `settlement.url` a router neither pays nor charges. The checks here need no network and no key; whether the engine answers, is on
the chain and holds the contract that the settings name is found out when it is opened (`srwan.engines`).

A URL may hold an access key of the node's provider: only its scheme and host are ever shown.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from srwan.errors import ConfigError
from srwan.setting import path_of

__all__ = [
    "EMBEDDED",
    "SETTLEMENT_KEYS",
    "WALLET_KEYS",
    "SettlementSettings",
    "WalletSettings",
    "conceal_url",
    "settlement_settings",
    "wallet_settings",
]

EMBEDDED = "embedded"
"""The URL of the engine inside this process."""
CHAIN_ID_MAX = 2**53 - 1
"""What every node and every wallet can write as a number (EIP-2294 asks for less than 2**63; JSON is exact to here)."""
CONFIRMATIONS_MAX = 1000
URL_CHARACTERS_MAX = 512
_CONTRACT = re.compile(r"0x[0-9a-fA-F]{40}")


def conceal_url(url: str) -> str:
    """Return what may be shown of a URL: scheme, host and port, without user, path and query."""
    if "//" not in url:
        return url
    scheme, _, rest = url.partition("//")
    return f"{scheme}//{re.split('[/?#]', rest, maxsplit=1)[0].rpartition('@')[2]}"


def _shown(url: object) -> str:
    return repr(conceal_url(str(url)))


@attrs.frozen(slots=True, kw_only=True)
class SettlementSettings:
    """The `[settlement]` section. Make one with `settlement_settings`, which checks it."""

    url: str = attrs.field(default="", repr=_shown)
    """settlement.url: "embedded", the http(s) URL of an EVM node, or empty: nothing is paid or charged."""
    contract: str = ""
    """settlement.contract: address of the contract on that node, 0x and 40 hexadecimal digits; empty for the embedded engine."""
    chain_id: int = 0
    """settlement.chain_id: EIP-155 id of the chain that the node must be on; 0 for the embedded engine."""
    confirmations: int = 12
    """settlement.confirmations: blocks from that of a transaction to the last, both counted, before it counts as taken, 1..1000, or
    until the node calls it final; an embedded engine needs none."""
    journal: Path | None = None
    """settlement.journal: file of the embedded engine's state, or of transactions on their way to a node; None: in state_dir."""

    @property
    def is_enabled(self) -> bool:
        """Whether there is an engine at all."""
        return bool(self.url)

    @property
    def is_embedded(self) -> bool:
        """Whether it is the one inside this process."""
        return self.url == EMBEDDED


@attrs.frozen(slots=True, kw_only=True)
class WalletSettings:
    """The `[wallet]` section. Make one with `wallet_settings`, which checks it."""

    keystore: Path | None = None
    """wallet.keystore: the encrypted key file; None: wallet.json in state_dir."""
    passphrase_file: Path | None = None
    """wallet.passphrase_file: the passphrase of it, mode 0600; None: asked for at the terminal."""


def settlement_settings(values: Mapping[str, Any]) -> SettlementSettings:
    """Check the values of a `[settlement]` section, keys without "settlement.".

    Raises:
        ConfigError: an unknown key, a value out of its range, or two that contradict each other.
    """
    settings = SettlementSettings(**_checked("settlement", values, _SETTLEMENT))
    is_remote = settings.is_enabled and not settings.is_embedded
    for key, value in (("contract", settings.contract), ("chain_id", settings.chain_id)):
        if is_remote and not value:
            raise ConfigError(f"settlement.{key}", "is missing", f"a node at a URL needs it, so that money is not sent to another {key}")
        if value and not is_remote:
            raise ConfigError(f"settlement.{key}", f"{value!r} is only for a node at a URL", "remove it, or set settlement.url to the URL")
    return settings


def wallet_settings(values: Mapping[str, Any]) -> WalletSettings:
    """Check the values of a `[wallet]` section, keys without "wallet.".

    Raises:
        ConfigError: an unknown key, or a value that is no path.
    """
    return WalletSettings(**_checked("wallet", values, _WALLET))


def _checked(section: str, values: Mapping[str, Any], checks: Mapping[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{section}.{name}"
        if name not in checks:
            raise ConfigError(key, "there is no such setting", f"known are {', '.join(f'{section}.{each}' for each in checks)}")
        fields[name] = checks[name](key, value)
    return fields


def _url(key: str, value: Any) -> str:
    remedy = 'give "embedded", or the URL of an EVM node, as "http://127.0.0.1:8545"'
    if value in ("", EMBEDDED):
        return str(value)
    if not isinstance(value, str) or len(value) > URL_CHARACTERS_MAX or not (value.isascii() and value.isprintable()) or " " in value:
        raise ConfigError(key, "the value is not usable", remedy)
    try:
        parts = urllib.parse.urlsplit(value)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_usable = False
    if not is_usable:
        raise ConfigError(key, f"{conceal_url(value)[:60]!r} is not usable", remedy)
    return value


def _contract(key: str, value: Any) -> str:
    if value == "" or (isinstance(value, str) and _CONTRACT.fullmatch(value)):
        return str(value)
    raise ConfigError(key, f"{value!r} is not usable", "give 0x and 40 hexadecimal digits, as whoever deployed the contract tells them")


def _whole(value_max: int, value_min: int = 0) -> Any:
    def check(key: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not value_min <= value <= value_max:
            raise ConfigError(key, f"{value!r} is out of range", f"give a whole number in {value_min}..{value_max}")
        return value

    return check


_SETTLEMENT: dict[str, Any] = {
    "url": _url,
    "contract": _contract,
    "chain_id": _whole(CHAIN_ID_MAX),
    "confirmations": _whole(CONFIRMATIONS_MAX, 1),
    "journal": path_of,
}
_WALLET: dict[str, Any] = {"keystore": path_of, "passphrase_file": path_of}
SETTLEMENT_KEYS = tuple(f"settlement.{key}" for key in _SETTLEMENT)
"""Keys of the section, dotted."""
WALLET_KEYS = tuple(f"wallet.{key}" for key in _WALLET)
"""Keys of the section, dotted."""
