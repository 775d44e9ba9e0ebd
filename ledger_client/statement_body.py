"""The bytes a statement signs: what it is filed under, when it counts, the place, and a content that stays bytes.

Layout: canonical msgpack list of group (32 B), topic (0..32 B), era, sequence, issued and expiry wall time (ns), country (2 letters),
ASN, content. The kind is in the envelope, whose signature's domain it is, and the subject is the signer: neither can be exchanged.

Apart from `statement.py` because records are verified with it. Not here: the meaning of the content.
"""

from __future__ import annotations

import attrs

from srwan.errors import DecodeError, LimitExceeded
from srwan.ledger_client.report import GROUP_BYTES, is_count
from srwan.wire import pack, unpack

__all__ = ["BODY_OVERHEAD_BYTES_MAX", "TOPIC_BYTES_MAX", "StatementBody"]

TOPIC_BYTES_MAX = 32
"""A topic is a digest, an id, or nothing."""
ASN_MAX = 2**32 - 1
"""Autonomous system numbers have 32 bits (RFC 6793)."""
BODY_OVERHEAD_BYTES_MAX = 160
"""Upper bound of everything in a body that is not the content: 32 + 32 + 4 x 9 + 2 + 5 B and their headers."""


def _require(is_met: bool, problem: str) -> None:
    if not is_met:
        raise ValueError(f"statement: {problem}")


def is_country(value: str) -> bool:
    """Say whether `value` has the form of an ISO 3166-1 alpha-2 code."""
    return len(value) == 2 and value.isascii() and value.isupper() and value.isalpha()


@attrs.frozen(slots=True)
class StatementBody:
    """What is signed.

    Raises:
        ValueError: a field is out of bounds.
    """

    group: bytes
    """Group id, 32 B."""
    topic: bytes
    """What of the subject's it is about, 0..32 B."""
    era: int
    """First part of the version."""
    sequence: int
    """Second part of the version."""
    issued_ns: int
    """Wall time, ns since 1970."""
    expires_ns: int
    """Wall time, ns since 1970; after issue."""
    country: str
    """ISO 3166-1 alpha-2; ZZ = not said."""
    asn: int
    """Autonomous system number; 0 = not said."""
    content: bytes
    """The kind's own value."""

    def __attrs_post_init__(self) -> None:
        _require(len(self.group) == GROUP_BYTES, f"a group id has {GROUP_BYTES} bytes, not {len(self.group)}")
        _require(len(self.topic) <= TOPIC_BYTES_MAX, f"a topic has up to {TOPIC_BYTES_MAX} bytes, not {len(self.topic)}")
        _require(all(map(is_count, (self.era, self.sequence, self.issued_ns, self.expires_ns))), "an integer is out of range")
        _require(self.issued_ns < self.expires_ns, "expires before it is issued")
        _require(is_country(self.country), f"country {self.country!r} is not two upper-case letters")
        _require(is_count(self.asn) and self.asn <= ASN_MAX, f"ASN {self.asn} is out of range")

    def encode(self) -> bytes:
        """Return the canonical body."""
        head = [self.group, self.topic, self.era, self.sequence, self.issued_ns, self.expires_ns]
        return pack([*head, self.country, self.asn, self.content])

    @classmethod
    def decode(cls, body: bytes, *, content_bytes_max: int) -> StatementBody:
        """Parse a body; check the signature over it first.

        Raises:
            LimitExceeded, DecodeError: too long, or malformed.
        """
        match unpack(body, bytes_max=content_bytes_max + BODY_OVERHEAD_BYTES_MAX):
            case [
                bytes(group), bytes(topic), int(era), int(sequence), int(issued_ns), int(expires_ns),
                str(country), int(asn), bytes(content),
            ]:  # fmt: skip
                pass
            case _:
                raise DecodeError("not a statement")
        if len(content) > content_bytes_max:
            raise LimitExceeded(f"a content of {len(content)} bytes, at most {content_bytes_max} are allowed")
        try:
            return cls(group, topic, era, sequence, issued_ns, expires_ns, country, asn, content)
        except ValueError as error:
            raise DecodeError(f"malformed statement: {error}") from None
