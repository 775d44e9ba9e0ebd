"""A bond: what certifies an anonymous seller. Not a name, but tokens that lie in escrow.

Theory of operation. An anonymous listing is signed by a key that stands for nothing else. A wallet signs that it stands behind this key
with so many microtokens; the settlement says whether it has as much in escrow. The buyer asks for both, and that the router answers under
the key itself: the offer must have come over the authenticated control channel of that very router (`book.py`), so nobody lists a router
that does not exist. One wallet may stand behind several keys; its escrow is then counted for each, and the buyer sees it.

What is not hidden: a buyer learns the router's addresses, validators its plans, and everybody who watches the chain its wallet's earnings.
What is: name, place, and the operator's other routers.

Signature: EIP-712 "SellerBond(bytes32 seller,uint128 bond)" under the settlement's domain.
"""

from __future__ import annotations

from typing import Any, Self

import attrs

from srwan.errors import BadSignature, DecodeError
from srwan.ledger_client.settlement.signing import (
    SIGNATURE_BYTES,
    Address,
    SettlementDomain,
    WalletKey,
    keccak256,
    recover,
    type_hash,
    word,
)
from srwan.ledger_client.settlement.terms import UINT128_MAX
from srwan.types import NodeId

__all__ = ["Bond", "sign_bond"]

_TYPE = type_hash("SellerBond(bytes32 seller,uint128 bond)")


@attrs.frozen(slots=True)
class Bond:
    """A wallet's word that it stands behind a key.

    Raises:
        ValueError: a field is out of bounds.
    """

    amount_microtoken: int
    """What it says it has in escrow at least, microtokens."""
    signature: bytes
    """Of the wallet, 65 B."""

    def __attrs_post_init__(self) -> None:
        if not 0 < self.amount_microtoken <= UINT128_MAX:
            raise ValueError(f"a bond of {self.amount_microtoken} microtokens")
        if len(self.signature) != SIGNATURE_BYTES:
            raise ValueError(f"a wallet's signature has {SIGNATURE_BYTES} bytes, not {len(self.signature)}")

    def verify(self, seller: NodeId, wallet: Address, domain: SettlementDomain) -> None:
        """Return if the wallet signed it for this seller and settlement; whether the escrow is there is the settlement's to say.

        Raises:
            BadSignature: it did not.
        """
        if recover(_digest(domain, seller, self.amount_microtoken), self.signature) != wallet:
            raise BadSignature(f"a bond for {seller!r} that is not its wallet's")

    def value(self) -> list[bytes]:
        """Return it as a msgpack value."""
        return [self.amount_microtoken.to_bytes(16, "big"), self.signature]

    @classmethod
    def of_value(cls, value: Any) -> Self:
        """Return the bond that a parsed msgpack value is.

        Raises:
            DecodeError: it is none. ValueError: out of bounds.
        """
        match value:
            case [bytes(amount), bytes(signature)] if len(amount) == 16:
                return cls(int.from_bytes(amount, "big"), signature)
            case _:
                raise DecodeError("not a bond")


def sign_bond(key: WalletKey, domain: SettlementDomain, seller: NodeId, amount_microtoken: int) -> Bond:
    """Let a wallet stand behind a seller's key.

    Raises:
        ValueError: the amount is out of range.
    """
    return Bond(amount_microtoken, key.sign(_digest(domain, seller, amount_microtoken)))


def _digest(domain: SettlementDomain, seller: NodeId, amount_microtoken: int) -> bytes:
    return domain.digest(keccak256(_TYPE + seller + word(amount_microtoken)))
