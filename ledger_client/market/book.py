"""The offers a buyer knows: the newest of each seller, and what each relay therefore costs now.

A sans-IO core. In: `set_members` (whom to ask), `receive_record` (from the DITEX), `receive_answer` and `request_failed` (from a member),
`note_escrow`, `handle_timer`; out: `requests_to_send`, `wallets_to_check`, `get_timer`, `next_event`. And read by path choice, many times a
second: `price_of`, which is `srwan.routing.prices.Prices` under the name of `price_microtoken`.

Theory of operation. Offers come from two sides: out of the DITEX, from anybody, self-certifying; and from each member itself over the
control channel, asked when path choice first wants its price (a node that sends nothing asks nobody), before its offer expires, and when it
refused a session. The newest version of a seller counts.

A price is what a session that is opened now would cost, so it is None - this relay is not to be used - when

- the price is infinite: it observes and buys, and never carries;
- no session can be opened: outside the time windows, in the first EDGE_S of one (clocks and chain may lag), or when less than SESSION_S_MIN
  of it is left;
- the offer expired and was not renewed, until it is forgotten a day later;
- the listing is anonymous, and the seller's bond is not covered, or it did not answer under its key;
- a member has not answered yet whether it has an offer; but to who takes free relays only (`are_unknown_free`) it is free until then, for
  a second or so, in which he uses up a part of the credit that every relay gives.

A member that has no offer, or cannot be asked, is free: nothing can be charged without a session.

Invariants: bounded; an offer is held only if its signature was verified; what a peer sends changes nothing but its own price.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Iterable
from random import Random
from typing import TypeAlias

import attrs

from srwan.errors import BadSignature, DecodeError, StaleRecord
from srwan.ledger_client.market.offer import Offer
from srwan.ledger_client.record import Kind, Record, check
from srwan.ledger_client.report import NS_PER_S
from srwan.ledger_client.settlement.signing import Address, SettlementDomain
from srwan.types import NodeId

__all__ = ["BookEvent", "OfferBook", "OfferLapsed", "OfferListed"]

OFFERS_MAX = 4096
"""Offers held: those of 40 groups of 100, 6 MB at most."""
MEMBERS_MAX = 1024
"""Members asked: far above the size of a group."""
ASKING_MAX = 8
"""Requests under way at once."""
REFRESH_S = 600.0
"""A member is asked again after so long, s: prices that change sooner come through the DITEX or with a refused session."""
RETRY_S = 15.0
"""And after a failed request; doubled with each, s."""
RETRY_S_MAX = 600.0
ASK_AGAIN_S = 2.0
"""Least time between two requests to one member, s."""
FORGET_NS = 86_400 * NS_PER_S
"""An offer that expired is remembered for so long, ns: its seller is not free for having forgotten to renew it."""
EDGE_S = 15
"""Sessions are opened only so long after a window began, s: the settlement's clock may lag."""
SESSION_S_MIN = 60
"""And only if they can last so long, s."""
EVENTS_MAX = 256
"""Undrained events; the oldest are dropped."""


@attrs.frozen(slots=True)
class OfferListed:
    """A seller's offer is known for the first time, or a newer one is."""

    offer: Offer
    before: Offer | None
    """The one it replaces."""


@attrs.frozen(slots=True)
class OfferLapsed:
    """A seller's offer expired and was not renewed."""

    offer: Offer


BookEvent: TypeAlias = OfferListed | OfferLapsed


@attrs.define(slots=True)
class _Member:
    """When a member is asked, and whether it ever answered."""

    ask_at: float
    """Monotonic s; inf: nobody wanted to know yet."""
    asked_at: float = -ASK_AGAIN_S
    """Monotonic s."""
    is_asking: bool = False
    is_known: bool = False
    """It answered, or asking it failed."""
    failures: int = 0
    """In a row."""


@attrs.define(slots=True)
class _Entry:
    offer: Offer
    is_reached: bool
    """The seller itself gave it over its own channel."""
    is_bond_signed: bool
    """It is anonymous, and its wallet stands behind it."""
    has_lapsed: bool = False


class OfferBook:
    """Offers by seller.

    Args:
        node_id: this node; it is not asked.
        rng: for the spread of requests.
        domain: of the settlement, for the bonds of anonymous sellers; None: anonymous offers are not used.
        bond_min_microtoken: least bond of an anonymous seller, microtokens.
        are_unknown_free: whether members that have not answered yet are free, rather than not to be used.
    """

    def __init__(
        self,
        node_id: NodeId,
        rng: Random,
        *,
        domain: SettlementDomain | None = None,
        bond_min_microtoken: int = 1,
        are_unknown_free: bool = False,
    ) -> None:
        self._node_id = node_id
        self._rng = rng
        self._domain = domain
        self._bond_min = bond_min_microtoken
        self._are_unknown_free = are_unknown_free
        self._entries: OrderedDict[NodeId, _Entry] = OrderedDict()
        self._members: dict[NodeId, _Member] = {}
        self._escrows: dict[Address, int] = {}
        self._events: deque[BookEvent] = deque(maxlen=EVENTS_MAX)

    # --- read

    def offer_of(self, node: NodeId) -> Offer | None:
        """Return the newest offer of a seller, in force or not; None if none is known."""
        entry = self._entries.get(node)
        return None if entry is None else entry.offer

    def is_known(self, node: NodeId) -> bool:
        """Say whether a router's offer is held, or it was asked as a member and has none, or could not be asked."""
        member = self._members.get(node)
        return node in self._entries or (member is not None and member.is_known)

    def offers(self) -> tuple[Offer, ...]:
        """Return all offers held, by rising seller."""
        return tuple(self._entries[seller].offer for seller in sorted(self._entries))

    def price_of(self, node: NodeId, wall_ns: int) -> int | None:
        """Return what one GB over a relay costs if a session is opened now, microtokens; None if it is not to be used. Cost: 2 us."""
        entry = self._entries.get(node)
        if entry is None:
            member = self._members.get(node)
            if member is None or member.is_known:
                return 0
            self._want(node)
            return 0 if self._are_unknown_free else None
        offer, time_s = entry.offer, wall_ns // NS_PER_S
        if not offer.carries:
            return None
        if offer.is_anonymous and not self._is_certified(entry):
            self._want(node)
            return None
        window = offer.schedule.window_at(time_s)
        if window is None or (window.start_s and time_s < window.start_s + EDGE_S) or offer.ends_s(time_s) - time_s < SESSION_S_MIN:
            return None
        return offer.price_at(time_s)

    def price_microtoken(self, node: NodeId, wall_ns: int) -> int | None:
        """Return `price_of`, as path choice calls it."""
        return self.price_of(node, wall_ns)

    def _want(self, node: NodeId) -> None:
        """Have a member asked that nobody was interested in so far."""
        member = self._members.get(node)
        if member is not None and math.isinf(member.ask_at):
            member.ask_at = 0.0

    def _is_certified(self, entry: _Entry) -> bool:
        offer = entry.offer
        if offer.bond is None or offer.wallet is None or not (entry.is_reached and entry.is_bond_signed):
            return False
        return self._escrows.get(offer.wallet, 0) >= offer.bond.amount_microtoken >= self._bond_min

    def _is_bond_signed(self, offer: Offer) -> bool:
        if self._domain is None or offer.bond is None or offer.wallet is None:
            return False
        try:
            offer.bond.verify(offer.seller, offer.wallet, self._domain)
        except BadSignature:
            return False
        return True

    # --- in

    def set_members(self, nodes: Iterable[NodeId], now: float) -> None:
        """Say who is in the group. Those who left are not asked any more; their offers are kept."""
        present = sorted(set(nodes) - {self._node_id})[:MEMBERS_MAX]
        gone = self._members.keys() - set(present)
        for node in sorted(gone):
            del self._members[node]
        for node in present:
            if node not in self._members:
                self._members[node] = _Member(now if node in self._entries else math.inf)

    def receive_record(self, record: Record, wall_ns: int) -> bool:
        """Take an offer out of the DITEX; say whether it is news.

        Raises:
            RemoteProtocolError: not verified, expired, or no offer. Nothing changed.
        """
        return self._take(record, wall_ns, is_reached=False)

    def receive_answer(self, node: NodeId, record: Record | None, now: float, wall_ns: int) -> bool:
        """Take what a member answered over its own channel, None for no offer; say whether it is news.

        Raises:
            RemoteProtocolError: as `receive_record`, or the offer of somebody else. The member is as one that could not be asked.
        """
        member = self._members.get(node)
        if member is None:
            return False
        if record is not None and record.subject != node:
            self.request_failed(node, now)
            raise DecodeError(f"{node!r} answered with the offer of {record.subject!r}", reason="offer-foreign")
        try:
            is_news = record is not None and self._take(record, wall_ns, is_reached=True)
        except StaleRecord:
            self.request_failed(node, now)
            raise
        member.is_asking, member.is_known, member.failures = False, True, 0
        left_s = REFRESH_S if record is None else max(ASK_AGAIN_S, (record.expires_ns - wall_ns) / 1e9 * 0.7)
        member.ask_at = now + min(REFRESH_S, left_s) * self._rng.uniform(0.9, 1.0)
        return is_news

    def _take(self, record: Record, wall_ns: int, *, is_reached: bool) -> bool:
        if record.kind is not Kind.OFFER:
            raise DecodeError(f"a {record.kind} record is no offer")
        held = self._entries.get(record.subject)
        if held is not None and record.version < held.offer.version:
            raise StaleRecord(f"a newer offer of {record.subject!r} is held")
        if held is not None and record.version == held.offer.version:
            held.is_reached |= is_reached
            return False
        check(record, wall_ns)
        offer = Offer.of_record(record)
        self._entries[offer.seller] = _Entry(offer, is_reached, self._is_bond_signed(offer))
        self._entries.move_to_end(offer.seller)
        self._make_room()
        self._events.append(OfferListed(offer, None if held is None else held.offer))
        return True

    def _make_room(self) -> None:
        """Drop the offer that came first, of those who are no members if there are any."""
        while len(self._entries) > OFFERS_MAX:
            stranger = next((seller for seller in self._entries if seller not in self._members), next(iter(self._entries)))
            del self._entries[stranger]

    def request_failed(self, node: NodeId, now: float) -> None:
        """Note that a member could not be asked, or answered nonsense."""
        member = self._members.get(node)
        if member is not None:
            member.failures += 1
            member.is_asking, member.is_known = False, True
            member.ask_at = now + min(RETRY_S_MAX, RETRY_S * 2.0 ** min(member.failures - 1, 16)) * self._rng.uniform(0.8, 1.2)

    def ask_again(self, node: NodeId, now: float) -> None:
        """Have a member asked soon: it refused a session that its known offer promises."""
        member = self._members.get(node)
        if member is not None:
            member.ask_at = min(member.ask_at, max(now, member.asked_at + ASK_AGAIN_S))

    def note_escrow(self, wallet: Address, escrow_microtoken: int) -> None:
        """Take the escrow of a wallet as the settlement says it."""
        self._escrows[wallet] = escrow_microtoken

    def handle_timer(self, now: float, wall_ns: int) -> None:
        """Forget what expired long ago, and tell what expired now."""
        del now
        for seller in tuple(self._entries):
            entry = self._entries[seller]
            if wall_ns >= entry.offer.expires_ns + FORGET_NS:
                del self._entries[seller]
            elif wall_ns >= entry.offer.expires_ns and not entry.has_lapsed:
                entry.has_lapsed = True
                self._events.append(OfferLapsed(entry.offer))
        for wallet in self._escrows.keys() - set(self.wallets_to_check()):
            del self._escrows[wallet]

    # --- out

    def requests_to_send(self, now: float) -> list[NodeId]:
        """Return whom to ask for its offer now, each once; answer with `receive_answer` or `request_failed`."""
        free = ASKING_MAX - sum(member.is_asking for member in self._members.values())
        due = [node for node, member in self._members.items() if not member.is_asking and member.ask_at <= now]
        due.sort(key=lambda node: (self._members[node].is_known, self._members[node].ask_at, node))
        for node in due[: max(0, free)]:
            self._members[node].is_asking, self._members[node].asked_at = True, now
        return due[: max(0, free)]

    def wallets_to_check(self, *, are_known: bool = True) -> tuple[Address, ...]:
        """Return the wallets of anonymous sellers, whose escrow `note_escrow` should tell from time to time; rising.

        Without `are_known` only those of which it never told.
        """
        wallets = {entry.offer.wallet for entry in self._entries.values() if entry.offer.bond and entry.offer.wallet}
        return tuple(sorted(wallets if are_known else wallets - self._escrows.keys()))

    def get_timer(self) -> float | None:
        """Return when a member is to be asked next, monotonic s; None if nobody is."""
        due = [member.ask_at for member in self._members.values() if not member.is_asking and not math.isinf(member.ask_at)]
        return min(due, default=None)

    def next_event(self) -> BookEvent | None:
        """Return the oldest event not yet returned, or None."""
        return self._events.popleft() if self._events else None
