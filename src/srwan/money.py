"""A node's money: what it pays for the paths its flows take, and what it is paid for carrying others'.

Wires four rooms and decides little: the market's book tells routing what relays ask, the paths that data take are shown to accounting with
their quotes, accounting's cores get the data plane's counters and say whose packets to slow down, and what they sign goes to the DITEX.

A node with a settlement engine and a wallet (`Purse`) pays and charges. Every other one runs the market alone: it cannot pay, and so must
know who asks a price, lest its traffic be slowed down there.
"""

from __future__ import annotations

import logging
import math
import random
import secrets
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import trio

from srwan.clock import Clock
from srwan.config import NodeConfig
from srwan.engines import open_settlement, open_wallet_key
from srwan.errors import LedgerError, NoOffer, RemoteProtocolError
from srwan.identity import Identity
from srwan.ledger_client.accounting.egress_account import EgressAccount
from srwan.ledger_client.accounting.events import AccountingEvent, SessionRefused
from srwan.ledger_client.accounting.journal import Journal
from srwan.ledger_client.accounting.outbox import Outbox
from srwan.ledger_client.accounting.payer import PathQuote, Payer, PayerSettings
from srwan.ledger_client.accounting.plan import NO_OFFER, PathPlan
from srwan.ledger_client.accounting.relay_account import Limit, RelayAccount, RelaySettings
from srwan.ledger_client.accounting.service import AccountingService, TrafficReading
from srwan.ledger_client.market.bond import sign_bond
from srwan.ledger_client.market.book import OfferBook
from srwan.ledger_client.market.offer import Offer
from srwan.ledger_client.market.quote import Quote, quote_for
from srwan.ledger_client.market.seller import Seller
from srwan.ledger_client.market.service import MarketService, make_offer
from srwan.ledger_client.record import Key, Kind, Version
from srwan.ledger_client.report import NS_PER_S
from srwan.ledger_client.settlement.settlement import Settlement
from srwan.ledger_client.settlement.signing import Address, WalletKey
from srwan.ledger_client.settlement.terms import PathTerms
from srwan.ledger_client.statement import MARKET_GROUP, Statement
from srwan.ledger_client.store import RecordStore
from srwan.ledger_client.validation.binding import BindingRequest
from srwan.overlay.transport import ControlAddress, ControlChannel
from srwan.overlay.view import View
from srwan.routing.reception import PathStatistics
from srwan.types import NodeId

if TYPE_CHECKING:
    from srwan.gossip.service import GossipService
    from srwan.routing.service import Flow, RoutingService

__all__ = ["Money", "Purse", "open_money"]

log = logging.getLogger("srwan.money")

PATHS_S = 0.5
"""Between two looks at which paths data take, s."""
WALLET_S = 10.0
"""Between two questions to the settlement engine for the wallet of one relay that has none, s."""
PRICES_S = 2.0
"""How long the opening of a path waits for the prices of the relays that it names, s: a dial and an answer."""
EDGE_S = 5
"""A session ends so long before an offer or its window does, s: clocks differ."""
JOURNAL = "accounting.journal"
BINDING_S = 86_400
"""How long a request to be bound lies in the DITEX, s; it is looked at again after half of that."""


@attrs.frozen
class Purse:
    """What a node pays with and is paid into."""

    settlement: Settlement
    """The engine; not closed by the node."""
    wallet: WalletKey


class _Plane:
    """Accounting's view of the data plane."""

    def __init__(self, routing: RoutingService) -> None:
        self._forwarder = routing.forwarder

    def read(self) -> TrafficReading:
        counters = self._forwarder.counters()
        neighbours = {node: (came.octets, went.octets) for node, (came, went) in counters.neighbours.items()}
        octets_in = sum(octets for octets, _ in neighbours.values())
        octets_out = sum(octets for _, octets in neighbours.values())
        return TrafficReading(counters.sent, counters.received, counters.relayed, octets_in, octets_out, neighbours)

    def limit(self, neighbour: NodeId, limit: Limit | None) -> None:
        if limit is None:
            self._forwarder.throttle(neighbour, frozenset(), is_exempt=False, octets_per_s=0)
        else:
            self._forwarder.throttle(neighbour, limit.tags, is_exempt=limit.is_exempt, octets_per_s=limit.octets_per_s)


class Money:
    """One node's market and accounts. Made by `open_money`; `attach` it to the node's rooms, then `run` it.

    Args:
        config: of the node.
        identity: of the node.
        clock: of the node.
        control: its control channel.
        store: its DITEX; None: nothing is published, so a relay cannot claim.
        purse: engine and wallet; None: the market alone.
        journal: of accounting; None without a purse.
        payer_settings: how much money is put where.
        relay_settings: how much credit is given.
    """

    def __init__(
        self,
        config: NodeConfig,
        identity: Identity,
        clock: Clock,
        control: ControlChannel,
        store: RecordStore | None,
        purse: Purse | None,
        journal: Journal | None,
        *,
        payer_settings: PayerSettings | None = None,
        relay_settings: RelaySettings | None = None,
    ) -> None:
        self._config = config
        self._identity = identity
        self._clock = clock
        self._control = control
        self._store = store
        self._purse = purse
        self._journal = journal
        self._payer_settings = payer_settings
        self._relay_settings = relay_settings
        rng = random.Random(secrets.randbits(128))
        self._rng = rng
        domain = None if purse is None else purse.settlement.domain
        self._is_plain = purse is None and config.offer is None
        self.book = OfferBook(identity.node_id, rng, domain=domain, are_unknown_free=self._is_plain)
        """What others ask: the prices by which routing chooses."""
        self.seller = Seller(identity.node_id, clock.wall_ns(), clock.now())
        """What this node asks."""
        self.market: MarketService | None = None
        """None until attached."""
        self.accounting: AccountingService | None = None
        """None until attached, and without a purse."""
        self._listeners: list[Callable[[object], None]] = []
        self._wallets: dict[NodeId, Address] = {}
        self._ask_wallet_at: dict[NodeId, float] = {}
        self._used: dict[tuple[NodeId, int], None] = {}
        self._carried_octets = 0

    def on_event(self, callback: Callable[[object], None]) -> None:
        """Call `callback` for each `AccountingEvent` and each event of the offer book."""
        self._listeners.append(callback)

    def attach(self, view: View, gossip: GossipService, routing: RoutingService) -> None:
        """Take the rooms of the node it serves. Call once, before `run`."""
        self._view, self._gossip, self._routing = view, gossip, routing
        wants_offer = self._config.offer is not None and (self._purse is not None or not self._config.offer.price_microtoken_per_gb)
        self.market = MarketService(
            self._identity,
            self._clock,
            self._control,
            address_of=self._require_address,
            members=lambda: view.ids,
            book=self.book,
            seller=self.seller,
            make=self._make_offer if wants_offer else None,
            store=self._store,
            escrow_of=None if self._purse is None else self._escrow_of,
            are_strangers_read=not self._is_plain,
        )
        if self._purse is None:
            return
        assert self._journal is not None
        wallet, settlement = self._purse.wallet, self._purse.settlement
        boot = self._clock.boot_id
        outbox = Outbox(self._rng)
        relay = None
        if self._config.carries:
            relay = RelayAccount(self._identity.node_id, wallet.address, settlement.domain, self.seller, self._relay_settings)
        self.accounting = AccountingService(
            self._identity.node_id,
            wallet,
            settlement,
            self._control,
            address_of=self._address_of,
            clock=self._clock,
            journal=self._journal,
            plane=_Plane(routing),
            payer=Payer(self._identity, wallet, settlement.domain, outbox, self._rng, self._payer_settings),
            relay=relay,
            egress=EgressAccount(self._identity, outbox, boot, self._direct_us),
            outbox=outbox,
            publish=self._publish,
            tell=self._on_accounting_event,
            boot=boot,
            problem_with=self._problem_with,
        )
        routing.on_event(self._on_routing_event)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Trade and keep accounts until cancelled.

        Raises:
            SettlementUnavailable: the engine cannot be reached at the start. DecodeError: the journal is another program's.
        """
        assert self.market is not None
        async with trio.open_nursery() as nursery:
            if self.accounting is not None:
                await self.accounting.restore()
                nursery.start_soon(self.accounting.run)
            await nursery.start(self.market.run)
            nursery.start_soon(self._watch)
            if self._purse is not None and self._config.carries and self._store is not None:
                nursery.start_soon(self._ask_to_be_bound, self._purse, self._store)
            task_status.started()

    async def flush(self) -> None:
        """Publish counters, receipts and claims now rather than when they are due."""
        if self.accounting is not None:
            await self.accounting.flush()

    async def learn_prices(self, relays: Sequence[NodeId]) -> None:
        """Ask these relays what they charge, those of whom nothing is known, and return when all have answered or PRICES_S have passed.

        Path choice asks by itself, and leaves out who has not answered yet; this is for relays to be used from the first packet on.
        """
        assert self.market is not None
        unknown = [relay for relay in relays if not self.book.is_known(relay)]
        if not unknown:
            return
        with trio.move_on_after(PRICES_S):
            async with trio.open_nursery() as nursery:
                for relay in unknown:
                    nursery.start_soon(self.market.refresh, relay)

    def status(self) -> dict[str, Any]:
        """Return the state as JSON values; amounts in microtokens."""
        accounting, offer = self.accounting, self.seller.offer
        status: dict[str, Any] = {
            "wallet": None if self._purse is None else str(self._purse.wallet.address),
            "price_microtoken": None if offer is None else offer.price_microtoken_per_gb,
            "offers_known": len(self.book.offers()),
        }
        if accounting is not None:
            tickets = accounting.payer.tickets()
            status["sessions"] = len(tickets)
            status["owed_by_us_microtoken"] = sum(ticket.amount_microtoken for _, _, ticket in tickets if ticket is not None)
            status["tickets_held_microtoken"] = 0 if accounting.relay is None else accounting.relay.owed_microtoken()
        return status

    async def _ask_to_be_bound(self, purse: Purse, store: RecordStore) -> None:
        """See to it that what this router carries is paid to its wallet: validators bind the two when both ask for it."""
        node, wallet, settlement = self._identity.node_id, purse.wallet.address, purse.settlement
        while True:
            try:
                if await settlement.wallet_of(node) != wallet:
                    sequence = await settlement.binding_sequence(node) + 1
                    request = BindingRequest.sign(self._identity, purse.wallet, settlement.domain, sequence)
                    wall_ns = self._clock.wall_ns()
                    expires_ns = wall_ns + BINDING_S * NS_PER_S
                    statement = request.statement(Version(wall_ns // NS_PER_S, 0), issued_ns=wall_ns, expires_ns=expires_ns)
                    await store.put(statement.record(self._identity), wall_ns)
            except (LedgerError, RemoteProtocolError) as error:
                log.warning("this router's wallet is not bound to it: %s", error)
            await trio.sleep(BINDING_S / 2)

    # --- paths ------------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            await trio.sleep(PATHS_S)
            while (event := self.book.next_event()) is not None:
                self._tell(event)
            if self.accounting is not None:
                await self._pay_for_paths(self.accounting)
                self._count_carried()

    async def _pay_for_paths(self, accounting: AccountingService) -> None:
        """Show accounting the relayed paths that data take now."""
        used: dict[tuple[NodeId, int], None] = {}
        for flow in self._routing.flows:
            for quote, path_tag in await self._quotes_of(flow):
                used[quote.egress, path_tag] = None
                accounting.use_path(quote, path_tag)
        for egress, path_tag in self._used.keys() - used.keys():
            accounting.release_path(egress, path_tag)
        self._used = used

    async def _quotes_of(self, flow: Flow) -> list[tuple[PathQuote, int]]:
        """Return what the paths cost on which a flow's data are, with their path tags."""
        control, price_max = flow.control, flow.policy.price_max_microtoken
        if control is None or control.is_closed or not price_max:
            return []
        statuses = control.paths
        direct_ms = next((status.live_ms for status in statuses if not status.relays), math.nan)
        found: list[tuple[PathQuote, int]] = []
        for status in statuses:
            is_used = status.is_in_use or self._routing.forwarder.sent(flow.peer, status.path_tag).packets > 0
            if not status.relays or not is_used:
                continue
            quote = await self._quote(status.relays, price_max)
            if quote is not None and not quote.is_free:
                found.append((self._path_quote(quote, flow.peer, status.predicted_ms, direct_ms), status.path_tag))
        return found

    async def _quote(self, relays: tuple[NodeId, ...], price_max_microtoken: int) -> Quote | None:
        try:
            for relay in relays:
                await self._find_wallet(relay)
            wall_ns = self._clock.wall_ns()
            return quote_for(self.book, relays, wall_ns, price_max_microtoken=price_max_microtoken, wallets=self._wallets)
        except (NoOffer, LedgerError) as error:
            log.debug("a path is not paid for: %s", error)
            return None

    async def _find_wallet(self, relay: NodeId) -> None:
        """Look up the wallet of a relay that lists none: on a paid path all relays are payees, free ones with a price of 0."""
        offer = self.book.offer_of(relay)
        if self._purse is None or relay in self._wallets or (offer is not None and offer.wallet is not None):
            return
        now = self._clock.now()
        if now < self._ask_wallet_at.get(relay, now):
            return
        self._ask_wallet_at[relay] = now + WALLET_S
        wallet = await self._purse.settlement.wallet_of(relay)
        if wallet is not None:
            self._wallets[relay] = wallet
            del self._ask_wallet_at[relay]

    def _path_quote(self, quote: Quote, egress: NodeId, predicted_ms: float, direct_ms: float) -> PathQuote:
        wall_s = self._clock.wall_ns() // 10**9
        return PathQuote(
            relays=quote.relays,
            egress=egress,
            payees=quote.payees,
            prices_microtoken=quote.prices_microtoken,
            offers=quote.offer_digests,
            predicted_us=_whole_us(predicted_ms),
            direct_us=_whole_us(direct_ms),
            saved_full_us=quote.saved_full_us,
            lifetime_s_max=max(1, quote.expires_s - wall_s - EDGE_S),
        )

    # --- what the parts want of the node ------------------------------------------------------------------------------

    def _make_offer(self, wall_ns: int, version: Version) -> Offer:
        """Make the offer that the settings ask for."""
        settings = self._config.offer
        assert settings is not None
        node_id, bond = self._identity.node_id, None
        wallet = None if self._purse is None else self._purse.wallet
        if settings.is_anonymous and wallet is not None and self._purse is not None:
            bond = sign_bond(wallet, self._purse.settlement.domain, node_id, settings.bond_microtoken)
        address = None if wallet is None else wallet.address
        return make_offer(settings, node_id, wall_ns, version=version, wallet=address, bond=bond, place=self._config.location)

    def _address_of(self, node: NodeId) -> ControlAddress | None:
        member = self._view.get(node)
        return None if member is None else ControlAddress(node, member.control)

    def _require_address(self, node: NodeId) -> ControlAddress:
        """As `_address_of`. Raises KeyError for who is no member."""
        address = self._address_of(node)
        if address is None:
            raise KeyError(node)
        return address

    async def _escrow_of(self, wallet: Address) -> int:
        assert self._purse is not None
        return (await self._purse.settlement.account(wallet)).escrow_microtoken

    def _direct_us(self, consumer: NodeId) -> int | None:
        """Return the raw one-way latency from a consumer to this node as the group measures it."""
        snapshot = self._gossip.snapshot(self._clock.now())
        members = list(snapshot.members)
        if consumer not in members or self._identity.node_id not in members:
            return None
        raw_ms = float(snapshot.mean_ms[members.index(consumer), members.index(self._identity.node_id)])
        return _whole_us(raw_ms) if math.isfinite(raw_ms) else None

    async def _publish(self, statements: Sequence[Statement]) -> bool:
        """Sign statements and put them into the DITEX; say whether they are there."""
        if self._store is None:
            return False
        records = [statement.record(self._identity) for statement in statements]
        try:
            outcome = await self._store.put_many(records, self._clock.wall_ns())
        except LedgerError as error:
            log.warning("accounts were not published: %s", error)
            return False
        for refusal in outcome.refused:
            log.warning("the store refused a record of accounting: %s", refusal.error)
        return not outcome.refused

    async def _problem_with(self, terms: PathTerms, plan: PathPlan) -> str:
        """Say why validators would refuse a claim on a session that is open; a relay gives credit only where they would not.

        The words are those of `srwan.ledger_client.validation.checks`.
        """
        assert self._purse is not None
        wallet_of = self._purse.settlement.wallet_of
        wallets = [await wallet_of(relay) for relay in plan.relays]
        own = plan.relays.index(self._identity.node_id)
        if None in wallets or wallets[own] != terms.payees[own]:
            return "binding"
        if terms.consumer in terms.payees or await wallet_of(plan.egress) in terms.payees:
            return "payee"
        for relay, digest, price in zip(plan.relays, plan.offers, terms.prices_microtoken, strict=True):
            if relay != self._identity.node_id and (problem := await self._problem_with_offer(relay, digest, price)):
                return problem
        return ""

    async def _problem_with_offer(self, relay: NodeId, digest: bytes, price_microtoken: int) -> str:
        """Say why another relay's price would not stand: there is no such offer, or it says otherwise."""
        if digest == NO_OFFER:
            return "price" if price_microtoken else ""
        assert self.market is not None
        if (offer := self.book.offer_of(relay)) is None or offer.digest != digest:
            await self.market.refresh(relay)
            offer = await self._offer_by_digest(relay, digest)
        if offer is None:
            return "offer-missing"
        return "" if offer.price_microtoken_per_gb == price_microtoken else "price"

    async def _offer_by_digest(self, relay: NodeId, digest: bytes) -> Offer | None:
        """Find an offer of a relay among those known and those in the DITEX, replaced ones too."""
        offer = self.book.offer_of(relay)
        if offer is not None and offer.digest == digest:
            return offer
        if self._store is None:
            return None
        for stored in await self._store.history(Key(Kind.OFFER, MARKET_GROUP, relay)):
            with suppress(RemoteProtocolError):
                older = Offer.of_record(stored.record)
                if older.digest == digest:
                    return older
        return None

    def _count_carried(self) -> None:
        """Tell the seller what was carried, for its limit of a day."""
        carried = sum(count.octets for count in self._routing.forwarder.counters().relayed.values())
        self.seller.count_octets(max(0, carried - self._carried_octets))
        self._carried_octets = carried

    def _on_routing_event(self, event: object) -> None:
        if isinstance(event, PathStatistics) and self.accounting is not None:
            self.accounting.path_measured(event.ingress, event.path_tag, event.packets, _whole_us(event.measured_ms))

    def _on_accounting_event(self, event: AccountingEvent) -> None:
        if isinstance(event, SessionRefused) and event.node is not None:
            self.book.ask_again(event.node, self._clock.now())  # it does not ask any more what its known offer says
        self._tell(event)

    def _tell(self, event: AccountingEvent | object) -> None:
        for listener in self._listeners:
            listener(event)


def _whole_us(latency_ms: float) -> int:
    return round(latency_ms * 1000) if math.isfinite(latency_ms) else 0


@asynccontextmanager
async def open_money(
    config: NodeConfig,
    identity: Identity,
    clock: Clock,
    control: ControlChannel,
    store: RecordStore | None,
    purse: Purse | None = None,
) -> AsyncIterator[Money]:
    """Open what the settings name for money for the duration of the block.

    Args:
        config: of the node.
        identity: of the node.
        clock: of the node.
        control: its control channel.
        store: its DITEX.
        purse: engine and wallet to use instead of those that the settings name; stays open.

    Raises:
        ConfigError, SettlementUnavailable, WalletLocked, StoreUnavailable: a part cannot be opened.
    """
    async with AsyncExitStack() as stack:
        if purse is None and config.settlement.is_enabled:
            settlement = await stack.enter_async_context(open_settlement(config))
            purse = Purse(settlement, await open_wallet_key(config))
        journal = None
        if purse is not None:
            folder = config.state_dir or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="srwan-")))
            journal = stack.enter_context(Journal(folder / JOURNAL))
        yield Money(config, identity, clock, control, store, purse, journal)
