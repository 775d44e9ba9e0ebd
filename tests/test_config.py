"""Settings: every bad value names its key, the value and the range."""

from __future__ import annotations

from ipaddress import ip_interface, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srwan.config import CONFIG_BYTES_MAX, KEYS, NodeConfig, load_config, make_config, parse_address
from srwan.errors import ConfigError
from srwan.kernel_config import Delivery, KernelSettings
from srwan.offer_config import LocalWindow, OfferSettings
from srwan.settlement_config import SettlementSettings, WalletSettings
from srwan.tun_config import TunConfig, TunRoute
from srwan.types import GeoAsn

FULL = """
network = "lab"
name = "paris"
state_dir = "/var/lib/srwan"
udp = ["192.0.2.1:4710", "[2001:db8::1]:4710"]
control = "192.0.2.1:4710"
announce = ["192.0.2.1"]
bootstrap = ["/ip4/192.0.2.9/tcp/4710/p2p/12D3KooWExample"]
data_plane = "portable"
[location]
country = "fr"
lat = 48.86
lon = 2.35
asn = 64500
[roles]
relay = false
introducer = false
[pulse]
period_s = 5
[report]
interval_s = 30
[join]
lone_after_s = 1
[tun]
enabled = true
name = "wan0"
addresses = ["10.77.0.1/24", "fd77::1/64"]
routes = ["10.2.0.0/16=paris", "fd02::/64=0202020202020202020202020202020202020202020202020202020202020202"]
announce = ["10.1.0.0/16"]
host = true
via = ["oslo"]
mtu = 1280
mss_clamp = false
[kernel]
enabled = true
interfaces = ["eth1"]
peers = []
borders = []
deliver = ["dt6:254"]
routes = []
bills = []
native = false
hmac_key_file = "/etc/srwan/hmac"
require_hmac = true
[offer]
price_microtoken_per_gb = 10000000
windows = ["mon-fri 18:00-08:00"]
time_zone = "America/Chicago"
premium = true
label = "line 1"
rate_kbps = 1000
day_octets = 2000
saved_full_us = 3000
anonymous = true
bond_microtoken = 4000
[ditex]
path = "/var/lib/srwan/ditex.sqlite"
peers = ["/ip4/198.51.100.9/tcp/4710/p2p/12D3KooWPeer"]
serve = true
[settlement]
url = "http://127.0.0.1:8545"
contract = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
chain_id = 31337
confirmations = 3
journal = "/var/lib/srwan/outbox"
[wallet]
keystore = "/var/lib/srwan/wallet.json"
passphrase_file = "/etc/srwan/wallet.passphrase"
"""


FULL_OFFER = OfferSettings(
    price_microtoken_per_gb=10_000_000,
    windows=(LocalWindow(frozenset(range(5)), 18 * 60, 8 * 60),),
    time_zone="America/Chicago",
    is_premium=True,
    label="line 1",
    rate_kbps=1000,
    day_octets=2000,
    saved_full_us=3000,
    is_anonymous=True,
    bond_microtoken=4000,
)


def test_a_file_with_every_key_becomes_the_same_settings(tmp_path: Path) -> None:
    file = tmp_path / "srwan.toml"
    file.write_text(FULL, "utf-8")
    expected = NodeConfig(
        network="lab",
        name="paris",
        state_dir=Path("/var/lib/srwan"),
        udp=(("192.0.2.1", 4710), ("2001:db8::1", 4710)),
        control=("192.0.2.1", 4710),
        announce=("192.0.2.1",),
        bootstrap=("/ip4/192.0.2.9/tcp/4710/p2p/12D3KooWExample",),
        location=GeoAsn("FR", 4886, 235, 64500),
        is_relay=False,
        is_introducer=False,
        pulse_period_s=5.0,
        report_interval_s=30.0,
        lone_after_s=1.0,
        data_plane="portable",
        kernel=KernelSettings(
            is_enabled=True,
            interfaces=("eth1",),
            deliver=(Delivery("End.DT6", table=254),),
            hmac_key_file=Path("/etc/srwan/hmac"),
            is_hmac_required=True,
        ),
        offer=FULL_OFFER,
        ditex=Path("/var/lib/srwan/ditex.sqlite"),
        ditex_peers=("/ip4/198.51.100.9/tcp/4710/p2p/12D3KooWPeer",),
        is_ditex_served=True,
        settlement=SettlementSettings(
            url="http://127.0.0.1:8545",
            contract="0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
            chain_id=31337,
            confirmations=3,
            journal=Path("/var/lib/srwan/outbox"),
        ),
        wallet=WalletSettings(keystore=Path("/var/lib/srwan/wallet.json"), passphrase_file=Path("/etc/srwan/wallet.passphrase")),
        tun=TunConfig(
            is_enabled=True,
            name="wan0",
            addresses=(ip_interface("10.77.0.1/24"), ip_interface("fd77::1/64")),
            routes=(TunRoute(ip_network("10.2.0.0/16"), "paris"), TunRoute(ip_network("fd02::/64"), "02" * 32)),
            announce=(ip_network("10.1.0.0/16"),),
            is_host=True,
            via=("oslo",),
            mtu_bytes=1280,
            is_mss_clamped=False,
        ),
    )
    assert expected == load_config(file)


def test_every_documented_key_is_in_the_example() -> None:
    """Those of [offer] are in the example of tests/test_offer_config.py."""
    assert [] == [key for key in KEYS if key.rpartition(".")[2] not in FULL and not key.startswith("offer.")]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"pulse_period_s": 0.1}, ("pulse.period_s", "0.1", "0.5..60")),
        ({"pulse_period_s": True}, ("pulse.period_s", "True", "number")),
        ({"pulse_perod_s": 3}, ("pulse_perod_s", "pulse.period_s")),
        ({"udp": "somewhere:80"}, ("udp", "somewhere:80", "ADDRESS:PORT")),
        ({"udp": []}, ("udp", "1..4")),
        ({"control": "127.0.0.1:70000"}, ("control", "70000")),
        ({"bootstrap": "127.0.0.1:4710"}, ("bootstrap", "multiaddrs")),
        ({"name": "é"}, ("name", "ASCII")),
        ({"name": "x" * 33}, ("name", "0..32")),
        ({"network": ""}, ("network", "1..64")),
        ({"is_relay": "yes"}, ("roles.relay", "yes", "true or false")),
        ({"location": {"lat": 91}}, ("location.lat", "91", "-90..90")),
        ({"location": {"country": "FRA"}}, ("location.country", "FRA")),
        ({"announce": ["localhost"]}, ("announce", "localhost", "numeric")),
        ({"state_dir": 5}, ("state_dir", "5", "path")),
        ({"tun": {"enabled": 1}}, ("tun.enabled", "1", "true or false")),
        ({"tun": {"name": "a/b"}}, ("tun.name", "a/b", "1..15")),
        ({"tun": {"name": ".."}}, ("tun.name", "..")),
        ({"tun": {"addresses": ["10.77.0.1/33"]}}, ("tun.addresses", "10.77.0.1/33")),
        ({"tun": {"addresses": ["224.0.0.1/24"]}}, ("tun.addresses", "unicast")),
        ({"tun": {"routes": ["10.2.0.0/16"]}}, ("tun.routes", "10.2.0.0/16", "PREFIX=NODE")),
        ({"tun": {"routes": ["10.2.0.1/16=paris"]}}, ("tun.routes", "host bits", "PREFIX=NODE")),
        ({"tun": {"routes": ["10.2.0.0/16=a", "10.2.0.0/16=b"]}}, ("tun.routes", "10.2.0.0/16", "twice")),
        ({"tun": {"routes": ["0.0.0.0/0=a"]}}, ("tun.routes", "0.0.0.0/0", "everything")),
        ({"tun": {"routes": ["ff00::/8=a"]}}, ("tun.routes", "unicast")),
        ({"tun": {"routes": [7]}}, ("tun.routes", "7")),
        ({"tun": {"routes": ["10.2.0.0/16=a"] * 1025}}, ("tun.routes", "1025", "1024")),
        ({"tun": {"announce": ["10.1.0.0/16"], "routes": ["10.1.0.0/16=a"]}}, ("tun.announce", "10.1.0.0/16", "tun.routes")),
        ({"tun": {"announce": ["127.0.0.0/8"]}}, ("tun.announce", "127.0.0.0/8")),
        ({"tun": {"mtu": 1281}}, ("tun.mtu", "1281", "576..1280")),
        ({"tun": {"mtu": True}}, ("tun.mtu", "True")),
        ({"tun": {"mtu": 1000, "routes": ["fd02::/64=a"]}}, ("tun.mtu", "1000", "IPv6", "fd02::/64")),
        ({"tun": {"mtu": 1000, "host": True}}, ("tun.mtu", "tun.host")),
        ({"tun": {"via": ["a", "a"]}}, ("tun.via", "a", "different")),
        ({"tun": {"via": ["a", "b", "c", "d"]}}, ("tun.via", "4")),
        ({"tun": {"mts": 1000}}, ("tun.mts", "tun.mtu")),
        ({"tun": 5}, ("tun", "no such setting")),
    ],
)
def test_a_bad_setting_names_key_value_and_range(settings: dict[str, object], words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        make_config(**settings)
    assert [] == [word for word in words if word not in str(caught.value)]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"network = ", ("TOML",)),
        (b"\xff\xfe", ("TOML",)),
        (b"[pulse]\nperiod_s = 'x'", ("pulse.period_s",)),
        (b"x" * (CONFIG_BYTES_MAX + 1), ("too large",)),
    ],
)
def test_a_bad_file_is_refused_with_its_reason(tmp_path: Path, content: bytes, words: tuple[str, ...]) -> None:
    file = tmp_path / "srwan.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert [] == [word for word in words if word not in str(caught.value)]


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "none.toml")


@given(st.text(max_size=60))
def test_an_address_is_parsed_or_refused_with_value_error(text: str) -> None:
    try:
        host, port = parse_address(text)
    except ValueError:
        return
    assert 0 <= port <= 65535
    assert host
