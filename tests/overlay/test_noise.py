"""Noise IK against an independent implementation (the `noiseprotocol` package), in both roles, and against forgery."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from noise.connection import Keypair, NoiseConnection

from srwan.errors import BadSignature, RemoteProtocolError
from srwan.overlay.noise import INIT_OVERHEAD_BYTES, RESPONSE_OVERHEAD_BYTES, Initiator, Responder, TransportKeys

PROLOGUE = b"Prologue123"


def secret(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def key(name: str) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(secret(name))


def public(name: str) -> bytes:
    return key(name).public_key().public_bytes_raw()


def make_initiator(prologue: bytes = PROLOGUE) -> Initiator:
    return Initiator(static=key("is"), ephemeral=key("ie"), responder_static=public("rs"), prologue=prologue)


def make_responder(prologue: bytes = PROLOGUE) -> Responder:
    return Responder(static=key("rs"), static_public=public("rs"), prologue=prologue)


def reference(*, is_initiator: bool) -> NoiseConnection:
    connection = NoiseConnection.from_name(b"Noise_IK_25519_AESGCM_BLAKE2s")
    connection.set_prologue(PROLOGUE)
    side = "i" if is_initiator else "r"
    connection.set_keypair_from_private_bytes(Keypair.STATIC, secret(side + "s"))
    connection.set_keypair_from_private_bytes(Keypair.EPHEMERAL, secret(side + "e"))
    if is_initiator:
        connection.set_as_initiator()
        connection.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, public("rs"))
    else:
        connection.set_as_responder()
    with pytest.warns(UserWarning, match="ephemeral"):  # we set the ephemeral keys, to compare bytes
        connection.start_handshake()
    return connection


def reference_keys(connection: NoiseConnection, *, is_initiator: bool) -> TransportKeys:
    protocol: Any = connection.noise_protocol
    sending, receiving = protocol.cipher_state_encrypt.k, protocol.cipher_state_decrypt.k
    first, second = (sending, receiving) if is_initiator else (receiving, sending)
    return TransportKeys(first, second, connection.get_handshake_hash())


def handshake(init_payload: bytes = b"hello", response_payload: bytes = b"welcome") -> tuple[bytes, bytes]:
    initiator, responder = make_initiator(), make_responder()
    init = initiator.write_init(init_payload)
    responder.read_init(init)
    response, _ = responder.write_response(response_payload, key("re"))
    return init, response


def test_initiator_agrees_with_an_independent_responder() -> None:
    ours, theirs = make_initiator(), reference(is_initiator=False)
    assert b"hello" == theirs.read_message(ours.write_init(b"hello"))
    payload, keys = ours.read_response(bytes(theirs.write_message(b"welcome")))
    assert b"welcome" == payload
    assert reference_keys(theirs, is_initiator=False) == keys


def test_responder_agrees_with_an_independent_initiator() -> None:
    ours, theirs = make_responder(), reference(is_initiator=True)
    static, payload = ours.read_init(bytes(theirs.write_message(b"hello")))
    assert (public("is"), b"hello") == (static, payload)
    response, keys = ours.write_response(b"welcome", key("re"))
    assert b"welcome" == theirs.read_message(response)
    assert reference_keys(theirs, is_initiator=True) == keys


def test_both_roles_write_the_very_bytes_of_the_independent_implementation() -> None:
    initiator, responder = reference(is_initiator=True), reference(is_initiator=False)
    init = bytes(initiator.write_message(b"hello"))
    responder.read_message(init)
    assert (init, bytes(responder.write_message(b"welcome"))) == handshake()


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_payloads_arrive_and_keys_agree(init_payload: bytes, response_payload: bytes) -> None:
    initiator, responder = make_initiator(), make_responder()
    init = initiator.write_init(init_payload)
    assert len(init_payload) + INIT_OVERHEAD_BYTES == len(init)
    assert (public("is"), init_payload) == responder.read_init(init)
    response, responder_keys = responder.write_response(response_payload, key("re"))
    assert len(response_payload) + RESPONSE_OVERHEAD_BYTES == len(response)
    assert (response_payload, responder_keys) == initiator.read_response(response)


def test_three_results_of_the_split_differ() -> None:
    initiator, responder = make_initiator(), make_responder()
    responder.read_init(initiator.write_init(b""))
    _, keys = responder.write_response(b"", key("re"))
    assert 3 == len({keys.from_initiator, keys.from_responder, keys.transcript})


@given(st.data())
def test_init_with_a_changed_bit_does_not_open(data: st.DataObject) -> None:
    init = bytearray(handshake()[0])
    init[data.draw(st.integers(0, len(init) - 1))] ^= 1 << data.draw(st.integers(0, 6))  # bit 7 of a public key's last byte is ignored
    with pytest.raises(BadSignature):
        make_responder().read_init(bytes(init))


@given(st.data())
def test_forged_response_does_not_spoil_the_handshake(data: st.DataObject) -> None:
    initiator, responder = make_initiator(), make_responder()
    responder.read_init(initiator.write_init(b""))
    response, keys = responder.write_response(b"", key("re"))
    forged = bytearray(response)
    forged[data.draw(st.integers(0, len(forged) - 1))] ^= 1 << data.draw(st.integers(0, 6))
    with pytest.raises(BadSignature):
        initiator.read_response(bytes(forged))
    assert (b"", keys) == initiator.read_response(response)


@given(st.binary(max_size=300))
def test_random_bytes_raise_nothing_but_remote_errors(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        make_responder().read_init(data)
    initiator = make_initiator()
    initiator.write_init(b"")
    with pytest.raises(RemoteProtocolError):
        initiator.read_response(data)


def test_another_prologue_does_not_open() -> None:
    with pytest.raises(BadSignature):
        make_responder(b"other").read_init(make_initiator().write_init(b""))


def test_keys_of_low_order_are_refused() -> None:
    zero = bytes(32)
    with pytest.raises(BadSignature, match="low order"):
        Initiator(static=key("is"), ephemeral=key("ie"), responder_static=zero, prologue=b"").write_init(b"")
    init = make_initiator().write_init(b"")
    with pytest.raises(BadSignature, match="low order"):
        make_responder().read_init(zero + init[32:])


def test_keys_do_not_show_in_repr() -> None:
    keys = TransportKeys(b"a" * 32, b"b" * 32, b"c" * 32)
    assert "aaaa" not in repr(keys)
