"""Looks up what a claim is held against: in the record store, and at the settlement. A shell.

It waits for both and has no task and no time of its own. The store is not trusted: every record is verified again. What is missing is left
out; what that means is for `checks.py` to say.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from srwan.errors import RemoteProtocolError
from srwan.ledger_client.accounting.counters import RouterCounters, counters_of_statement
from srwan.ledger_client.accounting.plan import NO_OFFER
from srwan.ledger_client.market.offer import Offer
from srwan.ledger_client.record import Key, Kind, Record, verify
from srwan.ledger_client.settlement.settlement import Settlement
from srwan.ledger_client.settlement.signing import Address
from srwan.ledger_client.statement import MARKET_GROUP, Statement
from srwan.ledger_client.store import RecordStore
from srwan.ledger_client.validation.checks import Evidence
from srwan.ledger_client.validation.claim import ClaimFiling
from srwan.ledger_client.validation.offer_shelf import OfferShelf
from srwan.types import NodeId

__all__ = ["Gatherer"]

OFFER_VERSIONS_MAX = 64
"""Offers of one relay that are searched for the one a plan names."""

logger = logging.getLogger("srwan.ledger_client")


class Gatherer:
    """Gathers evidence from one store and one settlement.

    Args:
        store: where records are.
        settlement: what has the sessions and the bindings.
        offers: those seen so far; more are put there as they are found.
    """

    def __init__(self, store: RecordStore, settlement: Settlement, offers: OfferShelf) -> None:
        self._store = store
        self._settlement = settlement
        self._offers = offers

    async def gather(self, filings: Sequence[ClaimFiling]) -> Evidence:
        """Return the evidence for the filings of one session.

        Raises:
            StoreUnavailable, SettlementUnavailable: one of the two does not answer.

        Cost: for three relays 8 look-ups in the store and 6 at the settlement.
        """
        plan, session = filings[0].plan, filings[0].session  # one plan: its hash is in the session's id
        wallets: dict[NodeId, Address] = {}
        for node in (*plan.relays, plan.egress):
            wallet = await self._settlement.wallet_of(node)
            if wallet is not None:
                wallets[node] = wallet
        way = (plan.consumer, *plan.relays, plan.egress)
        held = await self._store.get_many([Key(Kind.COUNTERS, MARKET_GROUP, node, session) for node in way])
        opened = {node: _counters_in(stored.record) for node, stored in zip(way, held, strict=True) if stored is not None}
        counters = {node: found for node, found in opened.items() if found is not None}
        offers: dict[bytes, Offer] = {}
        for relay, digest in zip(plan.relays, plan.offers, strict=True):
            offer = None if digest == NO_OFFER else await self._offer(relay, digest)
            if offer is not None:
                offers[digest] = offer
        state = await self._settlement.session(session)
        return Evidence(state, wallets, offers, counters)

    async def _offer(self, relay: NodeId, digest: bytes) -> Offer | None:
        if self._offers.get(digest) is None:
            for stored in await self._store.history(Key(Kind.OFFER, MARKET_GROUP, relay), limit=OFFER_VERSIONS_MAX):
                self._offers.put(stored.record)
        return self._offers.get(digest)


def _counters_in(record: Record) -> RouterCounters | None:
    """What a record of counters says; None if it is not what it should be."""
    try:
        verify(record)
        return counters_of_statement(Statement.of_record(record))
    except RemoteProtocolError as error:
        logger.warning("the store holds counters that are not what they should be: %s", error)
        return None
