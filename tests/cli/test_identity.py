"""`srwan identity` and `srwan config` as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from srwan.cli import main
from srwan.identity import Identity


def test_new_creates_a_private_file_and_show_prints_its_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "identity"
    assert 0 == main(["identity", "new", str(file), "--json"])
    created = json.loads(capsys.readouterr().out)
    assert 0o600 == file.stat().st_mode & 0o777
    assert 0 == main(["identity", "show", str(file)])
    shown = capsys.readouterr().out
    assert created["node_id"] in shown
    assert created["peer_id"].startswith("12D3KooW")
    assert Identity.load(file).seed.hex() not in shown


def test_new_refuses_to_replace_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "identity"
    file.write_text("precious", "utf-8")
    assert 2 == main(["identity", "new", str(file)])
    assert "already" in capsys.readouterr().err
    assert "precious" == file.read_text("utf-8")


def test_an_identity_others_can_read_is_refused_with_the_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "identity"
    Identity.load_or_create(file)
    file.chmod(0o644)
    assert 2 == main(["identity", "show", str(file)])
    assert f"chmod 600 {file}" in capsys.readouterr().err


def test_config_check_names_the_bad_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "srwan.toml"
    file.write_text("[pulse]\nperiod_s = 0.01\n", "utf-8")
    assert 2 == main(["config", "check", str(file)])
    error = capsys.readouterr().err
    assert 1 == error.count("\n")
    assert "pulse.period_s: 0.01 is out of range; give a number in 0.5..60" in error


def test_config_check_prints_the_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "srwan.toml"
    file.write_text('name = "paris"\n', "utf-8")
    assert 0 == main(["config", "check", str(file)])
    assert "name = paris" in capsys.readouterr().out


def test_the_peer_id_is_the_one_libp2p_computes() -> None:
    from libp2p.peer.id import ID

    from srwan.cli.identity import _base58
    from srwan.identity import peer_id_bytes

    node = Identity(bytes(range(32))).node_id
    assert ID(peer_id_bytes(node)).to_base58() == _base58(peer_id_bytes(node))
