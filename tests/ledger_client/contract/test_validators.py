"""Who signs batches, how they are paid and replaced, and with what a contract can be deployed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from srwan.errors import SettlementRefused
from srwan.ledger_client.settlement.settlement import validator_change_digest
from srwan.ledger_client.settlement.signing import WalletKey
from srwan.testing.contract_chain import ContractChain, Receipt
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


def paid_to(receipt: Receipt) -> list[tuple[bytes, int]]:
    return [(event["wallet"], event["amount"]) for event in receipt.only("ValidatorPaid")]


def test_all_are_paid_in_equal_parts_whoever_signed_and_however_often(bench: SettlementBench) -> None:
    one, two, three, four, _ = bench.validators
    settle(bench, [one, two, three])
    for _ in range(3):
        settle(bench, [one, two, four])
    pool = fill_pool(bench)
    receipt = bench.chain.send(ANYONE.address, "pay_validators")

    assert [(key.address, pool // 5) for key in bench.validators] == paid_to(receipt)
    assert [pool // 5] * 5 == [bench.balance(key.address) for key in bench.validators]
    assert (pool // 5 * 5, pool % 5) == (receipt.output, bench.chain.call("pools")[0])


def test_no_batch_of_a_validators_own_changes_what_any_of_them_is_paid(bench: SettlementBench) -> None:
    bench.fund(CONSUMER, escrow=10**9)
    terms = bench.terms(CONSUMER, [RELAY.address])
    bench.open(terms)
    start, paid = bench.chain.snapshot(), list[list[tuple[bytes, int]]]()
    for signers in ([], bench.validators[:3], bench.validators[2:], bench.validators):
        bench.chain.revert(start)
        if signers:
            bench.settle([bench.claim(CONSUMER, terms, GB_OCTETS, 1)], signers)
        fill_pool(bench)
        paid.append(paid_to(bench.chain.send(ANYONE.address, "pay_validators")))

    assert [paid[0]] * 4 == paid
    assert 5 == len(paid[0])


def test_windows_without_a_batch_are_paid_too_and_several_at_once(bench: SettlementBench) -> None:
    bench.chain.now_s += bench.window_s
    bench.chain.send(ANYONE.address, "release_subsidy")
    first = bench.chain.send(ANYONE.address, "pay_validators").output
    bench.chain.now_s += 3 * bench.window_s
    bench.chain.send(ANYONE.address, "release_subsidy")
    second = bench.chain.send(ANYONE.address, "pay_validators").output

    assert 0 < first
    assert 0 <= second - 3 * first <= 20, "rounding, of subsidy and parts"
    assert "early" == refusal_of_payout(bench)


def test_validators_are_paid_once_a_window_at_most(bench: SettlementBench) -> None:
    fill_pool(bench)
    bench.chain.send(ANYONE.address, "pay_validators")
    settle(bench, bench.validators)
    bench.chain.now_s += bench.window_s - 1
    bench.chain.send(ANYONE.address, "release_subsidy")
    assert "early" == refusal_of_payout(bench)
    bench.chain.now_s += 1
    bench.chain.send(ANYONE.address, "pay_validators")
    bench.chain.now_s += bench.window_s

    assert "nothing" == refusal_of_payout(bench), "nothing came in since"


def test_what_a_validator_is_paid_votes_as_the_rest_of_its_balance_does(bench: SettlementBench) -> None:
    bench.chain.send(bench.validators[1].address, "vote", RELAY.address)
    pool = fill_pool(bench)
    bench.chain.send(ANYONE.address, "pay_validators")

    assert pool // 5 == bench.chain.call("account", RELAY.address)[5]


def test_a_pool_that_gives_nobody_a_microtoken_waits(bench: SettlementBench) -> None:
    bench.chain.now_s += bench.window_s
    assert 0 == bench.chain.call("pools")[0]
    assert "nothing" == refusal_of_payout(bench)
    bench.fund(CONSUMER, escrow=10**9)
    terms = bench.terms(CONSUMER, [RELAY.address])
    bench.open(terms)
    for microtoken, left in ((1_600, 4), (2_000, 5)):
        bench.settle([bench.claim(CONSUMER, terms, GB_OCTETS, microtoken)])
        bench.wait_windows(2)
        bench.chain.send(ANYONE.address, "collect_fees", bench.chain.call("period") - 2)
        assert left == bench.chain.call("pools")[0]
        if left < 5:
            assert "nothing" == refusal_of_payout(bench)

    assert [(key.address, 1) for key in bench.validators] == paid_to(bench.chain.send(ANYONE.address, "pay_validators"))


# ---- change


def test_a_quorum_replaces_the_validators_who_are_all_paid_before(bench: SettlementBench) -> None:
    old, new = bench.validators, sorted((wallet_key(f"new {number}") for number in range(2)), key=lambda key: key.address)
    settle(bench, old[:3])
    fill_pool(bench)
    bench.chain.send(ANYONE.address, "pay_validators")
    bench.chain.now_s += bench.window_s // 2
    bench.chain.send(ANYONE.address, "release_subsidy")
    pool = bench.chain.call("pools")[0]
    receipt = bench.change_validators([key.address for key in new], 2)

    assert [{"quorum": 2, "nonce": 1}] == receipt.only("ValidatorsChanged")
    assert [(key.address, pool // 5) for key in old] == paid_to(receipt), "the window does not bind a change"
    assert (tuple(key.address for key in new), 2, 1) == bench.chain.call("validatorSet")
    with pytest.raises(SettlementRefused) as error:
        settle(bench, old[:3])
    assert "validator" == error.value.reason
    settle(bench, new)


def test_what_comes_into_the_pool_after_a_change_is_the_new_ones(bench: SettlementBench) -> None:
    """Also fees of batches that the old ones signed, and the subsidy that nobody had released: what is not in the pool is nobody's yet."""
    new = sorted((wallet_key(f"new {number}") for number in range(2)), key=lambda key: key.address)
    settle(bench, bench.validators[:3])
    period = bench.chain.call("period")
    bench.chain.now_s += bench.window_s - 1
    assert [] == paid_to(bench.change_validators([key.address for key in new], 2)), "the pool is empty"
    bench.wait_windows(2)
    bench.chain.send(ANYONE.address, "collect_fees", period)
    bench.chain.send(ANYONE.address, "release_subsidy")
    pool = bench.chain.call("pools")[0]

    assert 33_000 // 4 < pool
    assert [(key.address, pool // 2) for key in new] == paid_to(bench.chain.send(ANYONE.address, "pay_validators"))


def test_a_change_that_pays_begins_a_window_and_one_that_pays_nothing_does_not(bench: SettlementBench) -> None:
    every = [key.address for key in bench.validators]
    bench.chain.now_s += bench.window_s // 2
    bench.change_validators(every, 3)
    bench.chain.now_s += bench.window_s // 2
    bench.chain.send(ANYONE.address, "release_subsidy")
    bench.chain.send(ANYONE.address, "pay_validators")
    bench.chain.now_s += bench.window_s // 2
    bench.chain.send(ANYONE.address, "release_subsidy")
    assert 5 == len(paid_to(bench.change_validators(every, 3)))
    bench.chain.now_s += bench.window_s - 1
    bench.chain.send(ANYONE.address, "release_subsidy")
    assert "early" == refusal_of_payout(bench)
    bench.chain.now_s += 1
    bench.chain.send(ANYONE.address, "pay_validators")


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


def test_a_validator_that_goes_and_returns_is_not_paid_for_the_time_between(bench: SettlementBench) -> None:
    every = [key.address for key in bench.validators]
    pools = [fill_pool(bench)]
    bench.change_validators(every[1:], 3, bench.validators[1:4])
    pools.append(fill_pool(bench))
    paid = paid_to(bench.change_validators(every, 3, bench.validators[1:4]))
    pools.append(fill_pool(bench))
    bench.chain.send(ANYONE.address, "pay_validators")

    assert [(wallet, pools[1] // 4) for wallet in every[1:]] == paid
    assert pools[0] // 5 + pools[2] // 5 == bench.balance(every[0])
    assert {pools[0] // 5 + pools[1] // 4 + pools[2] // 5} == {bench.balance(wallet) for wallet in every[1:]}


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
