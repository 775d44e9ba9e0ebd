"""IP packets of the gateway on their way: who takes them, by which segment, and how long they may be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srwan.errors import DecodeError
from srwan.overlay.view import Role
from srwan.routing.payload import (
    DATA_BYTES_MAX,
    PAYLOAD_HEADER_BYTES,
    TUNNEL_BYTES_MAX,
    TUNNEL_FLOW_MIN,
    Payload,
    PayloadKind,
    encode_packets,
    split_packet,
)
from srwan.routing.sid import Function, Sid
from srwan.testing.packets import SrNetwork, SrRouter

FOUR, SIX = b"\x45" + bytes(99), b"\x60" + bytes(99)
TAG = 7


def send(line: list[SrRouter], function: Function, flow: int, body: bytes) -> None:
    """Send DATA from the first router of a line through the others to the last one."""
    path = (*(router.sid() for router in line[1:-1]), Sid.of(line[-1].node_id, function))
    plaintext = Payload(PayloadKind.DATA, flow, 0, 0, body).encode()
    assert line[0].forwarder.send_payload(path, TAG, line[-1].node_id, plaintext)


def gateways(relays: int = 1) -> tuple[SrNetwork, list[SrRouter]]:
    network = SrNetwork()
    return network, network.line([Role.RELAY | Role.GATEWAY, *[Role.RELAY] * relays, Role.RELAY | Role.GATEWAY])


@pytest.mark.parametrize(("function", "packet"), [(Function.END_DX4, FOUR), (Function.END_DT6, SIX)])
def test_a_packet_for_a_gateway_waits_in_the_flow_of_its_class(function: Function, packet: bytes) -> None:
    network, line = gateways()
    send(line, function, TUNNEL_FLOW_MIN | 2, packet)
    network.run()
    (inbox,) = line[-1].forwarder.ready_flows()
    assert (line[0].node_id, TUNNEL_FLOW_MIN | 2, [packet]) == (inbox.peer, inbox.flow, [each.body for each in inbox.take()])
    assert {} == line[-1].drops
    ((_, reading),) = line[-1].forwarder.counters().received.items()
    assert (1, 100) == reading


def test_a_node_without_the_role_takes_no_packet() -> None:
    network = SrNetwork()
    line = network.line([Role.RELAY, Role.RELAY, Role.RELAY | Role.EGRESS])
    send(line, Function.END_DX4, TUNNEL_FLOW_MIN, FOUR)
    network.run()
    assert {"not-mine": 1} == line[-1].drops
    assert () == line[-1].forwarder.ready_flows()


@pytest.mark.parametrize(
    ("function", "flow", "body"),
    [
        (Function.END_APP, TUNNEL_FLOW_MIN, FOUR),
        (Function.END_STREAM, TUNNEL_FLOW_MIN, FOUR),
        (Function.END_DX4, 42, FOUR),
        (Function.END_DX4, TUNNEL_FLOW_MIN, SIX),
        (Function.END_DT6, TUNNEL_FLOW_MIN, FOUR),
        (Function.END_DT6, TUNNEL_FLOW_MIN, b""),
    ],
)
def test_segment_flow_and_packet_must_agree(function: Function, flow: int, body: bytes) -> None:
    """The segment is authentic hop by hop only; the flow and the packet are what the peer sealed."""
    network, line = gateways()
    send(line, function, flow, body)
    network.run()
    assert {"tun-function": 1} == line[-1].drops
    assert () == line[-1].forwarder.ready_flows()


@pytest.mark.parametrize("relays", [0, 1, 3])
def test_a_packet_of_the_overlay_mtu_passes_up_to_three_relays(relays: int) -> None:
    network, line = gateways(relays)
    packet = b"\x60" + bytes(TUNNEL_BYTES_MAX - 1)
    send(line, Function.END_DT6, TUNNEL_FLOW_MIN, packet)
    network.run()
    (inbox,) = line[-1].forwarder.ready_flows()
    assert [packet] == [each.body for each in inbox.take()]


def test_only_packets_of_a_tunnel_may_be_longer_than_datagrams() -> None:
    Payload(PayloadKind.DATA, TUNNEL_FLOW_MIN, 0, 0, bytes(TUNNEL_BYTES_MAX)).encode()
    for flow, size in ((TUNNEL_FLOW_MIN, TUNNEL_BYTES_MAX + 1), (TUNNEL_FLOW_MIN - 1, DATA_BYTES_MAX + 1)):
        with pytest.raises(ValueError, match="at most"):
            Payload(PayloadKind.DATA, flow, 0, 0, bytes(size)).encode()


@given(st.binary(max_size=60), st.sampled_from([b"\x01\0\0\0\x02\xff\xff\xff", b"\x01\0\0\0", b"\x01\x01\0\0\x02\xff\xff\xff", b""]))
def test_the_quick_look_at_a_payload_reads_what_decoding_reads(noise: bytes, start: bytes) -> None:
    plaintext = start + noise
    quick = split_packet(plaintext)
    try:
        payload = Payload.decode(plaintext)
    except DecodeError:
        assert quick is None
        return
    if quick is not None:
        assert (payload.flow, payload.seq, payload.tx_ns) == quick
        assert (PayloadKind.DATA, 0, plaintext[PAYLOAD_HEADER_BYTES:]) == (payload.kind, payload.flags, payload.body)
        assert payload.flow >= TUNNEL_FLOW_MIN


def test_packets_are_encoded_as_payloads_are() -> None:
    packets = [FOUR, SIX, bytes(TUNNEL_BYTES_MAX)]
    made = encode_packets(TUNNEL_FLOW_MIN | 1, 40, -5, packets)
    assert [Payload(PayloadKind.DATA, TUNNEL_FLOW_MIN | 1, 40 + at, -5, packet).encode() for at, packet in enumerate(packets)] == made
    assert [(TUNNEL_FLOW_MIN | 1, 40 + at, -5) for at in range(3)] == [split_packet(plaintext) for plaintext in made]
    with pytest.raises(ValueError, match="at most"):
        encode_packets(TUNNEL_FLOW_MIN, 0, 0, [FOUR, bytes(TUNNEL_BYTES_MAX + 1)])


def test_a_packet_for_a_gateway_has_the_documented_bytes() -> None:
    (made,) = encode_packets(TUNNEL_FLOW_MIN | 2, 40, 1, [b"\x45x"])
    assert bytes.fromhex("01 00 0000 02ffffff 2800000000000000 0100000000000000 4578") == made
    assert [17, 18] == [Function.END_DX4, Function.END_DT6]
