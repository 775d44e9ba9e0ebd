"""A DITEX record: something its subject signed, under a key and a version, with an expiry. Records are self-certifying.

Theory of operation. Four forms of bytes are published, each an envelope of `srwan.wire` signed by its subject:

- "node": a member's certificate, stored as the overlay made it (envelope kind "member");
- "row": what a member measured. A row travels as `signature || body` and is signed over `group || node id || body` under the domain of the
  envelope kind "row": with these 64 bytes put back before the body it is an envelope, without a new signature;
- "report": a reporter's statement which rows belong together (`report.py`; envelope kind "ditex-report", since gossip has a "report");
- all other kinds: a statement (`statement.py`), an envelope of kind "ditex-" and the record's kind.

The key of a record is (kind, group, subject, topic), the topic being empty but for statements; its version is (boot, seq), of a report
(epoch, sequence), of a statement what its kind makes it. Of two versions the newer wins. Two different contents under one version are a
proof that the subject signed both: equivocation.

What `verify` holds against the signature: kind, group (of nodes its first 8 bytes), subject, topic and version of every record, expiry of
all but rows, country and ASN of nodes and statements. The rest is the publisher's word, an index and no evidence: epoch and place of rows.

Invariants: an instance is within bounds; `verify` returning means the signature is good. A store need not be trusted: whoever reads
verifies again. Signatures show forgery and staleness, never omission.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import attrs

from srwan.errors import BadSignature, DecodeError, LimitExceeded, StaleRecord
from srwan.gossip.row import open_row, version_of_row
from srwan.identity import SIGNATURE_BYTES, Identity
from srwan.ledger_client.report import GROUP_BYTES, LIFETIME_S_MAX, NS_PER_S, GroupReport, is_count
from srwan.ledger_client.statement_body import ASN_MAX, BODY_OVERHEAD_BYTES_MAX, TOPIC_BYTES_MAX, StatementBody, is_country
from srwan.overlay.view import NO_GROUP, Member
from srwan.types import GeoAsn, NodeId
from srwan.wire import ENVELOPE_OVERHEAD_BYTES_MAX, Envelope

__all__ = [
    "ASN_MAX",
    "Key",
    "Kind",
    "Record",
    "Version",
    "authenticate",
    "check",
    "is_authentic",
    "open_envelope",
    "report_of",
    "require_as_filed",
    "require_current",
    "verify",
]

SKEW_S_MAX = 60
"""How far ahead a publisher's wall clock may be, s (as for membership certificates)."""
STATEMENT_LIFETIME_S_MAX = 400 * 86_400
"""Longest time from issue to expiry of a statement, s: a claim must outlive its session and the time in which it may be disputed."""

NOWHERE = GeoAsn()
"""The place of those who do not say."""


class Kind(enum.StrEnum):
    """What a record is. Values are stored."""

    NODE = "node"
    ROW = "row"
    REPORT = "report"
    OFFER = "offer"
    COUNTERS = "counters"
    PATH = "path"
    CLAIM = "claim"
    VERDICT = "verdict"
    BATCH = "batch"
    EVIDENCE = "evidence"
    COMPLAINT = "complaint"


_CONTENT_BYTES_MAX = 16 * 1024
_STATEMENTS = (Kind.OFFER, Kind.COUNTERS, Kind.PATH, Kind.CLAIM, Kind.VERDICT, Kind.BATCH, Kind.EVIDENCE, Kind.COMPLAINT)
_LARGE = (Kind.CLAIM, Kind.EVIDENCE, Kind.COMPLAINT)
CONTENT_BYTES_MAX: Mapping[Kind, int] = MappingProxyType(
    {kind: 2 * _CONTENT_BYTES_MAX if kind in _LARGE else _CONTENT_BYTES_MAX for kind in _STATEMENTS}
)
"""Of the kinds that are statements, the longest content, bytes: claims, and what quotes whole envelopes, get twice as much."""

ENVELOPE_KINDS: Mapping[Kind, str] = MappingProxyType(
    {Kind.NODE: "member", Kind.ROW: "row", Kind.REPORT: "ditex-report"} | {kind: f"ditex-{kind}" for kind in _STATEMENTS}
)
"""The kind, hence the signature's domain, of the envelope of each kind of record."""

ENVELOPE_BYTES_MAX: Mapping[Kind, int] = MappingProxyType(
    {Kind.NODE: 600, Kind.ROW: 1300, Kind.REPORT: 16 * 1024}
    | {kind: bytes_max + BODY_OVERHEAD_BYTES_MAX + ENVELOPE_OVERHEAD_BYTES_MAX for kind, bytes_max in CONTENT_BYTES_MAX.items()}
)
"""Refused unparsed above. Node: the overlay's cap. Row: 1,156 B of one frame, 64 B put back, envelope. Report: 128 members, 11 kB."""


class Version(NamedTuple):
    """Order of the records under one key; compares as a tuple."""

    era: int
    """Boot id of a node or row, epoch of a report, of a statement as its kind says."""
    sequence: int
    """Rises within the era."""


class Key(NamedTuple):
    """What a record is about. Under one key the newest version counts."""

    kind: Kind
    group: bytes
    subject: NodeId
    topic: bytes = b""
    """What of the subject's it is about; empty for node, row and report."""


@attrs.frozen(slots=True)
class Record:
    """A signed envelope and what it is filed under.

    Raises:
        ValueError: a field is out of bounds.
    """

    kind: Kind
    group: bytes
    """Group id, 32 B."""
    subject: NodeId
    """Whom it is about and who signed it."""
    version: Version
    expires_ns: int
    """Wall time, ns since 1970, from which it no longer counts."""
    envelope: bytes
    """Encoded envelope: what is verified, stored and exchanged."""
    epoch: int = 0
    """Reporting epoch in which it was published; index only."""
    country: str = "ZZ"
    """ISO 3166-1 alpha-2 of the subject as it claims; ZZ = not said; index only."""
    asn: int = 0
    """Autonomous system of the subject as it claims; 0 = not said; index only."""
    topic: bytes = b""
    """What of the subject's it is about, 0..32 B; empty for node, row and report."""

    def __attrs_post_init__(self) -> None:
        if len(self.group) != GROUP_BYTES:
            raise ValueError(f"a group id has {GROUP_BYTES} bytes, not {len(self.group)}")
        if not all(map(is_count, (*self.version, self.expires_ns, self.epoch))):
            raise ValueError(f"version {self.version}, expiry {self.expires_ns} or epoch {self.epoch} is out of range")
        if len(self.topic) > (TOPIC_BYTES_MAX if self.kind in CONTENT_BYTES_MAX else 0):
            raise ValueError(f"a topic of {len(self.topic)} bytes on a {self.kind} record")
        if not is_country(self.country):
            raise ValueError(f"country {self.country!r} is not two upper-case letters")
        if not (is_count(self.asn) and self.asn <= ASN_MAX):
            raise ValueError(f"ASN {self.asn} is out of range")

    @property
    def key(self) -> Key:
        """Under which its versions are compared."""
        return Key(self.kind, self.group, self.subject, self.topic)

    @property
    def row_content(self) -> bytes:
        """A row as gossip exchanges it: signature and body. Meant for verified rows.

        Raises:
            DecodeError: not a well-formed row record.
        """
        if self.kind is not Kind.ROW:
            raise DecodeError(f"a {self.kind} record holds no row")
        envelope = _envelope(self)
        return envelope.signature + _row_body(self, envelope.body)

    @classmethod
    def of_member(cls, certificate: bytes, *, group: bytes, wall_ns: int, epoch: int = 0) -> Record:
        """File a member's certificate, as sealed by the overlay.

        Raises:
            RemoteProtocolError: as `Member.open`, or the member is leaving. ValueError: a field is out of bounds.
        """
        member = Member.open(certificate, wall_ns=wall_ns)
        _require_present(member)
        place = member.location
        version = Version(member.boot, member.seq)
        return cls(Kind.NODE, group, member.node_id, version, member.expires_ns, certificate, epoch, place.country, place.asn)

    @classmethod
    def of_row(cls, node_id: NodeId, content: bytes, *, group: bytes, expires_ns: int, epoch: int = 0, place: GeoAsn = NOWHERE) -> Record:
        """File a member's row, given as gossip exchanges it. The signature is not checked here.

        Args:
            node_id: whose row it is.
            content: signature and body.
            group: the 32-byte id of the group it was signed for.
            expires_ns: wall time, ns since 1970; a row does not say itself.
            epoch: in which it is published.
            place: of the member, from its certificate.

        Raises:
            DecodeError: malformed. ValueError: a field is out of bounds.
        """
        row = open_row(node_id, content).row
        signed = group + node_id + content[SIGNATURE_BYTES:]
        envelope = Envelope(ENVELOPE_KINDS[Kind.ROW], node_id, signed, content[:SIGNATURE_BYTES]).encode()
        return cls(Kind.ROW, group, node_id, Version(row.boot, row.seq), expires_ns, envelope, epoch, place.country, place.asn)

    @classmethod
    def of_report(cls, report: GroupReport, identity: Identity) -> Record:
        """Sign a report and file it.

        Raises:
            ValueError: `identity` is not the reporter's, or a field is out of bounds.
        """
        if identity.node_id != report.reporter:
            raise ValueError(f"a report of {report.reporter!r} cannot be signed by {identity.node_id!r}")
        envelope = Envelope.seal(identity, ENVELOPE_KINDS[Kind.REPORT], report.encode()).encode()
        version = Version(report.epoch, report.sequence)
        return cls(Kind.REPORT, report.group, report.reporter, version, report.expires_ns, envelope, report.epoch)


def _envelope(record: Record) -> Envelope:
    return Envelope.decode(record.envelope, bytes_max=ENVELOPE_BYTES_MAX[record.kind])


def _row_body(record: Record, signed: bytes) -> bytes:
    """What follows group and node id in the signed bytes of a row."""
    prefix = record.group + record.subject
    if not signed.startswith(prefix):
        raise DecodeError(f"a row of {record.subject!r} is filed under another group", reason="filed-wrong")
    return signed[len(prefix) :]


def _require_present(member: Member) -> None:
    if member.is_leaving:
        raise DecodeError(f"{member.node_id!r} is leaving: the DITEX lists who is there", reason="leaving")


def report_of(record: Record) -> GroupReport:
    """Return the report inside a record that `verify` has passed.

    Raises:
        LimitExceeded, DecodeError: not a well-formed report.
    """
    envelope = _envelope(record)
    if record.kind is not Kind.REPORT or envelope.kind != ENVELOPE_KINDS[Kind.REPORT]:
        raise DecodeError(f"a {record.kind} record holds no report")
    return GroupReport.decode(envelope.body)


def authenticate(record: Record) -> GeoAsn | None:
    """Return if the subject signed the record under its key, version and, of all but rows, expiry.

    Returns:
        The place that was signed with it, of nodes and statements; None otherwise.

    Raises:
        LimitExceeded: over the cap of its kind. BadSignature: not the subject's. DecodeError: malformed, signed by another ("signer") or
        filed otherwise than was signed ("filed-wrong"). StaleRecord: filed with a later expiry than was signed.

    Cost: 60 us for a row, 0.6 ms for a report of 100; nothing is parsed before its size is checked, no body before its signature.
    """
    envelope = open_envelope(record)
    return _signed_place(record, envelope, is_authentic=is_authentic(record, envelope))


def open_envelope(record: Record) -> Envelope:
    """Do of `authenticate` what comes before the signature is checked.

    Raises:
        LimitExceeded: over the cap of its kind. DecodeError: malformed, of another kind, or signed by another ("signer").
    """
    envelope = _envelope(record)
    if envelope.signer != record.subject:
        raise DecodeError(f"a {record.kind} record of {record.subject!r} signed by {envelope.signer!r}", reason="signer")
    if envelope.kind != ENVELOPE_KINDS[record.kind]:
        raise DecodeError(f"envelope of kind {envelope.kind!r}, wanted {ENVELOPE_KINDS[record.kind]!r}")
    return envelope


def is_authentic(record: Record, envelope: Envelope) -> bool:
    """Say whether the signature of an opened envelope is good; that of a node is left to the overlay, which remembers certificates."""
    return record.kind is Kind.NODE or envelope.is_authentic()


def _signed_place(record: Record, envelope: Envelope, *, is_authentic: bool) -> GeoAsn | None:
    """Do the rest of `authenticate`."""
    if record.kind is Kind.NODE:
        member = Member.open(record.envelope, wall_ns=record.expires_ns - 1)  # at the last instant at which it claims to be valid
        _require_present(member)
        is_right = member.group in (NO_GROUP, record.group[: len(NO_GROUP)]) and member.expires_ns == record.expires_ns
        _require_filed_right(record, Version(member.boot, member.seq), is_right=is_right)
        return member.location
    if not is_authentic:
        raise BadSignature(f"bad {envelope.kind} signature of {envelope.signer!r}")
    body = envelope.body
    if record.kind is Kind.ROW:
        _require_filed_right(record, Version(*version_of_row(_row_body(record, body))), is_right=True)
        return None
    if record.kind in CONTENT_BYTES_MAX:
        return _authenticate_statement(record, body)
    report = GroupReport.decode(body)
    is_right = (report.group, report.reporter, report.expires_ns) == (record.group, record.subject, record.expires_ns)
    _require_filed_right(record, Version(report.epoch, report.sequence), is_right=is_right)
    return None


def _authenticate_statement(record: Record, signed: bytes) -> GeoAsn:
    body = StatementBody.decode(signed, content_bytes_max=CONTENT_BYTES_MAX[record.kind])
    is_right = (body.group, body.topic, body.expires_ns) == (record.group, record.topic, record.expires_ns)
    _require_filed_right(record, Version(body.era, body.sequence), is_right=is_right)
    return GeoAsn(body.country, asn=body.asn)


def _require_filed_right(record: Record, version: Version, *, is_right: bool) -> None:
    if version != record.version or not is_right:
        raise DecodeError(f"a {record.kind} record of {record.subject!r} is not filed as it was signed", reason="filed-wrong")


def verify(record: Record) -> None:
    """Return if the record is what its subject signed, whatever the time.

    Raises:
        RemoteProtocolError: as `authenticate`; DecodeError also if country or ASN are not those signed with it ("filed-wrong").
    """
    envelope = open_envelope(record)
    require_as_filed(record, envelope, is_authentic=is_authentic(record, envelope))


def require_as_filed(record: Record, envelope: Envelope, *, is_authentic: bool) -> None:
    """Do of `verify` what comes after the signature was checked.

    Raises:
        RemoteProtocolError: as `verify`; BadSignature if it was not good.
    """
    place = _signed_place(record, envelope, is_authentic=is_authentic)
    if place is not None and (place.country, place.asn) != (record.country, record.asn):
        raise DecodeError(
            f"{record.kind} of {record.subject!r} is filed under {record.country}:{record.asn}, not {place}", reason="filed-wrong"
        )


def require_current(record: Record, wall_ns: int) -> None:
    """Return if the record may be published at this time.

    Raises:
        StaleRecord: expired ("expired"). LimitExceeded: it would live longer than LIFETIME_S_MAX, a statement than
            STATEMENT_LIFETIME_S_MAX ("lifetime").
    """
    lifetime_s_max = STATEMENT_LIFETIME_S_MAX if record.kind in CONTENT_BYTES_MAX else LIFETIME_S_MAX
    if record.expires_ns <= wall_ns:
        raise StaleRecord(f"a {record.kind} record of {record.subject!r} expired", reason="expired")
    if record.expires_ns > wall_ns + (lifetime_s_max + SKEW_S_MAX) * NS_PER_S:
        raise LimitExceeded(f"a {record.kind} record of {record.subject!r} expires too far ahead", reason="lifetime")


def check(record: Record, wall_ns: int) -> None:
    """Do what every store does before it stores: `require_current`, which is cheap, then `verify`.

    Raises:
        RemoteProtocolError: as these two.
    """
    require_current(record, wall_ns)
    verify(record)
