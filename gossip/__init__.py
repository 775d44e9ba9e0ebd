"""What is measured and told: latencies, who may be dead, who lies, what the clocks are, and whose turn it is to report.

Start at `core.py`, which puts the parts together, and `service.py`, which runs it; what a member signs is in `row.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from srwan.lazy import lazy_names

if TYPE_CHECKING:
    from srwan.gossip.anomaly import (
        AnomalyDetector,
        JitterNormal,
        JitterRose,
        LatencyNormal,
        LatencyRiseSuspected,
        LatencyRose,
        LossNormal,
        LossRose,
    )
    from srwan.gossip.clock_fit import ClockFit, clock_offsets_ms, fit_clocks, recovered_ms
    from srwan.gossip.core import ClockStepped, GossipConfig, GossipCore, SelfReborn
    from srwan.gossip.events import ClockRealigned, EchoMeasured, EquivocationSeen, MatrixFilled, MatrixIncomplete, PeerClockMoved
    from srwan.gossip.owl import OwlMatrix, OwlSnapshot
    from srwan.gossip.pulse import Pulse
    from srwan.gossip.report import Report
    from srwan.gossip.reporter import Reporter, ReporterElected, ReporterTookOver, ReportPublished
    from srwan.gossip.row import Row, SignedRow
    from srwan.gossip.service import GossipService
    from srwan.gossip.suspicion import AccusationDue, HealthChanged, PeerHeardAgain, PeerSuspected, Suspicion
    from srwan.gossip.witness import Score, Witness
    from srwan.gossip.witness_events import LieFound, PeerDistrusted, PeerQuarantined, PeerReleased, PeerTrusted

__all__ = [
    "AccusationDue",
    "AnomalyDetector",
    "ClockFit",
    "ClockRealigned",
    "ClockStepped",
    "EchoMeasured",
    "EquivocationSeen",
    "GossipConfig",
    "GossipCore",
    "GossipService",
    "HealthChanged",
    "JitterNormal",
    "JitterRose",
    "LatencyNormal",
    "LatencyRiseSuspected",
    "LatencyRose",
    "LieFound",
    "LossNormal",
    "LossRose",
    "MatrixFilled",
    "MatrixIncomplete",
    "OwlMatrix",
    "OwlSnapshot",
    "PeerClockMoved",
    "PeerDistrusted",
    "PeerHeardAgain",
    "PeerQuarantined",
    "PeerReleased",
    "PeerSuspected",
    "PeerTrusted",
    "Pulse",
    "Report",
    "ReportPublished",
    "Reporter",
    "ReporterElected",
    "ReporterTookOver",
    "Row",
    "Score",
    "SelfReborn",
    "SignedRow",
    "Suspicion",
    "Witness",
    "clock_offsets_ms",
    "fit_clocks",
    "recovered_ms",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "AccusationDue": "suspicion",
        "AnomalyDetector": "anomaly",
        "ClockFit": "clock_fit",
        "ClockRealigned": "events",
        "ClockStepped": "core",
        "EchoMeasured": "events",
        "EquivocationSeen": "events",
        "GossipConfig": "core",
        "GossipCore": "core",
        "GossipService": "service",
        "HealthChanged": "suspicion",
        "JitterNormal": "anomaly",
        "JitterRose": "anomaly",
        "LatencyNormal": "anomaly",
        "LatencyRiseSuspected": "anomaly",
        "LatencyRose": "anomaly",
        "LieFound": "witness_events",
        "LossNormal": "anomaly",
        "LossRose": "anomaly",
        "MatrixFilled": "events",
        "MatrixIncomplete": "events",
        "OwlMatrix": "owl",
        "OwlSnapshot": "owl",
        "PeerClockMoved": "events",
        "PeerDistrusted": "witness_events",
        "PeerHeardAgain": "suspicion",
        "PeerQuarantined": "witness_events",
        "PeerReleased": "witness_events",
        "PeerSuspected": "suspicion",
        "PeerTrusted": "witness_events",
        "Pulse": "pulse",
        "Report": "report",
        "ReportPublished": "reporter",
        "Reporter": "reporter",
        "ReporterElected": "reporter",
        "ReporterTookOver": "reporter",
        "Row": "row",
        "Score": "witness",
        "SelfReborn": "core",
        "SignedRow": "row",
        "Suspicion": "suspicion",
        "Witness": "witness",
        "clock_offsets_ms": "clock_fit",
        "fit_clocks": "clock_fit",
        "recovered_ms": "clock_fit",
    },
)
