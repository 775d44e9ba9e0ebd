"""Group ids, places, the trie."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srwan.errors import ConfigError
from srwan.overlay.group import (
    DEPTH_MAX,
    GROUP_SIZE_MAX,
    GroupId,
    children_of,
    group_id,
    group_tag,
    is_merge_due,
    is_split_due,
    partition,
    placement,
    rendezvous_keys,
    sibling_of,
)
from srwan.types import NodeId

prefixes = st.text("01", max_size=DEPTH_MAX - 1)


def nodes(count: int) -> list[NodeId]:
    return [NodeId(hashlib.blake2b(index.to_bytes(4, "little"), digest_size=32).digest()) for index in range(count)]


def test_a_group_id_has_golden_bytes() -> None:
    assert group_id("srwan").hex() == hashlib.blake2b(b"srwan\x00", digest_size=32, person=b"srwan/group/1").hexdigest()
    assert group_id("srwan", "01").hex() == hashlib.blake2b(b"srwan\x0001", digest_size=32, person=b"srwan/group/1").hexdigest()


def test_the_tag_is_the_first_four_bytes_little_endian() -> None:
    assert group_tag(GroupId(bytes(range(1, 33)))) == 0x04030201


def test_name_and_prefix_cannot_be_confused() -> None:
    assert group_id("net0", "1") != group_id("net", "01")


@pytest.mark.parametrize("network", ["", "x" * 65, "caf\u00e9", "a\x00b", "tab\t"])
def test_a_malformed_network_name_is_a_config_error(network: str) -> None:
    with pytest.raises(ConfigError):
        group_id(network)


def test_a_group_id_of_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        GroupId(b"short")


def test_rendezvous_keys_are_three_and_all_differ_between_groups() -> None:
    keys = rendezvous_keys(group_id("a")) + rendezvous_keys(group_id("b"))
    assert len(set(keys)) == 6
    assert {len(key) for key in keys} == {32}


def test_a_place_is_the_start_of_a_deeper_place_and_moves_with_the_salt() -> None:
    node = nodes(1)[0]
    assert placement(node, b"salt", 32).startswith(placement(node, b"salt", 5))
    assert placement(node, b"salt", 32) != placement(node, b"tlas", 32)
    assert placement(node, b"", 0) == ""


@given(prefixes)
def test_children_are_siblings_of_each_other(prefix: str) -> None:
    low, high = children_of(prefix)
    assert (high, low) == (sibling_of(low), sibling_of(high))


def test_the_root_has_no_sibling_and_the_deepest_leaf_no_children() -> None:
    with pytest.raises(ValueError, match="no sibling"):
        sibling_of("")
    with pytest.raises(ValueError, match="no prefix"):
        children_of("0" * DEPTH_MAX)


def test_a_group_that_just_split_is_not_merged_again() -> None:
    assert is_split_due(GROUP_SIZE_MAX + 1)
    assert not is_split_due(GROUP_SIZE_MAX)
    assert not is_merge_due(50, 51)
    assert is_merge_due(30, 30)


@given(st.integers(0, 600), st.binary(max_size=8))
def test_a_partition_puts_every_node_into_the_one_group_it_is_placed_in(count: int, salt: bytes) -> None:
    population = nodes(count)
    leaves = partition(population, salt)
    assert sorted(node for members in leaves.values() for node in members) == sorted(population)
    assert all(len(members) <= GROUP_SIZE_MAX for members in leaves.values())
    assert all(placement(node, salt, len(prefix)) == prefix for prefix, members in leaves.items() for node in members)


def test_ten_thousand_nodes_make_about_a_hundred_and_thirty_groups_of_useful_size() -> None:
    sizes = [len(members) for members in partition(nodes(10_000), b"2026-11-22").values()]
    assert 120 <= len(sizes) <= 150
    assert min(sizes) >= 40
