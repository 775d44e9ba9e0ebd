"""Five validators over one store and one contract: honest claims are paid, whoever of two is down or lies, and nothing is paid twice."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import attrs
import pytest

from srwan.ledger_client.record import Kind, Version
from srwan.ledger_client.settlement.settlement import Claim
from srwan.ledger_client.settlement.signing import WalletKey
from srwan.ledger_client.statement import Statement
from srwan.ledger_client.store import Query
from srwan.ledger_client.validation.batch import BatchItem, SignedBatch, items_digest
from srwan.ledger_client.validation.binding import BindingRequest
from srwan.ledger_client.validation.dispute import DisputeEvidence
from srwan.ledger_client.validation.events import (
    BatchRefused,
    BatchSettled,
    BatchStalled,
    BindingJudged,
    ClaimJudged,
    DisputeJudged,
    QuorumReached,
    Request,
    SettleBatch,
    ValidatorExposed,
)
from srwan.ledger_client.validation.seat import sign_seat
from srwan.ledger_client.validation.slots import owner_of
from srwan.ledger_client.validation.verdict import ACCEPTED, ClaimVerdict
from srwan.testing.market import NS_PER_S, SLOT_S, START_S, WINDOW_S, Market, Seat, SessionScript, router, wallet

GB = 10**9
PRICES = (4_000_000, 3_000_000, 3_000_000)
RELAYS = ("relay-1", "relay-2", "relay-3")
HONEST = (3_960_000, 2_970_000, 2_970_000)
"""Of one GB at PRICES, less the fee of 1 %."""

Lie: TypeAlias = Callable[[Market, Seat, SessionScript], Awaitable[None]]


async def open_sessions(market: Market, count: int = 1) -> list[SessionScript]:
    offers = [await market.offer(name, price) for name, price in zip(RELAYS, PRICES, strict=True)]
    return [await market.session(offers, nonce=nonce) for nonce in range(count)]


async def earned(market: Market) -> tuple[int, ...]:
    period = await market.settlement.period()
    return tuple([await market.settlement.locked(wallet(name).address, period) for name in RELAYS])


def events_of(market: Market, kind: type) -> list[object]:
    return [event for seat in market.seats for event in seat.events if isinstance(event, kind)]


async def test_an_honest_claim_is_paid_once_to_the_last_unit(market: Market) -> None:
    (script,) = await open_sessions(market)
    await script.deliver(GB)

    await market.pass_s(60)

    assert HONEST == await earned(market)
    assert 10_000_000 == await script.settled_microtoken()
    assert 5 == len([event for event in events_of(market, ClaimJudged) if event.reason == ACCEPTED])  # type: ignore[attr-defined]
    assert {10_000_000} == {event.amount_microtoken for event in events_of(market, BatchSettled)}  # type: ignore[attr-defined]
    assert [0] * 5 == [seat.service.core.open_claims for seat in market.seats]


async def test_later_tickets_pay_the_difference(market: Market) -> None:
    (script,) = await open_sessions(market)
    for octets in (GB // 4, GB // 2, GB):
        await script.deliver(octets)
        await market.pass_s(40)

    assert HONEST == await earned(market)


async def test_every_relay_may_file_and_the_session_is_paid_once(market: Market) -> None:
    (script,) = await open_sessions(market)
    filing = await script.deliver(GB)
    for name in RELAYS:
        await market.put(script.filed(filing, name))

    await market.pass_s(60)

    assert HONEST == await earned(market)


async def test_a_claim_of_a_dead_session_is_refused_with_its_reason(market: Market) -> None:
    offers = [await market.offer(name, price) for name, price in zip(RELAYS, PRICES, strict=True)]
    (script,) = await open_sessions(market)
    ghost = attrs.evolve(script, terms=attrs.evolve(script.terms, cap_microtoken=5_000_000_000_000))  # nothing is reserved for it
    assert 3 == len(offers)
    await ghost.deliver(GB)

    await market.pass_s(60)

    assert ["session"] * 5 == [event.reason for event in events_of(market, ClaimJudged)]  # type: ignore[attr-defined]
    assert (0, 0, 0) == await earned(market)
    stored = await market.store.range(Query(kind=Kind.VERDICT))
    verdicts = [ClaimVerdict.decode(Statement.of_record(each.record).content) for each in stored]
    assert {("session", GB, 10_000_000)} == {(verdict.reason, verdict.octets, verdict.amount_microtoken) for verdict in verdicts}


async def test_late_counters_turn_a_refusal_into_a_payment(market: Market) -> None:
    (script,) = await open_sessions(market)
    await market.put(script.filed(script.filing(GB)))
    await market.pass_s(10)
    assert not events_of(market, ClaimJudged)
    await market.pass_s(30)
    assert {"counters-missing"} == {event.reason for event in events_of(market, ClaimJudged)}  # type: ignore[attr-defined]

    await script.count(GB)
    await market.pass_s(60)

    assert HONEST == await earned(market)


# ---- two of five


async def put_signed(market: Market, seat: Seat, items: tuple[BatchItem, ...]) -> str:
    """A batch that a lying validator signs with its own good keys."""
    seal = sign_seat(wallet(seat.name), market.domain, router(seat.name).node_id)
    signature = wallet(seat.name).sign(items_digest(market.domain, items))
    batch = SignedBatch(market.now_s // SLOT_S, items, signature, ACCEPTED, seal)
    return await market.try_put(batch.statement(router(seat.name).node_id, slot_s=SLOT_S).record(router(seat.name)))


def is_its_turn(market: Market, seat: Seat) -> bool:
    return owner_of(market.now_s // SLOT_S, seat.service.core.validators) == wallet(seat.name).address


async def say_nothing(market: Market, seat: Seat, script: SessionScript) -> None:
    """It is down."""


async def sign_everything(market: Market, seat: Seat, script: SessionScript) -> None:
    """Whatever others propose, and in its own turn a claim that nobody filed."""
    for stored in await market.store.range(Query(kind=Kind.BATCH)):
        batch = SignedBatch.decode(Statement.of_record(stored.record).content)
        if batch.slot == market.now_s // SLOT_S:
            await put_signed(market, seat, batch.items)
            return
    if is_its_turn(market, seat):
        await put_signed(market, seat, (BatchItem(script.session_id, 50 * GB, 500_000_000),))


async def propose_too_much(market: Market, seat: Seat, script: SessionScript) -> None:
    """In its turn, the honest session with a false amount, and false verdicts that support it."""
    seal = sign_seat(wallet(seat.name), market.domain, router(seat.name).node_id)
    verdict = ClaimVerdict(script.session_id, 90 * GB, 900_000_000, ACCEPTED, seal)
    statement = verdict.statement(
        router(seat.name).node_id, Version(9, market.now_s), issued_ns=market.now_ns, expires_ns=market.now_ns + 10**12
    )
    await market.put(statement.record(router(seat.name)))
    if is_its_turn(market, seat):
        await put_signed(market, seat, (BatchItem(script.session_id, 90 * GB, 900_000_000),))


async def refuse_everything(market: Market, seat: Seat, script: SessionScript) -> None:
    seal = sign_seat(wallet(seat.name), market.domain, router(seat.name).node_id)
    verdict = ClaimVerdict(script.session_id, GB, 10_000_000, "spent", seal)
    statement = verdict.statement(
        router(seat.name).node_id, Version(9, market.now_s), issued_ns=market.now_ns, expires_ns=market.now_ns + 10**12
    )
    await market.put(statement.record(router(seat.name)))


async def contradict_itself(market: Market, seat: Seat, script: SessionScript) -> None:
    await put_signed(market, seat, (BatchItem(script.session_id, GB, 1),))
    assert "equivocation" == await put_signed(market, seat, (BatchItem(script.session_id, GB, 2),))


@pytest.mark.parametrize("lie", [say_nothing, sign_everything, propose_too_much, refuse_everything, contradict_itself])
async def test_two_of_five_that_lie_or_are_down_change_no_payment(market: Market, lie: Lie) -> None:
    scripts = await open_sessions(market, 2)
    liars = market.seats[1:3]
    for seat in liars:
        seat.is_up = False
    for script in scripts:
        await script.deliver(GB)

    for _ in range(12):
        for seat in liars:
            await lie(market, seat, scripts[0])
        await market.pass_s(SLOT_S)

    honest = {router(seat.name).node_id for seat in market.seats if seat.is_up}
    batches = [
        SignedBatch.decode(Statement.of_record(stored.record).content)
        for stored in await market.store.range(Query(kind=Kind.BATCH))
        if stored.record.subject in honest
    ]
    assert {(GB, 10_000_000)} == {(item.octets, item.amount_microtoken) for batch in batches if batch.is_signed for item in batch.items}
    assert tuple(2 * amount for amount in HONEST) == await earned(market)
    assert [10_000_000] * 2 == [await script.settled_microtoken() for script in scripts]


async def test_three_of_five_that_are_down_stop_payments_and_lose_none(market: Market) -> None:
    (script,) = await open_sessions(market)
    await script.deliver(GB)
    for seat in market.seats[:3]:
        seat.is_up = False
    await market.pass_s(120)
    assert (0, 0, 0) == await earned(market)

    market.seats[0].is_up = True
    await market.pass_s(60)

    assert HONEST == await earned(market)


async def test_a_validator_that_contradicts_itself_is_exposed_and_counts_no_more(market: Market) -> None:
    (script,) = await open_sessions(market)
    liar = market.seats[2]
    liar.is_up = False
    await contradict_itself(market, liar, script)

    await market.pass_s(20)

    assert [ValidatorExposed(router(liar.name).node_id, wallet(liar.name).address)] * 4 == events_of(market, ValidatorExposed)
    before = [seat.service.core.drops["exposed"] for seat in market.seats if seat.is_up]
    await refuse_everything(market, liar, script)
    await market.pass_s(10)
    assert [count + 1 for count in before] == [seat.service.core.drops["exposed"] for seat in market.seats if seat.is_up]


async def test_a_batch_with_one_unknown_claim_is_refused_in_public(market: Market) -> None:
    (script,) = await open_sessions(market)
    liar = next(seat for seat in market.seats if is_its_turn(market, seat))
    liar.is_up = False
    await script.deliver(GB)
    await put_signed(market, liar, (BatchItem(script.session_id, GB, 10_000_000), BatchItem(bytes(32), GB, 10_000_000)))

    await market.pass_s(10)

    assert 4 == len(events_of(market, BatchRefused))
    reasons = {
        batch.reason
        for stored in await market.store.range(Query(kind=Kind.BATCH))
        if (batch := SignedBatch.decode(Statement.of_record(stored.record).content)).slot == START_S // SLOT_S and not batch.is_signed
    }
    assert {"unknown"} == reasons


# ---- crashes and clocks


async def test_a_proposer_that_dies_between_quorum_and_settlement_costs_a_slot_and_pays_once(market: Market) -> None:
    (script,) = await open_sessions(market)
    await script.deliver(GB)
    lost: list[tuple[Seat, SettleBatch]] = []

    def die(seat: Seat) -> Callable[[Request], Request | None]:
        def handle(request: Request) -> Request | None:
            if isinstance(request, SettleBatch) and not lost:
                lost.append((seat, request))
                seat.is_up = False
                return None
            return request

        return handle

    for seat in market.seats:
        seat.on_request = die(seat)
    await market.pass_s(20)
    assert 1 == len(lost)
    assert (0, 0, 0) == await earned(market)

    await market.pass_s(30)
    assert HONEST == await earned(market)

    dead, request = lost[0]
    await market.restart(dead)
    dead.is_up = True
    settled = await market.settlement.settle(wallet(dead.name), request.claims, request.signatures)
    await market.pass_s(60)
    assert [0] == [each.paid_microtoken for each in settled]
    assert HONEST == await earned(market)


async def test_validators_that_are_killed_at_every_slot_go_on_from_the_store(market: Market) -> None:
    scripts = await open_sessions(market, 3)
    for number in range(9):
        if number < 3:
            await scripts[number].deliver(GB)
        for seat in market.seats:
            await market.restart(seat)
        await market.pass_s(SLOT_S)
    await market.pass_s(40)

    assert tuple(3 * amount for amount in HONEST) == await earned(market)
    assert [] == await market.store.equivocations()


async def test_a_clock_that_is_set_back_signs_nothing_twice(market: Market) -> None:
    scripts = await open_sessions(market, 2)
    await scripts[0].deliver(GB)
    await market.pass_s(40)
    await scripts[1].deliver(GB)
    market.jump_s(-40)
    await market.settle_down()
    await market.pass_s(100)

    assert [] == await market.store.equivocations()
    assert 10_000_000 == await scripts[1].settled_microtoken()


async def test_one_claim_that_the_contract_refuses_does_not_hold_up_the_others(market: Market) -> None:
    (stale,) = await open_sessions(market)
    market.jump_s(WINDOW_S // 2)
    await market.settle_down()
    fresh = await market.session([await market.offer(name, price, sequence=2) for name, price in zip(RELAYS, PRICES, strict=True)], nonce=7)
    for script in (stale, fresh):
        await script.deliver(GB)
    await market.settle_down()
    market.jump_s(WINDOW_S * 3 // 2 + SLOT_S)  # the window for claims of the first session is over, that of the second is not

    await market.pass_s(200)

    assert 0 == await stale.settled_microtoken()
    assert 10_000_000 == await fresh.settled_microtoken()
    assert "expired" in {event.reason for event in events_of(market, BatchStalled)}  # type: ignore[attr-defined]
    assert "expired" in {event.reason for event in events_of(market, ClaimJudged)}  # type: ignore[attr-defined]


async def test_a_quorum_that_never_was_settled_is_told(market: Market) -> None:
    (script,) = await open_sessions(market)
    await script.deliver(GB)
    await market.pass_s(60)

    slots = {event.slot for event in events_of(market, QuorumReached)}  # type: ignore[attr-defined]
    assert slots == {event.slot for event in events_of(market, BatchSettled)}  # type: ignore[attr-defined]


# ---- bindings and disputes


async def ask_for_binding(market: Market, name: str, key: WalletKey, sequence: int) -> None:
    request = BindingRequest.sign(router(name), key, market.domain, sequence)
    statement = request.statement(Version(1, sequence), issued_ns=market.now_ns, expires_ns=market.now_ns + 10**12)
    await market.put(statement.record(router(name)))


async def test_a_router_is_bound_by_a_quorum_of_validators(market: Market) -> None:
    for seat in market.seats[:2]:
        seat.is_up = False
    await ask_for_binding(market, "newcomer", wallet("newcomer"), 1)
    await market.pass_s(60)
    assert wallet("newcomer").address == await market.settlement.wallet_of(router("newcomer").node_id)

    await ask_for_binding(market, "newcomer", wallet("other"), 2)
    await market.pass_s(60)
    assert wallet("other").address == await market.settlement.wallet_of(router("newcomer").node_id)
    assert 6 == len(events_of(market, BindingJudged))


async def test_a_binding_without_the_wallets_word_is_refused_in_public(market: Market) -> None:
    honest = BindingRequest.sign(router("newcomer"), wallet("newcomer"), market.domain, 1)
    willing = BindingRequest.sign(router("newcomer"), wallet("victim"), market.domain, 1)
    request = attrs.evolve(willing, wallet_signature=honest.wallet_signature)
    statement = request.statement(Version(1, 1), issued_ns=market.now_ns, expires_ns=market.now_ns + 10**12)
    await market.put(statement.record(router("newcomer")))

    await market.pass_s(60)

    assert {"wallet-signature"} == {event.reason for event in events_of(market, BindingJudged)}  # type: ignore[attr-defined]
    assert None is await market.settlement.wallet_of(router("newcomer").node_id)


async def file_contradictions(market: Market, script: SessionScript, octets: int, *names: str) -> None:
    pairs = tuple(
        (script.counters(name, GB, boot=5, sequence=1).envelope, script.counters(name, octets, boot=5, sequence=2).envelope)
        for name in names
    )
    evidence = DisputeEvidence(script.session_id, pairs)
    statement = evidence.statement(
        router("consumer").node_id, Version(1, market.now_s), issued_ns=market.now_ns, expires_ns=market.now_ns + 10**12
    )
    await market.put(statement.record(router("consumer")))


async def test_a_payment_is_taken_back_as_far_as_all_its_payees_contradict_themselves(market: Market) -> None:
    (script,) = await open_sessions(market)
    await script.deliver(GB)
    await market.pass_s(60)

    await file_contradictions(market, script, GB // 2, *RELAYS)
    await market.pass_s(80)

    assert 5_000_000 == await script.settled_microtoken()
    assert tuple(amount // 2 for amount in HONEST) == await earned(market)


async def test_one_relay_that_contradicts_itself_takes_nothing_from_the_others(market: Market) -> None:
    (script,) = await open_sessions(market)
    await script.deliver(GB)
    await market.pass_s(60)

    await file_contradictions(market, script, 0, "relay-1", "relay-2")
    await market.pass_s(80)

    assert HONEST == await earned(market)
    assert ["unproven"] * 5 == [event.reason for event in events_of(market, DisputeJudged)]  # type: ignore[attr-defined]


async def test_records_that_are_no_good_are_dropped_and_counted(market: Market) -> None:
    (script,) = await open_sessions(market)
    core = market.seats[0].service.core
    filing = script.filing(GB)
    forged = attrs.evolve(filing, claim=Claim(script.terms, attrs.evolve(filing.claim.ticket, signature=bytes(64) + b"\x1b")))
    record = script.filed(filing)
    for bad, reason in (
        (attrs.evolve(record, envelope=record.envelope[:-1] + b"\0"), "signature"),
        (script.filed(forged), "signature"),
        (attrs.evolve(record, topic=bytes(32)), "filed-wrong"),
    ):
        before = core.drops[reason]
        core.receive_record(bad)
        assert before + 1 == core.drops[reason]
    assert 0 == core.open_claims
    market.jump_s(31 * 86_400)
    core.advance(float(market.now_s), market.now_s * NS_PER_S)
    core.receive_record(record)
    assert 1 == core.drops["expired"]
