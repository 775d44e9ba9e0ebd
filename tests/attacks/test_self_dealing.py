"""Paying oneself for traffic that never was, for the subsidy: at every fee, with votes for oneself and a validator's seat of one's own.

The attacker is consumer, relays and egress in one, so whatever she signs fits together and validators accept it; nothing is forged. What
remains is arithmetic: of each payment the fee is lost to the pools, and of the pools she gets back her part. The measure is what she owns
at the end with the attack, less what she would own at the same time without it, everything else being equal; without it all her tokens
vote.

What stops it: where fees and subsidy leave the pools by seat and by vote and never by traffic, she gets back her part of the fee at most,
and by rounding less than a microtoken for each of her seats.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs
import pytest

from srwan.errors import SettlementRefused
from srwan.ledger_client.settlement.deploy import Deployment
from srwan.ledger_client.settlement.pyevm import PyEvmSettlement
from srwan.ledger_client.settlement.settlement import Claim, batch_digest
from srwan.ledger_client.settlement.signing import WalletKey
from srwan.ledger_client.settlement.terms import PathTerms
from srwan.ledger_client.settlement.ticket import sign_ticket
from srwan.testing.market import START_S, Market, wallet

HOUR_S = 3_600
WINDOWS = 3
"""In which the attacker pays herself."""
TOKENS = 10**6
ATTACK = "self-dealing for the subsidy"
STAKE_MICROTOKEN = 100_000 * TOKENS
SUBSIDY_MICROTOKEN = 50_000_000 * TOKENS
VALIDATORS = tuple(f"validator-{number}" for number in range(5))
FEES_BPS = (0, 1, 10, 100, 300, 1_000, 2_500, 5_000, 9_999, 10_000)


@attrs.frozen
class Attacker:
    """How much of the pools is hers."""

    validators: tuple[str, ...] = ()
    """Seats of her own."""
    votes_permille: int = 0
    """Of all votes that count, hers."""
    amount_microtoken: int = 40_000 * TOKENS
    """Paid to herself in a window."""


ROLES = {
    "nothing of the pools": Attacker(),
    "half of the votes": Attacker(votes_permille=500),
    "one seat of five": Attacker(VALIDATORS[:1]),
    "one seat, least amount": Attacker(VALIDATORS[:1], amount_microtoken=1),
    "a quorum of seats, half of the votes": Attacker(VALIDATORS[:3], votes_permille=500),
    "all seats and all votes": Attacker(VALIDATORS, votes_permille=1000),
}


async def wealth_at_the_end(fee_bps: int, attacker: Attacker, *, is_dealing: bool) -> int:
    """Run WINDOWS windows, pay out all pools, and return all that the attacker owns."""
    moment = [START_S]
    mine = ("mallory", "mallory-1", "mallory-2", *attacker.validators)
    voter_microtoken = 2 * STAKE_MICROTOKEN * (1000 - attacker.votes_permille) // max(1, attacker.votes_permille)
    deployment = Deployment(
        validators=tuple(wallet(name).address for name in VALIDATORS),
        quorum=3,
        supply_microtoken=10**15,
        subsidy_microtoken=SUBSIDY_MICROTOKEN,
        fee_bps=fee_bps,
        window_s=HOUR_S,
        genesis=(
            (wallet("mallory").address, 2 * STAKE_MICROTOKEN),
            (wallet("voter").address, max(1, min(voter_microtoken, 10**14))),
        ),
    )
    settlement = await PyEvmSettlement.deploy(None, wallet("deployer"), deployment, clock_s=lambda: moment[0])
    key = wallet("mallory")
    if attacker.votes_permille:
        await vote_for_oneself(settlement, key)
    if attacker.votes_permille < 1000:
        await vote_for_oneself(settlement, wallet("voter"))
    for window in range(WINDOWS):
        if is_dealing:
            await pay_oneself(settlement, attacker, window, moment[0])
        moment[0] += HOUR_S
        await pay_out(settlement, moment[0] // HOUR_S)
    for _ in range(3):
        moment[0] += HOUR_S
        await pay_out(settlement, moment[0] // HOUR_S)
    assert await settlement.supply() == 10**15
    total = await owned(settlement, mine)
    await settlement.aclose()
    return total


async def vote_for_oneself(settlement: PyEvmSettlement, key: WalletKey) -> None:
    await settlement.vote(key, key.address)
    await settlement.seat(key, key.address)


async def pay_oneself(settlement: PyEvmSettlement, attacker: Attacker, window: int, now_s: int) -> None:
    """A session with herself, and a batch signed by a quorum that she picks: her own seats first."""
    key = wallet("mallory")
    terms = PathTerms(
        consumer=key.address,
        payees=(wallet("mallory-1").address, wallet("mallory-2").address),
        prices_microtoken=(10**9, 10**9),
        cap_microtoken=attacker.amount_microtoken,
        expires_s=now_s + HOUR_S,
        plan=window.to_bytes(32, "big"),
    )
    if (await settlement.account(key.address)).escrow_microtoken < terms.cap_microtoken:
        await settlement.deposit(key, terms.cap_microtoken)
    await settlement.open_session(key, terms)
    claims = [Claim(terms, sign_ticket(key, settlement.domain, terms, 10**18, terms.cap_microtoken))]
    signers = [*attacker.validators, *(name for name in VALIDATORS if name not in attacker.validators)][:3]
    digest = batch_digest(settlement.domain, claims)
    await settlement.settle(key, claims, [wallet(name).sign(digest) for name in signers])


async def pay_out(settlement: PyEvmSettlement, period: int) -> None:
    """Everything that anybody may call, in the order that suits the attacker: as soon as it can be."""
    for name in ("mallory-1", "mallory-2"):
        await settlement.collect(wallet("mallory"), wallet(name).address, period - 2)
        held = (await settlement.account(wallet(name).address)).balance_microtoken
        if held:
            await settlement.transfer(wallet(name), wallet("mallory").address, held)
    await settlement.collect_fees(wallet("mallory"), period - 2)
    await settlement.release_subsidy(wallet("mallory"))
    for pay in (settlement.pay_dividend, settlement.pay_validators):
        await unless_refused(pay)


async def unless_refused(pay: Callable[[WalletKey], Awaitable[int]]) -> None:
    try:
        await pay(wallet("mallory"))
    except SettlementRefused:
        return


async def owned(settlement: PyEvmSettlement, names: tuple[str, ...]) -> int:
    total = 0
    period = await settlement.period()
    for name in names:
        account = await settlement.account(wallet(name).address)
        total += account.balance_microtoken + account.escrow_microtoken + account.withdrawing_microtoken
        for back in range(WINDOWS + 4):
            total += await settlement.locked(wallet(name).address, period - back)
    return total


async def profit_of(fee_bps: int, attacker: Attacker) -> int:
    with_it = await wealth_at_the_end(fee_bps, attacker, is_dealing=True)
    without = await wealth_at_the_end(fee_bps, attacker, is_dealing=False)
    return with_it - without


async def measure(fee_bps: int, role: str, note: Callable[[str, str, int], None]) -> None:
    profit = await profit_of(fee_bps, ROLES[role])
    note(ATTACK, f"fee {fee_bps} bps, {role}", profit)
    assert profit <= 0


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("fee_bps", [0, 100])
async def test_paying_oneself_brings_nothing(fee_bps: int, role: str, note: Callable[[str, str, int], None]) -> None:
    await measure(fee_bps, role, note)


@pytest.mark.slow
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("fee_bps", sorted(set(FEES_BPS) - {0, 100}))
async def test_paying_oneself_brings_nothing_at_any_fee(fee_bps: int, role: str, note: Callable[[str, str, int], None]) -> None:
    await measure(fee_bps, role, note)


async def test_rounding_brings_less_than_a_microtoken_for_each_seat() -> None:
    """With all seats and all votes she gets the whole fee back, and with it a part of what the pool would have kept for the next time."""
    profit = await profit_of(10_000, attrs.evolve(ROLES["all seats and all votes"], amount_microtoken=16))

    assert 3 == profit < len(VALIDATORS), "as docs/attacks.md says"


async def test_real_validators_accept_it_and_it_costs_the_fee(market: Market, enter: Callable[[str, str, int], None]) -> None:
    offers = [await market.offer(name, 50_000_000) for name in ("mallory-1", "mallory-2")]
    ledger = await market.holdings("mallory", "mallory-1", "mallory-2")
    script = await market.session(offers, relays=("mallory-1", "mallory-2"), consumer="mallory", egress="mallory-egress")
    ledger.sessions.append(script)

    await script.deliver(10**9)
    await market.pass_s(60)

    profit = await ledger.profit_microtoken()
    assert -1_000_000 == profit
    enter(ATTACK, "through real validators, fee 100 bps", profit)
