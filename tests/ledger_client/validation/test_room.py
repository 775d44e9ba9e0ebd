"""What others can fill is bounded, and who fills it keeps nobody else out: all bounds are made small here."""

from __future__ import annotations

import pytest

from srwan.ledger_client.accounting.plan import NO_OFFER, PathPlan
from srwan.ledger_client.record import Version
from srwan.ledger_client.settlement.settlement import binding_digest
from srwan.ledger_client.settlement.terms import PathTerms
from srwan.ledger_client.validation import cases, motions
from srwan.ledger_client.validation.binding import BindingRequest, BindingVote
from srwan.ledger_client.validation.events import ClaimJudged
from srwan.ledger_client.validation.verdict import ACCEPTED
from srwan.testing.market import WINDOW_S, Market, Seat, SessionScript, router, wallet

GB = 10**9
RELAYS = ("relay-1", "relay-2", "relay-3")
DAY_NS = 86_400 * 10**9


def invented(market: Market, nonce: int) -> SessionScript:
    """A session that mallory signs on all sides, with as many relays as she likes, and that nobody ever opened on the settlement."""
    relay, egress = f"mallory-{nonce // 3}", "mallory-egress"
    plan = PathPlan(
        router("mallory").node_id, (router(relay).node_id,), router(egress).node_id, (NO_OFFER,), 1, 2, 0, nonce.to_bytes(16, "big")
    )
    payees = (wallet(relay).address,)
    terms = PathTerms(wallet("mallory").address, payees, (5_000_000,), 10**9, market.now_s + WINDOW_S, plan.digest)
    return SessionScript(market, terms, plan, "mallory", (relay,), egress)


async def test_claims_on_sessions_that_nobody_opened_keep_no_other_claim_out(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "CASES_MAX", 6)
    monkeypatch.setattr(cases, "FILER_CASES_MAX", 3)
    script = await market.session([await market.offer(name, 1_000_000) for name in RELAYS])
    for nonce in range(12):
        false = invented(market, nonce)
        await market.put(false.filed(false.filing(GB)))
    await market.pass_s(60)
    refused = [event for event in market.seats[0].events if isinstance(event, ClaimJudged)]
    assert ({"session"}, 6) == ({event.reason for event in refused}, len(refused))
    await script.deliver(GB)
    await market.pass_s(60)

    assert 3_000_000 == await script.settled_microtoken()


async def ask_for_binding(market: Market, name: str) -> None:
    request = BindingRequest.sign(router(name), wallet(name), market.domain, 1)
    statement = request.statement(Version(1, 1), issued_ns=market.now_ns, expires_ns=market.now_ns + DAY_NS)
    await market.put(statement.record(router(name)))


async def test_more_routers_are_bound_than_requests_are_remembered(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(motions, "MOTIONS_MAX", 2)
    names = [f"router-{number}" for number in range(7)]
    for name in names:
        await ask_for_binding(market, name)
        await market.pass_s(60)
    bound = [await market.settlement.wallet_of(router(name).node_id) for name in names]

    assert [wallet(name).address for name in names] == bound


async def vote_for_nothing(market: Market, seat: Seat, count: int) -> None:
    """A validator that lies answers requests that nobody made."""
    for number in range(count):
        node, address = router(f"nobody-{number}").node_id, wallet(f"nobody-{number}").address
        signature = wallet(seat.name).sign(binding_digest(market.domain, node, address, 1))
        vote = BindingVote(node, address, 1, signature, ACCEPTED, seat.service.core.seat)
        statement = vote.statement(
            router(seat.name).node_id, Version(10**6, number + 1), issued_ns=market.now_ns, expires_ns=market.now_ns + DAY_NS
        )
        await market.put(statement.record(router(seat.name)))


async def test_a_validator_that_votes_on_what_nobody_asked_crowds_out_its_own_votes_only(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(motions, "BALLOTS_MAX", 8)
    await vote_for_nothing(market, market.seats[0], 20)
    await market.pass_s(10)
    for number in range(6):
        await ask_for_binding(market, f"router-{number}")
    await market.pass_s(60)
    bound = [await market.settlement.wallet_of(router(f"router-{number}").node_id) for number in range(6)]

    assert [wallet(f"router-{number}").address for number in range(6)] == bound
    assert 8 >= max(len(seat.service.core._motions._ballots) for seat in market.seats)
