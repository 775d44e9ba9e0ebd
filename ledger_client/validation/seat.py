"""A validator's seat: proof that a router's key speaks for a validator's wallet.

Theory of operation. Validators are wallets on the settlement contract, and what they publish is signed by router keys. So every verdict and
batch carries a signature of the wallet over the id of the router: "what this router publishes as a validator, I publish". It is
the same each time and is checked once per router. It grants nothing but that: a batch still needs the wallet's own signature.

EIP-712: "Seat(bytes32 node)".
"""

from __future__ import annotations

from srwan.ledger_client.settlement.signing import Address, SettlementDomain, WalletKey, keccak256, recover, type_hash
from srwan.types import NodeId

__all__ = ["seat_holder", "sign_seat"]

_SEAT = type_hash("Seat(bytes32 node)")


def _digest(domain: SettlementDomain, node: NodeId) -> bytes:
    return domain.digest(keccak256(_SEAT + node))


def sign_seat(key: WalletKey, domain: SettlementDomain, node: NodeId) -> bytes:
    """Let a router speak for the wallet as a validator; 65 B."""
    return key.sign(_digest(domain, node))


def seat_holder(domain: SettlementDomain, node: NodeId, signature: bytes) -> Address:
    """Return the wallet that lets `node` speak for it; whether that is a validator's is the caller's question. Cost: one `recover`.

    Raises:
        BadSignature: no signature of any wallet.
    """
    return recover(_digest(domain, node), signature)
