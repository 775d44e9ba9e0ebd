"""Path sessions: opened, paid, closed; every refusal with its word."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srwan.errors import SettlementRefused
from srwan.ledger_client.settlement.settlement import Claim, batch_digest
from srwan.ledger_client.settlement.signing import Address, WalletKey
from srwan.ledger_client.settlement.terms import UINT128_MAX, PathTerms, shares_of
from srwan.testing.contract_chain import CHAIN_ID, claim_argument, terms_argument
from srwan.testing.settlement_bench import FEE_BPS, GB_OCTETS, SUPPLY, SettlementBench, wallet_key

CONSUMER = wallet_key("consumer")
RELAYS = tuple(wallet_key(f"relay {number}").address for number in range(8))
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
CAP_MAX = 2**52 - 1


def opened(bench: SettlementBench, payees: int = 3, **changes: Any) -> PathTerms:
    bench.fund(CONSUMER, escrow=10**10)
    terms = attrs.evolve(bench.terms(CONSUMER, RELAYS[:payees]), **changes)
    bench.open(terms)
    return terms


def refusal(error: pytest.ExceptionInfo[SettlementRefused]) -> tuple[str, str]:
    return error.value.operation, error.value.reason


def raw(bench: SettlementBench, sender: WalletKey = CONSUMER, **changes: object) -> str:
    """The word with which terms that `PathTerms` itself would refuse are refused; empty if they are not."""
    names = ("consumer", "payees", "prices", "cap", "expires", "plan")
    good = terms_argument(bench.terms(CONSUMER, RELAYS[:2]))
    asked = tuple(changes.get(name, value) for name, value in zip(names, good, strict=True))
    try:
        bench.chain.send(sender.address, "open_session", asked)
    except SettlementRefused as error:
        return error.reason
    return ""


# ---- open


def test_opening_moves_the_cap_from_escrow_into_the_reserve_of_a_session_with_the_same_id(bench: SettlementBench) -> None:
    terms = opened(bench)

    assert (0, 10**10 - 10**9) == bench.chain.call("account", CONSUMER.address)[:2]
    assert (10**9, 0, bench.chain.now_s) == bench.chain.call("session", terms.session_id)
    assert SUPPLY == bench.total([CONSUMER.address], [terms.session_id])


def test_opening_says_so_once_and_opening_again_changes_nothing(bench: SettlementBench) -> None:
    bench.fund(CONSUMER, escrow=10**10)
    terms = bench.terms(CONSUMER, RELAYS[:3])
    first = bench.open(terms)
    bench.chain.now_s += 10
    second = bench.open(terms)

    assert [{"session": terms.session_id, "consumer": CONSUMER.address, "cap": 10**9}] == first.only("SessionOpened")
    assert () == second.events
    assert 10**10 - 10**9 == bench.chain.call("account", CONSUMER.address)[1]


def test_malformed_terms_are_refused(bench: SettlementBench) -> None:
    bench.fund(CONSUMER, escrow=10**10)
    one, two = RELAYS[:2]

    assert "consumer" == raw(bench, wallet_key("somebody else"))
    assert "payees" == raw(bench, payees=[], prices=[])
    assert "payees" == raw(bench, payees=[one, two], prices=[1])
    assert "payees" == raw(bench, payees=[one], prices=[1, 1])
    assert "payees" == raw(bench, payees=[one, two, one], prices=[1, 1, 1])
    assert "payees" == raw(bench, payees=[one, bytes(20)], prices=[1, 1])
    assert "price" == raw(bench, prices=[1, 2**64])
    assert "price" == raw(bench, prices=[UINT128_MAX, 1])
    assert "cap" == raw(bench, cap=0)
    assert "cap" == raw(bench, cap=CAP_MAX + 1)
    assert "cap" == raw(bench, cap=UINT128_MAX)
    assert "expired" == raw(bench, expires=bench.chain.now_s)
    assert "expired" == raw(bench, expires=0)
    assert "expires" == raw(bench, expires=bench.chain.now_s + 32_000 * bench.window_s + 1)
    assert "expires" == raw(bench, expires=2**64 - 1)
    assert "escrow" == raw(bench, cap=10**10 + 1)
    assert "" == raw(bench, cap=10**10, prices=[2**64 - 1, 0], expires=bench.chain.now_s + 32_000 * bench.window_s)


def test_nine_payees_do_not_fit(bench: SettlementBench) -> None:
    bench.fund(CONSUMER, escrow=10**10)
    nine = [*RELAYS, wallet_key("relay 8").address]

    with pytest.raises(SettlementRefused):
        bench.chain.send(CONSUMER.address, "open_session", (CONSUMER.address, nine, [1] * 9, 1, bench.chain.now_s + 9, bytes(32)))


def test_no_session_outlives_what_its_word_of_storage_can_hold(bench: SettlementBench) -> None:
    bench.fund(CONSUMER, escrow=10**10)
    bench.chain.now_s = 2**32 - 10

    assert "expires" == raw(bench, expires=2**32)
    assert "" == raw(bench, expires=2**32 - 1)


# ---- settle


def test_a_claim_is_paid_less_the_fee_and_split_as_the_terms_say(bench: SettlementBench) -> None:
    terms = opened(bench, prices_microtoken=(5_000_000, 3_000_000, 2_000_001))
    receipt = bench.settle([bench.claim(CONSUMER, terms, GB_OCTETS + 7)])
    period = bench.chain.call("period")
    paid = 10_000_001  # and 7 octets, which cost less than a microtoken
    fee = paid * FEE_BPS // 10_000

    assert [{"session": terms.session_id, "consumer": CONSUMER.address, "octets": GB_OCTETS + 7, "paid": paid, "fee": fee}] == receipt.only(
        "Settled"
    )
    assert list(shares_of(paid - fee, terms.prices_microtoken)) == [bench.chain.call("locked", payee, period) for payee in RELAYS[:3]]
    assert fee == bench.chain.call("lockedFees", period)
    assert (10**9 - paid, paid) == bench.chain.call("session", terms.session_id)[:2]
    assert SUPPLY == bench.total([CONSUMER.address, *RELAYS], [terms.session_id])


def test_tickets_are_cumulative_and_the_same_ticket_pays_nothing_twice(bench: SettlementBench) -> None:
    terms = opened(bench)
    first, second = bench.claim(CONSUMER, terms, GB_OCTETS), bench.claim(CONSUMER, terms, 3 * GB_OCTETS)
    bench.settle([first])
    again = bench.settle([first])
    more = bench.settle([second, first, second])

    assert [] == again.only("Settled")
    assert [2 * 9_900_000] == [event["paid"] for event in more.only("Settled")]
    assert 3 * 9_900_000 == bench.chain.call("session", terms.session_id)[1]


def test_what_a_session_pays_in_one_period_is_split_as_if_it_were_one_payment(bench: SettlementBench) -> None:
    terms = opened(bench, prices_microtoken=(0, 1, 1))
    for amount in (1, 2, 99, 101, 250):
        bench.settle([bench.claim(CONSUMER, terms, 1_000 * GB_OCTETS, amount)])
    period = bench.chain.call("period")

    assert 250 * FEE_BPS // 10_000 == bench.chain.call("lockedFees", period)
    assert [0, 124, 124] == [bench.chain.call("locked", payee, period) for payee in RELAYS[:3]]


def test_claims_beyond_price_cap_or_time_are_refused(bench: SettlementBench) -> None:
    terms = opened(bench)

    for claim, word in (
        (bench.claim(CONSUMER, terms, GB_OCTETS, 9_900_001), "price"),
        (bench.claim(CONSUMER, terms, 0, 1), "price"),
        (bench.claim(CONSUMER, terms, UINT128_MAX, 10**9 + 1), "cap"),
        (bench.claim(CONSUMER, terms, UINT128_MAX, UINT128_MAX), "cap"),
        (bench.claim(CONSUMER, attrs.evolve(terms, cap_microtoken=10**9 + 1), GB_OCTETS), "closed"),
    ):
        with pytest.raises(SettlementRefused) as error:
            bench.settle([claim])
        assert ("settle", word) == refusal(error)
    bench.settle([bench.claim(CONSUMER, terms, UINT128_MAX, 10**9)])

    assert (0, 10**9) == bench.chain.call("session", terms.session_id)[:2]


def test_claims_are_taken_for_one_window_after_expiry(bench: SettlementBench) -> None:
    terms = opened(bench)
    bench.chain.now_s = terms.expires_s + bench.window_s
    bench.settle([bench.claim(CONSUMER, terms, GB_OCTETS)])
    bench.chain.now_s += 1
    assert [] == bench.settle([bench.claim(CONSUMER, terms, GB_OCTETS)]).only("Settled"), "claims nothing new: passed over"

    with pytest.raises(SettlementRefused) as error:
        bench.settle([bench.claim(CONSUMER, terms, 2 * GB_OCTETS)])
    assert ("settle", "expired") == refusal(error)


def test_a_session_without_a_price_pays_nothing(bench: SettlementBench) -> None:
    terms = opened(bench, prices_microtoken=(0, 0, 0))

    assert [] == bench.settle([bench.claim(CONSUMER, terms, GB_OCTETS)]).only("Settled")
    with pytest.raises(SettlementRefused) as error:
        bench.settle([bench.claim(CONSUMER, terms, UINT128_MAX, 1)])
    assert ("settle", "price") == refusal(error)


def test_a_ticket_that_the_consumer_did_not_sign_is_refused(bench: SettlementBench) -> None:
    terms = opened(bench)
    claim = bench.claim(CONSUMER, terms, GB_OCTETS)
    signature = claim.ticket.signature
    s = int.from_bytes(signature[32:64], "big")
    twin = signature[:32] + (ORDER - s).to_bytes(32, "big") + bytes([55 - signature[64]])
    other_chain = SettlementBench(quorum=1)
    other_chain.chain.chain_id = CHAIN_ID + 1

    for forged in (
        bench.claim(wallet_key("thief"), terms, GB_OCTETS).ticket,
        attrs.evolve(claim.ticket, amount_microtoken=claim.ticket.amount_microtoken - 1),
        attrs.evolve(claim.ticket, octets=claim.ticket.octets + 1),
        attrs.evolve(claim.ticket, signature=bytes(65)),
        attrs.evolve(claim.ticket, signature=signature[:64] + b"\x00"),
        attrs.evolve(claim.ticket, signature=b"\xff" * 32 + signature[32:]),
        attrs.evolve(claim.ticket, signature=twin),
        other_chain.claim(CONSUMER, terms, GB_OCTETS).ticket,
    ):
        with pytest.raises(SettlementRefused) as error:
            bench.settle([Claim(terms, forged)])
        assert ("settle", "signature") == refusal(error)


def test_a_copy_of_the_chain_under_another_id_takes_no_signature_of_this_one(bench: SettlementBench) -> None:
    terms = opened(bench)
    claims = [bench.claim(CONSUMER, terms, GB_OCTETS)]
    signatures = bench.sign(batch_digest(bench.chain.domain, claims))
    bench.chain.chain_id = CHAIN_ID + 1
    try:
        with pytest.raises(SettlementRefused) as error:
            bench.chain.send(bench.founder.address, "settle", [claim_argument(claim) for claim in claims], signatures)
        assert ("settle", "signature") == refusal(error)
        bench.settle([bench.claim(CONSUMER, terms, GB_OCTETS)])  # signed for the copy, it is the copy's
    finally:
        bench.chain.chain_id = CHAIN_ID


def test_one_bad_claim_of_a_batch_pays_nobody(bench: SettlementBench) -> None:
    terms = opened(bench)
    with pytest.raises(SettlementRefused):
        bench.settle([bench.claim(CONSUMER, terms, GB_OCTETS), bench.claim(CONSUMER, terms, GB_OCTETS, 10**8)])

    assert 0 == bench.chain.call("session", terms.session_id)[1]
    assert 0 == bench.chain.call("locked", RELAYS[0], bench.chain.call("period"))


def test_an_empty_batch_and_one_of_65_are_refused(bench: SettlementBench) -> None:
    terms = opened(bench)
    with pytest.raises(SettlementRefused) as error:
        bench.settle([])
    assert ("settle", "empty") == refusal(error)
    with pytest.raises(SettlementRefused):
        bench.settle([bench.claim(CONSUMER, terms, GB_OCTETS)] * 65)
    bench.settle([bench.claim(CONSUMER, terms, GB_OCTETS)] * 64)

    assert 9_900_000 == bench.chain.call("session", terms.session_id)[1]


def test_batches_need_a_quorum_of_validators_each_once_in_rising_order(bench: SettlementBench) -> None:
    terms = opened(bench)
    claim = bench.claim(CONSUMER, terms, GB_OCTETS)
    one, two, three, four, five = bench.validators

    for signers, word in (
        ([], "quorum"),
        ([one, two], "quorum"),
        ([one, one, one], "order"),
        ([one, two, two], "order"),
        ([three, two, one], "order"),
        ([one, two, wallet_key("impostor")], "validator"),
        ([one, two, CONSUMER], "validator"),
    ):
        with pytest.raises(SettlementRefused) as error:
            bench.settle([claim], signers)
        assert ("settle", word) == refusal(error)
    bench.settle([claim], [one, three, five])
    bench.settle([bench.claim(CONSUMER, terms, 2 * GB_OCTETS)], [one, two, three, four, five])

    assert 2 * 9_900_000 == bench.chain.call("session", terms.session_id)[1]


def test_signatures_for_another_batch_or_another_order_of_claims_are_refused(bench: SettlementBench) -> None:
    terms = opened(bench)
    claims = [bench.claim(CONSUMER, terms, GB_OCTETS), bench.claim(CONSUMER, terms, 2 * GB_OCTETS)]
    arguments = [claim_argument(claim) for claim in claims]
    signatures = bench.sign(batch_digest(bench.chain.domain, claims))

    for wrong in (arguments[:1], arguments[1:], arguments[::-1], [*arguments, arguments[1]]):
        with pytest.raises(SettlementRefused) as error:
            bench.chain.send(bench.founder.address, "settle", wrong, signatures)
        assert ("settle", "validator") == refusal(error)
    bench.chain.send(bench.founder.address, "settle", arguments, signatures)


@settings(max_examples=25)
@given(
    prices=st.lists(st.one_of(st.integers(0, 5), st.integers(0, 2**64 - 1)), min_size=1, max_size=8),
    parts=st.lists(st.one_of(st.integers(1, 300), st.integers(1, 2**50)), min_size=1, max_size=4),
)
def test_payees_get_their_shares_of_any_amount_to_the_last_unit(deployed: SettlementBench, prices: list[int], parts: list[int]) -> None:
    bench = deployed
    snapshot = bench.chain.snapshot()
    try:
        cap = min(sum(parts), CAP_MAX, SUPPLY // 2)
        bench.fund(CONSUMER, escrow=cap)
        terms = bench.terms(CONSUMER, RELAYS[: len(prices)], prices=[*prices[:-1], prices[-1] or 1], cap=cap)
        bench.open(terms)
        owed = 0
        for part in parts:
            owed = min(owed + part, cap)
            bench.settle([bench.claim(CONSUMER, terms, UINT128_MAX, owed)])
        fee = owed * FEE_BPS // 10_000
        period = bench.chain.call("period")

        assert list(shares_of(owed - fee, terms.prices_microtoken)) == [bench.chain.call("locked", payee, period) for payee in terms.payees]
        assert fee == bench.chain.call("lockedFees", period)
    finally:
        bench.chain.revert(snapshot)


# ---- close


def test_anyone_may_close_two_windows_after_expiry_and_the_rest_is_the_consumers(bench: SettlementBench) -> None:
    terms = opened(bench)
    bench.settle([bench.claim(CONSUMER, terms, GB_OCTETS)])
    bench.chain.now_s = terms.expires_s + 2 * bench.window_s
    with pytest.raises(SettlementRefused) as error:
        bench.close(terms)
    assert ("close_session", "early") == refusal(error)
    bench.chain.now_s += 1
    receipt = bench.close(terms)

    assert 10**9 - 9_900_000 == receipt.output
    assert [{"session": terms.session_id, "returned": 10**9 - 9_900_000}] == receipt.only("SessionClosed")
    assert 10**10 - 9_900_000 == bench.chain.call("account", CONSUMER.address)[1]
    assert (0, 0, 0) == bench.chain.call("session", terms.session_id)


def test_a_closed_session_can_neither_be_closed_nor_paid_nor_opened_again(bench: SettlementBench) -> None:
    terms = opened(bench)
    bench.chain.now_s = terms.expires_s + 2 * bench.window_s + 1
    bench.close(terms)
    claim = bench.claim(CONSUMER, terms, GB_OCTETS)

    refusals: list[tuple[Callable[[], object], str]] = [
        (lambda: bench.close(terms), "closed"),
        (lambda: bench.settle([claim]), "closed"),
        (lambda: bench.overturn(terms, 1, 0), "closed"),
        (lambda: bench.open(terms), "expired"),
    ]
    for action, word in refusals:
        with pytest.raises(SettlementRefused) as error:
            action()
        assert word == error.value.reason


def test_a_session_with_a_payment_that_is_open_to_dispute_stays_open(bench: SettlementBench) -> None:
    bench.wait_windows(1)
    bench.chain.now_s += 1
    terms = opened(bench, expires_s=bench.chain.now_s + bench.window_s)
    bench.chain.now_s = terms.expires_s + bench.window_s  # the second of a period, and the last one for claims
    bench.settle([bench.claim(CONSUMER, terms, GB_OCTETS)])
    bench.chain.now_s = terms.expires_s + 2 * bench.window_s + 1
    with pytest.raises(SettlementRefused) as error:
        bench.close(terms)
    assert ("close_session", "early") == refusal(error)
    bench.overturn(terms, 9_900_000, 0)
    bench.wait_windows(1)
    bench.close(terms)

    assert 10**10 == bench.chain.call("account", CONSUMER.address)[1]


def test_two_sessions_cannot_reserve_the_same_escrow(bench: SettlementBench) -> None:
    bench.fund(CONSUMER, escrow=10**9)
    bench.open(bench.terms(CONSUMER, RELAYS[:1], plan=b"first"))
    with pytest.raises(SettlementRefused) as error:
        bench.open(bench.terms(CONSUMER, RELAYS[:1], plan=b"second", cap=1))
    assert ("open_session", "escrow") == refusal(error)


def test_addresses_come_back_as_addresses(bench: SettlementBench) -> None:
    terms = opened(bench)
    (event,) = bench.settle([bench.claim(CONSUMER, terms, GB_OCTETS)]).only("Settled")

    assert isinstance(event["consumer"], Address)
