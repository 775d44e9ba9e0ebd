"""Service level agreements with money behind them: when the default path breaks one, a detour is paid from the escrow of who gave it.

A sans-IO core. In: `measure` (what the default path delivers), `buy` and `spent` (what a detour costs); out: `is_broken`, `next_event`, and
`evidence`.

Theory of operation (whitepaper 12). An ISP, or a buyer for itself, puts tokens into the escrow of a wallet kept for the agreement, and says
what its path must deliver. Measurements come from receipts, or from a watched path; latencies are true ones. The agreement is broken by
`breaches_min` measurements in a row, so that a spike costs nobody anything, and kept again after `calm_min`. While it is broken, paid paths
may be bought from that wallet: up to a price per GB, and up to a budget per period, so that a bad month of an ISP is not its ruin. What
was measured when it broke is kept as evidence, and filed as a statement (kind "evidence"), which anybody can hold against the receipts.

Not here: path choice (`srwan.routing.assurance` keeps or leaves the default path), tickets, and whose fault it was.

Invariants: nothing is bought while the agreement is kept, above its price, or beyond the budget; evidence is bounded.

Layout of the evidence, canonical msgpack: ["sla", agreement digest, broken_ns, [[wall_ns, owl_us, loss_ppm], ...]].
"""

from __future__ import annotations

from collections import deque
from typing import TypeAlias

import attrs

from srwan.errors import DecodeError, InsufficientEscrow, NoOffer
from srwan.ledger_client.accounting.plan import are_integers
from srwan.ledger_client.market.offer import LATENCY_US_MAX, OFFER_PRICE_MICROTOKEN_MAX, PPM
from srwan.ledger_client.market.quote import Quote
from srwan.ledger_client.record import Kind, Version
from srwan.ledger_client.report import NS_PER_S
from srwan.ledger_client.settlement.signing import Address, keccak256
from srwan.ledger_client.statement import MARKET_GROUP, Statement
from srwan.types import NodeId
from srwan.wire import pack, unpack

__all__ = ["Agreement", "AgreementBroken", "AgreementRestored", "DetourBought", "Measurement", "SlaAccount", "SlaEvent", "measurements_of"]

EVIDENCE_MAX = 256
"""Measurements kept of one breach: 51 s at 5 a second; 6 kB."""
EVIDENCE_LIFETIME_S = 90 * 86_400
EVENTS_MAX = 256


@attrs.frozen(slots=True, kw_only=True)
class Agreement:
    """What a path must deliver, and who pays for the way around it otherwise.

    Raises:
        ValueError: a field is out of bounds.
    """

    provider: NodeId
    """Who gave it: signs the evidence or has it held against it."""
    wallet: Address
    """Its escrow pays."""
    owl_us_max: int
    """Longest one-way latency, us."""
    loss_ppm_max: int = 20_000
    """Largest loss, parts per million."""
    price_max_microtoken: int
    """The most that one GB of a detour may cost, microtokens."""
    budget_microtoken: int
    """The most that all detours of a period may cost, microtokens."""
    period_s: int = 30 * 86_400
    """After which the budget is whole again, s."""
    breaches_min: int = 3
    """Measurements in a row that break it."""
    calm_min: int = 10
    """Measurements in a row that restore it."""

    def __attrs_post_init__(self) -> None:
        is_sound = 0 < self.owl_us_max <= LATENCY_US_MAX and 0 <= self.loss_ppm_max <= PPM
        is_sound = is_sound and 0 <= self.price_max_microtoken <= OFFER_PRICE_MICROTOKEN_MAX and 0 <= self.budget_microtoken < 2**63
        if not (is_sound and self.period_s > 0 and 0 < self.breaches_min <= EVIDENCE_MAX and self.calm_min > 0):
            raise ValueError("an agreement's thresholds, price, budget and counts are positive and within bounds")

    @property
    def digest(self) -> bytes:
        """Keccak-256 of its fields, 32 B: what evidence names."""
        limits = [self.owl_us_max, self.loss_ppm_max, self.price_max_microtoken, self.budget_microtoken, self.period_s]
        return keccak256(b"srwan/sla/1\0" + pack([self.provider, self.wallet, *limits, self.breaches_min, self.calm_min]))

    def is_broken_by(self, measurement: Measurement) -> bool:
        """Say whether a measurement is beyond the thresholds."""
        return measurement.owl_us > self.owl_us_max or measurement.loss_ppm > self.loss_ppm_max


@attrs.frozen(slots=True)
class Measurement:
    """What the default path delivered at one moment."""

    wall_ns: int
    """Wall time, ns since 1970."""
    owl_us: int
    """True one-way latency, us."""
    loss_ppm: int
    """Loss, parts per million."""


@attrs.frozen(slots=True)
class AgreementBroken:
    """The default path breaks the agreement; detours may be bought."""

    broken_ns: int
    """Wall time, ns since 1970."""
    last: Measurement


@attrs.frozen(slots=True)
class AgreementRestored:
    """The default path keeps it again; no more detours are bought."""

    restored_ns: int
    """Wall time, ns since 1970."""
    spent_microtoken: int
    """In this period so far, microtokens."""


@attrs.frozen(slots=True)
class DetourBought:
    """A session was paid for from the agreement's escrow."""

    relays: tuple[NodeId, ...]
    cap_microtoken: int
    """Reserved for it, microtokens."""


SlaEvent: TypeAlias = AgreementBroken | AgreementRestored | DetourBought


class SlaAccount:
    """One agreement over one default path.

    Args:
        agreement: what was agreed.
        wall_ns: wall time at which its first period begins, ns since 1970.
    """

    def __init__(self, agreement: Agreement, wall_ns: int) -> None:
        self.agreement = agreement
        self.is_broken = False
        """Whether detours may be bought now."""
        self._from_ns = wall_ns
        self._period = 0
        self._reserved: dict[bytes, int] = {}
        self._spent = 0
        self._row = 0
        self._recent: deque[Measurement] = deque(maxlen=EVIDENCE_MAX)
        self._broken_ns = 0
        self._events: deque[SlaEvent] = deque(maxlen=EVENTS_MAX)

    def measure(self, measurement: Measurement) -> None:
        """Take what the default path delivered."""
        self._begin_period(measurement.wall_ns)
        self._recent.append(measurement)
        is_breach = self.agreement.is_broken_by(measurement)
        self._row = self._row + 1 if is_breach != self.is_broken else 0
        if not self.is_broken and self._row >= self.agreement.breaches_min:
            self.is_broken, self._row, self._broken_ns = True, 0, measurement.wall_ns
            self._events.append(AgreementBroken(measurement.wall_ns, measurement))
        elif self.is_broken and self._row >= self.agreement.calm_min:
            self.is_broken, self._row = False, 0
            self._events.append(AgreementRestored(measurement.wall_ns, self._spent))

    def left_microtoken(self, wall_ns: int) -> int:
        """Return what is left of the budget of this period, microtokens: neither spent nor reserved."""
        self._begin_period(wall_ns)
        return max(0, self.agreement.budget_microtoken - self._spent - sum(self._reserved.values()))

    def _begin_period(self, wall_ns: int) -> None:
        period = (wall_ns - self._from_ns) // (self.agreement.period_s * NS_PER_S)
        if period > self._period:
            self._period, self._spent = period, 0

    def buy(self, quote: Quote, session: bytes, cap_microtoken: int, wall_ns: int) -> None:
        """Reserve the cap of a session on a detour from the budget; open it with the agreement's wallet next.

        Raises:
            NoOffer: the agreement is kept, or the detour costs more than was agreed. Nothing is reserved.
            InsufficientEscrow: the budget does not reach. Nothing is reserved.
        """
        if not self.is_broken or not quote.relays:
            raise NoOffer(self.agreement.provider, "the agreement is kept", "use the default path")
        if quote.price_microtoken > self.agreement.price_max_microtoken:
            problem = f"a detour for {quote.price_microtoken} microtokens a GB, agreed are {self.agreement.price_max_microtoken}"
            raise NoOffer(quote.relays[0], problem, "choose another detour")
        left = self.left_microtoken(wall_ns)
        if cap_microtoken > left:
            raise InsufficientEscrow("the budget of a service level agreement", cap_microtoken, left)
        self._reserved[session] = cap_microtoken
        self._events.append(DetourBought(quote.relays, cap_microtoken))

    def spent(self, session: bytes, amount_microtoken: int) -> None:
        """Say what a session cost in the end; what was reserved beyond it is free again. A second call changes nothing."""
        reserved = self._reserved.pop(session, None)
        if reserved is not None:
            self._spent += min(amount_microtoken, reserved)

    def evidence(self, subject: NodeId, version: Version, wall_ns: int) -> Statement:
        """Return what was measured around the last breach, as a statement for `subject` to sign; topic = digest of the agreement."""
        rows = [[each.wall_ns, each.owl_us, each.loss_ppm] for each in self._recent]
        content = pack(["sla", self.agreement.digest, self._broken_ns, rows])
        expires_ns = wall_ns + EVIDENCE_LIFETIME_S * NS_PER_S
        return Statement(Kind.EVIDENCE, MARKET_GROUP, subject, self.agreement.digest, version, wall_ns, expires_ns, content)

    def next_event(self) -> SlaEvent | None:
        """Return the oldest event not yet returned, or None."""
        return self._events.popleft() if self._events else None


def measurements_of(statement: Statement, agreement: Agreement) -> tuple[Measurement, ...]:
    """Return what a statement of `SlaAccount.evidence` says, for who checks it against the agreement and the receipts.

    Raises:
        RemoteProtocolError: it is no evidence about this agreement.
    """
    match unpack(statement.content, bytes_max=32 * 1024):
        case ["sla", bytes(digest), int(), list(rows)] if digest == agreement.digest == statement.topic and len(rows) <= EVIDENCE_MAX:
            pass
        case _:
            raise DecodeError("no evidence about this agreement")
    measurements: list[Measurement] = []
    for row in rows:
        if not (isinstance(row, list) and len(row) == 3 and are_integers(row)):
            raise DecodeError("not a measurement")
        measurements.append(Measurement(*row))
    return tuple(measurements)
