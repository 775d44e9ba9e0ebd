from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srwan.ledger_client.merkle import inclusion_proof, is_included, merkle_root

leaf_lists = st.lists(st.binary(max_size=8), min_size=1, max_size=40)


def blake(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=32, person=b"srwan/merkle/1").digest()


def test_root_of_three_leaves_is_written_out_as_in_rfc_6962() -> None:
    a, b, c = (blake(b"\x00" + leaf) for leaf in (b"a", b"b", b"c"))
    expected = blake(b"\x01" + blake(b"\x01" + a + b) + c)

    assert expected == merkle_root([b"a", b"b", b"c"])


def test_root_is_stable_over_releases() -> None:
    assert merkle_root([]).hex() == "f05030554b0d8f9519dcb51142eb80257d20dabfbf7ae6e381c21ffeab0ac13a"
    assert merkle_root([bytes([number]) for number in range(7)]).hex() == "ed68fa224a7d6b7a06c8a0fa04b199f1eece9d6709a334494accc871f86a0bb3"


@given(leaf_lists)
def test_every_leaf_is_shown_to_be_included_by_a_proof_of_logarithmic_length(leaves: list[bytes]) -> None:
    root = merkle_root(leaves)
    for index, leaf in enumerate(leaves):
        proof = inclusion_proof(leaves, index)

        assert is_included(leaf, index, len(leaves), proof, root)
        assert len(proof) <= (len(leaves) - 1).bit_length()


@given(leaf_lists, st.data())
def test_a_proof_shows_nothing_else(leaves: list[bytes], data: st.DataObject) -> None:
    root = merkle_root(leaves)
    index = data.draw(st.integers(0, len(leaves) - 1))
    proof = inclusion_proof(leaves, index)
    leaf, size = leaves[index], len(leaves)

    assert not is_included(leaf + b"x", index, size, proof, root)
    assert not is_included(leaf, index, size, proof, blake(root))
    assert not is_included(leaf, index, size, (*proof, bytes(32)), root)
    assert not is_included(leaf, size, size, proof, root)
    assert not is_included(leaf, -1, size, proof, root)
    for place, sibling in enumerate(proof):
        assert not is_included(leaf, index, size, (*proof[:place], blake(sibling), *proof[place + 1 :]), root)
        assert not is_included(leaf, index, size, (*proof[:place], sibling[:31], *proof[place + 1 :]), root)
    if proof:
        assert not is_included(leaf, index, size, proof[:-1], root)


@given(leaf_lists, leaf_lists)
def test_different_lists_have_different_roots(some: list[bytes], others: list[bytes]) -> None:
    assert (merkle_root(some) == merkle_root(others)) == (some == others)


def test_an_inner_node_is_no_leaf() -> None:
    a, b = (blake(b"\x00" + leaf) for leaf in (b"a", b"b"))

    assert merkle_root([a + b]) != merkle_root([b"a", b"b"])


@pytest.mark.parametrize("index", [-1, 2])
def test_no_proof_for_a_leaf_that_is_not_there(index: int) -> None:
    with pytest.raises(IndexError):
        inclusion_proof([b"a", b"b"], index)


@given(
    st.binary(max_size=8), st.integers(-2, 300), st.integers(-2, 300), st.lists(st.binary(max_size=33), max_size=12), st.binary(max_size=33)
)
def test_hostile_proofs_are_refused_without_an_error(leaf: bytes, index: int, size: int, proof: list[bytes], root: bytes) -> None:
    assert not is_included(leaf, index, size, proof, root)
