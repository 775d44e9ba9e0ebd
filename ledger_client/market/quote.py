"""What a path costs: the sum of its relays' prices, and the terms on which a session over it can be opened.

Theory of operation. A quote is made of the offers a buyer knows (`book.py`) at one moment. It stands only where every relay of the path has
a price then, where the sum is within the buyer's cap, and for as long as all offers and their windows last: a session never outlives the
window it was opened in. Where relays ask for their full price at different savings, the lowest counts, for every relay must agree to what
is paid; one that always wants its full price makes it 0.

The relays of a plan are the payees of its terms, in the same order, so each needs a wallet, a free relay too, and each its own: two relays
of one wallet are one owner who puts two tolls on one road, and no quote is made.

Invariants: prices never exceed the cap asked for; `terms` and `plan` belong together, and their session ends before any window does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import attrs

from srwan.errors import NoOffer
from srwan.ledger_client.accounting.plan import NO_OFFER, PathPlan
from srwan.ledger_client.market.book import SESSION_S_MIN, OfferBook
from srwan.ledger_client.market.offer import Offer
from srwan.ledger_client.report import NS_PER_S
from srwan.ledger_client.settlement.signing import Address
from srwan.ledger_client.settlement.terms import PathTerms
from srwan.types import NodeId

__all__ = ["SESSION_S", "Quote", "best_quote", "quote_for"]

SESSION_S = 3600
"""How long a session lasts unless said otherwise, s: one opening costs as much gas as settling two claims."""


@attrs.frozen(slots=True)
class Quote:
    """The price of one path at one moment."""

    relays: tuple[NodeId, ...]
    """In visiting order; empty for the direct path."""
    offers: tuple[Offer | None, ...]
    """Of each relay; None for one that made none and is free."""
    payees: tuple[Address, ...]
    """Wallet of each relay; empty if nothing is to be paid."""
    prices_microtoken: tuple[int, ...]
    """Of each relay for one GB, microtokens."""
    expires_s: int
    """Latest end of a session, s since 1970."""
    saved_full_us: int
    """Latency saved from which the full price is due, us; 0 = always."""

    @property
    def price_microtoken(self) -> int:
        """Price of one GB over the whole path, microtokens."""
        return sum(self.prices_microtoken)

    @property
    def is_free(self) -> bool:
        """Whether no session is needed."""
        return not any(self.prices_microtoken)

    @property
    def offer_digests(self) -> tuple[bytes, ...]:
        """Digest of each relay's offer, as plans name it."""
        return tuple(NO_OFFER if offer is None else offer.digest for offer in self.offers)

    def plan(self, consumer: NodeId, egress: NodeId, *, predicted_us: int, direct_us: int, nonce: bytes) -> PathPlan:
        """Return the plan of a session on this quote. Raises ValueError as `PathPlan`."""
        ends = (consumer, self.relays, egress, self.offer_digests)
        return PathPlan(*ends, predicted_us, direct_us, self.saved_full_us, nonce)

    def terms(self, consumer: Address, plan: PathPlan, cap_microtoken: int) -> PathTerms:
        """Return the terms of a session on this quote.

        Raises:
            ValueError: nothing is to be paid on this path, or as `PathTerms`.
        """
        if self.is_free:
            raise ValueError("a free path needs no session")
        return PathTerms(consumer, self.payees, self.prices_microtoken, cap_microtoken, self.expires_s, plan.digest)


def quote_for(
    book: OfferBook,
    relays: Iterable[NodeId],
    wall_ns: int,
    *,
    price_max_microtoken: int,
    session_s: int = SESSION_S,
    wallets: Mapping[NodeId, Address] | None = None,
) -> Quote:
    """Return the price of a path now.

    Args:
        book: offers known.
        relays: in visiting order; none for the direct path.
        wall_ns: wall time, ns since 1970.
        price_max_microtoken: the most that one GB may cost over all of them.
        session_s: how long a session should last; it ends sooner with a window or an offer.
        wallets: of relays without an offer, from the settlement's bindings.

    Raises:
        NoOffer: a relay carries not, not now or not long enough, is not to be paid, or the sum is above the cap.
    """
    relays = tuple(relays)
    time_s = wall_ns // NS_PER_S
    expires_s = time_s + max(session_s, SESSION_S_MIN)
    prices: list[int] = []
    offers: list[Offer | None] = []
    for relay in relays:
        price = book.price_of(relay, wall_ns)
        if price is None:
            raise NoOffer(relay, "it carries nothing now", "choose another relay, or wait for its time window")
        offer = book.offer_of(relay)
        prices.append(price)
        offers.append(offer)
        expires_s = expires_s if offer is None else min(expires_s, offer.ends_s(time_s))
    if sum(prices) > price_max_microtoken:
        problem = f"the path costs {sum(prices)} microtokens a GB, {price_max_microtoken} are allowed"
        raise NoOffer(relays[0], problem, "raise policy.price_max_microtoken or choose another path")
    payees = _payees(relays, offers, wallets or {}) if any(prices) else ()
    savings = [offer.saved_full_us for offer, price in zip(offers, prices, strict=True) if offer is not None and price]
    return Quote(relays, tuple(offers), payees, tuple(prices), expires_s, min(savings, default=0))


def _payees(relays: tuple[NodeId, ...], offers: list[Offer | None], wallets: Mapping[NodeId, Address]) -> tuple[Address, ...]:
    payees: list[Address] = []
    for relay, offer in zip(relays, offers, strict=True):
        wallet = wallets.get(relay) if offer is None or offer.wallet is None else offer.wallet
        if wallet is None:
            raise NoOffer(relay, "it has no wallet, and all relays of a paid path are payees", "choose a path without it")
        if wallet in payees:
            raise NoOffer(relay, "its wallet is paid twice on this path", "choose relays of different owners")
        payees.append(wallet)
    return tuple(payees)


def best_quote(
    book: OfferBook,
    candidates: Iterable[tuple[tuple[NodeId, ...], int]],
    wall_ns: int,
    *,
    price_max_microtoken: int,
    spread_us: int = 5_000,
    session_s: int = SESSION_S,
    wallets: Mapping[NodeId, Address] | None = None,
) -> Quote | None:
    """Return the quote of the quickest path within the cap, or of the cheapest of those as good as the quickest.

    Args:
        book: offers known.
        candidates: (relays, one-way latency in us) of the paths to choose among.
        wall_ns: wall time, ns since 1970.
        price_max_microtoken: cap for one GB.
        spread_us: paths so close to the quickest are as good, us.
        session_s: as `quote_for`.
        wallets: as `quote_for`.

    Returns:
        None if no path can be had within the cap.
    """
    found: list[tuple[int, Quote]] = []
    for relays, owl_us in candidates:
        try:
            quote = quote_for(book, relays, wall_ns, price_max_microtoken=price_max_microtoken, session_s=session_s, wallets=wallets)
        except NoOffer:
            continue
        found.append((owl_us, quote))
    if not found:
        return None
    quickest_us = min(owl_us for owl_us, _ in found)
    close = [(quote.price_microtoken, owl_us, quote.relays, quote) for owl_us, quote in found if owl_us <= quickest_us + spread_us]
    return min(close, key=lambda entry: entry[:3])[3]
