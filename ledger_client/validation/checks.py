"""Is a claim good? Recomputed from what its parties signed, and nothing else.

Theory of operation. What is paid is what the egress authenticated, the consumer countersigned and its wallet signed a ticket for. With that
in hand a claim is checked against the settlement (session, reserve, bindings), against the offers of its relays (price in force when the
session was opened, by the chain's time) and against the counters of everybody on the path.

Whose word can refuse a claim? Only the chain's, what is in the filing, and what cannot change after the session began, and of
counters the filer's own. Were a consumer's low count, or that of a relay which it runs itself, enough to refuse, a consumer would have
its traffic for nothing. Such counters make *doubts*, published with the verdict; and no counter ever raises what is paid.

So a relay that looked, before it carried anything, whether session, bindings and offers are there, and publishes its own counters, is
paid, whatever all others say afterwards.

Not here: where evidence comes from (`gather.py`), who votes (`validator.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise

import attrs

from srwan.errors import RemoteProtocolError
from srwan.ledger_client.accounting.counters import RouterCounters, SessionRole, bodies_in
from srwan.ledger_client.accounting.plan import NO_OFFER, amount_due
from srwan.ledger_client.market.offer import Offer
from srwan.ledger_client.settlement.settlement import SessionState
from srwan.ledger_client.settlement.signing import Address, SettlementDomain
from srwan.ledger_client.settlement.terms import price_of
from srwan.ledger_client.validation.claim import ClaimFiling
from srwan.ledger_client.validation.verdict import ACCEPTED
from srwan.types import NodeId

__all__ = ["PENDING_REASONS", "Evidence", "Finding", "Tolerance", "check_claim"]

PPM = 10**6

PENDING_REASONS = frozenset({"session", "binding", "offer-missing", "counters-missing", "counters-short"})
"""Refusals that a record or transaction still on its way may cure: published after some patience only."""


@attrs.frozen(slots=True)
class Tolerance:
    """How far honest counters may differ."""

    loss_ppm: int = 50_000
    """Of the octets of bodies that one router passed on, so many millionths may be missing at the next: 5 %. Above, one of the two errs."""
    lag_octets: int = 16_000_000
    """Octets by which a reading of counters may be older than the ticket it is held against: twice the default credit window of 8 MB."""

    def least(self, octets: int) -> int:
        """Return the least an honest relay may have counted, of bodies, if the egress received so many."""
        return max(0, octets - min(self.lag_octets, octets // 2))

    def most(self, octets: int) -> int:
        """Return the most that may have been passed on, of bodies, if so many arrived at the next."""
        return octets * PPM // (PPM - self.loss_ppm) + self.lag_octets


@attrs.frozen(slots=True)
class Evidence:
    """What a claim is held against. All of it was verified when it was gathered."""

    session: SessionState | None
    """Of the settlement; None if it is not open."""
    wallets: Mapping[NodeId, Address]
    """Bindings of the relays and the egress, those that have one."""
    offers: Mapping[bytes, Offer]
    """Signed offers of the relays, by digest."""
    counters: Mapping[NodeId, RouterCounters]
    """Latest counters about the session, of those on the path that published any."""


@attrs.frozen(slots=True)
class Finding:
    """What came out."""

    reason: str
    """ACCEPTED, or why not."""
    figures: tuple[tuple[str, int], ...] = ()
    """Name and value of what was recomputed; units in the names. Doubts are figures named "doubt-...", with how many it concerns."""

    @property
    def is_accepted(self) -> bool:
        """Whether it may be paid."""
        return self.reason == ACCEPTED

    @property
    def is_pending(self) -> bool:
        """Whether it may be accepted later without anybody changing his word."""
        return self.reason in PENDING_REASONS


def check_claim(filing: ClaimFiling, filer: NodeId, evidence: Evidence, domain: SettlementDomain, tolerance: Tolerance) -> Finding:
    """Recompute one claim.

    Args:
        filing: as filed.
        filer: the relay that filed it.
        evidence: gathered for it.
        domain: of the settlement.
        tolerance: see there.

    Returns:
        The finding; of several faults the first in this order: signatures, session, payees, prices, amount, counters.

    Cost: 0.3 ms for three relays.
    """
    try:
        filing.verify(domain)
    except RemoteProtocolError as error:
        return Finding(error.reason)
    figures = tuple(_figures(filing, evidence))
    reason = (  # ACCEPTED is the empty word; what comes later may rely on what was found good before
        _fault_of_session(filing, evidence)
        or _fault_of_payees(filing, filer, evidence)
        or _fault_of_prices(filing, evidence)
        or _fault_of_amount(filing)
        or _fault_of_counters(filing, filer, evidence, tolerance)
    )
    if reason:
        return Finding(reason, figures)
    return Finding(ACCEPTED, (*figures, *_doubts(filing, evidence, tolerance)))


def _fault_of_session(filing: ClaimFiling, evidence: Evidence) -> str:
    """Open, with enough reserved, and something new claimed."""
    state, amount = evidence.session, filing.claim.ticket.amount_microtoken
    if state is None:
        return "session"
    if amount <= state.settled_microtoken:
        return "spent"
    if amount - state.settled_microtoken > state.reserve_microtoken:
        return "reserve"
    return ACCEPTED


def _fault_of_payees(filing: ClaimFiling, filer: NodeId, evidence: Evidence) -> str:
    """Who files is paid at the wallet it is bound to, all relays are bound to some, and neither egress nor consumer is a payee.

    A binding may change at any time, so the other relays' need only exist.
    """
    terms, plan = filing.claim.terms, filing.plan
    if filer not in plan.relays:
        return "filer"
    if not all(relay in evidence.wallets for relay in plan.relays):
        return "binding"
    if evidence.wallets[filer] != terms.payees[plan.relays.index(filer)]:
        return "binding"
    if evidence.wallets.get(plan.egress) in terms.payees:
        return "egress-paid"
    if terms.consumer in terms.payees:
        return "consumer-paid"
    return ACCEPTED


def _fault_of_prices(filing: ClaimFiling, evidence: Evidence) -> str:
    """Each price is that of the relay's own offer at the chain time of opening; a relay without an offer is free."""
    assert evidence.session is not None
    plan = filing.plan
    for relay, digest, price in zip(plan.relays, plan.offers, filing.claim.terms.prices_microtoken, strict=True):
        if digest == NO_OFFER:
            if price:
                return "price"
            continue
        if digest not in evidence.offers:
            return "offer-missing"
        offer = evidence.offers[digest]
        if offer.seller != relay:
            return "offer"
        if not offer.is_valid_at(evidence.session.opened_s):
            return "offer-window"
        if offer.price_microtoken_per_gb != price:
            return "price"
    return ACCEPTED


def _fault_of_amount(filing: ClaimFiling) -> str:
    """No more than the octets cost, for the latency that egress and consumer say was saved."""
    terms, ticket = filing.claim.terms, filing.claim.ticket
    if ticket.amount_microtoken > amount_due(terms, filing.plan, ticket.octets, filing.receipt.saved_us):
        return "saved"
    return ACCEPTED


def _fault_of_counters(filing: ClaimFiling, filer: NodeId, evidence: Evidence, tolerance: Tolerance) -> str:
    """Who files must itself have counted what it wants to be paid for."""
    relayed = _bodies(filing, filer, evidence)
    if relayed is None:
        return "counters-missing"
    if relayed < tolerance.least(filing.claim.ticket.octets):
        return "counters-short"
    return ACCEPTED


def _bodies(filing: ClaimFiling, node: NodeId, evidence: Evidence) -> int | None:
    """Octets of bodies that a router on the path counted under the session; None if it published none."""
    plan = filing.plan
    role = {plan.consumer: SessionRole.SENT, plan.egress: SessionRole.RECEIVED}.get(node, SessionRole.RELAYED)
    counters = evidence.counters.get(node)
    count = None if counters is None else counters.session(filing.session, role)
    if count is None:
        return None
    return bodies_in(count.octets, count.packets, len(plan.relays)) if role is SessionRole.RELAYED else count.octets


def _figures(filing: ClaimFiling, evidence: Evidence) -> Iterator[tuple[str, int]]:
    plan, receipt = filing.plan, filing.receipt
    yield "receipt_octets", receipt.octets
    yield "price_microtoken", price_of(filing.claim.ticket.octets, filing.claim.terms.price_microtoken)
    if plan.saved_full_us:
        yield "saved_us", max(0, receipt.saved_us)
    if evidence.session is not None:
        yield "settled_microtoken", evidence.session.settled_microtoken
    for place, node in enumerate((plan.consumer, *plan.relays, plan.egress)):
        bodies = _bodies(filing, node, evidence)
        if bodies is not None:
            yield f"counted_{place}_octets", bodies


def _doubts(filing: ClaimFiling, evidence: Evidence, tolerance: Tolerance) -> Iterator[tuple[str, int]]:
    """Where the words of those on the path do not fit each other, link by link in the direction of traffic."""
    plan, octets = filing.plan, filing.claim.ticket.octets
    way = (plan.consumer, *plan.relays, plan.egress)
    counts = [_bodies(filing, node, evidence) for node in way]
    known = [count for count in counts if count is not None]
    if silent := len(counts) - len(known):
        yield "doubt-silent", silent
    if short := sum(count < tolerance.least(octets) for count in known):
        yield "doubt-short", short
    ahead = [count for count in counts[:-1] if count is not None and count > tolerance.most(filing.receipt.octets)]
    if ahead:
        yield "doubt-inflated", len(ahead)
    links = sum(_is_link_odd(first, second, evidence, tolerance) for first, second in pairwise(way))
    if links:
        yield "doubt-link", links
    strangers = [relay for relay, payee in zip(plan.relays, filing.claim.terms.payees, strict=True) if evidence.wallets.get(relay) != payee]
    if strangers:
        yield "doubt-binding", len(strangers)


def _is_link_odd(first: NodeId, second: NodeId, evidence: Evidence, tolerance: Tolerance) -> bool:
    """Whether what one router says it sent to its neighbour and what that one says came in differ by more than loss and lag."""
    ends = (evidence.counters.get(first), evidence.counters.get(second))
    if ends[0] is None or ends[1] is None:
        return False
    sent = next((count.octets_out for count in ends[0].neighbours if count.node == second), None)
    came = next((count.octets_in for count in ends[1].neighbours if count.node == first), None)
    if sent is None or came is None:
        return False
    return sent > tolerance.most(came) or came > sent + tolerance.lag_octets
