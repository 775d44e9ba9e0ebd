"""What a validator says of a claim: accepted, with the figures it found, or the reason why not.

Published as a VERDICT record: group MARKET_GROUP, subject the validator's router, topic the session id. A later verdict replaces an earlier
one: evidence may arrive late. Two verdicts under one version are a proof against the validator.

The figures let anybody who holds the same records recompute the verdict and see where he differs.

Layout, canonical msgpack: ["claim/1", session, octets, amount, reason, seat, figures]; octets and amount are strings of 16 B, big
endian; figures are a list of [name, 16 B].
"""

from __future__ import annotations

import attrs

from srwan.errors import DecodeError
from srwan.ledger_client.record import Kind, Version
from srwan.ledger_client.settlement.signing import SIGNATURE_BYTES
from srwan.ledger_client.settlement.terms import HASH_BYTES, UINT128_MAX
from srwan.ledger_client.statement import MARKET_GROUP, Statement
from srwan.types import NodeId
from srwan.wire import pack, unpack

__all__ = ["ACCEPTED", "FIGURES_MAX", "ClaimVerdict", "is_reason"]

ACCEPTED = ""
"""The reason of an accepted claim."""
REASON_CHARACTERS_MAX = 32
FIGURES_MAX = 40
"""Four figures, and three per relay at most."""
VERDICT_BYTES_MAX = 4096
LAYOUT = "claim/1"
INTEGER_BYTES = 16


def is_reason(text: str) -> bool:
    """Say whether this may stand as a reason: short, lower case, hyphens."""
    return len(text) <= REASON_CHARACTERS_MAX and text.isascii() and all(letter.islower() or letter == "-" for letter in text)


@attrs.frozen(slots=True)
class ClaimVerdict:
    """One validator's word on one session.

    Raises:
        ValueError: a field is out of bounds.
    """

    session: bytes
    """32 B."""
    octets: int
    """Claimed, since the session began."""
    amount_microtoken: int
    """Claimed, since the session began."""
    reason: str
    """ACCEPTED, or why not: a short lower-case word, listed in docs/validators.md."""
    seat: bytes
    """Signature of the validator's wallet over the router's id (`seat.py`), 65 B."""
    figures: tuple[tuple[str, int], ...] = ()
    """What was found, name and value, for whoever wants to recompute it; units are in the names."""

    def __attrs_post_init__(self) -> None:
        if len(self.session) != HASH_BYTES or len(self.seat) != SIGNATURE_BYTES:
            raise ValueError("a verdict's session or seat has the wrong length")
        if not is_reason(self.reason):
            raise ValueError(f"{self.reason!r} is no reason: a short lower-case word")
        if not all(0 <= value <= UINT128_MAX for value in (self.octets, self.amount_microtoken, *(value for _, value in self.figures))):
            raise ValueError("a figure does not fit 128 bits")
        if len(self.figures) > FIGURES_MAX or not all(0 < len(name) <= 2 * REASON_CHARACTERS_MAX for name, _ in self.figures):
            raise ValueError("too many figures, or too long names")

    @property
    def is_accepted(self) -> bool:
        """Whether the claim may be paid."""
        return self.reason == ACCEPTED

    def encode(self) -> bytes:
        """Return the content of a VERDICT record."""
        figures = [[name, _sealed(value)] for name, value in self.figures]
        return pack([LAYOUT, self.session, _sealed(self.octets), _sealed(self.amount_microtoken), self.reason, self.seat, figures])

    @classmethod
    def decode(cls, data: bytes) -> ClaimVerdict:
        """Parse the content of a VERDICT record; nothing is verified.

        Raises:
            LimitExceeded, DecodeError: too long or malformed.
        """
        match unpack(data, bytes_max=VERDICT_BYTES_MAX):
            case [str(layout), bytes(session), bytes(octets), bytes(amount), str(reason), bytes(seat), list(figures)] if (
                layout == LAYOUT and len(octets) == len(amount) == INTEGER_BYTES
            ):
                pass
            case _:
                raise DecodeError("not a verdict")
        try:
            return cls(session, _opened(octets), _opened(amount), reason, seat, tuple(map(_figure, figures)))
        except ValueError as error:
            raise DecodeError(f"malformed verdict: {error}") from None

    def statement(self, validator: NodeId, version: Version, *, issued_ns: int, expires_ns: int) -> Statement:
        """Return the statement that publishes it; `version` as `ClaimFiling.statement`."""
        return Statement(Kind.VERDICT, MARKET_GROUP, validator, self.session, version, issued_ns, expires_ns, self.encode())


def _sealed(value: int) -> bytes:
    return value.to_bytes(INTEGER_BYTES, "big")


def _opened(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _figure(item: object) -> tuple[str, int]:
    match item:
        case [str(name), bytes(value)] if len(value) == INTEGER_BYTES:
            return name, _opened(value)
        case _:
            raise DecodeError("not a figure")
