"""Everything of the market and of accounting that a router publishes under its own signature: one form for eight kinds.

Theory of operation. A statement is a record whose signed body names its group, topic, version, times and place itself
(`statement_body.py`), so that nothing of how it is filed but the epoch is a publisher's word. The content is the canonical msgpack of the
kind's own value (offer, counters, path statistics, claim, verdict, batch, evidence, complaint); whoever binds a kind defines and checks
it. Several statements of one subject live side by side under different topics, and are superseded topic by topic.

Not here: the content of any kind, and storage.

Invariants: an instance is within bounds, its content within the cap of its kind; of a verified record it is what the subject signed.
"""

from __future__ import annotations

from typing import Self

import attrs

from srwan.errors import DecodeError
from srwan.identity import Identity
from srwan.ledger_client.record import (
    CONTENT_BYTES_MAX,
    ENVELOPE_BYTES_MAX,
    ENVELOPE_KINDS,
    NOWHERE,
    STATEMENT_LIFETIME_S_MAX,
    Key,
    Kind,
    Record,
    Version,
)
from srwan.ledger_client.report import NS_PER_S
from srwan.ledger_client.statement_body import StatementBody
from srwan.types import GeoAsn, NodeId
from srwan.wire import Envelope

__all__ = ["MARKET_GROUP", "Statement"]

MARKET_GROUP = bytes(32)
"""Group of what concerns the whole market and no pulse group."""


@attrs.frozen(slots=True)
class Statement:
    """What a router says, signs and publishes.

    Raises:
        ValueError: a field is out of bounds, the kind has another form (node, row, report), or the content is too long.
    """

    kind: Kind
    group: bytes
    """Group id, 32 B; MARKET_GROUP where no group is meant."""
    subject: NodeId
    """Who says it."""
    topic: bytes
    """What of the subject's it is about: a session, a claim, a digest, or nothing; 0..32 B."""
    version: Version
    """Order under one key."""
    issued_ns: int
    """Wall time, ns since 1970."""
    expires_ns: int
    """Wall time, ns since 1970, from which it no longer counts; up to STATEMENT_LIFETIME_S_MAX after issue."""
    content: bytes
    """Canonical msgpack of the kind's own value, up to CONTENT_BYTES_MAX[kind] bytes."""

    def __attrs_post_init__(self) -> None:
        if self.kind not in CONTENT_BYTES_MAX:
            raise ValueError(f"a {self.kind} record is no statement")
        if len(self.content) > CONTENT_BYTES_MAX[self.kind]:
            raise ValueError(f"a {self.kind} has up to {CONTENT_BYTES_MAX[self.kind]} bytes of content, not {len(self.content)}")
        self._body(NOWHERE)
        if self.expires_ns - self.issued_ns > STATEMENT_LIFETIME_S_MAX * NS_PER_S:
            raise ValueError(f"a statement lives up to {STATEMENT_LIFETIME_S_MAX} s")

    def _body(self, place: GeoAsn) -> StatementBody:
        times = (self.issued_ns, self.expires_ns)
        return StatementBody(self.group, self.topic, *self.version, *times, place.country, place.asn, self.content)

    @property
    def key(self) -> Key:
        """Under which its versions are compared."""
        return Key(self.kind, self.group, self.subject, self.topic)

    def record(self, identity: Identity, place: GeoAsn = NOWHERE, epoch: int = 0) -> Record:
        """Sign it and file it.

        Args:
            identity: of the subject.
            place: of the subject as it says, signed with it; records are found by it.
            epoch: in which it is published; an index only.

        Raises:
            ValueError: `identity` is not the subject's, or place or epoch are out of bounds.

        Cost: one signature, 20 us.
        """
        if identity.node_id != self.subject:
            raise ValueError(f"a statement of {self.subject!r} cannot be signed by {identity.node_id!r}")
        envelope = Envelope.seal(identity, ENVELOPE_KINDS[self.kind], self._body(place).encode()).encode()
        filed = (self.group, self.subject, self.version, self.expires_ns, envelope)
        return Record(self.kind, *filed, epoch, place.country, place.asn, self.topic)

    @classmethod
    def of_record(cls, record: Record) -> Self:
        """Return the statement inside a record that `verify` has passed.

        Raises:
            LimitExceeded, DecodeError: not a well-formed statement.
        """
        if record.kind not in CONTENT_BYTES_MAX:
            raise DecodeError(f"a {record.kind} record is no statement")
        envelope = Envelope.decode(record.envelope, bytes_max=ENVELOPE_BYTES_MAX[record.kind])
        if envelope.kind != ENVELOPE_KINDS[record.kind]:
            raise DecodeError(f"a {record.kind} record holds an envelope of kind {envelope.kind!r}")
        body = StatementBody.decode(envelope.body, content_bytes_max=CONTENT_BYTES_MAX[record.kind])
        version = Version(body.era, body.sequence)
        try:
            filed = (record.kind, body.group, envelope.signer, body.topic)
            return cls(*filed, version, body.issued_ns, body.expires_ns, body.content)
        except ValueError as error:
            raise DecodeError(f"malformed statement: {error}") from None
