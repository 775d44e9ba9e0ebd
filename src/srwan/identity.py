"""A router's identity: one Ed25519 seed, from which the NodeId, the libp2p PeerID and the X25519 key all derive.

The seed lives in one file, mode 0600, created atomically. Every signature is domain-separated: what is signed is
`domain || 0x00 || message`, and a domain (`b"srwan/<what>/<version>"`) holds no zero byte, so that a signature made for one
purpose can never be presented for another. The private seed never reaches a log, an error or `repr`.

X25519 form of Ed25519 keys: libsodium's birational map (RFC 7748 section 4.1). PeerID: "identity" multihash of the protobuf
public key, `00 24 08 01 12 20` followed by the key (libp2p specs, peer-ids).
"""

from __future__ import annotations

import functools
import os
import secrets
import stat
import tempfile
from pathlib import Path

import nacl.bindings as sodium
import nacl.exceptions

from srwan.errors import BadSignature, ConfigError, DecodeError
from srwan.types import NodeId

__all__ = ["Identity", "is_signed_by", "node_id_of_peer_id", "peer_id_bytes", "require_signature", "x25519_public_key"]

SIGNATURE_BYTES = 64
SEED_BYTES = 32
_FILE_MAGIC = "srwan-identity-1"
_FILE_BYTES_MAX = 256
_PEER_ID_PREFIX = bytes.fromhex("002408011220")


class Identity:
    """The private half of a NodeId.

    Args:
        seed: 32 secret bytes; the Ed25519 private key of RFC 8032.

    Raises:
        ValueError: seed is not 32 bytes.
    """

    __slots__ = ("_ed25519_secret", "_seed", "_x25519_secret", "node_id")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise ValueError(f"an identity seed has {SEED_BYTES} bytes, not {len(seed)}")
        public, secret = sodium.crypto_sign_seed_keypair(seed)
        self._seed = seed
        self._ed25519_secret = secret
        self._x25519_secret: bytes = sodium.crypto_sign_ed25519_sk_to_curve25519(secret)
        self.node_id = NodeId(public)

    @classmethod
    def generate(cls) -> Identity:
        """Make a new identity from the operating system's random source. Nothing is written."""
        return cls(secrets.token_bytes(SEED_BYTES))

    @classmethod
    def load(cls, path: Path) -> Identity:
        """Read an identity file.

        Raises:
            ConfigError: missing, not a regular file, readable by others, or not an identity file. Nothing is changed.
        """
        try:
            info = path.stat()
            text = path.read_text("ascii") if stat.S_ISREG(info.st_mode) and info.st_size <= _FILE_BYTES_MAX else ""
        except FileNotFoundError:
            raise ConfigError(str(path), "no identity file", "create one with `srwan identity new`") from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                str(path), f"cannot read the identity file ({type(error).__name__})", "check the file and its owner"
            ) from None
        if stat.S_IMODE(info.st_mode) & 0o077:
            raise ConfigError(str(path), "the identity file can be read by others", f"run `chmod 600 {path}`")
        magic, _, seed_hex = text.strip().partition(" ")
        try:
            seed = bytes.fromhex(seed_hex)
        except ValueError:
            seed = b""
        if magic != _FILE_MAGIC or len(seed) != SEED_BYTES:
            raise ConfigError(
                str(path), "not an identity file, or damaged", "restore it from a backup or move it away to get a new identity"
            )
        return cls(seed)

    @classmethod
    def load_or_create(cls, path: Path) -> Identity:
        """Read an identity file, or create it with a new identity if there is none.

        The file appears complete or not at all: it is written beside its place with mode 0600, synced and linked into place; if
        another process was quicker, that one's identity is used.

        Raises:
            ConfigError: as `load`, or the folder cannot be written.
        """
        if path.exists():
            return cls.load(path)
        identity = cls.generate()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mkstemp creates with 0600
        except OSError as error:
            raise ConfigError(
                str(path), f"cannot create the identity file ({error.strerror})", "choose a folder that can be written"
            ) from None
        try:
            with os.fdopen(handle, "w", encoding="ascii") as file:
                file.write(f"{_FILE_MAGIC} {identity._seed.hex()}\n")
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, path)
        except FileExistsError:
            return cls.load(path)
        except OSError as error:
            raise ConfigError(
                str(path), f"cannot write the identity file ({error.strerror})", "free some space or choose another folder"
            ) from None
        finally:
            os.unlink(temporary)
        return identity

    @property
    def seed(self) -> bytes:
        """The secret seed, for handing the same key to libp2p. Never log it."""
        return self._seed

    @property
    def x25519_secret(self) -> bytes:
        """The X25519 form of the private key, 32 bytes, for handshakes. Never log it."""
        return self._x25519_secret

    def sign(self, domain: bytes, message: bytes) -> bytes:
        """Return the 64-byte signature of `message` under `domain`. Cost: 18 us for 600 B."""
        signed: bytes = sodium.crypto_sign(domain + b"\x00" + message, self._ed25519_secret)
        return signed[:SIGNATURE_BYTES]

    def shared_secret(self, peer: NodeId) -> bytes:
        """Return the 32-byte static X25519 secret shared with `peer`: the same at both ends. Cost: 31 us and a key map.

        Raises:
            BadSignature: `peer` is no usable public key (not on the curve, or of low order).
        """
        try:
            secret: bytes = sodium.crypto_scalarmult(self._x25519_secret, x25519_public_key(peer))
        except nacl.exceptions.CryptoError:
            raise BadSignature(f"{peer!r} is not a usable public key", reason="bad-key") from None
        return secret

    def __repr__(self) -> str:
        return f"Identity({self.node_id!r})"


@functools.lru_cache(maxsize=1024)
def x25519_public_key(node: NodeId) -> bytes:
    """Return the X25519 form of a NodeId, 32 bytes. Remembered: all nodes of one process map a key once.

    Raises:
        BadSignature: not a point of the curve, or of low order.
    """
    try:
        key: bytes = sodium.crypto_sign_ed25519_pk_to_curve25519(node)
    except (nacl.exceptions.CryptoError, nacl.exceptions.TypeError):
        raise BadSignature(f"{node!r} is not a usable public key", reason="bad-key") from None
    return key


def is_signed_by(node: NodeId, domain: bytes, message: bytes, signature: bytes) -> bool:
    """Say whether `signature` is `node`'s over `message` under `domain`. Never raises on hostile input. Cost: 44 us for 600 B."""
    if len(signature) != SIGNATURE_BYTES:
        return False
    try:
        sodium.crypto_sign_open(signature + domain + b"\x00" + message, node)
    except nacl.exceptions.BadSignatureError:
        return False
    return True


def require_signature(node: NodeId, domain: bytes, message: bytes, signature: bytes) -> None:
    """Return if `signature` is good.

    Raises:
        BadSignature: it is not.
    """
    if not is_signed_by(node, domain, message, signature):
        raise BadSignature(f"bad {domain.decode('ascii', 'replace')} signature of {node!r}")


def peer_id_bytes(node: NodeId) -> bytes:
    """Return the libp2p PeerID of a node, 38 bytes."""
    return _PEER_ID_PREFIX + node


def node_id_of_peer_id(peer_id: bytes) -> NodeId:
    """Return the NodeId inside a libp2p PeerID.

    Raises:
        DecodeError: not an Ed25519 identity PeerID.
    """
    if len(peer_id) != len(_PEER_ID_PREFIX) + 32 or not peer_id.startswith(_PEER_ID_PREFIX):
        raise DecodeError(f"not an Ed25519 PeerID ({len(peer_id)} bytes)")
    return NodeId(peer_id[len(_PEER_ID_PREFIX) :])
