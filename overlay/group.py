"""Which pulse group a router belongs to, and under which directory keys the group is found. Pure functions.

A network (a name, for example "srwan") is cut into groups by a binary trie over salted hashes of the node ids: a group is a leaf, named by
its prefix, a string of "0" and "1"; the root "" is the group of a network that fits one group. Whoever can choose a group can take it over,
so a node cannot: the salt changes, and an id that hashes into a wanted leaf today does not tomorrow. Geography never decides (on measured
matrices it gains nothing in latency and costs all of the above).

A leaf splits when it holds more than `GROUP_SIZE_MAX`, two sibling leaves merge when together they hold at most `MERGE_SIZE_MAX`. The
gap is hysteresis: 4 operations against 21 without it in 59 steps of 2 % churn at 5,000 nodes. Everybody computes this alike from what
it knows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Self

from srwan.errors import ConfigError
from srwan.types import NodeId

__all__ = [
    "GroupId",
    "children_of",
    "group_id",
    "group_tag",
    "is_merge_due",
    "is_split_due",
    "partition",
    "placement",
    "rendezvous_keys",
    "sibling_of",
]

GROUP_SIZE_MAX = 100
"""Members of a pulse group (whitepaper 2.2.2): the all-pairs pulse costs n^2."""
MERGE_SIZE_MAX = 60
"""Two siblings with at most this many members together become one group."""
DEPTH_MAX = 32
"""Bits of a prefix; 2**32 groups of 100 are more than there are addresses."""
RENDEZVOUS_KEYS = 3
"""Independent directory keys of one group: to hide a group, three places of the directory must be taken."""
NETWORK_CHARS_MAX = 64


class GroupId(bytes):
    """The id of a group, 32 bytes. Compares, hashes and packs as plain bytes.

    Raises:
        ValueError: not 32 bytes.
    """

    __slots__ = ()

    def __new__(cls, value: bytes) -> Self:
        """Check the length."""
        if len(value) != 32:
            raise ValueError(f"a GroupId has 32 bytes, not {len(value)}")
        return super().__new__(cls, value)

    def __repr__(self) -> str:
        return f"GroupId({self.hex()[:12]}...)"


def group_id(network: str, prefix: str = "") -> GroupId:
    """Return the id of the group at `prefix` of `network`.

    Args:
        network: 1..64 printable ASCII characters; all routers that shall meet use the same.
        prefix: up to `DEPTH_MAX` characters "0" and "1"; "" is the root.

    Raises:
        ConfigError: a malformed network name. ValueError: a malformed prefix.
    """
    if not (1 <= len(network) <= NETWORK_CHARS_MAX and network.isascii() and network.isprintable()):
        raise ConfigError("network", f"{network!r} is no network name", f"use 1 to {NETWORK_CHARS_MAX} printable ASCII characters")
    _check_prefix(prefix)
    name = network.encode("ascii") + b"\x00" + prefix.encode("ascii")
    return GroupId(hashlib.blake2b(name, digest_size=32, person=b"srwan/group/1").digest())


def group_tag(group: GroupId) -> int:
    """Return the 32 bits by which frames of other groups are told apart before any cryptography."""
    return int.from_bytes(group[:4], "little")


def rendezvous_keys(group: GroupId) -> tuple[bytes, ...]:
    """Return the `RENDEZVOUS_KEYS` directory keys, 32 bytes each, under which introducers of `group` are published."""
    return tuple(
        hashlib.blake2b(group + bytes([index]), digest_size=32, person=b"srwan/meet/1").digest() for index in range(RENDEZVOUS_KEYS)
    )


def placement(node_id: NodeId, salt: bytes, depth: int) -> str:
    """Return the first `depth` bits of a node's place in the trie, as "0" and "1".

    Args:
        node_id: whose place.
        salt: up to 64 bytes that the whole network agrees on; a new salt places everybody anew.
        depth: 0..`DEPTH_MAX`.

    Raises:
        ValueError: depth out of range, or salt too long.
    """
    if not 0 <= depth <= DEPTH_MAX:
        raise ValueError(f"depth {depth} is not in 0..{DEPTH_MAX}")
    digest = hashlib.blake2b(node_id, key=salt, digest_size=8, person=b"srwan/place/1").digest()
    return f"{int.from_bytes(digest, 'big'):064b}"[:depth]


def children_of(prefix: str) -> tuple[str, str]:
    """Return the two leaves into which `prefix` splits. Raises ValueError at `DEPTH_MAX`."""
    _check_prefix(prefix + "0")
    return prefix + "0", prefix + "1"


def sibling_of(prefix: str) -> str:
    """Return the leaf with which `prefix` may merge. Raises ValueError for the root, which has none."""
    _check_prefix(prefix)
    if not prefix:
        raise ValueError("the root has no sibling")
    return prefix[:-1] + ("1" if prefix[-1] == "0" else "0")


def is_split_due(size: int) -> bool:
    """Say whether a leaf of `size` members splits."""
    return size > GROUP_SIZE_MAX


def is_merge_due(size: int, sibling_size: int) -> bool:
    """Say whether two sibling leaves become one."""
    return size + sibling_size <= MERGE_SIZE_MAX


def partition(nodes: Iterable[NodeId], salt: bytes) -> dict[str, frozenset[NodeId]]:
    """Cut a network into groups from nothing: split while a leaf is too large.

    Args:
        nodes: all routers of the network.
        salt: as in `placement`.

    Returns:
        Prefix to members; the prefixes are the leaves of one trie, every node is in exactly one. Leaves may be small, even empty.

    Cost: one hash per node and level, about 1.5 us each.
    """
    leaves: dict[str, frozenset[NodeId]] = {}
    pending = [("", frozenset(nodes))]
    while pending:
        prefix, members = pending.pop()
        if not is_split_due(len(members)) or len(prefix) >= DEPTH_MAX:
            leaves[prefix] = members
            continue
        low, high = children_of(prefix)
        lower = frozenset(node for node in members if placement(node, salt, len(low)) == low)
        pending += [(low, lower), (high, members - lower)]
    return leaves


def _check_prefix(prefix: str) -> None:
    if len(prefix) > DEPTH_MAX or not set(prefix) <= {"0", "1"}:
        raise ValueError(f"{prefix!r} is no prefix: at most {DEPTH_MAX} characters 0 and 1")
