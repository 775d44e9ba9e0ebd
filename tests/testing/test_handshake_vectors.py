"""The published handshake vectors: made by the code as it is, and checked against the description with other people's primitives."""

from __future__ import annotations

import hashlib
import json
import random
import struct
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from noise.connection import Keypair, NoiseConnection

from srwan.identity import Identity
from srwan.overlay.handshake import Handshaker
from srwan.overlay.session import Sessions
from srwan.routing.in_band import read_in_band
from srwan.routing.relay import Delivered
from srwan.routing.srh import Srh
from srwan.testing.handshake_vectors import WALL_0_NS, make_handshake_vectors
from srwan.types import NodeId

FILE = Path(__file__).parents[1] / "data/handshake_vectors.json"
VECTORS: dict[str, Any] = json.loads(FILE.read_text("utf-8"))
NODES: dict[str, dict[str, bytes]] = {
    name: {key: bytes.fromhex(value) for key, value in node.items()} for name, node in VECTORS["nodes"].items()
}
CASES = range(len(VECTORS["handshakes"]))


def raw(vector: dict[str, Any], name: str) -> bytes:
    return bytes.fromhex(vector[name])


def mac(key: bytes, body: bytes) -> bytes:
    return hashlib.blake2b(body, key=key, digest_size=16).digest()


def key_for(purpose: bytes, node: bytes) -> bytes:
    return hashlib.blake2b(node, digest_size=32, person=purpose).digest()


def reference(case: dict[str, Any], side: str) -> NoiseConnection:
    """The other implementation, with the keys of the vector."""
    noise = NoiseConnection.from_name(VECTORS["protocol"].encode())
    getattr(noise, f"set_as_{side}")()
    noise.set_prologue(b"srwan/session/2" + NODES["responder"]["node_id"])
    noise.set_keypair_from_private_bytes(Keypair.STATIC, NODES[side]["x25519_secret"])
    noise.set_keypair_from_private_bytes(Keypair.EPHEMERAL, raw(case, f"{side}_ephemeral"))
    if side == "initiator":
        noise.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, NODES["responder"]["x25519_public"])
    with pytest.warns(UserWarning, match="ephemeral"):  # we set the ephemeral keys, to compare bytes
        noise.start_handshake()
    return noise


def test_file_is_what_the_code_makes() -> None:
    assert make_handshake_vectors() == VECTORS


def test_nodes_are_ed25519_keys_and_their_x25519_form() -> None:
    for node in NODES.values():
        assert node["node_id"] == Ed25519PrivateKey.from_private_bytes(node["seed"]).public_key().public_bytes_raw()
        assert node["x25519_public"] == X25519PrivateKey.from_private_bytes(node["x25519_secret"]).public_key().public_bytes_raw()


@pytest.mark.parametrize("number", CASES)
def test_init_and_response_are_those_of_another_implementation_of_noise(number: int) -> None:
    case = VECTORS["handshakes"][number]
    initiator, responder = reference(case, "initiator"), reference(case, "responder")
    hello = NODES["initiator"]["node_id"] + struct.pack("<IQ", case["initiator_index"], case["timestamp_ns"])
    message = bytes(initiator.write_message(hello))
    body = bytes([0x12, 1, 0, 0]) + message
    body += mac(key_for(b"srwan/mac1/1", NODES["responder"]["node_id"]), body)
    assert body + bytes(16) == raw(case, "init")
    assert hello == bytes(responder.read_message(message))
    answer = bytes(responder.write_message(struct.pack("<I", case["responder_index"])))
    assert bytes([0x12, 2, 0, 0]) + struct.pack("<I", case["initiator_index"]) + answer == raw(case, "response")
    assert struct.pack("<I", case["responder_index"]) == bytes(initiator.read_message(answer))
    transcript = bytes(initiator.get_handshake_hash())
    protocol: Any = initiator.noise_protocol
    ours, theirs = bytes(protocol.cipher_state_encrypt.k), bytes(protocol.cipher_state_decrypt.k)
    for purpose in ("link", "end"):
        for direction, key in (("initiator to responder", ours), ("responder to initiator", theirs)):
            derived = hashlib.blake2b(transcript, key=key, digest_size=32, person=f"srwan/{purpose}/1".encode()).digest()
            assert derived.hex() == case["keys"][f"{purpose} {direction}"]


@pytest.mark.parametrize("number", CASES)
def test_confirm_and_its_answer_are_sealed_with_the_link_keys(number: int) -> None:
    case = VECTORS["handshakes"][number]
    sides = (("confirm", 3, "responder_index", "initiator to responder"), ("confirmed", 4, "initiator_index", "responder to initiator"))
    for name, kind, index, direction in sides:
        counter = case[f"{name}_counter"]
        header = struct.pack("<BBHIQ", 0x12, kind, 0, case[index], counter)
        key = AESGCM(bytes.fromhex(case["keys"][f"link {direction}"]))
        assert header + key.encrypt(struct.pack("<4xQ", counter), b"", header) == raw(case, name)


def test_cookie_opens_with_the_key_of_its_sender_and_makes_the_second_mac() -> None:
    for vector in VECTORS["cookies"]:
        init, answer, again = raw(vector, "init"), raw(vector, "answer"), raw(vector, "init_with_cookie")
        assert bytes([0x12, 5, 0, 0]) + init[144:160] + raw(vector, "nonce") == answer[:32]
        key = AESGCM(key_for(b"srwan/cookie/1", NODES["responder"]["node_id"]))
        assert raw(vector, "cookie") == key.decrypt(answer[20:32], answer[32:], answer[:20])
        with pytest.raises(InvalidTag):
            key.decrypt(answer[20:32], answer[32:], bytes(20))
        assert init[:160] + mac(raw(vector, "cookie"), init[:160]) == again


def test_init_over_relays_is_answered_over_the_same_relays_in_reverse() -> None:
    for vector in VECTORS["over_relays"]:
        srh = Srh.decode(raw(vector, "srh_first_hop"))
        assert 254 == srh.next_header
        for _ in range(srh.segments_left):
            srh = srh.advanced()
        neighbour = NodeId(bytes.fromhex(vector["relays"][-1]))
        arrived = read_in_band(Delivered(neighbour, srh, 7, raw(vector, "payload"), 0))
        assert raw(VECTORS["handshakes"][0], "init") == arrived.datagram
        back = Srh.decode(raw(vector, "srh_of_the_answer"))
        assert (tuple(map(bytes, back.segments)), 7) == (arrived.way.segments, arrived.way.path_tag)


@pytest.mark.parametrize("vector", VECTORS["refused"], ids=lambda vector: str(vector["what"]))
def test_refused_datagrams_are_counted_under_their_reason_and_not_answered(vector: dict[str, Any]) -> None:
    rng = random.Random(0)
    sessions = Sessions(Identity(NODES["responder"]["seed"]), rng, entropy=rng.randbytes)
    sessions.receive_datagram(raw(vector, "datagram"), ("192.0.2.1", 1), 0.0, WALL_0_NS)
    assert {vector["reason"]: 1} == dict(sessions.drops)
    assert [] == sessions.datagrams_to_send(0.0)


def test_vectors_are_taken_by_a_node_with_the_given_keys() -> None:
    case = VECTORS["handshakes"][0]
    responder = Handshaker(Identity(NODES["responder"]["seed"]))
    responder.require_mac1(raw(case, "init"))
    noise, hello = responder.read_init(raw(case, "init"))
    response, _ = responder.respond(noise, hello, index=case["responder_index"], ephemeral=raw(case, "responder_ephemeral"))
    assert raw(case, "response") == response
