"""What one member can show another about a third: votes for quarantine, and proofs of equivocation.

A *vote* is one member's signed word that it holds evidence against a subject. It proves nothing but who said so, and when; `witness.py`
asks for half of the group. A *proof* holds two rows signed by one member at one (boot, seq): whoever knows the group id checks it alone
and need not trust who brought it.

Both travel in VOTE frames, content little endian. First u8 form. Votes (form 1): 1..8 times 138 B: 32 B witness, 32 B subject, u8 kind,
u8 flags (1 = withdrawn), u64 issued (s since 1970), 64 B signature. A proof (form 2): 32 B subject, u16 length of the first row content,
the first content, the second. Two rows of a full group in slot order fit one frame; two described rows do not (`frame_of_proof` gives
None), and then only the votes tell.

Invariants: one encoding each (the two rows of a proof rise); all sizes are checked before anything is parsed, and parsing verifies no
signature: `is_authentic` does. The group is under the signature and does not travel, so a vote of one group counts in no other.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence

import attrs

from srwan.errors import DecodeError
from srwan.gossip.row import open_row
from srwan.identity import Identity, is_signed_by
from srwan.overlay.frame import CONTENT_BYTES_MAX
from srwan.types import NodeId

__all__ = ["EquivocationProof", "Kind", "QuarantineVote", "cast_vote", "decode_content", "frame_of_proof", "frames_of_votes"]

VOTES_PER_FRAME_MAX = 8
"""8 x 138 B and the form fit the 1,156 B of one frame."""
ISSUED_S_MAX = 2**40
"""A vote beyond the year 36,000 is no vote; keeps arithmetic small."""

_DOMAIN = b"srwan/vote/1"
_BODY = struct.Struct("<32s32sBBQ")
_SIGNATURE_BYTES = 64
_VOTE_BYTES = _BODY.size + _SIGNATURE_BYTES
_WITHDRAWN = 1
_FORM_VOTES = 1
_FORM_PROOF = 2
_PROOF = struct.Struct("<B32sH")


class Kind(enum.IntEnum):
    """What a member is accused of. Values are wire format."""

    ECHO = 1
    """It claims a sum of both directions below the round trip that its echoes show."""
    PATH = 2
    """Packets over it take longer than the legs it told."""
    PLACE = 3
    """It cannot be where it says: light is not that fast."""
    EQUIVOCATION = 4
    """It signed two rows at one (boot, seq)."""
    CONDUCT = 5
    """Bad signatures, omitted reports, loss and flapping, echoes withheld or held back."""


@attrs.frozen(slots=True)
class QuarantineVote:
    """One member says that it holds evidence against another. Parsed is not proven: see `is_authentic`."""

    witness: NodeId
    """Who votes and signed."""
    subject: NodeId
    """Against whom."""
    kind: Kind
    """The gravest evidence held."""
    issued_s: int
    """Wall time, s since 1970; of two votes on one subject the later counts."""
    is_withdrawn: bool
    """The witness takes its vote back."""
    signature: bytes
    """64 bytes, over the group id and the body."""

    @property
    def version(self) -> tuple[int, bool]:
        """The greater replaces the lesser; at one second a withdrawal does."""
        return self.issued_s, self.is_withdrawn

    def encode(self) -> bytes:
        """Return the 138 bytes on the wire."""
        return _body(self.witness, self.subject, self.kind, self.issued_s, is_withdrawn=self.is_withdrawn) + self.signature

    @classmethod
    def decode(cls, data: bytes) -> QuarantineVote:
        """Parse one vote.

        Raises:
            DecodeError: wrong length, an unknown kind or flag, a time out of range, or a vote on oneself.
        """
        if len(data) != _VOTE_BYTES:
            raise DecodeError(f"vote of {len(data)} bytes")
        witness, subject, kind, flags, issued_s = _BODY.unpack_from(data)
        if flags & ~_WITHDRAWN or issued_s > ISSUED_S_MAX or witness == subject:
            raise DecodeError(f"vote with flags {flags:#x}, issued at {issued_s} s")
        try:
            known = Kind(kind)
        except ValueError:
            raise DecodeError(f"vote of unknown kind {kind}") from None
        return cls(NodeId(witness), NodeId(subject), known, issued_s, bool(flags & _WITHDRAWN), data[_BODY.size :])

    def is_authentic(self, group: bytes) -> bool:
        """Say whether `witness` signed this for `group`. Cost: 40 us."""
        body = _body(self.witness, self.subject, self.kind, self.issued_s, is_withdrawn=self.is_withdrawn)
        return is_signed_by(self.witness, _DOMAIN, group + body, self.signature)


def cast_vote(
    identity: Identity, group: bytes, subject: NodeId, kind: Kind, issued_s: int, *, is_withdrawn: bool = False
) -> QuarantineVote:
    """Sign a vote of `identity` in `group` (the 32-byte group id). Cost: 20 us.

    Raises:
        ValueError: the time is out of range, or the subject is the voter.
    """
    if not 0 <= issued_s <= ISSUED_S_MAX or subject == identity.node_id:
        raise ValueError(f"no vote on {subject!r} can be issued at {issued_s} s")
    body = _body(identity.node_id, subject, kind, issued_s, is_withdrawn=is_withdrawn)
    return QuarantineVote(identity.node_id, subject, kind, issued_s, is_withdrawn, identity.sign(_DOMAIN, group + body))


@attrs.frozen(slots=True)
class EquivocationProof:
    """Two rows of one member at one (boot, seq), as signed."""

    subject: NodeId
    """Who signed both."""
    first: bytes
    """Signed row content; `first < second`."""
    second: bytes
    """Signed row content."""

    @classmethod
    def of(cls, subject: NodeId, one: bytes, other: bytes) -> EquivocationProof:
        """Order the two contents, so that one pair makes one proof."""
        return cls(subject, min(one, other), max(one, other))

    @property
    def version(self) -> tuple[int, int]:
        """(boot, seq) that was used twice.

        Raises:
            DecodeError: the first content is no row.
        """
        row = open_row(self.subject, self.first).row
        return row.boot, row.seq

    def is_valid(self, group: bytes) -> bool:
        """Say whether this proves equivocation in `group`: two signed rows, one version, other bodies. Never raises. Cost: 100 us.

        Two signatures of one body are none: Ed25519 lets a signer make many.
        """
        try:
            one, other = open_row(self.subject, self.first), open_row(self.subject, self.second)
        except DecodeError:
            return False
        if (one.row.boot, one.row.seq) != (other.row.boot, other.row.seq) or one.row == other.row:
            return False
        return one.is_authentic(group) and other.is_authentic(group)

    def encode(self) -> bytes:
        """Return the bytes on the wire, without bound."""
        return _PROOF.pack(_FORM_PROOF, self.subject, len(self.first)) + self.first + self.second

    @classmethod
    def decode(cls, data: bytes) -> EquivocationProof:
        """Parse a proof; nothing is verified.

        Raises:
            DecodeError: truncated, or the contents do not rise.
        """
        if len(data) <= _PROOF.size or data[0] != _FORM_PROOF:
            raise DecodeError(f"proof of {len(data)} bytes")
        _, subject, length = _PROOF.unpack_from(data)
        first, second = data[_PROOF.size : _PROOF.size + length], data[_PROOF.size + length :]
        if len(first) != length or not first < second:
            raise DecodeError("the two contents of a proof do not rise")
        return cls(NodeId(subject), first, second)


def frames_of_votes(votes: Sequence[QuarantineVote]) -> list[bytes]:
    """Return contents of VOTE frames that hold all votes, in order, 8 each."""
    encoded = [vote.encode() for vote in votes]
    starts = range(0, len(encoded), VOTES_PER_FRAME_MAX)
    return [bytes([_FORM_VOTES]) + b"".join(encoded[start : start + VOTES_PER_FRAME_MAX]) for start in starts]


def frame_of_proof(proof: EquivocationProof) -> bytes | None:
    """Return the content of the VOTE frame that holds a proof; None if it is longer than a frame carries."""
    content = proof.encode()
    return content if len(content) <= CONTENT_BYTES_MAX else None


def decode_content(content: bytes) -> tuple[QuarantineVote, ...] | EquivocationProof:
    """Parse the content of a VOTE frame; nothing is verified.

    Raises:
        DecodeError: another form, a wrong length, or as the parts say.
    """
    if not content or len(content) > CONTENT_BYTES_MAX:
        raise DecodeError(f"vote content of {len(content)} bytes")
    if content[0] == _FORM_PROOF:
        return EquivocationProof.decode(content)
    votes, rest = divmod(len(content) - 1, _VOTE_BYTES)
    if content[0] != _FORM_VOTES or rest or not 1 <= votes <= VOTES_PER_FRAME_MAX:
        raise DecodeError(f"vote content of form {content[0]} and {len(content)} bytes")
    return tuple(QuarantineVote.decode(content[start : start + _VOTE_BYTES]) for start in range(1, len(content), _VOTE_BYTES))


def _body(witness: NodeId, subject: NodeId, kind: Kind, issued_s: int, *, is_withdrawn: bool) -> bytes:
    return _BODY.pack(witness, subject, kind, _WITHDRAWN if is_withdrawn else 0, issued_s)
