"""One claim, held against its evidence: each fault has its word, and nobody's word but the filer's own can refuse an honest claim."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from srwan.ledger_client.accounting.counters import NeighbourCount, RouterCounters, counters_of_statement
from srwan.ledger_client.market.offer import Offer
from srwan.ledger_client.market.schedule import Schedule, Window
from srwan.ledger_client.record import Record
from srwan.ledger_client.settlement.settlement import Claim, SessionState
from srwan.ledger_client.statement import Statement
from srwan.ledger_client.validation.checks import Evidence, Finding, Tolerance, check_claim
from srwan.ledger_client.validation.claim import ClaimFiling
from srwan.testing.market import NS_PER_S, START_S, SessionScript, router, wallet

GB = 10**9
RELAYS = ("relay-1", "relay-2", "relay-3")
EVERYBODY = ("consumer", *RELAYS, "egress")


def counters_in(record: Record) -> RouterCounters:
    return counters_of_statement(Statement.of_record(record))


def evidence_for(script: SessionScript, offers: dict[bytes, Offer], octets: int = GB, **changed: Any) -> Evidence:
    """What an honest session leaves behind, but for what is given."""
    honest = Evidence(
        session=SessionState(reserve_microtoken=10**9, settled_microtoken=0, opened_s=START_S + 5),
        wallets={router(name).node_id: wallet(name).address for name in (*RELAYS, "egress")},
        offers=offers,
        counters={router(name).node_id: counters_in(script.counters(name, octets)) for name in EVERYBODY},
    )
    return attrs.evolve(honest, **changed)


def judged(script: SessionScript, filing: ClaimFiling, evidence: Evidence, filer: str = "relay-1") -> Finding:
    return check_claim(filing, router(filer).node_id, evidence, script.market.domain, Tolerance())


def test_an_honest_claim_is_accepted_with_its_figures(script: SessionScript, offers: dict[bytes, Offer]) -> None:
    finding = judged(script, script.filing(GB), evidence_for(script, offers))

    figures = dict(finding.figures)
    assert finding.is_accepted
    assert (GB, 9_000_000, 50_000, 0) == tuple(
        figures[name] for name in ("receipt_octets", "price_microtoken", "saved_us", "settled_microtoken")
    )
    assert [GB] * 5 == [figures[f"counted_{place}_octets"] for place in range(5)]
    assert not [name for name in figures if name.startswith("doubt")]


def test_faults_of_the_session_have_their_words(script: SessionScript, offers: dict[bytes, Offer]) -> None:
    filing = script.filing(GB)
    amount = filing.claim.ticket.amount_microtoken
    for session, reason in (
        (None, "session"),
        (SessionState(10**9, amount, START_S), "spent"),
        (SessionState(10**9, amount + 1, START_S), "spent"),
        (SessionState(amount - 1, 0, START_S), "reserve"),
        (SessionState(amount - 2, 1, START_S), "reserve"),
        (SessionState(amount, 0, START_S), ""),
        (SessionState(amount - 1, 1, START_S), ""),
    ):
        assert reason == judged(script, filing, evidence_for(script, offers, session=session)).reason


def test_faults_of_the_payees_have_their_words(script: SessionScript, offers: dict[bytes, Offer]) -> None:
    filing, honest = script.filing(GB), evidence_for(script, offers)
    nodes = {name: router(name).node_id for name in (*RELAYS, "egress")}
    for changes, reason in (
        ({"relay-1": "stranger"}, "binding"),
        ({"egress": "relay-2"}, "egress-paid"),
        ({"relay-2": "stranger"}, ""),
    ):
        wallets = {**honest.wallets, **{nodes[name]: wallet(purse).address for name, purse in changes.items()}}
        assert reason == judged(script, filing, attrs.evolve(honest, wallets=wallets)).reason
    unbound = {node: purse for node, purse in honest.wallets.items() if node != nodes["relay-3"]}
    assert "binding" == judged(script, filing, attrs.evolve(honest, wallets=unbound)).reason
    assert "filer" == judged(script, filing, honest, filer="egress").reason


def test_a_relay_that_rebinds_raises_a_doubt_and_costs_the_others_nothing(script: SessionScript, offers: dict[bytes, Offer]) -> None:
    honest = evidence_for(script, offers)
    wallets = {**honest.wallets, router("relay-2").node_id: wallet("stranger").address}

    finding = judged(script, script.filing(GB), attrs.evolve(honest, wallets=wallets))

    assert finding.is_accepted
    assert 1 == dict(finding.figures)["doubt-binding"]


def test_a_price_must_be_the_offers_at_the_time_of_opening(script: SessionScript, offers: dict[bytes, Offer]) -> None:
    filing = script.filing(GB)
    first = script.plan.offers[0]
    night = Schedule((Window(START_S + 7_200, START_S + 10_800),))
    for changed, reason in (
        ({**offers, first: attrs.evolve(offers[first], price_microtoken_per_gb=2_999_999)}, "price"),
        ({**offers, first: attrs.evolve(offers[first], schedule=night)}, "offer-window"),
        ({**offers, first: attrs.evolve(offers[first], expires_ns=(START_S + 5) * NS_PER_S)}, "offer-window"),
        ({**offers, first: attrs.evolve(offers[first], seller=router("relay-2").node_id)}, "offer"),
        ({digest: offer for digest, offer in offers.items() if digest != first}, "offer-missing"),
    ):
        assert reason == judged(script, filing, evidence_for(script, changed)).reason


def test_the_amount_is_no_more_than_the_saved_latency_is_worth(script: SessionScript, offers: dict[bytes, Offer]) -> None:
    evidence = evidence_for(script, offers)
    for measured_us, amount, reason in (
        (130_000, 9_000_000, ""),
        (140_000, 4_500_000, ""),
        (140_000, 4_500_001, "saved"),
        (150_000, 1, "saved"),
        (190_000, 1, "saved"),
    ):
        filing = script.filing(GB, amount_microtoken=amount, receipt=script.receipt(GB, measured_us=measured_us))
        assert reason == judged(script, filing, evidence).reason


def test_signatures_are_checked_first(script: SessionScript, offers: dict[bytes, Offer]) -> None:
    filing, evidence = script.filing(GB), evidence_for(script, offers)
    ticket, receipt = filing.claim.ticket, filing.receipt
    for changed, reason in (
        (attrs.evolve(filing, claim=Claim(script.terms, attrs.evolve(ticket, octets=ticket.octets + 1))), "signature"),
        (attrs.evolve(filing, claim=Claim(script.terms, attrs.evolve(ticket, amount_microtoken=9_000_001))), "price"),
        (attrs.evolve(filing, claim=Claim(script.terms, attrs.evolve(ticket, octets=10**13, amount_microtoken=10**10))), "cap"),
        (attrs.evolve(filing, receipt=attrs.evolve(receipt, octets=receipt.octets + 1)), "signature"),
        (attrs.evolve(filing, receipt=attrs.evolve(receipt, countersignature=b"")), "signature"),
        (attrs.evolve(filing, receipt=script.receipt(GB - 1)), "receipt"),
    ):
        assert reason == judged(script, changed, evidence).reason


def test_the_filers_own_counters_must_cover_the_claim(script: SessionScript, offers: dict[bytes, Offer]) -> None:
    filing, honest = script.filing(GB), evidence_for(script, offers)
    mine = router("relay-1").node_id
    silent = {node: counters for node, counters in honest.counters.items() if node != mine}
    assert "counters-missing" == judged(script, filing, attrs.evolve(honest, counters=silent)).reason
    for octets, reason in ((GB - 16_000_000, ""), (GB - 17_000_000, "counters-short"), (0, "counters-short")):
        counters = {**honest.counters, mine: counters_in(script.counters("relay-1", octets))}
        assert reason == judged(script, filing, attrs.evolve(honest, counters=counters)).reason


@pytest.mark.parametrize("liar", ["consumer", "relay-2", "egress"])
@pytest.mark.parametrize("octets", [0, 10 * GB])
def test_counters_of_others_raise_doubts_and_change_no_payment(
    script: SessionScript, offers: dict[bytes, Offer], liar: str, octets: int
) -> None:
    honest = evidence_for(script, offers)
    counters = {**honest.counters, router(liar).node_id: counters_in(script.counters(liar, octets))}

    finding = judged(script, script.filing(GB), attrs.evolve(honest, counters=counters))

    assert finding.is_accepted
    doubts = {name for name, _ in finding.figures if name.startswith("doubt")}
    assert ({"doubt-short"} if octets == 0 else set() if liar == "egress" else {"doubt-inflated"}) == doubts


def test_the_two_ends_of_a_link_are_held_against_each_other(script: SessionScript, offers: dict[bytes, Offer]) -> None:
    honest = evidence_for(script, offers)
    first, second = router("relay-1").node_id, router("relay-2").node_id
    for sent, came, is_odd in ((GB, GB, False), (GB, GB * 95 // 100, False), (GB, GB * 9 // 10, True), (GB, GB + 17_000_000, True)):
        counters = {
            **honest.counters,
            first: attrs.evolve(honest.counters[first], neighbours=(NeighbourCount(second, 0, sent),)),
            second: attrs.evolve(honest.counters[second], neighbours=(NeighbourCount(first, came, 0),)),
        }
        finding = judged(script, script.filing(GB), attrs.evolve(honest, counters=counters))
        assert is_odd == ("doubt-link" in dict(finding.figures))
        assert finding.is_accepted


def test_an_inflated_count_of_the_filer_pays_nothing_more(script: SessionScript, offers: dict[bytes, Offer]) -> None:
    honest = evidence_for(script, offers)
    counters = {**honest.counters, router("relay-1").node_id: counters_in(script.counters("relay-1", 100 * GB))}

    with pytest.raises(ValueError, match="more than agreed"):
        script.filing(GB, amount_microtoken=9_000_001)
    finding = judged(script, script.filing(GB), attrs.evolve(honest, counters=counters))
    assert 9_000_000 == dict(finding.figures)["price_microtoken"]


def test_missing_evidence_is_told_apart_from_bad_evidence(script: SessionScript, offers: dict[bytes, Offer]) -> None:
    filing = script.filing(GB)
    assert judged(script, filing, evidence_for(script, {})).is_pending
    assert judged(script, filing, evidence_for(script, offers, session=None)).is_pending
    assert not judged(script, filing, evidence_for(script, offers, session=SessionState(0, 0, START_S))).is_pending
