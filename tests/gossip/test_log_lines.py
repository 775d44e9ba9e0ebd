"""Every event in the table makes a line, and the line says what happened."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from srwan.gossip import log_lines
from srwan.gossip.anomaly import LatencyNormal, LatencyRose
from srwan.gossip.core import ClockStepped, SelfReborn
from srwan.gossip.events import ClockRealigned, EchoMeasured, EquivocationSeen, MatrixFilled, MatrixIncomplete, PeerClockMoved
from srwan.gossip.evidence import Kind
from srwan.gossip.log_lines import line_of
from srwan.gossip.reporter import ReportDue, ReporterElected, ReporterTookOver, ReportPublished
from srwan.gossip.suspicion import AccusationDue, HealthChanged, PeerHeardAgain, PeerSuspected
from srwan.gossip.witness import EchoWanted, LieFound, PeerDistrusted, PeerQuarantined, PeerReleased, PeerTrusted
from srwan.types import NodeId, PeerMisbehaved

NODE = NodeId(bytes(range(32)))
DEBUG, INFO, WARNING = 10, 20, 30

LINES: list[tuple[Any, int, str]] = [
    (MatrixFilled(90, 10, 2.345), INFO, "all 90 edges of 10 members are known, 2.3 s after the last change"),
    (MatrixIncomplete(88, 10), INFO, "only 88 edges of 10 members are known"),
    (ClockRealigned(-350.4, 3), INFO, "moved the group time by -350 ms, clock epoch 3"),
    (ClockStepped(12.34), WARNING, "this host's clock was stepped by 12.3 ms; latencies are measured afresh"),
    (ReporterElected(7, NODE, (NODE,)), INFO, f"{NODE} reports in epoch 7"),
    (ReporterTookOver(NODE, 2), INFO, f"standby 2, {NODE}, reports"),
    (ReportPublished(7, 1, NODE, bytes(32), 9), DEBUG, f"{NODE} published 9 rows"),
    (PeerSuspected(NODE), DEBUG, f"{NODE} is not heard any more"),
    (HealthChanged(102), INFO, "this node hears less than it should: health 102, where 0 is well"),
    (SelfReborn(4711), WARNING, "the group had given this node up; it is well again and starts run 4711"),
    (LatencyRose(NODE, 31.25, "probes"), INFO, f"latency from {NODE} rose by 31.2 ms"),
    (LatencyNormal(NODE, 5.0, "back"), INFO, f"latency from {NODE} is normal again"),
    (EquivocationSeen(NODE, b"1", b"2"), WARNING, f"{NODE} signed two different rows at one sequence number"),
    (LieFound(Kind.ECHO, NODE, 39.96), WARNING, f"{NODE} tells what cannot be (ECHO, by 40.0 ms)"),
    (PeerDistrusted(NODE, 1.5, ()), WARNING, f"{NODE} is not used as a relay: too much speaks against it"),
    (PeerQuarantined(NODE, (NODE,)), WARNING, f"{NODE} is in quarantine"),
    (PeerReleased(NODE), INFO, f"{NODE} is out of quarantine"),
]


@pytest.mark.parametrize(("event", "level", "text"), LINES, ids=lambda value: type(value).__name__ if attrs.has(type(value)) else "")
def test_an_event_makes_its_line(event: object, level: int, text: str) -> None:
    assert (level, text) == line_of(event)


def test_every_event_of_the_table_is_tried_here() -> None:
    assert {type(event) for event, _, _ in LINES} == set(log_lines._LINES)


@pytest.mark.parametrize(
    "event",
    [
        EchoMeasured(NODE, 1.0, 0.0),
        PeerClockMoved(NODE),
        AccusationDue(NODE),
        PeerHeardAgain(NODE),
        ReportDue(1, 2),
        EchoWanted(NODE, 5),
        PeerTrusted(NODE),
        PeerMisbehaved(NODE, None, "signature"),
        None,
        "text",
    ],
    ids=lambda event: type(event).__name__,
)
def test_other_events_make_none(event: object) -> None:
    assert line_of(event) is None


def test_a_line_names_a_node_so_that_it_can_be_told_from_others() -> None:
    line = line_of(PeerReleased(NODE))
    assert line is not None
    assert "{" not in line[1]
    assert line != line_of(PeerReleased(NodeId(b"\x01" * 32)))
