"""Balances, escrow, bindings, subsidy, votes and the dividend; every refusal with its word."""

from __future__ import annotations

import pytest

from srwan.errors import SettlementRefused
from srwan.ledger_client.settlement.signing import Address, WalletKey
from srwan.testing.contract_chain import signature_argument
from srwan.testing.settlement_bench import SUBSIDY, SUPPLY, WITHDRAW_DELAY_S, SettlementBench, wallet_key
from srwan.types import NodeId

ALICE, BOB, CAROL = (wallet_key(name) for name in ("alice", "bob", "carol"))
UINT256_MAX = 2**256 - 1
YEAR_S = 365 * 86_400
NODE = NodeId(b"\x05" * 32)


def word_of(bench: SettlementBench, key: WalletKey, function: str, *arguments: object) -> str:
    """The word with which a call is refused; empty if it is not."""
    try:
        bench.chain.send(key.address, function, *arguments)
    except SettlementRefused as error:
        return error.reason
    return ""


def votes(bench: SettlementBench, key: WalletKey) -> int:
    return int(bench.chain.call("account", key.address)[5])


# ---- balances and escrow


def test_the_founder_has_the_supply_less_the_subsidy(bench: SettlementBench) -> None:
    assert SUPPLY - SUBSIDY == bench.balance(bench.founder.address)
    assert (0, 0, SUBSIDY) == bench.chain.call("pools")
    assert SUPPLY == bench.chain.call("supply") == bench.total([], [])


def test_a_transfer_moves_what_there_is_and_no_more(bench: SettlementBench) -> None:
    bench.fund(ALICE, balance=100)
    for amount in (101, 2**128 - 1, UINT256_MAX):
        assert "balance" == word_of(bench, ALICE, "transfer", BOB.address, amount)
    receipt = bench.chain.send(ALICE.address, "transfer", BOB.address, 100)

    assert [{"sender": ALICE.address, "receiver": BOB.address, "amount": 100}] == receipt.only("Transfer")
    assert (0, 100) == (bench.balance(ALICE.address), bench.balance(BOB.address))
    assert "balance" == word_of(bench, ALICE, "transfer", BOB.address, 1)
    assert "" == word_of(bench, ALICE, "transfer", BOB.address, 0)
    assert "address" == word_of(bench, BOB, "transfer", Address(bytes(20)), 1)


def test_a_transfer_to_oneself_changes_nothing(bench: SettlementBench) -> None:
    bench.fund(ALICE, balance=100)
    bench.chain.send(ALICE.address, "vote", BOB.address)
    bench.chain.send(ALICE.address, "transfer", ALICE.address, 100)

    assert (100, 100) == (bench.balance(ALICE.address), votes(bench, BOB))


def test_a_deposit_moves_what_there_is_and_no_more(bench: SettlementBench) -> None:
    bench.fund(ALICE, balance=100)
    assert "balance" == word_of(bench, ALICE, "deposit", 101)
    assert "balance" == word_of(bench, ALICE, "deposit", UINT256_MAX)
    receipt = bench.chain.send(ALICE.address, "deposit", 60)

    assert [{"wallet": ALICE.address, "amount": 60}] == receipt.only("Deposited")
    assert (40, 60) == bench.chain.call("account", ALICE.address)[:2]


def test_escrow_comes_back_after_the_delay(bench: SettlementBench) -> None:
    bench.fund(ALICE, escrow=100)
    due = bench.chain.now_s + WITHDRAW_DELAY_S
    receipt = bench.chain.send(ALICE.address, "request_withdraw", 70)
    assert [{"wallet": ALICE.address, "amount": 70, "withdrawAt": due}] == receipt.only("WithdrawRequested")
    assert (0, 30, 70, due) == bench.chain.call("account", ALICE.address)[:4]
    bench.chain.now_s = due - 1
    assert "early" == word_of(bench, ALICE, "withdraw")
    bench.chain.now_s = due
    receipt = bench.chain.send(ALICE.address, "withdraw")

    assert (70, [{"wallet": ALICE.address, "amount": 70}]) == (receipt.output, receipt.only("Withdrawn"))
    assert (70, 30, 0, 0) == bench.chain.call("account", ALICE.address)[:4]
    assert "nothing" == word_of(bench, ALICE, "withdraw")


def test_a_second_request_replaces_the_first_and_its_delay_begins_anew(bench: SettlementBench) -> None:
    bench.fund(ALICE, escrow=100)
    bench.chain.send(ALICE.address, "request_withdraw", 70)
    bench.chain.now_s += WITHDRAW_DELAY_S
    bench.chain.send(ALICE.address, "request_withdraw", 100)

    assert "early" == word_of(bench, ALICE, "withdraw")
    assert "escrow" == word_of(bench, ALICE, "request_withdraw", 101)
    assert "escrow" == word_of(bench, ALICE, "request_withdraw", UINT256_MAX)
    assert (0, 0, 100) == bench.chain.call("account", ALICE.address)[:3]
    bench.chain.send(ALICE.address, "request_withdraw", 0)
    assert (0, 100, 0, 0) == bench.chain.call("account", ALICE.address)[:4]


def test_what_is_reserved_or_being_withdrawn_is_in_one_place_only(bench: SettlementBench) -> None:
    bench.fund(ALICE, escrow=100)
    bench.open(bench.terms(ALICE, [BOB.address], cap=60))
    assert "escrow" == word_of(bench, ALICE, "request_withdraw", 41)
    bench.chain.send(ALICE.address, "request_withdraw", 40)
    with pytest.raises(SettlementRefused) as error:
        bench.open(bench.terms(ALICE, [BOB.address], cap=1, plan=b"other"))

    assert "escrow" == error.value.reason


# ---- bindings


def test_a_router_is_bound_by_its_wallet_and_a_quorum(bench: SettlementBench) -> None:
    assert (Address(bytes(20)), 0) == (bench.chain.call("walletOf", NODE), bench.chain.call("bindingSequence", NODE))
    receipt = bench.bind(NODE, ALICE, 7)

    assert [{"node": NODE, "wallet": ALICE.address, "sequence": 7}] == receipt.only("Bound")
    assert (ALICE.address, 7) == (bench.chain.call("walletOf", NODE), bench.chain.call("bindingSequence", NODE))


def test_a_binding_is_replaced_by_a_later_sequence_only(bench: SettlementBench) -> None:
    bench.bind(NODE, ALICE, 7)
    for key, sequence in ((ALICE, 7), (BOB, 7), (BOB, 6), (BOB, 0)):
        with pytest.raises(SettlementRefused) as error:
            bench.bind(NODE, key, sequence)
        assert "sequence" == error.value.reason
    bench.bind(NODE, BOB, 2**64 - 1)

    assert (BOB.address, 2**64 - 1) == (bench.chain.call("walletOf", NODE), bench.chain.call("bindingSequence", NODE))


def test_a_binding_needs_the_wallets_signature_and_a_quorums(bench: SettlementBench) -> None:
    one, two, three = (signature_argument(key.sign(bytes(32))) for key in bench.validators[:3])
    zero = (27, bytes(32), bytes(32))
    send = ("bind", NODE)

    assert "signature" == word_of(bench, ALICE, *send, ALICE.address, 1, zero, [])
    assert "signature" == word_of(bench, ALICE, *send, ALICE.address, 1, one, [one, two, three])
    assert "address" == word_of(bench, ALICE, *send, bytes(20), 1, zero, [zero] * 3)
    with pytest.raises(SettlementRefused) as error:
        bench.bind(NODE, ALICE, 1, bench.validators[:2])
    assert "quorum" == error.value.reason


# ---- subsidy


def test_the_subsidy_is_released_evenly_over_three_years_a_quarter_to_the_validators(bench: SettlementBench) -> None:
    start = bench.chain.now_s
    released = 0
    for step in range(1, 37):
        bench.chain.now_s = start + 3 * YEAR_S * step // 36
        released += bench.chain.send(ALICE.address, "release_subsidy").output
        due = SUBSIDY * (3 * YEAR_S * step // 36) // (3 * YEAR_S)
        assert (due // 4, due - due // 4, SUBSIDY - due) == bench.chain.call("pools")
    assert SUBSIDY == released
    bench.chain.now_s += 10 * YEAR_S

    assert (0, ()) == (bench.chain.send(ALICE.address, "release_subsidy").output, bench.chain.send(ALICE.address, "release_subsidy").events)
    assert (SUBSIDY // 4, SUBSIDY - SUBSIDY // 4, 0) == bench.chain.call("pools")


def test_asking_for_the_subsidy_every_second_shifts_nothing_by_rounding(bench: SettlementBench) -> None:
    for _ in range(20):
        bench.chain.now_s += 1
        bench.chain.send(ALICE.address, "release_subsidy")
    due = SUBSIDY * 20 // (3 * YEAR_S)

    assert (due // 4, due - due // 4, SUBSIDY - due) == bench.chain.call("pools")


# ---- votes


def test_votes_follow_every_change_of_a_balance_and_only_of_the_balance(bench: SettlementBench) -> None:
    bench.fund(ALICE, balance=100, escrow=50)
    assert [{"wallet": ALICE.address, "candidate": CAROL.address}] == bench.chain.send(ALICE.address, "vote", CAROL.address).only("Voted")
    assert 100 == votes(bench, CAROL), "not the escrow"
    bench.chain.send(ALICE.address, "deposit", 30)
    assert 70 == votes(bench, CAROL)
    bench.fund(ALICE, balance=5)
    assert 75 == votes(bench, CAROL)
    bench.chain.send(ALICE.address, "request_withdraw", 80)
    bench.chain.now_s += WITHDRAW_DELAY_S
    assert 75 == votes(bench, CAROL)
    bench.chain.send(ALICE.address, "withdraw")
    assert 155 == votes(bench, CAROL)
    bench.chain.send(ALICE.address, "transfer", BOB.address, 55)
    assert 100 == votes(bench, CAROL)


def test_moving_coins_from_wallet_to_wallet_counts_them_once(bench: SettlementBench) -> None:
    bench.fund(ALICE, balance=100)
    bench.chain.send(ALICE.address, "vote", CAROL.address)
    bench.chain.send(ALICE.address, "vote", CAROL.address)
    bench.chain.send(BOB.address, "vote", CAROL.address)
    bench.chain.send(ALICE.address, "transfer", BOB.address, 100)
    bench.chain.send(BOB.address, "transfer", CAROL.address, 40)
    bench.chain.send(CAROL.address, "vote", CAROL.address)

    assert 100 == votes(bench, CAROL)


def test_a_vote_can_be_changed_and_taken_back(bench: SettlementBench) -> None:
    bench.fund(ALICE, balance=100)
    bench.chain.send(ALICE.address, "vote", BOB.address)
    bench.chain.send(ALICE.address, "vote", CAROL.address)
    assert (0, 100, CAROL.address) == (votes(bench, BOB), votes(bench, CAROL), bench.chain.call("account", ALICE.address)[4])
    bench.chain.send(ALICE.address, "unvote")
    bench.chain.send(ALICE.address, "unvote")

    assert (0, Address(bytes(20))) == (votes(bench, CAROL), bench.chain.call("account", ALICE.address)[4])
    assert 100 == bench.balance(ALICE.address), "votes move no tokens"
    assert "address" == word_of(bench, ALICE, "vote", bytes(20))


# ---- seats and dividend


def with_pool(bench: SettlementBench, microtoken: int) -> int:
    """Let so much, or a little more, of the subsidy come into the dividend pool; return what is in it."""
    bench.chain.now_s += -(-microtoken * 4 * 3 * YEAR_S // (3 * SUBSIDY))
    bench.chain.send(ALICE.address, "release_subsidy")
    return int(bench.chain.call("pools")[1])


def elect(bench: SettlementBench, count: int, microtoken: int) -> list[WalletKey]:
    """Let so many candidates be voted for by one voter each."""
    candidates = [wallet_key(f"candidate {microtoken} {number}") for number in range(count)]
    for number, candidate in enumerate(candidates):
        voter = wallet_key(f"voter {microtoken} {number}")
        bench.fund(voter, balance=microtoken)
        bench.chain.send(voter.address, "vote", candidate.address)
    return candidates


def test_the_dividend_is_paid_by_votes_to_all_who_have_a_seat(bench: SettlementBench) -> None:
    bench.fund(ALICE, balance=3_000)
    bench.fund(BOB, balance=1_000)
    bench.chain.send(ALICE.address, "vote", ALICE.address)
    bench.chain.send(BOB.address, "vote", CAROL.address)
    pool = with_pool(bench, 10_001)
    receipt = bench.chain.send(BOB.address, "pay_dividend")

    assert [(ALICE.address, pool * 3 // 4), (CAROL.address, pool // 4)] == [tuple(paid.values()) for paid in receipt.only("DividendPaid")]
    assert (3_000 + pool * 3 // 4, pool // 4) == (bench.balance(ALICE.address), bench.balance(CAROL.address))
    assert pool - pool * 3 // 4 - pool // 4 == bench.chain.call("pools")[1], "what rounding left"
    assert 3_000 + pool * 3 // 4 == votes(bench, ALICE), "the dividend counts as votes from now on"


def test_without_votes_or_pool_there_is_no_dividend(bench: SettlementBench) -> None:
    assert "votes" == word_of(bench, BOB, "pay_dividend")
    bench.chain.send(ALICE.address, "vote", ALICE.address)
    assert "votes" == word_of(bench, BOB, "pay_dividend")
    bench.fund(ALICE, balance=3_000)
    assert "" == word_of(bench, BOB, "seat", ALICE.address)
    assert "nothing" == word_of(bench, BOB, "pay_dividend")
    with_pool(bench, 10)
    assert "" == word_of(bench, BOB, "pay_dividend")
    assert "nothing" == word_of(bench, BOB, "pay_dividend")


def test_a_candidate_has_one_seat_however_often_it_is_asked_for(bench: SettlementBench) -> None:
    bench.fund(ALICE, balance=100)
    for key in (ALICE, BOB):
        bench.chain.send(key.address, "vote", CAROL.address)
        bench.chain.send(key.address, "seat", CAROL.address)

    assert (CAROL.address,) == bench.chain.call("seats")


def test_a_candidate_without_votes_gets_no_seat(bench: SettlementBench) -> None:
    bench.chain.send(ALICE.address, "vote", CAROL.address)

    assert () == bench.chain.call("seats")
    assert "votes" == word_of(bench, BOB, "seat", CAROL.address)
    assert "votes" == word_of(bench, BOB, "seat", bytes(20))


def test_dust_crowds_nobody_out(bench: SettlementBench) -> None:
    dust = elect(bench, 21, 1)
    bench.fund(ALICE, balance=2)
    receipt = bench.chain.send(ALICE.address, "vote", CAROL.address)

    assert [{"candidate": CAROL.address, "displaced": dust[0].address}] == receipt.only("Seated")
    assert (CAROL.address, *(key.address for key in dust[1:])) == bench.chain.call("seats")
    bench.fund(BOB, balance=1)
    bench.chain.send(BOB.address, "vote", dust[0].address)  # 2 votes now
    assert dust[0].address in bench.chain.call("seats")
    assert dust[1].address not in bench.chain.call("seats")
    assert "votes" == word_of(bench, BOB, "seat", dust[1].address), "as many votes as the weakest are not enough"


def test_who_has_more_votes_than_the_weakest_takes_its_seat_by_right(bench: SettlementBench) -> None:
    seated = elect(bench, 21, 10)
    (late,) = elect(bench, 1, 9)
    assert late.address not in bench.chain.call("seats")
    bench.fund(wallet_key("voter 9 0"), balance=2)
    assert late.address not in bench.chain.call("seats"), "its votes rose with a balance, nobody has asked yet"
    bench.chain.send(BOB.address, "seat", late.address)

    assert late.address in bench.chain.call("seats")
    assert [seated[0].address] == [key.address for key in seated if key.address not in bench.chain.call("seats")]


def test_a_seat_without_votes_is_paid_nothing_and_goes_to_the_next_who_asks(bench: SettlementBench) -> None:
    seated = elect(bench, 21, 10)
    bench.chain.send(wallet_key("voter 10 4").address, "unvote")
    with_pool(bench, 1_000)
    paid = bench.chain.send(BOB.address, "pay_dividend").only("DividendPaid")
    assert {key.address for key in seated} - {seated[4].address} == {event["wallet"] for event in paid}
    elect(bench, 1, 9)

    assert seated[4].address not in bench.chain.call("seats")
