"""The market's shell: lists this router's offer, answers who asks for it, and keeps the book of others' offers. Decides nothing.

Protocol "/srwan/offer/1" on the control channel: the request is empty, the response the router's own offer record, or empty for none. The
channel authenticates both ends, so the answer also proves that the router is reached under the key that signed the offer.

What an offer says of time is resolved here for the coming weeks (`zones`); it is listed anew every week, and when windows run low, well
before it expires. It outlives that by weeks, because validators look it up when sessions on it are long over.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable

import trio

from srwan.clock import Clock
from srwan.errors import LedgerError, OverlayError, RemoteProtocolError
from srwan.identity import Identity
from srwan.ledger_client.exchange.messages import decode_record, encode_record
from srwan.ledger_client.market.bond import Bond
from srwan.ledger_client.market.book import OfferBook
from srwan.ledger_client.market.offer import Limits, Offer
from srwan.ledger_client.market.seller import Seller
from srwan.ledger_client.market.zones import resolve_windows
from srwan.ledger_client.record import ENVELOPE_BYTES_MAX, Key, Kind, Record, Version
from srwan.ledger_client.report import NS_PER_S
from srwan.ledger_client.settlement.signing import Address
from srwan.ledger_client.statement import MARKET_GROUP
from srwan.ledger_client.store import PAGE_RECORDS_MAX, Query, RecordStore
from srwan.offer_config import OfferSettings
from srwan.overlay.transport import ControlAddress, ControlChannel
from srwan.types import GeoAsn, NodeId
from srwan.wire import pack, unpack

__all__ = ["MarketService", "make_offer"]

log = logging.getLogger("srwan.ledger.market")

PROTOCOL = "/srwan/offer/1"
ANSWER_BYTES_MAX = ENVELOPE_BYTES_MAX[Kind.OFFER] + 200
"""An offer record: its envelope, and what it is filed under."""
REQUEST_TIMEOUT_S = 5.0
LOOK_S = 1.0
"""How often members and due requests are looked at, s."""
STORE_S = 2.0
"""How often the DITEX is asked for new offers, s."""
MEMBERS_S = 10.0
"""How often it is asked for those of members alone, by who asks them directly before it sends over them, s."""
ESCROW_S = 60.0
"""How often the settlement is asked for the escrow of anonymous sellers, s."""
DAY_S = 86_400
LIFETIME_S = 30 * DAY_S
"""Life of an offer, s: claims on it may be disputed weeks later."""
LIFETIME_SHORT_S = 9 * DAY_S
"""The same where there are too many windows for a month, s."""
RENEW_S = 7 * DAY_S
"""It is listed anew after so long, s."""


def make_offer(
    settings: OfferSettings,
    seller: NodeId,
    wall_ns: int,
    *,
    version: Version,
    wallet: Address | None = None,
    bond: Bond | None = None,
    place: GeoAsn | None = None,
) -> Offer:
    """Return the offer that settings ask for, its windows resolved for the coming weeks.

    Args:
        settings: the `[offer]` section.
        seller: this router.
        wall_ns: wall time of issue, ns since 1970.
        version: greater than that of the one before.
        wallet: who is paid.
        bond: of the wallet, for an anonymous listing.
        place: of this router; not told in an anonymous listing.

    Raises:
        ConfigError: there is no such time zone.
        ValueError: a price without a wallet, an anonymous listing without a bond, or too many windows.
    """
    if settings.is_anonymous and bond is None:
        raise ValueError("an anonymous offer needs a bond of its wallet")
    now_s = wall_ns // NS_PER_S  # windows are resolved from the day before, for one that is open now began earlier
    lifetime_s = LIFETIME_S
    try:
        schedule = resolve_windows(settings.windows, settings.time_zone, now_s - DAY_S, now_s + LIFETIME_S)
    except ValueError:
        lifetime_s = LIFETIME_SHORT_S
        schedule = resolve_windows(settings.windows, settings.time_zone, now_s - DAY_S, now_s + LIFETIME_SHORT_S)
    place = GeoAsn() if place is None or settings.is_anonymous else place
    return Offer(
        seller=seller,
        version=version,
        price_microtoken_per_gb=settings.price_microtoken_per_gb,
        wallet=wallet,
        issued_ns=wall_ns,
        expires_ns=wall_ns + lifetime_s * NS_PER_S,
        schedule=schedule,
        limits=Limits(settings.rate_kbps, settings.day_octets),
        label=settings.label,
        is_premium=settings.is_premium,
        saved_full_us=settings.saved_full_us,
        bond=bond if settings.is_anonymous else None,
        country=place.country,
        asn=place.asn,
    )


class MarketService:
    """Runs the market of one node.

    Args:
        identity: signs the offer.
        clock: the node's.
        control: carries requests and answers.
        address_of: where a member's control requests go; raises KeyError for others.
        members: who is in the group now.
        book: the offers of others.
        seller: stands by the offers listed.
        make: makes the offer to list, given wall time (ns) and version; None for a node that lists none.
        store: where offers are published and found; None for a node without a DITEX.
        escrow_of: what the settlement says of a wallet's escrow, microtokens; None without one.
        are_strangers_read: take offers of all sellers out of the DITEX, who may be a million; otherwise of members only, by key.
    """

    def __init__(
        self,
        identity: Identity,
        clock: Clock,
        control: ControlChannel,
        *,
        address_of: Callable[[NodeId], ControlAddress],
        members: Callable[[], Iterable[NodeId]],
        book: OfferBook,
        seller: Seller,
        make: Callable[[int, Version], Offer] | None = None,
        store: RecordStore | None = None,
        escrow_of: Callable[[Address], Awaitable[int]] | None = None,
        are_strangers_read: bool = True,
    ) -> None:
        self.book = book
        self.seller = seller
        self._identity = identity
        self._clock = clock
        self._control = control
        self._address_of = address_of
        self._members = members
        self._make = make
        self._store = store
        self._escrow_of = escrow_of
        self._are_strangers_read = are_strangers_read
        self._own = b""
        self._version = Version(0, 0)
        self._seen_revision = 0
        self._wake = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """List the offer, answer, and keep the book, until cancelled."""
        self._control.serve(PROTOCOL, self._answer)
        await self.list_offer(self._make)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_listed)
            if self._store is not None:
                nursery.start_soon(self._follow_store, self._store)
            if self._escrow_of is not None:
                nursery.start_soon(self._every, ESCROW_S, self.check_escrows)
            task_status.started()
            while True:
                self._ask_due(nursery)
                self._wake = trio.Event()
                with trio.move_on_after(LOOK_S):
                    await self._wake.wait()

    async def list_offer(self, make: Callable[[int, Version], Offer] | None) -> Offer | None:
        """List another offer from now on, or none; sessions on those before it go on.

        Raises:
            ValueError: the offer cannot be signed by this node. Nothing changed.
        """
        self._make = make
        if make is None:
            self._own = b""
            self.seller.withdraw_offer()
            return None
        wall_ns = self._clock.wall_ns()
        self._version = max(Version(wall_ns // NS_PER_S, 0), Version(self._version.era, self._version.sequence + 1))
        offer = make(wall_ns, self._version)
        record = offer.record(self._identity)
        self.seller.list_offer(offer)
        self._own = pack(encode_record(record))
        if self._store is not None:
            try:
                await self._store.put(record, wall_ns)
            except (LedgerError, RemoteProtocolError) as error:
                log.warning("the offer was not published: %s", error)
        return offer

    async def check_escrows(self, *, are_known: bool = True) -> None:
        """Ask the settlement for the escrow of anonymous sellers' wallets; without `are_known` only for those never asked for."""
        if self._escrow_of is None:
            return
        for wallet in self.book.wallets_to_check(are_known=are_known):
            try:
                self.book.note_escrow(wallet, await self._escrow_of(wallet))
            except LedgerError as error:
                log.warning("the escrow of %s is not known: %s", wallet, error)
                return

    async def refresh(self, node: NodeId) -> None:
        """Ask a member for its offer now, also one that came just now; what fails is asked again later."""
        self.book.set_members(self._members(), self._clock.now())
        await self._ask(node)

    # --- inner workings

    async def _answer(self, _caller: NodeId, body: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        if body:
            raise RemoteProtocolError("a request for an offer is empty", reason="offer-request")
        return self._own

    def _ask_due(self, nursery: trio.Nursery) -> None:
        now = self._clock.now()
        self.seller.tick(self._clock.wall_ns(), now)
        self.book.set_members(self._members(), now)
        self.book.handle_timer(now, self._clock.wall_ns())
        for node in self.book.requests_to_send(now):
            nursery.start_soon(self._ask, node)

    async def _ask(self, node: NodeId) -> None:
        try:
            answer = await self._control.request(self._address_of(node), PROTOCOL, b"", timeout_s=REQUEST_TIMEOUT_S)
            record = decode_record(unpack(answer, bytes_max=ANSWER_BYTES_MAX)) if answer else None
            is_news = self.book.receive_answer(node, record, self._clock.now(), self._clock.wall_ns())
        except (OverlayError, RemoteProtocolError, KeyError) as error:
            log.debug("no offer of %r: %s", node, error)
            self.book.request_failed(node, self._clock.now())
            return
        self._wake.set()
        if is_news and record is not None:
            await self._keep(record)
        await self.check_escrows(are_known=False)

    async def _keep(self, record: Record) -> None:
        """Store a member's offer, which our DITEX may not have yet."""
        if self._store is not None:
            try:
                await self._store.put(record, self._clock.wall_ns())
            except (LedgerError, RemoteProtocolError) as error:
                log.debug("an offer was not stored: %s", error)

    async def _follow_store(self, store: RecordStore) -> None:
        while True:
            try:
                await (self._read_all(store) if self._are_strangers_read else self._read_members(store))
            except LedgerError as error:
                log.warning("offers cannot be read: %s", error)
            await trio.sleep(STORE_S if self._are_strangers_read else MEMBERS_S)

    async def _read_all(self, store: RecordStore) -> None:
        """Take the offers that are new in the DITEX, page by page."""
        while page := await store.range(Query(kind=Kind.OFFER, unexpired_ns=self._clock.wall_ns(), after=self._seen_revision)):
            for stored in page:
                self._seen_revision = max(self._seen_revision, stored.revision)
                await self._receive(stored.record)

    async def _read_members(self, store: RecordStore) -> None:
        """Take the offers of members, however many others are in the DITEX; those known already cost nothing."""
        self.book.set_members(self._members(), self._clock.now())
        keys = [Key(Kind.OFFER, MARKET_GROUP, node) for node in self._members() if node != self._identity.node_id]
        for stored in await store.get_many(keys[:PAGE_RECORDS_MAX]):
            if stored is not None:
                await self._receive(stored.record)

    async def _receive(self, record: Record) -> None:
        try:
            self.book.receive_record(record, self._clock.wall_ns())
        except RemoteProtocolError as error:
            log.debug("an offer of %r was not taken: %s", record.subject, error)
        await trio.lowlevel.checkpoint()  # packets wait while a signature is checked, and a page has a thousand

    async def _keep_listed(self) -> None:
        while True:
            await trio.sleep(LOOK_S)
            offer, wall_ns = self.seller.offer, self._clock.wall_ns()
            if self._make is not None and offer is not None and wall_ns >= offer.issued_ns + RENEW_S * NS_PER_S:
                await self.list_offer(self._make)

    async def _every(self, period_s: float, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await trio.sleep(period_s)
            await work()
