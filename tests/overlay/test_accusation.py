"""Accusations and the bundles that prove a burial."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srwan.errors import BadSignature, DecodeError
from srwan.identity import Identity
from srwan.overlay.accusation import (
    ACCUSATIONS_PER_BUNDLE_MAX,
    BUNDLE_BYTES_MAX,
    Accusation,
    bundle_head,
    bundles_of,
    decode_bundle,
    is_bundle,
)
from srwan.overlay.frame import CONTENT_BYTES_MAX
from srwan.overlay.member_frames import batches_of, decode_members, encode_members
from srwan.types import NodeId

GROUP = b"group-id"
SUBJECT = NodeId(b"\x22" * 32)
OBSERVERS = [Identity(bytes([5, index]) * 16) for index in range(25)]
GOLDEN = bytes.fromhex("2222222222222222222222222222222222222222222222222222222222222222e80300000500000000d2496b")
"""The first 44 bytes of an accusation of `SUBJECT`, run 1000, round 5, issued 1,800,000,000 s after 1970; the signature follows."""


def accusation(index: int = 0, *, boot: int = 1000, round_: int = 5, issued_s: int = 1_800_000_000, group: bytes = GROUP) -> Accusation:
    return Accusation.sign(OBSERVERS[index], group, SUBJECT, boot=boot, round=round_, issued_s=issued_s)


def test_an_accusation_has_golden_bytes_and_survives_encoding() -> None:
    content = accusation().encode()
    assert GOLDEN == content[:44]
    assert OBSERVERS[0].sign(b"srwan/accuse/1", GROUP + GOLDEN) == content[44:]
    assert accusation() == Accusation.decode(content, OBSERVERS[0].node_id)
    assert len(content) == 108


def test_a_true_accusation_verifies_again_and_again() -> None:
    accusation().verify(GROUP)
    accusation().verify(GROUP)


@pytest.mark.parametrize(
    "forged",
    [
        attrs.evolve(accusation(), observer=OBSERVERS[1].node_id),
        attrs.evolve(accusation(), subject=OBSERVERS[1].node_id),
        attrs.evolve(accusation(), boot=1001),
        attrs.evolve(accusation(), round=6),
        attrs.evolve(accusation(), issued_s=1_800_000_001),
        attrs.evolve(accusation(), signature=bytes(64)),
        attrs.evolve(accusation(), observer=NodeId(bytes(32))),
        accusation(group=b"stranger"),
    ],
)
def test_a_changed_or_foreign_accusation_does_not_verify(forged: Accusation) -> None:
    for _ in range(2):  # failures are not remembered as passed
        with pytest.raises(BadSignature):
            forged.verify(GROUP)


@given(st.integers(1, 25))
def test_bundles_survive_encoding_and_fit_a_members_frame(count: int) -> None:
    accusations = [accusation(index) for index in range(count)]
    bundles = bundles_of(accusations)
    assert accusations == [item for bundle in bundles for item in decode_bundle(bundle)]
    assert all(is_bundle(bundle) and bundle.startswith(bundle_head(SUBJECT, 1000)) for bundle in bundles)
    assert max(map(len, bundles)) <= BUNDLE_BYTES_MAX
    contents = [encode_members(bytes(8), batch) for batch in batches_of(bundles)]
    assert max(map(len, contents)) <= CONTENT_BYTES_MAX
    assert list(bundles) == [item for content in contents for item in decode_members(content)[1]]


def test_no_accusation_makes_no_bundle_and_a_head_is_golden() -> None:
    assert () == bundles_of([])
    assert b"\x0b" + b"\x22" * 32 + b"\xe8\x03\x00\x00" == bundle_head(SUBJECT, 1000)
    assert not is_bundle(b"")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bundle_head(SUBJECT, 1),
        bundles_of([accusation()])[0][:-1],
        bundles_of([accusation()])[0] + b"x",
        b"\x0c" + bundles_of([accusation()])[0][1:],
        bundles_of([accusation(), accusation(issued_s=1)])[0],
        bundle_head(OBSERVERS[0].node_id, 1000) + bundles_of([accusation()])[0][37:],
        bundle_head(SUBJECT, 1000) + b"".join(bundles_of([accusation(index)])[0][37:] for index in range(ACCUSATIONS_PER_BUNDLE_MAX + 1)),
    ],
)
def test_a_malformed_bundle_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_bundle(data)


@given(st.binary(max_size=1200))
def test_random_bytes_raise_nothing_but_decode_errors(data: bytes) -> None:
    for decode in (decode_bundle, lambda data: Accusation.decode(data, OBSERVERS[0].node_id)):
        try:
            decode(data)
        except DecodeError:
            continue
