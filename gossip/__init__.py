"""What is measured and told: pulses, the matrix of one-way latencies, group time, the reporter.

Start at `service.py`, which runs `pulse.py` and `reporter.py`; what a member signs is in `row.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from srwan.lazy import lazy_names

if TYPE_CHECKING:
    from srwan.gossip.clock_fit import clock_offsets_ms, recovered_ms
    from srwan.gossip.events import ClockRealigned, EchoMeasured, EquivocationSeen, MatrixFilled, MatrixIncomplete
    from srwan.gossip.owl import OwlMatrix, OwlSnapshot
    from srwan.gossip.pulse import Pulse
    from srwan.gossip.report import Report
    from srwan.gossip.reporter import Reporter, ReporterElected, ReporterTookOver, ReportPublished
    from srwan.gossip.row import Row, SignedRow
    from srwan.gossip.service import GossipConfig, GossipService

__all__ = [
    "ClockRealigned",
    "EchoMeasured",
    "EquivocationSeen",
    "GossipConfig",
    "GossipService",
    "MatrixFilled",
    "MatrixIncomplete",
    "OwlMatrix",
    "OwlSnapshot",
    "Pulse",
    "Report",
    "ReportPublished",
    "Reporter",
    "ReporterElected",
    "ReporterTookOver",
    "Row",
    "SignedRow",
    "clock_offsets_ms",
    "recovered_ms",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "ClockRealigned": "events",
        "EchoMeasured": "events",
        "EquivocationSeen": "events",
        "GossipConfig": "service",
        "GossipService": "service",
        "MatrixFilled": "events",
        "MatrixIncomplete": "events",
        "OwlMatrix": "owl",
        "OwlSnapshot": "owl",
        "Pulse": "pulse",
        "Report": "report",
        "ReportPublished": "reporter",
        "Reporter": "reporter",
        "ReporterElected": "reporter",
        "ReporterTookOver": "reporter",
        "Row": "row",
        "SignedRow": "row",
        "clock_offsets_ms": "clock_fit",
        "recovered_ms": "clock_fit",
    },
)
