"""Payments that are taken back within the dispute window, earnings and fees that are collected after it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srwan.errors import SettlementRefused
from srwan.ledger_client.settlement.terms import UINT128_MAX, PathTerms, shares_of
from srwan.testing.contract_chain import terms_argument
from srwan.testing.settlement_bench import FEE_BPS, GB_OCTETS, SUPPLY, SettlementBench, wallet_key

CONSUMER = wallet_key("consumer")
RELAYS = tuple(wallet_key(f"relay {number}").address for number in range(3))
EVERYBODY = [CONSUMER.address, *RELAYS]
PRICE = 9_900_000


def opened(bench: SettlementBench, **options: Sequence[int]) -> PathTerms:
    """A session that begins with a period, and lives for a day."""
    bench.fund(CONSUMER, escrow=10**10)
    bench.wait_windows(1)
    terms = bench.terms(CONSUMER, RELAYS, **options)  # type: ignore[arg-type] # prices only
    bench.open(terms)
    return terms


def pay(bench: SettlementBench, terms: PathTerms, amount: int) -> None:
    bench.settle([bench.claim(CONSUMER, terms, UINT128_MAX, amount)])


def places(bench: SettlementBench) -> list[tuple[int, ...]]:
    """Earnings of every relay and the fees, by period, in the order of `earnings`."""
    return [bench.chain.call("earnings", wallet)[:3] for wallet in [*RELAYS, bytes(20)]]


def word_of(bench: SettlementBench, function: str, *arguments: object) -> str:
    with pytest.raises(SettlementRefused) as error:
        bench.chain.send(bench.founder.address, function, *arguments)
    return error.value.reason


def test_an_overturned_payment_goes_back_to_the_unit_from_every_payee_and_the_fees(bench: SettlementBench) -> None:
    terms = opened(bench, prices=(7, 5, 1))
    pay(bench, terms, 1_001)
    pay(bench, terms, 2_005)
    receipt = bench.overturn(terms, 2_005, 777, evidence=b"\x07" * 32)
    net = 777 - 777 * FEE_BPS // 10_000

    assert [{"session": terms.session_id, "returned": 1_228, "evidence": b"\x07" * 32}] == receipt.only("Overturned")
    assert 1_228 == receipt.output
    assert (10**9 - 777, 777) == bench.chain.call("session", terms.session_id)[:2]
    assert [*shares_of(net, terms.prices_microtoken), 777 - net] == [held[2] for held in places(bench)]
    assert SUPPLY == bench.total(EVERYBODY, [terms.session_id])


def test_an_overturned_session_is_paid_no_more_whoever_signed(bench: SettlementBench) -> None:
    terms = opened(bench)
    old, newer = bench.claim(CONSUMER, terms, GB_OCTETS), bench.claim(CONSUMER, terms, 2 * GB_OCTETS)
    bench.settle([old])
    assert not bench.chain.call("isOverturned", terms.session_id)
    bench.overturn(terms, PRICE, 0)

    assert bench.chain.call("isOverturned", terms.session_id)
    assert () == bench.settle([old]).events, "the batch that was overturned, again"
    assert () == bench.settle([newer]).events
    assert (10**9, 0) == bench.chain.call("session", terms.session_id)[:2]


def test_an_overturned_session_can_be_overturned_further_but_never_back(bench: SettlementBench) -> None:
    terms = opened(bench)
    pay(bench, terms, 5_000)
    bench.overturn(terms, 5_000, 3_000)
    bench.overturn(terms, 3_000, 1)

    assert 1 == bench.chain.call("session", terms.session_id)[1]
    for keep in (1, 2, UINT128_MAX):
        with pytest.raises(SettlementRefused) as error:
            bench.overturn(terms, 1, keep)
        assert "keep" == error.value.reason


def test_a_session_overturned_into_the_last_period_can_be_overturned_further(bench: SettlementBench) -> None:
    terms = opened(bench, prices=(1, 1, 1))
    pay(bench, terms, 1_000)
    bench.wait_windows(1)
    pay(bench, terms, 2_000)
    bench.overturn(terms, 2_000, 800)
    bench.overturn(terms, 800, 301)

    assert [(0, 100, 0), (0, 99, 0), (0, 99, 0), (0, 3, 0)] == places(bench)
    assert SUPPLY == bench.total(EVERYBODY, [terms.session_id])


def test_payments_of_this_and_the_last_period_can_be_overturned_together(bench: SettlementBench) -> None:
    terms = opened(bench, prices=(3, 2, 2))
    pay(bench, terms, 1_000)
    bench.wait_windows(1)
    pay(bench, terms, 2_500)
    bench.wait_windows(1)
    pay(bench, terms, 4_000)
    with pytest.raises(SettlementRefused) as error:
        bench.overturn(terms, 4_000, 999)
    assert "final" == error.value.reason, "two periods ago"
    bench.overturn(terms, 4_000, 1_700)
    first, kept = 1_000 - 10, 700 - 7

    assert [*zip(shares_of(first, (3, 2, 2)), shares_of(kept, (3, 2, 2)), (0, 0, 0), strict=True), (10, 7, 0)] == places(bench)
    assert SUPPLY == bench.total(EVERYBODY, [terms.session_id])


def test_a_payment_is_final_when_the_period_after_it_has_ended(bench: SettlementBench) -> None:
    terms = opened(bench)
    pay(bench, terms, 5_000)
    bench.wait_windows(2)
    with pytest.raises(SettlementRefused) as error:
        bench.overturn(terms, 5_000, 0)
    assert "final" == error.value.reason
    pay(bench, terms, 6_000)
    with pytest.raises(SettlementRefused) as error:
        bench.overturn(terms, 6_000, 4_999)
    assert "final" == error.value.reason
    bench.overturn(terms, 6_000, 5_000)


def test_only_a_quorum_can_overturn_and_only_from_what_is_settled_now(bench: SettlementBench) -> None:
    terms = opened(bench)
    pay(bench, terms, 5_000)

    for settled, signers, word in ((5_000, bench.validators[:2], "quorum"), (4_999, bench.validators[:3], "validator")):
        with pytest.raises(SettlementRefused) as error:
            bench.overturn(terms, settled, 0, signers=signers)
        assert word == error.value.reason
    bench.overturn(terms, 5_000, 100)
    with pytest.raises(SettlementRefused) as error:
        bench.overturn(terms, 5_000, 0)
    assert "validator" == error.value.reason, "signatures for what was settled before"
    assert "closed" == word_of(bench, "overturn", terms_argument(bench.terms(CONSUMER, RELAYS, plan=b"other")), 0, bytes(32), [])


def test_an_overturn_takes_nothing_of_what_other_sessions_paid(bench: SettlementBench) -> None:
    terms = opened(bench)
    other = bench.terms(CONSUMER, RELAYS[::-1], plan=b"other")
    bench.open(other)
    pay(bench, other, 3_333)
    before = places(bench)
    pay(bench, terms, 1_111)
    bench.wait_windows(1)
    pay(bench, terms, 4_444)
    bench.overturn(terms, 4_444, 0)

    assert [held[2] for held in before] == [held[1] for held in places(bench)]
    assert [0] * 4 == [held[2] for held in places(bench)]


@settings(max_examples=10)
@given(
    steps=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 400)), min_size=1, max_size=6),
    keep=st.integers(0, 2_000),
    prices=st.lists(st.integers(0, 9), min_size=3, max_size=3).filter(any),
)
def test_an_overturn_leaves_what_would_be_there_if_no_more_had_been_settled(
    deployed: SettlementBench, steps: list[tuple[int, int]], keep: int, prices: list[int]
) -> None:
    def after(limit: int) -> tuple[PathTerms, int]:
        """Settle all steps, up to a limit of the amount."""
        terms = opened(bench, prices=prices)
        owed = settled = 0
        for windows, more in steps:
            bench.wait_windows(windows)
            owed += more
            if min(owed, limit) > settled:
                settled = min(owed, limit)
                pay(bench, terms, settled)
        return terms, settled

    bench = deployed
    snapshot = bench.chain.snapshot()
    try:
        after(keep)
        expected = [sum(held) for held in places(bench)]
        bench.chain.revert(snapshot)
        terms, settled = after(UINT128_MAX)
        said = ""
        if settled > keep:
            try:
                bench.overturn(terms, settled, keep)
            except SettlementRefused as error:
                said = error.reason
        assert "final" == said or ("" == said and expected == [sum(held) for held in places(bench)])
        assert SUPPLY == bench.total(EVERYBODY, [terms.session_id])
    finally:
        bench.chain.revert(snapshot)


# ---- collect


def test_earnings_and_fees_can_be_collected_when_they_cannot_be_overturned_any_more(bench: SettlementBench) -> None:
    terms = opened(bench)
    pay(bench, terms, 10_000)
    period = bench.chain.call("period")
    for _ in range(2):
        assert "early" == word_of(bench, "collect", RELAYS[1], period)
        assert "early" == word_of(bench, "collect_fees", period)
        bench.wait_windows(1)
    earned, fees = (
        bench.chain.send(CONSUMER.address, "collect", RELAYS[1], period),
        bench.chain.send(CONSUMER.address, "collect_fees", period),
    )

    assert [{"wallet": RELAYS[1], "period": period, "amount": 3_300}] == earned.only("Collected")
    assert [{"period": period, "amount": 100}] == fees.only("FeesCollected")
    assert (3_300, 3_300, 100) == (earned.output, bench.balance(RELAYS[1]), fees.output)
    assert (25, 75) == bench.chain.call("pools")[:2]
    assert (0, 0) == (bench.chain.call("locked", RELAYS[1], period), bench.chain.call("lockedFees", period))
    assert SUPPLY == bench.total(EVERYBODY, [terms.session_id])


def test_collecting_twice_pays_once(bench: SettlementBench) -> None:
    terms = opened(bench)
    pay(bench, terms, 10_000)
    period = bench.chain.call("period")
    bench.wait_windows(2)
    bench.chain.send(RELAYS[0], "collect", RELAYS[0], period)
    again = bench.chain.send(RELAYS[0], "collect", RELAYS[0], period)

    assert (0, ()) == (again.output, again.events)
    assert 3_300 == bench.balance(RELAYS[0])


def test_no_period_is_so_far_off_that_it_could_be_collected(bench: SettlementBench) -> None:
    for period in (2**40, 2**255, 2**256 - 1):
        assert "early" == word_of(bench, "collect", RELAYS[0], period)
        assert "early" == word_of(bench, "collect_fees", period)
        assert 0 == bench.chain.call("locked", RELAYS[0], period)


def test_nobody_collects_the_fees_as_if_they_were_a_wallets(bench: SettlementBench) -> None:
    terms = opened(bench)
    pay(bench, terms, 10_000)
    period = bench.chain.call("period")
    bench.wait_windows(2)

    assert "address" == word_of(bench, "collect", bytes(20), period)
    assert 100 == bench.chain.call("lockedFees", period)


def test_earnings_are_shown_by_period_and_old_ones_with_those_of_two_periods_before_the_last(bench: SettlementBench) -> None:
    terms = opened(bench, prices=(1, 0, 0))
    first = bench.chain.call("period")
    for period, amount in ((first, 1_000), (first + 1, 3_000), (first + 2, 6_000), (first + 6, 10_000)):
        bench.wait_windows(period - bench.chain.call("period"))
        pay(bench, terms, amount)
    shown = [bench.chain.call("locked", RELAYS[0], period) for period in range(first - 1, first + 8)]

    assert [0, 0, 0, 0, 0, 990 + 1_980 + 2_970, 0, 3_960, 0] == shown
    assert (5_940, 0, 3_960, first + 6) == bench.chain.call("earnings", RELAYS[0])


def test_collecting_a_period_takes_those_before_it_and_leaves_those_after_it(bench: SettlementBench) -> None:
    terms = opened(bench, prices=(1, 0, 0))
    first = bench.chain.call("period")
    for number, amount in enumerate(itertools.accumulate((1_000, 2_000, 4_000, 8_000))):
        bench.wait_windows(first + number - bench.chain.call("period"))
        pay(bench, terms, amount)
    bench.wait_windows(5)
    took = [bench.chain.send(CONSUMER.address, "collect", RELAYS[0], first + number).output for number in (1, 2, 3)]

    assert [990 + 1_980, 3_960, 7_920] == took


def test_earnings_count_as_votes_from_the_moment_they_are_collected(bench: SettlementBench) -> None:
    terms = opened(bench)
    bench.chain.send(RELAYS[0], "vote", CONSUMER.address)
    pay(bench, terms, 10_000)
    period = bench.chain.call("period")
    bench.wait_windows(2)
    assert 0 == bench.chain.call("account", CONSUMER.address)[5]
    bench.chain.send(CONSUMER.address, "collect", RELAYS[0], period)

    assert 3_300 == bench.chain.call("account", CONSUMER.address)[5]
