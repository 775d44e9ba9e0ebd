"""Where a packet goes: segment lists, path choice and its life cycle, relay and egress, data planes.

Start at `service.py`; what a data plane must do is in `forwarder.py`, how a path is chosen in `control.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from srwan.lazy import lazy_names

if TYPE_CHECKING:
    from srwan.routing.control import PathControl
    from srwan.routing.finder import PathCandidate, PathFinder
    from srwan.routing.flow import Flow, FlowEvent
    from srwan.routing.forwarder import Counters, Forwarder
    from srwan.routing.path import (
        DirectRestored,
        PathActivated,
        PathDegraded,
        PathDied,
        PathProbing,
        PathState,
        PathStatus,
        PathSwitched,
        PathVetoed,
    )
    from srwan.routing.payload import Payload, PayloadKind
    from srwan.routing.policy import PathMode, PathPolicy, Sla
    from srwan.routing.portable import PortableForwarder
    from srwan.routing.prices import Prices
    from srwan.routing.reception import PathStatistics
    from srwan.routing.service import RoutingService
    from srwan.routing.sid import Function, Sid
    from srwan.routing.srh import Srh

__all__ = [
    "Counters",
    "DirectRestored",
    "Flow",
    "FlowEvent",
    "Forwarder",
    "Function",
    "PathActivated",
    "PathCandidate",
    "PathControl",
    "PathDegraded",
    "PathDied",
    "PathFinder",
    "PathMode",
    "PathPolicy",
    "PathProbing",
    "PathState",
    "PathStatistics",
    "PathStatus",
    "PathSwitched",
    "PathVetoed",
    "Payload",
    "PayloadKind",
    "PortableForwarder",
    "Prices",
    "RoutingService",
    "Sid",
    "Sla",
    "Srh",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Counters": "forwarder",
        "DirectRestored": "path",
        "Flow": "flow",
        "FlowEvent": "flow",
        "Forwarder": "forwarder",
        "Function": "sid",
        "PathActivated": "path",
        "PathCandidate": "finder",
        "PathControl": "control",
        "PathDegraded": "path",
        "PathDied": "path",
        "PathFinder": "finder",
        "PathMode": "policy",
        "PathPolicy": "policy",
        "PathProbing": "path",
        "PathState": "path",
        "PathStatistics": "reception",
        "PathStatus": "path",
        "PathSwitched": "path",
        "PathVetoed": "path",
        "Payload": "payload",
        "PayloadKind": "payload",
        "PortableForwarder": "portable",
        "Prices": "prices",
        "RoutingService": "service",
        "Sid": "sid",
        "Sla": "policy",
        "Srh": "srh",
    },
)
