"""Fragments and MSS, against scapy's defragmentation and checksums."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP, IPOption_NOP, IPOption_RR, IPOption_Security, defragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt
from scapy.packet import Packet, Raw

from srwan.routing.gateway.ip_packet import is_plain_sum, parse_ip
from srwan.routing.gateway.rewrite import clamp_mss, fragment_ipv4

V4: dict[str, Any] = {"src": "10.1.0.1", "dst": "10.2.0.1"}
V6: dict[str, Any] = {"src": "fd01::1", "dst": "fd02::1"}
NOISE = bytes(range(251)) * 40


def reassembled(pieces: list[bytes]) -> bytes:
    whole: Packet
    (whole,) = defragment([IP(piece) for piece in pieces])  # type: ignore[no-untyped-call]
    return bytes(whole)


@given(st.integers(0, 9000), st.integers(68, 1500))
def test_fragments_fit_and_make_the_packet_again(size: int, mtu: int) -> None:
    packet = bytes(IP(**V4, id=77, tos=3, ttl=9) / UDP(sport=1, dport=2) / Raw(NOISE[:size]))
    pieces = list(fragment_ipv4(packet, mtu))
    assert max(map(len, pieces)) <= mtu
    assert all(is_plain_sum(piece[:20]) for piece in pieces)
    assert [parse_ip(piece).is_first for piece in pieces] == [True] + [False] * (len(pieces) - 1)
    if len(pieces) == 1:
        assert [packet] == pieces
        return
    assert packet[20:] == reassembled(pieces)[20:]
    assert {(77, 3, 9, "10.1.0.1", "10.2.0.1")} == {(p.id, p.tos, p.ttl, p.src, p.dst) for p in map(IP, pieces)}


def test_a_fragment_is_cut_again_in_its_place() -> None:
    whole = bytes(IP(**V4, id=5) / UDP(sport=1, dport=2) / Raw(NOISE[:4000]))
    once = list(fragment_ipv4(whole, 1500))
    twice = [piece for fragment in once for piece in fragment_ipv4(fragment, 576)]
    assert len(twice) > len(once)
    assert whole[20:] == reassembled(twice)[20:]
    assert 1 == sum(not IP(piece).flags.MF for piece in twice)


def test_only_options_with_the_copied_bit_go_into_every_fragment() -> None:
    options = [IPOption_RR(routers=["0.0.0.0"]), IPOption_NOP(), IPOption_Security()]
    packet = bytes(IP(**V4, options=options) / UDP() / Raw(NOISE[:2000]))
    pieces = [IP(piece) for piece in fragment_ipv4(packet, 576)]
    assert [7, 2] == [option.option for option in pieces[0].options if option.option > 1]
    assert {(2,)} == {tuple(option.option for option in piece.options if option.option > 1) for piece in pieces[1:]}
    assert all(is_plain_sum(bytes(piece)[: piece.ihl * 4]) for piece in pieces)
    assert packet[packet[0] % 16 * 4 :] == b"".join(bytes(piece)[piece.ihl * 4 :] for piece in pieces)


def mss_of(packet: bytes) -> int:
    layer = IP(packet) if packet[0] >> 4 == 4 else IPv6(packet)
    return int(dict(layer[TCP].options)["MSS"])


def rebuilt(packet: bytes) -> bytes:
    """As scapy builds it with a TCP checksum of its own."""
    layer: Packet = IP(packet) if packet[0] >> 4 == 4 else IPv6(packet)
    del layer[TCP].chksum
    return bytes(layer)


ORDERS = [
    [("MSS", 0)],
    [("NOP", None), ("MSS", 0)],
    [("SAckOK", b""), ("NOP", None), ("MSS", 0)],
    [("WScale", 7), ("MSS", 0), ("EOL", None)],
]


@given(st.integers(0, 65_535), st.sampled_from(ORDERS), st.sampled_from(["S", "SA"]), st.booleans(), st.integers(0, 2**32 - 1))
def test_the_mss_of_a_syn_is_lowered_and_its_checksum_stays_right(
    mss: int, order: list[tuple[str, object]], flags: str, is_v6: bool, seq: int
) -> None:
    options = [(name, mss if name == "MSS" else value) for name, value in order]
    layer = IPv6(**V6) if is_v6 else IP(**V4)
    packet = bytes(layer / TCP(sport=1, dport=2, flags=flags, seq=seq, options=options))
    clamped = clamp_mss(packet, parse_ip(packet), 1280)
    assert min(mss, 1220 if is_v6 else 1240) == mss_of(clamped)
    assert rebuilt(clamped) == clamped


def test_a_wrong_checksum_stays_wrong() -> None:
    packet = bytes(IP(**V4) / TCP(flags="S", options=[("MSS", 1460)], chksum=0x1234))
    clamped = clamp_mss(packet, parse_ip(packet), 1280)
    assert 1240 == mss_of(clamped)
    assert rebuilt(clamped) != clamped


@pytest.mark.parametrize(
    "packet",
    [
        IP(**V4) / TCP(flags="A", options=[("MSS", 1460)]),
        IP(**V4) / UDP() / Raw(NOISE[:60]),
        IP(**V4) / TCP(flags="S"),
        IP(**V4) / Raw(bytes(13) + b"\x02"),
        IP(**V4, proto=6) / Raw(bytes(12) + b"\x60\x02" + bytes(6) + b"\x05\x01\x02\x04"),
        IP(**V4, proto=6) / Raw(bytes(12) + b"\xf0\x02" + bytes(6) + b"\x02\x04\x05"),
        IP(**V4, proto=6) / Raw(bytes(12) + b"\x10\x02" + bytes(6) + b"\x02\x04\x05\xb4"),
        IP(**V4, proto=6, frag=9) / Raw(bytes(12) + b"\x60\x02" + bytes(6) + b"\x02\x04\x05\xb4"),
    ],
)
def test_what_is_no_syn_with_an_mss_is_left_alone(packet: Packet) -> None:
    data = bytes(packet)
    assert data == clamp_mss(data, parse_ip(data), 1280)


def test_the_mss_behind_extension_headers_is_lowered() -> None:
    packet = bytes(IPv6(**V6) / IPv6ExtHdrDestOpt() / TCP(flags="S", options=[("MSS", 1440)]))
    assert 1220 == mss_of(clamp_mss(packet, parse_ip(packet), 1280))


@given(st.binary(max_size=60))
def test_random_tcp_headers_are_survived(noise: bytes) -> None:
    packet = bytes(IP(**V4, proto=6) / Raw(noise))
    assert len(packet) == len(clamp_mss(packet, parse_ip(packet), 1280))
