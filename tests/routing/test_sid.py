"""Segment identifiers."""

from __future__ import annotations

import hashlib
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srwan.routing.sid import ARGUMENT_MAX, Function, Sid, locator_of
from srwan.types import NodeId

NODE = NodeId(bytes(range(32)))
node_ids = st.binary(min_size=32, max_size=32).map(NodeId)


def test_locator_is_fd_and_56_bits_of_the_domain_separated_hash() -> None:
    digest = hashlib.blake2b(b"srwan/locator/1" + NODE, digest_size=32).digest()
    assert b"\xfd" + digest[:7] == locator_of(NODE)


def test_locator_never_changes() -> None:
    """Golden: other versions and the kernel's routes depend on it."""
    assert "fd4c4a1870bf53a5" == locator_of(NODE).hex()


def test_sid_is_locator_function_argument_in_network_order() -> None:
    sid = Sid.of(NODE, Function.END_APP, 0x0123456789AB)
    assert locator_of(NODE) + bytes.fromhex("ff01 0123456789ab") == sid
    assert (locator_of(NODE), 0xFF01, 0x0123456789AB) == (sid.locator, sid.function, sid.argument)


def test_functions_of_rfc_8986_have_its_code_points() -> None:
    expected = {"END": 1, "END_DX6": 16, "END_DX4": 17, "END_DT6": 18, "END_APP": 0xFF01, "END_STREAM": 0xFF02}
    assert expected == {function.name: function.value for function in Function}


def test_unknown_function_is_a_plain_number() -> None:
    assert Sid(locator_of(NODE) + b"\x12\x34" + bytes(6)).function == 0x1234


@given(node_ids, st.sampled_from(Function), st.integers(0, ARGUMENT_MAX))
def test_sid_survives_its_text_form(node_id: NodeId, function: Function, argument: int) -> None:
    sid = Sid.of(node_id, function, argument)
    assert sid == Sid.parse(str(sid))
    assert (locator_of(node_id), function, argument) == (sid.locator, sid.function, sid.argument)


@given(node_ids, st.sampled_from(Function))
def test_sid_is_a_unique_local_ipv6_address(node_id: NodeId, function: Function) -> None:
    assert ipaddress.IPv6Address(str(Sid.of(node_id, function))) in ipaddress.IPv6Network("fd00::/8")


@pytest.mark.parametrize("length", [0, 15, 17])
def test_sid_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        Sid(bytes(length))


@pytest.mark.parametrize("argument", [-1, ARGUMENT_MAX + 1])
def test_argument_beyond_48_bits_is_refused(argument: int) -> None:
    with pytest.raises(ValueError, match="48 bits"):
        Sid.of(NODE, Function.END, argument)
