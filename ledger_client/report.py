"""The body a reporter signs: whose rows it held for a group, in which version, by digest.

Not here: the rows themselves, which gossip's own report (`srwan.gossip.report`) carries along. Each is signed by the member that measured
it and is a record of its own; the report says which of them belong together, and its Merkle root lets one row be shown to belong to it
without the rest.

Layout: canonical msgpack list of group (32 B), epoch, sequence, reporter (32 B), roster (n x 32 B, one string, the order of the
matrix' axes), roster digest (8 B, as rows in slot order name it), presence (bitmap, bit i % 8 of byte i // 8 for roster[i]), for every
present member in roster order [boot, seq, BLAKE2b-256 of its row's content], Merkle root over the leaves, issued and expiry wall time
(ns). A leaf is the canonical msgpack of [node id, boot, seq, digest]. The full roster costs 32 B a member and names the absent, too.

Invariants: an instance is well-formed (bounds, distinct roster, reporter in it); a decoded one has a bitmap and root that match.
"""

from __future__ import annotations

import hashlib
from typing import Any

import attrs

from srwan.errors import DecodeError
from srwan.ledger_client.merkle import DIGEST_BYTES, inclusion_proof, merkle_root
from srwan.types import NodeId
from srwan.wire import pack, unpack

__all__ = ["GroupReport", "RowReference", "row_digest"]

GROUP_BYTES = 32
ROSTER_DIGEST_BYTES = 8
ROSTER_MAX = 128
"""Members of a report: a group has up to 100, the rest is room for a view in motion (bound of the overlay's view)."""
BODY_BYTES_MAX = 16 * 1024 - 160
"""A report of ROSTER_MAX members takes 10.9 kB; the cap leaves room for longer integers."""
LIFETIME_S_MAX = 86_400
"""Longest time from issue to expiry of any record, s: what is older says nothing about a path."""
INTEGER_MAX = 2**63 - 1
"""Versions and times fit the signed 64-bit integers of every store."""
NS_PER_S = 1_000_000_000


def row_digest(content: bytes) -> bytes:
    """Return the BLAKE2b-256 of a row's content (signature and body), under which reports name it."""
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()


def _require(is_met: bool, problem: str) -> None:
    if not is_met:
        raise ValueError(f"report: {problem}")


def is_count(value: object) -> bool:
    """Say whether `value` is an integer 0..INTEGER_MAX, as versions and times are."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= INTEGER_MAX


@attrs.frozen(slots=True)
class RowReference:
    """One row that a report speaks of."""

    node_id: NodeId
    boot: int
    """Start of the member's run, tenths of a second since 1970 modulo 2**32."""
    seq: int
    """Round of the member within its run."""
    digest: bytes
    """`row_digest` of the content, 32 B."""

    @property
    def leaf(self) -> bytes:
        """The bytes of the Merkle leaf."""
        return pack([self.node_id, self.boot, self.seq, self.digest])


@attrs.frozen(slots=True)
class GroupReport:
    """What a reporter says it held of its group at the end of an epoch.

    Raises:
        ValueError: a bound is broken, a member twice, the reporter or a row's member not in the roster, rows not in roster order.
    """

    group: bytes
    """Group id, 32 B."""
    epoch: int
    """Reporting epoch."""
    sequence: int
    """Rises with every report of one reporter within an epoch."""
    reporter: NodeId
    roster: tuple[NodeId, ...]
    """All members the reporter knew, 1..ROSTER_MAX; the order of the matrix' axes."""
    roster_digest: bytes
    """8 B by which rows in slot order name this roster (`View.digest`): a row that names another cannot be read with it."""
    rows: tuple[RowReference, ...]
    """Those whose row it held, in roster order."""
    issued_ns: int
    """Wall time, ns since 1970."""
    expires_ns: int
    """Wall time, ns since 1970; up to LIFETIME_S_MAX after issue."""

    def __attrs_post_init__(self) -> None:
        _require(len(self.group) == GROUP_BYTES, f"a group id has {GROUP_BYTES} bytes, not {len(self.group)}")
        _require(all(map(is_count, (self.epoch, self.sequence, self.issued_ns, self.expires_ns))), "an integer is out of range")
        _require(0 < self.expires_ns - self.issued_ns <= LIFETIME_S_MAX * NS_PER_S, f"lives {self.expires_ns - self.issued_ns} ns")
        _require(0 < len(self.roster) <= ROSTER_MAX, f"a roster of {len(self.roster)}")
        _require(len(set(self.roster)) == len(self.roster), "a member twice in the roster")
        _require(self.reporter in self.roster, "the reporter is not in the roster")
        _require(len(self.roster_digest) == ROSTER_DIGEST_BYTES, f"a roster digest of {len(self.roster_digest)} bytes")
        present = {row.node_id for row in self.rows}
        _require([row.node_id for row in self.rows] == [node for node in self.roster if node in present], "rows are not in roster order")
        for row in self.rows:
            _require(is_count(row.boot) and is_count(row.seq) and len(row.digest) == DIGEST_BYTES, "a malformed row reference")

    @property
    def presence(self) -> bytes:
        """Bitmap over the roster: bit i % 8 of byte i // 8 says that roster[i]'s row is present."""
        present = {row.node_id for row in self.rows}
        bits = sum(1 << index for index, node in enumerate(self.roster) if node in present)
        return bits.to_bytes((len(self.roster) + 7) // 8, "little")

    @property
    def root(self) -> bytes:
        """Merkle root over the leaves of `rows`, 32 B. Cost: 0.3 ms for 100 rows."""
        return merkle_root([row.leaf for row in self.rows])

    def proof(self, node: NodeId) -> tuple[RowReference, int, tuple[bytes, ...]]:
        """Return a member's reference, its index among `len(rows)` leaves and the inclusion proof, for `merkle.is_included`.

        Raises:
            KeyError: its row is not in the report.
        """
        for index, row in enumerate(self.rows):
            if row.node_id == node:
                return row, index, inclusion_proof([each.leaf for each in self.rows], index)
        raise KeyError(node)

    def encode(self) -> bytes:
        """Return the canonical body, to be signed in an envelope of kind "ditex-report"."""
        entries = [[row.boot, row.seq, row.digest] for row in self.rows]
        head = [self.group, self.epoch, self.sequence, self.reporter, b"".join(self.roster), self.roster_digest]
        return pack([*head, self.presence, entries, self.root, self.issued_ns, self.expires_ns])

    @classmethod
    def decode(cls, body: bytes) -> GroupReport:
        """Parse a body; check the signature over it first.

        Raises:
            LimitExceeded, DecodeError: too long, malformed, or bitmap or root do not match the rows.
        """
        match unpack(body, bytes_max=BODY_BYTES_MAX):
            case [
                bytes(group), int(epoch), int(sequence), bytes(reporter), bytes(roster), bytes(digest), bytes(presence),
                list(entries), bytes(root), int(issued_ns), int(expires_ns),
            ]:  # fmt: skip
                pass
            case _:
                raise DecodeError("not a report")
        try:
            nodes = tuple(NodeId(roster[start : start + 32]) for start in range(0, len(roster), 32))
            rows = _references(nodes, presence, entries)
            report = cls(group, epoch, sequence, NodeId(reporter), nodes, digest, rows, issued_ns, expires_ns)
        except ValueError as error:
            raise DecodeError(f"malformed report: {error}") from None
        if report.presence != presence or report.root != root:
            raise DecodeError("the report's bitmap or root does not match its rows")
        return report


def _references(nodes: tuple[NodeId, ...], presence: bytes, entries: list[Any]) -> tuple[RowReference, ...]:
    bits = int.from_bytes(presence[: ROSTER_MAX // 8], "little")
    present = [node for index, node in enumerate(nodes[:ROSTER_MAX]) if bits >> index & 1]
    if len(present) != len(entries):
        raise ValueError(f"{len(entries)} rows, {len(present)} marked present")
    rows: list[RowReference] = []
    for node, entry in zip(present, entries, strict=True):
        match entry:
            case [int(boot), int(seq), bytes(digest)]:
                rows.append(RowReference(node, boot, seq, digest))
            case _:
                raise ValueError("a malformed row reference")
    return tuple(rows)
