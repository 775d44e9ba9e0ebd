"""What the log says of each event of this room; a table. Events that are not in it are not logged."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from srwan.gossip.anomaly import LatencyNormal, LatencyRose
from srwan.gossip.core import ClockStepped, SelfReborn
from srwan.gossip.events import ClockRealigned, EquivocationSeen, MatrixFilled, MatrixIncomplete
from srwan.gossip.reporter import ReporterElected, ReporterTookOver, ReportPublished
from srwan.gossip.suspicion import HealthChanged, PeerSuspected
from srwan.gossip.witness import LieFound, PeerDistrusted, PeerQuarantined, PeerReleased

__all__ = ["line_of"]

DEBUG, INFO, WARNING = 10, 20, 30
"""As in `logging`, which a core does not import."""

_LINES: Mapping[type, tuple[int, str]] = MappingProxyType(
    {
        MatrixFilled: (INFO, "all {e.edges} edges of {e.members} members are known, {e.after_s:.1f} s after the last change"),
        MatrixIncomplete: (INFO, "only {e.edges} edges of {e.members} members are known"),
        ClockRealigned: (INFO, "moved the group time by {e.by_ms:.0f} ms, clock epoch {e.epoch}"),
        ClockStepped: (WARNING, "this host's clock was stepped by {e.by_ms:.1f} ms; latencies are measured afresh"),
        ReporterElected: (INFO, "{e.node_id} reports in epoch {e.epoch}"),
        ReporterTookOver: (INFO, "standby {e.rank}, {e.node_id}, reports"),
        ReportPublished: (DEBUG, "{e.node_id} published {e.rows} rows"),
        PeerSuspected: (DEBUG, "{e.subject} is not heard any more"),
        HealthChanged: (INFO, "this node hears less than it should: health {e.level}, where 0 is well"),
        SelfReborn: (WARNING, "the group had given this node up; it is well again and starts run {e.boot}"),
        LatencyRose: (INFO, "latency from {e.node_id} rose by {e.by_ms:.1f} ms"),
        LatencyNormal: (INFO, "latency from {e.node_id} is normal again"),
        EquivocationSeen: (WARNING, "{e.node_id} signed two different rows at one sequence number"),
        LieFound: (WARNING, "{e.node_id} tells what cannot be ({e.kind.name}, by {e.by_ms:.1f} ms)"),
        PeerDistrusted: (WARNING, "{e.node_id} is not used as a relay: too much speaks against it"),
        PeerQuarantined: (WARNING, "{e.node_id} is in quarantine"),
        PeerReleased: (INFO, "{e.node_id} is out of quarantine"),
    }
)


def line_of(event: object) -> tuple[int, str] | None:
    """Return level and text for the log; None: not worth a line."""
    line = _LINES.get(type(event))
    return None if line is None else (line[0], line[1].format(e=event))
