"""Taking back a payment: new evidence against a settled claim, and a validator's vote on it.

Theory of operation. What egress, consumer and its wallet signed cannot be taken back by those three: were a second, lower receipt enough, a
consumer with an egress of its own would have its money back after every transfer. So only the payees' own words count: a relay that
signed two contradicting counts of one session (two under one version, or a later lower one in the same boot) is held to the lower. And
because a payment is shared by all relays of a path and can be taken back only as a whole, it is taken back only as far as *every*
payee has contradicted itself: one relay, perhaps the consumer's own, cannot cost the others their pay.

Anybody may file evidence: an EVIDENCE record under the session's id. A quorum of validators that finds the same from it signs
`overturn_digest`, and the contract takes back what is beyond, within its dispute window.

Layouts, canonical msgpack: ["dispute/1", session, [envelope, envelope]...], each the envelope of a COUNTERS record; vote
["overturn/1", session, settled, keep, hash of the evidence, signature, seat], integers of money as strings of 16 B.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

import attrs

from srwan.errors import DecodeError, RemoteProtocolError
from srwan.ledger_client.accounting.counters import RouterCounters, SessionRole, bodies_in, counters_of_statement
from srwan.ledger_client.accounting.plan import amount_due
from srwan.ledger_client.record import CONTENT_BYTES_MAX, ENVELOPE_BYTES_MAX, ENVELOPE_KINDS, Kind, Record, Version, verify
from srwan.ledger_client.settlement.settlement import overturn_digest
from srwan.ledger_client.settlement.signing import SIGNATURE_BYTES, Address, SettlementDomain, keccak256, recover
from srwan.ledger_client.settlement.terms import HASH_BYTES, PAYEES_MAX, UINT128_MAX
from srwan.ledger_client.statement import MARKET_GROUP, Statement
from srwan.ledger_client.statement_body import StatementBody
from srwan.ledger_client.validation.claim import ClaimFiling
from srwan.ledger_client.validation.verdict import INTEGER_BYTES
from srwan.types import NodeId
from srwan.wire import Envelope, pack, unpack

__all__ = ["DisputeEvidence", "OverturnVote", "keep_of", "overturn_topic"]

_EVIDENCE_LAYOUT = "dispute/1"
_VOTE_LAYOUT = "overturn/1"
VOTE_BYTES_MAX = 512


def overturn_topic(session: bytes) -> bytes:
    """Return the topic of votes about a session, 32 B: another than that of verdicts on its claims."""
    return keccak256(b"srwan/overturn/1" + session)


@attrs.frozen(slots=True)
class DisputeEvidence:
    """Pairs of counters, each of one relay, that contradict each other. Raises ValueError where it is out of bounds."""

    session: bytes
    """32 B."""
    pairs: tuple[tuple[bytes, bytes], ...]
    """Envelopes of COUNTERS records, 1..PAYEES_MAX pairs."""

    def __attrs_post_init__(self) -> None:
        if len(self.session) != HASH_BYTES or not 1 <= len(self.pairs) <= PAYEES_MAX:
            raise ValueError("evidence is about one session and has 1..8 pairs")

    @property
    def digest(self) -> bytes:
        """Hash by which a vote names it, 32 B."""
        return keccak256(self.encode())

    def encode(self) -> bytes:
        """Return the content of an EVIDENCE record."""
        return pack([_EVIDENCE_LAYOUT, self.session, [list(pair) for pair in self.pairs]])

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Parse the content of an EVIDENCE record; nothing is verified.

        Raises:
            LimitExceeded, DecodeError: too long or malformed.
        """
        match unpack(data, bytes_max=CONTENT_BYTES_MAX[Kind.EVIDENCE]):
            case [str(layout), bytes(session), list(pairs)] if layout == _EVIDENCE_LAYOUT:
                pass
            case _:
                raise DecodeError("no evidence of a dispute")
        try:
            return cls(session, tuple(map(_pair, pairs)))
        except ValueError as error:
            raise DecodeError(f"malformed evidence: {error}") from None

    def statement(self, filer: NodeId, version: Version, *, issued_ns: int, expires_ns: int) -> Statement:
        """Return the statement by which anybody files it."""
        return Statement(Kind.EVIDENCE, MARKET_GROUP, filer, self.session, version, issued_ns, expires_ns, self.encode())


def _pair(value: object) -> tuple[bytes, bytes]:
    match value:
        case [bytes(first), bytes(second)]:
            return first, second
        case _:
            raise DecodeError("not a pair of envelopes")


def _opened(envelope: bytes) -> tuple[NodeId, RouterCounters]:
    """Who signed which counters. Raises RemoteProtocolError where nobody did."""
    parsed = Envelope.decode(envelope, bytes_max=ENVELOPE_BYTES_MAX[Kind.COUNTERS])
    body = StatementBody.decode(parsed.verify(ENVELOPE_KINDS[Kind.COUNTERS]), content_bytes_max=CONTENT_BYTES_MAX[Kind.COUNTERS])
    filed = (body.group, parsed.signer, Version(body.era, body.sequence), body.expires_ns, envelope)
    record = Record(Kind.COUNTERS, *filed, 0, body.country, body.asn, body.topic)
    verify(record)
    return parsed.signer, counters_of_statement(Statement.of_record(record))


def _admitted(filing: ClaimFiling, evidence: DisputeEvidence) -> Iterator[tuple[NodeId, int]]:
    """Relay and lower count, octets of bodies, of each pair that is a contradiction."""
    hops = len(filing.plan.relays)
    for pair in evidence.pairs:
        try:
            (first_node, first), (second_node, second) = map(_opened, pair)
        except RemoteProtocolError:
            continue
        counts = [counters.session(filing.session, SessionRole.RELAYED) for counters in (first, second)]
        if first_node != second_node or first.boot != second.boot or counts[0] is None or counts[1] is None:
            continue
        earlier, later = (bodies_in(count.octets, count.packets, hops) for count in counts if count is not None)
        if first.sequence == second.sequence and earlier != later:
            yield first_node, min(earlier, later)
        elif first.sequence < second.sequence and later < earlier:
            yield first_node, later


def keep_of(filing: ClaimFiling, settled_microtoken: int, evidence: DisputeEvidence) -> int:
    """Return what of a settled session stays paid in the face of evidence, microtokens: all, unless every payee contradicted itself."""
    admitted: dict[NodeId, int] = {}
    for node, octets in _admitted(filing, evidence):
        admitted[node] = min(octets, admitted.get(node, octets))
    if not all(relay in admitted for relay in filing.plan.relays):
        return settled_microtoken
    octets = min(max(admitted[relay] for relay in filing.plan.relays), filing.claim.ticket.octets)
    return min(settled_microtoken, amount_due(filing.claim.terms, filing.plan, octets, filing.receipt.saved_us))


@attrs.frozen(slots=True)
class OverturnVote:
    """One validator's vote to take back a payment. Raises ValueError where a field is out of bounds."""

    session: bytes
    """32 B."""
    settled_microtoken: int
    """What the settlement shows, microtokens."""
    keep_microtoken: int
    """What shall stay paid of it."""
    evidence: bytes
    """`DisputeEvidence.digest`, 32 B."""
    signature: bytes
    """Of the validator's wallet over `overturn_digest`, 65 B."""
    seat: bytes
    """As in `ClaimVerdict`."""

    def __attrs_post_init__(self) -> None:
        if len(self.session) != HASH_BYTES or len(self.evidence) != HASH_BYTES:
            raise ValueError("a hash of a vote has the wrong length")
        if len(self.signature) != SIGNATURE_BYTES or len(self.seat) != SIGNATURE_BYTES:
            raise ValueError("a signature of a vote has the wrong length")
        if not 0 <= self.keep_microtoken <= self.settled_microtoken <= UINT128_MAX:
            raise ValueError("a vote would keep more than was settled")

    def signer(self, domain: SettlementDomain) -> Address:
        """Return whose signature it bears. Raises BadSignature where it is nobody's."""
        return recover(overturn_digest(domain, self.session, self.settled_microtoken, self.keep_microtoken, self.evidence), self.signature)

    def encode(self) -> bytes:
        """Return the content of a VERDICT record."""
        amounts = [amount.to_bytes(INTEGER_BYTES, "big") for amount in (self.settled_microtoken, self.keep_microtoken)]
        return pack([_VOTE_LAYOUT, self.session, *amounts, self.evidence, self.signature, self.seat])

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Parse the content of a VERDICT record; nothing is verified.

        Raises:
            LimitExceeded, DecodeError: too long or malformed.
        """
        match unpack(data, bytes_max=VOTE_BYTES_MAX):
            case [
                str(layout), bytes(session), bytes(settled), bytes(keep), bytes(evidence), bytes(signature), bytes(seat),
            ] if layout == _VOTE_LAYOUT and len(settled) == len(keep) == INTEGER_BYTES:  # fmt: skip
                pass
            case _:
                raise DecodeError("not a vote on a dispute")
        try:
            return cls(session, int.from_bytes(settled, "big"), int.from_bytes(keep, "big"), evidence, signature, seat)
        except ValueError as error:
            raise DecodeError(f"malformed vote on a dispute: {error}") from None

    def statement(self, validator: NodeId, version: Version, *, issued_ns: int, expires_ns: int) -> Statement:
        """Return the statement that publishes it."""
        topic = overturn_topic(self.session)
        return Statement(Kind.VERDICT, MARKET_GROUP, validator, topic, version, issued_ns, expires_ns, self.encode())
