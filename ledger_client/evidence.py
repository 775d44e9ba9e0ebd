"""Evidence that a router signed two contradicting records: an equivocation proof, published by whoever found it.

Theory of operation. A store keeps the proofs it came across; as EVIDENCE they travel like any record and convince whoever verifies the two
envelopes, whoever filed them. The subject of the statement is the finder; the culprit is in the content. One finder files one piece per
contradiction: the topic is the digest of the content.

Content: canonical msgpack of ["equivocation/1", kind, group, culprit, topic, era, sequence, first envelope, its expiry, second envelope,
its expiry]. Other rooms file evidence of other kinds under other first words.

Not here: what follows from it. A contradiction of two records too long to be quoted together stays in the stores' own proofs.
"""

from __future__ import annotations

import hashlib

from srwan.errors import DecodeError
from srwan.ledger_client.merkle import DIGEST_BYTES
from srwan.ledger_client.record import CONTENT_BYTES_MAX, Kind, Record, Version
from srwan.ledger_client.report import NS_PER_S
from srwan.ledger_client.statement import Statement
from srwan.ledger_client.store import EquivocationProof
from srwan.types import NodeId
from srwan.wire import pack, unpack

__all__ = ["evidence_of", "is_equivocation", "proof_in"]

EVIDENCE_LIFETIME_S = 400 * 86_400
"""How long evidence counts unless said otherwise, s: as long as any statement may."""
_LAYOUT = "equivocation/1"


def evidence_of(proof: EquivocationProof, finder: NodeId, *, wall_ns: int, lifetime_s: int = EVIDENCE_LIFETIME_S) -> Statement:
    """Return what the finder is to sign and publish.

    Args:
        proof: of two contradicting records.
        finder: who publishes.
        wall_ns: wall time now, ns since 1970.
        lifetime_s: from now to expiry, s.

    Raises:
        ValueError: it proves nothing, or the two do not fit one record.

    Cost: two verifications.
    """
    if not proof.is_proven():
        raise ValueError("these two records do not contradict each other")
    key = proof.key
    filed = [key.kind.value, key.group, key.subject, key.topic, *proof.version]
    quoted = [proof.held.envelope, proof.held.expires_ns, proof.other.envelope, proof.other.expires_ns]
    content = pack([_LAYOUT, *filed, *quoted])
    topic = hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()
    times = (wall_ns, wall_ns + lifetime_s * NS_PER_S)
    return Statement(Kind.EVIDENCE, key.group, finder, topic, Version(0, 0), *times, content)


def is_equivocation(record: Record) -> bool:
    """Say whether a piece of evidence claims to be about a contradiction of records; `proof_in` says whether it is."""
    return record.kind is Kind.EVIDENCE and Statement.of_record(record).content[1:].startswith(pack(_LAYOUT))


def proof_in(record: Record) -> EquivocationProof:
    """Return the proof inside a piece of evidence. For hostile input; the record itself must have been verified.

    Raises:
        LimitExceeded, DecodeError: malformed, or the two do not contradict each other ("unproven").

    Cost: two verifications.
    """
    match unpack(Statement.of_record(record).content, bytes_max=CONTENT_BYTES_MAX[Kind.EVIDENCE]):
        case [
            str(layout), str(kind), bytes(group), bytes(culprit), bytes(topic), int(era), int(sequence),
            bytes(held), int(held_expires_ns), bytes(other), int(other_expires_ns),
        ] if layout == _LAYOUT and record.kind is Kind.EVIDENCE:  # fmt: skip
            pass
        case _:
            raise DecodeError("not evidence of a contradiction")
    try:
        filed = (Kind(kind), group, NodeId(culprit), Version(era, sequence))
        first = Record(*filed, held_expires_ns, held, topic=topic)
        proof = EquivocationProof(first, Record(*filed, other_expires_ns, other, topic=topic))
    except ValueError as error:
        raise DecodeError(f"malformed evidence: {error}") from None
    if not proof.is_proven():
        raise DecodeError("the two records do not contradict each other", reason="unproven")
    return proof
