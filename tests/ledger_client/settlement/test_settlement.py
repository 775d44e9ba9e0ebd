"""What every settlement engine does: one set of tests over the embedded one, the development node and anvil."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import attrs
import pytest
import trio

from srwan.errors import SettlementRefused
from srwan.ledger_client.settlement.jsonrpc import JsonRpcSettlement
from srwan.ledger_client.settlement.pyevm import PyEvmSettlement
from srwan.ledger_client.settlement.settlement import (
    Account,
    Pools,
    SessionState,
    Settled,
    Settlement,
    binding_digest,
    overturn_digest,
    validator_change_digest,
)
from srwan.ledger_client.settlement.signing import SettlementDomain
from srwan.ledger_client.settlement.terms import shares_of
from srwan.types import NodeId

FUNDS = 10**12
WINDOW_S = 3_600
DELAY_S = 600
MB = 10**6
GB = 10**9
TEN_TOKENS = 10 * 10**6


def implementations(embedded: PyEvmSettlement, remote: JsonRpcSettlement) -> tuple[Settlement, Settlement]:
    """Both are one: for the type checkers."""
    return embedded, remote


async def refusal(awaitable: Awaitable[Any]) -> str:
    """The contract's word for why it refused."""
    with pytest.raises(SettlementRefused) as caught:
        await awaitable
    return caught.value.reason


async def test_a_new_chain_has_what_it_was_deployed_with(world: Any) -> None:
    settlement = world.settlement
    validators = await settlement.validators()

    assert Account(FUNDS, 0, 0, 0, None, 0) == await settlement.account(world.consumer.address)
    assert 10**15 - 10**12 - FUNDS == (await settlement.account(world.deployer.address)).balance_microtoken
    assert Pools(0, 0, 10**12) == await settlement.pools()
    assert (100, WINDOW_S) == (await settlement.fee_bps(), await settlement.window_s())
    assert tuple(sorted(key.address for key in world.validators)) == validators.addresses
    assert (3, 0) == (validators.quorum, validators.nonce)
    assert await settlement.now_s() // WINDOW_S == await settlement.period()


async def test_escrow_comes_back_only_after_the_delay(world: Any) -> None:
    settlement, consumer = world.settlement, world.consumer
    await settlement.deposit(consumer, 50 * MB)
    await settlement.request_withdraw(consumer, 20 * MB)

    asked = await settlement.account(consumer.address)
    assert (FUNDS - 50 * MB, 30 * MB, 20 * MB) == (asked.balance_microtoken, asked.escrow_microtoken, asked.withdrawing_microtoken)
    assert "early" == await refusal(settlement.withdraw(consumer))

    await world.travel(DELAY_S)

    assert 20 * MB == await settlement.withdraw(consumer)
    assert Account(FUNDS - 30 * MB, 30 * MB, 0, 0, None, 0) == await settlement.account(consumer.address)
    assert "nothing" == await refusal(settlement.withdraw(consumer))


async def test_a_session_is_opened_paid_collected_and_closed(world: Any) -> None:
    settlement = world.settlement
    await settlement.deposit(world.consumer, 50 * MB)
    terms = await world.terms()
    assert await settlement.session(terms.session_id) is None

    await settlement.open_session(world.consumer, terms)
    await settlement.open_session(world.consumer, terms)  # again: nothing changes
    assert 20 * MB == (await settlement.account(world.consumer.address)).escrow_microtoken

    period = await settlement.period()
    paid = await world.settle(world.claim(terms))
    assert (Settled(terms.session_id, TEN_TOKENS, TEN_TOKENS // 100),) == paid
    shares = shares_of(TEN_TOKENS * 99 // 100, terms.prices_microtoken)
    assert shares == tuple([await settlement.locked(relay.address, period) for relay in world.relays])
    assert TEN_TOKENS // 100 == await settlement.locked_fees(period)
    held = await settlement.session(terms.session_id)
    assert held is not None
    assert SessionState(20 * MB, 10 * MB, held.opened_s) == held

    assert "early" == await refusal(settlement.collect(world.deployer, world.relays[0].address, period))
    assert "early" == await refusal(settlement.close_session(world.deployer, terms))
    await world.travel(4 * WINDOW_S)
    for relay, share in zip(world.relays, shares, strict=True):
        assert share == await settlement.collect(world.deployer, relay.address, period)
        assert 0 == await settlement.collect(world.deployer, relay.address, period)
        assert share == (await settlement.account(relay.address)).balance_microtoken
    assert TEN_TOKENS // 100 == await settlement.collect_fees(world.deployer, period)
    assert 0 == await settlement.collect_fees(world.deployer, period)
    assert Pools(25_000, 75_000, 10**12) == await settlement.pools()

    assert 20 * MB == await settlement.close_session(world.deployer, terms)
    assert await settlement.session(terms.session_id) is None
    assert "closed" == await refusal(settlement.close_session(world.deployer, terms))
    assert 40 * MB == (await settlement.account(world.consumer.address)).escrow_microtoken


async def test_a_batch_that_is_sent_again_pays_nothing_again(world: Any) -> None:
    await world.settlement.deposit(world.consumer, 50 * MB)
    terms = await world.terms()
    await world.settlement.open_session(world.consumer, terms)
    first, second = world.claim(terms, GB // 2), world.claim(terms, GB)

    assert [5 * MB] == [settled.paid_microtoken for settled in await world.settle(first)]
    assert [0] == [settled.paid_microtoken for settled in await world.settle(first)]
    assert [5 * MB] == [settled.paid_microtoken for settled in await world.settle(second)]
    assert [0, 0] == [settled.paid_microtoken for settled in await world.settle(second, first)]


async def test_claims_of_a_batch_are_reported_in_its_order(world: Any) -> None:
    await world.settlement.deposit(world.consumer, 90 * MB)
    many = [await world.terms(plan=f"plan {number}") for number in range(3)]
    for terms in many:
        await world.settlement.open_session(world.consumer, terms)
    claims = [world.claim(terms, octets) for terms, octets in zip(many, (GB, 2 * GB, GB // 10), strict=True)]
    await world.settle(claims[1])

    settled = await world.settle(claims[2], claims[1], claims[0])

    assert [claim.ticket.session for claim in (claims[2], claims[1], claims[0])] == [one.session for one in settled]
    assert [MB, 0, 10 * MB] == [one.paid_microtoken for one in settled]


async def test_what_is_not_signed_by_a_quorum_is_refused_with_the_contracts_word(world: Any) -> None:
    await world.settlement.deposit(world.consumer, 50 * MB)
    terms = await world.terms()
    await world.settlement.open_session(world.consumer, terms)
    claim = world.claim(terms)

    assert "quorum" == await refusal(world.settle(claim, signers=2))
    stranger = [key.sign(b"\1" * 32) for key in world.validators]
    assert "validator" == await refusal(world.settlement.settle(world.deployer, [claim], stranger))
    assert "closed" == await refusal(world.settle(world.claim(await world.terms(plan="never opened"))))
    other = SettlementDomain(world.domain.chain_id + 1, world.domain.contract)
    elsewhere = attrs.evolve(world, settlement=_Elsewhere(other)).claim(terms)
    assert "signature" == await refusal(world.settle(elsewhere))
    assert "escrow" == await refusal(world.settlement.open_session(world.consumer, await world.terms(21 * MB, plan="too much")))
    assert "consumer" == await refusal(world.settlement.open_session(world.deployer, await world.terms(MB, plan="not hers")))


@attrs.frozen
class _Elsewhere:
    domain: SettlementDomain


async def test_a_payment_is_overturned_within_its_window_and_only_then(world: Any) -> None:
    settlement = world.settlement
    await settlement.deposit(world.consumer, 50 * MB)
    terms = await world.terms()
    await settlement.open_session(world.consumer, terms)
    await world.settle(world.claim(terms))
    evidence = b"\7" * 32
    digest = overturn_digest(world.domain, terms.session_id, 10 * MB, 4 * MB, evidence)

    assert "quorum" == await refusal(settlement.overturn(world.deployer, terms, 4 * MB, evidence, world.quorum(digest, 2)))
    assert 6 * MB == await settlement.overturn(world.deployer, terms, 4 * MB, evidence, world.quorum(digest))
    held = await settlement.session(terms.session_id)
    assert held is not None
    assert (26 * MB, 4 * MB) == (held.reserve_microtoken, held.settled_microtoken)

    await world.travel(2 * WINDOW_S)
    digest = overturn_digest(world.domain, terms.session_id, 4 * MB, 0, evidence)
    assert "final" == await refusal(settlement.overturn(world.deployer, terms, 0, evidence, world.quorum(digest)))


async def test_a_router_is_bound_by_its_wallet_and_a_quorum_and_never_by_an_older_sequence(world: Any) -> None:
    settlement, relay = world.settlement, world.relays[0]
    node = NodeId(b"\5" * 32)
    digest = binding_digest(world.domain, node, relay.address, 7)
    assert await settlement.wallet_of(node) is None

    assert "signature" == await refusal(
        settlement.bind(world.deployer, node, relay.address, 7, world.deployer.sign(digest), world.quorum(digest))
    )
    await settlement.bind(world.deployer, node, relay.address, 7, relay.sign(digest), world.quorum(digest))

    assert relay.address == await settlement.wallet_of(node)
    assert 7 == await settlement.binding_sequence(node)
    assert "sequence" == await refusal(settlement.bind(world.deployer, node, relay.address, 7, relay.sign(digest), world.quorum(digest)))


async def test_votes_follow_balances_and_the_dividend_follows_votes(world: Any) -> None:
    settlement, candidate, other = world.settlement, world.relays[0].address, world.relays[1].address
    await settlement.transfer(world.deployer, world.relays[2].address, FUNDS // 3)
    await settlement.vote(world.consumer, candidate)
    await settlement.vote(world.relays[2], other)
    assert FUNDS == (await settlement.account(candidate)).votes_microtoken
    assert candidate == (await settlement.account(world.consumer.address)).vote

    await settlement.seat(world.deployer, candidate)
    await settlement.seat(world.deployer, other)
    assert {candidate, other} == set(await settlement.seats())
    await world.travel(365 * 86_400)
    released = await settlement.release_subsidy(world.deployer)
    assert 10**12 // 3 == pytest.approx(released, rel=1e-4)
    pools = await settlement.pools()
    paid = await settlement.pay_dividend(world.deployer)

    assert pools.dividend_microtoken - 1 <= paid <= pools.dividend_microtoken
    earned = [(await settlement.account(address)).balance_microtoken for address in (candidate, other)]
    assert paid == sum(earned)
    assert 3.0 == pytest.approx(earned[0] / earned[1], rel=1e-6)

    await settlement.vote(world.consumer, None)
    assert 0 == (await settlement.account(candidate)).votes_microtoken
    assert (await settlement.account(world.consumer.address)).vote is None


async def test_all_validators_are_paid_whoever_signed_and_replaced_by_their_quorum(world: Any) -> None:
    settlement = world.settlement
    await settlement.deposit(world.consumer, 50 * MB)
    terms = await world.terms()
    await settlement.open_session(world.consumer, terms)
    await world.settle(world.claim(terms))
    await world.travel(30 * 86_400)
    await settlement.release_subsidy(world.deployer)
    pool = (await settlement.pools()).validators_microtoken

    paid = await settlement.pay_validators(world.deployer)
    earned = [(await settlement.account(key.address)).balance_microtoken for key in world.validators]
    assert pool - 4 <= paid <= pool
    assert [paid // 5] * 5 == earned

    fewer = [key.address for key in world.validators[:2]]
    digest = validator_change_digest(world.domain, sorted(fewer), 2, 0)
    assert "quorum" == await refusal(settlement.change_validators(world.deployer, fewer, 2, world.quorum(digest, 2)))
    await settlement.change_validators(world.deployer, fewer, 2, world.quorum(digest))
    changed = await settlement.validators()
    assert (tuple(sorted(fewer)), 2, 1) == (changed.addresses, changed.quorum, changed.nonce)


async def test_amounts_at_the_ends_of_their_range_move_all_or_nothing(world: Any) -> None:
    settlement, consumer, relay = world.settlement, world.consumer, world.relays[0].address

    for amount in (FUNDS + 1, 2**128 - 1, 2**128, 2**256 - 1, 2**256, -1):
        for command in (settlement.transfer, settlement.deposit):
            arguments = (relay, amount) if command == settlement.transfer else (amount,)
            with pytest.raises(SettlementRefused):
                await command(consumer, *arguments)
    assert Account(FUNDS, 0, 0, 0, None, 0) == await settlement.account(consumer.address)
    for amount in (0, 1, FUNDS - 1):
        await settlement.transfer(consumer, relay, amount)
    assert Account(0, 0, 0, 0, None, 0) == await settlement.account(consumer.address)
    assert FUNDS == (await settlement.account(relay)).balance_microtoken


async def test_terms_at_the_end_of_128_bits_are_refused_and_reserve_nothing(world: Any) -> None:
    settlement = world.settlement
    await settlement.deposit(world.consumer, FUNDS)

    assert "cap" == await refusal(settlement.open_session(world.consumer, await world.terms(2**128 - 1)))
    dear = await world.terms(MB, prices=(2**64 - 1,) * 3)
    await settlement.open_session(world.consumer, dear)
    assert [MB] == [one.paid_microtoken for one in await world.settle(world.claim(dear, 2**128 - 1, MB))]


async def test_commands_of_one_wallet_from_many_tasks_are_all_taken_once(world: Any) -> None:
    async with trio.open_nursery() as nursery:
        for number in range(1, 9):
            nursery.start_soon(world.settlement.deposit, world.consumer, number)
        nursery.start_soon(world.settlement.transfer, world.deployer, world.relays[0].address, 5)

    assert 36 == (await world.settlement.account(world.consumer.address)).escrow_microtoken
    assert 5 == (await world.settlement.account(world.relays[0].address)).balance_microtoken


async def test_a_closed_engine_says_so(world: Any) -> None:
    world.is_at_rest = False
    await world.settlement.aclose()
    await world.settlement.aclose()

    with pytest.raises(trio.ClosedResourceError):
        await world.settlement.account(world.consumer.address)
    with pytest.raises(trio.ClosedResourceError):
        await world.settlement.deposit(world.consumer, 1)
