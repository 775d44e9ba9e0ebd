"""The market's shell over channels in memory: offers are listed, fetched, renewed, and found in the DITEX."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from srwan.errors import ConfigError, OverlayError
from srwan.identity import Identity
from srwan.ledger_client.exchange.messages import encode_record
from srwan.ledger_client.market.bond import sign_bond
from srwan.ledger_client.market.book import OfferBook
from srwan.ledger_client.market.offer import Offer
from srwan.ledger_client.market.seller import Seller
from srwan.ledger_client.market.service import LIFETIME_SHORT_S, PROTOCOL, RENEW_S, MarketService, make_offer
from srwan.ledger_client.memory import MemoryStore
from srwan.ledger_client.record import Kind, Version
from srwan.ledger_client.settlement.signing import Address, SettlementDomain, WalletKey
from srwan.ledger_client.store import Query
from srwan.offer_config import OfferSettings, make_offer_settings
from srwan.overlay.memory import MemoryControlChannel, MemoryNetwork
from srwan.overlay.transport import ControlAddress
from srwan.swarm.clocks import TrioClock
from srwan.types import GeoAsn, NodeId
from srwan.wire import pack

NS = 10**9


class Town:
    """Routers whose market runs, in one group."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.network = MemoryNetwork()
        self.clock = TrioClock()
        self.channels: dict[NodeId, MemoryControlChannel] = {}
        self.nursery = nursery
        self.escrows: dict[Address, int] = {}

    def address_of(self, node: NodeId) -> ControlAddress:
        return self.channels[node].local_address

    async def escrow_of(self, wallet: Address) -> int:
        await trio.lowlevel.checkpoint()
        return self.escrows.get(wallet, 0)

    async def open(
        self,
        identity: Identity,
        *,
        make: Callable[[int, Version], Offer] | None = None,
        store: MemoryStore | None = None,
        domain: SettlementDomain | None = None,
        are_strangers_read: bool = True,
    ) -> MarketService:
        node = identity.node_id
        self.channels[node] = self.network.control_channel(node)
        service = MarketService(
            identity,
            self.clock,
            self.channels[node],
            address_of=self.address_of,
            members=lambda: self.channels,
            book=OfferBook(node, random.Random(1), domain=domain),
            seller=Seller(node, self.clock.wall_ns(), self.clock.now()),
            make=make,
            store=store,
            escrow_of=self.escrow_of,
            are_strangers_read=are_strangers_read,
        )
        await self.nursery.start(service.run)
        return service

    def price(self, buyer: MarketService, seller: Identity) -> int | None:
        return buyer.book.price_of(seller.node_id, self.clock.wall_ns())


@asynccontextmanager
async def town() -> AsyncIterator[Town]:
    async with trio.open_nursery() as nursery:
        yield Town(nursery)
        nursery.cancel_scope.cancel()


def asking(seller: Identity, wallet: WalletKey, price: int, **settings: Any) -> Callable[[int, Version], Offer]:
    values = OfferSettings(price_microtoken_per_gb=price, **settings)
    return lambda wall_ns, version: make_offer(values, seller.node_id, wall_ns, version=version, wallet=wallet.address)


async def test_a_member_is_asked_once_its_price_is_wanted_and_then_known(
    autojump_clock: trio.testing.MockClock, sellers: tuple[Identity, ...], wallets: tuple[WalletKey, ...]
) -> None:
    async with town() as here:
        buyer = await here.open(sellers[0])
        await here.open(sellers[1], make=asking(sellers[1], wallets[1], 5))
        await here.open(sellers[2])
        await trio.sleep(3)
        assert ((), None, None) == (buyer.book.offers(), here.price(buyer, sellers[1]), here.price(buyer, sellers[2]))
        await trio.sleep(3)
        assert (5, 0) == (here.price(buyer, sellers[1]), here.price(buyer, sellers[2]))


async def test_who_neither_pays_nor_charges_reads_the_offers_of_members_alone(
    autojump_clock: trio.testing.MockClock, sellers: tuple[Identity, ...], wallets: tuple[WalletKey, ...]
) -> None:
    store = MemoryStore()
    async with town() as here:
        wall_ns = here.clock.wall_ns()
        for index in (1, 2):
            offer = asking(sellers[index], wallets[index], 5)(wall_ns, Version(wall_ns // NS, 0))
            await store.put(offer.record(sellers[index]), wall_ns)
        here.channels[sellers[1].node_id] = here.network.control_channel(sellers[1].node_id)  # a member that answers nobody
        buyer = await here.open(sellers[0], store=store, are_strangers_read=False)
        everybody = await here.open(sellers[3], store=store)
        await trio.sleep(1)
        assert [sellers[1].node_id] == [offer.seller for offer in buyer.book.offers()]
        assert 5 == here.price(buyer, sellers[1])
        assert {sellers[1].node_id, sellers[2].node_id} == {offer.seller for offer in everybody.book.offers()}


async def test_a_new_price_comes_through_the_ditex(
    autojump_clock: trio.testing.MockClock, sellers: tuple[Identity, ...], wallets: tuple[WalletKey, ...]
) -> None:
    async with town() as here:
        store = MemoryStore()
        buyer = await here.open(sellers[0], store=store)
        seller = await here.open(sellers[1], make=asking(sellers[1], wallets[1], 5), store=store)
        await trio.sleep(6)
        assert 5 == here.price(buyer, sellers[1])
        await seller.list_offer(asking(sellers[1], wallets[1], 7))
        await trio.sleep(6)
        assert 7 == here.price(buyer, sellers[1])
        assert 1 == len(await store.range(Query(kind=Kind.OFFER)))


async def test_an_offer_learned_from_a_member_is_put_into_the_ditex(
    autojump_clock: trio.testing.MockClock, sellers: tuple[Identity, ...], wallets: tuple[WalletKey, ...]
) -> None:
    async with town() as here:
        store = MemoryStore()
        buyer = await here.open(sellers[0], store=store)
        await here.open(sellers[1], make=asking(sellers[1], wallets[1], 5))
        await trio.sleep(2)
        here.price(buyer, sellers[1])
        await trio.sleep(3)
        assert [sellers[1].node_id] == [stored.record.subject for stored in await store.range(Query(kind=Kind.OFFER))]


async def test_an_offer_is_listed_anew_before_it_expires(
    autojump_clock: trio.testing.MockClock, sellers: tuple[Identity, ...], wallets: tuple[WalletKey, ...]
) -> None:
    async with town() as here:
        service = await here.open(sellers[1], make=asking(sellers[1], wallets[1], 5))
        first = service.seller.offer
        assert first is not None
        await trio.sleep(10)
        assert service.seller.offer is first
        make = asking(sellers[1], wallets[1], 5)
        old = await service.list_offer(lambda wall_ns, version: make(wall_ns - RENEW_S * NS, version))
        assert old is not None
        service._make = make
        await trio.sleep(3)
        assert service.seller.offer is not None
        assert old.version < service.seller.offer.version


async def test_what_is_withdrawn_is_not_answered_any_more(
    autojump_clock: trio.testing.MockClock, sellers: tuple[Identity, ...], wallets: tuple[WalletKey, ...]
) -> None:
    async with town() as here:
        seller = await here.open(sellers[1], make=asking(sellers[1], wallets[1], 5))
        await seller.list_offer(None)
        buyer = await here.open(sellers[0])
        here.price(buyer, sellers[1])
        await trio.sleep(3)
        assert (0, None) == (here.price(buyer, sellers[1]), seller.seller.offer)


async def test_an_anonymous_seller_is_used_once_its_escrow_is_looked_up(
    autojump_clock: trio.testing.MockClock, sellers: tuple[Identity, ...], wallets: tuple[WalletKey, ...], domain: SettlementDomain
) -> None:
    async with town() as here:
        here.escrows[wallets[1].address] = 1000
        settings = OfferSettings(price_microtoken_per_gb=5, is_anonymous=True, bond_microtoken=1000)
        bond = sign_bond(wallets[1], domain, sellers[1].node_id, 1000)

        def make(wall_ns: int, version: Version) -> Offer:
            place = GeoAsn("DE", asn=3320)
            return make_offer(settings, sellers[1].node_id, wall_ns, version=version, wallet=wallets[1].address, bond=bond, place=place)

        seller = await here.open(sellers[1], make=make)
        assert seller.seller.offer is not None
        assert ("ZZ", 0) == (seller.seller.offer.country, seller.seller.offer.asn)
        buyer = await here.open(sellers[0], domain=domain)
        here.price(buyer, sellers[1])
        await trio.sleep(3)
        assert 5 == here.price(buyer, sellers[1])
        here.escrows[wallets[1].address] = 999
        await trio.sleep(61)
        assert None is here.price(buyer, sellers[1])


@pytest.mark.parametrize("kind", ["garbage", "foreign", "long", "silent"])
async def test_a_member_that_answers_nonsense_is_asked_again_later_and_breaks_nothing(
    autojump_clock: trio.testing.MockClock, sellers: tuple[Identity, ...], wallets: tuple[WalletKey, ...], kind: str
) -> None:
    async with town() as here:
        asked = 0

        async def answer(_caller: NodeId, _body: bytes) -> bytes:
            nonlocal asked
            asked += 1
            await trio.lowlevel.checkpoint()
            match kind:
                case "garbage":
                    return b"\xc1garbage"
                case "foreign":
                    offer = asking(sellers[2], wallets[2], 5)(here.clock.wall_ns(), Version(1, 0))
                    return pack(encode_record(offer.record(sellers[2])))
                case "long":
                    return bytes(100_000)
                case _:
                    raise OverlayError("nobody there")

        channel = here.network.control_channel(sellers[1].node_id)
        channel.serve(PROTOCOL, answer)
        here.channels[sellers[1].node_id] = channel
        buyer = await here.open(sellers[0])
        assert None is here.price(buyer, sellers[1])
        await trio.sleep(60)
        assert (0, ()) == (here.price(buyer, sellers[1]), buyer.book.offers())
        assert 2 <= asked <= 4


async def test_a_request_with_a_body_is_refused(
    autojump_clock: trio.testing.MockClock, sellers: tuple[Identity, ...], wallets: tuple[WalletKey, ...]
) -> None:
    async with town() as here:
        await here.open(sellers[1], make=asking(sellers[1], wallets[1], 5))
        client = here.network.control_channel(sellers[0].node_id)
        with pytest.raises(OverlayError):
            await client.request(here.address_of(sellers[1].node_id), PROTOCOL, b"x", timeout_s=1)


# -- making offers


def test_windows_are_resolved_for_a_month_or_where_there_are_many_for_a_week(sellers: tuple[Identity, ...], wall_s: int) -> None:
    few = make_offer_settings({"price_microtoken_per_gb": 0, "windows": ["22:00-06:00"], "time_zone": "Europe/Vilnius"})
    many = make_offer_settings({"price_microtoken_per_gb": 0, "windows": [f"{hour:02}:00-{hour:02}:30" for hour in range(0, 20, 2)]})
    lives = [make_offer(each, sellers[0].node_id, wall_s * NS, version=Version(1, 0)) for each in (few, many)]
    assert [30 * 86_400, LIFETIME_SHORT_S] == [(offer.expires_ns - offer.issued_ns) // NS for offer in lives]
    too_many = make_offer_settings({"windows": [f"{hour:02}:{minute}-{hour:02}:{minute + 5}" for hour in range(8) for minute in (10, 20)]})
    with pytest.raises(ValueError, match="128 fit"):
        make_offer(too_many, sellers[0].node_id, wall_s * NS, version=Version(1, 0))


def test_an_offer_that_cannot_be_is_not_made(sellers: tuple[Identity, ...], wall_s: int) -> None:
    priced, anonymous = OfferSettings(price_microtoken_per_gb=1), OfferSettings(is_anonymous=True, bond_microtoken=1)
    with pytest.raises(ValueError, match="no wallet is named"):
        make_offer(priced, sellers[0].node_id, wall_s * NS, version=Version(1, 0))
    with pytest.raises(ValueError, match="needs a bond"):
        make_offer(anonymous, sellers[0].node_id, wall_s * NS, version=Version(1, 0))
    with pytest.raises(ConfigError, match="Mars"):
        nowhere = make_offer_settings({"windows": ["08:00-09:00"], "time_zone": "Mars/Olympus"})
        make_offer(nowhere, sellers[0].node_id, wall_s * NS, version=Version(1, 0))
