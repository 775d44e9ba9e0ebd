"""What an application wants of its path: thresholds, risks, relays to force or to shun.

A policy is a value. It holds no measurement and decides nothing: `finder` ranks with it, `control` decides with it. All thresholds are
milliseconds of raw one-way latency between the same two end points, where clock offsets cancel; none is a percentage, because a
percentage of a raw latency is meaningless under clock skew (it was wrong for half of all pairs).

Sources: enter, switch and spread from what survived at Network Next (10, 10, 5 ms); leave below enter so that noise cannot flap;
deaths by missed keep-alives from SCION's gateway, at a shorter interval.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from typing import TypeVar

import attrs

from srwan.errors import ConfigError
from srwan.routing.prices import PRICE_MICROTOKEN_MAX
from srwan.types import NodeId

__all__ = ["PathMode", "PathPolicy", "Sla"]

RELAYS_MAX = 3
"""Relays on one path: with the egress four segments, what an overlay MTU of 1,280 leaves room for on a 1,500 byte underlay."""
STANDBYS_MAX = 8
"""Warm standby paths: each costs two small packets per keep-alive interval."""
HOLD_MS_MAX = 200.0
"""Longest time a receiver holds a packet back, ms: an application that minds order minds such a delay more."""
AVOID_MAX = 1024
"""Nodes to shun: far above the size of a group."""

_Number = TypeVar("_Number", int, float)


class PathMode(enum.Enum):
    """How many paths the packets of a flow take."""

    SINGLE = "single"
    """One at a time."""
    REPEAT = "repeat"
    """Each packet on two paths that share no relay; the receiver gets the first copy and drops the second. Costs twice the octets."""
    SPREAD = "spread"
    """A virtual circuit: packets in turn over all paths within `spread_ms` of the best, by the capacity seen on each. The receiver puts
    them in order again and waits at most `hold_ms` for a missing one."""


def _within(
    low: float, high: float, unit: str, section: str = "policy"
) -> Callable[[PathPolicy | Sla, attrs.Attribute[_Number], _Number], None]:
    def check(_policy: PathPolicy | Sla, attribute: attrs.Attribute[_Number], value: _Number) -> None:
        is_integer = attribute.type in ("int", int)
        is_number = isinstance(value, int if is_integer else (int, float)) and not isinstance(value, bool)
        if not (is_number and low <= value <= high):
            unit_text = f" {unit}" if unit else ""
            kind = "an integer" if is_integer else "a number"
            raise ConfigError(f"{section}.{attribute.name}", f"is {value!r}", f"use {kind} from {low:g} to {high:g}{unit_text}")

    return check


def _as_set(nodes: Iterable[NodeId]) -> frozenset[NodeId]:
    return frozenset(nodes)


def _as_mode(mode: PathMode | str) -> PathMode:
    try:
        return PathMode(mode)
    except ValueError:
        names = ", ".join(repr(known.value) for known in PathMode)
        raise ConfigError("policy.mode", f"is {mode!r}", f"use one of {names}") from None


def _as_tuple(nodes: Iterable[NodeId]) -> tuple[NodeId, ...]:
    return tuple(nodes)


@attrs.frozen(slots=True)
class Sla:
    """What a path must deliver: a service level agreement. `assurance` says how a path is held against it.

    Raises:
        ConfigError: a value is out of its range.
    """

    owl_ms_max: float = attrs.field(validator=_within(0.1, 10_000, "ms", "policy.sla"))
    """Longest one-way latency, ms; a true one, free of clock offsets as far as round trips tell."""
    loss_max: float = attrs.field(default=0.02, validator=_within(0, 1, "", "policy.sla"))
    """Largest share of lost packets, 0..1."""


@attrs.frozen(slots=True, kw_only=True)
class PathPolicy:
    """How one path object chooses.

    Raises:
        ConfigError: a value is out of its range or contradicts another; the message names key, value and range.
    """

    enter_ms: float = attrs.field(default=10.0, validator=_within(0.1, 10_000, "ms"))
    """Leave the home path (direct, or `via`) when a relayed one is measured better by this, ms."""
    switch_ms: float = attrs.field(default=10.0, validator=_within(0.1, 10_000, "ms"))
    """Move from one relayed path to another when it is measured better by this, ms."""
    leave_ms: float = attrs.field(default=3.0, validator=_within(0, 10_000, "ms"))
    """Go home when the relayed path's measured gain stays below this, ms; below enter_ms."""
    spread_ms: float = attrs.field(default=5.0, validator=_within(0, 10_000, "ms"))
    """Choose at random among paths this close to the best, ms, so that not everybody takes the same relay."""
    relay_ms: float = attrs.field(default=0.5, validator=_within(0, 1_000, "ms"))
    """What a relay itself is thought to cost, ms one way."""
    risk_weight: float = attrs.field(default=0.5, validator=_within(0, 10, ""))
    """How much of a leg's deviation counts as latency when paths are predicted: mean + risk_weight * deviation."""
    loss_cost_ms: float = attrs.field(default=400.0, validator=_within(0, 10_000, "ms"))
    """Latency that a lost packet is worth, ms: the customary 200 ms minimum of a retransmission timer, and as much again for what
    waits behind it."""
    relays_max: int = attrs.field(default=1, validator=_within(0, RELAYS_MAX, ""))
    """Relays on a path, 0..3; 0 means direct only. A second relay adds 11-14 % to the gain of the first."""
    standbys: int = attrs.field(default=2, validator=_within(0, STANDBYS_MAX, ""))
    """Relayed paths kept warm besides the one in use, 0..8; node-disjoint."""
    avoid: frozenset[NodeId] = attrs.field(default=frozenset(), converter=_as_set)
    """Nodes that are never relays here."""
    via: tuple[NodeId, ...] = attrs.field(default=(), converter=_as_tuple)
    """Relays to force, in visiting order; empty means choose. Then nothing is ranked: only this path is used."""
    fallback: bool = attrs.field(default=True, validator=attrs.validators.instance_of(bool))
    """With `via`: use the direct path while the forced one is dead."""
    keepalive_s: float = attrs.field(default=0.2, validator=_within(0.02, 10, "s"))
    """Mean interval between keep-alives on each watched path, s; also the interval between evaluations."""
    answer_s: float = attrs.field(default=0.1, validator=_within(0.02, 10, "s"))
    """While DATA flow the egress answers them, so often; keep-alives are put off then, and silence shows sooner, s."""
    mode: PathMode = attrs.field(default=PathMode.SINGLE, converter=_as_mode)
    """Whether packets take one path, two at once, or several in turn."""
    hold_ms: float = attrs.field(default=50.0, validator=_within(0, HOLD_MS_MAX, "ms"))
    """With `mode` spread: how long the receiver holds a packet back for those before it, ms."""
    suspect_after: int = attrs.field(default=2, validator=_within(1, 50, "missed answers"))
    """Missed answers that make a path suspect: no standby any more."""
    dead_after: int = attrs.field(default=3, validator=_within(2, 100, "missed answers"))
    """Missed answers that make a path dead: traffic leaves it."""
    price_max_microtoken: int = attrs.field(default=0, validator=_within(0, PRICE_MICROTOKEN_MAX, "microtokens"))
    """The most that one GB may cost over all relays of a path, microtokens; 0 = free relays only. Nobody spends without having said so."""
    sla: Sla | None = attrs.field(default=None, validator=attrs.validators.optional(attrs.validators.instance_of(Sla)))
    """Stay on the home path while it meets this, whatever else is faster or cheaper; leave it, for the cheapest path that does, when it
    breaks it. None: leave it for what is better by `enter_ms`."""

    def __attrs_post_init__(self) -> None:
        if self.leave_ms >= self.enter_ms:
            raise ConfigError("policy.leave_ms", f"is {self.leave_ms!r}", f"use less than policy.enter_ms, {self.enter_ms:g} ms")
        if self.dead_after <= self.suspect_after:
            raise ConfigError("policy.dead_after", f"is {self.dead_after!r}", f"use more than policy.suspect_after, {self.suspect_after}")
        for key, nodes, count_max in (("via", self.via, RELAYS_MAX), ("avoid", tuple(self.avoid), AVOID_MAX)):
            if len(nodes) > count_max:
                raise ConfigError(f"policy.{key}", f"names {len(nodes)} nodes", f"use 0 to {count_max} nodes")
            stranger = next((node for node in nodes if not isinstance(node, NodeId)), None)
            if stranger is not None:
                raise ConfigError(f"policy.{key}", f"holds {stranger!r}", "use NodeIds of 32 bytes")
        if self.via and self.sla is not None:
            raise ConfigError("policy.sla", "is given beside policy.via", "forced relays are not judged; leave one of the two out")
        if len(set(self.via)) != len(self.via):
            raise ConfigError("policy.via", "names a node twice", "visit each relay once")
        both = self.avoid.intersection(self.via)
        if both:
            raise ConfigError("policy.via", f"forces {next(iter(both))!r}", "take it out of policy.avoid or out of policy.via")
