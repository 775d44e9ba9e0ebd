"""The tree against a dictionary: equal sets have equal digests whatever their history, and descent finds every difference."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srwan.errors import DecodeError
from srwan.ledger_client.exchange import digest_tree
from srwan.ledger_client.exchange.digest_tree import EMPTY, ENTRY_BYTES, DigestTree, Entry, position_of, position_of_proof
from srwan.ledger_client.record import Key, Kind, Record, Version
from srwan.types import NodeId

Make = Callable[..., Record]

SUBJECT = NodeId(bytes(32))


def unsigned(number: int, sequence: int = 0, *, expires_ns: int = 10, envelope: bytes = b"bytes") -> Record:
    """What the tree looks at; it verifies nothing."""
    return Record(Kind.OFFER, bytes(32), SUBJECT, Version(1, sequence), expires_ns, envelope, topic=number.to_bytes(4, "big"))


def tree_of(*records: Record) -> DigestTree:
    tree = DigestTree()
    for record in records:
        tree.put(record)
    return tree


def differing(left: DigestTree, right: DigestTree, prefix: str = "") -> set[bytes]:
    """Positions that differ, found as a session does."""
    if left.digest(prefix) == right.digest(prefix):
        return set()
    if left.is_leaf(prefix) or right.is_leaf(prefix):
        return {entry.position for entry in set(left.entries(prefix, 10_000)) ^ set(right.entries(prefix, 10_000))}
    return set().union(*(differing(left, right, prefix + digit) for digit in "0123456789abcdef"))


def test_an_empty_tree_is_one_empty_leaf() -> None:
    tree = DigestTree()

    assert (EMPTY, EMPTY, 0, True, []) == (tree.root, tree.digest("ab"), len(tree), tree.is_leaf(""), tree.entries("", 5))
    assert tree.key_at(bytes(16)) is None


def test_a_record_is_found_by_its_position() -> None:
    record = unsigned(7)
    tree = tree_of(record)

    assert (record.key, False) == tree.key_at(position_of(record.key))
    (entry,) = tree.entries("", 5)
    assert (position_of(record.key), record.version) == (entry.position, entry.version)
    assert entry == tree.entry_at(entry.position)
    assert EMPTY != tree.root


@pytest.mark.parametrize(
    "other",
    [
        unsigned(1, sequence=1),
        unsigned(1, envelope=b"other"),
        unsigned(2),
        attrs.evolve(unsigned(1), group=b"\x01" * 32),
        attrs.evolve(unsigned(1), kind=Kind.CLAIM),
        attrs.evolve(unsigned(1), subject=NodeId(b"\x01" * 32)),
    ],
)
def test_everything_that_was_signed_changes_the_digest(other: Record) -> None:
    assert tree_of(unsigned(1)).root != tree_of(other).root


def test_what_was_not_signed_does_not() -> None:
    filed_otherwise = attrs.evolve(unsigned(1), expires_ns=11, epoch=4, country="DE", asn=3)

    assert tree_of(unsigned(1)).root == tree_of(filed_otherwise).root


@settings(max_examples=60)
@given(st.data())
def test_the_digests_are_a_function_of_what_is_held_whatever_came_and_went(data: st.DataObject) -> None:
    count = data.draw(st.sampled_from([3, 40, 700]))
    puts = data.draw(st.lists(st.tuples(st.integers(0, count), st.integers(0, 3), st.integers(1, 30)), max_size=2 * count))
    cutoff_ns = data.draw(st.integers(0, 30))
    tree = DigestTree()
    held: dict[int, Record] = {}
    for number, sequence, expires_ns in puts:
        record = unsigned(number, sequence, expires_ns=expires_ns)
        if tree.put(record):
            held[number] = record
    tree.root  # noqa: B018 -- fills the cache
    removed = tree.expire(cutoff_ns)
    left = [record for record in held.values() if record.expires_ns > cutoff_ns]
    afresh = tree_of(*data.draw(st.permutations(left)) if count < 100 else reversed(left))

    assert len(held) - len(left) == removed
    assert len(left) == len(tree)
    assert afresh.root == tree.root
    for prefix in ("0", "7", "f", "3a", "3ab"):
        assert afresh.digest(prefix) == tree.digest(prefix)
        assert afresh.count(prefix) == tree.count(prefix)
        assert afresh.entries(prefix, 1000) == tree.entries(prefix, 1000)


@settings(max_examples=30)
@given(st.sets(st.integers(0, 2000), max_size=40), st.sets(st.integers(0, 2000), max_size=40), st.sampled_from([0, 10, 2000]))
def test_descent_finds_just_what_differs(mine: set[int], theirs: set[int], shared: int) -> None:
    left = tree_of(*(unsigned(number) for number in sorted(set(range(shared)) | mine)))
    right = tree_of(*(unsigned(number) for number in sorted(set(range(shared)) | theirs)))
    expected = {position_of(unsigned(number).key) for number in (mine ^ theirs) - set(range(shared))}

    assert expected == differing(left, right)


def test_older_versions_and_expired_records_are_passed_over() -> None:
    tree = tree_of(unsigned(1, sequence=5))

    assert not tree.put(unsigned(1, sequence=4))
    assert not tree.put(unsigned(1, sequence=5, envelope=b"other"))
    assert tree.put(unsigned(1, sequence=6, expires_ns=20))
    assert 0 == tree.expire(10)
    assert not tree.put(unsigned(2, expires_ns=10))
    assert 1 == tree.expire(20)
    assert EMPTY == tree.root


def test_what_replaced_a_record_of_shorter_life_lives_on() -> None:
    tree = tree_of(*(unsigned(number, expires_ns=5) for number in range(100)))
    for number in range(100):
        tree.put(unsigned(number, 1, expires_ns=50))

    assert 0 == tree.expire(5)
    assert 0 == tree.expire(49)
    assert 100 == tree.expire(50)


def test_a_contradicted_key_counts_by_version_and_proof_only() -> None:
    one, other = tree_of(unsigned(1)), tree_of(unsigned(1, envelope=b"other"))
    assert one.root != other.root
    for tree in (one, other):
        assert tree.put_proof(unsigned(1).key)
        assert not tree.put_proof(unsigned(1).key)

    assert one.root == other.root
    assert (unsigned(1).key, True) == one.key_at(position_of_proof(unsigned(1).key))
    later = tree_of(unsigned(1, sequence=1, envelope=b"later"))
    later.put_proof(unsigned(1).key)
    assert later.root != one.root
    one.put(unsigned(1, sequence=1, envelope=b"contradicts later"))
    assert later.root == one.root


def test_many_items_under_one_prefix_only_make_the_tree_deeper(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever grinds topics until all positions begin alike gains nothing: a change costs one digest a level."""

    def crowded(key: Key) -> bytes:
        return bytes(6) + key.topic * 2 + bytes(2)

    monkeypatch.setattr(digest_tree, "position_of", crowded)
    tree = tree_of(*(unsigned(number) for number in range(300)))
    assert 300 == tree.count("0" * 12)
    hashed = 0
    real = digest_tree._hash

    def counting(data: bytes, person: bytes) -> bytes:
        nonlocal hashed
        hashed += 1
        return real(data, person)

    tree.root  # noqa: B018
    monkeypatch.setattr(digest_tree, "_hash", counting)
    tree.put(unsigned(17, sequence=1))
    tree.root  # noqa: B018

    assert hashed < 2 * digest_tree.DEPTH_MAX


def test_a_listing_survives_the_wire_and_must_rise() -> None:
    entries = tree_of(*(unsigned(number) for number in range(5))).entries("", 9)
    listing = b"".join(entry.encode() for entry in entries)

    assert 5 * ENTRY_BYTES == len(listing)
    assert entries == Entry.decode_many(listing)
    with pytest.raises(DecodeError):
        Entry.decode_many(listing[1:])
    with pytest.raises(DecodeError):
        Entry.decode_many(listing[:ENTRY_BYTES] * 2)
