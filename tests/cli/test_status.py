"""`srwan status --state-dir`: what a running router says of itself."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
import trio

from srwan.cli import main
from srwan.errors import ConfigError
from srwan.status_socket import NAME, read_status, serve_status

TUN = {
    "interface": "srwan0",
    "state": "up",
    "plane": "native: read and written in C",
    "mtu": 1280,
    "addresses": ["10.77.0.1/24"],
    "to_peers": {"packets": 3, "octets": 252, "dropped": {}},
    "from_peers": {"packets": 2, "octets": 168, "dropped": {"ip-spoofed": 4, "ip-length": 1}},
    "icmp_sent": 5,
    "routes": [{"prefix": "10.2.0.0/16", "node": "oslo", "state": "ready"}],
    "paths": [{"peer": "oslo", "class": "normal", "path": "direct"}],
}
STATUS: dict[str, Any] = {
    "name": "paris",
    "node_id": "02" * 32,
    "network": "lab",
    "members": [{}, {}],
    "data_plane": "portable",
    "drops": {"replay": 2},
    "tun": TUN,
    "kernel": None,
}


async def asked(folder: Path, *arguments: str, status: dict[str, Any] = STATUS) -> int:
    """Run the command beside a router that has this status."""
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_status, folder, lambda: status)
        with trio.fail_after(10):
            code = await trio.to_thread.run_sync(lambda: main(["status", "--state-dir", str(folder), *arguments]))
            assert 0o600 == stat.S_IMODE((folder / NAME).stat().st_mode)
        nursery.cancel_scope.cancel()
    assert not (folder / NAME).exists()
    return code


async def test_the_tun_is_shown_with_its_counters_and_routes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == await asked(tmp_path)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert [
        f"router paris {'02' * 32}",
        "network lab, 2 members; data plane portable",
        "dropped 2 replay",
        "tun srwan0 is up, MTU 1280, 10.77.0.1/24",
        "packets native: read and written in C",
        "to peers 3 packets, 252 octets; dropped nothing",
        "from peers 2 packets, 168 octets; dropped 1 ip-length, 4 ip-spoofed",
        "icmp 5 errors sent",
        "route 10.2.0.0/16 behind oslo: ready",
        "path to oslo, normal: direct",
    ] == lines


async def test_json_is_the_status_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == await asked(tmp_path, "--json")
    assert json.loads(capsys.readouterr().out) == STATUS


async def test_a_router_without_tun_says_nothing_of_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == await asked(tmp_path, status={**STATUS, "tun": None})
    assert "tun" not in capsys.readouterr().out


async def test_a_stale_socket_of_a_killed_router_is_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / NAME).touch()
    assert 0 == await asked(tmp_path, "--json")
    assert capsys.readouterr().out


def test_where_no_router_runs_the_remedy_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert 2 == main(["status", "--state-dir", str(tmp_path)])
    assert "start one with `srwan up --state-dir`" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="no router answers"):
        read_status(tmp_path / "nowhere")


async def test_a_folder_whose_path_is_too_long_for_a_socket_is_done_without(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    with trio.fail_after(10):
        await serve_status(folder, lambda: STATUS)
    assert "no status socket" in caplog.text
