"""Key files of wallets: the web3 secret storage format, version 3, that other wallets read and write too.

Not here: what a key may sign (`signing.py`), and where the settings say the file lies (`srwan.engines`).

Theory of operation. A key of 32 bytes is encrypted with AES-128-CTR under a key that scrypt derives from a passphrase; a Keccak-256 MAC
over the other half of the derived key and the ciphertext tells a wrong passphrase from a right one. The file appears complete or not at
all, mode 0600, and none is ever overwritten: a key that is lost is money that is lost.

A file is somebody's input: size before parse, and work before work; one that asks for more memory or time than the bounds below is
refused before anything is derived. Errors carry the path and never a part of the key, of the passphrase or of the file.

Invariants: no function here logs, prints or returns a secret but the `WalletKey` itself; every failure to open is `WalletLocked`.
Cost: opening or making a file takes about 0.4 s and 128 MB for scrypt, by design; call it from a thread where an event loop runs.

Source: ethereum.org, Web3 Secret Storage Definition; RFC 7914 (scrypt); work factor: OWASP Password Storage Cheat Sheet (N = 2**17, r = 8).
"""

from __future__ import annotations

import getpass
import hashlib
import hmac
import json
import os
import secrets
import stat
import tempfile
import uuid
from pathlib import Path
from typing import Any, NoReturn

import attrs
from Crypto.Protocol.KDF import scrypt as _scrypt_beyond_rfc
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from srwan.errors import ConfigError, WalletLocked
from srwan.ledger_client.settlement.signing import Address, WalletKey, keccak256

__all__ = [
    "SCRYPT_N",
    "address_of_wallet",
    "ask_passphrase",
    "create_wallet",
    "decrypt_key",
    "encrypt_key",
    "open_wallet",
    "read_passphrase_fd",
    "read_passphrase_file",
]

SCRYPT_N = 2**17
"""Cost of a derivation that we choose, with r = 8 and p = 1: 128 MB, about 0.4 s."""
SCRYPT_R = 8
SCRYPT_P = 1
SCRYPT_BYTES_MAX = 1 << 29
"""Memory that a file may ask for, bytes: four times ours, twice what geth writes."""
SCRYPT_WORK_MAX = 1 << 24
"""n * r * p that a file may ask for: sixteen times ours, some seconds."""
PBKDF2_ROUNDS_MAX = 10_000_000
"""Rounds that a file may ask for: some seconds."""
WALLET_BYTES_MAX = 8192
"""Longest file, bytes; ours have 520."""
PASSPHRASE_BYTES_MAX = 1024
PASSPHRASE_CHARACTERS_MIN = 8
"""Of a new file; those made elsewhere are opened with what they have (NIST SP 800-63B 5.1.1.1)."""
_KEY_BYTES = 32


@attrs.frozen(slots=True)
class _Sealed:
    """The checked content of a key file; nothing of it is secret without the passphrase."""

    ciphertext: bytes
    iv: bytes
    mac: bytes
    salt: bytes
    work: tuple[int, int, int] | int
    """n, r, p of scrypt, or rounds of PBKDF2."""
    address: Address | None
    """What the file says of itself; None if it says nothing."""

    def derive(self, passphrase: str) -> bytes:
        """Return the derived key, 32 B. Cost: what the file asks for, within the bounds."""
        if isinstance(self.work, int):
            return hashlib.pbkdf2_hmac("sha256", passphrase.encode(), self.salt, self.work, _KEY_BYTES)
        return _scrypt(passphrase, self.salt, *self.work)


def _scrypt(passphrase: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    if n >= 1 << 16 * r:  # what the format's first test vector has, though RFC 7914 excludes it and OpenSSL refuses it
        return bytes(_scrypt_beyond_rfc(passphrase, salt, _KEY_BYTES, n, r, p))  # type: ignore[arg-type]
    memory = 128 * r * (n + p + 2) + 65536
    return hashlib.scrypt(passphrase.encode(), salt=salt, n=n, r=r, p=p, maxmem=memory, dklen=_KEY_BYTES)


def _apply_aes_ctr(key: bytes, iv: bytes, data: bytes) -> bytes:
    worker = Cipher(AES(key), CTR(iv)).encryptor()
    return worker.update(data) + worker.finalize()


# --- bytes -----------------------------------------------------------------------------------------------------------


def encrypt_key(key: WalletKey, passphrase: str, *, scrypt_n: int = SCRYPT_N) -> bytes:
    """Return the content of a key file.

    Args:
        key: what is kept.
        passphrase: as it is, in UTF-8.
        scrypt_n: cost, a power of two; less than the default for tests only.

    Raises:
        ValueError: the passphrase is empty or too long.
    """
    if not 1 <= len(passphrase.encode()) <= PASSPHRASE_BYTES_MAX:
        raise ValueError(f"a passphrase has 1..{PASSPHRASE_BYTES_MAX} bytes")
    salt, iv = secrets.token_bytes(32), secrets.token_bytes(16)
    derived = _scrypt(passphrase, salt, scrypt_n, SCRYPT_R, SCRYPT_P)
    ciphertext = _apply_aes_ctr(derived[:16], iv, key.reveal())
    content = {
        "address": key.address.hex(),
        "crypto": {
            "cipher": "aes-128-ctr",
            "cipherparams": {"iv": iv.hex()},
            "ciphertext": ciphertext.hex(),
            "kdf": "scrypt",
            "kdfparams": {"dklen": _KEY_BYTES, "n": scrypt_n, "p": SCRYPT_P, "r": SCRYPT_R, "salt": salt.hex()},
            "mac": keccak256(derived[16:] + ciphertext).hex(),
        },
        "id": str(uuid.UUID(bytes=secrets.token_bytes(16), version=4)),
        "version": 3,
    }
    return json.dumps(content).encode() + b"\n"


def decrypt_key(data: bytes, passphrase: str, *, where: str = "wallet") -> WalletKey:
    """Return the key in the content of a key file.

    Args:
        data: the content, from anywhere.
        passphrase: for it.
        where: what errors call it.

    Raises:
        WalletLocked: not a key file, damaged, beyond the bounds, or the passphrase is wrong.
    """
    return _unlock(_parse(data, where), passphrase, where)


def _unlock(sealed: _Sealed, passphrase: str, where: str) -> WalletKey:
    try:
        derived = sealed.derive(passphrase)
    except (ValueError, MemoryError, UnicodeEncodeError):
        raise WalletLocked(where, "the passphrase cannot be tried", "free some memory, or use another passphrase") from None
    if not hmac.compare_digest(keccak256(derived[16:] + sealed.ciphertext), sealed.mac):
        raise WalletLocked(
            where, "the passphrase is wrong, or the file is damaged", "try another passphrase, or restore the file from a backup"
        )
    try:
        key = WalletKey(_apply_aes_ctr(derived[:16], sealed.iv, sealed.ciphertext))
    except ValueError:
        _refuse_damaged(where)
    if sealed.address not in (None, key.address):
        _refuse_damaged(where)  # the address is not under the MAC
    return key


def _refuse_damaged(where: str) -> NoReturn:
    raise WalletLocked(where, "not a key file of a wallet, or damaged", "restore it from a backup, or name another file") from None


def _parse(data: bytes, where: str) -> _Sealed:
    if len(data) > WALLET_BYTES_MAX:
        _refuse_damaged(where)
    try:
        content = {str(key).lower(): value for key, value in dict(json.loads(data)).items()}
        return _sealed_of(content)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        _refuse_damaged(where)


def _sealed_of(content: dict[str, Any]) -> _Sealed:
    """Raises: ValueError, TypeError, KeyError, AttributeError for whatever is not as it should be."""
    crypto = content["crypto"]
    if (content["version"], crypto["cipher"]) != (3, "aes-128-ctr"):
        raise ValueError("another version or cipher")
    ciphertext, iv = _hex(crypto["ciphertext"], _KEY_BYTES, _KEY_BYTES), _hex(crypto["cipherparams"]["iv"], 1, 16)
    address = content.get("address")
    return _Sealed(
        ciphertext=ciphertext,
        iv=iv.rjust(16, b"\0"),
        mac=_hex(crypto["mac"], 32, 32),
        salt=_hex(crypto["kdfparams"]["salt"], 1, 64),
        work=_work_of(crypto["kdf"], crypto["kdfparams"]),
        address=Address(_hex(address.removeprefix("0x"), 20, 20)) if address else None,
    )


def _work_of(kdf: str, parameters: dict[str, Any]) -> tuple[int, int, int] | int:
    if parameters["dklen"] != _KEY_BYTES:
        raise ValueError("another length of the derived key")
    if kdf == "pbkdf2":
        if parameters["prf"] != "hmac-sha256":
            raise ValueError("another function of PBKDF2")
        return _whole(parameters["c"], PBKDF2_ROUNDS_MAX)
    if kdf != "scrypt":
        raise ValueError("another derivation")
    n, r, p = (_whole(parameters[name], SCRYPT_WORK_MAX) for name in "nrp")
    if n < 2 or n & (n - 1) or 128 * n * r > SCRYPT_BYTES_MAX or n * r * p > SCRYPT_WORK_MAX:
        raise ValueError("a cost that is out of bounds")
    return n, r, p


def _whole(value: Any, value_max: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= value_max:
        raise ValueError("out of bounds")
    return value


def _hex(value: str, bytes_min: int, bytes_max: int) -> bytes:
    data = bytes.fromhex(value)
    if not bytes_min <= len(data) <= bytes_max:
        raise ValueError("another length")
    return data


# --- files -----------------------------------------------------------------------------------------------------------


def create_wallet(path: Path, passphrase: str, *, key: WalletKey | None = None, scrypt_n: int = SCRYPT_N) -> WalletKey:
    """Write a new key file and return its key.

    Args:
        path: of the file; its folder is made where it is missing.
        passphrase: at least PASSPHRASE_CHARACTERS_MIN characters.
        key: None for a new one, from the randomness of the operating system.
        scrypt_n: as `encrypt_key`.

    Raises:
        ConfigError: the passphrase is too short or too long, there is a file of that name, or the folder cannot be written. Nothing is
            left behind.
    """
    if len(passphrase) < PASSPHRASE_CHARACTERS_MIN or len(passphrase.encode()) > PASSPHRASE_BYTES_MAX:
        problem = f"a passphrase of {len(passphrase)} characters"
        raise ConfigError(str(path), problem, f"give {PASSPHRASE_CHARACTERS_MIN} characters at least, {PASSPHRASE_BYTES_MAX} bytes at most")
    if path.exists():
        _refuse_overwriting(path)
    made = key or WalletKey.generate()
    _write_new(path, encrypt_key(made, passphrase, scrypt_n=scrypt_n))
    return made


def _refuse_overwriting(path: Path) -> NoReturn:
    raise ConfigError(str(path), "there is a file of that name already", "choose another name; a key file is never overwritten") from None


def _write_new(path: Path, data: bytes) -> None:
    """Let a file appear complete, 0600, under a name that is free."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mkstemp creates with 0600
    except OSError as error:
        raise ConfigError(str(path), f"cannot create the key file ({error.strerror})", "choose a folder that can be written") from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
        _sync_folder(path.parent)
    except FileExistsError:
        _refuse_overwriting(path)
    except OSError as error:
        raise ConfigError(str(path), f"cannot write the key file ({error.strerror})", "free some space or choose another folder") from None
    finally:
        os.unlink(temporary)


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def open_wallet(path: Path, passphrase: str) -> WalletKey:
    """Return the key in a key file. Cost: 0.4 s for files of ours.

    Raises:
        WalletLocked: missing, readable by others, not a key file, damaged, or the passphrase is wrong.
    """
    return decrypt_key(
        _read_private(path, WALLET_BYTES_MAX, "key file", "create one with `srwan wallet create`"), passphrase, where=str(path)
    )


def address_of_wallet(path: Path) -> Address | None:
    """Return the address that a key file gives of itself, without its passphrase; None if it gives none.

    Whoever can write the file can write another address there: before money is sent to it, open the file.

    Raises:
        WalletLocked: missing, readable by others, not a key file, or damaged.
    """
    return _parse(_read_key_file(path), str(path)).address


def _read_key_file(path: Path) -> bytes:
    return _read_private(path, WALLET_BYTES_MAX, "key file", "create one with `srwan wallet create`")


def _read_private(path: Path, bytes_max: int, what: str, remedy: str) -> bytes:
    """Return the content of a file that is its owner's alone; one byte more than `bytes_max` at most."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe of that name must not make us wait
    except FileNotFoundError:
        raise WalletLocked(str(path), f"no {what}", remedy) from None
    except (OSError, ValueError) as error:
        raise WalletLocked(str(path), f"cannot read the {what} ({_reason(error)})", "check the file and its owner") from None
    try:
        info = os.fstat(handle)
        if not stat.S_ISREG(info.st_mode):
            raise WalletLocked(str(path), f"the {what} is no regular file", "name the file itself")
        if stat.S_IMODE(info.st_mode) & 0o077:
            raise WalletLocked(str(path), f"the {what} can be read by others", f"run `chmod 600 {path}`")
        return os.read(handle, bytes_max + 1)
    except OSError as error:
        raise WalletLocked(str(path), f"cannot read the {what} ({_reason(error)})", "check the file and its owner") from None
    finally:
        os.close(handle)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__


# --- passphrases -----------------------------------------------------------------------------------------------------


def read_passphrase_file(path: Path) -> str:
    """Return the passphrase in a file: its content without the newline at its end.

    Raises:
        WalletLocked: missing, readable by others, empty, too long, or not text.
    """
    data = _read_private(path, PASSPHRASE_BYTES_MAX + 2, "passphrase file", "write the passphrase into it, mode 0600")
    return _passphrase_of(data, str(path))


def read_passphrase_fd(number: int) -> str:
    """Return the passphrase that comes out of an open file descriptor, which is closed: up to its end, without the newline there.

    Raises:
        WalletLocked: not open for reading, empty, too long, or not text.
    """
    where = f"file descriptor {number}"
    try:
        with os.fdopen(number, "rb") as file:
            data = file.read(PASSPHRASE_BYTES_MAX + 3)
    except (OSError, ValueError, TypeError, OverflowError) as error:
        raise WalletLocked(where, f"cannot read the passphrase ({_reason(error)})", f"open it, as in `{number}<FILE`") from None
    return _passphrase_of(data, where)


def ask_passphrase(what: str, *, is_new: bool = False) -> str:
    """Ask at the terminal, without showing what is typed.

    Args:
        what: what it is for, shown before the colon.
        is_new: ask twice, and refuse two different ones.

    Raises:
        WalletLocked: there is no terminal, nothing was typed, or the two differ.
    """
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))  # else getpass would read what is typed in plain sight
    except OSError:
        raise WalletLocked("passphrase", "there is no terminal to ask at", "give --passphrase-file or --passphrase-fd") from None
    try:
        typed = getpass.getpass(f"passphrase for {what}: ")
        if is_new and typed and len(typed) < PASSPHRASE_CHARACTERS_MIN:
            raise WalletLocked(
                "passphrase", "too short", f"take {PASSPHRASE_CHARACTERS_MIN} characters at least, better several random words"
            )
        if is_new and getpass.getpass("the same again: ") != typed:
            raise WalletLocked("passphrase", "the two differ", "try again")
    except EOFError:
        typed = ""
    return _passphrase_of(typed.encode(errors="surrogateescape"), "passphrase")


def _passphrase_of(data: bytes, where: str) -> str:
    line = data.removesuffix(b"\n").removesuffix(b"\r")
    if not 1 <= len(line) <= PASSPHRASE_BYTES_MAX:
        raise WalletLocked(where, "no passphrase" if not line else "too long for a passphrase", f"give 1..{PASSPHRASE_BYTES_MAX} bytes")
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise WalletLocked(where, "the passphrase is not text", "give it in UTF-8") from None
