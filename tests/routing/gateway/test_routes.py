"""Longest-prefix routes, against a search through all prefixes."""

from __future__ import annotations

import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from srwan.routing.gateway.routes import Network, PrefixTable, overlay_address
from srwan.routing.sid import Function, Sid, locator_of
from srwan.types import NodeId

NODE = NodeId(bytes([7]) * 32)


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """Prefixes out of few bits, so that they nest."""
    bits = draw(st.integers(0, 8))
    if draw(st.booleans()):
        return ipaddress.IPv4Network((draw(st.integers(0, 255)) << 24 | 0x0A0B0C, bits), strict=False)
    return ipaddress.IPv6Network((draw(st.integers(0, 255)) << 120, bits), strict=False)


@given(st.lists(st.tuples(networks(), st.integers())), st.integers(0, 255), st.booleans())
def test_the_longest_prefix_that_covers_an_address_is_found(entries: list[tuple[Network, int]], first: int, is_v4: bool) -> None:
    address = ipaddress.ip_address(bytes([first]) + bytes(3 if is_v4 else 15))
    covering = [(network.prefixlen, at, value) for at, (network, value) in enumerate(entries) if address in network]
    expected = max(covering)[2] if covering else None
    assert expected == PrefixTable(entries).find(address.packed)


def test_ipv4_and_ipv6_do_not_mix() -> None:
    table = PrefixTable([(ipaddress.ip_network("::/0"), 6)])
    assert (None, 6) == (table.find(bytes(4)), table.find(bytes(16)))


def test_the_overlay_address_lies_in_the_locator_and_is_no_function() -> None:
    packed = overlay_address(NODE).packed
    assert locator_of(NODE) == packed[:8]
    assert Sid(packed).function not in {int(function) for function in Function}
    assert ipaddress.ip_address(packed).is_private
