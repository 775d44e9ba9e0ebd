"""Every decoder of the data plane against hostile bytes: `python benchmarks/fuzz_dataplane.py --each 600 [--jobs N] [--only NAME]`.

Strangers' datagrams, what a neighbour sealed for the link, what a peer sealed end to end, handshakes, native SRv6, and IP packets from
both sides of the TUN. A decoder gives a value or a `RemoteProtocolError`; a router that takes a packet raises nothing, and either does
something with it or counts it as dropped. fuzzing.py says what the bytes are. What is found is printed as hexadecimal with the seed, and
the exit status is 1. tests/routing/test_decoders.py runs the same for a few seconds and sees to it that no decoder is missing here; the
native data plane is fuzzed by `script/check --deep`.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import struct
import sys
from collections.abc import Callable, Sequence
from typing import Any

from fuzzing import Decoder, run_fuzzer

from srwan.config import make_config
from srwan.errors import RemoteProtocolError
from srwan.kernel_config import HmacKey
from srwan.overlay.replay import ReplayWindow
from srwan.overlay.view import Role
from srwan.overlay.way import RelayedWay
from srwan.routing.gateway.gateway import Gateway
from srwan.routing.gateway.ip_packet import checksum, parse_ip
from srwan.routing.gateway.rewrite import clamp_mss, fragment_ipv4
from srwan.routing.in_band import read_in_band, write_in_band
from srwan.routing.kernel.border import NativeBorder
from srwan.routing.packet import open_packet, open_payload, seal_packet, seal_payload
from srwan.routing.payload import TUNNEL_FLOW_MIN, Ack, DataFlags, KeepAlive, Notice, NoticeReason, Payload, PayloadKind
from srwan.routing.relay import Delivered
from srwan.routing.sid import Function, Sid
from srwan.routing.srh import NEXT_HEADER_SESSION, Srh
from srwan.testing.packets import SrNetwork, SrRouter
from srwan.types import NodeId

TAG = 7
SEALED_BYTES_MAX = 1200
"""Of hostile bytes that are sealed: what fits a packet whatever else is in it."""
IP_BYTES_MAX = 65_535
ROLES = (Role.RELAY | Role.GATEWAY,) * 3
KEY = HmacKey(5, b"secret" * 5, 2)
HERE, PARIS = (NodeId(bytes([number]) * 32) for number in (1, 2))
SITES: dict[str, Any] = {
    "enabled": True,
    "addresses": ["10.77.0.1/24"],
    "announce": ["10.1.0.0/16", "fd01::/64"],
    "routes": ["10.2.0.0/16=paris", "fd02::/64=paris"],
}

# --- samples ---------------------------------------------------------------------------------------------------------

KEEPALIVE = KeepAlive(5, 6000, 10**9, 1000, 20, (bytes(range(8)), bytes(8)), True)
ACK = Ack(TAG, 3, -(10**6), 5, 6000, 10**6, 4, 1000, 2000, True)
NOTICE = Notice(NoticeReason.OVERLOADED, bytes(range(8)), 500)
PAYLOADS = (
    Payload(PayloadKind.DATA, 42, 3, 10**9, b"body"),
    Payload(PayloadKind.DATA, 42, 4, 10**9, b"body", int(DataFlags.ORDERED | DataFlags.REPEATED), 30),
    Payload(PayloadKind.KEEPALIVE, 0, 1, 10**9, KEEPALIVE.encode()),
    Payload(PayloadKind.ACK, 0, 1, 10**9, ACK.encode()),
    Payload(PayloadKind.CLOSE, 42, 5, 10**9),
    Payload(PayloadKind.NOTICE, 0, 1, 10**9, NOTICE.encode()),
)


def ipv4(source: bytes, destination: bytes, protocol: int, upper: bytes, options: bytes = b"", flags: int = 0) -> bytes:
    length = 20 + len(options) + len(upper)
    return mended(
        struct.pack("!BBHHHBBH", 0x45 + len(options) // 4, 0xB8, length, 9, flags, 64, protocol, 0) + source + destination + options + upper
    )


def ipv6(source: bytes, destination: bytes, next_header: int, upper: bytes) -> bytes:
    return struct.pack("!IHBB", 6 << 28, len(upper), next_header, 64) + source + destination + upper


def mended(packet: bytes) -> bytes:
    """Put the lengths and the checksum right, so that hostile bytes get past them."""
    packet = packet[:IP_BYTES_MAX]
    if len(packet) >= 40 and packet[0] >> 4 == 6:
        return packet[:4] + (len(packet) - 40).to_bytes(2, "big") + packet[6:]
    if len(packet) < 20 or packet[0] >> 4 != 4:
        return packet
    header = packet[:2] + len(packet).to_bytes(2, "big") + packet[4:10] + bytes(2) + packet[12 : max(20, (packet[0] & 0xF) * 4)]
    return header[:10] + checksum(header).to_bytes(2, "big") + packet[12:]


SYN = struct.pack("!HHIIBBHHI", 1, 2, 3, 0, 0x60, 2, 1000, 0, 0x020405B4)
UDP = struct.pack("!HHHH", 1, 2, 12, 0) + b"body"
V4 = (b"\x0a\x01\x00\x01", b"\x0a\x02\x00\x01")
V6 = (b"\xfd\x01" + bytes(13) + b"\1", b"\xfd\x02" + bytes(13) + b"\1")
OPTIONS = b"\x07\x07\x04" + bytes(4) + b"\x00"
EXTENSIONS = b"\x3c\x00" + bytes(6) + b"\x11\x00" + bytes(6)
FRAGMENT = b"\x11\x00\x00\x01" + bytes(4)
PACKETS = (
    ipv4(*V4, 17, UDP),
    ipv4(*V4, 6, SYN),
    ipv4(*V4, 17, UDP, OPTIONS),
    ipv4(*V4, 17, UDP * 200),
    ipv4(*V4, 17, UDP * 2, flags=0x2000),
    ipv6(*V6, 17, UDP),
    ipv6(*V6, 6, SYN),
    ipv6(*V6, 0, EXTENSIONS + UDP),
    ipv6(*V6, 44, FRAGMENT + UDP * 2),
    ipv6(*V6, 17, UDP * 200),
)
BACK = tuple(packet.replace(V4[0] + V4[1], V4[1] + V4[0]).replace(V6[0] + V6[1], V6[1] + V6[0]) for packet in PACKETS)


# --- routers that take packets ---------------------------------------------------------------------------------------


class Scene:
    """Ingress, relay and egress with sessions, in memory."""

    def __init__(self) -> None:
        self.network = SrNetwork(1)
        self.routers = self.network.line(ROLES)
        self.network.run()
        self._time = itertools.count(1)

    def path(self, function: Function = Function.END_APP) -> tuple[Sid, ...]:
        """Segments from the ingress over the relay to the egress."""
        _, relay, egress = self.routers
        return relay.sid(), egress.sid(function)

    def sealed_payload(self, plaintext: bytes) -> bytes:
        """Return what the ingress seals for the egress."""
        ingress, _, egress = self.routers
        session = ingress.sessions.current(egress.node_id)
        assert session is not None
        return seal_payload(session, TAG, plaintext[:SEALED_BYTES_MAX])

    def sealed_packet(self, sender: SrRouter, receiver: SrRouter, srh: bytes, payload: bytes) -> bytes:
        """Return what a router seals for its neighbour."""
        session = sender.sessions.current(receiver.node_id)
        assert session is not None
        return seal_packet(session, srh[:SEALED_BYTES_MAX], TAG, payload)

    def arriving(self, plaintext: bytes, function: Function) -> bytes:
        """Return a packet as the relay seals it for the egress."""
        _, relay, egress = self.routers
        srh = Srh.for_path(self.path(function)).advanced().encode()
        return self.sealed_packet(relay, egress, srh, self.sealed_payload(plaintext))

    def forget_replays(self, router: SrRouter) -> None:
        """Take every counter anew."""
        for other in self.routers:
            if other is not router and (session := router.sessions.current(other.node_id)) is not None:
                session.link_open.window = ReplayWindow()
                session.end_open.window = ReplayWindow()

    def take(self, router: SrRouter, give: Callable[[int], None]) -> None:
        """Have a router take a packet, and take what came of it.

        Raises:
            AssertionError: the packet vanished.
        """
        before = self._counted(router)
        self.network.queue.clear()
        give(self.network.now_ns + next(self._time))
        is_counted = self._counted(router) > before
        for inbox in router.forwarder.ready_flows():
            inbox.take()
        has_event = False
        while router.forwarder.next_event() is not None:
            has_event = True
        assert is_counted or has_event or self.network.queue, "nothing came of a packet, and nowhere was it counted"

    @staticmethod
    def _counted(router: SrRouter) -> int:
        """Packets that a router counted so far, as authentic or as dropped."""
        counters = router.forwarder.counters()
        authentic = sum(came.packets for came, _ in counters.neighbours.values()) + sum(came.packets for came in counters.received.values())
        return authentic + sum(counters.drops.values())


def datagram_at(number: int) -> Callable[[bytes], Any]:
    """Strangers' datagrams at a router of the line."""
    scene = Scene()
    router = scene.routers[number]
    return lambda data: scene.take(router, lambda stamp_ns: router.forwarder.receive(data, ("127.0.0.1", 5), stamp_ns))


def authentic_header() -> Callable[[bytes], Any]:
    """What a neighbour seals for the relay in place of a header."""
    scene = Scene()
    ingress, relay, _ = scene.routers
    payload = scene.sealed_payload(PAYLOADS[0].encode())

    def run(data: bytes) -> None:
        packet = scene.sealed_packet(ingress, relay, data, payload[:28])
        scene.take(relay, lambda stamp_ns: relay.forwarder.receive(packet, ingress.address, stamp_ns))

    return run


def authentic_payload() -> Callable[[bytes], Any]:
    """What a peer seals end to end in place of a payload, for the application and for the gateway."""
    scene = Scene()
    _, relay, egress = scene.routers

    def run(data: bytes) -> None:
        for function in (Function.END_APP, Function.END_DX4, Function.END_DT6):
            packet = scene.arriving(data, function)
            scene.take(egress, functools.partial(egress.forwarder.receive, packet, relay.address))

    return run


def native_at_egress(key: HmacKey | None) -> tuple[Callable[[bytes], Any], Callable[[bytes], Any], tuple[bytes, ...]]:
    """Native packets at an egress beside a kernel router: its border, the whole router, and packets as they come there."""
    scene = Scene()
    ingress, relay, egress = (router.node_id for router in scene.routers)
    srh = Srh.for_path(scene.path())
    sent = NativeBorder(ingress, [relay], [egress], hmac_key=key).build(srh.encode(), TAG, scene.sealed_payload(PAYLOADS[0].encode()))
    arrived = sent[:24] + srh.segments[1] + sent[40:43] + bytes([sent[43] - 1]) + sent[44:]  # what END does
    border = NativeBorder(egress, [relay], [ingress], hmac_key=key, is_hmac_required=key is not None)
    router = scene.routers[2]
    router.forwarder.set_border(border, lambda _: None)

    def take(data: bytes) -> None:
        scene.forget_replays(router)
        scene.take(router, lambda stamp_ns: router.forwarder.receive_native(data, stamp_ns))

    return border.open, take, (arrived,)


def handshakes() -> tuple[Callable[[bytes], Any], tuple[bytes, ...]]:
    """Session datagrams of strangers, and of a handshake under way, at both ends and over relays."""
    network = SrNetwork(2)
    caller, called = network.add(), network.add()
    network.introduce()
    caller.sessions.connect(called.node_id, called.address, network.now)
    network.tick()
    seen: list[bytes] = []
    while network.queue:
        seen.append(network.queue[0].data)
        network.step()
    way = RelayedWay((bytes(16), bytes(range(16))), TAG)

    def run(data: bytes) -> None:
        for router in (caller, called):
            router.sessions.receive_datagram(data, ("127.0.0.1", 5), network.now, network.now_ns)
            router.sessions.receive_datagram(data, way, network.now, network.now_ns)
            router.sessions.datagrams_to_send(network.now)
            while router.sessions.next_event() is not None:
                pass

    return run, tuple(dict.fromkeys(seen))


# --- decoders --------------------------------------------------------------------------------------------------------


def gateway() -> Gateway:
    made = Gateway(HERE, make_config(tun=SITES).tun)
    made.set_members({HERE: ("here", True), PARIS: ("paris", True)})
    return made


def ingress_of_gateway() -> Callable[[bytes], Any]:
    core, clock = gateway(), itertools.count()

    def run(data: bytes) -> None:
        packet = mended(data)
        before = sum(core.ingress_counters.drops.values())
        passed = sum(len(lane.packets) for lane in core.ingress([packet], next(clock) * 1.0))
        assert passed or sum(core.ingress_counters.drops.values()) > before, "a packet of the TUN vanished"
        for answer in core.packets_to_write():
            parse_ip(answer)

    return run


def egress_of_gateway() -> Callable[[bytes], Any]:
    core = gateway()

    def run(data: bytes) -> None:
        before = sum(core.egress_counters.drops.values())
        passed = core.egress(PARIS, [mended(data)])
        assert passed or sum(core.egress_counters.drops.values()) > before, "a packet of a peer vanished"

    return run


def parsed(data: bytes) -> None:
    """Parse a packet as it is and with lengths and checksum right; what a gateway changes in one that passed can be parsed again."""
    packet = mended(data)
    if packet != data:
        with contextlib.suppress(RemoteProtocolError):
            parse_ip(data)
    header = parse_ip(packet)
    parse_ip(clamp_mss(packet, header, 1280))
    if header.version == 4 and header.may_fragment:
        for fragment in fragment_ipv4(packet, 576):
            parse_ip(fragment)


@functools.cache
def decoders() -> tuple[Decoder, ...]:
    """Return all ways into the data plane."""
    return (*_of_packets(), *_of_payloads(), *_of_routers(), *_of_native(), *_of_gateway())


def _of_packets() -> Sequence[Decoder]:
    scene = Scene()
    ingress, relay, egress = scene.routers
    srh, payload = Srh.for_path(scene.path()), scene.sealed_payload(PAYLOADS[0].encode())
    handshake = write_in_band(ingress.sid(Function.END_APP), bytes(100))

    def opened(data: bytes) -> Any:
        scene.forget_replays(relay)
        return open_packet(relay.sessions.by_index, data)

    def payload_opened(data: bytes) -> Any:
        scene.forget_replays(egress)
        return open_payload(egress.sessions.by_index, TAG, data)

    over_relay = Srh.for_path(scene.path(), next_header=NEXT_HEADER_SESSION).advanced()
    return (
        Decoder("srh.Srh.decode", Srh.decode, (srh.encode(), over_relay.encode(), srh.advanced().encode()), Srh.encode),
        Decoder("packet.open_packet", opened, (scene.sealed_packet(ingress, relay, srh.encode(), payload),)),
        Decoder("packet.open_payload", payload_opened, (payload,)),
        Decoder(
            "in_band.read_in_band", lambda data: read_in_band(Delivered(relay.node_id, over_relay, TAG, data, 1)), (handshake,),
            lambda arrived: arrived.way.segments[-1] + arrived.datagram,
        ),
    )  # fmt: skip


def _of_payloads() -> Sequence[Decoder]:
    return (
        Decoder("payload.Payload.decode", Payload.decode, tuple(payload.encode() for payload in PAYLOADS), Payload.encode),
        Decoder("payload.KeepAlive.decode", KeepAlive.decode, (KEEPALIVE.encode(), KeepAlive(0, 0).encode()), KeepAlive.encode),
        Decoder("payload.Ack.decode", Ack.decode, (ACK.encode(),), Ack.encode),
        Decoder("payload.Notice.decode", Notice.decode, (NOTICE.encode(),), Notice.encode),
    )


def _of_routers() -> Sequence[Decoder]:
    scene = Scene()
    ingress, relay, _ = scene.routers
    srh = Srh.for_path(scene.path()).encode()
    packet = scene.sealed_packet(ingress, relay, srh, scene.sealed_payload(PAYLOADS[0].encode()))
    plaintexts = tuple(payload.encode() for payload in PAYLOADS)
    tunnelled = tuple(Payload(PayloadKind.DATA, TUNNEL_FLOW_MIN, 1, 10**9, data[:1100]).encode() for data in PACKETS)
    run, seen = handshakes()
    return (
        Decoder("portable.PortableForwarder.receive", datagram_at(1), (packet,), errors=()),
        Decoder("relay.Relay.process", authentic_header(), (srh,), errors=()),
        Decoder("egress.Egress.receive", authentic_payload(), (*plaintexts, *tunnelled), errors=()),
        Decoder("overlay.session.Sessions.receive_datagram", run, seen, errors=()),
    )


def _of_native() -> Sequence[Decoder]:
    opened, taken, samples = native_at_egress(None)
    opened_signed, _, signed = native_at_egress(KEY)
    return (
        Decoder("kernel.border.NativeBorder.open", opened, samples),
        Decoder("kernel.border.NativeBorder.open (HMAC)", opened_signed, signed),
        Decoder("portable.PortableForwarder.receive_native", taken, samples, errors=()),
    )


def _of_gateway() -> Sequence[Decoder]:
    return (
        Decoder("gateway.ip_packet.parse_ip", parsed, PACKETS),
        Decoder("gateway.gateway.Gateway.ingress", ingress_of_gateway(), PACKETS, errors=()),
        Decoder("gateway.gateway.Gateway.egress", egress_of_gateway(), BACK, errors=()),
    )


if __name__ == "__main__":
    sys.exit(run_fuzzer(decoders, __doc__))
