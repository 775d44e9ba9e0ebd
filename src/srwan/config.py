"""A node's settings: one TOML file or keyword arguments, checked before anything is started.

Every field is a dotted key of the file (`[pulse] period_s = 10.0` is `pulse.period_s`) and has a range; a bad value raises `ConfigError`
naming the key, the value and the range. Unknown keys are errors, with the nearest known key as a hint.
"""

from __future__ import annotations

import difflib
import ipaddress
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from srwan.errors import ConfigError
from srwan.kernel_config import KERNEL_KEYS, KernelSettings, kernel_settings
from srwan.offer_config import OFFER_KEYS, OfferSettings, make_offer_settings
from srwan.setting import flag_of, path_of
from srwan.settlement_config import SETTLEMENT_KEYS, WALLET_KEYS, SettlementSettings, WalletSettings, settlement_settings, wallet_settings
from srwan.tun_config import TUN_KEYS, TunConfig, make_tun_config
from srwan.types import GeoAsn, UdpAddress

__all__ = ["NodeConfig", "load_config", "make_config", "parse_address"]

CONFIG_BYTES_MAX = 64 * 1024
NAME_CHARACTERS_MAX = 32
DATA_PLANES = ("auto", "portable", "native")


def parse_address(text: str) -> UdpAddress:
    """Return the address in "192.0.2.1:4710" or "[2001:db8::1]:4710".

    Raises:
        ValueError: no numeric IP address and port 0..65535. Host names are not resolved: an address is announced to others.
    """
    host, separator, port = text.rpartition(":")
    if not separator or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{text!r} is not ADDRESS:PORT")
    return str(ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))), int(port)


@attrs.frozen(kw_only=True)
class NodeConfig:
    """All settings of a node. Make one with `load_config` or `make_config`, which check it."""

    network: str = "srwan"
    """Routers of one network form groups with each other; 1..64 printable ASCII characters."""
    name: str = ""
    """Label others see, up to 32 printable ASCII characters. Not unique, not trusted."""
    state_dir: Path | None = None
    """Folder of the identity, the address book and the DITEX file. None: keep nothing, a new identity each start."""
    udp: tuple[UdpAddress, ...] = (("0.0.0.0", 4710),)  # noqa: S104 - a router listens for routers anywhere
    """Addresses of the pulse and data sockets, 1..4. Port 0: chosen by the system."""
    control: UdpAddress = ("0.0.0.0", 4710)  # noqa: S104
    """TCP address of the bootstrap and control plane (libp2p)."""
    announce: tuple[str, ...] = ()
    """IP addresses told to others, for hosts that listen on all interfaces. Empty: the address of the route to the first bootstrap."""
    bootstrap: tuple[str, ...] = ()
    """libp2p multiaddrs with /p2p/..., of any routers of the network. Empty: start a network of one's own."""
    location: GeoAsn = attrs.field(factory=GeoAsn)
    """Declared position and AS: keys location.country, location.lat, location.lon (degrees), location.asn."""
    is_relay: bool = True
    """roles.relay: carry others' packets."""
    is_introducer: bool = True
    """roles.introducer: let newcomers join through this node."""
    pulse_period_s: float = 10.0
    """pulse.period_s, 0.5..60: how often state and latencies are told to the group (whitepaper 3.2)."""
    report_interval_s: float = 10.0
    """report.interval_s, 1..60: how often the reporter publishes the group's matrix."""
    data_plane: str = "auto"
    """What moves packets: "native" (the C extension), "portable", or "auto": native where it was built."""
    lone_after_s: float = 6.0
    """join.lone_after_s, 0..300: how long to look for a group before founding one."""
    ditex: Path | str | None = None
    """ditex.path: SQLite file of the record store, or "etcd:URL,URL,..." for a cluster. None: state_dir/ditex.sqlite, or no store without
    state_dir."""

    ditex_peers: tuple[str, ...] = ()
    """ditex.peers: multiaddrs with /p2p/... of other operators' DITEX servers, up to 32, with which the store is kept equal."""
    is_ditex_served: bool = False
    """ditex.serve: let others keep their stores equal with this one. Implied by ditex.peers."""

    tun: TunConfig = attrs.field(factory=TunConfig)
    """The TUN gateway: keys tun.enabled, tun.name, tun.addresses, tun.routes, tun.announce, tun.host, tun.via,
    tun.mtu, tun.mss_clamp."""

    kernel: KernelSettings = attrs.field(factory=KernelSettings)
    """The kernel data plane: the keys of `srwan.kernel_config`."""

    offer: OfferSettings | None = None
    """What this router asks for carrying others' packets: the keys of `srwan.offer_config`. None: it carries for nothing."""

    settlement: SettlementSettings = attrs.field(factory=SettlementSettings)
    """The engine that settles: keys settlement.url, settlement.contract, settlement.chain_id, settlement.confirmations,
    settlement.journal."""

    wallet: WalletSettings = attrs.field(factory=WalletSettings)
    """The wallet of this router: keys wallet.keystore, wallet.passphrase_file."""

    @property
    def ditex_where(self) -> str | None:
        """Where the record store is, as `open_store_at` takes it; None for none."""
        if self.ditex is not None:
            return str(self.ditex)
        return None if self.state_dir is None else str(self.state_dir / "ditex.sqlite")

    @property
    def carries(self) -> bool:
        """Whether this router relays: roles.relay, unless the price is infinite."""
        return self.is_relay and (self.offer is None or self.offer.carries)

    @property
    def is_anonymous(self) -> bool:
        """Whether others are told neither name nor place."""
        return self.offer is not None and self.offer.is_anonymous

    @property
    def relay_cap_kbps(self) -> int | None:
        """What it is willing to carry for others, kbit/s; None = whatever comes."""
        return None if self.offer is None else self.offer.rate_kbps or None

    @property
    def wallet_path(self) -> Path | None:
        """Where the key file of the wallet lies, or None for none."""
        if self.wallet.keystore is not None:
            return self.wallet.keystore
        return None if self.state_dir is None else self.state_dir / "wallet.json"

    @property
    def settlement_journal_path(self) -> Path | None:
        """Where the embedded engine keeps its state, or transactions on their way to a node; None for memory only."""
        if self.settlement.journal is not None:
            return self.settlement.journal
        name = "settlement.journal" if self.settlement.is_embedded else "settlement.outbox"  # both may lie in one folder
        return None if self.state_dir is None else self.state_dir / name

    @property
    def accounting_journal_path(self) -> Path | None:
        """Where sessions and tickets are kept, or None for none."""
        return None if self.state_dir is None else self.state_dir / "accounting.journal"


def _text(key: str, value: Any, *, characters_min: int, characters_max: int) -> str:
    if not isinstance(value, str) or not characters_min <= len(value) <= characters_max or not (value.isascii() and value.isprintable()):
        raise ConfigError(key, f"{value!r} is not usable", f"give {characters_min}..{characters_max} printable ASCII characters")
    return value


def _data_plane(key: str, value: Any) -> str:
    if value not in DATA_PLANES:
        raise ConfigError(key, f"{value!r} is not usable", f"give one of {', '.join(DATA_PLANES)}")
    return str(value)


def _number(key: str, value: Any, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ConfigError(key, f"{value!r} is out of range", f"give a number in {low:g}..{high:g}")
    return float(value)


def _store(key: str, value: Any) -> Path | str | None:
    return value if isinstance(value, str) and value.startswith("etcd:") else path_of(key, value)


def _address(key: str, value: Any) -> UdpAddress:
    text = f"[{value[0]}]:{value[1]}" if isinstance(value, tuple) and len(value) == 2 else value
    try:
        return parse_address(str(text))
    except ValueError:
        raise ConfigError(key, f"{value!r} is not usable", 'give "ADDRESS:PORT" with a numeric IP address') from None


def _addresses(key: str, value: Any) -> tuple[UdpAddress, ...]:
    if isinstance(value, str) or (isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], int)):
        value = [value]
    if not isinstance(value, (list, tuple)) or not 1 <= len(value) <= 4:
        raise ConfigError(key, f"{value!r} is not usable", "give a list of 1..4 addresses")
    return tuple(_address(key, item) for item in value)


def _announce(key: str, value: Any) -> tuple[str, ...]:
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)) or len(items) > 4:
        raise ConfigError(key, f"{value!r} is not usable", "give a list of up to 4 IP addresses")
    try:
        return tuple(str(ipaddress.ip_address(item)) for item in items)
    except ValueError:
        raise ConfigError(key, f"{value!r} is not usable", "give numeric IP addresses, without ports") from None


def _bootstrap(key: str, value: Any) -> tuple[str, ...]:
    items = [value] if isinstance(value, str) else value
    is_usable = isinstance(items, (list, tuple)) and len(items) <= 32
    if not is_usable or not all(isinstance(item, str) and item.startswith("/") and "/p2p/" in item for item in items):
        raise ConfigError(
            key, f"{value!r} is not usable", 'give multiaddrs like "/ip4/192.0.2.1/tcp/4710/p2p/12D3..." (`srwan up` prints one)'
        )
    return tuple(items)


def _location(values: Mapping[str, Any]) -> GeoAsn:
    country = _text("location.country", values.get("country", "ZZ"), characters_min=2, characters_max=2).upper()
    lat = _number("location.lat", values.get("lat", 0.0), -90, 90)
    lon = _number("location.lon", values.get("lon", 0.0), -180, 180)
    asn = _number("location.asn", values.get("asn", 0), 0, 2**32 - 1)
    return GeoAsn(country, round(lat * 100), round(lon * 100), int(asn))


_FIELDS: dict[str, tuple[str, Any]] = {
    "network": ("network", lambda key, value: _text(key, value, characters_min=1, characters_max=64)),
    "name": ("name", lambda key, value: _text(key, value, characters_min=0, characters_max=NAME_CHARACTERS_MAX)),
    "state_dir": ("state_dir", path_of),
    "udp": ("udp", _addresses),
    "control": ("control", _address),
    "announce": ("announce", _announce),
    "bootstrap": ("bootstrap", _bootstrap),
    "roles.relay": ("is_relay", flag_of),
    "roles.introducer": ("is_introducer", flag_of),
    "pulse.period_s": ("pulse_period_s", lambda key, value: _number(key, value, 0.5, 60)),
    "report.interval_s": ("report_interval_s", lambda key, value: _number(key, value, 1, 60)),
    "join.lone_after_s": ("lone_after_s", lambda key, value: _number(key, value, 0, 300)),
    "ditex.path": ("ditex", _store),
    "ditex.peers": ("ditex_peers", _bootstrap),
    "ditex.serve": ("is_ditex_served", flag_of),
    "data_plane": ("data_plane", _data_plane),
}
_LOCATION_KEYS = ("location.country", "location.lat", "location.lon", "location.asn")
KEYS = (*_FIELDS, *_LOCATION_KEYS, *TUN_KEYS, *KERNEL_KEYS, *OFFER_KEYS, *SETTLEMENT_KEYS, *WALLET_KEYS)
"""All keys of the configuration file, dotted."""
_SECTIONS = {
    "location": GeoAsn,
    "tun": TunConfig,
    "kernel": KernelSettings,
    "offer": OfferSettings,
    "settlement": SettlementSettings,
    "wallet": WalletSettings,
}
_PARSED_KEYS = frozenset((*_LOCATION_KEYS, *TUN_KEYS, *KERNEL_KEYS, *OFFER_KEYS, *SETTLEMENT_KEYS, *WALLET_KEYS))
"""Keys of sections that are checked as a whole."""


def _flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def make_config(**settings: Any) -> NodeConfig:
    """Check keyword settings and return a configuration.

    Args:
        settings: field names of `NodeConfig` or keys of the file with "_" for "." (`pulse_period_s`); addresses as text or (ip, port);
            `location`, `tun` and `kernel` as their classes or as mappings of their keys.

    Raises:
        ConfigError: an unknown setting, or a value out of its range.
    """
    by_field = {field: key for key, (field, _) in _FIELDS.items()}
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if name in _SECTIONS and isinstance(value, Mapping):
            flat.update(_flatten({name: value}))
        elif not isinstance(value, _SECTIONS.get(name, ())):
            flat[by_field.get(name, name)] = value
    made = {name: settings[name] for name, kind in _SECTIONS.items() if isinstance(settings.get(name), kind)}
    return attrs.evolve(_build(flat), **made)


def load_config(path: Path) -> NodeConfig:
    """Read and check a TOML file.

    Raises:
        ConfigError: no such file, not TOML, an unknown key, or a value out of its range. Names the key, the value and the range.
    """
    try:
        if path.stat().st_size > CONFIG_BYTES_MAX:
            raise ConfigError(str(path), "the file is too large", f"a configuration has at most {CONFIG_BYTES_MAX} bytes")
        table = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read ({error.strerror})", "check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), f"is not TOML: {error}", "mend the file; docs/reference/configuration.md has an example") from None
    return _build(_flatten(table))


def _build(flat: Mapping[str, Any]) -> NodeConfig:
    fields: dict[str, Any] = {}
    for key, value in flat.items():
        if key in _PARSED_KEYS:
            continue
        if key not in _FIELDS:
            near = difflib.get_close_matches(key, KEYS, 1)
            raise ConfigError(key, "there is no such setting", f"did you mean {near[0]}?" if near else f"known are {', '.join(KEYS)}")
        field, check = _FIELDS[key]
        fields[field] = check(key, value)
    if any(key in flat for key in _LOCATION_KEYS):
        fields["location"] = _location({key.removeprefix("location."): flat[key] for key in _LOCATION_KEYS if key in flat})
    if any(key in flat for key in TUN_KEYS):
        fields["tun"] = make_tun_config({key.removeprefix("tun."): flat[key] for key in TUN_KEYS if key in flat})
    if any(key in flat for key in KERNEL_KEYS):
        fields["kernel"] = kernel_settings({key: flat[key] for key in KERNEL_KEYS if key in flat})
        if fields["kernel"].is_native and fields.get("data_plane", "auto") == "auto":
            fields["data_plane"] = "portable"  # the native plane takes no native SRv6
    if any(key in flat for key in OFFER_KEYS):
        fields["offer"] = make_offer_settings({key.removeprefix("offer."): flat[key] for key in OFFER_KEYS if key in flat})
    if any(key in flat for key in SETTLEMENT_KEYS):
        values = {key.removeprefix("settlement."): flat[key] for key in SETTLEMENT_KEYS if key in flat}
        fields["settlement"] = settlement_settings(values)
    if any(key in flat for key in WALLET_KEYS):
        fields["wallet"] = wallet_settings({key.removeprefix("wallet."): flat[key] for key in WALLET_KEYS if key in flat})
    return NodeConfig(**fields)
