"""What a reporter hands over to be published: the signed rows of the members it heard, exactly as they were signed.

A report adds nothing that must be believed: every row carries its measurer's signature, the roster gives the NodeIds that the signatures
are checked with. Two reports of one group merge by taking the newest (boot, seq) per member, in any order. How it is stored and who reads
it is the ledger's matter.
"""

from __future__ import annotations

import hashlib

import attrs

from srwan.gossip.row import SignedRow
from srwan.types import NodeId
from srwan.wire import pack

__all__ = ["Report"]

_PERSON = b"srwan/report/1"


@attrs.frozen(slots=True)
class Report:
    """The rows of one group at one time, as one reporter held them."""

    group: bytes
    """32-byte group id."""
    epoch: int
    """Minutes of group time."""
    sequence: int
    """Rises with every report of this reporter in the epoch."""
    reporter: NodeId
    roster: tuple[NodeId, ...]
    """The members as the reporter knew them, rising."""
    roster_digest: bytes
    """8 bytes; a row in slot order with this digest has `roster` as its order."""
    rows: tuple[SignedRow, ...]
    """Verified rows of those members that were heard, by rising NodeId; at most one each."""

    @property
    def present(self) -> bytes:
        """Bitmap over the roster, least significant bit first: who has a row."""
        heard = {signed.node_id for signed in self.rows}
        bits = sum(1 << index for index, node in enumerate(self.roster) if node in heard)
        return bits.to_bytes((len(self.roster) + 7) // 8, "little")

    @property
    def digest(self) -> bytes:
        """32 bytes over everything in the report; REPORTED tells it to the group. Cost: 0.2 ms for 100 rows."""
        contents = [signed.content for signed in self.rows]
        roster = b"".join(self.roster)
        body = pack([self.group, self.epoch, self.sequence, self.reporter, roster, self.roster_digest, self.present, contents])
        return hashlib.blake2b(body, digest_size=32, person=_PERSON).digest()
