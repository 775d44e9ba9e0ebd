"""Binding a router to a wallet: the router's request, and a validator's answer.

Theory of operation. The contract cannot check Ed25519, so validators do: a router signs under "srwan/binding/1" which wallet it wants to be
paid at, on which contract, under which sequence; the wallet signs the EIP-712 binding. A validator that finds both good signs the same
binding; with a quorum of such signatures anyone may hand it to the contract. Nobody can bind a router without its key, nor to a wallet
without that wallet's; an old request cannot come back, for the contract takes rising sequences only.

The request is filed as a CLAIM record of the router under the topic BINDING_TOPIC; the answers are VERDICT records of the validators whose
topic is the router's id.

Layouts, canonical msgpack: ["binding/1", wallet, sequence, wallet signature, router's signature]; answer ["binding/1", node, wallet,
sequence, signature or empty, reason, seat].
"""

from __future__ import annotations

from typing import Self

import attrs

from srwan.errors import BadSignature, DecodeError
from srwan.identity import SIGNATURE_BYTES as NODE_SIGNATURE_BYTES
from srwan.identity import Identity, require_signature
from srwan.ledger_client.record import Kind, Version
from srwan.ledger_client.settlement.settlement import binding_digest
from srwan.ledger_client.settlement.signing import ADDRESS_BYTES, SIGNATURE_BYTES, Address, SettlementDomain, WalletKey, recover
from srwan.ledger_client.settlement.terms import UINT64_MAX
from srwan.ledger_client.statement import MARKET_GROUP, Statement
from srwan.ledger_client.validation.verdict import ACCEPTED, is_reason
from srwan.types import NodeId
from srwan.wire import pack, unpack

__all__ = ["BINDING_TOPIC", "BindingRequest", "BindingVote"]

BINDING_TOPIC = b"binding"
BINDING_BYTES_MAX = 512
LAYOUT = "binding/1"
_DOMAIN = b"srwan/binding/1"


def _message(domain: SettlementDomain, wallet: Address, sequence: int) -> bytes:
    return pack([domain.chain_id, domain.contract, wallet, sequence])


@attrs.frozen(slots=True)
class BindingRequest:
    """What a router asks for. Raises ValueError where a field is out of bounds."""

    node: NodeId
    wallet: Address
    sequence: int
    """Greater than that of the binding it replaces, 1..2**64-1."""
    wallet_signature: bytes
    """Of the wallet over `binding_digest`, 65 B."""
    node_signature: bytes
    """Of the router over chain id, contract, wallet and sequence, 64 B."""

    def __attrs_post_init__(self) -> None:
        if not 1 <= self.sequence <= UINT64_MAX:
            raise ValueError(f"a binding's sequence is 1..2**64-1, not {self.sequence}")
        if len(self.wallet_signature) != SIGNATURE_BYTES or len(self.node_signature) != NODE_SIGNATURE_BYTES:
            raise ValueError("a signature of a binding has the wrong length")

    @classmethod
    def sign(cls, identity: Identity, key: WalletKey, domain: SettlementDomain, sequence: int) -> Self:
        """Make a request with both keys."""
        wallet_signature = key.sign(binding_digest(domain, identity.node_id, key.address, sequence))
        node_signature = identity.sign(_DOMAIN, _message(domain, key.address, sequence))
        return cls(identity.node_id, key.address, sequence, wallet_signature, node_signature)

    def verify(self, domain: SettlementDomain) -> None:
        """Return if both keys asked for it.

        Raises:
            BadSignature: one did not; `reason` is "node-signature" or "wallet-signature".
        """
        try:
            require_signature(self.node, _DOMAIN, _message(domain, self.wallet, self.sequence), self.node_signature)
        except BadSignature as error:
            raise BadSignature(str(error), reason="node-signature") from None
        if recover(binding_digest(domain, self.node, self.wallet, self.sequence), self.wallet_signature) != self.wallet:
            raise BadSignature(f"{self.wallet} did not sign that it takes the earnings of {self.node!r}", reason="wallet-signature")

    def encode(self) -> bytes:
        """Return the content of the CLAIM record."""
        return pack([LAYOUT, self.wallet, self.sequence, self.wallet_signature, self.node_signature])

    @classmethod
    def decode(cls, node: NodeId, data: bytes) -> Self:
        """Parse the content of a CLAIM record of `node`; nothing is verified.

        Raises:
            LimitExceeded, DecodeError: too long or malformed.
        """
        match unpack(data, bytes_max=BINDING_BYTES_MAX):
            case [str(layout), bytes(wallet), int(sequence), bytes(wallet_signature), bytes(node_signature)] if (
                layout == LAYOUT and len(wallet) == ADDRESS_BYTES and not isinstance(sequence, bool)
            ):
                pass
            case _:
                raise DecodeError("not a request for a binding")
        try:
            return cls(node, Address(wallet), sequence, wallet_signature, node_signature)
        except ValueError as error:
            raise DecodeError(f"malformed request for a binding: {error}") from None

    def statement(self, version: Version, *, issued_ns: int, expires_ns: int) -> Statement:
        """Return the statement by which the router files it."""
        return Statement(Kind.CLAIM, MARKET_GROUP, self.node, BINDING_TOPIC, version, issued_ns, expires_ns, self.encode())


@attrs.frozen(slots=True)
class BindingVote:
    """One validator's answer. Raises ValueError where a field is out of bounds."""

    node: NodeId
    wallet: Address
    sequence: int
    signature: bytes
    """Of the validator's wallet over `binding_digest`, 65 B; empty where it refuses."""
    reason: str
    """ACCEPTED, or why not."""
    seat: bytes
    """As in `ClaimVerdict`."""

    def __attrs_post_init__(self) -> None:
        if not 1 <= self.sequence <= UINT64_MAX or len(self.seat) != SIGNATURE_BYTES or not is_reason(self.reason):
            raise ValueError("an answer to a binding is out of bounds")
        if len(self.signature) != (SIGNATURE_BYTES if self.reason == ACCEPTED else 0):
            raise ValueError("a binding is signed, or refused for a reason")

    def encode(self) -> bytes:
        """Return the content of the VERDICT record."""
        return pack([LAYOUT, self.node, self.wallet, self.sequence, self.signature, self.reason, self.seat])

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Parse the content of a VERDICT record; nothing is verified.

        Raises:
            LimitExceeded, DecodeError: too long or malformed.
        """
        match unpack(data, bytes_max=BINDING_BYTES_MAX):
            case [
                str(layout), bytes(node), bytes(wallet), int(sequence), bytes(signature), str(reason), bytes(seat),
            ] if layout == LAYOUT and len(node) == 32 and len(wallet) == ADDRESS_BYTES and not isinstance(sequence, bool):  # fmt: skip
                pass
            case _:
                raise DecodeError("not an answer to a binding")
        try:
            return cls(NodeId(node), Address(wallet), sequence, signature, reason, seat)
        except ValueError as error:
            raise DecodeError(f"malformed answer to a binding: {error}") from None

    def statement(self, validator: NodeId, version: Version, *, issued_ns: int, expires_ns: int) -> Statement:
        """Return the statement that publishes it."""
        return Statement(Kind.VERDICT, MARKET_GROUP, validator, self.node, version, issued_ns, expires_ns, self.encode())
