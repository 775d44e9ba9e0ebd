"""Identity files, signatures, and the keys that derive from one seed."""

from __future__ import annotations

import os
import stat
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srwan.errors import BadSignature, ConfigError, DecodeError
from srwan.identity import (
    Identity,
    is_signed_by,
    node_id_of_peer_id,
    peer_id_bytes,
    require_signature,
    x25519_public_key,
)
from srwan.types import NodeId

ALICE = Identity(bytes(range(32)))
BOB = Identity(bytes(range(32, 64)))
LOW_ORDER = bytes.fromhex("0100000000000000000000000000000000000000000000000000000000000000")
NOT_ON_THE_CURVE = bytes.fromhex("0200000000000000000000000000000000000000000000000000000000000000")


# --- keys ------------------------------------------------------------------------------------------------------------


def test_node_id_is_the_ed25519_public_key_of_the_seed() -> None:
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")  # RFC 8032 section 7.1, test 1

    assert "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a" == Identity(seed).node_id.hex()
    assert seed == Identity(seed).seed


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a_seed_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=f"32 bytes, not {length}"):
        Identity(bytes(length))


def test_generated_identities_differ() -> None:
    assert Identity.generate().node_id != Identity.generate().node_id


def test_both_ends_compute_the_same_shared_secret() -> None:
    assert ALICE.shared_secret(BOB.node_id) == BOB.shared_secret(ALICE.node_id)
    assert ALICE.shared_secret(BOB.node_id) != ALICE.shared_secret(ALICE.node_id)


def test_x25519_form_agrees_with_an_independent_implementation() -> None:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

    private = X25519PrivateKey.from_private_bytes(ALICE.x25519_secret)

    assert private.public_key().public_bytes_raw() == x25519_public_key(ALICE.node_id)
    assert private.exchange(X25519PublicKey.from_public_bytes(x25519_public_key(BOB.node_id))) == ALICE.shared_secret(BOB.node_id)


@pytest.mark.parametrize("key", [bytes(32), LOW_ORDER, NOT_ON_THE_CURVE, b"\xff" * 32])
def test_unusable_public_keys_are_refused(key: bytes) -> None:
    with pytest.raises(BadSignature) as caught:
        ALICE.shared_secret(NodeId(key))
    assert "bad-key" == caught.value.reason


@given(st.binary(min_size=32, max_size=32))
def test_no_public_key_raises_anything_but_bad_signature(key: bytes) -> None:
    try:
        secret = ALICE.shared_secret(NodeId(key))
    except BadSignature:
        return
    assert 32 == len(secret)


def test_the_secret_is_not_in_repr() -> None:
    shown = f"{ALICE!r} {ALICE}"

    assert ALICE.seed.hex() not in shown
    assert ALICE.x25519_secret.hex() not in shown


# --- signatures ------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=64), st.binary(max_size=64))
def test_a_signature_holds_for_its_message_and_no_other(message: bytes, other: bytes) -> None:
    signature = ALICE.sign(b"srwan/test/1", message)

    assert is_signed_by(ALICE.node_id, b"srwan/test/1", message, signature)
    assert is_signed_by(ALICE.node_id, b"srwan/test/1", other, signature) is (message == other)


def test_a_signature_does_not_hold_in_another_domain_or_for_another_signer() -> None:
    signature = ALICE.sign(b"srwan/row/1", b"x")

    assert not is_signed_by(ALICE.node_id, b"srwan/report/1", b"x", signature)
    assert not is_signed_by(BOB.node_id, b"srwan/row/1", b"x", signature)
    require_signature(ALICE.node_id, b"srwan/row/1", b"x", signature)
    with pytest.raises(BadSignature, match="bad srwan/report/1 signature"):
        require_signature(ALICE.node_id, b"srwan/report/1", b"x", signature)


def test_bytes_cannot_move_between_domain_and_message() -> None:
    assert ALICE.sign(b"srwan/a/1", b"23") != ALICE.sign(b"srwan/a/12", b"3")


@given(st.binary(max_size=80), st.binary(min_size=32, max_size=32))
def test_random_signatures_and_keys_are_refused_without_an_exception(signature: bytes, key: bytes) -> None:
    assert not is_signed_by(NodeId(key), b"srwan/test/1", b"message", signature)


# --- PeerIDs ---------------------------------------------------------------------------------------------------------


def test_peer_id_is_the_one_libp2p_derives() -> None:
    from libp2p.crypto.ed25519 import Ed25519PublicKey
    from libp2p.peer.id import ID

    assert peer_id_bytes(ALICE.node_id) == ID.from_pubkey(Ed25519PublicKey.from_bytes(ALICE.node_id)).to_bytes()
    assert node_id_of_peer_id(peer_id_bytes(ALICE.node_id)) == ALICE.node_id


@given(st.binary(max_size=48))
def test_random_peer_ids_are_refused(data: bytes) -> None:
    if len(data) == 38 and data.startswith(peer_id_bytes(ALICE.node_id)[:6]):
        return
    with pytest.raises(DecodeError):
        node_id_of_peer_id(data)


# --- files -----------------------------------------------------------------------------------------------------------


def test_a_created_file_is_private_and_loads_again(tmp_path: Path) -> None:
    path = tmp_path / "state" / "identity"
    created = Identity.load_or_create(path)

    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    assert Identity.load(path).node_id == created.node_id
    assert Identity.load_or_create(path).node_id == created.node_id
    assert ["identity"] == [entry.name for entry in path.parent.iterdir()], "a temporary file was left"


def test_processes_that_race_to_create_get_one_identity(tmp_path: Path) -> None:
    path = tmp_path / "identity"
    found: list[NodeId] = []
    gate = threading.Barrier(8)

    def create() -> None:
        gate.wait()
        found.append(Identity.load_or_create(path).node_id)

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [Identity.load(path).node_id] * 8 == found
    assert ["identity"] == [entry.name for entry in tmp_path.iterdir()]


def test_a_missing_file_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no identity file; create one with `srwan identity new`"):
        Identity.load(tmp_path / "identity")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_file_that_others_can_read_is_refused_and_kept(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "identity"
    Identity.load_or_create(path)
    path.chmod(mode)
    before = path.read_bytes()

    for open_file in (Identity.load, Identity.load_or_create):
        with pytest.raises(ConfigError, match="can be read by others; run `chmod 600"):
            open_file(path)
    assert before == path.read_bytes()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"srwan-identity-1",
        b"srwan-identity-1 " + b"0" * 62,
        b"srwan-identity-1 " + b"0" * 66,
        b"srwan-identity-1 " + b"g" * 64,
        b"srwan-identity-2 " + b"0" * 64,
        b"\xff" * 80,
        b"srwan-identity-1 " + b"0" * 64 + b"\n" * 4096,
    ],
)
def test_a_damaged_file_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "identity"
    path.write_bytes(content)
    path.chmod(0o600)

    for open_file in (Identity.load, Identity.load_or_create):
        with pytest.raises(ConfigError) as caught:
            open_file(path)
        assert caught.value.key == str(path)
        assert "0" * 60 not in str(caught.value), "the error shows the seed"
    assert content == path.read_bytes()


@given(content=st.binary(max_size=300))
def test_no_content_of_a_file_raises_anything_but_config_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "random-identity"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError):
        Identity.load(path)


def test_a_folder_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        Identity.load_or_create(tmp_path)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(ConfigError) as caught:
        Identity.load_or_create(tmp_path / "state" / "identity")
    assert "folder" in str(caught.value)


def test_a_failing_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def disk_full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(ConfigError, match="No space left on device"):
        Identity.load_or_create(tmp_path / "identity")
    assert [] == list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_permitted(**_: object) -> tuple[int, str]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "mkstemp", not_permitted)  # root, as in CI, may write everywhere
    with pytest.raises(ConfigError, match=r"cannot create the identity file \(Permission denied\)"):
        Identity.load_or_create(tmp_path / "identity")
