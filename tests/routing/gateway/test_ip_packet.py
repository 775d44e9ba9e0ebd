"""What the gateway reads of IP packets, against scapy's."""

from __future__ import annotations

import functools
import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_LSRR, IPOption_RR, IPOption_SSRR
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    IPv6ExtHdrSegmentRouting,
)
from scapy.packet import Packet, Raw
from scapy.utils import checksum as scapy_checksum

from srwan.errors import DecodeError
from srwan.routing.gateway.ip_packet import EXTENSIONS_MAX, checksum, is_martian, is_multicast, parse_ip, plain_key, traffic_class_of

V4: dict[str, Any] = {"src": "10.1.0.1", "dst": "10.2.0.1"}
V6: dict[str, Any] = {"src": "fd01::1", "dst": "fd02::1"}
octets = st.binary(min_size=1, max_size=80)
ipv4 = st.integers(0, 2**32 - 1).map(lambda number: str(ipaddress.IPv4Address(number)))
ipv6 = st.integers(0, 2**128 - 1).map(lambda number: str(ipaddress.IPv6Address(number)))


def built(packet: Packet) -> bytes:
    return bytes(packet)


@given(octets)
def test_the_checksum_is_scapys(data: bytes) -> None:
    assert scapy_checksum(data) == checksum(data)


def test_the_checksum_of_zeros_is_all_ones() -> None:
    assert 0xFFFF == checksum(bytes(20))


@given(ipv4, ipv4, st.integers(0, 255), st.booleans(), octets)
def test_a_plain_ipv4_packet_is_read_as_it_was_built(source: str, destination: str, tos: int, has_df: bool, body: bytes) -> None:
    packet = built(IP(src=source, dst=destination, tos=tos, flags="DF" if has_df else 0) / UDP(sport=1, dport=2) / Raw(body))
    header = parse_ip(packet)
    read = (header.version, header.source, header.destination, header.protocol, header.upper_at, header.may_fragment)
    assert (4, ipaddress.ip_address(source).packed, ipaddress.ip_address(destination).packed, 17, 20, not has_df) == read
    assert (True, False) == (header.is_first, header.is_fragment)
    assert header.source + header.destination == plain_key(packet)
    assert tos == traffic_class_of(packet)


@given(ipv6, ipv6, st.integers(0, 255), octets)
def test_a_plain_ipv6_packet_is_read_as_it_was_built(source: str, destination: str, tc: int, body: bytes) -> None:
    packet = built(IPv6(src=source, dst=destination, tc=tc) / TCP(sport=1, dport=2, flags="A") / Raw(body))
    header = parse_ip(packet)
    read = (header.version, header.source, header.destination, header.protocol, header.upper_at, header.may_fragment)
    assert (6, ipaddress.ip_address(source).packed, ipaddress.ip_address(destination).packed, 6, 40, False) == read
    assert header.source + header.destination == plain_key(packet)
    assert tc == traffic_class_of(packet)


def test_extension_headers_lead_to_the_upper_layer() -> None:
    packet = built(IPv6(**V6) / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / ICMPv6EchoRequest(data=b"x"))
    header = parse_ip(packet)
    assert (58, 56, True, False) == (header.protocol, header.upper_at, header.is_first, header.is_fragment)
    assert plain_key(packet) is None


@pytest.mark.parametrize(("offset", "more", "is_first"), [(0, 1, True), (3, 0, False), (3, 1, False)])
def test_fragments_are_told_apart(offset: int, more: int, is_first: bool) -> None:
    four = built(IP(**V4, flags=more, frag=offset, proto=17) / Raw(bytes(16)))
    six = built(IPv6(**V6) / IPv6ExtHdrFragment(offset=offset, m=more, nh=17) / Raw(bytes(16)))
    for packet in (four, six):
        header = parse_ip(packet)
        assert (17, is_first, True) == (header.protocol, header.is_first, header.is_fragment)
        assert plain_key(packet) is None


GOOD = built(IP(**V4) / UDP() / Raw(b"payload"))
GOOD6 = built(IPv6(**V6) / UDP() / Raw(b"payload"))
MANY = functools.reduce(lambda packet, _: packet / IPv6ExtHdrDestOpt(), range(EXTENSIONS_MAX + 1), IPv6(**V6))


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (b"", "ip-short"),
        (GOOD[:19], "ip-short"),
        (GOOD6[:39], "ip-short"),
        (b"\x55" + GOOD[1:], "ip-version"),
        (GOOD[:-1], "ip-length"),
        (GOOD + b"x", "ip-length"),
        (GOOD6[:-1], "ip-length"),
        (GOOD6 + b"x", "ip-length"),
        (b"\x44" + GOOD[1:], "ip-length"),
        (built(IP(**V4, ihl=15) / Raw(b"short")), "ip-length"),
        (GOOD[:8] + b"\x07" + GOOD[9:], "ip-checksum"),
        (built(IP(**V4, chksum=0x1234) / UDP()), "ip-checksum"),
        (built(IP(**V4, options=[IPOption_LSRR(routers=["10.9.9.9"])]) / UDP()), "ip-source-route"),
        (built(IP(**V4, options=[IPOption_SSRR(routers=["10.9.9.9"])]) / UDP()), "ip-source-route"),
        (built(IP(**V4, options=[b"\x07\xff\x04\x00"]) / UDP()), "ip-options"),
        (built(IP(**V4, options=[b"\x07\x01\x04\x00"]) / UDP()), "ip-options"),
        (built(IP(**V4, options=[b"\x01\x01\x01\x07"]) / UDP()), "ip-options"),
        (built(IP(**V4, frag=8191) / Raw(bytes(20))), "ip-fragment"),
        (built(IP(**V4, flags="MF") / Raw(bytes(13))), "ip-fragment"),
        (built(IP(**V4, flags="MF")), "ip-fragment"),
        (built(IPv6(**V6) / IPv6ExtHdrFragment(offset=8191, nh=17) / Raw(bytes(20))), "ip-fragment"),
        (built(IPv6(**V6) / IPv6ExtHdrFragment(m=1, nh=17) / Raw(bytes(13))), "ip-fragment"),
        (built(IPv6(**V6) / IPv6ExtHdrRouting(addresses=["fd09::1"]) / UDP()), "ip-source-route"),
        (built(IPv6(**V6) / IPv6ExtHdrSegmentRouting(addresses=["fd09::1", "fd0a::1"], segleft=1) / UDP()), "ip-source-route"),
        (built(IPv6(**V6) / IPv6ExtHdrDestOpt() / IPv6ExtHdrHopByHop() / UDP()), "ip-extension"),
        (built(IPv6(**V6, nh=60) / Raw(b"\x11\x00\x01")), "ip-extension"),
        (built(IPv6(**V6, nh=60) / Raw(b"\x11\x09" + bytes(6))), "ip-extension"),
        (built(MANY / UDP()), "ip-extension"),
    ],
)
def test_a_malformed_packet_is_refused_with_its_reason(packet: bytes, reason: str) -> None:
    with pytest.raises(DecodeError) as caught:
        parse_ip(packet)
    assert reason == caught.value.reason
    assert plain_key(packet) is None


def test_harmless_options_and_spent_routing_headers_pass() -> None:
    recorded = built(IP(**V4, options=[IPOption_RR(routers=["0.0.0.0"] * 3)]) / ICMP())
    spent = built(IPv6(**V6) / IPv6ExtHdrSegmentRouting(addresses=["fd02::1"], segleft=0) / UDP())
    assert (1, 17) == (parse_ip(recorded).protocol, parse_ip(spent).protocol)


@given(st.binary(max_size=120), st.sampled_from([b"", GOOD, GOOD6]), st.integers(0, 60))
def test_random_bytes_are_read_or_refused(noise: bytes, base: bytes, at: int) -> None:
    packet = base[:at] + noise + base[at + len(noise) :]
    key = plain_key(packet)
    try:
        header = parse_ip(packet)
    except DecodeError:
        assert key is None, "the quick look takes what the careful one refuses"
        return
    assert header.upper_at <= len(packet)
    assert key in (None, header.source + header.destination)


@given(ipv4)
def test_ipv4_martians_are_pythons_loopback_linklocal_unspecified_and_reserved(address: str) -> None:
    each = ipaddress.IPv4Address(address)
    this_net = each in ipaddress.IPv4Network("0.0.0.0/8")
    expected = each.is_loopback or each.is_link_local or this_net or each.is_reserved
    assert expected == is_martian(each.packed)


@pytest.mark.parametrize(
    ("address", "martian", "multicast"),
    [
        ("127.0.0.1", True, False),
        ("169.254.1.1", True, False),
        ("0.0.0.0", True, False),
        ("255.255.255.255", True, True),
        ("224.0.0.251", False, True),
        ("10.0.0.1", False, False),
        ("::", True, False),
        ("::1", True, False),
        ("::ffff:10.0.0.1", True, False),
        ("fe80::1", True, False),
        ("fec0::1", True, False),
        ("ff02::1", False, True),
        ("fd01::1", False, False),
        ("2001:db8::1", False, False),
    ],
)
def test_addresses_that_may_not_cross(address: str, martian: bool, multicast: bool) -> None:
    packed = ipaddress.ip_address(address).packed
    assert (martian, multicast) == (is_martian(packed), is_multicast(packed))
