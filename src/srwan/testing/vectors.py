"""Conformance vectors of the SR wire format: sessions with known keys, packets at each hop, and what is refused and why.

`make_vectors` makes them with the portable data plane, the reference; `tests/data/sr_vectors.json` holds them, and every data plane is
tested against that file. Byte strings are hex. A scene has four routers; all have sessions with their neighbours on the line ingress -
first - second - egress, ingress and egress have one with each other, and `first` has one with egress, too. Everything has fixed keys and
starts at counter 0, so each packet's bytes follow from the format alone.

    journeys   a payload from ingress to egress: the datagram and its clear SRH on each hop, and the plaintext at the end
    refusals   datagrams given to one router, in order, by its neighbour `from`; which reasons it counts, how many it sends and delivers
"""

from __future__ import annotations

import hashlib
import itertools
import random
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs

from srwan.identity import Identity
from srwan.overlay.handshake import SessionSecrets
from srwan.overlay.session import Session, Sessions
from srwan.overlay.view import Role
from srwan.routing.packet import LINK_HEADER_BYTES, PACKET_BYTES_MAX, seal_packet, seal_payload
from srwan.routing.payload import Payload, PayloadKind
from srwan.routing.portable import PortableForwarder
from srwan.routing.sid import Function, Sid, locator_of
from srwan.routing.srh import SEGMENTS_MAX, Srh
from srwan.types import NodeId, UdpAddress

__all__ = ["VectorRouter", "make_vectors"]

NAMES = ("ingress", "first", "second", "egress")
PAIRS = (("ingress", "first"), ("first", "second"), ("second", "egress"), ("ingress", "egress"), ("first", "egress"))
"""Who has a session; the first of a pair is the initiator."""
PATH_TAG = 0x1122334455667788
FLOW = 7
STAMP_NS = 1_800_000_000_000_000_000
STRANGER = NodeId(bytes([0x77]) * 32)


def _identity(name: str) -> Identity:
    return Identity(hashlib.sha256(f"srwan vector {name}".encode()).digest())


NODES: dict[str, NodeId] = {name: _identity(name).node_id for name in NAMES}


def _address(name: str) -> UdpAddress:
    return "192.0.2.1", 20_000 + NAMES.index(name)


def _key(sender: str, receiver: str, purpose: str) -> bytes:
    return hashlib.sha256(f"srwan vector key {sender} {receiver} {purpose}".encode()).digest()


def _index(owner: str, peer: str) -> int:
    """The index that `owner` gave its session with `peer`."""
    return 0x01010000 * (1 + NAMES.index(owner)) + NAMES.index(peer)


class VectorRouter:
    """A router of the scene with one data plane.

    Args:
        name: which of NAMES.
        make_forwarder: makes the data plane, with the arguments of `PortableForwarder`.
        roles: what it offers.
        without: of its neighbours, those it has no session with.
    """

    def __init__(
        self,
        name: str,
        make_forwarder: Callable[..., PortableForwarder] = PortableForwarder,
        roles: Role = Role.RELAY,
        without: tuple[str, ...] = (),
    ) -> None:
        self.node_id = NODES[name]
        self.sent: list[tuple[bytes, UdpAddress]] = []
        """Datagrams it sent, with where to."""
        rng = random.Random(name)
        self.sessions = Sessions(_identity(name), rng, entropy=rng.randbytes)
        self.forwarder = make_forwarder(
            self.node_id,
            self.sessions,
            roles=roles,
            send=lambda data, to: self.sent.append((data, to)),
            read_stamp_ns=lambda: STAMP_NS,
        )
        for pair in PAIRS:
            if name in pair:
                peer = pair[1 - pair.index(name)]
                if peer not in without:
                    self._install(name, peer, is_initiator=pair.index(name) == 0)
        self.forwarder.set_members({locator_of(node): node for node in NODES.values()})

    def session(self, peer: str) -> Session:
        """Return its session with another router of the scene."""
        session = self.sessions.current(NODES[peer])
        assert session is not None
        return session

    def receive(self, data: bytes, sender: str) -> None:
        """Take a datagram that a router of the scene sent."""
        self.forwarder.receive(data, _address(sender), STAMP_NS)

    def bodies(self) -> list[bytes]:
        """Return the bodies of DATA that arrived since the last call."""
        return [packet.body for inbox in self.forwarder.ready_flows() for packet in inbox.take()]

    def _install(self, name: str, peer: str, *, is_initiator: bool) -> None:
        secrets = SessionSecrets(
            link_seal=_key(name, peer, "link"),
            link_open=_key(peer, name, "link"),
            end_seal=_key(name, peer, "end"),
            end_open=_key(peer, name, "end"),
        )
        session = Session(
            NODES[peer], _address(peer), (_index(name, peer), _index(peer, name)), secrets, is_initiator=is_initiator, now=0.0
        )
        session.is_confirmed = True
        table = self.sessions._table
        entry = table.entry(NODES[peer])
        assert entry is not None
        table.install(entry, session, secrets)
        table.set_current(entry, session)


def _sid(name: str, function: Function = Function.END, argument: int = 0) -> Sid:
    return Sid.of(NODES[name], function, argument)


def _data(body: bytes) -> bytes:
    return Payload(PayloadKind.DATA, FLOW, 0, STAMP_NS, body).encode()


# --- journeys ---------------------------------------------------------------------------------------------------------


def _journey(relays: tuple[str, ...], body: bytes, function: Function = Function.END_APP) -> dict[str, Any]:
    """Send one payload and note it on every hop."""
    route = ("ingress", *relays, "egress")
    routers = {name: VectorRouter(name) for name in route}
    path = (*(_sid(name) for name in relays), _sid("egress", function))
    plaintext = _data(body)
    assert routers["ingress"].forwarder.send_payload(path, PATH_TAG, NODES["egress"], plaintext)
    hops = []
    for here, there in itertools.pairwise(route):
        ((datagram, destination),) = routers[here].sent
        assert destination == _address(there)
        left = len(route) - 2 - route.index(here)
        srh = attrs.evolve(Srh.for_path(path), segments_left=left).encode()
        hops.append({"from": here, "to": there, "datagram": datagram.hex(), "srh": srh.hex()})
        routers[there].receive(datagram, here)
    assert [body] == routers["egress"].bodies()
    return {"path": [segment.hex() for segment in path], "plaintext": plaintext.hex(), "body": body.hex(), "hops": hops}


# --- refusals ---------------------------------------------------------------------------------------------------------


class _Maker:
    """Makes bad packets as an insider, who has keys, or an outsider could."""

    def __init__(self, sender: str = "ingress", receiver: str = "first") -> None:
        self.sender = VectorRouter(sender)
        self.link = self.sender.session(receiver)

    def sealed(self, srh: bytes, payload: bytes = b"opaque to relays", path_tag: int = PATH_TAG) -> bytes:
        return seal_packet(self.link, srh, path_tag, payload)


def _change(data: bytes, at: int, value: int) -> bytes:
    changed = bytearray(data)
    changed[at] = value
    return bytes(changed)


def _bad_headers() -> Iterator[tuple[str, list[bytes]]]:
    good_srh = Srh.for_path((_sid("first"), _sid("second"), _sid("egress", Function.END_APP))).encode()
    good = _Maker().sealed(good_srh)
    yield "empty", [b""]
    yield "too short for any SR packet", [good[:63]]
    yield "one byte short", [good[:-1]]
    yield "one byte long", [good + b"\0"]
    yield "longer than fits the underlay", [good + bytes(PACKET_BYTES_MAX)]
    yield "another version", [_change(good, 0, 0x22)]
    yield "flags", [_change(good, 1, 1)]
    yield "payload longer than the packet", [good[:2] + b"\xff\xff" + good[4:]]
    yield "unknown session", [_change(good, 7, 0xEE)]
    yield "changed counter", [_change(good, 9, 1)]
    yield "changed path tag", [_change(good, 17, 1)]
    yield "changed segment list", [_change(good, LINK_HEADER_BYTES + 9, good[LINK_HEADER_BYTES + 9] ^ 1)]
    yield "twice the same", [good, good]
    maker = _Maker()
    packets = [maker.sealed(good_srh) for _ in range(2050)]
    yield "2048 behind", [packets[2049], packets[1]]
    yield "2047 behind", [packets[2049], packets[2], packets[2]]
    maker.link.link_seal.counter = 2**64 - 2
    yield "at the end of all counters", [last := maker.sealed(good_srh), packets[3], maker.sealed(good_srh), last]


def _bad_lists() -> Iterator[tuple[str, bytes]]:
    path = (_sid("first"), _sid("second"), _sid("egress", Function.END_APP))
    good = Srh.for_path(path).encode()
    yield "another routing type", _change(good, 2, 3)
    yield "length of another list", _change(good, 1, 4)
    yield "header flags", _change(good, 5, 8)
    yield "no segments", _change(good, 4, 200)
    yield "more entries than bytes", _change(good, 4, 3)
    yield "objects after the list", _change(good, 4, 1)
    yield "more segments left than there are", _change(good, 3, 3)
    yield "a node twice", Srh.for_path(path).encode()[:24] + _sid("first", Function.END_APP) + _sid("first")
    yield "not for this node", Srh.for_path(path[1:]).encode()
    yield "ends here with a function that goes on", Srh.for_path((_sid("first"),)).encode()
    yield "goes on with a function that ends here", Srh.for_path((_sid("first", Function.END_APP), *path[1:])).encode()
    yield "goes on with an argument", Srh.for_path((_sid("first", argument=5), *path[1:])).encode()
    yield "goes on to nobody", Srh.for_path((_sid("first"), Sid.of(STRANGER, Function.END), path[2])).encode()
    yield "comes from another than the segment before", attrs.evolve(Srh.for_path((path[1], path[0], path[2])), segments_left=1).encode()
    yield (
        "comes from another and goes on to nobody",
        attrs.evolve(Srh.for_path((path[1], path[0], Sid.of(STRANGER, Function.END))), segments_left=1).encode(),
    )
    yield "ends here for the TUN of a node without one", Srh.for_path((_sid("first", Function.END_DT6),)).encode()


def _bad_payloads() -> Iterator[tuple[str, list[bytes]]]:
    """Datagrams from `first`, which may carry anything, to the egress."""
    maker, ingress = _Maker("first", "egress"), VectorRouter("ingress")
    srh = attrs.evolve(Srh.for_path((_sid("first"), _sid("egress", Function.END_APP))), segments_left=0).encode()
    end = ingress.session("egress")
    payload = seal_payload(end, PATH_TAG, _data(b"hello"))

    def carry(payload: bytes, path_tag: int = PATH_TAG, srh: bytes = srh) -> bytes:
        return maker.sealed(srh, payload, path_tag)

    yield "payload too short", [carry(payload[:27])]
    yield "no payload", [carry(b"")]
    yield "payload of an unknown session", [carry(_change(payload, 3, 0xEE))]
    yield "payload twice", [carry(payload), carry(payload)]
    yield "changed payload", [carry(_change(payload, 20, payload[20] ^ 1))]
    yield "changed payload counter", [carry(_change(payload, 5, 1))]
    yield "payload under another path tag", [carry(payload, PATH_TAG + 1)]
    yield "another next header", [carry(payload, srh=_change(srh, 0, 4))]
    yield "unknown kind", [carry(seal_payload(end, PATH_TAG, _change(_data(b""), 0, 99)))]
    yield "payload without a header", [carry(seal_payload(end, PATH_TAG, _data(b"")[:23]))]


def _refusal(name: str, receiver: str, sender: str, datagrams: list[bytes], roles: Role, without: tuple[str, ...] = ()) -> dict[str, Any]:
    router = VectorRouter(receiver, roles=roles, without=without)
    for datagram in datagrams:
        router.receive(datagram, sender)
    return {
        "name": name,
        "at": receiver,
        "from": sender,
        "roles": int(roles),
        "without": list(without),
        "datagrams": [datagram.hex() for datagram in datagrams],
        "drops": dict(router.forwarder.counters().drops),
        "sent": len(router.sent),
        "delivered": len(router.bodies()),
    }


def _refusals() -> Iterator[dict[str, Any]]:
    relay = Role.RELAY
    for name, datagrams in _bad_headers():
        yield _refusal(name, "first", "ingress", datagrams, relay)
    for name, srh in _bad_lists():
        yield _refusal(name, "first", "ingress", [_Maker().sealed(srh)], relay)
    nodes = [_sid("first"), *(Sid.of(NodeId(bytes([i]) * 32), Function.END) for i in range(SEGMENTS_MAX))]
    nine = struct.pack("!BBBBBBH", 253, 18, 4, 8, 8, 0, 0) + b"".join(reversed(nodes))
    yield _refusal("nine segments", "first", "ingress", [_Maker().sealed(nine)], relay)
    onward = Srh.for_path((_sid("first"), _sid("second"), _sid("egress", Function.END_APP))).encode()
    yield _refusal("no relay", "first", "ingress", [_Maker().sealed(onward)], Role(0))
    maker = _Maker()
    yield _refusal("no session to go on with", "first", "ingress", [maker.sealed(onward) for _ in range(3)], relay, ("second",))
    for name, datagrams in _bad_payloads():
        yield _refusal(name, "egress", "first", datagrams, relay)


def make_vectors() -> Mapping[str, Any]:
    """Return all vectors as JSON values. Cost: 1 s."""
    return {
        "about": "Conformance vectors of the SR wire format; made by script/vectors, described in srwan.testing.vectors. Bytes are hex.",
        "path_tag": PATH_TAG,
        "routers": {name: {"node_id": node.hex(), "locator": locator_of(node).hex()} for name, node in NODES.items()},
        "sessions": [
            {
                "between": [one, other],
                "indices": [_index(one, other), _index(other, one)],
                "keys": {f"{purpose} {a} to {b}": _key(a, b, purpose).hex() for purpose in ("link", "end") for a, b in _both(one, other)},
            }
            for one, other in PAIRS
        ],
        "journeys": [
            _journey(("first", "second"), b"two relays"),
            _journey(("first",), b"one relay"),
            _journey((), b"no relay"),
            _journey(("first", "second"), b""),
            _journey(("first", "second"), bytes(range(256)) * 4, Function.END_STREAM),
        ],
        "refusals": list(_refusals()),
    }


def _both(one: str, other: str) -> tuple[tuple[str, str], tuple[str, str]]:
    return (one, other), (other, one)
