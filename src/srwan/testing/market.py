"""A small market in one process: real records, validators and contract, and a clock that the caller moves.

For tests of what is paid, by whom, and what an attacker gets. Nothing here is a model: tickets, receipts, counters and offers are signed,
stored and judged as they would be. What is missing is the traffic itself: a script says how many octets the egress authenticated.

Time is the caller's: `Market.pass_s` moves the wall clock, the chain's and the validators' alike, in steps of a slot, and lets the
validators do all they have to do after each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs

from srwan.clock import Clock
from srwan.errors import RemoteProtocolError
from srwan.identity import Identity
from srwan.ledger_client.accounting.counters import RouterCounters, SessionCount, SessionRole, packet_overhead_octets
from srwan.ledger_client.accounting.plan import NO_OFFER, PathPlan, amount_due
from srwan.ledger_client.accounting.receipt import Receipt
from srwan.ledger_client.market.offer import Offer
from srwan.ledger_client.market.schedule import ALWAYS, Schedule
from srwan.ledger_client.memory import MemoryStore
from srwan.ledger_client.record import Record, Version
from srwan.ledger_client.settlement.deploy import Deployment
from srwan.ledger_client.settlement.pyevm import PyEvmSettlement
from srwan.ledger_client.settlement.settlement import Claim, binding_digest
from srwan.ledger_client.settlement.signing import SettlementDomain, WalletKey, keccak256
from srwan.ledger_client.settlement.terms import PathTerms, price_of
from srwan.ledger_client.settlement.ticket import PathTicket, sign_ticket
from srwan.ledger_client.validation.claim import ClaimFiling
from srwan.ledger_client.validation.events import Event, Request
from srwan.ledger_client.validation.offer_shelf import OfferShelf
from srwan.ledger_client.validation.service import ValidatorService
from srwan.types import NodeId

__all__ = ["Holdings", "Market", "Seat", "SessionScript", "router", "wallet"]

START_S = 1_800_000_000
SLOT_S = 10
WINDOW_S = 3_600
DAY_S = 86_400
NS_PER_S = 10**9
PACKET_OCTETS = 1_000
"""Bodies of the scripted traffic are of this size."""
FUNDS_MICROTOKEN = 10**12
"""Handed to every wallet of the genesis."""
TURNS_MAX = 200
"""Rounds of records and requests after one step in time; more would be a loop."""


def wallet(name: str) -> WalletKey:
    """Return the wallet of a name, the same every time."""
    return WalletKey(keccak256(b"wallet/" + name.encode()))


def router(name: str) -> Identity:
    """Return the router of a name, the same every time."""
    return Identity(keccak256(b"router/" + name.encode()))


class Seat:
    """One validator of the market, and whether it is up.

    Args:
        name: of its wallet and router.
        service: what it runs; requests pass through `on_request` first, so that a test can have it lie.
    """

    def __init__(self, name: str, service: ValidatorService) -> None:
        self.name = name
        self.service = service
        self.is_up = True
        self.revision = 0
        """Of the store, up to which it has read."""
        self.events: list[Event] = []
        self.on_request: Callable[[Request], Request | None] = lambda request: request
        """Changes or swallows what the core asks for."""
        service.on_event(self.events.append)


class Market:
    """Consumers, relays, an egress, validators, a store and a contract. Made by `open`.

    Args:
        settlement: with the contract.
        seats: names of the validators.
        moment: holds the time, s since 1970.
    """

    def __init__(self, settlement: PyEvmSettlement, seats: Sequence[str], moment: list[int]) -> None:
        self.settlement = settlement
        self.store = MemoryStore()
        self._moment = moment
        self.seats = [self._seat(name) for name in seats]
        """The validators."""

    @classmethod
    async def open(
        cls,
        *,
        wallets: Sequence[str] = ("consumer",),
        routers: Sequence[str] = ("relay-1", "relay-2", "relay-3", "egress", "consumer"),
        validators: int = 5,
        quorum: int = 3,
        fee_bps: int = 100,
        subsidy_microtoken: int = 0,
        start_s: int = START_S,
    ) -> Market:
        """Deploy a contract, give each wallet FUNDS_MICROTOKEN, half of it in escrow, and bind each router to the wallet of its name.

        Cost: 0.2 s, and 1 s more for the first one of a process.
        """
        moment = [start_s]
        names = [f"validator-{number}" for number in range(validators)]
        deployment = Deployment(
            validators=tuple(wallet(name).address for name in names),
            quorum=quorum,
            supply_microtoken=10**15,
            subsidy_microtoken=subsidy_microtoken,
            fee_bps=fee_bps,
            window_s=WINDOW_S,
            withdraw_delay_s=DAY_S,
            genesis=tuple((wallet(name).address, FUNDS_MICROTOKEN) for name in wallets),
        )
        settlement = await PyEvmSettlement.deploy(None, wallet("deployer"), deployment, clock_s=lambda: moment[0])
        market = cls(settlement, names, moment)
        for name in wallets:
            await settlement.deposit(wallet(name), FUNDS_MICROTOKEN // 2)
        for name in routers:
            await market.bind(name, name)
        for seat in market.seats:
            await market.start(seat)
        return market

    def _seat(self, name: str, offers: OfferShelf | None = None) -> Seat:
        clock = Clock(lambda: self._moment[0] * NS_PER_S, lambda: self._moment[0] * NS_PER_S)
        service = ValidatorService(self.store, self.settlement, router(name), wallet(name), clock, slot_s=SLOT_S, offers=offers)
        return Seat(name, service)

    async def start(self, seat: Seat) -> None:
        """Let a validator read the store and the set, as when it is started."""
        await seat.service.start()
        seat.revision = await self.store.revision()

    async def restart(self, seat: Seat, offers: OfferShelf | None = None) -> None:
        """Kill a validator and start it again: all it knows is in the store, and on its shelf of offers if it has one."""
        fresh = self._seat(seat.name, offers)
        seat.service, seat.events, seat.on_request = fresh.service, fresh.events, fresh.on_request
        await self.start(seat)

    @property
    def domain(self) -> SettlementDomain:
        """What signatures are made for."""
        return self.settlement.domain

    @property
    def now_s(self) -> int:
        """Time, s since 1970."""
        return self._moment[0]

    @property
    def now_ns(self) -> int:
        """Time, ns since 1970."""
        return self._moment[0] * NS_PER_S

    async def bind(self, node: str, purse: str, *, sequence: int = 1) -> None:
        """Bind a router to a wallet by the signatures of all validators, without going through records."""
        digest = binding_digest(self.domain, router(node).node_id, wallet(purse).address, sequence)
        signatures = [wallet(seat.name).sign(digest) for seat in self.seats]
        key = wallet(purse)
        await self.settlement.bind(key, router(node).node_id, key.address, sequence, key.sign(digest), signatures)

    async def put(self, record: Record) -> None:
        """Publish a record."""
        await self.store.put(record, self.now_ns)

    async def try_put(self, record: Record) -> str:
        """Publish a record and return why the store refused it; empty if it took it."""
        try:
            await self.put(record)
        except RemoteProtocolError as error:
            return error.reason
        return ""

    async def offer(
        self, name: str, price_microtoken: int, *, sequence: int = 1, schedule: Schedule = ALWAYS, issued_s: int | None = None
    ) -> Offer:
        """Publish a relay's offer and return it."""
        issued_ns = (self.now_s if issued_s is None else issued_s) * NS_PER_S
        offer = Offer(
            seller=router(name).node_id,
            version=Version(1, sequence),
            price_microtoken_per_gb=price_microtoken,
            wallet=wallet(name).address,
            issued_ns=issued_ns,
            expires_ns=issued_ns + DAY_S * NS_PER_S,
            schedule=schedule,
        )
        await self.put(offer.record(router(name)))
        return offer

    async def session(
        self,
        offers: Sequence[Offer | None],
        *,
        relays: Sequence[str] = ("relay-1", "relay-2", "relay-3"),
        consumer: str = "consumer",
        egress: str = "egress",
        payees: Sequence[str] | None = None,
        prices: Sequence[int] | None = None,
        cap_microtoken: int = 10**9,
        saved_full_us: int = 0,
        nonce: int = 0,
    ) -> SessionScript:
        """Open a path session on the settlement and return the script of its traffic."""
        plan = PathPlan(
            consumer=router(consumer).node_id,
            relays=tuple(router(name).node_id for name in relays),
            egress=router(egress).node_id,
            offers=tuple(NO_OFFER if offer is None else offer.digest for offer in offers),
            predicted_us=100_000,
            direct_us=150_000,
            saved_full_us=saved_full_us,
            nonce=nonce.to_bytes(16, "big"),
        )
        asked = [0 if offer is None else offer.price_microtoken_per_gb or 0 for offer in offers]
        terms = PathTerms(
            consumer=wallet(consumer).address,
            payees=tuple(wallet(name).address for name in payees or relays),
            prices_microtoken=tuple(asked if prices is None else prices),
            cap_microtoken=cap_microtoken,
            expires_s=self.now_s + WINDOW_S,
            plan=plan.digest,
        )
        await self.settlement.open_session(wallet(consumer), terms)
        return SessionScript(self, terms, plan, consumer, tuple(relays), egress)

    # ---- validators at work

    async def pass_s(self, seconds: int) -> None:
        """Let time pass, in steps of a slot, and the validators do what they have to."""
        until = self.now_s + seconds
        while self.now_s < until:
            self._moment[0] = min(until, self.now_s + SLOT_S)
            for seat in self.seats:
                if seat.is_up:
                    await seat.service.look_around()
            await self.settle_down()

    def jump_s(self, seconds: int) -> None:
        """Let time pass, or run backwards, while the validators sleep."""
        self._moment[0] += seconds

    async def settle_down(self) -> None:
        """Let the validators work until none has anything to do at this time."""
        for _ in range(TURNS_MAX):
            busy = False
            for seat in self.seats:
                if seat.is_up:
                    busy = await self._turn(seat) or busy
            if not busy:
                return
        raise AssertionError("the validators find no end")

    async def _turn(self, seat: Seat) -> bool:
        newest = await self.store.revision()
        if newest > seat.revision:
            for stored in await self.store.watch(seat.revision):
                seat.service.take(stored.record)
                seat.revision = stored.revision
        seat.service.core.advance(float(self.now_s), self.now_ns)
        requests = seat.service.drain()
        for asked in requests:
            request = seat.on_request(asked)
            if request is not None:
                await seat.service.carry_out(request)
        return bool(requests) or await self.store.revision() > seat.revision

    async def holdings(self, *names: str, sessions: Sequence[SessionScript] = ()) -> Holdings:
        """Note what somebody owns now: the wallets of these names, and the reserves of these sessions."""
        held = Holdings(self, names, list(sessions))
        held.before_microtoken = await held.owned_microtoken()
        return held

    async def total_of(self, *names: str) -> int:
        """Return all that wallets own, wherever it lies: balance, escrow, withdrawal, locked earnings; reserves of sessions not.

        Locked earnings are counted of the present period and the two before it.
        """
        total = 0
        period = await self.settlement.period()
        for name in names:
            address = wallet(name).address
            account = await self.settlement.account(address)
            total += account.balance_microtoken + account.escrow_microtoken + account.withdrawing_microtoken
            for back in range(4):
                total += await self.settlement.locked(address, period - back)
        return total


@attrs.define(slots=True, eq=False)
class Holdings:
    """What somebody owns, then and now."""

    market: Market
    names: tuple[str, ...]
    """Of the wallets."""
    sessions: list[SessionScript]
    """Whose reserves are theirs."""
    before_microtoken: int = 0
    """Then, microtokens."""

    async def owned_microtoken(self) -> int:
        """Return all that they own now."""
        total = await self.market.total_of(*self.names)
        for script in self.sessions:
            state = await self.market.settlement.session(script.session_id)
            total += 0 if state is None else state.reserve_microtoken
        return total

    async def profit_microtoken(self, *, got_microtoken: int = 0, given_microtoken: int = 0) -> int:
        """Return what they gained, with the service that they got and gave counted at its list price.

        Honest consumers come out at zero, honest relays at minus the fee.
        """
        return await self.owned_microtoken() - self.before_microtoken + got_microtoken - given_microtoken


@attrs.define(slots=True, eq=False)
class SessionScript:
    """What the parties of one session sign, as the caller has them sign it."""

    market: Market
    terms: PathTerms
    plan: PathPlan
    consumer: str
    relays: tuple[str, ...]
    egress: str
    _sequence: int = 0
    """Of the last thing signed."""

    @property
    def session_id(self) -> bytes:
        """32 B."""
        return self.terms.session_id

    def _next(self) -> int:
        self._sequence += 1
        return self._sequence

    def receipt(self, octets: int, *, measured_us: int = 100_000, consumer: str | None = None, egress: str | None = None) -> Receipt:
        """Return a receipt signed by egress and consumer, or by others under their names."""
        receipt = Receipt(
            session=self.session_id,
            consumer=router(consumer or self.consumer).node_id,
            egress=router(egress or self.egress).node_id,
            boot=1,
            sequence=self._next(),
            octets=octets,
            packets=octets // PACKET_OCTETS,
            predicted_us=self.plan.predicted_us,
            measured_us=measured_us,
            direct_us=self.plan.direct_us,
            wall_ns=self.market.now_ns,
        )
        return receipt.sign(router(egress or self.egress)).countersign(router(consumer or self.consumer))

    def ticket(self, octets: int, amount_microtoken: int | None = None) -> PathTicket:
        """Return the consumer's ticket; for the full price of the octets unless said otherwise."""
        amount = price_of(octets, self.terms.price_microtoken) if amount_microtoken is None else amount_microtoken
        return sign_ticket(wallet(self.consumer), self.market.domain, self.terms, octets, amount)

    def due(self, octets: int, saved_us: int) -> int:
        """Return what the octets cost, microtokens."""
        return amount_due(self.terms, self.plan, octets, saved_us)

    def filing(self, octets: int, *, amount_microtoken: int | None = None, receipt: Receipt | None = None) -> ClaimFiling:
        """Return an honest claim for so many octets, but for what is given."""
        return ClaimFiling(Claim(self.terms, self.ticket(octets, amount_microtoken)), self.plan, receipt or self.receipt(octets))

    def counters(self, name: str, octets: int, *, boot: int = 1, sequence: int | None = None) -> Record:
        """Return a router's counters about the session: so many octets of bodies, as its part counts them."""
        role = {self.consumer: SessionRole.SENT, self.egress: SessionRole.RECEIVED}.get(name, SessionRole.RELAYED)
        packets = octets // PACKET_OCTETS
        counted = octets + packets * packet_overhead_octets(len(self.relays)) if role is SessionRole.RELAYED else octets
        count = SessionCount(self.session_id, role, packets, counted)
        counters = RouterCounters(boot, self._next() if sequence is None else sequence, counted, counted, (), (count,))
        issued_ns = self.market.now_ns
        statement = counters.statement(
            router(name).node_id, self.session_id, issued_ns=issued_ns, expires_ns=issued_ns + 30 * DAY_S * NS_PER_S
        )
        return statement.record(router(name))

    async def count(self, octets: int, *names: str) -> None:
        """Publish the honest counters of the named, or of everybody on the path."""
        for name in names or (self.consumer, *self.relays, self.egress):
            await self.market.put(self.counters(name, octets))

    def filed(self, filing: ClaimFiling, name: str | None = None) -> Record:
        """Return a claim filed by a relay, the first if none is named."""
        filer = router(name or self.relays[0])
        issued_ns = self.market.now_ns
        version = Version(1, self._next())
        return filing.statement(filer.node_id, version, issued_ns=issued_ns, expires_ns=issued_ns + 30 * DAY_S * NS_PER_S).record(filer)

    async def deliver(self, octets: int) -> ClaimFiling:
        """Have so many octets delivered and counted in all since the beginning, and claimed by the first relay."""
        await self.count(octets)
        filing = self.filing(octets)
        await self.market.put(self.filed(filing))
        return filing

    async def settled_microtoken(self) -> int:
        """Return what the contract paid under the session."""
        state = await self.market.settlement.session(self.session_id)
        return 0 if state is None else state.settled_microtoken

    def node(self, name: str) -> NodeId:
        """Return the id of a router."""
        return router(name).node_id
