"""What validators read and write: every content has one encoding, and bytes of others raise nothing but RemoteProtocolError."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srwan.errors import BadSignature, DecodeError, RemoteProtocolError
from srwan.ledger_client.record import Version, check
from srwan.ledger_client.settlement.settlement import batch_digest
from srwan.ledger_client.settlement.signing import Address, SettlementDomain
from srwan.ledger_client.settlement.terms import UINT128_MAX, PathTerms
from srwan.ledger_client.statement import Statement
from srwan.ledger_client.validation.batch import BatchItem, SignedBatch, items_digest, items_of
from srwan.ledger_client.validation.binding import BindingRequest, BindingVote
from srwan.ledger_client.validation.claim import ClaimFiling, filing_of, terms_of_abi
from srwan.ledger_client.validation.dispute import DisputeEvidence, OverturnVote
from srwan.ledger_client.validation.seat import seat_holder, sign_seat
from srwan.ledger_client.validation.verdict import ACCEPTED, ClaimVerdict
from srwan.testing.market import NS_PER_S, START_S, SessionScript, router, wallet

DOMAIN = SettlementDomain(31_337, Address(bytes(20)))
SEAT = sign_seat(wallet("validator"), DOMAIN, router("validator").node_id)
ITEMS = (BatchItem(bytes(32), 0, 0), BatchItem(bytes([1]) * 32, UINT128_MAX, UINT128_MAX))
REQUEST = BindingRequest.sign(router("relay-1"), wallet("relay-1"), DOMAIN, 7)
CONTENTS: list[tuple[Any, Callable[[bytes], Any]]] = [
    (ClaimVerdict(bytes(32), 5, 6, ACCEPTED, SEAT, (("receipt_octets", UINT128_MAX),)), ClaimVerdict.decode),
    (ClaimVerdict(bytes(32), 0, UINT128_MAX, "counters-missing", SEAT), ClaimVerdict.decode),
    (SignedBatch(9, ITEMS, bytes(65), ACCEPTED, SEAT), SignedBatch.decode),
    (SignedBatch(9, ITEMS[:1], b"", "unknown", SEAT), SignedBatch.decode),
    (REQUEST, lambda data: BindingRequest.decode(REQUEST.node, data)),
    (BindingVote(REQUEST.node, REQUEST.wallet, 7, bytes(65), ACCEPTED, SEAT), BindingVote.decode),
    (BindingVote(REQUEST.node, REQUEST.wallet, 2**64 - 1, b"", "node-signature", SEAT), BindingVote.decode),
    (DisputeEvidence(bytes(32), ((b"one", b"other"),) * 8), DisputeEvidence.decode),
    (OverturnVote(bytes(32), UINT128_MAX, 0, bytes(32), bytes(65), SEAT), OverturnVote.decode),
]
DECODERS = [ClaimFiling.decode, terms_of_abi, *(decode for _, decode in CONTENTS)]


@pytest.mark.parametrize(("value", "decode"), CONTENTS, ids=lambda value: type(value).__name__)
def test_a_content_survives_its_encoding(value: Any, decode: Callable[[bytes], Any]) -> None:
    assert value == decode(value.encode())


def test_a_claim_survives_its_encoding(script: SessionScript) -> None:
    filing = script.filing(10**9)

    assert filing == ClaimFiling.decode(filing.encode())


def test_terms_survive_at_their_greatest_values() -> None:
    payees = tuple(Address(bytes([place]) * 20) for place in range(1, 9))
    terms = PathTerms(Address(b"\xff" * 20), payees, (0, *(2**64 - 1,) * 7), UINT128_MAX, 2**64 - 1, b"\xff" * 32)

    assert terms == terms_of_abi(terms.abi())


@given(data=st.binary(max_size=300))
@settings(max_examples=60)
def test_random_bytes_raise_remote_errors_only(data: bytes) -> None:
    for decode in DECODERS:
        with pytest.raises(RemoteProtocolError):
            decode(data)


@given(place=st.integers(0, 2_000), bit=st.integers(0, 7), kept=st.integers(0, 2_000))
@settings(max_examples=150)
def test_damaged_contents_raise_remote_errors_or_are_other_values(place: int, bit: int, kept: int) -> None:
    for value, decode in CONTENTS:
        data = bytearray(value.encode())
        data[place % len(data)] ^= 1 << bit
        for damaged in (bytes(data), bytes(data[: kept % len(data)])):
            try:
                found = decode(damaged)
            except RemoteProtocolError:
                continue
            assert damaged == found.encode()


@given(word=st.integers(0, 14), value=st.binary(min_size=32, max_size=32))
@settings(max_examples=100)
def test_terms_have_one_encoding(word: int, value: bytes) -> None:
    terms = PathTerms(Address(b"c" * 20), tuple(Address(bytes([place]) * 20) for place in (1, 2, 3)), (1, 2, 3), 5, 6, bytes(32))
    data = terms.abi()
    changed = data[: 32 * word] + value + data[32 * word + 32 :]
    try:
        found = terms_of_abi(changed)
    except DecodeError:
        return
    assert changed == found.abi()


def test_a_plan_of_other_terms_is_no_claim(script: SessionScript) -> None:
    import attrs

    filing = script.filing(10**6)
    with pytest.raises(DecodeError) as caught:
        attrs.evolve(filing, plan=attrs.evolve(filing.plan, nonce=b"another-nonce-16"))
    assert "plan" == caught.value.reason


def test_only_a_relay_of_the_path_files(script: SessionScript) -> None:
    filing = script.filing(10**6)
    times = {"issued_ns": START_S * NS_PER_S, "expires_ns": START_S * NS_PER_S + NS_PER_S}
    statement = filing.statement(router("stranger").node_id, Version(1, 1), **times)

    with pytest.raises(DecodeError) as caught:
        filing_of(statement)
    assert "filer" == caught.value.reason


def test_what_is_signed_of_a_batch_is_what_the_settlement_checks(script: SessionScript) -> None:
    claims = [script.filing(octets).claim for octets in (1, 10**9)]

    assert batch_digest(DOMAIN, claims) == items_digest(DOMAIN, items_of(claims))


def test_a_batch_names_each_session_once() -> None:
    with pytest.raises(ValueError, match="each session once"):
        SignedBatch(9, (ITEMS[0], ITEMS[0]), bytes(65), ACCEPTED, SEAT)


def test_every_content_fits_its_record() -> None:
    identity = router("validator")
    items = tuple(BatchItem(bytes([place]) * 32, UINT128_MAX, UINT128_MAX) for place in range(64))
    record = SignedBatch(START_S // 10, items, bytes(65), ACCEPTED, SEAT).statement(identity.node_id, slot_s=10).record(identity)

    check(record, START_S * NS_PER_S)
    assert 64 == len(SignedBatch.decode(Statement.of_record(record).content).items)


def test_a_seat_is_the_wallets_word_about_one_router() -> None:
    assert wallet("validator").address == seat_holder(DOMAIN, router("validator").node_id, SEAT)
    assert wallet("validator").address != seat_holder(DOMAIN, router("stranger").node_id, SEAT)


def test_a_binding_needs_both_keys() -> None:
    REQUEST.verify(DOMAIN)
    stolen = BindingRequest(router("relay-2").node_id, REQUEST.wallet, 7, REQUEST.wallet_signature, REQUEST.node_signature)
    foreign = BindingRequest(REQUEST.node, wallet("stranger").address, 7, REQUEST.wallet_signature, REQUEST.node_signature)
    mine = BindingRequest.sign(router("relay-1"), wallet("stranger"), DOMAIN, 7)
    unwilling = BindingRequest(REQUEST.node, mine.wallet, 7, REQUEST.wallet_signature, mine.node_signature)

    for request, reason in ((stolen, "node-signature"), (foreign, "node-signature"), (unwilling, "wallet-signature")):
        with pytest.raises(BadSignature) as caught:
            request.verify(DOMAIN)
        assert reason == caught.value.reason
