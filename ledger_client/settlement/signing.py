"""Signatures that an EVM can check: Keccak-256, secp256k1 with recovery, EIP-712 digests.

Not here: where a key is kept (`keystore.py`). A `WalletKey` signs digests that this package made of typed data and nothing else: it has no
method that signs bytes of others, so no peer can have a transaction signed under the name of a ticket.

Source: EIP-712 (typed structured data), EIP-2 (low s), SEC 1 4.1.6 (recovery). Cost, on a machine where an Ed25519 signature is checked in
43 us: sign 41 us, recover 48 us (1.1 such checks; a ticket takes 1.2), Keccak 3 us.
"""

from __future__ import annotations

from typing import Self

import attrs
import coincurve
from Crypto.Hash import keccak as _keccak

from srwan.errors import BadSignature

__all__ = ["ADDRESS_BYTES", "SIGNATURE_BYTES", "Address", "SettlementDomain", "WalletKey", "keccak256", "recover", "type_hash", "word"]

ADDRESS_BYTES = 20
SIGNATURE_BYTES = 65
"""r (32 B), s (32 B), v (27 or 28)."""
WORD_MAX = 2**256 - 1
_ORDER_HALF = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0
"""Half the order of the curve: a signature with a greater s has a twin, and is refused (EIP-2)."""


def keccak256(data: bytes) -> bytes:
    """Return the Keccak-256 of `data`, 32 B (the EVM's; not SHA3-256, whose padding differs)."""
    return _keccak.new(digest_bits=256, data=data).digest()


class Address(bytes):
    """An account of the settlement engine, 20 bytes. Compares, hashes and packs as plain bytes.

    Raises:
        ValueError: not 20 bytes.
    """

    __slots__ = ()

    def __new__(cls, value: bytes) -> Self:
        """Check the length."""
        if len(value) != ADDRESS_BYTES:
            raise ValueError(f"an address has {ADDRESS_BYTES} bytes, not {len(value)}")
        return super().__new__(cls, value)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "0x..." of 40 hexadecimal digits; where they are in mixed case the checksum must be right (EIP-55).

        Raises:
            ValueError: it is not that.
        """
        digits = text.removeprefix("0x")
        if len(digits) != 2 * ADDRESS_BYTES:
            raise ValueError(f"{text!r} is no address: 0x and 40 hexadecimal digits")
        address = cls(bytes.fromhex(digits))
        if digits not in (digits.lower(), digits.upper()) and str(address) != f"0x{digits}":
            raise ValueError(f"{text!r} has a wrong checksum: a digit is mistyped")
        return address

    def __str__(self) -> str:
        digits = self.hex()
        marks = keccak256(digits.encode()).hex()
        return "0x" + "".join(digit.upper() if int(mark, 16) >= 8 else digit for digit, mark in zip(digits, marks, strict=False))

    def __repr__(self) -> str:
        return f"Address({str(self)[:10]}...)"


def word(value: int | bytes) -> bytes:
    """Return an ABI word, 32 B: an unsigned integer, or up to 32 bytes padded on the left as an address is.

    Raises:
        ValueError: it does not fit.
    """
    if isinstance(value, int):
        if not 0 <= value <= WORD_MAX:
            raise ValueError(f"{value} does not fit an unsigned word of 256 bits")
        return value.to_bytes(32, "big")
    if len(value) > 32:
        raise ValueError(f"{len(value)} bytes do not fit a word")
    return value.rjust(32, b"\0")


def type_hash(signature: str) -> bytes:
    """Return the type hash of an EIP-712 struct, given as "Name(type field,...)"."""
    return keccak256(signature.encode())


_DOMAIN_TYPE = type_hash("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)")
_NAME = keccak256(b"srwan")
_VERSION = keccak256(b"1")


@attrs.frozen(slots=True)
class SettlementDomain:
    """Which contract on which chain a signature is for: one made for another is worthless here."""

    chain_id: int
    """EIP-155 chain id."""
    contract: Address
    _separator: bytes = attrs.field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        separator = keccak256(_DOMAIN_TYPE + _NAME + _VERSION + word(self.chain_id) + word(self.contract))
        object.__setattr__(self, "_separator", separator)

    def digest(self, struct_hash: bytes) -> bytes:
        """Return what is signed for a typed struct, 32 B."""
        return keccak256(b"\x19\x01" + self._separator + struct_hash)


class WalletKey:
    """The private key of a wallet. Never printed, never logged.

    Args:
        secret: 32 bytes.

    Raises:
        ValueError: no valid key.
    """

    __slots__ = ("_key", "address")

    def __init__(self, secret: bytes) -> None:
        self._key = coincurve.PrivateKey(secret)
        self.address = _address_of(self._key.public_key)
        """The account that this key speaks for."""

    @classmethod
    def generate(cls) -> WalletKey:
        """Make a new key from the randomness of the operating system."""
        return cls(coincurve.PrivateKey().secret)

    def sign(self, digest: bytes) -> bytes:
        """Return the signature over a 32-byte digest, 65 B: r, s, v; deterministic (RFC 6979). Cost: see the header."""
        signature = self._key.sign_recoverable(digest, hasher=None)
        return signature[:64] + bytes([27 + signature[64]])

    def reveal(self) -> bytes:
        """Return the secret, 32 B: for the encrypted key file and the signing of transactions only."""
        return self._key.secret

    def __repr__(self) -> str:
        return f"WalletKey({self.address!r})"


def _address_of(key: coincurve.PublicKey) -> Address:
    return Address(keccak256(key.format(compressed=False)[1:])[-ADDRESS_BYTES:])


def recover(digest: bytes, signature: bytes) -> Address:
    """Return whose signature over `digest` this is; whether it is the right account is the caller's question. Cost: see the header.

    Raises:
        BadSignature: not 65 bytes, v is not 27 or 28, s is not low, or no key fits.
    """
    if len(signature) != SIGNATURE_BYTES or signature[64] not in (27, 28):
        raise BadSignature("a wallet's signature has 65 bytes, the last one 27 or 28")
    if int.from_bytes(signature[32:64], "big") > _ORDER_HALF:
        raise BadSignature("a wallet's signature with a high s (EIP-2)")
    try:
        recoverable = signature[:64] + bytes([signature[64] - 27])
        key = coincurve.PublicKey.from_signature_and_message(recoverable, digest, hasher=None)
    except Exception as error:  # noqa: BLE001 - the library raises plain Exception for a point that is not on the curve
        raise BadSignature(f"a wallet's signature that no key fits ({error})") from None
    return _address_of(key)
