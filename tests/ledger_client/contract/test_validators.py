"""Who signs batches, how they are paid and replaced, and with what a contract can be deployed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from srwan.errors import SettlementRefused
from srwan.ledger_client.settlement.settlement import validator_change_digest
from srwan.ledger_client.settlement.signing import WalletKey
from srwan.testing.contract_chain import ContractChain
from srwan.testing.settlement_bench import GB_OCTETS, SettlementBench, wallet_key

CONSUMER, RELAY, ANYONE = (wallet_key(name) for name in ("consumer", "relay", "anyone"))
YEAR_S = 365 * 86_400


def settle(bench: SettlementBench, signers: Sequence[WalletKey]) -> None:
    """Settle one more GB of a new session."""
    bench.fund(CONSUMER, escrow=10**9)
    plan = bench.chain.call("account", CONSUMER.address)[1].to_bytes(8, "big")
    terms = bench.terms(CONSUMER, [RELAY.address], plan=plan, cap=10**8)
    bench.open(terms)
    bench.settle([bench.claim(CONSUMER, terms, GB_OCTETS)], signers)


def fill_pool(bench: SettlementBench) -> int:
    """Let a year's subsidy come in; return what the validators' pool holds."""
    bench.chain.now_s += YEAR_S
    bench.chain.send(ANYONE.address, "release_subsidy")
    return int(bench.chain.call("pools")[0])


def refusal_of_payout(bench: SettlementBench) -> str:
    with pytest.raises(SettlementRefused) as error:
        bench.chain.send(ANYONE.address, "pay_validators")
    return error.value.reason


# ---- payout


def test_those_who_signed_are_paid_in_equal_parts_however_often_they_signed(bench: SettlementBench) -> None:
    one, two, three, _, five = bench.validators
    settle(bench, [one, two, three])
    for _ in range(3):
        settle(bench, [one, two, five])
    pool = fill_pool(bench)
    receipt = bench.chain.send(ANYONE.address, "pay_validators")
    shares = {event["wallet"]: event["amount"] for event in receipt.only("ValidatorPaid")}

    assert {key.address: pool // 4 for key in (one, two, three, five)} == shares
    assert [pool // 4] * 3 + [0, pool // 4] == [bench.balance(key.address) for key in bench.validators]
    assert (pool // 4 * 4, pool % 4) == (receipt.output, bench.chain.call("pools")[0])


def test_nobody_is_paid_for_a_batch_that_paid_nothing(bench: SettlementBench) -> None:
    terms = bench.terms(CONSUMER, [RELAY.address])
    bench.fund(CONSUMER, escrow=10**9)
    bench.open(terms)
    claim = bench.claim(CONSUMER, terms, GB_OCTETS)
    bench.settle([bench.claim(CONSUMER, terms, 0, 0)])
    fill_pool(bench)
    assert "nothing" == refusal_of_payout(bench)
    terms = bench.terms(CONSUMER, [RELAY.address], plan=b"now", cap=10**7)
    bench.fund(CONSUMER, escrow=10**9)
    bench.open(terms)
    claim = bench.claim(CONSUMER, terms, GB_OCTETS)
    bench.settle([claim], bench.validators[:3])
    bench.settle([claim], bench.validators[2:])
    receipt = bench.chain.send(ANYONE.address, "pay_validators")

    assert [key.address for key in bench.validators[:3]] == [event["wallet"] for event in receipt.only("ValidatorPaid")]


def test_validators_are_paid_once_a_window_at_most(bench: SettlementBench) -> None:
    settle(bench, bench.validators)
    fill_pool(bench)
    bench.chain.send(ANYONE.address, "pay_validators")
    settle(bench, bench.validators)
    bench.chain.now_s += bench.window_s - 1
    bench.chain.send(ANYONE.address, "release_subsidy")
    assert "early" == refusal_of_payout(bench)
    bench.chain.now_s += 1
    bench.chain.send(ANYONE.address, "pay_validators")
    bench.chain.now_s += bench.window_s
    bench.chain.send(ANYONE.address, "release_subsidy")

    assert "nothing" == refusal_of_payout(bench), "nobody signed since"


def test_a_pool_that_gives_nobody_a_microtoken_waits(bench: SettlementBench) -> None:
    settle(bench, bench.validators)
    bench.chain.now_s += bench.window_s

    assert 0 == bench.chain.call("pools")[0]
    assert "nothing" == refusal_of_payout(bench)


# ---- change


def test_a_quorum_replaces_the_validators_and_those_who_signed_are_paid_before(bench: SettlementBench) -> None:
    old, new = bench.validators, sorted((wallet_key(f"new {number}") for number in range(2)), key=lambda key: key.address)
    settle(bench, old[:3])
    pool = fill_pool(bench)
    bench.chain.send(ANYONE.address, "pay_validators")
    settle(bench, old[2:])
    bench.chain.now_s += 86_400
    bench.chain.send(ANYONE.address, "release_subsidy")
    receipt = bench.change_validators([key.address for key in new], 2)

    assert [{"quorum": 2, "nonce": 1}] == receipt.only("ValidatorsChanged")
    assert pool // 3 > 0
    assert [key.address for key in old[2:]] == [event["wallet"] for event in receipt.only("ValidatorPaid")]
    assert (tuple(key.address for key in new), 2, 1) == bench.chain.call("validatorSet")
    with pytest.raises(SettlementRefused) as error:
        settle(bench, old[:3])
    assert "validator" == error.value.reason
    settle(bench, new)


def test_a_set_without_quorum_order_or_members_is_refused(bench: SettlementBench) -> None:
    one, two, three = (key.address for key in bench.validators[:3])
    seventeen = sorted(wallet_key(f"member {number}").address for number in range(17))

    for addresses, quorum, word in (
        ([one, two, three], 0, "quorum"),
        ([one, two, three], 4, "quorum"),
        ([one, two, three], 2**256 - 1, "quorum"),
        ([], 0, "quorum"),
        ([], 1, "quorum"),
        ([one, one], 1, "order"),
        ([two, one], 1, "order"),
        ([bytes(20), one], 1, "order"),
    ):
        with pytest.raises(SettlementRefused) as error:
            bench.chain.send(ANYONE.address, "change_validators", addresses, quorum, signed_change(bench, addresses, quorum))
        assert word == error.value.reason
    with pytest.raises(SettlementRefused):
        bench.chain.send(ANYONE.address, "change_validators", seventeen, 9, [])
    bench.chain.send(ANYONE.address, "change_validators", seventeen[:16], 16, signed_change(bench, seventeen[:16], 16))
    assert (tuple(seventeen[:16]), 16, 1) == bench.chain.call("validatorSet")


def signed_change(bench: SettlementBench, addresses: Sequence[bytes], quorum: int, nonce: int = 0) -> list[tuple[int, bytes, bytes]]:
    made: list[object] = list(addresses)
    return bench.sign(validator_change_digest(bench.chain.domain, made, quorum, nonce))  # type: ignore[arg-type] # also bytes that are no address


def test_a_change_needs_the_present_quorum_and_the_present_nonce(bench: SettlementBench) -> None:
    addresses = [key.address for key in bench.validators]
    for signatures, word in (
        (signed_change(bench, addresses, 2)[:2], "quorum"),
        (signed_change(bench, addresses, 1), "validator"),
        (signed_change(bench, addresses[:4], 2), "validator"),
        (signed_change(bench, addresses, 2, nonce=1), "validator"),
    ):
        with pytest.raises(SettlementRefused) as error:
            bench.chain.send(ANYONE.address, "change_validators", addresses, 2, signatures)
        assert word == error.value.reason
    signatures = signed_change(bench, addresses, 3)
    bench.chain.send(ANYONE.address, "change_validators", addresses, 3, signatures)
    with pytest.raises(SettlementRefused) as error:
        bench.chain.send(ANYONE.address, "change_validators", addresses, 3, signatures)
    assert "validator" == error.value.reason, "signed for the nonce before"


def test_a_validator_that_stays_keeps_its_right_and_one_that_goes_and_returns_has_signed_nothing(bench: SettlementBench) -> None:
    settle(bench, bench.validators)
    every = [key.address for key in bench.validators]
    bench.change_validators(every[1:], 3, bench.validators[:3])
    settle(bench, bench.validators[1:4])
    bench.change_validators(every, 3, bench.validators[1:4])
    settle(bench, bench.validators[:3])
    fill_pool(bench)
    paid = bench.chain.send(ANYONE.address, "pay_validators").only("ValidatorPaid")

    assert every[:3] == [event["wallet"] for event in paid]


# ---- deployment


def refusal_of_deployment(**changes: object) -> str:
    one, two = sorted(wallet_key(name).address for name in ("one", "two"))
    asked = {"fee_bps": 100, "validators": [one, two], "quorum": 2, "supply": 10**15, "subsidy": 10**14, "window_s": 3_600, "delay_s": 600}
    try:
        ContractChain(one, [*(asked | changes).values()])
    except SettlementRefused as error:
        return error.reason
    return ""


def test_a_contract_that_could_not_work_is_not_deployed() -> None:
    one, two = sorted(wallet_key(name).address for name in ("one", "two"))

    assert "" == refusal_of_deployment()
    assert "fee" == refusal_of_deployment(fee_bps=10_001)
    assert "supply" == refusal_of_deployment(supply=2**72)
    assert "supply" == refusal_of_deployment(supply=2**128 - 1)
    assert "subsidy" == refusal_of_deployment(subsidy=10**15 + 1)
    assert "window" == refusal_of_deployment(window_s=0)
    assert "window" == refusal_of_deployment(window_s=2**256 - 1)
    assert "delay" == refusal_of_deployment(delay_s=2**256 - 1)
    assert "quorum" == refusal_of_deployment(quorum=0)
    assert "quorum" == refusal_of_deployment(quorum=3)
    assert "order" == refusal_of_deployment(validators=[two, one])
    assert "order" == refusal_of_deployment(validators=[one, one])
    assert "order" == refusal_of_deployment(validators=[bytes(20), one])


@pytest.mark.parametrize("fee_bps", [0, 1, 10_000])
def test_every_fee_from_nothing_to_everything_keeps_the_sum(fee_bps: int) -> None:
    bench = SettlementBench(fee_bps=fee_bps, supply=2**72 - 1, subsidy=0)
    cap = 2**52 - 1
    bench.fund(CONSUMER, escrow=cap)
    terms = bench.terms(CONSUMER, [RELAY.address, ANYONE.address], prices=[2**64 - 1, 1], cap=cap)
    bench.open(terms)
    bench.settle([bench.claim(CONSUMER, terms, 2**128 - 1, 1)])
    bench.settle([bench.claim(CONSUMER, terms, 2**128 - 1, cap)])
    period = bench.chain.call("period")

    assert cap * fee_bps // 10_000 == bench.chain.call("lockedFees", period)
    assert fee_bps == bench.chain.call("feeBps")
    assert 2**72 - 1 == bench.total([CONSUMER.address, RELAY.address, ANYONE.address], [terms.session_id])
    bench.overturn(terms, cap, 0)
    assert 0 == bench.chain.call("lockedFees", period) == bench.chain.call("locked", RELAY.address, period)
    assert (cap, 0) == bench.chain.call("session", terms.session_id)[:2]


def test_fixed_settings_can_be_read(bench: SettlementBench) -> None:
    assert (100, 3_600, 600) == tuple(bench.chain.call(name) for name in ("feeBps", "windowS", "withdrawDelayS"))
    assert bench.chain.now_s // 3_600 == bench.chain.call("period")
    assert (tuple(key.address for key in bench.validators), 3, 0) == bench.chain.call("validatorSet")
