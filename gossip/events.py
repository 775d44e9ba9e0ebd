"""What the pulse found out: values that leave through `Pulse.next_event`."""

from __future__ import annotations

from typing import TypeAlias

import attrs

from srwan.types import NodeId, PeerMisbehaved

__all__ = ["ClockRealigned", "EchoMeasured", "EquivocationSeen", "MatrixFilled", "MatrixIncomplete", "PeerClockMoved", "PulseEvent"]


@attrs.frozen(slots=True)
class MatrixFilled:
    """Every directed edge of the group is known here."""

    edges: int
    """n (n - 1)."""
    members: int
    """n, this member included."""
    after_s: float
    """Time since the last change of membership, s."""


@attrs.frozen(slots=True)
class MatrixIncomplete:
    """Some edges are not known any more; emitted once, after the matrix was filled."""

    edges: int
    """Known edges."""
    members: int
    """n, this member included."""


@attrs.frozen(slots=True)
class ClockRealigned:
    """This member moved its group time after its pulses were under way: nothing measured with it before compares."""

    by_ms: float
    epoch: int
    """The new clock epoch, u8."""


@attrs.frozen(slots=True)
class EquivocationSeen:
    """A member signed two different rows at one (boot, seq). The two contents prove it to anybody who knows the group id."""

    node_id: NodeId
    first: bytes
    """Signed content."""
    second: bytes
    """Signed content."""


@attrs.frozen(slots=True)
class EchoMeasured:
    """A member echoed a probe."""

    node_id: NodeId
    round_trip_ms: float
    """From probe to echo by the own clock, ms."""
    held_ms: float
    """How much of it the member says it held the probe, ms; a claim."""


@attrs.frozen(slots=True)
class PeerClockMoved:
    """A member restarted or moved its group time: older measurements with it do not compare."""

    node_id: NodeId


PulseEvent: TypeAlias = MatrixFilled | MatrixIncomplete | ClockRealigned | EquivocationSeen | EchoMeasured | PeerClockMoved | PeerMisbehaved
