"""The [kernel] section of a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from srwan.config import load_config, make_config
from srwan.errors import ConfigError
from srwan.kernel_config import Circuit, Delivery, HmacKey, KernelPeer, KernelSettings, kernel_settings, read_hmac_key
from srwan.types import NodeId

R, C = NodeId(bytes([2]) * 32), NodeId(bytes([3]) * 32)


def test_the_section_of_a_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "srwan.toml"
    file.write_text(
        "[kernel]\nenabled = true\n"
        'interfaces = ["eth1"]\n'
        f'peers = ["{R.hex()}@fd00::2"]\nborders = ["{C.hex()}@FD00:0::3"]\n'
        'deliver = ["dt6:254", "dx4:10.0.0.1", "dx6:::"]\n'
        f'routes = ["10.0.0.0/8 {C.hex()} dx4:10.0.0.1 7", "fd99::/64 {C.hex()} dt6:255"]\n'
        f'bills = ["{R.hex()} 7"]\nnative = true\n'
        'hmac_key_file = "/etc/srwan/hmac"\nrequire_hmac = true\n'
    )
    assert load_config(file).kernel == KernelSettings(
        is_enabled=True,
        interfaces=("eth1",),
        peers=(KernelPeer(R, "fd00::2"),),
        borders=(KernelPeer(C, "fd00::3"),),
        deliver=(Delivery("End.DT6", table=254), Delivery("End.DX4", next_hop="10.0.0.1"), Delivery("End.DX6", next_hop="::")),
        routes=(
            Circuit("10.0.0.0/8", C, Delivery("End.DX4", next_hop="10.0.0.1"), 7),
            Circuit("fd99::/64", C, Delivery("End.DT6", table=255)),
        ),
        bills=((R, 7),),
        is_native=True,
        hmac_key_file=Path("/etc/srwan/hmac"),
        is_hmac_required=True,
    )


def test_without_the_section_nothing_is_programmed() -> None:
    assert KernelSettings() == make_config().kernel
    assert not make_config().kernel.is_enabled


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("interfaces", "lo"),
        ("interfaces", ["eth1", "eth1"]),
        ("interfaces", ["../../etc"]),
        ("interfaces", ["a" * 16]),
        ("interfaces", 5),
        ("interfaces", [5]),
        ("interfaces", ["e"] * 257),
        ("peers", "fd00::2"),
        ("peers", f"{R.hex()}@10.0.0.1"),
        ("peers", f"{R.hex()[2:]}@fd00::2"),
        ("deliver", "dt4:254"),
        ("deliver", "dt6:0"),
        ("deliver", "dt6:main"),
        ("deliver", "dx4:fd00::1"),
        ("deliver", "dx6:10.0.0.1"),
        ("routes", "10.0.0.0/8 nobody dx4:10.0.0.1"),
        ("routes", f"10.0.0.1/8 {C.hex()} dx4:10.0.0.1"),
        ("routes", f"10.0.0.0/8 {C.hex()} dt6:254"),
        ("routes", f"fd99::/64 {C.hex()} dx4:10.0.0.1"),
        ("routes", f"fd99::/64 {C.hex()} dt6:254 0"),
        ("routes", f"fd99::/64 {C.hex()} dt6:254 {2**64}"),
        ("bills", f"{R.hex()}"),
        ("bills", f"{R.hex()} -1"),
        ("native", 1),
        ("hmac_key_file", ""),
    ],
)
def test_a_bad_value_is_refused_naming_its_key(key: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        make_config(kernel={key: value})
    assert f"kernel.{key}" == caught.value.key


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ({"peers": [f"{R.hex()}@fd00::2"], "borders": [f"{R.hex()}@fd00::3"]}, "kernel.borders"),
        ({"routes": [f"fd99::/64 {C.hex()} dt6:254", f"fd99::/64 {R.hex()} dt6:254"]}, "kernel.routes"),
        ({"require_hmac": True}, "kernel.require_hmac"),
        ({"peer": []}, "kernel.peer"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(section: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_config(kernel=section)
    assert key == caught.value.key


def test_a_key_file_holds_id_and_secret(tmp_path: Path) -> None:
    file = tmp_path / "hmac"
    file.write_text(f"7 {bytes(range(32)).hex()}\n")
    assert HmacKey(0x100 + 7, bytes(range(32))) == read_hmac_key(file, 0x100)


@pytest.mark.parametrize(
    "text", ["", "7", "7 zz", f"0 {'00' * 32}", f"65536 {'00' * 32}", f"7 {'00' * 15}", f"7 {'00' * 65}", f"7 {'00' * 32} x"]
)
def test_another_key_file_is_refused_without_showing_the_secret(tmp_path: Path, text: str) -> None:
    file = tmp_path / "hmac"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_hmac_key(file, 0)
    assert "00" * 15 not in str(caught.value)


def test_a_key_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_hmac_key(tmp_path / "none", 0)


def test_an_empty_section_is_the_default() -> None:
    assert KernelSettings() == kernel_settings({})
