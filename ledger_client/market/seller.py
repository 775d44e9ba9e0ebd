"""The relay's side of the market: which sessions it takes on its own offers.

Theory of operation. A consumer opens a session on an offer; the relay looks whether it made that offer, whether the offer stands at that
moment, and whether the terms say what it says: price, end within the window, no more dependence on saved latency than was offered. It
remembers its last offers, since a buyer may hold one that was replaced a minute ago and still stands. A limit of octets a day closes it for
new sessions until midnight UTC; sessions under way go on.

The time it goes by never runs behind what `tick` made of wall and monotonic clock (`SteadyWall`), so setting the router's clock back opens
no window.

Not here: money (`srwan.ledger_client.accounting`), and publishing (`service.py`).
"""

from __future__ import annotations

from collections import OrderedDict

from srwan.ledger_client.accounting.plan import NO_OFFER, PathPlan
from srwan.ledger_client.market.offer import Offer
from srwan.ledger_client.market.schedule import SteadyWall
from srwan.ledger_client.report import NS_PER_S
from srwan.types import NodeId

__all__ = ["Seller"]

OFFERS_REMEMBERED = 16
REPLACED_S = 1800
"""An offer that was replaced is still taken for so long, s: buyers ask for a newer one every 10 min."""
DAY_S = 86_400


class Seller:
    """Decides about sessions over this router.

    Args:
        node_id: this router.
        wall_ns: wall time now, ns since 1970.
        now: monotonic s.
    """

    def __init__(self, node_id: NodeId, wall_ns: int, now: float) -> None:
        self._node_id = node_id
        self._wall = SteadyWall(wall_ns, now)
        self._told_ns = wall_ns
        self._offers: OrderedDict[bytes, Offer] = OrderedDict()
        self._day = wall_ns // NS_PER_S // DAY_S
        self._carried_octets = 0

    @property
    def offer(self) -> Offer | None:
        """The one listed last."""
        return next(reversed(self._offers.values()), None)

    def list_offer(self, offer: Offer) -> None:
        """Stand by an offer from now on; those before it stand a while.

        Raises:
            ValueError: somebody else's, or no newer than the one before.
        """
        last = self.offer
        if offer.seller != self._node_id or (last is not None and offer.version <= last.version):
            raise ValueError(f"not a newer offer of {self._node_id!r}")
        self._offers[offer.digest] = offer
        while len(self._offers) > OFFERS_REMEMBERED:
            self._offers.popitem(last=False)

    def withdraw_offer(self) -> None:
        """Stand by none: carry for nothing."""
        self._offers.clear()

    def tick(self, wall_ns: int, now: float) -> None:
        """Show it both clocks, about every second."""
        self._told_ns = self._wall.read(wall_ns, now)
        if self._time_s(self._told_ns) // DAY_S > self._day:
            self._day, self._carried_octets = self._time_s(self._told_ns) // DAY_S, 0

    def believe(self, wall_ns: int, now: float) -> None:
        """Go by the settlement's clock."""
        self._wall.believe(wall_ns, now)
        self._told_ns = wall_ns

    def _time_s(self, wall_ns: int) -> int:
        return max(wall_ns, self._told_ns) // NS_PER_S

    def count_octets(self, octets: int) -> None:
        """Note what was carried for others since the last call."""
        self._carried_octets += octets

    def is_charging(self, wall_ns: int) -> bool:
        """Say whether nobody is carried for nothing now: it asks a price, or its window is closed, or it never carries."""
        offer = self.offer
        return offer is not None and offer.price_at(self._time_s(wall_ns)) != 0

    def problem_with(self, plan: PathPlan, position: int, price_microtoken: int, wall_ns: int, expires_s: int | None = None) -> str:
        """Return why a session is not taken, in a word, or an empty string if it is.

        The words: "never" (this router does not carry), "offer" (no offer of it, or one that was replaced or forgotten), "closed" (not
        valid now, or the session outlives offer or window), "price", "saved", "day-limit".

        Args:
            plan: of the session.
            position: of this router among its relays.
            price_microtoken: what the terms give it for one GB.
            wall_ns: wall time now, ns since 1970.
            expires_s: end of the session, s since 1970; None leaves it unchecked.
        """
        current, digest = self.offer, plan.offers[position]
        if current is None:
            return "" if digest == NO_OFFER and not price_microtoken else "offer"
        if not current.carries:
            return "never"
        offer, time_s = self._offers.get(digest), self._time_s(wall_ns)
        if offer is None or (offer is not current and time_s >= current.issued_ns // NS_PER_S + REPLACED_S):
            return "offer"
        if not offer.is_valid_at(time_s) or (expires_s is not None and expires_s > offer.ends_s(time_s)):
            return "closed"
        if price_microtoken != offer.price_microtoken_per_gb:
            return "price"
        if plan.saved_full_us > offer.saved_full_us:
            return "saved"
        return "day-limit" if 0 < offer.limits.day_octets <= self._carried_octets else ""
