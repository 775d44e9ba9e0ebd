"""What consumer, relays and settlement agree on before money can flow: the terms of one path session.

Theory of operation. A *path session* is one consumer paying one fixed list of payees, the relays of one path in visiting order, at fixed
prices, up to a cap, until a time. Its id is the hash of the terms, so nothing of them can change in mid-session; opening it moves the cap
from the consumer's escrow into a reserve that only this session can draw on, so it cannot be issued twice. Another path is another
session. All payees hold the same cumulative ticket (`ticket.py`) and are paid by the same split.

The settlement engine sees wallets only. Which routers stand behind them, the egress, the offers they made and the latency they promised
are in the *plan* (`srwan.ledger_client.accounting.plan`), of which the terms carry the hash.

Money is integers: microtokens, 10**-6 of a token. One GB is 10**9 octets.
"""

from __future__ import annotations

import attrs

from srwan.ledger_client.settlement.signing import Address, keccak256, word

__all__ = ["GB_OCTETS", "PAYEES_MAX", "UINT64_MAX", "UINT128_MAX", "PathTerms", "price_of", "shares_of"]

GB_OCTETS = 10**9
"""Octets of one GB, the unit of prices (whitepaper 3)."""
PAYEES_MAX = 8
"""Relays of one session: the most segments a packet may list."""
UINT64_MAX = 2**64 - 1
UINT128_MAX = 2**128 - 1
HASH_BYTES = 32


def _require(is_met: bool, problem: str) -> None:
    if not is_met:
        raise ValueError(f"terms: {problem}")


@attrs.frozen(slots=True)
class PathTerms:
    """The terms of one path session.

    Raises:
        ValueError: a field is out of bounds, or a payee comes twice.
    """

    consumer: Address
    """Whose escrow pays."""
    payees: tuple[Address, ...]
    """Wallets of the relays, in visiting order, 1..PAYEES_MAX, each once."""
    prices_microtoken: tuple[int, ...]
    """Price of each payee for one GB, microtokens, 0..2**64-1."""
    cap_microtoken: int
    """Reserved from the escrow; the most the session can cost, fees included. At least 1."""
    expires_s: int
    """Chain time, s since 1970, after which relays carry no more under it; claims are taken a while longer."""
    plan: bytes
    """Hash of the plan, 32 B; makes the id unique."""

    def __attrs_post_init__(self) -> None:
        _require(1 <= len(self.payees) <= PAYEES_MAX, f"{len(self.payees)} payees, not 1..{PAYEES_MAX}")
        _require(len(set(self.payees)) == len(self.payees), "a payee comes twice")
        _require(len(self.prices_microtoken) == len(self.payees), f"{len(self.prices_microtoken)} prices for {len(self.payees)} payees")
        _require(all(0 <= price <= UINT64_MAX for price in self.prices_microtoken), "a price is not within 0..2**64-1")
        _require(0 < self.cap_microtoken <= UINT128_MAX, f"a cap of {self.cap_microtoken}")
        _require(0 < self.expires_s <= UINT64_MAX, f"expires at {self.expires_s}")
        _require(len(self.plan) == HASH_BYTES, f"a plan hash of {len(self.plan)} bytes")

    @property
    def price_microtoken(self) -> int:
        """Price of one GB over the whole path, microtokens."""
        return sum(self.prices_microtoken)

    @property
    def session_id(self) -> bytes:
        """Keccak-256 of the ABI encoding of the terms as one tuple, 32 B: what the contract computes itself. Cost: 25 us."""
        return keccak256(self.abi())

    def abi(self) -> bytes:
        """Return the ABI encoding: (address,address[],uint128[],uint128,uint64,bytes32)."""
        count = len(self.payees)
        head: list[int | bytes] = [32, self.consumer, 6 * 32, (7 + count) * 32, self.cap_microtoken, self.expires_s]
        tail: list[int | bytes] = [count, *self.payees, count, *self.prices_microtoken]
        return b"".join(map(word, head)) + self.plan + b"".join(map(word, tail))


def price_of(octets: int, price_microtoken: int) -> int:
    """Return what so many octets cost at a price per GB, microtokens, rounded down."""
    return octets * price_microtoken // GB_OCTETS


def shares_of(amount_microtoken: int, prices_microtoken: tuple[int, ...]) -> tuple[int, ...]:
    """Split an amount, fees already taken, among payees in proportion to their prices; equally if all prices are 0.

    Each share is rounded down and the first payee gets what is left over, less than one microtoken per payee, so that the shares sum to the
    amount. The contract does the same.
    """
    weights = prices_microtoken if any(prices_microtoken) else (1,) * len(prices_microtoken)
    total = sum(weights)
    shares = [amount_microtoken * weight // total for weight in weights]
    shares[0] += amount_microtoken - sum(shares)
    return tuple(shares)
