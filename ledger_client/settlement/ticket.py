"""The one kind of ticket: what a consumer signs, again and again, for one path session; the last one is worth all before it.

Theory of operation. A ticket says: under this session so many octets were delivered, and I owe so much, counted from its beginning. Both
rise only, so a relay keeps one ticket, a lost one is replaced by the next, and one that is handed in twice claims nothing. The settlement
engine pays the difference to what it paid before, split as the terms say; it refuses more than the price of the octets and more than
the cap. EIP-712: "PathTicket(bytes32 session,uint128 octets,uint128 amount)".

Layout, canonical msgpack: [session 32 B, octets, amount, signature 65 B]; integers are strings of 16 B, big endian, for msgpack's end at 64
bits.
"""

from __future__ import annotations

import attrs

from srwan.errors import BadSignature, DecodeError, LimitExceeded
from srwan.ledger_client.settlement.signing import SettlementDomain, WalletKey, keccak256, recover, type_hash, word
from srwan.ledger_client.settlement.terms import HASH_BYTES, UINT128_MAX, PathTerms, price_of
from srwan.wire import pack, unpack

__all__ = ["TICKET_BYTES_MAX", "PathTicket", "sign_ticket"]

TICKET_BYTES_MAX = 160
_TYPE = type_hash("PathTicket(bytes32 session,uint128 octets,uint128 amount)")


@attrs.frozen(slots=True)
class PathTicket:
    """A signed cumulative ticket.

    Raises:
        ValueError: a field is out of bounds.
    """

    session: bytes
    """`PathTerms.session_id`, 32 B."""
    octets: int
    """Octets of bodies that the egress authenticated, since the session began."""
    amount_microtoken: int
    """Owed for them, microtokens, since the session began."""
    signature: bytes
    """Of the consumer's wallet, 65 B."""

    def __attrs_post_init__(self) -> None:
        if len(self.session) != HASH_BYTES:
            raise ValueError(f"a session id has {HASH_BYTES} bytes, not {len(self.session)}")
        for value in (self.octets, self.amount_microtoken):
            if not 0 <= value <= UINT128_MAX:
                raise ValueError(f"{value} does not fit 128 bits")

    def verify(self, terms: PathTerms, domain: SettlementDomain) -> None:
        """Return if the consumer of these terms signed this ticket, within its cap and price.

        Raises:
            BadSignature: another wallet's, or for another session or contract.
            LimitExceeded: it promises more than the octets cost ("price") or than is reserved ("cap"): nobody would pay the excess.

        Cost: one `recover` and some hashes.
        """
        if self.session != terms.session_id:
            raise BadSignature("a ticket of another session")
        if self.amount_microtoken > terms.cap_microtoken:
            raise LimitExceeded(f"a ticket over {self.amount_microtoken} of a cap of {terms.cap_microtoken} microtokens", reason="cap")
        if self.amount_microtoken > price_of(self.octets, terms.price_microtoken):
            raise LimitExceeded(f"a ticket over {self.amount_microtoken} microtokens for {self.octets} octets", reason="price")
        if recover(domain.digest(_struct_hash(self.session, self.octets, self.amount_microtoken)), self.signature) != terms.consumer:
            raise BadSignature("a ticket that is not the consumer's")

    def encode(self) -> bytes:
        """Return the ticket as bytes, up to TICKET_BYTES_MAX."""
        return pack([self.session, self.octets.to_bytes(16, "big"), self.amount_microtoken.to_bytes(16, "big"), self.signature])

    @classmethod
    def decode(cls, data: bytes) -> PathTicket:
        """Parse a ticket; nothing is verified.

        Raises:
            LimitExceeded, DecodeError: too long or malformed.
        """
        match unpack(data, bytes_max=TICKET_BYTES_MAX):
            case [bytes(session), bytes(octets), bytes(amount), bytes(signature)] if (
                len(octets) == len(amount) == 16 and len(signature) == 65
            ):
                pass
            case _:
                raise DecodeError("not a ticket")
        try:
            return cls(session, int.from_bytes(octets, "big"), int.from_bytes(amount, "big"), signature)
        except ValueError as error:
            raise DecodeError(f"malformed ticket: {error}") from None


def _struct_hash(session: bytes, octets: int, amount: int) -> bytes:
    return keccak256(_TYPE + session + word(octets) + word(amount))


def sign_ticket(key: WalletKey, domain: SettlementDomain, terms: PathTerms, octets: int, amount_microtoken: int) -> PathTicket:
    """Sign what is owed under a session so far. Cost: one signature and some hashes.

    Raises:
        ValueError: the key is not the consumer's, or the ticket would promise more than the octets cost or than is reserved.
    """
    if key.address != terms.consumer:
        raise ValueError(f"{key.address} is not the consumer of these terms, {terms.consumer}")
    if amount_microtoken > min(terms.cap_microtoken, price_of(octets, terms.price_microtoken)):
        raise ValueError(f"{amount_microtoken} microtokens for {octets} octets is more than agreed or reserved")
    session = terms.session_id
    return PathTicket(session, octets, amount_microtoken, key.sign(domain.digest(_struct_hash(session, octets, amount_microtoken))))
