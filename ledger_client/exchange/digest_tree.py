"""A Merkle tree over what a store holds, kept up to date record by record: equal sets have equal roots, descent finds what differs.

Theory of operation. The newest unexpired record of a key is an item at a position, the 128-bit hash of its key. A range is a prefix of
positions in hexadecimal. A range of up to LEAF_ITEMS_MAX items is a leaf, whose digest covers positions, versions and the hashes of the
signed bytes; a larger one is an inner range, whose digest covers those of its 16 parts. What is not signed (expiry and place of rows,
epochs) is left out: two stores may rightly have filed the same bytes otherwise.

For keys under which an equivocation is proven the signed bytes count no more, only that there is a proof (an item of its own) and the
version: of two contradicting records each store keeps the one it saw first, and shall not ask for the other forever.

Invariants: every digest is a function of the items alone, not of the order in which they came and went. Digests are computed when asked
for and cached; a change forgets those on its way, at most one per level.

Why hashes of hashes and not sums or exclusive-ors of items, which are simpler to update: a subject chooses what it signs, and with a
few hundred records of its own it solves a linear system so that a store that lacks somebody else's record shows the same sum.

Source: RFC 6962 section 2.1 (hashing leaves and nodes apart); Merkle 1987. Figures: benchmarks/ledger_sizing.py.
"""

from __future__ import annotations

import hashlib
import itertools
import struct
from collections.abc import Iterator
from typing import NamedTuple

from srwan.errors import DecodeError
from srwan.ledger_client.record import Key, Kind, Record, Version
from srwan.types import NodeId

__all__ = ["DIGEST_BYTES", "EMPTY", "ENTRY_BYTES", "FAN_OUT", "POSITION_BYTES", "DigestTree", "Entry", "position_of", "position_of_proof"]

DIGEST_BYTES = 16
"""Of a range or of signed bytes; a collision costs 2**64 hashes."""
POSITION_BYTES = 16
FAN_OUT = 16
"""Parts of an inner range: one hexadecimal digit."""
DEPTH_MAX = 2 * POSITION_BYTES
LEAF_ITEMS_MAX = 16
"""Items of a leaf: its listing costs 768 B, three times the 256 B of a split. Both sides must agree, or equal ranges have other digests."""
EMPTY = bytes(DIGEST_BYTES)
"""Digest of a range without items."""
EXPIRES_NEVER_NS = 2**63 - 1

_CONTRADICTED = b"\xff" * DIGEST_BYTES
"""In place of the hash of the signed bytes, for keys with a proof."""
_PROVEN = Version(0, 0)
_KINDS = tuple(Kind)
_KIND_INDEX = {kind: index for index, kind in enumerate(_KINDS)}
_IS_PROOF = 0x80
_HEAD = struct.Struct(">QQ16sQB")
"""Of an item: era, sequence, hash, expiry, kind; group, subject and topic follow. One string an item, for there may be millions."""
_FINGERPRINT_BYTES = 32
_ENTRY = struct.Struct(">16sQQ16s")
ENTRY_BYTES = _ENTRY.size
"""Of an item in a listing."""


class Entry(NamedTuple):
    """What a listing says of one item."""

    position: bytes
    """Hash of its key, 16 B."""
    version: Version
    digest: bytes
    """Hash of the signed bytes, 16 B."""

    def encode(self) -> bytes:
        """Return ENTRY_BYTES bytes."""
        return _ENTRY.pack(self.position, *self.version, self.digest)

    @staticmethod
    def decode_many(data: bytes) -> list[Entry]:
        """Parse a listing. For hostile input.

        Raises:
            DecodeError: not a whole number of entries, or positions do not rise.
        """
        if len(data) % ENTRY_BYTES:
            raise DecodeError(f"a listing of {len(data)} bytes")
        entries = [Entry(position, Version(era, sequence), digest) for position, era, sequence, digest in _ENTRY.iter_unpack(data)]
        if any(left.position >= right.position for left, right in itertools.pairwise(entries)):
            raise DecodeError("the positions of a listing do not rise")
        return entries


def _hash(data: bytes, person: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES, person=person).digest()


def position_of(key: Key) -> bytes:
    """Return where the newest record of a key belongs. Cost: 1 us."""
    return _hash(key.kind.encode() + b"\x00" + key.group + key.subject + key.topic, b"srwan/place/1")


def position_of_proof(key: Key) -> bytes:
    """Return where the proof belongs that a key's subject equivocated under it."""
    return _hash(key.kind.encode() + b"\x00" + key.group + key.subject + key.topic, b"srwan/proof/1")


class _Node:
    """A range: `items` of a leaf, `children` of an inner one; the other is None."""

    __slots__ = ("children", "count", "digest", "expires_min_ns", "items")

    def __init__(self) -> None:
        self.children: list[_Node | None] | None = None
        self.items: dict[bytes, bytes] | None = {}
        self.count = 0
        self.digest: bytes | None = None
        self.expires_min_ns = EXPIRES_NEVER_NS
        """No item expires before; after replacements some may only later."""

    def every(self) -> Iterator[tuple[bytes, bytes]]:
        """Positions and items, in no order."""
        if self.items is not None:
            yield from self.items.items()
        for child in self.children or ():
            if child is not None:
                yield from child.every()


def _digit(position: bytes, depth: int) -> int:
    return position[depth >> 1] >> 4 if depth % 2 == 0 else position[depth >> 1] & 15


def _leaf_digest(items: dict[bytes, bytes]) -> bytes:
    if not items:
        return EMPTY
    return _hash(b"".join(position + items[position][:_FINGERPRINT_BYTES] for position in sorted(items)), b"srwan/leaf/1")


def _digest(node: _Node | None) -> bytes:
    if node is None:
        return EMPTY
    if node.digest is None:
        if node.items is not None:
            node.digest = _leaf_digest(node.items)
        else:
            node.digest = _hash(b"".join(_digest(child) for child in node.children or ()), b"srwan/range/1")
    return node.digest


def _entry(position: bytes, item: bytes) -> Entry:
    era, sequence, digest, _, _ = _HEAD.unpack_from(item)
    return Entry(position, Version(era, sequence), digest)


class DigestTree:
    """The newest unexpired records of one store and the proofs it holds, as digests."""

    def __init__(self) -> None:
        self._root = _Node()
        self._contradicted: set[bytes] = set()
        self._cutoff_ns = 0

    def __len__(self) -> int:
        return self._root.count

    @property
    def root(self) -> bytes:
        """Digest of everything."""
        return _digest(self._root)

    # --- what changes it

    def put(self, record: Record) -> bool:
        """Take over what a store accepted; older than held, or expired, is passed over. Say whether it changed anything. Cost: 6 us."""
        if record.expires_ns <= self._cutoff_ns:
            return False
        position = position_of(record.key)
        held = self._find_item(position)
        if held is not None and _entry(position, held).version >= record.version:
            return False
        digest = _CONTRADICTED if position in self._contradicted else _hash(record.envelope, b"srwan/bytes/1")
        head = _HEAD.pack(*record.version, digest, record.expires_ns, _KIND_INDEX[record.kind])
        self._insert(position, head + record.group + record.subject + record.topic, is_new=held is None)
        return True

    def put_proof(self, key: Key) -> bool:
        """Take over that a store holds a proof of equivocation under a key. Say whether that is new."""
        position = position_of(key)
        if position in self._contradicted:
            return False
        self._contradicted.add(position)
        kind = _KIND_INDEX[key.kind] | _IS_PROOF
        head = _HEAD.pack(*_PROVEN, EMPTY, EXPIRES_NEVER_NS, kind)
        self._insert(position_of_proof(key), head + key.group + key.subject + key.topic, is_new=True)
        held = self._find_item(position)
        if held is not None:
            era, sequence, _, expires_ns, code = _HEAD.unpack_from(held)
            item = _HEAD.pack(era, sequence, _CONTRADICTED, expires_ns, code) + held[_HEAD.size :]
            self._insert(position, item, is_new=False)
        return True

    def expire(self, cutoff_ns: int) -> int:
        """Leave out, from now on, what expires at or before this wall time (ns since 1970); return how many items went.

        Cost: in proportion to what went, and once per leaf and lifetime of its items.
        """
        self._cutoff_ns = max(self._cutoff_ns, cutoff_ns)
        expired: list[bytes] = []
        self._collect_expired(self._root, expired)
        for position in expired:
            self._remove(position)
        return len(expired)

    def _collect_expired(self, node: _Node, expired: list[bytes]) -> None:
        if node.expires_min_ns > self._cutoff_ns:
            return
        least = EXPIRES_NEVER_NS
        for position, item in (node.items or {}).items():
            expires_ns = _HEAD.unpack_from(item)[3]
            if expires_ns <= self._cutoff_ns:
                expired.append(position)
            else:
                least = min(least, expires_ns)
        for child in node.children or ():
            if child is not None:
                self._collect_expired(child, expired)
                least = min(least, child.expires_min_ns)
        node.expires_min_ns = least

    def _insert(self, position: bytes, item: bytes, *, is_new: bool) -> None:
        expires_ns = _HEAD.unpack_from(item)[3]
        added = 1 if is_new else 0
        node, depth = self._root, 0
        while True:
            node.digest = None
            node.count += added
            node.expires_min_ns = min(node.expires_min_ns, expires_ns)
            if node.items is not None:
                node.items[position] = item
                if node.count > LEAF_ITEMS_MAX and depth < DEPTH_MAX:
                    _split(node, depth)
                return
            assert node.children is not None
            digit = _digit(position, depth)
            child = node.children[digit]
            if child is None:
                child = node.children[digit] = _Node()
            node, depth = child, depth + 1

    def _remove(self, position: bytes) -> None:
        node, depth = self._root, 0
        while True:
            node.digest = None
            node.count -= 1
            if node.children is not None and node.count <= LEAF_ITEMS_MAX:  # back to a leaf, lest history show in the digest
                node.items, node.children = dict(node.every()), None
            if node.items is not None:
                del node.items[position]
                return
            assert node.children is not None
            digit = _digit(position, depth)
            child = node.children[digit]
            assert child is not None
            if child.count == 1:
                node.children[digit] = None
                return
            node, depth = child, depth + 1

    # --- what is asked of it

    def digest(self, prefix: str) -> bytes:
        """Return the digest of a range, EMPTY if nothing is in it. Cost: cached but for what changed."""
        node, items = self._find_range(prefix)
        return _digest(node) if items is None else _leaf_digest(items)

    def count(self, prefix: str) -> int:
        """Return how many items are in a range."""
        node, items = self._find_range(prefix)
        if items is not None:
            return len(items)
        return 0 if node is None else node.count

    def is_leaf(self, prefix: str) -> bool:
        """Say whether a range is compared by listing it."""
        return self.count(prefix) <= LEAF_ITEMS_MAX

    def parts(self, prefix: str) -> list[bytes]:
        """Return the digests of the 16 parts of an inner range."""
        node, _ = self._find_range(prefix)
        assert node is not None
        assert node.children is not None
        return [_digest(child) for child in node.children]

    def entries(self, prefix: str, limit: int) -> list[Entry]:
        """Return up to `limit` items of a range, by rising position. Cost: in proportion to what is returned."""
        node, items = self._find_range(prefix)
        if items is not None:
            return [_entry(position, items[position]) for position in sorted(items)[:limit]]
        found: list[Entry] = []
        pending = [] if node is None else [node]
        while pending and len(found) < limit:
            current = pending.pop()
            if current.items is not None:
                found += [_entry(position, current.items[position]) for position in sorted(current.items)]
            pending += [child for child in reversed(current.children or ()) if child is not None]
        return found[:limit]

    def entry_at(self, position: bytes) -> Entry | None:
        """Return the item at a position, None if there is none."""
        item = self._find_item(position)
        return None if item is None else _entry(position, item)

    def key_at(self, position: bytes) -> tuple[Key, bool] | None:
        """Return the key of an item and whether the item is the proof under that key; None if nothing is there."""
        item = self._find_item(position)
        if item is None:
            return None
        code = _HEAD.unpack_from(item)[4]
        names = item[_HEAD.size :]
        key = Key(_KINDS[code & ~_IS_PROOF], names[:32], NodeId(names[32:64]), names[64:])
        return key, bool(code & _IS_PROOF)

    def _find_item(self, position: bytes) -> bytes | None:
        node, depth = self._root, 0
        while node.children is not None:
            child = node.children[_digit(position, depth)]
            if child is None:
                return None
            node, depth = child, depth + 1
        return (node.items or {}).get(position)

    def _find_range(self, prefix: str) -> tuple[_Node | None, dict[bytes, bytes] | None]:
        """The node of a range; or, where a leaf above it holds its items, these."""
        node = self._root
        for digit in prefix:
            if node.children is None:
                items = node.items or {}
                return None, {position: item for position, item in items.items() if position.hex().startswith(prefix)}
            child = node.children[int(digit, 16)]
            if child is None:
                return None, None
            node = child
        return node, None


def _split(node: _Node, depth: int) -> None:
    """Make an inner range of a leaf that has grown too large."""
    items, node.items = node.items or {}, None
    children: list[_Node | None] = [None] * FAN_OUT
    node.children = children
    for position, item in items.items():
        digit = _digit(position, depth)
        child = children[digit]
        if child is None:
            child = children[digit] = _Node()
        assert child.items is not None
        child.items[position] = item
        child.count += 1
        child.expires_min_ns = min(child.expires_min_ns, _HEAD.unpack_from(item)[3])
    for child in children:
        if child is not None and child.count > LEAF_ITEMS_MAX:
            _split(child, depth + 1)
