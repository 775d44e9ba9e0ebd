"""Introducer records and directory values."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srwan.errors import LocalProtocolError, RemoteProtocolError, StaleRecord
from srwan.identity import Identity
from srwan.overlay.group import group_id, rendezvous_keys
from srwan.overlay.rendezvous import (
    RECORD_BYTES_MAX,
    RECORDS_MAX,
    VALUE_BYTES_MAX,
    IntroducerRecord,
    best_value,
    is_valid_value,
    merge_values,
    open_value,
)
from srwan.wire import pack

WALL_NS = 1_800_000_000_000_000_000
S = 1_000_000_000
GROUP = group_id("test")
GOLDEN = bytes.fromhex(
    "9501aa696e74726f6475636572c420004c226e0f18779c59b0b7551f13454158626aaac54e7345e2cb0a5eb698d2e2c45f95c4201afef83e549ab291"
    "21bd49491be1a4ec473672fa3a01f6e462a6992ddb6a77bc9192aa3139382e35312e312e37cd126691b82f6970342f3139382e35312e312e372f7463"
    "702f34373130cf18fae27693b40001cf18fae302467d7001c440de72c0d53d103828b19b9b9820cd0937bd6d7c63c8b8ba7910e2dd069900cb7e1ef9"
    "f6491bad557ab4244c400530b99edf3a907e8062dc046b3e1b52a95b4d00"
)
KEYS = rendezvous_keys(GROUP)


def identity(index: int) -> Identity:
    return Identity(bytes([8, index]) * 16)


def record(index: int, **changes: Any) -> IntroducerRecord:
    host = f"198.51.{index}.7"
    plain = IntroducerRecord(
        identity(index).node_id, GROUP, ((host, 4710),), (f"/ip4/{host}/tcp/4710",), WALL_NS + index, WALL_NS + index + 600 * S
    )
    return attrs.evolve(plain, **changes)


def sealed(index: int, **changes: Any) -> bytes:
    return record(index, **changes).seal(identity(index))


def value(*indices: int) -> bytes:
    return pack([sealed(index) for index in indices])


def test_a_record_survives_sealing() -> None:
    assert record(1) == IntroducerRecord.open(sealed(1), wall_ns=WALL_NS)
    assert record(1).address.node_id == identity(1).node_id


@pytest.mark.parametrize("changes", [{"control": ()}, {"udp": ()}, {"expires_ns": WALL_NS + 700 * S}, {"control": ("x" * 128,) * 4}])
def test_what_others_would_refuse_cannot_be_sealed(changes: dict[str, Any]) -> None:
    with pytest.raises(LocalProtocolError):
        sealed(1, **changes)


def test_a_record_has_golden_bytes() -> None:
    assert sealed(1) == GOLDEN


def test_an_expired_record_is_stale() -> None:
    with pytest.raises(StaleRecord):
        IntroducerRecord.open(sealed(0), wall_ns=WALL_NS + 600 * S)


def test_bad_records_of_a_value_are_dropped_and_the_good_ones_kept() -> None:
    mixed = pack([b"rubbish", sealed(1), sealed(2)[:-1] + b"x", sealed(3, issued_ns=WALL_NS - 500 * S, expires_ns=WALL_NS)])
    assert [record(1)] == open_value(mixed, WALL_NS)
    assert not is_valid_value(KEYS[0], mixed, WALL_NS)


def test_a_value_is_valid_for_its_groups_keys_only() -> None:
    assert all(is_valid_value(key, value(1, 2), WALL_NS) for key in KEYS)
    assert not is_valid_value(rendezvous_keys(group_id("other"))[0], value(1, 2), WALL_NS)
    assert not is_valid_value(KEYS[0], pack([]), WALL_NS)
    assert not is_valid_value(KEYS[0], pack([sealed(1), sealed(1, issued_ns=WALL_NS + 5)]), WALL_NS)


def test_a_value_stays_valid_while_one_of_its_records_lives() -> None:
    stored = pack([sealed(1, expires_ns=WALL_NS + 10 * S), sealed(2)])
    assert is_valid_value(KEYS[0], stored, WALL_NS + 20 * S)
    assert [record(2)] == open_value(stored, WALL_NS + 20 * S)
    assert not is_valid_value(KEYS[0], stored, WALL_NS + 700 * S)
    assert not is_valid_value(KEYS[0], stored, WALL_NS - 100 * S)


def test_merging_keeps_the_newest_of_each_node() -> None:
    older, newer = pack([sealed(1)]), pack([sealed(1, issued_ns=WALL_NS + 9 * S, expires_ns=WALL_NS + 609 * S)])
    assert merge_values([older, newer], GROUP, WALL_NS) == merge_values([newer, older], GROUP, WALL_NS) == newer


def test_merging_leaves_out_records_of_other_groups() -> None:
    foreign = pack([sealed(2, group=group_id("other"))])
    assert merge_values([foreign, value(1)], GROUP, WALL_NS) == value(1)


def test_merging_ignores_malformed_values_and_fits_the_bounds() -> None:
    merged = merge_values([b"rubbish", value(*range(8)), value(*range(8, 16)), b""], GROUP, WALL_NS)
    assert len(merged) <= VALUE_BYTES_MAX
    assert [record(index) for index in range(15, 7, -1)] == open_value(merged, WALL_NS)
    assert is_valid_value(KEYS[0], merged, WALL_NS)


def test_many_records_of_one_host_do_not_push_out_the_others() -> None:
    crowd = [sealed(index, udp=(("203.0.113.5", 4000 + index),), issued_ns=WALL_NS + 50 * S) for index in range(20, 28)]
    merged = merge_values([value(1, 2), pack(crowd)], GROUP, WALL_NS)
    kept = {kept.node_id for kept in open_value(merged, WALL_NS)}
    assert {identity(1).node_id, identity(2).node_id} <= kept
    assert len(kept) == RECORDS_MAX


def test_the_best_value_has_most_live_hosts() -> None:
    crowd = pack([sealed(index, udp=(("203.0.113.5", 4000),)) for index in range(20, 28)])
    assert best_value([value(1), b"rubbish", value(1, 2, 3), crowd], WALL_NS) == 2
    with pytest.raises(ValueError, match="no values"):
        best_value([], WALL_NS)


def test_the_largest_record_fits_eight_times() -> None:
    control = ("x" * 128, "y" * 128)
    largest = pack([sealed(index, control=control) for index in range(8)])
    assert max(len(sealed(index, control=control)) for index in range(8)) <= RECORD_BYTES_MAX
    assert len(largest) <= VALUE_BYTES_MAX


@given(st.binary(max_size=600))
def test_random_bytes_raise_nothing_but_protocol_errors(data: bytes) -> None:
    assert not is_valid_value(KEYS[0], data, WALL_NS)
    assert merge_values([data], GROUP, WALL_NS) == pack([])
    assert best_value([data], WALL_NS) == 0
    with pytest.raises(RemoteProtocolError):
        IntroducerRecord.open(data, wall_ns=WALL_NS)


@given(st.lists(st.binary(max_size=60), max_size=10))
def test_lists_of_random_bytes_hold_no_records(items: list[bytes]) -> None:
    try:
        assert open_value(pack(items), WALL_NS) == []
    except RemoteProtocolError:
        assert len(items) > RECORDS_MAX
