"""Native SRv6 at the border between user space and kernel routers; the kernel is played by three lines of RFC 8986."""

from __future__ import annotations

import contextlib
import hmac
import socket
import struct

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet6 import IPv6, IPv6ExtHdrSegmentRouting

from srwan.errors import BadSignature, DecodeError, RemoteProtocolError
from srwan.kernel_config import HmacKey
from srwan.overlay.view import Role
from srwan.routing.kernel.border import IPV6_BYTES, NATIVE_BYTES_MAX, NATIVE_BYTES_MIN, NativeBorder, hmac_of, native_source
from srwan.routing.kernel.plan import KEY_ID_BASE
from srwan.routing.packet import LINK_HEADER_BYTES, PACKET_BYTES_MAX, TAG_BYTES
from srwan.routing.payload import Payload, PayloadKind
from srwan.routing.sid import Function, Sid
from srwan.routing.srh import Srh
from srwan.testing.packets import SrNetwork, SrRouter
from srwan.types import NodeId

A, R, C, STRANGER = (NodeId(bytes([number]) * 32) for number in (1, 2, 3, 9))
PATH = (Sid.of(R, Function.END), Sid.of(C, Function.END_APP))
SENT = Srh.for_path(PATH).encode()
ARRIVED = Srh.for_path(PATH).advanced().encode()
PAYLOAD = bytes(range(40))
TAG = 0x1122334455667788
KEY = HmacKey(KEY_ID_BASE + 42, bytes(range(32)))


def border(node: NodeId, *, key: HmacKey | None = None, required: bool = False) -> NativeBorder:
    return NativeBorder(node, [R], [A, C], hmac_key=key, is_hmac_required=required)


def end(packet: bytes) -> bytes:
    """What End does (RFC 8986 section 4.1): one segment less left, and the next one is the destination."""
    left = packet[IPV6_BYTES + 3] - 1
    at = IPV6_BYTES + 8 + 16 * left
    return packet[:24] + packet[at : at + 16] + packet[IPV6_BYTES : IPV6_BYTES + 3] + bytes([left]) + packet[IPV6_BYTES + 4 :]


def through_r(key: HmacKey | None = None) -> bytes:
    return end(border(A, key=key).build(SENT, TAG, PAYLOAD))


def changed(packet: bytes, at: int, value: bytes) -> bytes:
    return packet[:at] + value + packet[at + len(value) :]


# --- the form ----------------------------------------------------------------------------------------------------------


def test_golden_native_packet() -> None:
    packet = border(A).build(SENT, TAG, PAYLOAD)
    head = bytes.fromhex("60000000") + struct.pack("!HBB", 40 + 8 + 40, 43, 64)
    assert head + native_source(A) + PATH[0] + SENT + struct.pack("<Q", TAG) + PAYLOAD == packet
    assert "fd57:3084:151d:59c0::1" == socket.inet_ntop(socket.AF_INET6, native_source(A))


def test_golden_hmac() -> None:
    """RFC 8754 section 2.1.2.1; tests/routing/test_kernel.py compares the same function with what Linux writes."""
    packet = border(A, key=KEY).build(SENT, TAG, PAYLOAD)
    text = native_source(A) + b"\x01\x08" + KEY.key_id.to_bytes(4, "big") + PATH[1] + PATH[0]
    digest = hmac.digest(KEY.secret, text, "sha256")
    header = IPv6(packet)[IPv6ExtHdrSegmentRouting]

    assert (1, [str(PATH[1]), str(PATH[0])]) == (int(header.hmac), header.addresses)
    assert b"\x05\x26\x00\x00" + KEY.key_id.to_bytes(4, "big") + digest == packet[IPV6_BYTES + 40 : IPV6_BYTES + 80]
    assert digest == hmac_of(KEY, native_source(A), packet[IPV6_BYTES:])


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "hmac"])
def test_what_a_kernel_router_sends_on_is_opened(key: HmacKey | None) -> None:
    egress = border(C, key=key, required=key is not None)
    assert (ARRIVED, TAG, PAYLOAD) == egress.open(through_r(key))
    assert R == egress.router_before(ARRIVED)
    assert 1 == egress.traffic.packets_in


@given(st.binary(min_size=28, max_size=1000), st.integers(0, 2**64 - 1), st.booleans())
def test_round_trip(payload: bytes, path_tag: int, is_signed: bool) -> None:
    key = KEY if is_signed else None
    assert (ARRIVED, path_tag, payload) == border(C, key=key).open(end(border(A, key=key).build(SENT, path_tag, payload)))


def test_whatever_fits_a_link_packet_fits_the_native_form() -> None:
    payload = bytes(PACKET_BYTES_MAX - LINK_HEADER_BYTES - TAG_BYTES - len(SENT))
    packet = end(border(A, key=KEY).build(SENT, TAG, payload))
    assert NATIVE_BYTES_MAX == len(packet)
    assert payload == border(C, key=KEY).open(packet).payload


def test_a_packet_that_fits_the_native_form_but_no_link_is_refused() -> None:
    most = PACKET_BYTES_MAX - LINK_HEADER_BYTES - TAG_BYTES - len(SENT)
    packet = end(border(A).build(SENT, TAG, bytes(most)))
    longer = changed(packet, 4, (len(packet) - IPV6_BYTES + 1).to_bytes(2, "big")) + b"\x00"
    with pytest.raises(DecodeError) as caught:
        border(C).open(longer)
    assert "native-mtu" == caught.value.reason
    with pytest.raises(ValueError, match="does not fit"):
        border(A).build(SENT, TAG, bytes(most + 1))


# --- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (b"", "native-short"),
        (through_r()[: NATIVE_BYTES_MIN - 1], "native-short"),
        (bytes(NATIVE_BYTES_MAX + 1), "native-mtu"),
        (changed(through_r(), 0, b"\x40"), "native-version"),
        (through_r() + b"\x00", "native-length"),
        (through_r()[:-1], "native-length"),
        (changed(through_r(), 6, b"\x3a"), "native-header"),
        (changed(through_r(), IPV6_BYTES, b"\x29"), "native-header"),
        (changed(through_r(), IPV6_BYTES + 1, b"\xff"), "native-length"),
        (changed(through_r(), IPV6_BYTES + 1, b"\x05"), "native-length"),
        (changed(through_r(), IPV6_BYTES + 4, b"\x07"), "native-length"),
        (changed(through_r(), IPV6_BYTES + 4, b"\xff"), "native-length"),
        (changed(through_r(), 24, bytes(16)), "native-destination"),
        (changed(through_r(), 8, native_source(STRANGER)), "native-peer"),
        (changed(through_r(), 8, native_source(R)), "native-peer"),
        (changed(through_r(), 8, bytes(16)), "native-peer"),
        (changed(through_r(), IPV6_BYTES + 24, bytes(Sid.of(STRANGER, Function.END))), "native-peer"),
        (border(A).build(SENT, TAG, PAYLOAD), "native-peer"),
        (changed(through_r(KEY), IPV6_BYTES + 5, b"\x00"), "native-header"),
        (changed(through_r(KEY), IPV6_BYTES + 40, b"\x04"), "native-header"),
    ],
)
def test_anything_else_is_refused_with_its_reason(packet: bytes, reason: str) -> None:
    egress = border(C)
    with pytest.raises(DecodeError) as caught:
        egress.open(packet)
    assert (reason, 0) == (caught.value.reason, egress.traffic.packets_in)


def test_hmac_absent_wrong_and_of_another_key_are_refused_where_it_is_required() -> None:
    egress = border(C, key=KEY, required=True)
    with pytest.raises(DecodeError) as caught:
        egress.open(through_r())
    assert "native-hmac" == caught.value.reason
    for packet in (
        changed(through_r(KEY), IPV6_BYTES + 79, bytes([through_r(KEY)[IPV6_BYTES + 79] ^ 1])),
        through_r(attrs.evolve(KEY, secret=bytes(32))),
        through_r(attrs.evolve(KEY, key_id=KEY_ID_BASE + 43)),
    ):
        with pytest.raises(BadSignature) as forged:
            egress.open(packet)
        assert "native-hmac-auth" == forged.value.reason


def test_hmac_is_no_matter_to_who_has_no_key() -> None:
    assert (ARRIVED, TAG, PAYLOAD) == border(C).open(through_r(KEY))


def test_hmac_cannot_be_required_without_a_key() -> None:
    with pytest.raises(ValueError, match="without a key"):
        border(C, required=True)


@given(st.binary(max_size=300))
def test_random_bytes_raise_only_remote_errors(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        border(C, key=KEY).open(data)


@given(st.integers(0, 200), st.integers(0, 255), st.booleans())
def test_a_changed_byte_raises_only_remote_errors(at: int, value: int, is_signed: bool) -> None:
    packet = through_r(KEY if is_signed else None)
    with contextlib.suppress(RemoteProtocolError):
        border(C, key=KEY).open(changed(packet, at % len(packet), bytes([value])))


# --- in the data plane ---------------------------------------------------------------------------------------------------


def mixed(roles: list[Role], kernel: int) -> tuple[SrNetwork, list[SrRouter], list[bytes]]:
    """A line of routers of which one is a kernel: native packets for it are executed at once and handed to who is next."""
    network = SrNetwork()
    routers = network.line(roles)
    seen: list[bytes] = []
    others = [router.node_id for at, router in enumerate(routers) if at != kernel]

    def carry(packet: bytes) -> None:
        seen.append(packet)
        arrived = end(packet)
        (owner,) = [router for router in routers if router.sid().locator == arrived[24:32]]
        owner.forwarder.receive_native(arrived, network.now_ns)

    for at, router in enumerate(routers):
        if at != kernel:
            router.forwarder.set_border(NativeBorder(router.node_id, [routers[kernel].node_id], others), carry)
    return network, routers, seen


def send(routers: list[SrRouter], body: bytes = b"hello", kind: PayloadKind = PayloadKind.DATA) -> bool:
    path = (*(router.sid() for router in routers[1:-1]), routers[-1].sid(Function.END_APP))
    return routers[0].forwarder.send_payload(path, TAG, routers[-1].node_id, Payload(kind, 42, 0, 0, body).encode())


def bodies(router: SrRouter) -> list[bytes]:
    return [packet.body for inbox in router.forwarder.ready_flows() for packet in inbox.take()]


@pytest.mark.parametrize(("length", "kernel"), [(3, 1), (4, 1), (4, 2), (5, 2)])
def test_a_path_crosses_a_kernel_router_wherever_it_stands(length: int, kernel: int) -> None:
    network, routers, seen = mixed([Role.RELAY] * length, kernel)
    assert send(routers)
    network.run()
    assert [b"hello"] == bodies(routers[-1])
    assert send(routers[::-1], b"back")
    network.run()
    assert [b"back"] == bodies(routers[0])
    assert [{}] * length == [router.drops for router in routers]
    assert 2 == len(seen)
    assert not any(b"hello" in packet or b"back" in packet for packet in seen)
    assert 0 == sum(count.packets for count, _ in routers[-1].forwarder.counters().neighbours.values()) or kernel != length - 2


def test_who_named_nobody_refuses_native_packets() -> None:
    network = SrNetwork()
    router = network.add()
    router.forwarder.receive_native(through_r(), 1)
    assert {"native-peer": 1} == router.drops


def test_a_replayed_native_packet_is_found_at_the_egress() -> None:
    network, routers, seen = mixed([Role.RELAY] * 3, 1)
    send(routers)
    network.run()
    routers[2].forwarder.receive_native(end(seen[0]), network.now_ns)
    assert ([b"hello"], {"payload-replay": 1}) == (bodies(routers[2]), routers[2].drops)


def test_a_changed_path_tag_is_found_at_the_egress() -> None:
    network, routers, seen = mixed([Role.RELAY] * 3, 1)
    send(routers)
    network.run()
    bodies(routers[2])
    send(routers)
    forged = changed(end(seen[0]), IPV6_BYTES + 40, bytes(8))
    egress = routers[2].forwarder
    egress.receive_native(forged, network.now_ns)
    assert 1 == sum(count for reason, count in routers[2].drops.items() if reason in {"payload-auth", "payload-replay"})


def test_packets_that_end_at_the_kernel_router_itself_go_over_its_sealed_link() -> None:
    network, routers, seen = mixed([Role.RELAY] * 2, 1)
    send(routers)
    network.run()
    assert ([b"hello"], []) == (bodies(routers[1]), seen)


def test_a_user_space_node_that_is_no_relay_passes_nothing_on() -> None:
    network, routers, _ = mixed([Role.RELAY, Role.RELAY, Role.EGRESS, Role.RELAY], 1)
    send(routers)
    network.run()
    assert ([], {"no-role": 1}) == (bodies(routers[3]), routers[2].drops)
