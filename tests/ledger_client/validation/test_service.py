"""The shell: tasks, a store that fails, an engine that fails, cancellation. The rules are tested in test_validator.py."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import trio

from srwan.clock import Clock
from srwan.errors import SettlementUnavailable, StoreUnavailable
from srwan.ledger_client.store import StoredRecord
from srwan.ledger_client.validation.events import BatchSettled, Event
from srwan.ledger_client.validation.service import ValidatorService
from srwan.testing.market import NS_PER_S, START_S, Market, router, wallet

GB = 10**9
RELAYS = ("relay-1", "relay-2", "relay-3")


@pytest.fixture
async def clock(autojump_clock: trio.testing.MockClock) -> Clock:
    """Runs with trio's virtual time, from the market's beginning; it jumps when nothing happened for a while, threads included."""
    autojump_clock.autojump_threshold = 0.02
    return Clock(lambda: round(trio.current_time() * 1e9), lambda: START_S * NS_PER_S + round(trio.current_time() * 1e9))


def services_of(market: Market, clock: Clock, count: int = 3) -> list[ValidatorService]:
    names = [seat.name for seat in market.seats[:count]]
    return [ValidatorService(market.store, market.settlement, router(name), wallet(name), clock, slot_s=2) for name in names]


async def wait_until(is_so: Callable[[], Any]) -> None:
    with trio.fail_after(600):  # of virtual time
        while not is_so():  # noqa: ASYNC110 - what is waited for is told by callbacks of several services
            await trio.sleep(1)


async def test_three_of_five_services_settle_a_claim(market: Market, clock: Clock) -> None:
    events: list[Event] = []
    services = services_of(market, clock)
    services[0].on_event(events.append)
    offers = [await market.offer(name, 1_000_000) for name in RELAYS]
    script = await market.session(offers)
    async with trio.open_nursery() as nursery:
        for service in services:
            await nursery.start(service.run)
        await script.deliver(GB)
        await wait_until(lambda: [event for event in events if isinstance(event, BatchSettled)])
        nursery.cancel_scope.cancel()

    assert 3_000_000 == await script.settled_microtoken()


async def test_a_claim_filed_before_the_start_is_settled(market: Market, clock: Clock) -> None:
    events: list[Event] = []
    services = services_of(market, clock)
    services[1].on_event(events.append)
    script = await market.session([await market.offer(name, 1_000_000) for name in RELAYS])
    await script.deliver(GB)
    async with trio.open_nursery() as nursery:
        for service in services:
            await nursery.start(service.run)
        await wait_until(lambda: [event for event in events if isinstance(event, BatchSettled)])
        nursery.cancel_scope.cancel()

    assert 3_000_000 == await script.settled_microtoken()


async def test_outages_of_store_and_engine_delay_and_lose_nothing(
    market: Market, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "srwan.ledger_client")
    services = services_of(market, clock)
    script = await market.session([await market.offer(name, 1_000_000) for name in RELAYS])
    failures = {"watch": 5, "put": 5, "session": 4, "settle": 2, "validators": 3}
    put, watch = market.store.put, market.store.watch
    session, settle, validators = market.settlement.session, market.settlement.settle, market.settlement.validators

    def failing(name: str, call: Callable[..., Any], error: Exception) -> Callable[..., Any]:
        async def fail_first(*arguments: Any, **named: Any) -> Any:
            if failures[name] > 0:
                failures[name] -= 1
                await trio.sleep(0.1)
                raise error
            return await call(*arguments, **named)

        return fail_first

    away = StoreUnavailable("store", "it is away", "wait")
    gone = SettlementUnavailable("engine", "it is away", "wait")
    async with trio.open_nursery() as nursery:
        for service in services:
            await nursery.start(service.run)
        await script.deliver(GB)
        for target, name, call, error in (
            (market.store, "put", put, away),
            (market.store, "watch", watch, away),
            (market.settlement, "session", session, gone),
            (market.settlement, "settle", settle, gone),
            (market.settlement, "validators", validators, gone),
        ):
            monkeypatch.setattr(target, name, failing(name, call, error))
        with trio.fail_after(600):
            while True:
                await trio.sleep(1)
                state = await session(script.session_id)
                if state is not None and state.settled_microtoken:
                    break
        nursery.cancel_scope.cancel()

    assert {"watch": 0, "put": 0, "session": 0, "settle": 0, "validators": 0} == failures
    assert 3_000_000 == await script.settled_microtoken()


async def test_a_store_that_does_not_answer_at_the_start_is_told(market: Market, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: Any) -> list[StoredRecord]:
        raise StoreUnavailable("store", "it is away", "wait")

    monkeypatch.setattr(market.store, "range", fail)
    (service,) = services_of(market, clock, 1)
    with pytest.raises(StoreUnavailable):
        await service.run()
