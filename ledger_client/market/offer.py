"""An offer: what a segment router asks for carrying others' packets, when, how much of it, and what it promises.

Theory of operation. A router publishes one offer at a time, a statement (kind "offer", for the whole market) that its own key signs; the
newest counts. The price is per GB of bodies that the egress authenticated. `INFINITE` is the price of a router that observes and buys, but
never carries (whitepaper 10.3). Time windows are intervals of universal time within the life of the offer, resolved by the seller
(`zones`), so that everybody who reads it agrees on them. The price holds for sessions opened while the offer is valid; a newer offer
changes nothing about a session under way, whose terms are fixed.

With `saved_full_us` the full price is due only from so much verified latency saved, proportionally less below (`accounting.plan`).

Anonymous listing (whitepaper 10.1): the router runs under a key that stands for nothing else, without name and position, and the offer
carries a bond (`bond.py`) instead: a wallet with so much in escrow stands behind the key.

Layout of the content, canonical msgpack: [1, price or nil, wallet or nil, windows or nil, [rate_kbps, day_octets], label, is_premium,
saved_full_us, [[to, owl_us_max, loss_ppm_max], ...], [bond, signature] or nil]; bonds and prices as 16 B big endian.

Invariants: an instance is within bounds; a price above zero has a wallet; `digest` names one offer only.
"""

from __future__ import annotations

from typing import Any, Self

import attrs

from srwan.errors import DecodeError
from srwan.identity import Identity
from srwan.ledger_client.market.bond import Bond
from srwan.ledger_client.market.schedule import ALWAYS, Schedule, schedule_of
from srwan.ledger_client.record import CONTENT_BYTES_MAX, SKEW_S_MAX, Kind, Record, Version
from srwan.ledger_client.report import NS_PER_S
from srwan.ledger_client.settlement.signing import ADDRESS_BYTES, Address, keccak256
from srwan.ledger_client.statement import MARKET_GROUP, Statement
from srwan.types import GeoAsn, NodeId
from srwan.wire import pack, unpack

__all__ = ["INFINITE", "OFFER_PRICE_MICROTOKEN_MAX", "Limits", "Offer", "Promise"]

INFINITE = None
"""The price of a router that never carries for others."""
OFFER_PRICE_MICROTOKEN_MAX = 10**18
"""Highest price of one GB, microtokens: what a buyer's policy may allow at most."""
LABEL_CHARACTERS_MAX = 64
PROMISES_MAX = 16
PROMISE_TO_BYTES_MAX = 64
LATENCY_US_MAX = 10**9
PPM = 10**6
LIFETIME_S_MAX = 62 * 86_400
"""Longest life of an offer, s: what its windows may cover."""
_VERSION = 1
_DIGEST_DOMAIN = b"srwan/offer-digest/1\0"


def _require(is_met: bool, problem: str) -> None:
    if not is_met:
        raise ValueError(f"offer: {problem}")


@attrs.frozen(slots=True)
class Limits:
    """How much a router is willing to carry.

    Raises:
        ValueError: a field is out of bounds.
    """

    rate_kbps: int = 0
    """Of all that it carries for others together, kbit/s; 0 = whatever comes."""
    day_octets: int = 0
    """Octets a day of universal time; 0 = whatever comes. No session is accepted beyond."""

    def __attrs_post_init__(self) -> None:
        _require(0 <= self.rate_kbps < 2**32, f"a rate limit of {self.rate_kbps} kbit/s")
        _require(0 <= self.day_octets < 2**63, f"a limit of {self.day_octets} octets a day")


@attrs.frozen(slots=True)
class Promise:
    """A service level the seller promises towards a destination, checked by whoever measures.

    Raises:
        ValueError: a field is out of bounds.
    """

    to: str
    """A node id of 64 hexadecimal digits, or country:ASN as in "DE:3320"."""
    owl_us_max: int
    """Longest one-way latency from the seller to there, us."""
    loss_ppm_max: int = PPM
    """Largest loss on the way, parts per million."""

    def __attrs_post_init__(self) -> None:
        _require(0 < len(self.to) <= PROMISE_TO_BYTES_MAX and self.to.isascii() and self.to.isprintable(), f"a promise to {self.to!r}")
        _require(0 < self.owl_us_max <= LATENCY_US_MAX, f"a promise of {self.owl_us_max} us")
        _require(0 <= self.loss_ppm_max <= PPM, f"a promise of {self.loss_ppm_max} ppm loss")


@attrs.frozen(slots=True, kw_only=True)
class Offer:
    """What one router asks and promises.

    Raises:
        ValueError: a field is out of bounds, or a price is asked and no wallet is named.
    """

    seller: NodeId
    """Who carries; the key that signs."""
    version: Version
    """Of two offers of a seller the newer counts."""
    price_microtoken_per_gb: int | None
    """Price of one GB, microtokens; INFINITE = it never carries."""
    wallet: Address | None = None
    """Who is paid."""
    issued_ns: int
    """Wall time, ns since 1970."""
    expires_ns: int
    """Wall time, ns since 1970."""
    schedule: Schedule = ALWAYS
    """When sessions may run."""
    limits: Limits = Limits()
    label: str = ""
    """For humans, up to 64 printable ASCII characters."""
    is_premium: bool = False
    """A commercial segment; for humans and searches."""
    saved_full_us: int = 0
    """Verified latency saved from which the full price is due, us; 0 = always."""
    promises: tuple[Promise, ...] = ()
    bond: Bond | None = None
    """Stands for a name: the listing is anonymous."""
    country: str = "ZZ"
    """Where the seller says it is, ISO 3166-1 alpha-2; ZZ = not said."""
    asn: int = 0
    """Its autonomous system as it says; 0 = not said."""
    digest: bytes = attrs.field(init=False, repr=False, eq=False)
    """Keccak-256 of all that is signed but the place, 32 B: how plans name it."""

    def __attrs_post_init__(self) -> None:
        price = self.price_microtoken_per_gb
        _require(price is None or 0 <= price <= OFFER_PRICE_MICROTOKEN_MAX, f"a price of {price}")
        _require(not price or self.wallet is not None, "a price is asked, but no wallet is named")
        _require(self.bond is None or self.wallet is not None, "a bond without a wallet")
        _require(0 < self.expires_ns - self.issued_ns <= LIFETIME_S_MAX * NS_PER_S, "it lives too long or not at all")
        _require(len(self.label) <= LABEL_CHARACTERS_MAX and self.label.isascii(), f"a label of {len(self.label)} characters")
        _require(not self.label or self.label.isprintable(), "a label that cannot be printed")
        _require(0 <= self.saved_full_us <= LATENCY_US_MAX, f"full price from {self.saved_full_us} us saved")
        _require(len(self.promises) <= PROMISES_MAX, f"{len(self.promises)} promises, at most {PROMISES_MAX}")
        head = [self.seller, *self.version, self.issued_ns, self.expires_ns]
        object.__setattr__(self, "digest", keccak256(_DIGEST_DOMAIN + pack([*head, self._content()])))

    @property
    def is_anonymous(self) -> bool:
        """Whether a bond stands for the seller's name."""
        return self.bond is not None

    @property
    def carries(self) -> bool:
        """Whether it has a price at all."""
        return self.price_microtoken_per_gb is not None

    def is_valid_at(self, time_s: int) -> bool:
        """Say whether a session may be opened on it at a time, s since 1970: issued, not expired, and within a window."""
        is_current = self.issued_ns // NS_PER_S - SKEW_S_MAX <= time_s < self.expires_ns // NS_PER_S
        return is_current and self.schedule.window_at(time_s) is not None

    def price_at(self, time_s: int) -> int | None:
        """Return the price of one GB for a session opened at a time, microtokens; None if none may be, or the price is infinite."""
        return self.price_microtoken_per_gb if self.is_valid_at(time_s) else None

    def ends_s(self, time_s: int) -> int:
        """Return when what is offered at a time ends, s since 1970: its window, or the offer itself; that time if it is closed."""
        window = self.schedule.window_at(time_s)
        expires_s = self.expires_ns // NS_PER_S
        return time_s if window is None else min(window.end_s, expires_s)

    def _content(self) -> bytes:
        price = self.price_microtoken_per_gb
        return pack(
            [
                _VERSION,
                None if price is None else price.to_bytes(16, "big"),
                self.wallet,
                self.schedule.value(),
                [self.limits.rate_kbps, self.limits.day_octets],
                self.label,
                self.is_premium,
                self.saved_full_us,
                [[promise.to, promise.owl_us_max, promise.loss_ppm_max] for promise in self.promises],
                None if self.bond is None else self.bond.value(),
            ]
        )

    def statement(self) -> Statement:
        """Return the statement to sign."""
        times = (self.issued_ns, self.expires_ns)
        return Statement(Kind.OFFER, MARKET_GROUP, self.seller, b"", self.version, *times, self._content())

    def record(self, identity: Identity) -> Record:
        """Sign it with the place it names.

        Raises:
            ValueError: `identity` is not the seller's.
        """
        return self.statement().record(identity, GeoAsn(self.country, asn=self.asn))

    @classmethod
    def of_record(cls, record: Record) -> Self:
        """Return the offer inside a record that `verify` has passed.

        Raises:
            RemoteProtocolError: no offer, or malformed.
        """
        statement = Statement.of_record(record)
        if record.kind is not Kind.OFFER or statement.group != MARKET_GROUP or statement.topic:
            raise DecodeError(f"a {record.kind} record is not the offer of {record.subject!r}")
        try:
            return cls(
                seller=statement.subject,
                version=statement.version,
                issued_ns=statement.issued_ns,
                expires_ns=statement.expires_ns,
                country=record.country,
                asn=record.asn,
                **_fields_of(unpack(statement.content, bytes_max=CONTENT_BYTES_MAX[Kind.OFFER])),
            )
        except ValueError as error:
            raise DecodeError(f"malformed offer: {error}") from None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _fields_of(value: Any) -> dict[str, Any]:
    """Return the fields that a parsed content gives.

    Raises:
        DecodeError: malformed. ValueError: out of bounds.
    """
    match value:
        case [version, price, wallet, windows, [rate_kbps, day_octets], str(label), bool(is_premium), saved_full_us, list(promises), bond]:
            pass
        case _:
            raise DecodeError("not an offer")
    if not all(map(_is_count, (version, rate_kbps, day_octets, saved_full_us))) or version != _VERSION:
        raise DecodeError("not an offer of this version")
    is_price = price is None or (isinstance(price, bytes) and len(price) == 16)
    is_wallet = wallet is None or (isinstance(wallet, bytes) and len(wallet) == ADDRESS_BYTES)
    if not (is_price and is_wallet and len(promises) <= PROMISES_MAX):
        raise DecodeError("not an offer")
    return {
        "price_microtoken_per_gb": None if price is None else int.from_bytes(price, "big"),
        "wallet": None if wallet is None else Address(wallet),
        "schedule": schedule_of(windows),
        "limits": Limits(rate_kbps, day_octets),
        "label": label,
        "is_premium": is_premium,
        "saved_full_us": saved_full_us,
        "promises": tuple(map(_promise_of, promises)),
        "bond": None if bond is None else Bond.of_value(bond),
    }


def _promise_of(value: Any) -> Promise:
    match value:
        case [str(to), owl_us_max, loss_ppm_max] if _is_count(owl_us_max) and _is_count(loss_ppm_max):
            return Promise(to, owl_us_max, loss_ppm_max)
        case _:
            raise DecodeError("not a promise")
