"""Conformance vectors of session handshakes, for implementations that are not this one: tests/data/handshake_vectors.json.

Every secret is given, so each step can be checked alone: keys of the two nodes, ephemeral keys, indices and times go in; datagrams, the
handshake hash and the four session keys come out. Bytes are hex. What the fields of the datagrams mean is told in
`srwan.overlay.handshake`; how they travel over relays in `srwan.routing.in_band`.

The file has

- `nodes`: seed (Ed25519 private key), NodeId (its public key), X25519 secret and public key of both;
- `handshakes`: INIT, RESPONSE, keys, and a CONFIRM and its answer under them;
- `cookies`: a COOKIE for an INIT, and that INIT with the second mac;
- `over_relays`: an INIT as the payload of an SR packet, and the segment routing header of the first hop;
- `refused`: datagrams of plane 0x1 that the responder drops, with the reason it counts.
"""

from __future__ import annotations

import hashlib
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from srwan.identity import Identity, x25519_public_key
from srwan.overlay.handshake import CONFIRM_HEADER, PROLOGUE, SESSION_MAGIC, Handshaker, SessionDatagram, SessionSecrets, StartedHandshake
from srwan.overlay.noise import PROTOCOL_NAME
from srwan.overlay.session_keys import NONCE
from srwan.routing.in_band import write_in_band
from srwan.routing.sid import Function, Sid
from srwan.routing.srh import NEXT_HEADER_SESSION, Srh
from srwan.types import NodeId

__all__ = ["make_handshake_vectors"]

WALL_0_NS = 1_800_000_000_000_000_000
_NODES = {"initiator": Identity(bytes(range(32))), "responder": Identity(bytes(range(32, 64)))}
_CASES = (
    (1, 2, WALL_0_NS, 0, 0),
    (0xFFFFFFFF, 0, 0, 1, 1 << 32),
    (0x01020304, 0x05060708, (1 << 64) - 1, (1 << 63) - 1, (1 << 64) - 1),
)
"""Index of the initiator and of the responder, timestamp, counter of CONFIRM and of CONFIRMED."""


def make_handshake_vectors() -> dict[str, Any]:
    """Return what tests/data/handshake_vectors.json holds. Depends on nothing but the code."""
    return {
        "about": "Conformance vectors of srwan session handshakes; made by script/vectors_handshake. Bytes are hex.",
        "protocol": PROTOCOL_NAME.decode(),
        "prologue": f"{PROLOGUE.decode()} and the NodeId of the responder",
        "nodes": {name: _node(identity) for name, identity in _NODES.items()},
        "handshakes": [_handshake(number, case) for number, case in enumerate(_CASES)],
        "cookies": [_cookie(number) for number in range(2)],
        "over_relays": [_over_relays(relays) for relays in (1, 3)],
        "refused": _refused(),
    }


def _node(identity: Identity) -> dict[str, str]:
    return {
        "seed": identity.seed.hex(),
        "node_id": identity.node_id.hex(),
        "x25519_secret": identity.x25519_secret.hex(),
        "x25519_public": x25519_public_key(identity.node_id).hex(),
    }


def _secret(label: str) -> bytes:
    return hashlib.sha256(f"srwan handshake vectors: {label}".encode()).digest()


def _start(number: int, index: int, timestamp_ns: int) -> StartedHandshake:
    peer = _NODES["responder"].node_id
    ephemeral = _secret(f"initiator {number}")
    return Handshaker(_NODES["initiator"]).start(peer, index=index, timestamp_ns=timestamp_ns, ephemeral=ephemeral)


def _handshake(number: int, case: tuple[int, int, int, int, int]) -> dict[str, Any]:
    initiator_index, responder_index, timestamp_ns, confirm_counter, confirmed_counter = case
    started = _start(number, initiator_index, timestamp_ns)
    responder = Handshaker(_NODES["responder"])
    noise, hello = responder.read_init(started.datagram())
    response, secrets = responder.respond(noise, hello, index=responder_index, ephemeral=_secret(f"responder {number}"))
    return {
        "initiator_ephemeral": _secret(f"initiator {number}").hex(),
        "responder_ephemeral": _secret(f"responder {number}").hex(),
        "initiator_index": initiator_index,
        "responder_index": responder_index,
        "timestamp_ns": timestamp_ns,
        "init": started.datagram().hex(),
        "response": response.hex(),
        "keys": _keys(secrets),
        "confirm_counter": confirm_counter,
        "confirm": _confirm(SessionDatagram.CONFIRM, responder_index, confirm_counter, secrets.link_open).hex(),
        "confirmed_counter": confirmed_counter,
        "confirmed": _confirm(SessionDatagram.CONFIRMED, initiator_index, confirmed_counter, secrets.link_seal).hex(),
    }


def _keys(responders: SessionSecrets) -> dict[str, str]:
    return {
        "link initiator to responder": responders.link_open.hex(),
        "link responder to initiator": responders.link_seal.hex(),
        "end initiator to responder": responders.end_open.hex(),
        "end responder to initiator": responders.end_seal.hex(),
    }


def _confirm(kind: SessionDatagram, index: int, counter: int, key: bytes) -> bytes:
    header = CONFIRM_HEADER.pack(SESSION_MAGIC, kind, 0, index, counter)
    return header + AESGCM(key).encrypt(NONCE.pack(counter), b"", header)


def _cookie(number: int) -> dict[str, str]:
    started = _start(number, *_CASES[number][:1], _CASES[number][2])
    cookie, nonce = _secret(f"cookie {number}")[:16], _secret(f"nonce {number}")[:12]
    return {
        "init": started.datagram().hex(),
        "cookie": cookie.hex(),
        "nonce": nonce.hex(),
        "answer": Handshaker(_NODES["responder"]).give_cookie(started.mac1, cookie, nonce).hex(),
        "init_with_cookie": started.datagram(cookie).hex(),
    }


def _over_relays(count: int) -> dict[str, Any]:
    relays = [NodeId(Identity(_secret(f"relay {number}")).node_id) for number in range(count)]
    path = (*(Sid.of(relay, Function.END) for relay in relays), Sid.of(_NODES["responder"].node_id, Function.END_APP))
    sender = Sid.of(_NODES["initiator"].node_id, Function.END_APP)
    return {
        "relays": [relay.hex() for relay in relays],
        "sender_sid": sender.hex(),
        "srh_first_hop": Srh.for_path(path, next_header=NEXT_HEADER_SESSION).encode().hex(),
        "payload": write_in_band(sender, _start(0, 1, WALL_0_NS).datagram()).hex(),
        "srh_of_the_answer": Srh.for_path((*path[-2::-1], sender), next_header=NEXT_HEADER_SESSION).encode().hex(),
    }


def _refused() -> list[dict[str, str]]:
    init = _start(0, 1, WALL_0_NS).datagram()
    other = Handshaker(_NODES["initiator"]).start(
        Identity(_secret("somebody else")).node_id, index=1, timestamp_ns=WALL_0_NS, ephemeral=_secret("initiator 0")
    )
    liar = Handshaker(_NODES["initiator"])
    liar.node_id = Identity(_secret("somebody else")).node_id
    lie = liar.start(_NODES["responder"].node_id, index=1, timestamp_ns=WALL_0_NS, ephemeral=_secret("initiator 0"))
    low_order = _with_mac1(init[:4] + bytes(32) + init[36:144])
    cases = {
        "empty": (b"", "length"),
        "a byte short": (init[:-1], "length"),
        "a byte long": (init + b"\0", "length"),
        "version 1": (b"\x11" + init[1:], "version"),
        "unknown type": (init[:1] + b"\x06" + init[2:], "type"),
        "reserved bits": (init[:3] + b"\x01" + init[4:], "decode"),
        "for another node": (other.datagram(), "mac1"),
        "a bit of the sealed key changed, mac1 not": (init[:40] + bytes([init[40] ^ 1]) + init[41:], "mac1"),
        "a bit of the sealed key changed, mac1 right": (_with_mac1(init[:40] + bytes([init[40] ^ 1]) + init[41:144]), "handshake"),
        "ephemeral key of low order": (low_order, "bad-key"),
        "NodeId of somebody else": (lie.datagram(), "identity"),
        "COOKIE that answers nothing": (Handshaker(_NODES["responder"]).give_cookie(bytes(16), bytes(16), bytes(12)), "late-response"),
        "RESPONSE to nothing": (bytes([SESSION_MAGIC, 2]) + bytes(58), "late-response"),
        "CONFIRM of no session": (bytes([SESSION_MAGIC, 3]) + bytes(30), "unknown-index"),
    }
    return [{"what": what, "datagram": data.hex(), "reason": reason} for what, (data, reason) in cases.items()]


def _with_mac1(body: bytes) -> bytes:
    key = hashlib.blake2b(_NODES["responder"].node_id, digest_size=32, person=b"srwan/mac1/1").digest()
    return body + hashlib.blake2b(body, key=key, digest_size=16).digest() + bytes(16)
