"""Key files: read and written by others too, refused with a sentence, never telling a secret."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srwan.errors import ConfigError, SrwanError, WalletLocked
from srwan.ledger_client.settlement import keystore
from srwan.ledger_client.settlement.keystore import (
    PASSPHRASE_BYTES_MAX,
    WALLET_BYTES_MAX,
    address_of_wallet,
    ask_passphrase,
    create_wallet,
    decrypt_key,
    encrypt_key,
    open_wallet,
    read_passphrase_fd,
    read_passphrase_file,
)
from srwan.ledger_client.settlement.signing import WalletKey

CHEAP = 2
"""scrypt's n where its cost is not the question."""
SECRET = bytes(range(1, 33))
KEY = WalletKey(SECRET)
PHRASE = "correct horse battery"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys" / "wallet.json"


def fields_of(**changes: Any) -> dict[str, Any]:
    """The fields of a good file, with some of `crypto` or `kdfparams` changed."""
    fields: dict[str, Any] = json.loads(encrypt_key(KEY, PHRASE, scrypt_n=CHEAP))
    for name, value in changes.items():
        place = fields["crypto"]["kdfparams"] if name in fields["crypto"]["kdfparams"] else fields["crypto"]
        (place if name in place else fields)[name] = value
    return fields


def test_a_key_comes_back_out_of_its_file(path: Path) -> None:
    made = create_wallet(path, PHRASE, scrypt_n=CHEAP)

    assert made.reveal() == open_wallet(path, PHRASE).reveal()
    assert made.address == address_of_wallet(path)
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    assert [path.name] == os.listdir(path.parent)


def test_two_wallets_are_two_keys_under_two_salts(path: Path) -> None:
    first, second = create_wallet(path, PHRASE, scrypt_n=CHEAP), create_wallet(path.with_name("other"), PHRASE, scrypt_n=CHEAP)

    assert first.address != second.address
    assert json.loads(path.read_bytes())["crypto"]["kdfparams"]["salt"] not in path.with_name("other").read_text()


def test_our_work_factor_is_the_recommended_one(path: Path) -> None:
    create_wallet(path, PHRASE, key=KEY)

    parameters = json.loads(path.read_bytes())["crypto"]["kdfparams"]
    assert (2**17, 8, 1) == (parameters["n"], parameters["r"], parameters["p"])
    assert SECRET == open_wallet(path, PHRASE).reveal()


# --- with others -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kdf", ["scrypt", "pbkdf2"])
def test_a_file_of_eth_account_is_opened(path: Path, kdf: Any) -> None:
    eth_account = pytest.importorskip("eth_account")
    path.parent.mkdir()
    path.touch(0o600)
    path.write_text(json.dumps(eth_account.Account.encrypt(SECRET, PHRASE, kdf=kdf, iterations=4096)))

    assert SECRET == open_wallet(path, PHRASE).reveal()
    assert KEY.address == address_of_wallet(path)


def test_eth_account_opens_a_file_of_ours(path: Path) -> None:
    eth_account = pytest.importorskip("eth_account")
    create_wallet(path, PHRASE, key=KEY, scrypt_n=CHEAP)

    assert SECRET == bytes(eth_account.Account.decrypt(path.read_text(), PHRASE))


PUBLISHED = {
    "scrypt": """{"crypto": {"cipher": "aes-128-ctr", "cipherparams": {"iv": "83dbcc02d8ccb40e466191a123791e0e"},
        "ciphertext": "d172bf743a674da9cdad04534d56926ef8358534d458fffccd4e6ad2fbde479c", "kdf": "scrypt",
        "kdfparams": {"dklen": 32, "n": 262144, "p": 8, "r": 1,
        "salt": "ab0c7876052600dd703518d6fc3fe8984592145b591fc8fb5c6d43190334ba19"},
        "mac": "2103ac29920d71da29f15d75b4a16dbe95cfd7ff8faea1056c33131d846e3097"},
        "id": "3198bc9c-6672-5ab3-d995-4942343ae5b6", "version": 3}""",
    "pbkdf2": """{"crypto": {"cipher": "aes-128-ctr", "cipherparams": {"iv": "6087dab2f9fdbbfaddc31a909735c1e6"},
        "ciphertext": "5318b4d5bcd28de64ee5559e671353e16f075ecae9f99c7a79a38af5f869aa46", "kdf": "pbkdf2",
        "kdfparams": {"c": 262144, "dklen": 32, "prf": "hmac-sha256",
        "salt": "ae3cd4e7013836a3df6bd7241b12db061dbe2c6785853cce422d148a624ce0bd"},
        "mac": "517ead924a9d0dc3124507e3393d175ce3ff7c1e96529c6c555ce9e51205e9b2"},
        "id": "3198bc9c-6672-5ab3-d995-4942343ae5b6", "version": 3}""",
}


@pytest.mark.parametrize("kdf", sorted(PUBLISHED))
def test_the_published_test_vectors_are_opened(kdf: str) -> None:
    """Web3 Secret Storage Definition, "Test vectors"."""
    found = decrypt_key(PUBLISHED[kdf].encode(), "testpassword")

    assert "7a28b5ba57c53603b0b07b56bba752f7784bf506fa95edc395f5cf6c7514fe9d" == found.reveal().hex()


# --- refused ---------------------------------------------------------------------------------------------------------


def locked(path: Path, phrase: str = PHRASE) -> str:
    with pytest.raises(WalletLocked) as refused:
        open_wallet(path, phrase)
    assert str(path) == refused.value.where
    assert refused.value.remedy in str(refused.value)
    assert phrase not in str(refused.value)
    assert refused.value.__suppress_context__ or refused.value.__context__ is None  # nothing of the file in a traceback
    return refused.value.problem


def test_a_wrong_passphrase_is_refused(path: Path) -> None:
    create_wallet(path, PHRASE, scrypt_n=CHEAP)

    assert "the passphrase is wrong, or the file is damaged" == locked(path, "wrong horse battery")


def test_no_file_and_no_regular_file_are_refused(path: Path) -> None:
    assert "no key file" == locked(path)
    path.mkdir(parents=True)
    assert "the key file is no regular file" == locked(path)
    os.mkfifo(path.with_name("pipe"), 0o600)
    assert "the key file is no regular file" == locked(path.with_name("pipe"))
    assert locked(path / "below\0zero").startswith("cannot read the key file")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o660])
def test_a_file_that_others_can_read_is_refused(path: Path, mode: int) -> None:
    create_wallet(path, PHRASE, scrypt_n=CHEAP)
    path.chmod(mode)

    assert "the key file can be read by others" == locked(path)
    with pytest.raises(WalletLocked, match="chmod 600"):
        address_of_wallet(path)


DAMAGES: tuple[dict[str, Any], ...] = (
    {"version": 1},
    {"crypto": []},
    {"cipher": "aes-256-gcm"},
    {"kdf": "argon2"},
    {"kdf": "pbkdf2"},
    {"cipherparams": {}},
    {"ciphertext": "00" * 31},
    {"mac": "00" * 31},
    {"mac": 5},
    {"salt": ""},
    {"dklen": 64},
    {"n": 0},
    {"n": 3},
    {"n": 2.0},
    {"n": True},
    {"r": -1},
    {"p": 0},
    {"address": "00"},
    {"address": 7},
)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"[" * 8000,
        b"\xff\xfe",
        b" " * (WALLET_BYTES_MAX + 1),
        *(json.dumps(fields_of(**change)).encode() for change in DAMAGES),
    ],
    ids=lambda content: f"{len(content)}",
)
def test_a_damaged_file_is_refused(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.touch(0o600)
    path.write_bytes(content)

    assert "not a key file of a wallet, or damaged" == locked(path)


@pytest.mark.parametrize(("n", "r", "p"), [(2**30, 8, 1), (2**14, 2**12, 1), (2**10, 8, 2**20), (2**17, 8, 17)])
def test_a_file_that_asks_for_too_much_work_is_refused_before_any_is_done(n: int, r: int, p: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = json.dumps(fields_of(n=n, r=r, p=p)).encode()
    monkeypatch.setattr(keystore, "_scrypt", lambda *_: pytest.fail("began to work"))

    with pytest.raises(WalletLocked, match="damaged"):
        decrypt_key(data, PHRASE)


def test_an_address_that_is_not_the_keys_is_refused() -> None:
    with pytest.raises(WalletLocked, match="damaged"):
        decrypt_key(json.dumps(fields_of(address="11" * 20)).encode(), PHRASE)


def test_a_file_without_address_is_opened(path: Path) -> None:
    path.parent.mkdir()
    path.touch(0o600)
    path.write_text(json.dumps(fields_of(address="")))

    assert SECRET == open_wallet(path, PHRASE).reveal()
    assert address_of_wallet(path) is None


GOOD = encrypt_key(KEY, PHRASE, scrypt_n=CHEAP)


@given(st.integers(0, len(GOOD) * 8 - 1))
@settings(max_examples=200)
def test_a_flipped_bit_never_yields_another_key(bit: int) -> None:
    """Bits of the random id and of space may flip without harm; all others are found out."""
    data = bytearray(GOOD)
    data[bit // 8] ^= 1 << bit % 8
    with contextlib.suppress(WalletLocked):
        assert SECRET == decrypt_key(bytes(data), PHRASE).reveal()


@given(st.binary(max_size=600) | st.integers(0, len(GOOD) - 3).map(lambda size: GOOD[:size]))
def test_random_bytes_and_half_written_files_are_refused(data: bytes) -> None:
    with pytest.raises(WalletLocked):
        decrypt_key(data, PHRASE)


# --- creating --------------------------------------------------------------------------------------------------------


def test_an_existing_file_is_never_overwritten(path: Path) -> None:
    create_wallet(path, PHRASE, scrypt_n=CHEAP)
    before = path.read_bytes()

    with pytest.raises(ConfigError, match="never overwritten"):
        create_wallet(path, PHRASE, scrypt_n=CHEAP)
    assert before == path.read_bytes()


def test_of_two_that_create_one_file_at_once_one_wins(path: Path) -> None:
    path.parent.mkdir()
    start = threading.Barrier(2)
    made: list[WalletKey] = []

    def create() -> None:
        start.wait()
        with contextlib.suppress(ConfigError):
            made.append(create_wallet(path, PHRASE, scrypt_n=CHEAP))

    threads = [threading.Thread(target=create) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    (winner,) = made
    assert winner.address == open_wallet(path, PHRASE).address
    assert [path.name] == os.listdir(path.parent)


@pytest.mark.parametrize("phrase", ["", "1234567", "x" * (PASSPHRASE_BYTES_MAX + 1)])
def test_a_passphrase_too_short_or_too_long_is_refused(path: Path, phrase: str) -> None:
    with pytest.raises(ConfigError, match="a passphrase of"):
        create_wallet(path, phrase)
    assert not path.parent.exists()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="choose a folder"):
        create_wallet(tmp_path / "file" / "wallet.json", PHRASE, scrypt_n=CHEAP)


def test_nothing_is_left_behind_where_the_disk_is_full(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ConfigError, match="No space left"):
        create_wallet(path, PHRASE, scrypt_n=CHEAP)
    assert [] == os.listdir(path.parent)


# --- passphrases -----------------------------------------------------------------------------------------------------


def private_file(path: Path, content: bytes) -> Path:
    path.touch(0o600)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("content", [b"two words", b"two words\n", b"two words\r\n"])
def test_a_passphrase_is_read_from_a_file_and_from_a_descriptor(tmp_path: Path, content: bytes) -> None:
    file = private_file(tmp_path / "phrase", content)

    assert "two words" == read_passphrase_file(file)
    assert "two words" == read_passphrase_fd(os.open(file, os.O_RDONLY))


def test_spaces_and_inner_newlines_belong_to_the_passphrase(tmp_path: Path) -> None:
    assert " a\nb \n" == read_passphrase_file(private_file(tmp_path / "phrase", b" a\nb \n\n"))


@pytest.mark.parametrize("content", [b"", b"\n", b"x" * (PASSPHRASE_BYTES_MAX + 1), b"\xff\xfe\xfd"])
def test_what_is_no_passphrase_is_refused_without_being_shown(tmp_path: Path, content: bytes) -> None:
    file = private_file(tmp_path / "phrase", content)

    reads: tuple[Callable[[], str], ...] = (lambda: read_passphrase_file(file), lambda: read_passphrase_fd(os.open(file, os.O_RDONLY)))
    for read in reads:
        with pytest.raises(WalletLocked) as refused:
            read()
        assert "xxx" not in str(refused.value)


def test_a_passphrase_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    file = private_file(tmp_path / "phrase", b"two words")
    file.chmod(0o644)

    with pytest.raises(WalletLocked, match="chmod 600"):
        read_passphrase_file(file)
    with pytest.raises(WalletLocked, match="no passphrase file"):
        read_passphrase_file(tmp_path / "none")


@pytest.mark.parametrize("number", [-1, 987, 2**70])
def test_a_descriptor_that_is_not_open_is_refused(number: int) -> None:
    with pytest.raises(WalletLocked, match="cannot read the passphrase"):
        read_passphrase_fd(number)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is typed, line by line."""
    lines: list[str] = []

    def typed(_: str) -> str:
        if not lines:
            raise EOFError
        return lines.pop(0)

    real = os.open
    monkeypatch.setattr(os, "open", lambda path, *rest: real("/dev/null" if path == "/dev/tty" else path, *rest))
    monkeypatch.setattr("getpass.getpass", typed)
    return lines


def test_a_passphrase_is_asked_for_at_the_terminal(terminal: list[str]) -> None:
    terminal += ["two words", "two words", "two words", "short", "one more word", "two more words"]

    assert "two words" == ask_passphrase("wallet")
    assert "two words" == ask_passphrase("wallet", is_new=True)
    with pytest.raises(WalletLocked, match="too short"):
        ask_passphrase("wallet", is_new=True)
    with pytest.raises(WalletLocked, match="the two differ"):
        ask_passphrase("wallet", is_new=True)
    with pytest.raises(WalletLocked, match="no passphrase"):
        ask_passphrase("wallet")


def test_without_a_terminal_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> int:
        raise OSError(6, "No such device or address")

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(WalletLocked, match="--passphrase-file or --passphrase-fd"):
        ask_passphrase("wallet")


# --- secrets ---------------------------------------------------------------------------------------------------------


def test_neither_key_nor_passphrase_is_in_the_file_or_in_a_repr(path: Path) -> None:
    key = create_wallet(path, PHRASE, key=KEY, scrypt_n=CHEAP)

    for text in (path.read_text(), repr(key), str(key), repr([key])):
        assert SECRET.hex() not in text.lower()
        assert PHRASE not in text


def test_no_error_tells_a_secret(path: Path) -> None:
    create_wallet(path, PHRASE, key=KEY, scrypt_n=CHEAP)
    seen: list[SrwanError] = []
    attempts: tuple[Callable[[], object], ...] = (
        lambda: open_wallet(path, PHRASE + "x"),
        lambda: create_wallet(path, PHRASE),
        lambda: decrypt_key(json.dumps(fields_of(mac="00" * 32)).encode(), PHRASE),
    )
    for attempt in attempts:
        with pytest.raises(SrwanError) as raised:
            attempt()
        seen.append(raised.value)

    for error in seen:
        assert PHRASE not in repr(error) + str(error)
        assert SECRET.hex() not in repr(error) + str(error)
