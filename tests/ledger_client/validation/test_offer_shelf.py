"""What a validator judges by survives the store's pruning and its own restart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from srwan.errors import RemoteProtocolError
from srwan.ledger_client.accounting.journal import Journal
from srwan.ledger_client.market.offer import Offer
from srwan.ledger_client.record import Version
from srwan.ledger_client.validation import offer_shelf
from srwan.ledger_client.validation.offer_shelf import KEPT_S, OfferShelf
from srwan.testing.market import DAY_S, NS_PER_S, START_S, Market, router, wallet

GB = 10**9
RELAYS = ("relay-1", "relay-2", "relay-3")
EXPIRES_NS = (START_S + DAY_S) * NS_PER_S


def offer_of(name: str, sequence: int = 1) -> Offer:
    return Offer(
        seller=router(name).node_id,
        version=Version(1, sequence),
        price_microtoken_per_gb=5,
        wallet=wallet(name).address,
        issued_ns=START_S * NS_PER_S,
        expires_ns=EXPIRES_NS,
    )


def close(shelf: OfferShelf) -> None:
    assert shelf._journal is not None
    shelf._journal.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "offers"


@pytest.fixture
def full(path: Path) -> Iterator[OfferShelf]:
    """Holds two offers of relay-1 and one of relay-2."""
    with Journal(path) as journal:
        shelf = OfferShelf(journal, START_S * NS_PER_S)
        for name, sequence in (("relay-1", 1), ("relay-1", 2), ("relay-2", 1), ("relay-1", 1)):
            shelf.put(offer_of(name, sequence).record(router(name)))
        yield shelf


def test_offers_replaced_ones_too_are_there_after_a_restart(path: Path, full: OfferShelf) -> None:
    close(full)
    with Journal(path) as journal:
        shelf = OfferShelf(journal, START_S * NS_PER_S)
        wanted = [offer_of("relay-1"), offer_of("relay-1", 2), offer_of("relay-2")]
        assert wanted == [shelf.get(offer.digest) for offer in wanted]
        assert 3 == len(shelf)


@pytest.mark.parametrize(("later_ns", "left"), [(-1, 3), (0, 0)])
def test_long_expired_ones_are_let_go(path: Path, full: OfferShelf, later_ns: int, left: int) -> None:
    close(full)
    with Journal(path) as journal:
        assert left == len(OfferShelf(journal, EXPIRES_NS + KEPT_S * NS_PER_S + later_ns))


def test_it_is_bounded_and_the_file_too(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offer_shelf, "OFFERS_KEPT_MAX", 2)
    monkeypatch.setattr("srwan.ledger_client.accounting.journal.COMPACT_BYTES_MIN", 2_000)
    with Journal(path) as journal:
        shelf = OfferShelf(journal, 0)
        offers = [offer_of("relay-1", sequence) for sequence in range(1, 40)]
        for offer in offers:
            shelf.put(offer.record(router("relay-1")))
            assert journal.size_bytes < 5_000
        assert [None, *offers[-2:]] == [shelf.get(offer.digest) for offer in offers[-3:]]
    with Journal(path) as journal:
        again = OfferShelf(journal, 0)
        assert offers[-2:] == [again.get(offer.digest) for offer in offers[-2:]]


def test_what_its_seller_did_not_sign_is_not_taken(full: OfferShelf) -> None:
    record = offer_of("relay-3").record(router("relay-3"))
    full.put(attrs.evolve(record, envelope=record.envelope[:-1] + bytes([record.envelope[-1] ^ 1])))
    assert (3, None) == (len(full), full.get(offer_of("relay-3").digest))


def test_a_journal_of_another_is_refused(path: Path) -> None:
    with Journal(path) as journal:
        journal.append(b"nonsense")
    with Journal(path) as journal, pytest.raises(RemoteProtocolError):
        OfferShelf(journal, 0)


@pytest.mark.parametrize(("is_kept", "settled_microtoken"), [(True, 3_000_000), (False, 0)], ids=["kept", "lost"])
async def test_a_claim_on_a_pruned_offer_is_paid_after_a_restart_of_all_validators(
    tmp_path: Path, is_kept: bool, settled_microtoken: int
) -> None:
    market = await Market.open()
    paths = {seat.name: tmp_path / seat.name for seat in market.seats}
    script = await market.session([await market.offer(name, 1_000_000, issued_s=market.now_s - DAY_S + 100) for name in RELAYS])
    for seat in market.seats:
        with Journal(paths[seat.name]) as journal:
            await market.restart(seat, OfferShelf(journal, market.now_ns))  # reads the store
    await market.pass_s(200)
    await market.store.prune(market.now_ns)
    journals = {name: Journal(each) for name, each in paths.items()}
    for seat in market.seats:
        await market.restart(seat, OfferShelf(journals[seat.name], market.now_ns) if is_kept else None)
    await script.deliver(GB)
    await market.pass_s(100)
    for journal in journals.values():
        journal.close()

    assert settled_microtoken == await script.settled_microtoken()
    await market.settlement.aclose()
