"""What relays ask for carrying packets, as path choice needs to know it: one number per relay, from whoever keeps the offers.

Not here: offers, windows, tickets. The ledger knows them; routing must not know the ledger, so the node hands it an object of this form.

Prices are microtokens (10**-6 of a token) per GB (10**9 octets). The price of a path is the sum over its relays. A relay without a price
never carries: it only measures and buys (whitepaper 10.3), or its time window is closed.

Invariant: what `finder`, `pool` and `control` choose never costs more than `PathPolicy.price_max_microtoken` at the moment of choosing. A
price that rises moves data off the path; it never changes what a session under way costs, for the terms of that are fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, TypeAlias

from srwan.types import NodeId

__all__ = ["PRICE_MICROTOKEN_MAX", "PriceOf", "Prices", "path_price"]

PRICE_MICROTOKEN_MAX = 10**18
"""Highest cap a policy may set, per GB: a million million tokens. Three relays' prices below it sum up within 63 bits."""

PriceOf: TypeAlias = Callable[[NodeId], int | None]
"""Price of a relay now, microtokens per GB; None if it never carries."""


class Prices(Protocol):
    """Knows what each relay asks for."""

    def price_microtoken(self, node: NodeId, wall_ns: int) -> int | None:
        """Return a relay's price for one GB at this wall time (ns since 1970): 0 for a free one, None for one that does not carry."""
        ...


def path_price(relays: Iterable[NodeId], price_of: PriceOf | None) -> int | None:
    """Return the price of one GB over a path, microtokens: the sum over its relays; None if one of them does not carry.

    Without `price_of` all relays are free.
    """
    if price_of is None:
        return 0
    total = 0
    for relay in relays:
        price = price_of(relay)
        if price is None:
            return None
        total += price
    return total
