"""An agreement is broken by a row of measurements, pays for a detour within its budget, and keeps the evidence."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import attrs
import pytest

from srwan.errors import InsufficientEscrow, NoOffer, RemoteProtocolError
from srwan.identity import Identity
from srwan.ledger_client.market.book import OfferBook
from srwan.ledger_client.market.offer import Offer
from srwan.ledger_client.market.quote import Quote, quote_for
from srwan.ledger_client.market.sla import (
    EVIDENCE_MAX,
    Agreement,
    AgreementBroken,
    AgreementRestored,
    DetourBought,
    Measurement,
    SlaAccount,
    measurements_of,
)
from srwan.ledger_client.record import Version, check
from srwan.ledger_client.settlement.signing import WalletKey
from srwan.ledger_client.statement import Statement
from srwan.types import NodeId
from srwan.wire import pack

NS = 10**9
GOOD, SLOW, LOSSY = (30_000, 0), (50_001, 0), (30_000, 20_001)


@pytest.fixture
def agreement(sellers: tuple[Identity, ...], wallets: tuple[WalletKey, ...]) -> Agreement:
    return Agreement(
        provider=sellers[0].node_id,
        wallet=wallets[0].address,
        owl_us_max=50_000,
        price_max_microtoken=500,
        budget_microtoken=1000,
        period_s=3600,
    )


@pytest.fixture
def account(agreement: Agreement, wall_s: int) -> SlaAccount:
    return SlaAccount(agreement, wall_s * NS)


@pytest.fixture
def quote(make_offer: Callable[..., Offer], sellers: tuple[Identity, ...], wall_s: int) -> Callable[[int], Quote]:
    def quote_at(price: int) -> Quote:
        book = OfferBook(NodeId(bytes(32)), random.Random(1))
        book.receive_record(make_offer(1, price).record(sellers[1]), wall_s * NS)
        return quote_for(book, (sellers[1].node_id,), wall_s * NS, price_max_microtoken=10**6)

    return quote_at


def feed(account: SlaAccount, wall_s: int, *values: tuple[int, int]) -> list[bool]:
    states = []
    for at, (owl_us, loss_ppm) in enumerate(values):
        account.measure(Measurement(wall_s * NS + at, owl_us, loss_ppm))
        states.append(account.is_broken)
    return states


@pytest.mark.parametrize("bad", [SLOW, LOSSY])
def test_it_is_broken_by_a_row_and_restored_by_a_longer_one(account: SlaAccount, wall_s: int, bad: tuple[int, int]) -> None:
    assert [False] * 5 + [True] * 10 + [False] == feed(account, wall_s, bad, bad, GOOD, bad, bad, bad, *[GOOD] * 10)
    broken, restored = account.next_event(), account.next_event()
    assert AgreementBroken(wall_s * NS + 5, Measurement(wall_s * NS + 5, *bad)) == broken
    assert AgreementRestored(wall_s * NS + 15, 0) == restored


def test_at_its_thresholds_it_is_kept(account: SlaAccount, wall_s: int) -> None:
    assert [False] * 5 == feed(account, wall_s, *[(50_000, 20_000)] * 5)


def test_nothing_is_bought_while_it_is_kept_or_above_its_price(account: SlaAccount, quote: Callable[[int], Quote], wall_s: int) -> None:
    with pytest.raises(NoOffer, match="the agreement is kept"):
        account.buy(quote(5), b"s", 10, wall_s * NS)
    feed(account, wall_s, SLOW, SLOW, SLOW)
    with pytest.raises(NoOffer, match="501 microtokens a GB, agreed are 500"):
        account.buy(quote(501), b"s", 10, wall_s * NS)
    account.buy(quote(500), b"s", 10, wall_s * NS)
    account.next_event()
    bought = account.next_event()
    assert isinstance(bought, DetourBought)
    assert 10 == bought.cap_microtoken


def test_all_detours_of_a_period_together_stay_within_the_budget(account: SlaAccount, quote: Callable[[int], Quote], wall_s: int) -> None:
    feed(account, wall_s, SLOW, SLOW, SLOW)
    account.buy(quote(5), b"first", 700, wall_s * NS)
    with pytest.raises(InsufficientEscrow):
        account.buy(quote(5), b"second", 301, wall_s * NS)
    account.spent(b"first", 200)
    account.spent(b"first", 700)  # said twice
    assert 800 == account.left_microtoken(wall_s * NS)
    account.buy(quote(5), b"second", 800, wall_s * NS)
    account.spent(b"second", 10_000)  # never more than was reserved
    assert (0, 1000) == (account.left_microtoken(wall_s * NS), account.left_microtoken((wall_s + 3600) * NS))


@pytest.mark.parametrize(("later_s", "told_microtoken"), [(0, 200), (3600, 0)], ids=["in the same period", "in the next one"])
def test_what_is_told_as_spent_is_that_of_the_present_period(
    account: SlaAccount, quote: Callable[[int], Quote], wall_s: int, later_s: int, told_microtoken: int
) -> None:
    feed(account, wall_s, SLOW, SLOW, SLOW)
    account.buy(quote(5), b"first", 700, wall_s * NS)
    account.spent(b"first", 200)
    feed(account, wall_s + later_s, *[GOOD] * 10)
    events = [account.next_event() for _ in range(3)]
    assert [told_microtoken] == [event.spent_microtoken for event in events if isinstance(event, AgreementRestored)]


def test_evidence_is_signed_bounded_and_read_back(
    account: SlaAccount, agreement: Agreement, sellers: tuple[Identity, ...], wall_s: int
) -> None:
    feed(account, wall_s, *[SLOW] * (EVIDENCE_MAX + 5))
    statement = account.evidence(sellers[0].node_id, Version(1, 0), wall_s * NS)
    record = statement.record(sellers[0])
    check(record, wall_s * NS)
    measured = measurements_of(Statement.of_record(record), agreement)
    assert (EVIDENCE_MAX, True) == (len(measured), all(map(agreement.is_broken_by, measured)))
    with pytest.raises(RemoteProtocolError):
        measurements_of(statement, attrs.evolve(agreement, owl_us_max=1))


@pytest.mark.parametrize("value", [1, ["sla"], ["sla", b"", 0, []], ["x", b"", 0, [[1, 2, 3]]]])
def test_other_contents_are_no_evidence(
    account: SlaAccount, agreement: Agreement, sellers: tuple[Identity, ...], wall_s: int, value: Any
) -> None:
    statement = attrs.evolve(account.evidence(sellers[0].node_id, Version(1, 0), wall_s * NS), content=pack(value))
    with pytest.raises(RemoteProtocolError):
        measurements_of(statement, agreement)


@pytest.mark.parametrize(
    "rows", [[[1, 2]], [[1, 2, True]], [5], [[1, 2, 3]] * (EVIDENCE_MAX + 1)], ids=["short", "bool", "no list", "too many"]
)
def test_malformed_measurements_are_the_peers_fault(
    account: SlaAccount, agreement: Agreement, sellers: tuple[Identity, ...], wall_s: int, rows: list[Any]
) -> None:
    statement = account.evidence(sellers[0].node_id, Version(1, 0), wall_s * NS)
    forged = attrs.evolve(statement, content=pack(["sla", agreement.digest, 0, rows]))
    with pytest.raises(RemoteProtocolError):
        measurements_of(forged, agreement)


@pytest.mark.parametrize(
    "change", [{"owl_us_max": 0}, {"loss_ppm_max": -1}, {"budget_microtoken": -1}, {"period_s": 0}, {"breaches_min": 0}, {"calm_min": 0}]
)
def test_an_impossible_agreement_is_refused(agreement: Agreement, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="within bounds"):
        attrs.evolve(agreement, **change)
