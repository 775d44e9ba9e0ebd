"""ICMP errors of the gateway, as scapy reads them."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, ICMPerror
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6EchoRequest, ICMPv6ND_Redirect, ICMPv6PacketTooBig, IPv6, IPv6ExtHdrFragment
from scapy.packet import Packet, Raw

from srwan.routing.gateway.icmp import IcmpError, TokenBucket, build_icmp_error, may_answer
from srwan.routing.gateway.ip_packet import parse_ip

HERE4, HERE6 = ipaddress.ip_address("10.77.0.1").packed, ipaddress.ip_address("fd77::1").packed
V4: dict[str, Any] = {"src": "10.1.0.1", "dst": "10.2.0.1"}
V6: dict[str, Any] = {"src": "fd01::1", "dst": "fd02::1"}


def answer(error: IcmpError, packet: bytes, mtu: int = 1280) -> bytes:
    header = parse_ip(packet)
    return build_icmp_error(error, packet, header, HERE4 if header.version == 4 else HERE6, mtu)


def with_right_sums(packet: Packet, *fields: tuple[type[Packet], str]) -> bytes:
    """Return the packet as scapy builds it when it has to work out the checksums itself."""
    for layer, field in fields:
        delattr(packet[layer], field)
    return bytes(packet)


@given(st.integers(0, 1500))
def test_fragmentation_needed_names_the_mtu_and_quotes_what_fits_576_bytes(size: int) -> None:
    packet = bytes(IP(**V4, flags="DF") / UDP(sport=5, dport=7) / Raw((bytes(range(256)) * 6)[:size]))
    made = answer(IcmpError.TOO_BIG, packet, 1280)
    read = IP(made)
    assert (3, 4, 1280) == (read[ICMP].type, read[ICMP].code, read[ICMP].nexthopmtu)
    assert ("10.77.0.1", "10.1.0.1", len(made)) == (read.src, read.dst, read.len)
    assert packet[: 576 - 28] == made[28:]
    assert len(made) <= 576
    assert made == with_right_sums(IP(made), (IP, "chksum"), (ICMP, "chksum"))


@given(st.integers(0, 1500))
def test_packet_too_big_names_the_mtu_and_quotes_what_fits_1280_bytes(size: int) -> None:
    packet = bytes(IPv6(**V6) / UDP(sport=5, dport=7) / Raw((bytes(range(256)) * 6)[:size]))
    made = answer(IcmpError.TOO_BIG, packet, 1280)
    read = IPv6(made)
    assert 1280 == read[ICMPv6PacketTooBig].mtu
    assert ("fd77::1", "fd01::1", len(made) - 40) == (read.src, read.dst, read.plen)
    assert packet[: 1280 - 48] == made[48:]
    assert len(made) <= 1280
    assert made == with_right_sums(IPv6(made), (ICMPv6PacketTooBig, "cksum"))


@pytest.mark.parametrize(
    ("error", "v4", "v6"),
    [
        (IcmpError.NO_ROUTE, (3, 0), (1, 0)),
        (IcmpError.UNREACHABLE, (3, 1), (1, 3)),
        (IcmpError.PROHIBITED, (3, 13), (1, 5)),
    ],
)
def test_unreachable_has_the_code_of_its_reason(error: IcmpError, v4: tuple[int, int], v6: tuple[int, int]) -> None:
    read4 = IP(answer(error, bytes(IP(**V4) / UDP())))
    read6 = IPv6(answer(error, bytes(IPv6(**V6) / UDP())))
    assert v4 == (read4[ICMP].type, read4[ICMP].code)
    assert v6 == (read6[ICMPv6DestUnreach].type, read6[ICMPv6DestUnreach].code)


def test_a_gateway_without_ipv4_address_answers_from_the_dummy_address() -> None:
    packet = bytes(IP(**V4) / UDP())
    assert "192.0.0.8" == IP(build_icmp_error(IcmpError.NO_ROUTE, packet, parse_ip(packet), None, 1280)).src


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (IP(**V4) / UDP(), True),
        (IP(**V4) / ICMP(type=8), True),
        (IP(**V4, flags="MF") / UDP() / Raw(bytes(8)), True),
        (IP(**V4, frag=4, proto=17) / Raw(bytes(8)), False),
        (IP(**V4) / ICMP(type=3, code=4) / IP(**V4), False),
        (IP(**V4) / ICMP(type=11), False),
        (IP(**V4, proto=1), False),
        (IP(src="0.0.0.0", dst="10.2.0.1") / UDP(), False),
        (IP(src="224.0.0.1", dst="10.2.0.1") / UDP(), False),
        (IP(src="10.1.0.1", dst="224.0.0.1") / UDP(), False),
        (IPv6(**V6) / ICMPv6EchoRequest(), True),
        (IPv6(**V6) / TCP(), True),
        (IPv6(**V6) / ICMPv6DestUnreach() / IPv6(**V6), False),
        (IPv6(**V6) / ICMPv6PacketTooBig() / IPv6(**V6), False),
        (IPv6(**V6) / ICMPv6ND_Redirect(), False),
        (IPv6(**V6, nh=58), False),
        (IPv6(src="::", dst="fd02::1") / UDP(), False),
        (IPv6(**V6) / IPv6ExtHdrFragment(offset=4, nh=17) / Raw(bytes(8)), False),
    ],
)
def test_only_first_packets_of_single_hosts_that_are_no_errors_are_answered(packet: Packet, expected: bool) -> None:
    data = bytes(packet)
    assert expected == may_answer(data, parse_ip(data))


def test_the_quote_of_an_error_is_read_back_by_the_host() -> None:
    made = IP(answer(IcmpError.TOO_BIG, bytes(IP(**V4, flags="DF") / ICMP(type=8, id=7, seq=9) / Raw(bytes(1400)))))
    assert (7, 9) == (made[ICMPerror].id, made[ICMPerror].seq)


def test_the_bucket_lets_a_burst_pass_and_then_its_rate() -> None:
    bucket = TokenBucket(per_s=10.0, burst=3.0)
    assert [True, True, True, False] == [bucket.take(5.0) for _ in range(4)]
    assert [False, True, False] == [bucket.take(5.05), bucket.take(5.15), bucket.take(5.16)]
    assert [True] * 3 + [False] == [bucket.take(1000.0) for _ in range(4)]


def test_the_bucket_survives_a_clock_that_goes_back() -> None:
    bucket = TokenBucket(per_s=10.0, burst=1.0)
    assert [True, False, False] == [bucket.take(5.0), bucket.take(1.0), bucket.take(1.05)]
