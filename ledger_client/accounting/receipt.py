"""The receipt of an egress: what it authenticated under a session, signed by it, and countersigned by the consumer.

Theory of operation. The egress counts octets of bodies whose end-to-end seal is good, so neither damaged nor invented packets count. Its
receipts are cumulative since the session began and rise only; the last one is worth all before it. The consumer countersigns those that fit
what it sent, and signs tickets for them. With both signatures a receipt is the evidence of a delivery on which neither can go back; the
egress publishes it (PATH record, topic = session), a relay files it with its claim.

The body is signed by the egress under "srwan/receipt/1" and by the consumer, with the egress's signature before it, under
"srwan/receipt-accepted/1".

Layout, canonical msgpack: [body, signature of the egress 64 B, countersignature 64 B or empty]; body: [session, consumer, egress, boot,
sequence, octets, packets, predicted_us, measured_us, direct_us, wall_ns].

Invariant: an instance is within bounds; `verify` returning means that both signatures that are there are good.
"""

from __future__ import annotations

import attrs

from srwan.errors import BadSignature, DecodeError
from srwan.identity import SIGNATURE_BYTES, Identity, require_signature
from srwan.ledger_client.accounting.plan import RAW_US_MAX, are_integers
from srwan.ledger_client.record import Kind, Version
from srwan.ledger_client.settlement.terms import HASH_BYTES
from srwan.ledger_client.statement import MARKET_GROUP, Statement
from srwan.types import NodeId
from srwan.wire import pack, unpack

__all__ = ["RECEIPT_BYTES_MAX", "Receipt", "receipt_of_statement"]

RECEIPT_BYTES_MAX = 512
COUNT_MAX = 2**63 - 1
_DOMAIN = b"srwan/receipt/1"
_ACCEPTED_DOMAIN = b"srwan/receipt-accepted/1"


@attrs.frozen(slots=True)
class Receipt:
    """What an egress says it authenticated under one session so far.

    Raises:
        ValueError: a field is out of bounds.
    """

    session: bytes
    """Session id, 32 B."""
    consumer: NodeId
    egress: NodeId
    boot: int
    """Boot of the egress."""
    sequence: int
    """Rises within the boot."""
    octets: int
    """Of bodies, authenticated since the session began."""
    packets: int
    """They came in."""
    predicted_us: int
    """Raw one-way latency that the plan promised, us."""
    measured_us: int
    """Mean raw one-way latency of those packets, us."""
    direct_us: int
    """Mean raw one-way latency of the direct path while they came, us; as planned where it was not measured."""
    wall_ns: int
    """When it was made, ns since 1970."""
    signature: bytes = b""
    """Of the egress, 64 B; empty: not signed yet."""
    countersignature: bytes = b""
    """Of the consumer, 64 B; empty: not countersigned."""

    def __attrs_post_init__(self) -> None:
        if len(self.session) != HASH_BYTES:
            raise ValueError(f"receipt: a session id of {len(self.session)} bytes")
        counts = (self.boot, self.sequence, self.octets, self.packets, self.wall_ns)
        if not all(0 <= count <= COUNT_MAX for count in counts):
            raise ValueError("receipt: a count is out of bounds")
        if any(abs(raw_us) > RAW_US_MAX for raw_us in (self.predicted_us, self.measured_us, self.direct_us)):
            raise ValueError("receipt: a latency is out of bounds")
        if any(len(signature) not in (0, SIGNATURE_BYTES) for signature in (self.signature, self.countersignature)):
            raise ValueError("receipt: a signature has 64 bytes")

    @property
    def saved_us(self) -> int:
        """Latency saved against the direct path, us; negative where the path was slower."""
        return self.direct_us - self.measured_us

    @property
    def body(self) -> bytes:
        """What the egress signs."""
        counts = [self.boot, self.sequence, self.octets, self.packets]
        latencies = [self.predicted_us, self.measured_us, self.direct_us]
        return pack([self.session, self.consumer, self.egress, *counts, *latencies, self.wall_ns])

    def sign(self, identity: Identity) -> Receipt:
        """Return it signed by the egress. Cost: 20 us.

        Raises:
            ValueError: the identity is not the egress's.
        """
        if identity.node_id != self.egress:
            raise ValueError("only the egress signs its receipts")
        return attrs.evolve(self, signature=identity.sign(_DOMAIN, self.body), countersignature=b"")

    def countersign(self, identity: Identity) -> Receipt:
        """Return it accepted by the consumer. Cost: 20 us.

        Raises:
            ValueError: the identity is not the consumer's, or the egress has not signed.
        """
        if identity.node_id != self.consumer or not self.signature:
            raise ValueError("only the consumer countersigns, and only what the egress signed")
        return attrs.evolve(self, countersignature=identity.sign(_ACCEPTED_DOMAIN, self.signature + self.body))

    def verify(self, *, is_accepted: bool) -> None:
        """Return if the signatures are good.

        Args:
            is_accepted: whether the consumer must have countersigned.

        Raises:
            BadSignature: one is missing or bad.

        Cost: 45 us a signature.
        """
        require_signature(self.egress, _DOMAIN, self.body, self.signature)
        if is_accepted:
            require_signature(self.consumer, _ACCEPTED_DOMAIN, self.signature + self.body, self.countersignature)
        elif self.countersignature:
            raise BadSignature("a receipt came countersigned from who cannot have done so")

    def encode(self) -> bytes:
        """Return it as bytes, up to RECEIPT_BYTES_MAX."""
        return pack([self.body, self.signature, self.countersignature])

    @classmethod
    def decode(cls, data: bytes) -> Receipt:
        """Parse a receipt; nothing is verified.

        Raises:
            LimitExceeded, DecodeError: too long or malformed.
        """
        match unpack(data, bytes_max=RECEIPT_BYTES_MAX):
            case [bytes(body), bytes(signature), bytes(countersignature)]:
                pass
            case _:
                raise DecodeError("not a receipt")
        match unpack(body, bytes_max=RECEIPT_BYTES_MAX):
            case [bytes(session), bytes(consumer), bytes(egress), *numbers] if len(numbers) == 8 and are_integers(numbers):
                pass
            case _:
                raise DecodeError("not a receipt")
        try:
            boot, sequence, octets, packets, *latencies, wall_ns = numbers
            predicted_us, measured_us, direct_us = latencies
            counts = (boot, sequence, octets, packets, predicted_us, measured_us, direct_us, wall_ns)
            return cls(session, NodeId(consumer), NodeId(egress), *counts, signature, countersignature)
        except ValueError as error:
            raise DecodeError(f"malformed receipt: {error}") from None

    def statement(self, *, issued_ns: int, expires_ns: int) -> Statement:
        """Return the PATH statement in which the egress publishes it, topic = session.

        Args:
            issued_ns: wall time, ns since 1970.
            expires_ns: until when it counts: longer than the session can be claimed.
        """
        version = Version(self.boot, self.sequence)
        return Statement(Kind.PATH, MARKET_GROUP, self.egress, self.session, version, issued_ns, expires_ns, self.encode())


def receipt_of_statement(statement: Statement) -> Receipt:
    """Return the receipt that a verified PATH statement publishes; its countersignature is not checked.

    Raises:
        LimitExceeded, DecodeError: it is none, or not the subject's, or filed under another session.
    """
    if statement.kind is not Kind.PATH:
        raise DecodeError(f"a {statement.kind} statement holds no receipt")
    receipt = Receipt.decode(statement.content)
    if receipt.egress != statement.subject or receipt.session != statement.topic:
        raise DecodeError("a receipt that is filed under another egress or session")
    return receipt
