"""The gateway: which packets go to which node, which ones of a node are let in, and what senders are told."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_LSRR, defragment
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6ND_RS, ICMPv6PacketTooBig, IPv6, IPv6ExtHdrDestOpt
from scapy.packet import Packet, Raw

from srwan.config import make_config
from srwan.routing.gateway import gateway as module
from srwan.routing.gateway.gateway import Gateway, Outgoing, TrafficClass
from srwan.routing.gateway.icmp import ICMP_BURST
from srwan.routing.gateway.routes import overlay_address
from srwan.types import NodeId

HERE, PARIS, OSLO, ROME = (NodeId(bytes([number]) * 32) for number in (1, 2, 3, 4))
MEMBERS = {HERE: ("here", True), PARIS: ("paris", True), OSLO: ("oslo", True), ROME: ("rome", False)}
HOST = str(overlay_address(HERE))
SETTINGS: dict[str, Any] = {
    "enabled": True,
    "addresses": ["10.77.0.1/24"],
    "announce": ["10.1.0.0/16", "fd01::/64"],
    "routes": ["10.2.0.0/16=paris", "10.2.3.0/24=oslo", "fd02::/64=paris", "10.9.0.0/16=nobody", "10.8.0.0/16=rome", f"10.3.0.0/16={OSLO}"],
}


def made(members: dict[NodeId, tuple[str, bool]] = MEMBERS, **changes: Any) -> Gateway:
    gateway = Gateway(HERE, make_config(tun={**SETTINGS, **changes}).tun)
    gateway.set_members(members)
    return gateway


def four(source: str = "10.1.0.1", destination: str = "10.2.0.1", size: int = 4, **fields: Any) -> bytes:
    return bytes(IP(src=source, dst=destination, **fields) / UDP(sport=1, dport=2) / Raw(bytes(size)))


def six(source: str = "fd01::1", destination: str = "fd02::1", size: int = 4, **fields: Any) -> bytes:
    return bytes(IPv6(src=source, dst=destination, **fields) / UDP(sport=1, dport=2) / Raw(bytes(size)))


def peers_of(gateway: Gateway, *packets: bytes) -> list[NodeId]:
    return [outgoing.peer for outgoing in gateway.ingress(packets, 0.0) for _ in outgoing.packets]


# --- from the TUN ----------------------------------------------------------------------------------------------------


def test_the_longest_prefix_chooses_the_node_the_first_and_every_other_time() -> None:
    gateway = made()
    a, b, c, d = packets = [four(), four(destination="10.2.3.4"), four(destination="10.3.0.1"), six()]
    normal = TrafficClass.NORMAL
    for _ in range(2):
        expected = [Outgoing(PARIS, normal, True, [a]), Outgoing(OSLO, normal, True, [b, c]), Outgoing(PARIS, normal, False, [d])]
        assert expected == gateway.ingress(packets, 0.0)
    assert (8, 2 * sum(map(len, packets))) == (gateway.ingress_counters.packets, gateway.ingress_counters.octets)
    assert {} == gateway.ingress_counters.drops


def test_conversations_that_take_turns_keep_their_order() -> None:
    gateway = made()
    mixed = [four(destination=f"10.2.{number % 5}.1", id=number, tos=number % 2 * 0xB8) for number in range(40)]
    for _ in range(2):
        lanes = gateway.ingress(mixed, 0.0)
        assert 4 == len(lanes)
        assert all(lane.packets == sorted(lane.packets, key=mixed.index) for lane in lanes)
        assert sorted(mixed) == sorted(packet for lane in lanes for packet in lane.packets)
        assert all((packet[1] == 0xB8) == (lane.traffic_class is TrafficClass.INTERACTIVE) for lane in lanes for packet in lane.packets)


def test_packets_of_one_conversation_with_two_classes_go_apart() -> None:
    gateway = made()
    packets = [four(id=number, tos=0xB8 if number in (1, 2) else 0) for number in range(4)]
    for _ in range(2):
        lanes = {lane.traffic_class: lane.packets for lane in gateway.ingress(packets, 0.0)}
        assert {TrafficClass.NORMAL: [packets[0], packets[3]], TrafficClass.INTERACTIVE: packets[1:3]} == lanes


@pytest.mark.parametrize(
    ("dscp", "expected"),
    [
        (0, TrafficClass.NORMAL),
        (46, TrafficClass.INTERACTIVE),
        (34, TrafficClass.INTERACTIVE),
        (1, TrafficClass.BULK),
        (8, TrafficClass.BULK),
    ],
)
def test_dscp_chooses_the_class_and_stays_with_ecn(dscp: int, expected: TrafficClass) -> None:
    gateway = made()
    packets = [four(tos=dscp << 2 | 1), six(tc=dscp << 2 | 2)]
    for _ in range(2):
        outgoing = gateway.ingress(packets, 0.0)
        assert [expected] * 2 == [each.traffic_class for each in outgoing]
        assert packets == [packet for each in outgoing for packet in each.packets]


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (b"", "ip-short"),
        (four()[:-1], "ip-length"),
        (four()[:10] + b"\0\0" + four()[12:], "ip-checksum"),
        (bytes(IP(src="10.1.0.1", dst="10.2.0.1", options=[IPOption_LSRR(routers=["10.9.9.9"])]) / UDP()), "ip-source-route"),
        (four(destination="224.0.0.1"), "ip-multicast"),
        (four(destination="255.255.255.255"), "ip-multicast"),
        (bytes(IPv6(src="fe80::1", dst="ff02::2") / ICMPv6ND_RS()), "ip-multicast"),
        (four(source="127.0.0.1"), "ip-martian"),
        (four(source="224.0.0.1"), "ip-martian"),
        (six(destination="fe80::1"), "ip-martian"),
    ],
)
def test_what_no_router_forwards_is_dropped_without_an_answer(packet: bytes, reason: str) -> None:
    gateway = made()
    assert [] == gateway.ingress([packet], 0.0)
    assert {reason: 1} == gateway.ingress_counters.drops
    assert [] == gateway.packets_to_write()


@pytest.mark.parametrize(
    ("packet", "reason", "code"),
    [
        (four(destination="10.4.0.1"), "ip-no-route", (3, 0)),
        (four(destination="10.9.0.1"), "ip-unreachable", (3, 1)),
        (four(destination="10.8.0.1"), "ip-unreachable", (3, 1)),
        (four(source="10.5.0.1"), "ip-source", (3, 13)),
    ],
)
def test_a_sender_is_told_why_its_ipv4_packet_cannot_go_on(packet: bytes, reason: str, code: tuple[int, int]) -> None:
    gateway = made()
    assert [] == gateway.ingress([packet], 0.0)
    assert {reason: 1} == gateway.ingress_counters.drops
    (answer,) = [IP(each) for each in gateway.packets_to_write()]
    assert (*code, "10.77.0.1", IP(packet).src) == (answer[ICMP].type, answer[ICMP].code, answer.src, answer.dst)


@pytest.mark.parametrize(("packet", "code"), [(six(destination="fd04::1"), 0), (six(source="fd05::1"), 5)])
def test_a_sender_is_told_why_its_ipv6_packet_cannot_go_on(packet: bytes, code: int) -> None:
    gateway = made()
    assert [] == gateway.ingress([packet], 0.0)
    (answer,) = [IPv6(each) for each in gateway.packets_to_write()]
    assert (code, HOST) == (answer[ICMPv6DestUnreach].code, answer.src)


def test_too_long_ipv4_packets_with_df_and_ipv6_packets_are_answered_with_the_mtu() -> None:
    gateway = made()
    packets = [four(size=1300, flags="DF"), six(size=1300)]
    assert [] == gateway.ingress([four(flags="DF"), six()], 0.0)[2:]
    assert [] == gateway.ingress(packets, 0.0)
    answers = gateway.packets_to_write()
    assert (1280, 1280) == (IP(answers[0])[ICMP].nexthopmtu, IPv6(answers[1])[ICMPv6PacketTooBig].mtu)
    assert {"ip-too-big": 2} == gateway.ingress_counters.drops
    assert [] == gateway.packets_to_write()


def test_too_long_ipv4_packets_without_df_go_in_fragments() -> None:
    gateway = made()
    packet = four(size=3000, id=9)
    ((_, _, _, pieces),) = gateway.ingress([packet], 0.0)
    assert [1276, 1276, 516] == [len(piece) for piece in pieces]
    assert packet[20:] == bytes(defragment([IP(piece) for piece in pieces])[0])[20:]  # type: ignore[no-untyped-call]
    assert (3, sum(map(len, pieces))) == (gateway.ingress_counters.packets, gateway.ingress_counters.octets)


def test_answers_are_rate_limited_and_what_is_not_answered_counted() -> None:
    gateway = made()
    many = int(ICMP_BURST) + 7
    gateway.ingress([four(destination="10.4.0.1")] * many, 0.0)
    assert int(ICMP_BURST) == len(gateway.packets_to_write()) == gateway.icmp_sent
    assert {"ip-no-route": many, "icmp-rate": 7} == gateway.ingress_counters.drops
    gateway.ingress([four(destination="10.4.0.1")], 1.0)
    assert 1 == len(gateway.packets_to_write())


def test_a_syn_is_clamped_every_time_and_only_if_wanted() -> None:
    syn = bytes(IP(src="10.1.0.1", dst="10.2.0.1") / TCP(flags="S", options=[("MSS", 1460)]))
    for is_wanted, expected in ((True, 1240), (False, 1460)):
        gateway = made(mss_clamp=is_wanted)
        sent = [gateway.ingress([syn], 0.0)[0].packets[0] for _ in range(2)]
        assert [expected] * 2 == [dict(IP(each)[TCP].options)["MSS"] for each in sent]


def test_unsent_packets_count_as_dropped() -> None:
    gateway = made()
    outgoing = gateway.ingress([four(), four()], 0.0)
    gateway.unsent(outgoing[0].packets[1:])
    assert (1, len(four()), {"ip-no-path": 1}) == (
        gateway.ingress_counters.packets,
        gateway.ingress_counters.octets,
        gateway.ingress_counters.drops,
    )


# --- to the TUN ------------------------------------------------------------------------------------------------------


def test_a_node_may_send_from_its_networks_to_ours() -> None:
    gateway = made()
    packets = [
        four("10.2.0.1", "10.1.0.1"),
        four("10.2.0.1", "10.77.0.1"),
        six("fd02::1", "fd01::1"),
        six("fd02::1", HOST),
        bytes(IPv6(src="fd02::1", dst="fd01::1") / IPv6ExtHdrDestOpt() / UDP()),
    ]
    for _ in range(2):
        assert packets == gateway.egress(PARIS, packets)
    assert (10, {}) == (gateway.egress_counters.packets, gateway.egress_counters.drops)


@pytest.mark.parametrize(
    ("peer", "packet", "reason"),
    [
        (OSLO, four("10.2.0.1", "10.1.0.1"), "ip-spoofed"),
        (PARIS, four("10.2.3.1", "10.1.0.1"), "ip-spoofed"),
        (PARIS, four("10.4.0.1", "10.1.0.1"), "ip-spoofed"),
        (PARIS, four("10.1.0.2", "10.1.0.1"), "ip-spoofed"),
        (PARIS, four("10.9.0.1", "10.1.0.1"), "ip-spoofed"),
        (PARIS, six(str(overlay_address(OSLO)), HOST), "ip-spoofed"),
        (ROME, six(str(overlay_address(ROME)), HOST), "ip-spoofed"),
        (PARIS, four("10.2.0.1", "10.2.0.2"), "ip-not-announced"),
        (PARIS, four("10.2.0.1", "10.77.0.2"), "ip-not-announced"),
        (PARIS, four("10.2.0.1", "8.8.8.8"), "ip-not-announced"),
        (PARIS, four("10.2.0.1", "224.0.0.1"), "ip-multicast"),
        (PARIS, four("127.0.0.1", "10.1.0.1"), "ip-martian"),
        (PARIS, six("fd02::1", "::1"), "ip-martian"),
        (PARIS, four("10.2.0.1", "10.1.0.1", size=1300), "ip-too-big"),
        (PARIS, four("10.2.0.1", "10.1.0.1")[:-1], "ip-length"),
        (PARIS, bytes(IP(src="10.2.0.1", dst="10.1.0.1", options=[IPOption_LSRR(routers=["10.9.9.9"])]) / UDP()), "ip-source-route"),
        (PARIS, b"", "ip-short"),
    ],
)
def test_what_a_node_may_not_send_is_dropped_and_nobody_is_told(peer: NodeId, packet: bytes, reason: str) -> None:
    gateway = made()
    gateway.egress(PARIS, [four("10.2.0.1", "10.1.0.1"), six("fd02::1", "fd01::1")])
    assert [] == gateway.egress(peer, [packet])
    assert {reason: 1} == gateway.egress_counters.drops
    assert [] == gateway.packets_to_write()


def test_a_permission_is_of_one_node_only() -> None:
    gateway = made()
    packet = four("10.2.0.1", "10.1.0.1")
    assert [packet] == gateway.egress(PARIS, [packet])
    assert [] == gateway.egress(OSLO, [packet])


# --- members and routes ----------------------------------------------------------------------------------------------


def test_a_name_is_bound_to_the_first_node_that_bears_it_alone() -> None:
    gateway = made({})
    assert [("10.2.0.0/16", "paris", "name unknown")] == gateway.explain_routes()[:1]
    gateway.set_members({PARIS: ("paris", True), ROME: ("paris", True)})
    assert [] == peers_of(gateway, four())
    gateway.set_members({PARIS: ("paris", True)})
    assert [PARIS] == peers_of(gateway, four())
    gateway.set_members({ROME: ("paris", True)})
    assert [] == peers_of(gateway, four())
    assert [] == gateway.egress(ROME, [four("10.2.0.1", "10.1.0.1")])
    gateway.set_members({ROME: ("paris", True), PARIS: ("renamed", True)})
    assert [PARIS] == peers_of(gateway, four())


def test_a_node_that_leaves_or_stops_its_gateway_is_unreachable_at_once() -> None:
    gateway = made()
    assert [PARIS] == peers_of(gateway, four())
    gateway.set_members({**MEMBERS, PARIS: ("paris", False)})
    assert [] == peers_of(gateway, four())
    assert {"ip-unreachable": 1} == gateway.ingress_counters.drops
    assert "no gateway here" == {row[0]: row[2] for row in gateway.explain_routes()}["10.2.0.0/16"]


def test_kernel_routes_are_all_prefixes_and_the_peers_overlay_addresses() -> None:
    prefixes = {text.partition("=")[0] for text in SETTINGS["routes"]}
    assert prefixes == {str(network) for network in made({}).kernel_routes}
    peers = {f"{overlay_address(PARIS)}/128", f"{overlay_address(OSLO)}/128"}
    assert peers == {str(network) for network in made().kernel_routes} - prefixes
    few: dict[str, Any] = {"routes": ["10.2.0.0/16=paris"]}
    assert {f"{overlay_address(PARIS)}/128", "10.2.0.0/16"} == {str(network) for network in made(**few).kernel_routes}
    assert {*peers, "10.2.0.0/16"} == {str(network) for network in made(**few, host=True).kernel_routes}


def test_without_host_mode_only_nodes_with_a_route_have_their_overlay_address() -> None:
    gateway = made(routes=["10.2.0.0/16=paris"])
    for node, expected in ((PARIS, [PARIS]), (OSLO, [])):
        assert expected == peers_of(gateway, six(HOST, str(overlay_address(node))))
        back = six(str(overlay_address(node)), HOST)
        assert [back] * len(expected) == gateway.egress(node, [back])


def test_host_mode_reaches_every_gateway_by_its_overlay_address() -> None:
    gateway = made(host=True)
    assert [OSLO] == peers_of(gateway, six(HOST, str(overlay_address(OSLO))))
    back = six(str(overlay_address(OSLO)), HOST)
    assert [back] == gateway.egress(OSLO, [back])
    assert [] == gateway.egress(PARIS, [back])
    assert (PARIS, OSLO) == gateway.peers


def test_forced_relays_are_bound_to_names_and_leave_out_the_ends_of_the_path() -> None:
    gateway = made({}, via=["rome", "paris", str(OSLO)])
    assert (OSLO,) == gateway.via_to(PARIS)
    gateway.set_members(MEMBERS)
    assert ((ROME, OSLO), (ROME, PARIS)) == (gateway.via_to(PARIS), gateway.via_to(OSLO))
    gateway.set_members({})
    assert (ROME, OSLO) == gateway.via_to(PARIS)


def test_judged_pairs_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAIRS_MAX", 8)
    gateway = made()
    for number in range(50):
        assert 1 == len(gateway.ingress([four(destination=f"10.2.0.{number}")], 0.0))
        assert 1 == len(gateway.egress(PARIS, [four(f"10.2.0.{number}", "10.1.0.1")]))
        assert len(gateway._ways) <= 8
        assert sum(map(len, gateway._permitted.values())) <= 8


HOSTILE = made()
BASES = [four(), six(), four("10.2.0.1", "10.1.0.1"), six("fd02::1", "fd01::1")]


@given(st.sampled_from(BASES), st.binary(max_size=40), st.integers(0, 70), st.integers(0, 80))
def test_hostile_packets_are_counted_drops_in_both_directions(base: bytes, noise: bytes, at: int, length: int) -> None:
    """Whatever passes has an address of ours on its near side and one of the peer on its far side."""
    packet = (base[:at] + noise + base[at + len(noise) :])[:length]
    before = sum(HOSTILE.ingress_counters.drops.values()) - HOSTILE.ingress_counters.drops["icmp-rate"]
    went = HOSTILE.ingress([packet], 0.0)
    dropped = sum(HOSTILE.ingress_counters.drops.values()) - HOSTILE.ingress_counters.drops["icmp-rate"] - before
    assert 1 == len(went) + dropped
    before = sum(HOSTILE.egress_counters.drops.values())
    came = HOSTILE.egress(PARIS, [packet])
    assert 1 == len(came) + sum(HOSTILE.egress_counters.drops.values()) - before
    for sent in (packet for outgoing in went for packet in outgoing.packets):
        assert _source_of(sent).startswith(("10.1.", "10.77.0.1", "fd01:", HOST))
    for passed in came:
        assert _source_of(passed).startswith(("10.2.", "fd02:"))


def _source_of(packet: bytes) -> str:
    layer: Packet = IP(packet) if packet[0] >> 4 == 4 else IPv6(packet)
    return str(ipaddress.ip_address(layer.src))
