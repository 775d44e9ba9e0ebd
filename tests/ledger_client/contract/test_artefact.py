"""The artefact that ships, with the interface that engines rely on; and digests that both sides agree on.

That the contract computes ids, hashes and digests as `srwan.ledger_client.settlement` does, byte for byte, is what every test of this
folder rests on: signatures made in Python over Python's digests are accepted. Here each is checked for every field by itself.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srwan.errors import SettlementRefused
from srwan.ledger_client.contract.artefact import load_artefact
from srwan.ledger_client.settlement.settlement import (
    Claim,
    batch_digest,
    binding_digest,
    overturn_digest,
    validator_change_digest,
)
from srwan.ledger_client.settlement.signing import Address, SettlementDomain, keccak256
from srwan.ledger_client.settlement.terms import UINT128_MAX, PathTerms
from srwan.testing.contract_chain import claim_argument, signature_argument, terms_argument
from srwan.testing.settlement_bench import GB_OCTETS, SettlementBench, wallet_key
from srwan.types import NodeId

ROOT = Path(__file__).parents[3]
CONTRACT = ROOT / "ledger_client" / "contract"
CONSUMER, RELAY = wallet_key("consumer"), wallet_key("relay").address
TERMS = "(address,address[],uint128[],uint128,uint64,bytes32)"
CLAIM = f"({TERMS},uint128,uint128,uint8,bytes32,bytes32)"
SIGNATURE = "(uint8,bytes32,bytes32)"
FUNCTIONS = {
    "transfer(address,uint256)",
    "deposit(uint256)",
    "request_withdraw(uint256)",
    "withdraw()",
    f"open_session({TERMS})",
    f"close_session({TERMS})",
    f"settle({CLAIM}[],{SIGNATURE}[])",
    f"overturn({TERMS},uint128,bytes32,{SIGNATURE}[])",
    f"bind(bytes32,address,uint64,{SIGNATURE},{SIGNATURE}[])",
    "collect(address,uint256)",
    "collect_fees(uint256)",
    "release_subsidy()",
    "vote(address)",
    "unvote()",
    "seat(address)",
    "pay_dividend()",
    "pay_validators()",
    f"change_validators(address[],uint256,{SIGNATURE}[])",
}
VIEWS = {
    "account(address)",
    "session(bytes32)",
    "isOverturned(bytes32)",
    "locked(address,uint256)",
    "earnings(address)",
    "lockedFees(uint256)",
    "period()",
    "walletOf(bytes32)",
    "bindingSequence(bytes32)",
    "validatorSet()",
    "seats()",
    "pools()",
    "feeBps()",
    "supply()",
    "windowS()",
    "withdrawDelayS()",
}
EVENTS = {
    "SessionOpened(bytes32,address,uint256)",
    "SessionClosed(bytes32,uint256)",
    "Settled(bytes32,address,uint256,uint256,uint256)",
    "Overturned(bytes32,uint256,bytes32)",
    "Bound(bytes32,address,uint256)",
    "Transfer(address,address,uint256)",
    "Deposited(address,uint256)",
    "WithdrawRequested(address,uint256,uint256)",
    "Withdrawn(address,uint256)",
    "Collected(address,uint256,uint256)",
    "FeesCollected(uint256,uint256)",
    "SubsidyReleased(uint256)",
    "Voted(address,address)",
    "Seated(address,address)",
    "DividendPaid(address,uint256)",
    "ValidatorPaid(address,uint256)",
    "ValidatorsChanged(uint256,uint256)",
}


def type_of(field: dict[str, object]) -> str:
    kind = str(field["type"])
    if not kind.startswith("tuple"):
        return kind
    parts = field["components"]
    assert isinstance(parts, list)
    return f"({','.join(map(type_of, parts))}){kind.removeprefix('tuple')}"


def signatures_of(kind: str, mutability: str = "") -> set[str]:
    return {
        f"{entry['name']}({','.join(map(type_of, entry['inputs']))})"
        for entry in load_artefact().abi
        if entry["type"] == kind and entry.get("stateMutability", "") in (mutability, "")
    }


def test_the_interface_is_the_one_that_engines_rely_on() -> None:
    assert FUNCTIONS == signatures_of("function", "nonpayable")
    assert VIEWS == signatures_of("function", "view")
    assert set() == signatures_of("function", "payable")
    assert EVENTS == signatures_of("event")


@pytest.mark.slow
def test_the_artefact_is_what_source_and_compiler_give() -> None:
    checked = subprocess.run(
        [sys.executable, ROOT / "script" / "compile_contract.py", "--check"], capture_output=True, text=True, check=False, cwd="/"
    )

    assert (0, "", "") == (checked.returncode, checked.stdout, checked.stderr)


def test_the_artefact_names_its_source_and_its_code(bench: SettlementBench) -> None:
    artefact = load_artefact()
    code = bench.chain.code

    assert keccak256((CONTRACT / "settlement.vy").read_bytes()) == artefact.source_hash
    assert artefact.matches(code)
    assert not artefact.matches(code[:-1] if len(code) == artefact.runtime_octets else code[: artefact.runtime_octets - 1])
    assert not artefact.matches(bytes([code[0] ^ 1]) + code[1:])
    assert not artefact.matches(b"")
    assert len(code) <= 24_576, "EIP-170"
    assert len(artefact.bytecode) <= 49_152, "EIP-3860"


def test_the_artefact_names_no_place_of_the_machine_it_was_made_on() -> None:
    text = (CONTRACT / "settlement.json").read_text()

    assert str(ROOT) not in text
    assert ["abi", "bytecode", "compiler", "runtime_hash", "runtime_octets", "source_hash"] == sorted(json.loads(text))


def test_every_refusal_of_the_contract_is_one_word_that_the_documentation_explains() -> None:
    source = (CONTRACT / "settlement.vy").read_text()
    words = {line.rpartition(', "')[2].partition('"')[0] for line in source.splitlines() if line.strip().startswith("assert ")}
    documented = (ROOT / "docs" / "settlement.md").read_text()

    assert {"signature", "quorum", "price", "cap", "expired", "closed"} <= words
    assert [] == sorted(word for word in words if not word.isalpha() or f"| `{word}` |" not in documented)
    assert [] == sorted(name for name in FUNCTIONS | VIEWS if f"`{name.partition('(')[0]}" not in documented)
    assert [] == sorted(name for name in EVENTS if f"`{name.partition('(')[0]}" not in documented)


# ---- digests


hashes = st.binary(min_size=32, max_size=32)
addresses = st.binary(min_size=20, max_size=20).map(Address)


@settings(max_examples=15)
@given(
    payees=st.lists(addresses.filter(any), min_size=1, max_size=8, unique=True),
    prices=st.lists(st.integers(1, 2**64 - 1), min_size=8, max_size=8),
    cap=st.integers(1, 10**9),
    life_s=st.integers(1, 10**8),
    plan=hashes,
    octets=st.one_of(st.integers(GB_OCTETS, UINT128_MAX), st.just(UINT128_MAX)),
)
def test_session_ids_tickets_and_batches_are_the_same_on_both_sides(
    deployed: SettlementBench, payees: list[Address], prices: list[int], cap: int, life_s: int, plan: bytes, octets: int
) -> None:
    bench = deployed
    snapshot = bench.chain.snapshot()
    try:
        bench.fund(CONSUMER, escrow=cap)
        expires_s = bench.chain.now_s + life_s
        terms = PathTerms(CONSUMER.address, tuple(payees), tuple(prices[: len(payees)]), cap, expires_s, plan)
        (event,) = bench.open(terms).only("SessionOpened")
        assert terms.session_id == event["session"]
        (paid,) = bench.settle([bench.claim(CONSUMER, terms, octets, 1)]).only("Settled")
        assert (terms.session_id, octets, 1) == (paid["session"], paid["octets"], paid["paid"])
    finally:
        bench.chain.revert(snapshot)


def refused(bench: SettlementBench, function: str, *arguments: object) -> bool:
    try:
        bench.chain.call(function, *arguments)
    except SettlementRefused as error:
        return error.reason in ("signature", "validator")
    return False


def test_a_batch_digest_covers_every_field_of_every_claim(bench: SettlementBench) -> None:
    bench.fund(CONSUMER, escrow=10**9)
    first, second = (bench.terms(CONSUMER, [RELAY], plan=plan, cap=10**8) for plan in (b"first", b"second"))
    bench.open(first)
    bench.open(second)
    claims = [bench.claim(CONSUMER, terms, GB_OCTETS) for terms in (first, second)]
    more_octets, less_amount = (bench.claim(CONSUMER, second, GB_OCTETS + 1, 3_300_000), bench.claim(CONSUMER, second, GB_OCTETS, 1))
    signatures = bench.sign(batch_digest(bench.chain.domain, claims))

    def is_refused(claims: list[Claim]) -> bool:
        return refused(bench, "settle", [claim_argument(claim) for claim in claims], signatures)

    assert not is_refused(claims)
    for other in (claims[::-1], claims[:1], [claims[0], more_octets], [claims[0], less_amount], [claims[0], claims[0]]):
        assert is_refused(other)


def test_a_binding_digest_covers_router_wallet_and_sequence(bench: SettlementBench) -> None:
    node, other = NodeId(b"\x01" * 32), NodeId(b"\x02" * 32)
    digest = binding_digest(bench.chain.domain, node, CONSUMER.address, 5)
    own, signatures = signature_argument(CONSUMER.sign(digest)), bench.sign(digest)

    assert not refused(bench, "bind", node, CONSUMER.address, 5, own, signatures)
    assert refused(bench, "bind", other, CONSUMER.address, 5, own, signatures)
    assert refused(bench, "bind", node, RELAY, 5, own, signatures)
    assert refused(bench, "bind", node, CONSUMER.address, 6, own, signatures)


def test_an_overturn_digest_covers_session_settled_keep_and_evidence(bench: SettlementBench) -> None:
    bench.fund(CONSUMER, escrow=10**9)
    terms, other = (bench.terms(CONSUMER, [RELAY], plan=plan, cap=10**8) for plan in (b"first", b"second"))
    for each in (terms, other):
        bench.open(each)
        bench.settle([bench.claim(CONSUMER, each, GB_OCTETS, 1_000)])
    signatures = bench.sign(overturn_digest(bench.chain.domain, terms.session_id, 1_000, 10, b"\x07" * 32))

    assert not refused(bench, "overturn", terms_argument(terms), 10, b"\x07" * 32, signatures)
    assert refused(bench, "overturn", terms_argument(other), 10, b"\x07" * 32, signatures)
    assert refused(bench, "overturn", terms_argument(terms), 11, b"\x07" * 32, signatures)
    assert refused(bench, "overturn", terms_argument(terms), 10, b"\x08" * 32, signatures)
    bench.settle([bench.claim(CONSUMER, terms, GB_OCTETS, 1_001)])
    assert refused(bench, "overturn", terms_argument(terms), 10, b"\x07" * 32, signatures)


def test_a_change_digest_covers_members_quorum_and_nonce(bench: SettlementBench) -> None:
    members = [key.address for key in bench.validators]
    signatures = bench.sign(validator_change_digest(bench.chain.domain, members, 4, 0))

    assert not refused(bench, "change_validators", members, 4, signatures)
    assert refused(bench, "change_validators", members[:4], 4, signatures)
    assert refused(bench, "change_validators", members, 3, signatures)
    bench.change_validators(members, 4)
    assert refused(bench, "change_validators", members, 4, signatures)


def test_signatures_for_another_contract_are_worth_nothing(bench: SettlementBench) -> None:
    node = NodeId(b"\x01" * 32)
    chain_id, contract = bench.chain.chain_id, bench.chain.address
    for domain, is_refused in (
        (SettlementDomain(chain_id, contract), False),
        (SettlementDomain(chain_id + 1, contract), True),
        (SettlementDomain(chain_id, Address(b"\x01" * 20)), True),
    ):
        digest = binding_digest(domain, node, CONSUMER.address, 1)
        signatures = bench.sign(digest)
        assert is_refused == refused(bench, "bind", node, CONSUMER.address, 1, signature_argument(CONSUMER.sign(digest)), signatures)
